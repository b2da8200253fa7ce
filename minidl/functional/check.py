"""How errors are phrased: function, argument, what was expected, what came, the way out.

Arguments are checked once, in the public function, by these helpers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl.tensor import Tensor, as_tensor


def floating(function: str, optional: Sequence[str] = (), /, **tensors: Any) -> tuple[Any, ...]:
    """Tensors of one floating dtype, from named arguments; None stays None if it is `optional`."""
    for name, x in tensors.items():
        if x is None and name not in optional:
            raise TypeError(f"{function}: {name} must be a tensor or an array, but is None.")
    converted = {name: x if x is None else as_tensor(x) for name, x in tensors.items()}
    present: dict[str, Tensor] = {name: x for name, x in converted.items() if x is not None}
    for name, x in present.items():
        if x.dtype.kind != "f":
            raise TypeError(
                f"{function}: {name} must be floating, but has dtype {x.dtype}. "
                f"Convert it, for example with {name}.astype('float32')."
            )
    first, *others = present
    for name in others:
        if present[name].dtype != present[first].dtype:
            raise TypeError(
                f"{function}: {first} has dtype {present[first].dtype}, but {name} has "
                f"{present[name].dtype}. Convert one of them with astype()."
            )
    return tuple(converted.values())


def axes(function: str, name: str, x: Tensor, expected: str) -> Tensor:
    """`x` if it has as many axes as the layout `expected`, such as ``"N H W C"``, has letters."""
    if x.ndim != len(expected.split()):
        layout = ", ".join(expected.split())
        raise ValueError(f"{function}: {name} must have shape ({layout}), but has shape {x.shape}.")
    return x


def integers(function: str, name: str, value: Any, count: int, least: int) -> tuple[int, ...]:
    """`count` integers from one integer or a sequence of them, none below `least`."""
    if type(value) is int and value >= least:  # as a rule; what follows takes ten times as long
        return (value,) * count
    values = (value,) * count if isinstance(value, int | np.integer) else value
    fits = (
        isinstance(values, Sequence | np.ndarray)
        and not isinstance(values, str)
        and len(values) == count
        and all(isinstance(v, int | np.integer) and v >= least for v in values)
    )
    if not fits:
        many = f"an integer or {count} integers" if count > 1 else "an integer"
        raise ValueError(f"{function}: {name} must be {many} >= {least}, but is {value!r}.")
    return tuple(int(v) for v in values)


def choice(function: str, name: str, value: Any, allowed: Sequence[Any]) -> Any:
    """`value` if it is one of `allowed`."""
    if value not in allowed:
        listed = ", ".join(map(repr, allowed))
        raise ValueError(f"{function}: {name} must be one of {listed}, but is {value!r}.")
    return value


def fraction(function: str, name: str, value: float) -> float:
    """`value` if it lies in [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f"{function}: {name} must be between 0 and 1, but is {value!r}.")
    return value
