import os

import pytest


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Every test runs in a folder of its own: nothing lands in the checkout."""
    monkeypatch.chdir(tmp_path)
    os.environ.pop("UV_RUN_RECURSION_DEPTH", None)  # below `uv run nox` commands would be printed for `uv run`
