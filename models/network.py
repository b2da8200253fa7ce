"""What every network over images has in common: the images it takes, and a door that says so."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import nn
from minidl.functional import check


class ImageNetwork(nn.Module):
    """A network over images (N, H, W, in_channels).

    A network calls `check_images` first thing in its ``forward``, so that an image it cannot take
    is refused before anything is computed. What differs from network to network is `fitting_size`,
    and `sizes`, which says the same in words.

    Parameters
    ----------
    in_channels : int
        Channels of the images.
    num_classes : int
        Classes it tells apart: channels of its scores.

    Attributes
    ----------
    stride : int
        Pixels of the image between neighbours where the network is coarsest.
    multiple : int
        What the sides of an image must be a multiple of; 1 for a network that takes any.
    smallest : int
        The smallest side of an image.
    """

    stride = multiple = smallest = 1

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        for name, value in (("in_channels", in_channels), ("num_classes", num_classes)):
            check.integers(type(self).__name__, name, value, 1, 1)
        self.in_channels, self.num_classes = in_channels, num_classes

    def fitting_size(self, size: int) -> int:
        """The smallest side of an image, at least `size`, that the network takes."""
        size = max(size, self.smallest)
        return size + -size % self.multiple

    def sizes(self) -> str:
        """What heights and widths it takes, in words that follow 'height and width must be'."""
        multiples = [f"multiples of {self.multiple}"] * (self.multiple > 1)
        least = [f"at least {self.fitting_size(1)}"] * (self.smallest > self.multiple)
        return " and ".join(multiples + least) or "at least 1"

    def check_images(self, x: Any) -> None:
        """Refuse what is no batch of images, or of images of a size that does not fit.

        Raises
        ------
        ValueError
            Says what the network takes, and what to do.
        """
        name, shape = type(self).__name__, np.shape(x)
        if len(shape) != 4 or shape[-1] != self.in_channels:
            raise ValueError(
                f"{name}: x must be images (N, H, W, {self.in_channels}), but has shape {shape}. "
                "Channels come last; a single image is x[None]."
            )
        height, width = shape[1:3]
        fitting = self.fitting_size(height), self.fitting_size(width)
        if fitting != (height, width):
            raise ValueError(
                f"{name}: height and width must be {self.sizes()}, but the image is "
                f"{height} x {width}. Pad it to {fitting}, or use predict(), which does."
            )
