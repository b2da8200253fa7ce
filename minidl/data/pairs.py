"""Which image belongs to which mask, and which pairs are for training and which for checking."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .errors import DataError
from .masks import listing
from .stored import SUFFIXES

MASK_FOLDERS = ("masks", "labels")
_MASK_ENDING = "_mask"
_LAYOUTS = (
    "Expected NAME.tif beside NAME_mask.tif (or .png, ...), or a folder images/ beside masks/ or "
    "labels/ with the same names in both."
)


@dataclass(frozen=True)
class Pair:
    """An image file and its mask file.

    Attributes
    ----------
    image, mask : Path
        The two files.
    stem : str
        The name both share, without suffix and without ``_mask``.
    """

    image: Path
    mask: Path
    stem: str


@dataclass(frozen=True)
class Split:
    """Pairs to train on, pairs to check on, and a sentence about how they were divided."""

    train: list[Pair]
    val: list[Pair]
    how: str


@dataclass
class Pairing:
    """What a folder holds: pairs in order of their names, and what could not be paired.

    Attributes
    ----------
    pairs : list of Pair
        Sorted by name.
    without_mask, without_image : list of str
        File names.
    duplicates : list of str
        "a.png and a.tif": files that claim the same name.
    layout : str
        For people.
    """

    pairs: list[Pair] = field(default_factory=list)
    without_mask: list[str] = field(default_factory=list)
    without_image: list[str] = field(default_factory=list)
    duplicates: list[str] = field(default_factory=list)
    layout: str = ""


def find_pairs(folder: str | Path) -> list[Pair]:
    """Pair up the images and masks of a folder.

    Two layouts are known: ``NAME.ext`` beside ``NAME_mask.ext`` in the folder itself, and
    ``images/`` beside ``masks/`` or ``labels/`` with the same names (``_mask`` may be added to
    those of the masks). Suffixes may differ within a pair. Other files, hidden files and
    further folders are left alone.

    Parameters
    ----------
    folder : str or Path
        The data folder; never written to.

    Returns
    -------
    list of Pair
        Sorted by name, whatever order the file system has.

    Raises
    ------
    DataError
        If the folder is missing or holds no pairs, or if any file has no partner or two files
        have the same name; all of them are listed. `check_folder` says more at once.
    """
    found = pair_up(folder)
    wrong = [
        f"{problem}: {listing(names)}"
        for problem, names in (
            ("images without a mask", found.without_mask),
            ("masks without an image", found.without_image),
            ("files with the same name", found.duplicates),
        )
        if names
    ]
    if wrong:
        raise DataError(f"{folder}: {'; '.join(wrong)}. Add, rename or move away these files.")
    return found.pairs


def pair_up(folder: str | Path) -> Pairing:
    """Pair what can be paired and report the rest; raise only if nothing looks like data."""
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder. {_LAYOUTS}")
    in_folders = (folder / "images").is_dir()
    found = _pair_folders(folder) if in_folders else _pair_neighbours(folder)
    if not (found.pairs or found.without_mask or found.without_image):
        raise DataError(f"{folder}: no image files in it ({' '.join(SUFFIXES)}). {_LAYOUTS}")
    return found


def _pair_folders(folder: Path) -> Pairing:
    present = [name for name in MASK_FOLDERS if (folder / name).is_dir()]
    if len(present) != 1:
        raise DataError(
            f"{folder}: images/ {'without' if not present else 'with both'} masks/ "
            f"{'or' if not present else 'and'} labels/, expected one of them. {_LAYOUTS}"
        )
    images = _by_stem(_image_files(folder / "images"))
    masks: dict[str, list[Path]] = defaultdict(list)
    for stem, files in _by_stem(_image_files(folder / present[0])).items():
        shorter = stem.removesuffix(_MASK_ENDING)
        masks[shorter if stem not in images and shorter in images else stem] += files
    return _match(images, masks, f"images/ and {present[0]}/", folder)


def _pair_neighbours(folder: Path) -> Pairing:
    files = _image_files(folder)
    masks = _by_stem((path for path in files if is_mask_name(path)), drop=len(_MASK_ENDING))
    images = _by_stem(path for path in files if not is_mask_name(path))
    return _match(images, masks, "NAME and NAME_mask in one folder", folder)


def _match(
    images: dict[str, list[Path]], masks: dict[str, list[Path]], layout: str, folder: Path
) -> Pairing:
    found = Pairing(layout=layout)
    for stem in sorted(images.keys() | masks.keys()):
        mine, theirs = images.get(stem, []), masks.get(stem, [])
        for files in (mine, theirs):
            if len(files) > 1:
                found.duplicates.append(" and ".join(_names(files, folder)))
        if not theirs:
            found.without_mask += _names(mine, folder)
        elif not mine:
            found.without_image += _names(theirs, folder)
        elif len(mine) == len(theirs) == 1:
            found.pairs.append(Pair(mine[0], theirs[0], stem))
    return found


def _names(files: Iterable[Path], folder: Path) -> list[str]:
    return [file.relative_to(folder).as_posix() for file in files]


def is_mask_name(path: Path) -> bool:
    """Whether a file is called ``NAME_mask.ext``."""
    return path.stem.endswith(_MASK_ENDING)


def _image_files(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def _by_stem(files: Iterable[Path], drop: int = 0) -> dict[str, list[Path]]:
    grouped: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        grouped[path.stem[: len(path.stem) - drop]].append(path)
    return grouped


def find_images(path: str | Path) -> list[Path]:
    """Image files to predict on.

    Parameters
    ----------
    path : str or Path
        One image file; or a folder, of which its ``images/`` is taken if it has one. Masks
        (``NAME_mask.ext``) in the folder are left out.

    Returns
    -------
    list of Path
        Sorted by name.

    Raises
    ------
    DataError
        If there is nothing at `path`, it is no image file, or the folder has none.
    """
    path = Path(path)
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise DataError(f"{path}: not an image file, expected one of {' '.join(SUFFIXES)}")
        return [path]
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder")
    folder = path / "images" if (path / "images").is_dir() else path
    images = [file for file in _image_files(folder) if not is_mask_name(file)]
    if not images:
        raise DataError(f"{folder}: no image files in it, expected {' '.join(SUFFIXES)}")
    return images


def split_pairs(
    pairs: Sequence[Pair], folder: str | Path, val_fraction: float = 0.2, seed: int = 0
) -> Split:
    """Divide pairs into those to train on and those to check on.

    ``train.txt`` and ``val.txt`` in the folder decide if they exist: one name per line, without
    suffix; blank lines and lines beginning with ``#`` do not count. With only one of the two,
    the other part is everything that the file does not name. With both, what neither names is
    left out. Without them the split is drawn by file from `seed`; the same names and seed
    give the same split on every machine.

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
    listed = listed_split(ordered, folder)
    if listed is not None:
        return listed
    if len(ordered) < 2:
        raise DataError(
            f"{folder}: {len(ordered)} pair of image and mask, expected at least 2: one to train "
            "on and one to check on. Add a pair, or cut the image and its mask in two files each."
        )
    return _drawn_split(ordered, val_fraction, seed)


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
            named[part] = by_stem.keys() - named[other]
    return _named_split(Path(folder), by_stem, named, [file.name for file in files.values()])


def _named_split(
    folder: Path, by_stem: dict[str, Pair], named: dict[str, set[str]], files: list[str]
) -> Split:
    both = sorted(named["train"] & named["val"])
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


def _read_list(file: Path, by_stem: dict[str, Pair]) -> set[str]:
    lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    names = [line for line in lines if line and not line.startswith("#")]
    stems = {name: name if name in by_stem else _without_suffix(name) for name in names}
    unknown = [name for name, stem in stems.items() if stem not in by_stem]
    if unknown:
        raise DataError(
            f"{file}: {len(unknown)} of {len(names)} names have no pair of image and mask here: "
            f"{listing(unknown)}. Write one name per line, as the image files are called, without "
            "suffix."
        )
    return set(stems.values())


def _without_suffix(name: str) -> str:
    return Path(name).stem if Path(name).suffix.lower() in SUFFIXES else name
