"""Where the time of a step goes: by layer, and by kernel.

A step is timed as a whole, and what it computes from inside: `minidl.listen` tells of layers,
operations and kernels as they run. What is left of the step's time is shown, too, so that shares
add up to one.

The bytes of a kernel are the sizes of the arrays it is given, each counted once a call: what it
moves if it reads and writes each of them once, and as a whole.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import numpy as np

from minidl import functional as F
from minidl import optim
from minidl.function import Function
from minidl.kernels import parallel
from minidl.listen import NO_LAYER, Listener, listening
from minidl.nn.module import Module
from minidl.tensor import Tensor, no_grad

OTHER_KERNELS = "(kernels outside of operations)"
OPERATIONS = "(operations outside of kernels)"
REST = "(outside of operations)"


@dataclass
class Kernel:
    """One kernel in one place: calls, seconds, and bytes of the arrays it was given, of all steps.

    Attributes
    ----------
    name : str
        Room and function, such as ``winograd.convolve``.
    calls, bytes : int
    seconds : float
    """

    name: str
    calls: int = 0
    seconds: float = 0.0
    bytes: int = 0


@dataclass
class Operation:
    """One kind of operation in one layer and one direction, in all steps together.

    Attributes
    ----------
    layer : str
        Path of the innermost module that the operation was called in.
    name : str
        Of its `Function`.
    backward : bool
    calls : int
    seconds : float
        With those of its kernels.
    kernels : dict of str to Kernel
    """

    layer: str
    name: str
    backward: bool
    calls: int = 0
    seconds: float = 0.0
    kernels: dict[str, Kernel] = field(default_factory=dict)


@dataclass(frozen=True)
class Profile:
    """What `profile` found. Rows and tables are about one step, the mean of all.

    Attributes
    ----------
    seconds : list of float
        Time of each step.
    operations : list of Operation
        In the order in which they were met first.
    others : list of Kernel
        Kernels that no operation called, such as an optimiser's.
    threads : int
        Threads a kernel was allowed to use.
    """

    seconds: list[float]
    operations: list[Operation]
    others: list[Kernel]
    threads: int

    @property
    def step(self) -> float:
        """Mean seconds of a step."""
        return sum(self.seconds) / len(self.seconds)

    def layers(self) -> list[dict[str, Any]]:
        """A row for each layer, in the order of their first operations.

        Each has the keys layer, operations, forward, backward, seconds, share and bytes. The last
        two rows are kernels outside of operations, such as an optimiser's, and all else: Python,
        and sums of gradients that meet.
        """
        rows: dict[str, dict[str, Any]] = {}
        for operation in self.operations:
            row = rows.setdefault(operation.layer, _layer_row(operation.layer))
            if operation.name not in row["operations"]:
                row["operations"].append(operation.name)
            row["backward" if operation.backward else "forward"] += operation.seconds
            row["seconds"] += operation.seconds
            row["bytes"] += sum(kernel.bytes for kernel in operation.kernels.values())
        others, rest = _layer_row(OTHER_KERNELS), _layer_row(REST)
        others["seconds"] = sum(kernel.seconds for kernel in self.others)
        others["bytes"] = sum(kernel.bytes for kernel in self.others)
        return self._of_one_step([*rows.values(), others], rest)

    def kernels(self) -> list[dict[str, Any]]:
        """A row for each kernel, the longest first.

        Each has the keys kernel, calls, seconds, share and bytes. The last two rows are what
        operations do outside of kernels, and what is neither.
        """
        rows: dict[str, dict[str, Any]] = {}
        for kernel in [*self.others, *(k for o in self.operations for k in o.kernels.values())]:
            row = rows.setdefault(kernel.name, _kernel_row(kernel.name))
            for key in ("calls", "seconds", "bytes"):
                row[key] += getattr(kernel, key)
        within = _kernel_row(OPERATIONS)
        within["seconds"] = sum(
            o.seconds - sum(k.seconds for k in o.kernels.values()) for o in self.operations
        )
        longest_first = sorted(rows.values(), key=lambda row: -row["seconds"])
        return self._of_one_step([*longest_first, within], _kernel_row(REST))

    def _of_one_step(self, rows: list[dict], rest: dict) -> list[dict[str, Any]]:
        """`rows` and `rest`, what is missing to the whole, divided by steps, with their shares."""
        rest["seconds"] = sum(self.seconds) - sum(row["seconds"] for row in rows)
        for row in (rows := [*rows, rest]):
            for key, value in row.items():
                if not isinstance(value, str | list):
                    row[key] = value / len(self.seconds)
            row["share"] = row["seconds"] / self.step
        return rows

    def text(self) -> str:
        """Both tables, for people."""
        times = [1e3 * seconds for seconds in self.seconds]
        head = (
            f"{_counted(len(times), 'step')} on {_counted(self.threads, 'thread')}: "
            f"mean {1e3 * self.step:.2f} ms, median {median(times):.2f}, fastest {min(times):.2f}"
        )
        layers = [
            (
                row["layer"], ", ".join(row["operations"]), _ms(row["forward"]),
                _ms(row["backward"]), _ms(row["seconds"]), f"{row['share']:.1%}", _mb(row),
            )
            for row in self.layers()
        ]  # fmt: skip
        kernels = [
            (
                row["kernel"], f"{row['calls']:.4g}" if row["calls"] else "",
                _ms(row["seconds"]), f"{row['share']:.1%}", _mb(row), _speed(row),
            )
            for row in self.kernels()
        ]  # fmt: skip
        return "\n\n".join(
            (
                head,
                _table("layer,operations,forward ms,backward ms,ms,share,MB", layers, texts=2),
                _table("kernel,calls,ms,share,MB,GB/s", kernels, texts=1),
            )
        )

    def to_dict(self) -> dict[str, Any]:
        """Both tables, and all that was counted in all steps together, in types that JSON knows."""
        return {
            "threads": self.threads,
            "seconds": self.seconds,
            "layers": self.layers(),
            "kernels": self.kernels(),
            "operations": [
                asdict(operation) | {"kernels": [asdict(k) for k in operation.kernels.values()]}
                for operation in self.operations
            ],
        }

    def json(self) -> str:
        """`to_dict` as text."""
        return json.dumps(self.to_dict(), indent=2) + "\n"


def _layer_row(layer: str) -> dict[str, Any]:
    times = {"forward": 0.0, "backward": 0.0, "seconds": 0.0}
    return {"layer": layer, "operations": [], **times, "share": 0.0, "bytes": 0}


def _kernel_row(kernel: str) -> dict[str, Any]:
    return {"kernel": kernel, "calls": 0, "seconds": 0.0, "share": 0.0, "bytes": 0}


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("s" if number != 1 else "")


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.2f}" if seconds else ""


def _mb(row: dict[str, Any]) -> str:
    return f"{row['bytes'] / 1e6:.1f}" if row["bytes"] else ""


def _speed(row: dict[str, Any]) -> str:
    return f"{row['bytes'] / row['seconds'] / 1e9:.1f}" if row["bytes"] and row["seconds"] else ""


def _table(head: str, rows: Sequence[tuple[str, ...]], texts: int) -> str:
    """Lines of a table whose first `texts` columns are text, and the others numbers."""
    rows = [tuple(head.split(",")), *rows]
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < texts else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, wide, strict=True))
        ).rstrip()
        for row in rows
    )


# ---- listening ------------------------------------------------------------------------------


class _Listener(Listener):
    """Keeps account of what one thread computes."""

    def __init__(self, model: Module | None) -> None:
        super().__init__(model)
        self.origins: dict[int, str] = {}  # layers of functions, by their id
        self.operation: Operation | None = None  # the one that is running
        self.operations: dict[tuple[str, str, bool], Operation] = {}
        self.others: dict[str, Kernel] = {}

    def on_operation(self, function: Function, method: Callable, *arrays: np.ndarray) -> Any:
        """Time forward or backward of `function`."""
        if self.is_elsewhere:
            return method(*arrays)
        backward = method == function.backward
        if not backward:
            self.origins[id(function)] = self.layer
        key = self.origins.get(id(function), NO_LAYER), type(function).__name__, backward
        around, self.operation = self.operation, self.operations.setdefault(key, Operation(*key))
        start = time.perf_counter()
        try:
            return method(*arrays)
        finally:
            seconds = time.perf_counter() - start
            self.operation.calls += 1
            self.operation.seconds += seconds
            if around is not None:  # one operation called another
                around.seconds -= seconds
            self.operation = around

    def on_kernel(self, kernel: Callable, job: Callable, *args: Any) -> None:
        """Time `kernel`; arrays among the arguments of the job are its own."""
        if self.is_elsewhere:
            return job(*args)
        name = f"{kernel.__module__.rsplit('.', 1)[-1]}.{kernel.__name__.lstrip('_')}"
        kernels = self.others if self.operation is None else self.operation.kernels
        start = time.perf_counter()
        try:
            return job(*args)
        finally:
            entry = kernels.setdefault(name, Kernel(name))
            entry.seconds += time.perf_counter() - start
            entry.calls += 1
            entry.bytes += _bytes(args)


def _bytes(args: Sequence[Any]) -> int:
    """Size of all arrays in `args` and in tuples there."""
    sizes = (
        arg.nbytes if isinstance(arg, np.ndarray) else _bytes(arg) if isinstance(arg, tuple) else 0
        for arg in args
    )
    return sum(sizes)


# ---- steps ----------------------------------------------------------------------------------


def profile(
    step: Callable[[], Any], model: Module | None = None, steps: int = 5, warm_up: int = 2
) -> Profile:
    """Find out where the time of a step goes.

    Parameters
    ----------
    step : callable without arguments
        What is done again and again: a step of training, a prediction, anything. `training_step`
        and `inference_step` make one.
    model : nn.Module, optional
        Gives layers their paths. Without it, and for modules that it does not own, they have the
        names of their classes.
    steps : int, at least 1
        How often it is timed.
    warm_up : int, at least 0
        How often it is called before that, to compile kernels and fill caches.

    Returns
    -------
    Profile

    Raises
    ------
    ValueError
        If `steps` or `warm_up` is too small.
    RuntimeError
        If another profile is being made.

    Notes
    -----
    Only the calling thread is listened to, and the threads its kernels are spread over. Results
    are what they would be without.

    Examples
    --------
    >>> from minidl import nn
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
    >>> found = profile(inference_step(model, (1, 8, 8, 1)), model, steps=3)
    >>> [row["layer"] for row in found.layers()][:2]
    ['0', '1']
    """
    if steps < 1 or warm_up < 0:
        raise ValueError(
            "profile: steps must be 1 or more and warm_up 0 or more, "
            f"but are {steps} and {warm_up}."
        )
    for _ in range(warm_up):
        step()
    listener, seconds = _Listener(model), []
    with listening(listener, "profile", "profile"):
        for _ in range(steps):
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
    return Profile(
        seconds,
        list(listener.operations.values()),
        list(listener.others.values()),
        parallel.get_num_threads(),
    )


def inference_step(model: Module, shape: Sequence[int]) -> Callable[[], Any]:
    """A prediction by `model` for random numbers.

    Parameters
    ----------
    model : nn.Module
        Is set to `eval`.
    shape : sequence of int
        Of the input, batch and channels included.

    Returns
    -------
    callable without arguments
    """
    x = Tensor(np.random.default_rng(0).standard_normal(shape, np.float32))
    model.eval()
    return no_grad()(lambda: model(x))


def training_step(model: Module, shape: Sequence[int]) -> Callable[[], Any]:
    """A step of training `model` on random numbers: cross-entropy of each pixel, and Adam.

    Parameters
    ----------
    model : nn.Module
        Makes scores (N, ..., classes). Is set to `train`, and changed by every step.
    shape : sequence of int
        Of the input, batch and channels included.

    Returns
    -------
    callable without arguments
        Returns the loss.
    """
    rng = np.random.default_rng(0)
    x = Tensor(rng.standard_normal(shape, np.float32))
    with no_grad():
        *pixels, classes = model.eval()(x).shape
    target = rng.integers(0, classes, pixels)
    optimizer = optim.Adam(model.train().parameters())

    def step() -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), target)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step
