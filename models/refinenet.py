"""RefineNet (Lin, Milan, Shen, Reid, RefineNet: Multi-Path Refinement Networks for High-Resolution
Semantic Segmentation, CVPR 2017), figures 2(c), 3 and 7.

A ResNet gives maps of features every 4, 8, 16 and 32 pixels, without any dilation. From the
coarsest to the finest, blocks refine them:

================================ ===============================================================
part of a block (figure 3)       what it does
================================ ===============================================================
adaptive convolutions            each map of the backbone: 3x3 to 512 channels if it is the coarsest
                                 one, to 256 otherwise, then two residual convolution units
multi-resolution fusion          each map, and the result of the block before: 3x3 to the least of
                                 their channels, enlarged to the largest of their sizes; the sum
chained residual pooling         a ReLU; then 5x5 max-pool and 3x3, again and again, each of which
                                 is added
output convolutions              three residual convolution units
================================ ===============================================================

A residual convolution unit is ``x + conv(relu(conv(relu(x))))`` of 3x3 convolutions. Behind the
last block a 3x3 convolution makes the scores, every 4 pixels.

=========================== =====================================================================
variant (figure 7)          which maps each block takes, every ... pixels
=========================== =====================================================================
single                      4, 8, 16, 32
2-cascaded                  16, 32; then 4, 8
4-cascaded                  32; then 16; then 8; then 4
4-cascaded, 2-scale ResNet  the same, each from the image at 1.2 and at 0.6 of its size, through
                            a ResNet of its own for each
=========================== =====================================================================

Numbers are those of the released code where it differs from the figures: 4 poolings (2 in figure
3), and 3 units at the end of every block (figure: 1). Its resizing is bicubic; ours is bilinear.
The paper trains with the batch normalisations of the ResNet as they came from ImageNet: keep them
in eval mode. All convolutions behind it start with a standard deviation of 0.01, as there; with
larger weights, what so many additions make would be out of all proportion.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl import functional as F
from minidl import nn
from minidl.functional import check
from minidl.models.multiscale import scoring, spread
from minidl.models.network import ImageNetwork
from minidl.models.resnet import ResNetBackbone

# Which of the backbone's four maps, counted from the finest, each block takes.
CASCADES = {1: ((3, 2, 1, 0),), 2: ((3, 2), (1, 0)), 4: ((3,), (2,), (1,), (0,))}

Generator = np.random.Generator


def conv3x3(
    in_channels: int, out_channels: int, rng: Generator | None, **settings: Any
) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size of the map, without bias unless asked for."""
    settings = {"bias": False} | settings
    return nn.Conv2d(in_channels, out_channels, 3, padding=1, rng=rng, **settings)


class ResidualConvUnit(nn.Module):
    """Two 3x3 convolutions with a ReLU in front of each, added to the input: figure 3(b).

    Parameters
    ----------
    channels : int
    rng : numpy.random.Generator, optional
        Makes the first weights.
    """

    def __init__(self, channels: int, rng: Generator | None = None) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels, channels, rng, bias=True, activation="relu")
        self.conv2 = conv3x3(channels, channels, rng)

    def forward(self, x: Any) -> Any:
        """(N, H, W, channels) to the same shape."""
        return x + self.conv2(self.conv1(F.relu(x)))


class MultiResolutionFusion(nn.Module):
    """Maps of any sizes and channels, made alike and summed up: figure 3(c).

    Parameters
    ----------
    channels : sequence of int
        Of each map. The result has the least of them.
    rng : numpy.random.Generator, optional
        Makes the first weights.
    """

    def __init__(self, channels: Sequence[int], rng: Generator | None = None) -> None:
        super().__init__()
        least = min(channels)
        self.convs = nn.ModuleList(conv3x3(count, least, rng) for count in channels)

    def forward(self, *maps: Any) -> Any:
        """Maps (N, H, W, its channels) to one as high as the highest and as wide as the widest."""
        size = tuple(max(x.shape[axis] for x in maps) for axis in (1, 2))
        first, *others = [resized(conv(x), size) for conv, x in zip(self.convs, maps, strict=True)]
        return sum(others, first)


def resized(x: Any, size: tuple[int, ...]) -> Any:
    """`x` enlarged bilinearly, corner pixels on corner pixels."""
    if tuple(x.shape[1:3]) == size:
        return x
    return F.interpolate(x, size, mode="bilinear", align_corners=True)


class ChainedResidualPooling(nn.Module):
    """Background from ever larger regions, added to what is there: figure 3(d).

    Parameters
    ----------
    channels : int
    pools : int
        How many times the result of the pooling before is pooled once more.
    rng : numpy.random.Generator, optional
        Makes the first weights.
    """

    def __init__(self, channels: int, pools: int = 4, rng: Generator | None = None) -> None:
        super().__init__()
        check.integers("ChainedResidualPooling", "pools", pools, 1, 0)
        self.pool = nn.MaxPool2d(5, stride=1, padding=2)
        self.convs = nn.ModuleList(conv3x3(channels, channels, rng) for _ in range(pools))

    def forward(self, x: Any) -> Any:
        """(N, H, W, channels) to the same shape."""
        x = pooled = F.relu(x)
        for conv in self.convs:
            pooled = conv(self.pool(pooled))
            x = x + pooled
        return x


class RefineBlock(nn.Module):
    """One block: figure 3(a). It takes any number of maps, of any sizes.

    Parameters
    ----------
    in_channels, channels : sequence of int
        Of each map of the backbone, as it comes and as it is adapted.
    before : int, optional
        Channels of the result of the block before, if there is one.
    pools : int
        As for `ChainedResidualPooling`.
    rng : numpy.random.Generator, optional
        Makes the first weights.

    Attributes
    ----------
    channels : int
        Of the result.
    count : int
        Of the maps it takes.

    Examples
    --------
    >>> block = RefineBlock([6, 3], [4, 2], before=5)
    >>> maps = [np.zeros((1, *shape), np.float32) for shape in [(3, 9, 6), (5, 8, 3), (2, 2, 5)]]
    >>> block(*maps).shape
    (1, 5, 9, 2)
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: Sequence[int],
        before: int | None = None,
        pools: int = 4,
        rng: Generator | None = None,
    ) -> None:
        super().__init__()
        self.adapt = nn.ModuleList(
            nn.Sequential(
                conv3x3(given, adapted, rng),
                ResidualConvUnit(adapted, rng),
                ResidualConvUnit(adapted, rng),
            )
            for given, adapted in zip(in_channels, channels, strict=True)
        )
        joined = [*channels, *([] if before is None else [before])]
        self.channels, self.count = min(joined), len(joined)
        self.fuse = MultiResolutionFusion(joined, rng) if len(joined) > 1 else nn.Identity()
        self.pool = ChainedResidualPooling(self.channels, pools, rng)
        self.output = nn.Sequential(*(ResidualConvUnit(self.channels, rng) for _ in range(3)))

    def forward(self, *maps: Any) -> Any:
        """Maps of the backbone, then the result of the block before if there is one, to one map."""
        if len(maps) != self.count:
            raise ValueError(f"RefineBlock: takes {self.count} maps, but got {len(maps)}.")
        own = len(self.adapt)
        adapted = [adapt(x) for adapt, x in zip(self.adapt, maps[:own], strict=True)]
        return self.output(self.pool(self.fuse(*adapted, *maps[own:])))


class RefineNet(ImageNetwork):
    """RefineNet: scores of the classes for each pixel of an image of any size.

    Parameters
    ----------
    in_channels : int
        Channels of the image.
    num_classes : int
    depth : 18, 34, 50, 101 or 152
        Of the ResNet.
    cascade : 4, 2 or 1
        Number of blocks.
    scales : sequence of float
        Sizes of the image, of 1, each of which has a ResNet of its own: (1.2, 0.6) for the 2-scale
        variant.
    pools : int
        Poolings in a row in each block.
    dropout : float in [0, 1]
        Probability for each number of the two coarsest maps, and in front of the scores, to be
        dropped in training.
    upsample : bool
        Whether scores are enlarged to the size of the image. Otherwise they are every 4 pixels.
    width : int
        Channels of the first stage of the ResNet, 64 in the paper. All others follow from it.
    rng : numpy.random.Generator, optional
        Makes the first weights.

    Examples
    --------
    >>> model = RefineNet(3, 5, depth=18, cascade=2, width=2)
    >>> model(np.zeros((1, 45, 70, 3), np.float32)).shape
    (1, 45, 70, 5)
    """

    stride = 32

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 21,
        depth: int = 101,
        cascade: int = 4,
        scales: Sequence[float] = (1.0,),
        pools: int = 4,
        dropout: float = 0.5,
        upsample: bool = True,
        width: int = 64,
        rng: Generator | None = None,
    ) -> None:
        super().__init__(in_channels, num_classes)
        check.choice("RefineNet", "cascade", cascade, tuple(CASCADES))
        if not scales or not all(isinstance(s, int | float) and s > 0 for s in scales):
            raise ValueError(
                f"RefineNet: scales must be positive numbers, at least one, but are {scales!r}."
            )
        self.depth, self.cascade, self.scales = depth, cascade, tuple(scales)
        self.upsample = upsample
        self.backbones = nn.ModuleList(
            ResNetBackbone(depth, in_channels, width=width, rng=rng) for _ in scales
        )
        given = self.backbones[0].channels
        adapted = 4 * width, 4 * width, 4 * width, 8 * width

        self.blocks, before = nn.ModuleList(), None
        for taken in CASCADES[cascade]:
            levels = [level for level in taken for _ in scales]
            block = RefineBlock(
                [given[level] for level in levels], [adapted[level] for level in levels],
                before, pools, rng,
            )  # fmt: skip
            self.blocks.append(block)
            before = block.channels
        for part in self.blocks.modules():
            if isinstance(part, nn.Conv2d):
                spread(part, 0.01 * np.sqrt(64 / width))  # the same proportions for any width
        self.dropout = nn.Dropout(dropout)
        self.scores = scoring(before, num_classes, 3, rng=rng)

    def forward(self, x: Any) -> Any:
        """Images (N, H, W, in_channels) to scores (N, H, W, num_classes)."""
        self.check_images(x)
        size = tuple(x.shape[1:3])
        maps = self._feature_maps(x)
        before: list[Any] = []
        for block, levels in zip(self.blocks, CASCADES[self.cascade], strict=True):
            before = [block(*(x for level in levels for x in maps[level]), *before)]
        scores = self.scores(self.dropout(before[0]))
        return resized(scores, size) if self.upsample else scores

    def _feature_maps(self, x: Any) -> list[list[Any]]:
        """For each level, finest first, the map of each scale."""
        size = x.shape[1:3]
        each = [
            backbone(resized(x, tuple(max(round(scale * side), 1) for side in size)))
            for backbone, scale in zip(self.backbones, self.scales, strict=True)
        ]
        *fine, third, fourth = ([maps[level] for maps in each] for level in range(4))
        return [*fine, *([self.dropout(x) for x in coarse] for coarse in (third, fourth))]
