"""A crop of an image and of its mask under a change of coordinates, in one pass.

Where a pixel of the crop comes from is an affine map of its place, plus a displacement that is
interpolated between the nodes of a coarse grid. Images are interpolated linearly and mirrored
beyond their edges; classes are taken from the nearest pixel, and from nowhere beyond the edges.

Rows are independent, but are not handed to threads here: crops are made beside the training, on
a thread of their own, each on one core.
"""

from __future__ import annotations

import numpy as np

from minidl.kernels.jit import kernel

MARGIN = 1  # nodes on each side beyond those that span the crop
_LIFT = 1 << 30  # pixels; no place is farther outside


@kernel
def _mirrored(i, size):
    """The pixel that stands for pixel i of a side: the edge itself is not repeated."""
    if size == 1:
        return 0
    i = abs(i) % (2 * size - 2)
    return min(i, 2 * size - 2 - i)


@kernel
def _places(row, affine, nodes, row_at, row_weight, column_at, column_weight, line, ys, xs):
    """``ys, xs``: where the pixels of one row of the crop come from. Overwrites line as well."""
    for n in range(nodes.shape[1]):
        down = across = 0.0
        for t in range(4):
            weight = row_weight[row, t]
            down += weight * nodes[row_at[row] + t, n, 0]
            across += weight * nodes[row_at[row] + t, n, 1]
        line[n, 0], line[n, 1] = down, across
    for i in range(len(xs)):
        y = affine[0, 0] * row + affine[0, 1] * i + affine[0, 2]
        x = affine[1, 0] * row + affine[1, 1] * i + affine[1, 2]
        at = column_at[i]
        for t in range(4):
            y += column_weight[i, t] * line[at + t, 0]
            x += column_weight[i, t] * line[at + t, 1]
        ys[i], xs[i] = min(max(y, -_LIFT), _LIFT), min(max(x, -_LIFT), _LIFT)


@kernel
def _warp(
    image, classes, affine, nodes, row_at, row_weight, column_at, column_weight, nowhere,
    out, labels,
):  # fmt: skip
    """Overwrites out (h, w, C) and labels (h, w). See `warp`."""
    height, width, channels = image.shape
    line = np.empty((nodes.shape[1], 2))
    ys, xs = np.empty(labels.shape[1]), np.empty(labels.shape[1])
    single, one = out.dtype.type, out.dtype.type(1)
    for row in range(len(labels)):
        _places(row, affine, nodes, row_at, row_weight, column_at, column_weight, line, ys, xs)
        for i in range(len(xs)):
            # Lifted, nothing is negative: then cutting off the fraction is floor, and quicker.
            top, left = int(ys[i] + _LIFT) - _LIFT, int(xs[i] + _LIFT) - _LIFT
            down, across = single(ys[i] - top), single(xs[i] - left)
            bottom, right = top + 1, left + 1
            y, x = top + (down >= 0.5), left + (across >= 0.5)
            labels[row, i] = nowhere
            if 0 <= y < height and 0 <= x < width:
                labels[row, i] = classes[y, x]
            if top < 0 or left < 0 or bottom >= height or right >= width:
                top, bottom = _mirrored(top, height), _mirrored(bottom, height)
                left, right = _mirrored(left, width), _mirrored(right, width)
            for c in range(channels):
                a, b = single(image[top, left, c]), single(image[top, right, c])
                a = a * (one - across) + b * across
                b, d = single(image[bottom, left, c]), single(image[bottom, right, c])
                b = b * (one - across) + d * across
                out[row, i, c] = a * (one - down) + b * down


def cubic_taps(size: int, nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Between which nodes each pixel of a side lies, and what each of them counts.

    R. Keys 1981, "Cubic convolution interpolation for digital image processing", equation 15,
    with ``a = -1/2``: the only cubic that is exact for parabolas.

    Parameters
    ----------
    size : int
        Pixels of the side.
    nodes : int
        Nodes, 2 or more, that are spread over the side: the first on the first pixel, the last on
        the last. There must be `MARGIN` more on either end.

    Returns
    -------
    at : (size,) int64
        The first of four nodes, counted with the margin.
    weights : (size, 4) float64
    """
    place = np.arange(size) * ((nodes - 1) / max(size - 1, 1))
    at = np.minimum(np.floor(place).astype(np.int64), nodes - 2)
    u = place - at
    weights = (
        -u * (1 - u) ** 2 / 2,
        1 - u**2 * (5 - 3 * u) / 2,
        u * (1 + u * (4 - 3 * u)) / 2,
        -(u**2) * (1 - u) / 2,
    )
    return at, np.stack(weights, axis=-1)


def warp(
    image: np.ndarray,
    classes: np.ndarray,
    size: tuple[int, int],
    affine: np.ndarray,
    nodes: np.ndarray,
    nowhere: int,
) -> tuple[np.ndarray, np.ndarray]:
    """A crop of `size` out of an image (H, W, C) and its classes (H, W).

    Parameters
    ----------
    affine : (2, 3) array
        Row i, column j of the crop come from ``affine @ (i, j, 1)``, in (row, column) pixels of the
        image, plus the displacement there.
    nodes : (rows + 2, columns + 2, 2) array
        Displacements in pixels at the nodes of a grid, `MARGIN` included, whose corners without it
        are the corners of the crop.
    nowhere : int
        The class of pixels that come from outside of the image.

    Returns
    -------
    out : (h, w, C) float32 array
    labels : (h, w) int32 array
    """
    out = np.empty((*size, image.shape[-1]), np.float32)
    labels = np.empty(size, np.int32)
    taps = (
        cubic_taps(side, count - 2 * MARGIN) for side, count in zip(size, nodes.shape, strict=False)
    )
    _warp(
        np.ascontiguousarray(image), np.ascontiguousarray(classes),
        np.ascontiguousarray(affine, dtype=np.float64),
        np.ascontiguousarray(nodes, dtype=np.float64),
        *(part for side in taps for part in side), nowhere, out, labels,
    )  # fmt: skip
    return out, labels
