"""Files of weights of all kinds, told apart by what is in them rather than by their names."""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minidl.pretrained.matconvnet import read_matconvnet
from minidl.pretrained.torch_file import map_file, read_torch, widened

SAFETENSORS_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
    "C64": "complex64",
}  # fmt: skip


@dataclass(frozen=True)
class Weights:
    """Arrays by name.

    `layout` is 'torch' (kernels (F, C, KH, KW), linear (out, in)) or 'minidl' (kernels (KH, KW, C,
    F), linear (in, out)), which is MatConvNet's as well.
    """

    arrays: dict[str, np.ndarray]
    layout: str


def read(path: str | os.PathLike, *, key: str | None = None) -> dict[str, np.ndarray]:
    """The arrays in a file of weights, under the names and in the layout they have there.

    Parameters
    ----------
    path : path-like
        A file of ``torch.save`` (.pth, .pt, .th, ...; the older format, too), .safetensors, .npz,
        or a MatConvNet network (.mat, SimpleNN), which needs SciPy. The suffix does not matter.
    key : str, optional
        In a file of ``torch.save`` that holds several state_dicts, the name of the one.
        Otherwise it is found: at the top, or under 'state_dict', 'model' and the like.

    Returns
    -------
    dict from str to ndarray
        Of torch and safetensors files, windows on the file, which cannot be written: nothing is
        read before it is used, and the file must not change meanwhile. bfloat16 becomes float32.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, is of another kind, or wants code to be executed. Nothing ever is.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "weights.npz"
    >>> np.savez(path, **{"fc.weight": np.zeros((10, 64))})
    >>> read(path)["fc.weight"].shape
    (10, 64)
    """
    return read_weights(path, key).arrays


def read_weights(path: str | os.PathLike, key: str | None = None) -> Weights:
    """What `read` gives, and its layout."""
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"read: {path} is a folder. Name the file in it.")
    if not path.exists():
        raise FileNotFoundError(f"read: there is no file {path}.")
    with open(path, "rb") as file:
        start = file.read(512)
    reader = _reader(path, start)
    if key is not None and reader is not read_torch:
        raise ValueError(f"read: {path} has no parts; key is for files of torch.save.")
    if reader is read_torch:
        return Weights(read_torch(path, key), "torch")
    return Weights(reader(path), "minidl" if reader is read_matconvnet else "torch")


def _reader(path: Path, start: bytes) -> Callable[..., dict[str, np.ndarray]]:
    """What reads a file that begins with `start`."""
    if start.startswith(b"PK\3\4"):
        return _read_npz if _is_npz(path) else read_torch
    if start.startswith(b"\x80"):
        return read_torch
    if start.startswith(b"MATLAB 5.0 MAT-file"):
        return read_matconvnet
    if start[8:9] == b"{":
        return _read_safetensors
    kind = "of no known kind"
    if start.startswith((b"\x89HDF", b"MATLAB 7.3")):
        kind = "HDF5. A .mat file can be saved anew in MATLAB, as save(..., '-v7')"
    elif start.startswith(b"\x93NUMPY"):
        kind = "a single array; numpy.load reads it"
    elif start[257:262] == b"ustar":
        kind = "a tar archive, as PyTorch wrote before 0.2. Save it anew with a later one"
    elif not start:
        kind = "empty"
    raise ValueError(
        f"read: {path} is {kind}. Readable are files of torch.save, .safetensors, .npz, and .mat "
        "of MatConvNet."
    )


def _is_npz(path: Path) -> bool:
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise ValueError(f"read: {path} is cut off or damaged ({error}).") from error
    return bool(names) and all(name.endswith(".npy") for name in names)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    import zipfile
    import zlib

    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"read: {path} is damaged, or holds Python objects, which are not read ({error})."
        ) from error


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:  # checks the header, and all sizes
            about = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"read: {path} is cut off or damaged ({error}).") from error
    if "minidl" in about:
        raise ValueError(
            f"read: {path} was written by minidl.save. Read it with minidl.load, and give the "
            "state_dict in it to load_state_dict."
        )
    contents = map_file(path)
    (length,) = struct.unpack_from("<Q", contents)
    header = json.loads(contents[8 : 8 + length])
    header.pop("__metadata__", None)
    return {name: _window(contents, 8 + length, name, tensor) for name, tensor in header.items()}


def _window(contents: Any, begin: int, name: str, tensor: dict[str, Any]) -> np.ndarray:
    """A tensor as a window on a file whose numbers begin at `begin`."""
    if (dtype := SAFETENSORS_DTYPES.get(tensor["dtype"])) is None:
        raise ValueError(
            f"read: {name} is of dtype {tensor['dtype']}, for which there is nothing here. Convert "
            "it to float32 where it comes from."
        )
    shape, (start, _) = tuple(tensor["shape"]), tensor["data_offsets"]
    bits = np.dtype("uint16" if dtype == "bfloat16" else dtype).newbyteorder("<")
    if not math.prod(shape):
        return widened(np.zeros(shape, bits), dtype)
    window: np.ndarray = np.ndarray(shape, bits, buffer=contents, offset=begin + start)
    return widened(window, dtype)
