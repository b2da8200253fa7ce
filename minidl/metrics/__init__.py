"""How good a segmentation is.

`confusion` has all scores that follow from counting pixels, `boundary` looks at contours,
`segments` at which pixels were put into one piece, `kaggle` is the nerve competition's rule and
format, and `failures` has names for what goes wrong there.

NaN, everywhere and only, means that the question did not arise. Means leave NaN out.
"""

from minidl.metrics.boundary import boundary_f1, class_edges
from minidl.metrics.confusion import (
    class_accuracy,
    confusion_matrix,
    dice,
    foreground_classes,
    frequency_weighted_iou,
    iou,
    mean_dice,
    mean_iou,
    pixel_accuracy,
)
from minidl.metrics.failures import FAILURES, constant_entropy, failure
from minidl.metrics.kaggle import kaggle_dice, rle_decode, rle_encode
from minidl.metrics.segments import (
    SegmentScore,
    components,
    grow,
    information_score,
    pixel_error,
    rand_score,
)

__all__ = [
    "FAILURES",
    "SegmentScore",
    "boundary_f1",
    "class_accuracy",
    "class_edges",
    "components",
    "constant_entropy",
    "confusion_matrix",
    "dice",
    "failure",
    "foreground_classes",
    "frequency_weighted_iou",
    "grow",
    "information_score",
    "iou",
    "kaggle_dice",
    "mean_dice",
    "mean_iou",
    "pixel_accuracy",
    "pixel_error",
    "rand_score",
    "rle_decode",
    "rle_encode",
]
