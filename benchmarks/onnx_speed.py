"""A network in onnxruntime against the same in torch: what `export --onnx` is worth where one only predicts.

    uv run --all-packages python benchmarks/onnx_speed.py [--threads N] [--turns N]

cnn-emnist and grad-flow as they are by default, in fp32, with weights as they begin, which take as long as any. Both
sides answer the same batches in turns, in one process; how far their answers are apart stands beside the ratio.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from importlib import import_module
from types import ModuleType

import numpy as np
import torch
from onnxruntime import InferenceSession, SessionOptions
from torch import Tensor, nn

from etude.export import onnx

MODULES = "cnn_emnist", "grad_flow"
BATCHES = 1, 16, 256  # examples


def seconds(answer: Callable[[], object], least: float = 0.02) -> float:
    """Of one call, the mean of as many as take `least` seconds."""
    count, began = 0, time.perf_counter()
    while (took := time.perf_counter() - began) < least:
        answer()
        count += 1
    return took / count


def compare(module: ModuleType, threads: int, turns: int) -> None:
    config = import_module(f"{module.__name__}.config")
    task = import_module(f"{module.__name__}.task").make(config.Config(), torch.device("cpu"))
    network = task.model.eval()
    options = SessionOptions()
    options.intra_op_num_threads = threads
    content = onnx.contents(config.PACKAGE.name, task, network)
    session = InferenceSession(content, options, providers=["CPUExecutionProvider"])
    shape = task.example().shape[1:]
    with torch.inference_mode():
        for batch in BATCHES:
            compare_batch(config.PACKAGE.name, network, session, torch.rand(batch, *shape), turns)


def compare_batch(name: str, network: nn.Module, session: InferenceSession, x: Tensor, turns: int) -> None:
    given = {session.get_inputs()[0].name: x.numpy()}
    apart = np.abs(network(x).numpy() - session.run(None, given)[0]).max()
    times: tuple[list[float], list[float]] = ([], [])
    sides = (lambda: network(x)), (lambda: session.run(None, given))
    for turn in range(turns + 1):
        for side in (0, 1) if turn % 2 else (1, 0):
            times[side].append(seconds(sides[side]))
    of_torch, of_onnx = (1e3 * statistics.median(side[1:]) for side in times)
    print(
        f"{of_onnx / of_torch:.2f}  {name}, {len(x)} at a time: onnxruntime {of_onnx:.3f} ms, torch {of_torch:.3f} ms;",
        end=" ",
    )
    print(f"answers at most {apart:.1e} apart", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=21)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(f"time in onnxruntime / time in torch, fp32, {given.threads} thread(s), medians of {given.turns} turns")
    for name in MODULES:
        compare(import_module(name), given.threads, given.turns)


if __name__ == "__main__":
    main()
