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

import itertools
from typing import NamedTuple

import numpy as np

from minidl.kernels import depthwise, gemm, parallel, simd, winograd
from minidl.kernels.jit import kernel

SLAB_BYTES = 192 << 10  # a slab stays in the second-level cache, beside weights and sums
BLOCK_PIXELS = 512  # output pixels of a block, whose weights are read once
DEPTH_BLOCK = 1280  # rows of weights between two visits to the sums
WEIGHT_TASK = 98304  # numbers of a weight gradient that one task holds in its cache
WINOGRAD_CHANNELS = 16  # with fewer, the transforms cost more than they save
MIN_TASKS = 16  # enough to keep threads busy


class Grid(NamedTuple):
    """A grid of output pixels in blocks, and how it finds its source pixels.

    Output pixel q sees source pixels ``q * step + offset`` along each axis, from `low` to what the
    slab covers; along the depth only those of a few planes.
    """

    batch: int
    depth: int  # extents of the grid of output pixels
    height: int
    width: int
    block_h: int  # extents of a block; it has one plane
    block_w: int
    step_d: int  # source pixels from one output pixel to the next
    step_h: int
    step_w: int
    low_h: int  # smallest offset of a tap
    low_w: int
    slab_h: int  # extents of the slab of a block
    slab_w: int
    source_d: int  # extents of the source
    source_h: int
    source_w: int
    source_row: int  # channels of the source


class Target(NamedTuple):
    """Where the pixels of a grid lie in the array they are written to."""

    step_d: int
    step_h: int
    step_w: int
    depth: int  # extents of the array
    height: int
    width: int
    row: int  # channels of the array in all
    channels: int  # channels written by a job


class Jobs(NamedTuple):
    """What is done with each block: one job for each phase and each group.

    Each field has an element for each job, but those of runs and taps for each run and tap, and
    the ``first_...`` one more: job j has runs ``first_run[j]`` to ``first_run[j + 1]``.
    """

    first_d: np.ndarray  # where in the target its first pixel is
    first_h: np.ndarray
    first_w: np.ndarray
    channel: np.ndarray  # first channel of the target
    run: np.ndarray  # depth of each of its runs
    first_run: np.ndarray
    run_plane: np.ndarray  # plane of the slab, row, and position in the row at which a run begins
    run_row: np.ndarray
    run_at: np.ndarray
    first_tap: np.ndarray
    tap_at: np.ndarray  # where in the weight the matrix of a tap begins
    packed_at: np.ndarray  # where its packed weights begin


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
def block_place(block, grid):
    """Image, plane, first row and first column of a block."""
    across = (grid.width + grid.block_w - 1) // grid.block_w
    down = (grid.height + grid.block_h - 1) // grid.block_h
    w = block % across * grid.block_w
    block //= across
    h = block % down * grid.block_h
    block //= down
    return block // grid.depth, block % grid.depth, h, w


@kernel
def fill_slab(slab, source, n, d, h, w, grid, planes):
    """Copy what the block at (n, d, h, w) needs, (planes, slab_h, slab_w, source_row).

    Columns outside of the source become zero; rows outside are left as they are.
    """
    row = grid.slab_w * grid.source_row
    x = w * grid.step_w + grid.low_w
    first = min(grid.slab_w, max(0, -x))
    last = max(first, min(grid.slab_w, grid.source_w - x))
    for p in range(len(planes)):
        z = d * grid.step_d + planes[p]
        if not 0 <= z < grid.source_d:
            continue
        top = h * grid.step_h + grid.low_h
        for y in range(max(0, top), min(grid.source_h, top + grid.slab_h)):
            to = (p * grid.slab_h + y - top) * row
            at = (((n * grid.source_d + z) * grid.source_h + y) * grid.source_w + x + first)
            clear_channels(slab, to, first * grid.source_row)
            copy_channels(
                source, at * grid.source_row, slab, to + first * grid.source_row,
                (last - first) * grid.source_row,
            )  # fmt: skip
            clear_channels(slab, to + last * grid.source_row, row - last * grid.source_row)


@kernel
def place_runs(first_run, last_run, d, h, grid, planes, jobs, j, width, a_runs, b_runs):
    """Where in the slab and in the packed weights the runs of a row of output pixels begin.

    `h` is the row of the output, in the slab of a block that begins at row ``h - i`` if h is its
    row i. Runs in rows outside of the source are left out; the number of others is returned.
    """
    top = h % grid.block_h * grid.step_h
    count = 0
    for r in range(first_run, last_run):
        plane, row = jobs.run_plane[r], top + jobs.run_row[r]
        z = d * grid.step_d + planes[plane]
        y = h * grid.step_h + grid.low_h + jobs.run_row[r]
        if 0 <= z < grid.source_d and 0 <= y < grid.source_h:
            line = (plane * grid.slab_h + row) * grid.slab_w * grid.source_row
            a_runs[count] = line + jobs.run_at[r]
            b_runs[count] = (r - jobs.first_run[j]) * jobs.run[j] * width
            count += 1
    return count


@kernel
def multiply_row(
    slab, column, packed, at, width, a_runs, b_runs, runs, run, grid,
    start, start_at, start_row, out, to, step, columns, relu,
):  # fmt: skip
    """``out = start + slab * weights`` for `columns` output pixels of a row, from `column` on.

    out : flat; pixels `step` apart from `to` on, in whole tiles
    """
    if runs:
        gemm.multiply_block(
            slab, column * grid.step_w * grid.source_row, grid.step_w * grid.source_row, gemm.ONE,
            a_runs, packed, at, width, b_runs, runs, run, width,
            start, start_at, start_row, out, to, step, columns, relu,
        )  # fmt: skip
        return
    lanes, zeros = simd.lanes(out), simd.splat(out.dtype.type(0))
    for i in range(columns):
        for f in range(0, width, lanes):
            value = simd.load_some(start, start_at + i * start_row + f, width - f)
            value = simd.maximum(zeros, value) if relu else value
            simd.store_some(out, to + i * step + f, value, width - f)


@kernel
def copy_pixels(source, row, out, to, step, pixels, count):
    """Copy `count` channels of pixels that are `row` apart to pixels `step` apart."""
    for i in range(pixels):
        copy_channels(source, i * row, out, to + i * step, count)


@kernel
def target_row(target, jobs, j, n, d, h, w):
    """Where in the target a row of output pixels of job j begins; -1 if it is outside."""
    z = jobs.first_d[j] + d * target.step_d
    y = jobs.first_h[j] + h * target.step_h
    x = jobs.first_w[j] + w * target.step_w
    if z >= target.depth or y >= target.height or x >= target.width:
        return -1
    at = ((n * target.depth + z) * target.height + y) * target.width + x
    return at * target.row + jobs.channel[j]


@kernel
def convolve(
    start, stop, source, packed, bias, relu, grid, planes, jobs, target, splits, unit, out
):
    """Tasks are a block of output pixels and a part of the panels of features.

    source, out : flat; `out` is overwritten at the pixels of `target` that the jobs have
    packed : flat, the weights of all jobs as `pack` leaves them
    bias : a number for each channel of the target, and as many more as a panel has
    planes : offsets of the planes of a slab
    unit : numbers of a register that are used
    """
    vectors = (target.channels + unit - 1) // unit
    panels = gemm.panels_of(vectors)
    tall = (grid.block_w + gemm.TILE_ROWS - 1) // gemm.TILE_ROWS * gemm.TILE_ROWS
    step = target.step_w * target.row
    slab = slab_of(grid, planes, source)
    sums = simd.room(grid.block_h * tall * gemm.TILE_VECTORS * unit, source)
    a_runs = np.empty(len(jobs.run_at), np.int64)
    b_runs = np.empty(len(jobs.run_at), np.int64)
    for task in range(start, stop):
        n, d, top, w = block_place(task // splits, grid)
        rows, columns = min(grid.block_h, grid.height - top), min(grid.block_w, grid.width - w)
        fill_slab(slab, source, n, d, top, w, grid, planes)
        split = task % splits
        for j in range(len(jobs.run)):
            first, last, run = jobs.first_run[j], jobs.first_run[j + 1], jobs.run[j]
            together = max(1, DEPTH_BLOCK // max(1, run))
            x = jobs.first_w[j] + w * target.step_w
            wide = min(columns, (target.width - x + target.step_w - 1) // target.step_w)
            for p in range(split * panels // splits, (split + 1) * panels // splits):
                feature = gemm.panel_start(p, vectors) * unit
                width = gemm.panel_start(p + 1, vectors) * unit - feature
                shift = jobs.channel[j] + feature
                at = jobs.packed_at[j] + feature * (last - first) * run
                filled = min(width, target.channels - feature)
                if last - first <= together:
                    # Whole tiles are written where they belong, what is left at the ends copied.
                    whole = wide - wide % gemm.TILE_ROWS if filled == width else 0
                    for h in range(top, top + rows):
                        to = target_row(target, jobs, j, n, d, h, w)
                        if to < 0:
                            break
                        runs = place_runs(
                            first, last, d, h, grid, planes, jobs, j, width, a_runs, b_runs
                        )
                        multiply_row(
                            slab, gemm.ZERO, packed, at, width, a_runs, b_runs, runs, run, grid,
                            bias, shift, gemm.ZERO, out, to + feature, step, whole, relu,
                        )  # fmt: skip
                        if whole < wide:
                            multiply_row(
                                slab, whole, packed, at, width, a_runs, b_runs, runs, run, grid,
                                bias, shift, gemm.ZERO, sums, gemm.ZERO, width, wide - whole, relu,
                            )  # fmt: skip
                            copy_pixels(
                                sums, width, out, to + feature + whole * step, step, wide - whole,
                                filled,
                            )  # fmt: skip
                    continue
                # Sums of the whole block, to which one part of the weights after the other adds.
                for r in range(first, last, together):
                    for i in range(rows):
                        runs = place_runs(
                            r, min(last, r + together), d, top + i, grid, planes, jobs, j, width,
                            a_runs, b_runs,
                        )  # fmt: skip
                        line, fresh = i * tall * width, r == first
                        multiply_row(
                            slab, gemm.ZERO, packed, at, width, a_runs, b_runs, runs, run, grid,
                            bias if fresh else sums, shift if fresh else line, 0 if fresh else width,
                            sums, line, width, wide, relu and r + together >= last,
                        )  # fmt: skip
                for i in range(rows):
                    to = target_row(target, jobs, j, n, d, top + i, w)
                    if to >= 0:
                        copy_pixels(
                            sums[i * tall * width :], width, out, to + feature, step, wide, filled
                        )


@kernel
def slab_of(grid, planes, like):
    """Room for a slab, and behind it for what the last tile of a row reads in vain."""
    pixels = len(planes) * grid.slab_h * grid.slab_w + gemm.TILE_ROWS * (grid.step_w + 1)
    return simd.room(pixels * grid.source_row + gemm.TILE_ROWS, like)


@kernel
def pack(start, stop, weight, jobs, row_step, column_step, rows, columns, unit, packed):
    """Lay out weights as the micro-kernel reads them; tasks are panels of jobs.

    Row ``t * rows + r``, column f of job j is ``weight[tap_at[t] + r * row_step + f * column_step]``
    for the taps t of the job; one of the two steps is 1. Columns past `columns` become zero.
    """
    vectors = (columns + unit - 1) // unit
    panels = gemm.panels_of(vectors)
    for task in range(start, stop):
        j, p = task // panels, task % panels
        v = gemm.panel_start(p, vectors)
        width = (gemm.panel_start(p + 1, vectors) - v) * unit
        first = v * unit
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


class Phase(NamedTuple):
    """Output pixels that see the same taps: ``first + i * step`` along each axis.

    For each axis `taps` has pairs (offset, tap), in the order of their offsets.
    """

    first: tuple[int, int, int]
    taps: tuple[list[tuple[int, int]], ...]


def _numbers(values) -> np.ndarray:
    return np.array(values, np.int64).reshape(-1)


def _starts(counts) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _run_length(columns: list[int], channels: int, row: int) -> tuple[int, int]:
    """Depth of the runs of taps at these column offsets, and how many a row of taps has.

    Neighbouring taps are one run where all channels take part. Long runs are divided evenly, where
    a few parts can be even.
    """
    together = channels == row and columns == list(range(columns[0], columns[0] + len(columns)))
    depth, count = (channels * len(columns), 1) if together else (channels, len(columns))
    least = -(-depth // DEPTH_BLOCK)
    for parts in range(least, 2 * least):
        if depth % parts == 0:
            return depth // parts, count * parts
    return depth, count


class Plan:
    """Everything `convolve` and `weight_grad_tasks` have to know about a convolution.

    Parameters
    ----------
    shape : (N, D, H, W, C) of the source
    size : extents of the grid of output pixels
    step : source pixels from one output pixel to the next
    phases : what is computed at each of them
    groups : int
    """

    def __init__(self, shape, size, step, phases, groups, itemsize) -> None:
        self.phases, self.groups = phases, groups
        self.channels = shape[-1] // groups
        offsets = [
            sorted({offset for phase in phases for offset, _ in phase.taps[axis]}) or [0]
            for axis in range(3)
        ]
        self.planes = _numbers(offsets[0])
        self.low = offsets[1][0], offsets[2][0]
        spans = [offsets[axis][-1] - offsets[axis][0] + 1 for axis in (1, 2)]
        row = len(self.planes) * shape[-1] * itemsize

        def slab(block):
            return [
                (extent - 1) * s + span
                for extent, s, span in zip(block, step[1:], spans, strict=True)
            ]

        def number(block):
            return shape[0] * size[0] * -(-size[1] // block[0]) * -(-size[2] // block[1])

        # Long rows, so that memory is written in its order.
        width = max(1, min(size[2], BLOCK_PIXELS // 2))
        block = [max(1, min(size[1], BLOCK_PIXELS // width)), width]
        while block != [1, min(size[2], gemm.TILE_ROWS)] and max(block) > 1:
            large = np.prod(slab(block)) * row > SLAB_BYTES
            if not large and number(block) >= MIN_TASKS:
                break
            if block[1] > 2 * gemm.TILE_ROWS * block[0] or block[0] == 1:
                block[1] = -(-block[1] // 2 // gemm.TILE_ROWS) * gemm.TILE_ROWS
                if block[1] <= gemm.TILE_ROWS and block[0] == 1:
                    break
            else:
                block[0] = -(-block[0] // 2)
        self.blocks = number(block)
        self.grid = Grid(
            shape[0], *size, *block, *step, *self.low, *slab(block), *shape[1:]
        )

    def jobs(self, tap_at, channels_out) -> Jobs:
        """One job for each phase and group; ``tap_at(tap, group)`` is where a weight begins."""
        row, channels = self.grid.source_row, self.channels
        fields: dict[str, list] = {name: [] for name in Jobs._fields}
        runs, taps, packed = [], [], []
        for phase, group in itertools.product(self.phases, range(self.groups)):
            columns = [offset for offset, _ in phase.taps[2]]
            run, count = _run_length(columns, channels, row) if columns else (1, 0)
            lines = list(itertools.product(phase.taps[0], phase.taps[1])) if columns else []
            for (plane, _), (line, _) in lines:
                for part in range(count):
                    tap, at = divmod(part * run, channels)
                    at += (columns[tap] - self.low[1]) * row + group * channels
                    fields["run_plane"].append(np.searchsorted(self.planes, plane))
                    fields["run_row"].append(line - self.low[0])
                    fields["run_at"].append(at)
            for place in itertools.product(*phase.taps):
                fields["tap_at"].append(tap_at(tuple(tap for _, tap in place), group))
            for axis, first in zip("dhw", phase.first, strict=True):
                fields[f"first_{axis}"].append(first)
            fields["channel"].append(group * channels_out)
            fields["run"].append(run)
            runs.append(len(lines) * count)
            taps.append(len(lines) * len(columns))
            packed.append(taps[-1] * channels)
        fields["first_run"], fields["first_tap"] = _starts(runs), _starts(taps)
        fields["packed_at"] = _starts(packed)
        return Jobs(**{name: _numbers(values) for name, values in fields.items()})


def _unit(features: int, dtype) -> int:
    """Numbers of a register that are used: all, or half of them where that is enough."""
    lanes = simd.lanes_of(dtype)
    return lanes // 2 if features <= lanes // 2 else lanes


def _run(plan, source, weight, steps, tap_at, bias, relu, target, out):
    """Pack `weight` and run `convolve`."""
    unit = _unit(target.channels, out.dtype)
    vectors = -(-target.channels // unit)
    jobs = plan.jobs(tap_at, target.channels)
    jobs = jobs._replace(packed_at=jobs.packed_at * vectors * unit)
    packed = np.empty(jobs.packed_at[-1], out.dtype)
    panels = gemm.panels_of(vectors)
    parallel.run(
        pack, len(jobs.run) * panels, packed.size,
        weight.reshape(-1), jobs, *steps, plan.channels, target.channels, unit, packed,
    )  # fmt: skip
    bias = np.append(bias, np.zeros(gemm.TILE_VECTORS * unit, bias.dtype))
    splits = max(1, min(panels, -(-MIN_TASKS // max(1, plan.blocks))))
    pixels = out.size // out.shape[-1]
    parallel.run(
        convolve, plan.blocks * splits, pixels * (packed.size / len(plan.phases) + 64) / 50,
        source.reshape(-1), packed, bias, relu, plan.grid, plan.planes, jobs, target, splits, unit,
        out.reshape(-1),
    )  # fmt: skip


def algorithm_for(dtype, weight_shape, stride, groups) -> str:
    """Which algorithm convolves best: 'winograd', 'depthwise' or 'direct'.

    Winograd's needs half the time where channels are many. It rounds a little more, so that
    float64, which is there to be exact, does without. A group of one channel is no matrix product:
    there vectors run over the groups.
    """
    *kernel_size, channels, features = weight_shape
    if channels == 1 and features == groups > 1:
        return "depthwise"
    suits = tuple(kernel_size) == (1, 3, 3) and tuple(stride) == (1, 1, 1) and groups == 1
    fast = suits and dtype == np.float32 and min(channels, features) >= WINOGRAD_CHANNELS
    return "winograd" if fast else "direct"


def _plane(volumes):
    """(N, D, H, W, C) as images (N * D, H, W, C)."""
    return volumes.reshape(-1, *volumes.shape[2:])


def _forward_phase(kernel_size, padding, dilation) -> Phase:
    axes = zip(kernel_size, padding, dilation, strict=True)
    taps = tuple([(k * d - p, k) for k in range(count)] for count, p, d in axes)
    return Phase((0, 0, 0), taps)


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
    algorithm : 'winograd', 'depthwise', 'direct' or None
        None takes what `algorithm_for` says.
    """
    *kernel_size, channels, features = weight.shape
    bias = np.zeros(features, x.dtype) if bias is None else bias
    algorithm = algorithm or algorithm_for(x.dtype, weight.shape, stride, groups)
    if algorithm == "winograd":
        y = winograd.forward(_plane(x), weight[0], bias, padding[1:], dilation[1:], size[1:], relu)
        return y.reshape(len(x), *size, features)
    if algorithm == "depthwise":
        y = depthwise.forward(x, weight, bias, stride, padding, dilation, size)
        return np.maximum(y, 0, out=y) if relu else y
    y = np.empty((len(x), *size, features), x.dtype)
    phase = _forward_phase(kernel_size, padding, dilation)
    plan = Plan(x.shape, size, stride, [phase], groups, x.itemsize)
    target = Target(1, 1, 1, *size, features, features // groups)

    def tap_at(tap, group):
        at = np.ravel_multi_index(tap, kernel_size)
        return at * channels * features + group * target.channels

    _run(plan, x, weight, (features, 1), tap_at, bias, relu, target, y)
    return y


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
    gy, weight, bias, stride, padding, dilation, groups, size, relu=False, algorithm=None
):
    """Gradient of the input of `forward`, and at the same time the transposed convolution.

    Parameters
    ----------
    gy : (N, OD, OH, OW, F) array
    weight : (KD, KH, KW, C // groups, F) array
    bias : (C,) array or None
        Added to the result; for the transposed convolution.
    stride, padding, dilation, groups, relu, algorithm : as for `forward`
    size : three integers, extents of the input

    Returns
    -------
    (N, *size, C) array
    """
    *kernel_size, channels, features = weight.shape
    bias = np.zeros(channels * groups, gy.dtype) if bias is None else bias
    algorithm = algorithm or algorithm_for(gy.dtype, weight.shape, stride, groups)
    if algorithm == "winograd":
        gx = winograd.input_grad(
            _plane(gy), weight[0], bias, padding[1:], dilation[1:], size[1:], relu
        )
        return gx.reshape(len(gy), *size, channels)
    if algorithm == "depthwise":
        gx = depthwise.input_grad(gy, weight, bias, stride, padding, dilation, size)
        return np.maximum(gx, 0, out=gx) if relu else gx
    gx = np.empty((len(gy), *size, channels * groups), gy.dtype)
    axes = zip(size, kernel_size, stride, padding, dilation, strict=True)
    phases = [
        Phase(*zip(*phase, strict=True))
        for phase in itertools.product(*(_axis_phases(*axis) for axis in axes))
    ]
    steps = tuple(-(-n // s) for n, s in zip(size, stride, strict=True))
    plan = Plan(gy.shape, steps, (1, 1, 1), phases, groups, gy.itemsize)
    target = Target(*stride, *size, channels * groups, channels)

    def tap_at(tap, group):
        at = np.ravel_multi_index(tap, kernel_size)
        return at * channels * features + group * plan.channels

    _run(plan, gy, weight, (1, features), tap_at, bias, relu, target, gx)
    return gx


@kernel
def weight_grad_tasks(
    start, stop, source, gy, grid, planes, jobs, j, features, splits, chunk, unit, partial
):
    """Tasks are (split of the blocks, chunk of the depth): sum of slabᵀ @ gy over the split.

    A chunk has runs of the job j, or if runs are long, a part of one.

    source, gy : flat
    partial : (splits, rows of the weight of this job, features in whole registers), overwritten
    """
    depth, columns = partial.shape[1:]
    lanes = simd.lanes(partial)
    vectors = columns // unit
    panels = gemm.panels_of(vectors)
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
        clear_channels(sums, 0, sums.size)
        for block in range(split * blocks // splits, (split + 1) * blocks // splits):
            n, d, h, w = block_place(block, grid)
            rows, across = min(grid.block_h, grid.height - h), min(grid.block_w, grid.width - w)
            fill_slab(slab, source, n, d, h, w, grid, planes)
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
                count = 0
                for i in range(rows):
                    if place_runs(
                        first_run + r, first_run + r + 1, d, h + i, grid, planes, jobs, j, 0, place,
                        none,
                    ):  # fmt: skip
                        x_runs[count] = place[0] + begin
                        gy_runs[count] = i * (grid.width * gy_row if in_place else across * columns)
                        count += 1
                if count == 0:
                    continue
                to = (r - first // run) * tall * columns
                for p in range(panels):
                    v = gemm.panel_start(p, vectors)
                    width = (gemm.panel_start(p + 1, vectors) - v) * unit
                    if in_place:
                        gemm.multiply_block(
                            slab, gemm.ZERO, gemm.ONE, grid.step_w * grid.source_row, x_runs,
                            gy, gy_at + v * unit, gy_row, gy_runs, count, across, width,
                            sums, to + v * unit, columns, sums, to + v * unit, columns, wanted,
                            False,
                        )  # fmt: skip
                    else:
                        gemm.multiply_block(
                            slab, gemm.ZERO, gemm.ONE, grid.step_w * grid.source_row, x_runs,
                            copied, v * unit, columns, gy_runs, count, across, width,
                            sums, to + v * unit, columns, sums, to + v * unit, columns, wanted,
                            False,
                        )  # fmt: skip
        for r in range(first // run, (last - 1) // run + 1):
            begin, end = max(first, r * run), min(last, (r + 1) * run)
            at = (r - first // run) * tall * columns
            copy_channels(
                sums, at, out, (split * depth + begin) * columns, (end - begin) * columns
            )


@kernel
def number_of_blocks(grid):
    """How many blocks the grid has."""
    across = (grid.width + grid.block_w - 1) // grid.block_w
    down = (grid.height + grid.block_h - 1) // grid.block_h
    return grid.batch * grid.depth * down * across


def weight_grad(x, gy, kernel_size, stride, padding, dilation, groups, algorithm=None):
    """Gradient of the weight of `forward`: (KD, KH, KW, C // groups, F).

    The pixels are split into parts whose number follows from the shapes alone, and the parts are
    added in their order.
    """
    features = gy.shape[-1] // groups
    channels = x.shape[-1] // groups
    shape = (*kernel_size, channels, gy.shape[-1])
    algorithm = algorithm or algorithm_for(x.dtype, shape, stride, groups)
    if algorithm == "depthwise":
        return depthwise.weight_grad(x, gy, kernel_size, stride, padding, dilation)
    if algorithm == "winograd":
        gw = winograd.weight_grad(_plane(x), _plane(gy), padding[1:], dilation[1:])
        return gw[None]
    unit = _unit(features, x.dtype)
    columns = -(-features // unit) * unit
    phase = _forward_phase(kernel_size, padding, dilation)
    plan = Plan(x.shape, gy.shape[1:-1], stride, [phase], groups, x.itemsize)
    jobs = plan.jobs(lambda tap, group: 0, features)
    depth = len(jobs.tap_at) // groups * channels
    # Whole runs, or parts of one.
    run = int(jobs.run[0])
    chunk = max(1, WEIGHT_TASK // columns)
    chunk = min(depth, chunk // run * run or -(-chunk // gemm.TILE_ROWS) * gemm.TILE_ROWS)
    chunks = -(-depth // chunk)
    splits = max(1, min(plan.blocks, MIN_TASKS // chunks))
    gw = np.empty((*kernel_size, channels, groups, features), x.dtype)
    for group in range(groups):
        partial = np.empty((splits, depth, columns), x.dtype)
        parallel.run(
            weight_grad_tasks, splits * chunks, gy.size // groups * depth / 50,
            x.reshape(-1), gy.reshape(-1), plan.grid, plan.planes, jobs, group, features, splits,
            chunk, unit, partial,
        )  # fmt: skip
        # Only the true columns: what stands in those that fill up the last vector is chance.
        parts = partial.reshape(splits, *kernel_size, channels, columns)[..., :features]
        gw[..., group, :] = parts.sum(axis=0)
    return gw.reshape(*kernel_size, channels, groups * features)
