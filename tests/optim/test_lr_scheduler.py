"""Schedules against closed forms, and against PyTorch at every step."""

import math

import numpy as np
import pytest

from minidl import Tensor, optim
from minidl.optim import lr_scheduler


def _optimizer(*rates):
    groups = [{"params": [Tensor([1.0], requires_grad=True)], "lr": lr} for lr in rates]
    return optim.SGD(groups)


def _rates(make, epochs, rates=(0.8,)):
    """Rates of the first group, from before the first step on."""
    optimizer = _optimizer(*rates)
    scheduler = make(lr_scheduler, optimizer)
    seen = [scheduler.get_last_lr()]
    for _ in range(epochs):
        scheduler.step()
        seen.append(scheduler.get_last_lr())
        assert seen[-1] == [group["lr"] for group in optimizer.param_groups]
    return np.array(seen)


CLOSED_FORMS = [
    (lambda s, o: s.StepLR(o, 3, 0.5), lambda e: 0.8 * 0.5 ** (e // 3)),
    (
        lambda s, o: s.MultiStepLR(o, [2, 5], 0.1),
        lambda e: 0.8 * (1 if e < 2 else 0.1 if e < 5 else 0.01),
    ),
    (lambda s, o: s.ExponentialLR(o, 0.9), lambda e: 0.8 * 0.9**e),
    (
        lambda s, o: s.CosineAnnealingLR(o, 6, 0.2),
        lambda e: 0.2 + 0.6 * (1 + math.cos(math.pi * e / 6)) / 2,
    ),
    (lambda s, o: s.PolynomialLR(o, 6, 0.9), lambda e: 0.8 * max(1 - e / 6, 0) ** 0.9),
    (lambda s, o: s.LinearLR(o, 0.25, 1.0, 4), lambda e: 0.8 * min(0.25 + 0.75 * e / 4, 1)),
    (lambda s, o: s.LambdaLR(o, lambda e: 1 / (1 + e)), lambda e: 0.8 / (1 + e)),
    (
        lambda s, o: s.SequentialLR(o, [s.LinearLR(o, 0.5, 1.0, 2), s.ExponentialLR(o, 0.5)], [3]),
        lambda e: [0.4, 0.6, 0.8][e] if e < 3 else 0.8 * 0.5 ** (e - 3),
    ),
]


@pytest.mark.parametrize(("make", "expected"), CLOSED_FORMS)
def test_closed_forms(make, expected):
    np.testing.assert_allclose(
        _rates(make, 9)[:, 0], [expected(e) for e in range(10)], rtol=1e-13, atol=1e-17
    )


@pytest.mark.filterwarnings("ignore")  # PyTorch wants optimizer.step() before scheduler.step()
@pytest.mark.parametrize(("make", "expected"), CLOSED_FORMS)
def test_rates_are_those_of_pytorch(make, expected):
    torch = pytest.importorskip("torch")
    groups = [{"params": [torch.zeros(1)], "lr": lr} for lr in (0.8, 0.3)]
    optimizer = torch.optim.SGD(groups, lr=1)
    scheduler = make(torch.optim.lr_scheduler, optimizer)
    seen = [scheduler.get_last_lr()]
    for _ in range(14):
        optimizer.step()
        scheduler.step()
        seen.append(scheduler.get_last_lr())
    np.testing.assert_allclose(_rates(make, 14, (0.8, 0.3)), seen, rtol=1e-9, atol=1e-12)


def test_lambda_for_each_group():
    rates = _rates(lambda s, o: s.LambdaLR(o, [lambda e: 1.0, lambda e: 0.5**e]), 2, (1.0, 1.0))
    np.testing.assert_array_equal(rates, [[1, 1], [1, 0.5], [1, 0.25]])


NUMBERS = [5.0, 4.0, 4.0, 4.0, 3.9999, 3.9999, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 2.0]


@pytest.mark.parametrize(
    "settings",
    [
        {"patience": 1},
        {"patience": 0, "factor": 0.5, "min_lr": 0.15},
        {"patience": 1, "cooldown": 2},
        {"patience": 1, "threshold": 0.5, "threshold_mode": "abs"},
        {"patience": 1, "mode": "max"},
        {"patience": 1, "mode": "max", "threshold": 0.5, "threshold_mode": "rel"},
        {"patience": 0, "eps": 0.05},
    ],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_plateau_is_that_of_pytorch(settings, sign):
    torch = pytest.importorskip("torch")
    theirs = torch.optim.SGD([torch.zeros(1)], lr=0.8)
    expected = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, **settings)
    ours = _optimizer(0.8)
    scheduler = lr_scheduler.ReduceLROnPlateau(ours, **settings)
    for number in NUMBERS:
        expected.step(sign * number)
        scheduler.step(sign * number)
        assert ours.param_groups[0]["lr"] == pytest.approx(theirs.param_groups[0]["lr"])


def test_plateau_reduces_after_more_than_patience_bad_epochs():
    optimizer = _optimizer(1.0)
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, patience=2)
    rates = []
    for number in [1.0, 1.0, 1.0, 1.0, 0.5]:
        scheduler.step(number)
        rates += scheduler.get_last_lr()
    np.testing.assert_allclose(rates, [1, 1, 1, 0.1, 0.1])


def test_state_continues():
    optimizer = _optimizer(0.8)
    scheduler = lr_scheduler.StepLR(optimizer, 3, 0.5)
    for _ in range(4):
        scheduler.step()
    again = lr_scheduler.StepLR(_optimizer(0.8), 3, 0.5)
    again.load_state_dict(scheduler.state_dict())
    assert again.get_last_lr() == [0.4]
    again.step()
    again.step()
    assert again.get_last_lr() == [0.2]


def test_state_of_plateau_continues():
    settings = {"patience": 2}
    first = lr_scheduler.ReduceLROnPlateau(_optimizer(1.0), **settings)
    for number in [1.0, 2.0, 2.0]:
        first.step(number)
    optimizer = _optimizer(1.0)
    second = lr_scheduler.ReduceLROnPlateau(optimizer, **settings)
    second.load_state_dict(first.state_dict())
    second.step(2.0)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda s, o: s.StepLR(o, 0), ValueError, "step_size must be at least 1"),
        (lambda s, o: s.StepLR([], 1), TypeError, "expected an optimiser, got list"),
        (lambda s, o: s.LambdaLR(o, [abs, abs]), ValueError, "2 functions for 1 parameter groups"),
        (
            lambda s, o: s.SequentialLR(o, [s.StepLR(o, 1), s.StepLR(o, 1)], []),
            ValueError,
            "2 schedulers need 1 increasing milestones",
        ),
        (
            lambda s, o: s.SequentialLR(o, [s.ReduceLROnPlateau(o)], []),
            ValueError,
            "ReduceLROnPlateau is not a schedule of epochs",
        ),
        (lambda s, o: s.ReduceLROnPlateau(o, mode="up"), ValueError, "mode must be 'min' or"),
        (lambda s, o: s.ReduceLROnPlateau(o, factor=1.0), ValueError, "factor must be below 1"),
    ],
)
def test_unfit_settings_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make(lr_scheduler, _optimizer(0.1))
