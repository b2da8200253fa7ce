"""Pooling and unpooling."""

import itertools

import numpy as np
import pytest
from checking import (
    check_float32,
    check_gradient,
    check_threads,
    from_torch,
    normal,
    run,
    spread,
    to_torch,
)

from minidl import Tensor, no_grad
from minidl.functional import pool as P

MAX = {1: P.max_pool1d, 2: P.max_pool2d, 3: P.max_pool3d}
AVERAGE = {1: P.avg_pool1d, 2: P.avg_pool2d, 3: P.avg_pool3d}
SIZES = {1: (7,), 2: (7, 6), 3: (5, 4, 6)}


def _out(size, kernel, stride, padding, dilation, ceil_mode):
    """Positions of a window, counted one by one."""
    reach = dilation * (kernel - 1) + 1
    count = 0
    for start in range(-padding, size + padding, stride):
        fits = start + reach <= size + padding
        overhangs = ceil_mode and start < size and start + reach - stride < size + padding
        count += fits or overhangs
    return count


def _naive_windows(x, kernel, stride, padding, dilation, ceil_mode):
    """For each output position, its index and the list of input positions in its window."""
    dims = x.ndim - 2
    outs = [_out(x.shape[1 + a], kernel, stride, padding, dilation, ceil_mode) for a in range(dims)]
    for n, *at in itertools.product(range(len(x)), *map(range, outs)):
        taps = []
        for offset in itertools.product(range(kernel), repeat=dims):
            p = [i * stride - padding + o * dilation for i, o in zip(at, offset, strict=True)]
            if all(0 <= q < size for q, size in zip(p, x.shape[1:-1], strict=True)):
                taps.append(tuple(p))
        yield (n, *at), taps
    return


def _naive_max(x, kernel, stride, padding, dilation, ceil_mode):
    windows = list(_naive_windows(x, kernel, stride, padding, dilation, ceil_mode))
    shape = tuple(np.max([at for at, _ in windows], axis=0) + 1)
    y, indices = np.empty((*shape, x.shape[-1])), np.empty((*shape, x.shape[-1]), int)
    for (n, *at), taps in windows:
        for c in range(x.shape[-1]):
            values = [x[(n, *p, c)] for p in taps]
            best = int(np.argmax(values))  # the first of equals
            y[(n, *at, c)] = values[best]
            indices[(n, *at, c)] = np.ravel_multi_index((*taps[best], c), x.shape[1:])
    return y, indices


MAX_SETTINGS = [
    # kernel, stride, padding, dilation, ceil_mode
    (2, None, 0, 1, False),
    (2, None, 0, 1, True),
    (3, 2, 1, 1, False),
    (3, 2, 1, 1, True),
    (3, 1, 1, 1, False),
    (2, 3, 0, 1, True),
    (1, 1, 0, 1, False),
    (2, 1, 0, 2, False),
    (3, 1, 1, 2, False),
    (2, 2, 1, 3, True),
]
each_max = pytest.mark.parametrize("setting", MAX_SETTINGS, ids=str)
each_dims = pytest.mark.parametrize("dims", [1, 2, 3])


@each_dims
@each_max
def test_max_pool(dims, setting):
    kernel, stride, padding, dilation, ceil_mode = setting
    for batch, channels in ((2, 3), (1, 1), (1, 17)):
        x = spread(batch, *SIZES[dims], channels)
        y, indices = MAX[dims](x, kernel, stride, padding, dilation, ceil_mode, True)
        expected = _naive_max(x, kernel, stride or kernel, padding, dilation, ceil_mode)
        np.testing.assert_array_equal(y.numpy(), expected[0])
        np.testing.assert_array_equal(indices.numpy(), expected[1])
        without = MAX[dims](Tensor(x), kernel, stride, padding, dilation, ceil_mode)
        np.testing.assert_array_equal(without.numpy(), expected[0])


@each_dims
@each_max
def test_max_pool_gradient(dims, setting):
    kernel, stride, padding, dilation, ceil_mode = setting
    check_gradient(
        lambda x: MAX[dims](x, kernel, stride, padding, dilation, ceil_mode),
        spread(2, *SIZES[dims], 3),
        rtol=1e-9,
    )


def test_max_pool_with_a_setting_for_each_axis():
    x = spread(2, 9, 8, 3)
    settings = {"kernel_size": (3, 2), "stride": (1, 2), "padding": (1, 0), "dilation": (2, 1)}
    y = P.max_pool2d(x, **settings).numpy()
    assert y.shape == (2, 7, 4, 3)
    wide = np.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)), constant_values=-np.inf)
    for i, j in itertools.product(range(7), range(4)):
        window = wide[:, i : i + 5 : 2, 2 * j : 2 * j + 2]
        np.testing.assert_array_equal(y[:, i, j], window.max(axis=(1, 2)))
    check_gradient(lambda x: P.max_pool2d(x, **settings), x, rtol=1e-9)


def test_first_of_equals_has_the_gradient():
    x = np.ones((1, 4, 4, 2))
    (gx,) = run(lambda x: P.max_pool2d(x, 2), x, gy=np.full((1, 2, 2, 2), 3.0))[1]
    expected = np.zeros((1, 4, 4, 2))
    expected[:, ::2, ::2] = 3
    np.testing.assert_array_equal(gx, expected)


@pytest.mark.parametrize("channels", [1, 8, 16, 21])
@pytest.mark.parametrize("size", [(4, 6), (5, 6), (6, 7)])
def test_gradient_of_windows_side_by_side(size, channels):
    x = spread(2, *size, channels)
    gy = normal(2, size[0] // 2, size[1] // 2, channels)
    expected = np.zeros(x.shape)
    for n, i, j, c in np.ndindex(gy.shape):
        window = x[n, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, c]
        h, w = np.unravel_index(window.argmax(), (2, 2))
        expected[n, 2 * i + h, 2 * j + w, c] = gy[n, i, j, c]
    for dtype in (np.float32, np.float64):
        (gx,) = run(lambda x: P.max_pool2d(x, 2), x.astype(dtype), gy=gy)[1]
        np.testing.assert_array_equal(gx, expected.astype(dtype))


def test_windows_of_minus_infinity_still_have_a_position():
    x = np.full((1, 3, 3, 1), -np.inf)
    y, indices = P.max_pool2d(x, 2, 2, 1, return_indices=True)
    assert (y.numpy() == -np.inf).all()
    assert indices.numpy().reshape(-1).tolist() == [0, 1, 3, 4]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nan_in_a_window_wins(dtype):
    x = np.arange(32, dtype=dtype).reshape(1, 4, 4, 2)
    x[0, 0, 1, 0] = np.nan
    x[0, 3, 3, 1] = np.nan
    y, indices = P.max_pool2d(x, 2, return_indices=True)
    lost = np.isnan(y.numpy())
    assert np.argwhere(lost).tolist() == [[0, 0, 0, 0], [0, 1, 1, 1]]
    assert indices.numpy()[lost].tolist() == [2, 31]


def test_padding_is_never_the_maximum():
    y = P.max_pool2d(-np.ones((1, 3, 3, 1)), 3, 1, 1)
    assert (y.numpy() == -1).all()


def test_indices_are_flat_positions_inside_each_image():
    x = np.zeros((2, 4, 6, 3))
    x[1, 3, 2, 1] = 5
    indices = P.max_pool2d(x, 2, return_indices=True)[1]
    assert not indices.requires_grad
    assert indices.dtype == np.int32
    assert indices.numpy()[1, 1, 1, 1] == (3 * 6 + 2) * 3 + 1


def test_indices_can_be_changed_without_harm_to_backward():
    x = Tensor(spread(1, 4, 4, 1), requires_grad=True)
    y, indices = P.max_pool2d(x, 2, return_indices=True)
    indices.data[:] = 0
    y.sum().backward()
    assert (x.grad.reshape(2, 2, 2, 2).sum(axis=(1, 3)) == 1).all()


def test_max_pool_any_number_of_threads(threads):
    x = normal(2, 40, 41, 5).astype(np.float32)
    check_threads(threads, lambda x: P.max_pool2d(x, 3, 2, 1), x)
    check_threads(threads, lambda x: P.max_pool3d(x.reshape(1, 8, 10, 41, 5), 2), x)


@pytest.mark.parametrize("channels", [1, 3, 16, 17, 40])
def test_float32(channels):
    for f in (P.max_pool2d, P.avg_pool2d):
        check_float32(lambda x, f=f: f(x, 3, 2, 1), spread(2, 9, 7, channels), rtol=1e-6)


def _average_by_hand(x, kernel, stride, padding, ceil_mode, include):
    """Every window's sum over the number of its elements, and the padding among them."""
    windows = list(_naive_windows(x, kernel, stride, padding, 1, ceil_mode))
    y = np.empty((*(np.max([at for at, _ in windows], axis=0) + 1), x.shape[-1]))
    for (n, *at), taps in windows:
        total = sum(x[(n, *p)] for p in taps)
        counted = len(taps)
        if include:
            counted = 1
            for i, size in zip(at, x.shape[1:-1], strict=True):
                start = i * stride - padding
                counted *= sum(start + k < size + padding for k in range(kernel))
        y[(n, *at)] = total / counted
    return y


AVERAGE_SETTINGS = [
    # kernel, stride, padding, ceil_mode, count_include_pad
    (2, None, 0, False, True),
    (2, None, 0, True, True),
    (3, 2, 1, False, True),
    (3, 2, 1, True, True),
    (3, 2, 1, True, False),
    (3, 1, 1, False, False),
    (4, 3, 2, True, True),
    (1, 2, 0, False, True),
]
each_average = pytest.mark.parametrize("setting", AVERAGE_SETTINGS, ids=str)


@each_dims
@each_average
def test_avg_pool(dims, setting):
    kernel, stride, padding, ceil_mode, include = setting
    for batch, channels in ((2, 3), (1, 1), (1, 17)):
        x = normal(batch, *SIZES[dims], channels)
        y = AVERAGE[dims](x, kernel, stride, padding, ceil_mode, include).numpy()
        expected = _average_by_hand(x, kernel, stride or kernel, padding, ceil_mode, include)
        np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-14)


@each_dims
@each_average
def test_avg_pool_gradient(dims, setting):
    check_gradient(lambda x: AVERAGE[dims](x, *setting), normal(2, *SIZES[dims], 3))


def test_average_of_equals_is_exact():
    y = P.avg_pool2d(np.full((1, 9, 9, 5), 0.1, np.float32), 3).numpy()
    np.testing.assert_allclose(y, np.float32(0.1), rtol=1.2e-7)
    assert (P.avg_pool2d(np.ones((1, 9, 9, 5), np.float32), 3).numpy() == 1).all()


def test_avg_pool_any_number_of_threads(threads):
    check_threads(threads, lambda x: P.avg_pool2d(x, 3, 2, 1), normal(2, 40, 41, 5))


ADAPTIVE = [3, 1, (2, 5), (None, 4), (4, None), None, (7, 6), (9, 11)]


def _bins(size, out):
    out = size if out is None else out
    return [(int(np.floor(i * size / out)), int(np.ceil((i + 1) * size / out))) for i in range(out)]


@pytest.mark.parametrize("output_size", ADAPTIVE, ids=str)
def test_adaptive_pools(output_size):
    x = spread(2, 7, 6, 3)
    pair = output_size if isinstance(output_size, tuple) else (output_size,) * 2
    rows, columns = _bins(7, pair[0]), _bins(6, pair[1])
    windows = [[x[:, a:b, c:d] for c, d in columns] for a, b in rows]
    average = np.stack([np.stack([w.mean(axis=(1, 2)) for w in row], 1) for row in windows], 1)
    highest = np.stack([np.stack([w.max(axis=(1, 2)) for w in row], 1) for row in windows], 1)
    y = P.adaptive_avg_pool2d(x, output_size).numpy()
    np.testing.assert_allclose(y, average, rtol=1e-12)
    y, indices = P.adaptive_max_pool2d(x, output_size, return_indices=True)
    np.testing.assert_array_equal(y.numpy(), highest)
    flat = indices.numpy().reshape(2, -1)
    np.testing.assert_array_equal(
        np.take_along_axis(x.reshape(2, -1), flat, 1), y.numpy().reshape(2, -1)
    )
    check_gradient(lambda x: P.adaptive_avg_pool2d(x, output_size), x)
    check_gradient(lambda x: P.adaptive_max_pool2d(x, output_size), x, rtol=1e-9)


def test_average_over_a_large_image_stays_accurate():
    x = (1 + normal(1, 300, 300, 3)).astype(np.float32)
    y = P.adaptive_avg_pool2d(x, 1).numpy()
    np.testing.assert_allclose(y, x.mean(axis=(1, 2), keepdims=True, dtype=float), rtol=3e-6)


def test_unpooling_what_was_pooled_keeps_the_maxima():
    for kernel, stride, padding in ((2, 2, 0), (3, 1, 1), (3, 2, 1)):
        x = spread(2, 6, 8, 5)
        y, indices = P.max_pool2d(x, kernel, stride, padding, return_indices=True)
        back = P.max_unpool2d(y, indices, kernel, stride, padding, output_size=(6, 8)).numpy()
        kept = back != 0
        np.testing.assert_array_equal(back[kept], x[kept])
        assert np.array_equal(np.unique(back[kept]), np.unique(y.numpy()))


def test_unpool_writes_the_last_of_several():
    x = np.arange(1.0, 5).reshape(1, 2, 2, 1)
    indices = np.array([7, 3, 7, 0]).reshape(1, 2, 2, 1)
    y, (gx,) = run(
        lambda x: P.max_unpool2d(x, indices, 2), x, gy=np.arange(16.0).reshape(1, 4, 4, 1)
    )
    expected = np.zeros(16)
    expected[[7, 3, 0]] = 3, 2, 4
    np.testing.assert_array_equal(y.reshape(-1), expected)
    assert gx.reshape(-1).tolist() == [0, 3, 7, 0]


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8])
def test_unpool_gradient(dtype):
    indices = np.random.default_rng(0).integers(0, 6 * 4 * 3, (2, 3, 2, 3)).astype(dtype)
    check_gradient(lambda x: P.max_unpool2d(x, indices, 2), normal(2, 3, 2, 3))


def test_unpool_any_number_of_threads(threads):
    x = normal(5, 8, 9, 3)
    indices = np.random.default_rng(0).integers(0, 16 * 18 * 3, x.shape)
    check_threads(threads, lambda x: P.max_unpool2d(x, indices, 2), x)


def test_unpool_output_size():
    x, indices = np.ones((2, 2, 3, 1)), np.zeros((2, 2, 3, 1), int)
    assert P.max_unpool2d(x, indices, 3, 2, 1).shape == (2, 3, 5, 1)
    assert P.max_unpool2d(x, indices, 3, 2, 1, (4, 6)).shape == (2, 4, 6, 1)
    assert P.max_unpool2d(x, indices, 3, 2, 1, (2, 2, 4, 1)).shape == (2, 2, 4, 1)


@pytest.mark.parametrize("output_size", [(5, 5), (3, 7), (3,), (2, 3, 5, 2), (1, 3, 5, 1)], ids=str)
def test_unpool_refuses_other_sizes(output_size):
    x, indices = np.ones((2, 2, 3, 1)), np.zeros((2, 2, 3, 1), int)
    with pytest.raises(
        ValueError, match=r"max_unpool2d: output_size must be .* away from \(3, 5\)"
    ):
        P.max_unpool2d(x, indices, 3, 2, 1, output_size)


def test_unpool_checks_its_indices():
    x = np.ones((1, 2, 2, 1))
    with pytest.raises(TypeError, match="max_unpool2d: indices must be integers, such as"):
        P.max_unpool2d(x, x, 2)
    with pytest.raises(ValueError, match=r"max_unpool2d: indices must have the shape of x, \(1, 2"):
        P.max_unpool2d(x, np.zeros((1, 2, 1, 1), int), 2)
    for wrong in (-1, 16):
        indices = np.full((1, 2, 2, 1), wrong)
        with pytest.raises(ValueError, match=rf"from 0 to 15, .* from {wrong} to {wrong}\. Pass"):
            P.max_unpool2d(x, indices, 2)


POOLS = [*MAX.items(), *AVERAGE.items()]


@pytest.mark.parametrize(
    ("dims", "function"), POOLS, ids=lambda value: getattr(value, "__name__", "")
)
def test_arguments_are_checked(dims, function):
    name, x = function.__name__, np.ones((1, *(5,) * dims, 2))
    layout = {1: "N, L, C", 2: "N, H, W, C", 3: "N, D, H, W, C"}[dims]
    with pytest.raises(ValueError, match=rf"{name}: x must have shape \({layout}\), but has shape"):
        function(x[0], 2)
    with pytest.raises(TypeError, match=rf"{name}: x must be floating, but has dtype int64"):
        function(x.astype(np.int64), 2)
    for bad in (0, 2.5, (2,) * (dims + 1), "2"):
        with pytest.raises(ValueError, match=rf"{name}: kernel_size must be .* >= 1, but is"):
            function(x, bad)
    with pytest.raises(ValueError, match=rf"{name}: stride must be .* >= 1, but is 0"):
        function(x, 2, 0)
    with pytest.raises(ValueError, match=rf"{name}: padding must be .* >= 0, but is -1"):
        function(x, 2, 1, -1)
    with pytest.raises(ValueError, match=rf"{name}: padding must be at most half of the kernel"):
        function(x, 2, 1, 2)
    with pytest.raises(
        ValueError, match=rf"{name}: a window of 6 .* into an axis of 5 with padding 0"
    ):
        function(x, 6)


def test_dilation_is_checked():
    x = np.ones((1, 2, 2, 1))
    with pytest.raises(ValueError, match="max_pool2d: dilation must be an integer or 2 integers"):
        P.max_pool2d(x, 1, 1, 0, dilation=0)
    with pytest.raises(ValueError, match="max_pool2d: some windows would contain nothing but padd"):
        P.max_pool2d(x, 2, 1, 1, dilation=3)


@pytest.mark.parametrize("function", [P.adaptive_avg_pool2d, P.adaptive_max_pool2d])
def test_adaptive_arguments_are_checked(function):
    name = function.__name__
    with pytest.raises(ValueError, match=rf"{name}: x must have shape \(N, H, W, C\)"):
        function(np.ones((2, 3, 4)), 1)
    for bad in (0, (1, 2, 3), (1.5, 2), "ab"):
        with pytest.raises(ValueError, match=rf"{name}: output_size must be an integer or 2"):
            function(np.ones((1, 4, 4, 1)), bad)


def test_an_empty_batch_stays_empty():
    x = np.ones((0, 4, 4, 3), np.float32)
    y, indices = P.max_pool2d(x, 2, return_indices=True)
    assert y.shape == indices.shape == (0, 2, 2, 3)
    assert P.avg_pool2d(x, 2).shape == (0, 2, 2, 3)
    assert P.max_unpool2d(y, indices, 2).shape == (0, 4, 4, 3)


def test_input_that_is_not_contiguous():
    x = spread(2, 3, 6, 8)
    moved = Tensor(x).transpose(0, 2, 3, 1)
    expected = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    for f in (P.max_pool2d, P.avg_pool2d):
        np.testing.assert_array_equal(f(moved, 2).numpy(), f(expected, 2).numpy())


def test_without_recording_the_result_is_the_same():
    x = Tensor(spread(2, 6, 8, 5), requires_grad=True)
    with no_grad():
        y = P.max_pool2d(x, 3, 2, 1)
    assert not y.requires_grad
    np.testing.assert_array_equal(y.numpy(), P.max_pool2d(x, 3, 2, 1).numpy())


@each_dims
@each_max
def test_max_pool_against_torch(dims, setting):
    torch = pytest.importorskip("torch")
    kernel, stride, padding, dilation, ceil_mode = setting
    theirs = getattr(torch.nn.functional, f"max_pool{dims}d")
    x = normal(2, *SIZES[dims], 3)
    leaf = to_torch(torch, x).requires_grad_()
    expected, indices = theirs(leaf, kernel, stride, padding, dilation, ceil_mode, True)
    gy = normal(*from_torch(expected).shape, seed=1)
    expected.backward(to_torch(torch, gy))
    ours, positions = MAX[dims](x, kernel, stride, padding, dilation, ceil_mode, True)
    np.testing.assert_array_equal(ours.numpy(), from_torch(expected))
    np.testing.assert_array_equal(positions.numpy() // 3, from_torch(indices))
    np.testing.assert_array_equal(positions.numpy() % 3, np.broadcast_to([0, 1, 2], ours.shape))
    y, (gx,) = run(lambda x: MAX[dims](x, kernel, stride, padding, dilation, ceil_mode), x, gy=gy)
    np.testing.assert_allclose(gx, from_torch(leaf.grad), rtol=1e-13, atol=1e-14)


@each_dims
@each_average
def test_avg_pool_against_torch(dims, setting):
    torch = pytest.importorskip("torch")
    x = normal(2, *SIZES[dims], 3)
    theirs = getattr(torch.nn.functional, f"avg_pool{dims}d")
    y = AVERAGE[dims](x, *setting).numpy()
    expected = from_torch(theirs(to_torch(torch, x), *setting))
    np.testing.assert_allclose(y, expected, rtol=1e-13, atol=1e-15)
