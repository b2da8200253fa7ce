"""Overlap-tile prediction: images of any size in bounded memory.

Each tile is predicted from a window that is larger by a halo, as wide as the network looks, and
beyond the edges of the image there is its mirror image (U-Net's figure 2). Windows begin on the
network's own grid, at multiples of its stride, and end where the image ends. So each score is the
sum of the same products as if the image were predicted whole: bit for bit where convolutions are
computed directly, always in the same order. Winograd's algorithm, which is chosen where channels
are many, works on small tiles of its own, and rounds differently where these lie differently:
scores then differ by a few millionths of the largest one.

How far a network looks, and how wide its grid is, is read off its receptive fields. That of a
network with a pooling over the whole image, with linear layers, or with enlargements to the size of
the image whose factor depends on that size, has no end: it is given the whole image.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from minidl.fields import FieldError, Free, LayerField, receptive_fields
from minidl.tensor import Tensor, no_grad

TILE = 640  # side of a window in pixels, for a network that does not look too far for it
_SIDE = 128  # of the image with which it is found out how far that is
Reader = Callable[[np.ndarray, np.ndarray], np.ndarray]


class WholeOnly(ValueError):
    """A network that has to see the whole image; the message says why."""


@dataclass(frozen=True)
class Tiling:
    """How images can be cut for a network.

    Attributes
    ----------
    halo : int
        Pixels to either side of its place that a score depends on.
    grid : int
        Pixels by which the image may be moved without changing anything but the scores' places.
    """

    halo: int
    grid: int

    @property
    def margin(self) -> int:
        """The halo, in whole steps of the grid."""
        return -(-self.halo // self.grid) * self.grid


def tiling_of(model: Any, channels: int) -> Tiling:
    """Find out how images can be cut for a network, from its receptive fields.

    Parameters
    ----------
    model : nn.Module
        Maps (N, H, W, channels) to scores (N, H, W, K). If it has ``fitting_size``, it is asked
        which sides it takes.
    channels : int
        Of the images.

    Raises
    ------
    WholeOnly
        If scores depend on the whole image, or on its size, or nobody knows on what.
    ValueError
        If it does not give a score for each pixel.
    """
    model = getattr(model, "unflipped", model)  # which looks just as far
    fit = getattr(model, "fitting_size", int)
    # Of two sides that have little in common: what holds for both does not depend on the size.
    one = fit(_SIDE)
    other = fit(one + max(getattr(model, "multiple", 1), 1) * 19)
    fields = [_fields(model, (1, *sides, channels)) for sides in ((one, other), (other, one))]
    outputs = [found.get("") for found in fields]
    for output in outputs:
        _check_dense(model, output)
    frees = [[axis.free for axis in output.axes] for output in outputs if output is not None]
    for axis, (a, b) in enumerate(zip(*frees, strict=True), 1):
        if not (_moves(a, axis) and _same(a, b)):
            raise WholeOnly(_global_view(model, *fields))
    jumps = [
        axis.free.jump.numerator
        for layer in fields[0].values() for axis in layer.axes if axis.free is not None
    ]  # fmt: skip
    periods = [len(free.first) for free in frees[0] if free is not None]
    grid = math.lcm(*(n for n in (*jumps, *periods, getattr(model, "multiple", 1)) if n))
    return Tiling(max(_reach(free) for free in frees[0] if free is not None), grid)


def _fields(model: Any, shape: tuple[int, ...]) -> dict[str, LayerField]:
    try:
        with _predicting(model):
            return receptive_fields(model, shape)
    except FieldError as error:
        raise WholeOnly(str(error)) from error


def _check_dense(model: Any, output: LayerField | None) -> None:
    if output is None or len(output.shape) != 4:
        shape = "several arrays" if output is None else f"an array of shape {output.shape}"
        raise ValueError(
            f"{type(model).__name__} gives {shape}, expected scores (N, H, W, K) for each pixel."
        )


def _moves(free: Free | None, axis: int) -> bool:
    """Whether what units see moves along with them, pixel by pixel."""
    return free is not None and free.axis == axis and free.jump == 1 and free.folded is None


def _same(a: Free | None, b: Free | None) -> bool:
    """Whether units see the same, relative to their places, in images of different sizes."""
    if a is None or b is None or a.axis is None or a.jump != b.jump:
        return False
    return np.array_equal(a.first, b.first) and np.array_equal(a.last, b.last)


def _global_view(model: Any, fields: dict[str, LayerField], others: dict[str, LayerField]) -> str:
    """Where a network comes to see the whole image."""
    name = type(model).__name__
    lost = [
        path for path in fields if path and not all(
            _same(a.free, b.free)
            for a, b in zip(fields[path].axes, others[path].axes, strict=True)
        )
    ]  # fmt: skip
    inner = [path for path in lost if not any(other.startswith(f"{path}.") for other in lost)]
    where = f", from its layer {inner[0]} on" if inner else ""
    return f"{name}: scores depend on the whole image or on its size{where}"


def _reach(free: Free) -> int:
    """How far from its own place the farthest pixel is that a unit sees."""
    places = np.arange(len(free.first))
    return int(max((places - free.first).max(), (free.last - places).max(), 0))


@contextlib.contextmanager
def _predicting(model: Any) -> Iterator[None]:
    """The network as for predicting."""
    training = model.training
    model.eval()
    try:
        with no_grad():
            yield
    finally:
        model.train(training)


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


def sides(model: Any, size: int, tile: int, tiling: Tiling) -> list[Side]:
    """Cut one side of an image into tiles that together cover it.

    Parameters
    ----------
    model : nn.Module
        May have ``fitting_size``, for sides that it takes; and ``shrink``, if its scores are
        smaller than the image.
    size : int
        Pixels of the side.
    tile : int
        Pixels of a window, about; never less than the network and its halo need.
    tiling : Tiling
        Of a network with ``shrink``, only the grid counts.
    """
    grid, shrink, margin = tiling.grid, getattr(model, "shrink", 0), tiling.margin
    fill = 0 if shrink else getattr(model, "fitting_size", int)(size) - size
    before, whole = fill // 2, size + fill
    if shrink:
        margin = shrink // 2
    else:  # no window is then smaller than the network takes
        margin = max(margin, -(-getattr(model, "smallest", 1) // grid) * grid)
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
    tile: int | None = None,
    halo: int | None = None,
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
    tile : int, optional
        Largest side of a window. By itself 640, or four times the halo if that is more, so that a
        quarter of what is computed is kept; and the whole image for a network that has to see it.
        Memory grows with its square and with the network's channels: a U-Net with 16 at full
        resolution, the default of the command line, took 0.55 GB for 5000 x 4000 pixels in colour,
        all included. With 64 it takes more than 1 GB; give a smaller tile.
    halo : int, optional
        Pixels that a score depends on, to either side. By itself that of `tiling_of`. With less,
        scores near the edges of tiles are approximate. Without effect for a network with
        ``shrink``, which takes its own.
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
    WholeOnly
        If `tile` is given for an image that is larger, and the network has to see it whole.
    ValueError
        If `tile` or `halo` is out of range, the halo leaves nothing of a tile, or the network does
        not give a score for each pixel.
    """
    if tile is not None and tile < 1:
        raise ValueError(f"predict_tiles: tile={tile}, expected 1 or more")
    if halo is not None and halo < 0:
        raise ValueError(f"predict_tiles: halo={halo}, expected 0 or more")
    tile, tiling = _cutting(model, read, size, tile, halo)
    rows, columns = (sides(model, side, tile, tiling) for side in size)
    total = len(rows) * len(columns)
    for number in range(total):
        if watch is not None:
            watch(number, total)
        row, column = rows[number // len(columns)], columns[number % len(columns)]
        x = read(mirrored(*row.window, size[0]), mirrored(*column.window, size[1]))
        yield (row.place, column.place), _scores(model, x)[row.keep, column.keep]


def _cutting(
    model: Any, read: Reader, size: tuple[int, int], tile: int | None, halo: int | None
) -> tuple[int, Tiling]:
    """How large windows shall be, and what is needed around them."""
    grid = getattr(model, "multiple", 1)
    if getattr(model, "shrink", 0) or max(size) <= (TILE if tile is None else tile):
        return tile or TILE, Tiling(0, grid)
    if halo is not None:
        tiling = Tiling(halo, math.lcm(grid, getattr(model, "stride", 1)))
    else:
        try:
            tiling = tiling_of(model, read(np.zeros(1, int), np.zeros(1, int)).shape[-1])
        except WholeOnly as reason:
            if tile is None:
                return max(size), Tiling(0, grid)
            raise WholeOnly(
                f"{reason}. So it cannot predict {size[0]} x {size[1]} pixels in tiles of {tile}. "
                "Leave out the tile, or predict the image at a lower resolution."
            ) from None
    least = 2 * tiling.margin + tiling.grid
    if tile is not None and tile < least:
        raise ValueError(
            f"predict_tiles: tile={tile}, expected {least} or more: {type(model).__name__} looks "
            f"{tiling.halo} pixels far to either side. A smaller `halo` gives approximate scores."
        )
    return tile or max(TILE, 4 * tiling.margin), tiling


def _scores(model: Any, x: np.ndarray) -> np.ndarray:
    with _predicting(model):
        scores = np.asarray(model(Tensor(np.ascontiguousarray(x)[None])))[0]
    lost = getattr(model, "shrink", 0)
    if scores.ndim != 3 or scores.shape[:2] != (x.shape[0] - lost, x.shape[1] - lost):
        raise ValueError(
            f"{type(model).__name__} gives scores of shape {scores.shape} for an image of shape "
            f"{x.shape}, expected (H, W, K), one for each pixel."
        )
    return scores


def tiled_scores(
    model: Any,
    x: np.ndarray,
    tile: int | None = None,
    halo: int | None = None,
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
    tile: int | None = None,
    halo: int | None = None,
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
