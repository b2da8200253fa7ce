"""Following without computing: shapes as they would be, and nothing left behind."""

import threading

import numpy as np
import pytest

import minidl as md
from minidl import functional as F
from minidl import nn, tensor
from minidl.models import UNet
from minidl.nn import module as modules
from minidl.profile import profile
from minidl.trace import Call, stand_in, trace


@pytest.fixture(autouse=True)
def nobody_listens():
    yield
    assert tensor.listener is None
    assert modules.listener is None


class Branches(nn.Module):
    """Operations of all kinds, on maps that are not large."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, activation="relu")
        self.pool = nn.MaxPool2d(2, return_indices=True)
        self.unpool = nn.MaxUnpool2d(2)
        self.up = nn.ConvTranspose2d(4, 4, 2, stride=2, groups=2)
        self.norm = nn.BatchNorm2d(4)
        self.group = nn.GroupNorm(2, 8)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = self.conv(x)
        y, positions = self.pool(x)
        z = F.concatenate([self.up(y), self.norm(self.unpool(self.drop(y), positions))])
        z = self.group(z) * z.mean(axis=(1, 2), keepdims=True).sigmoid()
        gates = self.fc(F.adaptive_avg_pool2d(z, 1).flatten(1))
        return F.softmax(z[:, 1:-1, ::2]), gates, F.pad(F.interpolate(z, (5, 7)), 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_shapes_and_types_are_those_of_the_real_results(dtype):
    net = Branches().to(dtype).eval()
    followed = trace(net, (2, 8, 12, 3))
    real = net(np.ones((2, 8, 12, 3), dtype))
    assert [v.shape for v in followed.root.outputs] == [y.shape for y in real]
    assert [v.array.dtype for v in followed.root.outputs] == [y.dtype for y in real]


def test_nothing_is_computed_and_little_is_stored():
    net = UNet(1, 2, depth=5, root=8)
    huge = trace(net, (1, 1 << 12, 1 << 12, 1))
    assert huge.root.outputs[0].shape == (1, 1 << 12, 1 << 12, 2)
    assert all(operation.output.array.strides == (0,) * 4 for operation in huge.operations)
    assert huge.operations[0].output.nbytes == 8 * 4 * (1 << 24)


def test_calls_lie_in_each_other():
    followed = trace(UNet(1, 2, depth=2, root=1), (1, 8, 8, 1))
    paths = [call.path for call in followed.root.walk()]
    assert paths[:4] == ["", "down.0", "down.0.conv1", "down.0.norm1"]
    inner = followed.root.parts[0]
    assert isinstance(inner, Call)
    assert (inner.name, inner.parts[0].name, inner.parent) == ("down.0", "conv1", followed.root)
    assert inner.inputs == [followed.input]
    assert inner.outputs == inner.parts[-1].outputs
    skip = next(op for op in followed.operations if len(op.inputs) == 4)
    assert [value.flows for value in skip.inputs] == [True, False, False, True]
    assert skip.inputs[0] is inner.outputs[0]


class Half(md.Function):
    """Not known to anybody, and its result is a view of its input."""

    def forward(self, x):
        return x[:, ::2]

    def backward(self, gy):
        return (np.repeat(gy, 2, axis=1),)


def test_operations_of_ones_own_are_run():
    followed = trace(lambda x: md.apply(Half(), x * 2) + 1, (1, 6, 1))
    assert [operation.name for operation in followed.operations] == ["Multiply", "Half", "Add"]
    assert followed.root.outputs[0].shape == (1, 3, 1)


def test_constants_are_computed():
    """What does not depend on the input may decide the way."""

    def net(x):
        scale = md.Tensor([2.0]) * 3
        return x * scale if float(scale.sum()) == 6 else None

    followed = trace(net, (1, 4, 1))
    assert [operation.name for operation in followed.operations] == ["Multiply"]


def test_the_model_and_the_noise_are_left_as_they_were():
    net = Branches()
    before = net.state_dict()
    md.manual_seed(3)
    expected = md.random.generator().random()
    md.manual_seed(3)
    trace(net, (1, 8, 8, 3))
    assert md.random.generator().random() == expected
    assert all(part.training for part in net.modules())
    for name, value in net.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def test_an_error_leaves_no_listener_behind():
    with pytest.raises(ValueError, match="conv: conv2d: weight of shape"):
        trace(Branches(), (1, 8, 8, 2))


def test_one_at_a_time():
    with pytest.raises(RuntimeError, match="trace: another trace or profile is being made"):
        profile(lambda: trace(nn.ReLU(), (1, 2)), steps=1, warm_up=0)


def test_other_threads_compute_as_ever():
    results = []

    def net(x):
        other = threading.Thread(target=lambda: results.append(F.relu(np.ones((2, 2))).numpy()))
        other.start()
        other.join()
        return x + 1

    followed = trace(net, (1, 3))
    np.testing.assert_array_equal(results[0], np.ones((2, 2)))
    assert len(followed.operations) == 1


def test_stand_ins_share_no_memory():
    one, two = stand_in((3, 4), np.float32), stand_in((3, 4), np.float32)
    assert not np.may_share_memory(one, two)
    assert (one.shape, one.dtype, one.sum()) == ((3, 4), np.float32, 0)


def test_what_is_linked_in_circles_has_short_descriptions():
    followed = trace(UNet(1, 2, depth=2, root=1), (1, 8, 8, 1))
    parts = [followed, followed.input, followed.root, *followed.operations]
    assert max(len(repr(part)) for part in parts) < 100
    assert repr(followed.operations[0]) == "Operation(Conv in 'down.0.conv1', (1, 8, 8, 1))"
