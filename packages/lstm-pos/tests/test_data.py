"""CoNLL-U -> arrays: what is read, what is refused, and what is left behind when something goes wrong."""

import gzip
import os
import random
import re
import signal
import subprocess
import sys
import tracemalloc
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from nerus import load_nerus

from etude.errors import UserError
from lstm_pos import conllu, data, sample

NERUS = Path("nerus") / "nerus_lenta.conllu.gz"
TAIGA = Path("ud") / "ru_taiga-ud-dev.conllu"
CRLF = "\r\n"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "etude" / "lstm-pos"


@pytest.fixture
def file(tmp_path):
    return tmp_path / "some.conllu"


def line(number, form, tag="X", feats="_"):
    return f"{number}\t{form}\t_\t{tag}\t_\t{feats}\t0\troot\t_\t_\n"


def sentence(*words, tag="X"):
    return "".join(line(i, word, tag) for i, word in enumerate(words, 1)) + "\n"


def documents(n, size=2):
    """`n` documents of `size` sentences that say where they are."""
    return "".join(
        f"# newdoc id = {i}\n" + "".join(f"# sent_id = {i}_{j}\n" + sentence(f"d{i}", f"s{j}") for j in range(size))
        for i in range(n)
    )


def plain(corpus):
    """A corpus as lists: sentences of (form, tag, feats), by document."""
    tokens = [
        (corpus.words[w], corpus.tags[t], corpus.feats[f])
        for w, t, f in zip(corpus.word_ids, corpus.tag_ids, corpus.feat_ids, strict=True)
    ]
    bounds = corpus.sentences.tolist()
    sentences = [tokens[i:j] for i, j in pairwise(bounds)]
    bounds = corpus.documents.tolist()
    return [sentences[i:j] for i, j in pairwise(bounds)]


def words(corpus):
    return [[[form for form, _, _ in sentence] for sentence in document] for document in plain(corpus)]


def same(a, b):
    assert (a.words, a.tags, a.feats) == (b.words, b.tags, b.feats)
    for name, kind in data.ARRAYS.items():
        assert getattr(a, name).dtype == getattr(b, name).dtype == kind
        assert np.array_equal(getattr(a, name), getattr(b, name)), name


def read(text, documents=0):
    return data.read_here("the text", BytesIO(text.encode() if isinstance(text, str) else text), documents)


def refusal(call, *args):
    with pytest.raises(UserError) as error:
        call(*args)
    message = str(error.value)
    assert "\n" not in message and len(message) < 500 and re.search("[;?] ?", message)
    return message


# --- what is read


TWO = sentence("a", "b") + sentence("c")
VARIANTS = {
    "plain": (TWO, [[["a", "b"]], [["c"]]]),
    "no last empty line": (TWO[:-1], [[["a", "b"]], [["c"]]]),
    "no last line end": (TWO[:-2], [[["a", "b"]], [["c"]]]),
    "CRLF": (TWO.replace("\n", CRLF), [[["a", "b"]], [["c"]]]),
    "CRLF, no last line end": (TWO[:-2].replace("\n", CRLF), [[["a", "b"]], [["c"]]]),
    "CRLF, half a last line end": (TWO[:-2].replace("\n", CRLF) + "\r", [[["a", "b"]], [["c"]]]),
    "BOM": ("\ufeff" + TWO, [[["a", "b"]], [["c"]]]),
    "many empty lines": ("\n\n" + TWO.replace("\n\n", "\n\n\n\n"), [[["a", "b"]], [["c"]]]),
    "comments": ("# one\n\n#two\n# text = 1\ta\n" + TWO + "# last\n", [[["a", "b"]], [["c"]]]),
    "spaces in a form": (sentence("10 000", " "), [[["10 000", " "]]]),
    "other spaces in a form": (sentence("a\u2028b\x85\x0c\r\x00", "_", "#"), [[["a\u2028b\x85\x0c\r\x00", "_", "#"]]]),
    "multiword tokens": (
        line("1-2", "ab", "_") + line(1, "a") + line(2, "b") + line("3-3", "c", "_") + line(3, "c") + "\n",
        [[["a", "b", "c"]]],
    ),
    "empty nodes": (
        line("0.1", "x", "_") + line(1, "a") + line("1.1", "y") + line("1.2", "z") + line(2, "b") + "\n",
        [[["a", "b"]]],
    ),
    "documents": (documents(2), [[["d0", "s0"], ["d0", "s1"]], [["d1", "s0"], ["d1", "s1"]]]),
    "documents without a name": (documents(2, 1).replace(" id = 0", ""), [[["d0", "s0"]], [["d1", "s0"]]]),
    "newdoc before an empty line": ("#newdoc\n\n" + TWO + "#\t newdoc\n\n\n" + TWO, [[["a", "b"], ["c"]]] * 2),
    "newdoc twice, and at the end": ("# newdoc\n# newdoc\n" + TWO + "# newdoc\n", [[["a", "b"], ["c"]]]),
    "no newdoc": ("# newdocument\n# new\n# newpar\n# a newdoc\n" + TWO, [[["a", "b"]], [["c"]]]),
    "newdoc later on": (TWO + "# newdoc\n" + TWO, [[["a", "b"]], [["c"]], [["a", "b"], ["c"]]]),
    "a long sentence": (sentence(*map(str, range(1200))), [[[str(i) for i in range(1200)]]]),
    "no UTF-8 where nothing is read": (b"# \xff\n" + TWO.encode().replace(b"root", b"\xfe"), [[["a", "b"]], [["c"]]]),
}


@pytest.mark.parametrize("block", [3, 17, 1 << 20])
@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_read(variant, block, monkeypatch):
    monkeypatch.setattr(conllu, "BLOCK", block)
    text, wanted = VARIANTS[variant]
    assert words(read(text)) == wanted


def test_tags_and_features(file):
    file.write_text(line(1, "a", "A", "F=1") + line(2, "b", "B", "F=2|G=1") + line(3, "a", "A", "_") + "\n")
    corpus = data.read_whole(file)
    assert plain(corpus) == [[[("a", "A", "F=1"), ("b", "B", "F=2|G=1"), ("a", "A", "_")]]]
    assert (corpus.words, corpus.tags, corpus.feats) == (["a", "b"], ["A", "B"], ["F=1", "F=2|G=1", "_"])
    assert corpus.sentence(0) == (["a", "b", "a"], ["A", "B", "A"])
    assert all(isinstance(getattr(corpus, name), np.memmap) for name in data.ARRAYS)


def test_the_sample_is_read_alike_by_nerus(tmp_path):
    path = tmp_path / "sample.conllu.gz"
    path.write_bytes(gzip.compress(sample.text(), 1))
    alike(data.read_whole(path), path)
    same(data.read_whole(path), data.load("sample", 0).corpus)


@pytest.mark.real_data
def test_the_stand_in_is_read_alike_by_nerus():
    alike(data.read_whole(Path(os.environ["ETUDE_DATA"]) / NERUS), Path(os.environ["ETUDE_DATA"]) / NERUS)


def alike(corpus, path):
    """The `nerus` package has a reader of its own."""
    ours = [[[(form, tag) for form, tag, _ in sentence] for sentence in doc] for doc in plain(corpus)]
    theirs = list(load_nerus(str(path)))
    assert ours == [[[(token.text, token.pos) for token in sent.tokens] for sent in doc.sents] for doc in theirs]
    feats = [feats for doc in plain(corpus) for sentence in doc for _, _, feats in sentence]
    known = [token.feats for doc in theirs for sent in doc.sents for token in sent.tokens]
    pairs = [{} if x == "_" else dict(pair.split("=") for pair in x.split("|")) for x in feats]
    assert pairs == [x or {} for x in known]


@pytest.mark.real_data
def test_a_treebank():
    corpus = data.read_whole(Path(os.environ["ETUDE_DATA"]) / TAIGA)
    assert (len(corpus.word_ids), len(corpus.sentences) - 1, len(corpus.documents) - 1) == (10094, 945, 2)
    assert corpus.sentence(1) == (["Ставь", "❤️"], ["NOUN", "SYM"])


@pytest.mark.real_data
def test_the_stand_in():
    got = data.load("nerus", 0)
    assert len(got.corpus.word_ids) == 43772 and len(got.corpus.sentences) == 3144 and len(got.corpus.documents) == 394
    assert got.description == (
        "nerus, 2,519 / 312 / 312 sentences (35,237 / 4,047 / 4,488 words) to train, validate and test"
    )


# --- the fast way and the slow way


def slowly(text, documents=0):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conllu.Reader, "fast", lambda self, block: None)
        return read(text, documents)


def outcome(way, *args):
    try:
        return way(*args)
    except UserError as error:
        return str(error)


def made_up(draw, odd):
    """A text in which there is everything; with `odd` some of it out of place."""
    lines = []
    for _ in range(draw.randrange(1, 12)):
        for _ in range(draw.randrange(3)):
            lines.append(draw.choice(["# newdoc", "#newdoc id = 1", "# text = x", "#", "#  newdoc", "# n", ""]))
        for i in range(1, draw.choice([2, 3, 12, 120])):
            form, tag, feats = (
                draw.choice(["a", "б", "10 0", "_"]),
                draw.choice("ABC"),
                draw.choice(["_", "F=1", "Г=2"]),
            )
            lines.append(line(i, form, tag, feats)[:-1])
            if draw.random() < 0.01:
                lines.insert(-1, line(f"{i}-{i + draw.randrange(2)}", "x", "_")[:-1])
        lines.append("")
    text = "\n".join(lines).encode()
    for _ in range(draw.randrange(3) if odd else 0):
        at = draw.randrange(len(text))
        text = text[:at] + draw.choice([b"\t", b"\n", b"", b"1", b"_", b"\xff", b"#", b"\t\t", b"0"]) + text[at + 1 :]
    if draw.random() < 0.2:
        text = text.replace(b"\n", b"\r\n")
    return text


@pytest.mark.parametrize("odd", [False, True])
def test_fast_is_slow(odd, monkeypatch):
    draw = random.Random(odd)
    read_, refused, fast = 0, 0, 0

    def counting(self, block, original=conllu.Reader.fast):
        nonlocal fast
        chunk = original(self, block)
        fast += chunk is not None
        return chunk

    monkeypatch.setattr(conllu.Reader, "fast", counting)
    for _ in range(300):
        text = made_up(draw, odd)
        n = draw.choice([0, 0, 1, 2, 5])
        monkeypatch.setattr(conllu, "BLOCK", 1 << 20)
        want = outcome(slowly, text, n)
        for block in (1 << 20, draw.randrange(5, 2000)):
            monkeypatch.setattr(conllu, "BLOCK", block)
            got = outcome(read, text, n)
            if isinstance(want, str):
                assert got == want
                refused += 1
            else:
                same(got, want)
                read_ += 1
    assert read_ > 150 and fast > 150 and (refused > 100) == odd


@pytest.mark.real_data
@pytest.mark.parametrize("name", [NERUS, TAIGA])
def test_fast_is_slow_on_real_files(name):
    text = (Path(os.environ["ETUDE_DATA"]) / name).read_bytes()
    text = gzip.decompress(text) if name == NERUS else text
    for n in (0, 1, 2):
        same(read(text, n), slowly(text, n))


# --- what is refused

GOOD = sentence("a", "b")  # three lines
MALFORMED = {
    "nine columns": (GOOD + "1\ta\t_\tX\t_\t_\t0\troot\t_\n", 4, "9 columns instead of 10"),
    "eleven columns": (GOOD + line(1, "a")[:-1] + "\t_\n", 4, "11 columns"),
    "spaces for tabs": (GOOD + line(1, "a").replace("\t", " "), 4, "1 columns"),
    "a line of spaces": (GOOD + "  \n", 4, "1 columns"),
    "as many tabs in all": (line(1, "a")[:-1] + "\t_\n" + line(2, "b").replace("\t_\n", "\n"), 1, "11 columns"),
    "an ID left out": (GOOD + line(1, "a") + line(3, "b"), 5, "the ID is '3', but word 2"),
    "no empty line": (GOOD + line(1, "a") + line(1, "b"), 5, "the ID is '1', but word 2"),
    "from zero": (GOOD + line(0, "a"), 4, "the ID is '0', but word 1"),
    "a leading zero": (GOOD + line("01", "a"), 4, "the ID is '01'"),
    "no ID": (GOOD + line("", "a"), 4, "the ID is ''"),
    "no number": (GOOD + line("x", "a"), 4, "the ID is 'x'"),
    "other digits": (GOOD + line("١", "a"), 4, "the ID is '١'"),
    "a huge ID": (GOOD + line("1" * 5000, "a"), 4, "the ID is '1111111111"),
    "a range too early": (GOOD + line("2-3", "a"), 4, "the ID is '2-3', but word 1"),
    "a range backwards": (GOOD + line(1, "a") + line("2-1", "a"), 5, "the ID is '2-1'"),
    "overlapping ranges": (line("1-2", "a") + line(1, "a") + line("2-3", "a"), 3, "the ID is '2-3'"),
    "a range of too much": (line("1-3", "a") + line(1, "a") + line(2, "b") + "\n", 4, "before word 3"),
    "an empty node too early": (GOOD + line("1.1", "a"), 4, "the ID is '1.1'"),
    "the second empty node": (GOOD + line("0.2", "a"), 4, "the ID is '0.2'"),
    "no word": (GOOD + line("0.1", "a") + "\n", 5, "no word"),
    "an empty form": (GOOD + line(1, ""), 4, "FORM is empty"),
    "an empty tag": (GOOD + line(1, "a", ""), 4, "no tag"),
    "no tag": (GOOD + line(1, "a") + line(2, "b", "_"), 5, "no tag in column UPOS"),
    "no features": (GOOD + line(1, "a", "X", ""), 4, "FEATS is empty"),
    "a comment inside": (GOOD + line(1, "a") + "# b\n" + line(2, "b"), 5, "a comment inside"),
    "no UTF-8 in a form": ((GOOD + line(1, "é")).encode("latin-1"), 4, "byte 0xe9 is not UTF-8"),
    "no UTF-8 in a tag": ((GOOD + line(1, "a", "é")).encode("latin-1"), 4, "byte 0xe9"),
    "half a letter": (GOOD.encode() + line(1, "é").encode().replace(b"\xa9", b""), 4, "byte 0xc3"),
    "256 tags": ("".join(sentence("a", tag=f"T{i}") for i in range(256)), 511, "more than 255 different tags"),
    "something else": ("To be,\nor not\n", 1, "1 columns"),
}


@pytest.mark.parametrize("block", [40, 1 << 20])
@pytest.mark.parametrize("how", MALFORMED)
def test_what_is_refused(how, block, file, cache, monkeypatch):
    monkeypatch.setattr(conllu, "BLOCK", block)
    text, number, says = MALFORMED[how]
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    message = refusal(data.read_whole, file)
    assert message.startswith(f"{file}, line {number}: ") and says in message
    assert [path.name for path in cache.iterdir()] == [".lock"]


@pytest.mark.parametrize("text", ["", "\n\n", "\ufeff", "# a\n\n# newdoc\n"])
def test_no_sentence(text, file, cache):
    file.write_text(text)
    assert refusal(data.read_whole, file) == f"{file} holds no sentence; give a CoNLL-U file"
    assert folders(cache) == []


def test_as_many_tags_as_fit():
    assert len(read("".join(sentence("a", tag=f"T{i}") for i in range(255))).tags) == 255


def test_no_end_in_sight(monkeypatch):
    """A file that is no text at all is not read to its end."""
    monkeypatch.setattr(conllu, "BLOCK", 100)
    monkeypatch.setattr(conllu, "LONGEST", 1000)
    assert refusal(read, b"\0" * 5000).startswith("the text, line 1: 1 columns")
    many = TWO + "".join(line(i, "a") for i in range(1, 100))
    assert refusal(read, many).startswith("the text, line 6: no empty line in the next")


BROKEN = {
    "cut in the middle": lambda whole: whole[: len(whole) // 2],
    "cut before its checksum": lambda whole: whole[:-8],
    "of a wrong checksum": lambda whole: whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:],
    "followed by something else": lambda whole: whole + b"something else",
    "damaged": lambda whole: whole[: len(whole) // 2] + b"\0" * 50 + whole[len(whole) // 2 + 50 :],
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_archive(how, file, cache):
    text = "".join(sentence(f"{i * i}", f"{i * 7919}") for i in range(5000))
    file.write_bytes(BROKEN[how](gzip.compress(text.encode())))
    assert re.fullmatch(
        rf"{file}, (after )?line \d+: (it cannot be read on \(.*\); get the file again|.* ID .*|.*columns.*)",
        refusal(data.read_whole, file),
    )
    assert [path.name for path in cache.iterdir()] == [".lock"]


def test_a_compressed_file_by_any_name(file, tmp_path):
    file.write_bytes(gzip.compress(documents(3).encode()) + gzip.compress(documents(2).encode()))
    (tmp_path / "plain.gz").write_text(documents(3) + documents(2))
    same(data.read_whole(file), data.read_whole(tmp_path / "plain.gz"))


@pytest.mark.parametrize("name", ["missing.conllu", "folder", "./missing", "sampel"])
def test_no_such_data(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    message = refusal(data.load, name, 0)
    assert name.removeprefix("./") in message and ("cannot be read" in message or "choose sample, nerus" in message)


# --- the first documents


def test_the_first_documents(monkeypatch):
    text = documents(10)
    for block in (30, 1 << 20):
        monkeypatch.setattr(conllu, "BLOCK", block)
        for n in (1, 3, 9, 10, 11):
            assert words(read(text, n)) == words(read(text))[:n]
        assert words(read(TWO + TWO, 3)) == [[["a", "b"]], [["c"]], [["a", "b"]]]


def test_no_more_is_read_than_asked_for(file):
    """Whatever follows, it is not looked at."""
    start = documents(3)
    file.write_text(start + "# newdoc\nnonsense\n")
    assert words(data.read_whole(file, 3)) == words(read(start))
    assert "line 29: 1 columns" in refusal(data.read_whole, file)
    whole = gzip.compress((documents(20000)).encode(), 1)
    file.write_bytes(whole[: len(whole) - 20])
    assert len(data.read_whole(file, 100).documents) == 101
    assert "cannot be read on" in refusal(data.read_whole, file)

    class Counting:
        taken = 0

        def read(self, size):
            self.taken += size
            return documents(size // 60).encode()

    stream = Counting()
    assert sum(len(chunk.firsts) for chunk in conllu.Reader("", 5).chunks(stream)) == 10
    assert stream.taken <= 2 * conllu.BLOCK


def test_memory_does_not_grow(file, monkeypatch):
    monkeypatch.setattr(conllu, "BLOCK", 1 << 14)
    peaks = []
    for n in (20, 200):
        file.write_text(documents(20, 20) * n)
        tracemalloc.start()
        data.read_whole(file)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0], peaks


# --- the cache


def test_it_is_read_once(file, cache, capsys):
    file.write_text(documents(3))
    first = data.read_whole(file)
    assert capsys.readouterr() == ("", f"reading {file}, once\n")
    times = file.stat()
    file.write_text(documents(3).replace("d", "x"))  # as long and as old, which is not how files are changed
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    same(data.read_whole(file), first)
    assert capsys.readouterr() == ("", "")
    link = file.with_name("link.conllu")
    link.symlink_to(file)
    same(data.read_whole(str(link)), first)
    assert capsys.readouterr() == ("", "")


def test_a_changed_file_is_read_again(file, cache):
    file.write_text(documents(3))
    old = data.read_whole(file)
    data.read_whole(file, 2)
    other = file.with_name("other.conllu")
    other.write_text(documents(2))
    data.read_whole(other)
    assert len(folders(cache)) == 3
    file.write_text(documents(4))
    assert len(words(data.read_whole(file))) == 4
    assert len(folders(cache)) == 2  # of `other`, and the new one
    assert len(words(old)) == 3  # whoever has the old one open keeps it
    assert len(words(data.read_whole(file, 2))) == 2
    assert len(folders(cache)) == 3


def folders(cache):
    assert {path.name for path in cache.iterdir() if path.name.startswith(".")} == {".lock"}
    return sorted(path.name for path in cache.iterdir() if not path.name.startswith("."))


def test_a_terminal_gets_a_bar(file, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    file.write_text(documents(3))
    data.read_whole(file)
    bar = capsys.readouterr().err
    assert "some.conllu: 100%" in bar and "words/s" in bar


CHILD = """
import os, signal, sys, types
sys.modules["etude.draw"] = types.SimpleNamespace(shuffled=None, uniform=None)  # without torch, which takes seconds
from lstm_pos import conllu, data

conllu.BLOCK = 1000
moment, file = sys.argv[1:]

def before(owner, name, at):
    original, calls = getattr(owner, name), 0
    def wrapper(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == at:
            if moment == "waits":
                print("here", flush=True)
                sys.stdin.readline()
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)
    setattr(owner, name, wrapper)

match moment:
    case "before a piece" | "waits": before(conllu.Reader, "fast", 5)
    case "before the first sync": before(os, "fsync", 1)
    case "before the last sync": before(os, "fsync", len(data.ARRAYS) + len(data.TABLES) + 1)
    case "before the renaming": before(data.Path, "rename", 1)
    case "after the renaming": before(data.files, "sync_folder", 2)
print(len(data.read_whole(file).word_ids))
"""


def child(moment, file):
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, moment, str(file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


MOMENTS = ("a piece", "the first sync", "the last sync", "the renaming")


@pytest.mark.parametrize("moment", [*(f"before {moment}" for moment in MOMENTS), "after the renaming"])
def test_killed(moment, file, cache):
    file.write_text(documents(100))
    with child(moment, file) as process:
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert (cache / ".part").exists() == moment.startswith("before")
    whole = [path for path in cache.iterdir() if not path.name.startswith(".")]
    assert len(whole) == (moment == "after the renaming")
    same(data.read_whole(file), read(documents(100)))
    assert len(folders(cache)) == 1


def test_two_processes_at_once(file, cache):
    """The second waits for the first, and uses what it made; or does it itself, if the first is killed."""
    file.write_text(documents(100))
    for killed in (True, False):
        with child("waits", file) as first:
            assert first.stdout.readline() == "here\n"
            with child("", file) as second:
                assert second.stderr.readline().startswith("waiting for another process")
                if killed:
                    first.kill()
                else:
                    first.stdin.write("\n")
                    first.stdin.flush()
                out, err = second.communicate()
            assert (second.returncode, out) == (0, "400\n")
            assert err == (f"reading {file}, once\n" if killed else "")
            out, err = first.communicate()
            assert (first.returncode, out) == ((-signal.SIGKILL, "") if killed else (0, "400\n"))
        assert len(folders(cache)) == 1
        file.write_text(documents(101)[: len(documents(100))])
        os.utime(file, (1, 1))  # changed


def test_a_cache_that_cannot_be_written(file, cache, monkeypatch):
    file.write_text(documents(3))
    first = data.read_whole(file)
    (cache / ".lock").unlink()
    (cache / ".lock").mkdir()  # as good as a read-only folder, whoever runs this
    same(data.read_whole(file), first)
    remedy = r"cannot be written \(.*\); set XDG_CACHE_HOME to another folder"
    assert re.search(remedy, refusal(data.read_whole, file, 1))
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))
    assert re.search(remedy, refusal(data.read_whole, file))


def test_a_full_disk(file, cache, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    file.write_text(documents(3))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert "(No space left on device)" in refusal(data.read_whole, file)
    assert folders(cache) == []
    assert len(words(data.read_whole(file))) == 3


def test_changed_while_it_is_read(file, cache, monkeypatch):
    def grows(*args, original=data.tables):
        with file.open("a") as out:
            out.write(documents(1))
        return original(*args)

    file.write_text(documents(3))
    with monkeypatch.context() as patch:
        patch.setattr(data, "tables", grows)
        assert "was changed while it was read; run it again" in refusal(data.read_whole, file)
    assert folders(cache) == []
    assert len(words(data.read_whole(file))) == 4


def test_an_incomplete_folder(file, cache):
    file.write_text(documents(3))
    data.read_whole(file)
    (cache / folders(cache)[0] / "tags").unlink()
    assert "is not complete; delete the folder" in refusal(data.read_whole, file)


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("ETUDE_DATA", "/read-only")
    assert data.cache() == tmp_path / "cache" / "etude" / "lstm-pos"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert data.cache() == Path("/home/me/.cache/etude/lstm-pos")


def test_nerus_is_fetched(tmp_path, monkeypatch, capsys):
    there = tmp_path / "there.gz"
    there.write_bytes(gzip.compress(documents(30).encode()))
    monkeypatch.setattr(data, "NERUS", there.as_uri())
    monkeypatch.setenv("ETUDE_DATA", str(tmp_path / "data"))
    for _ in range(2):
        got = data.load("nerus", 0, documents=20)
        assert got.name == "nerus" and len(got.corpus.documents) == 21
    assert (tmp_path / "data" / NERUS).read_bytes() == there.read_bytes()
    assert capsys.readouterr().err.count("fetching nerus") == 1


@pytest.mark.parametrize("n", [1, 3, 5, 9, 0])
def test_the_first_documents_of_a_corpus_are_as_if_read_alone(n):
    text = "".join(documents(1) + sentence(f"w{i}", tag=f"T{i}") for i in range(5))
    same(data.first(read(text), n), read(text, n))
    assert data.fingerprint(data.first(read(text), n)) == data.fingerprint(read(text, n))


def test_fingerprints(file, monkeypatch):
    text = documents(3) + sentence("a", "b")
    file.write_text(text)
    same = data.fingerprint(read(text))
    assert same == data.fingerprint(data.read_whole(file))
    assert (same["documents"], same["sentences"], same["words"]) == (3, 7, 14)
    others = [
        text.replace("s1", "s2", 1),
        text.replace("\tX\t", "\tY\t", 1),
        text.replace("\tX\t", "\tY\t"),
        text.replace("# newdoc id = 1", "# 1"),
        documents(3) + sentence("a") + sentence("b"),
        text + sentence("a"),
    ]
    found = {repr(data.fingerprint(read(other))) for other in [text, *others]}
    assert len(found) == 1 + len(others)
    assert data.fingerprint(read(text.replace("\t_\t0", "\tF=1\t0"))) == same
    monkeypatch.setattr(data, "HASHED", 3)
    assert data.fingerprint(read(text)) == same


# --- the parts


@pytest.mark.parametrize("seed", [0, 1])
def test_the_parts(file, seed):
    file.write_text(documents(50, 3))
    got = data.load(str(file), seed, held_out=0.2)
    parts = [got.train, got.valid, got.test]
    assert [len(part) for part in parts] == [90, 30, 30]
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(150))
    assert all(np.array_equal(part, np.sort(part)) and part.dtype == np.int64 for part in parts)
    in_documents = [{got.corpus.sentence(i)[0][0] for i in part} for part in parts]
    assert [len(names) for names in in_documents] == [30, 10, 10]
    assert len(set.union(*in_documents)) == 50  # so that no document is in two parts
    assert got.description == (f"{file}, 90 / 30 / 30 sentences (180 / 60 / 60 words) to train, validate and test")
    again, other = data.load(str(file), seed, held_out=0.2), data.load(str(file), seed + 1, held_out=0.2)
    assert np.array_equal(again.test, got.test) and not np.array_equal(other.test, got.test)


def test_few_documents(file):
    for n in (1, 2):
        file.write_text(documents(n))
        assert f"{file} has {n} documents" in refusal(data.load, str(file), 0)
    file.write_text(documents(3))
    got = data.load(str(file), 0)
    assert [len(part) for part in (got.train, got.valid, got.test)] == [2, 2, 2]
    assert "1 documents" in refusal(data.load, str(file), 0, 1)
    file.write_text(documents(10))
    assert "none to train on; hold out less" in refusal(data.load, str(file), 0, 0, 0.5)


def test_the_sample(monkeypatch):
    monkeypatch.setattr(conllu.Reader, "slowly", None)  # it is all plain
    got = data.load("sample", 0)
    assert len(got.corpus.documents) == 501 and len(got.train) == 3200
    assert len(data.load("sample", 0, documents=40).corpus.documents) == 41


# --- writing


def test_written_and_read_again():
    draw = random.Random(0)
    sentences = [
        (draw.choices(["слово", "x", "10 000", "_", "#", ",", "«"], k=n), draw.choices(["NOUN", "X"], k=n))
        for n in (1, 2, 30)
    ]
    corpus = read("\n".join(conllu.write(sentences)) + "\n")
    assert [corpus.sentence(i) for i in range(3)] == sentences


def test_written_with_its_text():
    got = list(conllu.write([(["Да", ",", "он", "!"], list("ABCD"))] * 2, ["  Да, он\t! ", "Да , он!"]))
    assert got[:6] == [
        "# sent_id = 1",
        "# text = Да, он !",
        "1\tДа\t_\tA\t_\t_\t_\t_\t_\tSpaceAfter=No",
        "2\t,\t_\tB\t_\t_\t_\t_\t_\t_",
        "3\tон\t_\tC\t_\t_\t_\t_\t_\t_",
        "4\t!\t_\tD\t_\t_\t_\t_\t_\t_",
    ]
    assert [line.rpartition("\t")[2] for line in got[9:13]] == ["_", "_", "SpaceAfter=No", "_"] and got[13] == ""


def test_written_without_tabs():
    assert list(conllu.write([(["a\tb\nc"], ["X"])]))[1:3] == ["# text = a b c", "1\ta b c\t_\tX" + "\t_" * 6]


@pytest.mark.parametrize(
    ("given", "texts"),
    [([([""], ["X"])], None), ([(["a"], ["_"])], None), ([(["a"], [])], None), ([(["a"], ["X"])], ["b"]), ([], ["b"])],
)
def test_what_cannot_be_written(given, texts):
    with pytest.raises(ValueError):  # noqa: PT011 - of several
        list(conllu.write(given, texts))
