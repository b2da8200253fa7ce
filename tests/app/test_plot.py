"""Pictures: what is on them, and that drawing leaves no trace."""

import sys

import numpy as np
import pytest
from PIL import Image

from minidl import plot


def example(shape=(20, 30), channels=1, classes=2, note="Dice 0.50", dtype=np.uint8):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 200, (*shape, channels)).astype(dtype)
    target = rng.integers(0, classes, shape)
    return plot.Example("slice_07", image, target, target[::-1], note)


def row(step, dice, **more):
    return {
        "step": step, "train_loss": 1 / step, "val_loss": 2 / step, "val_dice": dice,
        "val_pixel_accuracy": 0.9, "val_dice_background": 0.99, "val_dice_nerve": dice, **more,
    }  # fmt: skip


def texts(figure):
    return [text.get_text() for axis in figure.axes for text in axis.texts]


def test_panels_have_a_row_of_three_for_each_example_with_name_and_note():
    figure = plot.panels([example(), example((40, 20))], ["background", "nerve"], "My run")
    assert len(figure.axes) == 6
    headings = [axis.get_title() for axis in figure.axes[:3]]
    assert headings == ["input", "target", "prediction"]
    assert figure.axes[3].get_ylabel() == "slice_07"
    assert texts(figure) == ["Dice 0.50", "Dice 0.50"]
    assert figure.texts[0].get_text() == "My run"
    assert not any(axis.get_xticks().size for axis in figure.axes)


def test_simple_shapes_are_outlined_on_the_prediction():
    target = np.zeros((40, 40), int)
    target[10:20, 10:20] = 1
    one = plot.Example("a", np.zeros((40, 40, 1), np.uint8), target, target)
    axis = plot.panels([one], ["a", "b"]).axes[2]
    assert axis.get_title() == "prediction (outline: target)"
    assert len(axis.collections) == 1
    assert not plot.panels([example()], ["a", "b"]).axes[2].collections


def test_two_classes_are_black_and_white_and_ignored_pixels_grey():
    one = example()
    target = np.array([[0, 1], [-100, 1]])
    one = plot.Example("a", one.image[:2, :2], target, np.zeros((2, 2), int))
    shown = plot.panels([one], ["a", "b"]).axes[1].images[0].get_array()
    np.testing.assert_array_equal(shown[0, 0], [0, 0, 0])
    np.testing.assert_array_equal(shown[0, 1], [1, 1, 1])
    assert 0.3 < shown[1, 0, 0] < 0.8


@pytest.mark.parametrize("classes", [3, 12, 40])
def test_more_classes_have_different_colours_and_a_legend(classes):
    one = example((classes, 3), classes=classes)
    one = plot.Example("a", one.image, np.arange(classes)[:, None].repeat(3, 1), one.prediction)
    names = [f"c{i}" for i in range(classes)]
    figure = plot.panels([one], names)
    shown = figure.axes[1].images[0].get_array()
    assert len(np.unique(np.asarray(shown)[:, 0].round(3), axis=0)) == classes
    assert [text.get_text() for text in figure.legends[0].get_texts()] == names


def test_any_image_type_can_be_shown():
    assert plot.displayable(np.full((2, 2, 1), 51, np.uint8)).tolist() == [[0.2, 0.2], [0.2, 0.2]]
    deep = (np.arange(10000).reshape(100, 100, 1) * 6).astype(np.uint16)
    assert plot.displayable(deep).min() == 0
    assert plot.displayable(deep).max() == 1
    assert plot.displayable(np.zeros((4, 4, 5), np.float32)).shape == (4, 4, 3)
    assert np.isfinite(plot.displayable(np.full((4, 4, 1), 7.0))).all()


def test_curves_have_labelled_axes_and_the_best_step_marked():
    figure = plot.curves([row(10, 0.5), row(20, 0.8), row(30, 0.7)], best_step=20, title="run")
    losses, scores = figure.axes
    assert (losses.get_xlabel(), losses.get_ylabel()) == ("step", "loss")
    assert scores.get_ylabel() == "validation score"
    labels = [text.get_text() for text in scores.get_legend().get_texts()]
    assert labels == ["Dice background", "pixel accuracy", "Dice nerve"]
    assert [text.get_text() for text in losses.get_legend().get_texts()] == [
        "training", "validation",
    ]  # fmt: skip
    assert texts(figure) == ["best 0.800\nat step 20, kept"]
    assert list(losses.lines[0].get_ydata()) == [1 / 10, 1 / 20, 1 / 30]


def test_curves_survive_scores_that_are_not_defined():
    figure = plot.curves([row(10, float("nan")), row(20, float("nan"))], best_step=10)
    assert len(figure.axes) == 2


def test_pictures_are_written_whole_and_leave_nothing_else(tmp_path):
    path = plot.write_figure(plot.curves([row(10, 0.5)], 10), tmp_path / "curves.png")
    with Image.open(path) as picture:
        assert picture.size[0] > 500
    assert [file.name for file in tmp_path.iterdir()] == ["curves.png"]


def test_a_picture_that_fails_leaves_no_file(tmp_path):
    class Broken:
        def savefig(self, file, format):
            file.write(b"half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        plot.write_figure(Broken(), tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_drawing_does_not_load_pyplot():
    loaded = "matplotlib.pyplot" in sys.modules
    plot.panels([example()], ["a", "b"])
    assert ("matplotlib.pyplot" in sys.modules) == loaded


def test_nothing_to_draw_is_said():
    with pytest.raises(ValueError, match="no examples"):
        plot.panels([], ["a", "b"])
    with pytest.raises(ValueError, match="no rows"):
        plot.curves([])
