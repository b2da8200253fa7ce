"""Depthwise convolution and its gradients against plain loops over pixels and taps in float64."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minidl.kernels import depthwise, simd

DTYPES = [np.float32, np.float64]
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)


def _meetings(size, out, kernel, stride, padding, dilation):
    """(output position, tap, source position) of all taps inside, three numbers each."""

    def along(axis):
        for o, k in itertools.product(range(out[axis]), range(kernel[axis])):
            at = o * stride[axis] - padding[axis] + k * dilation[axis]
            if 0 <= at < size[axis]:
                yield o, k, at

    for triple in itertools.product(*map(along, range(3))):
        yield tuple(zip(*triple, strict=True))


def _looped(x, w, b, gy, *geometry):
    """y, gx and gw by their definitions."""
    x, w, b, gy = (a.astype(np.float64) for a in (x, w, b, gy))
    y, gx, gw = np.zeros_like(gy) + b, np.zeros_like(x), np.zeros_like(w)
    for o, k, i in _meetings(x.shape[1:4], gy.shape[1:4], w.shape[:3], *geometry):
        o, i = (slice(None), *o), (slice(None), *i)
        y[o] += x[i] * w[k]
        gx[i] += gy[o] * w[k]
        gw[k] += (x[i] * gy[o]).sum(axis=0)
    return y, gx, gw


def _drawn(dtype, n, size, channels, kernel, stride, padding, dilation, surplus):
    rng = np.random.default_rng(channels)
    out = tuple(
        (i + p + s - d * (k - 1) - 1) // t + 1
        for i, p, s, d, k, t in zip(size, padding, surplus, dilation, kernel, stride, strict=True)
    )
    shapes = (n, *size, channels), (*kernel, 1, channels), (channels,), (n, *out, channels)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def _computed(x, w, b, gy, *geometry):
    return (
        depthwise.forward(x, w, b, *geometry, gy.shape[1:4]),
        depthwise.input_grad(gy, w, None, *geometry, x.shape[1:4]),
        depthwise.weight_grad(x, gy, w.shape[:3], *geometry),
    )


def _check(dtype, n, size, channels, kernel, stride=1, padding=0, dilation=1, surplus=None):
    """`surplus`: zeros behind each axis, as many as in front if None."""
    stride, padding, dilation = (
        (value,) * 3 if isinstance(value, int) else value for value in (stride, padding, dilation)
    )
    geometry = stride, padding, dilation
    arrays = _drawn(dtype, n, size, channels, kernel, *geometry, surplus or padding)
    kept = [array.copy() for array in arrays]
    rtol = 1e-13 if dtype is np.float64 else 5e-6
    for result, expected in zip(
        _computed(*arrays, *geometry), _looped(*arrays, *geometry), strict=True
    ):
        assert result.dtype == dtype
        assert result.shape == expected.shape
        scale = max(np.abs(expected).max(initial=0), 1e-30)
        np.testing.assert_allclose(result, expected, rtol=0, atol=rtol * scale)
    for array, before in zip(arrays, kept, strict=True):
        np.testing.assert_array_equal(array, before)


@each_dtype
@pytest.mark.parametrize("channels", [1, 3, 15, 16, 17, 33, 128])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_channels_that_fill_registers_and_that_do_not(dtype, channels, stride):
    _check(dtype, 2, (1, 7, 9), channels, (1, 3, 3), (1, stride, stride), (0, 1, 1))


@each_dtype
@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 6, 7, 8, 11])
@pytest.mark.parametrize("kernel, padding", [(1, 0), (2, 1), (3, 1), (3, 2), (5, 2), (7, 9)])
def test_rows_shorter_and_longer_than_what_registers_hold(dtype, width, kernel, padding):
    _check(dtype, 1, (1, 2, width), 5, (1, 1, kernel), 1, (0, 0, padding + kernel // 2))


@each_dtype
@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize("padding", [3, 10])
def test_strides_dilations_and_padding_larger_than_the_kernel(
    dtype, size, stride, dilation, padding
):
    same = (1, stride, stride), (0, padding, padding), (1, dilation, dilation)
    _check(dtype, 2, (1, size, size + 1), 3, (1, 3, 2), *same)


@each_dtype
@pytest.mark.parametrize("stride", [1, 2])
def test_three_axes_that_differ(dtype, stride):
    _check(
        dtype, 2, (4, 5, 9), 6, (2, 3, 4), (2, 1, stride), (1, 0, 2), (1, 2, 1),
        surplus=(0, 3, 1),
    )  # fmt: skip


@each_dtype
@pytest.mark.parametrize("stride", [1, 2])
def test_rows_of_several_segments(dtype, stride):
    width = 3 * depthwise.SEGMENT + 5
    _check(dtype, 1, (1, 1, width), 2, (1, 1, 3), (1, 1, stride), (0, 0, 4), (1, 1, 2))


def test_more_pieces_of_work_than_sums():
    rows = depthwise.WEIGHT_TASKS + 3
    _check(np.float32, 1, (1, rows, depthwise.SEGMENT + 1), 2, (1, 3, 3), 1, (0, 1, 1))


def test_the_transposed_convolution_has_a_bias():
    x, w, b, gy = _drawn(
        np.float64, 2, (1, 5, 5), 3, (1, 4, 4), (1, 2, 2), (0, 1, 1), (1, 1, 1), (0, 1, 1)
    )
    geometry = (1, 2, 2), (0, 1, 1), (1, 1, 1)
    biased = depthwise.input_grad(gy, w, b, *geometry, (1, 5, 5))
    plain = depthwise.input_grad(gy, w, None, *geometry, (1, 5, 5))
    np.testing.assert_allclose(biased, plain + b, rtol=0, atol=1e-14)
    assert np.abs(b).min() > 0.01


def test_without_bias_nothing_is_added():
    x, w, b, gy = _drawn(np.float64, 1, (1, 4, 4), 3, (1, 3, 3), *[(1, 1, 1)] * 4)
    size = gy.shape[1:4]
    plain = depthwise.forward(x, w, None, *[(1, 1, 1)] * 3, size)
    biased = depthwise.forward(x, w, b, *[(1, 1, 1)] * 3, size)
    np.testing.assert_allclose(biased, plain + b, rtol=0, atol=1e-14)


@each_dtype
def test_no_images_at_all(dtype):
    _check(dtype, 0, (1, 4, 4), 3, (1, 3, 3), 1, (0, 1, 1))


@pytest.mark.parametrize("stride", [1, 2])
def test_same_bits_on_any_number_of_threads(threads, stride):
    geometry = (1, stride, stride), (0, 1, 1), (1, 1, 1)
    arrays = _drawn(np.float32, 3, (1, 21, 150), 19, (1, 3, 3), *geometry, (0, 1, 1))
    results = []
    for count in (1, 2, 3, 1):
        threads(count)
        results.append(_computed(*arrays, *geometry))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


PLAIN = """
import sys
sys.path.insert(0, {tests!r})
from test_depthwise import _check, np
for dtype in (np.float32, np.float64):
    _check(dtype, 1, (1, 3, 7), 17, (1, 3, 3), 1, (0, 1, 1))
    _check(dtype, 2, (2, 3, 7), 3, (2, 2, 3), (1, 2, 2), (1, 1, 3), (1, 1, 2))
print("equal")
"""


@pytest.mark.skipif(simd.DISABLED, reason="all tests run without a compiler already")
def test_as_plain_python():
    script = PLAIN.format(tests=str(Path(__file__).parent))
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True, text=True, env=environment, cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    assert result.stdout == "equal\n", result.stderr
