"""Verdicts: equal to SciPy where it knows the answer, none where the numbers cannot bear one, seldom wrong."""

import math

import numpy as np
import pytest
import verdicts
from scipy import stats

from etude.study import judge
from etude.study.judge import Claim, Error, Estimate, Score


def runs(values, part=None, blocks=None, others=True):
    """Scores by seed; without `part` each seed has a test part of its own."""
    return {
        seed: Score(value, part or f"of seed {seed}", tuple(blocks[seed]) if blocks else (), (value, seed) * others)
        for seed, value in enumerate(values)
    }


def verdict(left, right, relation=">", margin=0.0, seeds=None, sign=1, redrawn=0.0):
    (found,) = judge.judge(
        [Claim("", "", "a", "b", relation, margin)], {"a": left, "b": right}, seeds or len(left), sign, redrawn
    )
    return found


# -------------------------------------------------------------------------------------------------------- against SciPy


@pytest.mark.parametrize("freedom", [1, 2, 2.5, 4, 9, 49, 199])
def test_students_t_is_that_of_scipy(freedom):
    for t in (-30, -2, -0.5, 0, 1e-9, 0.3, 1, 4, 30, 1e4):
        assert judge.beyond(t, freedom) == pytest.approx(stats.t.sf(t, freedom), rel=1e-9)
    for tail in (0.49, 0.4, 0.1, 0.025, 1e-4, 1e-12):
        assert judge.quantile(tail, freedom) == pytest.approx(stats.t.isf(tail, freedom), rel=1e-6)


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_a_difference_is_judged_by_the_paired_t_test(n):
    rng = np.random.default_rng(n)
    left, right = rng.normal(0.3, 1, n), rng.normal(0, 1, n)
    expected = stats.ttest_rel(left, right)
    found = verdict(runs(left), runs(right))
    assert found.p == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval()
    assert found.interval == pytest.approx((interval.low, interval.high))
    assert found.difference == pytest.approx(left.mean() - right.mean())
    assert found.pairs == n


@pytest.mark.parametrize(("shift", "told"), [(0.0, "as expected"), (1.0, "unclear"), (2.0, "not expected")])
def test_equality_is_judged_by_two_one_sided_tests(shift, told):
    rng = np.random.default_rng(1)
    left, right = rng.normal(shift, 0.2, 8), rng.normal(0, 0.2, 8)
    found = verdict(runs(left), runs(right), "=", 1.0)
    assert found.verdict == told
    both = [
        stats.ttest_1samp(left - right, edge, alternative=side).pvalue
        for edge, side in ((1.0, "less"), (-1.0, "greater"))
    ]
    beyond = min(1, 2 * stats.ttest_1samp(left - right, 1.0, alternative="greater").pvalue)
    assert found.p == pytest.approx(min(max(both), beyond))


def test_holm():
    assert judge.holm([0.01, 0.04, 0.03, 0.005], [False] * 4) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # Holm 1979
    assert judge.holm([0.01, 0.04, 0.03, 0.005], [True] * 4) == pytest.approx([0.04, 0.16, 0.12, 0.02])  # Bonferroni
    assert judge.holm([0.01, 0.04, 0.03, 0.005], [True, *[False] * 3]) == pytest.approx([0.03, 0.09, 0.09, 0.02])
    assert judge.holm([0.4, 0.4, 0.4], [False] * 3) == [1, 1, 1]
    assert judge.holm([], []) == []


def test_an_interval_of_several_errors_is_banerjees_and_the_p_value_is_its_level():
    found = Estimate(1.0, (Error(0.2, 2), Error(0.1, 49)))
    half = math.sqrt(0.2 * stats.t.isf(0.025, 2) ** 2 + 0.1 * stats.t.isf(0.025, 49) ** 2)
    assert found.interval() == pytest.approx((1 - half, 1 + half))
    assert found.tail(half) == pytest.approx(0.025)
    assert found.tail(-half) == pytest.approx(0.975)
    assert found.tail(0) == 0.5


# ------------------------------------------------------------------------------------------ what the test part contains


def blocks(rng, seeds, favour, noise=0.0):
    """Pseudo-values of all seeds on one test part of 50 blocks."""
    shared = rng.normal(0, favour, 50)
    return [(shared + rng.normal(0, noise, 50)).tolist() for _ in range(seeds)]


def test_seeds_that_agree_on_one_small_test_part_prove_little():
    """All five seeds agree to a hair that A is better, on examples that favour it by chance."""
    rng = np.random.default_rng(0)
    left = blocks(rng, 5, favour=1.0)
    right = blocks(rng, 5, favour=1.0)
    scores = [[float(np.mean(b)) + 0.001 * s for s, b in enumerate(side)] for side in (left, right)]
    scores[0][0] += 0.002
    one = runs(scores[0], "one", left), runs(scores[1], "one", right)
    own = runs(scores[0]), runs(scores[1])
    assert verdict(*own).verdict != "unclear", "if the parts were independent, there would be no doubt"
    found = verdict(*one)
    assert found.verdict == "unclear" and not found.reason
    difference = np.mean(left, 0) - np.mean(right, 0)
    seeds = np.subtract(*scores)
    half = math.sqrt(
        stats.t.isf(0.025, 49) ** 2 * difference.var(ddof=1) / 50 + stats.t.isf(0.025, 4) ** 2 * seeds.var(ddof=1) / 5
    )
    assert found.interval == pytest.approx((seeds.mean() - half, seeds.mean() + half))


def test_parts_that_are_drawn_of_the_same_data_are_not_independent():
    """Nadeau & Bengio 2003, equation 10: the paired t-test with 1/S + n2/n1 for 1/S."""
    left, right = [0.91, 0.93, 0.92, 0.95], [0.90, 0.91, 0.92, 0.92]
    d = np.subtract(left, right)
    for redrawn, part in ((0.0, None), (1 / 8, None), (1 / 8, "one")):
        blocks = [[0.0, 1.0]] * 4 if part else None
        found = verdict(runs(left, part, blocks), runs(right, part, blocks), redrawn=redrawn)
        half = stats.t.isf(0.025, 3) * math.sqrt(d.var(ddof=1) * (1 / 4 + (0 if part else redrawn)))
        assert found.interval == pytest.approx((d.mean() - half, d.mean() + half)), "of one part nothing is drawn again"
    alone = judge.estimate(runs(left), 1 / 8)
    half = stats.t.isf(0.025, 3) * math.sqrt(np.var(left, ddof=1) * (1 / 4 + 1 / 8))
    assert alone.interval() == pytest.approx((np.mean(left) - half, np.mean(left) + half))


def test_what_both_settings_find_hard_cancels_only_on_the_same_examples():
    rng = np.random.default_rng(0)
    left = blocks(rng, 3, favour=1.0, noise=0.05)
    right = [(np.array(row) - 0.2 + rng.normal(0, 0.05, 50)).tolist() for row in left]
    scores = [[float(np.mean(b)) for b in side] for side in (left, right)]
    assert verdict(runs(scores[0], "one", left), runs(scores[1], "one", right)).verdict == "as expected"
    assert verdict(runs(scores[0], "one", left), runs(scores[1], "other", right)).verdict == "unclear"
    fewer = [row[:49] for row in right]
    assert verdict(runs(scores[0], "one", left), runs(scores[1], "one", fewer)).verdict == "unclear"


def test_without_evidence_of_a_shared_test_part_nothing_is_said():
    scores = runs([0.9, 0.91, 0.92], "one"), runs([0.5, 0.52, 0.51], "one")
    found = verdict(*scores)
    assert (found.verdict, found.p, found.interval) == ("unclear", None, None)
    assert "the error of its test part is not known" in found.reason
    unknown = [{s: Score(x.value) for s, x in side.items()} for side in scores]
    assert "the error of its test part is not known" in verdict(*unknown).reason
    assert judge.estimate(scores[0]) is None


# -------------------------------------------------------------------------------------------- where there is no verdict


def test_that_all_seeds_agree_is_no_verdict():
    """What the bootstrap called as expected with 3 seeds: in a quarter of studies this happens if nothing differs."""
    found = verdict(runs([0.52, 0.60, 0.57]), runs([0.51, 0.56, 0.55]))
    assert found.verdict == "unclear" and not found.reason
    assert 0.05 < found.p < 0.2


def test_one_seed_shows_no_spread():
    assert verdict(runs([0.9]), runs([0.1])).reason == "one seed shows no spread"


@pytest.mark.parametrize("relation", [">", "=", "<"])
def test_identical_runs_compare_nothing(relation):
    left = {s: Score(x, "one", (x, x + 0.1), (x, 0.3)) for s, x in enumerate([0.9, 0.91, 0.92])}
    found = verdict(left, dict(left), relation, 0.1 * (relation == "="))
    assert (found.verdict, found.reason) == ("unclear", "identical runs: nothing was compared")


@pytest.mark.parametrize("relation", [">", "="])
def test_a_setting_at_its_floor_is_named_and_not_judged(relation):
    def side(values, floors):
        return {
            s: Score(x, f"of seed {s}", floor=floor) for s, (x, floor) in enumerate(zip(values, floors, strict=True))
        }

    trained = side([0.5, 0.52, 0.51], [0.05, 0.06, 0.04])
    flat = side([0.0600, 0.0604, 0.0602], [0.0600, 0.0602, 0.0601])
    found = verdict(trained, flat, relation, 0.1 * (relation == "="))
    assert (found.verdict, found.reason) == ("unclear", "b did not train: no better than the floor")
    lifted = side([0.0610, 0.0614, 0.0612], [0.03, 0.03, 0.03])
    assert verdict(trained, lifted, relation, 0.1 * (relation == "=")).verdict != "unclear"


@pytest.mark.parametrize("relation", [">", "="])
@pytest.mark.parametrize("difference", [0.0, 0.2])
def test_differences_without_spread_have_no_error_that_is_known(relation, difference):
    """Copies of one run, where the seed changes nothing; or scores so coarse that all fall on one step."""
    left, right = [0.1 + 0.2 + difference] * 3, [0.3] * 3  # but for rounding the first are 0.3, too
    found = verdict(runs(left), runs(right), relation, 0.5 * (relation == "="))
    assert found.verdict == "unclear"
    assert found.reason == "all seeds differ by the same, so that their spread is not known"
    assert judge.estimate(runs(right)) is None


def test_what_is_left_of_a_setting_that_failed_is_a_choice():
    whole, rest = runs([0.5, 0.51, 0.52]), runs([0.9, 0.91])
    for left, right in ((whole, rest), (rest, whole), (rest, rest)):
        found = verdict(left, right, seeds=3)
        assert (found.verdict, found.pairs) == ("unclear", 2)
        assert found.reason == "not judged before all 3 seeds of both are there"


def test_a_lower_score_can_be_the_better_one_and_a_claim_can_say_worse():
    low, high = runs([0.1, 0.12, 0.11]), runs([0.9, 0.93, 0.94])
    for relation, sign, told in (
        (">", 1, "not expected"), (">", -1, "as expected"), ("<", 1, "as expected"), ("<", -1, "not expected"),
    ):  # fmt: skip
        assert verdict(low, high, relation, sign=sign).verdict == told


def test_claims_share_one_rate_of_errors():
    left, right = runs([0.9, 0.93, 0.94]), runs([0.5, 0.65, 0.60])
    claim = Claim("", "", "a", "b", ">")
    (alone,) = judge.judge([claim], {"a": left, "b": right}, 3, 1)
    among = judge.judge([claim] * 6, {"a": left, "b": right}, 3, 1)
    assert alone.verdict == "as expected" and 0.01 < alone.p < 0.05
    assert among[0].verdict == "unclear"
    assert among[0].p == pytest.approx(6 * alone.p)
    assert among[0].interval == alone.interval


# ------------------------------------------------------------------------------------------------------ how often wrong


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize(
    ("noise", "shared"), [("normal", False), ("heavy tails", False), ("normal", True), (verdicts.REDRAWN, False)]
)
def test_at_most_five_of_a_hundred_studies_have_a_false_verdict(seeds, noise, shared):
    times = 400
    now, before = verdicts.false_rates(times, 3, seeds, noise, shared)
    assert now <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / times)
    assert before > 0.2 + 0.15 * (noise == verdicts.REDRAWN), "the rule before: three times as many and more"


def test_settings_that_differ_by_the_margin_are_seldom_called_as_good():
    for seeds in (3, 10):
        assert verdicts.false_equality(400, 3, seeds) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)


def test_what_is_there_is_found():
    assert verdicts.power(100, 3, 3.0, 10)[0] > 0.95
    assert verdicts.power(100, 1, 3.0, 5)[0] > 0.9


@pytest.mark.parametrize("errors", [(Error(1e-20, 49),), (Error(1e-20, 49), Error(1e-21, 4)), (Error(1e-20, 1),)])
def test_what_varies_by_rounding_alone_has_a_probability_and_no_traceback(errors):
    """As of runs that differ by the same in every seed, but for the last bits."""
    t = 1 / math.sqrt(sum(error.variance for error in errors))
    most = stats.t.sf(t, min(error.freedom for error in errors))
    assert 0 <= Estimate(1.0, errors).tail(1.0) <= most * (1 + 1e-9)


def test_what_is_not_a_number_has_no_probability():
    assert math.isnan(judge.beyond(math.nan, 4))
