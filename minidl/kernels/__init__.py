"""Kernels: arrays in, arrays out. The only room that imports Numba.

The rules of the room:

* a kernel takes plain C-contiguous ndarrays and numbers, checks nothing, and never sees a Tensor;
* its docstring says what it computes, what it needs and what it overwrites;
* it works on a range of tasks, ``kernel(start, stop, ...)``, each of which owns its part of the
  output. `parallel.run` hands the ranges to threads. How a sum is cut into parts follows from
  shapes alone, never from the number of threads: that is why results do not depend on it;
* the vector runs over channels, the last axis; no sum is reordered by the compiler.

From the bottom up: `jit` (how to compile), `spin` (how threads wait), `parallel` (how to run),
`memory` (where results lie), `simd` (a vector type), `gemm` (the register-tiled product), `slab`
(the part of an image that a block of a convolution needs), `winograd_tiles` (transforms), and on
these the operations. `conv` is the room to enter convolutions by; it hands over to `winograd`,
`strided`, `shallow`, `pointwise` and `depthwise` what they do better.

Submodules are imported on first use, because importing Numba takes longer than importing all of
minidl.
"""

import importlib
from types import ModuleType


def __getattr__(name: str) -> ModuleType:
    try:
        return importlib.import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":
            raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
