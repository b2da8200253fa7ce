"""Losses between two arrays of one shape, element by element, differentiated by both."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.function import Function
from minidl.functional import check
from minidl.functional.loss.arguments import REDUCTIONS, constant
from minidl.tensor import Tensor, apply, as_tensor


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
    factor = constant(function, name, 1 if value is None else value).astype(x.dtype)
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
