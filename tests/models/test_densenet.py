"""DenseNet against table 1 of its paper."""

import numpy as np
import pytest

from minidl import no_grad
from minidl.models import DenseNet, densenet161
from minidl.models.densenet import DenseBlock, DenseLayer, Transition


def _count(module):
    return sum(parameter.size for parameter in module.parameters())


@pytest.mark.parametrize("depth", [121, 161, 169, 201, 264])
def test_depth_counts_layers_with_weights(depth):
    model = DenseNet(depth, growth=1)
    layers = sum(parameter.ndim > 1 for parameter in model.parameters())
    assert layers == (265 if depth == 264 else depth)  # the paper's table does not add up to 264


@pytest.mark.parametrize(
    ("depth", "growth", "features"),
    [(121, 32, 1024), (169, 32, 1664), (201, 32, 1920), (264, 32, 2688), (161, 48, 2208)],
)
def test_features(depth, growth, features):
    """Channels grow by the growth rate, and halve between blocks."""
    small = DenseNet(depth, growth=2)
    assert small.channels[-1] * growth == 2 * features
    assert small.classifier.in_features == small.channels[-1]


def test_parameters_of_parts():
    assert _count(DenseLayer(64, 32)) == 2 * 64 + 64 * 128 + 2 * 128 + 9 * 128 * 32
    assert _count(Transition(256, 128)) == 2 * 256 + 256 * 128


def test_sizes():
    model = DenseNet(121, growth=2).eval()
    with no_grad():
        maps = model.feature_maps(np.zeros((1, 224, 224, 3), np.float32))
    assert [m.shape[1] for m in maps] == [56, 28, 14, 7]
    assert tuple(m.shape[3] for m in maps) == model.channels


def test_a_block_keeps_what_it_was_given_and_adds_to_it():
    block = DenseBlock(3, 4, 2, rng=np.random.default_rng(0)).eval()
    x = np.random.default_rng(1).normal(size=(1, 5, 6, 4)).astype(np.float32)
    y = block(x).numpy()
    assert y.shape == (1, 5, 6, 10)
    np.testing.assert_array_equal(y[..., :4], x)
    np.testing.assert_array_equal(y[..., 4:6], block[0](x).numpy())
    np.testing.assert_array_equal(y[..., 8:], block[2](y[..., :8]).numpy())


def test_dropout_drops_what_layers_add():
    layer = DenseLayer(4, 2, dropout=1.0)
    x = np.random.default_rng(0).normal(size=(2, 3, 3, 4)).astype(np.float32)
    assert not layer(x).numpy().any()
    assert layer.eval()(x).numpy().any()


def test_the_smallest_image_is_the_smallest_that_works():
    model = DenseNet(121, num_classes=2, growth=1).eval()
    model(np.zeros((1, 29, 30, 3), np.float32))
    model.smallest = 1  # the door open, it fails inside
    with pytest.raises(ValueError, match="transition3.pool: avg_pool2d"):
        model(np.zeros((1, 28, 32, 3), np.float32))


def test_names():
    assert densenet161(growth=1).depth == 161


def test_unfit_arguments_are_refused():
    with pytest.raises(ValueError, match="DenseNet: depth must be one of 121, 161, 169, 201, 264"):
        DenseNet(100)
    with pytest.raises(ValueError, match="DenseNet: growth must be an integer >= 1, but is 0"):
        DenseNet(121, growth=0)
