"""Exponential function, logarithm and normal distribution, so that loops over them are vectorised.

``math.exp`` and ``math.erf`` call a library for each number and take ten times as long. Single
precision only needs a short polynomial; double precision, which is for checking, is left to the
library. The logarithm is that of sums kept in double precision, and has only that one.
"""

import math

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, overload

from minidl.kernels.jit import DISABLED, kernel

LOWEST, HIGHEST = np.float32(-86.6), np.float32(88.8)  # below: 0, 3e-38 off; above: inf
LOG2_E = np.float32(1.44269504)
LN2_HIGH = np.float32(0.693359375)  # few digits, so that a product with it is exact
LN2_LOW = np.float32(-2.12194440e-4)
ROUNDER = np.float32(1.5 * 2**23)  # added and taken away again, leaves the nearest integer
# exp(r) = 1 + r + r**2 * (1/2 + r/6 + ...) for abs(r) <= ln(2) / 2, with the coefficients of
# Moshier, Methods and Programs for Mathematical Functions, 1989 (the Cephes library, expf).
A, B, C, D, E, F = (
    np.float32(number)
    for number in (
        1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1,
        5.0000001201e-1,
    )
)  # fmt: skip
TWO = np.float32(2)


@intrinsic
def power_of_two(typingctx, exponent):
    """``2**exponent`` as float32, for an integral float32 from -126 to 127."""

    def codegen(context, builder, signature, args):
        number = builder.fptosi(args[0], ir.IntType(32))
        biased = builder.add(number, ir.Constant(number.type, 127))
        bits = builder.shl(biased, ir.Constant(number.type, 23))
        return builder.bitcast(bits, ir.FloatType())

    return types.float32(types.float32), codegen


if DISABLED:

    def power_of_two(exponent):
        return np.float32(2) ** exponent


@kernel
def _exp_float32(x):
    inside = min(max(x, LOWEST), HIGHEST)
    n = (inside * LOG2_E + ROUNDER) - ROUNDER
    r = (inside - n * LN2_HIGH) - n * LN2_LOW
    p = ((((A * r + B) * r + C) * r + D) * r + E) * r + F
    p = p * r * r + r + np.float32(1)
    y = p * power_of_two(n - np.float32(1)) * TWO  # n may be 128
    return y if x > LOWEST else np.float32(0) if x <= LOWEST else x


def exp(x):
    """``e**x`` for use in kernels, to 1e-7 of itself for float32; NaN stays NaN."""
    return type(x)(math.exp(x)) if x < 709 else x * type(x)(np.inf)


@overload(exp)
def _exp(x):
    if x == types.float32:
        return lambda x: _exp_float32(x)
    return lambda x: math.exp(x)


# erfc(z) = (P1 t + P2 t**2 + ...) exp(-z**2) with t = 1 / (1 + P0 z), for z >= 0, to 1.5e-7.
# (Abramowitz & Stegun, Handbook of Mathematical Functions, 1964, equation 7.1.26.)
P0, P1, P2, P3, P4, P5 = (
    np.float32(number)
    for number in (0.3275911, 0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
)
HALF, ROOT_HALF = np.float32(0.5), np.float32(math.sqrt(0.5))


@kernel
def _normal_float32(x):
    t = np.float32(1) / (np.float32(1) + P0 * abs(x) * ROOT_HALF)
    power = _exp_float32(-HALF * x * x)
    beyond = HALF * ((((P5 * t + P4) * t + P3) * t + P2) * t + P1) * t * power
    return np.float32(1) - beyond if x > 0 else beyond


def normal_below(x):
    """Probability that a standard normal number is below x, for use in kernels; to 1e-7."""
    return type(x)(0.5 * math.erfc(-math.sqrt(0.5) * x))


@overload(normal_below)
def _normal_below(x):
    if x == types.float32:
        return lambda x: _normal_float32(x)
    return lambda x: 0.5 * math.erfc(-math.sqrt(0.5) * x)


@intrinsic
def _bits(typingctx, x):
    """The bits of a float64 as an int64."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.IntType(64))

    return types.int64(types.float64), codegen


@intrinsic
def _from_bits(typingctx, bits):
    """The float64 of these bits."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.DoubleType())

    return types.float64(types.int64), codegen


if DISABLED:

    def _bits(x):
        return int(np.float64(x).view(np.int64))

    def _from_bits(bits):
        return np.int64(bits).view(np.float64)


ROOT_HALF_BITS = int(np.float64(math.sqrt(0.5)).view(np.int64))
LN2 = math.log(2)


@kernel
def log(x):
    """Natural logarithm of a positive, normal float64, to 4e-16 of itself; NaN stays NaN.

    With x = 2**n * m, where m is near 1: log(x) = n log(2) + 2 artanh((m - 1) / (m + 1)), and the
    series of the latter (Abramowitz & Stegun, equation 4.1.27).
    """
    bits = _bits(x)
    n = (bits - ROOT_HALF_BITS) >> 52  # brings m to between the roots of 1/2 and of 2
    m = _from_bits(bits - (n << 52))
    s = (m - 1) / (m + 1)
    q = s * s
    far = q * (1 / 11 + q * (1 / 13 + q * (1 / 15 + q * (1 / 17 + q / 19))))
    series = q * (1 / 3 + q * (1 / 5 + q * (1 / 7 + q * (1 / 9 + far))))
    return n * LN2 + 2 * (s + s * series) if x < np.inf else x
