"""What the tests of the operations in this folder share."""

import numpy as np
from numeric import directional

from minidl import Tensor


def run(f, *inputs, gy=None):
    """Result of f on tensors made of arrays, and the gradient of each; gy is random if left out."""
    tensors = [Tensor(x, requires_grad=True) for x in inputs]
    y = f(*tensors)
    if gy is None:
        gy = np.random.default_rng(7).standard_normal(y.shape)
    y.backward(gy.astype(y.dtype))
    return y.numpy(), [x.grad for x in tensors]


def check_gradient(f, *inputs, step=1e-5, rtol=1e-7):
    """Compare the gradient of every float64 input with differences along a random direction."""
    rng = np.random.default_rng(3)
    before = [x.copy() for x in inputs]
    y, gradients = run(f, *inputs)
    gy = np.random.default_rng(7).standard_normal(y.shape)

    def number(*moved):
        return float((f(*map(Tensor, moved)).numpy() * gy).sum())

    for which, (x, gradient) in enumerate(zip(inputs, gradients, strict=True)):
        assert gradient.shape == x.shape
        assert gradient.dtype == x.dtype
        direction = rng.standard_normal(x.shape)
        numeric = directional(number, inputs, which, direction, step)
        scale = np.linalg.norm(gradient) * np.linalg.norm(direction)
        assert abs(numeric - (gradient * direction).sum()) <= rtol * max(scale, 1e-3), which
    for x, kept in zip(inputs, before, strict=True):
        np.testing.assert_array_equal(x, kept)


def check_derivative(f, plain, *inputs, rtol=1e-8):
    """Value of `f` on tensors as of `plain` on arrays, gradients as its differences."""
    tensors = [Tensor(x, requires_grad=True) for x in inputs]
    y = f(*tensors)
    expected = np.asarray(plain(*inputs))
    assert y.shape == expected.shape
    np.testing.assert_allclose(y.data, expected, rtol=1e-12, atol=1e-14)
    gy = np.random.default_rng(1).standard_normal(y.shape)
    y.backward(gy)
    for i, x in enumerate(tensors):
        assert x.grad.shape == x.shape and x.grad.dtype == x.dtype
        direction = np.random.default_rng(2 + i).standard_normal(x.shape)
        slope = directional(lambda *xs: (plain(*xs) * gy).sum(), inputs, i, direction)
        scale = max(np.linalg.norm(x.grad) * np.linalg.norm(direction), 1e-3)
        assert abs((x.grad * direction).sum() - slope) <= rtol * scale


def check_threads(threads, f, *inputs):
    """Result and gradients have the same bits for one, two and three threads."""
    outcomes = []
    for count in (1, 2, 3):
        threads(count)
        y, gradients = run(f, *inputs)
        outcomes.append([y.tobytes(), *(g.tobytes() for g in gradients)])
    assert outcomes[0] == outcomes[1] == outcomes[2]


def check_float32(f, *inputs, rtol=2e-6):
    """Result and gradients in float32 keep their dtype and are near those in float64."""
    exact = [x.astype(np.float32).astype(np.float64) for x in inputs]
    y, gradients = run(f, *exact)
    gy = np.random.default_rng(7).standard_normal(y.shape)
    y32, gradients32 = run(f, *(x.astype(np.float32) for x in inputs), gy=gy)
    for single, double in zip([y32, *gradients32], [y, *gradients], strict=True):
        assert single.dtype == np.float32
        atol = rtol * max(np.abs(double).max(initial=0), 1e-30)
        np.testing.assert_allclose(single, double, rtol=0, atol=atol)


def spread(*shape, seed=0):
    """Different numbers between -2 and 2 in random order, none nearer than half a step to zero."""
    size = int(np.prod(shape))
    numbers = np.random.default_rng(seed).permutation(size).reshape(shape)
    return (numbers + 0.5) * (4 / size) - 2 + 0.1 / size


def normal(*shape, seed=0):
    """Normally distributed numbers."""
    return np.random.default_rng(seed).standard_normal(shape)


def to_torch(torch, array):
    """A torch tensor with channels second, from an array with channels last."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, 1)))


def from_torch(tensor):
    """The array with channels last, from a torch tensor with channels second."""
    return np.moveaxis(tensor.detach().numpy(), 1, -1)
