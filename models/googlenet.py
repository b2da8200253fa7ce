"""GoogLeNet (Szegedy et al., Going Deeper with Convolutions, CVPR 2015), table 1 and figure 3.

========= ===== ============================================= ======================
part      at    channels: 1x1; 3x3 after 1x1; 5x5 after 1x1;  ``batch_norm=True``
                pool, 1x1
========= ===== ============================================= ======================
conv1     1/2   7x7, 64
          1/4   3x3 max-pool; normalisation                   no normalisation
conv2     1/4   1x1, 64
conv3     1/4   3x3, 192; normalisation                       no normalisation
          1/8   3x3 max-pool
3a        1/8   64; 128 after 96; 32 after 16; 32             3x3 instead of 5x5
3b        1/8   128; 192 after 128; 96 after 32; 64           3x3 instead of 5x5
          1/16  3x3 max-pool
4a        1/16  192; 208 after 96; 48 after 16; 64            3x3 instead of 5x5
4b        1/16  160; 224 after 112; 64 after 24; 64           3x3 instead of 5x5
4c        1/16  128; 256 after 128; 64 after 24; 64           3x3 instead of 5x5
4d        1/16  112; 288 after 144; 64 after 32; 64           3x3 instead of 5x5
4e        1/16  256; 320 after 160; 128 after 32; 128         3x3 instead of 5x5
          1/32  3x3 max-pool                                  2x2
5a        1/32  256; 320 after 160; 128 after 32; 128         3x3 instead of 5x5
5b        1/32  384; 384 after 192; 128 after 48; 128         3x3 instead of 5x5
fc        average over the image, dropout, linear
========= ===== ============================================= ======================

Each convolution is followed by a ReLU, and pools round sizes up. In training, two more heads
behind 4a and 4d make scores as well, whose losses count 0.3 each in the paper.

With ``batch_norm=True`` it is torchvision's network: 13 004 888 parameters, the paper's has
13 378 280; without the two heads 6 624 904 and 6 998 552.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import functional as F
from minidl import nn
from minidl.functional import check
from minidl.models.network import ImageNetwork

Generator = np.random.Generator

# Channels of each module: 1x1, in front of the 3x3, 3x3, in front of the 5x5, 5x5, after the pool.
CHANNELS = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


class ConvUnit(nn.Module):
    """A convolution and its ReLU, with batch normalisation in between or without.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride : int
        It is padded by half the kernel.
    batch_norm : bool
    rng : numpy.random.Generator, optional
        Makes the first weights.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        batch_norm: bool = False,
        rng: Generator | None = None,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, kernel_size // 2, rng=rng,
            bias=not batch_norm, activation=None if batch_norm else "relu",
        )  # fmt: skip
        self.bn = nn.BatchNorm2d(out_channels, eps=1e-3, activation="relu") if batch_norm else None

    def forward(self, x: Any) -> Any:
        """(N, H, W, in_channels) to (N, H / stride, W / stride, out_channels), rounded up."""
        return self.conv(x) if self.bn is None else self.bn(x, after=self.conv)


class Inception(nn.Module):
    """Convolutions of three sizes and a pooling beside each other: figure 2(b).

    Parameters
    ----------
    in_channels : int
    channels : six ints
        As in the table of `minidl.models.googlenet`.
    batch_norm : bool
        torchvision's: with batch normalisation, and 3x3 in place of 5x5.
    rng : numpy.random.Generator, optional
        Makes the first weights.
    """

    def __init__(
        self,
        in_channels: int,
        channels: tuple[int, ...],
        batch_norm: bool = False,
        rng: Generator | None = None,
    ) -> None:
        super().__init__()
        one, before3, three, before5, five, pooled = channels
        settings: dict[str, Any] = {"batch_norm": batch_norm, "rng": rng}
        self.branch1 = ConvUnit(in_channels, one, 1, **settings)
        self.branch2 = nn.Sequential(
            ConvUnit(in_channels, before3, 1, **settings), ConvUnit(before3, three, 3, **settings)
        )
        self.branch3 = nn.Sequential(
            ConvUnit(in_channels, before5, 1, **settings),
            ConvUnit(before5, five, 3 if batch_norm else 5, **settings),
        )
        self.branch4 = nn.Sequential(
            nn.MaxPool2d(3, 1, 1), ConvUnit(in_channels, pooled, 1, **settings)
        )

    def forward(self, x: Any) -> Any:
        """(N, H, W, in_channels) to (N, H, W, F), F the sum over the branches."""
        return F.concatenate([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)])


class AuxiliaryHead(nn.Module):
    """Scores from the middle of the network, for training: section 5.

    Parameters
    ----------
    in_channels, num_classes : int
    shrink : int
        What the 128 channels and 1024 features are divided by.
    batch_norm : bool
        torchvision's: with batch normalisation, and averages over 4x4 bins.
    rng : numpy.random.Generator, optional
        Makes the first weights.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        shrink: int = 1,
        batch_norm: bool = False,
        rng: Generator | None = None,
    ) -> None:
        super().__init__()
        # At 224 pixels, what comes in is 14 x 14 and the windows make 4 x 4 of it themselves.
        bins = nn.AdaptiveAvgPool2d(4)
        self.pool = bins if batch_norm else nn.Sequential(nn.AvgPool2d(5, 3), bins)
        self.conv = ConvUnit(in_channels, 128 // shrink, 1, batch_norm=batch_norm, rng=rng)
        self.fc1 = nn.Linear(4 * 4 * (128 // shrink), 1024 // shrink, rng=rng)
        self.dropout = nn.Dropout(0.7)
        self.fc2 = nn.Linear(1024 // shrink, num_classes, rng=rng)

    def forward(self, x: Any) -> Any:
        """(N, H, W, in_channels) to scores (N, num_classes)."""
        x = self.conv(self.pool(x)).flatten(1)
        return self.fc2(self.dropout(F.relu(self.fc1(x))))


class GoogLeNet(ImageNetwork):
    """GoogLeNet: scores of the classes for an image.

    Parameters
    ----------
    in_channels : int
        Channels of the image.
    num_classes : int
    batch_norm : bool
        torchvision's network: see `minidl.models.googlenet`.
    auxiliary : bool
        Whether there are the two heads for training.
    shrink : int
        What all numbers of channels are divided by: 1, 2, 4 or 8.
    rng : numpy.random.Generator, optional
        Makes the first weights.

    Examples
    --------
    >>> model = GoogLeNet(num_classes=10, shrink=8)
    >>> x = np.zeros((2, 80, 96, 3), np.float32)
    >>> [scores.shape for scores in model(x)]
    [(2, 10), (2, 10), (2, 10)]
    >>> model.eval()(x).shape
    (2, 10)
    """

    stride = 32

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 1000,
        batch_norm: bool = False,
        auxiliary: bool = True,
        shrink: int = 1,
        rng: Generator | None = None,
    ) -> None:
        super().__init__(in_channels, num_classes)
        check.choice("GoogLeNet", "shrink", shrink, (1, 2, 4, 8))
        self.batch_norm, self.auxiliary, self.shrink = batch_norm, auxiliary, shrink
        # The last pooling needs two pixels, or one with 2x2; a head of the paper, five.
        self.smallest = 15 if batch_norm else 79 if auxiliary else 31
        settings: dict[str, Any] = {"batch_norm": batch_norm, "rng": rng}

        def inception(name: str, before: str = "") -> Inception:
            one, _, three, _, five, pooled = CHANNELS.get(before, (0, 0, 192, 0, 0, 0))
            channels = tuple(count // shrink for count in CHANNELS[name])
            return Inception((one + three + five + pooled) // shrink, channels, **settings)

        stem, wide = 64 // shrink, 192 // shrink
        self.conv1 = ConvUnit(in_channels, stem, 7, 2, **settings)
        self.conv2 = ConvUnit(stem, stem, 1, **settings)
        self.conv3 = ConvUnit(stem, wide, 3, **settings)
        self.norm = nn.Identity() if batch_norm else nn.LocalResponseNorm(5)
        self.maxpool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.inception3a = inception("3a")
        self.inception3b = inception("3b", "3a")
        self.inception4a = inception("4a", "3b")
        self.inception4b = inception("4b", "4a")
        self.inception4c = inception("4c", "4b")
        self.inception4d = inception("4d", "4c")
        self.inception4e = inception("4e", "4d")
        self.maxpool4 = nn.MaxPool2d(2 if batch_norm else 3, 2, ceil_mode=True)
        self.inception5a = inception("5a", "4e")
        self.inception5b = inception("5b", "5a")
        if auxiliary:
            self.aux1 = AuxiliaryHead(512 // shrink, num_classes, shrink, **settings)
            self.aux2 = AuxiliaryHead(528 // shrink, num_classes, shrink, **settings)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.2 if batch_norm else 0.4)
        self.fc = nn.Linear(1024 // shrink, num_classes, rng=rng)

    def forward(self, x: Any) -> Any:
        """Images (N, H, W, in_channels) to scores (N, num_classes).

        In training, with auxiliary heads, to three of them: those of the last head first, then
        behind 4a and 4d. The paper adds up their losses with weights 1, 0.3 and 0.3.
        """
        *_, (fourth_a, fourth_d), x = self._maps(x)
        scores = self.fc(self.dropout(self.avgpool(x).flatten(1)))
        if not (self.training and self.auxiliary):
            return scores
        return scores, self.aux1(fourth_a), self.aux2(fourth_d)

    def feature_maps(self, x: Any) -> list[Any]:
        """What is there before each pooling, at 1/2, 1/4, 1/8, 1/16, and at the end, at 1/32."""
        first, second, third, fourth, _, fifth = self._maps(x)
        return [first, second, third, fourth, fifth]

    def _maps(self, x: Any) -> tuple:
        self.check_images(x)
        first = self.conv1(x)
        second = self.norm(self.conv3(self.conv2(self.norm(self.maxpool(first)))))
        third = self.inception3b(self.inception3a(self.maxpool(second)))
        fourth_a = self.inception4a(self.maxpool(third))
        fourth_d = self.inception4d(self.inception4c(self.inception4b(fourth_a)))
        fourth = self.inception4e(fourth_d)
        fifth = self.inception5b(self.inception5a(self.maxpool4(fourth)))
        return first, second, third, fourth, (fourth_a, fourth_d), fifth


def googlenet(**settings: Any) -> GoogLeNet:
    """`GoogLeNet`; with ``batch_norm=True`` that of torchvision."""
    return GoogLeNet(**settings)
