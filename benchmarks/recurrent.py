"""Our recurrent layers against torch's, in one process, in turns: a training step, and inference.

    uv run --package etude-core python benchmarks/recurrent.py [--threads 2] [--device cuda] [--input-gradient]

Both sides have the same weights and the same input, 64 sequences of 200 steps, input and hidden size 128, fp32. A
training step is forward, mean square of the outputs, backward; with --input-gradient to the input, too, as below an
embedding. Ragged lengths are uniform in 1..200; torch packs and unpacks them. Times are medians, the ratio is the
median of the rounds' ratios: the two sides of a round are measured one right after the other.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from etude.layers.recurrent import GRU, LSTM, RNN, Recurrent

BATCH, STEPS, SIZE = 64, 200, 128
OURS: dict[str, type[Recurrent]] = {"LSTM": LSTM, "GRU": GRU, "RNN": RNN}
CASES: list[tuple[str, dict[str, Any], bool]] = [
    ("LSTM", {}, False),
    ("LSTM", {}, True),
    ("LSTM", {"bidirectional": True}, False),
    ("LSTM", {"bidirectional": True}, True),
    ("LSTM", {"num_layers": 2}, False),
    ("GRU", {}, False),
    ("GRU", {}, True),
    ("RNN", {}, False),
    ("RNN", {}, True),
]


def theirs(layer: nn.Module, x: Tensor, lengths: Tensor | None) -> Tensor:
    if lengths is None:
        return layer(x)[0]
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    return nn.utils.rnn.pad_packed_sequence(layer(packed)[0], batch_first=True, total_length=x.shape[1])[0]


def ours(layer: nn.Module, x: Tensor, lengths: Tensor | None) -> Tensor:
    return layer(x, lengths)[0]


def train(run: Callable[..., Tensor], layer: nn.Module, x: Tensor, lengths: Tensor | None) -> None:
    layer.zero_grad()
    x.grad = None
    run(layer, x, lengths).square().mean().backward()


def infer(run: Callable[..., Tensor], layer: nn.Module, x: Tensor, lengths: Tensor | None) -> None:
    with torch.inference_mode():
        run(layer, x, lengths)


def seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--input-gradient", action="store_true")
    parser.add_argument("--cases", type=int, default=len(CASES), help="only so many of the cases")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    x = torch.randn(BATCH, STEPS, SIZE, device=asked.device, requires_grad=asked.input_gradient)
    some = torch.randint(1, STEPS + 1, (BATCH,))
    print(f"torch {torch.__version__}, {asked.device}, {asked.threads} thread(s), median of {asked.rounds} rounds")
    for name, options, ragged in CASES[: asked.cases]:
        their_layer = getattr(nn, name)(SIZE, SIZE, batch_first=True, **options).to(asked.device)
        our_layer = OURS[name](SIZE, SIZE, **options).to(asked.device)
        our_layer.load_state_dict(their_layer.state_dict())
        lengths = some if ragged else None
        torch.testing.assert_close(ours(our_layer, x, lengths), theirs(their_layer, x, lengths), rtol=1e-3, atol=1e-4)
        told = []
        for work in (train, infer):
            times = []
            for _ in range(asked.rounds + 1):  # the first warms up
                our_time = seconds(lambda: work(ours, our_layer, x, lengths))  # noqa: B023
                times.append((our_time, seconds(lambda: work(theirs, their_layer, x, lengths))))  # noqa: B023
            one, other = (statistics.median(side) * 1e3 for side in zip(*times[1:], strict=True))
            ratio = statistics.median(other / one for one, other in times[1:])
            told.append(f"{work.__name__} {one:6.1f} ms, torch {other:6.1f} ms: {ratio:4.2f} times as fast")
        settings = " ".join([*(f"{key}={value}" for key, value in options.items()), *["ragged"] * ragged])
        print(f"{name:5}{settings:27}{'; '.join(told)}")


if __name__ == "__main__":
    main()
