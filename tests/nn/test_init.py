"""First values: their spread, their seeds, and the values that are known exactly."""

import numpy as np
import pytest

from minidl import functional as F
from minidl import nn, random
from minidl.nn import init

SHAPE = (3, 3, 64, 96)
FAN_IN, FAN_OUT = 576, 864
SPREADS = {
    "he_normal": np.sqrt(2 / FAN_IN),
    "he_uniform": np.sqrt(2 / FAN_IN),
    "glorot_normal": np.sqrt(2 / (FAN_IN + FAN_OUT)),
    "glorot_uniform": np.sqrt(2 / (FAN_IN + FAN_OUT)),
    "normal": 1.0,
    "truncated_normal": 0.87962566,
    "uniform": np.sqrt(1 / 12),
}


@pytest.mark.parametrize("name", SPREADS)
def test_spread(name):
    values = getattr(init, name)(SHAPE, np.random.default_rng(0))
    assert values.shape == SHAPE
    assert values.dtype == np.float32
    mean = 0.5 if name == "uniform" else 0
    assert values.std() == pytest.approx(SPREADS[name], rel=0.01)
    assert abs(values.mean() - mean) < 0.02 * SPREADS[name]


@pytest.mark.parametrize(
    ("name", "limit"),
    [("he_uniform", np.sqrt(6 / FAN_IN)), ("glorot_uniform", np.sqrt(6 / (FAN_IN + FAN_OUT)))],
)
def test_uniform_values_stay_within_their_limit(name, limit):
    values = getattr(init, name)(SHAPE, np.random.default_rng(0), np.float64)
    assert 0.99 * limit < abs(values).max() <= limit


def test_truncated_values_stay_within_two_deviations():
    values = init.truncated_normal(SHAPE, np.random.default_rng(0), np.float64, mean=3.0, std=0.1)
    assert 0.199 < abs(values - 3).max() <= 0.2
    # As many in the outermost tenth as the normal distribution has there, of what it keeps.
    assert np.mean(abs(values - 3) > 0.18) == pytest.approx(0.02636 / 0.9545, rel=0.1)


def test_he_normal_of_the_paper():
    # U-Net, section 3: a 3x3 convolution of 64 channels has N = 576.
    values = init.he_normal((3, 3, 64, 2000), np.random.default_rng(0))
    assert values.std() == pytest.approx(0.0589255651, rel=2e-3)


def test_fans():
    assert init.fans((3, 3, 64, 128)) == (576, 1152)
    assert init.fans((10, 20)) == (10, 20)
    with pytest.raises(ValueError, match=r"fans: weights have at least.*shape is \(3,\)"):
        init.fans((3,))


@pytest.mark.parametrize("name", SPREADS)
def test_same_seed_same_values(name):
    function = getattr(init, name)
    given = function((2, 3, 4), np.random.default_rng(5))
    random.manual_seed(5)
    np.testing.assert_array_equal(function((2, 3, 4)), given)
    assert not np.array_equal(function((2, 3, 4)), given)


def test_constants():
    np.testing.assert_array_equal(init.zeros((2, 3)), np.zeros((2, 3)))
    np.testing.assert_array_equal(init.ones((2, 3), dtype=np.float64), np.ones((2, 3)))


@pytest.mark.parametrize(
    ("size", "taps"),
    [
        (2, [0.5, 0.5]),
        (3, [0.5, 1, 0.5]),
        (4, [0.25, 0.75, 0.75, 0.25]),
        (5, [1 / 3, 2 / 3, 1, 2 / 3, 1 / 3]),
        (8, np.array([1, 3, 5, 7, 7, 5, 3, 1]) / 8),
        (16, np.array([*range(1, 16, 2), *range(15, 0, -2)]) / 16),
    ],
)
def test_bilinear_taps(size, taps):
    np.testing.assert_allclose(init.bilinear((size, 1, 1)).ravel(), taps, rtol=1e-6)
    weight = init.bilinear((size, size, 3, 3), dtype=np.float64)
    for f in range(3):
        for c in range(3):
            expected = np.outer(taps, taps) if f == c else np.zeros((size, size))
            np.testing.assert_allclose(weight[:, :, f, c], expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("x", "size", "stride", "padding", "expected"),
    [
        ([1, 1, 1, 1], 4, 2, 1, [0.75, 1, 1, 1, 1, 1, 1, 0.75]),
        ([0, 1, 2, 3], 4, 2, 1, [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 2.25]),
        (
            [1, 1],
            16,
            8,
            4,
            [0.5625, 0.6875, 0.8125, 0.9375, *[1] * 8, 0.9375, 0.8125, 0.6875, 0.5625],
        ),
    ],
)
def test_bilinear_enlarges(x, size, stride, padding, expected):
    x = np.array(x, np.float32).reshape(1, -1, 1)
    y = F.conv_transpose1d(x, init.bilinear((size, 1, 1)), stride=stride, padding=padding)
    np.testing.assert_allclose(y.numpy().ravel(), expected, rtol=1e-6)


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_bilinear_enlarges_each_channel_by_itself(groups):
    x = np.random.default_rng(0).normal(size=(1, 5, 4, 6)).astype(np.float32)
    weight = init.bilinear((4, 4, 6 // groups, 6))
    y = F.conv_transpose2d(x, weight, stride=2, padding=1, groups=groups).numpy()
    for c in range(6):
        alone = F.conv_transpose2d(
            np.ascontiguousarray(x[..., c : c + 1]),
            init.bilinear((4, 4, 1, 1)),
            stride=2,
            padding=1,
        )
        np.testing.assert_allclose(y[..., c], alone.numpy()[..., 0], rtol=1e-5, atol=1e-6)


def test_bilinear_needs_as_many_features_as_channels():
    with pytest.raises(ValueError, match="as many features F as channels C"):
        init.bilinear((4, 4, 3, 5))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
def test_identity_hands_channels_on(groups, dilation):
    x = np.random.default_rng(0).normal(size=(1, 5, 4, 6)).astype(np.float32)
    weight = init.identity((3, 3, 6 // groups, 6), groups=groups)
    y = F.conv2d(x, weight, padding="same", dilation=dilation, groups=groups)
    np.testing.assert_array_equal(y.numpy(), x)


def test_identity_of_unequal_channels():
    x = np.random.default_rng(0).normal(size=(1, 5, 6)).astype(np.float32)
    fewer = F.conv1d(x, init.identity((3, 6, 4)), padding="same").numpy()
    np.testing.assert_array_equal(fewer, x[..., :4])
    more = F.conv1d(x, init.identity((3, 6, 8)), padding="same").numpy()
    np.testing.assert_array_equal(more[..., :6], x)
    assert (more[..., 6:] == 0).all()
    with pytest.raises(ValueError, match="3 features do not divide into 2 groups"):
        init.identity((3, 3, 3), groups=2)


@pytest.mark.parametrize(
    ("layer", "fan_in"),
    [
        (lambda rng: nn.Conv2d(64, 128, 3, rng=rng), 576),
        (lambda rng: nn.Conv2d(64, 128, 3, groups=4, rng=rng), 144),
        (lambda rng: nn.Conv1d(64, 128, 5, rng=rng), 320),
        (lambda rng: nn.Conv3d(16, 32, 3, rng=rng), 432),
        (lambda rng: nn.Linear(100, 200, rng=rng), 100),
        (lambda rng: nn.ConvTranspose2d(128, 64, 2, stride=2, rng=rng), 128),
        (lambda rng: nn.ConvTranspose2d(64, 32, 4, stride=2, groups=2, rng=rng), 128),
        (lambda rng: nn.ConvTranspose1d(64, 32, 3, rng=rng), 192),
        (lambda rng: nn.ConvTranspose3d(32, 16, 2, stride=2, rng=rng), 32),
    ],
)
def test_layers_start_by_he_with_zero_bias(layer, fan_in):
    module = layer(np.random.default_rng(0))
    assert module.weight.numpy().std() == pytest.approx(np.sqrt(2 / fan_in), rel=0.03)
    np.testing.assert_array_equal(module.bias.numpy(), 0)
    again = layer(np.random.default_rng(0))
    np.testing.assert_array_equal(again.weight.numpy(), module.weight.numpy())
