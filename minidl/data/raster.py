"""PNG, JPEG, BMP and GIF, through Pillow, with care for what Pillow would change on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .errors import DataError
from .stored import Stored, turned

_PNG = b"\x89PNG\r\n\x1a\n"
_GREY = 0
_ORIENTATION = 0x0112
_PLAIN_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "I", "F")


def raster_page(path: Path) -> Stored:
    """Decode the (first) picture of a file that is not a TIFF."""
    from PIL import Image

    depth, colour = _png_depth(path)
    if depth == 16 and colour != _GREY:
        raise DataError(
            f"{path}: a 16-bit colour PNG, of which Pillow would keep 8 bits. "
            "Save it as 16-bit RGB TIFF or as 8-bit PNG."
        )
    with Image.open(path) as image:
        image.load()
        values, palette = _arrays(path, image)
        orientation = int(image.getexif().get(_ORIENTATION, 1))
    if colour == _GREY:
        values = _as_stored(values, depth)
    return Stored(np.ascontiguousarray(turned(values, orientation)), palette)


def _png_depth(path: Path) -> tuple[int, int]:
    """Bits per sample and colour type from a PNG's header; (0, -1) for other files."""
    with open(path, "rb") as file:
        head = file.read(26)
    return (head[24], head[25]) if head[:8] == _PNG and len(head) == 26 else (0, -1)


def _as_stored(values: np.ndarray, depth: int) -> np.ndarray:
    """Undo what Pillow does to grey PNG: 2 and 4 bits stretched to 8, 16 bits held in 32."""
    if depth in (2, 4):
        return values // np.uint8(255 // (2**depth - 1))
    return values.astype(np.uint16) if depth == 16 else values


def _arrays(path: Path, image: Any) -> tuple[np.ndarray, np.ndarray | None]:
    mode = image.mode
    if mode not in _PLAIN_MODES and not mode.startswith("I;16"):
        raise DataError(
            f"{path}: colour mode {mode}; grey, RGB and palette can be read. Save it as RGB."
        )
    values = np.asarray(image)
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    palette = None
    if mode in ("P", "PA"):
        palette = np.array(image.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
    if mode in ("LA", "PA"):
        values = values[..., 0]
    return (values[..., :3] if mode == "RGBA" else values), palette
