"""The space that a search looks through, the ranges and lists of `tune`, and the points that fill it evenly."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from etude import config as configs
from etude.errors import UserError
from etude.study.question import TUNING, Range, Study, Trial, Values, label

FRUITLESS = 1000  # so many draws may bring nothing new, where few points differ


def with_types(study: Study, config: type | None) -> Study:
    """The study with ranges of whole numbers where the knobs take only such.

    Raises UserError for a knob that can have no range.
    """
    known = configs.knobs(config) if config else {}
    tune: dict[str, list[Any] | Range] = {}
    for knob, tried in study.tune.items():
        kind, _ = configs.some(known.get(configs.full(knob, known), float))
        if isinstance(tried, Range):
            where = f"{study.given}: tune: {knob}"
            if kind not in (int, float):
                raise UserError(f"{where} must be {configs.describe(kind)}, and so cannot have a range; give a list")
            if kind is int and not (tried.low.is_integer() and tried.high.is_integer()):
                raise UserError(f"{where} takes whole numbers; the range {tried} has to start and end with one")
            tried = replace(tried, whole=kind is int)
        tune[knob] = tried
    return replace(study, tune=tune)


def corners(study: Study) -> Study:
    """For a search the study of the lowest and the highest point, which says before any run whether they can be asked.

    A grid is given back as it is.
    """
    if not study.search:
        return study
    ends = [
        {knob: r.at(side) if isinstance(r, Range) else r[-side] for knob, r in study.tune.items()} for side in (0, 1)
    ]
    return replace(study, listed=tuple(study.trial(s, tuned, TUNING) for s in study.settings() for tuned in ends))


def at(study: Study, places: Sequence[float]) -> Values:
    """The point at these places, each from 0 to below 1; of a list, every value has an equal part."""
    return {
        knob: tried.at(place) if isinstance(tried, Range) else tried[int(place * len(tried))]
        for (knob, tried), place in zip(study.tune.items(), places, strict=True)
    }


def words(point: Values) -> tuple[str, ...]:
    return tuple(map(label, point.values()))


def sobol(study: Study, count: int) -> list[Values]:
    """The first points of the scrambled Sobol sequence that differ. Raises UserError if there are not so many."""
    import torch  # which takes longer to import than `--help` should
    from torch.quasirandom import SobolEngine

    engine = SobolEngine(len(study.tune), scramble=True, seed=0)
    found: dict[tuple[str, ...], Values] = {}
    fruitless = 0
    while len(found) < count:
        point = at(study, engine.draw(1, dtype=torch.float64)[0].tolist())
        fruitless = fruitless + 1 if words(point) in found else 0
        found.setdefault(words(point), point)
        if fruitless == FRUITLESS:
            raise UserError(f"{study.given}: trials: {count} is too many, as only {len(found)} points differ")
    return list(found.values())


def seeds_of(study: Study, setting: Values, point: Values) -> list[Trial]:
    """The runs that a point is tried by."""
    return [study.trial(setting, point, TUNING + n) for n in range(study.tuning_seeds)]
