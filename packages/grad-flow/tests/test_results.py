"""The tables of the README are those that the committed scripts make of the committed files."""

import runpy
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1]


@pytest.mark.parametrize("name", ["slopes", "trainability"])
def test_the_readme_has_the_table_of_the_results(name):
    script = runpy.run_path(str(PACKAGE.parents[1] / "benchmarks" / f"{name}.py"))
    lines = script["table"](script["rows"](PACKAGE / "results" / f"{name}.csv"))
    assert "\n".join(lines) in (PACKAGE / "README.md").read_text("utf-8")
