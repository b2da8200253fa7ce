"""Look a data folder over before training, and say everything that is wrong with it at once."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from .errors import DataError
from .files import mask_storage, read_mask, read_mask_pages, read_pages
from .labels import MAX_CLASSES, judge_labels, judge_objects
from .masks import MaskKind
from .normalise import check_image, common_channels, shade
from .pairs import LAYOUTS, Pair, Pairing, pair_up
from .problems import Problem
from .splits import listed_split

Size = tuple[int, int]
Observer = Callable[[Pair, int, str, np.ndarray], Any]
"""Called with a pair, the page, ``'mask'`` or ``'image'``, and what was read of it."""


@dataclass
class Report:
    """What `check_folder` found.

    Attributes
    ----------
    folder : Path
        The folder looked at.
    errors : list of Problem
        What has to be put right before training.
    warnings : list of Problem
        What one should know.
    pairs : list of Pair
        Every pair of files, also those with errors.
    mask_kind : MaskKind or None
        How the masks store their classes; None if that cannot be told.
    num_classes : int
        0 if that cannot be told.
    channels : int
        Of the images, as training will see them; 0 if that cannot be told.
    dtypes : list of str
        Types of the image files.
    class_counts : ndarray of shape (num_classes,), int64
        Pixels of each class in the whole set.
    sizes : list of (int, int)
        Height and width of every picture, pages counted.
    layout : str
        How images and masks are named.
    objects : list of int
        How many objects each picture has, where masks number objects.
    """

    folder: Path
    errors: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    mask_kind: MaskKind | None = None
    num_classes: int = 0
    channels: int = 0
    dtypes: list[str] = field(default_factory=list)
    class_counts: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    sizes: list[Size] = field(default_factory=list)
    layout: str = ""
    objects: list[int] = field(default_factory=list)

    def text(self) -> str:
        """The report for people, in plain text of a few lines."""
        lines = [f"{self.folder}: {_plural(len(self.pairs), 'pair')} of image and mask"]
        lines[0] += f" ({self.layout})" if self.layout else ""
        lines += self._facts()
        lines += _section("Errors", self.errors) + _section("Warnings", self.warnings)
        return "\n".join(lines if self.errors or self.warnings else [*lines, "  no problems found"])

    def _facts(self) -> list[str]:
        facts = []
        if self.sizes:
            facts.append(
                f"  images  {_plural(len(self.sizes), 'picture')}, {_size_range(self.sizes)}, "
                f"{_plural(self.channels, 'channel')}, {' and '.join(self.dtypes)}"
            )
        if self.mask_kind is not None and self.class_counts.any():
            shares = self.class_counts / self.class_counts.sum()
            facts.append(f"  masks   {self._kinds()}; share of the pixels:")
            facts += [
                f"          class {index} (value {value}): {share:.2%}"
                for index, (value, share) in enumerate(
                    zip(self.mask_kind.values, shares, strict=True)
                )
            ]
        return facts

    def _kinds(self) -> str:
        if not self.objects:
            return f"{self.num_classes} classes"
        return (
            f"{sum(self.objects)} numbered objects, {min(self.objects)} to {max(self.objects)} in "
            "a picture, as class 1"
        )

    def raise_if_bad(self) -> None:
        """Raise a DataError with the whole report if there is any error."""
        if self.errors:
            raise DataError(self.text())


def check_folder(
    folder: str | Path,
    *,
    labels: Sequence[int] | None = None,
    ignore: int | None = None,
    max_classes: int = MAX_CLASSES,
    instances: bool = False,
    progress: Callable[[int, int], Any] | None = None,
    observe: Observer | None = None,
) -> Report:
    """Read every file of a data folder once and report all that is wrong; write nothing.

    Parameters
    ----------
    folder : str or Path
        In one of the layouts of `find_pairs`.
    labels : sequence of int, optional
        The mask values in class order. Without it they are recognised from the values that occur
        in the whole set: 0/1, 0/255, 0..n-1 or palette positions; with gaps, classes
        are numbered in the order of their values and the report says so.
    ignore : int, optional
        Mask value of pixels that shall not count.
    max_classes : int
        More distinct values than this are an error.
    instances : bool
        Whether the masks number objects, which then are one class, parted where they touch; see
        `MaskKind`.
    progress : callable, optional
        Called with (pairs done, pairs in all) after each pair.
    observe : callable, optional
        Called with (pair, page, ``'mask'`` or ``'image'``, array) for every page that could be
        read, as `read_mask` and `read_image` return it; so that whoever wants to know more needs
        no second reading. Nothing of it is kept here.

    Returns
    -------
    Report
        Also for a folder without any usable file. Only files in DATA are at fault: nothing is
        raised for them.
    """
    report = Report(Path(folder))
    try:
        pairing = pair_up(folder)
    except DataError as error:
        report.errors.append(Problem(str(error)))
        return report
    report.pairs, report.layout = pairing.pairs, pairing.layout
    report.errors += _pairing_problems(pairing)
    objects = _kind_of_objects(ignore) if instances else None
    looks = []
    for done, pair in enumerate(pairing.pairs, 1):
        looks.append(_look_at(pair, observe or _ignore, objects))
        if progress is not None:
            progress(done, len(pairing.pairs))
    _add_file_problems(report, looks)
    _add_image_facts(report, looks)
    if instances:
        _add_object_facts(report, looks, labels, ignore)
    else:
        _add_mask_facts(report, looks, labels, ignore, max_classes)
    _add_list_problems(report)
    return report


@dataclass
class _Look:
    """What one pair's files showed; `broken` has one sentence per unusable file.

    `counts` are those of the pixels that count; `objects` and `front`, for each page, how many
    objects there are and how many pixels they have once they are parted.
    """

    pair: Pair
    broken: list[str] = field(default_factory=list)
    differ: list[str] = field(default_factory=list)
    sizes: list[Size] = field(default_factory=list)
    shades: set[tuple[int, bool]] = field(default_factory=set)
    dtypes: set[str] = field(default_factory=set)
    constant: bool = False
    counts: Counter[int] = field(default_factory=Counter)
    empty_values: list[set[int]] = field(default_factory=list)
    storage: str = ""
    palette: np.ndarray | None = None
    objects: list[int] = field(default_factory=list)
    front: list[int] = field(default_factory=list)


def _ignore(pair: Pair, page: int, what: str, array: np.ndarray) -> None:
    """Nobody wants to know more."""


def _look_at(pair: Pair, observe: Observer, objects: MaskKind | None) -> _Look:
    look = _Look(pair)
    masks = _guarded(look, lambda: _look_at_mask(look, observe, objects))
    images = _guarded(look, lambda: _look_at_image(look, observe))
    if masks is None or images is None:
        return look
    if len(masks) != len(images):
        look.differ.append(f"{pair.stem} (image {len(images)} pages, mask {len(masks)})")
    for page, (image, mask) in enumerate(zip_longest(images, masks)):
        if image and mask and image != mask:
            where = f"{pair.stem}[{page}]" if len(images) > 1 else pair.stem
            look.differ.append(f"{where} (image {_size(image)}, mask {_size(mask)})")
            break
    return look


def _guarded(look: _Look, read: Callable[[], list[Size]]) -> list[Size] | None:
    try:
        return read()
    except DataError as error:
        look.broken.append(str(error))
        return None


def _look_at_image(look: _Look, observe: Observer) -> list[Size]:
    sizes: list[Size] = []
    constant = True
    for page, image in enumerate(read_pages(look.pair.image)):
        check_image(image, look.pair.image)
        observe(look.pair, page, "image", image)
        sizes.append((image.shape[0], image.shape[1]))
        look.shades.add(shade(image))
        look.dtypes.add(image.dtype.name)
        constant = constant and bool(image.min() == image.max())
    look.sizes, look.constant = sizes, constant
    return sizes


def _look_at_mask(look: _Look, observe: Observer, objects: MaskKind | None) -> list[Size]:
    path, sizes = look.pair.mask, []
    counts: Counter[int] = Counter()
    for page, mask in enumerate(read_mask_pages(path)):
        observe(look.pair, page, "mask", mask)
        inside = counted(look.pair, mask.shape)
        own = count_values(mask if inside is None else mask[inside])
        if objects is not None:
            parted = objects.to_objects(mask, path) != 0
            look.front.append(int(np.count_nonzero(parted if inside is None else parted[inside])))
            look.objects.append(len(own.keys() - {0, objects.ignore}))
        counts.update(own)
        look.empty_values.append(set(own))
        sizes.append((mask.shape[0], mask.shape[1]))
    look.storage, look.palette = mask_storage(path)
    look.counts = counts
    return sizes


def counted(pair: Pair, shape: tuple[int, ...]) -> np.ndarray | None:
    """Which pixels of a pair count: bool (H, W), or None where all do.

    Raises
    ------
    DataError
        If the region cannot be read, has another size than the mask, or leaves nothing.
    """
    if pair.region is None:
        return None
    inside = read_mask(pair.region) != 0
    if inside.shape != shape:
        raise DataError(
            f"{pair.region} is {_size(inside.shape)} (height x width), the mask {_size(shape)}, "
            "expected the same size."
        )
    if not inside.any():
        raise DataError(f"{pair.region}: all 0, so that no pixel of {pair.image.name} counts.")
    return inside


def count_values(mask: np.ndarray) -> dict[int, int]:
    """How many pixels of an integer array have which value."""
    if mask.dtype.itemsize <= 2 and mask.dtype.kind == "u":  # ten times faster than sorting
        counts = np.bincount(mask.ravel())
        values = np.flatnonzero(counts)
        counts = counts[values]
    else:
        values, counts = np.unique(mask, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _pairing_problems(pairing: Pairing) -> list[Problem]:
    rows = (
        ("images without a mask", pairing.without_mask, "Add the masks or move the images away."),
        ("masks without an image", pairing.without_image, "Add the images or move the masks away."),
        ("images without a region", pairing.without_region, "Add their regions, white for all."),
        ("files with the same name", pairing.duplicates, "Keep one of each."),
    )
    lost = "" if pairing.pairs else LAYOUTS  # not a file too many, but another layout
    return [Problem(title, files, lost or advice) for title, files, advice in rows if files]


def _add_file_problems(report: Report, looks: list[_Look]) -> None:
    broken = [sentence for look in looks for sentence in look.broken]
    differ = [item for look in looks for item in look.differ]
    if broken:
        report.errors.append(Problem("files that cannot be used:\n  " + _lines(broken)))
    if differ:
        report.errors.append(
            Problem(
                "image and mask differ in size (height x width)",
                differ,
                "Export both from the same picture, without cutting or scaling.",
            )
        )


def _add_image_facts(report: Report, looks: list[_Look]) -> None:
    readable = [look for look in looks if look.dtypes]
    report.sizes = [size for look in readable for size in look.sizes]
    report.dtypes = sorted({dtype for look in readable for dtype in look.dtypes})
    shades = {one for look in readable for one in look.shades}
    if len(report.dtypes) > 1:
        files = _minority(readable, lambda look: min(look.dtypes))
        title = f"images of different types in one set: {' and '.join(report.dtypes)}"
        advice = "Their brightness cannot be compared. Save all with the same type."
        report.errors.append(Problem(title, files, advice))
    if shades:
        _add_channels(report, readable, shades)
    constant = [look.pair.image.name for look in readable if look.constant]
    if constant:
        report.warnings.append(
            Problem("images of one single value", constant, "Look whether they are meant so.")
        )


def _add_channels(report: Report, looks: list[_Look], shades: set[tuple[int, bool]]) -> None:
    odd = _minority(looks, lambda look: min(look.shades)[0])
    try:
        report.channels = common_channels(shades)
    except DataError as error:
        report.errors.append(Problem(str(error), odd))
        return
    if len({channels for channels, _ in shades}) > 1:
        how = "grey images count as colour with three equal channels"
        if report.channels == 1:
            how = "colour images have three equal channels and count as grey"
        report.warnings.append(Problem(f"grey and colour images in one set: {how}", odd))


def _minority(looks: list[_Look], trait: Callable[[_Look], Any]) -> list[str]:
    """Images that differ from what most are, with what they are."""
    usual = Counter(trait(look) for look in looks).most_common(1)[0][0]
    return [f"{look.pair.image.name} ({trait(look)})" for look in looks if trait(look) != usual]


def _add_mask_facts(
    report: Report,
    looks: list[_Look],
    labels: Sequence[int] | None,
    ignore: int | None,
    max_classes: int,
) -> None:
    counts = {look.pair.mask.name: look.counts for look in looks if look.counts}
    if not counts:
        return
    values, errors, warnings = judge_labels(counts, labels, ignore, max_classes)
    report.errors += errors
    report.warnings += warnings
    masks = [look for look in looks if look.counts]
    if errors or not values:
        return
    total = sum((look.counts for look in masks), Counter())
    report.mask_kind = _mask_kind(masks, values, ignore)
    report.num_classes = len(values)
    report.class_counts = np.array([total[value] for value in values], dtype=np.int64)
    _add_mask_warnings(report, masks, values)


def _kind_of_objects(ignore: int | None, suffix: str = ".png", dtype: str = "uint32") -> MaskKind:
    return MaskKind(suffix, dtype=dtype, values=(0, 1), ignore=ignore, instances=True)


def _add_object_facts(
    report: Report, looks: list[_Look], labels: Sequence[int] | None, ignore: int | None
) -> None:
    masks = [look for look in looks if look.counts]
    if not masks:
        return
    report.errors += judge_objects({look.pair.mask.name: look.counts for look in masks}, labels)
    if report.errors:
        return
    like = _mask_kind(masks, [0, 1], ignore)
    # A prediction may number more objects than any training mask does.
    dtype = like.dtype if np.dtype(like.dtype).itemsize > 1 else "uint16"
    report.mask_kind = _kind_of_objects(ignore, like.suffix, dtype)
    total = sum(count for look in masks for value, count in look.counts.items() if value != ignore)
    front = sum(sum(look.front) for look in masks)
    report.num_classes = 2
    report.class_counts = np.array([total - front, front], dtype=np.int64)
    report.objects = [number for look in masks for number in look.objects]
    _add_mask_warnings(report, masks, [0, 1])


def _mask_kind(looks: list[_Look], values: list[int], ignore: int | None) -> MaskKind:
    first = Counter((look.storage, look.palette is None) for look in looks).most_common(1)[0][0]
    model = next(look for look in looks if (look.storage, look.palette is None) == first)
    suffix = Counter(look.pair.mask.suffix.lower() for look in looks).most_common(1)[0][0]
    dtype, palette = model.storage, None
    if model.palette is not None and dtype == "uint8":
        palette = tuple((r, g, b) for r, g, b in model.palette.tolist())
    highest = max([*values, ignore or 0])
    if dtype == "bool" and highest > 1:
        dtype = "uint8"  # one-bit masks among others
    if dtype == "uint8" and highest > 255:
        dtype = "uint16"
    suffix = suffix if suffix in (".png", ".tif", ".tiff") else ".png"
    return MaskKind(suffix, tuple(values), dtype, palette, ignore)


def _add_mask_warnings(report: Report, looks: list[_Look], values: list[int]) -> None:
    pages = [own for look in looks for own in look.empty_values]
    empty = sum(own <= {values[0]} for own in pages)
    if empty:
        report.warnings.append(
            Problem(
                f"{empty} of {len(pages)} masks ({empty / len(pages):.0%}) are empty: "
                f"nothing but value {values[0]}, which is class 0",
            )
        )
    storages = {(look.storage, look.palette is not None) for look in looks}
    if len(storages) > 1:
        kinds = sorted(kind + (" with palette" if palette else "") for kind, palette in storages)
        report.warnings.append(
            Problem(f"masks stored in different ways: {', '.join(kinds)}; their values are used")
        )
    odd = _odd_palettes(looks)
    if odd:
        report.errors.append(
            Problem(
                "palette masks whose numbers have other colours than in the other masks",
                odd,
                "The number decides the class, so the same class may have two numbers. Save all "
                "masks with one palette.",
            )
        )


def _odd_palettes(looks: list[_Look]) -> list[str]:
    colours: dict[int, Counter[tuple[int, ...]]] = defaultdict(Counter)
    own = {
        look.pair.mask.name: {
            value: tuple(look.palette[value].tolist())
            for value in look.counts
            if value < len(look.palette)
        }
        for look in looks
        if look.palette is not None
    }
    for used in own.values():
        for value, colour in used.items():
            colours[value][colour] += 1
    usual = {value: seen.most_common(1)[0][0] for value, seen in colours.items()}
    return [name for name, used in own.items() if any(usual[v] != c for v, c in used.items())]


def _add_list_problems(report: Report) -> None:
    try:
        listed_split(report.pairs, report.folder)
    except DataError as error:
        report.errors.append(Problem(str(error)))


def _section(title: str, problems: list[Problem]) -> list[str]:
    bodies = ["  - " + str(problem).replace("\n", "\n    ") for problem in problems]
    return [f"{title}:", *bodies] if bodies else []


def _lines(sentences: list[str], most: int = 10) -> str:
    rest = len(sentences) - most
    return "\n  ".join(sentences[:most] + ([f"and {rest} more"] if rest > 0 else []))


def _size(size: Sequence[int]) -> str:
    return f"{size[0]} x {size[1]}"


def _size_range(sizes: Iterable[Size]) -> str:
    distinct = sorted(set(sizes), key=lambda size: size[0] * size[1])
    if len(distinct) == 1:
        return _size(distinct[0])
    return f"{_size(distinct[0])} to {_size(distinct[-1])} ({len(distinct)} sizes)"


def _plural(count: int, word: str) -> str:
    return f"{count} {word}" + ("" if count == 1 else "s")
