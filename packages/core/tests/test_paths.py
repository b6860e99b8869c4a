"""A file that is named means the same file from everywhere."""

import os
from pathlib import Path

import pytest
from toy.__main__ import PACKAGE
from toy.config import Config

from etude import config
from etude.errors import UserError
from etude.study.file import load


def test_configurations_and_studies_may_begin_with_a_byte_order_mark(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("\ufefffit:\n  epochs: 7\n", encoding="utf-8")
    assert config.parse(Config, [str(file)]).fit.epochs == 7
    file.write_text(
        "\ufeffquestion: why?\ncompare: {dropout: [0.1, 0.2]}\nseeds: 2\nmetric: accuracy\n", encoding="utf-8"
    )
    assert load(str(file), PACKAGE.module, PACKAGE.scores).question == "why?"


def test_a_path_means_the_same_from_everywhere(tmp_path, monkeypatch):
    (tmp_path / "here" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "here" / "deep")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    here = str(tmp_path / "here")
    assert config.absolute("d.csv") == config.absolute("./d.csv") == f"{here}/d.csv"
    assert config.absolute("~/d.csv") == str(tmp_path / "home" / "d.csv")
    assert config.absolute("../link/d.csv") == str(Path(os.path.realpath(tmp_path)) / "link" / "d.csv")
    assert config.absolute("../here/a..b.csv") == os.path.realpath(here) + "/a..b.csv"
    assert config.absolute("../link/..") == os.path.realpath(here)
    assert config.absolute(f"{tmp_path}/link/../d.csv") == os.path.realpath(f"{here}/d.csv")  # as the system has it
    assert config.absolute(config.absolute("d.csv")) == f"{here}/d.csv"


def test_what_is_known_by_its_name_is_no_path(tmp_path):
    for name in ("sample", "there"):
        (tmp_path / name).mkdir()

    class Data:
        def __init__(self, name):
            self.name = name
            config.keep_path(self, "name", ".csv", known=("sample",))

    assert Data("sample").name == "sample"
    assert Data("else").name == "else"
    assert Data("").name == ""
    for name in ("there", "./sample", "a/b", "d.csv", "D.CSV"):
        assert Data(name).name == os.path.abspath(name)


def test_from_a_folder_that_is_gone_a_path_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    try:
        with pytest.raises(UserError, match=r"the folder that d\.csv starts from is gone"):
            config.absolute("d.csv")
    finally:
        monkeypatch.chdir(tmp_path)
