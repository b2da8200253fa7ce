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
        MaskKind(".png", (0, 1), "uint16", instances=True, parted=False),
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


NUMBERED = np.array(
    [[0, 7, 7, 7, 2, 2, 2], [0, 7, 7, 7, 2, 2, 2], [5, 0, 0, 9, 9, 0, 0]], np.uint16
)


def test_numbered_objects_are_one_class_parted_where_they_touch():
    kind = MaskKind(values=(0, 1), dtype="uint16", instances=True, ignore=9)
    expected = [[0, 1, 1, 0, 0, 1, 1], [0, 1, 1, 0, 0, 1, 1], [1, 0, 0, -100, -100, 0, 0]]
    assert kind.num_classes == 2
    assert kind.to_classes(NUMBERED).tolist() == expected
    assert kind.to_objects(NUMBERED)[1].tolist() == [0, 7, 7, 0, 0, 2, 2]
    whole = MaskKind(values=(0, 1), dtype="uint16", instances=True, parted=False)
    np.testing.assert_array_equal(whole.to_classes(NUMBERED), NUMBERED > 0)
    np.testing.assert_array_equal(whole.to_objects(NUMBERED), NUMBERED)
    with pytest.raises(DataError, match=r"a\.tif: object number -3, expected 0 or more"):
        kind.to_classes(np.array([[-3, 1]], np.int32), "a.tif")


def test_predictions_of_numbered_objects_are_numbered():
    kind = MaskKind(values=(0, 1), dtype="uint16", instances=True)
    classes = np.array([[0, 1, 0, 1], [0, 1, 1, 0], [1, 0, 0, 1]])
    raw = kind.from_classes(classes)
    assert raw.dtype == np.uint16
    assert raw.tolist() == [[0, 1, 0, 2], [0, 1, 1, 0], [3, 0, 0, 4]]
    pages = kind.from_classes(np.stack([classes, np.eye(4, dtype=int)[:3]]))
    assert pages[0].tolist() == raw.tolist() and pages[1].max() == 3
    # Parted and numbered anew, they are the same objects.
    again = kind.from_classes(kind.to_classes(NUMBERED))
    pairs = {(int(a), int(b)) for a, b in zip(kind.to_objects(NUMBERED).flat, again.flat)}  # noqa: B905
    assert sorted(b for _, b in pairs) == list(range(len(pairs)))
    few = MaskKind(values=(0, 1), dtype="uint8", instances=True)
    with pytest.raises(ValueError, match="300 objects, but uint8 has numbers up to 255"):
        few.from_classes((np.arange(600) % 2)[None])


def test_objects_of_classes_are_their_connected_parts():
    raw = np.array([[0, 255, 0, 255], [0, 255, 255, 0]], np.uint8)
    assert MaskKind().to_objects(raw).tolist() == [[0, 1, 0, 2], [0, 1, 1, 0]]


def test_instances_have_no_values_of_their_own():
    with pytest.raises(ValueError, match=r"instances have values \(0, 1\) and no palette"):
        MaskKind(instances=True)
