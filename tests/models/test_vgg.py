"""VGG against table 1 of its paper."""

import numpy as np
import pytest

from minidl import no_grad
from minidl.models import VGG, vgg16, vgg19_bn
from minidl.models.vgg import conv_stage, stage_widths

LAYERS = {
    16: [
        (1_792, 36_928), (73_856, 147_584), (295_168, 590_080, 590_080),
        (1_180_160, 2_359_808, 2_359_808), (2_359_808,) * 3,
    ],
    19: [
        (1_792, 36_928), (73_856, 147_584), (295_168, 590_080, 590_080, 590_080),
        (1_180_160, 2_359_808, 2_359_808, 2_359_808), (2_359_808,) * 4,
    ],
}  # fmt: skip


def _count(module):
    return sum(parameter.size for parameter in module.parameters())


def _size(width, in_channels):
    return width * (9 * in_channels + 1)


@pytest.mark.parametrize("depth", LAYERS)
def test_parameters_of_each_convolution(depth):
    before = 3
    for widths, expected in zip(stage_widths(depth), LAYERS[depth], strict=True):
        assert tuple(_count(conv) for conv in conv_stage(before, widths)) == expected
        before = widths[-1]


@pytest.mark.parametrize(
    ("depth", "count"), [(11, 9_220_480), (13, 9_404_992), (16, 14_714_688), (19, 20_024_384)]
)
def test_parameters_of_all_convolutions(depth, count):
    before, total = 3, 0
    for widths in stage_widths(depth):
        for width in widths:
            total += _size(width, before)
            before = width
    assert total == count
    small = VGG(depth, width=1)
    before, total = 3, 0
    for widths in stage_widths(depth, 1):
        for width in widths:
            total += _size(width, before)
            before = width
    assert _count(small.stages) == total


@pytest.mark.parametrize("depth", [11, 13, 16, 19])
def test_depth_counts_layers_with_weights(depth):
    model = VGG(depth, width=1)
    assert sum(parameter.ndim > 1 for parameter in model.parameters()) == depth


def test_feature_maps_are_those_before_the_pooling():
    model = VGG(16, width=1, num_classes=3).eval()
    with no_grad():
        maps = model.feature_maps(np.zeros((1, 224, 224, 3), np.float32))
    assert [m.shape[1:] for m in maps] == [
        (224, 224, 1), (112, 112, 2), (56, 56, 4), (28, 28, 8), (14, 14, 8),
    ]  # fmt: skip


def test_the_average_does_nothing_at_224():
    model = VGG(11, width=1).eval()
    x = np.random.default_rng(0).normal(size=(1, 224, 224, 3)).astype(np.float32)
    with no_grad():
        pooled = model.pool(model.feature_maps(x)[-1])
        assert pooled.shape == (1, 7, 7, 8)
        np.testing.assert_array_equal(model.avgpool(pooled).numpy(), pooled.numpy())


def test_stages_go_without_padding_or_with_dilation():
    x = np.zeros((1, 20, 30, 3), np.float32)
    assert conv_stage(3, (4, 5))(x).shape == (1, 20, 30, 5)
    assert conv_stage(3, (4, 5), padding="valid")(x).shape == (1, 16, 26, 5)
    assert conv_stage(3, (4, 5), dilation=2)(x).shape == (1, 20, 30, 5)
    assert conv_stage(3, (4, 5), dilation=2, padding="valid")(x).shape == (1, 12, 22, 5)
    assert conv_stage(3, (4,), padding=100)(x).shape == (1, 218, 228, 4)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_every_convolution_ends_in_a_relu(batch_norm):
    stage = conv_stage(3, (8, 8, 8), batch_norm=batch_norm, rng=np.random.default_rng(0))
    x = np.random.default_rng(1).normal(size=(2, 9, 9, 3)).astype(np.float32)
    per_convolution = 2 if batch_norm else 1
    assert len(stage) == 3 * per_convolution
    for number, layer in enumerate(stage, 1):
        x = layer(x)
        if number % per_convolution == 0:
            assert x.numpy().min() == 0 < x.numpy().max()


def test_names():
    assert vgg16(width=1, num_classes=2).depth == 16
    model = vgg19_bn(width=1, in_channels=1)
    assert (model.depth, model.batch_norm, model.in_channels) == (19, True, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": 12}, "VGG: depth must be one of 11, 13, 16, 19, but is 12"),
        ({"width": 0}, "VGG: width must be an integer >= 1, but is 0"),
        ({"num_classes": 0}, "VGG: num_classes must be an integer >= 1, but is 0"),
    ],
)
def test_unfit_arguments_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        VGG(**settings)
