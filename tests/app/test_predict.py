"""From image files to mask files of the training masks' kind."""

import re
from dataclasses import replace

import numpy as np
import pytest
import tifffile
from discs import disc_picture
from PIL import Image

from minidl import cli
from minidl.data import DataError, MaskKind, read_mask
from minidl.predict import plan, predict_files
from minidl.progress import Progress
from minidl.recipe import Options, train_folder
from minidl.segmenter import Segmenter, scores_of


@pytest.fixture
def segmenter(tiny_run):
    return Segmenter.load(tiny_run / "model.safetensors")


def predict(segmenter, paths, out):
    return predict_files(segmenter, plan(segmenter, paths, out))


@pytest.mark.parametrize("shape", [(1, 1), (7, 50), (24, 32), (33, 31)])
def test_a_mask_has_its_images_size_and_the_training_masks_kind(segmenter, tmp_path, shape):
    image = np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "new.png")
    (path,) = predict(segmenter, [tmp_path / "new.png"], tmp_path / "out" / "deep")
    assert path == tmp_path / "out" / "deep" / "new_mask.tif"
    raw = tifffile.imread(path)
    assert raw.shape == shape
    assert raw.dtype == np.uint8
    assert set(np.unique(raw)) <= {0, 255}


def test_the_mask_is_what_the_network_says(segmenter, tmp_path):
    image, target = disc_picture(3)
    tifffile.imwrite(tmp_path / "a.tif", image)
    (path,) = predict(segmenter, [tmp_path / "a.tif"], tmp_path / "out")
    classes = segmenter(image[..., None])
    np.testing.assert_array_equal(tifffile.imread(path), classes * 255)
    overlap = 2 * (classes * target).sum() / (classes.sum() + target.sum())
    assert overlap > 0.5  # the run has learnt something


def test_a_size_that_does_not_halve_is_mirrored_not_stretched(segmenter, rng):
    x = rng.standard_normal((9, 13, 1)).astype(np.float32)
    padded = np.pad(x, ((0, 1), (0, 1), (0, 0)), mode="reflect")
    expected = scores_of(segmenter.model, padded)[:9, :13]
    np.testing.assert_array_equal(scores_of(segmenter.model, x), expected)


def test_predicting_leaves_the_network_in_its_mode(segmenter):
    segmenter.model.train()
    scores_of(segmenter.model, np.zeros((4, 4, 1), np.float32))
    assert segmenter.model.training
    segmenter.model.eval()
    scores_of(segmenter.model, np.zeros((4, 4, 1), np.float32))
    assert not segmenter.model.training


def test_images_may_be_normalised_one_by_one(pairs_folder, tmp_path, rng):
    run, image = tmp_path / "run", rng.integers(0, 100, (40, 50, 1)).astype(np.uint16)
    small = ["--steps", "2", "--root", "2", "--depth", "2", "--crop", "16", "--normalise", "image"]
    assert cli.main(["train", str(pairs_folder), "--out", str(run), *small]) == 0
    segmenter = Segmenter.load(run / "model.safetensors")
    found = segmenter(image)
    np.testing.assert_array_equal(found, segmenter(600 * image + 3000))
    np.testing.assert_array_equal(found, segmenter(image, tile=24))
    assert "its own mean" in (run / "README.md").read_text()
    with pytest.raises(ValueError, match="normalise is 'images', expected one of set, image"):
        train_folder(pairs_folder, tmp_path / "other", Options(normalise="images"))


def test_every_page_of_a_tiff_is_predicted_into_one_tiff(segmenter, tmp_path):
    pages = np.stack([disc_picture(index)[0] for index in range(3)])
    tifffile.imwrite(tmp_path / "stack.tif", pages, photometric="minisblack")
    (path,) = predict(segmenter, [tmp_path / "stack.tif"], tmp_path / "out")
    masks = tifffile.imread(path)
    assert masks.shape == pages.shape
    for page, mask in zip(pages, masks, strict=True):
        np.testing.assert_array_equal(mask, segmenter(page[..., None]) * 255)


def test_a_folder_is_predicted_without_its_masks(segmenter, pairs_folder, tmp_path):
    written = predict(segmenter, [pairs_folder], tmp_path)
    assert [path.name for path in written] == [f"f{index}_mask.tif" for index in range(8)]


def test_palette_masks_give_palette_masks(palette_run, tmp_path):
    run, folder = palette_run
    segmenter = Segmenter.load(run / "model.safetensors")
    written = predict(segmenter, [folder], tmp_path)
    assert [path.name for path in written] == [f"p{index}.png" for index in range(6)]
    for index, path in enumerate(written):
        with Image.open(path) as mask:
            assert mask.mode == "P"
            assert mask.size == (30, 21 + index)
            assert mask.getpalette()[:9] == [0, 0, 0, 200, 30, 30, 30, 200, 30]
        assert read_mask(path).max() <= 2


def test_pages_go_to_files_of_their_own_where_masks_are_png(palette_run, tmp_path):
    segmenter = Segmenter.load(palette_run[0] / "model.safetensors")
    pages = np.zeros((2, 20, 30, 3), np.uint8)
    pages[0, 3:9, 3:9] = 255, 0, 90
    tifffile.imwrite(tmp_path / "s.tif", pages, photometric="rgb")
    written = predict(segmenter, [tmp_path / "s.tif"], tmp_path / "out")
    assert [path.name for path in written] == ["s_page0.png", "s_page1.png"]


def test_nothing_is_overwritten_and_nothing_written_before_that_is_known(segmenter, tmp_path):
    for name in ("a", "b"):
        tifffile.imwrite(tmp_path / f"{name}.tif", disc_picture(1)[0])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b_mask.tif").write_text("mine")
    with pytest.raises(FileExistsError, match=r"1 of the masks exist already.*b_mask\.tif"):
        predict(segmenter, [tmp_path / "a.tif", tmp_path / "b.tif"], tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b_mask.tif"]
    assert (tmp_path / "out" / "b_mask.tif").read_text() == "mine"


def test_two_images_for_one_mask_are_refused(segmenter, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        tifffile.imwrite(tmp_path / name / "a.tif", disc_picture(1)[0])
    with pytest.raises(DataError, match=r"would both be written to a_mask\.tif"):
        plan(segmenter, [tmp_path / "one", tmp_path / "two"], tmp_path / "out")


def test_an_out_that_is_a_file_is_refused(segmenter, pairs_folder, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(FileExistsError, match="is a file, expected a folder"):
        plan(segmenter, [pairs_folder], tmp_path / "out")


def test_colour_for_a_network_of_grey_is_refused_and_the_reverse(segmenter, palette_run, tmp_path):
    colour = np.zeros((8, 8, 3), np.uint8)
    colour[2:4] = 250, 10, 10
    Image.fromarray(colour).save(tmp_path / "colour.png")
    Image.fromarray(colour[..., 0]).save(tmp_path / "grey.png")
    with pytest.raises(DataError, match=r"colour\.png: colour .*training images were grey"):
        predict(segmenter, [tmp_path / "colour.png"], tmp_path / "out")
    of_colour = Segmenter.load(palette_run[0] / "model.safetensors")
    with pytest.raises(DataError, match=r"grey\.png: grey .*training images were colour"):
        predict(of_colour, [tmp_path / "grey.png"], tmp_path / "out")


def test_missing_and_broken_images_are_named(segmenter, tmp_path):
    with pytest.raises(DataError, match="nowhere: no such file or folder"):
        plan(segmenter, [tmp_path / "nowhere"], tmp_path / "out")
    (tmp_path / "broken.tif").write_bytes(b"II*\0 this is no picture")
    with pytest.raises(DataError, match=r"broken\.tif"):
        predict(segmenter, [tmp_path / "broken.tif"], tmp_path / "out")


def test_a_large_image_is_predicted_in_tiles_and_says_so(segmenter, tmp_path):
    pages = np.stack([disc_picture(index, (40, 90))[0] for index in range(2)])
    tifffile.imwrite(tmp_path / "stack.tif", pages, photometric="minisblack")
    seen = []
    jobs = plan(segmenter, [tmp_path / "stack.tif"], tmp_path / "out")
    tell = lambda job, page, done, of: seen.append((page, done, of))  # noqa: E731
    (path,) = predict_files(segmenter, jobs, watch_tiles=tell, tile=32)
    assert [page for page, done, _ in seen if done == 0] == [0, 1]
    assert seen[-1][1] + 1 == seen[-1][2] == len(seen) // 2 > 3
    for page, mask in zip(pages, tifffile.imread(path), strict=True):
        np.testing.assert_array_equal(mask, segmenter(page[..., None], tile=200) * 255)


def test_pages_of_different_sizes_stay_together(segmenter, tmp_path):
    with tifffile.TiffWriter(tmp_path / "s.tif") as tif:
        for shape in ((24, 32), (10, 9)):
            tif.write(
                disc_picture(1, (24, 32))[0][: shape[0], : shape[1]], photometric="minisblack"
            )
    (path,) = predict(segmenter, [tmp_path / "s.tif"], tmp_path / "out")
    with tifffile.TiffFile(path) as tif:
        assert [page.shape for page in tif.pages] == [(24, 32), (10, 9)]


def test_the_command_tells_about_tiles_and_how_long_they_will_take(tiny_run, tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", disc_picture(0, (40, 90))[0])
    said = []
    monkeypatch.setattr(Progress, "now", lambda self, line: said.append(line))
    command = ["predict", str(tiny_run), str(tmp_path / "a.tif"), "--tile", "32", "--out"]
    assert cli.main([*command, str(tmp_path / "tiled")]) == 0
    tiles = [line for line in said if "tile" in line]
    assert re.fullmatch(r"image 1/1 a\.tif, tile 2/\d+, \d+ s left", tiles[0])
    assert len(tiles) > 3
    del command[3:5]
    assert cli.main([*command, str(tmp_path / "whole")]) == 0
    written = [tifffile.imread(tmp_path / name / "a_mask.tif") for name in ("tiled", "whole")]
    np.testing.assert_array_equal(*written)


def test_a_tile_too_small_for_the_network_is_refused(segmenter, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", disc_picture(0, (40, 90))[0])
    jobs = plan(segmenter, [tmp_path / "a.tif"], tmp_path / "out")
    with pytest.raises(ValueError, match=r"tile=8, expected \d+ or more: UNet looks \d+ pixels"):
        predict_files(segmenter, jobs, tile=8)


def test_numbered_training_masks_give_numbered_objects(segmenter, tmp_path):
    kind = MaskKind(".png", (0, 1), "uint16", instances=True)
    numbering = replace(segmenter, mask_kind=kind, mask_ending="")
    image = np.hstack([disc_picture(k)[0] for k in range(3)])
    tifffile.imwrite(tmp_path / "a.tif", image)
    (path,) = predict(numbering, [tmp_path / "a.tif"], tmp_path / "out")
    numbers, found = read_mask(path), segmenter(image[..., None])
    assert numbers.dtype == np.uint16
    np.testing.assert_array_equal(numbers > 0, found == 1)
    assert set(np.unique(numbers)) == set(range(numbers.max() + 1)) and numbers.max() >= 2
