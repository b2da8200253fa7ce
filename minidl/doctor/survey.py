"""What is noted about every picture while a folder is read once; pixels are not kept."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np

from minidl.data import Pair
from minidl.data.checks import count_values

from .lookalike import fingerprint, thumbnail

Box = tuple[int, int, int, int]
MOST_VALUES = 64
"""Of masks with more different values only the counts are noted."""


@dataclass
class Picture:
    """One page of an image file and of its mask file.

    Attributes
    ----------
    pair : Pair
    page : int
    shape : (int, int, int), or None if the image could not be read
        Height, width, channels.
    dtype : str
        NumPy name of the file's type.
    low, high, mean, deviation : float
        Of all values, in the file's units.
    levels : int
        Different values, over all channels; 0 if not counted (floating point).
    clipped : float
        Share of the values that are the highest of the picture.
    key : bytes
        See `lookalike.fingerprint`.
    thumb : ndarray of shape (32, 32), float32
    mask_shape : (int, int), or None if the mask could not be read
    counts : dict of int to int
        Pixels of each mask value.
    boxes : dict of int to (top, bottom, left, right)
        Where each mask value occurs; the ends are not included.
    runs : dict of int to int
        Runs of each mask value along rows or columns, whichever are fewer: ``counts / runs`` is
        the longer of its two mean chords.
    """

    pair: Pair
    page: int = 0
    shape: tuple[int, int, int] | None = None
    dtype: str = ""
    low: float = 0.0
    high: float = 0.0
    mean: float = 0.0
    deviation: float = 0.0
    levels: int = 0
    clipped: float = 0.0
    key: bytes = b""
    thumb: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), dtype=np.float32))
    mask_shape: tuple[int, int] | None = None
    counts: dict[int, int] = field(default_factory=dict)
    boxes: dict[int, Box] = field(default_factory=dict)
    runs: dict[int, int] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """Whether image and mask could be read and have one size."""
        return self.shape is not None and self.shape[:2] == self.mask_shape

    @property
    def constant(self) -> bool:
        """Whether the image has one single value."""
        return self.shape is not None and self.low == self.high


class Survey:
    """Notes for `data.check_folder` to fill, as its `observe`.

    Attributes
    ----------
    pictures : list of Picture
        In the order of reading.
    histogram : dict of str to ndarray of int64
        For ``'uint8'`` and ``'uint16'``, how often each value occurs in all images of that type.
    """

    def __init__(self) -> None:
        self.pictures: list[Picture] = []
        self.histogram: dict[str, np.ndarray] = {}
        self._places: dict[tuple[str, int], Picture] = {}

    def __call__(self, pair: Pair, page: int, what: str, array: np.ndarray) -> None:
        """Note what is to be known about one page of an image or of a mask."""
        place = (pair.stem, page)
        if place not in self._places:
            self._places[place] = Picture(pair, page)
            self.pictures.append(self._places[place])
        note = self._note_mask if what == "mask" else self._note_image
        note(self._places[place], array)

    def name(self, picture: Picture) -> str:
        """The pair's name, with ``[page]`` where it has several."""
        several = picture.page or (picture.pair.stem, 1) in self._places
        return f"{picture.pair.stem}[{picture.page}]" if several else picture.pair.stem

    def _note_image(self, picture: Picture, image: np.ndarray) -> None:
        picture.shape = (image.shape[0], image.shape[1], image.shape[2])
        picture.dtype = image.dtype.name
        picture.key, picture.thumb = fingerprint(image), thumbnail(image)
        if image.dtype.name in ("uint8", "uint16"):
            counts = np.bincount(image.ravel(), minlength=np.iinfo(image.dtype).max + 1)
            self._add(image.dtype.name, counts)
            _measure(picture, np.arange(len(counts)), counts)
        else:
            picture.low, picture.high = float(image.min()), float(image.max())
            picture.mean = float(image.mean(dtype=np.float64))
            picture.deviation = float(image.std(dtype=np.float64))
            picture.clipped = float((image == image.max()).mean())

    def _add(self, dtype: str, counts: np.ndarray) -> None:
        known = self.histogram.get(dtype)
        self.histogram[dtype] = counts.astype(np.int64) if known is None else known + counts

    @staticmethod
    def _note_mask(picture: Picture, mask: np.ndarray) -> None:
        picture.mask_shape = (mask.shape[0], mask.shape[1])
        picture.counts = count_values(mask)
        if len(picture.counts) <= MOST_VALUES and mask.size:
            picture.boxes = {value: _box(mask == value) for value in picture.counts}
            across, down = _runs(mask), _runs(mask.T)
            picture.runs = {value: min(across[value], down[value]) for value in picture.counts}


def _measure(picture: Picture, values: np.ndarray, counts: np.ndarray) -> None:
    present = np.flatnonzero(counts)
    values, counts = values[present].astype(np.float64), counts[present]
    total = counts.sum()
    picture.low, picture.high = float(values[0]), float(values[-1])
    picture.levels, picture.clipped = len(values), float(counts[-1] / total)
    picture.mean = float(counts @ values / total)
    picture.deviation = float(np.sqrt(counts @ np.square(values - picture.mean) / total))


def _runs(mask: np.ndarray) -> dict[int, int]:
    """How many runs along its rows each value has."""
    # A run begins in the first column, and wherever a value follows another one.
    first, later = count_values(mask[:, 0]), count_values(mask[:, 1:][mask[:, 1:] != mask[:, :-1]])
    return {value: first.get(value, 0) + later.get(value, 0) for value in {*first, *later}}


def _box(inside: np.ndarray) -> Box:
    rows, columns = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def subjects(stems: list[str]) -> dict[str, str]:
    """Guess whose picture each is: the name without the number at its end.

    Returns
    -------
    dict
        Subject of every name; empty if the names do not look as if several belonged together.

    Examples
    --------
    >>> subjects(["1_4", "1_5", "2_3", "2_9"])
    {'1_4': '1', '1_5': '1', '2_3': '2', '2_9': '2'}
    >>> subjects(["a01", "a02"])
    {}
    """
    cut = {stem: re.sub(r"[-_ .]+[A-Za-z]{0,2}\d+$", "", stem) for stem in stems}
    groups = len(set(cut.values()))
    return cut if 2 <= groups <= len(stems) / 2 else {}
