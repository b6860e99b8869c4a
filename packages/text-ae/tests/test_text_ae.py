import csv
import io
import json
import math
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from etude import config
from etude.errors import UserError
from etude.testing import check_batch_size, check_presets, check_task
from etude.text.batching import pad
from etude.train.totals import Totals
from text_ae import data, model, scores, task
from text_ae.__main__ import PACKAGE, main
from text_ae.config import Config
from text_ae.meaning import meanings
from text_ae.model import Texts

SMALL = [
    *("--data.messages", "300", "--model.hidden", "16", "--model.embedding", "16", "--model.latent", "24"),
    *("--text.vocabulary", "800", "--text.max-length", "40"),
]
CPU = torch.device("cpu")
SUPERPOSITION = ["--model.encoder", "superposition", "--model.meaning", "8"]
UNMIXING = [*SUPERPOSITION, "--model.decoder", "unmixing"]
KINDS = {
    "recurrent, autoregressive": [],
    "lstm, autoregressive": ["--model.cell", "lstm", "--model.layers", "2", "--model.no-bidirectional"],
    "recurrent, parallel": ["--model.decoder", "parallel"],
    "lstm, parallel": ["--model.decoder", "parallel", "--model.cell", "lstm", "--model.no-batch-norm"],
    "superposition, autoregressive": SUPERPOSITION,
    "superposition, parallel": [*SUPERPOSITION, "--model.decoder", "parallel"],
    "unmixing": UNMIXING,
    "lstm, unmixing": [*UNMIXING, "--model.cell", "lstm", "--model.latent", "72"],
}
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def made(*flags):
    torch.manual_seed(0)
    return task.make(config.parse(Config, [*SMALL, *flags]), CPU)


def alive(kind):
    """A task whose untrained model restores other texts from other latents, of which some end and some are stopped."""
    one = made(*KINDS[kind])
    decoder, longest = one.model.decoder, one.config.text.max_length
    if one.model.norm is not None:
        one.model.norm.running_mean.normal_()
        one.model.norm.running_var.uniform_(0.5, 2)
    if not isinstance(decoder, model.Unmixing):
        decoder.classify.weight.data.mul_(40)
        for name, weight in decoder.say.named_parameters():
            if "weight" in name and one.config.model.encoder == "recurrent":
                weight.data.mul_(4)
        latents = one.encode(some(one))
        for _ in range(30):
            lengths = [len(said) for said in one.said(latents)]
            if min(lengths) < longest:
                break
            decoder.classify.bias.data[one.tokenizer.eos_id] += 3
        assert max(lengths) > 0 and min(lengths) < longest
    return one


def some(one, split="valid", n=9, longest=99):
    rows = [one.rows[i] for i in one.parts[split] if len(one.rows[i]) <= longest]
    assert len(rows) >= n
    return rows[:n]


def texts_of(rows):
    return Texts(*pad(rows, 0))


# -- the promises of every task


LEARNT = [  # large enough to learn a batch by heart
    [
        *("--model.hidden", "64", "--model.embedding", "32", "--model.latent", "32"),
        *("--model.word-dropout", "0.2", "--model.dropout", "0.1", "--model.batch-norm"),
    ],
    [
        *(*UNMIXING, "--model.dropout", "0.1", "--text.vocabulary", "1200", "--text.max-length", "12"),
        *("--model.latent", "200", "--model.meaning", "128", "--model.embedding", "192", "--fit.batch-size", "32"),
    ],
]


@pytest.mark.parametrize("flags", LEARNT)
def test_the_battery(flags, tmp_path):
    (tmp_path / "texts.txt").write_text("I am so happy today!\n\nthe bus was late again, I hate mondays\n")
    runs = tmp_path / "runs"
    runs.mkdir()
    floors = [f"floor_{name}" for name in ("accuracy", "exact", "bleu", "chrf")]
    check_task(PACKAGE, [*SMALL, *flags], [str(tmp_path / "texts.txt")], runs, ["teacher_forced", *floors])


@pytest.mark.parametrize("kind", ["lstm, autoregressive", "lstm, parallel", "superposition, autoregressive"])
def test_train_evaluate_and_predict(kind, tmp_path, capsys):
    check_batch_size(made(*KINDS[kind]), "valid")
    assert main(["train", "--run", "r", *SMALL, *KINDS[kind], "--fit.epochs", "1"]) == 0
    assert main(["evaluate", "r"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert ("teacher_forced" in found) == ("autoregressive" in kind)
    (tmp_path / "in.txt").write_text("I am happy\nI am sad\n")
    assert main(["predict", "r", "in.txt"]) == 0
    assert len(capsys.readouterr().out.split("\n")) == 3


@every_kind
def test_every_weight_takes_part(kind):
    one = made(*KINDS[kind])
    one.model.train()
    torch.manual_seed(0)
    loss = one.step(one.load("train", one.plan("train", 1, 64)[0], 1))["loss"][0]
    loss.backward()
    for name, parameter in one.model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@every_kind
def test_neither_padding_nor_company_changes_a_latent_or_what_is_restored(kind):
    one = alive(kind)
    rows = [*some(one), []]
    ids, lengths = texts_of(rows)
    anything = torch.randint(0, one.tokenizer.vocab_size, (len(rows), ids.shape[1]))
    ids = torch.where(Texts(ids, lengths).real, ids, anything)
    room = one.config.text.max_length - ids.shape[1]
    longer = torch.cat([ids, torch.randint(0, one.tokenizer.vocab_size, (len(rows), room))], 1)
    with torch.inference_mode():
        together = one.model.encode(Texts(ids, lengths))
        more = one.model.encode(Texts(longer, lengths))
        alone = torch.cat([one.model.encode(Texts(*pad([row], 0))) for row in rows])
        assert together.dtype == torch.float32 and together.std(0).min() > 0
        torch.testing.assert_close(more, together, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-5)
        said = task.unpadded(one.model.restore(together))
        assert [task.unpadded(one.model.restore(latent[None]))[0] for latent in together] == said
        assert len({tuple(row) for row in said}) > 2
    torch.testing.assert_close(one.encode(rows), together, atol=1e-5, rtol=1e-5)
    assert one.said(together) == said


# -- restored from the latent alone


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "autoregressive" in kind])
@torch.inference_mode()
def test_free_running_is_that_of_a_slow_and_obvious_loop(kind):
    one = alive(kind)
    decoder, end, longest = one.model.decoder, one.tokenizer.eos_id, one.config.text.max_length
    latents = torch.cat([one.encode(some(one)), torch.randn(9, 24)])
    expected = []
    for latent in latents:
        before, state, said = one.tokenizer.bos_id, None, []
        while len(said) < longest:
            y, state = decoder.step(torch.tensor([[before]]), latent[None], None, state)
            before = int(decoder.classify(y[0, 0]).argmax())
            if before == end:
                break
            said.append(before)
        expected.append(said)
    assert one.said(latents) == expected
    assert longest in map(len, expected)  # some were stopped, and some came to an end
    assert min(map(len, expected)) < longest and len(set(map(tuple, expected))) > 2


@pytest.mark.parametrize("kind", ["recurrent, autoregressive", "lstm, autoregressive"])
@torch.inference_mode()
def test_teacher_forcing_gives_the_true_token_before_each(kind):
    one = alive(kind)
    rows, decoder = some(one), one.model.decoder
    texts = texts_of(rows)
    latents = one.model.encode(texts)
    told = one.model(texts)
    expected, truths = [], []
    for latent, row in zip(latents, rows, strict=True):
        state = None
        for before in (one.tokenizer.bos_id, *row):
            y, state = decoder.step(torch.tensor([[before]]), latent[None], None, state)
            expected.append(decoder.classify(y[0, 0]))
        truths += [*row, one.tokenizer.eos_id]
    torch.testing.assert_close(told.logits, torch.stack(expected), atol=1e-3, rtol=1e-3)
    assert told.truths.tolist() == truths
    assert told.real.tolist() == [id != one.tokenizer.eos_id for id in truths]
    free = one.said(latents)
    forced = [list(said) for said in told.logits.argmax(1).split([len(row) + 1 for row in rows])]
    assert [list(map(int, a))[: len(b)] for a, b in zip(forced, free, strict=True)] != free


def test_word_dropout_hides_tokens_in_training_only():
    one = made("--model.word-dropout", "0.9")
    texts, decoder, given = texts_of(some(one)), one.model.decoder, []
    step = decoder.step
    decoder.step = lambda before, *rest: (given.append(before), step(before, *rest))[1]
    for training in (True, False):
        one.model.train(training)
        one.model(texts)
    start = one.tokenizer.bos_id
    real = F.pad(texts.real, (1, 0), value=False)
    assert 0.8 < (given[0] == start)[real].float().mean() < 1
    assert not (given[1] == start)[real].any()


@every_kind
def test_what_is_restored_depends_on_the_latent_and_not_on_the_text(kind, monkeypatch):
    """The truth is exchanged behind an encoder that gives the same latents: only the loss may notice."""
    one = alive(kind)
    batch = one.load("valid", np.arange(12), 0)
    latents = one.encode([one.rows[n] for n in batch.numbers])
    other = batch.ids.flip(0).roll(3, 1)
    monkeypatch.setattr(one.model, "encode", lambda texts: latents)
    said, losses, sums = [], [], scores.sums
    monkeypatch.setattr(scores, "sums", lambda *given: (said.append(given[1]), sums(*given))[1])
    with torch.inference_mode():
        for ids in (batch.ids, other):
            losses.append(float(one.step(batch._replace(ids=ids))["loss"][0]))
    first, floor, second, _ = said
    assert first == second == one.said(latents)
    assert losses[0] != losses[1]
    assert floor == one.said(torch.zeros(1, latents.shape[1])) * 12


# -- a superposition


def test_meanings_are_canonical_correlations_of_tokens_and_their_company():
    one = made(*UNMIXING)
    rows = [one.rows[n] for n in one.parts["train"]]
    size = one.tokenizer.vocab_size
    bags = np.zeros((len(rows), size))
    for bag, row in zip(bags, rows, strict=True):
        np.add.at(bag, row, 1)
    together = bags.T @ bags
    np.fill_diagonal(together, 0)
    known = together.any(1)
    company = together.sum(1)[known]
    values, vectors = np.linalg.eigh(np.sqrt(together[known][:, known] / np.sqrt(np.outer(company, company))))
    vectors = vectors[:, np.argsort(-np.abs(values))[:8]]
    found = one.model.encoder.vectors[:, :8].double().numpy()
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert np.abs(found[known] @ found[known].T - unit @ unit.T).max() < 0.02
    assert 0 < known.sum() < size and np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("rows", [[[5]], [[5, 6]], [[5, 5], [6]], [[4, 5, 6], [5, 6, 7]]])
def test_meanings_of_next_to_no_text(rows):
    flat, lengths = np.concatenate(rows), np.array([len(row) for row in rows])
    found = meanings(flat, lengths, 9, 4)
    assert found.shape == (9, 4) and torch.isfinite(found).all()
    norms = found.norm(dim=1)
    assert ((norms - 1).abs() < 1e-5).logical_or(norms == 0).all() and not found[[0, 8]].any()


@torch.inference_mode()
def test_a_superposition_is_a_sum_of_turned_directions():
    one = made(*UNMIXING, "--model.latent", "48")
    encoder, rows = one.model.encoder, [*some(one, n=5), [7], []]
    found = one.encode(rows)
    width = 48 - 1 - 8
    turned = encoder.rotations.double()
    torch.testing.assert_close(turned @ turned.mT, torch.eye(width).double().expand(40, -1, -1), atol=1e-5, rtol=0)
    torch.testing.assert_close(encoder.vectors[:, 8:].norm(dim=1), torch.ones(one.tokenizer.vocab_size))
    torch.testing.assert_close(encoder.vectors[:, :8].norm(dim=1), torch.ones(one.tokenizer.vocab_size))
    for row, latent in zip(rows, found, strict=True):
        code, meaning = torch.zeros(width).double(), torch.zeros(8)
        for place, token in enumerate(row):
            code += turned[place] @ encoder.vectors[token, 8:].double()
            meaning += encoder.vectors[token, :8]
        assert latent[0] == len(row)
        torch.testing.assert_close(latent[1:9], meaning, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(latent[9:].double(), code, atol=1e-5, rtol=1e-5)


def test_the_order_of_tokens_is_in_the_code_and_not_in_the_meaning():
    one = made(*UNMIXING, "--model.latent", "48")
    [row] = some(one, n=1)
    a, b = one.encode([row, row[::-1]])
    torch.testing.assert_close(a[:9], b[:9], atol=1e-5, rtol=1e-5)
    assert (a[9:] - b[9:]).norm() > 1


def passed(latent, directions, rotations, frequency, rounds, training):
    """Approximate message passing for one text, whose prior is how often a token is used: log-odds [T, V].

    But in training it ends as soon as nothing is left to be explained.
    """
    n, places = directions.shape[1], round(latent[0])
    code = left = latent[-n:]
    expected, onsager = np.zeros((places, n)), 0.0
    for _ in range(rounds):
        left = code - sum(rotations[t] @ expected[t] for t in range(places)) + onsager * left
        variance = max(np.mean(left**2), model.LEAST)
        logits = np.zeros((places, len(directions)))
        for t in range(places):
            seen = expected[t] + rotations[t].T @ left
            logits[t] = directions @ seen / variance + frequency
        if variance <= model.LEAST and not training:
            break
        for t in range(places):
            chance = np.exp(logits[t] - logits[t].max())
            expected[t] = chance / chance.sum() @ directions
        onsager = (places - np.sum(expected**2)) / variance / n
    return logits


@pytest.mark.parametrize("rounds", [1, 2, 4, 12])
@pytest.mark.parametrize("latent", [60, 160])
@torch.inference_mode()
def test_unmixing_is_approximate_message_passing(latent, rounds):
    one = made(*UNMIXING, "--model.latent", str(latent), "--model.rounds", str(rounds))
    decoder, encoder = one.model.decoder, one.model.encoder
    decoder.embedding.weight.zero_()  # the language model has nothing to say
    decoder.share.zero_()
    rows = [*some(one, n=4), *some(one, n=3, longest=10)]
    latents, lengths = one.encode(rows), torch.tensor([len(row) for row in rows])
    counts = one.counts.double().numpy() + 0.3
    directions, rotations = encoder.vectors[:, 8:].double(), encoder.rotations.double().numpy()
    given = directions.numpy(), rotations, np.log(counts / counts.sum()), rounds
    for training in (True, False):
        decoder.train(training)
        logits = decoder.unmix(latents, lengths, rounds)
        said = []
        for found, known in zip(logits.split(lengths.tolist()), latents.double().numpy(), strict=True):
            expected = torch.from_numpy(passed(known, *given, training))
            said.append(expected.argmax(1).tolist())
            directed = expected.softmax(1) @ directions
            torch.testing.assert_close(found.double().softmax(1) @ directions, directed, atol=2e-3, rtol=0)
        assert [row.argmax(1).tolist() for row in logits.split(lengths.tolist())] == said
    assert one.said(latents) == said
    if latent == 160 and rounds == 12:
        assert said[4:] == rows[4:]  # the short ones
    if latent == 60:
        assert said != rows


def test_short_texts_come_back_whole_from_a_code_that_nothing_was_learnt_for():
    one = made(*UNMIXING, "--model.latent", "256", "--text.max-length", "48")
    rows = [row for split in ("train", "valid", "test") for row in some(one, split, 20, 20)]
    assert one.said(one.encode(rows)) == rows
    again = made(*UNMIXING, "--model.latent", "256", "--text.max-length", "48", "--model.rounds", "1")
    assert again.said(again.encode(rows)) != rows  # one look is not enough


def test_latents_of_zeros_are_no_text():
    one = made(*UNMIXING)
    assert one.said(torch.zeros(3, 24)) == [[], [], []]
    far = torch.zeros(3, 24)
    far[:, 0] = torch.tensor([-5.0, 1e6, 2.4])
    assert [len(row) for row in one.said(far)] == [0, 40, 2]


def rounds_of_training(one, monkeypatch, rounds=3):
    monkeypatch.setattr(model, "LOOKS", (rounds,))
    one.model.train()
    texts = texts_of(some(one, "train", 30))
    latent = one.model.encode(texts)
    torch.manual_seed(0)
    return texts, latent, one.model.decoder(latent, texts)


def test_if_all_tokens_are_common_training_chooses_among_all(monkeypatch):
    one = made(*UNMIXING)
    texts, latent, told = rounds_of_training(one, monkeypatch)
    decoder, truths = one.model.decoder, texts.ids[texts.real]
    candidates, rarity = decoder.candidates(truths)
    assert candidates.tolist() == list(range(one.tokenizer.vocab_size))
    assert not rarity.any()
    whole = decoder.unmix(latent, texts.lengths, 3)
    torch.testing.assert_close(told.logits, whole)
    loss = F.cross_entropy(told.logits, told.truths, reduction="sum")
    expected = F.cross_entropy(whole, truths, reduction="sum")
    torch.testing.assert_close(loss, expected)
    names, parameters = zip(*one.model.named_parameters(), strict=True)
    both = [torch.autograd.grad(x, parameters, retain_graph=True, allow_unused=True) for x in (loss, expected)]
    for name, a, b in zip(names, *both, strict=True):
        assert (a is None) == (b is None), name
        if a is not None:
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3, msg=name)


def test_rare_tokens_stand_for_the_times_they_are_not_chosen_among(monkeypatch):
    monkeypatch.setattr(model, "COMMON", 40)
    one = made(*UNMIXING)
    texts, _, told = rounds_of_training(one, monkeypatch)
    decoder, truths = one.model.decoder, texts.ids[texts.real]
    candidates, rarity = decoder.candidates(truths)
    common = set(decoder.common.tolist())
    assert min(one.counts[list(common)]) >= max(one.counts[[n for n in range(len(one.counts)) if n not in common]])
    assert len(common) == 40
    assert candidates.tolist() == sorted(common | set(truths.tolist()))
    assert told.logits.shape == (len(truths), len(candidates))
    assert torch.equal(candidates[told.truths], truths)
    frequency = (one.counts + 0.3).double() / (one.counts + 0.3).sum()
    for token, raised in zip(candidates.tolist(), rarity.tolist(), strict=True):
        there = 1 - math.exp(-len(truths) * float(frequency[token]))
        assert raised == pytest.approx(0 if token in common else -math.log(there), rel=1e-3)
    assert rarity.max() > 0.1


# -- scores


def test_scores_of_a_corpus_are_those_of_sacrebleu_and_their_sums_add_up():
    from sacrebleu.metrics import BLEU, CHRF

    texts = data.load("sample", 0).test.texts[:90]
    rng = np.random.default_rng(0)
    restored = []
    for text in texts:
        words = text.split()
        kept = [word for word in words if rng.random() < 0.9]
        restored.append(" ".join(kept + words[:1] * int(rng.integers(0, 2))))
    restored[3], restored[5] = "", texts[5]
    rows, said = ([[hash(word) for word in text.split()] for text in some] for some in (texts, restored))
    whole = scores.sums(rows, said, texts, restored)
    parts = [scores.sums(rows[a::7], said[a::7], texts[a::7], restored[a::7]) for a in range(7)]
    assert torch.equal(sum(parts), whole)
    assert whole.shape[0] == len(scores.BUCKETS) == 4
    for (low, high), counted in zip(((1, 8), (9, 16), (17, 24), (25, 999)), whole, strict=True):
        inside = [n for n, row in enumerate(rows) if low <= len(row) <= high]
        assert counted[0] == len(inside) and counted[1] == sum(len(rows[n]) for n in inside)
        if inside:
            expected = BLEU().corpus_score([restored[n] for n in inside], [[texts[n] for n in inside]]).score
            assert scores.scores(counted)["bleu"] == pytest.approx(expected)
    found = scores.scores(whole.sum(0))
    assert 30 < found["bleu"] < 99
    assert found["bleu"] == pytest.approx(BLEU().corpus_score(restored, [texts]).score)
    assert found["chrf"] == pytest.approx(CHRF().corpus_score(restored, [texts]).score)
    assert found["exact"] == np.mean([a == b for a, b in zip(texts, restored, strict=True)])


@pytest.mark.parametrize(
    ("rows", "said", "texts", "restored", "accuracy", "exact"),
    [
        ([[5, 6, 7]], [[5, 6, 7]], ["a b c"], ["a b c"], 1, 1),
        ([[5, 6, 7]], [[5, 6]], ["a b c"], ["a b"], 2 / 3, 0),
        ([[5, 6]], [[5, 6, 7, 7]], ["a b"], ["a b c c"], 1, 0),  # what is too much is wrong, though no token is
        ([[5, 6, 7]], [[6, 7]], ["a b c"], ["b c"], 0, 0),  # a place too early
        ([[5, 6, 7]], [[]], ["a b c"], [""], 0, 0),
        ([[5, 1]], [[5, 1]], ["a odd"], ["a <unk>"], 1, 0),  # the same ids, another text
        ([[5, 6], [7]], [[5, 7], [7]], ["a b", "c"], ["a c", "c"], 2 / 3, 1 / 2),
    ],
)
def test_accuracy_and_exact_matches(rows, said, texts, restored, accuracy, exact):
    found = scores.scores(scores.sums(rows, said, texts, restored).sum(0))
    assert found["accuracy"] == pytest.approx(accuracy)
    assert found["exact"] == exact


@pytest.mark.parametrize("fallback", [True, False])
def test_a_text_is_restored_exactly_if_it_is_the_same_text(fallback, monkeypatch):
    """With ids that are all right, a word that is <unk> is not: it was lost before."""
    words = SimpleNamespace(train=partial(task.text.Words.train, byte_fallback=fallback))
    monkeypatch.setitem(task.TOKENIZERS, "words", words)
    size = 320 if fallback else 60
    one = made("--text.tokenizer", "words", "--text.vocabulary", str(size), "--text.max-length", "200")
    batch = one.load("valid", np.arange(len(one.parts["valid"])), 0)
    nothing = Texts(batch.ids[:1], torch.zeros(1, dtype=torch.long))
    perfect = Texts(batch.ids, batch.lengths)
    monkeypatch.setattr(one.model, "restore", lambda latent: perfect if latent.any() else nothing)
    one.model.eval()
    totals = Totals()
    totals.add(one.step(batch))
    found = one.scores(totals)
    known = [one.tokenizer.unk_id not in one.rows[n] for n in batch.numbers]
    assert found["accuracy"] == 1
    assert found["exact"] == np.mean(known) and (found["exact"] == 1) == fallback
    for name in ("accuracy", "exact", "bleu", "chrf"):
        assert found[f"floor_{name}"] == 0


@every_kind
def test_the_floor_is_what_the_decoder_of_now_makes_of_zeros(kind):
    """Also when its weights were changed after the task got its data, as `evaluate` does."""
    one = made(*KINDS[kind])
    for _ in range(2):
        with torch.no_grad():
            for parameter in one.model.decoder.parameters():
                parameter.add_(torch.randn_like(parameter))
        one.model.eval()
        batch = one.load("valid", np.arange(len(one.parts["valid"])), 0)
        with torch.inference_mode():
            found = one.step(batch)["floor"][0]
        rows, texts = [one.rows[n] for n in batch.numbers], [one.texts[n] for n in batch.numbers]
        said = one.said(torch.zeros(1, one.config.model.latent)) * len(rows)
        assert torch.equal(found, scores.sums(rows, said, texts, one.decode(said)))


# -- texts that are too long


def test_messages_that_are_too_long_are_left_out_and_counted():
    one = made("--text.max-length", "14")
    dataset = task.load(one.config)
    left = 0
    for split in ("train", "valid", "test"):
        texts = getattr(dataset, split).texts
        lengths = [len(one.tokenizer.encode_batch([" " + text])[0]) for text in texts]
        left += sum(n > 14 for n in lengths)
        kept = [text for text, n in zip(texts, lengths, strict=True) if n <= 14]
        assert [one.texts[n] for n in one.parts[split]] == kept
        assert one.rows.lengths[one.parts[split]].tolist() == [n for n in lengths if n <= 14]
    assert left > 50
    assert one.data.endswith(f"; {left} of more than 14 tokens left out")
    assert one.data.startswith(dataset.description)
    assert one.decode(one.rows) == one.texts


# -- the verbs


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert main(["train", "--run", str(folder), *SMALL, "--fit.epochs", "2", "--fit.batch-size", "32"]) == 0
    return folder


@pytest.fixture(scope="module")
def unmixed(tmp_path_factory):
    """A run that restores short texts exactly from the beginning."""
    folder = tmp_path_factory.mktemp("unmixed") / "run"
    flags = [*SMALL, *UNMIXING, "--model.latent", "256", "--text.max-length", "48"]
    assert main(["train", "--run", str(folder), *flags, "--fit.epochs", "1", "--fit.batch-size", "32"]) == 0
    return folder


def restored(folder):
    from etude import cli

    return cli.restored(PACKAGE, folder)


def with_data(folder):
    """The task of a run with all of its data."""
    one = restored(folder)
    dataset = task.load(one.config)
    rows = task.encode_parts(dataset, one.tokenizer)
    whole = task.Restoring(one.config, one.tokenizer, one.counts, one.seen, dataset, rows)
    whole.model.load_state_dict(one.model.state_dict())
    return whole


def lines_file(tmp_path, *lines, name="texts.txt"):
    (tmp_path / name).write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return name


def test_predict_answers_every_line_in_order(unmixed, tmp_path, capsys, monkeypatch):
    texts = ["I am so happy", "", "the bus was late", "   ", "I  am &amp; so", ""]
    file = lines_file(tmp_path, *texts)
    assert main(["predict", str(unmixed), file]) == 0
    captured = capsys.readouterr()
    assert captured.out.split("\n") == ["I am so happy", "", "the bus was late", "", "I am & so", "", ""]
    assert captured.err == ""
    assert main(["predict", str(unmixed), file, lines_file(tmp_path, "you too", name="b.txt")]) == 0
    assert capsys.readouterr().out == captured.out + "you too\n"
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO((tmp_path / file).read_bytes())))
    assert main(["predict", str(unmixed), "-", "--out", "out.txt"]) == 0
    assert (tmp_path / "out.txt").read_text() == captured.out
    assert main(["predict", str(unmixed), lines_file(tmp_path, name="empty.txt")]) == 0


def test_an_empty_line_stays_empty_whatever_the_decoder_says_of_it(trained, tmp_path, capsys):
    assert restored(trained).said(restored(trained).encode([[]])) != [[]]
    assert main(["predict", str(trained), lines_file(tmp_path, "", "I am happy", "")]) == 0
    first, second, third, rest = capsys.readouterr().out.split("\n")
    assert first == third == rest == "" and second


def test_predict_cuts_long_texts_and_says_so(unmixed, tmp_path, capsys):
    one = restored(unmixed)
    text = "I am so happy and so sad " * 20
    [row] = task.encode([data.normalised(text)], one.tokenizer)
    assert len(row) > 48
    file = lines_file(tmp_path, text, "I am so happy", text)
    assert main(["predict", str(unmixed), file]) == 0
    captured = capsys.readouterr()
    assert captured.err == "2 of 3 texts are cut to their first 48 tokens\n"
    assert task.rows_of(one, [file])[0] == row[:48]
    assert captured.out.split("\n")[1:] == ["I am so happy", captured.out.split("\n")[0], ""]


def test_embed_writes_the_latents_in_order(trained, tmp_path, capsys):
    texts = ["I am so happy today", "", "no", "the bus was late again", "I am so happy today"]
    file = lines_file(tmp_path, *texts)
    assert main(["embed", str(trained), file, "--out", "vectors.npy"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.endswith("vectors.npy: 5 vectors of 24 numbers, float32\n")
    vectors = np.load("vectors.npy", allow_pickle=False)
    assert vectors.dtype == np.float32 and vectors.shape == (5, 24)
    one = restored(trained)
    rows = [[], *task.encode(texts[:1] + texts[2:], one.tokenizer)]
    expected = one.encode([rows[1], rows[0], *rows[2:]]).numpy()
    assert np.array_equal(vectors, expected)
    assert np.allclose(vectors[0], vectors[4], atol=1e-5) and not np.allclose(vectors[0], vectors[3], atol=1e-3)


def test_what_cannot_be_read_or_written_is_one_line(trained, tmp_path, capsys):
    (tmp_path / "broken.txt").write_bytes(b"fine\nnot \xff fine\n")
    file = lines_file(tmp_path, "fine")
    before = sorted(tmp_path.iterdir())
    for verb, words, message in (
        ("embed", ["broken.txt", "--out", "v.npy"], "broken.txt, line 2"),
        ("predict", ["broken.txt", "--out", "v.txt"], "broken.txt, line 2"),
        ("embed", ["missing.txt", "--out", "v.npy"], "missing.txt"),
        ("predict", [file, "missing.txt", "--out", "v.txt"], "missing.txt"),
        ("embed", [file], "required: --out"),
        ("embed", [file, "--out", "nowhere/v.npy"], "nowhere/v.npy"),
    ):
        assert main([verb, str(trained), *words]) == 2
        captured = capsys.readouterr()
        [line] = captured.err.splitlines()
        assert message in line and captured.out == ""
        assert sorted(tmp_path.iterdir()) == before


def test_evaluate_ends_with_one_json_line(trained, unmixed, capsys):
    for folder, forced in ((trained, True), (unmixed, False)):
        assert main(["evaluate", str(folder)]) == 0
        *lines, last = capsys.readouterr().out.splitlines()
        found = json.loads(last)
        assert json.loads((folder / "test.json").read_text()) == found
        names = {"accuracy", "exact", "bleu", "chrf"}
        wanted = names | {f"floor_{name}" for name in names} | {"loss", "texts", "buckets", "checkpoint"}
        wanted |= {"tag_latent", "tag_tokens", "tag_words", "tag_majority"} | ({"teacher_forced"} if forced else set())
        wanted |= {f"tag_gain_{name}{of}" for name in ("tokens", "words") for of in ("", "_se")}
        for name in ("tokens", "words"):
            assert found[f"tag_gain_{name}"] == pytest.approx(found["tag_latent"] - found[f"tag_{name}"])
            assert 0 <= found[f"tag_gain_{name}_se"] < 0.5
        assert found.keys() == wanted
        assert sum(bucket["texts"] for bucket in found["buckets"].values()) == found["texts"]
        assert all(bucket.keys() == names | {"texts"} for bucket in found["buckets"].values())
        assert any(line.startswith("floor ") for line in lines)
        assert any("teacher-forced" in line for line in lines) == forced
        assert 0 < found["tag_latent"] <= 1 and 0 < found["tag_majority"] < 1
    assert found["floor_exact"] == found["floor_accuracy"] == 0
    assert found["accuracy"] > 0.5


def test_evaluate_agrees_with_predict(unmixed, tmp_path, capsys):
    one = with_data(unmixed)
    texts = [one.texts[n] for n in one.parts["test"]]
    assert main(["predict", str(unmixed), lines_file(tmp_path, *texts)]) == 0
    said = capsys.readouterr().out.split("\n")[:-1]
    assert main(["evaluate", str(unmixed)]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["texts"] == len(texts)
    assert found["exact"] == pytest.approx(np.mean([a == b for a, b in zip(texts, said, strict=True)]), abs=0.05)


def write_csv(file, rows):
    with file.open("w", encoding="utf-8", newline="") as out:
        csv.writer(out).writerows([("tag", "message"), *rows])
    return str(file)


def test_texts_that_a_run_was_trained_on_are_not_scored(trained, tmp_path, capsys):
    one = restored(trained)
    dataset = task.load(one.config)
    known = [("0.0", text.upper()) for text in dataset.train.texts[:60]]  # the case is no difference
    new = [(f"{n % 2}.0", f"number {n} is new") for n in range(60)]
    mixed = write_csv(tmp_path / "mixed.csv", known + new)
    flags = ["--data", mixed, "--data.messages", "0", "--data.held-out", "0.3"]
    assert main(["evaluate", str(trained), *flags]) == 0
    out = capsys.readouterr().out
    texts = data.load(mixed, 0, 0.3).test.texts
    fresh = [text for text in texts if text.endswith("is new")]
    assert 5 < len(fresh) < len(texts) - 5
    assert f"left out of the test part: {len(texts) - len(fresh)} that the run was trained on" in out
    longer = sum(len(row) > 40 for row in task.encode(fresh, one.tokenizer))
    assert json.loads(out.splitlines()[-1])["texts"] == len(fresh) - longer
    only = write_csv(tmp_path / "known.csv", known)
    assert main(["evaluate", str(trained), "--data", only, "--data.messages", "0"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert f"all messages of the test part of {only} were trained on" in line
    with pytest.raises(UserError, match="were trained on"):
        task.restore(config.parse(Config, [*SMALL, "--data", only]), with_data(trained).assets(), CPU)


def test_tags_are_not_guessed_if_there_is_one_only(trained, tmp_path, capsys):
    file = write_csv(tmp_path / "one.csv", [("x", f"number {n} is new") for n in range(30)])
    assert main(["evaluate", str(trained), "--data", file, "--data.messages", "0"]) == 0
    out = capsys.readouterr().out
    assert "the tag is not guessed" in out
    assert "tag_latent" not in json.loads(out.splitlines()[-1])


# -- what a run leaves


def test_a_run_leaves_texts_before_during_and_after(trained):
    found = {file.name for file in (trained / "samples").iterdir()}
    times = ("epoch-000", "epoch-001", "epoch-002", "end")
    wanted = {f"{name}-{time}.md" for name in ("restored", "interpolation", "neighbours") for time in times}
    assert found == wanted | {"most-wrong.md"}
    for name, columns, rows in (("restored", 3, 12), ("interpolation", 2, 2 * 11), ("neighbours", 2, 2 + 10 * 4)):
        texts = [(trained / "samples" / f"{name}-{time}.md").read_text() for time in times]
        assert texts[0] != texts[2] and texts[0] != texts[-1]
        for text in texts:
            lines = [line for line in text.split("\n") if line]
            assert len(lines) == rows
            assert all(line.count("|") - line.count("\\|") == columns + 1 for line in lines)
    before, after = ((trained / "samples" / f"restored-{time}.md").read_text().split("\n") for time in times[::3])
    assert [line.split(" | ")[1] for line in before[2:12]] == [line.split(" | ")[1] for line in after[2:12]]


def test_tensorboard_reads_what_a_run_wrote(trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(trained / "tb"), size_guidance={"tensors": 0, "scalars": 0}).Reload()
    steps = 2 * math.ceil(len(made("--fit.batch-size", "32").parts["train"]) / 32)
    names = {"accuracy", "exact", "bleu", "chrf", "floor_accuracy", "loss", "teacher_forced"}
    scalars = events.Tags()["scalars"]
    for name in names:
        assert f"{name}/valid" in scalars
        found = events.Scalars(f"{name}/valid")
        rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
        assert [event.step for event in found] == [steps // 2, steps]
        assert [event.value for event in found] == pytest.approx([row["valid"][name] for row in rows], rel=1e-5)
    for tag, times in (("restored", 4), ("interpolation", 4), ("neighbours", 4), ("most wrong", 1), ("model", 1)):
        texts = events.Tensors(f"{tag}/text_summary")
        assert len(texts) == times
        assert texts[-1].step == steps
    shown = events.Tensors("restored/text_summary")[0].tensor_proto.string_val[0].decode()
    assert shown == (trained / "samples" / "restored-epoch-000.md").read_text().removesuffix("\n")


def test_the_projector_has_the_latents_before_and_after(trained):
    one = with_data(trained)
    folders = sorted(file.parent for file in (trained / "tb").rglob("tensors.tsv"))
    assert len(folders) == 2
    assert (trained / "tb" / "projector_config.pbtxt").read_text().count("tensor_path") == 2
    for folder in folders:
        header, *labels = [line.split("\t") for line in (folder / "metadata.tsv").read_text().split("\n")[:-1]]
        assert header == ["text", "tag"]
        assert [label[0] for label in labels] == [" ".join(one.texts[n].split()) for n in one.shown]
        assert [label[1] for label in labels] == [one.classes[one.labels[n]] for n in one.shown]
    found = np.loadtxt(folders[-1] / "tensors.tsv")
    expected = one.encode([one.rows[n] for n in one.shown]).numpy()
    assert np.allclose(found, expected, atol=1e-4)


def test_wrong_tokens_are_bold():
    one = made()
    n = one.parts["valid"][0]
    row = list(one.rows[n])
    same = one.table(np.array([n]), [row]).split("\n")[2]
    assert same.startswith(f"| {len(row)} of {len(row)} | ") and "**" not in same
    other = one.tokenizer.encode_batch([" I"])[0][0]
    assert row[1] != other
    wrong = one.table(np.array([n]), [[row[0], other, *row[2:]]]).split("\n")[2]
    assert wrong.startswith(f"| {len(row) - 1} of {len(row)} | ")
    assert wrong.count("**") == 2 and " **I**" in wrong
    end_of_line = one.tokenizer.encode_batch(["\n\r"])[0]  # as an untrained model may say
    for said in (end_of_line, [row[0], *end_of_line, other], [row[0], other, *end_of_line, row[4], other]):
        assert len(one.table(np.array([n]), [said]).splitlines()) == 3
    assert one.table(np.array([n]), [[]]).split("\n")[2].endswith("| (nothing) |")


# -- refusals, studies


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model.decoder", "unmixing"], "use --model.encoder superposition"),
        (
            ["--model.encoder", "superposition", "--model.latent", "65"],
            "model.latent 65 leaves no room beside model.meaning 64",
        ),
        (["--model.encoder", "superposition", "--model.latent", "9", "--model.meaning", "8"], "leaves no room"),
        (["--text.max-length", "1"], "raise text.max-length"),
        (["--text.max-length", "0"], "text.max-length must be at least 1, not 0"),
        (["--text.max-length", "1001"], "text.max-length is 1,000 tokens at most, not 1,001"),
        (["--text.vocabulary", "0"], "text.vocabulary must be at least 1, not 0"),
        (["--text.vocabulary", "100"], "too small"),
        (["--text.tokenizer", "pretrained", "--text.pretrained", "./nowhere"], "nowhere"),
        (["--model.rounds", "0"], "model.rounds must be at least 1, not 0"),
        (["--model.dropout", "1"], "model.dropout is a probability"),
        (["--model.word-dropout", "-0.1"], "model.word-dropout is a probability"),
        (["--data.held-out", "0.5"], "data.held-out is a part"),
        (["--data.messages", "-1"], "data.messages is a number of messages"),
        (["--data.messages", "2"], "2 messages are too few"),
        (["--data", "twiter"], "choose sample, twitter, or the path"),
        (["--data", "nowhere.csv"], "nowhere.csv cannot be read"),
        (["--data", "other.csv"], "other.csv, line 1: the header has no column message"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(flags, message, capsys, tmp_path):
    (tmp_path / "other.csv").write_text("tag,text\n1,hello\n")
    assert main(["train", *flags]) == 2
    captured = capsys.readouterr()
    [line] = captured.err.splitlines()
    assert message in line
    assert captured.out == ""
    assert [file.name for file in tmp_path.iterdir()] == ["other.csv"]


def test_presets_and_studies_that_install_with_the_package_can_be_parsed():
    studies = [
        "batch-norm",
        "code",
        "dropout",
        "hidden-size",
        "latent-search",
        "latent-size",
        "layers",
        "tokenizer",
        "vocabulary",
    ]
    check_presets(PACKAGE, ["best"], studies)


@pytest.mark.real_data
def test_short_tweets_come_back_from_a_code_that_nothing_was_learnt_for():
    flags = ["--data", "twitter", "--data.messages", "3000", "--text.vocabulary", "8000", "--model.embedding", "128"]
    one = made(*flags, *UNMIXING, "--model.latent", "256", "--model.meaning", "96")
    rows = [one.rows[n] for n in one.parts["valid"] if len(one.rows[n]) <= 16]
    assert len(rows) > 100
    said = one.said(one.encode(rows))
    assert sum(map(scores.hits, rows, said)) / sum(map(len, rows)) > 0.95


def test_evaluate_refuses_another_tokenizer_than_the_runs_own(trained, capsys):
    """The run's is in its checkpoint: its own scores would be taken for those of the other."""
    for flags in (["--text.tokenizer", "words"], ["--text.vocabulary", "77"]):
        capsys.readouterr()
        assert main(["evaluate", str(trained), *flags]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "was trained with another tokenizer (text." in line and f"leave {flags[0]} out" in line


def test_knobs_that_do_nothing_are_refused():
    for flags, told in (
        (["--model.rounds", "3"], "model.rounds does nothing with model.decoder autoregressive"),
        (["--model.meaning", "8"], "model.meaning does nothing with model.encoder recurrent"),
        (["--model.decoder", "parallel", "--model.word-dropout", "0.1"], "model.word-dropout does nothing with"),
        ([*UNMIXING, "--model.no-bidirectional"], "a superposition has neither directions nor batch norm"),
    ):
        with pytest.raises(UserError, match=told):
            config.parse(Config, flags)
