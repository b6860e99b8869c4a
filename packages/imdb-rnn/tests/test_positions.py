"""The gradient by the place of a word: equal to autograd by hand, and looking changes nothing."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from etude import config
from etude.stacked import runs as stacked
from etude.testing import CPU, cut_off, train
from imdb_rnn import positions, task
from imdb_rnn.__main__ import main
from imdb_rnn.config import Config

SMALL = ["--model.embedding", "16", "--model.hidden", "16", "--model.no-bidirectional", "--model.pooling", "last"]
FIT = ["--fit.epochs", "3", "--fit.batch-size", "256", "--fit.device", "cpu"]
PLACES = [1, 2, 4, 8]


def parsed(*flags):
    return config.parse(Config, [*SMALL, *FIT, *flags])


def by_hand(one, reader, rows, labels):
    """Of reviews that have no word twice: the gradient of a word's row in the table is that at its only place."""
    weights = [p for name, p in reader.named_parameters() if "embedding" in name]
    found = []
    for row, label in zip(rows, labels, strict=True):
        odds = reader(torch.from_numpy(row)[None], torch.tensor([len(row)]))
        [table] = torch.autograd.grad(F.binary_cross_entropy_with_logits(odds, torch.tensor([float(label)])), weights)
        found.append([float(table[row[len(row) - place]].double().norm()) for place in PLACES])
    return np.mean(found, 0)


@pytest.mark.parametrize(
    "flags",
    [
        ["--model.kind", "rnn"],
        ["--model.kind", "lstm"],
        ["--model.kind", "gru", "--model.members", "2", "--model.ngrams", "2", "--model.dropout", "0.3"],
    ],
)
def test_gradients_equal_those_by_hand(flags):
    torch.manual_seed(0)
    one = task.make(parsed(*flags), CPU.where)
    compare(one)


def test_gradients_of_what_starts_from_a_language_model_equal_those_by_hand(tmp_path):
    small = ["--language.embedding", "16", "--language.sampled", "100", "--fit.epochs", "1", "--fit.batch-size", "250"]
    assert main(["train", "language", *small, "--run", str(tmp_path / "language")]) == 0
    torch.manual_seed(0)
    compare(task.make(config.parse(Config, ["--model.start", str(tmp_path / "language")]), CPU.where))


def compare(one):
    rng, words = np.random.default_rng(0), one.tokenizer.vocab_size
    rows = [rng.permutation(np.arange(2, min(words, 80)))[:length] for length in (8, 20, 13, 40)]
    labels = np.array([0, 1, 1, 0])
    one.model.eval()
    expected = np.mean([by_hand(one, reader, rows, labels) for reader in one.model.readers], 0)
    with torch.no_grad():  # as `show` is called
        found = positions.gradients(one.model.readers, rows, labels, one.pad_id, PLACES)
    assert (expected > 0).all()
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert all(p.grad is None for p in one.model.parameters())


def test_a_run_is_the_same_in_every_bit_with_and_without(tmp_path, monkeypatch):
    said = collected(monkeypatch)
    for name, more in (("on", ["--fit.watch"]), ("off", [])):
        one = parsed("--model.kind", "rnn", *more)
        torch.manual_seed(0)
        train(task.make(one, CPU.where), one, tmp_path / name)
    assert (tmp_path / "on/metrics.jsonl").read_bytes() == (tmp_path / "off/metrics.jsonl").read_bytes()
    on, off = (torch.load(tmp_path / name / "checkpoints/last.pt")["model"] for name in ("on", "off"))
    assert all(torch.equal(x, off[name]) for name, x in on.items())
    pictures = {file.name for file in (tmp_path / "on/samples").glob("gradient-by-place*")}
    assert pictures == {f"gradient-by-place-{when}.png" for when in ("epoch-000", "epoch-001", "epoch-002", "end")}
    assert not list((tmp_path / "off/samples").glob("*.png"))
    assert said.keys() == {"on"}
    steps = [step for step, _ in said["on"]]
    assert steps[0] == 0 and steps == sorted(set(steps)) and len(steps) == 4
    assert all(len(numbers) >= 4 and min(numbers) > 0 for _, numbers in said["on"])


def test_a_killed_run_goes_on_to_the_same_pictures(tmp_path):
    one = parsed("--fit.watch", "--fit.save-every", "0")
    for name, cut in (("whole", 0), ("cut", 11), ("cut", 0)):
        torch.manual_seed(0)
        made = task.make(one, CPU.where)
        train(cut_off(made, "train", cut) if cut else made, one, tmp_path / name)
    files = sorted(file.relative_to(tmp_path / "whole") for file in (tmp_path / "whole/samples").iterdir())
    assert files
    for file in [*files, "watch.npz", "metrics.jsonl"]:
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "cut" / file).read_bytes(), file


def test_a_stacked_run_shows_what_it_shows_alone(tmp_path, monkeypatch):
    said = collected(monkeypatch)
    wanted = []
    for seed in range(2):
        one = parsed("--model.kind", "lstm", "--fit.watch", "--fit.epochs", "1", "--fit.seed", str(seed))
        torch.manual_seed(seed)
        train(task.make(one, CPU.where), one, tmp_path / f"alone{seed}")
        (tmp_path / f"together{seed}").mkdir()
        wanted.append(stacked.Wanted(one, tmp_path / f"together{seed}", "", []))
    unfinished = stacked.train(wanted, task.make, print)
    assert not unfinished.left and not unfinished.failed
    for seed in range(2):
        alone, together = said[f"alone{seed}"], said[f"together{seed}"]
        assert [step for step, _ in alone] == [step for step, _ in together] and len(alone) == 2
        np.testing.assert_array_equal(together[0][1], alone[0][1])  # before training
        np.testing.assert_allclose(together[1][1], alone[1][1], rtol=1e-3)
        ends = {file.name for file in (tmp_path / f"together{seed}/samples").glob("gradient-by-place*")}
        assert ends == {f"gradient-by-place-{when}.png" for when in ("epoch-000", "epoch-001", "end")}


def collected(monkeypatch):
    """What goes to TensorBoard of the gradient by place, of each run: [(step, numbers), ...]."""
    said: dict[str, list[tuple[int, list[float]]]] = {}

    def scalars(run, values, step):
        if any(tag.startswith("gradient by place") for tag in values):
            said.setdefault(run.path.name, []).append((step, list(values.values())))

    monkeypatch.setattr("etude.train.run.Run.scalars", scalars)
    return said


def test_what_has_no_word_to_look_at_is_refused(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--model.kind", "none", "--model.ngrams", "2", "--fit.watch"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "fit.watch has nothing to watch" in line


@pytest.mark.parametrize("norms", [[1e-30, 1e-3, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
def test_a_picture_is_drawn_of_whatever_was_measured(norms):
    assert positions.powers(7) == [1, 2, 4] and positions.powers(8) == [1, 2, 4, 8]
    assert positions.picture([1, 2, 4], np.array(norms), 3).size[0] >= 700
