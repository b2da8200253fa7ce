"""From a data folder to a run folder: what is decided, written, refused."""

import csv
import json
import shutil

import numpy as np
import pytest
from discs import TINY, write_pairs
from PIL import Image

from minidl import recipe, run, train
from minidl.data import DataError
from minidl.models import UNet
from minidl.recipe import Options, train_folder
from minidl.run import RunError
from minidl.segmenter import ModelError, Segmenter
from minidl.train import TrainingError

FILES = {
    "README.md", "environment.json", "log.txt", "samples", "samples.png",
    "config.json", "curves.png", "history.csv", "last.safetensors", "metrics.json",
    "model.safetensors",
    "predictions.png", "split.json",
}  # fmt: skip


def test_a_run_leaves_exactly_these_files(tiny_run):
    assert {path.name for path in tiny_run.iterdir()} == FILES
    for name in ("curves.png", "predictions.png"):
        with Image.open(tiny_run / name) as picture:
            assert min(picture.size) > 200


def test_the_data_folder_is_left_as_it_was(tmp_path):
    data = write_pairs(tmp_path / "data")
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in data.iterdir()}
    train_folder(data, tmp_path / "run", Options(steps=1, **TINY))
    assert {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in data.iterdir()} == before


def test_the_config_says_what_was_resolved(tiny_run, pairs_folder):
    config = json.loads((tiny_run / "config.json").read_text())
    assert config["data"] == str(pairs_folder.resolve())
    assert config["settings"]["crop"] == [16, 16]
    assert config["settings"]["minutes"] is None
    assert config["architecture"] == {
        "model": "unet", "in_channels": 1, "num_classes": 2, "settings": {"depth": 2, "root": 4},
        "reduce": 1,
    }  # fmt: skip
    assert config["class_names"] == ["nothing", "disc"]
    assert config["foreground"] == [1]
    assert config["mask_kind"]["values"] == [0, 255]


def test_the_split_is_recorded(tiny_run):
    split = json.loads((tiny_run / "split.json").read_text())
    assert sorted(split["train"] + split["val"]) == [f"f{index}" for index in range(8)]
    assert len(split["val"]) == 2
    assert "seed 0" in split["how"]


def test_the_history_is_a_table_of_the_validations(tiny_run):
    with open(tiny_run / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert int(rows[-1]["step"]) == 30
    assert {"train_loss", "val_loss", "val_dice", "val_dice_disc"} <= rows[0].keys()
    assert all(0 < float(row["lr"]) <= 1e-2 for row in rows)


def test_the_metrics_are_those_of_the_best_network(tiny_run):
    with open(tiny_run / "history.csv", newline="") as file:
        best = max(float(row["val_dice"]) for row in csv.DictReader(file))
    metrics = json.loads((tiny_run / "metrics.json").read_text())
    assert metrics["foreground_dice"] == pytest.approx(best, rel=1e-5)
    assert [row["name"] for row in metrics["classes"]] == ["nothing", "disc"]


def test_the_model_file_holds_all_that_prediction_needs(tiny_run, pairs_folder, tmp_path):
    alone = shutil.copy(tiny_run / "model.safetensors", tmp_path / "anything")
    segmenter = Segmenter.load(alone)
    assert segmenter.class_names == ("nothing", "disc")
    assert segmenter.mask_kind.suffix == ".tif"
    assert segmenter.mask_ending == "_mask"
    assert segmenter.foreground == (1,)
    image = np.zeros((13, 7, 1), np.uint8)
    assert segmenter(image).shape == (13, 7)


def test_a_model_saved_and_loaded_gives_the_same_scores(tiny_run, tmp_path, rng):
    first = Segmenter.load(tiny_run / "model.safetensors")
    second = Segmenter.load(first.save(tmp_path / "copy"))
    x = rng.integers(0, 255, (17, 30, 1)).astype(np.uint8)
    np.testing.assert_array_equal(first(x), second(x))
    for name, array in first.model.state_dict().items():
        np.testing.assert_array_equal(array, second.model.state_dict()[name])


def test_an_existing_run_is_refused_with_the_way_out_and_left_alone(tiny_run, pairs_folder):
    before = {path.name: path.stat().st_mtime_ns for path in tiny_run.iterdir()}
    with pytest.raises(RunError, match=r"exists already, and nothing is overwritten.*discs-2"):
        train_folder(pairs_folder, tiny_run, Options(steps=1, **TINY))
    assert {path.name: path.stat().st_mtime_ns for path in tiny_run.iterdir()} == before


def test_an_empty_folder_is_used_and_a_file_refused(pairs_folder, tmp_path):
    assert run.refuse_existing(tmp_path) == tmp_path
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match="exists already"):
        run.refuse_existing(tmp_path / "file")


def test_free_names_count_up(tmp_path):
    assert run.free_name(tmp_path / "demo") == tmp_path / "demo"
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo-2").mkdir()
    assert run.free_name(tmp_path / "demo") == tmp_path / "demo-3"


def test_all_that_is_wrong_with_the_data_is_said_before_anything_is_made(tmp_path):
    data = write_pairs(tmp_path / "data")
    (data / "f3_mask.tif").unlink()
    (data / "f4.tif").write_bytes((data / "f4.tif").read_bytes()[:60])
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(data / "f5_mask.tif")
    with pytest.raises(DataError) as caught:
        train_folder(data, tmp_path / "run", Options(steps=1, **TINY))
    for name in ("f3", "f4", "f5"):
        assert name in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_broken_training_says_what_was_kept(pairs_folder, tmp_path, monkeypatch):
    true, calls = train.segmentation_loss, []

    def broken(*arguments):
        calls.append(1)
        return true(*arguments) * (float("inf") if len(calls) == 2 else 1.0)

    monkeypatch.setattr(train, "segmentation_loss", broken)
    with pytest.raises(TrainingError, match="inf at step 2 .*no network to keep yet"):
        train_folder(pairs_folder, tmp_path / "run", Options(steps=9, **TINY))


def interrupt_at(monkeypatch, step):
    def stepped(self, trainer):
        if trainer.step == step:
            raise KeyboardInterrupt

    monkeypatch.setattr(recipe.Recorder, "stepped", stepped)


def test_ctrl_c_keeps_the_best_network_with_its_pictures(pairs_folder, tmp_path, monkeypatch):
    interrupt_at(monkeypatch, 12)
    outcome = train_folder(pairs_folder, tmp_path / "run", Options(steps=50, **TINY))
    assert outcome.interrupted
    assert outcome.evaluation is not None
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES


def test_ctrl_c_before_the_first_validation_keeps_what_was_learnt(
    pairs_folder, tmp_path, monkeypatch
):
    interrupt_at(monkeypatch, 1)
    outcome = train_folder(pairs_folder, tmp_path / "run", Options(steps=400, **TINY))
    assert outcome.interrupted
    assert outcome.evaluation is None
    assert Segmenter.load(tmp_path / "run" / "model.safetensors").class_names


@pytest.mark.parametrize(
    ("asked", "sizes", "expected"),
    [
        (None, [(512, 512)], (256, 256)),
        (None, [(96, 128), (96, 130)], (96, 96)),
        (None, [(101, 300)], (96, 96)),
        (None, [(5, 300)], (8, 8)),
        (None, [(40, 40), (400, 400), (300, 300)], (256, 256)),
        (64, [(512, 512)], (64, 64)),
        (0, [(101, 64), (101, 64)], (104, 64)),
    ],
)
def test_the_crop_fits_the_images_and_the_network(asked, sizes, expected):
    assert recipe._crop(asked, sizes, UNet(1, 2, depth=4, root=1)) == expected


def test_crops_that_cannot_be_are_refused():
    model = UNet(1, 2, depth=4, root=1)
    with pytest.raises(DataError, match="crop 100 does not fit .* multiples of 8. Take 96"):
        recipe._crop(100, [(512, 512)], model)
    with pytest.raises(DataError, match="crop 0 takes whole images.*2 sizes"):
        recipe._crop(0, [(10, 10), (10, 11)], model)


def test_class_names_must_fit(pairs_folder, tmp_path):
    with pytest.raises(DataError, match=r"3 class names \(a, b, c\) for 2 classes"):
        options = Options(steps=1, class_names=("a", "b", "c"), **TINY)
        train_folder(pairs_folder, tmp_path / "run", options)
    assert not (tmp_path / "run").exists()


def test_without_a_budget_it_is_five_minutes(tiny_run, pairs_folder):
    report = recipe.check_folder(pairs_folder)
    model = Segmenter.load(tiny_run / "model.safetensors").model
    assert recipe.resolve(Options(), report, model).minutes == 5
    assert recipe.resolve(Options(steps=3), report, model).minutes is None
    assert recipe.resolve(Options(epochs=3), report, model).minutes is None


def test_damaged_and_foreign_model_files_are_named(tiny_run, tmp_path):
    whole = (tiny_run / "model.safetensors").read_bytes()
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="cut"):
        Segmenter.load(tmp_path / "cut")
    recipe.folder.write_json(tmp_path / "text", {})
    with pytest.raises(ModelError, match="text"):
        Segmenter.load(tmp_path / "text")
    from minidl.checkpoint import save

    save(tmp_path / "weights", {"a": np.zeros(3)})
    with pytest.raises(ModelError, match="does not say which network"):
        Segmenter.load(tmp_path / "weights")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Segmenter.load(tmp_path / "nowhere")


def test_a_folder_that_is_no_run_is_said(tmp_path):
    with pytest.raises(RunError, match="no such run folder.*minidl train"):
        run.model_path(tmp_path / "none")
    with pytest.raises(RunError, match="without model.safetensors"):
        run.model_path(tmp_path)
