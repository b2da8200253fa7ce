"""Operations on tensors, one family per file.

Notation, here and everywhere: N images, C input channels, F output channels ("features"), H height,
W width, D depth, L length, KH KW kernel extents, OH OW output extents; x input, w weight, b bias,
y output, and gy, gx, gw, gb their gradients. Channels come last.

Each file has, for each operation, the Function with forward and backward next to each other, then
the public function, which checks its arguments and documents itself.
"""

from minidl.functional.activation import elu, relu
from minidl.functional.conv import (
    conv1d,
    conv2d,
    conv3d,
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose3d,
)
from minidl.functional.linear import linear

__all__ = [
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "elu",
    "linear",
    "relu",
]
