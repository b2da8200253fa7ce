"""Saving and loading: nested dicts and lists of arrays, in one file, without pickle.

A file is in the safetensors format: the arrays under readable names, and in its header, as JSON,
how they are nested, the other values, and a checksum of each array. Loading executes nothing.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

FORMAT, CHECKSUM = "minidl", "minidl.crc32"  # keys of our part of the header, the second once
UNFINISHED = ".unfinished"  # ends the name of a file that is being written
_FULL = (errno.ENOSPC, errno.EDQUOT)
DTYPES = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float16", "float32", "float64",
)  # fmt: skip


def save(path: str | os.PathLike, state: Any, about: Mapping[str, str] | None = None) -> None:
    """Write `state` to one file, whole or not at all.

    Parameters
    ----------
    path : path-like
        An existing file is replaced, in one step: at any moment, and after a power cut, there is
        either the old file or the new one.
    state : dict, list, tuple, ndarray, number, str, bool or None
        Nested as you like, such as ``{"model": model.state_dict(), "epoch": 3}``. Keys of dicts
        are strings or integers. NumPy's scalars are saved as Python numbers.
    about : mapping of str to str, optional
        Goes into the header as it is, for anyone to read with safetensors' own
        ``safe_open(path, "np").metadata()``, and for `read_about`. Names do not begin with
        ``minidl``.

    Raises
    ------
    TypeError
        For anything else in `state`, with the place where it is.
    FileNotFoundError
        If the folder does not exist.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "state"
    >>> save(path, {"weight": np.ones(2), "history": [0.5, None]})
    >>> load(path)
    {'weight': array([1., 1.]), 'history': [0.5, None]}
    """
    from safetensors.numpy import save as serialise

    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"save: there is no folder {path.parent} to write {path.name} to.")
    arrays: dict[str, np.ndarray] = {}
    header = json.dumps(_encode(state, "", arrays))
    about = dict(about or {})
    metadata = about | {FORMAT: header, CHECKSUM: _header_checksum(header, about)}
    with whole_file(path, "save") as file:
        file.write(_in_order(serialise(arrays, metadata=metadata)))


def _in_order(data: bytes) -> bytes:
    """The same file with the keys of its header in order: the library writes them in any."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


@contextlib.contextmanager
def whole_file(path: Path, function: str) -> Iterator[BinaryIO]:
    """Open a file that takes the name `path` when the block ends well, or else vanishes.

    At any moment, and after a power cut, there is either the old file or the new one.

    Parameters
    ----------
    path : Path
    function : str
        Named in the error.

    Raises
    ------
    OSError
        If the disk is full, with the name of the file; whatever else the system says.
    """
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}{UNFINISHED}")
    try:
        with open(unfinished, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except OSError as error:
        if error.errno in _FULL:
            raise _full(path, function, error.errno) from error
        raise
    finally:
        unfinished.unlink(missing_ok=True)
    if hasattr(os, "O_DIRECTORY"):
        _flush_folder(path.parent)


def _full(path: Path, function: str, number: int) -> OSError:
    """An error without a number in front of its words."""
    left = shutil.disk_usage(path.parent).free / 1e6
    before = "the file that was there is as it was" if path.exists() else "nothing was left there"
    error = OSError(
        f"{function}: no space left on the disk to write {path} ({left:.1f} MB are free); "
        f"{before}. Make room, or write to another disk."
    )
    error.errno = number
    return error


def _flush_folder(folder: Path) -> None:
    """Make the system write down the new name, which must survive a power cut as well."""
    handle = os.open(folder, os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def load(path: str | os.PathLike) -> Any:
    """Read what `save` wrote.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    The same nesting of the same values; arrays with their dtypes, writable.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is cut off, damaged, or was not written by `save`.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if path.is_dir():
        raise ValueError(f"load: {path} is a folder. Name the file in it.")
    if not path.exists():
        raise FileNotFoundError(f"load: there is no file {path}.")
    try:
        with safe_open(path, framework="np") as file:
            header, _ = _checked_header(file, path)
            return _decode(json.loads(header), file, path)
    except (SafetensorError, json.JSONDecodeError, KeyError) as error:
        raise _unreadable(path, error) from error


def read_about(path: str | os.PathLike) -> dict[str, str]:
    """What `save` was told about a file, without reading its arrays; errors are those of `load`."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            return _checked_header(file, Path(path))[1]
    except SafetensorError as error:
        raise _unreadable(Path(path), error) from error


def _checked_header(file: Any, path: Path) -> tuple[str, dict[str, str]]:
    """Our part of an open file's header, and the part for anyone."""
    about = file.metadata() or {}
    if FORMAT not in about:
        raise ValueError(
            f"load: {path} is a safetensors file, but not written by minidl.save. Read it "
            "with safetensors.numpy.load_file, and pass what it holds to load_state_dict."
        )
    header, checksum = about.pop(FORMAT), about.pop(CHECKSUM, None)
    if _header_checksum(header, about) != checksum:
        raise _damaged(path, "its header")
    return header, about


def _header_checksum(header: str, about: Mapping[str, str]) -> str:
    # Files without `about` have the checksum of the header alone, as there always was.
    text = header + "".join(f"{key}{about[key]}" for key in sorted(about))
    return str(zlib.crc32(text.encode()))


def _encode(value: Any, place: str, arrays: dict[str, np.ndarray]) -> Any:
    """`value` as JSON, in which an array is a name in `arrays`. `place` is where it was found."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str | int) or isinstance(key, bool):
                raise TypeError(f"save: key {key!r} in {place or 'the state'} is no string or int.")
        return {"dict": [[k, _encode(v, _join(place, k), arrays)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        items = [_encode(item, _join(place, i), arrays) for i, item in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    if not isinstance(value, np.ndarray) or value.dtype.name not in DTYPES:
        kind = f"dtype {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
        raise TypeError(
            f"save: {place or 'the state'} is of {kind}, which cannot be saved. Save plain arrays "
            "and numbers: state_dict() of a model or an optimiser, numpy() of a tensor."
        )
    name = place or "array"
    while name in arrays:
        name += "'"
    # asarray rather than ascontiguousarray, which makes a single number a vector.
    arrays[name] = np.asarray(value, dtype=value.dtype.newbyteorder("="), order="C")
    return {"array": name, "crc32": _checksum(arrays[name])}


def _join(place: str, key: Any) -> str:
    return f"{place}/{key}" if place else str(key)


def _checksum(array: np.ndarray) -> int:
    return zlib.crc32(array.reshape(-1).view(np.uint8).data)


def _decode(node: Any, file: Any, path: Path) -> Any:
    """The value that `_encode` made `node` of."""
    if isinstance(node, list):
        return [_decode(item, file, path) for item in node]
    if not isinstance(node, dict):
        return node
    if "dict" in node:
        return {key: _decode(value, file, path) for key, value in node["dict"]}
    if "tuple" in node:
        return tuple(_decode(item, file, path) for item in node["tuple"])
    array = file.get_tensor(node["array"])
    if _checksum(array) != node["crc32"]:
        raise _damaged(path, node["array"])
    return array if array.flags.writeable else array.copy()


def _unreadable(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"load: {path} is cut off, damaged, or not written by minidl.save ({error}). Take an "
        "earlier copy, or save it anew."
    )


def _damaged(path: Path, what: str) -> ValueError:
    return ValueError(
        f"load: {path} is damaged: {what} is not what was saved. Take an earlier copy, or save it "
        "anew."
    )
