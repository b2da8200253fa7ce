"""What each operation does to fields: one rule for each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minidl import arithmetic as ops
from minidl.fields.field import Field, FieldError, shrunk, shrunk_everywhere
from minidl.fields.free import NONE, Free, join
from minidl.fields.geometry import Geometry, Resize, Slide, Spread, Taps, of_band, of_span
from minidl.functional import activation, conv, noise, norm, pool, resize, shape
from minidl.functional.linear import Linear
from minidl.functional.shape import NUMPY_MODES
from minidl.geometry import Window
from minidl.trace import Operation, Value, reduced_axes

Parts = list[Field | None]


def together(operation: Operation, parts: Parts) -> Field:
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
    return Field(bounds, join(frees, 1 if moving is None else out[moving]))


def _stretched(free: Free | None, shape: Sequence[int], out: Sequence[int], new: int) -> Any:
    """The free field of an array that is repeated along axes of extent 1."""
    if free is None or free.axis is None:
        return free
    if shape[free.axis] == 1 < out[free.axis + new]:
        return free.over(np.zeros(1, int))
    return free.moved(free.axis + new, free.folded)


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
        return Field(bounds, join([part.free for part in whole], 1))
    return together(operation, summed)


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
        taps = of_span(line) if isinstance(f, pool.MaxPool) else of_band(line)
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
        field = field.along(axis, of_band(band), shape[axis], geometry)
    return field


def _unpool(operation: Operation, parts: Parts) -> Field:
    """A pixel may get any value whose window it was in, and sees what decided which."""
    values, positions = operation.inputs[:1], operation.inputs[1]
    both = [part for part in parts if part is not None]
    bounds = both[0].bounds if len(both) == 1 else np.minimum(both[0].bounds, both[1].bounds)
    moving = max((p.free.axis or 0 for p in both if p.free), default=0)
    field = Field(bounds, join([part.free for part in both], values[0].shape[moving]))
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
    free = None if along else join(frees, values[0].shape[moving])
    return Field(shrunk(np.concatenate(pieces, axis=axis + 1), axis + 1), free)


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
        bounds = shrunk_everywhere(np.stack([bound[index] for bound in whole]))
        return Field(bounds, _item_free(field.free, index, shape))
    bounds = whole[(slice(None), *index)]
    same = tuple(slice(0, 1) if step == 0 else slice(None) for step in bounds.strides[1:])
    bounds = shrunk_everywhere(bounds[(slice(None), *same)])
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
    return Field(shrunk_everywhere(bounds), free)


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
RULES: dict[type, Rule] = {
    **dict.fromkeys(_EACH, together),
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
