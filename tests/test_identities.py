"""Identities that hold whatever the numbers: shapes and settings are drawn by Hypothesis."""

import numpy as np
import pytest
import reference
from hypothesis import assume, given
from hypothesis import strategies as st

from minidl import Tensor
from minidl import functional as F

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def _normal(shape, seed, dtype=np.float64):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def _inner(a, b):
    """Inner product, in float64."""
    return float((np.asarray(a, np.float64) * np.asarray(b, np.float64)).sum())


def _norm(a):
    return float(np.linalg.norm(np.asarray(a, np.float64)))


def _near(a, b, rtol=1e-12):
    np.testing.assert_allclose(a, b, rtol=0, atol=rtol * max(np.abs(b).max(initial=0), 1e-30))


@st.composite
def settings_of_conv(draw, axes=(1, 2, 3), dilated=True, padded=True):
    """(x shape, weight shape, settings) of a convolution that fits."""
    axes = draw(st.sampled_from(axes))
    few = {1: 12, 2: 8, 3: 5}[axes]
    kernel, stride, dilation, padding, size = [], [], [], [], []
    for _ in range(axes):
        k, s = draw(st.integers(1, 4)), draw(st.integers(1, 4))
        d = draw(st.integers(1, 3)) if dilated else 1
        p = (draw(st.integers(0, 3)), draw(st.integers(0, 3))) if padded else (0, 0)
        reach = d * (k - 1) + 1 - sum(p)
        n = draw(st.integers(max(1, reach), max(1, reach) + few))
        kernel.append(k)
        stride.append(s)
        dilation.append(d)
        padding.append(p)
        size.append(n)
    groups = draw(st.integers(1, 3))
    channels, features = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    shapes = (
        (draw(st.integers(1, 2)), *size, channels * groups),
        (*kernel, channels, features * groups),
    )
    settings = {
        "stride": tuple(stride),
        "padding": tuple(padding),
        "dilation": tuple(dilation),
        "groups": groups,
    }
    return *shapes, settings


def _output_padding(x_shape, w_shape, settings):
    """What a transposed convolution has to add to come back to the size of x."""
    return tuple(
        (n + sum(p) - d * (k - 1) - 1) % s
        for n, k, s, p, d in zip(
            x_shape[1:-1], w_shape, settings["stride"], settings["padding"],
            settings["dilation"], strict=False,
        )
    )  # fmt: skip


# ---- the three kernels of convolution are one bilinear form --------------------------------


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@given(drawn=settings_of_conv(), seed=st.integers(0, 99))
def test_conv_its_transpose_and_its_weight_gradient(dtype, drawn, seed):
    """<conv(x, w), y> = <x, conv_transpose(y, w)> = <w, gradient of w>."""
    x_shape, w_shape, settings = drawn
    extra = _output_padding(x_shape, w_shape, settings)
    allowed = zip(settings["stride"], settings["dilation"], extra, strict=True)
    assume(all(more < max(s, d) for s, d, more in allowed))
    axes = len(extra)
    x, w = (_normal(shape, seed + i, dtype) for i, shape in enumerate((x_shape, w_shape)))
    x, w = Tensor(x, requires_grad=True), Tensor(w, requires_grad=True)
    conv = CONV[axes](x, w, **settings)
    y = _normal(conv.shape, seed + 2, dtype)
    conv.backward(y)
    back = TRANSPOSE[axes](y, w, output_padding=extra, **settings)
    assert back.shape == x.shape
    np.testing.assert_array_equal(back.data, x.grad)
    expected = _inner(conv.data, y)
    bound = (1e-13 if dtype == np.float64 else 3e-6) * max(
        _norm(conv.data) * _norm(y), _norm(x.data) * _norm(x.grad), _norm(w.data) * _norm(w.grad)
    )
    assert abs(_inner(x.data, back.data) - expected) <= bound
    assert abs(_inner(w.data, w.grad) - expected) <= bound


@given(drawn=settings_of_conv(), seed=st.integers(0, 99))
def test_conv_is_the_naive_one(drawn, seed):
    x_shape, w_shape, settings = drawn
    assume(np.prod(x_shape) * np.prod(w_shape[:-2]) < 4000)
    x, w, b = _normal(x_shape, seed), _normal(w_shape, seed + 1), _normal(w_shape[-1:], seed + 2)
    y = CONV[x.ndim - 2](x, w, b, **settings)
    _near(y.data, reference.conv_nd(x, w, b, **settings))


@given(drawn=settings_of_conv(), seed=st.integers(0, 99))
def test_conv_is_linear_in_both_arguments(drawn, seed):
    x_shape, w_shape, settings = drawn
    conv = CONV[len(x_shape) - 2]
    x, u = _normal(x_shape, seed), _normal(x_shape, seed + 1)
    w, v = _normal(w_shape, seed + 2), _normal(w_shape, seed + 3)
    both = conv(x + u, w + v, **settings).data
    parts = [conv(a, b, **settings).data for a in (x, u) for b in (w, v)]
    np.testing.assert_allclose(both, sum(parts), atol=1e-11)


# ---- one setting expressed by another ------------------------------------------------------


@given(drawn=settings_of_conv(), seed=st.integers(0, 99))
def test_dilation_is_a_kernel_stuffed_with_zeros(drawn, seed):
    x_shape, w_shape, settings = drawn
    x, w = _normal(x_shape, seed), _normal(w_shape, seed + 1)
    dilation = settings["dilation"]
    stuffed = np.zeros(
        [d * (k - 1) + 1 for d, k in zip(dilation, w_shape, strict=False)] + list(w_shape[-2:])
    )
    stuffed[tuple(slice(None, None, d) for d in dilation)] = w
    conv = CONV[len(dilation)]
    _near(
        conv(x, w, **settings).data,
        conv(x, stuffed, **{**settings, "dilation": 1}).data,
    )


@given(drawn=settings_of_conv(), seed=st.integers(0, 99))
def test_stride_is_taking_every_so_many(drawn, seed):
    x_shape, w_shape, settings = drawn
    x, w = _normal(x_shape, seed), _normal(w_shape, seed + 1)
    every = (slice(None), *(slice(None, None, s) for s in settings["stride"]))
    conv = CONV[len(x_shape) - 2]
    _near(
        conv(x, w, **settings).data,
        conv(x, w, **{**settings, "stride": 1}).data[every],
    )


@given(drawn=settings_of_conv(), seed=st.integers(0, 99))
def test_padding_is_zeros_around_the_input(drawn, seed):
    x_shape, w_shape, settings = drawn
    x, w = _normal(x_shape, seed), _normal(w_shape, seed + 1)
    padded = np.pad(x, [(0, 0), *settings["padding"], (0, 0)])
    conv = CONV[len(x_shape) - 2]
    _near(conv(x, w, **settings).data, conv(padded, w, **{**settings, "padding": 0}).data)


@given(drawn=settings_of_conv(), seed=st.integers(0, 99))
def test_groups_are_convolutions_side_by_side(drawn, seed):
    x_shape, w_shape, settings = drawn
    x, w = _normal(x_shape, seed), _normal(w_shape, seed + 1)
    groups, conv = settings["groups"], CONV[len(x_shape) - 2]
    parts = zip(np.split(x, groups, -1), np.split(w, groups, -1), strict=True)
    alone = {**settings, "groups": 1}
    _near(
        conv(x, w, **settings).data,
        np.concatenate([conv(a, b, **alone).data for a, b in parts], axis=-1),
    )


@given(drawn=settings_of_conv(axes=(2,)), seed=st.integers(0, 99))
def test_conv3d_of_one_plane_is_conv2d(drawn, seed):
    x_shape, w_shape, settings = drawn
    x, w = _normal(x_shape, seed), _normal(w_shape, seed + 1)
    flat = {
        "stride": (1, *settings["stride"]),
        "padding": ((0, 0), *settings["padding"]),
        "dilation": (1, *settings["dilation"]),
        "groups": settings["groups"],
    }
    _near(F.conv3d(x[:, None], w[None], **flat).data[:, 0], F.conv2d(x, w, **settings).data)


@given(drawn=settings_of_conv(axes=(1,)), seed=st.integers(0, 99))
def test_conv1d_is_conv2d_of_one_row(drawn, seed):
    x_shape, w_shape, settings = drawn
    x, w = _normal(x_shape, seed), _normal(w_shape, seed + 1)
    flat = {
        "stride": (1, *settings["stride"]),
        "padding": ((0, 0), *settings["padding"]),
        "dilation": (1, *settings["dilation"]),
        "groups": settings["groups"],
    }
    _near(F.conv1d(x, w, **settings).data, F.conv2d(x[:, None], w[None], **flat).data[:, 0])


@given(drawn=settings_of_conv(dilated=False, padded=False), seed=st.integers(0, 99))
def test_transposed_conv_is_a_conv_of_a_stuffed_input(drawn, seed):
    """The guide's second reading: zeros between pixels, full padding, the kernel turned over."""
    y_shape, w_shape, settings = drawn
    axes, groups = len(y_shape) - 2, settings["groups"]
    w = _normal(w_shape, seed + 1)
    # A conv from y_shape gives features; the transpose goes from features back to channels.
    x = _normal((*y_shape[:-1], w_shape[-1]), seed)
    stride, kernel = settings["stride"], w_shape[:axes]
    wide = [s * (n - 1) + 1 for s, n in zip(stride, x.shape[1:-1], strict=True)]
    stuffed = np.zeros((len(x), *wide, x.shape[-1]))
    stuffed[(slice(None), *(slice(None, None, s) for s in stride))] = x
    turned = w[(slice(None, None, -1),) * axes]
    swapped = [part.swapaxes(-1, -2) for part in np.split(turned, groups, -1)]
    turned = np.concatenate(swapped, axis=-1)
    padding = [(k - 1, k - 1) for k in kernel]
    _near(
        TRANSPOSE[axes](x, w, stride=stride, groups=groups).data,
        CONV[axes](stuffed, turned, padding=padding, groups=groups).data,
    )


@given(seed=st.integers(0, 99), rows=st.integers(1, 4), c=st.integers(1, 20), f=st.integers(1, 40))
def test_conv_of_one_pixel_is_linear(seed, rows, c, f):
    x, w, b = _normal((rows, 3, c), seed), _normal((c, f), seed + 1), _normal((f,), seed + 2)
    _near(F.linear(x, w, b).data, F.conv1d(x, w[None], b).data)
    _near(F.linear(x, w, b).data, x @ w + b)


# ---- sizes ---------------------------------------------------------------------------------


@given(n=st.integers(1, 40), k=st.integers(1, 7), s=st.integers(1, 5), d=st.integers(1, 4))
def test_same_padding_keeps_the_size_up_to_the_stride(n, k, s, d):
    x, w = np.ones((1, n, 1)), np.ones((k, 1, 1))
    y = F.conv1d(x, w, stride=s, padding="same", dilation=d)
    assert y.shape == (1, -(-n // s), 1)
    pads = reference.same_padding(n, k, s, d)
    np.testing.assert_array_equal(
        y.data, F.conv1d(x, w, stride=s, padding=(pads,), dilation=d).data
    )


# (i, k, s, d) -> o and zeros on both sides, TensorFlow's SAME
@pytest.mark.parametrize(
    "size, kernel, stride, dilation, out, before, after",
    [
        (5, 3, 2, 1, 3, 1, 1),
        (6, 3, 2, 1, 3, 0, 1),
        (224, 7, 2, 1, 112, 2, 3),
        (7, 2, 2, 1, 4, 0, 1),
        (224, 3, 1, 4, 224, 4, 4),
        (13, 16, 8, 1, 2, 5, 6),
    ],
)
def test_same_padding_of_tensorflow(size, kernel, stride, dilation, out, before, after):
    x = np.arange(1.0, size + 1).reshape(1, size, 1)
    w = _normal((kernel, 1, 1), 0)
    y = F.conv1d(x, w, stride=stride, padding="same", dilation=dilation)
    assert y.shape == (1, out, 1)
    padded = np.pad(x, [(0, 0), (before, after), (0, 0)])
    expected = F.conv1d(padded, w, stride=stride, dilation=dilation)
    np.testing.assert_array_equal(y.data, expected.data)


# Dumoulin & Visin's relationships 1-6 and 15: i, k, s, p, d -> o
@pytest.mark.parametrize(
    "number, i, k, s, p, d, o",
    [
        (1, 4, 3, 1, 0, 1, 2),
        (2, 5, 4, 1, 2, 1, 6),
        (3, 5, 3, 1, 1, 1, 5),
        (4, 5, 3, 1, 2, 1, 7),
        (5, 5, 3, 2, 0, 1, 2),
        (6, 5, 3, 2, 1, 1, 3),
        (6, 6, 3, 2, 1, 1, 3),
        (15, 7, 3, 1, 0, 2, 3),
    ],
)
def test_relationships_of_the_guide_for_convolution(number, i, k, s, p, d, o):
    y = F.conv2d(np.ones((1, i, i, 1)), np.ones((k, k, 1, 1)), stride=s, padding=p, dilation=d)
    assert y.shape == (1, o, o, 1)


# Relationships 8-14: i', k, s, p, a -> o'
@pytest.mark.parametrize(
    "number, i, k, s, p, a, o",
    [
        (8, 2, 3, 1, 0, 0, 4),
        (9, 6, 4, 1, 2, 0, 5),
        (10, 5, 3, 1, 1, 0, 5),
        (11, 7, 3, 1, 2, 0, 5),
        (12, 2, 3, 2, 0, 0, 5),
        (13, 3, 3, 2, 1, 0, 5),
        (14, 3, 3, 2, 1, 1, 6),
    ],
)
def test_relationships_of_the_guide_for_its_transpose(number, i, k, s, p, a, o):
    x, w = np.ones((1, i, i, 1)), np.ones((k, k, 1, 1))
    y = F.conv_transpose2d(x, w, stride=s, padding=p, output_padding=a)
    assert y.shape == (1, o, o, 1)
    assert F.conv2d(y, w, stride=s, padding=p).shape == x.shape


# ---- values one can check by hand ----------------------------------------------------------


def _transpose_1d(values, kernel, **settings):
    x = np.array(values, float).reshape(1, -1, 1)
    return F.conv_transpose1d(x, np.reshape(kernel, (-1, 1, 1)).astype(float), **settings).data


@pytest.mark.parametrize(
    "values, kernel, expected",
    [
        ([1, 2, 3], [1] * 3, [1, 1, 3, 2, 5, 3, 3]),
        ([1] * 4, [1] * 3, [1, 1, 2, 1, 2, 1, 2, 1, 1]),
        ([1] * 4, [1] * 4, [1, 1, 2, 2, 2, 2, 2, 2, 1, 1]),
    ],
)
def test_transposed_conv_of_ones(values, kernel, expected):
    """The second is the checkerboard: overlap is uneven where stride does not divide kernel."""
    np.testing.assert_array_equal(
        _transpose_1d(values, kernel, stride=2).ravel(), np.array(expected, float)
    )


@pytest.mark.parametrize("k, s", [(2, 2), (4, 2), (16, 8), (3, 2), (5, 3), (7, 2), (6, 3)])
def test_overlap_is_even_where_the_stride_divides_the_kernel(k, s):
    overlap = _transpose_1d([1] * 12, [1] * k, stride=s).ravel()[k : -k or None]
    assert (len(set(overlap)) == 1) == (k % s == 0)
    assert set(overlap) <= {k // s, -(-k // s)}


def test_checkerboard_in_two_dimensions():
    y = F.conv_transpose2d(np.ones((1, 6, 6, 1)), np.ones((3, 3, 1, 1)), stride=2).data[0, :, :, 0]
    assert set(y[3:-3, 3:-3].ravel()) == {1, 2, 4}


def test_dilated_conv_by_hand():
    x = np.arange(1.0, 8).reshape(1, 7, 1)
    y = F.conv1d(x, np.ones((3, 1, 1)), dilation=2)
    np.testing.assert_array_equal(y.data.ravel(), [9, 12, 15])


def test_edge_detection():
    """A bright left half, the kernel 1 0 -1: the edge, twice, and nothing else."""
    image = np.zeros((1, 6, 6, 1))
    image[:, :, :3] = 10
    kernel = np.tile(np.array([1.0, 0, -1]), (3, 1))[..., None, None]
    y = F.conv2d(image, kernel).data[0, :, :, 0]
    np.testing.assert_array_equal(y, np.tile([0.0, 30, 30, 0], (4, 1)))


def test_the_kernel_is_not_turned_over():
    x = np.zeros((1, 5, 5, 1))
    x[0, 2, 2, 0] = 1
    w = np.arange(9.0).reshape(3, 3, 1, 1)
    y = F.conv2d(x, w, padding=1).data[0, 1:4, 1:4, 0]
    np.testing.assert_array_equal(y, w[::-1, ::-1, 0, 0])
    np.testing.assert_array_equal(F.conv_transpose2d(x, w).data[0, 2:5, 2:5, 0], w[..., 0, 0])


def _bilinear_kernel(size):
    """Weights of linear interpolation: 1 - |i - c| / f."""
    f = (size + 1) // 2
    c = f - 1 if size % 2 else f - 0.5
    return np.array([1 - abs(i - c) / f for i in range(size)])


@pytest.mark.parametrize(
    "values, stride, padding, expected",
    [
        ([1] * 4, 2, 1, [0.75, 1, 1, 1, 1, 1, 1, 0.75]),
        ([0, 1, 2, 3], 2, 1, [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 2.25]),
        (
            [1, 1], 8, 4,
            [0.5625, 0.6875, 0.8125, 0.9375, *[1] * 8, 0.9375, 0.8125, 0.6875, 0.5625],
        ),
    ],
)  # fmt: skip
def test_transposed_conv_with_a_bilinear_kernel(values, stride, padding, expected):
    kernel = _bilinear_kernel(2 * stride - stride % 2)
    y = _transpose_1d(values, kernel, stride=stride, padding=padding)
    np.testing.assert_allclose(y.ravel(), expected, rtol=1e-15)


@given(k=st.integers(1, 4), s=st.integers(1, 4), layers=st.integers(1, 3), d=st.integers(1, 3))
def test_support_of_a_stack_of_ones(k, s, layers, d):
    """1 + sum of (extent - 1) * strides so far: seen by an impulse sent backward."""
    sizes, reach, jump = [], 1, 1
    for _ in range(layers):
        sizes.append((k, s, d))
        reach, jump = reach + d * (k - 1) * jump, jump * s
    x = Tensor(np.zeros((1, reach + 5, 1)), requires_grad=True)
    y = x
    for k, s, d in sizes:
        y = F.conv1d(y, np.ones((k, 1, 1)), stride=s, dilation=d)
    y[0, 0, 0].backward()
    touched = np.flatnonzero(x.grad)
    assert (touched[0], touched[-1]) == (0, reach - 1)


# ---- pooling -------------------------------------------------------------------------------


@st.composite
def settings_of_pool(draw):
    """(x shape, settings) of a pooling that fits and leaves no window without an element."""
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    size = tuple(draw(st.integers(k, k + 7)) for k in kernel)
    shape = (draw(st.integers(1, 2)), *size, draw(st.integers(1, 4)))
    return shape, {
        "kernel_size": kernel,
        "stride": stride,
        "padding": padding,
        "ceil_mode": draw(st.booleans()),
    }


@given(drawn=settings_of_pool(), seed=st.integers(0, 99))
def test_pools_are_the_naive_ones(drawn, seed):
    shape, settings = drawn
    x = _normal(shape, seed)
    expected, positions = reference.max_pool_nd(x, return_indices=True, **settings)
    y, indices = F.max_pool2d(x, return_indices=True, **settings)
    np.testing.assert_array_equal(y.data, expected)
    np.testing.assert_array_equal(indices, positions)
    np.testing.assert_array_equal(F.max_pool2d(x, **settings).data, expected)
    for include in (True, False):
        average = F.avg_pool2d(x, count_include_pad=include, **settings)
        _near(average.data, reference.avg_pool_nd(x, count_include_pad=include, **settings))


@given(drawn=settings_of_pool(), seed=st.integers(0, 99))
def test_unpooling_keeps_the_maxima(drawn, seed):
    shape, settings = drawn
    assume(all(s <= k for s, k in zip(settings["stride"], settings["kernel_size"], strict=True)))
    x = _normal(shape, seed)
    y, indices = F.max_pool2d(x, return_indices=True, **settings)
    again = {name: settings[name] for name in ("kernel_size", "stride", "padding")}
    default = [
        (n - 1) * s - 2 * p + k
        for n, s, p, k in zip(y.shape[1:-1], settings["stride"], settings["padding"],
                              settings["kernel_size"], strict=True)
    ]  # fmt: skip
    near = zip(shape[1:-1], default, settings["stride"], strict=True)
    assume(all(abs(n - d) < s for n, d, s in near))
    back = F.max_unpool2d(y, indices, output_size=shape[1:-1], **again).data
    kept = np.zeros(shape)
    for n in range(len(x)):
        at = np.unique(np.asarray(indices)[n])
        kept[n].reshape(-1)[at] = x[n].reshape(-1)[at]
    np.testing.assert_array_equal(back, kept)
    # Each maximum is still that of its window, as long as no zero is larger.
    positive = np.abs(x)
    y, indices = F.max_pool2d(positive, return_indices=True, **settings)
    back = F.max_unpool2d(y, indices, output_size=shape[1:-1], **again)
    np.testing.assert_array_equal(F.max_pool2d(back, **settings).data, y.data)


@given(drawn=settings_of_pool(), seed=st.integers(0, 99))
def test_average_is_a_convolution_with_equal_weights(drawn, seed):
    shape, settings = drawn
    x, (kh, kw) = _normal(shape, seed), settings["kernel_size"]
    w = np.full((kh, kw, 1, shape[-1]), 1 / (kh * kw))
    options = {"stride": settings["stride"], "padding": settings["padding"]}
    y = F.avg_pool2d(x, settings["kernel_size"], **options)
    _near(y.data, F.conv2d(x, w, groups=shape[-1], **options).data)


@given(drawn=settings_of_pool(), seed=st.integers(0, 99))
def test_maximum_and_its_gradient_among_equals(drawn, seed):
    """Whole numbers have many ties: one of the equals, and only it, gets the gradient."""
    shape, settings = drawn
    x = Tensor(np.round(_normal(shape, seed)), requires_grad=True)
    y, indices = F.max_pool2d(x, return_indices=True, **settings)
    gy = _normal(y.shape, seed + 1)
    y.backward(gy)
    expected = np.zeros(shape)
    for n in range(shape[0]):
        np.add.at(expected[n].reshape(-1), np.asarray(indices)[n].ravel(), gy[n].ravel())
    np.testing.assert_allclose(x.grad, expected, atol=1e-13)


# ---- fused operations are compositions of elementary ones ----------------------------------


def _assert_same(f, g, *arrays):
    """Two ways to compute: equal values, equal gradients."""
    results = []
    for function in (f, g):
        leaves = [Tensor(a, requires_grad=True) for a in arrays]
        y = function(*leaves)
        y.backward(_normal(y.shape, 9))
        results.append([y.data, *(leaf.grad for leaf in leaves)])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-11 * max(np.abs(b).max(), 1))


def test_batch_norm_is_a_composition():
    def composed(x, w, b):
        axes = (0, 1, 2)
        distance = x - x.mean(axes, keepdims=True)
        return distance / (x.var(axes, correction=0, keepdims=True) + 1e-5).sqrt() * w + b

    _assert_same(
        lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True),
        composed, _normal((3, 4, 5, 6), 0), _normal((6,), 1), _normal((6,), 2),
    )  # fmt: skip


def test_softmax_is_a_composition():
    def composed(x):
        e = x.exp()
        return e / e.sum(-1, keepdims=True)

    x = _normal((3, 4, 7), 0)
    _assert_same(F.softmax, composed, x)
    _assert_same(F.log_softmax, lambda x: composed(x).log(), x)
    _near(F.softmax(x + 1000).data, F.softmax(x).data, 1e-10)


def test_cross_entropy_is_a_composition():
    target = np.random.default_rng(0).integers(0, 5, (3, 4))
    at = np.indices((3, 4))

    def composed(x):
        return -F.log_softmax(x)[at[0], at[1], target].mean()

    _assert_same(lambda x: F.cross_entropy(x, target), composed, _normal((3, 4, 5), 1))
    _assert_same(lambda x: F.focal_loss(x, target, gamma=0.0), composed, _normal((3, 4, 5), 1))


def test_linear_is_a_composition():
    arrays = _normal((3, 2, 4), 0), _normal((4, 5), 1), _normal((5,), 2)
    _assert_same(F.linear, lambda x, w, b: x @ w + b, *arrays)


@given(factor=st.integers(1, 4), h=st.integers(1, 5), w=st.integers(1, 5), seed=st.integers(0, 9))
def test_nearest_by_a_whole_factor_repeats_pixels(factor, h, w, seed):
    x = _normal((1, h, w, 2), seed)
    y = F.interpolate(x, scale_factor=factor)
    np.testing.assert_array_equal(y.data, x.repeat(factor, 1).repeat(factor, 2))
    np.testing.assert_array_equal(F.avg_pool2d(y, factor).data.round(12), x.round(12))


def test_bilinear_by_two_is_a_transposed_conv_away_from_the_border():
    x = _normal((1, 6, 7, 2), 0)
    kernel = np.multiply.outer(_bilinear_kernel(4), _bilinear_kernel(4))
    weight = np.zeros((4, 4, 2, 2))
    weight[..., 0, 0] = weight[..., 1, 1] = kernel
    y = F.interpolate(x, scale_factor=2, mode="bilinear").data
    z = F.conv_transpose2d(x, weight, stride=2, padding=1).data
    np.testing.assert_allclose(y[:, 1:-1, 1:-1], z[:, 1:-1, 1:-1], atol=1e-14)
