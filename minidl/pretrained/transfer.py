"""From a file of weights into a model, all or nothing, and from a model to a file for PyTorch."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from minidl import nn
from minidl.nn.module import Mismatch
from minidl.pretrained import layout as axes
from minidl.pretrained.difference import Difference
from minidl.pretrained.files import Weights, read_weights
from minidl.pretrained.names import Scheme, schemes

COUNTER = "num_batches_tracked"  # which weights from before 2018 lack, and nobody needs
# What stands in front of all names if a model was wrapped when it was saved.
WRAPPERS = "module.", "_orig_mod.", "model.", "net.", "network."
Names = Mapping[str, str] | Callable[[str], str | None] | str | None


def load(
    model: nn.Module,
    path: str | os.PathLike,
    *,
    strict: bool = True,
    names: Names = None,
    skip: Sequence[str] = (),
    flattened: Mapping[str, tuple[int, ...]] | None = None,
    layout: str | None = None,
    swap_axes: bool = False,
    key: str | None = None,
) -> Mismatch:
    """Give a model the weights in a file from elsewhere, all of them or, after an error, none.

    Parameters
    ----------
    model : Module
        Its layers say how the axes of an array are to be moved. Parameters and buffers stay the
        objects they are, and keep their dtype.
    path : path-like
        What `read` reads. Known are torchvision's names of VGG, ResNet, DenseNet, GoogLeNet and
        AlexNet, also inside of other networks; Caffe's and MatConvNet's of VGG, FCN and SegNet;
        those of PyTorch's usual U-Net and SegNet; and the model's own. What wrappers such as
        DataParallel put in front of all names is taken off.
    strict : bool
        Whether it is an error if names are missing in the file, or unexpected. Otherwise they are
        passed over, as for a backbone whose network goes on differently.
    names : mapping, callable or 'order', optional
        For files with other names: from a name in the file to that in the model. A mapping may
        name layers or arrays, and what it does not name keeps its name; a callable may give None,
        to leave an array out. 'order' pairs layers in the order of the file with layers in the
        order they were made in: it is up to you that both are the same network, for only shapes
        are compared.
    skip : sequence of str
        Layers of the model that keep what they have, such as one for other classes.
    flattened : mapping from str to tuple of int, optional
        For linear layers behind a flatten, by path: height and width of the maps. PyTorch
        flattens (C, H, W), minidl (H, W, C). The networks in `minidl.models` need none.
    layout : 'torch' or 'minidl', optional
        Of the arrays in a .npz or .safetensors file: 'torch' unless said otherwise.
    swap_axes : bool
        Exchange height and width of MatConvNet's kernels, as the code of the slides does.
    key : str, optional
        As for `read`.

    Returns
    -------
    Mismatch
        Names of the model that were missing, and names in the file that were not used.

    Raises
    ------
    ValueError
        If the file cannot be read, see `read`, or does not fit: with all names that are missing,
        unexpected, or of another shape, before anything was changed.

    Examples
    --------
    >>> import tempfile
    >>> from minidl.models import CifarResNet
    >>> path = Path(tempfile.mkdtemp()) / "resnet20.safetensors"
    >>> save_for_torch(CifarResNet(20), path)
    >>> load(CifarResNet(20), path)
    Mismatch(missing_keys=[], unexpected_keys=[])
    """
    weights = _relaid(read_weights(path, key), layout, swap_axes)
    arrays = _unwrapped(weights.arrays, model)
    scheme, pairs, arrays = _paired(model, arrays, names)
    places = axes.slots(model, {**scheme.flattened, **(flattened or {})})
    places = {name: slot for name, slot in places.items() if not _inside(name, skip)}
    if weights.layout == "torch":
        _check_flattened(model, places)
    state, difference = _converted(places, pairs, arrays, scheme, weights.layout)
    _check(model, path, scheme, difference, pairs, strict)
    model.load_state_dict(state, strict=False)
    return Mismatch(difference.missing, difference.unexpected)


def _relaid(weights: Weights, layout: str | None, swap_axes: bool) -> Weights:
    """`weights` with the layout that the user says they have."""
    if layout not in (None, "torch", "minidl"):
        raise ValueError(f"load: layout must be 'torch' or 'minidl', but is {layout!r}.")
    layout = layout or weights.layout
    if swap_axes and layout != "minidl":
        raise ValueError("load: swap_axes is for kernels (H, W, C, F), such as MatConvNet's.")
    arrays = axes.swap_axes(weights.arrays) if swap_axes else weights.arrays
    return Weights(arrays, layout)


def _inside(name: str, layers: Sequence[str]) -> bool:
    if isinstance(layers, str):
        layers = (layers,)
    return any(name == layer or name.startswith(f"{layer}.") for layer in layers)


# ---- names ----------------------------------------------------------------------------------


def _unwrapped(arrays: dict[str, np.ndarray], model: nn.Module) -> dict[str, np.ndarray]:
    """`arrays` without what a wrapper put in front of all names."""
    own = tuple(name for name, _ in model.named_children())
    for wrapper in WRAPPERS * 2:
        if wrapper.rstrip(".") not in own and all(name.startswith(wrapper) for name in arrays):
            arrays = {name.removeprefix(wrapper): array for name, array in arrays.items()}
    return arrays


def _paired(
    model: nn.Module, arrays: dict[str, np.ndarray], names: Names
) -> tuple[Scheme, dict[str, str], dict[str, np.ndarray]]:
    """The scheme, the name in the file of each name of ours, and arrays under such names."""
    known = schemes(model)
    ours = list(axes.slots(model))
    if names is None:
        scheme = max(known, key=lambda scheme: _found(scheme, ours, arrays))
        arrays = {scheme.older(name): array for name, array in arrays.items()}
        return scheme, {name: scheme.there(name) for name in ours}, arrays
    scheme = known[-1]
    if isinstance(names, str):
        if names != "order":
            raise ValueError(f"load: names must be a mapping, callable or 'order', not {names!r}.")
        return scheme, _by_order(ours, list(arrays)), arrays
    renamed: dict[str, np.ndarray] = {}
    for there, array in arrays.items():
        if (name := _renamed(there, names)) is None:
            continue
        if name in renamed:
            raise ValueError(f"load: names gives two arrays of the file the name {name}.")
        renamed[name] = array
    return scheme, {name: name for name in ours}, renamed


def _found(scheme: Scheme, ours: list[str], arrays: dict[str, np.ndarray]) -> int:
    """How many names of ours a file has, if it comes from where the scheme says."""
    there = {scheme.older(name) for name in arrays}
    return sum(scheme.there(name) in there for name in ours)


def _renamed(name: str, names: Mapping[str, str] | Callable[[str], str | None]) -> str | None:
    if callable(names):
        return names(name)
    if name in names:
        return names[name]
    layer, dot, attribute = name.rpartition(".")
    return f"{names[layer]}{dot}{attribute}" if layer in names else name


def _by_order(ours: list[str], theirs: list[str]) -> dict[str, str]:
    """The first layer of ours with the first in the file, and so on."""
    own, other = _layers(ours), _layers(theirs)
    if len(own) != len(other):
        raise ValueError(
            f"load: the model has {len(own)} layers with weights, but the file has {len(other)}, "
            "so that they cannot be paired by order."
        )
    pairs = dict(zip(own, other, strict=True))
    parts = (name.rpartition(".") for name in ours)
    return {f"{layer}{dot}{part}": f"{pairs[layer]}{dot}{part}" for layer, dot, part in parts}


def _layers(names: list[str]) -> list[str]:
    return list(dict.fromkeys(name.rpartition(".")[0] for name in names))


# ---- conversion -----------------------------------------------------------------------------


def _check_flattened(model: nn.Module, places: dict[str, axes.Slot]) -> None:
    """Refuse to guess how a map was flattened."""
    for path, inputs, channels in axes.behind_flatten(model):
        slot = places.get(f"{path}.weight")
        if slot is not None and slot.flattened is None:
            raise ValueError(
                f"{path} has {inputs} inputs, {inputs // channels} for each of the {channels} "
                "channels in front of it, so that it seems to stand behind a flatten, where "
                "PyTorch has another order. Say how large the maps are, flattened="
                f"{{'{path}': (height, width)}}, or (1, 1) if there is no flatten."
            )


def _converted(
    places: dict[str, axes.Slot],
    pairs: dict[str, str],
    arrays: dict[str, np.ndarray],
    scheme: Scheme,
    layout: str,
) -> tuple[dict[str, np.ndarray], Difference]:
    """Arrays in our layout by our names, and what does not fit."""
    convert = axes.from_torch if layout == "torch" else axes.from_minidl
    state, difference, left = {}, Difference(), set(arrays)
    for name, slot in places.items():
        if (there := pairs[name]) not in arrays:
            if not name.endswith(COUNTER):
                difference.missing.append(name)
            continue
        left.discard(there)
        state[name] = array = convert(arrays[there], slot)
        if array.shape != slot.shape:
            difference.other_shapes.append(
                f"{there} {arrays[there].shape} becomes {array.shape}, but {name} is {slot.shape}"
            )
    left -= _take_off_biases(state, arrays, scheme)
    left -= {pairs[name] for name in pairs if name not in places}  # those to be skipped
    for name in arrays:
        if name in left and not name.endswith(COUNTER) and not _inside(name, scheme.unused):
            difference.unexpected.append(name)
    return state, difference


def _take_off_biases(
    state: dict[str, np.ndarray], arrays: dict[str, np.ndarray], scheme: Scheme
) -> set[str]:
    """Move biases in front of a batch normalisation, which ours has not, into its running mean.

    (conv(x) + bias) - mean is conv(x) - (mean - bias).
    """
    moved = set()
    for conv, norm in scheme.norms.items():
        bias, mean = scheme.there(f"{conv}.bias"), f"{norm}.running_mean"
        fits = bias in arrays and mean in state and arrays[bias].shape == state[mean].shape
        if fits and f"{conv}.bias" not in state:
            state[mean] = state[mean] - arrays[bias]
            moved.add(bias)
    return moved


def _check(
    model: nn.Module,
    path: str | os.PathLike,
    scheme: Scheme,
    difference: Difference,
    pairs: dict[str, str],
    strict: bool,
) -> None:
    shown = difference if strict else Difference(other_shapes=difference.other_shapes)
    if not (shown.missing or shown.unexpected or shown.other_shapes):
        return
    advice = "The file is of another network, or of one built with other arguments."
    if shown.other_shapes:
        advice += " skip=[...] leaves layers out that are meant to differ."
    if shown.missing or shown.unexpected:
        advice += " strict=False passes over missing and unexpected names; names=... translates."
    raise ValueError(
        f"load: {Path(path).name} does not fit {type(model).__name__} (tried: {scheme.origin}).\n"
        f"{shown.text(pairs)}\n{advice}"
    )


# ---- the way back ---------------------------------------------------------------------------


def save_for_torch(
    model: nn.Module,
    path: str | os.PathLike,
    *,
    flattened: Mapping[str, tuple[int, ...]] | None = None,
) -> None:
    """Write a model's state as .safetensors for PyTorch, in its layout.

    In PyTorch: ``network.load_state_dict(safetensors.torch.load_file(path))``.

    Parameters
    ----------
    model : Module
        Names are torchvision's, or those of the usual PyTorch or Caffe version, where `load`
        knows such; otherwise the model's own.
    path : path-like
        An existing file is replaced, in one step.
    flattened : mapping from str to tuple of int, optional
        As for `load`.
    """
    from safetensors.numpy import save as serialise

    scheme = _for_writing(model)
    places = axes.slots(model, {**scheme.flattened, **(flattened or {})})
    _check_flattened(model, places)
    state = {
        scheme.there(name): np.ascontiguousarray(axes.to_torch(array, places[name]))
        if array.ndim
        else array
        for name, array in model.state_dict().items()
    }
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"save_for_torch: there is no folder {path.parent}.")
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}.unfinished")
    try:
        unfinished.write_bytes(serialise(state, metadata={"format": "pt"}))
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _for_writing(model: nn.Module) -> Scheme:
    """The first scheme that has a name of its own for each layer of ours."""
    layers, known = set(_layers(list(axes.slots(model)))), schemes(model)
    for scheme in known:
        there = {scheme.layers[layer] for layer in layers & scheme.layers.keys()}
        if len(there) == len(layers):
            return scheme
    return known[-1]
