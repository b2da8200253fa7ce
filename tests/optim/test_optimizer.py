"""Groups, state and errors, which all optimisers share."""

import numpy as np
import pytest

from minidl import Tensor, optim


def _parameter(*shape, value=1.0):
    return Tensor(np.full(shape, value), requires_grad=True)


def test_groups_have_settings_of_their_own():
    a, b = _parameter(2), _parameter(3)
    optimizer = optim.SGD([{"params": [a]}, {"params": b, "lr": 1.0}], lr=0.5)
    a.grad, b.grad = np.ones(2), np.ones(3)
    optimizer.step()
    np.testing.assert_array_equal(a.numpy(), 0.5)
    np.testing.assert_array_equal(b.numpy(), 0.0)
    optimizer.param_groups[0]["lr"] = 0.25
    optimizer.step()
    np.testing.assert_array_equal(a.numpy(), 0.25)


def test_parameters_without_gradient_are_skipped():
    a, b = _parameter(2), _parameter(2)
    optimizer = optim.SGD([a, b], lr=0.5, weight_decay=1.0)
    a.grad = np.zeros(2)
    optimizer.step()
    np.testing.assert_array_equal(a.numpy(), 0.5)
    np.testing.assert_array_equal(b.numpy(), 1.0)


def test_zero_grad_forgets_gradients():
    p = _parameter(2)
    (p * p).sum().backward()
    optim.SGD([p], lr=0.1).zero_grad()
    assert p.grad is None


def test_step_descends_a_recorded_function():
    p = Tensor([3.0, -2.0], requires_grad=True)
    optimizer = optim.SGD([p], lr=0.25)
    for _ in range(30):
        optimizer.zero_grad()
        ((p - 1) * (p - 1)).sum().backward()
        optimizer.step()
    np.testing.assert_allclose(p.numpy(), 1, atol=1e-6)


def test_step_leaves_what_a_recorded_operation_relies_on():
    p = Tensor([3.0], requires_grad=True)
    square = p * p
    p.grad = np.ones(1, np.float32)
    optim.SGD([p], lr=1.0).step()
    p.grad = None
    square.backward()
    np.testing.assert_array_equal(p.numpy(), [2])
    np.testing.assert_array_equal(p.grad, [6])


@pytest.mark.parametrize(
    "make",
    [
        lambda p: optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.5),
        lambda p: optim.Adam(p, amsgrad=True),
        lambda p: optim.RMSprop(p, centered=True, momentum=0.5),
    ],
)
def test_resumed_run_has_the_same_bits(make):
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(6, 4))

    def run(optimizer, p, gradients):
        for g in gradients:
            p.grad = g
            optimizer.step()

    whole = _parameter(4)
    run(make([whole]), whole, gradients)

    first = _parameter(4)
    optimizer = make([first])
    run(optimizer, first, gradients[:3])
    state, value = optimizer.state_dict(), first.numpy()
    run(optimizer, first, gradients[3:])  # must not change the state taken before

    second = Tensor(value, requires_grad=True)
    optimizer = make([second])
    optimizer.load_state_dict(state)
    run(optimizer, second, gradients[3:])
    np.testing.assert_array_equal(second.numpy(), whole.numpy())


def test_load_restores_settings():
    saved = optim.SGD([_parameter(2)], lr=0.5).state_dict()
    optimizer = optim.SGD([_parameter(2)], lr=0.1)
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_load_refuses_another_number_of_parameters():
    saved = optim.SGD([_parameter(2)]).state_dict()
    optimizer = optim.SGD([_parameter(2), _parameter(2)])
    with pytest.raises(ValueError, match=r"groups of \[1\] parameters, but here are \[2\]"):
        optimizer.load_state_dict(saved)


def test_load_refuses_another_shape():
    p = _parameter(2)
    optimizer = optim.Adam([p])
    p.grad = np.ones(2)
    optimizer.step()
    other = optim.Adam([_parameter(3)])
    with pytest.raises(ValueError, match=r"mean of parameter 0 has shape \(2,\).*\(3,\)"):
        other.load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        (list, ValueError, "params is empty"),
        (lambda: _parameter(2), TypeError, r"iterable of tensors.*model\.parameters\(\)"),
        (lambda: ["weight"], TypeError, "parameter 0 is of type str, not a Tensor"),
        (lambda: [_parameter(2) * 2], ValueError, "computed from others"),
        (lambda: [_parameter(2)] * 2, ValueError, r"parameter 1 .* given twice"),
        (lambda: [{"params": [_parameter(2)], "rate": 1}], ValueError, "unknown setting 'rate'"),
        (lambda: [{"lr": 1}], TypeError, "a group must be a dict with"),
    ],
)
def test_unfit_parameters_are_refused(params, error, message):
    with pytest.raises(error, match=message):
        optim.SGD(params(), lr=0.1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: optim.SGD(p, lr=-1), "SGD: lr must be at least 0, but is -1"),
        (lambda p: optim.SGD(p, nesterov=True), "nesterov needs a momentum"),
        (lambda p: optim.SGD(p, momentum=0.9, dampening=0.1, nesterov=True), "no dampening"),
        (lambda p: optim.Adam(p, betas=(0.9, 1.0)), r"betas must be in \[0, 1\)"),
        (lambda p: optim.AdamW(p, weight_decay=-1), "weight_decay must be at least 0"),
        (lambda p: optim.RMSprop(p, alpha=2), r"alpha must be in \[0, 1\]"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make([_parameter(2)])


def test_gradient_of_another_shape_is_refused():
    p = _parameter(2)
    p.grad = np.ones(3)
    with pytest.raises(ValueError, match=r"gradient has shape \(3,\), but its parameter \(2,\)"):
        optim.SGD([p]).step()


class TestClipGradNorm:
    def _gradients(self):
        a, b = _parameter(3), _parameter(2, 2)
        a.grad, b.grad = np.array([3.0, 0.0, 0.0]), np.array([[0.0, 4.0], [0.0, 0.0]])
        return a, b

    def test_scales_to_the_norm(self):
        a, b = self._gradients()
        assert optim.clip_grad_norm_([a, b, _parameter(5)], 1.0) == 5.0
        np.testing.assert_allclose(a.grad, [0.6, 0, 0], rtol=1e-6)
        np.testing.assert_allclose(b.grad, [[0, 0.8], [0, 0]], rtol=1e-6)

    def test_leaves_small_gradients(self):
        a, b = self._gradients()
        assert optim.clip_grad_norm_([a, b], 6.0) == 5.0
        np.testing.assert_array_equal(a.grad, [3, 0, 0])

    @pytest.mark.parametrize(("norm_type", "norm"), [(np.inf, 4.0), (1, 7.0), (3, 91 ** (1 / 3))])
    def test_other_norms(self, norm_type, norm):
        a, b = self._gradients()
        assert optim.clip_grad_norm_([a, b], 1.0, norm_type) == pytest.approx(norm)
        assert a.grad[0] == pytest.approx(3 / norm, rel=1e-5)

    def test_reports_a_broken_gradient(self):
        a, _ = self._gradients()
        a.grad[1] = np.nan
        assert np.isnan(optim.clip_grad_norm_(a, 1.0))
        with pytest.raises(RuntimeError, match="norm of the gradients is nan"):
            optim.clip_grad_norm_(a, 1.0, error_if_nonfinite=True)

    def test_sums_large_gradients_of_single_precision(self):
        p = _parameter(100_000)
        p.grad = np.full(100_000, 1e-3, np.float32)
        assert optim.clip_grad_norm_(p, 1.0) == pytest.approx(np.sqrt(0.1), rel=1e-7)
