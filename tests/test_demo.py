"""The verb `demo`: in a real browser, what each page answers is what `predict` says of the same input."""

import base64
import importlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from PIL import Image
from playwright.sync_api import expect, sync_playwright

from etude import cli
from etude.demo import command
from etude.demo.page import Demo
from etude.demo.server import Server
from etude.errors import UserError
from etude.language.task import Writer
from gauss_vae import likelihood

LONG = 60_000  # milliseconds: the machine may be busy
PHONE = {"width": 360, "height": 740}
TINY = {  # flags that make a small model of each task in a second or two
    "cnn-emnist": "--model.channels 4 --model.layers 2 --fit.batch-size 500 --no-augment",
    "names-rnn": "--model.hidden 16",
    "imdb-rnn": "--model.embedding 8 --model.hidden 8",
    "qa-category": "--model.embedding 8 --model.hidden 8",
    "lstm-pos": "--model.embedding 16 --model.hidden 16",
    "text-ae": "--data.messages 2000 --model.latent 16 --model.embedding 16 --model.hidden 16",
    "cifar-vae": "--data.images 300 --model.width 8 --model.latent 12",
    "gauss-vae": "--data.train 400 --data.valid 90 --data.test 120 --model.hidden 32 --model.depth 1 --importance 200",
    "grad-flow": "--model.width 32 --model.depth 3",
    "coco-caption": "--model.hidden 16 --model.embedding 16",
}


def package_of(task):
    return importlib.import_module(f"{task.replace('-', '_')}.config").PACKAGE


@pytest.fixture(scope="module")
def browser():
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    assert program, f"pages are tested in a browser, none of {', '.join(names)} is there: apt-get install chromium"
    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The run folder of a task: a model that was trained for one epoch, on first demand."""
    place, made = tmp_path_factory.mktemp("runs"), {}

    def run(task):
        if task not in made:
            made[task] = place / "runs" / task / "one"
            words = ["train", *TINY[task].split(), "--fit.epochs", "1", "--run", str(made[task])]
            assert cli.main(package_of(task), words) == 0
        return made[task]

    return run


@contextmanager
def window(browser, trained, task, **how):
    """A window with the page of a task; nothing is complained of, nobody else is asked, nothing scrolls sideways."""
    package, folder = package_of(task), trained(task)
    demo = importlib.import_module(f"{package.module}.demo").demo(cli.restored(package, folder))
    server = Server(demo, command.told(package, folder), "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    shown = browser.new_page(**({"viewport": PHONE} | how))
    try:
        said, asked = [], []
        shown.set_default_timeout(LONG)
        shown.on("console", lambda message: said.append(message.text))
        shown.on("pageerror", lambda error: said.append(str(error)))
        shown.on("request", lambda request: asked.append(request.url))
        shown.goto(server.address)
        yield shown
        rests(shown)
        assert said == []
        assert [one for one in asked if not one.startswith((server.address, "data:", "blob:"))] == []
        assert shown.evaluate("document.documentElement.scrollWidth") <= shown.viewport_size["width"]
        assert str(folder.parent) not in shown.content(), "no path of the machine"
    finally:
        shown.close()
        server.shutdown()
        thread.join()
        server.end()


def rests(shown):
    """Waits until the last thing that was done has been answered."""
    expect(shown.locator(".panel:not([hidden])")).to_have_attribute("aria-busy", "false", timeout=LONG)


def headline(shown):
    rests(shown)
    return shown.locator(".panel:not([hidden]) .headline").inner_text()


def bars(shown):
    """The names and percentages of the bars."""
    rests(shown)
    names, parts = (shown.locator(f".panel:not([hidden]) .bars .{kind}").all_inner_texts() for kind in ("name", "part"))
    return list(zip(names, parts, strict=True))


def predicted(capsys, trained, task, *inputs):
    """What `predict` says, line by line."""
    capsys.readouterr()
    assert cli.main(package_of(task), ["predict", str(trained(task)), *map(str, inputs)]) == 0
    return capsys.readouterr().out.splitlines()


def percent(probability):
    return float(probability) * 100


def same(bar, name, probability):
    """Whether a bar says what `predict` does, which gives four places, where the page gives a tenth of a percent."""
    number = re.search(r"[\d.]+", bar[1])
    return bar[0] == name and abs(float(number[0]) - percent(probability)) <= 0.06


def test_a_letter_that_is_drawn_is_what_predict_says(browser, trained, capsys, tmp_path):
    with window(browser, trained, "cnn-emnist", has_touch=True) as shown:
        canvas = shown.locator("canvas")
        box = canvas.bounding_box()

        def stroke(*points):
            for n, (x, y) in enumerate(points):
                shown.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=3)
                if not n:
                    shown.mouse.down()
            shown.mouse.up()

        stroke((0.25, 0.85), (0.5, 0.12), (0.75, 0.85))
        stroke((0.35, 0.58), (0.65, 0.58))
        found = bars(shown)
        assert len(found) == 5
        file = tmp_path / "drawn.png"
        file.write_bytes(base64.b64decode(canvas.evaluate("c => c.toDataURL('image/png').split(',')[1]")))
        (line,) = predicted(capsys, trained, "cnn-emnist", file)
        _, name, probability = line.split("\t")
        assert same(found[0], name, probability) and headline(shown) == name
        assert shown.locator(".pictures img").count() == 1, "what the network sees"
        assert Image.open(io.BytesIO(data_of(shown.locator(".pictures img")))).size == (28, 28)
        shown.get_by_role("tab", name="Picture").click()
        shown.locator("input[type=file]").set_input_files(file)
        expect(shown.locator(".panel:not([hidden]) .headline")).to_have_text(name, timeout=LONG)
        assert bars(shown)[0] == found[0]


def data_of(image):
    return base64.b64decode(image.get_attribute("src").partition(",")[2])


def test_a_name_is_what_predict_says(browser, trained, capsys):
    with window(browser, trained, "names-rnn", color_scheme="dark") as shown:
        field = shown.get_by_label("A surname", exact=True)
        field.fill("")
        field.press_sequentially("Tomorven")
        expect(shown.locator(".pieces span")).to_have_text(list("Tomorven"), timeout=LONG)
        found = bars(shown)
        _, read, *likeliest = predicted(capsys, trained, "names-rnn", "Tomorven")[0].split("\t")
        assert read == "Tomorven"
        for bar, said in zip(found, likeliest, strict=False):
            name, _, probability = said.rpartition(" ")
            assert same(bar, name, probability)
        field.fill("名")
        expect(shown.get_by_role("alert")).to_contain_text("does not know 名", timeout=LONG)
        field.fill("<b>Io</b>")
        expect(shown.locator(".pieces")).to_contain_text("b", timeout=LONG)
        assert shown.locator(".pieces b").count() == 0


@pytest.mark.parametrize(
    ("task", "label", "text"),
    [
        ("imdb-rnn", "A film review, in English", "The plot is dull, and I did not enjoy one minute of it."),
        ("qa-category", "A question, in English", "Does the cable fit the camera that I have?"),
    ],
)
def test_a_text_is_what_predict_says(browser, trained, capsys, tmp_path, task, label, text):
    with window(browser, trained, task) as shown:
        shown.get_by_label(label, exact=True).fill(text)
        words = re.findall(r"\w+|[^\w\s]", text.lower())
        expect(shown.locator(".pieces")).to_contain_text(words[3], ignore_case=True, timeout=LONG)
        file = tmp_path / "lines.txt"
        file.write_text(text + "\n", "utf-8")
        (said,) = predicted(capsys, trained, task, file)
        said = {"0": "blame", "1": "praise"}.get(said, said)
        assert headline(shown) == said == bars(shown)[0][0]
        weights = [piece.get_attribute("title") for piece in shown.locator(".pieces span").all()]
        assert len(weights) == len(words) and any(float(x.replace("−", "-")) for x in weights)
        field = shown.get_by_label(label, exact=True)
        field.fill("zzxqv qqwz")
        expect(shown.locator(".pieces s")).to_have_text(["zzxqv", "qqwz"], timeout=LONG)
        assert "knows none of these words" in shown.locator(".detail").inner_text()


def test_a_sentence_is_tagged_as_by_predict_and_no_file_is_read(browser, trained, capsys, tmp_path):
    text = "Мама мыла раму, а кот спал."
    with window(browser, trained, "lstm-pos") as shown:
        field = shown.get_by_label("A text, in Russian", exact=True)
        field.fill(text)
        said = [line.split("\t") for line in predicted(capsys, trained, "lstm-pos", text)]
        expect(shown.locator(".tagged b")).to_have_text([word for word, _ in said], timeout=LONG)
        assert shown.locator(".tagged .tag").all_inner_texts() == [tag for _, tag in said]
        legend = shown.locator(".legend li").all_inner_texts()
        assert {tag for _, tag in said} == {line.split()[0] for line in legend}, "colour is not all there is"
        field.fill("zzxqv")
        expect(shown.locator(".detail")).to_contain_text("1 of them never seen in training", timeout=LONG)
        secret = tmp_path / "secret.txt"
        secret.write_text("секрет\n", "utf-8")
        field.fill(str(secret))
        expect(shown.locator(".tagged")).to_contain_text("secret", timeout=LONG)
        assert "секрет" not in shown.content()


def test_a_message_is_restored_as_by_predict_and_walks_to_another(browser, trained, capsys, tmp_path):
    text = "I love this & that https://example.org/x so much"
    with window(browser, trained, "text-ae") as shown:
        shown.get_by_label("A short message", exact=True).fill(text)
        file = tmp_path / "lines.txt"
        file.write_text(text + "\n", "utf-8")
        (said,) = predicted(capsys, trained, "text-ae", file)
        assert headline(shown) == (" ".join(said.split()) or "(nothing)")
        told = shown.locator(".panel:not([hidden]) .detail")
        assert re.search(r"\d+ of \d+ tokens|exactly", told.inner_text()) and "cut" not in told.inner_text()
        shown.get_by_label("A short message", exact=True).fill("so much " * 40)
        expect(told).to_contain_text("the text was cut", timeout=LONG)
        shown.get_by_role("tab", name="Walk").click()
        shown.get_by_label("To", exact=True).fill(text)
        rests(shown)
        steps = shown.locator(".panel:not([hidden]) .lines .text")
        assert steps.count() == 7
        assert " ".join(steps.last.inner_text().split()) == " ".join(said.split())


def test_a_picture_is_restored_as_by_predict_and_numbers_move_it(browser, trained, capsys, tmp_path):
    file = tmp_path / "wide.png"
    Image.linear_gradient("L").convert("RGB").resize((60, 40)).save(file)
    with window(browser, trained, "cifar-vae") as shown:
        shown.locator(".panel:not([hidden]) input[type=file]").set_input_files(file)
        expect(shown.locator(".panel:not([hidden]) .headline")).to_have_text(re.compile("PSNR"), timeout=LONG)
        words = ["--folder", tmp_path / "restored", file]
        _, restored, error, ratio = predicted(capsys, trained, "cifar-vae", *words)[0].split("\t")
        assert headline(shown) == f"{ratio} dB"
        assert error.removeprefix("mse ") in shown.locator(".panel:not([hidden]) .detail").inner_text()
        theirs = Image.open(restored).convert("RGB")
        ours = Image.open(io.BytesIO(data_of(shown.locator(".panel:not([hidden]) .pictures img").last)))
        assert ours.tobytes() == theirs.tobytes()
        shown.get_by_role("tab", name="Numbers").click()
        rests(shown)
        both = shown.locator(".panel:not([hidden]) .pictures img")
        assert data_of(both.first) == data_of(both.last), "nothing is moved yet"
        slider = shown.locator(".panel:not([hidden]) input[type=range]").first
        slider.focus()
        slider.press("End")
        expect(shown.locator(".panel:not([hidden]) .headline")).to_have_text(re.compile("1 of 12"), timeout=LONG)
        rests(shown)
        assert data_of(both.first) != data_of(both.last)


def test_a_point_has_the_density_that_predict_says(browser, trained, capsys, tmp_path):
    with window(browser, trained, "gauss-vae") as shown:
        rests(shown)
        x, y = shown.locator(".panel:not([hidden]) .slider input").all()
        x.focus()
        x.press("PageUp")
        rests(shown)
        point = tmp_path / "point.csv"
        at = f"{x.input_value()},{y.input_value()}"
        point.write_text(f"{at}\n")
        density = predicted(capsys, trained, "gauss-vae", point)[0].split("\t")[0]
        assert headline(shown) == f"log p = {density}"
        assert shown.locator(".plane img").evaluate("i => i.naturalWidth") > 100
        assert shown.locator(".panel:not([hidden]) .chart path").count() >= 3, "the point and two ellipses"
        shown.get_by_role("tab", name="Numbers").click()
        shown.get_by_label("2 numbers, with commas between", exact=True).fill(at.replace(",", ", "))
        assert headline(shown) == density
        assert "guess" not in shown.locator(".panel:not([hidden]) .detail").inner_text()
        shown.get_by_label("2 numbers, with commas between", exact=True).fill("1e3, 0")
        expect(shown.locator(".panel:not([hidden]) .detail")).to_contain_text("a guess", timeout=LONG)
        shown.get_by_label("2 numbers, with commas between", exact=True).fill("1, <b>")
        expect(shown.locator(".panel:not([hidden]) [role=alert]")).to_contain_text("'<b>' is not a number")


def test_the_gradient_is_measured_and_predicted(browser, trained):
    """It has no counterpart in `predict`; theory and measurement are held against each other."""
    with window(browser, trained, "grad-flow") as shown:
        rests(shown)
        shown.get_by_label("Activation", exact=True).select_option("sigmoid")
        shown.get_by_label("Units of each layer", exact=True).select_option("256")
        depth = shown.get_by_label("Hidden layers", exact=True)
        depth.focus()
        for _ in range(7):
            depth.press("ArrowRight")
        rests(shown)
        assert shown.locator(".chart circle").count() >= 10, "a dot for each of the ten layers"
        measured = float(re.search(r"[\d.]+", headline(shown))[0])
        predicted = float(re.search(r"[\d.]+", shown.locator(".detail").inner_text())[0])
        assert measured == pytest.approx(predicted, rel=0.1) and 0.1 < predicted < 0.2


def test_a_photo_is_told_as_by_predict(browser, trained, capsys, tmp_path):
    file = tmp_path / "photo.png"
    Image.linear_gradient("L").convert("RGB").resize((90, 60)).save(file)
    with window(browser, trained, "coco-caption") as shown:
        shown.locator("input[type=file]").set_input_files(file)
        expect(shown.locator(".headline")).not_to_have_text("", timeout=LONG)
        said = predicted(capsys, trained, "coco-caption", file)[0].split("\t")[1]
        assert headline(shown) == (said or "(nothing)")
        Image.new("RGB", (9, 9), "teal").save(file)
        shown.locator("input[type=file]").set_input_files(file)
        expect(shown.locator(".detail")).to_contain_text("a guess: the picture is of one colour", timeout=LONG)


# ------------------------------------------------------------------------------------------------------- the command


def refused(capsys, task, *words):
    """The one line that a mistake of the user gets."""
    capsys.readouterr()
    assert cli.main(package_of(task), ["demo", *map(str, words)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_run_that_is_none_is_refused(trained, capsys, tmp_path):
    assert "no run folder" in refused(capsys, "names-rnn", tmp_path / "nothing")
    (tmp_path / "config.yaml").write_text("fit:\n  epochs: 1\n")
    assert "best.pt" in refused(capsys, "names-rnn", tmp_path)
    broken = tmp_path / "broken"
    shutil.copytree(trained("names-rnn"), broken)
    (broken / "checkpoints/best.pt").write_bytes(b"nothing")
    assert "damaged" in refused(capsys, "names-rnn", broken)
    assert "port" in refused(capsys, "names-rnn", trained("names-rnn"), "--port", "70000")
    assert "cannot be had" in refused(capsys, "names-rnn", trained("names-rnn"), "--host", "192.0.2.1")


def test_a_point_far_away_is_answered_as_fast_as_others_and_with_its_error(trained, monkeypatch):
    """Where `predict` decodes millions of latents: all other pages of the server would wait for it."""
    task = cli.restored(package_of("gauss-vae"), trained("gauss-vae"))
    numbers = importlib.import_module("gauss_vae.demo").demo(task).panels[-1]
    near = numbers.answer(text="0, 0")
    assert "±" not in near.headline and near.detail == "log-density, in nats"
    decoded, spoken = [], task.model.spoken
    monkeypatch.setattr(task.model, "spoken", lambda z: decoded.append(len(z)) or spoken(z))
    far = numbers.answer(text="1000, 1000")
    assert sum(decoded) < 100_000
    density, error = map(float, far.headline.split(" ± "))
    exact = likelihood.best(task.model, torch.tensor([[1000.0, 1000.0]]), 2, 0)
    assert error > 1 and abs(density - float(exact.log_density)) < error
    assert "from a coarse grid" in far.detail and "a guess" in far.detail


def test_a_run_of_a_study_is_named_by_setting_and_study(tmp_path):
    package = package_of("names-rnn")
    study = tmp_path / "secret/cell,data=sample"
    run = study / "model.cell=lstm/seed=1"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("fit: {epochs: 1}\n")
    assert command.told(package, run)["run"] == "seed=1"
    (study / "study.yaml").touch()
    assert command.told(package, run)["run"] == "seed=1 of model.cell=lstm in the study cell,data=sample"


def test_the_newest_finished_run_is_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    package = package_of("names-rnn")
    assert command.finished(package) == [] and command.newest(package) is None
    for n, name in enumerate(("study/old", "new", "unfinished")):
        folder = tmp_path / "runs/names-rnn" / name
        (folder / "checkpoints").mkdir(parents=True)
        for file in ("config.yaml", "result.json", "checkpoints/best.pt"):
            (folder / file).write_text("{}")
        os.utime(folder / "result.json", (n, n))
    (folder / "result.json").unlink()
    assert [one.name for one in command.finished(package)] == ["new", "old"]
    os.utime("runs/names-rnn/study/old/result.json", (9, 9))
    assert command.finished(package)[0].name == "old"


@pytest.mark.parametrize("task", ["imdb-rnn", "qa-category"])
def test_a_language_model_that_is_newer_is_passed_over(trained, task, monkeypatch, capsys):
    """As `train language` leaves it, from which the next run is to start."""
    package, folder = package_of(task), trained(task)
    monkeypatch.chdir(folder.parents[2])
    words = "--task language --language.embedding 8 --language.units 8 --fit.epochs 1".split()
    later = folder.with_name("language")
    assert cli.main(package, ["train", *words, "--run", str(later)]) == 0
    os.utime(later / "result.json", (2e9, 2e9))
    try:
        capsys.readouterr()
        found, shown = command.newest(package)
        assert found.name == "one" and isinstance(shown, Demo)
        (line,) = capsys.readouterr().out.splitlines()
        assert line.startswith(f"demo     not of {Path('runs', task, 'language')}: this run is a language model")
        (folder / "result.json").rename(folder / "hidden.json")
        assert command.newest(package) is None
        (folder / "hidden.json").rename(folder / "result.json")
    finally:
        shutil.rmtree(later)


def test_it_says_its_address_in_one_line_and_ctrl_c_ends_it_quietly(trained):
    """A process of its own, in a folder with a run, which it finds by itself."""
    folder = trained("names-rnn").parents[2]
    words = [sys.executable, "-m", "names_rnn", "demo", "--no-browser"]
    process = subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lines = [process.stdout.readline(), process.stdout.readline()]
    assert re.fullmatch(r"run +runs/names-rnn/one\n", lines[0].replace("\\", "/"))
    assert re.fullmatch(r"open +http://127\.0\.0\.1:\d+/[\w-]{32}/ .*\n", lines[1])
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0 and out == err == ""


def test_without_a_run_the_sample_is_trained_first(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    package, asked = package_of("names-rnn"), []

    def train(package, words):
        asked.append(words)
        return 130  # Ctrl-C

    monkeypatch.setattr(cli, "train", train)
    assert cli.main(package, ["demo", "--no-browser"]) == 130
    assert [words[0] for words in asked] == ["--run"] and asked[0][1].startswith(os.path.join("runs", "names-rnn"))
    assert "training one on the sample" in capsys.readouterr().out


@pytest.mark.parametrize("task", ["imdb-rnn", "qa-category"])
def test_a_language_model_is_refused_in_words(task):
    page = importlib.import_module(f"{task.replace('-', '_')}.demo")
    with pytest.raises(UserError, match="is a language model"):
        page.demo(object.__new__(Writer))
