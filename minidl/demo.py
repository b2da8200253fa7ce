"""The demonstration: a U-Net learns to find nerves in ultrasound pictures made up for it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from minidl import run as folder
from minidl.data import Dataset, write_nerve_set
from minidl.evaluate import Evaluation, chosen_pairs, evaluate
from minidl.gallery import draw_predictions
from minidl.progress import Progress
from minidl.recipe import Options, train_into, write_summary

FRAMES = {"train": 96, "val": 18, "test": 36}
STEPS = 350
SECONDS = 100  # for everything up to the end of training; a slow machine makes fewer steps

OPTIONS: dict[str, Any] = {
    "depth": 4,
    "root": 8,
    "batch_size": 8,
    "crop": 96,
    "lr": 5e-3,
    "class_names": ("background", "nerve"),
}


def run_demo(
    out: str | Path = "runs/demo",
    seed: int = 0,
    steps: int = STEPS,
    progress: Progress | None = None,
) -> Evaluation | None:
    """Write a synthetic set, train on a part of it, and score what was learnt on another.

    Parameters
    ----------
    out : str or Path
        Folder to make. Afterwards a run folder, with the images in ``data/``.
    seed : int
        Of the pictures, the weights and the crops.
    steps : int
        Training ends after them, or sooner where that would take more than a minute and a half.
    progress : Progress, optional
        Where to tell about it; silent if not given.

    Returns
    -------
    Evaluation
        On frames of subjects that neither training nor validation has seen; None if the keyboard
        stopped the training before there was anything to evaluate.
    """
    start, progress = time.monotonic(), progress or Progress(silent=True)
    out = folder.refuse_existing(out)
    data = write_demo_set(out / "data", seed, progress)
    left = max(SECONDS - (time.monotonic() - start), 5.0)
    options = Options(steps=steps, minutes=left / 60, seed=seed, **OPTIONS)
    outcome = train_into(out, data, options, progress)
    if outcome.segmenter is None:
        return None
    progress.begin("predicting frames of subjects it has never seen")
    segmenter = outcome.segmenter
    pairs, _ = chosen_pairs(out, data, "test")
    test = Dataset(pairs, segmenter.mask_kind, segmenter.normaliser)
    result = evaluate(segmenter.model, test, segmenter.class_names, segmenter.foreground)
    title = "What the demo's U-Net finds in frames it never saw"
    draw_predictions(segmenter, test, out / folder.PREDICTIONS, title)
    folder.write_text(out / folder.METRICS, result.json())
    write_summary(out)
    progress.say(f"\n{len(test)} test frames, of subjects it has never seen:\n{result.text()}")
    return result


def write_demo_set(data: Path, seed: int, progress: Progress) -> Path:
    """Write the frames, and lists that divide them by subject."""
    total = sum(FRAMES.values())
    progress.begin(f"inventing {total} ultrasound frames")
    write_nerve_set(data, n=total, seed=seed)
    names = sorted(
        (path.stem for path in data.glob("*.tif") if not path.stem.endswith("_mask")),
        key=lambda name: tuple(map(int, name.split("_"))),
    )
    first = 0
    for part, count in FRAMES.items():
        lines = "\n".join(names[first : first + count]) + "\n"
        folder.write_text(data / f"{part}.txt", lines)
        first += count
    progress.say(f"{total} frames are in {data}: " + ", ".join(
        f"{count} for {part}" for part, count in FRAMES.items()
    ))  # fmt: skip
    return data
