"""Objects in a mask: which pixels belong to the same one, and where two of them touch."""

from __future__ import annotations

import numpy as np

from minidl import kernels


def label_objects(mask: np.ndarray, corners: bool = False) -> np.ndarray:
    """Number the connected objects of a mask.

    Parameters
    ----------
    mask : ndarray of shape (H, W), bool or integer
        0 is no object. Neighbours of different values belong to different objects.
    corners : bool
        Whether pixels that touch at a corner only belong together.

    Returns
    -------
    ndarray of shape (H, W), int32
        0, and 1, 2, ... in the order in which reading meets the objects.

    Raises
    ------
    ValueError
        If `mask` is not two-dimensional, or has no pixels.
    TypeError
        If it holds neither booleans nor integers.
    """
    check_mask("label_objects", "mask", mask)
    return kernels.distance.components(mask, corners)[0]


def separate(instances: np.ndarray) -> np.ndarray:
    """Part touching objects by a ridge of background, as U-Net's targets were made.

    Parameters
    ----------
    instances : ndarray of shape (H, W), integer
        0 where there is nothing, else the number of the object that the pixel belongs to; objects
        may be in several pieces.

    Returns
    -------
    ndarray of shape (H, W), the same type
        A copy, with 0 in each pixel that had another object above, below, left or right of it: two
        pixels wide, one from either object. Objects no more than two pixels thick may vanish.

    Raises
    ------
    ValueError, TypeError
        As `label_objects`.
    """
    check_mask("separate", "instances", instances)
    ridge = np.zeros(instances.shape, bool)
    for axis in (0, 1):
        a, b = (slice(None),) * axis + (slice(-1),), (slice(None),) * axis + (slice(1, None),)
        touching = (instances[a] != instances[b]) & (instances[a] != 0) & (instances[b] != 0)
        ridge[a] |= touching
        ridge[b] |= touching
    return np.where(ridge, instances.dtype.type(0), instances)


def check_mask(function: str, name: str, mask: np.ndarray) -> None:
    """Refuse what is no mask, in the name of a function and its argument."""
    if mask.ndim != 2 or 0 in mask.shape:
        raise ValueError(f"{function}: {name} of shape {mask.shape}, expected (H, W)")
    if mask.dtype.kind not in "biu":
        raise TypeError(f"{function}: {name} of {mask.dtype}, expected booleans or integers")
