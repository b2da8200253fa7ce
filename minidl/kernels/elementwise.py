"""Functions of each element that are worth doing on several threads at once.

Arrays of any shape are taken flat; tasks are blocks of `BLOCK` elements.
"""

import numpy as np

from minidl.kernels import parallel
from minidl.kernels.jit import kernel

BLOCK = 16384  # elements; input and output of a block fit into the first-level caches


@kernel
def _relu(start, stop, x, y):
    for i in range(start * BLOCK, min(stop * BLOCK, x.size)):
        y[i] = x[i] if not x[i] < 0 else 0  # this way round NaN stays NaN


@kernel
def _relu_grad(start, stop, y, gy, gx):
    for i in range(start * BLOCK, min(stop * BLOCK, y.size)):
        gx[i] = 0 if y[i] <= 0 else gy[i]


def _each(function, *arrays: np.ndarray) -> np.ndarray:
    """Run `function` over the elements of contiguous `arrays`, the last of which is written."""
    size = arrays[0].size
    flat = (array.reshape(-1) for array in arrays)
    parallel.run(function, -(-size // BLOCK), size / 2, *flat)
    return arrays[-1]


def relu(x: np.ndarray) -> np.ndarray:
    """max(x, 0); NaN stays NaN."""
    x = np.ascontiguousarray(x)
    return _each(_relu, x, np.empty_like(x))


def relu_grad(y: np.ndarray, gy: np.ndarray) -> np.ndarray:
    """`gy` where the result `y` of `relu` is positive, else zero."""
    gy = np.ascontiguousarray(gy)
    return _each(_relu_grad, y, gy, np.empty_like(gy))
