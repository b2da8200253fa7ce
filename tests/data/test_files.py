"""Reading and writing files: every format gives what was stored, or says why not."""

import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from minidl.data import (
    DataError,
    MaskKind,
    files,
    page_count,
    read_image,
    read_mask,
    read_mask_pages,
    read_pages,
    write_mask,
    write_mask_pages,
)

RNG = np.random.default_rng(0)
GREY8 = RNG.integers(0, 256, (20, 31), dtype=np.uint8)
GREY16 = RNG.integers(0, 65536, (20, 31), dtype=np.uint16)
GREY32 = RNG.integers(-1000, 1000, (20, 31), dtype=np.int32)
FLOAT = RNG.standard_normal((20, 31)).astype(np.float32)
RGB8 = RNG.integers(0, 256, (20, 31, 3), dtype=np.uint8)
RGB16 = RNG.integers(0, 65536, (20, 31, 3), dtype=np.uint16)
BITS = RNG.integers(0, 2, (20, 31)).astype(bool)
CLASSES = RNG.integers(0, 3, (20, 31)).astype(np.uint8)
PALETTE = ((0, 0, 0), (255, 0, 0), (0, 128, 255))


def _with_channels(array):
    return array[..., None] if array.ndim == 2 else array


def _palette_png(path, values=CLASSES, palette=PALETTE):
    image = Image.fromarray(values)
    image.putpalette([level for colour in palette for level in colour])
    image.save(path)
    return path


def _raw_png(path, rows, depth, colour):
    """A PNG that Pillow cannot write: `rows` are the packed bytes of each line."""

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    samples = {0: 1, 2: 3}[colour]
    header = struct.pack(
        ">IIBBBBB", len(rows[0]) * 8 // depth // samples, len(rows), depth, colour, 0, 0, 0
    )
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )
    return path


@pytest.mark.parametrize(
    "array",
    [GREY8, GREY16, GREY32, FLOAT, FLOAT.astype(np.float64), RGB8, RGB16],
    ids=lambda a: f"{a.dtype}-{a.ndim}d",
)
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize(
    "options", [{}, {"compression": "zlib"}, {"tile": (16, 16)}, {"rowsperstrip": 7}], ids=str
)
def test_tiff_gives_back_what_was_stored(tmp_path, array, byteorder, options):
    path = tmp_path / "a.tif"
    photometric = "rgb" if array.ndim == 3 else "minisblack"
    tifffile.imwrite(path, array, photometric=photometric, byteorder=byteorder, **options)
    image = read_image(path)
    assert image.dtype == array.dtype and image.dtype.isnative
    np.testing.assert_array_equal(image, _with_channels(array))


def test_planar_tiff_is_channels_last(tmp_path):
    path = tmp_path / "a.tif"
    planes = np.moveaxis(RGB16, -1, 0)
    tifffile.imwrite(path, planes, photometric="rgb", planarconfig="separate")
    image = read_image(path)
    np.testing.assert_array_equal(image, RGB16)
    assert image.flags.c_contiguous


@pytest.mark.parametrize(
    "array", [GREY8, GREY16, GREY32, FLOAT, RGB8, BITS], ids=lambda a: f"{a.dtype}-{a.ndim}d"
)
@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits"])
def test_tiff_that_tifffile_cannot_decode(tmp_path, array, compression):
    path = tmp_path / "a.tif"
    Image.fromarray(array).save(path, compression=compression)
    np.testing.assert_array_equal(read_image(path), _with_channels(array))


def test_lzw_pages_in_order(tmp_path):
    path = tmp_path / "a.tif"
    first, *others = [Image.fromarray(GREY8 // (k + 1)) for k in range(3)]
    first.save(path, save_all=True, append_images=others, compression="tiff_lzw")
    for k, page in enumerate(read_pages(path)):
        np.testing.assert_array_equal(page[..., 0], GREY8 // (k + 1))


def test_lzw_that_pillow_would_spoil_is_refused(tmp_path, monkeypatch):
    # Nobody here writes LZW with 16-bit colour, so tifffile is made to miss the decoder.
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, RGB16, photometric="rgb", compression="zlib")
    monkeypatch.setattr("minidl.data.tiff._by_tifffile", lambda page: None)
    with pytest.raises(DataError, match=r"a\.tif: .* compressed TIFF, uint16 .*imagecodecs"):
        read_image(path)


@pytest.mark.parametrize("array", [GREY8, GREY16, BITS], ids=lambda a: str(a.dtype))
def test_miniswhite_is_read_as_seen(tmp_path, array):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, array, photometric="miniswhite")
    white = 1 if array.dtype == bool else np.iinfo(array.dtype).max
    np.testing.assert_array_equal(read_mask(path), white - array.astype(np.int64))


@pytest.mark.parametrize("route", ["tifffile", "pillow"])
@pytest.mark.parametrize("code", range(1, 9))
def test_orientation_is_that_of_a_viewer(tmp_path, code, route):
    exif = Image.Exif()
    exif[0x0112] = code
    path, jpeg = tmp_path / "a.tif", tmp_path / "a.jpg"
    how = {} if route == "tifffile" else {"compression": "tiff_lzw"}
    Image.fromarray(RGB8).save(path, exif=exif, **how)
    Image.fromarray(RGB8).save(jpeg, exif=exif)
    from PIL import ImageOps

    with Image.open(jpeg) as plain:
        expected = np.asarray(ImageOps.exif_transpose(plain))
    np.testing.assert_array_equal(read_image(jpeg), expected)
    assert read_image(path).shape == expected.shape
    # JPEG is lossy, so the TIFF is compared with the exact turn of the exact pixels.
    turned = ImageOps.exif_transpose(_tagged(RGB8, exif))
    np.testing.assert_array_equal(read_image(path), np.asarray(turned))


def _tagged(array, exif):
    import io

    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG", exif=exif)
    return Image.open(buffer)


def test_pages(tmp_path):
    path = tmp_path / "a.tif"
    stack = np.stack([GREY16, GREY16[::-1], GREY16 // 2])
    tifffile.imwrite(path, stack, photometric="minisblack")
    assert page_count(path) == 3
    np.testing.assert_array_equal(np.stack(list(read_pages(path)))[..., 0], stack)
    np.testing.assert_array_equal(np.stack(list(read_mask_pages(path))), stack)
    np.testing.assert_array_equal(read_image(path, page=1)[..., 0], stack[1])
    np.testing.assert_array_equal(read_mask(path, page=2), stack[2])
    with pytest.raises(DataError, match=r"a\.tif: has 3 pages, expected one\. Choose with page=0"):
        read_image(path)
    with pytest.raises(DataError, match=r"page 3 asked for, it has 3"):
        read_mask(path, page=3)


def test_reduced_copies_are_not_pages(tmp_path):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tif:
        tif.write(GREY8, photometric="minisblack")
        tif.write(GREY8[::2, ::2], photometric="minisblack", subfiletype=1)
    assert page_count(path) == 1
    np.testing.assert_array_equal(read_mask(path), GREY8)


def test_further_channels_stay_and_alpha_goes(tmp_path):
    many = RNG.integers(0, 256, (20, 31, 5), dtype=np.uint8)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, many, photometric="minisblack", planarconfig="contig")
    np.testing.assert_array_equal(read_image(path), many)
    tifffile.imwrite(path, many[..., :4], photometric="rgb", extrasamples=["unassalpha"])
    np.testing.assert_array_equal(read_image(path), many[..., :3])
    tifffile.imwrite(
        path,
        many[..., :2],
        photometric="minisblack",
        planarconfig="contig",
        extrasamples=["unassalpha"],
    )
    np.testing.assert_array_equal(read_image(path), many[..., :1])


@pytest.mark.parametrize("array", [GREY8, GREY16, RGB8], ids=lambda a: f"{a.dtype}-{a.ndim}d")
def test_png(tmp_path, array):
    path = tmp_path / "a.png"
    Image.fromarray(array).save(path)
    np.testing.assert_array_equal(read_image(path), _with_channels(array))
    assert read_image(path).dtype == array.dtype


def test_png_loses_its_alpha(tmp_path):
    path = tmp_path / "a.png"
    rgba = np.dstack([RGB8, GREY8])
    Image.fromarray(rgba).save(path)
    np.testing.assert_array_equal(read_image(path), RGB8)
    Image.fromarray(np.dstack([GREY8, GREY8])).save(path)
    np.testing.assert_array_equal(read_image(path)[..., 0], GREY8)


def test_palette_png_image_is_colour_and_mask_is_position(tmp_path):
    path = _palette_png(tmp_path / "a.png")
    np.testing.assert_array_equal(read_mask(path), CLASSES)
    np.testing.assert_array_equal(read_image(path), np.array(PALETTE, np.uint8)[CLASSES])


def test_palette_tiff_image_is_colour_and_mask_is_position(tmp_path):
    path, colours = tmp_path / "a.tif", np.zeros((3, 256), np.uint16)
    colours[:, :3] = np.array(PALETTE, np.uint16).T * 257
    tifffile.imwrite(path, CLASSES, photometric="palette", colormap=colours)
    np.testing.assert_array_equal(read_mask(path), CLASSES)
    np.testing.assert_array_equal(read_image(path), np.array(PALETTE, np.uint8)[CLASSES])


def test_masks_of_16_and_of_1_bit_are_not_scaled(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(GREY16).save(path)
    mask = read_mask(path)
    assert mask.dtype == np.uint16
    np.testing.assert_array_equal(mask, GREY16)
    Image.fromarray(BITS).save(path)
    mask = read_mask(path)
    assert mask.dtype == np.uint8 and mask.max() == 1
    np.testing.assert_array_equal(mask, BITS)


@pytest.mark.parametrize("depth", [2, 4])
def test_grey_png_of_few_bits_keeps_its_numbers(tmp_path, depth):
    path = _raw_png(tmp_path / "a.png", [bytes([0b00011011])] * 2, depth, 0)
    expected = [0, 1, 2, 3] if depth == 2 else [1, 11]
    np.testing.assert_array_equal(read_mask(path), [expected, expected])


def test_16_bit_colour_png_is_refused(tmp_path):
    path = _raw_png(tmp_path / "a.png", [bytes(12)] * 2, 16, 2)
    with pytest.raises(DataError, match=r"a\.png: a 16-bit colour PNG, .*16-bit RGB TIFF"):
        read_image(path)


def test_jpeg(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(np.full((9, 7), 100, np.uint8)).save(path)
    np.testing.assert_array_equal(read_image(path), np.full((9, 7, 1), 100, np.uint8))
    Image.fromarray(RGB8).save(path, quality=95)
    assert read_image(path).shape == RGB8.shape


def test_cmyk_is_refused(tmp_path):
    Image.fromarray(RGB8).convert("CMYK").save(tmp_path / "a.jpg")
    with pytest.raises(DataError, match=r"a\.jpg: colour mode CMYK; .* Save it as RGB"):
        read_image(tmp_path / "a.jpg")
    tifffile.imwrite(tmp_path / "a.tif", np.dstack([RGB8, GREY8]), photometric="separated")
    with pytest.raises(DataError, match=r"a\.tif: colour model SEPARATED; .* Save it as RGB"):
        read_image(tmp_path / "a.tif")


def test_a_tiff_called_png_is_read(tmp_path):
    tifffile.imwrite(tmp_path / "a.png", GREY8, photometric="minisblack")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), GREY8)


def test_colour_mask_is_refused_unless_it_is_grey(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.dstack([CLASSES] * 3)).save(path)
    np.testing.assert_array_equal(read_mask(path), CLASSES)
    Image.fromarray(RGB8).save(path)
    with pytest.raises(DataError, match=r"a\.png: a colour mask .* one number per class"):
        read_mask(path)


def test_float_mask_needs_whole_numbers(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, CLASSES.astype(np.float32), photometric="minisblack")
    mask = read_mask(path)
    assert mask.dtype == np.int32
    np.testing.assert_array_equal(mask, CLASSES)
    tifffile.imwrite(path, FLOAT, photometric="minisblack")
    with pytest.raises(DataError, match=r"a\.tif: a mask with fractions"):
        read_mask(path)


@pytest.mark.parametrize(
    "name, options",
    [
        ("a.png", {}),
        ("a.jpg", {}),
        ("a.tif", {}),
        ("a.tif", {"compression": "tiff_lzw"}),
        ("a.tif", {"compression": "tiff_adobe_deflate"}),
    ],
)
@pytest.mark.parametrize("share", [0.2, 0.6, 0.97])
def test_truncated_files_are_named(tmp_path, name, options, share):
    path = tmp_path / name
    Image.fromarray(RNG.integers(0, 256, (120, 130), dtype=np.uint8)).save(path, **options)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(DataError, match=r"a\.(png|jpg|tif): .*(truncated|cut short)"):
        read_image(path)


def test_tiff_that_loses_its_last_pages_is_named(tmp_path):
    path = tmp_path / "a.tif"
    images = [Image.fromarray(GREY8) for _ in range(4)]
    images[0].save(path, save_all=True, append_images=images[1:])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 6 // 10])
    with pytest.raises(DataError, match=r"a\.tif: truncated: its page 3 points to a page"):
        list(read_pages(path))


def test_other_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.png: no such file"):
        read_image(tmp_path / "none.png")
    (tmp_path / "empty.png").touch()
    with pytest.raises(DataError, match=r"empty\.png: an empty file"):
        read_image(tmp_path / "empty.png")
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(DataError, match=r"text\.png: cannot be read as an image"):
        read_mask(tmp_path / "text.png")


KINDS = [
    MaskKind(),
    MaskKind(".tif"),
    MaskKind(".tif", (0, 1)),
    MaskKind(".png", (0, 1), "bool"),
    MaskKind(".tif", (0, 1), "bool"),
    MaskKind(".png", (0, 1, 2), palette=PALETTE),
    MaskKind(".tif", (0, 1, 2), palette=PALETTE),
    MaskKind(".png", (0, 1000, 65535), "uint16"),
    MaskKind(".tif", (0, 1000, 65535), "uint16"),
    MaskKind(".tif", (-1, 0, 70000), "int32"),
    MaskKind(".png", (0, 1, 70), "int32"),
    MaskKind(".png", (3, 1, 2), ignore=255),
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_written_masks_come_back(tmp_path, kind):
    classes = RNG.integers(0, kind.num_classes, (20, 31))
    if kind.ignore is not None:
        classes[3:5] = -100
    path = write_mask(tmp_path / f"a{kind.suffix}", classes, kind)
    raw = read_mask(path)
    np.testing.assert_array_equal(raw, kind.from_classes(classes))
    np.testing.assert_array_equal(kind.to_classes(raw, path), classes)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    if kind.dtype != "int32":
        storage, palette = files.mask_storage(path)
        assert storage == kind.dtype
        assert (palette is None) == (kind.palette is None)
        if palette is not None:
            np.testing.assert_array_equal(palette[:3], PALETTE)


def test_mask_of_several_pages(tmp_path):
    stack = RNG.integers(0, 2, (3, 8, 9))
    path = write_mask(tmp_path / "a.tif", stack, MaskKind(".tif"))
    np.testing.assert_array_equal(np.stack(list(read_mask_pages(path))), stack * 255)
    with pytest.raises(ValueError, match=r"shape \(3, 8, 9\), expected \(H, W\); a PNG has one"):
        write_mask(tmp_path / "a.png", stack, MaskKind(".png"))


def test_existing_file_stays_unless_asked(tmp_path):
    path = write_mask(tmp_path / "a.png", CLASSES * 0, MaskKind())
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match=r"a\.png exists already.*overwrite=True"):
        write_mask(path, CLASSES * 0 + 1, MaskKind())
    assert path.read_bytes() == before
    write_mask(path, CLASSES * 0 + 1, MaskKind(), overwrite=True)
    assert read_mask(path).min() == 255


@pytest.mark.parametrize(
    "where", ["data.files._write_png", "checkpoint.os.fsync", "checkpoint.os.replace"]
)
def test_failure_while_writing_leaves_the_old_file(tmp_path, monkeypatch, where):
    path = write_mask(tmp_path / "a.png", CLASSES * 0, MaskKind())
    before = path.read_bytes()

    def fail(file, *rest):
        if where.endswith("_write_png"):
            file.write(b"half a file")
        raise OSError("disk full")

    monkeypatch.setattr(f"minidl.{where}", fail)
    with pytest.raises(OSError, match="disk full"):
        write_mask(path, CLASSES * 0 + 1, MaskKind(), overwrite=True)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_wrong_suffix_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a\.tif should end in \.png.*Use a\.png"):
        write_mask(tmp_path / "a.tif", CLASSES, MaskKind(values=(0, 1, 2)))


def test_pages_are_written_one_by_one(tmp_path):
    kind, path = MaskKind(suffix=".tif"), tmp_path / "m.tif"
    pages = [np.eye(3, dtype=np.uint8), np.ones((2, 5), np.int64), np.zeros((4, 1), np.uint8)]
    assert write_mask_pages(path, iter(pages), kind) == path
    for page, read in zip(pages, read_mask_pages(path), strict=True):
        np.testing.assert_array_equal(read, page * 255)
    with pytest.raises(FileExistsError, match=r"write_mask_pages: .*m\.tif exists already"):
        write_mask_pages(path, pages, kind)
    write_mask_pages(path, pages[:1], kind, overwrite=True)
    assert page_count(path) == 1


def test_pages_that_end_in_an_error_leave_no_file(tmp_path):
    def broken():
        yield np.zeros((3, 3), np.uint8)
        raise DataError("page 1 is damaged")

    kind = MaskKind(suffix=".tif")
    with pytest.raises(DataError, match="page 1 is damaged"):
        write_mask_pages(tmp_path / "m.tif", broken(), kind)
    with pytest.raises(ValueError, match=r"write_mask_pages: .*page of shape \(1, 3, 3\)"):
        write_mask_pages(tmp_path / "m.tif", [np.zeros((1, 3, 3), np.uint8)], kind)
    with pytest.raises(ValueError, match=r"a PNG has one page. Use a mask kind of \.tif"):
        write_mask_pages(tmp_path / "m.png", [], MaskKind())
    with pytest.raises(ValueError, match=r"write_mask_pages: .*should end in \.tif"):
        write_mask_pages(tmp_path / "m.tiff", [], kind)
    assert list(tmp_path.iterdir()) == []
