"""The update rules against PyTorch, and against a few lines of NumPy written from the papers."""

import itertools

import numpy as np
import pytest

from minidl import Tensor, optim

STEPS = 6
SGD_SETTINGS = [
    {"lr": 0.1},
    {"lr": 0.1, "momentum": 0.9},
    {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.02},
    {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.02},
]
ADAM_SETTINGS = [
    {},
    {"lr": 0.03, "betas": (0.8, 0.95), "eps": 1e-3},
    {"weight_decay": 0.1, "lr": 0.05},
    {"amsgrad": True, "lr": 0.05},
]
RMSPROP_SETTINGS = [
    {},
    {"alpha": 0.8, "eps": 1e-3, "weight_decay": 0.1},
    {"momentum": 0.7, "lr": 0.02},
    {"centered": True, "momentum": 0.5, "alpha": 0.7},
]
CASES = [
    *itertools.product(["SGD"], SGD_SETTINGS),
    *itertools.product(["Adam", "AdamW"], ADAM_SETTINGS),
    *itertools.product(["RMSprop"], RMSPROP_SETTINGS),
]


def _gradients(shape, steps=STEPS):
    rng = np.random.default_rng(1)
    # The second gradient is smaller than the first, so that AMSGrad differs from Adam.
    return [rng.normal(size=shape) * (3 if i == 0 else 0.3) for i in range(steps)]


def _run(name, settings, start, dtype):
    p = Tensor(start.astype(dtype), requires_grad=True)
    optimizer = getattr(optim, name)([p], **settings)
    for g in _gradients(start.shape):
        p.grad = g.astype(dtype)
        optimizer.step()
    return p.numpy()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "settings"), CASES)
def test_rules_are_those_of_pytorch(name, settings, dtype):
    torch = pytest.importorskip("torch")
    start = np.random.default_rng(0).normal(size=(3, 5))
    p = torch.tensor(start.astype(dtype), requires_grad=True)
    optimizer = getattr(torch.optim, name)([p], **settings)
    for g in _gradients(start.shape):
        p.grad = torch.tensor(g.astype(dtype))
        optimizer.step()
    tolerance = 2e-6 if dtype == np.float32 else 1e-13
    result = _run(name, settings, start, dtype)
    assert result.dtype == dtype
    np.testing.assert_allclose(result, p.detach().numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("settings", SGD_SETTINGS)
def test_sgd_by_hand(settings):
    p = start = np.array([1.0, -2.0])
    decay, momentum = settings.get("weight_decay", 0), settings.get("momentum", 0)
    velocity = None
    for g in _gradients(p.shape):
        g = g + decay * p
        keep = 1 - settings.get("dampening", 0)
        velocity = g if velocity is None else momentum * velocity + keep * g
        step = g + momentum * velocity if settings.get("nesterov") else velocity
        p = p - settings["lr"] * step
    np.testing.assert_allclose(_run("SGD", settings, start, np.float64), p, rtol=1e-13)


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
@pytest.mark.parametrize("settings", ADAM_SETTINGS)
def test_adam_by_hand(name, settings):
    p = start = np.array([1.0, -2.0])
    lr, eps = settings.get("lr", 1e-3), settings.get("eps", 1e-8)
    beta1, beta2 = settings.get("betas", (0.9, 0.999))
    decay = settings.get("weight_decay", 0.01 if name == "AdamW" else 0)
    m = v = highest = 0
    for t, g in enumerate(_gradients(p.shape), 1):
        if name == "AdamW":
            p = p - lr * decay * p
        else:
            g = g + decay * p
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
        highest = np.maximum(highest, v) if settings.get("amsgrad") else v
        p = p - lr * m / (1 - beta1**t) / (np.sqrt(highest / (1 - beta2**t)) + eps)
    np.testing.assert_allclose(_run(name, settings, start, np.float64), p, rtol=1e-12)


@pytest.mark.parametrize("settings", RMSPROP_SETTINGS)
def test_rmsprop_by_hand(settings):
    p = start = np.array([1.0, -2.0])
    alpha, eps = settings.get("alpha", 0.99), settings.get("eps", 1e-8)
    v = mean = velocity = 0
    for g in _gradients(p.shape):
        g = g + settings.get("weight_decay", 0) * p
        v, mean = alpha * v + (1 - alpha) * g**2, alpha * mean + (1 - alpha) * g
        scale = np.sqrt(v - mean**2 if settings.get("centered") else v) + eps
        velocity = settings.get("momentum", 0) * velocity + g / scale
        p = p - settings.get("lr", 0.01) * velocity
    np.testing.assert_allclose(_run("RMSprop", settings, start, np.float64), p, rtol=1e-12)


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_result_does_not_depend_on_blocks_and_threads(name, settings):
    start = np.random.default_rng(0).normal(size=200_000)
    whole = _run(name, settings, start, np.float32)
    part = Tensor(start[150_000:].astype(np.float32), requires_grad=True)
    optimizer = getattr(optim, name)([part], **settings)
    for g in _gradients(start.shape):
        part.grad = g[150_000:].astype(np.float32)
        optimizer.step()
    np.testing.assert_array_equal(part.numpy(), whole[150_000:])
