"""Run folders: what a training run leaves behind, and how it is found again.

::

    RUN/
      model.safetensors   the best network so far; `predict` needs nothing else
      last.safetensors    the state of the training, from which it can go on
      config.json         every setting as it was resolved
      split.json          which files were for training and which for validation
      history.csv         one row for each validation
      curves.png          the same as a picture
      predictions.png     validation images: input, target, prediction
      metrics.json        scores of the best network on the validation images
      samples/            some of these images at several steps; samples.png shows all
      alarms.json         what went wrong, with causes
      environment.json    versions, processor, threads
      log.txt             what was said on the way
      README.md           the model's card

Every file is written under another name and renamed: whatever happens, it is complete.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minidl.checkpoint import whole_file

try:
    import fcntl
except ImportError:  # not on this system
    fcntl = None  # type: ignore[assignment]

MODEL, LAST = "model.safetensors", "last.safetensors"
CONFIG, SPLIT, HISTORY = "config.json", "split.json", "history.csv"
CURVES, PREDICTIONS, METRICS = "curves.png", "predictions.png", "metrics.json"
SAMPLES, SAMPLES_PICTURE, ALARMS = "samples", "samples.png", "alarms.json"
ENVIRONMENT, LOG, CARD = "environment.json", "log.txt", "README.md"


class RunError(ValueError):
    """A run folder that cannot be used as asked for; the message says the way out."""


def refuse_existing(run: str | Path) -> Path:
    """Raise unless there is nothing at `run` yet, or an empty folder."""
    run = Path(run)
    if run.exists() and not (run.is_dir() and not any(run.iterdir())):
        raise RunError(
            f"{run} exists already, and nothing is overwritten. Choose another folder with --out, "
            f"for example {free_name(run)}."
        )
    return run


@contextlib.contextmanager
def alone(run: Path) -> Iterator[None]:
    """Keep other processes from training into a run folder while the block lasts.

    The system forgets about it when the process ends, however it ends. Where it cannot lock
    folders, nothing is kept from anybody.

    Raises
    ------
    RunError
        If another process, or another call, is training into it.
    """
    if fcntl is None:
        yield
        return
    folder = os.open(run, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"{run}: another process is training into it. Wait until it has ended, or end it."
            ) from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(folder)


def free_name(run: Path) -> Path:
    """`run` itself if there is nothing, else the first free one of RUN-2, RUN-3, ..."""
    number, name = 1, run
    while name.exists():
        number += 1
        name = run.with_name(f"{run.name}-{number}")
    return name


def model_path(run: str | Path) -> Path:
    """The model file of a run folder; a model file itself is taken, too."""
    run = Path(run)
    if run.is_file():
        return run
    if not run.is_dir():
        raise RunError(f"{run}: no such run folder. `minidl train DATA --out {run}` makes one.")
    path = run / MODEL
    if not path.is_file():
        raise RunError(
            f"{run}: a folder without {MODEL}: not a run, or one that ended before its first "
            "validation."
        )
    return path


def write_text(path: Path, text: str) -> Path:
    """Write a text file that is complete under its name, whatever happens.

    Raises
    ------
    OSError
        If the disk is full, with the name of the file; the old file is still there then.
    """
    with whole_file(path, "write_text") as file:
        file.write(text.encode())
    return path


def write_json(path: Path, content: Any) -> Path:
    """Write JSON, as `write_text` does."""
    return write_text(path, json.dumps(content, indent=2) + "\n")


def write_picture(path: Path, pixels: np.ndarray) -> Path:
    """Write an array (H, W, 3), uint8, as PNG, complete or not at all."""
    from PIL import Image

    with whole_file(path, "write_picture") as file:
        Image.fromarray(pixels).save(file, format="PNG", optimize=True)
    return path


def read_picture(path: Path) -> np.ndarray:
    """The array (H, W, 3), uint8, of a picture."""
    from PIL import Image

    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def history_text(rows: Sequence[Mapping[str, float]]) -> str:
    """Rows of a history as CSV; empty cells for NaN."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: _cell(value) for key, value in row.items()})
    return text.getvalue()


def _cell(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    return "" if math.isnan(value) else f"{value:.6g}"
