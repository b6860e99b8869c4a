"""Data that are not what they seem: another file under the same name, one text in two forms, endless numbers."""

import io
import json
import signal
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from etude import config
from text_ae import data, task
from text_ae.__main__ import main
from text_ae.config import Config
from text_ae.task import Restoring

SMALL = ["--model.hidden", "8", "--model.embedding", "8", "--model.latent", "8", "--text.vocabulary", "600"]
SMALL += ["--fit.epochs", "2", "--fit.batch-size", "40"]


def messages(file, word, more=""):
    rows = "".join(f"{n % 2},message number {n} is {word}\n" for n in range(120))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"tag,message\n{rows}{more}", encoding="utf-8")
    return str(file)


def line(capsys):
    [said] = capsys.readouterr().err.splitlines()
    return said


@pytest.fixture
def cd(tmp_path, monkeypatch):
    return lambda name: monkeypatch.chdir(tmp_path / name)


def test_a_run_finds_what_it_was_trained_on_wherever_one_stands(tmp_path, cd, capsys, monkeypatch):
    messages(tmp_path / "a" / "d.csv", "here")
    messages(tmp_path / "b" / "d.csv", "there")
    cd("a")
    show = Restoring.show
    monkeypatch.setattr(
        Restoring, "show", lambda *a: signal.raise_signal(signal.SIGTERM) if a[2] == "epoch 1" else None
    )
    assert main(["train", *SMALL, "--data", "d.csv", "--run", "r"]) == 143
    monkeypatch.setattr(Restoring, "show", show)
    cd("b")
    assert main(["train", "--run", "../a/r", "--data", "d.csv"]) == 2  # another file
    assert "data.name" in line(capsys)
    assert main(["train", "--run", "../a/r", "--data", "../a/d.csv"]) == 0
    assert main(["train", "--run", "../a/r"]) == 0
    capsys.readouterr()
    found = []
    for place, run in (("b", "../a/r"), ("a", "r")):
        cd(place)
        assert main(["evaluate", run]) == 0
        found.append(json.loads((tmp_path / "a/r/test.json").read_text()))
    assert found[0] == found[1]
    cd("a")
    assert main(["train", *SMALL, "--data", "d.csv", "--run", "r"]) == 0  # the same command
    cd("b")
    capsys.readouterr()
    assert main(["evaluate", "../a/r", "--data", "d.csv"]) == 0
    assert str(tmp_path / "b" / "d.csv") in capsys.readouterr().out


def test_a_run_goes_on_and_is_scored_with_its_own_messages_only(tmp_path, cd, capsys, monkeypatch):
    file = messages(tmp_path / "d.csv", "here")
    cd(".")
    show = Restoring.show
    monkeypatch.setattr(
        Restoring, "show", lambda *a: signal.raise_signal(signal.SIGTERM) if a[2] == "epoch 1" else None
    )
    assert main(["train", *SMALL, "--data", file, "--run", "r"]) == 143
    monkeypatch.setattr(Restoring, "show", show)
    messages(tmp_path / "d.csv", "there")
    capsys.readouterr()
    assert main(["train", "--run", "r"]) == 2
    assert "was trained on other data" in line(capsys)
    assert main(["evaluate", "r"]) == 2
    assert "was trained on other data, which have changed since under the same name" in line(capsys)
    assert main(["evaluate", "r", "--data", file]) == 0
    messages(tmp_path / "d.csv", "here")
    assert main(["train", "--run", "r"]) == 0
    assert main(["evaluate", "r"]) == 0


@pytest.mark.parametrize("change", [lambda text: text.replace("0,message number 0 ", "1,message number 0 "), str.upper])
def test_labels_and_texts_are_what_a_run_was_trained_on(tmp_path, cd, change):
    cd(".")
    file = messages(tmp_path / "d.csv", "here")
    found = []
    for text in (None, change):
        if text:
            head, _, rows = (tmp_path / "d.csv").read_text().partition("\n")
            (tmp_path / "d.csv").write_text(f"{head}\n{change(rows)}")
        torch.manual_seed(0)
        one = task.make(config.parse(Config, [*SMALL, "--data", file]), torch.device("cpu"))
        found.append(dict(one.fingerprints))
    assert found[0] != found[1]


@pytest.mark.parametrize("normalise", [True, False])
def test_messages_that_look_the_same_are_one_in_whatever_form(tmp_path, normalise):
    same = [
        "мой чай",
        "мои\u0306 чаи\u0306",
        "мои&#774; чай",
        "мой\u200b чай",
        "мой чай\u00ad",
        "мой ча&#8203;й",
        "МОЙ ЧАЙ",
    ]
    file = messages(tmp_path / "d.csv", "here", "".join(f"1,{text}\n" for text in same))
    found = data.load(file, 0, normalise=normalise)
    texts = [text for part in (found.train, found.valid, found.test) for text in part.texts]
    assert len(texts) == 121 and "6 repeats" in found.description
    assert "мой чай" in texts


def test_an_entity_of_many_digits_stays_text():
    for number in ("1" * 5_000, "0" * 5_000 + "65", "9" * 700):
        text = f"look &#{number}; at &amp; this &#33;"
        assert data.normalised(text) == f"look &#{number}; at & this !"
    assert data.normalised("&#" + "5" * 5_000) == "&#" + "5" * 5_000
    assert data.normalised("&#65; &#00065; &#x" + "0" * 5_000 + "41;") == "A A A"


def test_entities_within_entities_take_no_long():
    deep = "&#" * 20_000 + "5" + "3;" * 20_000  # each is 5 when it is unescaped, and so part of the next
    start = time.process_time()
    found = data.normalised(deep)
    assert time.process_time() - start < 10
    assert found == deep == data.normalised(found)
    assert data.normalised("&#" * 15 + "5" + "3;" * 15) == "5"


def test_answers_stay_beside_the_lines_that_they_are_for(tmp_path, cd, capsys, monkeypatch):
    cd(".")
    assert main(["train", *SMALL, "--data", messages(tmp_path / "d.csv", "here"), "--run", "r"]) == 0
    odd = ["message number 7 is here", "", f"&#{'1' * 5_000};", "мои\u0306", "\u200b", "nul \0", "last\rone"]
    (tmp_path / "in.txt").write_text("\n".join(odd) + "\n", encoding="utf-8")
    capsys.readouterr()
    assert main(["predict", "r", "in.txt"]) == 0
    answers = capsys.readouterr().out.split("\n")[:-1]
    assert len(answers) == len(odd) and answers[1] == answers[4] == ""
    for content, says in (("a\n".encode("utf-16"), "UTF-16"), (b"\xff", "not UTF-8")):
        (tmp_path / "in.txt").write_bytes(content)
        assert main(["predict", "r", "in.txt"]) == 2
        assert says in line(capsys)
    for closed in (None, SimpleNamespace(buffer=io.BytesIO())):
        if closed:
            closed.buffer.close()
        monkeypatch.setattr("sys.stdin", closed)
        assert main(["predict", "r", "-"]) == 2
        if not closed:
            sys.stdin.close()  # what stood in for it
        assert "standard input is closed" in line(capsys)
