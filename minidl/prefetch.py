"""Prepare what comes next on other threads, while the present is being used."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

from minidl.data import Batches

Item = TypeVar("Item")
_LOOK = 0.5  # seconds after which a waiting thread looks up, so that Ctrl-C is heard everywhere


class _Failure:
    """Stands where an item would have come, had it not failed."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class Prepared(Generic[Item]):
    """What `prefetch` gives: an iterator that knows how long it was waited for.

    Attributes
    ----------
    waited : float
        Seconds for which an item was asked for that was not there yet, the first one not counted:
        nothing can be computed beside it.
    """

    def __init__(self, make: Callable[[int], Item], numbers: Iterator[int], ahead: int) -> None:
        self.waited = 0.0
        self._make, self._numbers, self._ahead = make, numbers, ahead
        self._ready: dict[int, Item | _Failure] = {}  # by place in the order
        self._given = self._taken = 0  # places handed out to threads, items handed to the user
        self._last: int | None = None  # place of what ends it, once that is known
        self._stopped = False
        self._change = threading.Condition()

    def __iter__(self) -> Prepared[Item]:
        return self

    def __next__(self) -> Item:
        """The next item, as soon as it is there."""
        started = time.monotonic()
        with self._change:
            if self._stopped:
                raise StopIteration
            while self._taken not in self._ready:
                self._change.wait(_LOOK)
            item = self._ready.pop(self._taken)
            if self._taken:
                self.waited += time.monotonic() - started
            self._taken += 1
            self._stopped = isinstance(item, _Failure)
            self._change.notify_all()
        if isinstance(item, _Failure):
            raise item.error
        return item

    def work(self) -> None:
        """Make items until there is nothing left to make, or `stop` is called."""
        while (job := self._next_job()) is not None:
            place, number = job
            try:
                item: Any = _Failure(StopIteration()) if number is None else self._make(number)
            except BaseException as error:  # whatever it is, it belongs to who asks for the item
                item = _Failure(error)
            with self._change:
                self._ready[place] = item
                if isinstance(item, _Failure):
                    self._last = place if self._last is None else min(place, self._last)
                self._change.notify_all()

    def _next_job(self) -> tuple[int, int | None] | None:
        """A place, and the number of what belongs there: None behind the last one."""
        with self._change:
            while not self._stopped and self._given > self._taken + self._ahead:
                self._change.wait(_LOOK)
            if self._stopped or self._last is not None:
                return None
            number = next(self._numbers, None)
            if number is None:
                self._last = self._given
            self._given += 1
            return self._given - 1, number

    def stop(self) -> None:
        """Let threads end with the item they have in hand."""
        with self._change:
            self._stopped = True
            self._ready.clear()
            self._change.notify_all()


@contextlib.contextmanager
def prefetch(items: Iterable[Item], ahead: int = 3, workers: int = 1) -> Iterator[Prepared[Item]]:
    """Run an iterable on other threads, up to `ahead` items before they are asked for.

    Order and content are those of the iterable, whatever the number of threads. An exception in it
    is raised where the item would have come. The threads end with the ``with`` block.

    Parameters
    ----------
    items : iterable, or Batches
        Used by the other threads alone from now on. Several of them can only share `Batches`, which
        can be asked for by number: from its `start` to before its `stop`.
    ahead : int
        Finished items kept waiting, 1 or more.
    workers : int
        Threads, 1 or more. Each beyond the first may have one item more in hand. One is enough
        unless an item takes longer to make than to use.

    Yields
    ------
    Prepared
        An iterator over the same items.

    Raises
    ------
    ValueError
        If a number is out of range, or there are several workers for a mere iterable.
    """
    if ahead < 1 or workers < 1:
        raise ValueError(f"prefetch: ahead={ahead}, workers={workers}, expected 1 or more")
    prepared = _prepared(items, ahead + workers - 1, workers)
    threads = [
        threading.Thread(target=prepared.work, name="minidl-prefetch", daemon=True)
        for _ in range(workers)
    ]
    for thread in threads:
        thread.start()
    try:
        yield prepared
    finally:
        prepared.stop()
        for thread in threads:
            thread.join()


def _prepared(items: Iterable, ahead: int, workers: int) -> Prepared:
    if isinstance(items, Batches):
        first, stop = items.start, items.stop
        numbers = itertools.count(first) if stop is None else range(first, stop)
        return Prepared(items.__getitem__, iter(numbers), ahead)
    if workers > 1:
        raise ValueError(
            f"prefetch: workers={workers} for a {type(items).__name__}, which cannot be asked for "
            "items by number. Use one worker, or what data.batches gives."
        )
    return Prepared(_follower(items), itertools.count(), ahead)


def _follower(items: Iterable[Item]) -> Callable[[int], Item]:
    """Makes an item by number of an iterable that is asked for them in order."""
    iterator: Iterator[Item] | None = None

    def make(number: int) -> Item:
        nonlocal iterator
        if iterator is None:
            iterator = iter(items)
        return next(iterator)

    return make
