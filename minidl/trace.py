"""Following a network's forward pass without computing it.

`trace` calls a model with an image and writes down what it does: which layer called which, which
operations ran, and which arrays went from one to the other. No operation is carried out. What it
would return is replaced by an array of that shape which takes no memory (all its elements are one
and the same number), so that the largest network is followed in no time. The forward of the model
is ordinary code and notices nothing, as long as it does not look at the numbers.

An operation that is not known here (`Function`s of one's own) is run for real, on zeros.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minidl import arithmetic as ops
from minidl.function import Function
from minidl.functional import activation, conv, noise, norm, pool, resize, shape
from minidl.functional.linear import Linear
from minidl.listen import Listener, listening
from minidl.nn.module import Module
from minidl.tensor import Tensor, no_grad


@dataclass(eq=False, repr=False)
class Value:
    """An array that was met.

    Attributes
    ----------
    array : ndarray
        It, or what stands for it.
    source : Operation, optional
        What made it; None for the input of the network, for parameters and other constants.
    flows : bool
        Whether it is the input or depends on it.
    learned : bool
        Whether it is a parameter that is learned, or depends on one.
    """

    array: np.ndarray
    source: Operation | None = None
    flows: bool = False
    learned: bool = False

    def __repr__(self) -> str:
        return f"Value({self.shape}, {self.array.dtype})"

    @property
    def shape(self) -> tuple[int, ...]:
        """Extent of each axis."""
        return self.array.shape

    @property
    def nbytes(self) -> int:
        """Memory that the real array takes."""
        return math.prod(self.array.shape) * self.array.itemsize


@dataclass(eq=False, repr=False)
class Operation:
    """One operation that ran on arrays that depend on the input of the network.

    Attributes
    ----------
    function : Function
    inputs : list of Value
    output : Value
    call : Call
        The call of the innermost module that it belongs to.
    """

    function: Function
    inputs: list[Value]
    output: Value
    call: Call

    def __repr__(self) -> str:
        return f"Operation({self.name} in {self.call.path!r}, {self.output.shape})"

    @property
    def name(self) -> str:
        """Of its function."""
        return type(self.function).__name__


@dataclass(eq=False, repr=False)
class Call:
    """One call of a module.

    Attributes
    ----------
    path : str
        Of the module in the model; of the model itself, nothing.
    module : Module or callable
    parent : Call, optional
        The call that it was made in.
    parts : list of Call and Operation
        What ran in it, in order.
    inputs, outputs : list of Value
        Arrays that it was given and that it returned; constants are not among them.
    """

    path: str
    module: Any
    parent: Call | None = None
    parts: list[Call | Operation] = field(default_factory=list)
    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"Call({self.path!r}, {len(self.parts)} parts)"

    @property
    def name(self) -> str:
        """The path from the module that it was called in."""
        around = "" if self.parent is None else self.parent.path
        return self.path.removeprefix(f"{around}." if around else "")

    def walk(self) -> Iterator[Call]:
        """The call itself and all inside of it, in order."""
        yield self
        for part in self.parts:
            if isinstance(part, Call):
                yield from part.walk()


@dataclass(eq=False, repr=False)
class Trace:
    """A forward pass that was followed.

    Attributes
    ----------
    input : Value
    root : Call
        Of the model.
    operations : list of Operation
        All of them, in order.
    """

    input: Value
    root: Call
    operations: list[Operation]

    def __repr__(self) -> str:
        return f"Trace({self.input.shape}, {len(self.operations)} operations)"


def stand_in(shape: Sequence[int], dtype: Any) -> np.ndarray:
    """An array of zeros that takes no memory, and shares none with another."""
    return np.broadcast_to(np.zeros((), dtype), tuple(shape))


# ---- what operations would return -----------------------------------------------------------


def _together(_: Function, *arrays: np.ndarray) -> np.ndarray:
    return stand_in(np.broadcast_shapes(*(x.shape for x in arrays)), np.result_type(*arrays))


def _first(_: Function, x: np.ndarray, *others: np.ndarray) -> np.ndarray:
    return stand_in(x.shape, x.dtype)


def _cast(f: Any, x: np.ndarray) -> np.ndarray:
    return stand_in(x.shape, f.dtype)


def reduced_axes(f: Any, axes: int) -> tuple[int, ...]:
    """Axes that a reduction of an array with so many `axes` runs over, from the front."""
    chosen = range(axes) if f.axis is None else np.atleast_1d(f.axis)
    return tuple(sorted(int(axis) % axes for axis in chosen))


def _reduced(f: Any, x: np.ndarray) -> np.ndarray:
    gone = reduced_axes(f, x.ndim)
    sizes = [1 if axis in gone else size for axis, size in enumerate(x.shape)]
    if not f.keepdims:
        sizes = [size for axis, size in enumerate(x.shape) if axis not in gone]
    return stand_in(sizes, x.dtype)


def _like(result: np.ndarray) -> np.ndarray:
    """What stands for `result`, which was made from a stand-in and may be a view of it."""
    return stand_in(result.shape, result.dtype)


def _concatenate(f: Any, *arrays: np.ndarray) -> np.ndarray:
    sizes = list(arrays[0].shape)
    sizes[f.axis] = sum(x.shape[f.axis] for x in arrays)
    return stand_in(sizes, np.result_type(*arrays))


def _stack(f: Any, *arrays: np.ndarray) -> np.ndarray:
    sizes = list(arrays[0].shape)
    sizes.insert(f.axis % (len(sizes) + 1), len(arrays))
    return stand_in(sizes, np.result_type(*arrays))


def _pad(f: Any, x: np.ndarray) -> np.ndarray:
    sizes = zip(x.shape, f.widths, strict=True)
    return stand_in([n + before + after for n, (before, after) in sizes], x.dtype)


def _matmul(_: Function, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    rows, columns = a.shape[-2:-1], b.shape[-1:] if b.ndim > 1 else ()
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    return stand_in((*batch, *rows, *columns), np.result_type(a, b))


def _linear(_: Function, x: np.ndarray, weight: np.ndarray, *__: np.ndarray) -> np.ndarray:
    return stand_in((*x.shape[:-1], weight.shape[-1]), x.dtype)


def _conv(f: Any, x: np.ndarray, weight: np.ndarray, *_: np.ndarray) -> np.ndarray:
    sizes = zip(f.windows, x.shape[1:-1], strict=True)
    out = (window.out_size(size) for window, size in sizes)
    return stand_in((len(x), *out, weight.shape[-1]), x.dtype)


def _conv_transpose(f: Any, x: np.ndarray, weight: np.ndarray, *_: np.ndarray) -> np.ndarray:
    channels = weight.shape[-2] * f.geometry[3]
    return stand_in((len(x), *f.size, channels), x.dtype)


def _windows(lines: Sequence, x: np.ndarray) -> np.ndarray:
    """`lines` are bands or spans; those of missing axes stand in front."""
    out = (len(line.first) for line in lines[5 - x.ndim :])
    return stand_in((len(x), *out, x.shape[-1]), x.dtype)


_TOGETHER = (ops.Add, ops.Subtract, ops.Multiply, ops.Divide, ops.Power)
_FIRST = (
    ops.Negative, ops.Absolute, ops.Exp, ops.Log, ops.Sqrt, ops.Tanh, ops.Sigmoid, ops.Relu,
    ops.Clip, activation.LeakyRelu, activation.Elu, activation.Gelu, activation.GeluTanh,
    activation.Softplus, activation.Softmax, noise.Dropout, noise.ChannelDropout, norm.BatchNorm,
    norm.GroupNorm, norm.LocalResponseNorm,
)  # fmt: skip
_RESULTS: dict[type, Callable[..., np.ndarray]] = {
    **dict.fromkeys(_TOGETHER, _together),
    **dict.fromkeys(_FIRST, _first),
    ops.Cast: _cast,
    ops.Sum: _reduced,
    ops.Extremum: _reduced,
    ops.Reshape: lambda f, x: _like(x.reshape(f.shape)),
    ops.Transpose: lambda f, x: _like(x.transpose(f.axes)),
    ops.GetItem: lambda f, x: _like(x[f.index]),
    ops.MatMul: _matmul,
    ops.Concatenate: _concatenate,
    shape.Stack: _stack,
    shape.Pad: _pad,
    Linear: _linear,
    conv.Conv: _conv,
    conv.ConvTranspose: _conv_transpose,
    pool.MaxPool: lambda f, x: _windows(f.spans, x),
    pool.Positions: lambda f, y: stand_in(y.shape, np.int32),
    pool.AveragePool: lambda f, x: _windows(f.bands, x),
    pool.MaxUnpool: lambda f, x, positions: stand_in(f.shape, x.dtype),
    resize.Resample: lambda f, x: _windows(f.bands, x),
}


def _result(function: Function, method: Callable, arrays: Sequence[np.ndarray]) -> np.ndarray:
    known = _RESULTS.get(type(function))
    if known is not None:
        return known(function, *arrays)
    result = np.asarray(method(*(np.ascontiguousarray(x) for x in arrays)))
    return result.copy() if any(np.may_share_memory(result, x) for x in arrays) else result


# ---- following ------------------------------------------------------------------------------


class _Tracer(Listener):
    """Writes down what one thread does."""

    def __init__(self, model: Any, x: Tensor) -> None:
        super().__init__()
        parts = model.named_modules() if isinstance(model, Module) else ()
        self.paths = {id(part): path for path, part in parts}
        self.call = self.root = Call("", model)
        self.operations: list[Operation] = []
        # By the id of their arrays, which live as long as the values do.
        array = x._storage.array
        self.values: dict[int, Value] = {id(array): Value(array, flows=True)}
        for parameter in model.parameters() if isinstance(model, Module) else ():
            array = parameter._storage.array
            self.values[id(array)] = Value(array, learned=parameter.requires_grad)

    def value(self, array: np.ndarray) -> Value:
        return self.values.setdefault(id(array), Value(array))

    def on_module(self, module: Module, forward: Callable, /, *args: Any, **kwargs: Any) -> Any:
        if self.is_elsewhere:
            return forward(*args, **kwargs)
        if self.root.module is module and self.call is self.root:
            call = self.root
        else:
            path = self.paths.get(id(module), type(module).__name__)
            call = Call(path, module, self.call)
            self.call.parts.append(call)
        around, self.call = self.call, call
        try:
            result = forward(*args, **kwargs)
        finally:
            self.call = around
        call.inputs = self.flowing([args, list(kwargs.values())])
        call.outputs = self.flowing(result)
        return result

    def flowing(self, result: Any) -> list[Value]:
        """Values of all tensors in `result` and in what it contains, as far as they flow."""
        if isinstance(result, dict):
            result = list(result.values())
        if isinstance(result, list | tuple):
            return [value for part in result for value in self.flowing(part)]
        if not isinstance(result, Tensor):
            return []
        value = self.value(result._storage.array)
        return [value] if value.flows else []

    def on_operation(self, function: Function, method: Callable, *arrays: Any) -> Any:
        if self.is_elsewhere:
            return method(*arrays)
        inputs = [self.value(array) for array in arrays]
        if not any(value.flows for value in inputs):
            return method(*arrays)  # constants are computed as ever
        if isinstance(function, pool.MaxPool):
            function.shape = arrays[0].shape  # as its forward would
        result = _result(function, method, arrays)
        learned = any(value.learned for value in inputs)
        output = Value(result, flows=True, learned=learned)
        operation = Operation(function, inputs, output, self.call)
        operation.output.source = operation
        self.values[id(result)] = operation.output
        self.operations.append(operation)
        self.call.parts.append(operation)
        return result


def trace(model: Callable[[Tensor], Any], shape: Sequence[int], dtype: Any = None) -> Trace:
    """Follow the forward pass of a model, without computing it.

    Parameters
    ----------
    model : nn.Module, or callable from tensor to tensor
        A module is followed as in `eval`, and left as it was.
    shape : sequence of int
        Of the input, batch and channels included.
    dtype : numpy dtype, optional
        Of the input; that of the parameters if left out.

    Returns
    -------
    Trace

    Raises
    ------
    RuntimeError
        If a trace or a profile is being made.

    Examples
    --------
    >>> from minidl import nn
    >>> found = trace(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), (1, 512, 512, 3))
    >>> [(operation.name, operation.output.shape) for operation in found.operations]
    [('Conv', (1, 510, 510, 8)), ('Relu', (1, 510, 510, 8))]
    """
    modules = list(model.modules()) if isinstance(model, Module) else []
    if dtype is None:
        parameters = model.parameters() if isinstance(model, Module) else ()
        dtype = next((parameter.dtype for parameter in parameters), np.float32)
    x = Tensor._wrap(stand_in(shape, dtype), None)
    tracer = _Tracer(model, x)
    training = [part for part in modules if part.training]
    try:
        for part in training:
            part.training = False
        with listening(tracer, "trace", "trace or profile"), no_grad():
            result = model(x)
    finally:
        for part in training:
            part.training = True
    tracer.root.outputs = tracer.flowing(result)
    return Trace(tracer.value(x._storage.array), tracer.root, tracer.operations)
