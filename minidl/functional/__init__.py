"""Operations on tensors, one family per file.

Notation, here and everywhere: N images, C input channels, F output channels ("features"), H height,
W width, D depth, L length, KH KW kernel extents, OH OW output extents; x input, w weight, b bias,
y output, and gy, gx, gw, gb their gradients. Channels come last.

Each file has, for each operation, the Function with forward and backward next to each other, then
the public function, which checks its arguments and documents itself.
"""

from minidl.functional.activation import (
    elu,
    gelu,
    leaky_relu,
    log_softmax,
    relu,
    sigmoid,
    softmax,
    softplus,
    tanh,
)
from minidl.functional.conv import (
    conv1d,
    conv2d,
    conv3d,
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose3d,
)
from minidl.functional.linear import linear
from minidl.functional.loss import (
    binary_cross_entropy_with_logits,
    boundary_loss,
    cross_entropy,
    dice_loss,
    focal_loss,
    generalised_dice_loss,
    kl_div,
    l1_loss,
    lovasz_softmax,
    mse_loss,
    tversky_loss,
)
from minidl.functional.noise import dropout, dropout1d, dropout2d, dropout3d
from minidl.functional.norm import batch_norm, group_norm, layer_norm, local_response_norm
from minidl.functional.pool import (
    adaptive_avg_pool2d,
    adaptive_max_pool2d,
    avg_pool1d,
    avg_pool2d,
    avg_pool3d,
    max_pool1d,
    max_pool2d,
    max_pool3d,
    max_unpool2d,
)
from minidl.functional.resize import interpolate
from minidl.functional.shape import concatenate, pad, stack

__all__ = [
    "adaptive_avg_pool2d",
    "adaptive_max_pool2d",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "batch_norm",
    "binary_cross_entropy_with_logits",
    "boundary_loss",
    "concatenate",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "cross_entropy",
    "dice_loss",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "elu",
    "focal_loss",
    "gelu",
    "generalised_dice_loss",
    "group_norm",
    "interpolate",
    "kl_div",
    "l1_loss",
    "layer_norm",
    "leaky_relu",
    "linear",
    "local_response_norm",
    "log_softmax",
    "lovasz_softmax",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "max_unpool2d",
    "mse_loss",
    "pad",
    "relu",
    "sigmoid",
    "softmax",
    "softplus",
    "stack",
    "tanh",
    "tversky_loss",
]
