"""How an operation is written: forward and backward next to each other, on ndarrays.

::

    class Square(Function):
        def forward(self, x):
            self.x = x
            return x * x

        def backward(self, gy):
            return (2 * self.x * gy,)

Settings go to ``__init__``, what backward needs becomes attributes in ``forward``, and a function
never sees a Tensor. `minidl.apply` runs it on tensors and records it.
"""

from __future__ import annotations

import numpy as np


class Function:
    """A differentiable operation with one array as its result.

    Attributes
    ----------
    needs : tuple of bool
        Set before `forward` is called: which of the inputs want a gradient. A costly `backward`
        returns None in place of those nobody wants.
    fresh_gradients : bool
        Promises that what `backward` returns shares memory with nothing else: it need not be
        copied, and another gradient may be added in its place. Worth it where arrays are large.
    """

    fresh_gradients = False

    needs: tuple[bool, ...] = ()

    def forward(self, *inputs: np.ndarray) -> np.ndarray:
        """The value of the operation. Inputs must not be written to."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def backward(self, gy: np.ndarray) -> tuple[np.ndarray | None, ...]:
        """The gradient of each input, given that of the result.

        Must neither write to `gy` nor return anything that is written to later.
        """
        raise NotImplementedError(f"{type(self).__name__} has no backward")

    @property
    def records(self) -> bool:
        """Whether backward will be called at all; if not, forward need not save anything."""
        return any(self.needs)


def unbroadcast(gradient: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Sum `gradient` over the axes that broadcasting from `shape` added or stretched."""
    if gradient.shape == shape:
        return gradient
    added = gradient.ndim - len(shape)
    stretched = tuple(
        added + axis
        for axis, size in enumerate(shape)
        if size == 1 and gradient.shape[added + axis] != 1
    )
    return gradient.sum(axis=(*range(added), *stretched)).reshape(shape)
