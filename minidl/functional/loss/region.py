"""Losses of regions: how much what was found overlaps with what was wanted, class by class.

They are fractions of sums over the pixels of an image, or of a batch, so that a small structure
counts as much as a large one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from minidl import kernels
from minidl.function import Function
from minidl.functional import check
from minidl.functional.loss.arguments import (
    REDUCTIONS,
    class_weights,
    constant,
    labels_of,
    logits_of,
    pixel_weights,
    survey,
)
from minidl.tensor import Tensor, apply

ABSENT = ("count", "skip")


@dataclass(frozen=True)
class _Region:
    """What is wanted where: labels (N, M) and weights of that shape, or (0, 0) for ones."""

    labels: np.ndarray
    pixel_weight: np.ndarray
    ignore_index: int


class _SumLoss(Function):
    """A loss of sums of softmax probabilities, for each image or one for the batch."""

    def __init__(self, region: _Region, first_class: int, batch: bool) -> None:
        self.region, self.first_class, self.batch = region, first_class, batch

    def compare(self, hit: np.ndarray, predicted: np.ndarray, wanted: np.ndarray) -> tuple:
        """Losses, and their derivatives by the first two sums, of (N, C) sums of C classes.

        Their probability where it is wanted, everywhere, and the number of pixels wanted.
        """
        raise NotImplementedError

    def forward(self, logits):
        self.shape, at = logits.shape, self.region
        flat = logits.reshape(*at.labels.shape, self.shape[-1])
        probabilities, sums = kernels.loss.overlaps(
            flat, at.labels, at.pixel_weight, at.ignore_index
        )
        if self.batch:
            sums = sums.sum(axis=0, keepdims=True)
        hit, predicted, wanted = sums[..., self.first_class :].transpose(1, 0, 2)
        self.present = wanted > 0
        losses, *self.slopes = self.compare(hit, predicted, wanted)
        self.probabilities = probabilities if self.records else None
        return losses.astype(logits.dtype)

    def backward(self, gy):
        at, gy = self.region, gy.reshape(len(gy), -1)
        slopes = np.zeros((2, len(at.labels), self.shape[-1]))
        slopes[..., self.first_class :] = [gy * slope for slope in self.slopes]
        gx = kernels.loss.overlaps_grad(
            self.probabilities, at.labels, at.pixel_weight, at.ignore_index, *slopes
        )
        return (gx.reshape(self.shape),)


class TverskyLoss(_SumLoss):
    """1 minus the Tversky index, (N, C)."""

    def __init__(self, alpha: float, beta: float, smooth: float, *where: Any) -> None:
        super().__init__(*where)
        self.alpha, self.beta, self.smooth = alpha, beta, smooth

    def compare(self, hit, predicted, wanted):
        over = hit + self.smooth
        under = over + self.alpha * (predicted - hit) + self.beta * (wanted - hit)
        # Nothing wanted, nothing predicted, nothing smoothed: there is no mistake.
        nothing = under == 0
        index = np.where(nothing, 1, over) / np.where(nothing, 1, under)
        factor = ~nothing / np.where(nothing, 1, under)
        by_hit = -factor * (1 - index * (1 - self.alpha - self.beta))
        return 1 - index, by_hit, factor * index * self.alpha


class GeneralisedDiceLoss(_SumLoss):
    """1 minus the Dice coefficient of all classes together, (N,)."""

    def __init__(self, weight: np.ndarray, power: float, absent: str, *where: Any) -> None:
        super().__init__(*where)
        self.weight, self.power, self.absent = weight, power, absent

    def compare(self, hit, predicted, wanted):
        share = np.where(self.present, wanted, 1) ** -self.power * self.present
        if self.absent == "count":
            share = np.where(self.present, share, share.max(axis=1, keepdims=True, initial=0))
        share = share * self.weight
        under = (share * (predicted + wanted)).sum(axis=1, keepdims=True)
        under[under == 0] = np.inf  # nothing counts: no loss, no slope
        index = 2 * (share * hit).sum(axis=1, keepdims=True) / under
        losses = np.where(np.isinf(under), 0, 1 - index)[:, 0]
        return losses, -2 * share / under, share * index / under


class LovaszLoss(Function):
    """Lovasz extension of the Jaccard loss, (G, C) for G groups of pixels."""

    def __init__(self, region: _Region, first_class: int) -> None:
        self.region, self.first_class = region, first_class

    def forward(self, logits):
        self.shape, at = logits.shape, self.region
        flat = logits.reshape(*at.labels.shape, self.shape[-1])
        *saved, losses, sizes = kernels.lovasz.extensions(
            flat, at.labels, at.pixel_weight, at.ignore_index, self.records
        )
        self.saved = saved if self.records else None
        self.present = sizes[:, self.first_class :] > 0
        return losses[:, self.first_class :].astype(logits.dtype)

    def backward(self, gy):
        factor = np.zeros((len(gy), self.shape[-1]))
        factor[:, self.first_class :] = gy
        at = self.region
        gx = kernels.lovasz.gradient(*self.saved, factor, at.labels, at.ignore_index)
        return (gx.reshape(self.shape),)


def tversky_loss(
    logits: Any,
    target: Any,
    alpha: float = 0.5,
    beta: float = 0.5,
    smooth: float = 1.0,
    include_background: bool = True,
    batch: bool = False,
    ignore_index: int = -100,
    reduction: str = "mean",
    weight: Any = None,
    pixel_weight: Any = None,
    absent: str = "count",
) -> Tensor:
    """1 minus the Tversky index of the softmax of logits: overlap, with a price for each mistake.

    Parameters
    ----------
    logits : Tensor (N, ..., classes), floating, at least two classes
    target : integers (N, ...)
        The class of each pixel.
    alpha, beta : float, at least 0
        Price of a pixel falsely given to the class, and of one falsely denied to it. Two halves
        make it the Dice loss, two ones the Jaccard loss (1 - IoU).
    smooth : float, at least 0, in pixels
        Added above and below the fraction line. It decides what an image without the class costs,
        if `absent` lets that count: with 0, everything for the faintest probability and nothing
        for exactly none.
    include_background : bool
        Whether class 0 counts as well.
    batch : bool
        Sum the pixels of all images before dividing, rather than those of each image.
    ignore_index : int
        Label of pixels that do not count.
    reduction : 'none', 'mean' or 'sum'
        Over images and classes; the mean is weighted.
    weight : (classes,) array_like, optional
        Factor for the loss of each class.
    pixel_weight : (N, ...) array_like, optional
        How many pixels each one counts for.
    absent : 'count' or 'skip'
        What a class costs in an image in which no pixel has it (or, with `batch`, in a batch):
        as the formula says, or nothing; then the mean leaves it out.

    Returns
    -------
    Tensor, one number; with 'none' the loss of each image and class, (N, classes that count), or
    with `batch` of each class.

    Raises
    ------
    ValueError
        For a label that is no class, with its position; for shapes that do not fit.
    TypeError
        If `logits` are not floating, or `target` is.

    Notes
    -----
    With sums over pixels, probabilities p and one-hot targets t, the index of a class is
    ``(sum(p t) + s) / (sum(p t) + alpha sum(p (1 - t)) + beta sum((1 - p) t) + s)``.

    References
    ----------
    Salehi, Erdogmus, Gholipour, Tversky loss function for image segmentation using 3D fully
    convolutional deep networks, 2017, equation 3.
    """
    name = "tversky_loss"
    for argument, value in (("alpha", alpha), ("beta", beta), ("smooth", smooth)):
        _not_negative(name, argument, value)
    return _overlap_loss(
        name, (alpha, beta, smooth), logits, target, include_background, batch, ignore_index,
        reduction, weight, pixel_weight, absent,
    )  # fmt: skip


def dice_loss(
    logits: Any,
    target: Any,
    smooth: float = 1.0,
    include_background: bool = True,
    batch: bool = False,
    ignore_index: int = -100,
    reduction: str = "mean",
    weight: Any = None,
    pixel_weight: Any = None,
    absent: str = "count",
) -> Tensor:
    """1 minus the Dice coefficient of the softmax of logits and labels, for each image and class.

    Parameters
    ----------
    logits : Tensor (N, ..., classes), floating, at least two classes
        The softmax is taken inside.
    target : integers (N, ...)
        The class of each pixel.
    smooth : float, at least 0, in pixels
        Added above and below the fraction line. It decides what an image without the class costs,
        if `absent` lets that count: with 0, everything for the faintest probability and nothing
        for exactly none.
    include_background : bool
        Whether class 0 counts as well. It is most of most images, and easily hides the others.
    batch : bool
        Sum the pixels of all images before dividing, rather than those of each image.
    ignore_index : int
        Label of pixels that do not count.
    reduction : 'none', 'mean' or 'sum'
        Over images and classes; the mean is weighted.
    weight : (classes,) array_like, optional
        Factor for the loss of each class.
    pixel_weight : (N, ...) array_like, optional
        How many pixels each one counts for.
    absent : 'count' or 'skip'
        What a class costs in an image in which no pixel has it (or, with `batch`, in a batch):
        as the formula says, or nothing; then the mean leaves it out.

    Returns
    -------
    Tensor, one number; with 'none' the loss of each image and class, (N, classes that count), or
    with `batch` of each class.

    Raises
    ------
    ValueError
        For a label that is no class, with its position; for shapes that do not fit.
    TypeError
        If `logits` are not floating, or `target` is.

    Notes
    -----
    With sums over pixels, probabilities p and one-hot targets t, a class costs
    ``1 - (2 sum(p t) + smooth) / (sum(p) + sum(t) + smooth)``.

    References
    ----------
    Milletari, Navab, Ahmadi, V-Net, 2016, section 3, there with squares below the line.
    """
    name = "dice_loss"
    _not_negative(name, "smooth", smooth)
    return _overlap_loss(
        name, (0.5, 0.5, smooth / 2), logits, target, include_background, batch, ignore_index,
        reduction, weight, pixel_weight, absent,
    )  # fmt: skip


def _overlap_loss(
    name, prices, logits, target, include_background, batch, ignore_index, reduction, weight,
    pixel_weight, absent,
) -> Tensor:  # fmt: skip
    logits, region = _region(name, logits, target, pixel_weight, ignore_index, reduction, absent)
    first = 0 if include_background else 1
    classes = class_weights(name, "weight", weight, logits.shape[-1])[first:]
    loss = TverskyLoss(*prices, region, first, batch)
    losses = apply(loss, logits)
    return _reduced(losses, loss.present, classes, absent, reduction, batch)


def generalised_dice_loss(
    logits: Any,
    target: Any,
    power: float = 2.0,
    include_background: bool = True,
    batch: bool = False,
    ignore_index: int = -100,
    reduction: str = "mean",
    weight: Any = None,
    pixel_weight: Any = None,
    absent: str = "count",
) -> Tensor:
    """1 minus the Dice coefficient of all classes together, in which rare ones count more.

    Parameters
    ----------
    logits : Tensor (N, ..., classes), floating, at least two classes
        The softmax is taken inside.
    target : integers (N, ...)
        The class of each pixel.
    power : float, at least 0
        A class with n pixels counts ``n ** -power`` times: 2 as in the paper, 0 for as often as
        it has pixels.
    include_background : bool
        Whether class 0 counts as well.
    batch : bool
        Sum the pixels of all images before dividing, rather than those of each image.
    ignore_index : int
        Label of pixels that do not count.
    reduction : 'none', 'mean' or 'sum'
        Over images.
    weight : (classes,) array_like, optional
        One more factor for each class.
    pixel_weight : (N, ...) array_like, optional
        How many pixels each one counts for.
    absent : 'count' or 'skip'
        What becomes of a class of which an image has no pixel, for which the formula divides by
        zero: it counts as often as the rarest class present, or not at all.

    Returns
    -------
    Tensor, one number; with 'none' the loss of each image, (N,), or with `batch` (1,).
    An image in which no class counts costs 0.

    Raises
    ------
    ValueError
        For a label that is no class, with its position; for shapes that do not fit.
    TypeError
        If `logits` are not floating, or `target` is.

    Notes
    -----
    With sums over pixels, probabilities p, one-hot targets t and ``w = sum(t) ** -power``, an image
    costs ``1 - 2 sum_c(w sum(p t)) / sum_c(w (sum(p) + sum(t)))``. Nothing is smoothed: the class
    of any pixel keeps the divisor above zero.

    References
    ----------
    Sudre, Li, Vercauteren, Ourselin, Cardoso, Generalised Dice overlap as a deep learning loss
    function for highly unbalanced segmentations, 2017, section 2.1.
    """
    name = "generalised_dice_loss"
    _not_negative(name, "power", power)
    logits, region = _region(name, logits, target, pixel_weight, ignore_index, reduction, absent)
    first = 0 if include_background else 1
    classes = class_weights(name, "weight", weight, logits.shape[-1])[first:]
    losses = apply(GeneralisedDiceLoss(classes, power, absent, region, first, batch), logits)
    if reduction == "none":
        return losses
    return losses.mean() if reduction == "mean" else losses.sum()


def lovasz_softmax(
    logits: Any,
    target: Any,
    include_background: bool = True,
    batch: bool = True,
    ignore_index: int = -100,
    reduction: str = "mean",
    weight: Any = None,
    pixel_weight: Any = None,
    absent: str = "skip",
) -> Tensor:
    """The convex continuation of 1 - IoU: what it is for certain answers, and straight between.

    Parameters
    ----------
    logits : Tensor (N, ..., classes), floating, at least two classes
        The softmax is taken inside.
    target : integers (N, ...)
        The class of each pixel.
    include_background : bool
        Whether class 0 counts as well.
    batch : bool
        Take the pixels of all images for those of one, rather than image by image.
    ignore_index : int
        Label of pixels that do not count.
    reduction : 'none', 'mean' or 'sum'
        Over images and classes; the mean is weighted.
    weight : (classes,) array_like, optional
        Factor for the loss of each class.
    pixel_weight : (N, ...) array_like, optional
        How many pixels each one counts for.
    absent : 'count' or 'skip'
        What a class costs in an image in which no pixel has it (or, with `batch`, in a batch):
        as the formula says, or nothing; then the mean leaves it out.

    Returns
    -------
    Tensor, one number; with 'none' the loss of each image and class, (N, classes that count), or
    with `batch` of each class.

    Raises
    ------
    ValueError
        For a label that is no class, with its position; for shapes that do not fit.
    TypeError
        If `logits` are not floating, or `target` is.

    Notes
    -----
    With probabilities p of a class, its pixels have the errors 1 - p, all others p. Its loss is the
    sum over all pixels, from the largest error down, of the error times what the Jaccard loss of
    the class grows by when that pixel is the next to be wrong. A class that is absent is wholly
    wrong with its first pixel: it costs its largest probability.

    Errors that are nearer to each other than 2**-22 (in float64, 2**-33) count as equal, which
    changes the loss by less than that. Equal ones have no order, and any is a subgradient: here
    the pixels of the class come first, and then the first pixel.

    References
    ----------
    Berman, Triki, Blaschko, The Lovasz-Softmax loss, 2018, equations 8 and 9, algorithm 1. There,
    as here, classes that are absent are left out of the mean; weights are ours.
    """
    name = "lovasz_softmax"
    logits, region = _region(name, logits, target, pixel_weight, ignore_index, reduction, absent)
    first = 0 if include_background else 1
    classes = class_weights(name, "weight", weight, logits.shape[-1])[first:]
    if batch:
        pixels = region.pixel_weight
        region = _Region(
            region.labels.reshape(1, -1),
            pixels.reshape(1, -1) if len(pixels) else pixels,
            region.ignore_index,
        )
    loss = LovaszLoss(region, first)
    losses = apply(loss, logits)
    return _reduced(losses, loss.present, classes, absent, reduction, batch)


def _not_negative(function: str, name: str, value: float) -> None:
    if not value >= 0:
        raise ValueError(f"{function}: {name} must be at least 0, but is {value!r}.")


def _region(
    name, logits, target, pixel_weight, ignore_index, reduction, absent
) -> tuple[Tensor, _Region]:
    """The arguments that all losses here share, checked."""
    logits = logits_of(name, logits)
    check.choice(name, "reduction", reduction, REDUCTIONS)
    check.choice(name, "absent", absent, ABSENT)
    if logits.shape[-1] < 2:
        raise ValueError(
            f"{name}: logits need at least 2 classes, but have shape {logits.shape}: the softmax "
            "of a single class is always 1. Let the network have 2 outputs."
        )
    if logits.ndim < 2:
        raise ValueError(
            f"{name}: logits must have shape (N, ..., classes), but have shape {logits.shape}."
        )
    target = constant(name, "target", target)
    labels = labels_of(name, target, logits)
    survey(name, labels, np.ones(logits.shape[-1]), ignore_index, target.shape)
    images = len(target)
    shape = images, labels.size // max(images, 1)
    pixels = pixel_weights(name, pixel_weight, target.shape)
    if pixels.size and not pixels.min() >= 0:
        raise ValueError(
            f"{name}: pixel_weight must not be negative, but is {pixels.min():g} somewhere."
        )
    pixels = np.empty((0, 0)) if pixel_weight is None else pixels.reshape(shape)
    return logits, _Region(labels.reshape(shape), pixels, ignore_index)


def _reduced(
    losses: Tensor,
    present: np.ndarray,
    weight: np.ndarray,
    absent: str,
    reduction: str,
    batch: bool,
) -> Tensor:
    """Losses (N, C) weighted by class and reduced; those of a batch without their first axis."""
    factor = np.broadcast_to(weight, present.shape)
    if absent == "skip":
        factor = factor * present
    if reduction == "mean":
        factor = factor / (factor.sum() or 1)
    losses = losses * factor.astype(losses.dtype)
    if reduction != "none":
        return losses.sum()
    return losses[0] if batch else losses
