"""Scores over a set, and which part of a folder they are of."""

import csv
import io
import json
import shutil

import numpy as np
import pytest
from discs import write_pairs

from minidl.data import DataError, read_image, read_mask
from minidl.evaluate import Evaluation, ImageScores, chosen_pairs, evaluate_folder
from minidl.segmenter import Segmenter

MATRIX = np.array([[90, 10, 0], [5, 15, 0], [0, 0, 0]])
EXAMPLE = Evaluation(MATRIX, 2, ("nothing", "disc", "ghost"), (0, 100, 255), (1, 2))


def stems(pairs):
    return [pair.stem for pair in pairs]


def test_the_scores_of_a_folder_are_those_of_its_pixels(tiny_run, pairs_folder):
    result = evaluate_folder(tiny_run, pairs_folder, "all")
    segmenter = Segmenter.load(tiny_run / "model.safetensors")
    hit = said = true = 0
    for index in range(8):
        target = read_mask(pairs_folder / f"f{index}_mask.tif") == 255
        found = segmenter(read_image(pairs_folder / f"f{index}.tif")) == 1
        hit, said, true = hit + (found & target).sum(), said + found.sum(), true + target.sum()
    assert result.images == 8
    assert result.foreground_dice == pytest.approx(2 * hit / (said + true))
    assert result.matrix.sum() == 8 * 24 * 32


def test_the_own_data_is_scored_on_its_validation_part(tiny_run, pairs_folder):
    split = json.loads((tiny_run / "split.json").read_text())
    pairs, words = chosen_pairs(tiny_run, pairs_folder, None)
    assert stems(pairs) == split["val"]
    assert "run's own split" in words
    assert stems(chosen_pairs(tiny_run, pairs_folder, "train")[0]) == split["train"]
    assert len(chosen_pairs(tiny_run, pairs_folder, "all")[0]) == 8


def test_other_data_is_scored_whole_even_with_the_same_names(tiny_run, tmp_path):
    other = write_pairs(tmp_path / "other")
    pairs, words = chosen_pairs(tiny_run, other, None)
    assert len(pairs) == 8
    assert words == "all pairs"


def test_data_that_was_moved_is_recognised(tiny_run, tmp_path):
    shutil.copytree(tiny_run, tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["data"] = str(tmp_path / "was_here")
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    moved = write_pairs(tmp_path / "is_here")
    assert len(chosen_pairs(tmp_path / "run", moved, None)[0]) == 2


def test_lists_in_other_data_name_its_parts(tiny_run, tmp_path):
    other = write_pairs(tmp_path / "other")
    (other / "test.txt").write_text("# mine\nf3\n\nf5.tif\n")
    assert stems(chosen_pairs(tiny_run, other, "test")[0]) == ["f3", "f5"]
    with pytest.raises(DataError, match=r"in a file val\.txt.*--split all"):
        chosen_pairs(tiny_run, other, "val")
    (other / "test.txt").write_text("f3\nf99\n")
    with pytest.raises(DataError, match=r"test\.txt: .*f99"):
        chosen_pairs(tiny_run, other, "test")


def test_training_files_that_are_gone_are_named(tiny_run, tmp_path):
    data = write_pairs(tmp_path / "data")
    shutil.copytree(tiny_run, tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["data"] = str(data)
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    for ending in ("", "_mask"):
        (data / f"f2{ending}.tif").unlink()
    with pytest.raises(DataError, match="1 of the files the run was trained on are gone: f2"):
        chosen_pairs(tmp_path / "run", data, None)
    assert len(chosen_pairs(tmp_path / "run", data, "all")[0]) == 7


def test_a_model_file_alone_can_be_evaluated(tiny_run, pairs_folder, tmp_path):
    alone = shutil.copy(tiny_run / "model.safetensors", tmp_path / "mine.safetensors")
    assert evaluate_folder(alone, pairs_folder).images == 8


def test_masks_with_unknown_values_are_named(tiny_run, tmp_path):
    other = write_pairs(tmp_path / "other", value=7)
    with pytest.raises(DataError, match=r"f2_mask\.tif: label value 7"):
        evaluate_folder(tiny_run, other)


def test_the_table_shows_every_class_and_dashes_for_what_is_not_there():
    lines = EXAMPLE.text().splitlines()
    assert lines[0].split() == ["class", "value", "share", "accuracy", "Dice", "IoU"]
    assert lines[1].split() == ["nothing", "0", "83.3%", "0.900", "0.923", "0.857"]
    assert lines[2].split() == ["disc", "100", "16.7%", "0.750", "0.667", "0.500"]
    assert lines[3].split() == ["ghost", "255", "0.0%", "-", "-", "-"]
    assert lines[4] == (
        "2 images: pixel accuracy 0.875, mean IoU 0.679, mean foreground Dice 0.667"
    )


def test_json_and_csv_hold_the_same_scores_and_nothing_for_nan():
    scores = json.loads(EXAMPLE.json())
    assert scores["pixel_accuracy"] == 0.875
    assert scores["foreground"] == ["disc", "ghost"]
    assert scores["confusion_matrix"] == MATRIX.tolist()
    assert scores["classes"][2] == {
        "name": "ghost", "value": 255, "pixels": 0, "share": 0.0, "accuracy": None, "dice": None,
        "iou": None,
    }  # fmt: skip
    rows = list(csv.DictReader(io.StringIO(EXAMPLE.csv())))
    assert [row["name"] for row in rows] == ["nothing", "disc", "ghost"]
    assert float(rows[1]["iou"]) == 0.5
    assert rows[2]["dice"] == ""


def test_scores_of_each_image_add_up_to_those_of_the_set(tiny_run, pairs_folder):
    result = evaluate_folder(tiny_run, pairs_folder, "all", boundary=1)
    assert [image.name for image in result.each] == [f"f{index}" for index in range(8)]
    np.testing.assert_array_equal(sum(image.matrix for image in result.each), result.matrix)
    means = np.nanmean([image.boundary for image in result.each], axis=0)
    np.testing.assert_allclose(result.boundary_f1, means)
    assert [row["boundary_f1"] for row in result.classes()] == result.boundary_f1.tolist()
    assert evaluate_folder(tiny_run, pairs_folder, "all").boundary_f1 is None


def test_files_are_written_whole(tmp_path):
    each = (
        ImageScores("a", MATRIX, np.array([0.5, np.nan, np.nan])),
        ImageScores("b", MATRIX * 0, np.array([0.75, np.nan, 1])),
    )
    result = Evaluation(MATRIX, 2, ("nothing", "disc", "ghost"), (0, 100, 255), (1, 2), each)
    written = result.write(tmp_path / "scores")
    assert [path.name for path in written] == ["scores.json", "scores.csv", "scores-images.csv"]
    assert sorted(tmp_path.iterdir()) == sorted(written)
    first, second = json.loads(written[0].read_text())["each"]
    assert first["image"] == "a"
    assert first["dice_disc"] == pytest.approx(2 / 3)
    assert first["dice_ghost"] is None
    assert second["pixel_accuracy"] is None
    assert written[1].read_text() == result.csv()
    rows = list(csv.DictReader(io.StringIO(written[2].read_text())))
    assert float(rows[0]["frequency_weighted_iou"]) == first["frequency_weighted_iou"]
    assert [row["boundary_f1_ghost"] for row in rows] == ["", "1.0"]
    assert [row["boundary_f1"] for row in result.classes()][0] == 0.625
    assert len(EXAMPLE.write(tmp_path / "few")) == 2
