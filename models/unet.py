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

`UNetSlides` is the variant that lecture slides about segmentation often show
(github.com/jakeret/tf_unet), with its arguments.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl import functional as F
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


def valid_size(size: int, multiple: int, margin: int, shrink: int) -> int:
    """The smallest side of an image, at least `size`, that unpadded convolutions take.

    Parameters
    ----------
    size : int
    multiple : int
        Pixels of the image between neighbours on the lowest level.
    margin : int
        Pixels that are lost on the way down. Besides them the side must be a multiple, so that
        every pooling comes out even; what is cropped is then centred.
    shrink : int
        Pixels that are lost in all. At least one must be left.
    """
    size = max(size, shrink + 1)
    return size + (margin - size) % multiple


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
        margin = 4 * (self.multiple - 1) if self.padding == "valid" else 0
        return valid_size(size, self.multiple, margin, self.shrink)

    def sizes(self) -> str:
        """What heights and widths it takes, in words."""
        if self.padding == "same":
            return super().sizes()
        smallest = self.fitting_size(0)
        return (
            f"at least {smallest}, and {smallest % self.multiple} more than a multiple of "
            f"{self.multiple} (padding='valid', depth {self.depth})"
        )


class SlidesConv(nn.Conv2d):
    """A convolution without padding, dropout, then a bias and a ReLU."""

    def __init__(self, in_channels: int, out_channels: int, size: int, dropout: float) -> None:
        super().__init__(in_channels, out_channels, size, activation="relu")
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Any, beside: Any = None) -> Any:
        """(N, H, W, C) to (N, OH, OW, F); C counts the channels of x and of `beside`."""
        if not self.training or not self.dropout.p:
            return super().forward(x, beside)
        x = F.conv2d(x, self.weight, None, beside=beside)
        return (self.dropout(x) + self.bias).relu()


class SlidesPair(nn.Module):
    """Two such convolutions."""

    def __init__(self, in_channels: int, out_channels: int, size: int, dropout: float) -> None:
        super().__init__()
        self.conv1 = SlidesConv(in_channels, out_channels, size, dropout)
        self.conv2 = SlidesConv(out_channels, out_channels, size, dropout)

    def forward(self, x: Any, beside: Any = None) -> Any:
        """(N, H, W, C) to (N, OH, OW, F); C counts the channels of x and of `beside`."""
        return self.conv2(self.conv1(x, beside))


class UNetSlides(ImageNetwork):
    """The U-Net of the slides, which is tf_unet's.

    What differs from the paper: fewer and narrower levels; dropout in every convolution, in front
    of its bias and ReLU; a ReLU behind the up-convolutions, too; biases start at 0.1. It refuses
    images whose pooling would not come out even: tf_unet takes them, and shifts features and
    labels by a pixel.

    Parameters
    ----------
    in_channels : int
        Channels of the image, tf_unet's ``channels``.
    num_classes : int
        tf_unet's ``n_class``.
    layers : int
        Number of levels.
    features_root : int
        Channels on the top level; each level has twice as many as the one above. (tf_unet's own
        default is 16.)
    filter_size : int
        Side of the convolutions' kernels.
    pool_size : int
        Side of the windows of pooling, and of up-convolutions.
    dropout : float in [0, 1]
        Probability for each result of a convolution to be dropped in training: one less tf_unet's
        ``keep_prob``, 0.6 on the slides.
    output_relu : bool
        Cut the scores off below 0, as tf_unet does. Off by default, because it is a trap: where all
        scores of a pixel are negative, all become 0, the classes are equally likely, the loss of
        the pixel is the logarithm of their number, and its gradient is 0, for good. Networks that
        "predict nothing" were reported again and again.
    rng : numpy.random.Generator, optional
        Makes the first weights: normally distributed with deviation ``sqrt(2 / (K * K * F))``, K
        the filter size, cut at twice that. F is twice the channels that go up on the way up, and
        on the way down, unlike in the U-Net paper, the channels that result.

    Attributes
    ----------
    multiple : int
        Pixels of the image between neighbours on the lowest level.
    shrink : int
        What the scores are smaller than the image by, 40 for three layers.

    Examples
    --------
    >>> model = UNetSlides(3, 2)
    >>> model(np.zeros((1, 44, 48, 3), np.float32)).shape
    (1, 4, 8, 2)
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        layers: int = 3,
        features_root: int = 8,
        filter_size: int = 3,
        pool_size: int = 2,
        dropout: float = 0.4,
        output_relu: bool = False,
        rng: np.random.Generator | None = None,
    ) -> None:
        super().__init__(in_channels, num_classes)
        check.integers("UNetSlides", "layers", layers, 1, 1)
        check.integers("UNetSlides", "features_root", features_root, 1, 1)
        check.integers("UNetSlides", "filter_size", filter_size, 1, 1)
        check.integers("UNetSlides", "pool_size", pool_size, 1, 2)
        self.layers, self.features_root = layers, features_root
        self.filter_size, self.pool_size, self.output_relu = filter_size, pool_size, output_relu
        self.stride = self.multiple = pool_size ** (layers - 1)
        levels = sum(pool_size**level for level in range(layers - 1))
        self.margin = 2 * (filter_size - 1) * levels
        self.shrink = 2 * self.margin + 2 * (filter_size - 1) * self.multiple

        widths = [features_root * 2**level for level in range(layers)]
        settings = filter_size, dropout
        self.down = nn.ModuleList(
            SlidesPair(before, after, *settings)
            for before, after in zip([in_channels, *widths], widths, strict=False)
        )
        self.pool = nn.MaxPool2d(pool_size)
        self.up, self.merge = nn.ModuleList(), nn.ModuleList()
        for width in reversed(widths[:-1]):
            up = nn.ConvTranspose2d(
                2 * width, width, pool_size, stride=pool_size, activation="relu"
            )
            self.up.append(up)
            self.merge.append(SlidesPair(2 * width, width, *settings))
        self.scores = nn.Conv2d(
            features_root, num_classes, 1, activation="relu" if output_relu else None
        )
        self._draw(rng)

    def _draw(self, rng: np.random.Generator | None) -> None:
        """First weights, in the order in which the slides make them."""
        stage: Any
        up: Any
        merge: Any
        for stage in self.down:
            features = stage.conv2.out_channels
            self._fill((stage.conv1, stage.conv2), features, rng)
        for up, merge in zip(self.up, self.merge, strict=True):
            features = up.in_channels
            self._fill((up, merge.conv1, merge.conv2), features, rng)
        self._fill((self.scores,), features, rng)

    def _fill(self, layers: tuple[Any, ...], features: int, rng: Any) -> None:
        std = math.sqrt(2 / (self.filter_size**2 * features))
        for layer in layers:
            layer.weight.data = nn.init.truncated_normal(layer.weight.shape, rng, std=std)
            layer.bias.data[...] = 0.1

    def forward(self, x: Any) -> Any:
        """Images (N, H, W, in_channels) to scores (N, OH, OW, num_classes)."""
        self.check_images(x)
        *levels, bottom = self.down
        skips = []
        for level in levels:
            x = level(x)
            skips.append(x)
            x = self.pool(x)
        x = bottom(x)
        for up, merge, skip in zip(self.up, self.merge, reversed(skips), strict=True):
            x = up(x)
            x = merge(crop(skip, x), beside=x)
        return self.scores(x)

    def variables(self) -> list[nn.Parameter]:
        """The parameters whose squares tf_unet's regulariser sums up.

        Those of the convolutions, biases too, but not of the up-convolutions and the scores.
        """
        return [p for part in (self.down, self.merge) for p in part.parameters()]

    def fitting_size(self, size: int) -> int:
        """The smallest side of an image, at least `size`, that the network takes."""
        return valid_size(size, self.multiple, self.margin, self.shrink)

    def sizes(self) -> str:
        """What heights and widths it takes, in words."""
        smallest = self.fitting_size(0)
        if self.multiple == 1:
            return f"at least {smallest} (filter_size {self.filter_size})"
        return (
            f"at least {smallest}, and {smallest % self.multiple} more than a multiple of "
            f"{self.multiple} (layers {self.layers}, filter_size {self.filter_size}, pool_size "
            f"{self.pool_size})"
        )
