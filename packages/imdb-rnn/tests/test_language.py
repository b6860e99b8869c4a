"""The language model of reviews, and classifiers that start from it."""

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
from imdb_rnn import data, demo, task
from imdb_rnn.__main__ import PACKAGE, main
from imdb_rnn.config import CLASSIFYING, LANGUAGE, Config
from imdb_rnn.language import marks

CPU = torch.device("cpu")
SMALL = ["--language.embedding", "16", "--language.sampled", "100", "--fit.lr", "1e-2", "--fit.batch-size", "64"]
FIT = ["--fit.batch-size", "250", "--fit.lr", "1e-2"]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """The run of a small language model, both ways."""
    folder = tmp_path_factory.mktemp("start") / "language"
    assert main(["train", "language", *SMALL, "--fit.epochs", "1", "--run", str(folder)]) == 0
    return folder


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def made(*flags):
    torch.manual_seed(0)
    return task.make(config.parse(Config, list(flags)), CPU)


def started(start, transfer="whole", *flags):
    return made("--model.start", str(start), "--model.transfer", transfer, *flags)


def evaluated(run, capsys, *flags):
    capsys.readouterr()
    assert main(["evaluate", str(run), *flags]) == 0
    out = capsys.readouterr().out
    return out, json.loads(out.splitlines()[-1])


def reviews(*lines):
    Path("r.txt").write_text("\n".join(lines), encoding="utf-8")
    return "r.txt"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder `imdb` of texts that say where they stand, and `imdb-full`, which has some of them, and others."""
    monkeypatch.setenv("ETUDE_DATA", str(tmp_path))
    for part in ("train", "test"):
        for kind in data.CLASSES:
            for name in ("imdb", "imdb-full"):
                (tmp_path / name / part).mkdir(parents=True, exist_ok=True)
            texts = [f"{part} {kind} film number {n}" for n in range(30)]
            (tmp_path / "imdb" / part / kind).write_text("\n".join(texts))
            # Half of them are in both folders, otherwise spaced and punctuated.
            full = [f"7\t{text.upper()}!<br />  (Really)" for text in texts[:3]]
            full += [f"7\t{text.title().replace(' ', ',  ')}." for text in texts[::2]]
            (tmp_path / "imdb-full" / part / f"{kind}.tsv").write_text("\n".join(full) + "\n")
    return tmp_path


# -- what it reads


def test_it_reads_no_text_that_is_held_out_whatever_file_it_stands_in(home):
    dataset = data.load("imdb", 0)
    texts, left = data.unlabelled("imdb-full", dataset)
    held = {data.letters(text) for part in (dataset.valid, dataset.test) for text in part.texts}
    found = [data.letters(text) for text in texts]
    assert not held & set(found) and len(set(found)) == len(found)
    assert len(dataset.train.texts) == 54 and len(texts) == 54 + 12  # 12 texts are longer: "... (Really)"
    # Of 60 repeats 30 are tests; of the 30 of training some are validation.
    validated = sum(data.letters(text) in found for text in dataset.valid.texts)
    again = [line for file in (home / "imdb-full").rglob("*.tsv") for line in file.read_text().splitlines()]
    assert validated == 0 and left == sum(data.letters(line.partition("\t")[2]) in held for line in again) >= 30
    assert data.unlabelled("none", dataset) == (dataset.train.texts, 0)
    one = made("--task", "language", "--data", "imdb", "--unlabelled", "imdb-full")
    assert one.texts["train"] == texts and f"left out: {left}" in one.data


def test_the_held_out_part_is_that_of_the_classifier_for_every_seed_and_part_of_a_larger_one():
    few, many = (data.load("sample", 0, held_out) for held_out in (0.1, 0.3))
    assert few.valid.texts == many.valid.texts  # the sample comes with its own


def test_a_smaller_validation_part_is_part_of_a_larger_one(home):
    few, many = (data.load("imdb", 0, held_out).valid.texts for held_out in (0.1, 0.3))
    assert len(few) == 6 and len(many) == 18 and set(few) < set(many)
    assert set(data.load("imdb", 1, 0.3).valid.texts) != set(many)


def test_full_reviews_that_are_none_are_refused(home):
    dataset = data.load("imdb", 0)
    file = home / "imdb-full" / "train" / "positive.tsv"
    for content, message in (("7\tfine\nbad line\n", "line 2"), ("x\ty\n", "line 1"), ("7\t \n", "line 1")):
        file.write_text(content)
        with pytest.raises(UserError, match=f"positive.tsv, {message}"):
            data.unlabelled("imdb-full", dataset)
    file.unlink()
    with pytest.raises(UserError, match="leave --unlabelled out"):
        data.unlabelled("imdb-full", dataset)


# -- the language model


def test_the_battery_of_the_language_model(tmp_path, monkeypatch):
    monkeypatch.setattr(testing, "available", lambda _: [])  # its studies are of classifiers
    (tmp_path / "runs").mkdir()
    flags = ["--task", "language", *SMALL, "--fit.batch-size", "250", "--language.bidirectional"]
    flags += ["--language.layers", "1", "--language.embedding", "48"]
    inputs = [reviews("A wonderful film.", "", "not worth your time")]
    check_task(dataclasses.replace(PACKAGE, scores=LANGUAGE), flags, inputs, tmp_path / "runs")


def test_perplexity_is_per_token_with_the_ends_counted_and_so_is_that_of_trigrams(start, capsys):
    out, found = evaluated(start, capsys)
    one = made("--task", "language", "--text.vocabulary", "20000")
    test = data.load("sample", 0).test.texts
    encode = one.script.encode
    assert found["tokens"] == sum(len(row) + 1 for row in encode(test))
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
    peer = KneserNey(encode(data.load("sample", 0).train.texts), found["vocabulary"]).surprisals(encode(test))
    assert found["kneser_ney"] == pytest.approx(float(np.exp(peer.mean()))) and len(peer) == found["tokens"]
    assert "read both ways" in out and "trigrams with Kneser-Ney smoothing, on the same tokens" in out
    assert main(["predict", str(start), reviews(*test)]) == 0
    said = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    nats = sum(math.log(float(perplexity)) * int(tokens) for perplexity, tokens in said) / found["tokens"]
    assert math.exp(nats) == pytest.approx(
        found["perplexity_forward"], rel=2e-2
    )  # evaluated in bf16 where it is faster


def test_it_writes_and_shows_reviews(start):
    sample = next((start / "samples").glob("reviews-end*")).read_text(encoding="utf-8")
    assert "written by the model" in sample and "validation review" in sample


def test_other_reviews_are_scored_without_those_it_was_trained_on(start, home, capsys):
    read = data.load("sample", 0).train.texts[:5]
    file = home / "imdb" / "test" / "negative"
    file.write_text(file.read_text() + "\n" + "\n".join(text.upper() for text in read))
    out, found = evaluated(start, capsys, "--data", "imdb")
    assert "imdb, 60 reviews to test (left out: 5 that the run was trained or chosen on)" in out
    assert "kneser_ney" not in found


def test_it_is_scored_with_its_own_words_or_not_at_all(start, home, capsys):
    """Of no other part or way to read are words of the same number learnt, which would be taken for its own."""
    assert main(["train", "language", *SMALL, "--data", "imdb", "--fit.epochs", "1", "--run", "run"]) == 0
    flags = (
        ["--held-out", "0.4"],
        ["--unlabelled", "imdb-full"],
        ["--text.no-plain"],
        ["--text.tokenizer", "bpe"],
        ["--text.vocabulary", "30"],
    )
    for more in flags:
        capsys.readouterr()
        assert main(["evaluate", "run", *more]) == 2, more
        [line] = capsys.readouterr().err.splitlines()
        assert "otherwise than the run, which was trained with" in line or "trained with another tokenizer (" in line
        assert f"leave {more[0][:6]}" in line
    kept = checkpoint.read(Path("run"))["assets"]
    one = task.restore(config.parse(Config, ["run/config.yaml"]), kept, CPU)
    assert one.kept["tokenizer"] == kept["tokenizer"] and len(one.texts["train"]) == 54
    assert "kneser_ney" in evaluated("run", capsys)[1]
    with pytest.raises(UserError, match="the run is of task language, not classify: leave --task out"):
        task.restore(Config(), kept, CPU)
    # The first runs have not kept how they read; their words they have.
    del kept["knobs"]
    other = config.parse(Config, ["run/config.yaml", "--held-out", "0.4"])
    again = task.restore(other, kept, CPU)
    text = again.texts["test"][:3]
    assert [x.tolist() for x in again.script.encode(text)] == [x.tolist() for x in one.script.encode(text)]
    assert again.texts["train"] == [] and len(again.texts["test"]) == 60


# -- classifiers that start from it


def test_the_battery_of_a_classifier_from_a_language_model(start, tmp_path, monkeypatch):
    monkeypatch.setattr(testing, "available", lambda _: [])
    (tmp_path / "runs").mkdir()
    flags = ["--model.start", str(start), *FIT, "--model.dropout", "0.1", "--text.window", "20"]
    flags += ["--model.adversarial", "1"]
    check_task(dataclasses.replace(PACKAGE, scores=CLASSIFYING), flags, [reviews("A film.", "")], tmp_path / "runs")


@pytest.mark.parametrize("transfer", ["frozen", "gradual"])
def test_a_run_of_which_not_all_learns_resumes_in_every_bit(start, transfer, tmp_path):
    flags = ["--model.start", str(start), "--model.transfer", transfer, *FIT, "--fit.epochs", "3"]
    parsed = config.parse(Config, [*flags, "--fit.save-every", "0", "--fit.precision", "fp32"])
    whole = testing.trained(lambda: testing.make(PACKAGE, parsed), parsed, tmp_path / "whole")
    cuts = [("train", 9), ("train", 8)]
    resumed = testing.trained(lambda: testing.make(PACKAGE, parsed), parsed, tmp_path / "resumed", cuts)
    for part in ("model", "optimizer"):
        assert testing.different(whole[part], resumed[part], part) is None


@pytest.mark.parametrize("transfer", ["frozen", "whole", "discriminative", "gradual"])
def test_it_starts_as_the_language_model(start, transfer):
    one, state = started(start, transfer), checkpoint.read(start)
    speaker = task.restore(config.parse(Config, [str(start / "config.yaml")]), state["assets"])
    speaker.model.load_state_dict(state["model"])
    texts = data.load("sample", 0).test.texts[:5]
    rows = task.encode(texts, one.tokenizer, one.config.text)
    assert [row.tolist() for row in rows] == [row.tolist() for row in speaker.script.encode(texts)]
    ids, lengths = task.pad(rows, 0)
    body = one.model.eval().readers[0].body
    read = speaker.model.eval().encoder.read(ids, lengths)
    torch.testing.assert_close(body.encoder.read(ids, lengths), read)
    assert body.size == 3 * read.shape[2] == 96  # last, largest and mean, of both directions
    expected = [read[0, : lengths[0]].amax(0), read[0, : lengths[0]].mean(0)]
    last = torch.cat([read[0, lengths[0] - 1, :16], read[0, 0, 16:]])
    torch.testing.assert_close(body(ids, lengths)[0], torch.cat([last, *expected]))
    scratch = started(start, "scratch").model.eval().readers[0].body
    assert not torch.allclose(scratch(ids, lengths), body(ids, lengths))


def test_one_more_layer_learns_in_each_epoch(start):
    one = started(start, "gradual")
    batches = [one.load("train", np.arange(5), epoch) for epoch in (1, 2, 3, 4)]
    assert [batch[3] for batch in batches] == [0, 1, 2, 2] and one.load("valid", np.arange(5), 0)[3] is None
    for batch, moved in zip(batches, (0, 1, 2, 2), strict=True):
        one.model.zero_grad()
        one.step(batch)["loss"][0].backward()
        parts = one.model.readers[0].body.encoder.parts()
        learns = [all(p.grad is not None for one in part for p in one.parameters()) for part in parts]
        assert learns == [False] * (2 - moved) + [True] * moved


def test_layers_below_learn_slower(start):
    parts = started(start, "discriminative", "--model.rate", "0.5").model.readers[0].body.encoder.parts()
    rates = [{module.rate for one in part for module in one.modules() if hasattr(module, "rate")} for part in parts]
    assert rates == [{0.5 / 2.6}, {0.5}]


def test_no_answer_depends_on_padding_or_the_company(start):
    model = started(start).model.eval()
    lengths, ids = torch.tensor([1, 7, 3, 12]), torch.randint(1, 50, (4, 12))
    with torch.inference_mode():
        together = model(ids, lengths)
        longer = model(torch.cat([ids, torch.randint(1, 50, (4, 5))], 1), lengths)
        alone = torch.cat([model(row[None, :n], n[None]) for row, n in zip(ids, lengths, strict=True)], 1)
    torch.testing.assert_close(together, longer, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_words_are_moved_to_where_the_loss_rises_most(start):
    """Each review by as much in all; no way of that length raises its loss faster; half of the loss is theirs."""
    none = ["--model.dropout", "0", "--model.word-dropout", "0"]
    one = started(start, "whole", "--model.adversarial", "0.01", *none)
    batch = one.load("train", np.arange(6), 1)
    ids, lengths, labels, _ = batch
    far = 0.01 * float(one.encoder().embedding.weight.detach().std())
    plain = task.surprise(one.model(*batch[:2]), labels)
    shift = one.nowhere(ids)
    assert torch.equal(one.model(ids, lengths, None, shift), one.model(ids, lengths))
    away = one.moved(task.surprise(one.model(ids, lengths, None, shift), labels), shift)
    assert not away.requires_grad
    torch.testing.assert_close(away.flatten(1).norm(dim=1), torch.full((6,), far))
    assert not away[0, lengths[0] :].any()  # what stands behind a review
    rises = task.surprise(one.model(ids, lengths, None, away), labels) - plain
    torch.manual_seed(0)
    for _ in range(5):
        other = torch.randn_like(away) * (away != 0)
        other *= far / other.flatten(1).norm(dim=1)[:, None, None]
        assert task.surprise(one.model(ids, lengths, None, other), labels) - plain < rises
    one.model.train()
    total, count = one.step(batch)["loss"]
    assert count == 6
    torch.testing.assert_close(total, plain + rises / 2)
    one.model.eval()
    torch.testing.assert_close(one.step(batch)["loss"][0], plain)


@pytest.mark.parametrize("transfer", ["frozen", "whole", "gradual"])
def test_the_demo_says_which_words_mattered(start, transfer):
    """In both directions, and with a token before the first word, which the language model has."""
    one = started(start, transfer)
    review = "the acting is superb but this plot was dull ."
    (later,) = demo.demo(one).panels[0].answer(review).later()
    assert [word for word, _ in later.pieces] == review.split()
    rows = task.encode([review], one.tokenizer, one.config.text)
    owners = np.array(one.tokenizer(review, add_special_tokens=False).word_ids())
    assert len(set(rows[0].tolist())) == len(rows[0])

    table = one.model.readers[0].embedding

    def said(word, by):
        with testing.scaled([*table.parameters(), *table.buffers()], rows[0][owners == word], by):
            return float(one.odds(rows)[0])

    testing.check_influence(later.pieces, said)


def test_a_run_folder_predicts_without_the_language_model(start, capsys):
    shutil.copytree(start, "gone")
    flags = ["--model.start", "gone", "--fit.epochs", "4", "--fit.batch-size", "32", "--fit.lr", "1e-2", "--run", "run"]
    assert main(["train", *flags, "--model.dropout", "0.1"]) == 0
    shutil.rmtree("gone")
    _, scores = evaluated("run", capsys)
    test = data.load("sample", 0).test
    assert main(["predict", "run", reviews(*test.texts)]) == 0
    answers = [int(line) for line in capsys.readouterr().out.split()]
    right = np.mean(np.array(answers) == test.labels)
    assert scores["accuracy"] == pytest.approx(right) and right > 0.7


def test_a_classifier_is_not_scored_on_what_its_language_model_has_read(start, home, capsys):
    assert main(["train", "--model.start", str(start), *FIT, "--fit.epochs", "1", "--run", "run"]) == 0
    _, found = evaluated("run", capsys, "--data", "imdb")
    assert found["reviews"] == 60
    file = home / "imdb" / "test" / "negative"
    file.write_text(file.read_text() + "\n" + data.load("sample", 0).train.texts[3].upper())
    assert main(["evaluate", "run", "--data", "imdb"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "trained on 1 of the 61 test reviews of imdb" in line


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


def test_what_cannot_be_started_from_is_refused(start, home, capsys, tmp_path):
    shutil.copytree(start, "language")
    assert main(["train", *FIT, "--fit.epochs", "1", "--model.hidden", "4", "--run", "run"]) == 0
    (tmp_path / "empty").mkdir()
    shutil.copytree(start, "broken")
    Path("broken/checkpoints/best.pt").write_bytes(b"no checkpoint")
    shutil.copytree(start, "other")
    state = checkpoint.load(Path("other/checkpoints/best.pt"))
    state["assets"]["task"] = "autoencoder"
    torch.save(state, "other/checkpoints/best.pt")
    test = home / "imdb" / "test" / "positive"
    known = data.load("sample", 0).train.texts
    test.write_text(test.read_text() + f"\n{known[0]}\n{known[1]}")
    cases = [
        (["--model.start", "run"], "is a classifier: model.start takes the run of a language model"),
        (["--model.start", "nowhere"], "there is no language model at"),
        (["--model.start", "empty"], "is no run folder"),
        (["--model.start", "broken"], "broken"),
        (["--model.start", "other"], "other"),
        (
            ["--model.start", "language", "--text.tokenizer", "bpe"],
            "has the vocabulary of text.tokenizer words, not bpe",
        ),
        (["--model.start", "language", "--text.no-plain"], "has the vocabulary of text.plain True, not False"),
        (["--model.start", "language", "--model.hidden", "7"], "model.hidden is that of the language model"),
        (["--model.start", "language", "--model.rate", "0"], "model.rate"),
        (
            ["--model.start", "language", "--model.transfer", "gradual", "--fit.optimizer", "sgd"],
            "adamw and rmsprop only",
        ),
        (["--model.start", "language", "--data", "imdb"], "trained on 2 of the 62 test reviews of imdb"),
        (["--model.start", "language", "--model.adversarial", "-1"], "model.adversarial is a distance"),
        (["--model.start", "language", "--model.adversarial", "1", "--model.transfer", "gradual"], "not gradual"),
        (["--model.adversarial", "1"], "moves the words of a model.start"),
        (["--model.transfer", "frozen"], "give --model.start RUN"),
        (["--language.units", "7"], "train language"),
        (["--unlabelled", "imdb-full"], "train language"),
        (["--task", "language", "--model.hidden", "7"], "a language model has those of language"),
        (["--task", "language", "--text.window", "7"], "leave text.window and text.max-length out"),
        (["--task", "language", "--language.layers", "0"], "language.layers must be at least 1"),
        (["--task", "language", "--language.sampled", "-1"], "language.sampled"),
        (["--task", "language", "--language.dropout", "1"], "language.dropout is a probability"),
        (["--division", "-1"], "division must be at least 0"),
    ]
    for flags, message in cases:
        capsys.readouterr()
        assert main(["train", *flags, "--run", "new"]) == 2, flags
        [line] = capsys.readouterr().err.splitlines()
        assert message in line, (line, message)
        assert not Path("new").exists(), flags


@pytest.mark.real_data
def test_no_held_out_review_is_read_of_the_real_ones():
    """imdb-full has 3,470 reviews of imdb, of both parts."""
    dataset = data.load("imdb", 0)
    texts, left = data.unlabelled("imdb-full", dataset)
    for part in (dataset.valid, dataset.test):
        assert not np.isin(marks(part.texts), marks(texts)).any()
    assert len(texts) == 8687 + 5530 and left == 1909
