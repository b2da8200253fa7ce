"""Which images are shown, and what is written at them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minidl import gallery
from minidl.data import Dataset, check_folder
from minidl.run import read_picture
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


def test_samples_through_time_have_a_column_for_each_step(tiny_run):
    steps = gallery.sample_steps(tiny_run)
    assert steps and steps == sorted(steps) and steps[-1] <= 30
    assert all(b >= 1.6 * a for a, b in zip(steps, steps[1:], strict=False))
    names = {path.name for path in (tiny_run / "samples").iterdir()}
    assert names == {"target.png", *(f"step-{step:06}.png" for step in steps)}
    target = read_picture(tiny_run / "samples" / "target.png")
    assert all(read_picture(tiny_run / "samples" / name).shape == target.shape for name in names)


def test_samples_of_a_resumed_run_are_carried_on(tiny_run):
    assert gallery.Samples(tiny_run, None).last == gallery.sample_steps(tiny_run)[-1]


def test_few_of_many_steps_are_shown():
    assert gallery.chosen_steps([1, 2, 3], 7) == [1, 2, 3]
    assert gallery.chosen_steps(list(range(10, 21)), 3) == [10, 15, 20]
    assert gallery.draw_samples(Path("nowhere"), "t") is None
