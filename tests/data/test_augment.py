"""Augmentation: image and mask move together, one map for everything, and seeds decide."""

import math

import numpy as np
import pytest
from folders import save

from minidl.data import Augmentation, Dataset, MaskKind, Normaliser, batches, find_pairs
from minidl.data.augment import PRESETS
from minidl.kernels.warp import cubic_taps, warp

STILL = np.zeros((5, 5, 2))
PLAIN = Normaliser((0.0,), (1.0,))


def _mirror(index, size):
    """By walking to and fro, one step at a time."""
    place, step = 0, 1
    for _ in range(abs(index)):
        if not 0 <= place + step < size:
            step = -step
        place = place + step if size > 1 else 0
    return place


def _naive(image, classes, size, affine, nodes, nowhere):
    """Pixel by pixel, with cubic polynomials through the nodes written out as in Keys' paper."""

    def keys(distance):
        s = abs(distance)
        if s < 1:
            return 1.5 * s**3 - 2.5 * s**2 + 1
        return -0.5 * s**3 + 2.5 * s**2 - 4 * s + 2 if s < 2 else 0.0

    rows, columns = nodes.shape[0] - 2, nodes.shape[1] - 2
    out = np.zeros((*size, image.shape[2]))
    labels = np.full(size, nowhere)
    for i in range(size[0]):
        for j in range(size[1]):
            at = affine @ (i, j, 1)
            down, across = i * (rows - 1) / (size[0] - 1), j * (columns - 1) / (size[1] - 1)
            for m in range(rows + 2):
                for n in range(columns + 2):
                    at = at + keys(down - (m - 1)) * keys(across - (n - 1)) * nodes[m, n]
            y, x = (math.floor(part) for part in at)
            for dy in (0, 1):
                for dx in (0, 1):
                    weight = (1 - abs(at[0] - y - dy)) * (1 - abs(at[1] - x - dx))
                    row, column = _mirror(y + dy, len(image)), _mirror(x + dx, image.shape[1])
                    out[i, j] += weight * image[row, column]
            y, x = (math.floor(part + 0.5) for part in at)
            if 0 <= y < len(image) and 0 <= x < image.shape[1]:
                labels[i, j] = classes[y, x]
    return out, labels


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.int16])
@pytest.mark.parametrize("channels", [1, 3])
def test_kernel_is_its_naive_twin(rng, dtype, channels):
    image = rng.integers(0, 200, (13, 17, channels)).astype(dtype)
    classes = rng.integers(0, 5, (13, 17)).astype(np.int8)
    affine = np.array([[0.8, 0.3, -2.3], [-0.4, 1.1, 3.7]])
    nodes = rng.normal(0, 4, (6, 5, 2))  # places lie up to twenty pixels outside
    out, labels = warp(image, classes, (9, 14), affine, nodes, -100)
    expected, wanted = _naive(image, classes, (9, 14), affine, nodes, -100)
    np.testing.assert_allclose(out, expected, atol=1e-3)
    np.testing.assert_array_equal(labels, wanted)
    assert (labels == -100).any() and (labels >= 0).any()
    assert out.dtype == np.float32 and labels.dtype == np.int32


@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (5, 1)])
def test_pictures_one_pixel_wide(rng, shape):
    image = rng.integers(0, 9, (*shape, 1)).astype(np.uint8)
    classes = np.zeros(shape, np.int8)
    affine = np.array([[1.0, 0.1, -3.2], [0.0, 1.0, -2.1]])
    out, labels = warp(image, classes, (6, 7), affine, STILL, -100)
    expected, wanted = _naive(image, classes, (6, 7), affine, STILL, -100)
    np.testing.assert_allclose(out, expected, atol=1e-4)
    np.testing.assert_array_equal(labels, wanted)


def test_cubic_taps_are_exact_for_parabolas():
    at, weights = cubic_taps(50, 4)
    place = np.arange(50) * 3 / 49
    nodes = np.arange(-1, 5)  # one more on each end
    for power in range(3):
        values = (weights * (nodes.astype(float) ** power)[at[:, None] + np.arange(4)]).sum(axis=1)
        np.testing.assert_allclose(values, place**power, atol=1e-12)
    assert cubic_taps(1, 3)[0].tolist() == [0]


def test_the_identity_changes_no_bit(rng):
    image = rng.integers(0, 65535, (20, 30, 2)).astype(np.uint16)
    classes = rng.integers(0, 3, (20, 30)).astype(np.int8)
    out, labels = warp(image, classes, (20, 30), np.eye(2, 3), STILL, -100)
    np.testing.assert_array_equal(out, image)
    np.testing.assert_array_equal(labels, classes)


def test_turns_and_flips_by_the_map_are_those_of_arrays(rng):
    image = rng.integers(0, 255, (8, 8, 1)).astype(np.uint8)
    classes = image[..., 0].astype(np.int16)
    vary = Augmentation(flips=True, turns=True)
    expected = {np.rot90(a, k).tobytes() for k in range(4) for a in (classes, classes[:, ::-1])}
    seen = set()
    for seed in range(80):
        out, labels = vary.crop(image, classes, (8, 8), (0, 0), np.random.default_rng(seed))
        np.testing.assert_array_equal(out[..., 0], labels)  # exact: nothing lies in between
        seen.add(labels.astype(np.int16).tobytes())
    assert seen == expected


def test_each_part_does_what_it_says():
    """Slopes of the coordinates that come out, beside the formula of each map."""
    rows, columns = np.mgrid[:81, :81].astype(np.float32)
    image = np.stack([rows, columns], axis=-1)
    classes = np.zeros((81, 81), np.int8)

    def map_of(seed, **options):
        vary = Augmentation(**options)
        crop, _ = vary.crop(image, classes, (21, 21), (30, 30), np.random.default_rng(seed))
        down, across = np.diff(crop, axis=0), np.diff(crop, axis=1)
        return crop[10, 10], down.mean(axis=(0, 1)), across.mean(axis=(0, 1))

    for seed in range(12):
        middle, down, across = map_of(seed, rotation=30)
        np.testing.assert_allclose(middle, 40, atol=1e-3)
        np.testing.assert_allclose(np.hypot(*down), 1, atol=1e-3)
        np.testing.assert_allclose(down @ across, 0, atol=1e-3)
        assert abs(np.degrees(np.arctan2(down[1], down[0]))) <= 30
        _, down, across = map_of(seed, scale=0.25)
        np.testing.assert_allclose([down[1], across[0]], 0, atol=1e-3)
        np.testing.assert_allclose(down[0], across[1], atol=1e-3)
        assert 1 / 1.2501 <= down[0] <= 1.2501
        _, down, across = map_of(seed, shear=20)
        np.testing.assert_allclose([down[0], *across], [1, 0, 1], atol=1e-3)
        assert abs(down[1]) <= math.tan(math.radians(20)) + 1e-3
        middle, down, _ = map_of(seed, shift=7)
        np.testing.assert_allclose(down, [1, 0], atol=1e-3)
        assert 0 < np.abs(middle - 40).max() <= 7
    assert len({map_of(seed, rotation=30)[1][1] for seed in range(12)}) == 12


def test_displacements_have_the_deviation_asked_for():
    vary = Augmentation(elastic=10)
    nodes = [vary.geometry(np.random.default_rng(k), (256, 256))[1] for k in range(200)]
    assert np.std(nodes) == pytest.approx(10, rel=0.03)
    # A crop of 48 pixels has its nodes 24 pixels apart: a twelfth of that.
    nodes = [vary.geometry(np.random.default_rng(k), (48, 90))[1] for k in range(200)]
    assert np.std(nodes) == pytest.approx(2, rel=0.03)


def test_grey_values(rng):
    x = rng.standard_normal((30, 30, 1)).astype(np.float32)
    for seed in range(8):
        y = Augmentation(gamma=0.5).shade(x.copy(), np.random.default_rng(seed))
        # The ends stay, and the logarithm of what lies between is stretched evenly.
        np.testing.assert_allclose([y.min(), y.max()], [x.min(), x.max()], rtol=1e-5)
        inside = (x > x.min() + 0.1) & (x < x.max() - 0.1)
        ratio = [np.log((a[inside] - x.min()) / np.ptp(x)) for a in (y, x)]
        slope = ratio[0] / ratio[1]
        assert np.ptp(slope) < 0.01 and 1 / 1.51 < slope.mean() < 1.51
    y = Augmentation(noise=0.4).shade(x.copy(), np.random.default_rng(3))
    assert 0 < np.std(y - x) <= 0.42 and abs(np.mean(y - x)) < 0.05
    flat = np.ones((3, 3, 1), np.float32)
    np.testing.assert_array_equal(Augmentation(gamma=0.5).shade(flat.copy(), rng), flat)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"rotation": 181}, "Augmentation: rotation=181, expected from 0 to 180"),
        ({"shear": 90}, "shear=90, expected from 0 to 90"),
        ({"contrast": 1.0}, "contrast=1.0, expected from 0 to 1"),
        ({"elastic": -1}, "elastic=-1, expected 0 or more, and finite"),
        ({"noise": math.nan}, "noise=nan, expected 0 or more, and finite"),
        ({"scale": math.inf}, "scale=inf, expected 0 or more, and finite"),
    ],
)
def test_ranges_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**options)


# ---- in batches ----------------------------------------------------------------------------


def _dataset(folder, count=5, shape=(40, 50)):
    rng = np.random.default_rng(0)
    for index in range(count):
        mask = np.zeros(shape, np.uint8)
        mask[index + 3 : index + 9, 5:12] = 255
        save(folder / f"p{index}.png", rng.integers(0, 255, shape).astype(np.uint8))
        save(folder / f"p{index}_mask.png", mask)
    return Dataset(find_pairs(folder), MaskKind(), PLAIN)


@pytest.mark.parametrize("name", ["elastic", "upright"])
def test_resuming_gives_the_same_bits(tmp_path, name):
    options = {"seed": 3, "augment": name, "foreground": 0.5}
    first = list(batches(_dataset(tmp_path), 2, 24, steps=6, **options))
    again = list(batches(_dataset(tmp_path), 2, 24, start=3, steps=6, **options))
    for (x, y), (u, v) in zip(first[3:], again, strict=True):
        np.testing.assert_array_equal(x, u)
        np.testing.assert_array_equal(y, v)
        assert x.dtype == np.float32 and y.dtype == np.int32 and set(np.unique(y)) <= {-100, 0, 1}


def test_an_augmentation_of_ones_own(tmp_path):
    dataset = _dataset(tmp_path)
    named = next(batches(dataset, 4, 16, augment="turns"))
    own = next(batches(dataset, 4, 16, augment=PRESETS["turns"]))
    np.testing.assert_array_equal(named[0], own[0])
    shifted = next(batches(dataset, 4, 16, augment=Augmentation(shift=5)))
    assert not np.array_equal(shifted[0], np.rint(shifted[0]))  # between pixels


def test_foreground_is_in_every_crop(tmp_path):
    dataset = _dataset(tmp_path)
    having = [y.any(axis=(1, 2)).mean() for _, y in batches(dataset, 5, 10, steps=20)]
    assert np.mean(having) < 0.4
    for _, y in batches(dataset, 5, 10, steps=20, foreground=1):
        assert y.any(axis=(1, 2)).all()
    some = [
        (y == 1).any(axis=(1, 2)).mean()
        for _, y in batches(dataset, 5, 10, steps=60, foreground=0.5)
    ]
    assert 0.5 < np.mean(some) < 0.85
    with pytest.raises(ValueError, match="foreground=1.5, expected 0..1"):
        batches(dataset, 1, 8, foreground=1.5)


def test_foreground_of_a_rare_class_is_as_probable(tmp_path):
    mask = np.zeros((60, 60), np.uint8)
    mask[:30] = 1
    mask[50, 50] = 2
    save(tmp_path / "a.png", mask)
    save(tmp_path / "a_mask.png", mask)
    dataset = Dataset(find_pairs(tmp_path), MaskKind(values=(0, 1, 2)), PLAIN)
    assert [len(places) for places in dataset.places(0)] == [1800, 1]
    found = [(y == 2).any() for _, y in batches(dataset, 1, 8, steps=200, foreground=1)]
    assert 0.4 < np.mean(found) < 0.65


def test_pictures_without_foreground_are_cut_anywhere(tmp_path):
    save(tmp_path / "a.png", np.zeros((9, 9), np.uint8))
    save(tmp_path / "a_mask.png", np.zeros((9, 9), np.uint8))
    dataset = Dataset(find_pairs(tmp_path), MaskKind(), PLAIN)
    assert next(batches(dataset, 1, 4, foreground=1))[1].shape == (1, 4, 4)
