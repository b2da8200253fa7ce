"""Class weights, loss, crop and oversampling."""

import numpy as np
import pytest

from minidl.data import Pair
from minidl.doctor.advice import advise, class_frequencies, median_frequency_weights
from minidl.doctor.survey import Survey, subjects


def test_median_frequency_of_the_paper():
    np.testing.assert_allclose(median_frequency_weights([0.6, 0.3, 0.1]), [0.5, 1, 3])


def test_frequencies_count_only_the_images_that_contain_a_class():
    counts = [[60, 40, 0], [100, 0, 0], [20, 0, 0]]
    np.testing.assert_allclose(class_frequencies(counts), [180 / 220, 40 / 100, np.nan])
    np.testing.assert_allclose(
        median_frequency_weights(class_frequencies(counts)),
        [(180 / 220 + 0.4) / 2 / (180 / 220), (180 / 220 + 0.4) / 2 / 0.4, 1],
    )


def pictures(masks):
    survey = Survey()
    for number, mask in enumerate(masks):
        pair = Pair(None, None, f"p{number}")
        survey(pair, 0, "mask", np.asarray(mask, np.uint8))
        survey(pair, 0, "image", np.zeros((*mask.shape, 1), np.uint8))
    return survey.pictures


def square(side, size=(600, 800), at=(100, 200), value=1):
    mask = np.zeros(size, np.uint8)
    mask[at[0] : at[0] + side, at[1] : at[1] + side] = value
    return mask


@pytest.mark.parametrize(
    "side, loss, crop",
    [(300, "cross_entropy", (480, 512)), (60, "cross_entropy+dice", (256, 256)),
     (170, "cross_entropy+dice", (352, 352))],
)  # fmt: skip
def test_loss_and_crop_follow_the_size_of_what_is_sought(side, loss, crop):
    mask = square(side, at=(50, 50))
    if side == 300:
        mask = mask[:500, :700]
    advice = advise(pictures([mask] * 4), (0, 1))
    assert (advice.loss, advice.crop, advice.foreground) == (loss, crop, (1,))


def test_small_images_are_taken_whole():
    advice = advise(pictures([square(20, (200, 250), (30, 30))] * 3), (0, 1))
    assert advice.crop == (208, 256) and advice.oversample == 0


def test_lines_are_thin_though_their_box_is_large():
    mask = np.zeros((600, 600), np.uint8)
    mask[np.arange(600), np.arange(600)] = 1
    mask[300, :] = 1
    assert advise(pictures([mask] * 2), (0, 1)).crop == (256, 256)


def test_several_rare_classes_are_weighted():
    mask = np.zeros((400, 400), np.uint8)
    mask[:150], mask[150:250] = 1, 2
    mask[250:260, :40], mask[270:280, :40] = 3, 4
    advice = advise(pictures([mask]), (0, 1, 2, 3, 4))
    assert advice.loss == "cross_entropy+dice, weighted"
    shares = [np.mean(mask == value) for value in range(5)]
    np.testing.assert_allclose(advice.class_weights, np.median(shares) / shares)


def test_share_of_crops_that_hit_equals_counting_all_places():
    mask = square(20, (400, 350), (350, 10))
    advice = advise(pictures([mask, np.zeros_like(mask)]), (0, 1))
    height, width = advice.crop
    hits = [
        bool(mask[row : row + height, column : column + width].any())
        for row in range(400 - height + 1)
        for column in range(350 - width + 1)
    ]
    np.testing.assert_allclose(advice.hit, np.mean(hits) / 2)
    # With this share drawn on purpose, half of the crops hold some.
    after = advice.oversample + (1 - advice.oversample) * advice.hit
    assert 0.5 <= after < 0.56


def test_subjects_need_numbers_behind_a_mark_and_more_than_one_group():
    assert subjects([f"{who}_{k}" for who in (1, 12) for k in range(3)])["12_2"] == "12"
    assert subjects(["pat-a-im1", "pat-a-im2", "pat-b-im1", "pat-b-im2"])["pat-b-im1"] == "pat-b"
    assert subjects(["scan_1", "scan_2"]) == {}
    assert subjects(["001", "002"]) == {}
    assert subjects(["a_1", "b_1", "c_1"]) == {}
