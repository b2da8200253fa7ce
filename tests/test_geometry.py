"""Windows against counting: every position is tried."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidl.geometry import Window

windows = st.builds(
    Window,
    kernel=st.integers(1, 6),
    stride=st.integers(1, 5),
    before=st.integers(0, 5),
    after=st.integers(0, 5),
    dilation=st.integers(1, 4),
)
sizes = st.integers(1, 30)


def _starts(window, size):
    """Starts of all windows that lie inside the padded axis, counted from the axis' first."""
    last = size + window.after
    starts, at = [], -window.before
    while at + (window.kernel - 1) * window.dilation < last:
        starts.append(at)
        at += window.stride
    return starts


@given(windows, sizes)
def test_out_size_counts_positions(window, size):
    assert max(window.out_size(size), 0) == len(_starts(window, size))


@given(windows, sizes)
def test_extent_is_from_the_first_tap_to_the_last(window, size):
    taps = [tap * window.dilation for tap in range(window.kernel)]
    assert window.extent == taps[-1] - taps[0] + 1


@given(windows, sizes)
def test_ceil_mode_adds_one_window_where_it_starts_inside(window, size):
    floor = window.out_size(size)
    if floor < 1:
        return
    left = size + window.before + window.after - window.extent - (floor - 1) * window.stride
    following = floor * window.stride - window.before
    expected = floor + (left > 0 and following < size)
    # A window behind the axis is never counted, not even one that floor mode has.
    if (floor - 1) * window.stride >= size + window.before:
        expected = floor - 1
    assert window.out_size(size, ceil_mode=True) == expected


@given(windows, sizes, st.integers(0, 3))
def test_in_size_is_the_inverse(window, size, extra):
    """Of all sizes that map to `size` positions it is the smallest, plus the output padding."""
    first = window.in_size(size)
    if first >= 1:
        assert window.out_size(first) == size
        assert window.out_size(first - 1) == size - 1
        assert window.out_size(first + window.stride - 1) == size
        assert window.out_size(first + window.stride) == size + 1
    assert window.in_size(size, extra) == first + extra


@given(sizes, st.integers(1, 6), st.integers(1, 5), st.integers(1, 4))
def test_same(size, kernel, stride, dilation):
    window = Window.same(size, kernel, stride, dilation)
    assert (window.kernel, window.stride, window.dilation) == (kernel, stride, dilation)
    assert window.out_size(size) == math.ceil(size / stride)
    assert 0 <= window.after - window.before <= 1
    # No more zeros than needed, unless there are none at all.
    if window.after:
        smaller = Window(kernel, stride, window.before, window.after - 1, dilation)
        assert smaller.out_size(size) < math.ceil(size / stride)


# relationships 1-7 and 15 of the guide: i, k, s, p, d -> o
@pytest.mark.parametrize(
    "i, k, s, p, d, o",
    [
        (4, 3, 1, 0, 1, 2),
        (5, 4, 1, 2, 1, 6),
        (5, 3, 1, 1, 1, 5),
        (5, 3, 1, 2, 1, 7),
        (5, 3, 2, 0, 1, 2),
        (5, 3, 2, 1, 1, 3),
        (6, 3, 2, 1, 1, 3),
        (5, 3, 1, 0, 1, 3),
        (7, 3, 1, 0, 2, 3),
    ],
)
def test_relationships_of_the_guide(i, k, s, p, d, o):
    assert Window(k, s, p, p, d).out_size(i) == o


@pytest.mark.parametrize(
    "size, kernel, stride, before, floor, ceil",
    [(143, 2, 2, 0, 71, 72), (6, 3, 2, 0, 2, 3), (4, 1, 3, 0, 2, 2), (2, 1, 3, 0, 1, 1)],
)
def test_ceil_mode(size, kernel, stride, before, floor, ceil):
    window = Window(kernel, stride, before, before)
    assert (window.out_size(size), window.out_size(size, ceil_mode=True)) == (floor, ceil)


def test_windows_are_values():
    assert Window(3, 2) == Window(3, 2) and len({Window(3), Window(3)}) == 1
    with pytest.raises(AttributeError):
        Window(3).kernel = 4
