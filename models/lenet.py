"""LeNet-5 (LeCun, Bottou, Bengio, Haffner, Gradient-Based Learning Applied to Document Recognition,
Proceedings of the IEEE 1998), figure 2 and section II.B.

====== =================================================== ======== ==========
layer                                                      result   parameters
====== =================================================== ======== ==========
c1     5x5 convolution                                     28x28x6  156
s2     sums over 2x2, times a weight, plus a bias          14x14x6  12
c3     5x5 convolution, each map from some of those of s2  10x10x16 1 516
s4     as s2                                               5x5x16   32
c5     5x5 convolution                                     1x1x120  48 120
f6     linear                                              84       10 164
output distances from the codes of the classes             10       0
====== =================================================== ======== ==========

60 000 parameters. Every layer but the last is followed by 1.7159 tanh(2/3 x).

``LeNet5(dense=True)`` is what the name often means today: each map of c3 sees all maps of s2,
pooling takes maxima, ReLUs follow, and a linear layer makes the scores; 61 706 parameters.

Differences from the paper: the codes are ours, digits of 7x12 pixels in the manner of figure 3, and
scores are the negative distances, so that cross-entropy of them is the paper's equation 9 without
its constant.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import functional as F
from minidl import nn
from minidl.models.network import ImageNetwork
from minidl.nn import init

# Maps of s2 that each map of c3 is computed from: table I.
THREES = [[0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5], [4, 5, 0], [5, 0, 1]]
FOURS = [[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5, 0], [4, 5, 0, 1], [5, 0, 1, 2]]
FOURS += [[0, 1, 3, 4], [1, 2, 4, 5], [0, 2, 3, 5]]
ALL = [[0, 1, 2, 3, 4, 5]]

DIGITS = """
.......  .......  .......  .......  .......  .......  .......  .......  .......  .......
..###..  ...#...  ..###..  ..###..  ....##.  .#####.  ..###..  .#####.  ..###..  ..###..
.##.##.  ..##...  .##.##.  .##.##.  ...###.  .##....  .##.##.  .....##  .##.##.  .##.##.
##...##  .###...  ##...##  ##...##  ...###.  .##....  ##.....  .....##  ##...##  ##...##
##...##  ...#...  .....##  .....##  ..#.##.  .##....  ##.....  ....##.  ##...##  ##...##
##...##  ...#...  ....##.  ...###.  ..#.##.  .####..  ##.##..  ....##.  .##.##.  .##.###
##...##  ...#...  ...##..  ...###.  .#..##.  ....##.  ###.##.  ...##..  ..###..  ..##.##
##...##  ...#...  ..##...  .....##  .#..##.  .....##  ##...##  ...##..  .##.##.  .....##
##...##  ...#...  .##....  .....##  #######  .....##  ##...##  ..##...  ##...##  .....##
.##.##.  ...#...  ##.....  ##...##  ....##.  ##...##  ##...##  ..##...  ##...##  ....##.
..###..  .#####.  #######  .##.##.  ....##.  .##.##.  .##.##.  .##....  .##.##.  .#.##..
.......  .......  .......  ..###..  ....##.  ..###..  ..###..  .##....  ..###..  ..##...
"""


def digit_codes() -> np.ndarray:
    """The ten digits as pictures of 7x12 pixels: (10, 84), +1 where there is ink and -1 else."""
    rows = [line.split() for line in DIGITS.split("\n") if line]
    digits = ["".join(parts) for parts in zip(*rows, strict=True)]
    return np.array([[1 if pixel == "#" else -1 for pixel in digit] for digit in digits])


class Squash(nn.Module):
    """``1.7159 tanh(2/3 x)``, which is about 1 at 1 and -1 at -1: the paper's appendix A."""

    def forward(self, x: Any) -> Any:
        """(...) to the same shape."""
        return F.tanh(x * (2 / 3)) * 1.7159


class Subsampling(nn.Module):
    """Sums over 2x2 pixels, times a weight and plus a bias for each channel.

    Parameters
    ----------
    channels : int
    rng : numpy.random.Generator, optional
        Makes the first weights.
    """

    def __init__(self, channels: int, rng: np.random.Generator | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(first_weights((channels,), 4, rng))
        self.bias = nn.Parameter(np.zeros(channels, np.float32))

    def forward(self, x: Any) -> Any:
        """(N, H, W, channels) to (N, H // 2, W // 2, channels)."""
        return F.avg_pool2d(x, 2) * 4 * self.weight + self.bias


class PartialConv(nn.Module):
    """c3: a 5x5 convolution from 6 maps to 16, each of which is computed from some only: table I.

    Parameters
    ----------
    rng : numpy.random.Generator, optional
        Makes the first weights.
    """

    def __init__(self, rng: np.random.Generator | None = None) -> None:
        super().__init__()
        self.threes, self.fours, self.all = (
            first_conv(sum(map(len, inputs)), len(inputs), rng, groups=len(inputs))
            for inputs in (THREES, FOURS, ALL)
        )

    def forward(self, x: Any) -> Any:
        """(N, H, W, 6) to (N, H - 4, W - 4, 16)."""
        parts = (self.threes, THREES), (self.fours, FOURS), (self.all, ALL)
        return F.concatenate([conv(x[..., np.concatenate(inputs)]) for conv, inputs in parts])


def first_weights(shape: tuple[int, ...], fan_in: int, rng: np.random.Generator | None) -> Any:
    """Evenly distributed within 2.4 / fan-in of 0: the paper's appendix A."""
    return init.uniform(shape, rng, low=-2.4 / fan_in, high=2.4 / fan_in)


def first_conv(
    in_channels: int, out_channels: int, rng: np.random.Generator | None, groups: int = 1
) -> nn.Conv2d:
    """A 5x5 convolution with such weights."""
    conv = nn.Conv2d(in_channels, out_channels, 5, groups=groups, rng=rng)
    conv.weight.data = first_weights(conv.weight.shape, 25 * in_channels // groups, rng)
    return conv


def first_linear(in_features: int, out_features: int, rng: np.random.Generator | None) -> nn.Linear:
    """A linear layer with such weights."""
    linear = nn.Linear(in_features, out_features, rng=rng)
    linear.weight.data = first_weights(linear.weight.shape, in_features, rng)
    return linear


class Codes(nn.Module):
    """Negative squared distances of vectors from fixed codes, one for each class.

    Parameters
    ----------
    codes : (classes, features) array
    """

    codes: np.ndarray

    def __init__(self, codes: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("codes", codes.astype(np.float32))

    def forward(self, x: Any) -> Any:
        """(N, features) to (N, classes)."""
        difference = x.unsqueeze(1) - self.codes
        return -(difference * difference).sum(-1)


class LeNet5(ImageNetwork):
    """LeNet-5: scores of the classes for an image of 32x32 pixels.

    Parameters
    ----------
    in_channels : int
        Channels of the image.
    num_classes : int
        With 10, the codes are pictures of the digits; otherwise drawn at random.
    dense : bool
        The modern variant: see `minidl.models.lenet`.
    rng : numpy.random.Generator, optional
        Makes the first weights, and codes.

    Examples
    --------
    >>> [sum(p.size for p in LeNet5(dense=dense).parameters()) for dense in (False, True)]
    [60000, 61706]
    """

    stride, smallest = 4, 32
    c1: nn.Module
    s2: nn.Module
    c3: nn.Module
    s4: nn.Module
    c5: nn.Module
    f6: nn.Module
    output: nn.Module

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 10,
        dense: bool = False,
        rng: np.random.Generator | None = None,
    ) -> None:
        super().__init__(in_channels, num_classes)
        self.dense = dense
        if dense:
            settings: dict[str, Any] = {"activation": "relu", "rng": rng}
            self.c1 = nn.Conv2d(in_channels, 6, 5, **settings)
            self.s2 = nn.MaxPool2d(2)
            self.c3 = nn.Conv2d(6, 16, 5, **settings)
            self.s4 = nn.MaxPool2d(2)
            self.c5 = nn.Conv2d(16, 120, 5, **settings)
            self.f6 = nn.Sequential(nn.Linear(120, 84, rng=rng), nn.ReLU())
            self.output = nn.Linear(84, num_classes, rng=rng)
        else:
            squash = Squash()
            self.c1 = nn.Sequential(first_conv(in_channels, 6, rng), squash)
            self.s2 = nn.Sequential(Subsampling(6, rng), squash)
            self.c3 = nn.Sequential(PartialConv(rng), squash)
            self.s4 = nn.Sequential(Subsampling(16, rng), squash)
            self.c5 = nn.Sequential(first_conv(16, 120, rng), squash)
            self.f6 = nn.Sequential(first_linear(120, 84, rng), squash)
            self.output = self._codes(rng)

    def _codes(self, rng: np.random.Generator | None) -> Codes:
        if self.num_classes == 10:
            return Codes(digit_codes())
        return Codes(np.where(init.normal((self.num_classes, 84), rng) < 0, -1, 1))

    def forward(self, x: Any) -> Any:
        """Images (N, 32, 32, in_channels) to scores (N, num_classes)."""
        *_, x = self.feature_maps(x)
        return self.output(self.f6(x.flatten(1)))

    def feature_maps(self, x: Any) -> list[Any]:
        """What the convolutions c1, c3 and c5 make of images: (N, 28, 28, 6) and so on."""
        self.check_images(x)
        c1 = self.c1(x)
        c3 = self.c3(self.s2(c1))
        return [c1, c3, self.c5(self.s4(c3))]

    def sizes(self) -> str:
        """What heights and widths it takes, in words."""
        return "32"

    def check_images(self, x: Any) -> None:
        """Refuse what is no batch of images of 32x32 pixels."""
        super().check_images(x)
        height, width = np.shape(x)[1:3]
        if (height, width) != (32, 32):
            raise ValueError(
                f"LeNet5: height and width must be 32, but the image is {height} x {width}. "
                "Resize it; the paper's digits are 20 x 20 in the middle of it."
            )


def lenet5(**settings: Any) -> LeNet5:
    """`LeNet5` as in the paper."""
    return LeNet5(**settings)
