"""Makes the fake task, and the toy of core's tests, importable here and in the processes that tests start."""

import os
import sys
from pathlib import Path

import pytest

from etude import cli

cli.yield_when_waiting()  # before a test imports torch: tests, too, run beside others
TESTS = [str(Path(__file__).parents[2] / part / "tests") for part in ("study", "core")]
sys.path[:0] = TESTS
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [*TESTS, os.environ.get("PYTHONPATH")]))
os.environ.pop("UV_RUN_RECURSION_DEPTH", None)  # below `uv run nox` commands would be printed for `uv run`


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Every test runs in a folder of its own: nothing lands in the checkout."""
    monkeypatch.chdir(tmp_path)
