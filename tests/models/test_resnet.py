"""ResNet against its paper's tables, and what dilation and shortcuts promise."""

import numpy as np
import pytest

from minidl import Tensor, no_grad
from minidl.models import CifarResNet, ResNet, ResNetBackbone, resnet20, resnet56, resnet101
from minidl.models.resnet import BasicBlock, Bottleneck, Subsample, residual_stage


def _count(module):
    return sum(parameter.size for parameter in module.parameters())


def _images(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _unsettle(module, seed=0):
    """Moments and scales as after training, so that batch normalisation does something."""
    rng = np.random.default_rng(seed)
    state = module.state_dict()
    for name, value in state.items():
        if value.ndim == 1:
            value += np.abs(0.3 * rng.normal(size=value.shape)).astype(value.dtype)
            state[name] = value
    module.load_state_dict(state)
    return module.eval()


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_depth_counts_layers_with_weights(depth):
    model = ResNet(depth, width=1)
    names = [
        name
        for name, parameter in model.named_parameters()
        if parameter.ndim > 1 and "downsample" not in name
    ]
    assert len(names) == depth


def test_parameters_of_the_stages():
    model = ResNetBackbone(50)
    counts = [_count(getattr(model, f"layer{number}")) for number in (1, 2, 3, 4)]
    assert _count(model.conv1) == 9_408
    assert counts == [215_808, 1_219_584, 7_098_368, 14_964_736]
    assert _count(model) == 23_508_032


@pytest.mark.parametrize(
    ("depth", "count"),
    [(20, 269_722), (32, 464_154), (44, 658_586), (56, 853_018), (110, 1_727_962)],
)
def test_parameters_for_small_images(depth, count):
    model = CifarResNet(depth)
    assert _count(model) == count
    assert sum(parameter.ndim > 1 for parameter in model.parameters()) == depth


def test_shortcut_options_differ_in_projections_only():
    def count(option):
        return _count(CifarResNet(20, option=option))

    projections = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    assert count("B") - count("A") == projections
    everywhere = 3 * (16 * 16 + 2 * 16) + 2 * (32 * 32 + 2 * 32) + 2 * (64 * 64 + 2 * 64)
    assert count("C") - count("B") == everywhere


@pytest.mark.parametrize("stride_first", [False, True])
@pytest.mark.parametrize("depth", [18, 50])
def test_dilation_gives_the_same_results_and_more_of_them(depth, stride_first):
    """Each result of the striding network is one of the dilated network's, at any size."""
    x = _images(1, 75, 98, 3)

    def maps(output_stride):
        rng = np.random.default_rng(1)
        backbone = ResNetBackbone(depth, 3, output_stride, 4, stride_first, rng=rng)
        with no_grad():
            return [y.numpy() for y in _unsettle(backbone)(x)]

    striding = maps(32)
    for output_stride, apart in ((16, (1, 1, 1, 2)), (8, (1, 1, 2, 4))):
        for few, many, step in zip(striding, maps(output_stride), apart, strict=True):
            some = many[:, ::step, ::step]
            np.testing.assert_allclose(some, few, rtol=1e-4, atol=1e-4 * np.abs(few).max())


@pytest.mark.parametrize(
    ("output_stride", "ceil_mode", "size", "sizes"),
    [
        (32, False, 224, (56, 28, 14, 7)),
        (8, False, 321, (81, 41, 41, 41)),
        (8, False, 513, (129, 65, 65, 65)),
        (8, False, 306, (77, 39, 39, 39)),
        (8, False, 505, (127, 64, 64, 64)),
        (16, False, 321, (81, 41, 21, 21)),
        (8, False, 500, (125, 63, 63, 63)),
        (8, True, 500, (126, 63, 63, 63)),
        (32, False, 400, (100, 50, 25, 13)),
        (32, False, 1, (1, 1, 1, 1)),
    ],
)
def test_sizes_of_feature_maps(output_stride, ceil_mode, size, sizes):
    backbone = ResNetBackbone(18, 1, output_stride, 1, ceil_mode=ceil_mode).eval()
    with no_grad():
        maps = backbone(np.zeros((1, size, 9, 1), np.float32))
    assert tuple(y.shape[1] for y in maps) == sizes
    assert tuple(y.shape[3] for y in maps) == backbone.channels


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_a_block_that_adds_nothing_is_a_relu(block):
    channels = 4
    module = block(block.expansion * channels, channels, rng=np.random.default_rng(0))
    last = module.bn2 if block is BasicBlock else module.bn3
    last.weight.data[...] = 0
    x = Tensor(_images(2, 5, 6, block.expansion * channels), requires_grad=True)
    y = module(x)
    np.testing.assert_array_equal(y.numpy(), np.maximum(x.numpy(), 0))
    gy = _images(*y.shape, seed=1)
    y.backward(gy)
    np.testing.assert_array_equal(x.grad, gy * (x.numpy() > 0))


def test_where_the_stride_is():
    ours = Bottleneck(8, 4, 2, (1, 2))
    assert (ours.conv1.stride, ours.conv2.stride, ours.conv2.dilation) == (1, 2, 1)
    caffe = Bottleneck(8, 4, 2, (1, 2), stride_first=True)
    assert (caffe.conv1.stride, caffe.conv2.stride, caffe.conv2.dilation) == (2, 1, 2)
    basic = BasicBlock(8, 4, 2, (1, 2))
    assert (basic.conv1.dilation, basic.conv2.dilation) == (1, 2)
    stage = residual_stage(Bottleneck, 8, 4, 3, 1, (2, 4))
    assert [block.conv2.dilation for block in stage] == [2, 4, 4]


def test_a_shortcut_without_parameters_takes_every_second_pixel():
    x = _images(2, 5, 6, 3)
    y = Subsample(3, 8, 2)(x).numpy()
    assert y.shape == (2, 3, 3, 8)
    np.testing.assert_array_equal(y[..., 2:5], x[:, ::2, ::2])
    assert not y[..., :2].any()
    assert not y[..., 5:].any()


def test_names():
    assert resnet101(width=1).depth == 101
    assert (resnet20().depth, resnet56(width=1).depth) == (20, 56)
    assert _count(resnet20(num_classes=100)) == 269_722 + 90 * 65


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ResNet(51), r"ResNet: depth must be one of 18, 34, 50, 101, 152, but is 51"),
        (lambda: ResNet(50, output_stride=4), "output_stride must be one of 32, 16, 8, but is 4"),
        (lambda: ResNet(18, option="D"), "ResNet: option must be one of 'A', 'B', 'C'"),
        (lambda: CifarResNet(21), r"CifarResNet: depth must be 6 n \+ 2, such as 20, but is 21"),
        (lambda: CifarResNet(2), "CifarResNet: depth must be an integer >= 8, but is 2"),
    ],
)
def test_unfit_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
