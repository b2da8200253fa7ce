"""The same items in the same order, from another thread."""

import threading
import time

import pytest

from minidl.prefetch import prefetch


def test_items_and_order_are_kept():
    with prefetch(iter(range(50)), ahead=2) as items:
        assert list(items) == list(range(50))


def test_items_are_made_on_another_thread_and_not_too_far_ahead():
    made = []

    def source():
        for i in range(100):
            made.append(threading.current_thread().name)
            yield i

    with prefetch(source(), ahead=2) as items:
        assert next(items) == 0
        time.sleep(0.3)
        assert 2 <= len(made) <= 4  # one taken, two waiting, one in hand
    assert set(made) == {"minidl-prefetch"}


def test_an_error_comes_where_the_item_would_have():
    def source():
        yield 1
        raise ValueError("broken file")

    with prefetch(source()) as items:
        assert next(items) == 1
        with pytest.raises(ValueError, match="broken file"):
            next(items)


def test_leaving_early_ends_the_thread():
    def endless():
        while True:
            yield 0

    with prefetch(endless()) as items:
        next(items)
    assert "minidl-prefetch" not in {thread.name for thread in threading.enumerate()}


def test_waiting_is_measured():
    def slow():
        for i in range(4):
            time.sleep(0.1)
            yield i

    with prefetch(slow()) as items:
        assert list(items) == [0, 1, 2, 3]
        assert 0.2 < items.waited < 2  # for three items and the end, not for the first
        assert list(items) == []
    with prefetch(iter(range(4))) as items:
        for _ in items:
            time.sleep(0.05)  # the others are ready meanwhile
        assert items.waited < 0.05
