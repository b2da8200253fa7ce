"""Spatial pyramid pooling (He, Zhang, Ren, Sun, Spatial Pyramid Pooling in Deep Convolutional
Networks for Visual Recognition, ECCV 2014), figure 3.

A feature map of any size is divided into 4x4, 2x2 and 1x1 bins, and of each bin the maxima are
taken: 21 of them for every channel, whatever the size. A network ends in linear layers and still
takes images as they are, neither cropped nor warped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minidl import functional as F
from minidl import nn
from minidl.functional import check


class SpatialPyramidPooling(nn.Module):
    """From a feature map of any size to a vector of fixed length.

    Parameters
    ----------
    levels : sequence of int
        Bins along each axis. (4, 2, 1) as in the figure, (6, 3, 2, 1) as in the networks of the
        paper's section 3.

    Attributes
    ----------
    bins : int
        How many there are in all: the vector has so many numbers for each channel.

    Notes
    -----
    Bin i of n along an axis of a pixels reaches from ``floor(i * a / n)`` to
    ``ceil((i + 1) * a / n)``, the rule of the paper's journal version, appendix A. There are always
    n bins; the window ``ceil(a / n)`` with stride ``floor(a / n)`` of the first version makes more
    for some sizes, such as 9 instead of 6 of 10 pixels. Bins overlap where the division leaves a
    remainder; where there are fewer pixels than bins, some bins share a pixel.

    Examples
    --------
    >>> import numpy as np
    >>> pool = SpatialPyramidPooling((4, 2, 1))
    >>> [pool(np.zeros((1, *size, 256), np.float32)).shape for size in ((13, 13), (10, 17))]
    [(1, 5376), (1, 5376)]
    """

    def __init__(self, levels: Sequence[int] = (4, 2, 1)) -> None:
        super().__init__()
        count = max(len(levels), 1)
        self.levels = check.integers("SpatialPyramidPooling", "levels", levels, count, 1)
        self.bins = sum(level**2 for level in self.levels)

    def forward(self, x: Any) -> Any:
        """(N, H, W, C) to (N, bins * C): level by level, bins by rows, their channels last."""
        return F.concatenate([F.adaptive_max_pool2d(x, level).flatten(1) for level in self.levels])
