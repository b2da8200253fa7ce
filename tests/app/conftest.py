"""Tiny runs that many tests read. They are made once and must not be changed."""

import pytest
from discs import TINY, write_pairs, write_palette_folders

from minidl.recipe import Options, train_folder


@pytest.fixture(scope="session")
def pairs_folder(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("sets") / "discs")


@pytest.fixture(scope="session")
def tiny_run(pairs_folder, tmp_path_factory):
    """A run folder whose network has learnt the discs a little."""
    run = tmp_path_factory.mktemp("runs") / "discs"
    train_folder(pairs_folder, run, Options(steps=30, class_names=("nothing", "disc"), **TINY))
    return run


@pytest.fixture(scope="session")
def palette_run(tmp_path_factory):
    """A run on colour images with palette masks of three classes, and its data folder."""
    folder = write_palette_folders(tmp_path_factory.mktemp("palette") / "set")
    run = folder.parent / "run"
    train_folder(folder, run, Options(steps=2, **TINY))
    return run, folder
