"""Memory of large results is lent again, and never to two at once."""

import os
import threading

import numpy as np
import pytest

from minidl import Tensor
from minidl import functional as F
from minidl.kernels import memory

LARGE = memory.SMALL // 4  # float32 numbers


@pytest.fixture(autouse=True)
def own_pool(monkeypatch):
    """Other tests leave blocks behind."""
    monkeypatch.setattr(memory, "_pool", memory._Pool())
    memory._returned.clear()


def _address(array):
    return array.ctypes.data


def test_an_array_begins_on_a_cache_line_and_is_writable():
    for shape in [(LARGE,), (3, LARGE // 2), (2, 3, LARGE // 5 + 1)]:
        for dtype in (np.float32, np.float64):
            array = memory.empty(shape, dtype)
            assert (array.shape, array.dtype) == (shape, dtype)
            assert _address(array) % memory.LINE_BYTES == 0
            assert array.flags.c_contiguous and array.flags.writeable
            array[:] = 1
            assert array.sum() == array.size


def test_memory_is_used_again_by_what_fits_it():
    first = memory.empty((LARGE * 16,), np.float32)
    at = _address(first)
    del first
    for size in (LARGE * 16, LARGE * 15):
        again = memory.empty((size,), np.float32)
        assert _address(again) == at
        del again
    held = memory._pool.unused + memory._returned[0].size
    small = memory.empty((LARGE * 8,), np.float32)  # would waste half of it
    assert small.base.block.size < held


def test_a_view_keeps_the_memory():
    array = memory.empty((4, LARGE), np.float32)
    array[:] = np.arange(4)[:, None]
    view = array[1:3, ::7].T
    del array
    others = [memory.empty((4, LARGE), np.float32) for _ in range(3)]
    for other in others:
        other[:] = -1
    np.testing.assert_array_equal(view, np.broadcast_to([1.0, 2.0], view.shape))


def test_what_is_not_used_is_given_back():
    sizes = [LARGE * n for n in range(1, 40)]
    arrays = [memory.empty((size,), np.float32) for size in sizes]
    peak = sum(array.nbytes for array in arrays)
    del arrays
    for size in sizes:  # sizes that fit none of the old
        memory.empty((size * 3,), np.float64)
    pool = memory._pool
    held = pool.unused + pool.lent + sum(block.size for block in memory._returned)
    assert held <= (peak + pool.peak) * 9 / 8
    assert pool.unused == sum(block.size for block in pool.free.values())


def test_too_much_is_a_memory_error():
    with pytest.raises(MemoryError):
        memory.empty((1 << 50,), np.float32)
    assert memory.empty((LARGE,), np.float32).size == LARGE


def test_threads_never_share_a_block():
    wrong = []

    def work(number):
        rng = np.random.default_rng(number)
        for _ in range(200):
            array = memory.empty((int(rng.integers(LARGE, LARGE * 2)),), np.float32)
            array[:] = number
            other = memory.empty((LARGE,), np.float32)
            other[:] = -1
            if not (array == number).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
def test_a_forked_child_has_a_pool_of_its_own():
    memory._pool.lock.acquire()  # as if another thread had it at that moment
    child = os.fork()
    if not child:
        array = memory.empty((LARGE,), np.float32)
        os._exit(0 if array.size == LARGE else 1)
    memory._pool.lock.release()
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
def test_a_forked_child_writes_into_pages_of_its_own():
    array = memory.empty((LARGE,), np.float32)
    array[:] = 1
    child = os.fork()
    if not child:
        array[:] = 2
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert (array == 1).all()


def test_results_and_gradients_survive_what_follows():
    rng = np.random.default_rng(0)
    x = Tensor(rng.standard_normal((2, 96, 96, 16)).astype(np.float32), requires_grad=True)
    w = Tensor(rng.standard_normal((3, 3, 16, 16)).astype(np.float32), requires_grad=True)
    y = F.conv2d(x, w, padding=1, activation="relu")
    y.sum().backward()
    kept, gradient = y.data, x.grad
    before, gradient_before = kept.copy(), gradient.copy()
    del y
    for _ in range(5):
        z = F.relu(F.conv2d(x, w, padding=1) * 0 - 1)
        z.sum().backward()
    np.testing.assert_array_equal(kept, before)
    np.testing.assert_array_equal(gradient, gradient_before)
