"""The elementary operations behind the operators and methods of Tensor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minidl import kernels
from minidl.function import Function, unbroadcast


def add_gradients(a: np.ndarray, b: np.ndarray, into_a: bool) -> np.ndarray:
    """The sum of two gradients of one array; in the place of `a` if that may be overwritten."""
    return kernels.elementwise.add(a, b, a if into_a and a.flags.c_contiguous else None)


class Add(Function):
    def forward(self, a, b):
        self.shapes = a.shape, b.shape
        if a.shape == b.shape and a.dtype == b.dtype and a.dtype.kind == "f":
            return kernels.elementwise.add(a, b)  # on several threads
        return a + b

    def backward(self, gy):
        return unbroadcast(gy, self.shapes[0]), unbroadcast(gy, self.shapes[1])


class Subtract(Function):
    def forward(self, a, b):
        self.shapes = a.shape, b.shape
        return a - b

    def backward(self, gy):
        return unbroadcast(gy, self.shapes[0]), unbroadcast(-gy, self.shapes[1])


class Multiply(Function):
    def forward(self, a, b):
        self.a, self.b = a, b
        return a * b

    def backward(self, gy):
        return unbroadcast(gy * self.b, self.a.shape), unbroadcast(gy * self.a, self.b.shape)


class Divide(Function):
    def forward(self, a, b):
        self.a, self.b = a, b
        return a / b

    def backward(self, gy):
        ga = gy / self.b
        return unbroadcast(ga, self.a.shape), unbroadcast(-ga * self.a / self.b, self.b.shape)


class Power(Function):
    def forward(self, a, b):
        self.a, self.b = a, b
        self.y = a**b
        return self.y

    def backward(self, gy):
        a, b, ga, gb = self.a, self.b, None, None
        if self.needs[0]:
            # x**0 is constant; 0 * 0**-1 would make it NaN at 0.
            slope = np.where(b == 0, 0, b * a ** np.where(b == 0, 1, b - 1))
            ga = unbroadcast(gy * slope, a.shape)
        if self.needs[1]:
            # 0**b is constant for b > 0; log(0) would make it NaN.
            slope = np.where(a == 0, 0, self.y * np.log(np.where(a == 0, 1, a)))
            gb = unbroadcast(gy * slope, b.shape)
        return ga, gb


class Negative(Function):
    def forward(self, x):
        return -x

    def backward(self, gy):
        return (-gy,)


class Absolute(Function):
    def forward(self, x):
        self.x = x
        return np.abs(x)

    def backward(self, gy):
        return (gy * np.sign(self.x),)


class Exp(Function):
    def forward(self, x):
        self.y = np.exp(x)
        return self.y

    def backward(self, gy):
        return (gy * self.y,)


class Log(Function):
    def forward(self, x):
        self.x = x
        return np.log(x)

    def backward(self, gy):
        return (gy / self.x,)


class Sqrt(Function):
    def forward(self, x):
        self.y = np.sqrt(x)
        return self.y

    def backward(self, gy):
        return (gy / (2 * self.y),)


class Tanh(Function):
    def forward(self, x):
        self.y = np.tanh(x)
        return self.y

    def backward(self, gy):
        return (gy * (1 - self.y * self.y),)


class Sigmoid(Function):
    def forward(self, x):
        small = np.exp(-np.abs(x))  # never overflows
        self.y = np.where(x < 0, small, 1) / (1 + small)
        return self.y

    def backward(self, gy):
        return (gy * self.y * (1 - self.y),)


class Relu(Function):
    """``max(x, 0)``, or ``max(x + plus, 0)``."""

    fresh_gradients = True

    def forward(self, x, plus=None):
        self.inputs = 1 if plus is None else 2
        self.fresh_gradients = plus is None
        if plus is None:
            self.y = kernels.elementwise.relu(x)
        else:
            self.y = kernels.elementwise.relu_of_sum(x, plus)
        return self.y

    def backward(self, gy):
        return (kernels.elementwise.relu_grad(self.y, gy),) * self.inputs


class Clip(Function):
    def __init__(self, low: float | None, high: float | None) -> None:
        if low is None and high is None:
            raise ValueError("clip: give min, max or both.")
        self.low, self.high = low, high

    def forward(self, x):
        y = np.clip(x, self.low, self.high)
        self.inside = y == x
        return y

    def backward(self, gy):
        return (gy * self.inside,)


class Cast(Function):
    def __init__(self, dtype: Any) -> None:
        self.dtype = np.dtype(dtype)
        if self.dtype not in (np.float32, np.float64):
            raise TypeError(f"astype: expected float32 or float64, got {self.dtype}.")

    def forward(self, x):
        self.before = x.dtype
        return x.astype(self.dtype)

    def backward(self, gy):
        return (gy.astype(self.before),)


class Sum(Function):
    def __init__(self, axis: int | Sequence[int] | None, keepdims: bool) -> None:
        self.axis = tuple(axis) if isinstance(axis, Sequence) else axis
        self.keepdims = keepdims

    def forward(self, x):
        self.shape = x.shape
        return x.sum(axis=self.axis, keepdims=self.keepdims)

    def backward(self, gy):
        if self.axis is not None and not self.keepdims:
            gy = np.expand_dims(gy, self.axis)
        return (np.broadcast_to(gy, self.shape),)


class Extremum(Function):
    """Largest or smallest element; elements that are equal share the gradient."""

    def __init__(self, choose: Callable, axis: int | Sequence[int] | None, keepdims: bool) -> None:
        self.choose = choose
        self.axis = tuple(axis) if isinstance(axis, Sequence) else axis
        self.keepdims = keepdims

    def forward(self, x):
        best = self.choose(x, axis=self.axis, keepdims=True)
        self.chosen = x == best
        self.kept_shape = best.shape
        return best if self.keepdims else self.choose(x, axis=self.axis)

    def backward(self, gy):
        share = gy.reshape(self.kept_shape) / self.chosen.sum(axis=self.axis, keepdims=True)
        return ((self.chosen * share).astype(gy.dtype, copy=False),)


class Reshape(Function):
    def __init__(self, shape: Sequence[int]) -> None:
        self.shape = tuple(shape)

    def forward(self, x):
        self.before = x.shape
        return np.ascontiguousarray(x).reshape(self.shape)

    def backward(self, gy):
        return (np.ascontiguousarray(gy).reshape(self.before),)


class Transpose(Function):
    def __init__(self, axes: Sequence[int]) -> None:
        self.axes = tuple(axes)

    def forward(self, x):
        return np.ascontiguousarray(x.transpose(self.axes))

    def backward(self, gy):
        return (gy.transpose(np.argsort([axis % gy.ndim for axis in self.axes])),)


class GetItem(Function):
    def __init__(self, index: Any) -> None:
        self.index = index

    def forward(self, x):
        self.shape = x.shape
        return np.asarray(x[self.index], order="C")

    def backward(self, gy):
        gx = np.zeros(self.shape, gy.dtype)
        parts = self.index if isinstance(self.index, tuple) else (self.index,)
        if any(isinstance(part, np.ndarray) and part.dtype.kind in "iu" for part in parts):
            np.add.at(gx, self.index, gy)  # a position may be named more than once
        else:
            gx[self.index] = gy
        return (gx,)


class MatMul(Function):
    def forward(self, a, b):
        if a.ndim == 0 or b.ndim == 0 or a.shape[-1] != b.shape[-2 if b.ndim > 1 else 0]:
            raise ValueError(
                f"matmul: shapes {a.shape} and {b.shape} do not fit: the last axis of the first "
                "must be as long as the last but one of the second."
            )
        self.a, self.b = a, b
        return np.matmul(a, b)

    def backward(self, gy):
        a = self.a if self.a.ndim > 1 else self.a[None, :]
        b = self.b if self.b.ndim > 1 else self.b[:, None]
        if self.b.ndim == 1:
            gy = gy[..., None]
        if self.a.ndim == 1:
            gy = gy[..., None, :]
        ga = unbroadcast(gy @ b.swapaxes(-1, -2), a.shape).reshape(self.a.shape)
        gb = unbroadcast(a.swapaxes(-1, -2) @ gy, b.shape).reshape(self.b.shape)
        return ga, gb


class Concatenate(Function):
    def __init__(self, axis: int) -> None:
        self.axis = axis

    def forward(self, *arrays):
        self.axis %= arrays[0].ndim
        self.extents = [array.shape[self.axis] for array in arrays]
        if self.axis == arrays[0].ndim - 1:
            return kernels.join.join(arrays)
        return np.concatenate(arrays, axis=self.axis)

    def backward(self, gy):
        if self.axis == gy.ndim - 1:
            return tuple(kernels.join.cut(gy, self.extents))
        return tuple(np.split(gy, np.cumsum(self.extents)[:-1], axis=self.axis))
