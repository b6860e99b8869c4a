"""A search: points of the ranges in `tune` are tried, and the best of each setting is run anew, with other seeds.

Every compared setting has the same number of points, each run with the seeds TUNING, TUNING + 1, ... The best on
validation is then run with the seeds 0, 1, ..., and only those runs are scored on the test part, reported and judged: a
point that won because its seed was lucky has to show itself again. (A grid reports the runs that it has chosen by.)

- *quasi*: the points of a scrambled Sobol sequence (Sobol 1967, Owen 1998; `torch.quasirandom`), the same for every
  setting. They fill the ranges evenly, also when each knob is looked at alone: 16 points try 16 learning rates, where a
  grid of 4 by 4 tries 4 (Bergstra and Bengio 2012). A longer search begins with the points of a shorter one.
- *bayes*: Optuna, one study for each setting (`etude.study.bayes`). The first BEGIN points are those of quasi; then
  each round of ROUND points follows from the scores of all before it. The seed of a draw is its number, and rounds do
  not depend on --jobs: the same scores give the same points, whatever the order in which runs end and however often
  the search is killed. Scores that differ in the last digit, as those of a stacked run or of another machine may, need
  not; nor does a search that ended within a round go on as a longer one would have.

OUT/search.json            what is searched, and the points of each setting so far
OUT/kernel=3.journal       bayes: Optuna's journal of a setting
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from etude import files
from etude.errors import UserError
from etude.study.bayes import Asking, installed
from etude.study.outcome import Scored, fresh, leaders, measure
from etude.study.question import Range, Study, Trial, Values, label
from etude.study.space import seeds_of, sobol, with_types, words

Points = dict[str, list[Values]]  # setting, as its folder is named -> its points, in their order


def ready(study: Study, config: type | None) -> Study:
    """The study with what the types of its knobs say. Raises UserError for a search that cannot be done."""
    study = with_types(study, config)
    if study.search:
        sobol(study, study.points)
    if study.search == "bayes":
        installed()
    return study


def tries(study: Study, points: Mapping[str, Sequence[Values]]) -> list[Trial]:
    """The runs of all points, the first points of all settings first; a point that comes twice is run once."""
    settings = {study.trial(setting, {}, 0).of: setting for setting in study.settings()}
    every = [
        trial
        for n in range(max(map(len, points.values()), default=0))
        for of, setting in settings.items()
        for point in points.get(of, [])[n : n + 1]
        for trial in seeds_of(study, setting, point)
    ]
    return list({(trial.group, trial.seed): trial for trial in every}.values())


def asked(study: Study) -> dict[str, Any]:
    """What makes it this search: points that were found in another way do not belong to it."""
    space = {
        k: [r.low, r.high, r.log] if isinstance(r, Range) else [label(v) for v in r] for k, r in study.tune.items()
    }
    steered = {"metric": study.metric, "tuning_seeds": study.tuning_seeds} if study.search == "bayes" else {}
    return {"search": study.search, "tune": space, **steered}


def read(study: Study, out: Path) -> Points:
    """The points that `out` holds. Raises UserError if they are those of another search."""
    remedy = f"remove {out} and start the study again"
    kept = files.read_json(out / "search.json", dict, remedy, {"asked": dict, "points": dict})
    if kept is None:
        return {}
    now = asked(study)
    if kept["asked"] != now:
        differ = [key for key in {**now, **kept["asked"]} if now.get(key) != kept["asked"].get(key)]
        raise UserError(f"{out} holds another search (another {', '.join(differ)}): remove it, or give another --out")
    return {of: list(some)[: study.points] for of, some in kept["points"].items()}


def write(study: Study, out: Path, points: Points) -> None:
    text = json.dumps({"asked": asked(study), "points": points}, indent=1) + "\n"
    with files.reported(f"cannot write to {out}", "a study needs a folder to write to (--out DIR)"):
        files.write(out / "search.json", files.encode(text))


def rounds(study: Study, out: Path) -> Iterator[tuple[Points, Points]]:
    """All points so far, and those that are tried now; what comes next may follow from their scores."""
    settings = {study.trial(setting, {}, 0).of: setting for setting in study.settings()}
    before = read(study, out)
    if study.search == "quasi":
        points = {of: sobol(study, study.points) for of in settings}
        for of, some in before.items():
            if any(words(a) != words(b) for a, b in zip(some, points.get(of, []), strict=False)):
                raise UserError(f"{out} holds other points, as another version of torch has drawn them: remove it")
        yield points, points
        return
    asking = {of: Asking(study, setting, out) for of, setting in settings.items()}
    now: Points | None = None
    while now is None or any(now.values()):
        for one in asking.values():
            one.ask()
        points = {of: [one.point(trial) for trial in one.trials()] for of, one in asking.items()}
        # First all of them: of what was tried before, something may have failed, or got lost.
        now = points if now is None else {of: [one.point(t) for t in one.open()] for of, one in asking.items()}
        if any(now.values()):
            yield points, now
        for one in asking.values():
            one.tell()


def stages(study: Study, out: Path) -> Iterator[tuple[str, Study]]:
    """What is run one after the other, studies whose runs are known, each with a line that says what it is.

    A grid is one stage. A search is its points, in one stage or in several, and then the best of each setting. The next
    stage is asked for when the one before is over.
    """
    if not study.search:
        yield "", study
        return
    for points, now in rounds(study, out):
        write(study, out, points)
        trials, most = tries(study, now), max(map(len, now.values()))
        yield f"{study.search} search: {most} points for each setting", replace(study, listed=tuple(trials))
    runs = [measure(study, out, trial) for trial in tries(study, read(study, out))]
    best = [trial.group.replace(",", " ") for trial in leaders(study, runs)]
    said = f"best on validation: {'; '.join(best) or 'none, as no run has a score'}"
    yield said, replace(study, search="", tune={}, listed=tuple(fresh(study, runs)))


def found(study: Study, out: Path) -> Study:
    """The study with its runs, as far as what lies in `out` says which these are."""
    if not study.search:
        return study
    trials = tries(study, read(study, out))
    return replace(study, listed=(*trials, *fresh(study, [measure(study, out, trial) for trial in trials])))


# ------------------------------------------------------------------------------------------------- what it was worth


def scores_of_points(study: Study, runs: Sequence[Scored]) -> list[tuple[Values, float | None]]:
    """The points of one setting with their validation scores, means over the seeds; None: a run of it failed."""
    points: dict[str, list[Scored]] = {}
    for run in runs:
        points.setdefault(run.trial.group, []).append(run)
    found: list[tuple[Values, float | None]] = []
    for some in points.values():
        scores = [run.valid for run in some if not run.problem and run.valid is not None]
        whole = len(scores) == study.tuning_seeds
        found.append((some[0].trial.tuned, math.fsum(scores) / len(scores) if whole else None))
    return found


def best_of_each_length(study: Study, scores: Sequence[float | None]) -> list[float]:
    """The best of n points, n from 1 to all: of quasi what is expected, of bayes that of the first n.

    A point that failed is as bad as the worst of the others.
    """
    known = [score for score in scores if score is not None]
    if not known:
        return []
    worst = min(known, key=lambda score: study.sign() * score)
    every = [worst if score is None else score for score in scores]
    if study.search == "bayes":
        return best_so_far(every, study.sign())
    return [expected_best(every, n, study.sign()) for n in range(1, len(every) + 1)]


def expected_best(scores: Sequence[float], n: int, sign: int) -> float:
    """The expected best of n points, drawn with replacement from points with these scores; `sign`: +1 higher wins.

    The sum over the values v that occur of v (P(V <= v)^n - P(V < v)^n), where P counts points, for the highest score
    (Dodge et al. 2019, "Show your work", equation 7); for the lowest the same of the negated scores.
    """
    ordered, count = sorted(sign * score for score in scores), len(scores)
    return sign * math.fsum(
        score * (((rank + 1) / count) ** n - (rank / count) ** n) for rank, score in enumerate(ordered)
    )


def best_so_far(scores: Sequence[float], sign: int) -> list[float]:
    """The best of the first, of the first two, ... points."""
    best = list(scores[:1])
    for score in scores[1:]:
        best.append(max(best[-1], score, key=lambda x: sign * x))
    return best
