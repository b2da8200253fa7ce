"""The training loop: batches in, a network that has learned out.

`Trainer` knows networks and sets, not files: what is written and what is shown is up to those who
look on, each a `Watch`. `minidl.training.recorder` is the one that keeps a run folder.

A training can be taken down with `Trainer.state_dict` after any step and set up again with
`load_state_dict`: it then goes on as if nothing had happened, to the last bit.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from minidl import optim
from minidl.data import Batches, Dataset, WeightMap, batches
from minidl.evaluate import Evaluation, evaluate
from minidl.prefetch import prefetch
from minidl.random import generator
from minidl.segmenter import like_scores
from minidl.tensor import Tensor, no_grad
from minidl.training.average import Average
from minidl.training.objective import boundary_distances, loss_terms, segmentation_loss
from minidl.training.schedule import PLATEAU, factor, warm_up
from minidl.training.settings import BUDGET, Settings

__all__ = ["Settings", "Trainer", "TrainingError", "Watch", "Watches", "segmentation_loss"]

VALIDATION_SHARE = 0.12  # of the computing that training takes
_FORWARD_AND_BACKWARD = 3  # a training step, in forward passes over the same pixels
_LOSS_PIXELS = 2_000_000  # at most, from which the validation loss is computed


class TrainingError(RuntimeError):
    """Training cannot go on; the message says at which step, why, and the way out."""


class Watch:
    """What a `Trainer` tells about itself; each method may be overridden."""

    def stepped(self, trainer: Trainer) -> None:
        """Called after every step; the parameters still have the gradients it followed."""

    def validating(self, trainer: Trainer, done: int) -> None:
        """Called before each image of a validation, with how many are done."""

    def validated(self, trainer: Trainer, evaluation: Evaluation, better: bool) -> None:
        """Called after a validation; `better` if it is the best so far.

        The trainer's model is the network that was validated: the averaged one, if weights are
        averaged.
        """

    def not_finite(self, trainer: Trainer) -> str:
        """Called when the loss is infinite or NaN, before the training ends with an error.

        Weights are those before the step, and `trainer.batch` is what led there. What is returned
        becomes a part of the error's message.
        """
        return ""


class Watches(Watch):
    """Several that look on; each is told in turn.

    Parameters
    ----------
    watches : sequence of Watch
    """

    def __init__(self, watches: Sequence[Watch]) -> None:
        self.watches = tuple(watches)

    def stepped(self, trainer: Trainer) -> None:
        """See `Watch`."""
        for watch in self.watches:
            watch.stepped(trainer)

    def validating(self, trainer: Trainer, done: int) -> None:
        """See `Watch`."""
        for watch in self.watches:
            watch.validating(trainer, done)

    def validated(self, trainer: Trainer, evaluation: Evaluation, better: bool) -> None:
        """See `Watch`."""
        for watch in self.watches:
            watch.validated(trainer, evaluation, better)

    def not_finite(self, trainer: Trainer) -> str:
        """See `Watch`; all that they say."""
        words = [watch.not_finite(trainer) for watch in self.watches]
        return " ".join(word for word in words if word)


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
    watch : Watch, or sequence of them, optional

    Attributes
    ----------
    step : int
        Steps done.
    loss, lr : float
        Loss and learning rate of the last step.
    batch : tuple of ndarray
        The last batch: x (N, H, W, C), y (N, H, W), and weights of pixels (N, H, W) if there are
        any.
    history : list of dict
        One row for each validation; what `plot.curves` draws.
    best : dict or None
        The row with the highest ``val_dice``.
    average : Average or None
        Of the weights.
    interrupted : bool
        Whether the keyboard, or `stop`, ended the training.
    waited, waited_share : float
        Seconds of `run` in which there was nothing to compute because a batch was not ready, and
        their share of all.
    between_steps : bool
        Whether no step is half done, so that `state_dict` tells all.
    """

    def __init__(
        self,
        model: Any,
        train: Dataset,
        val: Dataset,
        settings: Settings,
        class_names: Sequence[str],
        foreground: Sequence[int],
        watch: Watch | Sequence[Watch] | None = None,
    ) -> None:
        self.model, self.train, self.val, self.settings = model, train, val, settings
        self.class_names, self.foreground = tuple(class_names), tuple(foreground)
        watch = watch or ()
        self.watch = watch if isinstance(watch, Watch) else Watches(watch)
        self.optimiser = settings.new_optimiser(model)
        self.average = None if settings.average is None else Average(model, settings.average)
        self.images = self._batches(0, None).pictures
        self.last_step = settings.last_step(self.images)
        self.seconds = None if settings.minutes is None else 60 * settings.minutes
        self.validate_every = self._validation_interval()
        self.step, self.loss, self.lr = 0, math.nan, settings.lr
        self.batch: tuple[np.ndarray, ...] = ()
        self.history: list[dict[str, float]] = []
        self.best: dict[str, float] | None = None
        self.interrupted, self.between_steps = False, True
        self.waited = self.waited_share = 0.0
        self._losses: list[float] = []
        self._reductions = self._calm = 0  # of the rate at plateaus; validations since something
        self._validation_seconds = self._pace = self._done = self._before = 0.0
        self._start, self._stop = time.monotonic(), False

    # ---- where it is ------------------------------------------------------------------------

    @property
    def elapsed(self) -> float:
        """Seconds spent training, those before a state was loaded as well."""
        return self._before + time.monotonic() - self._start

    @property
    def epoch(self) -> float:
        """How often every training image has been seen; see `Settings.empty_images`."""
        return self.step * self.settings.batch_size * self.settings.accumulate / self.images

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

    @property
    def stopped_early(self) -> bool:
        """Whether so many validations in a row found nothing better that it is of no use."""
        patience = self.settings.patience
        if patience is None or self.best is None:
            return False
        return len(self.history) - 1 - self.history.index(self.best) >= patience

    def learning_rate(self) -> float:
        """What the next step uses."""
        settings = self.settings
        rate = settings.lr * factor(settings.schedule, self.done, self._reductions)
        return rate * warm_up(self.step, settings.warm_up)

    # ---- what it does -----------------------------------------------------------------------

    def run(self) -> list[dict[str, float]]:
        """Train until the budget is used up or Ctrl-C is pressed; return `history`.

        Raises
        ------
        TrainingError
            If the loss becomes infinite or NaN.
        DataError
            If a file cannot be used.
        """
        started = self._start = time.monotonic()
        try:
            with prefetch(self._batches(self.step, self.last_step)) as ready:
                try:
                    self._loop(ready)
                finally:
                    self.waited = ready.waited
                    self.waited_share = self.waited / max(time.monotonic() - started, 1e-9)
        except KeyboardInterrupt:
            self.interrupted = True
        return self.history

    def stop(self) -> None:
        """End after the present step, or the present image of a validation."""
        self._stop = True

    def _batches(self, step: int, last: int | None) -> Batches:
        """Those of the steps behind `step`."""
        settings = self.settings
        # Classes are weighed once: by the settings or, if those do not, by the map.
        ones = None if settings.class_weights is None else (1.0,) * len(self.class_names)
        return batches(
            self.train, settings.batch_size, settings.crop, settings.seed,
            start=step * settings.accumulate,
            steps=None if last is None else max(last, step) * settings.accumulate,
            augment=settings.augment, foreground=settings.foreground_crops,
            empty=settings.empty_images,
            weights=WeightMap(class_weights=ones) if settings.weight_map else None,
        )  # fmt: skip

    def _loop(self, ready: Iterator[Any]) -> None:
        first, started = self.step, time.monotonic()
        while True:
            over = self._is_over()
            if (over or self.step % self.validate_every == 0) and self._is_new():
                self._validate()
                over = self._is_over()
            if over:
                return
            if self.step > first:
                # The first step compiles and says nothing about the others.
                weight = 0.1 if self.step - first > 2 else 1.0
                self._pace += weight * (time.monotonic() - started - self._pace)
            started = time.monotonic()
            self._learn(ready)
            self._end_if_asked()

    def _is_over(self) -> bool:
        return self.step > 0 and (self.done >= 1 or self.stopped_early)

    def _is_new(self) -> bool:
        """Whether the network has not been validated since its last step."""
        return self.step > 0 and not (self.history and self.history[-1]["step"] == self.step)

    def _end_if_asked(self) -> None:
        if self._stop:
            raise KeyboardInterrupt

    def _learn(self, ready: Iterator[Any]) -> None:
        """One step."""
        self.lr = self.learning_rate()
        for group in self.optimiser.param_groups:
            group["lr"] = self.lr
        self.optimiser.zero_grad()
        parts = itertools.islice(ready, self.settings.accumulate)
        losses = [self._backward(batch) for batch in parts]
        if self.settings.clip is not None:
            optim.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        self.optimiser.step()
        self.step += 1
        if self.average is not None:
            self.average.update(self.step)
        self.loss = sum(losses) / len(losses)
        self._losses.append(self.loss)
        self.between_steps = True
        self.watch.stepped(self)

    def _backward(self, batch: tuple[np.ndarray, ...]) -> float:
        """Add a batch's share to the gradients; its loss."""
        self.between_steps, self.batch = False, batch
        x, *targets = batch
        scores = self.model(Tensor(x))
        loss = self.loss_of(scores, *(like_scores(target, scores) for target in targets))
        self.loss = float(loss)
        if not math.isfinite(self.loss):
            raise TrainingError(self._what_became_of_the_loss())
        share = 1 / self.settings.accumulate
        loss.backward(None if share == 1 else np.asarray(share, loss.dtype))
        return self.loss

    def loss_of(
        self,
        scores: Any,
        target: np.ndarray,
        pixel_weight: np.ndarray | None = None,
        distance: np.ndarray | None = None,
    ) -> Tensor:
        """What is made small: the loss of the settings, of scores and the rest of a batch."""
        settings = self.settings
        if distance is None:
            distance = self._distances(target)
        return segmentation_loss(
            scores, target, self.foreground, settings.loss, settings.class_weights, pixel_weight,
            distance, self.done,
        )  # fmt: skip

    def _distances(self, target: np.ndarray) -> np.ndarray | None:
        """What the boundary loss, if it is asked for, needs of whole images (N, H, W)."""
        if "boundary" not in loss_terms(self.settings.loss):
            return None
        return boundary_distances(target, self.train.mask_kind.num_classes)

    def _what_became_of_the_loss(self) -> str:
        words = self.watch.not_finite(self)
        return (
            f"the loss became {self.loss} at step {self.step + 1} (learning rate {self.lr:.3g}). "
            + (f"{words} " if words else "")
            + f"Train with a lower one, for example {self.settings.lr / 10:.0e}, and look for "
            "images of extreme values."
        )

    # ---- validation -------------------------------------------------------------------------

    def _validation_interval(self) -> int:
        """Steps between validations: from the number of pixels, so that it is repeatable."""
        crop, settings = self.settings.crop, self.settings
        pixels = math.prod(crop) if crop else _mean_pixels(self.train)
        step = _FORWARD_AND_BACKWARD * settings.batch_size * settings.accumulate * pixels
        whole = len(self.val) * _mean_pixels(self.val)
        least = 5 if self.last_step is None else min(max(self.last_step // 40, 1), 5)
        return max(math.ceil(whole / (VALIDATION_SHARE * step)), least)

    def judged(self) -> contextlib.AbstractContextManager[None]:
        """Let the model be, inside of the block, the network that is validated and kept."""
        return contextlib.nullcontext() if self.average is None else self.average.in_place()

    def _validate(self) -> None:
        started = time.monotonic()
        every = math.ceil(len(self.val) * _mean_pixels(self.val) / _LOSS_PIXELS)
        parts: list[tuple[np.ndarray, ...]] = []

        def note(index: int, scores: np.ndarray, target: np.ndarray) -> None:
            arrays = [scores.reshape(-1, scores.shape[-1]), target.reshape(-1)]
            distance = self._distances(target[None])
            if distance is not None:
                arrays.append(distance.reshape(arrays[0].shape))
            parts.append(tuple(array[::every] for array in arrays))
            self.watch.validating(self, index + 1)
            self._end_if_asked()

        self.watch.validating(self, 0)
        with self.judged():
            result = evaluate(self.model, self.val, self.class_names, self.foreground, note)
            # All images as one: the Dice of an image without foreground says little.
            scores, target, *distance = (
                np.concatenate(arrays)[None] for arrays in zip(*parts, strict=True)
            )
            with no_grad():
                loss = float(self.loss_of(scores, target, None, *distance))
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
        self._calm = 0 if better else self._calm + 1
        if self._calm == PLATEAU:
            self._reductions, self._calm = self._reductions + 1, 0
        self.watch.validated(self, result, better)

    # ---- going on later ---------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides how the training goes on, for `minidl.save`.

        Only `between_steps` is it of use. The noise of dropout is that of `minidl.random`, whose
        state is in it.
        """
        average = self.average
        return {
            "step": self.step,
            "weights": self.model.state_dict() if average is None else average.own_state(),
            "average": None if average is None else average.state(),
            "optimiser": self.optimiser.state_dict(),
            "generator": generator().bit_generator.state,
            "history": list(self.history),
            "best": None if self.best is None else self.history.index(self.best),
            "losses": list(self._losses),
            "loss": self.loss,
            "lr": self.lr,
            "plateau": [self._reductions, self._calm],
            "elapsed": self.elapsed,
            "validation_seconds": self._validation_seconds,
            "done": self.done,
            "budget": self._budget(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what the `state_dict` of a trainer of the same settings was.

        Another budget may have been set: then the schedule goes on from the share of it that is
        used up.

        Raises
        ------
        ValueError, KeyError
            If it is of another model or optimiser.
        """
        self.model.load_state_dict(state["weights"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.average is not None:
            self.average.load(state["average"])
        generator().bit_generator.state = state["generator"]
        self.step, self.history = state["step"], list(state["history"])
        self.best = None if state["best"] is None else self.history[state["best"]]
        self._losses, self.loss, self.lr = list(state["losses"]), state["loss"], state["lr"]
        self._reductions, self._calm = state["plateau"]
        self._before, self._start = state["elapsed"], time.monotonic()
        self._validation_seconds = state["validation_seconds"]
        self._done = state["done"] if state["budget"] == self._budget() else 0.0

    def _budget(self) -> list[float | None]:
        return [getattr(self.settings, name) for name in BUDGET]


def _merit(row: dict[str, float]) -> tuple[float, float]:
    # No Dice: there is no foreground and, rightly, none was found.
    score = row["val_dice"]
    return (1.0 if math.isnan(score) else score, row["val_pixel_accuracy"])


def _mean_pixels(dataset: Dataset) -> float:
    sizes = [dataset.raw(index)[1].size for index in range(len(dataset))]
    return sum(sizes) / len(sizes)
