"""The example scripts do what they say."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
from discs import TINY

import minidl
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
