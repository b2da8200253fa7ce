"""Weights from elsewhere: read without the libraries that wrote them, and without pickle.

`load` gives them to a model, `read` shows what is in a file, `save_for_torch` is the way back.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minidl.pretrained.files import read
    from minidl.pretrained.matconvnet import average_image
    from minidl.pretrained.transfer import load, save_for_torch

__all__ = ["average_image", "load", "read", "save_for_torch"]

# Imported when first asked for: most programs read no such files.
_ROOMS = {
    "average_image": "matconvnet",
    "load": "transfer",
    "read": "files",
    "save_for_torch": "transfer",
}


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)
    return value


def __dir__() -> list[str]:
    return __all__
