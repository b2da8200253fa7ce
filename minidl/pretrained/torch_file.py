"""Files of ``torch.save``, without PyTorch: an archive (zip), or pickles in a row (before 1.6).

In both, a pickle describes the tensors, and their numbers lie elsewhere in the file. The file is
mapped into memory and arrays are windows on it, so that nothing is read before it is needed and
nothing twice. Each window is checked to lie in its storage, and each storage to be as long as the
pickle says.
"""

from __future__ import annotations

import io
import math
import mmap
import struct
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np

from minidl.pretrained import pickled
from minidl.pretrained.described import ADVICE, Storage, StoredTensor

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of the older format
# Names under which training scripts keep the weights beside an epoch and an optimiser.
NESTS = (
    "state_dict", "model_state_dict", "model_state", "model", "net_state_dict", "net", "network",
    "params", "weights",
)  # fmt: skip
COUNT = struct.Struct("<q")  # in front of each storage in the older format
LOCAL_HEADER = struct.Struct("<4s22xHH")  # in front of each file in a zip archive


def read_torch(path: Path, key: str | None = None) -> dict[str, np.ndarray]:
    """The tensors of a state_dict as arrays on the file, in PyTorch's layout.

    Parameters
    ----------
    path : Path
    key : str, optional
        Under which the state_dict stands, if there are several.

    Raises
    ------
    ValueError
        If the file is damaged, asks for code to be executed, or holds no state_dict.
    """
    file = map_file(path)
    try:
        container = _Archive(path, file) if file[:4] == b"PK\3\4" else _Row(file)
        return {
            name: container.array(tensor) for name, tensor in _select(container.root, key).items()
        }
    except ValueError as error:
        raise ValueError(f"read: {path}: {error}.") from error


def map_file(path: Path) -> mmap.mmap:
    """The bytes of a file, which can only be read."""
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


# ---- which of the tensors -------------------------------------------------------------------


def _select(root: Any, key: str | None) -> dict[str, StoredTensor]:
    """The dict of tensors in `root`, or in what stands in it under `key`."""
    if key is not None:
        if type(root) is not dict or key not in root:
            raise ValueError(f"it has no {key!r}, but {_contents(root)}")
        root = root[key]
    for _ in range(5):
        if (nest := _nest(root)) is None:
            return _tensors(root)
        root = root[nest]
    raise ValueError("its state_dict is nested too deep")


def _nest(root: Any) -> Any:
    """The key under which the state_dict stands in a dict, or None if it is the dict itself."""
    if type(root) is not dict:
        raise ValueError(f"it holds {_kind(root)}, where a dict of tensors was expected")
    dicts = [name for name, value in root.items() if type(value) is dict]
    # Before anything else: a best score may be a tensor, too.
    for name in NESTS:
        if name in dicts:
            return name
    if any(isinstance(value, StoredTensor) for value in root.values()):
        return None
    holders = [
        name
        for name in dicts
        if any(type(k) is str and isinstance(v, StoredTensor) for k, v in root[name].items())
    ]
    if len(holders) == 1:
        return holders[0]
    if not holders:
        raise ValueError(f"it holds no state_dict, but {_contents(root)}")
    raise ValueError(
        f"it holds several state_dicts, {', '.join(map(repr, holders))}. Say which: key=..."
    )


def _tensors(root: dict) -> dict[str, StoredTensor]:
    """The tensors directly in a dict; numbers, texts and lists beside them are passed over."""
    tensors = {name: value for name, value in root.items() if isinstance(value, StoredTensor)}
    if any(type(name) is not str for name in tensors):
        raise ValueError("its tensors have numbers for names, as those of an optimiser")
    return tensors


def _contents(root: Any) -> str:
    if type(root) is not dict:
        return _kind(root)
    shown = [f"{name!r} ({_kind(value)})" for name, value in list(root.items())[:20]]
    return ", ".join(shown) + (", ..." if len(root) > 20 else "") or "nothing at all"


def _kind(value: Any) -> str:
    """In words, without looking inside: what contains itself has no end."""
    if isinstance(value, StoredTensor):
        return "a single tensor"
    if type(value) in (dict, list, tuple):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"


# ---- containers -----------------------------------------------------------------------------


class _Container:
    """A mapped file, the value of its pickle, and where its storages are."""

    file: mmap.mmap
    root: Any
    byte_order: Literal["<", ">"] = "<"

    def place(self, storage: Storage) -> tuple[int, int]:
        """Where in the file a storage begins, and how many bytes it has."""
        raise NotImplementedError

    def array(self, tensor: StoredTensor) -> np.ndarray:
        """A tensor as a window on the file."""
        storage, dtype = tensor.storage, np.dtype(bits(tensor.dtype))
        if storage.dtype not in (tensor.dtype, None):
            raise ValueError(f"a tensor of {tensor.dtype} lies in a storage of {storage.dtype}")
        begin, length = self.place(storage)
        itemsize = np.dtype(bits(storage.dtype)).itemsize
        if length != storage.count * itemsize:
            raise ValueError(
                f"storage {storage.key} has {length} bytes, but is described as {storage.count} "
                f"numbers of {itemsize}"
            )
        check_window(tensor, storage.length * itemsize // dtype.itemsize)
        dtype = dtype.newbyteorder(self.byte_order)
        if 0 in tensor.shape:
            return widened(np.zeros(tensor.shape, dtype), tensor.dtype)
        window: np.ndarray = np.ndarray(
            tensor.shape,
            dtype,
            buffer=self.file,
            offset=begin + storage.start * itemsize + tensor.offset * dtype.itemsize,
            strides=[stride * dtype.itemsize for stride in tensor.strides],
        )
        return widened(window, tensor.dtype)


def bits(dtype: str | None) -> str:
    """What NumPy calls the numbers of a storage; those without a dtype are counted in bytes."""
    return {"bfloat16": "u2", None: "u1"}.get(dtype, dtype or "u1")


def check_window(tensor: StoredTensor, count: int) -> None:
    """Refuse a tensor that does not lie within the `count` numbers of its storage."""
    offset, shape, strides = tensor.offset, tensor.shape, tensor.strides
    numbers = offset, *shape, *strides
    if any(type(number) is not int or number < 0 for number in numbers):
        raise ValueError("the shape of a tensor is not made of natural numbers")
    if len(shape) != len(strides) or len(shape) > 32:
        raise ValueError("the shape and the strides of a tensor do not fit each other")
    if 0 in shape:
        return
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    # With a stride of 0, a file of a few bytes could describe more than memory holds.
    if last >= count or math.prod(shape) > count:
        raise ValueError(
            "a tensor reaches beyond its storage, or repeats it: the file is damaged, or meant to "
            "do damage"
        )


def widened(array: np.ndarray, dtype: str) -> np.ndarray:
    """`array`; if its 16 bits are the upper ones of float32, as float32."""
    if dtype != "bfloat16":
        return array
    return (array.astype(np.uint32) << np.uint32(16)).view(np.float32)


class _Archive(_Container):
    """A zip archive: data.pkl, and a file for each storage in the folder data."""

    def __init__(self, path: Path, file: mmap.mmap) -> None:
        import zipfile

        self.file = file
        try:
            with zipfile.ZipFile(path) as archive:
                self.entries = {entry.filename: entry for entry in archive.infolist()}
        except (zipfile.BadZipFile, NotImplementedError) as error:
            raise ValueError(f"it is cut off or damaged ({error})") from error
        pickles = [name for name in self.entries if f"/{name}".endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError("it is a zip archive, but not one of torch.save")
        self.folder = pickles[0].removesuffix("data.pkl")
        if f"{self.folder}constants.pkl" in self.entries:
            raise ValueError(
                "it is a TorchScript archive, which contains a program. " + ADVICE[:-1]
            )
        if f"{self.folder}byteorder" in self.entries:
            self.byte_order = ">" if self.bytes_of("byteorder") == b"big" else "<"
        self.root, _ = pickled.interpret(io.BytesIO(self.bytes_of("data.pkl")))
        self.places: dict[str, tuple[int, int]] = {}

    def bytes_of(self, name: str) -> bytes:
        start, length = self.find(name)
        return self.file[start : start + length]

    def find(self, name: str) -> tuple[int, int]:
        """Where in the file the contents of one of its files are, checked against their sum."""
        if (entry := self.entries.get(self.folder + name)) is None:
            raise ValueError(f"it has no {name}, which its tensors need")
        if entry.compress_type or entry.compress_size != entry.file_size or entry.flag_bits & 1:
            raise ValueError(f"its {name} is compressed, which torch.save does not do")
        begin, length = entry.header_offset, entry.file_size
        if not 0 <= begin <= len(self.file) - LOCAL_HEADER.size:
            raise ValueError(f"its {name} lies outside of the file")
        magic, *lengths = LOCAL_HEADER.unpack_from(self.file, begin)
        start = begin + LOCAL_HEADER.size + sum(lengths)
        if magic != b"PK\3\4" or start + length > len(self.file):
            raise ValueError(f"its {name} lies outside of the file")
        with memoryview(self.file) as view, view[start : start + length] as contents:
            # PyTorch can be told not to compute the sum, and writes 0.
            if entry.CRC and zlib.crc32(contents) != entry.CRC:
                raise ValueError(f"its {name} is damaged: the checksum differs")
        return start, length

    def place(self, storage: Storage) -> tuple[int, int]:
        if storage.key not in self.places:
            self.places[storage.key] = self.find(f"data/{storage.key}")
        return self.places[storage.key]


class _Row(_Container):
    """Four pickles in a row, the third of which has the tensors; then storages, each after its
    length.
    """

    def __init__(self, file: mmap.mmap) -> None:
        self.file = file
        pickles: Any = file  # reads as a file does
        magic, _ = pickled.interpret(pickles)
        if type(magic) is not int or magic != MAGIC:
            raise ValueError(
                "it is a pickle, but not one of torch.save. Executing it could do anything, so it "
                "is not read. Save the arrays with numpy.savez or as .safetensors"
            )
        (version, _), (system, _) = pickled.interpret(pickles), pickled.interpret(pickles)
        little = type(system) is dict and system.get("little_endian") is True
        if type(version) is not int or version != PROTOCOL or not little:
            raise ValueError("it was written on a big-endian machine. Save it anew with PyTorch")
        self.root, storages = pickled.interpret(pickles)
        keys, _ = pickled.interpret(pickles)
        self.places = self.find(keys, storages, file.tell())

    def find(self, keys: Any, storages: list[Storage], place: int) -> dict[str, tuple[int, int]]:
        """Where each storage begins, and how many bytes it has; the first is at `place`."""
        sizes: dict[str, tuple[int, int]] = {}
        for storage in storages:
            size = storage.count, np.dtype(bits(storage.dtype)).itemsize
            if sizes.setdefault(storage.key, size) != size:
                raise ValueError("it describes a storage in two ways")
        if type(keys) is not list or any(type(key) is not str for key in keys):
            raise ValueError("its list of storages is damaged")
        places = {}
        for key in keys:
            count, itemsize = sizes.get(key, (-1, 0))
            end = place + COUNT.size
            if end > len(self.file) or COUNT.unpack_from(self.file, place) != (count,):
                raise ValueError("a storage is cut off, or not as long as it is described")
            places[key] = end, count * itemsize
            place = end + count * itemsize
        if place > len(self.file):
            raise ValueError("it is cut off")
        return places

    def place(self, storage: Storage) -> tuple[int, int]:
        if storage.key not in self.places:
            raise ValueError("a tensor lies in a storage that is missing")
        return self.places[storage.key]
