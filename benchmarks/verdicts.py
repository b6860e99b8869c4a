"""How often a study gives a verdict that chance gave, and how often it finds what is there.

    uv run --package etude-study python benchmarks/verdicts.py [TIMES] [NOISE]

With the name of a NOISE it makes the lines of that alone anew. It writes packages/study/results/verdicts.csv, a line
a rate; `nox -s tables` makes the tables of CONTRIBUTING.md of it.
Studies are simulated whole and judged by `etude.study.judge.judge`, as `study` does; beside it stands the rule used
before: the 95 % percentile bootstrap interval of the differences, paired by seed, of each claim alone. Scores are in
standard deviations of seeds. A study of n claims has n + 1 settings in a row, each claim holds two neighbours against
each other, so that claims share runs. The noise of the seeds is normal; with heavy tails (Student's t of 3 degrees of
freedom); or skewed (minus an exponential: now and then a run fails). In `shared test part` all runs are scored on the
same examples, which favour each setting by chance, with as large an error as that of the mean over the seeds: nothing
differs, but other examples would have said something else. In `parts redrawn from one set` each seed draws a tenth of
the same 2,000 examples, which favour each setting by chance, and its own noise is as large as the error of such a part:
settings are alike of all examples there could be. In `every other skewed` the settings in between are steady:
that is outside of what Student's t promises, and the figure says what is left of it.
"""

import itertools
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rows import Row, rows, write

from etude.study.judge import LEVEL, Claim, Score, Verdict, judge

SEEDS = (3, 5, 10)
CLAIMS = (1, 2, 3, 6)
EFFECTS = (0.5, 1.0, 2.0, 3.0)
SHARED = "normal, shared test part"
REDRAWN, POOL, PART = "parts redrawn from one set", 2000, 200
RATIO = PART / (POOL - 2 * PART)  # test part to training part, where as many validate
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
FILE = Path(__file__).parents[1] / "packages/study/results/verdicts.csv"


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


def redrawn(times: int, count: int, seeds: int) -> Iterator[Settings]:
    """So many studies in which every seed draws its test part of one pool of examples, and no setting is better."""
    rng = np.random.default_rng([count, seeds, POOL, PART])
    for _ in range(times):
        pool = rng.standard_normal((count + 1, POOL), np.float32) * math.sqrt(PART)
        parts = [rng.choice(POOL, PART, replace=False) for _ in range(seeds)]
        found = np.stack([pool[:, part].mean(1) for part in parts], 1) + rng.standard_normal((count + 1, seeds))
        yield {
            str(n): {seed: Score(float(found[n, seed]), f"of seed {seed}") for seed in range(seeds)}
            for n in range(count + 1)
        }


def claims(count: int, relation: Literal[">", "="] = ">", margin: float = 0.0) -> list[Claim]:
    return [Claim("", "", str(n + 1), str(n), relation, margin) for n in range(count)]


def studies(
    times: int, count: int, step: float, seeds: int, noise: str = "normal", examples: float = 0.0
) -> Iterator[Settings]:
    """So many studies of `count` claims in which each setting is better than the one before by `step`."""
    rng = np.random.default_rng([count, seeds, list(NOISES).index(noise), round(100 * step), round(100 * examples)])
    for _ in range(times):
        yield settings(rng, [step * n for n in range(count + 1)], seeds, NOISES[noise], examples)


def verdicts(found: Settings, asked: list[Claim], ratio: float = 0.0) -> list[Verdict]:
    return judge(asked, found, len(found["0"]), 1, ratio)


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
    simulated = studies(times, count, 0.0, seeds, noise, 1 / math.sqrt(seeds) if shared else 0.0)
    if noise == REDRAWN:
        simulated = redrawn(times, count, seeds)
    for found in simulated:
        now += any(v.verdict != "unclear" for v in verdicts(found, asked, RATIO if noise == REDRAWN else 0.0))
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


def rates(times: int, only: str = "") -> Iterator[dict[str, Any]]:
    """Every rate by the rule now, and by that before; `of`: of studies, or of claims where something is to be found.

    `only`: false verdicts of this noise alone.
    """

    def line(of: str, noise: str, claims: int, seeds: int, effect: float, studies: int, *rate: float) -> dict[str, Any]:
        about = {"of": of, "noise": noise, "claims": claims, "seeds": seeds, "effect": effect, "studies": studies}
        return about | dict(zip(("now", "before"), [f"{x:.5f}" for x in rate] + [""] * (2 - len(rate)), strict=True))

    for count, seeds in itertools.product(CLAIMS, SEEDS):
        for noise in [only] if only else [*NOISES, REDRAWN]:
            yield line("false", noise, count, seeds, 0, times, *false_rates(times, count, seeds, noise))
        if only:
            continue
        yield line("false", SHARED, count, seeds, 0, times, *false_rates(times, count, seeds, "normal", True))
        for noise in PROMISED:
            yield line("false equality", noise, count, seeds, 2, times, false_equality(times, count, seeds, noise))
        for effect in EFFECTS:
            yield line("found", "normal", count, seeds, effect, times, *power(times, count, effect, seeds))


def errors(found: list[Row]) -> list[str]:
    """Markdown: studies with a false verdict, %."""
    heads = [*PROMISED, SHARED, REDRAWN, "equality, the worst of the first three"]
    heads += ["every other skewed", "normal, old rule"]
    lines = [f"| claims | seeds | {' | '.join(heads)} |", "|---:" * (len(heads) + 2) + "|"]
    for claims, seeds in dict.fromkeys((row["claims"], row["seeds"]) for row in found):
        some = [row for row in found if (row["claims"], row["seeds"]) == (claims, seeds)]
        false = {row["noise"]: row for row in some if row["of"] == "false"}
        equal = max(float(row["now"]) for row in some if row["of"] == "false equality")
        numbers = [float(false[noise]["now"]) for noise in (*PROMISED, SHARED, REDRAWN)]
        numbers += [equal, float(false["every other skewed"]["now"]), float(false["normal"]["before"])]
        lines.append(f"| {claims} | {seeds} | {' | '.join(f'{100 * x:.1f}' for x in numbers)} |")
    return lines


def promise(found: list[Row]) -> str:
    """The highest rate of what is promised, of how many studies each rate is, and how far chance moves 5 %."""
    kept = [row for row in found if row["of"] != "found" and row["noise"] != "every other skewed"]
    worst = max(kept, key=lambda row: float(row["now"]))
    sizes = sorted({int(row["studies"]) for row in kept})
    chance = 2 * math.sqrt(LEVEL * (1 - LEVEL) / int(worst["studies"]))
    told = f"{100 * float(worst['now']):.1f} % is the highest of {len(kept)} rates, each of "
    told += f"{' or '.join(f'{size:,}' for size in sizes)} simulated studies"
    return f"{told}; by chance alone a true {100 * LEVEL:g} % shows as {100 * LEVEL:g} ± {100 * chance:.1f} %"


def finds(found: list[Row]) -> list[str]:
    """Markdown: claims that hold and are said to, %, by the true difference."""
    heads = [f"{effect:g}" for effect in EFFECTS]
    lines = [f"| claims | seeds | {' | '.join(heads)} |", "|---:" * (len(heads) + 2) + "|"]
    for claims, seeds in dict.fromkeys((row["claims"], row["seeds"]) for row in found):
        some = {
            row["effect"]: float(row["now"])
            for row in found
            if (row["of"], row["claims"], row["seeds"]) == ("found", claims, seeds)
        }
        lines.append(f"| {claims} | {seeds} | {' | '.join(f'{100 * some[str(effect)]:.0f}' for effect in EFFECTS)} |")
    return lines


def main(times: int, only: str) -> None:
    found: list[Any] = [row for row in rows(FILE) if row["noise"] != only] if only else []
    for rate in rates(times, only):
        found.append(rate)
        print(*rate.values(), flush=True)
    FILE.parent.mkdir(exist_ok=True)
    write(FILE, found)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 4000, sys.argv[2] if len(sys.argv) > 2 else "")
