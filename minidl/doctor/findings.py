"""What is wrong, or should be known, about a set of pictures; each with the way out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minidl.data import DataError, Problem, read_mask
from minidl.data.labels import look_like_objects

from .lookalike import ALIKE, Lookalikes
from .survey import Picture, subjects

LEVELS = ("error", "warning", "note")
Place = tuple[int, ...]
"""Numbers of pictures that are shown side by side."""

_FLAT = 0.1  # of the usual deviation
_TINY = 10  # pixels
_MOST_COMPARED = 200  # pairs of masks that are read again


@dataclass(frozen=True)
class Finding:
    """One thing to know about a data set.

    Attributes
    ----------
    level : {'error', 'warning', 'note'}
        Errors stop a training, warnings spoil its result or its score.
    problem : Problem
        What it is, the files, the way out.
    shows : tuple of tuple of int
        Numbers of pictures worth looking at; those of an inner tuple belong side by side.
    """

    level: str
    problem: Problem
    shows: tuple[Place, ...] = ()


@dataclass(frozen=True)
class Facts:
    """What the judgements below go by.

    Attributes
    ----------
    pictures : list of Picture
    names : list of str
        Of the pictures.
    parts : list of int
        0 for pictures to train on, 1 for those to validate on, -1 for neither.
    listed : bool
        Whether lists in the folder say so, or the split was drawn.
    values : tuple of int
        The mask value of class 0, 1, ...; empty if the masks could not be understood.
    background : int
        The class that is not foreground; -1 if all are.
    alike : Lookalikes
    """

    pictures: list[Picture]
    names: list[str]
    parts: list[int]
    listed: bool
    values: tuple[int, ...]
    background: int
    alike: Lookalikes

    def where(self, trait: Callable[[Picture], bool]) -> list[int]:
        """Numbers of the readable pictures for which something holds."""
        return [i for i, one in enumerate(self.pictures) if one.shape and trait(one)]

    def has_foreground(self, number: int) -> bool:
        """Whether the mask has any pixel of a foreground class."""
        counts = self.pictures[number].counts
        return any(v in counts for i, v in enumerate(self.values) if i != self.background)


def judge(facts: Facts) -> list[Finding]:
    """Everything that the pictures themselves show, the worst first."""
    topics = (_leaks, _copies, _contradictions, _subjects, _blank, _value_ranges, _depth, _outliers,
              _like_masks, _small, _masks, _classes, _counts)  # fmt: skip
    found = [finding for topic in topics for finding in topic(facts)]
    return sorted(found, key=lambda finding: LEVELS.index(finding.level))


# ---- the same picture twice ------------------------------------------------------------------


def _leaks(facts: Facts) -> list[Finding]:
    alike = facts.alike
    numbers = [i for i, part in enumerate(facts.parts) if part == 1]
    leaking = [i for i in numbers if alike.across_score[i] >= ALIKE]
    if not leaking:
        return []
    leaking.sort(key=lambda i: -alike.across_score[i])
    files = [
        f"{facts.names[i]} ({_alike(alike.across_score[i])} {facts.names[alike.across[i]]})"
        for i in leaking
    ]
    shows = tuple((i, int(alike.across[i])) for i in leaking)
    share = f"{len(leaking)} of {len(numbers)} validation images"
    if facts.listed:
        title = f"{share} are nearly the same as an image to train on: the score will be too good"
        advice = (
            "Change val.txt so that such images are together in one part; the page that this "
            "command writes proposes one."
        )
    else:
        title = f"{share}, as drawn without lists, would be nearly the same as one to train on"
        advice = (
            "Write the names of whole subjects or sequences into val.txt, one per line; the page "
            "that this command writes proposes one."
        )
    return [Finding("warning", Problem(title, files, advice), shows)]


def _alike(score: float) -> str:
    return "the same as" if score == 1 else f"{score:.3f} like"


def _copies(facts: Facts) -> list[Finding]:
    groups = _groups([one.key for one in facts.pictures], facts)
    found = []
    if groups:
        files = [" = ".join(facts.names[i] for i in group) for group in groups]
        found.append(
            Finding(
                "warning",
                Problem(
                    "images that are equal in every pixel",
                    files,
                    "Keep one of each: they count double in training, and in the score if they "
                    "are in both parts.",
                ),
                tuple(tuple(group[:4]) for group in groups),
            )
        )
    near = _near_groups(facts)
    if near:
        inside = sum(len(group) for group in near)
        files = [
            f"{facts.names[group[0]]} and {len(group) - 1} more"
            if len(group) > 2
            else f"{facts.names[group[0]]} ~ {facts.names[group[1]]}"
            for group in near
        ]
        found.append(
            Finding(
                "note",
                Problem(
                    f"{inside} of {len(facts.pictures)} images are nearly the same as another one "
                    f"({len(near)} group{'' if len(near) == 1 else 's'})",
                    files,
                    "Frames of one sequence, or the same picture mirrored or brightened. There is "
                    "less to learn from them than their number says; keep each group in one part.",
                ),
                tuple(tuple(group[:4]) for group in near),
            )
        )
    return found


def _groups(keys: Sequence[Any], facts: Facts) -> list[list[int]]:
    """Numbers of readable, not constant pictures with equal keys, where there are several."""
    groups: dict[Any, list[int]] = defaultdict(list)
    for number in facts.where(lambda one: not one.constant):
        groups[keys[number]].append(number)
    return [group for group in groups.values() if len(group) > 1]


def _near_groups(facts: Facts) -> list[list[int]]:
    """Groups of pictures nearly the same, unless all of them are equal; the largest first."""
    groups = _groups(facts.alike.group.tolist(), facts)
    groups = [g for g in groups if len({facts.pictures[i].key for i in g}) > 1]
    return sorted(groups, key=lambda group: -len(group))


def _contradictions(facts: Facts) -> list[Finding]:
    """Pictures that are nearly the same, one with something in its mask and one without."""
    if not facts.values:
        return []
    alike = facts.alike
    pairs = {
        (min(i, int(j)), max(i, int(j)))
        for i, (j, score) in enumerate(zip(alike.partner, alike.score, strict=True))
        if score >= ALIKE
    }
    odd = sorted(
        pair for pair in pairs if facts.has_foreground(pair[0]) != facts.has_foreground(pair[1])
    )
    files = [
        f"{facts.names[i]} ({_filled(facts, i)}) ~ {facts.names[j]} ({_filled(facts, j)})"
        for i, j in odd
    ]
    found = []
    if odd:
        title = "images nearly the same, one with foreground in its mask and one without"
        advice = "Look at both, and correct or leave out the mask that is wrong."
        found.append(Finding("warning", Problem(title, files, advice), tuple(odd)))
    equal = [
        p for p in sorted(pairs) if facts.pictures[p[0]].key == facts.pictures[p[1]].key
    ][:_MOST_COMPARED]  # fmt: skip
    differ = [pair for pair in equal if _masks_differ(facts, *pair)]
    if differ:
        title = "equal images whose masks differ"
        files = [f"{facts.names[i]} = {facts.names[j]}" for i, j in differ]
        advice = "At most one of the masks is right. Keep that one."
        found.append(Finding("warning", Problem(title, files, advice), tuple(differ)))
    return found


def _filled(facts: Facts, number: int) -> str:
    return "foreground" if facts.has_foreground(number) else "empty"


def _masks_differ(facts: Facts, one: int, other: int) -> bool:
    a, b = facts.pictures[one], facts.pictures[other]
    if a.counts != b.counts:
        return True
    try:
        return not np.array_equal(read_mask(a.pair.mask, a.page), read_mask(b.pair.mask, b.page))
    except DataError:
        return False


def _subjects(facts: Facts) -> list[Finding]:
    subject = subjects(sorted({one.pair.stem for one in facts.pictures}))
    if not subject:
        return []
    sides: dict[str, set[int]] = defaultdict(set)
    for one, part in zip(facts.pictures, facts.parts, strict=True):
        sides[subject[one.pair.stem]].add(part)
    both = [name for name, parts in sides.items() if {0, 1} <= parts]
    if not both:
        return []
    how = "by the lists" if facts.listed else "as drawn without lists"
    return [
        Finding(
            "warning",
            Problem(
                f"subjects or sequences, going by the names, that are in both parts {how}: "
                f"{len(both)} of {len(sides)}",
                both,
                "A network knows a face again. If the names say whose picture it is, put whole "
                "subjects into val.txt.",
            ),
        )
    ]


# ---- images ----------------------------------------------------------------------------------


def _blank(facts: Facts) -> list[Finding]:
    constant = facts.where(lambda one: one.constant)
    usual = _usual_deviation(facts)
    flat = facts.where(lambda one: not one.constant and one.deviation < _FLAT * usual)
    found = []
    if constant:
        found.append(
            _finding(
                facts, "warning", "images of one single value", constant,
                lambda one: "black" if one.low == 0 else f"all {one.low:g}",
                "Nothing can be seen in them. Export them again or take them out.",
            )
        )  # fmt: skip
    if flat:
        found.append(
            _finding(
                facts, "warning", "images with hardly any contrast", flat,
                lambda one: f"deviation {one.deviation:.3g}",
                f"Usual here is a deviation of {usual:.3g}. Look whether they "
                "were scaled by mistake.",
            )
        )  # fmt: skip
    return found


def _usual_deviation(facts: Facts) -> float:
    known = [one.deviation for one in facts.pictures if one.shape and not one.constant]
    return float(np.median(known)) if known else 0.0


def _finding(
    facts: Facts,
    level: str,
    title: str,
    numbers: Sequence[int],
    remark: Callable[[Picture], str],
    advice: str,
) -> Finding:
    files = [f"{facts.names[i]} ({remark(facts.pictures[i])})" for i in numbers]
    return Finding(level, Problem(title, files, advice), tuple((i,) for i in numbers))


def _value_ranges(facts: Facts) -> list[Finding]:
    """Some images in 0..1 and others in 0..255: usual when float files come from two tools."""
    varied = facts.where(lambda one: not one.constant)
    small = [i for i in varied if facts.pictures[i].high <= 1]
    large = [i for i in varied if facts.pictures[i].high > 2]
    if not (small and large):
        return []
    fewer = small if len(small) <= len(large) else large
    return [
        _finding(
            facts, "error", "images of different value ranges: some reach 1, others far more",
            fewer, lambda one: f"{one.low:g} to {one.high:g}",
            "Save all with the same scale.",
        )
    ]  # fmt: skip


def _depth(facts: Facts) -> list[Finding]:
    types = {one.dtype for one in facts.pictures if one.shape}
    if types != {"uint16"}:
        return []
    highest = max(one.high for one in facts.pictures if one.shape)
    if highest > 32767:
        return []
    bits = max(int(highest).bit_length(), 1)
    return [
        Finding(
            "note",
            Problem(
                f"16-bit images whose values go to {highest:g} only ({bits} bits)",
                advice="They look black in most viewers. minidl normalises them; nothing to do.",
            ),
        )
    ]


def _outliers(facts: Facts) -> list[Finding]:
    numbers = facts.where(lambda one: not one.constant)
    if len(numbers) < 8:
        return []
    means = np.array([facts.pictures[i].mean for i in numbers])
    middle = float(np.median(means))
    spread = 1.4826 * float(np.median(np.abs(means - middle)))
    within = _usual_deviation(facts)
    odd = [
        i
        for i, mean in zip(numbers, means, strict=True)
        if abs(mean - middle) > max(6 * spread, within)
    ]
    if not odd:
        return []
    odd.sort(key=lambda i: -abs(facts.pictures[i].mean - middle))
    if len(odd) > 0.1 * len(numbers):
        title = "brightness differs much from image to image: there are several kinds of pictures"
        advice = (
            "One scale for all images leaves some dark. See that each kind is in both parts, and "
            "give each image its own scale: --normalise image."
        )
        level = "note"
    else:
        title = f"images far brighter or darker than the others (usual mean {middle:.3g})"
        advice = "Look whether they belong here, and are not inverted or wrongly exposed."
        level = "note"
    return [_finding(facts, level, title, odd, lambda one: f"mean {one.mean:.3g}", advice)]


def _like_masks(facts: Facts) -> list[Finding]:
    few = facts.where(lambda one: 1 < one.levels <= 4 and not one.constant)
    if not few:
        return []
    return [
        _finding(
            facts, "warning", "images with a few different values only, like masks", few,
            lambda one: f"{one.levels} values",
            "Look whether a mask was saved under the name of the image.",
        )
    ]  # fmt: skip


def _small(facts: Facts) -> list[Finding]:
    tiny = facts.where(lambda one: one.shape is not None and min(one.shape[:2]) < 32)
    if not tiny:
        return []
    return [
        _finding(
            facts, "note", "images with a side below 32 pixels", tiny,
            lambda one: f"{one.shape[0]} x {one.shape[1]}" if one.shape else "",
            "A network that halves four times leaves one or two pixels of them. Use a smaller "
            "depth, and look whether these are thumbnails.",
        )
    ]  # fmt: skip


# ---- masks -----------------------------------------------------------------------------------


def _masks(facts: Facts) -> list[Finding]:
    jpeg = [i for i, one in enumerate(facts.pictures) if _is_jpeg(one)]
    found = []
    if jpeg:
        found.append(
            _finding(
                facts, "warning", "masks saved as JPEG", jpeg,
                lambda one: f"{len(one.counts)} values",
                "JPEG changes values at every edge. Save masks as PNG or TIFF from their source.",
            )
        )  # fmt: skip
    if not facts.values:
        return found
    if look_like_objects({str(i): one.counts for i, one in enumerate(facts.pictures)}):
        title = f"masks that seem to number objects (0 to {facts.values[-1]}), not classes"
        advice = "To segment them as one class, save 255 where the number is above 0."
        found.append(Finding("warning", Problem(title, [], advice)))
    return found + _specks(facts) + _full(facts)


def _is_jpeg(picture: Picture) -> bool:
    return picture.pair.mask.suffix.lower() in (".jpg", ".jpeg")


def _specks(facts: Facts) -> list[Finding]:
    front = [v for i, v in enumerate(facts.values) if i != facts.background]
    sizes = {
        i: sum(one.counts.get(value, 0) for value in front)
        for i, one in enumerate(facts.pictures)
        if one.counts
    }
    specks = [i for i, size in sizes.items() if 0 < size < _TINY]
    if not specks:
        return []
    return [
        _finding(
            facts, "note", f"masks with less than {_TINY} pixels of foreground", specks,
            lambda one: f"{sum(one.counts.get(value, 0) for value in front)} pixels",
            "Often slips of the mouse. Look at them; an empty mask is honest, too.",
        )
    ]  # fmt: skip


def _full(facts: Facts) -> list[Finding]:
    if len(facts.values) != 2:
        return []
    first, second = facts.values
    full = [i for i, one in enumerate(facts.pictures) if set(one.counts) == {second}]
    total = [sum(one.counts.get(v, 0) for one in facts.pictures) for v in (first, second)]
    found = []
    if full:
        found.append(
            _finding(
                facts, "warning", f"masks that are {second} everywhere", full, lambda one: "full",
                "Look whether they are inverted, or were saved without their drawing.",
            )
        )  # fmt: skip
    if total[1] > total[0]:
        share = total[1] / sum(total)
        found.append(
            Finding(
                "note",
                Problem(
                    f"value {second} covers {share:.0%} of the pixels, more than value {first}",
                    advice="The rarer class counts as foreground here, so the score is about "
                    f"value {first}. If {second} is what you look for, that is how the masks of "
                    "thin structures often are; if not, they may be inverted.",
                ),
            )
        )
    return found


def _classes(facts: Facts) -> list[Finding]:
    """Classes that one part lacks, has in a few images only, or much rarer than the other."""
    if not facts.values:
        return []
    inside = _images_with(facts)
    pixels = _pixels_by_part(facts)
    parts = (facts.parts.count(0), facts.parts.count(1))
    found = []
    for part, other, sentence in (
        (0, 1, "classes that no training image has, but validation images do"),
        (1, 0, "classes that no validation image has: they will have no score"),
    ):
        lost = [v for c, v in enumerate(facts.values) if not inside[part, c] and inside[other, c]]
        if lost and parts[part]:
            advice = "Move images with them from one part to the other."
            items = [f"value {value}" for value in lost]
            found.append(Finding("warning", Problem(sentence, items, advice)))
    few = [
        f"value {v} ({inside[0, c]} of {parts[0]})"
        for c, v in enumerate(facts.values)
        if 0 < inside[0, c] < min(5, parts[0] / 4)
    ]
    if few:
        title = "classes in very few of the images to train on"
        advice = "Add images with them, or join them to a class that is alike."
        found.append(Finding("note", Problem(title, few, advice)))
    share = pixels / np.maximum(pixels.sum(axis=1, keepdims=True), 1)
    uneven = [
        f"value {v} ({share[0, c]:.2%} of the pixels to train on, {share[1, c]:.2%} to validate)"
        for c, v in enumerate(facts.values)
        if share[:, c].all() and max(share[:, c]) > 3 * min(share[:, c])
    ]
    if uneven:
        title = "classes that are three times as frequent in one part as in the other"
        advice = "The parts differ in kind; read the score of these classes with care."
        found.append(Finding("note", Problem(title, uneven, advice)))
    return found


def _pixels_by_part(facts: Facts) -> np.ndarray:
    """Pixels of each class to train on (row 0) and to validate on (row 1)."""
    pixels = np.zeros((2, len(facts.values)))
    for one, part in zip(facts.pictures, facts.parts, strict=True):
        if part in (0, 1):
            pixels[part] += [one.counts.get(value, 0) for value in facts.values]
    return pixels


def _images_with(facts: Facts) -> np.ndarray:
    """Images with each class to train on (row 0) and to validate on (row 1)."""
    images = np.zeros((2, len(facts.values)), dtype=np.int64)
    for one, part in zip(facts.pictures, facts.parts, strict=True):
        if part in (0, 1):
            images[part] += [value in one.counts for value in facts.values]
    return images


def _counts(facts: Facts) -> list[Finding]:
    val = facts.parts.count(1)
    found = []
    if len(facts.pictures) < 10:
        title = f"{len(facts.pictures)} images are very few"
        advice = "A first result is possible; ten to thirty make it useful. Vary the crops much."
        found.append(Finding("note", Problem(title, advice=advice)))
    elif 0 < val < 5:
        title = f"only {val} images to validate on"
        advice = (
            "The score will jump with each of them; differences below a few points mean little."
        )
        found.append(Finding("note", Problem(title, advice=advice)))
    return found
