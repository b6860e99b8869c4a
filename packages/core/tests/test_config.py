import math
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from etude import config
from etude.config import Fit
from etude.errors import UserError


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
    between = config.parse(Config, ["--quick", str(tmp_path / "a.yaml"), "--fit.lr", "7", str(tmp_path / "b.yaml")])
    assert (between.fit.lr, between.fit.epochs, between.inner.rate) == (7, 5, 2)
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
        ("title: a\ntitle: b\n", "line 2: title is given twice"),
        ("- a\n", "expected lines of the form"),
        ("a: [\n", "is no YAML file"),
        ("a: \0\n", "is no YAML file"),
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
