"""From a person's files to batches: read, pair, check, normalise, cut.

`files` reads images and masks and writes masks; `pairs` finds what belongs together and splits it;
`checks` says all that is wrong with a folder before training; `normalise` and `batches` make
arrays for a network; `augment` varies pictures, `weights` weighs their pixels, `synthetic` invents
ultrasound pictures. Nothing here knows more of the engine than kernels, and nothing is ever written
into a data folder.
"""

from .augment import Augmentation
from .batches import Dataset, batches, pad_to_multiple
from .checks import Report, check_folder
from .errors import DataError
from .files import (
    page_count,
    read_image,
    read_mask,
    read_mask_pages,
    read_pages,
    write_mask,
    write_mask_pages,
)
from .masks import IGNORE_INDEX, MaskKind
from .normalise import Normaliser
from .pairs import Pair, Split, find_images, find_pairs, split_pairs
from .problems import Problem
from .synthetic import write_nerve_set
from .weights import distance_to, label_objects, separate, two_distances, weight_map

__all__ = [
    "IGNORE_INDEX",
    "Augmentation",
    "DataError",
    "Dataset",
    "MaskKind",
    "Normaliser",
    "Pair",
    "Problem",
    "Report",
    "Split",
    "batches",
    "check_folder",
    "distance_to",
    "find_images",
    "find_pairs",
    "label_objects",
    "pad_to_multiple",
    "page_count",
    "read_image",
    "read_mask",
    "read_mask_pages",
    "read_pages",
    "separate",
    "split_pairs",
    "two_distances",
    "weight_map",
    "write_mask",
    "write_mask_pages",
    "write_nerve_set",
]
