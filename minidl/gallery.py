"""Pictures of what a network makes of some images of a set, at the end and on the way there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from minidl import metrics, plot
from minidl import run as folder
from minidl.data import Dataset
from minidl.doctor.pictures import colour, overlay
from minidl.evaluate import Evaluation
from minidl.segmenter import Segmenter
from minidl.train import Trainer, Watch

_ROWS = 6
SAMPLE_ROWS, SAMPLE_SIDE, SAMPLE_GROWTH = 4, 160, 1.6  # images, pixels, from step to step
_COLUMNS = 8  # of the picture that shows all
_TARGET = "target.png"


def draw_predictions(
    segmenter: Segmenter, dataset: Dataset, path: Path, title: str, rows: int = _ROWS
) -> Path:
    """Write a picture with some images of a set: input, target, prediction."""
    examples = [
        _example(segmenter, dataset, index)
        for index in chosen_examples(dataset, segmenter.foreground, rows)
    ]
    return plot.write_figure(plot.panels(examples, segmenter.class_names, title), path)


def chosen_examples(dataset: Dataset, foreground: Sequence[int], count: int) -> list[int]:
    """Numbers of images to show: spread over the set, about a third of them empty if many are."""
    has = [bool(np.isin(dataset.raw(index)[1], foreground).any()) for index in range(len(dataset))]
    full = [index for index, one in enumerate(has) if one]
    empty = [index for index, one in enumerate(has) if not one]
    few = min(len(empty), max(count // 3, count - len(full)))
    return sorted(_spread(full, count - few) + _spread(empty, few))


def _spread(items: list[int], count: int) -> list[int]:
    count = min(count, len(items))
    return [items[(2 * k + 1) * len(items) // (2 * count)] for k in range(count)]


def _example(segmenter: Segmenter, dataset: Dataset, index: int) -> plot.Example:
    image, target = dataset.raw(index)
    prediction = segmenter(image, dataset.name(index))
    matrix = metrics.confusion_matrix(prediction, target, segmenter.mask_kind.num_classes)
    present = bool(np.isin(target, segmenter.foreground).any())
    score = metrics.mean_dice(matrix, segmenter.foreground)
    return plot.Example(dataset.name(index), image, target, prediction, _note(score, present))


def _note(score: float, present: bool) -> str:
    if present:
        return f"Dice {score:.2f}"
    return "empty, rightly" if math.isnan(score) else "false alarm"


# ---- through time ----------------------------------------------------------------------------


class Samples(Watch):
    """Keeps what the network makes of some validation images while it learns.

    Each time it writes ``samples/step-000123.png``, a column of images with the classes found in
    colour over them: after the first validation, then whenever there were 1.6 times as many steps.

    Parameters
    ----------
    run : Path
        The run folder. Pictures of a run that is resumed are carried on.
    segmenter : Segmenter
        Whose model is trained.
    """

    def __init__(self, run: Path, segmenter: Segmenter) -> None:
        self.samples, self.segmenter = run / folder.SAMPLES, segmenter
        self.shown: list[int] = []
        self.last = max(sample_steps(run), default=0)

    def validated(self, trainer: Trainer, evaluation: Evaluation, better: bool) -> None:
        """Make a picture, if it is time."""
        if trainer.step < SAMPLE_GROWTH * self.last:
            return
        dataset, segmenter = trainer.val, self.segmenter
        self.last = trainer.step
        if not self.shown:
            self.samples.mkdir(parents=True, exist_ok=True)
            self.shown = chosen_examples(dataset, segmenter.foreground, SAMPLE_ROWS)
            targets = {index: dataset.raw(index)[1] for index in self.shown}
            self._write(dataset, targets, self.samples / _TARGET)
        found = {
            index: segmenter(dataset.raw(index)[0], dataset.name(index)) for index in self.shown
        }
        self._write(dataset, found, self.samples / f"step-{trainer.step:06}.png")

    def _write(self, dataset: Dataset, classes: Mapping[int, np.ndarray], path: Path) -> None:
        colours = {index: colour(index) for index in self.segmenter.foreground}
        column = [
            overlay(dataset.raw(index)[0], found, colours, SAMPLE_SIDE)
            for index, found in classes.items()
        ]
        wide = max(picture.shape[1] for picture in column)
        padded = [
            np.pad(p, ((0, 4), (0, wide - p.shape[1]), (0, 0)), constant_values=255) for p in column
        ]
        folder.write_picture(path, np.concatenate(padded)[:-4])


def sample_steps(run: Path) -> list[int]:
    """Steps of which there are pictures in a run folder, in order."""
    return sorted(int(path.stem[5:]) for path in (run / folder.SAMPLES).glob("step-*.png"))


def chosen_steps(steps: Sequence[int], most: int) -> list[int]:
    """At most so many of some steps, the first and the last among them."""
    if len(steps) <= most:
        return list(steps)
    return [steps[round(k * (len(steps) - 1) / (most - 1))] for k in range(most)]


def draw_samples(run: Path, title: str) -> Path | None:
    """Put the pictures of `Samples` side by side, the target in front; None if there are none."""
    steps = chosen_steps(sample_steps(run), _COLUMNS - 1)
    if not steps:
        return None
    names = [_TARGET, *(f"step-{step:06}.png" for step in steps)]
    columns = [folder.read_picture(run / folder.SAMPLES / name) for name in names]
    headings = ["target", *(f"step {step}" for step in steps)]
    return plot.write_figure(plot.columns(columns, headings, title), run / folder.SAMPLES_PICTURE)
