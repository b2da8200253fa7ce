"""Prepare what comes next on a thread of its own, while the present is being used."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
_END = object()


@contextlib.contextmanager
def prefetch(items: Iterable[Item], ahead: int = 3) -> Iterator[Iterator[Item]]:
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
    iterator
        Over the same items.
    """
    ready: queue.Queue = queue.Queue(ahead)
    stop = threading.Event()
    worker = threading.Thread(
        target=_fill, args=(items, ready, stop), name="minidl-prefetch", daemon=True
    )
    worker.start()
    try:
        yield _drain(ready)
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


def _drain(ready: queue.Queue) -> Iterator:
    while True:
        item, error = ready.get()
        if error is not None:
            raise error
        if item is _END:
            return
        yield item
