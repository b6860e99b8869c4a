"""Files -> messages, and what is said when they are not what they should be."""

import csv
import html
import io
import os
import random
import re
import shutil
import sys
import threading
import time
import tracemalloc
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from etude import download
from etude.errors import UserError
from text_ae import data
from text_ae.data import normalised

PARTS = ("train", "valid", "test")


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("ETUDE_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def put(tmp_path):
    """Writes a CSV file: bytes as they are, or rows below a header."""

    def write(content, header=("tag", "message")):
        file = tmp_path / "messages.csv"
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            with file.open("w", encoding="utf-8", newline="") as out:
                csv.writer(out, lineterminator="\n").writerows([header, *content])
        return str(file)

    return write


def numbers(n):
    return [(f"{i % 2}.0", f"message number {i}") for i in range(n)]


def one_line(error):
    message = str(error.value)
    assert "\n" not in message and len(message) < 500
    return message


def everything(got):
    return [text for part in PARTS for text in getattr(got, part).texts]


# --- normalised


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("", ""),
        ("as it is: (Case), @names & #tags!! :)", "as it is: (Case), @names & #tags!! :)"),
        ("  two  spaces\t tab\nline\r\nbreak\u00a0nbsp\u2028\u3000", "two spaces tab line break nbsp"),
        ("i &lt;3 you &amp; &quot;me&quot; &gt;.&gt; &#39;&#x2764;", 'i <3 you & "me" >.> \'\u2764'),
        ("&amp;lt;3 &amp;amp;amp;quot; &amp;amp;amp;amp;amp;amp;lt;", '<3 " <'),
        ("AT&T R&B &unknown; &;", "AT&T R&B &unknown; &;"),
        ("&a\x01mp;l\ufffdt;", "<"),
        ("lost \ufffd and \x00 con\x07trol\x7f \x80\x9f", "lost and control"),
        ("\u00ef\u00bf\u00bd\u00ef\u00bf\u00bdrussian", "russian"),
        ("\u00ef\u00bf\x00\u00bd lost", "lost"),
        ("a surrogate \ud800", "a surrogate"),
        ("&nbsp;&#160;&#0;&#xD800;", ""),
        ("e\u0301 \u65e5\u672c \U0001f469\u200d\U0001f469", "\u00e9 \u65e5\u672c \U0001f469\u200d\U0001f469"),
        ("see http://bit.ly/16qphT now", "see <link> now"),
        ("HTTPS://Example.org/?a=1&amp;b=%20#x", "<link>"),
        ("www.take.com.pt, (http://a.com/b). http://c.d/e...", "<link>, (<link>). <link>..."),
        ("out..http://bit.ly/16qphT and VOTE!www.a.b/", "out..<link> and VOTE!<link>"),
        ("http:// www. Ewww.. awww.sad https didn't http: ...", "<link> www. Ewww.. awww.sad https didn't http: ..."),
        ('"http://a.b" <http://a.b> [http://a.b]', '"<link>" <<link>> [<link>]'),
        ("http://a.b/http://c.d www.http://www.", "<link> <link>."),
        ("a &lt;link&gt;", "a <link>"),
    ],
)
def test_normalised(text, clean):
    assert normalised(text) == clean
    assert normalised(clean) == clean


PIECES = [
    *(
        "&",
        "amp;",
        "lt;",
        "lt",
        "&amp;",
        "&lt;",
        "&gt",
        "#",
        "38",
        ";",
        "#x26;",
        "&#38;",
        "&#0;",
        "&#x80;",
        "x",
        "a",
        "1",
    ),
    *("http", "https", "HTTP://", "http://", ":", "/", "//", "www", "www.", ".", "WWW.a", "<link>", "<", ">", ")", "_"),
    *(
        " ",
        "\u00a0",
        "\n",
        "\x1c",
        "\x85",
        "\0",
        "\x07",
        "\x9f",
        "\ufffd",
        "\u00ef",
        "\u00bf",
        "\u00bd",
        "\u00ef\u00bf",
    ),
    *(
        "\ud83d",
        "\ude00",
        "\u0130",
        "\u017f",
        "\u00df",
        "\u2026",
        "\u200d",
        "\ufeff",
        "&nbsp;",
        "&nGt;",
        "&NotEqualTilde;",
    ),
]


def test_what_is_normalised_stays():
    draw = random.Random(0)
    for _ in range(30_000):
        text = "".join(draw.choices(PIECES, k=draw.randrange(12)))
        clean = normalised(text)
        assert normalised(clean) == clean, (text, clean)
        assert html.unescape(clean) == clean and clean == " ".join(clean.split()), (text, clean)
        assert not re.search("[\0-\x1f\x7f-\x9f\ufffd\ud800-\udfff]|https?://", clean, re.IGNORECASE), (text, clean)
    for _ in range(3_000):  # any characters at all
        text = "".join(chr(draw.choice((draw.randrange(256), draw.randrange(0x110000)))) for _ in range(40))
        assert normalised(normalised(text)) == normalised(text), text


def test_long_texts_take_no_long():
    """Linear time: nothing here looks back and forth."""
    n = 500_000
    start = time.process_time()
    assert normalised("&" + "amp;" * n + "lt;") == "<"
    assert normalised("http://" + "!" * n + "http://" * n + "." * n) == "<link>" + "." * n
    assert normalised(" \0" * n) == ""
    assert normalised("www." * n + "w") == "<link>"
    assert normalised("w" * n + "&" * n) == "w" * n + "&" * n
    assert time.process_time() - start < 5


# --- lines


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"", []),
        (b"\n", [""]),
        (b"one", ["one"]),
        (b"one\n", ["one"]),
        (b"one\n\ntwo\n\n", ["one", "", "two", ""]),
        (b"one\r\n\r\ntwo\r\n", ["one", "", "two"]),
        (b"\r", [""]),
        (b"one\rtwo\x0b\x0c\x1c", ["one\rtwo\x0b\x0c\x1c"]),
        ("a\u2028b\u2029c\x85d\n".encode(), ["a\u2028b\u2029c\x85d"]),
        (b"\xef\xbb\xbfone\ntwo", ["one", "two"]),
        (b"\xef\xbb\xbf", []),
        (b"\xef\xbb\xbf\n", [""]),
        (b'"quoted, ""too""" &amp; nul \0', ['"quoted, ""too""" &amp; nul \0']),  # no CSV, and not normalised
    ],
)
def test_lines(tmp_path, monkeypatch, content, lines):
    file = tmp_path / "texts.txt"
    file.write_bytes(content)
    assert data.read_lines(file) == data.read_lines(str(file)) == lines
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert data.read_lines("-") == lines


def test_as_many_texts_as_lines(tmp_path):
    """Against a count that knows nothing of text: a line is what ends in a line feed, and what follows the last."""
    draw = random.Random(0)
    for _ in range(300):
        pieces = [b"\n", b"\r\n", b"\r", b'"', b"a", b" ", b"\0", "\u2028".encode(), b"\x0c"]
        content = b"".join(draw.choices(pieces, k=draw.randrange(12)))
        (tmp_path / "texts.txt").write_bytes(content)
        expected = content.count(b"\n") + (content != b"" and not content.endswith(b"\n"))
        assert len(data.read_lines(tmp_path / "texts.txt")) == expected, content


def test_lines_that_cannot_be_read(tmp_path, monkeypatch):
    file = tmp_path / "texts.txt"
    for make, says in (
        (lambda: None, r"texts.txt cannot be read \(No such file or directory\); give a text file, one text a line"),
        (
            lambda: file.write_bytes("é\nfine\r\nbroken ".encode() + b"\xff\nmore"),
            "line 3: byte 0xff is not UTF-8; save",
        ),
        (lambda: file.write_text("cut é", encoding="latin-1"), "line 1: byte 0xe9 is not UTF-8"),
        (lambda: (file.unlink(), file.mkdir()), r"cannot be read \(Is a directory\)"),
    ):
        make()
        with pytest.raises(UserError, match=says) as error:
            data.read_lines(file)
        assert one_line(error).startswith(str(file))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\n\xfe")))
    with pytest.raises(UserError, match="^standard input, line 2: byte 0xfe is not UTF-8"):
        data.read_lines("-")


# --- CSV files


def test_a_file(put):
    got = data.load(put(numbers(100)), 3)
    assert [len(getattr(got, part).texts) for part in PARTS] == [80, 10, 10]
    assert got.classes == ["0.0", "1.0"] and sorted(everything(got)) == sorted(text for _, text in numbers(100))
    for part in PARTS:
        messages = getattr(got, part)
        assert messages.labels.dtype == np.int64 and messages.labels.shape == (len(messages.texts),)
        place = [int(text.split()[-1]) for text in messages.texts]
        assert place == sorted(place) and [i % 2 for i in place] == messages.labels.tolist()
    assert got.description == (
        f"{got.name}, 80 / 10 / 10 messages to train, validate and test "
        "(left out: 0 repeats, 0 empty after normalising)"
    )


@pytest.mark.parametrize(
    ("content", "texts", "tags"),
    [
        (b"tag,message\n1,a\n2,b\n3,c\n", "abc", "123"),
        (b"tag,message\r\n1,a\r\n2,b\r\n3,c", "abc", "123"),
        (b"\xef\xbb\xbfmessage,id,tag\na,7,x\nb,8, y \nc,9,x", "abc", "xyx"),
        (b'"tag","message"\n\n"1","a"\n\n\n2,"b"\n3,"c"\n\n', "abc", "123"),
        (b'tag,message\nx,"one, ""two""\r\nthree"\nx," \'b"\nx, "c"', ['one, "two"\r\nthree', " 'b", ' "c"'], "xxx"),
        (b'id,message,tag\n"1\n2",a,x\n"\n\n",b,x\n,c,x', "abc", "xxx"),
        ("tag,message\nü,日本\nü,🎬\nü,e\u0301\x85\u2028".encode(), ["日本", "🎬", "\u00e9\x85\u2028"], "üüü"),
    ],
)
def test_what_csv_can_hold(put, content, texts, tags):
    got, labels, classes = data.read_csv(Path(put(content)))
    assert got == list(texts) and [classes[label] for label in labels] == list(tags)
    assert classes == sorted(set(tags)) and labels.dtype == np.int64


def test_as_the_module_reads_it(put):
    """Any texts, written and read by the csv module."""
    draw = random.Random(0)
    pieces = ["a", " ", '"', ",", "\n", "\r\n", "'", ";", "\t", "é", "\u2028", "\\"]
    rows = [(str(i % 7), "x" + "".join(draw.choices(pieces, k=draw.randrange(9)))) for i in range(3000)]
    texts, labels, classes = data.read_csv(Path(put(rows)))
    assert [(classes[label], text) for label, text in zip(labels, texts, strict=True)] == rows


WRONG = [
    (b"", " is empty, but should begin with a header that names tag and message$"),
    (b"\xef\xbb\xbf", " is empty"),
    (b"\n\n", " is empty"),
    (b"tag,message\n", " has a header but no row; add some messages$"),
    (b"label,text\n0,a", r", line 1: the header has no column tag, but 'label', 'text'; name one tag and one message$"),
    (b"\ntag;message\n0;a", r", line 2: the header has no column tag, but 'tag;message'"),
    (b"tag, message\n0,a", r", line 1: the header has no column message, but 'tag', ' message'"),
    (b"tag,message,tag\n0,a,0", r", line 1: the header has two columns tag, but"),
    (b"c" * 9000 + b"\n0", r", line 1: the header has no column tag, but 'c+\.\.\.; name"),
    (b"tag,message\n0,a\n0\n0,b", ", line 3: the row has 1 columns, the header 2; "),
    (b"tag,message\n0,a\n0,b, and more\n", ", line 3: the row has 3 columns, the header 2; .* commas in quotes$"),
    (b'tag,message\n0,"a\nb\r\nc"\n0,"d"\n0,\n', ", line 6: the message is empty; fill it in, or delete the row$"),
    (b'tag,message\n0,"a\n\n"\n\n\n0," \t\n"\n', ", line 7: the message is empty"),
    ("tag,message\n0,\u00a0\n".encode(), ", line 2: the message is empty"),
    (b"tag,message\n0,a\n,b\n", ", line 3: the tag is empty; fill it in, or delete the row$"),
    (b"tag,message\n0,a\n ,b\n", ", line 3: the tag is empty"),
    (b'tag,message\n0,a\n0,"b" c\n', r", line 3: the row cannot be read \(quotes, .*\); put fields in quotes"),
    (b'tag,message\n0,"a\n\n"\n0,"b\n0,c\n', r", line 5: the row cannot be read \(quotes, unexpected end of data\)"),
    (b'tag,message\n0,"a\n0,"b"\n0,c', r", line 2: the row cannot be read \(quotes, "),
    (b"tag,message\r0,a\r0,b\r0,c", r", line 1: the row cannot be read \(a \\r outside of quotes ends no line\)"),
    (b"tag,message\n0,a\rb\n", r", line 2: the row cannot be read \(a \\r outside"),
    (
        b"tag,message\n0,a\n0," + b"x" * 10_001,
        ", line 3: the message has 10,001 characters, a message may have 10,000; ",
    ),
    (b"tag,message\n0,a\n0," + b"x" * 200_000, ", line 3: a field has more than 131,072 characters, a message may"),
    (b'tag,message\n0,a\n0,"' + b"x\n" * 200_000, ", line 3: a field has more .* close the quote"),
    (b"tag,message\n0,a\n0,b\nc\xe9", ", line 4: byte 0xe9 is not UTF-8; save the file as UTF-8$"),
    (b'tag,message\n0,"a\n\n\xff', ", line 4: byte 0xff is not UTF-8"),
    ("tag,message\n0,a".encode("utf-16"), ", line 1: byte 0xff is not UTF-8"),
    (
        "tag,message\n0,a".encode("utf-16-le"),
        ", line 1: every other byte is 0 or 4, as in UTF-16; save the file as UTF-8$",
    ),
    (b"tag,message\n0,a\n0,b\0c", ", line 3: the row holds a NUL byte"),
    (
        b"tag,message\n0,a\n0,b\n0,A \n",
        r" has 2 distinct messages \(left out: 1 repeats, 0 empty .*\), but .*; add some$",
    ),
]


@pytest.mark.parametrize(("content", "says"), WRONG)
def test_a_wrong_file(put, content, says):
    limit = csv.field_size_limit()
    name = put(content)
    with pytest.raises(UserError, match=f"^{re.escape(name)}{says}") as error:
        data.load(name, 0)
    one_line(error)
    assert csv.field_size_limit() == limit


def test_ten_thousand_characters_are_allowed(put):
    got = data.load(put([*numbers(9), ("0.0", "ü" * 10_000)]), 0)
    assert "ü" * 10_000 in everything(got)


def test_any_bytes_are_read_or_refused(put):
    draw = random.Random(0)
    good = b"".join(b'%d.0,"message, number\n%d"\n' % (i % 2, i) for i in range(20))
    pieces = [b'"', b'""', b",", b"\n", b"\r", b"\0", b"\xff", b"\xc3", b"tag", b"", b"x" * 10_001, b"\xef\xbb\xbf"]
    outcomes = []
    for _ in range(500):
        content = b"tag,message\n" + good
        for _ in range(draw.randrange(1, 4)):
            i = draw.randrange(len(content))
            content = content[:i] + draw.choice(pieces) + content[i + draw.randrange(3) :]
        name = put(content)
        try:
            data.load(name, 0)
            outcomes.append("read")
        except UserError as error:
            outcomes.append(str(error).removeprefix(name))
    assert "\n" not in "".join(outcomes) and "read" in outcomes
    assert len({re.sub("[^a-z ]", "", outcome)[:20] for outcome in outcomes}) > 5


@pytest.mark.parametrize("name", ["folder/none.csv", "none.csv", "NONE.CSV", "./none", "x" * 5000 + ".csv"])
def test_no_file(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"cannot be read \(.*\); give a CSV file with the columns tag and message$"):
        data.load(name, 0)


def test_what_is_no_name(tmp_path, monkeypatch, home):
    monkeypatch.chdir(tmp_path)
    for name in ("twiter", "", "x" * 5000):
        with pytest.raises(UserError, match="^there is no data set '.*'; choose sample, twitter, or the path of a CSV"):
            data.load(name, 0)
    (tmp_path / "plain").write_text("tag,message\n0,a\n0,b\n0,c")  # a file is one whatever it is called
    assert sorted(everything(data.load("plain", 0))) == ["a", "b", "c"]
    (tmp_path / "folder").mkdir()
    (tmp_path / "sample").mkdir()  # and a folder called like a data set is none
    assert len(data.load("sample", 0).train.texts) == 6000
    with pytest.raises(UserError, match=r"^folder cannot be read \(Is a directory\)"):
        data.load("folder", 0)


# --- the parts


def test_the_split_follows_the_seed(put):
    name = put(numbers(200))
    first, same, other = (data.load(name, seed) for seed in (1, 1, 2))
    for part in PARTS:
        assert getattr(first, part).texts == getattr(same, part).texts != getattr(other, part).texts
        assert (getattr(first, part).labels == getattr(same, part).labels).all()
    assert len(set(everything(other))) == 200
    for held_out, sizes in ((0.1, [160, 20, 20]), (0.2, [120, 40, 40]), (0.001, [198, 1, 1])):
        got = data.load(name, 1, held_out)
        assert [len(getattr(got, part).texts) for part in PARTS] == sizes


@pytest.mark.parametrize(("n", "held_out", "fine"), [(3, 0.1, True), (3, 0.4, True), (4, 0.4, False), (10, 0.5, False)])
def test_few_messages(put, n, held_out, fine):
    name = put(numbers(n))
    if fine:
        assert all(getattr(data.load(name, 0, held_out), part).texts for part in PARTS)
    else:
        with pytest.raises(UserError, match=f"^of the {n} messages of .* leave none to train on; hold out less$"):
            data.load(name, 0, held_out)


ODD = [
    ("0", "Good &amp; bad"),
    ("1", " good \n&amp;amp; BAD"),
    ("1", "GOOD & bad\x07"),
    ("0", "see http://a.b/c"),
    ("0", "See  www.elsewhere.org"),
    ("0", "\x07\x01"),
    ("1", "&#0; \u00ef\u00bf\u00bd"),
    ("0", "STRASSE"),
    ("1", "straße"),
    ("2", "another"),
]


def test_no_message_is_in_two_parts(put):
    name = put(ODD)
    got = data.load(name, 0)
    assert sorted(everything(got)) == ["Good & bad", "STRASSE", "another", "see <link>"]
    assert "(left out: 4 repeats, 2 empty after normalising)" in got.description
    assert got.classes == ["0", "1", "2"]  # tags of messages that were left out are tags


def test_raw_texts_in_the_same_parts(put):
    name = put([*ODD, *(("0", f"  Message {i}\n&lt;3 \x07") for i in range(50))])
    clean, raw = data.load(name, 4), data.load(name, 4, normalise=False)
    assert clean.description == raw.description
    written = {*data.read_csv(Path(name))[0]}
    for part in PARTS:
        cleaned, kept = getattr(clean, part), getattr(raw, part)
        assert [normalised(text) for text in kept.texts] == cleaned.texts != kept.texts
        assert (kept.labels == cleaned.labels).all() and set(kept.texts) <= written


def test_as_many_messages_as_asked_for(put):
    name = put([*numbers(100), *numbers(50)])
    whole = data.load(name, 0)
    got, same, other = (data.load(name, seed, messages=40) for seed in (0, 0, 1))
    assert [len(getattr(got, part).texts) for part in PARTS] == [32, 4, 4]
    assert everything(got) == everything(same) and {*everything(got)} < {*everything(whole)}
    assert {*everything(got)} != {*everything(other)}
    assert "(drawn from 100; left out: 50 repeats, 0 empty" in got.description
    for more in (0, 100, 1000):
        again = data.load(name, 0, messages=more)
        assert everything(again) == everything(whole) and again.description == whole.description
    with pytest.raises(UserError, match="^2 messages are too few, .*; use 3 or more$"):
        data.load(name, 0, messages=2)


def test_messages_of_too_many_characters_are_left_out(put):
    name = put([*(("0", "x" * n) for n in range(1, 21)), ("1", "&lt;" * 5)])
    got = data.load(name, 0, 0.2, longest=5)
    assert sorted(everything(got)) == ["<<<<<", *("x" * n for n in range(1, 6))]  # counted as they are read
    assert got.description.endswith("(left out: 0 repeats, 0 empty after normalising, 15 of more than 5 characters)")
    assert everything(data.load(name, 0, 0.2, longest=20)) == everything(data.load(name, 0, 0.2))
    with pytest.raises(UserError, match="has 1 distinct messages .* 20 of more than 1 characters"):
        data.load(name, 0, longest=1)
    for part in PARTS:
        whole, short = (getattr(data.load("sample", 0, longest=n), part) for n in (0, 30))
        kept = [(text, label) for text, label in zip(whole.texts, whole.labels, strict=True) if len(text) <= 30]
        assert [*zip(short.texts, short.labels, strict=True)] == kept and 0 < len(kept) < len(whole.texts)
    with pytest.raises(UserError, match="no part of the sample may be empty"):
        data.load("sample", 0, longest=1)


def test_the_sample(home):
    got = data.load("sample", 0)
    assert [len(getattr(got, part).texts) for part in PARTS] == [6000, 750, 750] and got.classes == ["0.0", "1.0"]
    assert got.description == "sample, 6,000 / 750 / 750 messages to train, validate and test"
    for part in PARTS:
        messages = getattr(got, part)
        assert messages.labels.dtype == np.int64 and messages.labels.mean() == 0.5
    assert everything(got) == everything(data.load("sample", 1, 0.3, normalise=False, messages=10_000))
    assert not home.exists()


@pytest.mark.parametrize(
    ("messages", "sizes"), [(1000, [800, 100, 100]), (3, [1, 1, 1]), (7499, [5999, 750, 750]), (7494, [5996, 749, 749])]
)
def test_less_of_the_sample(messages, sizes):
    whole, got = data.load("sample", 0), data.load("sample", 0, messages=messages)
    for part, n in zip(PARTS, sizes, strict=True):
        assert getattr(got, part).texts == getattr(whole, part).texts[:n] and len(getattr(got, part).texts) == n
        assert (getattr(got, part).labels == getattr(whole, part).labels[:n]).all()
    with pytest.raises(UserError, match="^2 messages are too few"):
        data.load("sample", 0, messages=2)


# --- Sentiment140, from a server of our own


def rows(n=30):
    """In the real form: sorted by polarity, every field quoted, entities escaped, a space at the end."""
    for i in range(n):
        polarity = "0" if i < n // 2 else "4"
        yield (
            polarity,
            str(1467810369 + i),
            "Mon Apr 06 22:19:45 PDT 2009",
            "NO_QUERY",
            f"user{i}",
            f"caf\xe9 &amp; {i} ",
        )


def member(*more, n=30):
    content = io.StringIO()
    csv.writer(content, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([*rows(n), *more])
    return content.getvalue().encode("latin-1")


def packed(content=None, name=data.MEMBER, kind=zipfile.ZIP_DEFLATED):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", kind) as whole:
        whole.writestr("testdata.manual.2009.06.14.csv", b'"2","3","x","y","z","neutral"\n')
        whole.writestr(name, member() if content is None else content)
    return archive.getvalue()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.headers.get("Range"))
        body = self.server.body
        first = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - first))
        self.send_header("ETag", '"one version"')  # without it no half could be relied on, as nobody published a hash
        self.end_headers()
        self.server.answer(self, body[first:])

    def log_message(self, format, *args):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """A client that hangs up is what these tests are about."""


def whole(request, body):
    request.wfile.write(body)


def half(request, body):
    request.wfile.write(body[: len(body) // 2])


def stalled(request, body):
    half(request, body)
    request.wfile.flush()
    request.server.over.wait(30)


def slow(request, body):
    for i in range(0, len(body), 97):
        request.wfile.write(body[i : i + 97])
        request.wfile.flush()
        time.sleep(0.001)


@pytest.fixture
def server(home, monkeypatch):
    """Stands where Stanford's is."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server(("127.0.0.1", 0), Handler)
    server.asked, server.body, server.answer, server.over = [], packed(), whole, threading.Event()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setattr(data, "ARCHIVE", f"http://127.0.0.1:{server.server_port}/trainingandtestdata.zip")
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()
    thread.join()


def files(home):
    return sorted(os.listdir(home / "twitter"))


@pytest.mark.parametrize("answer", [whole, slow])
def test_the_archive(server, home, capsys, answer):
    server.answer = answer
    got = data.load("twitter", 0)
    assert got.description.startswith("twitter, 24 / 3 / 3 messages to train, validate and test (left out: 0 repeats")
    assert sorted(everything(got)) == sorted(f"caf\xe9 & {i}" for i in range(30)) and got.classes == ["0.0", "1.0"]
    for part in PARTS:
        messages = getattr(got, part)
        assert [int(text.split()[-1]) >= 15 for text in messages.texts] == messages.labels.astype(bool).tolist()
    assert files(home) == ["dataset.csv", "trainingandtestdata.zip"]
    content = (home / "twitter/dataset.csv").read_text(encoding="utf-8")
    assert content.startswith("tag,message\n0.0,caf\xe9 &amp; 0 \n") and content.count("\n") == 31
    assert len(capsys.readouterr().err.splitlines()) == 2
    # the second time neither the server nor the archive is asked
    (home / "twitter/trainingandtestdata.zip").unlink()
    assert everything(data.load("twitter", 0)) == everything(got)
    assert len(server.asked) == 1 and capsys.readouterr().err == ""


def test_odd_rows_of_the_archive(server, home):
    rest = ("1", "d", "q", "u")
    odd = [
        ("4", *rest, 'a "quote", a comma and &quot;'),
        ("2", *rest, "neutral"),
        ("0", *rest, "  "),
        ("0", *rest, "nul \0 and \x85 and \xa0 and \xff"),
        ("4", *rest, "two\nlines"),
    ]
    server.body = packed(member(*odd))
    texts = everything(data.load("twitter", 0, normalise=False))
    assert len(texts) == 33 and {odd[0][-1], "nul  and \x85 and \xa0 and \xff", "two\nlines"} < {*texts}


@pytest.mark.parametrize(
    ("answer", "why"), [(half, "it ended after|IncompleteRead"), (stalled, "nothing was received")]
)
def test_a_broken_transfer_is_gone_on_with(server, home, monkeypatch, answer, why):
    monkeypatch.setattr(download, "PATIENCE", 0.3)
    server.answer = answer
    with pytest.raises(UserError, match=f"^twitter could not be downloaded from .*({why}).*--data sample") as error:
        data.load("twitter", 0)
    one_line(error)
    assert files(home) == ["trainingandtestdata.zip.part", "trainingandtestdata.zip.part.version"]
    server.answer = whole
    assert len(everything(data.load("twitter", 0))) == 30
    assert server.asked == [None, f"bytes={len(server.body) // 2}-"]
    assert files(home) == ["dataset.csv", "trainingandtestdata.zip"]


def test_no_server(server, home, monkeypatch):
    monkeypatch.setattr(data, "ARCHIVE", "http://127.0.0.1:1/trainingandtestdata.zip")
    with pytest.raises(UserError, match="^twitter could not be downloaded .* by hand$"):
        data.load("twitter", 0)
    assert files(home) == []


def damaged(fault):
    good = packed()
    at = good.index(data.MEMBER.encode()) + len(data.MEMBER)  # the first compressed byte
    row = ("1", "d", "q", "u", "text")
    match fault:
        case "cut":
            return good[: len(good) // 2]
        case "cut at the end":
            return good[:-6]
        case "a byte changed":
            return good[: at + 40] + bytes([good[at + 40] ^ 1]) + good[at + 41 :]
        case "a byte changed, stored":  # only the checksum knows
            return packed(kind=zipfile.ZIP_STORED).replace(b"user17", b"user71")
        case "encrypted":
            return good.replace(b"PK\x01\x02\x14\x03\x14\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01\x00").replace(
                b"PK\x03\x04\x14\x00\x00\x00", b"PK\x03\x04\x14\x00\x01\x00"
            )
        case "no zip":
            return b"<html>please log in</html>"
        case "nothing":
            return b""
        case "no member":
            return packed(name="readme.txt")
        case "a column missing":
            return packed(member(row[:4]))
        case "a polarity that is none":
            return packed(member(("5", *row)))
        case "no rows but a page":
            return packed(b"<html>please log in</html>")
        case "a giant field":
            return packed(member(("0", *row[:4], "x" * 200_000)))
    raise AssertionError(fault)


FAULTS = {
    "cut": r"is broken \(.+\)",
    "cut at the end": r"is broken \(.+\)",
    "a byte changed": r"is broken \(.+\)",
    "a byte changed, stored": r"is broken \(Bad CRC-32 .+\)",
    "encrypted": r"is broken \(.*(encrypted|password).*\)",
    "no zip": r"is broken \(File is not a zip file\)",
    "nothing": r"is broken \(File is not a zip file\)",
    "no member": "holds no training.1600000.processed.noemoticon.csv",
    "a column missing": ", row 31 of .* is not a tweet with polarity",
    "a polarity that is none": ", row 31 of .* is not a tweet with polarity",
    "no rows but a page": ", row 1 of .* is not a tweet with polarity",
    "a giant field": r"is broken \(field larger than field limit \(131072\)\)",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_archive_put_by_hand(server, home, fault):
    archive = home / "twitter/trainingandtestdata.zip"
    archive.parent.mkdir(parents=True)
    archive.write_bytes(damaged(fault))
    with pytest.raises(
        UserError, match=f"^{archive} ?{FAULTS[fault]}.*; delete it, it will be fetched again$"
    ) as error:
        data.load("twitter", 0)
    one_line(error)
    assert files(home) == [archive.name] and not server.asked
    archive.unlink()  # the remedy
    assert len(everything(data.load("twitter", 0))) == 30


def test_any_damage_is_found_or_does_nothing(home):
    archive = home / "twitter/trainingandtestdata.zip"
    archive.parent.mkdir(parents=True)
    draw = random.Random(0)
    good = packed()
    expected = list(read(archive, good))
    broken = []
    for _ in range(400):
        content = bytearray(good)
        for _ in range(draw.randrange(1, 3)):
            content[draw.randrange(len(content))] = draw.randrange(256)
        try:
            assert list(read(archive, bytes(content))) == expected
        except UserError as error:
            broken.append(str(error))
    assert len(broken) > 100 and "\n" not in "".join(broken)


def read(archive, content):
    archive.write_bytes(content)
    return data.read_archive(archive)


def test_killed_while_writing(home, monkeypatch):
    """What a killed process leaves is not taken for the tweets."""

    def killed(stream):
        raise KeyboardInterrupt

    archive = home / "twitter/trainingandtestdata.zip"
    archive.parent.mkdir(parents=True)
    archive.write_bytes(packed())
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", killed)
        patch.setattr(shutil, "rmtree", lambda *args, **kwargs: None)  # a killed process does not tidy up
        with pytest.raises(KeyboardInterrupt):
            data.load("twitter", 0)
    assert any((home / "twitter").glob(".dataset-*/dataset.csv")) and not (home / "twitter/dataset.csv").exists()
    assert len(everything(data.load("twitter", 0))) == 30


def test_tweets_that_cannot_be_written(server, home, monkeypatch):
    def full(stream):
        raise OSError(28, "No space left on device")

    data.fetch(data.ARCHIVE, home / "twitter/trainingandtestdata.zip", None, "twitter")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(
            UserError, match=r"dataset.csv cannot be written \(No space left.*; set ETUDE_DATA to another"
        ):
            data.load("twitter", 0)
    assert files(home) == ["trainingandtestdata.zip"]
    assert len(everything(data.load("twitter", 0))) == 30


def test_a_big_archive_is_streamed(home, capsys):
    """Memory does not grow with the rows; the bar shows at a terminal only."""
    archive = home / "twitter/trainingandtestdata.zip"
    archive.parent.mkdir(parents=True)
    archive.write_bytes(packed(member(n=40_000)))
    tracemalloc.start()
    data.tweets(home / "twitter")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e6 < len(member(n=40_000))
    assert len(capsys.readouterr().err.splitlines()) == 1
    with (home / "twitter/dataset.csv").open(encoding="utf-8") as made:
        assert sum(1 for _ in made) == 40_001


# --- the real tweets


@pytest.mark.real_data
def test_the_published_tweets():
    file = Path(os.environ["ETUDE_DATA"]) / "twitter" / "dataset.csv"
    times = []
    for _ in range(3):
        start = time.process_time()
        texts, labels, classes = data.read_csv(file)
        times.append(time.process_time() - start)
    assert min(times) < 1
    assert len(texts) == len(labels) == 95_000 and classes == ["0.0", "1.0"] and labels.sum() == 47_508
    clean = [normalised(text) for text in texts]
    assert sum("&" in text and html.unescape(text) != text for text in texts) > 5000
    for text in clean:
        assert normalised(text) == text == html.unescape(text)
        assert not re.search(r"https?://|(?<!\w)www\.\w|[\0-\x1f\x7f-\x9f\xa0\ufffd\n]|  ", text, re.IGNORECASE), text
    assert sum(text.count("<link>") for text in clean) == 4518


@pytest.mark.real_data
def test_the_parts_of_the_published_tweets():
    got, raw, small = (
        data.load("twitter", 0, normalise=n, messages=m) for n, m in ((True, 0), (False, 0), (True, 9000))
    )
    assert (
        got.description
        == raw.description
        == (
            "twitter, 75,381 / 9,423 / 9,423 messages to train, validate and test "
            "(left out: 773 repeats, 0 empty after normalising)"
        )
    )
    for dataset in (got, raw, small):
        marks = [normalised(text).casefold() for text in everything(dataset)]
        assert len(marks) == len(set(marks)) == (9000 if dataset is small else 94_227)
        for part in PARTS:
            assert 0.47 < getattr(dataset, part).labels.mean() < 0.53
    assert [normalised(text) for text in raw.test.texts] == got.test.texts
