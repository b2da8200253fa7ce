"""SegNet (Badrinarayanan, Kendall, Cipolla, SegNet: A Deep Convolutional Encoder-Decoder
Architecture for Image Segmentation, TPAMI 2017), figure 2, on VGG-16; its small sibling
SegNet-Basic; and SegNetCMR (github.com/mshunshin/SegNetCMR), the code that lecture slides show for
unpooling.

====== ========== ================================ ================================
level  360 x 480  way down                         way up
====== ========== ================================ ================================
0      360 x 480  3, 64, 64, pool                  unpool, 64, classes
1      180 x 240  128, 128, pool                   unpool, 128, 64
2      90 x 120   256, 256, 256, pool              unpool, 256, 256, 128
3      45 x 60    512, 512, 512, pool              unpool, 512, 512, 256
4      23 x 30    512, 512, 512, pool to 12 x 15   unpool, 512, 512, 512
====== ========== ================================ ================================

Every convolution is 3x3 and followed by batch normalisation and ReLU, but for the last. A 2x2
max-pool remembers where its maxima were, and the unpool on the same level puts what comes up there,
into a map of zeros. Nothing else goes across.

Pooling rounds up, and each unpool makes the size that was pooled: images may have any size. The
scores are linear: the softmax belongs to the loss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl import functional as F
from minidl import nn
from minidl.functional import check
from minidl.models.network import ImageNetwork
from minidl.models.vgg import conv_stage, stage_widths

SHIFT = 0.001  # of each batch normalisation at first, in the authors' files


class _EncoderDecoder(ImageNetwork):
    """Stages with a pool behind each, and as many behind unpools.

    Attributes
    ----------
    encoder, decoder : nn.ModuleList
        The stages; those of the decoder from the coarsest to the finest.
    scores : nn.Conv2d
        The last convolution.
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__(in_channels, num_classes)
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        self.pool = nn.MaxPool2d(2, ceil_mode=True, return_indices=True)
        self.unpool = nn.MaxUnpool2d(2)

    def forward(self, x: Any) -> Any:
        """Images (N, H, W, in_channels) to scores (N, H, W, num_classes)."""
        self.check_images(x)
        pooled = []
        for stage in self.encoder:
            x = stage(x)
            size = x.shape[1:3]
            x, indices = self.pool(x)
            pooled.append((indices, size))
        for stage, (indices, size) in zip(self.decoder, reversed(pooled), strict=True):
            x = stage(self.unpool(x, indices, size))
        return self.scores(x)


def mirrored(widths: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """Widths of the stages of a decoder, the coarsest first, for those of an encoder.

    Each stage ends in as many channels as the next one has; the finest leaves out its last
    convolution, which makes the scores.

    >>> mirrored(((64, 64), (128, 128), (256, 256, 256)))
    [(256, 256, 128), (128, 64), (64,)]
    """
    below = [(*stage[:-1], next_[-1]) for next_, stage in zip(widths, widths[1:], strict=False)]
    return [*reversed(below), tuple(widths[0][:-1])]


class SegNet(_EncoderDecoder):
    """SegNet: scores of the classes for each pixel of an image of any size.

    29 449 355 parameters for 3 channels and 11 classes.

    Parameters
    ----------
    in_channels : int
        Channels of the image.
    num_classes : int
    width : int
        Channels of the first convolutions, 64 in the paper; the coarsest have 8 times as many.
    rng : numpy.random.Generator, optional
        Makes the first weights.

    Attributes
    ----------
    encoder, decoder : nn.ModuleList
        The five stages on the way down, and the five on the way up, the coarsest first.

    Examples
    --------
    >>> model = SegNet(1, 2, width=2)
    >>> model(np.zeros((1, 45, 60, 1), np.float32)).shape
    (1, 45, 60, 2)
    """

    stride = 32

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 11,
        width: int = 64,
        rng: np.random.Generator | None = None,
    ) -> None:
        super().__init__(in_channels, num_classes)
        self.width = width
        down = stage_widths(16, width)
        channels = in_channels
        for stages, all_widths in ((self.encoder, down), (self.decoder, mirrored(down))):
            for widths in all_widths:
                stages.append(conv_stage(channels, widths, batch_norm=True, rng=rng))
                channels = widths[-1]
        self.scores = nn.Conv2d(channels, num_classes, 3, padding="same", rng=rng)
        shift_norms(self)


def shift_norms(network: nn.Module) -> None:
    """Start the batch normalisations of `network` as the authors' files do."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.bias = nn.Parameter(np.full(module.num_features, SHIFT, np.float32))


class SegNetBasic(_EncoderDecoder):
    """SegNet-Basic: four 7x7 convolutions on the way down and four up, all with 64 channels.

    Local response normalisation of the image comes first. Each convolution is followed by batch
    normalisation, on the way down by a ReLU as well; on the way up there is none. A 1x1
    convolution makes the scores.

    Parameters
    ----------
    in_channels : int
        Channels of the image.
    num_classes : int
    width : int
        Channels of all convolutions.
    rng : numpy.random.Generator, optional
        Makes the first weights.

    Notes
    -----
    1 416 587 parameters for 3 channels and 11 classes. The paper says 1.425 million, and that there
    are no biases; the authors' files have them, as here.
    """

    stride = 16

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 11,
        width: int = 64,
        rng: np.random.Generator | None = None,
    ) -> None:
        super().__init__(in_channels, num_classes)
        check.integers("SegNetBasic", "width", width, 1, 1)
        self.width = width
        self.normalise = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75)
        for channels in (in_channels, width, width, width):
            self.encoder.append(_basic_stage(channels, width, "relu", rng))
        for _ in range(4):
            self.decoder.append(_basic_stage(width, width, None, rng))
        self.scores = nn.Conv2d(width, num_classes, 1, rng=rng)
        shift_norms(self)

    def forward(self, x: Any) -> Any:
        """Images (N, H, W, in_channels) to scores (N, H, W, num_classes)."""
        self.check_images(x)
        return super().forward(self.normalise(x))


def _basic_stage(
    in_channels: int, width: int, activation: str | None, rng: np.random.Generator | None
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 7, padding=3, rng=rng),
        nn.BatchNorm2d(width, activation=activation),
    )


class SELU(nn.Module):
    """``1.0507 x``, and for negative x ``1.0507 * 1.6733 (exp(x) - 1)``.

    It drives activations towards mean 0 and variance 1, so that no normalisation is needed
    (Klambauer, Unterthiner, Mayr, Hochreiter, Self-Normalizing Neural Networks, 2017, equation 2).
    """

    def forward(self, x: Any) -> Any:
        """(...) to the same shape."""
        return F.elu(x, 1.6732632423543772) * 1.0507009873554805


class SegNetCMR(_EncoderDecoder):
    """SegNet as SegNetCMR has it, for magnetic resonance images of the heart.

    The same stages as `SegNet`. Each convolution is followed by a SELU, without normalisation;
    before October 2017 it was batch normalisation, which only shifts, and ReLU, as the slides'
    ``c2rb``.

    Parameters
    ----------
    in_channels : int
        Channels of the image.
    num_classes : int
    batch_norm : bool
        The network before October 2017. Both have the same number of parameters: the shifts take
        the place of biases.
    width : int
        Channels of the first convolutions; the coarsest have 8 times as many.
    rng : numpy.random.Generator, optional
        Makes the first weights: normally distributed with deviation ``sqrt(1 / N)``, N the fan-in,
        cut at twice that.

    Notes
    -----
    In that code a bug normalised the scores too, and cut them off below 0, before October
    2017. Here they are linear in both.
    """

    stride = 32

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 2,
        batch_norm: bool = False,
        width: int = 64,
        rng: np.random.Generator | None = None,
    ) -> None:
        super().__init__(in_channels, num_classes)
        self.width, self.batch_norm = width, batch_norm
        down = stage_widths(16, width)
        channels = in_channels
        for stages, all_widths in ((self.encoder, down), (self.decoder, mirrored(down))):
            for widths in all_widths:
                stages.append(_c2rb_stage(channels, widths, batch_norm, rng))
                channels = widths[-1]
        self.scores = _lecun_conv(channels, num_classes, True, rng)


def _c2rb_stage(
    in_channels: int,
    widths: Sequence[int],
    batch_norm: bool,
    rng: np.random.Generator | None,
) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in zip([in_channels, *widths], widths, strict=False):
        layers.append(_lecun_conv(before, after, not batch_norm, rng))
        if batch_norm:
            norm = nn.BatchNorm2d(after, activation="relu")
            norm.weight = None  # a convolution follows, which can scale as well
            layers.append(norm)
        else:
            layers.append(SELU())
    return nn.Sequential(*layers)


def _lecun_conv(
    in_channels: int, out_channels: int, bias: bool, rng: np.random.Generator | None
) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, out_channels, 3, padding="same", bias=bias, rng=rng)
    fan_in, _ = nn.init.fans(conv.weight.shape)
    conv.weight.data = nn.init.truncated_normal(conv.weight.shape, rng, std=math.sqrt(1 / fan_in))
    return conv
