"""Thumbnails and which of them are alike."""

import numpy as np
import pytest

from minidl.doctor.lookalike import SIDE, find_lookalikes, fingerprint, thumbnail


def blobs(seed, size=(64, 80)):
    """A smooth random picture: eight by eight values, stretched."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8))
    rows, columns = (np.arange(side) * 8 // side for side in size)
    return coarse[np.ix_(rows, columns)].astype(np.uint8)[..., None]


def looked(images, parts=None):
    thumbs = np.stack([thumbnail(image) for image in images])
    parts = [-1] * len(images) if parts is None else parts
    return find_lookalikes(thumbs, [fingerprint(image) for image in images], parts)


@pytest.mark.parametrize("size, channels", [((64, 96), 1), ((50, 37), 3), ((32, 32), 1)])
def test_thumbnail_is_the_mean_over_areas(size, channels):
    image = np.random.default_rng(0).integers(0, 65536, (*size, channels)).astype(np.uint16)
    small = thumbnail(image)
    edges = [[k * side // SIDE for k in range(SIDE + 1)] for side in size]
    for row, column in ((0, 0), (5, 17), (31, 31)):
        area = image[edges[0][row] : edges[0][row + 1], edges[1][column] : edges[1][column + 1]]
        np.testing.assert_allclose(small[row, column], area.mean(), rtol=1e-6)


def test_a_side_shorter_than_the_thumbnail_repeats_pixels():
    image = np.arange(4, dtype=np.uint8).reshape(2, 2, 1)
    small = thumbnail(image)
    assert small.shape == (SIDE, SIDE)
    assert small[0, 0] == 0 and small[0, -1] == 1 and small[-1, 0] == 2 and small[-1, -1] == 3


def test_fingerprints_tell_every_pixel_the_shape_and_the_type():
    image = blobs(0)
    other = image.copy()
    other[3, 3] ^= 1
    same = {fingerprint(image), fingerprint(image.copy()), fingerprint(image[::-1][::-1])}
    different = {
        fingerprint(one) for one in (image, other, image.reshape(32, 160, 1), image.view(np.int8))
    }
    assert len(same) == 1 and len(different) == 4 and len(next(iter(same))) == 16


def test_copies_brighter_ones_mirrored_ones_and_strangers():
    brighter = (0.5 * blobs(1) + 60).astype(np.uint8)
    mirrored = np.ascontiguousarray(blobs(2)[:, ::-1])
    turned = np.ascontiguousarray(blobs(3)[::-1, ::-1])
    images = [blobs(0), blobs(0), blobs(1), brighter, blobs(2), mirrored, blobs(3), turned]
    found = looked([*images, blobs(9)])
    assert found.partner[:8].tolist() == [1, 0, 3, 2, 5, 4, 7, 6]
    assert found.score[:2].tolist() == [1, 1] and (found.score[2:8] > 0.999).all()
    assert found.score[8] < 0.6
    assert found.group.tolist() == [0, 0, 2, 2, 4, 4, 6, 6, 8]


def test_groups_reach_over_others():
    """Each film frame is like the next one, the first is not like the last."""
    weights = np.linspace(0, 1, 16)
    frames = [((1 - w) * blobs(0) + w * blobs(1)).astype(np.uint8) for w in weights]
    found = looked([*frames, *(blobs(seed) for seed in range(5, 15))])
    assert found.group.tolist() == [0] * 16 + list(range(16, 26))
    assert set(found.partner[[0, 15]]) == {1, 14}


def test_what_all_have_in_common_does_not_count():
    """A bright disc on black in every image must not make all of them alike."""
    row, column = np.mgrid[:64, :64]
    inside = ((row - 32) ** 2 + (column - 32) ** 2 < 900)[..., None]
    images = [np.where(inside, 120 + blobs(seed, (64, 64)) // 8, 0) for seed in range(12)]
    raw = np.stack([thumbnail(image).ravel() for image in images])
    assert np.corrcoef(raw).min() > 0.95
    assert looked(images).score.max() < 0.95


def test_across_looks_into_the_other_part_only():
    images = [blobs(0), blobs(0), blobs(1), blobs(0), blobs(2)]
    found = looked(images, [0, 0, 1, 1, -1])
    assert found.across.tolist()[:2] == [3, 3] and found.across[3] in (0, 1)
    assert found.across_score[3] == 1 and found.across_score[2] < 0.9
    assert found.across[4] == -1 and found.partner[0] == 1


def test_constant_images_are_like_nothing_and_one_image_is_alone():
    flat = np.full((40, 40, 1), 7, np.uint8)
    found = looked([flat, flat, blobs(0)])
    assert found.group.tolist() == [0, 1, 2] and found.score[:2].max() <= 0
    alone = looked([blobs(0)])
    assert alone.partner.tolist() == [-1] and alone.group.tolist() == [0]


def test_more_pictures_than_a_block_and_progress():
    images = [blobs(seed, (32, 32)) for seed in range(300)]
    images[299] = images[3]
    told = []
    thumbs = np.stack([thumbnail(image) for image in images])
    keys = [fingerprint(image) for image in images]
    found = find_lookalikes(thumbs, keys, [0] * 300, progress=lambda *now: told.append(now))
    assert found.partner[299] == 3 and found.partner[3] == 299 and found.group[299] == 3
    assert told == [(256, 300), (300, 300)]
    assert np.count_nonzero(found.group != np.arange(300)) == 1
