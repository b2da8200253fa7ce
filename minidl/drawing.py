"""Drawings of networks, as in lectures: feature maps as blocks, and the ways between them.

A block is what an operation or a layer makes: as high as its resolution (its square root, so that
small maps can be seen), as wide as the logarithm of its channels, and coloured by what made it.
Blocks stand from left to right in the order in which they can be computed; branches that run side
by side stand below each other. What skips other blocks arches over them.

All is read from a trace; no network has a drawing of its own. Where there are too many operations,
layers are taken together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from minidl import arithmetic as ops
from minidl import nn
from minidl.functional import conv, pool, resize
from minidl.functional.linear import Linear
from minidl.trace import Call, Operation, Trace, Value

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT = "#222222", "#8a8a8a"
COLOURS = {
    "input": "#c9c9c9",
    "convolution": "#e8c468",
    "dilated convolution": "#e39b4a",
    "up-convolution": "#5b9bd5",
    "fully connected": "#9a7bb8",
    "pooling": "#c85a54",
    "unpooling": "#3f9d8f",
    "resizing": "#7cc0d8",
}
# Layers that are taken together, one colour for each class.
LAYERS = ("#8fb996", "#b7a57a", "#93a8c9", "#c99bb0", "#a9b665", "#b0b0c8")
JOINS = {
    "Add": "+", "Relu": "+", "Subtract": "−", "Multiply": "×", "Concatenate": "c", "Stack": "c",
}  # fmt: skip
JOIN_NAMES = {"+": "sum", "−": "difference", "×": "product", "c": "concatenation"}


@dataclass(eq=False, repr=False)
class Block:
    """Something that is drawn.

    Attributes
    ----------
    kind : str
        What made it: one of COLOURS or JOINS, or the class of a layer.
    operations : list of Operation
    output : Value
    note : str
        Written into it.
    path : str
        Of its layer.
    column, lane : int
        Where it stands: from left to right, and how many stand above it.
    """

    kind: str
    operations: list[Operation]
    output: Value
    note: str = ""
    path: str = ""
    column: int = 0
    lane: int = 0
    x: float = 0.0
    y: float = 0.0
    width: float = 0.0
    height: float = 0.0

    def __repr__(self) -> str:
        return f"Block({self.kind!r}, {self.output.shape}, column {self.column})"

    @property
    def is_join(self) -> bool:
        """Whether it is a sign rather than a block."""
        return self.kind in JOINS.values()


@dataclass(frozen=True)
class Way:
    """From one block to another.

    Attributes
    ----------
    start, end : Block
    switches : bool
        Whether the positions of maxima go along it rather than a feature map.
    """

    start: Block
    end: Block
    switches: bool = False


# ---- what is drawn --------------------------------------------------------------------------


def _kind(operation: Operation) -> str | None:
    """What an operation makes a block of; None where it does not."""
    f: Any = operation.function
    if isinstance(f, conv.Conv):
        dilated = any(window.dilation > 1 and window.kernel > 1 for window in f.windows)
        return "dilated convolution" if dilated else "convolution"
    if isinstance(f, conv.ConvTranspose):
        return "up-convolution"
    if isinstance(f, Linear | ops.MatMul):
        return "fully connected"
    if isinstance(f, pool.MaxPool | pool.AveragePool):
        idle = f.windows is None and operation.output.shape == operation.inputs[0].shape
        return None if idle else "pooling"
    if isinstance(f, pool.MaxUnpool):
        return "unpooling"
    if isinstance(f, resize.Resample):
        return None if operation.output.shape == operation.inputs[0].shape else "resizing"
    if sum(value.flows for value in operation.inputs) > 1:
        return JOINS.get(operation.name)
    return None


def _operations(part: Call | Operation) -> list[Operation]:
    if isinstance(part, Operation):
        return [part]
    return [operation for inner in part.parts for operation in _operations(inner)]


def _drawn(part: Call | Operation) -> int:
    """How many blocks there would be if nothing were taken together."""
    return sum(_kind(operation) is not None for operation in _operations(part))


def _cut(root: Call, most: int) -> list[Call | Operation]:
    """Layers and operations: as fine as they can be with at most so many blocks.

    All layers of a class are opened, or none of them, so that like things look alike.
    """
    parts: list[Call | Operation] = [root]
    closed: set[type] = set()
    while True:
        openable = [
            part for part in parts
            if isinstance(part, Call) and _drawn(part) > 1 and type(part.module) not in closed
        ]  # fmt: skip
        if not openable:
            return parts
        chosen = type(min(openable, key=lambda call: call.path.count(".")).module)
        finer: list[Call | Operation] = []
        for part in parts:
            opened = isinstance(part, Call) and type(part.module) is chosen and _drawn(part) > 1
            finer += part.parts if opened and isinstance(part, Call) else [part]
        count = sum(_drawn(part) > 0 for part in finer)
        if count <= most or len(parts) == 1:
            parts = finer
        else:
            closed.add(chosen)


def _block(part: Call | Operation) -> Block | None:
    """What is drawn of a part, if anything is."""
    operations = _operations(part)
    made = [operation for operation in operations if _kind(operation) is not None]
    if not made:
        return None
    if isinstance(part, Operation) or len(made) == 1:
        kind = _kind(made[0])
        assert kind is not None
        path = part.path if isinstance(part, Call) else ""
        return Block(kind, operations, made[0].output, path=path)
    of_one_kind = {_kind(operation) for operation in made}
    if len(of_one_kind) == 1 and of_one_kind <= COLOURS.keys():
        return Block(str(*of_one_kind), operations, part.outputs[-1], f"×{len(made)}", part.path)
    name, note = type(part.module).__name__, ""
    inside = [type(call.module).__name__ for call in _inner_layers(part)]
    if isinstance(part.module, nn.Sequential) and len(set(inside)) == 1:
        name, note = inside[0], f"×{len(inside)}" if len(inside) > 1 else ""
    return Block(name, operations, part.outputs[-1], note, part.path)


def _inner_layers(call: Call) -> list[Call]:
    return [part for part in call.parts if isinstance(part, Call) and _drawn(part)]


def blocks_of(followed: Trace, most: int = 36) -> tuple[list[Block], list[Way]]:
    """Blocks and the ways between them.

    Parameters
    ----------
    followed : Trace
    most : int
        Blocks, at most; layers are taken together until there are no more.

    Returns
    -------
    blocks : list of Block
        The input, then the others in the order of the computation.
    ways : list of Way
    """
    found = (_block(part) for part in _cut(followed.root, most))
    blocks = [block for block in found if block is not None]
    first = Block("input", [], followed.input)
    owners = {operation: block for block in blocks for operation in block.operations}
    ways: dict[tuple[Block, Block, bool], Way] = {}
    for block in blocks:
        for operation in block.operations:
            for value in operation.inputs:
                for start, switches in _sources(value, owners, first):
                    if start is not block:
                        key = start, block, switches
                        ways[key] = Way(*key)
    blocks = _summed_at_once(blocks, ways)
    plain = {(way.start, way.end) for way in ways.values() if not way.switches}
    kept = [
        way for way in ways.values()
        if not way.switches or (way.start, way.end) not in plain or way.end.kind == "unpooling"
    ]  # fmt: skip
    return [first, *blocks], kept


MOST_SUMMED = 6


def _summed_at_once(blocks: list[Block], ways: dict[tuple[Block, Block, bool], Way]) -> list[Block]:
    """A sum that goes into another and nowhere else becomes part of it, unless it gets too large.

    Changes `ways`; the blocks that are left.
    """
    left = list(blocks)
    for block in blocks:
        after = [way.end for way in ways.values() if way.start is block]
        if len(after) != 1 or block.kind != "+" or after[0].kind != "+":
            continue
        into = after[0]
        before = [way for way in ways.values() if way.end is block]
        if len(before) + sum(way.end is into for way in ways.values()) - 1 > MOST_SUMMED:
            continue
        for way in [*before, Way(block, into)]:
            del ways[way.start, way.end, way.switches]
        ways |= {(way.start, into, way.switches): Way(way.start, into, way.switches)
                 for way in before}  # fmt: skip
        into.operations += block.operations
        left.remove(block)
    return left


def _sources(value: Value, owners: dict, first: Block) -> Iterable[tuple[Block, bool]]:
    """The blocks that a value comes from, through all that is not drawn."""
    waiting, seen = [(value, False)], set()
    while waiting:
        value, switches = waiting.pop()
        if not value.flows or (value, switches) in seen:
            continue
        seen.add((value, switches))
        if value.source is None:
            yield first, switches
            continue
        switches = switches or isinstance(value.source.function, pool.Positions)
        if value.source in owners:
            yield owners[value.source], switches
        else:
            waiting += [(before, switches) for before in value.source.inputs]


# ---- where it is drawn ----------------------------------------------------------------------

GAP, SMALL_GAP, LANE_GAP = 0.2, 0.05, 0.45  # inches
THIN, SIGN = 0.1, 0.2
TALLEST, DEPTH = 2.5, 0.13


def _place(blocks: Sequence[Block], ways: Sequence[Way]) -> None:
    """Columns by the longest way from the input; what has time stands as far right as it can."""
    before: dict[Block, list[Block]] = {block: [] for block in blocks}
    behind: dict[Block, list[Block]] = {block: [] for block in blocks}
    for way in ways:
        before[way.end].append(way.start)
        behind[way.start].append(way.end)
    for block in blocks:
        block.column = 1 + max((other.column for other in before[block]), default=-1)
    tail: dict[Block, int] = {}
    for block in reversed(blocks):
        tail[block] = 1 + max((tail[other] for other in behind[block]), default=-1)
    length = {block: block.column + tail[block] for block in blocks}
    for block in reversed(blocks):
        if behind[block] and block is not blocks[0]:
            block.column = min(other.column for other in behind[block]) - 1
    columns: dict[int, list[Block]] = {}
    for block in blocks:
        columns.setdefault(block.column, []).append(block)
    for column in columns.values():
        column.sort(key=lambda block: -length[block])  # the longest way is the main one
        for lane, block in enumerate(column):
            block.lane = lane


def _measure(blocks: Sequence[Block]) -> None:
    """Sizes in inches, and places: x of the left side, y of the middle."""
    largest = max((max(_pixels(block.output.shape)) for block in blocks), default=1)
    for block in blocks:
        shape = block.output.shape
        pixels = max(_pixels(shape))
        block.height = max(TALLEST * math.sqrt(pixels / largest), 0.16)
        block.width = 0.1 + 0.034 * math.log2(shape[-1] + 1)
        if len(shape) == 2:  # a vector stands upright
            block.height, block.width = 0.1 + 0.09 * math.log2(shape[-1] + 1), THIN
        if block.kind == "pooling":
            block.width = THIN
        if block.note:
            block.width = max(block.width, 0.1 + 0.085 * len(block.note))
        if block.is_join:
            block.width = block.height = SIGN
    x, before = 0.0, None
    for column in sorted({block.column for block in blocks}):
        here = sorted((b for b in blocks if b.column == column), key=lambda b: b.lane)
        if before is not None:
            close = before.output.shape[1:-1] == here[0].output.shape[1:-1]
            x += GAP if not close or len(here) > 1 else GAP - SMALL_GAP
        width = max(block.width for block in here)
        y = here[0].height / 2
        for block in here:
            block.x = x + (width - block.width) / 2
            block.y = 0.0 if block.lane == 0 else y - block.height / 2
            y = block.y - block.height / 2 - LANE_GAP
        text = max(0.085 * len(_channels(block)) for block in here)
        x, before = x + max(width, text - GAP / 2) + DEPTH * 0.6, here[0]


def _channels(block: Block) -> str:
    """What is written below a block; nothing where the channels are those before."""
    hidden = block.is_join or block.kind == "pooling"
    return "" if hidden else str(block.output.shape[-1])


def _pixels(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(shape[1:-1]) or (1,)


# ---- drawing --------------------------------------------------------------------------------


@dataclass
class _Skyline:
    """How high something must be to pass over the blocks."""

    tops: list[tuple[float, float, float]] = field(default_factory=list)  # from, to, height

    def over(self, start: float, end: float) -> float:
        return max((top for a, b, top in self.tops if a < end and b > start), default=0.0)

    def add(self, start: float, end: float, top: float) -> None:
        self.tops.append((start, end, top))


def network(followed: Trace, title: str = "", blocks: int = 36) -> Figure:
    """Draw a network.

    Parameters
    ----------
    followed : Trace
    title : str
        Above everything.
    blocks : int
        The most that are drawn.

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib.figure import Figure

    if blocks < 1:
        raise ValueError(f"drawing: blocks must be 1 or more, but is {blocks}.")
    drawn, ways = blocks_of(followed, blocks)
    _place(drawn, ways)
    _measure(drawn)
    figure = Figure(facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    colours = _colours(drawn)
    top, bottom = _draw_ways(axes, drawn, ways)
    for block in sorted(drawn, key=lambda block: (block.column, -block.lane)):
        _draw_block(axes, block, colours)
    bottom = min(bottom, _label(axes, drawn))
    left, right = -0.45, max(block.x + block.width for block in drawn) + 0.6
    handles = _legend(drawn, ways, colours)
    right = max(right, left + 6.5)
    per_row = max(int((right - left) / 1.6), 1)
    legend = 0.24 * -(-len(handles) // per_row) + 0.2
    low, high = bottom - legend - 0.05, top + (0.55 if title else 0.2)
    figure.set_size_inches(right - left, high - low)
    axes.set_xlim(left, right)
    axes.set_ylim(low, high)
    if title:
        axes.text(left + 0.2, high - 0.12, title, va="top", fontsize=12, color=INK,
                  fontweight="bold")  # fmt: skip
    figure.legend(handles=handles, loc="lower left", bbox_to_anchor=(0.008, 0.0),
                  ncols=min(len(handles), per_row), fontsize=8.5, frameon=False,
                  handlelength=1.3, columnspacing=1.2)  # fmt: skip
    return figure


def _colours(blocks: Sequence[Block]) -> dict[str, str]:
    """Colours of all kinds; classes of layers get theirs in the order of their appearance."""
    layers = dict.fromkeys(
        block.kind for block in blocks if block.kind not in COLOURS and not block.is_join
    )
    others = {name: LAYERS[i % len(LAYERS)] for i, name in enumerate(layers)}
    return COLOURS | others


def _shade(colour: str, factor: float) -> Any:
    from matplotlib.colors import to_rgb

    parts = to_rgb(colour)
    if factor < 1:
        return tuple(part * factor for part in parts)
    return tuple(1 - (1 - part) * (2 - factor) for part in parts)


def _draw_block(axes: Axes, block: Block, colours: dict[str, str]) -> None:
    """A box seen from above right, or a sign."""
    from matplotlib.patches import Circle, Polygon

    x, y, w, h = block.x, block.y - block.height / 2, block.width, block.height
    if block.is_join:
        axes.add_patch(Circle((x + w / 2, block.y), w / 2, facecolor="white", edgecolor=INK,
                              linewidth=1.1, zorder=4))  # fmt: skip
        axes.text(x + w / 2, block.y - 0.005, block.kind, ha="center", va="center", fontsize=10,
                  color=INK, zorder=5)  # fmt: skip
        return
    colour = colours[block.kind]
    d = min(DEPTH, 0.05 + 0.06 * h)
    up = d * 0.7
    top = [(x, y + h), (x + w, y + h), (x + w + d, y + h + up), (x + d, y + h + up)]
    right = [(x + w, y), (x + w + d, y + up), (x + w + d, y + h + up), (x + w, y + h)]
    front = [(x, y), (x + w, y), (x + w, y + h), (x, y + h)]
    faces = (front, 1.0), (top, 1.35), (right, 0.78)
    for corners, light in faces:
        axes.add_patch(
            Polygon(corners, closed=True, facecolor=_shade(colour, light),
                    edgecolor=_shade(colour, 0.55), linewidth=0.6, joinstyle="round", zorder=3)
        )  # fmt: skip
    if block.note:
        axes.text(x + w / 2, y + h / 2, block.note, ha="center", va="center",
                  fontsize=8, color=INK, zorder=5)  # fmt: skip


def _label(axes: Axes, blocks: Sequence[Block]) -> float:
    """Channels below each block, and the resolution where it changes; the lowest of all."""
    lowest, size = 0.0, None
    for block in blocks:
        foot = block.y - block.height / 2
        lowest = min(lowest, foot - 0.4)
        axes.text(block.x + block.width / 2, foot - 0.05, _channels(block),
                  ha="center", va="top", fontsize=8.5, color=INK)  # fmt: skip
    for block in sorted(blocks, key=lambda b: (b.lane, b.column)):
        pixels = block.output.shape[1:-1]
        if block.lane or block.is_join or block.kind == "pooling" or pixels == size:
            continue
        size = pixels
        if pixels:
            foot = block.y - block.height / 2
            text = f"{pixels[0]}²" if len(pixels) == 2 and pixels[0] == pixels[1] else (
                "×".join(map(str, pixels)))  # fmt: skip
            axes.text(block.x - 0.02, foot - 0.21, text, ha="left", va="top", fontsize=8.5,
                      color=FAINT, style="italic")  # fmt: skip
    return lowest


def _draw_ways(axes: Axes, blocks: Sequence[Block], ways: Sequence[Way]) -> tuple[float, float]:
    """All lines; the highest and the lowest point."""
    above, below = _Skyline(), _Skyline()
    for block in blocks:
        x, w, half = block.x, block.width + DEPTH, block.height / 2
        above.add(x, x + w, block.y + half + DEPTH * 0.7)
        below.add(x, x + w, half - block.y + (0.0 if block.is_join else 0.35))
    for way in sorted(ways, key=lambda way: way.end.x - way.start.x):  # the shortest lie lowest
        if way.end.column - way.start.column == 1 and not way.switches:
            _straight(axes, way)
        elif way.end.lane and below.over(way.start.x, way.end.x - 0.05) < 0.1 - way.end.y:
            _sideways(axes, way, below)
        elif way.end.lane and not way.end.is_join:
            _around(axes, way, below)
        elif way.start.lane or way.end.lane:
            _arch(axes, way, below, -1)
        else:
            _arch(axes, way, above, 1)
    tops = max(top for *_, top in above.tops)
    return tops, -max(top for *_, top in below.tops)


def _straight(axes: Axes, way: Way) -> None:
    """From one column to the next; from below into a sign, around the corner."""
    start, end = way.start, way.end
    x = start.x + start.width + (0 if start.is_join else DEPTH * 0.4)
    if start.lane and end.is_join and not end.lane:
        x += DEPTH * 0.4
        middle = end.x + end.width / 2
        _line(axes, [(x, start.y), (middle, start.y), (middle, end.y - end.height / 2)])
    elif end.lane and not end.is_join and start.y != end.y:
        turn = end.x - 0.12
        _line(axes, [(x, start.y), (turn, start.y), (turn, end.y), (end.x, end.y)])
    else:
        _line(axes, [(x, start.y), (end.x, end.y)])


def _foot(block: Block) -> float:
    """Where a line leaves a block at its lower side, past what is written there."""
    text = len(_channels(block))
    return block.x + block.width / 2 + (0.045 * text + 0.03 if text else 0.0)


def _sideways(axes: Axes, way: Way, below: _Skyline) -> None:
    """Down, and into a block that stands lower from its left."""
    start, end = way.start, way.end
    a = _foot(start)
    foot = start.y - start.height / 2
    _line(axes, [(a, foot), (a, end.y), (end.x, end.y)])
    below.add(a, end.x, -end.y)


def _around(axes: Axes, way: Way, below: _Skyline) -> None:
    """Down below all that is between, and up again to the left side of the last block."""
    start, end = way.start, way.end
    a, b = _foot(start), end.x - 0.11
    level = -below.over(a, end.x) - 0.12
    below.add(a, b, -level)
    foot = start.y - start.height / 2
    _line(axes, [(a, foot), (a, level), (b, level), (b, end.y), (end.x, end.y)])


def _arch(axes: Axes, way: Way, skyline: _Skyline, side: int) -> None:
    """Over (side 1) or below (side -1) all that is between."""
    start, end = way.start, way.end
    a = start.x + start.width * (0.5 if start.is_join else 0.75 if way.switches else 0.6)
    b = end.x + end.width * (0.5 if end.is_join else 0.25 if way.switches else 0.4)
    if side < 0 and not start.is_join:
        a = _foot(start)
    top = skyline.over(min(a, b) - 0.02, max(a, b) + 0.02) + 0.13
    skyline.add(min(a, b), max(a, b), top)
    first, last = (
        side * block.y + block.height / 2 + (0 if block.is_join or side < 0 else DEPTH * 0.35)
        for block in (start, end)
    )
    _line(axes, [(a, side * first), (a, side * top), (b, side * top), (b, side * last)],
          way.switches)  # fmt: skip


def _line(axes: Axes, corners: Sequence[tuple[float, float]], switches: bool = False) -> None:
    """An arrow along `corners`, which are rounded."""
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path

    points, codes = [corners[0]], [Path.MOVETO]
    for before, corner, after in zip(corners, corners[1:], corners[2:], strict=False):
        lengths = [math.dist(before, corner), math.dist(corner, after)]
        r = min(0.1, min(lengths) / 2)
        for other, length in zip((before, after), lengths, strict=True):
            share = r / length if length else 0.0
            edge = (
                corner[0] + (other[0] - corner[0]) * share,
                corner[1] + (other[1] - corner[1]) * share,
            )
            points += [edge] if other is before else [corner, edge]
        codes += [Path.LINETO, Path.CURVE3, Path.CURVE3]
    points.append(corners[-1])
    codes.append(Path.LINETO)
    axes.add_patch(
        FancyArrowPatch(
            path=Path(points, codes), arrowstyle="-|>,head_width=1.8,head_length=3.2",
            color=COLOURS["unpooling"] if switches else INK, linewidth=1.0,
            linestyle=(0, (3, 2)) if switches else "-", zorder=6 if len(corners) > 2 else 2,
        )
    )  # fmt: skip


def _legend(blocks: Sequence[Block], ways: Sequence[Way], colours: dict[str, str]) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    kinds = dict.fromkeys(block.kind for block in blocks if not block.is_join)
    ordered = [kind for kind in COLOURS if kind in kinds]
    ordered += [kind for kind in kinds if kind not in COLOURS]
    handles: list[Any] = [
        Patch(facecolor=colours[kind], edgecolor=_shade(colours[kind], 0.55), label=kind)
        for kind in ordered
    ]
    for sign, name in JOIN_NAMES.items():
        if any(block.kind == sign for block in blocks):
            handles.append(Line2D([], [], marker=f"${sign}$", color=INK, linestyle="", label=name))
    if any(way.end.column - way.start.column > 1 and not way.switches for way in ways):
        handles.append(Line2D([], [], color=INK, label="skip"))
    if any(way.switches for way in ways):
        handles.append(Line2D([], [], color=COLOURS["unpooling"], linestyle=(0, (3, 2)),
                              label="positions of maxima"))  # fmt: skip
    return handles
