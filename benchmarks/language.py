"""How fast a language model's loss is: `etude.layers.loss` against torch's two calls, in turns, one thread.

    python benchmarks/language.py

2,304 tokens (128 texts of 18), 128 numbers a token, in the precision that `fit.precision auto` takes here. Gradients of
the tokens, the table and the bias are computed in both.
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from etude.layers.loss import linear_cross_entropy
from etude.train.device import DTYPES, best_precision

TOKENS, NUMBERS, TURNS = 2304, 128, 5


def plain(x: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(x, weight, bias), targets, reduction="sum")


def seconds(loss: Callable[..., Tensor], given: tuple[Tensor, ...], precision: str) -> float:
    """Of this process's CPU time: others may keep the machine busy."""
    began = time.process_time()
    with torch.autocast("cpu", DTYPES[precision], enabled=precision != "fp32"):
        found = loss(*given)
    found.backward()
    return time.process_time() - began


def main() -> None:
    torch.set_num_threads(1)
    precision = best_precision(torch.device("cpu"))
    print(f"{TOKENS:,} tokens of {NUMBERS} numbers, {precision}: best of {TURNS} turns, CPU time")
    for vocabulary in (7_306, 20_000, 30_000):
        torch.manual_seed(0)
        x, weight, bias = (
            torch.randn(n, requires_grad=True) for n in ((TOKENS, NUMBERS), (vocabulary, NUMBERS), vocabulary)
        )
        given = x, weight, bias, torch.randint(0, vocabulary, (TOKENS,))
        found: dict[str, list[float]] = {"fused": [], "plain": []}
        for _ in range(TURNS):
            for name, loss in (("fused", linear_cross_entropy), ("plain", plain)):
                found[name].append(seconds(loss, given, precision))
        best = {name: min(times) for name, times in found.items()}
        told = ", ".join(f"{name} {1000 * best[name]:.0f} ms" for name in best)
        print(f"vocabulary {vocabulary:,}: {told}, ratio {best['fused'] / best['plain']:.2f}", flush=True)


if __name__ == "__main__":
    main()
