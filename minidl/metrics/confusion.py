"""How good a segmentation is: every score from one confusion matrix.

Add the matrices of all images, then compute the scores once: a score of a sum, not a mean
of scores, so that an image without the class neither divides by zero nor weighs as much as one full
of it.

NaN, everywhere and only, means that the question did not arise: the accuracy of a class that no
pixel has, the Dice and IoU of a class that neither target nor prediction has. Means over
classes leave NaN out.

With m[i, j] pixels of class i that were taken for j, t_i = sum_j m[i, j] and p_j = sum_i m[i, j],
the first four are the FCN paper's (Long, Shelhamer, Darrell 2015, section 5).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def confusion_matrix(
    prediction: np.ndarray,
    target: np.ndarray,
    num_classes: int,
    ignore_index: int = -100,
) -> np.ndarray:
    """Count the pixels of each class that were taken for each class.

    Parameters
    ----------
    prediction, target : ndarray of one shape, integer
        Class indices 0 .. num_classes - 1.
    num_classes : int
        1 or more.
    ignore_index : int
        Pixels with this target do not count.

    Returns
    -------
    ndarray of shape (num_classes, num_classes), int64
        Row: the target's class; column: the predicted one.

    Raises
    ------
    TypeError
        If an array is not integer.
    ValueError
        If the shapes differ or an index is out of range.
    """
    prediction, target = np.asarray(prediction), np.asarray(target)
    if prediction.shape != target.shape:
        raise ValueError(
            f"confusion_matrix: prediction has shape {prediction.shape}, target {target.shape}, "
            "expected the same"
        )
    counted = target != ignore_index
    rows = _indices("target", target[counted], num_classes)
    columns = _indices("prediction", prediction[counted], num_classes)
    flat = np.bincount(rows * num_classes + columns, minlength=num_classes**2)
    return flat.reshape(num_classes, num_classes)


def _indices(name: str, values: np.ndarray, num_classes: int) -> np.ndarray:
    if values.dtype.kind not in "iub":
        raise TypeError(
            f"confusion_matrix: {name} has dtype {values.dtype}, expected class indices "
            "(integers). Take the argmax of scores first."
        )
    if values.size and not (values.min() >= 0 and values.max() < num_classes):
        wrong = values[(values < 0) | (values >= num_classes)][0]
        raise ValueError(
            f"confusion_matrix: class {wrong} in {name}, expected 0..{num_classes - 1}"
        )
    return values.astype(np.int64)


def pixel_accuracy(matrix: np.ndarray) -> float:
    """Share of the pixels that are right: sum_i m[i, i] / sum_i t_i. NaN without pixels."""
    return float(_ratio(np.trace(matrix), matrix.sum()))


def class_accuracy(matrix: np.ndarray) -> np.ndarray:
    """For each class the share of its pixels that are right, its recall: m[i, i] / t_i."""
    return _ratio(np.diag(matrix), matrix.sum(axis=1))


def iou(matrix: np.ndarray) -> np.ndarray:
    """For each class intersection over union: m[i, i] / (t_i + p_i - m[i, i])."""
    hits = np.diag(matrix)
    return _ratio(hits, matrix.sum(axis=0) + matrix.sum(axis=1) - hits)


def mean_iou(matrix: np.ndarray) -> float:
    """Mean of `iou` over the classes that occur."""
    return _mean(iou(matrix))


def frequency_weighted_iou(matrix: np.ndarray) -> float:
    """Mean of `iou` weighted by how many pixels of the target each class has."""
    share, score = matrix.sum(axis=1), iou(matrix)
    return float(_ratio((share * np.where(share > 0, score, 0)).sum(), share.sum()))


def dice(matrix: np.ndarray) -> np.ndarray:
    """For each class the Dice coefficient, also called F1: 2 m[i, i] / (t_i + p_i)."""
    return _ratio(2 * np.diag(matrix), matrix.sum(axis=0) + matrix.sum(axis=1))


def mean_dice(matrix: np.ndarray, classes: Sequence[int] | None = None) -> float:
    """Mean of `dice` over those of `classes` (default: all) that occur."""
    scores = dice(matrix)
    return _mean(scores if classes is None else scores[list(classes)])


def foreground_classes(pixels: np.ndarray) -> list[int]:
    """Which classes count as foreground, given how many pixels each has.

    A class with more than half of the pixels is the background, whatever its number; all
    others are foreground. Without such a class every class is.
    """
    pixels = np.asarray(pixels)
    background = int(pixels.argmax()) if 2 * pixels.max() > pixels.sum() else None
    return [index for index in range(len(pixels)) if index != background]


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    part, whole = np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole != 0)


def _mean(scores: np.ndarray) -> float:
    known = scores[~np.isnan(scores)]
    return float(known.mean()) if known.size else float("nan")
