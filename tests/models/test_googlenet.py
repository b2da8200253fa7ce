"""GoogLeNet against table 1 of its paper."""

import numpy as np
import pytest

from minidl import no_grad
from minidl.models import GoogLeNet, googlenet
from minidl.models.googlenet import CHANNELS, AuxiliaryHead, Inception

INPUTS = {
    "3a": 192, "3b": 256, "4a": 480, "4b": 512, "4c": 512, "4d": 512, "4e": 528, "5a": 832,
    "5b": 832,
}  # fmt: skip
MODULES = {
    "3a": 163_696, "3b": 388_736, "4a": 376_176, "4b": 449_160, "4c": 510_104, "4d": 605_376,
    "4e": 868_352, "5a": 1_043_456, "5b": 1_444_080,
}  # fmt: skip


def _count(module):
    return sum(parameter.size for parameter in module.parameters())


@pytest.mark.parametrize("name", MODULES)
def test_parameters_of_modules(name):
    assert _count(Inception(INPUTS[name], CHANNELS[name])) == MODULES[name]


def test_parameters_of_heads():
    assert _count(AuxiliaryHead(512, 1000)) == 3_188_840
    assert _count(AuxiliaryHead(528, 1000)) == 3_190_888


@pytest.mark.parametrize("batch_norm", [False, True])
def test_sizes(batch_norm):
    model = GoogLeNet(batch_norm=batch_norm, shrink=8).eval()
    with no_grad():
        maps = model.feature_maps(np.zeros((1, 224, 224, 3), np.float32))
    assert [m.shape[1] for m in maps] == [112, 56, 28, 14, 7]
    assert [8 * m.shape[3] for m in maps] == [64, 192, 480, 832, 1024]


def test_heads_of_the_paper_have_4x4_bins_at_224():
    head = AuxiliaryHead(8, 3, shrink=8)
    x = np.random.default_rng(0).normal(size=(1, 14, 14, 8))
    expected = [
        [x[0, i : i + 5, j : j + 5].mean((0, 1)) for j in (0, 3, 6, 9)] for i in (0, 3, 6, 9)
    ]
    np.testing.assert_allclose(head.pool(x).numpy()[0], expected, rtol=1e-10)


def test_branches_lie_beside_each_other():
    module = Inception(6, (1, 2, 3, 4, 5, 7), rng=np.random.default_rng(0))
    x = np.random.default_rng(1).normal(size=(1, 6, 5, 6)).astype(np.float32)
    y = module(x).numpy()
    assert y.shape == (1, 6, 5, 16)
    np.testing.assert_array_equal(y[..., 1:4], module.branch2(x).numpy())
    np.testing.assert_array_equal(y[..., 9:], module.branch4(x).numpy())
    assert module.branch3[1].conv.kernel_size == (5, 5)
    assert Inception(6, (1,) * 6, batch_norm=True).branch3[1].conv.kernel_size == (3, 3)


def test_heads_speak_in_training_only():
    x = np.zeros((2, 80, 80, 3), np.float32)
    model = googlenet(num_classes=5, shrink=8)
    assert [scores.shape for scores in model(x)] == [(2, 5)] * 3
    assert model.eval()(x).shape == (2, 5)
    assert GoogLeNet(num_classes=5, auxiliary=False, shrink=8)(x).shape == (2, 5)


@pytest.mark.parametrize(
    ("settings", "smallest"),
    [({"batch_norm": True}, 15), ({}, 79), ({"auxiliary": False}, 31)],
)
def test_the_smallest_image_is_the_smallest_that_works(settings, smallest):
    model = GoogLeNet(num_classes=2, shrink=8, **settings)
    model(np.zeros((2, smallest, smallest + 1, 3), np.float32))
    model.smallest = 1  # the door open, it fails inside
    with pytest.raises(ValueError, match="pool"):
        model(np.zeros((2, smallest - 1, smallest, 3), np.float32))


def test_unfit_arguments_are_refused():
    with pytest.raises(ValueError, match="GoogLeNet: shrink must be one of 1, 2, 4, 8, but is 16"):
        GoogLeNet(shrink=16)
