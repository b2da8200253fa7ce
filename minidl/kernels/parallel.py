"""Threads: the only place that starts them.

`run` cuts the tasks of a kernel into ranges and lets the calling thread and the workers take them
one after another. Compiled kernels release Python's global lock, so plain Python threads suffice,
and none of the restrictions of OpenMP apply: any Python thread may call, several at once, and a
process that forks simply starts workers anew in the child.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import math
import os
import queue
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

RANGE_WORK = 20_000  # units of work of a range at least: to hand one out takes some microseconds
SERIAL_BELOW = 100_000  # units of work, about a nanosecond each; a worker wakes up in 20 to 50 us


def available_cores() -> int:
    """Cores this process may use: its affinity, or fewer where a container's quota says so."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:
            quota, period = file.read().split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # no such file, or a quota of "max"
        return cores or 1


_numbers = itertools.count(1)


class _Job:
    """One call of `run`: ranges still to be taken, and the news that the last one is done."""

    def __init__(self, function: Callable, bounds: list[int], args: tuple) -> None:
        self.function, self.bounds, self.args = function, bounds, args
        self.number = next(_numbers)
        self.done = np.zeros(1, np.int64)  # 1 when a worker has ended it, for who spins
        self.untaken = itertools.count()  # next() on it is atomic
        self.lock = threading.Lock()
        self.unfinished = len(bounds) - 1
        self.finished = threading.Event()
        self.error: BaseException | None = None

    def work(self) -> None:
        while (i := next(self.untaken)) < len(self.bounds) - 1:
            try:
                self.function(self.bounds[i], self.bounds[i + 1], *self.args)
            except BaseException as error:
                self.error = error
            with self.lock:
                self.unfinished -= 1
                if not self.unfinished:
                    self.finished.set()


def _cpu_call() -> Callable[[], int] | None:
    """The C library's function that tells on which core a thread is, where there is one."""
    try:
        return ctypes.PyDLL(None).sched_getcpu if hasattr(os, "sched_setaffinity") else None
    except (AttributeError, OSError, TypeError):
        return None


_current_cpu = _cpu_call()


class _Pool:
    """Workers that wait for jobs. Made anew in a forked child, which inherits no threads."""

    def __init__(self) -> None:
        self.jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self.lock = threading.Lock()
        self.workers: list[threading.Thread] = []
        self.newest = np.zeros(1, np.int64)  # number of the last job put
        self.avoided = -1  # the core that workers were told to leave to the calling thread

    def hire(self, workers: int) -> None:
        if len(self.workers) < workers:
            with self.lock:
                for _ in range(len(self.workers), workers):
                    worker = threading.Thread(target=self.serve, name="minidl-worker", daemon=True)
                    worker.start()
                    self.workers.append(worker)
                    self.avoided = -1
        if _current_cpu is not None:
            self.keep_away(_current_cpu())

    def keep_away(self, cpu: int) -> None:
        """Forbid the workers the core of the calling thread.

        Linux likes to wake a thread on the core of the one that wakes it, behind which it would
        then wait for milliseconds, while other cores have nothing to do.
        """
        if cpu == self.avoided:
            return
        others = os.sched_getaffinity(0) - {cpu}
        with self.lock, contextlib.suppress(OSError):
            for worker in self.workers if others else ():
                os.sched_setaffinity(worker.native_id or 0, others)
            self.avoided = cpu

    def put(self, job: _Job, times: int) -> None:
        """Let so many workers take part in the job."""
        for _ in range(times):
            self.jobs.put(job)
        self.newest[0] = job.number

    def serve(self) -> None:
        from minidl.kernels import spin

        while True:
            job = self.jobs.get()
            job.work()
            done, ended, number = job.done, not job.unfinished, job.number
            del job  # and with it the arrays it was about
            spin.tell_and_wait(done, ended, self.newest, number, spin.TURNS)


_pool = _Pool()
_num_threads = available_cores()
# Called, where there is one, as listener(function, job, *args) in place of job(*args) for every
# kernel that is run, on whatever thread. `minidl.profile` listens here.
listener: Callable[..., Any] | None = None


def _renew_pool() -> None:
    global _pool
    _pool = _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_pool)


def set_num_threads(threads: int) -> None:
    """Let each parallel kernel use `threads` threads, the calling one included.

    Parameters
    ----------
    threads : int, at least 1
        Results do not depend on it.

    Raises
    ------
    ValueError
        If `threads` is not a positive integer.
    """
    global _num_threads
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise ValueError(f"set_num_threads: threads must be an integer >= 1, but is {threads!r}.")
    _num_threads = threads


def get_num_threads() -> int:
    """Number of threads a parallel kernel uses, the calling one included."""
    return _num_threads


def run(function: Callable[..., Any], tasks: int, work: float, *args: Any) -> None:
    """Call ``function(start, stop, *args)`` for ranges that together cover ``range(tasks)``.

    Parameters
    ----------
    function : callable
        A kernel whose tasks own disjoint parts of what it writes.
    tasks : int
        Number of tasks.
    work : float
        Estimate of the whole work, in units of about a nanosecond on one core. Little work is
        done by the calling thread alone: waking another would take longer.
    *args
        Passed on to the kernel.
    """
    if (heard := listener) is not None:
        heard(function, _run, function, tasks, work, *args)
    else:
        _run(function, tasks, work, *args)


def _bounds(tasks: int, work: float, threads: int) -> list[int]:
    """Where ranges begin, and the end.

    Each is a share of what is left. The first ones are large, the last ones small: so all threads
    end at about the same time, also if another process has held one up. (Polychronopoulos & Kuck,
    Guided self-scheduling, 1987.)
    """
    least = math.ceil(tasks * RANGE_WORK / work)
    bounds = [0]
    while (left := tasks - bounds[-1]) > 0:
        bounds.append(min(tasks, bounds[-1] + max(least, left // (2 * threads))))
    return bounds


def _run(function: Callable[..., Any], tasks: int, work: float, *args: Any) -> None:
    threads = min(_num_threads, tasks)
    if threads <= 1 or work < SERIAL_BELOW:
        function(0, tasks, *args)
        return
    from minidl.kernels import spin  # not before there is a kernel: it takes Numba

    job = _Job(function, _bounds(tasks, work, threads), args)
    pool = _pool
    pool.hire(threads - 1)
    pool.put(job, threads - 1)
    job.work()
    if job.unfinished:
        spin.wait_while(job.done, 0, spin.TURNS)
    job.finished.wait()
    if job.error is not None:
        raise job.error
