"""The loss that a training minimises: a sum of terms.

``ce``                cross-entropy, for every pixel
``dice``              1 - Dice, for the small structures among many pixels
``focal``             cross-entropy in which what is already right counts little
``tversky``           as Dice, with what was missed dearer than what was invented
``generalised-dice``  Dice of all classes together, rare ones counting more
``lovasz``            the continuation of 1 - IoU
``boundary``          distance of what is wrong to the boundary; added to another one

``dice``, ``tversky``, ``lovasz`` and ``boundary`` are of the foreground classes. All that are made
of regions sum over the whole batch before they divide, so that images without a class are no
special case. Weights of classes are factors in every term; weights of pixels in those that are
sums over pixels, ``ce`` and ``focal``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl import functional as F
from minidl.data.weights import distance_to
from minidl.tensor import Tensor

LOSSES = ("ce", "dice", "focal", "tversky", "generalised-dice", "lovasz", "boundary")
_INVENTED, _MISSED = 0.3, 0.7  # prices of the Tversky loss (Salehi et al. 2017, section 3)
_FIRST_SHARE = 0.01  # of the boundary loss


def loss_terms(loss: str) -> tuple[str, ...]:
    """The terms of a loss such as ``'ce+dice'``.

    Raises
    ------
    ValueError
        If there is a term that is not in `LOSSES`, or one twice.
    """
    terms = tuple(term.strip() for term in loss.split("+"))
    unknown = [term for term in terms if term not in LOSSES]
    if unknown or len(set(terms)) < len(terms):
        raise ValueError(
            f"loss {loss!r}: expected one of {', '.join(LOSSES)}, or different ones with a + "
            "between them"
        )
    return terms


def segmentation_loss(
    scores: Any,
    target: np.ndarray,
    foreground: Sequence[int],
    loss: str = "ce+dice",
    class_weights: Sequence[float] | None = None,
    pixel_weight: np.ndarray | None = None,
    distance: np.ndarray | None = None,
    done: float = 0.0,
) -> Tensor:
    """A sum of losses; by itself cross-entropy plus the Dice loss of the foreground.

    Parameters
    ----------
    scores : Tensor (N, ..., classes)
    target : ndarray of shape (N, ...), integer
        Class indices, -100 where a pixel does not count.
    foreground : sequence of int
        Classes that the losses of regions are about.
    loss : str
        One or several of `LOSSES`, with ``+`` between them.
    class_weights : sequence of float, optional
    pixel_weight : ndarray of shape (N, ...), optional
        Factor for the loss of each pixel in ``ce`` and ``focal``.
    distance : ndarray of shape (N, ..., classes), optional
        From `boundary_distances`; only needed for ``boundary``.
    done : float
        Share of the training that is over. The boundary loss, which alone may be least for an
        empty answer, counts for a hundredth at first and fully at the end.

    Returns
    -------
    Tensor, one number.
    """
    front = list(foreground)
    weights = None if class_weights is None else np.asarray(class_weights, np.float64)
    in_front = np.zeros(np.shape(scores)[-1])
    in_front[front] = 1.0 if weights is None else weights[front]

    def of_foreground(losses: Tensor) -> Tensor:
        if weights is None:
            return losses[front].mean()
        share = (in_front / (in_front.sum() or 1)).astype(losses.dtype)
        return (losses * share).sum()

    def term(name: str) -> Tensor:
        if name == "ce":
            return F.cross_entropy(scores, target, weights, pixel_weight=pixel_weight)
        if name == "focal":
            return F.focal_loss(scores, target, alpha=weights, pixel_weight=pixel_weight)
        if name == "dice":
            return of_foreground(F.dice_loss(scores, target, batch=True, reduction="none"))
        if name == "tversky":
            prices = _INVENTED, _MISSED
            losses = F.tversky_loss(scores, target, *prices, batch=True, reduction="none")
            return of_foreground(losses)
        if name == "generalised-dice":
            return F.generalised_dice_loss(scores, target, batch=True, weight=weights)
        if name == "lovasz":
            return F.lovasz_softmax(scores, target, weight=in_front)
        share = _FIRST_SHARE + (1 - _FIRST_SHARE) * done
        return F.boundary_loss(scores, distance, target, in_front) * share

    total, *others = map(term, loss_terms(loss))
    for other in others:
        total = total + other
    return total


def boundary_distances(target: np.ndarray, classes: int) -> np.ndarray:
    """Signed distance of each pixel to the boundary of each class, for the boundary loss.

    Parameters
    ----------
    target : ndarray of shape (N, H, W), integer
    classes : int

    Returns
    -------
    ndarray of shape (N, H, W, classes), float32, in pixels
        Positive outside, and negative inside, where pixels at the boundary have 0; 0 everywhere
        for a class that an image does not have, or has everywhere.

    References
    ----------
    Kervadec et al., Boundary loss for highly unbalanced segmentation, 2019, section 2.
    """
    out = np.zeros((*target.shape, classes), np.float32)
    for image, labels in enumerate(target):
        for label in range(classes):
            inside = labels == label
            if inside.any() and not inside.all():
                depth = np.where(inside, distance_to(~inside) - 1, 0)
                out[image, ..., label] = np.where(inside, -depth, distance_to(inside))
    return out
