"""The walk back: gradients that meet, what functions must return, deep graphs, what is let go."""

import gc
import itertools
import subprocess
import sys
import weakref

import numpy as np
import pytest
from checking import check_derivative

from minidl import Function, Tensor, apply, no_grad
from minidl import functional as F


def _normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def _leaf(array, **options):
    return Tensor(array, requires_grad=True, **options)


def test_gradients_accumulate():
    x = _leaf([1.0, 2.0])
    (x * x).sum().backward()
    first = x.grad
    (3 * x).sum().backward()
    np.testing.assert_array_equal(x.grad, [5, 7])
    np.testing.assert_array_equal(first, [2, 4])
    x.grad = None
    x.sum().backward()
    np.testing.assert_array_equal(x.grad, [1, 1])


def test_gradients_without_axes_are_arrays():
    x = _leaf(3.0)
    (x * x).backward()
    assert isinstance(x.grad, np.ndarray) and x.grad.shape == ()
    (x * x).backward()
    assert isinstance(x.grad, np.ndarray)
    x.data -= x.grad
    assert x.item() == -9


def test_backward_of_a_leaf():
    x = _leaf([[2.0]])
    x.backward()
    x.backward(np.float32([[3]]))
    np.testing.assert_array_equal(x.grad, [[4]])


def test_gradient_may_be_a_tensor_or_a_list():
    x = _leaf([1.0, 2.0])
    (x * 2).backward(Tensor([1.0, 10.0]))
    (x * 2).backward([1, 10])
    np.testing.assert_array_equal(x.grad, [4, 40])


def test_diamond():
    """Every node is visited once, after all that used its result."""
    visits = []

    class Watched(Function):
        def forward(self, x):
            return x + 0

        def backward(self, gy):
            visits.append(gy.copy())
            return (gy,)

    x = _leaf([1.0])
    h = apply(Watched(), x)
    left, right = h * 2, h * 3
    (left * right + h + right).backward()
    np.testing.assert_array_equal(x.grad, [6 * 2 + 1 + 3])
    np.testing.assert_array_equal(visits, [[16]])


def test_one_tensor_used_many_times():
    x = _leaf([3.0])
    (x * x * x + x / x - x).backward()
    np.testing.assert_allclose(x.grad, [26], rtol=1e-6)
    x = _leaf(_normal(3, 3))
    check_derivative(lambda a: a @ a + a.T, lambda a: a @ a + a.T, x.numpy())


def test_gradients_are_independent_arrays():
    class Twice(Function):
        """Returns one array for two inputs, and an input for the third."""

        def forward(self, a, b, c):
            self.c = c
            return a + b

        def backward(self, gy):
            g = gy * 2
            return g, g, self.c

    leaves = [_leaf([1.0, 2.0]) for _ in range(3)]
    apply(Twice(), *leaves).sum().backward()
    a, b, c = leaves
    x, y = _leaf([1.0]), _leaf([1.0])
    gradient = np.float32([1])
    (x + y).backward(gradient)
    arrays = [a.grad, b.grad, c.grad, c.data, x.grad, y.grad, gradient]
    for i, one in enumerate(arrays):
        assert one.flags.writeable
        assert not any(np.shares_memory(one, other) for other in arrays[:i])


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_gradients_that_meet_are_not_added_into_those_of_others(order):
    x, same = Tensor(np.ones((2, 3)), requires_grad=True), np.eye(3)
    twice, thrice = x * 2, x * 3
    # Backward of a sum hands one array to both; that of `linear` makes one of its own.
    branches = twice + thrice, F.linear(twice, same), F.linear(twice, same) * 5
    total = branches[order[0]] + branches[order[1]] + branches[order[2]]
    (total * np.arange(3)).sum().backward()
    np.testing.assert_array_equal(x.grad, [[0, 17, 34]] * 2)


def test_gradient_has_the_dtype_of_its_leaf():
    x, y = _leaf(np.float32([1, 2])), _leaf(np.float64([3, 4]))
    (x * y).sum().backward()
    assert (x.grad.dtype, y.grad.dtype) == (np.float32, np.float64)
    x = _leaf(np.float32([1, 2]))
    (x * np.float64([3, 4])).sum().backward()
    assert x.grad.dtype == np.float32


def test_backward_twice():
    x = _leaf([1.0])
    y = x * x
    y.backward()
    with pytest.raises(RuntimeError, match="has been walked before and was released"):
        y.backward()
    h = x * 2
    (h * h).backward()
    x.grad = None
    with pytest.raises(RuntimeError, match="sum the losses and call backward once"):
        (h * 3).backward()
    assert x.grad is None


def test_backward_of_more_than_one_element():
    x = _leaf([1.0, 2.0])
    with pytest.raises(ValueError, match=r"the tensor has shape \(2,\), not a single element"):
        (x * x).backward()
    with pytest.raises(ValueError, match=r"gradient has shape \(1,\), but the tensor \(2,\)"):
        (x * x).backward([1.0])


def test_backward_of_what_was_not_recorded():
    for y in (Tensor([1.0]), Tensor([1.0]) * 2, _leaf([1.0]).detach()):
        with pytest.raises(RuntimeError, match="nothing leads from here to a tensor with"):
            y.backward()
    with no_grad():
        y = _leaf([1.0]) * 2
    with pytest.raises(RuntimeError, match=r"compute outside of no_grad\(\)"):
        y.backward()


class _Returns(Function):
    def __init__(self, *parts):
        self.parts = parts

    def forward(self, *inputs):
        return inputs[0] * 1

    def backward(self, gy):
        return self.parts


def test_function_that_returns_no_gradient():
    with pytest.raises(RuntimeError, match=r"_Returns\.backward must return .*\(2,\).* None"):
        apply(_Returns(None), _leaf([1.0, 2.0])).sum().backward()


def test_function_that_returns_a_gradient_of_another_shape():
    message = r"_Returns\.backward must return a gradient of shape \(2,\), but returned \(3,\)"
    with pytest.raises(RuntimeError, match=message):
        apply(_Returns(np.zeros(3)), _leaf([1.0, 2.0])).sum().backward()


def test_function_that_returns_too_few_gradients():
    with pytest.raises(RuntimeError, match=r"_Returns\.backward must return a tuple.*2, but.* 1"):
        apply(_Returns(np.zeros(1)), _leaf([1.0]), _leaf([1.0])).sum().backward()


def test_function_that_returns_a_bare_array():
    class Bare(_Returns):
        def backward(self, gy):
            return gy

    with pytest.raises(
        RuntimeError, match=r"Bare\.backward must return a tuple .* returned ndarray"
    ):
        apply(Bare(), _leaf([1.0])).sum().backward()


def test_missing_methods_of_a_function():
    with pytest.raises(NotImplementedError, match="Function has no forward"):
        apply(Function(), [1.0])
    with pytest.raises(NotImplementedError, match="Function has no backward"):
        Function().backward(np.ones(1))


def test_function_knows_what_is_wanted():
    class Asks(_Returns):
        def forward(self, *inputs):
            self.seen = self.needs, self.records
            return inputs[0] * 1

    asks = Asks()
    apply(asks, _leaf([1.0]), Tensor([1.0]), 2.0)
    assert asks.seen == ((True, False, False), True)
    asks = Asks()
    with no_grad():
        apply(asks, _leaf([1.0]))
    assert asks.seen == ((False,), False)


def test_gradients_of_nobody_are_not_asked_for():
    x = _leaf([1.0])
    y = apply(_Returns(np.ones(1, np.float32), None), x, Tensor([1.0]))
    y.backward()
    np.testing.assert_array_equal(x.grad, [1])


# ---- deep graphs and memory ----------------------------------------------------------------


def test_a_deep_chain_is_walked_without_recursion():
    x = _leaf([1.0])
    y = x
    for _ in range(50_000):
        y = y + 1
    y.backward()
    np.testing.assert_array_equal(x.grad, [1])


DROP_A_DEEP_CHAIN = """
import threading
from minidl import Tensor
def drop():
    x = Tensor([1.0], requires_grad=True)
    y = x
    for _ in range(50_000):
        y = y + 1
    del y
    assert x.data.flags.writeable
drop()
threading.stack_size(256 * 1024)
thread = threading.Thread(target=drop)
thread.start()
thread.join()
print("alive")
"""


def test_a_deep_chain_is_dropped_without_recursion():
    result = subprocess.run(
        [sys.executable, "-c", DROP_A_DEEP_CHAIN], capture_output=True, text=True, timeout=60
    )
    assert result.stdout == "alive\n", result.stderr[-500:]


def test_memory_is_released_while_walking():
    """When the first operation is visited, what the later ones saved is gone."""
    alive = []

    class Watch(Function):
        def forward(self, x):
            self.saved = np.ones(1000)
            saved.append(weakref.ref(self.saved))
            return x * 1

        def backward(self, gy):
            alive.append(sum(ref() is not None for ref in saved))
            return (gy * 1,)

    saved = []
    y = _leaf([1.0])
    for _ in range(5):
        y = apply(Watch(), y)
    functions = [weakref.ref(y._node.function)]
    y.backward()
    assert alive == [5, 4, 3, 2, 1]
    assert sum(ref() is not None for ref in saved) == 0
    assert functions[0]() is None


def test_intermediate_gradients_are_released_while_walking():
    alive = []

    class Watch(Function):
        def forward(self, x):
            return x * 1

        def backward(self, gy):
            alive.append(sum(ref() is not None for ref in sent))
            result = gy * 2
            sent.append(weakref.ref(result))
            return (result,)

    sent = []
    y = _leaf([1.0])
    for _ in range(5):
        y = apply(Watch(), y)
    y.backward()
    assert max(alive) <= 1


def test_nothing_is_saved_without_recording():
    class Watch(Function):
        def forward(self, x):
            self.saved = np.ones(10)
            saved.append(weakref.ref(self))
            return x * 1

    saved = []
    with no_grad():
        y = apply(Watch(), _leaf([1.0]))
    assert saved[0]() is None and y.item() == 1


def test_garbage_collection_in_the_middle_of_recording():
    """A node in a reference cycle is collected at any moment, also while another is made."""
    script = """
import gc
from minidl import Tensor
gc.set_threshold(1)
x = Tensor([1.0], requires_grad=True)
x.data
for _ in range(3000):
    y = x * x
    cycle = [y]
    cycle.append(cycle)
print("alive")
"""
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
    )
    assert result.stdout == "alive\n", result.stderr[-500:]


def test_nodes_in_a_cycle_let_go_of_their_leaves():
    x = _leaf([1.0])
    array = x.data
    cycle = [x * x]
    cycle.append(cycle)
    assert not array.flags.writeable
    del cycle
    gc.collect()
    assert array.flags.writeable
