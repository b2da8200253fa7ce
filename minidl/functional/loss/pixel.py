"""Losses that are sums over pixels of the softmax over classes: cross-entropy, focal loss."""

from __future__ import annotations

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


class _PixelLoss(Function):
    """A loss for each pixel from its logits, computed together with its gradient."""

    fresh_gradients = True

    def __init__(self, reduction: str, divisor: float) -> None:
        self.reduction = reduction
        self.share = 1 / divisor if reduction == "mean" and divisor else 1.0

    def compute(self, logits: np.ndarray, each: bool) -> tuple[np.ndarray, np.ndarray, float]:
        """Losses (M,) if `each`, gradient (M, K) of their sum times `share`, and that sum."""
        raise NotImplementedError

    def forward(self, logits):
        self.shape = logits.shape
        each = self.reduction == "none"
        losses, self.gradient, total = self.compute(logits.reshape(-1, self.shape[-1]), each)
        if each:
            return losses.reshape(self.shape[:-1])
        return np.asarray(total * self.share, logits.dtype)

    def backward(self, gy):
        gradient = self.gradient.reshape(self.shape)
        self.gradient = None  # it is given away, and nobody may ask for it again
        if self.reduction == "none":
            gradient *= gy[..., None]
        elif gy != 1:
            gradient *= gy
        return (gradient,)


class LabelledLoss(_PixelLoss):
    """Cross-entropy, and with gamma > 0 focal loss, of one label for each pixel."""

    def __init__(
        self, labels, class_weight, pixel_weight, ignore_index, smoothing, gamma, reduction, divisor
    ) -> None:
        super().__init__(reduction, divisor)
        self.settings = labels, class_weight, pixel_weight, ignore_index, smoothing, gamma

    def compute(self, logits, each):
        return kernels.loss.labelled(logits, *self.settings, self.share, each, self.records)


class BlendedLoss(_PixelLoss):
    """Cross-entropy of a probability for each class of each pixel."""

    def __init__(self, target, class_weight, pixel_weight, smoothing, reduction, divisor) -> None:
        super().__init__(reduction, divisor)
        self.settings = target, class_weight, pixel_weight, smoothing

    def compute(self, logits, each):
        return kernels.loss.blended(logits, *self.settings, self.share, each, self.records)


def cross_entropy(
    logits: Any,
    target: Any,
    weight: Any = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    pixel_weight: Any = None,
) -> Tensor:
    """Cross-entropy between the softmax of logits and labels: minus the log-probability of these.

    Parameters
    ----------
    logits : Tensor (..., classes), floating
    target : integers (...), or floats (..., classes)
        The class of each pixel, or the probability of each of its classes.
    weight : (classes,) array_like, optional
        Factor for each class.
    ignore_index : int
        Label of pixels that do not count. Only for integer targets.
    reduction : 'none', 'mean' or 'sum'
    label_smoothing : float in [0, 1]
        Share of each pixel's target that is spread evenly over all classes.
    pixel_weight : (...) array_like, optional
        Factor for the loss of each pixel, such as U-Net's weight map.

    Returns
    -------
    Tensor, one number; with 'none' the loss (...) of each pixel, 0 where ignored.

    Raises
    ------
    ValueError
        For a label that is no class, with its position; for shapes that do not fit.
    TypeError
        If `logits` are not floating.

    Notes
    -----
    A pixel with logits x and target probabilities t, one-hot for a label, costs
    ``pixel_weight * sum_c weight[c] * t'[c] * (log(sum(exp(x))) - x[c])``, where
    ``t' = (1 - label_smoothing) * t + label_smoothing / classes``.

    The mean over labels is weighted: the sum of the costs over the sum of ``weight[label]`` of all
    pixels that are not ignored. The mean over probabilities divides by the number of pixels.
    `pixel_weight` enters neither divisor: doubling it doubles the loss.

    Sums are made in float64 in a fixed order: the number of threads does not change a bit.

    References
    ----------
    Szegedy et al., Rethinking the Inception Architecture, 2016, section 7 (smoothing).
    Ronneberger, Fischer, Brox, U-Net, 2015, equation 1 (pixel weights).

    Examples
    --------
    >>> round(cross_entropy(np.zeros((2, 2)), [1, 0]).item(), 4)  # two classes, no idea
    0.6931
    """
    name = "cross_entropy"
    logits = logits_of(name, logits)
    target = constant(name, "target", target)
    check.choice(name, "reduction", reduction, REDUCTIONS)
    check.fraction(name, "label_smoothing", label_smoothing)
    class_weight = class_weights(name, "weight", weight, logits.shape[-1])
    pixels = pixel_weights(name, pixel_weight, logits.shape[:-1])
    if target.dtype.kind == "f":
        target = _probabilities(target, logits, ignore_index)
        divisor = target.size // target.shape[-1]
        loss = BlendedLoss(target, class_weight, pixels, label_smoothing, reduction, divisor)
        return apply(loss, logits)
    labels = labels_of(name, target, logits)
    found = survey(name, labels, class_weight, ignore_index, target.shape)
    return apply(
        LabelledLoss(
            labels, class_weight, pixels, ignore_index, label_smoothing, 0.0, reduction,
            found.weight,
        ),
        logits,
    )  # fmt: skip


def _probabilities(target: np.ndarray, logits: Tensor, ignore_index: int) -> np.ndarray:
    """Floating targets (..., classes) of cross_entropy, as (M, classes)."""
    if target.shape != logits.shape:
        raise ValueError(
            f"cross_entropy: a floating target holds probabilities and must have the shape "
            f"{logits.shape} of the logits, but has shape {target.shape}. For labels, convert it "
            "with target.astype('int64')."
        )
    if ignore_index >= 0:
        raise ValueError(
            f"cross_entropy: ignore_index={ignore_index} needs integer labels, but the target "
            "holds probabilities. Leave it out, and give those pixels a pixel_weight of 0."
        )
    return target.astype(logits.dtype, copy=False).reshape(-1, logits.shape[-1])


def focal_loss(
    logits: Any,
    target: Any,
    gamma: float = 2.0,
    alpha: Any = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    pixel_weight: Any = None,
) -> Tensor:
    """Cross-entropy in which what is already right counts little.

    Parameters
    ----------
    logits : Tensor (..., classes), floating
    target : integers (...)
        The class of each pixel.
    gamma : float, at least 0
        The higher, the less a well classified pixel counts; 0 gives `cross_entropy`.
    alpha : (classes,) array_like or float, optional
        Factor for each class. With two classes a single number is that of class 1, and class 0
        has ``1 - alpha``.
    ignore_index : int
        Label of pixels that do not count.
    reduction : 'none', 'mean' or 'sum'
        The mean divides by the number of pixels that are not ignored.
    pixel_weight : (...) array_like, optional
        Factor for the loss of each pixel; it does not enter the divisor of the mean.

    Returns
    -------
    Tensor, one number; with 'none' the loss (...) of each pixel, 0 where ignored.

    Raises
    ------
    ValueError
        For a label that is no class, with its position; for shapes that do not fit.
    TypeError
        If `logits` are not floating, or `target` is.

    Notes
    -----
    With p the softmax probability of the label: ``-alpha[label] * (1 - p)**gamma * log(p)``.

    References
    ----------
    Lin et al., Focal Loss for Dense Object Detection, 2017, equation 5.
    """
    name = "focal_loss"
    logits = logits_of(name, logits)
    target = constant(name, "target", target)
    check.choice(name, "reduction", reduction, REDUCTIONS)
    if not gamma >= 0:
        raise ValueError(f"{name}: gamma must be at least 0, but is {gamma!r}.")
    if alpha is not None and np.ndim(alpha) == 0 and logits.shape[-1] == 2:
        alpha = (1 - float(alpha), float(alpha))
    class_weight = class_weights(name, "alpha", alpha, logits.shape[-1])
    pixels = pixel_weights(name, pixel_weight, logits.shape[:-1])
    labels = labels_of(name, target, logits)
    found = survey(name, labels, class_weight, ignore_index, target.shape)
    return apply(
        LabelledLoss(
            labels, class_weight, pixels, ignore_index, 0.0, gamma, reduction, found.pixels
        ),
        logits,
    )


class ExpectedLoss(_PixelLoss):
    """Expected cost of a class drawn from the softmax of each pixel."""

    def __init__(self, costs, pixel_weight, reduction, divisor) -> None:
        super().__init__(reduction, divisor)
        self.settings = costs, pixel_weight

    def compute(self, logits, each):
        return kernels.loss.expected(logits, *self.settings, self.share, each, self.records)


def boundary_loss(
    logits: Any,
    distance: Any,
    target: Any = None,
    weight: Any = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    pixel_weight: Any = None,
) -> Tensor:
    """Probability of each class times the signed distance to where that class should end.

    Parameters
    ----------
    logits : Tensor (..., classes), floating
        The softmax is taken inside.
    distance : (..., classes) array_like, in pixels
        For each class the distance to its boundary in the target: negative inside, positive
        outside. With two classes, the map (...) of class 1 alone will do. A class that an image
        does not have has no boundary: zeros there, as in the paper, make it cost nothing.
    target : integers (...), optional
        The class of each pixel. Only needed to say which are ignored.
    weight : (classes,) array_like, optional
        Factor for each class; 0 leaves one out, such as the background.
    ignore_index : int
        Label of pixels that do not count.
    reduction : 'none', 'mean' or 'sum'
        The mean divides by the number of pixels that are not ignored.
    pixel_weight : (...) array_like, optional
        Factor for the loss of each pixel; it does not enter the divisor of the mean.

    Returns
    -------
    Tensor, one number, which may be negative; with 'none' the loss (...) of each pixel, 0 where
    ignored.

    Raises
    ------
    ValueError
        If shapes do not fit; if a distance is infinite or NaN.
    TypeError
        If `logits` are not floating.

    Notes
    -----
    With the softmax p, a pixel costs ``pixel_weight * sum_c weight[c] * p[c] * distance[c]``. All
    by itself this may be least for an empty answer: add it to a loss of regions, with a share that
    grows from 0.01 in the course of the training (`nn.CombinedLoss`).

    References
    ----------
    Kervadec et al., Boundary loss for highly unbalanced segmentation, 2019, equation 5. (The mean
    there also divides by the number of classes.)
    """
    name = "boundary_loss"
    logits = logits_of(name, logits)
    check.choice(name, "reduction", reduction, REDUCTIONS)
    classes, shape = logits.shape[-1], logits.shape[:-1]
    costs = _distances(constant(name, "distance", distance), logits)
    costs = costs * class_weights(name, "weight", weight, classes)
    pixels = pixel_weights(name, pixel_weight, shape) if pixel_weight is not None else None
    pixels = np.ones(costs.size // classes) if pixels is None else pixels
    counted = pixels.size
    if target is not None:
        target = constant(name, "target", target)
        labels = labels_of(name, target, logits)
        counted = survey(name, labels, np.ones(classes), ignore_index, target.shape).pixels
        pixels = np.where(labels == ignore_index, 0, pixels)
    costs = costs.astype(logits.dtype).reshape(-1, classes)
    return apply(ExpectedLoss(costs, pixels, reduction, counted), logits)


def _distances(distance: np.ndarray, logits: Tensor) -> np.ndarray:
    """Distances (..., classes), from those or from the map of class 1 of two."""
    if distance.shape == logits.shape[:-1] and logits.shape[-1] == 2:
        distance = np.stack([np.zeros_like(distance), distance], axis=-1)
    if distance.shape != logits.shape:
        raise ValueError(
            f"boundary_loss: distance must have the shape {logits.shape} of the logits, one map "
            f"for each class, but has shape {distance.shape}."
        )
    if not np.isfinite(distance).all():
        raise ValueError(
            "boundary_loss: distance is not finite everywhere. Where a class has no boundary, "
            "because an image is without it or full of it, put zeros."
        )
    return distance
