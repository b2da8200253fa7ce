"""minidl: deep learning for image segmentation on an ordinary computer, in Python one can read."""

from pathlib import Path

_package = Path(__file__).parent
if not (_package / "models").exists() and (_package.parent / "models" / "unet.py").exists():
    __path__.append(str(_package.parent))  # a source checkout, where models/ stands at the top

from minidl import crf, functional, nn, optim, pretrained  # noqa: E402
from minidl.checkpoint import load, save  # noqa: E402
from minidl.function import Function  # noqa: E402
from minidl.gradcheck import GradcheckError, gradcheck  # noqa: E402
from minidl.kernels.parallel import get_num_threads, set_num_threads  # noqa: E402
from minidl.profile import profile  # noqa: E402
from minidl.random import manual_seed  # noqa: E402
from minidl.summary import summary  # noqa: E402
from minidl.tensor import Tensor, apply, is_grad_enabled, no_grad  # noqa: E402

__version__ = "0.1.0"

__all__ = [
    "Function",
    "GradcheckError",
    "Tensor",
    "apply",
    "crf",
    "functional",
    "get_num_threads",
    "gradcheck",
    "is_grad_enabled",
    "load",
    "manual_seed",
    "nn",
    "no_grad",
    "optim",
    "pretrained",
    "profile",
    "save",
    "set_num_threads",
    "summary",
]
