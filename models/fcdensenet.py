"""FC-DenseNet (Jégou, Drozdzal, Vazquez, Romero, Bengio, The One Hundred Layers Tiramisu: Fully
Convolutional DenseNets for Semantic Segmentation, CVPR workshops 2017), figure 1 and table 2.

FC-DenseNet103, with growth rate 16, sees 360 x 480 pixels as

===== ========= ======= ================================== ========================
level size      layers  channels on the way down           on the way up
===== ========= ======= ================================== ========================
0     360 x 480 4       48 + 64 = 112                      80 + 112 + 64 = 256
1     180 x 240 5       112 + 80 = 192                     112 + 192 + 80 = 384
2     90 x 120  7       192 + 112 = 304                    160 + 304 + 112 = 576
3     45 x 60   10      304 + 160 = 464                    192 + 464 + 160 = 816
4     22 x 30   12      464 + 192 = 656                    240 + 656 + 192 = 1088
5     11 x 15   15      656 + 240 = 896, of which 240 go up
===== ========= ======= ================================== ========================

A 3x3 convolution to 48 channels comes first. A layer is batch normalisation, ReLU, 3x3 convolution
and dropout, and makes as many new channels as the growth rate; it sees the input of its block and
the new channels of all layers before it. A transition down is batch normalisation, ReLU, 1x1
convolution, dropout and a 2x2 max-pool; a transition up, a 3x3 transposed convolution with stride
2, of the new channels alone. In front of the block that follows, the copy from the way down is put
behind them. A 1x1 convolution of all channels makes the scores.

The paper's table 2 adds up some channels wrongly (880, 1072, 800 and 368 for 896, 1088, 816
and 384), as its authors say; above is what the text describes and their code builds.

Difference from the authors' code: predictions are normalised by running moments, and so do not
depend on what else is in the batch. ``batch_statistics=True`` is their way. The scores are linear:
the softmax belongs to the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl import functional as F
from minidl import nn
from minidl.functional import check
from minidl.models.network import ImageNetwork


class NormReLU(nn.BatchNorm2d):
    """Batch normalisation and ReLU of channels that lie in one tensor, or in two."""

    weight: nn.Parameter
    bias: nn.Parameter

    def __init__(self, channels: int, batch_statistics: bool) -> None:
        super().__init__(channels, track_running_stats=not batch_statistics, activation="relu")

    def forward(self, x: Any, beside: Any = None) -> Any:
        """`x` normalised; with the channels of `beside`, which come behind, a pair of tensors.

        Channels are normalised one by one, so that they need not be concatenated for it.
        """
        if beside is None:
            return super().forward(x)
        own = x.shape[-1]
        pair = self._part(x, slice(own)), self._part(beside, slice(own, None))
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked += 1
        return pair

    def _part(self, x: Any, channels: slice) -> Any:
        mean, var = self.running_mean, self.running_var
        return F.batch_norm(
            x,
            None if mean is None else mean[channels],
            None if var is None else var[channels],
            self.weight[channels],
            self.bias[channels],
            self.training,
            self._share(),
            self.eps,
            activation="relu",
        )


class DenseLayer(nn.Module):
    """Normalisation, ReLU, 3x3 convolution, dropout: `growth_rate` new channels."""

    def __init__(
        self,
        in_channels: int,
        growth_rate: int,
        dropout: float,
        batch_statistics: bool,
        rng: np.random.Generator | None,
    ) -> None:
        super().__init__()
        self.norm = NormReLU(in_channels, batch_statistics)
        self.conv = _conv(in_channels, growth_rate, 3, rng)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Any, new: Any = None) -> Any:
        """(N, H, W, C) and, beside it, the new channels before this layer's, to its own."""
        if new is None:
            return self.dropout(self.conv(self.norm(x)))
        x, new = self.norm(x, beside=new)
        return self.dropout(self.conv(x, beside=new))


class DenseBlock(nn.Module):
    """Layers that each see the block's input and the new channels of all layers before."""

    def __init__(self, in_channels: int, layers: int, growth_rate: int, *settings: Any) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            DenseLayer(in_channels + i * growth_rate, growth_rate, *settings) for i in range(layers)
        )

    def forward(self, x: Any) -> Any:
        """(N, H, W, C) to the new channels (N, H, W, layers * growth_rate), without x.

        The input is never copied: only what is new is concatenated, layer by layer.
        """
        first, *others = self.layers
        new = first(x)
        for layer in others:
            new = F.concatenate([new, layer(x, new)])
        return new


class TransitionDown(nn.Module):
    """Normalisation, ReLU, 1x1 convolution, dropout, 2x2 max-pool."""

    def __init__(
        self,
        channels: int,
        dropout: float,
        batch_statistics: bool,
        rng: np.random.Generator | None,
    ) -> None:
        super().__init__()
        self.norm = NormReLU(channels, batch_statistics)
        self.conv = _conv(channels, channels, 1, rng)
        self.dropout = nn.Dropout(dropout)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Any) -> Any:
        """(N, H, W, C) to (N, H // 2, W // 2, C)."""
        return self.pool(self.dropout(self.conv(self.norm(x))))


class TransitionUp(nn.ConvTranspose2d):
    """3x3 transposed convolution with stride 2, cut to the size of the copy beside it."""

    def __init__(self, channels: int, rng: np.random.Generator | None) -> None:
        super().__init__(channels, channels, 3, stride=2, rng=rng)
        self.weight.data = nn.init.he_uniform(self.weight.shape, rng)

    def forward(self, x: Any, size: Sequence[int] | None = None) -> Any:
        """(N, H, W, C) to (N, *size, C), where size is 2 H or 2 H + 1, and 2 W or 2 W + 1.

        2 H + 1 rows result, and the last is left off if there are 2 H on the way down.
        """
        if size is None:
            return super().forward(x)
        height, width = (2 * n + 1 - wanted for n, wanted in zip(x.shape[1:3], size, strict=True))
        return F.conv_transpose2d(
            x, self.weight, self.bias, self.stride, padding=((0, height), (0, width))
        )


def _conv(
    in_channels: int, out_channels: int, kernel_size: int, rng: np.random.Generator | None
) -> nn.Conv2d:
    """A padded convolution whose weights are evenly distributed, as the authors have it."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding="same", rng=rng)
    conv.weight.data = nn.init.he_uniform(conv.weight.shape, rng)
    return conv


class FCDenseNet(ImageNetwork):
    """FC-DenseNet: scores of the classes for each pixel of an image of any size from 32 x 32.

    Parameters
    ----------
    in_channels : int
        Channels of the image.
    num_classes : int
    growth_rate : int
        New channels that a layer makes.
    block_config : sequence of int
        Layers of the blocks on the way down, the last of them the bottleneck. The way up has the
        same numbers in reverse.
    num_init_features : int
        Channels of the first convolution.
    dropout : float in [0, 1]
        Probability for a number to be dropped behind each convolution, in training.
    batch_statistics : bool
        Normalise by the moments of the batch in predicting, too: predictions then depend on what
        else is in the batch, and there are no running moments.
    rng : numpy.random.Generator, optional
        Makes the first weights.

    Attributes
    ----------
    stride, smallest : int
        Pixels of the image between neighbours in the bottleneck, ``2**(len(block_config) - 1)``,
        which is also the smallest side of an image.

    Examples
    --------
    >>> model = FCDenseNet(1, 2, growth_rate=2, block_config=(1, 2, 2), num_init_features=4)
    >>> model(np.zeros((1, 15, 22, 1), np.float32)).shape
    (1, 15, 22, 2)
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        growth_rate: int = 16,
        block_config: Sequence[int] = (4, 5, 7, 10, 12, 15),
        num_init_features: int = 48,
        dropout: float = 0.2,
        batch_statistics: bool = False,
        rng: np.random.Generator | None = None,
    ) -> None:
        super().__init__(in_channels, num_classes)
        check.integers("FCDenseNet", "growth_rate", growth_rate, 1, 1)
        check.integers("FCDenseNet", "num_init_features", num_init_features, 1, 1)
        block_config = tuple(block_config)
        check.integers("FCDenseNet", "block_config", block_config, max(len(block_config), 1), 1)
        self.growth_rate, self.block_config = growth_rate, block_config
        self.num_init_features, self.batch_statistics = num_init_features, batch_statistics
        self.stride = self.smallest = 2 ** (len(block_config) - 1)
        *layers, bottom = block_config
        settings = dropout, batch_statistics, rng

        self.first = _conv(in_channels, num_init_features, 3, rng)
        channels, skips = num_init_features, []
        self.down, self.transition_down = nn.ModuleList(), nn.ModuleList()
        for count in layers:
            self.down.append(DenseBlock(channels, count, growth_rate, *settings))
            channels += count * growth_rate
            skips.append(channels)
            self.transition_down.append(TransitionDown(channels, *settings))
        self.bottleneck = DenseBlock(channels, bottom, growth_rate, *settings)
        channels, new = channels + bottom * growth_rate, bottom * growth_rate
        self.transition_up, self.up = nn.ModuleList(), nn.ModuleList()
        for count, skip in zip(reversed(layers), reversed(skips), strict=True):
            self.transition_up.append(TransitionUp(new, rng))
            self.up.append(DenseBlock(new + skip, count, growth_rate, *settings))
            channels, new = new + skip + count * growth_rate, count * growth_rate
        self.scores = _conv(channels, num_classes, 1, rng)

    def forward(self, x: Any) -> Any:
        """Images (N, H, W, in_channels) to scores (N, H, W, num_classes)."""
        self.check_images(x)
        x = self.first(x)
        skips = []
        for block, transition in zip(self.down, self.transition_down, strict=True):
            x = F.concatenate([x, block(x)])
            skips.append(x)
            x = transition(x)
        new = self.bottleneck(x)
        for transition, block, skip in zip(
            self.transition_up, self.up, reversed(skips), strict=True
        ):
            x = F.concatenate([transition(new, skip.shape[1:3]), skip])
            new = block(x)
        return self.scores(x, beside=new)


def fc_densenet56(
    in_channels: int = 3, num_classes: int = 11, rng: np.random.Generator | None = None
) -> FCDenseNet:
    """FC-DenseNet56: growth rate 12, four layers in each block. 1 376 795 parameters.

    (The paper says 1.5 million. What it describes has less; the same with four pools and five
    layers in each block has 1 459 835.)
    """
    return FCDenseNet(in_channels, num_classes, 12, (4,) * 6, rng=rng)


def fc_densenet67(
    in_channels: int = 3, num_classes: int = 11, rng: np.random.Generator | None = None
) -> FCDenseNet:
    """FC-DenseNet67: growth rate 16, five layers in each block. 3 463 243 parameters."""
    return FCDenseNet(in_channels, num_classes, 16, (5,) * 6, rng=rng)


def fc_densenet103(
    in_channels: int = 3, num_classes: int = 11, rng: np.random.Generator | None = None
) -> FCDenseNet:
    """FC-DenseNet103: growth rate 16, 4 to 15 layers in a block. 9 322 091 parameters."""
    return FCDenseNet(in_channels, num_classes, 16, (4, 5, 7, 10, 12, 15), rng=rng)
