"""Activations: functions of each element, and the softmax over channels."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.function import Function
from minidl.functional import check
from minidl.tensor import Tensor, apply


def relu(x: Any) -> Tensor:
    """Rectified linear unit, max(x, 0).

    Parameters
    ----------
    x : Tensor of any shape, floating

    Returns
    -------
    Tensor of the same shape. NaN stays NaN; the derivative at 0 is 0.
    """
    (x,) = check.floating("relu", x=x)
    return x.relu()


class Elu(Function):
    def __init__(self, alpha: float) -> None:
        self.alpha = alpha

    def forward(self, x):
        self.x = x
        self.y = np.where(x > 0, x, self.alpha * np.expm1(np.minimum(x, 0)))
        return self.y

    def backward(self, gy):
        return (np.where(self.x > 0, gy, gy * (self.y + self.alpha)),)


def elu(x: Any, alpha: float = 1.0) -> Tensor:
    """Exponential linear unit: x where positive, else alpha * (exp(x) - 1).

    Parameters
    ----------
    x : Tensor of any shape, floating
    alpha : float
        Minus the value far on the negative side.

    Returns
    -------
    Tensor of the same shape.

    References
    ----------
    Clevert, Unterthiner, Hochreiter, Fast and Accurate Deep Network Learning by Exponential
    Linear Units, 2016, equation 16.
    """
    (x,) = check.floating("elu", x=x)
    return apply(Elu(alpha), x)
