"""Update rules of optimisers: one pass over a parameter, its gradient and its state, in place.

Arrays are flat and of one dtype, and so are the numbers passed along, or single precision would be
computed in double. Tasks are blocks of `BLOCK` elements.
"""

import numpy as np

from minidl.kernels import parallel, simd
from minidl.kernels.jit import kernel

BLOCK = 8192  # elements; five arrays of them fit into a second-level cache


@kernel
def _part(x, start, stop):
    """The elements of a range of tasks; none of an empty array, which stands for no state.

    Loops over them start at zero: of one that starts elsewhere Numba does not know that its index
    is never negative, which would count from the end, and does not vectorise it.
    """
    return x[start * BLOCK : stop * BLOCK]


@kernel
def _sgd(start, stop, p, g, velocity, lr, decay, momentum, keep, nesterov):
    """Overwrites p and velocity; an empty velocity means no momentum."""
    for i in range(start * BLOCK, min(stop * BLOCK, p.size), simd.lanes(p)):
        some = p.size - i
        value = simd.load_some(p, i, some)
        step = simd.load_some(g, i, some) + decay * value
        if velocity.size:
            speed = momentum * simd.load_some(velocity, i, some) + keep * step
            simd.store_some(velocity, i, speed, some)
            step = step + momentum * speed if nesterov else speed
        simd.store_some(p, i, value - lr * step, some)


@kernel
def _adam(
    start, stop, p, g, mean, square, highest, shrink, decay, rate, beta1, rest1, beta2, rest2,
    correction, eps,
):  # fmt: skip
    """Overwrites p, mean, square and highest; an empty highest means no AMSGrad.

    `correction` is what the root of the square is multiplied by.
    """
    lanes = simd.lanes(p)
    for i in range(start * BLOCK, min(stop * BLOCK, p.size), lanes):
        some = p.size - i
        value = simd.load_some(p, i, some) * simd.splat(shrink)
        step = simd.load_some(g, i, some) + decay * value
        first = beta1 * simd.load_some(mean, i, some) + rest1 * step
        second = beta2 * simd.load_some(square, i, some) + rest2 * (step * step)
        simd.store_some(mean, i, first, some)
        simd.store_some(square, i, second, some)
        if highest.size:
            second = simd.maximum(simd.load_some(highest, i, some), second)
            simd.store_some(highest, i, second, some)
        root = correction * simd.sqrt(second) + simd.splat(eps)
        simd.store_some(p, i, value - rate * first / root, some)


@kernel
def _rmsprop(start, stop, p, g, square, mean, velocity, lr, decay, alpha, rest, momentum, eps):
    """Overwrites p and the states; an empty mean means not centred, velocity no momentum."""
    p, g, square = _part(p, start, stop), _part(g, start, stop), _part(square, start, stop)
    mean, velocity = _part(mean, start, stop), _part(velocity, start, stop)
    for i in range(p.size):
        step = g[i] + decay * p[i]
        square[i] = alpha * square[i] + rest * step * step
        size = square[i]
        if mean.size:
            mean[i] = alpha * mean[i] + rest * step
            size -= mean[i] * mean[i]
        step = step / (np.sqrt(size) + eps)
        if velocity.size:
            velocity[i] = momentum * velocity[i] + step
            step = velocity[i]
        p[i] -= lr * step


@kernel
def _sum_of_squares(start, stop, x, sums):
    for task in range(start, stop):
        total = 0.0
        for i in range(task * BLOCK, min((task + 1) * BLOCK, x.size)):
            total += np.float64(x[i]) * np.float64(x[i])
        sums[task] = total


def _update(rule, p: np.ndarray, g: np.ndarray, states: tuple, numbers: tuple, *flags) -> None:
    """Run `rule` on the flat arrays; a state that is None becomes an empty array."""
    none = np.empty(0, p.dtype)
    flat = [none if state is None else state.reshape(-1) for state in states]
    parallel.run(
        rule, -(-p.size // BLOCK), p.size * 1.0,
        p.reshape(-1), np.ascontiguousarray(g).reshape(-1), *flat,
        *(p.dtype.type(number) for number in numbers), *flags,
    )  # fmt: skip


def sgd(p, g, velocity, lr, weight_decay, momentum, dampening, nesterov) -> None:
    """Gradient descent; `velocity` may be None. All arrays C-contiguous, p and velocity written."""
    numbers = lr, weight_decay, momentum, 1 - dampening
    _update(_sgd, p, g, (velocity,), numbers, nesterov)


def adam(p, g, mean, square, highest, step, lr, shrink, weight_decay, betas, eps) -> None:
    """Adam's step number `step`, from 1; `highest` is None without AMSGrad.

    Before the step p is multiplied by `shrink` (the decay of AdamW).
    """
    beta1, beta2 = betas
    numbers = (
        shrink, weight_decay, lr / (1 - beta1**step), beta1, 1 - beta1, beta2, 1 - beta2,
        (1 - beta2**step) ** -0.5, eps,
    )  # fmt: skip
    _update(_adam, p, g, (mean, square, highest), numbers)


def rmsprop(p, g, square, mean, velocity, lr, weight_decay, alpha, momentum, eps) -> None:
    """RMSprop; `mean` is None if not centred, `velocity` without momentum."""
    numbers = lr, weight_decay, alpha, 1 - alpha, momentum, eps
    _update(_rmsprop, p, g, (square, mean, velocity), numbers)


def sum_of_squares(x: np.ndarray) -> float:
    """Sum of the squares of all elements, in float64 and in a fixed order."""
    x = np.ascontiguousarray(x).reshape(-1)
    sums = np.empty(-(-x.size // BLOCK))
    parallel.run(_sum_of_squares, len(sums), x.size * 1.0, x, sums)
    return float(sums.sum())
