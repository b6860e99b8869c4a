import gzip
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from etude.errors import UserError
from qa_category import vectors
from qa_category.__main__ import main

LINES = ["mom 1.0 0.5 -0.25", "dad 0.9 0.6 -0.2", "money -0.125 3 1e-3", "Mom 7.5 7.5 7.5", "new york 0.1 -0.2 0.3"]
REAL = os.environ.get("ETUDE_DATA", "")  # before each test has a place of its own
TABLE = np.array(
    [[0, 0, 0], [1, 0.5, -0.25], [0.9, 0.6, -0.2], [-0.125, 3, 1e-3], [7.5] * 3, [0.1, -0.2, 0.3]], np.float32
)
NAMES = ["mom", "dad", "money", "Mom", "new york"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("ETUDE_DATA", str(tmp_path / "data"))


def write(path, lines, end="\n"):
    content = (end.join(lines) + end).encode()
    if path.endswith(".gz"):
        Path(path).write_bytes(gzip.compress(content))
    elif path.endswith(".zip"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("inside/v.txt", content)
    else:
        Path(path).write_bytes(content)
    return path


@pytest.mark.parametrize("path", ["v.vec", "v.txt", "v.txt.gz", "v.vec.zip"])
@pytest.mark.parametrize("head", [[], ["5 3"]])
def test_every_kind_of_file_is_read(path, head):
    found = vectors.load(write(path, head + LINES), 10)
    assert found.words == NAMES
    np.testing.assert_array_equal(found.table, TABLE)
    again = vectors.load(path, 10)  # what was kept
    assert again.words == NAMES and isinstance(again.table, np.memmap)
    np.testing.assert_array_equal(again.table, TABLE)
    assert found.rows["Mom"] == 4 and found.lowered["mom"] == 1  # of what is alike in lower case the first


@pytest.mark.parametrize("end", ["\r\n", " \n"])
def test_ends_of_lines_do_not_matter(end):
    np.testing.assert_array_equal(vectors.load(write("v.txt", LINES, end), 10).table, TABLE)


def test_the_first_words_are_read():
    found = vectors.load(write("v.vec", ["5 3", *LINES]), 2)
    assert found.words == NAMES[:2] and found.table.shape == (3, 3)


def test_plain_decimals_are_read_to_the_last_bit():
    draws = np.random.default_rng(0)
    texts = []
    for whole, places in ((1, 4), (1, 8), (7, 8), (3, 1)):
        for _ in range(300):
            number = draws.integers(0, 10 ** (whole + places))
            text = f"{number:0{whole + places}d}"
            texts.append(("-" if draws.random() < 0.5 else "") + f"{text[:whole]}.{text[whole:]}")
    texts += ["-0.0", "0.0", "9.9", "0.00000001"]
    for columns in (1, 4):
        body = "\n".join(" ".join(texts[i : i + columns]) for i in range(0, len(texts), columns)) + "\n"
        expected = np.array([float(text) for text in texts]).reshape(-1, columns)
        found = vectors.decimals(body.encode(), columns)
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(np.signbit(found), np.signbit(expected))


@pytest.mark.parametrize(
    "body",
    [
        "1.0 2.0\n3.0\n", "1.0\n2.0 3.0\n", "1.0 2\n", "1.0 nan\n", "1.0 2.0e1\n", "1.0  2.0\n", "1.0\t2.0\n",
        "1.2.3 4.0\n",
        "1.0 2.123456789\n", "12345678.0 1.0\n", "1.0 a.b\n", "1.0 --2.0\n", "1.0 2.-0\n", "1.0 .5\n", "1.0 5.\n",
        "1.0 +2.0\n",
        "1.0 2.0\n\n", "1/0 2.0\n", "", "1.0 2.0 \n", "1.0 2.0\n3.0 4.0\n5.0 6.0",
    ],
)  # fmt: skip
def test_what_is_no_plain_decimal_is_left_to_the_slow_way(body):
    assert vectors.decimals(body.encode(), 2) is None


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["a 1.0 2.0", "b 1.0"], "line 2: the vector has 1 numbers, others have"),
        (["a 1.0 2.0", "b 1.0 2.0", "c 1.0 2.0 3.0"], "line 3: the vector has 3 numbers, others have 2"),
        (["2 2", "a 1.0 2.0", "b 1.0 2.0 3.0"], "line 3: the vector has 3 numbers, others have 2"),
        (["a 1.0 2.0", "b 1e-5 2.0 3.0"], "line 2: the vector has 3 numbers, others have 2"),
        (["a 1.0 2.0", "b 4E0 1e-5 2.0 3.0"], "line 2: the vector has 4 numbers, others have 2"),
        (["2 2", "a 1 2", "b 1 2 3"], "line 3: the vector has 3 numbers, others have 2"),
        (["a 1 2 3", "b 1 2"], "line 1: the vector has 3 numbers, others have 2"),
        (["a 1.0 2.0", "b nan 2.0"], "line 2: 'b' has a number that is not finite"),
        (["a 1.0 2.0", "b 1e39 2.0"], "line 2: 'b' has a number that is not finite"),
        (["a 1.0 2.0", "b 1.0 x"], "line 2: could not convert"),
        (["7 2", "a 1.0 2.0"], "ends after 1 of 7 words"),
        (["a 1.0 2.0", "b 1.0 2.0", "", "c 1.0 2.0"], "has no vectors"),
        (["2 2", "a 1.0 2.0", "", "b 1.0 2.0"], "line 3: the line is empty"),
        (["only", "words"], "has no vectors"),
        ([""], "has no vectors"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(lines, message, capsys):
    if message.startswith("line 2: the vector has 1"):
        lines = ["2 2", *lines]
        message = message.replace("line 2", "line 3")
    assert main(["neighbours", write("v.txt", lines), "a"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (Path("cache/etude/vectors").is_dir() and list(Path("cache/etude/vectors").iterdir()))


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (
            ["windows 95 0.5 1", "95 0.5 1", "1e5 1e-5 0.5", "0.5 1 2", "e 1 0.5"],
            ["windows 95", "95", "1e5", "0.5", "e"],
        ),
        (["2 2", "new york 1 2", "7 1 2"], ["new york", "7"]),
    ],
)
def test_a_word_may_have_spaces_and_be_a_number(lines, words):
    assert vectors.load(write("v.txt", lines), 10).words == words


def test_a_broken_archive_and_a_missing_file_are_told(capsys):
    Path("v.txt.gz").write_bytes(gzip.compress("\n".join(LINES * 200).encode())[:-20])
    Path("v.zip").write_bytes(b"PK no archive")
    for name in ("v.txt.gz", "v.zip", "./missing.txt", "no-such-name"):
        with pytest.raises(UserError, match=name.strip("./")):
            vectors.load(name, 10_000)


def test_an_excerpt_serves_those_who_ask_for_no_more_of_it(monkeypatch):
    def whole(*_: object) -> Path:
        raise UserError("the whole is asked for")

    monkeypatch.setenv("ETUDE_DATA", "data")
    monkeypatch.setattr(vectors, "fetch", whole)
    Path("data/vectors").mkdir(parents=True)
    write("data/vectors/glove.6B.50d.top1k.txt", LINES)
    np.testing.assert_array_equal(vectors.load("glove.6B.50d", 1000).table, TABLE)
    for name, most in (("glove.6B.50d", 1001), ("glove.6B.100d", 1000)):
        with pytest.raises(UserError, match="the whole is asked for"):
            vectors.load(name, most)


def test_neighbours_are_the_nearest_by_cosine(capsys):
    assert main(["neighbours", write("v.txt", LINES), "mom", "money", "--count", "2"]) == 0
    first, second = (line.split("\t") for line in capsys.readouterr().out.splitlines())
    cosine = TABLE[1:] @ TABLE[1:].T / np.outer(*[np.linalg.norm(TABLE[1:], axis=1)] * 2)
    order = [NAMES[i] for i in np.argsort(-cosine[0]) if i != 0]
    assert first[0] == "mom" and [word.rpartition(" ")[0] for word in first[1:]] == order[:2]
    assert float(first[1].rpartition(" ")[2]) == pytest.approx(cosine[0, 1], abs=1e-3)
    assert second[0] == "money" and len(second) == 3
    assert main(["neighbours", "v.txt", "absent"]) == 2
    assert "'absent' is not among the first 5 words" in capsys.readouterr().err


@pytest.mark.real_data
def test_real_vectors_are_those_of_the_plain_loop():
    path = Path(REAL) / "vectors" / "glove.6B.50d.top50k.txt"
    found = vectors.read(path, 2000)
    lines = path.read_text("utf-8").split("\n")[:2000]
    assert found.words == [line.split(" ")[0] for line in lines]
    np.testing.assert_array_equal(found.table[1:], np.array([line.split(" ")[1:] for line in lines], np.float32))
