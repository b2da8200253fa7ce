"""Pairing and splitting: by names, in every order of the file system."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from folders import halves, neighbours, noise, save

from minidl.data import (
    DataError,
    Pair,
    check_folder,
    find_images,
    find_pairs,
    listed_part,
    split_pairs,
)


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
    with pytest.raises(DataError, match="images/ with masks/ and labels/, expected one"):
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


def _parts(folder, *names):
    for number, name in enumerate(names):
        for k in range(2):
            save(folder / name / f"f{number}{k}.png", noise(k))


@pytest.mark.parametrize("ending", ["annot", "_masks", "-labels", "_mask", "gt"])
def test_parts_beside_their_masks(tmp_path, ending):
    for part in ("train", "validation", "test"):
        _parts(tmp_path / "x", part)
        for k in range(2):
            os.rename(
                tmp_path / "x" / part / f"f0{k}.png", tmp_path / "x" / part / f"{part}{k}.png"
            )
            save(tmp_path / "x" / f"{part}{ending}" / f"{part}{k}.png", halves())
    found = find_pairs(tmp_path / "x")
    assert [(p.stem, p.part) for p in found] == [
        (f"{name}{k}", part)
        for name, part in (("test", "test"), ("train", "train"), ("validation", "val"))
        for k in range(2)
    ]
    assert found[2].mask == tmp_path / "x" / f"train{ending}" / "train0.png"
    split = split_pairs(found, tmp_path / "x")
    assert _stems(split.train) == ["train0", "train1"]
    assert _stems(split.val) == ["validation0", "validation1"]
    assert split.how == "by folders: 2 + 2, 2 in neither"
    assert _stems(listed_part(found, tmp_path, "test")) == ["test0", "test1"]


def test_parts_that_are_data_folders_and_share_names(tmp_path):
    neighbours(tmp_path / "train", 3)
    for k in range(2):
        save(tmp_path / "val" / "images" / f"p{k}.png", noise(k))
        save(tmp_path / "val" / "labels" / f"p{k}.png", halves())
    found = find_pairs(tmp_path)
    assert _stems(found) == ["train/p0", "train/p1", "train/p2", "val/p0", "val/p1"]
    assert _stems(split_pairs(found, tmp_path).val) == ["val/p0", "val/p1"]
    (tmp_path / "train.txt").write_text("p0\np2.png\n")
    (tmp_path / "val.txt").write_text("some/where/p1.png\n")
    split = split_pairs(found, tmp_path)
    assert _stems(split.train) == ["train/p0", "train/p2"] and _stems(split.val) == ["val/p1"]
    assert listed_part(found, tmp_path, "val") == split.val


def test_what_is_for_testing_is_not_trained_on(tmp_path):
    pairs = [replace(pair, part="test" if k < 3 else "train") for k, pair in enumerate(_pairs(8))]
    split = split_pairs(pairs, tmp_path)
    assert sorted(_stems(split.train + split.val)) == _stems(pairs[3:])
    (tmp_path / "val.txt").write_text("04\n")
    split = split_pairs(pairs, tmp_path)
    assert _stems(split.train) == ["03", "05", "06", "07"]
    with pytest.raises(DataError, match=r"neither names in a file val\.txt nor pairs in a folder"):
        listed_part(pairs, tmp_path / "none", "val")


def test_regions(tmp_path):
    for k in range(2):
        save(tmp_path / "images" / f"p{k}.png", noise(k))
        save(tmp_path / "masks" / f"p{k}_mask.png", halves())
        save(tmp_path / "fov" / f"p{k}.png", halves())
    assert [pair.region.name for pair in find_pairs(tmp_path)] == ["p0.png", "p1.png"]
    assert check_folder(tmp_path).layout == "images/ and masks/, of which fov/ says what counts"
    (tmp_path / "fov" / "p1.png").unlink()
    with pytest.raises(DataError, match=r"images without a region: p1\.png"):
        find_pairs(tmp_path)


def test_errors_say_what_is_there_and_what_should_be(tmp_path):
    _parts(tmp_path, "images", "truth", "more")
    with pytest.raises(
        DataError, match=r"without masks/ or labels/, only more/, truth/\. Expected"
    ):
        find_pairs(tmp_path)
    _parts(tmp_path / "x", "train", "train_truth")
    with pytest.raises(DataError, match=r"2 images without masks\. Beside train/ there should be "
                       r"trainannot/ or train_masks/, only train_truth/"):  # fmt: skip
        find_pairs(tmp_path / "x")
    (tmp_path / "y" / "pictures").mkdir(parents=True)
    (tmp_path / "y" / "truth").mkdir()
    with pytest.raises(DataError, match=r"no image files in it \(.*\), only pictures/, truth/\."):
        find_pairs(tmp_path / "y")
    with pytest.raises(DataError, match=r"expected .*, only pictures/, truth/"):
        find_images(tmp_path / "y")
