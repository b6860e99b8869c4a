"""What a study calls. What trains imports nothing of etude, as it is started often."""

import json
import os
import sys
import time
import zipfile
from pathlib import Path

from searched.score import score


def train(words: list[str], folder: Path) -> None:
    assert not (folder / "result.json").exists(), "trained twice"
    flags = dict(word[2:].split("=") for word in words)
    with Path(os.environ["SEARCHED_LOG"]).open("a") as log:
        log.write(f"{folder.parent.name}/{folder.name}\n")
    groups: dict[str, dict[str, str]] = {"model": {}, "fit": {}}
    for knob, word in flags.items():
        group, _, name = knob.partition(".")
        groups[group][name] = word
    (folder / "config.yaml").write_text(json.dumps(groups))
    (folder / "environment.json").write_text(json.dumps([{"device": "an abacus"}]))
    lr, dropout = float(flags["fit.lr"]), float(flags.get("model.dropout", "0"))
    if lr > float(os.environ.get("SEARCHED_DIVERGES", "inf")):
        raise SystemExit("the loss became nan at step 7")
    time.sleep(float(os.environ.get("SEARCHED_SLEEP", "0")))
    accuracy = score(int(flags["model.kernel"]), lr, dropout, int(flags["fit.seed"]))
    valid = {"accuracy": accuracy, "loss": 1 - accuracy}
    (folder / "metrics.jsonl").write_text(json.dumps({"epoch": 1, "step": 1, "train": {}, "valid": valid}) + "\n")
    (folder / "checkpoints").mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / "checkpoints" / "best.pt", "w") as weights:
        weights.writestr("weights", str(accuracy))
    result = {"epochs": 1, "best_epoch": 1, "valid": valid, "seconds": 1.0, "parameters": 7}
    (folder / "result.json").write_text(json.dumps(result))


def evaluate(folder: Path) -> None:
    from etude import tested

    accuracy = json.loads((folder / "result.json").read_text())["valid"]["accuracy"] - 0.01
    scores = {"accuracy": accuracy, "loss": 1 - accuracy, "checkpoint": tested.mark(folder, "best")}
    kept = {"part": f"a part of {folder.name}", "scores": scores, "blocks": {"accuracy": [accuracy] * 3}}
    (folder / "test-blocks.json").write_text(json.dumps(kept))
    (folder / "test.json").write_text(json.dumps(scores))


def together() -> None:
    asked = json.load(sys.stdin)
    for one in asked["runs"]:
        try:
            train(one["flags"], Path(one["folder"])) if asked["verb"] == "train" else evaluate(Path(one["folder"]))
        except SystemExit as error:
            (Path(one["folder"]) / "log.txt").open("a").write(f"{error}\n")
    Path(asked["answer"]).write_text(json.dumps({"left": {}, "failed": []}))


if __name__ == "__main__":
    verb, *words = sys.argv[1:]
    if verb == "together":
        together()
    elif verb == "train":
        train(words[:-2], Path(words[-1]))
    else:
        evaluate(Path(words[0]))
