"""The table and the pictures of `nerve.py`."""

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
    """Write the pictures."""
    bad = [row for row in rows if row.group in ("slides", "mended", "blamed", "fcn")]
    good = [row for row in rows if row.group in ("ladder", "good", "spoilt")]
    drawn = {
        "nerve_scores.png": bars(rows, data[1]),
        "nerve_losses.png": curves(rows, data[0]),
        "nerve_slides.jpg": predictions(bad, data[1]),
        "nerve_mended.jpg": predictions(good, data[1]),
    }
    for name, figure in drawn.items():
        # Speckle is large as PNG.
        figure.savefig(out / name, **({"pil_kwargs": {"quality": 60}} if "jpg" in name else {}))
    return [out / name for name in drawn]


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=90, facecolor="white", layout="constrained")


def _tidy(axis: Any, title: str) -> None:
    axis.set_title(title, fontsize=9, loc="left", color=plot.INK)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8, colors=plot.INK)


def bars(rows: Sequence[Row], judge: Any) -> Any:
    """Dice and Kaggle's mean Dice of each variant, and what an empty submission gets."""
    figure = _figure(9.5, 0.25 * len(rows) + 0.8)
    left, right = figure.subplots(1, 2, sharey=True)
    places = -np.arange(len(rows))
    for axis, key in ((left, "dice"), (right, "kaggle")):
        axis.barh(places, [r.mean(key) for r in rows], color=[COLOURS[r.group] for r in rows])
        for place, row in zip(places, rows, strict=True):
            highest = max(scores[key] for scores in row.scores)
            axis.text(highest + 0.015, place, f"{row.mean(key):.2f}", va="center",
                      fontsize=7.5, color=plot.INK)  # fmt: skip
            if len(row.scores) > 1:
                axis.plot([s[key] for s in row.scores], [place] * len(row.scores), "o",
                          markersize=2.5, color=plot.INK)  # fmt: skip
        axis.set_xlim(0, 1.1)
        axis.set_ylim(places[-1] - 0.6, 1.2)
    empty = 1 - judge.labels.any(axis=(1, 2)).mean()
    right.axvline(empty, color=plot.INK, linewidth=0.9, linestyle=(0, (4, 3)))
    right.text(empty, 0.6, " no nerve in any frame", fontsize=7, color=plot.INK)
    left.set_yticks(places, [row.name for row in rows])
    _tidy(left, "Dice of the nerve, all frames together")
    _tidy(right, "Kaggle's score, the mean over frames")
    return figure


def curves(rows: Sequence[Row], learn: Any) -> Any:
    """Cross-entropy over the course of the trainings, beside that of a constant."""
    level = learn.watched().entropy
    figure = _figure(12, 5)
    axes = figure.subplots(1, 4, sharey=True)
    parts = {
        "as on the slides; mended alone": ("slides", "mended", "blamed"),
        "mended one after another": ("slides", "ladder", "good"),
        "all mended; put back alone": ("good", "spoilt"),
        "FCN": ("fcn",),
    }
    for axis, (title, groups) in zip(axes, parts.items(), strict=True):
        for row in rows:
            if row.group in groups and len(row.results[0].curve) > 1:
                _draw_curve(axis, row)
        axis.axhline(level, color=plot.INK, linewidth=0.9, linestyle=(0, (4, 3)))
        axis.set_yscale("log")
        axis.set_xlabel("share of the steps", fontsize=8, color=plot.INK)
        _tidy(axis, title)
        axis.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(0, -0.13))
    axes[0].set_ylabel("cross-entropy, nats a pixel", fontsize=8, color=plot.INK)
    axes[0].text(0, 0.93 * level, f"a constant: H(q) = {level:.3f}", fontsize=7, va="top",
                 color=plot.INK)  # fmt: skip
    return figure


def _draw_curve(axis: Any, row: Row) -> None:
    curve = np.array(row.results[0].curve)
    style = {"slides": {"color": COLOURS["slides"]}, "good": {"color": COLOURS["good"]}}
    wide = {"linewidth": 2.4, "zorder": 3} if row.group in style else {"linewidth": 1.1}
    axis.plot(curve[:, 0] / curve[-1, 0], curve[:, 1], label=row.name,
              **style.get(row.group, {}), **wide)  # fmt: skip


def predictions(rows: Sequence[Row], judge: Any) -> Any:
    """A row for each variant, a column for each of five frames, the last two without a nerve."""
    there = judge.labels.any(axis=(1, 2))
    columns = [*_spread(np.flatnonzero(there), 3), *_spread(np.flatnonzero(~there), 2)]
    figure = _figure(7.6, 0.79 * len(rows) + 0.3)
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    for line, row in zip(axes, rows, strict=True):
        found = row.results[0].predictions
        for axis, index in zip(line, columns, strict=True):
            axis.imshow(judge.images[index], cmap="gray", vmin=0, vmax=255)
            _outline(axis, judge.labels[index] > 0, "#33BBEE", 1.8)
            _outline(axis, found[index], "#FFDD22", 0.8)
            axis.set_xticks([])
            axis.set_yticks([])
        line[0].set_ylabel(row.name, fontsize=7, rotation=0, ha="right", va="center",
                           color=plot.INK)  # fmt: skip
    figure.suptitle("blue: where the nerve is; yellow: where it was found", fontsize=8,
                    color=plot.INK)  # fmt: skip
    return figure


def _spread(items: np.ndarray, count: int) -> list[int]:
    return [int(items[round(i)]) for i in np.linspace(0, len(items) - 1, count + 2)[1:-1]]


def _outline(axis: Any, mask: np.ndarray, colour: str, width: float) -> None:
    if mask.any():
        y, x = (np.arange(-1, n + 1) for n in mask.shape)  # closed at the edges, too
        axis.contour(x, y, np.pad(mask, 1), levels=[0.5], colors=colour, linewidths=width)
