"""minidl: deep learning for image segmentation on an ordinary computer, in Python one can read."""

from pathlib import Path

from minidl import functional
from minidl.function import Function
from minidl.tensor import Tensor, apply, no_grad

_package = Path(__file__).parent
if not (_package / "models").exists() and (_package.parent / "models" / "unet.py").exists():
    __path__.append(str(_package.parent))  # a source checkout, where models/ stands at the top

__all__ = ["Function", "Tensor", "apply", "functional", "no_grad"]
