"""Names for the ways in which a segmentation fails, with rules that decide them.

They are what lecture slides about the nerve competition showed: networks that predict nothing,
that find several separated spots where there is one nerve, that highlight what is none, and that
have not converged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from minidl.metrics.segments import components

FAILURES = "predict none", "separated spots", "false highlight"
LARGEST = 0.8  # share of what was predicted that has to be in one piece
POOR = 0.5  # Dice below which pieces count as spots


def failure(prediction: np.ndarray, target: np.ndarray) -> str | None:
    """Which of `FAILURES` one image is, if any.

    Parameters
    ----------
    prediction, target : ndarray of shape (H, W), bool or integer
        All that is not 0 is foreground.

    Returns
    -------
    str or None
        ``'predict none'``: there is foreground, and nothing was predicted.
        ``'separated spots'``: there is foreground, and the Dice coefficient is below 0.5; what was
        predicted is in two or more pieces (corners connect), the largest below 80 % of it.
        ``'false highlight'``: there is no foreground, and some was predicted.

    Raises
    ------
    ValueError
        If shapes differ, or are not (H, W).

    Examples
    --------
    >>> failure(np.zeros((2, 2)), np.eye(2)), failure(np.eye(2), np.eye(2))
    ('predict none', None)
    """
    found, true = np.asarray(prediction) != 0, np.asarray(target) != 0
    if found.shape != true.shape or found.ndim != 2:
        raise ValueError(
            f"failure: prediction has shape {found.shape}, target {true.shape}, expected the same "
            "(H, W)."
        )
    if not true.any():
        return "false highlight" if found.any() else None
    if not found.any():
        return "predict none"
    pieces = np.bincount(components(found, 8)[found])[1:]
    dice = 2 * np.count_nonzero(found & true) / (np.count_nonzero(found) + np.count_nonzero(true))
    spots = len(pieces) >= 2 and pieces.max() < LARGEST * pieces.sum() and dice < POOR
    return "separated spots" if spots else None


def constant_entropy(shares: Sequence[float] | np.ndarray) -> float:
    """The cross-entropy of the best prediction that is the same everywhere: their own entropy.

    A network whose cross-entropy is not below it has learned nothing from the images.

    Parameters
    ----------
    shares : sequence of float
        How often each class is, in any unit.

    Returns
    -------
    float
        H(q) in nats.

    Examples
    --------
    >>> round(constant_entropy([1, 1]), 4)
    0.6931
    """
    counts = np.asarray(shares, np.float64)
    q = counts[counts > 0] / counts.sum()
    return -math.fsum(q * np.log(q)) + 0.0
