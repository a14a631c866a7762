"""A folder for each class: formats, modes, splits, damage."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, strategies as st
from PIL import Image

from ntkdist.config import DataConfig, RunConfig
from ntkdist.data import load
from ntkdist.data.readers import folders
from ntkdist.errors import InputError
from ntkdist.runs.inputs import load_inputs

RANDOM = np.random.default_rng(0)


def grey(size=(5, 4)):
    return RANDOM.integers(0, 256, size[::-1], dtype=np.uint8)


def colour(size=(5, 4)):
    return RANDOM.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)


def save(path, pixels, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(path)
    return pixels


def test_png_round_trip_in_sorted_order(tmp_path):
    pixels = {
        name: save(tmp_path / name, colour())
        for name in ("dog/b.png", "dog/a.PNG", "cat/z.png", "ant/0.png")
    }
    read = load(f"images:{tmp_path}")
    order = ["ant/0.png", "cat/z.png", "dog/a.PNG", "dog/b.png"]
    np.testing.assert_array_equal(read.images, [pixels[name] for name in order])
    np.testing.assert_array_equal(read.labels, [0, 1, 2, 2])
    assert read.class_names == ("ant", "cat", "dog")
    assert read.images.dtype == np.uint8


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "Jpg", "jpe", "jfif"])
def test_jpeg_files_are_read_whatever_their_ending(tmp_path, suffix):
    flat = np.full((8, 8, 3), (200, 100, 50), dtype=np.uint8)
    save(tmp_path / f"a/1.{suffix}", flat)
    save(tmp_path / "b/1.png", flat)
    read = load(f"images:{tmp_path}")
    np.testing.assert_allclose(read.images[0].astype(int), read.images[1], atol=4)


def exactly(suffix):
    """Return what saves an image of this kind without loss."""
    return {"lossless": True} if suffix == "webp" else {}


@pytest.mark.parametrize(
    "suffix", ["bmp", "gif", "TIF", "tiff", "webp", "pnm", "ppm", "jp2", "jpx"]
)
def test_other_kinds_of_files_are_read_without_loss(tmp_path, suffix):
    coloured = np.full((8, 8, 3), (255, 0, 51), dtype=np.uint8)
    coloured[:4] = (0, 102, 204)
    save(tmp_path / "b/1.png", coloured)
    (tmp_path / "a").mkdir()
    Image.fromarray(coloured).save(tmp_path / f"a/1.{suffix}", **exactly(suffix))
    read = load(f"images:{tmp_path}")
    assert read.files == (f"a/1.{suffix}", "b/1.png")
    np.testing.assert_array_equal(read.images[0], coloured)


@pytest.mark.parametrize("suffix", ["gif", "tif", "webp"])
def test_of_several_frames_the_first_is_taken(tmp_path, suffix):
    frames = [Image.fromarray(np.full((6, 6, 3), value, dtype=np.uint8)) for value in (40, 200)]
    (tmp_path / "a").mkdir()
    frames[0].save(
        tmp_path / f"a/1.{suffix}", save_all=True, append_images=frames[1:], **exactly(suffix)
    )
    save(tmp_path / "b/1.png", np.full((6, 6, 3), 40, dtype=np.uint8))
    read = load(f"images:{tmp_path}")
    np.testing.assert_array_equal(read.images[0], read.images[1])


@pytest.mark.parametrize("suffix", ["heic", "AVIF", "jxl", "tga", "CR3"])
def test_images_that_are_not_read_are_refused_and_not_left_out(tmp_path, suffix):
    for name in ("a/1.png", "b/1.png"):
        save(tmp_path / name, grey())
    for name in ("b/2", "b/3"):
        (tmp_path / f"{name}.{suffix}").write_bytes(b"x")
    text = message_of(tmp_path)
    assert f"{tmp_path}/b/2.{suffix} and 1 other: images of this kind are not read" in text
    assert "convert them to PNG" in text


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (np.full((4, 5), 0.5, np.float32), "floating-point numbers; save it with 8 or 16 bits"),
        (np.full((4, 5), 1 << 20, np.int32), "need more than 16 bits"),
    ],
)
def test_pixels_that_do_not_fit_sixteen_bits_are_refused(tmp_path, pixels, reason):
    for name in ("a/1.tif", "b/1.tif"):
        save(tmp_path / name, np.full((4, 5), 7, np.int32))
    save(tmp_path / "b/2.tif", pixels)
    text = message_of(tmp_path)
    assert f"{tmp_path}/b/2.tif cannot be read (" in text
    assert reason in text


@pytest.mark.parametrize("mode", ["1", "L", "LA"])
def test_grey_images_keep_one_channel(tmp_path, mode):
    black_and_white = np.where(grey() > 127, 255, 0).astype(np.uint8)
    save(tmp_path / "a/1.png", black_and_white, mode)
    save(tmp_path / "b/1.png", black_and_white)
    read = load(f"images:{tmp_path}")
    assert read.images.shape == (2, 4, 5, 1)
    for image in read.images:
        np.testing.assert_array_equal(image[..., 0], black_and_white)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_one_colour_image_makes_all_rgb(tmp_path, mode):
    flat = np.full((4, 5, 3), (255, 0, 51), dtype=np.uint8)
    save(tmp_path / "a/1.png", flat, mode)
    shade = save(tmp_path / "b/1.png", grey())
    read = load(f"images:{tmp_path}")
    np.testing.assert_array_equal(read.images[0], flat)
    np.testing.assert_array_equal(read.images[1], np.repeat(shade[..., None], 3, axis=2))


def test_transparent_palette_gives_its_colours(tmp_path):
    image = Image.new("P", (2, 2), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    for name in "ab":
        (tmp_path / name).mkdir()
    image.save(tmp_path / "a/1.png", transparency=b"\x00\x80")
    image.save(tmp_path / "b/2.png")
    np.testing.assert_array_equal(load(f"images:{tmp_path}").images[:, 1, 1], [[10, 20, 30]] * 2)


def png(values, exif=b""):
    """Return a PNG file of uint16 pixels (H, W, C), which Pillow does not write."""

    def part(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    height, width, channels = values.shape
    header = struct.pack(">IIBB3x", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels])
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    head = b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header)
    head += part(b"eXIf", exif) if exif else b""
    return head + part(b"IDAT", zlib.compress(lines)) + part(b"IEND", b"")


def tiff(values, order, compressed):
    """Return a TIFF file of uint16 pixels (H, W, 3)."""
    (height, width, channels), data = values.shape, values.astype(f"{order}u2").tobytes()
    data = zlib.compress(data) if compressed else data
    at = 8 + 2 + 12 * 9 + 4
    longs = {
        256: width, 257: height, 258: at, 259: 8 if compressed else 1, 262: 2, 273: at + 6,
        277: channels, 278: height, 279: len(data),
    }  # fmt: skip
    entries = b"".join(
        struct.pack(f"{order}HHII", tag, 3, 3, value)
        if tag == 258
        else struct.pack(f"{order}HHII", tag, 4, 1, value)
        for tag, value in longs.items()
    )
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HIH", 42, 8, len(longs))
    return head + entries + struct.pack(f"{order}I3H", 0, 16, 16, 16) + data


def sixteen(channels, high=65536):
    return RANDOM.integers(0, high, (4, 5, channels), dtype=np.uint16)


@pytest.mark.parametrize("high", [256, 4096, 65536])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_grey_keeps_every_level(tmp_path, suffix, high):
    images = [sixteen(1, high) for _ in range(2)]
    for name, image in zip("ab", images, strict=True):
        save(tmp_path / f"{name}/1.{suffix}", image[..., 0])
    read = load(f"images:{tmp_path}").images
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, images)


@pytest.mark.parametrize(
    ("suffix", "write"),
    [
        ("png", png),
        ("tif", lambda x: tiff(x, "<", compressed=False)),
        ("tif", lambda x: tiff(x, ">", compressed=False)),
        ("tif", lambda x: tiff(x, "<", compressed=True)),
        ("tif", lambda x: tiff(x, ">", compressed=True)),
    ],
)
@pytest.mark.parametrize("high", [256, 65536])
def test_sixteen_bit_colours_keep_every_level(tmp_path, suffix, write, high):
    images = [sixteen(3, high), sixteen(3, high), sixteen(1, high)]
    for name in "ab":
        (tmp_path / name).mkdir()
    for i, image in enumerate(images[:2]):
        (tmp_path / f"a/{i}.{suffix}").write_bytes(write(image))
    (tmp_path / "b/2.png").write_bytes(png(images[2]))
    read = load(f"images:{tmp_path}").images
    np.testing.assert_array_equal(read, [np.broadcast_to(image, (4, 5, 3)) for image in images])


def test_sixteen_bit_alpha_is_dropped_beside_colours_and_refused_beside_grey(tmp_path):
    images = [sixteen(4), sixteen(4)]
    for name, image in zip("ab", images, strict=True):
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}/1.png").write_bytes(png(image))
    np.testing.assert_array_equal(
        load(f"images:{tmp_path}").images, [image[..., :3] for image in images]
    )
    (tmp_path / "b/1.png").write_bytes(png(sixteen(2)))
    text = message_of(tmp_path)
    assert "b/1.png cannot be read (its pixels have 16 bits in an arrangement of which only" in text


@pytest.mark.parametrize("with_colour", [False, True])
def test_eight_and_sixteen_bits_in_one_folder_are_refused(tmp_path, with_colour):
    save(tmp_path / "a/1.png", colour((3, 2)) if with_colour else grey((3, 2)))
    save(tmp_path / "b/1.png", np.full((2, 3), 300, np.uint16))
    assert (
        f"{tmp_path}/a/1.png has 8 bits a channel but {tmp_path}/b/1.png 16, so that their pixels "
        "may be on different scales; save all with the same number of bits"
    ) in message_of(tmp_path)


def test_colours_of_sixteen_bits_a_pixel_have_eight_or_fewer_a_channel(tmp_path):
    save(tmp_path / "a/1.bmp", colour())
    head = bytearray((tmp_path / "a/1.bmp").read_bytes()[:54]) + bytes(2 * 6 * 4)
    head[28:30] = struct.pack("<H", 16)
    (tmp_path / "b").mkdir()
    (tmp_path / "b/1.bmp").write_bytes(head)
    assert load(f"images:{tmp_path}").images.dtype == np.uint8


def test_a_damaged_file_of_sixteen_bits_is_named(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}/1.png").write_bytes(png(RANDOM.integers(0, 9, (60, 60, 3), np.uint16)))
    data = (tmp_path / "b/1.png").read_bytes()
    (tmp_path / "b/1.png").write_bytes(data[: len(data) // 2])
    assert f"{tmp_path}/b/1.png cannot be read (" in message_of(tmp_path)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_sixteen_bits_are_turned_as_their_tag_says(tmp_path, channels):
    exif = Image.Exif()
    exif[0x0112] = 6
    images = [sixteen(channels), sixteen(channels)]
    for name, image in zip("ab", images, strict=True):
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}/1.png").write_bytes(png(image, exif.tobytes()[6:]))
    read = load(f"images:{tmp_path}").images
    np.testing.assert_array_equal(read, [np.rot90(image, -1) for image in images])


def test_portable_maps_of_sixteen_bits_keep_every_level_of_grey_and_are_refused_in_colour(tmp_path):
    images = [sixteen(1), sixteen(1)]
    for name, image in zip("ab", images, strict=True):
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}/1.pgm").write_bytes(b"P5 5 4 65535\n" + image.astype(">u2").tobytes())
    np.testing.assert_array_equal(load(f"images:{tmp_path}").images, images)
    coloured = b"P6 5 4 65535\n" + sixteen(3).astype(">u2").tobytes()
    (tmp_path / "b/2.ppm").write_bytes(coloured)
    assert "b/2.ppm cannot be read (its pixels have 16 bits in an arr" in message_of(tmp_path)


def test_colours_of_jpeg_2000_with_more_than_eight_bits_are_refused(tmp_path):
    for name in ("a/1.jp2", "b/1.jp2"):
        save(tmp_path / name, colour())
    assert load(f"images:{tmp_path}").images.dtype == np.uint8
    data = bytearray((tmp_path / "b/1.jp2").read_bytes())
    at = data.index(b"\xff\x4f\xff\x51") + 42
    data[at : at + 9 : 3] = bytes([15, 15, 15])
    (tmp_path / "b/1.jp2").write_bytes(data)
    assert "b/1.jp2 cannot be read (its pixels have 16 bits in an arr" in message_of(tmp_path)


def test_scaled_images_of_sixteen_bits_keep_their_depth(tmp_path):
    image = sixteen(1, 256)
    for name in "ab":
        save(tmp_path / f"{name}/1.png", np.kron(image[..., 0], np.ones((2, 2), np.uint16)))
    read = load(f"images:{tmp_path}", size="4x5").images
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, [image, image])
    save(tmp_path / "a/1.png", image[..., 0])
    np.testing.assert_array_equal(load(f"images:{tmp_path}", size="4x5").images, [image, image])


def test_a_run_of_sixteen_bits_has_all_levels_in_the_kernel_and_stretched_pictures(tmp_path):
    images = [sixteen(1, 256) + np.uint16(1000) for _ in range(4)]
    for i, image in enumerate(images):
        save(tmp_path / f"{i % 2}/{i}.png", image[..., 0])
    stacked = np.stack([images[i] for i in (0, 2, 1, 3)])
    inputs = load_inputs(RunConfig(run="r", data=DataConfig(source=f"images:{tmp_path}")))
    centred = stacked - stacked.mean()
    np.testing.assert_allclose(inputs.images, centred / centred.std(), rtol=1e-5, atol=1e-6)
    low, high = int(stacked.min()), int(stacked.max())
    np.testing.assert_allclose(
        inputs.pictures, (stacked - low) * (255 / (high - low)), atol=0.5000001
    )


def test_train_and_test_folders_are_the_splits(tmp_path):
    for name in ("train/a/1.png", "train/b/1.png", "train/c/1.png", "test/b/1.png", "test/c/2.png"):
        save(tmp_path / name, grey())
    train, test = load(f"images:{tmp_path}"), load(f"images:{tmp_path}", "test")
    np.testing.assert_array_equal(train.labels, [0, 1, 2])
    np.testing.assert_array_equal(test.labels, [1, 2])  # numbered as in train
    assert train.class_names == test.class_names == ("a", "b", "c")


def test_classes_called_train_and_test_are_classes(tmp_path):
    save(tmp_path / "train/1.png", grey())
    save(tmp_path / "test/1.png", grey())
    assert load(f"images:{tmp_path}").class_names == ("test", "train")


def test_other_files_and_hidden_ones_are_passed_over(tmp_path):
    for name in ("a/1.png", "b/1.png"):
        save(tmp_path / name, grey())
    (tmp_path / "a/._1.png").write_bytes(b"resource fork")
    (tmp_path / "a/Thumbs.db").write_bytes(b"x")
    (tmp_path / "README.txt").write_text("x")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "__MACOSX").mkdir()
    assert len(load(f"images:{tmp_path}")) == 2


def message_of(tmp_path, split="train", **kwargs):
    with pytest.raises(InputError) as caught:
        load(f"images:{tmp_path}", split, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_two_sizes_name_both_files(tmp_path):
    save(tmp_path / "a/1.png", grey((5, 4)))
    save(tmp_path / "b/2.png", grey((6, 4)))
    text = message_of(tmp_path)
    assert f"{tmp_path}/a/1.png has 5x4 pixels but {tmp_path}/b/2.png 6x4; scale all" in text
    assert "with --data.size 32" in text


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("2.png", lambda d: b""),
        ("2.png", lambda d: b"not an image"),
        ("2.png", lambda d: d[: len(d) // 2]),
        ("2.jpg", lambda d: d[: len(d) // 2]),
        ("2.bmp", lambda d: d[: len(d) // 2]),
        ("2.gif", lambda d: d[: len(d) // 2]),
        ("2.tif", lambda d: d[: len(d) // 2]),
        ("2.webp", lambda d: d[: len(d) // 2]),
        ("2.png", lambda d: d[:45] + bytes([d[45] ^ 255]) + d[46:]),
        ("2.png", lambda d: d[:16] + b"\x7f\xff\xff\xff" * 2 + d[24:]),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, damage):
    save(tmp_path / "a/1.png", colour((40, 30)))
    path = tmp_path / "b" / name
    save(path, colour((40, 30)))
    path.write_bytes(damage(path.read_bytes()))
    text = message_of(tmp_path)
    assert f"{path} cannot be read (" in text
    assert text.endswith("; repair or remove it")


def test_another_format_under_a_png_name_is_refused(tmp_path):
    save(tmp_path / "a/1.png", grey())
    save(tmp_path / "b/1.png", grey())
    Image.fromarray(grey()).save(tmp_path / "a/2.png", format="PCX")
    assert "a/2.png cannot be read (not a PNG, JPEG, JPEG 2000," in message_of(tmp_path)


def test_a_folder_without_images_is_refused(tmp_path):
    assert "holds no class folders (0 images lie in it directly)" in message_of(tmp_path)
    save(tmp_path / "1.png", grey())
    assert "(1 images lie in it directly); put the images of each class" in message_of(tmp_path)
    (tmp_path / "a").mkdir()
    assert (
        f"{tmp_path}/a holds no PNG, JPEG, JPEG 2000, BMP, GIF, TIFF, WebP or PNM file; "
        in message_of(tmp_path)
    )


def test_a_split_that_is_not_there_is_refused(tmp_path):
    save(tmp_path / "a/1.png", grey())
    assert f"has no test split; put the class folders into {tmp_path}/train" in message_of(
        tmp_path, "test"
    )
    save(tmp_path / "train/a/1.png", grey())
    assert "has no class folders under test/" in message_of(tmp_path, "test")


def test_one_image_is_refused(tmp_path):
    save(tmp_path / "a/1.png", grey())
    assert "N = 1 images; a Gram matrix needs at least 2" in message_of(tmp_path)


def two_classes(tmp_path, *more):
    for name in ("a/1.png", "b/1.png", *more):
        save(tmp_path / name, grey())


def notes_of(tmp_path, split="train"):
    return load(f"images:{tmp_path}", split).notes


def test_what_is_read_whole_has_no_notes(tmp_path):
    two_classes(tmp_path)
    (tmp_path / "a/.hidden").write_bytes(b"x")
    (tmp_path / "a/Thumbs.db").write_bytes(b"x")
    (tmp_path / "a/empty").mkdir()
    assert notes_of(tmp_path) == ()


def test_images_in_folders_inside_a_class_are_counted(tmp_path):
    two_classes(tmp_path, "a/old/1.png", "a/old/deep/2.JPG", "b/old/3.png")
    assert notes_of(tmp_path) == (
        "3 images in folders inside class folders are not read: a/old (2), b/old (1)",
    )
    for name in ("a/1.png", "b/1.png"):
        (tmp_path / name).unlink()
    assert f"{tmp_path}/a holds no" in message_of(tmp_path)
    assert "2 images lie in folders inside it: move them into it" in message_of(tmp_path)
    assert f"if those are the classes, give {tmp_path}/a as the source" in message_of(tmp_path)


def test_other_files_of_a_class_are_counted(tmp_path):
    two_classes(tmp_path)
    for name in ("a/photo", "a/notes.txt", "b/photo", "b/x.TXT"):
        (tmp_path / name).write_bytes(b"x")
    (note,) = notes_of(tmp_path)
    assert note == (
        "4 other files in class folders are not read (2 .txt, 2 without a suffix): "
        "a/notes.txt, a/photo, b/photo, b/x.TXT"
    )
    (tmp_path / "b/1.png").unlink()
    assert "it holds 1 without a suffix, 1 .txt: give the files the suffix of" in message_of(
        tmp_path
    )


def test_folders_and_images_beside_what_is_read_are_counted(tmp_path):
    for split in ("train", "test", "val"):
        two_classes(tmp_path / split)
    save(tmp_path / "loose.png", grey())
    save(tmp_path / "train/loose.png", grey())
    for split in ("train", "test"):
        beside, loose = notes_of(tmp_path, split)
        assert beside == "2 images in folders beside train and test are not read: val (2)"
        assert "beside class folders" in loose
        assert "not read: loose.png" in loose


@pytest.mark.parametrize("name", ["a/2.png", "a/notes", "c"])
def test_a_link_that_leads_nowhere_is_refused(tmp_path, name):
    two_classes(tmp_path)
    (tmp_path / name).symlink_to(tmp_path / "gone")
    assert f"{tmp_path / name}: a link to what does not exist; repair" in message_of(tmp_path)


def test_links_to_images_and_folders_are_read(tmp_path):
    two_classes(tmp_path / "there")
    (tmp_path / "set/a").mkdir(parents=True)
    (tmp_path / "set/a/1.png").symlink_to(tmp_path / "there/a/1.png")
    (tmp_path / "set/b").symlink_to(tmp_path / "there/b")
    assert load(f"images:{tmp_path / 'set'}").files == ("a/1.png", "b/1.png")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("tag", [1, 3, 6, 8])
@pytest.mark.parametrize("size", [None, "3x4"])
def test_images_are_turned_as_their_tag_says(tmp_path, suffix, tag, size):
    upright = np.zeros((16, 8, 3), np.uint8)
    upright[:8] = 255
    turned = (
        Image.fromarray(upright).transpose(
            {1: 0, 3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90}.get(
                tag, Image.Transpose.ROTATE_270
            )
        )
        if tag > 1
        else Image.fromarray(upright)
    )
    exif = Image.Exif()
    exif[0x0112] = tag
    save(tmp_path / "b/1.png", upright)
    (tmp_path / "a").mkdir()
    turned.save(tmp_path / f"a/1.{suffix}", exif=exif, **exactly(suffix))
    read = load(f"images:{tmp_path}", size=size)
    np.testing.assert_allclose(read.images[0].astype(int), read.images[1], atol=3)
    expected = f"1 image is turned as its EXIF tag says: 1.{suffix}"
    assert read.notes == (() if tag == 1 else (expected,))


def test_large_photographs_are_read_without_a_warning_up_to_a_limit(tmp_path, monkeypatch):
    two_classes(tmp_path)
    save(tmp_path / "a/2.png", np.zeros((30, 40), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow warns above it, up to its double
    assert load(f"images:{tmp_path}", size=4).images.shape == (3, 4, 4, 1)
    save(tmp_path / "a/2.png", np.zeros((50, 50), np.uint8))
    text = message_of(tmp_path, size=4)
    assert (
        text
        == f"{tmp_path}/a/2.png has more than 2,000 pixels, the most that are read; scale it down"
    )


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    two_classes(tmp_path)

    def refused(path, **_):  # a test may run with the rights to read everything
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Image, "open", refused)
    assert "/a/1.png cannot be read (Permission denied); " in message_of(tmp_path)


def test_damaged_metadata_do_not_matter(tmp_path):
    two_classes(tmp_path)
    Image.fromarray(grey()).save(tmp_path / "a/2.png", exif=b"Exif\x00\x00garbage")
    assert len(load(f"images:{tmp_path}")) == 3


def test_spellings_of_one_folder_name_are_one_class(tmp_path):
    for name in ("train/caf\u00e9/1.png", "train/b/1.png", "test/cafe\u0301/1.png", "test/b/2.png"):
        save(tmp_path / name, grey())
    save(tmp_path / "train/\ufeffb/3.png", grey())
    train, test = load(f"images:{tmp_path}"), load(f"images:{tmp_path}", "test")
    assert train.class_names == test.class_names == ("b", "caf\u00e9")
    assert train.notes == (r"2 folders are read as one class, 'b': 'b', '\ufeffb'",)
    assert test.notes == ()
    assert train.labels.tolist() == [0, 0, 1]
    assert test.labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("Cat", "cat"), "class 'cat' is the folder {0}/cat, but 'Cat' is the folder {0}/Cat"),
        (("nan", "cat"), "{0}/nan: the name of this folder stands for a missing label"),
    ],
)
def test_folder_names_that_are_no_classes_are_refused(tmp_path, names, said):
    for name in names:
        save(tmp_path / name / "1.png", grey())
    assert said.format(tmp_path) in message_of(tmp_path)


def test_folders_of_one_class_are_refused_before_they_are_read(tmp_path):
    save(tmp_path / "a/1.png", grey())
    (tmp_path / "a/2.png").write_bytes(b"x")
    assert "all 2 labels are 'a'; at least two classes are needed" in message_of(tmp_path)


def test_runs_among_the_images_are_no_classes(tmp_path):
    two_classes(tmp_path)
    for place in ("runs/x", "run", "a/run"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "zarr.json").write_text("{}")
    read = load(f"images:{tmp_path}")
    assert (read.class_names, read.notes) == (("a", "b"), ())


def test_folders_with_images_are_classes_whatever_else_they_hold(tmp_path):
    two_classes(tmp_path, "__background__/1.png", "c/1.png", "__MACOSX/1.png")
    (tmp_path / "c/zarr.json").write_text("{}")
    read = load(f"images:{tmp_path}")
    assert read.class_names == ("__background__", "a", "b", "c")
    assert read.notes == ("1 other file in class folders is not read (1 .json): c/zarr.json",)


# what Pillow writes without loss, by the ending and the mode of the pixels
LOSSLESS = [
    *[(suffix, mode) for suffix in ("png", "tif") for mode in ("1", "L", "I;16", "RGB", "RGBA")],
    ("bmp", "L"), ("bmp", "RGB"), ("pgm", "L"), ("ppm", "RGB"), ("webp", "RGB"),
    *[("tif", mode) for mode in ("I", "I;16B")],
]  # fmt: skip


@given(
    st.sampled_from(LOSSLESS), st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.integers(0, 1000),
)  # fmt: skip
def test_files_of_every_kind_mode_and_shape_are_read_as_written(kind, shape, seed):
    suffix, mode = kind
    random = np.random.default_rng(seed)
    if mode in ("I;16", "I;16B", "I"):
        dtype = {"I": "<i4", "I;16": "<u2", "I;16B": ">u2"}[mode]
        images = [random.integers(0, 1 << 16, shape).astype(dtype) for _ in range(2)]
        pictures = [Image.fromarray(image) for image in images]
    else:
        colours = {"RGB": (3,), "RGBA": (4,)}.get(mode, ())
        images = [random.integers(0, 256, (*shape, *colours), dtype=np.uint8) for _ in range(2)]
        images = [np.where(image > 99, 255, 0) if mode == "1" else image for image in images]
        pictures = [Image.fromarray(image.astype(np.uint8)) for image in images]
        pictures = [image.convert("1") if mode == "1" else image for image in pictures]
    with TemporaryDirectory() as folder:
        for name, picture in zip("ab", pictures, strict=True):
            (Path(folder) / name).mkdir()
            picture.save(f"{folder}/{name}/1.{suffix}", **exactly(suffix))
        read = load(f"images:{folder}").images
    assert read.dtype == (np.uint16 if mode.startswith("I") else np.uint8)
    wanted = np.stack(images).reshape(2, *shape, -1)[..., :3]
    np.testing.assert_array_equal(read, wanted)


@pytest.mark.parametrize(
    ("place", "what"), [(b"caf\xe9/x.png", "folder of a class"), (b"a/\xe9.png", "file")]
)
def test_names_that_are_not_utf8_are_refused_before_anything_is_decoded(
    tmp_path, monkeypatch, place, what
):
    for path in (b"a/x.png", b"b/x.png", place):
        file = os.path.join(os.fsencode(tmp_path), path)
        os.makedirs(os.path.dirname(file), exist_ok=True)
        with open(file, "wb") as opened:
            Image.new("L", (3, 3)).save(opened, format="png")
    monkeypatch.setattr(folders, "decode", None)
    with pytest.raises(InputError, match=f"the name of (the |a ){what}, .*\\\\udce9.*rename it"):
        load(f"images:{tmp_path}")
