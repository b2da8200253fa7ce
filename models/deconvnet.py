"""DeconvNet (Noh, Hong, Han, Learning Deconvolution Network for Semantic Segmentation, ICCV 2015),
figure 2 and its table: VGG-16, and the same mirrored.

========= =========== ======================== ========================== ===========
of 224    pixels      way down                 way up                     pixels
========= =========== ======================== ========================== ===========
stage 1   224 x 224   3, 64, 64, pool          unpool, 64, 64, classes    224 x 224
stage 2   112 x 112   128, 128, pool           unpool, 128, 64            112 x 112
stage 3   56 x 56     256, 256, 256, pool      unpool, 256, 256, 128      56 x 56
stage 4   28 x 28     512, 512, 512, pool      unpool, 512, 512, 256      28 x 28
stage 5   14 x 14     512, 512, 512, pool      unpool, 512, 512, 512      14 x 14
fc6       7 x 7       7x7, 4096                7x7 transposed, 512        7 x 7
fc7       1 x 1       1x1, 4096
========= =========== ======================== ========================== ===========

Convolutions on the way down, and transposed convolutions with stride 1 on the way up, are 3x3 but
where said; each is followed by batch normalisation and ReLU, but for the last one, 1x1. The pools
remember where their maxima were, and the unpools put what comes up there, into maps of zeros.

The paper's images are 224 x 224, and one pixel is left at fc7; larger ones fit as well, and are
seen by a network that slides over them. Pooling rounds up, as in the authors' engine, and each
unpool makes the size that was pooled.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import nn
from minidl.models.network import ImageNetwork
from minidl.models.vgg import conv_stage, stage_widths

UP = (8, 8, 8), (8, 8, 4), (4, 4, 2), (2, 1), (1, 1)  # widths on the way up, in first widths


class DeconvNet(ImageNetwork):
    """DeconvNet: scores of the classes for each pixel of an image of 193 x 193 pixels or more.

    251 805 653 parameters for 3 channels and 21 classes.

    Parameters
    ----------
    in_channels : int
        Channels of the image.
    num_classes : int
    width : int
        Channels of the first convolutions, 64 in the paper; the coarsest have 8 times, fc6 and fc7
        64 times as many.
    rng : numpy.random.Generator, optional
        Makes the first weights: of VGG-16 as `VGG` has them, of all that follows normally
        distributed with deviation 0.01.

    Attributes
    ----------
    encoder, decoder : nn.ModuleList
        The five stages on the way down, and the five on the way up, the coarsest first.

    Notes
    -----
    Batch normalisation needs more than one value in each channel: to be trained on images of 224
    pixels, which leave one pixel at fc7, it takes batches of two or more.
    """

    stride = 32
    smallest = 193  # seven pixels behind the last pool, which fc6 needs

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 21,
        width: int = 64,
        rng: np.random.Generator | None = None,
    ) -> None:
        super().__init__(in_channels, num_classes)
        self.width = width
        widths = stage_widths(16, width)
        inputs = in_channels, *(stage[-1] for stage in widths[:-1])
        self.encoder = nn.ModuleList(
            conv_stage(before, stage, batch_norm=True, rng=rng)
            for before, stage in zip(inputs, widths, strict=True)
        )
        self.pool = nn.MaxPool2d(2, ceil_mode=True, return_indices=True)
        top, hidden = widths[-1][-1], 64 * width
        self.fc6 = _normalised(nn.Conv2d(top, hidden, 7, rng=rng), rng)
        self.fc7 = _normalised(nn.Conv2d(hidden, hidden, 1, rng=rng), rng)
        self.fc6_deconv = _normalised(nn.ConvTranspose2d(hidden, top, 7, rng=rng), rng)
        self.unpool = nn.MaxUnpool2d(2)
        self.decoder = nn.ModuleList()
        channels = top
        for multiples in UP:
            stage = nn.Sequential()
            for multiple in multiples:
                deconv = nn.ConvTranspose2d(channels, multiple * width, 3, padding=1, rng=rng)
                stage.append(_normalised(deconv, rng))
                channels = multiple * width
            self.decoder.append(stage)
        self.scores = nn.Conv2d(channels, num_classes, 1, rng=rng)
        self.scores.weight.data = nn.init.normal(self.scores.weight.shape, rng, std=0.01)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.bias = nn.Parameter(np.full(module.num_features, 0.001, np.float32))

    def forward(self, x: Any) -> Any:
        """Images (N, H, W, in_channels) to scores (N, H, W, num_classes)."""
        self.check_images(x)
        pooled = []
        for stage in self.encoder:
            x = stage(x)
            size = x.shape[1:3]
            x, indices = self.pool(x)
            pooled.append((indices, size))
        x = self.fc6_deconv(self.fc7(self.fc6(x)))
        for stage, (indices, size) in zip(self.decoder, reversed(pooled), strict=True):
            x = stage(self.unpool(x, indices, size))
        return self.scores(x)


def _normalised(layer: Any, rng: np.random.Generator | None) -> nn.Sequential:
    """`layer`, with small weights, then batch normalisation and ReLU."""
    layer.weight.data = nn.init.normal(layer.weight.shape, rng, std=0.01)
    return nn.Sequential(layer, nn.BatchNorm2d(layer.out_channels, activation="relu"))
