"""Data that are not what they seem: other tags under the same name, one word in two forms."""

import signal
import sys

import pytest
import torch

from etude import config
from etude.errors import UserError
from etude.text.lines import clean
from lstm_pos import data, task
from lstm_pos.__main__ import main
from lstm_pos.config import Config
from lstm_pos.inputs import sentences_in
from lstm_pos.task import Tagging

SMALL = ["--model.embedding", "8", "--model.hidden", "8", "--fit.epochs", "2"]
CPU = torch.device("cpu")
WORDS = [("мой", "DET"), ("чай", "NOUN"), ("стоит", "VERB"), (".", "PUNCT")]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def treebank(file, words=WORDS, count=60, feats="_"):
    one = "".join(f"{n}\t{word}\t_\t{tag}\t_\t{feats}\t_\t_\t_\t_\n" for n, (word, tag) in enumerate(words, 1))
    file.write_text((one + "\n") * count, encoding="utf-8")
    return str(file)


def made(*flags):
    torch.manual_seed(0)
    return task.make(config.parse(Config, [*SMALL, *flags]), CPU)


def line(capsys):
    return capsys.readouterr().err.splitlines()[-1]


def test_a_run_does_not_go_on_with_other_tags_under_the_same_name(tmp_path, capsys, monkeypatch):
    file = treebank(tmp_path / "d.conllu")
    show = Tagging.show
    monkeypatch.setattr(Tagging, "show", lambda *a: signal.raise_signal(signal.SIGTERM) if a[2] == "epoch 1" else None)
    assert main(["train", *SMALL, "--data", file, "--run", "r"]) == 143
    monkeypatch.setattr(Tagging, "show", show)
    exchanged = [(word, {"NOUN": "VERB", "VERB": "NOUN"}.get(tag, tag)) for word, tag in WORDS]
    treebank(tmp_path / "d.conllu", exchanged)
    assert main(["train", "--run", "r"]) == 2
    assert "was trained on other data, which have changed since under the same name (part train, valid, test)" in line(
        capsys
    )
    assert main(["evaluate", "r"]) == 2
    treebank(tmp_path / "d.conllu")
    assert main(["train", "--run", "r"]) == 0
    assert main(["evaluate", "r"]) == 0


def test_a_part_is_known_by_its_words_tags_and_what_is_learnt_of_feats(tmp_path):
    file = treebank(tmp_path / "d.conllu")
    before = made("--data", file).fingerprints
    learnt = made("--data", treebank(tmp_path / "d.conllu", feats="Case=Nom"), "--model.morphology", "1").fingerprints
    treebank(tmp_path / "d.conllu", feats="Case=Gen")
    assert made("--data", file).fingerprints == before
    other = made("--data", file, "--model.morphology", "1").fingerprints
    assert other["train"] != learnt["train"] and other["test"] == learnt["test"] == before["test"]
    # numbers are given in the order of first appearance, which another first sentence changes for all
    text = (tmp_path / "d.conllu").read_text(encoding="utf-8")
    first = "1\tстоит\t_\tVERB\t_\t_\t_\t_\t_\t_\n\n"
    one = data.read(treebank(tmp_path / "a.conllu"))
    (tmp_path / "b.conllu").write_text(first + text.replace("Case=Gen", "_"), encoding="utf-8")
    two = data.read(str(tmp_path / "b.conllu"))
    same = data.part_fingerprints(one, {"test": [3, 4]}, False), data.part_fingerprints(two, {"test": [4, 5]}, False)
    assert same[0] == same[1]


def test_decomposed_words_are_the_same_words(tmp_path):
    odd = [("мои\u0306", "DET"), ("ча\u00adй", "NOUN"), ("стоит\u200b", "VERB"), (".", "PUNCT")]
    one, two = (data.read(treebank(tmp_path / f"{n}.conllu", words)) for n, words in enumerate((WORDS, odd)))
    assert one.words == two.words and data.fingerprint(one) == data.fingerprint(two)
    mixed = data.read(treebank(tmp_path / "mixed.conllu", [*WORDS, *odd]))
    assert mixed.words == one.words and mixed.word_ids[:8].tolist() == [0, 1, 2, 3] * 2
    unseen = data.read(treebank(tmp_path / "unseen.conllu", [("\u200b", "X"), ("а", "NOUN")]))
    assert unseen.words == ["\u200b", "а"]  # a word all the same


def test_decomposed_text_is_tagged_as_composed_and_shown_as_it_is_written(tmp_path, capsys):
    assert main(["train", *SMALL, "--data", treebank(tmp_path / "d.conllu"), "--run", "r"]) == 0
    composed, written = "Мой чай стоит. Чай мой!", "Мои\u0306 ча\u00adи\u0306 стои\u200bт. Чаи\u0306 мои\u0306!"
    capsys.readouterr()
    found = []
    for text in (composed, written):
        assert main(["predict", "r", text]) == 0
        rows = [row.split("\t") for row in capsys.readouterr().out.splitlines() if row]
        found.append((["".join(row[0]) for row in rows], [row[1] for row in rows]))
    (words, tags), (odd, same) = found
    assert tags == same
    assert [*map(clean, odd)] == words and odd[0] == "Мои\u0306" and odd[1] == "ча\u00adи\u0306"
    file = treebank(tmp_path / "in.conllu", [("мои\u0306", "_"), ("чаи\u0306", "_")], 1)
    assert main(["predict", "r", file]) == 0
    assert [row.split("\t")[0] for row in capsys.readouterr().out.splitlines()] == ["мои\u0306", "чаи\u0306"]
    assert main(["predict", "r", written, "--format", "conllu"]) == 0
    assert f"# text = {written.split('. ')[0]}.\n1\tМои\u0306" in capsys.readouterr().out


def test_sentences_are_cut_as_their_clean_form_would_be():
    [(text, words)] = sentences_in("\u200bза\u0301мок,\u00ad ёж — е\u0308ж\ufeff")
    assert words == ["за\u0301мок", ",", "ёж", "—", "е\u0308ж"]
    assert all(word in text for word in words)
    assert [*sentences_in("\u200b \u00ad")] == [] == [*sentences_in("")]


def test_one_tag_and_a_vocabulary_without_words_are_refused(tmp_path):
    with pytest.raises(UserError, match="all words of the training part of .* are tagged NOUN"):
        made("--data", treebank(tmp_path / "one.conllu", [("чай", "NOUN")]))
    with pytest.raises(UserError, match=r"text\.vocabulary 2 has room for no word"):
        made("--text.vocabulary", "2")


def test_what_cannot_be_read_is_one_line(tmp_path, capsys, monkeypatch):
    assert main(["train", *SMALL, "--data", treebank(tmp_path / "d.conllu"), "--run", "r"]) == 0
    (tmp_path / "in.txt").write_bytes("мой\n".encode("utf-16"))
    assert main(["predict", "r", "in.txt"]) == 2
    assert "in.txt, line 1: byte 0xff is not UTF-8, but UTF-16" in line(capsys)
    (tmp_path / "in.conllu").write_bytes("1\tмой\n".encode("utf-16"))
    assert main(["predict", "r", "in.conllu"]) == 2
    assert "in.conllu, line 1: byte 0xff is not UTF-8, but UTF-16" in line(capsys)
    monkeypatch.setattr("sys.stdin", None)
    assert main(["predict", "r", "-"]) == 2
    assert "standard input is closed" in line(capsys)
    sys.stdin.close()  # what stood in for it
