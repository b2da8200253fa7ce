"""The table and the pictures of `nerve.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from minidl import plot

COLOURS = {
    "slides": "#EE6677",
    "mended": "#CCBB44",
    "blamed": "#AA3377",
    "ladder": "#EE8866",
    "good": "#228833",
    "spoilt": "#4477AA",
    "fcn": "#888888",
}
TITLES = {
    "slides": "as on the slides",
    "mended": "slides, one defect mended",
    "blamed": "slides, what they blame",
    "ladder": "mended in turn",
    "good": "all mended",
    "spoilt": "all mended, one defect put back",
    "fcn": "FCN",
}


@dataclass
class Row:
    """A variant: its results and their scores, one for each seed."""

    name: str
    group: str
    results: list[Any] = field(default_factory=list)
    scores: list[dict[str, Any]] = field(default_factory=list)

    def add(self, result: Any, scores: dict[str, Any]) -> None:
        """Another seed."""
        self.results.append(result)
        self.scores.append(scores)

    def mean(self, key: str) -> float:
        """Over the seeds."""
        return float(np.mean([scores[key] for scores in self.scores]))


def words(scores: dict[str, Any]) -> str:
    """Scores in a line."""
    failures = [f"{n} x {name}" for name, n in scores.items() if type(n) is int and n]
    failures += [] if scores["converged"] else ["not converged"]
    return f"Dice {scores['dice']:.3f}, Kaggle {scores['kaggle']:.3f}; " + (
        ", ".join(failures) or "no failures"
    )


def table(rows: Sequence[Row]) -> str:
    """Markdown: scores, failures and time of each variant, means over seeds."""
    lines = [
        "| variant | Dice | Kaggle | loss | not converged | predict none | separated spots | "
        "false highlight | steps | s |",
        "| --- " + "| ---: " * 9 + "|",
    ]
    for row in rows:
        trained = row.results[0].steps > 0
        cells = [
            row.name,
            f"{row.mean('dice'):.3f}",
            f"{row.mean('kaggle'):.3f}",
            f"{row.mean('loss'):.3f}" if trained else "",
            "yes" if trained and row.mean("converged") < 0.5 else "",
            *(
                f"{row.mean(key):.0f}" if row.mean(key) else ""
                for key in ("predict none", "separated spots", "false highlight")
            ),
            str(row.results[0].steps),
            f"{np.mean([result.seconds for result in row.results]):.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw(rows: Sequence[Row], data: tuple[Any, Any], out: Path) -> list[Path]:
    """Write the three pictures."""
    drawn = {
        "nerve_scores.png": bars(rows, data[1]),
        "nerve_losses.png": curves(rows, data[0]),
        "nerve_frames.png": predictions(rows, data[1]),
    }
    return [plot.write_figure(figure, out / name) for name, figure in drawn.items()]


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=90, facecolor="white", layout="constrained")


def bars(rows: Sequence[Row], judge: Any) -> Any:
    """Dice and Kaggle's mean Dice of each variant, and what an empty submission gets."""
    figure = _figure(9.5, 0.27 * len(rows) + 1.2)
    left, right = figure.subplots(1, 2, sharey=True)
    places = -np.arange(len(rows))
    for axis, key, title in (
        (left, "dice", "Dice of the nerve, all frames together"),
        (right, "kaggle", "Kaggle's score: mean over frames"),
    ):
        axis.barh(places, [r.mean(key) for r in rows], color=[COLOURS[r.group] for r in rows])
        for place, row in zip(places, rows, strict=True):
            axis.text(max(row.mean(key), 0) + 0.015, place, f"{row.mean(key):.2f}", va="center",
                      fontsize=7.5, color=plot.INK)  # fmt: skip
            if len(row.scores) > 1:
                axis.plot([s[key] for s in row.scores], [place] * len(row.scores), "o",
                          markersize=2.5, color=plot.INK)  # fmt: skip
        axis.set_xlim(0, 1.1)
        axis.set_title(title, fontsize=9, loc="left", color=plot.INK)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8, colors=plot.INK)
    empty = 1 - judge.labels.any(axis=(1, 2)).mean()
    right.axvline(empty, color=plot.INK, linewidth=0.9, linestyle=(0, (4, 3)))
    right.text(empty, 0.8, "no nerve anywhere", ha="center", fontsize=7, color=plot.INK)
    left.set_yticks(places, [row.name for row in rows])
    return figure


def curves(rows: Sequence[Row], learn: Any) -> Any:
    """Cross-entropy over the course of the trainings, beside that of a constant."""
    level = learn.watched().entropy
    figure = _figure(12, 4)
    axes = figure.subplots(1, 4, sharey=True)
    panels = (("slides", "mended", "blamed"), ("ladder", "good"), ("good", "spoilt"), ("fcn",))
    for axis, groups in zip(axes, panels, strict=True):
        shown = [row for row in rows if row.group in groups and len(row.results[0].curve) > 1]
        for number, row in enumerate(shown):
            curve = np.array(row.results[0].curve)
            share = curve[:, 0] / curve[-1, 0]
            first = row.group in ("slides", "good")
            axis.plot(
                share, curve[:, 1], linewidth=2.2 if first else 1.1, label=row.name,
                color=plot.INK if first else f"C{number}", zorder=3 if first else 2,
            )  # fmt: skip
        axis.axhline(level, color=plot.INK, linewidth=0.9, linestyle=(0, (4, 3)))
        axis.set_yscale("log")
        axis.set_xlabel("share of the steps", fontsize=8, color=plot.INK)
        axis.set_title(TITLES[groups[0]], fontsize=9, loc="left", color=plot.INK)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8, colors=plot.INK)
        axis.legend(fontsize=6, frameon=False, loc="lower left" if groups[0] != "fcn" else "best")
    axes[0].set_ylabel("cross-entropy, nats a pixel", fontsize=8, color=plot.INK)
    axes[0].text(1, level * 1.05, f"a constant: H(q) = {level:.3f}", fontsize=7, ha="right",
                 color=plot.INK)  # fmt: skip
    return figure


def predictions(rows: Sequence[Row], judge: Any, count: int = 5) -> Any:
    """A row for each variant, a column for each of some frames."""
    there = judge.labels.any(axis=(1, 2))
    nerve, empty = np.flatnonzero(there), np.flatnonzero(~there)
    columns = [*_spread(nerve, count - 2), *_spread(empty, 2)]
    figure = _figure(7.6, 0.78 * (len(rows) + 1))
    axes = figure.subplots(len(rows) + 1, len(columns), squeeze=False)
    lines = [("frame", None), *((row.name, row.results[0].predictions) for row in rows)]
    for line, (name, found) in zip(axes, lines, strict=True):
        for axis, index in zip(line, columns, strict=True):
            axis.imshow(judge.images[index], cmap="gray", vmin=0, vmax=255, aspect="equal")
            axis.set_xticks([])
            axis.set_yticks([])
            _outline(axis, judge.labels[index] > 0, "#66CCEE")
            if found is not None:
                _outline(axis, found[index], "#FFDD22")
        line[0].set_ylabel(name, fontsize=7, rotation=0, ha="right", va="center", color=plot.INK)
    figure.suptitle("blue: where the nerve is; yellow: where it was found", fontsize=8,
                    color=plot.INK)  # fmt: skip
    return figure


def _spread(items: np.ndarray, count: int) -> list[int]:
    return [int(items[round(i)]) for i in np.linspace(0, len(items) - 1, count)]


def _outline(axis: Any, mask: np.ndarray, colour: str) -> None:
    if mask.any() and not mask.all():
        axis.contour(mask, levels=[0.5], colors=colour, linewidths=0.9)
    elif mask.all():
        axis.set_title("everywhere", fontsize=6, pad=1)
