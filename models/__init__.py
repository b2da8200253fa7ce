"""The networks, one file for each paper. Imported as ``minidl.models``."""

from minidl.models.unet import UNet

__all__ = ["UNet"]
