"""Profiles: everything is found, it adds up, and nobody listens afterwards."""

import json
import threading
import time
import timeit

import numpy as np
import pytest

import minidl as md
from minidl import functional as F
from minidl import nn, tensor
from minidl.kernels import parallel
from minidl.models import UNet
from minidl.nn import module as modules
from minidl.profile import inference_step, profile, training_step

SHAPE = (2, 16, 16, 1)


@pytest.fixture(autouse=True)
def nobody_listens():
    yield
    assert parallel.listener is None
    assert tensor.listener is None
    assert modules.listener is None


@pytest.fixture
def model():
    return UNet(1, 2, depth=3, root=4, rng=np.random.default_rng(0))


@pytest.fixture
def found(model):
    """The profile of a training step."""
    return profile(training_step(model, SHAPE), model, steps=3, warm_up=1)


def test_shares_add_up_to_the_step(found):
    assert len(found.seconds) == 3
    assert found.step == pytest.approx(sum(found.seconds) / 3)
    for rows in (found.layers(), found.kernels()):
        assert sum(row["share"] for row in rows) == pytest.approx(1)
        assert sum(row["seconds"] for row in rows) == pytest.approx(found.step)
        assert all(row["seconds"] >= 0 for row in rows)


def test_every_layer_of_a_unet_appears(found, model):
    rows = {row["layer"]: row for row in found.layers()}
    learned = {name.rpartition(".")[0] for name, _ in model.named_parameters()}
    assert {"down.0.conv1", "down.2.norm2", "up.1", "merge.0.conv2", "scores"} < learned
    assert learned <= rows.keys()
    assert all(rows[layer]["forward"] > 0 and rows[layer]["backward"] > 0 for layer in learned)
    assert rows["down.0.conv1"]["operations"] == ["Conv"]
    assert rows["(kernels outside of operations)"]["seconds"] > 0  # Adam


def test_kernels_have_names_calls_and_bytes():
    model = nn.Sequential(nn.ReLU(), nn.ReLU())
    x = md.Tensor(np.ones((2, 3, 5, 4), np.float32), requires_grad=True)
    rows = profile(lambda: model(x).sum().backward(), model, steps=3).kernels()
    kernels = {row["kernel"]: row for row in rows}
    assert kernels["elementwise.relu"]["calls"] == kernels["elementwise.relu_grad"]["calls"] == 2
    assert kernels["elementwise.relu"]["bytes"] == 2 * 2 * 480  # reads x, writes y
    assert kernels["elementwise.relu_grad"]["bytes"] == 2 * 3 * 480
    assert kernels["elementwise.relu"]["seconds"] > 0


def test_bytes_of_arrays_in_tuples_count():
    x = np.ones(10)
    found = profile(lambda: parallel.run(_nothing, 1, 0, x, (x, 3, (x,)), 5), steps=2)
    (row, *_) = found.kernels()
    assert (row["kernel"], row["calls"], row["bytes"]) == ("test_profile.nothing", 1, 240)


def test_results_are_those_without_a_profile(model):
    twin = UNet(1, 2, depth=3, root=4, rng=np.random.default_rng(0))
    losses = []
    step = training_step(model, SHAPE)
    profile(lambda: losses.append(step()), model, steps=3, warm_up=1)
    plain = training_step(twin, SHAPE)
    assert losses == [plain() for _ in range(4)]
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        np.testing.assert_array_equal(ours.data, theirs.data)


class Sleep(md.Function):
    """Takes a known time."""

    def forward(self, x):
        time.sleep(0.01)
        return x + 1

    def backward(self, gy):
        time.sleep(0.02)
        return (gy,)


class Sleepy(nn.Module):
    def forward(self, x):
        return md.apply(Sleep(), x)


def sleepy_step(model):
    def step():
        model(md.Tensor(np.ones(3), requires_grad=True)).sum().backward()
        time.sleep(0.03)

    return step


def test_time_goes_where_it_was_spent():
    model = nn.Sequential(Sleepy(), nn.Sequential(Sleepy()))
    rows = {r["layer"]: r for r in profile(sleepy_step(model), model, 2, warm_up=0).layers()}
    for layer in ("0", "1.0"):
        assert rows[layer]["operations"] == ["Sleep"]
        assert rows[layer]["forward"] >= 0.01
        assert rows[layer]["backward"] >= 0.02
        both = rows[layer]["forward"] + rows[layer]["backward"]
        assert rows[layer]["seconds"] == pytest.approx(both)
    assert rows["(no layer)"]["operations"] == ["Sum"]
    assert rows["(outside of operations)"]["seconds"] >= 0.03


def test_modules_that_no_model_owns_have_the_names_of_their_classes():
    layers = [row["layer"] for row in profile(sleepy_step(Sleepy()), steps=1, warm_up=0).layers()]
    assert layers[:2] == ["Sleepy", "(no layer)"]


class Around(md.Function):
    """Computes with other operations, and so does its backward."""

    def forward(self, x):
        return md.apply(Sleep(), x).numpy()

    def backward(self, gy):
        return (F.relu(gy).numpy(),)


def test_an_operation_inside_another_counts_once():
    def step():
        md.apply(Around(), md.Tensor(np.ones(3), requires_grad=True)).sum().backward()

    found = profile(step, steps=2, warm_up=0)
    rows = {(o.name, o.backward): o.seconds / 2 for o in found.operations}
    assert rows["Sleep", False] >= 0.01 > rows["Around", False] > 0
    assert sum(row["share"] for row in found.layers()) == pytest.approx(1)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_leaves_no_listener_behind(model, error):
    class Broken(nn.Module):
        def forward(self, x):
            model(x)
            raise error("on purpose")

    with pytest.raises(error, match="on purpose"):
        profile(lambda: Broken()(np.zeros(SHAPE, np.float32)), model, steps=1, warm_up=0)
    assert parallel.listener is None
    assert tensor.listener is None
    assert modules.listener is None


def test_an_exception_that_the_step_survives_is_accounted_for():
    layer, x = Sleepy(), np.ones(3)

    class Failing(nn.Module):
        def forward(self, x):
            raise ValueError("on purpose")

    def step():
        with pytest.raises(ValueError, match="on purpose"):
            Failing()(x)
        F.relu(layer(x))

    rows = [row["layer"] for row in profile(step, layer, steps=1, warm_up=0).layers()]
    assert rows[:2] == ["Sleepy", "(no layer)"]


def test_one_profile_at_a_time():
    with pytest.raises(RuntimeError, match="profile: another profile is being made"):
        profile(lambda: profile(lambda: None), steps=1, warm_up=0)


def test_other_threads_are_not_listened_to(model):
    ready, over = threading.Event(), threading.Event()
    x = np.zeros(SHAPE, np.float32)

    def compute():
        while not over.is_set():
            model(x)
            ready.set()

    def step():
        ready.clear()
        assert ready.wait(10)  # a whole pass of the other thread
        F.relu(x)

    other = threading.Thread(target=compute)
    other.start()
    try:
        found = profile(step, model, steps=2, warm_up=1)
    finally:
        over.set()
        other.join(10)
    assert [(o.layer, o.name, o.calls) for o in found.operations] == [("(no layer)", "Relu", 2)]


def test_inference_records_nothing_and_uses_running_statistics(model):
    found = profile(inference_step(model, SHAPE), model, steps=1)
    assert not model.training
    assert not any(operation.backward for operation in found.operations)
    assert "batchnorm.moments" not in {row["kernel"] for row in found.kernels()}


def test_text_and_json_say_the_same(found):
    text, data = found.text(), json.loads(found.json())
    lines = text.splitlines()
    assert lines[0].startswith("3 steps on ")
    assert f"mean {1e3 * found.step:.2f} ms" in lines[0]
    names = [line.split("  ")[0] for line in lines[2:]]
    assert names[0] == "layer"
    assert names[1 : 1 + len(data["layers"])] == [row["layer"] for row in data["layers"]]
    assert names[-len(data["kernels"]) :] == [row["kernel"] for row in data["kernels"]]
    assert data["seconds"] == found.seconds
    within = {k["name"] for operation in data["operations"] for k in operation["kernels"]}
    assert "batchnorm.normalise" in within
    assert within < {row["kernel"] for row in data["kernels"]}  # the others are Adam's


def test_numbers_of_steps_are_checked():
    for steps, warm_up in ((0, 1), (1, -1)):
        with pytest.raises(ValueError, match="profile: steps must be 1 or more and warm_up 0"):
            profile(lambda: None, steps=steps, warm_up=warm_up)


def test_listening_costs_next_to_nothing_while_nobody_does():
    def nanoseconds(function):
        rounds = timeit.repeat(lambda: function(_nothing, 1, 0), number=2000, repeat=20)
        return min(rounds) / 2000 * 1e9

    assert nanoseconds(parallel.run) < nanoseconds(parallel._run) + 1000


def _nothing(start, stop, *arguments):
    pass
