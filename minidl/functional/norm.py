"""Normalisation: over the batch, over groups of channels, and over neighbouring channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl import kernels
from minidl.function import Function
from minidl.functional import check
from minidl.tensor import Tensor, apply


class BatchNorm(Function):
    """Normalisation by the moments of the batch, or by given ones. Inputs: x, weight, bias.

    With `rectify`, a ReLU of that.
    """

    fresh_gradients = True

    def __init__(
        self, eps: float, moments: tuple[np.ndarray, np.ndarray] | None, rectify: bool = False
    ) -> None:
        self.eps, self.fixed, self.rectify = eps, moments is not None, rectify
        if moments is not None:
            self.mean, self.variance = moments

    def forward(self, x, weight, bias):
        if not self.fixed:
            self.mean, self.variance = kernels.batchnorm.moments(x)
        self.inverse = 1 / np.sqrt(self.variance.astype(np.float64) + self.eps)
        self.map = self.mean, self.inverse * weight, bias
        if self.records:
            self.x = x
        return kernels.batchnorm.normalise(x, *self.map, self.rectify)

    def backward(self, gy):
        gx = gw = gb = None
        if any(self.needs[1:]) or not self.fixed:
            total, product = kernels.batchnorm.gradient_sums(self.x, gy, *self.map, self.rectify)
            gw, gb = (product * self.inverse).astype(gy.dtype), total.astype(gy.dtype)
        if self.needs[0]:
            # With s = (x - mean) * inverse: gx = scale * (gy - mean(gy) - s * mean(gy * s)). With
            # given moments, which do not depend on x, the two means are left out.
            slope = rest = np.zeros(self.x.shape[-1])
            if not self.fixed:
                share = -self.map[1] * self.x.shape[-1] / self.x.size
                slope, rest = share * self.inverse**2 * product, share * total
            gx = kernels.batchnorm.input_grad(self.x, gy, *self.map, slope, rest, self.rectify)
        return gx, gw, gb


def batch_norm(
    x: Any,
    running_mean: np.ndarray | None,
    running_var: np.ndarray | None,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    activation: str | None = None,
) -> Tensor:
    """Give each channel mean 0 and variance 1, then scale by `weight` and add `bias`.

    Parameters
    ----------
    x : Tensor of shape (N, C), (N, L, C), (N, H, W, C) or (N, D, H, W, C)
    running_mean, running_var : ndarray of shape (C,), or None
        In training, moved in place towards the moments of the batch; otherwise, what x is
        normalised with. Without them nothing is tracked, and the batch is always used.
    weight, bias : Tensor of shape (C,), optional
        1 and 0 if left out.
    training : bool
        Normalise with the mean and the biased variance of this batch.
    momentum : float in [0, 1]
        Share of this batch in the new running moments. The running variance takes in the unbiased
        variance, that over one value less.
    eps : float
        Added to the variance.
    activation : None or 'relu'
        With 'relu' the result is ``relu(batch_norm(x, ...))``, computed and differentiated in the
        same passes over memory.

    Returns
    -------
    Tensor of the shape of x.

    Raises
    ------
    ValueError
        If sizes do not fit, `activation` is unknown, or a batch to be used has a single value in
        each channel.

    Notes
    -----
    Sums are taken in float64 and in an order that does not depend on the number of threads.

    References
    ----------
    Ioffe & Szegedy, Batch Normalization: Accelerating Deep Network Training by Reducing Internal
    Covariate Shift, 2015, algorithm 1.
    """
    x, weight, bias = check.floating(
        "batch_norm", ("weight", "bias"), x=x, weight=weight, bias=bias
    )
    channels = _channels_of("batch_norm", x, 2, 5)
    weight, bias = _affine("batch_norm", x, weight, bias, channels)
    _check_positive("batch_norm", "eps", eps)
    check.fraction("batch_norm", "momentum", momentum)
    check.choice("batch_norm", "activation", activation, (None, "relu"))
    running = _check_running(running_mean, running_var, channels)
    use_batch = training or running is None
    values = x.size // channels
    if use_batch and values < 2:
        raise ValueError(
            f"batch_norm: expected more than one value in each channel when training, but x has "
            f"shape {x.shape}. Use a larger batch or image, or training=False."
        )
    function = BatchNorm(eps, None if use_batch else running, activation == "relu")
    y = apply(function, x, weight, bias)
    if training and running is not None:
        unbiased = function.variance * (values / (values - 1))
        for kept, now in zip(running, (function.mean, unbiased), strict=True):
            kept *= 1 - momentum
            kept += (momentum * now).astype(kept.dtype)
    return y


def _check_running(mean: Any, variance: Any, channels: int) -> tuple | None:
    """Both running moments, or None if there are none."""
    if mean is None and variance is None:
        return None
    for name, value in (("running_mean", mean), ("running_var", variance)):
        if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
            raise TypeError(
                f"batch_norm: {name} must be a floating ndarray, because it is changed in place, "
                f"or both running moments None, but {name} is {type(value).__name__}."
            )
        if value.shape != (channels,):
            raise ValueError(
                f"batch_norm: {name} must have shape ({channels},), one number for each channel "
                f"of x, but has shape {value.shape}."
            )
    return mean, variance


def _channels_of(function: str, x: Tensor, least: int, most: int) -> int:
    """Extent of the last axis of x, which must have `least` to `most` axes and some elements."""
    if not least <= x.ndim <= most or not x.size:
        raise ValueError(
            f"{function}: x must have {least} to {most} axes, channels last, and not be empty, "
            f"but has shape {x.shape}."
        )
    return x.shape[-1]


def _affine(function: str, x: Tensor, weight: Any, bias: Any, size: int) -> tuple[Tensor, Tensor]:
    """`weight` and `bias` as tensors of shape (size,), ones and zeros where there are none."""
    for name, value in (("weight", weight), ("bias", bias)):
        if value is not None and value.shape != (size,):
            raise ValueError(
                f"{function}: {name} must have shape ({size},), because x has shape {x.shape}, "
                f"but has shape {value.shape}."
            )
    weight = Tensor(np.ones(size, x.dtype)) if weight is None else weight
    bias = Tensor(np.zeros(size, x.dtype)) if bias is None else bias
    return weight, bias


def _check_positive(function: str, name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{function}: {name} must be above 0, but is {value!r}.")


class GroupNorm(Function):
    """Normalise the values of each (image, group). Inputs: x as (N, P, C), weight, bias."""

    def __init__(self, groups: int, eps: float) -> None:
        self.groups, self.eps = groups, eps

    def _grouped(self, x):
        """(N, P, C) seen as (N, P, groups, C // groups)."""
        return x.reshape(*x.shape[:2], self.groups, -1)

    def forward(self, x, weight, bias):
        grouped = self._grouped(x).astype(np.float64)
        distance = grouped - grouped.mean(axis=(1, 3), keepdims=True)
        variance = np.square(distance).mean(axis=(1, 3), keepdims=True)
        self.inverse = 1 / np.sqrt(variance + self.eps)
        self.normal = (distance * self.inverse).astype(x.dtype)
        self.weight = weight
        return self.normal.reshape(x.shape) * weight + bias

    def backward(self, gy):
        normal = self.normal
        gw = (gy * normal.reshape(gy.shape)).sum(axis=(0, 1), dtype=np.float64)
        gb = gy.sum(axis=(0, 1), dtype=np.float64)
        gn = self._grouped(gy * self.weight)
        mean = gn.mean(axis=(1, 3), keepdims=True, dtype=np.float64)
        along = (gn * normal).mean(axis=(1, 3), keepdims=True, dtype=np.float64)
        gx = (self.inverse * (gn - mean - normal * along)).reshape(gy.shape)
        return tuple(gradient.astype(gy.dtype) for gradient in (gx, gw, gb))


def group_norm(
    x: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Tensor:
    """Give each group of channels of each image mean 0 and variance 1, then scale and shift.

    Parameters
    ----------
    x : Tensor of shape (N, ..., C)
    num_groups : int
        Number of groups; must divide C.
    weight, bias : Tensor of shape (C,), optional
        1 and 0 if left out.
    eps : float
        Added to the (biased) variance.

    Returns
    -------
    Tensor of the shape of x.

    References
    ----------
    Wu & He, Group Normalization, 2018, equations 1 and 2.
    """
    x, weight, bias = check.floating(
        "group_norm", ("weight", "bias"), x=x, weight=weight, bias=bias
    )
    channels = _channels_of("group_norm", x, 2, 5)
    (groups,) = check.integers("group_norm", "num_groups", num_groups, 1, 1)
    if channels % groups:
        raise ValueError(
            f"group_norm: num_groups must divide the {channels} channels of x, but is {groups}."
        )
    weight, bias = _affine("group_norm", x, weight, bias, channels)
    _check_positive("group_norm", "eps", eps)
    pixels = x.reshape(len(x), -1, channels)
    return apply(GroupNorm(groups, eps), pixels, weight, bias).reshape(x.shape)


def layer_norm(
    x: Any,
    normalized_shape: int | Sequence[int],
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
) -> Tensor:
    """Give the values along the last axes mean 0 and variance 1, then scale and shift each.

    Parameters
    ----------
    x : Tensor
        Its shape ends in `normalized_shape`.
    normalized_shape : int or sequence of int
        Extents of the axes that are normalised together.
    weight, bias : Tensor of shape `normalized_shape`, optional
        1 and 0 if left out.
    eps : float
        Added to the (biased) variance.

    Returns
    -------
    Tensor of the shape of x.

    References
    ----------
    Ba, Kiros, Hinton, Layer Normalization, 2016, equation 3.
    """
    x, weight, bias = check.floating(
        "layer_norm", ("weight", "bias"), x=x, weight=weight, bias=bias
    )
    axes = normalized_shape if isinstance(normalized_shape, Sequence) else (normalized_shape,)
    axes = check.integers("layer_norm", "normalized_shape", tuple(axes), len(axes), 1)
    if not axes or x.shape[-len(axes) :] != axes or not x.size:
        raise ValueError(
            f"layer_norm: the shape of x must end in normalized_shape {axes}, but is {x.shape}."
        )
    _check_positive("layer_norm", "eps", eps)
    for name, value in (("weight", weight), ("bias", bias)):
        if value is not None and value.shape != axes:
            raise ValueError(
                f"layer_norm: {name} must have shape {axes}, but has shape {value.shape}."
            )
    size = math.prod(axes)
    weight, bias = (None if value is None else value.reshape(size) for value in (weight, bias))
    weight, bias = _affine("layer_norm", x, weight, bias, size)
    return apply(GroupNorm(1, eps), x.reshape(-1, 1, size), weight, bias).reshape(x.shape)


class LocalResponseNorm(Function):
    """``x / (k + alpha * mean of x**2 over the window) ** beta``."""

    def __init__(self, size: int, alpha: float, beta: float, k: float) -> None:
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def _windows(self, x, before):
        """Sums of x over `size` channels, the first of them `before` in front of each."""
        channels = x.shape[-1]
        total = np.zeros_like(x)
        for shift in range(-before, self.size - before):
            to = slice(max(-shift, 0), max(channels - max(shift, 0), 0))
            total[..., to] += x[..., max(shift, 0) : max(channels + min(shift, 0), 0)]
        return total

    def forward(self, x):
        squares = self._windows(x * x, self.size // 2)
        self.x, self.base = x, self.k + self.alpha / self.size * squares
        return x * self.base**-self.beta

    def backward(self, gy):
        # Channel i lies in the windows of those channels whose window, mirrored, starts at i.
        inner = gy * self.x * self.base ** (-self.beta - 1)
        spread = self._windows(inner, (self.size - 1) // 2)
        slope = 2 * self.alpha * self.beta / self.size
        return (gy * self.base**-self.beta - slope * self.x * spread,)


def local_response_norm(
    x: Any, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    """Divide each value by the strength of the neighbouring channels at the same pixel.

    Parameters
    ----------
    x : Tensor of shape (..., C)
    size : int
        Channels in the window: ``size // 2`` in front, the channel itself, the rest behind. What
        lies past the ends counts as zero.
    alpha, beta, k : float
        y = x / (k + alpha * a) ** beta, where a is the sum of the squares in the window over
        `size`. (In the paper alpha is not divided by the size.)

    Returns
    -------
    Tensor of the shape of x.

    References
    ----------
    Krizhevsky, Sutskever, Hinton, ImageNet Classification with Deep Convolutional Neural Networks,
    2012, section 3.3.
    """
    (x,) = check.floating("local_response_norm", x=x)
    (size,) = check.integers("local_response_norm", "size", size, 1, 1)
    if x.ndim < 2:
        raise ValueError(
            f"local_response_norm: x must have shape (N, ..., C), but has shape {x.shape}."
        )
    return apply(LocalResponseNorm(size, alpha, beta, k), x)
