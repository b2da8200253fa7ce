"""What all units of an array see along one axis of the input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minidl.fields.free import NONE, Free
from minidl.fields.geometry import Geometry, Taps


class FieldError(TypeError):
    """An operation whose units see nobody knows what."""


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
        return Field(shrunk(np.moveaxis(seen, -1, axis + 1), axis + 1), after)

    def over(self, axes: Sequence[int], shape: Sequence[int]) -> Field:
        """Where each unit sees all that lies along some axes, which stay with extent 1."""
        bounds = self.bounds.min(axis=tuple(axis + 1 for axis in axes), keepdims=True)
        free = self.free
        if free is not None and free.axis is not None and free.axis in axes:
            free = free.over(np.arange(shape[free.axis]))
        return Field(bounds, free)


def shrunk(bounds: np.ndarray, axis: int) -> np.ndarray:
    """`bounds` with extent 1 along `axis` if all see the same there."""
    one = bounds.take([0], axis)
    return one if (bounds == one).all() else bounds


def shrunk_everywhere(bounds: np.ndarray) -> np.ndarray:
    """`bounds` with extent 1 along all axes where all see the same."""
    for axis in range(1, bounds.ndim):
        bounds = shrunk(bounds, axis)
    return bounds
