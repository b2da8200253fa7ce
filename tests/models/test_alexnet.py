"""AlexNet against figure 2 of its paper, and the network of 2014."""

import numpy as np
import pytest

from minidl import no_grad
from minidl.models import AlexNet, alexnet


def _counts(model):
    return [
        sum(parameter.size for parameter in layer.parameters())
        for layer in (model.conv1, model.conv2, model.conv3, model.conv4, model.conv5)
    ]


def _expected(in_channels, channels, groups, shrink):
    """Parameters of convolutions 11x11, 5x5, and three of 3x3."""
    channels = [count // shrink for count in channels]
    inputs = [in_channels, *channels]
    return [
        size * size * before // group * after + after
        for size, before, after, group in zip(
            (11, 5, 3, 3, 3), inputs, channels, groups, strict=False
        )
    ]


PAPER = (96, 256, 384, 384, 256), (1, 2, 1, 2, 2)
COLUMN = (64, 192, 384, 256, 256), (1, 1, 1, 1, 1)


def test_parameters_of_each_convolution():
    assert _expected(3, *PAPER, 1) == [34_944, 307_456, 885_120, 663_936, 442_624]
    assert _expected(3, *COLUMN, 1) == [23_296, 307_392, 663_936, 884_992, 590_080]
    for shrink in (8, 16):
        assert _counts(AlexNet(shrink=shrink)) == _expected(3, *PAPER, shrink)
        column = AlexNet(one_column=True, shrink=shrink)
        assert _counts(column) == _expected(3, *COLUMN, shrink)


@pytest.mark.parametrize(("one_column", "size"), [(False, 227), (True, 224)])
def test_sizes(one_column, size):
    model = AlexNet(one_column=one_column, shrink=16).eval()
    with no_grad():
        maps = model.feature_maps(np.zeros((1, size, size, 3), np.float32))
        assert [m.shape[1] for m in maps] == [55, 27, 13]
        pooled = model.pool(maps[-1])
        assert pooled.shape[1:3] == (6, 6)
        np.testing.assert_array_equal(model.avgpool(pooled).numpy(), pooled.numpy())


def test_normalisation_is_the_papers():
    """b = a / (2 + 1e-4 * sum of the squares of five neighbours) ** 0.75."""
    a = 50 * np.random.default_rng(0).normal(size=(1, 2, 3, 7))
    squares = np.pad(a**2, ((0, 0), (0, 0), (0, 0), (2, 2)))
    sums = sum(squares[..., i : i + 7] for i in range(5))
    expected = a / (2 + 1e-4 * sums) ** 0.75
    np.testing.assert_allclose(AlexNet(shrink=16).norm1(a).numpy(), expected, rtol=1e-10)


def test_the_two_halves_meet_where_they_do_in_the_paper():
    """The second half of conv2 does not depend on the first half of conv1; that of conv3 does."""
    model = AlexNet(shrink=16, rng=np.random.default_rng(0)).eval()
    x = np.abs(np.random.default_rng(1).normal(size=(1, 9, 9, 6))).astype(np.float32)
    other = x.copy()
    other[..., :3] += 1
    with no_grad():
        before, after = (model.conv2(images).numpy() for images in (x, other))
        np.testing.assert_array_equal(before[..., 8:], after[..., 8:])
        assert (before[..., :8] != after[..., :8]).any()
        before, after = (model.conv3(y).numpy() for y in (before, after))
        assert (before[..., 12:] != after[..., 12:]).any()


def test_dropout_is_where_each_network_has_it():
    kinds = [type(part).__name__ for part in AlexNet(shrink=16).classifier]
    assert kinds == ["Linear", "ReLU", "Dropout", "Linear", "ReLU", "Dropout", "Linear"]
    kinds = [type(part).__name__ for part in alexnet(one_column=True, shrink=16).classifier]
    assert kinds == ["Dropout", "Linear", "ReLU", "Dropout", "Linear", "ReLU", "Linear"]


def test_unfit_arguments_are_refused():
    with pytest.raises(ValueError, match="AlexNet: shrink must be one of 1, 2, 4, 8, 16, but is 3"):
        AlexNet(shrink=3)
