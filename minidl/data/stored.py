"""What a decoder hands over: one picture as its file stores it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SUFFIXES: tuple[str, ...] = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp", ".gif")


@dataclass(frozen=True)
class Stored:
    """One page of a file, before anyone decided whether it is an image or a mask.

    Attributes
    ----------
    values : ndarray of shape (H, W) or (H, W, C)
        Native byte order, alpha removed; bool where the file has one bit per pixel.
    palette : ndarray of shape (P, 3), uint8, or None
        The colours that ``values`` of shape (H, W) point into.
    """

    values: np.ndarray
    palette: np.ndarray | None = None


def turned(values: np.ndarray, orientation: int) -> np.ndarray:
    """The picture as a viewer shows it, given the EXIF/TIFF orientation code 1..8."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return values
