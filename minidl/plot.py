"""Pictures for people: rows of input, target and prediction, and the curves of a training run.

Figures are drawn without pyplot, so that nothing here depends on a display or changes a notebook's
settings. matplotlib is imported when the first picture is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from minidl.checkpoint import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT = "#222222", "#9a9a9a"
_IGNORED = (0.55, 0.55, 0.55)
# Paul Tol's "bright" and "muted" qualitative schemes: told apart by colour-blind eyes, too.
_COLOURS = (
    "#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377",
    "#332288", "#88CCEE", "#44AA99", "#117733", "#999933", "#DDCC77", "#CC6677", "#882255",
)  # fmt: skip


@dataclass(frozen=True)
class Example:
    """One row of `panels`.

    Attributes
    ----------
    name : str
        Of the image.
    image : ndarray of shape (H, W, C)
        As stored, any type.
    target, prediction : ndarray of shape (H, W), integer
        Class indices; -100 in `target` does not count.
    note : str
        Written at the prediction, for example its Dice.
    """

    name: str
    image: np.ndarray
    target: np.ndarray
    prediction: np.ndarray
    note: str = ""


def panels(examples: Sequence[Example], class_names: Sequence[str], title: str = "") -> Figure:
    """Draw one row for each example: input, target, prediction.

    Two classes are drawn black and white, and where shapes are simple the target's outline over
    the prediction; more in colours, with a legend.

    Parameters
    ----------
    examples : sequence of Example
        At least one. Each row is as high as its image is beside the widest.
    class_names : sequence of str
        Name of class 0, 1, ...
    title : str
        Above everything.

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib.figure import Figure

    if not examples:
        raise ValueError("panels: no examples to draw")
    shapes = [example.target.shape for example in examples]
    heights = [min(height / width, 1.6) for height, width in shapes]
    column, gap, top, left = 2.6, 0.12, 0.6 if title else 0.34, 0.32
    legend = 0.0 if len(class_names) == 2 else 0.3 * -(-len(class_names) // 6) + 0.1
    width = left + 3 * (column + gap)
    height = top + sum(column * h + gap for h in heights) + legend
    figure = Figure(figsize=(width, height), dpi=110, facecolor="white")
    outlined = len(class_names) == 2 and all(_is_simple(one.target) for one in examples)
    y = height - top
    for row, (example, ratio) in enumerate(zip(examples, heights, strict=True)):
        y -= column * ratio
        places = [(left + k * (column + gap)) / width for k in range(3)]
        axes = [
            figure.add_axes((x, y / height, column / width, column * ratio / height))
            for x in places
        ]
        _draw_row(axes, example, len(class_names), outlined, first=row == 0)
        y -= gap
    if title:
        figure.text(
            left / width,
            1 - 0.12 / height,
            title,
            va="top",
            fontsize=11,
            color=INK,
            fontweight="bold",
        )
    if legend:
        _legend(figure, class_names)
    return figure


def _draw_row(
    axes: Sequence[Axes], example: Example, classes: int, outlined: bool, first: bool
) -> None:
    shown = displayable(example.image)
    axes[0].imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes[1].imshow(_coloured(example.target, classes), interpolation="nearest")
    axes[2].imshow(_coloured(example.prediction, classes), interpolation="nearest")
    last = "prediction (outline: target)" if outlined else "prediction"
    if outlined:
        _outline(axes[2], example.target)
    for axis, heading in zip(axes, ("input", "target", last), strict=True):
        axis.set_xticks([])
        axis.set_yticks([])
        for spine in axis.spines.values():
            spine.set_color("#cccccc")
        if first:
            axis.set_title(heading, fontsize=10, color=INK, pad=5)
    axes[0].set_ylabel(_shortened(example.name), fontsize=8, color=INK, labelpad=3)
    if example.note:
        axes[2].text(
            0.97, 0.04, example.note, transform=axes[2].transAxes, ha="right", va="bottom",
            fontsize=8.5, color=INK,
            bbox={"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "pad": 2},
        )  # fmt: skip


def _is_simple(target: np.ndarray) -> bool:
    """Whether few enough neighbours differ for an outline to show more than it hides."""
    changes = sum(np.count_nonzero(np.diff(target, axis=axis)) for axis in (0, 1))
    return bool(changes < 0.04 * target.size)


def _outline(axis: Axes, target: np.ndarray) -> None:
    inside = target == 1
    if inside.any() and not inside.all() and min(inside.shape) > 1:
        axis.contour(inside, levels=[0.5], colors=_COLOURS[1], linewidths=0.9)


def _shortened(name: str, most: int = 24) -> str:
    return name if len(name) <= most else f"{name[: most // 2 - 1]}…{name[-most // 2 :]}"


def columns(pictures: Sequence[np.ndarray], headings: Sequence[str], title: str = "") -> Figure:
    """Pictures of one size side by side, each under its heading.

    Parameters
    ----------
    pictures : sequence of ndarray of shape (H, W, 3), uint8
    headings : sequence of str
    title : str
        Above everything.

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib.figure import Figure

    dpi, gap, top = 110, 0.06, 0.6 if title else 0.34
    height, width = (side / dpi for side in pictures[0].shape[:2])
    room = 0.09 * len(title)  # of its letters
    whole = max(len(pictures) * (width + gap) + gap, room), height + top + gap
    figure = Figure(figsize=whole, dpi=dpi, facecolor="white")
    for k, (picture, heading) in enumerate(zip(pictures, headings, strict=True)):
        left = gap + k * (width + gap)
        axis = figure.add_axes(
            (left / whole[0], gap / whole[1], width / whole[0], height / whole[1])
        )
        axis.imshow(picture, interpolation="nearest")
        axis.set_axis_off()
        axis.set_title(heading, fontsize=9, color=INK, loc="left", pad=3)
    if title:
        figure.text(
            gap / whole[0], 1 - 0.12 / whole[1], title,
            va="top", fontsize=11, color=INK, fontweight="bold",
        )  # fmt: skip
    return figure


def displayable(image: np.ndarray) -> np.ndarray:
    """An image of any type as 0..1, grey (H, W) or RGB (H, W, 3).

    Eight bits are shown as they are; of other types the darkest and brightest half percent become
    black and white.
    """
    image = image[..., :3] if image.shape[-1] >= 3 else image[..., 0]
    if image.dtype == np.uint8:
        return image / 255
    low, high = np.percentile(image, (0.5, 99.5))
    return np.clip((image - low) / max(high - low, np.finfo(np.float32).tiny), 0, 1)


def _coloured(classes: np.ndarray, count: int) -> np.ndarray:
    """Class indices as RGB (H, W, 3)."""
    table = np.array([*_palette(count), _IGNORED])
    return table[np.where(classes < 0, count, classes)]


def _palette(count: int) -> list[tuple[float, float, float]]:
    from matplotlib.colors import hsv_to_rgb, to_rgb

    if count == 2:
        return [(0.0, 0.0, 0.0), (1.0, 1.0, 1.0)]
    known = [to_rgb(colour) for colour in ("#000000", *_COLOURS)]
    golden = [
        tuple(hsv_to_rgb(((0.618 * i) % 1, 0.65, 0.9))) for i in range(max(count - len(known), 0))
    ]
    return [*known, *golden][:count]


def _legend(figure: Figure, class_names: Sequence[str]) -> None:
    from matplotlib.patches import Patch

    colours = _palette(len(class_names))
    patches = [
        Patch(facecolor=colour, edgecolor="#cccccc", label=_shortened(name, 18))
        for name, colour in zip(class_names, colours, strict=True)
    ]
    figure.legend(handles=patches, loc="lower center", ncols=min(len(patches), 6), fontsize=8,
                  frameon=False)  # fmt: skip


def curves(
    rows: Sequence[Mapping[str, float]], best_step: int | None = None, title: str = ""
) -> Figure:
    """Draw loss and Dice over the steps of a training run.

    Parameters
    ----------
    rows : sequence of mapping
        As in ``history.csv``: ``step``, ``train_loss``, ``val_loss``, ``val_dice``,
        ``val_pixel_accuracy`` and a ``val_dice_NAME`` for each class.
    best_step : int, optional
        Marked as the one that was kept.
    title : str
        Above everything.

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib.figure import Figure

    if not rows:
        raise ValueError("curves: no rows to draw")
    figure = Figure(figsize=(9.2, 3.6), dpi=110, facecolor="white", layout="constrained")
    losses, scores = figure.subplots(1, 2)
    _draw_losses(losses, rows)
    _draw_scores(scores, rows)
    best = next((row for row in rows if row["step"] == best_step), None)
    for axis in (losses, scores):
        _tidy(axis)
        if best is not None:
            axis.axvline(best["step"], color=FAINT, linewidth=0.9, linestyle=(0, (4, 3)), zorder=0)
    if best is not None:
        _mark_best(scores, best)
    if title:
        figure.suptitle(title, fontsize=11, x=0.01, ha="left", color=INK, fontweight="bold")
    return figure


def _draw_losses(axis: Axes, rows: Sequence[Mapping[str, float]]) -> None:
    steps = [row["step"] for row in rows]
    axis.plot(steps, [row["train_loss"] for row in rows], color=_COLOURS[0], marker=".",
              label="training")  # fmt: skip
    axis.plot(steps, [row["val_loss"] for row in rows], color=_COLOURS[1], marker=".",
              label="validation")  # fmt: skip
    axis.set_ylabel("loss", color=INK)
    # The first validations can be far out, before the running statistics have settled.
    highest = max((row["train_loss"] for row in rows), default=1.0)
    axis.set_ylim(0, 1.25 * highest if np.isfinite(highest) and highest > 0 else None)
    axis.legend(frameon=False, fontsize=8, loc="upper right")


def _draw_scores(axis: Axes, rows: Sequence[Mapping[str, float]]) -> None:
    steps = [row["step"] for row in rows]
    own = [key for key in rows[0] if key.startswith("val_dice_")]
    # A single foreground class would be drawn twice.
    main = [key for key in own if all(_same(row[key], row["val_dice"]) for row in rows)]
    others = [key for key in own if key not in main[:1]]
    name = main[0].removeprefix("val_dice_") if main else "foreground, mean"
    marker = "." if len(rows) == 1 else ""  # one point makes no line
    for colour, key in zip((*_COLOURS[:1], *_COLOURS[2:]), others, strict=False):
        label = f"Dice {_shortened(key.removeprefix('val_dice_'), 18)}"
        values = [row[key] for row in rows]
        axis.plot(steps, values, color=colour, linewidth=1, marker=marker, label=label)
    accuracy = [row["val_pixel_accuracy"] for row in rows]
    axis.plot(steps, accuracy, color=FAINT, linewidth=1, marker=marker, label="pixel accuracy")
    axis.plot(
        steps, [row["val_dice"] for row in rows], color=_COLOURS[1], marker=".",
        label=f"Dice {_shortened(name, 18)}",
    )  # fmt: skip
    axis.set_ylabel("validation score", color=INK)
    axis.set_ylim(0, 1.02)
    legend = axis.legend(fontsize=8, loc="lower right", ncols=1 if len(own) <= 4 else 2)
    legend.get_frame().set(edgecolor="none", alpha=0.85)


def _same(a: float, b: float) -> bool:
    return a == b or bool(np.isnan(a) and np.isnan(b))


def _tidy(axis: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_xlabel("step", color=INK)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(FAINT)
    axis.tick_params(colors=INK, labelsize=8, width=0.6)
    axis.grid(axis="y", color="#eeeeee", linewidth=0.8)
    axis.set_axisbelow(True)


def _mark_best(axis: Axes, best: Mapping[str, float]) -> None:
    left, right = axis.get_xlim()
    late = best["step"] > (left + right) / 2
    axis.annotate(
        f"best {best['val_dice']:.3f}\nat step {best['step']:.0f}, kept",
        (best["step"], 0.5), xytext=(-6 if late else 6, 0), textcoords="offset points",
        ha="right" if late else "left", va="center", fontsize=8, color=INK,
        bbox={"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "pad": 1},
    )  # fmt: skip


FORMATS = ("png", "svg", "pdf")


def write_figure(figure: Figure, path: str | Path) -> Path:
    """Save a figure as PNG, SVG or PDF by its name: complete under it, or not at all.

    Raises
    ------
    ValueError
        If the name ends in something else.
    """
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        endings = ", ".join(f".{ending}" for ending in FORMATS)
        raise ValueError(f"{path}: a picture must have a name that ends in one of {endings}.")
    with whole_file(path, "write_figure") as file:
        figure.savefig(file, format=kind)
    return path
