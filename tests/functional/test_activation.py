"""Activations and softmax."""

import math

import numpy as np
import pytest
from checking import check_float32, check_gradient, check_threads, normal, run, spread

from minidl import Tensor
from minidl.functional import activation as A
from minidl.kernels import jit
from minidl.kernels.exponential import exp, log

SHAPES = ((), (1,), (7,), (3, 5), (2, 3, 4, 17))

FORMULAS = {
    "relu": (A.relu, lambda x: max(x, 0.0)),
    "leaky_relu": (A.leaky_relu, lambda x: x if x > 0 else 0.01 * x),
    "leaky_relu steep": (
        lambda x: A.leaky_relu(x, negative_slope=0.3),
        lambda x: x if x > 0 else 0.3 * x,
    ),
    "elu": (lambda x: A.elu(x, alpha=1.5), lambda x: x if x > 0 else 1.5 * (math.exp(x) - 1)),
    "gelu": (A.gelu, lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2),
    "gelu tanh": (
        lambda x: A.gelu(x, approximate="tanh"),
        lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    ),
    "sigmoid": (A.sigmoid, lambda x: 1 / (1 + math.exp(-x))),
    "tanh": (A.tanh, math.tanh),
    "softplus": (A.softplus, lambda x: math.log(1 + math.exp(x))),
    "softplus settings": (
        lambda x: A.softplus(x, beta=2, threshold=2.5),
        lambda x: x if 2 * x > 2.5 else math.log(1 + math.exp(2 * x)) / 2,
    ),
}
each_formula = pytest.mark.parametrize("name", FORMULAS)


@each_formula
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_follows_its_formula(name, shape):
    function, formula = FORMULAS[name]
    x = spread(*shape)
    y = function(Tensor(x)).numpy()
    assert y.shape == shape
    expected = np.reshape([formula(float(value)) for value in x.reshape(-1)], shape)
    np.testing.assert_allclose(y, expected, rtol=1e-13, atol=1e-15)


@each_formula
def test_gradient(name):
    check_gradient(FORMULAS[name][0], spread(3, 5, 4), rtol=1e-8)


@each_formula
def test_float32(name):
    check_float32(FORMULAS[name][0], spread(3, 5, 40))


@each_formula
def test_any_number_of_threads(name, threads):
    check_threads(threads, FORMULAS[name][0], spread(9, 50, 80).astype(np.float32))


@each_formula
def test_nan_stays_nan(name):
    y = FORMULAS[name][0](Tensor(np.array([1.0, np.nan, -1.0]))).numpy()
    assert np.isnan(y).tolist() == [False, True, False]


@each_formula
def test_input_that_is_not_contiguous(name):
    x = spread(4, 6)
    y = FORMULAS[name][0](Tensor(x).transpose()).numpy()
    np.testing.assert_array_equal(y, FORMULAS[name][0](Tensor(x)).numpy().T)


def test_slopes_at_zero():
    zero = np.zeros(3)
    assert run(A.relu, zero, gy=np.ones(3))[1][0].tolist() == [0, 0, 0]
    leaky = run(lambda x: A.leaky_relu(x, 0.25), zero, gy=np.ones(3))[1][0]
    assert leaky.tolist() == [0.25, 0.25, 0.25]


def test_softplus_is_the_identity_above_its_threshold():
    x = np.array([19.0, 21.0, 1000.0, -1000.0])
    y, (gx,) = run(A.softplus, x, gy=np.ones(4))
    np.testing.assert_allclose(y, [19 + math.log1p(math.exp(-19)), 21, 1000, 0], rtol=1e-15)
    np.testing.assert_allclose(gx, [1 / (1 + math.exp(-19)), 1, 1, 0], rtol=1e-15)


def test_settings_are_checked():
    x = Tensor(np.ones(2))
    with pytest.raises(ValueError, match=r"gelu: approximate must be one of 'none', 'tanh', but"):
        A.gelu(x, approximate="erf")
    with pytest.raises(ValueError, match=r"softplus: beta must be above 0, but is 0"):
        A.softplus(x, beta=0)


@pytest.mark.parametrize(
    "function",
    [A.relu, A.leaky_relu, A.elu, A.gelu, A.sigmoid, A.tanh, A.softplus, A.softmax, A.log_softmax],
)
def test_integers_are_refused(function):
    with pytest.raises(TypeError, match=rf"{function.__name__}: x must be floating, but has dtype"):
        function(Tensor(np.arange(3)))


def _naive_softmax(x, axis):
    powers = np.exp(x - x.max(axis=axis, keepdims=True))
    return powers / powers.sum(axis=axis, keepdims=True)


@pytest.mark.parametrize("axis", [-1, 0, 1, -2])
@pytest.mark.parametrize("shape", [(2, 3), (5, 1), (300, 17), (4, 3, 2, 21), (1, 1, 3, 1)], ids=str)
def test_softmax_value(shape, axis):
    x = 3 * normal(*shape)
    expected = _naive_softmax(x, axis)
    np.testing.assert_allclose(A.softmax(x, axis).numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(A.log_softmax(x, axis).numpy(), np.log(expected), atol=1e-12)


@pytest.mark.parametrize("function", [A.softmax, A.log_softmax])
@pytest.mark.parametrize("axis", [-1, 0, 2])
def test_softmax_gradient(function, axis):
    check_gradient(lambda x: function(x, axis), normal(3, 4, 5, 6))


@pytest.mark.parametrize("function", [A.softmax, A.log_softmax])
@pytest.mark.parametrize("classes", [1, 2, 3, 17, 64])
def test_softmax_float32(function, classes):
    check_float32(function, 4 * normal(40, 9, classes))


@pytest.mark.parametrize("function", [A.softmax, A.log_softmax])
def test_softmax_any_number_of_threads(function, threads):
    check_threads(threads, function, normal(30, 40, 5).astype(np.float32))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_softmax_of_large_and_infinite_scores(dtype):
    x = np.array([[1e4, 1e4], [-1e4, 0], [-np.inf, 3], [0, -200]], dtype)
    with np.errstate(all="raise"):
        y, log = A.softmax(x).numpy(), A.log_softmax(x).numpy()
    np.testing.assert_allclose(y, [[0.5, 0.5], [0, 1], [0, 1], [1, 0]], atol=1e-37)
    half = -math.log(2)
    expected = [[half, half], [-1e4, 0], [-np.inf, 0], [0, -200]]
    np.testing.assert_allclose(log, expected, rtol=1e-6)


def test_softmax_of_nan_is_nan_in_its_row_only():
    y = A.softmax(np.array([[1, np.nan, 2], [1, 1, 1]])).numpy()
    assert np.isnan(y).tolist() == [[True] * 3, [False] * 3]


def test_softmax_arguments_are_checked():
    for function in (A.softmax, A.log_softmax):
        name = function.__name__
        with pytest.raises(ValueError, match=rf"{name}: axis must be one of the 2 axes .* is 2,"):
            function(np.ones((2, 3)), axis=2)
        with pytest.raises(ValueError, match=rf"{name}: x must not be empty, but has shape \(0, 3"):
            function(np.ones((0, 3)))


@jit.kernel
def _exponentials(x, y):
    for i in range(x.size):
        y[i] = exp(x[i])


def test_exponential_in_single_precision():
    x = np.concatenate([np.linspace(-86.5, 88.7, 2001), [0, 1, -1, 1e-30]]).astype(np.float32)
    y = np.empty_like(x)
    _exponentials(x, y)
    np.testing.assert_allclose(y, np.exp(x.astype(np.float64)), rtol=1.2e-7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.filterwarnings("ignore:overflow")  # plain Python, with compilation switched off
def test_exponential_at_the_ends(dtype):
    x = np.array([-np.inf, -1e9, -800, 0, 800, 1e9, np.inf, np.nan], dtype)
    y = np.empty_like(x)
    _exponentials(x, y)
    np.testing.assert_array_equal(y, [0, 0, 0, 1, np.inf, np.inf, np.inf, np.nan])


@jit.kernel
def _logarithms(x, y):
    for i in range(x.size):
        y[i] = log(x[i])


def test_logarithm():
    rng = np.random.default_rng(0)
    near_one = 1 + rng.normal(size=500) * 10.0 ** rng.uniform(-15, -1, 500)
    x = np.concatenate([10.0 ** rng.uniform(-300, 300, 500), near_one, [1, 2, 0.5, np.sqrt(0.5)]])
    y = np.empty_like(x)
    _logarithms(x, y)
    np.testing.assert_allclose(y, np.log(x), rtol=6e-16)
    ends = np.array([np.nan, np.inf])
    _logarithms(ends, ends)
    np.testing.assert_array_equal(ends, [np.nan, np.inf])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gelu_far_from_zero(dtype):
    x = np.array([-40, -12, -6, -3, 3, 6, 40], dtype)
    below = [math.erfc(-float(value) / math.sqrt(2)) / 2 for value in x]
    y, (gx,) = run(A.gelu, x, gy=np.ones(7, dtype))
    tolerance = {"rtol": 1e-12} if dtype == np.float64 else {"atol": 3e-7}
    np.testing.assert_allclose(y, x * below, **tolerance)
    density = np.exp(-(x.astype(float) ** 2) / 2) / math.sqrt(2 * math.pi)
    np.testing.assert_allclose(gx, below + x * density, rtol=1e-6, atol=3e-7)


def test_against_torch():
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    pairs = [
        (A.relu, F.relu), (A.leaky_relu, F.leaky_relu), (A.elu, F.elu), (A.gelu, F.gelu),
        (lambda x: A.gelu(x, "tanh"), lambda x: F.gelu(x, approximate="tanh")),
        (A.sigmoid, torch.sigmoid), (A.tanh, torch.tanh), (A.softplus, F.softplus),
        (A.softmax, lambda x: F.softmax(x, -1)), (A.log_softmax, lambda x: F.log_softmax(x, -1)),
    ]  # fmt: skip
    x = 3 * normal(4, 5, 6)
    x[0, 0, :3] = 0  # the conventions at kinks
    gy = normal(4, 5, 6, seed=1)
    for ours, theirs in pairs:
        y, (gx,) = run(ours, x, gy=gy)
        leaf = torch.from_numpy(x).requires_grad_()
        expected = theirs(leaf)
        expected.backward(torch.from_numpy(gy))
        np.testing.assert_allclose(y, expected.detach().numpy(), rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(gx, leaf.grad.numpy(), rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_relu_of_a_sum(dtype):
    a, b, gy = np.random.default_rng(0).standard_normal((3, 2, 37, 5)).astype(dtype)
    b[0, 0] = -a[0, 0]
    x, plus = Tensor(a, requires_grad=True), Tensor(b, requires_grad=True)
    y = A.relu(x, plus=plus)
    np.testing.assert_array_equal(y.numpy(), np.maximum(a + b, 0))
    y.backward(gy)
    for leaf in (x, plus):
        np.testing.assert_array_equal(leaf.grad, np.where(a + b > 0, gy, 0))
    assert not np.shares_memory(x.grad, plus.grad)


def test_relu_of_a_tensor_and_itself():
    x = Tensor(np.array([-1.0, 2.0]), requires_grad=True)
    A.relu(x, plus=x).backward(np.ones(2))
    np.testing.assert_array_equal(x.grad, [0, 2])


def test_relu_of_a_sum_refuses_what_would_broadcast():
    with pytest.raises(ValueError, match=r"relu: plus must have the shape of x, \(2, 3\)"):
        A.relu(np.zeros((2, 3)), plus=np.zeros(3))
