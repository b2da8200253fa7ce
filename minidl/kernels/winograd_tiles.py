"""Winograd's tiles: where they lie, and the transforms into and out of them.

Winograd's F(4x4, 3x3) computes a tile of 4x4 outputs from 6x6 inputs by 36 multiplications in place
of 144 for each pair of channels::

    y = Aᵀ [ (G g Gᵀ) * (Bᵀ d B) ] A

d a 6x6 tile of the input, g the 3x3 kernel, * element by element. The gradient of the kernel
follows by the chain rule::

    gg = Gᵀ [ (Bᵀ d B) * (A gy Aᵀ) ] G

B, G and A belong to the interpolation points 0, 1, -1, 1/2, -2 and infinity; this choice makes the
rounding error a third smaller than the usual 0, 1, -1, 2, -2 does.

Where four does not divide the extent of an output, tiles of 3 and of 2 outputs share what is left.
They need no other matrices, because elements of the larger tile drop out. Of an axis' six,

* infinity enters the fourth output alone: 3 outputs need the first 5;
* 2 outputs do not depend on the fifth input either. As if it were such that the element of the
  point -2 is zero, they need the first 4.

A dilated convolution is several plain ones, one for each remainder of rows and columns modulo the
dilation: its tiles take every `dilation`-th pixel. A volume is a number of images, whose channels
are those of the planes that the kernel sees.

Lavin & Gray, Fast Algorithms for Convolutional Neural Networks, 2016, section 4.
Barabasz et al., Error Analysis and Improving the Accuracy of Winograd Convolution, 2020.
"""

import functools
import itertools
from typing import NamedTuple

import numpy as np

from minidl.kernels import gemm, simd
from minidl.kernels.jit import inlined, inner, kernel

IN, OUT = 6, 4  # extents of a whole tile
SIDE_IN, SIDE_OUT = np.int64(IN), np.int64(OUT)  # as arguments between kernels, see `gemm.ZERO`
ELEMENTS = IN * IN
CLASSES = 9  # tiles of 4, 3 and 2 outputs, down and across
SPARE = IN - 2  # the element that tiles of two outputs can do without


class Tiles(NamedTuple):
    """How tiles cover the outputs.

    The images are the planes of the result. Each sees `taps` planes of the input. Tiles of the same
    extents are a class, and have consecutive numbers. Classes begin at multiples of
    ``gemm.TILE_ROWS``; there are no tiles for the numbers left out.
    """

    images: int
    dilation_h: int
    dilation_w: int
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
    total: int  # numbers of tiles
    table: np.ndarray  # what `places_of` looks up


# `Tiles.table` has a line for each class, and one for what would come behind the last: number of
# the first tile, and of tiles; outputs of each, down and across; where in the table its first
# output rows are listed, and how many; the same of columns. The lists stand behind the lines.
FIRST, COUNT, TALL, WIDE, ROW, ROWS, COLUMN, COLUMNS, LINE = range(9)


def _axis(size: int, dilation: int, whole: bool) -> dict[int, list[int]]:
    """Where tiles of 4, 3 and 2 outputs begin along an axis; all are of 4 if they are `whole`."""
    begins: dict[int, list[int]] = {4: [], 3: [], 2: []}
    for first in range(min(dilation, size)):
        length = -(-(size - first) // dilation)
        tiles = -(-length // OUT)
        short = OUT * tiles - length
        if whole or short <= tiles:
            extents = [4] * tiles if whole else [4] * (tiles - short) + [3] * short
        else:  # of 1, 2, or 5 outputs
            extents = [3] * (tiles - 1) + [2]
        for extent in extents:
            begins[extent].append(first)
            first += extent * dilation
    return {extent: places for extent, places in begins.items() if places}


def _table(images: int, rows: dict[int, list[int]], columns: dict[int, list[int]]) -> np.ndarray:
    """`Tiles.table` for tiles that begin at these rows and columns, by their extents."""
    lines, first, row = [], 0, (len(rows) * len(columns) + 1) * LINE
    behind_rows = row + sum(map(len, rows.values()))
    for tall, down in rows.items():
        column = behind_rows
        for wide, across in columns.items():
            count = images * len(down) * len(across)
            lines.append([first, count, tall, wide, row, len(down), column, len(across)])
            first += gemm.whole_tiles(count)
            column += len(across)
        row += len(down)
    lines.append([first] + [0] * (LINE - 1))
    return np.array([*itertools.chain(*lines, *rows.values(), *columns.values())], np.int64)


def _products(table: np.ndarray, classes: int) -> int:
    """Products of all tiles for a pair of channels."""
    lines = table[: (classes + 1) * LINE].reshape(-1, LINE)
    numbers = np.diff(lines[:, FIRST])
    return int(np.sum(numbers * (lines[:-1, TALL] + 2) * (lines[:-1, WIDE] + 2)))


@functools.lru_cache(maxsize=512)
def cover(shape, taps, dilation, padding, out_size) -> Tiles:
    """The tiles of a (taps, 3, 3) convolution from `shape`, (N, D, H, W, C), to `out_size`."""
    images, ways = shape[0] * out_size[0], []
    for whole in (True, False):
        rows, columns = (_axis(out_size[i], dilation[i], whole) for i in (1, 2))
        ways.append((_table(images, rows, columns), len(rows) * len(columns)))
    table, classes = min(ways, key=lambda way: _products(*way))
    return Tiles(
        images, *dilation[1:], *padding[1:], *shape[2:4], *out_size[1:], taps, dilation[0],
        padding[0], shape[1], out_size[0], shape[4], int(table[classes * LINE]), table,
    )  # fmt: skip


@inner
def line_of(tile, table):
    """Where in the table the line of a tile's class begins."""
    line = 0
    while tile >= table[line + LINE + FIRST]:
        line += LINE
    return line


@kernel
def places_of(first, count, table):
    """Image, first output row and column, and extents of tiles, (count, 5).

    Numbers that are left out have an image behind the last.
    """
    places = np.empty((count, 5), np.int64)
    done = 0
    while done < count:
        line = line_of(first + done, table)
        rows, columns = table[line + ROWS], table[line + COLUMNS]
        tile = first + done - table[line + FIRST]
        image, row, column = tile // columns // rows, tile // columns % rows, tile % columns
        stop = min(count, table[line + LINE + FIRST] - first)
        for i in range(done, stop):
            places[i, 0] = image
            places[i, 1] = table[table[line + ROW] + row]
            places[i, 2] = table[table[line + COLUMN] + column]
            places[i, 3], places[i, 4] = table[line + TALL], table[line + WIDE]
            column += 1
            if column == columns:
                column, row = 0, row + 1
            if row == rows:
                row, image = 0, image + 1
        done = stop
    return places


@inner
def unpack(places, i):
    """A row of `places_of`."""
    return places[i, 0], places[i, 1], places[i, 2], places[i, 3], places[i, 4]


@kernel
def counts(e, tall, wide):
    """Whether tiles of these extents have an element e."""
    return e // IN < tall + 2 and e % IN < wide + 2


@inner
def is_spare(e):
    """Whether tiles that do not have the element e need a zero in its place."""
    return e // IN == SPARE or e % IN == SPARE


@inner
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


@inner
def transform_output_line(m0, m1, m2, m3, m4, m5):
    """Aᵀ times a column."""
    s, d = m1 + m2, m1 - m2
    return (
        m0 + s + m3 + m4,
        d + 0.5 * m3 - 2.0 * m4,
        s + 0.25 * m3 + 4.0 * m4,
        d + 0.125 * m3 - 8.0 * m4 + m5,
    )


@inner
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


@inner
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


@inner
def gather_kernel_line(w0, w1, w2, w3, w4, w5):
    """Gᵀ times a column, the adjoint of the kernel transform."""
    d = (1 / 3) * (w1 - w2)
    return (
        w0 + d - (16 / 15) * w3 + (1 / 15) * w4,
        (1 / 3) * (w1 + w2) - (8 / 15) * w3 - (2 / 15) * w4,
        d - (4 / 15) * w3 + (4 / 15) * w4 + w5,
    )


@inner
def load_3(source, at, step, some):
    """Three vectors `step` apart, of which the first `some` lanes count."""
    return (
        simd.load_some(source, at, some),
        simd.load_some(source, at + step, some),
        simd.load_some(source, at + 2 * step, some),
    )


@inner
def load_4(source, at, step, some):
    """Four of them."""
    return (*load_3(source, at, step, some), simd.load_some(source, at + 3 * step, some))


@inner
def load_6(source, at, step, some):
    """Six of them."""
    return load_3(source, at, step, some) + load_3(source, at + 3 * step, step, some)


@inlined
def transform_columns(transform, source, at, right, down, some):
    """`transform` of each of six columns, whose elements are `down` apart."""
    return (
        transform(*load_6(source, at, down, some)),
        transform(*load_6(source, at + right, down, some)),
        transform(*load_6(source, at + 2 * right, down, some)),
        transform(*load_6(source, at + 3 * right, down, some)),
        transform(*load_6(source, at + 4 * right, down, some)),
        transform(*load_6(source, at + 5 * right, down, some)),
    )


@inner
def store_6(out, at, step, line):
    """Write six vectors, `step` apart."""
    simd.store(out, at, line[0])
    simd.store(out, at + step, line[1])
    simd.store(out, at + 2 * step, line[2])
    simd.store(out, at + 3 * step, line[3])
    simd.store(out, at + 4 * step, line[4])
    simd.store(out, at + 5 * step, line[5])


@inner
def take_patch(source, n, h, w, height, width, step_h, step_w, channels, size, tall, wide, patch):
    """Copy ``size x size`` pixels; outside of the image, or of ``tall x wide``, they are zero."""
    lanes = simd.lanes(patch)
    for i in range(size):
        for j in range(size):
            r, s = h + i * step_h, w + j * step_w
            inside = 0 <= r < height and 0 <= s < width and i < tall and j < wide
            at = ((n * height + r) * width + s) * channels
            for c in range(0, channels, lanes):
                count = channels - c if inside else 0
                pixel = simd.load_some(source, at + c, count)
                simd.store_some(patch, (i * size + j) * channels + c, pixel, channels - c)


@kernel
def spare(patch, at, step, channels):
    """Make the fifth of pixels `step` apart such that its element is zero, for all channels."""
    for c in range(0, channels, simd.lanes(patch)):
        p, some = at + c, channels - c
        d1, d2, d3 = load_3(patch, p + step, step, some)
        simd.store_some(patch, p + SPARE * step, d2 + 0.5 * (d3 - d1), some)


@inner
def transform_patch(source, at, down, right, some, rows, out, to, plane):
    """Rows 0 to 2 or 3 to 5 of ``Bᵀ d B`` for a register of channels; `plane` from each to next."""
    d0, d1, d2, d3, d4, d5 = transform_columns(transform_input_line, source, at, right, down, some)
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


@inlined
def transform_tile(source, n, h, w, tall, wide, tiles, channels, patch, out, to, plane):
    """``Bᵀ d B`` of the tile of plane n that begins at row h, column w, for all channels."""
    inside = (
        h >= 0 and h + (IN - 1) * tiles.dilation_h < tiles.height
        and w >= 0 and w + (IN - 1) * tiles.dilation_w < tiles.width
        and tall > 2 and wide > 2
    )  # fmt: skip
    data, at = source, ((n * tiles.height + h) * tiles.width + w) * channels
    down, right = tiles.dilation_h * tiles.width * channels, tiles.dilation_w * channels
    if not inside:
        take_patch(
            source, n, h, w, tiles.height, tiles.width,
            tiles.dilation_h, tiles.dilation_w, channels, SIDE_IN, SIDE_IN, SIDE_IN, patch,
        )  # fmt: skip
        if wide == 2:
            for i in range(IN):
                spare(patch, i * IN * channels, channels, channels)
        if tall == 2:
            spare(patch, gemm.ZERO, IN * channels, IN * channels)
        data, at, down, right = patch, 0, IN * channels, channels
    for c in range(0, channels, simd.lanes(out)):
        for rows in range(2):  # three at a time, because registers do not hold six
            transform_patch(data, at + c, down, right, channels - c, rows, out, to + c, plane)


@kernel
def transform_input(start, stop, source, tiles, channels, first, out, shift):
    """Tasks are tiles ``first + task``: ``out[:, task] = Bᵀ d B`` for every channel of every tap.

    Tap k begins at channel ``k * tiles.channels + shift`` of `out`.

    source : flat (N, H, W, channels)
    out : (36, at least `stop` rows, channels rounded up to whole registers), with the rows behind
        `stop` left as they are.
    """
    lanes = simd.lanes(source)
    plane, row = out.shape[1] * out.shape[2], out.shape[2]
    flat = out.reshape(out.size)
    patch = np.empty(ELEMENTS * channels, source.dtype)
    places = places_of(first + start, stop - start, tiles.table)
    for task in range(start, stop):
        image, h, w, tall, wide = unpack(places, task - start)
        for tap in range(tiles.taps if image < tiles.images else 0):
            z = image % tiles.out_depth + tap * tiles.dilation_d - tiles.pad_d
            to = task * row + tap * tiles.channels + shift
            if 0 <= z < tiles.depth:
                transform_tile(
                    source, image // tiles.out_depth * tiles.depth + z, h - tiles.pad_h,
                    w - tiles.pad_w, tall, wide, tiles, channels, patch, flat, to, plane,
                )  # fmt: skip
            else:
                for e in range(ELEMENTS):
                    for c in range(0, channels, lanes):
                        simd.store(flat, to + e * plane + c, simd.splat(flat.dtype.type(0)))


@inner
def scaled_6(line, factor):
    """Six vectors times another."""
    a, b, c, d, e, f = line
    return a * factor, b * factor, c * factor, d * factor, e * factor, f * factor


@inner
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


@inner
def write_pixels(y, at, step, line, shift, floor, count, some):
    """Write ``max(line + shift, floor)`` to the first `count` of four pixels, `step` apart."""
    simd.store_some(y, at, simd.maximum(floor, line[0] + shift), some)
    if count > 1:
        simd.store_some(y, at + step, simd.maximum(floor, line[1] + shift), some)
    if count > 2:
        simd.store_some(y, at + 2 * step, simd.maximum(floor, line[2] + shift), some)
    if count > 3:
        simd.store_some(y, at + 3 * step, simd.maximum(floor, line[3] + shift), some)


@inlined
def write_tile(
    products, plane, at, bias, bias_at, floor, tiles, place, features, feature, columns, y
):
    """``max(Aᵀ m A + bias, floor)`` for `columns` channels of one tile, where the image has it.

    y : flat (N, OH, OW, features), written from channel `feature` on
    """
    lanes = simd.lanes(y)
    n, h, w, tall, wide = place
    down, right = tiles.dilation_h * tiles.out_width * features, tiles.dilation_w * features
    high = min(tall, (tiles.out_height - h + tiles.dilation_h - 1) // tiles.dilation_h)
    wide = min(wide, (tiles.out_width - w + tiles.dilation_w - 1) // tiles.dilation_w)
    if n >= tiles.images:
        return
    to = ((n * tiles.out_height + h) * tiles.out_width + w) * features + feature
    limit = simd.splat(floor)
    for f in range(0, columns, lanes):
        some, p, q = features - feature - f, at + f, to + f
        shift = simd.load_some(bias, bias_at + f, some)
        m0, m1, m2, m3, m4, m5 = transform_columns(
            transform_output_line, products, p, plane, IN * plane, lanes
        )
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
def transform_gradient(start, stop, gy, tiles, features, first, out, shift):
    """Tasks are tiles ``first + task``: ``out[:, task, shift:] = A gy Aᵀ`` for every
    output channel.

    gy : flat (N, OH, OW, features)
    out : (36, at least stop, features rounded up to whole registers or more)
    """
    lanes = simd.lanes(gy)
    plane, row = out.shape[1] * out.shape[2], out.shape[2]
    flat = out.reshape(out.size)
    patch = np.empty(OUT * OUT * features, gy.dtype)
    places = places_of(first + start, stop - start, tiles.table)
    for task in range(start, stop):
        n, h, w, tall, wide = unpack(places, task - start)
        if n >= tiles.images:
            continue
        inside = (
            tall == OUT and wide == OUT
            and h + (OUT - 1) * tiles.dilation_h < tiles.out_height
            and w + (OUT - 1) * tiles.dilation_w < tiles.out_width
        )  # fmt: skip
        data, at = gy, ((n * tiles.out_height + h) * tiles.out_width + w) * features
        down, right = tiles.dilation_h * tiles.out_width * features, tiles.dilation_w * features
        if not inside:
            take_patch(
                gy, n, h, w, tiles.out_height, tiles.out_width,
                tiles.dilation_h, tiles.dilation_w, features, SIDE_OUT, tall, wide, patch,
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


@inner
def add_3(gw, at, step, line, add, some):
    """Write three vectors, `step` apart, or add them to what is there."""
    if add:
        before = load_3(gw, at, step, some)
        line = line[0] + before[0], line[1] + before[1], line[2] + before[2]
    simd.store_some(gw, at, line[0], some)
    simd.store_some(gw, at + step, line[1], some)
    simd.store_some(gw, at + 2 * step, line[2], some)


@inner
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
            w0, w1, w2, w3, w4, w5 = transform_columns(
                gather_kernel_line, sums, p, plane, IN * plane, lanes
            )
            to, some = (channel + c) * features + feature + f, features - feature - f
            line = gather_kernel_line(w0[0], w1[0], w2[0], w3[0], w4[0], w5[0])
            add_3(gw, to, step, line, add, some)
            line = gather_kernel_line(w0[1], w1[1], w2[1], w3[1], w4[1], w5[1])
            add_3(gw, to + 3 * step, step, line, add, some)
            line = gather_kernel_line(w0[2], w1[2], w2[2], w3[2], w4[2], w5[2])
            add_3(gw, to + 6 * step, step, line, add, some)
