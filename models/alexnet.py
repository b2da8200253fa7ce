"""AlexNet (Krizhevsky, Sutskever, Hinton, ImageNet Classification with Deep Convolutional Neural
Networks, NIPS 2012), figure 2.

======= ================================================= =========== ===================
layer   paper                                             at 227      ``one_column=True``
======= ================================================= =========== ===================
conv1   11x11, 96, stride 4; normalisation                55          64, padded by 2
        3x3 max-pool, stride 2                            27
conv2   5x5, 256, in two groups; normalisation            27          192
        3x3 max-pool, stride 2                            13
conv3   3x3, 384                                          13          384
conv4   3x3, 384, in two groups                           13          256
conv5   3x3, 256, in two groups                           13          256
        3x3 max-pool, stride 2                            6
fc6,7   4096 each, dropout                                            the same
fc8     classes                                                       the same
======= ================================================= =========== ===================

The two groups are the paper's two graphics cards. With one column it is the network without them
(Krizhevsky, One weird trick for parallelizing convolutional neural networks, 2014, section 5), as
in torchvision: 61 100 840 parameters; the paper's has 60 965 224.

The paper says that images have 224 pixels, but its sizes come out only for 227 (without padding).

Difference from the paper: an average over 6x6 bins in front of the linear layers, which does
nothing to images of 227 pixels and makes others fit.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import nn
from minidl.functional import check
from minidl.models.network import ImageNetwork


class AlexNet(ImageNetwork):
    """AlexNet: scores of the classes for an image.

    Parameters
    ----------
    in_channels : int
        Channels of the image.
    num_classes : int
    one_column : bool
        The network of 2014, without groups and normalisation.
    shrink : int
        What all numbers of channels, and of the linear layers' features, are divided by; 16 at
        most, and a divisor of 16.
    rng : numpy.random.Generator, optional
        Makes the first weights.

    Examples
    --------
    >>> AlexNet(num_classes=10, shrink=16)(np.zeros((2, 80, 70, 3), np.float32)).shape
    (2, 10)
    """

    stride = 32

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 1000,
        one_column: bool = False,
        shrink: int = 1,
        rng: np.random.Generator | None = None,
    ) -> None:
        super().__init__(in_channels, num_classes)
        check.choice("AlexNet", "shrink", shrink, (1, 2, 4, 8, 16))
        self.one_column, self.shrink = one_column, shrink
        self.smallest = 63 if one_column else 67
        channels = (64, 192, 384, 256, 256) if one_column else (96, 256, 384, 384, 256)
        one, two, three, four, five = (count // shrink for count in channels)
        hidden = 4096 // shrink
        settings: dict[str, Any] = {"activation": "relu", "rng": rng}
        grouped = settings | {"groups": 1 if one_column else 2}
        padding = 2 if one_column else 0

        self.conv1 = nn.Conv2d(in_channels, one, 11, 4, padding, **settings)
        self.norm1 = self._normalisation()
        self.conv2 = nn.Conv2d(one, two, 5, 1, 2, **grouped)
        self.norm2 = self._normalisation()
        self.conv3 = nn.Conv2d(two, three, 3, 1, 1, **settings)
        self.conv4 = nn.Conv2d(three, four, 3, 1, 1, **grouped)
        self.conv5 = nn.Conv2d(four, five, 3, 1, 1, **grouped)
        self.pool = nn.MaxPool2d(3, 2)
        self.avgpool = nn.AdaptiveAvgPool2d(6)
        fc6 = nn.Linear(6 * 6 * five, hidden, rng=rng)
        fc7 = nn.Linear(hidden, hidden, rng=rng)
        fc8 = nn.Linear(hidden, num_classes, rng=rng)
        drop6, drop7 = nn.Dropout(0.5), nn.Dropout(0.5)
        # The paper drops what fc6 and fc7 give, the other network what they are given.
        self.classifier = (
            nn.Sequential(drop6, fc6, nn.ReLU(), drop7, fc7, nn.ReLU(), fc8)
            if one_column
            else nn.Sequential(fc6, nn.ReLU(), drop6, fc7, nn.ReLU(), drop7, fc8)
        )

    def _normalisation(self) -> nn.Module:
        """Equation of section 3.3; our alpha is divided by the size of the window, 5."""
        if self.one_column:
            return nn.Identity()
        return nn.LocalResponseNorm(5, alpha=5 * 1e-4, beta=0.75, k=2.0)

    def forward(self, x: Any) -> Any:
        """Images (N, H, W, in_channels) to scores (N, num_classes)."""
        *_, x = self.feature_maps(x)
        return self.classifier(self.avgpool(self.pool(x)).flatten(1))

    def feature_maps(self, x: Any) -> list[Any]:
        """What is there before each pooling: every 4, 8 and 16 pixels."""
        self.check_images(x)
        first = self.norm1(self.conv1(x))
        second = self.norm2(self.conv2(self.pool(first)))
        third = self.conv5(self.conv4(self.conv3(self.pool(second))))
        return [first, second, third]


def alexnet(**settings: Any) -> AlexNet:
    """`AlexNet`; with ``one_column=True`` that of torchvision."""
    return AlexNet(**settings)
