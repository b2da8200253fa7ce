"""Which pictures of a set are the same, or nearly: copies, neighbouring frames, mirror images.

Every picture is shrunk to a thumbnail; what all thumbnails have in common (the round field of an
eye camera, the fan of an ultrasound probe) is taken off, and what remains is correlated. One
picture costs 4 KB, so thousands can be compared without reading a file twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

SIDE = 32
ALIKE = 0.95
"""Correlation from which two pictures are called nearly the same.

Different pictures of one kind stay below it even where they look much alike (retina photographs
of different eyes reach 0.92), neighbouring frames of a film or a heart beat are above it.
"""

_BLOCK = 256
_NOT_EQUAL = 1 - 1e-6  # 1 is for what is equal in every pixel
_SHRINKAGE = 4  # pictures; of two or three, the mean would take their difference away


def thumbnail(image: np.ndarray) -> np.ndarray:
    """Shrink an image to a grey square by averaging over areas.

    Parameters
    ----------
    image : ndarray of shape (H, W, C)
        Any numeric type; never converted as a whole.

    Returns
    -------
    ndarray of shape (32, 32), float32
        In the image's own units. A side of fewer than 32 pixels repeats some.
    """
    total = image
    for axis in (0, 1):
        edges = np.arange(SIDE) * image.shape[axis] // SIDE
        spans = np.maximum(np.diff([*edges, image.shape[axis]]), 1)
        total = np.add.reduceat(total, edges, axis=axis, dtype=np.float64)
        total /= spans.reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
    return total.mean(axis=-1).astype(np.float32)


def fingerprint(image: np.ndarray) -> bytes:
    """16 bytes that two images share if, and practically only if, all their pixels are equal."""
    head = f"{image.shape} {image.dtype.name}".encode()
    return hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16, key=head[:64]).digest()


@dataclass(frozen=True)
class Lookalikes:
    """For each of n pictures, the one that is most like it.

    Attributes
    ----------
    partner : ndarray of shape (n,), int
        Number of the most similar other picture; -1 if there is none.
    score : ndarray of shape (n,), float
        Correlation with it, -1..1; exactly 1 if every pixel is equal.
    across, across_score : ndarray of shape (n,)
        The same, among the pictures of the other part (training or validation) only.
    group : ndarray of shape (n,), int
        Pictures that are nearly the same, directly or over others, have the same number: that of
        the first of them.
    """

    partner: np.ndarray
    score: np.ndarray
    across: np.ndarray
    across_score: np.ndarray
    group: np.ndarray


def find_lookalikes(
    thumbnails: np.ndarray,
    fingerprints: Sequence[bytes],
    parts: Sequence[int],
    threshold: float = ALIKE,
    progress: Callable[[int, int], Any] | None = None,
) -> Lookalikes:
    """Compare every picture with every other, also mirrored and upside down.

    Parameters
    ----------
    thumbnails : ndarray of shape (n, 32, 32)
        From `thumbnail`. Constant ones resemble nothing.
    fingerprints : sequence of bytes
        From `fingerprint`; those of equal pictures are equal.
    parts : sequence of int
        0 for pictures to train on, 1 for those to validate on, anything else for neither.
    threshold : float
        Correlation from which two pictures belong to one group.
    progress : callable, optional
        Called with (pictures done, pictures in all).

    Returns
    -------
    Lookalikes
    """
    count = len(thumbnails)
    views = _views(np.asarray(thumbnails, dtype=np.float32))
    own = np.ascontiguousarray(views[0].T)
    _, keys = np.unique(np.array(fingerprints, dtype="S16"), return_inverse=True)
    part = np.asarray(parts)
    found = Lookalikes(
        np.full(count, -1), np.full(count, -1.0), np.full(count, -1), np.full(count, -1.0),
        np.arange(count),
    )  # fmt: skip
    blank = np.abs(own).max(axis=1) == 0
    for start in range(0, count, _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, count))
        score = np.max([own[rows] @ view for view in views], axis=0).clip(-1, _NOT_EQUAL)
        score[np.equal(keys[rows, None], keys) & ~(blank[rows, None] | blank)] = 1
        score[np.arange(len(rows)), rows] = -1
        _keep_best(found.partner, found.score, rows, score)
        other = np.equal(part[rows, None], 1 - part) & np.isin(part, (0, 1))
        _keep_best(found.across, found.across_score, rows, np.where(other, score, -1))
        _join(found.group, rows, score >= threshold)
        if progress is not None:
            progress(int(rows[-1]) + 1, count)
    return found


def _views(thumbnails: np.ndarray) -> list[np.ndarray]:
    """Each thumbnail as a column of length 1, upright, mirrored, upside down and turned.

    Most of what all upright ones have in common is taken off: after the turn, so that a turned
    copy becomes the same column as what it was made from.
    """
    upright = _unit(thumbnails)
    common = upright.sum(axis=0) / (len(upright) + _SHRINKAGE)
    constant = ~upright.any(axis=(1, 2))
    views = []
    for turned in (upright, upright[:, :, ::-1], upright[:, ::-1], upright[:, ::-1, ::-1]):
        without = _unit(turned - common)
        without[constant] = 0
        views.append(np.ascontiguousarray(without.reshape(len(without), -1).T))
    return views


def _unit(thumbnails: np.ndarray) -> np.ndarray:
    free = thumbnails - thumbnails.mean(axis=(1, 2), keepdims=True)
    length = np.sqrt(np.square(free).sum(axis=(1, 2), keepdims=True))
    size = np.abs(thumbnails).max(axis=(1, 2), keepdims=True, initial=0)
    return np.where(length > 1e-4 * size, free / np.maximum(length, 1e-30), 0)


def _keep_best(partner: np.ndarray, best: np.ndarray, rows: np.ndarray, score: np.ndarray) -> None:
    place = score.argmax(axis=1)
    value = score[np.arange(len(rows)), place]
    best[rows] = value
    partner[rows] = np.where(value > -1, place, -1)


def _join(group: np.ndarray, rows: np.ndarray, near: np.ndarray) -> None:
    for row, others in zip(rows, near, strict=True):
        if others.any():
            names = np.unique(np.append(group[others], group[row]))
            if len(names) > 1:
                group[np.isin(group, names)] = names[0]
