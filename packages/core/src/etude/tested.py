"""Of which checkpoint the test scores in a run folder are, told without torch: a report reads many folders.

test.json  {...the scores, "checkpoint": {"file": "best.pt", "epoch": 3, "weights": "5f0c...", "config": "09ab..."}}
"""

import hashlib
import zipfile
from pathlib import Path
from typing import Any

MARK = "checkpoint"  # the key of test.json that says of what the scores are
BLOCKS = "test-blocks.json"  # of a run, beside test.json: the evidence of its scores, see `etude.train.evidence`


def digest(file: Path) -> str | None:
    """16 hex digits of the content of a checkpoint; None if there is none that can be read.

    It is a zip file, whose table of contents, with the size and CRC-32 of every record, is read in a millisecond.
    """
    try:
        with zipfile.ZipFile(file) as records:
            content = repr(sorted((one.filename, one.file_size, one.CRC) for one in records.infolist()))
    except (OSError, zipfile.BadZipFile):
        return None
    return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()


def of_config(folder: Path) -> str | None:
    """16 hex digits of the run's config.yaml; None if there is none."""
    try:
        return hashlib.blake2b((folder / "config.yaml").read_bytes(), digest_size=8).hexdigest()
    except OSError:
        return None


def mark(folder: Path, name: str) -> dict[str, Any]:
    """What scores of the checkpoint `name` of the run in `folder` are of, as it is now."""
    weights = digest(folder / "checkpoints" / f"{name}.pt")
    return {"file": f"{name}.pt", "weights": weights, "config": of_config(folder)}


def problem(folder: Path, result: dict[str, Any] | None, test: dict[str, Any]) -> str:
    """Why the scores `test` are not those of the finished run in `folder`, with its `result`; empty if they are."""
    of = test.get(MARK)
    if not isinstance(of, dict) or not of.get("weights"):
        return "test.json does not say of which checkpoint it is"
    if result is None:
        return f"test.json is of epoch {of.get('epoch')} of a run that is not finished"
    kept = digest(folder / "checkpoints" / "best.pt")
    ended = result.get("weights")  # none in a run of an earlier version
    if kept and ended and kept != ended:
        return "checkpoints/best.pt is not the one that the run ended with"
    if of["weights"] != (kept or ended):
        return f"test.json is of another checkpoint (epoch {of.get('epoch')}) than checkpoints/best.pt"
    if of.get("config") != of_config(folder):
        return "test.json was made with another config.yaml"
    return ""
