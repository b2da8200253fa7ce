"""The one who looks on while a network trains, and says what goes wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from minidl.alarms import signs
from minidl.alarms.alarm import Alarm
from minidl.alarms.look import Look, find_non_finite, look
from minidl.data.masks import IGNORE_INDEX
from minidl.evaluate import Evaluation
from minidl.run import write_json
from minidl.segmenter import like_scores
from minidl.tensor import Tensor, no_grad
from minidl.train import Trainer, Watch, segmentation_loss

FIRST_LOOKS = 1, 10, 30  # steps; then one in each of:
LOOK_EVERY, LOSS_EVERY = 100, 10
IMAGES = 2  # of a batch that are looked at
EARLY = 100  # steps, before which nothing is said about what was learned
_SAMPLE = 4096  # numbers of a weight whose change is measured


class Alarms(Watch):
    """Looks into the network after some of the steps, and at each validation.

    Training goes on as if nobody looked, to the last bit. A look is a forward pass of two images:
    on the whole less than 2 % of the time.

    Parameters
    ----------
    tell : callable, optional
        Called with each `Alarm`, once for each kind.
    path : Path, optional
        A JSON file for all of them. What is in it already, of a run that is resumed, is not said
        again.

    Attributes
    ----------
    alarms : list of Alarm
        What was said so far.
    """

    def __init__(
        self, tell: Callable[[Alarm], Any] | None = None, path: Path | None = None
    ) -> None:
        self.tell, self.path = tell, path
        self.alarms = read_alarms(path) if path is not None else []
        self.looks: list[Look] = []
        self.norms: list[dict[str, float]] = []
        self.ratios: list[float] = []
        self.matrices: list[np.ndarray] = []
        self.losses: list[tuple[float, float]] = []
        self.counts: np.ndarray = np.zeros(1)
        self._before: dict[str, np.ndarray] = {}

    def raise_alarm(self, alarm: Alarm | None, step: int) -> None:
        """Say it, unless there is nothing to say or it was said before."""
        if alarm is None or any(alarm.kind == other.kind for other in self.alarms):
            return
        self.alarms.append(replace(alarm, step=step))
        if self.path is not None:
            write_json(self.path, [asdict(each) for each in self.alarms])
        if self.tell is not None:
            self.tell(self.alarms[-1])

    # ---- what the trainer tells -------------------------------------------------------------

    def stepped(self, trainer: Trainer) -> None:
        """Look, if it is time."""
        if self._before:
            self._compare(trainer)
        if trainer.step in FIRST_LOOKS or trainer.step % LOOK_EVERY == 0:
            self._look(trainer)
        if trainer.step % LOSS_EVERY == 0:
            self._weigh(trainer)

    def validated(self, trainer: Trainer, evaluation: Evaluation, better: bool) -> None:
        """Judge what was learned."""
        self.matrices = [*self.matrices[1 - signs.RECURRING :], evaluation.matrix]
        if trainer.step < EARLY or trainer.epoch < 2:
            return
        self.raise_alarm(signs.one_class(self.matrices, trainer.class_names), trainer.step)
        shares = self.counts / max(self.counts.sum(), 1)
        losses, constants = zip(*self.losses, strict=True) if self.losses else ((), ())
        self.raise_alarm(signs.not_converged(losses, constants, shares), trainer.step)

    def not_finite(self, trainer: Trainer) -> str:
        """Find out where it began."""
        x, y, *others = trainer.batch

        def loss(scores: Tensor) -> Tensor:
            return loss_of(trainer)(scores, like_scores(y, scores), *others)

        found = find_non_finite(trainer.model, x, loss)
        if found is None:
            return ""
        self.raise_alarm(signs.non_finite(found, trainer.lr), trainer.step + 1)
        return str(self.alarms[-1]) if self.alarms[-1].kind == "non-finite" else ""

    # ---- what is looked at ------------------------------------------------------------------

    def _look(self, trainer: Trainer) -> None:
        model, step = trainer.model, trainer.step
        if step == FIRST_LOOKS[0]:
            self.raise_alarm(signs.first_weights(model), step)
        seen = look(model, trainer.batch[0][:IMAGES])
        for sign in (signs.unscaled_images, signs.relu_scores, signs.dropout_everywhere):
            self.raise_alarm(sign(seen), step)
        seen.images = seen.scores = np.empty(0)  # not kept
        self.looks = [*self.looks[1 - signs.RECURRING :], seen]
        self.raise_alarm(signs.dead_relus(self.looks), step)
        if step > FIRST_LOOKS[0]:  # behind scores that begin at zero there is no gradient at first
            self.norms = [*self.norms[1 - signs.RECURRING :], gradient_norms(model)]
            self.raise_alarm(signs.gradient_sizes(self.norms), step)
        self._before = samples(model)

    def _compare(self, trainer: Trainer) -> None:
        """The step after a look: how far it went. In the beginning only: rates fall later on."""
        before, self._before = self._before, {}
        if trainer.done > 0.5:
            return
        self.ratios.append(change(before, samples(trainer.model)))
        self.raise_alarm(signs.weight_changes(self.ratios, trainer.lr), trainer.step)

    def _weigh(self, trainer: Trainer) -> None:
        """The loss of the last batch beside that of the constant prediction."""
        _, y, *others = trainer.batch
        counted = np.bincount(y[y != IGNORE_INDEX], minlength=len(trainer.class_names))
        self.counts = self.counts + counted
        shares = np.maximum(self.counts / max(self.counts.sum(), 1), 1e-6).astype(np.float32)
        scores = np.ascontiguousarray(np.broadcast_to(np.log(shares), (*y.shape, shares.size)))
        with no_grad():
            constant = loss_of(trainer)(Tensor(scores), y, *others).item()
        self.losses = [*self.losses[-19:], (trainer.loss, constant)]


def read_alarms(path: Path) -> list[Alarm]:
    """Those in a file that `Alarms` wrote; none if there is no such file."""
    try:
        return [Alarm(**alarm) for alarm in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        return []


def loss_of(trainer: Any) -> Callable[..., Tensor]:
    """The function of scores, target and what else is in a batch that a trainer makes small."""

    def usual(scores: Any, target: np.ndarray, *_: Any) -> Tensor:
        return segmentation_loss(scores, target, trainer.foreground)

    return getattr(trainer, "loss_of", usual)


def gradient_norms(model: Any) -> dict[str, float]:
    """Of every weight that has a gradient, by name; biases and the like left out."""
    return {
        name: float(np.linalg.norm(parameter.grad))
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and parameter.ndim > 1
    }


def samples(model: Any) -> dict[str, np.ndarray]:
    """Some numbers of every weight that is learned."""
    return {
        name: parameter.numpy().reshape(-1)[:: max(parameter.size // _SAMPLE, 1)].copy()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.ndim > 1
    }


def change(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> float:
    """How much weights changed relative to themselves: the median over layers."""
    ratios = [
        float(np.linalg.norm(after[name] - old)) / max(float(np.linalg.norm(old)), 1e-12)
        for name, old in before.items()
    ]
    return float(np.median(ratios))
