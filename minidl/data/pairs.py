"""Which image belongs to which mask, and to which region that counts."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from .errors import DataError
from .masks import listing
from .stored import SUFFIXES

MASK_FOLDERS = ("masks", "labels", "annotations", "annot", "instances")
REGION_FOLDERS = ("fov", "region")
PARTS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""Folders that hold a part of a set, and which part."""
_MASK_ENDING = "_mask"
LAYOUTS = (
    "Expected NAME.tif beside NAME_mask.tif (or .png, ...); or a folder images/ beside masks/, "
    "labels/, annotations/, annot/ or instances/ with the same names in both; or either of them "
    "in train/ and in val/; or train/ beside trainannot/ or train_masks/ with the same names in "
    "both, and val/ likewise."
)


@dataclass(frozen=True)
class Pair:
    """An image file and its mask file.

    Attributes
    ----------
    image, mask : Path
        The two files.
    stem : str
        The name both share, without suffix and without ``_mask``; with ``part/`` before it where
        several parts have the same names.
    region : Path or None
        A file that is 0 where pixels do not count.
    part : {'', 'train', 'val', 'test'}
        Which part of the set it is in a folder of.
    """

    image: Path
    mask: Path
    stem: str
    region: Path | None = None
    part: str = ""


@dataclass
class Pairing:
    """What a folder holds: pairs in order of their names, and what could not be paired.

    Attributes
    ----------
    pairs : list of Pair
        Sorted by name.
    without_mask, without_image : list of str
        File names.
    without_region : list of str
        Image files, in a set with regions.
    duplicates : list of str
        "a.png and a.tif": files that claim the same name.
    layout : str
        For people.
    """

    pairs: list[Pair] = field(default_factory=list)
    without_mask: list[str] = field(default_factory=list)
    without_image: list[str] = field(default_factory=list)
    without_region: list[str] = field(default_factory=list)
    duplicates: list[str] = field(default_factory=list)
    layout: str = ""


def find_pairs(folder: str | Path) -> list[Pair]:
    """Pair up the images and masks of a folder.

    These layouts are known:

    * ``NAME.ext`` beside ``NAME_mask.ext`` in the folder itself;
    * ``images/`` beside ``masks/``, ``labels/``, ``annotations/``, ``annot/`` or ``instances/``
      with the same names (``_mask`` may be added to those of the masks). A folder ``fov/`` or
      ``region/`` beside them, again with the same names, says which pixels count: where it is 0
      they are left out of loss and scores;
    * ``train/``, ``val/`` (or ``valid/``, ``validation/``) and ``test/``, each with one of the
      above in it, or each beside a folder of masks that is called like it with ``annot``,
      ``masks``, ``labels`` and the like added: ``trainannot/``, ``train_masks/``.

    Suffixes may differ within a pair. Other files, hidden files and further folders are left alone.

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
            ("images without a region", found.without_region),
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
        raise DataError(f"{folder}: no such folder. {LAYOUTS}")
    if (folder / "images").is_dir():
        found = _pair_folders(folder)
    elif any((folder / part).is_dir() for part in PARTS) and not _image_files(folder):
        found = _pair_parts(folder)
    else:
        found = _pair_neighbours(folder)
    if not (found.pairs or found.without_mask or found.without_image):
        raise DataError(
            f"{folder}: no image files in it ({' '.join(SUFFIXES)}){_seen(folder)}. {LAYOUTS}"
        )
    return found


def _seen(folder: Path, known: str = "") -> str:
    """The folders in a folder, for an error about masks that were not found."""
    inner = sorted(path.name for path in folder.iterdir() if path.is_dir())
    inner = [f"{name}/" for name in inner if not name.startswith(".") and name != known]
    return f", only {listing(inner)}" if inner else ""


def _pair_folders(folder: Path) -> Pairing:
    present = [name for name in MASK_FOLDERS if (folder / name).is_dir()]
    if not present:
        raise DataError(
            f"{folder}: images/ without masks/ or labels/{_seen(folder, 'images')}. {LAYOUTS}"
        )
    if len(present) > 1:
        raise DataError(
            f"{folder}: images/ with {' and '.join(f'{name}/' for name in present)}, expected one "
            "of them. Move the others elsewhere, or make a folder with images/ and masks/ only."
        )
    found = _pair_two(folder / "images", folder / present[0])
    found.layout = f"images/ and {present[0]}/"
    for name in REGION_FOLDERS:
        if (folder / name).is_dir():
            _add_regions(found, folder / name)
            break
    return found


def _pair_two(images_in: Path, masks_in: Path) -> Pairing:
    images = _by_stem(_image_files(images_in))
    masks: dict[str, list[Path]] = defaultdict(list)
    for stem, files in _by_stem(_image_files(masks_in)).items():
        shorter = stem.removesuffix(_MASK_ENDING)
        masks[shorter if stem not in images and shorter in images else stem] += files
    return _match(images, masks, images_in.parent)


def _add_regions(found: Pairing, folder: Path) -> None:
    files = _by_stem(_image_files(folder))
    for stem in (pair.stem for pair in found.pairs):
        if len(files.get(stem, ())) > 1:
            found.duplicates.append(" and ".join(_names(files[stem], folder.parent)))
    found.without_region += [pair.image.name for pair in found.pairs if pair.stem not in files]
    found.pairs = [
        replace(pair, region=files[pair.stem][0]) if pair.stem in files else pair
        for pair in found.pairs
    ]
    found.layout += f", of which {folder.name}/ says what counts"


def _pair_parts(folder: Path) -> Pairing:
    whole = Pairing()
    layouts: dict[str, None] = {}
    for name, part in PARTS.items():
        if (folder / name).is_dir():
            found = _pair_part(folder, name)
            layouts[found.layout] = None
            whole.pairs += [replace(pair, part=part) for pair in found.pairs]
            for kind in ("without_mask", "without_image", "without_region", "duplicates"):
                getattr(whole, kind).extend(getattr(found, kind))
    counts = Counter(pair.stem for pair in whole.pairs)
    if max(counts.values(), default=1) > 1:
        whole.pairs = [replace(pair, stem=f"{pair.part}/{pair.stem}") for pair in whole.pairs]
    whole.pairs.sort(key=lambda pair: pair.stem)
    whole.layout = "; ".join(layouts)
    return whole


def _pair_part(folder: Path, name: str) -> Pairing:
    """One part: with a folder of masks beside it, or a data folder of its own."""
    words = (*MASK_FOLDERS, *(word.removesuffix("s") for word in MASK_FOLDERS), "gt")
    beside = [f"{name}{joint}{word}" for word in words for joint in ("", "_", "-")]
    masks = next((folder / own for own in beside if (folder / own).is_dir()), None)
    if masks is not None:
        found = _pair_two(folder / name, masks)
        found.layout = f"{name}/ and {masks.name}/"
        return found
    within = folder / name
    found = _pair_folders(within) if (within / "images").is_dir() else _pair_neighbours(within)
    if not found.pairs and found.without_mask:
        raise DataError(
            f"{within}: {len(found.without_mask)} images without masks. Beside {name}/ there "
            f"should be {name}annot/ or {name}_masks/{_seen(folder, name)}. {LAYOUTS}"
        )
    found.layout = f"{found.layout}, in {name}/"
    return found


def _pair_neighbours(folder: Path) -> Pairing:
    files = _image_files(folder)
    masks = _by_stem((path for path in files if is_mask_name(path)), drop=len(_MASK_ENDING))
    images = _by_stem(path for path in files if not is_mask_name(path))
    found = _match(images, masks, folder)
    found.layout = "NAME and NAME_mask in one folder"
    return found


def _match(images: dict[str, list[Path]], masks: dict[str, list[Path]], folder: Path) -> Pairing:
    found = Pairing()
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
        raise DataError(
            f"{folder}: no image files in it, expected {' '.join(SUFFIXES)}{_seen(folder)}"
        )
    return images
