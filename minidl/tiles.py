"""Overlap-tile prediction: images of any size in bounded memory.

Each tile is predicted from a window that is larger by a halo, as wide as the network looks, and
beyond the edges of the image there is its mirror image (U-Net's figure 2). Windows begin on the
network's own grid, at multiples of its stride, and end where the image ends. So each score is the
sum of the same products as if the image were predicted whole: bit for bit where convolutions are
computed directly, always in the same order. Winograd's algorithm, which is chosen where channels
are many, works on small tiles of its own, and rounds differently where these lie differently:
scores then differ by a few millionths of the largest one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from minidl.tensor import Tensor, no_grad

TILE = 640  # side of a window in pixels
Halo = int | Callable[[Any], int | None]
Reader = Callable[[np.ndarray, np.ndarray], np.ndarray]


def unet_reach(depth: int) -> int:
    """How many pixels away from its place a score of a U-Net depends on, at most.

    Parameters
    ----------
    depth : int
        Number of resolutions, 1 or more, with two 3x3 convolutions each on the way down and up.

    Returns
    -------
    int
        Pixels, in the direction in which it is more.
    """
    sides = (unet_field(depth, place) for place in range(2 ** (depth - 1)))
    return max(max(-first, last) for first, last in sides)


def unet_field(depth: int, place: int) -> tuple[int, int]:
    """First and last pixel that the score at `place` depends on, relative to it."""

    def seen(first: int, last: int, level: int) -> tuple[int, int]:
        # Of a level's result, by its input: two convolutions, or those before and after the copy.
        if level == depth - 1:
            return first - 2, last + 2
        low, high = seen((first - 2) // 2, (last + 2) // 2, level + 1)
        return min(first - 4, 2 * low - 2), max(last + 4, 2 * high + 3)

    first, last = seen(place, place, 0)
    return first - place, last - place


def halo_of(model: Any) -> int | None:
    """How far a network looks, for those whose shape is known: U-Nets. None for any other."""
    depth = getattr(model, "depth", None)
    if depth is None or getattr(model, "multiple", None) != 2 ** (depth - 1):
        return None
    return unet_reach(depth)


@dataclass(frozen=True)
class Side:
    """A tile along one side.

    Attributes
    ----------
    window : (int, int)
        First pixel of the window, and the one behind its last; may lie outside of the image.
    keep : slice
        Of the window's scores.
    place : slice
        Of the image, where they belong.
    """

    window: tuple[int, int]
    keep: slice
    place: slice


def sides(model: Any, size: int, tile: int, halo: int) -> list[Side]:
    """Cut one side of an image into tiles that together cover it.

    Parameters
    ----------
    model : nn.Module
        May have ``multiple``, pixels of its grid; and ``shrink`` with ``fitting_size``, if its
        scores are smaller than the image.
    size : int
        Pixels of the side.
    tile : int
        Pixels of a window, about; never less than the network and its halo need.
    halo : int
        Pixels that a score depends on, to either side.
    """
    grid, shrink = getattr(model, "multiple", 1), getattr(model, "shrink", 0)
    fitting = getattr(model, "fitting_size", lambda side: side + -side % grid)
    fill = 0 if shrink else fitting(size) - size
    before, whole = fill // 2, size + fill
    margin = shrink // 2 if shrink else -(-halo // grid) * grid
    if size + shrink <= tile:
        step = whole
    else:
        count = -(-whole // max(tile - 2 * margin, grid))
        step = -(-whole // (count * grid)) * grid
    return [
        _side(model, start, min(start + step, whole), whole, margin, shrink, before, size)
        for start in range(0, whole, step)
    ]


def _side(
    model: Any,
    start: int,
    stop: int,
    whole: int,
    margin: int,
    shrink: int,
    before: int,
    size: int,
) -> Side:
    # Places from `before` on are the image's.
    if shrink:
        first, scores = start - margin, start
        last = first + model.fitting_size(stop - start + shrink)
    else:
        first = scores = max(start - margin, 0)
        last = min(stop + margin, whole)
    low, high = max(start, before), min(stop, before + size)
    return Side(
        (first - before, last - before),
        slice(low - scores, high - scores),
        slice(low - before, high - before),
    )


def mirrored(first: int, last: int, size: int) -> np.ndarray:
    """Pixels of a side for the places from `first` to before `last`, mirrored at its ends."""
    if size == 1:
        return np.zeros(last - first, np.int64)
    places = np.abs(np.arange(first, last)) % (2 * size - 2)
    return np.minimum(places, 2 * size - 2 - places)


def predict_tiles(
    model: Any,
    read: Reader,
    size: tuple[int, int],
    tile: int = TILE,
    halo: Halo | None = None,
    watch: Callable[[int, int], Any] | None = None,
) -> Iterator[tuple[tuple[slice, slice], np.ndarray]]:
    """Predict an image tile after tile.

    Parameters
    ----------
    model : nn.Module
        Maps (1, H, W, C) to scores (1, H, W, K), or smaller ones if it has ``shrink``.
    read : callable
        ``read(rows, columns)`` gives these pixels of the image, (h, w, C) float32, normalised.
        Rows and columns may repeat, where the image is mirrored.
    size : (int, int)
        Height and width of the image.
    tile : int
        Largest side of a window. Memory grows with its square and with the network's channels: a
        U-Net with 16 at full resolution does 5000 x 4000 pixels in colour below 1 GB, all included.
        With 64 it takes more than that; give a smaller tile.
    halo : int or callable, optional
        Pixels that a score depends on, to either side; or a function of the model that tells. By
        itself `halo_of`; a network of which that is not known is given the whole image. Without
        effect for a network with ``shrink``, which takes its own.
    watch : callable, optional
        Called before each tile, with how many are done, and of how many.

    Yields
    ------
    place : (slice, slice)
        Where in the image.
    scores : ndarray of shape (h, w, K)
        Computed as for predicting. Those of the whole image, bit for bit where every convolution
        is computed directly, else up to 1e-5 of the largest score.

    Raises
    ------
    ValueError
        If `tile` or `halo` is out of range.
    """
    if tile < 1:
        raise ValueError(f"predict_tiles: tile={tile}, expected 1 or more")
    reach = halo_of(model) if halo is None else halo if isinstance(halo, int) else halo(model)
    if reach is None:
        tile, reach = max(tile, *size), 0
    if reach < 0:
        raise ValueError(f"predict_tiles: halo={reach}, expected 0 or more")
    rows, columns = (sides(model, side, tile, reach) for side in size)
    total = len(rows) * len(columns)
    for number in range(total):
        if watch is not None:
            watch(number, total)
        row, column = rows[number // len(columns)], columns[number % len(columns)]
        x = read(mirrored(*row.window, size[0]), mirrored(*column.window, size[1]))
        yield (row.place, column.place), _scores(model, x)[row.keep, column.keep]


def _scores(model: Any, x: np.ndarray) -> np.ndarray:
    training = model.training
    model.eval()
    try:
        with no_grad():
            return np.asarray(model(Tensor(np.ascontiguousarray(x)[None])))[0]
    finally:
        model.train(training)


def tiled_scores(
    model: Any,
    x: np.ndarray,
    tile: int = TILE,
    halo: Halo | None = None,
    watch: Callable[[int, int], Any] | None = None,
) -> np.ndarray:
    """Scores of a whole image, computed in tiles.

    Parameters
    ----------
    model : nn.Module
    x : ndarray of shape (H, W, C), float32
        Normalised.
    tile, halo, watch
        See `predict_tiles`.

    Returns
    -------
    ndarray of shape (H, W, K)
    """
    out = np.empty(0)
    size = x.shape[0], x.shape[1]
    for place, scores in predict_tiles(model, _picker(x), size, tile, halo, watch):
        if not out.size:
            out = np.empty((*size, scores.shape[-1]), scores.dtype)
        out[place] = scores
    return out


def tiled_classes(
    model: Any,
    image: np.ndarray,
    normalise: Callable[[np.ndarray], np.ndarray],
    tile: int = TILE,
    halo: Halo | None = None,
    watch: Callable[[int, int], Any] | None = None,
) -> np.ndarray:
    """Classes of a whole image, of which nothing but one tile is ever in floating point.

    Beside the image and one byte per pixel of the result, memory is that of one tile.

    Parameters
    ----------
    model : nn.Module
    image : ndarray of shape (H, W, C)
        As stored, of any type.
    normalise : callable
        Makes float32 of a part of the image, each pixel by itself.
    tile, halo, watch
        See `predict_tiles`.

    Returns
    -------
    ndarray of shape (H, W), uint8; uint16 above 256 classes
    """
    out = np.empty(0)
    size, pick = (image.shape[0], image.shape[1]), _picker(image)

    def read(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        return normalise(pick(rows, columns))

    for place, scores in predict_tiles(model, read, size, tile, halo, watch):
        if not out.size:
            out = np.empty(size, np.uint8 if scores.shape[-1] <= 256 else np.uint16)
        out[place] = scores.argmax(axis=-1)
    return out


def _picker(image: np.ndarray) -> Reader:
    return lambda rows, columns: image[rows[:, None], columns]
