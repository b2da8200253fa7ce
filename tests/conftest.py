"""What all tests share: Hypothesis profiles, a seeded generator, threads and signals put back."""

import os
import signal

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("MINIDL_QUIET", "1")

# A kernel is compiled on its first call: a deadline would only measure that.
common = {"deadline": None, "derandomize": True, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("dev", max_examples=15, database=None, **common)
settings.register_profile("ci", max_examples=60, database=None, **common)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


@pytest.fixture
def rng():
    """A generator that gives every test the same numbers in every run."""
    return np.random.default_rng(20260722)


@pytest.fixture
def interruptible():
    """Ctrl-C interrupts, even where the tests were started in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def threads(monkeypatch):
    """A function that sets the number of threads, for small work too; undone after the test."""
    from minidl.kernels import parallel

    before = parallel.get_num_threads()
    monkeypatch.setattr(parallel, "SERIAL_BELOW", 0)
    yield parallel.set_num_threads
    parallel.set_num_threads(before)
