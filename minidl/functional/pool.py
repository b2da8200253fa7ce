"""Pooling: maxima and averages of windows, and unpooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl import kernels
from minidl.function import Function
from minidl.functional import check
from minidl.geometry import Window
from minidl.tensor import Tensor, apply, as_tensor, no_grad

Size = int | Sequence[int]
LAYOUTS = {1: "N L C", 2: "N H W C", 3: "N D H W C"}


def _volume(x: np.ndarray) -> np.ndarray:
    """The array with three spatial axes, those in front of extent 1."""
    return x.reshape(len(x), *(1,) * (5 - x.ndim), *x.shape[1:])


def _in_front(windows: list, whole: Any) -> tuple:
    """Three of them, with `whole`, that for an axis of extent 1, in place of missing axes."""
    return (*(whole,) * (3 - len(windows)), *windows)


class MaxPool(Function):
    """Maximum of each window; `pixels` says where, if backward or the caller will ask.

    `windows` is for those who want to know what was asked for; None for adaptive pooling.
    """

    fresh_gradients = True

    def __init__(self, spans: Sequence, keep: bool, windows: list[Window] | None) -> None:
        whole = kernels.pool.Span(np.array([0]), np.array([1]), 1)
        self.spans, self.keep, self.windows = _in_front(list(spans), whole), keep, windows

    def forward(self, x):
        self.shape = x.shape
        keep = self.keep or self.records
        y, self.pixels = kernels.pool.max_pool(_volume(x), self.spans, keep)
        return y.reshape(len(x), *y.shape[6 - x.ndim : 4], x.shape[-1])

    def backward(self, gy):
        shape = (len(gy), *(1,) * (5 - len(self.shape)), *self.shape[1:])
        gx = kernels.pool.max_pool_grad(
            gy.reshape(self.pixels.shape), self.pixels, self.spans, shape
        )
        return (gx.reshape(self.shape),)

    def indices(self) -> np.ndarray:
        """Flat positions inside each image, in the shape of the result."""
        channels = self.shape[-1]
        small = np.prod(self.shape[1:], dtype=float) <= 2**31
        pixels = self.pixels.astype(np.int32 if small else np.int64, copy=False)
        positions = pixels * channels + np.arange(channels, dtype=pixels.dtype)
        return positions.reshape(len(positions), *positions.shape[6 - len(self.shape) :])


class Positions(Function):
    """Where the maxima of `pool` were found, which has run. Input: what it returned."""

    def __init__(self, pool: MaxPool) -> None:
        self.pool = pool

    def forward(self, y):
        return self.pool.indices()


class AveragePool(Function):
    """Sum of each window over a number that belongs to its position; `windows` as in `MaxPool`."""

    fresh_gradients = True

    def __init__(
        self, bands: Sequence, counts: Sequence[np.ndarray], windows: list[Window] | None
    ) -> None:
        self.windows = windows
        self.bands = _in_front(list(bands), kernels.resize.ONE)
        depth, height, width = _in_front(list(counts), np.array([1]))
        self.counts = depth[:, None, None, None] * height[:, None, None] * width[:, None]

    def forward(self, x):
        self.shape = x.shape
        y = kernels.resize.resample(_volume(x), self.bands)
        y /= self.counts.astype(x.dtype)
        return y.reshape(len(x), *y.shape[6 - x.ndim :])

    def backward(self, gy):
        sizes = (*(1,) * (5 - gy.ndim), *self.shape[1:-1])
        back = [band.transpose(size) for band, size in zip(self.bands, sizes, strict=True)]
        share = _volume(gy) / self.counts.astype(gy.dtype)
        return (kernels.resize.resample(share, tuple(back)).reshape(self.shape),)


def _windows(
    function: str, x: Tensor, dims: int, kernel_size: Any, stride: Any, padding: Any, dilation: Any
) -> list[Window]:
    """One window for each spatial axis, from checked arguments."""
    check.axes(function, "x", x, LAYOUTS[dims])
    size = check.integers(function, "kernel_size", kernel_size, dims, 1)
    stride = size if stride is None else check.integers(function, "stride", stride, dims, 1)
    padding = check.integers(function, "padding", padding, dims, 0)
    dilation = check.integers(function, "dilation", dilation, dims, 1)
    windows = [
        Window(k, s, p, p, d) for k, s, p, d in zip(size, stride, padding, dilation, strict=True)
    ]
    if any(window.before > window.kernel // 2 for window in windows):
        raise ValueError(
            f"{function}: padding must be at most half of the kernel, but is {padding} for "
            f"kernel_size {size}. Use pad() for more."
        )
    return windows


def _positions(function: str, x: Tensor, windows: list[Window], ceil_mode: bool) -> list:
    """For each axis, where its windows start, in front of the axis included."""
    starts = []
    for size, window in zip(x.shape[1:-1], windows, strict=True):
        positions = window.out_size(size, ceil_mode)
        if positions < 1:
            raise ValueError(
                f"{function}: a window of {window.extent} (kernel_size and dilation) does not fit "
                f"into an axis of {size} with padding {window.before}; x has shape {x.shape}. Use "
                "a larger input, a smaller kernel_size or more padding."
            )
        starts.append(np.arange(positions) * window.stride - window.before)
    return starts


def _max_pool(
    function: str, dims: int, x: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any,
    ceil_mode: bool, return_indices: bool,
) -> Any:  # fmt: skip
    (x,) = check.floating(function, x=x)
    windows = _windows(function, x, dims, kernel_size, stride, padding, dilation)
    starts = _positions(function, x, windows, ceil_mode)
    spans = []
    for window, start, size in zip(windows, starts, x.shape[1:-1], strict=True):
        skipped = np.maximum(-(start // window.dilation), 0) * window.dilation  # to reach the axis
        first, stop = start + skipped, np.minimum(start + window.extent, size)
        if (first >= stop).any():
            raise ValueError(
                f"{function}: some windows would contain nothing but padding: kernel_size "
                f"{window.kernel}, dilation {window.dilation} and padding {window.before} on an "
                f"axis of {size}. Use less padding or dilation."
            )
        spans.append(kernels.pool.Span(first, stop, window.dilation))
    return _finish_max(x, spans, return_indices, windows)


def _finish_max(
    x: Tensor, spans: list, return_indices: bool, windows: list[Window] | None = None
) -> Any:
    function = MaxPool(spans, return_indices, windows)
    y = apply(function, x)
    if not return_indices:
        return y
    with no_grad():  # there is no gradient of positions
        return y, apply(Positions(function), y)


def max_pool2d(
    x: Any,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Maximum of each window.

    Parameters
    ----------
    x : Tensor of shape (N, H, W, C)
    kernel_size : int or two ints
        Height and width of the window.
    stride : int or two ints, optional
        Pixels from one window to the next; `kernel_size` if left out.
    padding : int or two ints
        Pixels of minus infinity on both sides, at most half of `kernel_size`.
    dilation : int or two ints
        Pixels from one element of the window to the next.
    ceil_mode : bool
        Keep a last window that hangs over the end, as long as it starts inside.
    return_indices : bool
        Also return where the maxima were.

    Returns
    -------
    y : Tensor of shape (N, OH, OW, C)
        NaN where there is one in the window.
    indices : Tensor of the shape of y, int32 where that suffices, else int64
        Only if `return_indices`: flat positions ``(h * W + w) * C + c`` inside each image
        (TensorFlow's convention), of the first among equal maxima. Not differentiable.

    Raises
    ------
    ValueError
        If the window does not fit, or would contain nothing but padding.
    """
    return _max_pool(
        "max_pool2d", 2, x, kernel_size, stride, padding, dilation, ceil_mode, return_indices
    )


def max_pool1d(
    x: Any,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Maximum of each window of a sequence; see `max_pool2d`.

    Parameters
    ----------
    x : Tensor of shape (N, L, C)
    kernel_size, stride, padding, dilation, ceil_mode, return_indices
        As for `max_pool2d`, with an integer for each spatial axis.

    Returns
    -------
    y, or (y, indices): Tensors of shape (N, OL, C)
        Positions are ``l * C + c``.
    """
    return _max_pool(
        "max_pool1d", 1, x, kernel_size, stride, padding, dilation, ceil_mode, return_indices
    )


def max_pool3d(
    x: Any,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Maximum of each window of a volume; see `max_pool2d`.

    Parameters
    ----------
    x : Tensor of shape (N, D, H, W, C)
    kernel_size, stride, padding, dilation, ceil_mode, return_indices
        As for `max_pool2d`, with an integer for each spatial axis.

    Returns
    -------
    y, or (y, indices): Tensors of shape (N, OD, OH, OW, C)
        Positions are ``((d * H + h) * W + w) * C + c``.
    """
    return _max_pool(
        "max_pool3d", 3, x, kernel_size, stride, padding, dilation, ceil_mode, return_indices
    )


class MaxUnpool(Function):
    """Values written to their positions in an image of zeros. Inputs: x, indices."""

    fresh_gradients = True

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def forward(self, x, indices):
        self.indices = indices
        return kernels.pool.scatter(x, indices, self.shape)

    def backward(self, gy):
        return kernels.pool.scatter_grad(gy, self.indices), None


def max_unpool2d(
    x: Any,
    indices: Any,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """Put values back where `max_pool2d` found them, and zero elsewhere.

    Parameters
    ----------
    x : Tensor of shape (N, H, W, C)
    indices : integer Tensor of the same shape
        Flat positions ``(h * OW + w) * C + c`` inside each image of the result.
    kernel_size, stride, padding : int or two ints
        Those of the pooling.
    output_size : (OH, OW) or (N, OH, OW, C), optional
        Less than a stride away from ``(H - 1) * stride - 2 * padding + kernel_size``, which it is
        if left out. Several sizes are pooled to the same one; this chooses among them.

    Returns
    -------
    Tensor of shape (N, OH, OW, C)

    Raises
    ------
    TypeError, ValueError
        If `indices` are not integers, have another shape or lie outside of the image, or
        `output_size` is too far away.

    Notes
    -----
    Where windows overlap, a position may occur more than once. The last value in the order of
    memory is written, and it alone has a gradient. So unpooling what was pooled keeps each
    maximum as it is (a sum would count it several times), and the gradient is exact.

    References
    ----------
    Zeiler & Fergus, Visualizing and Understanding Convolutional Networks, 2014, section 2.1.
    """
    (x,) = check.floating("max_unpool2d", x=x)
    indices = as_tensor(indices)
    windows = _windows("max_unpool2d", x, 2, kernel_size, stride, padding, 1)
    size = _unpooled_size(x, windows, output_size)
    _check_indices(x, indices, size)
    return apply(MaxUnpool((len(x), *size, x.shape[-1])), x, indices)


def _unpooled_size(x: Tensor, windows: list[Window], wanted: Any) -> tuple[int, ...]:
    """Height and width of the result of unpooling."""
    default = tuple(window.in_size(n) for window, n in zip(windows, x.shape[1:3], strict=True))
    if wanted is None:
        return default
    size = tuple(wanted)
    if len(size) == 4 and (size[0], size[3]) == (x.shape[0], x.shape[3]):
        size = size[1:3]
    near = len(size) == 2 and all(
        d - window.stride < n < d + window.stride
        for n, d, window in zip(size, default, windows, strict=True)
    )
    if not near:
        strides = tuple(window.stride for window in windows)
        raise ValueError(
            f"max_unpool2d: output_size must be (OH, OW) or (N, OH, OW, C) and less than a stride "
            f"{strides} away from {default}, but is {tuple(wanted)}; x has shape {x.shape}."
        )
    return size


def _range_of(indices: Tensor) -> tuple[int, int]:
    """Lowest and highest of them."""
    array = indices.detach().data
    return (int(array.min()), int(array.max())) if array.size else (0, 0)


def _check_indices(x: Tensor, indices: Tensor, size: tuple[int, ...]) -> None:
    if indices.dtype.kind not in "iu":
        raise TypeError(
            f"max_unpool2d: indices must be integers, such as max_pool2d(..., return_indices=True) "
            f"returns, but have dtype {indices.dtype}."
        )
    if indices.shape != x.shape:
        raise ValueError(
            f"max_unpool2d: indices must have the shape of x, {x.shape}, but have {indices.shape}."
        )
    end = size[0] * size[1] * x.shape[-1]
    lowest, highest = _range_of(indices)
    if lowest < 0 or highest >= end:
        raise ValueError(
            f"max_unpool2d: indices must be from 0 to {end - 1}, positions in an image of "
            f"{size[0]} x {size[1]} x {x.shape[-1]}, but reach from {lowest} to {highest}. "
            f"Pass the output_size that was pooled."
        )


def _avg_pool(
    function: str, dims: int, x: Any, kernel_size: Any, stride: Any, padding: Any,
    ceil_mode: bool, count_include_pad: bool,
) -> Tensor:  # fmt: skip
    (x,) = check.floating(function, x=x)
    windows = _windows(function, x, dims, kernel_size, stride, padding, 1)
    starts = _positions(function, x, windows, ceil_mode)
    bands, counts = [], []
    for window, start, size in zip(windows, starts, x.shape[1:-1], strict=True):
        first, stop = np.maximum(start, 0), np.minimum(start + window.kernel, size)
        bands.append(_ones_band(first, stop))
        padded_stop = np.minimum(start + window.kernel, size + window.after)
        counts.append(padded_stop - start if count_include_pad else stop - first)
    return apply(AveragePool(bands, counts, windows), x)


def _ones_band(first: np.ndarray, stop: np.ndarray) -> Any:
    """The band that sums up ``range(first, stop)``."""
    count = stop - first
    return kernels.resize.Band.of(first, np.arange(count.max()) < count[:, None])


def avg_pool2d(
    x: Any,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """Average of each window.

    Parameters
    ----------
    x : Tensor of shape (N, H, W, C)
    kernel_size : int or two ints
        Height and width of the window.
    stride : int or two ints, optional
        Pixels from one window to the next; `kernel_size` if left out.
    padding : int or two ints
        Pixels of zeros on both sides, at most half of `kernel_size`.
    ceil_mode : bool
        Keep a last window that hangs over the end, as long as it starts inside. What hangs over
        the padding does not count.
    count_include_pad : bool
        Count the zeros of the padding in the average.

    Returns
    -------
    Tensor of shape (N, OH, OW, C)

    Raises
    ------
    ValueError
        If the window does not fit.
    """
    return _avg_pool("avg_pool2d", 2, x, kernel_size, stride, padding, ceil_mode, count_include_pad)


def avg_pool1d(
    x: Any,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """Average of each window of a sequence; see `avg_pool2d`.

    Parameters
    ----------
    x : Tensor of shape (N, L, C)
    kernel_size, stride, padding, ceil_mode, count_include_pad
        As for `avg_pool2d`, with an integer for each spatial axis.

    Returns
    -------
    Tensor of shape (N, OL, C)
    """
    return _avg_pool("avg_pool1d", 1, x, kernel_size, stride, padding, ceil_mode, count_include_pad)


def avg_pool3d(
    x: Any,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """Average of each window of a volume; see `avg_pool2d`.

    Parameters
    ----------
    x : Tensor of shape (N, D, H, W, C)
    kernel_size, stride, padding, ceil_mode, count_include_pad
        As for `avg_pool2d`, with an integer for each spatial axis.

    Returns
    -------
    Tensor of shape (N, OD, OH, OW, C)
    """
    return _avg_pool("avg_pool3d", 3, x, kernel_size, stride, padding, ceil_mode, count_include_pad)


def _bins(function: str, x: Tensor, output_size: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """Start and end of the windows that divide each axis into `output_size` parts."""
    check.axes(function, "x", x, LAYOUTS[2])
    pair = output_size if isinstance(output_size, Sequence) else (output_size,) * 2
    if len(pair) == 2:
        pair = tuple(n if o is None else o for o, n in zip(pair, x.shape[1:3], strict=True))
    out = check.integers(function, "output_size", pair, 2, 1)
    return [
        (np.arange(o) * n // o, -(-np.arange(1, o + 1) * n // o))
        for o, n in zip(out, x.shape[1:3], strict=True)
    ]


def adaptive_avg_pool2d(x: Any, output_size: int | Sequence[int | None] | None) -> Tensor:
    """Averages over windows that divide the image into a given number of parts.

    Parameters
    ----------
    x : Tensor of shape (N, H, W, C)
    output_size : int or two ints
        OH and OW; None keeps the size of the axis. Window i reaches from ``floor(i * H / OH)`` to
        ``ceil((i + 1) * H / OH)``; windows overlap where the division leaves a remainder.

    Returns
    -------
    Tensor of shape (N, OH, OW, C)
    """
    (x,) = check.floating("adaptive_avg_pool2d", x=x)
    bins = _bins("adaptive_avg_pool2d", x, output_size)
    bands = [_ones_band(first, stop) for first, stop in bins]
    return apply(AveragePool(bands, [stop - first for first, stop in bins], None), x)


def adaptive_max_pool2d(
    x: Any, output_size: int | Sequence[int | None] | None, return_indices: bool = False
) -> Any:
    """Maxima over windows that divide the image into a given number of parts.

    Parameters
    ----------
    x : Tensor of shape (N, H, W, C)
    output_size : int or two ints
        As for `adaptive_avg_pool2d`.
    return_indices : bool
        Also return where the maxima were, as `max_pool2d` does.

    Returns
    -------
    y, or (y, indices): Tensors of shape (N, OH, OW, C)
    """
    (x,) = check.floating("adaptive_max_pool2d", x=x)
    bins = _bins("adaptive_max_pool2d", x, output_size)
    spans = [kernels.pool.Span(first, stop, 1) for first, stop in bins]
    return _finish_max(x, spans, return_indices)
