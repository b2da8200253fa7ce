"""Which images are shown, and what is written at them."""

import numpy as np
import pytest
from PIL import Image

from minidl import gallery
from minidl.data import Dataset, check_folder
from minidl.segmenter import Segmenter


class Set:
    """A data set of which only the masks matter."""

    def __init__(self, full):
        self.full = full

    def __len__(self):
        return len(self.full)

    def raw(self, index):
        return None, np.full((2, 2), int(self.full[index]))


@pytest.mark.parametrize(
    ("full", "count", "expected"),
    [
        ([1, 1, 1, 1], 6, [0, 1, 2, 3]),
        ([1] * 12, 3, [2, 6, 10]),
        ([0] * 4, 2, [1, 3]),
        ([1, 0] * 10, 6, [2, 6, 12, 16, 5, 15]),
        ([1, 1, 0, 0, 0, 0], 6, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_examples_are_spread_with_a_third_of_empty_ones(full, count, expected):
    assert gallery.chosen_examples(Set(full), [1], count) == sorted(expected)


def test_the_note_says_what_the_score_means():
    assert gallery._note(0.871, True) == "Dice 0.87"
    assert gallery._note(0.0, True) == "Dice 0.00"
    assert gallery._note(float("nan"), False) == "empty, rightly"
    assert gallery._note(0.0, False) == "false alarm"


def test_the_picture_has_a_row_for_each_example(tiny_run, pairs_folder, tmp_path):
    segmenter = Segmenter.load(tiny_run / "model.safetensors")
    report = check_folder(pairs_folder)
    dataset = Dataset(report.pairs, report.mask_kind, segmenter.normaliser)
    heights = []
    for rows in (2, 4):
        path = gallery.draw_predictions(segmenter, dataset, tmp_path / f"{rows}.png", "t", rows)
        with Image.open(path) as picture:
            heights.append(picture.size[1])
    assert heights[1] > 1.6 * heights[0]
