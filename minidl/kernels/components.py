"""Connected pieces of a picture, and pieces that grow until they touch."""

import numpy as np

from minidl.kernels.jit import kernel


@kernel
def _root(parent, i):
    """The smallest pixel known to be in the piece of i; shortens the way there."""
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@kernel
def _components(values, eight, parent, labels):
    """Overwrites parent (H * W,) and labels (H, W); returns the number of pieces."""
    height, width = values.shape
    for y in range(height):
        for x in range(width):
            i = y * width + x
            parent[i] = i
            if values[y, x] == 0:
                continue
            for k in range(4 if eight else 2):  # left, above; and above left, above right
                v = y - (k > 0)
                u = x - (k == 0 or k == 2) + (k == 3)
                if v >= 0 and 0 <= u < width and values[v, u] == values[y, x]:
                    a, b = _root(parent, i), _root(parent, v * width + u)
                    parent[max(a, b)] = min(a, b)
    count = 0
    for y in range(height):
        for x in range(width):
            i = y * width + x
            if values[y, x] == 0:
                labels[y, x] = 0
            elif parent[i] == i:
                count += 1
                labels[y, x] = count
            else:
                root = _root(parent, i)
                labels[y, x] = labels[root // width, root % width]
    return count


@kernel
def _grow(labels, queue):
    """Labels (H, W) spread to their neighbours that are 0, step by step, first come first served.

    Overwrites both; queue has room for (H * W,).
    """
    height, width = labels.shape
    filled, at = 0, 0
    for y in range(height):
        for x in range(width):
            if labels[y, x] != 0:
                queue[filled] = y * width + x
                filled += 1
    while at < filled:
        y, x = queue[at] // width, queue[at] % width
        at += 1
        for k in range(4):
            v, u = y + (k == 3) - (k == 0), x + (k == 2) - (k == 1)
            if 0 <= v < height and 0 <= u < width and labels[v, u] == 0:
                labels[v, u] = labels[y, x]
                queue[filled] = v * width + u
                filled += 1


def components(values: np.ndarray, eight: bool) -> tuple[np.ndarray, int]:
    """Pieces of equal values other than 0 of (H, W), numbered from 1 as they are met; how many."""
    values = np.ascontiguousarray(values, np.int64)
    labels, parent = np.empty(values.shape, np.int64), np.empty(values.size, np.int64)
    return labels, int(_components(values, eight, parent, labels))


def grow(labels: np.ndarray) -> np.ndarray:
    """Labels (H, W) with every 0 that can be reached replaced by the label nearest in steps."""
    result = np.array(labels, np.int64, order="C")
    _grow(result, np.empty(result.size, np.int64))
    return result
