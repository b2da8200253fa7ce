"""DeconvNet against the numbers of its paper."""

import numpy as np
import pytest

from minidl import functional as F
from minidl import nn, no_grad, optim
from minidl.models import DeconvNet

# Channels that go in and come out, and what the paper's table has.
DOWN = [
    (3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 256),
    (256, 512), (512, 512), (512, 512), (512, 512), (512, 512), (512, 512),
]  # fmt: skip
UP = [
    (512, 512), (512, 512), (512, 512), (512, 512), (512, 512), (512, 256), (256, 256),
    (256, 256), (256, 128), (128, 128), (128, 64), (64, 64), (64, 64),
]  # fmt: skip


def _layers(model, kind):
    return [m for m in model.modules() if isinstance(m, kind)]


def test_parameters_follow_from_the_table():
    def counted(pairs):
        return [9 * before * after + after for before, after in pairs]

    down, up = counted(DOWN), counted(UP)
    assert sum(down) == 14_714_688
    stages = [up[:3], up[3:6], up[6:9], up[9:11], up[11:]]
    assert [sum(s) for s in stages] == [7_079_424, 5_899_520, 1_475_200, 221_376, 73_856]
    fc = 102_764_544 + 16_781_312 + 102_760_960
    assert fc == 49 * 512 * 4096 * 2 + 4096**2 + 4096 + 4096 + 512
    convolutions = sum(down) + sum(up) + fc + 64 * 21 + 21
    assert convolutions == 251_772_245
    maps = sum(after for _, after in DOWN + UP) + 2 * 4096 + 512
    assert maps == 16_704
    assert convolutions + 2 * maps == 251_805_653

    model = DeconvNet(3, 21, width=2)
    channels = [
        (c.in_channels, c.out_channels)
        for stage in (*model.encoder, *model.decoder)
        for c in _layers(stage, nn.Conv2d | nn.ConvTranspose2d)
    ]
    assert channels == [(a if a == 3 else a // 32, b // 32) for a, b in DOWN + UP]
    assert sum(norm.num_features for norm in _layers(model, nn.BatchNorm2d)) == maps // 32


@pytest.mark.slow
def test_parameters():
    assert sum(p.size for p in DeconvNet().parameters()) == 251_805_653


def test_every_layer_is_normalised_but_the_last():
    model = DeconvNet(3, 4, width=2)
    weighted = _layers(model, nn.Conv2d | nn.ConvTranspose2d)
    norms = _layers(model, nn.BatchNorm2d)
    assert len(weighted) == 13 + 2 + 1 + 13 + 1 == len(norms) + 1
    for norm in norms:
        assert norm.activation == "relu"
        assert np.all(norm.bias.data == np.float32(0.001))
    for layer in _layers(model.decoder, nn.ConvTranspose2d):
        assert (layer.kernel_size, layer.stride, layer.padding) == ((3, 3), 1, 1)
    new = [
        model.fc6[0],
        model.fc7[0],
        model.fc6_deconv[0],
        *_layers(model.decoder, nn.ConvTranspose2d),
    ]
    for layer in new:
        assert layer.weight.data.std() == pytest.approx(0.01, rel=0.35)
        assert abs(layer.weight.data).max() < 0.06


@pytest.mark.parametrize(("size", "bottom"), [((224, 224), 1), ((193, 224), 1), ((250, 260), 2)])
def test_sizes(size, bottom):
    model = DeconvNet(3, 4, width=1).eval()
    found = []
    forward = model.fc7.forward
    model.fc7.forward = lambda x: found.append(x.shape) or forward(x)
    with no_grad():
        x = np.zeros((1, *size, 3), np.float32)
        assert model(x).shape == (1, *size, 4)
    assert found[0][1] == bottom


def test_stages_of_224_pixels():
    model, sizes = DeconvNet(3, 4, width=1).eval(), []
    unpool = model.unpool.forward
    model.unpool.forward = lambda x, *rest: sizes.append(x.shape[1]) or unpool(x, *rest)
    with no_grad():
        model(np.zeros((1, 224, 224, 3), np.float32))
    assert sizes == [7, 14, 28, 56, 112]


def test_a_transposed_convolution_with_stride_1_is_one_with_the_kernel_turned():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 6, 7, 4))
    weight = rng.normal(size=(3, 3, 5, 4))  # of the transposed one: to 5 channels from 4
    turned = weight[::-1, ::-1].swapaxes(2, 3).copy()
    np.testing.assert_allclose(
        F.conv_transpose2d(x, weight, padding=1).numpy(),
        F.conv2d(x, turned, padding=1).numpy(),
        atol=1e-12,
    )


def test_one_image_of_224_pixels_is_too_little_to_train_on():
    model = DeconvNet(1, 2, width=1)
    x = np.zeros((1, 224, 224, 1), np.float32)
    with pytest.raises(ValueError, match=r"fc6\.1: batch_norm: expected more than one value"):
        model(x)
    optimizer = optim.SGD(model.parameters(), lr=0.01)
    F.cross_entropy(model(np.repeat(x, 2, 0)), np.zeros((2, 224, 224), int)).backward()
    optimizer.step()


def test_what_is_too_small_is_refused():
    with pytest.raises(ValueError, match=r"at least 193, but the image is 192 x 193\. Pad it to"):
        DeconvNet(1, 2, width=1)(np.zeros((1, 192, 193, 1), np.float32))
