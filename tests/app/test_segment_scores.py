"""Contours, segments and the competition's rule, against counting pair by pair and by hand."""

import math

import numpy as np
import pytest

from minidl import metrics


def blobs(seed, shape=(13, 17), values=3):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, values, (shape[0] // 3 + 1, shape[1] // 3 + 1))
    return np.repeat(np.repeat(coarse, 3, 0), 3, 1)[: shape[0], : shape[1]]


def naive_edges(labels, c, ignore):
    height, width = labels.shape
    return [
        (y, x)
        for y in range(height)
        for x in range(width)
        if labels[y, x] == c and not ignore[y, x]
        and any(
            0 <= v < height and 0 <= u < width and labels[v, u] != c and not ignore[v, u]
            for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1))
        )
    ]  # fmt: skip


def share_near(edges, others, radius):
    near = [any(math.dist(a, b) <= radius for b in others) for a in edges]
    return sum(near) / len(near)


@pytest.mark.parametrize("tolerance", [0, 0.05, 0.1, 1, 1.5, 3])
@pytest.mark.parametrize("seed", range(3))
def test_boundary_f1_equals_distances_of_all_pairs(tolerance, seed):
    prediction, target = blobs(seed), blobs(seed + 9).copy()
    prediction[:9] = np.roll(target, 1, axis=1)[:9]
    target[4:6, 3:8] = -100
    result = metrics.boundary_f1(prediction, target, 4, tolerance)
    radius = tolerance if tolerance >= 1 else math.ceil(tolerance * math.hypot(13, 17))
    for c in range(3):
        found, wanted = (naive_edges(x, c, target == -100) for x in (prediction, target))
        p, r = share_near(found, wanted, radius), share_near(wanted, found, radius)
        assert result[c] == pytest.approx(2 * p * r / (p + r) if p + r else 0)
    assert np.isnan(result[3])


def test_boundary_f1_of_what_is_there_once_is_zero():
    target = np.zeros((6, 6), int)
    prediction = target.copy()
    prediction[2, 2] = 1
    np.testing.assert_array_equal(metrics.boundary_f1(prediction, target, 3), [0, 0, np.nan])
    np.testing.assert_array_equal(metrics.boundary_f1(prediction, prediction, 2), [1, 1])


def test_boundary_f1_errors():
    with pytest.raises(ValueError, match=r"expected the same shape \(H, W\)"):
        metrics.boundary_f1(np.zeros((2, 3), int), np.zeros((3, 2), int), 2)
    with pytest.raises(ValueError, match="tolerance must be at least 0"):
        metrics.boundary_f1(np.zeros((2, 3), int), np.zeros((2, 3), int), 2, -1)


def flooded(mask, connectivity):
    """Pieces by flooding from each pixel that has none."""
    labels, count = np.zeros(mask.shape, int), 0
    steps = [(0, 1), (1, 0), (0, -1), (-1, 0)]
    steps += [(1, 1), (1, -1), (-1, 1), (-1, -1)] if connectivity == 8 else []
    for start in zip(*np.nonzero(mask), strict=True):
        if labels[start]:
            continue
        count += 1
        todo = [start]
        while todo:
            y, x = todo.pop()
            inside = 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1]
            if inside and not labels[y, x] and mask[y, x] == mask[start]:
                labels[y, x] = count
                todo += [(y + v, x + u) for v, u in steps]
    return labels


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("density", [0.3, 0.5, 0.6, 0.8])
def test_components_equal_flooding(connectivity, density):
    mask = np.random.default_rng(0).random((23, 31)) < density
    result = metrics.components(mask, connectivity)
    np.testing.assert_array_equal(result, flooded(mask, connectivity))
    labels = blobs(3)
    np.testing.assert_array_equal(
        metrics.components(labels, connectivity), flooded(labels, connectivity)
    )


def test_components_of_a_spiral_are_one():
    spiral = np.array([[1, 1, 1, 1, 1], [0, 0, 0, 0, 1], [1, 1, 1, 0, 1], [1, 0, 0, 0, 1],
                       [1, 1, 1, 1, 1]])  # fmt: skip
    assert metrics.components(spiral).max() == 1
    np.testing.assert_array_equal(metrics.components(np.eye(3, dtype=int)), np.diag([1, 2, 3]))
    assert metrics.components(np.eye(3, dtype=int), 8).max() == 1


def test_growing_fills_with_the_nearest():
    labels = np.zeros((5, 9), int)
    labels[2, 1], labels[0, 7] = 4, 9
    grown = metrics.grow(labels)
    for y in range(5):
        for x in range(9):
            steps = {4: abs(y - 2) + abs(x - 1), 9: abs(y) + abs(x - 7)}
            assert steps[grown[y, x]] == min(steps.values())
    np.testing.assert_array_equal(metrics.grow(np.zeros((2, 3), int)), 0)
    assert labels.sum() == 13


def pair_scores(prediction, target):
    """Rand scores by their meaning: probabilities of drawing two pixels, with repetition."""
    pixels = [
        (p or ("alone", i), t)
        for i, (p, t) in enumerate(
            zip(prediction.ravel().tolist(), target.ravel().tolist(), strict=True)
        )
        if t
    ]
    both = found = wanted = 0
    for a in pixels:
        for b in pixels:
            found += a[0] == b[0]
            wanted += a[1] == b[1]
            both += a == b
    return both / wanted, both / found, pixels


@pytest.mark.parametrize("seed", range(3))
def test_rand_score_equals_counting_pairs(seed):
    prediction, target = blobs(seed, (9, 11), 4), blobs(seed + 5, (9, 11), 3)
    split, merge, _ = pair_scores(prediction, target)
    result = metrics.rand_score(prediction, target)
    assert result == pytest.approx((2 * split * merge / (split + merge), split, merge))


@pytest.mark.parametrize("seed", range(3))
def test_information_score_equals_its_definition(seed):
    prediction, target = blobs(seed, (9, 11), 4), blobs(seed + 5, (9, 11), 3)
    _, _, pixels = pair_scores(prediction, target)
    count = len(pixels)
    share = [{x: sum(p[k] == x for p in pixels) / count for x in {p[k] for p in pixels}}
             for k in (0, 1)]  # fmt: skip
    mutual = sum(
        (q := pixels.count(p) / count) * math.log(q / share[0][p[0]] / share[1][p[1]])
        for p in set(pixels)
    )
    entropy = [-sum(q * math.log(q) for q in s.values()) for s in share]
    split, merge = mutual / entropy[0], mutual / entropy[1]
    result = metrics.information_score(prediction, target)
    assert result == pytest.approx((2 * split * merge / (split + merge), split, merge))


@pytest.mark.parametrize("score", [metrics.rand_score, metrics.information_score])
def test_segment_scores_say_whether_segments_were_split_or_merged(score):
    target = np.repeat([[1, 1, 0, 2, 2]], 4, axis=0)
    assert score(target * 7, target) == pytest.approx((1, 1, 1))
    wide = target.copy()
    wide[:, 2] = 3  # a membrane of the target is nobody's business
    assert score(wide, target) == pytest.approx((1, 1, 1))
    apart = target.copy()
    apart[:2, :2] = 9
    _, split, merge = score(apart, target)
    assert split < 1 and merge == pytest.approx(1)
    _, split, merge = score(np.ones_like(target), target)
    assert split == pytest.approx(1) and merge < 1
    assert np.isnan(score(target, target * 0)).all()


def test_pixel_error():
    assert metrics.pixel_error([[1, 0, 1, 1]], [[1, 1, 1, 1]]) == 0.25
    assert metrics.pixel_error([[0.5, 1]], [[1, 1]]) == 0.125
    assert np.isnan(metrics.pixel_error([], []))


def test_errors_of_segments():
    zeros = np.zeros((2, 3), int)
    with pytest.raises(ValueError, match="connectivity must be 4 or 8, but is 6"):
        metrics.components(zeros, 6)
    with pytest.raises(ValueError, match=r"mask must have shape \(H, W\), but has \(3,\)"):
        metrics.components(zeros[0])
    with pytest.raises(TypeError, match="grow: labels must be bool or integer.*float64"):
        metrics.grow(zeros * 1.0)
    with pytest.raises(ValueError, match=r"rand_score: prediction has shape \(2, 3\)"):
        metrics.rand_score(zeros, zeros.T)
    with pytest.raises(TypeError, match="information_score: target must be"):
        metrics.information_score(zeros, zeros * 1.0)
    with pytest.raises(ValueError, match="pixel_error: prediction has shape"):
        metrics.pixel_error(zeros, zeros.T)


class TestKaggle:
    def test_runs_go_down_the_columns(self):
        mask = np.array([[0, 1, 0, 0], [0, 1, 0, 0], [1, 0, 0, 1]])
        assert metrics.rle_encode(mask) == "3 3 12 1"
        np.testing.assert_array_equal(metrics.rle_decode("3 3 12 1", (3, 4)), mask)

    @pytest.mark.parametrize(
        ("place", "text"),
        [((0, 0), "1 1"), ((0, 1), "421 1"), ((-1, -1), "243600 1"), (..., "1 243600"),
         ((slice(0), 0), "")],
    )  # fmt: skip
    def test_of_the_competitions_size(self, place, text):
        mask = np.zeros((420, 580), bool)
        mask[place] = True
        assert metrics.rle_encode(mask) == text
        np.testing.assert_array_equal(metrics.rle_decode(text, (420, 580)), mask)

    @pytest.mark.parametrize("seed", range(5))
    def test_there_and_back(self, seed):
        mask = blobs(seed) * np.random.default_rng(seed).integers(0, 2, (13, 17)) > 0
        text = metrics.rle_encode(mask)
        result = metrics.rle_decode(text, (13, 17))
        assert result.dtype == bool
        np.testing.assert_array_equal(result, mask)
        numbers = {
            x * 13 + y + 1 for y in range(13) for x in range(17) if mask[y, x]
        }  # fmt: skip
        pairs = np.array(text.split(), int).reshape(-1, 2)
        assert {i for start, length in pairs for i in range(start, start + length)} == numbers

    def test_dice_and_its_rule_for_empty_masks(self):
        empty, target = np.zeros((4, 4)), np.zeros((4, 4))
        target[:2, :2] = 255
        half = np.zeros((4, 4))
        half[0, :] = 1
        assert metrics.kaggle_dice(empty, empty) == 1
        assert metrics.kaggle_dice(half, empty) == 0
        assert metrics.kaggle_dice(empty, target) == 0
        assert metrics.kaggle_dice(half, target) == 0.5

    def test_errors(self):
        with pytest.raises(ValueError, match="'1 x' is not a list of whole numbers"):
            metrics.rle_decode("1 x", (2, 2))
        with pytest.raises(ValueError, match="pairs of start and length, got 3"):
            metrics.rle_decode("1 1 3", (2, 2))
        for text in ("0 1", "3 3", "1 2 2 1", "1 0"):
            with pytest.raises(ValueError, match="does not fit"):
                metrics.rle_decode(text, (2, 2))
        with pytest.raises(ValueError, match="kaggle_dice: prediction has shape"):
            metrics.kaggle_dice(np.zeros((2, 3)), np.zeros((3, 2)))
        with pytest.raises(ValueError, match="rle_encode: mask must have shape"):
            metrics.rle_encode(np.zeros(3))
