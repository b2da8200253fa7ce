"""Bring images of any type and brightness to zero mean and unit deviation per channel."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import DataError

TOGETHER = 1 << 20  # pixels that are measured together, in float64


@dataclass(frozen=True)
class Normaliser:
    """Subtract the mean and divide by the standard deviation, per channel.

    They are those of the training images; or each image's own, see `of`.

    Attributes
    ----------
    mean, std : tuple of float, one per channel
        In the images' own units. A channel that is constant has ``std`` 1.
    grey_as_colour : bool
        Whether a grey image may stand for colour with three equal channels. Set where the training
        images were themselves a mixture; otherwise it is an error, because a network that has only
        seen colour is not to be trusted on grey.
    each : bool
        Whether `of` an image is its own normaliser: for images that differ in brightness from one
        scanner or exposure to the next.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    grey_as_colour: bool = False
    each: bool = False

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not self.mean:
            raise ValueError(
                f"Normaliser: {len(self.mean)} means and {len(self.std)} deviations, "
                "expected the same number of both, one per channel"
            )
        if not all(math.isfinite(m) for m in self.mean) or not all(
            math.isfinite(s) and s > 0 for s in self.std
        ):
            raise ValueError(
                f"Normaliser: mean {self.mean}, std {self.std}, expected finite and std positive"
            )

    @classmethod
    def from_images(cls, images: Iterable[np.ndarray], each: bool = False) -> Normaliser:
        """Measure training images in one pass, one image in memory at a time.

        Parameters
        ----------
        images : iterable of ndarray of shape (H, W, C)
            Of any numeric type and any sizes. Grey images and colour images may be mixed: if every
            colour image has three equal channels, all count as grey, otherwise all as colour.
        each : bool
            As the attribute.

        Returns
        -------
        Normaliser
            Every pixel weighs the same, so large images weigh more.

        Raises
        ------
        DataError
            If there are no images, a value is infinite or NaN, or the channels do not go together.
        """
        moments: dict[int, _Moments] = {}
        shades: set[tuple[int, bool]] = set()
        for image in images:
            check_image(image)
            shades.add(shade(image))
            moments.setdefault(image.shape[-1], _Moments()).add(image)
        if not moments:
            raise DataError("Normaliser.from_images: no images to measure")
        channels = common_channels(shades)
        total = _Moments()
        for own, part in sorted(moments.items()):
            total.merge(part.as_channels(own, channels))
        std = np.sqrt(total.squares / total.count)
        # Rounding leaves a constant channel a deviation of about 1e-17 times its value.
        std[std <= 1e-12 * np.maximum(np.abs(total.mean), 1.0)] = 1.0
        return cls(tuple(total.mean.tolist()), tuple(std.tolist()), len(moments) > 1, each)

    @property
    def channels(self) -> int:
        """Number of channels the network gets."""
        return len(self.mean)

    def of(self, image: np.ndarray, name: object = "image") -> Normaliser:
        """What normalises `image` and parts of it: this, or if `each` is set, one of its own."""
        return Normaliser.from_images([self.fit_channels(image, name)]) if self.each else self

    def __call__(self, image: np.ndarray, name: object = "image") -> np.ndarray:
        """Normalise one image, or a part of it, by this mean and deviation.

        Parameters
        ----------
        image : ndarray of shape (H, W, C)
            As `read_image` returns it. Three equal channels where one is expected become grey.
        name : str or Path
            Named in the error.

        Returns
        -------
        ndarray of shape (H, W, channels), float32, C-contiguous
            A new array.

        Raises
        ------
        DataError
            If the image is colour and the training images were grey, or the reverse, or a value is
            infinite or NaN.
        """
        check_image(image, name)
        fitted = self.fit_channels(image, name)
        mean, scale = np.array(self.mean), 1.0 / np.array(self.std)
        if image.dtype.itemsize <= 2:  # its values are exact in float32: half the memory
            mean, scale = mean.astype(np.float32), scale.astype(np.float32)
        normal = fitted - mean
        normal *= scale
        return np.ascontiguousarray(normal, dtype=np.float32)

    def fit_channels(self, image: np.ndarray, name: object = "image") -> np.ndarray:
        """The image with as many channels as the training images had, if nothing is lost by it."""
        own = image.shape[-1]
        if own == self.channels:
            return image
        if self.channels == 1 and own == 3 and shade(image) == (3, True):
            return image[..., :1]
        if self.channels == 3 and own == 1 and self.grey_as_colour:
            return np.broadcast_to(image, (*image.shape[:-1], 3))
        raise DataError(
            f"{name}: {_kind(own)}, but the training images were {_kind(self.channels)}. "
            "Convert the image, or train with images of this kind."
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything, in types that JSON knows."""
        return {
            "mean": list(self.mean),
            "std": list(self.std),
            "grey_as_colour": self.grey_as_colour,
            "each": self.each,
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Normaliser:
        """The normaliser that `to_dict` described."""
        each = bool(state.get("each", False))  # files from before there was a choice have none
        return cls(tuple(state["mean"]), tuple(state["std"]), bool(state["grey_as_colour"]), each)


class _Moments:
    """Count, mean and sum of squared deviations, in float64; parts can be merged.

    Merging as in T. Chan, G. Golub, R. LeVeque 1979, "Updating formulae and a pairwise algorithm
    for computing sample variances", equation 2.1: no large sums of squares that cancel.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean: np.ndarray = np.zeros(1)
        self.squares: np.ndarray = np.zeros(1)

    def add(self, image: np.ndarray) -> None:
        pixels = image.reshape(-1, image.shape[-1])
        for start in range(0, len(pixels), TOGETHER):
            some = pixels[start : start + TOGETHER].astype(np.float64)
            part = _Moments()
            part.count = len(some)
            part.mean = some.mean(axis=0)
            part.squares = np.square(some - part.mean).sum(axis=0)
            self.merge(part)

    def merge(self, other: _Moments) -> None:
        count = self.count + other.count
        shift = other.mean - self.mean
        self.squares = self.squares + other.squares + shift**2 * (self.count * other.count / count)
        self.mean = self.mean + shift * (other.count / count)
        self.count = count

    def as_channels(self, own: int, channels: int) -> _Moments:
        """These moments for `channels`: the first of equal channels, or grey repeated."""
        if own != channels:
            self.mean = np.resize(self.mean[:1], channels)
            self.squares = np.resize(self.squares[:1], channels)
        return self


def check_image(image: np.ndarray, name: object = "image") -> None:
    """Raise unless `image` has shape (H, W, C), real numbers, all finite."""
    if image.ndim != 3 or 0 in image.shape:
        raise DataError(f"{name}: shape {image.shape}, expected (H, W, C)")
    if image.dtype.kind not in "uif":
        raise DataError(f"{name}: type {image.dtype}, expected integers or floats")
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise DataError(
            f"{name}: {np.count_nonzero(~np.isfinite(image))} values are infinite or NaN. "
            "Replace them, or take the file out of the folder."
        )


def shade(image: np.ndarray) -> tuple[int, bool]:
    """Number of channels, and whether they are three equal ones: grey stored as RGB."""
    if image.shape[-1] != 3:
        return image.shape[-1], False
    # Most colour images show it in their first row.
    equal = all(
        np.array_equal(part[..., 0], part[..., i]) for part in (image[:1], image) for i in (1, 2)
    )
    return 3, equal


def common_channels(shades: set[tuple[int, bool]]) -> int:
    """How many channels a set of images has, given each one's `shade`.

    Raises
    ------
    DataError
        If they differ in another way than grey and colour.
    """
    counts = {channels for channels, _ in shades}
    if len(counts) == 1:
        return counts.pop()
    if counts != {1, 3}:
        raise DataError(
            f"images with {' and '.join(map(str, sorted(counts)))} channels in one set, expected "
            "the same number in all. Keep one kind in the folder."
        )
    return 3 if (3, False) in shades else 1


def _kind(channels: int) -> str:
    names = {1: "grey (1 channel)", 3: "colour (3 channels)"}
    return names.get(channels, f"of {channels} channels")
