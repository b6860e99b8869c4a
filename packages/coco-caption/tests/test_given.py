"""Images and captions that are not what they seem: of another folder, in another form, others under the same name."""

import json
import re
import time

import numpy as np
import pytest
import torch
from PIL import Image

from coco_caption import data, task
from coco_caption.__main__ import main
from coco_caption.config import Config, Data, Encoder
from coco_caption.words import words
from etude import config
from etude.errors import UserError

SMALL = ["--encoder.backbone", "squeezenet1_1", "--encoder.weights", "random", "--model.hidden", "8"]
SMALL += ["--model.embedding", "8", "--fit.epochs", "1", "--text.threshold", "1", "--search.beam", "1"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def folder_of(tmp_path, names, there, parts=("train",)):
    """Annotations that name images, of which some are there, each of another colour."""
    folder = tmp_path / "set"
    for n, name in enumerate(there):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (n * 9 % 256, n * 31 % 256, 99)).save(folder / name)
    images = [{"id": n, "file_name": name} for n, name in enumerate(names)]
    said = [
        {"id": n, "image_id": n, "caption": f"This is {name.replace('/', ' ')[:-4]}."} for n, name in enumerate(names)
    ]
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    for part in parts:
        content = json.dumps({"images": images, "annotations": said})
        (folder / "annotations" / f"captions_{part}.json").write_text(content)
    return folder


def files(folder):
    return {image.captions[0]: image.file for image in data.load_test(Data(str(folder)), 0).test}


def test_a_caption_belongs_to_the_image_that_is_named_with_its_folder(tmp_path):
    names = [f"{kind}/{n:03d}.png" for n in range(12) for kind in ("cat", "dog")]
    folder = folder_of(tmp_path, names, [name for name in names if name < "dog/006"])
    found = files(folder)
    assert len(found) == 24
    for caption, file in found.items():
        kind, number = caption.removeprefix("This is ").removesuffix(".").split()
        assert file == folder / kind / f"{number}.png" and file.exists() == (kind == "cat" or number < "006")
    one = task.make(config.parse(Config, ["--data", str(folder), *SMALL]), torch.device("cpu"))
    assert re.search("images that cannot be read: [^ ]*/dog/", one.data)
    used = [image.file for part in one.parts.values() for image in part if image.file.exists()]
    assert len(used) == len(set(used))


@pytest.mark.parametrize(
    ("name", "there", "is_found"),
    [
        ("dog/1.png", ["images/dog/1.png"], "images/dog/1.png"),
        ("dog/1.png", ["train/dog/1.png", "cat/1.png"], "train/dog/1.png"),
        ("dog/1.png", ["cat/1.png"], None),
        ("dog/1.png", ["1.png"], None),
        ("1.png", ["cat/1.png"], "cat/1.png"),
        ("1.png", ["cat/1.png", "dog/1.png"], None),  # which of them?
        ("1.png", ["cat/1.png", "train/1.png"], "train/1.png"),
        ("../../1.png", ["train/1.png"], "train/1.png"),
        ("x" * 300 + ".png", ["1.png"], None),
        ("dog/" + "x" * 300 + ".png", ["1.png"], None),
        ("nul\0.png", ["1.png"], None),
    ],
)
def test_where_an_image_is_looked_for(name, there, is_found, tmp_path):
    folder = folder_of(tmp_path, [name], there)
    [file] = files(folder).values()
    if is_found:
        assert file == folder / is_found
    else:
        assert file.is_relative_to(folder) and file not in [folder / other for other in there]


def test_a_vocabulary_without_a_word_is_refused(tmp_path, capsys):
    names = [f"train/{n}.png" for n in range(12)]
    folder = folder_of(tmp_path, names, names)
    assert main(["train", "--data", str(folder), *SMALL, "--text.threshold", "1000"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "no word is said 1,000 times in the training captions" in said and "lower text.threshold" in said


def test_words_have_one_form_and_keep_their_marks():
    assert words("Мои\u0306 чаи\u0306") == words("Мой чай") == ["мой", "чай"]
    assert words("एक हिन्दी किताब।") == ["एक", "हिन्दी", "किताब", "।"]
    assert words("a red\u200bcar, a ca\u00adfe\u0301") == ["a", "redcar", "a", "café"]
    assert words("x\u0304y's l\ud800") == ["x̄y", "'s", "l", "\ufffd"]


@pytest.mark.parametrize("piece", ["_", "_-", "__a", "a-", "a--", "'a", "aan't_", "a.b-", "1-", "0", "a&a-"])
def test_long_captions_take_no_long(piece):
    start = time.process_time()
    words(piece * (20_000 // len(piece)))
    assert time.process_time() - start < 10


def test_captions_with_half_a_character_and_long_numbers_are_one_line_or_read(tmp_path):
    names = ["train/0.png"]
    folder = folder_of(tmp_path, names, names)
    file = folder / "annotations" / "captions_train.json"
    text = file.read_text()
    file.write_text(text.replace("This is", "Half \\ud83d и\\u0306"))
    assert [*files(folder)] == ["Half \ufffd й train 0."]
    file.write_text("\ufeff" + text, encoding="utf-8")
    assert len(files(folder)) == 1
    for wrong in (text.replace('"id": 0', '"id": ' + "1" * 5_000), text.replace('"id": 0', '"id": 1e999')):
        file.write_text(wrong)
        with pytest.raises(UserError, match="captions_train.json") as error:
            files(folder)
        assert "\n" not in str(error.value)


def test_images_and_captions_are_what_a_run_was_trained_on(tmp_path, capsys):
    names = [f"train/{n}.png" for n in range(20)]
    folder = folder_of(tmp_path, names, names)
    assert main(["train", "--data", "set", *SMALL, "--data.images", "12", "--run", "r"]) == 0
    (tmp_path / "elsewhere" / "set").mkdir(parents=True)

    def both(code):
        for verb in (["train", "--run", "r"], ["evaluate", "r"]):
            capsys.readouterr()
            assert main(verb) == code
            assert ("changed since" in capsys.readouterr().err) == (code == 2)

    both(0)
    about = json.loads((tmp_path / "r" / "about.json").read_text())
    assert "8 / 2 / 10 images" in about["data"]  # what `data.images` leaves out is tested
    before = {name: (folder / name).read_bytes() for name in names}
    for name in names:
        pixels = np.asarray(Image.open(folder / name)).copy()
        pixels[0, 0] += 1
        Image.fromarray(pixels).save(folder / name)
    both(2)
    for name, content in before.items():
        (folder / name).write_bytes(content)
    both(0)
    file = folder / "annotations" / "captions_train.json"
    file.write_text(file.read_text().replace("This is", "Here is"))
    both(2)


def test_paths_are_kept_as_what_they_mean(tmp_path, monkeypatch):
    for name in ("set", "sample", "coco", "random", "IMAGENET1K_V1"):
        (tmp_path / name).mkdir()
    assert Data("set").name == str(tmp_path / "set")
    assert (Data("sample").name, Data("coco").name) == ("sample", "coco")
    assert Encoder(weights="mine.pth").weights == str(tmp_path / "mine.pth")
    assert Encoder(cache="kept").cache == str(tmp_path / "kept")
    for name in ("auto", "random", "IMAGENET1K_V1"):
        assert Encoder(weights=name).weights == name
    assert Encoder().cache == ""
    monkeypatch.setenv("HOME", "/home/me")
    assert Encoder(cache="~/kept", weights="~/w").weights == "/home/me/w"
