"""Reviews that are not what they seem: others under the same name, one text in two forms."""

import signal

import pytest

from imdb_rnn import data
from imdb_rnn.__main__ import main
from imdb_rnn.reading import plain
from imdb_rnn.task import Sentiment

SMALL = ["--model.embedding", "8", "--model.hidden", "8", "--fit.epochs", "2", "--fit.batch-size", "16"]


@pytest.fixture
def reviews(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ETUDE_DATA", str(tmp_path))

    def write(word, more=(), tested=()):
        for part in ("train", "test"):
            for kind in ("negative", "positive"):
                file = tmp_path / "imdb" / part / kind
                file.parent.mkdir(parents=True, exist_ok=True)
                texts = [f"{part} {kind} number {n} is {word}" for n in range(30)]
                file.write_text("\n".join([*texts, *(more if part == "train" else tested)]), encoding="utf-8")

    return write


def test_marks_stay_with_their_letters():
    assert plain("Мои\u0306 чаи\u0306!") == plain("Мой чай!") == "мой чай !"
    assert plain("हिन्दी फ़िल्म") == "हिन्दी फ़िल्म"
    assert plain("x\u0304y's za\u0301mok") == "x\u0304y's zámok"
    assert plain("red\u200bcar and\u00ad so") == "redcar and so"
    assert plain("می\u200cخواهم") == "می\u200cخواهم"
    assert plain("do n't ½ l’été_ 3²") == "don't ½ l’été _ 3²"


def test_reviews_that_look_the_same_are_one(reviews):
    forms = ["мой чай", "мои\u0306 чаи\u0306", "мой\u200b чай\u00ad"]
    reviews("here", forms)
    found = data.load("imdb", 0)
    assert sum(len(part.texts) for part in (found.train, found.valid)) == 61  # and not in two parts
    reviews("here", forms[1:], tested=forms[:1])
    found = data.load("imdb", 0)
    assert sum(len(part.texts) for part in (found.train, found.valid)) == 60
    assert "4 that the test part has too" in found.description


def test_a_run_goes_on_and_is_scored_with_its_own_reviews_only(reviews, capsys, monkeypatch):
    reviews("here")
    show = Sentiment.show
    monkeypatch.setattr(
        Sentiment, "show", lambda *a: signal.raise_signal(signal.SIGTERM) if a[2] == "epoch 1" else None
    )
    assert main(["train", *SMALL, "--data", "imdb", "--run", "r"]) == 143
    monkeypatch.setattr(Sentiment, "show", show)
    reviews("there")
    for words in (["train", "--run", "r"], ["evaluate", "r"]):
        capsys.readouterr()
        assert main(words) == 2
        assert "changed since" in capsys.readouterr().err
    reviews("here")
    assert main(["train", "--run", "r"]) == 0
    assert main(["evaluate", "r"]) == 0


def test_answers_stay_beside_the_lines_that_they_are_for(reviews, tmp_path, capsys):
    reviews("here")
    assert main(["train", *SMALL, "--data", "imdb", "--run", "r"]) == 0
    odd = ["\ufefftrain positive", "", "мои\u0306", "\u200b", "nul \0", "हिन्दी", "\ufeff"]
    (tmp_path / "in.txt").write_text("\n".join(odd) + "\n", encoding="utf-8")
    capsys.readouterr()
    assert main(["predict", "r", "in.txt"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(odd)
    (tmp_path / "in.txt").write_bytes("a\n".encode("utf-16"))
    for name, says in (("in.txt", "UTF-16"), (".", "Is a directory"), ("gone", "No such file")):
        assert main(["predict", "r", name]) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert says in line
