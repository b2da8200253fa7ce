"""U-Net (Ronneberger, Fischer, Brox, U-Net: Convolutional Networks for Biomedical Image
Segmentation, MICCAI 2015), figure 1.

====== ======== ========================================================= =====================
level  channels on the way down                                           on the way up
====== ======== ========================================================= =====================
0      64       two 3x3 convolutions, keep a copy, 2x2 max-pool           two 3x3 convolutions
1      128      the same                                                  the same
2      256      the same                                                  the same
3      512      the same                                                  the same
4      1024     two 3x3 convolutions, dropout
====== ======== ========================================================= =====================

Every 3x3 convolution is followed by a ReLU. From each level to the one above lead a 2x2
up-convolution that halves the channels, and the copy, cropped in the centre and put in front of
them. A 1x1 convolution makes the scores.

Differences from the paper, all of them arguments: convolutions are padded, so that the scores have
the size of the image (``padding='same'``), and followed by batch normalisation.
``UNet(1, 2, padding='valid', batch_norm=False)`` is the network of the paper, with 31 030 658
parameters. The scores are linear: the softmax belongs to the loss.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import nn
from minidl.functional import check
from minidl.models.network import ImageNetwork


class DoubleConv(nn.Module):
    """Two 3x3 convolutions, each with its ReLU, and batch normalisation in between.

    Convolutions in front of a batch normalisation have no bias: it would be taken off again.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        padding: str,
        batch_norm: bool,
        rng: np.random.Generator | None,
    ) -> None:
        super().__init__()
        settings: dict[str, Any] = {"padding": padding, "bias": not batch_norm, "rng": rng}
        settings["activation"] = None if batch_norm else "relu"
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, **settings)
        self.norm1 = _norm(out_channels, batch_norm)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, **settings)
        self.norm2 = _norm(out_channels, batch_norm)

    def forward(self, x: Any, beside: Any = None) -> Any:
        """(N, H, W, in_channels) to (N, OH, OW, out_channels), with the channels of `beside`."""
        x = self.norm1(self.conv1(x, beside))
        return self.norm2(self.conv2(x))


def _norm(channels: int, batch_norm: bool) -> nn.Module:
    return nn.BatchNorm2d(channels, activation="relu") if batch_norm else nn.Identity()


def crop(skip: Any, up: Any) -> Any:
    """The centre of `skip`, as large as `up`."""
    (_, height, width, _), (_, h, w, _) = skip.shape, up.shape
    if (height, width) == (h, w):
        return skip
    top, left = (height - h) // 2, (width - w) // 2
    return skip[:, top : top + h, left : left + w]


class UNet(ImageNetwork):
    """U-Net: scores of the classes for each pixel of an image.

    Parameters
    ----------
    in_channels : int
        Channels of the image.
    num_classes : int
    depth : int
        Number of levels, 5 in the paper. Each has half the resolution of the one above.
    root : int
        Channels on the top level, 64 in the paper. Each level has twice as many as the one above.
    padding : 'same' or 'valid'
        'same' pads with zeros: the scores have the size of the image. 'valid', the paper's way,
        computes only what the image determines: the scores are smaller than the image by
        `shrink` pixels.
    batch_norm : bool
        Whether each 3x3 convolution is followed by batch normalisation.
    dropout : float in [0, 1]
        Probability for each number on the lowest level to be dropped in training.
    rng : numpy.random.Generator, optional
        Makes the first weights.

    Attributes
    ----------
    stride, multiple : int
        Pixels of the image between neighbours on the lowest level, ``2**(depth - 1)``. With
        'same' the sides of an image must be multiples of it.
    shrink : int
        What the scores are smaller than the image by: 0, or with 'valid' 184 for depth 5.

    Examples
    --------
    >>> model = UNet(1, 2, depth=3, root=4)
    >>> model(np.zeros((1, 32, 64, 1), np.float32)).shape
    (1, 32, 64, 2)
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        depth: int = 5,
        root: int = 64,
        padding: str = "same",
        batch_norm: bool = True,
        dropout: float = 0.0,
        rng: np.random.Generator | None = None,
    ) -> None:
        super().__init__(in_channels, num_classes)
        check.integers("UNet", "depth", depth, 1, 1)
        check.integers("UNet", "root", root, 1, 1)
        check.choice("UNet", "padding", padding, ("same", "valid"))
        self.depth, self.root, self.padding, self.batch_norm = depth, root, padding, batch_norm
        self.stride = self.multiple = 2 ** (depth - 1)
        # Four pixels a level: once at the lowest, twice at the others, in pixels of that level.
        self.shrink = 12 * self.multiple - 8 if padding == "valid" else 0

        widths = [root * 2**level for level in range(depth)]
        settings = padding, batch_norm, rng
        self.down = nn.ModuleList(
            DoubleConv(before, after, *settings)
            for before, after in zip([in_channels, *widths], widths, strict=False)
        )
        self.pool = nn.MaxPool2d(2)
        self.dropout = nn.Dropout(dropout)
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(2 * width, width, 2, stride=2, rng=rng)
            for width in reversed(widths[:-1])
        )
        self.merge = nn.ModuleList(
            DoubleConv(2 * width, width, *settings) for width in reversed(widths[:-1])
        )
        self.scores = nn.Conv2d(root, num_classes, 1, rng=rng)

    def forward(self, x: Any) -> Any:
        """Images (N, H, W, in_channels) to scores (N, OH, OW, num_classes)."""
        self.check_images(x)
        *levels, bottom = self.down
        skips = []
        for level in levels:
            x = level(x)
            skips.append(x)
            x = self.pool(x)
        x = self.dropout(bottom(x))
        for up, merge, skip in zip(self.up, self.merge, reversed(skips), strict=True):
            x = up(x)
            x = merge(crop(skip, x), beside=x)
        return self.scores(x)

    def fitting_size(self, size: int) -> int:
        """The smallest side of an image, at least `size`, that the network takes."""
        smallest, remainder = self.multiple, 0
        if self.padding == "valid":
            remainder = 4 * (self.multiple - 1)
            smallest = self.shrink + (remainder - self.shrink) % self.multiple
            smallest += 0 if smallest > self.shrink else self.multiple
        return max(size + (remainder - size) % self.multiple, smallest)

    def sizes(self) -> str:
        """What heights and widths it takes, in words."""
        if self.padding == "same":
            return super().sizes()
        smallest = self.fitting_size(0)
        return (
            f"at least {smallest}, and {smallest % self.multiple} more than a multiple of "
            f"{self.multiple} (padding='valid', depth {self.depth})"
        )
