"""Receptive fields: which pixels of the input a unit of the output sees, and parameter counts.

Three ways to the same answer, each checked against the others by the tests (and against a fourth,
`minidl.fields`, which knows whole networks with all their branches):

* `dilated_stack`, the formula for stacks of dilated convolutions;
* `receptive_field`, the recurrence for chains of layers, and `seen_by`, which follows the taps of
  one unit back to the input, exactly, at borders as well;
* `measured_receptive_field`, the support of a gradient of any function.

Axes are treated one by one: a chain along one axis is a list of steps, made by `conv`, `pool`,
`conv_transpose`, `nearest` and `bilinear`.

Sources: Araujo, Norris, Sim, Computing Receptive Fields of Convolutional Neural Networks, Distill,
2019. Yu, Koltun, Multi-Scale Context Aggregation by Dilated Convolutions, 2016, section 2.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from minidl import nn
from minidl.geometry import Window
from minidl.tensor import Tensor, no_grad

Number = int | Fraction


def conv_parameters(
    kernel_size: int | Sequence[int],
    in_channels: int,
    out_channels: int,
    groups: int = 1,
    bias: bool = True,
) -> int:
    """Number of parameters of a convolution, ordinary or transposed.

    Parameters
    ----------
    kernel_size : int or sequence of int
        One extent for each axis; a single number is a square kernel for images.
    in_channels, out_channels, groups : int
    bias : bool

    Examples
    --------
    >>> conv_parameters(3, 64, 64)
    36928
    >>> conv_parameters((3, 3, 3), 4, 16)
    1744
    """
    extents = (kernel_size,) * 2 if isinstance(kernel_size, int) else kernel_size
    weights = math.prod(extents) * (in_channels // groups) * out_channels
    return weights + (out_channels if bias else 0)


def dilated_stack(layers: int, kernel_size: int = 3, s: int = 1) -> int:
    """Receptive field of a stack of convolutions with dilations 1, s + 1, (s + 1)**2, ...

    Parameters
    ----------
    layers : int
        How many, n + 1 in the formula.
    kernel_size : int
    s : int
        Zeros between the taps of the second layer; not a stride. 0 means no dilation at all.

    Returns
    -------
    int
        ``F(n + 1) = 1 + (k - 1) * ((s + 1)**(n + 1) - 1) / s``, and its limit
        ``1 + (k - 1) * (n + 1)`` for s = 0.

    Notes
    -----
    Each layer adds ``(k - 1)`` times its dilation, which makes a geometric series. For k = 3 and
    s = 1 it is ``2**(n + 2) - 1``.

    Examples
    --------
    >>> [dilated_stack(n) for n in range(6)]
    [1, 3, 7, 15, 31, 63]
    """
    if layers < 0 or kernel_size < 1 or s < 0:
        raise ValueError(
            "dilated_stack: layers and s must be at least 0 and kernel_size at least 1, but they "
            f"are {layers}, {s} and {kernel_size}."
        )
    series = ((s + 1) ** layers - 1) // s if s else layers
    return 1 + (kernel_size - 1) * series


# ---- chains of layers -----------------------------------------------------------------------


def _tidy(value: Number) -> Number:
    """`value` as an int where it is one."""
    return int(value) if value == int(value) else Fraction(value)


@dataclass(frozen=True)
class ReceptiveField:
    """What the units of a feature map see along one axis.

    Attributes
    ----------
    size : int or Fraction
        Pixels of the input that one unit sees.
    jump : int or Fraction
        Pixels of the input between neighbouring units.
    start : int or Fraction
        Where the centre of the field of unit 0 lies; the centres of pixels are whole numbers.
    """

    size: Number = 1
    jump: Number = 1
    start: Number = 0

    def region(self, unit: int = 0) -> tuple[Number, Number]:
        """First and last pixel that `unit` sees; outside of the input is padding."""
        centre, half = self.start + unit * self.jump, Fraction(self.size - 1, 2)
        return _tidy(centre - half), _tidy(centre + half)

    def union(self, other: ReceptiveField) -> ReceptiveField:
        """The field where two branches are added or concatenated.

        Raises
        ------
        ValueError
            If their jumps differ, so that no two units lie side by side for long.
        """
        if self.jump != other.jump:
            raise ValueError(
                f"union: one branch has a jump of {self.jump} pixels, the other {other.jump}: they "
                "have different resolutions and cannot be joined."
            )
        first = min(self.region()[0], other.region()[0])
        last = max(self.region()[1], other.region()[1])
        return ReceptiveField(last - first + 1, self.jump, _tidy(Fraction(first + last) / 2))


@dataclass(frozen=True)
class Slide:
    """A window that slides over its input: convolution or pooling. Made by `conv` and `pool`."""

    kernel: int
    stride: int = 1
    padding: int | tuple[int, int] | str = 0
    dilation: int = 1
    ceil_mode: bool = False

    def window(self, size: int | None) -> Window:
        """The window on an axis of `size`, which matters for strided 'same' only."""
        if self.padding == "same":
            if size is None and self.stride > 1:
                raise ValueError(
                    "receptive_field: padding='same' with a stride depends on the size of the "
                    "input. Use seen_by(), which knows it, or give the padding in numbers."
                )
            # With stride 1 any size will do that is not smaller than the window.
            return Window.same(
                10**9 if size is None else size, self.kernel, self.stride, self.dilation
            )
        padding: Any = self.padding
        before, after = padding if isinstance(padding, tuple) else (padding, padding)
        return Window(self.kernel, self.stride, before, after, self.dilation)

    def after(self, field: ReceptiveField) -> ReceptiveField:
        """The field behind this step."""
        window = self.window(None)
        half = Fraction(window.extent - 1, 2)
        return ReceptiveField(
            _tidy(field.size + (window.extent - 1) * field.jump),
            _tidy(field.jump * self.stride),
            _tidy(field.start + (half - window.before) * field.jump),
        )

    def out_size(self, size: int) -> int:
        """Units that `size` units make."""
        return self.window(size).out_size(size, self.ceil_mode)

    def sources(self, unit: int, size: int) -> Iterator[int]:
        """Units in front of this step that `unit` behind it is computed from."""
        first = unit * self.stride - self.window(size).before
        yield from range(first, first + self.window(size).extent, self.dilation)


@dataclass(frozen=True)
class Spread:
    """A transposed convolution. Made by `conv_transpose`."""

    kernel: int
    stride: int = 1
    padding: int = 0
    output_padding: int = 0
    dilation: int = 1

    @property
    def window(self) -> Window:
        """That of the convolution it is the adjoint of."""
        return Window(self.kernel, self.stride, self.padding, self.padding, self.dilation)

    def after(self, field: ReceptiveField) -> ReceptiveField:
        """The field behind this step, of those units that the most taps reach."""
        taps = -(-self.window.extent // self.stride)
        shift = Fraction(self.padding) - Fraction(self.window.extent - 1, 2)
        return ReceptiveField(
            _tidy(field.size + (taps - 1) * field.jump),
            _tidy(Fraction(field.jump) / self.stride),
            _tidy(field.start + shift / self.stride * field.jump),
        )

    def out_size(self, size: int) -> int:
        """Units that `size` units make."""
        return self.window.in_size(size, self.output_padding)

    def sources(self, unit: int, size: int) -> Iterator[int]:
        """Units in front of this step that `unit` behind it is computed from."""
        for tap in range(self.kernel):
            source, rest = divmod(unit + self.padding - tap * self.dilation, self.stride)
            if not rest:
                yield source


@dataclass(frozen=True)
class Enlarge:
    """Resizing by a whole number. Made by `nearest` and `bilinear`."""

    scale: int
    blend: bool = False

    def after(self, field: ReceptiveField) -> ReceptiveField:
        """The field behind this step, of those units that are blended if any are."""
        return ReceptiveField(
            _tidy(field.size + (field.jump if self.blend and self.scale > 1 else 0)),
            _tidy(Fraction(field.jump) / self.scale),
            _tidy(field.start - Fraction(self.scale - 1, 2 * self.scale) * field.jump),
        )

    def out_size(self, size: int) -> int:
        """Units that `size` units make."""
        return size * self.scale

    def sources(self, unit: int, size: int) -> Iterator[int]:
        """Units in front of this step that `unit` behind it is computed from."""
        if not self.blend:
            yield unit // self.scale
            return
        centre = max(Fraction(2 * unit + 1, 2 * self.scale) - Fraction(1, 2), Fraction(0))
        yield math.floor(centre)
        yield min(math.ceil(centre), size - 1)


Step = Slide | Spread | Enlarge


def conv(
    kernel: int,
    stride: int = 1,
    padding: int | tuple[int, int] | str = 0,
    dilation: int = 1,
) -> Slide:
    """A convolution; `padding` may be 'same', 'valid' or (before, after)."""
    return Slide(kernel, stride, 0 if padding == "valid" else padding, dilation)


def pool(
    kernel: int,
    stride: int | None = None,
    padding: int = 0,
    dilation: int = 1,
    ceil_mode: bool = False,
) -> Slide:
    """A pooling layer, whose stride is its kernel unless given."""
    return Slide(kernel, kernel if stride is None else stride, padding, dilation, ceil_mode)


def conv_transpose(
    kernel: int, stride: int = 1, padding: int = 0, output_padding: int = 0, dilation: int = 1
) -> Spread:
    """A transposed convolution."""
    return Spread(kernel, stride, padding, output_padding, dilation)


def nearest(scale: int) -> Enlarge:
    """Enlarging by repeating units."""
    return Enlarge(scale)


def bilinear(scale: int) -> Enlarge:
    """Enlarging by linear interpolation along each axis."""
    return Enlarge(scale, blend=True)


def receptive_field(
    layers: Iterable[Step] | nn.Module, axis: int = 0, field: ReceptiveField | None = None
) -> ReceptiveField:
    """The receptive field behind a chain of layers.

    Parameters
    ----------
    layers : iterable of steps, or nn.Module
        A module that is a chain: nn.Sequential, nested at will, of convolution, pooling,
        resizing and layers that leave pixels where they are.
    axis : int
        Which spatial axis of a module.
    field : ReceptiveField, optional
        That in front of the chain; that of the input if left out.

    Returns
    -------
    ReceptiveField

    Raises
    ------
    TypeError
        If the module is no chain of known layers.

    Notes
    -----
    Behind enlarging layers not all units see as many pixels. There the result is that of the
    recurrence, and `seen_by` tells the exact fields one by one.

    Examples
    --------
    >>> receptive_field([conv(3), conv(3), pool(2), conv(3), conv(3), pool(2)])
    ReceptiveField(size=16, jump=4, start=Fraction(15, 2))
    """
    field = ReceptiveField() if field is None else field
    for step in steps_of(layers, axis):
        field = step.after(field)
    return field


def seen_by(layers: Iterable[Step] | nn.Module, unit: int, size: int, axis: int = 0) -> list[int]:
    """The pixels of an input of `size` that a unit behind a chain of layers depends on, exactly.

    Parameters
    ----------
    layers : iterable of steps, or nn.Module
        As for `receptive_field`.
    unit : int
        Position in the output.
    size : int
        Extent of the input along the axis.
    axis : int
        Which spatial axis of a module.

    Returns
    -------
    list of int
        Positions in increasing order. There may be holes between them, as behind dilations that
        grow too fast.

    Examples
    --------
    >>> seen_by([conv(3, padding=1), conv(3, padding=2, dilation=2)], unit=0, size=9)
    [0, 1, 2, 3]
    """
    steps = steps_of(layers, axis)
    sizes = [size]
    for step in steps:
        sizes.append(step.out_size(sizes[-1]))
    if not 0 <= unit < sizes[-1]:
        raise ValueError(f"seen_by: the output has {sizes[-1]} units, there is no unit {unit}.")
    units = {unit}
    for step, extent in zip(reversed(steps), reversed(sizes[:-1]), strict=True):
        found = {source for u in units for source in step.sources(u, extent)}
        units = {source for source in found if 0 <= source < extent}
    return sorted(units)


_STAY = (
    nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Identity,
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LocalResponseNorm, nn.Dropout,
    nn.Dropout1d, nn.Dropout2d, nn.Dropout3d,
)  # fmt: skip
_CONV = nn.Conv1d, nn.Conv2d, nn.Conv3d
_TRANSPOSED = nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d
_MAX = nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d
_MEAN = nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d


def steps_of(layers: Iterable[Step] | nn.Module, axis: int = 0) -> list[Step]:
    """The steps along one spatial axis of a module that is a chain; a list of steps as it is."""
    if not isinstance(layers, nn.Module):
        return list(layers)
    if isinstance(layers, nn.Sequential):
        return [step for layer in layers for step in steps_of(layer, axis)]
    if isinstance(layers, _STAY):
        return []
    return [_step(layers, axis)]


def _step(layer: Any, axis: int) -> Step:
    """The step that a single layer makes along one spatial axis."""

    def along(value: Any) -> Any:
        return value if isinstance(value, int | str) else value[axis]

    if isinstance(layer, _CONV):
        padding = along(layer.padding)
        return conv(
            layer.kernel_size[axis],
            along(layer.stride),
            tuple(padding) if np.ndim(padding) else padding,
            along(layer.dilation),
        )
    if isinstance(layer, _TRANSPOSED):
        return conv_transpose(
            layer.kernel_size[axis],
            along(layer.stride),
            along(layer.padding),
            along(layer.output_padding),
            along(layer.dilation),
        )
    if isinstance(layer, _MAX + _MEAN):
        return pool(
            along(layer.kernel_size),
            None if layer.stride is None else along(layer.stride),
            along(layer.padding),
            along(layer.dilation) if isinstance(layer, _MAX) else 1,
            layer.ceil_mode,
        )
    if isinstance(layer, nn.Upsample) and not layer.align_corners and layer.scale_factor:
        scale = (
            layer.scale_factor if np.ndim(layer.scale_factor) == 0 else along(layer.scale_factor)
        )
        if scale == int(scale):
            return Enlarge(int(scale), blend=layer.mode != "nearest")
    raise TypeError(
        f"receptive_field: {str(layer).splitlines()[0]} is no layer whose field is known from its "
        "settings. minidl.fields.receptive_fields() knows networks that are no chains. Or describe "
        "the chain as a list of steps, or use measured_receptive_field()."
    )


# ---- measuring ------------------------------------------------------------------------------


def measured_receptive_field(
    f: Callable[[Tensor], Tensor],
    shape: Sequence[int],
    position: Sequence[int] | None = None,
    maxima: bool = True,
) -> tuple[tuple[int, int], ...]:
    """The pixels that a unit of the output of any function depends on, found by trying.

    Parameters
    ----------
    f : callable
        From a tensor (N, ..., C) to a tensor (N, ..., F). Of a module, a copy in double precision
        is measured (in single precision, fast convolutions touch their neighbours with rounding
        errors), in eval mode, with all weights positive and all biases zero, so that nothing
        cancels and every ReLU lets through. Any other function should be like that.
    shape : sequence of int
        Shape of the input.
    position : sequence of int, optional
        Spatial position of the unit; in the middle if left out.
    maxima : bool
        Whether `f` may contain maxima. The gradient of a maximum reaches only the one input that
        won, so the support of the gradient is too small. Then each row outside of it is
        given an impulse in turn, which wins wherever it takes part. (Unpooling puts a value in one
        place of several; a unit is found to see all it can only if it wins among equals, as the
        first of its window does.)

    Returns
    -------
    tuple of (int, int)
        First and last pixel along each spatial axis.

    Raises
    ------
    ValueError
        If the unit depends on nothing.
    """
    if not isinstance(f, nn.Module):
        return _measure(f, shape, position, maxima, np.float32)
    twin = copy.deepcopy(f).to(np.float64).eval()
    state = twin.state_dict()
    twin.load_state_dict({name: _positive(name, value) for name, value in state.items()})
    return _measure(twin, shape, position, maxima, np.float64)


def _positive(name: str, value: np.ndarray) -> np.ndarray:
    """Weights that add up to about 1, no bias, and moments that leave things as they are."""
    if value.ndim > 1:
        return np.full_like(value, 1 / np.prod(value.shape[:-1]))
    return np.full_like(value, name.endswith(("weight", "running_var")))


def _measure(
    f: Any, shape: Any, position: Any, maxima: bool, dtype: Any
) -> tuple[tuple[int, int], ...]:
    x = Tensor(np.ones(shape, dtype), requires_grad=True)
    y = f(x)
    if position is None:
        position = [size // 2 for size in y.shape[1:-1]]
    at = (0, *position)
    y[at].sum().backward()
    if x.grad is None:
        raise ValueError("measured_receptive_field: f does not use its input.")
    seen: list[np.ndarray] = [
        np.any(x.grad, axis=tuple(other for other in range(x.ndim) if other != axis))
        for axis in range(1, x.ndim - 1)
    ]
    if maxima:
        _try_impulses(f, np.zeros(shape, dtype), at, seen)
    if not all(rows.any() for rows in seen):
        raise ValueError(
            f"measured_receptive_field: the unit at {tuple(position)} depends on no pixel. Is it "
            "zero because something cancels, or cut off by detach()?"
        )
    return tuple((int(rows.nonzero()[0][0]), int(rows.nonzero()[0][-1])) for rows in seen)


def _try_impulses(f: Any, x: np.ndarray, at: Any, seen: list) -> None:
    """Add to `seen` the rows of the zeros `x` that change the unit `at` when raised to 1."""
    with no_grad():
        silent = f(Tensor(x))[at].numpy()
        for axis, rows in enumerate(seen, 1):
            for row in np.flatnonzero(~rows):
                x[(slice(None),) * axis + (row,)] = 1
                rows[row] = np.any(f(Tensor(x))[at].numpy() != silent)
                x[...] = 0
