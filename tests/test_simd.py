"""The vector type, compiled: what a lane does, and that nothing is touched beyond."""

import numpy as np
import pytest

from minidl.kernels import simd
from minidl.kernels.jit import kernel

DTYPES = [np.float32, np.float64]
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)


def _numbers(dtype, count, seed=0):
    return np.random.default_rng(seed).standard_normal(count).astype(dtype)


@kernel
def _copy(source, at, out, to):
    simd.store(out, to, simd.load(source, at))


@kernel
def _copy_some(source, at, out, to, read, written):
    simd.store_some(out, to, simd.load_some(source, at, read), written)


@kernel
def _combine(a, b, out):
    x, y = simd.load(a, 0), simd.load(b, 0)
    lanes = simd.lanes(a)
    simd.store(out, 0, x + y)
    simd.store(out, lanes, x - y)
    simd.store(out, 2 * lanes, x * y)
    simd.store(out, 3 * lanes, simd.maximum(x, y))
    simd.store(out, 4 * lanes, simd.fma(x, y, y))
    simd.store(out, 5 * lanes, simd.splat(a[1]))


@kernel
def _sum_in_place(a, out):
    total = simd.splat(a.dtype.type(0))
    lanes = simd.lanes(a)
    for i in range(0, len(a), lanes):
        total += simd.load(a, i)
    simd.store(out, 0, total)


@each_dtype
def test_a_vector_fills_a_register(dtype):
    assert simd.lanes_of(dtype) * np.dtype(dtype).itemsize == simd.REGISTER_BYTES
    assert simd.REGISTER_BYTES in (16, 32, 64) and simd.REGISTERS in (16, 32)
    assert simd.FLOAT32_LANES == simd.lanes_of(np.float32) == 2 * simd.lanes_of(np.float64)


@each_dtype
@pytest.mark.parametrize("at, to", [(0, 0), (1, 3), (5, 2)])
def test_load_and_store(dtype, at, to):
    lanes = simd.lanes_of(dtype)
    source, out = _numbers(dtype, lanes + 5), np.full(lanes + 5, 7, dtype)
    _copy(source, at, out, to)
    np.testing.assert_array_equal(out[to : to + lanes], source[at : at + lanes])
    np.testing.assert_array_equal(out[:to], 7)
    np.testing.assert_array_equal(out[to + lanes :], 7)


@each_dtype
def test_load_and_store_of_some_lanes(dtype):
    lanes = simd.lanes_of(dtype)
    source = _numbers(dtype, 3 * lanes)
    for read in range(2 * lanes):
        for written in range(2 * lanes):
            out = np.full(2 * lanes, 7, dtype)
            _copy_some(source, 1, out, 2, read, written)
            loaded = np.zeros(lanes, dtype)
            loaded[:read] = source[1 : 1 + min(read, lanes)]
            expected = np.full(2 * lanes, 7, dtype)
            count = min(written, lanes)
            expected[2 : 2 + count] = loaded[:count]
            np.testing.assert_array_equal(out, expected)


@each_dtype
def test_masked_lanes_are_not_read(dtype):
    """NaN behind the last element that counts must not come along."""
    lanes = simd.lanes_of(dtype)
    source = np.full(2 * lanes, np.nan, dtype)
    source[:2] = 1, 2
    out = np.empty(2 * lanes, dtype)
    _copy_some(source, 0, out, 0, 2, lanes)
    np.testing.assert_array_equal(out[:lanes], [1, 2] + [0] * (lanes - 2))


@each_dtype
def test_arithmetic(dtype):
    lanes = simd.lanes_of(dtype)
    a, b = _numbers(dtype, lanes), _numbers(dtype, lanes, 1)
    out = np.empty(6 * lanes, dtype)
    _combine(a, b, out)
    plus, minus, times, larger, fused, all_one = out.reshape(6, lanes)
    np.testing.assert_array_equal(plus, a + b)
    np.testing.assert_array_equal(minus, a - b)
    np.testing.assert_array_equal(times, a * b)
    np.testing.assert_array_equal(larger, np.maximum(a, b))
    np.testing.assert_allclose(fused, a * b + b, rtol=1e-5 if dtype == np.float32 else 1e-13)
    np.testing.assert_array_equal(all_one, np.full(lanes, a[1]))


@kernel
def _gate(a, sign, out):
    simd.prefetch_write(out, 0)
    simd.store(out, 0, simd.gate(simd.load(a, 0), simd.load(sign, 0)))


@each_dtype
def test_a_gate_is_shut_at_zero_and_below(dtype):
    a, sign = (np.ones(simd.lanes_of(dtype), dtype) for _ in range(2))
    expected = a.copy()
    for sign[0], expected[0] in ((1e-30, 1), (0, 0), (-0.0, 0), (-1, 0), (np.nan, 1), (np.inf, 1)):
        out = np.full_like(a, 7)
        _gate(a, sign, out)
        np.testing.assert_array_equal(out, expected)


@each_dtype
def test_maximum_takes_the_second_where_one_is_nan(dtype):
    lanes = simd.lanes_of(dtype)
    a, b = np.zeros(lanes, dtype), np.ones(lanes, dtype)
    a[0], b[1] = np.nan, np.nan
    out = np.empty(6 * lanes, dtype)
    _combine(a, b, out)
    assert out[3 * lanes] == 1 and np.isnan(out[3 * lanes + 1])


@each_dtype
def test_a_vector_carried_through_a_loop(dtype):
    lanes = simd.lanes_of(dtype)
    a, out = _numbers(dtype, 7 * lanes), np.empty(lanes, dtype)
    _sum_in_place(a, out)
    expected = np.zeros(lanes, dtype)
    for row in a.reshape(7, lanes):
        expected = expected + row
    np.testing.assert_array_equal(out, expected)
