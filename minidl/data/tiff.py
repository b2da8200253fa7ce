"""TIFF pages, through tifffile; what tifffile cannot decode by itself, through Pillow.

tifffile needs a further package of 60 MB for LZW, PackBits and JPEG. Pillow carries libtiff, which
knows them, but silently drops the low byte of 16-bit colour. So Pillow is asked only when
tifffile gives up, and its answer counts only if it has the shape and type the file's own tags
promise.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .errors import DataError
from .stored import Stored, turned

_MINISWHITE, _MINISBLACK, _RGB, _PALETTE, _YCBCR = 0, 1, 2, 3, 6
_ALPHA = (1, 2)
_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def is_tiff(head: bytes) -> bool:
    """Whether a file that begins with these bytes is a TIFF or BigTIFF."""
    return head[:4] in _MAGIC


def tiff_page_count(path: Path) -> int:
    """Number of full-size pages; reads no pixels."""
    import tifffile

    _quiet()
    with tifffile.TiffFile(path) as tif:
        return len(_full_pages(path, tif))


def tiff_pages(path: Path, only: int | None = None) -> Iterator[Stored]:
    """Yield the full-size pages in order, or just the page with number `only`."""
    import tifffile

    _quiet()
    with tifffile.TiffFile(path) as tif:
        pages = _full_pages(path, tif)
        for page in pages if only is None else [pages[only]]:
            yield _decode(path, page)


def _quiet() -> None:
    # tifffile logs what it finds broken; here it becomes an exception, and twice is too often.
    logger = logging.getLogger("tifffile")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())


def _full_pages(path: Path, tif: Any) -> list[Any]:
    pages = [page for page in tif.pages if not page.is_reduced]
    if not pages:
        raise DataError(
            f"{path}: a TIFF without any page, probably cut short. Copy it again from its source."
        )
    _check_chain(path, tif)
    if tif.is_imagej and len(tif.pages) == 1 and tif.series[0].size > pages[0].size:
        raise DataError(
            f"{path}: an ImageJ stack of shape {tif.series[0].shape} behind a single header. "
            "Save it from ImageJ as an image sequence."
        )
    return pages


def _check_chain(path: Path, tif: Any) -> None:
    # Each page points to the next one, the last to 0; tifffile stops silently at a broken link.
    handle = tif.filehandle
    handle.seek(tif.pages.next_page_offset)
    link = handle.read(tif.tiff.offsetsize)
    if any(link) or len(link) < tif.tiff.offsetsize:
        raise DataError(
            f"{path}: truncated: its page {len(tif.pages)} points to a page that is not "
            "there. Copy the file again from its source."
        )


def _decode(path: Path, page: Any) -> Stored:
    _check_complete(path, page)
    photometric = int(page.photometric)
    if photometric not in (_MINISWHITE, _MINISBLACK, _RGB, _PALETTE, _YCBCR):
        raise DataError(
            f"{path}: colour model {page.photometric.name}; grey, RGB and palette can be read. "
            "Save it as RGB."
        )
    orientation = int(page.tags.valueof(274, 1))
    values = None if photometric == _YCBCR else _by_tifffile(page)
    if values is None:
        values, as_seen = _by_pillow(path, page, orientation)
    else:
        values, as_seen = turned(values, orientation), False
    if photometric == _MINISWHITE and not as_seen:
        values = _inverted(values)
    return Stored(_without_alpha(values, page), _palette(page, photometric))


def _check_complete(path: Path, page: Any) -> None:
    size = page.parent.filehandle.size
    ends = [
        start + count for start, count in zip(page.dataoffsets, page.databytecounts, strict=False)
    ]
    if not ends or max(ends) > size:
        raise DataError(
            f"{path}: truncated: page {page.index} should reach to byte {max(ends, default=0)}, "
            f"the file has {size}. Copy it again from its source."
        )


def _by_tifffile(page: Any) -> np.ndarray | None:
    """The page's array as (H, W) or (H, W, C), or None where a decoder is missing."""
    try:
        values = page.asarray()
    except (ValueError, KeyError) as error:
        if "imagecodecs" in str(error):
            return None
        raise
    if page.axes == "SYX":  # one plane per channel
        values = np.moveaxis(values, 0, -1)
    elif page.axes not in ("YX", "YXS"):
        raise DataError(
            f"{page.parent.filehandle.path}: a page with axes {page.axes}, expected a plane (YX) "
            "with or without channels (S). Save it as ordinary pages."
        )
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _by_pillow(path: Path, page: Any, orientation: int) -> tuple[np.ndarray, bool]:
    """The page's array, already turned, and whether MINISWHITE is already undone."""
    from PIL import Image

    with warnings.catch_warnings(), Image.open(path) as image:
        warnings.simplefilter("ignore")
        try:
            image.seek(page.index)
            values = np.asarray(image)
        except Exception as error:
            raise _undecodable(path, page, str(error)) from error
        mode = image.mode
    expected = _pillow_shape(page, orientation)
    if values.dtype != page.dtype.newbyteorder("=") or values.shape != expected:
        raise _undecodable(path, page, f"Pillow would read {values.dtype} {values.shape}")
    # Small depths would be stretched to 0..255, which a mask must not be.
    if page.bitspersample not in (1, 8, 16, 32):
        raise _undecodable(path, page, f"{page.bitspersample} bits per sample")
    return values, mode in ("1", "L")


def _pillow_shape(page: Any, orientation: int) -> tuple[int, ...]:
    height, width, samples = page.imagelength, page.imagewidth, page.samplesperpixel
    if orientation >= 5:
        height, width = width, height
    return (height, width) if samples == 1 else (height, width, samples)


def _undecodable(path: Path, page: Any, why: str) -> DataError:
    return DataError(
        f"{path}: {page.compression.name} compressed TIFF, {page.dtype} {page.shape}, which Pillow "
        f"cannot read faithfully ({why}). Save it without compression or with deflate, or "
        "pip install imagecodecs."
    )


def _inverted(values: np.ndarray) -> np.ndarray:
    """Values of a MINISWHITE page so that 0 is black, as every viewer shows it."""
    if values.dtype == bool:
        return ~values
    if np.issubdtype(values.dtype, np.unsignedinteger):
        return np.iinfo(values.dtype).max - values
    return values  # signed and float values have no agreed white


def _without_alpha(values: np.ndarray, page: Any) -> np.ndarray:
    if values.ndim == 2:
        return values
    first_extra = values.shape[-1] - len(page.extrasamples)
    alpha = [first_extra + i for i, kind in enumerate(page.extrasamples) if int(kind) in _ALPHA]
    if int(page.photometric) == _RGB and values.shape[-1] == 4:
        alpha = [3]  # many programs call it "unspecified"
    values = np.delete(values, alpha, axis=-1) if alpha else values
    return values[..., 0] if values.shape[-1] == 1 else values


def _palette(page: Any, photometric: int) -> np.ndarray | None:
    if photometric != _PALETTE or page.colormap is None:
        return None
    return (np.asarray(page.colormap) >> 8).astype(np.uint8).T  # (3, P) of 16 bit -> (P, 3)
