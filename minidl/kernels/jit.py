"""The one place that decides how kernels are compiled and where the machine code is kept.

Every kernel is made by `@kernel`, or by `@inner` or `@inlined` where only kernels call it. The
flags, and why:

``nogil``
    kernels run on several Python threads at once (see `parallel`).
``error_model='numpy'``
    division by zero gives inf or nan as in NumPy; the Python model puts a branch in every loop.
``fastmath={'contract'}``
    a multiply and an add may become one fused instruction. Nothing that would reorder a sum or
    assume the absence of NaN is allowed.
``cache``
    machine code is kept on disk, in a folder whose name holds a hash of all kernel sources:
    Numba looks only at the file of the kernel itself and would miss a change in a helper.
``_nrt=False``
    not of `@kernel`. Where it is on, a function counts the references to each array it is given,
    with an atomic instruction as costly as twenty multiply-adds. One that is called for every row
    of an image spends up to a seventh of its time so. Off, it cannot make arrays.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba
from numba.core import config, event

DISABLED: bool = bool(config.DISABLE_JIT)


def _sources_hash() -> str:
    digest = hashlib.sha256(numba.__version__.encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:12]


def cache_folder() -> Path | None:
    """Folder for compiled kernels, or None where none can be written.

    The first of ``MINIDL_CACHE_DIR``, ``NUMBA_CACHE_DIR``, ``XDG_CACHE_HOME/minidl`` and
    ``~/.cache/minidl`` that is set and writable.
    """
    named = os.environ.get("MINIDL_CACHE_DIR") or os.environ.get("NUMBA_CACHE_DIR")
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = Path(named or os.path.join(home, "minidl")) / f"kernels-{_sources_hash()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return None


_FOLDER = cache_folder()


@contextlib.contextmanager
def _cache_in(folder: Path | None) -> Iterator[None]:
    """Numba reads its cache folder when a function is decorated: lend it ours for that moment."""
    before, config.CACHE_DIR = config.CACHE_DIR, str(folder)
    try:
        yield
    finally:
        config.CACHE_DIR = before


def _compiled(function: Callable, **flags: Any) -> Callable:
    with _cache_in(_FOLDER):
        return numba.njit(
            nogil=True,
            error_model="numpy",
            fastmath={"contract"},
            cache=_FOLDER is not None and not DISABLED,
            **flags,
        )(function)


def kernel(function: Callable) -> Callable:
    """Compile `function` with the flags of this house, on its first call for each set of types."""
    return _compiled(function)


def inner(function: Callable) -> Callable:
    """Compile a part of kernels, which is given all the arrays it uses and makes none."""
    return _compiled(function, _nrt=False)


def inlined(function: Callable) -> Callable:
    """The same, compiled as a piece of each kernel that calls it.

    For what has few callers, and would be compiled once for itself and once more for each of them.
    And for what is called for every tile: to hand over arrays, of seven numbers each, takes as long
    as to transform a few channels.
    """
    return _compiled(function, _nrt=False, inline="always")


class _Announce(event.Listener):
    """Say what is being compiled, so that the first call is never an unexplained silence."""

    def on_start(self, event: event.Event) -> None:
        function = event.data["dispatcher"].py_func
        if function.__module__.startswith(__package__):
            name = f"{function.__module__.rsplit('.', 1)[-1]}.{function.__name__}"
            print(f"minidl: compiling {name} (once; kept for later runs)", file=sys.stderr)

    def on_end(self, event: event.Event) -> None:
        pass


if not os.environ.get("MINIDL_QUIET"):
    event.register("numba:compile", _Announce())
