"""The example scripts do what they say."""

import importlib.util
import re
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from discs import TINY

import minidl
from minidl.progress import Progress
from minidl.recipe import Options

EXAMPLES = Path(minidl.__file__).parent.parent / "examples"


def script(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_gradient_check_finds_the_mistake(capsys):
    words = script("gradient_check").main()
    assert re.search(r"input 0 at index .*backward gives .*numerically it is", words)
    assert capsys.readouterr().out.startswith("Swish: True\nMistaken: ")


def test_the_training_loop_runs(capsys):
    assert 0 <= script("train_unet").main(steps=10, frames=15) <= 1
    assert "step 10/10  loss" in capsys.readouterr().out


@pytest.mark.slow
def test_the_training_loop_learns():
    assert script("train_unet").main() > 0.75


def test_own_images(pairs_folder, tmp_path, capsys):
    options = Options(steps=2, **TINY)
    written = script("own_images").main(pairs_folder, pairs_folder, tmp_path / "out", options)
    assert len(written) == 8
    assert (tmp_path / "out" / "run" / "model.safetensors").exists()


def test_ways_to_go_back_up_are_compared_fairly(tmp_path, capsys):
    compare = script("compare_upsampling")
    counts = [
        compare.parameters(compare.Network(variant, compare.root_for(variant, 50_000)))
        for variant in compare.VARIANTS
    ]
    assert np.ptp(counts) < 0.05 * 50_000
    settings = {"seeds": 1, "steps": 1, "budget": 3_000, "counts": (8, 5)}
    table, picture = compare.main(tmp_path, **settings)
    rows = table.read_text().splitlines()[2:]
    assert [row.split(" | ")[0].strip("| ") for row in rows] == [v.like for v in compare.VARIANTS]
    assert picture.stat().st_size > 10_000
    assert "seed 1/1: IoU" in capsys.readouterr().out


@pytest.fixture
def nerve(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)  # it has a second file beside it
    return script("nerve")


def test_a_variant_differs_by_its_defect(nerve):
    settings = {name: setting for name, (_, setting) in nerve.variants(100).items()}

    def differences(name, base):
        return {k: v for k, v in asdict(settings[name]).items() if v != asdict(base)[k]}

    for name, defect in nerve.DEFECTS.items():
        assert differences(f"mended + {name}", nerve.MENDED) == defect
        assert differences(f"slides - {name}", nerve.SLIDES).keys() == defect.keys()
    # One defect less from rung to rung; the next is "mended + min-max scaling", then none.
    rungs = [name for name in settings if name.startswith("... and - ")]
    left = [len(differences(rung, nerve.MENDED)) for rung in rungs]
    assert left == [5, 4, 3, 2]
    assert settings["FCN, rate for as long a way"].lr * 100 == pytest.approx(1e-6 * 200 * 176)


def test_the_slides_network_has_the_slides_defects(nerve):
    bad, good = nerve.build(nerve.SLIDES, seed=0), nerve.build(nerve.MENDED, seed=0)
    x = np.random.default_rng(0).standard_normal((1, 44, 48, 3)).astype(np.float32)
    for network in (bad, good):
        assert sum(p.size for p in network.parameters()) == 29_474  # the slides' own figure
        network.eval()
    assert bad(x).numpy().min() >= 0 > good(x).numpy().min()
    inner, wide = (network.merge[0].conv1 for network in (bad, good))  # 32 channels to 16
    assert (inner.bias.data == np.float32(0.1)).all() and not wide.bias.data.any()
    assert np.std(wide.weight.data) == pytest.approx(np.sqrt(2 / (9 * 32)), rel=0.05)
    # 32 channels go up, and 0.88 of the deviation is left by the cut.
    assert np.std(inner.weight.data) == pytest.approx(0.88 * np.sqrt(2 / (9 * 32)), rel=0.05)
    first = bad.down[0].conv1  # 3 channels to 8: more results than inputs
    assert np.std(first.weight.data) == pytest.approx(0.88 * np.sqrt(2 / (9 * 8)), rel=0.1)


def test_the_nerve_experiment_runs_and_goes_on(nerve, tmp_path, monkeypatch, capsys):
    small = {
        "slides": ("slides", replace(nerve.SLIDES, batch=4)),
        "mended": ("good", replace(nerve.MENDED, batch=4)),
        "fcn": ("fcn", replace(nerve.FCN, batch=2)),
    }
    monkeypatch.setattr(nerve, "variants", lambda steps: small)
    assert nerve.main(tmp_path, steps=1, count=30, minutes=0) is None
    assert "time is up" in capsys.readouterr().out
    table = nerve.main(tmp_path, steps=1, count=30)
    subjects = [
        {
            name.split("_")[0]
            for name in (tmp_path / "frames-30" / f"{part}.txt").read_text().split()
        }
        for part in ("train", "val")
    ]
    assert all(subjects) and not subjects[0] & subjects[1]
    rows = [line.split(" | ")[0].strip("| ") for line in table.read_text().splitlines()[2:]]
    assert rows == ["no nerve in any frame", *small, "minidl train"]
    for picture in ("scores.png", "losses.png", "slides.jpg", "mended.jpg"):
        assert (tmp_path / f"nerve_{picture}").stat().st_size > 5_000

    monkeypatch.setattr(nerve, "train", None)  # nothing is left to be trained
    monkeypatch.setattr(nerve, "recommended", None)
    data = nerve.frames(tmp_path / "frames-30", 30)
    again = nerve.experiment(tmp_path, data, 1, 1, None, Progress())
    assert nerve.figures.table(again).splitlines()[2:] == table.read_text().splitlines()[3:]
    assert "4 of 4 trainings are done" in capsys.readouterr().out
