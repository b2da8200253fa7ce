"""Convolution and transposed convolution in one, two and three dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl import kernels
from minidl.function import Function
from minidl.functional import check
from minidl.geometry import Window
from minidl.tensor import Tensor, apply

LAYOUTS = {1: "N L C", 2: "N H W C", 3: "N D H W C"}
ACTIVATIONS = (None, "relu")
WEIGHTS = {1: "K C F", 2: "KH KW C F", 3: "KD KH KW C F"}


def lift(array: np.ndarray, at: int) -> np.ndarray:
    """`array` with five axes: the missing ones, of extent 1, are put in front of axis `at`."""
    missing = (1,) * (5 - array.ndim)
    return np.ascontiguousarray(array).reshape(*array.shape[:at], *missing, *array.shape[at:])


class Convolution(Function):
    """Convolution by one window for each of three spatial axes, or its adjoint.

    The three kernels, forward, input gradient and weight gradient, serve both: a transposed
    convolution is the input gradient of a convolution, and the other way round.
    """

    fresh_gradients = True

    scale: np.ndarray | None = None

    def __init__(self, windows: list[Window], groups: int, relu: bool) -> None:
        self.relu = relu
        windows = [Window(1)] * (3 - len(windows)) + windows
        self.kernel_size = tuple(w.kernel for w in windows)
        self.geometry = (
            tuple(w.stride for w in windows),
            tuple(w.before for w in windows),
            tuple(w.dilation for w in windows),
            groups,
        )

    def _save(self, x, w, b, out_size):
        self.x_shape, self.w_shape = x.shape, w.shape
        self.x, self.w = lift(x, 1), lift(w, 0)
        self.in_size, self.own = self.x.shape[1:-1], x.shape[-1]
        self.out_size = (1,) * (3 - len(out_size)) + out_size
        return None if b is None else np.ascontiguousarray(b)

    def _keep(self, y):
        """The result, which backward needs if a ReLU has cut it."""
        self.y = y if self.relu else None
        return y

    def _backward(self, gy, with_bias):
        """Gradients of x, or of x and what is beside it, of the weight and of the bias.

        What is not needed any more is let go at once: training is at its largest here.
        """
        if self.relu:
            gy, gb = kernels.bias.relu_grad(self.y, gy)
            self.y = None
        elif with_bias:
            gb = kernels.bias.grad(gy)
        gy = lift(gy if self.scale is None else gy * self.scale, 1)
        gw = self._weight_grad(gy).reshape(self.w_shape) if self.needs[1] else None
        self.x = self.beside = None
        gx = self._input_grad(gy) if self.needs[0] or any(self.needs[3:]) else None
        return gx, gw, gb if with_bias else None


class Conv(Convolution):
    """Inputs: x, weight, bias, and further channels of x; the last two may be missing or None."""

    def __init__(
        self, windows: list[Window], groups: int, relu: bool, scale: np.ndarray | None = None
    ) -> None:
        super().__init__(windows, groups, relu)
        self.windows, self.scale = windows, scale

    def forward(self, x, w, b=None, beside=None):
        out = tuple(v.out_size(n) for v, n in zip(self.windows, x.shape[1:], strict=False))
        b = self._save(x, w, b, out)
        self.beside = None if beside is None else lift(beside, 1)
        y = kernels.conv.forward(
            self.x, self.w, b, *self.geometry, self.out_size, relu=self.relu, beside=self.beside,
            scale=self.scale,
        )  # fmt: skip
        return self._keep(y.reshape(len(x), *out, w.shape[-1]))

    def backward(self, gy):
        gx, gw, gb = self._backward(gy, len(self.needs) > 2)
        gx = gx or [None]
        parts = [g if g is None else g.reshape(*self.x_shape[:-1], g.shape[-1]) for g in gx]
        return (parts[0], gw, gb, parts[-1])[: len(self.needs)]

    def _input_grad(self, gy):
        split = self.own if len(self.needs) > 3 else None
        gx = kernels.conv.input_grad(gy, self.w, None, *self.geometry, self.in_size, split=split)
        return [gx] if split is None else gx

    def _weight_grad(self, gy):
        return kernels.conv.weight_grad(
            self.x, gy, self.kernel_size, *self.geometry, beside=self.beside
        )


class ConvTranspose(Convolution):
    def __init__(
        self, windows: list[Window], groups: int, relu: bool, out_size: tuple[int, ...]
    ) -> None:
        super().__init__(windows, groups, relu)
        self.size = out_size

    def forward(self, x, w, b=None):
        b = self._save(x, w, b, self.size)
        y = kernels.conv.input_grad(
            self.x, self.w, b, *self.geometry, self.out_size, relu=self.relu
        )
        return self._keep(y.reshape(len(x), *self.size, y.shape[-1]))

    def backward(self, gy):
        gx, gw, gb = self._backward(gy, len(self.needs) > 2)
        return (None if gx is None else gx.reshape(self.x_shape), gw, gb)[: len(self.needs)]

    def _input_grad(self, gy):
        return kernels.conv.forward(gy, self.w, None, *self.geometry, self.in_size)

    def _weight_grad(self, gy):
        return kernels.conv.weight_grad(gy, self.x, self.kernel_size, *self.geometry)


def _padding(name: str, padding: Any, size: tuple, windows: list[Window]) -> list[Window]:
    """`windows` with the zeros that the argument `padding` asks for."""
    count = len(windows)
    if padding == "valid":
        return windows
    if padding == "same":
        return [
            Window.same(n, w.kernel, w.stride, w.dilation)
            for n, w in zip(size, windows, strict=True)
        ]
    if isinstance(padding, str):
        raise ValueError(
            f"{name}: padding must be a number of zeros, 'same' or 'valid', but is {padding!r}."
        )
    if isinstance(padding, Sequence | np.ndarray) and any(np.ndim(part) for part in padding):
        if len(padding) != count:
            raise ValueError(
                f"{name}: padding must give a pair (before, after) for each of {count} axes, "
                f"but is {padding!r}."
            )
        pairs = [check.integers(name, "padding", pair, 2, 0) for pair in padding]
    else:
        pairs = [(p, p) for p in check.integers(name, "padding", padding, count, 0)]
    return [
        Window(w.kernel, w.stride, before, after, w.dilation)
        for w, (before, after) in zip(windows, pairs, strict=True)
    ]


def _windows(name, x, weight, stride, padding, dilation) -> list[Window]:
    count = x.ndim - 2
    strides = check.integers(name, "stride", stride, count, 1)
    dilations = check.integers(name, "dilation", dilation, count, 1)
    kernel_size = check.integers(name, "kernel size of weight", weight.shape[:count], count, 1)
    windows = [
        Window(k, s, dilation=d) for k, s, d in zip(kernel_size, strides, dilations, strict=True)
    ]
    return _padding(name, padding, x.shape[1:-1], windows)


def _check_channels(name, x, beside, weight, bias, groups, wants, outputs) -> None:
    """`wants` and `outputs`: input and output channels that weight and groups make."""
    if weight.shape[-1] % groups:
        raise ValueError(
            f"{name}: the last axis of weight, {weight.shape[-1]}, must be divisible by "
            f"groups={groups}; weight has shape {weight.shape}."
        )
    came = x.shape[-1] if beside is None else x.shape[-1] + beside.shape[-1]
    if came != wants:
        more = "" if beside is None else f" with what is beside it, of shape {beside.shape},"
        raise ValueError(
            f"{name}: weight of shape {weight.shape} with groups={groups} takes {wants} input "
            f"channels, but x{more} has {came} (shape {x.shape}; channels come last)."
        )
    if bias is not None and bias.shape != (outputs,):
        raise ValueError(f"{name}: bias must have shape ({outputs},), but has {bias.shape}.")


def _conv(
    axes, x, weight, bias, stride, padding, dilation, groups, activation, beside, scale
) -> Tensor:  # fmt: skip
    name = f"conv{axes}d"
    x, weight, bias, beside = check.floating(
        name, ("bias", "beside"), x=x, weight=weight, bias=bias, beside=beside
    )
    check.axes(name, "x", x, LAYOUTS[axes])
    check.axes(name, "weight", weight, WEIGHTS[axes])
    if beside is not None and beside.shape[:-1] != x.shape[:-1]:
        raise ValueError(
            f"{name}: beside must have the pixels of x, {x.shape[:-1]}, but has shape "
            f"{beside.shape}. Crop or resize one of them."
        )
    (groups,) = check.integers(name, "groups", groups, 1, 1)
    check.choice(name, "activation", activation, ACTIVATIONS)
    windows = _windows(name, x, weight, stride, padding, dilation)
    wants, outputs = weight.shape[-2] * groups, weight.shape[-1]
    _check_channels(name, x, beside, weight, bias, groups, wants, outputs)
    for size, window in zip(x.shape[1:-1], windows, strict=True):
        if window.out_size(size) < 1:
            raise ValueError(
                f"{name}: a kernel that spans {window.extent} does not fit an axis of {size} with "
                f"padding {window.before} and {window.after}; x has shape {x.shape}. "
                "Use a larger input, more padding or less dilation."
            )
    if scale is not None:
        scale = np.ascontiguousarray(scale, x.dtype)
        if scale.shape != (outputs,):
            raise ValueError(f"{name}: scale must have shape ({outputs},), but has {scale.shape}.")
    function = Conv(windows, groups, activation == "relu", scale)
    if beside is not None:
        bias = Tensor(np.zeros(weight.shape[-1], x.dtype)) if bias is None else bias
        return apply(function, x, weight, bias, beside)
    return apply(function, x, weight, *([] if bias is None else [bias]))


def _conv_transpose(
    axes, x, weight, bias, stride, padding, output_padding, groups, dilation, activation
):  # fmt: skip
    name = f"conv_transpose{axes}d"
    x, weight, bias = check.floating(name, ("bias",), x=x, weight=weight, bias=bias)
    check.axes(name, "x", x, LAYOUTS[axes])
    check.axes(name, "weight", weight, WEIGHTS[axes])
    if padding == "same":
        raise ValueError(
            f"{name}: padding='same' does not say which of several sizes is meant. "
            "Give numbers; stride * size results from kernel = stride and padding 0."
        )
    (groups,) = check.integers(name, "groups", groups, 1, 1)
    check.choice(name, "activation", activation, ACTIVATIONS)
    windows = _windows(name, x, weight, stride, padding, dilation)
    outputs = weight.shape[-2] * groups
    _check_channels(name, x, None, weight, bias, groups, weight.shape[-1], outputs)
    extra = check.integers(name, "output_padding", output_padding, axes, 0)
    sizes = zip(x.shape[1:-1], windows, extra, strict=True)
    out_size = tuple(window.in_size(size, more) for size, window, more in sizes)
    for window, more in zip(windows, extra, strict=True):
        if more >= max(window.stride, window.dilation):
            raise ValueError(
                f"{name}: output_padding must be smaller than stride or dilation, "
                f"but is {output_padding!r} with stride {stride!r} and dilation {dilation!r}."
            )
    if min(out_size) < 1:
        raise ValueError(
            f"{name}: the output would have size {out_size}; x has shape {x.shape}. "
            "Use less padding."
        )
    function = ConvTranspose(windows, groups, activation == "relu", out_size)
    return apply(function, x, weight, *([] if bias is None else [bias]))


def conv1d(
    x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: int = 1, *, activation: str | None = None,
    beside: Any = None, scale: Any = None,
) -> Tensor:  # fmt: skip
    """Convolution of sequences; see `conv2d`, with one spatial axis in place of two.

    Parameters
    ----------
    x : (N, L, C) Tensor
    weight : (K, C // groups, F) Tensor
    bias : (F,) Tensor, optional
    stride, padding, dilation, groups, activation, beside, scale
        As for `conv2d`. A causal convolution has ``padding=((dilation * (K - 1), 0),)``.

    Returns
    -------
    (N, OL, F) Tensor
    """
    return _conv(
        1, x, weight, bias, stride, padding, dilation, groups, activation, beside, scale
    )  # fmt: skip


def conv2d(
    x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: int = 1, *, activation: str | None = None,
    beside: Any = None, scale: Any = None,
) -> Tensor:  # fmt: skip
    """Convolution of images, as networks use the word: the kernel is not flipped.

    ``y[n, i, j, f] = b[f] + sum over kh, kw, c of
    x[n, i * stride + kh * dilation - padding, j * stride + ..., c] * weight[kh, kw, c, f]``

    Parameters
    ----------
    x : (N, H, W, C) Tensor
    weight : (KH, KW, C // groups, F) Tensor
    bias : (F,) Tensor, optional
    stride : int or two
        Input pixels from one output pixel to the next.
    padding : int, two, ((top, bottom), (left, right)), 'valid' or 'same'
        Zeros around the image. 'valid' is none; 'same' makes ``OH = ceil(H / stride)``, an odd
        zero going to the bottom and to the right.
    dilation : int or two
        Input pixels from one tap of the kernel to the next.
    groups : int
        Channels are divided into so many groups, each with its own kernels.
    activation : None or 'relu'
        'relu' gives ``relu(conv2d(...))``, without a pass over memory of its own.
    beside : (N, H, W, C2) Tensor, optional
        Further channels of x, which come behind its own: the result is
        ``conv2d(concatenate([x, beside]), ...)``, but nothing is copied.
    scale : (F,) array, optional
        Factors for the results, before the bias is added, at no cost. They are constants: no
        gradient flows into them.

    Returns
    -------
    (N, OH, OW, F) Tensor
        ``OH = (H + top + bottom - dilation * (KH - 1) - 1) // stride + 1``

    Raises
    ------
    TypeError
        If dtypes differ or are not floating.
    ValueError
        If shapes do not fit each other, or the kernel does not fit the image.

    References
    ----------
    Dumoulin & Visin, A guide to convolution arithmetic for deep learning, 2016,
    relationships 6 and 15.
    """
    return _conv(
        2, x, weight, bias, stride, padding, dilation, groups, activation, beside, scale
    )  # fmt: skip


def conv3d(
    x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: int = 1, *, activation: str | None = None,
    beside: Any = None, scale: Any = None,
) -> Tensor:  # fmt: skip
    """Convolution of volumes; see `conv2d`, with three spatial axes in place of two.

    Parameters
    ----------
    x : (N, D, H, W, C) Tensor
    weight : (KD, KH, KW, C // groups, F) Tensor
    bias : (F,) Tensor, optional
    stride, padding, dilation, groups, activation, beside, scale
        As for `conv2d`.

    Returns
    -------
    (N, OD, OH, OW, F) Tensor
    """
    return _conv(
        3, x, weight, bias, stride, padding, dilation, groups, activation, beside, scale
    )  # fmt: skip


def conv_transpose1d(
    x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0,
    output_padding: Any = 0, groups: int = 1, dilation: Any = 1, *,
    activation: str | None = None,
) -> Tensor:  # fmt: skip
    """Transposed convolution of sequences; see `conv_transpose2d`.

    Parameters
    ----------
    x : (N, L, C) Tensor
    weight : (K, F // groups, C) Tensor
    bias : (F,) Tensor, optional
    stride, padding, output_padding, groups, dilation, activation
        As for `conv_transpose2d`.

    Returns
    -------
    (N, OL, F) Tensor
    """
    return _conv_transpose(
        1, x, weight, bias, stride, padding, output_padding, groups, dilation, activation
    )


def conv_transpose2d(
    x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0,
    output_padding: Any = 0, groups: int = 1, dilation: Any = 1, *,
    activation: str | None = None,
) -> Tensor:  # fmt: skip
    """Transposed convolution of images, the adjoint of `conv2d` ("up-convolution").

    With the same weight and settings, ``sum(conv2d(u, w) * x) == sum(u * conv_transpose2d(x, w))``
    for all u and x.

    Parameters
    ----------
    x : (N, H, W, C) Tensor
    weight : (KH, KW, F // groups, C) Tensor
        The weight of the convolution that this is the adjoint of: that one goes from F to C.
    bias : (F,) Tensor, optional
    stride : int or two
        Output pixels from one input pixel to the next.
    padding : int, two, ((top, bottom), (left, right)) or 'valid'
        Output pixels left off at the borders.
    output_padding : int or two, less than stride or dilation
        Output pixels added at the bottom and right, to choose among the sizes that a strided
        convolution maps to the same.
    groups, dilation, activation
        As for `conv2d`.

    Returns
    -------
    (N, OH, OW, F) Tensor
        ``OH = (H - 1) * stride + dilation * (KH - 1) + 1 - top - bottom + output_padding``

    Raises
    ------
    TypeError
        If dtypes differ or are not floating.
    ValueError
        If shapes do not fit each other, or nothing would be left.

    References
    ----------
    Dumoulin & Visin, A guide to convolution arithmetic for deep learning, 2016, relationship 14.
    """
    return _conv_transpose(
        2, x, weight, bias, stride, padding, output_padding, groups, dilation, activation
    )


def conv_transpose3d(
    x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0,
    output_padding: Any = 0, groups: int = 1, dilation: Any = 1, *,
    activation: str | None = None,
) -> Tensor:  # fmt: skip
    """Transposed convolution of volumes; see `conv_transpose2d`.

    Parameters
    ----------
    x : (N, D, H, W, C) Tensor
    weight : (KD, KH, KW, F // groups, C) Tensor
    bias : (F,) Tensor, optional
    stride, padding, output_padding, groups, dilation, activation
        As for `conv_transpose2d`.

    Returns
    -------
    (N, OD, OH, OW, F) Tensor
    """
    return _conv_transpose(
        3, x, weight, bias, stride, padding, output_padding, groups, dilation, activation
    )
