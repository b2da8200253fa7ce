"""Variations of a picture and its mask that leave what is to be learnt as it was.

Geometry is one change of coordinates: flips, turns, rotation, scale, shear, shift and elastic
deformation become one map, and each crop is cut out of the stored picture through it, once, the
mask by its nearest pixels. Brightness, contrast, gamma and noise then change the image alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from minidl import kernels

from .masks import IGNORE_INDEX

_NODES = 3  # on each side of a crop, as in the paper
_STEEPEST = 12  # a crop's nodes are at least so many deviations of the displacement apart
# Indexed by the number of quarter turns; exact, unlike sines and cosines.
_QUARTERS = np.array([[[1, 0], [0, 1]], [[0, 1], [-1, 0]], [[-1, 0], [0, -1]], [[0, -1], [1, 0]]])


@dataclass(frozen=True)
class Augmentation:
    """How far pictures are varied; 0 and False leave a thing alone.

    Attributes
    ----------
    flips : bool
        Swap left and right in half of the cases.
    turns : bool
        Turn by a multiple of 90 degrees; oblong pictures that are taken whole by half turns only.
    rotation : float
        Largest angle in degrees, either way, 0 to 180.
    scale : float
        Largest relative change of size: 0.25 draws factors from 1 / 1.25 to 1.25, of which each is
        as probable as its inverse.
    shear : float
        Largest angle in degrees by which upright lines are slanted, below 90.
    shift : float
        Largest shift in pixels along each side, besides the random place of a crop.
    elastic : float
        Standard deviation, in pixels, of the displacement at each of 3 x 3 nodes spread over the
        crop; in between it is interpolated by cubic convolution. At most a twelfth of the distance
        of the nodes, so that in small crops the picture is bent and not folded. The paper's 10
        pixels are reached from crops of 241 pixels on.
    brightness : float
        Largest shift added to the image, in standard deviations of the training images.
    contrast : float
        Largest relative change of an image's deviation from the mean, below 1.
    gamma : float
        Largest relative change of the exponent to which the image is raised, once its own darkest
        and brightest value are called 0 and 1; drawn as `scale` is.
    noise : float
        Largest standard deviation of Gaussian noise, in standard deviations of the training
        images.

    References
    ----------
    O. Ronneberger, P. Fischer, T. Brox 2015, "U-Net: Convolutional Networks for Biomedical Image
    Segmentation", section 3.1.
    """

    flips: bool = False
    turns: bool = False
    rotation: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    shift: float = 0.0
    elastic: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    gamma: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        upper = {"rotation": 180.0, "shear": 90.0, "contrast": 1.0}
        for name in ("rotation", "scale", "shear", "shift", "elastic", "brightness", "contrast",
                     "gamma", "noise"):  # fmt: skip
            value, most = getattr(self, name), upper.get(name, math.inf)
            if not 0 <= value < most and not (name == "rotation" and value == most):
                limit = f"from 0 to {most:g}" if most < math.inf else "0 or more, and finite"
                raise ValueError(f"Augmentation: {name}={value}, expected {limit}")

    @property
    def resamples(self) -> bool:
        """Whether pixels come to lie between those of the stored picture."""
        return any((self.rotation, self.scale, self.shear, self.shift, self.elastic))

    def geometry(
        self, rng: np.random.Generator, size: tuple[int, int], oblong: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw a change of coordinates.

        Parameters
        ----------
        rng : numpy.random.Generator
        size : (int, int)
            Height and width of the crop.
        oblong : bool
            Whether an upright and a lying picture must not be exchanged.

        Returns
        -------
        matrix : ndarray of shape (2, 2)
            From steps (down, right) in the crop to steps in the picture, around their centres.
        nodes : ndarray of shape (5, 5, 2)
            Displacements in pixels of the picture at the nodes of `kernels.warp`, the shift
            included.
        """
        turns, flip = int(rng.integers(4)), bool(rng.integers(2))
        turns -= turns % 2 if oblong else 0
        angle, slant = np.radians(rng.uniform(-1, 1, 2) * (self.rotation, self.shear))
        factor = (1 + self.scale) ** rng.uniform(-1, 1)
        shift = rng.uniform(-1, 1, 2) * self.shift
        sides = _NODES + 2 * kernels.warp.MARGIN
        most = min(size) / (_NODES - 1) / _STEEPEST
        nodes = rng.normal(0.0, min(self.elastic, most), (sides, sides, 2)) + shift

        cosine, sine = math.cos(angle), math.sin(angle)
        matrix = np.array([[cosine, sine], [-sine, cosine]]) / factor
        matrix = matrix @ np.array([[1.0, 0.0], [math.tan(slant), 1.0]])
        if self.turns:
            matrix = matrix @ _QUARTERS[turns]
        if flip and self.flips:
            matrix[:, 1] *= -1
        return matrix, nodes

    def crop(
        self,
        image: np.ndarray,
        classes: np.ndarray,
        size: tuple[int, int],
        corner: tuple[int, int],
        rng: np.random.Generator,
        oblong: bool = False,
        weights: np.ndarray | None = None,
    ) -> tuple[np.ndarray, ...]:
        """Cut a varied window out of an image, its classes, and perhaps its weights.

        Parameters
        ----------
        image : ndarray of shape (H, W, C)
            As stored.
        classes : ndarray of shape (H, W), integer
        size : (int, int)
            Height and width of the window.
        corner : (int, int)
            Row and column of its upper left corner before it is varied; may lie outside.
        rng : numpy.random.Generator
            Decides how.
        oblong : bool
            Whether an upright and a lying picture must not be exchanged.
        weights : ndarray of shape (H, W), float32, optional

        Returns
        -------
        image : ndarray of shape (h, w, C), float32
            Interpolated linearly, mirrored beyond the picture's edges.
        classes : ndarray of shape (h, w), int32
            Of the nearest pixel, never of anything in between; -100 beyond the edges.
        weights : ndarray of shape (h, w), float32
            If given. Of the same pixel as the class, since a weight belongs to a class: in between
            pixels, those at the border of an object would get weights of background, and gaps one
            pixel wide would lose theirs. 0 beyond the edges.
        """
        matrix, nodes = self.geometry(rng, size, oblong)
        middle = (np.array(size) - 1) / 2
        affine = np.column_stack([matrix, np.array(corner) + middle - matrix @ middle])
        varied = kernels.warp.warp(image, classes, size, affine, nodes, IGNORE_INDEX)
        if weights is None:
            return varied
        # The kernel moves integers; so the weights go through it as what they are in memory.
        bits = np.ascontiguousarray(weights, np.float32).view(np.int32)
        nothing = np.empty((*bits.shape, 0), np.float32)
        _, moved = kernels.warp.warp(nothing, bits, size, affine, nodes, 0)
        return *varied, moved.view(np.float32)

    def shade(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Vary the values of a normalised image (H, W, C) float32, which is overwritten."""
        if self.gamma:
            exponent = (1 + self.gamma) ** rng.uniform(-1, 1)
            low, high = x.min(), x.max()
            if high > low:
                x = ((x - low) / (high - low)) ** np.float32(exponent) * (high - low) + low
        if self.contrast:
            x *= np.float32(1 + rng.uniform(-self.contrast, self.contrast))
        if self.brightness:
            x += np.float32(rng.uniform(-self.brightness, self.brightness))
        if self.noise:
            deviation = np.float32(rng.uniform(0, self.noise))
            x += deviation * rng.standard_normal(x.shape, np.float32)
        return x


_GREY = Augmentation(flips=True, brightness=0.3, contrast=0.3, gamma=0.3, noise=0.1)

PRESETS: Mapping[str, Augmentation] = {
    "turns": Augmentation(flips=True, turns=True),
    "mirror": Augmentation(flips=True),
    "none": Augmentation(),
    "elastic": replace(_GREY, turns=True, rotation=180.0, scale=0.2, shear=5.0, elastic=10.0),
    "upright": replace(_GREY, rotation=10.0, scale=0.2, shear=5.0, elastic=6.0),
}
"""Augmentations by name.

'turns' flips and turns by right angles, for pictures that have no top; 'mirror' swaps left and
right only, for those that have one, as ultrasound; 'none' varies nothing. 'elastic' is 'turns' with
everything else: any angle, size, shear, the paper's elastic deformation, grey values and noise.
'upright' is the same for pictures that have a top: angles up to 10 degrees.
"""
