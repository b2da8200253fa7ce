"""Convolution in one, two and three dimensions, its two gradients, and so its transpose.

Everything is a matrix product that reads the image as it stands. A block of output pixels needs a
*slab* of the source, which is copied into the cache and padded with zeros there. In the slab the
source pixels of neighbouring output pixels are a fixed distance apart, and those of neighbouring
taps lie in *runs*: for a tap further to the right come the next channels in memory. So a tile of
output pixels is a sum of few products of a run with its weights, and no matrix of patches
(im2col) is ever written.

* `forward` takes its slabs from x.
* `input_grad` takes them from gy: input pixel p takes part in output pixel q when
  ``p = q * stride - padding + tap * dilation``, so all input pixels with the same remainder modulo
  the stride see the same taps, and each such *phase* is an ordinary stride-1 convolution into every
  stride-th pixel.
* `weight_grad` multiplies slabs of x, transposed, with gy.

A transposed convolution is the input gradient of the convolution it is the adjoint of, and uses
the same functions in swapped roles. (Dumoulin & Visin, A guide to convolution arithmetic for deep
learning, 2016, relationships 8-14.)

All arrays have three spatial axes, (N, D, H, W, C); weights are (KD, KH, KW, C // groups, F).
Sequences and images have extents of 1 in front.
"""

import functools
import itertools
import math
from typing import NamedTuple

import numpy as np

from minidl.kernels import (
    depthwise,
    gemm,
    join,
    memory,
    parallel,
    pointwise,
    shallow,
    simd,
    strided,
    winograd,
)
from minidl.kernels.jit import inlined, inner, kernel
from minidl.kernels.slab import (
    DEPTH_BLOCK,
    MIN_TASKS,
    Jobs,
    Phase,
    Plan,
    Target,
    block_place,
    clear_channels,
    copy_channels,
    fill_slab,
    number_of_blocks,
    place_runs,
    scale_channels,
    slab_of,
)

WEIGHT_TASK = 98304  # numbers of a weight gradient that one task holds in its cache
FEW_WEIGHTS = 12288  # numbers, half of a first-level cache or so
WINOGRAD_CHANNELS = 16  # with fewer, the transforms cost more than they save


@inner
def multiply_row(
    slab, column, packed, at, width, a_runs, b_runs, runs, run, grid,
    start, start_at, start_row, out, to, step, filled, columns, relu,
):  # fmt: skip
    """``out = start + slab * weights`` for `columns` output pixels of a row, from `column` on.

    out : flat; pixels `step` apart from `to` on, in whole tiles; `filled` of `width` features
    """
    lanes, zeros = simd.lanes(out), simd.splat(out.dtype.type(0))
    a_row = grid.step_w * grid.source_row
    if filled == lanes and shallow.fits(runs, run, a_row, start_row):
        shallow.multiply_rows(
            slab, column, a_runs, packed, at, b_runs, start, start_at, out, to, step, columns, relu,
        )  # fmt: skip
        return
    if runs:
        gemm.multiply_block(
            slab, column * a_row, a_row, gemm.ONE,
            a_runs, packed, at, width, b_runs, runs, run, width,
            start, start_at, start_row, out, to, step, filled, columns, relu,
        )  # fmt: skip
        return
    for i in range(columns):
        for f in range(0, filled, lanes):
            value = simd.load_some(start, start_at + i * start_row + f, filled - f)
            value = simd.maximum(zeros, value) if relu else value
            simd.store_some(out, to + i * step + f, value, filled - f)


@inner
def copy_pixels(source, row, out, to, step, pixels, count):
    """Copy `count` channels of pixels that are `row` apart to pixels `step` apart."""
    for i in range(pixels):
        copy_channels(source, i * row, out, to + i * step, count)


@inner
def target_row(target, jobs, j, n, d, h, w):
    """Where in the target a row of output pixels of job j begins; -1 if it is outside."""
    z = jobs.first_d[j] + d * target.step_d
    y = jobs.first_h[j] + h * target.step_h
    x = jobs.first_w[j] + w * target.step_w
    if z >= target.depth or y >= target.height or x >= target.width:
        return -1
    at = ((n * target.depth + z) * target.height + y) * target.width + x
    return at * target.row + jobs.channel[j]


@inlined
def convolve_rows(
    slab, packed, bias, relu, n, d, top, w, rows, wide, at_once, first_panel, last_panel, unit,
    grid, planes, jobs, j, target, a_runs, b_runs, sums, out,
):  # fmt: skip
    """Job j for `rows` rows of `wide` pixels, `at_once` of them for each of the panels of features.

    Whole tiles are written where they belong; what is left at the ends goes through `sums`.
    """
    first, last, run = jobs.first_run[j], jobs.first_run[j + 1], jobs.run[j]
    step = target.step_w * target.row
    for above in range(top, top + rows, at_once):
        for p in range(first_panel, last_panel):
            feature, width = gemm.panel_place(p, target.channels, unit)
            at = jobs.packed_at[j] + feature * (last - first) * run
            shift = jobs.channel[j] + feature
            filled = min(width, target.channels - feature)
            whole = wide - wide % gemm.TILE_ROWS
            for h in range(above, min(above + at_once, top + rows)):
                to = target_row(target, jobs, j, n, d, h, w)
                if to < 0:
                    break
                runs = place_runs(first, last, d, h, grid, planes, jobs, j, width, a_runs, b_runs)
                multiply_row(
                    slab, gemm.ZERO, packed, at, width, a_runs, b_runs, runs, run, grid,
                    bias, shift, gemm.ZERO, out, to + feature, step, filled, whole, relu,
                )  # fmt: skip
                if whole < wide:
                    multiply_row(
                        slab, whole, packed, at, width, a_runs, b_runs, runs, run, grid,
                        bias, shift, gemm.ZERO, sums, gemm.ZERO, width, width, wide - whole, relu,
                    )  # fmt: skip
                    place = to + feature + whole * step
                    copy_pixels(sums, width, out, place, step, wide - whole, filled)


@inlined
def convolve_parts(
    slab, packed, at, width, bias, relu, n, d, top, w, rows, wide, feature, grid, planes, jobs, j,
    target, a_runs, b_runs, sums, out,
):  # fmt: skip
    """The same where weights are many: one part of them after the other adds to all the rows."""
    first, last, run = jobs.first_run[j], jobs.first_run[j + 1], jobs.run[j]
    step, shift = target.step_w * target.row, jobs.channel[j] + feature
    together = max(1, DEPTH_BLOCK // run)
    tall = (wide + gemm.TILE_ROWS - 1) // gemm.TILE_ROWS * gemm.TILE_ROWS
    for r in range(first, last, together):
        stop, fresh = min(last, r + together), r == first
        for i in range(rows):
            runs = place_runs(r, stop, d, top + i, grid, planes, jobs, j, width, a_runs, b_runs)
            line = i * tall * width
            multiply_row(
                slab, gemm.ZERO, packed, at, width, a_runs, b_runs, runs, run, grid,
                bias if fresh else sums, shift if fresh else line, 0 if fresh else width,
                sums, line, width, width, wide, relu and stop == last,
            )  # fmt: skip
    for i in range(rows):
        to = target_row(target, jobs, j, n, d, top + i, w)
        if to >= 0:
            filled = min(width, target.channels - feature)
            copy_pixels(sums[i * tall * width :], width, out, to + feature, step, wide, filled)


@kernel
def convolve(
    start, stop, source, beside, packed, bias, relu, grid, planes, jobs, target, splits, unit, out
):
    """Tasks are a block of output pixels and a part of the panels of features.

    source, beside, out : flat; `out` is overwritten at the pixels of `target` that the jobs have
    packed : flat, the weights of all jobs as `pack` leaves them
    bias : a number for each channel of the target, and some more where the last panel is not full
    planes : offsets of the planes of a slab
    unit : numbers of a register that are used
    """
    panels = gemm.panels_of((target.channels + unit - 1) // unit)
    tall = (grid.block_w + gemm.TILE_ROWS - 1) // gemm.TILE_ROWS * gemm.TILE_ROWS
    slab = slab_of(grid, planes, source)
    sums = simd.room(grid.block_h * tall * gemm.TILE_VECTORS * unit, source)
    a_runs = np.empty(len(jobs.run_at), np.int64)
    b_runs = np.empty(len(jobs.run_at), np.int64)
    for task in range(start, stop):
        n, d, top, w = block_place(task // splits, grid)
        rows, columns = min(grid.block_h, grid.height - top), min(grid.block_w, grid.width - w)
        fill_slab(slab, source, beside, n, d, top, w, grid, planes)
        for j in range(len(jobs.run)):
            depth = (jobs.first_run[j + 1] - jobs.first_run[j]) * jobs.run[j]
            right = jobs.first_w[j] + w * target.step_w
            wide = min(columns, (target.width - right + target.step_w - 1) // target.step_w)
            first_panel = task % splits * panels // splits
            last_panel = (task % splits + 1) * panels // splits
            if depth <= DEPTH_BLOCK:
                # A few weights stay at hand: then whole pixels are written one after the other.
                at_once = 1 if depth * target.channels <= FEW_WEIGHTS else rows
                convolve_rows(
                    slab, packed, bias, relu, n, d, top, w, rows, wide, at_once, first_panel,
                    last_panel, unit, grid, planes, jobs, j, target, a_runs, b_runs, sums, out,
                )  # fmt: skip
                continue
            for p in range(first_panel, last_panel):
                feature, width = gemm.panel_place(p, target.channels, unit)
                convolve_parts(
                    slab, packed, jobs.packed_at[j] + feature * depth, width, bias, relu, n, d, top,
                    w, rows, wide, feature, grid, planes, jobs, j, target, a_runs, b_runs, sums,
                    out,
                )  # fmt: skip


@kernel
def pack(start, stop, weight, scale, jobs, row_step, column_step, rows, columns, unit, packed):
    """Lay out weights as the micro-kernel reads them; tasks are panels of jobs.

    Row ``t * rows + r``, column f of job j is
    ``weight[tap_at[t] + r * row_step + f * column_step]`` for the taps t of the job; one of the two
    steps is 1. Columns past `columns` become zero.

    scale : empty, or a factor for each channel of the target
    """
    panels = gemm.panels_of((columns + unit - 1) // unit)
    for task in range(start, stop):
        j, p = task // panels, task % panels
        first, width = gemm.panel_place(p, columns, unit)
        filled = min(width, columns - first)
        taps = jobs.first_tap[j + 1] - jobs.first_tap[j]
        for t in range(taps):
            at = jobs.tap_at[jobs.first_tap[j] + t] + first * column_step
            to = jobs.packed_at[j] + first * taps * rows + t * rows * width
            if column_step == 1:
                for r in range(rows):
                    copy_channels(weight, at + r * row_step, packed, to + r * width, filled)
            else:  # row_step is 1
                gemm.transpose(weight, at, column_step, filled, rows, packed, to, width)
            for r in range(rows):
                clear_channels(packed, to + r * width + filled, width - filled)
                if scale.size:
                    scale_channels(packed, to + r * width, scale, jobs.channel[j] + first, filled)


def _unit(features: int, dtype) -> int:
    """Numbers that features are counted in: a register, or half of one where that saves a half."""
    half = simd.lanes_of(dtype) // 2
    whole = gemm.vectors_for(features, dtype)
    odd = -(-features // half) % 2 == 1 and whole < gemm.TILE_VECTORS
    return half if odd else 2 * half


class Layout(NamedTuple):
    """A plan, its jobs, and where weights lie and results go: all that follows from shapes."""

    plan: Plan
    jobs: Jobs
    target: Target
    unit: int
    packed: bool  # whether a weight lies as `pack` would leave it
    row_step: int  # from one row of the matrix of a tap to the next, and from column to column
    column_step: int


def _layout(plan, target, row_step, column_step, group_step, kernel_size, tap_step, dtype):
    """`group_step` and `tap_step` lead from one group and one tap to the next in the weight."""
    unit = _unit(target.channels, dtype)

    def tap_at(tap, group):
        return int(np.ravel_multi_index(tap, kernel_size)) * tap_step + group * group_step

    jobs = plan.jobs(tap_at, target.channels)
    columns = -(-target.channels // unit) * unit
    jobs = jobs._replace(packed_at=jobs.packed_at * columns)
    one_panel = target.channels == columns and gemm.panels_of(columns // unit) == 1
    rows = np.arange(len(jobs.tap_at)) * plan.channels
    in_order = (row_step, column_step) == (columns, 1) and (jobs.tap_at == rows * columns).all()
    packed = bool(one_panel and in_order)
    return Layout(plan, jobs, target, unit, packed, row_step, column_step)


@functools.lru_cache(maxsize=512)
def _forward_layout(
    shape, own, weight_shape, stride, padding, dilation, groups, size, dtype
) -> Layout:
    *kernel_size, channels, features = weight_shape
    axes = zip(kernel_size, padding, dilation, strict=True)
    taps = tuple([(k * d - p, k) for k in range(count)] for count, p, d in axes)
    phases = [Phase((0, 0, 0), taps)]
    plan = Plan(shape, own, size, stride, phases, groups, dtype.itemsize)
    target = Target(1, 1, 1, *size, features, features // groups)
    steps = features, 1, target.channels
    return _layout(plan, target, *steps, kernel_size, channels * features, dtype)


@functools.lru_cache(maxsize=512)
def _input_layout(shape, weight_shape, stride, padding, dilation, groups, size, dtype) -> Layout:
    *kernel_size, channels, features = weight_shape
    axes = zip(size, kernel_size, stride, padding, dilation, strict=True)
    phases = [
        Phase(*zip(*phase, strict=True))
        for phase in itertools.product(*(_axis_phases(*axis) for axis in axes))
    ]
    extents = tuple(-(-n // s) for n, s in zip(size, stride, strict=True))
    plan = Plan(shape, shape[-1], extents, (1, 1, 1), phases, groups, dtype.itemsize)
    target = Target(*stride, *size, channels * groups, channels)
    steps = 1, features, features // groups
    return _layout(plan, target, *steps, kernel_size, channels * features, dtype)


def _run(layout, source, beside, weight, scale, bias, relu, out):
    """Pack `weight`, times `scale` if that is not empty, and run `convolve`."""
    plan, jobs, target, unit, lies_packed, *steps = layout
    if not out.size:
        return
    packed, panels = weight.reshape(-1), gemm.panels_of(-(-target.channels // unit))
    if scale.size or not lies_packed:
        packed = memory.empty((jobs.packed_at[-1],), out.dtype)
        parallel.run(
            pack, len(jobs.run) * panels, packed.size,
            weight.reshape(-1), scale, jobs, *steps, plan.channels, target.channels, unit, packed,
        )  # fmt: skip
    if target.channels % unit:  # the last panel reads beyond them
        bias = np.append(bias, np.zeros(unit, bias.dtype))
    splits = max(1, min(panels, -(-MIN_TASKS // max(1, plan.blocks))))
    pixels = out.size // out.shape[-1]
    parallel.run(
        convolve, plan.blocks * splits, pixels * (packed.size / len(plan.phases) + 64) / 50,
        source.reshape(-1), beside.reshape(-1), packed, bias, relu, plan.grid, plan.planes, jobs,
        target, splits, unit, out.reshape(-1),
    )  # fmt: skip


def algorithm_for(dtype, weight_shape, stride, groups, dilation=(1, 1, 1), out_shape=None) -> str:
    """Which algorithm convolves best: 'winograd', 'strided', 'depthwise' or 'direct'.

    Winograd's needs half the time where channels are many. It rounds a little more, so that
    float64, which is there to be exact, does without. With stride 2 it is known forward, where the
    shape of the result is given, (N, OD, OH, OW). A group of one channel is no matrix product:
    there vectors run over the groups.
    """
    *kernel_size, channels, features = weight_shape
    if channels == 1 and features == groups > 1:
        return "depthwise"
    if tuple(kernel_size[1:]) != (3, 3) or groups > 1 or dtype != np.float32:
        return "direct"
    if tuple(stride) == (1, 1, 1):
        return "winograd" if min(channels, features) >= WINOGRAD_CHANNELS else "direct"
    halves = (kernel_size[0], *stride, *dilation[1:]) == (1, 1, 2, 2, 1, 1)
    if halves and out_shape and strided.pays(channels, features, out_shape):
        return "strided"
    return "direct"


def _beside(x, beside, planes, groups):
    """The channels of x in one or two arrays: groups and kernels of several planes want one."""
    if beside is None:
        return x, x[..., :0]
    if groups > 1 or planes > 1:
        return join.join([x, beside]), x[..., :0]
    return x, beside


def _one_by_one(kernel_size, stride, padding, size, out_size) -> bool:
    """Whether every output pixel sees the input pixel in its place, and there are no others."""
    alone = (*kernel_size, *stride) == (1,) * 6 and not any(padding)
    return alone and tuple(size) == tuple(out_size)


def _seen(kernel_size, stride, padding, out_size, *arrays):
    """Where kernels of one pixel stride, only the pixels they see, and a stride of 1."""
    if tuple(kernel_size) != (1, 1, 1) or tuple(stride) == (1, 1, 1) or any(padding):
        return stride, *arrays
    steps = tuple(slice(0, n * s, s) for n, s in zip(out_size, stride, strict=True))
    return (1, 1, 1), *(np.ascontiguousarray(x[:, *steps]) for x in arrays)


def _in_a_row(*arrays):
    """Images as a single row of all their pixels, so that tiles of pixels are whole ones."""
    return (x.reshape(1, 1, 1, math.prod(x.shape[:-1]), x.shape[-1]) for x in arrays)


def forward(
    x, weight, bias, stride, padding, dilation, groups, size, relu=False, beside=None,
    scale=None, algorithm=None,
):  # fmt: skip
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
    beside : (N, D, H, W, C2) array or None
        Further channels of x, behind its own; C counts both.
    scale : (F,) array or None
        Factors for the results, before the bias is added. They cost nothing, because weights are
        copied anyway.
    algorithm : 'winograd', 'strided', 'depthwise', 'direct' or None
        None takes what `algorithm_for` says.
    """
    *kernel_size, channels, features = weight.shape
    bias = np.zeros(features, x.dtype) if bias is None else bias
    scale = np.empty(0, x.dtype) if scale is None else scale
    algorithm = algorithm or algorithm_for(
        x.dtype, weight.shape, stride, groups, dilation, (len(x), *size)
    )
    x, beside = _beside(x, beside, kernel_size[0], groups)
    if algorithm == "winograd":
        return winograd.forward(x, beside, weight, scale, bias, padding, dilation, size, relu)
    if algorithm == "strided":
        x = join.join([x, beside]) if beside.size else x
        return strided.forward(x, weight, scale, bias, padding, size, relu)
    if algorithm == "depthwise":
        weight = weight * scale if scale.size else weight
        y = depthwise.forward(x, weight, bias, stride, padding, dilation, size)
        return np.maximum(y, 0, out=y) if relu else y
    stride, x, beside = _seen(kernel_size, stride, padding, size, x, beside)
    result = y = memory.empty((len(x), *size, features), x.dtype)
    if _one_by_one(kernel_size, stride, padding, x.shape[1:-1], size):
        x, beside, y = _in_a_row(x, beside, y)
        size = y.shape[1:-1]
    shape = *x.shape[:-1], x.shape[-1] + beside.shape[-1]
    layout = _forward_layout(
        shape, x.shape[-1], weight.shape, stride, padding, dilation, groups, tuple(size), x.dtype
    )
    _run(layout, x, beside, weight, scale, bias, relu, y)
    return result


def _axis_phases(size, kernel, stride, padding, dilation) -> list[tuple]:
    """For each remainder of positions modulo the stride: the first, and (offset, tap) pairs."""
    return [
        (
            first,
            sorted(
                ((first + padding - k * dilation) // stride, k)
                for k in range(kernel)
                if (first + padding - k * dilation) % stride == 0
            ),
        )
        for first in range(min(stride, size))
    ]


def input_grad(
    gy, weight, bias, stride, padding, dilation, groups, size, relu=False, split=None,
    algorithm=None,
):  # fmt: skip
    """Gradient of the input of `forward`, and at the same time the transposed convolution.

    Parameters
    ----------
    gy : (N, OD, OH, OW, F) array
    weight : (KD, KH, KW, C // groups, F) array
    bias : (C,) array or None
        Added to the result; for the transposed convolution.
    stride, padding, dilation, groups, relu, algorithm : as for `forward`
    size : three integers, extents of the input
    split : int, optional
        Return two arrays, with the first `split` channels and with the others.

    Returns
    -------
    (N, *size, C) array
    """
    *kernel_size, channels, features = weight.shape
    bias = np.zeros(channels * groups, gy.dtype) if bias is None else bias
    algorithm = algorithm or algorithm_for(gy.dtype, weight.shape, stride, groups)
    if algorithm == "winograd":
        gx = winograd.input_grad(gy, weight, bias, padding, dilation, size, relu, split)
        return gx[0] if split is None else gx
    if split is not None and groups == 1:
        return [
            input_grad(
                gy, np.ascontiguousarray(weight[..., part, :]), bias[part], stride, padding,
                dilation, groups, size, relu, algorithm=algorithm,
            )
            for part in (slice(None, split), slice(split, None))
        ]  # fmt: skip
    if algorithm == "depthwise":
        gx = depthwise.input_grad(gy, weight, bias, stride, padding, dilation, size)
        gx = np.maximum(gx, 0, out=gx) if relu else gx
    else:
        gx = out = memory.empty((len(gy), *size, channels * groups), gy.dtype)
        if _one_by_one(kernel_size, stride, padding, size, gy.shape[1:-1]):
            gy, out = _in_a_row(gy, out)
            size = out.shape[1:-1]
        layout = _input_layout(
            gy.shape, weight.shape, stride, padding, dilation, groups, tuple(size), gy.dtype
        )
        _run(layout, gy, gy[..., :0], weight, np.empty(0, gy.dtype), bias, relu, out)
    return gx if split is None else join.cut(gx, [split, gx.shape[-1] - split])


@kernel
def weight_grad_tasks(
    start, stop, source, beside, gy, grid, planes, jobs, j, features, splits, chunk, unit, partial
):
    """Tasks are (split of the blocks, chunk of the depth): sum of slabᵀ @ gy over the split.

    A chunk has runs of the job j, or if runs are long, a part of one.

    source, beside, gy : flat
    partial : (splits, rows of the weight of this job, features in whole registers), overwritten
    """
    depth, columns = partial.shape[1:]
    panels = gemm.panels_of(columns // unit)
    chunks = (depth + chunk - 1) // chunk
    blocks = number_of_blocks(grid)
    run, first_run = jobs.run[j], jobs.first_run[j]
    gy_row = gy.size // max(1, grid.batch * grid.depth * grid.height * grid.width)
    in_place = features == columns
    # Tiles have whole rows: each run has rows of its own.
    tall = (min(run, chunk) + gemm.TILE_ROWS - 1) // gemm.TILE_ROWS * gemm.TILE_ROWS
    sums = simd.room(((chunk - 1) // run + 2) * tall * columns, source)
    slab = slab_of(grid, planes, source)
    pixels = 0 if in_place else grid.block_h * grid.block_w
    copied = np.zeros(pixels * columns, source.dtype)
    x_runs, gy_runs = np.empty(grid.block_h, np.int64), np.empty(grid.block_h, np.int64)
    place, none = np.empty(1, np.int64), np.empty(1, np.int64)
    out = partial.reshape(partial.size)
    for task in range(start, stop):
        split, first = task // chunks, task % chunks * chunk
        last = min(first + chunk, depth)
        clear_channels(sums, gemm.ZERO, sums.size)
        for block in range(split * blocks // splits, (split + 1) * blocks // splits):
            n, d, h, w = block_place(block, grid)
            rows, across = min(grid.block_h, grid.height - h), min(grid.block_w, grid.width - w)
            fill_slab(slab, source, beside, n, d, h, w, grid, planes)
            gy_at = ((n * grid.depth + d) * grid.height + h) * grid.width + w
            gy_at = gy_at * gy_row + jobs.channel[j]
            if not in_place:
                for i in range(rows):
                    for c in range(across):
                        at = gy_at + (i * grid.width + c) * gy_row
                        copy_channels(gy, at, copied, (i * across + c) * columns, features)
            for r in range(first // run, (last - 1) // run + 1):
                begin = max(first, r * run) - r * run
                wanted = min(last, (r + 1) * run) - r * run - begin
                count = gemm.ZERO
                for i in range(rows):
                    if place_runs(
                        first_run + r, first_run + r + 1, d, h + i, grid, planes, jobs, j,
                        gemm.ZERO, place, none,
                    ):  # fmt: skip
                        x_runs[count] = place[0] + begin
                        gy_runs[count] = i * (grid.width * gy_row if in_place else across * columns)
                        count += 1
                if count == 0:
                    continue
                to = (r - first // run) * tall * columns
                for p in range(panels):
                    feature, width = gemm.panel_place(p, features, unit)
                    if in_place:
                        gemm.multiply_block(
                            slab, gemm.ZERO, gemm.ONE, grid.step_w * grid.source_row, x_runs,
                            gy, gy_at + feature, gy_row, gy_runs, count, across, width,
                            sums, to + feature, columns, sums, to + feature, columns, width,
                            wanted, gemm.NO,
                        )  # fmt: skip
                    else:
                        gemm.multiply_block(
                            slab, gemm.ZERO, gemm.ONE, grid.step_w * grid.source_row, x_runs,
                            copied, feature, columns, gy_runs, count, across, width,
                            sums, to + feature, columns, sums, to + feature, columns, width,
                            wanted, gemm.NO,
                        )  # fmt: skip
        for r in range(first // run, (last - 1) // run + 1):
            begin, end = max(first, r * run), min(last, (r + 1) * run)
            at = (r - first // run) * tall * columns
            copy_channels(sums, at, out, (split * depth + begin) * columns, (end - begin) * columns)


@kernel
def add_splits(start, stop, partial, features, gw, row, at):
    """Tasks are rows of the weight: row r begins at ``r * row + at`` of `gw`, and is overwritten.

    partial : as `weight_grad_tasks` leaves it; its splits are added in their order
    """
    splits, depth, columns = partial.shape
    parts, lanes = partial.reshape(partial.size), simd.lanes(gw)
    for r in range(start, stop):
        for f in range(0, features, lanes):
            total = simd.load_some(parts, r * columns + f, features - f)
            for split in range(1, splits):
                place = (split * depth + r) * columns + f
                total = total + simd.load_some(parts, place, features - f)
            simd.store_some(gw, r * row + at + f, total, features - f)


def weight_grad(x, gy, kernel_size, stride, padding, dilation, groups, beside=None, algorithm=None):
    """Gradient of the weight of `forward`: (KD, KH, KW, C // groups, F).

    The pixels are split into parts whose number follows from the shapes alone, and the parts are
    added in their order.
    """
    x, beside = _beside(x, beside, kernel_size[0], groups)
    stride, x, beside = _seen(kernel_size, stride, padding, gy.shape[1:-1], x, beside)
    alone = _one_by_one(kernel_size, stride, padding, x.shape[1:-1], gy.shape[1:-1])
    many = (x.shape[-1] + beside.shape[-1]) * gy.shape[-1] > WEIGHT_TASK
    if alone and many and groups == 1:
        parts = [pointwise.weight_grad(part, gy) for part in (x, beside) if part.shape[-1]]
        return np.concatenate(parts).reshape(*kernel_size, -1, gy.shape[-1])
    if alone:
        x, beside, gy = _in_a_row(x, beside, gy)
    shape = *x.shape[:-1], x.shape[-1] + beside.shape[-1]
    features, channels = gy.shape[-1] // groups, shape[-1] // groups
    weight_shape = (*kernel_size, channels, gy.shape[-1])
    algorithm = algorithm or algorithm_for(x.dtype, weight_shape, stride, groups)
    if algorithm == "depthwise":
        return depthwise.weight_grad(x, gy, kernel_size, stride, padding, dilation)
    if algorithm == "winograd":
        return winograd.weight_grad(x, beside, gy, kernel_size[0], padding, dilation)
    size = gy.shape[1:-1]
    plan, jobs, _, unit, *_ = _forward_layout(
        shape, x.shape[-1], weight_shape, stride, padding, dilation, groups, size, x.dtype
    )
    columns = -(-features // unit) * unit
    depth = len(jobs.tap_at) // groups * channels
    # Whole runs, or parts of one.
    run = int(jobs.run[0])
    chunk = max(1, WEIGHT_TASK // columns)
    chunk = min(depth, chunk // run * run or gemm.whole_tiles(chunk))
    chunks = -(-depth // chunk)
    splits = max(1, min(plan.blocks, MIN_TASKS // chunks))
    gw = memory.empty(weight_shape, x.dtype)
    for group in range(groups):
        partial = memory.empty((splits, depth, columns), x.dtype)
        parallel.run(
            weight_grad_tasks, splits * chunks, gy.size // groups * depth / 50,
            x.reshape(-1), beside.reshape(-1), gy.reshape(-1), plan.grid, plan.planes, jobs, group,
            features, splits, chunk, unit, partial,
        )  # fmt: skip
        if splits == groups == 1 and columns == features:
            return partial.reshape(weight_shape)
        parallel.run(
            add_splits, depth, partial.size, partial, features, gw.reshape(-1), groups * features,
            group * features,
        )  # fmt: skip
    return gw
