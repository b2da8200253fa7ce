"""Exact Euclidean distances to objects in an image, and connected components.

P. Felzenszwalb, D. Huttenlocher 2012, "Distance Transforms of Sampled Functions": the distance
along columns first; then, in each row, every column stands for a parabola, and the squared distance
is the lower envelope of them all, which is found in one pass. All of it is done with whole numbers:
nothing is rounded but the root of the result.

For the second nearest of several objects, each column keeps its nearest pixels of two different
objects. The row's envelope says which object is nearest where; on each stretch that belongs to one
object, a second envelope is made without it, of the columns near enough to matter.
"""

from __future__ import annotations

import numpy as np

from minidl.kernels import parallel
from minidl.kernels.jit import kernel

COLUMNS = 64  # of a task on the way down and up


@kernel
def _step(row, column, label, first, second):
    """Update the nearest and second nearest object seen so far, (row, label) for each column."""
    if first[column, 1] != label:
        second[column, 0], second[column, 1] = first[column, 0], first[column, 1]
    first[column, 0], first[column, 1] = row, label


@kernel
def _along_columns(start, stop, instances, near):
    """Tasks are blocks of columns; overwrites near (2, H, W): rows of the two nearest objects.

    -1 where there is none. The label of the pixel in that row tells whose it is.
    """
    height, width = instances.shape
    for task in range(start, stop):
        left = task * COLUMNS
        count = min(COLUMNS, width - left)
        first, second = np.zeros((count, 2), np.int64), np.zeros((count, 2), np.int64)
        first[:, 0], second[:, 0] = -1, -1
        for row in range(height):
            for i in range(count):
                label = instances[row, left + i]
                if label:
                    _step(row, i, label, first, second)
                near[0, row, left + i], near[1, row, left + i] = first[i, 0], second[i, 0]
        first[:], second[:] = 0, 0
        first[:, 0], second[:, 0] = -1, -1
        for row in range(height - 1, -1, -1):
            for i in range(count):
                label = instances[row, left + i]
                if label:
                    _step(row, i, label, first, second)
                _merge(row, left + i, instances, first[i], second[i], near)


@kernel
def _merge(row, column, instances, first, second, near):
    """The two nearest objects of those above, in near, and those below, in first and second."""
    up, farther = np.int64(near[0, row, column]), np.int64(near[1, row, column])
    down, deeper = first[0], second[0]
    if down < 0:
        return
    if up < 0:
        near[0, row, column], near[1, row, column] = down, deeper
        return
    if row - up <= down - row:
        best, label = up, instances[up, column]
    else:
        best, label = down, first[1]
    other = -1
    for candidate in (up, farther, down, deeper):
        if (
            candidate >= 0
            and instances[candidate, column] != label
            and (other < 0 or abs(candidate - row) < abs(other - row))
        ):
            other = candidate
    near[0, row, column], near[1, row, column] = best, other


@kernel
def _envelope(heights, lo, hi, vertices, ends):
    """Lower envelope of the parabolas ``(x - v)**2 + heights[v]`` for lo <= v < hi.

    Those of negative height do not exist. Parabola ``vertices[k]`` is the lowest up to and
    including x = ``ends[k]``. Returns how many there are.
    """
    count = 0
    for v in range(lo, hi):
        if heights[v] < 0:
            continue
        while count:
            u = vertices[count - 1]
            # The last place where u is not higher than v, cut down to a whole number.
            end = (v * v - u * u + heights[v] - heights[u]) // (2 * (v - u))
            if count == 1 or end > ends[count - 2]:
                ends[count - 1] = end
                break
            count -= 1
        vertices[count] = v
        count += 1
    return count


@kernel
def _lowest(heights, vertices, ends, count, start, stop, squares, owners):
    """``squares[x]`` and its vertex ``owners[x]`` on the envelope for start <= x < stop."""
    k = 0
    for x in range(start, stop):
        while k + 1 < count and x > ends[k]:
            k += 1
        v = vertices[k]
        squares[x], owners[x] = (x - v) * (x - v) + heights[v], v


@kernel
def _along_rows(start, stop, instances, near, nearest, second):
    """Tasks are rows; overwrites nearest (H, W) and, unless it is empty, second (H, W)."""
    width = instances.shape[1]
    heights, others = np.empty(width, np.int64), np.empty(width, np.int64)
    vertices, ends = np.empty(width, np.int64), np.empty(width, np.int64)
    squares, owners = np.empty(width, np.int64), np.empty(width, np.int64)
    farther, labels = np.empty(width, np.int64), np.empty(width, np.int64)
    for row in range(start, stop):
        for x in range(width):
            at = near[0, row, x]
            heights[x] = (at - row) * (at - row) if at >= 0 else -1
        count = _envelope(heights, 0, width, vertices, ends)
        if not count:
            nearest[row] = np.inf
            if len(second):
                second[row] = np.inf
            continue
        _lowest(heights, vertices, ends, count, 0, width, squares, owners)
        for x in range(width):
            nearest[row, x] = np.sqrt(squares[x])
            labels[x] = instances[near[0, row, owners[x]], owners[x]]
        if not len(second):
            continue
        a = 0
        while a < width:
            b, label = a + 1, labels[a]
            while b < width and labels[b] == label:
                b += 1
            # The neighbours' objects bound the distance, which changes by 1 a pixel at most.
            reach = float(2 * width)
            if a > 0:
                v = owners[a - 1]
                reach = min(reach, np.sqrt((a - v) * (a - v) + heights[v]) + (b - a))
            if b < width:
                v = owners[b]
                reach = min(reach, np.sqrt((b - 1 - v) * (b - 1 - v) + heights[v]) + (b - a))
            lo, hi = max(0, a - int(reach) - 1), min(width, b + int(reach) + 1)
            for x in range(lo, hi):
                at = near[0, row, x]
                if at >= 0 and instances[at, x] == label:
                    at = near[1, row, x]
                others[x] = (at - row) * (at - row) if at >= 0 else -1
            count = _envelope(others, lo, hi, vertices, ends)
            if count:
                _lowest(others, vertices, ends, count, a, b, squares, farther)
                for x in range(a, b):
                    second[row, x] = np.sqrt(squares[x])
            else:
                second[row, a:b] = np.inf
            a = b


def distances(instances: np.ndarray, two: bool) -> tuple[np.ndarray, np.ndarray]:
    """Distances to the nearest, and to the second nearest object.

    Parameters
    ----------
    instances : (H, W) integer array
        0 where there is nothing, else the number of the object.
    two : bool
        Whether the second distance is wanted; its array is empty otherwise.

    Returns
    -------
    nearest, second : (H, W) float32 arrays
        Between centres of pixels; 0 on the object itself, inf where there is no such object.
    """
    instances = np.ascontiguousarray(instances, dtype=np.int32)
    height, width = instances.shape
    near = np.empty((2, height, width), np.int32)
    nearest = np.empty((height, width), np.float32)
    second = np.empty((height if two else 0, width), np.float32)
    blocks = -(-width // COLUMNS)
    parallel.run(_along_columns, blocks, instances.size * 10.0, instances, near)
    parallel.run(_along_rows, height, instances.size * 20.0, instances, near, nearest, second)
    return nearest, second


@kernel
def _root(parents, label):
    while parents[label] != label:
        parents[label] = parents[parents[label]]
        label = parents[label]
    return label


@kernel
def _components(mask, corners, labels, parents):
    """Two passes over the image; overwrites labels (H, W) and parents. Returns how many."""
    height, width = mask.shape
    used = 1
    for y in range(height):
        for x in range(width):
            labels[y, x] = 0
            if not mask[y, x]:
                continue
            label = 0
            for dy, dx in ((0, -1), (-1, 0), (-1, -1), (-1, 1)):
                if (dy and dx and not corners) or y + dy < 0 or not 0 <= x + dx < width:
                    continue
                beside = labels[y + dy, x + dx]
                if beside and mask[y + dy, x + dx] == mask[y, x]:
                    beside = _root(parents, beside)
                    if label and label != beside:
                        low, high = min(label, beside), max(label, beside)
                        parents[high] = low
                        label = low
                    else:
                        label = beside
            if not label:
                label = used
                parents[used] = used
                used += 1
            labels[y, x] = label
    count = 0
    for label in range(1, used):  # a root is smaller than all that lead to it
        if parents[label] == label:
            count += 1
            parents[label] = -count
        else:
            parents[label] = parents[parents[label]]
    for y in range(height):
        for x in range(width):
            if labels[y, x]:
                labels[y, x] = -parents[labels[y, x]]
    return count


def components(mask: np.ndarray, corners: bool) -> tuple[np.ndarray, int]:
    """Number the connected parts of equal, non-zero values in mask (H, W).

    Parameters
    ----------
    corners : bool
        Whether pixels that touch at a corner only are connected.

    Returns
    -------
    labels : (H, W) int32 array
        0 where the mask is 0, else 1, 2, ... in the order of the parts' first pixels.
    count : int
    """
    labels = np.empty(mask.shape, np.int32)
    parents = np.empty(mask.size + 1, np.int32)
    return labels, int(_components(np.ascontiguousarray(mask), corners, labels, parents))
