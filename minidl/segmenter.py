"""A network together with all it takes to turn an image file into a mask file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minidl.architecture import Architecture
from minidl.checkpoint import load, read_about, save
from minidl.data import DataError, MaskKind, Normaliser
from minidl.flips import flipped
from minidl.run import RunError
from minidl.tiles import tiled_classes, tiled_scores


class ModelError(RunError):
    """A model file that cannot be used; the message names it and says why."""


@dataclass
class Segmenter:
    """What a model file holds.

    Attributes
    ----------
    architecture : Architecture
    model : nn.Module
    normaliser : Normaliser
        Of the training images.
    mask_kind : MaskKind
        Of the training masks, so that predictions can be files of the same kind.
    class_names : tuple of str
    foreground : tuple of int
        See `metrics.foreground_classes`.
    mask_ending : str
        What the training masks' names had after their images': ``"_mask"`` or nothing.
    """

    architecture: Architecture
    model: Any
    normaliser: Normaliser
    mask_kind: MaskKind
    class_names: tuple[str, ...]
    foreground: tuple[int, ...]
    mask_ending: str = ""

    def __call__(
        self,
        image: np.ndarray,
        name: object = "image",
        tile: int | None = None,
        watch: Callable[[int, int], Any] | None = None,
        *,
        flips: str | None = None,
    ) -> np.ndarray:
        """Find the classes of an image.

        Large images are predicted in tiles, which changes nothing but the memory it takes.

        Parameters
        ----------
        image : ndarray of shape (H, W, C)
            As `data.read_image` returns it, of any size.
        name : str or Path
            Named in the error.
        tile : int, optional
            See `tiles.predict_tiles`.
        watch : callable, optional
            Called before each tile, with how many are done, and of how many.
        flips : 'mirror' or 'all', optional
            Take the mean over mirror images; see `flips.Flipped`.

        Returns
        -------
        ndarray of shape (H, W), uint8; uint16 above 256 classes
            Class indices.

        Raises
        ------
        DataError
            If the image has other channels than the training images.
        """
        if image.ndim != 3 or 0 in image.shape:
            raise DataError(f"{name}: shape {image.shape}, expected (H, W, C)")
        whole = self.normaliser.fit_channels(image, name)  # one part may look grey, and not others
        normaliser, model = self.normaliser.of(whole, name), flipped(self.model, flips)
        return tiled_classes(model, whole, lambda part: normaliser(part, name), tile, watch=watch)

    def save(self, path: str | Path) -> Path:
        """Write a model file; under its name it is complete or does not exist.

        It is in the safetensors format: the arrays have the names of ``model.state_dict()``, and
        everything else is in the header, as JSON under the names of the attributes.
        """
        about = {
            "architecture": asdict(self.architecture),
            "normaliser": self.normaliser.to_dict(),
            "mask_kind": self.mask_kind.to_dict(),
            "class_names": self.class_names,
            "foreground": self.foreground,
            "mask_ending": self.mask_ending,
        }
        texts = {key: json.dumps(value) for key, value in about.items()}
        save(path, self.model.state_dict(), texts)
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Segmenter:
        """Read a model file.

        Raises
        ------
        FileNotFoundError
            If there is none.
        ModelError
            If it is damaged, or not a model file of minidl.
        """
        state = _read(Path(path))
        try:
            segmenter = cls.untrained(state)
            segmenter.model.load_state_dict(state["weights"])
            segmenter.model.eval()
            return segmenter
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"{path}: not a model that this minidl can use: {error}") from error

    @classmethod
    def untrained(cls, state: Mapping[str, Any]) -> Segmenter:
        """One with random weights, from `minidl.manual_seed`.

        Parameters
        ----------
        state : mapping
            What a model file, or a run's settings, say about it.

        Raises
        ------
        KeyError, TypeError, ValueError
            If something is missing or cannot be.
        """
        architecture = Architecture.from_dict(state["architecture"])
        return cls(
            architecture,
            architecture.build(),
            Normaliser.from_dict(state["normaliser"]),
            MaskKind.from_dict(state["mask_kind"]),
            tuple(state["class_names"]),
            tuple(state["foreground"]),
            state["mask_ending"],
        )


def _read(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such model file")
    try:
        state, about = load(path), read_about(path)
    except ValueError as error:
        raise ModelError(str(error)) from error
    if "architecture" in about:
        return {key: json.loads(text) for key, text in about.items()} | {"weights": state}
    if not isinstance(state, dict) or not {"architecture", "weights"} <= state.keys():
        raise ModelError(
            f"{path}: does not say which network its weights are of. Use the model file of a run "
            "folder that `minidl train` made."
        )
    return state  # as model files were before October 2026, all of it nested


def scores_of(model: Any, x: np.ndarray) -> np.ndarray:
    """Apply a network to one whole image of any size.

    Parameters
    ----------
    model : nn.Module
        Maps (1, H, W, C) to scores (1, H, W, classes). If it has an attribute ``multiple``, sides
        that are no multiple of it are mirrored beyond the edges, and the scores cut. If it has
        ``shrink``, the image is mirrored by so much that there is a score for every pixel.
    x : ndarray of shape (H, W, C), float32
        Normalised.

    Returns
    -------
    ndarray of shape (H, W, classes), float32
        Computed as for predicting: with running statistics and without dropout.
    """
    return tiled_scores(model, x)


def fitting_crop(model: Any, side: int) -> int:
    """The largest side of a crop that a network takes, at most `side`; or else its smallest."""
    return next(
        (size for size in range(side, 0, -1) if model.fitting_size(size) == size),
        model.fitting_size(1),
    )


def like_scores(target: np.ndarray, scores: Any) -> np.ndarray:
    """The middle of a target (N, H, W) as large as scores (N, OH, OW, classes).

    For networks whose scores are smaller than the image by what the image does not determine.
    """
    height, width = scores.shape[1:3]
    top, left = (target.shape[1] - height) // 2, (target.shape[2] - width) // 2
    return target[:, top : top + height, left : left + width]
