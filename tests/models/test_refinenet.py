"""RefineNet against its table, and its parts against what they are without their weights."""

import numpy as np
import pytest

from minidl import Tensor, gradcheck, no_grad
from minidl.models import RefineNet
from minidl.models.refinenet import (
    ChainedResidualPooling,
    MultiResolutionFusion,
    RefineBlock,
    ResidualConvUnit,
)

from .test_contract import undrawn  # noqa: F401

full = pytest.mark.usefixtures("undrawn")


def _count(model):
    return sum(parameter.size for parameter in model.parameters())


def _normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


# ---- parameters and sizes -------------------------------------------------------------------


@full
@pytest.mark.parametrize(
    ("settings", "four", "two"),
    [
        ({"depth": 50}, 99_060_309, 90_802_773),
        ({"depth": 101}, 118_052_437, 109_794_901),
        ({"depth": 152}, 133_696_085, 125_438_549),
        ({"cascade": 2}, 87_969_109, 85_609_813),
        ({"cascade": 1}, 81_480_277, 80_300_629),
        ({"depth": 50, "scales": (1.2, 0.6)}, 159_139_989, 150_882_453),
        ({"scales": (1.2, 0.6)}, 197_124_245, 188_866_709),
    ],
)
def test_parameters(settings, four, two):
    assert _count(RefineNet(**settings)) == four
    assert _count(RefineNet(**settings, pools=2)) == two


@full
@pytest.mark.parametrize(
    ("pools", "counts"),
    [
        (4, [42_469_888, 12_387_584, 10_618_112, 10_028_288]),
        (2, [37_751_296, 11_207_936, 9_438_464, 8_848_640]),
    ],
)
def test_parameters_of_each_block(pools, counts):
    model = RefineNet(pools=pools)
    assert [_count(block) for block in model.blocks] == counts
    assert _count(model.scores) == 48_405


@pytest.mark.parametrize(
    ("side", "sides"),
    [(400, [100, 50, 25, 13]), (480, [120, 60, 30, 15]), (600, [150, 75, 38, 19])],
)
def test_sides(side, sides):
    model = RefineNet(3, 2, 18, width=1, upsample=False).eval()
    x = np.zeros((1, side, 33, 3), np.float32)
    with no_grad():
        maps = model.backbones[0](x)
        assert [y.shape[1] for y in maps] == sides
        assert model(x).shape == (1, sides[0], 9, 2)


@pytest.mark.parametrize("cascade", [1, 2, 4])
@pytest.mark.parametrize("scales", [(1.0,), (1.2, 0.6)])
def test_blocks_take_their_maps_deepest_first(cascade, scales):
    model = RefineNet(3, 2, 18, cascade, scales, width=1)
    groups = {1: [[512, 256, 128, 64]], 2: [[512, 256], [128, 64]], 4: [[512], [256], [128], [64]]}
    given = [[a[0].in_channels * 64 for a in block.adapt] for block in model.blocks]
    assert given == [[c for c in group for _ in scales] for group in groups[cascade]]
    joined = [[c.in_channels for c in getattr(b.fuse, "convs", ())] for b in model.blocks]
    widths = {1: [[8, 4, 4, 4]], 2: [[8, 4], [4, 4]], 4: [[8], [4], [4], [4]]}[cascade]
    expected, before = [], []
    for group in widths:
        taken = [c for c in group for _ in scales] + before
        expected.append(taken if len(taken) > 1 else [])
        before = [min(taken)]
    assert joined == expected


# ---- the parts ------------------------------------------------------------------------------


def test_unit_whose_second_convolution_is_zero_is_the_identity():
    unit, x = ResidualConvUnit(3), _normal(2, 5, 4, 3).astype(np.float32)
    assert np.abs(unit(x).numpy() - x).max() > 0.01
    unit.conv2.weight.data[...] = 0
    np.testing.assert_array_equal(unit(x).numpy(), x)
    assert unit.conv1.bias is not None and unit.conv2.bias is None


def test_unit_whose_first_convolution_is_zero_adds_what_its_bias_makes():
    unit, x = ResidualConvUnit(2).to(np.float64), _normal(1, 5, 5, 2)
    unit.conv1.weight.data[...] = 0
    unit.conv1.bias.data[...] = [3.0, -1.0]
    middle = unit(x).numpy()[0, 2, 2] - x[0, 2, 2]
    np.testing.assert_allclose(middle, 3 * unit.conv2.weight.numpy()[:, :, 0].sum(axis=(0, 1)))


@pytest.mark.parametrize("pools", [0, 2, 4])
def test_pooling_whose_convolutions_are_zero_is_a_relu(pools):
    part, x = ChainedResidualPooling(3, pools), _normal(1, 6, 7, 3).astype(np.float32)
    for conv in part.convs:
        conv.weight.data[...] = 0
    np.testing.assert_array_equal(part(x).numpy(), np.maximum(x, 0))


def test_pooling_whose_convolutions_are_the_identity_adds_maxima_of_growing_windows():
    part, x = ChainedResidualPooling(2, 3).to(np.float64), _normal(1, 17, 15, 2)
    for conv in part.convs:
        conv.weight.data[...] = 0
        conv.weight.data[1, 1] = np.eye(2)
    cut = np.maximum(x, 0)
    expected = cut.copy()
    for reach in (2, 4, 6):
        for h in range(17):
            for w in range(15):
                window = cut[
                    0, max(h - reach, 0) : h + reach + 1, max(w - reach, 0) : w + reach + 1
                ]
                expected[0, h, w] += window.max(axis=(0, 1))
    np.testing.assert_allclose(part(x).numpy(), expected, rtol=1e-12)


def test_fusion_makes_maps_alike_and_sums_them():
    fusion = MultiResolutionFusion([3, 2]).to(np.float64)
    assert [conv.out_channels for conv in fusion.convs] == [2, 2]
    coarse, fine = _normal(1, 3, 2, 3), _normal(1, 5, 4, 2, seed=1)
    small = fusion.convs[0](coarse).numpy()
    expected = fusion.convs[1](fine).numpy()
    for h in range(5):
        for w in range(4):
            r, c = h * (3 - 1) / (5 - 1), w * (2 - 1) / (4 - 1)  # corners on corners
            top, left = min(int(r), 1), min(int(c), 0)
            for i in (0, 1):
                for j in (0, 1):
                    share = (1 - abs(r - top - i)) * (1 - abs(c - left - j))
                    expected[:, h, w] += share * small[:, top + i, left + j]
    np.testing.assert_allclose(fusion(coarse, fine).numpy(), expected, rtol=1e-10, atol=1e-13)


def test_gradients_through_fusion():
    fusion = MultiResolutionFusion([3, 2, 2], rng=np.random.default_rng(2)).to(np.float64)
    shapes = (1, 2, 3, 3), (1, 5, 4, 2), (1, 3, 7, 2)
    maps = [Tensor(_normal(*shape), requires_grad=True) for shape in shapes]
    assert fusion(*maps).shape == (1, 5, 7, 2)
    assert gradcheck(fusion, maps)


@pytest.mark.parametrize("before", [None, 2])
@pytest.mark.parametrize("shapes", [[(4, 6)], [(3, 3), (8, 5)], [(1, 9), (2, 2), (4, 3), (5, 5)]])
def test_a_block_takes_any_number_of_maps_of_any_size(shapes, before):
    block = RefineBlock([3] * len(shapes), [4, 5, 6, 7][: len(shapes)], before, pools=1)
    maps = [np.zeros((2, *shape, 3), np.float32) for shape in shapes]
    if before:
        maps.append(np.zeros((2, 6, 2, before), np.float32))
    size = [max(x.shape[axis] for x in maps) for axis in (1, 2)]
    assert block.channels == (before or 4)
    assert block(*maps).shape == (2, *size, block.channels)
    with pytest.raises(ValueError, match=f"RefineBlock: takes {len(maps)} maps, but got"):
        block(*maps[1:])


# ---- the network ----------------------------------------------------------------------------


def test_dropout_is_at_the_two_coarsest_maps_and_in_front_of_the_scores():
    model = RefineNet(3, 2, 18, dropout=0.0, width=1, rng=np.random.default_rng(3))
    x = _normal(1, 64, 64, 3).astype(np.float32)
    seen = []
    model.dropout.forward = lambda x: seen.append(x.shape[1:]) or x
    model(x)
    assert seen == [(4, 4, 4), (2, 2, 8), (16, 16, 4)]


def test_first_weights_keep_the_scores_in_proportion():
    model = RefineNet(3, 2, 18, width=8, rng=np.random.default_rng(5))
    for conv in (*model.blocks[0].pool.convs, model.blocks[3].output[2].conv1):
        assert conv.weight.numpy().std() == pytest.approx(0.01 * (64 / 8) ** 0.5, rel=0.05)
    with no_grad():
        scores = model(_normal(1, 64, 96, 3).astype(np.float32)).numpy()
    assert 0 < scores.std() < 3


def test_every_scale_has_a_network_of_its_own():
    model = RefineNet(3, 2, 18, scales=(1.2, 0.6), width=1).eval()
    sizes = []
    for backbone in model.backbones:
        forward = backbone.forward
        backbone.forward = lambda x, forward=forward: sizes.append(x.shape[1:3]) or forward(x)
    with no_grad():
        assert model(np.zeros((1, 50, 35, 3), np.float32)).shape == (1, 50, 35, 2)
    assert sizes == [(60, 42), (30, 21)]
    assert not {id(p) for p in model.backbones[0].parameters()} & {
        id(p) for p in model.backbones[1].parameters()
    }


def test_scores_are_enlarged_to_the_image():
    model = RefineNet(3, 2, 18, width=2, rng=np.random.default_rng(4)).eval()
    x = _normal(1, 37, 50, 3).astype(np.float32)
    with no_grad():
        scores = model(x).numpy()
        model.upsample = False
        coarse = model(x).numpy()
    assert (scores.shape, coarse.shape) == ((1, 37, 50, 2), (1, 10, 13, 2))
    corners = np.s_[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    np.testing.assert_allclose(scores[corners], coarse[corners], rtol=1e-5)
    assert coarse.min() <= scores.min() < scores.max() <= coarse.max()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cascade": 3}, "RefineNet: cascade must be one of 1, 2, 4, but is 3"),
        ({"scales": ()}, "RefineNet: scales must be positive numbers, at least one"),
        ({"scales": (1, -1)}, "RefineNet: scales must be positive numbers"),
        ({"pools": -1}, "ChainedResidualPooling: pools must be an integer >= 0, but is -1"),
        ({"depth": 20}, "ResNet: depth must be one of 18"),
    ],
)
def test_unfit_arguments_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        RefineNet(3, 2, **({"depth": 18, "width": 1} | settings))
