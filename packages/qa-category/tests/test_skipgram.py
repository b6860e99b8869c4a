import numpy as np
import pytest

from qa_category import data, vectors
from qa_category.__main__ import main
from qa_category.config import Data

GIVEN = [
    "battery 0.1 0.2 0.3 0.4",
    "fabric -0.1 0.2 0.1 0.2",
    "Sleeves 0.3 -0.2 0.1 0.1",
    "never-asked 0.5 0.5 0.5 0.5",
]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "given.txt").write_text("\n".join(GIVEN) + "\n")


def questions(file, frequent):
    """Questions of two kinds; the words of a kind stand beside each other. Every fifth has a word of its own."""
    rows = ["question,category"]
    for n in range(400):
        own = f"only{n}" if n % 5 == 0 else frequent
        rows.append(f"does the battery charger {own} number {n} last,power")
        rows.append(f"has the fabric sleeves {own} number {n} shrunk,clothes")
    file.write_text("\n".join(rows) + "\n")


def near(found, a, b):
    x, y = found.table[found.rows[a]], found.table[found.rows[b]]
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


def test_words_that_stand_together_come_together_and_what_nobody_asks_stays(tmp_path, capsys):
    questions(tmp_path / "q.csv", "often")
    call = ["skipgram", "given.txt", "out.vec", "--data", "q.csv", "--epochs", "20"]
    assert main(call) == 0
    assert "4 vectors, 3 of them tuned" in capsys.readouterr().out
    before, after = vectors.load("given.txt", 10), vectors.load("out.vec", 10_000)
    assert after.words[:4] == before.words
    np.testing.assert_array_equal(after.table[4], np.float32([0.5] * 4))
    # By what stands beside them: of each kind nearer to its own company than to the other's.
    assert near(after, "battery", "charger") > near(
        after, "battery", "sleeves" if "sleeves" in after.rows else "Sleeves"
    )
    assert near(after, "fabric", "Sleeves") > near(after, "battery", "Sleeves")
    assert "often" in after.rows
    first = (tmp_path / "out.vec").read_bytes()
    assert main(call) == 0 and (tmp_path / "out.vec").read_bytes() == first


def test_only_the_training_part_is_read(tmp_path):
    questions(tmp_path / "q.csv", "often")
    assert main(["skipgram", "given.txt", "out.vec", "--data", "q.csv", "--epochs", "1", "--least", "1"]) == 0
    parts = data.load(Data("q.csv"))
    words = {
        name: {w for text in getattr(parts, name).texts for w in text.split() if w.startswith("only")}
        for name in ("train", "valid", "test")
    }
    known = {w for w in vectors.load("out.vec", 10_000).words if w.startswith("only")}
    assert known and known <= words["train"] and (words["valid"] | words["test"]) - words["train"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["absent.vec", "out.vec"], "absent.vec"),
        (["given.txt", "out.txt"], "should end in .vec"),
        (["given.txt", "out.vec", "--epochs", "0"], "--epochs must be at least 1"),
        (["given.txt", "out.vec", "--lr", "nan"], "--lr must be above 0"),
        (["given.txt", "given.txt/out.vec"], "given.txt/out.vec cannot be written"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(words, said, tmp_path, capsys):
    questions(tmp_path / "q.csv", "often")
    assert main(["skipgram", *words, "--data", "q.csv"]) == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1
    assert not (tmp_path / "out.vec").exists() and not (tmp_path / "out.txt").exists()
