"""Activations as layers, and dropout."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import functional as F
from minidl.functional import check
from minidl.nn.module import Module


class ReLU(Module):
    """`minidl.functional.relu`."""

    def forward(self, x: Any, plus: Any = None) -> Any:
        """(...) to the same shape; with `plus`, of that shape too, of the sum of both."""
        return F.relu(x, plus=plus)


class LeakyReLU(Module):
    """`minidl.functional.leaky_relu`.

    Parameters
    ----------
    negative_slope : float
    """

    def __init__(self, negative_slope: float = 0.01) -> None:
        super().__init__()
        self.negative_slope = negative_slope

    def forward(self, x: Any) -> Any:
        """(...) to the same shape."""
        return F.leaky_relu(x, self.negative_slope)


class ELU(Module):
    """`minidl.functional.elu`.

    Parameters
    ----------
    alpha : float
    """

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, x: Any) -> Any:
        """(...) to the same shape."""
        return F.elu(x, self.alpha)


class GELU(Module):
    """`minidl.functional.gelu`.

    Parameters
    ----------
    approximate : str
    """

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = approximate

    def forward(self, x: Any) -> Any:
        """(...) to the same shape."""
        return F.gelu(x, self.approximate)


class Sigmoid(Module):
    """`minidl.functional.sigmoid`."""

    def forward(self, x: Any) -> Any:
        """(...) to the same shape."""
        return F.sigmoid(x)


class Tanh(Module):
    """`minidl.functional.tanh`."""

    def forward(self, x: Any) -> Any:
        """(...) to the same shape."""
        return F.tanh(x)


class Softplus(Module):
    """`minidl.functional.softplus`.

    Parameters
    ----------
    beta : float
    threshold : float
    """

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        super().__init__()
        self.beta, self.threshold = beta, threshold

    def forward(self, x: Any) -> Any:
        """(...) to the same shape."""
        return F.softplus(x, self.beta, self.threshold)


class Softmax(Module):
    """`minidl.functional.softmax`.

    Parameters
    ----------
    axis : int
    """

    def __init__(self, axis: int = -1) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, x: Any) -> Any:
        """(...) to the same shape."""
        return F.softmax(x, self.axis)


class LogSoftmax(Module):
    """`minidl.functional.log_softmax`.

    Parameters
    ----------
    axis : int
    """

    def __init__(self, axis: int = -1) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, x: Any) -> Any:
        """(...) to the same shape."""
        return F.log_softmax(x, self.axis)


class _Dropout(Module):
    def __init__(self, p: float = 0.5, generator: np.random.Generator | None = None) -> None:
        super().__init__()
        self.p, self.generator = check.fraction(type(self).__name__, "p", p), generator


class Dropout(_Dropout):
    """Drops elements in training: see `minidl.functional.dropout`.

    Parameters
    ----------
    p : float in [0, 1]
        Probability of being dropped.
    generator : numpy.random.Generator, optional
        By default that of `minidl.manual_seed`.
    """

    def forward(self, x: Any) -> Any:
        """(...) to the same shape; `x` itself unless in training."""
        return F.dropout(x, self.p, self.training, self.generator)


class Dropout1d(_Dropout):
    """Drops whole channels of sequences in training: see `minidl.functional.dropout1d`.

    Parameters
    ----------
    p : float in [0, 1]
        Probability of being dropped.
    generator : numpy.random.Generator, optional
        By default that of `minidl.manual_seed`.
    """

    def forward(self, x: Any) -> Any:
        """(...) to the same shape; `x` itself unless in training."""
        return F.dropout1d(x, self.p, self.training, self.generator)


class Dropout2d(_Dropout):
    """Drops whole channels of images in training: see `minidl.functional.dropout2d`.

    Parameters
    ----------
    p : float in [0, 1]
        Probability of being dropped.
    generator : numpy.random.Generator, optional
        By default that of `minidl.manual_seed`.
    """

    def forward(self, x: Any) -> Any:
        """(...) to the same shape; `x` itself unless in training."""
        return F.dropout2d(x, self.p, self.training, self.generator)


class Dropout3d(_Dropout):
    """Drops whole channels of volumes in training: see `minidl.functional.dropout3d`.

    Parameters
    ----------
    p : float in [0, 1]
        Probability of being dropped.
    generator : numpy.random.Generator, optional
        By default that of `minidl.manual_seed`.
    """

    def forward(self, x: Any) -> Any:
        """(...) to the same shape; `x` itself unless in training."""
        return F.dropout3d(x, self.p, self.training, self.generator)
