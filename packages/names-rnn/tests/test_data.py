"""Names as they come: archives, folders, the two protocols, and what is known exactly."""

import io
import threading
import zipfile
from collections import Counter, defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from etude.errors import UserError
from names_rnn import data, sample
from names_rnn.__main__ import main
from names_rnn.config import Data
from names_rnn.letters import ASCII, fold, tidy

FOLDED = {  # the examples of PyTorch's tutorial, and what it leaves out
    "Ślusàrski": "Slusarski",
    "O'Néàl": "O'Neal",
    "Weiß": "Wei",
    "Jean-Luc, Jr.": "JeanLuc, Jr.",
    "Maxa/B": "MaxaB",
    "Сатоши": "Satoshi",
    "Щукин": "Shchukin",
    "Е\u0301льин": "Elin",
    "Цой": "Tsoy",
    "Мои\u0306": "Moy",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Writes a folder of languages: three that differ, with more names than a tenth needs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ETUDE_DATA", str(tmp_path))

    def write(**more):
        place = tmp_path / "mine"
        place.mkdir(exist_ok=True)
        endings = {"First": "ov", "Second": "ez", "Third": "ini"}
        for language, ending in endings.items():
            names = [f"{a}{b}{ending}" for a in "BDGKM" for b in ("a", "e", "i", "o", "u", "ya")]
            text = "\n".join([*names, *more.get(language, [])]) + "\n"
            (place / f"{language}.txt").write_text(text, encoding="utf-8")
        return str(place)

    return write


def everything(dataset):
    return [
        (name, label)
        for part in (dataset.train, dataset.valid, dataset.test)
        for name, label in zip(part.names, part.labels.tolist(), strict=True)
    ]


@pytest.mark.parametrize(("name", "folded"), FOLDED.items())
def test_letters_are_folded_as_in_the_lab(name, folded):
    assert fold(name) == folded and set(folded) <= set(ASCII)
    assert len(ASCII) == 57


def test_a_name_is_tidied():
    assert tidy(" See\u00a0 Lee\u200b ") == "See Lee"
    assert tidy("Mu\u0308ller") == "Müller"


@pytest.mark.parametrize("letters", ["ascii", "unicode"])
@pytest.mark.parametrize("name", ["sample", "names"])
def test_distinct_names_stand_in_one_part_only(name, letters, folder, request):
    given = folder(First=["Müller", "Muller", "Muller"], Second=["Müller", "Möller"], Third=["Moller"])
    dataset = data.load(Data(given if name == "names" else name, "distinct", letters), 1)
    places = defaultdict(set)
    for number, part in enumerate((dataset.train, dataset.valid, dataset.test)):
        for seen in part.names:
            places[fold(seen)].add(number)
    assert max(map(len, places.values())) == 1
    pairs = everything(dataset)
    assert len(pairs) == len(set(pairs))
    if name == "names":
        of = {language: {n for n, label in pairs if label == k} for k, language in enumerate(dataset.languages)}
        assert ("Müller" in of["First"]) == (letters == "unicode")
        assert "Muller" in of["First"] and len(of["First"]) == 30 + (2 if letters == "unicode" else 1)


def test_rows_are_all_there_and_may_be_in_two_parts(folder):
    given = folder(First=["Again"] * 50)
    dataset = data.load(Data(given, "rows"), 0)
    counts = Counter(everything(dataset))
    assert counts["Again", 0] == 50 and sum(counts.values()) == 140
    assert "Again" in dataset.train.names and "Again" in dataset.test.names


@pytest.mark.parametrize("protocol", ["distinct", "rows"])
@pytest.mark.parametrize("letters", ["ascii", "unicode"])
def test_each_part_has_its_share_of_every_language_and_one_size_for_all_seeds(protocol, letters):
    sizes = set()
    first = None
    for seed in range(4):
        dataset = data.load(Data("sample", protocol, letters), seed)
        parts = (dataset.train, dataset.valid, dataset.test)
        sizes.add(tuple(len(part.names) for part in parts))
        whole = np.bincount(np.concatenate([part.labels for part in parts]))
        for part, share in zip(parts, (0.8, 0.1, 0.1), strict=True):
            np.testing.assert_allclose(np.bincount(part.labels), whole * share, atol=5)
        assert first != parts[2].names
        first = parts[2].names
    assert len(sizes) == 1


def test_the_same_seed_divides_alike_whatever_the_letters():
    ascii_, unicode_ = (data.load(Data("sample", "distinct", letters), 3) for letters in ("ascii", "unicode"))
    assert [fold(name) for name in unicode_.test.names] == ascii_.test.names


def test_the_ceiling_is_that_of_the_best_of_all_functions():
    """By trying each: every way to give each of three names one of two languages."""
    part = data.Names(["a", "a", "a", "b", "b", "c"], np.array([0, 0, 1, 1, 0, 1]))
    rules = [dict(zip("abc", (i & 1, i >> 1 & 1, i >> 2), strict=True)) for i in range(8)]
    best = max(np.mean([rule[n] == k for n, k in zip(part.names, part.labels, strict=True)]) for rule in rules)
    assert data.ceiling(part) == pytest.approx(best) == pytest.approx(4 / 6)
    assert data.ceiling(part, data.Names(["c"], np.array([0]))) == pytest.approx(4 / 7)


# -- the sample


def test_the_probability_of_a_name_is_how_often_it_is_drawn():
    small = sample.Grammar(1, (1, 2), ("_a", "b", "ab"), ("a", "aa"), ("", "b"), ("", "ba", "a"))
    small = sample.Grammar(1, small.lengths, ("a", "b", "ab"), small.vowels, small.codas, small.endings)
    draws = sample.numbers(5)
    counts = Counter(small.name(draws) for _ in range(20_000))
    for name, count in counts.most_common(30):
        p = small.probability(name)
        assert count / 20_000 == pytest.approx(p, abs=4 * (p / 20_000) ** 0.5)
    assert sum(small.probability(name) for name in counts) == pytest.approx(1, abs=0.01)
    assert small.probability("Zz") == 0


def test_the_sample_overlaps_and_its_best_rule_errs_but_less_than_others():
    languages, rows = sample.rows()
    assert len(languages) == 10 and rows == sample.rows()[1]
    of = defaultdict(set)
    for name, label in rows:
        of[name].add(label)
    assert sum(len(labels) > 1 for labels in of.values()) > 20
    some = rows[::7]
    right = np.mean([sample.best(name) == label for name, label in some])
    assert 0.85 < right < 0.97
    endings = defaultdict(Counter)
    for name, label in rows:
        endings[name[-2:]][label] += 1
    assert np.mean([endings[name[-2:]].most_common(1)[0][0] == label for name, label in some]) < right - 0.05


# -- folders and archives


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has no file Language.txt: it takes two languages or more"),
        ({"One.txt": b"Abc\n"}, "has the names of One only: it takes two languages or more"),
        ({"One.txt": b"Abc\n", "Two.txt": b"\n  \n"}, "Two.txt has no names: write one a line, or delete the file"),
        ({"One.txt": b"Abc\n", "Two.txt": b"Ab\xff\n"}, "Two.txt, line 1: byte 0xff is not UTF-8"),
        ({"One.txt": b"Abc\n", "Two.txt": "Li\n王\n".encode()}, "Two.txt, line 2: '王' has none of the 57 letters"),
        ({"One.txt": b"Abc\n" * 9, "Two.txt": b"Abd\nAbe"}, "has too few names"),
    ],
)
def test_a_folder_that_will_not_do_is_refused_in_one_line(files, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    for name, content in files.items():
        (tmp_path / "mine" / name).write_bytes(content)
    assert main(["train", "--data", "./mine", "--run", "r"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "r").exists()


def test_a_folder_of_other_scripts_is_read_with_unicode(tmp_path):
    for language, letters in (("Chinese", "王李张刘陈杨赵黄周吴"), ("Japanese", "あいうえおかきくけこ")):
        (tmp_path / f"{language}.txt").write_text("\n".join(a + b for a in letters for b in letters), encoding="utf-8")
    dataset = data.load(Data(str(tmp_path), "distinct", "unicode"), 0)
    assert len(everything(dataset)) == 200 and len(dataset.alphabet.letters) == 20
    assert data.ceiling(dataset.test) == 1


def test_an_unreadable_file_is_named(tmp_path, monkeypatch, capsys, folder):
    place = folder()
    (tmp_path / "mine/Second.txt").unlink()
    (tmp_path / "mine/Second.txt").mkdir()
    assert main(["train", "--data", place, "--run", "r"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "Second.txt cannot be read" in line


def archive(**members):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as out:
        for name, text in members.items():
            out.writestr(name.replace("__", "/"), text)
    return content.getvalue()


@pytest.fixture
def server(monkeypatch, tmp_path):
    """Serves `server.body` to whoever asks for PyTorch's archive, and counts how often."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.asked += 1
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.server.body)))
            self.end_headers()
            self.wfile.write(self.server.body)

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        found.asked, found.body = 0, b""
        threading.Thread(target=found.serve_forever, daemon=True).start()
        monkeypatch.setattr(data, "ARCHIVE", f"http://127.0.0.1:{found.server_port}/data.zip")
        monkeypatch.setenv("ETUDE_DATA", str(tmp_path / "data"))
        monkeypatch.chdir(tmp_path)
        yield found
        found.shutdown()


NAMES = {
    f"data__names__{language}.txt": "\n".join(f"{a}{b}{ending}" for a in "BDGKMRST" for b in "aeiou")
    for language, ending in {"Polish": "ski", "Greek": "akis"}.items()
}


def test_the_archive_is_fetched_once_and_only_its_names_are_unpacked(server, tmp_path, capsys):
    odd = {"data__eng-fra.txt": "x", "..__..__names__.hidden.txt": "x", "__MACOSX__names__._Polish.txt": "x"}
    server.body = archive(**NAMES, **odd)
    first = data.load(Data("names"), 0)
    again = data.load(Data("names"), 0)
    assert server.asked == 1 and first.languages == ("Greek", "Polish") == again.languages
    assert len(everything(first)) == 80 and everything(first) == everything(again)
    made = tmp_path / "data/names"
    assert sorted(path.name for path in made.iterdir()) == ["Greek.txt", "Polish.txt"]
    assert {path.name for path in made.parent.iterdir()} <= {"names", "names.zip", "names.zip.lock"}


def test_a_member_named_like_a_way_out_stays_inside(server, tmp_path):
    server.body = archive(**NAMES, **{"..__..__names__Evil.txt": "\n".join(f"Evil{a}" for a in "abcdefghijklmnopqrst")})
    assert "Evil" in data.load(Data("names"), 0).languages
    assert not list(tmp_path.parent.glob("**/names/../Evil.txt")) and (tmp_path / "data/names/Evil.txt").is_file()


@pytest.mark.parametrize("body", [archive(data__x=""), archive(**NAMES)[:-40], b"no archive"])
def test_a_broken_archive_is_told_in_one_line(server, body, capsys):
    server.body = body
    assert main(["train", "--data", "names", "--run", "r"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "holds no names/*.txt" in line or "could not be downloaded" in line
    with pytest.raises(UserError):
        data.load(Data("names"), 0)


# -- the real names


@pytest.mark.real_data
def test_the_real_names_have_the_ceilings_that_are_known():
    for protocol, count, ceiling in (("rows", 20_050, 0.9714), ("distinct", 17_993, 0.9682)):
        dataset = data.load(Data("names", protocol), 0)
        parts = (dataset.train, dataset.valid, dataset.test)
        assert len(dataset.languages) == 18 and sum(len(part.names) for part in parts) == count
        assert data.ceiling(*parts) == pytest.approx(ceiling, abs=5e-5)
        shared = np.mean([name in set(dataset.train.names) for name in dataset.test.names])
        assert shared == 0 if protocol == "distinct" else 0.14 < shared < 0.17
