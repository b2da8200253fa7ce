"""Normalisation of each channel, and its gradient.

Two kinds of pass over memory: sums of each channel (`moments`, `gradient_sums`), and an affine map
of each channel (`normalise`, `input_grad`). Everything between is arithmetic on a few numbers a
channel, in float64, and done in NumPy.

A ReLU that follows costs no pass of its own: `normalise` cuts off what is negative, and the
gradient passes compute the sign again, which takes less time than reading the result.

Arrays are (..., C) and taken flat. Where there are few channels, a *line* is several pixels long,
so that vectors stay full; what is kept for each channel is repeated along the line.
"""

import numpy as np

from minidl.kernels import memory, parallel, simd
from minidl.kernels.jit import inner, kernel

LINE = 64  # numbers in a line, at least
BLOCK = 32768  # numbers that one task goes over, at most or one line
RUN = 32  # lines that are summed in the dtype of x, before a float64 takes their sum


@inner
def _load_four(x, at, some):
    """Four vectors in a row, of which the first `some` numbers count; zero in the others."""
    lanes = simd.lanes(x)
    return (
        simd.load_some(x, at, some),
        simd.load_some(x, at + lanes, some - lanes),
        simd.load_some(x, at + 2 * lanes, some - 2 * lanes),
        simd.load_some(x, at + 3 * lanes, some - 3 * lanes),
    )


@kernel
def _moments(start, stop, x, shift, block, sums):
    """Sums of ``x - shift`` and of its square, in float64. Tasks are blocks.

    x : flat; shift : (line,); sums : (blocks, 2, line), overwritten.
    """
    line, lanes = shift.size, simd.lanes(x)
    zero = simd.splat(x.dtype.type(0))
    few = simd.room(4 * lanes, x)
    for task in range(start, stop):
        sums[task] = 0
        end = min(x.size, (task + 1) * block)
        whole = end - (end - task * block) % line
        for first in range(task * block, whole, RUN * line):
            last = min(first + RUN * line, whole)
            for j in range(0, line, 4 * lanes):
                middle = _load_four(shift, j, line - j)
                total, square = (zero, zero, zero, zero), (zero, zero, zero, zero)
                for i in range(first + j, last, line):
                    row = _minus(_load_four(x, i, line - j), middle)
                    total, square = _plus(total, row), _plus_product(square, row, row)
                _add_to(sums[task, 0], j, total, few)
                _add_to(sums[task, 1], j, square, few)
        for j in range(end - whole):
            distance = x[whole + j] - shift[j]
            sums[task, 0, j] += distance
            sums[task, 1, j] += distance * distance


@inner
def _plus(a, b):
    """The sums of two times four vectors."""
    return a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]


@inner
def _minus(a, b):
    """Their differences."""
    return a[0] - b[0], a[1] - b[1], a[2] - b[2], a[3] - b[3]


@inner
def _plus_product(sum, a, b):
    """The first, plus the product of the others."""
    return (
        simd.fma(a[0], b[0], sum[0]), simd.fma(a[1], b[1], sum[1]),
        simd.fma(a[2], b[2], sum[2]), simd.fma(a[3], b[3], sum[3]),
    )  # fmt: skip


@inner
def _gate(a, sign):
    """The first, where the second is not 0 or less, else 0."""
    return (
        simd.gate(a[0], sign[0]), simd.gate(a[1], sign[1]),
        simd.gate(a[2], sign[2]), simd.gate(a[3], sign[3]),
    )  # fmt: skip


@inner
def _add_to(sums, at, four, few):
    """Add four vectors to ``sums[at:]``, as far as it goes. few : room for them, overwritten."""
    lanes = simd.lanes(few)
    for k in range(4):
        simd.store(few, k * lanes, four[k])
    for j in range(min(4 * lanes, sums.size - at)):
        sums[at + j] += few[j]


@kernel
def _map(x, mean, scale, offset):
    """The normalised x. Written once, so that its sign is the same wherever it is computed."""
    return (x - mean) * scale + offset


@kernel
def _normalise(start, stop, x, mean, scale, offset, rectify, block, y):
    """``y = (x - mean) * scale + offset``, and if `rectify` at least 0. Tasks are blocks."""
    line = mean.size
    for task in range(start, stop):
        end = min(x.size, (task + 1) * block)
        for i in range(task * block, end, line):
            part, out = x[i : min(i + line, end)], y[i : min(i + line, end)]
            for j in range(part.size):
                value = _map(part[j], mean[j], scale[j], offset[j])
                out[j] = 0 if rectify and value < 0 else value  # this way round NaN stays NaN


@kernel
def _gradient_sums(start, stop, x, gy, mean, scale, offset, rectified, block, sums):
    """Sums of gy, and of gy times ``x - mean``, in float64. As `_moments`.

    If `rectified`, gy counts as zero where `_normalise` gave 0.
    """
    line, lanes = mean.size, simd.lanes(x)
    zero = simd.splat(x.dtype.type(0))
    few = simd.room(4 * lanes, x)
    for task in range(start, stop):
        sums[task] = 0
        end = min(x.size, (task + 1) * block)
        whole = end - (end - task * block) % line
        for first in range(task * block, whole, RUN * line):
            last = min(first + RUN * line, whole)
            for j in range(0, line, 4 * lanes):
                some = line - j
                middle, height = _load_four(mean, j, some), _load_four(offset, j, some)
                slope = _load_four(scale, j, some)
                total, product = (zero, zero, zero, zero), (zero, zero, zero, zero)
                for i in range(first + j, last, line):
                    row = _minus(_load_four(x, i, some), middle)
                    kept = _load_four(gy, i, some)
                    if rectified:
                        kept = _gate(kept, _plus_product(height, row, slope))
                    total, product = _plus(total, kept), _plus_product(product, kept, row)
                _add_to(sums[task, 0], j, total, few)
                _add_to(sums[task, 1], j, product, few)
        for j in range(end - whole):
            off = rectified and _map(x[whole + j], mean[j], scale[j], offset[j]) <= 0
            kept = 0 if off else gy[whole + j]
            sums[task, 0, j] += kept
            sums[task, 1, j] += kept * (x[whole + j] - mean[j])


@kernel
def _input_grad(start, stop, x, gy, mean, scale, offset, slope, rest, rectified, block, gx):
    """``gx = gy * scale + (x - mean) * slope + rest``, gy as in `_gradient_sums`.

    Where the slope is 0, x does not matter, even if it is not finite.
    """
    line = mean.size
    for task in range(start, stop):
        end = min(x.size, (task + 1) * block)
        for i in range(task * block, end, line):
            part, gradient = x[i : min(i + line, end)], gy[i : min(i + line, end)]
            out = gx[i : min(i + line, end)]
            for j in range(part.size):
                off = rectified and _map(part[j], mean[j], scale[j], offset[j]) <= 0
                kept = 0 if off else gradient[j]
                along = 0 if slope[j] == 0 else (part[j] - mean[j]) * slope[j]
                out[j] = along + (kept * scale[j] + rest[j])


def _pixels_in_line(channels: int) -> int:
    return max(LINE // channels, 1)


def _blocks(size: int, line: int) -> tuple[int, int]:
    """Number of blocks, and numbers in one, a whole number of lines. Depends on shapes alone."""
    block = max(BLOCK // line, 1) * line
    return -(-size // block), block


def _lines(x: np.ndarray, numbers) -> tuple[np.ndarray, ...]:
    """Numbers for each channel of x, repeated along a line."""
    return tuple(np.tile(each, _pixels_in_line(x.shape[-1])) for each in numbers)


def _sums(kernel, work: float, arrays: tuple[np.ndarray, ...], *others) -> np.ndarray:
    """(2, C) sums that `kernel` makes of `arrays`, added up in a fixed order."""
    channels = arrays[0].shape[-1]
    line = _pixels_in_line(channels) * channels
    blocks, block = _blocks(arrays[0].size, line)
    sums = np.empty((blocks, 2, line))
    flat = (array.reshape(-1) for array in arrays)
    parallel.run(kernel, blocks, arrays[0].size * work, *flat, *others, block, sums)
    return sums.reshape(blocks, 2, -1, channels).sum(axis=(0, 2))


def _affine(kernel, arrays: tuple[np.ndarray, ...], coefficients, rectified: bool) -> np.ndarray:
    """The map that `kernel` makes of `arrays`, with these numbers for each channel."""
    x = arrays[0]
    lines = _lines(x, (numbers.astype(x.dtype) for numbers in coefficients))
    blocks, block = _blocks(x.size, lines[0].size)
    out = memory.empty_like(x)
    flat = (array.reshape(-1) for array in arrays)
    parallel.run(kernel, blocks, x.size, *flat, *lines, rectified, block, out.reshape(-1))
    return out


def moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and biased variance of each channel of (..., C), in float64.

    Distances are taken from the first pixel, so that the square of a large mean does not swallow
    the variance.
    """
    x = np.ascontiguousarray(x)
    count = x.size // x.shape[-1]
    shift = x.reshape(count, -1)[0]
    total, square = _sums(_moments, 0.5, (x,), *_lines(x, [shift])) / count
    return shift + total, np.maximum(square - total * total, 0)


def normalise(x, mean, scale, offset, rectify: bool) -> np.ndarray:
    """``(x - mean) * scale + offset`` for each channel of x, (..., C); the others are (C,).

    If `rectify`, 0 in place of what is negative.
    """
    return _affine(_normalise, (np.ascontiguousarray(x),), (mean, scale, offset), rectify)


def gradient_sums(x, gy, mean, scale, offset, rectified: bool) -> tuple[np.ndarray, np.ndarray]:
    """Sum of gy, and of ``gy * (x - mean)``, over each channel, in float64.

    If `rectified`, gy counts as zero where `normalise`, with the same numbers, gave 0.
    """
    x, gy = np.ascontiguousarray(x), np.ascontiguousarray(gy)
    lines = _lines(x, (numbers.astype(x.dtype) for numbers in (mean, scale, offset)))
    total, product = _sums(_gradient_sums, 0.7, (x, gy), *lines, rectified)
    return total, product


def input_grad(x, gy, mean, scale, offset, slope, rest, rectified: bool) -> np.ndarray:
    """``gy * scale + (x - mean) * slope + rest`` for each channel; gy as in `gradient_sums`.

    Where the slope is 0, x does not matter, even if it is not finite.
    """
    arrays = np.ascontiguousarray(x), np.ascontiguousarray(gy)
    return _affine(_input_grad, arrays, (mean, scale, offset, slope, rest), rectified)
