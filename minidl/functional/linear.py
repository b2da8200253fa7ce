"""The fully connected layer."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import kernels
from minidl.function import Function
from minidl.functional import check
from minidl.tensor import Tensor, apply


class Linear(Function):
    """A convolution of one pixel for each row, and computed as such."""

    fresh_gradients = True
    geometry = (1, 1, 1), (0, 0, 0), (1, 1, 1), 1

    def forward(self, x, w, b=None):
        self.shape = x.shape
        self.x = np.ascontiguousarray(x).reshape(1, 1, 1, -1, x.shape[-1])
        self.w = np.ascontiguousarray(w).reshape(1, 1, 1, *w.shape)
        b = None if b is None else np.ascontiguousarray(b)
        y = kernels.conv.forward(self.x, self.w, b, *self.geometry, self.x.shape[1:-1])
        return y.reshape(*x.shape[:-1], w.shape[-1])

    def backward(self, gy):
        gx = gw = None
        gy = np.ascontiguousarray(gy).reshape(1, 1, 1, -1, gy.shape[-1])
        if self.needs[0]:
            size = self.x.shape[1:-1]
            gx = kernels.conv.input_grad(gy, self.w, None, *self.geometry, size)
            gx = gx.reshape(self.shape)
        if self.needs[1]:
            gw = kernels.conv.weight_grad(self.x, gy, (1, 1, 1), *self.geometry)
            gw = gw.reshape(self.w.shape[-2:])
        gb = (kernels.bias.grad(gy),) if len(self.needs) > 2 else ()
        return gx, gw, *gb


def linear(x: Any, weight: Any, bias: Any = None) -> Tensor:
    """``x @ weight + bias`` over the last axis.

    Parameters
    ----------
    x : (..., C) Tensor
    weight : (C, F) Tensor
    bias : (F,) Tensor, optional

    Returns
    -------
    (..., F) Tensor

    Raises
    ------
    TypeError
        If dtypes differ or are not floating.
    ValueError
        If shapes do not fit each other.
    """
    x, weight, bias = check.floating("linear", ("bias",), x=x, weight=weight, bias=bias)
    check.axes("linear", "weight", weight, "C F")
    if x.ndim < 1 or x.shape[-1] != weight.shape[0]:
        raise ValueError(
            f"linear: weight of shape {weight.shape} takes {weight.shape[0]} channels, but x has "
            f"shape {x.shape}; channels come last."
        )
    if bias is not None and bias.shape != weight.shape[1:]:
        raise ValueError(f"linear: bias must have shape {weight.shape[1:]}, but has {bias.shape}.")
    return apply(Linear(), x, weight, *([] if bias is None else [bias]))
