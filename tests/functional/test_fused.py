"""What a layer may do in one pass equals the same in several."""

import numpy as np
import pytest
import reference

from minidl import GradcheckError, Tensor, gradcheck, nn
from minidl import functional as F

CONVS = {
    "conv1d": ((2, 9, 3), (3, 3, 5)),
    "conv2d": ((2, 6, 7, 3), (3, 3, 3, 5)),
    "conv3d": ((1, 4, 3, 5, 2), (3, 2, 3, 2, 4)),
    "conv_transpose1d": ((2, 5, 3), (3, 4, 3)),
    "conv_transpose2d": ((2, 4, 3, 3), (3, 2, 5, 3)),
    "conv_transpose3d": ((1, 3, 2, 3, 2), (2, 3, 2, 4, 2)),
}


def _tensors(dtype, *shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [Tensor(rng.standard_normal(s).astype(dtype), requires_grad=True) for s in shapes]


def _gradients(y, leaves):
    for leaf in leaves:
        leaf.grad = None
    y.backward(np.random.default_rng(9).standard_normal(y.shape))
    return [leaf.grad for leaf in leaves]


@pytest.mark.parametrize("name", CONVS)
@pytest.mark.parametrize("with_bias", [True, False])
def test_activation_is_the_relu_of_the_result(name, with_bias):
    x_shape, w_shape = CONVS[name]
    features = w_shape[-2] if "transpose" in name else w_shape[-1]
    x, w, b = _tensors(np.float64, x_shape, w_shape, (features,))
    leaves = [x, w, b] if with_bias else [x, w]
    function = getattr(F, name)
    fused, plain = function(*leaves, activation="relu"), function(*leaves)
    assert (plain.data < 0).any() and (plain.data > 0).any()
    np.testing.assert_array_equal(fused.data, np.maximum(plain.data, 0))
    expected = _gradients(F.relu(plain), leaves)
    for gradient, wanted in zip(_gradients(fused, leaves), expected, strict=True):
        np.testing.assert_allclose(gradient, wanted, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("channels, features", [(16, 16), (1, 16), (8, 8), (20, 33)])
def test_activation_in_single_precision(channels, features):
    leaves = _tensors(np.float32, (2, 13, 18, channels), (3, 3, channels, features), (features,))
    fused = F.conv2d(*leaves, padding=1, activation="relu")
    plain = F.conv2d(*leaves, padding=1)
    np.testing.assert_array_equal(fused.data, np.maximum(plain.data, 0))
    expected = _gradients(F.relu(plain), leaves)
    for gradient, wanted in zip(_gradients(fused, leaves), expected, strict=True):
        np.testing.assert_allclose(gradient, wanted, rtol=0, atol=3e-6 * np.abs(wanted).max())


@pytest.mark.parametrize("shape", [(1, 6, 6, 1), (1, 6, 6, 20)])
def test_nan_passes_the_activation(shape):
    x = np.zeros(shape, np.float32)
    x[0, 2, 2, 0] = np.nan
    w = np.ones((3, 3, shape[-1], 20), np.float32)
    y = F.conv2d(x, w, padding=1, activation="relu").data
    assert np.isnan(y[0, 1:4, 1:4]).all() and np.isfinite(y[0, 5]).all()


def test_depthwise_activation():
    leaves = _tensors(np.float64, (1, 5, 6, 7), (3, 3, 1, 7), (7,))
    fused = F.conv2d(*leaves, groups=7, activation="relu")
    plain = F.conv2d(*leaves, groups=7)
    np.testing.assert_array_equal(fused.data, np.maximum(plain.data, 0))


@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d"])
def test_unknown_activation(name):
    x_shape, w_shape = CONVS[name]
    x, w = _tensors(np.float32, x_shape, w_shape)
    with pytest.raises(ValueError, match=f"{name}: activation must be one of None, 'relu', but"):
        getattr(F, name)(x, w, activation="tanh")
    with pytest.raises(ValueError, match="Conv2d: activation must be one of None, 'relu'"):
        nn.Conv2d(1, 1, 3, activation="elu")


BESIDE = {
    "few": ((2, 7, 9), 3, 2, 5, {}),
    "strided": ((2, 7, 9), 3, 5, 4, {"stride": 2, "padding": 1}),
    "dilated": ((1, 9, 9), 2, 17, 3, {"dilation": 2, "padding": 2}),
    "groups": ((1, 5, 6), 6, 3, 6, {"groups": 3, "padding": 1}),
    "many": ((1, 9, 11), 16, 24, 20, {"padding": 1}),
    "odd": ((2, 6, 7), 17, 19, 33, {"padding": 1}),
    "nothing": ((1, 5, 5), 3, 0, 2, {"padding": 1}),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", BESIDE)
def test_channels_beside(name, dtype):
    """Against loops in float64 on what NumPy joins, and the gradients of a plain convolution."""
    pixels, own, others, features, settings = BESIDE[name]
    weight = (3, 3, (own + others) // settings.get("groups", 1), features)
    x, z, w, b = leaves = _tensors(
        dtype, (*pixels, own), (*pixels, others), weight, (features,), seed=3
    )
    y = F.conv2d(x, w, b, **settings, beside=z)
    joined = np.concatenate([x.data, z.data], axis=-1).astype(np.float64)
    expected = reference.conv_nd(
        joined, w.data.astype(np.float64), b.data.astype(np.float64),
        settings.get("stride", 1), settings.get("padding", 0), settings.get("dilation", 1),
        settings.get("groups", 1),
    )  # fmt: skip
    rtol = 2e-6 if dtype == np.float32 else 1e-14
    np.testing.assert_allclose(y.data, expected, rtol=0, atol=rtol * np.abs(expected).max())
    gx, gz, gw, gb = _gradients(y, leaves)
    whole = Tensor(joined.astype(dtype), requires_grad=True)
    plain = F.conv2d(whole, w, b, **settings)
    parts = _gradients(plain, [whole, w, b])
    wanted = [parts[0][..., :own], parts[0][..., own:], *parts[1:]]
    for gradient, expected in zip([gx, gz, gw, gb], wanted, strict=True):
        assert gradient.shape == expected.shape
        atol = 3e-5 * np.abs(expected).max(initial=0) if dtype == np.float32 else 1e-12
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2), (1, 3)])
def test_only_the_gradients_that_are_wanted(wanted):
    tensors = _tensors(np.float64, (1, 4, 5, 2), (1, 4, 5, 3), (3, 3, 5, 2), (2,))
    for i, tensor in enumerate(tensors):
        tensor.requires_grad = i in wanted
    x, z, w, b = tensors
    F.conv2d(x, w, b, padding=1, beside=z).sum().backward()
    assert [tensor.grad is not None for tensor in tensors] == [i in wanted for i in range(4)]


def test_gradients_of_channels_beside():
    x, z, w, b = _tensors(np.float64, (1, 3, 4, 2), (1, 3, 4, 1), (3, 3, 3, 2), (2,))

    def function(x, z, w, b):
        return F.conv2d(x, w, b, padding=1, beside=z)

    assert gradcheck(function, [x, z, w, b])
    with pytest.raises(GradcheckError):
        gradcheck(lambda x, z: F.conv2d(x, w, b, beside=z) * x.data.sum(), [x, z])


def test_without_a_bias_and_without_weights_to_train():
    x, z = _tensors(np.float64, (1, 4, 4, 2), (1, 4, 4, 1))
    y = F.conv2d(x, np.ones((1, 1, 3, 1)), beside=z)
    np.testing.assert_allclose(y.data[..., 0], x.data.sum(-1) + z.data[..., 0])


def test_refused_beside():
    x, z, w = _tensors(np.float32, (1, 4, 4, 2), (1, 4, 5, 1), (3, 3, 3, 1))
    with pytest.raises(ValueError, match=r"conv2d: beside must have the pixels of x, \(1, 4, 4\)"):
        F.conv2d(x, w, beside=z)
    with pytest.raises(ValueError, match=r"with what is beside it, of shape \(1, 4, 4, 2\), has 4"):
        F.conv2d(x, w, beside=x)
    with pytest.raises(TypeError, match="conv2d: x has dtype float32, but beside has float64"):
        F.conv2d(x, w, beside=np.zeros((1, 4, 4, 1)))
