"""Files of torch.save, put together byte by byte as its documentation and its files show them.

Nothing here is PyTorch's or the reader's: instructions of pickles are written as their bytes.
"""

import io
import struct
import zipfile
from dataclasses import dataclass
from typing import Any

import numpy as np

STORAGE_OF = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
    "complex64": "ComplexFloatStorage",
    "complex128": "ComplexDoubleStorage",
}


@dataclass
class Raw:
    """Instructions to be written as they are."""

    code: bytes


@dataclass
class Named:
    """Something of a module."""

    module: str
    name: str


@dataclass
class Called:
    """A call of something of a module."""

    function: Any
    arguments: tuple


@dataclass
class Stored:
    """A persistent identity."""

    identity: Any


class Storage:
    """Numbers beside the pickle. `kind` and `count` are what is said of them."""

    def __init__(self, numbers, kind=None, count=None, key=None):
        self.numbers = np.ascontiguousarray(numbers).ravel()
        self.kind = kind or STORAGE_OF[self.numbers.dtype.name]
        self.count = self.numbers.size if count is None else count
        self.key = key


@dataclass
class Tensor:
    """A window on a storage."""

    storage: Storage
    offset: Any
    shape: Any
    strides: Any


def tensor(array):
    """An array as a tensor with a storage of its own."""
    array = np.ascontiguousarray(array).reshape(np.shape(array))
    strides = tuple(stride // array.itemsize for stride in array.strides)
    return Tensor(Storage(array), 0, array.shape, strides)


class Writer:
    """Pickles in protocol 2, and the storages met on the way."""

    def __init__(self, legacy=False):
        self.legacy, self.storages = legacy, []

    def pickle(self, value):
        return b"\x80\x02" + self.code(value) + b"."

    def code(self, value):
        if isinstance(value, Raw):
            return value.code
        if value is None or isinstance(value, bool):
            return {None: b"N", True: b"\x88", False: b"\x89"}[value]
        if isinstance(value, int):
            size = (value.bit_length() + 8) // 8
            return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)
        if isinstance(value, float):
            return b"G" + struct.pack(">d", value)
        if isinstance(value, str):
            text = value.encode()
            return b"X" + struct.pack("<I", len(text)) + text
        if isinstance(value, tuple):
            return b"(" + b"".join(map(self.code, value)) + b"t"
        if isinstance(value, list):
            return b"](" + b"".join(map(self.code, value)) + b"e"
        if isinstance(value, dict):
            items = (self.code(key) + self.code(item) for key, item in value.items())
            return b"}(" + b"".join(items) + b"u"
        if isinstance(value, Named):
            return b"c" + value.module.encode() + b"\n" + value.name.encode() + b"\n"
        if isinstance(value, Called):
            return self.code(value.function) + self.code(value.arguments) + b"R"
        if isinstance(value, Stored):
            return self.code(value.identity) + b"Q"
        if isinstance(value, Storage):
            return self.code(Stored(self.identity(value)))
        return self.code(rebuilt(value))

    def identity(self, storage):
        if storage not in self.storages:
            self.storages.append(storage)
            storage.key = storage.key or str(len(self.storages) - 1)
        kind = Named("torch", storage.kind)
        start = ("storage", kind, storage.key, "cpu", storage.count)
        return (*start, None) if self.legacy else start


def rebuilt(tensor):
    hooks = Called(Named("collections", "OrderedDict"), ())
    arguments = (tensor.storage, tensor.offset, tensor.shape, tensor.strides, False, hooks)
    return Called(Named("torch._utils", "_rebuild_tensor_v2"), arguments)


def archive(value, byte_order="little", compression=zipfile.ZIP_STORED, folder="archive"):
    """The bytes of a zip file with `value`."""
    writer, file = Writer(), io.BytesIO()
    pickle = writer.pickle(value)
    with zipfile.ZipFile(file, "w", compression) as made:
        made.writestr(f"{folder}/data.pkl", pickle)
        made.writestr(f"{folder}/byteorder", byte_order)
        for storage in writer.storages:
            numbers = storage.numbers
            numbers = numbers.astype(numbers.dtype.newbyteorder(byte_order))
            made.writestr(f"{folder}/data/{storage.key}", numbers.tobytes())
        made.writestr(f"{folder}/version", "3\n")
    return file.getvalue()


def legacy(value, little_endian=True):
    """The bytes of a file as PyTorch before 1.6 wrote it."""
    writer = Writer(legacy=True)
    magic = writer.pickle(0x1950A86A20F9469CFC6C)
    system = {"protocol_version": 1001, "little_endian": little_endian, "type_sizes": {"int": 4}}
    parts = [magic, writer.pickle(1001), writer.pickle(system), writer.pickle(value)]
    parts.append(writer.pickle([storage.key for storage in writer.storages]))
    for storage in writer.storages:
        parts += [struct.pack("<q", storage.numbers.size), storage.numbers.tobytes()]
    return b"".join(parts)
