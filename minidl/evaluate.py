"""Scores of a network over a whole set of images."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minidl import metrics
from minidl import run as folder
from minidl.data import DataError, Dataset, Pair, find_pairs, listed_part
from minidl.data.masks import listing
from minidl.flips import flipped
from minidl.progress import Progress
from minidl.segmenter import Segmenter, scores_of


@dataclass(frozen=True)
class ImageScores:
    """Scores of one image.

    Attributes
    ----------
    name : str
    matrix : ndarray of shape (classes, classes), int64
        As in `Evaluation`.
    boundary : ndarray of shape (classes,) or None
        Boundary F1 of each class, where it was asked for.
    """

    name: str
    matrix: np.ndarray
    boundary: np.ndarray | None = None

    def row(self, class_names: Sequence[str]) -> dict[str, Any]:
        """All of it under flat names, such as ``dice_nerve``; NaN for what is absent."""
        row: dict[str, Any] = {
            "image": self.name,
            "pixel_accuracy": metrics.pixel_accuracy(self.matrix),
            "mean_iou": metrics.mean_iou(self.matrix),
            "frequency_weighted_iou": metrics.frequency_weighted_iou(self.matrix),
        }
        columns = {
            "accuracy": metrics.class_accuracy(self.matrix),
            "dice": metrics.dice(self.matrix),
            "iou": metrics.iou(self.matrix),
        }
        if self.boundary is not None:
            columns["boundary_f1"] = self.boundary
        for score, values in columns.items():
            for name, value in zip(class_names, values, strict=True):
                row[f"{score}_{name}"] = float(value)
        return row


@dataclass(frozen=True)
class Evaluation:
    """Scores of a set, from the confusion matrix of all its pixels.

    Attributes
    ----------
    matrix : ndarray of shape (classes, classes), int64
        Rows: what the target says; columns: what was predicted.
    images : int
        Number of images, pages counted.
    class_names : tuple of str
    values : tuple of int
        Each class's value in mask files.
    foreground : tuple of int
        Classes whose mean Dice is the one number that counts.
    each : tuple of ImageScores
        The same image by image, in the order of the set; empty if nobody kept them.
    """

    matrix: np.ndarray
    images: int
    class_names: tuple[str, ...]
    values: tuple[int, ...]
    foreground: tuple[int, ...]
    each: tuple[ImageScores, ...] = ()

    @property
    def foreground_dice(self) -> float:
        """Mean Dice of the foreground classes that occur; NaN if none does."""
        return metrics.mean_dice(self.matrix, self.foreground)

    @property
    def pixel_accuracy(self) -> float:
        """Share of the pixels that are right."""
        return metrics.pixel_accuracy(self.matrix)

    @property
    def boundary_f1(self) -> np.ndarray | None:
        """For each class the mean of its boundary F1 over the images that have it, or None."""
        if not self.each or any(image.boundary is None for image in self.each):
            return None
        scores = np.array([image.boundary for image in self.each])
        known = ~np.isnan(scores)
        count = known.sum(axis=0)
        total = np.where(known, scores, 0).sum(axis=0)
        return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)

    def classes(self) -> list[dict[str, Any]]:
        """For each class: name, value, pixels, share, accuracy, dice, iou, maybe boundary_f1."""
        pixels = self.matrix.sum(axis=1)
        columns: list[Any] = [
            self.class_names,
            self.values,
            pixels,
            pixels / max(pixels.sum(), 1),
            metrics.class_accuracy(self.matrix),
            metrics.dice(self.matrix),
            metrics.iou(self.matrix),
        ]
        names = ["name", "value", "pixels", "share", "accuracy", "dice", "iou"]
        if self.boundary_f1 is not None:
            columns.append(self.boundary_f1)
            names.append("boundary_f1")
        return [
            {key: cell.item() if isinstance(cell, np.generic) else cell
             for key, cell in zip(names, row, strict=True)}
            for row in zip(*columns, strict=True)
        ]  # fmt: skip

    def text(self) -> str:
        """A table for people; ``-`` where a score is not defined."""
        classes = self.classes()
        wide = max(5, *(len(row["name"]) for row in classes))
        lines = [f"{'class':{wide}}  value   share  accuracy    Dice     IoU"]
        lines += [
            f"{row['name']:{wide}}  {row['value']:5}  {row['share']:6.1%}  "
            f"{_number(row['accuracy']):>8}  {_number(row['dice']):>6}  {_number(row['iou']):>6}"
            for row in classes
        ]
        front = ", ".join(self.class_names[index] for index in self.foreground)
        several = len(self.foreground) > 1
        lines.append(
            f"{self.images} image{'s' if self.images != 1 else ''}: "
            f"pixel accuracy {_number(self.pixel_accuracy)}, "
            f"mean IoU {_number(metrics.mean_iou(self.matrix))}, "
            f"{'mean ' if several else ''}foreground Dice {_number(self.foreground_dice)}"
            + ("" if several else f" ({front})")
        )
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Everything, in types that JSON knows; None for NaN."""
        scores = {
            "images": self.images,
            "pixel_accuracy": self.pixel_accuracy,
            "mean_iou": metrics.mean_iou(self.matrix),
            "frequency_weighted_iou": metrics.frequency_weighted_iou(self.matrix),
            "foreground_dice": self.foreground_dice,
            "foreground": [self.class_names[index] for index in self.foreground],
        }
        return {
            **{key: _known(value) for key, value in scores.items()},
            "classes": [
                {key: _known(value) for key, value in row.items()} for row in self.classes()
            ],
            "confusion_matrix": self.matrix.tolist(),
        } | ({"each": self._rows()} if self.each else {})

    def _rows(self) -> list[dict[str, Any]]:
        rows = [image.row(self.class_names) for image in self.each]
        return [{key: _known(value) for key, value in row.items()} for row in rows]

    def json(self) -> str:
        """`to_dict` as text."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    def csv(self) -> str:
        """`classes` as a table for spreadsheets; empty cells for NaN."""
        return _table(self.classes())

    def images_csv(self) -> str:
        """A row for each image, under the names of `ImageScores.row`; empty cells for NaN."""
        return _table(self._rows())

    def write(self, path: str | Path) -> list[Path]:
        """Write ``path.json`` with everything, ``path.csv`` by class, ``path-images.csv`` by image.

        Parameters
        ----------
        path : str or Path
            Without ending; the folder must exist. What is there is replaced, each file in one
            step.

        Returns
        -------
        list of Path
            What was written; the last file only if scores of images were kept.
        """
        path = Path(path)
        texts = {".json": self.json(), ".csv": self.csv()}
        if self.each:
            texts["-images.csv"] = self.images_csv()
        return [
            folder.write_text(path.with_name(path.name + end), text) for end, text in texts.items()
        ]


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys() if rows else (), lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: "" if _known(v) is None else v for k, v in row.items()} for row in rows)
    return text.getvalue()


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def evaluate(
    model: Any,
    dataset: Dataset,
    class_names: Sequence[str],
    foreground: Sequence[int],
    watch: Callable[[int, np.ndarray, np.ndarray], Any] | None = None,
    boundary: float | None = None,
    names: Sequence[str] | None = None,
) -> Evaluation:
    """Predict every whole image of a set and score all of them together.

    Parameters
    ----------
    model : nn.Module
        Maps (1, H, W, C) to scores (1, H, W, classes).
    dataset : Dataset
    class_names : sequence of str
        As many as there are classes.
    foreground : sequence of int
        See `metrics.foreground_classes`.
    watch : callable, optional
        Called with each image's number, scores (H, W, classes) and target (H, W).
    boundary : float, optional
        Tolerance of `metrics.boundary_f1`, which is left out without it: it takes about as long as
        reading the image.
    names : sequence of str, optional
        Of the images; their numbers by default.

    Returns
    -------
    Evaluation
    """
    classes = dataset.mask_kind.num_classes
    matrix, each = np.zeros((classes, classes), dtype=np.int64), []
    for index in range(len(dataset)):
        x, target = dataset[index]
        scores = scores_of(model, x)
        found = scores.argmax(axis=-1)
        own = metrics.confusion_matrix(found, target, classes)
        matrix += own
        edges = None if boundary is None else metrics.boundary_f1(found, target, classes, boundary)
        each.append(ImageScores(str(index) if names is None else names[index], own, edges))
        if watch is not None:
            watch(index, scores, target)
    return Evaluation(
        matrix, len(dataset), tuple(class_names), dataset.mask_kind.values, tuple(foreground),
        tuple(each),
    )  # fmt: skip


def evaluate_folder(
    run: str | Path,
    data: str | Path,
    split: str | None = None,
    progress: Progress | None = None,
    boundary: float | None = None,
    flips: str | None = None,
) -> Evaluation:
    """Score a run's network on a data folder.

    Parameters
    ----------
    run : str or Path
        A run folder or a model file.
    data : str or Path
        In one of the layouts of `data.find_pairs`.
    split : {'val', 'train', 'test', 'all'}, optional
        Which part: of the run's own split if `data` is what it was trained on, else as
        ``val.txt``, ``train.txt`` and ``test.txt`` in the folder say. By itself ``'val'`` for the
        folder trained on, and everything for any other.
    progress : Progress, optional
    boundary : float, optional
        As in `evaluate`.
    flips : 'mirror' or 'all', optional
        Take the mean over mirror images; see `flips.Flipped`.

    Returns
    -------
    Evaluation

    Raises
    ------
    RunError, ModelError
        If there is no usable network.
    DataError
        If a file cannot be used, or there is no such split.
    """
    progress = progress or Progress(silent=True)
    progress.begin(f"reading {data}")
    segmenter = Segmenter.load(folder.model_path(run))
    pairs, part = chosen_pairs(run, data, split)
    dataset = Dataset(pairs, segmenter.mask_kind, segmenter.normaliser)
    progress.say(f"{data}: {part}, {len(dataset)} images")
    progress.begin("predicting")
    return evaluate(
        flipped(segmenter.model, flips),
        dataset,
        segmenter.class_names,
        segmenter.foreground,
        lambda index, *_: progress.now(f"predicting {index + 1}/{len(dataset)}"),
        boundary,
        [pair.stem for pair in pairs] if len(pairs) == len(dataset) else None,
    )


def chosen_pairs(run: str | Path, data: str | Path, split: str | None) -> tuple[list[Pair], str]:
    """The pairs of a split, and a few words on where it comes from."""
    pairs = {pair.stem: pair for pair in find_pairs(data)}
    recorded = None if split == "all" else _recorded_split(Path(run), Path(data), pairs)
    split = split or ("val" if recorded else "all")
    if split == "all":
        return list(pairs.values()), "all pairs"
    if recorded and split in recorded:
        return [pairs[stem] for stem in recorded[split]], f"{split} part of the run's own split"
    return listed_part(list(pairs.values()), data, split), f"its {split} part"


def _recorded_split(
    run: Path, data: Path, pairs: Mapping[str, Pair]
) -> dict[str, list[str]] | None:
    """The run's split, if `data` is what it was trained on, perhaps moved meanwhile."""
    try:
        recorded = json.loads((run / folder.SPLIT).read_text(encoding="utf-8"))
        config = json.loads((run / folder.CONFIG).read_text(encoding="utf-8"))
        stems = {*recorded["train"], *recorded["val"]}
    except (OSError, ValueError, KeyError):
        return None
    origin = Path(config.get("data", ""))
    same, missing = origin == data.resolve(), sorted(stems - pairs.keys())
    if same and missing:
        raise DataError(
            f"{data}: {len(missing)} of the files the run was trained on are gone: "
            f"{listing(missing)}. Put them back, or evaluate with --split all."
        )
    # Other data may have the same file names: only if the origin is gone has it been moved.
    moved = not missing and not origin.exists()
    return recorded if same or moved else None
