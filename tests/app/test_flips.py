"""Means over mirror images: against every image flipped by hand, one after the other."""

import numpy as np
import pytest
from discs import disc_picture

from minidl import Tensor
from minidl.evaluate import evaluate_folder
from minidl.flips import Flipped, flipped
from minidl.predict import plan, predict_files
from minidl.segmenter import Segmenter, scores_of
from minidl.tiles import tiled_scores


@pytest.fixture(scope="module")
def segmenter(tiny_run):
    return Segmenter.load(tiny_run / "model.safetensors")


def by_hand(model, x, ways):
    """Mean probabilities (H, W, K), each image turned over with plain indices."""
    total = 0
    for rows, columns in ways:
        scores = np.asarray(model(Tensor(x[None, ::rows, ::columns].copy())))[0].astype(float)
        share = np.exp(scores - scores.max(-1, keepdims=True))
        total = total + (share / share.sum(-1, keepdims=True))[::rows, ::columns]
    return total / len(ways)


@pytest.mark.parametrize(
    ("flips", "ways"),
    [("mirror", [(1, 1), (1, -1)]), ("all", [(1, 1), (1, -1), (-1, 1), (-1, -1)])],
)
def test_the_softmax_of_the_scores_is_the_mean_over_the_flips(segmenter, rng, flips, ways):
    x = rng.standard_normal((12, 20, 1)).astype(np.float32)
    scores = scores_of(flipped(segmenter.model, flips), x)
    found = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    np.testing.assert_allclose(found, by_hand(segmenter.model, x, ways), atol=1e-6)


def test_tiles_are_the_parts_of_the_whole(segmenter):
    x = (disc_picture(3, (70, 45))[0][..., None] / 99).astype(np.float32)
    model = Flipped(segmenter.model, "all")
    np.testing.assert_array_equal(tiled_scores(model, x, tile=24), tiled_scores(model, x))


def test_a_mirrored_image_gets_the_mirrored_mask(segmenter):
    image = disc_picture(5, (24, 32))[0][..., None]
    mask = segmenter(image, flips="mirror")
    np.testing.assert_array_equal(segmenter(image[:, ::-1], flips="mirror"), mask[:, ::-1])


def test_evaluate_and_predict_take_flips(tiny_run, pairs_folder, segmenter, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        Flipped, "__call__", lambda self, x: asked.append(self.flips) or np.asarray(self.model(x))
    )
    evaluate_folder(tiny_run, pairs_folder, flips="mirror")
    assert asked == ["mirror"] * 2
    predict_files(segmenter, plan(segmenter, [pairs_folder / "f0.tif"], tmp_path), flips="all")
    assert asked == ["mirror"] * 2 + ["all"]


def test_no_flips_and_unknown_ones(segmenter):
    assert flipped(segmenter.model, None) is segmenter.model
    with pytest.raises(ValueError, match="flips='round', expected one of mirror, all"):
        flipped(segmenter.model, "round")
