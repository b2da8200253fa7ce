"""Tiles: the scores of the whole image, for any size, from windows no larger than asked for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidl import nn
from minidl.data import pad_to_multiple
from minidl.kernels import conv
from minidl.models import UNet
from minidl.receptive_field import measured_receptive_field
from minidl.tensor import Tensor
from minidl.tiles import (
    halo_of,
    mirrored,
    predict_tiles,
    sides,
    tiled_classes,
    tiled_scores,
    unet_field,
    unet_reach,
)


def _unet(rng, **options):
    model = UNet(2, 3, depth=3, rng=np.random.default_rng(1), **options)
    side = model.fitting_size(60)
    model.train()
    model(rng.standard_normal((2, side, side, 2)).astype(np.float32))  # moments of batch norms
    return model.eval()


def _whole(model, x):
    """Mirrored by NumPy's own padding, and applied once."""
    if not model.shrink:
        padded, inside = pad_to_multiple(x, model.multiple)
    else:
        margin = model.shrink // 2
        fill = [(margin, model.fitting_size(n + 2 * margin) - n - margin) for n in x.shape[:2]]
        padded = np.pad(x, (*fill, (0, 0)), mode="reflect")
        inside = slice(x.shape[0]), slice(x.shape[1])
    return model(Tensor(padded[None])).numpy()[0][inside]


each_unet = pytest.mark.parametrize(
    "options",
    [
        {"root": 16},
        {"root": 4},
        {"root": 16, "padding": "valid", "batch_norm": False},
        {"root": 3, "batch_norm": False},
    ],
    ids=str,
)


@each_unet
def test_tiled_is_whole_bit_for_bit_on_the_direct_path(rng, monkeypatch, options):
    model = _unet(rng, **options)
    monkeypatch.setattr(conv, "algorithm_for", lambda *_: "direct")
    x = rng.standard_normal((141, 170, 2)).astype(np.float32)
    expected = _whole(model, x)
    np.testing.assert_array_equal(tiled_scores(model, x), expected)
    for tile in (100, 128):
        seen = []
        scores = tiled_scores(model, x, tile, watch=lambda *now, seen=seen: seen.append(now))
        np.testing.assert_array_equal(scores, expected)
        assert len(seen) >= 4 and seen[-1] == (len(seen) - 1, len(seen))


@each_unet
def test_tiled_is_whole_up_to_the_rounding_of_winograd(rng, options):
    model = _unet(rng, **options)
    x = rng.standard_normal((141, 170, 2)).astype(np.float32)
    expected = _whole(model, x)
    np.testing.assert_array_equal(tiled_scores(model, x), expected)  # one window
    bound = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(tiled_scores(model, x, 100), expected, rtol=0, atol=bound)


def test_a_smaller_halo_would_not_do(rng):
    """The halo is needed: with less, the test above would fail."""
    model = _unet(rng, root=4)
    x = rng.standard_normal((141, 170, 2)).astype(np.float32)
    difference = tiled_scores(model, x, 64, halo=16) - tiled_scores(model, x, 200)
    assert np.abs(difference).max() > 1e-4


def test_field_of_a_u_net_is_the_measured_one():
    model = UNet(1, 2, depth=3, root=2, batch_norm=False)
    for place in range(4):
        (rows, _) = measured_receptive_field(model, (1, 80, 48, 1), (40 + place, 24))
        assert rows == tuple(40 + place + end for end in unet_field(3, place))
    assert unet_reach(3) == halo_of(model) == 23
    assert {last - first + 1 for first, last in (unet_field(5, k) for k in range(16))} == {188, 204}


@given(
    st.integers(1, 500),
    st.integers(1, 200),
    st.integers(0, 60),
    st.integers(1, 4),
    st.booleans(),
)
def test_sides_cover_every_pixel_once(size, tile, halo, depth, valid):
    model = UNet(1, 2, depth=depth, root=1, padding="valid" if valid else "same")
    seen = np.zeros(size, int)
    for side in sides(model, size, tile, halo):
        seen[side.place] += 1
        first, last = side.window
        assert (last - first - model.fitting_size(last - first)) == 0
        # What is kept lies where it belongs, with the halo around it.
        offset = model.shrink // 2
        assert first + offset + side.keep.start == side.place.start
        assert side.keep.stop - side.keep.start == side.place.stop - side.place.start
        assert side.keep.stop + model.shrink <= last - first
        if not valid and first > 0:
            assert side.place.start - first >= halo
        if not valid and last < size:
            assert last - side.place.stop >= halo
    assert (seen == 1).all()


@pytest.mark.parametrize("size", [1, 2, 7])
def test_mirroring_is_numpys(size):
    padded = np.pad(np.arange(size), (20, 15), mode="reflect")
    np.testing.assert_array_equal(mirrored(-20, size + 15, size), padded)


def test_windows_are_as_small_as_asked_for(rng):
    model = _unet(rng, root=2)
    shapes = []

    def read(rows, columns):
        shapes.append((len(rows), len(columns)))
        return np.zeros((len(rows), len(columns), 2), np.float32)

    places = [place for place, _ in predict_tiles(model, read, (1000, 700), tile=160)]
    assert len(places) == len(shapes) > 30
    assert max(map(max, shapes)) <= 160


def test_classes_are_those_of_the_scores(rng):
    model = _unet(rng, root=4)
    image = rng.integers(0, 255, (90, 130, 2)).astype(np.uint8)
    normal = lambda part: part.astype(np.float32) / 100 - 1  # noqa: E731
    classes = tiled_classes(model, image, normal, tile=80)
    assert classes.dtype == np.uint8
    np.testing.assert_array_equal(classes, _whole(model, normal(image)).argmax(axis=-1))


def test_a_network_of_unknown_reach_sees_the_whole_image():
    model = nn.Conv2d(1, 2, 5, padding=2)
    assert halo_of(model) is None
    x = np.random.default_rng(0).standard_normal((50, 60, 1)).astype(np.float32)
    whole = model(Tensor(x[None])).numpy()[0]
    seen = []
    np.testing.assert_array_equal(
        tiled_scores(model, x, 20, watch=lambda *n: seen.append(n)), whole
    )
    assert seen == [(0, 1)]
    for halo in (2, lambda model: 2):
        np.testing.assert_allclose(tiled_scores(model, x, 20, halo), whole, atol=1e-6)


def test_arguments_are_checked(rng):
    model = _unet(rng, root=2)
    x = np.zeros((30, 30, 2), np.float32)
    with pytest.raises(ValueError, match="predict_tiles: tile=0, expected 1 or more"):
        tiled_scores(model, x, 0)
    with pytest.raises(ValueError, match="predict_tiles: halo=-1, expected 0 or more"):
        tiled_scores(model, x, 20, halo=-1)
