"""Joining and padding."""

import numpy as np
import pytest
from checking import check_gradient, normal, run

from minidl import Tensor
from minidl.functional import shape as S


@pytest.mark.parametrize("axis", [0, 1, 3, -1, -3])
def test_concatenate(axis):
    shapes = [[2, 3, 4, 5] for _ in range(3)]
    shapes[1][axis], shapes[2][axis] = 1, 7
    arrays = [normal(*shape, seed=i) for i, shape in enumerate(shapes)]
    y = S.concatenate(arrays, axis).numpy()
    np.testing.assert_array_equal(y, np.concatenate(arrays, axis))
    check_gradient(lambda *tensors: S.concatenate(tensors, axis), *arrays)


def test_concatenate_joins_channels_if_not_told_otherwise():
    assert S.concatenate([np.ones((2, 3)), np.ones((2, 1))]).shape == (2, 4)
    assert S.concatenate([np.ones((2, 3))]).shape == (2, 3)


def test_the_same_tensor_may_be_joined_with_itself():
    x = Tensor(normal(2, 3), requires_grad=True)
    S.concatenate([x, x]).sum().backward()
    np.testing.assert_array_equal(x.grad, np.full((2, 3), 2.0))


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
def test_stack(axis):
    arrays = [normal(2, 3, seed=i) for i in range(3)]
    np.testing.assert_array_equal(S.stack(arrays, axis).numpy(), np.stack(arrays, axis))
    check_gradient(lambda *tensors: S.stack(tensors, axis), *arrays)


def test_stack_of_single_numbers():
    a, b = Tensor(1.0, requires_grad=True), Tensor(2.0, requires_grad=True)
    (S.stack([a, b]) * np.array([3, 4], np.float32)).sum().backward()
    assert (a.grad.item(), b.grad.item()) == (3, 4)


PADS = [0, 2, (1, 2), ((0, 0), (2, 1), (0, 3), (1, 0)), ((2, 0), (0, 0), (0, 0), (0, 1))]


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate"])
@pytest.mark.parametrize("width", PADS, ids=str)
def test_pad(mode, width):
    x = normal(3, 4, 5, 3)
    settings = {"constant_values": -1.5} if mode == "constant" else {}
    expected = np.pad(x, width, mode={"replicate": "edge"}.get(mode, mode), **settings)
    np.testing.assert_array_equal(S.pad(x, width, mode, value=-1.5).numpy(), expected)
    check_gradient(lambda x: S.pad(x, width, mode), x)
    assert S.pad(x.astype(np.float32), width, mode).dtype == np.float32


def test_pad_folds_the_gradient_back():
    x, gy = np.zeros(3), np.arange(1.0, 8)
    assert run(lambda x: S.pad(x, 2), x, gy=gy)[1][0].tolist() == [3, 4, 5]
    # y = x2 x1 x0 x1 x2 x1 x0, then x0 x0 x0 x1 x2 x2 x2
    assert run(lambda x: S.pad(x, 2, "reflect"), x, gy=gy)[1][0].tolist() == [10, 12, 6]
    assert run(lambda x: S.pad(x, 2, "replicate"), x, gy=gy)[1][0].tolist() == [6, 4, 18]


def test_joining_checks_its_arguments():
    x = np.ones((2, 3))
    for function in (S.concatenate, S.stack):
        name = function.__name__
        with pytest.raises(ValueError, match=rf"{name}: tensors must not be empty"):
            function([])
        with pytest.raises(TypeError, match=rf"{name}: tensors\[1\] must be floating, but has"):
            function([x, x.astype(int)])
        with pytest.raises(
            TypeError, match=rf"{name}: tensors\[0\] has dtype float64, but tensors"
        ):
            function([x, x.astype(np.float32)])
    with pytest.raises(ValueError, match=r"concatenate: axis must be from -2 to 1, .* but is 2\."):
        S.concatenate([x, x], 2)
    with pytest.raises(ValueError, match=r"stack: axis must be from -3 to 2, .* but is 3\."):
        S.stack([x, x], 3)
    with pytest.raises(ValueError, match=r"concatenate: axis must be from -2 to 1, .* but is 1\.0"):
        S.concatenate([x, x], 1.0)
    with pytest.raises(
        ValueError, match=r"differ along axis 1 only, but are \(2, 3\), \(3, 3\)\. C"
    ):
        S.concatenate([x, np.ones((3, 3))])
    with pytest.raises(
        ValueError, match=r"differ along axis 1 only, but are \(2, 3\), \(2, 3, 1\)"
    ):
        S.concatenate([x, np.ones((2, 3, 1))])
    with pytest.raises(
        ValueError, match=r"stack: tensors must have one shape, but have \(2, 3\), "
    ):
        S.stack([x, np.ones((2, 4))])


def test_pad_checks_its_arguments():
    x = np.ones((2, 3))
    with pytest.raises(
        ValueError, match=r"pad: mode must be one of 'constant', 'reflect', 'replic"
    ):
        S.pad(x, 1, "edge")
    for bad in (
        -1,
        (1, -1),
        1.5,
        (1, 2, 3),
        ((1, 1),) * 3,
        (1,),
        ((1,), (1,)),
        ((1, 2), (3,)),
        "1",
    ):
        with pytest.raises(ValueError, match=r"pad: pad must be an integer >= 0, a pair .* 2 axes"):
            S.pad(x, bad)
    with pytest.raises(
        ValueError, match=r"pad: mode 'reflect' can add at most 1 elements to axis 0"
    ):
        S.pad(x, 2, "reflect")
    with pytest.raises(
        ValueError, match=r"pad: mode 'replicate' can add at most 0 elements to axis"
    ):
        S.pad(np.ones((0, 2)), 1, "replicate")
