"""Distances beside a search through all pixels, and U-Net's weight map beside its formula."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidl.data import distance_to, label_objects, separate, two_distances, weight_map
from minidl.data.weights import separation


def _searched(instances):
    """Distances to every object, sorted: the first two of them, and inf behind."""
    rows, columns = np.indices(instances.shape)
    each = [np.full(instances.shape, np.inf)] * 2
    for label in set(instances.ravel().tolist()) - {0}:
        at = np.argwhere(instances == label)
        squares = (rows[..., None] - at[:, 0]) ** 2 + (columns[..., None] - at[:, 1]) ** 2
        each.append(np.sqrt(squares.min(axis=-1)))
    return np.sort(each, axis=0)[:2].astype(np.float32)


@given(
    st.integers(1, 30), st.integers(1, 90), st.integers(0, 9), st.floats(0, 1), st.integers(0, 99)
)
def test_distances_are_those_of_a_search(height, width, objects, density, seed):
    rng = np.random.default_rng(seed)
    instances = rng.integers(0, objects + 1, (height, width))
    instances[rng.random((height, width)) > density**3] = 0
    nearest, second = two_distances(instances)
    np.testing.assert_array_equal([nearest, second], _searched(instances))
    np.testing.assert_array_equal(distance_to(instances), _searched(instances != 0)[0])
    assert nearest.dtype == second.dtype == np.float32


def test_distances_between_blobs(rng):
    """Stretches of one nearest object that are long, so that the second search is cut short."""
    y, x = np.mgrid[:70, :200]
    instances = np.zeros((70, 200), np.uint16)
    for label in range(1, 12):
        at = rng.uniform(0, 70), rng.uniform(0, 200)
        instances[np.hypot(y - at[0], x - at[1]) < rng.uniform(2, 9)] = label
    np.testing.assert_array_equal(two_distances(instances), _searched(instances))


def test_far_away_is_exact():
    mask = np.zeros((3, 20000), bool)
    mask[0, 0] = True
    far = distance_to(mask)
    assert far[2, -1] == np.float32(np.sqrt(4 + 19999**2))
    assert np.isinf(two_distances(mask.astype(int))[1]).all()


def test_threads_change_nothing(rng, threads):
    instances = rng.integers(0, 4, (90, 150)) * (rng.random((90, 150)) < 0.02)
    results = []
    for count in (1, 3):
        threads(count)
        results.append(two_distances(instances))
    np.testing.assert_array_equal(*results)


def _flooded(mask, corners):
    """Objects found by filling each from its first pixel."""
    labels, count = np.zeros(mask.shape, int), 0
    for start in np.argwhere(mask):
        if labels[tuple(start)]:
            continue
        count += 1
        waiting = [tuple(start)]
        while waiting:
            y, x = waiting.pop()
            labels[y, x] = count
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    v, u = y + dy, x + dx
                    if (
                        (corners or not dy or not dx)
                        and (0 <= v < len(mask) and 0 <= u < mask.shape[1])
                        and not labels[v, u]
                        and mask[v, u] == mask[y, x]
                    ):
                        waiting.append((v, u))
    return labels


@given(st.integers(1, 25), st.integers(1, 25), st.integers(1, 3), st.booleans(), st.integers(0, 99))
def test_objects_are_those_of_flooding(height, width, classes, corners, seed):
    mask = np.random.default_rng(seed).integers(0, classes + 1, (height, width))
    np.testing.assert_array_equal(label_objects(mask, corners), _flooded(mask, corners))


def test_a_spiral_is_one_object():
    mask = np.zeros((41, 41), bool)
    y, x, dy, dx = 0, 0, 0, 1
    mask[0, 0] = True
    for _ in range(2000):
        inside = 0 <= y + dy < 41 and 0 <= x + dx < 41
        ahead = 0 <= y + 2 * dy < 41 and 0 <= x + 2 * dx < 41 and mask[y + 2 * dy, x + 2 * dx]
        if not inside or ahead:
            dy, dx = dx, -dy
            continue
        y, x = y + dy, x + dx
        mask[y, x] = True
    assert mask.sum() > 500 and label_objects(mask).max() == 1


def test_separation_at_known_distances():
    pairs = np.array([(0, 0), (1, 1), (2, 3), (5, 5), (10, 10), (0, np.inf)], np.float32)
    known = [10, 9.2311634639, 6.0653065971, 1.3533528324, 0.0033546263, 0]
    np.testing.assert_allclose(separation(pairs[:, 0], pairs[:, 1]), known, rtol=1e-5)
    with pytest.raises(ValueError, match="w0=10.0, sigma=0, expected w0 of 0 or more, sigma of"):
        separation(pairs[:, 0], pairs[:, 1], sigma=0)


def test_weight_map_is_its_formula(rng):
    instances = np.kron(rng.integers(0, 6, (5, 6)), np.ones((6, 7), int))
    instances[::6] = 0
    instances[:, ::7] = 0
    first, second = _searched(instances).astype(float)
    balance = np.where(instances, 0.5 / (instances > 0).mean(), 0.5 / (instances == 0).mean())
    gaps = 7 * np.exp(-((first + second) ** 2) / (2 * 3.0**2))
    made = weight_map(instances, instances=True, w0=7, sigma=3, everywhere=True)
    np.testing.assert_allclose(made, balance + gaps, rtol=1e-5)
    made = weight_map(instances, instances=True, w0=7, sigma=3)
    np.testing.assert_allclose(made, balance + np.where(instances, 0, gaps), rtol=1e-5)
    assert made.dtype == np.float32
    np.testing.assert_allclose(weight_map(instances, True, w0=0).mean(), 1, rtol=1e-6)


def test_weight_map_of_classes_finds_the_objects():
    classes = np.zeros((9, 20), np.int32)
    classes[2:7, 2:6] = 1
    classes[2:7, 8:12] = 1
    classes[2:7, 14:18] = 2
    numbered = classes.copy()
    numbered[2:7, 8:12] = 3
    weights = 1.0, 2.0, 5.0
    made = weight_map(classes, class_weights=weights)
    gaps = weight_map(numbered, instances=True, class_weights=(0, 0))
    np.testing.assert_allclose(made, np.array(weights, np.float32)[classes] + gaps, rtol=1e-6)
    ignored = classes.copy()
    ignored[:2] = -100
    made = weight_map(ignored, class_weights=weights)
    assert (made[:2] == 0).all() and (made[2:] > 0).all()


def test_fewer_than_two_objects_have_no_gap():
    mask = np.zeros((6, 6), bool)
    np.testing.assert_array_equal(weight_map(mask), 1)
    mask[1:3, 1:3] = True
    np.testing.assert_array_equal(weight_map(mask, class_weights=(1, 4)), 1 + 3 * mask)


def test_touching_objects_are_parted():
    instances = np.array([[1, 1, 1, 2, 2, 2], [1, 1, 1, 2, 2, 2], [0, 3, 3, 3, 3, 0]], np.uint8)
    expected = [[1, 1, 0, 0, 2, 2], [1, 0, 0, 0, 0, 2], [0, 0, 0, 0, 0, 0]]
    parted = separate(instances)
    np.testing.assert_array_equal(parted, expected)
    assert parted.dtype == np.uint8 and instances[0, 2] == 1


def test_arguments_are_checked():
    with pytest.raises(ValueError, match=r"distance_to: mask of shape \(3,\), expected \(H, W\)"):
        distance_to(np.zeros(3, bool))
    with pytest.raises(TypeError, match="two_distances: instances of float64, expected booleans"):
        two_distances(np.zeros((3, 3)))
    with pytest.raises(ValueError, match="weight_map: class -3, expected 0 or more, or -100"):
        weight_map(np.full((2, 2), -3))
    with pytest.raises(ValueError, match="class 2 in the mask, but 2 class_weights"):
        weight_map(np.full((2, 2), 2), class_weights=(1, 1))
    with pytest.raises(ValueError, match=r"class_weights=\(1, -1\), expected numbers from 0 on"):
        weight_map(np.full((2, 2), 1), class_weights=(1, -1))
