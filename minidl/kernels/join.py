"""Joining arrays along their channels, and cutting them apart again.

Arrays are taken as (pixels, channels); tasks are blocks of `BLOCK` pixels.
"""

from collections.abc import Sequence

import numpy as np

from minidl.kernels import memory, parallel
from minidl.kernels.jit import kernel
from minidl.kernels.slab import copy_channels

BLOCK = 1024  # pixels


@kernel
def _copy_channels_of(start, stop, source, source_row, at, out, out_row, to, count, pixels):
    """Copy `count` channels of each pixel, from channel `at` to channel `to`, of flat arrays."""
    for i in range(start * BLOCK, min(stop * BLOCK, pixels)):
        copy_channels(source, i * source_row + at, out, i * out_row + to, count)


def _copy(source: np.ndarray, at: int, out: np.ndarray, to: int, count: int) -> None:
    pixels = out.size // out.shape[-1]
    parallel.run(
        _copy_channels_of, -(-pixels // BLOCK), pixels * count / 2,
        source.reshape(-1), source.shape[-1], at, out.reshape(-1), out.shape[-1], to, count, pixels,
    )  # fmt: skip


def join(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """The arrays side by side along the last axis; floating, of one dtype."""
    channels = [array.shape[-1] for array in arrays]
    out = memory.empty((*arrays[0].shape[:-1], sum(channels)), arrays[0].dtype)
    to = 0
    for array, count in zip(arrays, channels, strict=True):
        if out.size:
            _copy(np.ascontiguousarray(array), 0, out, to, count)
        to += count
    return out


def cut(joined: np.ndarray, channels: Sequence[int]) -> list[np.ndarray]:
    """`joined` cut into arrays of so many channels each."""
    joined = np.ascontiguousarray(joined)
    parts = [memory.empty((*joined.shape[:-1], count), joined.dtype) for count in channels]
    at = 0
    for part in parts:
        if part.size:
            _copy(joined, at, part, 0, part.shape[-1])
        at += part.shape[-1]
    return parts
