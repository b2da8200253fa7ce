"""Kernels on threads: same bits from anywhere, errors that arrive, forks, interrupts."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from minidl import Tensor, no_grad
from minidl import functional as F
from minidl.kernels import parallel


@pytest.fixture
def python_kernel(threads):
    """Plain Python functions may stand in for kernels: `run` only calls them."""
    threads(3)
    return parallel.run


def _in_threads(count, work):
    """Results of ``work(i)`` on `count` threads that start at the same moment."""
    results, errors = [None] * count, []
    barrier = threading.Barrier(count)

    def run(i):
        barrier.wait()
        try:
            results[i] = work(i)
        except BaseException as error:
            errors.append(error)

    workers = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert not worker.is_alive(), "deadlock"
    assert errors == []
    return results


# ---- run -----------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [2, 3, 8])
@pytest.mark.parametrize("tasks, work", [(2, 1e5), (12, 4e7), (24, 1e6), (1099, 9e6), (10**6, 3e5)])
def test_ranges_cover_all_tasks_and_end_with_small_ones(threads, tasks, work):
    bounds = parallel._bounds(tasks, work, threads)
    sizes = np.diff(bounds)
    assert (bounds[0], bounds[-1]) == (0, tasks)
    assert sizes.min() >= 1 and (np.diff(sizes) <= 0).all()
    assert sizes[0] <= max(tasks / threads, 1)
    assert sizes[-1] * work / tasks <= parallel.RANGE_WORK + work / tasks
    assert len(sizes) <= work / parallel.RANGE_WORK + 1


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("tasks", [0, 1, 2, 7, 100])
def test_every_task_is_done_once(threads, count, tasks):
    threads(count)
    done = np.zeros(tasks, int)

    def kernel(start, stop, array):
        for task in range(start, stop):
            array[task] += 1

    parallel.run(kernel, tasks, 1e9, done)
    np.testing.assert_array_equal(done, np.ones(tasks))


def test_work_is_spread(python_kernel):
    """No thread finishes before the others have come, so each must have taken a range."""
    together = threading.Barrier(3)
    seen = set()

    def kernel(start, stop):
        if threading.get_ident() not in seen:
            seen.add(threading.get_ident())
            together.wait(30)

    python_kernel(kernel, 12, 1e9)
    assert len(seen) == 3 and threading.get_ident() in seen


def test_little_work_stays_on_the_calling_thread():
    before, idents = parallel.get_num_threads(), []
    parallel.set_num_threads(3)
    try:
        parallel.run(lambda start, stop: idents.append(threading.get_ident()), 10, 1)
    finally:
        parallel.set_num_threads(before)
    assert idents == [threading.get_ident()]


def test_number_of_threads_is_what_was_set(threads):
    for count in (1, 4):
        threads(count)
        assert parallel.get_num_threads() == count
    assert parallel.available_cores() >= 1


@pytest.mark.parametrize("count", [1, 3])
def test_an_error_reaches_the_caller(threads, count):
    threads(count)

    def kernel(start, stop):
        raise KeyError("from a kernel")

    for _ in range(3):
        with pytest.raises(KeyError, match="from a kernel"):
            parallel.run(kernel, 20, 1e9)
    test_every_task_is_done_once(threads, count, 50)


def test_an_error_on_a_worker_alone_reaches_the_caller(python_kernel):
    caller, failed = threading.get_ident(), threading.Event()

    def kernel(start, stop):
        if threading.get_ident() != caller:
            failed.set()
            raise ValueError("from a worker")
        failed.wait(30)

    with pytest.raises(ValueError, match="from a worker"):
        python_kernel(kernel, 12, 1e9)


def test_run_from_within_a_kernel(python_kernel):
    done = np.zeros((12, 12), int)

    def inner(start, stop, row):
        for i in range(start, stop):
            row[i] += 1
            time.sleep(0.0005)

    def outer(start, stop):
        for i in range(start, stop):
            python_kernel(inner, 12, 1e9, done[i])

    finished = _in_threads(2, lambda i: python_kernel(outer, 12, 1e9))
    assert finished == [None, None]
    np.testing.assert_array_equal(done, np.full((12, 12), 2))


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signals to threads")
def test_interrupt_while_waiting_leaves_the_pool_usable(python_kernel, interruptible):
    caller, busy, release = threading.get_ident(), threading.Event(), threading.Event()

    def kernel(start, stop):
        if threading.get_ident() == caller:
            busy.wait(30)
        else:
            busy.set()
            release.wait(30)

    def interrupt():
        busy.wait(30)
        time.sleep(0.1)  # by now the caller waits for the workers
        signal.pthread_kill(caller, signal.SIGINT)

    threading.Thread(target=interrupt).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            python_kernel(kernel, 12, 1e9)
    finally:
        release.set()
    done = np.zeros(40, int)

    def count(start, stop):
        done[start:stop] += 1

    python_kernel(count, 40, 1e9)
    np.testing.assert_array_equal(done, np.ones(40))


# ---- real kernels --------------------------------------------------------------------------

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 21, 17, 19)).astype(np.float32)
W = (RNG.standard_normal((3, 3, 19, 21)) / 13).astype(np.float32)
B = RNG.standard_normal(21).astype(np.float32)


def _step(x=X):
    """Bits of the result and of all gradients of a small network."""
    x, w, b = (Tensor(a, requires_grad=True) for a in (x, W, B))
    y = F.relu(F.conv2d(x, w, b, stride=2, padding=1))
    z = F.conv_transpose2d(y, w, stride=2)
    (z * z).sum().backward()
    return [a.tobytes() for a in (z.data, x.grad, w.grad, b.grad)]


def test_same_bits_for_any_number_of_threads(threads):
    threads(1)
    expected = _step()
    for count in (2, 3, 4, 5):
        threads(count)
        assert _step() == expected, f"{count} threads"


def test_same_bits_from_eight_python_threads_at_once(threads):
    threads(2)
    expected = [_step(X + i) for i in range(8)]
    assert len({bits[0] for bits in expected}) == 8
    results = _in_threads(8, lambda i: [_step(X + i) for _ in range(3)])
    for i, bits in enumerate(results):
        assert bits == [expected[i]] * 3


def test_number_of_threads_may_change_while_kernels_run(threads):
    threads(1)
    expected = _step()

    def work(i):
        for count in (1, 2, 3, 4):
            threads(count)
            if _step() != expected:
                return False
        return True

    assert all(_in_threads(4, work))


def test_gradients_of_one_model_on_many_threads(threads):
    """Inference shares parameters between threads."""
    threads(2)
    w = Tensor(W, requires_grad=True)
    with no_grad():
        expected = F.conv2d(X, w).data.tobytes()

    def work(i):
        with no_grad():
            return all(F.conv2d(X, w).data.tobytes() == expected for _ in range(5))

    assert all(_in_threads(8, work))


FORK = """
import os, sys, threading, warnings
warnings.simplefilter("ignore")  # Python warns of any fork beside threads
import numpy as np
from minidl import Tensor, functional as F
from minidl.kernels import parallel
parallel.SERIAL_BELOW = 0
parallel.set_num_threads(3)
x = np.random.default_rng(0).standard_normal((2, 30, 30, 8)).astype(np.float32)
w = np.random.default_rng(1).standard_normal((3, 3, 8, 8)).astype(np.float32)
def step():
    t = Tensor(w, requires_grad=True)
    (F.conv2d(x, t) ** 2).sum().backward()
    return t.grad.tobytes()
expected = step()
for generation in range(3):
    child = os.fork()
    if not child:
        if step() != expected or step() != expected:
            os._exit(1)
        if sum(thread.name == "minidl-worker" for thread in threading.enumerate()) != 2:
            os._exit(2)  # the child must have workers of its own
        grandchild = os.fork()
        if not grandchild:
            os._exit(step() != expected)
        os._exit(os.waitpid(grandchild, 0)[1] != 0)
    assert os.waitpid(child, 0)[1] == 0, "the child"
    assert step() == expected, "the parent"
print("equal")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_after_use_works():
    result = subprocess.run(
        [sys.executable, "-c", FORK], capture_output=True, text=True, timeout=120
    )
    assert result.stdout == "equal\n", result.stderr[-1000:]


EXIT = """
import numpy as np, threading
from minidl import functional as F
from minidl.kernels import parallel
parallel.SERIAL_BELOW = 0
parallel.set_num_threads(3)
F.relu(np.ones(100000, np.float32))
print("bye")
"""


def test_a_process_with_workers_ends():
    result = subprocess.run(
        [sys.executable, "-c", EXIT], capture_output=True, text=True, timeout=60
    )
    assert (result.stdout, result.returncode) == ("bye\n", 0), result.stderr[-1000:]
