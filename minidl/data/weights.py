"""U-Net's weight map: what each pixel counts in the loss, so that gaps between objects are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from minidl import kernels

from .masks import IGNORE_INDEX
from .objects import check_mask, label_objects


def distance_to(mask: np.ndarray) -> np.ndarray:
    """Exact Euclidean distance from each pixel to the nearest pixel of a mask, in linear time.

    Parameters
    ----------
    mask : ndarray of shape (H, W), bool or integer
        Whatever is not 0 belongs to it.

    Returns
    -------
    ndarray of shape (H, W), float32
        In pixels, between their centres: 0 in the mask; inf everywhere if the mask is empty.

    Raises
    ------
    ValueError
        If `mask` is not two-dimensional, or has no pixels.
    TypeError
        If it holds neither booleans nor integers.

    References
    ----------
    P. Felzenszwalb, D. Huttenlocher 2012, "Distance Transforms of Sampled Functions".
    """
    check_mask("distance_to", "mask", mask)
    return kernels.distance.distances(mask != 0, two=False)[0]


def two_distances(instances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Exact distances from each pixel to the nearest object, and to the nearest of the others.

    Parameters
    ----------
    instances : ndarray of shape (H, W), integer
        0 where there is nothing, else the number of the object that the pixel belongs to; objects
        may be in several pieces.

    Returns
    -------
    nearest, second : ndarray of shape (H, W), float32
        In pixels, between their centres: 0 in the object itself, inf where there are too few
        objects.

    Raises
    ------
    ValueError, TypeError
        As `distance_to`.
    """
    check_mask("two_distances", "instances", instances)
    return kernels.distance.distances(instances, two=True)


def separation(
    nearest: np.ndarray, second: np.ndarray, w0: float = 10.0, sigma: float = 5.0
) -> np.ndarray:
    """The second term of U-Net's weight map, ``w0 * exp(-(d1 + d2)**2 / (2 * sigma**2))``.

    Parameters
    ----------
    nearest, second : ndarray
        Distances d1 and d2 in pixels, from `two_distances`; inf gives 0.
    w0 : float
        Value where both are 0; 0 or more.
    sigma : float
        In pixels, more than 0.

    Returns
    -------
    ndarray, float32

    Raises
    ------
    ValueError
        If `w0` or `sigma` is out of range.

    References
    ----------
    O. Ronneberger, P. Fischer, T. Brox 2015, "U-Net: Convolutional Networks for Biomedical Image
    Segmentation", equation 2.
    """
    if not (0 <= w0 < np.inf and 0 < sigma < np.inf):
        raise ValueError(
            f"separation: w0={w0}, sigma={sigma}, expected w0 of 0 or more, sigma of more than 0"
        )
    total = np.add(nearest, second, dtype=np.float32)
    return np.float32(w0) * np.exp(np.square(total) / np.float32(-2 * sigma**2))


def weight_map(
    mask: np.ndarray,
    instances: bool = False,
    w0: float = 10.0,
    sigma: float = 5.0,
    class_weights: Sequence[float] | None = None,
    everywhere: bool = False,
) -> np.ndarray:
    """U-Net's weight map: balance of the classes, and more on the gaps between objects.

    ``w(x) = w_c(x) + w0 * exp(-(d1(x) + d2(x))**2 / (2 * sigma**2))`` where d1 and d2 are the
    distances to the nearest object and to the nearest of the others.

    Parameters
    ----------
    mask : ndarray of shape (H, W), bool or integer
        Class indices, 0 for background and -100 for pixels that do not count, which get 0; or
        numbers of objects. Objects that touch should be parted first: see `separate`.
    instances : bool
        Whether `mask` has the numbers of objects. Otherwise each connected part of a class other
        than 0 is an object of its own; pixels that touch at a corner only are not connected.
    w0 : float
        Weight of the narrowest gap, 0 or more.
    sigma : float
        How far apart objects still matter to each other, in pixels; more than 0.
    class_weights : sequence of float, optional
        Weight of class 0, 1, ... (with `instances`, of background and objects). If not given,
        those that give each class that occurs in this mask the same share of a mean of 1. For a
        whole set, count its pixels once and pass the weights.
    everywhere : bool
        Whether the second term is also added within objects, where d1 is 0, as the paper's formula
        reads. Otherwise it is for the background, which is where gaps are.

    Returns
    -------
    ndarray of shape (H, W), float32

    Raises
    ------
    ValueError
        If an argument is out of range, or the mask has a class without a weight.
    TypeError
        If the mask holds neither booleans nor integers.

    Examples
    --------
    >>> mask = np.zeros((3, 7), int)
    >>> mask[:, :2] = mask[:, 5:] = 1
    >>> print(weight_map(mask, class_weights=(1, 1))[0].round(2))  # a gap of three pixels
    [1.   1.   8.26 8.26 8.26 1.   1.  ]
    """
    check_mask("weight_map", "mask", mask)
    counted = mask != IGNORE_INDEX
    objects = np.where(counted, mask, 0)
    classes = (objects != 0).astype(np.int64) if instances else objects.astype(np.int64)
    if classes.min() < 0:
        raise ValueError(f"weight_map: class {classes.min()}, expected 0 or more, or -100")
    if not instances:
        objects = label_objects(objects)
    weights = _balanced(classes[counted]) if class_weights is None else np.array(class_weights)
    if weights.ndim != 1 or not (np.isfinite(weights) & (weights >= 0)).all():
        raise ValueError(f"weight_map: class_weights={class_weights}, expected numbers from 0 on")
    if classes.max() >= len(weights):
        raise ValueError(
            f"weight_map: class {classes.max()} in the mask, but {len(weights)} class_weights"
        )
    gaps = separation(*two_distances(objects), w0, sigma)
    gaps[~counted if everywhere else ~counted | (objects != 0)] = 0
    return np.where(counted, weights.astype(np.float32)[classes], np.float32(0)) + gaps


def _balanced(classes: np.ndarray) -> np.ndarray:
    return _balance(np.bincount(classes, minlength=1))


def _balance(pixels: np.ndarray) -> np.ndarray:
    """Weights by which each class that occurs has the same share, with a mean of 1."""
    present = max(np.count_nonzero(pixels), 1)
    return pixels.sum() / (present * np.maximum(pixels, 1)) * (pixels > 0)


@dataclass(frozen=True)
class WeightMap:
    """Which weight map `batches` shall give; see `weight_map`.

    Attributes
    ----------
    w0, sigma, everywhere
        As for `weight_map`.
    class_weights : tuple of float, optional
        Weight of class 0, 1, ... If not given, those that give each class the same share in the
        whole training set, with a mean of 1. All 1 for the gaps alone, where the loss itself has
        weights for classes.
    """

    w0: float = 10.0
    sigma: float = 5.0
    class_weights: tuple[float, ...] | None = None
    everywhere: bool = False

    def __post_init__(self) -> None:
        separation(np.zeros(1), np.zeros(1), self.w0, self.sigma)

    def for_set(self, class_counts: np.ndarray) -> WeightMap:
        """The same with the class weights of a set that has so many pixels of each class."""
        if self.class_weights is not None:
            if len(self.class_weights) != len(class_counts):
                raise ValueError(
                    f"WeightMap: {len(self.class_weights)} class_weights, expected "
                    f"{len(class_counts)}, one for each class"
                )
            return self
        return replace(self, class_weights=tuple(_balance(class_counts).tolist()))

    def __call__(self, mask: np.ndarray, instances: bool) -> np.ndarray:
        """The map of one mask, or of the numbers of its objects."""
        return weight_map(mask, instances, self.w0, self.sigma, self.class_weights, self.everywhere)
