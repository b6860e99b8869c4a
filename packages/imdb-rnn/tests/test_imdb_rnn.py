import dataclasses
import json
import os

import numpy as np
import pytest
import torch

from etude import cli, config
from etude.errors import UserError
from etude.testing import check_presets, check_task
from etude.train import checkpoint
from imdb_rnn import data, demo, reading, task
from imdb_rnn.__main__ import PACKAGE, main
from imdb_rnn.config import CLASSIFYING, Config, Text
from imdb_rnn.model import CELLS, Classifier, NGrams, ngrams

SMALL = ["--model.embedding", "16", "--model.hidden", "16", "--fit.lr", "1e-2", "--fit.batch-size", "256"]
NONE = ["--model.kind", "none", "--model.ngrams", "2"]
CPU = torch.device("cpu")
KEYS = torch.arange(0, 60)  # all words of a small vocabulary as n-grams
KINDS = [
    ["--model.kind", "cnn", "--model.layers", "2"],
    ["--model.kind", "rnn", "--model.pooling", "last"],
    ["--model.kind", "lstm", "--model.layers", "2", "--model.joining", "gated", "--model.pooling", "attention"],
    ["--model.kind", "gru", "--model.pooling", "mean", "--model.joining", "max", "--model.word-dropout", "0.1"],
    ["--model.kind", "lstm", "--model.fixed-gates", "forget", "output", "--model.ngrams", "3"],
    NONE,
    ["--model.kind", "cnn", "--model.members", "3", "--model.ngrams", "2", "--model.share", "0.5"],
]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(file, text):
    file.write_text(text, encoding="utf-8")
    return str(file)


def model_of(flags):
    torch.manual_seed(0)
    sizes = [] if flags == NONE else SMALL
    return Classifier(config.parse(Config, [*sizes, *flags]).model, 50, 1, KEYS)


def test_the_battery(tmp_path):
    reviews = write(tmp_path / "reviews.txt", "A wonderful film.\n\nnot worth your time")
    flags = [*SMALL, "--model.ngrams", "2", "--model.dropout", "0.2", "--text.window", "12"]
    runs = tmp_path / "runs"
    runs.mkdir()
    check_task(dataclasses.replace(PACKAGE, scores=CLASSIFYING), flags, [reviews], runs)


@pytest.mark.parametrize("flags", KINDS)
def test_an_answer_depends_neither_on_padding_nor_on_the_company(flags):
    model = model_of(flags).eval()
    if model.linear:
        model.linear.ratio.normal_()
    lengths = torch.tensor([1, 7, 3, 12])
    ids = torch.randint(0, 50, (4, 12))
    with torch.inference_mode():
        together = model(ids, lengths)
        longer = model(torch.cat([ids, torch.randint(0, 50, (4, 5))], 1), lengths)
        alone = torch.cat([model(row[None, :n], n[None]) for row, n in zip(ids, lengths, strict=True)], 1)
    assert together.std() > 0
    assert torch.allclose(together, longer, atol=1e-6)
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("flags", KINDS)
def test_every_weight_takes_part(flags):
    model = model_of(flags)
    if model.linear:
        model.linear.ratio.normal_()
    model(torch.randint(0, 50, (4, 12)), torch.tensor([12, 5, 9, 2])).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_directions_and_layers_have_as_many_weights_as_the_study_says():
    sizes = [
        sum(p.numel() for name, p in CELLS["lstm"](96, 96, layers, 0.0, both).named_parameters() if "weight" in name)
        for layers, both in ((1, True), (2, False))
    ]
    assert sizes == [16 * 96**2] * 2


def test_members_learn_alone_and_answer_together():
    torch.manual_seed(0)
    flags = [*SMALL, "--model.kind", "gru", "--model.members", "2", "--model.ngrams", "1", "--model.share", "0.5"]
    one = task.make(config.parse(Config, [*flags, "--model.dropout", "0"]), CPU)
    batch = one.load("train", one.plan("train", 1, 8)[0], 1)
    linear, first, second = one.model(*batch[:2])
    assert not torch.allclose(first, second)
    answers = one.model.answer(torch.stack([linear, first, second]))
    torch.testing.assert_close(answers, linear + 0.25 * (first + second))
    assert one.step(batch)["accuracy"][0] == ((answers > 0) == batch[2]).sum()
    torch.nn.functional.binary_cross_entropy_with_logits(first, batch[2].float(), reduction="sum").backward()
    alone = [p.grad.clone() for p in one.model.readers[0].parameters()]
    one.model.zero_grad()
    one.step(batch)["loss"][0].backward()
    for found, expected in zip(one.model.readers[0].parameters(), alone, strict=True):
        torch.testing.assert_close(found.grad, expected)


def test_ngrams_are_those_counted_the_obvious_way():
    torch.manual_seed(0)
    lengths = torch.tensor([1, 5, 40])
    ids = torch.randint(0, 6, (3, 40))
    keys, counted = ngrams(ids, lengths, 3)
    of_key = {}
    for row, length, found, real in zip(ids.tolist(), lengths.tolist(), keys, counted, strict=True):
        grams = {tuple(row[i : i + n]) for n in (1, 2, 3) for i in range(length - n + 1)}
        assert len(found[real].unique()) == int(real.sum()) == len(grams)
        for gram in grams:
            [[key]] = ngrams(torch.tensor([gram]), torch.tensor([len(gram)]), 3)[0][:, -1:].tolist()
            assert of_key.setdefault(key, gram) == gram and key in found[real]


def test_n_grams_of_a_single_review_are_not_known(monkeypatch):
    texts = ["good film", "good film good film", "one word one word one word"]
    part = data.Reviews(texts, np.array([1, 1, 0]))
    monkeypatch.setattr(data, "load", lambda *_: data.Dataset("x", part, part, part, "x"))
    one = task.make(config.parse(Config, [*SMALL, "--model.ngrams", "2", "--text.window", "2"]), CPU)
    good, film = (one.tokenizer.ids[word] for word in (" good", " film"))
    expected, _ = ngrams(torch.tensor([[good, film]]), torch.tensor([2]), 2)
    assert one.keys.tolist() == [0, *expected[0].tolist()]


def test_naive_bayes_is_that_of_the_paper():
    linear = NGrams(1, torch.tensor([3, 4, 5]))
    linear.naive_bayes(torch.tensor([7, 5, 0]), torch.tensor([1, 0, 1]))
    expected = [np.log((1 + p) / 15) - np.log((1 + q) / 5) for p, q in ((7, 1), (5, 0), (0, 1))]
    assert linear.ratio.tolist() == pytest.approx(expected, rel=1e-5)


def test_tokenised_and_ordinary_text_look_alike():
    assert reading.plain("I DON'T like it, it's bad!") == reading.plain("i do n't like it , it 's bad !")
    assert reading.plain("I don't.") == "i don't ."
    assert reading.plain("") == ""


def test_of_a_long_review_the_first_and_the_last_half_are_read():
    task_ = task.make(config.parse(Config, SMALL), CPU)
    words = [f"{word} " for word in task_.tokenizer.vocab if word.strip().isalpha()][:30]
    text = "".join(words)
    whole = task.encode([text], task_.tokenizer, Text())[0].tolist()
    cut = task.encode([text], task_.tokenizer, Text(max_length=7))[0].tolist()
    assert cut == whole[:4] + whole[-3:]
    assert task.encode([""], task_.tokenizer, Text())[0].tolist() == [task_.tokenizer.unk_id]


def test_windows_to_train_on_make_up_the_reviews():
    task_ = task.make(config.parse(Config, [*SMALL, "--text.window", "5"]), CPU)
    whole = task.make(config.parse(Config, SMALL), CPU)
    windows, labels = task_.parts.examples("train")
    assert len(windows) == len(labels) > 2 * len(whole.parts.rows("train"))
    rest = iter(zip(windows, labels, strict=True))
    for row, label in zip(*whole.parts.examples("train"), strict=True):
        found = []
        while len(found) < len(row):
            window, its_label = next(rest)
            assert 3 <= len(window) <= 7 and its_label == label
            found += window.tolist()
        assert found == row.tolist()
    assert next(rest, None) is None
    ids = np.array([3, 0])
    ids_, lengths, its_labels = task_.load("train", ids, 1)
    assert ids_[1, : lengths[1]].tolist() == windows[0].tolist() and its_labels.tolist() == labels[ids].tolist()
    assert [row.tolist() for row in task_.parts.rows("valid")] == [row.tolist() for row in whole.parts.rows("valid")]


def test_the_linear_part_sees_only_what_a_review_says_not_how_often_or_how_long():
    linear = NGrams(1, torch.tensor([2, 3, 4]))
    linear.ratio.normal_()
    linear.factor.data.normal_()
    once, twice = torch.tensor([[1, 2, 3]]), torch.tensor([[1, 2, 3, 9, 3, 2, 1]])
    torch.testing.assert_close(linear(once, torch.tensor([3])), linear(twice, torch.tensor([7])))
    expected = (linear.ratio / linear.ratio.norm() * linear.factor).sum() + linear.bias
    torch.testing.assert_close(linear(once, torch.tensor([3]))[0], expected)
    torch.testing.assert_close(linear(torch.tensor([[7, 8]]), torch.tensor([2]))[0], linear.bias.detach())


def test_what_the_tokens_of_a_review_add_is_all_that_the_linear_part_says():
    torch.manual_seed(0)
    rows = torch.randint(0, 5, (30, 12))
    keys = ngrams(rows, torch.full((30,), 12), 3)[0].unique()[::2].contiguous()  # half of them are known
    linear = NGrams(3, keys)
    linear.ratio.normal_()
    linear.factor.data.normal_()
    linear.bias.data.fill_(0.5)
    for row in rows:
        found = linear.shares(row[None])
        torch.testing.assert_close(found.sum() + linear.bias, linear(row[None], torch.tensor([12]))[0])
    linear = NGrams(2, ngrams(torch.tensor([[7, 8]]), torch.tensor([2]), 2)[0][0])  # 7, 8, and 7 8
    linear.ratio.copy_(torch.tensor([3.0, 4.0, 12.0]))
    linear.factor.data.fill_(1.0)
    found = linear.shares(torch.tensor([[7, 8, 9, 7]])) * 13
    torch.testing.assert_close(found, torch.tensor([3 / 2 + 6, 4 + 6, 0, 3 / 2]))


def test_the_demo_of_n_grams_says_which_words_mattered(tmp_path):
    folder = tmp_path / "run"
    assert main(["train", "ngrams", "--run", str(folder), "--data", "sample", "--fit.epochs", "1"]) == 0
    restored = cli.restored(PACKAGE, folder)
    review = "the plot is dull , and the zzqxv is awful"
    words = demo.demo(restored).panels[0].answer(review).later()[0]
    assert [word for word, _ in words.pieces] == review.split() and words.unknown == [7]
    odds = float(restored.odds(task.encode([review], restored.tokenizer, restored.config.text))[0])
    added = sum(share for _, share in words.pieces) + float(restored.model.linear.bias.detach())
    assert added == pytest.approx(odds, abs=1e-4)


def test_presets_and_studies_that_install_with_the_package_can_be_parsed():
    studies = ["bidirectional", "depth", "forgetting", "gates", "joining", "model-search", "models", "tokenizer"]
    check_presets(PACKAGE, ["best", "language", "ngrams", "out-of-domain"], studies)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert main(["train", "--run", str(folder), *SMALL, "--fit.epochs", "3", "--fit.batch-size", "64"]) == 0
    return folder


def test_predict_answers_every_line_in_order(trained, tmp_path, capsys):
    part = data.load("sample", 0).test
    lines = [*part.texts[:50], "", *part.texts[50:90], "", "  "]
    reviews = write(tmp_path / "reviews.txt", "\n".join(lines) + "\n")
    assert main(["predict", str(trained), reviews, "--out", "predictions.txt"]) == 0
    answers = (tmp_path / "predictions.txt").read_text().split("\n")
    assert answers.pop() == ""
    assert len(answers) == len(lines)
    assert set(answers) == {"0", "1"}
    right = [int(a) == b for a, b in zip(answers[:50] + answers[51:91], part.labels[:90].tolist(), strict=True)]
    assert np.mean(right) > 0.7
    capsys.readouterr()
    for n in (0, 20, 50):
        assert main(["predict", str(trained), write(tmp_path / "one.txt", lines[n] + "\n")]) == 0
        assert capsys.readouterr().out == answers[n] + "\n"


def test_of_reviews_of_which_no_word_is_known_it_is_said_that_they_are_guessed(trained, tmp_path, capsys):
    """A mark is no word, although it is known."""
    reviews = write(tmp_path / "reviews.txt", "ыыы жжж .\na superb film\n!\n" + "ы " * 100 + "\n")
    assert main(["predict", str(trained), reviews]) == 0
    out, err = capsys.readouterr()
    assert len(out.split()) == 4
    told = [line.removesuffix(": a guess, the model knows none of its words") for line in err.splitlines()]
    assert told[:2] == ["ыыы жжж .", "!"] and len(told) == 3 and len(told[2]) <= 80 and told[2].endswith("[...]")
    answer = demo.demo(cli.restored(PACKAGE, trained)).panels[0].answer
    assert "a guess" in answer("ыыы жжж .").detail and "a guess" not in answer("a superb film").detail


def test_evaluate_ends_with_one_json_line_that_agrees_with_predictions(trained, tmp_path, capsys):
    assert main(["evaluate", str(trained)]) == 0
    scores = json.loads(capsys.readouterr().out.splitlines()[-1])
    part = data.load("sample", 0).test
    assert main(["predict", str(trained), write(tmp_path / "reviews.txt", "\n".join(part.texts))]) == 0
    answers = np.array([int(line) for line in capsys.readouterr().out.split()])
    labels = np.asarray(part.labels)
    assert scores["accuracy"] == pytest.approx(np.mean(answers == labels))
    hits = np.sum(answers * labels)
    assert scores["f1"] == pytest.approx(2 * hits / (answers.sum() + labels.sum()))
    assert scores["confusion"][1] == [int(labels.sum() - hits), int(hits)]


def test_a_run_leaves_reviews_before_during_and_after(trained):
    found = {file.name for file in (trained / "samples").iterdir()}
    assert found == {"most-wrong.md", "reviews-end.md", *(f"reviews-epoch-00{n}.md" for n in range(4))}
    names = ("reviews-epoch-000", "reviews-end", "most-wrong")
    *tables, worst = [(trained / "samples" / f"{name}.md").read_text().splitlines() for name in names]
    for table in tables:
        assert len(table) == 2 + task.SHOWN
        assert all(line.count("|") - line.count("\\|") == 5 for line in table)
    assert [line.split("|")[4] for line in tables[0]] == [line.split("|")[4] for line in tables[1]]  # the same reviews
    assert tables[0] != tables[1]
    assert all(line.startswith("| **wrong** |") for line in worst[2:4])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--text.vocabulary", "0"], "text.vocabulary must be at least 1, not 0"),
        (["--text.vocabulary", "1"], "too small"),
        (["--text.max-length", "0"], "text.max-length"),
        (["--model.fixed-gates", "forget", "--model.kind", "gru"], "--model.kind lstm"),
        (["--model.fixed-gates", "door"], "door"),
        (["--model.kind", "none"], "--model.ngrams"),
        ([*NONE, "--model.embedding", "7"], "model.embedding does nothing with kind none: leave it out"),
        ([*NONE, "--model.hidden", "7"], "model.hidden does nothing with kind none: leave it out"),
        ([*NONE, "--model.layers", "2"], "model.layers does nothing with kind none: leave it out"),
        ([*NONE, "--model.dropout", "0.1"], "model.dropout does nothing with kind none: leave it out"),
        (["--model.share", "2"], "model.share does nothing without model.ngrams"),
        ([*NONE, "--model.members", "2"], "model.members does nothing with kind none: leave it out"),
        (["--data", "sample", "--division", "3"], "division does nothing with sample"),
        (["--model.dropout", "1"], "model.dropout"),
        (["--model.members", "0"], "model.members must be at least 1"),
        (["--model.share", "0"], "model.share"),
        (["--model.kind", "cnn", "--model.widths", "0"], "model.widths"),
        (["--model.widths", "3"], "model.widths does nothing with kind lstm"),
        (["--model.kind", "cnn", "--model.joining", "sum"], "model.joining does nothing with kind cnn"),
        (["--model.kind", "cnn", "--model.pooling", "mean"], "model.pooling does nothing with kind cnn"),
        (["--model.kind", "cnn", "--model.no-bidirectional"], "model.bidirectional does nothing with kind cnn"),
        (["--model.rate", "0.5"], "give --model.start RUN"),
        (["--model.hidden", "1000000000"], "weights"),
        (["--model.layers", "1000000000"], "layers"),
        (["--model.members", "1000000000"], "weights"),
        (["--task", "language", "--language.units", "1000000000"], "weights"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(flags, message, capsys, tmp_path):
    assert main(["train", *flags]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_read_is_named(trained, tmp_path, capsys):
    (tmp_path / "broken.txt").write_bytes(b"fine\nnot \xff fine\n")
    for name, message in (("broken.txt", "line 2"), ("missing.txt", "missing.txt"), (str(tmp_path), str(tmp_path))):
        assert main(["predict", str(trained), name, "--out", "out.txt"]) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert name in line and message in line
        assert not (tmp_path / "out.txt").exists()


def test_a_tokenizer_of_another_version_is_refused(trained, tmp_path):
    state = task.make(config.parse(Config, SMALL), CPU).assets()
    with pytest.raises(UserError, match="tokenizer in the checkpoint"):
        task.restore(Config(), {"tokenizer": {**state["tokenizer"], "type": "syllables"}})


def test_a_run_can_be_evaluated_on_other_reviews(trained, tmp_path, monkeypatch, capsys):
    for part in ("train", "test"):
        for kind, word in (("positive", "wonderful"), ("negative", "dreadful")):
            folder = tmp_path / "imdb" / part
            folder.mkdir(parents=True, exist_ok=True)
            (folder / kind).write_text("\n".join(f"a {word} film, {part} number {n}" for n in range(30)))
    monkeypatch.setenv("ETUDE_DATA", str(tmp_path))
    assert main(["evaluate", str(trained), "--data", "imdb"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["reviews"] == 60
    known = data.load("sample", 0).train.texts[:5]  # what the run was trained on, in capitals
    with (tmp_path / "imdb/test/positive").open("a") as file:
        file.writelines(f"\n{text.upper()}" for text in known)
    assert main(["evaluate", str(trained), "--data", "imdb"]) == 0
    out = capsys.readouterr().out
    assert "5 test reviews that the run was trained on left out" in out
    assert json.loads(out.splitlines()[-1])["reviews"] == 60
    for kind in ("positive", "negative"):
        (tmp_path / "imdb/test" / kind).write_text("\n".join(known[kind == "positive" :: 2]))
    assert main(["evaluate", str(trained), "--data", "imdb"]) == 2
    assert "was trained on all 5 test reviews of imdb" in capsys.readouterr().err


def test_a_run_is_not_scored_on_reviews_that_are_read_otherwise(trained, capsys):
    for flags, says in (
        (["--text.no-plain"], "otherwise than the run, which was trained with"),
        (["--text.max-length", "5"], "otherwise than the run, which was trained with"),
        (["--held-out", "0.4"], "otherwise than the run, which was trained with"),
        (["--text.tokenizer", "bpe"], "was trained with another tokenizer (text.tokenizer: words -> bpe)"),
    ):
        capsys.readouterr()
        assert main(["evaluate", str(trained), *flags]) == 2, flags
        [line] = capsys.readouterr().err.splitlines()
        assert says in line
    with pytest.raises(UserError, match="is of task classify"):
        task.restore(Config(task="language"), checkpoint.read(trained)["assets"])


def test_a_run_is_not_scored_with_another_model_under_its_weights(trained, capsys):
    for flags in (
        ["--model.pooling", "mean"],
        ["--model.joining", "sum"],
        ["--model.pooling", "mean", "--data", "imdb"],
    ):
        capsys.readouterr()
        assert main(["evaluate", str(trained), *flags]) == 2, flags
        [line] = capsys.readouterr().err.splitlines()
        assert "was trained with another model (model." in line and f"leave {flags[0]} out" in line
    assert main(["evaluate", str(trained), "--model.pooling", "max"]) == 0  # its own


@pytest.mark.real_data
def test_little_of_a_batch_of_real_reviews_is_padding():
    one = task.make(config.parse(Config, ["--data", "imdb", *SMALL]), CPU)
    lengths = np.array([len(row) for row in one.parts.rows("train")])
    batches = one.plan("train", 1, 64)
    assert 1 - lengths.sum() / sum(len(ids) * lengths[ids].max() for ids in batches) <= 0.05


@pytest.mark.real_data
def test_real_reviews_are_learnt(tmp_path, capsys):
    """The linear model, which takes seconds."""
    assert os.environ["ETUDE_DATA"]
    flags = ["ngrams", "--fit.epochs", "2", "--run", str(tmp_path / "run")]
    assert main(["train", *flags]) == 0
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["accuracy"] > 0.89
