"""Spatial pyramid pooling against loops over its bins, and the rule it replaced."""

import math

import numpy as np
import pytest

from minidl import Tensor, gradcheck
from minidl.models import SpatialPyramidPooling

# Sizes and bins for which the window ceil(a / n) with stride floor(a / n) makes more bins.
FAILING = {(5, 3), (6, 4), (7, 4), (11, 4), (22, 6), (23, 6), (29, 6)}
FAILING |= {(a, 6) for a in (8, 9, 10, 11, 15, 16, 17)}


def _bins(size, count):
    return [(i * size // count, math.ceil((i + 1) * size / count)) for i in range(count)]


def _naive(x, levels):
    vectors = []
    for image in x:
        maxima = [
            image[top:bottom, left:right].max((0, 1))
            for level in levels
            for top, bottom in _bins(image.shape[0], level)
            for left, right in _bins(image.shape[1], level)
        ]
        vectors.append(np.concatenate(maxima))
    return np.array(vectors)


def test_bins_of_the_paper():
    assert _bins(13, 4) == [(0, 4), (3, 7), (6, 10), (9, 13)]
    assert _bins(10, 6) == [(0, 2), (1, 4), (3, 5), (5, 7), (6, 9), (8, 10)]


@pytest.mark.parametrize("size", range(1, 41))
def test_maxima_of_bins(size):
    levels = 6, 4, 3, 2, 1
    x = np.random.default_rng(size).normal(size=(2, size, 41 - size, 3))
    vector = SpatialPyramidPooling(levels)(x).numpy()
    np.testing.assert_array_equal(vector, _naive(x, levels))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6])
def test_the_rule_of_the_first_version(count):
    """Where its windows are as many as bins, and divide evenly, both rules agree."""
    for size in range(count, 41):
        window, stride = math.ceil(size / count), size // count
        windows = [(i, i + window) for i in range(0, size - window + 1, stride)]
        assert (len(windows) != count) == ((size, count) in FAILING), size
        if size % count == 0:
            assert windows == _bins(size, count)


@pytest.mark.parametrize(
    ("levels", "bins", "length"),
    [((4, 2, 1), 21, 5_376), ((6, 3, 2, 1), 50, 12_800), ((4, 3, 2, 1), 30, 7_680)],
)
def test_length_does_not_depend_on_the_size(levels, bins, length):
    pool = SpatialPyramidPooling(levels)
    assert pool.bins == bins
    for size in ((13, 13), (10, 10), (3, 40)):
        assert pool(np.zeros((2, *size, 256), np.float32)).shape == (2, length)


def test_gradient_of_overlapping_bins_adds_up():
    x = np.zeros((1, 13, 13, 1))
    x[0, 3, 9] = 1  # in two bins of four downwards and two across, and in one of each other level
    x = Tensor(x, requires_grad=True)
    pool = SpatialPyramidPooling((4, 2, 1))
    pool(x).sum().backward()
    assert x.grad[0, 3, 9, 0] == 2 * 2 + 1 + 1
    assert x.grad.sum() == 21
    values = np.random.default_rng(0).permutation(2 * 7 * 5 * 2).reshape(2, 7, 5, 2).astype(float)
    assert gradcheck(pool, values)


@pytest.mark.parametrize("levels", [(), (4, 0), "4", (2.5,)])
def test_unfit_levels_are_refused(levels):
    with pytest.raises(ValueError, match="SpatialPyramidPooling: levels must be .* >= 1, but is"):
        SpatialPyramidPooling(levels)
