"""The search, the metrics, the model, the task: each against something slower and more obvious."""

import itertools
import json
import math
import os
import shutil
import subprocess

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from coco_caption import data, metrics, show, task
from coco_caption.__main__ import PACKAGE, main
from coco_caption.config import Config, Data, Model
from coco_caption.model import Captioner
from coco_caption.search import beam_search
from coco_caption.words import END, UNKNOWN
from etude import config
from etude.errors import UserError
from etude.testing import check_presets, check_task
from etude.train.totals import Totals

CPU = torch.device("cpu")
SMALL = ["--model.hidden", "96", "--model.embedding", "48", "--model.dropout", "0", "--fit.batch-size", "64"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Without METEOR, which takes seconds to start; see `test_meteor_where_there_is_java`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(metrics, "java", lambda: False)


@pytest.fixture(scope="module")
def photos():
    return [str(image.file) for image in data.load(Data(), 0).test[:6]]


@pytest.mark.parametrize("image", ["state", "first", "attention"])
def test_the_battery(tmp_path, photos, image):
    check_task(PACKAGE, [*SMALL, "--model.image", image], photos, tmp_path)


def test_presets_and_studies():
    check_presets(PACKAGE, ["best"], ["beam", "hidden-size", "image-input", "layers", "vocabulary"])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert main(["train", "--run", str(folder), *SMALL, "--fit.epochs", "4", "--model.members", "2"]) == 0
    return folder


def scored(capsys, *words):
    assert main(["evaluate", *words]) == 0
    said = capsys.readouterr()
    return json.loads(said.out.splitlines()[-1]), said


# --- the search


WORDS, LONGEST = 5, 4


def random_model(images, seed):
    """log P(next word | image, words before), any: float32 [images, prefixes, WORDS]; prefixes are in base 5."""
    draws = np.random.default_rng(seed)
    return torch.from_numpy(draws.normal(0, 2, (images, WORDS**LONGEST * 2, WORDS))).float().log_softmax(2)


def told_by(table, width, power):
    """The search over such a model: its state is the image, and the prefix so far with a leading 1."""

    def step(words, state):
        image, prefix = state
        prefix = torch.where(prefix == 0, 1, prefix * WORDS + words)
        return table[image, prefix], (image, prefix)

    table = F.pad(table, (0, 0, 0, 1 + WORDS ** (LONGEST + 1)))
    image = torch.arange(len(table))
    return beam_search(step, (image, torch.zeros_like(image)), len(table), width, LONGEST, power, END, (UNKNOWN,))


def every_caption(table, image, power):
    """The score of each caption there is, by its words."""
    found = {}
    for n in range(LONGEST + 1):
        for caption in itertools.product([w for w in range(WORDS) if w not in (END, UNKNOWN)], repeat=n):
            prefix, total = 1, 0.0
            for word in (*caption, END):
                total += float(table[image, prefix, word])
                prefix = prefix * WORDS + word
            found[caption] = total / (n + 1) ** power
    return found


@pytest.mark.parametrize("power", [0.0, 0.7, 1.0])
def test_a_wide_beam_finds_what_exhaustive_search_finds(power):
    table = random_model(4, 1)
    table = F.pad(table, (0, 0, 0, WORDS ** (LONGEST + 1)))
    width = 3**LONGEST
    found = told_by(table, width, power)
    for image in range(4):
        every = every_caption(table, image, power)
        best = sorted(every, key=every.get, reverse=True)
        got = [tuple(w for w in row if w != END) for row in found.ids[image].tolist()]
        assert got[0] == best[0]
        assert math.isclose(float(found.scores[image, 0]), every[best[0]], rel_tol=1e-5)
        for caption, score in zip(got, found.scores[image].tolist(), strict=True):
            if math.isfinite(score):
                assert math.isclose(score, every[caption], rel_tol=1e-4, abs_tol=1e-5)


def test_greedy_takes_the_most_probable_word():
    table = random_model(30, 2)
    table = F.pad(table, (0, 0, 0, WORDS ** (LONGEST + 1)))
    found = told_by(table, 1, 0.7)
    for image in range(30):
        prefix, caption = 1, []
        while len(caption) < LONGEST:
            logs = table[image, prefix].clone()
            logs[UNKNOWN] = -math.inf
            word = int(logs.argmax())
            if word == END:
                break
            caption.append(word)
            prefix = prefix * WORDS + word
        assert [w for w in found.ids[image, 0].tolist() if w != END] == caption


@pytest.mark.parametrize("width", [1, 2, 3, 7])
def test_images_are_searched_alone_as_together(width):
    table = F.pad(random_model(20, 3), (0, 0, 0, WORDS ** (LONGEST + 1)))
    together = told_by(table, width, 0.7)
    assert not bool((together.ids[:, 0] == UNKNOWN).any())
    for image in range(20):
        alone = told_by(table[image : image + 1], width, 0.7)
        assert torch.equal(alone.ids[0, 0], together.ids[image, 0])
        torch.testing.assert_close(alone.scores[0, 0], together.scores[image, 0])


def test_wider_beams_find_more_probable_captions():
    table = F.pad(random_model(200, 4), (0, 0, 0, WORDS ** (LONGEST + 1)))
    means = [float(told_by(table, width, 0.0).scores[:, 0].mean()) for width in (1, 2, 4, 8)]
    assert means == sorted(means) and means[0] < means[-1]


# --- the model


@pytest.mark.parametrize("image", ["first", "state", "attention"])
def test_told_is_what_the_model_scores(image):
    """The score of a caption found step by step is that of the whole caption at once; all members are asked."""
    torch.manual_seed(0)
    model = Captioner(Model(image, 16, 24, 2, members=2), 10, torch.ones(12)).eval()
    for parameter in model.parameters():
        parameter.data.mul_(2)
    features = torch.randn((5, 6, 10) if image == "attention" else (5, 10))
    found = model.tell(features, 3, 7, 1.0)
    for n in range(5):
        ids = found.ids[n, 0].tolist()
        caption = [*itertools.takewhile(lambda id: id != END, ids)]
        given = torch.tensor([END, *caption])[:, None]
        logits = model(features[n : n + 1], given)
        logs = (logits.softmax(3).mean(0)[:, 0]).log()
        wanted = torch.tensor([*caption, END])
        score = logs.gather(1, wanted[:, None]).sum() / len(wanted)
        torch.testing.assert_close(score, found.scores[n, 0], rtol=1e-4, atol=1e-4)


def test_attention_against_its_formula():
    torch.manual_seed(0)
    model = Captioner(Model("attention", 6, 8, dropout=0.0), 5, torch.ones(7))
    (teller,) = model.members()
    features, words = torch.randn(2, 3, 5), torch.tensor([[0, 0], [3, 4]])
    logits = model(features, words)[0]
    for b in range(2):
        begun = teller.see(features[b].mean(0)).view(2, 8)
        hidden, cell = torch.tanh(begun[0])[None, None], begun[1][None, None].clone()
        parts = features[b] @ teller.parts.weight.T + teller.parts.bias
        for t in range(2):
            out, (hidden, cell) = teller.lstm(teller.embedding(words[t, b])[None, None], (hidden, cell))
            h = out[0, 0]
            weights = torch.stack([(teller.query.weight @ h) @ part / math.sqrt(8) for part in parts]).softmax(0)
            context = sum(w * part for w, part in zip(weights, parts, strict=True))
            h = h + torch.tanh(teller.look(context))
            wanted = teller.embedding.weight @ teller.out(h) + teller.bias
            torch.testing.assert_close(logits[t, b], wanted, rtol=1e-4, atol=1e-5)


def test_the_task_reads_captions_as_they_are(photos):
    parsed = config.parse(Config, SMALL)
    one = task.make(parsed, CPU)
    ids = one.plan("train", 1, 16)[0]
    batch = one.load("train", ids, 1)
    for n, id in enumerate(ids):
        image, which = one.pairs[id]
        caption = one.told["train"][image][which]
        wanted = batch.wanted[:, n]
        said = [one.vocabulary.words[w] for w in wanted[wanted >= 0]]
        assert said == [w if w in one.vocabulary.ids else "<unk>" for w in caption] + ["<end>"]
        assert batch.given[1:, n].tolist()[: len(caption)] == wanted.tolist()[: len(caption)]
        torch.testing.assert_close(batch.features[n], one.features[np.array([image])][0])
    valid = one.load("valid", np.arange(3), 0)
    assert valid.owner.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    normal = (one.features[one.places["train"]].float() - one.model.mean) / one.model.std
    torch.testing.assert_close(normal.mean(0), torch.zeros(512), atol=2e-2, rtol=0)


def test_captions_add_up_over_batches(trained):
    """However a part is cut into batches, the table of captions is that of all images."""
    parsed = config.parse(Config, [str(trained / "config.yaml")])
    one = task.make(parsed, CPU)
    one.model.eval()
    tables = []
    for size in (24, 7, 1):
        totals = Totals()
        with torch.inference_mode():
            for ids in one.plan("valid", 0, size):
                totals.add(one.step(one.load("valid", ids, 0)))
        tables.append(totals.sums["told_valid"])
        assert float(totals.counts["told_valid"]) == 24
    assert torch.equal(tables[0], tables[1]) and torch.equal(tables[0], tables[2])


# --- the metrics


def test_scores_by_hand():
    told = ["a red circle", "two stars"]
    references = [["a red circle", "a circle"], ["two blue stars", "stars"]]
    found = metrics.scores(references, told)
    assert math.isclose(found["bleu1"], 1.0, rel_tol=1e-6)
    assert math.isclose(found["bleu2"], math.sqrt(1.0 * 2 / 3), rel_tol=1e-6)  # "two stars" stands nowhere
    # ROUGE-L with beta 1.2, best precision and best recall over the references, as pycocoevalcap does
    f = (1 + 1.2**2) * 1 * 1 / (1 + 1.2**2 * 1)
    assert math.isclose(found["rouge_l"], (f + f) / 2, rel_tol=1e-6)
    perfect = metrics.scores([["a b c d e"], ["f g h i j"]], ["a b c d e", "f g h i j"])
    assert math.isclose(perfect["cider"], 10.0, rel_tol=1e-6) and math.isclose(perfect["bleu4"], 1.0, rel_tol=1e-6)
    nothing = metrics.scores([["a b"], ["c d"]], ["", "x"])
    assert nothing["cider"] == 0 and all(math.isfinite(value) for value in nothing.values())


@pytest.mark.real_data  # it reads 60 MB of paraphrases, which takes long
def test_scores_of_some_images_are_those_of_these_images_alone():
    rng = np.random.default_rng(0)
    words = "a the red blue circle star on left of two small".split()
    references = [[" ".join(rng.choice(words, rng.integers(3, 9))) for _ in range(3)] for _ in range(30)]
    told = [" ".join(rng.choice(words, rng.integers(0, 9))) for _ in range(30)]
    parts = [np.arange(30), np.arange(5, 30), np.array([1, 4, 9, 16, 25])]
    found = metrics.scores_of(references, told, parts)
    for n, part in enumerate(parts):
        alone = metrics.scores([references[i] for i in part], [told[i] for i in part])
        for name, value in alone.items():
            if name != "cider" or n == 0:  # whose weights of words stay those of all images
                assert found[name][n] == pytest.approx(value, rel=1e-12), name
    assert found["cider"][1] == pytest.approx(found["cider"][0], rel=0.3)


def test_scores_without_some_images_are_of_the_others(trained):
    one = task.make(config.parse(Config, [str(trained / "config.yaml")]), CPU)
    one.model.eval()
    totals, others = Totals(), Totals()
    with torch.inference_mode():
        for ids in one.plan("valid", 0, 7):
            totals.add(one.step(one.load("valid", ids, 0)))
        others.add(one.step(one.load("valid", np.setdiff1d(np.arange(24), [0, 5]), 0)))
    found = task.without(one, totals, [np.array([0, 5]), np.array([3])])
    assert {name: values[0] for name, values in found.items()} == pytest.approx(one.scores(totals), rel=1e-6)
    loss = others.means()["loss"]
    assert found["loss"][1] == pytest.approx(loss, rel=1e-5)
    assert found["perplexity"][1] == pytest.approx(math.exp(loss), rel=1e-5)
    assert {len(values) for values in found.values()} == {3}


def test_meteor_where_there_is_java(monkeypatch):
    monkeypatch.setattr(metrics, "java", lambda: shutil.which("java") is not None)
    found, missing = metrics.java_scores([["a red circle", "a circle"], ["two stars"]], ["a red circle", "two rings"])
    if shutil.which("java"):
        assert 0 < found["meteor"] < 1 and not any(line.startswith("METEOR") for line in missing)
    else:
        assert not found and len(missing) == 1


def test_without_java():
    found, missing = metrics.java_scores([["a b"]], ["a"])
    assert not found and missing == ["METEOR and SPICE are left out: there is no Java here"]


def test_a_java_that_does_not_work(monkeypatch, tmp_path):
    """It is said, and the other scores stand."""
    (tmp_path / "java").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "java").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(metrics, "java", lambda: True)
    found, missing = metrics.java_scores([["a b"]], ["a"])
    assert not found and [line.split()[0] for line in missing] == ["METEOR", "SPICE"]
    assert all("\n" not in line for line in missing)


# --- the verbs


def test_evaluate_and_its_results(trained, capsys, tmp_path):
    """The last line has the scores, and the official tools read the results and find the same."""
    found, _ = scored(capsys, str(trained))
    assert found.keys() >= {"cider", "bleu1", "bleu2", "bleu3", "bleu4", "rouge_l"} and found["images"] == 24
    from pycocotools.coco import COCO

    annotations = data.sample.folder() / "annotations" / "captions_test.json"
    coco = COCO(str(annotations))
    results = coco.loadRes(str(trained / "results.json"))
    assert set(results.getImgIds()) == set(coco.getImgIds())
    from coco_caption.words import words

    truth = [[" ".join(words(a["caption"])) for a in coco.imgToAnns[id]] for id in coco.getImgIds()]
    again = metrics.scores(truth, [results.imgToAnns[id][0]["caption"] for id in coco.getImgIds()])
    assert all(math.isclose(again[name], found[name], rel_tol=1e-9) for name in again)
    kept = (trained / "results.json").read_bytes()
    (trained / "results.json").write_text("[]")  # of another checkpoint
    scored(capsys, str(trained), "--out", str(tmp_path / "said.json"))
    assert (trained / "results.json").read_bytes() == kept
    assert json.loads((tmp_path / "said.json").read_text()) == json.loads((trained / "results.json").read_text())


def test_evaluate_other_data(trained, coco, capsys):
    """A folder of any of the parts, whole; left out of it is what was trained on, wherever it lies, or is broken."""
    folder = coco(part="val", count=9)
    own = scored(capsys, str(trained)) and (trained / "results.json").read_bytes()
    found, _ = scored(capsys, str(trained), "--data", str(folder))
    assert (trained / "results.json").read_bytes() == own, "what is said of other images is not the run's"
    assert found["images"] == 9 and found["left_out"] == 0
    shutil.copy(data.load(Data(), 0).train[0].file, folder / "val" / "val3.jpg")
    (folder / "val" / "val4.jpg").write_bytes(b"broken")
    (folder / "val" / "val5.jpg").unlink()
    found, said = scored(capsys, str(trained), "--data", str(folder), "--out", str(folder / "said.json"))
    assert found["images"] == 6 and found["left_out"] == 2
    assert "1 images that were trained on" in said.out and "val4.jpg" in said.out and "val5.jpg" in said.out
    assert [r["image_id"] for r in json.loads((folder / "said.json").read_text())] == [0, 1, 2, 6, 7, 8]
    shutil.rmtree(folder / "val")
    assert main(["evaluate", str(trained), "--data", str(folder)]) == 2
    error = capsys.readouterr().err
    assert "no image of a part of" in error.splitlines()[-1] and "Traceback" not in error


def test_a_single_image_has_no_cider(trained, coco, capsys):
    """It is 0, whatever is said, so that no epoch is better than the first: nothing is chosen by it."""
    folder = str(coco(count=12))
    coco(part="val", count=1)
    coco(part="test", count=1)
    seeing = ["--encoder.backbone", "squeezenet1_1", "--encoder.weights", "random"]
    capsys.readouterr()
    assert main(["train", "--data", folder, *seeing, "--run", "one"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "one image of" in line and "give two or more" in line and not os.path.exists("one")
    found, said = scored(capsys, str(trained), "--data", folder)
    assert found["cider"] == 0 and "CIDEr-D of a single image is 0, whatever" in said.out


def test_all_of_it_was_trained_on(trained, coco, capsys):
    sample = data.load(Data(), 0).train[:3]
    folder = coco(part="test", count=3)
    for n, image in enumerate(sample):
        shutil.copy(image.file, folder / "test" / f"test{n}.jpg")
    assert main(["evaluate", str(trained), "--data", str(folder)]) == 2
    assert "all images of" in capsys.readouterr().err


def test_predict(trained, tmp_path, capsys):
    """Any file that is an image; one alone gets the caption it gets among others."""
    names = []
    for mode, ending in (("RGB", "jpg"), ("L", "png"), ("CMYK", "jpg"), ("RGBA", "png"), ("1", "png")):
        names.append(str(tmp_path / f"{mode}.{ending}"))
        Image.new("RGB", (60, 40), "orange").convert(mode).save(names[-1])
    Image.new("RGB", (1, 1), "orange").save(tmp_path / "one.png")
    names.append(str(tmp_path / "one.png"))
    assert main(["predict", str(trained), *names, "--beam", "5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[0] for line in lines] == names and all(line.split("\t")[1] for line in lines)
    assert main(["predict", str(trained), names[0], "--beam", "5"]) == 0
    assert capsys.readouterr().out.splitlines() == lines[:1]
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff")
    for given, says in (
        (["bad.jpg"], "bad.jpg cannot be read as an image"),
        (["nowhere.jpg"], "nowhere.jpg cannot be read as an image: there is no such file"),
        ([names[0], "--beam", "0"], "--beam is at least 1"),
    ):
        assert main(["predict", str(trained), *given]) == 2
        said = capsys.readouterr()
        assert says in said.err and not said.out and said.err.count("\n") == 1


def test_weights_stay_with_the_run(tmp_path, coco, capsys):
    """Trained with a file of weights that is gone later, or elsewhere; other weights are refused."""
    from torchvision import models

    torch.manual_seed(1)
    file = tmp_path / "w.pth"
    torch.save(models.squeezenet1_1(weights=None).state_dict(), file)
    folder = coco(count=20)
    flags = ["--data", str(folder), "--encoder.backbone", "squeezenet1_1", "--encoder.weights", str(file)]
    flags += ["--text.threshold", "1", "--fit.epochs", "1", "--model.hidden", "16"]
    assert main(["train", "--run", "r", *flags]) == 0
    moved = file.rename(tmp_path / "moved.pth")
    test = coco(part="test", count=5, name="other")
    first, _ = scored(capsys, "r", "--data", str(test))
    again, _ = scored(capsys, "r", "--data", str(test), "--encoder.weights", str(moved))
    assert again == first and first["images"] == 5
    torch.save(models.squeezenet1_1(weights=None).state_dict(), tmp_path / "others.pth")
    for given, says in (
        (["--encoder.weights", "others.pth"], "are not the weights that this run sees with"),
        (["--encoder.backbone", "resnet18"], "this run sees with squeezenet1_1, not resnet18"),
        (["--encoder.weights", "gone.pth"], "there are no weights 'gone.pth'"),
    ):
        assert main(["evaluate", "r", "--data", str(test), *given]) == 2
        assert says in capsys.readouterr().err


def test_what_a_run_shows(trained):
    """The same images before, during and after; one sheet; and what was left out."""
    samples = trained / "samples"
    history = json.loads((samples / "captions.json").read_text())
    assert [*history] == ["before", *(f"epoch {n}" for n in range(1, 5)), "after"]
    assert all(len(told) == task.SHOWN for told in history.values())
    assert history["before"] != history["after"]
    for name in ("captions-epoch-000", "captions-epoch-004", "captions-end", "contact-sheet"):
        with Image.open(samples / f"{name}.png") as picture:
            assert min(picture.size) > 200
    assert (samples / "left-out.md").read_text() == "nothing\n"


def test_the_sheet_takes_any_captions():
    pictures = [Image.new("RGB", size, "red") for size in ((1, 1), (500, 3), (30, 90))]
    long = " ".join(["\U0001f600 a_very_long_word_without_any_space_in_it"] * 30)
    history = {epoch: ["", long, "a"] for epoch in ["before", *(f"epoch {n}" for n in range(1, 40)), "after"]}
    sheet = show.contact_sheet(pictures, history)
    assert sheet.width < 2000
    assert show.columns([*range(40)])[0] == 0 and show.columns([*range(40)])[-1] == 39
    assert show.columns([0, 1, 2]) == [0, 1, 2] and len(show.columns([*range(100)])) <= show.COLUMNS
    assert show.board(pictures, ["", long, "a"], [long, "", "b"]).height > show.SIDE


def test_bad_settings():
    for flags, says in (
        (["--model.hidden", "0"], "model.hidden must be at least 1"),
        (["--model.dropout", "1"], "model.dropout is a probability"),
        (["--search.beam", "0"], "search.beam must be at least 1"),
        (["--data.held-out", "0.7"], "data.held-out is a part"),
        (["--data.images", "-1"], "data.images is a number of images"),
        (["--data.year", "2015"], "data.year must be one of 2014, 2017"),
    ):
        with pytest.raises(UserError, match=says):
            config.parse(Config, flags)


def test_what_the_defaults_see_with():
    assert Config().network() == ("squeezenet1_1", "random")
    assert config.parse(Config, ["--data", "coco"]).network() == ("resnet152", "IMAGENET1K_V1")
    given = config.parse(Config, ["--encoder.weights", "IMAGENET1K_V1"])
    assert given.network() == ("squeezenet1_1", "IMAGENET1K_V1")


def test_help_needs_no_torch():
    code = (
        "import sys; from coco_caption.__main__ import main\n"
        "try: main(['train', '--help'])\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'PIL' not in sys.modules"
    )
    import sys

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "--encoder.backbone" in done.stdout, done.stderr
