"""Resizing: nearest neighbour and linear interpolation along the spatial axes."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl import kernels
from minidl.function import Function
from minidl.functional import check
from minidl.tensor import Tensor, apply

LINEAR_AXES = {"linear": 3, "bilinear": 4, "trilinear": 5}


class Resample(Function):
    """Weighted sums along each of the spatial axes.

    `request` is for those who want to know what was asked for: mode, align_corners, factors.
    """

    fresh_gradients = True

    def __init__(self, bands: Sequence, request: tuple) -> None:
        self.request = request
        self.bands = (*(kernels.resize.ONE,) * (3 - len(bands)), *bands)

    def forward(self, x):
        self.shape = x.shape
        missing = 5 - x.ndim
        y = kernels.resize.resample(x.reshape(len(x), *(1,) * missing, *x.shape[1:]), self.bands)
        return y.reshape(len(x), *y.shape[1 + missing :])

    def backward(self, gy):
        missing = 5 - gy.ndim
        sizes = (*(1,) * missing, *self.shape[1:-1])
        back = tuple(band.transpose(size) for band, size in zip(self.bands, sizes, strict=True))
        volume = gy.reshape(len(gy), *(1,) * missing, *gy.shape[1:])
        return (kernels.resize.resample(volume, back).reshape(self.shape),)


def _nearest(size: int, out: int, factor: float | None) -> np.ndarray:
    """The input each output is copied from.

    Rounded as PyTorch rounds for float32 images, because the result jumps: in single precision,
    and without regard to the factor where the size stays or doubles.
    """
    if out in (size, 2 * size):
        return np.arange(out) * size // out
    scale = np.float32(1 / factor) if factor else np.float32(size) / np.float32(out)
    return np.minimum(np.floor(np.arange(out, dtype=np.float32) * scale).astype(int), size - 1)


def _linear(size: int, out: int, factor: float | None, align: bool) -> tuple:
    """The first of the two inputs each output lies between, and how far it is from that."""
    if align:
        at = np.arange(out) * ((size - 1) / max(out - 1, 1))
    else:
        scale = 1 / factor if factor else size / out
        at = np.maximum((np.arange(out) + 0.5) * scale - 0.5, 0)
    first = np.minimum(at.astype(int), size - 1)
    return first, np.where(first < size - 1, np.minimum(at - first, 1), 0)


@functools.lru_cache(maxsize=256)
def _band(size: int, out: int, factor: float | None, mode: str, align: bool) -> Any:
    if mode == "nearest":
        return kernels.resize.Band.of(_nearest(size, out, factor), np.ones((out, 1)))
    first, distance = _linear(size, out, factor, align)
    return kernels.resize.Band.of(first, np.stack([1 - distance, distance], axis=1))


def interpolate(
    x: Any,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool = False,
) -> Tensor:
    """Resize images to `size`, or by `scale_factor`.

    Parameters
    ----------
    x : Tensor of shape (N, L, C), (N, H, W, C) or (N, D, H, W, C)
    size : int or one int for each spatial axis
        Extents of the result.
    scale_factor : float or one float for each spatial axis
        In place of `size`: extents are multiplied by it and rounded down. It is used as given to
        find the source of each pixel, even if the extents were rounded.
    mode : 'nearest', 'linear' (3 axes), 'bilinear' (4 axes) or 'trilinear' (5 axes)
        Copy one pixel, or blend the 2, 4 or 8 around the source position.
    align_corners : bool
        Let the centres of the corner pixels coincide, in place of the outer edges of the image.
        Not for 'nearest'.

    Returns
    -------
    Tensor with extents of the result in place of those of x.

    Raises
    ------
    ValueError
        If not exactly one of `size` and `scale_factor` is given, the mode does not fit the number
        of axes, or the result would be empty.

    Notes
    -----
    With edges aligned, output i lies at ``(i + 0.5) * scale - 0.5`` of the input for linear modes,
    not less than 0, and is copied from ``floor(i * scale)`` for 'nearest'. There is no smoothing:
    to make an image much smaller, average it first, for example with `avg_pool2d`.
    """
    (x,) = check.floating("interpolate", x=x)
    check.choice("interpolate", "mode", mode, ("nearest", *LINEAR_AXES))
    if x.ndim not in (3, 4, 5) or x.ndim != LINEAR_AXES.get(mode, x.ndim):
        wanted = LINEAR_AXES.get(mode, "3, 4 or 5")
        raise ValueError(
            f"interpolate: mode {mode!r} needs x with {wanted} axes, channels last, but x has "
            f"shape {x.shape}."
        )
    if align_corners and mode == "nearest":
        raise ValueError(
            "interpolate: align_corners has no meaning for mode 'nearest'. Leave it out, or use a "
            "linear mode."
        )
    factors = _factors(x, size, scale_factor)
    outs = _out_sizes(x, size, factors)
    bands = [
        _band(n, out, factor, mode, align_corners)
        for n, out, factor in zip(x.shape[1:-1], outs, factors, strict=True)
    ]
    return apply(Resample(bands, (mode, align_corners, factors)), x)


def _factors(x: Tensor, size: Any, scale_factor: Any) -> tuple[float | None, ...]:
    """The scale factor of each axis, or None for each where the size was given."""
    if (size is None) == (scale_factor is None):
        raise ValueError(
            f"interpolate: give either size or scale_factor, but got size={size!r} and "
            f"scale_factor={scale_factor!r}."
        )
    dims = x.ndim - 2
    if scale_factor is None:
        return (None,) * dims
    factors = (
        (scale_factor,) * dims if isinstance(scale_factor, int | float) else tuple(scale_factor)
    )
    if len(factors) != dims or not all(isinstance(f, int | float) and f > 0 for f in factors):
        raise ValueError(
            f"interpolate: scale_factor must be a positive number or {dims} of them, but is "
            f"{scale_factor!r}."
        )
    return tuple(float(f) for f in factors)


def _out_sizes(x: Tensor, size: Any, factors: tuple[float | None, ...]) -> tuple[int, ...]:
    if size is not None:
        outs = check.integers("interpolate", "size", size, x.ndim - 2, 1)
    else:
        outs = tuple(int(n * f) for n, f in zip(x.shape[1:-1], factors, strict=True))
    if min(*x.shape[1:-1], *outs) < 1:
        raise ValueError(
            f"interpolate: the result would have extents {outs} from x of shape {x.shape}. "
            "Each must be at least 1."
        )
    return outs
