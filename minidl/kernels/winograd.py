"""3x3 convolution with a quarter of the multiplications.

Winograd's F(4x4, 3x3) computes a tile of 4x4 outputs from 6x6 inputs by 36 multiplications in place
of 144 for each pair of channels::

    y = Aᵀ [ (G g Gᵀ) * (Bᵀ d B) ] A

d a 6x6 tile of the input, g the 3x3 kernel, * element by element. Summed over channels, the product
in the middle is one matrix product for each of the 36 elements. The gradient of the kernel follows
by the chain rule::

    gg = Gᵀ [ (Bᵀ d B) * (A gy Aᵀ) ] G

B, G and A belong to the interpolation points 0, 1, -1, 1/2, -2 and infinity; this choice makes the
rounding error a third smaller than the usual 0, 1, -1, 2, -2 does.

A dilated convolution is several plain ones, one for each remainder of rows and columns modulo the
dilation: its tiles take every `dilation`-th pixel.

Lavin & Gray, Fast Algorithms for Convolutional Neural Networks, 2016, section 4.
Barabasz et al., Error Analysis and Improving the Accuracy of Winograd Convolution, 2020.
"""

from typing import NamedTuple

import numpy as np

from minidl.kernels import gemm, parallel, simd
from minidl.kernels.jit import kernel

IN, OUT = 6, 4  # extents of a tile
ELEMENTS = IN * IN
TILE_BLOCK = 48  # tiles that a task multiplies at once; their products stay in its cache
# Input channels whose transformed kernels are in the cache at once; whole tiles of the product.
CHANNEL_BLOCK = 8 * gemm.TILE_ROWS
MIN_TASKS = 8  # enough to keep threads busy
CHUNK_BYTES = 2 << 20  # transformed tiles that a weight gradient takes together
PART_BYTES = 3 << 20  # transformed weight gradient up to which a thread has one of its own
MIN_CHUNK = 64  # but so many at least


class Tiles(NamedTuple):
    """How 4x4 tiles of outputs cover images; tile rows and columns of all remainders in turn."""

    images: int
    dilation_h: int
    dilation_w: int
    rows: int  # tiles down and across, for each remainder
    columns: int
    pad_h: int  # zeros in front
    pad_w: int
    height: int  # extents of the input and of the output
    width: int
    out_height: int
    out_width: int


@kernel
def transform_input_line(d0, d1, d2, d3, d4, d5):
    """Bᵀ times a column."""
    p, q = d4 - d2, d3 - d1
    return (
        d0 + d4 - 2.0 * d2 + 1.5 * q,
        d4 + 0.5 * d2 + 2.5 * d3 - d1,
        d4 - 2.5 * d2 + 0.5 * d3 + d1,
        p + 2.0 * q,
        p - 0.5 * q,
        d1 + d5 - 2.0 * d3 + 1.5 * p,
    )


@kernel
def transform_output_line(m0, m1, m2, m3, m4, m5):
    """Aᵀ times a column."""
    s, d = m1 + m2, m1 - m2
    return (
        m0 + s + m3 + m4,
        d + 0.5 * m3 - 2.0 * m4,
        s + 0.25 * m3 + 4.0 * m4,
        d + 0.125 * m3 - 8.0 * m4 + m5,
    )


@kernel
def transform_kernel_line(g0, g1, g2):
    """G times a column."""
    s = g0 + g2
    return (
        g0,
        (1 / 3) * (s + g1),
        (1 / 3) * (g1 - s),
        (-16 / 15) * (g0 + 0.5 * g1 + 0.25 * g2),
        (1 / 15) * (g0 - 2.0 * g1 + 4.0 * g2),
        g2,
    )


@kernel
def transform_gradient_line(y0, y1, y2, y3):
    """A times a column, the adjoint of the output transform."""
    even, odd = y0 + y2, y1 + y3
    return (
        y0,
        even + odd,
        even - odd,
        y0 + 0.5 * y1 + 0.25 * y2 + 0.125 * y3,
        y0 - 2.0 * y1 + 4.0 * y2 - 8.0 * y3,
        y3,
    )


@kernel
def gather_kernel_line(w0, w1, w2, w3, w4, w5):
    """Gᵀ times a column, the adjoint of the kernel transform."""
    d = (1 / 3) * (w1 - w2)
    return (
        w0 + d - (16 / 15) * w3 + (1 / 15) * w4,
        (1 / 3) * (w1 + w2) - (8 / 15) * w3 - (2 / 15) * w4,
        d - (4 / 15) * w3 + (4 / 15) * w4 + w5,
    )


@kernel
def place(tile, tiles):
    """Image, and first output row and column, of a tile."""
    column = tile % tiles.columns
    tile //= tiles.columns
    row = tile % tiles.rows
    tile //= tiles.rows
    w = tile % tiles.dilation_w + column * OUT * tiles.dilation_w
    tile //= tiles.dilation_w
    h = tile % tiles.dilation_h + row * OUT * tiles.dilation_h
    return tile // tiles.dilation_h, h, w


@kernel
def take_patch(source, n, h, w, height, width, step_h, step_w, channels, size, patch):
    """Copy ``size x size`` pixels that may lie outside of the image, where they read zero."""
    lanes = simd.lanes(patch)
    for i in range(size):
        for j in range(size):
            r, s = h + i * step_h, w + j * step_w
            inside = 0 <= r < height and 0 <= s < width
            at = ((n * height + r) * width + s) * channels
            for c in range(0, channels, lanes):
                count = channels - c if inside else 0
                pixel = simd.load_some(source, at + c, count)
                simd.store_some(patch, (i * size + j) * channels + c, pixel, channels - c)


@kernel
def transform_input(start, stop, source, tiles, channels, first, count, out):
    """Tasks are tiles ``first + task``: ``out[:, task] = Bᵀ d B`` for every channel.

    source : flat (N, H, W, channels)
    out : (36, at least count rows, channels rounded up to whole registers), with the rows behind
        `count` left as they are.
    """
    lanes = simd.lanes(source)
    plane, row = out.shape[1] * out.shape[2], out.shape[2]
    flat = out.reshape(out.size)
    patch = np.empty(ELEMENTS * channels, source.dtype)
    half = np.empty(ELEMENTS * lanes, source.dtype)
    for task in range(start, min(stop, count)):
        n, h, w = place(first + task, tiles)
        h, w = h - tiles.pad_h, w - tiles.pad_w
        inside = (
            h >= 0 and h + (IN - 1) * tiles.dilation_h < tiles.height
            and w >= 0 and w + (IN - 1) * tiles.dilation_w < tiles.width
        )  # fmt: skip
        data, at = source, ((n * tiles.height + h) * tiles.width + w) * channels
        down, right = tiles.dilation_h * tiles.width * channels, tiles.dilation_w * channels
        if not inside:
            take_patch(
                source, n, h, w, tiles.height, tiles.width,
                tiles.dilation_h, tiles.dilation_w, channels, IN, patch,
            )  # fmt: skip
            data, at, down, right = patch, 0, IN * channels, channels
        for c in range(0, channels, lanes):
            some = channels - c
            for j in range(IN):
                p = at + c + j * right
                line = transform_input_line(
                    simd.load_some(data, p, some),
                    simd.load_some(data, p + down, some),
                    simd.load_some(data, p + 2 * down, some),
                    simd.load_some(data, p + 3 * down, some),
                    simd.load_some(data, p + 4 * down, some),
                    simd.load_some(data, p + 5 * down, some),
                )
                for i in range(IN):
                    simd.store(half, (i * IN + j) * lanes, line[i])
            for i in range(IN):
                p = i * IN * lanes
                line = transform_input_line(
                    simd.load(half, p),
                    simd.load(half, p + lanes),
                    simd.load(half, p + 2 * lanes),
                    simd.load(half, p + 3 * lanes),
                    simd.load(half, p + 4 * lanes),
                    simd.load(half, p + 5 * lanes),
                )
                for j in range(IN):
                    simd.store(flat, (i * IN + j) * plane + task * row + c, line[j])


@kernel
def transform_kernels(weight, channels, features, channel, rows, feature, columns, out):
    """``out[36, rows, columns] = G g Gᵀ`` for `rows` input and `columns` output channels.

    weight : flat (3, 3, channels, features)
    out : flat; columns a multiple of the register, zero behind `features`.
    """
    lanes = simd.lanes(weight)
    half = np.empty(3 * IN * lanes, weight.dtype)
    right = channels * features
    for c in range(rows):
        for f in range(0, columns, lanes):
            some = features - feature - f
            at = (channel + c) * features + feature + f
            for j in range(3):
                p = at + j * right
                line = transform_kernel_line(
                    simd.load_some(weight, p, some),
                    simd.load_some(weight, p + 3 * right, some),
                    simd.load_some(weight, p + 6 * right, some),
                )
                for i in range(IN):
                    simd.store(half, (i * 3 + j) * lanes, line[i])
            for i in range(IN):
                p = i * 3 * lanes
                line = transform_kernel_line(
                    simd.load(half, p), simd.load(half, p + lanes), simd.load(half, p + 2 * lanes)
                )
                for j in range(IN):
                    simd.store(out, ((i * IN + j) * rows + c) * columns + f, line[j])


@kernel
def write_tile(products, plane, at, bias, relu, tiles, tile, features, feature, columns, half, y):
    """``Aᵀ m A`` plus bias for `columns` channels of one tile, to the pixels inside the image."""
    lanes = simd.lanes(y)
    n, h, w = place(tile, tiles)
    for f in range(0, columns, lanes):
        some = features - feature - f
        shift = simd.load_some(bias, feature + f, some)
        for j in range(IN):
            p = at + f + j * plane
            line = transform_output_line(
                simd.load(products, p),
                simd.load(products, p + IN * plane),
                simd.load(products, p + 2 * IN * plane),
                simd.load(products, p + 3 * IN * plane),
                simd.load(products, p + 4 * IN * plane),
                simd.load(products, p + 5 * IN * plane),
            )
            for i in range(OUT):
                simd.store(half, (i * IN + j) * lanes, line[i])
        for i in range(OUT):
            r = h + i * tiles.dilation_h
            if r >= tiles.out_height:
                break
            p = i * IN * lanes
            line = transform_output_line(
                simd.load(half, p),
                simd.load(half, p + lanes),
                simd.load(half, p + 2 * lanes),
                simd.load(half, p + 3 * lanes),
                simd.load(half, p + 4 * lanes),
                simd.load(half, p + 5 * lanes),
            )
            for j in range(OUT):
                s = w + j * tiles.dilation_w
                if s < tiles.out_width:
                    value = line[j] + shift
                    if relu:
                        value = simd.maximum(value, simd.splat(y.dtype.type(0)))
                    to = ((n * tiles.out_height + r) * tiles.out_width + s) * features
                    simd.store_some(y, to + feature + f, value, some)


@kernel
def multiply(
    start, stop, transformed, weight, bias, relu, tiles, channels, features, first, count, y
):
    """Tasks are pairs of `TILE_BLOCK` tiles and a panel of features: multiply and write.

    transformed : (36, rows, padded channels), tiles ``first`` to ``first + count`` of the input.
    weight : flat (3, 3, channels, features)
    y : flat (N, OH, OW, features), overwritten at the pixels of these tiles.
    """
    lanes = simd.lanes(y)
    blocks = (count + TILE_BLOCK - 1) // TILE_BLOCK
    plane, row = transformed.shape[1] * transformed.shape[2], transformed.shape[2]
    data = transformed.reshape(transformed.size)
    all_vectors = (features + lanes - 1) // lanes
    widest = gemm.TILE_VECTORS * lanes
    kernels = np.empty(ELEMENTS * min(channels, CHANNEL_BLOCK) * widest, y.dtype)
    # An odd number of registers from plane to plane keeps 36 streams out of each other's way.
    stride = TILE_BLOCK * widest + lanes
    products = np.empty(ELEMENTS * stride, y.dtype)
    half = np.empty(OUT * IN * lanes, y.dtype)
    zeros = np.zeros(widest, y.dtype)
    for task in range(start, stop):
        tile = task % blocks * TILE_BLOCK
        rows = min(TILE_BLOCK, count - tile)
        first_vector = gemm.panel_start(task // blocks, all_vectors)
        vectors = gemm.panel_start(task // blocks + 1, all_vectors) - first_vector
        feature, columns = first_vector * lanes, vectors * lanes
        for channel in range(0, channels, CHANNEL_BLOCK):
            depth = min(CHANNEL_BLOCK, channels - channel)
            transform_kernels(weight, channels, features, channel, depth, feature, columns, kernels)
            for e in range(ELEMENTS):
                gemm.multiply_block(
                    data, e * plane + tile * row + channel, row, gemm.ONE, gemm.ONE_RUN,
                    kernels, e * depth * columns, columns, gemm.ONE_RUN, gemm.ONE, depth, columns,
                    products if channel else zeros, e * stride if channel else 0,
                    columns if channel else 0,
                    products, e * stride, columns, rows, False,
                )  # fmt: skip
        for t in range(rows):
            write_tile(
                products, stride, t * columns, bias, relu, tiles, first + tile + t,
                features, feature, columns, half, y,
            )  # fmt: skip


@kernel
def convolve(start, stop, source, weight, bias, relu, tiles, channels, features, row, total, y):
    """Tasks are blocks of `TILE_BLOCK` tiles: transform and multiply, all of it in one cache."""
    vectors = (features + simd.lanes(y) - 1) // simd.lanes(y)
    panels = gemm.panels_of(vectors)
    transformed = np.empty((ELEMENTS, TILE_BLOCK + 1, row), y.dtype)
    for block in range(start, stop):
        first = block * TILE_BLOCK
        count = min(TILE_BLOCK, total - first)
        transform_input(gemm.ZERO, count, source, tiles, channels, first, count, transformed)
        multiply(
            gemm.ZERO, panels, transformed, weight, bias, relu, tiles, channels, features,
            first, count, y,
        )  # fmt: skip


@kernel
def transform_gradient(start, stop, gy, tiles, features, first, count, out):
    """Tasks are tiles ``first + task``: ``out[:, task] = A gy Aᵀ`` for every output channel.

    gy : flat (N, OH, OW, features)
    out : (36, at least count, features rounded up to whole registers or more)
    """
    lanes = simd.lanes(gy)
    plane, row = out.shape[1] * out.shape[2], out.shape[2]
    flat = out.reshape(out.size)
    patch = np.empty(OUT * OUT * features, gy.dtype)
    half = np.empty(IN * OUT * lanes, gy.dtype)
    for task in range(start, min(stop, count)):
        n, h, w = place(first + task, tiles)
        inside = (
            h + (OUT - 1) * tiles.dilation_h < tiles.out_height
            and w + (OUT - 1) * tiles.dilation_w < tiles.out_width
        )
        data, at = gy, ((n * tiles.out_height + h) * tiles.out_width + w) * features
        down, right = tiles.dilation_h * tiles.out_width * features, tiles.dilation_w * features
        if not inside:
            take_patch(
                gy, n, h, w, tiles.out_height, tiles.out_width,
                tiles.dilation_h, tiles.dilation_w, features, OUT, patch,
            )  # fmt: skip
            data, at, down, right = patch, 0, OUT * features, features
        for f in range(0, features, lanes):
            some = features - f
            for j in range(OUT):
                p = at + f + j * right
                line = transform_gradient_line(
                    simd.load_some(data, p, some),
                    simd.load_some(data, p + down, some),
                    simd.load_some(data, p + 2 * down, some),
                    simd.load_some(data, p + 3 * down, some),
                )
                for i in range(IN):
                    simd.store(half, (i * OUT + j) * lanes, line[i])
            for i in range(IN):
                p = i * OUT * lanes
                line = transform_gradient_line(
                    simd.load(half, p),
                    simd.load(half, p + lanes),
                    simd.load(half, p + 2 * lanes),
                    simd.load(half, p + 3 * lanes),
                )
                for j in range(IN):
                    simd.store(flat, (i * IN + j) * plane + task * row + f, line[j])


@kernel
def accumulate(start, stop, x, gy, count, add, sums):
    """Tasks are (part of the tiles, `CHANNEL_BLOCK` channels, panel of features).

    ``sums[part, e] (+)= x[e]ᵀ @ gy[e]`` over the tiles of the part, for each of 36 elements e.

    x, gy : transformed tiles, (36, rows, channels), (36, rows, features), `count` rows valid
    sums : (parts, 36, channels, features), in whole tiles and in whole registers
    """
    lanes = simd.lanes(sums)
    parts, _, channels, features = sums.shape
    vectors = features // lanes
    panels = gemm.panels_of(vectors)
    blocks = (channels + CHANNEL_BLOCK - 1) // CHANNEL_BLOCK
    x_row, gy_row = x.shape[2], gy.shape[2]
    a, b, out = x.reshape(x.size), gy.reshape(gy.size), sums.reshape(sums.size)
    zeros = np.zeros(gemm.TILE_VECTORS * lanes, sums.dtype)
    for task in range(start, stop):
        part = task // (blocks * panels)
        channel = task // panels % blocks * CHANNEL_BLOCK
        v = gemm.panel_start(task % panels, vectors)
        width = gemm.panel_start(task % panels + 1, vectors) - v
        tile = part * count // parts
        depth = (part + 1) * count // parts - tile
        if depth == 0:  # the last chunk may have fewer tiles than parts; the first never has
            continue
        for e in range(ELEMENTS):
            to = ((part * ELEMENTS + e) * channels + channel) * features + v * lanes
            gemm.multiply_block(
                a, (e * x.shape[1] + tile) * x_row + channel, gemm.ONE, x_row, gemm.ONE_RUN,
                b, (e * gy.shape[1] + tile) * gy_row + v * lanes, gy_row, gemm.ONE_RUN,
                gemm.ONE, depth, width * lanes,
                out if add else zeros, to if add else 0, features if add else 0,
                out, to, features, min(CHANNEL_BLOCK, channels - channel), False,
            )  # fmt: skip


@kernel
def correlate(start, stop, x, gy, tiles, x_row, gy_row, total, sums):
    """Tasks are parts of the tiles: transform x and gy and `accumulate`, all in one cache."""
    parts, _, channels, features = sums.shape
    panels = gemm.panels_of(features // simd.lanes(sums))
    tasks = panels * ((channels + CHANNEL_BLOCK - 1) // CHANNEL_BLOCK)
    x_tiles = np.empty((ELEMENTS, TILE_BLOCK + 1, x_row), x.dtype)
    gy_tiles = np.empty((ELEMENTS, TILE_BLOCK + 1, gy_row), x.dtype)
    x_channels = x.size // (tiles.images * tiles.height * tiles.width)
    gy_channels = gy.size // (tiles.images * tiles.out_height * tiles.out_width)
    for part in range(start, stop):
        begin, end = part * total // parts, (part + 1) * total // parts
        for first in range(begin, end, TILE_BLOCK):
            count = min(TILE_BLOCK, end - first)
            transform_input(gemm.ZERO, count, x, tiles, x_channels, first, count, x_tiles)
            transform_gradient(gemm.ZERO, count, gy, tiles, gy_channels, first, count, gy_tiles)
            accumulate(
                gemm.ZERO, tasks, x_tiles, gy_tiles, count, first > begin, sums[part : part + 1]
            )


@kernel
def turn_kernels(start, stop, weight, channels, features, out):
    """Tasks are taps: ``out[8 - tap] = weight[tap]ᵀ``, (channels, features) matrices in a row."""
    for tap in range(start, stop):
        at, to = tap * channels * features, (8 - tap) * channels * features
        gemm.transpose(weight, at, features, channels, features, out, to, channels)


@kernel
def gather_kernels(start, stop, sums, channels, features, gw):
    """Tasks are input channels: add the parts of `accumulate`, ``gw = Gᵀ sum G``.

    gw : flat (3, 3, channels, features)
    """
    lanes = simd.lanes(gw)
    parts, _, rows, columns = sums.shape
    flat = sums.reshape(sums.size)
    plane = rows * columns
    whole = np.empty(ELEMENTS * lanes, gw.dtype)
    half = np.empty(3 * IN * lanes, gw.dtype)
    for c in range(start, stop):
        for f in range(0, features, lanes):
            for e in range(ELEMENTS):
                at = e * plane + c * columns + f
                total = simd.load(flat, at)
                for part in range(1, parts):
                    total += simd.load(flat, part * ELEMENTS * plane + at)
                simd.store(whole, e * lanes, total)
            for j in range(IN):
                p = j * lanes
                line = gather_kernel_line(
                    simd.load(whole, p),
                    simd.load(whole, p + 6 * lanes),
                    simd.load(whole, p + 12 * lanes),
                    simd.load(whole, p + 18 * lanes),
                    simd.load(whole, p + 24 * lanes),
                    simd.load(whole, p + 30 * lanes),
                )
                for i in range(3):
                    simd.store(half, (i * IN + j) * lanes, line[i])
            for i in range(3):
                p = i * IN * lanes
                line = gather_kernel_line(
                    simd.load(half, p),
                    simd.load(half, p + lanes),
                    simd.load(half, p + 2 * lanes),
                    simd.load(half, p + 3 * lanes),
                    simd.load(half, p + 4 * lanes),
                    simd.load(half, p + 5 * lanes),
                )
                for j in range(3):
                    to = ((i * 3 + j) * channels + c) * features + f
                    simd.store_some(gw, to, line[j], features - f)


def cover(x, dilation, padding, out_size) -> Tiles:
    """The tiles of a 3x3 convolution of x, (N, H, W, C), to `out_size`."""
    across = zip(out_size, dilation, strict=True)
    rows, columns = ((size - 1) // (step * OUT) + 1 for size, step in across)
    return Tiles(len(x), *dilation, rows, columns, *padding, *x.shape[1:3], *out_size)


def number_of(tiles: Tiles) -> int:
    """How many tiles there are."""
    return tiles.images * tiles.dilation_h * tiles.dilation_w * tiles.rows * tiles.columns


def _row(channels: int, dtype) -> int:
    """Numbers from one transformed tile to the next.

    A register more than needed, so that it is no power of two, for which a cache has few places.
    For the same reason planes have a row more than needed.
    """
    return (gemm.vectors_for(channels, dtype) + 1) * simd.lanes_of(dtype)


def _room(count: int, channels: int, dtype) -> np.ndarray:
    """Room for `count` transformed tiles."""
    rows = -(-count // gemm.TILE_ROWS) * gemm.TILE_ROWS + 1
    return np.empty((ELEMENTS, rows, _row(channels, dtype)), dtype)


def _transform(function, source, tiles, first, count, out):
    channels = source.shape[-1]
    parallel.run(
        function, count, count * channels * 20,
        source.reshape(-1), tiles, channels, first, count, out,
    )  # fmt: skip


def forward(x, weight, bias, padding, dilation, out_size, relu=False):
    """3x3 convolution of stride 1, (N, H, W, C) to (N, *out_size, F).

    Parameters
    ----------
    x : (N, H, W, C) array
    weight : (3, 3, C, F) array
    bias : (F,) array
    padding, dilation : two integers each, as for `conv.forward`
    out_size : (OH, OW)
    relu : bool
        Write ``max(y, 0)`` in place of y.

    Notes
    -----
    The error against exact arithmetic is below 3e-5 of the largest output for inputs and weights of
    unit variance and up to 512 channels.
    """
    channels, features = weight.shape[2:]
    y = np.empty((len(x), *out_size, features), x.dtype)
    tiles = cover(x, dilation, padding, out_size)
    total = number_of(tiles)
    blocks = -(-total // TILE_BLOCK)
    work = total * channels * features
    if blocks >= MIN_TASKS:
        parallel.run(
            convolve, blocks, work, x.reshape(-1), weight.reshape(-1), bias, relu, tiles,
            channels, features, _row(channels, x.dtype), total, y.reshape(-1),
        )  # fmt: skip
        return y
    # Few tiles, and so many channels: threads share the features, and all need all tiles.
    transformed = _room(total, channels, x.dtype)
    _transform(transform_input, x, tiles, 0, total, transformed)
    panels = gemm.panels_of(gemm.vectors_for(features, x.dtype))
    parallel.run(
        multiply, blocks * panels, work, transformed, weight.reshape(-1), bias, relu, tiles,
        channels, features, 0, total, y.reshape(-1),
    )  # fmt: skip
    return y


def input_grad(gy, weight, bias, padding, dilation, size):
    """Gradient of the input of `forward`: the convolution of gy with the kernels turned round.

    Parameters
    ----------
    gy : (N, OH, OW, F) array
    weight : (3, 3, C, F) array
    bias : (C,) array
    padding, dilation : as for `forward`
    size : (H, W)
    """
    channels, features = weight.shape[2:]
    turned = np.empty((3, 3, features, channels), weight.dtype)
    parallel.run(
        turn_kernels, 9, weight.size, weight.reshape(-1), channels, features, turned.reshape(-1)
    )
    rest = tuple(2 * d - p for d, p in zip(dilation, padding, strict=True))
    return forward(gy, turned, bias, rest, dilation, size)


def weight_grad(x, gy, padding, dilation):
    """Gradient of the weight of `forward`, (3, 3, C, F), from x and gy."""
    channels, features = x.shape[-1], gy.shape[-1]
    lanes = simd.lanes_of(x.dtype)
    rows = -(-channels // gemm.TILE_ROWS) * gemm.TILE_ROWS
    columns = gemm.vectors_for(features, x.dtype) * lanes
    tiles = cover(x, dilation, padding, gy.shape[1:3])
    total = number_of(tiles)
    if total == 0:
        return np.zeros((3, 3, channels, features), x.dtype)
    work = total * channels * features
    if ELEMENTS * rows * columns * x.itemsize <= PART_BYTES and total >= MIN_TASKS * TILE_BLOCK:
        sums = np.empty((MIN_TASKS, ELEMENTS, rows, columns), x.dtype)
        parallel.run(
            correlate, MIN_TASKS, work, x.reshape(-1), gy.reshape(-1), tiles,
            _row(channels, x.dtype), _row(features, x.dtype), total, sums,
        )  # fmt: skip
        return _gather_kernels(sums, channels, features)
    # Many channels: threads share the products, and all need all tiles.
    size = max(MIN_CHUNK, CHUNK_BYTES // (ELEMENTS * x.itemsize * (channels + features)))
    tasks = -(-rows // CHANNEL_BLOCK) * gemm.panels_of(columns // lanes)
    parts = min(total, max(1, MIN_TASKS // tasks))
    sums = np.empty((parts, ELEMENTS, rows, columns), x.dtype)
    x_tiles = _room(min(size, total), channels, x.dtype)
    gy_tiles = _room(min(size, total), features, x.dtype)
    for first in range(0, total, size):
        count = min(size, total - first)
        _transform(transform_input, x, tiles, first, count, x_tiles)
        _transform(transform_gradient, gy, tiles, first, count, gy_tiles)
        parallel.run(
            accumulate, parts * tasks, count * channels * features,
            x_tiles, gy_tiles, count, first > 0, sums,
        )  # fmt: skip
    return _gather_kernels(sums, channels, features)


def _gather_kernels(sums, channels, features):
    """The weight gradient from the parts of its transform."""
    gw = np.empty((3, 3, channels, features), sums.dtype)
    parallel.run(
        gather_kernels, channels, gw.size * 10,
        sums, channels, features, gw.reshape(-1),
    )  # fmt: skip
    return gw
