"""Segmentation networks written down in PyTorch, each as `minidl.models` has it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

VGG_STAGES = ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8))  # widths, of the first one's


def _convolutions(
    before: int, widths: Sequence[int], padding: int = 1, dilation: int = 1, norm: bool = False
) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in widths:
        layers.append(nn.Conv2d(before, width, 3, padding=padding, dilation=dilation))
        layers += [nn.BatchNorm2d(width)] * norm
        layers.append(nn.ReLU(inplace=True))
        before, padding = width, dilation
    return nn.Sequential(*layers)


def _stages(
    in_channels: int, width: int, first_padding: int = 1, last_dilation: int = 1, norm: bool = False
) -> nn.ModuleList:
    """VGG-16's five stages. The first padding is that of the very first convolution."""
    stages = nn.ModuleList()
    for i, multiples in enumerate(VGG_STAGES):
        widths = [multiple * width for multiple in multiples]
        dilation = last_dilation if i == 4 else 1
        padding = first_padding if i == 0 else dilation
        stages.append(_convolutions(in_channels, widths, padding, dilation, norm))
        in_channels = widths[-1]
    return stages


def _cut(x: torch.Tensor, offset: int, size: Sequence[int]) -> torch.Tensor:
    return x[:, :, offset : offset + size[0], offset : offset + size[1]]


class FCN8s(nn.Module):
    """`minidl.models.FCN8s`, with the last up-convolution fixed."""

    def __init__(self, in_channels: int = 3, num_classes: int = 21, width: int = 64) -> None:
        super().__init__()
        self.stages = _stages(in_channels, width, first_padding=100)
        self.fc6 = nn.Conv2d(8 * width, 64 * width, 7)
        self.fc7 = nn.Conv2d(64 * width, 64 * width, 1)
        self.dropout = nn.Dropout()
        self.score_fr = nn.Conv2d(64 * width, num_classes, 1)
        channels = num_classes, num_classes
        self.upscore2 = nn.ConvTranspose2d(*channels, 4, stride=2, bias=False)
        self.score_pool4 = nn.Conv2d(8 * width, num_classes, 1)
        self.upscore_pool4 = nn.ConvTranspose2d(*channels, 4, stride=2, bias=False)
        self.score_pool3 = nn.Conv2d(4 * width, num_classes, 1)
        self.upscore8 = nn.ConvTranspose2d(*channels, 16, stride=8, bias=False)
        self.upscore8.weight.requires_grad = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size, pools = x.shape[2:], []
        for stage in self.stages:
            x = F.max_pool2d(stage(x), 2, ceil_mode=True)
            pools.append(x)
        x = self.dropout(F.relu(self.fc6(x), inplace=True))
        x = self.dropout(F.relu(self.fc7(x), inplace=True))
        up = self.upscore2(self.score_fr(x))
        up = self.upscore_pool4(up + _cut(self.score_pool4(pools[3]), 5, up.shape[2:]))
        up = self.upscore8(up + _cut(self.score_pool3(pools[2]), 9, up.shape[2:]))
        return _cut(up, 31, size)


class LargeFOV(nn.Module):
    """`minidl.models.DeepLab`: for sides that are one more than a multiple of 8."""

    def __init__(self, in_channels: int = 3, num_classes: int = 21, width: int = 64) -> None:
        super().__init__()
        self.stages = _stages(in_channels, width, last_dilation=2)
        self.fc6 = nn.Conv2d(8 * width, 16 * width, 3, padding=12, dilation=12)
        self.fc7 = nn.Conv2d(16 * width, 16 * width, 1)
        self.dropout = nn.Dropout()
        self.fc8 = nn.Conv2d(16 * width, num_classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size = x.shape[2:]
        for stage, stride in zip(self.stages, (2, 2, 2, 1, 1), strict=True):
            x = F.max_pool2d(stage(x), 3, stride, padding=1, ceil_mode=True)
        x = self.dropout(F.relu(self.fc6(x), inplace=True))
        x = self.dropout(F.relu(self.fc7(x), inplace=True))
        return F.interpolate(self.fc8(x), size, mode="bilinear", align_corners=True)


class SegNet(nn.Module):
    """`minidl.models.SegNet`."""

    def __init__(self, in_channels: int = 3, num_classes: int = 11, width: int = 64) -> None:
        super().__init__()
        self.encoder = _stages(in_channels, width, norm=True)
        self.decoder = nn.ModuleList()
        before = 8 * width
        for multiples in ((8, 8, 8), (8, 8, 4), (4, 4, 2), (2, 1), (1,)):
            widths = [multiple * width for multiple in multiples]
            self.decoder.append(_convolutions(before, widths, norm=True))
            before = widths[-1]
        self.scores = nn.Conv2d(width, num_classes, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = []
        for stage in self.encoder:
            x = stage(x)
            size = x.shape[2:]
            x, indices = F.max_pool2d(x, 2, ceil_mode=True, return_indices=True)
            pooled.append((indices, size))
        for stage, (indices, size) in zip(self.decoder, reversed(pooled), strict=True):
            x = stage(F.max_unpool2d(x, indices, 2, output_size=size))
        return self.scores(x)


def _norm_relu_conv(before: int, after: int, kernel_size: int) -> nn.Sequential:
    return nn.Sequential(
        nn.BatchNorm2d(before),
        nn.ReLU(inplace=True),
        nn.Conv2d(before, after, kernel_size, padding=kernel_size // 2),
        nn.Dropout(0.2),
    )


class _DenseBlock(nn.Module):
    def __init__(self, before: int, layers: int, growth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            _norm_relu_conv(before + i * growth, growth, 3) for i in range(layers)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        new = []
        for layer in self.layers:
            new.append(layer(x))
            x = torch.cat([x, new[-1]], 1)
        return torch.cat(new, 1)


class FCDenseNet(nn.Module):
    """`minidl.models.FCDenseNet`, by default FC-DenseNet103."""

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 11,
        growth: int = 16,
        blocks: Sequence[int] = (4, 5, 7, 10, 12, 15),
        first: int = 48,
    ) -> None:
        super().__init__()
        *layers, bottom = blocks
        self.first = nn.Conv2d(in_channels, first, 3, padding=1)
        self.down, self.transition_down = nn.ModuleList(), nn.ModuleList()
        skips = []
        for count in layers:
            self.down.append(_DenseBlock(first, count, growth))
            first += count * growth
            skips.append(first)
            self.transition_down.append(_norm_relu_conv(first, first, 1))
        self.bottleneck = _DenseBlock(first, bottom, growth)
        new = bottom * growth
        self.transition_up, self.up = nn.ModuleList(), nn.ModuleList()
        for count, skip in zip(reversed(layers), reversed(skips), strict=True):
            self.transition_up.append(nn.ConvTranspose2d(new, new, 3, stride=2))
            self.up.append(_DenseBlock(new + skip, count, growth))
            first, new = new + skip + count * growth, count * growth
        self.scores = nn.Conv2d(first, num_classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, skips = self.first(x), []
        for block, transition in zip(self.down, self.transition_down, strict=True):
            x = torch.cat([x, block(x)], 1)
            skips.append(x)
            x = F.max_pool2d(transition(x), 2)
        new = self.bottleneck(x)
        ways = zip(self.transition_up, self.up, reversed(skips), strict=True)
        for transition, block, skip in ways:
            x = torch.cat([_cut(transition(new), 0, skip.shape[2:]), skip], 1)
            new = block(x)
        return self.scores(torch.cat([x, new], 1))
