"""Pictures and masks of a set as a network gets them, kept in memory as far as there is room."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np

from .checks import counted
from .errors import DataError
from .files import page_count, read_image, read_mask
from .masks import IGNORE_INDEX, MaskKind
from .normalise import Normaliser
from .pairs import Pair
from .weights import WeightMap

_PLACES = 4096  # pixels of a class that are remembered of a picture, spread over all of it

Arrays = tuple[np.ndarray, ...]


class Cache:
    """Arrays that are made when first asked for, and then kept, up to a total of bytes.

    What comes when there is no more room is made anew each time, and nothing is thrown out for it:
    pictures are drawn in a new order each epoch, and then no other choice of what to keep would be
    found here more often.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.used = limit, 0
        self._kept: dict[tuple, Arrays] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many things are kept."""
        return len(self._kept)

    def get(self, key: tuple, make: Callable[[], Arrays]) -> Arrays:
        """The arrays under `key`, read-only. Any thread may ask."""
        if key in self._kept:
            return self._kept[key]
        arrays = make()
        for array in arrays:
            array.flags.writeable = False
        size = sum(array.nbytes for array in arrays)
        with self._lock:
            if self.used + size <= self.limit and key not in self._kept:
                self.used += size
                self._kept[key] = arrays
        return arrays


class Dataset:
    """Images and class masks of some pairs, read when first asked for and then kept.

    Each page of a multi-page TIFF is a sample of its own. Pixels outside of a pair's region do not
    count: their class is -100.

    Parameters
    ----------
    pairs : sequence of Pair
        From `find_pairs` or a `Split`.
    mask_kind : MaskKind
        How mask values become classes.
    normaliser : Normaliser, optional
        Measured on these pairs if not given; give the training set's to any other set.
    cache_bytes : int
        Pictures, as the file's type and one byte per mask pixel, and weight maps, of four bytes a
        pixel, are kept in memory up to this total; those beyond are made each time.
    each : bool
        Of a normaliser that is measured here: whether each picture is to have one of its own.

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
        each: bool = False,
    ) -> None:
        if not pairs:
            raise DataError("Dataset: no pairs of image and mask")
        self.mask_kind = mask_kind
        self._samples = [(pair, page) for pair in pairs for page in _pages(pair)]
        self.cache = Cache(cache_bytes)
        self._counts: dict[int, np.ndarray] = {}
        self._own: dict[int, Normaliser] = {}  # normalisers of pictures that have one each
        self.normaliser = normaliser or Normaliser.from_images(
            (self.raw(index)[0] for index in range(len(self))), each
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
        image, classes = self.cache.get(("picture", index), lambda: self._read(index))
        return image, classes

    def _read(self, index: int) -> Arrays:
        pair, page = self._samples[index]
        image, mask = read_image(pair.image, page), read_mask(pair.mask, page)
        if image.shape[:2] != mask.shape:
            raise DataError(
                f"{pair.image} is {image.shape[0]} x {image.shape[1]} (height x width), "
                f"{pair.mask} is {mask.shape[0]} x {mask.shape[1]}, expected the same size"
            )
        classes = self.mask_kind.to_classes(mask, pair.mask)
        inside = counted(pair, mask.shape)
        if inside is not None:
            classes[~inside] = IGNORE_INDEX
        pixels = np.bincount(classes[classes >= 0], minlength=self.mask_kind.num_classes)
        self._counts[index] = pixels
        return image, classes

    def normaliser_of(self, index: int, image: np.ndarray) -> Normaliser:
        """What normalises picture `index`, which is `image`, and parts of it."""
        if not self.normaliser.each:
            return self.normaliser
        if index not in self._own:
            self._own[index] = self.normaliser.of(image, self._samples[index][0].image)
        return self._own[index]

    def class_counts(self, index: int | None = None) -> np.ndarray:
        """Pixels of each class, of one picture or of the whole set; int64."""
        if index is None:
            return np.sum([self.class_counts(each) for each in range(len(self))], axis=0)
        if index not in self._counts:
            self.raw(index)
        return self._counts[index]

    def weights(self, index: int, weight_map: WeightMap) -> np.ndarray:
        """The weight map of picture `index`, (H, W) float32; read-only.

        Computed for the whole picture, so that objects beyond the edge of a crop have their say;
        0 where pixels do not count.
        """
        return self.cache.get((weight_map, index), lambda: self._weigh(index, weight_map))[0]

    def _weigh(self, index: int, weight_map: WeightMap) -> Arrays:
        classes = self.raw(index)[1]
        if not self.mask_kind.instances:
            return (weight_map(classes, instances=False),)
        pair, page = self._samples[index]
        objects = self.mask_kind.to_objects(read_mask(pair.mask, page), pair.mask)
        weights = weight_map(objects.astype(np.int64), instances=True)
        weights[classes == IGNORE_INDEX] = 0
        return (weights,)

    def places(self, index: int) -> Arrays:
        """For each class but 0 that picture `index` has, where: rows and columns (P, 2) int32.

        Of a class with many pixels, some thousands that are spread evenly over them.
        """
        return self.cache.get(("places", index), lambda: self._places(index))

    def _places(self, index: int) -> Arrays:
        classes = self.raw(index)[1]
        found = [classes == label for label in range(1, self.mask_kind.num_classes)]
        return tuple(_spread(pixels) for pixels in found if pixels.any())

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Whole picture `index`: x (H, W, C) float32, normalised, and y (H, W) int32."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"Dataset: picture {index} of {len(self)}")
        index %= len(self)
        image, classes = self.raw(index)
        normal = self.normaliser_of(index, image)(image, self._samples[index][0].image)
        return normal, classes.astype(np.int32)


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
