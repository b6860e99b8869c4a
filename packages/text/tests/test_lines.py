"""What looks the same comes in as the same, and what cannot be read is one line."""

import io
import random
import sys
from types import SimpleNamespace

import pytest

from etude.errors import UserError
from etude.text.lines import clean, decoded, ended, lines, spans

SAME = {  # as it is written -> as it should come in
    "мои\u0306 чаи\u0306": "мой чай",
    "e\u0301": "é",
    "my tea\u200b": "my tea",
    "my\u00ad tea": "my tea",
    "a\ufeffb\u2060c": "abc",
    "ca\u200dt, ко\u200cт": "cat, кот",
    "и\u200b\u0306": "й",
    "left\u200e, \u202aright\u202c": "left, right",
    "\u1100\u1161": "가",
    "lone \ud83d": "lone \ufffd",
}
STAYS = [  # compatibility characters, joined emoji, flags, what joins Persian and Hindi letters, marks without a letter
    *(
        "ﬁ ² Ⅳ ｗ",
        "👩\u200d💻 ❤\ufe0f\u200d🔥 👋🏽\u200d👋",
        "\U0001f3f4\U000e0067\U000e007f",
        "می\u200cخواهم",
        "क्\u200dष",
    ),
    *("हिन्दी", "за\u0301мок", "x\u0304", "", "plain\ttext\r\n"),
]


@pytest.mark.parametrize(("written", "seen"), SAME.items())
def test_what_looks_the_same_is_the_same(written, seen):
    assert clean(written) == clean(seen) == seen


@pytest.mark.parametrize("text", STAYS)
def test_what_is_seen_stays(text):
    assert clean(text) == text


def test_each_character_is_found_where_it_was_written():
    draw = random.Random(0)
    letters = [
        *"аиеx ",
        "\u0306",
        "\u0301",
        "\u0308",
        "\u200b",
        "\u00ad",
        "\u200d",
        "क",
        "\u094d",
        "👩",
        "\ud800",
        "\u1100",
    ]
    letters += ["\u1161", "\u0958", "\ufb1d", "각", "a\u0304"]
    for _ in range(5_000):
        text = "".join(draw.choices(letters, k=draw.randrange(10)))
        found = spans(text)
        assert len(found) == len(clean(text)), ascii(text)
        places = [place for span in found for place in span]
        assert places == sorted(places) and all(0 <= place <= len(text) for place in places), ascii(text)
    written = "Мои\u0306 сло\u00adво"
    assert [written[a:b] for a, b in spans(written)] == ["М", "о", "и\u0306", " ", "с", "л", "о", "в", "о"]


def test_lines_are_clean_and_told_by_their_number_where_they_are_no_text(tmp_path, monkeypatch):
    file = tmp_path / "in.txt"
    file.write_bytes("\ufeffчаи\u0306\r\n\u200bb\n".encode())
    assert [*ended(lines(file, "remedy"))] == ["чай", "b"]
    assert [*ended(lines(file, "remedy", as_written=True))] == ["чаи\u0306", "\u200bb"]
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"a\n")))
    assert [*lines("-", "remedy")] == ["a\n"]
    wrong = {
        "a\n".encode("utf-16"): "in.txt, line 1: byte 0xff is not UTF-8, but UTF-16; save the file as UTF-8",
        "some words\n".encode("utf-16-le"): "in.txt, line 1: every other byte is 0 or 4, as in UTF-16",
        "Мама мыла раму\n".encode("utf-16-be"): "in.txt, line 1: every other byte is 0 or 4, as in UTF-16",
        b"fine\n\xff": "in.txt, line 2: byte 0xff is not UTF-8; save the file as UTF-8",
        b"\xed\xa0\x80": "in.txt, line 1: byte 0xed is not UTF-8",  # a surrogate
    }
    for content, says in wrong.items():
        with pytest.raises(UserError, match=says):
            [*decoded("in.txt", io.BytesIO(content))]


@pytest.mark.parametrize("closed", [None, io.TextIOWrapper(io.BytesIO())])
def test_a_closed_standard_input_is_one_line(closed, monkeypatch):
    if closed is not None:
        closed = SimpleNamespace(buffer=closed.buffer)
        closed.buffer.close()
    monkeypatch.setattr(sys, "stdin", closed)
    with pytest.raises(UserError, match="standard input is closed"):
        [*lines("-", "give a file")]


def test_what_cannot_be_opened_is_one_line_with_the_remedy(tmp_path):
    for name in (tmp_path, tmp_path / "gone", tmp_path / ("x" * 300), "nul\0"):
        with pytest.raises(UserError, match=r"cannot be read .*; give a file") as error:
            [*lines(name, "give a file")]
        assert "\n" not in str(error.value)
