"""Depthwise convolution: each channel has a kernel of its own; and its two gradients.

``out[p, c] = bias[c] + sum over taps k of source[p @ k, c] * weight[k, c]``

The vector runs over channels, all groups side by side. There is so little arithmetic for each
number that everything turns on loads: sums of a few neighbouring pixels stay in registers while
the taps pass by, so that a weight is loaded once for all of them, and so does their source: where
a tap looks one pixel further than the one before, only one pixel is new.

The source pixel ``p @ k`` lies, along each axis, at ``(p * up + first + k * tap) / down``, and the
tap does not take part where that is no whole number or outside. A convolution has ``up`` its
stride, ``down`` 1; its input gradient, and so the transposed convolution, the reverse. Output
pixels with the same remainder modulo ``down`` see the same taps, and are done one remainder after
the other.

Arrays have three spatial axes, (N, D, H, W, C); weights are (KD, KH, KW, 1, C).
"""

from typing import NamedTuple

import numpy as np

from minidl.kernels import memory, parallel, simd
from minidl.kernels.jit import inner, kernel

PIXELS = 4  # output pixels in registers at a time
AHEAD = 8  # pixels: how far ahead the source row that is met for the first time is asked for
SEGMENT = 128  # pixels of a row that are one piece of work, at most, of each remainder
WEIGHT_TASKS = 32  # at most; each has sums of its own


class Grid(NamedTuple):
    """How output pixels find their source pixels; three numbers each, for depth, height, width."""

    out: tuple  # extents
    source: tuple
    kernel: tuple
    up: tuple
    first: tuple
    tap: tuple
    down: tuple


@inner
def source_line(position, axis, k, grid):
    """Where tap `k` of an output position lies along an axis of the source, or -1."""
    at = position * grid.up[axis] + grid.first[axis] + k * grid.tap[axis]
    inside = at % grid.down[axis] == 0 and 0 <= at < grid.source[axis] * grid.down[axis]
    return at // grid.down[axis] if inside else -1


@inner
def from_the_front(i, axis, grid):
    """Tap number i along an axis, in the order of the source."""
    return i if grid.tap[axis] > 0 else grid.kernel[axis] - 1 - i


@inner
def taps_of_row(row, remainder, grid, taps):
    """The taps that pixels ``remainder + j * down`` of an output row see; returns their number.

    taps : (T, 4), overwritten: first pixel of the source row, column in it for j = 0, which tap,
    and whether the tap in front of it saw the pixel that is one ``j`` less.
    """
    height, depth = grid.out[1], grid.out[0]
    n, d, h = row // height // depth, row // height % depth, row % height
    count = 0
    for i in range(grid.kernel[0]):
        for j in range(grid.kernel[1]):
            kd, kh = from_the_front(i, 0, grid), from_the_front(j, 1, grid)
            z, y = source_line(d, 0, kd, grid), source_line(h, 1, kh, grid)
            if z < 0 or y < 0:
                continue
            for k in range(grid.kernel[2]):
                kw = from_the_front(k, 2, grid)
                at = remainder * grid.up[2] + grid.first[2] + kw * grid.tap[2]
                if at % grid.down[2] == 0:
                    line = (n * grid.source[0] + z) * grid.source[1] + y
                    taps[count, 0] = line * grid.source[2]
                    taps[count, 1] = at // grid.down[2]
                    taps[count, 2] = (kd * grid.kernel[1] + kh) * grid.kernel[2] + kw
                    step = taps[count, 1] - taps[max(count - 1, 0), 1]  # the first's is 0
                    same_row = taps[max(count - 1, 0), 0] == taps[count, 0]
                    taps[count, 3] = same_row and step == grid.up[2]
                    count += 1
    return count


@inner
def inner_pixels(taps, grid, begin, end):
    """Of pixels `begin` to `end`, the first and the one behind the last with all taps inside."""
    up, width = grid.up[2], grid.source[2]
    first, last = begin, end
    for t in range(len(taps)):
        first = max(first, -(taps[t, 1] // up))
        last = min(last, (width - 1 - taps[t, 1]) // up + 1)
    first = min(first, end)
    return first, max(first, last)


@inner
def some_pixels(source, weight, bias, taps, grid, j, out, to, channels):
    """Output pixel j of a row, some of whose taps may be outside."""
    for c in range(0, channels, simd.lanes(out)):
        count = channels - c
        total = simd.load_some(bias, c, count)
        for t in range(len(taps)):
            column = taps[t, 1] + j * grid.up[2]
            if 0 <= column < grid.source[2]:
                value = simd.load_some(source, (taps[t, 0] + column) * channels + c, count)
                factor = simd.load_some(weight, taps[t, 2] * channels + c, count)
                total = simd.fma(value, factor, total)
        simd.store_some(out, to + c, total, count)


@inner
def four_pixels(source, weight, bias, taps, grid, j, out, to, out_step, channels):
    """Output pixels j to j + 3 of a row, all of whose taps are inside."""
    step = grid.up[2] * channels
    for c in range(0, channels, simd.lanes(out)):
        count = channels - c
        a0 = simd.load_some(bias, c, count)
        a1 = a2 = a3 = x1 = x2 = x3 = a0
        at = 0
        for t in range(len(taps)):
            at = (taps[t, 0] + taps[t, 1] + j * grid.up[2]) * channels + c
            factor = simd.load_some(weight, taps[t, 2] * channels + c, count)
            if taps[t, 3]:
                x0, x1, x2 = x1, x2, x3
            else:
                x0 = simd.load_some(source, at, count)
                x1 = simd.load_some(source, at + step, count)
                x2 = simd.load_some(source, at + 2 * step, count)
            x3 = simd.load_some(source, at + 3 * step, count)
            a0 = simd.fma(x0, factor, a0)
            a1 = simd.fma(x1, factor, a1)
            a2 = simd.fma(x2, factor, a2)
            a3 = simd.fma(x3, factor, a3)
        for i in range(AHEAD, AHEAD + PIXELS):  # in the last row
            simd.prefetch(source, at + i * step)
        simd.store_some(out, to + c, a0, count)
        simd.store_some(out, to + out_step + c, a1, count)
        simd.store_some(out, to + 2 * out_step + c, a2, count)
        simd.store_some(out, to + 3 * out_step + c, a3, count)


@kernel
def convolve(start, stop, source, weight, bias, grid, segments, out):
    """Tasks are segments of output rows. source, weight, out : flat; `out` is overwritten."""
    channels, width, down = len(bias), grid.out[2], grid.down[2]
    table = np.empty((grid.kernel[0] * grid.kernel[1] * grid.kernel[2], 4), np.int64)
    for task in range(start, stop):
        row, segment = task // segments, task % segments
        for remainder in range(min(down, width)):
            taps = table[: taps_of_row(row, remainder, grid, table)]
            pixels = (width - remainder + down - 1) // down
            begin, end = segment * pixels // segments, (segment + 1) * pixels // segments
            first, last = inner_pixels(taps, grid, begin, end)
            to, step = (row * width + remainder) * channels, down * channels
            last = first + (last - first) // PIXELS * PIXELS
            for j in range(begin, first):
                some_pixels(source, weight, bias, taps, grid, j, out, to + j * step, channels)
            for j in range(first, last, PIXELS):
                four_pixels(source, weight, bias, taps, grid, j, out, to + j * step, step, channels)
            for j in range(last, end):
                some_pixels(source, weight, bias, taps, grid, j, out, to + j * step, channels)


@inner
def some_products(source, gy, taps, grid, j, at, sums, channels):
    """Add ``source * gy`` of pixel j of a row, some of whose taps may be outside, to the sums."""
    for c in range(0, channels, simd.lanes(gy)):
        count = channels - c
        gradient = simd.load_some(gy, at + c, count)
        for t in range(len(taps)):
            column = taps[t, 1] + j * grid.up[2]
            if 0 <= column < grid.source[2]:
                value = simd.load_some(source, (taps[t, 0] + column) * channels + c, count)
                to = taps[t, 2] * channels + c
                total = simd.fma(value, gradient, simd.load_some(sums, to, count))
                simd.store_some(sums, to, total, count)


@inner
def four_products(source, gy, taps, grid, j, at, sums, channels):
    """Add ``source * gy`` of pixels j to j + 3, all of whose taps are inside, to the sums."""
    step = grid.up[2] * channels
    for c in range(0, channels, simd.lanes(gy)):
        count = channels - c
        g0 = simd.load_some(gy, at + c, count)
        g1 = simd.load_some(gy, at + channels + c, count)
        g2 = simd.load_some(gy, at + 2 * channels + c, count)
        g3 = simd.load_some(gy, at + 3 * channels + c, count)
        x1 = x2 = x3 = g0
        x = 0
        for t in range(len(taps)):
            x = (taps[t, 0] + taps[t, 1] + j * grid.up[2]) * channels + c
            to = taps[t, 2] * channels + c
            if taps[t, 3]:
                x0, x1, x2 = x1, x2, x3
            else:
                x0 = simd.load_some(source, x, count)
                x1 = simd.load_some(source, x + step, count)
                x2 = simd.load_some(source, x + 2 * step, count)
            x3 = simd.load_some(source, x + 3 * step, count)
            total = simd.fma(x0, g0, simd.load_some(sums, to, count))
            total = simd.fma(x1, g1, total)
            total = simd.fma(x2, g2, total)
            total = simd.fma(x3, g3, total)
            simd.store_some(sums, to, total, count)
        for i in range(AHEAD, AHEAD + PIXELS):
            simd.prefetch(source, x + i * step)
            simd.prefetch(gy, at + c + i * channels)


@kernel
def correlate(start, stop, source, gy, grid, segments, pieces, partial):
    """Tasks are runs of segments of rows: sums of source times gy, for each tap and channel.

    source, gy : flat; pieces : segments in all; partial : (tasks, T, C), overwritten.
    """
    tasks, depth, channels = partial.shape
    width = grid.out[2]
    table = np.empty((depth, 4), np.int64)
    for task in range(start, stop):
        sums = partial[task].reshape(depth * channels)
        sums[:] = 0
        for piece in range(task * pieces // tasks, (task + 1) * pieces // tasks):
            row, segment = piece // segments, piece % segments
            taps = table[: taps_of_row(row, 0, grid, table)]
            begin, end = segment * width // segments, (segment + 1) * width // segments
            first, last = inner_pixels(taps, grid, begin, end)
            at = row * width * channels
            last = first + (last - first) // PIXELS * PIXELS
            for j in range(begin, first):
                some_products(source, gy, taps, grid, j, at + j * channels, sums, channels)
            for j in range(first, last, PIXELS):
                four_products(source, gy, taps, grid, j, at + j * channels, sums, channels)
            for j in range(last, end):
                some_products(source, gy, taps, grid, j, at + j * channels, sums, channels)


def _numbers(*axes) -> tuple:
    """Tuples of plain integers, of which Numba compiles one version."""
    return tuple(tuple(map(int, axis)) for axis in axes)


def _convolve(source, weight, bias, grid) -> np.ndarray:
    channels = source.shape[-1]
    out = memory.empty((len(source), *grid.out, channels), source.dtype)
    bias = np.zeros(channels, source.dtype) if bias is None else bias
    segments, taps = -(-grid.out[2] // (grid.down[2] * SEGMENT)), weight.size // channels
    parallel.run(
        convolve, len(out) * grid.out[0] * grid.out[1] * segments, out.size * taps / 15,
        source.reshape(-1), weight.reshape(-1), bias, grid, segments, out.reshape(-1),
    )  # fmt: skip
    return out


def forward(x, weight, bias, stride, padding, dilation, size) -> np.ndarray:
    """Depthwise convolution, (N, D, H, W, C) to (N, *size, C).

    Parameters
    ----------
    x : (N, D, H, W, C) array
    weight : (KD, KH, KW, 1, C) array of the same dtype
    bias : (C,) array or None
    stride, dilation : three positive integers
    padding : three integers, zeros in front of each axis
    size : three integers, extents of the output
    """
    first = (-p for p in padding)
    axes = size, x.shape[1:-1], weight.shape[:3], stride, first, dilation, (1, 1, 1)
    return _convolve(x, weight, bias, Grid(*_numbers(*axes)))


def input_grad(gy, weight, bias, stride, padding, dilation, size) -> np.ndarray:
    """Gradient of the input of `forward`, and at the same time the transposed convolution.

    Parameters
    ----------
    gy : (N, OD, OH, OW, C) array
    weight : (KD, KH, KW, 1, C) array of the same dtype
    bias : (C,) array or None, added to the result
    stride, padding, dilation
        Those of `forward`.
    size : three integers, extents of the input of `forward`
    """
    tap = (-d for d in dilation)
    axes = size, gy.shape[1:-1], weight.shape[:3], (1, 1, 1), padding, tap, stride
    return _convolve(gy, weight, bias, Grid(*_numbers(*axes)))


def weight_grad(x, gy, kernel_size, stride, padding, dilation) -> np.ndarray:
    """Gradient of the weight of `forward`: (KD, KH, KW, 1, C).

    Rows are split into parts whose number follows from the shapes alone, and the parts are added
    in their order.
    """
    first, channels = (-p for p in padding), x.shape[-1]
    axes = gy.shape[1:-1], x.shape[1:-1], kernel_size, stride, first, dilation, (1, 1, 1)
    segments = -(-gy.shape[3] // SEGMENT)
    pieces = segments * (gy.size // (gy.shape[3] * channels))
    taps = int(np.prod(kernel_size))
    partial = np.empty((min(pieces, WEIGHT_TASKS), taps, channels), x.dtype)
    parallel.run(
        correlate, len(partial), gy.size * taps / 15,
        x.reshape(-1), gy.reshape(-1), Grid(*_numbers(*axes)), segments, pieces, partial,
    )  # fmt: skip
    return partial.sum(axis=0).reshape(*kernel_size, 1, channels)
