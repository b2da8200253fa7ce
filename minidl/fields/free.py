"""Fields along one axis of an image without ends, where they repeat themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from minidl.fields.geometry import Geometry
from minidl.receptive_field import ReceptiveField

NONE = 2**40  # the first pixel, and minus the last, of what sees nothing


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


def join(parts: Sequence[Free | None], size: int) -> Free | None:
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
