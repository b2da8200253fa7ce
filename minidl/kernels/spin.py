"""Waiting without going to sleep, for what will happen in a moment.

To wake a sleeping thread takes 20 to 50 microseconds, at the beginning of a kernel and again at its
end, and a training step runs hundreds of them. Here a thread looks at a number in memory instead,
without Python's lock, and gives up soon.
"""

from llvmlite import binding as llvm
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from minidl.kernels.jit import DISABLED, kernel

# A turn takes 10 to 40 nanoseconds. Without a compiler turns would keep Python's lock: none then.
TURNS = 0 if DISABLED else 5000


@intrinsic
def read(typingctx, array):
    """``array[0]`` as other threads have left it."""

    def codegen(context, builder, signature, args):
        pointer = context.make_array(array)(context, builder, args[0]).data
        return builder.load_atomic(pointer, "acquire", array.dtype.bitwidth // 8)

    return array.dtype(array), codegen


@intrinsic
def write(typingctx, array, value):
    """``array[0] = value``, after everything that was written before."""

    def codegen(context, builder, signature, args):
        pointer = context.make_array(array)(context, builder, args[0]).data
        builder.store_atomic(args[1], pointer, "release", array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, array.dtype), codegen


@intrinsic
def pause(typingctx):
    """Tell the processor that this is a loop of waiting, where there is a word for it."""

    def codegen(context, builder, signature, args):
        if llvm.get_process_triple().startswith("x86_64"):
            nothing = ir.FunctionType(ir.VoidType(), [])
            function = cgutils.get_or_insert_function(
                builder.module, nothing, "llvm.x86.sse2.pause"
            )
            builder.call(function, [])
        return context.get_dummy_value()

    return types.void(), codegen


@kernel
def wait_while(flag, value, turns):
    """Return when ``flag[0]`` is another number than `value`, or after so many turns."""
    for _ in range(turns):
        if read(flag) != value:
            return
        pause()


@kernel
def tell_and_wait(told, ended, flag, value, turns):
    """Write ``told[0] = 1`` if something has `ended`, then `wait_while`.

    In one go, so that who is told finds Python's lock free.
    """
    if ended:
        write(told, 1)
    wait_while(flag, value, turns)


if DISABLED:

    def tell_and_wait(told, ended, flag, value, turns):
        """There is no waiting without the lock."""

    def wait_while(flag, value, turns):
        """Neither here."""
