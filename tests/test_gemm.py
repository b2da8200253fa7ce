"""The blocked product against NumPy's, for tiles of every width and any strides."""

import numpy as np
import pytest

from minidl.kernels import gemm, simd

DTYPES = [np.float32, np.float64]
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
T = gemm.TILE_ROWS


def _product(dtype, rows, run, runs, width, filled, transposed, own_start, relu):
    """multiply_block in the middle of larger arrays, and what it should give."""
    rng = np.random.default_rng(rows * 1000 + run * 10 + width)
    tall, depth = -(-rows // T) * T, run * runs
    a = rng.standard_normal((depth, tall) if transposed else (tall, depth)).astype(dtype)
    b = rng.standard_normal((depth, width + 3)).astype(dtype)
    before = rng.standard_normal((tall, width + 5)).astype(dtype)
    gap = np.full(7, 9, dtype)
    flat = np.concatenate([gap, before.ravel(), gap])
    shift = rng.standard_normal(width).astype(dtype)
    start = (flat, len(gap) + 2, before.shape[1]) if own_start else (shift, 0, 0)
    steps = (1, tall) if transposed else (depth, 1)
    order = rng.permutation(runs)  # runs may come in any order
    gemm.multiply_block(
        a.ravel(), 0, *steps, order * run * steps[1], b.ravel(), 1, b.shape[1],
        order * run * b.shape[1], runs, run, width,
        *start, flat, len(gap) + 2, before.shape[1], filled, rows, relu,
    )  # fmt: skip
    wide = slice(2, 2 + filled)
    product = (a.T if transposed else a).astype(float) @ b[:, 1 : 1 + filled]
    expected = before.astype(float)
    expected[:, wide] = product + (expected[:, wide] if own_start else shift[:filled])
    if relu:
        expected[:, wide] = np.maximum(expected[:, wide], 0)
    return flat, gap, before.shape, expected


@each_dtype
@pytest.mark.parametrize("own_start, relu", [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("vectors", [0.5, *range(1, gemm.TILE_VECTORS + 1)])
@pytest.mark.parametrize(
    "rows, run, runs", [(T, 1, 1), (1, 5, 2), (T + 1, 7, 1), (3 * T, 11, 3), (2 * T - 1, 64, 1)]
)
@pytest.mark.parametrize("missing", [0, 1, 3])
def test_product_of_a_block(
    dtype, rows, run, runs, vectors, missing, transposed, own_start, relu
):  # fmt: skip
    width = int(vectors * simd.lanes_of(dtype))
    flat, gap, shape, expected = _product(
        dtype, rows, run, runs, width, max(1, width - missing), transposed, own_start, relu
    )
    c = flat[len(gap) : -len(gap)].reshape(shape)
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(c, expected, atol=eps * run * runs * 20, rtol=0)
    np.testing.assert_array_equal(flat[: len(gap)], gap)
    np.testing.assert_array_equal(flat[-len(gap) :], gap)


@pytest.mark.parametrize("relu", [True, False])
def test_nan_passes_the_relu(relu):
    a, b = np.ones(T, np.float32), np.ones(simd.FLOAT32_LANES, np.float32)
    b[:3] = np.nan, np.inf, -np.inf
    c = np.zeros(T * simd.FLOAT32_LANES, np.float32)
    runs = np.zeros(1, np.int64)
    gemm.multiply_block(
        a, 0, 1, 1, runs, b, 0, 1, runs, 1, 1, len(b), c, 0, 0, c, 0, len(b), len(b), T, relu
    )
    np.testing.assert_array_equal(c[:3], [np.nan, np.inf, 0 if relu else -np.inf])


@pytest.mark.parametrize("vectors", range(1, 40))
def test_panels_cover_all_registers_evenly(vectors):
    panels = gemm.panels_of(vectors)
    starts = [gemm.panel_start(p, vectors) for p in range(panels + 1)]
    widths = np.diff(starts)
    assert (starts[0], starts[-1]) == (0, vectors)
    assert widths.min() >= 1 and widths.max() <= gemm.TILE_VECTORS
    assert widths.max() - widths.min() <= 1


@each_dtype
def test_registers_for_columns(dtype):
    lanes = simd.lanes_of(dtype)
    for columns in range(1, 3 * lanes):
        needed = gemm.vectors_for(columns, dtype)
        assert (needed - 1) * lanes < columns <= needed * lanes


def test_a_tile_fits_the_registers():
    assert gemm.TILE_ROWS * gemm.TILE_VECTORS + gemm.TILE_VECTORS + 1 <= simd.REGISTERS
