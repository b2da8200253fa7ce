"""Folders that are not in a layout minidl knows: what they look like, and what to do."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

from minidl.data import Problem
from minidl.data.stored import SUFFIXES

_MASK_WORDS = re.compile(r"mask|label|annot|seg|instance|truth|(^|[^a-z])gt([^a-z]|$)", re.I)
_MOST_FILES = 100_000
_SHARED = 0.8  # of the smaller folder's names


def layout_hints(folder: Path) -> list[Problem]:
    """Guess how images and masks are stored where `data.find_pairs` cannot tell.

    Parameters
    ----------
    folder : Path
        Looked through two levels deep; nothing is opened.

    Returns
    -------
    list of Problem
        What was seen, each with how to bring it into a known layout; empty if nothing was.
    """
    if not folder.is_dir():
        return []
    names = _names_by_folder(folder)
    hints = []
    for own, stems in sorted(names.items()):
        ending = _common_ending(stems)
        if ending:
            hints.append(_ending_hint(own, ending, stems))
    hints += [_folders_hint(*pair, names) for pair in _matching_folders(names)]
    return hints


def _names_by_folder(folder: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    seen = 0
    for place, folders, files in os.walk(folder):
        relative = Path(place).relative_to(folder)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if len(relative.parts) >= 2:
            folders.clear()
        stems = {Path(f).stem for f in files if Path(f).suffix.lower() in SUFFIXES}
        if stems:
            found[relative.as_posix()] = stems
        seen += len(files)
        if seen > _MOST_FILES:
            break
    return found


def _common_ending(stems: set[str]) -> str:
    """What is added to the names of many images to make those of masks, other than ``_mask``."""
    endings: Counter[str] = Counter()
    for stem in stems:
        endings.update(
            stem[match.start() :]
            for match in re.finditer(r"[-_.]", stem)
            if stem[: match.start()] in stems
        )
    endings.pop("_mask", None)
    ending, count = max(endings.items(), key=lambda item: item[1], default=("", 0))
    return ending if count >= max(2, len(stems) / 4) else ""


def _ending_hint(folder: str, ending: str, stems: set[str]) -> Problem:
    masks = sorted(stem for stem in stems if stem.endswith(ending) and stem != ending)
    return Problem(
        f"{len(masks)} files in {folder} are called like another one with {ending} added",
        [masks[0]],
        f"If they are the masks, rename {ending} to _mask in their names.",
    )


def _matching_folders(names: dict[str, set[str]]) -> list[tuple[str, str]]:
    """Folders with the same names, as (images, masks)."""
    pairs = []
    for one in sorted(names):
        for other in sorted(names):
            shared = len(names[one] & {_bare(s, names[one]) for s in names[other]})
            enough = shared >= max(1, _SHARED * min(len(names[one]), len(names[other])))
            if one != other and enough and _is_mask(other) and not _is_mask(one):
                pairs.append((one, other))
    return pairs


def _bare(stem: str, images: set[str]) -> str:
    """A mask's name without what was added to the image's."""
    if stem in images:
        return stem
    return re.sub(r"[-_.][A-Za-z]+$", "", stem)


def _is_mask(folder: str) -> bool:
    return bool(_MASK_WORDS.search(folder))


def _folders_hint(images: str, masks: str, names: dict[str, set[str]]) -> Problem:
    shared = len(names[images] & {_bare(stem, names[images]) for stem in names[masks]})
    if images == "images":
        advice = f"If {masks}/ are the masks, rename it to masks/."
    else:
        part = Path(images).name if Path(images).name in ("train", "val") else ""
        advice = (
            f"If these are images and masks, copy {images}/ into a folder images/ and {masks}/ "
            "into masks/ beside it"
        )
        advice += f", and write the names in {images}/ into {part}.txt." if part else "."
    return Problem(f"{images}/ and {masks}/ share {shared} names", advice=advice)
