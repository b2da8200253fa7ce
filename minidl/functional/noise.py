"""Dropout: noise that keeps units from relying on one another.

Which values are dropped follows from one number drawn from the generator and from their positions,
so that it does not depend on the number of threads, and backward needs no mask.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import kernels, random
from minidl.function import Function
from minidl.functional import check
from minidl.tensor import Tensor, apply


class Dropout(Function):
    def __init__(self, p: float, generator: np.random.Generator) -> None:
        self.p = p
        self.key = generator.integers(2**64, dtype=np.uint64)

    def forward(self, x):
        return kernels.elementwise.dropout(x, self.p, self.key)

    def backward(self, gy):
        return (kernels.elementwise.dropout(gy, self.p, self.key),)


class ChannelDropout(Function):
    """Dropout of whole channels of each image."""

    def __init__(self, p: float, generator: np.random.Generator) -> None:
        self.p = p
        self.key = generator.integers(2**64, dtype=np.uint64)

    def forward(self, x):
        channels = np.ones((len(x), *(1,) * (x.ndim - 2), x.shape[-1]), x.dtype)
        self.scale = kernels.elementwise.dropout(channels, self.p, self.key)
        return self._scaled(x)

    def backward(self, gy):
        return (self._scaled(gy),)

    def _scaled(self, x):
        """The product with the scale; what is dropped is 0, whatever it was."""
        return np.multiply(x, self.scale, out=np.zeros_like(x), where=self.scale != 0)


def _dropout(name: str, function: type, x: Tensor, p: float, training: bool, given: Any) -> Tensor:
    check.fraction(name, "p", p)
    if given is not None and not isinstance(given, np.random.Generator):
        raise TypeError(
            f"{name}: generator must be a numpy.random.Generator, but is "
            f"{type(given).__name__}. Make one with numpy.random.default_rng(seed)."
        )
    if not training or p == 0:
        return x
    return apply(function(p, random.generator() if given is None else given), x)


def dropout(
    x: Any, p: float = 0.5, training: bool = True, generator: np.random.Generator | None = None
) -> Tensor:
    """Set values to zero at random, and scale the others up to make good for it.

    Parameters
    ----------
    x : Tensor of any shape
    p : float in [0, 1]
        Probability of being dropped. The other values are divided by 1 - p.
    training : bool
        If not, x is returned as it is.
    generator : numpy.random.Generator, optional
        Where the noise comes from: `minidl.random.generator()` if left out. One number is drawn.

    Returns
    -------
    Tensor of the same shape.

    References
    ----------
    Srivastava, Hinton, Krizhevsky, Sutskever, Salakhutdinov, Dropout: A Simple Way to Prevent
    Neural Networks from Overfitting, 2014, section 10 for the scaling.
    """
    (x,) = check.floating("dropout", x=x)
    return _dropout("dropout", Dropout, x, p, training, generator)


def _channel_dropout(name: str, layout: str, x: Any, p: float, training: bool, given: Any):
    (x,) = check.floating(name, x=x)
    check.axes(name, "x", x, layout)
    return _dropout(name, ChannelDropout, x, p, training, given)


def dropout2d(
    x: Any, p: float = 0.5, training: bool = True, generator: np.random.Generator | None = None
) -> Tensor:
    """Set whole channels of each image to zero at random, and scale the others up.

    Neighbouring pixels tell much the same, so that dropping single ones would change little.

    Parameters
    ----------
    x : Tensor of shape (N, H, W, C)
    p : float in [0, 1]
        Probability of a channel of an image being dropped. The others are divided by 1 - p.
    training : bool
        If not, x is returned as it is.
    generator : numpy.random.Generator, optional
        Where the noise comes from: `minidl.random.generator()` if left out.

    Returns
    -------
    Tensor of the same shape.

    References
    ----------
    Tompson, Goroshin, Jain, LeCun, Bregler, Efficient Object Localization Using Convolutional
    Networks, 2015, section 3.2.
    """
    return _channel_dropout("dropout2d", "N H W C", x, p, training, generator)


def dropout1d(
    x: Any, p: float = 0.5, training: bool = True, generator: np.random.Generator | None = None
) -> Tensor:
    """Drop whole channels of each sequence; see `dropout2d`.

    Parameters
    ----------
    x : Tensor of shape (N, L, C)
    p, training, generator
        As for `dropout2d`.

    Returns
    -------
    Tensor of the same shape.
    """
    return _channel_dropout("dropout1d", "N L C", x, p, training, generator)


def dropout3d(
    x: Any, p: float = 0.5, training: bool = True, generator: np.random.Generator | None = None
) -> Tensor:
    """Drop whole channels of each volume; see `dropout2d`.

    Parameters
    ----------
    x : Tensor of shape (N, D, H, W, C)
    p, training, generator
        As for `dropout2d`.

    Returns
    -------
    Tensor of the same shape.
    """
    return _channel_dropout("dropout3d", "N D H W C", x, p, training, generator)
