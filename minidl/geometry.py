"""Sizes of windows: every formula about kernel, stride, padding and dilation, in both directions.

Source: Dumoulin & Visin, A guide to convolution arithmetic for deep learning, 2016.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """A window sliding along one axis.

    Attributes
    ----------
    kernel, stride, dilation : int, at least 1
    before, after : int
        Zeros in front of and behind the axis.
    """

    kernel: int
    stride: int = 1
    before: int = 0
    after: int = 0
    dilation: int = 1

    @property
    def extent(self) -> int:
        """Elements from the first to the last tap, ``dilation * (kernel - 1) + 1``."""
        return self.dilation * (self.kernel - 1) + 1

    def out_size(self, size: int, ceil_mode: bool = False) -> int:
        """Positions of the window on an axis of `size`; zero or less where it does not fit.

        With `ceil_mode` the last window may hang over the end, but must start inside the axis or
        the padding in front of it.
        """
        room = size + self.before + self.after - self.extent
        if not ceil_mode:
            return room // self.stride + 1
        positions = -(-room // self.stride) + 1
        overhangs = (positions - 1) * self.stride >= size + self.before
        return positions - 1 if overhangs else positions

    def in_size(self, size: int, output_padding: int = 0) -> int:
        """Size of the axis that a transposed convolution makes from `size` positions."""
        covered = (size - 1) * self.stride + self.extent
        return covered - self.before - self.after + output_padding

    @classmethod
    def same(cls, size: int, kernel: int, stride: int = 1, dilation: int = 1) -> Window:
        """The window padded so that ``ceil(size / stride)`` positions result.

        An odd zero goes behind (TensorFlow's SAME).
        """
        extent = dilation * (kernel - 1) + 1
        total = max((-(-size // stride) - 1) * stride + extent - size, 0)
        return cls(kernel, stride, total // 2, total - total // 2, dilation)
