"""Matrix products: a micro-kernel that lives in registers, and the blocked product around it.

The micro-kernel `tile` computes a tile of ``TILE_ROWS`` x ``TILE_VECTORS`` registers of
``C += A @ B``, holding all of it in registers while it walks along the depth of the product. In
every step it loads one row of B (a few vectors) and multiplies it with one number of A for each
row of the tile, so each number loaded is used many times: the product is limited by arithmetic and
not by memory. (Goto & van de Geijn, Anatomy of High-Performance Matrix Multiplication, 2008.)

B is cut into panels as wide as a tile, the last one padded with zeros. A may have any strides, so
that the same kernel reads it by rows (pixels by channels) or by columns (for weight gradients). And
the depth may consist of several *runs*, each with its own place in A and B: the taps of a
convolution, for which A is an image as it stands and no matrix of patches is ever made.
"""

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from minidl.kernels import simd
from minidl.kernels.jit import DISABLED, inner, kernel

# A tile takes rows x vectors registers, a row of B `vectors`, and a broadcast one more.
TILE_ROWS, TILE_VECTORS = (8, 3) if simd.REGISTERS == 32 else (6, 2)
ROW_BLOCK = 12 * TILE_ROWS  # rows of A that are worked on together, small enough for the cache
# As arguments between kernels: a plain 0, 1 or False would have them compiled for that very value.
ZERO, ONE, NO = np.int64(0), np.int64(1), np.bool_(False)
ONE_RUN = np.zeros(1, np.int64)  # the places of a depth in one piece


def _emit_tile(rows: int, vectors: int, half: bool = False):
    """Make the micro-kernel for tiles of `rows` x `vectors` registers.

    With `half`, half a register more: right where that is all that the columns need.
    """

    @intrinsic
    def tile(
        typingctx, a, a_at, a_row, a_step, a_runs, b, b_at, b_step, b_runs, runs, run,
        start, start_at, start_row, c, c_at, c_row, filled, relu,
    ):  # fmt: skip
        """``C = start + A @ B`` for one tile, over a depth of `runs` runs of `run` steps.

        Of each row of C the first `filled` numbers are written.
        """

        def codegen(context, builder, signature, args):
            (
                a_, a_at_, a_row_, a_step_, a_runs_, b_, b_at_, b_step_, b_runs_, runs_, run_,
                start_, start_at_, start_row_, c_, c_at_, c_row_, filled_, relu_,
            ) = args  # fmt: skip
            register = simd.vector_ir(c.dtype)
            scalar, lanes, align = register.element, register.count, c.dtype.bitwidth // 8
            kinds = [register] * vectors + [ir.VectorType(scalar, lanes // 2)] * half
            index = a_at_.type

            def number(value):
                return ir.Constant(index, value)

            def vector_at(start, offset, kind):
                pointer = builder.gep(start, [offset])
                return builder.bitcast(pointer, kind.as_pointer())

            def loop(name, count):
                """Enter a block to be repeated `count` times; its counter and its way back."""
                origin = builder.block
                block = builder.append_basic_block(name)
                builder.branch(block)
                builder.position_at_end(block)
                counter = builder.phi(index)
                counter.add_incoming(number(0), origin)

                def leave():
                    following = builder.add(counter, number(1))
                    counter.add_incoming(following, builder.block)
                    done = builder.append_basic_block(name + ".done")
                    again = builder.icmp_signed("<", following, count)
                    origin = builder.block
                    builder.cbranch(again, block, done)
                    builder.position_at_end(done)
                    return origin

                return origin, counter, leave

            def carried(values, origin):
                sums = [builder.phi(value.type) for value in values]
                for total, value in zip(sums, values, strict=True):
                    total.add_incoming(value, origin)
                return sums

            def hidden(pointer):
                """The pointer, of which the optimiser does not know where it came from.

                It would keep one for each row of the tile, more than there are registers.
                """
                kind = ir.FunctionType(pointer.type, [pointer.type])
                return builder.asm(kind, "", "=r,0", [pointer], side_effect=False)

            def carry(sums, values, origin):
                for total, value in zip(sums, values, strict=True):
                    total.add_incoming(value, origin)

            def tile_of(array_type, array, at, row):
                first = simd.address(builder, context, array_type, array, at, scalar)
                lines = [builder.mul(number(i), row) for i in range(rows)]
                return [
                    vector_at(first, builder.add(line, number(v * lanes)), kind)
                    for line in lines
                    for v, kind in enumerate(kinds)
                ]

            a_start = simd.address(builder, context, a, a_, a_at_, scalar)
            b_start = simd.address(builder, context, b, b_, b_at_, scalar)
            a_rows = [builder.mul(number(i), a_row_) for i in range(rows)]
            before = [
                builder.load(pointer, align=align)
                for pointer in tile_of(start, start_, start_at_, start_row_)
            ]

            # A tile that is not deep is ready before its lines have come to be written: the lines
            # of the next one are asked for.
            below = builder.add(c_at_, builder.mul(number(rows), c_row_))
            for pointer in tile_of(c, c_, below, c_row_):
                simd.prefetch_ir(builder, pointer, write=True)

            origin, r, leave_run = loop("run", runs_)
            outer = carried(before, origin)
            a_jump = builder.load(simd.address(builder, context, a_runs, a_runs_, r, index))
            b_jump = builder.load(simd.address(builder, context, b_runs, b_runs_, r, index))
            a_run, b_run = builder.gep(a_start, [a_jump]), builder.gep(b_start, [b_jump])

            origin, _, leave_step = loop("step", run_)
            sums = carried(outer, origin)
            (a_k,), (b_k,) = carried([a_run], origin), carried([b_run], origin)
            b_row = [
                builder.load(vector_at(b_k, number(v * lanes), kind), align=align)
                for v, kind in enumerate(kinds)
            ]
            after = []
            for i in range(rows):
                element = builder.load(builder.gep(a_k, [a_rows[i]]))
                for v, kind in enumerate(kinds):
                    factor = simd.splat_ir(builder, element, kind)
                    total = sums[i * len(kinds) + v]
                    after.append(simd.fused_multiply_add(builder, factor, b_row[v], total))
            following = [hidden(builder.gep(a_k, [a_step_])), hidden(builder.gep(b_k, [b_step_]))]
            origin = leave_step()
            carry([a_k, b_k], following, origin)
            carry(sums, after, origin)
            carry(outer, after, leave_run())
            results = []
            for total in after:
                lowest = ir.Constant(total.type, [float("-inf")] * total.type.count)
                floor = builder.select(relu_, ir.Constant(total.type, None), lowest)
                below = builder.fcmp_ordered("<", total, floor)  # false for NaN, which stays
                results.append(builder.select(below, floor, total))
            targets = tile_of(c, c_, c_at_, c_row_)
            width = number(sum(kind.count for kind in kinds))
            with builder.if_else(builder.icmp_signed(">=", filled_, width)) as (whole, part):
                with whole:
                    for result, pointer in zip(results, targets, strict=True):
                        builder.store(result, pointer, align=align)
                with part:
                    masks = [
                        simd.mask_ir(builder, builder.sub(filled_, number(v * lanes)), kind.count)
                        for v, kind in enumerate(kinds)
                    ]
                    for result, pointer, mask in zip(results, targets, masks * rows, strict=True):
                        simd.store_masked_ir(builder, result, pointer, mask, align)
            return context.get_dummy_value()

        i8 = types.intp
        matrices = (a, i8, i8, i8, a_runs, b, i8, i8, b_runs, i8, i8)
        return types.void(*matrices, start, i8, i8, c, i8, i8, i8, types.boolean), codegen

    return tile


tile_1 = _emit_tile(TILE_ROWS, 1)
tile_2 = _emit_tile(TILE_ROWS, 2)
tile_3 = _emit_tile(TILE_ROWS, 3)
tile_half = _emit_tile(TILE_ROWS, 0, half=True)
tile_half_tall = _emit_tile(2 * TILE_ROWS, 0, half=True)  # eight sums would wait for each other
tile_1_half = _emit_tile(TILE_ROWS, 1, half=True)

if DISABLED:  # the micro-kernel on ndarrays

    def _tile(vectors, height=TILE_ROWS):
        @np.errstate(all="ignore")  # rows that fill up a tile are chance, and their sums not used
        def tile(
            a, a_at, a_row, a_step, a_runs, b, b_at, b_step, b_runs, runs, run,
            start, start_at, start_row, c, c_at, c_row, filled, relu,
        ):  # fmt: skip
            columns = np.arange(int(vectors * simd.lanes_of(c.dtype)))
            rows, steps = np.arange(height)[:, None], np.arange(run)
            total = start[start_at + rows * start_row + columns]
            for r in range(runs):
                left = a[a_at + a_runs[r] + rows * a_row + steps * a_step]
                right = b[b_at + b_runs[r] + steps[:, None] * b_step + columns]
                total = total + left @ right
            total = np.where(total < 0, 0, total) if relu else total
            c[c_at + rows * c_row + columns[:filled]] = total[:, :filled]

        return tile

    tile_1, tile_2, tile_3 = _tile(1), _tile(2), _tile(3)
    tile_half, tile_half_tall, tile_1_half = _tile(0.5), _tile(0.5, 2 * TILE_ROWS), _tile(1.5)


def vectors_for(columns: int, dtype: np.dtype) -> int:
    """Registers needed for `columns` numbers of `dtype`."""
    return -(-columns // simd.lanes_of(dtype))


def whole_tiles(rows: int) -> int:
    """`rows`, rounded up to whole tiles."""
    return -(-rows // TILE_ROWS) * TILE_ROWS


@kernel
def panels_of(vectors):
    """Number of panels that `vectors` registers are cut into."""
    return (vectors + TILE_VECTORS - 1) // TILE_VECTORS


@inner
def panel_start(panel, vectors):
    """First register of a panel. Panels are even: 4 = 2 + 2 keeps a tile busier than 3 + 1."""
    return panel * vectors // panels_of(vectors)


@inner
def panel_place(panel, features, unit):
    """First feature of a panel, and how many it has room for."""
    vectors = (features + unit - 1) // unit
    first = panel_start(panel, vectors) * unit
    return first, panel_start(panel + 1, vectors) * unit - first


@inner
def multiply_block(
    a, a_at, a_row, a_step, a_runs, b, b_at, b_step, b_runs, runs, run, width,
    start, start_at, start_row, c, c_at, c_row, filled, rows, relu,
):  # fmt: skip
    """``C = start + A @ B`` over a depth of `runs` times `run` steps, negative numbers 0 if `relu`.

    Step k of run r reads ``A[i] = a[a_at + a_runs[r] + i * a_row + k * a_step]`` and the `width`
    numbers at ``b[b_at + b_runs[r] + k * b_step]``; the width is half a register, one, one and a
    half, two or three. There is at least one step. Row i of the start is at
    ``start_at + i * start_row``: 0 for a row distance adds the same to all, and C itself as start
    adds to it. Of each row of C the first `filled` numbers are written.

    `rows` are rounded up to whole tiles: A and the start must be readable and C writable so far.
    """
    lanes = simd.lanes(c)
    for i in range(0, rows, TILE_ROWS):
        a_i, start_i, c_i = a_at + i * a_row, start_at + i * start_row, c_at + i * c_row
        if width == 3 * lanes:
            tile_3(
                a, a_i, a_row, a_step, a_runs, b, b_at, b_step, b_runs, runs, run,
                start, start_i, start_row, c, c_i, c_row, filled, relu,
            )  # fmt: skip
        elif width == 2 * lanes:
            tile_2(
                a, a_i, a_row, a_step, a_runs, b, b_at, b_step, b_runs, runs, run,
                start, start_i, start_row, c, c_i, c_row, filled, relu,
            )  # fmt: skip
        elif width == lanes + lanes // 2:
            tile_1_half(
                a, a_i, a_row, a_step, a_runs, b, b_at, b_step, b_runs, runs, run,
                start, start_i, start_row, c, c_i, c_row, filled, relu,
            )  # fmt: skip
        elif width == lanes:
            tile_1(
                a, a_i, a_row, a_step, a_runs, b, b_at, b_step, b_runs, runs, run,
                start, start_i, start_row, c, c_i, c_row, filled, relu,
            )  # fmt: skip
        elif i + TILE_ROWS < rows:  # two tiles at a time
            if i // TILE_ROWS % 2 == 0:
                tile_half_tall(
                    a, a_i, a_row, a_step, a_runs, b, b_at, b_step, b_runs, runs, run,
                    start, start_i, start_row, c, c_i, c_row, filled, relu,
                )  # fmt: skip
        elif i // TILE_ROWS % 2 == 0:  # the last one, if they are odd
            tile_half(
                a, a_i, a_row, a_step, a_runs, b, b_at, b_step, b_runs, runs, run,
                start, start_i, start_row, c, c_i, c_row, filled, relu,
            )  # fmt: skip


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
