"""MaskKind: values to classes and back."""

import json

import numpy as np
import pytest

from minidl.data import DataError, MaskKind


def test_unexpected_value_is_named_with_its_first_place():
    raw = np.array([[0, 255], [7, 7]], np.uint8)
    with pytest.raises(
        DataError,
        match=r"b_mask\.png: label value 7 at row 1, column 0 \(2 such "
        r"pixels\), expected 0, 255",
    ):
        MaskKind().to_classes(raw, "b_mask.png")


def test_classes_are_small_integers():
    assert MaskKind().to_classes(np.array([[0, 255]], np.uint8)).dtype == np.int8
    many = MaskKind(values=tuple(range(200)))
    assert many.to_classes(np.array([[199]], np.uint8)).tolist() == [[199]]


def test_ignore_becomes_minus_100_and_comes_back():
    kind = MaskKind(values=(0, 1), ignore=255)
    classes = kind.to_classes(np.array([[0, 1, 255]], np.uint8))
    assert classes.tolist() == [[0, 1, -100]]
    assert kind.from_classes(classes).tolist() == [[0, 1, 255]]


@pytest.mark.parametrize(
    "kind",
    [
        MaskKind(),
        MaskKind(".tif", (0, 1), "bool"),
        MaskKind(".png", (0, 2), palette=((0, 0, 0), (1, 2, 3), (4, 5, 6)), ignore=9),
    ],
    ids=str,
)
def test_survives_json(kind):
    assert MaskKind.from_dict(json.loads(json.dumps(kind.to_dict()))) == kind


@pytest.mark.parametrize(
    "classes, error, message",
    [
        (np.zeros((2, 2)), TypeError, "expected class indices .*float64.*argmax"),
        (np.array([[2]]), ValueError, r"class 2, expected 0\.\.1"),
        (np.array([[-100]]), ValueError, r"class -100, expected 0\.\.1"),
    ],
)
def test_wrong_classes(classes, error, message):
    with pytest.raises(error, match=message):
        MaskKind().from_classes(classes)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"suffix": ".jpg"}, r"suffix '\.jpg', expected \.png"),
        ({"dtype": "float32"}, "dtype 'float32', expected one of"),
        ({"values": (0, 0)}, "must be distinct"),
        ({"values": ()}, "at least one"),
        ({"values": (0, 256)}, r"values \(0, 256\) do not fit into uint8"),
        ({"values": (0, 2), "dtype": "bool"}, "do not fit into bool"),
        ({"ignore": 255}, "ignore=255 is also the value of a class"),
        ({"dtype": "uint16", "palette": ((0, 0, 0),)}, "a palette needs dtype uint8"),
    ],
)
def test_impossible_kinds(options, message):
    with pytest.raises(ValueError, match=message):
        MaskKind(**options)
