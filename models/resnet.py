"""ResNet (He, Zhang, Ren, Sun, Deep Residual Learning for Image Recognition, CVPR 2016), table 1.

====== ==== ======================== ================ ==========================
part   at   18, 34                   50, 101, 152     blocks of 18; 34; 50; 101; 152
====== ==== ======================== ================ ==========================
conv1  1/2  7x7, 64
       1/4  3x3 max-pool
layer1 1/4  3x3, 64; 3x3, 64         64, 64, 256      2; 3; 3; 3; 3
layer2 1/8  3x3, 128; 3x3, 128       128, 128, 512    2; 4; 4; 4; 8
layer3 1/16 3x3, 256; 3x3, 256       256, 256, 1024   2; 6; 6; 23; 36
layer4 1/32 3x3, 512; 3x3, 512       512, 512, 2048   2; 3; 3; 3; 3
fc          average over the image, and a linear layer
====== ==== ======================== ================ ==========================

Blocks of the deeper ones are convolutions 1x1, 3x3, 1x1. Each convolution is followed by batch
normalisation, and has no bias. What a block computes is added to what it was given, which goes
through a ReLU. Where the shapes differ, the shortcut is a 1x1 convolution (option B).

Differences from the paper: where a block halves the resolution, its 3x3 convolution does, as in
torchvision; ``stride_first=True`` leaves it to the first 1x1, as in the paper and its weights.

`CifarResNet` is the network of section 4.2, with 6 n + 2 layers for images of 32x32 pixels, whose
shortcuts have no parameters (option A).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import functional as F
from minidl import nn
from minidl.functional import check
from minidl.models.network import ImageNetwork

Generator = np.random.Generator


class Subsample(nn.Module):
    """Every `stride`-th pixel, and zeros as further channels, half in front and half behind."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.stride = in_channels, out_channels, stride

    def forward(self, x: Any) -> Any:
        """(N, H, W, in_channels) to (N, H / stride, W / stride, out_channels), rounded up."""
        further = self.out_channels - self.in_channels
        channels = further // 2, further - further // 2
        x = x[:, :: self.stride, :: self.stride]
        return F.pad(x, ((0, 0), (0, 0), (0, 0), channels))


def shortcut(
    in_channels: int, out_channels: int, stride: int, option: str, rng: Generator | None = None
) -> nn.Module:
    """What goes past a block: its input, in the shape of its result.

    Parameters
    ----------
    in_channels, out_channels : int
    stride : int
        Of the block.
    option : 'A', 'B' or 'C'
        If the shape changes, the input is subsampled and filled up with zeros (A), or else
        projected by a 1x1 convolution (B); or always projected (C).
    rng : numpy.random.Generator, optional
        Makes the first weights.
    """
    changes = stride != 1 or in_channels != out_channels
    if not changes and option != "C":
        return nn.Identity()
    if option == "A":
        return Subsample(in_channels, out_channels, stride)
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride, bias=False, rng=rng),
        nn.BatchNorm2d(out_channels),
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, added to the input: the paper's figure 5, left.

    Parameters
    ----------
    in_channels, channels : int
        Of the input and of the convolutions.
    stride : int
        Of the first convolution.
    dilations : (int, int)
        Of convolutions in front of the place where the block takes its stride, or would have
        taken it, and that of the convolutions behind.
    stride_first : bool
        No difference here: the first convolution takes the stride.
    option : 'A', 'B' or 'C'
        As for `shortcut`.
    rng : numpy.random.Generator, optional
        Makes the first weights.
    """

    expansion = 1

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        dilations: tuple[int, int] = (1, 1),
        stride_first: bool = False,
        option: str = "B",
        rng: Generator | None = None,
    ) -> None:
        super().__init__()
        before, behind = dilations
        self.conv1 = conv3x3(in_channels, channels, stride, before, rng)
        self.bn1 = nn.BatchNorm2d(channels, activation="relu")
        self.conv2 = conv3x3(channels, channels, 1, behind, rng)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = shortcut(in_channels, channels, stride, option, rng)

    def forward(self, x: Any) -> Any:
        """(N, H, W, in_channels) to (N, H / stride, W / stride, channels), rounded up."""
        y = self.bn1(x, after=self.conv1)
        y = self.bn2(y, after=self.conv2)
        return F.relu(y, plus=self.downsample(x))


class Bottleneck(nn.Module):
    """A 3x3 convolution between two 1x1, added to the input: the paper's figure 5, right.

    Parameters
    ----------
    in_channels, channels : int
        Of the input and of the 3x3 convolution; the result has 4 times as many.
    stride : int
        Of the 3x3 convolution, or of the first.
    dilations : (int, int)
        Of a 3x3 convolution that takes the stride, or would have taken it, and of one behind the
        convolution that did.
    stride_first : bool
        Whether the first convolution takes the stride.
    option : 'A', 'B' or 'C'
        As for `shortcut`.
    rng : numpy.random.Generator, optional
        Makes the first weights.
    """

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        dilations: tuple[int, int] = (1, 1),
        stride_first: bool = False,
        option: str = "B",
        rng: Generator | None = None,
    ) -> None:
        super().__init__()
        out_channels = self.expansion * channels
        first, second = (stride, 1) if stride_first else (1, stride)
        dilation = dilations[1] if stride_first else dilations[0]
        self.conv1 = nn.Conv2d(in_channels, channels, 1, first, bias=False, rng=rng)
        self.bn1 = nn.BatchNorm2d(channels, activation="relu")
        self.conv2 = conv3x3(channels, channels, second, dilation, rng)
        self.bn2 = nn.BatchNorm2d(channels, activation="relu")
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False, rng=rng)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = shortcut(in_channels, out_channels, stride, option, rng)

    def forward(self, x: Any) -> Any:
        """(N, H, W, in_channels) to (N, H / stride, W / stride, 4 * channels), rounded up."""
        y = self.bn1(x, after=self.conv1)
        y = self.bn2(y, after=self.conv2)
        y = self.bn3(y, after=self.conv3)
        return F.relu(y, plus=self.downsample(x))


def conv3x3(
    in_channels: int, out_channels: int, stride: int, dilation: int, rng: Generator | None
) -> nn.Conv2d:
    """A 3x3 convolution without bias; with stride 1 it keeps the size of the image."""
    return nn.Conv2d(
        in_channels, out_channels, 3, stride, dilation, dilation, bias=False, rng=rng
    )  # fmt: skip


def residual_stage(
    block: type[BasicBlock] | type[Bottleneck],
    in_channels: int,
    channels: int,
    count: int,
    stride: int = 1,
    dilations: tuple[int, int] = (1, 1),
    stride_first: bool = False,
    option: str = "B",
    rng: Generator | None = None,
) -> nn.Sequential:
    """Blocks in a row, of which the first takes the stride.

    Parameters
    ----------
    block : BasicBlock or Bottleneck
    in_channels, channels : int
        Of the input, and as the block counts them.
    count : int
        Number of blocks.
    stride : int
    dilations : (int, int)
        Before and behind the place of the stride.
    stride_first, option, rng
        As for the blocks.
    """
    settings = stride_first, option, rng
    first = block(in_channels, channels, stride, dilations, *settings)
    behind = dilations[1], dilations[1]
    others = (
        block(block.expansion * channels, channels, 1, behind, *settings) for _ in range(count - 1)
    )
    return nn.Sequential(first, *others)


BLOCKS: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, ...]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}


class ResNetBackbone(nn.Module):
    """ResNet without the linear layer: from images to the feature maps of its four stages.

    Parameters
    ----------
    depth : 18, 34, 50, 101 or 152
        Layers with weights, the linear one included.
    in_channels : int
        Channels of the image.
    output_stride : 32, 16 or 8
        Pixels of the image between neighbours of the last feature map. With 16 the last stage,
        with 8 the last two do not stride, but are dilated instead: each result is what it was, and
        there are more of them in between.
    width : int
        Channels behind the first convolution, 64 in the paper; all others follow from it.
    stride_first : bool
        Whether the first 1x1 convolution of a `Bottleneck` takes the stride, as in the paper and
        in Caffe, and not the 3x3, as in torchvision.
    ceil_mode : bool
        Whether the max-pool rounds sizes up, as in Caffe.
    option : 'A', 'B' or 'C'
        Shortcuts: as for `shortcut`.
    rng : numpy.random.Generator, optional
        Makes the first weights.

    Attributes
    ----------
    channels : tuple of int
        Of the four feature maps.

    Examples
    --------
    >>> backbone = ResNetBackbone(50, output_stride=8, width=4)
    >>> backbone.channels
    (16, 32, 64, 128)
    >>> [maps.shape[1:3] for maps in backbone(np.zeros((1, 65, 97, 3), np.float32))]
    [(17, 25), (9, 13), (9, 13), (9, 13)]
    """

    def __init__(
        self,
        depth: int = 50,
        in_channels: int = 3,
        output_stride: int = 32,
        width: int = 64,
        stride_first: bool = False,
        ceil_mode: bool = False,
        option: str = "B",
        rng: Generator | None = None,
    ) -> None:
        super().__init__()
        check.choice("ResNet", "depth", depth, tuple(BLOCKS))
        check.choice("ResNet", "output_stride", output_stride, (32, 16, 8))
        check.choice("ResNet", "option", option, ("A", "B", "C"))
        check.integers("ResNet", "width", width, 1, 1)
        self.depth, self.width, self.output_stride = depth, width, output_stride
        block, (two, three, four, five) = BLOCKS[depth]
        self.channels = tuple(block.expansion * width * multiple for multiple in (1, 2, 4, 8))
        stride4, dilations4, stride5, dilations5 = {
            32: (2, (1, 1), 2, (1, 1)),
            16: (2, (1, 1), 1, (1, 2)),
            8: (1, (1, 2), 1, (2, 4)),
        }[output_stride]
        settings = stride_first, option, rng

        self.conv1 = nn.Conv2d(in_channels, width, 7, 2, 3, bias=False, rng=rng)
        self.bn1 = nn.BatchNorm2d(width, activation="relu")
        self.maxpool = nn.MaxPool2d(3, 2, 1, ceil_mode=ceil_mode)
        wide, wider, widest, _ = self.channels
        self.layer1 = residual_stage(block, width, width, two, 1, (1, 1), *settings)
        self.layer2 = residual_stage(block, wide, 2 * width, three, 2, (1, 1), *settings)
        self.layer3 = residual_stage(block, wider, 4 * width, four, stride4, dilations4, *settings)
        self.layer4 = residual_stage(block, widest, 8 * width, five, stride5, dilations5, *settings)

    def forward(self, x: Any) -> list[Any]:
        """Images (N, H, W, in_channels) to the results of the four stages, finest first."""
        x = self.maxpool(self.bn1(x, after=self.conv1))
        maps = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            maps.append(x)
        return maps


class ResNet(ImageNetwork):
    """ResNet: scores of the classes for an image.

    Parameters
    ----------
    depth : 18, 34, 50, 101 or 152
        Layers with weights.
    in_channels : int
        Channels of the image.
    num_classes : int
    output_stride, width, stride_first, ceil_mode, option
        As for `ResNetBackbone`.
    rng : numpy.random.Generator, optional
        Makes the first weights.

    Attributes
    ----------
    backbone : ResNetBackbone
    fc : nn.Linear

    Examples
    --------
    >>> ResNet(18, num_classes=10, width=2)(np.zeros((1, 50, 41, 3), np.float32)).shape
    (1, 10)
    """

    def __init__(
        self,
        depth: int = 50,
        in_channels: int = 3,
        num_classes: int = 1000,
        output_stride: int = 32,
        width: int = 64,
        stride_first: bool = False,
        ceil_mode: bool = False,
        option: str = "B",
        rng: Generator | None = None,
    ) -> None:
        super().__init__(in_channels, num_classes)
        self.depth, self.width, self.output_stride = depth, width, output_stride
        self.backbone = ResNetBackbone(
            depth, in_channels, output_stride, width, stride_first, ceil_mode, option, rng
        )
        self.stride = output_stride
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(self.backbone.channels[-1], num_classes, rng=rng)

    def forward(self, x: Any) -> Any:
        """Images (N, H, W, in_channels) to scores (N, num_classes)."""
        *_, x = self.feature_maps(x)
        return self.fc(self.avgpool(x).flatten(1))

    def feature_maps(self, x: Any) -> list[Any]:
        """What the four stages make of images: every 4, 8, 16 and 32 pixels, or `stride`."""
        self.check_images(x)
        return self.backbone(x)


class CifarResNet(ImageNetwork):
    """The ResNet for small images: the paper's section 4.2.

    A 3x3 convolution, three stages of n blocks of two 3x3 convolutions, with 16, 32 and 64
    channels, at full, half and quarter resolution; then the average over the image, and a linear
    layer.

    Parameters
    ----------
    depth : int
        Layers with weights, 6 n + 2: 20, 32, 44, 56, 110 or 1202 in the paper.
    in_channels : int
        Channels of the image.
    num_classes : int
    width : int
        Channels of the first stage, 16 in the paper.
    option : 'A', 'B' or 'C'
        Shortcuts: as for `shortcut`.
    rng : numpy.random.Generator, optional
        Makes the first weights.

    Examples
    --------
    >>> sum(parameter.size for parameter in CifarResNet(20).parameters())
    269722
    """

    stride = 4

    def __init__(
        self,
        depth: int = 20,
        in_channels: int = 3,
        num_classes: int = 10,
        width: int = 16,
        option: str = "A",
        rng: Generator | None = None,
    ) -> None:
        super().__init__(in_channels, num_classes)
        check.integers("CifarResNet", "depth", depth, 1, 8)
        check.integers("CifarResNet", "width", width, 1, 1)
        check.choice("CifarResNet", "option", option, ("A", "B", "C"))
        count, rest = divmod(depth - 2, 6)
        if rest:
            raise ValueError(f"CifarResNet: depth must be 6 n + 2, such as 20, but is {depth}.")
        self.depth, self.width = depth, width
        settings: dict[str, Any] = {"option": option, "rng": rng}
        self.conv1 = conv3x3(in_channels, width, 1, 1, rng)
        self.bn1 = nn.BatchNorm2d(width, activation="relu")
        self.layer1 = residual_stage(BasicBlock, width, width, count, **settings)
        self.layer2 = residual_stage(BasicBlock, width, 2 * width, count, 2, **settings)
        self.layer3 = residual_stage(BasicBlock, 2 * width, 4 * width, count, 2, **settings)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(4 * width, num_classes, rng=rng)

    def forward(self, x: Any) -> Any:
        """Images (N, H, W, in_channels) to scores (N, num_classes)."""
        *_, x = self.feature_maps(x)
        return self.linear(self.avgpool(x).flatten(1))

    def feature_maps(self, x: Any) -> list[Any]:
        """What the three stages make of images: every pixel, every 2 and 4 pixels."""
        self.check_images(x)
        x = self.bn1(x, after=self.conv1)
        maps = []
        for stage in (self.layer1, self.layer2, self.layer3):
            x = stage(x)
            maps.append(x)
        return maps


def resnet18(**settings: Any) -> ResNet:
    """`ResNet` with 18 layers."""
    return ResNet(18, **settings)


def resnet34(**settings: Any) -> ResNet:
    """`ResNet` with 34 layers."""
    return ResNet(34, **settings)


def resnet50(**settings: Any) -> ResNet:
    """`ResNet` with 50 layers."""
    return ResNet(50, **settings)


def resnet101(**settings: Any) -> ResNet:
    """`ResNet` with 101 layers."""
    return ResNet(101, **settings)


def resnet152(**settings: Any) -> ResNet:
    """`ResNet` with 152 layers."""
    return ResNet(152, **settings)


def resnet20(**settings: Any) -> CifarResNet:
    """`CifarResNet` with 20 layers."""
    return CifarResNet(20, **settings)


def resnet56(**settings: Any) -> CifarResNet:
    """`CifarResNet` with 56 layers."""
    return CifarResNet(56, **settings)
