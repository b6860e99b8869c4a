import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from etude.errors import UserError
from qa_category import data, sample
from qa_category.config import Data

REAL = os.environ.get("ETUDE_DATA", "")  # before each test has a place of its own


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ETUDE_DATA", str(tmp_path / "data"))


def table(name, rows, head="question,category"):
    Path(name).write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    return str(Path(name).absolute())


def many(name="shop.csv", count=400):
    return table(name, [f'"Is number {n}, the {word}, good?",{word}' for n in range(count) for word in ("tea", "oil")])


def texts(dataset):
    return [[data.identity(text) for text in part.texts] for part in (dataset.train, dataset.valid, dataset.test)]


def test_the_sample_is_the_same_everywhere_and_its_parts_are_apart():
    dataset = data.load(Data())
    assert [len(part) for part in texts(dataset)] == [2400, 400, 400]
    assert len({text for part in texts(dataset) for text in part}) == 3200
    assert dataset.train.texts[:2] == sample.parts()[0][0][:2]
    assert set(dataset.train.labels.tolist()) == set(range(8))


def test_some_questions_of_the_sample_say_nothing_of_their_category():
    dataset = data.load(Data())
    vague = [text for text in dataset.train.texts if not any(
        word in text.lower() for kinds in sample.KINDS.values() for kind in kinds for word in kind
    )]  # fmt: skip
    assert 0.03 < len(vague) / 2400 < 0.15


def test_parts_of_a_file_depend_on_the_questions_only():
    name = many()
    dataset = data.load(Data(name))
    sizes = [len(part) for part in texts(dataset)]
    assert sum(sizes) == 800 and 40 < sizes[1] < 120 and 40 < sizes[2] < 120
    lines = Path(name).read_text().splitlines()
    other = data.load(Data(table("turned.csv", lines[:0:-1])))
    assert [set(part) for part in texts(other)] == [set(part) for part in texts(dataset)]
    assert [set(part) for part in texts(data.load(Data(name, division=1)))] != [set(part) for part in texts(dataset)]


def test_a_question_that_stands_twice_is_in_one_part():
    rows = [
        f"{form.format(n)},{word}"
        for n in range(200)
        for word in ("tea", "oil")
        for form in ("Is {} good", "is  {} GOOD")
    ]
    dataset = data.load(Data(table("shop.csv", rows)))
    parts = [set(part) for part in texts(dataset)]
    assert not parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2]
    assert sum(map(len, texts(dataset))) == 400  # each once for each of its categories


def test_a_share_of_the_labels_is_of_every_category_and_part_of_a_larger_share():
    name = many()
    whole, tenth, hundredth = (data.load(Data(name, labels=share)) for share in (1.0, 0.1, 0.01))
    assert texts(whole)[1:] == texts(tenth)[1:]
    assert set(hundredth.train.texts) < set(tenth.train.texts) < set(whole.train.texts)
    assert np.bincount(tenth.train.labels).tolist() == [round(n / 10) for n in np.bincount(whole.train.labels)]
    assert sorted(tenth.train.texts + tenth.unlabelled) == sorted(whole.train.texts)


def test_columns_may_stand_in_any_order_among_others():
    name = table("x.csv", ['1,tea,"Is it ""green"", and fresh?"', "2,oil,Is it pressed?"], "id,category,question")
    assert list(data.read_csv(Path(name))) == [('Is it "green", and fresh?', "tea"), ("Is it pressed?", "oil")]


def test_a_category_is_one_line():
    name = table("x.csv", ['Is it green?," green\n  tea "', "Is it pressed?,oil"])
    assert [category for _, category in data.read_csv(Path(name))] == ["green tea", "oil"]
    with pytest.raises(UserError, match=r"x.csv is a table, not a question a line: evaluate RUN --data .*x.csv"):
        data.read_lines(name)


@pytest.mark.parametrize(
    ("rows", "head", "message"),
    [
        (["a,b"], "question,kind", "has no column 'category'"),
        (["a,b", ",b"], "question,category", "line 3: the question is empty"),
        (["a, "], "question,category", "line 2: the category is empty"),
        (["a,b,c"], "question,category", "line 2: it has 3 fields, but the first line has 2"),
        (["a,b,c"], "question,category,question", "has two columns 'question'"),
        (['"a,b'], "question,category", "unexpected end of data"),
        (["a,b", "c,b"], "question,category", "has one category, 'b'"),
        ([], "question,category", "has one category, ''"),
        (["a,b", "c,d"], "question,category", ""),
    ],
)
def test_a_file_that_cannot_be_used_is_told(rows, head, message):
    with pytest.raises(UserError) as error:
        data.load(Data(table("x.csv", rows, head)))
    assert message in str(error.value) and "\n" not in str(error.value) and "x.csv" in str(error.value)


def literals(name, lines):
    path = Path("qa") / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    return path


def test_literals_are_read_and_never_run(capsys):
    path = literals(
        "qa_Tea.json.gz",
        [
            "{'question': u'Is it  green?', 'answer': 'yes'}",
            "{'question': __import__('pathlib').Path('run').touch()}",
            "{'asin': 'x', 'questions': [{'questionText': 'One?'}, {'questionText': 'Two\\u00a0?'}]}",
            "[1, 2]",
            '{"question": null}',
            "{'question': 3}",
            "(" * 300,
            "",
        ],
    )
    assert data.read_literals(path) == ["Is it green?", "One?", "Two ?"]
    assert not Path("run").exists()
    [line] = capsys.readouterr().err.splitlines()
    assert "5 lines are left out" in line and "2, 4, 5, 6, 7" in line
    with pytest.raises(UserError, match="has no question: line 1"):
        data.read_literals(literals("qa_Oil.json.gz", ["{'question': exit()}"]))
    Path("qa/qa_Oil.json.gz").write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match="qa_Oil.json.gz is broken"):
        data.read_literals(Path("qa/qa_Oil.json.gz"))


def test_a_folder_of_published_files_has_a_category_for_each_name():
    literals("qa_Tea.json.gz", [f"{{'question': 'Is tea {n} good?'}}" for n in range(100)])
    literals("QA_Oil.json.gz", [f"{{'questions': [{{'questionText': 'Is oil {n} good?'}}]}}" for n in range(100)])
    dataset = data.load(Data("./qa"))
    assert dataset.categories == ("Oil", "Tea")
    assert sum(map(len, texts(dataset))) == 200


def test_amazon_is_made_once_of_what_is_fetched(monkeypatch):
    asked = []

    def fetch(url, path, digest, what):
        asked.append(url)
        path.parent.mkdir(parents=True, exist_ok=True)
        name = data.category_of(path)
        path.write_bytes(
            gzip.compress("\n".join(f"{{'question': 'Is {name}, {n} good?'}}" for n in range(40)).encode())
        )
        return path

    monkeypatch.setattr(data, "fetch", fetch)
    dataset = data.load(Data("amazon"))
    assert len(asked) == len(set(asked)) == 38 and len(dataset.categories) == 21
    assert sum(map(len, texts(dataset))) == 21 * 40
    assert data.load(Data("amazon")).train.texts == dataset.train.texts and len(asked) == 38


def test_trec_is_latin_1_and_its_test_part_is_its_own(tmp_path):
    folder = tmp_path / "data" / "questions" / "trec"
    folder.mkdir(parents=True)
    rows = [f"{kind}:x{n % 2} What is {kind} {n} ?" for n in range(60) for kind in ("NUM", "HUM")]
    (folder / data.TRAINING).write_bytes("\n".join([*rows, "HUM:x0 Who wrote Caf\xe9 ?"]).encode("latin-1"))
    (folder / data.TEST).write_bytes(b"NUM:x0 What is NUM 7 ?\nHUM:x1 Who is it ?\n")
    dataset = data.load(Data("trec"))
    assert dataset.categories == ("HUM", "NUM") and dataset.test.texts == ["What is NUM 7 ?", "Who is it ?"]
    assert sum(map(len, texts(dataset)[:2])) == 120 and "1 that the test part has too" in dataset.description
    assert "Who wrote Caf\xe9 ?" in dataset.train.texts + dataset.valid.texts
    assert data.load(Data("trec", fine=True)).categories == ("HUM:x0", "HUM:x1", "NUM:x0", "NUM:x1")
    (folder / data.TEST).write_bytes(b"what is it\n")
    with pytest.raises(UserError, match=r"TREC_10.label, line 1"):
        data.load(Data("trec"))


@pytest.mark.real_data
def test_real_trec_has_its_published_sizes(monkeypatch):
    monkeypatch.setenv("ETUDE_DATA", REAL)
    dataset = data.load(Data("trec"))
    assert len(dataset.categories) == 6 and len(dataset.test.texts) == 500
    assert len(list(data.read_trec(Path(REAL) / "questions" / "trec" / data.TRAINING, False))) == 5452


@pytest.mark.real_data
def test_the_published_files_are_read_without_a_line_lost(capsys):
    folder = Path(REAL) / "questions" / "amazon-original"
    assert len(data.read_literals(folder / "qa_Appliances.json.gz")) == 1500
    assert len(data.read_literals(folder / "QA_Video_Games.json.gz")) > 80
    assert not capsys.readouterr().err
