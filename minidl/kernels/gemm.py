"""Matrix products: a micro-kernel that lives in registers, and the blocked product around it.

The micro-kernel `tile` computes a tile of ``TILE_ROWS`` x ``TILE_VECTORS`` registers of
``C += A @ B``, holding all of it in registers while it walks along the depth of the product. In
every step it loads one row of B (a few vectors) and multiplies it with one number of A for each
row of the tile, so each number loaded is used many times: the product is limited by arithmetic and
not by memory. (Goto & van de Geijn, Anatomy of High-Performance Matrix Multiplication, 2008.)

B is packed: cut into panels as wide as a tile, each panel contiguous along the depth, the last one
padded with zeros. A may have any strides, so that the same kernel reads it by rows (pixels by
channels) or by columns (for weight gradients).
"""

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from minidl.kernels import simd
from minidl.kernels.jit import DISABLED, kernel

# A tile takes rows x vectors registers, a row of B `vectors`, and a broadcast one more.
TILE_ROWS, TILE_VECTORS = (8, 3) if simd.REGISTERS == 32 else (6, 2)
ROW_BLOCK = 12 * TILE_ROWS  # rows of A that are worked on together, small enough for the cache
# As arguments between kernels: a plain 0 or 1 would have them compiled for that very value.
ZERO, ONE = np.int64(0), np.int64(1)
DEPTH_BLOCK = 640  # steps of depth between two visits to C


def _emit_tile(rows: int, vectors: int):
    """Make the micro-kernel for tiles of `rows` x `vectors` registers."""

    @intrinsic
    def tile(typingctx, a, a_at, a_row, a_step, b, b_at, b_step, c, c_at, c_row, depth, add):
        """``C (+)= A @ B`` for one tile; every matrix is a flat array, a position, and strides."""

        def codegen(context, builder, signature, args):
            a_, a_at_, a_row_, a_step_, b_, b_at_, b_step_, c_, c_at_, c_row_, depth_, add_ = args
            kind = simd.vector_ir(c.dtype)
            scalar, align = kind.element, c.dtype.bitwidth // 8
            index = a_at_.type

            def number(value):
                return ir.Constant(index, value)

            a_start = simd.address(builder, context, a, a_, a_at_, scalar)
            b_start = simd.address(builder, context, b, b_, b_at_, scalar)
            c_start = simd.address(builder, context, c, c_, c_at_, scalar)
            c_vectors = [
                builder.bitcast(
                    builder.gep(
                        c_start,
                        [builder.add(builder.mul(number(i), c_row_), number(v * kind.count))],
                    ),
                    kind.as_pointer(),
                )
                for i in range(rows)
                for v in range(vectors)
            ]
            zeros = ir.Constant(kind, None)
            before = [
                builder.select(add_, builder.load(pointer, align=align), zeros)
                for pointer in c_vectors
            ]

            entry = builder.block
            loop = builder.append_basic_block("depth")
            done = builder.append_basic_block("done")
            builder.branch(loop)
            builder.position_at_end(loop)
            k = builder.phi(index)
            sums = [builder.phi(kind) for _ in before]
            a_k = builder.gep(a_start, [builder.mul(k, a_step_)])
            b_k = builder.gep(b_start, [builder.mul(k, b_step_)])
            b_row = [
                builder.load(
                    builder.bitcast(builder.gep(b_k, [number(v * kind.count)]), kind.as_pointer()),
                    align=align,
                )
                for v in range(vectors)
            ]
            after = []
            for i in range(rows):
                element = builder.load(builder.gep(a_k, [builder.mul(number(i), a_row_)]))
                factor = simd.splat_ir(builder, element, kind)
                for v in range(vectors):
                    after.append(
                        simd.fused_multiply_add(builder, factor, b_row[v], sums[i * vectors + v])
                    )
            following = builder.add(k, number(1))
            k.add_incoming(number(0), entry)
            k.add_incoming(following, loop)
            for total, start, end in zip(sums, before, after, strict=True):
                total.add_incoming(start, entry)
                total.add_incoming(end, loop)
            builder.cbranch(builder.icmp_signed("<", following, depth_), loop, done)
            builder.position_at_end(done)
            for total, pointer in zip(after, c_vectors, strict=True):
                builder.store(total, pointer, align=align)
            return context.get_dummy_value()

        i8 = types.intp
        return types.void(a, i8, i8, i8, b, i8, i8, c, i8, i8, i8, types.boolean), codegen

    return tile


tile_1 = _emit_tile(TILE_ROWS, 1)
tile_2 = _emit_tile(TILE_ROWS, 2)
tile_3 = _emit_tile(TILE_ROWS, 3)

if DISABLED:  # the micro-kernel on ndarrays

    def _tile(vectors):
        def tile(a, a_at, a_row, a_step, b, b_at, b_step, c, c_at, c_row, depth, add):
            columns = np.arange(vectors * simd.lanes_of(c.dtype))
            rows, steps = np.arange(TILE_ROWS)[:, None], np.arange(depth)
            left = a[a_at + rows * a_row + steps * a_step]
            right = b[b_at + steps[:, None] * b_step + columns]
            before = c[c_at + rows * c_row + columns] if add else 0
            c[c_at + rows * c_row + columns] = before + left @ right

        return tile

    tile_1, tile_2, tile_3 = _tile(1), _tile(2), _tile(3)


def vectors_for(columns: int, dtype: np.dtype) -> int:
    """Registers needed for `columns` numbers of `dtype`."""
    return -(-columns // simd.lanes_of(dtype))


@kernel
def panels_of(vectors):
    """Number of panels that `vectors` registers are cut into."""
    return (vectors + TILE_VECTORS - 1) // TILE_VECTORS


@kernel
def panel_start(panel, vectors):
    """First register of a panel. Panels are even: 4 = 2 + 2 keeps a tile busier than 3 + 1."""
    return panel * vectors // panels_of(vectors)


@kernel
def multiply_block(
    a, a_at, a_row, a_step, b, b_at, b_step, vectors, c, c_at, c_row, rows, depth, add
):
    """``C = A @ B``, or ``C += A @ B`` where `add`, `vectors` <= 3 registers wide.

    `rows` are rounded up to whole tiles: A must be readable and C writable so far.
    """
    for i in range(0, rows, TILE_ROWS):
        a_i, c_i = a_at + i * a_row, c_at + i * c_row
        if vectors == 3:
            tile_3(a, a_i, a_row, a_step, b, b_at, b_step, c, c_i, c_row, depth, add)
        elif vectors == 2:
            tile_2(a, a_i, a_row, a_step, b, b_at, b_step, c, c_i, c_row, depth, add)
        else:
            tile_1(a, a_i, a_row, a_step, b, b_at, b_step, c, c_i, c_row, depth, add)


@kernel
def transpose(source, at, row, rows, columns, out, to, out_row):
    """``out[j, i] = source[i, j]`` for `rows` x `columns` of a flat array, in squares."""
    lanes = simd.lanes(out)
    for i in range(0, rows, lanes):
        for j in range(0, columns, lanes):
            if i + lanes <= rows and j + lanes <= columns:
                simd.transpose(source, at + i * row + j, row, out, to + j * out_row + i, out_row)
            else:
                for r in range(i, min(i + lanes, rows)):
                    for c in range(j, min(j + lanes, columns)):
                        out[to + c * out_row + r] = source[at + r * row + c]
