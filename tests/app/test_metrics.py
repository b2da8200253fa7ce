"""Scores against counting pixel by pixel."""

import numpy as np
import pytest

from minidl import metrics


def counted(prediction, target, classes):
    """The confusion matrix, one pixel after the other."""
    matrix = [[0] * classes for _ in range(classes)]
    for p, t in zip(prediction.ravel().tolist(), target.ravel().tolist(), strict=True):
        if t != -100:
            matrix[t][p] += 1
    return np.array(matrix)


def drawn(seed, classes, shape=(3, 11, 13), dtype=np.int64):
    rng = np.random.default_rng(seed)
    target = rng.integers(0, classes, shape)
    prediction = np.where(rng.random(shape) < 0.6, target, rng.integers(0, classes, shape))
    return prediction.astype(dtype), target.astype(dtype)


@pytest.mark.parametrize("classes", [1, 2, 5])
@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64])
def test_confusion_matrix_counts_every_pixel(classes, dtype):
    prediction, target = drawn(classes, classes, dtype=dtype)
    matrix = metrics.confusion_matrix(prediction, target, classes)
    assert matrix.dtype == np.int64
    np.testing.assert_array_equal(matrix, counted(prediction, target, classes))


def test_confusion_matrix_keeps_rows_for_the_target():
    matrix = metrics.confusion_matrix(np.array([1, 1]), np.array([0, 0]), 2)
    np.testing.assert_array_equal(matrix, [[0, 2], [0, 0]])


def test_confusion_matrix_leaves_ignored_pixels_out_even_where_the_prediction_is_odd():
    prediction, target = drawn(0, 3)
    target[0], prediction[0] = -100, 77
    matrix = metrics.confusion_matrix(prediction, target, 3)
    np.testing.assert_array_equal(matrix, counted(prediction[1:], target[1:], 3))
    target[1] = 255
    matrix = metrics.confusion_matrix(prediction[1:], target[1:], 3, ignore_index=255)
    np.testing.assert_array_equal(matrix, counted(prediction[2:], target[2:], 3))


def test_confusion_matrix_of_two_sets_is_the_sum():
    prediction, target = drawn(1, 4)
    parts = [metrics.confusion_matrix(p, t, 4) for p, t in zip(prediction, target, strict=True)]
    np.testing.assert_array_equal(sum(parts), metrics.confusion_matrix(prediction, target, 4))


def test_confusion_matrix_of_nothing_is_zero():
    empty = np.zeros((0, 4), dtype=int)
    np.testing.assert_array_equal(metrics.confusion_matrix(empty, empty, 2), np.zeros((2, 2)))


def naive_scores(prediction, target, classes):
    """Dice, IoU and accuracy of each class by sets of pixel positions."""
    kept = [i for i, t in enumerate(target.ravel()) if t != -100]
    scores = []
    for c in range(classes):
        said = {i for i in kept if prediction.ravel()[i] == c}
        true = {i for i in kept if target.ravel()[i] == c}
        dice = 2 * len(said & true) / (len(said) + len(true)) if said or true else np.nan
        iou = len(said & true) / len(said | true) if said or true else np.nan
        recall = len(said & true) / len(true) if true else np.nan
        scores.append((dice, iou, recall, len(true)))
    return np.array(scores).T


@pytest.mark.parametrize("classes", [2, 4])
def test_scores_equal_those_of_sets_of_pixels(classes):
    prediction, target = drawn(2, classes)
    target[0, :2] = -100
    matrix = metrics.confusion_matrix(prediction, target, classes)
    dice, iou, recall, pixels = naive_scores(prediction, target, classes)
    np.testing.assert_allclose(metrics.dice(matrix), dice)
    np.testing.assert_allclose(metrics.iou(matrix), iou)
    np.testing.assert_allclose(metrics.class_accuracy(matrix), recall)
    right = ((prediction == target) & (target != -100)).sum() / (target != -100).sum()
    assert metrics.pixel_accuracy(matrix) == pytest.approx(right)
    assert metrics.mean_iou(matrix) == pytest.approx(iou.mean())
    assert metrics.mean_dice(matrix) == pytest.approx(dice.mean())
    assert metrics.mean_dice(matrix, [1]) == pytest.approx(dice[1])
    weighted = (pixels * iou).sum() / pixels.sum()
    assert metrics.frequency_weighted_iou(matrix) == pytest.approx(weighted)


def test_a_class_that_does_not_occur_has_no_score_and_enters_no_mean():
    matrix = np.array([[8, 0, 2], [0, 0, 0], [1, 0, 9]])
    assert np.isnan(metrics.dice(matrix)).tolist() == [False, True, False]
    assert np.isnan(metrics.iou(matrix)).tolist() == [False, True, False]
    assert metrics.mean_iou(matrix) == pytest.approx((8 / 11 + 9 / 12) / 2)
    assert metrics.frequency_weighted_iou(matrix) == pytest.approx((8 / 11 + 9 / 12) / 2)
    assert np.isnan(metrics.mean_dice(matrix, [1]))


def test_a_class_that_is_only_predicted_scores_zero_but_has_no_accuracy():
    matrix = np.array([[8, 2], [0, 0]])
    assert metrics.dice(matrix)[1] == 0
    assert metrics.iou(matrix)[1] == 0
    assert np.isnan(metrics.class_accuracy(matrix)[1])
    assert metrics.frequency_weighted_iou(matrix) == pytest.approx(0.8)


def test_no_pixels_give_nan_without_a_warning():
    nothing = np.zeros((2, 2), dtype=np.int64)
    for score in (metrics.pixel_accuracy, metrics.mean_iou, metrics.mean_dice):
        assert np.isnan(score(nothing))
    assert np.isnan(metrics.frequency_weighted_iou(nothing))


def test_dice_and_iou_keep_their_relation():
    matrix = metrics.confusion_matrix(*drawn(3, 5), 5)
    iou = metrics.iou(matrix)
    np.testing.assert_allclose(metrics.dice(matrix), 2 * iou / (1 + iou))


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [([90, 10], [1]), ([22, 78], [0]), ([50, 50], [0, 1]), ([40, 35, 25], [0, 1, 2]),
     ([93, 3, 4], [1, 2])],
)  # fmt: skip
def test_foreground_is_all_but_a_class_with_most_of_the_pixels(pixels, expected):
    assert metrics.foreground_classes(np.array(pixels)) == expected


def test_errors_name_what_is_wrong():
    zeros = np.zeros((2, 3), dtype=int)
    with pytest.raises(ValueError, match=r"prediction has shape \(2, 3\), target \(3, 2\)"):
        metrics.confusion_matrix(zeros, zeros.T, 2)
    with pytest.raises(ValueError, match=r"class 2 in target, expected 0\.\.1"):
        metrics.confusion_matrix(zeros, zeros + 2, 2)
    with pytest.raises(ValueError, match=r"class -1 in prediction, expected 0\.\.1"):
        metrics.confusion_matrix(zeros - 1, zeros, 2)
    with pytest.raises(TypeError, match="prediction has dtype float64.*argmax"):
        metrics.confusion_matrix(zeros * 1.0, zeros, 2)
