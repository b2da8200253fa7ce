"""Fully convolutional networks (Long, Shelhamer, Darrell, Fully Convolutional Networks for Semantic
Segmentation, CVPR 2015), figure 3 and section 4, on VGG-16; and the variant on VGG-19 that lecture
slides about segmentation often show (github.com/shekkizh/FCN.tensorflow).

A classifier, its linear layers made convolutions, gives coarse scores. They are enlarged to the
size of the image, in one go or with the scores of finer maps added on the way:

=============== ======== ================ ============ ====================================
of 500 pixels   stride   FCN-32s          FCN-16s      FCN-8s
=============== ======== ================ ============ ====================================
fc7, scored     32       16, x32 = 544    16, x2 = 34  16, x2 = 34
pool4, scored   16                        34 of 44     34 of 44, sum x2 = 70
pool3, scored   8                                      70 of 88
enlarged                 x32 = 544        x16 = 560    x8 = 568
cut out at               19               27           31
=============== ======== ================ ============ ====================================

The first convolution pads by 100 pixels and pooling rounds up, so that an image of any size leaves
something behind fc6, a 7x7 convolution without padding; that is also why maps are cut. All score
layers start at zero and all up-convolutions as bilinear interpolation.

Nothing differs from the authors' networks. Their scores are linear, the softmax is in the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl import functional as F
from minidl import nn
from minidl.functional import check
from minidl.models.network import ImageNetwork
from minidl.models.vgg import VGG, conv_stage, stage_widths

UPSAMPLING = "paper", "fixed", "learned"


class Upscore(nn.ConvTranspose2d):
    """Enlarging of scores, bilinear to begin with: a transposed convolution, twice its stride wide.

    The weight is dense, classes by classes, with interpolation on its diagonal.
    """

    def __init__(self, num_classes: int, stride: int, learned: bool) -> None:
        super().__init__(num_classes, num_classes, 2 * stride, stride=stride, bias=False)
        self.weight.data = nn.init.bilinear(self.weight.shape)
        self.weight.requires_grad = learned

    def forward(self, x: Any, offset: int = 0, size: Sequence[int] | None = None) -> Any:
        """(N, H, W, C) enlarged; of that, `size` pixels from (offset, offset) on."""
        if size is None:
            return super().forward(x)
        # What is cut off is not even computed.
        enlarged = ((n + 1) * self.stride for n in x.shape[1:3])
        padding = [(offset, n - offset - wanted) for n, wanted in zip(enlarged, size, strict=True)]
        return F.conv_transpose2d(x, self.weight, None, self.stride, padding)


def cut(x: Any, offset: int, like: Any) -> Any:
    """The part of `x` from (offset, offset) on that is as large as `like`."""
    height, width = like.shape[1:3]
    return x[:, offset : offset + height, offset : offset + width]


class _FCN(ImageNetwork):
    """What the three have in common: VGG-16 made convolutional, and the scores of fc7."""

    stride = 32

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        upsampling: str,
        dropout: float,
        width: int,
        rng: np.random.Generator | None,
    ) -> None:
        super().__init__(in_channels, num_classes)
        check.choice(type(self).__name__, "upsampling", upsampling, UPSAMPLING)
        self.upsampling, self.width = upsampling, width
        widths = stage_widths(16, width)
        inputs = in_channels, *(stage[-1] for stage in widths[:-1])
        self.stages = nn.ModuleList(
            conv_stage(before, stage, padding=1, rng=rng)
            for before, stage in zip(inputs, widths, strict=True)
        )
        self.stages[0][0].padding = 100
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        hidden = 64 * width
        self.fc6 = nn.Conv2d(widths[-1][-1], hidden, 7, rng=rng, activation="relu")
        self.fc7 = nn.Conv2d(hidden, hidden, 1, rng=rng, activation="relu")
        self.dropout = nn.Dropout(dropout)
        self.score_fr = self._score(hidden)

    def _score(self, channels: int) -> nn.Conv2d:
        """A layer of scores that are zero until it has learned something."""
        layer = nn.Conv2d(channels, self.num_classes, 1)
        layer.weight.data[...] = 0
        return layer

    def _upscore(self, stride: int, last: bool = False) -> Upscore:
        learned = {"paper": not last, "fixed": False, "learned": True}[self.upsampling]
        return Upscore(self.num_classes, stride, learned)

    def coarse_scores(self, x: Any) -> tuple[Any, Any, Any]:
        """The scores of fc7, and the maps behind the third and the fourth pooling.

        Images may have any size, and scores are 32 pixels apart: this is the classifier applied
        wherever it fits.
        """
        self.check_images(x)
        pools = []
        for stage in self.stages:
            x = self.pool(stage(x))
            pools.append(x)
        x = self.dropout(self.fc6(x))
        x = self.dropout(self.fc7(x))
        return self.score_fr(x), pools[2], pools[3]

    def load_vgg(self, vgg: VGG) -> None:
        """Take over the weights of a classifier, its linear layers reshaped to convolutions.

        Parameters
        ----------
        vgg : VGG
            With 16 layers, without batch normalisation, and of the same width.

        Raises
        ------
        ValueError
            If it is another one.
        """
        if (vgg.depth, vgg.batch_norm, vgg.width) != (16, False, self.width):
            raise ValueError(
                f"{type(self).__name__}.load_vgg: expected VGG(16, width={self.width}) without "
                f"batch normalisation, but got VGG({vgg.depth}, batch_norm={vgg.batch_norm}, "
                f"width={vgg.width})."
            )
        self.stages.load_state_dict(vgg.stages.state_dict())
        linear = [layer for layer in vgg.classifier if isinstance(layer, nn.Linear)]
        for layer, source in zip((self.fc6, self.fc7), linear, strict=False):
            state = source.state_dict()
            state["weight"] = state["weight"].reshape(layer.weight.shape)
            layer.load_state_dict(state)


class FCN32s(_FCN):
    """FCN-32s: scores of the classes for each pixel of an image of any size.

    Parameters
    ----------
    in_channels : int
        Channels of the image.
    num_classes : int
    upsampling : 'paper', 'fixed' or 'learned'
        Which up-convolutions are learned: all but the last one, as section 4.2 says; none, as in
        the networks that the authors released; or all.
    dropout : float in [0, 1]
        Probability for each number behind fc6 and fc7 to be dropped in training.
    width : int
        Channels of the first convolutions, 64 in the paper. The last ones have 8 times, fc6 and
        fc7 64 times as many.
    rng : numpy.random.Generator, optional
        Makes the first weights.

    Examples
    --------
    >>> model = FCN32s(1, 2, width=2)
    >>> model(np.zeros((1, 21, 40, 1), np.float32)).shape
    (1, 21, 40, 2)
    """

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 21,
        upsampling: str = "paper",
        dropout: float = 0.5,
        width: int = 64,
        rng: np.random.Generator | None = None,
    ) -> None:
        super().__init__(in_channels, num_classes, upsampling, dropout, width, rng)
        self.upscore = self._upscore(32, last=True)

    def forward(self, x: Any) -> Any:
        """Images (N, H, W, in_channels) to scores (N, H, W, num_classes)."""
        coarse, _, _ = self.coarse_scores(x)
        return self.upscore(coarse, 19, x.shape[1:3])


class FCN16s(_FCN):
    """FCN-16s: FCN-32s, with scores of the map behind the fourth pooling added.

    Training starts from the weights of an FCN-32s: ``load_state_dict(state, strict=False)``.

    Parameters
    ----------
    in_channels, num_classes, upsampling, dropout, width, rng
        As for `FCN32s`.
    """

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 21,
        upsampling: str = "paper",
        dropout: float = 0.5,
        width: int = 64,
        rng: np.random.Generator | None = None,
    ) -> None:
        super().__init__(in_channels, num_classes, upsampling, dropout, width, rng)
        self.upscore2 = self._upscore(2)
        self.score_pool4 = self._score(8 * width)
        self.upscore16 = self._upscore(16, last=True)

    def forward(self, x: Any) -> Any:
        """Images (N, H, W, in_channels) to scores (N, H, W, num_classes)."""
        coarse, _, pool4 = self.coarse_scores(x)
        up = self.upscore2(coarse)
        fused = up + cut(self.score_pool4(pool4), 5, up)
        return self.upscore16(fused, 27, x.shape[1:3])


class FCN8s(_FCN):
    """FCN-8s: FCN-16s, with scores of the map behind the third pooling added.

    Training starts from the weights of an FCN-16s, ``load_state_dict(state, strict=False)``, or,
    all at once, from those of the classifier.

    Parameters
    ----------
    in_channels, num_classes, upsampling, dropout
        As for `FCN32s`.
    at_once : bool
        Scale the map behind the fourth pooling by 0.01 and that behind the third by 0.0001 before
        they are scored, as the authors do for training in one go: it slows these branches down.
    width, rng
        As for `FCN32s`.
    """

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 21,
        upsampling: str = "paper",
        dropout: float = 0.5,
        at_once: bool = False,
        width: int = 64,
        rng: np.random.Generator | None = None,
    ) -> None:
        super().__init__(in_channels, num_classes, upsampling, dropout, width, rng)
        self.at_once = at_once
        self.upscore2 = self._upscore(2)
        self.score_pool4 = self._score(8 * width)
        self.upscore_pool4 = self._upscore(2)
        self.score_pool3 = self._score(4 * width)
        self.upscore8 = self._upscore(8, last=True)

    def forward(self, x: Any) -> Any:
        """Images (N, H, W, in_channels) to scores (N, H, W, num_classes)."""
        coarse, pool3, pool4 = self.coarse_scores(x)
        if self.at_once:
            pool3, pool4 = pool3 * 1e-4, pool4 * 1e-2
        up = self.upscore2(coarse)
        fused = up + cut(self.score_pool4(pool4), 5, up)
        up = self.upscore_pool4(fused)
        fused = up + cut(self.score_pool3(pool3), 9, up)
        return self.upscore8(fused, 31, x.shape[1:3])


class SameUp(nn.ConvTranspose2d):
    """A transposed convolution to a given size, cut as TensorFlow's ``padding='SAME'`` cuts it.

    Of what is too much, half is cut off in front, rounded down, and the rest behind.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        rng: np.random.Generator | None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, rng=rng)

    def forward(self, x: Any, size: Sequence[int] | None = None) -> Any:
        """(N, H, W, C) to (N, *size, F), where ``ceil(size / stride)`` is (H, W).

        If left out, the size is the largest of these, stride times (H, W).
        """
        if size is None:
            size = [n * self.stride for n in x.shape[1:3]]
        kernel, _ = self.kernel_size
        excess = [
            (n - 1) * self.stride + kernel - wanted
            for n, wanted in zip(x.shape[1:3], size, strict=True)
        ]
        padding = [(more // 2, more - more // 2) for more in excess]
        return F.conv_transpose2d(x, self.weight, self.bias, self.stride, padding)


class FCNSlides(ImageNetwork):
    """The FCN-8s of the slides: scores of the classes for each pixel of an image of any size.

    VGG-19 as far as conv5_3, with average pools, and a max-pool behind that. Then, of 224 pixels,

    ===== ============================================ ==============
    W6    7x7 convolution, ReLU, dropout               7 x 7 x 4096
    W7    1x1 convolution, ReLU, dropout               7 x 7 x 4096
    W8    1x1 convolution to the classes               7 x 7 x C
    W_t1  4x4 transposed, stride 2, plus pool4         14 x 14 x 512
    W_t2  4x4 transposed, stride 2, plus pool3         28 x 28 x 256
    W_t3  16x16 transposed, stride 8                   224 x 224 x C
    ===== ============================================ ==============

    What differs from the paper: VGG-19, with average pools (left over from style transfer, where
    the code comes from) and conv5_3 without its ReLU; padding by what keeps sizes; the maps behind
    the pools are added as they are, not their scores, so that what is enlarged has as many
    channels as they; up-convolutions have a bias and start at random.

    Parameters
    ----------
    in_channels : int
        Channels of the image.
    num_classes : int
    dropout : float in [0, 1]
        Probability for each number behind W6 and W7 to be dropped in training: one less the
        slides' ``DropOutKeep``. (0.15 in the repository.)
    width : int
        Channels of the first convolutions, 64 on the slides. pool3 has 4 times, pool4 8 times, W6
        and W7 have 64 times as many.
    rng : numpy.random.Generator, optional
        Makes the first weights: of W6 and all that follows normally distributed with deviation
        0.02, cut at twice that.

    Examples
    --------
    >>> model = FCNSlides(1, 2, width=2)
    >>> model(np.zeros((1, 21, 40, 1), np.float32)).shape
    (1, 21, 40, 2)
    """

    stride = 32

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 2,
        dropout: float = 0.2,
        width: int = 64,
        rng: np.random.Generator | None = None,
    ) -> None:
        super().__init__(in_channels, num_classes)
        self.width = width
        widths = [*stage_widths(19, width)[:4], (8 * width,) * 3]
        inputs = in_channels, *(stage[-1] for stage in widths[:-1])
        self.stages = nn.ModuleList(
            conv_stage(before, stage, rng=rng) for before, stage in zip(inputs, widths, strict=True)
        )
        self.stages[4][2].activation = None
        # Both round up: SAME. What hangs over the edge does not count in an average.
        self.average = nn.AvgPool2d(2, ceil_mode=True)
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        hidden = 64 * width
        self.W6 = nn.Conv2d(8 * width, hidden, 7, padding="same", rng=rng, activation="relu")
        self.W7 = nn.Conv2d(hidden, hidden, 1, rng=rng, activation="relu")
        self.W8 = nn.Conv2d(hidden, num_classes, 1, rng=rng)
        self.dropout = nn.Dropout(dropout)
        self.W_t1 = SameUp(num_classes, 8 * width, 4, 2, rng)
        self.W_t2 = SameUp(8 * width, 4 * width, 4, 2, rng)
        self.W_t3 = SameUp(4 * width, num_classes, 16, 8, rng)
        for layer in (self.W6, self.W7, self.W8, self.W_t1, self.W_t2, self.W_t3):
            layer.weight.data = nn.init.truncated_normal(layer.weight.shape, rng, std=0.02)

    def forward(self, x: Any) -> Any:
        """Images (N, H, W, in_channels) to scores (N, H, W, num_classes)."""
        self.check_images(x)
        size, pools = x.shape[1:3], []
        *stages, last = self.stages
        for stage in stages:
            x = self.average(stage(x))
            pools.append(x)
        _, _, pool3, pool4 = pools
        x = self.pool(last(x))
        x = self.dropout(self.W6(x))
        x = self.W8(self.dropout(self.W7(x)))
        x = self.W_t1(x, pool4.shape[1:3]) + pool4
        x = self.W_t2(x, pool3.shape[1:3]) + pool3
        return self.W_t3(x, size)


def fcn32s(**settings: Any) -> FCN32s:
    """`FCN32s`: 136 152 917 parameters for 21 classes, 1 806 336 of them in up-convolutions."""
    return FCN32s(**settings)


def fcn16s(**settings: Any) -> FCN16s:
    """`FCN16s`: 134 815 994 parameters for 21 classes, 458 640 of them in up-convolutions."""
    return FCN16s(**settings)


def fcn8s(**settings: Any) -> FCN8s:
    """`FCN8s`: 134 489 759 parameters for 21 classes, 127 008 of them in up-convolutions."""
    return FCN8s(**settings)
