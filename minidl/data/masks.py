"""What kind of mask files a training set has, and the way from their values to classes and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import DataError
from .objects import label_objects, separate

IGNORE_INDEX = -100
"""Class index of pixels that neither the loss nor a score shall count."""

_DTYPES = ("bool", "uint8", "uint16", "int16", "int32", "uint32", "int64")


@dataclass(frozen=True)
class MaskKind:
    """How a set's mask files store their classes.

    Attributes
    ----------
    suffix : {'.png', '.tif', '.tiff'}
        What a mask file's name ends in.
    values : tuple of int
        The file's value for class 0, 1, ...; ``(0, 255)`` for a black and white mask.
    dtype : str
        NumPy name of the stored type; ``'bool'`` for one bit per pixel.
    palette : tuple of (red, green, blue), each 0..255, or None
        Colours of a palette file; the values are positions in it.
    ignore : int or None
        The file's value for "do not count this pixel", which becomes class -100.
    instances : bool
        Whether the files number objects: 0 where there is nothing, else any other number for each
        object. There are two classes then, background and object, and `values` are ``(0, 1)``.
    parted : bool
        Of numbered objects: whether pixels where two of them touch become background, as in U-Net's
        targets, so that a network can learn to keep them apart. See `separate`.
    """

    suffix: str = ".png"
    values: tuple[int, ...] = (0, 255)
    dtype: str = "uint8"
    palette: tuple[tuple[int, int, int], ...] | None = None
    ignore: int | None = None
    instances: bool = False
    parted: bool = True

    def __post_init__(self) -> None:
        if self.suffix not in (".png", ".tif", ".tiff"):
            raise ValueError(f"MaskKind: suffix {self.suffix!r}, expected .png, .tif or .tiff")
        if self.dtype not in _DTYPES:
            raise ValueError(f"MaskKind: dtype {self.dtype!r}, expected one of {_DTYPES}")
        if len(set(self.values)) != len(self.values) or not self.values:
            raise ValueError(f"MaskKind: values {self.values} must be distinct and at least one")
        if self.ignore in self.values:
            raise ValueError(f"MaskKind: ignore={self.ignore} is also the value of a class")
        if self.instances and (self.values != (0, 1) or self.palette is not None):
            raise ValueError(
                f"MaskKind: instances have values (0, 1) and no palette, not {self.values}"
            )
        self._check_fit()

    def _check_fit(self) -> None:
        dtype = np.dtype(self.dtype)
        low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        stored = self.values if self.ignore is None else (*self.values, self.ignore)
        if min(stored) < low or max(stored) > high:
            raise ValueError(f"MaskKind: values {stored} do not fit into {self.dtype}")
        if self.palette is not None and self.dtype != "uint8":
            raise ValueError(f"MaskKind: a palette needs dtype uint8, not {self.dtype}")

    @property
    def num_classes(self) -> int:
        """Number of classes, the background included."""
        return len(self.values)

    def to_classes(self, raw: np.ndarray, name: object = "mask") -> np.ndarray:
        """Turn a file's values into class indices.

        Parameters
        ----------
        raw : ndarray of shape (H, W), bool or integer
            What `read_mask` returned.
        name : str or Path
            Named in the error.

        Returns
        -------
        ndarray of shape (H, W), int8 (int16 above 127 classes)
            0 .. num_classes - 1, and -100 where `raw` is the `ignore` value.

        Raises
        ------
        DataError
            For a value that is neither a class nor `ignore`.
        """
        if self.instances:
            classes = (self.to_objects(raw, name) != 0).astype(np.int8)
            classes[raw == self.ignore] = IGNORE_INDEX
            return classes
        values = np.array(self.values)
        order = np.argsort(values)
        place = np.searchsorted(values[order], raw).clip(max=len(values) - 1)
        known = values[order][place] == raw
        classes = order.astype(np.int8 if len(values) <= 127 else np.int16)[place]
        if self.ignore is not None:
            skipped = raw == self.ignore
            classes[skipped] = IGNORE_INDEX
            known |= skipped
        if not known.all():
            raise self._unexpected(raw, known, name)
        return classes

    def to_objects(self, raw: np.ndarray, name: object = "mask") -> np.ndarray:
        """Number the objects that a file shows.

        Parameters
        ----------
        raw : ndarray of shape (H, W), bool or integer
            What `read_mask` returned.
        name : str or Path
            Named in the error.

        Returns
        -------
        ndarray of shape (H, W), integer
            0 where there is none. With `instances` the numbers are the file's; otherwise each
            connected part of a class other than 0 is an object of its own.

        Raises
        ------
        DataError
            As `to_classes`; for numbers below 0.
        """
        if not self.instances:
            return label_objects(np.maximum(self.to_classes(raw, name), 0))
        objects = np.where(raw == self.ignore, raw.dtype.type(0), raw)
        if objects.min() < 0:
            raise DataError(f"{name}: object number {objects.min()}, expected 0 or more.")
        return separate(objects) if self.parted else objects

    def _unexpected(self, raw: np.ndarray, known: np.ndarray, name: object) -> DataError:
        row, column = np.argwhere(~known)[0]
        allowed = listing(self.values if self.ignore is None else (*self.values, self.ignore))
        return DataError(
            f"{name}: label value {int(raw[row, column])} at row {row}, column {column} "
            f"({np.count_nonzero(~known)} such pixels), expected {allowed}. "
            "Correct the mask, or check the whole folder with `check_folder`."
        )

    def from_classes(self, classes: np.ndarray) -> np.ndarray:
        """Turn class indices (any shape, integer) into the values and type a file stores.

        With `instances` these are numbers again, as the training masks have them: 1, 2, ... for the
        connected parts of class 1 on each page (H, W), where touching at a corner does not connect.

        Raises
        ------
        TypeError
            If `classes` is not an integer array.
        ValueError
            If an index is outside 0 .. num_classes - 1 (-100 is allowed where `ignore` is set), or
            there are more objects than the type can number.
        """
        classes = np.asarray(classes)
        if classes.dtype.kind not in "iub":
            raise TypeError(
                f"MaskKind.from_classes: expected class indices (integers), got {classes.dtype}. "
                "Take the argmax of scores first."
            )
        allowed = (classes >= 0) & (classes < self.num_classes)
        if self.ignore is not None:
            allowed |= classes == IGNORE_INDEX
        if not allowed.all():
            raise ValueError(
                f"MaskKind.from_classes: class {int(classes[~allowed][0])}, expected "
                f"0..{self.num_classes - 1}"
            )
        if self.instances:
            raw = self._numbered(np.maximum(classes, 0))
        else:
            raw = np.array(self.values, dtype=self.dtype)[np.where(classes >= 0, classes, 0)]
        if self.ignore is not None:
            raw[classes == IGNORE_INDEX] = self.ignore
        return raw

    def _numbered(self, classes: np.ndarray) -> np.ndarray:
        pages = classes.reshape(-1, *classes.shape[-2:])
        numbers = np.stack([label_objects(page) for page in pages]).reshape(classes.shape)
        most = np.iinfo(self.dtype).max
        if numbers.max() > most:
            raise ValueError(
                f"MaskKind.from_classes: {numbers.max()} objects, but {self.dtype} has numbers up "
                f"to {most}. Use a mask kind of .tif with dtype 'uint32'."
            )
        return numbers.astype(self.dtype)

    def to_dict(self) -> dict[str, Any]:
        """Everything, in types that JSON knows."""
        palette = None if self.palette is None else [list(colour) for colour in self.palette]
        return {
            "suffix": self.suffix,
            "values": list(self.values),
            "dtype": self.dtype,
            "palette": palette,
            "ignore": self.ignore,
            "instances": self.instances,
            "parted": self.parted,
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> MaskKind:
        """The kind that `to_dict` described."""
        palette = state.get("palette")
        return cls(
            suffix=state["suffix"],
            values=tuple(state["values"]),
            dtype=state["dtype"],
            palette=None if palette is None else tuple((r, g, b) for r, g, b in palette),
            ignore=state.get("ignore"),
            instances=state.get("instances", False),
            parted=state.get("parted", True),
        )


def listing(items: Iterable[object], most: int = 10) -> str:
    """Write `items` one after the other: the first `most`, then "and 14 more"."""
    words = [str(item) for item in items]
    rest = len(words) - most
    return ", ".join(words[:most]) + (f" and {rest} more" if rest > 0 else "")
