"""VGG (Simonyan, Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition,
ICLR 2015), table 1.

====== ====== ==== ==== ==== ====
stage  width  A 11 B 13 D 16 E 19
====== ====== ==== ==== ==== ====
1      64     1    2    2    2
2      128    1    2    2    2
3      256    2    2    3    4
4      512    2    2    3    4
5      512    2    2    3    4
====== ====== ==== ==== ==== ====

So many 3x3 convolutions, each followed by a ReLU, and after every stage a 2x2 max-pool. Then three
linear layers, 4096, 4096 and as many as there are classes, with dropout between them.

Differences from the paper: an average over 7x7 bins in front of the linear layers, which does
nothing to images of 224 pixels and makes others fit; and as an argument, batch normalisation of
each convolution, which keeps its bias nevertheless. Both are as in torchvision.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from minidl import nn
from minidl.functional import check
from minidl.models.network import ImageNetwork

CONVOLUTIONS = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


def conv_stage(
    in_channels: int,
    widths: Sequence[int],
    *,
    batch_norm: bool = False,
    dilation: int = 1,
    padding: Any = "same",
    rng: np.random.Generator | None = None,
) -> nn.Sequential:
    """3x3 convolutions in a row, each with its ReLU: a stage of VGG without the pooling.

    Parameters
    ----------
    in_channels : int
    widths : sequence of int
        Channels of each convolution.
    batch_norm : bool
        Whether each convolution is followed by batch normalisation.
    dilation : int
        Of all convolutions.
    padding : int, 'same' or 'valid'
        'same' keeps the size of the image.
    rng : numpy.random.Generator, optional
        Makes the first weights.

    Returns
    -------
    nn.Sequential
        Of convolutions, with a batch normalisation behind each if there are any.
    """

    def layers() -> Iterator[nn.Module]:
        settings: dict[str, Any] = {"padding": padding, "dilation": dilation, "rng": rng}
        settings["activation"] = None if batch_norm else "relu"
        for before, after in zip([in_channels, *widths], widths, strict=False):
            yield nn.Conv2d(before, after, 3, **settings)
            if batch_norm:
                yield nn.BatchNorm2d(after, activation="relu")

    return nn.Sequential(*layers())


def stage_widths(depth: int = 16, width: int = 64) -> tuple[tuple[int, ...], ...]:
    """Channels of each convolution of the five stages, as `conv_stage` takes them.

    >>> stage_widths(16)[2:4]
    ((256, 256, 256), (512, 512, 512))
    """
    check.choice("VGG", "depth", depth, tuple(CONVOLUTIONS))
    check.integers("VGG", "width", width, 1, 1)
    multiples = 1, 2, 4, 8, 8
    return tuple(
        (multiple * width,) * count
        for multiple, count in zip(multiples, CONVOLUTIONS[depth], strict=True)
    )


class VGG(ImageNetwork):
    """VGG: scores of the classes for an image.

    Parameters
    ----------
    depth : 11, 13, 16 or 19
        Layers with weights.
    in_channels : int
        Channels of the image.
    num_classes : int
    batch_norm : bool
        Whether each convolution is followed by batch normalisation.
    width : int
        Channels of the first stage, 64 in the paper. All others follow from it: the last stages
        have 8 times, the linear layers 64 times as many.
    rng : numpy.random.Generator, optional
        Makes the first weights.

    Attributes
    ----------
    stages : nn.ModuleList
        The five stages, without the pooling.
    classifier : nn.Sequential
        The linear layers.

    Examples
    --------
    >>> model = VGG(11, num_classes=10, width=2)
    >>> model(np.zeros((1, 50, 40, 3), np.float32)).shape
    (1, 10)
    >>> [maps.shape for maps in model.feature_maps(np.zeros((1, 32, 64, 3), np.float32))][-1]
    (1, 2, 4, 16)
    """

    stride = smallest = 32

    def __init__(
        self,
        depth: int = 16,
        in_channels: int = 3,
        num_classes: int = 1000,
        batch_norm: bool = False,
        width: int = 64,
        rng: np.random.Generator | None = None,
    ) -> None:
        super().__init__(in_channels, num_classes)
        self.depth, self.width, self.batch_norm = depth, width, batch_norm
        widths = stage_widths(depth, width)
        inputs = in_channels, *(stage[-1] for stage in widths[:-1])
        self.stages = nn.ModuleList(
            conv_stage(before, stage, batch_norm=batch_norm, rng=rng)
            for before, stage in zip(inputs, widths, strict=True)
        )
        self.pool = nn.MaxPool2d(2)
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        hidden = 64 * width
        self.classifier = nn.Sequential(
            nn.Linear(7 * 7 * widths[-1][-1], hidden, rng=rng),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(hidden, hidden, rng=rng),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(hidden, num_classes, rng=rng),
        )

    def forward(self, x: Any) -> Any:
        """Images (N, H, W, in_channels) to scores (N, num_classes)."""
        *_, x = self.feature_maps(x)
        return self.classifier(self.avgpool(self.pool(x)).flatten(1))

    def feature_maps(self, x: Any) -> list[Any]:
        """What each stage makes of images, before the pooling: every 1, 2, 4, 8 and 16 pixels."""
        self.check_images(x)
        maps = [self.stages[0](x)]
        for stage in self.stages[1:]:
            maps.append(stage(self.pool(maps[-1])))
        return maps


def vgg11(**settings: Any) -> VGG:
    """`VGG` with 8 convolutions, configuration A."""
    return VGG(11, **settings)


def vgg13(**settings: Any) -> VGG:
    """`VGG` with 10 convolutions, configuration B."""
    return VGG(13, **settings)


def vgg16(**settings: Any) -> VGG:
    """`VGG` with 13 convolutions, configuration D."""
    return VGG(16, **settings)


def vgg19(**settings: Any) -> VGG:
    """`VGG` with 16 convolutions, configuration E."""
    return VGG(19, **settings)


def vgg11_bn(**settings: Any) -> VGG:
    """`vgg11` with batch normalisation."""
    return VGG(11, batch_norm=True, **settings)


def vgg13_bn(**settings: Any) -> VGG:
    """`vgg13` with batch normalisation."""
    return VGG(13, batch_norm=True, **settings)


def vgg16_bn(**settings: Any) -> VGG:
    """`vgg16` with batch normalisation."""
    return VGG(16, batch_norm=True, **settings)


def vgg19_bn(**settings: Any) -> VGG:
    """`vgg19` with batch normalisation."""
    return VGG(19, batch_norm=True, **settings)
