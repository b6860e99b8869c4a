"""How many of the short and of the longer test questions the runs of a study of qa-category answer rightly.

    ETUDE_DATA=... python benchmarks/by_length.py OUT [--most 6]  # adds to results/by_length.csv

OUT is the folder of the study. It says what a difference between two settings rests on where test questions are
shorter than those that were learnt from, as in TREC.
"""

import argparse
from pathlib import Path

import finished
import numpy as np
import torch
from rows import put

from qa_category import task
from qa_category.config import Config

RESULTS = Path(__file__).parents[1] / "packages/qa-category/results/by_length.csv"
AT_ONCE = 100


@torch.inference_mode()
def answered(run: Path) -> tuple[np.ndarray, np.ndarray]:
    """Of each test question of a run whether it is answered rightly, bool [N], and its words, int64 [N]."""
    _, found = finished.restored(run, Config, task, torch.device("cpu"))
    assert isinstance(found, task.Categories)
    found.model.eval()
    right, words = [], []
    for ids in found.plan("test", 0, AT_ONCE):
        labels, rows, lengths, *rest = found.load("test", ids, 0)
        right.append((found.model(rows, lengths, *rest).argmax(1) == labels).numpy())
        words.append(lengths.numpy())
    return np.concatenate(right), np.concatenate(words)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--most", type=int, default=6, help="words of a short question")
    given = parser.parse_args()
    lines = []
    for run in sorted(given.out.glob("*/seed=*")):
        right, words = answered(run)
        short = words <= given.most
        line = {"command": given.out.name, "setting": run.parent.name, "seed": run.name.partition("=")[2]}
        scores = {"short": float(right[short].mean()), "longer": float(right[~short].mean())}
        lines.append(line | {"most": given.most, "questions": len(right), "of_them_short": int(short.sum())} | scores)
    put(RESULTS, lines, "command")
    for setting in dict.fromkeys(line["setting"] for line in lines):
        means = (np.mean([line[part] for line in lines if line["setting"] == setting]) for part in ("short", "longer"))
        print(setting, *(f"{mean:.3f}" for mean in means))


if __name__ == "__main__":
    main()
