"""Averages of weights: networks that are calmer, and often better, than the last one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np


class Average:
    """The running average of a network's parameters and running statistics.

    After step t every value ``a`` of the average becomes ``d * a + (1 - d) * value`` with
    ``d = min(decay, (1 + t) / (10 + t))``, so that the random beginning is soon forgotten. The
    running mean and variance of batch normalisation are averaged in the same way, since they
    belong to the weights under which they were measured; counters are copied.

    Parameters
    ----------
    model : nn.Module
    decay : float in [0, 1)
        About ``1 / (1 - decay)`` steps are remembered.

    Attributes
    ----------
    values : dict of str to ndarray
        Under the names of ``model.state_dict()``.

    References
    ----------
    Polyak, Juditsky, Acceleration of stochastic approximation by averaging, 1992; the decay at the
    beginning is that of TensorFlow's ExponentialMovingAverage.
    """

    def __init__(self, model: Any, decay: float) -> None:
        self.model, self.decay = model, decay
        self.values: dict[str, np.ndarray] = model.state_dict()
        self._own: dict[str, np.ndarray] | None = None

    def update(self, step: int) -> None:
        """Take the model's values into account, as they are after `step` steps."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in _arrays(self.model):
            average = self.values[name]
            if average.dtype.kind == "f":
                average += (value - average) * average.dtype.type(1 - decay)
            else:
                average[...] = value

    def state(self) -> dict[str, np.ndarray]:
        """Copies of the values, for `load`."""
        return {name: average.copy() for name, average in self.values.items()}

    def load(self, values: Mapping[str, np.ndarray]) -> None:
        """Go on from `values` that another average of the same model had."""
        for name, average in self.values.items():
            average[...] = values[name]

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the model be the averaged one inside of the block; blocks may be nested."""
        if self._own is not None:
            yield
            return
        self._own = self.model.state_dict()
        self.model.load_state_dict(self.values)
        try:
            yield
        finally:
            self.model.load_state_dict(self._own)
            self._own = None

    def own_state(self) -> dict[str, np.ndarray]:
        """The model's own values, also while it is the averaged one."""
        return self.model.state_dict() if self._own is None else self._own


def _arrays(model: Any) -> Iterator[tuple[str, np.ndarray]]:
    yield from ((name, parameter.data) for name, parameter in model.named_parameters())
    yield from model.named_buffers()
