"""Looking into a network while it works on a batch, and leaving it as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minidl import nn, random
from minidl.function import Function
from minidl.listen import NO_LAYER, Listener, listening
from minidl.nn.module import Module
from minidl.tensor import Tensor, no_grad

CONVOLUTIONS = ("Conv", "ConvTranspose", "Linear")  # names of functions
DROPOUTS = ("Dropout", "ChannelDropout")


@dataclass(frozen=True)
class Layer:
    """What a layer made of a batch.

    Attributes
    ----------
    path : str
        Of the layer in the model.
    relu : bool
        Whether it ends in a ReLU.
    rms : float
        Root of the mean square of its results.
    dead : ndarray of shape (channels,), bool
        Which of its channels are 0 everywhere, or below.
    """

    path: str
    relu: bool
    rms: float
    dead: np.ndarray


@dataclass
class Look:
    """What a network made of a batch.

    Attributes
    ----------
    images, scores : ndarray
    layers : list of Layer
        Those with weights and those that are a ReLU, in the order in which they ran.
    convolutions : int
        How many ran, linear layers included.
    drops : list of (float, int)
        For each dropout that ran, its probability, and the channels of what it dropped.
    """

    images: np.ndarray
    scores: np.ndarray
    layers: list[Layer] = field(default_factory=list)
    convolutions: int = 0
    drops: list[tuple[float, int]] = field(default_factory=list)


class _Observer(Listener):
    def __init__(self, model: Module) -> None:
        super().__init__(model)
        self.layers: list[Layer] = []
        self.convolutions, self.drops = 0, list[tuple[float, int]]()

    def on_module(self, module: Module, forward: Callable, /, *args: Any, **kwargs: Any) -> Any:
        result = super().on_module(module, forward, *args, **kwargs)
        if not self.is_elsewhere and isinstance(result, Tensor) and is_layer(module):
            self.layers.append(_layer(self.paths.get(id(module), NO_LAYER), module, result))
        return result

    def on_operation(self, function: Function, method: Callable, *arrays: Any) -> Any:
        if not self.is_elsewhere:
            name = type(function).__name__
            self.convolutions += name in CONVOLUTIONS
            if name in DROPOUTS:
                self.drops.append((function.p, arrays[0].shape[-1]))  # type: ignore[attr-defined]
        return method(*arrays)


def is_layer(module: Module) -> bool:
    """Whether it has weights of its own, or is a ReLU."""
    return ends_in_relu(module) or isinstance(getattr(module, "weight", None), nn.Parameter)


def ends_in_relu(module: Module) -> bool:
    """Whether what it returns is cut off below 0."""
    return isinstance(module, nn.ReLU) or getattr(module, "activation", None) == "relu"


def _layer(path: str, module: Module, result: Tensor) -> Layer:
    values = result._storage.array
    flat = values.reshape(-1, values.shape[-1])
    few = flat[:: max(len(flat) // 4096, 1)]
    rms = float(np.sqrt(np.mean(np.square(few, dtype=np.float64))))
    return Layer(path, ends_in_relu(module), rms, flat.max(axis=0) <= 0)


def look(model: Module, images: np.ndarray) -> Look:
    """Apply a network as in training, dropout and all, and leave no trace of it.

    Parameters
    ----------
    model : nn.Module
    images : ndarray of shape (N, H, W, C), float32

    Returns
    -------
    Look
    """
    observer = _Observer(model)
    with undisturbed(model), listening(observer, "look", "look, trace or profile"), no_grad():
        scores = np.asarray(model(Tensor(images)))
    return Look(images, scores, observer.layers, observer.convolutions, observer.drops)


@contextlib.contextmanager
def undisturbed(model: Module) -> Iterator[None]:
    """Put running statistics and the random numbers back to where they were."""
    state = random.generator().bit_generator.state
    buffers = [
        (part, name, getattr(part, name), np.copy(getattr(part, name)))
        for part in model.modules()
        for name in part._buffers
    ]
    try:
        yield
    finally:
        random.generator().bit_generator.state = state
        for part, name, array, content in buffers:
            array[...] = content
            setattr(part, name, array)


# ---- where numbers stop being numbers --------------------------------------------------------


@dataclass(frozen=True)
class NonFinite:
    """The first place where something is infinite or NaN.

    Attributes
    ----------
    where : 'images', 'weights', 'forward', 'loss', 'backward'
    path : str
        Of the layer, or the name of the parameter.
    words : str
        Which statistic, with the numbers on the way in.
    """

    where: str
    path: str
    words: str


class _Sentinel(Listener):
    """Finds the first operation that makes something that is not finite of what is."""

    def __init__(self, model: Module) -> None:
        super().__init__(model)
        self.found: NonFinite | None = None
        self.layers: dict[int, tuple[Function, str]] = {}  # holding functions keeps their ids

    def on_operation(self, function: Function, method: Callable, *arrays: Any) -> Any:
        if self.is_elsewhere:
            return method(*arrays)
        forward = method.__name__ == "forward"
        if forward:
            self.layers[id(function)] = function, self.layer
        given = max(map(largest, arrays), default=0.0)
        result = method(*arrays)
        if self.found is None:
            made = [array for array in _arrays(result) if not np.isfinite(array).all()]
            if made:
                _, layer = self.layers.get(id(function), (function, NO_LAYER))
                self.found = _place(forward, layer, type(function).__name__, made[0], given)
        return result


def _place(forward: bool, layer: str, name: str, made: np.ndarray, given: float) -> NonFinite:
    wrong = np.count_nonzero(~np.isfinite(made)) / made.size
    kind = "NaN" if np.isnan(made).any() else "infinite"
    what = "results" if forward else "gradients"
    words = (
        f"{wrong:.1%} of the {what} of {name} are {kind}, where what goes in is at most {given:.3g}"
    )
    if layer == NO_LAYER and forward:
        return NonFinite("loss", "the loss", words)
    return NonFinite("forward" if forward else "backward", layer, words)


def _arrays(result: Any) -> list[np.ndarray]:
    results = result if isinstance(result, tuple | list) else (result,)
    arrays = [np.asarray(each) for each in results if isinstance(each, np.ndarray | np.generic)]
    return [array for array in arrays if array.dtype.kind == "f"]


def largest(array: Any) -> float:
    """The largest absolute value; NaN if there is one."""
    array = np.asarray(array)
    return float(np.abs(array).max()) if array.size and array.dtype.kind in "iuf" else 0.0


def find_non_finite(
    model: Module, images: np.ndarray, loss: Callable[[Tensor], Tensor] | None = None
) -> NonFinite | None:
    """The first place where a network makes something infinite or NaN of a batch.

    Parameters
    ----------
    model : nn.Module
        Computed as in training; nothing about it is changed, its gradients apart.
    images : ndarray of shape (N, H, W, C), float32
    loss : callable, optional
        From scores to a number; if given, it and the way back are looked at as well.

    Returns
    -------
    NonFinite or None
        None if all is finite.
    """
    if not np.isfinite(images).all():
        count = np.count_nonzero(~np.isfinite(images))
        return NonFinite("images", "the images", f"{count} values of the batch are not finite")
    for name, parameter in model.named_parameters():
        if not np.isfinite(parameter.numpy()).all():
            wrong = np.count_nonzero(~np.isfinite(parameter.numpy())) / parameter.size
            return NonFinite("weights", name, f"{wrong:.1%} of its values are infinite or NaN")
    sentinel = _Sentinel(model)
    what = "look, trace or profile"
    with (
        undisturbed(model),
        listening(sentinel, "find_non_finite", what),
        np.errstate(all="ignore"),
    ):
        scores = model(Tensor(images))
        if loss is not None:
            value = loss(scores)
            if sentinel.found is None:
                value.backward()
    return sentinel.found
