import math
import random
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from etude import config
from etude.config import Fit
from etude.errors import UserError
from etude.study.file import word
from etude.study.question import label


@dataclass(frozen=True)
class Inner:
    """Inner knobs."""

    rate: float = 0.5
    """a rate"""
    sizes: tuple[int, ...] = (1, 2)
    """some sizes"""


@dataclass(frozen=True)
class Config:
    """All kinds of knobs."""

    kind: Literal["a", "none"] = "a"
    """a choice"""
    title: str = "x"
    """a text"""
    limit: float | None = None
    """a limit"""
    quick: bool = False
    """a switch"""
    inner: Inner = field(default_factory=Inner)
    fit: Fit = field(default_factory=Fit)


@pytest.mark.parametrize(
    "flags",
    [
        "",
        "--fit.lr 1e-5 --inner.rate 1e30 --inner.sizes 7 8 9 --kind none --quick",
        "--limit inf --title 'two words: \"a\" # б 😀' --no-quick",
        "--limit=-1e-3 --title=-x --inner.sizes 5 --fit.save_every 0.5",
        "--inner.rate 0.1 --inner.rate 0.2",
    ],
)
def test_save_writes_what_parse_reads_back(flags, tmp_path):
    parsed = config.parse(Config, shlex.split(flags))
    config.save(parsed, tmp_path / "c.yaml")
    assert config.parse(Config, [str(tmp_path / "c.yaml")]) == parsed
    assert config.parse(Config, config.to_flags(config.flatten(parsed) | {"limit": str(parsed.limit)})) == parsed


def test_a_file_is_a_saved_command_line_and_what_comes_later_wins(tmp_path):
    (tmp_path / "a.yaml").write_text("fit: {lr: 1e-3, epochs: 4}\ninner.rate: 2\nquick: yes\nlimit: null\n")
    (tmp_path / "b.yaml").write_text("fit:\n  epochs: 5\n")
    parsed = config.parse(Config, [str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml"), "--inner.rate", "3"])
    assert (parsed.fit.lr, parsed.fit.epochs, parsed.inner.rate, parsed.quick) == (1e-3, 5, 3.0, True)
    for words in (["--quick", "a.yaml"], ["--fit.lr", "7", "b.yaml"]):
        with pytest.raises(UserError, match=r"[ab]\.yaml'.*; configuration files come before all flags$"):
            config.parse(Config, words)
    assert config.parse(Config, ["--title", "x.yaml"]).title == "x.yaml"
    assert isinstance(parsed.fit.lr, float)
    assert isinstance(parsed.inner.rate, float)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--fit.epoch 3", "unknown flag --fit.epoch: did you mean 'fit.epochs'?"),
        ("--fit.epochs three", "fit.epochs must be a whole number, not 'three'"),
        ("--fit.epochs 3.5", "fit.epochs must be a whole number, not '3.5'"),
        ("--fit.lr", "--fit.lr needs a value: a number"),
        ("--fit.lr 1 2", "--fit.lr takes one value, not '1 2'"),
        ("--kind b", "kind must be one of a, none, not 'b'"),
        ("--inner.sizes 1 x", "inner.sizes must be a list, each a whole number, not '1 x'"),
        ("--quick 1", "'1' belongs to no flag"),
        ("--quick=maybe", "quick must be true or false, not 'maybe'"),
        ("--fit.epochs 0", "fit.epochs must be at least 1, not 0"),
        ("--fit.lr nan", "fit.lr must be at least 0, not nan"),
        ("--fit.keep last --fit.patience 3", "fit.patience 3 waits for a better epoch"),
        ("--fit.warmup 2", "fit.warmup is a part of the run, from 0 to 1, not 2.0"),
        ("nowhere.yaml", "there is no configuration 'nowhere.yaml'"),
    ],
)
def test_wrong_flags_are_named(flags, message):
    with pytest.raises(UserError) as error:
        config.parse(Config, flags.split())
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fit:\n  epochs: many\n", "line 2: fit.epochs must be a whole number, not 'many'"),
        ("quick: 7\n", "line 1: quick must be true or false, not '7'"),
        ("kind: a\nfit:\n  lrr: 1\n", "line 3: unknown key fit.lrr: did you mean 'fit.lr'?"),
        ("fit: 3\n", "line 1: unknown key fit"),
        ("fit:\n  lr: [1, 2]\n", "line 2: fit.lr must be a number, not a list"),
        ("title: a\ntitle: b\n", "line 2: cannot be read as YAML: title is given twice"),
        ("fit: {lr: 1}\nfit.lr: 2\n", "line 2: fit.lr is given twice"),
        ("[a]: 1\n", "line 1: cannot be read as YAML: a key has to be a word"),
        ("fit: &a\n  lr: *a\n", "cannot be read as YAML"),
        ("- a\n", "expected lines of the form"),
        ("a: [\n", "cannot be read as YAML"),
        ("a: \0\n", "cannot be read as YAML"),
    ],
)
def test_wrong_files_are_named_with_key_and_line(text, message, tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as error:
        config.parse(Config, [str(file)])
    assert str(file) in str(error.value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_help_shows_every_knob_without_torch(capsys):
    with pytest.raises(SystemExit) as end:
        config.parse(Config, ["--help"], prog="x train")
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert all(f"--{name}" in text for name in config.knobs(Config))
    code = "import sys, etude.config, etude.cli; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_differences_name_keys_and_values():
    a, b = config.parse(Config, []), config.parse(Config, ["--fit.lr", "1", "--title", "y"])
    assert config.differences(a, b) == ["title: x -> y", f"fit.lr: {a.fit.lr} -> 1.0"]
    assert config.differences(a, a) == []
    for one, other in ((1, 1.0), (math.nan, float("nan"))):
        assert config.differences(Config(limit=one), Config(limit=other)) == []


def test_a_preset_is_found_by_name(tmp_path, monkeypatch):
    (tmp_path / "some_package" / "configs").mkdir(parents=True)
    (tmp_path / "some_package" / "__init__.py").touch()
    (tmp_path / "some_package" / "configs" / "best.yaml").write_text("fit: {lr: 7}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("best", "best.yaml", "configs/best.yaml"):
        assert config.parse(Config, [name], package="some_package").fit.lr == 7
    with pytest.raises(UserError, match="one of best"):
        config.parse(Config, ["worst"], package="some_package")
    assert Path("best.yaml").exists() is False
    assert math.isinf(config.parse(Config, ["--limit", "inf"]).limit)


def test_an_old_word_is_read_as_the_new_one(tmp_path):
    (tmp_path / "c.yaml").write_text("fit: {schedule: one-cycle}\n")
    for words in ([str(tmp_path / "c.yaml")], ["--fit.schedule", "one-cycle"], ["--fit.schedule", "linear"]):
        assert config.parse(Config, words).fit.schedule == "linear"
    assert config.parse(Config, ["--title", "one-cycle"]).title == "one-cycle"


@dataclass(frozen=True)
class Source:
    """Where data come from."""

    name: str = "sample"
    """which"""
    limit: int = 0
    """how many"""


@dataclass(frozen=True)
class WithSource:
    """A group whose name alone is a flag."""

    data: Source = field(default_factory=Source)


def test_a_group_alone_stands_for_the_name_in_it(tmp_path):
    (tmp_path / "c.yaml").write_text("data: other\n")
    for words in (["--data", "other"], ["--data=other"], ["--data.name", "other"], [str(tmp_path / "c.yaml")]):
        assert config.parse(WithSource, [*words, "--data.limit", "3"]).data == Source("other", 3)
    assert config.parse(WithSource, ["--data", "x.yaml"]).data.name == "x.yaml"
    with pytest.raises(UserError, match="--data.name needs a value"):
        config.parse(WithSource, ["--data"])


@dataclass(frozen=True)
class Nest:
    """Every type of knob that CONTRIBUTING.md promises, in a group."""

    text: str = "x"
    """a text"""
    maybe_text: str | None = None
    """a text or none"""
    choice: Literal["a", "none", "null", "true", "--b"] = "a"
    """a choice"""
    maybe_choice: Literal["a", "None", "null"] | None = "a"
    """a choice or none"""
    numbered: Literal[1, 2, 10] = 1
    """a choice of numbers"""
    switch: bool = False
    """a switch"""
    maybe_switch: bool | None = None
    """a switch or none"""


@dataclass(frozen=True)
class Every:
    """Every type of knob that CONTRIBUTING.md promises."""

    whole: int = 0
    """a number"""
    maybe_whole: int | None = None
    """a number or none"""
    rate: float = 0.0
    """a number"""
    maybe_rate: float | None = 1.0
    """a number or none"""
    texts: tuple[str, ...] = ("x",)
    """texts"""
    numbers: tuple[float, ...] = (1.0,)
    """numbers"""
    switches: tuple[bool, ...] = (True,)
    """switches"""
    maybes: tuple[int | None, ...] = (1,)
    """numbers or none"""
    maybe_list: tuple[int, ...] | None = (1,)
    """numbers, or no list"""
    nest: Nest = field(default_factory=lambda: Nest(text="other"))


TEXTS = (
    *("", "None", "none", "null", "Null", "~", "\\null", "\\\\null", "true", "False", "yes", "no", "nan", "x.yaml"),
    *(
        "--x",
        "--nest.switch",
        "-h",
        "--",
        "-1",
        "1e-3",
        "007",
        "0x1F",
        "1_000",
        " ",
        " a b ",
        "'",
        '"',
        "=",
        "a=b",
        "-",
    ),
    *(
        "a: b",
        "# no comment",
        "a\nb\n",
        "\t",
        "\x07",
        "\r\n",
        "б😀é",
        "\u2028",
        "[1, 2]",
        "{a: 1}",
        "&a",
        "*a",
        "!!int 3",
    ),
    *("%", "@", "?", "|", ">", "\\"),
)
NUMBERS = (0.0, -0.0, 1e-05, 1e30, -1.5, math.inf, -math.inf, math.nan, 0.1 + 0.2, 1e22, 5e-324)
WHOLE = (0, -1, 7, 10**30, -(10**18))


def some_of(rng: random.Random, values: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(rng.choice(values) for _ in range(rng.randrange(4)))


def drawn(seed: int) -> Every:
    rng = random.Random(seed)
    pick = rng.choice
    nest = Nest(
        text=TEXTS[seed % len(TEXTS)],
        maybe_text=pick([None, *TEXTS]),
        choice=pick(["a", "none", "null", "true", "--b"]),
        maybe_choice=pick(["a", "None", "null", None]),
        numbered=pick([1, 2, 10]),
        switch=pick([True, False]),
        maybe_switch=pick([True, False, None]),
    )
    return Every(
        whole=pick(WHOLE),
        maybe_whole=pick([None, *WHOLE]),
        rate=pick(NUMBERS),
        maybe_rate=pick([None, *NUMBERS]),
        texts=some_of(rng, TEXTS),
        numbers=some_of(rng, NUMBERS),
        switches=some_of(rng, [True, False]),
        maybes=some_of(rng, [None, *WHOLE]) or (1,),
        maybe_list=pick([None, some_of(rng, WHOLE)]),
        nest=nest,
    )


def test_whatever_a_configuration_holds_it_is_read_back_equal_from_a_file_and_from_flags(tmp_path):
    file, refused = tmp_path / "c.yaml", 0
    for seed in range(20 * len(TEXTS)):
        one = drawn(seed)
        config.save(one, file)
        found = config.parse(Every, [str(file)])
        assert repr(found) == repr(one)  # repr: NaN is not equal to itself, and 0.0 is equal to -0.0
        assert config.differences(one, found) == []
        if any(text == "-h" or text.startswith("--") for text in one.texts):
            with pytest.raises(UserError, match="texts: a list on the command line cannot hold '-.*', a flag"):
                config.to_flags(config.flatten(one))
            refused += 1
            continue
        flags = config.to_flags(config.flatten(one))
        assert repr(config.parse(Every, flags)) == repr(one)
        assert repr(config.parse(Every, [str(file), *flags])) == repr(one)
    assert 0 < refused < 8 * len(TEXTS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nest: {text: null}", "nest.text must be a text, not 'null'"),
        ("nest:\n  text:\n", "line 2: nest.text must be a text, not 'null'"),
        ("nest: {switch: null}", "nest.switch must be true or false, not 'null'"),
        ("nest: {numbered: 3}", "nest.numbered must be one of 1, 2, 10, not '3'"),
        ("texts: [a, null]", "texts must be a list, each a text, not 'a null'"),
        ("whole: null", "whole must be a whole number, not 'null'"),
        ("maybe_whole: nul", "maybe-whole must be a whole number or null, not 'nul'"),
        ("nest: {maybe_switch: maybe}", "nest.maybe-switch must be true or false or null, not 'maybe'"),
    ],
)
def test_null_is_none_where_a_knob_can_be_none_and_refused_elsewhere(text, message, tmp_path):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        config.parse(Every, [str(tmp_path / "c.yaml")])
    assert message in str(error.value)


def test_words_for_none_and_for_yes_and_no():
    for none in ("null", "None", "none"):
        assert config.parse(Every, ["--maybe-rate", none]).maybe_rate is None
        assert config.parse(Every, [f"--nest.maybe-switch={none}"]).nest.maybe_switch is None
    assert config.parse(Every, ["--nest.maybe-text", "null"]).nest.maybe_text is None
    assert config.parse(Every, ["--nest.maybe-text", "None"]).nest.maybe_text == "None"
    assert config.parse(Every, ["--nest.maybe-text", "\\null"]).nest.maybe_text == "null"
    assert config.parse(Every, ["--nest.text", "null"]).nest.text == "null"
    for flag, value in (
        ("--nest.maybe-switch", True),
        ("--nest.no-maybe-switch", False),
        ("--nest.maybe-switch=No", False),
    ):
        assert config.parse(Every, [flag]).nest.maybe_switch is value
    assert config.parse(Every, ["--texts", "a.yaml", "b.yaml", "-1"]).texts == ("a.yaml", "b.yaml", "-1")
    assert config.parse(Every, ["--texts"]).texts == ()
    with pytest.raises(UserError, match="nest.text must be a text, not"):
        config.parse(Every, ["--nest.text", "\udcff"])


@dataclass(frozen=True)
class Needed:
    """A knob without a default."""

    name: str
    """which"""


def test_a_knob_without_a_default_is_asked_for():
    assert config.parse(Needed, ["--name", "x"]).name == "x"
    with pytest.raises(UserError, match="--name is missing: it needs a value: a text"):
        config.parse(Needed, [])


def test_a_study_writes_null_and_its_text_as_a_command_line_does():
    for text in ("null", "\\null", "\\\\null", "true", "x"):
        assert label(word(text)) == text
    setting = {
        "nest.maybe-text": word("null"),
        "nest.text": word("\\null"),
        "maybe-rate": word("null"),
    }
    found = config.parse(Every, config.to_flags(setting))
    assert (found.nest.maybe_text, found.nest.text, found.maybe_rate) == (None, "null", None)
    assert config.parse(Every, config.to_flags({"nest.text": word("null")})).nest.text == "null"
