"""Slabs: the part of an image that a block of output pixels needs, and how a block is computed.

A slab holds whole rows of pixels, with all their channels, and zeros where the image ends. The taps
of a convolution find their pixels in it in *runs*: channels that are neighbours in memory. `Plan`
works out, once for each shape of a convolution, how large blocks are and where runs begin.
"""

import itertools
from typing import NamedTuple

import numpy as np

from minidl.kernels import gemm, simd
from minidl.kernels.jit import inner, kernel

SLAB_BYTES = 192 << 10  # a slab stays in the second-level cache, beside weights and sums
BLOCK_PIXELS = 4096  # output pixels of a block: weights and the rows of its rim are read once
DEPTH_BLOCK = 1280  # rows of weights between two visits to the sums
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
    own: int  # as many are in its first array, the others in the second


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


@inner
def copy_channels(source, at, out, to, count):
    """Copy `count` numbers from one flat array to another."""
    lanes = simd.lanes(out)
    for c in range(0, count - lanes + 1, lanes):
        simd.store(out, to + c, simd.load(source, at + c))
    rest = count % lanes
    if rest:
        c = count - rest
        simd.store_some(out, to + c, simd.load_some(source, at + c, rest), rest)


@inner
def scale_channels(out, to, scale, at, count):
    """Multiply `count` numbers by as many factors."""
    for c in range(0, count, simd.lanes(out)):
        some = count - c
        product = simd.load_some(out, to + c, some) * simd.load_some(scale, at + c, some)
        simd.store_some(out, to + c, product, some)


@inner
def clear_channels(out, to, count):
    """Write `count` zeros."""
    for c in range(0, count, simd.lanes(out)):
        simd.store_some(out, to + c, simd.splat(out.dtype.type(0)), count - c)


@inner
def block_place(block, grid):
    """Image, plane, first row and first column of a block."""
    across = (grid.width + grid.block_w - 1) // grid.block_w
    down = (grid.height + grid.block_h - 1) // grid.block_h
    w = block % across * grid.block_w
    block //= across
    h = block % down * grid.block_h
    block //= down
    return block // grid.depth, block % grid.depth, h, w


@inner
def fill_slab(slab, source, beside, n, d, h, w, grid, planes):
    """Copy what the block at (n, d, h, w) needs, (planes, slab_h, slab_w, source_row).

    `source` and `beside` are flat and have the same pixels; the channels of the second come behind
    those of the first. Columns outside of them become zero; rows outside are left as they are.
    """
    row = grid.slab_w * grid.source_row
    x = w * grid.step_w + grid.low_w
    first = min(grid.slab_w, max(0, -x))
    last = max(first, min(grid.slab_w, grid.source_w - x))
    top = h * grid.step_h + grid.low_h
    for p in range(len(planes)):
        z = d * grid.step_d + planes[p]
        if not 0 <= z < grid.source_d:
            continue
        for y in range(max(0, top), min(grid.source_h, top + grid.slab_h)):
            to = (p * grid.slab_h + y - top) * row
            at = ((n * grid.source_d + z) * grid.source_h + y) * grid.source_w + x + first
            clear_channels(slab, to, first * grid.source_row)
            copy_line(source, beside, at, slab, to + first * grid.source_row, last - first, grid)
            clear_channels(slab, to + last * grid.source_row, row - last * grid.source_row)


@inner
def copy_line(source, beside, at, slab, to, pixels, grid):
    """Copy `pixels` pixels, from number `at` on, with the channels of both arrays."""
    if grid.own == grid.source_row:
        copy_channels(source, at * grid.own, slab, to, pixels * grid.own)
        return
    others = grid.source_row - grid.own
    for i in range(pixels):
        copy_channels(source, (at + i) * grid.own, slab, to + i * grid.source_row, grid.own)
        copy_channels(beside, (at + i) * others, slab, to + i * grid.source_row + grid.own, others)


@inner
def number_of_blocks(grid):
    """How many blocks the grid has."""
    across = (grid.width + grid.block_w - 1) // grid.block_w
    down = (grid.height + grid.block_h - 1) // grid.block_h
    return grid.batch * grid.depth * down * across


@kernel
def slab_of(grid, planes, like):
    """Room for a slab, and behind it for what the last tile of a row reads in vain."""
    pixels = len(planes) * grid.slab_h * grid.slab_w + gemm.TILE_ROWS * (grid.step_w + 1)
    return simd.room(pixels * grid.source_row + gemm.TILE_ROWS, like)


@inner
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
    own : how many of its channels are in the first of two arrays
    size : extents of the grid of output pixels
    step : source pixels from one output pixel to the next
    phases : what is computed at each of them
    groups : int
    """

    def __init__(self, shape, own, size, step, phases, groups, itemsize) -> None:
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
        self.grid = Grid(shape[0], *size, *block, *step, *self.low, *slab(block), *shape[1:], own)

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
