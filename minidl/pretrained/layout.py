"""Where the axes of a parameter lie: in PyTorch channels come first, in minidl last.

=============================== =================== ===================
layer                           PyTorch             minidl
=============================== =================== ===================
convolution                     (F, C / g, *K)      (*K, C / g, F)
transposed convolution          (C, F / g, *K)      (*K, F / g, C)
linear                          (out, in)           (in, out)
linear, behind a flatten        (out, C * H * W)    (H * W * C, out)
all others, and biases          the same            the same
=============================== =================== ===================

What a parameter is, the module says that owns it, never its shape. A linear layer whose counterpart
is a convolution as large as the map in front of it, or the other way round, as in networks made
fully convolutional, has the same numbers; they are reshaped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from minidl import nn

CONVOLUTIONS = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip


@dataclass(frozen=True)
class Slot:
    """Where an array of a model belongs.

    Attributes
    ----------
    shape : tuple of int
        In our layout.
    kind : 'conv', 'linear' or 'plain'
        Transposed convolutions exchange the same axes as others.
    flattened : (int, int) or None
        Of a linear layer, height and width of the maps that were flattened in front of it.
    """

    shape: tuple[int, ...]
    kind: str = "plain"
    flattened: tuple[int, ...] | None = None


def slots(
    model: nn.Module, flattened: Mapping[str, tuple[int, ...]] | None = None
) -> dict[str, Slot]:
    """Where each parameter and buffer of `model` belongs, by name, in the order of state_dict.

    Parameters
    ----------
    model : Module
    flattened : mapping from str to tuple of int
        From the path of a linear layer behind a flatten to the extents of the maps.

    Raises
    ------
    ValueError
        If a layer in `flattened` does not exist, is not linear, or has too few inputs for that.
    """
    flattened = dict(flattened or {})
    layers, found = dict(model.named_modules()), {}
    for path, extents in flattened.items():
        layer = layers.get(path)
        if not isinstance(layer, nn.Linear) or layer.in_features % math.prod(extents):
            raise ValueError(
                f"flattened: {path!r} must be a linear layer of {type(model).__name__} whose "
                f"inputs are maps of {' x '.join(map(str, extents))}."
            )
    arrays = dict(model.named_parameters()) | dict(model.named_buffers())
    for name, array in arrays.items():
        path, _, attribute = name.rpartition(".")
        kind = "plain"
        if attribute == "weight" and isinstance(layers[path], CONVOLUTIONS):
            kind = "conv"
        elif attribute == "weight" and isinstance(layers[path], nn.Linear):
            kind = "linear"
        found[name] = Slot(array.shape, kind, flattened.get(path) if kind == "linear" else None)
    return found


def behind_flatten(model: nn.Module) -> Iterator[tuple[str, int, int]]:
    """Linear layers that must stand behind a flatten: path, inputs, and channels before.

    They have several inputs for each channel of the convolution made before them.
    """
    channels = 0
    for path, layer in model.named_modules():
        if isinstance(layer, CONVOLUTIONS):
            channels = layer.out_channels
        elif isinstance(layer, nn.Linear):
            if channels and layer.in_features != channels and layer.in_features % channels == 0:
                yield path, layer.in_features, channels
            channels = 0


def from_torch(array: np.ndarray, slot: Slot) -> np.ndarray:
    """An array in PyTorch's layout in ours; without a copy unless a flatten asks for one.

    What does not fit the slot comes out in some other shape, and is not lost.
    """
    if slot.kind == "conv":
        *extents, channels, count = slot.shape
        if array.ndim == 2 and array.shape == (count, channels * math.prod(extents)):
            array = array.reshape(count, channels, *extents)
        return np.moveaxis(array, (0, 1), (-1, -2)) if array.ndim > 1 else array
    if slot.kind == "linear":
        if array.ndim == 2 and slot.flattened and not array.shape[1] % math.prod(slot.flattened):
            array = array.reshape(len(array), -1, *slot.flattened)
        array = np.moveaxis(array, (0, 1), (-1, -2)) if array.ndim > 1 else array
        return as_linear(array)
    return array


def as_linear(array: np.ndarray) -> np.ndarray:
    """A kernel (*K, C, F) as the weight (K * C, F) of a linear layer."""
    return array.reshape(-1, array.shape[-1]) if array.ndim > 2 else array


def from_minidl(array: np.ndarray, slot: Slot) -> np.ndarray:
    """An array in our layout, of a linear layer if need be though it was a convolution's."""
    if slot.kind == "linear":
        return as_linear(array)
    if slot.kind == "conv" and array.ndim == 2 and len(slot.shape) > 2:
        whole = (math.prod(slot.shape[:-1]), slot.shape[-1])
        return array.reshape(slot.shape) if array.shape == whole else array
    return array


def to_torch(array: np.ndarray, slot: Slot) -> np.ndarray:
    """An array of ours in PyTorch's layout."""
    if slot.kind == "conv":
        return np.moveaxis(array, (-1, -2), (0, 1))
    if slot.kind == "linear" and slot.flattened:
        maps = array.reshape(*slot.flattened, -1, array.shape[-1])
        return np.moveaxis(maps, (-1, -2), (0, 1)).reshape(array.shape[-1], -1)
    return array.T if slot.kind == "linear" else array


def swap_axes(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Kernels (KH, KW, C, F) with height and width exchanged."""
    return {
        name: array.swapaxes(0, 1) if array.ndim == 4 else array for name, array in arrays.items()
    }
