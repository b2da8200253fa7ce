"""The convolution kernels beyond the small shapes of the table: blocks, splits, algorithms."""

import numpy as np
import pytest
import reference
from checking import check_threads
from hypothesis import given, settings
from hypothesis import strategies as st

from minidl import Tensor, gradcheck
from minidl import functional as F
from minidl.kernels import bias, conv, gemm, slab, winograd_tiles

DTYPES = [np.float32, np.float64]
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
ALGORITHMS = ["direct", "winograd"]


def _normal(dtype, *shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def _near(result, expected, rtol):
    assert result.shape == expected.shape
    np.testing.assert_allclose(result, expected, rtol=0, atol=rtol * np.abs(expected).max())


def _assert_conv(dtype, x_shape, w_shape, rtol, algorithm=None, **settings):
    """Forward, with bias, and both gradients of the kernels against loops in float64."""
    x, w = _normal(dtype, *x_shape), _normal(dtype, *w_shape, seed=1)
    b = _normal(dtype, w_shape[-1], seed=2)
    stride, dilation = settings.get("stride", 1), settings.get("dilation", 1)
    padding, groups = settings.get("padding", 0), settings.get("groups", 1)
    wide = [a.astype(np.float64) for a in (x, w, b)]
    expected = reference.conv_nd(*wide, stride, padding, dilation, groups)
    gy = _normal(dtype, *expected.shape, seed=3)
    geometry = (1, stride, stride), (0, padding, padding), (1, dilation, dilation), groups
    options = {"algorithm": algorithm}

    def lifted(a):
        return a[:, None]

    size = (1, *expected.shape[1:-1])
    y = conv.forward(lifted(x), w[None], b, *geometry, size, **options)[:, 0]
    _near(y, expected, rtol)
    size = (1, *x_shape[1:-1])
    gx = conv.input_grad(lifted(gy), w[None], None, *geometry, size, **options)[:, 0]
    full = x_shape[1] + 2 * padding - dilation * (w_shape[0] - 1) - 1
    extra = [
        (n + 2 * padding - dilation * (k - 1) - 1) % stride
        for n, k in zip(x_shape[1:-1], w_shape, strict=False)
    ]
    assert full >= 0
    back = reference.conv_transpose_nd(
        gy.astype(np.float64), wide[1], None, stride, padding, extra, groups, dilation
    )
    _near(gx, back, rtol)
    gw = conv.weight_grad(lifted(x), lifted(gy), (1, *w_shape[:2]), *geometry, **options)[0]
    _near(gw, _weight_grad(wide[0], gy.astype(np.float64), w_shape, stride, padding, dilation,
                           groups), rtol)  # fmt: skip


def _weight_grad(x, gy, w_shape, stride, padding, dilation, groups):
    """One tap after the other: pixels it sees, times the gradients of what they gave."""
    x = np.pad(x, [(0, 0), (padding, padding), (padding, padding), (0, 0)])
    gw = np.zeros(w_shape)
    rows, columns = gy.shape[1:3]
    for i, j in np.ndindex(*w_shape[:2]):
        seen = x[:, i * dilation :: stride, j * dilation :: stride][:, :rows, :columns]
        for g, (part, grad) in enumerate(
            zip(np.split(seen, groups, -1), np.split(gy, groups, -1), strict=True)
        ):
            f = grad.shape[-1]
            gw[i, j, :, g * f : (g + 1) * f] = np.tensordot(part, grad, ((0, 1, 2), (0, 1, 2)))
    return gw


BLOCKS = {
    "many blocks of pixels": ((2, 23, 31, 3), (3, 3, 3, 5), {"padding": 1}),
    "one more pixel than a block": ((1, 1, slab.BLOCK_PIXELS + 1, 2), (1, 1, 2, 3), {}),
    "one less pixel than a block": ((1, 1, slab.BLOCK_PIXELS - 1, 2), (1, 1, 2, 3), {}),
    "deeper than a block": ((1, 4, 5, 151), (3, 3, 151, 6), {"padding": 1}),
    "runs longer than a block": ((1, 4, 5, 433), (3, 3, 433, 6), {"padding": 1}),
    "runs that cannot be divided": ((1, 2, 3, 1283), (1, 1, 1283, 6), {}),
    "weights in parts of runs": ((1, 3, 4, 450), (2, 2, 450, 250), {"padding": 1}),
    "more padding than image": ((1, 2, 3, 5), (3, 3, 5, 7), {"padding": 9}),
    "taps that are never inside": ((2, 4, 5, 17), (3, 3, 17, 9), {"padding": 7, "dilation": 7}),
    "weights in chunks": ((1, 5, 5, 90), (3, 3, 90, 200), {"padding": 1}),
    "more registers than a tile": ((1, 6, 5, 8), (3, 3, 8, 130), {}),
    "strided": ((2, 29, 30, 5), (3, 3, 5, 9), {"stride": 2, "padding": 1}),
    "dilated": ((1, 24, 25, 5), (3, 3, 5, 9), {"dilation": 4, "padding": 4}),
    "a pixel, many weights": ((2, 9, 9, 300), (1, 1, 300, 350), {}),
    "a pixel, more features": ((1, 15, 13, 130), (1, 1, 130, 784), {}),
    "every second pixel": ((2, 9, 8, 20), (1, 1, 20, 30), {"stride": 2}),
    "every second pixel, many weights": ((1, 9, 8, 320), (1, 1, 320, 336), {"stride": 2}),
    "groups of many": ((1, 13, 12, 38), (3, 3, 19, 34), {"padding": 1, "groups": 2}),
    "large kernel": ((1, 20, 20, 3), (11, 7, 3, 4), {"stride": 4, "padding": 2}),
}


@each_dtype
@pytest.mark.parametrize("name", BLOCKS)
def test_across_the_borders_of_blocks(name, dtype):
    x_shape, w_shape, settings = BLOCKS[name]
    rtol = 3e-6 if dtype == np.float32 else 1e-14
    _assert_conv(dtype, x_shape, w_shape, rtol, "direct", **settings)


@pytest.mark.parametrize("f", [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 48, 49, 64, 65])
@pytest.mark.parametrize("c", [1, 3, 16, 17])
def test_every_number_of_channels(c, f):
    _assert_conv(np.float32, (1, 5, 6, c), (2, 3, c, f), 3e-6)
    _assert_conv(np.float64, (1, 5, 6, c), (2, 3, c, f), 1e-14)


@pytest.mark.parametrize("c, f", [(1, 1), (16, 16), (19, 35), (64, 33)])
@pytest.mark.parametrize("h, w", [(1, 1), (3, 2), (4, 4), (5, 9), (13, 18), (30, 7)])
@pytest.mark.parametrize("padding, dilation", [(1, 1), (0, 1), (2, 2), (2, 1)])
def test_winograd_is_the_same_convolution(c, f, h, w, padding, dilation):
    if min(h, w) + 2 * padding < 2 * dilation + 1:
        return
    _assert_conv(
        np.float32, (2, h, w, c), (3, 3, c, f), 3e-5, "winograd",
        padding=padding, dilation=dilation,
    )  # fmt: skip


BOUND = {"direct": 5e-6, "winograd": 3e-5}  # of the largest number, for inputs of unit variance


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    "c, f", [(1, 8), (1, 16), (1, 17), (3, 16), (15, 15), (16, 3), (17, 1), (15, 17)]
)
@pytest.mark.parametrize("h, w", [(1, 8), (3, 5), (4, 9), (5, 1), (7, 4), (8, 3), (9, 7)])
def test_one_more_and_one_less_than_a_tile(algorithm, c, f, h, w):
    """Measured: at most 5e-7 directly and 2e-6 by Winograd."""
    _assert_conv(np.float32, (2, h, w, c), (3, 3, c, f), BOUND[algorithm], algorithm, padding=1)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("padding, dilation", [(3, 1), (6, 1), (11, 1), (9, 4)])
def test_more_padding_than_the_kernel_reaches(algorithm, padding, dilation):
    """The gradient of the input is then a convolution with less than no padding."""
    settings = {"padding": padding, "dilation": dilation}
    _assert_conv(np.float32, (1, 2, 3, 17), (3, 3, 17, 20), BOUND[algorithm], algorithm, **settings)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    "x_shape, features",
    [((1, 9, 7, 512), 512), ((1, 34, 33, 512), 20), ((2, 3, 4, 20), 512)],
    ids=["512 to 512", "512 to 20", "20 to 512"],
)
def test_rounding_with_512_channels(algorithm, x_shape, features):
    """Measured: at most 3e-6 directly and 7e-6 by Winograd, where 3e-5 is promised."""
    kernel = (3, 3, x_shape[-1], features)
    _assert_conv(np.float32, x_shape, kernel, BOUND[algorithm], algorithm, padding=1)


@pytest.mark.parametrize("h", [1, 2, 3, 5, 6, 7, 9, 14])
@pytest.mark.parametrize("w", [1, 2, 3, 4, 5, 10, 13])
def test_tiles_of_several_extents(h, w):
    """Eight images, so that tiles of 3 and 2 outputs are worth it."""
    _assert_conv(
        np.float32, (8, h, w, 16), (3, 3, 16, 17), BOUND["winograd"], "winograd", padding=1
    )


@pytest.mark.parametrize("size, dilation", [((32, 32), 12), ((41, 33), 12), ((9, 50), 7)])
def test_dilation_leaves_two_or_three_pixels_to_a_tile(size, dilation):
    _assert_conv(
        np.float32, (4, *size, 17), (3, 3, 17, 16), BOUND["winograd"],
        padding=dilation, dilation=dilation,
    )  # fmt: skip


@settings(max_examples=200)
@given(
    images=st.integers(1, 9), size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    dilation=st.tuples(st.integers(1, 14), st.integers(1, 14)),
)  # fmt: skip
def test_every_output_is_in_one_tile(images, size, dilation):
    shape = (images, 1, *size, 3)
    tiles = winograd_tiles.cover(shape, 1, (1, *dilation), (0, *dilation), (1, *size))
    down, across = dilation
    seen = np.zeros((images + gemm.TILE_ROWS, 100, 100), int)
    for n, h, w, tall, wide in winograd_tiles.places_of(0, tiles.total, tiles.table):
        seen[n, h : h + tall * down : down, w : w + wide * across : across] += 1
    np.testing.assert_array_equal(seen[:images, : size[0], : size[1]], 1)
    whole = images * np.prod([d * -(-s // (4 * d)) for s, d in zip(size, dilation, strict=True)])
    assert tiles.total <= whole + gemm.TILE_ROWS * winograd_tiles.CLASSES


@pytest.mark.parametrize("channels, features", [(17, 40), (530, 16)])
def test_same_bits_however_tiles_are_shared_out(channels, features, threads):
    """240 tiles are few blocks: one or two threads take blocks, three share the features."""
    x, w = _normal(np.float32, 1, 60, 62, channels), _normal(np.float32, 3, 3, channels, features)
    check_threads(threads, lambda x, w: F.conv2d(x, w, padding=1), x, w)


MANY_TILES = {
    "many tiles, few channels": ((2, 61, 58, 17), 19),
    "many tiles, many channels": ((1, 46, 45, 150), 135),
    "more features than a block": ((1, 30, 29, 33), 200),
    "more channels than a block": ((1, 14, 15, 200), 33),
    "a tile of the last image alone": ((3, 27, 28, 16), 16),
}


@pytest.mark.parametrize("name", MANY_TILES)
def test_winograd_with_many_tiles(name):
    x_shape, features = MANY_TILES[name]
    kernel = (3, 3, x_shape[-1], features)
    _assert_conv(np.float32, x_shape, kernel, BOUND["winograd"], "winograd", padding=1)


def test_winograd_of_slices_with_unlike_axes():
    """Images in a volume, padded and dilated differently down and across."""
    x, w = _normal(np.float32, 2, 3, 11, 14, 17), _normal(np.float32, 1, 3, 3, 17, 18, seed=1)
    geometry = (1, 1, 1), (0, 1, 5), (1, 3, 2), 1
    size = (3, 7, 20)
    gy = _normal(np.float32, 2, *size, 18, seed=2)
    for name, inputs in (
        ("forward", (x, w, None, *geometry, size)),
        ("input_grad", (gy, w, None, *geometry, x.shape[1:-1])),
        ("weight_grad", (x, gy, w.shape[:3], *geometry)),
    ):
        wide = [a.astype(float) if isinstance(a, np.ndarray) else a for a in inputs]
        expected = getattr(conv, name)(*wide, algorithm="direct")
        _near(getattr(conv, name)(*inputs, algorithm="winograd"), expected, BOUND["winograd"])


@each_dtype
@pytest.mark.parametrize("padding", [(0, 1, 1), (2, 1, 1), (2, 0, 3)])
def test_slices_of_a_volume_with_padding_in_front(padding, dtype):
    """A kernel of one plane, and planes of padding that it gives nothing but the bias."""
    x, w = _normal(dtype, 1, 2, 5, 6, 16), _normal(dtype, 1, 3, 3, 16, 16, seed=1)
    b = _normal(dtype, 16, seed=2)
    deep, flat = ([Tensor(a, requires_grad=True) for a in (x, w, b)] for _ in range(2))
    y = F.conv3d(*deep, padding=padding)
    rtol = 3e-5 if dtype == np.float32 else 1e-14
    _near(y.data, reference.conv_nd(*(a.astype(float) for a in (x, w, b)), 1, padding), rtol)
    gy = _normal(dtype, *y.shape, seed=3)
    y.backward(gy)
    front = padding[0]
    F.conv3d(*flat, padding=(0, *padding[1:])).backward(gy[:, front : front + x.shape[1]].copy())
    for leaf, other in zip(deep[:2], flat[:2], strict=True):
        _near(leaf.grad, other.grad, rtol)
    _near(deep[2].grad, gy.sum((0, 1, 2, 3), np.float64), 1e-5)


@each_dtype
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_relu_in_the_output_stage(algorithm, dtype):
    if algorithm == "winograd" and dtype == np.float64:
        return
    x, w = _normal(dtype, 1, 1, 9, 8, 20), _normal(dtype, 1, 3, 3, 20, 18, seed=1)
    b = _normal(dtype, 18, seed=2)
    setting = (x, w, b, (1, 1, 1), (0, 1, 1), (1, 1, 1), 1, (1, 9, 8))
    options = {"algorithm": algorithm}
    plain = conv.forward(*setting, **options)
    assert (plain < 0).any()
    rectified = conv.forward(*setting, relu=True, **options)
    np.testing.assert_array_equal(rectified, np.maximum(plain, 0))


def test_nan_and_infinity_go_where_they_are_seen():
    x = np.zeros((1, 9, 9, 3), np.float32)
    x[0, 4, 4, 1], x[0, 0, 0, 2] = np.nan, np.inf
    w = np.ones((3, 3, 3, 4), np.float32)
    y = F.conv2d(x, w, padding=1).data
    nan = np.zeros(y.shape, bool)
    nan[0, 3:6, 3:6] = True
    np.testing.assert_array_equal(np.isnan(y), nan)
    assert np.isinf(y[0, :2, :2]).all() and np.isfinite(y[0, 6:]).all()


@each_dtype
@pytest.mark.parametrize("channels", [3, 64])
def test_empty_batch(dtype, channels):
    x = Tensor(np.zeros((0, 5, 5, channels), dtype), requires_grad=True)
    w = Tensor(_normal(dtype, 3, 3, channels, channels), requires_grad=True)
    b = Tensor(_normal(dtype, channels), requires_grad=True)
    for f in (F.conv2d, F.conv_transpose2d):
        w.grad = b.grad = None
        y = f(x, w, b)
        assert y.shape[0] == 0 and y.shape[-1] == channels
        y.sum().backward()
        np.testing.assert_array_equal(w.grad, np.zeros(w.shape))
        np.testing.assert_array_equal(b.grad, np.zeros(channels))
        assert x.grad.shape == x.shape


@each_dtype
def test_gradient_of_the_bias_is_the_sum_over_pixels(dtype):
    for pixels in (1, 255, 256, 257, 40_000):
        gy = _normal(dtype, 1, 1, 1, pixels, 19)
        expected = gy.astype(np.float64).sum((0, 1, 2, 3))
        rtol = 1e-5 if dtype == np.float32 else 1e-13
        _near(bias.grad(gy), expected, rtol)


def test_weights_padded_to_whole_registers_stay_quiet():
    """No garbage is summed beside the channels that count: NumPy would warn of overflows.

    What is left in freed memory is made large first.
    """
    for seed in range(20):
        waste = [np.full(size, 3e38, np.float32) for size in range(1 << 10, 1 << 15, 1 << 8)]
        del waste
        x, gy = _normal(np.float32, 2, 1, 20, 20, 8), _normal(np.float32, 2, 1, 20, 20, 41)
        with np.errstate(all="raise"):
            gw = conv.weight_grad(x, gy, (1, 1, 1), (1, 1, 1), (0, 0, 0), (1, 1, 1), 1)
        assert np.isfinite(gw).all(), seed


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_torch_agrees(dims):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(5)
    size = (9, 8, 7)[:dims]
    x = rng.standard_normal((2, *size, 4))
    w = rng.standard_normal((*(3, 2, 3)[:dims], 2, 6))
    b = rng.standard_normal(6)
    settings = {"stride": 2, "padding": 1, "dilation": 1, "groups": 2}
    ours = [Tensor(a, requires_grad=True) for a in (x, w, b)]
    y = getattr(F, f"conv{dims}d")(*ours, **settings)
    front, back = (0, dims + 1, *range(1, dims + 1)), (0, *range(2, dims + 2), 1)
    kernel = (dims + 1, dims, *range(dims))
    theirs = [
        torch.tensor(a, requires_grad=True) for a in (x.transpose(front), w.transpose(kernel), b)
    ]
    expected = getattr(torch.nn.functional, f"conv{dims}d")(*theirs, **settings)
    np.testing.assert_allclose(y.data, expected.detach().numpy().transpose(back), atol=1e-12)
    gy = rng.standard_normal(y.shape)
    y.backward(gy)
    expected.backward(torch.tensor(gy.transpose(front)))
    np.testing.assert_allclose(ours[0].grad, theirs[0].grad.numpy().transpose(back), atol=1e-12)
    weight = theirs[1].grad.numpy().transpose(*range(2, dims + 2), 1, 0)
    np.testing.assert_allclose(ours[1].grad, weight, atol=1e-12)
    np.testing.assert_allclose(ours[2].grad, theirs[2].grad.numpy(), atol=1e-12)


@each_dtype
@pytest.mark.parametrize("groups", [1, 2])
def test_kernels_of_one_pixel_see_all_pixels_as_a_row(dtype, groups):
    _assert_conv(dtype, (3, 5, 7, 6), (1, 1, 6 // groups, 10), 1e-5, groups=groups)


def test_zeros_behind_the_image_are_pixels_too():
    x, w, b = _normal(float, 2, 5, 6, 3), _normal(float, 1, 1, 3, 4), _normal(float, 4)
    expected = np.zeros((2, 7, 7, 4)) + b
    expected[:, :5, :6] += x @ w[0, 0]
    y = F.conv2d(x, w, b, padding=((0, 2), (0, 1)))
    np.testing.assert_allclose(y.numpy(), expected, atol=1e-12)
    up = F.conv_transpose2d(x, w.transpose(0, 1, 3, 2), output_padding=1, dilation=2)
    np.testing.assert_allclose(up.numpy()[:, :5, :6], x @ w[0, 0], atol=1e-12)
    assert up.shape == (2, 6, 7, 4) and not up.numpy()[:, 5:].any()


@each_dtype
@pytest.mark.parametrize("groups", [1, 2, 20])
@pytest.mark.parametrize("kernel", [1, 3])
def test_factors_of_the_results(dtype, groups, kernel):
    x, b = _normal(dtype, 2, 7, 6, 20), _normal(dtype, 20, seed=1)
    w, scale = _normal(dtype, kernel, kernel, 20 // groups, 20), _normal(dtype, 20, seed=2)
    settings = {"padding": 1, "groups": groups}
    y = F.conv2d(x, w, b, **settings, scale=scale)
    rtol = 1e-5 if dtype is np.float32 else 1e-13
    _near(y.numpy(), reference.conv_nd(x, w, None, 1, 1, 1, groups) * scale + b, rtol)


def test_gradients_with_factors():
    x, w, b = _normal(float, 1, 4, 5, 3), _normal(float, 3, 3, 3, 2), _normal(float, 2)

    def convolve(*inputs):
        return F.conv2d(*inputs, scale=np.array([2.0, -3.0]), activation="relu")

    assert gradcheck(convolve, [x, w, b])


def test_refused_factors():
    x, w = _normal(float, 1, 4, 5, 3), _normal(float, 3, 3, 3, 2)
    with pytest.raises(ValueError, match=r"conv2d: scale must have shape \(2,\), but has \(3,\)"):
        F.conv2d(x, w, scale=np.ones(3))


def test_an_empty_batch_has_no_gradient_for_many_weights_either():
    x, gy = np.empty((0, 1, 3, 3, 320), np.float32), np.empty((0, 1, 3, 3, 400), np.float32)
    gw = conv.weight_grad(x, gy, (1, 1, 1), (1, 1, 1), (0, 0, 0), (1, 1, 1), 1)
    np.testing.assert_array_equal(gw, np.zeros((1, 1, 1, 320, 400)))


def _strided(x, w, b, padding, relu=False, scale=None, beside=None, algorithm="strided"):
    """A 3x3 convolution of stride 2 of (N, D, H, W, C), and what it should be."""
    wide = x if beside is None else np.concatenate([x, beside], axis=-1)
    factors = 1.0 if scale is None else scale.astype(float)
    expected = reference.conv_nd(
        wide.astype(float), w.astype(float) * factors, b.astype(float), (1, 2, 2), padding
    )
    geometry = (1, 2, 2), padding, (1, 1, 1), 1, expected.shape[1:-1]
    options = {"relu": relu, "scale": scale, "beside": beside, "algorithm": algorithm}
    return conv.forward(x, w, b, *geometry, **options), expected


@pytest.mark.parametrize("c, f", [(1, 1), (3, 17), (16, 16), (17, 49), (70, 33)])
@pytest.mark.parametrize("h, w", [(1, 1), (2, 3), (9, 10), (11, 12), (13, 8), (30, 7)])
@pytest.mark.parametrize("padding", [1, 2])
def test_stride_two_by_tiles(c, f, h, w, padding):
    """Measured: at most 3e-6."""
    x, k = _normal(np.float32, 2, 1, h, w, c), _normal(np.float32, 1, 3, 3, c, f, seed=1)
    y, expected = _strided(x, k, _normal(np.float32, f, seed=2), (0, padding, padding))
    _near(y, expected, 3e-5)


def test_stride_two_by_tiles_of_volumes_halves_and_scales():
    x, beside = _normal(np.float32, 2, 3, 12, 9, 5), _normal(np.float32, 2, 3, 12, 9, 20, seed=1)
    k, b = _normal(np.float32, 1, 3, 3, 25, 20, seed=2), _normal(np.float32, 20, seed=3)
    scale = _normal(np.float32, 20, seed=4)
    y, expected = _strided(x, k, b, (2, 0, 1), beside=beside, scale=scale)
    _near(y, expected, 3e-5)
    rectified, _ = _strided(x, k, b, (2, 0, 1), beside=beside, scale=scale, relu=True)
    np.testing.assert_array_equal(rectified, np.maximum(y, 0))


def test_stride_two_takes_tiles_where_these_pay(threads):
    x, k = _normal(np.float32, 4, 1, 80, 80, 64), _normal(np.float32, 1, 3, 3, 64, 128, seed=1)
    b = _normal(np.float32, 128, seed=2)
    forced, expected = _strided(x, k, b, (0, 1, 1))
    _near(forced, expected, 3e-5)
    for count in (1, 2, 3):
        threads(count)
        chosen, _ = _strided(x, k, b, (0, 1, 1), algorithm=None)
        np.testing.assert_array_equal(chosen, forced)
    few = conv.algorithm_for(x.dtype, k.shape, (1, 2, 2), 1, out_shape=(1, 1, 10, 10))
    gradient = conv.algorithm_for(x.dtype, k.shape, (1, 2, 2), 1)
    assert (few, gradient) == ("direct", "direct")


@pytest.mark.parametrize("c", [64, 512])
def test_error_of_stride_two_by_tiles(c):
    """Measured: 6e-6 and 1.1e-5 of the largest number."""
    x, k = _normal(np.float32, 1, 1, 25, 25, c), _normal(np.float32, 1, 3, 3, c, 16, seed=1)
    y, expected = _strided(x, k, _normal(np.float32, 16, seed=2), (0, 1, 1))
    _near(y, expected, 3e-5)
