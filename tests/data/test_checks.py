"""check_folder: everything that is wrong, at once, by name."""

import numpy as np
import pytest
import tifffile
from folders import halves, neighbours, noise, save
from PIL import Image

from minidl.data import DataError, Dataset, MaskKind, check_folder


def _titles(problems):
    return [problem.title for problem in problems]


def _one_error(folder, **options):
    report = check_folder(folder, **options)
    assert len(report.errors) == 1, report.text()
    return report.errors[0]


def test_good_folder(tmp_path):
    neighbours(tmp_path, 4)
    seen = []
    report = check_folder(tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert not report.errors and not report.warnings
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert report.num_classes == 2 and report.channels == 1 and len(report.pairs) == 4
    assert report.class_counts.tolist() == [4 * 96, 4 * 96]
    kind = report.mask_kind
    assert (kind.suffix, kind.values, kind.dtype) == (".png", (0, 255), "uint8")
    assert "4 pairs" in report.text() and "no problems found" in report.text()
    assert "class 1 (value 255): 50.00%" in report.text()
    report.raise_if_bad()


def test_everything_at_once(tmp_path):
    neighbours(tmp_path, 6)
    save(tmp_path / "lonely.png", noise())
    save(tmp_path / "widow_mask.png", halves())
    save(tmp_path / "p0_mask.png", halves(size=(12, 15)))
    save(tmp_path / "p1_mask.png", np.where(halves() > 0, np.uint8(7), np.uint8(0)))
    (tmp_path / "p2.png").write_bytes((tmp_path / "p2.png").read_bytes()[:60])
    save(tmp_path / "p3.png", noise().astype(np.uint16))
    save(tmp_path / "p4.png", noise(channels=3))
    save(tmp_path / "p5.tif", noise())
    (tmp_path / "val.txt").write_text("p0\nunknown\n")
    report = check_folder(tmp_path)
    text = report.text()
    for expected in (
        "images without a mask\n      lonely.png",
        "masks without an image\n      widow_mask.png",
        "files with the same name\n      p5.png and p5.tif",
        "p2.png: cannot be read as an image",
        "differ in size (height x width)\n      p0 (image 12 x 16, mask 12 x 15)",
        "unexpected label values (expected 0, 255)\n      p1_mask.png (value 7)",
        "images of different types in one set: uint16 and uint8\n      p3.png (uint16)",
        "names have no pair of image and mask here: unknown",
    ):
        assert expected in text
    assert _titles(report.warnings) == [
        "grey and colour images in one set: grey images count as colour with three equal channels"
    ]
    assert len(report.errors) == 8 and report.mask_kind is None
    with pytest.raises(DataError, match="lonely.png"):
        report.raise_if_bad()


def test_long_lists_are_cut_in_the_text_only(tmp_path):
    for index in range(24):
        save(tmp_path / f"p{index:02}.png", noise())
    error = _one_error(tmp_path)
    assert len(error.files) == 24
    assert "(24 files)" in str(error) and "p09.png and 14 more" in str(error)


def test_folder_without_data(tmp_path):
    assert "no image files in it" in _one_error(tmp_path).title
    assert "no such folder" in _one_error(tmp_path / "none").title


def test_all_masks_empty(tmp_path):
    neighbours(tmp_path, 3, [halves(0)] * 3)
    assert "all 3 masks are empty: every pixel of every mask is 0" in _one_error(tmp_path).title


def test_some_masks_empty_is_a_warning(tmp_path):
    neighbours(tmp_path, 4, [halves(0), halves(), halves(0), halves(0) + np.uint8(255)])
    report = check_folder(tmp_path)
    assert not report.errors
    assert _titles(report.warnings) == [
        "2 of 4 masks (50%) are empty: nothing but value 0, which is class 0"
    ]


@pytest.mark.parametrize(
    "masks, values",
    [
        ([halves(1), halves(0)], (0, 1)),
        ([halves(255), halves(0)], (0, 255)),
        ([halves(65535, dtype=np.uint16), halves(0, dtype=np.uint16)], (0, 65535)),
        ([halves(1), halves(2)], (0, 1, 2)),
        ([halves(True, dtype=bool), halves(True, dtype=bool)], (0, 1)),
    ],
)
def test_kinds_are_recognised_over_the_whole_set(tmp_path, masks, values):
    report = check_folder(neighbours(tmp_path, 2, masks))
    assert not report.errors
    assert report.mask_kind.values == values
    assert report.mask_kind.dtype == masks[0].dtype.name


def test_palette_is_kept_for_writing(tmp_path):
    palette = ((0, 0, 0), (255, 0, 0), (0, 0, 255))
    neighbours(tmp_path, 3)
    for index, colours in enumerate([palette, palette, palette[::-1]]):
        image = Image.fromarray(halves(1 + index % 2))
        image.putpalette([level for colour in colours for level in colour])
        image.save(tmp_path / f"p{index}_mask.png")
    report = check_folder(tmp_path)
    assert report.mask_kind.palette[:3] == palette
    assert _titles(report.errors) == [
        "palette masks whose numbers have other colours than in the other masks"
    ]
    assert report.errors[0].files == ["p2_mask.png"]


def test_gaps_are_numbered_and_said(tmp_path):
    report = check_folder(neighbours(tmp_path, 4, [halves(128), halves(255)] * 2))
    assert report.mask_kind.values == (0, 128, 255) and not report.errors
    text = str(report.warnings[0])
    assert "label values with gaps: 0 -> class 0, 128 -> class 1, 255 -> class 2" in text
    assert "`ignore` = 255" in text


def test_labels_and_ignore_can_be_said(tmp_path):
    neighbours(tmp_path, 4, [halves(1), halves(255), halves(1), halves(1)])
    report = check_folder(tmp_path, ignore=255)
    assert report.mask_kind.values == (0, 1) and report.mask_kind.ignore == 255
    assert check_folder(tmp_path, labels=(1, 0, 255)).mask_kind.values == (1, 0, 255)
    assert _one_error(tmp_path, labels=(0, 1)).files == ["p1_mask.png (value 255)"]


def test_two_conventions_in_one_set(tmp_path):
    error = _one_error(neighbours(tmp_path, 5, [halves(1)] * 2 + [halves(255)] * 3))
    assert error.title == "unexpected label values: 0 and 1 here, 0 and 255 in the other masks"
    assert error.files == ["p0_mask.png", "p1_mask.png"]


def test_smoothed_masks(tmp_path):
    ramp = np.clip(np.arange(-30, 130)[None] * np.ones((12, 1)) * 2, 0, 255).astype(np.uint8)
    masks = [halves(size=ramp.shape)] * 3 + [ramp]
    for index, mask in enumerate(masks):
        save(tmp_path / "a" / f"p{index}.png", noise(size=ramp.shape))
        save(tmp_path / "a" / f"p{index}_mask.png", mask)
        save(tmp_path / "b" / f"p{index}.png", noise(size=ramp.shape))
        save(tmp_path / "b" / f"p{index}_mask.png", ramp)
    error = _one_error(tmp_path / "a")
    assert error.files == ["p3_mask.png (values 2, 4, 6, 8, 10 and 122 more)"]
    error = _one_error(tmp_path / "b")
    assert "masks with 129 different values, from 0 to 255, which look like grey" in error.title
    assert "JPEG" in error.advice and len(error.files) == 4


def test_jpeg_masks_of_few_levels(tmp_path):
    masks = []
    for index in range(3):
        mask = halves(size=(40, 40))
        mask[3:15, 19 + index] = np.arange(12) * 20 + 5
        masks.append(mask)
    for index, mask in enumerate(masks):
        save(tmp_path / f"p{index}.png", noise(size=mask.shape))
        save(tmp_path / f"p{index}_mask.png", mask)
    assert "look like grey levels" in _one_error(tmp_path).title


def test_pages_must_agree(tmp_path):
    stack = np.stack([noise(k) for k in range(3)])
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack")
    tifffile.imwrite(tmp_path / "a_mask.tif", np.stack([halves()] * 3), photometric="minisblack")
    report = check_folder(tmp_path)
    assert not report.errors and len(report.sizes) == 3
    assert report.mask_kind.suffix == ".tif"
    tifffile.imwrite(tmp_path / "a_mask.tif", np.stack([halves()] * 2), photometric="minisblack")
    assert _one_error(tmp_path).files == ["a (image 3 pages, mask 2)"]


def test_channels(tmp_path):
    neighbours(tmp_path, 3)
    save(tmp_path / "p1.png", np.dstack([noise(1)] * 3))
    report = check_folder(tmp_path)
    assert report.channels == 1 and not report.errors
    assert "count as grey" in report.warnings[0].title
    tifffile.imwrite(
        tmp_path / "p2.png", noise(channels=5), photometric="minisblack", planarconfig="contig"
    )
    assert "images with 1 and 3 and 5 channels in one set" in _one_error(tmp_path).title


def test_images_that_are_no_pictures(tmp_path):
    neighbours(tmp_path, 3)
    save(tmp_path / "p0.png", np.full((12, 16), 9, np.uint8))
    report = check_folder(tmp_path)
    assert _titles(report.warnings) == ["images of one single value"]
    tifffile.imwrite(tmp_path / "p0.png", np.full((12, 16), np.nan, np.float32))
    assert "p0.png: 192 values are infinite or NaN" in _one_error(tmp_path).title


def test_nothing_is_written(tmp_path):
    neighbours(tmp_path, 2)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    check_folder(tmp_path)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def _numbered(folder, count=4):
    for k in range(count):
        mask = np.zeros((12, 16), np.uint16)
        mask[2:6, 1:5], mask[2:6, 5 : 9 + k] = 1, 2  # two that touch
        for number in range(3, 12 + k):
            mask[8, number] = number
        save(folder / f"p{k}.png", noise(k))
        save(folder / f"p{k}_mask.png", mask)
    return folder


def test_masks_that_number_objects(tmp_path):
    error = _one_error(_numbered(tmp_path), max_classes=8)
    assert "`instances` (minidl train DATA --instances)" in error.advice
    report = check_folder(tmp_path, instances=True)
    assert not report.errors and report.num_classes == 2
    assert report.mask_kind == MaskKind(".png", (0, 1), "uint16", instances=True)
    assert report.objects == [11, 12, 13, 14]
    # Of touching columns both go; objects of one pixel that lie side by side vanish.
    front = sum(4 * 3 + 4 * (3 + k) for k in range(4))
    assert report.class_counts.tolist() == [4 * 192 - front, front]
    assert "50 numbered objects, 11 to 14 in a picture, as class 1" in report.text()
    dataset = Dataset(report.pairs, report.mask_kind)
    np.testing.assert_array_equal(dataset.class_counts(), report.class_counts)


def test_what_cannot_be_numbers_of_objects(tmp_path):
    neighbours(tmp_path / "a", 3)
    title = _one_error(tmp_path / "a", instances=True).title
    assert title == "masks that do not number objects: nothing but 0 and 255 in any"
    _numbered(tmp_path / "b")
    title = _one_error(tmp_path / "b", instances=True, labels=(0, 1)).title
    assert "numbers of objects are no classes" in title
    tifffile.imwrite(tmp_path / "b" / "p9.tif", noise())
    tifffile.imwrite(tmp_path / "b" / "p9_mask.tif", np.full((12, 16), -4, np.int16))
    assert "object number -4, expected 0" in _one_error(tmp_path / "b", instances=True).title


def test_only_the_region_is_counted(tmp_path):
    for k in range(2):
        save(tmp_path / "images" / f"p{k}.png", noise(k))
        save(tmp_path / "labels" / f"p{k}.png", halves())
        save(tmp_path / "fov" / f"p{k}.png", np.tri(12, 16, 3, bool))
    report = check_folder(tmp_path)
    inside = np.tri(12, 16, 3, bool)
    assert report.class_counts.tolist() == [2 * inside[:, :8].sum(), 2 * inside[:, 8:].sum()]
    save(tmp_path / "fov" / "p1.png", halves(size=(5, 6)))
    assert "fov/p1.png is 5 x 6" in _one_error(tmp_path).title
