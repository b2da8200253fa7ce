"""Checking gradients: what backward gives against what small steps of the inputs give.

First all inputs move together in one random direction, which costs three evaluations. Only where
that disagrees are they halved and halved again, down to single entries, to name the worst one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from minidl.tensor import Tensor, no_grad

# Differences of single precision drown in rounding below this step, whatever was asked for.
SINGLE_STEP = 2.0**-4
SHRINK = 8  # further tries, with so much smaller a step each, steer clear of kinks nearby
ROUNDING = 8  # errors of a result, in units of its last place


class GradcheckError(RuntimeError):
    """A gradient that is wrong, does not exist, or cannot be checked."""


class _Entry(NamedTuple):
    """A derivative that backward and the steps disagree about."""

    place: str
    analytic: float
    before: float  # numeric derivatives to both sides
    behind: float
    tolerance: float

    @property
    def numeric(self) -> float:
        return (self.before + self.behind) / 2

    @property
    def is_kink(self) -> bool:
        """Whether the two sides differ so much that any number in between could be right."""
        low, high = sorted((self.before, self.behind))
        inside = low - self.tolerance <= self.analytic <= high + self.tolerance
        return inside and high - low > self.tolerance


def gradcheck(
    f: Callable[..., Any], inputs: Any, eps: float = 1e-6, atol: float = 1e-5, rtol: float = 1e-3
) -> bool:
    """Check the gradients of `f` against differences of its values.

    Parameters
    ----------
    f : callable
        Takes tensors, returns a tensor or a tuple of them; or a module, whose parameters are
        checked as well. Constants, such as labels, are best closed over.
    inputs : Tensor or ndarray, or a tuple of them
        The point to check at, floating. They are not changed. While a module is checked, its
        parameters have the dtype of the first input.
    eps : float
        First step, followed by an eighth of it and so on where that disagrees. In single
        precision at least 1/16, because smaller steps drown in rounding.
    atol, rtol : float
        An entry is right if it differs from the numeric derivative by at most
        ``atol + rtol * abs(numeric)``, plus the error that rounding of the results may have caused.

    Returns
    -------
    True

    Raises
    ------
    GradcheckError
        If a gradient is wrong or missing, naming the worst entry; if there is a kink, where no
        derivative exists; if two runs differ.
    TypeError, ValueError
        If inputs or results are nothing to be differentiated.

    Notes
    -----
    In one direction the results, weighted at random, may differ by `atol` and rounding only, so
    that it is rather too strict, and then every entry is tried. Rounding is reckoned as
    8 units in the last place of each result that changed, added up as independent errors. In single
    precision that is 1e-5 of the size of the results for the first step, and 1e-3 for the smallest,
    and gradients that are wrong by less go unnoticed; in double precision, 1e-9 and 1e-7. Kinks are
    noticed within a 64th of the step. The random numbers are always the same.

    Examples
    --------
    >>> gradcheck(lambda x: x * x, np.array([1.0, 2.0]))
    True
    """
    names, tensors, call = _prepare(f, inputs)
    before = [(x.numpy(), x.grad) for x in tensors]
    for name, x in zip(names, tensors, strict=True):
        if name.startswith("parameter") and x.dtype != tensors[0].dtype:
            x.data = x.numpy().astype(tensors[0].dtype)
    buffers = [(b, b.copy()) for _, b in getattr(f, "named_buffers", lambda: ())()]
    try:
        _Check(names, tensors, call, eps, atol, rtol).run()
    finally:
        for x, (array, grad) in zip(tensors, before, strict=True):
            if x.dtype != array.dtype:
                x.data = array
            x.data[...], x.grad = array, grad
        for buffer, values in buffers:
            buffer[...] = values
    return True


def _prepare(f: Callable, inputs: Any) -> tuple[list[str], list[Tensor], Callable]:
    """Names and tensors of all that is checked, and `f` as a function without arguments."""
    inputs = inputs if isinstance(inputs, tuple | list) else (inputs,)
    names = [f"input {i}" for i in range(len(inputs))]
    for name, x in zip(names, inputs, strict=True):
        if np.asarray(x).dtype.kind != "f":
            raise TypeError(
                f"gradcheck: {name} must be floating, but has dtype {np.asarray(x).dtype}. Close "
                "over it: gradcheck(lambda x: f(x, labels), x)."
            )
        if isinstance(x, Tensor) and not x.requires_grad:
            raise ValueError(
                f"gradcheck: {name} does not require a gradient. Create it with "
                "requires_grad=True, or close over it: gradcheck(lambda x: f(x, constant), x)."
            )
    tensors = [Tensor(x, requires_grad=True) for x in inputs]
    own = tuple(tensors)
    for name, parameter in getattr(f, "named_parameters", lambda: ())():
        if parameter.requires_grad:
            names.append(f"parameter {name!r}")
            tensors.append(parameter)
    if not tensors:
        raise ValueError("gradcheck: there is neither an input nor a parameter to check.")
    return names, tensors, lambda: f(*own)


def _outputs(y: Any) -> list[Tensor]:
    """The results of f as a list; what is no floating tensor must be something else's side."""
    results = list(y) if isinstance(y, tuple | list) else [y]
    for result in results:
        if not isinstance(result, Tensor) or result.dtype.kind != "f":
            kind = result.dtype if isinstance(result, Tensor) else type(result).__name__
            raise TypeError(
                f"gradcheck: f must return floating tensors, but returned {kind}. Compute with "
                "the tensors it is given, and leave out results that have no gradient."
            )
    return results


class _Check:
    """One check: the function, the point, and what backward says there."""

    def __init__(self, names, tensors, call, eps, atol, rtol) -> None:
        self.names, self.tensors, self.call = names, tensors, call
        self.eps, self.atol, self.rtol = eps, atol, rtol
        self.rng = np.random.default_rng(0)

    def run(self) -> None:
        outputs = [y.numpy() for y in self.evaluate()]
        self.weights = [self.random_like(y) for y in outputs]
        self.precision = [np.finfo(y.dtype).eps for y in outputs]
        gradients = self.backward()
        self.check_repeatable(outputs, gradients)
        self.gradients = [g.astype(np.float64) for g in gradients]
        directions = [self.random_like(x) for x in self.tensors]
        if self.difference(directions) is None:
            return
        found = [
            entry
            for i, direction in enumerate(directions)
            for entry in self.search(i, direction, np.arange(direction.size))
        ]
        if found:
            self.complain(found)

    def random_like(self, x: Any) -> np.ndarray:
        """Numbers of size 1 to 2 and either sign: none is lost, and no two cancel for certain."""
        sign = self.rng.choice([-1.0, 1.0], x.shape)
        return (sign * self.rng.uniform(1, 2, x.shape)).astype(np.float32).astype(np.float64)

    def steps(self, single: bool) -> list[float]:
        """Steps to try. The smallest drowns in the rounding of all results, not of a few."""
        coarse = any(x.dtype == np.float32 for x in self.tensors)
        step = max(self.eps, SINGLE_STEP) if coarse else self.eps
        return [step / SHRINK**i for i in range(3 if single else 2)]

    def evaluate(self) -> list[Tensor]:
        return _outputs(self.call())

    def values(self) -> list[np.ndarray]:
        with no_grad():
            return [y.numpy().astype(np.float64) for y in self.evaluate()]

    def backward(self) -> list[np.ndarray]:
        for x in self.tensors:
            x.grad = None
        total: Any = 0
        for y, weight in zip(self.evaluate(), self.weights, strict=True):
            if y.requires_grad:
                total = (y * Tensor(weight.astype(y.dtype))).sum().astype(np.float64) + total
        if isinstance(total, Tensor):
            total.backward()
        for name, x in zip(self.names, self.tensors, strict=True):
            if x.grad is None:
                raise GradcheckError(
                    f"gradcheck: {name} got no gradient: f does not use it, or its history was "
                    "cut, by detach(), numpy() or no_grad()."
                )
            if x.grad.shape != x.shape or x.grad.dtype != x.dtype:
                raise GradcheckError(
                    f"gradcheck: {name} is {x.dtype} of shape {x.shape}, but its gradient is "
                    f"{x.grad.dtype} of shape {x.grad.shape}."
                )
        return [x.grad for x in self.tensors]

    def check_repeatable(self, outputs: list, gradients: list) -> None:
        for i, (y, again) in enumerate(zip(outputs, self.evaluate(), strict=True)):
            if y.tobytes() != again.numpy().tobytes():
                raise GradcheckError(
                    f"gradcheck: output {i} of f is not the same when computed twice. If f draws "
                    "random numbers, as dropout does, seed them inside, or call eval() first."
                )
        for name, g, other in zip(self.names, gradients, self.backward(), strict=True):
            if g.tobytes() != other.tobytes():
                raise GradcheckError(
                    f"gradcheck: the gradient of {name} is not the same when computed twice. "
                    "backward must depend on nothing but the inputs."
                )

    def search(self, i: int, direction: np.ndarray, where: np.ndarray) -> Iterator[_Entry]:
        """Wrong entries of tensor i among the flat positions `where`."""
        moved = [np.zeros(x.shape) for x in self.tensors]
        single = len(where) == 1
        moved[i].reshape(-1)[where] = 1.0 if single else direction.reshape(-1)[where]
        difference = self.difference(moved, single)
        if difference is None:
            return
        if single:
            index = tuple(map(int, np.unravel_index(where[0], direction.shape)))
            yield _Entry(f"{self.names[i]} at index {index}", *difference)
        else:
            for half in np.array_split(where, 2):
                yield from self.search(i, direction, half)

    def difference(
        self, directions: list[np.ndarray], single: bool = False
    ) -> tuple[float, float, float, float] | None:
        """Analytic derivative, numeric ones to both sides, and tolerance; None where they agree."""
        jump = np.inf
        for step in self.steps(single):
            behind, here, before = (self.moved(directions, side * step) for side in (1, 0, -1))
            # Steps as they were really made: single precision cannot represent all of them.
            made = [(p - m) / (2 * step) for p, m in zip(behind[1], before[1], strict=True)]
            analytic = sum(np.vdot(g, d) for g, d in zip(self.gradients, made, strict=True))
            sides = (
                self.weighted(here[0], before[0]) / step,
                self.weighted(behind[0], here[0]) / step,
            )
            numeric = sum(sides) / 2
            rounding = self.rounding(behind[0], before[0]) / step
            tolerance = self.atol + self.rtol * abs(numeric) * single + rounding
            # Where f is smooth, the two sides approach each other as the step shrinks.
            jump_before, jump = jump, abs(sides[1] - sides[0])
            smooth = jump <= tolerance or jump < jump_before / 2 < np.inf
            if smooth and abs(analytic - numeric) <= tolerance:
                return None
        return float(analytic), float(sides[0]), float(sides[1]), float(tolerance)

    def moved(self, directions: list[np.ndarray], step: float) -> tuple[list, list]:
        """Outputs with all tensors moved, and the tensors as they were then."""
        arrays = [x.numpy() for x in self.tensors]
        try:
            for x, array, direction in zip(self.tensors, arrays, directions, strict=True):
                x.data[...] = array + step * direction
            return self.values(), [x.numpy().astype(np.float64) for x in self.tensors]
        finally:
            for x, array in zip(self.tensors, arrays, strict=True):
                x.data[...] = array

    def weighted(self, outputs: list, others: list) -> float:
        """Random combination of the differences of all outputs: first subtract, then add up."""
        parts = zip(self.weights, outputs, others, strict=True)
        return sum(float(np.sum(weight * (y - other))) for weight, y, other in parts)

    def rounding(self, outputs: list, others: list) -> float:
        """Error that rounding may have left in `weighted`; what did not change has none."""
        total = 0.0
        for weight, y, other, unit in zip(
            self.weights, outputs, others, self.precision, strict=True
        ):
            error = weight * unit * ROUNDING * np.abs(y) * (y != other)
            total += float(np.sum(error * error))
        return total**0.5

    def complain(self, found: list[_Entry]) -> None:
        worst = max(found, key=lambda e: (not e.is_kink, abs(e.analytic - e.numeric)))
        if worst.is_kink:
            raise GradcheckError(
                f"gradcheck: kink: {worst.place}: f has no derivative there: to the left it is "
                f"{worst.before:.6g}, to the right {worst.behind:.6g}, and backward gives "
                f"{worst.analytic:.6g}. Move the inputs away from where f bends or jumps."
            )
        raise GradcheckError(
            f"gradcheck: {worst.place}: backward gives {worst.analytic:.9g}, but numerically it "
            f"is {worst.numeric:.9g} (tolerance {worst.tolerance:.2g}; {len(found)} "
            f"{'entry is' if len(found) == 1 else 'entries are'} wrong)."
        )
