"""What the scores of runs say of a claim, and how often that is wrong: in at most 5 % of studies.

A claim holds two settings against each other: `A > B` (A is better), `A < B`, or `A = B` within a margin. What is
asked is whether it would hold again, with other seeds *and* with other test examples. So the difference of two settings
has two errors.

- *Seeds.* The differences d_s of the S seeds, paired (the same seed means the same split), have a variance s^2; their
  mean has s^2 / S, with S - 1 degrees of freedom (Student 1908). No normal approximation and no bootstrap: with 3 seeds
  either is wrong several times too often.
- *Examples.* Where all seeds are scored on one test part, their spread says nothing of what that part happens to
  contain. The part is cut into B blocks (`etude.train.evidence`), and of each score the jackknife pseudo-value of every
  block is kept: B * score - (B - 1) * score without the block (Quenouille 1956, Tukey 1958). They are about independent
  and their mean is about the score, whatever it is: a mean, macro-F1, BLEU. They are subtracted block by block where
  both settings have the same part, averaged over the seeds, and their variance v^2 gives v^2 / B, with B - 1. Where
  each seed has a test part of its own, drawn afresh, the spread of the seeds has this error in it already, and nothing
  is added.
- *One set of data, drawn from again and again.* Where each seed draws its own test part of the same finite data, these
  parts overlap, and so do the training parts, so that more seeds tell less than they seem to: s^2 / S becomes
  s^2 (1 / S + r), where r is the size of a test part to that of a training part (Nadeau & Bengio 2003, "Inference for
  the generalization error"; the degrees of freedom stay). However many the seeds, s^2 r is left.

An interval of the mean difference with errors v_i, of f_i degrees of freedom, is +- sqrt(sum of t_i^2 v_i), where t_i
is Student's quantile for f_i. It covers the truth at least as often as it says, however the errors are shared out
(Banerjee 1960). Satterthwaite's degrees of freedom, which are usual here, do not: with 3 seeds, the examples' error a
quarter of the seeds', a claim at the level 0.05 / 6 was wrong 4 times as often (simulated), because a spread of 3 seeds
that is small by chance leaves the many degrees of freedom of the examples. What seeds and examples have in common is
counted in both errors, so their sum is rather too large (as Owen 2007 found of the pigeonhole bootstrap).

A claim `A > B` has a two-sided p-value: the level at which that interval ends at 0. A claim `A = B` within a margin m
has two: that the difference is not within it (two one-sided tests, Schuirmann 1987: the larger of their p-values), and
that it is not beyond it (twice the one-sided p-value of |difference| - m). The smaller p-value of each claim goes
through Holm's procedure (1979) over all claims of the study, those that cannot be judged counted; see `holm`.
`benchmarks/verdicts.py` measures what all this comes to.

The 5 % hold for noise that is normal, has heavy tails, or is skewed alike in both settings. Where one setting is steady
and the other now and then fails badly, 10 to 15 % of studies have a false verdict: no test of a mean of few numbers can
know what has not happened yet.

No verdict is given where the numbers cannot bear one: see `obstacle` and `untrained`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

LEVEL = 0.05  # how many studies may have a false verdict
NOTHING = 1e-150  # a probability so small that what is computed with it leaves the range of floats
CONFIDENCE = f"{100 * (1 - LEVEL):g} %"  # of an interval, in words
AT_FLOOR = 0.05  # a setting that is above its floor by this part of it at most did not train
ROUNDING = 1e-9  # differences that are smaller than this part of the scores are none


@dataclass(frozen=True)
class Claim:
    """An expectation, written down before the runs, of two settings (named as their folders are: "kernel=3")."""

    text: str
    because: str
    left: str
    right: str
    relation: Literal[">", "<", "="]
    """left is better; worse; as good, within `margin`"""
    margin: float = 0.0


@dataclass(frozen=True)
class Score:
    """The score of one run."""

    value: float
    part: str = ""
    """the test part that it was scored on, by content; empty: not known"""
    blocks: tuple[float, ...] = ()
    """the pseudo-value of each block of that part; none: not known"""
    others: tuple[float, ...] = ()
    """every score of the run: two runs that agree in all of them are the same"""
    floor: float | None = None
    """what the same model scores without what it was given, such as a latent of zeros; None: its task has no floor"""


@dataclass(frozen=True)
class Error:
    """The variance of a mean, and its degrees of freedom."""

    variance: float
    freedom: float


@dataclass(frozen=True)
class Estimate:
    """A mean with its independent errors."""

    mean: float
    errors: tuple[Error, ...]

    def half(self, level: float) -> float:
        """Half of the interval that misses the truth with a probability of `level` at most."""
        return math.sqrt(math.fsum(quantile(level / 2, e.freedom) ** 2 * e.variance for e in self.errors))

    def interval(self) -> tuple[float, float]:
        half = self.half(LEVEL)
        return self.mean - half, self.mean + half

    def tail(self, distance: float) -> float:
        """The probability, at most, that the mean is too high by `distance`: half the level of that interval."""
        if distance <= 0:
            return 1 - self.tail(-distance) if distance < 0 else 0.5
        t = distance / math.sqrt(math.fsum(e.variance for e in self.errors))
        least, most = sorted(beyond(t, pick(e.freedom for e in self.errors)) for pick in (min, max))
        if least < NOTHING:
            return most
        low, high = math.log(least), math.log(most)
        x, y, nearer = low, self.excess(low, distance), high  # the answers if all errors had least or most freedom
        while abs(nearer - x) > 1e-9:  # secant method: in logarithms tails are nearly straight
            before, x, y_before, y = x, nearer, y, self.excess(nearer, distance)
            nearer = x if y == y_before else min(high, max(low, x - y * (x - before) / (y - y_before)))
        return math.exp(nearer)

    def excess(self, log_tail: float, distance: float) -> float:
        return math.log(self.half(2 * math.exp(log_tail)) / distance)


@dataclass(frozen=True)
class Verdict:
    """A claim held against the outcome."""

    claim: Claim
    verdict: Literal["as expected", "not expected", "unclear"]
    reason: str
    """why it could not be judged; empty if it could"""
    difference: float | None
    """the mean of left - right over the seeds that both have"""
    interval: tuple[float, float] | None
    """of the difference, 95 %, for this claim alone"""
    p: float | None
    """after Holm"""
    pairs: int
    """seeds that both have"""


# --------------------------------------------------------------------------------------------------------- Student's t


# Written out, since SciPy would add 143 MB to the 190 that an installation has beside torch, for two functions.


def beyond(t: float, freedom: float) -> float:
    """P(T > t) of Student's t."""
    whole = freedom + t * t
    tail = 0.5 * incomplete_beta(freedom / 2, 0.5, freedom / whole, t * t / whole)
    return tail if t > 0 else 1 - tail


def quantile(tail: float, freedom: float) -> float:
    """The t with P(T > t) = tail, for a tail of at most 1/2."""
    # Newton's method: P(T > t) is convex, so that from a smaller t it comes nearer from below, until rounding ends it.
    front = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - 0.5 * math.log(freedom * math.pi)
    t, better = -1.0, -NormalDist().inv_cdf(tail)
    while better > t * (1 + 1e-12):
        t = better
        density = math.exp(front - (freedom + 1) / 2 * math.log1p(t * t / freedom))
        better = t + (beyond(t, freedom) - tail) / density
    return t


def incomplete_beta(a: float, b: float, x: float, y: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by its continued fraction (DLMF 8.17.22); y = 1 - x."""
    if x == 0 or y == 0:
        return 0.0 if x == 0 else 1.0
    if x > (a + 1) / (a + b + 2):  # there the fraction of the other tail converges faster
        return 1 - incomplete_beta(b, a, y, x)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(y)
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    fraction, m = d, 0
    while abs(c * d - 1) >= 1e-15 or not m:  # Lentz's method, as Thompson & Barnett (1986) have it; NaN ends it
        m += 1
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            c, d = 1 + term / c, 1 / (1 + term * d)
            fraction *= c * d
    return math.exp(log_front) * fraction / a


# ----------------------------------------------------------------------------------------------- errors of means


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def of_mean(values: Sequence[float], shared: float = 0.0) -> Error:
    """The error of the mean of values, two or more: independent ones, or with so much of a variance in common."""
    middle, n = mean(values), len(values)
    return Error(math.fsum((x - middle) ** 2 for x in values) / (n - 1) * (1 / n + shared), n - 1)


def in_common(scores: Sequence[Score], redrawn: float) -> float:
    """What scores of several seeds have in common, of their variance: nothing, if they share a test part at all."""
    return redrawn if len({score.part for score in scores}) == len(scores) else 0.0


def of_examples(scores: Sequence[Score]) -> list[Error] | None:
    """The error of the mean of scores, one for each seed, that the spread of the seeds does not show; None: not known.

    There is none if each seed has a test part of its own. Else the seeds of one part share what that part contains.
    """
    parts: dict[str, list[Score]] = {}
    for score in scores:
        parts.setdefault(score.part, []).append(score)
    if "" in parts:
        return None
    if len(parts) == len(scores) > 1:
        return []
    found = []
    for some in parts.values():
        if len(some[0].blocks) < 2 or len({len(score.blocks) for score in some}) > 1:
            return None
        of = of_mean([mean(block) for block in zip(*(score.blocks for score in some), strict=True)])
        found.append(Error(of.variance * (len(some) / len(scores)) ** 2, of.freedom))
    return found


def alike(values: Sequence[float], scale: float) -> bool:
    """Whether values differ by no more than rounding, where numbers are as large as `scale`."""
    return max(values) - min(values) <= ROUNDING * scale


def estimate(scores: Mapping[int, Score], redrawn: float = 0.0) -> Estimate | None:
    """The mean score of a setting, by seed; None where its error is not known.

    `redrawn`: where each seed draws its test part of the same data, the size of that to the training part.
    """
    every = list(scores.values())
    values = [score.value for score in every]
    if len(values) < 2 or alike(values, max(map(abs, values))) or (examples := of_examples(every)) is None:
        return None
    return Estimate(mean(values), (of_mean(values, in_common(every, redrawn)), *examples))


# ---------------------------------------------------------------------------------------------------------- the claims


def obstacle(left: Mapping[int, Score], right: Mapping[int, Score], seeds: int) -> str:
    """Why two settings cannot be told apart, or be called alike, by these scores; empty if they can be tried.

    `seeds`: how many each should have. What failed or diverged does so for a reason, and what is left is a choice; a
    study that is judged whenever another run is there gets as many chances to be wrong.
    """
    if min(len(left), len(right)) < seeds or left.keys() != right.keys():
        return f"not judged before all {seeds} seeds of both are there"
    if seeds < 2:
        return "one seed shows no spread"
    if all(left[s].others and left[s].others == right[s].others for s in left):
        return "identical runs: nothing was compared"
    differences = [left[s].value - right[s].value for s in left]
    if alike(differences, max(abs(x.value) for side in (left, right) for x in side.values())):
        # Copies of one run, or scores too coarse to differ: in either case the spread of the seeds is not known.
        return "all seeds differ by the same, so that their spread is not known"
    return ""


def untrained(side: Mapping[int, Score], sign: int) -> bool:
    """Whether the runs of a setting are no better, in the mean, than their floor: what they learnt is not asked for."""
    floors = [score.floor for score in side.values() if score.floor is not None]
    if not floors or len(floors) < len(side):
        return False
    return sign * (mean([score.value for score in side.values()]) - mean(floors)) <= AT_FLOOR * abs(mean(floors))


def difference(left: Mapping[int, Score], right: Mapping[int, Score], redrawn: float = 0.0) -> Estimate | None:
    """The mean of left - right, paired by seed; None if the error of the examples is not known. `redrawn`: as above."""
    pairs = [(left[seed], right[seed]) for seed in left]
    values = [a.value - b.value for a, b in pairs]
    if all(a.part == b.part and len(a.blocks) == len(b.blocks) for a, b in pairs):
        examples = of_examples(
            [
                Score(a.value - b.value, a.part, tuple(x - y for x, y in zip(a.blocks, b.blocks, strict=True)))
                for a, b in pairs
            ]
        )
    else:
        both = [of_examples(list(side.values())) for side in (left, right)]
        examples = None if None in both else [error for errors in both for error in errors or ()]
    shared = in_common([a for a, _ in pairs], redrawn)
    return None if examples is None else Estimate(mean(values), (of_mean(values, shared), *examples))


def p_values(claim: Claim, found: Estimate, sign: int) -> tuple[float, float]:
    """Of the two things that may be wrong: that the claim holds, and that it does not. `sign`: +1 higher wins."""
    far = abs(found.mean)
    if claim.relation == "=":
        return found.tail(claim.margin - far), min(1.0, 2 * found.tail(far - claim.margin))
    side = sign if claim.relation == ">" else -sign
    p = 2 * found.tail(far)
    return (p, 1.0) if side * found.mean > 0 else (1.0, p)


def holm(p: Sequence[float], twofold: Sequence[bool]) -> list[float]:
    """p-values adjusted for there being several: any false one is at most x in at most a part x of studies.

    `twofold`: which are the smaller of two that can both be false (of a claim of equality, at the margin). Such a one
    goes on being counted when it is decided, as having been right on one side does not make it right on the other.
    """
    adjusted, highest, count = [0.0] * len(p), 0.0, len(p)
    for n in sorted(range(len(p)), key=lambda n: p[n]):
        highest = max(highest, min(1.0, count * p[n]))
        adjusted[n] = highest
        count -= not twofold[n]
    return adjusted


def judge(
    claims: Sequence[Claim],
    settings: Mapping[str, Mapping[int, Score]],
    seeds: int,
    sign: int,
    redrawn: float = 0.0,
) -> list[Verdict]:
    """All claims of a study held against the test scores of its settings, by name and seed; `sign`: +1 higher wins.

    `redrawn`: where each seed draws its test part of the same data, the size of that to the training part.
    """
    tried: list[tuple[str, Estimate | None, tuple[float, float]]] = []
    for claim in claims:
        left, right = settings[claim.left], settings[claim.right]
        flat = [of for of in (claim.left, claim.right) if untrained(settings[of], sign)]
        named = f"{' and '.join(flat)} did not train: no better than the floor"
        why = obstacle(left, right, seeds) or named * bool(flat)
        found = None if why else difference(left, right, redrawn)
        why = why or ("" if found else "the error of its test part is not known: score the runs again")
        tried.append((why, found, p_values(claim, found, sign) if found else (1.0, 1.0)))
    verdicts = []
    adjusted = holm([min(p) for _, _, p in tried], [claim.relation == "=" for claim in claims])
    for claim, (why, found, (holds, fails)), p in zip(claims, tried, adjusted, strict=True):
        left, right = settings[claim.left], settings[claim.right]
        paired = [left[seed].value - right[seed].value for seed in left if seed in right]
        told: Literal["as expected", "not expected", "unclear"] = "unclear"
        if found and p <= LEVEL:
            told = "as expected" if holds < fails else "not expected"
        between, p_told = (found.interval(), p) if found else (None, None)
        verdicts.append(Verdict(claim, told, why, mean(paired) if paired else None, between, p_told, len(paired)))
    return verdicts
