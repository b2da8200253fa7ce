"""The networks that keep the contract, one row each. What it is, test_contract.py says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from minidl import nn
from minidl.models import (
    VGG,
    AlexNet,
    CifarResNet,
    DeconvNet,
    DeepLab,
    DeepLabV2,
    DenseNet,
    DilatedNet,
    FCDenseNet,
    FCN8s,
    FCN16s,
    FCN32s,
    FCNSlides,
    GoogLeNet,
    ImagePyramid,
    LeNet5,
    RefineNet,
    ResNet,
    SegNet,
    SegNetBasic,
    SegNetCMR,
    SpeechWaveNet,
    UNet,
    UNetSlides,
    WaveNet,
    fc_densenet56,
    fc_densenet67,
    fc_densenet103,
)

Size = tuple[int, ...]


@dataclass(frozen=True)
class Field:
    """What a unit somewhere in the network sees.

    Attributes
    ----------
    pixels : int
        The paper's number, or the one that follows from its layers.
    size : tuple of int
        Spatial extents of an image in whose middle a unit sees that many pixels along the first
        axis. Measuring takes a run for each pixel: as narrow as the network allows is best.
        Fewer than 16 channels keep out Winograd's convolutions, whose rounding reaches further.
    of : callable
        From the network and images to the feature map; the result of the network if left out.
    small : callable, optional
        From nothing to the network to be measured; the small copy of the case if left out.
    """

    pixels: int
    size: Size
    of: Callable[[Any, Any], Any] = lambda model, x: model(x)
    small: Callable[[], nn.Module] | None = None


@dataclass(frozen=True)
class Case:
    """A network, and what is known about it.

    Attributes
    ----------
    name : str
        How the row is called in the names of tests.
    full : callable
        From ``rng=...`` to the network of the paper.
    small : callable
        From ``rng=...`` to a copy with few channels, and few layers where there are many.
    parameters : int
        How many parameters the full network has, by the paper or by its table.
    sizes : dict
        From spatial extents of an image to those of the scores, () for a network that gives one
        vector for an image: the paper's first, then awkward ones.
    refused : dict
        From spatial extents to a pattern of the message, which says what is allowed.
    train : tuple of int
        Spatial extents of the images that the small copy is trained on.
    batch : int
        So many of them.
    learning_rate : float
        With which Adam makes the loss fall.
    field : Field, optional
    alike : bool
        Made of the same parts as another row, only more of them: tests that train it or predict
        with it are slow ones.
    step : tuple of int, optional
        Spatial extents of an image with which the full network takes a step in less than 8 GB. A
        slow test of up to half a minute, so not for networks much like those that have it.
    """

    name: str
    full: Callable[..., Any]
    small: Callable[..., Any]
    parameters: int
    sizes: dict[Size, Size]
    train: Size
    refused: dict[Size, str] = field(default_factory=dict)
    batch: int = 2
    learning_rate: float = 1e-2
    field: Field | None = None
    alike: bool = False
    step: Size | None = None


def _maps(number: int) -> Callable[[Any, Any], Any]:
    """The feature map of this number."""
    return lambda model, x: model.feature_maps(x)[number]


def _unet(padding: str, **settings: Any) -> Callable[..., UNet]:
    def make(depth: int = 5, root: int = 64, rng: Any = None) -> UNet:
        return UNet(1, 2, depth, root, padding, batch_norm=padding == "same", rng=rng, **settings)

    return make


UNETS = [
    Case(
        "unet-paper",
        _unet("valid"),
        lambda rng=None: _unet("valid")(3, 3, rng),
        31_030_658,
        {(44, 44): (4, 4), (48, 60): (8, 20)},
        train=(44, 48),
        refused={(45, 44): r"at least 44, and 0 more than a multiple of 4.*45 x 44.*\(48, 44\)"},
        field=Field(44, (60, 44)),
    ),
    Case(
        "unet-same",
        _unet("same"),
        lambda rng=None: _unet("same")(3, 3, rng),
        31_036_546,
        {(572, 8): (572, 8), (4, 4): (4, 4), (12, 20): (12, 20)},
        train=(12, 16),
        refused={(11, 12): r"multiples of 4, but the image is 11 x 12\. Pad it to \(12, 12\)"},
    ),
]

_VGG_SMALLEST = r"VGG: height and width must be at least 32, but the image is 31 x 40"


def _vgg(depth: int, parameters: int, batch_norm: bool = False, **knowledge: Any) -> Case:
    return Case(
        f"vgg{depth}{'_bn' * batch_norm}",
        lambda rng=None: VGG(depth, batch_norm=batch_norm, rng=rng),
        lambda rng=None: VGG(depth, 3, 4, batch_norm, width=2, rng=rng),
        parameters,
        {(224, 224): (), (32, 32): (), (33, 95): (), (240, 321): ()},
        train=(64, 64),
        refused={(31, 40): _VGG_SMALLEST},
        **knowledge,
    )


VGGS = [
    _vgg(11, 132_863_336, alike=True),
    _vgg(13, 133_047_848, alike=True),
    _vgg(
        16,
        138_357_544,
        field=Field(196, (288, 32), _maps(4), lambda: VGG(16, width=1)),
        step=(224, 224),
    ),
    _vgg(19, 143_667_240, field=Field(252, (320, 32), _maps(4), lambda: VGG(19, width=1))),
    _vgg(11, 132_868_840, True, alike=True),
    _vgg(13, 133_053_736, True, alike=True),
    _vgg(16, 138_365_992, True, alike=True),
    _vgg(19, 143_678_248, True),
]


def _resnet(depth: int, parameters: int, seen: int | None = None, **knowledge: Any) -> Case:
    settings = {name: knowledge.pop(name) for name in ("stride_first",) if name in knowledge}

    def narrow() -> ResNet:
        return ResNet(depth, width=1, **settings)

    return Case(
        f"resnet{depth}" + "-stride-first" * bool(settings),
        lambda rng=None: ResNet(depth, rng=rng, **settings),
        lambda rng=None: ResNet(depth, 3, 4, width=2, rng=rng, **settings),
        parameters,
        {(224, 224): (), (1, 1): (), (31, 33): (), (95, 64): ()},
        train=(64, 64),
        batch=3,
        field=Field(seen, (seen // 32 * 32 + 64, 1), _maps(3), narrow) if seen else None,
        **knowledge,
    )


RESNETS = [
    _resnet(18, 11_689_512, 435),
    _resnet(34, 21_797_672, alike=True),
    _resnet(50, 25_557_032, 427, step=(224, 224)),
    _resnet(50, 25_557_032, 483, stride_first=True),
    _resnet(101, 44_549_160, alike=True),
    _resnet(152, 60_192_808, alike=True),
    Case(
        "resnet20-cifar",
        lambda rng=None: CifarResNet(20, rng=rng),
        lambda rng=None: CifarResNet(20, 3, 4, width=2, rng=rng),
        269_722,
        {(32, 32): (), (1, 1): (), (7, 9): ()},
        train=(16, 16),
        batch=4,
        # 1 + 7 convolutions at full, 6 at half, 6 at quarter resolution, 2 pixels of these each
        field=Field(1 + 2 * (7 + 1 * 1 + 2 * 5 + 2 + 4 * 5), (121, 4), _maps(2)),
    ),
    Case(
        "resnet56-cifar",
        lambda rng=None: CifarResNet(56, rng=rng),
        lambda rng=None: CifarResNet(14, 3, 4, width=2, option="B", rng=rng),
        853_018,
        {(32, 32): (), (5, 70): ()},
        train=(16, 16),
        batch=4,
    ),
]


def _loud(last: str, make: Callable[..., Any]) -> Callable[..., Any]:
    """A network whose layers `last` start with large weights.

    Scores that start near 0 let nothing flow back, and leave a loss on random labels no room.
    """

    def small(rng: Any = None) -> Any:
        model = make(rng=rng)
        for name, value in model.named_parameters():
            if name.startswith(last) and name.endswith("weight"):
                value.data = np.random.default_rng(3).normal(size=value.shape).astype(np.float32)
        return model

    return small


def _fcn(kind: Any, parameters: int, **knowledge: Any) -> Case:
    return Case(
        kind.__name__.lower(),
        lambda rng=None: kind(rng=rng),
        _loud("score", lambda rng=None: kind(3, 4, width=2, rng=rng)),
        parameters,
        {(224, 256): (224, 256), (1, 1): (1, 1), (31, 97): (31, 97), (375, 2): (375, 2)},
        train=(8, 11),
        **knowledge,
    )


FCNS = [
    _fcn(FCN32s, 136_152_917),
    _fcn(FCN16s, 134_815_994),
    _fcn(
        FCN8s,
        134_489_759,
        field=Field(
            404,
            (448, 1),
            lambda model, x: model.coarse_scores(x)[0],
            lambda: FCN8s(width=1),
        ),
        step=(500, 500),
    ),
    Case(
        "fcn-slides",
        lambda rng=None: FCNSlides(rng=rng),
        _loud("W_t", lambda rng=None: FCNSlides(3, 4, width=2, rng=rng)),
        139_464_004,
        {(224, 224): (224, 224), (1, 1): (1, 1), (31, 33): (31, 33), (5, 97): (5, 97)},
        train=(32, 37),
    ),
]


def _encoded(model: Any, x: Any) -> Any:
    """The map behind the last pool of a SegNet."""
    for stage in model.encoder:
        x, _ = model.pool(stage(x))
    return x


def _segnet(name: str, kind: Any, parameters: int, **knowledge: Any) -> Case:
    return Case(
        name,
        lambda rng=None: kind(rng=rng),
        _loud("scores", lambda rng=None: kind(3, 4, width=2, rng=rng)),
        parameters,
        {(360, 48): (360, 48), (1, 1): (1, 1), (31, 33): (31, 33), (45, 2): (45, 2)},
        train=(64, 61),
        **knowledge,
    )


SEGNETS = [
    _segnet("segnet", SegNet, 29_449_355, step=(360, 480)),
    _segnet("segnet-basic", SegNetBasic, 1_416_587, field=Field(106, (144, 1), _encoded)),
    _segnet("segnet-cmr", SegNetCMR, 29_427_138),
    _segnet("segnet-cmr-norm", partial(SegNetCMR, batch_norm=True), 29_427_138),
    Case(
        "deconvnet",
        lambda rng=None: DeconvNet(rng=rng),
        _loud("scores", lambda rng=None: DeconvNet(3, 4, width=2, rng=rng)),
        251_805_653,
        {(224, 224): (224, 224), (193, 225): (193, 225)},
        train=(193, 200),
        refused={(192, 224): r"DeconvNet: height and width must be at least 193.*192 x 224"},
        step=(256, 224),
    ),
]


def _tiramisu(full: Any, parameters: int, config: tuple[int, ...], **knowledge: Any) -> Case:
    return Case(
        full.__name__.replace("_", "-"),
        lambda rng=None: full(rng=rng),
        lambda rng=None: FCDenseNet(3, 4, 3, config, 5, rng=rng),
        parameters,
        {(360, 48): (360, 48), (33, 63): (33, 63)},
        train=(32, 39),
        **knowledge,
    )


TIRAMISUS = [
    _tiramisu(fc_densenet56, 1_376_795, (1,) * 6),
    _tiramisu(fc_densenet67, 3_463_243, (2,) * 4),
    _tiramisu(
        fc_densenet103,
        9_322_091,
        (1, 1, 2, 2, 2, 3),
        refused={(31, 40): r"FCDenseNet: height and width must be at least 32.*31 x 40"},
        step=(224, 224),
    ),
]

UNETS_SLIDES = [
    Case(
        "unet-slides",
        lambda rng=None: UNetSlides(3, 2, rng=rng),
        lambda rng=None: UNetSlides(3, 4, rng=rng),
        29_474,
        {(420, 580): (380, 540), (44, 48): (4, 8)},
        train=(44, 52),
        refused={(210, 290): r"at least 44, and 0 more than a multiple of 4.*\(212, 292\)"},
        field=Field(44, (60, 44), small=lambda: UNetSlides(3, 2, features_root=3)),
    ),
]


def _dilated(name: str, parameters: int, classes: int, **knowledge: Any) -> Case:
    settings = knowledge.pop("settings")
    sizes = {(500, 12): (500, 12), (1, 1): (1, 1), (33, 2): (33, 2)}
    return Case(
        name,
        lambda rng=None: DilatedNet(3, classes, rng=rng, **settings),
        lambda rng=None: DilatedNet(3, 3, width=2, rng=rng, **settings),
        parameters,
        knowledge.pop("sizes", sizes),
        **({"train": (9, 12)} | knowledge),
    )


DILATED = [
    _dilated(
        "dilatednet-voc",
        141_149_720,
        21,
        settings={"context": "large", "context_padding": "first"},
        step=(500, 500),
    ),
    _dilated(
        "dilatednet-cityscapes",
        134_373_043,
        19,
        settings={"dilations": (1, 1, 2, 4, 8, 16, 32, 64, 1), "upsampling": "learned"},
        learning_rate=3e-2,
    ),
    _dilated(
        "dilatednet-front-end",
        134_346_581,
        21,
        settings={"context": None, "mirror": False, "upsampling": None},
        sizes={(900, 380): (66, 1), (500, 396): (16, 3)},
        refused={(381, 300): r"at least 380, and 4 more than.*381 x 300.*\(388, 380\)"},
        train=(380, 404),
    ),
]


def _deeplab(name: str, kind: Any, parameters: int, **knowledge: Any) -> Case:
    settings = knowledge.pop("settings", {})
    small = settings | knowledge.pop("small", {})
    return Case(
        name,
        lambda rng=None: kind(rng=rng, **settings),
        lambda rng=None: kind(3, 4, width=3, rng=rng, **small),
        parameters,
        {(321, 33): (321, 33), (306, 20): (306, 20), (1, 1): (1, 1), (2, 47): (2, 47)},
        **({"train": (17, 21)} | knowledge),
    )


def _coarse(model: Any, x: Any) -> Any:
    """The scores of a DeepLab before they are enlarged."""
    return model.head(model.features(x))


DEEPLABS = [
    _deeplab(
        "deeplab-largefov",
        DeepLab,
        20_505_429,
        field=Field(419, (489, 1), _coarse, lambda: DeepLab(dropout=0.0, width=1)),
        step=(321, 321),
    ),
    _deeplab(
        "deeplab-4x4",
        DeepLab,
        65_140_565,
        settings={"kernel_size": 4, "rate": 8},
        train=(65, 69),
    ),
    _deeplab("deeplab-aspp-vgg16", DeepLabV2, 37_877_652, settings={"backbone": "vgg16"}),
    _deeplab(
        "deeplab-aspp-resnet101",
        DeepLabV2,
        44_048_532,
        small={"backbone": "resnet50"},
        step=(321, 321),
    ),
    Case(
        "deeplab-msc",
        lambda rng=None: ImagePyramid(DeepLabV2(rng=rng)),
        lambda rng=None: ImagePyramid(DeepLabV2(3, 4, "resnet18", width=2, rng=rng), fuse="mean"),
        44_048_532,
        {(321, 33): (321, 33), (1, 1): (1, 1), (31, 47): (31, 47)},
        train=(17, 21),
    ),
]


def _refine(name: str, parameters: int, **knowledge: Any) -> Case:
    settings = knowledge.pop("settings", {})
    return Case(
        f"refinenet-{name}",
        lambda rng=None: RefineNet(rng=rng, **settings),
        lambda rng=None: RefineNet(3, 4, 18, pools=2, width=2, rng=rng, **settings),
        parameters,
        {(400, 48): (400, 48), (1, 1): (1, 1), (31, 47): (31, 47)},
        train=(64, 61),
        **knowledge,
    )


REFINENETS = [
    _refine("single", 81_480_277, settings={"cascade": 1}),
    _refine("2-cascaded", 87_969_109, settings={"cascade": 2}),
    _refine("4-cascaded", 118_052_437, step=(400, 400)),
    _refine("2-scale", 197_124_245, settings={"scales": (1.2, 0.6)}),
]

WAVENETS = [
    Case(
        "wavenet",
        lambda rng=None: WaveNet(rng=rng),
        lambda rng=None: WaveNet(2, 5, 3, 4, dilations=(1, 2, 4), blocks=2, rng=rng),
        1_072_704,
        {(100,): (100,), (1,): (1,)},
        train=(30,),
        field=Field(16, (40,)),
    ),
    Case(
        "wavenet-speech",
        lambda rng=None: SpeechWaveNet(rng=rng),
        lambda rng=None: SpeechWaveNet(2, 5, 4, 3, (1, 2, 4), 2, rng=rng),
        3_720_988,
        {(100,): (100,), (1,): (1,)},
        train=(30,),
        field=Field(29, (40,)),
    ),
]

_LENET_SIZE = r"LeNet5: height and width must be 32, but the image is "
_LENET = {
    "train": (32, 32),
    "batch": 3,
    "learning_rate": 1e-3,
    "refused": {
        (28, 28): _LENET_SIZE + r"28 x 28\. Pad",
        (40, 32): _LENET_SIZE + "40 x 32. Resize",
    },
}


def _alexnet(name: str, parameters: int, **settings: Any) -> Case:
    one_column = bool(settings)
    paper, smallest = (224, 63) if one_column else (227, 67)
    return Case(
        name,
        lambda rng=None: AlexNet(rng=rng, **settings),
        lambda rng=None: AlexNet(3, 4, shrink=16, rng=rng, **settings),
        parameters,
        {(paper, paper): (), (smallest, 100): (), (240, smallest): ()},
        train=(smallest, smallest + 8),
        learning_rate=1e-3,
        refused={(smallest - 1, 80): f"AlexNet: .* at least {smallest}, but .* {smallest - 1} x"},
        field=Field(163, (16 * 13 + smallest, smallest), _maps(2)),
        step=(227, 227) if not one_column else None,
    )


def _googlenet(name: str, parameters: int, smallest: int, **settings: Any) -> Case:
    return Case(
        name,
        lambda rng=None: GoogLeNet(rng=rng, **settings),
        lambda rng=None: GoogLeNet(3, 4, shrink=8, rng=rng, **settings),
        parameters,
        {(224, 224): (), (smallest, smallest): (), (229, 97): ()},
        train=(96, 80),
        learning_rate=3e-3,
        batch=3,
        alike=not settings.get("auxiliary", True),
        refused={(smallest - 1, 80): f"GoogLeNet: .* must be at least {smallest}, but"},
    )


def _densenet(depth: int, parameters: int, **knowledge: Any) -> Case:
    return Case(
        f"densenet{depth}",
        lambda rng=None: DenseNet(depth, rng=rng),
        lambda rng=None: DenseNet(depth, 3, 4, growth=2, rng=rng),
        parameters,
        {(224, 224): (), (29, 29): (), (31, 97): ()},
        train=(64, 64),
        batch=3,
        refused={(28, 32): r"DenseNet: height and width must be at least 29, but .* 28 x 32"},
        **knowledge,
    )


CLASSIFIERS = [
    Case("lenet5", LeNet5, LeNet5, 60_000, {(32, 32): ()}, **_LENET),
    Case(
        "lenet5-dense",
        lambda rng=None: LeNet5(dense=True, rng=rng),
        lambda rng=None: LeNet5(3, 4, dense=True, rng=rng),
        61_706,
        {(32, 32): ()},
        **_LENET,
    ),
    _alexnet("alexnet", 60_965_224),
    _alexnet("alexnet-one-column", 61_100_840, one_column=True),
    _googlenet("googlenet", 13_378_280, 79),
    _googlenet("googlenet-bare", 6_998_552, 31, auxiliary=False),
    _googlenet("googlenet-bn", 13_004_888, 15, batch_norm=True),
    _googlenet("googlenet-bn-bare", 6_624_904, 15, batch_norm=True, auxiliary=False),
    _densenet(121, 7_978_856, step=(224, 224)),
    _densenet(169, 14_149_480, alike=True),
    _densenet(201, 20_013_928, alike=True),
    _densenet(264, 33_337_704, alike=True),
    _densenet(161, 28_681_000, alike=True),
]

CASES = [
    *CLASSIFIERS,
    *UNETS,
    *VGGS,
    *RESNETS,
    *FCNS,
    *SEGNETS,
    *TIRAMISUS,
    *UNETS_SLIDES,
    *DILATED,
    *DEEPLABS,
    *REFINENETS,
    *WAVENETS,
]
