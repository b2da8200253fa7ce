"""Normalisation."""

import numpy as np
import pytest
from checking import (
    check_float32,
    check_gradient,
    check_threads,
    from_torch,
    normal,
    run,
    to_torch,
)

from minidl import Tensor
from minidl.functional import norm as B
from minidl.kernels.batchnorm import RUN

SHAPES = [(6, 4), (3, 5, 1), (2, 5, 4, 3), (1, 7, 9, 17), (2, 3, 4, 5, 2), (1, 2, 1, 100)]
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def _by_hand(x, weight, bias, mean, variance, eps=1e-5):
    y = np.empty_like(x)
    for c in range(x.shape[-1]):
        y[..., c] = (x[..., c] - mean[c]) / np.sqrt(variance[c] + eps) * weight[c] + bias[c]
    return y


def _moments(x):
    flat = x.reshape(-1, x.shape[-1])
    return flat.mean(axis=0), ((flat - flat.mean(axis=0)) ** 2).mean(axis=0)


def _inputs(shape):
    channels = shape[-1]
    return 2 * normal(*shape) + 1, normal(channels, seed=1), normal(channels, seed=2)


def _train(x, weight=None, bias=None):
    return B.batch_norm(x, None, None, weight, bias, training=True)


@each_shape
def test_training_uses_the_moments_of_the_batch(shape):
    x, weight, bias = _inputs(shape)
    y = _train(x, weight, bias).numpy()
    np.testing.assert_allclose(y, _by_hand(x, weight, bias, *_moments(x)), rtol=1e-10, atol=1e-12)


@each_shape
def test_training_gradient(shape):
    check_gradient(_train, *_inputs(shape))


@each_shape
def test_evaluation(shape):
    x, weight, bias = _inputs(shape)
    mean, variance = normal(shape[-1], seed=3), normal(shape[-1], seed=4) ** 2 + 0.1

    def evaluate(x, weight, bias):
        return B.batch_norm(x, mean, variance, weight, bias, training=False, eps=1e-3)

    expected = _by_hand(x, weight, bias, mean, variance, 1e-3)
    np.testing.assert_allclose(evaluate(x, weight, bias).numpy(), expected, rtol=1e-11, atol=1e-12)
    check_gradient(evaluate, x, weight, bias)


def _rectified(activation, running=None, training=True):
    """Batch-norm of (x, weight, bias) and a ReLU: in one pass with `activation`, else in two."""

    def both(x, weight, bias):
        moments = (a.astype(x.dtype) for a in running) if running else (None, None)
        y = B.batch_norm(x, *moments, weight, bias, training, activation=activation)
        return y if activation else y.relu()

    return both


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("training", [True, False])
@each_shape
def test_relu_in_the_same_pass(shape, training, dtype):
    arrays = [a.astype(dtype) for a in _inputs(shape)]
    running = normal(shape[-1], seed=3), normal(shape[-1], seed=4) ** 2 + 0.1
    y, gradients = run(_rectified("relu", running, training), *arrays)
    expected, others = run(_rectified(None, running, training), *arrays)
    assert (y == 0).any()
    np.testing.assert_array_equal(y, expected)
    for gradient, other in zip(gradients, others, strict=True):
        np.testing.assert_array_equal(gradient, other)


@each_shape
def test_gradient_with_relu(shape):
    running = normal(shape[-1], seed=3), normal(shape[-1], seed=4) ** 2 + 0.1
    for training in (True, False):
        check_gradient(_rectified("relu", running, training), *_inputs(shape), step=1e-7, rtol=1e-6)


@pytest.mark.filterwarnings("ignore:invalid value")  # plain Python, with compilation switched off
def test_relu_keeps_nan_and_stops_the_gradient_at_zero():
    x = np.array([[np.nan, 1, np.inf], [2, -1, 3], [-3, 0, -np.inf]])
    running, gy = (np.zeros(3), np.ones(3)), np.full((3, 3), 2.0)
    function = _rectified("relu", running, training=False)
    y, (gx, _, _) = run(function, x, np.ones(3), np.zeros(3), gy=gy)
    scale = 1 / np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(y, np.maximum(x, 0) * scale)
    np.testing.assert_allclose(gx, np.where(x <= 0, 0, 2 * scale))


def test_relu_any_number_of_threads(threads):
    inputs = (a.astype(np.float32) for a in _inputs((2, 150, 40, 17)))
    check_threads(threads, _rectified("relu"), *inputs)


def test_without_weight_and_bias():
    x = normal(4, 5, 3)
    ones, zeros = np.ones(3), np.zeros(3)
    np.testing.assert_array_equal(_train(x).numpy(), _train(x, ones, zeros).numpy())
    check_gradient(_train, x)
    check_gradient(lambda x, bias: _train(x, None, bias), x, zeros)


def test_without_running_moments_the_batch_is_always_used():
    x = normal(4, 5, 3)
    y = B.batch_norm(x, None, None, training=False)
    np.testing.assert_array_equal(y.numpy(), _train(x).numpy())


def test_only_the_gradients_asked_for():
    x, weight, bias = (Tensor(a) for a in _inputs((4, 5, 3)))
    leaf = Tensor(x, requires_grad=True)
    y = B.batch_norm(leaf, np.zeros(3), np.ones(3), weight, bias)
    y.sum().backward()
    expected = np.broadcast_to(weight.numpy() / np.sqrt(1 + 1e-5), x.shape)
    np.testing.assert_allclose(leaf.grad, expected)
    assert weight.grad is None


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("momentum", [0.1, 0.0, 1.0])
def test_running_moments_move_towards_the_batch(dtype, momentum):
    x = normal(2, 3, 4, 5)
    before = normal(5, seed=1), normal(5, seed=2) ** 2
    mean, variance = (a.astype(dtype) for a in before)
    B.batch_norm(x, mean, variance, training=True, momentum=momentum)
    flat = x.reshape(-1, 5)
    for kept, start, now in (
        (mean, before[0], flat.mean(axis=0)),
        (variance, before[1], flat.var(axis=0, ddof=1)),
    ):
        assert kept.dtype == dtype
        np.testing.assert_allclose(kept, (1 - momentum) * start + momentum * now, rtol=1e-6)


def test_evaluation_leaves_the_running_moments_alone():
    mean, variance = np.zeros(3), np.ones(3)
    B.batch_norm(normal(4, 3), mean, variance)
    assert (mean == 0).all()
    assert (variance == 1).all()


@pytest.mark.parametrize("channels", [1, 3, 17, 64, 100])
def test_float32(channels):
    shape = (2, 30, 20, channels)
    check_float32(_train, *_inputs(shape), rtol=4e-6)


@pytest.mark.parametrize("channels", [1, 8, 70])
def test_float32_moments_of_much_data_far_from_zero(channels):
    x = (100 + 0.1 * normal(70000 // channels, channels, seed=5)).astype(np.float32)
    mean, variance = np.zeros(channels), np.zeros(channels)
    B.batch_norm(x, mean, variance, training=True, momentum=1)
    exact = x.astype(np.float64)
    np.testing.assert_allclose(mean, exact.mean(axis=0), rtol=1e-9)
    bound = RUN * np.finfo(np.float32).eps / 2  # of a sum of that many squares in float32
    np.testing.assert_allclose(variance, exact.var(axis=0, ddof=1), rtol=bound)


@pytest.mark.parametrize("channels", [1, 3, 64])
def test_any_number_of_threads(channels, threads):
    x, weight, bias = _inputs((2, 150, 100000 // (300 * channels) + 1, channels))
    for dtype in (np.float32, np.float64):
        check_threads(threads, _train, *(a.astype(dtype) for a in (x, weight, bias)))


def test_input_that_is_not_contiguous():
    x = normal(2, 3, 4, 5)
    moved = Tensor(x).transpose(0, 2, 3, 1)
    expected = _train(np.ascontiguousarray(x.transpose(0, 2, 3, 1))).numpy()
    np.testing.assert_array_equal(_train(moved).numpy(), expected)


def test_nan_stays_in_its_channel():
    x = normal(4, 5, 3)
    x[1, 2, 1] = np.nan
    y = _train(x).numpy()
    assert np.isnan(y).all(axis=(0, 1)).tolist() == [False, True, False]
    assert np.isnan(y).any(axis=(0, 1)).tolist() == [False, True, False]


def test_a_constant_channel_becomes_its_bias():
    x = np.full((4, 5, 2), 3.3, np.float32)
    bias = np.array([1.5, -2], np.float32)
    np.testing.assert_array_equal(_train(x, None, bias).numpy(), np.broadcast_to(bias, x.shape))


def test_arguments_are_checked():
    x, three = normal(4, 5, 3), np.ones(3)
    with pytest.raises(
        ValueError, match=r"batch_norm: x must have 2 to 5 axes, channels last, and"
    ):
        _train(np.ones(3))
    with pytest.raises(ValueError, match=r"and not be empty, but has shape \(0, 3\)"):
        _train(np.ones((0, 3)))
    with pytest.raises(
        ValueError, match=r"batch_norm: weight must have shape \(3,\), because x has"
    ):
        _train(x, np.ones(4), three)
    with pytest.raises(ValueError, match=r"batch_norm: bias must have shape \(3,\), .* \(3, 1\)\."):
        _train(x, three, np.ones((3, 1)))
    with pytest.raises(TypeError, match=r"batch_norm: x has dtype float64, but weight has float32"):
        _train(x, three.astype(np.float32))
    with pytest.raises(
        ValueError, match=r"running_mean must have shape \(3,\), one number for each"
    ):
        B.batch_norm(x, np.ones(2), three)
    with pytest.raises(
        ValueError, match=r"running_var must have shape \(3,\), .* has shape \(4,\)"
    ):
        B.batch_norm(x, three, np.ones(4))
    with pytest.raises(TypeError, match=r"running_var must be a floating ndarray, .* is NoneType"):
        B.batch_norm(x, three, None)
    with pytest.raises(TypeError, match=r"running_mean must be a floating ndarray, .* is Tensor"):
        B.batch_norm(x, Tensor(three), three)
    with pytest.raises(
        ValueError, match=r"more than one value in each channel .* \(1, 1, 3\)\. Use"
    ):
        B.batch_norm(x[:1, :1], three, three, training=True)
    with pytest.raises(ValueError, match=r"batch_norm: momentum must be between 0 and 1, but is 2"):
        B.batch_norm(x, three, three, momentum=2)
    with pytest.raises(
        ValueError, match=r"batch_norm: activation must be one of None, 'relu', but is 'elu'\."
    ):
        B.batch_norm(x, three, three, activation="elu")
    with pytest.raises(ValueError, match=r"batch_norm: eps must be above 0, but is 0"):
        B.batch_norm(x, three, three, eps=0)


def test_a_single_value_can_be_evaluated():
    y = B.batch_norm(np.full((1, 1, 3), 2.0), np.ones(3), np.full(3, 4.0))
    np.testing.assert_allclose(y.numpy(), 0.5, rtol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_against_torch(training):
    torch = pytest.importorskip("torch")
    arrays = _inputs((3, 5, 4, 6))
    gy = normal(3, 5, 4, 6, seed=9)
    running = normal(6, seed=3), normal(6, seed=4) ** 2
    mean, variance = (a.copy() for a in running)

    def ours(x, weight, bias):
        return B.batch_norm(x, mean, variance, weight, bias, training, 0.3, 1e-4)

    y, gradients = run(ours, *arrays, gy=gy)
    leaves = [
        to_torch(torch, arrays[0]).requires_grad_(),
        *(torch.from_numpy(a).requires_grad_() for a in arrays[1:]),
    ]
    kept = [torch.from_numpy(a.copy()) for a in running]
    x, *others = leaves
    expected = torch.nn.functional.batch_norm(x, *kept, *others, training, 0.3, 1e-4)
    expected.backward(to_torch(torch, gy))
    np.testing.assert_allclose(y, from_torch(expected), rtol=1e-11, atol=1e-12)
    theirs = [from_torch(leaves[0].grad), *(leaf.grad.numpy() for leaf in others)]
    for gradient, theirs_ in zip(gradients, theirs, strict=True):
        np.testing.assert_allclose(gradient, theirs_, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(mean, kept[0].numpy(), rtol=1e-12)
    np.testing.assert_allclose(variance, kept[1].numpy(), rtol=1e-12)


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
@pytest.mark.parametrize("shape", [(3, 6), (2, 5, 4, 6)], ids=str)
def test_group_norm(groups, shape):
    x, weight, bias = _inputs(shape)
    if x[0].size == groups:
        return  # a single value in each group: nothing but the bias
    y = B.group_norm(x, groups, weight, bias).numpy()
    expected = np.empty_like(x)
    for n in range(len(x)):
        for channels in np.split(np.arange(6), groups):
            part = x[n][..., channels]
            normalised = (part - part.mean()) / np.sqrt(part.var() + 1e-5)
            expected[n][..., channels] = normalised * weight[channels] + bias[channels]
    np.testing.assert_allclose(y, expected, rtol=1e-11, atol=1e-12)
    check_gradient(lambda *arrays: B.group_norm(arrays[0], groups, *arrays[1:]), x, weight, bias)
    if x[0].size > 6:  # of two values, the gradient is next to nothing but rounding
        check_float32(lambda x: B.group_norm(x, groups), x, rtol=1e-5)


@pytest.mark.parametrize("normalised", [4, (4,), (3, 4), (5, 3, 4)], ids=str)
def test_layer_norm(normalised):
    x = normal(2, 5, 3, 4)
    extents = normalised if isinstance(normalised, tuple) else (normalised,)
    axes = tuple(range(-len(extents), 0))
    weight, bias = normal(*extents, seed=1), normal(*extents, seed=2)
    y = B.layer_norm(x, normalised, weight, bias).numpy()
    distance = x - x.mean(axis=axes, keepdims=True)
    expected = distance / np.sqrt(x.var(axis=axes, keepdims=True) + 1e-5) * weight + bias
    np.testing.assert_allclose(y, expected, rtol=1e-11, atol=1e-12)
    check_gradient(
        lambda *arrays: B.layer_norm(arrays[0], normalised, *arrays[1:]), x, weight, bias
    )


def test_group_and_layer_norm_arguments_are_checked():
    x = normal(2, 5, 6)
    with pytest.raises(ValueError, match=r"group_norm: num_groups must divide the 6 channels of x"):
        B.group_norm(x, 4)
    with pytest.raises(
        ValueError, match=r"group_norm: num_groups must be an integer >= 1, but is 0"
    ):
        B.group_norm(x, 0)
    with pytest.raises(
        ValueError, match=r"group_norm: weight must have shape \(6,\), because x has"
    ):
        B.group_norm(x, 2, np.ones(2))
    with pytest.raises(ValueError, match=r"group_norm: eps must be above 0, but is -1"):
        B.group_norm(x, 2, eps=-1)
    with pytest.raises(
        ValueError, match=r"layer_norm: the shape of x must end in .* \(5,\), but is"
    ):
        B.layer_norm(x, 5)
    with pytest.raises(
        ValueError, match=r"layer_norm: bias must have shape \(5, 6\), but has shape"
    ):
        B.layer_norm(x, (5, 6), None, np.ones(6))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 20])
@pytest.mark.parametrize("channels", [1, 3, 17])
def test_local_response_norm(size, channels):
    x = 2 * normal(2, 3, 4, channels)
    settings = {"size": size, "alpha": 0.5, "beta": 0.6, "k": 2.0}
    y = B.local_response_norm(x, **settings).numpy()
    expected = np.empty_like(x)
    for c in range(channels):
        window = x[..., max(c - size // 2, 0) : c + (size - 1) // 2 + 1]
        expected[..., c] = x[..., c] / (2 + 0.5 * (window**2).sum(axis=-1) / size) ** 0.6
    np.testing.assert_allclose(y, expected, rtol=1e-12)
    check_gradient(lambda x: B.local_response_norm(x, **settings), x)
    check_float32(lambda x: B.local_response_norm(x, **settings), x)


def test_local_response_norm_against_torch():
    torch = pytest.importorskip("torch")
    x = 5 * normal(2, 3, 4, 9)
    for size in (2, 5):
        theirs = torch.nn.functional.local_response_norm(to_torch(torch, x), size)
        ours = B.local_response_norm(x, size).numpy()
        np.testing.assert_allclose(ours, from_torch(theirs), rtol=1e-12)


def test_local_response_norm_arguments_are_checked():
    with pytest.raises(ValueError, match=r"local_response_norm: size must be an integer >= 1, but"):
        B.local_response_norm(np.ones((2, 3)), 0)
    with pytest.raises(
        ValueError, match=r"local_response_norm: x must have shape \(N, \.\.\., C\)"
    ):
        B.local_response_norm(np.ones(3), 1)
