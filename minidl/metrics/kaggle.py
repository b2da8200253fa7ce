"""The nerve competition's score of a mask, and how it writes masks down.

Kaggle, Ultrasound Nerve Segmentation, 2016. Pixels are numbered from 1, down the first column, then
down the next; a mask is "start length start length ...", and an empty one is an empty text.
"""

from __future__ import annotations

import numpy as np


def rle_encode(mask: np.ndarray) -> str:
    """A mask as runs of pixels.

    Parameters
    ----------
    mask : ndarray of shape (H, W)
        All that is not 0 is foreground.

    Returns
    -------
    str

    Examples
    --------
    >>> rle_encode(np.array([[0, 1, 0, 0], [0, 1, 0, 0], [1, 0, 0, 1]]))
    '3 3 12 1'
    """
    mask = np.asarray(mask)
    if mask.ndim != 2:
        raise ValueError(f"rle_encode: mask must have shape (H, W), but has {mask.shape}.")
    flat = np.concatenate([[False], (mask != 0).T.ravel(), [False]])
    turns = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.stack([turns[::2], turns[1::2] - turns[::2]], axis=1)
    return " ".join(map(str, runs.ravel().tolist()))


def rle_decode(text: str, shape: tuple[int, int]) -> np.ndarray:
    """The mask that `rle_encode` wrote.

    Parameters
    ----------
    text : str
    shape : (H, W)
        (420, 580) in the competition.

    Returns
    -------
    ndarray of shape (H, W), bool

    Raises
    ------
    ValueError
        If the text is not pairs of numbers, or a run leaves the image or overlaps the one before.
    """
    try:
        numbers = [int(word) for word in text.split()]
    except ValueError:
        raise ValueError(f"rle_decode: {text!r} is not a list of whole numbers.") from None
    if len(numbers) % 2:
        raise ValueError(
            f"rle_decode: expected pairs of start and length, got {len(numbers)} numbers."
        )
    height, width = shape
    flat, end = np.zeros(height * width, bool), 0
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        if start <= end or length < 1 or start + length - 1 > flat.size:
            raise ValueError(
                f"rle_decode: run {start} {length} does not fit: it must begin after {end} and end "
                f"by {flat.size}, the last pixel of an image of shape {(height, width)}."
            )
        end = start + length - 1
        flat[start - 1 : end] = True
    return np.ascontiguousarray(flat.reshape(width, height).T)


def kaggle_dice(prediction: np.ndarray, target: np.ndarray) -> float:
    """Dice coefficient of two masks, 1 if both are empty. The score is its mean over images.

    Parameters
    ----------
    prediction, target : ndarray of one shape
        All that is not 0 is foreground.

    Returns
    -------
    float
        0 as soon as one of the masks is empty and the other is not.
    """
    prediction, target = np.asarray(prediction) != 0, np.asarray(target) != 0
    if prediction.shape != target.shape:
        raise ValueError(
            f"kaggle_dice: prediction has shape {prediction.shape}, target {target.shape}, "
            "expected the same."
        )
    both = int(prediction.sum()) + int(target.sum())
    return 2 * int((prediction & target).sum()) / both if both else 1.0
