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
from minidl.kernels.jit import kernel

AHEAD = 512  # numbers between those that are written and those whose lines are asked for


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


@kernel
def _sum_rows(x, rows, weights, count, line, size):
    """``line[:size] = sum of weights[t] * x[rows[t] : rows[t] + size]`` for t < count.

    Two rows at a time, so that the innermost loop has nothing to look up.
    """
    lanes = simd.lanes(x)
    odd = count % 2
    if odd:
        a = simd.splat(weights[0])
        for i in range(0, size, lanes):
            simd.store(line, i, a * simd.load_some(x, rows[0] + i, size - i))
    elif count == 0:
        line[:size] = 0
    for t in range(odd, count, 2):
        a, p = simd.splat(weights[t]), rows[t]
        b, q = simd.splat(weights[t + 1]), rows[t + 1]
        whole = size - size % lanes
        for i in range(0, whole, lanes):
            total = simd.fma(b, simd.load(x, q + i), a * simd.load(x, p + i))
            simd.store(line, i, simd.load(line, i) + total if t else total)
        if whole < size:
            some = size - whole
            total = a * simd.load_some(x, p + whole, some)
            total = simd.fma(b, simd.load_some(x, q + whole, some), total)
            simd.store(line, whole, simd.load(line, whole) + total if t else total)


@kernel
def _sum_2(line, at, channels, weights, y, to):
    """The sum of two neighbouring pixels, in whole vectors."""
    a, b = simd.splat(weights[0]), simd.splat(weights[1])
    for c in range(0, channels, simd.lanes(y)):
        simd.prefetch_write(y, to + c + AHEAD)
        total = a * simd.load(line, at + c)
        simd.store(y, to + c, simd.fma(b, simd.load(line, at + channels + c), total))


@kernel
def _sum_4(line, at, channels, weights, y, to):
    """The sum of four."""
    a, b, c, d = (
        simd.splat(weights[0]), simd.splat(weights[1]),
        simd.splat(weights[2]), simd.splat(weights[3]),
    )  # fmt: skip
    for i in range(at, at + channels, simd.lanes(y)):
        total = a * simd.load(line, i)
        total = simd.fma(b, simd.load(line, i + channels), total)
        total = simd.fma(c, simd.load(line, i + 2 * channels), total)
        total = simd.fma(d, simd.load(line, i + 3 * channels), total)
        simd.store(y, to + i - at, total)


@kernel
def _sum_pixels(line, channels, first, taps, weights, y, row):
    """``y[row + i] = sum of weight * pixel of the line``, for all pixels i of a row of y.

    Where a pixel is no whole number of vectors, vectors reach into the pixels behind it, which are
    written after it; behind the row nothing is written. Reads up to a vector behind the line.
    """
    lanes = simd.lanes(y)
    zero = simd.splat(y.dtype.type(0))
    end = row + len(first) * channels
    whole = (channels + lanes - 1) // lanes * lanes
    for i in range(len(first)):
        count = taps[i]
        at, to = first[i] * channels, row + i * channels
        inside = to + whole <= end
        if inside and count == 2:
            _sum_2(line, at, channels, weights[i], y, to)
        elif inside and count == 4:
            _sum_4(line, at, channels, weights[i], y, to)
        else:
            for c in range(0, channels, lanes):
                total = zero
                for t in range(count):
                    part = simd.load(line, at + t * channels + c)
                    total = simd.fma(simd.splat(weights[i, t]), part, total)
                simd.store_some(y, to + c, total, end - to - c)


@kernel
def _resample(start, stop, x, shape, first_d, taps_d, weight_d, first_h, taps_h, weight_h,
              first_w, taps_w, weight_w, y):  # fmt: skip
    """Tasks are rows of y: rows of x are summed first, then pixels along that sum."""
    depth, height, width, channels = shape
    out_d, out_h, out_w = len(first_d), len(first_h), len(first_w)
    size = width * channels
    line = simd.room(size + simd.lanes(x), x)
    rows = np.empty(weight_d.shape[1] * weight_h.shape[1], np.int64)
    weights = np.empty(rows.size, x.dtype)
    for row in range(start, stop):
        n, od, oh = row // (out_d * out_h), row // out_h % out_d, row % out_h
        count = 0
        for d in range(taps_d[od]):
            for h in range(taps_h[oh]):
                rows[count] = ((n * depth + first_d[od] + d) * height + first_h[oh] + h) * size
                weights[count] = weight_d[od, d] * weight_h[oh, h]
                count += 1
        _sum_rows(x, rows, weights, count, line, size)
        _sum_pixels(line, channels, first_w, taps_w, weight_w, y, row * out_w * channels)


def resample(x: np.ndarray, bands: tuple[Band, Band, Band]) -> np.ndarray:
    """The sums that `bands` describe, along D, H and W of the (N, D, H, W, C) array x."""
    x = np.ascontiguousarray(x)
    y = memory.empty((len(x), *(len(band.first) for band in bands), x.shape[-1]), x.dtype)
    flat = (part for b in bands for part in (b.first, b.taps, b.weights.astype(x.dtype)))
    rows = y.shape[0] * y.shape[1] * y.shape[2]
    parallel.run(_resample, rows, x.size + y.size, x.reshape(-1), x.shape[1:], *flat, y.reshape(-1))
    return y
