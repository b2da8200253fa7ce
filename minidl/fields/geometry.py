"""What the units of one axis are computed from: windows, their adjoints, interpolation."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from minidl.geometry import Window


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


def of_band(band: Any) -> Taps:
    """The inputs of the sums that a `kernels.resize.Band` describes."""
    sources = band.first[:, None] + np.arange(band.weights.shape[1])
    inside = np.arange(band.weights.shape[1]) < band.taps[:, None]
    return Taps(sources, inside & (band.weights != 0))


def of_span(span: Any) -> Taps:
    """The inputs of the windows that a span of `kernels.pool` describes."""
    widest = -(-int((span.stop - span.first).max()) // span.step)
    sources = np.asarray(span.first)[:, None] + span.step * np.arange(widest)
    return Taps(sources, sources < np.asarray(span.stop)[:, None])


# ---- free fields ----------------------------------------------------------------------------
