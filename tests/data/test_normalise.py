"""Normaliser: zero mean, unit deviation, and no channel lost unseen."""

import json
from dataclasses import replace

import numpy as np
import pytest
from folders import noise

from minidl.data import DataError, Normaliser, normalise


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32", "float64"])
def test_mean_and_deviation_are_those_of_all_pixels(dtype):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 200, (h, 9, 3)).astype(dtype) for h in (5, 8, 30)]
    norm = Normaliser.from_images(iter(images))
    pixels = np.concatenate([image.reshape(-1, 3) for image in images]).astype(np.float64)
    np.testing.assert_allclose(norm.mean, pixels.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(norm.std, pixels.std(axis=0), rtol=1e-12)
    x = norm(images[0])
    assert x.dtype == np.float32 and x.flags.c_contiguous and x.shape == images[0].shape
    np.testing.assert_allclose(x, (images[0] - pixels.mean(0)) / pixels.std(0), atol=1e-5)


def test_parts_of_large_images_are_measured_like_wholes(monkeypatch):
    image = noise(size=(13, 17), channels=3)
    monkeypatch.setattr(normalise, "TOGETHER", 10)
    norm = Normaliser.from_images([image])
    np.testing.assert_allclose(norm.mean, image.mean((0, 1)), rtol=1e-12)
    np.testing.assert_allclose(norm.std, image.std((0, 1)), rtol=1e-12)


def test_each_image_may_have_a_normaliser_of_its_own():
    images = [noise(seed, channels=3) // (seed + 1) + 50 * np.uint8(seed) for seed in range(3)]
    norm = Normaliser.from_images(images)
    assert norm.of(images[1]) is norm
    norm = Normaliser.from_dict(json.loads(json.dumps(replace(norm, each=True).to_dict())))
    for image in images:
        own = norm.of(image)
        wanted = (image - image.mean((0, 1))) / image.std((0, 1))
        np.testing.assert_allclose(own(image), wanted, atol=1e-5)
        np.testing.assert_array_equal(own(image[2:5, 3:]), own(image)[2:5, 3:])
    with pytest.raises(DataError, match=r"x\.png: grey"):
        norm.of(noise(channels=1), "x.png")


def test_files_from_before_there_was_a_choice():
    state = {"mean": [1.0], "std": [2.0], "grey_as_colour": False}
    assert Normaliser.from_dict(state) == Normaliser((1.0,), (2.0,), each=False)


def test_large_offset_does_not_cancel():
    image = (1e9 + np.arange(12.0)).reshape(3, 4, 1)
    norm = Normaliser.from_images([image, image])
    np.testing.assert_allclose(norm.std, image.std(), rtol=1e-9)
    np.testing.assert_allclose(norm(image).std(), 1, rtol=1e-5)


@pytest.mark.parametrize("value", [0, 7, 0.1, 1e8 / 3])
def test_constant_channel_becomes_zero(value):
    image = np.full((4, 5, 1), value)
    norm = Normaliser.from_images([image] * 3)
    assert norm.std == (1.0,)
    np.testing.assert_allclose(norm(image), 0, atol=1e-6)


def test_input_is_not_changed():
    image = noise(channels=1).astype(np.float32)
    before = image.copy()
    Normaliser((1.0,), (2.0,))(image)
    np.testing.assert_array_equal(image, before)


def test_grey_stored_as_colour():
    grey, colour = noise(channels=1), noise(channels=3)
    norm = Normaliser.from_images([grey])
    np.testing.assert_array_equal(norm(np.dstack([grey] * 3)), norm(grey))
    with pytest.raises(
        DataError,
        match=r"x\.png: colour \(3 channels\), but the training images "
        r"were grey \(1 channel\)",
    ):
        norm(colour, "x.png")
    with pytest.raises(DataError, match=r"grey \(1 channel\), but .* colour \(3 channels\)"):
        Normaliser.from_images([colour])(grey)
    with pytest.raises(DataError, match=r"of 5 channels, but the training images were colour"):
        Normaliser.from_images([colour])(noise(channels=5))


def test_mixture_of_grey_and_colour():
    grey, colour = noise(1, channels=1), noise(2, channels=3)
    norm = Normaliser.from_images([grey, colour])
    as_colour = [np.dstack([grey] * 3), colour]
    np.testing.assert_allclose(norm.mean, np.concatenate(as_colour).mean(axis=(0, 1)))
    assert norm(grey).shape == colour.shape
    assert Normaliser.from_images([grey, np.dstack([grey] * 3)]).channels == 1
    with pytest.raises(DataError, match="images with 1 and 5 channels in one set"):
        Normaliser.from_images([grey, noise(channels=5)])


def test_survives_json():
    norm = Normaliser.from_images([noise(1, channels=1), noise(2, channels=3)])
    assert Normaliser.from_dict(json.loads(json.dumps(norm.to_dict()))) == norm


def test_what_cannot_be_measured():
    with pytest.raises(DataError, match="no images to measure"):
        Normaliser.from_images([])
    with pytest.raises(DataError, match="1 values are infinite or NaN"):
        Normaliser.from_images([np.array([[[np.nan], [1.0]]])])
    with pytest.raises(DataError, match=r"shape \(3, 4\), expected \(H, W, C\)"):
        Normaliser.from_images([np.zeros((3, 4))])
    with pytest.raises(DataError, match="type bool, expected integers or floats"):
        Normaliser.from_images([np.zeros((3, 4, 1), bool)])
    with pytest.raises(ValueError, match="1 means and 2 deviations"):
        Normaliser((0.0,), (1.0, 1.0))
    with pytest.raises(ValueError, match="expected finite and std positive"):
        Normaliser((0.0,), (0.0,))
