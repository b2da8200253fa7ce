"""Losses: one number for how far a result is from what was wanted.

Of the losses over classes, each takes weights of classes, weights of pixels and an `ignore_index`;
targets and weights are constants: no gradient leads to them. (The losses between two tensors of the
same kind, `mse_loss`, `l1_loss`, `binary_cross_entropy_with_logits` and `kl_div`, are
differentiated with respect to both.)

A loss over pixels that are all ignored is 0, and so is its gradient. (PyTorch's mean is NaN
there, and one unlabelled crop ruins a training.)

What a class costs that an image does not have, is said by `absent` of the losses of regions; in
those that are sums over pixels, and in the boundary loss, it is no special case.

`arguments` checks what all of them take; `pixel` holds sums over pixels, `region` overlaps, and
`element` losses between two arrays of one shape.
"""

from minidl.functional.loss.element import (
    binary_cross_entropy_with_logits,
    kl_div,
    l1_loss,
    mse_loss,
)
from minidl.functional.loss.pixel import boundary_loss, cross_entropy, focal_loss
from minidl.functional.loss.region import (
    dice_loss,
    generalised_dice_loss,
    lovasz_softmax,
    tversky_loss,
)

__all__ = [
    "binary_cross_entropy_with_logits",
    "boundary_loss",
    "cross_entropy",
    "dice_loss",
    "focal_loss",
    "generalised_dice_loss",
    "kl_div",
    "l1_loss",
    "lovasz_softmax",
    "mse_loss",
    "tversky_loss",
]
