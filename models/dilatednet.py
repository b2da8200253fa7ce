"""DilatedNet (Yu, Koltun, Multi-Scale Context Aggregation by Dilated Convolutions, ICLR 2016).

The front end, VGG-16 without padding, without its last two pools, and with dilation in their place:

============ ==================================== ======== ====================
part         convolutions                         dilation side, for 900 pixels
============ ==================================== ======== ====================
stage 1      2 of 3x3, 64; 2x2 max-pool           1        896, 448
stage 2      2 of 3x3, 128; 2x2 max-pool          1        444, 222
stage 3      3 of 3x3, 256; 2x2 max-pool          1        216, 108
stage 4      3 of 3x3, 512                        1        102
stage 5      3 of 3x3, 512                        2        90
fc6, fc7     7x7, 4096; 1x1, 4096; dropout        4, 1     66
final        1x1, C                                        66
============ ==================================== ======== ====================

The context module, table 1 (C classes; every 3x3 is followed by a ReLU):

=============== === === === === === ==== ==== ===
layer           1   2   3   4   5   6    7    8
=============== === === === === === ==== ==== ===
kernel          3   3   3   3   3   3    3    1
dilation        1   1   2   4   8   16   1    1
receptive field 3   5   9   17  33  65   67   67
basic           C   C   C   C   C   C    C    C
large           2C  2C  4C  8C  16C 32C  32C  C
=============== === === === === === ==== ==== ===

It starts as the identity (section 3), since it would not learn from random weights.

The released networks are ``DilatedNet(3, 21, 'large', context_padding='first')`` for Pascal VOC,
``DilatedNet(3, 11)`` for CamVid, ``DilatedNet(3, 11, dilations=DILATION7)`` for KITTI, and
``DilatedNet(3, 19, dilations=DILATION10, upsampling='learned')`` for Cityscapes.

The scores are linear, and enlarged as such, while the released code enlarges probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from minidl import nn
from minidl.functional import check
from minidl.models.multiscale import scoring, zoom
from minidl.models.network import ImageNetwork
from minidl.models.vgg import conv_stage, stage_widths

DILATION8 = 1, 1, 2, 4, 8, 16, 1
DILATION7 = 1, 1, 2, 4, 8, 1
DILATION10 = 1, 1, 2, 4, 8, 16, 32, 64, 1


class FrontEnd(nn.Module):
    """The front end: VGG-16 turned into a network for dense prediction.

    Parameters
    ----------
    in_channels : int
        Channels of the image.
    num_classes : int
    dropout : float in [0, 1]
        Probability for each number behind fc6 and fc7 to be dropped in training.
    width : int
        Channels of the first stage, 64 in the paper. All others follow from it.
    rng : numpy.random.Generator, optional
        Makes the first weights.

    Attributes
    ----------
    margin : int
        Pixels on each side of the image that have no label: 186.
    """

    margin = 186

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 21,
        dropout: float = 0.5,
        width: int = 64,
        rng: np.random.Generator | None = None,
    ) -> None:
        super().__init__()
        widths = stage_widths(16, width)
        inputs = in_channels, *(stage[-1] for stage in widths[:-1])
        self.stages = nn.ModuleList(
            conv_stage(before, stage, dilation=dilation, padding="valid", rng=rng)
            for before, stage, dilation in zip(inputs, widths, (1, 1, 1, 1, 2), strict=True)
        )
        self.pool = nn.MaxPool2d(2)
        hidden = 64 * width
        self.fc6 = nn.Conv2d(8 * width, hidden, 7, dilation=4, activation="relu", rng=rng)
        self.fc7 = nn.Conv2d(hidden, hidden, 1, activation="relu", rng=rng)
        self.dropout = nn.Dropout(dropout)
        self.final = scoring(hidden, num_classes, std=0.001, rng=rng)

    def forward(self, x: Any) -> Any:
        """(N, H, W, in_channels) to (N, (H - 380) / 8 + 1, (W - 380) / 8 + 1, num_classes)."""
        *pooled, fourth, fifth = self.stages
        for stage in pooled:
            x = self.pool(stage(x))
        x = fifth(fourth(x))
        x = self.dropout(self.fc6(x))
        x = self.dropout(self.fc7(x))
        return self.final(x)


def identity(
    kernel_size: int,
    in_channels: int,
    out_channels: int,
    num_classes: int,
    noise: float = 0.0,
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """Weights of a convolution that hands scores on, in groups of channels, one for each class.

    Each channel of a group is the sum of all channels of the same group in front, times
    ``num_classes / out_channels``. So whole layers of such weights are the identity, as soon as
    the number of channels is back at `num_classes`.

    Parameters
    ----------
    kernel_size, in_channels, out_channels, num_classes : int
        Channels are multiples of `num_classes`.
    noise : float
        Standard deviation of all other weights, in units of ``num_classes / out_channels``.
    rng : numpy.random.Generator, optional
        Makes the noise.

    Returns
    -------
    (kernel_size, kernel_size, in_channels, out_channels) float32 array

    References
    ----------
    Yu, Koltun, 2016, equations 4 and 5.
    """
    share = num_classes / out_channels
    shape = kernel_size, kernel_size, in_channels, out_channels
    weight = nn.init.normal(shape, rng, std=noise * share)
    group_in = np.arange(in_channels) * num_classes // in_channels
    group_out = np.arange(out_channels) * num_classes // out_channels
    weight[kernel_size // 2, kernel_size // 2][group_in[:, None] == group_out] = share
    return weight


class ContextModule(nn.Module):
    """The context module: 3x3 convolutions whose dilation grows, from scores to better scores.

    Parameters
    ----------
    num_classes : int
    large : bool
        Whether layers have more channels where dilation is larger: ``2 * num_classes`` for each
        pixel of the largest dilation so far. Otherwise all have `num_classes`.
    dilations : sequence of int
        Of the 3x3 convolutions.
    padding : 'same' or 'first'
        Two ways to keep the size of the map. Each layer pads itself; or the first one adds as many
        zeros as the whole module takes off again. They differ within ``sum(dilations)`` cells of
        the border.
    noise : float, optional
        As for `identity`: by default 0, and 0.01 if `large`, for channels of one class to become
        different.
    rng : numpy.random.Generator, optional
        Makes the first weights.

    Attributes
    ----------
    receptive_field : int
        67 cells for the paper's dilations.
    """

    def __init__(
        self,
        num_classes: int,
        large: bool = False,
        dilations: Sequence[int] = DILATION8,
        padding: str = "same",
        noise: float | None = None,
        rng: np.random.Generator | None = None,
    ) -> None:
        super().__init__()
        count = max(len(dilations), 1)
        dilations = check.integers("ContextModule", "dilations", tuple(dilations), count, 1)
        check.choice("ContextModule", "padding", padding, ("same", "first"))
        self.large, self.padding = large, padding
        self.receptive_field = 1 + 2 * sum(dilations)
        noise = (0.01 if large else 0.0) if noise is None else noise

        widths = [2 * num_classes * most if large else num_classes
                  for most in accumulate(dilations, max)]  # fmt: skip
        first, *others = dilations
        zeros = dilations if padding == "same" else (sum(dilations), *(0 for _ in others))
        self.layers = nn.ModuleList(
            nn.Conv2d(
                before, after, 3, padding=border, dilation=dilation, activation="relu", rng=rng
            )
            for before, after, border, dilation in zip(
                [num_classes, *widths], widths, zeros, dilations, strict=False
            )
        )
        self.final = nn.Conv2d(widths[-1], num_classes, 1, rng=rng)
        for layer in (*self.layers, self.final):
            layer.weight.data = identity(
                layer.kernel_size[0], layer.in_channels, layer.out_channels, num_classes, noise, rng
            )

    def forward(self, x: Any) -> Any:
        """(N, H, W, num_classes) to the same shape."""
        for layer in self.layers:
            x = layer(x)
        return self.final(x)


def mirrored(size: int, before: int, after: int) -> np.ndarray:
    """Where the pixels of an axis come from that is mirrored beyond its ends, again and again.

    >>> mirrored(3, 3, 2).tolist()
    [1, 2, 1, 0, 1, 2, 1, 0]
    """
    period = max(2 * (size - 1), 1)
    position = np.arange(-before, size + after) % period
    return np.minimum(position, period - position) if size > 1 else 0 * position


class DilatedNet(ImageNetwork):
    """DilatedNet: scores of the classes for each pixel of an image.

    Parameters
    ----------
    in_channels : int
        Channels of the image.
    num_classes : int
    context : 'basic', 'large' or None
        The context module; None is the front end alone.
    dilations : sequence of int
        Of the 3x3 convolutions of the context module.
    context_padding : 'same' or 'first'
        As for `ContextModule`.
    mirror : bool
        Whether the image is mirrored beyond its edges first, by 186 pixels and what is missing to a
        size that fits, so that there are scores for the whole image. Otherwise the image comes with
        its margin, and scores are 372 pixels smaller.
    upsampling : 'bilinear', 'learned' or None
        From every 8 pixels to every pixel: by `zoom`; by a transposed convolution for each class,
        which starts bilinear and puts cell i at pixel 8 i + 3.5; or not at all, which leaves scores
        for ``labels[:, ::8, ::8]``, as for the paper's training.
    dropout : float in [0, 1]
        Probability for each number behind fc6 and fc7 to be dropped in training.
    width : int
        Channels of the first stage, 64 in the paper.
    rng : numpy.random.Generator, optional
        Makes the first weights.

    Examples
    --------
    >>> model = DilatedNet(3, 5, width=1)
    >>> model(np.zeros((1, 20, 33, 3), np.float32)).shape
    (1, 20, 33, 5)
    >>> DilatedNet(3, 5, mirror=False, width=1).fitting_size(500)
    500
    """

    stride = 8

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 21,
        context: str | None = "basic",
        dilations: Sequence[int] = DILATION8,
        context_padding: str = "same",
        mirror: bool = True,
        upsampling: str | None = "bilinear",
        dropout: float = 0.5,
        width: int = 64,
        rng: np.random.Generator | None = None,
    ) -> None:
        super().__init__(in_channels, num_classes)
        check.choice("DilatedNet", "context", context, ("basic", "large", None))
        check.choice("DilatedNet", "upsampling", upsampling, ("bilinear", "learned", None))
        self.mirror, self.upsampling = mirror, upsampling
        self.front_end = FrontEnd(in_channels, num_classes, dropout, width, rng)
        self.context: nn.Module = nn.Identity()
        if context is not None:
            self.context = ContextModule(
                num_classes, context == "large", dilations, context_padding, rng=rng
            )
        if upsampling == "learned":
            self.upsample = nn.ConvTranspose2d(
                num_classes, num_classes, 16, 8, 4, groups=num_classes, bias=False, rng=rng
            )
            self.upsample.weight.data = nn.init.bilinear(self.upsample.weight.shape)

    def forward(self, x: Any) -> Any:
        """Images (N, H, W, in_channels) to scores (N, OH, OW, num_classes)."""
        self.check_images(x)
        height, width = x.shape[1:3]
        if self.mirror:
            rows, columns = (self._mirrored(side) for side in (height, width))
            x = x[:, rows][:, :, columns]
        else:
            height, width = (side - 2 * self.front_end.margin for side in (height, width))
        x = self.context(self.front_end(x))
        if self.upsampling is None:
            return x
        if self.upsampling == "bilinear":
            return zoom(x, self.stride, (height, width))
        return self.upsample(x)[:, :height, :width]

    def _mirrored(self, side: int) -> np.ndarray:
        """Where the pixels of a side come from, margins included, for one cell each 8 pixels.

        To be zoomed, all pixels have to lie between two cells.
        """
        cells = -(-side // 8) + (self.upsampling == "bilinear" and side % 8 != 1)
        margin = self.front_end.margin
        return mirrored(side, margin, 8 * cells + margin - side)

    def fitting_size(self, size: int) -> int:
        """The smallest side of an image, at least `size`, that the network takes."""
        return max(size, 1) if self.mirror else max(size + (4 - size) % 8, 380)

    def sizes(self) -> str:
        """What heights and widths it takes, in words."""
        if self.mirror:
            return super().sizes()
        return "at least 380, and 4 more than a multiple of 8 (mirror=False)"
