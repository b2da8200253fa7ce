"""Features of several scales, and what the networks that use them have in common.

Figure 2 of Chen et al. (Rethinking Atrous Convolution for Semantic Image Segmentation, 2017), which
the slides show, has four families:

======================= ========================================= ===============================
family                  how a network gets to see several scales  here
======================= ========================================= ===============================
image pyramid           it looks at several sizes of the image    `ImagePyramid`
encoder and decoder     coarse maps meet fine ones on the way up  `UNet`, `RefineNet`, ...
deeper, with atrous     dilated convolutions in a row             `minidl.models.dilatednet`
convolutions                                                      (`ContextModule`), and ResNets
                                                                  with ``output_stride=8``
spatial pyramid pooling dilated convolutions beside each other    `AtrousPyramid`
======================= ========================================= ===============================

`SpatialPyramidPooling`, where the last one comes from, makes a vector of fixed length of a map of
any size, and so is for classifiers.

`zoom` is the way back from a coarse map to the image, and `Reduced` a network that never sees the
fine one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl import functional as F
from minidl import nn
from minidl.functional import check
from minidl.models.network import ImageNetwork


def zoom(x: Any, factor: int, size: tuple[int, int]) -> Any:
    """Bilinear enlargement that puts cell i where pixel ``factor * i`` is.

    That is where the cells of a network belong whose layers with strides are padded on both sides,
    and it is what Caffe's networks do, and their training on every ``factor``-th label.

    Parameters
    ----------
    x : (N, H, W, C) Tensor
    factor : int
        Pixels from one cell to the next.
    size : (int, int)
        Height and width of the result. What lies behind the last cell gets what the last cell has.

    Returns
    -------
    (N, *size, C) Tensor

    Examples
    --------
    >>> zoom(np.array([0.0, 4.0]).reshape(1, 2, 1, 1), 4, (7, 1)).numpy().ravel().tolist()
    [0.0, 1.0, 2.0, 3.0, 4.0, 4.0, 4.0]
    """
    cells = tuple(x.shape[1:3])
    behind = [
        max(-(-(wanted - 1) // factor) + 1 - cell, 0)
        for wanted, cell in zip(size, cells, strict=True)
    ]
    if any(behind):
        x = F.pad(x, ((0, 0), (0, behind[0]), (0, behind[1]), (0, 0)), "replicate")
    height, width = (factor * (cell - 1) + 1 for cell in x.shape[1:3])
    x = F.interpolate(x, (height, width), mode="bilinear", align_corners=True)
    return x if (height, width) == size else x[:, : size[0], : size[1]]


def scoring(
    in_channels: int,
    num_classes: int,
    kernel_size: int = 1,
    dilation: int = 1,
    std: float = 0.01,
    rng: np.random.Generator | None = None,
) -> nn.Conv2d:
    """The convolution that makes scores: small weights at first, so that no class is preferred.

    Parameters
    ----------
    in_channels, num_classes, kernel_size, dilation : int
    std : float
        Standard deviation of the first weights.
    rng : numpy.random.Generator, optional
        Makes them.
    """
    layer = nn.Conv2d(
        in_channels, num_classes, kernel_size, padding="same", dilation=dilation, rng=rng
    )
    return spread(layer, std)


def spread(layer: nn.Conv2d, std: float) -> nn.Conv2d:
    """The layer, whose first weights get the standard deviation `std` in place of their own."""
    fan_in, _ = nn.init.fans(layer.weight.shape)
    layer.weight.data *= np.float32(std * np.sqrt(fan_in / 2))
    return layer


class AtrousBranch(nn.Module):
    """VGG's linear layers as convolutions: fc6, dilated; fc7, 1x1; and fc8, 1x1, for the scores.

    Parameters
    ----------
    in_channels, num_classes, channels : int
        `channels` are those of fc6 and fc7.
    kernel_size, rate : int
        Of fc6, which keeps the size of the map.
    dropout : float in [0, 1]
        Probability for each number behind fc6 and fc7 to be dropped in training.
    rng : numpy.random.Generator, optional
        Makes the first weights.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        channels: int = 1024,
        kernel_size: int = 3,
        rate: int = 12,
        dropout: float = 0.5,
        rng: np.random.Generator | None = None,
    ) -> None:
        super().__init__()
        settings: dict[str, Any] = {"padding": "same", "activation": "relu", "rng": rng}
        self.fc6 = nn.Conv2d(in_channels, channels, kernel_size, dilation=rate, **settings)
        self.fc7 = nn.Conv2d(channels, channels, 1, **settings)
        self.dropout = nn.Dropout(dropout)
        self.fc8 = scoring(channels, num_classes, rng=rng)

    def forward(self, x: Any) -> Any:
        """(N, H, W, in_channels) to scores (N, H, W, num_classes)."""
        x = self.dropout(self.fc6(x))
        x = self.dropout(self.fc7(x))
        return self.fc8(x)


class AtrousPyramid(nn.Module):
    """Atrous spatial pyramid pooling: dilated convolutions beside each other, scores summed up.

    Parameters
    ----------
    in_channels, num_classes : int
    rates : sequence of int
        Dilation of each 3x3 convolution.
    channels : int, optional
        Channels of an `AtrousBranch` for each rate, 1024 behind VGG-16. Left out, as behind
        ResNet, the dilated convolutions make the scores themselves.
    dropout : float in [0, 1]
        Of the branches.
    rng : numpy.random.Generator, optional
        Makes the first weights.

    References
    ----------
    Chen et al., DeepLab, TPAMI 2018, figures 4 and 7.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        rates: Sequence[int] = (6, 12, 18, 24),
        channels: int | None = None,
        dropout: float = 0.5,
        rng: np.random.Generator | None = None,
    ) -> None:
        super().__init__()
        count = max(len(rates), 1)
        self.rates = check.integers("AtrousPyramid", "rates", tuple(rates), count, 1)

        def branch(rate: int) -> nn.Module:
            if channels is None:
                return scoring(in_channels, num_classes, 3, rate, rng=rng)
            return AtrousBranch(in_channels, num_classes, channels, 3, rate, dropout, rng)

        self.branches = nn.ModuleList(branch(rate) for rate in self.rates)

    def forward(self, x: Any) -> Any:
        """(N, H, W, in_channels) to scores (N, H, W, num_classes)."""
        first, *others = [branch(x) for branch in self.branches]
        return sum(others, first)


class Reduced(ImageNetwork):
    """A network for large things in fine images: it sees averages of squares of pixels.

    It looks `factor` times as far and takes a share of ``1 / factor**2`` of the time. Its scores
    are interpolated back to the size of the image.

    Parameters
    ----------
    network : ImageNetwork
        Maps (N, H, W, in_channels) to scores (N, H, W, num_classes).
    factor : int
        Side of the squares.

    Examples
    --------
    >>> from minidl.models import UNet
    >>> model = Reduced(UNet(1, 2, depth=2, root=2), 4)
    >>> model.multiple, model(np.zeros((1, 16, 24, 1), np.float32)).shape
    (8, (1, 16, 24, 2))
    """

    def __init__(self, network: ImageNetwork, factor: int) -> None:
        super().__init__(network.in_channels, network.num_classes)
        check.integers("Reduced", "factor", factor, 1, 1)
        if getattr(network, "shrink", 0):
            raise ValueError(
                "Reduced: the network's scores must be as large as the image, but it cuts off "
                f"{network.shrink} pixels. Build it with padding='same'."
            )
        self.network, self.factor = network, factor
        self.stride, self.smallest = factor * network.stride, factor * network.smallest
        self.multiple = factor * network.multiple

    def fitting_size(self, size: int) -> int:
        """The smallest side of an image, at least `size`, that the network takes."""
        return self.factor * self.network.fitting_size(-(-size // self.factor))

    def forward(self, x: Any) -> Any:
        """Images (N, H, W, in_channels) to scores (N, H, W, num_classes)."""
        self.check_images(x)
        scores = self.network(F.avg_pool2d(x, self.factor))
        return F.interpolate(scores, scale_factor=self.factor, mode="bilinear")


class ImagePyramid(ImageNetwork):
    """A network that looks at the image in several sizes: their scores are fused.

    Parameters
    ----------
    network : ImageNetwork
        Gives scores for each pixel of an image, at any resolution. The same network, with the
        same weights, looks at all sizes.
    scales : sequence of float
        Sizes of the image, of 1.
    fuse : 'max' or 'mean'
        What is made of the scores of a pixel.

    Notes
    -----
    `forward` returns scores of the size of the image. `at_scales` returns those of each scale, for
    a loss on each of them besides that on the fused ones. A scaled image that the network would
    not take becomes a little larger.

    References
    ----------
    Chen et al., DeepLab, TPAMI 2018, section 4.3 ("MSC"): scales 0.5, 0.75 and 1, fused by max.
    Chen et al., Attention to Scale, CVPR 2016, section 3.1, has both ways to fuse.

    Examples
    --------
    >>> from minidl.models import UNet
    >>> model = ImagePyramid(UNet(1, 3, depth=3, root=2), scales=(0.5, 1))
    >>> model(np.zeros((1, 21, 30, 1), np.float32)).shape
    (1, 21, 30, 3)
    """

    def __init__(
        self,
        network: ImageNetwork,
        scales: Sequence[float] = (0.5, 0.75, 1.0),
        fuse: str = "max",
    ) -> None:
        super().__init__(network.in_channels, network.num_classes)
        if not scales or not all(isinstance(s, int | float) and s > 0 for s in scales):
            raise ValueError(
                f"ImagePyramid: scales must be positive numbers, at least one, but are {scales!r}."
            )
        self.network, self.scales = network, tuple(scales)
        self.fuse = check.choice("ImagePyramid", "fuse", fuse, ("max", "mean"))
        self.stride = network.stride

    def forward(self, x: Any) -> Any:
        """Images (N, H, W, in_channels) to scores (N, H, W, num_classes)."""
        each = F.stack(self.at_scales(x))
        return each.max(axis=0) if self.fuse == "max" else each.mean(axis=0)

    def at_scales(self, x: Any) -> list[Any]:
        """Scores (N, H, W, num_classes) that the network gives images at each of the scales."""
        self.check_images(x)
        image = tuple(np.shape(x)[1:3])
        return [_resized(self.network(_resized(x, self._size(image, s))), image)
                for s in self.scales]  # fmt: skip

    def _size(self, image: tuple[int, ...], scale: float) -> tuple[int, ...]:
        return tuple(self.network.fitting_size(max(round(scale * side), 1)) for side in image)


def _resized(x: Any, size: tuple[int, ...]) -> Any:
    return x if tuple(x.shape[1:3]) == size else F.interpolate(x, size, mode="bilinear")
