"""`minidl doctor`: read a data folder once, say what is wrong with it, and how to train on it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from minidl.data import DataError, Problem, Report, Split, check_folder, split_pairs
from minidl.data.labels import MAX_CLASSES
from minidl.data.masks import listing
from minidl.metrics import foreground_classes
from minidl.progress import Progress, duration

from .advice import Advice, advise
from .findings import LEVELS, Facts, Finding, judge
from .layouts import layout_hints
from .lookalike import SIDE, Lookalikes, find_lookalikes
from .survey import Picture, Survey, subjects

_WIDTH, _MOST_CLASSES = 100, 40
_HEADINGS = {"error": "Errors", "warning": "Warnings", "note": "To know"}


@dataclass
class Diagnosis:
    """What `examine` found out about a data folder.

    Attributes
    ----------
    report : Report
        Of `data.check_folder`.
    survey : Survey
        What was noted about every picture.
    findings : list of Finding
        Everything to know, errors first, those of `report` included.
    facts : Facts or None
        What the findings go by; None if no image could be read.
    advice : Advice or None
        How to train; None as long as the masks cannot be understood.
    split : Split or None
        Which pairs train and which validate.
    proposed_val : list of str
        Names for a ``val.txt`` that keeps together what is alike; empty if nothing is.
    """

    report: Report
    survey: Survey
    findings: list[Finding] = field(default_factory=list)
    facts: Facts | None = None
    advice: Advice | None = None
    split: Split | None = None
    proposed_val: list[str] = field(default_factory=list)

    @property
    def errors(self) -> list[Finding]:
        """Findings that stop a training."""
        return [one for one in self.findings if one.level == "error"]

    def text(self) -> str:
        """Everything for a terminal, the problems first."""
        report = self.report
        count = len(report.pairs)
        lines = [f"{report.folder}: {count} pair{'' if count == 1 else 's'} of image and mask"]
        lines[0] += f" ({report.layout})" if report.layout else ""
        lines += [f"  {key:8}{value}" for key, value in self.summary()]
        for level in LEVELS:
            found = [one for one in self.findings if one.level == level]
            lines += ["", f"{_HEADINGS[level]}:"] if found else []
            lines += [_wrapped(one.problem) for one in found]
        if not self.findings:
            lines += ["", "No problems found."]
        return "\n".join(lines + self._class_table() + self._advice_text())

    def summary(self) -> list[tuple[str, str]]:
        """What the set is, as (key, sentence)."""
        report, pictures = self.report, [one for one in self.survey.pictures if one.shape]
        rows = []
        if pictures:
            rows.append(
                (
                    "images",
                    f"{len(pictures)}, {_sizes(report.sizes)} (height x width), "
                    f"{report.channels or '?'} channel{'' if report.channels == 1 else 's'}, "
                    f"{' and '.join(report.dtypes)}",
                )
            )
            low, high = min(p.low for p in pictures), max(p.high for p in pictures)
            mean = float(np.mean([p.mean for p in pictures]))
            deviation = float(np.mean([p.deviation for p in pictures]))
            rows.append(
                (
                    "values",
                    f"{low:.4g} to {high:.4g}, mean {mean:.4g}, deviation within an image "
                    f"{deviation:.4g}",
                )
            )
        kind = report.mask_kind
        if kind is not None:
            stored = kind.dtype + (" with palette" if kind.palette else "")
            rows.append(
                ("masks", f"{report.num_classes} classes, values {_list(kind.values)}, {stored}")
            )
        if self.split is not None:
            rows.append(("split", self.split.how))
        return rows

    def class_rows(self) -> list[dict[str, float]]:
        """For each class: value, share of the pixels, images with it, frequency, weight."""
        kind, facts = self.report.mask_kind, self.facts
        if kind is None or facts is None or self.advice is None:
            return []
        total = max(int(self.report.class_counts.sum()), 1)
        return [
            {
                "class": index,
                "value": value,
                "share": int(self.report.class_counts[index]) / total,
                "images": sum(value in one.counts for one in facts.pictures),
                "frequency": self.advice.frequencies[index],
                "weight": self.advice.class_weights[index],
            }
            for index, value in enumerate(kind.values)
        ]

    def empty_share(self) -> float:
        """Share of the masks without any foreground; NaN if that cannot be told."""
        facts = self.facts
        if facts is None or not facts.values:
            return float("nan")
        masks = [i for i, one in enumerate(facts.pictures) if one.counts]
        return float(np.mean([not facts.has_foreground(i) for i in masks])) if masks else 0.0

    def _class_table(self) -> list[str]:
        rows = self.class_rows()
        if not rows:
            return []
        lines = ["", "Classes:", "  class  value  share of pixels  in images  weight"]
        lines += [
            f"  {row['class']:5}  {row['value']:5}  {row['share']:15.2%}  {row['images']:9}  "
            f"{row['weight']:6.3g}"
            for row in rows[:_MOST_CLASSES]
        ]
        rest = len(rows) - _MOST_CLASSES
        return lines + ([f"  and {rest} more"] if rest > 0 else [])

    def _advice_text(self) -> list[str]:
        if self.advice is None:
            return []
        return ["", "Proposed:"] + [
            textwrap.fill(
                text, _WIDTH, initial_indent=f"  {key:11}", subsequent_indent=13 * " ",
                break_long_words=False, break_on_hyphens=False,
            )
            for key, text in self.proposals()
        ]  # fmt: skip

    def proposals(self) -> list[tuple[str, str]]:
        """How to train, as (what, sentence)."""
        advice = self.advice
        if advice is None:
            return []
        weights = listing((f"{weight:.3g}" for weight in advice.class_weights), _MOST_CLASSES)
        over = f"{advice.oversample:.0%} of the crops; " if advice.oversample else ""
        void = (
            "if a value means 'do not count this pixel' (often the last one), give --ignore VALUE "
            "here and in training"
        )
        rows = [("ignore", void)] if self._has_no_void() else []
        return [
            ("loss", f"{advice.loss}: {advice.loss_why}"),
            ("weights", f"{weights} (median frequency balancing, for a weighted cross-entropy)"),
            ("crop", f"{advice.crop[0]} x {advice.crop[1]}: {advice.crop_why}"),
            ("foreground", over + advice.oversample_why),
            *rows,
            ("next", self.next_step()),
        ]

    def _has_no_void(self) -> bool:
        kind = self.report.mask_kind
        return kind is not None and kind.ignore is None and kind.num_classes > 2

    def next_step(self) -> str:
        """The command to type next."""
        folder = self.report.folder
        if self.errors:
            return f"mend the errors above, then again: minidl doctor {folder}"
        side = min(self.advice.crop) // 16 * 16 if self.advice else 0
        return f"minidl train {folder}" + (f" --crop {side}" if side else "")


def examine(
    folder: str | Path,
    *,
    labels: Sequence[int] | None = None,
    ignore: int | None = None,
    instances: bool = False,
    max_classes: int = MAX_CLASSES,
    val_fraction: float = 0.2,
    seed: int = 0,
    progress: Progress | None = None,
) -> Diagnosis:
    """Read every file of a data folder once, and find out all that can be known before training.

    One picture is in memory at a time; what is kept of each is about 6 KB.

    Parameters
    ----------
    folder : str or Path
        In one of the layouts of `data.find_pairs`; never written to.
    labels, ignore, instances, max_classes
        As for `data.check_folder`.
    val_fraction, seed
        As for `data.split_pairs`: of the split that is looked at where no lists say.
    progress : Progress, optional
        Where to tell about it.

    Returns
    -------
    Diagnosis
        Also for a folder without any usable file. Only files are at fault: nothing is raised for
        them.
    """
    progress = progress or Progress(silent=True)
    survey, clock = Survey(), _Clock(progress)
    progress.begin(f"looking for images and masks in {folder}")
    report = check_folder(
        folder,
        labels=labels,
        ignore=ignore,
        instances=instances,
        max_classes=max_classes,
        progress=lambda done, total: clock(f"reading {folder}", done, total),
        observe=survey,
    )
    diagnosis = Diagnosis(report, survey)
    diagnosis.findings = [Finding("error", problem) for problem in report.errors]
    diagnosis.findings += [
        Finding("warning", problem) for problem in report.warnings if not _said_again(problem)
    ]
    usual_names = not report.pairs or any("without" in p.title for p in report.errors)
    if usual_names:
        hints = layout_hints(Path(folder))
        diagnosis.findings += [Finding("error" if not report.pairs else "note", h) for h in hints]
    if any(one.shape for one in survey.pictures):
        _judge(diagnosis, val_fraction, seed, clock)
    diagnosis.findings.sort(key=lambda finding: LEVELS.index(finding.level))
    return diagnosis


def _said_again(problem: Problem) -> bool:
    """Warnings of `check_folder` that are said here with more detail."""
    return problem.title == "images of one single value" or "are empty: nothing" in problem.title


class _Clock:
    """Says how far something is, and how long it will still take."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.what, self.start = progress, "", 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        if what != self.what:
            self.what, self.start = what, self.progress.seconds
            self.first = done
        passed = self.progress.seconds - self.start
        left = passed * (total - done) / max(done - self.first, 1)
        told = passed > 1 and done < total
        self.progress.now(f"{what}: {done}/{total}" + (f", {duration(left)} left" if told else ""))


def _judge(diagnosis: Diagnosis, val_fraction: float, seed: int, clock: _Clock) -> None:
    report, pictures = diagnosis.report, diagnosis.survey.pictures
    diagnosis.split = _split(report, val_fraction, seed)
    parts = _parts(pictures, diagnosis.split)
    thumbs = np.stack(
        [one.thumb if one.shape else np.zeros((SIDE, SIDE), np.float32) for one in pictures]
    )
    alike = find_lookalikes(
        thumbs, [one.key for one in pictures], parts,
        progress=lambda done, total: clock("comparing the images", done, total),
    )  # fmt: skip
    values = report.mask_kind.values if report.mask_kind is not None else ()
    front = foreground_classes(report.class_counts) if report.class_counts.any() else []
    behind = [index for index in range(len(values)) if index not in front]
    facts = Facts(
        pictures, [diagnosis.survey.name(one) for one in pictures], parts,
        _listed(report), tuple(values), behind[0] if behind and front else -1, alike,
    )  # fmt: skip
    diagnosis.facts = facts
    diagnosis.findings += judge(facts) + _empty(facts)
    training = [one for one, part in zip(pictures, parts, strict=True) if part == 0 and one.whole]
    training = training or [one for one in pictures if one.whole]
    if training and any(one.counts.keys() & set(values) for one in training):
        diagnosis.advice = advise(training, values)
    if not facts.listed or any(
        "both parts" in f.problem.title or "the same as an image" in f.problem.title
        for f in diagnosis.findings
    ):
        diagnosis.proposed_val = _propose(facts, alike, val_fraction)


def _split(report: Report, val_fraction: float, seed: int) -> Split | None:
    try:
        return split_pairs(report.pairs, report.folder, val_fraction, seed)
    except DataError:  # said by `check_folder`, or there is one pair only
        return None


def _listed(report: Report) -> bool:
    """Whether files or folders say which pairs are for training and which for validation."""
    files = (Path(report.folder) / f"{part}.txt" for part in ("train", "val"))
    return any(file.is_file() for file in files) or any(pair.part for pair in report.pairs)


def _parts(pictures: Sequence[Picture], split: Split | None) -> list[int]:
    if split is None:
        return [-1] * len(pictures)
    number = {pair.stem: part for part, own in enumerate((split.train, split.val)) for pair in own}
    return [number.get(one.pair.stem, -1) for one in pictures]


def _empty(facts: Facts) -> list[Finding]:
    masks = [i for i, one in enumerate(facts.pictures) if one.counts]
    empty = [i for i in masks if not facts.has_foreground(i)] if facts.values else []
    if not empty:
        return []
    title = f"{len(empty)} of {len(masks)} masks ({len(empty) / len(masks):.0%}) are empty"
    advice = (
        "If that is right, keep them: they teach where nothing is. See that both parts have the "
        "same share, and cut training crops around foreground on purpose if they are many."
    )
    level = "warning" if len(empty) > len(masks) / 4 else "note"
    problem = Problem(title, [facts.names[i] for i in empty], advice)
    return [Finding(level, problem, tuple((i,) for i in empty[:8]))]


def _propose(facts: Facts, alike: Lookalikes, val_fraction: float) -> list[str]:
    """Names to validate on, so that neither lookalikes nor a subject's pictures are divided."""
    stems = [one.pair.stem for one in facts.pictures]
    subject = subjects(sorted(set(stems)))
    root = {stem: stem for stem in stems}

    def find(stem: str) -> str:
        while root[stem] != stem:
            root[stem] = root[root[stem]]
            stem = root[stem]
        return stem

    first: dict[object, str] = {}
    for stem, group in zip(stems, alike.group.tolist(), strict=True):
        for key in (group, subject.get(stem, ("alone", stem))):
            root[find(stem)] = find(first.setdefault(key, stem))
    groups: dict[str, list[str]] = {}
    for stem in sorted(set(stems)):
        groups.setdefault(find(stem), []).append(stem)
    if len(groups) == len(root) or len(groups) < 2:
        return []
    return sorted(_filled(sorted(groups.values()), round(val_fraction * len(root))))


def _filled(groups: list[list[str]], wanted: int) -> list[str]:
    """Groups spread over the set, as long as they fit; at least the smallest."""
    chosen: list[str] = []
    step = max(len(groups) * 5 // 13, 1)
    while np.gcd(step, len(groups)) != 1:
        step += 1
    for k in range(len(groups)):
        group = groups[(k * step + step // 2) % len(groups)]
        if len(chosen) + len(group) <= wanted:
            chosen += group
    return chosen or min(groups, key=len)


def _wrapped(problem: Problem) -> str:
    """A problem as a list entry of lines that fit a terminal."""
    lines = problem.title.split("\n")
    lines += [f"  {text}" for text in (listing(problem.files), problem.advice) if text]
    indents = ["  - "] + [(4 + len(line) - len(line.lstrip())) * " " for line in lines[1:]]
    return "\n".join(
        textwrap.fill(
            line.strip(), _WIDTH, initial_indent=indent, subsequent_indent=len(indent) * " ",
            break_long_words=False, break_on_hyphens=False,
        )
        for line, indent in zip(lines, indents, strict=True)
    )  # fmt: skip


def _sizes(sizes: Sequence[tuple[int, int]]) -> str:
    distinct = sorted(set(sizes), key=lambda size: size[0] * size[1])
    first, last = (f"{height} x {width}" for height, width in (distinct[0], distinct[-1]))
    return first if len(distinct) == 1 else f"{first} to {last} ({len(distinct)} sizes)"


def _list(values: Sequence[int]) -> str:
    return ", ".join(map(str, values)) if len(values) <= 16 else f"{values[0]} to {values[-1]}"


def doctor(
    folder: str | Path,
    page: str | Path | None = None,
    *,
    overwrite: bool = False,
    labels: Sequence[int] | None = None,
    ignore: int | None = None,
    instances: bool = False,
    progress: Progress | None = None,
) -> Diagnosis:
    """Examine a data folder, tell what was found, and write a page with pictures.

    Parameters
    ----------
    folder : str or Path
        The data folder; never written to.
    page : str or Path, optional
        The HTML file to make; one file with everything in it.
    overwrite : bool
        Whether `page` may be replaced.
    labels, ignore, instances
        As for `data.check_folder`.
    progress : Progress, optional
        Where to tell about it.

    Returns
    -------
    Diagnosis
        Its `errors` say whether one could train.

    Raises
    ------
    FileExistsError
        If `page` exists and `overwrite` is not set; before anything is read.
    """
    from .page import refuse_page, write_page

    progress = progress or Progress(silent=True)
    if page is not None:
        refuse_page(page, overwrite)
    diagnosis = examine(
        folder, labels=labels, ignore=ignore, instances=instances, progress=progress
    )
    progress.say(diagnosis.text())
    if page is not None:
        progress.begin("drawing the page")
        progress.say(f"\nThe same with pictures: {write_page(diagnosis, page, overwrite)}")
    return diagnosis
