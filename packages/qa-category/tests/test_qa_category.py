import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from etude import config
from etude.study.file import load
from etude.study.question import flags_of
from etude.testing import check_presets, check_task
from etude.train import checkpoint
from qa_category import data
from qa_category.__main__ import PACKAGE, main
from qa_category.config import CLASSIFYING, Config, Data
from qa_category.model import Classifier, Embedding

FIT = ["--fit.lr", "1e-2", "--fit.batch-size", "400"]
SMALL = ["--model.embedding", "16", "--model.hidden", "16", *FIT]
CPU = torch.device("cpu")
KINDS = [
    ["--model.kind", "dan", "--model.norm", "batch"],
    ["--model.kind", "dan", "--model.pooling", "sum", "max", "--model.norm", "layer", "--model.residual"],
    ["--model.kind", "lstm", "--model.layers", "2", "--model.pooling", "last", "attention"],
    ["--model.kind", "lstm", "--model.no-bidirectional", "--model.pooling", "last"],
    ["--model.kind", "cnn", "--model.widths", "1", "2", "5", "--model.pooling", "mean", "max"],
    ["--model.kind", "cnn", "--model.arrangement", "sequence", "--model.residual", "--model.norm", "layer"],
]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write(name, text):
    Path(name).write_text(text, encoding="utf-8")
    return str(Path(name).absolute())


def model_of(*flags, table=None, categories=5):
    torch.manual_seed(0)
    small = ["--model.units", "12"] if {"lstm", "cnn"} & {*flags} else ["--model.hidden", "16"]
    settings = config.parse(Config, ["--model.embedding", "16", *small, *flags]).model
    return Classifier(settings, torch.zeros(50, 0) if table is None else table, categories)


def test_the_battery(tmp_path):
    questions = write("questions.txt", "Is it safe for a newborn?\nHow long does delivery take?\n")
    (tmp_path / "runs").mkdir()
    flags = ["--model.kind", "cnn", "--model.embedding", "16", "--model.units", "12", *FIT]
    flags += ["--model.norm", "batch", "--model.spatial-dropout", "0.1"]
    check_task(dataclasses.replace(PACKAGE, scores=CLASSIFYING), flags, [questions], tmp_path / "runs")


def test_presets_and_studies_that_install_with_the_package_can_be_parsed():
    studies = [
        "apart",
        "embeddings",
        "labels",
        "model",
        "normalisation",
        "pieces",
        "pooling",
        "pooling-search",
        "schedule",
        "states",
        "tokenizer",
        "transfer",
        "transfer-all",
        "transfer-few",
        "transfer-tenth",
        "unknown",
        "unknown-cased",
        "vectors",
        "wider",
    ]
    check_presets(PACKAGE, ["best", "language"], studies)


@pytest.mark.parametrize("flags", KINDS)
def test_no_layer_sees_padding_or_the_company(flags):
    model = model_of(*flags).eval()
    lengths, ids = torch.tensor([1, 7, 3, 12]), torch.randint(1, 50, (4, 12))
    with torch.inference_mode():
        together = model(ids, lengths)
        longer = model(torch.cat([ids, torch.randint(1, 50, (4, 5))], 1), lengths)
        alone = torch.cat([model(row[None, :n], n[None]) for row, n in zip(ids, lengths, strict=True)])
    assert together.std() > 0
    torch.testing.assert_close(together, longer, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_without_the_mask_an_answer_depends_on_the_company():
    model = model_of("--model.no-masked").eval()
    ids = torch.randint(1, 50, (2, 6))
    alone, together = (model(ids[:, :n], torch.tensor([3, 3]))[0] for n in (3, 6))
    assert not torch.allclose(alone, together)


@pytest.mark.parametrize("flags", KINDS)
def test_every_weight_takes_part(flags):
    model = model_of(*flags, "--model.dropout", "0")
    model(torch.randint(1, 50, (4, 12)), torch.tensor([12, 5, 9, 2])).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_convolutions_are_those_of_torch_over_a_question_with_zeros_around_it():
    model = model_of(
        "--model.kind", "cnn", "--model.widths", "3", "--model.pooling", "max", "--model.dropout", "0"
    ).eval()
    ids = torch.randint(1, 50, (1, 6))
    conv = model.reader.maps[0]
    x = nn.functional.pad(model.embedding(ids).mT, (1, 1))
    windows = x.unfold(2, 3, 1)  # [1, E, T, 3]
    expected = (torch.einsum("betw,cew->bct", windows, conv.weight) + conv.bias[:, None]).relu().amax(2)
    found = model.pooled(torch.cat([ids, ids], 1), torch.tensor([6]))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_the_lstm_is_that_of_torch_with_packed_sequences():
    flags = ["--model.kind", "lstm", "--model.layers", "2", "--model.dropout", "0", "--model.pooling", "last"]
    model = model_of(*flags).eval()
    ours = model.reader.rnn
    torchs = nn.LSTM(16, 12, 2, batch_first=True, bidirectional=True)
    torchs.load_state_dict(ours.state_dict())
    ids, lengths = torch.randint(1, 50, (3, 8)), torch.tensor([8, 2, 5])
    packed = nn.utils.rnn.pack_padded_sequence(model.embedding(ids), lengths, batch_first=True, enforce_sorted=False)
    _, (hidden, _) = torchs(packed)
    torch.testing.assert_close(model.pooled(ids, lengths), torch.cat([hidden[-2], hidden[-1]], 1), atol=1e-5, rtol=1e-4)


def test_the_sum_is_the_mean_times_the_number_of_words():
    ids, lengths = torch.randint(1, 50, (2, 6)), torch.tensor([6, 2])
    total = model_of("--model.pooling", "sum").eval().pooled(ids, lengths)
    mean = model_of("--model.pooling", "mean").eval().pooled(ids, lengths)
    torch.testing.assert_close(total, mean * lengths[:, None])


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.RMSprop])
def test_tuned_vectors_move_as_with_a_learning_rate_of_their_own(optimizer):
    """The parametrisation given + rate * learnt, against torch's parameter groups; no weight decay, which differs."""
    settings = config.parse(Config, ["--vectors", "v.txt", "--model.embeddings", "tuned", "--model.rate", "0.1"]).model
    table = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    ours, reference = Embedding(settings, table.clone()), nn.Parameter(table.clone())
    one = optimizer(ours.parameters(), lr=0.01, weight_decay=0)
    two = optimizer([{"params": [reference], "lr": 0.001}], weight_decay=0)
    target, ids = torch.ones(1, 5, 4), torch.tensor([[0, 1, 2, 3, 2]])
    for _ in range(20):
        for step, found in ((one, ours(ids)), (two, nn.functional.embedding(ids, reference))):
            step.zero_grad()
            (found - target).square().sum().backward()
            step.step()
    torch.testing.assert_close(ours(ids), nn.functional.embedding(ids, reference), atol=1e-6, rtol=1e-5)
    assert not torch.allclose(ours(ids), nn.functional.embedding(ids, table))


def test_frozen_vectors_do_not_move_and_new_words_have_theirs():
    settings = config.parse(Config, ["--vectors", "v.txt", "--model.embeddings", "frozen"]).model
    table = torch.randn(4, 3)
    one = Embedding(settings, table)
    assert not list(one.parameters())
    one.grow(torch.ones(2, 3))
    torch.testing.assert_close(
        one(torch.tensor([[1, 4, 5]])), torch.stack([table[1], torch.ones(3), torch.ones(3)])[None]
    )


def vectors_file():
    """Random vectors of every second word of the sample, and of two that it does not have."""
    draws = np.random.default_rng(0)
    known = sorted({word for text in data.load(Data()).train.texts for word in text.lower().strip("?").split()})[::2]
    lines = [f"{word} {' '.join(f'{x:.3f}' for x in draws.normal(size=8))}" for word in [*known, "zebra", "quagga"]]
    return write("v.txt", "\n".join(lines))


def test_a_run_on_vectors_predicts_alone_and_resumes(capsys):
    flags = [
        *FIT,
        "--model.hidden",
        "16",
        "--vectors",
        vectors_file(),
        "--model.embeddings",
        "tuned",
        "--fit.epochs",
        "2",
        "--run",
        "run",
    ]
    assert main(["train", *flags]) == 0
    questions = write("q.txt", "is the zebra a quagga\nunheard-of words only, xyzzyness\n")
    capsys.readouterr()
    assert main(["predict", "run", questions]) == 0
    together = capsys.readouterr().out.splitlines()
    Path("v.txt").unlink()  # all that it takes is in the run's folder
    assert main(["predict", "run", questions]) == 0
    assert capsys.readouterr().out.splitlines() == together
    assert len(together) == 2 and set(together) <= set(data.load(Data()).categories)
    for number, line in enumerate(Path("q.txt").read_text().splitlines()):
        assert main(["predict", "run", write("one.txt", line)]) == 0
        assert capsys.readouterr().out == together[number] + "\n"
    assert main(["embed", "run", "--out", "e.npy", questions]) == 0
    assert np.load("e.npy").shape == (2, 16)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert main(["train", "--run", str(folder), *SMALL, "--fit.epochs", "4", "--fit.batch-size", "64"]) == 0
    return folder


def test_evaluate_agrees_with_predictions(trained, capsys):
    assert main(["evaluate", str(trained)]) == 0
    scores = json.loads(capsys.readouterr().out.splitlines()[-1])
    part = data.load(Data()).test
    assert main(["predict", str(trained), write("q.txt", "\n".join(part.texts))]) == 0
    answers = capsys.readouterr().out.splitlines()
    names = data.load(Data()).categories
    truths = [names[label] for label in part.labels]
    assert scores["accuracy"] == pytest.approx(np.mean([a == b for a, b in zip(answers, truths, strict=True)]))
    f1 = []
    for name in names:
        hits = sum(a == b == name for a, b in zip(answers, truths, strict=True))
        f1.append(2 * hits / (answers.count(name) + truths.count(name)))
    assert scores["macro_f1"] == pytest.approx(np.mean(f1))
    assert scores["accuracy"] > 0.6 and scores["questions"] == 400


def test_questions_of_which_no_word_is_known_are_said_to_be_guessed(trained, capsys):
    """A mark is no word, although it is known: nearly every question ends in the same one."""
    assert main(["predict", str(trained), write("q.txt", "ыыы жжж\nIs this phone waterproof?\nыыы ?\n?")]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 4
    guesses = [f"{text}: a guess, the model knows none of its words" for text in ("ыыы жжж", "ыыы ?", "?")]
    assert err.splitlines() == guesses


def test_any_file_is_scored_without_what_the_run_was_trained_on(trained, capsys):
    dataset = data.load(Data())
    names = dataset.categories
    rows = [
        (text, names[label])
        for part in (dataset.train, dataset.test)
        for text, label in zip(part.texts[:50], part.labels[:50], strict=True)
    ]
    name = write("other.csv", "question,category\n" + "\n".join(f'"{text}",{kind}' for text, kind in rows))
    assert main(["evaluate", str(trained), "--data", name]) == 0
    out = capsys.readouterr().out
    scores = json.loads(out.splitlines()[-1])
    assert scores["questions"] == 50 and "left out: 50 that the run was trained or chosen on" in out
    assert {"accuracy", "macro_f1"} <= scores.keys()
    assert main(["evaluate", str(trained), "--data", write("o.csv", "question,category\nIs it?,Oil\n")]) == 2
    assert "category 'Oil', which the run was not trained on" in capsys.readouterr().err
    only = write("seen.csv", f'question,category\n"{rows[0][0].upper()}",{rows[0][1]}\n')
    assert main(["evaluate", str(trained), "--data", only]) == 2
    assert "has no question that the run was not trained on" in capsys.readouterr().err


def test_a_run_is_not_scored_on_questions_that_are_read_otherwise(trained, capsys):
    for flags in (
        ["--text.no-lowercase"],
        ["--text.splitter", "bpe"],
        ["--text.max-length", "3"],
        ["--data.labels", "0.5"],
    ):
        capsys.readouterr()
        assert main(["evaluate", str(trained), *flags]) == 2, flags
        [line] = capsys.readouterr().err.splitlines()
        assert "otherwise than the run, which was trained with" in line and f"leave {flags[0][:6]}" in line


def test_a_run_is_not_scored_with_another_model_under_its_weights(trained, capsys):
    for flags in (["--model.pooling", "max"], ["--model.no-masked"]):
        capsys.readouterr()
        assert main(["evaluate", str(trained), *flags]) == 2, flags
        [line] = capsys.readouterr().err.splitlines()
        assert "was trained with another model (model." in line and "out" in line


def test_a_run_leaves_questions_and_pictures(trained):
    found = {file.stem for file in (trained / "samples").iterdir()}
    assert {"most-wrong", "questions-end", "questions-epoch-000", "confusion", "lengths"} <= found, found


def test_an_empty_question_is_told_with_its_line(trained, capsys):
    assert main(["predict", str(trained), write("q.txt", "Is it?\n\nWas it?\n"), "--out", "out.txt"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "q.txt, line 2: the question is empty" in line and not Path("out.txt").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data.labels", "0"], "data.labels"),
        (["--data.fine"], "use --data trec"),
        (["--data", "sample", "--data.division", "5"], "data.division does nothing with sample"),
        (["--data", "absent.csv"], "absent.csv"),
        (["--text.pieces", "900"], "text.pieces does nothing with splitter treebank"),
        (["--vectors-most", "7"], "vectors-most does nothing without vectors"),
        (["--text.least", "0"], "text.least must be at least 1"),
        (["--model.embeddings", "frozen"], "needs vectors"),
        (["--vectors", "v.txt"], "reads no vectors"),
        (["--vectors", "./v.txt", "--model.embeddings", "tuned", "--fit.optimizer", "sgd"], "adamw and rmsprop only"),
        (["--vectors", "./v.txt", "--model.embeddings", "tuned"], "v.txt cannot be read"),
        (["--model.rate", "0"], "model.rate"),
        (["--model.pooling", "last"], "--model.kind lstm"),
        (["--model.kind", "cnn", "--model.widths", "0"], "model.widths"),
        (["--model.kind", "cnn", "--model.rate", "0.1"], "model.rate does nothing with embeddings random"),
        (["--model.unknown", "mean"], "model.unknown does nothing without vectors"),
        (["--vectors", "./v.txt", "--model.embeddings", "frozen", "--model.embedding", "7"], "model.embedding does"),
        (["--model.kind", "lstm", "--model.hidden", "7"], "model.hidden does nothing with kind lstm"),
        (["--model.kind", "lstm", "--model.residual"], "model.residual does nothing with kind lstm"),
        (["--model.kind", "cnn", "--model.residual"], "add --model.arrangement sequence"),
        (["--model.kind", "cnn", "--model.layers", "2"], "model.layers does nothing with kind cnn"),
        (["--model.units", "7"], "model.units does nothing with kind dan"),
        (["--model.widths", "2"], "model.widths does nothing with kind dan"),
        (["--model.kind", "lstm", "--model.units", "1000000000"], "weights"),
        (["--model.hidden", "1000000000"], "weights"),
        (["--model.embedding", "1000000000"], "weights"),
        (["--model.kind", "lstm", "--model.layers", "1000000000"], "layers"),
        (["--task", "language", "--language.units", "1000000000"], "weights"),
        (["--model.dropout", "1"], "model.dropout"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(flags, message, capsys, tmp_path):
    assert main(["train", *flags]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line
    assert not list(tmp_path.iterdir())


def test_a_division_of_the_sample_says_which_labels_are_used():
    one, other = (data.load(Data(labels=0.5, division=division)).train.texts for division in (0, 5))
    assert one != other and len(one) == len(other)


@pytest.mark.real_data
def test_each_way_of_the_study_of_vectors_trains():
    asked = load("vectors", "qa_category", PACKAGE.scores)
    [command] = asked.needs.values()
    _, *words = command.split()
    assert main([*words, "--epochs", "1"]) == 0
    for n, trial in enumerate(asked.trials()[::2][:5]):  # with the first of two rates
        assert main(["train", *flags_of(asked, trial), "--fit.epochs", "1", "--run", str(n)]) == 0
    learnt = [checkpoint.read(Path(str(n)))["model"].get("embedding.learnt") for n in range(5)]
    assert [x is None for x in learnt] == [False, True, False, False, True]


@pytest.mark.real_data
def test_real_questions_are_learnt(capsys):
    flags = ["--data", "trec", "--vectors", "glove.6B.50d", "--model.embeddings", "tuned", "--fit.epochs", "6"]
    assert main(["train", *flags, "--run", "run"]) == 0
    assert main(["evaluate", "run"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["accuracy"] > 0.7
