"""Normalisation of each channel, and its gradient.

Two kinds of pass over memory: sums of each channel (`moments`, `gradient_sums`), and an affine map
of each channel (`normalise`, `input_grad`). Everything between is arithmetic on a few numbers a
channel, in float64, and done in NumPy.

Arrays are (..., C) and taken flat. Where there are few channels, a *line* is several pixels long,
so that vectors stay full; what is kept for each channel is repeated along the line.
"""

import numpy as np

from minidl.kernels import parallel
from minidl.kernels.jit import kernel

LINE = 64  # numbers in a line, at least
BLOCK = 32768  # numbers that one task goes over, at most or one line


@kernel
def _moments(start, stop, x, shift, block, sums):
    """Sums of ``x - shift`` and of its square, in float64. Tasks are blocks.

    x : flat; shift : (line,) float64; sums : (blocks, 2, line), overwritten.
    """
    line = shift.size
    for task in range(start, stop):
        total, square = sums[task, 0], sums[task, 1]
        total[:] = 0
        square[:] = 0
        end = min(x.size, (task + 1) * block)
        for i in range(task * block, end, line):
            part = x[i : min(i + line, end)]
            for j in range(part.size):
                distance = part[j] - shift[j]
                total[j] += distance
                square[j] += distance * distance


@kernel
def _gradient_sums(start, stop, x, gy, shift, block, sums):
    """Sums of gy, and of gy times ``x - shift``, in float64. As `_moments`."""
    line = shift.size
    for task in range(start, stop):
        total, product = sums[task, 0], sums[task, 1]
        total[:] = 0
        product[:] = 0
        end = min(x.size, (task + 1) * block)
        for i in range(task * block, end, line):
            part, gradient = x[i : min(i + line, end)], gy[i : min(i + line, end)]
            for j in range(part.size):
                total[j] += gradient[j]
                product[j] += gradient[j] * (part[j] - shift[j])


@kernel
def _normalise(start, stop, x, mean, scale, offset, block, y):
    """``y = (x - mean) * scale + offset``. Tasks are blocks."""
    line = mean.size
    for task in range(start, stop):
        end = min(x.size, (task + 1) * block)
        for i in range(task * block, end, line):
            part, out = x[i : min(i + line, end)], y[i : min(i + line, end)]
            for j in range(part.size):
                out[j] = (part[j] - mean[j]) * scale[j] + offset[j]


@kernel
def _input_grad(start, stop, x, gy, mean, slope, scale, offset, block, gx):
    """``gx = (x - mean) * slope + gy * scale + offset``. Tasks are blocks."""
    line = mean.size
    for task in range(start, stop):
        end = min(x.size, (task + 1) * block)
        for i in range(task * block, end, line):
            part, gradient = x[i : min(i + line, end)], gy[i : min(i + line, end)]
            out = gx[i : min(i + line, end)]
            for j in range(part.size):
                out[j] = (part[j] - mean[j]) * slope[j] + (gradient[j] * scale[j] + offset[j])


def _pixels_in_line(channels: int) -> int:
    return max(LINE // channels, 1)


def _blocks(size: int, line: int) -> tuple[int, int]:
    """Number of blocks, and numbers in one, a whole number of lines. Depends on shapes alone."""
    block = max(BLOCK // line, 1) * line
    return -(-size // block), block


def _sums(kernel, work: float, *arrays: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """(2, C) sums that `kernel` makes of `arrays`, added up in a fixed order."""
    pixels = _pixels_in_line(shift.size)
    blocks, block = _blocks(arrays[0].size, pixels * shift.size)
    sums = np.empty((blocks, 2, pixels * shift.size))
    flat = (array.reshape(-1) for array in arrays)
    parallel.run(kernel, blocks, arrays[0].size * work, *flat, np.tile(shift, pixels), block, sums)
    return sums.reshape(blocks, 2, pixels, shift.size).sum(axis=(0, 2))


def _affine(kernel, arrays: tuple[np.ndarray, ...], coefficients) -> np.ndarray:
    """The map that `kernel` makes of `arrays`, with these numbers for each channel."""
    x, pixels = arrays[0], _pixels_in_line(coefficients[0].size)
    blocks, block = _blocks(x.size, pixels * coefficients[0].size)
    out = np.empty_like(x)
    flat = (array.reshape(-1) for array in arrays)
    lines = (np.tile(numbers.astype(x.dtype), pixels) for numbers in coefficients)
    parallel.run(kernel, blocks, x.size, *flat, *lines, block, out.reshape(-1))
    return out


def moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and biased variance of each channel of (..., C), in float64.

    Distances are taken from the first pixel, so that the square of a large mean does not swallow
    the variance.
    """
    x = np.ascontiguousarray(x)
    count = x.size // x.shape[-1]
    shift = x.reshape(count, -1)[0].astype(np.float64)
    total, square = _sums(_moments, 0.5, x, shift=shift) / count
    return shift + total, np.maximum(square - total * total, 0)


def normalise(x, mean, scale, offset) -> np.ndarray:
    """``(x - mean) * scale + offset`` for each channel of x, (..., C); the others are (C,)."""
    return _affine(_normalise, (np.ascontiguousarray(x),), (mean, scale, offset))


def gradient_sums(x, gy, mean) -> tuple[np.ndarray, np.ndarray]:
    """Sum of gy, and of ``gy * (x - mean)``, over each channel, in float64."""
    arrays = np.ascontiguousarray(x), np.ascontiguousarray(gy)
    total, product = _sums(_gradient_sums, 0.7, *arrays, shift=np.asarray(mean, np.float64))
    return total, product


def input_grad(x, gy, mean, slope, scale, offset) -> np.ndarray:
    """``(x - mean) * slope + gy * scale + offset`` for each channel."""
    arrays = np.ascontiguousarray(x), np.ascontiguousarray(gy)
    return _affine(_input_grad, arrays, (mean, slope, scale, offset))
