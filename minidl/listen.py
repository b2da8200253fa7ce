"""Listening to what a network computes: which layer runs, which operation, which kernel.

Every layer is called as a module, every operation is run by `minidl.apply` or `Tensor.backward`,
and every kernel by `kernels.parallel.run`. In each of these three places there is room for one
listener. `minidl.profile` measures times there, and `minidl.trace` follows the arrays.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from threading import get_ident
from typing import Any

from minidl import tensor
from minidl.function import Function
from minidl.kernels import parallel
from minidl.nn import module as modules
from minidl.nn.module import Module

NO_LAYER = "(no layer)"


class Listener:
    """Knows the layer that one thread is in; what it does with that is up to who derives from it.

    Parameters
    ----------
    model : nn.Module, optional
        Gives layers their paths. Modules that it does not own have the names of their classes.
    """

    def __init__(self, model: Module | None = None) -> None:
        parts = () if model is None else model.named_modules()
        self.paths = {id(part): path or type(part).__name__ for path, part in parts}
        self.thread = get_ident()
        self.layer = NO_LAYER

    @property
    def is_elsewhere(self) -> bool:
        """Whether this is the thread of somebody else, whose work is to be left alone."""
        return get_ident() != self.thread

    def on_module(self, module: Module, forward: Callable, /, *args: Any, **kwargs: Any) -> Any:
        """Know the layer while its forward runs."""
        if self.is_elsewhere:
            return forward(*args, **kwargs)
        around, self.layer = self.layer, self.paths.get(id(module), type(module).__name__)
        try:
            return forward(*args, **kwargs)
        finally:
            self.layer = around

    def on_operation(self, function: Function, method: Callable, *arrays: Any) -> Any:
        """Called in place of forward or backward of `function`; returns what `method` does."""
        return method(*arrays)

    on_kernel: Callable[..., Any] | None = None


@contextlib.contextmanager
def listening(listener: Listener, purpose: str, what: str) -> Iterator[None]:
    """Let `listener` hear of everything; whatever happens, nobody listens afterwards.

    Parameters
    ----------
    listener : Listener
    purpose, what : str
        The function that listens, and what it makes, for the error.

    Raises
    ------
    RuntimeError
        If somebody listens already.
    """
    if tensor.listener is not None:
        raise RuntimeError(f"{purpose}: another {what} is being made; wait for its end.")
    parallel.listener, tensor.listener = listener.on_kernel, listener.on_operation
    modules.listener = listener.on_module
    try:
        yield
    finally:
        parallel.listener = tensor.listener = modules.listener = None
