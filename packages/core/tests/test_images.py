"""Image files of any kind, and of none."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from etude import images


def gradient(mode="RGB", size=(40, 30)):
    across = (np.arange(size[0]) * 255 // size[0]).astype(np.uint8)
    return Image.fromarray(np.tile(across, (size[1], 1))).convert(mode)


def dds():
    """A DDS file with a pixel format that Pillow does not know: NotImplementedError."""
    header = struct.pack("<7I44x", 124, 0x1007, 8, 8, 0, 0, 0) + struct.pack("<2I4s5I", 32, 4, b"ABCD", 0, 0, 0, 0, 0)
    return b"DDS " + header + bytes(20) + bytes(64)


def png(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def encoded(picture, ending, **how):
    out = io.BytesIO()
    picture.save(out, ending, **how)
    return out.getvalue()


def damaged():
    """Files by name, with what makes no picture of them."""
    whole = encoded(gradient(), "PNG")
    signature, jpeg = whole[:8], encoded(gradient(), "JPEG")
    yield "pixel format.dds", dds()
    yield "empty.png", b""
    yield "text.png", b"Dear sir,\n"
    yield "html.jpg", b"<!doctype html><html></html>"
    yield "half.png", whole[: len(whole) // 2]
    yield "half.jpg", jpeg[: len(jpeg) // 2]
    yield "header.jpg", jpeg[:30]
    yield "no size.png", signature + png(b"IHDR", struct.pack(">2I5B", 0, 0, 8, 0, 0, 0, 0)) + png(b"IEND", b"")
    yield "no pixels.png", signature + png(b"IHDR", struct.pack(">2I5B", 9, 9, 8, 0, 0, 0, 0)) + png(b"IEND", b"")
    yield "colour.png", signature + png(b"IHDR", struct.pack(">2I5B", 9, 9, 7, 5, 0, 0, 0)) + png(b"IEND", b"")
    yield (
        "zlib.png",
        signature
        + png(b"IHDR", struct.pack(">2I5B", 9, 9, 8, 0, 0, 0, 0))
        + png(b"IDAT", b"no zlib")
        + png(b"IEND", b""),
    )
    yield "tags.tiff", b"II*\0\x08\0\0\0\x01\0\xff\xff" + b"\xff" * 40
    yield "frames.gif", b"GIF89a" + struct.pack("<2H3B", 9, 9, 0x80, 0, 0)
    yield "cut.webp", b"RIFF\x10\0\0\0WEBPVP8 "
    yield "cut.bmp", encoded(gradient(), "BMP")[:40]
    yield "cut.ico", b"\0\0\1\0\xff\xff"
    for seed in range(12):  # any bytes behind the beginning of any format
        noise = np.random.default_rng(seed).integers(0, 256, 200, np.uint8).tobytes()
        for ending, beginning in (("png", signature), ("jpg", jpeg[:20]), ("gif", b"GIF89a"), ("tiff", b"MM\0*")):
            yield f"noise {seed}.{ending}", beginning + noise


def test_whatever_a_library_raises_is_the_fault_of_the_file(tmp_path):
    count = 0
    for name, content in damaged():
        file = tmp_path / name
        file.write_bytes(content)
        with pytest.raises(images.Broken) as error:
            images.load(file)
        message = str(error.value)
        assert message and "\n" not in message and len(message) < 250, name
        count += 1
    assert count > 60


@pytest.mark.parametrize(
    "error", [NotImplementedError("pixel format"), IndexError(), struct.error("x"), RecursionError("y"), TypeError("z")]
)
def test_any_error_of_any_plugin(tmp_path, monkeypatch, error):
    gradient().save(tmp_path / "a.png")

    def fail(*_, **__):
        raise error

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
    with pytest.raises(images.Broken, match=str(error) or type(error).__name__):
        images.load(tmp_path / "a.png")


def test_what_is_no_regular_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to("nowhere")
    (tmp_path / "circle.png").symlink_to("circle.png")
    for name, why in (
        ("pipe.png", "it is not a regular file"),
        ("folder.png", "it is a folder"),
        ("link.png", "there is no such file"),
        ("circle.png", "Too many levels of symbolic links"),
        ("/dev/zero", "it is not a regular file"),
        ("x" * 300, "File name too long"),
        ("a\0b", "embedded null"),
    ):
        with pytest.raises(images.Broken, match=why):
            images.load(tmp_path / name)


@pytest.mark.parametrize(
    ("mode", "ending", "expected"),
    [
        *(("RGB", "png", "RGB"), ("L", "png", "L"), ("1", "png", "L"), ("P", "png", "RGB"), ("LA", "png", "RGBA")),
        *(
            ("RGBA", "png", "RGBA"),
            ("I", "tiff", "I"),
            ("F", "tiff", "F"),
            ("CMYK", "jpeg", "RGB"),
            ("L", "gif", "RGB"),
        ),
        *(("CMYK", "tiff", "RGB"), ("RGB", "webp", "RGB")),
    ],
)
def test_every_mode_becomes_one_of_five(tmp_path, mode, ending, expected):
    file = tmp_path / f"a.{ending}"
    gradient().convert(mode).save(file)
    found = images.load(file)
    assert found.mode in (expected, "L") and found.size == (40, 30)


def test_sixteen_bits_palettes_with_alpha_and_animations(tmp_path):
    deep = np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert (np.asarray(images.load(tmp_path / "deep.png")) == deep).all()
    Image.fromarray(deep.astype(">u2")).save(tmp_path / "deep.tiff")
    assert (np.asarray(images.load(tmp_path / "deep.tiff")) == deep).all()
    clear = gradient("P")
    clear.save(tmp_path / "clear.png", transparency=bytes([0] + [255] * 255))
    assert images.load(tmp_path / "clear.png").mode == "RGBA"
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime")]
    for ending in ("gif", "webp", "png", "tiff"):
        file = tmp_path / f"moving.{ending}"
        frames[0].save(file, save_all=True, append_images=frames[1:])
        red, green, _ = images.load(file).convert("RGB").getpixel((4, 4))
        assert red > 240 and green < 15, ending


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("ending", ["jpeg", "png", "tiff", "webp"])
@pytest.mark.parametrize("large", [False, True])
def test_turned_as_exif_says(tmp_path, monkeypatch, turn, ending, large):
    """A mark in one corner is where a viewer would show it; of a picture that is scaled down, too."""
    picture = Image.new("RGB", (64, 32))
    picture.paste("white", (0, 0, 16, 16))
    exif = Image.Exif()
    exif[0x0112] = turn
    picture.save(tmp_path / "a", ending, exif=exif)
    if large:
        monkeypatch.setattr(images, "LARGE", 1000)
    found = np.asarray(images.load(tmp_path / "a").convert("L"))
    assert (found.shape[0] > found.shape[1]) == (turn > 4)
    corners = [found[1, 1], found[1, -2], found[-2, -2], found[-2, 1]]
    assert int(np.argmax(corners)) == [0, 0, 1, 2, 3, 0, 1, 2, 3][turn]


def test_large_pictures_are_averaged_down_without_a_word(tmp_path, monkeypatch):
    """Here 120,000 pixels stand for 200 million."""
    monkeypatch.setattr(images, "LARGE", 50_000)
    monkeypatch.setattr(images, "MOST", 150_000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50_000)
    whole = gradient(size=(400, 300))
    for mode in ("RGB", "L", "P", "1", "RGBA", "LA", "CMYK", "I", "F"):
        file = tmp_path / f"{mode}.tiff"
        (whole.convert("L").convert("I") if mode == "I" else whole.convert(mode)).save(file)
        found = images.load(file)
        assert found.width * found.height < 30_000 and abs(found.width / found.height - 4 / 3) < 0.05
        if mode in ("RGB", "L", "CMYK"):
            small = np.asarray(whole.resize(found.size).convert("L")).astype(int)
            assert np.abs(np.asarray(found.convert("L")).astype(int) - small).mean() < 8
    gradient(size=(400, 400)).save(tmp_path / "huge.png")
    with pytest.raises(images.Broken, match="it has 160,000 pixels, and at most 150,000 are read: scale it down"):
        images.load(tmp_path / "huge.png")
    gradient(size=(800, 400)).save(tmp_path / "huge.jpg")  # decoded at a fraction of its size
    assert images.load(tmp_path / "huge.jpg").size == (100, 50)
    gradient(size=(60_000, 2)).save(tmp_path / "strip.png")
    assert min(images.load(tmp_path / "strip.png").size) >= 1


@pytest.mark.parametrize("turn", [1, 6])
@pytest.mark.parametrize(
    ("size", "least", "by"), [((2048, 1537), 384, 4), ((2048, 1537), 385, 2), ((700, 390), 200, 1)]
)
def test_a_photo_is_decoded_smaller_if_few_pixels_are_asked_for(tmp_path, size, least, by, turn):
    """Never with a shorter side of less, and with the same content, when it is averaged down."""
    rng = np.random.default_rng(0)
    rough = np.asarray(gradient(size=size), np.int16) + rng.normal(0, 9, (size[1], size[0], 1)).astype(np.int16)
    exif = Image.Exif()
    exif[0x0112] = turn
    whole = Image.fromarray(rough.clip(0, 255).astype(np.uint8))
    whole.save(tmp_path / "a.jpg", quality=90, exif=exif)
    full, found = images.load(tmp_path / "a.jpg"), images.load(tmp_path / "a.jpg", least)
    assert found.size == tuple(-(-side // by) for side in full.size) and min(found.size) >= min(least, *full.size)
    small = [np.asarray(one.resize((24, 24), Image.Resampling.LANCZOS)).astype(int) for one in (full, found)]
    assert np.abs(small[0] - small[1]).max() <= 1
    whole.save(tmp_path / "a.png")
    assert images.load(tmp_path / "a.png", least).tobytes() == whole.tobytes(), "other files come as they are"


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("kind", ["bmp", "jpg", "pgm", "png", "tif"])
def test_a_picture_is_no_longer_that_of_its_file(tmp_path, kind, mode):
    """Pillow maps some files into memory: what is written to them later would be seen, and a shorter one would kill."""
    file = tmp_path / f"a.{kind}"
    gradient(mode, (800, 600)).save(file, "PPM" if kind == "pgm" else None)
    found = images.load(file)
    before = np.asarray(found.copy())
    with file.open("r+b") as stream:
        stream.write(bytes(file.stat().st_size))
    assert np.array_equal(np.asarray(found.copy()), before)
    file.write_bytes(b"")
    assert np.array_equal(np.asarray(found.copy()), before) and before.std() > 50


def test_200_megapixels(tmp_path):
    """A real one: Pillow warns of it from 90 million on, and refuses it."""
    file = tmp_path / "scan.png"
    rows = zlib.compressobj(1)
    row = bytes([0]) + bytes([255]) * 2_500
    data = b"".join(rows.compress(row) for _ in range(10_000)) + rows.flush()
    header = struct.pack(">2I5B", 20_000, 10_000, 1, 0, 0, 0, 0)  # one bit a pixel
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + png(b"IHDR", header) + png(b"IDAT", data) + png(b"IEND", b""))
    found = images.load(file)
    assert found.mode == "L" and found.getextrema() == (255, 255) and 0.9 < found.width / found.height / 2 < 1.1
