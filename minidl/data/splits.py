"""Which pairs are for training and which for checking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import DataError
from .masks import listing
from .pairs import Pair
from .stored import SUFFIXES


@dataclass(frozen=True)
class Split:
    """Pairs to train on, pairs to check on, and a sentence about how they were divided."""

    train: list[Pair]
    val: list[Pair]
    how: str


def split_pairs(
    pairs: Sequence[Pair], folder: str | Path, val_fraction: float = 0.2, seed: int = 0
) -> Split:
    """Divide pairs into those to train on and those to check on.

    ``train.txt`` and ``val.txt`` in the folder decide if they exist: one name per line, without
    suffix; blank lines and lines beginning with ``#`` do not count. With only one of the two,
    the other part is everything that the file does not name. With both, what neither names is
    left out. Without lists the folders train/ and val/ decide, where pairs are in such. Without
    those the split is drawn by file from `seed`; the same names and seed give the same split on
    every machine. Pairs in a folder test/ belong to neither part, unless a list names them.

    Parameters
    ----------
    pairs : sequence of Pair
        Two or more, from `find_pairs`.
    folder : str or Path
        The data folder.
    val_fraction : float
        Share of files to check on, between 0 and 1, without lists; at least one file
        is always left to either part.
    seed : int
        Of the drawn split.

    Returns
    -------
    Split
        Both parts sorted by name.

    Raises
    ------
    DataError
        If a list has names that are not in the folder (all are listed), names in both lists,
        an empty part; or if there is only one pair.
    ValueError
        If `val_fraction` is not between 0 and 1.
    """
    if not 0 < val_fraction < 1:
        raise ValueError(f"split_pairs: val_fraction={val_fraction}, expected between 0 and 1")
    ordered = sorted(pairs, key=lambda pair: pair.stem)
    given = listed_split(ordered, folder) or _split_by_folders(ordered)
    if given is not None:
        return given
    ordered = [pair for pair in ordered if pair.part != "test"]
    if len(ordered) < 2:
        raise DataError(
            f"{folder}: {len(ordered)} pair of image and mask, expected at least 2: one to train "
            "on and one to check on. Add a pair, or cut the image and its mask in two files each."
        )
    return _drawn_split(ordered, val_fraction, seed)


def _split_by_folders(ordered: list[Pair]) -> Split | None:
    """The split that folders make, or None where there are not both parts."""
    train, val = ([pair for pair in ordered if pair.part == part] for part in ("train", "val"))
    if not train or not val:
        return None
    left = len(ordered) - len(train) - len(val)
    how = f"by folders: {len(train)} + {len(val)}" + (f", {left} in neither" if left else "")
    return Split(train, val, how)


def listed_part(pairs: Sequence[Pair], folder: str | Path, part: str) -> list[Pair]:
    """The pairs of one part, as a list or a folder of that name says.

    Parameters
    ----------
    pairs : sequence of Pair
        From `find_pairs`.
    folder : str or Path
        The data folder.
    part : {'train', 'val', 'test'}

    Returns
    -------
    list of Pair
        Those that ``part.txt`` names, in its order; without such a file those in a folder of that
        name.

    Raises
    ------
    DataError
        If there is neither, or the list names what is not there.
    """
    file = Path(folder) / f"{part}.txt"
    by_stem = {pair.stem: pair for pair in pairs}
    if file.is_file():
        chosen = [by_stem[stem] for stem in _read_list(file, by_stem)]
    else:
        chosen = [pair for pair in pairs if pair.part == part]
    if not chosen:
        raise DataError(
            f"{folder}: neither names in a file {part}.txt nor pairs in a folder {part}/, which "
            f"would say what belongs to the {part} part. Evaluate with --split all."
        )
    return chosen


def _drawn_split(ordered: list[Pair], val_fraction: float, seed: int) -> Split:
    count = min(max(round(len(ordered) * val_fraction), 1), len(ordered) - 1)
    chosen = set(np.random.default_rng(seed).permutation(len(ordered))[:count].tolist())
    train = [pair for index, pair in enumerate(ordered) if index not in chosen]
    val = [pair for index, pair in enumerate(ordered) if index in chosen]
    return Split(train, val, f"drawn by file with seed {seed}: {len(train)} + {len(val)}")


def listed_split(pairs: Sequence[Pair], folder: str | Path) -> Split | None:
    """The split that ``train.txt`` and ``val.txt`` name, or None where neither exists."""
    files = {part: Path(folder) / f"{part}.txt" for part in ("train", "val")}
    files = {part: file for part, file in files.items() if file.is_file()}
    by_stem = {pair.stem: pair for pair in pairs}
    named = {part: _read_list(file, by_stem) for part, file in files.items()}
    if not named:
        return None
    for part, other in (("train", "val"), ("val", "train")):
        if part not in named:
            rest = {stem for stem, pair in by_stem.items() if pair.part != "test"}
            named[part] = dict.fromkeys(rest - named[other].keys())
    return _named_split(Path(folder), by_stem, named, [file.name for file in files.values()])


def _named_split(
    folder: Path, by_stem: dict[str, Pair], named: dict[str, dict[str, None]], files: list[str]
) -> Split:
    both = sorted(named["train"].keys() & named["val"].keys())
    if both:
        raise DataError(
            f"{folder}: in train.txt and in val.txt: {listing(both)}. "
            "Take each name out of one of them, or the score is not honest."
        )
    for part, stems in named.items():
        if not stems:
            raise DataError(f"{folder}: {' and '.join(files)} leave no pair for {part}")
    train, val = ([by_stem[s] for s in sorted(named[part])] for part in ("train", "val"))
    left = len(by_stem) - len(train) - len(val)
    how = f"by {' and '.join(files)}: {len(train)} + {len(val)}"
    return Split(train, val, how + (f", {left} in neither" if left else ""))


def _read_list(file: Path, by_stem: dict[str, Pair]) -> dict[str, None]:
    """The names of a list, in its order."""
    lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    names = [line for line in lines if line and not line.startswith("#")]
    stems = {name: _known_as(name, file.stem, by_stem) for name in names}
    unknown = [name for name, stem in stems.items() if stem not in by_stem]
    if unknown:
        raise DataError(
            f"{file}: {len(unknown)} of {len(names)} names have no pair of image and mask here: "
            f"{listing(unknown)}. Write one name per line, as the image files are called, without "
            "suffix."
        )
    return dict.fromkeys(stems.values())


def _known_as(name: str, part: str, by_stem: dict[str, Pair]) -> str:
    """A name in a list as the pairs are called: there may be a suffix or a folder too many."""
    short = Path(name)
    if short.suffix.lower() in SUFFIXES:
        short = short.with_suffix("")
    ways = name, short.as_posix(), short.name, f"{part}/{short.name}"
    return next((way for way in ways if way in by_stem), name)
