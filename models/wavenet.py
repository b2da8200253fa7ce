"""WaveNet (van den Oord et al., WaveNet: A Generative Model for Raw Audio, 2016), figures 3 and 4:
dilated convolutions along one axis, as an example of what they do for images along two.

One layer of the stack, figure 4::

    x ---+--> causal convolution, dilated, tanh ------+
         |                                            * --+--> 1x1 ---------> to the sum of skips
         +--> causal convolution, dilated, sigmoid ---+   |
         |                                                +--> 1x1 --> + ---> to the next layer
         +------------------------------------------------------------>+

Dilations are 1, 2, 4, ..., 512, and that again and again; with kernels of 2, each such block sees
1023 samples further back. The sum of all skips goes through ReLU, 1x1, ReLU, 1x1, which makes the
scores of the 256 values that the next sample may have.

`SpeechWaveNet` is the network of the slides' example, speech to text (speech-to-text-wavenet by
Namju Kim): 15 layers with kernels of 7, which see as far forward as back, and batch normalisation.

The paper gives no numbers of channels; those here are of common implementations. The scores are
linear: the softmax belongs to the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl import functional as F
from minidl import nn
from minidl.functional import check

OCTAVES = tuple(2**power for power in range(10))


def mu_law_encode(x: Any, mu: int = 255) -> np.ndarray:
    """Sound as integers, quiet samples finely, loud ones coarsely: the paper's section 2.2.

    Parameters
    ----------
    x : array_like
        Samples from -1 to 1; what lies outside is clipped.
    mu : int
        The highest of the integers.

    Returns
    -------
    integer array from 0 to `mu`, of the shape of x
        ``floor((f + 1) / 2 * mu + 1 / 2)`` with ``f = sign(x) * ln(1 + mu * |x|) / ln(1 + mu)``.

    Examples
    --------
    >>> mu_law_encode([-1, -0.5, 0, 0.01, 1]).tolist()
    [0, 16, 128, 157, 255]
    """
    check.integers("mu_law_encode", "mu", mu, 1, 1)
    x = np.clip(np.asarray(x, np.float64), -1, 1)
    f = np.sign(x) * np.log1p(mu * np.abs(x)) / np.log1p(mu)
    return np.floor((f + 1) / 2 * mu + 0.5).astype(np.int64)


def mu_law_decode(codes: Any, mu: int = 255) -> np.ndarray:
    """The sample in the middle of those that `mu_law_encode` gives each of these integers.

    Parameters
    ----------
    codes : array_like of int
        From 0 to `mu`.
    mu : int
        As for `mu_law_encode`.

    Returns
    -------
    float32 array from -1 to 1, of the shape of codes
    """
    check.integers("mu_law_decode", "mu", mu, 1, 1)
    f = 2 * np.asarray(codes, np.float64) / mu - 1
    return (np.sign(f) * np.expm1(np.abs(f) * np.log1p(mu)) / mu).astype(np.float32)


def _stack(
    network: nn.Module, kernel_size: int, dilations: Sequence[int], blocks: int
) -> tuple[int, ...]:
    """The dilation of each layer of all blocks."""
    name = type(network).__name__
    check.integers(name, "kernel_size", kernel_size, 1, 1)
    check.integers(name, "blocks", blocks, 1, 1)
    return check.integers(name, "dilations", tuple(dilations), max(len(dilations), 1), 1) * blocks


def _causal(kernel_size: int, dilation: int) -> tuple[tuple[int, int]]:
    """The padding with which a sample sees itself and what came before, and nothing else."""
    return ((dilation * (kernel_size - 1), 0),)


class GatedLayer(nn.Module):
    """A layer of the stack: causal, dilated, gated; with a residual and a skip.

    Parameters
    ----------
    channels, skip_channels : int
        Of what goes to the next layer, and of what goes to the sum of skips.
    kernel_size, dilation : int
    last : bool
        Whether no other layer follows, so that there is nothing but a skip.
    rng : numpy.random.Generator, optional
        Makes the first weights.
    """

    def __init__(
        self,
        channels: int,
        skip_channels: int,
        kernel_size: int,
        dilation: int,
        last: bool = False,
        rng: np.random.Generator | None = None,
    ) -> None:
        super().__init__()
        settings: dict[str, Any] = {
            "padding": _causal(kernel_size, dilation), "dilation": dilation, "rng": rng
        }  # fmt: skip
        self.filter = nn.Conv1d(channels, channels, kernel_size, **settings)
        self.gate = nn.Conv1d(channels, channels, kernel_size, **settings)
        self.residual = None if last else nn.Conv1d(channels, channels, 1, rng=rng)
        self.skip = nn.Conv1d(channels, skip_channels, 1, rng=rng)

    def forward(self, x: Any) -> tuple[Any, Any]:
        """(N, L, channels) to the same shape, and to (N, L, skip_channels)."""
        z = F.tanh(self.filter(x)) * F.sigmoid(self.gate(x))
        if self.residual is not None:
            x = x + self.residual(z)
        return x, self.skip(z)


class WaveNet(nn.Module):
    """WaveNet: at each time, scores of the values that the next sample may have.

    Parameters
    ----------
    in_channels : int
        256 for samples as one-hot vectors of their codes, 1 for the samples themselves.
    num_classes : int
        Values that a sample may have.
    channels, skip_channels : int
        Of the layers, and of the sum of their skips.
    kernel_size : int
        2 in the paper.
    dilations : sequence of int
        Of the layers of one block.
    blocks : int
        How many times the block is repeated.
    rng : numpy.random.Generator, optional
        Makes the first weights.

    Attributes
    ----------
    receptive_field : int
        Samples that a score depends on: 1 + 3 * 1023 for the stack, and one more, because the
        convolution at the entrance has a kernel of 2 itself.

    Examples
    --------
    >>> model = WaveNet(1, 256, channels=4, skip_channels=4, dilations=(1, 2, 4), blocks=2)
    >>> model.receptive_field
    16
    >>> model(np.zeros((1, 100, 1), np.float32)).shape
    (1, 100, 256)
    """

    def __init__(
        self,
        in_channels: int = 256,
        num_classes: int = 256,
        channels: int = 32,
        skip_channels: int = 512,
        kernel_size: int = 2,
        dilations: Sequence[int] = OCTAVES,
        blocks: int = 3,
        rng: np.random.Generator | None = None,
    ) -> None:
        super().__init__()
        dilations = _stack(self, kernel_size, dilations, blocks)
        self.in_channels, self.num_classes = in_channels, num_classes
        self.receptive_field = 1 + (kernel_size - 1) * (1 + sum(dilations))

        entrance = _causal(kernel_size, 1)
        self.entrance = nn.Conv1d(in_channels, channels, kernel_size, padding=entrance, rng=rng)
        self.layers = nn.ModuleList(
            GatedLayer(channels, skip_channels, kernel_size, dilation, layer == len(dilations), rng)
            for layer, dilation in enumerate(dilations, 1)
        )
        self.hidden = nn.Conv1d(skip_channels, skip_channels, 1, rng=rng, activation="relu")
        self.scores = nn.Conv1d(skip_channels, num_classes, 1, rng=rng)

    def forward(self, x: Any) -> Any:
        """Sequences (N, L, in_channels) to scores (N, L, num_classes)."""
        _check_sequences(self, x)
        x = self.entrance(x)
        skips = []
        for layer in self.layers:
            x, skip = layer(x)
            skips.append(skip)
        return self.scores(self.hidden(F.relu(sum(skips[1:], skips[0]))))


class Normalised(nn.Module):
    """A convolution that keeps the length, batch normalisation, and an activation.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, dilation : int
    activation : function
        `minidl.functional.tanh` or `minidl.functional.sigmoid`.
    rng : numpy.random.Generator, optional
        Makes the first weights.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        dilation: int,
        activation: Any,
        rng: np.random.Generator | None = None,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv1d(
            in_channels, out_channels, kernel_size, padding="same", dilation=dilation, bias=False,
            rng=rng,
        )  # fmt: skip
        self.norm = nn.BatchNorm1d(out_channels, momentum=0.01)
        self.activation = activation

    def forward(self, x: Any) -> Any:
        """(N, L, in_channels) to (N, L, out_channels)."""
        return self.activation(self.norm(self.conv(x)))


class SpeechLayer(nn.Module):
    """A layer of the slides' example: its 1x1 convolution serves as residual and as skip.

    Parameters
    ----------
    channels, kernel_size, dilation : int
    rng : numpy.random.Generator, optional
        Makes the first weights.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        dilation: int,
        rng: np.random.Generator | None = None,
    ) -> None:
        super().__init__()
        self.filter = Normalised(channels, channels, kernel_size, dilation, F.tanh, rng)
        self.gate = Normalised(channels, channels, kernel_size, dilation, F.sigmoid, rng)
        self.skip = Normalised(channels, channels, 1, 1, F.tanh, rng)

    def forward(self, x: Any) -> tuple[Any, Any]:
        """(N, L, channels) to two results of the same shape."""
        skip = self.skip(self.filter(x) * self.gate(x))
        return x + skip, skip


class SpeechWaveNet(nn.Module):
    """The slides' speech to text: at each time, scores of the letter that is spoken.

    Parameters
    ----------
    in_channels : int
        Coefficients (MFCC) at each time.
    num_classes : int
        Letters, the space, and the empty one of the CTC loss.
    channels : int
        Of all layers.
    kernel_size : int
    dilations : sequence of int
        Of the layers of one block.
    blocks : int
        How many times the block is repeated.
    rng : numpy.random.Generator, optional
        Makes the first weights.

    Attributes
    ----------
    receptive_field : int
        Times that a score depends on, half of them later than itself.

    Examples
    --------
    >>> SpeechWaveNet().receptive_field
    559
    """

    def __init__(
        self,
        in_channels: int = 20,
        num_classes: int = 28,
        channels: int = 128,
        kernel_size: int = 7,
        dilations: Sequence[int] = (1, 2, 4, 8, 16),
        blocks: int = 3,
        rng: np.random.Generator | None = None,
    ) -> None:
        super().__init__()
        dilations = _stack(self, kernel_size, dilations, blocks)
        self.in_channels, self.num_classes = in_channels, num_classes
        self.receptive_field = 1 + (kernel_size - 1) * sum(dilations)

        self.entrance = Normalised(in_channels, channels, 1, 1, F.tanh, rng)
        self.layers = nn.ModuleList(
            SpeechLayer(channels, kernel_size, dilation, rng) for dilation in dilations
        )
        self.hidden = Normalised(channels, channels, 1, 1, F.tanh, rng)
        self.scores = nn.Conv1d(channels, num_classes, 1, rng=rng)

    def forward(self, x: Any) -> Any:
        """Sequences (N, L, in_channels) to scores (N, L, num_classes)."""
        _check_sequences(self, x)
        x = self.entrance(x)
        skips = []
        for layer in self.layers:
            x, skip = layer(x)
            skips.append(skip)
        return self.scores(self.hidden(sum(skips[1:], skips[0])))


def _check_sequences(network: Any, x: Any) -> None:
    name, shape = type(network).__name__, np.shape(x)
    if len(shape) != 3 or shape[-1] != network.in_channels or not shape[1]:
        raise ValueError(
            f"{name}: x must be sequences (N, L, {network.in_channels}) of at least one sample, "
            f"but has shape {shape}. Channels come last; a single sequence is x[None]."
        )
