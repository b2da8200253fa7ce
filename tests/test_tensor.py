"""The tensor: operators, indexing, reductions, dtypes, writing to its data, recording."""

import copy
import pickle
import threading
import time

import numpy as np
import pytest
from checking import check_derivative
from hypothesis import given
from hypothesis import strategies as st

import minidl as md
from minidl import Tensor, no_grad


def _normal(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def _leaf(array, **options):
    return Tensor(array, requires_grad=True, **options)


# ---- making one ----------------------------------------------------------------------------


def test_data_is_copied():
    array = np.ones(3, np.float32)
    x = Tensor(array)
    array[0] = 5
    np.testing.assert_array_equal(x.data, [1, 1, 1])
    y = Tensor(x)
    x.data[1] = 7
    np.testing.assert_array_equal(y.data, [1, 1, 1])
    values = x.numpy()
    values[2] = 9
    np.testing.assert_array_equal(x.data, [1, 7, 1])
    np.asarray(x)[0] = 3
    np.testing.assert_array_equal(x.data, [1, 7, 1])


@pytest.mark.parametrize(
    "data, dtype",
    [
        (1.5, np.float32),
        ([1.0, 2.0], np.float32),
        (np.float16([1, 2]), np.float32),
        (np.float32([1, 2]), np.float32),
        (np.float64([1, 2]), np.float64),
        (np.float64(1), np.float64),
        (np.longdouble([1]), np.float32),
        (np.array([1, 2], ">f4"), np.float32),
        (np.array([1, 2], ">f8"), np.float64),
        (np.array([1, 2], ">u2"), np.uint16),
        ([1, 2], np.int64),
        (np.uint8([1]), np.uint8),
        (True, np.bool_),
        ([], np.float32),
    ],
)
def test_dtype_of_new_tensor(data, dtype):
    x = Tensor(data)
    assert x.dtype == dtype and x.dtype.isnative
    np.testing.assert_array_equal(x.data, np.asarray(data, dtype))


@pytest.mark.parametrize("data", ["text", ["a"], [None], [1j], [object()]])
def test_data_must_be_numbers(data):
    with pytest.raises(TypeError, match="Tensor: data must be numbers, but has dtype"):
        Tensor(data)


@pytest.mark.parametrize("data", [1, [True], np.uint8([3])])
def test_integers_have_no_gradient(data):
    with pytest.raises(TypeError, match="requires_grad needs floating data, but the dtype is"):
        Tensor(data, requires_grad=True)


def test_attributes():
    x = Tensor(np.zeros((2, 3, 4), np.float32))
    assert (x.shape, x.ndim, x.size, x.dtype, len(x)) == ((2, 3, 4), 3, 24, np.float32, 2)
    assert x.is_leaf and x.grad is None and not x.requires_grad
    assert Tensor([[2.5]]).item() == 2.5 and isinstance(Tensor([2.5]).item(), float)
    assert float(Tensor([2.5])[0]) == 2.5
    assert bool(Tensor(1.0)) and not bool(Tensor([0]))
    assert Tensor(np.asfortranarray(np.ones((3, 4)))).data.flags.c_contiguous


def test_repr_shows_values_shape_and_dtype():
    text = repr(_leaf([1.0, 2.0]))
    assert text == "Tensor([1. 2.], shape=(2,), dtype=float32, requires_grad=True)"
    assert "requires_grad" not in repr(Tensor([1]))


# ---- operators -----------------------------------------------------------------------------

OPERATORS = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / b,
    "power": lambda a, b: a**b,
}
SHAPES = [
    ((3, 4), (3, 4)),
    ((3, 4), (4,)),
    ((4,), (3, 4)),
    ((3, 1), (1, 4)),
    ((2, 1, 4), (3, 1)),
    ((), (2, 3)),
    ((2, 3), ()),
    ((1,), (2, 1)),
    ((0, 3), (1, 3)),
    ((), ()),
]


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("name", OPERATORS)
def test_operator_broadcasts_both_ways(name, shapes):
    a, b = (np.asarray(np.abs(_normal(*shape, seed=i)) + 0.5) for i, shape in enumerate(shapes))
    check_derivative(OPERATORS[name], OPERATORS[name], a, b)


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("other", [2, 0.5, True, np.float64(1.5), np.float32(3), np.int64(2)])
def test_operator_with_a_number_on_either_side(name, other):
    f = OPERATORS[name]
    x = np.abs(_normal(2, 3)) + 0.5
    check_derivative(lambda t: f(t, other), lambda a: f(a, float(other)), x)
    check_derivative(lambda t: f(other, t), lambda a: f(float(other), a), x)
    for dtype in (np.float32, np.float64):
        assert f(Tensor(x.astype(dtype)), other).dtype == dtype
        assert f(other, Tensor(x.astype(dtype))).dtype == dtype


@pytest.mark.parametrize("name", OPERATORS)
def test_operator_with_an_array_on_either_side(name):
    f = OPERATORS[name]
    x, other = np.abs(_normal(2, 3)) + 0.5, np.abs(_normal(3, seed=5)) + 0.5
    check_derivative(lambda t: f(t, other), lambda a: f(a, other), x)
    check_derivative(lambda t: f(other, t), lambda a: f(other, a), x)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_integers_stay_integers(dtype):
    x = Tensor(np.array([1, 2, 3], dtype))
    for y in (x + 1, 1 + x, x * np.int64(2), x - True, x[1:], -x, x.reshape(3, 1), x.max()):
        assert y.dtype == dtype and not y.requires_grad
    np.testing.assert_array_equal((2 * x + 1).data, [3, 5, 7])
    assert (x + x).dtype == dtype
    assert (x * 0.5).dtype.kind == "f"


@pytest.mark.parametrize("name", ["neg", "abs", "exp", "log", "sqrt", "tanh", "sigmoid", "relu"])
def test_function_of_each_element(name):
    methods = {"neg": lambda x: -x, "abs": abs}
    plain = {
        "neg": lambda x: -x,
        "abs": np.abs,
        "exp": np.exp,
        "log": np.log,
        "sqrt": np.sqrt,
        "tanh": np.tanh,
        "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
        "relu": lambda x: np.where(x > 0, x, 0),
    }
    x = _normal(3, 5)
    x = np.abs(x) + 0.1 if name in ("log", "sqrt") else x
    check_derivative(methods.get(name, lambda x: getattr(x, name)()), plain[name], x)
    y = getattr(Tensor(x.astype(np.float32)), f"__{name}__" if name in methods else name)()
    assert y.dtype == np.float32


def test_abs_method_is_the_operator():
    np.testing.assert_array_equal(Tensor([-1.0, 2.0]).abs().data, [1, 2])


def test_values_at_the_edge_of_the_range():
    x = _leaf(np.float32([-1e4, -200, 0, 200, 1e4]))
    y = x.sigmoid()
    y.sum().backward()
    np.testing.assert_allclose(y.data, [0, 0, 0.5, 1, 1], atol=1e-30)
    np.testing.assert_allclose(x.grad, [0, 0, 0.25, 0, 0], atol=1e-30)
    x = _leaf(np.float32([np.nan, -np.inf, np.inf, 0, -0.0]))
    y = x.relu()
    y.sum().backward()
    np.testing.assert_array_equal(y.data, [np.nan, 0, np.inf, 0, 0])
    np.testing.assert_array_equal(x.grad[1:], [0, 1, 0, 0])
    x = _leaf([0.0, -3.0])
    x.abs().sum().backward()
    np.testing.assert_array_equal(x.grad, [0, -1])


def test_powers_of_zero_have_finite_slopes():
    x = _leaf([0.0, 0.0, 0.0, -2.0])
    y = x ** np.float32([0, 1, 2, 3])
    y.sum().backward()
    np.testing.assert_array_equal(y.data, [1, 0, 0, -8])
    np.testing.assert_array_equal(x.grad, [0, 1, 0, 12])
    exponent = _leaf([1.0, 2.0])
    (Tensor([0.0, 0.0]) ** exponent).sum().backward()
    np.testing.assert_array_equal(exponent.grad, [0, 0])
    x = _leaf([0.0, 3.0])
    (x**2).sum().backward()
    np.testing.assert_array_equal(x.grad, [0, 6])


@pytest.mark.parametrize("low, high", [(-0.5, 0.7), (None, 0.2), (0.1, None), (1, 1)])
def test_clip(low, high):
    x = _normal(4, 5)
    check_derivative(lambda t: t.clip(low, high), lambda a: np.clip(a, low, high), x)
    assert Tensor(x.astype(np.float32)).clip(low, high).dtype == np.float32


def test_clip_passes_the_gradient_at_its_ends():
    x = _leaf([-1.0, 0.0, 0.5, 1.0, 2.0])
    x.clip(0, 1).sum().backward()
    np.testing.assert_array_equal(x.grad, [0, 1, 1, 1, 0])
    with pytest.raises(ValueError, match="clip: give min, max or both"):
        x.clip()


def test_astype():
    x = _leaf(np.float32([1, 2]))
    y = x.astype("float64")
    y.backward(np.array([1.0, 1e-3]))
    assert y.dtype == np.float64 and x.grad.dtype == np.float32
    np.testing.assert_array_equal(x.grad, np.float32([1, 1e-3]))
    assert Tensor([1, 2]).astype(np.float32).dtype == np.float32
    with pytest.raises(TypeError, match="astype: expected float32 or float64, got int64"):
        x.astype(np.int64)


def test_comparisons_are_plain_boolean_arrays():
    x, y = Tensor([1.0, 2.0, 3.0]), np.float32([2, 2, 2])
    np.testing.assert_array_equal(x < 2, [True, False, False])
    np.testing.assert_array_equal(x <= y, [True, True, False])
    np.testing.assert_array_equal(y > x, [True, False, False])
    np.testing.assert_array_equal(x >= Tensor(y), [False, True, True])
    assert isinstance(x > 1, np.ndarray) and (x > 1).dtype == bool


@pytest.mark.parametrize(
    "shapes",
    [
        ((2, 3), (3, 4)),
        ((3,), (3,)),
        ((3,), (3, 4)),
        ((2, 3), (3,)),
        ((5, 2, 3), (3, 4)),
        ((2, 3), (5, 3, 4)),
        ((5, 1, 2, 3), (6, 3, 4)),
        ((5, 2, 3), (3,)),
        ((3,), (5, 3, 4)),
        ((1, 2, 3), (5, 3, 1)),
        ((2, 0), (0, 3)),
    ],
    ids=str,
)
def test_matmul(shapes):
    a, b = (_normal(*shape, seed=i) for i, shape in enumerate(shapes))
    check_derivative(lambda x, y: x @ y, lambda x, y: x @ y, a, b)
    np.testing.assert_allclose((a @ Tensor(b)).data, a @ b, rtol=1e-12)
    np.testing.assert_allclose((Tensor(a) @ b).data, a @ b, rtol=1e-12)


@pytest.mark.parametrize("shapes", [((2, 3), (2, 3)), ((3,), (4,)), ((), (3,)), ((3,), ())])
def test_matmul_of_what_does_not_fit(shapes):
    a, b = (Tensor(np.ones(shape)) for shape in shapes)
    with pytest.raises(ValueError, match="matmul: shapes .* do not fit"):
        a @ b


# ---- reductions ----------------------------------------------------------------------------

AXES = [None, 0, 1, -1, (0, 2), (-1, 0), [1], np.int64(1), (0, 1, 2), ()]


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axis", AXES, ids=str)
@pytest.mark.parametrize("name", ["sum", "mean", "max", "min", "var"])
def test_reduction(name, axis, keepdims):
    x = _normal(2, 3, 4)
    plain = {"var": lambda a, **options: np.var(a, ddof=0, **options)}.get(name, getattr(np, name))
    extra = {"correction": 0} if name == "var" else {}
    numpy_axis = tuple(axis) if isinstance(axis, list) else axis
    check_derivative(
        lambda t: getattr(t, name)(axis=axis, keepdims=keepdims, **extra),
        lambda a: plain(a, axis=numpy_axis, keepdims=keepdims),
        x,
    )
    y = getattr(Tensor(x.astype(np.float32)), name)(axis=axis, keepdims=keepdims, **extra)
    assert y.dtype == np.float32


@pytest.mark.parametrize("correction", [0, 1, 2])
def test_correction_of_the_variance(correction):
    x = _normal(4, 5)
    check_derivative(
        lambda t: t.var(axis=0, correction=correction), lambda a: a.var(0, ddof=correction), x
    )
    check_derivative(lambda t: t.var(), lambda a: a.var(ddof=1), x)


@pytest.mark.parametrize("name", ["max", "min"])
def test_equal_extrema_share_the_gradient(name):
    x = _leaf([[1.0, 1.0, 1.0], [2.0, 2.0, 5.0]] if name == "max" else [[1.0] * 3, [5.0, 7.0, 7.0]])
    getattr(x, name)(axis=1).sum().backward()
    third = np.float32(1) / 3
    last = [0, 0, 1] if name == "max" else [1, 0, 0]
    np.testing.assert_allclose(x.grad, [[third] * 3, last], rtol=1e-6)


def test_argmax_is_a_plain_array():
    x = Tensor([[1.0, 3.0], [4.0, 2.0]])
    assert x.argmax() == 2
    np.testing.assert_array_equal(x.argmax(axis=1), [1, 0])
    assert isinstance(x.argmax(axis=1), np.ndarray)


# ---- shape ---------------------------------------------------------------------------------


def test_changes_of_shape():
    x = _normal(2, 3, 4)
    for f, plain in [
        (lambda t: t.reshape(4, 6), lambda a: a.reshape(4, 6)),
        (lambda t: t.reshape((6, -1)), lambda a: a.reshape(6, 4)),
        (lambda t: t.reshape(-1), np.ravel),
        (lambda t: t.flatten(1), lambda a: a.reshape(2, 12)),
        (lambda t: t.flatten(), np.ravel),
        (lambda t: t.transpose(), np.transpose),
        (lambda t: t.T, np.transpose),
        (lambda t: t.transpose(1, 2, 0), lambda a: a.transpose(1, 2, 0)),
        (lambda t: t.transpose((0, -1, 1)), lambda a: a.transpose(0, 2, 1)),
        (lambda t: t.unsqueeze(1), lambda a: a[:, None]),
        (lambda t: t.unsqueeze(-1), lambda a: a[..., None]),
        (lambda t: t.unsqueeze(0).squeeze(0), lambda a: a),
        (lambda t: t.T.reshape(3, 8), lambda a: a.T.reshape(3, 8)),
        (lambda t: t[:1].squeeze(0), lambda a: a[0]),
    ]:
        check_derivative(f, plain, x)
    with pytest.raises(ValueError, match=r"squeeze: axis 1 of shape \(2, 3, 4\) is not 1"):
        Tensor(x).squeeze(1)


def test_results_are_contiguous():
    x = _leaf(_normal(3, 4, 5))
    for y in (x.T, x[:, 1], x[::2, ::-1], x.transpose(1, 0, 2), x.T.reshape(60)):
        assert y.data.flags.c_contiguous


# ---- indexing ------------------------------------------------------------------------------

MASK = np.random.default_rng(3).random((4, 5)) > 0.5
INDICES = {
    "integer": 2,
    "negative": -1,
    "numpy integer": np.int64(1),
    "slice": slice(1, 3),
    "negative step": slice(None, None, -2),
    "empty": slice(2, 2),
    "tuple": (1, 2, 3),
    "ellipsis": (..., 0),
    "ellipsis alone": ...,
    "new axis": (None, slice(None), None, 1),
    "slices": (slice(1, None), slice(None, None, 2), slice(-2, None)),
    "mask": MASK,
    "mask of rows": np.array([True, False, True, True]),
    "mask and slice": (np.array([True, False, True, False]), slice(1, 3)),
    "list": [0, 2],
    "empty list": [],
    "list with repeats": [1, 1, 3, 1],
    "array": np.array([[0, 1], [1, 3]]),
    "array with repeats": np.array([2, 2, 2, -2]),
    "tuple of lists": ([0, 0, 1], [2, 2, 4]),
    "tuple in a tuple": ((0, 0, 1), 1),
    "tuple of arrays": (np.array([3, 3]), slice(None), np.array([1, 1])),
    "arrays that broadcast": (np.array([[0], [0]]), np.array([1, 2, 1])),
    "range": range(3, 0, -1),
    "range in a tuple": (slice(None), range(0, 4, 2)),
    "mask and array": (MASK, np.array([0] * int(MASK.sum()))),
    "unsigned": np.array([1, 1], np.uint8),
    "zero-dimensional": np.array(2),
    "true": True,
}


@pytest.mark.parametrize("name", INDICES)
def test_indexing(name):
    index = INDICES[name]
    plain = index
    if isinstance(index, tuple):
        plain = tuple(list(i) if isinstance(i, tuple | range) else i for i in index)
    elif isinstance(index, range):
        plain = list(index)
    check_derivative(lambda t: t[index], lambda a: a[plain], _normal(4, 5, 6))


def test_index_may_be_a_tensor():
    x, index = _normal(4, 3), Tensor([1, 1, 0])
    check_derivative(lambda t: t[index], lambda a: a[[1, 1, 0]], x)
    check_derivative(lambda t: t[:, index], lambda a: a[:, [1, 1, 0]], x)


def test_index_arrays_are_copied():
    x = _leaf(np.zeros(4))
    index = np.array([0, 0])
    y = x[index]
    index[:] = 3
    y.sum().backward()
    np.testing.assert_array_equal(x.grad, [2, 0, 0, 0])


def test_iteration():
    x = _leaf(_normal(3, 2))
    rows = list(x)
    assert [row.shape for row in rows] == [(2,)] * 3
    sum(rows).sum().backward()
    np.testing.assert_array_equal(x.grad, np.ones((3, 2)))


def test_elements_cannot_be_assigned():
    x = Tensor([1.0, 2.0])
    with pytest.raises(TypeError, match="elements cannot be assigned, backward could not see it"):
        x[0] = 3


@given(data=st.data())
def test_indexing_as_numpy(data):
    """Integers and slices drawn at random, on tensors with one to four axes."""
    shape = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    x = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
    index = tuple(
        data.draw(st.one_of(st.integers(-n, n - 1), st.slices(n), st.none()))
        for n in shape[: data.draw(st.integers(0, len(shape)))]
    )
    used = sum(i is not None for i in index)
    assert used <= len(shape)
    tensor = _leaf(x)
    y = tensor[index]
    np.testing.assert_array_equal(y.data, x[index])
    y.sum().backward()
    expected = np.zeros(shape)
    expected[index] = 1
    np.testing.assert_array_equal(tensor.grad, expected)


# ---- writing to data -----------------------------------------------------------------------


def test_data_of_a_leaf_may_be_written_to():
    x = _leaf([1.0, 2.0])
    x.data[0] = 5
    x.data += 1
    np.testing.assert_array_equal(x.data, [6, 3])
    x.data = [7, 8.5]
    np.testing.assert_array_equal((x * 2).data, [14, 17])
    with pytest.raises(TypeError, match=r"Tensor\.data: expected floating data, got dtype int64"):
        x.data = np.array([1, 2])


def test_given_data_is_copied():
    x, array = Tensor([0.0]), np.float32([1])
    x.data = array
    array[0] = 2
    np.testing.assert_array_equal(x.data, [1])
    x.data[0] = 3
    assert array[0] == 2


def test_recorded_values_survive_a_write():
    w, x = _leaf([3.0]), _leaf([2.0])
    before = w.data
    y = w * x
    assert not before.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        before[0] = 10
    w.data[0] = 10  # a copy: the recorded product goes on with 3
    x.data *= 100
    y.backward()
    np.testing.assert_array_equal(x.grad, [3])
    np.testing.assert_array_equal(w.grad, [2])
    np.testing.assert_array_equal(w.data, [10])
    np.testing.assert_array_equal(x.data, [200])


@pytest.mark.parametrize("needs_grad", [True, False])
def test_constants_beside_a_recorded_leaf_are_kept_too(needs_grad):
    x, w = Tensor([2.0], requires_grad=needs_grad), _leaf([3.0])
    y = x * w
    x.data[0] = 50
    y.backward()
    np.testing.assert_array_equal(w.grad, [2])


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.reshape(-1),
        lambda x: x[:],
        lambda x: x[0:1],
        lambda x: x.transpose(0),
        lambda x: x.detach(),
        lambda x: x.clip(-9, 9),
    ],
)
@pytest.mark.parametrize("needs_grad", [True, False])
def test_what_was_computed_from_a_leaf_does_not_change_with_it(view, needs_grad):
    x, w = Tensor([2.0], requires_grad=needs_grad), _leaf([3.0])
    seen = view(x)
    y = seen * w
    x.data[0] = 50
    assert seen.item() == 2
    y.backward()
    np.testing.assert_array_equal(w.grad, [2])


def test_data_is_writable_in_place_again_after_backward():
    w = _leaf([3.0])
    array = w.data
    (w * w).sum().backward()
    assert w.data is array and array.flags.writeable


def test_data_is_writable_in_place_again_when_the_graph_is_dropped():
    w = _leaf([3.0])
    array = w.data
    y = w * w
    assert not array.flags.writeable
    del y
    assert w.data is array and array.flags.writeable


def test_update_in_place_while_a_stale_graph_lives():
    w = _leaf([1.0, 2.0])
    history = []
    for _ in range(3):
        loss = (w * w).sum()
        history.append(loss * 1)  # recorded and never walked
        loss_again = (w * w).sum()
        loss_again.backward()
        w.data -= 0.25 * w.grad
        w.grad = None
    np.testing.assert_array_equal(w.data, [0.125, 0.25])
    history[0].backward()
    np.testing.assert_array_equal(w.grad, [2, 4])


def test_computed_data_is_read_only():
    x = _leaf([1.0])
    for y in (x + 1, (x + 1).detach() + 1, Tensor([1.0]) * 2):
        with pytest.raises(ValueError, match="read-only"):
            (y.data if y.requires_grad else y._storage.view())[0] = 3
    with pytest.raises(RuntimeError, match="a computed tensor cannot be given new data"):
        (x + 1).data = [3.0]


def test_data_of_an_unrecorded_result_is_its_own():
    x = Tensor([1.0])
    y = x * 2
    y.data[0] = 9
    assert (x.item(), y.item()) == (1, 9)


def test_detach_leaves_the_graph():
    x = _leaf([2.0])
    y = (x * x).detach()
    assert y.is_leaf and not y.requires_grad
    (y * x).backward()
    np.testing.assert_array_equal(x.grad, [4])


# ---- copies of tensors ---------------------------------------------------------------------


@pytest.mark.parametrize("how", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_are_independent(how):
    x = _leaf([1.0, 2.0])
    (x * x).sum().backward()
    x.data[0] = 1  # so that a view has been handed out
    stale = x * x
    y = how(x)
    y.data[0] = 7
    np.testing.assert_array_equal(x.data, [1, 2])
    np.testing.assert_array_equal((y * 1).data, [7, 2])
    assert y.requires_grad and y.is_leaf
    np.testing.assert_array_equal(y.grad, [2, 4])
    y.grad[0] = 0
    np.testing.assert_array_equal(x.grad, [2, 4])
    assert stale.requires_grad


def test_computed_tensors_cannot_be_copied():
    with pytest.raises(TypeError, match=r"cannot be copied or pickled; use detach\(\)"):
        copy.deepcopy(_leaf([1.0]) * 2)


# ---- no_grad -------------------------------------------------------------------------------


def test_no_grad_as_a_context():
    x = _leaf([1.0])
    with no_grad():
        assert not (x * 2).requires_grad
        with no_grad():
            pass
        assert not (x * 2).requires_grad
    assert (x * 2).requires_grad
    with pytest.raises(KeyError), no_grad():
        raise KeyError
    assert (x * 2).requires_grad


def test_no_grad_as_a_decorator():
    @no_grad()
    def double(x, depth=2):
        """Its docstring."""
        return double(x, depth - 1) if depth else x * 2

    x = _leaf([1.0])
    for _ in range(2):
        assert not double(x).requires_grad
        assert (x * 2).requires_grad
    assert double.__name__ == "double" and double.__doc__ == "Its docstring."


def test_no_grad_holds_for_its_thread_only():
    x = _leaf([1.0])
    seen = {}
    inside, leave = threading.Event(), threading.Event()

    def other():
        with no_grad():
            inside.set()
            leave.wait(10)
            seen["inside"] = (x * 2).requires_grad

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait(10)
    seen["outside"] = (x * 2).requires_grad
    leave.set()
    thread.join()
    with no_grad():
        thread = threading.Thread(target=lambda: seen.update(new=(x * 2).requires_grad))
        thread.start()
        thread.join()
    assert seen == {"inside": False, "outside": True, "new": True}


def test_threads_that_train_on_one_parameter_at_a_time():
    """Recording and dropping graphs on several threads leaves no hold behind."""
    shared = Tensor(np.ones(100))
    array = shared.data
    stop = time.monotonic() + 0.3

    def work():
        while time.monotonic() < stop:
            w = _leaf(np.ones(100))
            (w * shared).sum().backward()
            np.testing.assert_array_equal(w.grad, np.ones(100))

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert array.flags.writeable and shared.data is array


def test_public_names():
    for name in ("Tensor", "Function", "apply", "no_grad", "functional"):
        assert name in md.__all__ and hasattr(md, name)
