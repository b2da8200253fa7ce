"""What a user reads after a mistake: function, argument, what was expected, what came, way out."""

import re

import numpy as np
import pytest

from minidl import Tensor, set_num_threads
from minidl import functional as F
from minidl.functional import check


def _ones(*shape, dtype=np.float32):
    return np.ones(shape, dtype)


X, W = _ones(2, 5, 6, 4), _ones(3, 3, 4, 8)
CONVS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSES = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
BOTH = [(f"conv{n}d", f, n) for n, f in CONVS.items()]
BOTH += [(f"conv_transpose{n}d", f, n) for n, f in TRANSPOSES.items()]
each_conv = pytest.mark.parametrize("name, f, axes", BOTH, ids=[row[0] for row in BOTH])


def _raises(error, message):
    """`message` is the beginning of the text, as it stands."""
    return pytest.raises(error, match="^" + re.escape(message))


# ---- dtypes --------------------------------------------------------------------------------


@each_conv
def test_conv_of_integers(name, f, axes):
    shape = (1, *[5] * axes, 2)
    kernel = (*[3] * axes, 2, 2)
    with _raises(
        TypeError,
        f"{name}: x must be floating, but has dtype int64. "
        "Convert it, for example with x.astype('float32').",
    ):
        f(np.ones(shape, np.int64), _ones(*kernel))
    with _raises(TypeError, f"{name}: weight must be floating, but has dtype bool. Convert it"):
        f(_ones(*shape), np.ones(kernel, bool))
    with _raises(TypeError, f"{name}: bias must be floating, but has dtype uint8. Convert it"):
        f(_ones(*shape), _ones(*kernel), np.ones(2, np.uint8))


@each_conv
def test_conv_of_two_dtypes(name, f, axes):
    x, w = _ones(1, *[5] * axes, 2), _ones(*[3] * axes, 2, 2, dtype=np.float64)
    with _raises(
        TypeError,
        f"{name}: x has dtype float32, but weight has float64. Convert one of them with astype().",
    ):
        f(x, w)
    with _raises(TypeError, f"{name}: x has dtype float32, but bias has float64. Convert"):
        f(x, w.astype(np.float32), _ones(2, dtype=np.float64))


def test_linear_of_other_dtypes():
    with _raises(TypeError, "linear: x must be floating, but has dtype int64. Convert it"):
        F.linear([[1, 2]], _ones(2, 3))
    with _raises(TypeError, "linear: x has dtype float32, but weight has float64. Convert one"):
        F.linear(_ones(1, 2), _ones(2, 3, dtype=np.float64))


@pytest.mark.parametrize("name", ["relu", "elu"])
def test_activation_of_integers(name):
    with _raises(TypeError, f"{name}: x must be floating, but has dtype int64. Convert it"):
        getattr(F, name)([1, 2])


def test_text_is_no_tensor():
    with _raises(TypeError, "Tensor: data must be numbers, but has dtype <U5. Pass an array of"):
        F.conv2d("image", W)


# ---- shapes --------------------------------------------------------------------------------

LAYOUT = {1: "(N, L, C)", 2: "(N, H, W, C)", 3: "(N, D, H, W, C)"}
KERNEL = {1: "(K, C, F)", 2: "(KH, KW, C, F)", 3: "(KD, KH, KW, C, F)"}


@each_conv
def test_number_of_axes(name, f, axes):
    x, w = _ones(1, *[5] * axes, 2), _ones(*[3] * axes, 2, 2)
    with _raises(
        ValueError, f"{name}: x must have shape {LAYOUT[axes]}, but has shape {x[0].shape}."
    ):
        f(x[0], w)
    with _raises(
        ValueError, f"{name}: weight must have shape {KERNEL[axes]}, but has shape {w[0].shape}."
    ):
        f(x, w[0])


def test_channels_of_conv():
    with _raises(
        ValueError,
        "conv2d: weight of shape (3, 3, 4, 8) with groups=1 takes 4 input channels, but x has 3 "
        "(shape (2, 5, 6, 3); channels come last).",
    ):
        F.conv2d(X[..., :3], W)
    with _raises(
        ValueError,
        "conv2d: weight of shape (3, 3, 4, 8) with groups=2 takes 8 input channels, but x has 4",
    ):
        F.conv2d(X, W, groups=2)
    with _raises(
        ValueError,
        "conv_transpose2d: weight of shape (3, 3, 4, 8) with groups=1 takes 8 input channels, "
        "but x has 4",
    ):
        F.conv_transpose2d(X, W)


def test_groups():
    with _raises(
        ValueError,
        "conv2d: the last axis of weight, 8, must be divisible by groups=3; weight has shape "
        "(3, 3, 4, 8).",
    ):
        F.conv2d(X, W, groups=3)
    for groups in (0, -1, 1.0, "2", None):
        with _raises(ValueError, f"conv2d: groups must be an integer >= 1, but is {groups!r}."):
            F.conv2d(X, W, groups=groups)


@each_conv
def test_bias(name, f, axes):
    x, w = _ones(1, *[5] * axes, 2), _ones(*[3] * axes, 2, 2)
    with _raises(ValueError, f"{name}: bias must have shape (2,), but has (3,)."):
        f(x, w, _ones(3))
    with _raises(ValueError, f"{name}: bias must have shape (2,), but has (1, 2)."):
        f(x, w, _ones(1, 2))


def test_kernel_that_does_not_fit():
    with _raises(
        ValueError,
        "conv2d: a kernel that spans 7 does not fit an axis of 5 with padding 0 and 0; x has shape "
        "(2, 5, 6, 4). Use a larger input, more padding or less dilation.",
    ):
        F.conv2d(X, W, dilation=3)
    with _raises(ValueError, "conv1d: a kernel that spans 4 does not fit an axis of 1 with "
                             "padding 2 and 0"):  # fmt: skip
        F.conv1d(_ones(1, 1, 1), _ones(4, 1, 1), padding=((2, 0),))


def test_kernel_of_no_extent():
    with _raises(ValueError, "conv2d: kernel size of weight must be an integer or 2 integers >= 1, "
                             "but is (0, 3)."):  # fmt: skip
        F.conv2d(X, _ones(0, 3, 4, 8))


def test_output_of_no_extent():
    with _raises(
        ValueError,
        "conv_transpose2d: the output would have size (-1, 0); x has shape (1, 1, 2, 1). "
        "Use less padding.",
    ):
        F.conv_transpose2d(_ones(1, 1, 2, 1), _ones(3, 3, 1, 1), padding=2)


def test_linear_shapes():
    w = _ones(4, 3)
    with _raises(
        ValueError,
        "linear: weight of shape (4, 3) takes 4 channels, but x has shape (2, 5); channels come",
    ):
        F.linear(_ones(2, 5), w)
    with _raises(ValueError, "linear: weight of shape (4, 3) takes 4 channels, but x has shape ()"):
        F.linear(1.0, w)
    with _raises(ValueError, "linear: weight must have shape (C, F), but has shape (4,)."):
        F.linear(_ones(2, 4), _ones(4))
    with _raises(ValueError, "linear: bias must have shape (3,), but has (4,)."):
        F.linear(_ones(2, 4), w, _ones(4))


# ---- settings ------------------------------------------------------------------------------


@each_conv
@pytest.mark.parametrize("setting", ["stride", "dilation"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "2", None, (1,) * 5, (0,) * 5])
def test_stride_and_dilation(name, f, axes, setting, value):
    x, w = _ones(1, *[5] * axes, 2), _ones(*[3] * axes, 2, 2)
    value = value[:axes] if isinstance(value, tuple) and value[0] == 0 else value
    many = f"an integer or {axes} integers" if axes > 1 else "an integer"
    with _raises(ValueError, f"{name}: {setting} must be {many} >= 1, but is {value!r}."):
        f(x, w, **{setting: value})


@pytest.mark.parametrize("value", [-1, 1.5, (1, -1), (1,), (1, 2, 3)])
def test_padding(value):
    for f in (F.conv2d, F.conv_transpose2d):
        with _raises(
            ValueError,
            f"{f.__name__}: padding must be an integer or 2 integers >= 0, but is {value!r}.",
        ):
            f(_ones(1, 5, 5, 2), _ones(3, 3, 2, 2), padding=value)


def test_pairs_of_padding():
    x, w = _ones(1, 5, 5, 2), _ones(3, 3, 2, 2)
    with _raises(
        ValueError,
        "conv2d: padding must give a pair (before, after) for each of 2 axes, "
        "but is ((1, 1), (1, 1), (1, 1)).",
    ):
        F.conv2d(x, w, padding=((1, 1),) * 3)
    with _raises(
        ValueError, "conv2d: padding must be an integer or 2 integers >= 0, but is (1, -1)."
    ):
        F.conv2d(x, w, padding=((0, 0), (1, -1)))
    with _raises(
        ValueError, "conv2d: padding must be an integer or 2 integers >= 0, but is (1, 2, 3)."
    ):
        F.conv2d(x, w, padding=((0, 0), (1, 2, 3)))


def test_names_of_padding():
    x, w = _ones(1, 5, 5, 2), _ones(3, 3, 2, 2)
    for f in (F.conv2d, F.conv_transpose2d):
        with _raises(
            ValueError,
            f"{f.__name__}: padding must be a number of zeros, 'same' or 'valid', but is 'full'.",
        ):
            f(x, w, padding="full")
    with _raises(
        ValueError,
        "conv_transpose2d: padding='same' does not say which of several sizes is meant. "
        "Give numbers; stride * size results from kernel = stride and padding 0.",
    ):
        F.conv_transpose2d(x, w, padding="same")


def test_output_padding():
    x, w = _ones(1, 5, 5, 2), _ones(3, 3, 2, 2)
    with _raises(
        ValueError,
        "conv_transpose2d: output_padding must be smaller than stride or dilation, "
        "but is 2 with stride 2 and dilation 1.",
    ):
        F.conv_transpose2d(x, w, stride=2, output_padding=2)
    with _raises(
        ValueError,
        "conv_transpose2d: output_padding must be an integer or 2 integers >= 0, but is -1.",
    ):
        F.conv_transpose2d(x, w, stride=2, output_padding=-1)
    assert F.conv_transpose2d(x, w, dilation=2, output_padding=1).shape == (1, 10, 10, 2)


# ---- the helpers themselves ----------------------------------------------------------------


def test_check_integers():
    assert check.integers("f", "n", 3, 2, 0) == (3, 3)
    assert check.integers("f", "n", np.int64(3), 1, 0) == (3,)
    assert check.integers("f", "n", [1, np.int32(2)], 2, 1) == (1, 2)
    assert check.integers("f", "n", np.array([1, 2]), 2, 1) == (1, 2)
    assert all(type(n) is int for n in check.integers("f", "n", np.array([1, 2]), 2, 1))
    with _raises(ValueError, "f: n must be an integer or 2 integers >= 1, but is '12'."):
        check.integers("f", "n", "12", 2, 1)
    with _raises(ValueError, "f: n must be an integer or 2 integers >= 1, but is {1, 2}."):
        check.integers("f", "n", {1, 2}, 2, 1)


def test_check_choice():
    assert check.choice("f", "mode", "a", ("a", "b")) == "a"
    with _raises(ValueError, "f: mode must be one of 'a', 'b', but is 'c'."):
        check.choice("f", "mode", "c", ("a", "b"))


def test_check_fraction():
    assert [check.fraction("f", "p", p) for p in (0, 0.5, 1)] == [0, 0.5, 1]
    for p in (-0.1, 1.1, np.nan):
        with _raises(ValueError, f"f: p must be between 0 and 1, but is {p!r}."):
            check.fraction("f", "p", p)


def test_check_axes():
    x = Tensor(_ones(2, 3))
    assert check.axes("f", "x", x, "N C") is x
    with _raises(ValueError, "f: x must have shape (N, H, W, C), but has shape (2, 3)."):
        check.axes("f", "x", x, "N H W C")


def test_check_floating():
    x, none, y = check.floating("f", ("b",), x=[1.0], b=None, y=Tensor(_ones(2)))
    assert (x.dtype, none, y.shape) == (np.float32, None, (2,))
    with _raises(TypeError, "f: y must be floating, but has dtype int64. Convert it, for example "
                            "with y.astype('float32')."):  # fmt: skip
        check.floating("f", x=[1.0], y=[1])


# ---- mistakes without a message of their own must not go unnoticed --------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: x + Tensor(_ones(3)),
        lambda x: x.reshape(4),
        lambda x: x.sum(axis=3),
        lambda x: x[7],
        lambda x: x["a"],
        lambda x: x.transpose(0, 0),
        lambda x: bool(x),
        lambda x: x.item(),
        lambda x: len(x.sum()),
    ],
)
def test_numpys_own_errors_come_through(wrong):
    with pytest.raises((ValueError, IndexError, TypeError)):
        wrong(Tensor(_ones(2, 5)))


def test_a_tensor_is_not_optional():
    with pytest.raises(
        TypeError, match=r"conv2d: weight must be a tensor or an array, but is None"
    ):
        F.conv2d(np.zeros((1, 4, 4, 1), np.float32), None)
    with pytest.raises(TypeError, match=r"relu: x must be a tensor or an array, but is None"):
        F.relu(None)
    with pytest.raises(ValueError, match=r"set_num_threads: threads must be an integer >= 1"):
        set_num_threads(2.5)
