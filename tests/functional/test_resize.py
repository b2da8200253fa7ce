"""Resizing."""

import numpy as np
import pytest
from checking import (
    check_float32,
    check_gradient,
    check_threads,
    from_torch,
    normal,
    run,
    to_torch,
)

from minidl import Tensor
from minidl.functional.resize import interpolate

SHAPES = {3: (2, 7, 3), 4: (2, 5, 7, 3), 5: (1, 3, 5, 4, 2)}
LINEAR = {3: "linear", 4: "bilinear", 5: "trilinear"}
CHANGES = [
    {"size": 9},
    {"size": 1},
    {"size": 4},
    {"scale_factor": 2},
    {"scale_factor": 1.7},
    {"scale_factor": 0.45},
]
each_change = pytest.mark.parametrize("change", CHANGES, ids=str)


def _along(x, axis, change, mode, align):
    """One axis resized, output by output, from the definition."""
    size = x.shape[axis]
    out = change.get("size") or int(size * change["scale_factor"])
    scale = 1 / change["scale_factor"] if "scale_factor" in change else size / out
    parts = []
    for i in range(out):
        if mode == "nearest":
            at = min(int(i * scale), size - 1)
        elif align:
            at = i * (size - 1) / (out - 1) if out > 1 else 0
        else:
            at = max((i + 0.5) * scale - 0.5, 0)
        first = min(int(at), size - 1)
        second = min(first + 1, size - 1)
        before, after = np.take(x, first, axis), np.take(x, second, axis)
        parts.append(before + (at - first) * (after - before))
    return np.stack(parts, axis)


def _by_hand(x, change, mode, align):
    for axis in range(1, x.ndim - 1):
        x = _along(x, axis, change, mode, align)
    return x


@each_change
@pytest.mark.parametrize("axes", [3, 4, 5])
@pytest.mark.parametrize("setting", ["nearest", "linear", "aligned"])
def test_value_and_gradient(axes, change, setting):
    x = normal(*SHAPES[axes])
    mode = "nearest" if setting == "nearest" else LINEAR[axes]
    align = setting == "aligned"

    def resize(x):
        return interpolate(x, mode=mode, align_corners=align, **change)

    expected = _by_hand(x, change, mode, align)
    np.testing.assert_allclose(resize(x).numpy(), expected, rtol=1e-12, atol=1e-13)
    check_gradient(resize, x)
    check_float32(resize, x)


def test_a_size_for_each_axis():
    x = normal(2, 5, 7, 3)
    y = interpolate(x, size=(3, 14), mode="bilinear").numpy()
    expected = _along(_along(x, 1, {"size": 3}, "", False), 2, {"size": 14}, "", False)
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-13)
    y = interpolate(x, scale_factor=(2, 0.5)).numpy()
    np.testing.assert_array_equal(y, x[:, :, :6:2].repeat(2, axis=1))


@pytest.mark.parametrize("channels", [1, 3, 16, 17, 40])
def test_backward_is_the_adjoint(channels):
    x, gy = normal(2, 5, 6, channels), normal(2, 9, 4, channels, seed=1)
    for mode, align in (("nearest", False), ("bilinear", False), ("bilinear", True)):
        y, (gx,) = run(
            lambda x, m=mode, a=align: interpolate(x, (9, 4), mode=m, align_corners=a), x, gy=gy
        )
        np.testing.assert_allclose((y * gy).sum(), (x * gx).sum(), rtol=1e-12)


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_same_size_changes_nothing(mode):
    x = normal(2, 5, 7, 3).astype(np.float32)
    np.testing.assert_array_equal(interpolate(x, size=(5, 7), mode=mode).numpy(), x)


def test_pixels_of_weight_zero_are_not_read():
    x = np.array([1, np.nan, 3, np.inf]).reshape(1, 4, 1)
    y = interpolate(x, size=7, mode="linear", align_corners=True).numpy().reshape(-1)
    assert y[[0, 4]].tolist() == [1, 3]
    assert y[6] == np.inf


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_any_number_of_threads(mode, threads):
    x = normal(2, 30, 31, 5).astype(np.float32)
    check_threads(threads, lambda x: interpolate(x, scale_factor=2.3, mode=mode), x)


def test_input_that_is_not_contiguous():
    x = normal(2, 3, 4, 5)
    moved = interpolate(Tensor(x).transpose(0, 2, 3, 1), 7).numpy()
    expected = interpolate(np.ascontiguousarray(x.transpose(0, 2, 3, 1)), 7).numpy()
    np.testing.assert_array_equal(moved, expected)


def test_arguments_are_checked():
    x = np.ones((1, 4, 4, 1))
    with pytest.raises(ValueError, match=r"interpolate: give either size or scale_factor, but got"):
        interpolate(x)
    with pytest.raises(ValueError, match=r"give either .* got size=3 and scale_factor=2"):
        interpolate(x, 3, 2)
    with pytest.raises(ValueError, match=r"interpolate: mode must be one of 'nearest', .* 'cubic'"):
        interpolate(x, 3, mode="cubic")
    with pytest.raises(
        ValueError, match=r"mode 'linear' needs x with 3 axes, channels last, but x"
    ):
        interpolate(x, 3, mode="linear")
    with pytest.raises(ValueError, match=r"mode 'nearest' needs x with 3, 4 or 5 axes, channels"):
        interpolate(x[0, 0], 3)
    with pytest.raises(
        ValueError, match=r"interpolate: align_corners has no meaning for mode 'near"
    ):
        interpolate(x, 3, align_corners=True)
    for bad in (0, (1, 2, 3), 1.5):
        with pytest.raises(ValueError, match=r"interpolate: size must be an integer or 2 integers"):
            interpolate(x, bad)
    for bad in (0, -1.0, (1, 2, 3), (1, "2")):
        with pytest.raises(
            ValueError, match=r"interpolate: scale_factor must be a positive number"
        ):
            interpolate(x, scale_factor=bad)
    with pytest.raises(ValueError, match=r"the result would have extents \(0, 0\) from x of shape"):
        interpolate(x, scale_factor=0.2)
    with pytest.raises(TypeError, match=r"interpolate: x must be floating, but has dtype"):
        interpolate(x.astype(int), 2)


def test_source_pixels_are_those_of_torch():
    torch = pytest.importorskip("torch")
    for size in range(1, 40, 3):
        x = np.arange(size, dtype=np.float32).reshape(1, size, 1, 1)
        theirs = to_torch(torch, x)
        for out in range(1, 90):
            expected = torch.nn.functional.interpolate(theirs, size=(out, 1))
            np.testing.assert_array_equal(interpolate(x, (out, 1)).numpy(), from_torch(expected))
        for factor in (0.3, 0.7, 1.1, 1.3, 1.9, 2.0, 2.05, 2.5, 3, 3.7):
            if int(size * factor):
                expected = torch.nn.functional.interpolate(theirs, scale_factor=(factor, 1))
                ours = interpolate(x, scale_factor=(factor, 1)).numpy()
                np.testing.assert_array_equal(ours, from_torch(expected))


@each_change
@pytest.mark.parametrize("axes", [3, 4, 5])
@pytest.mark.parametrize("setting", ["nearest", "linear", "aligned"])
def test_against_torch(axes, change, setting):
    torch = pytest.importorskip("torch")
    x = normal(*SHAPES[axes])
    mode = "nearest" if setting == "nearest" else LINEAR[axes]
    align = setting == "aligned"
    extra = {} if mode == "nearest" else {"align_corners": align}
    leaf = to_torch(torch, x).requires_grad_()
    expected = torch.nn.functional.interpolate(leaf, mode=mode, **extra, **change)
    gy = normal(*from_torch(expected).shape, seed=1)
    expected.backward(to_torch(torch, gy))
    y, (gx,) = run(lambda x: interpolate(x, mode=mode, align_corners=align, **change), x, gy=gy)
    np.testing.assert_allclose(y, from_torch(expected), rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(gx, from_torch(leaf.grad), rtol=1e-11, atol=1e-13)
