"""The demonstration, small and (slow) as it is."""

import json
import subprocess
import sys
import time

import pytest

from minidl import cli, demo
from minidl.run import RunError

FILES = {
    "config.json", "curves.png", "data", "history.csv", "last.safetensors", "metrics.json",
    "model.safetensors", "predictions.png", "split.json", "samples", "samples.png", "log.txt",
    "environment.json", "README.md",
}  # fmt: skip


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(demo, "FRAMES", {"train": 4, "val": 2, "test": 2})
    monkeypatch.setattr(demo, "OPTIONS", {**demo.OPTIONS, "root": 2, "depth": 2, "crop": 48})


def test_it_leaves_a_run_with_its_data(small, tmp_path, capsys):
    out = tmp_path / "runs" / "demo"
    assert cli.main(["demo", "--out", str(out), "--steps", "2"]) == 0
    assert {path.name for path in out.iterdir()} == FILES
    assert len(list((out / "data").glob("*.tif"))) == 16
    said = capsys.readouterr().out
    assert "2 test frames" in said
    assert "background" in said
    assert str(out / "predictions.png") in said
    assert json.loads((out / "metrics.json").read_text())["images"] == 2


def test_the_test_frames_are_in_neither_part_of_the_split(small, tmp_path):
    demo.run_demo(tmp_path / "demo", steps=1)
    split = json.loads((tmp_path / "demo" / "split.json").read_text())
    test = (tmp_path / "demo" / "data" / "test.txt").read_text().split()
    assert len(test) == 2
    assert not set(test) & {*split["train"], *split["val"]}


def test_subjects_are_not_divided_between_the_parts():
    sizes = list(demo.FRAMES.values())
    assert all(size % 6 == 0 for size in sizes)  # frames of a subject


def test_a_second_demo_goes_beside_the_first(small, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert cli.main(["demo", "--steps", "1"]) == 0
    assert "runs/demo exists already and stays as it is; this run goes to runs/demo-2" in (
        capsys.readouterr().out.replace("\\", "/")
    )
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["demo", "demo-2"]


def test_a_folder_asked_for_by_name_is_not_replaced(small, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert cli.main(["demo", "--out", str(tmp_path)]) == 2
    assert "exists already" in capsys.readouterr().err
    with pytest.raises(RunError, match="exists already"):
        demo.run_demo(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_finds_the_nerves_and_is_never_silent(seed, tmp_path):
    """In a process of its own; its kernels may or may not be compiled already."""
    command = [sys.executable, "-u", "-m", "minidl", "demo", "--seed", str(seed), "--out",
               str(tmp_path / "demo")]  # fmt: skip
    times = [time.monotonic()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for _ in process.stdout:
            times.append(time.monotonic())
    assert process.returncode == 0
    assert max(b - a for a, b in zip(times, times[1:], strict=False)) < 5
    metrics = json.loads((tmp_path / "demo" / "metrics.json").read_text())
    assert metrics["foreground_dice"] >= 0.85
    assert times[-1] - times[0] < 150
