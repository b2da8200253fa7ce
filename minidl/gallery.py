"""Pictures of what a network makes of some images of a set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from minidl import metrics, plot
from minidl.data import Dataset
from minidl.segmenter import Segmenter

_ROWS = 6


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
