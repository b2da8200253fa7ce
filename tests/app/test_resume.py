"""Going on with a training: the same bits as if it had never been interrupted."""

import csv
import json
import shutil

import numpy as np
import pytest
from discs import TINY, write_pairs

from minidl import checkpoint, recipe, run, train
from minidl.data import DataError
from minidl.recipe import Options, train_folder
from minidl.resume import resume_folder
from minidl.run import RunError

FULL = {
    "accumulate": 2, "average": 0.9, "clip": 1.0, "schedule": "plateau", "warm_up": 3,
    "class_weights": "median", "loss": "ce+lovasz",
}  # fmt: skip


def content(path):
    """All of a model file or a state, as one flat dict."""

    def walk(value, place):
        if isinstance(value, dict):
            for key, inner in value.items():
                yield from walk(inner, f"{place}/{key}")
        elif isinstance(value, list | tuple):
            for key, inner in enumerate(value):
                yield from walk(inner, f"{place}/{key}")
        else:
            yield place, value

    return dict(walk(checkpoint.load(path), ""))


TIMES = ("elapsed", "validation_seconds", "/seconds")


def assert_same_run(a, b):
    """Equal but for the seconds that they took."""
    assert {p.name for p in a.iterdir()} == {p.name for p in b.iterdir()}
    assert (a / "model.safetensors").read_bytes() == (b / "model.safetensors").read_bytes()
    assert (a / "metrics.json").read_bytes() == (b / "metrics.json").read_bytes()
    states = [content(folder / "last.safetensors") for folder in (a, b)]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        if not name.endswith(TIMES):
            np.testing.assert_array_equal(value, states[1][name], err_msg=name)
    tables = []
    for folder in (a, b):
        with open(folder / "history.csv", newline="") as file:
            tables.append([row | {"seconds": None} for row in csv.DictReader(file)])
    assert tables[0] == tables[1]


class Killed(BaseException):
    """As abrupt as it gets within a process."""


@pytest.fixture(scope="module")
def whole(pairs_folder, tmp_path_factory):
    """A run with everything that has a state, never interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train_folder(pairs_folder, folder, Options(steps=14, **TINY, **FULL))
    return folder


def killed(monkeypatch, data, folder, options, event, count):
    """Start a run that dies when `event` of the recorder is called for the `count`-th time."""
    calls, true = [], getattr(recipe.Recorder, event)

    def dying(self, trainer, *rest):
        calls.append(1)
        if len(calls) == count:
            raise Killed
        return true(self, trainer, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(recipe.Recorder, event, dying)
        patch.setattr("minidl.training.recorder.SAVE_SECONDS", 0.0)
        patch.setattr("minidl.training.recorder.SAVE_SHARE", 1e9)
        with pytest.raises(Killed):
            train_folder(data, folder, options)


@pytest.mark.parametrize(
    ("event", "count"),
    [("stepped", 1), ("stepped", 8), ("validating", 11), ("validated", 2), ("save_state", 1),
     ("save_state", 9)],
)  # fmt: skip
def test_a_killed_run_goes_on_bit_for_bit(
    whole, pairs_folder, tmp_path, monkeypatch, event, count
):
    folder = tmp_path / "run"
    killed(monkeypatch, pairs_folder, folder, Options(steps=14, **TINY, **FULL), event, count)
    resume_folder(folder)
    assert_same_run(folder, whole)
