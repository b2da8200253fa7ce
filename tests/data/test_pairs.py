"""Pairing and splitting: by names, in every order of the file system."""

import os
from pathlib import Path

import pytest
from folders import halves, neighbours, noise, save

from minidl.data import DataError, Pair, find_images, find_pairs, split_pairs


def _pairs(count):
    return [Pair(Path(f"{i}.png"), Path(f"{i}_mask.png"), f"{i:02}") for i in range(count)]


def _stems(pairs):
    return [pair.stem for pair in pairs]


def test_neighbours(tmp_path):
    neighbours(tmp_path, 3)
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "._p9.png").write_text("what some systems leave behind")
    found = find_pairs(tmp_path)
    assert _stems(found) == ["p0", "p1", "p2"]
    assert found[1] == Pair(tmp_path / "p1.png", tmp_path / "p1_mask.png", "p1")


@pytest.mark.parametrize("name", ["masks", "labels"])
@pytest.mark.parametrize("ending", ["", "_mask"])
def test_folders_with_different_suffixes(tmp_path, name, ending):
    for stem in ("b", "a"):
        save(tmp_path / "images" / f"{stem}.JPG", noise())
        save(tmp_path / name / f"{stem}{ending}.png", halves())
    found = find_pairs(tmp_path)
    assert _stems(found) == ["a", "b"]
    assert found[0].mask.name == f"a{ending}.png"


def test_order_does_not_come_from_the_file_system(tmp_path, monkeypatch):
    neighbours(tmp_path, 5)
    expected = find_pairs(tmp_path)
    names = sorted(os.listdir(tmp_path), key=lambda name: name[::-1], reverse=True)
    monkeypatch.setattr(Path, "iterdir", lambda self: iter([self / name for name in names]))
    assert find_pairs(tmp_path) == expected


def test_all_that_has_no_partner_is_listed(tmp_path):
    neighbours(tmp_path, 2)
    save(tmp_path / "x.png", noise())
    save(tmp_path / "y_mask.png", halves())
    save(tmp_path / "p1.tif", noise())
    with pytest.raises(
        DataError,
        match=r"images without a mask: x\.png; masks without an image: "
        r"y_mask\.png; files with the same name: "
        r"p1\.png and p1\.tif",
    ):
        find_pairs(tmp_path)


def test_folders_that_hold_no_data(tmp_path):
    with pytest.raises(DataError, match=r"no such folder\. Expected NAME\.tif beside NAME_mask"):
        find_pairs(tmp_path / "none")
    with pytest.raises(DataError, match=r"no image files in it \(\.tif"):
        find_pairs(tmp_path)
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match="images/ without masks/ or labels/"):
        find_pairs(tmp_path)
    (tmp_path / "masks").mkdir()
    (tmp_path / "labels").mkdir()
    with pytest.raises(DataError, match="images/ with both masks/ and labels/"):
        find_pairs(tmp_path)


def test_images_to_predict_on(tmp_path):
    neighbours(tmp_path / "a", 2)
    assert [path.name for path in find_images(tmp_path / "a")] == ["p0.png", "p1.png"]
    assert find_images(tmp_path / "a" / "p1.png") == [tmp_path / "a" / "p1.png"]
    save(tmp_path / "b" / "images" / "q.tif", noise())
    assert [path.name for path in find_images(tmp_path / "b")] == ["q.tif"]
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "notes.txt").touch()
    with pytest.raises(DataError, match="c: no image files in it, expected .tif"):
        find_images(tmp_path / "c")
    with pytest.raises(DataError, match=r"notes\.txt: not an image file"):
        find_images(tmp_path / "c" / "notes.txt")
    with pytest.raises(DataError, match="none: no such file or folder"):
        find_images(tmp_path / "none")


def test_drawn_split_depends_on_names_and_seed_only(tmp_path):
    pairs = _pairs(10)
    split = split_pairs(pairs, tmp_path)
    assert len(split.val) == 2 and len(split.train) == 8
    assert sorted(_stems(split.train + split.val)) == _stems(pairs)
    assert split == split_pairs(pairs[::-1], tmp_path)
    assert split.how == "drawn by file with seed 0: 8 + 2"
    others = {tuple(_stems(split_pairs(pairs, tmp_path, seed=s).val)) for s in range(5)}
    assert len(others) > 1


@pytest.mark.parametrize("count, fraction, expected", [(2, 0.01, 1), (2, 0.99, 1), (5, 0.5, 2)])
def test_each_part_has_a_pair(tmp_path, count, fraction, expected):
    assert len(split_pairs(_pairs(count), tmp_path, fraction).val) == expected


def test_split_refuses(tmp_path):
    with pytest.raises(DataError, match="1 pair of image and mask, expected at least 2.*Add a"):
        split_pairs(_pairs(1), tmp_path)
    with pytest.raises(ValueError, match=r"val_fraction=1\.5, expected between 0 and 1"):
        split_pairs(_pairs(3), tmp_path, 1.5)


def test_lists_decide(tmp_path):
    (tmp_path / "train.txt").write_text("# mine\n03\r\n\n 01.png\n")
    (tmp_path / "val.txt").write_text("00")
    split = split_pairs(_pairs(5), tmp_path)
    assert _stems(split.train) == ["01", "03"] and _stems(split.val) == ["00"]
    assert split.how == "by train.txt and val.txt: 2 + 1, 2 in neither"


@pytest.mark.parametrize("present, absent", [("train", "val"), ("val", "train")])
def test_one_list_leaves_the_rest_to_the_other_part(tmp_path, present, absent):
    (tmp_path / f"{present}.txt").write_text("02\n04\n")
    split = split_pairs(_pairs(5), tmp_path)
    assert _stems(getattr(split, present)) == ["02", "04"]
    assert _stems(getattr(split, absent)) == ["00", "01", "03"]


def test_wrong_lists(tmp_path):
    (tmp_path / "train.txt").write_text("00\nx\n01\ny.png\n")
    with pytest.raises(DataError, match=r"train\.txt: 2 of 4 names have no pair .*: x, y\.png\."):
        split_pairs(_pairs(3), tmp_path)
    (tmp_path / "train.txt").write_text("00\n01\n")
    (tmp_path / "val.txt").write_text("01\n")
    with pytest.raises(DataError, match=r"in train\.txt and in val\.txt: 01\. .*not honest"):
        split_pairs(_pairs(3), tmp_path)
    (tmp_path / "val.txt").write_text("")
    with pytest.raises(DataError, match=r"train\.txt and val\.txt leave no pair for val"):
        split_pairs(_pairs(3), tmp_path)
    (tmp_path / "val.txt").unlink()
    (tmp_path / "train.txt").write_text("00\n01\n02\n")
    with pytest.raises(DataError, match=r"train\.txt leave no pair for val"):
        split_pairs(_pairs(3), tmp_path)
