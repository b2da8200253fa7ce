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

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from minidl.fields.field import Field, FieldError
from minidl.fields.free import NONE, Free
from minidl.fields.rules import RULES, together
from minidl.receptive_field import ReceptiveField
from minidl.tensor import Tensor
from minidl.trace import Operation, Trace, Value, trace

__all__ = [
    "Field", "FieldError", "Fields", "Free", "LayerField", "is_elementwise", "receptive_fields",
]  # fmt: skip


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
        rule = RULES.get(type(operation.function))
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
    RULES[function] = together


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
