"""DeepLab v1 (Chen, Papandreou, Kokkinos, Murphy, Yuille, Semantic Image Segmentation with Deep
Convolutional Nets and Fully Connected CRFs, ICLR 2015) and v2 (the same, DeepLab, TPAMI 2018).

VGG-16 whose last two pools do not stride, with dilation in their place:

============ ============================ ======== ================ ===================
part         convolutions, padded         dilation 3x3 max-pool     side, for 321 pixels
============ ============================ ======== ================ ===================
stage 1      2 of 3x3, 64                 1        stride 2         161
stage 2      2 of 3x3, 128                1        stride 2         81
stage 3      3 of 3x3, 256                1        stride 2         41
stage 4      3 of 3x3, 512                1        stride 1         41
stage 5      3 of 3x3, 512                2        stride 1         41
fc6          see below
fc7, fc8     1x1; 1x1, C; dropout                                   41
============ ============================ ======== ================ ===================

Table 1 of v1 (parameters for 21 classes; the published field of view is that of the filter of fc6,
``8 * rate * (kernel - 1) + 32``; the receptive field is larger):

======================== ====== ==== ======== ============= =============== ===========
DeepLab-CRF-...          kernel rate channels field of view receptive field parameters
======================== ====== ==== ======== ============= =============== ===========
(none)                   4      4    4096     128           323             65 140 565
4x4                      4      8    4096     224           419             65 140 565
7x7                      7      4    4096     224           419             134 346 581
LargeFOV                 3      12   1024     224           419             20 505 429
======================== ====== ==== ======== ============= =============== ===========

v2 has several such branches at different rates beside each other, whose scores are summed up
(atrous spatial pyramid pooling, figure 7); or ResNet-101, whose last two stages do not stride but
dilate, and 3x3 convolutions at these rates that make the scores themselves.

Scores are linear, and enlarged bilinearly from every 8 pixels to every pixel. The fully connected
CRF that follows in the papers is `minidl.crf`: it takes the probabilities and the image. For scores
of several sizes of an image, fused by their maximum (v2's MSC), see
`minidl.models.multiscale.ImagePyramid`.

v1 also describes DeepLab-MSc, whose last layer sees the image and the first four pools, each
through two more convolutions; v2 has dropped it, and so have we.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl import nn
from minidl.functional import check
from minidl.models.multiscale import AtrousBranch, AtrousPyramid, zoom
from minidl.models.network import ImageNetwork
from minidl.models.resnet import BLOCKS, ResNetBackbone
from minidl.models.vgg import conv_stage, stage_widths

ASPP_S = 2, 4, 8, 12
ASPP_L = 6, 12, 18, 24
LARGE_FOV = (12,)


class AtrousVGG(nn.Module):
    """VGG-16 without its linear layers, with results every 8 pixels.

    Parameters
    ----------
    in_channels : int
        Channels of the image.
    width : int
        Channels of the first stage, 64 in the paper. All others follow from it.
    rng : numpy.random.Generator, optional
        Makes the first weights.

    Attributes
    ----------
    channels : int
        Of the result: 8 times `width`.
    """

    def __init__(
        self, in_channels: int = 3, width: int = 64, rng: np.random.Generator | None = None
    ) -> None:
        super().__init__()
        widths = stage_widths(16, width)
        self.channels = widths[-1][-1]
        inputs = in_channels, *(stage[-1] for stage in widths[:-1])
        self.stages = nn.ModuleList(
            conv_stage(before, stage, dilation=dilation, rng=rng)
            for before, stage, dilation in zip(inputs, widths, (1, 1, 1, 1, 2), strict=True)
        )
        self.pools = nn.ModuleList(
            nn.MaxPool2d(3, stride, padding=1, ceil_mode=True) for stride in (2, 2, 2, 1, 1)
        )

    def forward(self, x: Any) -> Any:
        """(N, H, W, in_channels) to (N, H / 8, W / 8, channels), rounded up at each pool."""
        for stage, pool in zip(self.stages, self.pools, strict=True):
            x = pool(stage(x))
        return x


class AtrousResNet(nn.Module):
    """ResNet without its linear layer, with results every 8 pixels.

    As in Caffe, and as DeepLab's weights want it, the first 1x1 convolution of a block takes the
    stride, and the max-pool rounds up.

    Parameters
    ----------
    depth : 18, 34, 50, 101 or 152
    in_channels : int
        Channels of the image.
    width : int
        Channels behind the first convolution, 64 in the paper. All others follow from it.
    rng : numpy.random.Generator, optional
        Makes the first weights.

    Attributes
    ----------
    channels : int
        Of the result: 32 times `width` from depth 50 on.
    """

    def __init__(
        self,
        depth: int = 101,
        in_channels: int = 3,
        width: int = 64,
        rng: np.random.Generator | None = None,
    ) -> None:
        super().__init__()
        self.backbone = ResNetBackbone(
            depth, in_channels, 8, width, stride_first=True, ceil_mode=True, rng=rng
        )
        self.channels = self.backbone.channels[-1]

    def forward(self, x: Any) -> Any:
        """(N, H, W, in_channels) to (N, H / 8, W / 8, channels), rounded up."""
        return self.backbone(x)[-1]


class _DeepLab(ImageNetwork):
    """From features every 8 pixels to scores."""

    stride = 8
    features: nn.Module
    head: nn.Module

    def __init__(self, in_channels: int, num_classes: int, upsample: bool) -> None:
        super().__init__(in_channels, num_classes)
        self.upsample = upsample

    def forward(self, x: Any) -> Any:
        """Images (N, H, W, in_channels) to scores (N, H, W, num_classes)."""
        self.check_images(x)
        height, width = x.shape[1:3]
        x = self.head(self.features(x))
        return zoom(x, self.stride, (height, width)) if self.upsample else x


class DeepLab(_DeepLab):
    """DeepLab v1, by default DeepLab-LargeFOV: scores of the classes for each pixel of an image.

    Parameters
    ----------
    in_channels : int
        Channels of the image.
    num_classes : int
    kernel_size, rate : int
        Of fc6: 3 at rate 12 for LargeFOV, 7 at 4, 4 at 4 or 4 at 8 for its siblings.
    channels : int, optional
        Of fc6 and fc7: by default 1024 for kernels of 3, and 4096 for larger ones, if `width` is
        64.
    dropout : float in [0, 1]
        Probability for each number behind fc6 and fc7 to be dropped in training.
    upsample : bool
        Whether scores are enlarged to the size of the image, as by the papers when they test.
        Otherwise they are for ``labels[:, ::8, ::8]``, on which the papers train.
    width : int
        Channels of the first stage, 64 in the paper. All others follow from it.
    rng : numpy.random.Generator, optional
        Makes the first weights.

    Notes
    -----
    Kernels of 4 have no tap in the middle. At rate 8 they see nothing but padding of an image
    whose sides have 32 pixels or less, and give all its pixels the same scores.

    Examples
    --------
    >>> DeepLab(3, 5, width=2)(np.zeros((1, 41, 33, 3), np.float32)).shape
    (1, 41, 33, 5)
    >>> DeepLab(3, 5, upsample=False, width=2)(np.zeros((1, 41, 33, 3), np.float32)).shape
    (1, 6, 5, 5)
    """

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 21,
        kernel_size: int = 3,
        rate: int = 12,
        channels: int | None = None,
        dropout: float = 0.5,
        upsample: bool = True,
        width: int = 64,
        rng: np.random.Generator | None = None,
    ) -> None:
        super().__init__(in_channels, num_classes, upsample)
        check.integers("DeepLab", "kernel_size", kernel_size, 1, 1)
        check.integers("DeepLab", "rate", rate, 1, 1)
        if channels is None:
            channels = (16 if kernel_size <= 3 else 64) * width
        self.features = AtrousVGG(in_channels, width, rng)
        self.head = AtrousBranch(
            self.features.channels, num_classes, channels, kernel_size, rate, dropout, rng
        )


class DeepLabV2(_DeepLab):
    """DeepLab v2, by default ResNet-101 with ASPP-L: scores for each pixel of an image.

    Parameters
    ----------
    in_channels : int
        Channels of the image.
    num_classes : int
    backbone : 'vgg16', 'resnet101', or 'resnet' with another depth
    rates : sequence of int
        Of the branches: `ASPP_S` (2, 4, 8, 12), `ASPP_L` (6, 12, 18, 24) or `LARGE_FOV` (12,).
    dropout : float in [0, 1]
        Probability for each number behind fc6 and fc7 to be dropped in training. There are none
        behind ResNet.
    upsample : bool
        As for `DeepLab`.
    width : int
        Channels of the first stage, 64 in the papers. All others follow from it.
    rng : numpy.random.Generator, optional
        Makes the first weights.

    Notes
    -----
    The paper trains ResNet-101 with all batch normalisations as they came from ImageNet: keep them
    in eval mode.

    Examples
    --------
    >>> DeepLabV2(3, 5, width=1)(np.zeros((1, 41, 33, 3), np.float32)).shape
    (1, 41, 33, 5)
    """

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 21,
        backbone: str = "resnet101",
        rates: Sequence[int] = ASPP_L,
        dropout: float = 0.5,
        upsample: bool = True,
        width: int = 64,
        rng: np.random.Generator | None = None,
    ) -> None:
        super().__init__(in_channels, num_classes, upsample)
        depths = {f"resnet{depth}": depth for depth in BLOCKS}
        check.choice("DeepLabV2", "backbone", backbone, ("vgg16", *depths))
        hidden = None
        if backbone == "vgg16":
            self.features, hidden = AtrousVGG(in_channels, width, rng), 16 * width
        else:
            self.features = AtrousResNet(depths[backbone], in_channels, width, rng)
        channels = self.features.channels
        self.head = AtrousPyramid(channels, num_classes, rates, hidden, dropout, rng)
