"""Layers that pool, unpool and change sizes."""

from __future__ import annotations

from typing import Any

from minidl import functional as F
from minidl.nn.module import Module


class _MaxPool(Module):
    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.dilation, self.ceil_mode, self.return_indices = dilation, ceil_mode, return_indices

    @property
    def arguments(self) -> tuple:
        """What the function takes besides its input."""
        return (
            self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode,
            self.return_indices,
        )  # fmt: skip


class MaxPool1d(_MaxPool):
    """`minidl.functional.max_pool1d`, whose arguments it takes."""

    def forward(self, x: Any) -> Any:
        """(N, L, C) to (N, OL, C), and the indices if asked for."""
        return F.max_pool1d(x, *self.arguments)


class MaxPool2d(_MaxPool):
    """`minidl.functional.max_pool2d`, whose arguments it takes."""

    def forward(self, x: Any) -> Any:
        """(N, H, W, C) to (N, OH, OW, C), and the indices if asked for."""
        return F.max_pool2d(x, *self.arguments)


class MaxPool3d(_MaxPool):
    """`minidl.functional.max_pool3d`, whose arguments it takes."""

    def forward(self, x: Any) -> Any:
        """(N, D, H, W, C) to (N, OD, OH, OW, C), and the indices if asked for."""
        return F.max_pool3d(x, *self.arguments)


class MaxUnpool2d(Module):
    """`minidl.functional.max_unpool2d`.

    Parameters
    ----------
    kernel_size : int or two ints
    stride : int or two ints, optional
    padding : int or two ints
    """

    def __init__(self, kernel_size: Any, stride: Any = None, padding: Any = 0) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding

    def forward(self, x: Any, indices: Any, output_size: Any = None) -> Any:
        """`x` at the positions `indices` that pooling gave, zeros elsewhere."""
        return F.max_unpool2d(x, indices, self.kernel_size, self.stride, self.padding, output_size)


class _AvgPool(Module):
    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.ceil_mode, self.count_include_pad = ceil_mode, count_include_pad

    @property
    def arguments(self) -> tuple:
        """What the function takes besides its input."""
        return self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad


class AvgPool1d(_AvgPool):
    """`minidl.functional.avg_pool1d`, whose arguments it takes."""

    def forward(self, x: Any) -> Any:
        """(N, L, C) to (N, OL, C)."""
        return F.avg_pool1d(x, *self.arguments)


class AvgPool2d(_AvgPool):
    """`minidl.functional.avg_pool2d`, whose arguments it takes."""

    def forward(self, x: Any) -> Any:
        """(N, H, W, C) to (N, OH, OW, C)."""
        return F.avg_pool2d(x, *self.arguments)


class AvgPool3d(_AvgPool):
    """`minidl.functional.avg_pool3d`, whose arguments it takes."""

    def forward(self, x: Any) -> Any:
        """(N, D, H, W, C) to (N, OD, OH, OW, C)."""
        return F.avg_pool3d(x, *self.arguments)


class AdaptiveAvgPool2d(Module):
    """`minidl.functional.adaptive_avg_pool2d`.

    Parameters
    ----------
    output_size : int or two ints
    """

    def __init__(self, output_size: Any) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, x: Any) -> Any:
        """(N, H, W, C) to (N, *output_size, C)."""
        return F.adaptive_avg_pool2d(x, self.output_size)


class AdaptiveMaxPool2d(Module):
    """`minidl.functional.adaptive_max_pool2d`.

    Parameters
    ----------
    output_size : int or two ints
    return_indices : bool
    """

    def __init__(self, output_size: Any, return_indices: bool = False) -> None:
        super().__init__()
        self.output_size, self.return_indices = output_size, return_indices

    def forward(self, x: Any) -> Any:
        """(N, H, W, C) to (N, *output_size, C), and the indices if asked for."""
        return F.adaptive_max_pool2d(x, self.output_size, self.return_indices)


class Upsample(Module):
    """`minidl.functional.interpolate`.

    Parameters
    ----------
    size : int or two ints, optional
    scale_factor : float or two floats, optional
        One of `size` and `scale_factor`.
    mode : 'nearest' or 'bilinear'
    align_corners : bool
    """

    def __init__(
        self,
        size: Any = None,
        scale_factor: Any = None,
        mode: str = "nearest",
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.size, self.scale_factor = size, scale_factor
        self.mode, self.align_corners = mode, align_corners

    def forward(self, x: Any) -> Any:
        """(N, H, W, C) to (N, OH, OW, C)."""
        return F.interpolate(x, self.size, self.scale_factor, self.mode, self.align_corners)


class _Pad2d(Module):
    mode = ""

    def __init__(self, padding: Any) -> None:
        super().__init__()
        self.padding = (padding,) * 4 if isinstance(padding, int) else tuple(padding)
        if len(self.padding) != 4:
            raise ValueError(
                f"{type(self).__name__}: padding must be one number or (left, right, top, "
                f"bottom), but is {padding!r}."
            )

    def forward(self, x: Any) -> Any:
        """(N, H, W, C) to (N, top + H + bottom, left + W + right, C)."""
        left, right, top, bottom = self.padding
        return F.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), self.mode)


class ZeroPad2d(_Pad2d):
    """Zeros around an image.

    Parameters
    ----------
    padding : int, or four ints (left, right, top, bottom)
    """

    mode = "constant"


class ReflectionPad2d(_Pad2d):
    """An image mirrored beyond its edges, the outermost pixels not repeated.

    Parameters
    ----------
    padding : int, or four ints (left, right, top, bottom)
    """

    mode = "reflect"


class ReplicationPad2d(_Pad2d):
    """The outermost pixels of an image, repeated.

    Parameters
    ----------
    padding : int, or four ints (left, right, top, bottom)
    """

    mode = "replicate"
