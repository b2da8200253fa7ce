"""Layers that normalise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl import functional as F
from minidl import tensor
from minidl.functional import check
from minidl.nn.conv import Conv1d, Conv2d, Conv3d
from minidl.nn.module import Module, Parameter


class _BatchNorm(Module):
    """What batch normalisation of all layouts has in common."""

    layouts: tuple[str, ...] = ()
    absorbs = Conv1d, Conv2d, Conv3d
    running_mean: np.ndarray | None
    running_var: np.ndarray | None
    num_batches_tracked: np.ndarray | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        dtype: Any = np.float32,
        *,
        activation: str | None = None,
    ) -> None:
        super().__init__()
        check.integers(type(self).__name__, "num_features", num_features, 1, 1)
        self.activation = check.choice(
            type(self).__name__, "activation", activation, (None, "relu")
        )
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        self.weight = Parameter(np.ones(num_features, dtype)) if affine else None
        self.bias = Parameter(np.zeros(num_features, dtype)) if affine else None
        track = track_running_stats
        self.register_buffer("running_mean", np.zeros(num_features, dtype) if track else None)
        self.register_buffer("running_var", np.ones(num_features, dtype) if track else None)
        self.register_buffer("num_batches_tracked", np.zeros((), np.int64) if track else None)

    def __call__(self, x: Any, *args: Any, after: Any = None, **kwargs: Any) -> Any:
        """``self(after(x))``, if there is a convolution `after` which this is.

        In predicting the layer becomes part of the weights of the convolution, and takes no time of
        its own.
        """
        if after is None:
            return super().__call__(x, *args, **kwargs)
        if self._is_constant() and after.activation is None:
            return after.mapped(x, *self._map(), self.activation)
        return super().__call__(after(x), *args, **kwargs)

    def forward(self, x: Any) -> Any:
        """`x` normalised: in training by this batch, otherwise by the running moments."""
        if np.ndim(x) not in {len(layout.split()) for layout in self.layouts}:
            wanted = " or ".join(f"({', '.join(layout.split())})" for layout in self.layouts)
            raise ValueError(
                f"{type(self).__name__}: x must have shape {wanted}, but has shape {np.shape(x)}."
            )
        y = F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training,
            self._share(), self.eps, activation=self.activation,
        )  # fmt: skip
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked += 1
        return y

    def _is_constant(self) -> bool:
        """Whether it is a scale and a shift that nobody wants to see or to differentiate."""
        fixed = not self.training and self.running_mean is not None
        return fixed and not tensor.is_grad_enabled() and tensor.listener is None

    def _map(self) -> tuple[np.ndarray, np.ndarray]:
        """Scale and shift of each channel by the running moments."""
        mean, variance = self.running_mean, self.running_var
        assert mean is not None and variance is not None
        scale = 1 / np.sqrt(variance.astype(np.float64) + self.eps)
        scale = scale if self.weight is None else scale * self.weight.data
        shift = -mean * scale if self.bias is None else self.bias.data - mean * scale
        return scale.astype(mean.dtype), shift.astype(mean.dtype)

    def _share(self) -> float:
        """Share of this batch in the running moments; without momentum they are plain means."""
        if self.momentum is not None:
            return self.momentum
        return 0.0 if self.num_batches_tracked is None else 1 / (int(self.num_batches_tracked) + 1)


class BatchNorm1d(_BatchNorm):
    """`minidl.functional.batch_norm` of (N, C) or (N, L, C), and the running moments it needs.

    Parameters
    ----------
    num_features, eps, momentum, affine, track_running_stats, dtype, activation
        As for `BatchNorm2d`.
    """

    layouts = "N C", "N L C"


class BatchNorm2d(_BatchNorm):
    """`minidl.functional.batch_norm` of images (N, H, W, C), and the running moments it needs.

    Parameters
    ----------
    num_features : int
        Channels.
    eps : float
    momentum : float, or None
        Share of each batch in the running moments. None makes them the mean over all batches.
    affine : bool
        Whether there are a weight and a bias to be learned.
    track_running_stats : bool
        Whether there are running moments. Otherwise each batch is normalised by itself, in
        predicting as well.
    dtype : float32 or float64
    activation : None or 'relu'
        With 'relu', followed by a ReLU, in the same passes over memory.

    Notes
    -----
    The running variance is that of unbiased variances, as in PyTorch.
    """

    layouts = ("N H W C",)


class BatchNorm3d(_BatchNorm):
    """`minidl.functional.batch_norm` of volumes (N, D, H, W, C), and the running moments it needs.

    Parameters
    ----------
    num_features, eps, momentum, affine, track_running_stats, dtype, activation
        As for `BatchNorm2d`.
    """

    layouts = ("N D H W C",)


class GroupNorm(Module):
    """`minidl.functional.group_norm` with a weight and a bias for each channel.

    Parameters
    ----------
    num_groups, num_channels : int
    eps : float
    affine : bool
        Whether there are a weight and a bias to be learned.
    dtype : float32 or float64
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__()
        self.num_groups, self.num_channels, self.eps = num_groups, num_channels, eps
        if num_channels % num_groups:
            raise ValueError(
                f"GroupNorm: num_channels={num_channels} must be divisible by "
                f"num_groups={num_groups}."
            )
        self.weight = Parameter(np.ones(num_channels, dtype)) if affine else None
        self.bias = Parameter(np.zeros(num_channels, dtype)) if affine else None

    def forward(self, x: Any) -> Any:
        """`x` of shape (N, ..., C) normalised."""
        if np.shape(x)[-1:] != (self.num_channels,):
            raise ValueError(
                f"GroupNorm: x must have {self.num_channels} channels in its last axis, but has "
                f"shape {np.shape(x)}."
            )
        return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


class LayerNorm(Module):
    """`minidl.functional.layer_norm` with a weight and a bias for each normalised value.

    Parameters
    ----------
    normalized_shape : int or sequence of int
    eps : float
    elementwise_affine : bool
        Whether there are a weight and a bias to be learned.
    bias : bool
        Whether there is a bias, if there is a weight.
    dtype : float32 or float64
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__()
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else normalized_shape
        self.normalized_shape, self.eps = tuple(shape), eps
        self.weight = Parameter(np.ones(shape, dtype)) if elementwise_affine else None
        self.bias = Parameter(np.zeros(shape, dtype)) if elementwise_affine and bias else None

    def forward(self, x: Any) -> Any:
        """`x` normalised over its last axes."""
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


class LocalResponseNorm(Module):
    """`minidl.functional.local_response_norm`.

    Parameters
    ----------
    size : int
    alpha, beta, k : float
    """

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        super().__init__()
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, x: Any) -> Any:
        """`x` of shape (..., C) normalised by its neighbouring channels."""
        return F.local_response_norm(x, self.size, self.alpha, self.beta, self.k)
