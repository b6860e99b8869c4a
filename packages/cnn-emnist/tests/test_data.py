"""Data, distortions and framing: what only these can know. Reference versions here are slow and obvious on purpose."""

import gc
import gzip
import hashlib
import io
import itertools
import math
import re
import shutil
import struct
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

from cnn_emnist import data, distort, sample
from cnn_emnist.frame import frame, labels, side_of
from etude.download import root
from etude.draw import uniform
from etude.errors import UserError

Draws = Callable[..., Tensor]
BICUBIC = Image.Resampling.BICUBIC


@pytest.fixture(scope="module")
def letters() -> Tensor:
    """52 letters as a font draws them, uint8 [52, 28, 28]."""
    return sample.glyphs(("DejaVuSerif",))[0]


# --- distortions


def every(images: Tensor, ids: np.ndarray) -> list[Tensor]:
    return [
        distort.letters(images, ids, 3, 1),
        distort.clothes(images, ids, 3, 1),
        distort.clothes(images, ids, 3, 1, erase=9),
    ]


@pytest.mark.parametrize("rows", [[0], [5, 2], [51, 0, 17], list(range(0, 52, 3)), list(reversed(range(52)))])
def test_distortion_does_not_depend_on_the_batch(letters: Tensor, rows: list[int]) -> None:
    ids = np.arange(52) * 7 + 1
    for whole, part in zip(every(letters, ids), every(letters[rows], ids[rows]), strict=True):
        assert torch.equal(whole[rows], part)


def test_distortion_follows_id_and_stream(letters: Tensor) -> None:
    same = letters[:1].expand(2, 28, 28)
    for change in (distort.letters, distort.clothes):
        one, other = change(same, np.array([1, 2]), 0, 5)
        assert not torch.equal(one, other)
        assert not torch.equal(one, change(same, np.array([1, 2]), 0, 6)[0])
        assert one.dtype == torch.float32 and one.min() >= 0 and 0.5 < one.max() <= 1


def test_distortions_stay_on_the_device_of_the_images() -> None:
    images = torch.empty(4, 28, 28, dtype=torch.uint8, device="meta")
    assert all(seen.device.type == "meta" and seen.shape == images.shape for seen in every(images, np.arange(4)))


def draws(**fixed: float) -> Draws:
    """Stands in for `uniform`: every number is the neutral 1/2, but for the columns named c0, c1, ..."""

    def drawn(ids: np.ndarray, k: int, *stream: int) -> Tensor:
        u = torch.full((len(ids), k), 0.5)
        for column, value in fixed.items():
            u[:, int(column[1:])] = value
        return u

    return drawn


def test_neutral_draws_leave_letters_as_they_are(letters: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distort, "uniform", draws())
    torch.testing.assert_close(distort.letters(letters, np.arange(52)), letters / 255, atol=2e-5, rtol=0)


@pytest.mark.parametrize("u", [(1.0, 0.5, 0.5, 0.5, 0.5, 0.5), (0.1, 0.9, 0.2, 0.7, 0.95, 0.3)])
def test_affine_part_is_torchs(letters: Tensor, monkeypatch: pytest.MonkeyPatch, u: tuple[float, ...]) -> None:
    monkeypatch.setattr(distort, "uniform", draws(**{f"c{i}": value for i, value in enumerate(u)}))
    turn, slant, wide, high, right, down = (2 * value - 1 for value in u)
    angle = 2 * math.atan(distort.TURN * turn)
    rotation = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    scale = torch.diag(1 + distort.STRETCH * torch.tensor([wide, high]))
    linear = scale @ rotation @ torch.tensor([[1.0, distort.SLANT * slant], [0.0, 1.0]])
    shift = distort.SHIFT * 2 / 28 * torch.tensor([[right], [down]])
    theta = torch.cat([linear, shift], 1).expand(52, 2, 3)
    grid = F.affine_grid(theta, [52, 1, 28, 28], align_corners=False)
    expected = F.grid_sample(letters[:, None] / 255, grid, align_corners=False)[:, 0]
    torch.testing.assert_close(distort.letters(letters, np.arange(52)), expected, atol=1e-4, rtol=0)


def test_the_elastic_field_is_a_cubic_b_spline() -> None:
    def basis(t: float) -> float:  # the textbook's truncated powers
        return sum((-1) ** i * math.comb(4, i) * max(t + 2 - i, 0) ** 3 for i in range(5)) / 6

    knots = uniform(np.arange(7), 3)
    expected = [
        [sum(basis((x + 0.5) / 7 + 1 - j) * knots[j, c] for j in range(7)) for c in range(3)] for x in range(28)
    ]
    torch.testing.assert_close(distort.spline(knots, 28), torch.tensor(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize("erase", [0, 7])
def test_clothes_against_one_image_at_a_time(erase: int) -> None:
    images = (uniform(np.arange(300), 784, 9) * 255 + 1).byte().view(-1, 28, 28)
    ids = np.arange(300) + 40
    seen = distort.clothes(images, ids, 2, 8, erase=erase)
    shifts = set()
    for image, u, got in zip(images.numpy(), uniform(ids, 5, 2, 8).numpy(), seen, strict=True):
        image = image[:, ::-1] if u[0] < 0.5 else image
        down, right = int(u[1] * 5) - 2, int(u[2] * 5) - 2
        shifts.add((u[0] < 0.5, down, right))
        expected = np.pad(image, 2)[2 - down : 30 - down, 2 - right : 30 - right].copy()
        top, left = int(u[3] * 28) - erase // 2, int(u[4] * 28) - erase // 2
        expected[max(top, 0) : max(top + erase, 0), max(left, 0) : max(left + erase, 0)] = 0
        assert torch.equal(got, torch.from_numpy(expected) / 255)
    assert len(shifts) == 50


# --- the sample


def test_sample_is_the_same_at_every_call_and_its_parts_share_no_letter() -> None:
    one, other = data.load("sample", 0), data.load("sample", 1)
    assert one.classes == tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    for a, b in ((one.train, other.train), (one.valid, other.valid), (one.test, other.test)):
        assert torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)
        assert torch.equal(a.labels.bincount(), torch.full((26,), len(a.labels) // 26))
        assert a.images.dtype == torch.uint8 and a.labels.dtype == torch.int64
    assert not {*sample.TRAIN} & {*sample.VALID} and not {*sample.TRAIN, *sample.VALID} & {*sample.TEST}
    plain = [{image.numpy().tobytes() for image in sample.glyphs(fonts)[0]} for fonts in (sample.VALID, sample.TEST)]
    seen = {image.numpy().tobytes() for image in one.train.images}
    assert len(plain[0]) == len(plain[1]) == 208 and not (seen & plain[0] or seen & plain[1] or plain[0] & plain[1])


def test_glyphs_are_framed_as_emnist_frames() -> None:
    images, _ = sample.glyphs(sample.TRAIN)
    assert side_of(images) == sample.SIDE
    for image in images:
        for axis in (0, 1):
            at = (image > 20).any(axis).nonzero()
            assert abs(int(at[0] + at[-1]) - 27) <= 2
        assert image.max() == 255


# --- framing pictures


def picture(letter: Tensor, size: int = 28, dark: bool = False) -> Image.Image:
    drawn = Image.fromarray(letter.numpy()).resize((size, size), BICUBIC)
    return drawn.point(lambda v: 255 - v) if dark else drawn


def away(framed: Tensor, letter: Tensor) -> float:
    """How far two images are from each other: mean absolute difference in grey levels, of 255."""
    return float((framed.float() - letter.float()).abs().mean())


@pytest.mark.parametrize("dark", [False, True])
def test_a_framed_picture_comes_back_as_it_was(letters: Tensor, dark: bool) -> None:
    for letter in letters:
        assert torch.equal(frame(picture(letter, dark=dark), 20), letter)


@pytest.mark.parametrize(("size", "bound"), [(20, 20), (45, 10), (56, 7), (100, 7), (280, 7)])
def test_size_and_polarity_hardly_matter(letters: Tensor, size: int, bound: float) -> None:
    light = [frame(picture(letter, size), 20) for letter in letters]
    dark = [frame(picture(letter, size, dark=True), 20) for letter in letters]
    assert max(away(a, b) for a, b in zip(light, dark, strict=True)) < 0.01
    assert np.mean([away(a, b) for a, b in zip(light, letters, strict=True)]) < bound
    others = [away(a, b) for a, b in zip(letters, letters.roll(1, 0), strict=True)]
    assert np.mean(others) > 2 * bound  # what this is small against: another letter


def test_place_on_the_page_does_not_matter(letters: Tensor) -> None:
    for letter in letters[::5]:
        page = Image.new("L", (220, 150), 255)
        page.paste(picture(letter, 112, dark=True), (90, 20))
        assert torch.equal(frame(page, 20), frame(picture(letter, 112, dark=True), 20))


def modes() -> dict[str, Callable[[Image.Image], Image.Image]]:
    """Ways to keep the same black-on-white picture in a file."""

    def transparent(ink: int) -> Callable[[Image.Image], Image.Image]:
        def drawn(grey: Image.Image) -> Image.Image:
            sheet = Image.new("RGBA", grey.size, (ink, ink, ink, 0))
            sheet.putalpha(grey.point(lambda v: 255 - v))
            return sheet

        return drawn

    def deep(grey: Image.Image) -> Image.Image:
        return Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)

    def animated(grey: Image.Image) -> Image.Image:
        file = io.BytesIO()
        grey.save(file, "GIF", save_all=True, append_images=[Image.new("L", grey.size, 0)])
        moving = Image.open(file)
        moving.seek(1)
        return moving

    def turned(grey: Image.Image) -> Image.Image:
        file, exif = io.BytesIO(), Image.Exif()
        exif[0x0112] = 6  # "rotate by 90 degrees to see it upright"
        grey.transpose(Image.Transpose.ROTATE_90).save(file, "PNG", exif=exif)
        return Image.open(file)

    def on_clear_margin(grey: Image.Image) -> Image.Image:
        sheet = Image.new("RGBA", (grey.width + 40, grey.height + 40))
        sheet.paste(grey, (20, 20))
        return sheet

    plain = {
        mode: (lambda grey, mode=mode: grey.convert(mode)) for mode in ("RGB", "P", "CMYK", "LA", "RGBA", "I", "F")
    }
    return plain | {
        "black on clear": transparent(0),
        "white on clear": transparent(255),
        "clear margin": on_clear_margin,
        "16 bits": deep,
        "animation": animated,
        "turned": turned,
    }


@pytest.mark.parametrize("mode", modes())
def test_mode_does_not_matter(letters: Tensor, mode: str) -> None:
    for letter in letters[::9]:
        plain = picture(letter, 84, dark=True)
        assert away(frame(modes()[mode](plain), 20), frame(plain, 20)) < 1.5


def test_one_bit_will_do(letters: Tensor) -> None:
    for letter in letters[::9]:
        plain = picture(letter, 280, dark=True)
        assert away(frame(plain.point(lambda v: 255 * (v > 127)).convert("1"), 20), frame(plain, 20)) < 8


def photograph(letter: Tensor, seed: int) -> Image.Image:
    """Pencil on paper in uneven light, with noise and dust."""
    dice = np.random.default_rng(seed)
    page = Image.new("L", (640, 480), 0)
    page.paste(Image.fromarray(letter.numpy()).resize((300, 300), BICUBIC), (250, 60))
    y, x = np.mgrid[0:480, 0:640]
    paper = 120 + 90 * x / 640 + 30 * y / 480 - 30 * ((x - 320) / 320) ** 2
    seen = paper * (1 - 0.5 * np.asarray(page) / 255) + dice.normal(0, 8, paper.shape)
    for left, top in dice.integers(0, 475, (30, 2)):
        seen[top : top + 3, left : left + 3] = 40
    return Image.fromarray(seen.clip(0, 255).astype(np.uint8))


def test_uneven_light_noise_and_dust(letters: Tensor) -> None:
    for seed, letter in enumerate(letters[::4]):
        for taken in (photograph(letter, seed), photograph(letter, seed).point(lambda v: 255 - v)):
            assert away(frame(taken, 20), letter) < 18


@pytest.mark.parametrize("side", [20, 24, 28])
def test_the_long_side_is_the_one_asked_for(letters: Tensor, side: int) -> None:
    framed = torch.stack([frame(picture(letter, 140), side) for letter in letters])
    assert side_of(framed) == side
    assert framed.amax((1, 2)).eq(255).all()


@pytest.mark.parametrize("share", [0.2, 0.4, 0.6])
def test_pieces_against_a_flood_fill(share: float) -> None:
    mask = (uniform(np.arange(40), 60, 5) < share).numpy()
    expected, count = np.zeros(mask.shape, int), 0
    for start in zip(*mask.nonzero(), strict=True):
        todo = [start] if not expected[start] else []
        count += len(todo)
        while todo:
            y, x = todo.pop()
            if 0 <= y < 40 and 0 <= x < 60 and mask[y, x] and not expected[y, x]:
                expected[y, x] = count
                todo += [(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    pairs = {*zip(expected.ravel().tolist(), labels(mask).ravel().tolist(), strict=True)}
    assert len(pairs) == count + 1 and len({b for _, b in pairs}) == count + 1 and (0, 0) in pairs


@pytest.mark.parametrize("shape", [(300, 1), (1, 300), (200, 4)])
def test_a_stroke_across_the_whole_picture(shape: tuple[int, int]) -> None:
    dot = Image.new("L", shape, 255)
    dot.paste(0, (0, 0, (shape[0] + 2) // 3, (shape[1] + 2) // 3))
    assert side_of(frame(dot, 20)[None]) == 20


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (28, 28), (300, 200)])
@pytest.mark.parametrize("grey", [0, 90, 255])
def test_a_blank_picture_is_refused(size: tuple[int, int], grey: int) -> None:
    with pytest.raises(UserError, match="no ink in the picture"):
        frame(Image.new("L", size, grey), 20)
    with pytest.raises(UserError, match="no ink"):
        frame(Image.new("RGBA", size, (grey, grey, grey, 0)), 20)
    with pytest.raises(UserError, match="no ink"):
        frame(Image.fromarray(np.full(size, grey * 200, np.uint16)), 20)


def test_bare_noisy_paper_is_refused() -> None:
    noise = np.random.default_rng(0).normal(180, 9, (480, 640)).clip(0, 255).astype(np.uint8)
    for grain in (noise, noise[:40, :40]):
        with pytest.raises(UserError, match="no ink"):
            frame(Image.fromarray(grain), 20)


def dotted(letter: str, pitch: int, size: int, dark: bool) -> tuple[Image.Image, Image.Image]:
    """A letter of dots, as printers and LEDs make them, and the same in one stroke."""
    ink, bare = (0, 255) if dark else (255, 0)
    drawn, whole = (Image.new("L", (420, 420), bare) for _ in range(2))
    pen, stroke = ImageDraw.Draw(drawn), ImageDraw.Draw(whole)
    corners = {"L": [(60, 60), (60, 360), (260, 360)], "Z": [(60, 60), (300, 60), (60, 360), (300, 360)]}
    points: list[tuple[float, float]] = []
    if letter == "O":
        steps = np.linspace(0, 2 * np.pi, 600)
        path = [(210 + 120 * np.cos(t), 210 + 150 * np.sin(t)) for t in steps]
    else:
        path = []
        for (x, y), (u, v) in itertools.pairwise(corners[letter]):
            path += [(x + (u - x) * t, y + (v - y) * t) for t in np.linspace(0, 1, 300)]
    for x, y in path:
        stroke.rectangle((x - size / 2, y - size / 2, x + size / 2, y + size / 2), ink)
        if all((x - u) ** 2 + (y - v) ** 2 >= pitch**2 for u, v in points):
            points.append((x, y))
            pen.ellipse((x - size / 2, y - size / 2, x + size / 2, y + size / 2), ink)
    return drawn, whole


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("letter", ["L", "O", "Z"])
@pytest.mark.parametrize(("pitch", "size"), [(8, 5), (12, 7), (20, 8), (30, 20), (45, 30)])
def test_a_letter_of_dots_is_joined(letter: str, pitch: int, size: int, dark: bool) -> None:
    """Dots of less than a speck each, and of more; with real dust beside them."""
    drawn, _ = dotted(letter, pitch, size, dark)
    ImageDraw.Draw(drawn).point([(400, 10), (10, 405), (404, 200)], 0 if dark else 255)
    framed = frame(drawn, 20)
    off = {other: away(framed, frame(dotted(other, pitch, size, dark)[1], 20)) for other in "LOZ"}
    assert off[letter] < 20 and min(off, key=lambda other: off[other]) == letter
    assert len(np.unique(labels((framed > 60).numpy()))) == 2  # one piece, and what is outside


def test_a_damaged_file_is_named(letters: Tensor, tmp_path: Path) -> None:
    file = tmp_path / "half.png"
    picture(letters[0], 280).save(file)
    file.write_bytes(file.read_bytes()[:-300])
    with Image.open(file) as half, pytest.raises(UserError, match=r"half\.png cannot be read .*save it anew"):
        frame(half, 20)
    picture(letters[0] * 0).save(file)
    with Image.open(file) as blank, pytest.raises(UserError, match=r"no ink in .*half\.png"):
        frame(blank, 20)


# --- idx files


def idx(values: np.ndarray) -> bytes:
    return struct.pack(">HBB", 0, 8, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def small(name: str) -> dict[str, bytes]:
    """Whole idx files of 48 training and 24 test images, none like its transpose, by file name."""
    source = data.SOURCES[name]
    files = {}
    for part, n in zip(source.parts, (48, 24), strict=True):
        images = (uniform(np.arange(n), 784, n) * 255).byte().view(-1, 28, 28).numpy()
        files[part.format("images-idx3")] = idx(images)
        files[part.format("labels-idx1")] = idx((np.arange(n) % len(source.classes) + source.first).astype(np.uint8))
    return files


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ETUDE_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def put(home: Path, name: str) -> Path:
    folder = home / data.SOURCES[name].kind / "raw"
    folder.mkdir(parents=True)
    for file, content in small(name).items():
        (folder / file).write_bytes(content)
    return folder


@pytest.mark.parametrize("name", data.SOURCES)
def test_files_at_hand_are_used(home: Path, name: str) -> None:
    put(home, name)
    source, files = data.SOURCES[name], small(name)
    got = data.load(name, 1)
    raw = [np.frombuffer(files[part.format("images-idx3")], np.uint8)[16:].reshape(-1, 28, 28) for part in source.parts]
    whole, test = (r.transpose(0, 2, 1) if source.transposed else r for r in raw)
    assert (got.test.images.numpy() == test).all()
    assert torch.equal(got.test.labels, torch.arange(24) % len(source.classes))
    label = {image.tobytes(): i % len(source.classes) for i, image in enumerate(whole)}
    parts = [
        {image.numpy().tobytes(): int(c) for image, c in zip(p.images, p.labels, strict=True)}
        for p in (got.train, got.valid)
    ]
    assert parts[0] | parts[1] == label and not parts[0].keys() & parts[1].keys()
    assert len(parts[1]) == 48 // source.valid
    assert torch.equal(data.load(name, 1).valid.images, got.valid.images)
    assert not torch.equal(data.load(name, 2).valid.images, got.valid.images)


@pytest.mark.parametrize("name", data.SOURCES)
@pytest.mark.parametrize("inside", ["", "gzip"])
def test_packed_files_put_by_hand_are_used(home: Path, name: str, inside: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they are published, where torchvision looks for them; EMNIST's archive unpacks to a folder `gzip`."""
    monkeypatch.setattr(data, "fetch", lambda *_: pytest.fail("the network is asked"))
    put(home, name)
    expected = data.load(name, 1)
    folder = home / data.SOURCES[name].kind / "raw"
    (folder / inside).mkdir(exist_ok=True)
    for file, content in small(name).items():
        (folder / file).unlink()
        (folder / inside / f"{file}.gz").write_bytes(gzip.compress(content))
    got = data.load(name, 1)
    for one, other in ((got.train, expected.train), (got.valid, expected.valid), (got.test, expected.test)):
        assert torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)


@pytest.mark.parametrize(
    "spoil", [lambda b: b[:-9], lambda b: b[:3], lambda b: b"no gzip", lambda b: b[:20] + b"x" * 30]
)
def test_a_packed_file_that_is_cut_short_is_named(home: Path, spoil: Callable[[bytes], bytes]) -> None:
    folder = put(home, "mnist")
    file = folder / "t10k-images-idx3-ubyte"
    packed = folder / f"{file.name}.gz"
    packed.write_bytes(spoil(gzip.compress(file.read_bytes())))
    file.unlink()
    with pytest.raises(UserError, match=r"ubyte.gz is not a complete gzip file .*; delete it") as error:
        data.load("mnist", 0)
    assert "\n" not in str(error.value)


FAULTS: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {
    "truncated images": ("train-images-idx3-ubyte", lambda b: b[:-1], "not what it declares"),
    "images with a tail": ("train-images-idx3-ubyte", lambda b: b + b"x", "not what it declares"),
    "a few bytes": ("train-images-idx3-ubyte", lambda b: b[:7], "too short"),
    "header cut": ("t10k-images-idx3-ubyte", lambda b: b[:8], "not what it declares"),
    "nothing": ("t10k-labels-idx1-ubyte", lambda b: b"", "not an idx file of bytes in 1 dimension;"),
    "still packed": ("t10k-labels-idx1-ubyte", gzip.compress, "idx|short"),
    "labels for images": (
        "train-images-idx3-ubyte",
        lambda b: small("mnist")["train-labels-idx1-ubyte"],
        "3 dimensions",
    ),
    "no images": ("train-images-idx3-ubyte", lambda b: idx(np.zeros((0, 28, 28), np.uint8)), "is empty"),
    "larger images": ("train-images-idx3-ubyte", lambda b: idx(np.zeros((48, 32, 32), np.uint8)), "32x32 pixels"),
    "too few labels": ("t10k-labels-idx1-ubyte", lambda b: idx(np.zeros(23, np.uint8)), "23 labels for the 24 images"),
    "a label too high": ("t10k-labels-idx1-ubyte", lambda b: idx(np.full(24, 10, np.uint8)), r"outside 0\.\.9"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_idx_file_is_named(home: Path, fault: str) -> None:
    file, spoil, message = FAULTS[fault]
    path = put(home, "mnist") / file
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(UserError, match=message) as error:
        data.load("mnist", 0)
    assert str(path) in str(error.value) and "delete it" in str(error.value) and "\n" not in str(error.value)


def test_letters_count_from_one(home: Path) -> None:
    path = put(home, "emnist-letters") / "emnist-letters-test-labels-idx1-ubyte"
    path.write_bytes(idx(np.zeros(24, np.uint8)))
    with pytest.raises(UserError, match=r"outside 1\.\.26"):
        data.load("emnist-letters", 0)


def test_an_unknown_set_is_refused() -> None:
    with pytest.raises(UserError, match="no data set 'letters'.*emnist-letters"):
        data.load("letters", 0)


# --- downloads, from a server of our own

Answer = Callable[[BaseHTTPRequestHandler, bytes], None]


def whole(request: BaseHTTPRequestHandler, body: bytes) -> None:
    request.send_response(200)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)


def cut(request: BaseHTTPRequestHandler, body: bytes) -> None:
    request.send_response(200)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body[: len(body) // 2])


class Server(ThreadingHTTPServer):
    """Serves the packed files of a set; `answers` overrides what happens for some."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.answers: dict[str, Answer] = {}
        self.over = threading.Event()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is what these tests are about."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name = self.path.lstrip("/")
        if name not in self.server.files:
            self.send_error(404)
        else:
            self.server.answers.get(name, whole)(self, self.server.files[name])

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that has MNIST and EMNIST, which torchvision is told are there."""
    from torchvision import datasets

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server()
    base = f"http://127.0.0.1:{server.server_port}/"
    packed = {f"{name}.gz": gzip.compress(content) for name, content in small("mnist").items()}
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as inside:
        for name, content in small("emnist-letters").items():
            inside.writestr(f"gzip/{name}.gz", gzip.compress(content))
    server.files = packed | {"gzip.zip": archive.getvalue()}
    md5 = {name: hashlib.md5(content).hexdigest() for name, content in server.files.items()}
    monkeypatch.setattr(datasets.MNIST, "mirrors", [base])
    monkeypatch.setattr(datasets.MNIST, "resources", [(name, md5[name]) for name in packed])
    monkeypatch.setattr(datasets.EMNIST, "url", base + "gzip.zip")
    monkeypatch.setattr(datasets.EMNIST, "md5", md5["gzip.zip"])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()
    thread.join()


def contents(home: Path) -> dict[str, bytes]:
    return {str(file.relative_to(home)): file.read_bytes() for file in home.rglob("*") if file.is_file()}


def complete(name: str) -> dict[str, bytes]:
    return {f"{data.SOURCES[name].kind}/raw/{file}": content for file, content in small(name).items()}


@pytest.mark.parametrize("name", ["mnist", "emnist-letters"])
def test_a_download(server: Server, home: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(data.load(name, 0).test.labels) == 24
    assert contents(home) == complete(name)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("fetching")]
    assert len(said) == 1 and f"http://127.0.0.1:{server.server_port}" in said[0] and str(home) in said[0]
    server.files.clear()  # a second time nothing is fetched
    assert len(data.load(name, 0).test.labels) == 24


def test_only_what_is_missing_is_replaced(server: Server, home: Path) -> None:
    folder = put(home, "mnist")
    own = idx(np.full(24, 7, np.uint8))
    (folder / "t10k-labels-idx1-ubyte").write_bytes(own)
    (folder / "train-images-idx3-ubyte").unlink()
    assert data.load("mnist", 0).test.labels.eq(7).all()
    assert contents(home) == complete("mnist") | {"MNIST/raw/t10k-labels-idx1-ubyte": own}


def stalls(server: Server, in_body: bool) -> Answer:
    def answer(request: BaseHTTPRequestHandler, body: bytes) -> None:
        if in_body:
            cut(request, body)
            request.wfile.flush()
        server.over.wait(60)

    return answer


@pytest.mark.parametrize("name", ["mnist", "emnist-letters"])
@pytest.mark.parametrize("fault", ["404", "truncated", "wrong hash", "stalls", "stalls in the body", "no server"])
def test_a_failed_download_leaves_nothing(
    server: Server, home: Path, name: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = {"mnist": "t10k-images-idx3-ubyte.gz", "emnist-letters": "gzip.zip"}[name]
    good = server.files[file]
    match fault:
        case "404":
            del server.files[file]
        case "truncated":
            server.answers[file] = cut
        case "wrong hash":
            server.files[file] = good[:-1] + b"x"
        case "stalls" | "stalls in the body":
            monkeypatch.setattr(data, "PATIENCE", 0.2)
            server.answers[file] = stalls(server, fault == "stalls in the body")
        case "no server":
            server.shutdown()
            server.server_close()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # torchvision leaves the answer of a refused request open
        with pytest.raises(UserError) as error:
            data.load(name, 0)
        message = str(error.value)
        del error
        gc.collect()
    assert re.fullmatch(f"{name} could not be downloaded .*; try --data fashion-mnist or --data sample, .*", message)
    assert contents(home) == {} and [p.name for p in home.iterdir()] == [data.SOURCES[name].kind]
    if fault != "no server":
        server.answers.clear()
        server.files[file] = good
        monkeypatch.setattr(data, "PATIENCE", 30.0)
        assert len(data.load(name, 0).test.labels) == 24


@pytest.mark.parametrize("killed", [False, True])
def test_an_interrupted_download_starts_over(
    server: Server, home: Path, killed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import mnist

    fetched = mnist.download_and_extract_archive

    def interrupted(url: str, *args: Any, **kwargs: Any) -> None:
        if url.endswith("t10k-images-idx3-ubyte.gz"):
            raise KeyboardInterrupt
        fetched(url, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(mnist, "download_and_extract_archive", interrupted)
        if killed:  # a killed process does not tidy up
            patch.setattr(shutil, "rmtree", lambda *args, **kwargs: None)
        with pytest.raises(KeyboardInterrupt):
            data.load("mnist", 0)
    left = contents(home)
    assert not any(name.startswith("MNIST/") for name in left) and bool(left) == killed
    assert len(data.load("mnist", 0).test.labels) == 24
    assert {name: content for name, content in contents(home).items() if name not in left} == complete("mnist")


def test_fashion_mnist_falls_back_on_the_sample(server: Server, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
    monkeypatch.setattr(datasets.FashionMNIST, "resources", [("t10k-images-idx3-ubyte.gz", "0" * 32)])
    remedy = "try --data sample, which needs no network$"
    with pytest.raises(UserError, match=f"fashion-mnist could not be downloaded .*{remedy}"):
        data.load("fashion-mnist", 0)


def test_a_root_that_cannot_be_written(home: Path) -> None:
    home.write_text("a file where the folder should be")
    with pytest.raises(UserError, match="cannot be written .*set ETUDE_DATA"):
        data.load("mnist", 0)


# --- the real sets


@pytest.mark.real_data
def test_the_letters_are_upright() -> None:
    got = data.load("emnist-letters", 0)
    assert (len(got.train.labels) + len(got.valid.labels), len(got.valid.labels), len(got.test.labels)) == (
        2470,
        247,
        520,
    )
    raw = (root() / "EMNIST/raw/emnist-letters-test-images-idx3-ubyte").read_bytes()
    assert torch.equal(
        got.test.images, torch.tensor(np.frombuffer(raw, np.uint8)[16:]).view(-1, 28, 28).transpose(1, 2)
    )
    train, labels = got.train.images.float(), got.train.labels
    # the mean L has its ink at the left and at the bottom, the mean T at the top, for a reader who knows no file format
    mean_l, mean_t = (train[labels == got.classes.index(c)].mean(0) for c in "LT")
    assert mean_l[:, :14].sum() > mean_l[:, 14:].sum() and mean_l[14:].sum() > mean_l[:14].sum()
    assert mean_t[:14].sum() > mean_t[14:].sum()
    assert side_of(got.train.images) == 20 and got.classes[0] == "A" and len(got.classes) == 26


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_the_published_parts(name: str) -> None:
    got = data.load(name, 0)
    assert [len(part.labels) for part in (got.train, got.valid, got.test)] == [55000, 5000, 10000]
    assert got.test.labels.bincount().tolist() == (
        [1000] * 10 if name == "fashion-mnist" else [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    )
    assert len(got.classes) == 10


@pytest.mark.real_data
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(("size", "bound"), [(20, 20), (28, 0), (56, 7), (100, 7), (280, 7)])
def test_handwriting_survives_files(tmp_path: Path, size: int, bound: float, dark: bool) -> None:
    off = []
    for i, letter in enumerate(data.load("emnist-letters", 0).test.images[:60]):
        picture(letter, size, dark).save(tmp_path / f"{i}.png")
        with Image.open(tmp_path / f"{i}.png") as opened:
            off.append(away(frame(opened, 20), letter))
    assert np.mean(off) <= bound


@pytest.mark.real_data
def test_garments_survive_files() -> None:
    images = data.load("fashion-mnist", 0).test.images[:300]
    side = side_of(images)
    off = [away(frame(picture(image, dark=dark), side), image) for image in images for dark in (False, True)]
    assert side == 28 and np.mean(np.array(off) > 0) < 0.02  # a bag that fills the rim may be taken for the paper
