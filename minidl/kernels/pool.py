"""Maximum of windows with the pixel it was found at, and the way back from there.

All arrays are (N, D, H, W, C); sequences and images have extents of 1 in front. Averages of
windows are a matter of `resize`.
"""

import math
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from minidl.kernels import memory, parallel, simd
from minidl.kernels.jit import DISABLED, inner, kernel


class Span(NamedTuple):
    """The windows along one axis.

    Attributes
    ----------
    first, stop : (windows,) int64
        Each window has the elements ``range(first, stop, step)``, at least one. No window starts
        or ends before the one in front of it, apart from elements that dilation skips.
    step : int
    """

    first: np.ndarray
    stop: np.ndarray
    step: int


class Run(NamedTuple):
    """The windows along one axis: ``first[i] + k * step`` for k < count[i]. (In a range
    with a step, counting takes a division.)
    """

    first: np.ndarray
    count: np.ndarray
    step: int


def _runs(spans: tuple[Span, ...]) -> tuple[Run, ...]:
    return tuple(
        Run(span.first, -((span.first - span.stop) // span.step), span.step) for span in spans
    )


@intrinsic
def number(typingctx, array, value):
    """The vector with integer `value` in every lane, as bits of the floats of `array`."""

    def codegen(context, builder, signature, args):
        kind = simd.vector_ir(array.dtype)
        bits = ir.IntType(array.dtype.bitwidth)
        narrow = args[1] if bits.width == args[1].type.width else builder.trunc(args[1], bits)
        lanes = simd.splat_ir(builder, narrow, ir.VectorType(bits, kind.count))
        return builder.bitcast(lanes, kind)

    return simd.Vector(array.dtype)(array, types.int64), codegen


@intrinsic
def if_beats(typingctx, value, best, then, otherwise):
    """Lanes of `then` where `value` is larger than `best` or NaN, else those of `otherwise`."""

    def codegen(context, builder, signature, args):
        value, best, then, otherwise = args
        # "unordered or greater" would also be true where only best is NaN
        larger = builder.fcmp_ordered(">", value, best)
        wins = builder.or_(larger, builder.fcmp_unordered("uno", value, value))
        return builder.select(wins, then, otherwise)

    return value(value, best, then, otherwise), codegen


@intrinsic
def if_same(typingctx, a, b, then):
    """Lanes of `then` where `a` and `b` have the same bits, zero in the others."""

    def codegen(context, builder, signature, args):
        kind = args[0].type
        width = 32 if isinstance(kind.element, ir.FloatType) else 64
        bits = ir.VectorType(ir.IntType(width), kind.count)
        a, b = (builder.bitcast(arg, bits) for arg in args[:2])
        return builder.select(builder.icmp_signed("==", a, b), args[2], ir.Constant(kind, None))

    return then(a, b, then), codegen


if DISABLED:  # the same on small ndarrays

    def number(array, value):
        bits = np.int32 if array.dtype == np.float32 else np.int64
        return np.full(simd.lanes_of(array.dtype), value, bits).view(array.dtype)

    def if_beats(value, best, then, otherwise):
        return np.where((value > best) | (value != value), then, otherwise)

    def if_same(a, b, then):
        bits = np.int32 if a.dtype == np.float32 else np.int64
        return np.where(a.view(bits) == b.view(bits), then, a.dtype.type(0))


@kernel
def _load(x, at, count):
    """A vector from ``x[at:]``, of `count` elements if there are no more."""
    return simd.load(x, at) if count >= simd.lanes(x) else simd.load_some(x, at, count)


@inner
def _store(x, at, vector, count):
    """Write `vector` to ``x[at:]``, `count` elements of it if there are no more."""
    if count >= simd.lanes(x):
        simd.store(x, at, vector)
    else:
        simd.store_some(x, at, vector, count)


@inner
def _steps(run_d, run_h, run_w, od, oh, ow, height, width, steps):
    """Number of pixels of a window; writes how far each is behind the first."""
    taps = 0
    for d in range(run_d.count[od]):
        for h in range(run_h.count[oh]):
            for w in range(run_w.count[ow]):
                steps[taps] = (d * run_d.step * height + h * run_h.step) * width + w * run_w.step
                taps += 1
    return taps


@kernel
def _max_pool(start, stop, x, shape, run_d, run_h, run_w, keep, y, pixels):
    """Maxima, and if `keep` the pixels they are at. Arrays are flat; tasks are rows of y."""
    depth, height, width, channels = shape
    lanes = simd.lanes(x)
    out_d, out_h, out_w = len(run_d.first), len(run_h.first), len(run_w.first)
    steps = np.empty(run_d.count.max() * run_h.count.max() * run_w.count.max(), np.int64)
    for row in range(start, stop):
        n, od, oh = row // (out_d * out_h), row // out_h % out_d, row % out_h
        image = n * depth * height * width
        taps = 0
        for ow in range(out_w):
            if ow == 0 or run_w.count[ow] != run_w.count[ow - 1]:
                taps = _steps(run_d, run_h, run_w, od, oh, ow, height, width, steps)
            first = (run_d.first[od] * height + run_h.first[oh]) * width + run_w.first[ow]
            for c in range(0, channels, lanes):
                count = channels - c
                best = _load(x, (image + first) * channels + c, count)
                where = number(x, first)
                for t in range(taps):
                    pixel = first + steps[t]
                    value = _load(x, (image + pixel) * channels + c, count)
                    if keep:
                        where = if_beats(value, best, number(x, pixel), where)
                    best = if_beats(value, best, value, best)
                to = (row * out_w + ow) * channels + c
                _store(y, to, best, count)
                if keep:
                    _store(pixels, to, where, count)


@kernel
def _max_pool_grad_apart(start, stop, gy, pixels, shape, run_d, run_h, run_w, gx):
    """Windows that do not overlap: each writes to all of its elements. Tasks are rows of gy.

    What lies in none of them is left alone.
    """
    depth, height, width, channels = shape
    lanes = simd.lanes(gx)
    out_d, out_h, out_w = len(run_d.first), len(run_h.first), len(run_w.first)
    steps = np.empty(run_d.count.max() * run_h.count.max() * run_w.count.max(), np.int64)
    for row in range(start, stop):
        n, od, oh = row // (out_d * out_h), row // out_h % out_d, row % out_h
        image = n * depth * height * width
        taps = 0
        for ow in range(out_w):
            if ow == 0 or run_w.count[ow] != run_w.count[ow - 1]:
                taps = _steps(run_d, run_h, run_w, od, oh, ow, height, width, steps)
            first = (run_d.first[od] * height + run_h.first[oh]) * width + run_w.first[ow]
            for c in range(0, channels, lanes):
                count, at = channels - c, (row * out_w + ow) * channels + c
                chosen, gradient = _load(pixels, at, count), _load(gy, at, count)
                for t in range(taps):
                    pixel = first + steps[t]
                    part = if_same(chosen, number(gx, pixel), gradient)
                    _store(gx, (image + pixel) * channels + c, part, count)


@kernel
def _max_pool_grad(start, stop, gy, pixels, cover_d, cover_h, cover_w, out, channels, gx):
    """Windows that may overlap: each element gathers from those over it that chose it.

    Tasks are rows of gx.
    """
    depth, height, width = len(cover_d.first), len(cover_h.first), len(cover_w.first)
    out_d, out_h, out_w = out
    lanes = simd.lanes(gx)
    for row in range(start, stop):
        n, d, h = row // (depth * height), row // height % depth, row % height
        ods = range(cover_d.first[d], cover_d.stop[d])
        ohs = range(cover_h.first[h], cover_h.stop[h])
        for w in range(width):
            ows = range(cover_w.first[w], cover_w.stop[w])
            pixel = (d * height + h) * width + w
            for c in range(0, channels, lanes):
                count = channels - c
                total = simd.splat(gx.dtype.type(0))
                for od in ods:
                    for oh in ohs:
                        for ow in ows:
                            at = (((n * out_d + od) * out_h + oh) * out_w + ow) * channels + c
                            chosen = _load(pixels, at, count)
                            gradient = _load(gy, at, count)
                            total = total + if_same(chosen, number(gx, pixel), gradient)
                _store(gx, (row * width + w) * channels + c, total, count)


@kernel
def _scatter(start, stop, x, positions, y):
    """``y[n, positions[n]] = x[n]`` in order: of equal positions the last. Tasks are images."""
    for n in range(start, stop):
        y[n] = 0
        for i in range(x.shape[1]):
            y[n, positions[n, i]] = x[n, i]


@kernel
def _scatter_grad(start, stop, gy, positions, gx):
    """Each value that was not overwritten gathers from its position. Tasks are images."""
    for n in range(start, stop):
        taken = np.zeros(gy.shape[1], np.bool_)
        for i in range(gx.shape[1] - 1, -1, -1):
            at = positions[n, i]
            gx[n, i] = 0 if taken[at] else gy[n, at]
            taken[at] = True


def _covering(span: Span, size: int) -> Span:
    """For each of `size` elements the windows that may contain it."""
    elements = np.arange(size)
    # Windows that start in the padding may take up the axis late, if they are dilated.
    first = np.minimum.accumulate(span.first[::-1])[::-1]
    return Span(
        np.searchsorted(span.stop, elements, side="right"),
        np.searchsorted(first, elements, side="right"),
        1,
    )


def _seamless(span: Span, size: int) -> bool:
    """Whether every one of `size` elements lies in exactly one window."""
    ends = np.concatenate([[0], span.stop])
    return span.step == 1 and ends[-1] == size and (span.first == ends[:-1]).all()


def max_pool(x: np.ndarray, spans: tuple[Span, Span, Span], keep: bool):
    """Maximum of each window, and where it is.

    Parameters
    ----------
    x : (N, D, H, W, C) array
    spans : the windows along D, H and W
    keep : bool
        Whether `pixels` are wanted.

    Returns
    -------
    y : (N, OD, OH, OW, C) array
        NaN where there is one in the window.
    pixels : int32 (for float32) or int64 array of the same shape, or None
        The pixel ``(d * H + h) * W + w`` of the first among equals, or of the last NaN.
    """
    x = np.ascontiguousarray(x)
    y = memory.empty((len(x), *(len(span.first) for span in spans), x.shape[-1]), x.dtype)
    pixels = memory.empty(y.shape if keep else (0,), y.dtype)
    parallel.run(
        _max_pool, y.shape[0] * y.shape[1] * y.shape[2], x.size / 2,
        x.reshape(-1), x.shape[1:], *_runs(spans), keep, y.reshape(-1), pixels.reshape(-1),
    )  # fmt: skip
    return y, pixels.view(f"i{x.itemsize}") if keep else None


def max_pool_grad(gy: np.ndarray, pixels: np.ndarray, spans, shape: tuple) -> np.ndarray:
    """Gradient of an input of `shape` to `max_pool` with these `spans`, from its `pixels`."""
    gy = np.ascontiguousarray(gy)
    arrays = gy.reshape(-1), pixels.view(gy.dtype).reshape(-1)
    if all((span.stop[:-1] <= span.first[1:]).all() for span in spans):
        seamless = all(_seamless(span, size) for span, size in zip(spans, shape[1:4], strict=True))
        gx = memory.empty(shape, gy.dtype) if seamless else np.zeros(shape, gy.dtype)
        parallel.run(
            _max_pool_grad_apart, gy.shape[0] * gy.shape[1] * gy.shape[2], gx.size / 2,
            *arrays, shape[1:], *_runs(spans), gx.reshape(-1),
        )  # fmt: skip
        return gx
    gx = memory.empty(shape, gy.dtype)
    cover = [_covering(span, size) for span, size in zip(spans, shape[1:4], strict=True)]
    parallel.run(
        _max_pool_grad, shape[0] * shape[1] * shape[2], gx.size,
        *arrays, *cover, gy.shape[1:4], shape[-1], gx.reshape(-1),
    )  # fmt: skip
    return gx


def scatter(x: np.ndarray, positions: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Zeros of `shape` with the values of x at `positions`; of several at one, the last.

    Parameters
    ----------
    x : (N, ...) array
    positions : integer array of the same shape
        Flat inside each of the N parts of the result, and within bounds.
    """
    y = memory.empty(shape, x.dtype)
    parallel.run(_scatter, len(x), x.size + y.size / 4, _rows(x), _rows(positions), _rows(y))
    return y


def scatter_grad(gy: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Gradient of the values given to `scatter`: zero for those that were overwritten."""
    gx = memory.empty(positions.shape, gy.dtype)
    parallel.run(_scatter_grad, len(gx), gx.size * 2, _rows(gy), _rows(positions), _rows(gx))
    return gx


def _rows(x: np.ndarray) -> np.ndarray:
    """The array as (N, everything else)."""
    return np.ascontiguousarray(x).reshape(len(x), math.prod(x.shape[1:]))
