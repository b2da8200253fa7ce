"""Keeping gradients from growing without bounds."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from minidl import kernels
from minidl.tensor import Tensor


def clip_grad_norm_(
    parameters: Iterable[Tensor] | Tensor,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
) -> float:
    """Scale all gradients together, in place, so that their norm is at most `max_norm`.

    Parameters
    ----------
    parameters : iterable of Tensor, or Tensor
        Those without a gradient do not count.
    max_norm : float
    norm_type : float
        2 for the Euclidean norm, infinity for the largest element.
    error_if_nonfinite : bool
        Raise RuntimeError if the norm is infinite or not a number. Otherwise such gradients
        become 0 or not a number.

    Returns
    -------
    float
        The norm of all gradients, taken as one vector, before they were scaled.

    References
    ----------
    Pascanu, Mikolov, Bengio, On the difficulty of training recurrent neural networks, 2013,
    algorithm 1.
    """
    tensors = [parameters] if isinstance(parameters, Tensor) else parameters
    gradients = [p.grad for p in tensors if p.grad is not None]
    norm = _norm(gradients, norm_type)
    if error_if_nonfinite and not math.isfinite(norm):
        raise RuntimeError(f"clip_grad_norm_: the norm of the gradients is {norm}.")
    if not max_norm >= 0:
        raise ValueError(f"clip_grad_norm_: max_norm must be at least 0, but is {max_norm!r}.")
    factor = max_norm / (norm + 1e-6)
    if not factor >= 1:
        for gradient in gradients:
            np.multiply(gradient, gradient.dtype.type(factor), out=gradient)
    return norm


def _norm(gradients: list[np.ndarray], norm_type: float) -> float:
    if norm_type == 2:
        return math.sqrt(sum(map(kernels.optim.sum_of_squares, gradients)))
    if norm_type == math.inf:
        return float(max((np.abs(g).max(initial=0) for g in gradients), default=0.0))
    powers = (np.sum(np.abs(g.astype(np.float64)) ** norm_type) for g in gradients)
    return float(sum(powers) ** (1 / norm_type))
