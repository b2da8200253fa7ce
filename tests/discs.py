"""Tiny sets of images of bright discs, and settings that learn them in no time."""

import numpy as np
import tifffile
from PIL import Image

TINY = {"root": 4, "depth": 2, "batch_size": 2, "crop": 16, "lr": 1e-2}


def disc_picture(index, shape=(24, 32), classes=2):
    """A grey picture (H, W) uint8 with a bright disc for each class but 0, and its classes."""
    rng = np.random.default_rng(index)
    y, x = np.mgrid[: shape[0], : shape[1]]
    image, target = rng.integers(20, 60, shape), np.zeros(shape, int)
    for label in range(1, classes):
        centre = rng.uniform(6, shape[0] - 6), rng.uniform(6, shape[1] - 6)
        inside = np.hypot(y - centre[0], x - centre[1]) < 5
        image[inside] = rng.integers(100 * label, 100 * label + 40, inside.sum())
        target[inside] = label
    return image.astype(np.uint8), target


def write_pairs(folder, count=8, value=255, shape=(24, 32)):
    """NAME.tif beside NAME_mask.tif, the first two without a disc."""
    folder.mkdir(parents=True)
    for index in range(count):
        image, target = disc_picture(index, shape)
        if index < 2:
            image, target = np.minimum(image, 60), target * 0
        tifffile.imwrite(folder / f"f{index}.tif", image)
        tifffile.imwrite(folder / f"f{index}_mask.tif", (target * value).astype(np.uint8))
    return folder


def write_palette_folders(folder, count=6):
    """images/ in colour beside masks/ with three palette colours, of different sizes."""
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    for index in range(count):
        image, target = disc_picture(index, (21 + index, 30), classes=3)
        colour = np.stack([image, image // 2, 255 - image], axis=-1)
        Image.fromarray(colour).save(folder / "images" / f"p{index}.png")
        mask = Image.fromarray(target.astype(np.uint8))
        mask.putpalette([0, 0, 0, 200, 30, 30, 30, 200, 30])
        mask.save(folder / "masks" / f"p{index}.png")
    return folder
