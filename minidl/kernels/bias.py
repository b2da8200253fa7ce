"""The gradient of a bias, which is added to every pixel, and of the ReLU that may follow it.

Arrays are (..., C) and taken flat, in parts; a part is walked in lines of whole pixels, long enough
for registers, and adds them up element by element.
"""

import numpy as np

from minidl.kernels import memory, parallel
from minidl.kernels.jit import kernel

PARTS = 64  # at most; their number follows from the shape alone, so that sums do, too
PART_LINES = 32  # but as many lines at least
LINE = 64  # numbers of a line, about


@kernel
def _sums(start, stop, gy, lines, sums):
    """``sums[part] = sum of the lines of the part``. Tasks are parts of `lines` lines."""
    line = sums.shape[1]
    for part in range(start, stop):
        total = sums[part]
        total[:] = 0
        for i in range(part * lines * line, min(gy.size, (part + 1) * lines * line), line):
            row = gy[i : min(i + line, gy.size)]
            for j in range(row.size):
                total[j] += row[j]


@kernel
def _masked_sums(start, stop, y, gy, lines, sums, out):
    """``out = gy where y is not 0 or less, else 0``, and its sums as in `_sums`."""
    line = sums.shape[1]
    for part in range(start, stop):
        total = sums[part]
        total[:] = 0
        for i in range(part * lines * line, min(gy.size, (part + 1) * lines * line), line):
            end = min(i + line, gy.size)
            row, value, masked = gy[i:end], y[i:end], out[i:end]
            for j in range(row.size):
                masked[j] = 0 if value[j] <= 0 else row[j]
                total[j] += masked[j]


def _parts(gy: np.ndarray) -> tuple[np.ndarray, int]:
    """Room for the sums of all parts, (parts, line), and lines of one part."""
    channels = gy.shape[-1]
    line = max(1, LINE // channels) * channels
    lines = -(-gy.size // line)
    each = max(PART_LINES, -(-lines // PARTS))
    return np.empty((max(1, -(-lines // each)), line), gy.dtype), each


def _total(sums: np.ndarray, channels: int) -> np.ndarray:
    return sums.reshape(-1, channels).sum(axis=0)


def grad(gy: np.ndarray) -> np.ndarray:
    """Gradient of the bias: the sum of gy, (..., C), over all pixels."""
    gy = np.ascontiguousarray(gy)
    sums, lines = _parts(gy)
    parallel.run(_sums, len(sums), gy.size / 4, gy.reshape(-1), lines, sums)
    return _total(sums, gy.shape[-1])


def relu_grad(y: np.ndarray, gy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gradient of what ``y = relu(. + bias)`` was made from, and of the bias."""
    y, gy = np.ascontiguousarray(y), np.ascontiguousarray(gy)
    out = memory.empty_like(gy)
    sums, lines = _parts(gy)
    parallel.run(
        _masked_sums, len(sums), gy.size / 2, y.reshape(-1), gy.reshape(-1), lines, sums,
        out.reshape(-1),
    )  # fmt: skip
    return out, _total(sums, gy.shape[-1])
