"""Weighted sums along the spatial axes: interpolation, averages of windows, and their adjoints.

Along each axis every output is a sum of consecutive inputs, each times a weight: a matrix with a
band of numbers in every row. Its transpose, the way of the gradient, has such a band again. So one
kernel serves all of them, forwards and backwards, in one, two and three dimensions.

All arrays are (N, D, H, W, C); sequences and images have extents of 1 in front.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from minidl.kernels import memory, parallel, simd
from minidl.kernels.jit import inner, kernel

AHEAD = 512  # numbers between those that are written and those whose lines are asked for
PIXELS_AHEAD = 8  # the same for pixels that are read
FEW = 4  # rows and pixels of a window that are summed at once


@dataclass(frozen=True, eq=False)
class Band:
    """One axis: output i is the sum of ``weights[i, t] * input[first[i] + t]`` for t < taps[i].

    Attributes
    ----------
    first, taps : (outputs,) int64
    weights : (outputs, widest) float64
    """

    first: np.ndarray
    taps: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, first: np.ndarray, weights: np.ndarray) -> Band:
        """The band whose row i starts at ``first[i]`` and ends before the zeros of its weights."""
        used = weights != 0
        taps = np.where(used.any(axis=1), weights.shape[1] - used[:, ::-1].argmax(axis=1), 0)
        return cls(first.astype(np.int64), taps.astype(np.int64), weights)

    def transpose(self, size: int) -> Band:
        """The band of the adjoint, which has `size` outputs.

        Takes the rows to start, and to end, no earlier than the row before.
        """
        return _transposed(self, size)


ONE = Band.of(np.array([0]), np.ones((1, 1)))
"""An axis with one input, which is the output."""


@functools.lru_cache(maxsize=256)
def _transposed(band: Band, size: int) -> Band:
    inputs = np.arange(size)
    first = np.searchsorted(band.first + band.taps, inputs, side="right")
    stop = np.maximum(np.searchsorted(band.first, inputs, side="right"), first)
    outputs = first[:, None] + np.arange(max((stop - first).max(), 1))
    inside = outputs < stop[:, None]
    outputs = np.where(inside, outputs, 0)
    tap = np.where(inside, inputs[:, None] - band.first[outputs], 0)
    weights = np.where(inside, band.weights[outputs, tap], 0)
    return Band(first, stop - first, weights)


@inner
def _sum_2x2(x, rows, weights, at, channels, along, i, y, to):
    """Two neighbouring pixels of two rows; what `_sum_window` does, in one go."""
    lanes = simd.lanes(y)
    p, q = rows[0] + at, rows[1] + at
    a, b = simd.splat(weights[0] * along[i, 0]), simd.splat(weights[0] * along[i, 1])
    c, d = simd.splat(weights[1] * along[i, 0]), simd.splat(weights[1] * along[i, 1])
    for k in range(0, channels, lanes):
        simd.prefetch_write(y, to + k + AHEAD)
        left = channels - k
        total = a * simd.load_some(x, p + k, left)
        total = simd.fma(b, simd.load_some(x, p + channels + k, left), total)
        total = simd.fma(c, simd.load_some(x, q + k, left), total)
        total = simd.fma(d, simd.load_some(x, q + channels + k, left), total)
        simd.store_some(y, to + k, total, left)


@inner
def _sum_4x4(x, rows, weights, at, channels, along, i, y, to):
    """Four pixels of four rows.

    As a rule the window moves by two pixels and, for the next row of y, by two rows: the right half
    of the lower half is read for the first time, and asked for some pixels before.
    """
    lanes = simd.lanes(y)
    a, b = simd.splat(along[i, 0]), simd.splat(along[i, 1])
    c, d = simd.splat(along[i, 2]), simd.splat(along[i, 3])
    for k in range(0, channels, lanes):
        left, total = channels - k, simd.splat(y.dtype.type(0))
        for t in range(4):
            p = rows[t] + at + k
            if t >= 2:
                simd.prefetch(x, p + (PIXELS_AHEAD + 2) * channels)
                simd.prefetch(x, p + (PIXELS_AHEAD + 3) * channels)
            line = a * simd.load_some(x, p, left)
            line = simd.fma(b, simd.load_some(x, p + channels, left), line)
            line = simd.fma(c, simd.load_some(x, p + 2 * channels, left), line)
            line = simd.fma(d, simd.load_some(x, p + 3 * channels, left), line)
            total = simd.fma(simd.splat(weights[t]), line, total)
        simd.store_some(y, to + k, total, left)


@inner
def _scale_pixel(x, at, weight, channels, y, to):
    """A window of one pixel."""
    a = simd.splat(weight)
    for k in range(0, channels, simd.lanes(y)):
        left = channels - k
        simd.store_some(y, to + k, a * simd.load_some(x, at + k, left), left)


@inner
def _sum_window(x, rows, weights, count, at, taps, channels, along, i, y, to):
    """Any number of pixels, of any number of rows."""
    for k in range(0, channels, simd.lanes(y)):
        total = simd.splat(y.dtype.type(0))
        for t in range(count):
            for s in range(taps):
                part = simd.load_some(x, rows[t] + at + s * channels + k, channels - k)
                total = simd.fma(simd.splat(weights[t] * along[i, s]), part, total)
        simd.store_some(y, to + k, total, channels - k)


@inner
def _sum_pixels(x, rows, weights, count, channels, first, taps, along, y, to):
    """A row of y, from `to` on: pixel i is the sum over rows t < count and pixels s < taps[i] of
    ``weights[t] * along[i, s]`` times the pixel ``first[i] + s`` of the row of x at ``rows[t]``.
    """
    for i in range(len(first)):
        at, pixel = first[i] * channels, to + i * channels
        if count == 1 and taps[i] == 1:
            _scale_pixel(x, rows[0] + at, weights[0] * along[i, 0], channels, y, pixel)
        elif count == 2 and taps[i] == 2:
            _sum_2x2(x, rows, weights, at, channels, along, i, y, pixel)
        elif count == 4 and taps[i] == 4:
            _sum_4x4(x, rows, weights, at, channels, along, i, y, pixel)
        else:
            _sum_window(x, rows, weights, count, at, taps[i], channels, along, i, y, pixel)


@inner
def _sum_rows(x, rows, weights, count, line, size):
    """``line[:size] = sum of weights[t] * x[rows[t] : rows[t] + size]`` for t < count.

    Two rows at a time, so that the innermost loop has nothing to look up.
    """
    lanes = simd.lanes(x)
    if count == 0:
        line[:size] = 0
    for t in range(0, count, 2):
        pair = t + 1 < count
        a, p = simd.splat(weights[t]), rows[t]
        b, q = simd.splat(weights[t + 1] if pair else x.dtype.type(0)), rows[t + 1 if pair else t]
        for i in range(0, size, lanes):
            total = a * simd.load_some(x, p + i, size - i)
            if pair:
                total = simd.fma(b, simd.load_some(x, q + i, size - i), total)
            simd.store(line, i, simd.load(line, i) + total if t else total)


@kernel
def _resample(start, stop, x, shape, first_d, taps_d, weight_d, first_h, taps_h, weight_h,
              first_w, taps_w, weight_w, y):  # fmt: skip
    """Tasks are rows of y. Where windows are large, rows of x are summed first, for all pixels."""
    depth, height, width, channels = shape
    out_d, out_h, out_w = len(first_d), len(first_h), len(first_w)
    size = width * channels
    line = simd.room(size + simd.lanes(x), x)
    rows = np.empty(weight_d.shape[1] * weight_h.shape[1], np.int64)
    weights = np.empty(rows.size, x.dtype)
    first, one = np.zeros(1, np.int64), np.ones(1, x.dtype)
    few = rows.size <= FEW and weight_w.shape[1] <= FEW
    for row in range(start, stop):
        n, od, oh = row // (out_d * out_h), row // out_h % out_d, row % out_h
        count = 0
        for d in range(taps_d[od]):
            for h in range(taps_h[oh]):
                rows[count] = ((n * depth + first_d[od] + d) * height + first_h[oh] + h) * size
                weights[count] = weight_d[od, d] * weight_h[oh, h]
                count += 1
        to = row * out_w * channels
        if few:
            _sum_pixels(x, rows, weights, count, channels, first_w, taps_w, weight_w, y, to)
        else:
            _sum_rows(x, rows, weights, count, line, size)
            _sum_pixels(line, first, one, 1, channels, first_w, taps_w, weight_w, y, to)


def resample(x: np.ndarray, bands: tuple[Band, Band, Band]) -> np.ndarray:
    """The sums that `bands` describe, along D, H and W of the (N, D, H, W, C) array x."""
    x = np.ascontiguousarray(x)
    y = memory.empty((len(x), *(len(band.first) for band in bands), x.shape[-1]), x.dtype)
    flat = (part for b in bands for part in (b.first, b.taps, b.weights.astype(x.dtype)))
    rows = y.shape[0] * y.shape[1] * y.shape[2]
    parallel.run(_resample, rows, x.size + y.size, x.reshape(-1), x.shape[1:], *flat, y.reshape(-1))
    return y
