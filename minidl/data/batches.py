"""Batches for training: random crops, flips and turns, each a pure function of its place.

Sample number p of a run is picture ``order(seed, epoch)[p % n]`` with ``epoch = p // n``, cut and
turned by a generator made from (seed, epoch, p % n). So batch 7000 of a resumed run is
the batch that the uninterrupted run would have had, and nothing depends on who computes it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from .augment import PRESETS, Augmentation
from .errors import DataError
from .files import page_count, read_image, read_mask
from .masks import IGNORE_INDEX, MaskKind
from .normalise import Normaliser
from .pairs import Pair

AUGMENTATIONS = tuple(PRESETS)
_ORDER, _SAMPLE, _FRONT = 0, 1, 2  # so that the uses of one seed do not share random numbers
_PLACES = 4096  # pixels of a class that are remembered of a picture, spread over all of it


class Dataset:
    """Images and class masks of some pairs, read when first asked for and then kept.

    Each page of a multi-page TIFF is a sample of its own.

    Parameters
    ----------
    pairs : sequence of Pair
        From `find_pairs` or a `Split`.
    mask_kind : MaskKind
        How mask values become classes.
    normaliser : Normaliser, optional
        Measured on these pairs if not given; give the training set's to any other set.
    cache_bytes : int
        Pictures are kept in memory, as the file's type and one byte per mask pixel, up to this
        total; those beyond are read each time.

    Raises
    ------
    DataError
        If there are no pairs, a file cannot be read, or the pages of a pair differ in number.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        mask_kind: MaskKind,
        normaliser: Normaliser | None = None,
        cache_bytes: int = 2**31,
    ) -> None:
        if not pairs:
            raise DataError("Dataset: no pairs of image and mask")
        self.mask_kind = mask_kind
        self._samples = [(pair, page) for pair in pairs for page in _pages(pair)]
        self._cache: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._places: dict[int, list[np.ndarray]] = {}
        self._room, self._lock = cache_bytes, threading.Lock()
        self.normaliser = normaliser or Normaliser.from_images(
            self.raw(index)[0] for index in range(len(self))
        )

    def __len__(self) -> int:
        """Number of pictures, pages counted."""
        return len(self._samples)

    def name(self, index: int) -> str:
        """Name of picture `index`: the pair's, with ``[page]`` where there are several."""
        pair, page = self._samples[index]
        return pair.stem if page is None else f"{pair.stem}[{page}]"

    def raw(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image (H, W, C) as stored, and classes (H, W) as int8 or int16; read-only."""
        if index in self._cache:
            return self._cache[index]
        pair, page = self._samples[index]
        image, mask = read_image(pair.image, page), read_mask(pair.mask, page)
        if image.shape[:2] != mask.shape:
            raise DataError(
                f"{pair.image} is {image.shape[0]} x {image.shape[1]} (height x width), "
                f"{pair.mask} is {mask.shape[0]} x {mask.shape[1]}, expected the same size"
            )
        sample = image, self.mask_kind.to_classes(mask, pair.mask)
        for array in sample:
            array.flags.writeable = False
        self._keep(index, sample)
        return sample

    def _keep(self, index: int, sample: tuple[np.ndarray, np.ndarray]) -> None:
        size = sum(array.nbytes for array in sample)
        with self._lock:
            if size <= self._room and index not in self._cache:
                self._room -= size
                self._cache[index] = sample

    def places(self, index: int) -> list[np.ndarray]:
        """For each class but 0 that picture `index` has, where: rows and columns (P, 2) int32.

        Of a class with many pixels, some thousands that are spread evenly over them.
        """
        if index not in self._places:
            classes = self.raw(index)[1]
            found = [classes == label for label in range(1, self.mask_kind.num_classes)]
            self._places[index] = [_spread(pixels) for pixels in found if pixels.any()]
        return self._places[index]

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Whole picture `index`: x (H, W, C) float32, normalised, and y (H, W) int32."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"Dataset: picture {index} of {len(self)}")
        image, classes = self.raw(index % len(self))
        return self.normaliser(image, self._samples[index][0].image), classes.astype(np.int32)


def _spread(pixels: np.ndarray) -> np.ndarray:
    flat = np.flatnonzero(pixels)
    chosen = flat[:: -(-flat.size // _PLACES)]
    return np.stack(np.divmod(chosen, pixels.shape[1]), axis=-1).astype(np.int32)


def _pages(pair: Pair) -> Sequence[int | None]:
    count, masks = page_count(pair.image), page_count(pair.mask)
    if count != masks:
        raise DataError(
            f"{pair.image} has {count} pages, {pair.mask} has {masks}, expected the same number"
        )
    return [None] if count == 1 else range(count)


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
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield training batches, all of full size, without end or up to a number of steps.

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

    Yields
    ------
    x : ndarray of shape (N, h, w, C), float32
        Normalised.
    y : ndarray of shape (N, h, w), int32
        Class indices, or -100 for "do not count".

    Raises
    ------
    ValueError
        If an argument is out of range; at once, not at the first batch.
    DataError
        If a file cannot be used.
    """
    _check_arguments(batch_size, crop, seed, start, steps, brightness, contrast, foreground)
    if not isinstance(augment, Augmentation):
        if augment not in AUGMENTATIONS:
            raise ValueError(f"batches: augment={augment!r}, expected one of {AUGMENTATIONS}")
        augment = PRESETS[augment]
    varied = replace(
        augment,
        brightness=brightness or augment.brightness,
        contrast=contrast or augment.contrast,
    )
    cut = _Cut(dataset, crop, seed, varied, foreground)
    return _stream(cut, batch_size, start, steps)


def _check_arguments(
    batch_size: int,
    crop: int | tuple[int, int] | None,
    seed: int,
    start: int,
    steps: int | None,
    brightness: float,
    contrast: float,
    foreground: float,
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
    )
    for holds, message in rules:
        if not holds:
            raise ValueError(f"batches: {message}")


def _stream(
    cut: _Cut, batch_size: int, start: int, steps: int | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    step = start
    while steps is None or step < steps:
        samples = [cut.sample(step * batch_size + place) for place in range(batch_size)]
        shapes = {y.shape for _, y in samples}
        if len(shapes) > 1:
            raise DataError(
                f"batches: images of sizes {sorted(shapes)} in one batch. "
                "Give a crop, or a batch_size of 1."
            )
        yield np.stack([x for x, _ in samples]), np.stack([y for _, y in samples])
        step += 1


class _Cut:
    """Sample number p of a run, as a pure function of p."""

    def __init__(
        self,
        dataset: Dataset,
        crop: int | tuple[int, int] | None,
        seed: int,
        augmentation: Augmentation,
        foreground: float,
    ) -> None:
        self.dataset = dataset
        self.crop = (crop, crop) if isinstance(crop, int) else crop
        self.seed, self.augmentation, self.foreground = seed, augmentation, foreground
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def sample(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        epoch, place = divmod(position, len(self.dataset))
        index = int(self._permutation(epoch)[place])
        rng = _generator(self.seed, _SAMPLE, epoch, place)
        pixel = self._wanted(index, epoch, place)
        image, classes = self.dataset.raw(index)
        vary, name = self.augmentation, self.dataset.name(index)
        if vary.resamples:
            size = self.crop or (classes.shape[0], classes.shape[1])
            top = _corner(classes.shape[0], size[0], rng, pixel[0])
            corner = top, _corner(classes.shape[1], size[1], rng, pixel[1])
            oblong = self.crop is None and classes.shape[0] != classes.shape[1]
            image, classes = vary.crop(image, classes, size, corner, rng, oblong)
            return vary.shade(self.dataset.normaliser(image, name), rng), classes
        turns, flip = self._turn(rng, classes.shape)
        size = self.crop or (classes.shape[0], classes.shape[1])
        size = size[::-1] if self.crop and turns % 2 else size
        image, classes = random_crop(image, classes, size, rng, pixel)
        x = self.dataset.normaliser(image, name)
        return vary.shade(_turned(x, turns, flip), rng), _turned(
            classes.astype(np.int32), turns, flip
        )

    def _wanted(self, index: int, epoch: int, place: int) -> tuple[int | None, int | None]:
        """A pixel that the crop shall contain, or None, None for any place."""
        if not self.foreground:
            return None, None
        rng = _generator(self.seed, _FRONT, epoch, place)
        wanted = rng.random() < self.foreground
        classes = self.dataset.places(index) if wanted else []
        if not classes:
            return None, None
        row, column = rng.choice(classes[rng.integers(len(classes))])
        return int(row), int(column)

    def _permutation(self, epoch: int) -> np.ndarray:
        if epoch != self._epoch:
            generator = _generator(self.seed, _ORDER, epoch)
            self._epoch, self._order = epoch, generator.permutation(len(self.dataset))
        return self._order

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
) -> tuple[np.ndarray, np.ndarray]:
    """Cut the same random window out of an image (H, W, C) and its classes (H, W).

    A side shorter than `size` is filled up on both ends, the image with its mirror, the classes
    with -100. If a pixel (row, column) is given, the window contains it.
    """
    window, fill = zip(
        *(
            _place(have, want, _corner(have, want, rng, at))
            for have, want, at in zip(classes.shape, size, pixel, strict=True)
        ),
        strict=True,
    )
    image, classes = image[window], classes[window]
    if any(map(any, fill)):
        image = np.pad(image, (*fill, (0, 0)), mode="reflect")
        classes = np.pad(classes, fill, constant_values=IGNORE_INDEX)
    return image, classes


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
