"""The rules that name failures, on pictures small enough to see them."""

import numpy as np
import pytest

from minidl.metrics import FAILURES, constant_entropy, failure


def picture(text):
    return np.array([[int(letter) for letter in row] for row in text.split()])


NERVE = picture("0000000 0011100 0011100 0000000 0000000")
SPOTS = picture("1000001 0010000 0000000 1000010 0000000")


@pytest.mark.parametrize(
    ("prediction", "target", "expected"),
    [
        (NERVE, NERVE, None),
        (0 * NERVE, NERVE, "predict none"),
        (0 * NERVE, 0 * NERVE, None),
        (picture("0000000 0000000 0000000 0000000 0000001"), 0 * NERVE, "false highlight"),
        (SPOTS, NERVE, "separated spots"),
        # one piece in a wrong place is no spots, nor is one that holds 80 % of what was found
        (picture("1100000 1100000 0000000 0000000 0000000"), NERVE, None),
        (picture("1100000 1100000 0000000 0000000 0000001"), NERVE, None),
        (picture("1100000 1000000 0000000 0000000 0000001"), NERVE, "separated spots"),
        # corners connect
        (picture("1000000 0100000 0000000 0000000 0000000"), NERVE, None),
        # in pieces, but half of it is right
        (picture("0000000 0011000 0010000 0000000 0000001"), NERVE, None),
    ],
)
def test_each_failure_has_its_rule(prediction, target, expected):
    assert failure(prediction, target) == expected
    assert failure(prediction * 255, target > 0) == expected
    assert expected is None or expected in FAILURES


def test_shapes_must_be_alike():
    with pytest.raises(ValueError, match=r"prediction has shape \(5, 7\), target \(7, 5\)"):
        failure(NERVE, NERVE.T)


def test_the_entropy_of_a_constant_prediction():
    q = 0.07
    expected = -q * np.log(q) - (1 - q) * np.log(1 - q)
    np.testing.assert_allclose(constant_entropy([93, 7]), expected)
    np.testing.assert_allclose(constant_entropy([0.93, 0.07, 0]), expected)
    assert constant_entropy([5, 0]) == 0
