"""The receptive fields of any network: which pixels of the input each unit sees.

`receptive_fields` follows one forward pass (`minidl.trace`) and carries along, for every array, the
first and the last pixel that each of its units depends on, along each axis of the input for itself.
An operation maps units to the units they are computed from; where branches meet, a unit sees what
it sees through any of them. So skips, concatenations, crops, unpooling and resizing need no care by
whoever writes the network.

Two things are carried for every array:

* the *exact* field of each unit, which ends at the border of the image;
* the *free* field, as if the image went on for ever. It repeats itself: units that are a period
  apart see the same, moved by whole pixels. From it come size, jump and start.

Sources: Araujo, Norris, Sim, Computing Receptive Fields of Convolutional Neural Networks, Distill,
2019.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from minidl import arithmetic as ops
from minidl.functional import activation, conv, noise, norm, pool, resize, shape
from minidl.functional.linear import Linear
from minidl.functional.shape import NUMPY_MODES
from minidl.geometry import Window
from minidl.receptive_field import ReceptiveField
from minidl.tensor import Tensor
from minidl.trace import Operation, Trace, Value, reduced_axes, trace

NONE = 2**40  # the first pixel, and minus the last, of what sees nothing


class FieldError(TypeError):
    """An operation whose units see nobody knows what."""


# ---- what the units of one axis are computed from -------------------------------------------


class Taps(NamedTuple):
    """For units (U,): the units ``sources`` (U, T) they are computed from, where ``used``."""

    sources: np.ndarray
    used: np.ndarray


class Geometry:
    """How an operation works along one axis, on an axis without ends.

    Attributes
    ----------
    ratio : Fraction
        Units behind the operation for each unit in front of it. Units that are its numerator apart
        are computed from units that are its denominator apart.
    """

    ratio = Fraction(1)

    def taps(self, units: np.ndarray) -> Taps:
        """What `units` are computed from."""
        raise NotImplementedError


class Slide(Geometry):
    """A window that slides over the axis: convolution, pooling, a slice, padding."""

    def __init__(self, window: Window) -> None:
        self.window, self.ratio = window, Fraction(1, window.stride)

    def taps(self, units: np.ndarray) -> Taps:
        """All elements of the window."""
        window = self.window
        sources = (units * window.stride - window.before)[:, None] + window.dilation * np.arange(
            window.kernel
        )
        return Taps(sources, np.ones(sources.shape, bool))


class Spread(Geometry):
    """The adjoint of a sliding window: transposed convolution, unpooling."""

    def __init__(self, window: Window) -> None:
        self.window, self.ratio = window, Fraction(window.stride)

    def taps(self, units: np.ndarray) -> Taps:
        """All positions whose window has the unit among its elements."""
        window = self.window
        reached = (units + window.before)[:, None] - window.dilation * np.arange(window.kernel)
        sources, rest = np.divmod(reached, window.stride)
        return Taps(sources, rest == 0)


class Resize(Geometry):
    """Interpolation from `size` to `out`."""

    def __init__(self, size: int, out: int, request: tuple, axis: int) -> None:
        self.mode, align, factors = request
        self.align = align and size > 1 and out > 1
        self.ratio = Fraction(out, size)
        if factors[axis] is not None:
            self.ratio = Fraction(factors[axis]).limit_denominator(2**12)
        if self.align:
            self.ratio = Fraction(out - 1, size - 1)

    def taps(self, units: np.ndarray) -> Taps:
        """The unit that is copied, or the two that are blended."""
        a, b = self.ratio.numerator, self.ratio.denominator
        if self.mode == "nearest":
            return Taps((units * b // a)[:, None], np.ones((len(units), 1), bool))
        above, below = (units * b, a) if self.align else ((2 * units + 1) * b - a, 2 * a)
        first, rest = np.divmod(above, below)
        used = np.stack([np.ones(len(units), bool), rest != 0], axis=1)
        return Taps(first[:, None] + np.arange(2), used)


def _of_band(band: Any) -> Taps:
    sources = band.first[:, None] + np.arange(band.weights.shape[1])
    inside = np.arange(band.weights.shape[1]) < band.taps[:, None]
    return Taps(sources, inside & (band.weights != 0))


def _of_span(span: Any) -> Taps:
    widest = -(-int((span.stop - span.first).max()) // span.step)
    sources = np.asarray(span.first)[:, None] + span.step * np.arange(widest)
    return Taps(sources, sources < np.asarray(span.stop)[:, None])


# ---- free fields ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Free:
    """What the units along one axis of an array see of an image without ends.

    Attributes
    ----------
    axis : int or None
        The axis of the array; None if all units see the same.
    jump : Fraction
        Pixels from one unit to the next; a whole number of them from a period to the next.
    first, last : ndarray of shape (period,)
        First and last pixel of units 0, 1, ...
    folded : (int, int), optional
        Where a reshape has merged axes: the unit at index i of `axis` is ``i // folded[0]``, modulo
        ``folded[1]``.
    """

    axis: int | None
    jump: Fraction
    first: np.ndarray
    last: np.ndarray
    folded: tuple[int, int] | None = None

    def at(self, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First and last pixel of `units`, which may be any whole numbers."""
        period = len(self.first)
        shift = units // period * int(self.jump * period)
        return self.first[units % period] + shift, self.last[units % period] + shift

    def over(self, units: np.ndarray) -> Free:
        """What sees all of `units`."""
        if self.folded is not None:
            units = np.arange(self.folded[1])
        first, last = self.at(units)
        return Free(None, Fraction(0), np.array([first.min()]), np.array([last.max()]))

    def through(self, geometry: Geometry) -> Free:
        """The fields behind an operation along this axis."""
        a, b = geometry.ratio.numerator, geometry.ratio.denominator
        period = len(self.first)
        units = np.arange(a * period // math.gcd(b, period))
        sources, used = geometry.taps(units)
        first, last = self.at(sources)
        first = np.where(used, first, NONE).min(axis=1)
        last = np.where(used, last, -NONE).max(axis=1)
        return Free(self.axis, self.jump / geometry.ratio, first, last).reduced()

    def reduced(self) -> Free:
        """The same with the shortest period."""
        whole = len(self.first)
        for period in range(self.jump.denominator, whole, self.jump.denominator):
            if whole % period == 0:
                one = replace(self, first=self.first[:period], last=self.last[:period])
                first, last = one.at(np.arange(whole))
                if (first == self.first).all() and (last == self.last).all():
                    return one
        return self

    def moved(self, axis: int, folded: tuple[int, int] | None = None) -> Free:
        """The same along another axis of the array."""
        return replace(self, axis=axis, folded=folded)

    def summary(self) -> tuple[ReceptiveField, tuple[int, ...]] | None:
        """Largest size, jump and mean start, and all sizes that occur; None if folded or empty."""
        sizes = self.last - self.first + 1
        if self.folded is not None or (sizes < 1).any():
            return None
        period = len(sizes)
        ends = int((self.first + self.last).sum())
        start = Fraction(ends, 2 * period) - self.jump * Fraction(period - 1, 2)
        whole = int(sizes.max()), _tidy(self.jump), _tidy(start)
        return ReceptiveField(*whole), tuple(sorted({int(size) for size in sizes}))


def _tidy(value: Fraction) -> int | Fraction:
    return int(value) if value.denominator == 1 else value


def _join_free(parts: Sequence[Free | None], size: int) -> Free | None:
    """The union of branches, whose axis has so many units."""
    if any(part is None for part in parts):
        return None
    known = [part for part in parts if part is not None]
    if len({(part.axis, part.jump, part.folded) for part in known}) > 1:
        moving = {part.axis for part in known if part.axis is not None}
        if len(moving) > 1 or all(part.axis is not None for part in known):
            return None  # different axes, or resolutions that do not fit each other
        units = np.arange(size)  # some see the same everywhere: so all units together do
        known = [part if part.axis is None else part.over(units) for part in known]
    units = np.arange(math.lcm(*(len(part.first) for part in known)))
    firsts, lasts = zip(*(part.at(units) for part in known), strict=True)
    return replace(known[0], first=np.min(firsts, axis=0), last=np.max(lasts, axis=0)).reduced()


# ---- fields of arrays -----------------------------------------------------------------------


@dataclass(frozen=True)
class Field:
    """What the units of an array see along one axis of the input.

    Attributes
    ----------
    bounds : ndarray of shape (2, ...), int64
        First pixel and minus the last, for each unit: the axes behind the first are those of the
        array, of extent 1 where all units along them see the same.
    free : Free, optional
        None where nothing repeats itself.
    """

    bounds: np.ndarray
    free: Free | None

    def along(self, axis: int, taps: Taps, size: int, free: Geometry | None = None) -> Field:
        """The field behind an operation along an axis of `size`.

        `free` is what it does to an axis without ends; without it, nothing will repeat itself.
        """
        after = self.free
        if after is not None and after.axis == axis:
            after = None if free is None or after.folded else after.through(free)
        if self.bounds.shape[axis + 1] == 1:
            return Field(self.bounds, after)
        sources, used = taps
        used = used & (sources >= 0) & (sources < size)
        seen = np.moveaxis(self.bounds, axis + 1, -1)[..., np.where(used, sources, 0)]
        seen = np.where(used, seen, NONE).min(axis=-1)
        return Field(_shrunk(np.moveaxis(seen, -1, axis + 1), axis + 1), after)

    def over(self, axes: Sequence[int], shape: Sequence[int]) -> Field:
        """Where each unit sees all that lies along some axes, which stay with extent 1."""
        bounds = self.bounds.min(axis=tuple(axis + 1 for axis in axes), keepdims=True)
        free = self.free
        if free is not None and free.axis is not None and free.axis in axes:
            free = free.over(np.arange(shape[free.axis]))
        return Field(bounds, free)


def _shrunk(bounds: np.ndarray, axis: int) -> np.ndarray:
    """`bounds` with extent 1 along `axis` if all see the same there."""
    one = bounds.take([0], axis)
    return one if (bounds == one).all() else bounds


def _shrunk_everywhere(bounds: np.ndarray) -> np.ndarray:
    for axis in range(1, bounds.ndim):
        bounds = _shrunk(bounds, axis)
    return bounds


Parts = list[Field | None]


def _together(operation: Operation, parts: Parts) -> Field:
    """Elementwise: the union, shapes being aligned at their last axes as NumPy does."""
    out = operation.output.shape
    bounds, frees = None, []
    for part, value in zip(parts, operation.inputs, strict=True):
        if part is None:
            continue
        new = len(out) - len(value.shape)
        grown = part.bounds.reshape(2, *(1,) * new, *part.bounds.shape[1:])
        bounds = grown if bounds is None else np.minimum(bounds, grown)
        frees.append(_stretched(part.free, value.shape, out, new))
    moving = next((f.axis for f in frees if f is not None and f.axis is not None), None)
    assert bounds is not None
    return Field(bounds, _join_free(frees, 1 if moving is None else out[moving]))


def _stretched(free: Free | None, shape: Sequence[int], out: Sequence[int], new: int) -> Any:
    """The free field of an array that is repeated along axes of extent 1."""
    if free is None or free.axis is None:
        return free
    if shape[free.axis] == 1 < out[free.axis + new]:
        return free.over(np.zeros(1, int))
    return free.moved(free.axis + new, free.folded)


def _same(operation: Operation, parts: Parts) -> Field:
    """Of the first input alone."""
    return _input(parts)


def _input(parts: Parts) -> Field:
    """The field of the first input."""
    if parts[0] is None:
        raise FieldError("only its weights depend on the input of the network")
    return parts[0]


def _reduce(operation: Operation, parts: Parts) -> Field:
    f: Any = operation.function
    shape = operation.inputs[0].shape
    axes = reduced_axes(f, len(shape))
    field = _input(parts).over(axes, shape)
    return field if f.keepdims else _squeezed(field, axes)


def _squeezed(field: Field, axes: Sequence[int]) -> Field:
    """`field` without axes of extent 1."""
    free = field.free
    if free is not None and free.axis is not None:
        free = free.moved(free.axis - sum(axis < free.axis for axis in axes), free.folded)
    return Field(field.bounds.squeeze(tuple(axis + 1 for axis in axes)), free)


def _over_axis(operation: Operation, parts: Parts) -> Field:
    """Softmax and the like: units see all that lies along one axis."""
    f: Any = operation.function
    shape = operation.inputs[0].shape
    return _input(parts).over((f.axis % len(shape),), shape)


def _batch_norm(operation: Operation, parts: Parts) -> Field:
    f: Any = operation.function
    shape = operation.inputs[0].shape
    field = _input(parts)
    return field if f.fixed else field.over(range(len(shape) - 1), shape)


def _grouped(field: Field, channels: int, groups: int, out: int) -> Field:
    """Where each of `out` channels sees all channels of its group."""
    bounds = field.bounds
    if bounds.shape[-1] == 1 or groups == 1:
        return field.over((bounds.ndim - 2,), (*(1,) * (bounds.ndim - 2), channels))
    each = bounds.reshape(*bounds.shape[:-1], groups, channels // groups).min(axis=-1)
    return Field(np.repeat(each, out // groups, axis=-1), field.free)


def _group_norm(operation: Operation, parts: Parts) -> Field:
    f: Any = operation.function
    shape = operation.inputs[0].shape
    return _grouped(_input(parts).over((1,), shape), shape[-1], f.groups, shape[-1])


def _neighbouring_channels(operation: Operation, parts: Parts) -> Field:
    f: Any = operation.function
    *pixels, channels = operation.inputs[0].shape
    window = Slide(Window(f.size, 1, f.size // 2))
    return _input(parts).along(len(pixels), window.taps(np.arange(channels)), channels)


def _linear(operation: Operation, parts: Parts) -> Field:
    shape = operation.inputs[0].shape
    return _input(parts).over((len(shape) - 1,), shape)


def _matmul(operation: Operation, parts: Parts) -> Field:
    """Over the last axis of the first and the last but one of the second."""
    summed: Parts = []
    for part, value, axis in zip(parts, operation.inputs, (-1, -2), strict=True):
        if part is not None:
            axis = len(value.shape) + max(axis, -len(value.shape))
            summed.append(part.over((axis,), value.shape))
        else:
            summed.append(None)
    if min(len(value.shape) for value in operation.inputs) < 2:
        whole = [part.over(range(part.bounds.ndim - 1), value.shape)
                 for part, value in zip(summed, operation.inputs, strict=True) if part]  # fmt: skip
        ones = (1,) * len(operation.output.shape)
        bounds = np.min([part.bounds.reshape(2) for part in whole], axis=0).reshape(2, *ones)
        return Field(bounds, _join_free([part.free for part in whole], 1))
    return _together(operation, summed)


def _conv(operation: Operation, parts: Parts) -> Field:
    f: Any = operation.function
    values = operation.inputs
    field, channels = _input([parts[0]]), values[0].shape[-1]
    if len(parts) > 3:
        pair = [parts[0], parts[3]]
        channels += values[3].shape[-1]
        field = _beside(pair, [values[0], values[3]], len(values[0].shape) - 1)
    field = _grouped(field, channels, f.geometry[3], operation.output.shape[-1])
    for axis, window in enumerate(f.windows, 1):
        field = _slid(field, axis, Slide(window), operation)
    return field


def _conv_transpose(operation: Operation, parts: Parts) -> Field:
    f: Any = operation.function
    shape, out = operation.inputs[0].shape, operation.output.shape
    field = _grouped(_input(parts), shape[-1], f.geometry[3], out[-1])
    settings = zip(f.kernel_size, *f.geometry[:3], strict=True)
    windows = [Window(k, s, before, 0, d) for k, s, before, d in settings]
    for axis, window in enumerate(windows[5 - len(shape) :], 1):
        field = _slid(field, axis, Spread(window), operation)
    return field


def _slid(field: Field, axis: int, geometry: Geometry, operation: Operation) -> Field:
    """The field of the result of `operation`, which does `geometry` along an axis."""
    units, size = operation.output.shape[axis], operation.inputs[0].shape[axis]
    return field.along(axis, geometry.taps(np.arange(units)), size, geometry)


def _pool(operation: Operation, parts: Parts) -> Field:
    """Pooling by windows: exact fields by the windows as they are, cut off at the borders."""
    f: Any = operation.function
    field, shape, out = _input(parts), operation.inputs[0].shape, operation.output.shape
    axes = len(shape) - 2
    lines = f.spans if isinstance(f, pool.MaxPool) else f.bands
    for axis, line in enumerate(lines[3 - axes :], 1):
        taps = _of_span(line) if isinstance(f, pool.MaxPool) else _of_band(line)
        geometry = None
        if f.windows is not None:
            geometry = Slide(f.windows[axis - 1])
        elif shape[axis] % out[axis] == 0:
            share = shape[axis] // out[axis]
            geometry = Slide(Window(share, share))
        field = field.along(axis, taps, shape[axis], geometry)
    return field


def _resample(operation: Operation, parts: Parts) -> Field:
    f: Any = operation.function
    field, shape, out = _input(parts), operation.inputs[0].shape, operation.output.shape
    for axis, band in enumerate(f.bands[5 - len(shape) :], 1):
        geometry = Resize(shape[axis], out[axis], f.request, axis - 1)
        field = field.along(axis, _of_band(band), shape[axis], geometry)
    return field


def _unpool(operation: Operation, parts: Parts) -> Field:
    """A pixel may get any value whose window it was in, and sees what decided which."""
    values, positions = operation.inputs[:1], operation.inputs[1]
    both = [part for part in parts if part is not None]
    bounds = both[0].bounds if len(both) == 1 else np.minimum(both[0].bounds, both[1].bounds)
    moving = max((p.free.axis or 0 for p in both if p.free), default=0)
    field = Field(bounds, _join_free([part.free for part in both], values[0].shape[moving]))
    made_by = positions.source.function if positions.source is not None else None
    pooled = made_by.pool if isinstance(made_by, pool.Positions) else None
    shape, out = values[0].shape, operation.output.shape
    if pooled is None or pooled.windows is None or pooled.shape != out:
        return field.over(range(1, len(shape) - 1), shape)  # positions from who knows where
    for axis, window in enumerate(pooled.windows, 1):
        field = _slid(field, axis, Spread(window), operation)
    return field


def _beside(parts: Parts, values: Sequence[Value], axis: int) -> Field:
    """Arrays joined along an axis they have."""
    known = [part for part in parts if part is not None]
    common = np.broadcast_shapes(
        *((*p.bounds.shape[: axis + 1], 1, *p.bounds.shape[axis + 2 :]) for p in known)
    )
    pieces = []
    for part, value in zip(parts, values, strict=True):
        target = (*common[: axis + 1], value.shape[axis], *common[axis + 2 :])
        bounds = np.full((1,) * len(target), NONE) if part is None else part.bounds
        pieces.append(np.broadcast_to(bounds, target))
    frees = [part.free for part in known]
    along = any(free is not None and free.axis == axis for free in frees)
    moving = max((free.axis or 0 for free in frees if free is not None), default=0)
    free = None if along else _join_free(frees, values[0].shape[moving])
    return Field(_shrunk(np.concatenate(pieces, axis=axis + 1), axis + 1), free)


def _concatenate(operation: Operation, parts: Parts) -> Field:
    f: Any = operation.function
    return _beside(parts, operation.inputs, f.axis % len(operation.output.shape))


def _stack(operation: Operation, parts: Parts) -> Field:
    f: Any = operation.function
    axis = f.axis % len(operation.output.shape)
    grown: Parts = []
    for part in parts:
        if part is not None:
            free = part.free
            if free is not None and free.axis is not None:
                free = free.moved(free.axis + (free.axis >= axis), free.folded)
            part = Field(np.expand_dims(part.bounds, axis + 1), free)
        grown.append(part)
    values = [Value(np.expand_dims(value.array, axis)) for value in operation.inputs]
    return _beside(grown, values, axis)


def _pad(operation: Operation, parts: Parts) -> Field:
    f: Any = operation.function
    field = _input(parts)
    mode: Any = NUMPY_MODES[f.mode]
    more = {"constant_values": -1} if f.mode == "constant" else {}
    for axis, (size, (before, after)) in enumerate(
        zip(operation.inputs[0].shape, f.widths, strict=True)
    ):
        if before or after:
            sources = np.pad(np.arange(size), (before, after), mode, **more)[:, None]
            taps = Taps(sources, np.ones(sources.shape, bool))
            field = field.along(axis, taps, size, Slide(Window(1, 1, before, after)))
    return field


def _transpose(operation: Operation, parts: Parts) -> Field:
    f: Any = operation.function
    field = _input(parts)
    axes = [axis % len(f.axes) for axis in f.axes]
    free = field.free
    if free is not None and free.axis is not None:
        free = free.moved(axes.index(free.axis), free.folded)
    return Field(field.bounds.transpose(0, *(axis + 1 for axis in axes)), free)


def _item(operation: Operation, parts: Parts) -> Field:
    """Slices and indices: the bounds are indexed in the same way."""
    f: Any = operation.function
    field, shape = _input(parts), operation.inputs[0].shape
    index = f.index if isinstance(f.index, tuple) else (f.index,)
    whole = np.broadcast_to(field.bounds, (2, *shape))
    if any(isinstance(part, np.ndarray) for part in index):
        bounds = _shrunk_everywhere(np.stack([bound[index] for bound in whole]))
        return Field(bounds, _item_free(field.free, index, shape))
    bounds = whole[(slice(None), *index)]
    same = tuple(slice(0, 1) if step == 0 else slice(None) for step in bounds.strides[1:])
    bounds = _shrunk_everywhere(bounds[(slice(None), *same)])
    return Field(bounds, _item_free(field.free, index, shape))


def _item_free(free: Free | None, index: tuple, shape: Sequence[int]) -> Free | None:
    if free is None or free.axis is None:
        return free
    named = [part for part in index if part is not None and part is not Ellipsis]
    arrays = [part for part in named if isinstance(part, np.ndarray)]
    if free.folded or len(arrays) > 1 or any(array.ndim != 1 for array in arrays):
        return None
    rest = (slice(None),) * (len(shape) - len(named))
    at = next((i for i, part in enumerate(index) if part is Ellipsis), len(index))
    axis = position = 0
    for part in (*index[:at], *rest, *index[at + 1 :]):
        if part is None:
            position += 1
            continue
        if axis == free.axis:
            return _chosen_free(free, part, shape[axis], position)
        axis += 1
        position += not isinstance(part, int | np.integer)
    return None


def _chosen_free(free: Free, part: Any, size: int, position: int) -> Free | None:
    """The part of the axis that units lie along, which becomes the axis `position`."""
    if isinstance(part, int | np.integer):
        return free.over(np.array([part % size]))
    if isinstance(part, np.ndarray):  # the whole axis with more around it, as in mirroring
        (at,) = np.nonzero(part == 0)
        whole = [i for i in at if np.array_equal(part[i : i + size], np.arange(size))]
        if not whole:
            return None
        return free.through(Slide(Window(1, 1, int(whole[0])))).moved(position)
    start, _, step = part.indices(size)
    return free.through(Slide(Window(1, step, -start))).moved(position) if step > 0 else None


def _reshape(operation: Operation, parts: Parts) -> Field:
    """Axes that are merged or divided, group by group."""
    field = _input(parts)
    before, after = operation.inputs[0].shape, operation.output.shape
    free, sizes, target = field.free, [2], [2]
    for old, new in _groups_of_axes(before, after):
        varies = any(field.bounds.shape[axis + 1] > 1 for axis in old)
        sizes += [before[axis] if varies else 1 for axis in old]
        target += [after[axis] if varies else 1 for axis in new]
        if field.free is not None and field.free.axis in old:
            free = _folded(field.free, before[old[0] : old[-1] + 1], old[0], after, new)
    bounds = np.broadcast_to(field.bounds, sizes).reshape(target)
    return Field(_shrunk_everywhere(bounds), free)


def _folded(
    free: Free, sizes: Sequence[int], first: int, after: Sequence[int], new: Sequence[int]
) -> Free | None:
    """`free`, an axis among those of `sizes`, of which the first is `first`, become `new` ones."""
    assert free.axis is not None
    inner, count = free.folded or (1, sizes[free.axis - first])
    inner *= math.prod(sizes[free.axis - first + 1 :])
    within = 1
    for axis in reversed(new):
        if (within, after[axis]) == (inner, count):
            return free.moved(axis)
        if within <= inner and inner * count <= within * after[axis]:
            return free.moved(axis, (inner // within, count))
        within *= after[axis]
    return None


def _groups_of_axes(
    before: Sequence[int], after: Sequence[int]
) -> list[tuple[list[int], list[int]]]:
    """Axes in front of and behind a reshape, in groups that hold the same elements."""
    groups = []
    i = j = 0
    while i < len(before) or j < len(after):
        old, new = [], []
        a = b = 1
        if i < len(before):
            old, a, i = [i], before[i], i + 1
        if j < len(after):
            new, b, j = [j], after[j], j + 1
        while a != b:
            if a < b:
                old.append(i)
                a, i = a * before[i], i + 1
            else:
                new.append(j)
                b, j = b * after[j], j + 1
        groups.append((old, new))
    return groups


Rule = Callable[[Operation, Parts], Field]
_EACH = (
    ops.Add, ops.Subtract, ops.Multiply, ops.Divide, ops.Power, ops.Negative, ops.Absolute, ops.Exp,
    ops.Log, ops.Sqrt, ops.Tanh, ops.Sigmoid, ops.Relu, ops.Clip, ops.Cast, activation.LeakyRelu,
    activation.Elu, activation.Gelu, activation.GeluTanh, activation.Softplus, noise.Dropout,
    noise.ChannelDropout, pool.Positions,
)  # fmt: skip
_RULES: dict[type, Rule] = {
    **dict.fromkeys(_EACH, _together),
    ops.Sum: _reduce,
    ops.Extremum: _reduce,
    ops.Reshape: _reshape,
    ops.Transpose: _transpose,
    ops.GetItem: _item,
    ops.MatMul: _matmul,
    ops.Concatenate: _concatenate,
    activation.Softmax: _over_axis,
    norm.BatchNorm: _batch_norm,
    norm.GroupNorm: _group_norm,
    norm.LocalResponseNorm: _neighbouring_channels,
    shape.Stack: _stack,
    shape.Pad: _pad,
    Linear: _linear,
    conv.Conv: _conv,
    conv.ConvTranspose: _conv_transpose,
    pool.MaxPool: _pool,
    pool.AveragePool: _pool,
    pool.MaxUnpool: _unpool,
    resize.Resample: _resample,
}


# ---- networks -------------------------------------------------------------------------------


@dataclass(frozen=True)
class LayerField:
    """What the units of an array see of the input.

    Attributes
    ----------
    path : str
        Of the layer that made it.
    shape : tuple of int
        Of the array.
    axes : tuple of Field
        For each spatial axis of the input.
    """

    path: str
    shape: tuple[int, ...]
    axes: tuple[Field, ...]

    @property
    def fields(self) -> tuple[ReceptiveField | None, ...]:
        """Size, jump and start along each axis of the input, as if the image had no ends.

        Where units differ (behind enlarging operations they do, see `sizes`), the largest size and
        the mean start. The jump is 0 where all units see the same. None where the units follow no
        rule, as behind branches whose resolutions do not quite fit each other.
        """
        found = (None if axis.free is None else axis.free.summary() for axis in self.axes)
        return tuple(None if one is None else one[0] for one in found)

    @property
    def sizes(self) -> tuple[tuple[int, ...] | None, ...]:
        """All sizes that units have along each axis of the input, as if the image had no ends."""
        found = (None if axis.free is None else axis.free.summary() for axis in self.axes)
        return tuple(None if one is None else one[1] for one in found)

    def region(self, position: Sequence[int] | None = None) -> tuple[tuple[int, int] | None, ...]:
        """First and last pixel that a unit sees along each axis of the input, exactly.

        Parameters
        ----------
        position : sequence of int, optional
            Of the unit, without batch and channel; in the middle if left out.

        Returns
        -------
        tuple of (int, int)
            None where the unit sees nothing but padding.
        """
        extents = self.shape[1:-1]
        position = [size // 2 for size in extents] if position is None else position
        if len(position) != len(extents) or not all(
            0 <= at < size for at, size in zip(position, extents, strict=True)
        ):
            raise ValueError(
                f"region: position must be one of {self.path or 'the output'} with extents "
                f"{extents}, but is {tuple(position)}."
            )
        return tuple(self._along(axis, position) for axis in self.axes)

    def _along(self, field: Field, position: Sequence[int]) -> tuple[int, int] | None:
        at = [min(p, n - 1) for p, n in zip(position, field.bounds.shape[2:-1], strict=True)]
        first, last = field.bounds[(slice(None), 0, *at)].min(axis=-1)
        return None if first == NONE else (int(first), int(-last))


class Fields:
    """The fields of all arrays of a forward pass that was followed."""

    def __init__(self, followed: Trace) -> None:
        shape = followed.input.shape
        self.axes = range(1, len(shape) - 1)
        self.found: dict[Value, list[Field] | FieldError] = {
            followed.input: [_input_field(axis, shape) for axis in self.axes]
        }
        for operation in followed.operations:
            self.found[operation.output] = self._behind(operation)

    def _behind(self, operation: Operation) -> list[Field] | FieldError:
        inputs = [self.found.get(value) for value in operation.inputs]
        for found in inputs:
            if isinstance(found, FieldError):
                return found
        rule = _RULES.get(type(operation.function))
        if rule is None:
            return FieldError(
                f"receptive_fields: {operation.call.path or 'the model'}: what the units of "
                f"{operation.name} see is not known. If each sees its own place in all inputs, "
                f"say so with minidl.fields.is_elementwise({operation.name}); or use "
                "measured_receptive_field()."
            )
        parts: list[Any] = inputs
        return [
            rule(operation, [None if part is None else part[i] for part in parts])
            for i in range(len(self.axes))
        ]

    def of(self, value: Value, path: str = "") -> LayerField:
        """That of one array.

        Raises
        ------
        FieldError
            If an operation on the way there is not known.
        """
        found = self.found[value]
        if isinstance(found, FieldError):
            raise found
        return LayerField(path, value.shape, tuple(found))


def _input_field(axis: int, shape: Sequence[int]) -> Field:
    """Each pixel sees itself."""
    pixels = np.arange(shape[axis])
    extents = [2] + [1] * len(shape)
    extents[axis + 1] = shape[axis]
    zero = np.zeros(1, int)
    return Field(np.stack([pixels, -pixels]).reshape(extents), Free(axis, Fraction(1), zero, zero))


def is_elementwise(function: type) -> None:
    """Make known that each unit of a `Function` of one's own sees its own place in all inputs."""
    _RULES[function] = _together


def receptive_fields(model: Callable[[Tensor], Any], shape: Sequence[int]) -> dict[str, LayerField]:
    """The receptive field behind every layer of a network, whatever its branches.

    Nothing is computed, so that the size of the network does not matter.

    Parameters
    ----------
    model : nn.Module, or callable from tensor to tensor
    shape : sequence of int
        Of the input, batch and channels included: (N, L, C), (N, H, W, C) or (N, D, H, W, C).

    Returns
    -------
    dict of str to LayerField
        By the path of the layer; that of the network itself, its output, is the empty one. Of a
        layer that is called more than once, the last call counts. A layer that returns several
        arrays has them as ``path[0]``, ``path[1]``, ...

    Raises
    ------
    FieldError
        If the network contains an operation that is not known.

    Notes
    -----
    Axes are treated one by one. A unit sees, along an axis, all pixels between the first and the
    last; there may be some among them that it does not depend on.

    Examples
    --------
    >>> from minidl import nn
    >>> fields = receptive_fields(
    ...     nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.MaxPool2d(2)), (1, 8, 8, 1)
    ... )
    >>> fields["1"].fields[0]
    ReceptiveField(size=4, jump=2, start=Fraction(1, 2))
    >>> fields["1"].region((0, 2))
    ((0, 2), (3, 6))
    """
    followed = trace(model, shape)
    fields = Fields(followed)
    result: dict[str, LayerField] = {}
    for call in followed.root.walk():
        for i, value in enumerate(call.outputs):
            path = call.path if len(call.outputs) == 1 else f"{call.path}[{i}]"
            result.pop(path, None)  # the order is that of the last calls
            result[path] = fields.of(value, path)
    return result
