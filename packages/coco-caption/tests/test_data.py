"""Files -> images with captions, and what is said when they are not what they should be."""

import io
import json
import os
import re
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from coco_caption import data, images, sample
from coco_caption.config import Data
from coco_caption.words import Vocabulary, words
from etude import download
from etude.errors import UserError


def one_line(error):
    message = str(error.value)
    assert "\n" not in message and len(message) < 500
    return message


def names(part):
    return [image.file.name for image in part]


# --- the sample


def test_sample():
    got = data.load(Data(), 0)
    assert [len(part) for part in (got.train, got.valid, got.test)] == [120, 24, 24] and not got.notes
    for image in (*got.train, *got.valid, *got.test):
        assert len(set(image.captions)) == 5
        with Image.open(image.file) as picture:
            assert picture.format == "JPEG" and picture.size == (sample.SIDE, sample.SIDE)
    bytes_of = [image.file.read_bytes() for part in (got.train, got.valid, got.test) for image in part]
    assert len(set(bytes_of)) == len(bytes_of)
    assert data.load(Data(), 7) == got


def test_captions_of_the_sample_are_true():
    """Every colour, number and place that is named is in the scene."""
    from itertools import islice

    for scene in islice(sample.scenes(0), 300):
        colours = {colour for _, colour, _, _ in scene["things"]}
        shapes = {shape for shape, *_ in scene["things"]}
        for caption in scene["captions"]:
            said = words(caption)
            assert colours >= set(said) & set(sample.COLOURS)
            assert shapes >= set(said) & set(sample.SHAPES)
            assert {scene["ground"]} >= set(said) & set(sample.GROUNDS)
            for count, word in sample.COUNTED.items():
                assert word not in said or len(scene["things"]) == count
            if "left" in said and "of" in said and "corner" not in said:
                before, after = caption.lower().split("to the left of")
                first = next(t for t in scene["things"] if t[0] in before)
                other = next(t for t in scene["things"] if t[0] in after)
                assert first[3][0] < other[3][0]


# --- COCO's format


def test_a_folder(coco):
    got = data.load(Data(str(coco(count=20))), 3)
    assert [len(part) for part in (got.train, got.valid, got.test)] == [16, 2, 2]
    assert sorted(names([*got.train, *got.valid, *got.test])) == sorted(f"train{n}.jpg" for n in range(20))
    assert all(image.file.is_file() for image in got.train)
    other = data.load(Data(str(coco(count=20))), 4)
    assert names(other.valid) != names(got.valid)


def test_parts(coco):
    folder = coco(count=20)
    coco(part="val", count=5)
    got = data.load(Data(str(folder)), 0)
    assert [len(part) for part in (got.train, got.valid, got.test)] == [18, 2, 5]
    assert names(got.test) == [f"val{n}.jpg" for n in range(5)]
    coco(part="test", count=4)
    got = data.load(Data(str(folder)), 0)
    assert [len(part) for part in (got.train, got.valid, got.test)] == [20, 5, 4]
    assert names(data.load_test(Data(str(folder)), 0).test) == [f"test{n}.jpg" for n in range(4)]
    few = data.load(Data(str(folder), images=7), 0)
    assert [len(part) for part in (few.train, few.valid, few.test)] == [7, 5, 4]


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_a_folder_with_one_part_can_be_scored(coco, part):
    folder = coco(part=part, count=6)
    assert len(data.load_test(Data(str(folder)), 0).test) == 6
    if part != "train":
        with pytest.raises(UserError, match="no annotations/captions_train"):
            data.load(Data(str(folder)), 0)


def test_where_images_lie(coco, tmp_path):
    folder = coco(count=8)
    for where in ("images", "images/train", "elsewhere", "."):
        (folder / "train").rename(tmp_path / "moved")
        (folder / where).parent.mkdir(exist_ok=True)
        if where == ".":
            for file in (tmp_path / "moved").iterdir():
                file.rename(folder / file.name)
        else:
            (tmp_path / "moved").rename(folder / where)
        assert all(image.file.is_file() for image in data.load_test(Data(str(folder)), 0).test), where
        if where != ".":
            (folder / where).rename(folder / "train")
            if where == "images/train":
                (folder / "images").rmdir()


def test_a_missing_image_is_not_that_of_another_part(coco):
    """Which has the same name in its own folder."""
    folder = coco(count=8)
    held = folder / "val"
    held.mkdir()
    for file in list((folder / "train").iterdir())[:3]:
        file.rename(held / file.name)
    assert all(image.file.is_file() for image in data.load_test(Data(str(folder)), 0).test)  # no part, just a folder
    annotations = folder / "annotations" / "captions_train.json"
    (folder / "annotations" / "captions_val.json").write_bytes(annotations.read_bytes())
    missing = [one.file for part in ("train", "valid") for one in getattr(data.load(Data(str(folder)), 0), part)]
    missing = [file for file in missing if not file.is_file()]
    assert len(missing) == 3 and {file.parent.name for file in missing} == {"train"}


def test_an_entry_for_each_caption_is_one_image(coco):
    """Else an image would be trained on and chosen by."""
    pictures = [{"id": n, "file_name": f"train{n // 2}.jpg"} for n in range(8)]
    said = [{"id": n, "image_id": n, "caption": f"number {n // 4}" if n % 2 else f"said of {n}"} for n in range(8)]
    got = data.load_test(Data(str(coco(pictures, said))), 0)
    assert [(image.id, len(image.captions)) for image in got.test] == [(0, 2), (2, 2), (4, 2), (6, 2)]
    assert any("put together" in note for note in got.notes)


def test_what_is_left_out(coco):
    """Counted, each of it: annotations of no image, images without a caption, empty captions, repeats."""
    pictures = [{"id": n, "file_name": f"train{n}.jpg"} for n in range(6)]
    said = [{"id": n, "image_id": n, "caption": f"number {n}"} for n in range(4)]
    said += [{"id": 90, "image_id": 77, "caption": "of nothing"}, {"id": 91, "image_id": 78, "caption": "nor this"}]
    said += [{"id": 92, "image_id": 0, "caption": ""}, {"id": 93, "image_id": 5, "caption": " . !"}]
    said += [said[0], {"id": 1, "image_id": 2, "caption": "the same id, another caption"}]
    said += [{"id": 95, "image_id": 3, "caption": "\U0001f600 smile \u2764\ufe0f"}]
    got = data.load_test(Data(str(coco([*pictures, pictures[1]], said))), 0)
    assert {image.id: len(image.captions) for image in got.test} == {0: 1, 1: 1, 2: 2, 3: 2}
    assert sorted(got.notes) == sorted(
        [
            *("2 annotations of no image", "2 captions without a word", "1 images listed twice"),
            *("1 annotations listed twice", "2 images without captions"),
        ]
    )
    assert "left out: " in str(got) and "2 annotations of no image" in str(got)


GOOD = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"id": 1, "image_id": 1, "caption": "a"}]}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "is not a JSON file"),
        (b"\xff\xfe\x00", "is not a JSON file"),
        (b"[" * 100_000, "is not a JSON file"),
        (b"[]", "should hold an object"),
        ({}, "no list 'images'"),
        (GOOD | {"annotations": 3}, "no list 'annotations'"),
        (GOOD | {"images": [{"id": 1}]}, r"images\[0\] needs 'file_name', a text"),
        (GOOD | {"images": [{"id": "1", "file_name": "a"}]}, r"images\[0\] needs 'id', a whole number"),
        (GOOD | {"images": [7]}, r"images\[0\] needs 'id'"),
        (GOOD | {"annotations": [*GOOD["annotations"], {"image_id": 1}]}, r"annotations\[1\] needs 'caption', a text"),
        (GOOD | {"annotations": [{"image_id": 1, "caption": None}]}, r"annotations\[0\] needs 'caption'"),
        (GOOD | {"annotations": []}, "has no image with a caption"),
        (
            GOOD | {"images": [*GOOD["images"], {"id": 1, "file_name": "b.jpg"}]},
            "two images with the id 1, a.jpg and b",
        ),
    ],
)
def test_files_that_are_refused(coco, content, says):
    folder = coco()
    file = folder / "annotations" / "captions_train.json"
    file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(UserError, match=says) as error:
        data.load(Data(str(folder)), 0)
    assert one_line(error).startswith(str(file))


def test_names_that_are_refused(coco, tmp_path):
    folder = coco()
    (folder / "annotations" / "captions_train2014.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    for name, says in (
        ("nothing", "there is no data set 'nothing'; choose sample, coco, or"),
        (str(tmp_path / "nowhere"), "there is no folder"),
        (str(tmp_path / "empty"), "has no annotations/captions_train"),
        (str(folder), "several files for one part .captions_train.json, captions_train2014.json."),
    ):
        with pytest.raises(UserError, match=says) as error:
            data.load(Data(name), 0)
        one_line(error)
    with pytest.raises(UserError, match="too few to hold some out"):
        data.load(Data(str(coco(count=2, name="two"))), 0)


# --- images


def picture(mode, size=(40, 30)):
    y, x = np.mgrid[: size[1], : size[0]]
    grey = Image.fromarray((x * 255 // max(1, size[0] - 1)).astype(np.uint8))
    return Image.merge("RGB", (grey, grey, grey)).convert(mode) if mode != "I;16" else None


def similar(got, wanted=None, tolerance=12):
    wanted = wanted or picture("RGB")
    assert got.mode == "RGB" and got.size == wanted.size
    assert np.abs(np.asarray(got).astype(int) - np.asarray(wanted)).mean() < tolerance


@pytest.mark.parametrize(
    ("mode", "ending"),
    [
        *(("RGB", "jpg"), ("L", "jpg"), ("CMYK", "jpg"), ("YCbCr", "jpg"), ("RGB", "png"), ("L", "png"), ("P", "png")),
        *(("1", "png"), ("RGBA", "png"), ("LA", "png"), ("P", "gif"), ("RGB", "bmp"), ("RGB", "webp"), ("F", "tiff")),
        *(("I", "tiff"), ("CMYK", "tiff"), ("LAB", "tiff")),
    ],
)
def test_any_kind_of_image(tmp_path, mode, ending):
    file = tmp_path / f"a.{ending}"
    given = picture("RGB")
    if mode == "LAB":
        from PIL import ImageCms

        there, here = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        given = ImageCms.applyTransform(given, ImageCms.buildTransform(there, here, "RGB", "LAB"))
    elif mode == "I":
        given = Image.fromarray(np.asarray(picture("L")).astype(np.int32) * 257)
    else:
        given = given.convert(mode)
    given.save(file)
    similar(images.read(file), tolerance=90 if mode in "1P" else 12)


def test_sixteen_bits(tmp_path):
    Image.fromarray(np.asarray(picture("L")).astype(np.uint16) * 257).save(tmp_path / "a.png")
    similar(images.read(tmp_path / "a.png"))


def test_transparent_is_white(tmp_path):
    layers = Image.new("RGBA", (4, 4), (200, 0, 0, 0))
    layers.save(tmp_path / "a.png")
    assert images.read(tmp_path / "a.png").getpixel((1, 1)) == (255, 255, 255)


def test_first_frame(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert images.read(tmp_path / "a.gif").getpixel((1, 1)) == (255, 0, 0)


def test_turned_by_exif(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    picture("RGB").save(tmp_path / "a.jpg", exif=exif)
    similar(images.read(tmp_path / "a.jpg"), picture("RGB").rotate(-90, expand=True))


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (9000, 2), (3, 3)])
def test_small_and_long_images(tmp_path, size):
    Image.new("RGB", size, (9, 200, 9)).save(tmp_path / "a.png")
    got = images.read(tmp_path / "a.png")
    assert got.getpixel((0, 0)) == (9, 200, 9)
    assert max(got.size) <= images.LONGEST * min(got.size)


@pytest.mark.parametrize("what", ["truncated", "header", "empty", "text", "missing", "folder", "bomb", "tiff"])
def test_broken_images(tmp_path, what, monkeypatch):
    file = tmp_path / "a.jpg"
    content = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(content, "JPEG")
    whole = content.getvalue()
    match what:
        case "folder":
            file.mkdir()
        case "bomb":
            Image.new("RGB", (64, 64)).save(file, "PNG")  # a JPEG would be decoded at a fraction of its size
            monkeypatch.setattr("etude.images.LARGE", 1000)
            monkeypatch.setattr("etude.images.MOST", 3000)
        case "tiff":
            file.write_bytes(b"II*\0\x08\0\0\0\x01\0\xff\xff" + b"\xff" * 40)
        case "missing":
            pass
        case _:
            cut = {"truncated": whole[: len(whole) // 2], "header": whole[:30], "empty": b"", "text": b"no image"}
            file.write_bytes(cut[what])
    with pytest.raises(images.Broken) as error:
        images.read(file)
    assert str(error.value) and "\n" not in str(error.value)


# --- words


PTB = {  # what Stanford's PTBTokenizer (CoreNLP 3.4.1) makes of it, less pycocoevalcap's punctuation; noted with Java
    "A man's dog doesn't bark .": "a man 's dog does n't bark",
    "two dogs' tails": "two dogs tails",
    "don't can't won't I'm they're we've it'll": "do n't ca n't wo n't i 'm they 're we 've it 'll",
    "mr. smith and mrs. jones at st. john": "mr. smith and mrs. jones at st. john",
    "the u.s. flag at 4:30 p.m.": "the u.s. flag at 4:30 p.m.",
    "50% off, $5.00 & 3/4 cup": "50 % off $ 5.00 & 3/4 cup",
    "a (red) [blue] {green} thing": "a -lrb- red -rrb- -lsb- blue -rsb- -lcb- green -rcb- thing",
    "black/white and/or": "black/white and/or",
    "It's 20th street, 1,000 people": "it 's 20th street 1,000 people",
    "don\u2019t \u201cquote\u201d \u2014 dash": "do n't quote dash",
    "caf\u00e9 na\u00efve \u65e5\u672c": "caf\u00e9 na\u00efve \u65e5\u672c",
    "one...two..three": "one two three",
    "the man's, the dog's.": "the man 's the dog 's",
    "mother-in-law's house": "mother-in-law 's house",
    '2-3 people 3-way t-shirt -- with "text"': "2-3 people 3-way t-shirt with text",
    "a man,a dog;a cat": "a man a dog a cat",
    "colour grey theatre": "colour grey theatre",
    "you cannot": "you can not",
    "": "",
}


def test_words_are_those_of_the_official_tokenizer():
    assert {caption: " ".join(words(caption)) for caption in PTB} == PTB


def test_words_of_anything():
    """Neither white space nor nothing is a word, and long texts take no long."""
    assert words(" \n\t !? \u2764\ufe0f") == ["\u2764"]
    for text in ("a" * 100_000, "a'" * 50_000, "-a" * 50_000, "1," * 50_000, "'" * 100_000, "a.b." * 20_000):
        assert all(word and not re.search(r"\s", word) for word in words(text))


def test_vocabulary():
    vocabulary = Vocabulary.of([["b", "a"], ["a", "c"], ["b", "a"]], 2)
    assert vocabulary.words == ["<end>", "<unk>", "a", "b"]
    assert vocabulary.encode(["a", "c", "b"]) == [2, 1, 3]
    assert vocabulary.decode([3, 2, 0, 2]) == "b a" and vocabulary.decode([0, 0]) == ""


# --- COCO, from a server of our own


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.asked.append(self.path)
        name = self.path.rpartition("/")[2]
        how = server.faults.get(name, "")
        if how == "missing":
            self.send_error(404)
            return
        body = server.files[name]
        first = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if (asked := self.headers.get("Range")) else 0
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(body) - first))
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        if how in ("cut", "silent"):
            self.wfile.write(body[first : len(body) // 2])
            if how == "silent":
                self.wfile.flush()
                server.over.wait()
            return
        self.wfile.write(body[first:])

    def log_message(self, format, *args):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # as many may knock at once

    def handle_error(self, request, client_address):
        """A client that hangs up is what these tests are about."""


@pytest.fixture
def server(tmp_path, monkeypatch):
    """COCO on a small scale: 40 training and 10 validation images, and the archive of their annotations."""
    server = Server(("127.0.0.1", 0), Handler)
    server.files, server.faults, server.asked, server.over = {}, {}, [], threading.Event()
    url = f"http://127.0.0.1:{server.server_port}/"
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as whole:
        for part, count in (("train", 40), ("val", 10)):
            pictures, said = [], []
            for n in range(count):
                content = io.BytesIO()
                Image.new("RGB", (32, 32), (n * 6, 90, 255 - n * 6)).save(content, "JPEG")
                name = f"{part}_{n:03d}.jpg"
                server.files[name] = content.getvalue()
                pictures.append({"id": n, "file_name": name, "coco_url": f"{url}{part}/{name}"})
                said.append({"id": n, "image_id": n, "caption": f"colour number {n % 5}"})
            content = json.dumps({"images": pictures, "annotations": said})
            whole.writestr(f"annotations/captions_{part}2017.json", content)
            whole.writestr(f"annotations/instances_{part}2017.json", "{}")
    server.files["annotations.zip"] = archive.getvalue()
    import hashlib

    monkeypatch.setattr(data, "ARCHIVE", url + "annotations.zip")
    monkeypatch.setattr(data, "MD5", {"2017": hashlib.md5(archive.getvalue()).hexdigest()})
    monkeypatch.setattr(download, "PATIENCE", 3.0)
    monkeypatch.setenv("ETUDE_DATA", str(tmp_path / "data"))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()
    thread.join()


def test_coco_is_fetched_once(server, tmp_path):
    got = data.load(Data("coco"), 0)
    assert [len(part) for part in (got.train, got.valid, got.test)] == [36, 4, 10]
    assert all(
        image.file.read_bytes() == server.files[image.file.name] for image in (*got.train, *got.valid, *got.test)
    )
    assert len(server.asked) == 51
    assert not [*(tmp_path / "data").rglob("*.part")] and not [*(tmp_path / "data").rglob("instances*")]
    assert data.load(Data("coco"), 0) == got and len(server.asked) == 51


def test_only_the_chosen_images_are_fetched(server):
    got = data.load(Data("coco", images=20), 1)
    assert [len(part) for part in (got.train, got.valid, got.test)] == [18, 2, 2]
    assert len(server.asked) == 1 + 22
    assert data.load_test(Data("coco", images=20), 1).test == got.test


def test_what_cannot_be_had_is_named(server, capsys):
    server.faults = {"train_003.jpg": "missing", "train_004.jpg": "cut", "val_001.jpg": "silent"}
    got = data.load(Data("coco"), 0)
    assert len(got.train) + len(got.valid) == 38 and len(got.test) == 9
    (note,) = got.notes
    assert note.startswith("3 images that cannot be read")
    said = capsys.readouterr().err
    assert "train_003.jpg is left out: HTTP Error 404" in said
    assert "train_004.jpg is left out: it ended after" in said
    assert "val_001.jpg is left out: nothing was received for 3 s" in said
    server.faults, server.asked = {}, []
    assert not data.load(Data("coco"), 0).notes  # the next start goes on
    assert sorted(server.asked) == ["/train/train_003.jpg", "/train/train_004.jpg", "/val/val_001.jpg"]


def test_no_network(server):
    server.faults = dict.fromkeys(server.files, "missing") | {"annotations.zip": ""}
    with pytest.raises(
        UserError, match="images of COCO could not be downloaded, such as .*404.*use --data sample"
    ) as e:
        data.load(Data("coco"), 0)
    one_line(e)
    server.faults = dict.fromkeys(server.files, "missing")
    data.MD5["2014"] = ""
    with pytest.raises(UserError, match="COCO's annotations of 2014 could not be downloaded"):
        data.load(Data("coco", year="2014"), 0)


def test_no_address_is_followed_but_the_webs(server, tmp_path, monkeypatch):
    data.coco("2017")
    file = tmp_path / "data/coco/annotations/captions_val2017.json"
    content = json.loads(file.read_text())
    content["images"][0]["coco_url"] = "file:///etc/passwd"
    content["images"][1]["file_name"] = "../../../outside.jpg"
    file.write_text(json.dumps(content))
    got = data.load_test(Data("coco"), 0)
    assert len(got.test) == 9 and "it has no coco_url" in got.notes[0]
    assert all(os.path.realpath(image.file).startswith(str(tmp_path / "data/coco/val2017")) for image in got.test)


def test_a_full_disk_stops_the_download(server, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    data.coco("2017")
    monkeypatch.setattr(download, "transfer", full)
    with pytest.raises(UserError, match="No space left on device") as error:
        data.load(Data("coco"), 0)
    one_line(error)


@pytest.mark.real_data
def test_real_data(real):
    """Stand-ins of COCO and Flickr8k, complete and without a fault; images of both parts have the ids 0, 1, ..."""
    for name, sizes in (("flickr8k", (1800, 200, 500)), ("coco", (72, 8, 159))):
        got = data.load(Data(str(real / name)), 0)
        assert tuple(len(part) for part in (got.train, got.valid, got.test)) == sizes and not got.notes
        assert all(
            image.file.is_file() and len(image.captions) >= 5 for part in (got.train, got.test) for image in part
        )
