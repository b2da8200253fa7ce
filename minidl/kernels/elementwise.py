"""Functions of each element that are worth doing on several threads at once.

Arrays of any shape are taken flat; tasks are blocks of `BLOCK` elements.
"""

import math

import numpy as np

from minidl.kernels import memory, parallel
from minidl.kernels.exponential import exp, normal_below
from minidl.kernels.jit import DISABLED, kernel

BLOCK = 16384  # elements; input and output of a block fit into the first-level caches


@kernel
def _part(x, start, stop):
    """The elements of a range of tasks.

    Loops over them start at zero. Of one that starts elsewhere Numba does not know that its index
    is never negative, which would count from the end, and does not vectorise it.
    """
    return x[start * BLOCK : stop * BLOCK]


@kernel
def _add(start, stop, a, b, y):
    a, b, y = _part(a, start, stop), _part(b, start, stop), _part(y, start, stop)
    for i in range(y.size):
        y[i] = a[i] + b[i]


@kernel
def _relu(start, stop, x, y):
    x, y = _part(x, start, stop), _part(y, start, stop)
    for i in range(x.size):
        y[i] = 0 if x[i] < 0 else x[i]  # this way round NaN stays NaN


@kernel
def _relu_of_sum(start, stop, a, b, y):
    a, b, y = _part(a, start, stop), _part(b, start, stop), _part(y, start, stop)
    for i in range(y.size):
        total = a[i] + b[i]
        y[i] = 0 if total < 0 else total


@kernel
def _relu_grad(start, stop, y, gy, gx):
    y, gy, gx = _part(y, start, stop), _part(gy, start, stop), _part(gx, start, stop)
    for i in range(y.size):
        gx[i] = 0 if y[i] <= 0 else gy[i]


@kernel
def _leaky_relu(start, stop, slope, x, y):
    x, y = _part(x, start, stop), _part(y, start, stop)
    for i in range(x.size):
        y[i] = x[i] if x[i] > 0 else slope * x[i]


@kernel
def _leaky_relu_grad(start, stop, slope, x, gy, gx):
    x, gy, gx = _part(x, start, stop), _part(gy, start, stop), _part(gx, start, stop)
    for i in range(x.size):
        gx[i] = gy[i] if x[i] > 0 else slope * gy[i]


@kernel
def _gelu(start, stop, x, y):
    x, y = _part(x, start, stop), _part(y, start, stop)
    for i in range(x.size):
        y[i] = x[i] * normal_below(x[i])


@kernel
def _gelu_grad(start, stop, x, gy, gx):
    x, gy, gx = _part(x, start, stop), _part(gy, start, stop), _part(gx, start, stop)
    half, height = x.dtype.type(0.5), x.dtype.type(1 / math.sqrt(2 * math.pi))
    for i in range(x.size):
        density = height * exp(-half * x[i] * x[i])
        gx[i] = gy[i] * (normal_below(x[i]) + x[i] * density)


@kernel
def _random_bits(key, position):
    """53 bits that look random, from a position and a key (Steele, Lea, Flood, Fast Splittable
    Pseudorandom Number Generators, 2014: splitmix64, with the numbers it is known for).
    """
    bits = key + position * np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (bits ^ (bits >> np.uint64(31))) >> np.uint64(11)


if DISABLED:  # NumPy warns of an overflow that is meant
    _random_bits = np.errstate(over="ignore")(_random_bits)


@kernel
def _dropout(start, stop, key, threshold, scale, x, y):
    first = np.uint64(start * BLOCK)
    x, y = _part(x, start, stop), _part(y, start, stop)
    for i in range(x.size):
        y[i] = x[i] * scale if _random_bits(key, first + np.uint64(i)) >= threshold else 0


def _each(function, *arguments, work: float = 0.5) -> np.ndarray:
    """Run `function` over the elements of contiguous arrays, the last of which is written.

    arguments : numbers, passed on as they are, and arrays of one size
    work : nanoseconds an element takes
    """
    written = arguments[-1]
    flat = (x.reshape(-1) if isinstance(x, np.ndarray) else x for x in arguments)
    parallel.run(function, -(-written.size // BLOCK), written.size * work, *flat)
    return written


def add(a: np.ndarray, b: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """The sum of two arrays of one shape and dtype; written to `out`, which may be one of them."""
    return _each(_add, a, b, memory.empty_like(a) if out is None else out)


def relu(x: np.ndarray) -> np.ndarray:
    """max(x, 0); NaN stays NaN."""
    x = np.asarray(x, order="C")
    return _each(_relu, x, memory.empty_like(x))


def relu_of_sum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """max(a + b, 0), for two arrays of one shape and dtype."""
    a, b = np.asarray(a, order="C"), np.asarray(b, order="C")
    return _each(_relu_of_sum, a, b, memory.empty_like(a))


def relu_grad(y: np.ndarray, gy: np.ndarray) -> np.ndarray:
    """`gy` where the result `y` of `relu` is positive, else zero."""
    gy = np.asarray(gy, order="C")
    return _each(_relu_grad, y, gy, memory.empty_like(gy))


def leaky_relu(x: np.ndarray, slope: float) -> np.ndarray:
    """`x` where positive, else `slope` times `x`."""
    x = np.asarray(x, order="C")
    return _each(_leaky_relu, x.dtype.type(slope), x, memory.empty_like(x))


def leaky_relu_grad(x: np.ndarray, slope: float, gy: np.ndarray) -> np.ndarray:
    """`gy` where `x` is positive, else `slope` times `gy`."""
    x, gy = np.asarray(x, order="C"), np.asarray(gy, order="C")
    return _each(_leaky_relu_grad, x.dtype.type(slope), x, gy, memory.empty_like(gy))


def gelu(x: np.ndarray) -> np.ndarray:
    """`x` times the probability that a standard normal number is below `x`."""
    x = np.asarray(x, order="C")
    return _each(_gelu, x, memory.empty_like(x), work=1)


def gelu_grad(x: np.ndarray, gy: np.ndarray) -> np.ndarray:
    """`gy` times the derivative of `gelu` at `x`."""
    x, gy = np.asarray(x, order="C"), np.asarray(gy, order="C")
    return _each(_gelu_grad, x, gy, memory.empty_like(gy), work=2)


def dropout(x: np.ndarray, p: float, key: np.uint64) -> np.ndarray:
    """Zero for a share `p` of the elements, ``x / (1 - p)`` for the others.

    Which ones follows from `key` and their positions alone, so that the same call on a gradient
    drops the same, and nothing need be stored.
    """
    x = np.asarray(x, order="C")
    threshold = np.uint64(round(p * 2**53))
    scale = x.dtype.type(1 / (1 - p) if p < 1 else 0)
    return _each(_dropout, key, threshold, scale, x, memory.empty_like(x))
