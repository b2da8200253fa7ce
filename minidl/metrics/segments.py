"""Which pixels were put into one piece: the scores of the ISBI 2012 challenge on membranes.

The target is looked at where it has segments only ("foreground-restricted"): how wide a membrane is
drawn does not matter.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from minidl import kernels


class SegmentScore(NamedTuple):
    """Score in [0, 1], 1 for a perfect segmentation.

    `split` falls where what is one segment was taken apart, `merge` where segments were joined, and
    `score` is the harmonic mean of the two. NaN if the target has no segment.
    """

    score: float
    split: float
    merge: float


def components(mask: np.ndarray, connectivity: int = 4) -> np.ndarray:
    """Number the connected pieces of a mask, or of equal labels.

    Parameters
    ----------
    mask : ndarray of shape (H, W), bool or integer
        0 belongs to no piece. Different labels are never in one piece.
    connectivity : 4 or 8
        Whether pixels that touch at a corner are connected. With 8, pieces leak through a membrane
        that is one pixel wide and runs diagonally.

    Returns
    -------
    ndarray of shape (H, W), int64
        0, and pieces from 1 on in the order in which their first pixels come.

    Raises
    ------
    ValueError
        If the mask is not (H, W), or for another connectivity.
    TypeError
        If it is neither bool nor integer.
    """
    mask = _picture("components", "mask", mask)
    if connectivity not in (4, 8):
        raise ValueError(f"components: connectivity must be 4 or 8, but is {connectivity!r}.")
    return kernels.components.components(mask, connectivity == 8)[0]


def grow(labels: np.ndarray) -> np.ndarray:
    """Let segments grow into what is between them until they touch.

    Parameters
    ----------
    labels : ndarray of shape (H, W), integer
        0 between segments.

    Returns
    -------
    ndarray of shape (H, W), int64
        Each 0 has become the segment the fewest steps away (up, down, left or right). Without any
        segment all stays 0.
    """
    return kernels.components.grow(_picture("grow", "labels", labels))


def rand_score(prediction: np.ndarray, target: np.ndarray) -> SegmentScore:
    """Foreground-restricted Rand score of two segmentations, V^Rand.

    Parameters
    ----------
    prediction, target : ndarray of one shape, integer
        Number of the segment of each pixel, 0 for none (a membrane): see `components`.

    Returns
    -------
    SegmentScore

    Raises
    ------
    ValueError
        If the shapes differ.
    TypeError
        If they are not integer.

    Notes
    -----
    With p_ij the share of the pixels of a target's segment that are in segment i of the prediction
    and j of the target, s_i and t_j its sums: split = sum p_ij^2 / sum t_j^2, merge = sum p_ij^2 /
    sum s_i^2. A pixel that the prediction has in no segment, though the target has it in one, is
    taken for a segment of its own. The challenge thins the membranes of a prediction before it
    looks: `grow` thins them to nothing, which differs from its one pixel only in such pixels.

    References
    ----------
    Arganda-Carreras et al., Crowdsourcing the creation of image segmentation algorithms for
    connectomics, 2015, section 2.4.
    """
    both, found, wanted = _shares("rand_score", prediction, target)
    pairs = (both**2).sum()
    return _score(pairs, (wanted**2).sum(), (found**2).sum())


def information_score(prediction: np.ndarray, target: np.ndarray) -> SegmentScore:
    """Foreground-restricted information theoretic score of two segmentations, V^Info.

    Parameters
    ----------
    prediction, target : ndarray of one shape, integer
        As for `rand_score`, which has the notes and the source.

    Returns
    -------
    SegmentScore
        split = I(S; T) / H(S), merge = I(S; T) / H(T), with the mutual information and the
        entropies of the segments of prediction and target. Where an entropy is 0, because there is
        a single segment, nothing can be told from the other, and the share is 1.
    """
    both, found, wanted = _shares("information_score", prediction, target)
    of_found, of_wanted = _entropy(found), _entropy(wanted)
    mutual = max(of_found + of_wanted - _entropy(both), 0.0)
    return _score(mutual, of_found, of_wanted, empty=1.0, known=both.size > 0)


def pixel_error(prediction: np.ndarray, target: np.ndarray) -> float:
    """Mean squared difference of two pictures: of binary ones, the share of wrong pixels.

    Parameters
    ----------
    prediction, target : ndarray of one shape
        Masks, or numbers in [0, 1] such as probabilities.

    Returns
    -------
    float, NaN without pixels.
    """
    prediction, target = np.asarray(prediction, np.float64), np.asarray(target, np.float64)
    _same_shape("pixel_error", prediction, target)
    return float(((prediction - target) ** 2).mean()) if target.size else float("nan")


def _shares(function: str, prediction: np.ndarray, target: np.ndarray) -> tuple:
    """Shares of pixels in each pair of segments, in each found and in each wanted one."""
    prediction, target = np.asarray(prediction), np.asarray(target)
    _same_shape(function, prediction, target)
    for name, labels in (("prediction", prediction), ("target", target)):
        _integers(function, name, labels)
    inside = target != 0
    found, wanted = prediction[inside].astype(np.int64), target[inside].astype(np.int64)
    lost = found == 0
    found[lost] = found.max(initial=0) + 1 + np.arange(lost.sum())
    of_found, of_wanted = (np.unique(x, return_inverse=True)[1] for x in (found, wanted))
    pairs = of_found * (of_wanted.max(initial=0) + 1) + of_wanted
    counts = [
        np.bincount(of_found),
        np.unique(pairs, return_counts=True)[1],
        np.bincount(of_wanted),
    ]
    shares = [count / max(found.size, 1) for count in counts]
    return shares[1], shares[0], shares[2]


def _score(
    part: float, whole_split: float, whole_merge: float, empty: float = np.nan, known: bool = True
) -> SegmentScore:
    if not known:
        return SegmentScore(np.nan, np.nan, np.nan)
    split = float(part / whole_split) if whole_split else empty
    merge = float(part / whole_merge) if whole_merge else empty
    both = split + merge
    return SegmentScore(2 * split * merge / both if both else 0.0, split, merge)


def _entropy(shares: np.ndarray) -> float:
    return float(-(shares * np.log(shares)).sum())


def _picture(function: str, name: str, labels: np.ndarray) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.ndim != 2:
        raise ValueError(f"{function}: {name} must have shape (H, W), but has {labels.shape}.")
    return _integers(function, name, labels)


def _integers(function: str, name: str, labels: np.ndarray) -> np.ndarray:
    if labels.dtype.kind not in "iub":
        raise TypeError(
            f"{function}: {name} must be bool or integer, but has dtype {labels.dtype}."
        )
    return labels


def _same_shape(function: str, prediction: np.ndarray, target: np.ndarray) -> None:
    if prediction.shape != target.shape:
        raise ValueError(
            f"{function}: prediction has shape {prediction.shape}, target {target.shape}, "
            "expected the same."
        )
