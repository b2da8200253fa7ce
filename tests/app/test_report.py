"""The page of a run folder."""

import json
import shutil

import numpy as np
import pytest

from minidl.data import Dataset, find_pairs
from minidl.report import rank_cases, write_report
from minidl.run import RunError
from minidl.segmenter import Segmenter


@pytest.fixture
def run(tiny_run, tmp_path):
    return shutil.copytree(tiny_run, tmp_path / "run")


def test_the_page_tells_scores_cases_and_settings(run):
    path = write_report(run, cases=2)
    text = path.read_text()
    scores = json.loads((run / "metrics.json").read_text())
    assert path == run / "report.html" and text.endswith("</html>\n")
    assert f"Dice {scores['foreground_dice']:.3f}" in text and "nothing" in text
    names = json.loads((run / "split.json").read_text())["val"]
    assert any(f"{name}: Dice" in text for name in names)
    assert text.count('class="pair"') == min(4, len(names))
    assert "data:image/png;base64," in text and "http" not in text and "<script" not in text
    assert sorted(f.name for f in run.iterdir() if f.name.startswith(".")) == []


def test_nothing_is_overwritten_and_other_folders_are_refused(run, tmp_path):
    (run / "report.html").write_text("mine")
    with pytest.raises(FileExistsError, match="report.html exists already"):
        write_report(run)
    assert (run / "report.html").read_text() == "mine"
    with pytest.raises(RunError, match="not a run folder"):
        write_report(tmp_path)


def test_a_run_that_was_stopped_early_has_a_page_too(run):
    for name in ("metrics.json", "curves.png", "predictions.png", "model.safetensors"):
        (run / name).unlink()
    text = write_report(run).read_text()
    assert "ended before it had any" in text and "Cannot be shown" in text


def test_cases_are_ranked_by_their_own_dice(tiny_run, pairs_folder):
    segmenter = Segmenter.load(tiny_run / "model.safetensors")
    dataset = Dataset(find_pairs(pairs_folder), segmenter.mask_kind, segmenter.normaliser)
    cases = rank_cases(segmenter, dataset)
    assert [case.score for case in cases] == sorted(case.score for case in cases)
    for case in cases:
        image, target = dataset.raw(case.index)
        a, b = segmenter(image) == 1, target == 1
        expected = 2 * np.sum(a & b) / (a.sum() + b.sum()) if (a | b).any() else 1
        np.testing.assert_allclose(case.score, expected)
