"""Pictures of receptive fields: what layers can see of an image, and what they look at.

The theoretical field is that of `minidl.fields`. The measured one is the gradient of one unit with
respect to the image: how much each pixel matters to it. It is never larger than the theoretical
one, and usually much smaller: what the middle of the field contributes goes along more paths than
what its border does.

Source: Luo, Li, Urtasun, Zemel, Understanding the Effective Receptive Field in Deep Convolutional
Neural Networks, 2016.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from minidl.fields import LayerField, receptive_fields
from minidl.listen import Listener, listening
from minidl.nn.module import Module
from minidl.plot import FAINT, INK, displayable
from minidl.tensor import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NOISE = 1e-6  # of the largest gradient: rounding errors of fast convolutions are below
PANELS = 6
THEORY, MEASURED, BEYOND = "#ffd23f", "#3fd0ff", "#b58900"


@dataclass(frozen=True)
class Seen:
    """What one unit of a layer sees, in theory and as measured.

    Attributes
    ----------
    field : LayerField
        Of the layer.
    position : tuple of int
        Of the unit.
    gradient : ndarray of shape (H, W)
        How much each pixel matters: the size of its gradient, summed over channels.
    """

    field: LayerField
    position: tuple[int, ...]
    gradient: np.ndarray

    @property
    def region(self) -> tuple[Any, ...]:
        """First and last pixel along both axes that the unit can see."""
        return self.field.region(self.position)

    @property
    def free(self) -> tuple[tuple[int, int], ...] | None:
        """The same as if the image had no ends; None where units follow no rule."""
        regions = []
        for axis in self.field.axes:
            if axis.free is None or axis.free.folded:
                return None
            at = 0 if axis.free.axis is None else self.position[axis.free.axis - 1]
            first, last = axis.free.at(np.array([at]))
            regions.append((int(first[0]), int(last[0])))
        return tuple(regions)

    @property
    def reached(self) -> tuple[tuple[int, int], ...] | None:
        """First and last pixel along both axes that had a gradient; None if none had."""
        felt = self.gradient > NOISE * self.gradient.max()
        if not felt.any():
            return None
        lines = (np.flatnonzero(felt.any(axis=1 - axis)) for axis in (0, 1))
        return tuple((int(line[0]), int(line[-1])) for line in lines)

    def holding(self, share: float) -> int:
        """Side of the smallest square around the middle of the gradient that holds a share of it.

        Parameters
        ----------
        share : float in [0, 1]

        Returns
        -------
        int
            0 where there is no gradient.
        """
        total = self.gradient.sum()
        if not total:
            return 0
        rows, columns = np.indices(self.gradient.shape)
        middle = [(lines * self.gradient).sum() / total for lines in (rows, columns)]
        away = np.maximum(abs(rows - middle[0]), abs(columns - middle[1])).ravel()
        order = np.argsort(away, kind="stable")
        held = np.cumsum(self.gradient.ravel()[order])
        last = order[min(np.searchsorted(held, share * total), len(order) - 1)]
        return int(2 * np.floor(away[last] + 0.5) + 1)


class _Catcher(Listener):
    """Keeps what layers return: of each the last time."""

    def __init__(self, model: Module) -> None:
        super().__init__()
        self.paths = {id(part): path for path, part in model.named_modules()}
        self.caught: dict[str, Tensor] = {}

    def on_module(self, module: Module, forward: Callable, /, *args: Any, **kwargs: Any) -> Any:
        result = forward(*args, **kwargs)
        if not self.is_elsewhere and id(module) in self.paths:
            path, tensors = self.paths[id(module)], list(_tensors(result))
            if len(tensors) == 1:
                self.caught[path] = tensors[0]
            else:
                self.caught |= {f"{path}[{i}]": tensor for i, tensor in enumerate(tensors)}
        return result


def _tensors(result: Any) -> Iterable[Tensor]:
    """Those in a result that have a gradient."""
    if isinstance(result, Tensor):
        if result.requires_grad:
            yield result
    elif isinstance(result, list | tuple):
        for part in result:
            yield from _tensors(part)


def see(
    model: Module,
    image: np.ndarray,
    layers: Sequence[str] = (),
    position: Sequence[int] | None = None,
) -> list[Seen]:
    """What units of some layers see of an image.

    Parameters
    ----------
    model : nn.Module
        With the weights it has. Used as in `eval`, and left as it was.
    image : ndarray of shape (H, W, C)
        As the network wants it.
    layers : sequence of str
        Paths, ``""`` for the output. If left out, the last of each resolution, at most six.
    position : sequence of int, optional
        Of the unit in each of the layers; in the middle if left out.

    Returns
    -------
    list of Seen

    Raises
    ------
    ValueError
        If there is no such layer or unit, or the image does not fit.

    Notes
    -----
    Each layer takes a forward and a backward pass.
    """
    batch = np.asarray(image)[None]
    fields = receptive_fields(model, batch.shape)
    chosen = list(layers) or _interesting(fields)
    for path in chosen:
        if path not in fields:
            known = ", ".join(path for path in fields if path)
            raise ValueError(f"see: there is no layer {path!r}, but there are {known}.")
    found = []
    for path in chosen:
        field = fields[path]
        middle = tuple(size // 2 for size in field.shape[1:-1])
        at = middle if position is None or not middle else tuple(position)
        field.region(at)  # refuses a unit that is not there
        found.append(Seen(field, at, _gradient(model, batch, path, at)))
    return found


def _interesting(fields: dict[str, LayerField]) -> list[str]:
    """Of layers in a row with one resolution, the last; at most so many as there are panels."""
    last: list[LayerField] = []
    for path, field in fields.items():
        if path and len(field.shape) == 4:
            if last and last[-1].shape[1:-1] == field.shape[1:-1]:
                last.pop()
            last.append(field)
    if not last:
        return [""]
    picks = np.linspace(0, len(last) - 1, min(len(last), PANELS)).round().astype(int)
    return [last[i].path for i in picks]


def _gradient(model: Module, batch: np.ndarray, path: str, position: Sequence[int]) -> np.ndarray:
    """Size of the gradient of one unit with respect to each pixel."""
    parts = [part for part in model.modules() if part.training]
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    x, catcher = Tensor(batch, requires_grad=True), _Catcher(model)
    try:
        for part in parts:
            part.training = False
        for parameter in learned:  # only the image is asked about
            parameter.requires_grad = False
        with listening(catcher, "see", "trace or profile"):
            model(x)
    finally:
        for part in parts:
            part.training = True
        for parameter in learned:
            parameter.requires_grad = True
    catcher.caught[path][(0, *position)].sum().backward()
    if x.grad is None:
        return np.zeros(batch.shape[1:3])
    return np.abs(x.grad[0]).sum(axis=-1).astype(np.float64)


def table(seen: Sequence[Seen]) -> str:
    """What was found, in lines for people."""
    from minidl.summary import field_size

    head = ("layer", "output", "unit", "sees", "here", "measured", "half within")
    rows = [head]
    for one in seen:
        rows.append(
            (
                one.field.path or "(output)",
                "x".join(map(str, one.field.shape[1:])),
                ",".join(map(str, one.position)) or "-",
                field_size(one.field),
                _sides(one.region),
                _sides(one.reached),
                str(one.holding(0.5) or "-"),
            )
        )
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(size) if i == 0 else cell.rjust(size)
            for i, (cell, size) in enumerate(zip(row, wide, strict=True))
        )
        for row in rows
    )


def _sides(region: Sequence[Any] | None) -> str:
    if region is None or None in region:
        return "-"
    return "x".join(str(last - first + 1) for first, last in region)


def picture(image: np.ndarray, seen: Sequence[Seen], title: str = "") -> Figure:
    """Draw theoretical and measured fields over the image, a panel for each layer.

    Parameters
    ----------
    image : ndarray of shape (H, W, C)
        Any type.
    seen : sequence of Seen
        At least one.
    title : str
        Above everything.

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib.figure import Figure

    if not seen:
        raise ValueError("picture: no layers to draw")
    columns = min(len(seen), 3)
    rows = -(-len(seen) // columns)
    limits = _limits(image.shape[:2], seen)
    (top, bottom), (left, right) = limits
    ratio = (bottom - top) / (right - left)
    side, head, legend, gap = 3.3, 0.32 if title else 0.0, 0.4, 0.34
    width, height = columns * (side + 0.12) + 0.12, head + rows * (side * ratio + gap) + legend
    figure = Figure(figsize=(width, height), dpi=110, facecolor="white")
    for i, one in enumerate(seen):
        x = 0.12 + i % columns * (side + 0.12)
        y = height - head - (i // columns + 1) * (side * ratio + gap)
        axes = figure.add_axes((x / width, y / height, side / width, side * ratio / height))
        _draw_panel(axes, image, one)
        axes.set_xlim(left, right)
        axes.set_ylim(bottom, top)
    if title:
        figure.text(0.12 / width, 1 - 0.12 / height, title, va="top", fontsize=12, color=INK,
                    fontweight="bold")  # fmt: skip
    _add_legend(figure)
    return figure


def _limits(size: Sequence[int], seen: Sequence[Seen]) -> list[tuple[float, float]]:
    """What is shown along both axes: the image, and at most half of it again on each side."""
    limits = []
    for axis in (0, 1):
        regions = [one.free[axis] for one in seen if one.free is not None]
        most = size[axis] / 2
        first = max(min([0, *(region[0] for region in regions)]), -most)
        last = min(max([size[axis] - 1, *(region[1] for region in regions)]), size[axis] + most)
        limits.append((first - 0.02 * size[axis] - 0.5, last + 0.02 * size[axis] + 0.5))
    return limits


def _draw_panel(axes: Axes, image: np.ndarray, one: Seen) -> None:
    from minidl.summary import field_size

    shown = displayable(image)
    grey = shown if shown.ndim == 2 else shown.mean(axis=-1)
    axes.imshow(0.5 + 0.4 * grey, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    largest = one.gradient.max()
    if largest > 0:
        strength = np.sqrt(one.gradient / largest)  # so that the faint is seen, too
        from matplotlib import colormaps

        colours = colormaps["inferno"](strength)
        colours[..., 3] = np.clip(1.8 * strength, 0, 0.95)
        axes.imshow(colours, interpolation="nearest")
    _frame(axes, one.free, BEYOND, linestyle=(0, (1, 1.5)), linewidth=1.3)
    _frame(axes, one.region, THEORY, linewidth=1.8)
    _frame(axes, one.reached, MEASURED, linestyle=(0, (4, 3)), linewidth=1.4)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_facecolor("#f1f1f1")
    name = one.field.path or "output"
    axes.set_title(f"{name}: sees {field_size(one.field)}", fontsize=9.5, color=INK, pad=4)


def _frame(axes: Axes, region: Any, colour: str, **style: Any) -> None:
    from matplotlib.patches import Rectangle

    if region is None or None in region:
        return
    (top, bottom), (left, right) = region
    axes.add_patch(
        Rectangle((left - 0.5, top - 0.5), right - left + 1, bottom - top + 1, fill=False,
                  edgecolor=colour, **style)
    )  # fmt: skip


def _add_legend(figure: Figure) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [
        Line2D([], [], color=THEORY, linewidth=1.8, label="can be seen"),
        Line2D([], [], color=BEYOND, linestyle=(0, (1, 1.5)), label="beyond the image, too"),
        Line2D([], [], color=MEASURED, linestyle=(0, (4, 3)), label="measured"),
        Patch(facecolor="#e35933", edgecolor=FAINT, label="gradient (square root)"),
    ]
    figure.legend(handles=handles, loc="lower left", ncols=4, fontsize=8.5, frameon=False)


def card(height: int, width: int, channels: int) -> np.ndarray:
    """An image to look at where there is none: rings, discs and stripes, in [0, 1].

    Parameters
    ----------
    height, width, channels : int

    Returns
    -------
    ndarray of shape (height, width, channels), float32
    """
    side = min(height, width)
    y, x = np.mgrid[:height, :width] / side
    rings = 0.5 + 0.5 * np.cos(40 * np.hypot(x - 0.35 * width / side, y - 0.6 * height / side))
    stripes = 0.5 + 0.5 * np.sin(25 * (x + 0.5 * y))
    card = np.where(x * side > 0.62 * width, stripes, rings)
    disc = np.hypot(x - 0.7 * width / side, y - 0.3 * height / side) < 0.18
    card = np.where(disc, 0.9, 0.8 * card)
    tones = 1 - 0.15 * np.arange(channels) / max(channels - 1, 1)
    return (card[..., None] * tones).astype(np.float32)
