"""Joining and padding tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl.arithmetic import Concatenate
from minidl.function import Function
from minidl.functional import check
from minidl.tensor import Tensor, apply


def _one_dtype(function: str, tensors: Sequence[Any]) -> tuple[Tensor, ...]:
    """`tensors`, of which there is at least one, as tensors of one floating dtype."""
    named = {f"tensors[{i}]": x for i, x in enumerate(tensors)}
    if not named:
        raise ValueError(f"{function}: tensors must not be empty.")
    return check.floating(function, **named)


def _check_axis(function: str, axis: Any, axes: int) -> int:
    """`axis` counted from the front."""
    if not isinstance(axis, int | np.integer) or not -axes <= axis < axes:
        raise ValueError(
            f"{function}: axis must be from {-axes} to {axes - 1}, because there are {axes} axes, "
            f"but is {axis!r}."
        )
    return int(axis) % axes


def concatenate(tensors: Sequence[Any], axis: int = -1) -> Tensor:
    """Join tensors along an axis they have.

    Parameters
    ----------
    tensors : sequence of Tensor
        Of equal extents along every other axis.
    axis : int
        The channels if left out.

    Returns
    -------
    Tensor

    Raises
    ------
    ValueError
        If the shapes do not fit.
    """
    tensors = _one_dtype("concatenate", tensors)
    axis = _check_axis("concatenate", axis, tensors[0].ndim)
    others = {x.shape[:axis] + x.shape[axis + 1 :] for x in tensors}
    if len(others) > 1 or len({x.ndim for x in tensors}) > 1:
        shapes = ", ".join(str(x.shape) for x in tensors)
        raise ValueError(
            f"concatenate: shapes may differ along axis {axis} only, but are {shapes}. "
            "Crop or pad the tensors to one size first."
        )
    return apply(Concatenate(axis), *tensors)


class Stack(Function):
    def __init__(self, axis: int) -> None:
        self.axis = axis

    def forward(self, *arrays):
        return np.stack(arrays, axis=self.axis)

    def backward(self, gy):
        return tuple(np.moveaxis(gy, self.axis, 0))


def stack(tensors: Sequence[Any], axis: int = 0) -> Tensor:
    """Join tensors of one shape along a new axis.

    Parameters
    ----------
    tensors : sequence of Tensor
    axis : int
        Where the new axis is in the result.

    Returns
    -------
    Tensor

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    tensors = _one_dtype("stack", tensors)
    if len({x.shape for x in tensors}) > 1:
        shapes = ", ".join(str(x.shape) for x in tensors)
        raise ValueError(f"stack: tensors must have one shape, but have {shapes}.")
    axis = _check_axis("stack", axis, tensors[0].ndim + 1)
    return apply(Stack(axis), *tensors)


NUMPY_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}


class Pad(Function):
    def __init__(self, widths: Sequence[tuple[int, int]], mode: str, value: float) -> None:
        self.widths, self.mode, self.value = widths, mode, value

    def forward(self, x):
        settings = {"constant_values": self.value} if self.mode == "constant" else {}
        return np.pad(x, self.widths, NUMPY_MODES[self.mode], **settings)

    def backward(self, gy):
        for axis, (before, after) in enumerate(self.widths):
            if before or after:
                gy = np.moveaxis(self._fold(np.moveaxis(gy, axis, 0), before, after), 0, axis)
        return (gy,)

    def _fold(self, gy, before, after):
        """Add what came from the padding of the first axis to where it was copied from."""
        size = len(gy) - before - after
        gx = gy[before : before + size].copy()
        front, back = gy[:before], gy[before + size :]
        if self.mode == "reflect":
            gx[1 : before + 1] += front[::-1]
            gx[size - 1 - after : size - 1] += back[::-1]
        elif self.mode == "replicate":
            gx[0] += front.sum(axis=0)
            gx[-1] += back.sum(axis=0)
        return gx


def pad(x: Any, pad: Any, mode: str = "constant", value: float = 0) -> Tensor:
    """Add elements around a tensor.

    Parameters
    ----------
    x : Tensor
    pad : int, (before, after), or one such pair for each axis
        Elements to add at both ends of every axis, in front of and behind every axis, or of each.
        As `pad_width` of `numpy.pad`: axes in their order, all of them.
    mode : 'constant', 'reflect' or 'replicate'
        `value`; the elements mirrored at the outermost one, which is not repeated; or the outermost
        element.
    value : float
        For 'constant'.

    Returns
    -------
    Tensor

    Raises
    ------
    ValueError
        If `pad` does not fit the axes, or there are not enough elements to mirror or repeat.
    """
    (x,) = check.floating("pad", x=x)
    check.choice("pad", "mode", mode, tuple(NUMPY_MODES))
    widths = _pad_widths(x, pad)
    for axis, (size, pair) in enumerate(zip(x.shape, widths, strict=True)):
        most = {"constant": np.inf, "reflect": size - 1, "replicate": np.inf if size else 0}[mode]
        if max(pair) > max(most, 0):
            raise ValueError(
                f"pad: mode {mode!r} can add at most {max(most, 0)} elements to axis {axis} of x, "
                f"which has shape {x.shape}, but pad is {pair} there."
            )
    return apply(Pad(widths, mode, value), x)


def _pad_widths(x: Tensor, pad: Any) -> tuple[tuple[int, int], ...]:
    """A pair for each axis of x."""
    try:
        widths = np.asarray(pad)
    except ValueError:  # pairs of unequal lengths
        widths = np.asarray(None)
    fits = widths.dtype.kind in "iu" and widths.shape in ((), (2,), (x.ndim, 2))
    if not fits or (widths < 0).any():
        raise ValueError(
            f"pad: pad must be an integer >= 0, a pair (before, after) of them, or one pair for "
            f"each of the {x.ndim} axes of x, but is {pad!r}."
        )
    return tuple((int(a), int(b)) for a, b in np.broadcast_to(widths, (x.ndim, 2)))
