"""What a pickle of tensors speaks of: names, storages, tensors, and the few calls that make them.

A name is text and nothing else, and calls are calls of the functions below. They describe; where
the numbers are, and whether they are there, is not known here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# Types of storages and dtypes of PyTorch by their names there, as NumPy calls them.
DTYPES = {
    "float64": "f8", "float32": "f4", "float16": "f2", "bfloat16": "bfloat16",
    "int64": "i8", "int32": "i4", "int16": "i2", "int8": "i1",
    "uint64": "u8", "uint32": "u4", "uint16": "u2", "uint8": "u1",
    "bool": "?", "complex64": "c8", "complex128": "c16",
}  # fmt: skip
STORAGES = {
    "Double": "f8", "Float": "f4", "Half": "f2", "BFloat16": "bfloat16",
    "Long": "i8", "Int": "i4", "Short": "i2", "Char": "i1", "Byte": "u1", "Bool": "?",
    "ComplexFloat": "c8", "ComplexDouble": "c16",
}  # fmt: skip
UNTYPED = "torch.storage.UntypedStorage"
ADVICE = (
    "In PyTorch, where the file comes from and is trusted, save only the tensors: "
    "torch.save(model.state_dict(), ...)."
)


class Refusal(ValueError):
    """A pickle asks for what is no tensor."""


@dataclass(frozen=True, slots=True)
class Name:
    """What a pickle wants to be imported. It is not: this is all there is of it."""

    full: str


class Unused:
    """Something harmless that is no tensor, such as a NumPy scalar; nothing of it is kept."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Storage:
    """A row of numbers that lies elsewhere in the file, `count` of them, under the name `key`.

    `dtype` is None for bytes whose meaning the tensor knows. A tensor may see only `length` of
    the numbers, from `start` on.
    """

    key: str
    dtype: str | None
    count: int
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor as the file describes it; offset and strides count numbers. Nothing is checked."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def fill(target: Any, items: list[Any]) -> None:
    """Set items of a dict: keys and values by turns."""
    if type(target) is not dict or len(items) % 2:
        raise Refusal("it sets items of what is no dict")
    for key, value in zip(items[::2], items[1::2], strict=True):
        # Others could take forever to be hashed, such as tuples of tuples of tuples.
        if not (key is None or type(key) in (str, int, float, bool, bytes)):
            raise Refusal("a key of a dict is neither text nor number")
        target[key] = value


def named(module: Any, attribute: Any) -> Name:
    """The name of something known; it stays a name."""
    if type(module) is not str or type(attribute) is not str:
        raise Refusal("it names something by what is no text")
    full = f"{module}.{attribute}"
    if not (full in _CALLS or full in INERT or dtype_of(full) or full == UNTYPED):
        raise _unknown(full)
    return Name(full)


def _unknown(full: str) -> Refusal:
    full = full[:100]
    kinds = {"sparse": "a sparse tensor", "_rebuild_qtensor": "a quantised tensor"}
    kinds |= {"QInt": "a quantised tensor", "QUInt": "a quantised tensor"}
    kinds |= {"torch.float8": "a tensor of 8-bit floats", "_rebuild_meta": "a tensor without data"}
    for part, kind in kinds.items():
        if part in full and full.startswith("torch."):
            return Refusal(
                f"it contains {kind} ({full}), for which there is nothing here. In PyTorch, make "
                "it a dense tensor of floats first: to_dense(), dequantize(), float()"
            )
    if full.startswith(("torch.nn.modules.", "torchvision.models.")):
        return Refusal(
            f"it contains a whole model (its class {full}), which only that code could rebuild. "
            + ADVICE
        )
    return Refusal(
        f"it asks for {full} to be imported, which no tensor needs. Nothing of it was executed. "
        "Either whoever wrote the file wants code of theirs to run here, or it holds more than "
        "weights, such as a whole model or settings. " + ADVICE
    )


def dtype_of(full: str) -> str | None:
    """NumPy's name of a type of storage or dtype, such as ``torch.cuda.FloatStorage``."""
    package, _, name = full.rpartition(".")
    if package in ("torch", "torch.cuda") and name.endswith("Storage"):
        return STORAGES.get(name.removesuffix("Storage"))
    return DTYPES.get(name) if package == "torch" else None


def stored(identity: Any) -> Storage:
    """The storage that a persistent identity speaks of.

    It is ('storage', type, key, device, count), and in the older format, a view of the storage,
    (key of the view, start, length), or None.
    """
    if type(identity) is tuple and identity[:1] == ("module",):
        raise Refusal("it contains a whole model, which only its code could rebuild. " + ADVICE)
    if type(identity) is not tuple or len(identity) not in (5, 6) or identity[0] != "storage":
        raise Refusal("it refers to something outside that is no storage")
    _, kind, key, _, count = identity[:5]
    view = identity[5] if len(identity) == 6 else None
    if type(view) is tuple and len(view) == 3:
        _, start, length = view
    else:
        start, length = 0, count
    if not isinstance(kind, Name) or type(key) is not str or not _natural(count, start, length):
        raise Refusal("it describes a storage wrongly")
    if start + length > count:
        raise Refusal("it describes a view that reaches beyond its storage")
    return Storage(key, dtype_of(kind.full), count, start, length)


def _natural(*values: Any) -> bool:
    return all(type(value) is int and value >= 0 for value in values)


# ---- what may be called ---------------------------------------------------------------------


def call(function: Any, arguments: Any) -> Any:
    """What the file means by calling `function`."""
    if not isinstance(function, Name) or type(arguments) is not tuple:
        raise Refusal("it calls what is no function")
    if function.full in INERT:
        return Unused()
    if function.full not in _CALLS:
        raise Refusal(f"it calls {function.full}")
    return _CALLS[function.full](*arguments)


def _mapping(items: Any = None) -> dict:
    """The dict of `items`, which is used up: no file makes much out of little by many copies."""
    if items is None:
        return {}
    if type(items) is list:  # pairs, as Python 2 has it
        made: dict[Any, Any] = {}
        fill(made, [part for pair in items for part in _pair(pair)])
        items.clear()
        return made
    if type(items) is not dict:
        raise Refusal("it makes a dict of what is none")
    return items


def _pair(pair: Any) -> Any:
    if type(pair) not in (list, tuple) or len(pair) != 2:
        raise Refusal("it makes a dict of what are no pairs")
    return pair


def _tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, *others: Any, dtype: str | None = None
) -> StoredTensor:
    if not isinstance(storage, Storage):
        raise Refusal("it makes a tensor of what is no storage")
    dtype = dtype or storage.dtype
    if type(shape) is not tuple or type(strides) is not tuple or dtype is None:
        raise Refusal("it describes a tensor wrongly")
    return StoredTensor(storage, dtype, offset, shape, strides)


def _tensor_with_dtype(
    storage: Any, offset: Any, shape: Any, strides: Any, grad: Any, hooks: Any, dtype: Any,
    *others: Any,
) -> StoredTensor:  # fmt: skip
    if not isinstance(dtype, Name):
        raise Refusal("it describes a tensor wrongly")
    return _tensor(storage, offset, shape, strides, dtype=dtype_of(dtype.full))


def _parameter(tensor: Any, *others: Any) -> StoredTensor:
    if not isinstance(tensor, StoredTensor):
        raise Refusal("it makes a parameter of what is no tensor")
    return tensor


def _tensor_with_attributes(function: Any, kind: Any, arguments: Any, *others: Any) -> Any:
    if function == Name("torch._tensor._rebuild_from_type_v2"):
        raise Refusal("it makes a tensor of a tensor of a tensor")
    return _parameter(call(function, arguments))


def _size(numbers: Any = ()) -> tuple:
    if type(numbers) is not tuple:
        raise Refusal("it describes a shape wrongly")
    return numbers


_CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _mapping,
    "collections.Counter": _mapping,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_with_dtype,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _tensor_with_attributes,
    "torch.Size": _size,
}
# What often stands beside weights and does no harm, for nothing is made of it.
INERT = {
    "torch.Tensor", "torch.nn.parameter.Parameter", "torch.device",
    "argparse.Namespace", "builtins.set", "__builtin__.set",
    "numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar",
    "_codecs.encode",
}  # fmt: skip
