"""Drawings of networks: what stands where, and what leads from one to the other."""

import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from minidl import functional as F
from minidl import models, nn
from minidl.drawing import Block, _draw_ways, _measure, _place, blocks_of, network
from minidl.summary import summary
from minidl.trace import trace


def drawn(net, shape, most=36):
    return blocks_of(trace(net, shape), most)


def kinds(blocks):
    return [block.kind for block in blocks]


def skips(ways):
    return [way for way in ways if way.end.column - way.start.column > 1]


def placed(net, shape, most=36):
    blocks, ways = drawn(net, shape, most)
    _place(blocks, ways)
    _measure(blocks)
    return blocks, ways


def test_a_unet_has_a_block_for_each_convolution_and_its_four_skips():
    blocks, ways = placed(models.UNet(1, 2, root=2, batch_norm=False), (1, 64, 64, 1))
    found = kinds(blocks)
    assert found[:5] == ["input", "convolution", "convolution", "pooling", "convolution"]
    assert found.count("pooling") == found.count("up-convolution") == 4
    assert found.count("convolution") == 2 * 9 + 1
    arches = skips(ways)
    assert len(arches) == 4
    assert all(way.start.output.shape == way.end.output.shape for way in arches)
    assert [block.lane for block in blocks] == [0] * len(blocks)
    assert [block.column for block in blocks] == list(range(len(blocks)))


def test_what_changes_no_shape_is_not_drawn():
    plain = drawn(models.UNet(1, 2, 3, 2, batch_norm=False), (1, 8, 8, 1))
    full = drawn(models.UNet(1, 2, 3, 2, dropout=0.5), (1, 8, 8, 1))
    assert kinds(plain[0]) == kinds(full[0])


def test_segnet_has_ways_for_its_positions():
    blocks, ways = drawn(models.SegNetBasic(3, 4, width=1), (1, 32, 48, 3))
    switches = [way for way in ways if way.switches]
    assert len(switches) == 4
    assert {(way.start.kind, way.end.kind) for way in switches} == {("pooling", "unpooling")}
    pools = [block for block in blocks if block.kind == "pooling"]
    unpools = [block for block in blocks if block.kind == "unpooling"]
    pairs = {(way.start, way.end) for way in switches}
    assert pairs == set(zip(pools, reversed(unpools), strict=True))


def test_sums_are_signs_and_shortcuts_stand_below():
    blocks, ways = placed(models.ResNet(18, num_classes=2, width=1), (1, 64, 64, 3))
    assert kinds(blocks).count("+") == 8
    below = [block for block in blocks if block.lane]
    assert len(below) == 3
    assert {block.kind for block in below} == {"convolution"}
    assert all(way.end.kind == "+" for way in ways if way.start in below)
    assert len(skips(ways)) == 8  # five identities, three projections


def test_layers_are_taken_together_until_there_are_few():
    net = models.ResNet(50, num_classes=2, width=1)
    for most in (40, 20, 8, 3):
        blocks, _ = drawn(net, (1, 64, 64, 3), most)
        assert len(blocks) <= most + 1
    stages = drawn(net, (1, 64, 64, 3), 8)[0]
    assert kinds(stages)[3:7] == ["Bottleneck"] * 4
    assert [block.note for block in stages[3:7]] == ["×3", "×4", "×6", "×3"]
    assert kinds(drawn(net, (1, 64, 64, 3), 3)[0])[1] == "ResNetBackbone"


def test_layers_of_nothing_but_convolutions_are_convolutions():
    blocks, _ = drawn(models.UNet(1, 2, 3, 2), (1, 8, 8, 1), 12)
    assert kinds(blocks)[:3] == ["input", "convolution", "pooling"]
    assert blocks[1].note == "×2"


def test_like_layers_are_opened_together():
    """Either all of a class or none."""
    one = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Sequential(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)))
    blocks, _ = drawn(one, (1, 4, 4, 1))
    assert kinds(blocks) == ["input"] + ["convolution"] * 3


def test_branches_of_a_sum_stand_below_each_other():
    class Pyramid(nn.Module):
        def __init__(self):
            super().__init__()
            self.rates = nn.ModuleList(
                nn.Conv2d(1, 1, 3, dilation=d, padding="same") for d in (1, 2, 3, 4)
            )

        def forward(self, x):
            return sum((rate(x) for rate in self.rates), 0 * x)

    blocks, ways = placed(Pyramid(), (1, 16, 16, 1))
    sums = [block for block in blocks if block.kind == "+"]
    assert len(sums) == 1
    assert sum(way.end is sums[0] for way in ways) == 5
    rates = [block for block in blocks if "convolution" in block.kind]
    assert {block.column for block in rates} == {1}
    assert sorted(block.lane for block in rates) == [0, 1, 2, 3]
    edges = sorted((b.y - b.height / 2, b.y + b.height / 2) for b in rates)
    assert all(below[1] < above[0] for below, above in zip(edges, edges[1:], strict=False))


def test_long_chains_of_sums_stay_chains():
    def net(x):
        total = x
        for _ in range(9):
            x = F.conv2d(x, np.ones((1, 1, 1, 1), np.float32))
            total = total + x
        return total

    assert kinds(drawn(net, (1, 4, 4, 1))[0]).count("+") > 1


def test_kinds_of_operations():
    def net(x):
        one = np.ones((2, 2, 1, 1), np.float32)
        y = F.conv2d(x, one, padding="same", dilation=2)
        y = F.interpolate(F.avg_pool2d(y, 2), scale_factor=2)
        y = F.concatenate([y * x, F.conv_transpose2d(x, one)[:, 1:, 1:]])
        y = F.interpolate(F.adaptive_avg_pool2d(y, 8), (8, 8))  # as it was
        return F.linear(y.flatten(1), np.ones((128, 5), np.float32))

    assert kinds(drawn(net, (1, 8, 8, 1))[0]) == [
        "input", "dilated convolution", "pooling", "resizing", "×", "up-convolution", "c",
        "fully connected",
    ]  # fmt: skip


def test_blocks_are_as_high_as_maps_and_as_wide_as_channels():
    net = nn.Sequential(
        nn.Conv2d(1, 8, 1), nn.Conv2d(8, 64, 1), nn.MaxPool2d(4), nn.Conv2d(64, 64, 1)
    )
    _, one, two, _, three = placed(net, (1, 64, 64, 1))[0]
    assert one.height == two.height == pytest.approx(2 * three.height)
    assert one.width < two.width == three.width
    assert one.x + one.width < two.x


def test_arches_do_not_cross_blocks_or_each_other():
    from matplotlib.figure import Figure

    blocks, ways = placed(models.UNet(1, 2, root=2), (1, 64, 64, 1))
    axes = Figure().add_subplot()
    top, bottom = _draw_ways(axes, blocks, ways)
    assert top > max(block.y + block.height / 2 for block in blocks)
    assert bottom < 0
    levels = []
    for way in skips(ways):
        between = [b for b in blocks if way.start.x <= b.x <= way.end.x]
        highest = max(b.y + b.height / 2 for b in between)
        lines = [p.get_path().vertices for p in axes.patches if len(p.get_path().vertices) > 4]
        mine = [v for v in lines if abs(v[0, 0] - way.start.x) < way.start.width]
        assert any(v[:, 1].max() > highest for v in mine)
        levels.append(highest)
    assert len(set(levels)) == 4


@pytest.mark.parametrize("ending", ["svg", "png"])
def test_pictures_of_all_kinds_of_networks(ending, tmp_path):
    nets = {
        "unet": (models.UNet(3, 2, 3, 2), (1, 16, 16, 3)),
        "fcn": (models.FCN8s(3, 2, width=1), (1, 64, 64, 3)),
        "wavenet": (nn.Sequential(nn.Conv1d(1, 2, 3), nn.ReLU()), (1, 50, 1)),
        "volume": (nn.Conv3d(1, 2, 3), (1, 8, 8, 8, 1)),
        "vector": (nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), (1, 3)),
    }
    for name, (net, shape) in nets.items():
        path = summary(net, shape).draw(tmp_path / f"{name}.{ending}")
        if ending == "png":
            with Image.open(path) as picture:
                assert min(picture.size) > 150
        else:
            assert ElementTree.parse(path).getroot().tag.endswith("svg")
    assert len(list(tmp_path.iterdir())) == len(nets)


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_it_says_channels_sizes_and_what_colours_mean():
    figure = network(trace(models.SegNetBasic(3, 4, width=5), (1, 32, 48, 3)), "A title")
    found = texts(figure)
    assert found[-1] == "A title"
    assert {"3", "5", "4", "32×48", "4×6"} <= set(found)
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["input", "convolution", "pooling", "unpooling", "positions of maxima"]
    square = texts(network(trace(nn.Conv2d(1, 2, 3), (1, 9, 9, 1))))
    assert "9²" in square and "7²" in square


def test_drawing_needs_a_name_it_can_draw_and_some_blocks(tmp_path):
    found = summary(nn.Conv2d(1, 2, 3), (1, 9, 9, 1))
    with pytest.raises(ValueError, match=r"net.doc: a picture must have a name that ends in one"):
        found.draw(tmp_path / "net.doc")
    with pytest.raises(ValueError, match="drawing: blocks must be 1 or more, but is 0"):
        found.draw(tmp_path / "net.svg", blocks=0)
    assert list(tmp_path.iterdir()) == []


def test_pyplot_is_left_alone():
    loaded = "matplotlib.pyplot" in sys.modules
    network(trace(nn.ReLU(), (1, 4, 4, 1)))
    assert ("matplotlib.pyplot" in sys.modules) == loaded


def test_a_sign_is_no_block():
    value = trace(nn.ReLU(), (1, 4, 4, 1)).input
    assert Block("+", [], value).is_join and not Block("input", [], value).is_join
