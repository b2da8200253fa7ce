"""A vector type for Numba, as wide as the registers of the host.

Loops that Numba vectorises by itself are left to it. Where the shape of the registers matters, a
kernel says so with these functions, and still reads like arithmetic::

    total = simd.load(x, i) * simd.splat(weight) + simd.load(y, i)
    simd.store(y, i, total)

Arrays are flat, positions count elements, and nothing checks bounds. With ``NUMBA_DISABLE_JIT=1``
a vector is a small ndarray and the same kernels run as plain Python.
"""

import operator

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba.core import cgutils, config, types
from numba.extending import intrinsic, models, overload, register_model

from minidl.kernels.jit import DISABLED, kernel


def _host_features() -> set[str]:
    """What the code generator may use: ``NUMBA_CPU_FEATURES`` where set, else the host's own."""
    if config.CPU_FEATURES is not None:
        return {name[1:] for name in config.CPU_FEATURES.split(",") if name.startswith("+")}
    return {name for name, present in llvm.get_host_cpu_features().items() if present}


FEATURES = _host_features()
REGISTER_BYTES = 64 if "avx512f" in FEATURES else 32 if "avx" in FEATURES else 16
REGISTERS = 32 if "avx512f" in FEATURES or "neon" in FEATURES else 16
FLOAT32_LANES = REGISTER_BYTES // 4
LINE_BYTES = 64  # of a cache
# Where there is no fused multiply-add, asking for one calls a library function for each lane.
HAS_FMA = bool(FEATURES & {"fma", "avx512f", "neon"})


class Vector(types.Type):
    """Numba type of one register full of `dtype`."""

    def __init__(self, dtype: types.Float) -> None:
        self.dtype = dtype
        self.lanes = REGISTER_BYTES * 8 // dtype.bitwidth
        super().__init__(name=f"Vector({dtype} x {self.lanes})")


def vector_ir(dtype: types.Float) -> ir.VectorType:
    """LLVM's type for a register full of `dtype`."""
    element = ir.FloatType() if dtype == types.float32 else ir.DoubleType()
    return ir.VectorType(element, Vector(dtype).lanes)


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, vector_ir(fe_type.dtype))


def address(builder, context, array_type, array, position, to):
    """Pointer to ``array[position]`` as a pointer to the LLVM type `to`."""
    struct = context.make_array(array_type)(context, builder, array)
    return builder.bitcast(builder.gep(struct.data, [position]), to.as_pointer())


def fused_multiply_add(builder, a, b, c):
    """Emit ``a * b + c``, fused where the host can."""
    name = "fma" if HAS_FMA else "fmuladd"
    kind = a.type
    function = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(kind, [kind] * 3),
        f"llvm.{name}.v{kind.count}f{32 if isinstance(kind.element, ir.FloatType) else 64}",
    )
    return builder.call(function, [a, b, c])


def splat_ir(builder, scalar, kind):
    """Emit a vector of type `kind` with `scalar` in every lane."""
    undefined = ir.Constant(kind, ir.Undefined)
    one = builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), kind.count), [0] * kind.count)
    return builder.shuffle_vector(one, undefined, lanes)


@intrinsic
def lanes(typingctx, array):
    """Number of elements of `array` in a register, known when the kernel is compiled."""

    def codegen(context, builder, signature, args):
        return context.get_constant(types.intp, Vector(array.dtype).lanes)

    return types.intp(array), codegen


@intrinsic
def load(typingctx, array, position):
    """The vector at ``array[position : position + lanes]``."""

    def codegen(context, builder, signature, args):
        kind = vector_ir(array.dtype)
        pointer = address(builder, context, array, *args, kind)
        return builder.load(pointer, align=array.dtype.bitwidth // 8)

    return Vector(array.dtype)(array, types.intp), codegen


@intrinsic
def store(typingctx, array, position, vector):
    """Write `vector` to ``array[position : position + lanes]``."""

    def codegen(context, builder, signature, args):
        pointer = address(builder, context, array, *args[:2], vector_ir(array.dtype))
        builder.store(args[2], pointer, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), codegen


def mask_ir(builder, count, lanes):
    """Emit the mask of the first `count` lanes, of none if that is not positive."""
    index = ir.VectorType(count.type, lanes)
    numbers = ir.Constant(index, list(range(lanes)))
    return builder.icmp_signed("<", numbers, splat_ir(builder, count, index))


def _masked(builder, action, kind, result, arguments):
    """Call LLVM's masked load or store of vectors of type `kind`."""
    width = 32 if isinstance(kind.element, ir.FloatType) else 64
    name = f"llvm.masked.{action}.v{kind.count}f{width}.p0v{kind.count}f{width}"
    signature = ir.FunctionType(result, [value.type for value in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), arguments)


@intrinsic
def load_some(typingctx, array, position, count):
    """The first `count` lanes from ``array[position:]``, zero in the others; reads no further."""

    def codegen(context, builder, signature, args):
        array_, position_, count_ = args
        kind = vector_ir(array.dtype)
        pointer = address(builder, context, array, array_, position_, kind)
        align = ir.Constant(ir.IntType(32), array.dtype.bitwidth // 8)
        mask = mask_ir(builder, count_, kind.count)
        zeros = ir.Constant(kind, None)
        return _masked(builder, "load", kind, kind, [pointer, align, mask, zeros])

    return Vector(array.dtype)(array, types.intp, types.intp), codegen


def store_masked_ir(builder, vector, pointer, mask, align):
    """Emit a store of the lanes of `mask`."""
    align = ir.Constant(ir.IntType(32), align)
    _masked(builder, "store", vector.type, ir.VoidType(), [vector, pointer, align, mask])


@intrinsic
def store_some(typingctx, array, position, vector, count):
    """Write the first `count` lanes to ``array[position:]`` and nothing further."""

    def codegen(context, builder, signature, args):
        array_, position_, vector_, count_ = args
        pointer = address(builder, context, array, array_, position_, vector_.type)
        mask = mask_ir(builder, count_, vector_.type.count)
        store_masked_ir(builder, vector_, pointer, mask, array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector, types.intp), codegen


def prefetch_ir(builder, pointer, write):
    """Emit a request for the cache line at `pointer`, to read it soon, or to write it."""
    byte = builder.bitcast(pointer, ir.IntType(8).as_pointer())
    flags = [ir.Constant(ir.IntType(32), value) for value in (int(write), 3, 1)]  # keep, data
    kind = ir.FunctionType(ir.VoidType(), [value.type for value in (byte, *flags)])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
    builder.call(function, [byte, *flags])


def _prefetch(write):
    @intrinsic
    def prefetch(typingctx, array, position):
        def codegen(context, builder, signature, args):
            prefetch_ir(builder, address(builder, context, array, *args, ir.IntType(8)), write)
            return context.get_dummy_value()

        return types.void(array, types.intp), codegen

    return prefetch


prefetch = _prefetch(write=False)  # ask for the cache line of ``array[position]``, to be read soon
prefetch_write = _prefetch(write=True)  # the same for one to be written: it is then ours alone


@intrinsic
def transpose(typingctx, source, at, row, out, to, out_row):
    """``out[j, i] = source[i, j]`` for a square of as many rows and columns as there are lanes.

    In every stage pairs of vectors swap halves, then quarters, and so on: log2(lanes) shuffles for
    each vector.
    """

    def codegen(context, builder, signature, args):
        source_, at_, row_, out_, to_, out_row_ = args
        kind, align = vector_ir(source.dtype), source.dtype.bitwidth // 8
        lanes = kind.count

        def line(array_type, array, start, step, number):
            offset = builder.mul(step, ir.Constant(step.type, number))
            return address(builder, context, array_type, array, builder.add(start, offset), kind)

        def shuffle(a, b, indices):
            mask = ir.Constant(ir.VectorType(ir.IntType(32), lanes), indices)
            return builder.shuffle_vector(a, b, mask)

        rows = [
            builder.load(line(source, source_, at_, row_, i), align=align) for i in range(lanes)
        ]
        step = 1
        while step < lanes:
            low = [j if not j & step else lanes + j - step for j in range(lanes)]
            high = [j + step if not j & step else lanes + j for j in range(lanes)]
            for i in range(lanes):
                if not i & step:
                    a, b = rows[i], rows[i + step]
                    rows[i], rows[i + step] = shuffle(a, b, low), shuffle(a, b, high)
            step *= 2
        for i in range(lanes):
            builder.store(rows[i], line(out, out_, to_, out_row_, i), align=align)
        return context.get_dummy_value()

    index = types.intp
    return types.void(source, index, index, out, index, index), codegen


@intrinsic
def splat(typingctx, scalar):
    """The vector with `scalar` in every lane."""

    def codegen(context, builder, signature, args):
        return splat_ir(builder, args[0], vector_ir(scalar))

    return Vector(scalar)(scalar), codegen


@intrinsic
def spread(typingctx, array, position):
    """The vector with ``array[position]`` in every lane; `position` is not negative."""

    def codegen(context, builder, signature, args):
        kind = vector_ir(array.dtype)
        number = builder.load(address(builder, context, array, *args, kind.element))
        return splat_ir(builder, number, kind)

    return Vector(array.dtype)(array, types.intp), codegen


@intrinsic
def fma(typingctx, a, b, c):
    """``a * b + c``, rounded once where the host has the instruction."""

    def codegen(context, builder, signature, args):
        return fused_multiply_add(builder, *args)

    return a(a, b, c), codegen


@intrinsic
def maximum(typingctx, a, b):
    """The larger of two vectors, lane by lane; `b` where they cannot be compared."""

    def codegen(context, builder, signature, args):
        return builder.select(builder.fcmp_ordered(">", *args), *args)

    return a(a, b), codegen


@intrinsic
def gate(typingctx, vector, sign):
    """The lanes of `vector`, but zero where `sign` is zero or below; NaN is neither."""

    def codegen(context, builder, signature, args):
        value, by = args
        zeros = ir.Constant(value.type, None)
        return builder.select(builder.fcmp_unordered(">", by, zeros), value, zeros)

    return vector(vector, vector), codegen


@intrinsic
def sqrt(typingctx, vector):
    """The square root of every lane."""

    def codegen(context, builder, signature, args):
        kind = args[0].type
        width = 32 if isinstance(kind.element, ir.FloatType) else 64
        root = ir.FunctionType(kind, [kind])
        name = f"llvm.sqrt.v{kind.count}f{width}"
        return builder.call(cgutils.get_or_insert_function(builder.module, root, name), args)

    return vector(vector), codegen


@intrinsic
def splat_like(typingctx, scalar, vector):
    """The vector with `scalar`, rounded to the dtype of `vector`, in every lane."""

    def codegen(context, builder, signature, args):
        number = context.cast(builder, args[0], scalar, vector.dtype)
        return splat_ir(builder, number, vector_ir(vector.dtype))

    return vector(scalar, vector), codegen


def _arithmetic(emit, *symbols):
    """Let Numba's operators `symbols` work on two vectors, or on a number and a vector."""

    @intrinsic
    def compute(typingctx, a, b):
        def codegen(context, builder, signature, args):
            return getattr(builder, emit)(*args, flags=("contract",))

        return a(a, b), codegen

    def of_vectors(a, b):
        if isinstance(a, Vector) and a == b:
            return lambda a, b: compute(a, b)
        if isinstance(a, types.Number) and isinstance(b, Vector):
            return lambda a, b: compute(splat_like(a, b), b)
        return None

    for symbol in symbols:
        overload(symbol)(of_vectors)


_arithmetic("fadd", operator.add, operator.iadd)
_arithmetic("fsub", operator.sub, operator.isub)
_arithmetic("fmul", operator.mul, operator.imul)
_arithmetic("fdiv", operator.truediv, operator.itruediv)


def lanes_of(dtype: np.dtype) -> int:
    """Number of elements of `dtype` in a register."""
    return REGISTER_BYTES // np.dtype(dtype).itemsize


@kernel
def room(count, like):
    """Room for `count` numbers of the dtype of `like`, from the beginning of a cache line on.

    A register is as wide as a line, and one that is stored across two cannot be loaded again
    before it has left the store queue.
    """
    whole = np.empty(count + LINE_BYTES // like.itemsize, like.dtype)
    skip = -whole.ctypes.data % LINE_BYTES // like.itemsize
    return whole[skip : skip + count]


if DISABLED:  # the same functions on small ndarrays

    def lanes(array):
        return lanes_of(array.dtype)

    def load(array, position):
        return array[position : position + lanes_of(array.dtype)].copy()

    def store(array, position, vector):
        array[position : position + len(vector)] = vector

    def load_some(array, position, count):
        vector = np.zeros(lanes_of(array.dtype), array.dtype)
        part = array[position : position + min(count, len(vector))]
        vector[: len(part)] = part
        return vector

    def store_some(array, position, vector, count):
        count = min(count, len(vector))
        array[position : position + count] = vector[:count]

    def prefetch(array, position):
        pass

    prefetch_write = prefetch

    def transpose(source, at, row, out, to, out_row):
        numbers = np.arange(lanes_of(source.dtype))
        square = source[at + row * numbers[:, None] + numbers]
        out[to + out_row * numbers[:, None] + numbers] = square.T

    def splat(scalar):
        return np.full(lanes_of(np.asarray(scalar).dtype), scalar)

    def spread(array, position):
        return splat(array[position])

    def fma(a, b, c):
        return a * b + c

    sqrt = np.sqrt

    def gate(vector, sign):
        return np.where(sign <= 0, vector.dtype.type(0), vector)

    def maximum(a, b):
        return np.where(a > b, a, b)
