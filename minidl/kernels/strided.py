"""3x3 convolution of stride 2 with half of the multiplications, by Winograd's tiles.

Along each axis an output sees pixels of even position by the taps 0 and 2, and one of odd position
by tap 1. So the convolution is the sum of four of stride 1, of the four *phases* of the padded
input (rows even or odd, columns even or odd), by kernels of 2x2, 2x1, 1x2 and 1x1 taps.

Winograd's F(5x5, 2x2) computes 5x5 outputs of such a convolution from 6x6 inputs. Its points are
those of F(4x4, 3x3), and so is its input transform (see `winograd_tiles`). The point at infinity
sees the second tap alone: an axis with one tap does without it. That makes 36 + 30 + 30 + 25 = 121
multiplications in place of 225.
"""

import math

import numpy as np

from minidl.kernels import gemm, memory, parallel, simd
from minidl.kernels.jit import inlined, inner, kernel
from minidl.kernels.winograd_tiles import (
    ELEMENTS,
    IN,
    Tiles,
    store_6,
    transform_columns,
    transform_tile,
    write_pixels,
)

OUT = 5  # extents of a tile
PHASES = 4
PRODUCTS = 121  # of a tile, for a pair of channels
SIDE_OUT = np.int64(OUT)  # as an argument between kernels, see `gemm.ZERO`
TILE_BLOCK = 5 * gemm.TILE_ROWS  # tiles of a task, at most
KERNEL_BYTES = 20 << 20  # transformed kernels, which are kept for all tiles, at most
MIN_TILES = 4 * TILE_BLOCK  # that are worth transforming the kernels
MIN_CHANNELS, MIN_FEATURES = 64, 128  # that are worth transforming tiles
GAIN = 1.5  # how many times as many products the direct way needs, at least


@inner
def transform_kernel_line(g0, g1):
    """G times a column of two taps."""
    return (
        g0,
        (1 / 3) * (g0 + g1),
        (1 / 3) * (g1 - g0),
        (-16 / 15) * (g0 + 0.5 * g1),
        (1 / 15) * (g0 - 2.0 * g1),
        g1,
    )


@inner
def transform_output_line(m0, m1, m2, m3, m4, m5):
    """Aᵀ times a column."""
    s, d = m1 + m2, m1 - m2
    return (
        m0 + s + m3 + m4,
        d + 0.5 * m3 - 2.0 * m4,
        s + 0.25 * m3 + 4.0 * m4,
        d + 0.125 * m3 - 8.0 * m4,
        s + 0.0625 * m3 + 16.0 * m4 + m5,
    )


@kernel
def prepare(start, stop, weight, scale, channels, features, out):
    """Tasks are panels of features: their transformed kernels, (36, 4 * channels, columns).

    weight : flat (3, 3, channels, features)
    scale : empty, or a factor for each of the features
    """
    lanes = simd.lanes(out)
    vectors = (features + lanes - 1) // lanes
    down, right = 3 * channels * features, channels * features
    for panel in range(start, stop):
        first = gemm.panel_start(panel, vectors) * lanes
        columns = gemm.panel_start(panel + 1, vectors) * lanes - first
        plane = PHASES * channels * columns
        for phase in range(PHASES):
            r, s = phase // 2, phase % 2
            for c in range(channels):
                for f in range(first, first + columns, lanes):
                    some = features - f
                    below, beside = some * (1 - r), some * (1 - s)  # taps that a phase has
                    at = r * down + s * right + c * features + f
                    g00 = simd.load_some(weight, at, some)
                    g10 = simd.load_some(weight, at + 2 * down, below)
                    g01 = simd.load_some(weight, at + 2 * right, beside)
                    g11 = simd.load_some(weight, at + 2 * (down + right), min(below, beside))
                    if scale.size:
                        factor = simd.load_some(scale, f, some)
                        g00, g10, g01, g11 = g00 * factor, g10 * factor, g01 * factor, g11 * factor
                    u, v = transform_kernel_line(g00, g10), transform_kernel_line(g01, g11)
                    to = ELEMENTS * PHASES * channels * first
                    to += (phase * channels + c) * columns + f - first
                    store_6(out, to, plane, transform_kernel_line(u[0], v[0]))
                    store_6(out, to + 6 * plane, plane, transform_kernel_line(u[1], v[1]))
                    store_6(out, to + 12 * plane, plane, transform_kernel_line(u[2], v[2]))
                    store_6(out, to + 18 * plane, plane, transform_kernel_line(u[3], v[3]))
                    store_6(out, to + 24 * plane, plane, transform_kernel_line(u[4], v[4]))
                    store_6(out, to + 30 * plane, plane, transform_kernel_line(u[5], v[5]))


@inner
def place_of(tile, tiles):
    """Image, first output row and first output column of a tile."""
    across = (tiles.out_width + OUT - 1) // OUT
    down = (tiles.out_height + OUT - 1) // OUT
    return tile // across // down, tile // across % down * OUT, tile % across * OUT


@inner
def transform_phases(source, tile, tiles, patch, out, to, plane):
    """``Bᵀ d B`` of a tile of every phase, one behind the other."""
    image, h, w = place_of(tile, tiles)
    z = image % tiles.out_depth - tiles.pad_d
    for phase in range(PHASES):
        at = to + phase * tiles.channels
        if 0 <= z < tiles.depth:
            transform_tile(
                source, image // tiles.out_depth * tiles.depth + z,
                2 * h + phase // 2 - tiles.pad_h, 2 * w + phase % 2 - tiles.pad_w, SIDE_OUT,
                SIDE_OUT, tiles, tiles.channels, patch, out, at, plane,
            )  # fmt: skip
        else:
            for e in range(ELEMENTS):
                for c in range(0, tiles.channels, simd.lanes(out)):
                    simd.store(out, at + e * plane + c, simd.splat(out.dtype.type(0)))


@inner
def place_depth(e, channels, columns, a_runs, b_runs):
    """Where the channels of the phases that have element e begin; how many runs, and how long.

    Phases (even, even), (even, odd), (odd, even), (odd, odd) lie one behind the other.
    """
    last_row, last_column = e // IN == IN - 1, e % IN == IN - 1
    if last_column and not last_row:
        a_runs[1], b_runs[1] = 2 * channels, 2 * channels * columns
        return 2, channels
    if last_column:
        return 1, channels
    return 1, 2 * channels if last_row else 4 * channels


@inner
def write_five(y, at, step, line, shift, floor, count, some):
    """`write_pixels` of five."""
    write_pixels(y, at, step, line, shift, floor, count, some)
    if count > 4:
        simd.store_some(y, at + 4 * step, simd.maximum(floor, line[4] + shift), some)


@inlined
def write_tile(products, plane, at, bias, floor, tile, tiles, features, feature, columns, y):
    """``max(Aᵀ m A + bias, floor)`` for `columns` channels of a tile, where the image has it."""
    image, h, w = place_of(tile, tiles)
    high, wide = min(OUT, tiles.out_height - h), min(OUT, tiles.out_width - w)
    to = ((image * tiles.out_height + h) * tiles.out_width + w) * features + feature
    down, limit = tiles.out_width * features, simd.splat(floor)
    for f in range(0, columns, simd.lanes(y)):
        some, p, q = features - feature - f, at + f, to + f
        shift = simd.load_some(bias, feature + f, some)
        m0, m1, m2, m3, m4, m5 = transform_columns(
            transform_output_line, products, p, plane, IN * plane, some
        )
        line = transform_output_line(m0[0], m1[0], m2[0], m3[0], m4[0], m5[0])
        write_five(y, q, features, line, shift, limit, wide, some)
        if high > 1:
            line = transform_output_line(m0[1], m1[1], m2[1], m3[1], m4[1], m5[1])
            write_five(y, q + down, features, line, shift, limit, wide, some)
        if high > 2:
            line = transform_output_line(m0[2], m1[2], m2[2], m3[2], m4[2], m5[2])
            write_five(y, q + 2 * down, features, line, shift, limit, wide, some)
        if high > 3:
            line = transform_output_line(m0[3], m1[3], m2[3], m3[3], m4[3], m5[3])
            write_five(y, q + 3 * down, features, line, shift, limit, wide, some)
        if high > 4:
            line = transform_output_line(m0[4], m1[4], m2[4], m3[4], m4[4], m5[4])
            write_five(y, q + 4 * down, features, line, shift, limit, wide, some)


@kernel
def convolve(start, stop, source, kernels, bias, floor, tiles, features, row, together, y):
    """Tasks are blocks of tiles, `together` in each: transform, multiply and write.

    source, y : flat (N, D, H, W, C) and (N, OD, OH, OW, features); y is overwritten
    kernels : flat, as `prepare` leaves them
    row : numbers from one transformed tile to the next
    """
    lanes, channels = simd.lanes(y), tiles.channels
    vectors, widest = (features + lanes - 1) // lanes, gemm.TILE_VECTORS * lanes
    # Odd distances keep the 36 streams out of each other's way.
    plane, stride = (together + 1) * row, together * widest + lanes
    transformed = simd.room(ELEMENTS * plane, y)
    products, zeros = simd.room(ELEMENTS * stride, y), np.zeros(widest, y.dtype)
    patch = np.empty(ELEMENTS * channels, y.dtype)
    a_runs, b_runs = np.zeros(2, np.int64), np.zeros(2, np.int64)
    for block in range(start, stop):
        first = block * together
        count = min(together, tiles.total - first)
        for t in range(count):
            transform_phases(source, first + t, tiles, patch, transformed, t * row, plane)
        for panel in range(gemm.panels_of(vectors)):
            feature = gemm.panel_start(panel, vectors) * lanes
            columns = gemm.panel_start(panel + 1, vectors) * lanes - feature
            for e in range(ELEMENTS):
                runs, run = place_depth(e, channels, columns, a_runs, b_runs)
                gemm.multiply_block(
                    transformed, e * plane, row, gemm.ONE, a_runs, kernels,
                    PHASES * channels * (ELEMENTS * feature + e * columns), columns, b_runs, runs,
                    run, columns, zeros, gemm.ZERO, gemm.ZERO, products, e * stride, columns,
                    columns, count, gemm.NO,
                )  # fmt: skip
            for t in range(count):
                write_tile(
                    products, stride, t * columns, bias, floor, first + t, tiles, features,
                    feature, columns, y,
                )  # fmt: skip


def _tiles(out_shape) -> int:
    """How many tiles cover the outputs, (N, OD, OH, OW)."""
    images, planes, height, width = out_shape
    return images * planes * -(-height // OUT) * -(-width // OUT)


def pays(channels: int, features: int, out_shape: tuple[int, ...]) -> bool:
    """Whether `forward` is faster than the direct way, as measured on one thread and on two."""
    tiles, size = _tiles(out_shape), 4 * ELEMENTS * PHASES * channels * features
    many = channels >= MIN_CHANNELS and features >= MIN_FEATURES and tiles >= MIN_TILES
    fills = 9 * math.prod(out_shape) >= GAIN * PRODUCTS * tiles
    return many and fills and size <= KERNEL_BYTES


def forward(x, weight, scale, bias, padding, size, relu):
    """Convolution of stride (1, 2, 2), (N, D, H, W, C) to (N, *size, F).

    Parameters
    ----------
    x : (N, D, H, W, C) array
    weight : (1, 3, 3, C, F) array
    scale : (F,) array of factors for the results, before the bias is added; or empty
    bias : (F,) array
    padding : three integers, zeros in front of each axis
    size : extents of the output
    relu : bool
        Write ``max(y, 0)`` in place of y.
    """
    *_, channels, features = weight.shape
    y = memory.empty((len(x), *size, features), x.dtype)
    images, lanes = len(x) * size[0], simd.lanes_of(x.dtype)
    total = _tiles((len(x), *size))
    if not total:
        return y
    tiles = Tiles(
        images, 2, 2, *padding[1:], *x.shape[2:4], *size[1:], 1, 1, padding[0], x.shape[1], size[0],
        channels, total, np.empty(0, np.int64),
    )  # fmt: skip
    vectors = gemm.vectors_for(features, x.dtype)
    kernels = memory.empty((ELEMENTS * PHASES * channels * vectors * lanes,), x.dtype)
    parallel.run(
        prepare, gemm.panels_of(vectors), kernels.size, weight.reshape(-1), scale, channels,
        features, kernels,
    )  # fmt: skip
    blocks = -(-total // TILE_BLOCK)
    together = gemm.whole_tiles(-(-total // blocks))
    row = (gemm.vectors_for(PHASES * channels, x.dtype) + 1) * lanes
    parallel.run(
        convolve, blocks, total * channels * features * 5, x.reshape(-1), kernels, bias,
        x.dtype.type(0 if relu else -np.inf), tiles, features, row, together, y.reshape(-1),
    )  # fmt: skip
    return y
