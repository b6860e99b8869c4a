"""The language model of questions, and classifiers that start from it."""

import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from etude import config, testing
from etude.errors import UserError
from etude.testing import check_task
from etude.text.kneser_ney import KneserNey
from etude.train import checkpoint
from qa_category import data, demo, task
from qa_category.__main__ import PACKAGE, main
from qa_category.config import CLASSIFYING, LANGUAGE, Config, Data

CPU = torch.device("cpu")
SMALL = ["--language.embedding", "16", "--language.units", "24", "--fit.lr", "1e-2", "--fit.batch-size", "64"]
LANGUAGE_FLAGS = ["--task", "language", *SMALL]
FIT = ["--fit.batch-size", "400", "--fit.lr", "1e-2"]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """The run of a small language model."""
    folder = tmp_path_factory.mktemp("start") / "language"
    assert main(["train", "language", *SMALL, "--fit.epochs", "2", "--run", str(folder)]) == 0
    return folder


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def made(*flags):
    torch.manual_seed(0)
    return task.make(config.parse(Config, list(flags)), CPU)


def started(start, transfer, *flags):
    return made("--model.start", str(start), "--model.transfer", transfer, *flags)


def evaluated(run, capsys, *flags):
    capsys.readouterr()
    assert main(["evaluate", str(run), *flags]) == 0
    out = capsys.readouterr().out
    return out, json.loads(out.splitlines()[-1])


def questions(*lines):
    Path("q.txt").write_text("\n".join(lines), encoding="utf-8")
    return "q.txt"


# -- the language model


def test_the_battery_of_the_language_model(tmp_path, monkeypatch):
    monkeypatch.setattr(testing, "available", lambda _: [])  # its studies are of classifiers
    (tmp_path / "runs").mkdir()
    flags = [*LANGUAGE_FLAGS, "--fit.batch-size", "400", "--language.dropout", "0.1", "--language.embedding", "64"]
    flags += ["--language.units", "64"]
    inputs = [questions("Is it safe for a newborn?", "How long does delivery take?")]
    check_task(dataclasses.replace(PACKAGE, scores=LANGUAGE), flags, inputs, tmp_path / "runs")


def test_perplexity_is_per_token_with_the_ends_counted_and_so_is_that_of_trigrams(start, capsys):
    out, found = evaluated(start, capsys)
    one = made(*LANGUAGE_FLAGS)
    test = data.load(Data()).test.texts
    assert found["tokens"] == sum(len(row) + 1 for row in one.script.encode(test))
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
    encode = one.script.encode
    peer = KneserNey(encode(data.load(Data()).train.texts), found["vocabulary"]).surprisals(encode(test))
    assert found["kneser_ney"] == pytest.approx(float(np.exp(peer.mean()))) and len(peer) == found["tokens"]
    assert "trigrams with Kneser-Ney smoothing, on the same tokens" in out
    assert main(["predict", str(start), questions(*test)]) == 0
    said = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    nats = sum(math.log(float(perplexity)) * int(tokens) for perplexity, tokens in said)
    assert nats / found["tokens"] == pytest.approx(found["loss"], abs=2e-2)  # evaluated in bf16 where that is faster


def test_a_question_is_as_likely_in_pieces_of_any_company(start):
    state = checkpoint.read(start)
    parsed = config.parse(Config, [str(start / "config.yaml"), "--language.piece", "5"])
    one = task.restore(parsed, state["assets"])
    one.model.load_state_dict(state["model"])
    texts = data.load(Data()).test.texts[:20]
    together, tokens = one.surprisals(texts)
    alone = [one.surprisals([text])[0][0] for text in texts]
    np.testing.assert_allclose(together, alone, rtol=1e-4)
    assert tokens.tolist() == [len(row) + 1 for row in one.script.encode(texts)]


def test_it_writes_words_that_it_knows_and_embeds(start, capsys):
    sample = (start / "samples").glob("questions-end*")
    assert "written by the model" in next(sample).read_text(encoding="utf-8")
    assert main(["embed", str(start), "--out", "e.npy", questions("Is it safe?", "xyzzyness")]) == 0
    assert np.load("e.npy").shape == (2, 16)


def test_other_questions_are_scored_without_those_it_was_trained_on(start, capsys):
    dataset = data.load(Data())
    rows = "\n".join(f'"{text}",x' for text in dataset.train.texts[:30] + dataset.test.texts[:40])
    Path("other.csv").write_text(f"question,category\n{rows}\na new one,y\n", encoding="utf-8")
    out, found = evaluated(start, capsys, "--data", "other.csv")
    assert "other.csv, 41 questions (left out: 30 that the run was trained or chosen on)" in out
    assert "kneser_ney" not in found


def test_data_divided_otherwise_are_scored_without_what_it_was_trained_on(start, capsys):
    """Nor does a classifier take for a test part what it has seen."""
    texts, labels = data.load(Data()).train.texts[:600], data.load(Data()).train.labels[:600]
    rows = "\n".join(f'"{text}",{label % 2}' for text, label in zip(texts, labels, strict=True))
    Path("some.csv").write_text(f"question,category\n{rows}\n", encoding="utf-8")
    sizes = ["--language.embedding", "8", "--language.units", "8"]
    assert main(["train", "language", "--data", "some.csv", *sizes, "--fit.epochs", "1", "--run", "speaks"]) == 0
    assert main(["train", "--data", "some.csv", "--fit.epochs", "1", "--run", "tells"]) == 0
    own, other = (data.load(Data("some.csv", division=n)).test.texts for n in (0, 1))
    both = len(set(own) & set(other))
    for run in ("speaks", "tells"):
        out, _ = evaluated(run, capsys)
        assert f"{len(own)} questions" in out or f"/ {len(own)} questions" in out
        assert "left out" not in out and ("Kneser-Ney" in out) == (run == "speaks")
        out, found = evaluated(run, capsys, "--data.division", "1")
        assert f"(left out: {len(other) - both} that the run was trained or chosen on)" in out
        assert "Kneser-Ney" not in out and found.get("questions", both) == both


def test_it_is_not_scored_on_questions_that_are_read_otherwise(start, capsys):
    for flags in (["--text.no-lowercase"], ["--text.splitter", "spaces"], ["--text.splitter", "bpe"]):
        capsys.readouterr()
        assert main(["evaluate", str(start), *flags]) == 2, flags
        [line] = capsys.readouterr().err.splitlines()
        assert "otherwise than the run, which was trained with" in line
    with pytest.raises(UserError, match="the run is of task language, not classify: leave --task out"):
        task.restore(Config(), checkpoint.read(start)["assets"], CPU)


# -- classifiers that start from it


def test_the_battery_of_a_classifier_from_a_language_model(start, tmp_path, monkeypatch):
    monkeypatch.setattr(testing, "available", lambda _: ["transfer"])
    (tmp_path / "runs").mkdir()
    flags = ["--model.start", str(start), *FIT, "--model.dropout", "0.1", "--model.norm", "batch"]
    inputs = [questions("Is it safe for a newborn?", "How long does delivery take?")]
    check_task(dataclasses.replace(PACKAGE, scores=CLASSIFYING), flags, inputs, tmp_path / "runs")


@pytest.mark.parametrize("transfer", ["frozen", "gradual"])
def test_a_run_of_which_not_all_learns_resumes_in_every_bit(start, transfer, tmp_path):
    flags = ["--model.start", str(start), "--model.transfer", transfer, *FIT, "--fit.epochs", "3"]
    parsed = config.parse(Config, [*flags, "--fit.save-every", "0", "--fit.precision", "fp32"])
    whole = testing.trained(lambda: testing.make(PACKAGE, parsed), parsed, tmp_path / "whole")
    cuts = [("train", 8), ("train", 7)]
    resumed = testing.trained(lambda: testing.make(PACKAGE, parsed), parsed, tmp_path / "resumed", cuts)
    for part in ("model", "optimizer"):
        assert testing.different(whole[part], resumed[part], part) is None
    began = checkpoint.read(start)["model"]["encoder.layers.1.weight_hh_l0"]
    found = {name: x for name, x in whole["model"].items() if "layers.1" in name and "weight_hh" in name}
    learnt = found.pop("body.encoder.layers.1.parametrizations.weight_hh_l0.original", None)
    assert [torch.equal(x, began) for x in found.values()] == [True]  # what was given stays as it was
    assert (learnt is None) == (transfer == "frozen") and (learnt is None or learnt.abs().max() > 0)


def test_one_more_layer_learns_in_each_epoch(start):
    one = started(start, "gradual")
    batches = [one.load("train", np.arange(5), epoch) for epoch in (1, 2, 3, 4, 9)]
    assert [batch[3] for batch in batches] == [0, 1, 2, 3, 3]
    assert one.load("valid", np.arange(5), 0)[3] is None
    for batch, moved in zip(batches, (0, 1, 2, 3, 3), strict=True):
        one.model.zero_grad()
        total, _ = one.step(batch)["loss"]
        total.backward()
        parts = one.model.body.encoder.parts()
        learns = [any(p.grad is not None for one in part for p in one.parameters()) for part in parts]
        assert learns == [False] * (3 - moved) + [True] * moved


@pytest.mark.parametrize("transfer", ["frozen", "whole", "discriminative", "gradual"])
def test_it_starts_as_the_language_model(start, transfer):
    """Before training it has read as much of a question as the language model has, and of the same words."""
    one = started(start, transfer)
    state = checkpoint.read(start)
    speaker = task.restore(config.parse(Config, [str(start / "config.yaml")]), state["assets"])
    speaker.model.load_state_dict(state["model"])
    texts = data.load(Data()).test.texts[:5]
    assert [row.tolist() for row in one.encode(texts)] == [row.tolist() for row in speaker.script.encode(texts)]
    row = torch.tensor(one.encode(texts)[0])[None]
    encoder = one.model.eval().body.encoder
    framed = torch.cat([torch.zeros_like(row[:, :1]), row], 1)
    torch.testing.assert_close(encoder(framed)[0], speaker.model.eval().encoder(framed)[0])
    other = started(start, "scratch").model.eval()
    assert not torch.allclose(other.body.encoder(row)[0], encoder(row)[0])


def test_layers_below_learn_slower(start):
    one = started(start, "discriminative", "--model.rate", "0.5")
    rates = [
        next(module.rate for module in part.modules() if hasattr(module, "rate"))
        for (part,) in one.model.body.encoder.parts()
    ]
    assert rates == pytest.approx([0.5 / 2.6**2, 0.5 / 2.6, 0.5])
    frozen = started(start, "frozen").model
    assert not any(p.requires_grad for p in frozen.body.encoder.parameters())


@pytest.mark.parametrize("transfer", ["scratch", "frozen", "whole"])
def test_no_answer_depends_on_padding_or_the_company(start, transfer):
    model = started(start, transfer).model.eval()
    lengths, ids = torch.tensor([1, 7, 3, 12]), torch.randint(1, 50, (4, 12))
    with torch.inference_mode():
        together = model(ids, lengths)
        longer = model(torch.cat([ids, torch.randint(1, 50, (4, 5))], 1), lengths)
        alone = torch.cat([model(row[None, :n], n[None]) for row, n in zip(ids, lengths, strict=True)])
    torch.testing.assert_close(together, longer, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def said(one, row, category):
    """The log-odds of a category, for `testing.check_influence`."""
    table = one.model.embedding

    def found(word, by):
        with testing.scaled([*table.parameters(), *table.buffers()], row[word], by):
            p = float(one.probabilities([row])[0][category])
        return math.log(p / (1 - p))

    return found


@pytest.mark.parametrize("flags", [["--model.transfer", "whole"], ["--model.transfer", "frozen"], []])
def test_the_demo_says_which_words_mattered(start, flags):
    """Also of a network that starts from the language model, before whose first word a token stands."""
    one = made(*(["--model.start", str(start), *flags] if flags else ["--model.kind", "lstm"]))
    question = "Does this phone come with a charger ?"
    answer = demo.demo(one).panels[0].answer(question)
    (row,) = one.encode([question])
    assert len(set(row.tolist())) == len(row)
    testing.check_influence(answer.shown[1].pieces, said(one, row, one.categories.index(answer.headline)))


def test_a_run_folder_predicts_without_the_language_model_and_forgets_nothing(start, capsys):
    shutil.copytree(start, "gone")
    flags = ["--model.start", "gone", "--fit.epochs", "8", "--fit.batch-size", "32", "--fit.lr", "1e-2", "--run", "run"]
    assert main(["train", *flags]) == 0
    shutil.rmtree("gone")
    _, scores = evaluated("run", capsys)
    test = data.load(Data()).test
    assert main(["predict", "run", questions(*test.texts)]) == 0
    answers = capsys.readouterr().out.splitlines()
    names = data.load(Data()).categories
    right = np.mean([answer == names[label] for answer, label in zip(answers, test.labels, strict=True)])
    assert scores["accuracy"] == pytest.approx(right) and right > 0.5
    # What the language model has read counts as seen, too.
    known = checkpoint.read(Path("run"))["assets"]["seen"]
    assert torch.isin(checkpoint.read(start)["assets"]["seen"], known).all()


def test_a_classifier_chooses_how_much_of_a_question_it_reads(start, capsys):
    flags = ["--text.max-length", "3", *FIT, "--fit.epochs", "1", "--run", "run"]
    assert max(map(len, started(start, "whole", *flags[:2]).rows["train"])) == 3
    assert main(["train", "--model.start", str(start), *flags]) == 0
    evaluated("run", capsys)
    answers = []
    for more in ("?", " today or tomorrow, madam?"):
        assert main(["predict", "run", questions(f"Is it safe{more}")]) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1]


def test_questions_are_pooled_by_their_sum_too(start):
    one = started(start, "whole", "--model.pooling", "sum", "mean").model.eval()
    ids, lengths = torch.randint(2, 50, (2, 6)), torch.tensor([6, 2])
    total, mean = one.vector(ids, lengths).chunk(2, 1)
    torch.testing.assert_close(total, mean * lengths[:, None])


def test_another_language_model_does_not_go_on_with_a_run(start, capsys):
    shutil.copytree(start, "language")
    flags = ["--model.start", "language", "--run", "run", *FIT]
    assert main(["train", *flags, "--fit.epochs", "1"]) == 0
    shutil.rmtree("language")
    assert main(["train", "language", *SMALL, "--fit.epochs", "1", "--fit.seed", "5", "--run", "language"]) == 0
    capsys.readouterr()
    assert main(["train", *flags, "--fit.epochs", "1"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "run" in line


def test_a_tokenizer_of_pieces_comes_with_the_language_model(capsys):
    flags = ["--text.splitter", "bpe", "--text.pieces", "300", *SMALL, "--fit.epochs", "1", "--run", "pieces"]
    assert main(["train", "language", *flags]) == 0
    one = started("pieces", "whole")
    assert one.tokenizer is not None and one.config.text.splitter == "bpe"
    assert main(["train", "--model.start", "pieces", *FIT, "--fit.epochs", "1", "--run", "run"]) == 0
    shutil.rmtree("pieces")
    capsys.readouterr()
    assert main(["predict", "run", questions("Is it safe?")]) == 0
    assert main(["train", "--model.start", "run", "--run", "other"]) == 2


def test_what_cannot_be_started_from_is_refused(start, capsys, tmp_path):
    shutil.copytree(start, "language")
    run = str(tmp_path / "run")
    assert main(["train", *FIT, "--fit.epochs", "1", "--run", run]) == 0
    (tmp_path / "empty").mkdir()
    broken = tmp_path / "broken"
    shutil.copytree(start, broken)
    (broken / "checkpoints" / "best.pt").write_bytes(b"no checkpoint")
    shutil.copytree(start, "stopped")
    Path("stopped/result.json").unlink()
    dataset = data.load(Data())
    rows = "\n".join(
        f'"{text}",{label % 2}' for text, label in zip(dataset.train.texts, dataset.train.labels, strict=True)
    )
    Path("mixed.csv").write_text(f"question,category\n{rows}\n", encoding="utf-8")
    cases = [
        (["--model.start", run], "is a classifier: model.start takes the run of a language model"),
        (["--model.start", "nowhere"], "nowhere is no run folder"),
        (["--model.start", "empty"], "is no run folder"),
        (["--model.start", "broken"], "is damaged"),
        (["--model.start", "stopped"], "has not finished its training; go on with it, train --run "),
        (
            ["--model.start", "language", "--text.splitter", "spaces"],
            "has the vocabulary of text.splitter treebank, not",
        ),
        (["--model.start", "language", "--model.units", "7"], "model.units is that of the language model"),
        (["--model.start", "language", "--vectors", "glove.6B.50d"], "leave --vectors out"),
        (
            ["--model.start", "language", "--model.transfer", "gradual", "--fit.optimizer", "sgd"],
            "adamw and rmsprop only",
        ),
        (["--model.start", "language", "--data", "mixed.csv"], "test questions of mixed.csv"),
        (["--model.transfer", "frozen"], "give --model.start RUN"),
        (["--language.units", "7"], "train language"),
        (["--task", "language", "--model.hidden", "7"], "a language model has those of language"),
        (["--task", "language", "--data.labels", "0.5"], "leave data.labels out"),
        (["--task", "language", "--text.max-length", "3"], "leave text.max-length out"),
        (["--task", "language", "--language.layers", "0"], "language.layers must be at least 1"),
        (["--task", "language", "--language.dropout", "1"], "language.dropout is a probability"),
    ]
    for flags, message in cases:
        capsys.readouterr()
        assert main(["train", *flags, "--run", "new"]) == 2, flags
        [line] = capsys.readouterr().err.splitlines()
        assert message in line, (line, message)
        assert not Path("new").exists(), flags
