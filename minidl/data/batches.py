"""Batches for training: random crops, flips and turns, each a pure function of its place.

Sample number p of a run is picture ``order(seed, epoch)[p % n]`` with ``epoch = p // n``, cut and
turned by a generator made from (seed, epoch, p % n). So batch 7000 of a resumed run is
the batch that the uninterrupted run would have had, and nothing depends on who computes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from .augment import PRESETS, Augmentation
from .dataset import Dataset
from .errors import DataError
from .masks import IGNORE_INDEX
from .weights import WeightMap

AUGMENTATIONS = tuple(PRESETS)
_ORDER, _SAMPLE, _FRONT, _EMPTY = 0, 1, 2, 3  # no two uses of a seed share random numbers


class Batches(Iterator[tuple[np.ndarray, ...]]):
    """A stream of batches, of which each can also be asked for by its number, from any thread.

    Attributes
    ----------
    start : int
        Number of the first batch that iterating yields.
    stop : int or None
        Number of the batch before which it ends.
    pictures : int
        That an epoch draws: all, unless `batches` was told to draw empty ones less often.
    """

    def __init__(self, cut: _Cut, batch_size: int, start: int, stop: int | None) -> None:
        self._cut, self.batch_size = cut, batch_size
        self.start, self.stop, self._next = start, stop, start
        self.pictures = cut.order.pictures

    def __getitem__(self, number: int) -> tuple[np.ndarray, ...]:
        """Batch `number`, counted from 0: the same bits whoever asks, and however often."""
        if number < 0 or (self.stop is not None and number >= self.stop):
            raise IndexError(f"Batches: batch {number}, expected 0 to below {self.stop}")
        first = number * self.batch_size
        samples = [self._cut.sample(first + place) for place in range(self.batch_size)]
        shapes = {y.shape for _, y, *_ in samples}
        if len(shapes) > 1:
            raise DataError(
                f"batches: images of sizes {sorted(shapes)} in one batch. "
                "Give a crop, or a batch_size of 1."
            )
        return tuple(np.stack(arrays) for arrays in zip(*samples, strict=True))

    def __next__(self) -> tuple[np.ndarray, ...]:
        """The next batch."""
        if self.stop is not None and self._next >= self.stop:
            raise StopIteration
        self._next += 1
        return self[self._next - 1]


def batches(
    dataset: Dataset,
    batch_size: int,
    crop: int | tuple[int, int] | None,
    seed: int = 0,
    *,
    steps: int | None = None,
    start: int = 0,
    augment: str | Augmentation = "turns",
    brightness: float = 0.0,
    contrast: float = 0.0,
    foreground: float = 0.0,
    empty: float | None = None,
    weights: WeightMap | None = None,
) -> Batches:
    """Training batches, all of full size, without end or up to a number of steps.

    Each epoch is a permutation of the pictures, drawn from (seed, epoch). A batch may hold the end
    of one epoch and the beginning of the next.

    Parameters
    ----------
    dataset : Dataset
        The training set.
    batch_size : int
        N, 1 or more.
    crop : int, (int, int) or None
        Height and width in pixels to cut out, at a random place. Images that are smaller are
        mirrored beyond their edges, where the mask gets -100. None takes whole images, which then
        must have one size.
    seed : int
        0 or more. Equal seeds give equal bits.
    steps : int, optional
        Number of the step to stop before, counted from 0.
    start : int
        Number of the first step, to continue a run: the batches are those that a run from 0
        would have had.
    augment : 'turns', 'mirror', 'none', 'elastic', 'upright' or Augmentation
        How pictures are varied; the names are those of `augment.PRESETS`. 'turns' flips and turns
        by right angles at random (whole oblong images by half turns only), for pictures that have
        no top; 'mirror' swaps left and right only, for those that have one, as ultrasound; with
        'none' only the crop's place is random. 'elastic' and 'upright' vary everything, the
        latter for pictures that have a top.
    brightness, contrast : float
        In place of those of the augmentation, where more than 0.
    foreground : float
        Share of the crops, 0..1, that are moved so that they contain a certain pixel: one of a
        class other than 0, each class that the picture has being as probable as the others.
        Pictures without such a pixel are cut anywhere. Where the crop is also resampled, the pixel
        is in it before.
    empty : float, optional
        Largest share, from 0 to below 1, of the pictures in an epoch that have no class but 0. If
        there are more, each epoch has all other pictures, and as many of these as make up the
        share, in turn. Without it every epoch has all pictures.
    weights : WeightMap, optional
        Give a weight to each pixel: batches are triples then. The map is made for the whole
        picture, once while there is room in its memory, and cut, turned and deformed with it.

    Returns
    -------
    Batches
        An iterator over (x, y), or (x, y, pixel_weight), which can also be indexed.
    x : ndarray of shape (N, h, w, C), float32
        Normalised.
    y : ndarray of shape (N, h, w), int32
        Class indices, or -100 for "do not count".
    pixel_weight : ndarray of shape (N, h, w), float32
        For ``cross_entropy(x, y, pixel_weight=pixel_weight)``; 0 where y is -100.

    Raises
    ------
    ValueError
        If an argument is out of range; at once, not at the first batch.
    DataError
        If a file cannot be used.
    """
    _check_arguments(batch_size, crop, seed, start, steps, brightness, contrast, foreground, empty)
    if not isinstance(augment, Augmentation):
        if augment not in AUGMENTATIONS:
            raise ValueError(f"batches: augment={augment!r}, expected one of {AUGMENTATIONS}")
        augment = PRESETS[augment]
    varied = replace(
        augment,
        brightness=brightness or augment.brightness,
        contrast=contrast or augment.contrast,
    )
    if weights is not None:
        weights = weights.for_set(dataset.class_counts())
    order = _Order(dataset, seed, empty)
    return Batches(_Cut(order, crop, varied, foreground, weights), batch_size, start, steps)


def _check_arguments(
    batch_size: int,
    crop: int | tuple[int, int] | None,
    seed: int,
    start: int,
    steps: int | None,
    brightness: float,
    contrast: float,
    foreground: float,
    empty: float | None,
) -> None:
    sides = (crop, crop) if isinstance(crop, int) else crop
    rules = (
        (batch_size >= 1, f"batch_size={batch_size}, expected 1 or more"),
        (
            sides is None or (len(sides) == 2 and min(sides) >= 1),
            f"crop={crop}, expected pixels, (height, width), or None for whole images",
        ),
        (seed >= 0, f"seed={seed}, expected 0 or more"),
        (start >= 0, f"start={start}, expected 0 or more"),
        (steps is None or steps >= start, f"steps={steps}, expected at least start={start}"),
        (brightness >= 0, f"brightness={brightness}, expected 0 or more"),
        (0 <= contrast < 1, f"contrast={contrast}, expected from 0 to below 1"),
        (0 <= foreground <= 1, f"foreground={foreground}, expected 0..1"),
        (empty is None or 0 <= empty < 1, f"empty={empty}, expected from 0 to below 1"),
    )
    for holds, message in rules:
        if not holds:
            raise ValueError(f"batches: {message}")


class _Order:
    """Which picture each sample of a run is of."""

    def __init__(self, dataset: Dataset, seed: int, empty: float | None) -> None:
        self.dataset, self.seed = dataset, seed
        self._always, self._in_turn = np.arange(len(dataset)), np.empty(0, dtype=np.int64)
        self._turns = 0  # how many of those that come in turn an epoch has
        if empty is not None:
            self._thin_out(empty)
        self.pictures = len(self._always) + self._turns
        self._known = -1, self._always

    def _thin_out(self, empty: float) -> None:
        counts = [self.dataset.class_counts(index) for index in range(len(self.dataset))]
        front = np.array([own[1:].any() for own in counts])
        most = round(empty / (1 - empty) * np.count_nonzero(front))
        if front.any() and most < np.count_nonzero(~front):
            self._always, self._turns = np.flatnonzero(front), most
            self._in_turn = _generator(self.seed, _EMPTY).permutation(np.flatnonzero(~front))

    def find(self, position: int) -> tuple[int, int, int]:
        """Epoch, place in it and picture of sample number `position`."""
        epoch, place = divmod(position, self.pictures)
        known, order = self._known  # of one piece, whatever other threads do
        if known != epoch:
            order = self._permutation(epoch)
            self._known = epoch, order
        return epoch, place, int(order[place])

    def _permutation(self, epoch: int) -> np.ndarray:
        turn = np.arange(epoch * self._turns, (epoch + 1) * self._turns)
        own = self._in_turn[turn % max(len(self._in_turn), 1)]
        chosen = np.concatenate([self._always, own])
        return chosen[_generator(self.seed, _ORDER, epoch).permutation(len(chosen))]


class _Cut:
    """Sample number p of a run, as a pure function of p."""

    def __init__(
        self,
        order: _Order,
        crop: int | tuple[int, int] | None,
        augmentation: Augmentation,
        foreground: float,
        weights: WeightMap | None,
    ) -> None:
        self.order, self.dataset, self.seed = order, order.dataset, order.seed
        self.crop = (crop, crop) if isinstance(crop, int) else crop
        self.augmentation, self.foreground, self.weights = augmentation, foreground, weights

    def sample(self, position: int) -> tuple[np.ndarray, ...]:
        epoch, place, index = self.order.find(position)
        rng = _generator(self.seed, _SAMPLE, epoch, place)
        pixel = self._wanted(index, epoch, place)
        image, classes = self.dataset.raw(index)
        weights = None if self.weights is None else self.dataset.weights(index, self.weights)
        vary = self.augmentation
        cut = self._resampled if vary.resamples else self._as_stored
        normaliser = self.dataset.normaliser_of(index, image)
        part, *maps = cut(image, classes, weights, rng, pixel)
        return vary.shade(normaliser(part, self.dataset.name(index)), rng), *maps

    def _resampled(
        self,
        image: np.ndarray,
        classes: np.ndarray,
        weights: np.ndarray | None,
        rng: np.random.Generator,
        pixel: tuple[int | None, int | None],
    ) -> tuple[np.ndarray, ...]:
        size = self.crop or (classes.shape[0], classes.shape[1])
        top = _corner(classes.shape[0], size[0], rng, pixel[0])
        corner = top, _corner(classes.shape[1], size[1], rng, pixel[1])
        oblong = self.crop is None and classes.shape[0] != classes.shape[1]
        return self.augmentation.crop(image, classes, size, corner, rng, oblong, weights)

    def _as_stored(
        self,
        image: np.ndarray,
        classes: np.ndarray,
        weights: np.ndarray | None,
        rng: np.random.Generator,
        pixel: tuple[int | None, int | None],
    ) -> tuple[np.ndarray, ...]:
        turns, flip = self._turn(rng, classes.shape)
        size = self.crop or (classes.shape[0], classes.shape[1])
        size = size[::-1] if self.crop and turns % 2 else size
        image, classes, *rest = random_crop(image, classes, size, rng, pixel, weights)
        maps = image, classes.astype(np.int32), *rest
        return tuple(_turned(array, turns, flip) for array in maps)

    def _wanted(self, index: int, epoch: int, place: int) -> tuple[int | None, int | None]:
        """A pixel that the crop shall contain, or None, None for any place."""
        if not self.foreground:
            return None, None
        rng = _generator(self.seed, _FRONT, epoch, place)
        wanted = rng.random() < self.foreground
        classes = self.dataset.places(index) if wanted else ()
        if not classes:
            return None, None
        row, column = rng.choice(classes[rng.integers(len(classes))])
        return int(row), int(column)

    def _turn(self, rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[int, bool]:
        turns, flip = int(rng.integers(4)), bool(rng.integers(2))
        if self.crop is None and shape[0] != shape[1]:
            turns -= turns % 2
        return turns * self.augmentation.turns, flip and self.augmentation.flips


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


def _turned(array: np.ndarray, turns: int, flip: bool) -> np.ndarray:
    array = np.rot90(array, turns)
    return np.ascontiguousarray(array[:, ::-1] if flip else array)


def random_crop(
    image: np.ndarray,
    classes: np.ndarray,
    size: tuple[int, ...],
    rng: np.random.Generator,
    pixel: tuple[int | None, int | None] = (None, None),
    weights: np.ndarray | None = None,
) -> tuple[np.ndarray, ...]:
    """Cut the same random window out of an image (H, W, C) and its classes and weights (H, W).

    A side shorter than `size` is filled up on both ends, the image with its mirror, the classes
    with -100, the weights, if there are any, with 0. If a pixel (row, column) is given, the window
    contains it.
    """
    window, fill = zip(
        *(
            _place(have, want, _corner(have, want, rng, at))
            for have, want, at in zip(classes.shape, size, pixel, strict=True)
        ),
        strict=True,
    )
    maps = [(classes[window], IGNORE_INDEX)]
    if weights is not None:
        maps.append((weights[window], 0))
    image = image[window]
    if not any(map(any, fill)):
        return image, *(part for part, _ in maps)
    parts = (np.pad(part, fill, constant_values=nothing) for part, nothing in maps)
    return np.pad(image, (*fill, (0, 0)), mode="reflect"), *parts


def _corner(have: int, want: int, rng: np.random.Generator, pixel: int | None = None) -> int:
    """Where a window begins along one side; below 0 where it is longer than the side."""
    if have < want:
        return -int(rng.integers(want - have + 1))
    if pixel is None:
        return int(rng.integers(have - want + 1))
    return min(max(pixel - int(rng.integers(want)), 0), have - want)


def _place(have: int, want: int, corner: int) -> tuple[slice, tuple[int, int]]:
    """What to cut, and how much to fill before and after, along one side."""
    if have >= want:
        return slice(corner, corner + want), (0, 0)
    return slice(0, have), (-corner, want - have + corner)


def pad_to_multiple(image: np.ndarray, multiple: int) -> tuple[np.ndarray, tuple[slice, slice]]:
    """Mirror an image beyond its edges until its sides are multiples of a number.

    Parameters
    ----------
    image : ndarray of shape (H, W, C)
        Any type.
    multiple : int
        1 or more; for a network that halves k times, 2**k.

    Returns
    -------
    padded : ndarray of shape (H', W', C)
        The smallest that fits, the image in its middle. Never shares memory with `image`.
    crop : (slice, slice)
        ``padded[crop]`` is the image; use it on the prediction.
    """
    if multiple < 1:
        raise ValueError(f"pad_to_multiple: multiple={multiple}, expected 1 or more")
    if image.ndim != 3 or 0 in image.shape:
        raise ValueError(f"pad_to_multiple: shape {image.shape}, expected (H, W, C)")
    height, width = image.shape[:2]
    fill = [
        (-side % multiple // 2, -side % multiple - -side % multiple // 2)
        for side in (height, width)
    ]
    (top, _), (left, _) = fill
    padded = np.pad(image, (*fill, (0, 0)), mode="reflect")
    return padded, (slice(top, top + height), slice(left, left + width))
