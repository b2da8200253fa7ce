"""The blocked product against NumPy's, for tiles of every width and any strides."""

import numpy as np
import pytest

from minidl.kernels import gemm, simd

DTYPES = [np.float32, np.float64]
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
T = gemm.TILE_ROWS


def _product(dtype, rows, depth, vectors, transposed, add):
    """multiply_block in the middle of larger arrays, and what it should give."""
    rng = np.random.default_rng(rows * 1000 + depth * 10 + vectors)
    lanes = simd.lanes_of(dtype)
    tall = -(-rows // T) * T
    a = rng.standard_normal((depth, tall) if transposed else (tall, depth)).astype(dtype)
    b = rng.standard_normal((depth, vectors * lanes + 3)).astype(dtype)
    before = rng.standard_normal((tall, vectors * lanes + 5)).astype(dtype)
    c = before.copy()
    gap = np.full(7, 9, dtype)
    flat = np.concatenate([gap, c.ravel(), gap])
    steps = (1, tall) if transposed else (depth, 1)
    gemm.multiply_block(
        a.ravel(), 0, *steps, b.ravel(), 1, b.shape[1], vectors,
        flat, len(gap) + 2, c.shape[1], rows, depth, add,
    )  # fmt: skip
    wide = slice(2, 2 + vectors * lanes)
    product = (a.T if transposed else a).astype(float) @ b[:, 1 : 1 + vectors * lanes]
    expected = before.astype(float)
    expected[:, wide] = product + (expected[:, wide] if add else 0)
    return flat, gap, c.shape, expected


@each_dtype
@pytest.mark.parametrize("add", [True, False])
@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("vectors", range(1, gemm.TILE_VECTORS + 1))
@pytest.mark.parametrize("rows, depth", [(T, 1), (1, 5), (T + 1, 7), (3 * T, 33), (2 * T - 1, 64)])
def test_product_of_a_block(dtype, rows, depth, vectors, transposed, add):
    flat, gap, shape, expected = _product(dtype, rows, depth, vectors, transposed, add)
    c = flat[len(gap) : -len(gap)].reshape(shape)
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(c, expected, atol=eps * depth * 20, rtol=0)
    np.testing.assert_array_equal(flat[: len(gap)], gap)
    np.testing.assert_array_equal(flat[-len(gap) :], gap)


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
    assert gemm.ROW_BLOCK % gemm.TILE_ROWS == 0
