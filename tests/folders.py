"""Small data folders for the tests of this room."""

import numpy as np
from PIL import Image


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array)).save(path)
    return path


def halves(value=255, size=(12, 16), dtype=np.uint8):
    """A mask whose right half has `value`."""
    mask = np.zeros(size, dtype)
    mask[:, size[1] // 2 :] = value
    return mask


def noise(seed=0, size=(12, 16), channels=None):
    shape = size if channels is None else (*size, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def neighbours(folder, count=4, masks=None):
    """NAME.png beside NAME_mask.png, with `masks` as the contents."""
    for index in range(count):
        save(folder / f"p{index}.png", noise(index))
        save(folder / f"p{index}_mask.png", halves() if masks is None else masks[index])
    return folder
