"""Whether contours are where they should be, to within a tolerance."""

from __future__ import annotations

import math

import numpy as np


def class_edges(labels: np.ndarray, index: int, ignore: np.ndarray | None = None) -> np.ndarray:
    """Pixels of a class that have a neighbour, above, below, left or right, of another class.

    Parameters
    ----------
    labels : ndarray of shape (H, W), integer
    index : int
        The class.
    ignore : ndarray of shape (H, W), bool, optional
        Pixels that are nothing: neither edges nor another class.

    Returns
    -------
    ndarray of shape (H, W), bool
        The border of the image is no edge.
    """
    own = labels == index
    other = ~own if ignore is None else ~own & ~ignore
    edges = np.zeros(labels.shape, bool)
    edges[1:] |= other[:-1]
    edges[:-1] |= other[1:]
    edges[:, 1:] |= other[:, :-1]
    edges[:, :-1] |= other[:, 1:]
    return edges & own if ignore is None else edges & own & ~ignore


def boundary_f1(
    prediction: np.ndarray,
    target: np.ndarray,
    num_classes: int,
    tolerance: float = 0.0075,
    ignore_index: int = -100,
) -> np.ndarray:
    """For each class of one image the F1 of its contour.

    Parameters
    ----------
    prediction, target : ndarray of shape (H, W), integer
    num_classes : int
    tolerance : float
        How far a contour may be off: below 1 as a share of the image's diagonal, rounded up to
        pixels; from 1 on in pixels; 0 for not at all.
    ignore_index : int
        Pixels with this target take no part, in either contour.

    Returns
    -------
    ndarray of shape (num_classes,), float64
        NaN for a class with a contour in neither image, 0 with one in one of them only.

    Raises
    ------
    ValueError
        If the shapes differ or are not (H, W), or the tolerance is negative.

    Notes
    -----
    Precision is the share of the predicted contour within the (Euclidean) tolerance of the true
    one, recall the share of the true one within that of the predicted one.

    References
    ----------
    Csurka, Larlus, Perronnin, What is a good evaluation measure for semantic segmentation?, 2013,
    section 3; tolerance 0.75 % of the diagonal. SegNet (2015) reports the mean over classes of each
    image, and of that the mean over images.
    """
    prediction, target = np.asarray(prediction), np.asarray(target)
    if prediction.shape != target.shape or target.ndim != 2:
        raise ValueError(
            f"boundary_f1: prediction has shape {prediction.shape}, target {target.shape}, "
            "expected the same shape (H, W). Call it for each image."
        )
    if not tolerance >= 0:
        raise ValueError(f"boundary_f1: tolerance must be at least 0, but is {tolerance!r}.")
    radius = tolerance if tolerance >= 1 else math.ceil(tolerance * math.hypot(*target.shape))
    ignore = target == ignore_index
    scores = np.full(num_classes, np.nan)
    for index in range(num_classes):
        found, wanted = (class_edges(x, index, ignore) for x in (prediction, target))
        if found.any() and wanted.any():
            precision, recall = _near(found, wanted, radius), _near(wanted, found, radius)
            both = precision + recall
            scores[index] = 2 * precision * recall / both if both else 0
        elif found.any() or wanted.any():
            scores[index] = 0
    return scores


def _near(edges: np.ndarray, others: np.ndarray, radius: float) -> float:
    """Share of `edges` that are within `radius` of one of `others`."""
    rows, columns = np.nonzero(edges)
    up_down = np.pad(_along_columns(others), ((0, 0), (int(radius), int(radius))), mode="edge")
    width = others.shape[1]
    near = np.zeros(len(rows), bool)
    for step in range(-int(radius), int(radius) + 1):
        distance = up_down[rows, columns + step + int(radius)]
        inside = (columns + step >= 0) & (columns + step < width)
        near |= inside & (distance**2 + step**2 <= radius**2)
    return float(near.mean())


def _along_columns(marks: np.ndarray) -> np.ndarray:
    """For each pixel how far the next mark of its column is."""
    height = len(marks)
    far = 2.0 * height + 1e9
    row = np.arange(height, dtype=np.float64)[:, None]
    above = np.maximum.accumulate(np.where(marks, row, -far), axis=0)
    below = np.minimum.accumulate(np.where(marks, row, far)[::-1], axis=0)[::-1]
    return np.minimum(row - above, below - row)
