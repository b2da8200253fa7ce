"""What decides a training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from minidl import optim
from minidl.training.objective import loss_terms
from minidl.training.schedule import SCHEDULES

OPTIMISERS = ("adam", "adamw", "sgd")
BUDGET = ("steps", "epochs", "minutes")


@dataclass(frozen=True)
class Settings:
    """What decides a run, apart from the network and the data.

    Attributes
    ----------
    steps, epochs, minutes : number, optional
        Whatever ends first ends the training; at least one must be given. An epoch sees every
        training image once. Minutes are of wall-clock time, validation included.
    batch_size : int
        Crops that go through the network together.
    crop : (int, int) or None
        Height and width of what is cut out of an image at random; None takes whole images.
    augment : 'turns', 'mirror', 'none', 'elastic' or 'upright'
        How crops are varied; see `data.batches`.
    foreground_crops : float
        Share of the crops that are moved so that they have foreground in them, where there is any.
    empty_images : float, optional
        Largest share of images without any foreground in an epoch, of those there are.
    weight_map : bool
        Weigh pixels by U-Net's weight map, in cross-entropy and focal loss.
    lr : float
        Learning rate at the beginning, after the warm-up.
    seed : int
        Decides the crops. Equal seeds give equal bits, unless minutes decide the end.
    accumulate : int
        Batches in a step, which follows the mean of their gradients. Batch normalisation sees them
        one by one.
    optimiser : 'adam', 'adamw' or 'sgd'
    momentum : float
        Of 'sgd'.
    weight_decay : float, optional
        The optimiser's own if not given: 0.01 for 'adamw', else 0.
    schedule : 'cosine', 'poly', 'step', 'plateau' or 'constant'
        How the learning rate falls; see `training.schedule`.
    warm_up : int
        Steps in which the learning rate rises to what it should be.
    clip : float, optional
        Largest Euclidean norm of all gradients together; larger ones are scaled down to it.
    average : float, optional
        Decay of the running average of the weights, such as 0.999; validated, and kept as the best
        network, are then the averaged ones. See `training.average`.
    patience : int, optional
        End when so many validations in a row have not found a better network.
    loss : str
        See `training.objective`.
    class_weights : tuple of float, optional
        A factor for each class in the loss.
    """

    steps: int | None = None
    epochs: float | None = None
    minutes: float | None = None
    batch_size: int = 4
    crop: tuple[int, int] | None = (256, 256)
    augment: str = "turns"
    foreground_crops: float = 0.0
    empty_images: float | None = None
    weight_map: bool = False
    lr: float = 2e-3
    seed: int = 0
    accumulate: int = 1
    optimiser: str = "adam"
    momentum: float = 0.9
    weight_decay: float | None = None
    schedule: str = "cosine"
    warm_up: int = 0
    clip: float | None = None
    average: float | None = None
    patience: int | None = None
    loss: str = "ce+dice"
    class_weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for name in (*BUDGET, "clip", "patience"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"Settings: {name}={value}, expected more than 0")
        if all(getattr(self, name) is None for name in BUDGET):
            raise ValueError("Settings: give at least one of steps, epochs and minutes")
        for name, fits, expected in self._rules():
            if not fits:
                raise ValueError(f"Settings: {name}={getattr(self, name)!r}, expected {expected}")
        loss_terms(self.loss)

    def _rules(self) -> list[tuple[str, bool, str]]:
        weights = self.class_weights or (1.0,)
        return [
            ("lr", self.lr > 0 and math.isfinite(self.lr), "more than 0"),
            ("batch_size", self.batch_size >= 1, "1 or more"),
            ("accumulate", self.accumulate >= 1, "1 or more"),
            ("warm_up", self.warm_up >= 0, "0 or more"),
            ("empty_images", 0 <= (self.empty_images or 0) <= 1, "0..1"),
            ("momentum", 0 <= self.momentum < 1, "from 0 to below 1"),
            ("weight_decay", (self.weight_decay or 0) >= 0, "0 or more"),
            ("average", 0 <= (self.average or 0) < 1, "from 0 to below 1"),
            ("optimiser", self.optimiser in OPTIMISERS, f"one of {', '.join(OPTIMISERS)}"),
            ("schedule", self.schedule in SCHEDULES, f"one of {', '.join(SCHEDULES)}"),
            ("class_weights", min(weights) >= 0 < sum(weights), "0 or more, and not all of them 0"),
        ]

    def last_step(self, images: int) -> int | None:
        """Number of steps after which to stop, or None if only the time decides."""
        seen = self.batch_size * self.accumulate
        by_epochs = None if self.epochs is None else math.ceil(self.epochs * images / seen)
        given = [steps for steps in (self.steps, by_epochs) if steps is not None]
        return max(min(given), 1) if given else None

    def new_optimiser(self, model: Any) -> optim.Optimizer:
        """The optimiser of a network's parameters."""
        parameters, decay = model.parameters(), self.weight_decay
        if self.optimiser == "sgd":
            return optim.SGD(parameters, self.lr, self.momentum, weight_decay=decay or 0.0)
        if self.optimiser == "adamw":
            decay = 0.01 if decay is None else decay
            return optim.AdamW(parameters, self.lr, weight_decay=decay)
        return optim.Adam(parameters, self.lr, weight_decay=decay or 0.0)
