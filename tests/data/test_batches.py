"""Batches: the same bits from the same seed, each picture once an epoch, masks untouched."""

import itertools

import numpy as np
import pytest
import tifffile
from folders import halves, neighbours, noise, save
from hypothesis import given, settings
from hypothesis import strategies as st

from minidl.data import (
    Augmentation,
    DataError,
    Dataset,
    MaskKind,
    Normaliser,
    WeightMap,
    batches,
    find_pairs,
    pad_to_multiple,
    weight_map,
)
from minidl.prefetch import prefetch

KIND = MaskKind(values=(0, 3, 255))
PLAIN = Normaliser((0.0,), (1.0,))


def _dataset(folder, sizes=((12, 16),) * 5, normaliser=PLAIN, **options):
    """Image and mask say the same thing, so that whatever is done to one is seen in the other."""
    rng = np.random.default_rng(0)
    for index, size in enumerate(sizes):
        raw = rng.choice(np.array(KIND.values, np.uint8), size)
        save(folder / f"p{index}.png", raw)
        save(folder / f"p{index}_mask.png", raw)
    return Dataset(find_pairs(folder), KIND, normaliser, **options)


def _equal(first, second):
    return all(
        np.array_equal(x, u) and np.array_equal(y, v)
        for (x, y), (u, v) in zip(first, second, strict=True)
    )


def test_shapes_and_types(tmp_path):
    x, y = next(batches(_dataset(tmp_path), 3, (8, 10)))
    assert x.shape == (3, 8, 10, 1) and x.dtype == np.float32 and x.flags.c_contiguous
    assert y.shape == (3, 8, 10) and y.dtype == np.int32 and y.flags.c_contiguous


@pytest.mark.parametrize("augment", ["turns", "elastic"])
def test_crops_are_normalised_like_the_image_they_are_of(tmp_path, augment):
    rng = np.random.default_rng(0)
    for index in range(4):  # the same scene, exposed in different ways
        raw = rng.integers(0, 50, (20, 24)).astype(np.uint16)
        for name, picture in (("dark", raw), ("bright", 900 * raw + 5000)):
            save(tmp_path / name / f"p{index}.png", picture)
            save(
                tmp_path / name / f"p{index}_mask.png", np.where(raw > 25, 255, 0).astype(np.uint8)
            )
    each = Normaliser((7.0,), (3.0,), each=True)
    dark, bright = (Dataset(find_pairs(tmp_path / n), KIND, each) for n in ("dark", "bright"))
    pairs = zip(*(batches(d, 2, 8, augment=augment, steps=5) for d in (dark, bright)), strict=True)
    for (x, y), (u, v) in pairs:
        np.testing.assert_allclose(x, u, atol=1e-4)
        np.testing.assert_array_equal(y, v)
    measured = Dataset(find_pairs(tmp_path / "dark"), KIND, each=True)
    for dataset in (dark, measured):
        np.testing.assert_allclose(dataset[1][0].mean(), 0, atol=1e-5)
        np.testing.assert_allclose(dataset[1][0].std(), 1, rtol=1e-5)


def test_what_is_not_kept_is_read_once_for_a_sample(tmp_path, monkeypatch):
    dataset = _dataset(tmp_path, cache_bytes=0)
    read, reads = Dataset._read, []
    monkeypatch.setattr(Dataset, "_read", lambda self, i: reads.append(i) or read(self, i))
    dataset[3]
    assert reads == [3]


@pytest.mark.parametrize("crop", [(8, 10), 20, (9, 30)])
def test_mask_moves_with_its_image_and_is_never_interpolated(tmp_path, crop):
    dataset = _dataset(tmp_path)
    for x, y in batches(dataset, 4, crop, steps=6):
        inside = y != -100
        np.testing.assert_array_equal(np.array(KIND.values)[y[inside]], x[..., 0][inside])
        height, width = (crop, crop) if isinstance(crop, int) else crop
        pixels = {min(height, h) * min(width, w) for h, w in ((12, 16), (16, 12))}
        assert set(inside.sum(axis=(1, 2)).tolist()) <= pixels


def test_small_image_is_mirrored(tmp_path):
    image = np.arange(6, dtype=np.uint8).reshape(2, 3)
    save(tmp_path / "a.png", image)
    save(tmp_path / "a_mask.png", np.zeros((2, 3), np.uint8))
    dataset = Dataset(find_pairs(tmp_path), MaskKind(), PLAIN)
    x, y = next(batches(dataset, 1, (4, 5), augment="none"))
    (top, *_), (left, *_) = np.nonzero(y[0] == 0)
    rows, columns = ([0, 1, 0, 1, 0], [0, 1, 2, 1, 0, 1, 2])
    expected = image[np.ix_(rows[top % 2 :][:4], [columns[(c - left) % 4] for c in range(5)])]
    np.testing.assert_array_equal(x[0, ..., 0], expected)


def test_same_seed_same_bits_and_resume_in_the_middle(tmp_path):
    options = {"brightness": 0.3, "contrast": 0.2}
    first = list(batches(_dataset(tmp_path), 3, 8, seed=5, steps=7, **options))
    assert _equal(first, list(batches(_dataset(tmp_path), 3, 8, seed=5, steps=7, **options)))
    again = batches(_dataset(tmp_path), 3, 8, seed=5, start=4, steps=7, **options)
    assert _equal(first[4:], list(again))
    other = list(batches(_dataset(tmp_path), 3, 8, seed=6, steps=7, **options))
    assert not _equal(first, other)
    assert not any(np.array_equal(first[0][0], x) for x, _ in first[1:])


def test_cache_does_not_change_anything(tmp_path):
    kept, unkept = _dataset(tmp_path), _dataset(tmp_path, cache_bytes=500)
    assert _equal(batches(kept, 2, 8, steps=6), batches(unkept, 2, 8, steps=6))
    assert len(kept.cache) == 5 and len(unkept.cache) == 1


def test_each_epoch_is_a_permutation(tmp_path):
    for index in range(5):
        save(tmp_path / f"p{index}.png", np.full((4, 4), index, np.uint8))
        save(tmp_path / f"p{index}_mask.png", halves(size=(4, 4)))
    dataset = Dataset(find_pairs(tmp_path), MaskKind(), PLAIN)
    stream = itertools.islice(batches(dataset, 2, None), 10)
    order = [int(image.max()) for x, _ in stream for image in x]
    epochs = [tuple(order[k : k + 5]) for k in range(0, 20, 5)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len(set(epochs)) > 1


def test_all_eight_turns_occur_and_none_without_augment(tmp_path):
    save(tmp_path / "a.png", np.arange(9, dtype=np.uint8).reshape(3, 3))
    save(tmp_path / "a_mask.png", np.zeros((3, 3), np.uint8))
    dataset = Dataset(find_pairs(tmp_path), MaskKind(), PLAIN)
    seen = {x.tobytes() for x, _ in batches(dataset, 1, None, steps=100)}
    assert len(seen) == 8
    assert len({x.tobytes() for x, _ in batches(dataset, 1, None, steps=9, augment="none")}) == 1


def test_mirroring_keeps_what_is_on_top(tmp_path):
    save(tmp_path / "a.png", np.arange(9, dtype=np.uint8).reshape(3, 3))
    save(tmp_path / "a_mask.png", np.zeros((3, 3), np.uint8))
    dataset = Dataset(find_pairs(tmp_path), MaskKind(), PLAIN)
    seen = {x[0, ..., 0].astype(int).tobytes() for x, _ in batches(
        dataset, 1, None, steps=30, augment="mirror")}  # fmt: skip
    plain = np.arange(9).reshape(3, 3)
    assert seen == {plain.tobytes(), plain[:, ::-1].tobytes()}
    with pytest.raises(ValueError, match=r"batches: augment='flip', expected one of \('turns'"):
        batches(dataset, 1, None, augment="flip")


def test_whole_oblong_images_keep_their_shape(tmp_path):
    for x, _ in batches(_dataset(tmp_path), 2, None, steps=8):
        assert x.shape == (2, 12, 16, 1)


def test_sizes_that_do_not_stack(tmp_path):
    dataset = _dataset(tmp_path, sizes=((12, 16), (10, 16)))
    with pytest.raises(DataError, match=r"sizes \[\(10, 16\), \(12, 16\)\] in one batch. Give a "):
        next(batches(dataset, 2, None))
    assert next(batches(dataset, 1, None))[0].shape[0] == 1


def test_jitter_keeps_its_range(tmp_path):
    neighbours(tmp_path, 2)
    dataset = Dataset(find_pairs(tmp_path), MaskKind())
    plain = batches(dataset, 2, None, steps=5)
    for (x, _), (u, _) in zip(
        plain, batches(dataset, 2, None, steps=5, brightness=0.5), strict=True
    ):
        shift = (u - x).reshape(2, -1)
        assert np.ptp(shift, axis=1).max() < 1e-5 and np.abs(shift).max() <= 0.5 + 1e-5
        assert np.abs(shift).min() > 0


def test_arguments_are_checked_at_once(tmp_path):
    dataset = _dataset(tmp_path)
    for options, message in (
        ({"batch_size": 0}, "batch_size=0, expected 1 or more"),
        ({"crop": 0}, r"crop=0, expected pixels, \(height, width\), or None"),
        ({"crop": (3, 4, 5)}, r"crop=\(3, 4, 5\)"),
        ({"seed": -1}, "seed=-1, expected 0 or more"),
        ({"start": 5, "steps": 3}, "steps=3, expected at least start=5"),
        ({"start": -1}, "start=-1"),
        ({"brightness": -1.0}, "brightness=-1.0"),
        ({"contrast": 1.0}, "contrast=1.0, expected from 0 to below 1"),
    ):
        with pytest.raises(ValueError, match=message):
            batches(**{"dataset": dataset, "batch_size": 1, "crop": 4, **options})


def test_dataset(tmp_path):
    dataset = _dataset(tmp_path, normaliser=None)
    x, y = dataset[-1]
    assert len(dataset) == 5 and dataset.name(4) == "p4"
    assert x.dtype == np.float32 and y.dtype == np.int32 and x.shape == (*y.shape, 1)
    assert not any(array.flags.writeable for array in dataset.raw(0))
    assert len(list(dataset)) == 5  # stops by IndexError
    with pytest.raises(DataError, match="no pairs"):
        Dataset([], KIND)


def test_pages_are_samples(tmp_path):
    stack = np.stack([noise(k) for k in range(3)])
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack")
    tifffile.imwrite(tmp_path / "a_mask.tif", np.stack([halves()] * 3), photometric="minisblack")
    dataset = Dataset(find_pairs(tmp_path), MaskKind(), PLAIN)
    assert [dataset.name(k) for k in range(len(dataset))] == ["a[0]", "a[1]", "a[2]"]
    np.testing.assert_array_equal(dataset[2][0][..., 0], stack[2])
    tifffile.imwrite(tmp_path / "a_mask.tif", np.stack([halves()] * 2), photometric="minisblack")
    with pytest.raises(DataError, match=r"a\.tif has 3 pages, .*a_mask\.tif has 2"):
        Dataset(find_pairs(tmp_path), MaskKind(), PLAIN)


def test_pair_of_different_sizes_is_named(tmp_path):
    save(tmp_path / "a.png", noise(size=(4, 5)))
    save(tmp_path / "a_mask.png", halves(size=(5, 4)))
    with pytest.raises(DataError, match=r"a\.png is 4 x 5 .*a_mask\.png is 5 x 4"):
        Dataset(find_pairs(tmp_path), MaskKind())


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 33))
def test_padding_is_least_and_undone_by_its_slices(height, width, multiple):
    image = np.arange(height * width, dtype=np.int32).reshape(height, width, 1)
    padded, crop = pad_to_multiple(image, multiple)
    assert all(side % multiple == 0 for side in padded.shape[:2])
    assert padded.shape[0] - height < multiple and padded.shape[1] - width < multiple
    np.testing.assert_array_equal(padded[crop], image)
    assert not np.shares_memory(padded, image)


def test_padding_refuses():
    with pytest.raises(ValueError, match="multiple=0, expected 1 or more"):
        pad_to_multiple(np.zeros((3, 3, 1)), 0)
    with pytest.raises(ValueError, match=r"shape \(3, 3\), expected \(H, W, C\)"):
        pad_to_multiple(np.zeros((3, 3)), 2)


def test_any_batch_can_be_asked_for_by_its_number(tmp_path):
    dataset = _dataset(tmp_path)
    stream = batches(dataset, 3, 8, start=2, steps=9)
    assert (stream.start, stream.stop, stream.pictures) == (2, 9, 5)
    late = [stream[number] for number in (8, 0, 4)]
    every = list(batches(dataset, 3, 8, steps=9))
    assert _equal(late, [every[8], every[0], every[4]])
    assert _equal(list(stream), every[2:])
    with pytest.raises(IndexError, match="batch 9, expected 0 to below 9"):
        stream[9]


def test_bits_do_not_depend_on_the_number_of_threads(tmp_path):
    dataset = _dataset(tmp_path, cache_bytes=700)
    options = {"augment": "elastic", "foreground": 0.5, "weights": WeightMap(), "steps": 12}
    streams = []
    for workers in (1, 4):
        with prefetch(batches(dataset, 3, 8, **options), workers=workers) as items:
            streams.append(list(items))
    for one, other in zip(*streams, strict=True):
        assert all(a.tobytes() == b.tobytes() for a, b in zip(one, other, strict=True))


def _half_empty(folder, front=4, empty=12):
    for index in range(front + empty):
        save(folder / f"p{index:02}.png", np.full((4, 4), index, np.uint8))
        mask = halves(size=(4, 4)) if index < front else np.zeros((4, 4), np.uint8)
        save(folder / f"p{index:02}_mask.png", mask)
    return Dataset(find_pairs(folder), MaskKind(), PLAIN)


@pytest.mark.parametrize("share, kept", [(0.0, 0), (0.2, 1), (0.5, 4), (0.7, 9), (0.9, 12)])
def test_empty_pictures_are_drawn_less_often(tmp_path, share, kept):
    stream = batches(_half_empty(tmp_path), 1, None, empty=share)
    assert stream.pictures == 4 + kept
    epochs = [
        sorted(int(stream[e * stream.pictures + k][0].max()) for k in range(stream.pictures))
        for e in range(12)
    ]
    for epoch in epochs:
        assert epoch[:4] == [0, 1, 2, 3] and len(set(epoch)) == 4 + kept
    # In turn: after as many epochs as there are empty pictures each has come equally often.
    seen = [index for epoch in epochs for index in epoch if index >= 4]
    assert {seen.count(index) for index in range(4, 16)} == {kept}


def test_without_foreground_anywhere_empty_pictures_are_all_there_is(tmp_path):
    dataset = _half_empty(tmp_path, front=0)
    assert batches(dataset, 1, None, empty=0.1).pictures == 12
    with pytest.raises(ValueError, match=r"empty=1\.0, expected from 0 to below 1"):
        batches(dataset, 1, None, empty=1.0)


def _weighty(folder, **kind):
    """A set whose images say what the weight of each pixel is, in hundredths."""
    rng = np.random.default_rng(4)
    for index in range(3):
        numbers = np.zeros((40, 50), np.uint16)
        for number in range(1, 9):
            row, column = rng.integers(0, 34), rng.integers(0, 44)
            numbers[row : row + 6, column : column + 6] = number
        save(folder / f"p{index}.png", noise(index, numbers.shape))
        save(folder / f"p{index}_mask.png", numbers if kind else (numbers > 0).astype(np.uint8))
    kind = MaskKind(dtype="uint16", values=(0, 1), **kind) if kind else MaskKind(values=(0, 1))
    plain = Dataset(find_pairs(folder), kind, PLAIN)
    recipe = WeightMap(class_weights=(1.0, 3.0), sigma=3.0)
    for index in range(3):
        weights = np.rint(plain.weights(index, recipe) * 100).astype(np.uint16)
        save(folder / f"p{index}.png", weights)
    return Dataset(find_pairs(folder), kind, PLAIN), recipe


@pytest.mark.parametrize("kind", [{}, {"instances": True}], ids=str)
@pytest.mark.parametrize("crop", [24, (60, 30), None])
def test_weights_move_with_their_image(tmp_path, kind, crop):
    dataset, recipe = _weighty(tmp_path, **kind)
    heavy = 0
    for x, y, w in batches(dataset, 2, crop, steps=10, weights=recipe):
        assert w.shape == y.shape and w.dtype == np.float32 and w.flags.c_contiguous
        inside = y != -100
        np.testing.assert_allclose(w[inside], x[..., 0][inside] / 100, atol=0.0051)
        assert not w[~inside].any()
        heavy += np.count_nonzero(w[y == 0] > 2)
    assert heavy > 10  # gaps between objects


@pytest.mark.parametrize("kind", [{}, {"instances": True}], ids=str)
def test_deformed_weights_are_those_of_the_pixel_whose_class_is_taken(tmp_path, kind):
    dataset, recipe = _weighty(tmp_path, **kind)
    known = {
        (int(c), float(w))
        for k in range(3)
        for c, w in zip(dataset.raw(k)[1].ravel(), dataset.weights(k, recipe).ravel(), strict=True)
    } | {(-100, 0.0)}
    augment = Augmentation(rotation=180, scale=0.3, elastic=3, flips=True)
    close, count = 0, 0
    for x, y, w in batches(dataset, 2, 24, steps=10, augment=augment, weights=recipe):
        assert {(int(c), float(v)) for c, v in zip(y.ravel(), w.ravel(), strict=True)} <= known
        close += np.count_nonzero(np.abs(w - x[..., 0] / 100)[y != -100] < 0.5)
        count += np.count_nonzero(y != -100)
    assert close > 0.8 * count  # the image is interpolated, and says the same but at edges


def test_weights_know_objects_beyond_the_crop_and_balance_the_set(tmp_path):
    image = np.zeros((20, 40), np.uint8)
    mask = image.copy()
    mask[:, :10] = mask[:, 14:] = 255
    save(tmp_path / "a.png", image)
    save(tmp_path / "a_mask.png", mask)
    save(tmp_path / "b.png", image)
    save(tmp_path / "b_mask.png", image)
    dataset = Dataset(find_pairs(tmp_path), MaskKind(), PLAIN)
    background, front = (40 + 4) * 20, 36 * 20
    balance = 1600 / (2 * background), 1600 / (2 * front)
    whole = weight_map(mask // 255, class_weights=balance)
    stream = batches(dataset, 1, (20, 4), steps=200, augment="none", weights=WeightMap())
    cuts = {w.tobytes() for _, _, w in stream}
    expected = [whole[:, k : k + 4] for k in range(37)] + [np.full((20, 4), balance[0])]
    assert cuts <= {np.float32(part).tobytes() for part in expected} and len(cuts) > 6
    np.testing.assert_array_equal(dataset.class_counts(), [background, front])
    with pytest.raises(ValueError, match="3 class_weights, expected 2, one for each class"):
        batches(dataset, 1, 4, weights=WeightMap(class_weights=(1, 2, 3)))
    with pytest.raises(ValueError, match="sigma=0"):
        WeightMap(sigma=0)


def test_pixels_outside_the_region_do_not_count(tmp_path):
    inside = np.tri(12, 16, 3, bool)
    for k in range(2):
        save(tmp_path / "images" / f"p{k}.png", noise(k))
        save(tmp_path / "masks" / f"p{k}.png", halves())
        save(tmp_path / "region" / f"p{k}.png", inside)
    dataset = Dataset(find_pairs(tmp_path), MaskKind(), PLAIN)
    np.testing.assert_array_equal(dataset[0][1], np.where(inside, halves() > 0, -100))
    assert dataset.weights(0, WeightMap())[~inside].max() == 0
    assert dataset.class_counts(1).sum() == inside.sum()
    save(tmp_path / "region" / "p1.png", halves(size=(3, 3)))
    with pytest.raises(DataError, match=r"region/p1\.png is 3 x 3 .*, the mask 12 x 16"):
        Dataset(find_pairs(tmp_path), MaskKind())
    save(tmp_path / "region" / "p1.png", halves(value=0))
    with pytest.raises(
        DataError, match=r"region/p1\.png: all 0, so that no pixel of p1\.png counts"
    ):
        Dataset(find_pairs(tmp_path), MaskKind())
