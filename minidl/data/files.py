"""Image and mask files, in and out.

Reading goes by a file's content, not by its name: TIFF through `tiff`, all else through
`raster`. Both return pictures as a viewer would show them: turned as the EXIF or TIFF orientation
says, MINISWHITE inverted so that 0 is black, the alpha channel dropped (opaque or not: what is
under transparent pixels is data, too).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from minidl.checkpoint import whole_file

from .errors import DataError
from .masks import MaskKind
from .raster import raster_page
from .stored import Stored
from .tiff import is_tiff, tiff_page_count, tiff_pages


def page_count(path: str | Path) -> int:
    """Number of pages of a TIFF; 1 for every other readable file.

    Raises
    ------
    DataError
        If there is no such file, or a TIFF's structure cannot be read.
    """
    path = Path(path)
    with _naming(path):
        return tiff_page_count(path) if _starts_as_tiff(path) else 1


def read_pages(path: str | Path) -> Iterator[np.ndarray]:
    """Yield every page of an image file in order, one in memory at a time.

    Parameters
    ----------
    path : str or Path
        A TIFF of any number of pages, or a PNG, JPEG, BMP or GIF, which has one.

    Yields
    ------
    ndarray of shape (H, W, C)
        As `read_image` returns it.

    Raises
    ------
    DataError
        As `read_image`; for a damaged page, when that page is reached.
    """
    path = Path(path)
    for stored in _stored_pages(path):
        yield _as_image(stored)


def read_image(path: str | Path, page: int | None = None) -> np.ndarray:
    """Read one image.

    Parameters
    ----------
    path : str or Path
        TIFF, PNG, JPEG, BMP or GIF.
    page : int, optional
        Page of a TIFF with several, from 0.

    Returns
    -------
    ndarray of shape (H, W, C)
        In the file's own type and range (uint8, uint16, float32, ...), native byte order. Grey
        has C = 1, colour 3 (RGB order); a palette is looked up and gives RGB; a microscope's
        further channels are kept. Alpha is dropped, even if it is not opaque. One bit per pixel
        gives uint8 0 and 1.

    Raises
    ------
    DataError
        If the file is missing, unreadable, truncated, in a colour model other than grey, RGB and
        palette, or in a form that the libraries would only read with a loss; if it has several
        pages and `page` is not given.
    """
    return _as_image(_stored_page(Path(path), page))


def read_mask_pages(path: str | Path) -> Iterator[np.ndarray]:
    """Yield every page of a mask file in order, each as `read_mask` returns it."""
    path = Path(path)
    for stored in _stored_pages(path):
        yield _as_mask(path, stored)


def read_mask(path: str | Path, page: int | None = None) -> np.ndarray:
    """Read one mask with the values its file stores.

    Parameters
    ----------
    path : str or Path
        TIFF, PNG, JPEG, BMP or GIF.
    page : int, optional
        Page of a TIFF with several, from 0.

    Returns
    -------
    ndarray of shape (H, W), integer
        Of a palette file the position, never the colour. One bit per pixel gives uint8 0 and 1.
        Whole numbers stored as float become int32. No value is scaled.

    Raises
    ------
    DataError
        As `read_image`; for fractional or colour masks (RGB with three equal channels is grey).
    """
    return _as_mask(Path(path), _stored_page(Path(path), page))


def mask_storage(path: str | Path) -> tuple[str, np.ndarray | None]:
    """How a mask's first page is stored: NumPy type name ('bool' for 1 bit), palette or None."""
    stored = next(_stored_pages(Path(path)))
    return _as_mask(Path(path), stored, keep_bool=True).dtype.name, stored.palette


def write_mask(path: str | Path, mask: np.ndarray, like: MaskKind, overwrite: bool = False) -> Path:
    """Save class indices as a mask file of the given kind.

    The file appears complete or not at all: it is written under another name in the same
    folder, brought to disk, and renamed.

    Parameters
    ----------
    path : str or Path
        Must end in ``like.suffix``; its folder must exist.
    mask : ndarray of shape (H, W), or (P, H, W) for a TIFF of P pages; integer
        Class indices.
    like : MaskKind
        File format, values, type and palette.
    overwrite : bool
        Whether an existing file may be replaced.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    FileExistsError
        If `path` exists and `overwrite` is not set.
    ValueError
        If the suffix or the mask's shape or values do not fit the kind.
    """
    path, raw = Path(path), like.from_classes(mask)
    _check_suffix("write_mask", path, like)
    if raw.ndim != 2 and not (raw.ndim == 3 and like.suffix != ".png"):
        raise ValueError(
            f"write_mask: {path}: mask of shape {raw.shape}, expected (H, W)"
            + ("; a PNG has one page" if like.suffix == ".png" else " or (pages, H, W)")
        )
    _refuse_existing("write_mask", path, overwrite)
    with whole_file(path, "write_mask") as file:
        if like.suffix == ".png":
            _write_png(file, raw, like)
        else:
            _write_tiff(file, raw if raw.ndim == 3 else raw[None], like)
    return path


def write_mask_pages(
    path: str | Path, masks: Iterable[np.ndarray], like: MaskKind, overwrite: bool = False
) -> Path:
    """Save class indices as a TIFF of several pages, one in memory at a time.

    Parameters
    ----------
    path : str or Path
        As for `write_mask`.
    masks : iterable of ndarray of shape (H, W), integer
        Class indices of the pages, which may differ in size. If it raises, there is no file.
    like : MaskKind
        Must be of TIFFs.
    overwrite : bool
        Whether an existing file may be replaced.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    FileExistsError
        If `path` exists and `overwrite` is not set.
    ValueError
        If the suffix, or the shape or values of a mask, do not fit the kind.
    """
    path = Path(path)
    if like.suffix == ".png":
        raise ValueError(f"write_mask_pages: {path}: a PNG has one page. Use a mask kind of .tif.")
    _check_suffix("write_mask_pages", path, like)
    _refuse_existing("write_mask_pages", path, overwrite)
    with whole_file(path, "write_mask_pages") as file:
        _write_tiff(file, _raw_pages(path, masks, like), like)
    return path


def _raw_pages(path: Path, masks: Iterable[np.ndarray], like: MaskKind) -> Iterator[np.ndarray]:
    for mask in masks:
        if mask.ndim != 2:
            raise ValueError(f"write_mask_pages: {path}: page of shape {mask.shape}, not (H, W)")
        yield like.from_classes(mask)


def _check_suffix(function: str, path: Path, like: MaskKind) -> None:
    if path.suffix.lower() != like.suffix:
        raise ValueError(
            f"{function}: {path} should end in {like.suffix}, as the training masks do. "
            f"Use {path.with_suffix(like.suffix).name}."
        )


def _refuse_existing(function: str, path: Path, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        raise FileExistsError(
            f"{function}: {path} exists already. Choose another folder or pass overwrite=True."
        )


def _write_png(file: BinaryIO, raw: np.ndarray, like: MaskKind) -> None:
    from PIL import Image

    if raw.dtype.name not in ("bool", "uint8", "uint16"):
        raw = _narrowed(raw)
    image = Image.fromarray(raw)
    if like.palette is not None:
        image.putpalette([level for colour in like.palette for level in colour])
    image.save(file, format="PNG")


def _narrowed(raw: np.ndarray) -> np.ndarray:
    """The same values in the 16 bits that are the most a PNG can hold."""
    if raw.min() < 0 or raw.max() > 65535:
        raise ValueError(f"write_mask: values {raw.min()}..{raw.max()} do not fit into a PNG")
    return raw.astype(np.uint16)


def _write_tiff(file: BinaryIO, pages: Iterable[np.ndarray], like: MaskKind) -> None:
    import tifffile

    colours = None
    if like.palette is not None:
        colours = np.zeros((3, 256), dtype=np.uint16)
        colours[:, : len(like.palette)] = np.array(like.palette, dtype=np.uint16).T * 257
    with tifffile.TiffWriter(file) as tif:
        for page in pages:
            tif.write(
                page,
                photometric="minisblack" if colours is None else "palette",
                colormap=colours,
                metadata=None,
                software=False,
            )


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn whatever a library raises about a file into a DataError that names the file."""
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except MemoryError:
        raise
    except Exception as error:  # decoders raise everything from SyntaxError to struct.error
        reason = f"{error}".replace(f" {str(path)!r}", "").replace(str(path), "").strip()
        reason = reason or type(error).__name__
        raise DataError(
            f"{path}: cannot be read as an image, it is damaged, truncated or of another format "
            f"({reason}). Copy it again from its source, or take it out of the folder."
        ) from error


def _starts_as_tiff(path: Path) -> bool:
    with open(path, "rb") as file:
        head = file.read(4)
    if not head:
        raise DataError(f"{path}: an empty file (0 bytes). Copy it again from its source.")
    return is_tiff(head)


def _stored_pages(path: Path, only: int | None = None) -> Iterator[Stored]:
    with _naming(path):
        if _starts_as_tiff(path):
            yield from tiff_pages(path, only)
        else:
            yield raster_page(path)


def _stored_page(path: Path, page: int | None) -> Stored:
    count = page_count(path)
    if page is None and count > 1:
        raise DataError(
            f"{path}: has {count} pages, expected one. Choose with page=0..{count - 1}, or "
            "read all of them with read_pages or read_mask_pages."
        )
    if page is not None and not 0 <= page < count:
        raise DataError(f"{path}: page {page} asked for, it has {count} (counted from 0)")
    return next(_stored_pages(path, only=page or 0))


def _as_image(stored: Stored) -> np.ndarray:
    values = stored.values
    if stored.palette is not None:
        values = _colours(stored.palette)[values]
    if values.dtype == bool:
        values = values.astype(np.uint8)
    return values[..., None] if values.ndim == 2 else np.ascontiguousarray(values)


def _colours(palette: np.ndarray) -> np.ndarray:
    # A file may use positions beyond its own palette; viewers show them black.
    table = np.zeros((max(256, len(palette)), 3), dtype=np.uint8)
    table[: len(palette)] = palette
    return table


def _as_mask(path: Path, stored: Stored, keep_bool: bool = False) -> np.ndarray:
    values = stored.values
    if values.ndim == 3:
        if values.shape[-1] != 3 or (values != values[..., :1]).any():
            raise DataError(
                f"{path}: a colour mask ({values.shape[-1]} channels that differ), expected class "
                "numbers. Save it as grey or palette image with one number per class."
            )
        values = values[..., 0]
    if values.dtype.kind == "f":
        if not (np.isfinite(values).all() and (values == np.rint(values)).all()):
            raise DataError(
                f"{path}: a mask with fractions ({values.min():g} to {values.max():g}), expected "
                "whole numbers. Save it as 8-bit image with one number per class."
            )
        values = values.astype(np.int32)
    if values.dtype == bool and not keep_bool:
        values = values.astype(np.uint8)
    return np.ascontiguousarray(values)
