"""Receptive fields of whole networks: against what is measured, and against published numbers."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import minidl as md
from minidl import fields as fields_module
from minidl import functional as F
from minidl import models, nn
from minidl.fields import FieldError, is_elementwise, receptive_fields
from minidl.models import UNet
from minidl.receptive_field import (
    ReceptiveField,
    conv,
    conv_transpose,
    measured_receptive_field,
    receptive_field,
    seen_by,
)


def field_of(model, shape, path="", axis=0):
    return receptive_fields(model, shape)[path].fields[axis]


# ---- networks with branches, made up at random ----------------------------------------------

LAYERS = {
    "conv": st.tuples(
        st.integers(1, 4), st.integers(1, 2), st.integers(0, 2), st.integers(1, 3)
    ).map(lambda a: nn.Conv1d(1, 1, *a)),
    "same": st.integers(1, 4).map(lambda k: nn.Conv1d(1, 1, k, padding="same")),
    "strided": st.integers(2, 4).map(lambda k: nn.Conv1d(1, 1, k, stride=2, padding="same")),
    "max": st.tuples(st.integers(2, 3), st.integers(1, 3), st.integers(0, 1)).map(
        lambda a: nn.MaxPool1d(*a, ceil_mode=True)
    ),
    "mean": st.tuples(st.integers(2, 3), st.integers(1, 3), st.integers(0, 1)).map(
        lambda a: nn.AvgPool1d(*a)
    ),
    "transposed": st.tuples(
        st.integers(2, 4), st.integers(1, 3), st.integers(0, 1), st.just(0)
    ).map(lambda a: nn.ConvTranspose1d(1, 1, *a, dilation=2)),
    "nearest": st.sampled_from([1.5, 2, 3]).map(lambda s: nn.Upsample(scale_factor=s)),
    "linear": st.sampled_from([0.5, 1.5, 2]).map(
        lambda s: nn.Upsample(scale_factor=s, mode="linear")
    ),
    "aligned": st.integers(2, 30).map(
        lambda n: nn.Upsample((n,), mode="linear", align_corners=True)
    ),
    "sized": st.integers(2, 30).map(lambda n: nn.Upsample((n,))),
    "relu": st.just(nn.ReLU()),
    "norm": st.just(nn.BatchNorm1d(1)),
}


class Graph(nn.Module):
    """Each layer works on an earlier array, and is joined with another, cropped or resized."""

    def __init__(self, plan):
        super().__init__()
        self.layers = nn.ModuleList(layer for layer, *_ in plan)
        self.merge = nn.ModuleList(nn.Conv1d(2, 1, 2) for _ in plan)
        self.plan = [rest for _, *rest in plan]

    def forward(self, x):
        arrays = [x]
        for layer, merge, (first, second, how) in zip(
            self.layers, self.merge, self.plan, strict=True
        ):
            y = layer(arrays[first % len(arrays)])
            other = arrays[second % len(arrays)]
            if how != "none":
                y = self.join(how, merge, y, other)
            arrays.append(y)
        return arrays[-1]

    @staticmethod
    def join(how, merge, y, other):
        if how == "resized":
            return y + F.interpolate(other, y.shape[1:-1])
        length = min(y.shape[1], other.shape[1])
        start = (other.shape[1] - length) // 2
        y, other = y[:, :length], other[:, start : start + length]
        if how == "reshaped":
            return y + other.reshape(-1, 1).T.reshape(y.shape)
        if how == "add":
            return y + other
        if how == "concatenate":
            return merge(F.concatenate([y, other]))
        if how == "channel":
            return F.concatenate([other, y])[..., 1:]
        if how == "beside":
            return merge(y, beside=other)
        return y + other.mean(axis=1, keepdims=True)


HOW = ["none", "resized", "reshaped", "add", "concatenate", "channel", "beside", "global"]
PLANS = st.lists(
    st.tuples(
        st.one_of(*LAYERS.values()), st.integers(0, 9), st.integers(0, 9), st.sampled_from(HOW)
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=150, deadline=None)
@given(PLANS, st.integers(6, 20), st.data())
def test_what_is_measured_is_what_is_found(plan, size, data):
    net = Graph(plan)
    try:
        found = receptive_fields(net, (1, size, 1))[""]
    except ValueError:  # a layer that does not fit
        assume(False)
    assume(max(found.shape) < 400)
    unit = data.draw(st.integers(0, found.shape[1] - 1))
    region = found.region([unit])
    if region == (None,):
        with pytest.raises(ValueError, match="depends on no pixel|does not use its input"):
            measured_receptive_field(net, (1, size, 1), [unit])
    else:
        assert region == measured_receptive_field(net, (1, size, 1), [unit])


# ---- every operation ------------------------------------------------------------------------


def positive(*shape):
    return np.full(shape, 0.5, np.float32)


def split_and_join(x):
    """Channels that see different things, kept apart by groups."""
    both = F.concatenate([x, F.avg_pool2d(x, 3, 1, 1)])
    return F.conv2d(both, positive(1, 1, 1, 2), groups=2)


OPERATIONS = {
    "arithmetic": lambda x: (x + 2) * 3 / 2 + abs(x) + x**2 - (-x),
    "functions": lambda x: x.exp() + (x + 1).log() + (x + 1).sqrt() + x.tanh() + x.sigmoid(),
    "activations": lambda x: (
        F.relu(x) + F.leaky_relu(x) + F.elu(x) + F.gelu(x) + F.gelu(x, "tanh") + F.softplus(x)
    ),
    "clip": lambda x: x.clip(0, 9) + x.clip(-1),
    "cast": lambda x: x.astype(np.float64).astype(np.float64),
    "rows": lambda x: x.sum(axis=1, keepdims=True) + x,
    "columns": lambda x: (x.sum(axis=2).unsqueeze(2) + x)[..., :1],
    "everything": lambda x: x.sum() + x,
    "channels": lambda x: F.concatenate([x, F.avg_pool2d(x, 3, 1, 1)]).sum(axis=-1, keepdims=True),
    "largest": lambda x: x.max(axis=1, keepdims=True) + x.min(axis=2, keepdims=True),
    "softmax": lambda x: F.softmax(x, axis=2) + F.log_softmax(x, axis=2),
    "kernels": lambda x: F.conv2d(x, positive(2, 3, 1, 1), stride=(1, 2), padding=((0, 1), (2, 0))),
    "dilated": lambda x: F.conv2d(x, positive(2, 3, 1, 1), dilation=(3, 1), padding="same"),
    "groups": lambda x: split_and_join(x)[..., :1],
    "other group": lambda x: split_and_join(x)[..., 1:],
    "beside": lambda x: F.conv2d(
        x, positive(1, 1, 2, 1), beside=F.avg_pool2d(x, (3, 1), 1, (1, 0))
    ),
    "transposed": lambda x: F.conv_transpose2d(
        x, positive(3, 2, 1, 1), stride=(2, 3), padding=(1, 0), output_padding=(1, 0)
    ),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, (3, 4)),
    "regular": lambda x: F.adaptive_avg_pool2d(x, (4, 3)),
    "adaptive max": lambda x: F.adaptive_max_pool2d(x, (5, None)),
    "hanging over": lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True),
    "holes": lambda x: F.max_pool2d(x, 2, 1, dilation=2),
    "resized": lambda x: F.interpolate(x, (5, 17), mode="bilinear"),
    "aligned": lambda x: F.interpolate(x, (5, 17), mode="bilinear", align_corners=True),
    "pixels": lambda x: F.interpolate(x, scale_factor=(1.5, 0.7)),
    "constant": lambda x: F.pad(x, ((0, 0), (1, 2), (0, 1), (0, 0))),
    "reflected": lambda x: F.pad(x, ((0, 0), (3, 0), (0, 2), (0, 0)), "reflect"),
    "repeated": lambda x: F.pad(x, ((0, 0), (1, 2), (0, 1), (0, 0)), "replicate"),
    "slices": lambda x: x[:, 1::2, -5:],
    "backwards": lambda x: x[:, ::-1, 2:],
    "chosen": lambda x: x[:, [3, 0, 3]][:, :, np.array([5, 1])],
    "dots": lambda x: x[..., 1:6, :][:, None][:, 0],
    "turned": lambda x: x.transpose(0, 2, 1, 3) + x.transpose(0, 2, 1, 3)[:, :1],
    "folded": lambda x: x.reshape(1, -1, 1).reshape(x.shape) + x,
    "halves": lambda x: x.reshape(1, 4, 2, 9, 1).sum(axis=2),
    "stacked": lambda x: F.stack([x, F.avg_pool2d(x, 3, 1, 1)], axis=1).sum(axis=1),
    "side by side": lambda x: F.concatenate([x, x[:, :2]], axis=1),
    "flat": lambda x: F.linear(x.flatten(1), positive(72, 3)),
    "matrices": lambda x: (x.transpose(0, 3, 1, 2) @ positive(9, 5)).transpose(0, 2, 3, 1),
    "attention": lambda x: (
        x.reshape(1, 72, 1) @ x.reshape(1, 1, 72) @ x.reshape(1, 72, 1)
    ).reshape(x.shape),
    "neighbours": lambda x: F.local_response_norm(
        F.concatenate([x, F.avg_pool2d(x, 3, 1, 1), x]), 2
    )[..., :1],
    "constants": lambda x: x * md.Tensor(positive(8, 9, 1)) + positive(1),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations(name):
    """Every unit of small images, against what is measured."""
    net = OPERATIONS[name]
    shape = (1, 8, 9, 1)
    field = receptive_fields(net, shape)[""]
    assert field.shape == net(md.Tensor(np.ones(shape, np.float32))).shape
    units = list(np.ndindex(field.shape[1:-1]))
    for unit in [units[0], units[len(units) // 2], units[-2 % len(units)], units[-1]]:
        try:
            measured = measured_receptive_field(net, shape, unit)
        except ValueError:
            measured = None
        if measured is None:
            assert None in field.region(unit)
        else:
            assert field.region(unit) == measured, unit


def test_normalisations_see_what_they_average_over():
    shape, whole = (1, 6, 7, 4), ((0, 5), (0, 6))
    for layer in (nn.GroupNorm(2, 4), nn.BatchNorm2d(4, track_running_stats=False)):
        assert receptive_fields(layer, shape)[""].region((1, 2)) == whole
    for layer in (nn.LayerNorm(4), nn.BatchNorm2d(4), nn.LocalResponseNorm(3)):
        assert receptive_fields(layer, shape)[""].region((1, 2)) == ((1, 1), (2, 2))


class Unpooling(nn.Module):
    def __init__(self, **settings):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        self.pool = nn.MaxPool2d(2, return_indices=True)
        self.unpool = nn.MaxUnpool2d(2)
        self.settings = settings

    def forward(self, x):
        y, positions = self.pool(x)
        return self.unpool(self.conv(y), positions, **self.settings)


def test_unpooling_follows_the_positions():
    """A pixel sees what its value sees, and what decided where the value went."""
    found = receptive_fields(Unpooling(), (1, 12, 12, 1))[""]
    for unit in ((4, 6), (6, 4)):  # the first of their windows, which win among equals
        assert found.region(unit) == measured_receptive_field(Unpooling(), (1, 12, 12, 1), unit)
        assert found.region((unit[0] + 1, unit[1])) == found.region(unit)
    assert found.fields[0] == ReceptiveField(6, 1, 0)


def test_positions_from_elsewhere_may_be_any():
    net = Unpooling(output_size=(9, 8))
    region = receptive_fields(net, (1, 8, 8, 1))[""].region((0, 0))
    assert region == ((0, 7), (0, 7))  # counted in rows of another length


# ---- free fields and published numbers ------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(0, 2)).map(
                lambda a: (nn.Conv1d(1, 1, *a), conv(*a))
            ),
            st.tuples(st.integers(2, 4), st.integers(1, 2)).map(
                lambda a: (nn.ConvTranspose1d(1, 1, *a), conv_transpose(*a))
            ),
        ),
        min_size=1,
        max_size=5,
    ),
)
def test_chains_follow_the_recurrence_and_the_taps(chain):
    size, net = 60, nn.Sequential(*(layer for layer, _ in chain))
    steps = [step for _, step in chain]
    try:
        found = receptive_fields(net, (1, size, 1))[""]
    except ValueError:
        assume(False)
    for unit in range(0, found.shape[1], 7):
        seen = seen_by(steps, unit, size)
        assert found.region([unit]) == (((seen[0], seen[-1]) if seen else None),)
    if not any(isinstance(layer, nn.ConvTranspose1d) for layer, _ in chain):
        assert found.fields == (receptive_field(steps),)


def vgg(**settings):
    return models.VGG(16, width=1, num_classes=2, **settings)


class TestPublishedNumbers:
    def test_vgg16(self):
        fields = receptive_fields(vgg(), (1, 224, 224, 3))
        sizes = [fields[f"stages.{i}"].fields[0].size for i in range(5)]
        assert sizes == [5, 14, 40, 92, 196]
        assert fields["pool"].fields[0] == ReceptiveField(212, 32, Fraction(31, 2))
        fc6 = fields["classifier.0"]
        assert (fc6.fields[0].size, fc6.fields[0].jump) == (404, 0)
        assert fc6.region() == ((0, 223), (0, 223))

    def test_fcn(self):
        fields = receptive_fields(models.FCN32s(3, 2, width=1), (1, 500, 500, 3))
        assert fields["fc6"].fields[0] == ReceptiveField(404, 32, Fraction(25, 2))

    def test_resnet(self):
        for depth, size in ((18, 435), (50, 427), (101, 971)):
            net = models.ResNetBackbone(depth, width=1)
            fields = receptive_fields(net, (1, 64, 64, 3))
            assert fields["layer4"].fields[0] == ReceptiveField(size, 32, 0)

    def test_segnet_basic(self):
        fields = receptive_fields(models.SegNetBasic(3, 2, width=1), (1, 360, 480, 3))
        assert [fields[path].fields[1].size for path in ("encoder.3", "pool[0]")] == [98, 106]

    def test_dilated(self):
        front = models.FrontEnd(3, 2, width=1)
        sizes = [f.fields[0].size for f in receptive_fields(front, (1, 572, 572, 3)).values()]
        assert max(sizes) == 380
        for mirror in (True, False):
            net = models.DilatedNet(3, 2, mirror=mirror, upsampling=None, width=1)
            size = net.fitting_size(900)
            assert field_of(net, (1, size, size, 3)).size == 908

    def test_deeplab(self):
        for atrous, size in (((7, 4), 419), ((4, 4), 323), ((4, 8), 419), ((3, 12), 419)):
            net = models.DeepLab(3, 2, *atrous, upsample=False, width=1)
            assert field_of(net, (1, 321, 321, 3)).size == size

    def test_unet(self):
        net = UNet(1, 2, padding="valid", batch_norm=False, root=1)
        found = receptive_fields(net, (1, 572, 572, 1))
        assert found["down.4"].fields[0] == ReceptiveField(140, 16, Fraction(139, 2))
        assert found[""].sizes == ((188, 204),) * 2
        widths = [
            last - first + 1 for first, last in (found[""].region((i, 0))[0] for i in range(20))
        ]
        assert set(widths) == {188, 204}


# ---- answers and refusals -------------------------------------------------------------------


class Square(md.Function):
    def forward(self, x):
        self.x = x
        return x * x

    def backward(self, gy):
        return (2 * self.x * gy,)


def test_functions_of_ones_own_are_to_be_explained(monkeypatch):
    monkeypatch.setattr(fields_module, "RULES", dict(fields_module.RULES))
    net = nn.Sequential(nn.Conv1d(1, 1, 3), Squared())
    with pytest.raises(FieldError, match=r"1: what the units of Square see .*is_elementwise\(Sq"):
        receptive_fields(net, (1, 9, 1))
    is_elementwise(Square)
    assert receptive_fields(net, (1, 9, 1))[""].region([2]) == ((2, 4),)


class Squared(nn.Module):
    def forward(self, x):
        return md.apply(Square(), x)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1)

    def forward(self, x):
        first = self.conv(x)
        return first, self.conv(first)


def test_layers_called_again_and_several_results():
    found = receptive_fields(Twice(), (1, 9, 1))
    assert list(found) == ["[0]", "[1]", "conv"]
    assert [field.fields[0].size for field in found.values()] == [3, 5, 5]


def test_what_follows_no_rule_has_exact_fields_all_the_same():
    net = lambda x: F.interpolate(F.avg_pool1d(x, 2), (9,)) + x  # noqa: E731
    found = receptive_fields(net, (1, 9, 1))[""]
    assert found.fields == found.sizes == (None,)
    assert found.region([8]) == measured_receptive_field(net, (1, 9, 1), [8]) == ((6, 8),)


def test_units_that_see_the_same_have_no_jump():
    found = receptive_fields(lambda x: x.mean(axis=1, keepdims=True) + x, (1, 9, 1))[""]
    assert found.fields == (ReceptiveField(9, 0, 4),)


def test_units_in_the_padding_see_nothing():
    found = receptive_fields(nn.Conv1d(1, 1, 3, padding=5), (1, 9, 1))[""]
    assert found.region([2]) == (None,)
    assert found.region([3]) == ((0, 0),)


def test_there_are_only_so_many_units():
    found = receptive_fields(nn.Conv2d(1, 1, 3), (1, 9, 9, 1))[""]
    for position in ((7, 0), (0, -1), (0,)):
        with pytest.raises(ValueError, match=r"region: position must be one of the output with"):
            found.region(position)


def test_the_network_is_left_as_it_was():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout()).train()
    net[2].eval()
    before = net.state_dict()
    receptive_fields(net, (2, 9, 9, 1))
    assert [part.training for part in net.modules()] == [True, True, True, False]
    for name, value in net.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def test_an_error_of_the_network_is_its_own():
    with pytest.raises(ValueError, match="UNet: height and width must be multiples of 4"):
        receptive_fields(UNet(1, 2, depth=3, root=1), (1, 10, 8, 1))
    assert receptive_fields(nn.ReLU(), (1, 3, 3, 1))[""].region() == ((1, 1), (1, 1))
