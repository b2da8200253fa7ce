"""Segmentation networks in PyTorch as their reference repositories have them, names and all."""

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

VGG16 = (2, 2, 3, 3, 3)


class FCN8s(nn.Module):
    """FCN-8s with Caffe's names, padded by 100."""

    def __init__(self, num_classes, width):
        super().__init__()
        before = 3
        for stage, count in enumerate(VGG16, 1):
            after = width * min(2 ** (stage - 1), 8)
            for i in range(1, count + 1):
                padding = 100 if (stage, i) == (1, 1) else 1
                setattr(self, f"conv{stage}_{i}", nn.Conv2d(before, after, 3, padding=padding))
                before = after
        self.fc6 = nn.Conv2d(before, 64 * width, 7)
        self.fc7 = nn.Conv2d(64 * width, 64 * width, 1)
        self.score_fr = nn.Conv2d(64 * width, num_classes, 1)
        self.score_pool3 = nn.Conv2d(4 * width, num_classes, 1)
        self.score_pool4 = nn.Conv2d(8 * width, num_classes, 1)
        for name, size, stride in (
            ("upscore2", 4, 2),
            ("upscore8", 16, 8),
            ("upscore_pool4", 4, 2),
        ):
            up = nn.ConvTranspose2d(num_classes, num_classes, size, stride=stride, bias=False)
            setattr(self, name, up)

    def forward(self, x):
        height, width = x.shape[2:]
        pools = []
        for stage, count in enumerate(VGG16, 1):
            for i in range(1, count + 1):
                x = F.relu(getattr(self, f"conv{stage}_{i}")(x))
            x = F.max_pool2d(x, 2, stride=2, ceil_mode=True)
            pools.append(x)
        x = self.upscore2(self.score_fr(F.relu(self.fc7(F.relu(self.fc6(x))))))
        skip = self.score_pool4(pools[3])
        x = self.upscore_pool4(x + skip[:, :, 5 : 5 + x.shape[2], 5 : 5 + x.shape[3]])
        skip = self.score_pool3(pools[2])
        x = self.upscore8(x + skip[:, :, 9 : 9 + x.shape[2], 9 : 9 + x.shape[3]])
        return x[:, :, 31 : 31 + height, 31 : 31 + width]


class SegNet(nn.Module):
    """SegNet with names as in the authors' Caffe files, or with those of ConvEn and ConvDe."""

    def __init__(self, num_classes, width, caffe=True):
        super().__init__()
        names = ("conv{}_{}", "conv{}_{}_bn", "conv{}_{}_D", "conv{}_{}_D_bn")
        other = ("ConvEn{}{}", "BNEn{}{}", "ConvDe{}{}", "BNDe{}{}")
        self.names = names if caffe else other
        down, down_norm, up, up_norm = self.names
        widths = [width * min(2**stage, 8) for stage in range(5)]
        before = 3
        for stage, count in enumerate(VGG16, 1):
            for i in range(1, count + 1):
                self._add(down, down_norm, stage, i, before, widths[stage - 1])
                before = widths[stage - 1]
        for stage in range(5, 0, -1):
            for i in range(VGG16[stage - 1], 0, -1):
                after = widths[stage - 1] if i > 1 else [num_classes, *widths][stage - 1]
                self._add(up, up_norm, stage, i, before, after)
                before = after
        if caffe:
            del self.conv1_1_D_bn  # the other has one that it never uses

    def _add(self, conv, norm, stage, i, before, after):
        setattr(self, conv.format(stage, i), nn.Conv2d(before, after, 3, padding=1))
        setattr(self, norm.format(stage, i), nn.BatchNorm2d(after))

    def _apply_layer(self, conv, norm, stage, i, x):
        x = getattr(self, conv.format(stage, i))(x)
        return F.relu(getattr(self, norm.format(stage, i))(x))

    def forward(self, x):
        down, down_norm, up, up_norm = self.names
        pooled = []
        for stage, count in enumerate(VGG16, 1):
            for i in range(1, count + 1):
                x = self._apply_layer(down, down_norm, stage, i, x)
            x, indices = F.max_pool2d(x, 2, stride=2, return_indices=True)
            pooled.append(indices)
        for stage in range(5, 0, -1):
            x = F.max_unpool2d(x, pooled.pop(), 2, stride=2)
            for i in range(VGG16[stage - 1], 0, -1):
                if (stage, i) != (1, 1):
                    x = self._apply_layer(up, up_norm, stage, i, x)
        return getattr(self, up.format(1, 1))(x)


class DoubleConv(nn.Module):
    def __init__(self, before, after, bias, name):
        super().__init__()
        layers = (
            nn.Conv2d(before, after, 3, padding=1, bias=bias),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, padding=1, bias=bias),
            nn.BatchNorm2d(after),
            nn.ReLU(),
        )
        setattr(self, name, nn.Sequential(*layers))

    def forward(self, x):
        (layers,) = self.children()
        return layers(x)


class Inside(nn.Module):
    """A module under a name, with whatever comes in front of it."""

    def __init__(self, **modules):
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x):
        for module in self.children():
            x = module(x)
        return x


class Up(nn.Module):
    def __init__(self, before, bias, name):
        super().__init__()
        self.up = nn.ConvTranspose2d(before, before // 2, 2, stride=2)
        self.conv = DoubleConv(before, before // 2, bias, name)

    def forward(self, x, skip):
        return self.conv(torch.cat([skip, self.up(x)], 1))


class UNet(nn.Module):
    """The usual PyTorch U-Net, at present or, if `first`, as it was in 2017."""

    def __init__(self, in_channels, num_classes, width, first=False):
        super().__init__()
        name, bias = ("conv", True) if first else ("double_conv", False)
        inc = DoubleConv(in_channels, width, bias, name)
        self.inc = Inside(conv=inc) if first else inc
        for level in range(1, 5):
            pair = DoubleConv(width * 2 ** (level - 1), width * 2**level, bias, name)
            inside = nn.Sequential(nn.MaxPool2d(2), pair)
            down = Inside(mpconv=inside) if first else Inside(maxpool_conv=inside)
            setattr(self, f"down{level}", down)
            setattr(self, f"up{level}", Up(width * 2 ** (5 - level), bias, name))
        self.outc = Inside(conv=nn.Conv2d(width, num_classes, 1))

    def forward(self, x):
        skips = [self.inc(x)]
        for level in range(1, 5):
            skips.append(getattr(self, f"down{level}")(skips[-1]))
        x = skips.pop()
        for level in range(1, 5):
            x = getattr(self, f"up{level}")(x, skips.pop())
        return self.outc(x)
