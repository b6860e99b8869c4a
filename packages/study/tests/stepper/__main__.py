"""A task that is made of nothing but what a cluster can get wrong: steps that take time, checkpoints, claims.

It starts without torch. Each step is noted in steps.txt by the claim of the process that takes it.
"""

import json
import os
import sys
import time
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from etude import claims, config, files, tested
from etude.config import Fit
from etude.package import Package
from etude.signals import end_with
from etude.study import command


@dataclass(frozen=True)
class Config:
    """How many steps, of which each takes 50 ms."""

    factor: int = 3
    steps: int = 20
    fit: Fit = field(default_factory=Fit)


PACKAGE = Package("stepper", Config, next_step="", scores={"accuracy": "higher"})


def train(words: list[str]) -> None:
    asked, folder = config.parse(Config, words[:-2]), Path(words[-1])
    claim = claims.claim(folder)
    files.write(folder / "config.yaml", config.dump(asked).encode())
    kept = folder / "checkpoint.json"
    step, value = json.loads(kept.read_text()) if kept.exists() else (0, asked.fit.seed)
    while step < asked.steps:
        time.sleep(0.05)
        step, value = step + 1, (value * asked.factor + step) % 1009
        claim.check()
        with (folder / "steps.txt").open("a") as steps:
            steps.write(f"{claim.file.name.removeprefix('.claim-')} {step} {value}\n")
        files.write(kept, json.dumps([step, value]).encode())
    with (folder / "ends.txt").open("a") as ends:
        ends.write("end\n")
    (folder / "checkpoints").mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / "checkpoints" / "best.pt", "w") as weights:
        weights.writestr("weights", str(value))
    row = {"epoch": 1, "step": step, "train": {}, "valid": {"accuracy": value / 1009}}
    files.write(folder / "metrics.jsonl", f"{json.dumps(row)}\n".encode())
    result = {"epochs": 1, "best_epoch": 1, "valid": {"accuracy": value / 1009}, "seconds": 1.0, "parameters": 1}
    files.write(folder / "result.json", json.dumps(result).encode())


def evaluate(folder: Path) -> None:
    value = json.loads((folder / "result.json").read_text())["valid"]["accuracy"]
    scores = {"accuracy": value, "checkpoint": tested.mark(folder, "best")}
    blocks = {"part": folder.name, "scores": scores, "blocks": {"accuracy": [value, value]}}
    files.write(folder / tested.BLOCKS, json.dumps(blocks).encode())
    files.write(folder / "test.json", json.dumps(scores).encode())


def main() -> int:
    verb, *words = sys.argv[1:]
    if worker := os.environ.get(claims.WORKER):  # as `etude.cli.main` does
        end_with(int(worker))
    if verb == "study":
        try:
            return command.main(PACKAGE, words, "stepper")
        except command.UserError as error:
            print(f"stepper: {error}", file=sys.stderr)
            return 2
    train(words) if verb == "train" else evaluate(Path(words[0]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
