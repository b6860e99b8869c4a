"""How long until something happens, and how much memory it takes: whole commands, in turns with `import torch`.

    uv run --package cnn-emnist python benchmarks/start.py

With ETUDE_DATA set (or the data downloaded) the memory of a Fashion-MNIST run is measured too.
"""

import os
import resource
import statistics
import subprocess
import sys
import time
from tempfile import TemporaryDirectory

from etude.download import root

ROUNDS = 5
COMMAND = [sys.executable, "-m", "cnn_emnist"]
FIRST_STEP = """
import sys
from etude.train import reporter
def stop(self, *_):
    raise SystemExit(0)
reporter.Reporter.step = stop
from cnn_emnist.__main__ import main
main(["train", "--run", sys.argv[1]])
"""


def seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def measure() -> dict[str, float]:
    """Medians in seconds: of `train --help`, of `import torch`, to the first step, and of that beyond torch."""
    shown, torch, first = [], [], []
    with TemporaryDirectory() as folder:
        for number in range(ROUNDS):
            shown.append(seconds([*COMMAND, "train", "--help"]))
            torch.append(seconds([sys.executable, "-c", "import torch"]))
            first.append(seconds([sys.executable, "-c", FIRST_STEP, f"{folder}/{number}"]))
    beyond = [a - b for a, b in zip(first, torch, strict=True)]
    told = {"help": shown, "torch": torch, "first": first, "beyond": beyond}
    return {name: statistics.median(took) for name, took in told.items()}


def main() -> None:
    took = measure()
    print(f"cnn-emnist train --help: {took['help']:.2f} s")
    print(f"import torch: {took['torch']:.2f} s")
    print(f"command to first step, sample: {took['first']:.2f} s, {took['beyond']:.2f} s beyond import torch")
    if (root() / "FashionMNIST").is_dir():
        with TemporaryDirectory() as folder:
            flags = ["--data", "fashion-mnist", "--fit.epochs", "1", "--run", f"{folder}/memory"]
            subprocess.run([*COMMAND, "train", *flags], check=True, capture_output=True, env=os.environ)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        unit = 1 if sys.platform == "darwin" else 1024
        print(f"peak resident memory of an epoch of Fashion-MNIST: {peak * unit / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
