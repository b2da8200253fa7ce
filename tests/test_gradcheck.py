"""The checker must find what is wrong, name it, and leave everything as it was."""

import numpy as np
import pytest

from minidl import Function, Tensor, apply, nn
from minidl.gradcheck import GradcheckError, gradcheck


def _numbers(*shape, dtype=np.float64, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


class Square(Function):
    """x * x, with a backward that can be spoilt."""

    def __init__(self, spoil=lambda gx: gx):
        self.spoil = spoil

    def forward(self, x):
        self.x = x
        return x * x

    def backward(self, gy):
        return (self.spoil(2 * self.x * gy),)


def _spoilt(index, factor=1.0, offset=0.0):
    def spoil(gx):
        gx = gx.copy()
        gx[index] = gx[index] * factor + offset
        return gx

    return lambda x: apply(Square(spoil), x)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "f",
    [
        lambda x: apply(Square(), x),
        lambda x: x.exp() / (1 + x * x),
        lambda x: x.tanh().sum(),
        lambda x: (x * 3, x.sigmoid(), x[0]),
        lambda x: (x @ x.T).mean(),
    ],
)
def test_passes_what_is_right(f, dtype):
    assert gradcheck(f, _numbers(4, 3, dtype=dtype)) is True


def test_takes_several_inputs():
    x, y = Tensor(_numbers(3), requires_grad=True), _numbers(4, 3)
    assert gradcheck(lambda a, b: a * b, (x, y))
    assert gradcheck(lambda a, b: a * b, [x, y])
    assert gradcheck(lambda a: a * 2, Tensor(3.0, requires_grad=True))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("index", [(0, 0), (2, 1), (3, 2)])
def test_names_the_only_wrong_entry(dtype, index):
    x = 3 + np.arange(12, dtype=dtype).reshape(4, 3)
    with pytest.raises(GradcheckError) as caught:
        gradcheck(_spoilt(index, factor=1.01), x)
    place = f"input 0 at index ({index[0]}, {index[1]})"
    assert place in str(caught.value)
    assert "1 entry is wrong" in str(caught.value)


def test_gives_both_values():
    def weighted(x):
        return _spoilt((1,), factor=1.125)(x).sum()

    # The random weight of the only output multiplies both; their quotient is what is known.
    with pytest.raises(GradcheckError, match=r"backward gives \S+, but numerically it is") as e:
        gradcheck(weighted, np.array([1.0, 2.0]))
    words = str(e.value).replace(",", "").split()
    analytic, numeric = float(words[words.index("gives") + 1]), float(words[words.index("is") + 1])
    assert analytic / numeric == pytest.approx(4.5 / 4, rel=1e-6)


def test_names_the_worst_of_several_wrong_entries():
    def f(x):
        return _spoilt((0,), offset=0.1)(_spoilt((2,), offset=5.0)(x))

    with pytest.raises(GradcheckError, match=r"index \(2,\).*2 entries are wrong"):
        gradcheck(f, np.array([1.0, 1.0, 1.0]))


def test_names_the_second_input():
    with pytest.raises(GradcheckError, match=r"input 1 at index \(1,\)"):
        gradcheck(lambda a, b: a * _spoilt((1,), factor=2)(b), (_numbers(3), _numbers(3, seed=1)))


def test_notices_a_single_small_error_among_many_entries():
    x = _numbers(200, 50)
    with pytest.raises(GradcheckError, match=r"index \(150, 7\)"):
        gradcheck(_spoilt((150, 7), offset=0.01), x)


def test_tolerates_what_it_is_told_to():
    f = _spoilt((1,), factor=1.01)
    assert gradcheck(f, np.array([1.0, 1.0, 1.0]), rtol=0.02)
    assert gradcheck(f, np.array([1.0, 1.0, 1.0]), atol=0.1, rtol=0)
    with pytest.raises(GradcheckError):
        gradcheck(f, np.array([1.0, 1.0, 1.0]), rtol=0.005)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("f", "x", "index"),
    [
        (lambda x: x.relu(), [1.0, -2.0, 0.0], 2),
        (lambda x: abs(x), [0.0, -2.0, 1.0], 0),
        (lambda x: x.max(), [1.0, 2.0, 2.0], 1),
    ],
)
def test_says_when_there_is_a_kink(dtype, f, x, index):
    with pytest.raises(GradcheckError, match=rf"kink: input 0 at index \({index},\)"):
        gradcheck(f, np.array(x, dtype))


def test_wrong_gradient_is_not_taken_for_a_kink():
    # relu bends at the third entry, but the first is wrong.
    with pytest.raises(GradcheckError, match=r"input 0 at index \(0,\): backward gives"):
        gradcheck(lambda x: _spoilt((0,), factor=3)(x.relu()), np.array([1.0, -2.0, 0.0]))


def test_steers_clear_of_kinks_nearby():
    assert gradcheck(lambda x: x.relu(), np.array([1e-7, -1e-7, 1.0]))
    assert gradcheck(lambda x: x.relu(), np.array([2e-3, -2e-3, 1.0], np.float32))


class Twice(nn.Module):
    def __init__(self, spoil=None):
        super().__init__()
        rng = np.random.default_rng(3)
        self.inner = nn.Linear(3, 2, rng=rng, dtype=np.float64)
        self.outer = nn.Linear(2, 2, rng=rng, dtype=np.float64)
        self.spoil = spoil

    def forward(self, x):
        y = self.inner(x).tanh()
        weight = self.outer.weight
        return y @ (self.spoil(weight) if self.spoil else weight) + self.outer.bias


def test_checks_the_parameters_of_a_module():
    assert gradcheck(Twice(), _numbers(4, 3))
    weight = np.ones((2, 2))
    with pytest.raises(GradcheckError, match=r"parameter 'outer\.weight' at index \(1, 0\)"):
        spoil = _spoilt((1, 0), factor=1.5)
        gradcheck(Twice(lambda w: spoil(w) * weight), _numbers(4, 3))


def test_leaves_everything_as_it_was():
    model = nn.Sequential(nn.Linear(3, 4, dtype=np.float64), nn.BatchNorm1d(4, dtype=np.float64))
    x = Tensor(_numbers(5, 3), requires_grad=True)
    model(x).sum().backward()
    state, grad = model.state_dict(), model[0].weight.grad
    values, grad_of_x = x.numpy(), x.grad
    gradcheck(model, x)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, state[name])
    assert model[0].weight.grad is grad
    assert x.grad is grad_of_x
    np.testing.assert_array_equal(x.numpy(), values)


def test_notices_a_forward_that_is_not_repeatable():
    rng = np.random.default_rng(0)
    with pytest.raises(GradcheckError, match=r"output 0 of f is not the same.*dropout"):
        gradcheck(lambda x: x * rng.normal(size=3), _numbers(3))


def test_notices_a_backward_that_is_not_repeatable():
    rng = np.random.default_rng(0)
    with pytest.raises(GradcheckError, match="gradient of input 0 is not the same"):
        gradcheck(lambda x: apply(Square(lambda gx: gx + rng.normal() * 1e-9), x), _numbers(3))


@pytest.mark.parametrize(
    ("f", "x", "error", "message"),
    [
        (lambda x: x, np.array([1, 2]), TypeError, "input 0 must be floating, but has dtype int64"),
        (lambda x: x, Tensor([1.0]), ValueError, "input 0 does not require a gradient"),
        (lambda x: x.numpy(), _numbers(2), TypeError, "must return floating tensors.*ndarray"),
        (
            lambda x: (x, Tensor([1])),
            _numbers(2),
            TypeError,
            "must return floating tensors, but returned int64",
        ),
        (lambda x: x.detach() * 2, _numbers(2), GradcheckError, "input 0 got no gradient"),
        (lambda: Tensor([1.0]), (), ValueError, "neither an input nor a parameter"),
    ],
)
def test_what_cannot_be_checked_is_refused(f, x, error, message):
    with pytest.raises(error, match=message):
        gradcheck(f, x)


def test_unused_input_is_named():
    with pytest.raises(GradcheckError, match="input 1 got no gradient: f does not use it"):
        gradcheck(lambda a, b: a * 2, (_numbers(2), _numbers(2)))


def test_a_module_is_checked_in_the_precision_of_the_input():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    before = model.state_dict()
    seen = []

    def watched(x):
        seen.append({p.dtype for p in model.parameters()})
        return model(x)

    watched.named_parameters = model.named_parameters
    assert gradcheck(watched, _numbers(5, 3))
    assert all(dtypes == {np.dtype(np.float64)} for dtypes in seen)
    for name, value in model.state_dict().items():
        assert value.dtype == before[name].dtype
        if "running" not in name and "batches" not in name:
            np.testing.assert_array_equal(value, before[name])
