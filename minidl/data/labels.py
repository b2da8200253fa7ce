"""Which values of a set's masks are classes, and which are mistakes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from .masks import listing
from .problems import Problem

MAX_CLASSES = 64
"""More distinct values than this are taken for grey levels, not for class numbers."""

_FEW = 8
_TWO_LEVELS = ((0, 255), (0, 65535))

Counts = Mapping[str, Mapping[int, int]]
"""For every mask's name, how many pixels have which value."""


def is_regular(values: Sequence[int]) -> bool:
    """Whether sorted values are 0, 1, ..., n - 1, or black and white."""
    return tuple(values) in _TWO_LEVELS or tuple(values) == tuple(range(len(values)))


def judge_labels(
    counts: Counts, labels: Sequence[int] | None, ignore: int | None, max_classes: int
) -> tuple[list[int], list[Problem], list[Problem]]:
    """Decide what values a set's classes have.

    Parameters
    ----------
    counts : mapping of str to mapping of int to int
        For every readable mask, the pixels of each value.
    labels : sequence of int, optional
        The values in class order, if the caller knows; every other value is then an error.
    ignore : int, optional
        A value that is not a class.
    max_classes : int
        The most classes believed in.

    Returns
    -------
    values : list of int
        The file's value for class 0, 1, ...
    errors, warnings : list of Problem
    """
    seen = sorted({value for own in counts.values() for value in own} - {ignore})
    if labels is not None:
        return list(labels), _strangers(counts, {*labels, ignore}), []
    if len(seen) < 2:
        return seen, [_single_valued(seen, len(counts))], []
    if len(seen) > max_classes and look_like_objects(counts):
        return seen, [_objects(counts, seen)], []
    if is_regular(seen):
        return seen, [], []
    errors = _mixed(counts, seen) or _strays(counts, seen, ignore)
    errors = errors or _grey_levels(counts, seen, max_classes)
    return seen, errors, [] if errors else [_with_gaps(counts, seen)]


def _strangers(counts: Counts, known: set[int | None]) -> list[Problem]:
    items = [
        f"{name} ({_values(set(own) - known)})" for name, own in counts.items() if set(own) - known
    ]
    expected = listing(sorted(value for value in known if value is not None))
    return (
        [
            Problem(
                f"unexpected label values (expected {expected})",
                items,
                "Correct these masks. If a value is a class of its own or means 'do not count', "
                "say so with `labels` or `ignore`.",
            )
        ]
        if items
        else []
    )


def _single_valued(seen: list[int], files: int) -> Problem:
    return Problem(
        f"all {files} masks are empty: every pixel of every mask is {listing(seen)}",
        advice="There is nothing to learn from them. Look whether the masks were saved correctly.",
    )


def _mixed(counts: Counts, seen: list[int]) -> list[Problem]:
    """0/1 masks among 0/255 masks: no file has both 1 and 255."""
    ones = [name for name, own in counts.items() if 1 in own]
    fulls = [name for name, own in counts.items() if 255 in own]
    if seen != [0, 1, 255] or set(ones) & set(fulls):
        return []
    fewer, own, usual = (ones, 1, 255) if len(ones) <= len(fulls) else (fulls, 255, 1)
    title = f"unexpected label values: 0 and {own} here, 0 and {usual} in the other masks"
    return [Problem(title, fewer, "Save all masks with the same two values.")]


def _strays(counts: Counts, seen: list[int], ignore: int | None) -> list[Problem]:
    """Values in very few files, without which the set would be regular."""
    files_with = Counter(value for own in counts.values() for value in own)
    rare = max(1, len(counts) // 10)
    usual = [value for value in seen if files_with[value] > rare]
    if len(usual) < 2 or not is_regular(usual):
        usual = next((list(two) for two in _TWO_LEVELS if _most_have(counts, two)), [])
    return _strangers(counts, {*usual, ignore}) if usual else []


def _most_have(counts: Counts, two: tuple[int, int]) -> bool:
    """Whether more than half of the masks, at least one of them not empty, keep to two levels."""
    keeping = [set(own) for own in counts.values() if set(own) <= set(two)]
    return 2 * len(keeping) > len(counts) and any(two[1] in own for own in keeping)


def _grey_levels(counts: Counts, seen: list[int], max_classes: int) -> list[Problem]:
    total: Counter[int] = Counter()
    for own in counts.values():
        total.update(own)
    two = sum(count for _, count in total.most_common(2)) / sum(total.values())
    blurred = len(seen) > _FEW and two > 0.9 and not is_regular(seen[: len(seen) // 2 + 1])
    if len(seen) <= max_classes and not blurred:
        return []
    many = sorted(counts, key=lambda name: -len(counts[name]))
    items = [f"{name} ({len(counts[name])} values)" for name in many if len(counts[name]) > 2]
    return [
        Problem(
            f"masks with {len(seen)} different values, from {seen[0]} to {seen[-1]}, which look "
            "like grey levels, not like classes",
            items or many,
            "Masks must not be saved as JPEG nor resized with smoothing. Save them again from "
            "their source as PNG or TIFF; for class numbers above that, raise `max_classes`.",
        )
    ]


def look_like_objects(counts: Counts) -> bool:
    """Whether masks seem to number objects: 0..n without gaps, n another in every mask."""
    highest = [max(own) for own in counts.values() if own]
    whole = [own.keys() == set(range(max(own) + 1)) for own in counts.values() if own]
    return (
        len(whole) > 2
        and sum(whole) >= 0.9 * len(whole)
        and max(highest) > _FEW
        and 2 * len(set(highest)) > min(len(highest), max(highest))
    )


def _objects(counts: Counts, seen: list[int]) -> Problem:
    most = sorted(counts, key=lambda name: -len(counts[name]))
    return Problem(
        f"masks that seem to number objects (0 to {seen[-1]}, another number in every mask), not "
        "classes",
        [f"{name} ({len(counts[name]) - 1} objects)" for name in most],
        "To segment them as one class, parted where they touch, say so with `instances` (minidl "
        "train DATA --instances).",
    )


def judge_objects(counts: Counts, labels: Sequence[int] | None) -> list[Problem]:
    """What is wrong with masks that are said to number objects."""
    if labels is not None:
        return [
            Problem(
                "`labels` with `instances`: numbers of objects are no classes",
                advice="Leave one of them out.",
            )
        ]
    seen = sorted({value for own in counts.values() for value in own})
    if len(seen) < 2:
        return [_single_valued(seen, len(counts))]
    if len(seen) == 2 and seen[0] == 0 and len(counts) > 1:
        return [
            Problem(
                f"masks that do not number objects: nothing but {seen[0]} and {seen[1]} in any",
                advice="They show a class. Leave out `instances`.",
            )
        ]
    return []


def _with_gaps(counts: Counts, seen: list[int]) -> Problem:
    numbering = listing(f"{value} -> class {index}" for index, value in enumerate(seen))
    last = seen[-1]
    hint = (
        f" If {last} means 'do not count this pixel', say so with `ignore` = {last}."
        if last in (255, 65535) or seen[0] < 0
        else ""
    )
    return Problem(
        f"label values with gaps: {numbering}",
        advice="Classes are numbered in the order of their values." + hint,
    )


def _values(values: set[int]) -> str:
    return ("values " if len(values) > 1 else "value ") + listing(sorted(values), most=5)
