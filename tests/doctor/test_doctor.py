"""The whole examination, on folders with one mistake each, and the page it writes."""

import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from folders import halves, neighbours, noise, save
from PIL import Image

from minidl.doctor import doctor, examine, write_page
from minidl.progress import Progress


def titles(diagnosis, level=None):
    return "\n".join(
        f"{one.level}: {one.problem}" for one in diagnosis.findings if level in (None, one.level)
    )


def sound(folder, count=12):
    """Images that differ, each with a disc in its mask at another place."""
    for k in range(count):
        save(folder / f"p{k:02}.png", noise(k, (40, 48)))
        save(folder / f"p{k:02}_mask.png", disc(5, 10 + k, 12 + 2 * k))
    (folder / "val.txt").write_text("\n".join(f"p{k:02}" for k in range(5)))
    return folder


def disc(radius, row, column, value=255, size=(40, 48)):
    rows, columns = np.mgrid[: size[0], : size[1]]
    inside = (rows - row) ** 2 + (columns - column) ** 2 <= radius**2
    return (value * inside).astype(np.uint8)


def test_a_sound_folder_has_no_findings(tmp_path):
    diagnosis = examine(sound(tmp_path))
    assert titles(diagnosis) == "" and not diagnosis.errors and diagnosis.proposed_val == []
    text = diagnosis.text()
    assert "12 pairs" in text and "No problems found." in text
    assert "images  12, 40 x 48 (height x width), 1 channel, uint8" in text
    share = np.mean([disc(5, 10 + k, 12 + 2 * k) > 0 for k in range(12)])
    assert f"1    255  {share:15.2%}         12" in text
    assert f"minidl train {tmp_path} --crop 48" in text
    weights = diagnosis.advice.class_weights
    train = np.mean([disc(5, 10 + k, 12 + 2 * k) > 0 for k in range(5, 12)])
    np.testing.assert_allclose(weights, [0.5 / (1 - train), 0.5 / train])


def test_numbers_of_every_picture(tmp_path):
    sound(tmp_path)
    image = np.random.default_rng(1).integers(0, 4000, (40, 48)).astype(np.uint16)
    save(tmp_path / "p03.png", image)
    one = next(p for p in examine(tmp_path).survey.pictures if p.pair.stem == "p03")
    assert (one.shape, one.dtype, one.levels) == ((40, 48, 1), "uint16", len(np.unique(image)))
    np.testing.assert_allclose(
        (one.low, one.high, one.mean, one.deviation),
        (image.min(), image.max(), image.mean(), image.std()),
    )
    mask = disc(5, 13, 18) > 0
    assert one.counts == {0: (~mask).sum(), 255: mask.sum()} and one.boxes[255] == (8, 19, 13, 24)
    assert one.runs[255] == 11


def test_leaks_between_the_lists(tmp_path):
    sound(tmp_path)
    save(tmp_path / "p11.png", noise(0, (40, 48)))
    coarse = np.kron(noise(1, (8, 8)), np.ones((5, 6)))
    save(tmp_path / "p01.png", coarse.astype(np.uint8))
    save(tmp_path / "p10.png", (0.8 * coarse[:, ::-1] + 20).astype(np.uint8))
    diagnosis = examine(tmp_path)
    text = titles(diagnosis, "warning")
    assert "2 of 5 validation images are nearly the same as an image to train on" in text
    assert "p00 (the same as p11)" in text and re.search(r"p01 \((0\.99\d|1\.000) like p10\)", text)
    assert "images that are equal in every pixel\n  p00 = p11" in text
    assert "equal images whose masks differ\n  p00 = p11" in text
    assert {"p00", "p11"} & set(diagnosis.proposed_val) in (set(), {"p00", "p11"})
    assert {"p01", "p10"} & set(diagnosis.proposed_val) in (set(), {"p01", "p10"})
    shown = next(f.shows for f in diagnosis.findings if "validation images" in f.problem.title)
    assert shown == ((0, 11), (1, 10))


def test_proposed_split_divides_no_subject(tmp_path):
    for who in range(6):
        for k in range(4):
            save(tmp_path / f"{who}_{k}.png", noise(10 * who + k, (40, 48)))
            save(tmp_path / f"{who}_{k}_mask.png", disc(6, 12 + who, 20 + k))
    diagnosis = examine(tmp_path)
    assert "in both parts as drawn without lists" in titles(diagnosis, "warning")
    names = diagnosis.proposed_val
    assert len(names) == 4 and len({name.split("_")[0] for name in names}) == 1
    (tmp_path / "val.txt").write_text("\n".join(names))
    assert "both parts" not in titles(examine(tmp_path))


def test_contradicting_masks_of_lookalikes(tmp_path):
    sound(tmp_path)
    save(tmp_path / "p11.png", np.clip(noise(10, (40, 48)) + 3.0, 0, 255).astype(np.uint8))
    save(tmp_path / "p11_mask.png", np.zeros((40, 48), np.uint8))
    text = titles(examine(tmp_path), "warning")
    assert (
        "one with foreground in its mask and one without\n  p10 (foreground) ~ p11 (empty)" in text
    )


def broken(tmp_path, **files):
    sound(tmp_path)
    for name, array in files.items():
        save(tmp_path / f"{name}.png", array)
    return examine(tmp_path)


def test_black_and_flat_images(tmp_path):
    flat = 100 + (noise(7, (40, 48)) > 127).astype(np.uint8) + (noise(8, (40, 48)) > 200) * 2
    black = np.zeros((40, 48), np.uint8)
    text = titles(broken(tmp_path, p06=black, p07=black + 9, p08=flat.astype(np.uint8)), "warning")
    assert "images of one single value (2 files)\n  p06 (black), p07 (all 9)" in text
    assert "hardly any contrast\n  p08 (deviation" in text
    assert "equal in every pixel" not in text
    assert text.count("one single value") == 1


def test_a_mask_under_the_name_of_the_image(tmp_path):
    text = titles(broken(tmp_path, p06=disc(6, 20, 20)), "warning")
    assert "like masks\n  p06 (2 values)" in text


def test_brightness_outlier(tmp_path):
    bright = np.clip(noise(6, (40, 48)) / 4.0 + 190, 0, 255).astype(np.uint8)
    dark = {f"p{k:02}": (noise(k, (40, 48)) // 8).astype(np.uint8) for k in range(12) if k != 6}
    text = titles(broken(tmp_path, **dark, p06=bright), "note")
    assert "far brighter or darker than the others" in text and "p06 (mean 22" in text


def test_float_images_of_different_ranges(tmp_path):
    sound(tmp_path)
    for k in range(12):
        values = noise(k, (40, 48)).astype(np.float32) / (255 if k == 4 else 1)
        (tmp_path / f"p{k:02}.png").unlink()
        save(tmp_path / f"p{k:02}.tif", values)
    text = titles(examine(tmp_path), "error")
    assert "different value ranges" in text and "p04 (0 to 1)" in text


def test_empty_speckled_full_and_inverted_masks(tmp_path):
    empty, full = np.zeros((40, 48), np.uint8), np.full((40, 48), 255, np.uint8)
    masks = {f"p{k:02}_mask": empty for k in range(4)}
    text = titles(broken(tmp_path, **masks, p05_mask=full, p06_mask=disc(1, 5, 5)))
    assert "warning: 4 of 12 masks (33%) are empty" in text
    assert "warning: masks that are 255 everywhere\n  p05 (full)" in text
    assert "note: masks with less than 10 pixels of foreground\n  p06 (5 pixels)" in text
    inverted = {f"p{k:02}_mask": 255 - disc(5, 10 + k, 20) for k in range(12)}
    text = titles(broken(tmp_path, **inverted), "note")
    assert "value 255 covers 96% of the pixels, more than value 0" in text


def test_masks_with_other_sizes_and_interpolated_values(tmp_path):
    diagnosis = broken(tmp_path, p06_mask=disc(5, 20, 20)[:30])
    assert "differ in size" in titles(diagnosis, "error")
    assert "p06 (image 40 x 48, mask 30 x 48)" in titles(diagnosis)
    sound(tmp_path)
    for k in range(12):
        file = io.BytesIO()
        Image.fromarray(disc(9, 20, 20 + k)).save(file, "JPEG", quality=60)
        (tmp_path / f"p{k:02}_mask.png").unlink()
        (tmp_path / f"p{k:02}_mask.jpg").write_bytes(file.getvalue())
    diagnosis = examine(tmp_path)
    assert "look like grey levels" in titles(diagnosis, "error")
    assert "masks saved as JPEG" in titles(diagnosis, "warning")
    assert diagnosis.advice is None and "mend the errors above" in diagnosis.next_step()
    assert "Classes:" not in diagnosis.text()


def test_object_numbers(tmp_path):
    sound(tmp_path)
    for k in range(12):
        mask = np.zeros((40, 48), np.uint16)
        for number in range(1, 20 + 8 * k):
            mask[number % 40, (7 * number) % 48] = number
        save(tmp_path / f"p{k:02}_mask.png", mask)
    assert "masks that seem to number objects" in titles(examine(tmp_path), "error")
    for k in range(12):
        mask = (np.arange(40 * 48).reshape(40, 48) % (4 + k)).astype(np.uint8)
        save(tmp_path / f"p{k:02}_mask.png", mask)
    assert "masks that seem to number objects" in titles(examine(tmp_path), "warning")


def test_classes_that_one_part_lacks(tmp_path):
    sound(tmp_path)
    for k in range(12):
        mask = disc(9, 20, 20, 1)
        mask[:2] = 2 if k == 0 else 0
        mask[-2:] = 3 if k in (6, 7) else 0
        save(tmp_path / f"p{k:02}_mask.png", mask)
    text = titles(examine(tmp_path))
    assert "classes that no training image has, but validation images do\n  value 2" in text
    assert "classes that no validation image has: they will have no score\n  value 3" in text
    assert "give --ignore VALUE" in examine(tmp_path).text()


def test_strange_layouts_get_a_hint(tmp_path):
    for k in range(3):
        save(tmp_path / "a" / "images" / f"{k}.png", noise(k))
        save(tmp_path / "a" / "truth" / f"{k}.png", halves())
        for part in ("train", "val"):
            save(tmp_path / "b" / part / f"{part}{k}.png", noise(k))
            save(tmp_path / "b" / f"{part}_seg" / f"{part}{k}.png", halves())
        save(tmp_path / "c" / f"x{k}.png", noise(k))
        save(tmp_path / "c" / f"x{k}_seg.png", halves())
    assert "rename it to masks/" in titles(examine(tmp_path / "a"), "error")
    text = titles(examine(tmp_path / "b"), "error")
    assert "train/ and train_seg/ share 3 names" in text and "into val.txt" in text
    assert "rename _seg to _mask" in titles(examine(tmp_path / "c"), "error")
    assert "no such folder" in titles(examine(tmp_path / "nowhere"), "error")


def test_nothing_readable(tmp_path):
    for name in ("a.png", "a_mask.png"):
        (tmp_path / name).write_bytes(b"\x89PNG\r\n\x1a\n")
    diagnosis = examine(tmp_path)
    assert "cannot be read" in titles(diagnosis, "error") and diagnosis.facts is None
    assert write_page(diagnosis, tmp_path / "page.html").read_text().endswith("</html>\n")


class _Page(HTMLParser):
    """Checks that elements are closed in order; gathers pictures and text."""

    VOID = {"meta", "img"}

    def __init__(self):
        super().__init__()
        self.open, self.sources, self.words = [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        self.sources += [value for key, value in attrs if key in ("src", "href")]

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_holds_everything_itself(tmp_path):
    data = sound(tmp_path / "a <b> & c")
    save(data / "p11.png", noise(0, (40, 48)))
    diagnosis = doctor(data, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    page = _Page()
    page.feed(text)
    assert page.open == [] and "<b>" not in text.replace('<b class="kind">', "").replace(
        "<b>Next:</b>", ""
    )
    words = " ".join(page.words)
    assert "a <b> & c" in words and "p00 (the same as p11)" in words
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.sources)
    assert len(page.sources) >= 2 + 6 + 4 and text.count("<svg viewBox") >= 5
    assert "http" not in text and "<script" not in text
    places = [words.index(w) for w in ("Problems:", "How to train", "Examples", "Numbers", "Files")]
    assert places == sorted(places)
    assert diagnosis.facts.alike.score[0] == 1
    assert [file.name for file in tmp_path.iterdir() if file.suffix != ""] == ["page.html"]


def test_nothing_is_overwritten_unasked(tmp_path):
    data, page = sound(tmp_path / "data"), tmp_path / "page.html"
    page.write_text("mine")
    with pytest.raises(FileExistsError, match=r"page.html exists already.*page.html-2"):
        doctor(data, page)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        doctor(data, tmp_path / "none" / "page.html")
    assert page.read_text() == "mine"
    doctor(data, page, overwrite=True)
    assert page.read_text().startswith("<!doctype html>")


def test_pages_of_a_stack_count_one_by_one(tmp_path):
    import tifffile

    stack = np.stack([noise(k, (40, 48)) for k in range(4)])
    masks = np.stack([disc(5, 10, 10 + k) * (k != 2) for k in range(4)])
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack")
    tifffile.imwrite(tmp_path / "a_mask.tif", masks, photometric="minisblack")
    neighbours(tmp_path / "b", 2)
    diagnosis = examine(tmp_path)
    assert diagnosis.facts.names == ["a[0]", "a[1]", "a[2]", "a[3]"]
    assert "1 of 4 masks (25%) are empty\n  a[2]" in titles(diagnosis)
    assert write_page(diagnosis, tmp_path / "page.html").read_text().count("a[1]") >= 2


def test_progress_tells_what_and_how_far(tmp_path):
    stream = io.StringIO()
    with Progress(stream) as progress:
        doctor(sound(tmp_path / "data"), progress=progress)
    assert "looking for images and masks" in stream.getvalue()
    assert "No problems found." in stream.getvalue()
