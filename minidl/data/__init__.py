"""From a person's files to batches: read, pair, check, normalise, cut.

`files` reads images and masks and writes masks; `pairs` finds what belongs together and splits it;
`checks` says all that is wrong with a folder before training; `normalise` and `batches` make
arrays for a network; `augment` varies pictures, `weights` weighs their pixels, `synthetic` invents
ultrasound pictures. Nothing here knows more of the engine than kernels, and nothing is ever written
into a data folder.
"""

from .augment import Augmentation
from .batches import Batches, batches, pad_to_multiple
from .checks import Report, check_folder
from .dataset import Dataset
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
from .objects import label_objects, separate
from .pairs import Pair, find_images, find_pairs
from .problems import Problem
from .splits import Split, listed_part, split_pairs
from .synthetic import write_nerve_set
from .weights import WeightMap, distance_to, two_distances, weight_map

__all__ = [
    "IGNORE_INDEX",
    "Augmentation",
    "Batches",
    "DataError",
    "Dataset",
    "MaskKind",
    "Normaliser",
    "Pair",
    "Problem",
    "Report",
    "Split",
    "WeightMap",
    "batches",
    "check_folder",
    "distance_to",
    "find_images",
    "find_pairs",
    "label_objects",
    "listed_part",
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
