"""Convolution in one, two and three dimensions, its two gradients, and so its transpose.

Everything is a matrix product in front of which panels of the source are gathered in cache:

* `gather`: every output pixel is the sum, over the taps of the kernel, of a row of source channels
  times that tap's matrix. The forward convolution gathers from x. Its input gradient gathers from
  gy: input pixel p takes part in output pixel q when ``p = q * stride - padding + tap * dilation``,
  so all input pixels with the same remainder modulo the stride see the same taps, and each such
  *phase* is an ordinary stride-1 gather into every stride-th pixel.
* `weight_grad`: the gathered panel, transposed, times gy.

A transposed convolution is the input gradient of the convolution it is the adjoint of, and uses
the same functions in swapped roles. (Dumoulin & Visin, A guide to convolution arithmetic for deep
learning, 2016, relationships 8-14.)

All arrays have three spatial axes, (N, D, H, W, C); weights are (KD, KH, KW, C // groups, F).
Sequences and images have extents of 1 in front.
"""

import itertools
from typing import NamedTuple

import numpy as np

from minidl.kernels import gemm, parallel, simd, winograd
from minidl.kernels.jit import kernel

ROW_BLOCK = gemm.ROW_BLOCK
DEPTH_BLOCK = gemm.DEPTH_BLOCK
WEIGHT_BLOCK = 256  # pixels whose products are summed in registers before a weight gradient is met
WEIGHT_TASK = 98304  # numbers of a weight gradient that one task holds in its cache
WINOGRAD_CHANNELS = 16  # with fewer, the transforms cost more than they save
FEW_CHANNELS = 8  # with fewer, panels lie by columns
MIN_TASKS = 16  # enough to keep threads busy


class Grid(NamedTuple):
    """How output pixels find their source pixels: ``source = pixel * step + tap offset``."""

    batch: int
    depth: int  # extents of the grid of output pixels
    height: int
    width: int
    step_d: int  # source pixels from one output pixel to the next
    step_h: int
    step_w: int
    source_d: int  # extents of the source
    source_h: int
    source_w: int
    source_row: int  # channels of the source in all
    channels: int  # channels of the source that take part, those of one group


@kernel
def copy_channels(source, at, out, to, count):
    """Copy `count` numbers from one flat array to another."""
    lanes = simd.lanes(out)
    for c in range(0, count - lanes + 1, lanes):
        simd.store(out, to + c, simd.load(source, at + c))
    rest = count % lanes
    if rest:
        c = count - rest
        simd.store_some(out, to + c, simd.load_some(source, at + c, rest), rest)


@kernel
def clear_channels(out, to, count):
    """Write `count` zeros."""
    for c in range(0, count, simd.lanes(out)):
        simd.store_some(out, to + c, simd.splat(out.dtype.type(0)), count - c)


@kernel
def inside_run(d, h, w, run, grid):
    """Of `run` output pixels, the first and the one behind the last whose tap is in the source.

    (d, h, w) is where the tap of the first pixel lies.
    """
    if not (0 <= d < grid.source_d and 0 <= h < grid.source_h):
        return 0, 0
    first = min(run, max(0, -(w // grid.step_w)))
    return first, max(first, min(run, -((w - grid.source_w) // grid.step_w)))


@kernel
def copy_rows(source, at, pixel_step, out, to, row, count, first, last, run):
    """For each of `run` pixels `count` channels, `row` apart; zeros outside of first to last."""
    for i in range(first):
        clear_channels(out, to + i * row, count)
    for i in range(first, last):
        copy_channels(source, at + i * pixel_step, out, to + i * row, count)
    for i in range(last, run):
        clear_channels(out, to + i * row, count)


@kernel
def copy_columns(source, at, pixel_step, out, to, step, count, first, last, run):
    """For each of `count` channels, `step` apart, `run` pixels; zeros outside of first to last."""
    for c in range(count):
        clear_channels(out, to + c * step, first)
        if pixel_step == 1:
            copy_channels(source, at + first, out, to + first, last - first)
        else:
            for i in range(first, last):
                out[to + c * step + i] = source[at + c + i * pixel_step]
        clear_channels(out, to + c * step + last, run - last)


@kernel
def panel_strides(channels, steps, pixels):
    """How a panel of `pixels` x `steps` lies in memory: from row to row, from step to step.

    By rows; but a few channels are too short to be copied one pixel at a time.
    """
    return (1, pixels) if channels < FEW_CHANNELS else (steps, 1)


@kernel
def fill_panel(panel, row, step, source, channel, taps, grid, pixel, pixels, start, stop):
    """Gather ``panel[i, k - start]`` for output pixels ``pixel + i`` and depths start <= k < stop.

    Depth k is channel ``k % channels`` of tap ``k // channels``. Taps that fall outside of the
    source read zero. `panel` is flat, with strides from `panel_strides`; `channel` is the first
    channel of the group.

    Pixels are taken in runs along a row of the grid, for which only the ends can be outside.
    """
    x = pixel % grid.width
    y = pixel // grid.width % grid.height
    z = pixel // (grid.width * grid.height) % grid.depth
    n = pixel // (grid.width * grid.height * grid.depth)
    pixel_step = grid.step_w * grid.source_row
    done = 0
    while done < pixels:
        run = min(grid.width - x, pixels - done)
        for t in range(start // grid.channels, (stop - 1) // grid.channels + 1):
            begin = max(start, t * grid.channels)
            count = min(stop, (t + 1) * grid.channels) - begin
            d = z * grid.step_d + taps[t, 0]
            h = y * grid.step_h + taps[t, 1]
            w = x * grid.step_w + taps[t, 2]
            first, last = inside_run(d, h, w, run, grid)
            at = ((n * grid.source_d + d) * grid.source_h + h) * grid.source_w + w
            at = at * grid.source_row + channel + begin - t * grid.channels
            to = done * row + (begin - start) * step
            if step == 1:
                copy_rows(source, at, pixel_step, panel, to, row, count, first, last, run)
            else:
                copy_columns(source, at, pixel_step, panel, to, step, count, first, last, run)
        done += run
        x, y = 0, y + 1
        if y == grid.height:
            y, z = 0, z + 1
            if z == grid.depth:
                z, n = 0, n + 1


class Target(NamedTuple):
    """Where the pixels of a grid lie in the array they are written to."""

    first_d: int
    first_h: int
    first_w: int
    step_d: int
    step_h: int
    step_w: int
    depth: int  # extents of the array
    height: int
    width: int
    row: int  # channels of the array in all
    channels: int  # channels written, those of one group


@kernel
def write_block(sums, sums_row, bias, relu, target, grid, out, channel, pixel, pixels):
    """Write rows of finished sums, plus bias, to the pixels of `out` that they belong to."""
    lanes = simd.lanes(out)
    zeros = simd.splat(out.dtype.type(0))
    x = pixel % grid.width
    line = pixel // grid.width
    done = 0
    while done < pixels:
        run = min(grid.width - x, pixels - done)
        h = target.first_h + line % grid.height * target.step_h
        plane = line // grid.height
        d = target.first_d + plane % grid.depth * target.step_d
        at = ((plane // grid.depth * target.depth + d) * target.height + h) * target.width
        at = (at + target.first_w + x * target.step_w) * target.row + channel
        for i in range(run):
            for f in range(0, target.channels, lanes):
                count = target.channels - f
                value = simd.load(sums, (done + i) * sums_row + f)
                value += simd.load_some(bias, channel + f, count)
                if relu:
                    value = simd.maximum(value, zeros)
                simd.store_some(out, at + i * target.step_w * target.row + f, value, count)
        done += run
        x, line = 0, line + 1


@kernel
def gather(start, stop, source, packed, bias, relu, taps, grid, target, out, group):
    """Tasks are blocks of `ROW_BLOCK` output pixels: gather, multiply, write.

    source, out : flat (pixels * channels) arrays; `out` is overwritten at the pixels of `target`.
    packed : (registers, depth, lanes), the weights of one group as `pack` leaves them.
    taps : (T, 3) offsets into the source.
    """
    vectors, depth, lanes = packed.shape
    weights = packed.reshape(packed.size)
    pixels = grid.batch * grid.depth * grid.height * grid.width
    columns = vectors * lanes
    panels = gemm.panels_of(vectors)
    panel = np.empty(ROW_BLOCK * min(depth, DEPTH_BLOCK), source.dtype)
    sums = np.empty(ROW_BLOCK * columns, source.dtype)
    for task in range(start, stop):
        pixel = task * ROW_BLOCK
        rows = min(ROW_BLOCK, pixels - pixel)
        if depth == 0:  # no tap reaches these pixels
            sums[:] = 0
        for k in range(0, depth, DEPTH_BLOCK):
            steps = min(DEPTH_BLOCK, depth - k)
            row, step = panel_strides(grid.channels, steps, ROW_BLOCK)
            fill_panel(
                panel, row, step, source, group * grid.channels, taps, grid,
                pixel, rows, k, k + steps,
            )  # fmt: skip
            for p in range(panels):
                v = gemm.panel_start(p, vectors)
                width = gemm.panel_start(p + 1, vectors) - v
                gemm.multiply_block(
                    panel, gemm.ZERO, row, step,
                    weights, (v * depth + k * width) * lanes, width * lanes, width,
                    sums, v * lanes, columns, rows, steps, k > 0,
                )  # fmt: skip
        write_block(
            sums, columns, bias, relu, target, grid, out, group * target.channels, pixel, rows
        )


@kernel
def pack(start, stop, weight, tap_at, row_step, column_step, rows, columns, packed):
    """Lay out weights as the micro-kernel reads them; tasks are panels.

    Row ``t * rows + r``, column f is ``weight[tap_at[t] + r * row_step + f * column_step]``; one of
    the two steps is 1. Columns past `columns` become zero.
    """
    vectors, depth, lanes = packed.shape
    out = packed.reshape(packed.size)
    for p in range(start, stop):
        v = gemm.panel_start(p, vectors)
        width = (gemm.panel_start(p + 1, vectors) - v) * lanes
        first = v * lanes
        filled = min(width, columns - first)
        for t in range(len(tap_at)):
            at = tap_at[t] + first * column_step
            to = first * depth + t * rows * width
            if column_step == 1:
                for r in range(rows):
                    copy_channels(weight, at + r * row_step, out, to + r * width, filled)
            else:  # row_step is 1
                gemm.transpose(weight, at, column_step, filled, rows, out, to, width)
            for r in range(rows):
                clear_channels(out, to + r * width + filled, width - filled)


def _packed(weight, tap_at, row_step, column_step, rows, columns):
    vectors = gemm.vectors_for(columns, weight.dtype)
    packed = np.empty((vectors, len(tap_at) * rows, simd.lanes_of(weight.dtype)), weight.dtype)
    panels = gemm.panels_of(vectors)
    parallel.run(
        pack, panels, packed.size,
        weight.reshape(-1), tap_at, row_step, column_step, rows, columns, packed,
    )  # fmt: skip
    return packed


def _gather(source, packed, bias, relu, taps, grid, target, out, group):
    pixels = grid.batch * grid.depth * grid.height * grid.width
    parallel.run(
        gather, -(-pixels // ROW_BLOCK), pixels * (packed.size + 64) / 50,
        source.reshape(-1), packed, bias, relu, taps, grid, target, out.reshape(-1), group,
    )  # fmt: skip


def _taps(kernel_size) -> np.ndarray:
    """(T, 3) positions of all taps of a kernel, in the order of its memory."""
    return np.array(list(itertools.product(*map(range, kernel_size))), dtype=np.int64)


def algorithm_for(dtype, weight_shape, stride, groups) -> str:
    """Which algorithm convolves best: 'winograd' or 'gather'.

    Winograd's needs a third of the time where channels are many. It rounds a little more, so that
    float64, which is there to be exact, does without.
    """
    *kernel_size, channels, features = weight_shape
    suits = tuple(kernel_size) == (1, 3, 3) and tuple(stride) == (1, 1, 1) and groups == 1
    fast = suits and dtype == np.float32 and min(channels, features) >= WINOGRAD_CHANNELS
    return "winograd" if fast else "gather"


def _plane(volumes):
    """(N, D, H, W, C) as images (N * D, H, W, C)."""
    return volumes.reshape(-1, *volumes.shape[2:])


def forward(x, weight, bias, stride, padding, dilation, groups, size, relu=False, algorithm=None):
    """Convolution of x with weight, (N, D, H, W, C) to (N, *size, F).

    Parameters
    ----------
    x : (N, D, H, W, C) array
    weight : (KD, KH, KW, C // groups, F) array of the same dtype
    bias : (F,) array or None
    stride, dilation : three positive integers
    padding : three integers, zeros in front of each axis
        What lies behind follows from `size`.
    groups : int
    size : three integers, extents of the output
    relu : bool
        Write ``max(y, 0)`` in place of y.
    algorithm : 'winograd', 'gather' or None
        None takes what `algorithm_for` says.
    """
    *kernel_size, channels, features = weight.shape
    bias = np.zeros(features, x.dtype) if bias is None else bias
    algorithm = algorithm or algorithm_for(x.dtype, weight.shape, stride, groups)
    if algorithm == "winograd":
        y = winograd.forward(_plane(x), weight[0], bias, padding[1:], dilation[1:], size[1:], relu)
        return y.reshape(len(x), *size, features)
    y = np.empty((len(x), *size, features), x.dtype)
    taps = _taps(kernel_size)
    grid = Grid(len(x), *size, *stride, *x.shape[1:], channels)
    target = Target(0, 0, 0, 1, 1, 1, *size, features, features // groups)
    for group in range(groups):
        tap_at = np.arange(len(taps)) * channels * features + group * target.channels
        packed = _packed(weight, tap_at, features, 1, channels, target.channels)
        _gather(x, packed, bias, relu, taps * dilation - padding, grid, target, y, group)
    return y


def _axis_phases(size, kernel, stride, padding, dilation) -> list[tuple]:
    """For each remainder of positions modulo the stride: (first, count, taps, their offsets)."""
    phases = []
    for first in range(min(stride, size)):
        reached = [k for k in range(kernel) if (first + padding - k * dilation) % stride == 0]
        offsets = [(first + padding - k * dilation) // stride for k in reached]
        phases.append((first, -(-(size - first) // stride), reached, offsets))
    return phases


def input_grad(gy, weight, bias, stride, padding, dilation, groups, size, algorithm=None):
    """Gradient of the input of `forward`, and at the same time the transposed convolution.

    Parameters
    ----------
    gy : (N, OD, OH, OW, F) array
    weight : (KD, KH, KW, C // groups, F) array
    bias : (C,) array or None
        Added to the result; for the transposed convolution.
    stride, padding, dilation, groups, algorithm : as for `forward`
    size : three integers, extents of the input

    Returns
    -------
    (N, *size, C) array
    """
    *kernel_size, channels, features = weight.shape
    bias = np.zeros(channels * groups, gy.dtype) if bias is None else bias
    algorithm = algorithm or algorithm_for(gy.dtype, weight.shape, stride, groups)
    if algorithm == "winograd":
        gx = winograd.input_grad(_plane(gy), weight[0], bias, padding[1:], dilation[1:], size[1:])
        return gx.reshape(len(gy), *size, channels)
    gx = np.empty((len(gy), *size, channels * groups), gy.dtype)
    axes = zip(size, kernel_size, stride, padding, dilation, strict=True)
    for phase in itertools.product(*(_axis_phases(*axis) for axis in axes)):
        first, count, reached, offsets = zip(*phase, strict=True)
        taps = np.array(list(itertools.product(*offsets)), np.int64).reshape(-1, 3)
        at = np.array(list(itertools.product(*reached)), np.int64).reshape(-1, 3)
        at = np.ravel_multi_index(tuple(at.T), kernel_size) * channels * features
        grid = Grid(len(gy), *count, 1, 1, 1, *gy.shape[1:], features // groups)
        target = Target(*first, *stride, *size, channels * groups, channels)
        for group in range(groups):
            tap_at = at + group * grid.channels
            packed = _packed(weight, tap_at, 1, features, grid.channels, channels)
            _gather(gy, packed, bias, False, taps, grid, target, gx, group)
    return gx


@kernel
def weight_grad_tasks(
    start, stop, source, gy, taps, grid, features, gy_row, group, splits, chunk, partial
):
    """Tasks are (split of the pixels, chunk of the depth): sum of panelᵀ @ gy over the split.

    partial : (splits, taps * channels, features), overwritten.
    """
    lanes = partial.shape[3]
    vectors = partial.shape[2]
    columns = vectors * lanes
    out = partial.reshape(partial.size)
    depth = len(taps) * grid.channels
    chunks = (depth + chunk - 1) // chunk
    pixels = grid.batch * grid.depth * grid.height * grid.width
    blocks = (pixels + WEIGHT_BLOCK - 1) // WEIGHT_BLOCK
    panels = gemm.panels_of(vectors)
    in_place = features == columns
    tall = (chunk + gemm.TILE_ROWS - 1) // gemm.TILE_ROWS * gemm.TILE_ROWS  # tiles reach so far
    panel = np.empty(WEIGHT_BLOCK * tall, source.dtype)
    copied = np.zeros(0 if in_place else WEIGHT_BLOCK * columns, source.dtype)
    sums = np.zeros(tall * columns, source.dtype)  # of no pixels at all, too
    for task in range(start, stop):
        split, first = task // chunks, task % chunks * chunk
        rows = min(chunk, depth - first)
        first_block = split * blocks // splits
        for block in range(first_block, (split + 1) * blocks // splits):
            pixel = block * WEIGHT_BLOCK
            count = min(WEIGHT_BLOCK, pixels - pixel)
            row, step = panel_strides(grid.channels, rows, WEIGHT_BLOCK)
            fill_panel(
                panel, row, step, source, group * grid.channels, taps, grid,
                pixel, count, first, first + rows,
            )  # fmt: skip
            gy_at = pixel * gy_row + group * features
            if not in_place:
                for i in range(count):
                    copy_channels(gy, gy_at + i * gy_row, copied, i * columns, features)
            for p in range(panels):
                v = gemm.panel_start(p, vectors)
                width = gemm.panel_start(p + 1, vectors) - v
                if in_place:
                    gemm.multiply_block(
                        panel, gemm.ZERO, step, row, gy, gy_at + v * lanes, gy_row, width,
                        sums, v * lanes, columns, rows, count, block > first_block,
                    )  # fmt: skip
                else:
                    gemm.multiply_block(
                        panel, gemm.ZERO, step, row, copied, v * lanes, columns, width,
                        sums, v * lanes, columns, rows, count, block > first_block,
                    )  # fmt: skip
        copy_channels(sums, 0, out, (split * depth + first) * columns, rows * columns)


@kernel
def column_sums(start, stop, rows, partial):
    """``partial[task] = rows[task::tasks].sum(0)``, each task a run of neighbouring rows."""
    count, columns = rows.shape
    for task in range(start, stop):
        for c in range(columns):
            partial[task, c] = 0
        for i in range(task * count // len(partial), (task + 1) * count // len(partial)):
            for c in range(columns):
                partial[task, c] += rows[i, c]


def weight_grad(x, gy, kernel_size, stride, padding, dilation, groups, algorithm=None):
    """Gradient of the weight of `forward`: (KD, KH, KW, C // groups, F).

    The pixels are split into parts whose number follows from the shapes alone, and the parts are
    added in their order.
    """
    features = gy.shape[-1] // groups
    channels = x.shape[-1] // groups
    shape = (*kernel_size, channels, features)
    if (algorithm or algorithm_for(x.dtype, shape, stride, groups)) == "winograd":
        gw = winograd.weight_grad(_plane(x), _plane(gy), padding[1:], dilation[1:])
        return gw[None]
    taps = _taps(kernel_size)
    depth = len(taps) * channels
    vectors, lanes = gemm.vectors_for(features, x.dtype), simd.lanes_of(x.dtype)
    grid = Grid(*gy.shape[:-1], *stride, *x.shape[1:], channels)
    chunk = min(depth, max(gemm.TILE_ROWS, WEIGHT_TASK // (vectors * lanes)))
    chunks = -(-depth // chunk)
    blocks = -(-(gy.size // gy.shape[-1]) // WEIGHT_BLOCK)
    splits = max(1, min(blocks, MIN_TASKS // chunks))
    gw = np.empty((*kernel_size, channels, groups, features), x.dtype)
    for group in range(groups):
        partial = np.empty((splits, depth, vectors, lanes), x.dtype)
        parallel.run(
            weight_grad_tasks, splits * chunks, gy.size // groups * depth / 50,
            x.reshape(-1), gy.reshape(-1), taps * dilation - padding, grid,
            features, gy.shape[-1], group, splits, chunk, partial,
        )  # fmt: skip
        # Only the true columns: what stands in those that fill up the last vector is chance.
        parts = partial.reshape(splits, *kernel_size, channels, vectors * lanes)[..., :features]
        gw[..., group, :] = parts.sum(axis=0)
    return gw.reshape(*kernel_size, channels, groups * features)


def bias_grad(gy):
    """Gradient of the bias of `forward`: the sum over all pixels, in parts of fixed size."""
    rows = gy.reshape(-1, gy.shape[-1])
    partial = np.empty((max(1, min(64, len(rows) // 256)), rows.shape[1]), gy.dtype)
    parallel.run(column_sums, len(partial), gy.size / 2, rows, partial)
    return partial.sum(axis=0)
