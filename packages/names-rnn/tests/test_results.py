"""The table of the README is the one that the committed script makes of the committed files."""

import runpy
from pathlib import Path

PACKAGE = Path(__file__).parents[1]


def test_the_readme_has_the_table_of_the_results():
    script = runpy.run_path(str(PACKAGE.parents[1] / "benchmarks" / "names_runs.py"))
    lines = script["table"](*(script["rows"](PACKAGE / "results" / name) for name in ("peers.csv", "runs.csv")))
    assert "\n".join(lines) in (PACKAGE / "README.md").read_text("utf-8")
