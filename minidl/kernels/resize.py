"""Weighted sums along the spatial axes: interpolation, averages of windows, and their adjoints.

Along each axis every output is a sum of consecutive inputs, each times a weight: a matrix with a
band of numbers in every row. Its transpose, the way of the gradient, has such a band again. So one
kernel serves all of them, forwards and backwards, in one, two and three dimensions.

All arrays are (N, D, H, W, C); sequences and images have extents of 1 in front.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from minidl.kernels import memory, parallel, simd
from minidl.kernels.jit import kernel


class Band(NamedTuple):
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
        inputs = np.arange(size)
        first = np.searchsorted(self.first + self.taps, inputs, side="right")
        stop = np.maximum(np.searchsorted(self.first, inputs, side="right"), first)
        outputs = first[:, None] + np.arange(max((stop - first).max(), 1))
        inside = outputs < stop[:, None]
        outputs = np.where(inside, outputs, 0)
        tap = np.where(inside, inputs[:, None] - self.first[outputs], 0)
        weights = np.where(inside, self.weights[outputs, tap], 0)
        return Band(first, stop - first, weights)


@kernel
def _sum_rows(x, rows, weights, count, line, size):
    """``line[:size] = sum of weights[t] * x[rows[t] : rows[t] + size]`` for t < count."""
    lanes = simd.lanes(x)
    zero = simd.splat(x.dtype.type(0))
    for i in range(0, size, lanes):
        total = zero
        if i + lanes <= size:
            for t in range(count):
                total = simd.fma(simd.splat(weights[t]), simd.load(x, rows[t] + i), total)
            simd.store(line, i, total)
        else:
            for t in range(count):
                part = simd.load_some(x, rows[t] + i, size - i)
                total = simd.fma(simd.splat(weights[t]), part, total)
            simd.store_some(line, i, total, size - i)


@kernel
def _sum_pixels(line, channels, first, taps, weights, y, row):
    """``y[row + i] = sum of weight * pixel of the line``, for all pixels i of a row of y.

    Where a pixel is no whole number of vectors, vectors reach into the pixels behind it, which are
    written after it; behind the row nothing is written. Reads up to a vector behind the line.
    """
    lanes = simd.lanes(y)
    zero = simd.splat(y.dtype.type(0))
    end = row + len(first) * channels
    for i in range(len(first)):
        count = taps[i]
        for c in range(0, channels, lanes):
            total = zero
            for t in range(count):
                part = simd.load(line, (first[i] + t) * channels + c)
                total = simd.fma(simd.splat(weights[i, t]), part, total)
            at = row + i * channels + c
            if at + lanes <= end:
                simd.store(y, at, total)
            else:
                simd.store_some(y, at, total, end - at)


@kernel
def _resample(start, stop, x, shape, first_d, taps_d, weight_d, first_h, taps_h, weight_h,
              first_w, taps_w, weight_w, y):  # fmt: skip
    """Tasks are rows of y: rows of x are summed first, then pixels along that sum."""
    depth, height, width, channels = shape
    out_d, out_h, out_w = len(first_d), len(first_h), len(first_w)
    size = width * channels
    line = np.zeros(size + simd.lanes(x), x.dtype)
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
