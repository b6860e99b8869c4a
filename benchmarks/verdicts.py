"""How often a study gives a verdict that chance gave, and how often it finds what is there.

    uv run --package etude-core python benchmarks/verdicts.py

Studies are simulated whole and judged by `etude.study.judge.judge`, as `study` does; beside it stands the rule used
before: the 95 % percentile bootstrap interval of the differences, paired by seed, of each claim alone. Scores are in
standard deviations of seeds. A study of n claims has n + 1 settings in a row, each claim holds two neighbours against
each other, so that claims share runs. The noise of the seeds is normal; with heavy tails (Student's t of 3 degrees of
freedom); or skewed (minus an exponential: now and then a run fails). In `shared test part` all runs are scored on the
same examples, which favour each setting by chance, with as large an error as that of the mean over the seeds: nothing
differs, but other examples would have said something else. In `every other skewed` the settings in between are steady:
that is outside of what Student's t promises, and the figure says what is left of it.
"""

import itertools
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Literal

import numpy as np

from etude.study.judge import Claim, Score, Verdict, judge

SEEDS = (3, 5, 10)
CLAIMS = (1, 2, 3, 6)
EFFECTS = (0.5, 1.0, 2.0, 3.0)
BLOCKS = 50
Noise = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
Settings = dict[str, dict[int, Score]]

NOISES: dict[str, Noise] = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "heavy tails": lambda rng, shape: rng.standard_t(3, shape) / math.sqrt(3),
    "skewed": lambda rng, shape: 1 - rng.exponential(1, shape),
    "every other skewed": lambda rng, shape: np.stack(
        [1 - rng.exponential(1, shape[1]) if n % 2 else 0.2 * rng.standard_normal(shape[1]) for n in range(shape[0])]
    ),
}
PROMISED = ("normal", "heavy tails", "skewed")


def settings(rng: np.random.Generator, means: Sequence[float], seeds: int, noise: Noise, examples: float) -> Settings:
    """Scores of every run; `examples`: standard error of a setting's score by the test examples, 0: each seed's own."""
    found = np.array(means)[:, None] + noise(rng, (len(means), seeds))
    favour = rng.standard_normal((len(means), BLOCKS)) * examples * math.sqrt(BLOCKS)
    one = lambda n, seed: Score(  # noqa: E731
        float(found[n, seed] + favour[n].mean()),
        "one" if examples else f"of seed {seed}",
        tuple((found[n, seed] + favour[n]).tolist()) if examples else (),
    )
    return {str(n): {seed: one(n, seed) for seed in range(seeds)} for n in range(len(means))}


def claims(count: int, relation: Literal[">", "="] = ">", margin: float = 0.0) -> list[Claim]:
    return [Claim("", "", str(n + 1), str(n), relation, margin) for n in range(count)]


def studies(
    times: int, count: int, step: float, seeds: int, noise: str = "normal", examples: float = 0.0
) -> Iterator[Settings]:
    """So many studies of `count` claims in which each setting is better than the one before by `step`."""
    rng = np.random.default_rng([count, seeds, list(NOISES).index(noise), round(100 * step), round(100 * examples)])
    for _ in range(times):
        yield settings(rng, [step * n for n in range(count + 1)], seeds, NOISES[noise], examples)


def verdicts(found: Settings, asked: list[Claim]) -> list[Verdict]:
    return judge(asked, found, len(found["0"]), 1)


def before(found: Settings, asked: list[Claim]) -> list[str]:
    """The verdicts of the rule before."""
    said = []
    for claim in asked:
        differences = [found[claim.left][seed].value - found[claim.right][seed].value for seed in found["0"]]
        low, high = bootstrap(differences)
        said.append("as expected" if low > 0 else "not expected" if high < 0 else "unclear")
    return said


def bootstrap(values: Sequence[float]) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean (Efron 1979): all resamples of up to 5 values, else 2,000."""
    means = np.sort(np.asarray(values)[resamples(len(values))].mean(axis=1))
    cut = math.ceil(0.025 * len(means)) - 1
    return float(means[cut]), float(means[-1 - cut])


@cache
def resamples(n: int) -> np.ndarray:
    if n <= 5:
        return np.array(list(itertools.product(range(n), repeat=n)))
    return np.random.default_rng(0).integers(n, size=(2_000, n))


def false_rates(times: int, count: int, seeds: int, noise: str = "normal", shared: bool = False) -> tuple[float, float]:
    """The part of studies with any verdict but unclear, though nothing differs: by the rule now, and by that before."""
    now = then = 0
    asked = claims(count)
    for found in studies(times, count, 0.0, seeds, noise, 1 / math.sqrt(seeds) if shared else 0.0):
        now += any(v.verdict != "unclear" for v in verdicts(found, asked))
        then += any(verdict != "unclear" for verdict in before(found, asked))
    return now / times, then / times


def false_equality(times: int, count: int, seeds: int, noise: str = "normal") -> float:
    """The part of studies that call settings as good, within 2, which differ by just that."""
    asked = claims(count, "=", 2.0)
    found = studies(times, count, 2.0, seeds, noise)
    return sum(any(v.verdict == "as expected" for v in verdicts(f, asked)) for f in found) / times


def power(times: int, count: int, step: float, seeds: int) -> tuple[float, float]:
    """The part of claims that are as expected, where each setting is better by `step`: now, and before."""
    asked = claims(count)
    now = then = 0
    for found in studies(times, count, step, seeds):
        now += sum(v.verdict == "as expected" for v in verdicts(found, asked))
        then += before(found, asked).count("as expected")
    return now / times / count, then / times / count


def main(times: int) -> None:
    began = time.monotonic()
    error = 100 * math.sqrt(0.05 * 0.95 / times)
    print(f"{times:,} simulated studies a number; a true 5 % shows as 5 +- {2 * error:.1f} %\n")
    print("Studies with a false verdict, %, nothing differs: now | by the rule before")
    kinds = [(noise, False) for noise in PROMISED] + [("normal", True), ("every other skewed", False)]
    names = [noise + ", shared test part" * shared for noise, shared in kinds]
    print(f"{'claims':>6} {'seeds':>6}  " + "".join(f"{name:>28}" for name in names))
    worst = 0.0
    for count, seeds in itertools.product(CLAIMS, SEEDS):
        rates = [false_rates(times, count, seeds, *kind) for kind in kinds]
        worst = max(worst, *(now for now, _ in rates[:-1]))
        cells = [f"{100 * now:.1f} | {100 * then:4.1f}" for now, then in rates]
        print(f"{count:>6} {seeds:>6}  " + "".join(f"{cell:>28}" for cell in cells), flush=True)
    print("\nStudies that call settings as good which differ by the margin (2), %; three times as many")
    for count, seeds in itertools.product(CLAIMS, SEEDS):
        rates_of = [false_equality(3 * times, count, seeds, noise) for noise in PROMISED]
        worst = max(worst, *rates_of)
        print(f"{count:>6} {seeds:>6}  " + "".join(f"{100 * rate:>28.1f}" for rate in rates_of), flush=True)
    print("\nClaims that are found to hold, %, by the true difference in standard deviations of seeds: now | before")
    print(f"{'claims':>6} {'seeds':>6}  " + "".join(f"{effect:>16}" for effect in EFFECTS))
    for count, seeds in itertools.product((1, 3, 6), SEEDS):
        found = [power(times // 2, count, effect, seeds) for effect in EFFECTS]
        cells = [f"{100 * now:.0f} | {100 * then:.0f}" for now, then in found]
        print(f"{count:>6} {seeds:>6}  " + "".join(f"{cell:>16}" for cell in cells), flush=True)
    print(f"\nhighest rate of false verdicts, but for `every other skewed`: {100 * worst:.1f} %")
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 600)
