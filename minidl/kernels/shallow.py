"""A product that is not deep: all of its weights stay in registers while pixels go by.

A tile of `gemm` loads its sums, walks along the depth and writes them again. Where the depth is
that of a 3x3 kernel on one channel, as in the first layer on grey images, the way there and back
takes as long as the nine steps between. Here a pixel costs nine multiply-adds and a store.
"""

from minidl.kernels import simd
from minidl.kernels.jit import inner


@inner
def fits(runs, run, a_row, start_row):
    """Whether `multiply_rows` can do it: 3x3 numbers, those of neighbouring pixels neighbours."""
    return runs == 3 and run == 3 and a_row == 1 and start_row == 0


@inner
def multiply_rows(a, a_at, a_runs, b, b_at, b_runs, start, start_at, c, c_at, c_row, rows, relu):
    """``C[i] = start + sum over r, k of a[a_at + a_runs[r] + i + k] * B[r, k]`` for `rows` rows i.

    Rows of B and C are one register. Those of run r of B begin at ``b[b_at + b_runs[r]]``, row i
    of C at ``c[c_at + i * c_row]``. Negative results are 0 if `relu`.
    """
    top, middle, bottom = a_at + a_runs[0], a_at + a_runs[1], a_at + a_runs[2]
    before, zeros = simd.load(start, start_at), simd.splat(b.dtype.type(0))
    b00, b01, b02 = row_of_three(b, b_at + b_runs[0])
    b10, b11, b12 = row_of_three(b, b_at + b_runs[1])
    b20, b21, b22 = row_of_three(b, b_at + b_runs[2])
    for i in range(rows):
        total = simd.fma(simd.spread(a, top + i), b00, before)
        total = simd.fma(simd.spread(a, top + i + 1), b01, total)
        total = simd.fma(simd.spread(a, top + i + 2), b02, total)
        total = simd.fma(simd.spread(a, middle + i), b10, total)
        total = simd.fma(simd.spread(a, middle + i + 1), b11, total)
        total = simd.fma(simd.spread(a, middle + i + 2), b12, total)
        total = simd.fma(simd.spread(a, bottom + i), b20, total)
        total = simd.fma(simd.spread(a, bottom + i + 1), b21, total)
        total = simd.fma(simd.spread(a, bottom + i + 2), b22, total)
        simd.store(c, c_at + i * c_row, simd.maximum(zeros, total) if relu else total)


@inner
def row_of_three(b, at):
    """Three rows of B."""
    lanes = simd.lanes(b)
    return simd.load(b, at), simd.load(b, at + lanes), simd.load(b, at + 2 * lanes)
