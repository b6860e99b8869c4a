"""How long grad-flow's demo takes to answer, with the deepest and widest network that its page offers.

    uv run --all-packages python benchmarks/answers.py

For each initialisation: the median over networks that were not drawn before, of what the page asks for when somebody
moves a slider, without the browser and its request.
"""

import statistics
import time
from types import SimpleNamespace
from typing import Any

import torch

from grad_flow.config import Model
from grad_flow.demo import INITIALISATIONS, WIDTHS, demo

DEPTH, NETWORKS = 40, 15


def measure() -> float:
    """Prints what each takes; returns the longest, in seconds."""
    task: Any = SimpleNamespace(config=SimpleNamespace(model=Model()))
    (panel,) = demo(task).panels
    took = {}
    for initialisation in INITIALISATIONS:
        times = []
        for number in range(NETWORKS):
            before = time.perf_counter()
            panel.answer(DEPTH, WIDTHS[-1], "relu", initialisation, 1.4, number)
            times.append(time.perf_counter() - before)
        took[initialisation] = statistics.median(times)
        threads = f"{torch.get_num_threads()} threads"
        print(f"{1e3 * took[initialisation]:5.0f} ms  {initialisation}, {DEPTH} layers of {WIDTHS[-1]}, {threads}")
    return max(took.values())


if __name__ == "__main__":
    measure()
