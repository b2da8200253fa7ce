"""Dropout, and the generator behind it."""

import threading

import numpy as np
import pytest
from checking import check_threads, normal, run

import minidl.random
from minidl import Tensor
from minidl.functional import noise as D

ALL = [D.dropout, D.dropout1d, D.dropout2d, D.dropout3d]
SHAPES = {D.dropout: (4, 9, 7, 5), D.dropout1d: (40, 6, 50), D.dropout2d: (40, 3, 2, 50)}
SHAPES[D.dropout3d] = (40, 3, 1, 2, 50)
each = pytest.mark.parametrize("function", ALL, ids=lambda f: f.__name__)
CHANNELS = pytest.mark.parametrize("function", ALL[1:], ids=lambda f: f.__name__)


def _seeded(seed=0):
    return np.random.default_rng(seed)


@each
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_kept_values_are_scaled_and_backward_drops_the_same(function, dtype):
    x = (normal(*SHAPES[function]) + 10).astype(dtype)
    gy = (normal(*x.shape, seed=1) + 10).astype(dtype)
    y, (gx,) = run(lambda x: function(x, 0.3, generator=_seeded()), x, gy=gy)
    assert y.dtype == gx.dtype == dtype
    kept = y != 0
    assert 0 < kept.mean() < 1
    np.testing.assert_allclose(y, np.where(kept, x / dtype(0.7), 0), rtol=3e-7)
    np.testing.assert_allclose(gx, np.where(kept, gy / dtype(0.7), 0), rtol=3e-7)


@CHANNELS
def test_whole_channels_are_dropped(function):
    y = function(np.ones(SHAPES[function]), 0.5, generator=_seeded()).numpy()
    first = y.reshape(len(y), -1, y.shape[-1])[:, :1]
    np.testing.assert_array_equal(
        y.reshape(len(y), -1, y.shape[-1]),
        first + np.zeros_like(y).reshape(len(y), -1, y.shape[-1]),
    )
    assert abs((first == 0).mean() - 0.5) < 0.05


@pytest.mark.parametrize("p", [0.05, 0.2, 0.5, 0.9])
def test_share_and_independence(p):
    dropped = D.dropout(np.ones((500, 400), np.float32), p, generator=_seeded()).numpy() == 0
    tolerance = 5 * np.sqrt(p * (1 - p) / dropped.size)
    assert abs(dropped.mean() - p) < tolerance
    for shifted in (dropped[:, 1:] & dropped[:, :-1], dropped[1:] & dropped[:-1]):
        assert abs(shifted.mean() - p * p) < 5 * tolerance
    other = D.dropout(np.ones((500, 400), np.float32), p, generator=_seeded(1)).numpy() == 0
    assert abs((dropped & other).mean() - p * p) < 5 * tolerance


@each
def test_all_or_nothing(function):
    x = normal(*SHAPES[function])
    assert (function(x, 1.0).numpy() == 0).all()
    for y in (function(x, 0.0), function(x, 0.5, training=False)):
        np.testing.assert_array_equal(y.numpy(), x)
    tensor = Tensor(x)
    assert function(tensor, 0.5, False) is tensor


@each
def test_infinities_that_are_dropped_are_zero(function):
    x = np.full(SHAPES[function], np.inf)
    y = function(x, 1.0).numpy()
    assert (y == 0).all()


@each
def test_the_generator_decides(function):
    x = np.ones(SHAPES[function])
    first = function(x, generator=_seeded()).numpy()
    np.testing.assert_array_equal(function(x, generator=_seeded()).numpy(), first)
    generator = _seeded()
    function(x, generator=generator)
    assert (function(x, generator=generator).numpy() != first).any()


@each
def test_the_global_generator_is_seeded(function):
    x = np.ones(SHAPES[function])
    before = minidl.random.generator().bit_generator.state
    minidl.random.manual_seed(5)
    first = function(x).numpy()
    second = function(x).numpy()
    minidl.random.manual_seed(5)
    np.testing.assert_array_equal(function(x).numpy(), first)
    np.testing.assert_array_equal(function(x).numpy(), second)
    assert (first != second).any()
    minidl.random.generator().bit_generator.state = before


def test_nothing_is_drawn_where_nothing_is_dropped():
    generator = _seeded()
    D.dropout(np.ones(3), 0.5, training=False, generator=generator)
    D.dropout(np.ones(3), 0.0, generator=generator)
    assert generator.bit_generator.state == _seeded().bit_generator.state


def test_any_number_of_threads(threads):
    x = normal(3, 50, 60, 7).astype(np.float32)
    check_threads(threads, lambda x: D.dropout(x, 0.4, generator=_seeded()), x)


@each
def test_arguments_are_checked(function):
    name, x = function.__name__, np.ones(SHAPES[function])
    for bad in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=rf"{name}: p must be between 0 and 1, but is"):
            function(x, bad)
    with pytest.raises(
        TypeError, match=rf"{name}: generator must be a numpy.random.Generator, but"
    ):
        function(x, generator=3)
    with pytest.raises(TypeError, match=rf"{name}: x must be floating, but has dtype"):
        function(x.astype(int))


@CHANNELS
def test_layouts_are_checked(function):
    with pytest.raises(
        ValueError, match=rf"{function.__name__}: x must have shape \(N, .*C\), but"
    ):
        function(np.ones((2, 3)))


def test_the_global_generator_is_one_object():
    before = minidl.random.generator()
    state = before.bit_generator.state
    minidl.random.manual_seed(1)
    assert minidl.random.generator() is before
    numbers = before.random(3)
    minidl.random.manual_seed(np.int64(1))
    np.testing.assert_array_equal(minidl.random.generator().random(3), numbers)
    np.testing.assert_array_equal(np.random.Generator(np.random.PCG64(1)).random(3), numbers)
    before.bit_generator.state = state


def test_threads_may_draw_at_once():
    drawn = []

    def draw():
        drawn.extend(minidl.random.generator().integers(2**63, size=1) for _ in range(200))

    workers = [threading.Thread(target=draw) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len({int(n[0]) for n in drawn}) == 800


@pytest.mark.parametrize("seed", [-1, 1.5, "1", None])
def test_seeds_are_checked(seed):
    with pytest.raises(ValueError, match=r"manual_seed: seed must be an integer >= 0, but is"):
        minidl.random.manual_seed(seed)
