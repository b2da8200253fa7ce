"""Networks of MatConvNet (SimpleNN): .mat files, such as imagenet-vgg-verydeep-19.mat.

Kernels are (height, width, in, out) there, which is our layout. That is how MatConvNet documents
them and how its importer of Caffe networks leaves them, "in a sane MATLAB format". The code of the
slides swaps height and width nevertheless; ``load(..., swap_axes=True)`` does as it does.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np


def read_matconvnet(path: Path) -> dict[str, np.ndarray]:
    """Weights and biases under ``NAME.weight`` and ``NAME.bias``, NAME that of the layer.

    Parameters
    ----------
    path : Path

    Raises
    ------
    ImportError
        Without SciPy.
    ValueError
        If the file is damaged, or something else than a network of layers in a row.
    """
    contents = _load(path, ["layers", "params", "net"])
    if "net" in contents and "layers" not in contents:
        contents = _fields(_first(contents["net"]))
    if "params" in contents:
        raise ValueError(f"read: {path} is a DagNN of MatConvNet. Only SimpleNN can be read.")
    if "layers" not in contents:
        raise ValueError(f"read: {path} is a .mat file, but has no layers of MatConvNet.")
    arrays: dict[str, np.ndarray] = {}
    for number, layer in enumerate(contents["layers"].ravel()):
        fields = _fields(_first(layer))
        name = _text(fields.get("name")) or f"layer{number}"
        kind, weights = _text(fields.get("type")) or "conv", _weights(fields)
        if weights and kind not in ("conv", "convt"):
            raise ValueError(f"read: {path}: {name} has weights of unknown kind, {kind}.")
        for part, value in zip(("weight", "bias"), weights, strict=False):
            if isinstance(value, np.ndarray) and value.size:
                arrays[f"{name}.{part}"] = _kernel(value) if part == "weight" else value.ravel()
    if not arrays:
        raise ValueError(f"read: {path} has layers, but none of them has weights.")
    return arrays


def average_image(path: str | os.PathLike) -> np.ndarray:
    """What a MatConvNet network wants subtracted from images, RGB from 0 to 255.

    Parameters
    ----------
    path : path-like
        A .mat file.

    Returns
    -------
    (H, W, 3) or (3,) ndarray
        Its mean over H and W, ``average_image(path).mean((0, 1))``, serves images of any size.

    Raises
    ------
    ImportError
        Without SciPy.
    ValueError
        If there is none.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"average_image: there is no file {path}.")
    contents = _load(path, ["meta", "normalization", "net"])
    for outer in ("net", "meta"):
        if outer in contents:
            contents = _fields(_first(contents[outer])) | contents
    normalization = _fields(_first(contents.get("normalization")))
    mean = normalization.get("averageImage")
    if not isinstance(mean, np.ndarray) or mean.size % 3 or not mean.size:
        raise ValueError(f"average_image: {path} has no average image of three channels.")
    mean = mean.astype(np.float64)
    return mean.ravel() if mean.size == 3 else mean


def _load(path: Path, names: list[str]) -> dict[str, Any]:
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise ImportError(
            f"read: {path.name} is a MATLAB file, and SciPy, which reads them, is not installed: "
            'pip install "minidl[mat]"'
        ) from error
    try:
        return loadmat(path, variable_names=names)
    except Exception as error:  # a damaged file makes SciPy raise whatever comes next
        raise ValueError(f"read: {path} is cut off or damaged ({error}).") from error


def _first(value: Any) -> Any:
    """What an array of one holds: MATLAB puts all it has into arrays, cells into cells."""
    while isinstance(value, np.ndarray) and value.dtype == object and value.size == 1:
        value = value.item()
    if isinstance(value, np.ndarray) and value.dtype.names and value.size == 1:
        value = value.ravel()[0]
    return value


def _fields(value: Any) -> dict[str, Any]:
    """The fields of a MATLAB structure."""
    names = getattr(getattr(value, "dtype", None), "names", None) or ()
    return {name: value[name] for name in names}


def _text(value: Any) -> str:
    value = _first(value)
    return str(value.ravel()[0]) if isinstance(value, np.ndarray) and value.size else ""


def _weights(fields: dict[str, Any]) -> list[Any]:
    """Filters and biases: in one cell since beta 9, fields of their own before."""
    if "weights" in fields:
        cell = fields["weights"]
        return [_first(part) for part in cell.ravel()] if cell.dtype == object else []
    return [_first(fields[name]) for name in ("filters", "biases") if name in fields]


def _kernel(value: np.ndarray) -> np.ndarray:
    """Filters with four axes: MATLAB leaves off the last ones if they are 1."""
    return value.reshape(value.shape + (1,) * (4 - value.ndim))
