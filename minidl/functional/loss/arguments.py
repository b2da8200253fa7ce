"""What the losses do to their arguments: to plain arrays, checked.

Targets, weights and masks are constants: no gradient leads to them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import kernels
from minidl.functional import check
from minidl.tensor import Tensor

REDUCTIONS = ("none", "mean", "sum")


def constant(function: str, name: str, value: Any) -> np.ndarray:
    """`value` as a plain array; no gradient leads to it, so it must not ask for one."""
    if isinstance(value, Tensor) and value.requires_grad:
        raise ValueError(
            f"{function}: {name} is a constant here and cannot be differentiated. "
            f"Pass {name}.detach()."
        )
    return np.asarray(value)


def logits_of(function: str, logits: Any) -> Tensor:
    """Floating logits (..., classes)."""
    (logits,) = check.floating(function, logits=logits)
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(
            f"{function}: logits must have shape (..., classes), but have shape {logits.shape}."
        )
    return logits


def labels_of(function: str, target: np.ndarray, logits: Tensor) -> np.ndarray:
    """Integer labels (...) for logits (..., classes), flat and as int64."""
    if target.dtype.kind not in "iub":
        raise TypeError(
            f"{function}: target must be integer labels, but has dtype {target.dtype}. "
            "Convert it, for example with target.astype('int64')."
        )
    if target.shape != logits.shape[:-1]:
        raise ValueError(
            f"{function}: target must have shape {logits.shape[:-1]}, that of logits "
            f"{logits.shape} without the classes, but has shape {target.shape}."
        )
    return np.ascontiguousarray(target, np.int64).reshape(-1)


def class_weights(function: str, name: str, weight: Any, classes: int) -> np.ndarray:
    """One float64 number for each class; ones where None was given."""
    if weight is None:
        return np.ones(classes)
    weight = constant(function, name, weight).astype(np.float64)
    if weight.shape != (classes,):
        raise ValueError(
            f"{function}: {name} must be {classes} numbers, one for each class of the logits, "
            f"but has shape {weight.shape}."
        )
    return np.ascontiguousarray(weight)


def pixel_weights(function: str, weight: Any, shape: tuple[int, ...]) -> np.ndarray:
    """One float64 number for each pixel, flat; empty where None was given."""
    if weight is None:
        return np.empty(0)
    weight = constant(function, "pixel_weight", weight)
    if weight.shape != shape:
        raise ValueError(
            f"{function}: pixel_weight must have shape {shape}, one number for each pixel, "
            f"but has shape {weight.shape}."
        )
    return np.ascontiguousarray(weight, np.float64).reshape(-1)


def survey(
    function: str,
    labels: np.ndarray,
    class_weight: np.ndarray,
    ignore_index: int,
    shape: tuple[int, ...],
) -> Any:
    """Sum of the weights and number of the labels, all of which must be classes."""
    found = kernels.loss.survey(labels, class_weight, ignore_index)
    if found.wrong >= 0:
        position = tuple(map(int, np.unravel_index(found.wrong, shape)))
        raise ValueError(
            f"{function}: target has the label {labels[found.wrong]} at {position}, but the "
            f"logits have {len(class_weight)} classes: labels must be 0 to "
            f"{len(class_weight) - 1}, or ignore_index={ignore_index}."
        )
    return found
