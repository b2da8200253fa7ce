"""The training loop: batches in, a network that has learned out.

`Trainer` knows networks and sets, not files: what is written and what is shown is up to its
`Watch`. `minidl.run` is the watch that keeps a run folder.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minidl import functional as F
from minidl import optim
from minidl.data import Dataset, batches
from minidl.evaluate import Evaluation, evaluate
from minidl.prefetch import prefetch
from minidl.segmenter import like_scores
from minidl.tensor import Tensor, no_grad

VALIDATION_SHARE = 0.12  # of the computing that training takes
_FORWARD_AND_BACKWARD = 3  # a training step, in forward passes over the same pixels
_LOSS_PIXELS = 2_000_000  # at most, from which the validation loss is computed
_LAST_LR = 0.01  # of the first


class TrainingError(RuntimeError):
    """Training cannot go on; the message says at which step, why, and the way out."""


@dataclass(frozen=True)
class Settings:
    """What decides a run, apart from the network and the data.

    Attributes
    ----------
    steps, epochs, minutes : number, optional
        Whatever ends first ends the training; at least one must be given. An epoch sees every
        training image once. Minutes are of wall-clock time, validation included.
    batch_size : int
        Crops in a step.
    crop : (int, int) or None
        Height and width of what is cut out of an image at random; None takes whole images.
    augment : 'turns', 'mirror', 'none', 'elastic' or 'upright'
        How crops are varied; see `data.batches`.
    foreground_crops : float
        Share of the crops that are moved so that they have foreground in them, where there is any.
    lr : float
        Adam's learning rate at the beginning. It falls along half a cosine to a hundredth at the
        end of the budget, also if that is a time.
    seed : int
        Decides the crops. Equal seeds give equal bits, unless minutes decide the end.
    """

    steps: int | None = None
    epochs: float | None = None
    minutes: float | None = None
    batch_size: int = 4
    crop: tuple[int, int] | None = (256, 256)
    augment: str = "turns"
    foreground_crops: float = 0.0
    lr: float = 2e-3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "epochs", "minutes"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"Settings: {name}={value}, expected more than 0")
        if self.steps is None and self.epochs is None and self.minutes is None:
            raise ValueError("Settings: give at least one of steps, epochs and minutes")
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise ValueError(f"Settings: lr={self.lr}, expected more than 0")

    def last_step(self, images: int) -> int | None:
        """Number of steps after which to stop, or None if only the time decides."""
        by_epochs = (
            None if self.epochs is None else math.ceil(self.epochs * images / self.batch_size)
        )
        given = [steps for steps in (self.steps, by_epochs) if steps is not None]
        return max(min(given), 1) if given else None


class Watch:
    """What a `Trainer` tells about itself; each method may be overridden."""

    def stepped(self, trainer: Trainer) -> None:
        """Called after every step."""

    def validating(self, trainer: Trainer, done: int) -> None:
        """Called before each image of a validation, with how many are done."""

    def validated(self, trainer: Trainer, evaluation: Evaluation, better: bool) -> None:
        """Called after a validation; `better` if it is the best so far."""

    def not_finite(self, trainer: Trainer) -> str:
        """Called when the loss is infinite or NaN; what is returned goes into the error."""
        return ""


class Trainer:
    """Trains a network on one set and validates it on another.

    Parameters
    ----------
    model : nn.Module
        Maps (N, H, W, C) to scores (N, H, W, classes) without a final activation.
    train, val : Dataset
    settings : Settings
    class_names : sequence of str
    foreground : sequence of int
        Classes whose mean Dice decides which network is best.
    watch : Watch, optional

    Attributes
    ----------
    step : int
        Steps done.
    loss, lr : float
        Loss and learning rate of the last step.
    history : list of dict
        One row for each validation; what `plot.curves` draws.
    best : dict or None
        The row with the highest ``val_dice``.
    interrupted : bool
        Whether the keyboard ended the training.
    waited : float
        Seconds in which there was nothing to compute because a batch was not ready.
    """

    def __init__(
        self,
        model: Any,
        train: Dataset,
        val: Dataset,
        settings: Settings,
        class_names: Sequence[str],
        foreground: Sequence[int],
        watch: Watch | None = None,
    ) -> None:
        self.model, self.train, self.val, self.settings = model, train, val, settings
        self.class_names, self.foreground = tuple(class_names), tuple(foreground)
        self.watch = watch or Watch()
        self.optimiser = optim.Adam(model.parameters(), lr=settings.lr)
        self.last_step = settings.last_step(len(train))
        self.seconds = None if settings.minutes is None else 60 * settings.minutes
        self.validate_every = self._validation_interval()
        self.step, self.loss, self.lr = 0, math.nan, settings.lr
        self.history: list[dict[str, float]] = []
        self.best: dict[str, float] | None = None
        self.interrupted, self.waited = False, 0.0
        self._losses: list[float] = []
        self._validation_seconds = self._pace = self._done = 0.0
        self._start = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    @property
    def epoch(self) -> float:
        """How often every training image has been seen."""
        return self.step * self.settings.batch_size / len(self.train)

    @property
    def done(self) -> float:
        """Share of the budget that is used up, 0..1; never falls."""
        by_steps = self.step / self.last_step if self.last_step else 0.0
        # The last validation belongs into the time as well.
        ahead = self._validation_seconds
        by_time = (self.elapsed + ahead) / self.seconds if self.seconds else 0.0
        self._done = min(max(self._done, by_steps, by_time), 1.0)
        return self._done

    @property
    def remaining(self) -> float:
        """Estimated seconds to the end."""
        left = [] if self.seconds is None else [self.seconds - self.elapsed]
        if self.last_step is not None and self._pace:
            left.append((self.last_step - self.step) * self._pace)
        return max(min(left, default=math.nan), 0.0)

    def run(self) -> list[dict[str, float]]:
        """Train until the budget is used up or Ctrl-C is pressed; return `history`.

        Raises
        ------
        TrainingError
            If the loss becomes infinite or NaN.
        DataError
            If a file cannot be used.
        """
        self._start = time.monotonic()
        settings = self.settings
        stream = batches(
            self.train, settings.batch_size, settings.crop, settings.seed,
            steps=self.last_step, augment=settings.augment,
            foreground=settings.foreground_crops,
        )  # fmt: skip
        try:
            with prefetch(stream) as ready:
                try:
                    self._loop(ready)
                finally:
                    self.waited = ready.waited
        except KeyboardInterrupt:
            self.interrupted = True
        return self.history

    def _loop(self, ready: Any) -> None:
        for x, y in ready:
            started = time.monotonic()
            self._learn(x, y)
            over = self.done >= 1
            if over or self.step % self.validate_every == 0:
                self._validate()
            self._keep_pace(time.monotonic() - started)
            if over or self.done >= 1:
                if self.history[-1]["step"] != self.step:
                    self._validate()
                return

    def _learn(self, x: np.ndarray, y: np.ndarray) -> None:
        self.lr = self.learning_rate()
        for group in self.optimiser.param_groups:
            group["lr"] = self.lr
        self.batch: tuple[np.ndarray, ...] = x, y
        scores = self.model(Tensor(x))
        loss = segmentation_loss(scores, like_scores(y, scores), self.foreground)
        self.loss = float(loss)
        if not math.isfinite(self.loss):
            why = self.watch.not_finite(self) or (
                f"Train with a lower one, for example {self.settings.lr / 10:.0e}, and look for "
                "images of extreme values."
            )
            raise TrainingError(
                f"the loss became {self.loss} at step {self.step + 1} (learning rate "
                f"{self.lr:.3g}). {why}"
            )
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.step += 1
        self._losses.append(self.loss)
        self.watch.stepped(self)

    def learning_rate(self) -> float:
        """What the next step uses."""
        fall = 0.5 * (1 + math.cos(math.pi * self.done))
        return self.settings.lr * (_LAST_LR + (1 - _LAST_LR) * fall)

    def _keep_pace(self, seconds: float) -> None:
        # The first step compiles and says nothing about the others.
        weight = 0.1 if self.step > 2 else 1.0
        self._pace += weight * (seconds - self._pace)

    def _validation_interval(self) -> int:
        """Steps between validations: from the number of pixels, so that it is repeatable."""
        crop, settings = self.settings.crop, self.settings
        pixels = math.prod(crop) if crop else _mean_pixels(self.train)
        step = _FORWARD_AND_BACKWARD * settings.batch_size * pixels
        whole = len(self.val) * _mean_pixels(self.val)
        least = 5 if self.last_step is None else min(max(self.last_step // 40, 1), 5)
        return max(math.ceil(whole / (VALIDATION_SHARE * step)), least)

    def _validate(self) -> None:
        started = time.monotonic()
        every = math.ceil(len(self.val) * _mean_pixels(self.val) / _LOSS_PIXELS)
        parts: list[tuple[np.ndarray, np.ndarray]] = []

        def note(index: int, scores: np.ndarray, target: np.ndarray) -> None:
            flat = scores.reshape(-1, scores.shape[-1]), target.reshape(-1)
            parts.append((flat[0][::every], flat[1][::every]))
            self.watch.validating(self, index + 1)

        self.watch.validating(self, 0)
        result = evaluate(self.model, self.val, self.class_names, self.foreground, note)
        # All images as one: the Dice of an image without foreground says little.
        scores, target = (np.concatenate(arrays)[None] for arrays in zip(*parts, strict=True))
        with no_grad():
            loss = float(segmentation_loss(scores, target, self.foreground))
        self._record(result, loss)
        self._validation_seconds = time.monotonic() - started

    def _record(self, result: Evaluation, val_loss: float) -> None:
        row = {
            "step": self.step,
            "epoch": round(self.epoch, 3),
            "seconds": round(self.elapsed, 2),
            "lr": self.lr,
            "train_loss": float(np.mean(self._losses)),
            "val_loss": val_loss,
            "val_pixel_accuracy": result.pixel_accuracy,
            "val_dice": result.foreground_dice,
        }
        for entry in result.classes():
            row |= {f"val_dice_{entry['name']}": entry["dice"]}
        self._losses = []
        better = self.best is None or _merit(row) > _merit(self.best)
        self.history.append(row)
        if better:
            self.best = row
        self.watch.validated(self, result, better)


def _merit(row: dict[str, float]) -> tuple[float, float]:
    # No Dice: there is no foreground and, rightly, none was found.
    score = row["val_dice"]
    return (1.0 if math.isnan(score) else score, row["val_pixel_accuracy"])


def _mean_pixels(dataset: Dataset) -> float:
    sizes = [dataset.raw(index)[1].size for index in range(len(dataset))]
    return sum(sizes) / len(sizes)


def segmentation_loss(scores: Any, target: np.ndarray, foreground: Sequence[int]) -> Tensor:
    """Cross-entropy, for every pixel, plus Dice loss, for the small structures among many pixels.

    Parameters
    ----------
    scores : Tensor (N, ..., classes)
    target : ndarray of shape (N, ...), integer
        Class indices, -100 where a pixel does not count.
    foreground : sequence of int
        Classes with a Dice loss, of which the mean is taken. It sums over the whole batch before
        dividing, so that images without a class are no special case.

    Returns
    -------
    Tensor, one number.
    """
    overlap = F.dice_loss(scores, target, batch=True, reduction="none")
    return F.cross_entropy(scores, target) + overlap[list(foreground)].mean()
