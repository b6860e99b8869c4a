"""What `benchmarks/names_runs.py` writes of a run. That the README has its tables is tested in `tests/`."""

import json
from pathlib import Path

import names_runs
import pytest
from rows import rows

from etude.errors import UserError

PACKAGE = Path(__file__).parents[1]


def test_nothing_of_the_test_part_is_in_what_was_tried():
    assert not [column for column in rows(PACKAGE / "results" / "tried.csv")[0] if "test" in column]


def test_a_run_that_is_not_finished_or_not_evaluated_is_no_row(tmp_path):
    with pytest.raises(UserError, match="not finished"):
        names_runs.row("names-rnn train", tmp_path, True)
    scores = {"accuracy": 0.5, "macro_f1": 0.25, "top2": 0.75, "loss": 1.0}
    written = {
        "result.json": {"best_epoch": 2, "valid": scores, "seconds": 1.5},
        "environment.json": [{"seed": 3, "git": "a"}],
    }
    for name, content in written.items():
        (tmp_path / name).write_text(json.dumps(content))
    lines = [json.dumps({"train": {"accuracy": accuracy}}) for accuracy in (0.4, 0.7, 0.6)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    row = names_runs.row("names-rnn train", tmp_path, True)
    assert row["seed"] == 3 and row["valid_macro_f1"] == 0.25 and row["highest_train_accuracy"] == 0.7
    assert "test_accuracy" not in row
    with pytest.raises(UserError, match="not evaluated"):
        names_runs.row("names-rnn train", tmp_path, False)
    (tmp_path / "test.json").write_text(json.dumps(scores | {"accuracy": 0.625}))
    assert names_runs.row("names-rnn train", tmp_path, False)["test_accuracy"] == 0.625
