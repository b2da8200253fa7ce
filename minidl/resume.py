"""Going on with a training from its run folder, as if it had never been interrupted.

A run folder says all that it takes: the settings in ``config.json``, the files in ``split.json``
together with their checksums, and where the training was in ``last.safetensors``. Until all of
them have been found to belong together, nothing is written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from minidl import run as folder
from minidl.checkpoint import UNFINISHED, load
from minidl.data import DataError, Dataset, Pair, find_pairs
from minidl.data.masks import listing
from minidl.progress import Progress, duration
from minidl.random import manual_seed
from minidl.recipe import Outcome, budget_text, learn, new_trainer, with_pictures
from minidl.run import RunError
from minidl.segmenter import Segmenter
from minidl.train import Settings, Trainer
from minidl.training.origin import checksums, origin
from minidl.training.settings import BUDGET

_TUPLES = ("crop", "class_weights")  # that JSON knows as lists


def resume_folder(
    run: str | Path,
    budget: Mapping[str, float] | None = None,
    data: str | Path | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Go on with a training that was interrupted, or whose budget was used up.

    Parameters
    ----------
    run : str or Path
        A run folder.
    budget : mapping, optional
        Of ``steps``, ``epochs`` and ``minutes``, in place of the one the run had, and like that
        counted from the beginning of the run. Without it the training ends as it would have, with
        the same bits (unless minutes decide the end).
    data : str or Path, optional
        Where the data folder is now, if it was moved.
    progress : Progress, optional
        Where to tell about it; silent if not given.

    Returns
    -------
    Outcome

    Raises
    ------
    RunError
        If `run` cannot be continued: it is no run folder, its state is damaged or of another
        training, another process is training into it, or the budget is no more than what is used
        up.
    DataError
        If files of the data folder are gone or have changed.
    TrainingError, OSError
        As `recipe.train_folder`.
    """
    run, progress = Path(run), progress or Progress(silent=True)
    config = _config(run)
    with folder.alone(run):
        return _go_on(run, config, budget, data, progress)


def _go_on(
    run: Path,
    config: dict[str, Any],
    budget: Mapping[str, float] | None,
    data: str | Path | None,
    progress: Progress,
) -> Outcome:
    """The same in a folder that is ours alone."""
    settings, segmenter = _settings(run, config), _segmenter(run, config)
    progress.begin(f"looking whether {data or config['data']} is as it was")
    train, val = _sets(run, data or config["data"], segmenter)
    state = _state(run, origin(run, segmenter, settings))
    if budget:
        new: dict[str, Any] = dict.fromkeys(BUDGET) | dict(budget)
        settings = replace(settings, **new)
    trainer, recorder = new_trainer(run, segmenter, train, val, settings, progress)
    if state is not None:
        _load(trainer, state, run)
    if budget:
        _check_budget(trainer, run)
        config["settings"] |= new
    if data is not None:
        config["data"] = str(Path(data).resolve())
    folder.write_json(run / folder.CONFIG, config)
    _clear(run)
    recorder.keep(trainer)
    progress.keep(run / folder.LOG)
    progress.say(
        f"  from step {trainer.step}, after {duration(trainer.elapsed)} of training, to "
        f"{budget_text(settings)}"
    )
    outcome = with_pictures(learn(trainer, recorder), progress)
    if not trainer.interrupted and not trainer.stopped_early:
        progress.say(
            f"  its budget of {budget_text(settings)} is used up; more of it takes it further: "
            f"minidl train --resume {run} --minutes {max(2 * trainer.elapsed / 60, 1):.0f}"
        )
    return outcome


def _config(run: Path) -> dict[str, Any]:
    if run.is_file():
        raise RunError(f"{run} is a file. Name the run folder that it is in.")
    if not run.is_dir():
        raise RunError(f"{run}: no such run folder. `minidl train DATA --out {run}` makes one.")
    try:
        return json.loads((run / folder.CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(
            f"{run}: no {folder.CONFIG} in it, so it is not a run that can be continued. If a "
            "training was stopped before it began, delete the folder and train anew."
        ) from None
    except ValueError as error:
        raise RunError(f"{run / folder.CONFIG} cannot be read: {error}") from error


def _settings(run: Path, config: Mapping[str, Any]) -> Settings:
    try:
        found = dict(config["settings"])
        for name in _TUPLES:
            found[name] = None if found.get(name) is None else tuple(found[name])
        return Settings(**found)
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{run / folder.CONFIG}: not settings that this minidl knows: {error}"
        ) from error


def _segmenter(run: Path, config: Mapping[str, Any]) -> Segmenter:
    """The network as it was before the training."""
    try:
        manual_seed(config["settings"]["seed"])
        return Segmenter.untrained(config)
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{run / folder.CONFIG}: not a network that this minidl can train on: {error}"
        ) from error


def _sets(run: Path, data: str | Path, segmenter: Segmenter) -> tuple[Dataset, Dataset]:
    """Training and validation set, of the files that the run began with, unchanged."""
    try:
        split = json.loads((run / folder.SPLIT).read_text(encoding="utf-8"))
        names, sums = {part: split[part] for part in ("train", "val")}, split["checksums"]
    except (OSError, KeyError, ValueError) as error:
        raise RunError(
            f"{run / folder.SPLIT} does not say which files the run is about ({error}), so it "
            "cannot be continued."
        ) from error
    found = {pair.stem: pair for pair in _found(data, run)}
    gone = sorted({*names["train"], *names["val"]} - found.keys())
    if gone:
        raise DataError(
            f"{data}: {len(gone)} of the files that the run was trained on are gone: "
            f"{listing(gone)}. Put them back, or train anew in another folder."
        )
    parts = {part: [found[stem] for stem in names[part]] for part in names}
    now = checksums(parts["train"] + parts["val"], data)
    changed = [name for name in now | sums if now.get(name) != sums.get(name)]
    if changed:
        raise DataError(
            f"{data}: {len(changed)} files are not what they were when the training began: "
            f"{listing(changed)}. Put them back, or train anew in another folder."
        )
    train = Dataset(parts["train"], segmenter.mask_kind, segmenter.normaliser)
    return train, Dataset(parts["val"], segmenter.mask_kind, segmenter.normaliser)


def _found(data: str | Path, run: Path) -> list[Pair]:
    if not Path(data).is_dir():
        raise DataError(
            f"{data}, the data of {run}, is not there. If it was moved, say where it is now: "
            f"minidl train DATA --resume {run}"
        )
    return find_pairs(data)


def _state(run: Path, wanted: Mapping[str, Any]) -> dict[str, Any] | None:
    """The trainer's state; None if the run was stopped before there was one."""
    path = run / folder.LAST
    if not path.is_file():
        if (run / folder.MODEL).exists():
            raise RunError(
                f"{run}: no {folder.LAST} in it, from which to go on. Its network can still be "
                "used; to train, begin anew in another folder."
            )
        return None
    try:
        state = load(path)
        found, trainer = state["origin"], state["trainer"]
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{path} is not the state of a training, or damaged: {error} Without an earlier copy "
            f"of it the run cannot be continued. {_left(run)}"
        ) from error
    other = [name for name in wanted if found.get(name) != wanted[name]]
    if other:
        raise RunError(
            f"{path} is the state of another training: its {listing(other)} differ from what "
            f"{run / folder.CONFIG} and {folder.SPLIT} say. Put the run's own one back. "
            f"{_left(run)}"
        )
    return trainer


def _left(run: Path) -> str:
    model = run / folder.MODEL
    return f"The best network so far, {model}, is as it was." if model.exists() else ""


def _load(trainer: Trainer, state: Mapping[str, Any], run: Path) -> None:
    try:
        trainer.load_state_dict(state)
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{run / folder.LAST} does not fit this training: {error}") from error


def _check_budget(trainer: Trainer, run: Path) -> None:
    if trainer.step > 0 and trainer.done >= 1:
        raise RunError(
            f"{run} has done {trainer.step} steps ({trainer.epoch:.1f} epochs) in "
            f"{trainer.elapsed / 60:.1f} minutes already, and a budget counts from the beginning: "
            "give more."
        )


def _clear(run: Path) -> None:
    """Remove what a process that was killed while writing has left."""
    for path in run.glob(f".*{UNFINISHED}"):
        path.unlink(missing_ok=True)
