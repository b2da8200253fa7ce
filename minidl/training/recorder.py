"""The watch that shows a training on the screen and keeps it in a run folder."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minidl import run as folder
from minidl.checkpoint import save
from minidl.evaluate import Evaluation
from minidl.progress import Progress, duration
from minidl.segmenter import Segmenter
from minidl.train import Trainer, Watch

SAVE_SECONDS = 30.0  # at most this much is lost, apart from a validation and a step
SAVE_SHARE = 0.01  # of the time, at most, between validations


class Recorder(Watch):
    """Shows a training on the screen and keeps its state, best network and history in a folder.

    At any moment either the model file holds the network that the state calls the best one, or
    that is the network of the state itself: so one can always go on from what is there.

    Parameters
    ----------
    run : Path
        The folder.
    segmenter : Segmenter
        Whose model is trained.
    progress : Progress
    origin : dict
        Saved with the state: what has to be the same for going on from it.
    """

    def __init__(
        self, run: Path, segmenter: Segmenter, progress: Progress, origin: Mapping[str, Any]
    ) -> None:
        self.run, self.segmenter, self.progress = run, segmenter, progress
        self.origin = dict(origin)
        self.evaluation: Evaluation | None = None
        self._model_step: float | None = None  # of the network in the model file, where known
        self._saved_at, self._cost = time.monotonic(), 0.0

    def stepped(self, trainer: Trainer) -> None:
        """Say how far it is; save its state from time to time."""
        of = "" if trainer.last_step is None else f"/{trainer.last_step}"
        line = f"  step {trainer.step}{of}  loss {trainer.loss:.3f}"
        if trainer.history:
            line += f"  val Dice {_score(trainer.history[-1])} (best {_score(trainer.best)})"
        if trainer.step > 1 and not math.isnan(trainer.remaining):
            line += f"  {duration(trainer.remaining)} left"
        self.progress.now(line)
        if time.monotonic() - self._saved_at >= max(SAVE_SECONDS, self._cost / SAVE_SHARE):
            self.save_state(trainer)

    def validating(self, trainer: Trainer, done: int) -> None:
        """Say how far it is."""
        self.progress.now(f"  step {trainer.step}  validating {done}/{len(trainer.val)}")

    def validated(self, trainer: Trainer, evaluation: Evaluation, better: bool) -> None:
        """Keep everything, and say how good the network is."""
        if better:
            self.evaluation = evaluation
        self.keep(trainer)
        row = trainer.history[-1]
        self.progress.say(
            f"  step {row['step']:5}  epoch {row['epoch']:6.1f}  loss {row['train_loss']:.3f}  "
            f"val loss {row['val_loss']:.3f}  val Dice {_score(row)}  "
            f"pixel accuracy {row['val_pixel_accuracy']:.3f}  {duration(row['seconds'])}"
            + ("  * best" if better else "")
        )

    def save_state(self, trainer: Trainer) -> None:
        """Write down all that it takes to go on from here."""
        started = time.monotonic()
        save(self.run / folder.LAST, {"origin": self.origin, "trainer": trainer.state_dict()})
        self._saved_at = time.monotonic()
        self._cost = self._saved_at - started

    def keep(self, trainer: Trainer) -> None:
        """Bring the folder up to date with the trainer. The state comes first; see the class."""
        self.save_state(trainer)
        best = trainer.best
        if best is not None and best["step"] == trainer.step != self._model_step:
            with trainer.judged():
                self.segmenter.save(self.run / folder.MODEL)
            self._model_step = trainer.step
        if trainer.history:
            folder.write_text(self.run / folder.HISTORY, folder.history_text(trainer.history))

    def keep_interrupted(self, trainer: Trainer) -> None:
        """Keep what is there after Ctrl-C, also a network that was not validated yet."""
        if trainer.between_steps:
            self.keep(trainer)
        if trainer.step and not self.has_model:
            with trainer.judged():
                self.segmenter.save(self.run / folder.MODEL)

    @property
    def has_model(self) -> bool:
        """Whether there is a model file."""
        return (self.run / folder.MODEL).exists()

    def kept(self) -> str:
        """A sentence about what is in the folder."""
        if self.has_model:
            return f"The best network so far is in {self.run / folder.MODEL}."
        return f"There was no network to keep yet; {self.run} holds only its settings."

    def way_on(self) -> str:
        """A sentence about how to go on."""
        return f"To go on from there: minidl train --resume {self.run}"


def _score(row: Mapping[str, float] | None) -> str:
    return "-" if row is None or math.isnan(row["val_dice"]) else f"{row['val_dice']:.3f}"
