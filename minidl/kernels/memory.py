"""Room for large results, used again.

The system clears every page of a new array before a program may write to it, which for a large one
takes as long as computing it. So memory of large arrays is kept when they die, and lent to the next
array that fits. A loop that does the same thing again and again soon asks the system for nothing.
"""

from __future__ import annotations

import collections
import math
import os
import threading
from typing import Any

import numpy as np

SMALL = 1 << 18  # bytes; the C library keeps smaller arrays by itself
LINE_BYTES = 64  # of a cache; blocks begin on one
SLACK = 8  # a block may be larger than what is asked for by an eighth
SPARE = 32  # all blocks together are at most so much larger than what was ever lent at a time


class _Block:
    """Memory from the system, and where in it the first cache line begins."""

    __slots__ = ("memory", "address", "size")

    def __init__(self, size: int) -> None:
        self.memory, self.size = np.empty(size + LINE_BYTES, np.uint8), size
        start = self.memory.ctypes.data
        self.address = start + -start % LINE_BYTES


# Blocks that came back and have not been looked at; appending and popping is atomic.
_returned: collections.deque[_Block] = collections.deque()


class _Lease:
    """What an array of borrowed memory rests on. It dies with the array and all its views."""

    __slots__ = ("block", "__array_interface__")

    def __init__(self, block: _Block, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.block = block
        self.__array_interface__ = {
            "data": (block.address, False), "shape": shape, "typestr": dtype.str, "version": 3,
        }  # fmt: skip

    # No lock: this may happen at any moment, on any thread, and when modules are gone at the end.
    def __del__(self, give_back: Any = _returned.append) -> None:
        give_back(self.block)


class _Pool:
    """Free blocks, the longest unused first, and how much is lent, now and at most."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.free: collections.OrderedDict[int, _Block] = collections.OrderedDict()
        self.unused = self.lent = self.peak = 0  # bytes

    def take(self, size: int) -> _Block:
        with self.lock:
            while _returned:
                block = _returned.popleft()
                self.free[block.address] = block
                self.unused += block.size
                self.lent -= block.size
            block = self._fitting(size)
            self.lent += block.size
            self.peak = max(self.peak, self.lent)
            return block

    def _fitting(self, size: int) -> _Block:
        fits = [b for b in self.free.values() if size <= b.size <= size + size // SLACK]
        if fits:
            block = min(fits, key=lambda b: b.size)
            del self.free[block.address]
            self.unused -= block.size
            return block
        most = max(self.peak, self.lent + size)
        while self.free and self.lent + self.unused + size > most + most // SPARE:
            _, old = self.free.popitem(last=False)
            self.unused -= old.size
        return _Block(size)


_pool = _Pool()


def _renew_pool() -> None:
    """In a forked child, whose parent may have held the lock."""
    global _pool
    _pool = _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_pool)

# Scratch arrays inside of kernels come from the C library. glibc's keeps memory that is given back
# as soon as it has seen a block of such a size come and go; this one is never written to.
np.empty(30 << 20, np.uint8)


def empty(shape: Any, dtype: Any) -> np.ndarray:
    """Like `numpy.empty`, with memory of arrays that are gone. The content is arbitrary."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    if size < SMALL:
        return np.empty(shape, dtype)
    return np.asarray(_Lease(_pool.take(size), tuple(shape), dtype))


def empty_like(x: np.ndarray) -> np.ndarray:
    """An array of the shape and dtype of x."""
    return empty(x.shape, x.dtype)
