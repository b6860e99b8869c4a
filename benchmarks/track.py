"""How long it takes to send runs to a tracker: 100 folders of 1,000 steps, four curves each, into MLflow with SQLite.

    uv run --all-packages python benchmarks/track.py [--runs N] [--steps N] [--to mlflow|wandb|trackio]

The folders are made here, without training. Beside it stands the same done again, when nothing is new.
"""

import argparse
import json
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from etude import torch_private
from etude.events import EventFile
from etude.track import trackers
from etude.track.command import send
from names_rnn.config import PACKAGE


def make(folder: Path, steps: int, seed: int) -> None:
    (folder / "tb").mkdir(parents=True)
    (folder / "config.yaml").write_text(f"fit:\n  seed: {seed}\n  lr: 0.003\n", "utf-8")
    start = {"started": f"2026-11-28T12:00:{seed:04d}", "command": ["train"], "device": "cpu"}
    (folder / "environment.json").write_text(json.dumps([start]), "utf-8")
    result = {"valid": {"accuracy": 0.5}, "epochs": 1, "best_epoch": 1, "seconds": 1.0}
    (folder / "result.json").write_text(json.dumps(result), "utf-8")
    events = EventFile(folder / "tb", 0)
    for step in range(1, steps + 1):
        values = {"loss": 1 / step, "lr": 0.003, "gradient_norm": 1.0 + step % 7, "items_per_s": 1000.0 + step}
        points = [{"tag": f"step/{name}", "simple_value": value} for name, value in values.items()]
        events.add(step, summary=torch_private.Summary(value=points))
    events.close()


def processor() -> float:
    """Seconds of a processor that this process and those that it waited for have had."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def measure(runs: int, steps: int, to: str) -> float:
    """Seconds until so many runs are sent for the first time."""
    took = {}
    with TemporaryDirectory() as name:
        place = Path(name)
        os.environ |= {"WANDB_MODE": "offline", "WANDB_DIR": name, "TRACKIO_DIR": f"{name}/trackio"}
        folders = [place / f"run{seed}" for seed in range(runs)]
        for seed, folder in enumerate(folders):
            make(folder, steps, seed)
        for how in ("first", "again"):
            began, used = time.perf_counter(), processor()
            tracker = trackers.open_one(to, "bench", f"sqlite:///{name}/mlflow.db")
            send(PACKAGE, folders, tracker, False)
            took[how] = time.perf_counter() - began
            spent = processor() - used
            print(f"{how:6} {runs} runs of {steps:,} steps to {to}: {took[how]:.1f} s, {spent:.1f} s of processor")
    return took["first"]


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--to", choices=("mlflow", "wandb", "trackio"), default="mlflow")
    given = parser.parse_args()
    measure(given.runs, given.steps, given.to)


if __name__ == "__main__":
    main()
