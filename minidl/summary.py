"""What a network is made of, layer by layer, as a table for people and as a drawing.

Nothing is computed (see `minidl.trace`): a network of any size is described in no time.
"""

from __future__ import annotations

import math
import shutil
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from minidl import arithmetic as ops
from minidl import nn
from minidl.fields import FieldError, Fields, LayerField
from minidl.functional import activation, conv, noise, norm, pool, resize, shape
from minidl.functional.linear import Linear
from minidl.nn.module import Module
from minidl.tensor import Tensor
from minidl.trace import Call, Operation, Trace, Value, trace

DROPOUTS = nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d
WEIGHT, GRADIENT, MOMENTS = 1, 1, 2  # what training with Adam keeps of each parameter

# ---- cost of operations ---------------------------------------------------------------------


def multiply_adds(operation: Operation) -> int:
    """Products that are summed up: those of convolutions and products of matrices."""
    f, out = operation.function, operation.output.shape
    first, *others = (value.shape for value in operation.inputs)
    if isinstance(f, conv.Conv | Linear):
        return math.prod(out[:-1]) * math.prod(others[0])
    if isinstance(f, conv.ConvTranspose):
        return math.prod(first[:-1]) * math.prod(others[0])
    return math.prod(out) * first[-1] if isinstance(f, ops.MatMul) else 0


_NOTHING = (
    ops.Add, ops.Subtract, ops.Negative, ops.Sum, ops.Reshape, ops.Transpose, ops.GetItem, ops.Cast,
    ops.Concatenate, shape.Stack, shape.Pad, resize.Resample, pool.AveragePool, pool.Positions,
    noise.Dropout, noise.ChannelDropout,
)  # fmt: skip
_INPUTS = (
    ops.Multiply, ops.Divide, ops.Absolute, ops.Log, ops.MatMul, activation.LeakyRelu,
    activation.Gelu, norm.BatchNorm, Linear,
)  # fmt: skip
_OUTPUT = ops.Exp, ops.Sqrt, ops.Tanh, ops.Sigmoid, ops.Relu, activation.Softmax
_OWN = {  # bytes for each byte of the result, of arrays that nobody else has
    ops.Clip: Fraction(1, 4),
    ops.Extremum: Fraction(0),
    activation.GeluTanh: Fraction(1),
    activation.Softplus: Fraction(5, 4),
    norm.GroupNorm: Fraction(1),
    norm.LocalResponseNorm: Fraction(1),
    pool.MaxPool: Fraction(1),
}


def kept(operation: Operation) -> tuple[list[Value], int]:
    """What backward of an operation will need: arrays that flow, and bytes of its own."""
    f: Any = operation.function
    kind, values, out = type(f), operation.inputs, operation.output
    own = int(_OWN.get(kind, 0) * out.nbytes)
    if not out.learned or kind in _NOTHING:
        return [], 0
    if kind in _OUTPUT:
        return [out], 0
    if isinstance(f, conv.Convolution):
        return [values[0], *values[3:], *([out] if f.relu else [])], 0
    if isinstance(f, pool.MaxUnpool):
        return values[1:], 0
    if isinstance(f, pool.MaxPool | norm.GroupNorm | ops.Clip | activation.Softplus):
        return [], own
    if isinstance(f, ops.Extremum):
        return [], math.prod(values[0].shape)
    if kind in _INPUTS or kind in _OWN:
        return values, own
    return [*values, out], own  # Power, Elu, and what is not known


# ---- rows -----------------------------------------------------------------------------------

NAMES = {
    "Add": "add", "Subtract": "subtract", "Multiply": "multiply", "Divide": "divide",
    "Concatenate": "concatenate", "GetItem": "crop", "Resample": "resize", "MaxPool": "max-pool",
    "AveragePool": "average pool", "MaxUnpool": "unpool", "Relu": "relu", "Pad": "pad",
    "Softmax": "softmax", "Reshape": "reshape", "Transpose": "transpose", "Conv": "convolution",
    "ConvTranspose": "up-convolution", "BatchNorm": "batch norm", "Sum": "sum", "Stack": "stack",
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A call of a layer, or an operation that a network carries out itself.

    Attributes
    ----------
    path : str
        Of the layer, such as ``down.0.conv1``; of an operation, that of the layer it is in.
    name : str
        The path from the layer it lies in; of an operation, nothing.
    level : int
        How many layers it lies in.
    kind : str
        Class of the layer with its kernel and stride, or what the operation does.
    output : tuple of int
        Shape of the result, batch and channels included.
    parameters : int
        With those of the layers in it. A layer that is called again has none the second time.
    multiply_adds : int
        Of convolutions and products of matrices.
    field : LayerField or None
        What its units see; None if an operation is not known. See `minidl.fields`.
    memory : int
        Bytes of its results that training keeps until backward.
    leaf : bool
        Whether it stands for itself; the numbers of others are sums of those below them.
    """

    path: str
    name: str
    level: int
    kind: str
    output: tuple[int, ...]
    parameters: int
    multiply_adds: int
    field: LayerField | None
    memory: int
    leaf: bool


class _Reader:
    """Makes rows of a trace."""

    def __init__(self, followed: Trace) -> None:
        self.fields = Fields(followed)
        self.counted: set[int] = set()  # parameters, by their id
        self.memory: dict[Value, int] = {}  # of the operation that made it
        held: set[Value] = set()
        for operation in followed.operations:
            values, own = kept(operation)
            self.memory[operation.output] = self.memory.get(operation.output, 0) + own
            for value in values:
                if value.source is not None and value not in held:
                    held.add(value)
                    self.memory[value] = self.memory.get(value, 0) + value.nbytes

    def field(self, value: Value, path: str) -> LayerField | None:
        try:
            return self.fields.of(value, path)
        except FieldError:
            return None

    def rows(self, call: Call, level: int = 0) -> Iterator[Row]:
        """Those of a call and of what is in it."""
        below: list[Row] = []
        parameters = self.new_parameters(call.module)
        own = [part for part in call.parts if isinstance(part, Operation)]
        is_leaf = len(own) == len(call.parts)
        for part in call.parts:
            if isinstance(part, Call):
                below += self.rows(part, level + 1)
            elif not is_leaf and not isinstance(part.function, pool.Positions):
                below.append(self.operation_row(part, level + 1))
        direct = [row for row in below if row.level == level + 1]
        if not call.outputs or isinstance(call.module, nn.Identity):
            return
        memory = sum(self.memory[operation.output] for operation in own) if is_leaf else 0
        if isinstance(call.module, DROPOUTS) and call.module.p > 0:
            memory += sum(value.nbytes for value in call.outputs)
        value = call.outputs[-1]
        yield Row(
            call.path,
            call.name,
            level,
            kind_of(call.module),
            value.shape,
            parameters + sum(row.parameters for row in direct),
            sum(map(multiply_adds, own)) + sum(row.multiply_adds for row in direct if row.name),
            self.field(value, call.path),
            memory + sum(row.memory for row in direct),
            is_leaf,
        )
        yield from below

    def operation_row(self, operation: Operation, level: int) -> Row:
        name, value, path = operation.name, operation.output, operation.call.path
        kind = NAMES.get(name, name.lower())
        products = multiply_adds(operation)
        field = self.field(value, path)
        memory = self.memory[value]
        return Row(path, "", level, kind, value.shape, 0, products, field, memory, True)

    def new_parameters(self, module: Any) -> int:
        """Of the module itself, without its parts, as far as they were not counted yet."""
        found = 0
        for parameter in vars(module).values() if isinstance(module, Module) else ():
            if isinstance(parameter, nn.Parameter) and id(parameter) not in self.counted:
                self.counted.add(id(parameter))
                found += parameter.size
        return found


def kind_of(module: Any) -> str:
    """Class of a module, and its kernel and stride if it has one."""
    if not isinstance(module, Module):
        return getattr(module, "__name__", type(module).__name__)
    name, size = type(module).__name__, getattr(module, "kernel_size", None)
    if size is None:
        return name
    text = "x".join(map(str, size)) if isinstance(size, Sequence) else str(size)
    stride = getattr(module, "stride", None)
    step = max(stride) if isinstance(stride, Sequence) else stride
    holes = getattr(module, "dilation", 1)
    holes = max(holes) if isinstance(holes, Sequence) else holes
    text += f" /{step}" if step not in (None, 1) else ""
    return f"{name} {text}" + (f" d{holes}" if holes > 1 else "")


# ---- the whole ------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Summary:
    """What `summary` found; ``print`` it.

    Attributes
    ----------
    name : str
        Of the network.
    rows : list of Row
        In the order of the calls, the network itself first.
    depth : int or None
        Levels that are shown.
    parameters, multiply_adds, memory : int
        Of the whole network; `memory` is what training keeps for backward, in bytes.
    trace : Trace
        What was followed.
    """

    name: str
    rows: list[Row]
    depth: int | None
    parameters: int
    multiply_adds: int
    memory: int
    trace: Trace

    def __repr__(self) -> str:
        return self.text()

    def text(self, width: int | None = None) -> str:
        """The table in lines of at most `width` characters, those of the terminal if left out."""
        if width is None:
            width = min(max(shutil.get_terminal_size((100, 24)).columns, 80), 120)
        shown = [row for row in self.rows if self.depth is None or row.level <= self.depth]
        cells = [HEAD, *(_cells(row, row.leaf or row.level == self.depth) for row in shown[1:])]
        table = _fitted(cells, width)
        totals = [part for line in self._totals() for part in textwrap.wrap(line, width)]
        return "\n".join([self._head(), "", *table, "", *totals])

    def _head(self) -> str:
        images, *size = self.trace.input.shape
        many = f"{images} images of " if images > 1 else ""
        return f"{self.name}, input {many}{' × '.join(map(str, size))}"

    def _totals(self) -> list[str]:
        itemsize = self.trace.input.array.itemsize
        state = self.parameters * itemsize * (WEIGHT + GRADIENT + MOMENTS)
        images = self.trace.input.shape[0]
        field = self.rows[0].field
        seen = "" if field is None else f", each output sees {field_size(field)} pixels"
        return [
            f"{self.parameters:,} parameters, {_short(self.multiply_adds)} multiply-adds{seen}",
            f"training on {images} image{'s' * (images > 1)}: {_mb(self.memory)} MB kept for "
            f"backward, {_mb(state)} MB for parameters, gradients and Adam",
        ]

    def to_dict(self) -> dict[str, Any]:
        """All rows and totals, in types that JSON knows."""
        rows = []
        for row in self.rows:
            numbers = {key: value for key, value in vars(row).items() if key != "field"}
            sizes = None if row.field is None else row.field.sizes
            found = () if row.field is None else row.field.fields
            jumps = [None if field is None else str(field.jump) for field in found]
            rows.append(numbers | {"field": sizes, "jump": jumps})
        totals = ("name", "parameters", "multiply_adds", "memory")
        return {key: getattr(self, key) for key in totals} | {
            "input": self.trace.input.shape,
            "rows": rows,
        }

    def draw(self, path: str | Path, blocks: int = 36) -> Path:
        """Draw the network: `minidl.drawing.network` says how.

        Parameters
        ----------
        path : str or Path
            Ends in ``.svg``, ``.png`` or ``.pdf``.
        blocks : int
            The most that are drawn; layers are taken together until they are not more.

        Returns
        -------
        Path
        """
        from minidl.drawing import network
        from minidl.plot import write_figure

        title = f"{self._head()}: {_short(self.parameters)} parameters"
        return write_figure(network(self.trace, title, blocks), path)


HEAD = ("layer", "kind", "output", "parameters", "mult-adds", "sees", "jump", "MB")
TEXTS = 2  # columns that are no numbers


def _cells(row: Row, numbers: bool) -> tuple[str, ...]:
    sizes = "x".join(map(str, row.output[1:]))
    left = "  " * (row.level - 1) + (row.name or "-"), row.kind, sizes
    if not numbers:
        return (*left, *[""] * 5)
    return (
        *left,
        f"{row.parameters:,}" if row.parameters else "",
        _short(row.multiply_adds) if row.multiply_adds else "",
        field_size(row.field),
        _jump(row.field),
        _mb(row.memory) if row.memory else "",
    )


def _short(number: float) -> str:
    """A large number with three digits: 1.23 G."""
    for unit in ("", "k", "M", "G", "T"):
        if number < 999.5:
            digits = 0 if not unit or number >= 99.95 else 1 if number >= 9.995 else 2
            return f"{number:.{digits}f} {unit}".rstrip()
        number /= 1000
    return f"{number:,.0f} P"


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f}" if size < 99.95e6 else f"{size / 1e6:,.0f}"


def field_size(field: LayerField | None) -> str:
    """Sizes of fields for people: 404; 188-204 where units differ, 3x5 where axes do; ≤500 where
    units follow no rule, and that is the largest in this image.
    """
    if field is None:
        return "?"
    texts = []
    for axis, sizes in zip(field.axes, field.sizes, strict=True):
        if sizes is None:
            first, last = axis.bounds[0], -axis.bounds[1]
            texts.append(f"≤{max(int((last - first).max()) + 1, 0)}")
        else:
            texts.append(f"{sizes[0]}-{sizes[-1]}" if sizes[0] < sizes[-1] else str(sizes[0]))
    return texts[0] if len(set(texts)) == 1 else "x".join(texts)


def _jump(field: LayerField | None) -> str:
    if field is None:
        return ""
    texts = ["" if found is None or found.jump == 0 else str(found.jump) for found in field.fields]
    return texts[0] if len(set(texts)) == 1 else "x".join(texts)


def _fitted(rows: Sequence[tuple[str, ...]], width: int) -> list[str]:
    """Lines of a table; the first two columns give way if it is too wide."""
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    spare = width - sum(wide) - 2 * (len(wide) - 1)
    for column in (1, 0):
        cut = min(max(-spare, 0), max(wide[column] - 14, 0))
        wide[column] -= cut
        spare += cut
    lines = []
    for row in rows:
        cells = [
            _cut(cell, size).ljust(size) if i < TEXTS else cell.rjust(size)
            for i, (cell, size) in enumerate(zip(row, wide, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def _cut(text: str, size: int) -> str:
    return text if len(text) <= size else text[: size - 1] + "…"


def summary(
    model: Callable[[Tensor], Any], shape: Sequence[int], depth: int | None = None
) -> Summary:
    """Describe a network: layers, sizes, parameters, multiply-adds, receptive fields, memory.

    Parameters
    ----------
    model : nn.Module, or callable from tensor to tensor
    shape : sequence of int
        Of the input, batch and channels included. Memory is that of such a batch.
    depth : int, optional
        Levels of layers in layers that are shown; all if left out.

    Returns
    -------
    Summary
        ``print`` it, or `Summary.draw` it.

    Raises
    ------
    ValueError
        If the input does not fit the network.

    Notes
    -----
    The column *sees* has the pixels along an axis that a unit depends on, as if the image had no
    ends, and *jump* the pixels from one unit to the next (see `minidl.fields`): 188-204 where
    units differ, 3x5 where axes do, and ≤500 where they follow no rule and that is the largest of
    this image. *MB* are results that training keeps for backward.

    Examples
    --------
    >>> from minidl import nn
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, activation="relu"), nn.MaxPool2d(2))
    >>> print(summary(model, (1, 32, 32, 3)))
    Sequential, input 32 × 32 × 3
    <BLANKLINE>
    layer  kind          output  parameters  mult-adds  sees  jump   MB
    0      Conv2d 3x3   32x32x8         224      221 k     3     1  0.0
    1      MaxPool2d 2  16x16x8                            4     2  0.0
    <BLANKLINE>
    224 parameters, 221 k multiply-adds, each output sees 4 pixels
    training on 1 image: 0.0 MB kept for backward, 0.0 MB for parameters, gradients and Adam
    """
    if depth is not None and depth < 1:
        raise ValueError(f"summary: depth must be 1 or more, but is {depth}.")
    followed = trace(model, shape)
    rows = list(_Reader(followed).rows(followed.root))
    if not rows:
        raise ValueError(f"summary: {kind_of(model)} returns nothing that depends on its input.")
    top = rows[0]
    everything = sum(p.size for p in model.parameters()) if isinstance(model, Module) else 0
    return Summary(kind_of(model), rows, depth, everything, top.multiply_adds, top.memory, followed)
