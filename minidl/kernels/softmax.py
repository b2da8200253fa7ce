"""Softmax over the last axis and its logarithm, with their gradients.

Arrays are (rows, K); tasks are blocks of `ROWS` rows. Exponentials are taken of a block as a whole,
because rows may be much shorter than a vector.
"""

import math

import numpy as np

from minidl.kernels import memory, parallel
from minidl.kernels.exponential import exp
from minidl.kernels.jit import kernel

ROWS = 256


@kernel
def _softmax(start, stop, x, log, y):
    """Softmax of each row, or if `log` its logarithm."""
    size = x.shape[1]
    powers = np.empty(ROWS * size, x.dtype)
    for task in range(start, stop):
        block = x[task * ROWS : (task + 1) * ROWS]
        out = y[task * ROWS : (task + 1) * ROWS]
        for row in range(len(block)):
            highest = block[row, 0]
            for k in range(1, size):
                highest = max(highest, block[row, k])
            for k in range(size):
                out[row, k] = block[row, k] - highest
        flat = out.reshape(out.size)
        for i in range(flat.size):
            powers[i] = exp(flat[i])
        for row in range(len(block)):
            total = 0.0
            for k in range(size):
                total += powers[row * size + k]
            if log:
                shift = x.dtype.type(math.log(total))
                for k in range(size):
                    out[row, k] -= shift
            else:
                scale = x.dtype.type(1 / total)
                for k in range(size):
                    out[row, k] = powers[row * size + k] * scale


@kernel
def _softmax_grad(start, stop, y, gy, gx):
    """``gx = y * (gy - sum(gy * y))``."""
    for row in range(start * ROWS, min(stop * ROWS, len(y))):
        result, gradient, out = y[row], gy[row], gx[row]
        total = 0.0
        for k in range(y.shape[1]):
            total += gradient[k] * result[k]
        shift = y.dtype.type(total)
        for k in range(y.shape[1]):
            out[k] = result[k] * (gradient[k] - shift)


@kernel
def _log_softmax_grad(start, stop, y, gy, gx):
    """``gx = gy - exp(y) * sum(gy)``."""
    for task in range(start, stop):
        result, gradient = y[task * ROWS : (task + 1) * ROWS], gy[task * ROWS : (task + 1) * ROWS]
        block = gx[task * ROWS : (task + 1) * ROWS]
        flat, out = result.reshape(result.size), block.reshape(block.size)
        for i in range(flat.size):
            out[i] = exp(flat[i])
        for row in range(len(block)):
            total = 0.0
            for k in range(y.shape[1]):
                total += gradient[row, k]
            shift = y.dtype.type(total)
            for k in range(y.shape[1]):
                block[row, k] = gradient[row, k] - block[row, k] * shift


def _run(kernel, x: np.ndarray, *others) -> np.ndarray:
    """Run `kernel` on x and `others`, arrays taken as (rows, K), and return what it wrote."""
    out = memory.empty_like(x)
    rows = x.size // x.shape[-1]
    flat = (
        np.ascontiguousarray(a).reshape(rows, -1) if isinstance(a, np.ndarray) else a
        for a in (x, *others, out)
    )  # fmt: skip
    parallel.run(kernel, -(-rows // ROWS), x.size * 2, *flat)
    return out


def softmax(x: np.ndarray, log: bool) -> np.ndarray:
    """Softmax over the last axis of (..., K), or if `log` its logarithm."""
    return _run(_softmax, np.asarray(x, order="C"), log)


def softmax_grad(y: np.ndarray, gy: np.ndarray, log: bool) -> np.ndarray:
    """Gradient of the input of `softmax`, from its result y."""
    return _run(_log_softmax_grad if log else _softmax_grad, np.asarray(y, order="C"), gy)
