"""From image files to mask files."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minidl.data import (
    DataError,
    find_images,
    page_count,
    read_pages,
    write_mask,
    write_mask_pages,
)
from minidl.data.masks import listing
from minidl.segmenter import Segmenter


@dataclass(frozen=True)
class Job:
    """An image file, and where its mask goes: a file for all pages, or one for each."""

    image: Path
    pages: int
    masks: tuple[Path, ...]


def plan(segmenter: Segmenter, paths: Iterable[str | Path], out: str | Path) -> list[Job]:
    """Decide which files are read and written, before anything is.

    Masks are called as the training masks were: as their image, or with ``_mask`` after it. The
    pages of a TIFF stay together where masks are TIFFs; a PNG holds one, so each page gets a file
    of its own, ``NAME_page0``, ``NAME_page1``...

    Parameters
    ----------
    segmenter : Segmenter
    paths : iterable of str or Path
        Image files and folders of them.
    out : str or Path
        Folder for the masks.

    Returns
    -------
    list of Job

    Raises
    ------
    DataError
        If a path holds no images, or two images would get the same mask file.
    FileExistsError
        If a mask file exists already; all of them are listed.
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} is a file, expected a folder. Choose another --out.")
    jobs = [_job(segmenter, image, out) for path in paths for image in find_images(path)]
    _check_distinct(jobs)
    taken = [path.name for job in jobs for path in job.masks if path.exists()]
    if taken:
        raise FileExistsError(
            f"{out}: {len(taken)} of the masks exist already, and nothing is overwritten: "
            f"{listing(taken)}. Choose another folder, or move them away."
        )
    return jobs


def _job(segmenter: Segmenter, image: Path, out: Path) -> Job:
    kind, pages = segmenter.mask_kind, page_count(image)
    stem = image.stem + segmenter.mask_ending
    if pages == 1 or kind.suffix != ".png":
        return Job(image, pages, (out / f"{stem}{kind.suffix}",))
    digits = len(str(pages - 1))
    names = (f"{image.stem}_page{page:0{digits}}{segmenter.mask_ending}" for page in range(pages))
    return Job(image, pages, tuple(out / f"{name}{kind.suffix}" for name in names))


def _check_distinct(jobs: Sequence[Job]) -> None:
    owner: dict[str, Path] = {}
    for job in jobs:
        for path in job.masks:
            other = owner.setdefault(path.name.lower(), job.image)
            if other != job.image:
                raise DataError(
                    f"{other} and {job.image} would both be written to {path.name}. Predict them "
                    "into different folders."
                )


def predict_files(
    segmenter: Segmenter,
    jobs: Iterable[Job],
    watch: Callable[[Job, int], Any] | None = None,
    watch_tiles: Callable[[Job, int, int, int], Any] | None = None,
    tile: int | None = None,
    flips: str | None = None,
) -> list[Path]:
    """Predict the images of a `plan` and write their masks, one page in memory at a time.

    Parameters
    ----------
    segmenter : Segmenter
    jobs : iterable of Job
        From `plan`.
    watch : callable, optional
        Called before each page, with the job and the page's number.
    watch_tiles : callable, optional
        Called before each tile, with the job, the page's number, and how many of how many tiles
        of the page are done.
    tile : int, optional
        Largest side in pixels of what is predicted at a time; see `tiles.predict_tiles`.
    flips : 'mirror' or 'all', optional
        Take the mean over mirror images; see `flips.Flipped`.

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    DataError
        If an image cannot be read, or is grey where the training images were colour or the
        reverse. Masks written until then stay; of the file's own pages there are none.
    FileExistsError
        If a mask file has come into being since.
    ValueError
        If the network cannot predict in tiles of this size.
    """
    written = []
    for job in jobs:
        job.masks[0].parent.mkdir(parents=True, exist_ok=True)
        masks = _masks(segmenter, job, watch, watch_tiles, tile, flips)
        if len(job.masks) == 1 and job.pages > 1:
            written.append(write_mask_pages(job.masks[0], masks, segmenter.mask_kind))
        else:
            written += [
                write_mask(path, mask, segmenter.mask_kind)
                for path, mask in zip(job.masks, masks, strict=True)
            ]
    return written


def _masks(
    segmenter: Segmenter,
    job: Job,
    watch: Callable[[Job, int], Any] | None,
    watch_tiles: Callable[[Job, int, int, int], Any] | None,
    tile: int | None,
    flips: str | None,
) -> Iterator[np.ndarray]:
    for page, image in enumerate(read_pages(job.image)):
        if watch is not None:
            watch(job, page)
        name = job.image if job.pages == 1 else f"{job.image}[{page}]"
        tell = None if watch_tiles is None else functools.partial(watch_tiles, job, page)
        yield segmenter(image, name, tile, watch=tell, flips=flips)
