"""What the layers of our networks are called elsewhere.

A `Scheme` says so for one model and one place elsewhere. It is written down by layers, because
what belongs to a layer (weight, bias, running_mean, ...) has the same name everywhere; a layer that
a scheme does not speak of has its own name. Schemes are made from the model itself, so that they
hold for every depth.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from minidl import nn

Stage = list[tuple[str, nn.Module]]  # paths and layers


@dataclass(frozen=True)
class Scheme:
    """Names of a model's layers in files of one origin.

    Attributes
    ----------
    origin : str
        Where they are called so.
    layers : dict from str to str
        From the path of a layer to its name there.
    flattened : dict from str to tuple of int
        Linear layers of ours behind a flatten, with the extents of the maps.
    unused : tuple of str
        Beginnings of names that such files may have besides, for which the model has no place.
    older : callable
        From a name as an older version wrote it to the present one.
    norms : dict from str to str
        From convolutions without bias to the batch normalisation behind them. A file that has a
        bias nevertheless means that the running mean lies so much lower.
    """

    origin: str
    layers: dict[str, str] = field(default_factory=dict)
    flattened: dict[str, tuple[int, ...]] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    older: Callable[[str], str] = str
    norms: dict[str, str] = field(default_factory=dict)

    def there(self, name: str) -> str:
        """The name there of a parameter or buffer of ours."""
        layer, dot, attribute = name.rpartition(".")
        return f"{self.layers.get(layer, layer)}{dot}{attribute}"


def schemes(model: nn.Module) -> list[Scheme]:
    """All schemes for a model, the one for writing first, its own names last."""
    from minidl import models

    found: list[Scheme] = []
    for kind, make in (
        ("UNet", _unet),
        ("SegNet", _segnet),
        ("DenseNet", _densenet),
        ("GoogLeNet", _googlenet),
        ("AlexNet", _alexnet),
    ):
        if (network := getattr(models, kind, None)) is not None and isinstance(model, network):
            found += make(model)
    found += _resnet(model)
    found += _vgg(model)
    return [*found, Scheme("its own names", flattened=_flattened(model))]


def _flattened(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Extents of the maps that are flattened in front of linear layers, where a pool says so."""
    known: dict[str, tuple[int, ...]] = {}
    for path, layer in model.named_modules():
        for pool_name, head_name in (
            ("avgpool", "classifier"), ("avgpool", "fc"), ("avgpool", "linear"), ("pool", "fc1"),
        ):  # fmt: skip
            head = _first_linear(layer, head_name)
            size = _bins(getattr(layer, pool_name, None))
            if head is not None and size is not None:
                known[_join(path, head)] = size
    return known


def _bins(pool: object) -> tuple[int, ...] | None:
    """What an adaptive pooling leaves of a map, also as the last layer of several."""
    if isinstance(pool, nn.Sequential) and len(pool):
        pool = pool[-1]
    if not isinstance(pool, nn.AdaptiveAvgPool2d):
        return None
    size = pool.output_size
    return (size, size) if isinstance(size, int) else tuple(size)


def _first_linear(model: nn.Module, name: str) -> str | None:
    head = getattr(model, name, None)
    if isinstance(head, nn.Linear):
        return name
    if isinstance(head, nn.Sequential):
        return next((f"{name}.{i}" for i, x in enumerate(head) if isinstance(x, nn.Linear)), None)
    return None


def _join(*parts: str) -> str:
    return ".".join(part for part in parts if part)


# ---- ResNet ---------------------------------------------------------------------------------


def _resnet(model: nn.Module) -> Iterator[Scheme]:
    """Names of torchvision for every ResNet in a model, and the usual ones of CIFAR's."""
    from minidl.models import CifarResNet, ResNetBackbone

    layers: dict[str, str] = {}
    for path, part in model.named_modules():
        if isinstance(part, ResNetBackbone):
            inside = (name for name, _ in part.named_modules() if name)
            layers |= {_join(path, name): name for name in inside}
    if layers:
        yield Scheme("torchvision's ResNet", {"fc": "fc"} | layers, _flattened(model))
    if isinstance(model, CifarResNet):
        names = [name for name, _ in model.named_modules()]
        yield Scheme(
            "ResNets for CIFAR",
            {name: name.replace("downsample", "shortcut") for name in names},
            _flattened(model),
        )


# ---- VGG, and networks that have one inside -------------------------------------------------


def _stages(model: nn.Module) -> Iterator[tuple[str, list[Stage]]]:
    """Paths to modules that have VGG's stages, and their convolutions and normalisations."""
    for path, part in model.named_modules():
        for attribute in ("stages", "encoder"):
            stages = getattr(part, attribute, None)
            if isinstance(stages, nn.ModuleList):
                layers: list[Stage] = [
                    [
                        (_join(path, attribute, str(i), name), layer)
                        for name, layer in stage.named_children()
                        if isinstance(layer, nn.Conv2d | nn.BatchNorm2d)
                    ]
                    for i, stage in enumerate(stages)
                ]
                if len(layers) == 5 and all(map(_is_stage, layers)):
                    yield path, layers


def _is_stage(layers: Stage) -> bool:
    convs = [layer for _, layer in layers if isinstance(layer, nn.Conv2d)]
    return bool(convs) and all(conv.kernel_size == (3, 3) for conv in convs)


def _vgg(model: nn.Module) -> Iterator[Scheme]:
    """Names of torchvision and Caffe for every VGG in a model."""
    numbered: dict[str, str] = {}
    caffe: dict[str, str] = {}
    for path, stages in _stages(model):
        numbered |= _numbered(stages)
        caffe |= _by_stage(stages, "conv{}_{}", "conv{}_{}_bn")
        # fc6 as a convolution of another size is one of DeepLab's, which has fewer numbers.
        if isinstance(six := _child(model, _join(path, "fc6")), nn.Conv2d):
            if six.kernel_size == (7, 7):
                numbered |= {_join(path, "fc6"): "classifier.0", _join(path, "fc7"): "classifier.3"}
            others = (name for name, _ in dict(model.named_modules())[path].named_children())
            caffe |= {_join(path, name): name for name in others if name != "stages"}
        if isinstance(_child(model, _join(path, "classifier")), nn.Sequential):
            caffe |= {
                _join(path, "classifier", number): name
                for number, name in (("0", "fc6"), ("3", "fc7"), ("6", "fc8"))
            }
            numbered |= {
                _join(path, "classifier", number): f"classifier.{number}" for number in "036"
            }
    if numbered:
        flattened = _flattened(model)
        made = [
            Scheme("torchvision's VGG", numbered, flattened),
            Scheme("Caffe's VGG", caffe, flattened),
        ]
        # Networks made of a VGG had their names from Caffe first; a classifier, from torchvision.
        yield from made if flattened else reversed(made)


def _child(model: nn.Module, path: str) -> nn.Module | None:
    return dict(model.named_modules()).get(path)


def _numbered(stages: Iterable[Stage]) -> dict[str, str]:
    """Numbers of torchvision, which counts all layers in a row, ReLUs and pools included."""
    names, number = {}, 0
    for stage in stages:
        for i, (path, _) in enumerate(stage):
            names[path] = f"features.{number}"
            last = i + 1 == len(stage) or isinstance(stage[i + 1][1], nn.Conv2d)
            number += 1 + last  # a ReLU
        number += 1  # the pool
    return names


def _by_stage(stages: Iterable[Stage], conv: str, norm: str) -> dict[str, str]:
    """Names with the numbers of the stage and of the convolution in it."""
    names = {}
    for number, stage in enumerate(stages, 1):
        count = 0
        for path, layer in stage:
            count += isinstance(layer, nn.Conv2d)
            names[path] = (conv if isinstance(layer, nn.Conv2d) else norm).format(number, count)
    return names


# ---- SegNet ---------------------------------------------------------------------------------


def _segnet(model: Any) -> Iterator[Scheme]:
    """Names as in the authors' Caffe files, and those that count in the names' ends."""
    ((_, down),) = _stages(model)
    for origin, conv, norm, up_conv, up_norm in (
        ("Caffe's SegNet", "conv{}_{}", "conv{}_{}_bn", "conv{}_{}_D", "conv{}_{}_D_bn"),
        ("SegNet by ConvEn and ConvDe", "ConvEn{}{}", "BNEn{}{}", "ConvDe{}{}", "BNDe{}{}"),
    ):
        layers = _by_stage(down, conv, norm)
        for number, stage in zip(range(5, 0, -1), model.decoder, strict=True):
            count = sum(isinstance(layer, nn.Conv2d) for _, layer in down[number - 1]) + 1
            for name, layer in stage.named_children():
                count -= isinstance(layer, nn.Conv2d)
                pattern = up_conv if isinstance(layer, nn.Conv2d) else up_norm
                layers[f"decoder.{5 - number}.{name}"] = pattern.format(number, count)
        # Some have a batch normalisation behind the scores, which they never use.
        yield Scheme(
            origin, layers | {"scores": up_conv.format(1, 1)}, unused=(up_norm.format(1, 1),)
        )


# ---- U-Net ----------------------------------------------------------------------------------


def _unet(model: Any) -> Iterator[Scheme]:
    """Names of the PyTorch U-Net that most checkpoints come from, the present and the first ones.

    It has batch normalisation and 'same'. The first version had biases in front of it.
    """
    if not model.batch_norm:
        return
    norms = {}
    for path, _ in model.named_modules():
        if path.rpartition(".")[2] in ("conv1", "conv2"):
            norms[path] = path.replace("conv", "norm")
    for origin, pair, down in (
        ("PyTorch's U-Net", "double_conv", "maxpool_conv.1"),
        ("PyTorch's U-Net of 2017", "conv", "mpconv.1"),
    ):
        inside = {"conv1": 0, "norm1": 1, "conv2": 3, "norm2": 4}
        first = ".conv" if pair == "conv" else ""
        layers = {"scores": "outc.conv"}
        for part, number in inside.items():
            layers[f"down.0.{part}"] = f"inc{first}.{pair}.{number}"
            for level in range(1, len(model.down)):
                layers[f"down.{level}.{part}"] = f"down{level}.{down}.{pair}.{number}"
            for level in range(len(model.merge)):
                layers[f"merge.{level}.{part}"] = f"up{level + 1}.conv.{pair}.{number}"
                layers[f"up.{level}"] = f"up{level + 1}.up"
        yield Scheme(origin, layers, norms=norms)


# ---- DenseNet, GoogLeNet, AlexNet -----------------------------------------------------------


def _densenet(model: nn.Module) -> Iterator[Scheme]:
    """Names of torchvision, the present ones and those until 2018."""
    layers = {}
    for path, _ in model.named_modules():
        name = re.sub(r"(?<=^denseblock\d)\.(\d+)", _counted(".denselayer{}"), path)
        layers[path] = name if path == "classifier" else f"features.{name}"
    yield Scheme("torchvision's DenseNet", layers, _flattened(model), older=densenet_before_2018)


def _counted(pattern: str) -> Callable[[re.Match], str]:
    """`pattern` with the numbers found, counted from 1."""
    return lambda match: pattern.format(*(int(number) + 1 for number in match.groups()))


def _googlenet(model: nn.Module) -> Iterator[Scheme]:
    """Names of torchvision, which are ours. Its files have both heads for training."""
    unused = () if getattr(model, "auxiliary", True) else ("aux1", "aux2")
    yield Scheme("torchvision's GoogLeNet", {}, _flattened(model), unused)


def _alexnet(model: Any) -> Iterator[Scheme]:
    """Names of torchvision for one column, and of Caffe."""
    flattened = _flattened(model)
    numbers = ("1", "4", "6") if model.one_column else ("0", "3", "6")
    linear = [f"classifier.{number}" for number in numbers]
    if model.one_column:
        convs = {f"conv{i}": f"features.{n}" for i, n in enumerate((0, 3, 6, 8, 10), 1)}
        yield Scheme("torchvision's AlexNet", convs | {name: name for name in linear}, flattened)
    names = {f"conv{i}": f"conv{i}" for i in range(1, 6)}
    names |= dict(zip(linear, ("fc6", "fc7", "fc8"), strict=True))
    yield Scheme("Caffe's AlexNet", names, flattened)


def densenet_before_2018(name: str) -> str:
    """Names of torchvision's DenseNet since then: norm1, not norm.1."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", name)
