"""The fully connected CRF against exact sums over all pairs of pixels, and the lattice under it
against another one, of dictionaries. Both in float64, and share no code with what they check.
"""

import importlib.util
import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import minidl as md
from minidl import crf
from minidl.crf import Bilateral, DenseCRF, Gaussian
from minidl.kernels import lattice, simd

# ---- references ----------------------------------------------------------------------------


def _exact_kernel(points):
    """exp(-|f_p - f_q|^2 / 2) for all pairs."""
    difference = points[:, None].astype(np.float64) - points[None]
    return np.exp(-(difference**2).sum(axis=-1) / 2)


def _normalised(kernel, mode):
    sums = kernel.sum(axis=1)
    left = {"symmetric": sums**-0.5, "before": sums**0, "after": 1 / sums, None: sums**0}[mode]
    right = {"symmetric": sums**-0.5, "before": 1 / sums, "after": sums**0, None: sums**0}[mode]
    return left[:, None] * kernel * right


def _softmax(logits):
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _naive_mean_field(unary, kernels, compatibilities, iterations):
    """Mean field with matrices of all pairs and (C, C) compatibilities, as the paper writes it."""
    q = _softmax(-unary)
    for _ in range(iterations):
        energy = unary.astype(np.float64)
        for kernel, mu in zip(kernels, compatibilities, strict=True):
            for i, label in np.ndindex(*unary.shape):
                energy[i, label] += sum(
                    mu[label, other] * (kernel[i] @ q[:, other]) for other in range(len(mu))
                )
        q = _softmax(-energy)
    return q


def _positions(height, width):
    return np.array([(x, y) for y in range(height) for x in range(width)], np.float64)


def _features(image, sxy, srgb=None):
    height, width = image.shape[:2]
    points = _positions(height, width) / sxy
    if srgb is None:
        return points
    return np.concatenate([points, image.reshape(len(points), -1) / srgb], axis=1)


def _simplex(x):
    """The corners, one of each remainder, of the simplex around a point of the plane sum(x) = 0."""
    size = len(x)
    below = np.floor(x / size)
    candidates = [below + up for up in itertools.product((0, 1), repeat=size)]
    in_plane = [size * c for c in candidates if c.sum() == 0]
    origin = min(in_plane, key=lambda c: ((x - c) ** 2).sum())
    order = np.argsort(origin - x)
    corners = [origin]
    for axis in order[::-1][: size - 1]:  # from the coordinate that falls short most
        step = np.ones(size)
        step[axis] -= size
        corners.append(corners[-1] + step)
    return np.array(corners)


def _naive_lattice(points, values):
    """Splat, blur, slice by dictionaries; weights of corners from linear equations."""
    n, d = points.shape
    size = d + 1
    basis = np.triu(np.ones((size, d))) - np.diag(np.arange(1.0, size + 1), -1)[:size, :d]
    basis *= np.sqrt(2 / 3) * size / np.linalg.norm(basis, axis=0)
    mixtures = []
    for x in points @ basis.T:
        corners = _simplex(x)
        system = np.concatenate([corners.T, np.ones((1, size))])
        weights = np.linalg.lstsq(system, np.append(x, 1), rcond=None)[0]
        assert weights.min() > -1e-9, "the point is outside"
        mixtures.append([(tuple(c.astype(int)), w) for c, w in zip(corners, weights, strict=True)])
    table = {}
    for mixture, value in zip(mixtures, values, strict=True):
        for vertex, weight in mixture:
            table[vertex] = table.get(vertex, 0) + weight * value
    for axis in range(size):
        step = np.ones(size, int)
        step[axis] -= size
        sides = [step, -step]
        table = {
            vertex: value + sum(table.get(tuple(np.array(vertex) + s), 0) for s in sides) / 2
            for vertex, value in table.items()
        }
    gain = 1 + 2.0**-d
    return np.array([sum(w * table[vertex] for vertex, w in m) / gain for m in mixtures])


# ---- the lattice ---------------------------------------------------------------------------


@pytest.mark.parametrize("d, spread", [(1, 9), (2, 4), (3, 3), (5, 1.5), (5, 0.2)])
def test_lattice_is_the_one_of_dictionaries(rng, d, spread):
    points = rng.standard_normal((40, d)) * spread
    values = rng.random((40, 3)).astype(np.float32)
    expected = _naive_lattice(points, values)
    np.testing.assert_allclose(lattice.Lattice(points).filter(values), expected, rtol=2e-5)


CASES = {"plane 3": (3, None, 0.87), "plane 1": (1, None, 0.88), "colours": (10, 20, 0.56)}


@pytest.mark.parametrize("sxy, srgb, gain", CASES.values(), ids=CASES)
def test_normalised_filter_is_nearly_exact(rng, sxy, srgb, gain):
    image = _positions(24, 24).reshape(24, 24, 2) @ rng.uniform(-4, 4, (2, 3))  # soft shading
    image += rng.uniform(-10, 10, image.shape)
    points, values = _features(image, sxy, srgb), rng.random((576, 4)).astype(np.float32)
    kernel = _exact_kernel(points)
    filtered = lattice.Lattice(points)
    sums = filtered.filter(np.ones((576, 1), np.float32))
    np.testing.assert_allclose((sums[:, 0] / kernel.sum(axis=1)).mean(), gain, atol=0.08)
    filtered.scale(1, 1 / sums)
    exact = _normalised(kernel, "after") @ values
    np.testing.assert_allclose(filtered.filter(values), exact, atol=0.05)


def test_constants_are_preserved(rng):
    points = rng.standard_normal((500, 5)) * 2
    filtered = lattice.Lattice(points)
    filtered.scale(1, 1 / filtered.filter(np.ones((500, 1), np.float32)))
    constants = np.tile(np.float32([0.25, 1, 0, -7]), (500, 1))
    np.testing.assert_allclose(filtered.filter(constants), constants, rtol=1e-6)


@pytest.mark.parametrize("d", [2, 5])
def test_reverse_order_is_the_transposed_filter(rng, d):
    points = rng.standard_normal((200, d)) * 2
    unit = np.eye(200, dtype=np.float32)
    filtered = lattice.Lattice(points)
    forth, back = filtered.filter(unit), filtered.filter(unit, transposed=True)
    np.testing.assert_allclose(forth, back.T, rtol=1e-5, atol=1e-7)
    # Both are nearly symmetric, but no more than that.
    u, v = rng.random((2, 200))
    gap = abs(u @ forth @ v - u @ back @ v) / (u @ forth @ v)
    assert 1e-8 < gap < 5e-3


def test_scale_multiplies_before_and_after(rng):
    points, values = rng.standard_normal((50, 2)), rng.random((50, 3)).astype(np.float32)
    before, after = (rng.random((50, 1)).astype(np.float32) for _ in range(2))
    filtered = lattice.Lattice(points)
    expected = after * filtered.filter(before * values)
    filtered.scale(before, after)
    np.testing.assert_allclose(filtered.filter(values), expected, rtol=1e-5)


def test_filter_adds(rng):
    filtered, values = lattice.Lattice(rng.random((9, 2))), rng.random((9, 2)).astype(np.float32)
    start = np.full((9, 2), 5, np.float32)
    expected = filtered.filter(values) + 5
    assert filtered.filter(values, add_to=start) is start
    np.testing.assert_allclose(start, expected, rtol=1e-6)


def test_order_of_points_does_not_matter(rng):
    points, values = rng.standard_normal((300, 5)), rng.random((300, 2)).astype(np.float32)
    order = rng.permutation(300)
    expected = lattice.Lattice(points).filter(values)[order]
    found = lattice.Lattice(points[order]).filter(values[order])
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_place_of_the_origin_hardly_matters(rng):
    points, values = rng.standard_normal((400, 3)), rng.random((400, 1)).astype(np.float32)
    ones = np.ones_like(values)
    means = []
    for shift in (0, np.array([0.4, -1000.3, 77.7])):
        filtered = lattice.Lattice(points + shift)
        means.append(filtered.filter(values) / filtered.filter(ones))
    np.testing.assert_allclose(*means, atol=0.05)
    assert not np.array_equal(*means)


@pytest.mark.parametrize("channels", [1, 2, 15, 16, 17, 33])
def test_channels_do_not_meet(rng, channels):
    points = rng.standard_normal((60, 2)) * 2
    values = rng.random((60, channels)).astype(np.float32)
    filtered = lattice.Lattice(points)
    together = filtered.filter(values)
    for c in range(channels):
        assert np.array_equal(together[:, c : c + 1], filtered.filter(values[:, c : c + 1]))


# ---- mean field ----------------------------------------------------------------------------

U2 = np.array([[0, 1], [1, 0.5]])
PAIR = np.array([[1, 0.5], [0.5, 1]])
# Probability of label 0 of either pixel after 1, 2, 3 iterations, w = 2, Potts.
ORACLE = {
    "paper, no message to itself": (
        PAIR - np.eye(2),
        [(0.6802848877, 0.4905304218), (0.7273186602, 0.4651988058), (0.7171559453, 0.4886612744)],
    ),
    "message to itself": (
        PAIR,
        [(0.8428138909, 0.3710487795), (0.8921942732, 0.4181975326), (0.9172208571, 0.4892963048)],
    ),
    "symmetric normalisation": (
        PAIR / 1.5,
        [(0.8104408278, 0.3732077030), (0.8400749454, 0.3955141523), (0.8541529813, 0.4194100486)],
    ),
}


@pytest.mark.parametrize("kernel, steps", ORACLE.values(), ids=ORACLE)
def test_two_pixels(kernel, steps):
    for iterations, expected in enumerate(steps, 1):
        q = crf.mean_field(U2, lambda q: 2 * kernel @ q, iterations)
        assert q.dtype == np.float64
        np.testing.assert_allclose(q[:, 0], expected, atol=1e-9)
        naive = _naive_mean_field(U2, [kernel], [2 * (1 - np.eye(2))], iterations)
        np.testing.assert_allclose(q, naive, atol=1e-12)


def _problem(rng, shape=(9, 11), labels=3, channels=3):
    """An image of two noisy halves, and unary energies that know little of it."""
    image = np.full((*shape, channels), 60.0)
    image[:, shape[1] // 2 :] = 180
    image += rng.uniform(-10, 10, image.shape)
    scores = rng.standard_normal((*shape, labels))
    scores[..., 0] += 0.02 * (image[..., 0] - 120)
    return crf.unary_from_probabilities(_softmax(scores)), image.astype(np.uint8)


def _lattice_kernel(points):
    return lattice.Lattice(points).filter(np.eye(len(points), dtype=np.float32)).astype(np.float64)


MU = np.array([[0, 1, 0.3], [1, 0, 0.8], [0.3, 0.8, -0.2]])
COMPATS = {
    "potts": (2.0, 2 * (1 - np.eye(3))),
    "labels": ([1.0, 2, 0.5], -np.diag([1, 2, 0.5])),
    "matrix": (2 * MU, 2 * MU),
}


@pytest.mark.parametrize("mode", ["symmetric", "before", "after", None])
@pytest.mark.parametrize("compat, mu", COMPATS.values(), ids=COMPATS)
def test_mean_field_on_the_lattice(rng, compat, mu, mode):
    """All but the lattice, which is taken for a matrix here, is exact."""
    unary, image = _problem(rng, (5, 6))
    terms = [Gaussian(1.5, compat), Bilateral((6, 9), (15, 20, 25), 1.5)]
    q = DenseCRF(terms, 4, mode)(unary, image)
    points = [_features(image, 1.5), _features(image, [6, 9], [15, 20, 25])]
    kernels = [_normalised(_lattice_kernel(p), mode) for p in points]
    mus = [mu, 1.5 * (1 - np.eye(3))]
    expected = _naive_mean_field(unary.reshape(-1, 3), kernels, mus, 4).reshape(unary.shape)
    assert q.dtype == np.float32 and q.shape == unary.shape
    np.testing.assert_allclose(q, expected, atol=2e-5)


@pytest.mark.parametrize("mode", ["symmetric", "before", "after"])
@pytest.mark.parametrize("channels", [1, 3])
def test_dense_crf_is_nearly_exact(rng, mode, channels):
    unary, image = _problem(rng, channels=channels)
    q = DenseCRF([Gaussian(1, 1), Bilateral(8, 20, 2)], 5, mode)(unary, image)
    points = [_features(image, 1), _features(image, 8, 20)]
    kernels = [_normalised(_exact_kernel(p), mode) for p in points]
    mus = [1 - np.eye(3), 2 * (1 - np.eye(3))]
    expected = _naive_mean_field(unary.reshape(-1, 3), kernels, mus, 5).reshape(unary.shape)
    assert abs(q - expected).mean() < 0.01
    np.testing.assert_allclose(q, expected, atol=0.1)
    assert abs(q - _softmax(-unary)).max() > 0.3  # something happened


def test_potts_can_be_written_in_three_ways(rng):
    unary, image = _problem(rng)
    results = [
        DenseCRF([Bilateral(8, 20, compat)], 3)(unary, image)
        for compat in (2, [2, 2, 2], 2 * (1 - np.eye(3)))
    ]
    np.testing.assert_allclose(results[1], results[0], atol=1e-5)
    np.testing.assert_allclose(results[2], results[0], atol=1e-5)


def test_dense_crf_has_the_terms_of_deeplab(rng):
    unary, image = _problem(rng)
    probabilities = np.exp(-unary)
    expected = DenseCRF([Gaussian(1, 3), Bilateral(67, 3, 4)], 10, "symmetric")(unary, image)
    np.testing.assert_allclose(crf.dense_crf(probabilities, image), expected, atol=1e-5)
    np.testing.assert_allclose(DenseCRF()(unary, image), expected, atol=1e-6)
    expected = DenseCRF([Gaussian(2, 5), Bilateral(30, 4, 6)], 7, "after")(unary, image)
    found = crf.dense_crf(probabilities, image, 6, 30, 4, 5, 2, iterations=7, normalization="after")
    np.testing.assert_allclose(found, expected, atol=1e-5)
    only = DenseCRF([Gaussian(1, 3)])(unary, image)
    np.testing.assert_allclose(crf.dense_crf(probabilities, image, w1=0), only, atol=1e-5)
    only = DenseCRF([Bilateral(67, 3, 4)])(unary, image)
    np.testing.assert_allclose(crf.dense_crf(probabilities, image, w2=0), only, atol=1e-5)


def test_labels_can_be_renamed(rng):
    unary, image = _problem(rng, labels=5)
    order = [3, 0, 4, 1, 2]
    expected = DenseCRF()(unary, image)[..., order]
    np.testing.assert_allclose(DenseCRF()(unary[..., order], image), expected, atol=1e-6)


def test_same_bits_for_any_number_of_threads(rng, threads):
    unary, image = _problem(rng, (40, 50), labels=20)
    results = []
    for count in (1, 2, 3):
        threads(count)
        results.append(DenseCRF()(unary, image))
    assert np.array_equal(results[0], results[1]) and np.array_equal(results[0], results[2])


def test_inputs_of_all_kinds_give_the_same(rng):
    unary, image = _problem(rng)
    unary.flags.writeable = image.flags.writeable = False
    expected = DenseCRF()(unary, image)
    given = [
        (np.asfortranarray(unary), np.asfortranarray(image)),
        (unary.astype(np.float64), image.astype(np.float32)),
        (md.Tensor(unary), image.astype(np.int64)),
        (unary.tolist(), image.tolist()),
    ]
    for other in given:
        assert np.array_equal(DenseCRF()(*other), expected)
    grey = image[..., :1]
    assert np.array_equal(DenseCRF()(unary, grey[..., 0]), DenseCRF()(unary, grey))


# ---- odd images ----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1), (1, 17), (17, 1), (2, 2)], ids=str)
@pytest.mark.parametrize("labels", [1, 2])
def test_small_images(rng, shape, labels):
    unary, image = _problem(rng, shape, labels)
    q = DenseCRF()(unary, image)
    np.testing.assert_allclose(q.sum(axis=-1), 1, rtol=1e-5)
    if labels == 1:
        assert (q == 1).all()


def test_a_pixel_alone_hears_itself():
    """All of its weight, after normalisation: 3 + 4."""
    unary = np.array([[[0.2, 0.7]]], np.float32)
    kernel = np.ones((1, 1))
    expected = _naive_mean_field(unary[0], [kernel], [7 * (1 - np.eye(2))], 10)
    q = DenseCRF()(unary, np.zeros((1, 1, 3), np.uint8))
    np.testing.assert_allclose(q[0], expected, atol=1e-5)


def test_no_iterations_and_no_terms_give_the_softmax(rng):
    unary, image = _problem(rng)
    for model in (DenseCRF(iterations=0), DenseCRF([], 3)):
        np.testing.assert_allclose(model(unary, image), _softmax(-unary), atol=1e-6)


def test_a_constant_image_has_no_edges(rng):
    unary, image = _problem(rng)
    flat = np.full_like(image, 77)
    with_colour = DenseCRF([Bilateral(4, 3, 2)])(unary, flat)
    without = DenseCRF([Gaussian(4, 2)])(unary)
    np.testing.assert_allclose(with_colour, without, atol=0.05)


def test_huge_widths_see_the_mean_of_all(rng):
    unary, image = _problem(rng)
    q = DenseCRF([Gaussian(1e6, 1), Bilateral(1e6, 1e6, 1)], 3, "after")(unary, image)
    mean = np.full((99, 99), 1 / 99)
    expected = _naive_mean_field(unary.reshape(99, 3), [mean], [2 * (1 - np.eye(3))], 3)
    np.testing.assert_allclose(q.reshape(99, 3), expected, atol=1e-3)


def test_tiny_widths_see_only_themselves(rng):
    unary, image = _problem(rng)
    image = image.astype(np.float64) + rng.random(image.shape)
    for terms in ([Gaussian(1e-3, 2)], [Bilateral(1e-3, 1e-3, 2)]):
        q = DenseCRF(terms, 3)(unary, image)
        expected = _naive_mean_field(unary.reshape(99, 3), [np.eye(99)], [2 * (1 - np.eye(3))], 3)
        np.testing.assert_allclose(q.reshape(99, 3), expected, atol=1e-5)


def test_extreme_energies_stay_probabilities(rng):
    unary, image = _problem(rng)
    unary[2:5] *= 1e30
    q = DenseCRF()(unary, image)
    np.testing.assert_allclose(q.sum(axis=-1), 1, rtol=1e-5)


# ---- what it is for ------------------------------------------------------------------------


def test_a_noisy_segmentation_follows_the_image(rng):
    y, x = np.mgrid[:60, :80]
    mask = (x - 38) ** 2 + (y - 31) ** 2 < 400
    image = np.where(mask[..., None], [200, 90, 60], [60, 120, 190]) + rng.normal(0, 5, (60, 80, 3))
    moved = np.roll(mask, 3, axis=1)  # a network's idea: blurred, shifted, and noisy
    scores = np.where(moved, 1.0, -1) + rng.normal(0, 1.5, mask.shape)
    p = 1 / (1 + np.exp(-np.stack([-scores, scores], axis=-1)))
    refined = crf.dense_crf(p, image.clip(0, 255).astype(np.uint8)).argmax(axis=-1)

    def iou(found):
        return (found & mask).sum() / (found | mask).sum()

    assert iou(p.argmax(axis=-1)) < 0.6
    assert iou(refined) > 0.98


def test_a_frame_around_labels_given_by_hand(rng):
    """Strokes of two labels fill a picture of two colours."""
    image = np.full((20, 30, 3), 40, np.uint8)
    image[:, 13:] = 200
    strokes = np.full((20, 30), -100)
    strokes[10, 3:6], strokes[9, 20:25] = 0, 1
    unary = crf.unary_from_labels(strokes, 2, gt_prob=0.9)
    classes = crf.DenseCRF([Bilateral(30, 10, 10)])(unary, image).argmax(axis=-1)
    assert np.array_equal(classes, np.broadcast_to(np.arange(30) >= 13, (20, 30)))


def test_the_example_draws_a_better_segmentation(tmp_path):
    path = Path(md.__file__).parent.parent / "examples" / "dense_crf.py"
    spec = importlib.util.spec_from_file_location("dense_crf", path)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    before, after = example.main(tmp_path / "out.png", height=120, width=160)
    assert before < 0.9 and after > 0.97
    assert (tmp_path / "out.png").stat().st_size > 10_000


def test_unary_from_probabilities():
    p = np.array([[[0.25, 0.75], [0, 1], [1e-7, 1 - 1e-7]]])
    unary = crf.unary_from_probabilities(p)
    assert unary.dtype == np.float32
    floor = -np.log(1e-5)
    expected = [[[-np.log(0.25), -np.log(0.75)], [floor, 0], [floor, 0]]]
    np.testing.assert_allclose(unary, expected, atol=1e-6)
    assert crf.unary_from_probabilities(p, clip=0.5).max() == np.float32(np.log(2))


def test_unary_from_labels():
    unary = crf.unary_from_labels(np.array([[2, 0, 255]]), 3, gt_prob=0.8, ignore_index=255)
    assert unary.dtype == np.float32
    p = [[[0.1, 0.1, 0.8], [0.8, 0.1, 0.1], [1 / 3, 1 / 3, 1 / 3]]]
    np.testing.assert_allclose(np.exp(-unary), p, rtol=1e-6)
    assert np.array_equal(crf.unary_from_labels(np.array([[True, False]]), 2).argmax(-1), [[0, 1]])
    assert crf.unary_from_labels(np.zeros((1, 2), int), 1).shape == (1, 2, 1)


# ---- mistakes ------------------------------------------------------------------------------

GOOD = np.full((4, 5, 3), 1.0, np.float32)
IMAGE = np.full((4, 5, 3), 99, np.uint8)
BAD = GOOD.copy()
BAD[1, 2, 0] = np.nan
MISTAKES = [
    (GOOD[0], IMAGE, ValueError, r"unary must have shape \(H, W, C\).* has shape \(5, 3\)"),
    (GOOD[None], IMAGE, ValueError, "images go one by one"),
    (GOOD[:0], IMAGE[:0], ValueError, "none of them 0"),
    (GOOD.astype(int), IMAGE, TypeError, "unary must be floating, but has dtype int64"),
    (BAD, IMAGE, ValueError, "unary must be finite"),
    (np.full((4, 5, 3), 1e300), IMAGE, ValueError, "finite in float32"),
    (GOOD - 3, IMAGE, ValueError, "-ln p, at least 0, but one is -2.*softmax"),
    (GOOD, None, ValueError, "Bilateral term needs the image"),
    (GOOD, IMAGE[:3], ValueError, r"must have shape \(4, 5\), .* has shape \(3, 5, 3\)"),
    (GOOD, IMAGE[..., :2], ValueError, r"\(4, 5, 1\) or \(4, 5, 3\)"),
    (GOOD, IMAGE > 3, TypeError, "image must be numeric, but has dtype bool"),
    (GOOD, IMAGE * np.int32(3), ValueError, "ranges from 297 to 297. Rescale"),
    (GOOD, IMAGE - 100.0, ValueError, "ranges from -1.0 to -1.0"),
    (GOOD, IMAGE * np.nan, ValueError, "image must be finite"),
    (GOOD, IMAGE / 255, ValueError, r"scaled to 0..1. Multiply it by 255"),
]


@pytest.mark.parametrize("unary, image, error, message", MISTAKES)
def test_wrong_inputs(unary, image, error, message):
    with pytest.raises(error, match=message):
        DenseCRF()(unary, image)


SETTINGS = [
    ({"terms": [3]}, TypeError, "terms must be Gaussian or Bilateral, but one is 3"),
    ({"terms": Gaussian(0)}, ValueError, "Gaussian: sxy must be a positive number or 2.* is 0"),
    ({"terms": Gaussian((1, 2, 3))}, ValueError, r"sxy must be .* but is \(1, 2, 3\)"),
    ({"terms": Gaussian("wide")}, ValueError, "sxy must be .* but is 'wide'"),
    ({"terms": Bilateral(srgb=(3, 4))}, ValueError, "Bilateral: srgb must be .* or 3 of them"),
    ({"terms": Bilateral(srgb=np.inf)}, ValueError, "srgb must be a positive number"),
    ({"terms": Gaussian(1e-9)}, ValueError, "too narrow for this image"),
    ({"terms": Gaussian(compat=[1, 2])}, ValueError, r"shape \(3,\) or \(3, 3\) for 3 labels"),
    ({"terms": Gaussian(compat=np.nan)}, ValueError, "compat must be finite"),
    ({"terms": Gaussian(compat=np.triu(MU))}, ValueError, "compat must be symmetric"),
    ({"iterations": -1}, ValueError, "iterations must be an integer >= 0, but is -1"),
    ({"iterations": 2.5}, ValueError, "iterations must be an integer"),
    ({"normalization": "full"}, ValueError, "'symmetric', 'before', 'after' or None.*'full'"),
]


@pytest.mark.parametrize("settings, error, message", SETTINGS)
def test_wrong_settings(settings, error, message):
    with pytest.raises(error, match=message):
        DenseCRF(**settings)(GOOD, IMAGE)


def test_wrong_probabilities(rng):
    with pytest.raises(ValueError, match="range from -.* Take the softmax of logits first"):
        crf.dense_crf(rng.standard_normal((4, 5, 3)), IMAGE)
    with pytest.raises(ValueError, match="sums from 3 to 3"):
        crf.unary_from_probabilities(GOOD)
    with pytest.raises(TypeError, match="probabilities must be floating"):
        crf.unary_from_probabilities(IMAGE)
    with pytest.raises(ValueError, match=r"clip must be in \(0, 1\], but is 0"):
        crf.unary_from_probabilities(GOOD / 3, clip=0)


def test_wrong_labels():
    with pytest.raises(TypeError, match="labels must be integer, but have dtype float64"):
        crf.unary_from_labels(np.zeros((2, 2)), 2)
    with pytest.raises(ValueError, match=r"labels must have shape \(H, W\)"):
        crf.unary_from_labels(np.zeros(2, int), 2)
    with pytest.raises(ValueError, match=r"must be in 0..1 or -100, but one is 2"):
        crf.unary_from_labels(np.full((2, 2), 2), 2)
    with pytest.raises(ValueError, match="num_classes must be an integer >= 1, but is 0"):
        crf.unary_from_labels(np.zeros((2, 2), int), 0)
    with pytest.raises(ValueError, match="gt_prob must be between 0 and 1, but is 1"):
        crf.unary_from_labels(np.zeros((2, 2), int), 2, gt_prob=1)


def test_wrong_iterations_of_mean_field():
    with pytest.raises(ValueError, match="mean_field: iterations must be an integer >= 0"):
        crf.mean_field(U2, lambda q: q, True)


def test_repr_tells_the_settings():
    text = repr(DenseCRF([Gaussian(2, 1)], 4, None))
    assert text == "DenseCRF([Gaussian(sxy=2, compat=1)], iterations=4, normalization=None)"


# ---- without a compiler --------------------------------------------------------------------

PLAIN = """
import sys
sys.path.insert(0, {tests!r})
import test_crf as t
rng = t.np.random.default_rng(0)
t.test_lattice_is_the_one_of_dictionaries(rng, 3, 3)
t.test_a_pixel_alone_hears_itself()
t.test_mean_field_on_the_lattice(rng, 2.0, 2 * (1 - t.np.eye(3)), "symmetric")
print("equal")
"""


@pytest.mark.skipif(simd.DISABLED, reason="all tests run without a compiler already")
def test_as_plain_python():
    script = PLAIN.format(tests=str(Path(__file__).parent))
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True, text=True, env=os.environ | {"NUMBA_DISABLE_JIT": "1"},
        cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    assert result.stdout == "equal\n", result.stderr
