"""Tensor: an array that remembers how it was computed, and the walk back through that memory."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from minidl import arithmetic as ops
from minidl.function import Function

Axes = int | Sequence[int] | None
_thread = threading.local()  # recording is switched for each thread by itself
# Called, where there is one, as listener(function, method, *arrays) in place of method(*arrays),
# a function's forward or backward; it must return what that does. `minidl.profile` listens here.
listener: Callable[..., Any] | None = None


@contextlib.contextmanager
def no_grad() -> Iterator[None]:
    """Compute without recording: results know nothing of their history and save no memory for it.

    Works as a context and as a decorator, for the calling thread only.
    """
    before = is_grad_enabled()
    _thread.recording = False
    try:
        yield
    finally:
        _thread.recording = before


def is_grad_enabled() -> bool:
    """Whether operations of this thread are being recorded."""
    return getattr(_thread, "recording", True)


class _Storage:
    """An array, and how many recorded operations rely on its content.

    The engine works on `array`. The user gets `handle`, one and the same view of it, which is
    read-only as long as anyone relies on the content.
    """

    __slots__ = ("array", "handle", "holds")
    # Reentrant: the garbage collector may run a node's __del__ while this thread is in `hold`.
    lock = threading.RLock()

    def __init__(self, array: np.ndarray, holds: int = 0) -> None:
        self.array, self.holds = array, holds
        self.handle: np.ndarray | None = None

    def hold(self, change: int) -> None:
        with self.lock:
            self.holds += change
            if self.handle is not None:
                self.handle.flags.writeable = self.holds == 0

    def view(self) -> np.ndarray:
        if self.handle is None:
            self.handle = self.array.view()
            self.handle.flags.writeable = self.holds == 0
        return self.handle


class _Node:
    """One recorded application of a function.

    Attributes
    ----------
    sources : for each input the node or the leaf that its gradient goes to, or None
    held : storages of the inputs that are leaves; backward may need their content
    """

    __slots__ = ("function", "sources", "held", "shape", "dtype")

    def __init__(self, function: Function, inputs: Sequence[Tensor], result: np.ndarray) -> None:
        self.function: Any = function  # None once released
        self.sources = [x._node or (x if x.requires_grad else None) for x in inputs]
        self.held = [x._storage for x in inputs if x._node is None]
        self.shape, self.dtype = result.shape, result.dtype
        for storage in self.held:
            storage.hold(+1)

    def release(self) -> None:
        """Forget the inputs and all that forward saved."""
        held, self.held, self.sources, self.function = self.held, [], [], None
        for storage in held:
            storage.hold(-1)

    def __del__(self) -> None:
        for storage in self.held:
            storage.hold(-1)


def apply(function: Function, *inputs: Any) -> Tensor:
    """Run `function` on tensors and record it where a gradient may be asked for.

    Parameters
    ----------
    function : Function
        A fresh object: it serves one call.
    *inputs : Tensor or array_like

    Returns
    -------
    Tensor
    """
    tensors = [as_tensor(x) for x in inputs]
    recording = is_grad_enabled()
    function.needs = tuple(recording and x.requires_grad for x in tensors)
    result = _call(function, function.forward, *(x._storage.array for x in tensors))
    if function.records:
        return Tensor._wrap(result, _Node(function, tensors, result))
    if any(np.may_share_memory(result, x._storage.array) for x in tensors):
        result = result.copy()  # no node would keep the input, and so this view, from being written
    return Tensor._wrap(result, None)


def _call(function: Function, method: Callable[..., Any], *arrays: np.ndarray) -> Any:
    heard = listener
    return method(*arrays) if heard is None else heard(function, method, *arrays)


def as_tensor(x: Any) -> Tensor:
    """`x` itself if it is a tensor, else a new tensor with a copy of it."""
    return x if isinstance(x, Tensor) else Tensor(x)


def _as_array(data: Any) -> np.ndarray:
    """A C-contiguous copy of `data` in one of the dtypes a tensor may have."""
    if isinstance(data, Tensor):
        data = data._storage.array
    known = isinstance(data, np.ndarray | np.generic)
    array = np.array(data, order="C")
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype.kind == "f":
        keep = known and array.dtype in (np.float32, np.float64)
        return array if keep else array.astype(np.float32)
    if array.dtype.kind not in "iub":
        raise TypeError(
            f"Tensor: data must be numbers, but has dtype {array.dtype}. "
            "Pass an array of floats, integers or booleans."
        )
    return array


class Tensor:
    """An n-dimensional array that can be differentiated.

    Parameters
    ----------
    data : array_like
        Copied. float32 and float64 arrays keep their dtype; other floats and Python floats become
        float32; integers and booleans stay and have no gradient.
    requires_grad : bool
        Collect the gradient of this tensor in `grad`.

    Attributes
    ----------
    grad : ndarray or None
        Sum of the gradients of all backward passes since it was last set to None, in the shape and
        dtype of `data`. Only leaves, tensors that were not computed from others, have one.
    requires_grad : bool

    Raises
    ------
    TypeError
        If `data` is not numeric, or `requires_grad` is set and it is not floating.

    Notes
    -----
    Gradients are of first order: they are plain arrays and cannot be differentiated again.
    """

    __slots__ = ("_storage", "_node", "grad", "requires_grad", "__weakref__")
    __array_ufunc__ = None  # so that ndarray + tensor is left to the tensor

    def __init__(self, data: Any, requires_grad: bool = False) -> None:
        array = _as_array(data)
        if requires_grad and array.dtype.kind != "f":
            raise TypeError(
                f"Tensor: requires_grad needs floating data, but the dtype is {array.dtype}. "
                "Convert it first, for example with data.astype('float32')."
            )
        self._storage = _Storage(array)
        self._node: _Node | None = None
        self.grad: np.ndarray | None = None
        self.requires_grad = requires_grad

    @classmethod
    def _wrap(cls, array: np.ndarray, node: _Node | None) -> Tensor:
        """A tensor around a result, which nobody may write to: it may be a view of an input."""
        tensor = Tensor.__new__(Tensor)
        tensor._storage = _Storage(np.asarray(array), holds=1)
        tensor._node, tensor.grad, tensor.requires_grad = node, None, node is not None
        return tensor

    # ---- the array --------------------------------------------------------------------------

    @property
    def data(self) -> np.ndarray:
        """The array itself.

        That of a computed tensor is read-only. That of a leaf may be written to at any time: if a
        recorded operation still relies on its content, the operation keeps the old array and the
        leaf goes on with a copy, and an array taken from here earlier is read-only until then.
        (Slices cut from such an array before the recording are not: do not write to them later.)
        """
        if self._node is None and self._storage.holds:
            self._storage = _Storage(self._storage.array.copy())
        return self._storage.view()

    @data.setter
    def data(self, value: Any) -> None:
        if self._node is not None:
            raise RuntimeError(
                "Tensor.data: a computed tensor cannot be given new data. "
                "Use its detach(), or change the tensors it is computed from."
            )
        if value is self._storage.handle:  # the end of ``x.data += 1``
            return
        array = _as_array(value)
        if self.requires_grad and array.dtype.kind != "f":
            raise TypeError(f"Tensor.data: expected floating data, got dtype {array.dtype}.")
        self._storage = _Storage(array)

    shape = property(lambda self: self._storage.array.shape, doc="Extent of each axis.")
    dtype = property(lambda self: self._storage.array.dtype, doc="dtype of the elements.")
    ndim = property(lambda self: self._storage.array.ndim, doc="Number of axes.")
    size = property(lambda self: self._storage.array.size, doc="Number of elements.")
    is_leaf = property(lambda self: self._node is None, doc="Whether it was not computed.")

    def numpy(self) -> np.ndarray:
        """A copy of the data as a plain array."""
        return self._storage.array.copy()

    def item(self) -> float | int | bool:
        """The only element, as a Python number."""
        return self._storage.array.item()

    def detach(self) -> Tensor:
        """A new leaf with a copy of the values, without their history."""
        return Tensor(self)

    def __getstate__(self) -> dict[str, Any]:
        """What copy.deepcopy and pickle keep of a leaf."""
        if self._node is not None:
            raise TypeError("Tensor: a computed tensor cannot be copied or pickled; use detach().")
        return {"data": self._storage.array, "grad": self.grad, "requires_grad": self.requires_grad}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._storage, self._node = _Storage(state["data"]), None
        self.grad, self.requires_grad = state["grad"], state["requires_grad"]

    def __len__(self) -> int:
        return len(self._storage.array)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self._storage.array, dtype=dtype)

    def __repr__(self) -> str:
        note = ", requires_grad=True" if self.requires_grad else ""
        values = np.array2string(self._storage.array, prefix="Tensor(")
        return f"Tensor({values}, shape={self.shape}, dtype={self.dtype}{note})"

    def __bool__(self) -> bool:
        return bool(self._storage.array)

    def __float__(self) -> float:
        return float(self._storage.array)

    # ---- backward ---------------------------------------------------------------------------

    def backward(self, gradient: Any = None) -> None:
        """Add to `grad` of every leaf the gradient of this tensor with respect to it.

        Parameters
        ----------
        gradient : array_like, optional
            Gradient of something with respect to this tensor, in its shape. May be left out for a
            single number, and is then 1.

        Raises
        ------
        RuntimeError
            If nothing was recorded, or the record has been used by an earlier call.
        ValueError
            If `gradient` is missing or has another shape.

        Notes
        -----
        What an operation saved is released as soon as the walk has passed it.
        """
        if not self.requires_grad:
            raise RuntimeError(
                "backward: nothing leads from here to a tensor with requires_grad=True. "
                "Create the inputs to be differentiated with requires_grad=True, "
                "and compute outside of no_grad()."
            )
        start = self._check_gradient(gradient)
        if self._node is None:
            _add_to_leaf(self, start.copy())  # what a leaf keeps is the user's
        else:
            _walk_back(self._node, start)

    def _check_gradient(self, gradient: Any) -> np.ndarray:
        if gradient is None:
            if self.size != 1:
                raise ValueError(
                    f"backward: the tensor has shape {self.shape}, not a single element. "
                    "Reduce it first, for example with sum(), or pass its gradient."
                )
            return np.ones(self.shape, self.dtype)
        gradient = np.asarray(gradient, dtype=self.dtype)
        if gradient.shape != self.shape:
            raise ValueError(
                f"backward: gradient has shape {gradient.shape}, but the tensor {self.shape}."
            )
        return gradient

    # ---- operators --------------------------------------------------------------------------

    def _like(self, other: Any) -> Tensor:
        """`other` as a tensor; a single number takes this tensor's dtype and never changes it.

        (Except a float beside integers, which makes floats of them.)
        """
        if isinstance(other, Tensor):
            return other
        integer = isinstance(other, int | np.integer) and not isinstance(other, bool)
        number = integer or isinstance(other, bool | float | np.number)
        if number and (self.dtype.kind == "f" or (integer and self.dtype.kind in "iu")):
            return Tensor._wrap(np.asarray(other, self.dtype), None)
        return Tensor(other)

    def __add__(self, other: Any) -> Tensor:
        return apply(ops.Add(), self, self._like(other))

    def __sub__(self, other: Any) -> Tensor:
        return apply(ops.Subtract(), self, self._like(other))

    def __mul__(self, other: Any) -> Tensor:
        return apply(ops.Multiply(), self, self._like(other))

    def __truediv__(self, other: Any) -> Tensor:
        return apply(ops.Divide(), self, self._like(other))

    def __pow__(self, other: Any) -> Tensor:
        return apply(ops.Power(), self, self._like(other))

    def __matmul__(self, other: Any) -> Tensor:
        return apply(ops.MatMul(), self, as_tensor(other))

    def __radd__(self, other: Any) -> Tensor:
        return self._like(other) + self

    def __rsub__(self, other: Any) -> Tensor:
        return self._like(other) - self

    def __rmul__(self, other: Any) -> Tensor:
        return self._like(other) * self

    def __rtruediv__(self, other: Any) -> Tensor:
        return self._like(other) / self

    def __rpow__(self, other: Any) -> Tensor:
        return self._like(other) ** self

    def __rmatmul__(self, other: Any) -> Tensor:
        return as_tensor(other) @ self

    def __neg__(self) -> Tensor:
        return apply(ops.Negative(), self)

    def __abs__(self) -> Tensor:
        return apply(ops.Absolute(), self)

    def __getitem__(self, index: Any) -> Tensor:
        return apply(ops.GetItem(_plain_index(index)), self)

    def __setitem__(self, index: Any, value: Any) -> None:
        raise TypeError(
            "Tensor: elements cannot be assigned, backward could not see it. Write to the .data "
            "of a leaf, or compute a new tensor, for example with concatenate() or a mask."
        )

    # Comparisons have no gradient; they give plain boolean arrays.

    def __lt__(self, other: Any) -> np.ndarray:
        return self._storage.array < self._like(other)._storage.array

    def __le__(self, other: Any) -> np.ndarray:
        return self._storage.array <= self._like(other)._storage.array

    def __gt__(self, other: Any) -> np.ndarray:
        return self._storage.array > self._like(other)._storage.array

    def __ge__(self, other: Any) -> np.ndarray:
        return self._storage.array >= self._like(other)._storage.array

    # ---- functions of each element ----------------------------------------------------------

    def exp(self) -> Tensor:
        """E to the power of each element."""
        return apply(ops.Exp(), self)

    def log(self) -> Tensor:
        """Natural logarithm of each element."""
        return apply(ops.Log(), self)

    def sqrt(self) -> Tensor:
        """Square root of each element."""
        return apply(ops.Sqrt(), self)

    def abs(self) -> Tensor:
        """Absolute value of each element; its derivative at 0 is 0."""
        return abs(self)

    def tanh(self) -> Tensor:
        """Hyperbolic tangent of each element."""
        return apply(ops.Tanh(), self)

    def sigmoid(self) -> Tensor:
        """1 / (1 + exp(-x)) for each element x."""
        return apply(ops.Sigmoid(), self)

    def relu(self) -> Tensor:
        """max(x, 0) for each element x; its derivative at 0 is 0. NaN stays NaN."""
        return apply(ops.Relu(), self)

    def clip(self, min: float | None = None, max: float | None = None) -> Tensor:
        """Each element moved into [min, max]; the gradient passes where it was inside."""
        return apply(ops.Clip(min, max), self)

    def astype(self, dtype: Any) -> Tensor:
        """The elements as float32 or float64."""
        return apply(ops.Cast(dtype), self)

    # ---- reductions -------------------------------------------------------------------------

    def sum(self, axis: Axes = None, keepdims: bool = False) -> Tensor:
        """Sum over `axis`, or over everything."""
        return apply(ops.Sum(axis, keepdims), self)

    def mean(self, axis: Axes = None, keepdims: bool = False) -> Tensor:
        """Mean over `axis`, or over everything."""
        total = self.sum(axis, keepdims)
        return total * (total.size / max(self.size, 1))

    def var(self, axis: Axes = None, correction: int = 1, keepdims: bool = False) -> Tensor:
        """Variance over `axis`: sum of squared distances from the mean, over (n - correction)."""
        distance = self - self.mean(axis, keepdims=True)
        total = (distance * distance).sum(axis, keepdims)
        return total / (self.size / max(total.size, 1) - correction)

    def max(self, axis: Axes = None, keepdims: bool = False) -> Tensor:
        """Largest element over `axis`, or of all; equals share the gradient."""
        return apply(ops.Extremum(np.max, axis, keepdims), self)

    def min(self, axis: Axes = None, keepdims: bool = False) -> Tensor:
        """Smallest element over `axis`, or of all; equals share the gradient."""
        return apply(ops.Extremum(np.min, axis, keepdims), self)

    def argmax(self, axis: int | None = None) -> Any:
        """Position of the largest element over `axis`, as a plain integer array."""
        return self._storage.array.argmax(axis)

    # ---- shape ------------------------------------------------------------------------------

    def reshape(self, *shape: int | Sequence[int]) -> Tensor:
        """The elements in their order, with other extents; one of them may be -1."""
        return apply(ops.Reshape(_flat(shape)), self)

    def flatten(self, start_dim: int = 0) -> Tensor:
        """All axes from `start_dim` on merged into one."""
        return self.reshape(*self.shape[:start_dim], -1)

    def transpose(self, *axes: int | Sequence[int]) -> Tensor:
        """The axes in the order given, or reversed."""
        return apply(ops.Transpose(_flat(axes) or range(self.ndim)[::-1]), self)

    @property
    def T(self) -> Tensor:
        """The axes reversed."""
        return self.transpose()

    def squeeze(self, axis: int) -> Tensor:
        """Without `axis`, whose extent must be 1."""
        if self.shape[axis] != 1:
            raise ValueError(f"squeeze: axis {axis} of shape {self.shape} is not 1.")
        kept = list(self.shape)
        del kept[axis]
        return self.reshape(kept)

    def unsqueeze(self, axis: int) -> Tensor:
        """With a new axis of extent 1 at position `axis`."""
        return self.reshape(np.expand_dims(self._storage.array, axis).shape)


def _flat(arguments: tuple) -> tuple[int, ...]:
    """``f(1, 2)`` and ``f((1, 2))`` mean the same."""
    one = len(arguments) == 1 and not isinstance(arguments[0], int | np.integer)
    return tuple(arguments[0] if one else arguments)


def _plain_index(index: Any) -> Any:
    """`index` with copies of its arrays, which backward will need, in place of whatever is one."""
    if isinstance(index, tuple):
        return tuple(_plain_index(list(i) if isinstance(i, tuple) else i) for i in index)
    if isinstance(index, list | range):
        return np.array(index, dtype=None if len(index) else np.intp)
    return np.array(index) if isinstance(index, Tensor | np.ndarray) else index


def _add_to_leaf(leaf: Tensor, gradient: np.ndarray) -> None:
    # np.asarray: NumPy makes scalars of sums of arrays without axes.
    leaf.grad = gradient if leaf.grad is None else np.asarray(leaf.grad + gradient)


def _consumers(root: _Node) -> dict[_Node, int]:
    """For every node that `root` was computed from, by how many others of them it was used."""
    counts = {root: 0}
    waiting = [root]
    while waiting:
        for source in waiting.pop().sources:
            if isinstance(source, _Node):
                if source not in counts:
                    counts[source] = 0
                    waiting.append(source)
                counts[source] += 1
    return counts


def _walk_back(root: _Node, gradient: np.ndarray) -> None:
    """Visit every node once all that used its result have been visited. (Iterative: networks are
    deeper than Python's stack.)
    """
    unseen = _consumers(root)
    if any(node.function is None for node in unseen):
        raise RuntimeError(
            "backward: this part of the graph has been walked before and was released. "
            "Compute the result again, or sum the losses and call backward once."
        )
    gradients = {root: gradient}
    own: set[_Node] = set()  # whose gradient, so far, shares memory with nothing else
    ready = [root]
    while ready:
        node = ready.pop()
        fresh = node.function.fresh_gradients
        for source, part in _input_gradients(node, gradients.pop(node)):
            if isinstance(source, Tensor):
                _add_to_leaf(source, part)
                continue
            before = gradients.get(source)
            if before is not None:
                part = ops.add_gradients(before, part, source in own)
            gradients[source] = part
            if fresh or before is not None:
                own.add(source)
            unseen[source] -= 1
            if not unseen[source]:
                ready.append(source)


def _input_gradients(node: _Node, gy: np.ndarray) -> list:
    """Run backward of one node and release it; pairs of source and gradient."""
    parts = _call(node.function, node.function.backward, gy)
    if not isinstance(parts, tuple | list) or len(parts) != len(node.sources):
        came = len(parts) if isinstance(parts, tuple | list) else type(parts).__name__
        raise RuntimeError(
            f"{type(node.function).__name__}.backward must return a tuple of as many gradients as "
            f"forward has inputs, {len(node.sources)}, but returned {came}."
        )
    pairs = []
    for source, part in zip(node.sources, parts, strict=True):
        if source is None:
            continue
        if np.shape(part) != source.shape:
            raise RuntimeError(
                f"{type(node.function).__name__}.backward must return a gradient of shape "
                f"{source.shape}, but returned {'None' if part is None else np.shape(part)}."
            )
        part = np.asarray(part, dtype=source.dtype)
        # What a leaf keeps is the user's: it must share memory with nothing else.
        if isinstance(source, Tensor) and not node.function.fresh_gradients:
            part = part.copy()
        pairs.append((source, part))
    node.release()
    return pairs
