"""First values of parameters: functions from a shape and a random generator to an array.

A fan-in is the number of numbers that are summed up for one result, a fan-out the number of
results that one number takes part in. Both follow from the shape: (*kernel, C // groups, F) for a
convolution, (C, F) for a linear layer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl import random


def fans(shape: Sequence[int]) -> tuple[int, int]:
    """Fan-in and fan-out of weights (*kernel, C, F).

    >>> fans((3, 3, 64, 128))
    (576, 1152)
    """
    if len(shape) < 2:
        raise ValueError(
            f"fans: weights have at least the axes (C, F), but the shape is {tuple(shape)}. "
            "Biases and scales are made with zeros() and ones()."
        )
    *kernel, channels, features = shape
    return math.prod(kernel) * channels, math.prod(kernel) * features


def normal(
    shape: Sequence[int],
    rng: np.random.Generator | None = None,
    dtype: Any = np.float32,
    mean: float = 0.0,
    std: float = 1.0,
) -> np.ndarray:
    """Normally distributed numbers."""
    numbers = (rng or random.generator()).standard_normal(tuple(shape))
    return (mean + std * numbers).astype(dtype)


def truncated_normal(
    shape: Sequence[int],
    rng: np.random.Generator | None = None,
    dtype: Any = np.float32,
    mean: float = 0.0,
    std: float = 1.0,
) -> np.ndarray:
    """Normally distributed numbers, drawn again where more than two deviations off the mean.

    As TensorFlow's, `std` is that before the cut; what remains spreads by 0.8796 of it.
    """
    generator = rng or random.generator()
    numbers = generator.standard_normal(math.prod(shape))
    far = np.flatnonzero(abs(numbers) > 2)
    while far.size:
        numbers[far] = generator.standard_normal(far.size)
        far = far[abs(numbers[far]) > 2]
    return (mean + std * numbers).astype(dtype).reshape(shape)


def uniform(
    shape: Sequence[int],
    rng: np.random.Generator | None = None,
    dtype: Any = np.float32,
    low: float = 0.0,
    high: float = 1.0,
) -> np.ndarray:
    """Numbers evenly distributed in [low, high)."""
    return (rng or random.generator()).uniform(low, high, tuple(shape)).astype(dtype)


def he_normal(
    shape: Sequence[int],
    rng: np.random.Generator | None = None,
    dtype: Any = np.float32,
    fan_in: float | None = None,
) -> np.ndarray:
    """Normally distributed with standard deviation ``sqrt(2 / fan_in)``, for layers before ReLU.

    Parameters
    ----------
    shape : sequence of int
        (*kernel, C // groups, F)
    rng : numpy.random.Generator, optional
        By default that of `minidl.manual_seed`.
    dtype : floating dtype
    fan_in : float, optional
        Where it does not follow from the shape, as for a transposed convolution.

    References
    ----------
    He et al., Delving Deep into Rectifiers, 2015, equation 10. Quoted by Ronneberger, Fischer,
    Brox, U-Net, 2015, section 3: 3x3 convolutions of 64 channels have N = 576.
    """
    fan_in = fan_in or fans(shape)[0]
    return normal(shape, rng, dtype, std=math.sqrt(2 / max(fan_in, 1)))


def he_uniform(
    shape: Sequence[int],
    rng: np.random.Generator | None = None,
    dtype: Any = np.float32,
    fan_in: float | None = None,
) -> np.ndarray:
    """Evenly distributed with the variance of `he_normal`: within ``sqrt(6 / fan_in)`` of 0."""
    fan_in = fan_in or fans(shape)[0]
    limit = math.sqrt(6 / max(fan_in, 1))
    return uniform(shape, rng, dtype, -limit, limit)


def glorot_normal(
    shape: Sequence[int], rng: np.random.Generator | None = None, dtype: Any = np.float32
) -> np.ndarray:
    """Normally distributed with standard deviation ``sqrt(2 / (fan_in + fan_out))``.

    References
    ----------
    Glorot, Bengio, Understanding the difficulty of training deep feedforward neural networks,
    2010, equation 12.
    """
    return normal(shape, rng, dtype, std=math.sqrt(2 / max(sum(fans(shape)), 1)))


def glorot_uniform(
    shape: Sequence[int], rng: np.random.Generator | None = None, dtype: Any = np.float32
) -> np.ndarray:
    """Evenly distributed within ``sqrt(6 / (fan_in + fan_out))`` of 0.

    References
    ----------
    Glorot, Bengio, 2010, equation 16.
    """
    limit = math.sqrt(6 / max(sum(fans(shape)), 1))
    return uniform(shape, rng, dtype, -limit, limit)


def zeros(
    shape: Sequence[int], rng: np.random.Generator | None = None, dtype: Any = np.float32
) -> np.ndarray:
    """Zeros; `rng` is there so that all initialisers are called alike."""
    return np.zeros(tuple(shape), dtype)


def ones(
    shape: Sequence[int], rng: np.random.Generator | None = None, dtype: Any = np.float32
) -> np.ndarray:
    """Ones; `rng` is there so that all initialisers are called alike."""
    return np.ones(tuple(shape), dtype)


def _triangle(size: int) -> np.ndarray:
    """Linear interpolation as `size` filter taps."""
    half = (size + 1) // 2
    centre = half - 1 if size % 2 else half - 0.5
    return 1 - np.abs(np.arange(size) - centre) / half


def bilinear(
    shape: Sequence[int], rng: np.random.Generator | None = None, dtype: Any = np.float32
) -> np.ndarray:
    """Weights with which a transposed convolution enlarges each channel by linear interpolation.

    For enlarging s times, the kernel has ``2 s - s % 2`` taps, the stride is s, and the padding
    ``(kernel - s) // 2``; bilinear for images, linear for sequences, trilinear for volumes.

    Parameters
    ----------
    shape : sequence of int
        (*kernel, F // groups, C) of the transposed convolution, as many features as channels.
    rng : numpy.random.Generator, optional
        Not needed; all initialisers are called alike.
    dtype : floating dtype

    Raises
    ------
    ValueError
        If features and channels differ.

    Notes
    -----
    Zeros lie around the image, so its border comes out darker than true interpolation makes it.

    References
    ----------
    Long, Shelhamer, Darrell, Fully Convolutional Networks, 2015, section 3.3.

    Examples
    --------
    >>> bilinear((4, 1, 1)).ravel().tolist()
    [0.25, 0.75, 0.75, 0.25]
    """
    *kernel, features, channels = shape
    if not features or channels % features:
        raise ValueError(
            f"bilinear: shape {tuple(shape)} must be (*kernel, F // groups, C) with as many "
            "features F as channels C: each channel is enlarged by itself."
        )
    taps = np.ones(())
    for size in kernel:
        taps = np.multiply.outer(taps, _triangle(size))
    weight = np.zeros(tuple(shape), dtype)
    channel = np.arange(channels)
    weight[..., channel % features, channel] = taps[..., None]
    return weight


def identity(
    shape: Sequence[int],
    rng: np.random.Generator | None = None,
    dtype: Any = np.float32,
    groups: int = 1,
) -> np.ndarray:
    """Weights of a convolution that hands its channels on as they are.

    Parameters
    ----------
    shape : sequence of int
        (*kernel, C // groups, F). Channels without a feature of the same number are dropped,
        features without such a channel are 0.
    rng : numpy.random.Generator, optional
        Not needed; all initialisers are called alike.
    dtype : floating dtype
    groups : int

    References
    ----------
    Yu, Koltun, Multi-Scale Context Aggregation by Dilated Convolutions, 2016, equation 4.
    """
    *kernel, channels, features = shape
    if features % groups:
        raise ValueError(f"identity: {features} features do not divide into {groups} groups.")
    weight = np.zeros(tuple(shape), dtype)
    centre = tuple(size // 2 for size in kernel)
    for group in range(groups):
        first = group * (features // groups)
        for c in range(min(channels, features // groups)):
            weight[(*centre, c, first + c)] = 1
    return weight
