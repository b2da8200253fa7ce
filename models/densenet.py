"""DenseNet (Huang, Liu, van der Maaten, Weinberger, Densely Connected Convolutional Networks,
CVPR 2017), table 1.

========== ==== ==================== ==== ==== ==== ==== ====
part       at   what                 121  169  201  264  161
========== ==== ==================== ==== ==== ==== ==== ====
conv0      1/2  7x7, 2k channels
           1/4  3x3 max-pool
block      1/4  layers of 1x1, 3x3   6    6    6    6    6
transition 1/8  1x1, 2x2 average
block      1/8                       12   12   12   12   12
transition 1/16
block      1/16                      24   32   48   64   36
transition 1/32
block      1/32                      16   32   32   48   24
classifier average over the image,
           linear
growth k                             32   32   32   32   48
========== ==== ==================== ==== ==== ==== ==== ====

Each layer of a block is batch normalisation, ReLU, 1x1 convolution to 4k channels, batch
normalisation, ReLU, 3x3 convolution to k channels, and sees the results of all layers in front of
it. A transition is batch normalisation, ReLU, a 1x1 convolution that halves the channels, and the
average. Convolutions have no bias.

Difference from the paper: a ReLU behind the last batch normalisation, as in torchvision and the
authors' code. Depth 264 has 265 layers with weights, in the paper as well.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import functional as F
from minidl import nn
from minidl.functional import check
from minidl.models.network import ImageNetwork

Generator = np.random.Generator

# Growth rate, and layers of the four blocks.
LAYERS = {
    121: (32, (6, 12, 24, 16)),
    161: (48, (6, 12, 36, 24)),
    169: (32, (6, 12, 32, 32)),
    201: (32, (6, 12, 48, 32)),
    264: (32, (6, 12, 64, 48)),
}


class DenseLayer(nn.Module):
    """`growth` new channels from all that is there: the paper's H, with a bottleneck.

    Parameters
    ----------
    in_channels, growth : int
    dropout : float in [0, 1]
        Probability for each new number to be dropped in training.
    rng : numpy.random.Generator, optional
        Makes the first weights.
    """

    def __init__(
        self, in_channels: int, growth: int, dropout: float = 0.0, rng: Generator | None = None
    ) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels, activation="relu")
        self.conv1 = nn.Conv2d(in_channels, 4 * growth, 1, bias=False, rng=rng)
        self.norm2 = nn.BatchNorm2d(4 * growth, activation="relu")
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False, rng=rng)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Any) -> Any:
        """(N, H, W, in_channels) to (N, H, W, growth)."""
        y = self.conv1(self.norm1(x))
        return self.dropout(self.conv2(self.norm2(y)))


class DenseBlock(nn.ModuleList):
    """Layers, each of which sees the results of all in front of it.

    Parameters
    ----------
    layers, in_channels, growth : int
    dropout, rng
        As for `DenseLayer`.
    """

    def __init__(
        self,
        layers: int,
        in_channels: int,
        growth: int,
        dropout: float = 0.0,
        rng: Generator | None = None,
    ) -> None:
        super().__init__(
            DenseLayer(in_channels + number * growth, growth, dropout, rng)
            for number in range(layers)
        )

    def forward(self, x: Any) -> Any:
        """(N, H, W, in_channels) to (N, H, W, in_channels + layers * growth), its own first."""
        for layer in self:
            x = F.concatenate([x, layer(x)])
        return x


class Transition(nn.Module):
    """From one block to the next: other channels, and half the resolution.

    Parameters
    ----------
    in_channels, out_channels : int
    rng : numpy.random.Generator, optional
        Makes the first weights.
    """

    def __init__(self, in_channels: int, out_channels: int, rng: Generator | None = None) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels, activation="relu")
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False, rng=rng)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: Any) -> Any:
        """(N, H, W, in_channels) to (N, H // 2, W // 2, out_channels)."""
        return self.pool(self.conv(self.norm(x)))


class DenseNet(ImageNetwork):
    """DenseNet: scores of the classes for an image.

    Parameters
    ----------
    depth : 121, 161, 169, 201 or 264
        Layers with weights.
    in_channels : int
        Channels of the image.
    num_classes : int
    growth : int, optional
        Channels that each layer adds, 32 or, for depth 161, 48 in the paper. The first convolution
        makes twice as many.
    dropout : float in [0, 1]
        Probability for each result of a layer to be dropped in training.
    rng : numpy.random.Generator, optional
        Makes the first weights.

    Attributes
    ----------
    channels : tuple of int
        Of the results of the blocks.

    Examples
    --------
    >>> model = DenseNet(121, num_classes=10, growth=2)
    >>> model.channels
    (16, 32, 64, 64)
    >>> model(np.zeros((1, 29, 64, 3), np.float32)).shape
    (1, 10)
    """

    # A quarter of it, rounded up, is halved three times.
    stride, smallest = 32, 29

    def __init__(
        self,
        depth: int = 121,
        in_channels: int = 3,
        num_classes: int = 1000,
        growth: int | None = None,
        dropout: float = 0.0,
        rng: Generator | None = None,
    ) -> None:
        super().__init__(in_channels, num_classes)
        check.choice("DenseNet", "depth", depth, tuple(LAYERS))
        usual, (one, two, three, four) = LAYERS[depth]
        (growth,) = check.integers("DenseNet", "growth", usual if growth is None else growth, 1, 1)
        self.depth, self.growth = depth, growth
        stem = 2 * growth
        first = stem + one * growth
        second = first // 2 + two * growth
        third = second // 2 + three * growth
        fourth = third // 2 + four * growth
        self.channels = first, second, third, fourth
        settings = growth, dropout, rng

        self.conv0 = nn.Conv2d(in_channels, stem, 7, 2, 3, bias=False, rng=rng)
        self.norm0 = nn.BatchNorm2d(stem, activation="relu")
        self.pool0 = nn.MaxPool2d(3, 2, 1)
        self.denseblock1 = DenseBlock(one, stem, *settings)
        self.transition1 = Transition(first, first // 2, rng)
        self.denseblock2 = DenseBlock(two, first // 2, *settings)
        self.transition2 = Transition(second, second // 2, rng)
        self.denseblock3 = DenseBlock(three, second // 2, *settings)
        self.transition3 = Transition(third, third // 2, rng)
        self.denseblock4 = DenseBlock(four, third // 2, *settings)
        self.norm5 = nn.BatchNorm2d(fourth, activation="relu")
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(fourth, num_classes, rng=rng)

    def forward(self, x: Any) -> Any:
        """Images (N, H, W, in_channels) to scores (N, num_classes)."""
        *_, x = self.feature_maps(x)
        return self.classifier(self.avgpool(self.norm5(x)).flatten(1))

    def feature_maps(self, x: Any) -> list[Any]:
        """What the four blocks make of images: every 4, 8, 16 and 32 pixels."""
        self.check_images(x)
        x = self.pool0(self.norm0(self.conv0(x)))
        first = self.denseblock1(x)
        second = self.denseblock2(self.transition1(first))
        third = self.denseblock3(self.transition2(second))
        fourth = self.denseblock4(self.transition3(third))
        return [first, second, third, fourth]


def densenet121(**settings: Any) -> DenseNet:
    """`DenseNet` with 121 layers."""
    return DenseNet(121, **settings)


def densenet161(**settings: Any) -> DenseNet:
    """`DenseNet` with 161 layers, and 48 channels for each of them."""
    return DenseNet(161, **settings)


def densenet169(**settings: Any) -> DenseNet:
    """`DenseNet` with 169 layers."""
    return DenseNet(169, **settings)


def densenet201(**settings: Any) -> DenseNet:
    """`DenseNet` with 201 layers."""
    return DenseNet(201, **settings)


def densenet264(**settings: Any) -> DenseNet:
    """`DenseNet` with 264 layers."""
    return DenseNet(264, **settings)
