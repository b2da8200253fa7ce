"""The card of a trained network: what it was made of, how good it is, what it is not good for.

After Mitchell et al., Model Cards for Model Reporting, 2019.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minidl import run as folder
from minidl.alarms import read_alarms
from minidl.architecture import Architecture
from minidl.run import RunError

FEW = 20  # validation images, with which scores are a matter of chance


def write_card(run: str | Path) -> Path:
    """Write ``README.md`` in a run folder, from what else is in it.

    Parameters
    ----------
    run : str or Path
        What a run that was stopped early lacks is left out. A card that is there is replaced.

    Returns
    -------
    Path

    Raises
    ------
    RunError
        If it is no run folder.
    """
    run = Path(run)
    config = read_json(run / folder.CONFIG)
    if not config:
        raise RunError(f"{run}: no {folder.CONFIG} in it, so it is not a run folder.")
    split, scores = read_json(run / folder.SPLIT), read_json(run / folder.METRICS)
    sections = [
        _head(run, config),
        _data(config, split),
        _network(config),
        _training(run, config),
        _scores(run, scores),
        _limits(run, config, split, scores),
        _use(run),
        _computed_with(read_json(run / folder.ENVIRONMENT)),
    ]
    return folder.write_text(run / folder.CARD, "\n\n".join(filter(None, sections)) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object in a file; empty if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def read_history(run: Path) -> list[dict[str, str]]:
    """Rows of ``history.csv``; none if there is no such file."""
    try:
        with open(run / folder.HISTORY, encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except OSError:
        return []


def _head(run: Path, config: Mapping[str, Any]) -> str:
    channels = config["architecture"]["in_channels"]
    kind = {1: "grey", 3: "colour"}.get(channels, f"{channels}-channel")
    names = _listed(config["class_names"])
    return (
        f"# {run.resolve().name}\n\nA network that finds {names} in {kind} images: a class for "
        "each pixel. Trained with [minidl](https://pypi.org/project/minidl/), on the data below "
        "and nothing else."
    )


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)


def _data(config: Mapping[str, Any], split: Mapping[str, Any]) -> str:
    kind = config["mask_kind"]
    values = ", ".join(
        f"{name} ({value})"
        for name, value in zip(config["class_names"], kind["values"], strict=True)
    )
    ignored = "" if kind["ignore"] is None else f"; {kind['ignore']} did not count"
    train, val = len(split.get("train", [])), len(split.get("val", []))
    return (
        f"## Data\n\nFolder `{Path(config['data']).name}`: {train} image files to train on, {val} "
        f"to validate on ({split.get('how', 'unknown')}); their names are in `{folder.SPLIT}`. "
        f"Classes and their values in mask files: {values}{ignored}."
    )


def _network(config: Mapping[str, Any]) -> str:
    architecture = Architecture.from_dict(config["architecture"])
    normaliser = config["normaliser"]
    mean, std = (", ".join(f"{v:.4g}" for v in normaliser[key]) for key in ("mean", "std"))
    if normaliser.get("each"):
        shift = "Each image has its own mean taken off and is divided by its own deviation"
    else:
        shift = f"Images have the mean {mean} taken off and are divided by {std}"
    return (
        f"## Network\n\n`{architecture}`, {config['parameters']:,} weights. {shift}, channel by "
        "channel; the model file says so, too, and `minidl predict` does it."
    )


def _training(run: Path, config: Mapping[str, Any]) -> str:
    rows = [(key, value) for key, value in config["settings"].items() if value not in (None, {})]
    history = read_history(run)
    if history:
        best = max(history, key=lambda row: float(row["val_dice"] or 0))
        rows += [
            ("steps done", history[-1]["step"]),
            ("epochs done", history[-1]["epoch"]),
            ("minutes", f"{float(history[-1]['seconds']) / 60:.1f}"),
            ("kept network is of step", best["step"]),
        ]
    table = _table(("setting", "value"), [(key.replace("_", " "), str(v)) for key, v in rows])
    alarms = read_alarms(run / folder.ALARMS)
    said = "".join(f"\n- step {a.step}, {a.kind}: {a.words}" for a in alarms)
    return f"## Training\n\n{table}" + (f"\n\nAlarms on the way:\n{said}" if said else "")


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _scores(run: Path, scores: Mapping[str, Any]) -> str:
    if not scores:
        return "## Scores\n\nNone: the run ended before its network was scored."
    columns = "share", "accuracy", "dice", "iou"
    rows = [
        (row["name"], *(_number(row[key]) for key in columns)) for row in scores.get("classes", [])
    ]
    front = _listed(scores.get("foreground", []))
    picture = run / folder.PREDICTIONS
    shown = f"\n\n![validation images]({picture.name})" if picture.exists() else ""
    return (
        f"## Scores\n\nOn {scores['images']} validation images, over all their pixels: mean IoU "
        f"{_number(scores['mean_iou'])}, pixel accuracy {_number(scores['pixel_accuracy'])}, Dice "
        f"of {front} {_number(scores['foreground_dice'])}.\n\n"
        f"{_table(('class', 'share of pixels', *columns[1:]), rows)}{shown}"
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _limits(
    run: Path, config: Mapping[str, Any], split: Mapping[str, Any], scores: Mapping[str, Any]
) -> str:
    val = len(split.get("val", []))
    limits = [
        "It has seen images of one source. On others (another device, magnification, stain, site "
        "or patient group) it may be much worse: score it there first, with `minidl evaluate`.",
        "The network kept is the one that did best on the validation images, so its scores there "
        "are somewhat too good. For a claim, score it on images that were never looked at.",
    ]
    if "seed" in str(split.get("how", "")):
        limits.append(
            "Validation files were drawn at random. If several files show the same subject, some "
            "are in both parts, and scores are too good: divide by subject, in train.txt and "
            "val.txt."
        )
    if val < FEW:
        limits.append(f"{val} validation images are few: scores may be off by several hundredths.")
    for row in scores.get("classes", []):
        if row["dice"] is None:
            limits.append(
                f"No validation image has {row['name']}: how well it is found is unknown."
            )
        elif row["dice"] < 0.5:
            limits.append(f"{row['name']} is found badly (Dice {row['dice']:.2f}).")
    limits.append("It is no medical device, and has not been tested as one.")
    return "## Limits\n\n" + "\n".join(f"- {limit}" for limit in limits)


def _use(run: Path) -> str:
    return (
        "## Use\n\n```sh\n"
        f"minidl predict {folder.MODEL} IMAGES --out masks\n"
        f"minidl evaluate {folder.MODEL} DATA\n```\n\n"
        "or from Python\n\n```python\n"
        "from minidl.data import read_image\nfrom minidl.segmenter import Segmenter\n\n"
        f'classes = Segmenter.load("{folder.MODEL}")(read_image("image.png"))\n```\n\n'
        f"`{folder.MODEL}` is all that is needed. It is in the safetensors format, with the "
        "network, the normalisation and the names of the classes in its header; any reader of that "
        "format can open it."
    )


def _computed_with(about: Mapping[str, Any]) -> str:
    if not about:
        return ""
    packages = ", ".join(f"{k} {v}" for k, v in about["packages"].items() if v)
    return (
        f"## Computed with\n\nminidl {about['minidl']}, Python {about['python']}, {packages}; "
        f"{about['system']} on {about['processor'] or about['machine']}, threads: "
        f"{about['threads']}."
    )
