"""The card of a trained network, and what it was computed with."""

import json
import platform
import shutil

import pytest

import minidl
from minidl.alarms import Alarm, Alarms
from minidl.card import write_card
from minidl.environment import environment
from minidl.report import write_report
from minidl.run import RunError


@pytest.fixture
def run(tiny_run, tmp_path):
    return shutil.copytree(tiny_run, tmp_path / "run")


def test_the_card_tells_data_network_scores_limits_and_use(tiny_run, pairs_folder):
    text = (tiny_run / "README.md").read_text()
    scores = json.loads((tiny_run / "metrics.json").read_text())
    assert "finds nothing and disc in grey images" in text
    assert "6 image files to train on, 2 to validate on" in text
    assert "nothing (0), disc (255)" in text
    assert "`unet root=4 depth=2`" in text
    assert f"Dice of disc {scores['foreground_dice']:.3f}" in text
    assert "2 validation images are few" in text and "drawn at random" in text
    assert "minidl predict model.safetensors" in text
    assert str(pairs_folder.parent) not in text


def test_what_is_missing_is_left_out_and_alarms_are_told(run):
    (run / "metrics.json").unlink()
    (run / "environment.json").unlink()
    Alarms(path=run / "alarms.json").raise_alarm(Alarm("dead-relus", "All dead.", "Revive."), 7)
    text = write_card(run).read_text()
    assert "None: the run ended before" in text and "Computed with" not in text
    assert "- step 7, dead-relus: All dead." in text
    page = write_report(run).read_text()
    assert "<b>dead-relus</b>, step 7: All dead." in page and "Revive." in page


def test_only_run_folders_have_cards(tmp_path):
    with pytest.raises(RunError, match="not a run folder"):
        write_card(tmp_path)


def test_the_environment_names_no_computer():
    about = environment()
    assert about["minidl"] == minidl.__version__
    assert about["python"] == platform.python_version()
    assert about["packages"]["numpy"]
    assert about["vector_bytes"] in (16, 32, 64)
    text = json.dumps(about)
    assert platform.node() not in text.split('"')
    assert "home" not in text and "/tmp" not in text


def test_the_log_has_what_was_said_from_the_beginning(tiny_run):
    text = (tiny_run / "log.txt").read_text()
    assert "8 pairs of image and mask" in text
    assert "network unet root=4 depth=2" in text and "step    30" in text
