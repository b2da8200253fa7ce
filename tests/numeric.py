"""Derivatives by differences, of plain functions of arrays; shares no code with minidl."""

import numpy as np


def directional(f, inputs, which, direction, step=1e-5):
    """Derivative of the number ``f(*inputs)`` when input `which` moves along `direction`.

    Central differences at two step widths, extrapolated: the error falls with step ** 4.
    """

    def slope(width):
        moved = [list(inputs), list(inputs)]
        for values, sign in zip(moved, (1, -1), strict=True):
            values[which] = inputs[which] + sign * width * direction
        return (f(*moved[0]) - f(*moved[1])) / (2 * width)

    return (4 * slope(step / 2) - slope(step)) / 3


def difference(f, inputs, which, direction):
    """``f`` with input `which` moved by the whole of `direction`, minus ``f``.

    For an f that is linear in that input this is its derivative without any error of its own.
    """
    moved = list(inputs)
    moved[which] = inputs[which] + direction
    return f(*moved) - f(*inputs)


def gradient(f, inputs, which, step=1e-6):
    """All partial derivatives, one after another."""
    x = inputs[which]
    result = np.zeros(x.shape)
    for at in np.ndindex(*x.shape):
        direction = np.zeros(x.shape)
        direction[at] = 1
        result[at] = directional(f, inputs, which, direction, step)
    return result
