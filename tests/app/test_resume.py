"""Going on with a training: the same bits as if it had never been interrupted."""

import csv
import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from discs import TINY

from minidl import checkpoint, nn, recipe, run, train
from minidl.data import DataError, Dataset, check_folder
from minidl.progress import Progress
from minidl.random import manual_seed
from minidl.recipe import Options, train_folder
from minidl.resume import resume_folder
from minidl.run import RunError
from minidl.segmenter import Segmenter
from minidl.train import Settings, Trainer, Watch
from minidl.training import recorder

FULL = {
    "accumulate": 2, "average": 0.9, "clip": 1.0, "schedule": "plateau", "warm_up": 3,
    "class_weights": "median", "loss": "ce+lovasz",
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def without_drawing(tiny_run):
    """Pictures take most of the time of so short a run. The run that others look at has them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "draw_predictions", lambda *arguments: arguments[2].touch())
        patch.setattr(recipe.plot, "curves", lambda *arguments: None)
        patch.setattr(recipe.plot, "write_figure", lambda figure, path: path.touch())
        yield


def files_of(folder):
    """All files of a folder by their names."""
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


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
    """Start a run that dies when it comes to `event` for the `count`-th time."""
    calls = []
    where = {"model": (Segmenter, "save"), "history": (run, "history_text")}
    owner, name = where.get(event, (recipe.Recorder, event))
    true = getattr(owner, name)

    def dying(*arguments):
        calls.append(1)
        if len(calls) == count:
            raise Killed
        return true(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, dying)
        patch.setattr(recorder, "SAVE_SECONDS", 0.0)
        patch.setattr(recorder, "SAVE_SHARE", 1e9)
        with pytest.raises(Killed):
            train_folder(data, folder, options)


@pytest.mark.parametrize(
    ("event", "count"),
    [("stepped", 1), ("stepped", 8), ("validating", 6), ("validated", 2), ("save_state", 1),
     ("save_state", 9), ("model", 1), ("model", 2), ("history", 3)],
)  # fmt: skip
def test_a_killed_run_goes_on_bit_for_bit(
    whole, pairs_folder, tmp_path, monkeypatch, threads, event, count
):
    folder = tmp_path / "run"
    killed(monkeypatch, pairs_folder, folder, Options(steps=14, **TINY, **FULL), event, count)
    threads(1)
    resume_folder(folder)
    assert_same_run(folder, whole)


def test_dropout_goes_on_where_it_was(pairs_folder):
    """And so do momentum and the losses since the last validation."""
    report = check_folder(pairs_folder)
    data = Dataset(report.pairs, report.mask_kind)

    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = nn.Conv2d(1, 4, 3, padding=1)
            self.drop, self.out = nn.Dropout(0.5), nn.Conv2d(4, 2, 1)

        def forward(self, x):
            return self.out(self.drop(self.hidden(x)))

    def make():
        manual_seed(3)
        settings = Settings(steps=8, batch_size=2, crop=(16, 16), optimiser="sgd", schedule="poly")
        trainer = Trainer(Noisy(), data, data, settings, ("a", "b"), (1,))
        trainer.validate_every = 3
        return trainer

    class Photographer(Watch):
        def stepped(self, trainer):
            states.append(trainer.state_dict())

    states = []
    first = make()
    first.watch = Photographer()
    first.run()
    for state in states[1], states[2], states[7]:  # 2: before a validation that is due
        second = make()
        np.random.default_rng(0)
        second.load_state_dict(state)
        second.run()
        for name, value in first.model.state_dict().items():
            np.testing.assert_array_equal(second.model.state_dict()[name], value)
        rows = [[{**row, "seconds": 0} for row in one.history] for one in (first, second)]
        assert rows[0] == rows[1]


def test_a_finished_run_goes_on_with_a_larger_budget(pairs_folder, tmp_path):
    """With a constant rate it becomes the run that it would have been with that budget."""
    options = {**TINY, "schedule": "constant", "average": 0.8}
    short, long = tmp_path / "short", tmp_path / "long"
    train_folder(pairs_folder, short, Options(steps=4, **options))
    train_folder(pairs_folder, long, Options(steps=9, **options))
    resume_folder(short, {"steps": 9})
    weights = [content(folder / "last.safetensors") for folder in (short, long)]
    for name, value in weights[0].items():
        if name.startswith(("/trainer/weights", "/trainer/average", "/trainer/optimiser")):
            np.testing.assert_array_equal(value, weights[1][name], err_msg=name)
    assert json.loads((short / "config.json").read_text())["settings"]["steps"] == 9
    with open(short / "history.csv", newline="") as file:
        assert [int(row["step"]) for row in csv.DictReader(file)][-1] == 9


def test_a_budget_must_be_more_than_is_used_up(tiny_run, tmp_path):
    folder = shutil.copytree(tiny_run, tmp_path / "run")
    before = files_of(folder)
    for budget in {"steps": 30}, {"epochs": 2}, {"minutes": 1e-6}:
        with pytest.raises(RunError, match="has done 30 steps .*give more"):
            resume_folder(folder, budget)
    assert files_of(folder) == before


def test_minutes_count_what_was_trained_before(pairs_folder, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    train_folder(pairs_folder, folder, Options(steps=2, **TINY))
    state = checkpoint.load(folder / "last.safetensors")
    state["trainer"]["elapsed"] = 3600.0
    checkpoint.save(folder / "last.safetensors", state)
    with pytest.raises(RunError, match="has done 2 steps .* in 60.0 minutes"):
        resume_folder(folder, {"minutes": 59})
    seen = []
    monkeypatch.setattr(recipe.Recorder, "stepped", lambda self, trainer: seen.append(trainer.done))
    resume_folder(folder, {"minutes": 120, "steps": 3})
    assert seen[0] > 0.5


def test_a_finished_run_is_left_as_it_is(tiny_run, tmp_path):
    folder = shutil.copytree(tiny_run, tmp_path / "run")
    progress = io.StringIO()
    resume_folder(folder, progress=Progress(progress))
    assert_same_run(folder, tiny_run)
    assert "its budget of 30 steps is used up" in progress.getvalue()
    assert f"minidl train --resume {folder} --minutes" in progress.getvalue()


def damaged(tiny_run, tmp_path):
    """A copy of a run, and a check that nothing in it changes."""
    folder = shutil.copytree(tiny_run, tmp_path / "run")

    def refused(match, error=RunError, **more):
        before = files_of(folder)
        with pytest.raises(error, match=match):
            resume_folder(folder, {"steps": 99}, **more)
        assert files_of(folder) == before

    return folder, refused


def test_damaged_states_are_refused(tiny_run, tmp_path):
    folder, refused = damaged(tiny_run, tmp_path)
    whole = (folder / "last.safetensors").read_bytes()
    for length in 0, 100, len(whole) // 2, len(whole) - 1:
        (folder / "last.safetensors").write_bytes(whole[:length])
        refused("last.safetensors is not the state of a training, or damaged.*best network")
    flipped = bytearray(whole)
    flipped[-50] ^= 4
    (folder / "last.safetensors").write_bytes(flipped)
    refused("last.safetensors is not the state .*is not what was saved.*best network")
    shutil.copy(folder / "model.safetensors", folder / "last.safetensors")
    refused("last.safetensors is not the state of a training")
    (folder / "last.safetensors").unlink()
    refused("no last.safetensors in it, from which to go on")


@pytest.mark.parametrize(
    ("options", "what"),
    [({"root": 2}, "its network, settings|its network"), ({"lr": 0.5}, "its settings"),
     ({"seed": 1}, "its settings"), ({"class_names": ("a", "b")}, "its classes"),
     ({"val_fraction": 0.5}, "its data")],
)  # fmt: skip
def test_the_state_of_another_training_is_refused(tiny_run, pairs_folder, tmp_path, options, what):
    folder, refused = damaged(tiny_run, tmp_path)
    settings = {"steps": 1, "class_names": ("nothing", "disc"), **TINY, **options}
    train_folder(pairs_folder, tmp_path / "other", Options(**settings))
    shutil.copy(tmp_path / "other" / "last.safetensors", folder / "last.safetensors")
    refused(f"is the state of another training: {what}")


def test_another_data_set_is_refused(tiny_run, pairs_folder, tmp_path):
    folder, refused = damaged(tiny_run, tmp_path)
    data = shutil.copytree(pairs_folder, tmp_path / "data")
    shutil.copy(data / "f4.tif", data / "f3.tif")
    refused("1 files are not what they were .*f3.tif.*Put them back", DataError, data=data)
    (data / "f5.tif").unlink()
    (data / "f5_mask.tif").unlink()
    refused("1 of the files .* are gone: f5", DataError, data=data)
    refused("nowhere, the data of .* is not there", DataError, data=tmp_path / "nowhere")


def test_data_may_have_been_moved(tiny_run, pairs_folder, tmp_path):
    folder = shutil.copytree(tiny_run, tmp_path / "run")
    data = shutil.copytree(pairs_folder, tmp_path / "moved")
    resume_folder(folder, {"steps": 31}, data)
    assert json.loads((folder / "config.json").read_text())["data"] == str(data)


def test_what_is_no_run_is_refused(tiny_run, tmp_path):
    with pytest.raises(RunError, match="nowhere: no such run folder"):
        resume_folder(tmp_path / "nowhere")
    with pytest.raises(RunError, match="no config.json in it"):
        resume_folder(tmp_path)
    with pytest.raises(RunError, match="is a file. Name the run folder"):
        resume_folder(tiny_run / "last.safetensors")
    folder, refused = damaged(tiny_run, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text("{")
    refused("config.json cannot be read")
    config["settings"]["telepathy"] = True
    (folder / "config.json").write_text(json.dumps(config))
    refused("not settings that this minidl knows.*telepathy")


def test_what_a_killed_process_was_writing_is_removed(tiny_run, tmp_path):
    folder = shutil.copytree(tiny_run, tmp_path / "run")
    (folder / ".last.safetensors.0123.unfinished").write_bytes(b"half")
    (folder / ".curves.png.4567.unfinished").write_bytes(b"half")
    resume_folder(folder)
    assert_same_run(folder, tiny_run)


@pytest.mark.skipif(run.fcntl is None, reason="the system cannot lock folders")
def test_only_one_at_a_time_trains_into_a_run(tiny_run, tmp_path):
    folder = shutil.copytree(tiny_run, tmp_path / "run")
    before = files_of(folder)
    said = "another process is training into it. Wait"
    with run.alone(folder), pytest.raises(RunError, match=said):
        resume_folder(folder, {"steps": 99})
    assert files_of(folder) == before
    resume_folder(folder)


# ---- the keyboard, and a full disk ----------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "presses", "step"),
    [("loss", 1, 8), ("loss", 2, 5), ("validating", 1, 10), ("validating", 2, 10)],
)
def test_ctrl_c_leaves_a_run_that_goes_on_bit_for_bit(
    whole, pairs_folder, tmp_path, monkeypatch, interruptible, where, presses, step
):
    """Real signals: one ends after step 8, two in its middle, and then the last state counts."""
    folder, said, pressed, at = tmp_path / "run", io.StringIO(), [], [0]
    true = train.segmentation_loss

    def press():
        while len(pressed) < presses:
            pressed.append(1)
            signal.raise_signal(signal.SIGINT)

    def loss(*arguments):
        if where == "loss" and at[0] == 7:
            press()
        return true(*arguments)

    def validating(self, trainer, done):
        if where == "validating" and (trainer.step, done) == (10, 1):
            press()

    with monkeypatch.context() as patch:
        patch.setattr(recipe.Recorder, "stepped", lambda self, trainer: at.insert(0, trainer.step))
        patch.setattr(recipe.Recorder, "validating", validating)
        patch.setattr(train, "segmentation_loss", loss)
        outcome = train_folder(
            pairs_folder, folder, Options(steps=14, **TINY, **FULL), Progress(said)
        )
    assert outcome.interrupted
    assert outcome.evaluation is not None
    assert steps_in(folder / "last.safetensors") == step
    assert f"minidl train --resume {folder}" in said.getvalue()
    assert {path.name for path in folder.iterdir()} == {path.name for path in whole.iterdir()}
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    resume_folder(folder)
    assert_same_run(folder, whole)


def fill_the_disk(patch, after):
    """No room is left for files whose name begins so, from the n-th write on."""
    true, calls = os.fsync, []

    def fsync(handle):
        name = os.readlink(f"/proc/self/fd/{handle}")
        if any(part in name for part in after):
            calls.append(name)
            if len(calls) >= after[next(part for part in after if part in name)]:
                raise OSError(errno.ENOSPC, "No space left on device")
        return true(handle)

    patch.setattr(os, "fsync", fsync)


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="names of open files")
@pytest.mark.parametrize(
    ("file", "count"),
    [("last.safetensors", 1), ("last.safetensors", 2), ("model.safetensors", 1),
     ("model.safetensors", 2), ("history.csv", 2)],
)  # fmt: skip
def test_a_full_disk_is_said_and_the_run_goes_on_when_there_is_room(
    whole, pairs_folder, tmp_path, monkeypatch, file, count
):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        fill_the_disk(patch, {file: count})
        with pytest.raises(OSError, match=rf"no space left .*{file}.*Make room.*--resume {folder}"):
            train_folder(pairs_folder, folder, Options(steps=14, **TINY, **FULL))
    assert not list(folder.glob(".*"))
    for path in folder.glob("*.safetensors"):
        checkpoint.load(path)
    resume_folder(folder)
    assert_same_run(folder, whole)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device that is always full")
def test_a_write_that_finds_no_room_names_the_file(tmp_path, monkeypatch):
    """Not a patched function but the system's own refusal."""
    path = tmp_path / "state"
    checkpoint.save(path, [1])
    true = open
    monkeypatch.setattr(
        "builtins.open", lambda name, mode="r", **more: true("/dev/full", "wb", buffering=0)
    )
    with pytest.raises(OSError, match=r"save: no space left on the disk to write .*state \("):
        checkpoint.save(path, [2])
    with pytest.raises(OSError, match=r"write_text: no space left on the disk to write .*text"):
        run.write_text(tmp_path / "text", "words")
    monkeypatch.undo()
    assert checkpoint.load(path) == [1]
    assert [file.name for file in tmp_path.iterdir()] == ["state"]


# ---- kill -9 --------------------------------------------------------------------------------

CHILD = """\
import os, signal, sys
from minidl.recipe import Options, train_folder
from minidl.training import recorder
from discs import TINY

data, folder, file, count = sys.argv[1:]
recorder.SAVE_SECONDS, recorder.SAVE_SHARE = 0.0, 1e9
true, calls = os.fsync, []

def fsync(handle):
    calls.append(file in os.readlink(f"/proc/self/fd/{handle}"))
    if sum(calls) == int(count) and calls[-1]:
        os.kill(os.getpid(), signal.SIGKILL)
    return true(handle)

os.fsync = fsync
train_folder(data, folder, Options(steps=14, **TINY, **OPTIONS))
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="names of open files")
@pytest.mark.parametrize(
    ("file", "count"),
    [("last.safetensors", 1), ("last.safetensors", 6), ("model.safetensors", 2)],
)
def test_sigkill_while_saving(whole, pairs_folder, tmp_path, file, count):
    """The process is killed with a file half made, which is then still lying about."""
    folder, script = tmp_path / "run", CHILD.replace("**OPTIONS", f"**{FULL}")
    result = subprocess.run([sys.executable, "-c", script, pairs_folder, folder, file, str(count)],
                            env=child_environment())  # fmt: skip
    assert result.returncode == -signal.SIGKILL
    assert [path.name.split(".")[1] for path in folder.glob(".*")] == [file.split(".")[0]]
    resume_folder(folder)
    assert_same_run(folder, whole)


@pytest.mark.slow
def test_sigkill_at_any_time_again_and_again(whole, pairs_folder, tmp_path):
    """By the clock, wherever it then happens to be, twice in one run."""
    folder = tmp_path / "run"
    start = CHILD.replace("**OPTIONS", f"**{FULL}").replace("os.fsync = fsync\n", "")
    go_on = (
        "import sys; from minidl.resume import resume_folder; from minidl.training import recorder;"
        "recorder.SAVE_SECONDS, recorder.SAVE_SHARE = 0.0, 1e9; resume_folder(sys.argv[1])"
    )
    commands = [[start, pairs_folder, folder, "", "0"], [go_on, folder]]
    for number, arguments in enumerate(commands):
        child = subprocess.Popen([sys.executable, "-c", *arguments], env=child_environment())
        state, goal = folder / "last.safetensors", 4 * (number + 1)
        while child.poll() is None and not (state.exists() and steps_in(state) >= goal):
            time.sleep(0.002)
        child.kill()
        assert child.wait() == -signal.SIGKILL
    assert 8 <= steps_in(state) <= 14
    resume_folder(folder)
    assert_same_run(folder, whole)


def steps_in(state):
    return checkpoint.load(state)["trainer"]["step"]


def child_environment():
    paths = [str(Path(__file__).parent.parent), str(Path(train.__file__).parent.parent)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
