"""Runs the table of `cases.py`: what every operation has to survive."""

import numpy as np
import pytest
from cases import CASES, EXCEPTIONS
from numeric import difference, directional

import minidl as md
from minidl import functional

DTYPES = (np.float32, np.float64)
each_case = pytest.mark.parametrize("case", CASES, ids=str)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)


def _split(result):
    """The differentiable result, and arrays that come with it."""
    if isinstance(result, tuple):
        return result[0], [np.asarray(other) for other in result[1:]]
    return result, []


def _direction(shape, seed=1):
    return np.asarray(np.random.default_rng(seed).standard_normal(shape))


def _evaluate(case, inputs, fixed, gy=None):
    """Result as an array, the arrays that come with it, and the gradients of all inputs."""
    tensors = [md.Tensor(x, requires_grad=True) for x in inputs]
    y, others = _split(case.run(tensors, fixed))
    y.backward(_direction(y.shape).astype(y.dtype) if gy is None else gy)
    return y.numpy(), others, [x.grad for x in tensors]


def _scale(array):
    return max(np.abs(array).max(initial=0), 1e-30)


def _assert_near(result, expected, rtol):
    """Equal within `rtol` of the largest element."""
    expected = np.asarray(expected)
    assert result.shape == expected.shape
    np.testing.assert_allclose(result, expected, rtol=0, atol=rtol * _scale(expected))


def test_every_public_name_has_a_row():
    covered = {case.name for case in CASES} | set(EXCEPTIONS)
    assert sorted(set(functional.__all__) - covered) == []


def test_every_row_and_exception_has_a_public_name():
    named = {case.name for case in CASES} | set(EXCEPTIONS)
    assert sorted(named - set(functional.__all__)) == []


def test_rows_have_different_names():
    names = [str(case) for case in CASES]
    assert sorted({name for name in names if names.count(name) > 1}) == []


@each_case
def test_value(case):
    inputs, fixed = case.draw()
    y, others = _split(case.run(inputs, fixed))
    expected, expected_others = _split(case.expect(inputs, fixed))
    assert [other.dtype.kind for other in others] == ["i"] * len(others)
    _assert_near(y.numpy(), expected, 1e-12)
    for other, wanted in zip(others, expected_others, strict=True):
        np.testing.assert_allclose(other, wanted, rtol=1e-12)


@each_case
def test_value_in_float32(case):
    inputs, fixed = case.draw(np.float32)
    y, _ = _split(case.run(inputs, fixed))
    wide = {k: v.astype(np.float64) if v.dtype.kind == "f" else v for k, v in fixed.items()}
    expected, _ = _split(case.expect([x.astype(np.float64) for x in inputs], wide))
    _assert_near(y.numpy(), expected, case.rtol32)


@each_case
def test_gradient(case):
    """Against differences of the twin, which knows nothing of the operation or its gradient."""
    inputs, fixed = case.draw()
    y, _, gradients = _evaluate(case, inputs, fixed)
    u = _direction(y.shape)

    def measured(*inputs):
        return (_split(case.expect(inputs, fixed))[0] * u).sum()

    for i, gradient in enumerate(gradients):
        for seed in (2, 3):
            v = _direction(inputs[i].shape, seed)
            expected = directional(measured, inputs, i, v)
            scale = np.linalg.norm(gradient) * np.linalg.norm(v)
            assert abs((gradient * v).sum() - expected) <= 1e-8 * max(scale, 1e-3), f"input {i}"


@each_case
def test_gradcheck_accepts(case):
    inputs, fixed = case.draw()
    assert md.gradcheck(lambda *xs: _split(case.run(xs, fixed))[0], tuple(inputs))


@each_case
def test_gradient_in_float32(case):
    inputs, fixed = case.draw(np.float32)
    wide = {k: v.astype(np.float64) if v.dtype.kind == "f" else v for k, v in fixed.items()}
    y, _, gradients = _evaluate(case, inputs, fixed)
    gy = _direction(y.shape).astype(np.float32).astype(np.float64)
    _, _, expected = _evaluate(case, [x.astype(np.float64) for x in inputs], wide, gy)
    for gradient, wanted in zip(gradients, expected, strict=True):
        _assert_near(gradient, wanted, 2 * case.rtol32)


LINEAR = [(case, i) for case in CASES for i in case.linear_in]


@pytest.mark.parametrize("case, i", LINEAR, ids=[f"{case}-{i}" for case, i in LINEAR])
def test_gradient_of_a_linear_input_by_a_step_of_one(case, i):
    """No step is too wide for something linear: float32 kernels are checked as they are."""
    inputs, fixed = case.draw(np.float32)
    y, _, gradients = _evaluate(case, inputs, fixed)
    u, v = _direction(y.shape), _direction(inputs[i].shape, 2).astype(np.float32)

    def measured(*inputs):
        return (_split(case.run(inputs, fixed))[0].numpy().astype(np.float64) * u).sum()

    expected = difference(measured, inputs, i, v)
    bound = 4e-6 * np.linalg.norm(u) * np.linalg.norm(y) * 2
    bound += 4e-6 * np.linalg.norm(gradients[i]) * np.linalg.norm(v)
    assert abs((gradients[i].astype(np.float64) * v).sum() - expected) <= bound


@each_dtype
@each_case
def test_dtype_is_kept(case, dtype):
    y, _, gradients = _evaluate(case, *case.draw(dtype))
    assert y.dtype == dtype
    assert [gradient.dtype for gradient in gradients] == [dtype] * len(gradients)


@each_dtype
@each_case
def test_nothing_passed_in_is_written_to(case, dtype):
    inputs, fixed = case.draw(dtype)
    tensors = [md.Tensor(x, requires_grad=True) for x in inputs]
    arrays = [*inputs, *fixed.values()]
    before = [x.copy() for x in arrays]
    y, _ = _split(case.run(tensors, fixed))
    value, gy = y.numpy(), _direction(y.shape).astype(dtype)
    gy_before = gy.copy()
    y.backward(gy)
    for x, copy in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(x, copy)
    for x, copy in zip(tensors, inputs, strict=True):
        np.testing.assert_array_equal(x.data, copy)
    np.testing.assert_array_equal(gy, gy_before)
    np.testing.assert_array_equal(y.data, value)


@each_case
def test_gradients_share_memory_with_nothing(case):
    inputs, fixed = case.draw()
    tensors = [md.Tensor(x, requires_grad=True) for x in inputs]
    y, others = _split(case.run(tensors, fixed))
    gy = _direction(y.shape)
    y.backward(gy)
    arrays = [x.grad for x in tensors] + [x.data for x in tensors]
    arrays += [y.data, gy, *others, *fixed.values()]
    for i, x in enumerate(tensors):
        assert x.grad.flags.writeable
        shared = [j for j, a in enumerate(arrays) if j != i and np.shares_memory(x.grad, a)]
        assert shared == []


def _spaced(array):
    """Equal to `array`, with gaps in memory and the axes the other way round."""
    if array.ndim == 0:
        return array.copy()
    wide = np.zeros([2 * n for n in array.shape[::-1]], array.dtype)
    view = wide[(slice(None, None, 2),) * array.ndim].T
    view[...] = array
    return view


@each_dtype
@each_case
def test_layout_in_memory_does_not_matter(case, dtype):
    inputs, fixed = case.draw(dtype)
    y, others, gradients = _evaluate(case, inputs, fixed)
    gy = _spaced(_direction(y.shape).astype(dtype))
    spaced_fixed = {name: _spaced(x) for name, x in fixed.items()}
    results = _evaluate(case, [_spaced(x) for x in inputs], spaced_fixed, gy)
    np.testing.assert_array_equal(results[0], y)
    for other, wanted in zip(results[1], others, strict=True):
        np.testing.assert_array_equal(other, wanted)
    for gradient, wanted in zip(results[2], gradients, strict=True):
        np.testing.assert_array_equal(gradient, wanted)


@each_case
def test_gradient_may_be_a_broadcast_number(case):
    """What sum() sends back is a read-only view with strides of zero."""
    inputs, fixed = case.draw()
    tensors = [md.Tensor(x, requires_grad=True) for x in inputs]
    y, _ = _split(case.run(tensors, fixed))
    y.sum().backward()
    _, _, expected = _evaluate(case, inputs, fixed, np.ones(y.shape))
    for x, wanted in zip(tensors, expected, strict=True):
        np.testing.assert_array_equal(x.grad, wanted)


def _bits(case, dtype):
    y, others, gradients = _evaluate(case, *case.draw(dtype))
    return [np.asarray(a).tobytes() for a in (y, *others, *gradients)]


@each_dtype
@each_case
def test_same_bits_for_any_number_of_threads(case, dtype, threads):
    threads(1)
    expected = _bits(case, dtype)
    assert _bits(case, dtype) == expected, "the same call again"
    for count in (2, 3):
        threads(count)
        assert _bits(case, dtype) == expected, f"{count} threads"


@each_case
def test_nothing_is_recorded_without_need(case):
    inputs, fixed = case.draw()
    tensors = [md.Tensor(x, requires_grad=True) for x in inputs]
    recorded, _ = _split(case.run(tensors, fixed))
    with md.no_grad():
        free, _ = _split(case.run(tensors, fixed))
    plain, _ = _split(case.run(inputs, fixed))
    assert recorded.requires_grad and not recorded.is_leaf
    assert not free.requires_grad and free.is_leaf
    assert not plain.requires_grad and plain.is_leaf
    np.testing.assert_array_equal(free.data, recorded.data)
    np.testing.assert_array_equal(plain.data, recorded.data)


@each_case
def test_one_input_can_be_differentiated_alone(case):
    inputs, fixed = case.draw()
    y, _, expected = _evaluate(case, inputs, fixed)
    for i in range(len(inputs)):
        tensors = [md.Tensor(x, requires_grad=i == j) for j, x in enumerate(inputs)]
        result, _ = _split(case.run(tensors, fixed))
        result.backward(_direction(y.shape))
        np.testing.assert_array_equal(tensors[i].grad, expected[i])
        assert all(x.grad is None for j, x in enumerate(tensors) if i != j)
