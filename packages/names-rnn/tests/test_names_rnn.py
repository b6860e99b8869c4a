import json
import math
from collections import Counter

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from etude import config
from etude.errors import UserError
from etude.testing import CPU as DEVICE
from etude.testing import check_influence, check_presets, check_task, scaled
from etude.train.step import Learner, Step, train_step
from names_rnn import data, demo, task
from names_rnn.__main__ import PACKAGE, main
from names_rnn.config import Config, Data
from names_rnn.letters import ASCII, UNKNOWN, Alphabet
from names_rnn.model import Classifier, NGrams, RNNCell, turned

CPU = torch.device("cpu")
POINTS = ["--model.order", "embedding", "--model.embedding", "12"]
SMALL = ["--model.hidden", "24", "--fit.lr", "1e-2", "--fit.batch-size", "256"]
KINDS = [
    [],
    ["--model.cell", "rnn", "--model.pooling", "mean", "--model.reading", "backward"],
    ["--model.cell", "own", "--model.layers", "2", "--model.reading", "both", *POINTS],
    ["--model.cell", "lstm", "--model.reading", "both", "--model.pooling", "max", "--model.widths", "2", "3"],
    ["--model.cell", "gru", "--model.layers", "2", "--model.pooling", "attention", "--model.ngrams", "3"],
]
BEST = [*KINDS[3], "--model.ngrams", "3", "--label-smoothing", "0.1", "--logit-adjustment", "0.2"]
LEFT = ["--model.letter-dropout", "0.2"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def parsed(*flags):
    return config.parse(Config, [*SMALL, *flags])


def made(*flags):
    torch.manual_seed(0)
    return task.make(parsed(*flags), CPU)


def classifier(flags, letters=57, languages=5):
    torch.manual_seed(0)
    model = Classifier(parsed(*flags).model, letters, languages).eval()
    for parameter in model.parameters():
        parameter.data.normal_(std=0.3)
    return model


# -- the promises of every task


@pytest.mark.parametrize("flags", [POINTS, [*BEST, *LEFT, "--data.letters", "unicode"]])
def test_the_battery(flags, tmp_path):
    runs = tmp_path / "runs"
    runs.mkdir()
    check_task(PACKAGE, [*SMALL, *flags, "--model.dropout", "0.1"], ["Ardov", "Satoshi"], runs)


def test_presets_and_studies_that_install_with_the_package_can_be_parsed():
    studies = ["batch-size", "cell", "cell-longer", "cell-search", "drawing", "hidden-size", "order", "reading"]
    check_presets(PACKAGE, ["best", "lab"], studies)


# -- the model


def test_the_cell_is_that_of_pytorch():
    torch.manual_seed(0)
    ours, theirs = RNNCell(7, 5), torch.nn.RNNCell(7, 5)
    names = {"weight_ih": "i2h.weight", "bias_ih": "i2h.bias", "weight_hh": "h2h.weight", "bias_hh": "h2h.bias"}
    theirs.load_state_dict({name: ours.state_dict()[its] for name, its in names.items()})
    x, hidden = torch.randn(3, 7), torch.randn(3, 5)
    torch.testing.assert_close(ours(x, hidden), theirs(x, hidden))
    assert ours.initHidden(3).shape == (3, 5) and not ours.initHidden(3).any()
    assert all(p.abs().max() <= 5**-0.5 for p in ours.parameters())


def test_the_own_cell_letter_by_letter_is_the_recurrent_layer_of_etude():
    flags = ["--model.layers", "2", "--model.reading", "both", "--model.pooling", "last"]
    ours, theirs = (classifier([*flags, "--model.cell", cell]) for cell in ("own", "rnn"))
    state = {name: value for name, value in theirs.state_dict().items() if not name.startswith("recurrent")}
    for number, ending in enumerate(("l0", "l0_reverse", "l1", "l1_reverse")):
        for its, name in (("i2h", "ih"), ("h2h", "hh")):
            for kind in ("weight", "bias"):
                value = theirs.state_dict()[f"recurrent.{kind}_{name}_{ending}"]
                state[f"recurrent.cells.{number}.{its}.{kind}"] = value
    ours.load_state_dict(state)
    ids, lengths = torch.randint(1, 58, (4, 9)), torch.tensor([9, 1, 4, 7])
    torch.testing.assert_close(ours(ids, lengths), theirs(ids, lengths))


def test_the_network_is_that_of_the_lab_written_out():
    """One-hot letters, a hidden state that is handed on, a linear layer, log-softmax: as the lab's lines have it."""
    model = classifier([])
    ids = torch.tensor([[3, 17, 57, 1]])
    cell = model.recurrent.cells[0]
    hidden = cell.initHidden()
    for id in ids[0]:
        letter = torch.zeros(1, 57)
        letter[0, id - 1] = 1
        hidden = cell(letter, hidden)
    expected = (hidden @ model.output.weight.T + model.output.bias).log_softmax(1).detach()
    torch.testing.assert_close(model(ids, torch.tensor([4])), expected)
    assert expected.exp().sum().item() == pytest.approx(1)


@pytest.mark.parametrize("reading", ["forward", "backward", "both"])
@pytest.mark.parametrize("order", ["one-hot", "embedding"])
def test_the_demo_says_which_letters_mattered(reading, order):
    one = made("--model.reading", reading, "--model.order", order)
    answer = demo.demo(one).panels[0].answer("Tanemori")
    (row,), language = one.alphabet.encode(["Tanemori"]), one.languages.index(answer.headline)

    def said(letter, by):
        with scaled([one.model.letters], row[letter], by):
            p = float(one.probabilities(["Tanemori"])[0][language])
        return math.log(p / (1 - p))

    check_influence(answer.shown[1].pieces, said)


def test_the_demo_says_that_a_name_is_in_capitals():
    (panel,) = demo.demo(made()).panels
    said = {name: panel.answer(name).detail for name in ("TANEMORI", "Tanemori", "T")}
    assert said["TANEMORI"].endswith("few names that it learnt from are in capitals: try Tanemori")
    assert not any("capitals" in said[name] for name in ("Tanemori", "T"))


def test_reading_backward_is_reading_the_turned_name():
    forward, backward = (classifier(["--model.reading", way]) for way in ("forward", "backward"))
    backward.load_state_dict(forward.state_dict())
    ids, lengths = torch.tensor([[1, 2, 3, 0, 0], [9, 8, 7, 6, 5]]), torch.tensor([3, 5])
    mirrored = torch.tensor([[3, 2, 1, 0, 0], [5, 6, 7, 8, 9]])
    assert turned(ids, lengths).tolist() == mirrored.tolist()
    torch.testing.assert_close(backward(ids, lengths), forward(mirrored, lengths))
    assert not torch.allclose(backward(ids, lengths), forward(ids, lengths))


@pytest.mark.parametrize("flags", KINDS)
def test_an_answer_depends_neither_on_padding_nor_on_the_company(flags):
    model = classifier(flags)
    lengths = torch.tensor([1, 7, 3, 12])
    ids = torch.randint(1, 58, (4, 12))
    with torch.inference_mode():
        together = model(ids, lengths)
        longer = model(torch.cat([ids, torch.randint(1, 58, (4, 5))], 1), lengths)
        alone = torch.cat([model(row[None, :n], n[None]) for row, n in zip(ids, lengths, strict=True)])
    assert together.std(0).min() > 0
    torch.testing.assert_close(together, longer)
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("flags", KINDS)
def test_every_weight_takes_part(flags):
    model = classifier(flags)
    ids, lengths = torch.arange(1, 49).reshape(4, 12), torch.tensor([12, 5, 9, 2])
    model(ids, lengths)[:, 0].sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def grams_of(word):
    framed = [0, *word, 0]
    return [tuple(framed[i : i + n]) for n in (1, 2, 3) for i in range(len(framed) - n + 1)]


def padded(words):
    lengths = torch.tensor([len(word) for word in words])
    return torch.tensor([[*word, *[0] * (max(map(len, words)) - len(word))] for word in words]), lengths


def test_n_grams_are_those_counted_the_obvious_way():
    """Logistic regression on tf-idf, with a dictionary from n-gram to weights, edges included, for the hashed table."""
    torch.manual_seed(0)
    layer = NGrams(3, 2)
    layer.weight.data.normal_()
    training = [[5, 6, 7, 5, 6], [9], [4, 4, 4], [5, 6], [9, 4]]
    layer.count([padded(training[:2]), padded(training[2:])])
    df = Counter(gram for word in training for gram in set(grams_of(word)))
    idf = {gram: 1 + math.log((1 + len(training)) / (1 + count)) for gram, count in df.items() if count > 1}
    assert sorted(layer.idf[layer.idf > 0].tolist()) == pytest.approx(sorted(idf.values()))
    bucket = {}
    for word in training:  # where each n-gram is kept: `buckets` goes through them in the order of `grams_of`
        kept = torch.cat([found[real] for found, real in layer.buckets(*padded([word]))]).tolist()
        bucket |= dict(zip(grams_of(word), kept, strict=True))
    assert len(set(bucket.values())) == len(bucket)
    words = [*training, [7, 5, 6, 4, 9, 9]]  # with n-grams that training has not
    found = layer(*padded(words))
    for word, row in zip(words, found, strict=True):
        known = [gram for gram in grams_of(word) if gram in idf]
        length = math.sqrt(sum(idf[gram] ** 2 for gram in known))
        total = sum(idf[gram] / length * layer.weight[bucket[gram]] for gram in known)
        torch.testing.assert_close(row, total)
    # A letter that is left out, 0, is part of none: as with a letter that training has not.
    torch.testing.assert_close(layer(*padded([[5, 6, 0, 5, 6]])), layer(*padded([[5, 6, 99, 5, 6]])))
    assert not torch.allclose(layer(*padded([[5, 0, 6]])), layer(*padded([[5, 6]])))
    assert layer(*padded([[20, 21]]))[0].tolist() != [0, 0]  # the edge alone, which all names have
    layer.idf.zero_()
    assert layer(*padded([[20, 21]])).tolist() == [[0, 0]]


def test_what_n_grams_count_is_in_the_checkpoint_and_comes_from_training_alone():
    one = made("--model.ngrams", "2")
    words = [tuple(row.tolist()) for row in one.rows["train"]]
    df = Counter(gram for word in words for gram in {g for g in grams_of(word) if len(g) < 3})
    shared = {count for count in df.values() if count > 1}
    expected = {round(1 + math.log((1 + len(words)) / (1 + count)), 4) for count in shared}
    assert {round(value, 4) for value in one.model.ngrams.idf[one.model.ngrams.idf > 0].tolist()} == expected
    assert "ngrams.idf" in one.model.state_dict()


def test_logit_adjustment_is_added_in_training_alone():
    """Menon et al. 2021, equation 10: the cross entropy of the logits plus tau times the log of the frequencies."""
    plain, one = made(), made("--logit-adjustment", "0.5")
    frequency = np.bincount(one.parts["train"].labels) / len(one.parts["train"].labels)
    batch = one.load("train", np.arange(40), 1)
    logits = plain.model(*batch[:2])
    expected = F.cross_entropy(logits + 0.5 * torch.tensor(frequency).log().float(), batch[2], reduction="sum")
    torch.testing.assert_close(one.step(batch)["loss"][0], expected)
    assert one.step(batch)["loss"][0] != plain.step(batch)["loss"][0]
    for model in (one.model, plain.model):
        model.eval()
    torch.testing.assert_close(one.model(*batch[:2]), plain.model(*batch[:2]))


@pytest.mark.parametrize("flags", [KINDS[1], BEST])
def test_letters_are_left_out_whole_and_in_training_alone(flags):
    """As if they were given as 0; the same name in evaluation is read as it is."""
    model, plain = classifier([*flags, "--model.letter-dropout", "0.4"]), classifier(flags)
    ids, lengths = torch.randint(1, 58, (64, 9)), torch.randint(4, 10, (64,))
    torch.testing.assert_close(model(ids, lengths), plain(ids, lengths))
    torch.manual_seed(3)
    found = model.train()(ids, lengths)
    torch.manual_seed(3)
    left = torch.rand(ids.shape) < 0.4
    assert 0.35 < left.float().mean() < 0.45
    torch.testing.assert_close(found, plain(ids.where(~left, 0), lengths))
    assert not torch.allclose(found, plain(ids, lengths))


# -- the lab's step


def test_a_batch_of_one_is_the_step_of_the_lab(tmp_path):
    """The lab's loop in its own words, RMSprop and all: the same weights after eight names."""
    flags = ["--fit.batch-size", "1", "--fit.optimizer", "rmsprop", "--fit.momentum", "0", "--fit.weight-decay", "0"]
    flags += ["--fit.lr", "1e-3", "--fit.clip", "0", "--drawing", "uniform", "--per-epoch", "8"]
    one, other = made(*flags), made(*flags)
    cell, linear = other.model.recurrent.cells[0], other.model.output
    optimizer = torch.optim.RMSprop(other.model.parameters(), lr=1e-3)
    criterion = torch.nn.NLLLoss()
    learner = Learner(one, parsed(*flags).fit, DEVICE)
    part = one.parts["train"]
    for batch, ids in enumerate(one.plan("train", 1, 1)):
        taken = train_step(learner, Step(1, batch, ids, 1e-3))
        hidden = cell.initHidden()
        for letter in part.names[ids[0]]:
            one_hot = torch.zeros(1, 57)
            one_hot[0, ASCII.index(letter)] = 1
            hidden = cell(one_hot, hidden)
        loss = criterion(torch.log_softmax(linear(hidden), 1), torch.from_numpy(part.labels[ids]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert float(taken.totals.mean("loss")) == pytest.approx(loss.item(), rel=1e-5)
    moved = 0.0
    for p, q, start in zip(
        one.model.parameters(), other.model.parameters(), made(*flags).model.parameters(), strict=True
    ):
        torch.testing.assert_close(p, q, atol=1e-5, rtol=1e-4)
        moved += (p - start).abs().sum().item()
    assert moved > 1


def test_a_batch_has_the_mean_of_the_gradients_of_its_names():
    one = made()
    ids = one.plan("train", 1, 16)[0]
    sums = one.step(one.load("train", ids, 1))["loss"]
    (sums[0] / sums[1]).backward()
    together = [p.grad.clone() for p in one.model.parameters()]
    one.model.zero_grad()
    for id in ids:
        (one.step(one.load("train", np.array([id]), 1))["loss"][0] / len(ids)).backward()
    for found, p in zip(together, one.model.parameters(), strict=True):
        torch.testing.assert_close(found, p.grad, atol=1e-6, rtol=1e-4)


def test_languages_are_drawn_alike_or_as_frequent():
    labels = made().parts["train"].labels
    counts = np.bincount(labels)
    uniform, frequent = (made("--drawing", way, "--per-epoch", "20000") for way in ("uniform", "frequent"))
    plans = [np.concatenate(one.plan("train", 3, 64)) for one in (uniform, frequent)]
    assert all(len(plan) == 20_000 for plan in plans)
    drawn, as_is = (np.bincount(labels[plan]) for plan in plans)
    sd = math.sqrt(20_000 * 0.1 * 0.9)
    assert np.abs(drawn - 2_000).max() < 4 * sd
    for label in range(10):  # within a language every name has its turn
        times = np.bincount(plans[0][labels[plans[0]] == label], minlength=len(labels))[labels == label]
        assert (times > 0).mean() > 0.85 and 0.7 < times.var() / times.mean() < 1.4  # Poisson
    np.testing.assert_allclose(as_is / 20_000, counts / len(labels), atol=0.01)
    assert np.bincount(plans[1]).max() - np.bincount(plans[1]).min() == 1
    ids = np.concatenate(made("--drawing", "root", "--per-epoch", "20000").plan("train", 3, 64))
    np.testing.assert_allclose(np.bincount(labels[ids]) / 20_000, counts**0.5 / (counts**0.5).sum(), atol=0.01)
    assert (np.concatenate(uniform.plan("train", 4, 64)) != plans[0]).any()
    assert sorted(np.concatenate(made().plan("train", 1, 64))) == list(range(len(labels)))


# -- the command


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    flags = [*SMALL, "--fit.epochs", "4", "--fit.batch-size", "32", *POINTS]
    assert main(["train", "--run", str(folder), *flags]) == 0
    return folder


def predicted(folder, capsys, *names):
    capsys.readouterr()
    assert main(["predict", str(folder), *names]) == 0
    return [line.split("\t") for line in capsys.readouterr().out.splitlines()]


def test_predict_gives_the_three_likeliest_languages(trained, capsys):
    lines = predicted(trained, capsys, "Jones", "Сатоши", "  Dvořák ", "Ó Súilleabháin", "Garðar-x".replace("ð", "d"))
    assert [line[:2] for line in lines] == [
        ["Jones", "Jones"],
        ["Сатоши", "Satoshi"],
        ["Dvořák", "Dvorak"],
        ["Ó Súilleabháin", "O Suilleabhain"],
        ["Gardar-x", "Gardarx"],
    ]
    for line in lines:
        languages, odds = zip(*(said.rsplit(" ", 1) for said in line[2:]), strict=True)
        values = list(map(float, odds))
        assert len(set(languages)) == 3 and sum(values) <= 1.001
        assert values == sorted(values, reverse=True)
    assert lines[1][2:] == predicted(trained, capsys, "Satoshi")[0][2:]


def test_apostrophes_are_one_and_capitals_and_files_are_told(trained, capsys):
    forms = predicted(trained, capsys, *(f"O{mark}Neill" for mark in "'\u2019\u2018\u02bc`\u00b4"))
    assert len({tuple(line[1:]) for line in forms}) == 1 and forms[0][1] == "O'Neill"
    assert main(["predict", str(trained), "ROSSI", "Rossi"]) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "capitals" in line]
    assert told == ["ROSSI: in capitals, which few names of training are: try Rossi"]
    assert main(["predict", str(trained), "names.txt"]) == 2
    assert "names.txt is no name, but that of a file" in capsys.readouterr().err


def test_white_space_around_the_names_of_a_folder_is_no_letter(tmp_path):
    """`predict` never sees it: what is told by it alone would be scored as right, and never be answered."""
    for language, end in (("A", ""), ("B", "  ")):
        names = [f"{a}{b}{end}" for a in "ab" for b in "cdefghijklmnopqrst"]
        (tmp_path / f"{language}.txt").write_text("\n".join(names))
    found = data.load(Data(str(tmp_path)), 0)
    assert all(name == name.strip() for part in (found.train, found.valid, found.test) for name in part.names)


def test_what_no_name_of_training_is_like_is_said_to_be_a_guess(trained, capsys):
    """The letters of a name may all be known, and yet stand as they do in none."""
    train = data.load(Data(), 0).train.names
    assert predicted(trained, capsys, *train[:50]) and main(["predict", str(trained), train[0]]) == 0
    assert capsys.readouterr().err == ""
    assert "qx" not in "\n".join(train).lower()
    assert main(["predict", str(trained), "Qxvarn", train[0]]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2
    assert err.startswith("Qxvarn: a guess, no name that was learnt from has qx") and len(err.splitlines()) == 1


def test_predictions_agree_with_evaluate(trained, capsys):
    part = data.load(Data(), 0).test
    lines = predicted(trained, capsys, *part.names)
    assert main(["evaluate", str(trained)]) == 0
    scores = json.loads(capsys.readouterr().out.splitlines()[-1])
    languages = data.load(Data(), 0).languages
    truths = [languages[label] for label in part.labels]
    answers = [[said.rsplit(" ", 1)[0] for said in line[2:]] for line in lines]
    assert scores["accuracy"] == pytest.approx(np.mean([a[0] == t for a, t in zip(answers, truths, strict=True)]))
    assert scores["top2"] == pytest.approx(np.mean([t in a[:2] for a, t in zip(answers, truths, strict=True)]))
    per_class = []
    for language in languages:
        hits = sum(a[0] == t == language for a, t in zip(answers, truths, strict=True))
        said, of = sum(a[0] == language for a in answers), truths.count(language)
        per_class.append(2 * hits / (said + of))
    assert scores["macro_f1"] == pytest.approx(np.mean(per_class))
    assert scores["accuracy"] > 0.55 > scores["majority"] == pytest.approx(truths.count("Arvan") / len(truths))
    always = [2 * np.mean([t == "Arvan" for t in truths]) / (1 + scores["majority"]), *[0] * (len(languages) - 1)]
    assert (scores["floor_accuracy"], scores["floor_macro_f1"]) == (scores["majority"], pytest.approx(np.mean(always)))
    assert scores["accuracy"] < scores["grammar"] < scores["ceiling_part"] and scores["ceiling"] < 1
    assert scores["names"] == len(truths) and set(scores["per_class"]) == set(languages)


@pytest.mark.parametrize("flags", [["--fit.seed", "1"], ["--data.protocol", "rows"]])
def test_other_parts_are_scored_without_what_the_run_was_trained_on(trained, capsys, flags):
    own = data.load(Data(), 0)
    learnt = {*own.train.names, *own.valid.names}
    other = data.load(Data(protocol="rows") if "rows" in flags else Data(), 1 if "1" in flags else 0).test
    left = [name for name in other.names if name not in learnt]
    assert 0 < len(left) < len(other.names)
    assert main(["evaluate", str(trained), *flags]) == 0
    out = capsys.readouterr().out
    assert f"{len(other.names) - len(left)} test names that the run was trained on left out" in out
    assert json.loads(out.splitlines()[-1])["names"] == len(left)


def test_embed_gives_the_last_hidden_state(trained, tmp_path):
    assert main(["embed", str(trained), "Jones", "Ng", "--out", "vectors.npy"]) == 0
    vectors = np.load("vectors.npy")
    assert vectors.shape == (2, 24) and vectors.dtype == np.float32
    assert np.abs(vectors).max() <= 1 and np.abs(vectors[0] - vectors[1]).max() > 0.01


def test_a_run_leaves_names_and_pictures(trained):
    found = {file.name for file in (trained / "samples").iterdir()}
    pictures = {"confusion.png", "calibration.png", "languages.png", "most-wrong.md"}
    assert found == {"names-end.md", *(f"names-epoch-00{n}.md" for n in range(5)), *pictures}
    before, after = ((trained / "samples" / f"names-{n}.md").read_text().splitlines() for n in ("epoch-000", "end"))
    assert [line.split("|")[2] for line in before] == [line.split("|")[2] for line in after]
    assert before != after
    worst = (trained / "samples/most-wrong.md").read_text().splitlines()[2:]
    assert worst and all(line.startswith("| **wrong** |") for line in worst)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([""], "the name '' is empty"),
        (["Ivanov", " \u200b "], "is empty"),
        (["王"], "王: the model does not know 王"),
        (["Weiß"], "Weiß: the model does not know ß"),
        (["Wang 王"], "does not know 王"),
        (["-12"], "-12: it has no letter"),
    ],
)
def test_a_name_that_cannot_be_read_is_refused(trained, names, message, capsys):
    capsys.readouterr()
    for words in (
        ["predict", str(trained), "--out", "x.txt", "--", *names],
        ["embed", str(trained), "--out", "x.npy", "--", *names],
    ):
        assert main(words) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert message in line
    assert not list(trained.parent.parent.glob("x.*"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model.hidden", "0"], "model.hidden must be at least 1, not 0"),
        (["--model.widths", "3", "0"], "model.widths"),
        (["--model.ngrams", "-1"], "model.ngrams"),
        (["--per-epoch", "-1"], "per-epoch must be at least 0"),
        (["--label-smoothing", "1"], "label-smoothing"),
        (["--logit-adjustment", "nan"], "logit-adjustment"),
        (["--model.hidden", "1000000000"], "weights"),
        (["--model.layers", "1000000000"], "weights"),
        (["--model.embedding", "12"], "does nothing with order one-hot"),
        (["--model.channels", "12"], "give --model.widths"),
        (["--data", "nowhere/at/all"], "there is no folder"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(flags, message, capsys, tmp_path):
    assert main(["train", *flags]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line
    assert not list(tmp_path.iterdir())


def test_a_run_of_other_languages_is_not_scored(trained, tmp_path, capsys):
    (tmp_path / "names").mkdir()
    for language in ("One", "Two"):
        names = [f"{language}{a}{b}" for a in "abcdef" for b in "aeiou"]
        (tmp_path / "names" / f"{language}.txt").write_text("\n".join(names))
    assert main(["evaluate", str(trained), "--data", "./names"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert (
        "this run knows the 10 languages Arvan, Belgar, Coral ..., but" in line and "the 2 languages One, Two" in line
    )


def test_letters_that_training_hardly_showed_are_read_as_what_they_are_like():
    alphabet = Alphabet.of("unicode", ["Müller", "Möller", "Müß", "Ng", "Nguyen", "Garcia", "Gil", "Weller"])
    assert "ü" in alphabet.letters and "ö" not in alphabet.letters and "ß" not in alphabet.letters
    assert alphabet.read("Mülöß") == f"Mül{UNKNOWN}{UNKNOWN}"  # there is no o either
    assert alphabet.read("Mélé") == "Mele"
    assert alphabet.read("Мил") == "Mil"
    assert alphabet.lost("Mé-ß1") == ["ß"]
    [ids] = alphabet.encode([f"M{UNKNOWN}"])
    assert ids[1] == alphabet.size == len(alphabet.letters) + 1 and ids[0] == alphabet.letters.index("M") + 1
    folded = Alphabet.of("ascii", [])
    assert folded.size == 57 and folded.encode(["aZ'"])[0].tolist() == [1, 52, 57]


def test_an_unread_name_is_no_name():
    with pytest.raises(UserError, match="is empty"):
        made().read(["\n"])
