"""3x3 convolution with a quarter of the multiplications, by Winograd's tiles (`winograd_tiles`).

Summed over channels, the product of elements that the tiles need is one matrix product for each of
the 36: tiles by channels times channels by features.
"""

import numpy as np

from minidl.kernels import gemm, memory, parallel, simd
from minidl.kernels.jit import inlined, inner, kernel
from minidl.kernels.winograd_tiles import (
    CLASSES,
    COUNT,
    ELEMENTS,
    FIRST,
    LINE,
    TALL,
    WIDE,
    counts,
    cover,
    is_spare,
    line_of,
    places_of,
    transform_gradient,
    transform_input,
    transform_kernels,
    unpack,
    write_kernels,
    write_tile,
)

# Tiles that a task multiplies at once, at most; their products stay in its cache.
TILE_BLOCK = 8 * gemm.TILE_ROWS
# Input channels whose transformed kernels are in the cache at once; whole tiles of the product.
CHANNEL_BLOCK = 8 * gemm.TILE_ROWS
KERNEL_BYTES = 16 << 20  # transformed kernels up to which they are kept for all tiles
READY_CHANNELS = 512  # so many of their channels at once, because each element is then used up
MIN_TASKS = 8  # enough to keep threads busy
MIN_BLOCKS = 4  # of tiles that are worth transforming the kernels anew for each
MANY_BLOCKS = 32  # of which one more or less does not matter
FAR_APART = 16  # registers from one tile to the next that hit few places of a cache
CHUNK_BYTES = 5 << 20  # transformed tiles that a weight gradient takes together
PART_BYTES = 1 << 20  # transformed weight gradient up to which a thread has one of its own
MIN_CHUNK = 64  # but so many at least


@inlined
def turn_kernels(weight, channels, features, channel, rows, feature, columns, out):
    """``out[3, 3, rows, columns]``: kernels of the gradient, from those of the convolution.

    weight : flat (3, 3, features, channels), which are here the convolution's input and output
    """
    for tap in range(9):
        at = (tap * features + feature) * channels + channel
        to = (8 - tap) * rows * columns
        gemm.transpose(weight, at, channels, columns, rows, out, to, columns)


@inner
def transform_part(
    weight, turned, scale, channels, features, channel, rows, feature, columns, room, out
):
    """`transform_kernels`, before which kernels are turned round if need be, in the room for it.

    Part by part, in the cache: turned all at once they would be a second weight in memory.
    """
    if turned:
        width = min(columns, features - feature)
        turn_kernels(weight, channels, features, channel, rows, feature, width, room)
        transform_kernels(room, scale, rows, width, gemm.ZERO, rows, gemm.ZERO, columns, out)
    else:
        transform_kernels(weight, scale, channels, features, channel, rows, feature, columns, out)


@kernel
def prepare(start, stop, weight, turned, scale, channels, features, out):
    """Tasks are panels of features: the transformed kernels of all of them, as `multiply` reads."""
    lanes = simd.lanes(out)
    vectors = (features + lanes - 1) // lanes
    deepest, widest = min(channels, READY_CHANNELS), gemm.TILE_VECTORS * lanes
    room = simd.room(9 * deepest * widest if turned else 0, out)
    for panel in range(start, stop):
        feature = gemm.panel_start(panel, vectors) * lanes
        columns = gemm.panel_start(panel + 1, vectors) * lanes - feature
        for channel in range(0, channels, READY_CHANNELS):
            depth = min(READY_CHANNELS, channels - channel)
            to = ELEMENTS * (feature * channels + channel * columns)
            transform_part(
                weight, turned, scale, channels, features, channel, depth, feature, columns, room,
                out[to:],
            )  # fmt: skip


@inner
def stretches(first, count, table, out):
    """Rows of `out`: the end of a stretch of tiles of one class, counted from the first, and its
    extents. Returns how many there are.
    """
    number, begin = 0, 0
    while begin < count:
        line = line_of(first + begin, table)
        begin = min(count, table[line + LINE + FIRST] - first)
        out[number, 0], out[number, 1], out[number, 2] = (
            begin,
            table[line + TALL],
            table[line + WIDE],
        )
        number += 1
    return number


@kernel
def multiply(
    start, stop, transformed, weight, turned, scale, prepared, bias, floor, tiles, channels,
    features, first, count, y, own, beside,
):  # fmt: skip
    """Tasks are pairs of `TILE_BLOCK` tiles and a panel of features: multiply and write.

    transformed : (36, rows, padded channels), tiles ``first`` to ``first + count`` of the input.
    weight : flat (3, 3, channels, features), or the kernels of which these are turned round
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
    size = 0 if ready else min(channels, CHANNEL_BLOCK) * widest
    fresh, room = simd.room(ELEMENTS * size, y), simd.room(9 * size if turned else 0, y)
    kernels = prepared if ready else fresh
    # An odd number of registers from plane to plane keeps 36 streams out of each other's way.
    stride = TILE_BLOCK * widest + lanes
    products = simd.room(ELEMENTS * stride, y)
    zeros = np.zeros(widest, y.dtype)
    parts = np.empty((CLASSES, 3), np.int64)
    for task in range(start, stop):
        tile = task % blocks * TILE_BLOCK
        rows = min(TILE_BLOCK, count - tile)
        number = stretches(first + tile, rows, tiles.table, parts)
        first_vector = gemm.panel_start(task // blocks, all_vectors)
        vectors = gemm.panel_start(task // blocks + 1, all_vectors) - first_vector
        feature, columns = first_vector * lanes, vectors * lanes
        together = READY_CHANNELS if ready else CHANNEL_BLOCK
        for channel in range(0, channels, together):
            depth = min(together, channels - channel)
            at = ELEMENTS * (feature * channels + channel * columns) if ready else 0
            if not ready:
                transform_part(
                    weight, turned, scale, channels, features, channel, depth, feature, columns,
                    room, kernels,
                )  # fmt: skip
            for e in range(ELEMENTS):
                begin = 0
                for part in range(number):
                    end, to = parts[part, 0], e * stride + begin * columns
                    if counts(e, parts[part, 1], parts[part, 2]):
                        gemm.multiply_block(
                            data, e * plane + (tile + begin) * row + channel, row, gemm.ONE,
                            gemm.ONE_RUN, kernels, at + e * depth * columns, columns, gemm.ONE_RUN,
                            gemm.ONE, depth, columns, products if channel else zeros,
                            to if channel else 0, columns if channel else 0,
                            products, to, columns, columns, end - begin, gemm.NO,
                        )  # fmt: skip
                    elif is_spare(e):
                        products[to : to + (end - begin) * columns] = 0
                    begin = end
        places = places_of(first + tile, rows, tiles.table)
        mine = max(0, min(columns, own - feature))
        for side in range(2):
            skipped, last = (mine, columns) if side else (gemm.ZERO, mine)
            before, width = (own, features - own) if side else (gemm.ZERO, own)
            for t in range(rows if skipped < last and width else 0):
                write_tile(
                    products, stride, t * columns + skipped, bias, feature + skipped, floor, tiles,
                    unpack(places, t), width, feature + skipped - before, last - skipped,
                    beside if side else y,
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
    start, stop, source, source_beside, source_own, weight, turned, scale, prepared, bias, floor,
    tiles, channels, features, row, together, total, y, own, beside,
):  # fmt: skip
    """Tasks are blocks of tiles, `together` in each: transform and multiply in one cache.

    source, source_beside : flat, the first `source_own` of the channels and the others
    y, own, beside : as for `multiply`
    """
    vectors = (features + simd.lanes(y) - 1) // simd.lanes(y)
    panels = gemm.panels_of(vectors)
    transformed = room_for(together, row, y)
    for block in range(start, stop):
        first = block * together
        count = min(together, total - first)
        transform_input(gemm.ZERO, count, source, tiles, source_own, first, transformed, gemm.ZERO)
        transform_input(
            gemm.ZERO, count, source_beside, tiles, tiles.channels - source_own, first,
            transformed, source_own,
        )  # fmt: skip
        multiply(
            gemm.ZERO, panels, transformed, weight, turned, scale, prepared, bias, floor, tiles,
            channels, features, first, count, y, own, beside,
        )  # fmt: skip


@inner
def multiply_tiles(
    x, gy, table, first, x_at, gy_at, count, channels, width, fresh, zeros, sums, at, row, plane,
):  # fmt: skip
    """``sums[e] = [sums[e] +] x[e]ᵀ @ gy[e]`` over the tiles, for each of the 36 elements e.

    x, gy : transformed tiles, `count` of them from number `first` on, from whose channel `x_at` and
        `gy_at` on `channels` and `width` are taken
    fresh : whether to begin with zeros
    sums : flat; planes from element to element, rows from channel to channel, in whole tiles
    """
    x_row, gy_row = x.shape[2], gy.shape[2]
    a, b = x.reshape(x.size), gy.reshape(gy.size)
    for e in range(ELEMENTS):
        empty, to = fresh, at + e * plane
        for line in range(line_of(first, table), line_of(first + count - 1, table) + 1, LINE):
            begin = max(first, table[line + FIRST]) - first
            end = min(first + count, table[line + FIRST] + table[line + COUNT]) - first
            if begin < end and counts(e, table[line + TALL], table[line + WIDE]):
                gemm.multiply_block(
                    a, (e * x.shape[1] + begin) * x_row + x_at, gemm.ONE, x_row, gemm.ONE_RUN,
                    b, (e * gy.shape[1] + begin) * gy_row + gy_at, gy_row, gemm.ONE_RUN, gemm.ONE,
                    end - begin, width, zeros if empty else sums, 0 if empty else to,
                    0 if empty else row, sums, to, row, width, channels, gemm.NO,
                )  # fmt: skip
                empty = False
        for i in range(channels if empty else 0):
            sums[to + i * row : to + i * row + width] = 0


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
            transform_input(gemm.ZERO, count, x, tiles, own, first, x_tiles, gemm.ZERO)
            transform_input(
                gemm.ZERO, count, beside, tiles, tiles.channels - own, first, x_tiles, own
            )
            transform_gradient(gemm.ZERO, count, gy, tiles, gy_channels, first, gy_tiles, gemm.ZERO)
            plane = channels * features
            for panel in range(gemm.panels_of(vectors)):
                feature = gemm.panel_start(panel, vectors) * lanes
                width = gemm.panel_start(panel + 1, vectors) * lanes - feature
                at = part * ELEMENTS * plane + feature
                multiply_tiles(
                    x_tiles, gy_tiles, tiles.table, first, gemm.ZERO, feature, count, channels,
                    width, first == begin, zeros, flat, at, features, plane,
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
def correlate_channels(
    start, stop, x_tiles, gy_tiles, table, first, count, channels, features, add, gw
):
    """Tasks are (`CHANNEL_BLOCK` input channels, panel of features): the gradient of their kernels.

    x_tiles, gy_tiles : transformed tiles, `count` of them from number `first` on
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
            x_tiles, gy_tiles, table, first, channel, feature, count, rows, width, True, zeros,
            sums, gemm.ZERO, width, plane,
        )  # fmt: skip
        write_kernels(
            sums, gemm.ZERO, width, plane, channels, features, channel, rows, feature, width, add,
            gw,
        )  # fmt: skip


def _row(channels: int, part: int, dtype) -> int:
    """Numbers from one transformed tile to the next.

    A register more than needed where there are further parts behind the first channels, `part`,
    that begin within a register: they are written in whole ones. And where these are many, so that
    rows are no power of two apart, for which a cache has few places. For the same reason planes
    have a row more than needed.
    """
    vectors, lanes = gemm.vectors_for(channels, dtype), simd.lanes_of(dtype)
    more = (part < channels and part % lanes > 0) or vectors >= FAR_APART
    return (vectors + more) * lanes


def _room(count: int, channels: int, part: int, dtype) -> np.ndarray:
    """Room for `count` transformed tiles."""
    rows = gemm.whole_tiles(count) + 1
    return memory.empty((ELEMENTS, rows, _row(channels, part, dtype)), dtype)


def _transform(function, source, tiles, first, count, out, shift=0):
    channels = source.shape[-1]
    if channels:
        parallel.run(
            function, count, count * channels * 20,
            source.reshape(-1), tiles, channels, first, out, shift,
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
    return _forward(x, beside, kernels, False, scale, bias, *settings)[0]


def _side_by_side(weight):
    """(KD, 3, 3, C, F) as (3, 3, KD * C, F)."""
    if len(weight) == 1:
        return weight[0]
    kernels = np.moveaxis(weight, 0, 2)
    return np.ascontiguousarray(kernels).reshape(3, 3, -1, weight.shape[-1])


def _forward(x, beside, weight, turned, scale, bias, padding, dilation, size, relu, split, taps):
    """`forward`, to one array, or to two with the first `split` channels and the others.

    weight : (3, 3, C, F) array; or (3, 3, F, C), to be `turned` round
    """
    channels, features = weight.shape[:1:-1] if turned else weight.shape[2:]
    own = features if split is None else split
    y, other = (memory.empty((len(x), *size, n), x.dtype) for n in (own, features - own))
    shape = *x.shape[:-1], x.shape[-1] + beside.shape[-1]
    tiles = cover(shape, taps, dilation, padding, size)
    total = tiles.total
    blocks = -(-total // TILE_BLOCK)
    floor = x.dtype.type(0 if relu else -np.inf)
    panels = gemm.panels_of(gemm.vectors_for(features, x.dtype))
    flat = weight.reshape(-1)
    out = y.reshape(-1), own, other.reshape(-1)
    work = total * channels * features
    # Blocks that suffice for all threads stay in their caches. Both ways give the same bits.
    if blocks >= max(MIN_BLOCKS, 2 * parallel.get_num_threads()):
        together = _even_blocks(total)
        parallel.run(
            convolve, -(-total // together), work, x.reshape(-1), beside.reshape(-1), x.shape[-1],
            flat, turned, scale, _prepared(flat, turned, scale, channels, features), bias, floor,
            tiles, channels, features, _row(channels, x.shape[-1], x.dtype), together, total, *out,
        )  # fmt: skip
        return y, other
    # Few tiles, and so many channels: threads share the features, and all need all tiles.
    transformed = _room(total, channels, x.shape[-1], x.dtype)
    _transform(transform_input, x, tiles, 0, total, transformed)
    _transform(transform_input, beside, tiles, 0, total, transformed, x.shape[-1])
    parallel.run(
        multiply, blocks * panels, work, transformed, flat, turned, scale, np.empty(0, x.dtype),
        bias, floor, tiles, channels, features, 0, total, *out,
    )  # fmt: skip
    return y, other


def _even_blocks(total: int) -> int:
    """Tiles in a block; few blocks are a multiple of four, so that threads end together."""
    blocks = -(-total // TILE_BLOCK)
    blocks = blocks if blocks >= MANY_BLOCKS else -(-blocks // 4) * 4
    return gemm.whole_tiles(-(-total // blocks))


def _prepared(weight, turned, scale, channels, features):
    """All transformed kernels, or none where they would not fit a cache."""
    vectors = gemm.vectors_for(features, weight.dtype)
    size = ELEMENTS * channels * vectors * simd.lanes_of(weight.dtype)
    if size * weight.itemsize > KERNEL_BYTES:
        return np.empty(0, weight.dtype)
    prepared = memory.empty((size,), weight.dtype)
    parallel.run(
        prepare, gemm.panels_of(vectors), size, weight, turned, scale, channels, features, prepared,
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
    spans = ((k - 1) * d for k, d in zip(weight.shape, dilation, strict=False))
    rest = tuple(span - p for span, p in zip(spans, padding, strict=True))
    scale, taps = np.empty(0, gy.dtype), len(weight)
    settings = rest, dilation, size, relu, split, taps
    return _forward(gy, gy[..., :0], _before_turning(weight), True, scale, bias, *settings)


def _before_turning(weight):
    """(KD, 3, 3, C, F) as (3, 3, C, KD * F), the planes in reverse order."""
    if len(weight) == 1:
        return weight[0]
    kernels = np.moveaxis(weight[::-1], 0, 3)
    return np.ascontiguousarray(kernels).reshape(*kernels.shape[:3], -1)


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
    rows = gemm.whole_tiles(channels)
    columns = gemm.vectors_for(features, x.dtype) * lanes
    total = tiles.total
    if total == 0:
        return np.zeros((3, 3, channels, features), x.dtype)
    work = total * channels * features
    gw = memory.empty((3, 3, channels, features), x.dtype)
    if ELEMENTS * rows * columns * x.itemsize <= PART_BYTES and total >= MIN_TASKS * TILE_BLOCK:
        sums = memory.empty((MIN_TASKS, ELEMENTS, rows, columns), x.dtype)
        parallel.run(
            correlate, MIN_TASKS, work, x.reshape(-1), beside.reshape(-1), own, gy.reshape(-1),
            tiles, _row(channels, own, x.dtype), _row(features, features, x.dtype), total, sums,
        )  # fmt: skip
        parallel.run(add_parts, channels, sums.size, sums, channels, features, gw.reshape(-1))
        return gw
    # Many channels or few tiles: threads share the channels, and all need all tiles.
    size = max(MIN_CHUNK, CHUNK_BYTES // (ELEMENTS * x.itemsize * (channels + features)))
    tasks = -(-channels // CHANNEL_BLOCK) * gemm.panels_of(columns // lanes)
    x_tiles = _room(min(size, total), channels, own, x.dtype)
    gy_tiles = _room(min(size, total), features, features, x.dtype)
    for first in range(0, total, size):
        count = min(size, total - first)
        _transform(transform_input, x, tiles, first, count, x_tiles)
        _transform(transform_input, beside, tiles, first, count, x_tiles, own)
        _transform(transform_gradient, gy, tiles, first, count, gy_tiles)
        parallel.run(
            correlate_channels, tasks, count * channels * features + gw.size,
            x_tiles, gy_tiles, tiles.table, first, count, channels, features, first > 0,
            gw.reshape(-1),
        )  # fmt: skip
    return gw
