"""The same items in the same order, from another thread."""

import threading
import time

import numpy as np
import pytest

from minidl.data import Batches
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


def _leftover():
    return [t for t in threading.enumerate() if t.name == "minidl-prefetch"]


class _Slow:
    """A cut whose samples take the longer the earlier they are needed; number 6 fails if asked."""

    class order:  # noqa: N801
        pictures = 5

    def __init__(self, fail=None):
        self.fail, self.asked = fail, []

    def sample(self, position):
        self.asked.append(position)
        if position == self.fail:
            raise ValueError(f"broken sample {position}")
        time.sleep(0.03 if position % 4 == 0 else 0.001)
        return np.full((2, 2), position), np.zeros((2, 2), int)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_batches_come_in_order_from_any_number_of_threads(workers):
    with prefetch(Batches(_Slow(), 1, 3, 20), ahead=2, workers=workers) as items:
        assert [int(x.max()) for x, _ in items] == list(range(3, 20))
    assert not _leftover()


@pytest.mark.parametrize("workers", [1, 3])
def test_a_broken_batch_stops_the_stream_where_it_would_have_come(workers):
    cut = _Slow(fail=6)
    with prefetch(Batches(cut, 1, 0, None), workers=workers) as items:
        assert [int(next(items)[0].max()) for _ in range(6)] == list(range(6))
        with pytest.raises(ValueError, match="broken sample 6"):
            next(items)
        assert list(items) == []
    assert max(cut.asked) <= 6 + 3 + workers and not _leftover()


def test_ctrl_c_leaves_no_thread():
    def interrupt():
        raise KeyboardInterrupt

    stream = Batches(_Slow(), 2, 0, None)
    with pytest.raises(KeyboardInterrupt), prefetch(stream, workers=3) as items:
        next(items)
        interrupt()
    assert not _leftover()


def test_several_workers_need_numbers():
    for options, message in (
        ({"workers": 2}, "workers=2 for a list, which cannot be asked for items by number"),
        ({"ahead": 0}, "ahead=0, workers=1, expected 1 or more"),
        ({"workers": 0}, "workers=0, expected 1 or more"),
    ):
        with pytest.raises(ValueError, match=message), prefetch([1, 2], **options):
            pass
