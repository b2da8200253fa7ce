"""What the numbers of a data set suggest: class weights, loss, crop, where to cut."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minidl.metrics import foreground_classes

from .survey import Picture

RARE, VERY_RARE = 0.1, 0.01
"""Shares of the pixels below which a class is called rare, and very rare."""

WANTED = 0.5
"""Share of the training crops that should hold some foreground."""

_STEP, _USUAL, _LARGEST = 32, 256, 512  # sides of crops, in pixels


@dataclass(frozen=True)
class Advice:
    """How to train on a set; every sentence says why.

    Attributes
    ----------
    frequencies : tuple of float
        For each class, its share of the pixels of those images that contain it; NaN if none does.
    class_weights : tuple of float
        By median frequency balancing; see `median_frequency_weights`.
    foreground : tuple of int
        Classes whose score counts.
    loss : {'cross_entropy', 'cross_entropy+dice', 'cross_entropy+dice, weighted'}
    loss_why : str
    crop : (int, int)
        Height and width.
    crop_why : str
    hit : float
        Estimated share of crops at random places that hold some foreground.
    oversample : float
        Share of the crops that should be cut around foreground on purpose; 0 for none.
    oversample_why : str
    """

    frequencies: tuple[float, ...]
    class_weights: tuple[float, ...]
    foreground: tuple[int, ...]
    loss: str
    loss_why: str
    crop: tuple[int, int]
    crop_why: str
    hit: float
    oversample: float
    oversample_why: str


def class_frequencies(counts: np.ndarray) -> np.ndarray:
    """How frequent each class is where it occurs.

    Parameters
    ----------
    counts : ndarray of shape (images, classes), integer
        Pixels of each class in each image.

    Returns
    -------
    ndarray of shape (classes,), float64
        Pixels of a class divided by all pixels of the images that contain it; NaN for a class
        that occurs nowhere.
    """
    counts = np.asarray(counts, dtype=np.float64)
    around = (counts.sum(axis=1, keepdims=True) * (counts > 0)).sum(axis=0)
    own = counts.sum(axis=0)
    return np.divide(own, around, out=np.full(own.shape, np.nan), where=around > 0)


def median_frequency_weights(frequencies: Sequence[float] | np.ndarray) -> np.ndarray:
    """Weights for a loss, so that rare classes count as much as frequent ones.

    Parameters
    ----------
    frequencies : sequence of float, one per class
        From `class_frequencies`. NaN marks a class that does not occur.

    Returns
    -------
    ndarray of shape (classes,), float64
        The median of the frequencies divided by each; 1 for a class that does not occur, which no
        pixel will ever ask for.

    Notes
    -----
    Median frequency balancing, as V. Badrinarayanan, A. Kendall, R. Cipolla 2017, "SegNet",
    section 4.1, takes it from D. Eigen, R. Fergus 2015. With two classes, the median is the mean
    of both.

    Examples
    --------
    >>> median_frequency_weights([0.6, 0.3, 0.1]).round(3).tolist()
    [0.5, 1.0, 3.0]
    """
    own = np.asarray(frequencies, dtype=np.float64)
    known = own > 0  # not NaN either
    weights = np.ones(own.shape)
    if known.any():
        weights[known] = np.median(own[known]) / own[known]
    return weights


def advise(pictures: Sequence[Picture], values: Sequence[int]) -> Advice:
    """Propose how to train.

    Parameters
    ----------
    pictures : sequence of Picture
        Those to train on, all of them `Picture.whole`; at least one.
    values : sequence of int
        The mask value of class 0, 1, ...

    Returns
    -------
    Advice
    """
    counts = np.array([[one.counts.get(value, 0) for value in values] for one in pictures])
    frequencies = class_frequencies(counts)
    weights = median_frequency_weights(frequencies)
    front = foreground_classes(counts.sum(axis=0))
    share = counts.sum(axis=0) / max(counts.sum(), 1)
    loss, loss_why = _loss(share, front)
    crop, crop_why = _crop(pictures, [values[index] for index in front])
    hit = float(np.mean([_hit(one, [values[i] for i in front], crop) for one in pictures]))
    oversample, oversample_why = _oversample(hit, crop)
    return Advice(
        tuple(frequencies.tolist()), tuple(weights.tolist()), tuple(front), loss, loss_why,
        crop, crop_why, hit, oversample, oversample_why,
    )  # fmt: skip


def _loss(share: np.ndarray, front: Sequence[int]) -> tuple[str, str]:
    least = float(share[list(front)].min())
    if least >= RARE:
        return "cross_entropy", (
            f"every foreground class covers {least:.0%} or more of the pixels, so cross-entropy "
            "alone sees them all; Dice added to it does no harm."
        )
    if len(front) <= 2:
        return "cross_entropy+dice", (
            f"the foreground covers {least:.1%} of the pixels: with cross-entropy alone a network "
            f"that paints nothing is already right in {1 - least:.1%} of them and may stay there; "
            "Dice scores the foreground itself. No class weights are needed with it: they would "
            "make the network paint too much."
        )
    return "cross_entropy+dice, weighted", (
        f"{sum(share[i] < RARE for i in front)} of {len(front)} foreground classes cover less "
        f"than {RARE:.0%} of the pixels (the rarest {least:.2%}): weight them, or add Dice, which "
        "counts every class alike."
    )


def _crop(pictures: Sequence[Picture], values: Sequence[int]) -> tuple[tuple[int, int], str]:
    sizes = [one.mask_shape for one in pictures if one.mask_shape is not None]
    height, width = (int(side) for side in np.median(np.array(sizes), axis=0))
    if max(height, width) <= 320 and len(set(sizes)) == 1:
        whole = (-(-height // 16) * 16, -(-width // 16) * 16)
        return whole, f"the images are small ({height} x {width}): take them whole."
    extents = [extent for one in pictures if (extent := _extent(one, values))]
    object_size = float(np.quantile(extents, 0.9)) if extents else 0.0
    side = min(max(_STEP * math.ceil(2 * object_size / _STEP), _USUAL), _LARGEST)
    fit = [max(min(side, have) // _STEP * _STEP, min(have, _STEP)) for have in (height, width)]
    why = (
        f"nine tenths of the structures are no wider than {object_size:.0f} pixels; a crop should "
        "show one and as much again around it"
        if extents
        else "there is no foreground to measure"
    )
    return (fit[0], fit[1]), why + (", as far as the images reach." if min(fit) < side else ".")


def _extent(picture: Picture, values: Sequence[int]) -> float:
    """About how wide the structures are: their box, unless many of them or lines fill it."""
    sides = [
        # The mean chord of a disc is pi / 4 of its diameter.
        min(float(max(bottom - top, right - left)), 4 / math.pi * picture.counts[v] / runs)
        for v in values
        if v in picture.boxes
        for (top, bottom, left, right), runs in [(picture.boxes[v], picture.runs[v])]
    ]
    return max(sides, default=0.0)


def _hit(picture: Picture, values: Sequence[int], crop: tuple[int, int]) -> float:
    """Share of the places of a crop where it meets the box of a foreground class.

    A little too much where the foreground does not fill its box.
    """
    if picture.mask_shape is None:
        return 0.0
    best = 0.0
    for value in values:
        if value in picture.boxes:
            top, bottom, left, right = picture.boxes[value]
            rows = _meeting(picture.mask_shape[0], crop[0], top, bottom)
            best = max(best, rows * _meeting(picture.mask_shape[1], crop[1], left, right))
    return best


def _meeting(side: int, crop: int, first: int, end: int) -> float:
    """Share of the offsets 0 .. side - crop whose window meets first .. end."""
    last = max(side - crop, 0)
    lowest, highest = max(first - crop + 1, 0), min(end - 1, last)
    return max(highest - lowest + 1, 0) / (last + 1)


def _oversample(hit: float, crop: tuple[int, int]) -> tuple[float, str]:
    size = f"{crop[0]} x {crop[1]}"
    if hit >= WANTED:
        return 0.0, f"not needed: about {hit:.0%} of random crops of {size} hold some foreground."
    # Of the crops drawn at random, `hit` hold some as well.
    share = math.ceil(20 * (WANTED - hit) / (1 - hit)) / 20
    return share, (
        f"only about {hit:.0%} of random crops of {size} hold any foreground: cut {share:.0%} of "
        "them around foreground on purpose, so that half of what the network sees has some. Keep "
        "the empty images: without them it paints something everywhere."
    )
