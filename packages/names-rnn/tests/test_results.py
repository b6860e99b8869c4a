"""The tables of the README are those that the committed script makes of the committed files."""

import json
import runpy
from pathlib import Path

import pytest

from etude.errors import UserError

PACKAGE = Path(__file__).parents[1]
SCRIPT = runpy.run_path(str(PACKAGE.parents[1] / "benchmarks" / "names_runs.py"))


def test_the_readme_has_the_tables_of_the_results():
    peers, runs, tried = (SCRIPT["rows"](PACKAGE / "results" / f"{name}.csv") for name in ("peers", "runs", "tried"))
    text = (PACKAGE / "README.md").read_text("utf-8")
    for lines in (SCRIPT["table"](peers, runs), SCRIPT["table"](peers, runs, "rows"), SCRIPT["tried"](tried)):
        assert "\n".join(lines) in text
    assert all(SCRIPT["ahead"](peers, runs, protocol) in text for protocol in ("distinct", "rows"))
    assert not [column for column in tried[0] if "test" in column]


def test_a_run_that_is_not_finished_or_not_evaluated_is_no_row(tmp_path):
    with pytest.raises(UserError, match="not finished"):
        SCRIPT["row"]("names-rnn train", tmp_path, True)
    scores = {"accuracy": 0.5, "macro_f1": 0.25, "top2": 0.75, "loss": 1.0}
    written = {
        "result.json": {"best_epoch": 2, "valid": scores, "seconds": 1.5},
        "environment.json": [{"seed": 3, "git": "a"}],
    }
    for name, content in written.items():
        (tmp_path / name).write_text(json.dumps(content))
    lines = [json.dumps({"train": {"accuracy": accuracy}}) for accuracy in (0.4, 0.7, 0.6)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    row = SCRIPT["row"]("names-rnn train", tmp_path, True)
    assert row["seed"] == 3 and row["valid_macro_f1"] == 0.25 and row["highest_train_accuracy"] == 0.7
    assert "test_accuracy" not in row
    with pytest.raises(UserError, match="not evaluated"):
        SCRIPT["row"]("names-rnn train", tmp_path, False)
    (tmp_path / "test.json").write_text(json.dumps(scores | {"accuracy": 0.625}))
    assert SCRIPT["row"]("names-rnn train", tmp_path, False)["test_accuracy"] == 0.625
