"""Losses: one number for how far a result is from what was wanted.

Targets, weights and masks are constants: no gradient leads to them. (The losses between two
tensors of the same kind, `mse_loss`, `l1_loss`, `binary_cross_entropy_with_logits` and `kl_div`,
are differentiated with respect to both.)

A loss over pixels that are all ignored is 0, and so is its gradient. (PyTorch's mean is NaN
there, and one unlabelled crop ruins a training.)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import kernels
from minidl.function import Function
from minidl.functional import check
from minidl.tensor import Tensor, apply, as_tensor

REDUCTIONS = ("none", "mean", "sum")


# ---- softmax over classes -------------------------------------------------------------------


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


def _constant(function: str, name: str, value: Any) -> np.ndarray:
    """`value` as a plain array; no gradient leads to it, so it must not ask for one."""
    if isinstance(value, Tensor) and value.requires_grad:
        raise ValueError(
            f"{function}: {name} is a constant here and cannot be differentiated. "
            f"Pass {name}.detach()."
        )
    return np.asarray(value)


def _logits(function: str, logits: Any) -> Tensor:
    (logits,) = check.floating(function, logits=logits)
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(
            f"{function}: logits must have shape (..., classes), but have shape {logits.shape}."
        )
    return logits


def _labels(function: str, target: np.ndarray, logits: Tensor) -> np.ndarray:
    """Integer labels (...) for logits (..., classes), flat and as int64."""
    if target.dtype.kind not in "iub":
        raise TypeError(
            f"{function}: target must be integer labels, but has dtype {target.dtype}. "
            "Convert it, for example with target.astype('int64')."
        )
    if target.shape != logits.shape[:-1]:
        raise ValueError(
            f"{function}: target must have shape {logits.shape[:-1]}, that of logits "
            f"{logits.shape} without the classes, but has shape {target.shape}."
        )
    return np.ascontiguousarray(target, np.int64).reshape(-1)


def _class_weight(function: str, name: str, weight: Any, classes: int) -> np.ndarray:
    """One float64 number for each class; ones where None was given."""
    if weight is None:
        return np.ones(classes)
    weight = _constant(function, name, weight).astype(np.float64)
    if weight.shape != (classes,):
        raise ValueError(
            f"{function}: {name} must be {classes} numbers, one for each class of the logits, "
            f"but has shape {weight.shape}."
        )
    return np.ascontiguousarray(weight)


def _pixel_weight(function: str, weight: Any, shape: tuple[int, ...]) -> np.ndarray:
    """One float64 number for each pixel, flat; empty where None was given."""
    if weight is None:
        return np.empty(0)
    weight = _constant(function, "pixel_weight", weight)
    if weight.shape != shape:
        raise ValueError(
            f"{function}: pixel_weight must have shape {shape}, one number for each pixel, "
            f"but has shape {weight.shape}."
        )
    return np.ascontiguousarray(weight, np.float64).reshape(-1)


def _survey(function, labels, class_weight, ignore_index, shape):
    """Sum of the weights and number of the labels, all of which must be classes."""
    survey = kernels.loss.survey(labels, class_weight, ignore_index)
    if survey.wrong >= 0:
        position = tuple(map(int, np.unravel_index(survey.wrong, shape)))
        raise ValueError(
            f"{function}: target has the label {labels[survey.wrong]} at {position}, but the "
            f"logits have {len(class_weight)} classes: labels must be 0 to "
            f"{len(class_weight) - 1}, or ignore_index={ignore_index}."
        )
    return survey


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
    logits = _logits(name, logits)
    target = _constant(name, "target", target)
    check.choice(name, "reduction", reduction, REDUCTIONS)
    check.fraction(name, "label_smoothing", label_smoothing)
    class_weight = _class_weight(name, "weight", weight, logits.shape[-1])
    pixels = _pixel_weight(name, pixel_weight, logits.shape[:-1])
    if target.dtype.kind == "f":
        target = _probabilities(target, logits, ignore_index)
        divisor = target.size // target.shape[-1]
        loss = BlendedLoss(target, class_weight, pixels, label_smoothing, reduction, divisor)
        return apply(loss, logits)
    labels = _labels(name, target, logits)
    survey = _survey(name, labels, class_weight, ignore_index, target.shape)
    return apply(
        LabelledLoss(
            labels, class_weight, pixels, ignore_index, label_smoothing, 0.0, reduction,
            survey.weight,
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
    logits = _logits(name, logits)
    target = _constant(name, "target", target)
    check.choice(name, "reduction", reduction, REDUCTIONS)
    if not gamma >= 0:
        raise ValueError(f"{name}: gamma must be at least 0, but is {gamma!r}.")
    if alpha is not None and np.ndim(alpha) == 0 and logits.shape[-1] == 2:
        alpha = (1 - float(alpha), float(alpha))
    class_weight = _class_weight(name, "alpha", alpha, logits.shape[-1])
    labels = _labels(name, target, logits)
    survey = _survey(name, labels, class_weight, ignore_index, target.shape)
    return apply(
        LabelledLoss(
            labels, class_weight, np.empty(0), ignore_index, 0.0, gamma, reduction, survey.pixels
        ),
        logits,
    )


# ---- overlap of regions ---------------------------------------------------------------------


class OverlapLoss(Function):
    """1 minus the Tversky index of softmax probabilities, for each image and class."""

    def __init__(self, labels, alpha, beta, smooth, first_class, batch, ignore_index) -> None:
        self.labels, self.ignore_index = labels, ignore_index
        self.alpha, self.beta, self.smooth = alpha, beta, smooth
        self.first_class, self.batch = first_class, batch

    def forward(self, logits):
        self.shape = logits.shape
        flat = logits.reshape(*self.labels.shape, self.shape[-1])
        probabilities, sums = kernels.loss.overlaps(flat, self.labels, self.ignore_index)
        if self.batch:
            sums = sums.sum(axis=0, keepdims=True)
        hit, predicted, wanted = sums[..., self.first_class :].transpose(1, 0, 2)
        over = hit + self.smooth
        under = over + self.alpha * (predicted - hit) + self.beta * (wanted - hit)
        # Nothing wanted, nothing predicted, nothing smoothed: there is no mistake.
        nothing = under == 0
        self.index = np.where(nothing, 1, over) / np.where(nothing, 1, under)
        self.factor = ~nothing / np.where(nothing, 1, under)
        self.probabilities = probabilities if self.records else None
        loss = (1 - self.index).astype(logits.dtype)
        return loss[0] if self.batch else loss

    def backward(self, gy):
        gy = gy.reshape(self.index.shape) * self.factor
        hit_slope = -gy * (1 - self.index * (1 - self.alpha - self.beta))
        all_slope = gy * self.index * self.alpha
        slopes = np.zeros((2, len(self.labels), self.shape[-1]))
        slopes[..., self.first_class :] = hit_slope, all_slope
        gx = kernels.loss.overlaps_grad(self.probabilities, self.labels, self.ignore_index, *slopes)
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
        Added above and below the fraction line. It decides what an image without the class costs:
        with 0, everything for the faintest probability and nothing for exactly none.
    include_background : bool
        Whether class 0 counts as well.
    batch : bool
        Sum the pixels of all images before dividing, rather than those of each image.
    ignore_index : int
        Label of pixels that do not count.
    reduction : 'none', 'mean' or 'sum'
        Over images and classes.

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
        if not value >= 0:
            raise ValueError(f"{name}: {argument} must be at least 0, but is {value!r}.")
    return _overlap_loss(
        name, logits, target, alpha, beta, smooth, include_background, batch, ignore_index,
        reduction,
    )  # fmt: skip


def dice_loss(
    logits: Any,
    target: Any,
    smooth: float = 1.0,
    include_background: bool = True,
    batch: bool = False,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """1 minus the Dice coefficient of the softmax of logits and labels, for each image and class.

    Parameters
    ----------
    logits : Tensor (N, ..., classes), floating, at least two classes
        The softmax is taken inside.
    target : integers (N, ...)
        The class of each pixel.
    smooth : float, at least 0, in pixels
        Added above and below the fraction line. It decides what an image without the class costs:
        with 0, everything for the faintest probability and nothing for exactly none.
    include_background : bool
        Whether class 0 counts as well. It is most of most images, and easily hides the others.
    batch : bool
        Sum the pixels of all images before dividing, rather than those of each image.
    ignore_index : int
        Label of pixels that do not count.
    reduction : 'none', 'mean' or 'sum'
        Over images and classes.

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
    if not smooth >= 0:
        raise ValueError(f"{name}: smooth must be at least 0, but is {smooth!r}.")
    return _overlap_loss(
        name, logits, target, 0.5, 0.5, smooth / 2, include_background, batch, ignore_index,
        reduction,
    )  # fmt: skip


def _overlap_loss(
    name, logits, target, alpha, beta, smooth, include_background, batch, ignore_index, reduction
) -> Tensor:
    logits = _logits(name, logits)
    check.choice(name, "reduction", reduction, REDUCTIONS)
    if logits.shape[-1] < 2:
        raise ValueError(
            f"{name}: logits need at least 2 classes, but have shape {logits.shape}: the softmax "
            "of a single class is always 1. Let the network have 2 outputs."
        )
    if logits.ndim < 2:
        raise ValueError(
            f"{name}: logits must have shape (N, ..., classes), but have shape {logits.shape}."
        )
    target = _constant(name, "target", target)
    labels = _labels(name, target, logits)
    _survey(name, labels, np.ones(logits.shape[-1]), ignore_index, target.shape)
    images = len(target)
    loss = apply(
        OverlapLoss(
            labels.reshape(images, labels.size // max(images, 1)), alpha, beta, smooth,
            0 if include_background else 1, batch, ignore_index,
        ),
        logits,
    )  # fmt: skip
    if reduction == "none":
        return loss
    return loss.mean() if reduction == "mean" else loss.sum()


# ---- element by element ---------------------------------------------------------------------


class _ElementLoss(Function):
    """A loss for each element of two arrays of one shape, and its reduction."""

    def __init__(self, reduction: str) -> None:
        self.reduction = reduction

    def values(self, x: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Loss of each element."""
        raise NotImplementedError

    def slopes(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Derivatives of `values` by its two arguments."""
        raise NotImplementedError

    def forward(self, x, target):
        values = self.values(x, target)
        divisors = {"none": 1, "sum": 1, "mean": values.size, "batchmean": len(np.atleast_1d(x))}
        self.divisor = max(divisors[self.reduction], 1)
        if self.reduction == "none":
            return values
        return np.asarray(values.sum(dtype=np.float64) / self.divisor, x.dtype)

    def backward(self, gy):
        gy = gy / gy.dtype.type(self.divisor)
        return tuple(slope if slope is None else slope * gy for slope in self.slopes())


class MSELoss(_ElementLoss):
    def values(self, x, target):
        self.distance = x - target
        return self.distance * self.distance

    def slopes(self):
        slope = 2 * self.distance
        return slope, -slope if self.needs[1] else None


class L1Loss(_ElementLoss):
    def values(self, x, target):
        self.distance = x - target
        return np.abs(self.distance)

    def slopes(self):
        slope = np.sign(self.distance)
        return slope, -slope if self.needs[1] else None


class BCEWithLogits(_ElementLoss):
    def __init__(self, weight: np.ndarray, pos_weight: np.ndarray, reduction: str) -> None:
        super().__init__(reduction)
        self.weight, self.pos_weight = weight, pos_weight

    def values(self, x, target):
        self.x, self.target = x, target
        self.softplus = np.log1p(np.exp(-np.abs(x))) + np.maximum(-x, 0)  # -log(sigmoid(x))
        self.factor = 1 + (self.pos_weight - 1) * target
        return self.weight * ((1 - target) * x + self.factor * self.softplus)

    def slopes(self):
        miss = np.exp(-self.x - self.softplus)  # 1 - sigmoid(x), without overflow
        by_target = (self.pos_weight - 1) * self.softplus - self.x if self.needs[1] else None
        return (
            self.weight * (1 - self.target - self.factor * miss),
            by_target if by_target is None else self.weight * by_target,
        )


class KLDiv(_ElementLoss):
    def __init__(self, reduction: str, log_target: bool) -> None:
        super().__init__(reduction)
        self.log_target = log_target

    def values(self, x, target):
        self.probability = np.exp(target) if self.log_target else target
        present = self.probability > 0  # 0 log 0 = 0
        log = target if self.log_target else np.log(np.where(present, target, 1))
        self.distance = np.where(present, log - x, 0)
        return np.where(present, self.probability * self.distance, 0)

    def slopes(self):
        if not self.needs[1]:
            return -self.probability, None
        inner = self.probability if self.log_target else self.probability > 0
        return -self.probability, inner * (self.distance + 1)


def _pair(name: str, first: str, x: Any, target: Any) -> tuple[Tensor, Tensor]:
    """Two tensors of one shape; labels and masks as a target take the dtype of `x`."""
    (x,) = check.floating(name, **{first: x})
    target = as_tensor(target)
    if not target.requires_grad:
        target = Tensor(target.numpy().astype(x.dtype))
    x, target = check.floating(name, **{first: x, "target": target})
    if x.shape != target.shape:
        raise ValueError(
            f"{name}: {first} and target must have the same shape, but have shapes {x.shape} "
            f"and {target.shape}."
        )
    return x, target


def mse_loss(input: Any, target: Any, reduction: str = "mean") -> Tensor:
    """Squared difference of each element.

    Parameters
    ----------
    input : Tensor of any shape, floating
    target : array_like of the same shape
    reduction : 'none', 'mean' or 'sum'

    Returns
    -------
    Tensor, one number; with 'none' in the shape of `input`.

    Raises
    ------
    ValueError
        If the shapes differ: nothing is broadcast.
    TypeError
        If `input` is not floating.
    """
    check.choice("mse_loss", "reduction", reduction, REDUCTIONS)
    return apply(MSELoss(reduction), *_pair("mse_loss", "input", input, target))


def l1_loss(input: Any, target: Any, reduction: str = "mean") -> Tensor:
    """Absolute difference of each element; its derivative where they are equal is 0.

    Parameters
    ----------
    input : Tensor of any shape, floating
    target : array_like of the same shape
    reduction : 'none', 'mean' or 'sum'

    Returns
    -------
    Tensor, one number; with 'none' in the shape of `input`.

    Raises
    ------
    ValueError
        If the shapes differ: nothing is broadcast.
    TypeError
        If `input` is not floating.
    """
    check.choice("l1_loss", "reduction", reduction, REDUCTIONS)
    return apply(L1Loss(reduction), *_pair("l1_loss", "input", input, target))


def binary_cross_entropy_with_logits(
    logits: Any, target: Any, weight: Any = None, pos_weight: Any = None, reduction: str = "mean"
) -> Tensor:
    """Cross-entropy between the sigmoid of each logit and the probability wanted there.

    Parameters
    ----------
    logits : Tensor of any shape, floating
    target : array_like of the same shape
        Numbers in [0, 1], or a mask.
    weight : array_like, optional
        Factor for the loss of each element; broadcast to the shape of `logits`.
    pos_weight : array_like, optional
        Factor for the part that wants a 1, such as zeros / ones in the target; broadcast as well,
        so that one number for each channel will do.
    reduction : 'none', 'mean' or 'sum'
        The mean divides by the number of elements.

    Returns
    -------
    Tensor, one number; with 'none' in the shape of `logits`.

    Raises
    ------
    ValueError
        If shapes do not fit.
    TypeError
        If `logits` are not floating.

    Notes
    -----
    ``-weight * (pos_weight * t * log(sigmoid(x)) + (1 - t) * log(1 - sigmoid(x)))``, computed
    without overflow.
    """
    name = "binary_cross_entropy_with_logits"
    check.choice(name, "reduction", reduction, REDUCTIONS)
    logits, target = _pair(name, "logits", logits, target)
    factors = (
        _factor(name, "weight", weight, logits),
        _factor(name, "pos_weight", pos_weight, logits),
    )
    return apply(BCEWithLogits(*factors, reduction), logits, target)


def _factor(function: str, name: str, value: Any, x: Tensor) -> np.ndarray:
    """A constant factor that can be broadcast to the shape of `x`, in its dtype."""
    factor = _constant(function, name, 1 if value is None else value).astype(x.dtype)
    try:
        return np.broadcast_to(factor, x.shape)
    except ValueError:
        raise ValueError(
            f"{function}: {name} of shape {factor.shape} cannot be broadcast to the shape "
            f"{x.shape} of the logits."
        ) from None


def kl_div(input: Any, target: Any, reduction: str = "mean", log_target: bool = False) -> Tensor:
    """Kullback-Leibler divergence from `input` to `target`, element by element.

    Parameters
    ----------
    input : Tensor of any shape, floating
        Log-probabilities, as log_softmax gives them.
    target : array_like of the same shape
        Probabilities, or with `log_target` their logarithms.
    reduction : 'none', 'mean', 'sum' or 'batchmean'
        'mean' divides by the number of elements, 'batchmean' by the extent of the first axis,
        which is the divergence of its definition.
    log_target : bool

    Returns
    -------
    Tensor, one number; with 'none' in the shape of `input`.

    Raises
    ------
    ValueError
        If the shapes differ: nothing is broadcast.
    TypeError
        If `input` is not floating.

    Notes
    -----
    ``target * (log(target) - input)``, which is 0 where the target is 0.
    """
    check.choice("kl_div", "reduction", reduction, (*REDUCTIONS, "batchmean"))
    return apply(KLDiv(reduction, log_target), *_pair("kl_div", "input", input, target))
