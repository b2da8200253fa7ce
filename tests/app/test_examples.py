"""The example scripts do what they say."""

import importlib.util
import re
from pathlib import Path

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
