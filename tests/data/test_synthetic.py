"""The invented ultrasound set."""

import hashlib

import numpy as np
import pytest

from minidl.data import check_folder, read_image, read_mask, write_nerve_set
from minidl.data.synthetic import blur


def _digest(folder):
    files = sorted(folder.iterdir())
    return hashlib.sha256(b"".join(f.name.encode() + f.read_bytes() for f in files)).hexdigest()


def test_same_seed_same_bytes(tmp_path):
    folders = [
        write_nerve_set(tmp_path / str(k), n=4, seed=seed) for k, seed in enumerate((3, 3, 4))
    ]
    first, second, other = map(_digest, folders)
    assert first == second != other


def test_set_is_in_the_layout_and_half_empty(tmp_path):
    report = check_folder(write_nerve_set(tmp_path / "set", n=14))
    assert not report.errors
    assert {"1_1", "1_6", "2_1", "3_2"} <= {pair.stem for pair in report.pairs}
    assert (report.channels, report.dtypes, report.mask_kind.values) == (1, ["uint8"], (0, 255))
    empty = 0
    for pair in report.pairs:
        mask = read_mask(pair.mask) > 0
        empty += not mask.any()
        if mask.any():
            rows, columns = np.nonzero(mask)
            assert all(12 <= np.ptp(side) + 1 <= 32 for side in (rows, columns))
    assert empty == 7


@pytest.mark.parametrize("size", [(48, 48), (96, 128), (150, 100)])
def test_any_size(tmp_path, size):
    folder = write_nerve_set(tmp_path / "set", n=2, size=size, empty_fraction=0)
    assert read_image(folder / "1_1.tif").shape == (*size, 1)
    assert (read_mask(folder / "1_2_mask.tif") == 255).any()


def test_a_threshold_does_not_find_the_nerve(tmp_path):
    folder = write_nerve_set(tmp_path / "set", n=8, empty_fraction=0)
    images = np.stack([read_image(folder / f"{1 + k // 6}_{1 + k % 6}.tif") for k in range(8)])
    masks = np.stack([read_mask(folder / f"{1 + k // 6}_{1 + k % 6}_mask.tif") for k in range(8)])
    nerve = masks > 0
    for level in range(0, 256, 8):
        found = images[..., 0] > level
        assert 2 * (found & nerve).sum() / (found.sum() + nerve.sum()) < 0.3


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(FileExistsError, match="is not empty, and nothing is overwritten"):
        write_nerve_set(tmp_path)
    with pytest.raises(FileExistsError, match="is not empty"):
        write_nerve_set(tmp_path / "mine.txt")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"n": 0}, "n=0, expected 1 or more"),
        ({"size": (20, 100)}, r"size=\(20, 100\), expected \(height, width\) from 48"),
        ({"seed": -1}, "seed=-1, expected 0 or more"),
        ({"empty_fraction": 2}, r"empty_fraction=2, expected 0\.\.1"),
    ],
)
def test_wrong_arguments(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        write_nerve_set(tmp_path / "set", **options)
    assert not (tmp_path / "set").exists()


def test_blur_keeps_the_sum_and_spreads():
    picture = np.zeros((41, 41))
    picture[20, 20] = 1
    blurred = blur(picture, 2, 4)
    assert np.isclose(blurred.sum(), 1)
    spread = [np.sqrt((blurred.sum(axis=1 - a) * (np.arange(41) - 20) ** 2).sum()) for a in (0, 1)]
    np.testing.assert_allclose(spread, [2, 4], rtol=0.03)
