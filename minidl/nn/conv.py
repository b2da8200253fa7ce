"""Layers with weights: linear, convolution, transposed convolution.

Weights start normally distributed with standard deviation sqrt(2 / N), N the fan-in (He et al.,
2015), biases at zero. That is what the U-Net paper asks for, and not PyTorch's default. A layer
makes its parameters in `dtype`, from `rng` if given, else from the generator that
`minidl.manual_seed` seeds.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl import functional as F
from minidl.functional import check
from minidl.nn import init
from minidl.nn.module import Module, Parameter


def _counts(layer: str, **counts: int) -> None:
    for name, value in counts.items():
        check.integers(layer, name, value, 1, 1)


def _grouped(layer: str, groups: int, **channels: int) -> None:
    _counts(layer, **channels, groups=groups)
    for name, count in channels.items():
        if count % groups:
            raise ValueError(f"{layer}: {name}={count} must be divisible by groups={groups}.")


class Linear(Module):
    """`minidl.functional.linear` with a weight (in_features, out_features) and a bias.

    Parameters
    ----------
    in_features, out_features : int
    bias : bool
        Whether there is one.
    rng : numpy.random.Generator, optional
    dtype : float32 or float64
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        rng: np.random.Generator | None = None,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__()
        _counts("Linear", in_features=in_features, out_features=out_features)
        self.in_features, self.out_features = in_features, out_features
        self.weight = Parameter(init.he_normal((in_features, out_features), rng, dtype))
        self.bias = Parameter(init.zeros((out_features,), rng, dtype)) if bias else None

    def forward(self, x: Any) -> Any:
        """(..., in_features) to (..., out_features)."""
        return F.linear(x, self.weight, self.bias)


class _Conv(Module):
    """What convolutions along one, two and three axes have in common."""

    axes = 0

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        rng: np.random.Generator | None = None,
        dtype: Any = np.float32,
        *,
        activation: str | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        _grouped(name, groups, in_channels=in_channels, out_channels=out_channels)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.activation = check.choice(name, "activation", activation, (None, "relu"))
        self.kernel_size = check.integers(name, "kernel_size", kernel_size, self.axes, 1)
        self.stride, self.padding, self.dilation = stride, padding, dilation
        self.groups = groups
        shape = (*self.kernel_size, in_channels // groups, out_channels)
        self.weight = Parameter(init.he_normal(shape, rng, dtype))
        self.bias = Parameter(init.zeros((out_channels,), rng, dtype)) if bias else None

    @property
    def arguments(self) -> tuple:
        """What the function takes besides its input."""
        return self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups

    def mapped(self, x: Any, scale: Any, shift: Any, activation: str | None = None) -> Any:
        """``scale * self(x) + shift``, a number each for every output channel, in one pass.

        Parameters
        ----------
        x : Tensor
            As for the layer, which must have no activation of its own.
        scale, shift : ndarray of shape (F,)
            Constants, to which no gradient flows.
        activation : None or 'relu'
            What follows.
        """
        shift = shift if self.bias is None else shift + scale * self.bias.data
        weight, _, *others = self.arguments
        convolve = (F.conv1d, F.conv2d, F.conv3d)[self.axes - 1]
        return convolve(x, weight, shift, *others, activation=activation, scale=scale)


class Conv1d(_Conv):
    """`minidl.functional.conv1d` with a weight (K, C // groups, F) and a bias.

    Parameters
    ----------
    in_channels, out_channels, kernel_size : int
    stride, padding, dilation, groups
        As for the function.
    bias : bool
        Whether there is one.
    rng : numpy.random.Generator, optional
    dtype : float32 or float64
    activation : None or 'relu'
        What follows; 'relu' costs next to nothing here.
    """

    axes = 1

    def forward(self, x: Any, beside: Any = None) -> Any:
        """(N, L, C) to (N, OL, F); C counts the channels of x and of `beside`."""
        return F.conv1d(x, *self.arguments, activation=self.activation, beside=beside)


class Conv2d(_Conv):
    """`minidl.functional.conv2d` with a weight (KH, KW, C // groups, F) and a bias.

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size : int or two ints
    stride, padding, dilation, groups
        As for the function.
    bias : bool
        Whether there is one.
    rng : numpy.random.Generator, optional
    dtype : float32 or float64
    activation : None or 'relu'
        What follows; 'relu' costs next to nothing here.
    """

    axes = 2

    def forward(self, x: Any, beside: Any = None) -> Any:
        """(N, H, W, C) to (N, OH, OW, F); C counts the channels of x and of `beside`."""
        return F.conv2d(x, *self.arguments, activation=self.activation, beside=beside)


class Conv3d(_Conv):
    """`minidl.functional.conv3d` with a weight (KD, KH, KW, C // groups, F) and a bias.

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size : int or three ints
    stride, padding, dilation, groups
        As for the function.
    bias : bool
        Whether there is one.
    rng : numpy.random.Generator, optional
    dtype : float32 or float64
    activation : None or 'relu'
        What follows; 'relu' costs next to nothing here.
    """

    axes = 3

    def forward(self, x: Any, beside: Any = None) -> Any:
        """(N, D, H, W, C) to (N, OD, OH, OW, F); C counts the channels of x and of `beside`."""
        return F.conv3d(x, *self.arguments, activation=self.activation, beside=beside)


class _ConvTranspose(Module):
    """What transposed convolutions along one, two and three axes have in common.

    Each result is summed up from kernel / stride inputs of each channel in the mean, so that
    N = prod(kernel_size) / prod(stride) * in_channels // groups.
    """

    axes = 0

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Any = 1,
        rng: np.random.Generator | None = None,
        dtype: Any = np.float32,
        *,
        activation: str | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        _grouped(name, groups, in_channels=in_channels, out_channels=out_channels)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.activation = check.choice(name, "activation", activation, (None, "relu"))
        self.kernel_size = check.integers(name, "kernel_size", kernel_size, self.axes, 1)
        self.stride, self.padding, self.dilation = stride, padding, dilation
        self.output_padding, self.groups = output_padding, groups
        strides = check.integers(name, "stride", stride, self.axes, 1)
        fan_in = math.prod(self.kernel_size) / math.prod(strides) * (in_channels // groups)
        shape = (*self.kernel_size, out_channels // groups, in_channels)
        self.weight = Parameter(init.he_normal(shape, rng, dtype, fan_in))
        self.bias = Parameter(init.zeros((out_channels,), rng, dtype)) if bias else None

    @property
    def arguments(self) -> tuple:
        """What the function takes besides its input."""
        return (
            self.weight, self.bias, self.stride, self.padding, self.output_padding, self.groups,
            self.dilation,
        )  # fmt: skip


class ConvTranspose1d(_ConvTranspose):
    """`minidl.functional.conv_transpose1d` with a weight (K, F // groups, C) and a bias.

    Parameters
    ----------
    in_channels, out_channels, kernel_size : int
    stride, padding, output_padding, groups, dilation
        As for the function.
    bias : bool
        Whether there is one.
    rng : numpy.random.Generator, optional
    dtype : float32 or float64
    activation : None or 'relu'
        What follows; 'relu' costs next to nothing here.
    """

    axes = 1

    def forward(self, x: Any) -> Any:
        """(N, L, C) to (N, OL, F)."""
        return F.conv_transpose1d(x, *self.arguments, activation=self.activation)


class ConvTranspose2d(_ConvTranspose):
    """`minidl.functional.conv_transpose2d` with a weight (KH, KW, F // groups, C) and a bias.

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size : int or two ints
    stride, padding, output_padding, groups, dilation
        As for the function.
    bias : bool
        Whether there is one.
    rng : numpy.random.Generator, optional
    dtype : float32 or float64
    activation : None or 'relu'
        What follows; 'relu' costs next to nothing here.
    """

    axes = 2

    def forward(self, x: Any) -> Any:
        """(N, H, W, C) to (N, OH, OW, F)."""
        return F.conv_transpose2d(x, *self.arguments, activation=self.activation)


class ConvTranspose3d(_ConvTranspose):
    """`minidl.functional.conv_transpose3d` with a weight (KD, KH, KW, F // groups, C) and a bias.

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size : int or three ints
    stride, padding, output_padding, groups, dilation
        As for the function.
    bias : bool
        Whether there is one.
    rng : numpy.random.Generator, optional
    dtype : float32 or float64
    activation : None or 'relu'
        What follows; 'relu' costs next to nothing here.
    """

    axes = 3

    def forward(self, x: Any) -> Any:
        """(N, D, H, W, C) to (N, OD, OH, OW, F)."""
        return F.conv_transpose3d(x, *self.arguments, activation=self.activation)
