"""Prepare what comes next on a thread of its own, while the present is being used."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")
_END = object()


class Prepared(Generic[Item]):
    """What `prefetch` gives: an iterator that knows how long it was waited for.

    Attributes
    ----------
    waited : float
        Seconds for which an item was asked for that was not there yet, the first one not counted:
        nothing can be computed beside it.
    """

    def __init__(self, ready: queue.Queue) -> None:
        self._ready, self._taken, self._over = ready, 0, False
        self.waited = 0.0

    def __iter__(self) -> Prepared[Item]:
        return self

    def __next__(self) -> Item:
        """The next item, as soon as it is there."""
        if self._over:
            raise StopIteration
        started = time.monotonic()
        item, error = self._ready.get()
        if self._taken:
            self.waited += time.monotonic() - started
        self._taken += 1
        self._over = item is _END
        if error is not None:
            raise error
        if self._over:
            raise StopIteration
        return item


@contextlib.contextmanager
def prefetch(items: Iterable[Item], ahead: int = 3) -> Iterator[Prepared[Item]]:
    """Run an iterable on a thread, up to `ahead` items before they are asked for.

    Order and content are those of the iterable. An exception in it is raised where the item
    would have come. The thread ends with the ``with`` block.

    Parameters
    ----------
    items : iterable
        Used by the other thread alone from now on.
    ahead : int
        Finished items kept waiting, 1 or more.

    Yields
    ------
    Prepared
        An iterator over the same items.
    """
    ready: queue.Queue = queue.Queue(ahead)
    stop = threading.Event()
    worker = threading.Thread(
        target=_fill, args=(items, ready, stop), name="minidl-prefetch", daemon=True
    )
    worker.start()
    try:
        yield Prepared(ready)
    finally:
        stop.set()
        with contextlib.suppress(queue.Empty):
            while True:
                ready.get_nowait()
        worker.join()


def _fill(items: Iterable[Item], ready: queue.Queue, stop: threading.Event) -> None:
    try:
        for item in items:
            if not _put(ready, (item, None), stop):
                return
        _put(ready, (_END, None), stop)
    except BaseException as error:
        _put(ready, (_END, error), stop)


def _put(ready: queue.Queue, entry: tuple, stop: threading.Event) -> bool:
    while not stop.is_set():
        with contextlib.suppress(queue.Full):
            ready.put(entry, timeout=0.1)
            return True
    return False
