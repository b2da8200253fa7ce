"""What every network must keep, one property a test, for all rows of cases.py."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import minidl
from minidl import Tensor, nn, no_grad, optim
from minidl import functional as F
from minidl.fields import receptive_fields
from minidl.nn import init
from minidl.receptive_field import measured_receptive_field

from .cases import CASES

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
each_kind = pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=case.name, marks=[pytest.mark.slow] * case.alike) for case in CASES],
)
MOST = 8 * 2**30  # bytes


def _small(case, seed=0):
    minidl.manual_seed(seed)
    return case.small(rng=np.random.default_rng(seed))


def _images(model, size, batch=1, dtype=np.float32, seed=0):
    numbers = np.random.default_rng(seed).normal(size=(batch, *size, model.in_channels))
    return numbers.astype(dtype)


def _outputs(result):
    """All scores: a network with heads on the way gives several in training."""
    return result if isinstance(result, list | tuple) else (result,)


def _without_dropout(model):
    for part in model.modules():
        if isinstance(part, nn.Dropout | nn.Dropout2d):
            part.p = 0.0
        if isinstance(vars(part).get("dropout"), float):
            part.dropout = 0.0
    return model


@pytest.fixture
def undrawn(monkeypatch):
    """Weights that are neither drawn nor written down: pages of zeros that are never touched."""
    for name in ("normal", "uniform", "truncated_normal"):
        monkeypatch.setattr(init, name, lambda shape, rng=None, dtype=None, *_, **__: _zeros(shape))
    monkeypatch.setattr("minidl.tensor._as_array", np.asarray)


def _zeros(shape):
    return np.zeros(shape, np.float32)


def test_names_are_unique():
    names = [case.name for case in CASES]
    assert len(names) == len(set(names))


@each_case
def test_parameter_count(case, undrawn):
    model = case.full()
    assert sum(parameter.size for parameter in model.parameters()) == case.parameters


@each_case
def test_the_small_copy_is_small(case):
    assert sum(parameter.size for parameter in _small(case).parameters()) < 300_000


@each_case
def test_sizes(case):
    model = _small(case).eval()
    with no_grad():
        for size, expected in case.sizes.items():
            scores = model(_images(model, size))
            assert scores.shape == (1, *expected, model.num_classes), size
            assert np.isfinite(scores.numpy()).all()


@each_case
def test_other_sizes_are_refused(case):
    model = _small(case).eval()
    for size, message in case.refused.items():
        with pytest.raises(ValueError, match=message):
            model(_images(model, size))
    with pytest.raises(ValueError, match=f"{type(model).__name__}: x must be"):
        model(np.zeros((*case.train, model.in_channels), np.float32))
    with pytest.raises(ValueError, match=f"{type(model).__name__}: x must be"):
        model(np.zeros((1, *case.train, model.in_channels + 1), np.float32))


class _Part(nn.Module):
    """A network up to some feature map, whose weights can be measured with."""

    def __init__(self, model, of):
        super().__init__()
        self.model, self.of = model, of

    def forward(self, x):
        return self.of(self.model, x)


@pytest.mark.parametrize("case", [case for case in CASES if case.field], ids=lambda case: case.name)
def test_receptive_field(case):
    field = case.field
    model = field.small() if field.small else _small(case)
    part, shape = _Part(model, field.of), (1, *field.size, model.in_channels)
    measured = measured_receptive_field(part, shape)
    assert receptive_fields(part, shape)[""].region() == measured
    (first, last), *_ = measured
    assert (first > 0, last < field.size[0] - 1) == (True, True), "the image is too small"
    assert last - first + 1 == field.pixels


@each_kind
def test_every_parameter_gets_a_gradient(case):
    model = _without_dropout(_small(case))
    rng = np.random.default_rng(1)
    total = 0
    for scores in _outputs(model(_images(model, case.train, case.batch))):
        total = total + (scores * rng.normal(size=scores.shape).astype(np.float32)).sum()
    total.backward()
    without = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not np.any(parameter.grad))
    ]
    assert without == []


@each_kind
def test_gradients_in_double_precision(case):
    """All parameters move at once, at random, each so fast that it changes the result as much.

    gradcheck() asks for more than a deep network can give: wherever some thousands of units bend,
    a few bend within its steps. Here these few do not count, one wrong gradient does.
    """
    model = _without_dropout(_small(case)).to(np.float64)
    rng = np.random.default_rng(1)
    x = Tensor(_images(model, case.train, case.batch, np.float64), requires_grad=True)
    for p in model.parameters():
        if p.ndim == 1:  # where all inputs of a unit are cut off, a bias of 0 would be at the bend
            p.data[...] += 0.1 * rng.normal(size=p.shape)
    weights = [rng.normal(size=y.shape) for y in _outputs(model(x))]

    def value():
        return sum((y * w).sum() for y, w in zip(_outputs(model(x)), weights, strict=True))

    value().backward()
    moving = [x, *(p for p in model.parameters() if p.requires_grad)]
    least = 1e-4 * max(np.linalg.norm(p.grad) for p in moving)
    directions = [rng.normal(size=p.shape) / max(np.linalg.norm(p.grad), least) for p in moving]
    starts = [p.numpy() for p in moving]
    changes = [np.vdot(p.grad, d) for p, d in zip(moving, directions, strict=True)]
    errors = []
    for step in (1e-6, 1e-7, 1e-8, 1e-9):
        ends = []
        for side in (1, -1):
            for p, start, direction in zip(moving, starts, directions, strict=True):
                p.data[...] = start + side * step * direction
            with no_grad():
                ends.append(value().item())
        errors.append(abs((ends[0] - ends[1]) / (2 * step) - sum(changes)))
        if errors[-1] < 1e-3:
            break
    # Each change is about 1, so an error in any of them would be seen.
    assert min(errors) < 1e-3, errors


def _lesson(model, case):
    """Images with a bright left half, each brighter than the one before."""
    x = _images(model, case.train, case.batch)
    x += np.arange(case.batch, dtype=np.float32).reshape(-1, *[1] * (x.ndim - 1))
    x[..., : case.train[-1] // 2, :] += 2
    return x


def _lesson_labels(scores):
    """The half that a pixel is in; of an image that gets one vector, its number."""
    count, *size, classes = scores.shape
    if not size:
        return np.arange(count) % classes
    return np.broadcast_to(np.arange(size[-1]) < size[-1] // 2, (count, *size)).astype(np.int64)


@each_kind
def test_loss_falls_on_one_batch(case):
    model = _without_dropout(_small(case))
    x = _lesson(model, case)
    optimizer = optim.Adam(model.parameters(), lr=case.learning_rate)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = sum(F.cross_entropy(y, _lesson_labels(y)) for y in _outputs(model(x)))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.9 * losses[0], losses


@each_kind
def test_state_makes_a_round_trip(case, tmp_path):
    model, other = _small(case, 0), _small(case, 1)
    x = _images(model, case.train, case.batch)
    with no_grad():
        model(x)  # moves the moments
        expected = model.eval()(x).numpy()
        assert np.any(other.eval()(x).numpy() != expected)
    minidl.save(tmp_path / "state", model.state_dict())
    other.load_state_dict(minidl.load(tmp_path / "state"))
    with no_grad():
        np.testing.assert_array_equal(other(x).numpy(), expected)


@each_kind
def test_predicting_is_deterministic_and_takes_each_image_by_itself(case):
    model = _small(case)
    x = _images(model, case.train, 3)
    with no_grad():
        model(x)
        before = model.eval().state_dict()
        together = model(x).numpy()
        np.testing.assert_array_equal(model(x).numpy(), together)
        alone = np.concatenate([model(x[i : i + 1]).numpy() for i in range(3)])
    scale = np.abs(together).max()
    np.testing.assert_allclose(alone, together, rtol=1e-4, atol=1e-5 * scale)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


STEP = """
import json, resource, sys
import numpy as np
from cases import CASES
from minidl import functional as F, optim

name = sys.argv[1]
(case,) = [case for case in CASES if case.name == name]
model = case.full(rng=np.random.default_rng(0))
optimizer = optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
x = np.random.default_rng(1).normal(size=(1, *case.step, model.in_channels)).astype(np.float32)
outputs = model(x)
outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
loss = sum(F.cross_entropy(y, np.zeros(y.shape[:-1], np.int64)) for y in outputs)
loss.backward()
optimizer.step()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"loss": loss.item(), "peak": peak * (1 if sys.platform == "darwin" else 1024)}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in CASES if case.step], ids=lambda case: case.name)
def test_a_step_of_the_full_network_fits_into_memory(case):
    pytest.importorskip("resource")
    folders = [str(Path(__file__).parent), str(Path(minidl.__file__).parent.parent)]
    script = f"import sys; sys.path[:0] = {folders}\n{STEP}"
    result = subprocess.run(
        [sys.executable, "-c", script, case.name], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert np.isfinite(report["loss"])
    assert report["peak"] < MOST
