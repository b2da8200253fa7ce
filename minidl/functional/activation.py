"""Activations: functions of each element, and the softmax over channels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl import arithmetic as ops
from minidl import kernels
from minidl.function import Function
from minidl.functional import check
from minidl.tensor import Tensor, apply


def relu(x: Any, *, plus: Any = None) -> Tensor:
    """Rectified linear unit, max(x, 0).

    Parameters
    ----------
    x : Tensor of any shape, floating
    plus : Tensor of the same shape, optional
        The result is ``relu(x + plus)``, computed in one pass over memory: what a residual block
        ends with.

    Returns
    -------
    Tensor of the same shape. NaN stays NaN; the derivative at 0 is 0.

    Raises
    ------
    ValueError
        If `plus` has another shape.
    """
    if plus is None:
        (x,) = check.floating("relu", x=x)
        return x.relu()
    x, plus = check.floating("relu", x=x, plus=plus)
    if x.shape != plus.shape:
        raise ValueError(
            f"relu: plus must have the shape of x, {x.shape}, but has {plus.shape}. "
            "Sums that broadcast are relu(x + plus)."
        )
    return apply(ops.Relu(), x, plus)


class LeakyRelu(Function):
    fresh_gradients = True

    def __init__(self, slope: float) -> None:
        self.slope = slope

    def forward(self, x):
        self.x = x
        return kernels.elementwise.leaky_relu(x, self.slope)

    def backward(self, gy):
        return (kernels.elementwise.leaky_relu_grad(self.x, self.slope, gy),)


def leaky_relu(x: Any, negative_slope: float = 0.01) -> Tensor:
    """Leaky rectified linear unit: x where positive, else negative_slope * x.

    Parameters
    ----------
    x : Tensor of any shape, floating
    negative_slope : float
        Derivative on the negative side, and at 0.

    Returns
    -------
    Tensor of the same shape.

    References
    ----------
    Maas, Hannun, Ng, Rectifier Nonlinearities Improve Neural Network Acoustic Models, 2013,
    equation 2.
    """
    (x,) = check.floating("leaky_relu", x=x)
    return apply(LeakyRelu(negative_slope), x)


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


class Gelu(Function):
    fresh_gradients = True

    def forward(self, x):
        self.x = x
        return kernels.elementwise.gelu(x)

    def backward(self, gy):
        return (kernels.elementwise.gelu_grad(self.x, gy),)


class GeluTanh(Function):
    SCALE, CUBIC = math.sqrt(2 / math.pi), 0.044715

    def forward(self, x):
        self.x = x
        self.tanh = np.tanh(self.SCALE * (x + self.CUBIC * x * x * x))
        return 0.5 * x * (1 + self.tanh)

    def backward(self, gy):
        x, tanh = self.x, self.tanh
        inner = self.SCALE * (1 + 3 * self.CUBIC * x * x)
        return (gy * (0.5 * (1 + tanh) + 0.5 * x * (1 - tanh * tanh) * inner),)


def gelu(x: Any, approximate: str = "none") -> Tensor:
    """Gaussian error linear unit: x times the probability that a normal number is below x.

    Parameters
    ----------
    x : Tensor of any shape, floating
    approximate : 'none' or 'tanh'
        The error function itself, or the approximation by a hyperbolic tangent, which is off by
        up to 5e-4.

    Returns
    -------
    Tensor of the same shape.

    References
    ----------
    Hendrycks & Gimpel, Gaussian Error Linear Units, 2016, section 2.
    """
    (x,) = check.floating("gelu", x=x)
    exact = check.choice("gelu", "approximate", approximate, ("none", "tanh")) == "none"
    return apply(Gelu() if exact else GeluTanh(), x)


def sigmoid(x: Any) -> Tensor:
    """Logistic function, 1 / (1 + exp(-x)).

    Parameters
    ----------
    x : Tensor of any shape, floating

    Returns
    -------
    Tensor of the same shape, in [0, 1].
    """
    (x,) = check.floating("sigmoid", x=x)
    return x.sigmoid()


def tanh(x: Any) -> Tensor:
    """Hyperbolic tangent.

    Parameters
    ----------
    x : Tensor of any shape, floating

    Returns
    -------
    Tensor of the same shape, in [-1, 1].
    """
    (x,) = check.floating("tanh", x=x)
    return x.tanh()


class Softplus(Function):
    def __init__(self, beta: float, threshold: float) -> None:
        self.beta, self.threshold = beta, threshold

    def forward(self, x):
        self.scaled = self.beta * x
        self.linear = self.scaled > self.threshold
        curved = np.maximum(self.scaled, 0) + np.log1p(np.exp(-np.abs(self.scaled)))
        return np.where(self.linear, x, curved / self.beta)

    def backward(self, gy):
        slope = 0.5 + 0.5 * np.tanh(0.5 * self.scaled)
        return (np.where(self.linear, gy, gy * slope),)


def softplus(x: Any, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """Smooth form of relu, log(1 + exp(beta * x)) / beta.

    Parameters
    ----------
    x : Tensor of any shape, floating
    beta : float, positive
        The larger, the closer to relu.
    threshold : float
        Where beta * x is above it, the result is x itself.

    Returns
    -------
    Tensor of the same shape.

    References
    ----------
    Dugas, Bengio, Belisle, Nadeau, Garcia, Incorporating Second-Order Functional Knowledge for
    Better Option Pricing, 2000, section 3.
    """
    (x,) = check.floating("softplus", x=x)
    if not beta > 0:
        raise ValueError(f"softplus: beta must be above 0, but is {beta!r}.")
    return apply(Softplus(beta, threshold), x)


class Softmax(Function):
    """Softmax or its logarithm. The kernels work on the last axis; others are moved there."""

    def __init__(self, axis: int, log: bool) -> None:
        self.axis, self.log = axis, log

    def forward(self, x):
        self.y = kernels.softmax.softmax(np.moveaxis(x, self.axis, -1), self.log)
        return np.asarray(np.moveaxis(self.y, -1, self.axis), order="C")

    def backward(self, gy):
        gx = kernels.softmax.softmax_grad(self.y, np.moveaxis(gy, self.axis, -1), self.log)
        return (np.moveaxis(gx, -1, self.axis),)


def _softmax(function: str, x: Any, axis: int, log: bool) -> Tensor:
    (x,) = check.floating(function, x=x)
    if axis not in range(-x.ndim, x.ndim):
        raise ValueError(
            f"{function}: axis must be one of the {x.ndim} axes of x, but is {axis!r}, "
            f"and x has shape {x.shape}."
        )
    if not x.size:
        raise ValueError(f"{function}: x must not be empty, but has shape {x.shape}.")
    return apply(Softmax(axis, log), x)


def softmax(x: Any, axis: int = -1) -> Tensor:
    """Exponentials along `axis`, divided by their sum: probabilities from scores.

    Parameters
    ----------
    x : Tensor of any shape, floating
    axis : int
        The classes; the channels if left out.

    Returns
    -------
    Tensor of the same shape, in [0, 1], with sums of 1 along `axis`.

    Notes
    -----
    The largest value is taken off first, so that nothing overflows.
    """
    return _softmax("softmax", x, axis, log=False)


def log_softmax(x: Any, axis: int = -1) -> Tensor:
    """Logarithm of the softmax along `axis`, accurate where the softmax itself rounds to 0 or 1.

    Parameters
    ----------
    x : Tensor of any shape, floating
    axis : int
        The classes; the channels if left out.

    Returns
    -------
    Tensor of the same shape, at most 0.
    """
    return _softmax("log_softmax", x, axis, log=True)
