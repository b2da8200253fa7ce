"""Predictions that are the mean over an image and its mirror images."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import functional as F
from minidl.tensor import Tensor

FLIPS: dict[str, tuple[tuple[int, ...], ...]] = {
    "mirror": ((), (2,)),
    "all": ((), (2,), (1,), (1, 2)),
}
"""The axes of (N, H, W, C) that are reversed, for each name."""


class Flipped:
    """A network that looks at mirror images as well, in place of the network itself.

    For predicting only. It has all the attributes of the network.

    Parameters
    ----------
    model : nn.Module
        Maps (N, H, W, C) to scores (N, h, w, classes).
    flips : 'mirror' or 'all'
        The image and its mirror image; or also both of them upside down, for pictures that have no
        top. It takes two or four times as long.

    Raises
    ------
    ValueError
        If there are no such flips.
    """

    def __init__(self, model: Any, flips: str) -> None:
        if flips not in FLIPS:
            raise ValueError(f"Flipped: flips={flips!r}, expected one of {', '.join(FLIPS)}")
        self.model, self.flips = model, flips

    @property
    def unflipped(self) -> Any:
        """The network itself."""
        return self.model

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def __call__(self, x: Any) -> np.ndarray:
        """Logarithms of the mean of the probabilities, so that their softmax is that mean."""
        x, ways = np.asarray(x), FLIPS[self.flips]
        each = [np.flip(self._probabilities(np.flip(x, axes)), axes) for axes in ways]
        mean = np.mean(each, axis=0, dtype=each[0].dtype)
        return np.log(np.maximum(mean, np.finfo(mean.dtype).tiny))

    def _probabilities(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(F.softmax(self.model(Tensor(np.ascontiguousarray(x)))))


def flipped(model: Any, flips: str | None) -> Any:
    """`Flipped` if there are flips, else the network itself."""
    return model if flips is None else Flipped(model, flips)
