"""Every figure of speed that is asked of etude, measured by the scripts here, beside what is asked: docs/speed.md.

    ETUDE_DATA=... uv run --all-packages python benchmarks/speed.py [FIGURE ...]   # all of them: two hours

Adds to packages/core/results/speed.csv, of which `python benchmarks/tables.py` makes the table. The ratio is that to
what is asked, so that a machine that is slow as a whole misses figures that are times, and may keep those that are
ratios.
What `peers.py` and `gpu.py` measure has files of its own.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from rows import put

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "packages" / "core" / "results" / "speed.csv"


@dataclass(frozen=True)
class Figure:
    """One number that is asked for."""

    what: str
    asked: float
    unit: str  # behind the number: " s", " times"
    script: str
    least: bool = False
    """whether what is asked is the least it may be, and not the most"""

    def holds(self, value: float) -> bool:
        return value >= self.asked if self.least else value <= self.asked

    def bound(self) -> str:
        return f"{'at least' if self.least else 'at most'} {self.asked:g}{self.unit}"


FAIR = " times the fair share of time"
FIGURES = {
    "help": Figure("`cnn-emnist train --help`", 0.5, " s", "start.py"),
    "start": Figure("from the command to the first step, beyond `import torch`", 1.5, " s", "start.py"),
    "loop": Figure("an epoch of `fit`, to one of a loop written by hand (cnn-emnist)", 1.02, " times", "fit.py"),
    "tutorial": Figure(
        "an epoch, to one of PyTorch's tutorial (cnn-emnist)", 1.0, " times as fast", "tutorial.py", True
    ),
    "busy-2": Figure("an epoch of gauss-vae beside 2 busy neighbours", 1.3, FAIR, "busy.py --task gauss-vae"),
    "busy-4": Figure("the same beside 4", 1.3, FAIR, "busy.py --task gauss-vae"),
    "busy-6": Figure("the same beside 6", 1.3, FAIR, "busy.py --task gauss-vae"),
    "vae": Figure(
        "32 whole gauss-vae at once, with pictures",
        4,
        " times the runs in the same time",
        "stacked.py 32 vae-whole",
        True,
    ),
    "flow": Figure(
        "64 grad-flow at once, without pictures", 8, " times the runs in the same time", "stacked.py 64 flow", True
    ),
    "watch-cnn": Figure("a step with `--fit.watch`, cnn-emnist", 1.1, " times one without", "watch.py cnn"),
    "watch-lstm": Figure("the same, imdb-rnn", 1.1, " times one without", "watch.py lstm"),
    "watch-mlp": Figure("the same, ten dense layers of 256", 1.1, " times one without", "watch.py mlp"),
    "demo": Figure("grad-flow's demo: the slowest answer, 40 layers of 256 units", 0.1, " s", "answers.py"),
    "demo-review": Figure("imdb-rnn's demo: a review of 5,000 characters", 0.1, " s", "answers.py"),
    "demo-cifar-vae": Figure("cifar-vae's demo: a photo of 12 million pixels", 0.1, " s", "answers.py"),
    "demo-cnn-emnist": Figure("cnn-emnist's demo: a photo of 12 million pixels", 0.1, " s", "answers.py"),
    "ingest": Figure("reading CoNLL-U, to the package `nerus`", 1.0, " times as fast", "ingest.py", True),
    "memory": Figure("memory for 100 times that file, to once", 1.1, " times", "ingest.py"),
    "bpe": Figure("training BPE, to `tokenizers`, a thread each", 1.0, " times as fast", "bpe.py", True),
    "gigabyte": Figure("training BPE on 1 GB of text, 30,000 tokens", 600, " s", "gigabyte.py"),
    "mlflow": Figure("100 runs of 1,000 steps and four curves into MLflow with SQLite", 30, " s", "track.py"),
    "study": Figure("a study of 1,000 runs that are done: plan, judge, tables", 30, " s", "scale.py"),
    "report": Figure("its report", 30, " s", "scale.py"),
    "tensorboard": Figure("TensorBoard's reading of all its curves", 30, " s", "scale.py"),
}


def start() -> dict[str, float]:
    import start

    took = start.measure()
    return {"help": took["help"], "start": took["beyond"]}


def loop() -> dict[str, float]:
    import fit

    return {"loop": fit.measure([])}


def tutorial() -> dict[str, float]:
    import tutorial

    return {"tutorial": tutorial.measure([])}


def busy() -> dict[str, float]:
    import busy

    shares = busy.compare("gauss-vae", 2, 120, ["ours"])
    return {f"busy-{count}": share for count, share in shares.items() if count}


def vae() -> dict[str, float]:
    import stacked

    return {"vae": stacked.measure("vae-whole", 32)}


def flow() -> dict[str, float]:
    import stacked

    return {"flow": stacked.measure("flow", 64)}


def watch() -> dict[str, float]:
    import torch
    import watch

    from etude.config import Fit

    torch.set_num_threads(1)
    return {f"watch-{kind}": watch.compare(kind, 20, Fit()) for kind in ("cnn", "lstm", "mlp")}


def demo() -> dict[str, float]:
    import answers

    return {name: seconds for name, seconds in answers.measure().items() if name in FIGURES}


def ingest() -> dict[str, float]:
    import ingest

    faster, once, often = ingest.measure(ingest.default())
    return {"ingest": faster, "memory": often / once}


def bpe() -> dict[str, float]:
    import bpe
    import subwords

    return {"bpe": bpe.training(subwords.read())}


def gigabyte() -> dict[str, float]:
    import gigabyte

    return {"gigabyte": gigabyte.measure()}


def mlflow() -> dict[str, float]:
    import track

    return {"mlflow": track.measure(100, 1000, "mlflow")}


def study() -> dict[str, float]:
    import scale

    return {name: seconds for name, seconds in scale.measure(100).items() if name in FIGURES}


WAYS: tuple[Callable[[], dict[str, float]], ...] = (
    start, loop, tutorial, busy, vae, flow, watch, demo, ingest, bpe, gigabyte, mlflow, study,
)  # fmt: skip


def table(found: Iterable[Mapping[str, str]]) -> list[str]:
    """The Markdown table: what is asked and what was measured, the ratio first."""
    told = {line["figure"]: line for line in found}
    lines = ["| measured / asked | | measured | asked | `benchmarks/` | on |", "|---:|---|---:|---:|---|---|"]
    for name, figure in FIGURES.items():
        if name not in told:
            lines.append(f"| not measured | {figure.what} | | {figure.bound()} | `{figure.script}` | |")
            continue
        value = float(told[name]["value"])
        ratio = f"{value / figure.asked:.2f}{'' if figure.holds(value) else ' **short**'}"
        shown = f"{value:.{2 if value < 10 else 0}f}{figure.unit}"
        where = told[name]["machine"].partition(",")[0]
        lines.append(f"| {ratio} | {figure.what} | {shown} | {figure.bound()} | `{figure.script}` | {where} |")
    return lines


def told(found: Iterable[Mapping[str, str]]) -> str:
    """Where and when it was measured."""
    every = list(found)
    places = sorted({line["machine"] for line in every})
    days = sorted({line["date"] for line in every})
    return f"Measured on {'; '.join(places)}, on {' to '.join(sorted({days[0], days[-1]}))}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help=", ".join(way.__name__ for way in WAYS))
    asked = parser.parse_args().figures
    known = {way.__name__: way for way in WAYS}
    if unknown := sorted(set(asked) - known.keys()):
        parser.error(f"there is no figure {', '.join(unknown)}; there are: {', '.join(known)}")
    import torch

    from etude.train.run import git_commit

    machine = f"{torch.cpu.get_capabilities().get('cpu_name') or 'CPU'}, {os.cpu_count()} cores"
    about = {"machine": machine, "date": date.today(), "commit": git_commit()}
    for name in asked or known:
        began = time.perf_counter()
        for figure, value in known[name]().items():
            put(RESULTS, [{"figure": figure, "value": f"{value:.4g}", **about}], "figure")
        print(f"-- {name}: {time.perf_counter() - began:.0f} s\n", flush=True)


if __name__ == "__main__":
    main()
