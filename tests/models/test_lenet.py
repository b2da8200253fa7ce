"""LeNet-5 against section II.B of its paper."""

import numpy as np
import pytest

from minidl import Tensor, no_grad
from minidl import functional as F
from minidl.models import LeNet5, lenet5
from minidl.models.lenet import ALL, FOURS, THREES, PartialConv, Squash, Subsampling, digit_codes


def _count(module):
    return sum(parameter.size for parameter in module.parameters())


def test_parameters_of_each_layer():
    model = lenet5()
    counts = {name: _count(layer) for name, layer in model.named_children()}
    assert counts == {
        "c1": 156, "s2": 12, "c3": 1_516, "s4": 32, "c5": 48_120, "f6": 10_164, "output": 0,
    }  # fmt: skip


def test_connections_of_each_layer():
    """Trained numbers times the places where they are used, the paper's second count."""
    model = LeNet5()
    with no_grad():
        c1, c3, c5 = model.feature_maps(np.zeros((1, 32, 32, 1), np.float32))
    assert (c1.shape, c3.shape, c5.shape) == ((1, 28, 28, 6), (1, 10, 10, 16), (1, 1, 1, 120))
    assert _count(model.c1) * 28 * 28 == 122_304
    assert _count(model.c3) * 10 * 10 == 151_600
    # Four inputs and a bias each.
    assert 5 * model.s2(c1).numpy().size == 5_880
    assert 5 * model.s4(c3).numpy().size == 2_000


def test_table_of_connections():
    """Each map of s2 feeds ten of c3, and all choices are different ones."""
    table = [*THREES, *FOURS, *ALL]
    assert len({tuple(sorted(inputs)) for inputs in table}) == len(table) == 16
    assert np.bincount(np.concatenate(table)).tolist() == [10] * 6


def test_partial_connections_are_a_convolution_with_zeros():
    layer = PartialConv(np.random.default_rng(0))
    weight, bias = np.zeros((5, 5, 6, 16), np.float32), np.zeros(16, np.float32)
    place = 0
    for conv, table in ((layer.threes, THREES), (layer.fours, FOURS), (layer.all, ALL)):
        conv.bias.data[...] = np.random.default_rng(place).normal(size=len(table))
        for number, inputs in enumerate(table):
            for position, channel in enumerate(inputs):
                weight[:, :, channel, place] = conv.weight.numpy()[:, :, position, number]
            bias[place] = conv.bias.numpy()[number]
            place += 1
    x = np.random.default_rng(1).normal(size=(2, 14, 14, 6)).astype(np.float32)
    expected = F.conv2d(x, weight, bias).numpy()
    np.testing.assert_allclose(layer(x).numpy(), expected, rtol=1e-4, atol=1e-5)


def test_subsampling_adds_up_and_scales():
    layer = Subsampling(2)
    layer.weight.data[...], layer.bias.data[...] = [2, -1], [0.5, 3]
    x = np.arange(32, dtype=np.float32).reshape(1, 4, 4, 2)
    sums = x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]
    expected = sums * np.float32([2, -1]) + np.float32([0.5, 3])
    np.testing.assert_allclose(layer(x).numpy(), expected, rtol=1e-6)


def test_squashing_keeps_ones():
    y = Squash()(np.array([-100.0, -1.0, 0.0, 1.0, 100.0])).numpy()
    np.testing.assert_allclose(y, [-1.7159, -1, 0, 1, 1.7159], atol=1e-4)


def test_codes_of_the_digits_are_far_apart():
    codes = digit_codes()
    assert codes.shape == (10, 84)
    assert set(np.unique(codes)) == {-1, 1}
    different = [np.sum(a != b) for i, a in enumerate(codes) for b in codes[:i]]
    assert min(different) >= 8


def test_scores_are_negative_distances_from_the_codes():
    model = LeNet5()
    codes = digit_codes().astype(np.float32)
    scores = model.output(Tensor(np.concatenate([codes, codes / 2]))).numpy()
    expected = -((np.concatenate([codes, codes / 2])[:, None] - codes) ** 2).sum(-1)
    np.testing.assert_allclose(scores, expected, rtol=1e-6)
    assert (scores.argmax(-1) == np.tile(np.arange(10), 2)).all()


def test_first_weights():
    """Evenly within 2.4 / fan-in."""
    model = LeNet5(rng=np.random.default_rng(0))
    for layer, fan_in in ((model.c1[0], 25), (model.c3[0].fours, 100), (model.f6[0], 120)):
        largest = np.abs(layer.weight.numpy()).max()
        assert 0.9 * 2.4 / fan_in < largest <= 2.4 / fan_in


def test_other_numbers_of_classes_have_random_codes():
    first, same, other = (LeNet5(1, 26, rng=np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert first.output.codes.shape == (26, 84)
    np.testing.assert_array_equal(first.output.codes, same.output.codes)
    assert (first.output.codes != other.output.codes).any()
    assert first(np.zeros((3, 32, 32, 1), np.float32)).shape == (3, 26)


def test_a_larger_image_is_refused():
    with pytest.raises(ValueError, match=r"must be 32, but the image is 32 x 64\. Resize it"):
        LeNet5()(np.zeros((1, 32, 64, 1), np.float32))
