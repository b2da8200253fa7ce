"""Receptive fields: published numbers, and the three ways to them held against each other."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidl import functional as F
from minidl import nn
from minidl.models import UNet
from minidl.receptive_field import (
    ReceptiveField,
    bilinear,
    conv,
    conv_parameters,
    conv_transpose,
    dilated_stack,
    measured_receptive_field,
    nearest,
    pool,
    receptive_field,
    seen_by,
)


class TestParameters:
    @pytest.mark.parametrize(
        ("arguments", "count"),
        [
            ((3, 3, 64), 1_792),
            ((3, 64, 64), 36_928),
            ((7, 512, 4096), 102_764_544),
            ((1, 4096, 4096), 16_781_312),
            ((11, 3, 96), 34_944),
            (((3, 3, 3), 1, 32), 896),
            (((3, 3, 3), 32, 64), 55_360),
            (((3, 3, 3), 4, 16), 1_744),
            ((2, 128, 64), 32_832),
            (((5,), 4, 6), 126),
            ((3, 8, 8, 8), 80),
            ((3, 64, 64, 1, False), 36_864),
        ],
    )
    def test_counts(self, arguments, count):
        assert conv_parameters(*arguments) == count

    def test_layers_have_as_many(self):
        for layer, arguments in [
            (nn.Conv2d(4, 6, 3, groups=2), (3, 4, 6, 2)),
            (nn.Conv3d(4, 6, 3, bias=False), ((3, 3, 3), 4, 6, 1, False)),
            (nn.ConvTranspose2d(4, 6, 2, groups=2), (2, 4, 6, 2)),
        ]:
            assert sum(p.size for p in layer.parameters()) == conv_parameters(*arguments)


def test_edges_of_a_six_by_six_image():
    """Left half bright, right half dark: a vertical edge filter finds the edge, and only it."""
    image = np.zeros((6, 6), np.float32)
    image[:, :3] = 10
    filter = np.array([[1, 0, -1]] * 3, np.float32)
    y = F.conv2d(image[None, :, :, None], filter[:, :, None, None])
    np.testing.assert_array_equal(y.numpy()[0, :, :, 0], [[0, 30, 30, 0]] * 4)


class TestDilatedStack:
    @pytest.mark.parametrize(
        ("kernel_size", "s", "sizes"),
        [
            (3, 1, [1, 3, 7, 15, 31, 63, 127, 255, 511]),
            (3, 2, [1, 3, 9, 27, 81, 243]),
            (3, 0, [1, 3, 5, 7, 9]),
            (2, 1, [1, 2, 4, 8, 16]),
        ],
    )
    def test_sizes(self, kernel_size, s, sizes):
        assert [dilated_stack(n, kernel_size, s) for n in range(len(sizes))] == sizes

    def test_as_on_the_slide(self):
        assert [dilated_stack(n + 1) for n in range(8)] == [2 ** (n + 2) - 1 for n in range(8)]

    @given(st.integers(0, 6), st.integers(1, 5), st.integers(0, 4))
    def test_is_what_the_recurrence_gives(self, layers, kernel_size, s):
        chain = [conv(kernel_size, dilation=(s + 1) ** n) for n in range(layers)]
        assert receptive_field(chain).size == dilated_stack(layers, kernel_size, s)

    @pytest.mark.parametrize(("layers", "kernel_size", "s"), [(3, 3, 1), (2, 3, 2), (4, 2, 1)])
    def test_is_what_is_measured(self, layers, kernel_size, s):
        net = nn.Sequential(
            *(nn.Conv1d(1, 1, kernel_size, dilation=(s + 1) ** n) for n in range(layers))
        )
        size = dilated_stack(layers, kernel_size, s)
        assert measured_receptive_field(net, (1, size + 4, 1), [2]) == ((2, size + 1),)

    def test_out_of_range(self):
        with pytest.raises(ValueError, match="dilated_stack: layers and s must be at least 0"):
            dilated_stack(-1)


def _vgg(*convs_per_stage):
    chain, names = [], []
    for stage, convs in enumerate(convs_per_stage, 1):
        chain += [conv(3, padding=1)] * convs + [pool(2)]
        names += [f"conv{stage}_{i}" for i in range(1, convs + 1)] + [f"pool{stage}"]
    return [*chain, conv(7)], [*names, "fc6"]


def _sizes(chain):
    return [receptive_field(chain[: i + 1]).size for i in range(len(chain))]


class TestPublishedNumbers:
    def test_vgg16(self):
        chain, names = _vgg(2, 2, 3, 3, 3)
        assert dict(zip(names, _sizes(chain), strict=True)) == {
            "conv1_1": 3, "conv1_2": 5, "pool1": 6, "conv2_1": 10, "conv2_2": 14, "pool2": 16,
            "conv3_1": 24, "conv3_2": 32, "conv3_3": 40, "pool3": 44,
            "conv4_1": 60, "conv4_2": 76, "conv4_3": 92, "pool4": 100,
            "conv5_1": 132, "conv5_2": 164, "conv5_3": 196, "pool5": 212, "fc6": 404,
        }  # fmt: skip
        pool5 = receptive_field(chain[:-1])
        assert pool5 == ReceptiveField(212, 32, Fraction(31, 2))
        assert pool5.region(0) == (-90, 121)

    def test_vgg19(self):
        chain, names = _vgg(2, 2, 4, 4, 4)
        sizes = dict(zip(names, _sizes(chain), strict=True))
        assert [sizes[name] for name in ("conv5_1", "conv5_4", "pool5", "fc6")] == [
            156,
            252,
            268,
            460,
        ]

    def test_alexnet(self):
        chain = [
            conv(11, 4), pool(3, 2), conv(5, padding=2), pool(3, 2), conv(3, padding=1),
            conv(3, padding=1), conv(3, padding=1), pool(3, 2), conv(6),
        ]  # fmt: skip
        assert _sizes(chain) == [11, 19, 51, 67, 99, 131, 163, 195, 355]
        assert receptive_field(chain).jump == 32

    @pytest.mark.parametrize(
        ("blocks", "size"), [((2, 2, 2, 2), 435), ((3, 4, 6, 3), 899)], ids=["18", "34"]
    )
    def test_resnet(self, blocks, size):
        chain = [conv(7, 2, 3), pool(3, 2, 1)]
        for stage, count in enumerate(blocks):
            for block in range(count):
                stride = 2 if stage and not block else 1
                chain += [conv(3, stride, 1), conv(3, padding=1)]
        assert receptive_field(chain).size == size

    def test_context_module(self):
        chain = [conv(3, padding=d, dilation=d) for d in (1, 1, 2, 4, 8, 16, 1)] + [conv(1)]
        assert _sizes(chain) == [3, 5, 9, 17, 33, 65, 67, 67]

    def test_wavenet(self):
        block = [conv(2, dilation=2**n) for n in range(10)]
        assert receptive_field(block).size == 1024
        assert receptive_field(block * 3).size == 3070

    def test_kernel_of_seven(self):
        chain = [conv(7, dilation=d) for d in (1, 2, 4, 8, 16)] * 3
        assert receptive_field(chain).size == 559

    def test_fcn(self):
        chain, _ = _vgg(2, 2, 3, 3, 3)
        chain = [conv(3, padding=100), *chain[1:]]
        field = receptive_field(chain)
        assert (field.size, field.jump, field.start) == (404, 32, Fraction(25, 2))

    def test_unet(self):
        double = [conv(3), conv(3)]
        down = [*double, pool(2)] * 4 + double
        assert receptive_field(down) == ReceptiveField(140, 16, Fraction(139, 2))
        whole = down + [conv_transpose(2, 2), *double] * 4
        # The last two of the crops make the way through the bottom the widest.
        seen = {len(seen_by(whole, unit, 572)) for unit in range(100, 132)}
        assert seen == {188, 204}
        small = [*double, pool(2)] * 2 + double + [conv_transpose(2, 2), *double] * 2
        assert receptive_field(small).size == 44


class TestSteps:
    @pytest.mark.parametrize(
        ("step", "expected"),
        [
            (conv(3), ReceptiveField(3, 1, 1)),
            (conv(3, padding="same"), ReceptiveField(3, 1, 0)),
            (conv(4, padding="same"), ReceptiveField(4, 1, Fraction(1, 2))),
            (conv(3, padding="valid"), ReceptiveField(3, 1, 1)),
            (conv(3, padding=(2, 0)), ReceptiveField(3, 1, -1)),
            (conv(3, 2, 1, 2), ReceptiveField(5, 2, 1)),
            (pool(2), ReceptiveField(2, 2, Fraction(1, 2))),
            (pool(3, 2, 1), ReceptiveField(3, 2, 0)),
            (conv_transpose(2, 2), ReceptiveField(1, Fraction(1, 2), Fraction(-1, 4))),
            (conv_transpose(4, 2, 1), ReceptiveField(2, Fraction(1, 2), Fraction(-1, 4))),
            (nearest(2), ReceptiveField(1, Fraction(1, 2), Fraction(-1, 4))),
            (bilinear(4), ReceptiveField(2, Fraction(1, 4), Fraction(-3, 8))),
        ],
    )
    def test_one_step(self, step, expected):
        assert receptive_field([step]) == expected

    def test_pooling_and_enlarging_is_where_it_was(self):
        for up in (nearest(2), conv_transpose(2, 2)):
            field = receptive_field([pool(2), up])
            assert (field.jump, field.start) == (1, 0)

    def test_union(self):
        first, second = receptive_field([conv(3)]), receptive_field([conv(5, padding=1)])
        assert first.union(second) == ReceptiveField(5, 1, 1)
        assert first.union(first) == first
        with pytest.raises(ValueError, match="jump of 1 pixels, the other 2"):
            first.union(receptive_field([pool(2)]))

    def test_holes_are_seen(self):
        assert seen_by([conv(2), conv(2, dilation=5)], 0, 10) == [0, 1, 5, 6]

    def test_errors(self):
        with pytest.raises(ValueError, match="padding='same' with a stride depends on the size"):
            receptive_field([conv(3, 2, "same")])
        with pytest.raises(ValueError, match="the output has 3 units, there is no unit 3"):
            seen_by([conv(3)], 3, 5)


class TestModules:
    def test_chain(self):
        net = nn.Sequential(
            nn.Sequential(nn.Conv2d(1, 2, (3, 5), padding=((0, 1), (2, 2))), nn.BatchNorm2d(2)),
            nn.ReLU(),
            nn.MaxPool2d((2, 3)),
            nn.Conv2d(2, 2, 3, dilation=(1, 2), padding="same"),
            nn.AvgPool2d(2, 1),
            nn.Upsample(scale_factor=2, mode="bilinear"),
            nn.ConvTranspose2d(2, 1, 4, stride=2, padding=1),
        )
        rows = [conv(3, padding=(0, 1)), pool(2), conv(3, padding=1), pool(2, 1)]
        columns = [conv(5, padding=2), pool(3), conv(3, padding=2, dilation=2), pool(2, 1)]
        rest = [bilinear(2), conv_transpose(4, 2, 1)]
        assert receptive_field(net, axis=0) == receptive_field(rows + rest)
        assert receptive_field(net, axis=1) == receptive_field(columns + rest)
        assert seen_by(net, 3, 20, axis=1) == seen_by(columns + rest, 3, 20)

    @pytest.mark.parametrize(
        "layer", [UNet(1, 2, 2, 1), nn.Upsample((3, 3)), nn.Upsample(scale_factor=1.5)]
    )
    def test_what_is_no_chain(self, layer):
        with pytest.raises(TypeError, match=r"receptive_field: .*measured_receptive_field\(\)"):
            receptive_field(nn.Sequential(layer))


class TestMeasured:
    def test_unet(self):
        net = UNet(1, 2, depth=3, root=1, padding="valid", batch_norm=False)
        assert measured_receptive_field(net, (1, 48, 44, 1), (0, 0)) == ((0, 43), (0, 43))
        assert measured_receptive_field(net, (1, 48, 44, 1), (7, 3)) == ((4, 47), (0, 43))

    def test_gradient_of_maxima_is_too_small(self):
        net = nn.MaxPool1d(3)
        assert measured_receptive_field(net, (1, 9, 1), [1], maxima=False) == ((3, 3),)
        assert measured_receptive_field(net, (1, 9, 1), [1]) == ((3, 5),)

    def test_takes_functions(self):
        assert measured_receptive_field(lambda x: F.avg_pool2d(x, 2), (1, 6, 8, 2)) == (
            (2, 3),
            (4, 5),
        )

    def test_leaves_the_module_as_it_was(self):
        net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
        before = net.state_dict()
        measured_receptive_field(net, (1, 5, 5, 1))
        assert net.training
        for name, value in net.state_dict().items():
            np.testing.assert_array_equal(value, before[name])

    def test_nothing_seen(self):
        with pytest.raises(ValueError, match=r"unit at \(2,\) depends on no pixel"):
            measured_receptive_field(lambda x: x * 0, (1, 5, 1))


STEPS = {
    "conv": st.tuples(
        st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.integers(1, 3)
    ).map(lambda a: (nn.Conv1d(1, 1, *a), conv(*a))),
    "same": st.tuples(st.integers(1, 4), st.integers(1, 2)).map(
        lambda a: (
            nn.Conv1d(1, 1, a[0], padding="same", dilation=a[1]),
            conv(a[0], padding="same", dilation=a[1]),
        )
    ),
    "max": st.tuples(st.integers(1, 3), st.integers(1, 3)).map(
        lambda a: (nn.MaxPool1d(*a), pool(*a))
    ),
    "mean": st.tuples(st.integers(2, 3), st.integers(1, 3), st.integers(0, 1)).map(
        lambda a: (nn.AvgPool1d(*a), pool(*a))
    ),
}
ENLARGING = {
    "transposed": st.tuples(
        st.integers(2, 4), st.integers(1, 2), st.integers(0, 1), st.just(0), st.integers(1, 2)
    ).map(lambda a: (nn.ConvTranspose1d(1, 1, *a[:4], dilation=a[4]), conv_transpose(*a))),
    "nearest": st.integers(1, 3).map(lambda s: (nn.Upsample(scale_factor=s), nearest(s))),
    "linear": st.integers(1, 3).map(
        lambda s: (nn.Upsample(scale_factor=s, mode="linear"), bilinear(s))
    ),
}


def _fits(chain, size):
    for _, step in chain:
        size = step.out_size(size)
        if size < 1:
            return False
    return True


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.one_of(*STEPS.values(), *ENLARGING.values()), min_size=1, max_size=5),
    st.integers(8, 24),
    st.data(),
)
def test_what_is_measured_is_what_the_taps_say(chain, size, data):
    if not _fits(chain, size):
        return
    net, steps = nn.Sequential(*(layer for layer, _ in chain)), [step for _, step in chain]
    units = size
    for step in steps:
        units = step.out_size(units)
    unit = data.draw(st.integers(0, units - 1))
    expected = seen_by(net, unit, size)
    assert expected == seen_by(steps, unit, size)
    if expected:
        measured = measured_receptive_field(net, (1, size, 1), [unit])
        assert measured == ((expected[0], expected[-1]),)


@given(st.lists(st.one_of(*STEPS.values()), min_size=1, max_size=5), st.integers(8, 40), st.data())
@settings(deadline=None)
def test_the_recurrence_is_what_the_taps_say(chain, size, data):
    steps = [step for _, step in chain]
    if not _fits(chain, size):
        return
    units = size
    for step in steps:
        units = step.out_size(units)
    unit = data.draw(st.integers(0, units - 1))
    first, last = receptive_field(steps).region(unit)
    seen = seen_by(steps, unit, size)
    if first >= 0 and last < size:  # inside, nothing is cut off
        assert (seen[0], seen[-1]) == (first, last)
    else:
        assert all(first <= position <= last for position in seen)
