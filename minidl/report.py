"""A run folder as one HTML page: what was trained, how it went, where it is good and where not."""

from __future__ import annotations

import base64
import csv
import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from minidl import metrics
from minidl import run as folder
from minidl.alarms import read_alarms
from minidl.architecture import Architecture
from minidl.card import read_json
from minidl.data import DataError, Dataset
from minidl.doctor.page import STYLE, refuse_page
from minidl.doctor.pictures import colour, data_uri, histogram, overlay
from minidl.evaluate import chosen_pairs
from minidl.progress import Progress
from minidl.run import RunError
from minidl.segmenter import Segmenter

REPORT = "report.html"


@dataclass(frozen=True)
class Case:
    """How one validation image came out.

    Attributes
    ----------
    index : int
        In the validation set.
    name : str
    score : float
        Mean Dice of the foreground classes that the target or the prediction has; 1 where there
        is no foreground and none was found.
    failure : str or None
        See `metrics.failure`; all foreground counts as one.
    """

    index: int
    name: str
    score: float
    failure: str | None = None


def write_report(
    run: str | Path,
    path: str | Path | None = None,
    *,
    overwrite: bool = False,
    cases: int = 4,
    progress: Progress | None = None,
) -> Path:
    """Write the page of a run: scores, curves, best and worst images, every setting.

    Parameters
    ----------
    run : str or Path
        A run folder; whatever a run that was stopped early lacks is left out.
    path : str or Path, optional
        ``report.html`` in the run folder by itself. It appears complete or not at all.
    overwrite : bool
        Whether an existing page may be replaced.
    cases : int
        How many of the best and of the worst validation images to show. They are predicted anew,
        one at a time, if the data folder is still where it was; 0 leaves them out.
    progress : Progress, optional

    Returns
    -------
    Path

    Raises
    ------
    RunError
        If `run` is no run folder.
    FileExistsError
        If the page exists and `overwrite` is not set.
    """
    run, progress = Path(run), progress or Progress(silent=True)
    if not (run / folder.CONFIG).is_file():
        raise RunError(f"{run}: no {folder.CONFIG} in it, so it is not a run folder.")
    path = refuse_page(run / REPORT if path is None else path, overwrite)
    config = read_json(run / folder.CONFIG)
    parts = [
        _head(run, config),
        _scores(read_json(run / folder.METRICS)),
        _alarms(run),
        _picture(run / folder.CURVES, "Loss and scores"),
        _picture(run / folder.SAMPLES_PICTURE, "What it found on the way"),
        _cases(run, config, cases, progress) if cases else "",
        _picture(run / folder.PREDICTIONS, "Validation images"),
        _history(run / folder.HISTORY),
        _settings(config),
        _environment(read_json(run / folder.ENVIRONMENT)),
    ]
    return folder.write_text(
        path,
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>minidl run {escape(run.resolve().name)}</title><style>{STYLE}</style></head>"
        "<body>\n" + "\n".join(part for part in parts if part) + "\n</body></html>\n",
    )


def _table(rows: Sequence[tuple[str, str]]) -> str:
    cells = "".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in rows)
    return f"<table>{cells}</table>"


def _head(run: Path, config: Mapping[str, Any]) -> str:
    architecture = config.get("architecture")
    network = str(Architecture.from_dict(architecture)) if architecture else "?"
    rows = [
        ("data", str(config.get("data", "?"))),
        ("network", network),
        ("weights", f"{config.get('parameters', 0):,}"),
        ("classes", ", ".join(config.get("class_names", []))),
        ("split", str(read_json(run / folder.SPLIT).get("how", "?"))),
        ("page made with", f"Python {platform.python_version()}, NumPy {np.__version__}"),
    ]
    return f"<h1>Run {escape(run.resolve().name)}</h1>{_table(rows)}"


def _alarms(run: Path) -> str:
    cards = "".join(
        f'<div class="card warning"><b>{escape(alarm.kind)}</b>, step {alarm.step}: '
        f'{escape(alarm.words)}<p class="next">{escape(alarm.remedy)}</p></div>'
        for alarm in read_alarms(run / folder.ALARMS)
    )
    return f"<h2>Alarms</h2>{cards}" if cards else ""


def _scores(scores: Mapping[str, Any]) -> str:
    if not scores:
        return (
            '<h2>Scores</h2><div class="card warning">The run ended before it had any: there is '
            f"no {folder.METRICS}.</div>"
        )
    body = "".join(
        f"<tr><td>{escape(str(row.get('name')))}</td>"
        + "".join(
            f'<td class="n">{_number(row.get(key))}</td>'
            for key in ("share", "accuracy", "dice", "iou")
        )
        + "</tr>"
        for row in scores.get("classes", [])
    )
    front = ", ".join(scores.get("foreground", []))
    return (
        f"<h2>Scores on {scores.get('images')} validation images</h2>"
        f"<p><b>Dice {_number(scores.get('foreground_dice'))}</b> of {escape(front)}; pixel "
        f"accuracy {_number(scores.get('pixel_accuracy'))}, mean IoU "
        f"{_number(scores.get('mean_iou'))}</p>"
        "<table><tr><th>class</th><th class='n'>share of pixels</th><th class='n'>accuracy</th>"
        f"<th class='n'>Dice</th><th class='n'>IoU</th></tr>{body}</table>"
    )


def _number(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) and math.isfinite(value) else "-"


def _picture(path: Path, title: str) -> str:
    if not path.is_file():
        return ""
    uri = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
    return f'<h2>{escape(title)}</h2><img src="{uri}" alt="{escape(title)}" style="max-width:100%">'


# ---- best and worst --------------------------------------------------------------------------


def _cases(run: Path, config: Mapping[str, Any], count: int, progress: Progress) -> str:
    try:
        segmenter = Segmenter.load(folder.model_path(run))
        pairs, _ = chosen_pairs(run, config.get("data", ""), "val")
        dataset = Dataset(pairs, segmenter.mask_kind, segmenter.normaliser, cache_bytes=0)
        ranked = rank_cases(segmenter, dataset, progress)
    except (RunError, DataError) as error:
        return (
            '<h2>Best and worst images</h2><div class="card note">Cannot be shown: '
            f"{escape(str(error))}</div>"
        )
    worst, best = ranked[:count], ranked[count:][-count:][::-1]
    text = f'<div class="charts">{histogram([c.score for c in ranked], "Images", "Dice")}</div>'
    text += _failures(ranked)
    for title, some in (("Worst", worst), ("Best", best)):
        figures = "".join(_case(segmenter, dataset, case) for case in some)
        text += f'<h3>{title}</h3><div class="row">{figures}</div>' if some else ""
    return f"<h2>Best and worst images: target, then prediction</h2>{text}"


def _failures(cases: Sequence[Case]) -> str:
    """How often each kind of failure came about."""
    counts = {kind: sum(case.failure == kind for case in cases) for kind in metrics.FAILURES}
    told = ", ".join(f"{kind}: {count}" for kind, count in counts.items() if count)
    return f"<p>Of {len(cases)} images, {told or 'none failed altogether'}.</p>"


def rank_cases(
    segmenter: Segmenter, dataset: Dataset, progress: Progress | None = None
) -> list[Case]:
    """Score every image by itself, the worst first; images of equal score by their names.

    Parameters
    ----------
    segmenter : Segmenter
    dataset : Dataset
    progress : Progress, optional

    Returns
    -------
    list of Case
    """
    cases = []
    for index in range(len(dataset)):
        if progress is not None:
            progress.now(f"predicting {index + 1}/{len(dataset)}")
        image, target = dataset.raw(index)
        prediction = segmenter(image, dataset.name(index))
        matrix = metrics.confusion_matrix(prediction, target, segmenter.mask_kind.num_classes)
        score = metrics.mean_dice(matrix, segmenter.foreground)
        front = (np.isin(classes, segmenter.foreground) for classes in (prediction, target))
        name, failure = dataset.name(index), metrics.failure(*front)
        cases.append(Case(index, name, 1.0 if math.isnan(score) else score, failure))
    return sorted(cases, key=lambda case: (case.score, case.name))


def _case(segmenter: Segmenter, dataset: Dataset, case: Case) -> str:
    image, target = dataset.raw(case.index)
    prediction = segmenter(image, case.name)
    colours = {index: colour(index) for index in segmenter.foreground}
    pictures = "".join(
        f'<img src="{data_uri(overlay(image, classes, colours, 220))}" alt="{word}">'
        for word, classes in (("target", target), ("prediction", prediction))
    )
    failed = f", {case.failure}" if case.failure else ""
    words = escape(f"{case.name}: Dice {case.score:.3f}{failed}")
    return f'<figure><div class="pair">{pictures}</div><figcaption>{words}</figcaption></figure>'


# ---- settings --------------------------------------------------------------------------------


def _history(path: Path) -> str:
    if not path.is_file():
        return ""
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    head = "".join(f"<th class='n'>{escape(cell)}</th>" for cell in rows[0])
    body = "".join(
        "<tr>" + "".join(f'<td class="n">{escape(cell)}</td>' for cell in row) + "</tr>"
        for row in rows[1:]
    )
    return (
        f"<h2>History</h2><details><summary>{len(rows) - 1} validations</summary>"
        f"<table><tr>{head}</tr>{body}</table></details>"
    )


def _settings(config: Mapping[str, Any]) -> str:
    text = escape(json.dumps(config, indent=2))
    return (
        "<h2>Every setting</h2>"
        f"<details><summary>{folder.CONFIG}</summary><pre>{text}</pre></details>"
    )


def _environment(about: Mapping[str, Any]) -> str:
    if not about:
        return ""
    text = escape(json.dumps(about, indent=2))
    return (
        "<h2>Computed with</h2>"
        f"<details><summary>{folder.ENVIRONMENT}</summary><pre>{text}</pre></details>"
    )
