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
dilation: its tiles take every `dilation`-th pixel. A volume is a number of images, whose channels
are those of the planes that the kernel sees.

Lavin & Gray, Fast Algorithms for Convolutional Neural Networks, 2016, section 4.
Barabasz et al., Error Analysis and Improving the Accuracy of Winograd Convolution, 2020.
"""

from typing import NamedTuple

import numpy as np

from minidl.kernels import gemm, memory, parallel, simd
from minidl.kernels.jit import kernel

IN, OUT = 6, 4  # extents of a tile
ELEMENTS = IN * IN
TILE_BLOCK = 48  # tiles that a task multiplies at once; their products stay in its cache
# Input channels whose transformed kernels are in the cache at once; whole tiles of the product.
CHANNEL_BLOCK = 8 * gemm.TILE_ROWS
KERNEL_BYTES = 4 << 20  # transformed kernels up to which they are kept for all tiles
MIN_TASKS = 8  # enough to keep threads busy
CHUNK_BYTES = 5 << 20  # transformed tiles that a weight gradient takes together
PART_BYTES = 1 << 20  # transformed weight gradient up to which a thread has one of its own
MIN_CHUNK = 64  # but so many at least


class Tiles(NamedTuple):
    """How 4x4 tiles of outputs cover images; tile rows and columns of all remainders in turn.

    The images are the planes of the result. Each sees `taps` planes of the input.
    """

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
    taps: int
    dilation_d: int
    pad_d: int
    depth: int  # planes of a volume, and of its result
    out_depth: int
    channels: int  # of a plane of the input


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
def load_3(source, at, step, some):
    """Three vectors `step` apart, of which the first `some` lanes count."""
    return (
        simd.load_some(source, at, some),
        simd.load_some(source, at + step, some),
        simd.load_some(source, at + 2 * step, some),
    )


@kernel
def load_4(source, at, step, some):
    """Four of them."""
    return (*load_3(source, at, step, some), simd.load_some(source, at + 3 * step, some))


@kernel
def load_6(source, at, step, some):
    """Six of them."""
    return load_3(source, at, step, some) + load_3(source, at + 3 * step, step, some)


@kernel
def store_6(out, at, step, line):
    """Write six vectors, `step` apart."""
    simd.store(out, at, line[0])
    simd.store(out, at + step, line[1])
    simd.store(out, at + 2 * step, line[2])
    simd.store(out, at + 3 * step, line[3])
    simd.store(out, at + 4 * step, line[4])
    simd.store(out, at + 5 * step, line[5])


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
def transform_patch(source, at, down, right, some, rows, out, to, plane):
    """Rows 0 to 2 or 3 to 5 of ``Bᵀ d B`` for a register of channels; `plane` from each to next."""
    d0 = transform_input_line(*load_6(source, at, down, some))
    d1 = transform_input_line(*load_6(source, at + right, down, some))
    d2 = transform_input_line(*load_6(source, at + 2 * right, down, some))
    d3 = transform_input_line(*load_6(source, at + 3 * right, down, some))
    d4 = transform_input_line(*load_6(source, at + 4 * right, down, some))
    d5 = transform_input_line(*load_6(source, at + 5 * right, down, some))
    if rows == 0:
        store_6(out, to, plane, transform_input_line(d0[0], d1[0], d2[0], d3[0], d4[0], d5[0]))
        to += IN * plane
        store_6(out, to, plane, transform_input_line(d0[1], d1[1], d2[1], d3[1], d4[1], d5[1]))
        to += IN * plane
        store_6(out, to, plane, transform_input_line(d0[2], d1[2], d2[2], d3[2], d4[2], d5[2]))
    else:
        to += 3 * IN * plane
        store_6(out, to, plane, transform_input_line(d0[3], d1[3], d2[3], d3[3], d4[3], d5[3]))
        to += IN * plane
        store_6(out, to, plane, transform_input_line(d0[4], d1[4], d2[4], d3[4], d4[4], d5[4]))
        to += IN * plane
        store_6(out, to, plane, transform_input_line(d0[5], d1[5], d2[5], d3[5], d4[5], d5[5]))


@kernel
def transform_input(start, stop, source, tiles, channels, first, count, out, shift):
    """Tasks are tiles ``first + task``: ``out[:, task] = Bᵀ d B`` for every channel of every tap.

    Tap k begins at channel ``k * tiles.channels + shift`` of `out`.

    source : flat (N, H, W, channels)
    out : (36, at least count rows, channels rounded up to whole registers), with the rows behind
        `count` left as they are.
    """
    lanes = simd.lanes(source)
    plane, row = out.shape[1] * out.shape[2], out.shape[2]
    flat = out.reshape(out.size)
    patch = np.empty(ELEMENTS * channels, source.dtype)
    for task in range(start, min(stop, count)):
        image, h, w = place(first + task, tiles)
        for tap in range(tiles.taps):
            z = image % tiles.out_depth + tap * tiles.dilation_d - tiles.pad_d
            to = task * row + tap * tiles.channels + shift
            if 0 <= z < tiles.depth:
                transform_tile(
                    source, image // tiles.out_depth * tiles.depth + z, h - tiles.pad_h,
                    w - tiles.pad_w, tiles, channels, patch, flat, to, plane,
                )  # fmt: skip
            else:
                for e in range(ELEMENTS):
                    for c in range(0, channels, lanes):
                        simd.store(flat, to + e * plane + c, simd.splat(flat.dtype.type(0)))


@kernel
def transform_tile(source, n, h, w, tiles, channels, patch, out, to, plane):
    """``Bᵀ d B`` of the tile of plane n that begins at row h, column w, for all channels."""
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
    for c in range(0, channels, simd.lanes(out)):
        for rows in range(2):  # three at a time, because registers do not hold six
            transform_patch(data, at + c, down, right, channels - c, rows, out, to + c, plane)


@kernel
def scaled_6(line, factor):
    """Six vectors times another."""
    a, b, c, d, e, f = line
    return a * factor, b * factor, c * factor, d * factor, e * factor, f * factor


@kernel
def transform_kernels(weight, scale, channels, features, channel, rows, feature, columns, out):
    """``out[36, rows, columns] = G g Gᵀ`` for `rows` input and `columns` output channels.

    weight : flat (3, 3, channels, features)
    scale : empty, or a factor for each of the features
    out : flat; columns a multiple of the register, zero behind `features`.
    """
    lanes = simd.lanes(weight)
    right = channels * features
    plane = rows * columns
    for c in range(rows):
        for f in range(0, columns, lanes):
            some, at = features - feature - f, (channel + c) * features + feature + f
            g0 = transform_kernel_line(*load_3(weight, at, 3 * right, some))
            g1 = transform_kernel_line(*load_3(weight, at + right, 3 * right, some))
            g2 = transform_kernel_line(*load_3(weight, at + 2 * right, 3 * right, some))
            if scale.size:
                factor = simd.load_some(scale, feature + f, some)
                g0, g1, g2 = scaled_6(g0, factor), scaled_6(g1, factor), scaled_6(g2, factor)
            to = c * columns + f
            store_6(out, to, plane, transform_kernel_line(g0[0], g1[0], g2[0]))
            store_6(out, to + 6 * plane, plane, transform_kernel_line(g0[1], g1[1], g2[1]))
            store_6(out, to + 12 * plane, plane, transform_kernel_line(g0[2], g1[2], g2[2]))
            store_6(out, to + 18 * plane, plane, transform_kernel_line(g0[3], g1[3], g2[3]))
            store_6(out, to + 24 * plane, plane, transform_kernel_line(g0[4], g1[4], g2[4]))
            store_6(out, to + 30 * plane, plane, transform_kernel_line(g0[5], g1[5], g2[5]))


@kernel
def write_pixels(y, at, step, line, shift, floor, count, some):
    """Write ``max(line + shift, floor)`` to the first `count` of four pixels, `step` apart."""
    simd.store_some(y, at, simd.maximum(floor, line[0] + shift), some)
    if count > 1:
        simd.store_some(y, at + step, simd.maximum(floor, line[1] + shift), some)
    if count > 2:
        simd.store_some(y, at + 2 * step, simd.maximum(floor, line[2] + shift), some)
    if count > 3:
        simd.store_some(y, at + 3 * step, simd.maximum(floor, line[3] + shift), some)


@kernel
def write_tile(
    products, plane, at, bias, bias_at, floor, tiles, tile, features, feature, columns, y
):
    """``max(Aᵀ m A + bias, floor)`` for `columns` channels of one tile, where the image has it.

    y : flat (N, OH, OW, features), written from channel `feature` on
    """
    lanes = simd.lanes(y)
    n, h, w = place(tile, tiles)
    down, right = tiles.dilation_h * tiles.out_width * features, tiles.dilation_w * features
    high = (tiles.out_height - h + tiles.dilation_h - 1) // tiles.dilation_h
    wide = (tiles.out_width - w + tiles.dilation_w - 1) // tiles.dilation_w
    if high <= 0 or wide <= 0:
        return
    to = ((n * tiles.out_height + h) * tiles.out_width + w) * features + feature
    limit = simd.splat(floor)
    for f in range(0, columns, lanes):
        some, p, q = features - feature - f, at + f, to + f
        shift = simd.load_some(bias, bias_at + f, some)
        m0 = transform_output_line(*load_6(products, p, IN * plane, lanes))
        m1 = transform_output_line(*load_6(products, p + plane, IN * plane, lanes))
        m2 = transform_output_line(*load_6(products, p + 2 * plane, IN * plane, lanes))
        m3 = transform_output_line(*load_6(products, p + 3 * plane, IN * plane, lanes))
        m4 = transform_output_line(*load_6(products, p + 4 * plane, IN * plane, lanes))
        m5 = transform_output_line(*load_6(products, p + 5 * plane, IN * plane, lanes))
        line = transform_output_line(m0[0], m1[0], m2[0], m3[0], m4[0], m5[0])
        write_pixels(y, q, right, line, shift, limit, wide, some)
        if high > 1:
            line = transform_output_line(m0[1], m1[1], m2[1], m3[1], m4[1], m5[1])
            write_pixels(y, q + down, right, line, shift, limit, wide, some)
        if high > 2:
            line = transform_output_line(m0[2], m1[2], m2[2], m3[2], m4[2], m5[2])
            write_pixels(y, q + 2 * down, right, line, shift, limit, wide, some)
        if high > 3:
            line = transform_output_line(m0[3], m1[3], m2[3], m3[3], m4[3], m5[3])
            write_pixels(y, q + 3 * down, right, line, shift, limit, wide, some)


@kernel
def prepare(start, stop, weight, scale, channels, features, out):
    """Tasks are panels of features: the transformed kernels of all of them, as `multiply` reads."""
    lanes = simd.lanes(out)
    vectors = (features + lanes - 1) // lanes
    for panel in range(start, stop):
        feature = gemm.panel_start(panel, vectors) * lanes
        columns = gemm.panel_start(panel + 1, vectors) * lanes - feature
        for channel in range(0, channels, CHANNEL_BLOCK):
            depth = min(CHANNEL_BLOCK, channels - channel)
            to = ELEMENTS * (feature * channels + channel * columns)
            transform_kernels(
                weight, scale, channels, features, channel, depth, feature, columns, out[to:]
            )


@kernel
def multiply(
    start, stop, transformed, weight, scale, prepared, bias, floor, tiles, channels, features,
    first, count, y, own, beside,
):  # fmt: skip
    """Tasks are pairs of `TILE_BLOCK` tiles and a panel of features: multiply and write.

    transformed : (36, rows, padded channels), tiles ``first`` to ``first + count`` of the input.
    weight : flat (3, 3, channels, features)
    scale : empty, or a factor for each of the features
    prepared : kernels transformed by `prepare`; or empty, and they are transformed here
    y, beside : flat (N, OH, OW, own) and (N, OH, OW, features - own), overwritten at the pixels of
        these tiles.
    """
    lanes = simd.lanes(y)
    blocks = (count + TILE_BLOCK - 1) // TILE_BLOCK
    plane, row = transformed.shape[1] * transformed.shape[2], transformed.shape[2]
    data = transformed.reshape(transformed.size)
    all_vectors = (features + lanes - 1) // lanes
    widest = gemm.TILE_VECTORS * lanes
    ready = prepared.size > 0
    fresh = simd.room(0 if ready else ELEMENTS * min(channels, CHANNEL_BLOCK) * widest, y)
    kernels = prepared if ready else fresh
    # An odd number of registers from plane to plane keeps 36 streams out of each other's way.
    stride = TILE_BLOCK * widest + lanes
    products = simd.room(ELEMENTS * stride, y)
    zeros = np.zeros(widest, y.dtype)
    for task in range(start, stop):
        tile = task % blocks * TILE_BLOCK
        rows = min(TILE_BLOCK, count - tile)
        first_vector = gemm.panel_start(task // blocks, all_vectors)
        vectors = gemm.panel_start(task // blocks + 1, all_vectors) - first_vector
        feature, columns = first_vector * lanes, vectors * lanes
        for channel in range(0, channels, CHANNEL_BLOCK):
            depth = min(CHANNEL_BLOCK, channels - channel)
            at = ELEMENTS * (feature * channels + channel * columns) if ready else 0
            if not ready:
                transform_kernels(
                    weight, scale, channels, features, channel, depth, feature, columns, kernels
                )
            for e in range(ELEMENTS):
                gemm.multiply_block(
                    data, e * plane + tile * row + channel, row, gemm.ONE, gemm.ONE_RUN,
                    kernels, at + e * depth * columns, columns, gemm.ONE_RUN, gemm.ONE, depth,
                    columns,
                    products if channel else zeros, e * stride if channel else 0,
                    columns if channel else 0,
                    products, e * stride, columns, rows, False,
                )  # fmt: skip
        for t in range(rows):
            mine = max(0, min(columns, own - feature))
            if mine > 0:
                write_tile(
                    products, stride, t * columns, bias, feature, floor, tiles, first + tile + t,
                    own, feature, mine, y,
                )  # fmt: skip
            if mine < columns and own < features:
                write_tile(
                    products, stride, t * columns + mine, bias, feature + mine, floor, tiles,
                    first + tile + t, features - own, feature + mine - own, columns - mine, beside,
                )  # fmt: skip


@kernel
def room_for(tiles, row, like):
    """Room for transformed tiles, (36, tiles + 1, row).

    Planes are a row larger than needed, so that their distance is no power of two, for which a
    cache has few places.
    """
    return simd.room(ELEMENTS * (tiles + 1) * row, like).reshape((ELEMENTS, tiles + 1, row))


@kernel
def convolve(
    start, stop, source, source_beside, source_own, weight, scale, prepared, bias, floor, tiles,
    channels, features, row, total, y, own, beside,
):  # fmt: skip
    """Tasks are blocks of `TILE_BLOCK` tiles: transform and multiply, all of it in one cache.

    source, source_beside : flat, the first `source_own` of the channels and the others
    y, own, beside : as for `multiply`
    """
    vectors = (features + simd.lanes(y) - 1) // simd.lanes(y)
    panels = gemm.panels_of(vectors)
    transformed = room_for(TILE_BLOCK, row, y)
    for block in range(start, stop):
        first = block * TILE_BLOCK
        count = min(TILE_BLOCK, total - first)
        transform_input(
            gemm.ZERO, count, source, tiles, source_own, first, count, transformed, gemm.ZERO
        )
        transform_input(
            gemm.ZERO, count, source_beside, tiles, tiles.channels - source_own, first, count,
            transformed, source_own,
        )  # fmt: skip
        multiply(
            gemm.ZERO, panels, transformed, weight, scale, prepared, bias, floor, tiles, channels,
            features, first, count, y, own, beside,
        )  # fmt: skip


@kernel
def transform_gradient(start, stop, gy, tiles, features, first, count, out, shift):
    """Tasks are tiles ``first + task``: ``out[:, task, shift:] = A gy Aᵀ`` for every
    output channel.

    gy : flat (N, OH, OW, features)
    out : (36, at least count, features rounded up to whole registers or more)
    """
    lanes = simd.lanes(gy)
    plane, row = out.shape[1] * out.shape[2], out.shape[2]
    flat = out.reshape(out.size)
    patch = np.empty(OUT * OUT * features, gy.dtype)
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
            some, p, to = features - f, at + f, task * row + shift + f
            y0 = transform_gradient_line(*load_4(data, p, down, some))
            y1 = transform_gradient_line(*load_4(data, p + right, down, some))
            y2 = transform_gradient_line(*load_4(data, p + 2 * right, down, some))
            y3 = transform_gradient_line(*load_4(data, p + 3 * right, down, some))
            store_6(flat, to, plane, transform_gradient_line(y0[0], y1[0], y2[0], y3[0]))
            to += IN * plane
            store_6(flat, to, plane, transform_gradient_line(y0[1], y1[1], y2[1], y3[1]))
            to += IN * plane
            store_6(flat, to, plane, transform_gradient_line(y0[2], y1[2], y2[2], y3[2]))
            to += IN * plane
            store_6(flat, to, plane, transform_gradient_line(y0[3], y1[3], y2[3], y3[3]))
            to += IN * plane
            store_6(flat, to, plane, transform_gradient_line(y0[4], y1[4], y2[4], y3[4]))
            to += IN * plane
            store_6(flat, to, plane, transform_gradient_line(y0[5], y1[5], y2[5], y3[5]))


@kernel
def multiply_tiles(
    x, gy, x_at, gy_at, count, channels, width, before, before_at, before_row, before_plane,
    sums, at, row, plane,
):  # fmt: skip
    """``sums[e] = before[e] + x[e]ᵀ @ gy[e]`` over `count` tiles, for each of the 36 elements e.

    x, gy : transformed tiles, from whose channel `x_at` and `gy_at` on `channels` and `width` are
        taken
    sums : flat; planes from element to element, rows from channel to channel, in whole tiles
    """
    x_row, gy_row = x.shape[2], gy.shape[2]
    a, b = x.reshape(x.size), gy.reshape(gy.size)
    for e in range(ELEMENTS):
        gemm.multiply_block(
            a, e * x.shape[1] * x_row + x_at, gemm.ONE, x_row, gemm.ONE_RUN,
            b, e * gy.shape[1] * gy_row + gy_at, gy_row, gemm.ONE_RUN, gemm.ONE, count, width,
            before, before_at + e * before_plane, before_row, sums, at + e * plane, row, channels,
            False,
        )  # fmt: skip


@kernel
def add_3(gw, at, step, line, add, some):
    """Write three vectors, `step` apart, or add them to what is there."""
    if add:
        before = load_3(gw, at, step, some)
        line = line[0] + before[0], line[1] + before[1], line[2] + before[2]
    simd.store_some(gw, at, line[0], some)
    simd.store_some(gw, at + step, line[1], some)
    simd.store_some(gw, at + 2 * step, line[2], some)


@kernel
def write_kernels(
    sums, at, row, plane, channels, features, channel, rows, feature, columns, add, gw
):  # fmt: skip
    """``gw (+)= Gᵀ sums G`` for `rows` input channels and `columns` output channels.

    sums : flat, the products of all tiles, element by element
    gw : flat (3, 3, channels, features)
    """
    lanes = simd.lanes(gw)
    step = channels * features
    for c in range(rows):
        for f in range(0, columns, lanes):
            p = at + c * row + f
            w0 = gather_kernel_line(*load_6(sums, p, IN * plane, lanes))
            w1 = gather_kernel_line(*load_6(sums, p + plane, IN * plane, lanes))
            w2 = gather_kernel_line(*load_6(sums, p + 2 * plane, IN * plane, lanes))
            w3 = gather_kernel_line(*load_6(sums, p + 3 * plane, IN * plane, lanes))
            w4 = gather_kernel_line(*load_6(sums, p + 4 * plane, IN * plane, lanes))
            w5 = gather_kernel_line(*load_6(sums, p + 5 * plane, IN * plane, lanes))
            to, some = (channel + c) * features + feature + f, features - feature - f
            line = gather_kernel_line(w0[0], w1[0], w2[0], w3[0], w4[0], w5[0])
            add_3(gw, to, step, line, add, some)
            line = gather_kernel_line(w0[1], w1[1], w2[1], w3[1], w4[1], w5[1])
            add_3(gw, to + 3 * step, step, line, add, some)
            line = gather_kernel_line(w0[2], w1[2], w2[2], w3[2], w4[2], w5[2])
            add_3(gw, to + 6 * step, step, line, add, some)


@kernel
def correlate(start, stop, x, beside, own, gy, tiles, x_row, gy_row, total, sums):
    """Tasks are parts of the tiles: transform x and gy, multiply and sum up, all in one cache.

    x, beside : flat, the first `own` of the channels and the others
    sums : (parts, 36, channels, features), in whole tiles and in whole registers
    """
    parts, _, channels, features = sums.shape
    lanes = simd.lanes(sums)
    vectors = features // lanes
    x_tiles, gy_tiles = room_for(TILE_BLOCK, x_row, x), room_for(TILE_BLOCK, gy_row, x)
    gy_channels = gy.size // (tiles.images * tiles.out_height * tiles.out_width)
    flat, zeros = sums.reshape(sums.size), np.zeros(gemm.TILE_VECTORS * lanes, sums.dtype)
    for part in range(start, stop):
        begin, end = part * total // parts, (part + 1) * total // parts
        for first in range(begin, end, TILE_BLOCK):
            count = min(TILE_BLOCK, end - first)
            transform_input(gemm.ZERO, count, x, tiles, own, first, count, x_tiles, gemm.ZERO)
            transform_input(
                gemm.ZERO, count, beside, tiles, tiles.channels - own, first, count, x_tiles, own
            )
            transform_gradient(
                gemm.ZERO, count, gy, tiles, gy_channels, first, count, gy_tiles, gemm.ZERO
            )
            plane, new = channels * features, first == begin
            for panel in range(gemm.panels_of(vectors)):
                feature = gemm.panel_start(panel, vectors) * lanes
                width = gemm.panel_start(panel + 1, vectors) * lanes - feature
                at = part * ELEMENTS * plane + feature
                multiply_tiles(
                    x_tiles, gy_tiles, gemm.ZERO, feature, count, channels, width,
                    zeros if new else flat, 0 if new else at, 0 if new else features,
                    0 if new else plane, flat, at, features, plane,
                )  # fmt: skip


@kernel
def add_parts(start, stop, sums, channels, features, gw):
    """Tasks are input channels: add the parts of `correlate` and write their kernels.

    sums : overwritten
    """
    parts, _, rows, columns = sums.shape
    flat, plane = sums.reshape(sums.size), rows * columns
    for c in range(start, stop):
        for e in range(ELEMENTS):
            at = e * plane + c * columns
            for part in range(1, parts):
                for f in range(columns):
                    flat[at + f] += flat[part * ELEMENTS * plane + at + f]
        write_kernels(
            flat, c * columns, columns, plane, channels, features, c, gemm.ONE, gemm.ZERO, columns,
            False, gw,
        )  # fmt: skip


@kernel
def correlate_channels(start, stop, x_tiles, gy_tiles, count, channels, features, add, gw):
    """Tasks are (`CHANNEL_BLOCK` input channels, panel of features): the gradient of their kernels.

    x_tiles, gy_tiles : transformed tiles, `count` of them
    gw : flat (3, 3, channels, features); overwritten, or added to
    """
    lanes = simd.lanes(gw)
    vectors = (features + lanes - 1) // lanes
    panels = gemm.panels_of(vectors)
    widest = gemm.TILE_VECTORS * lanes
    plane = CHANNEL_BLOCK * widest + lanes
    sums, zeros = simd.room(ELEMENTS * plane, gw), np.zeros(widest, gw.dtype)
    for task in range(start, stop):
        channel = task // panels * CHANNEL_BLOCK
        rows = min(CHANNEL_BLOCK, channels - channel)
        feature = gemm.panel_start(task % panels, vectors) * lanes
        width = gemm.panel_start(task % panels + 1, vectors) * lanes - feature
        multiply_tiles(
            x_tiles, gy_tiles, channel, feature, count, rows, width,
            zeros, gemm.ZERO, gemm.ZERO, gemm.ZERO, sums, gemm.ZERO, width, plane,
        )  # fmt: skip
        write_kernels(
            sums, gemm.ZERO, width, plane, channels, features, channel, rows, feature, width, add,
            gw,
        )  # fmt: skip


@kernel
def turn_kernels(start, stop, weight, channels, features, out):
    """Tasks are taps: ``out[8 - tap] = weight[tap]ᵀ``, (channels, features) matrices in a row."""
    for tap in range(start, stop):
        at, to = tap * channels * features, (8 - tap) * channels * features
        gemm.transpose(weight, at, features, channels, features, out, to, channels)


def cover(shape, taps, dilation, padding, out_size) -> Tiles:
    """The tiles of a (taps, 3, 3) convolution from `shape`, (N, D, H, W, C), to `out_size`."""
    across = zip(out_size[1:], dilation[1:], strict=True)
    rows, columns = ((size - 1) // (step * OUT) + 1 for size, step in across)
    return Tiles(
        shape[0] * out_size[0], *dilation[1:], rows, columns, *padding[1:], *shape[2:4],
        *out_size[1:], taps, dilation[0], padding[0], shape[1], out_size[0], shape[4],
    )  # fmt: skip


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
    return memory.empty((ELEMENTS, rows, _row(channels, dtype)), dtype)


def _transform(function, source, tiles, first, count, out, shift=0):
    channels = source.shape[-1]
    if channels:
        parallel.run(
            function, count, count * channels * 20,
            source.reshape(-1), tiles, channels, first, count, out, shift,
        )  # fmt: skip


def forward(x, beside, weight, scale, bias, padding, dilation, size, relu=False):
    """Convolution of stride 1 by kernels of 3 rows and columns, (N, D, H, W, C) to (N, *size, F).

    Parameters
    ----------
    x, beside : (N, D, H, W, C1) and (N, D, H, W, C2) arrays
        The channels of the input, C = C1 + C2. C2 is 0 where the kernel has several planes.
    weight : (KD, 3, 3, C, F) array
    scale : (F,) array of factors for the results, before the bias is added; or empty
    bias : (F,) array
    padding, dilation : three integers each, as for `conv.forward`
    size : extents of the output
    relu : bool
        Write ``max(y, 0)`` in place of y.

    Notes
    -----
    The error against exact arithmetic is below 3e-5 of the largest output for inputs and weights of
    unit variance and up to 512 channels.
    """
    kernels = _side_by_side(weight)
    settings = padding, dilation, size, relu, None, len(weight)
    return _forward(x, beside, kernels, scale, bias, *settings)[0]


def _side_by_side(weight):
    """(KD, 3, 3, C, F) as (3, 3, KD * C, F)."""
    if len(weight) == 1:
        return weight[0]
    kernels = np.moveaxis(weight, 0, 2)
    return np.ascontiguousarray(kernels).reshape(3, 3, -1, weight.shape[-1])


def _forward(x, beside, weight, scale, bias, padding, dilation, size, relu, split, taps):
    """`forward`, to one array, or to two with the first `split` channels and the others."""
    channels, features = weight.shape[2:]
    own = features if split is None else split
    y, other = (memory.empty((len(x), *size, n), x.dtype) for n in (own, features - own))
    shape = *x.shape[:-1], x.shape[-1] + beside.shape[-1]
    tiles = cover(shape, taps, dilation, padding, size)
    total = number_of(tiles)
    blocks = -(-total // TILE_BLOCK)
    floor = x.dtype.type(0 if relu else -np.inf)
    panels = gemm.panels_of(gemm.vectors_for(features, x.dtype))
    flat = weight.reshape(-1)
    out = y.reshape(-1), own, other.reshape(-1)
    work = total * channels * features
    if blocks >= MIN_TASKS:
        parallel.run(
            convolve, blocks, work, x.reshape(-1), beside.reshape(-1), x.shape[-1], flat,
            scale, _prepared(weight, scale), bias, floor, tiles, channels, features,
            _row(channels, x.dtype), total, *out,
        )  # fmt: skip
        return y, other
    # Few tiles, and so many channels: threads share the features, and all need all tiles.
    transformed = _room(total, channels, x.dtype)
    _transform(transform_input, x, tiles, 0, total, transformed)
    _transform(transform_input, beside, tiles, 0, total, transformed, x.shape[-1])
    parallel.run(
        multiply, blocks * panels, work, transformed, flat, scale, np.empty(0, x.dtype), bias,
        floor, tiles, channels, features, 0, total, *out,
    )  # fmt: skip
    return y, other


def _prepared(weight, scale):
    """All transformed kernels, or none where they would not fit a cache."""
    channels, features = weight.shape[2:]
    vectors = gemm.vectors_for(features, weight.dtype)
    size = ELEMENTS * channels * vectors * simd.lanes_of(weight.dtype)
    if size * weight.itemsize > KERNEL_BYTES:
        return np.empty(0, weight.dtype)
    prepared = memory.empty((size,), weight.dtype)
    parallel.run(
        prepare, gemm.panels_of(vectors), size, weight.reshape(-1), scale, channels, features,
        prepared,
    )  # fmt: skip
    return prepared


def input_grad(gy, weight, bias, padding, dilation, size, relu=False, split=None):
    """Gradient of the input of `forward`: the convolution of gy with the kernels turned round.

    Parameters
    ----------
    gy : (N, OD, OH, OW, F) array
    weight : (KD, 3, 3, C, F) array
    bias : (C,) array
    padding, dilation, relu : as for `forward`
    size : (D, H, W)
    split : int, optional

    Returns
    -------
    two arrays, with the first `split` channels and with the others; all are in the first if there
    is no split
    """
    taps, _, _, channels, features = weight.shape
    turned = memory.empty((taps, 3, 3, features, channels), weight.dtype)
    for tap in range(taps):
        parallel.run(
            turn_kernels, 9, weight[tap].size, weight[tap].reshape(-1), channels, features,
            turned[taps - 1 - tap].reshape(-1),
        )  # fmt: skip
    spans = ((k - 1) * d for k, d in zip(weight.shape, dilation, strict=False))
    rest = tuple(span - p for span, p in zip(spans, padding, strict=True))
    turned = _side_by_side(turned)
    scale = np.empty(0, gy.dtype)
    return _forward(gy, gy[..., :0], turned, scale, bias, rest, dilation, size, relu, split, taps)


def weight_grad(x, beside, gy, taps, padding, dilation):
    """Gradient of the weight of `forward`, (taps, 3, 3, C, F), from its input and gy."""
    shape = *x.shape[:-1], x.shape[-1] + beside.shape[-1]
    tiles = cover(shape, taps, dilation, padding, gy.shape[1:-1])
    gw = _weight_grad(x, beside, gy, tiles)
    if taps == 1:
        return gw[None]
    parts = gw.reshape(3, 3, taps, shape[-1], gy.shape[-1])
    return np.ascontiguousarray(np.moveaxis(parts, 2, 0))


def _weight_grad(x, beside, gy, tiles):
    """The same with the planes side by side, (3, 3, taps * C, F)."""
    own, features = x.shape[-1], gy.shape[-1]
    channels = tiles.taps * tiles.channels
    lanes = simd.lanes_of(x.dtype)
    rows = -(-channels // gemm.TILE_ROWS) * gemm.TILE_ROWS
    columns = gemm.vectors_for(features, x.dtype) * lanes
    total = number_of(tiles)
    if total == 0:
        return np.zeros((3, 3, channels, features), x.dtype)
    work = total * channels * features
    gw = memory.empty((3, 3, channels, features), x.dtype)
    if ELEMENTS * rows * columns * x.itemsize <= PART_BYTES and total >= MIN_TASKS * TILE_BLOCK:
        sums = memory.empty((MIN_TASKS, ELEMENTS, rows, columns), x.dtype)
        parallel.run(
            correlate, MIN_TASKS, work, x.reshape(-1), beside.reshape(-1), own, gy.reshape(-1),
            tiles, _row(channels, x.dtype), _row(features, x.dtype), total, sums,
        )  # fmt: skip
        parallel.run(add_parts, channels, sums.size, sums, channels, features, gw.reshape(-1))
        return gw
    # Many channels or few tiles: threads share the channels, and all need all tiles.
    size = max(MIN_CHUNK, CHUNK_BYTES // (ELEMENTS * x.itemsize * (channels + features)))
    tasks = -(-channels // CHANNEL_BLOCK) * gemm.panels_of(columns // lanes)
    x_tiles = _room(min(size, total), channels, x.dtype)
    gy_tiles = _room(min(size, total), features, x.dtype)
    for first in range(0, total, size):
        count = min(size, total - first)
        _transform(transform_input, x, tiles, first, count, x_tiles)
        _transform(transform_input, beside, tiles, first, count, x_tiles, own)
        _transform(transform_gradient, gy, tiles, first, count, gy_tiles)
        parallel.run(
            correlate_channels, tasks, count * channels * features + gw.size,
            x_tiles, gy_tiles, count, channels, features, first > 0, gw.reshape(-1),
        )  # fmt: skip
    return gw
