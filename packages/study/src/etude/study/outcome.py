"""What the runs of a study say: read from their folders, or from a results.csv, chosen on validation, and judged.

Whatever a folder says is held against what is asked: test.json against the checkpoint (`etude.tested`), its
configuration against that of the trial (`etude.study.command`).
"""

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from etude import files, tested
from etude.errors import UserError
from etude.study.judge import Score, Verdict, estimate, judge
from etude.study.question import TUNING, Range, Study, Trial, Values, label, number, short_names

FILES = {"valid": "result", "test": "test"}
REMEDY = "delete it and start the study again"
NEEDS = {"valid": dict, **dict.fromkeys(("best_epoch", "seconds", "parameters"), int | float | None)}
Interval = tuple[float, float] | None  # None: not available
OF_DATA = {"text", "start", "transfer", "morphology"}  # parts of knobs that say, too, what is learnt from
EDGE = 0.05  # so much of a range, at each of its ends, is its edge
FEW = 2  # claims that are named where several have something in common
SHOWN = 10  # runs that are named where many have one problem


@dataclass(frozen=True)
class Scored:
    """What is known of a trial by now; `problem` says why it does not count (empty: it counts)."""

    trial: Trial
    problem: str = ""
    valid: float | None = None
    test: float | None = None
    best_epoch: int | None = None
    seconds: float | None = None
    parameters: int | None = None
    scores: dict[str, float] = field(default_factory=dict)
    """every score of the run, "valid_loss", "test_accuracy", ..."""
    part: str = ""
    """the test part by content; empty: not known, or the test score has no evidence yet"""
    blocks: tuple[float, ...] = ()
    """of the test score, see `etude.study.judge`"""
    machine: str = ""
    commit: str = ""
    untested: str = ""
    """why there is no test score, where there could be one"""
    precision: str = ""
    """of its computations, fp32, bf16 or fp16; empty: not known, as from an older results.csv"""
    learnt: tuple[str, ...] = ()
    """what it was trained and chosen on, by content; none: not known, as from an older results.csv"""
    fixed: str = ""
    """the knobs that were the same for all, as in `fixed_of`; empty: not known, as from an older results.csv"""


@dataclass(frozen=True)
class Row:
    """A compared setting with its best tuned values; scores are seed -> metric of the runs that count."""

    setting: Values
    tuned: Values
    of: str
    test: dict[int, float]
    valid: dict[int, float]
    parameters: int | None
    seconds: float | None
    """Mean over the runs."""
    interval: Interval
    """of the mean test score, 95 %"""


@dataclass(frozen=True)
class Outcome:
    """What a study says, as far as its runs are there."""

    study: Study
    rows: list[Row]
    verdicts: list[Verdict]
    edges: list[str]
    """What else is to be known: best values at an edge, points of a search that failed, what else settings vary."""
    problems: list[str]
    """Runs that are missing, failed or left out, and why; empty if the study is complete."""
    runs: list[Scored]


def mean(values: Mapping[int, float]) -> float | None:
    return math.fsum(values.values()) / len(values) if values else None


def metric_in(scores: Mapping[str, Any], metric: str, path: Path) -> float:
    if not isinstance(scores.get(metric), int | float):
        has = sorted(k for k, v in scores.items() if isinstance(v, int | float))
        raise UserError(f"the study's metric {metric!r} is not in {path}; there are: {', '.join(has) or 'none'}")
    return float(scores[metric])


def last_line(log: Path) -> str:
    """The last thing a trial said: the error, if it failed."""
    try:
        f = log.open("rb")
    except OSError as error:
        return f"{log.name} cannot be read ({files.why(error)})"
    with f:
        f.seek(max(0, log.stat().st_size - 10_000))
        lines = [line.strip() for line in f.read().decode(errors="replace").splitlines()]
    last = next((line for line in reversed(lines) if line), "$")
    return "it said nothing" if last.startswith("$") else last  # a line with $ is the command that `start` writes


def measure(study: Study, out: Path, trial: Trial) -> Scored:
    """What the folder of a trial tells."""
    folder = trial.folder(out)
    result = files.read_json(folder / "result.json", dict, REMEDY, NEEDS)
    if result is None:
        log = folder / "log.txt"
        return Scored(trial, f"not finished; its last words: {last_line(log)}" if log.exists() else "not run")
    test = files.read_json(folder / "test.json", dict, REMEDY, {})
    untested = "" if test is None else tested.problem(folder, result, test)
    parts = {"valid": result["valid"]} | ({} if test is None or untested else {"test": test})
    main = {p: metric_in(found, study.metric, folder / f"{FILES[p]}.json") for p, found in parts.items()}
    odd = [f"left out: {part} {study.metric} is {x}" for part, x in main.items() if not math.isfinite(x)]
    kept = files.read_json(folder / tested.BLOCKS, dict, REMEDY, {}) or {}
    if kept.get("scores") != parts.get("test"):  # of other scores, which a kill left there
        kept = {}
    about = files.read_json(folder / "about.json", dict, REMEDY, {}) or {}
    marks = about.get("fingerprints") or {}
    start = ([{}, *(files.read_json(folder / "environment.json", list, REMEDY, {}) or [])])[-1]
    return Scored(
        trial,
        odd[0] if odd else "",
        main["valid"],
        main.get("test"),
        **{key: result.get(key) for key in ("best_epoch", "seconds", "parameters")},
        scores={
            f"{part}_{name}": float(value)
            for part, found in parts.items()
            for name, value in found.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        },
        part=str(kept.get("part", "")),
        blocks=tuple(kept.get("blocks", {}).get(study.metric, ())),
        machine=str(start.get("device", "")),
        commit=str(start.get("git") or ""),
        untested=untested,
        precision=str(start.get("precision") or ""),
        learnt=tuple(str(marks[part]) for part in ("train", "valid") if part in marks),
        fixed=fixed_of(study),
    )


def fixed_of(study: Study) -> str:
    """The knobs that are the same for all runs: "data=names fit.epochs=5"; of a path the last part, spaces escaped."""
    told = {knob: label(value).replace("\\", "/").rstrip("/").rpartition("/")[2] for knob, value in study.fixed.items()}
    return " ".join(f"{knob}={value.replace(' ', '%20')}" for knob, value in sorted(told.items()))


def best_group(study: Study, runs: Sequence[Scored]) -> list[Scored]:
    """Of runs of one compared setting those of the best tuned values: best on VALIDATION, mean over the seeds.

    Values that failed for some seeds cannot win on the rest: only those with the most runs that count are held
    together.
    """
    groups: dict[str, list[Scored]] = {}
    for run in runs:
        groups.setdefault(run.trial.group, []).append(run)

    def merit(group: list[Scored]) -> tuple[int, float]:
        # Whatever the test part says: a run that is left out for that was trained, and counts here.
        valid = [run.valid for run in group if run.valid is not None and math.isfinite(run.valid)]
        return len(valid), study.sign() * math.fsum(valid) / max(1, len(valid))

    return max(groups.values(), key=merit, default=[])  # the first as written, among equals


def choose(study: Study, runs: Sequence[Scored]) -> list[Scored]:
    """Of all runs of one compared setting, those that are reported: of the best tuned values.

    A grid reports the runs that it has chosen by; a search, those of the best point with seeds of their own.
    """
    if not study.search:
        return best_group(study, runs)
    best = leader(study, runs)
    return [run for run in runs if best and run.trial.group == best.group and not run.trial.tuning]


def leader(study: Study, runs: Sequence[Scored]) -> Trial | None:
    """A run of the best point of a search, of all runs of one compared setting; None: there is no score."""
    best = best_group(study, [run for run in runs if run.trial.tuning])
    return next((run.trial for run in best if not run.problem), None)


def leaders(study: Study, runs: Sequence[Scored]) -> list[Trial]:
    """Those of all compared settings, of all runs."""
    best = [leader(study, [run for run in runs if run.trial.of == of]) for of in study.names()]
    return [trial for trial in best if trial]


def fresh(study: Study, runs: Sequence[Scored]) -> list[Trial]:
    """What is run when a search is over: its best points, with the seeds that are reported."""
    best = leaders(study, runs)
    return [study.trial(trial.setting, trial.tuned, seed) for seed in range(study.seeds) for trial in best]


def summarise(study: Study, out: Path) -> Outcome:
    """Read whatever runs of the study are in `out`, and judge; nothing is written."""
    return conclude(study, [measure(study, out, trial) for trial in study.trials()])


def conclude(study: Study, runs: list[Scored]) -> Outcome:
    """What the runs of a study say, one for each of its trials."""
    problems, notes = what_is_missing(study, runs)
    mixed = on_other_data(study, runs)
    problems += mixed
    rows: list[Row] = []
    by_seed: dict[str, dict[int, Score]] = {}
    for setting in study.settings():
        of = study.trial(setting, {}, 0).of
        every = [run for run in runs if run.trial.of == of]
        best = choose(study, every)
        counted = [run for run in best if not run.problem]
        untested = [f"{run.trial}{f' ({run.untested})' if run.untested else ''}" for run in counted if run.test is None]
        if untested:
            problems.append(f"no test score yet: {some(untested)}")
        scores = by_seed[of] = {
            run.trial.seed: Score(
                run.test,
                run.part,
                run.blocks,
                tuple(run.scores.values()),
                run.scores.get(f"test_floor_{study.metric}"),
            )
            for run in counted
            if run.test is not None
        }
        estimated = estimate(scores, study.redrawn)
        row = Row(
            setting,
            best[0].trial.tuned if best else dict.fromkeys(study.tune),
            of,
            test={seed: score.value for seed, score in scores.items()},
            valid={run.trial.seed: run.valid for run in counted if run.valid is not None},
            parameters=counted[0].parameters if counted else None,
            seconds=mean({run.trial.seed: run.seconds for run in counted if run.seconds is not None}),
            interval=estimated.interval() if estimated else None,
        )
        rows.append(row)
        notes += at_the_edge(study, row, every) if counted else []
    notes += unlike(study, runs)
    comparable: dict[str, dict[int, Score]] = {of: {} for of in by_seed} if mixed else by_seed
    verdicts = judge(study.expect, comparable, study.seeds, study.sign(), study.redrawn)
    return Outcome(study, rows, verdicts, notes, problems, runs)


def on_other_data(study: Study, runs: Sequence[Scored]) -> list[str]:
    """Which runs cannot be held together, as the data have changed between them, though the study varies none.

    Runs of one seed have the same test part; they learn from the same examples, too, where nothing is varied that says
    from which (`OF_DATA`). The seeds of a setting have one test part, or each its own: some alike and some not are the
    runs of before and after. Not asked for is how many examples are left of a part: a longest text leaves out what is
    longer.
    """
    varied = [knob.split(".") for knob in (*study.compare, *study.tune)]
    counted = [run for run in runs if not run.problem]
    told = []
    if not any(parts[0] in ("data", "task") for parts in varied):
        told += [f"{both} were scored on" for both in apart(counted, lambda run: run.part.partition("-")[0])]
        if not any(OF_DATA & set(parts) for parts in varied):
            told += [f"{both} were trained on" for both in apart(counted, lambda run: " ".join(run.learnt))]
    for of in study.names():
        mine = {run.trial.seed: run.part.partition("-")[0] for run in counted if run.trial.of == of and run.part}
        if 1 < len(set(mine.values())) < len(mine):
            seeds = ", ".join(str(seed) for seed, part in sorted(mine.items()) if part != mine[min(mine)])
            told.append(f"{of}: seeds {seeds} and the others, some of which share a test part, were scored on")
    remedy = "so that nothing is judged: delete the runs on the older ones, and start the study again"
    return [f"{line} different data, {remedy}" for line in told]


def apart(runs: Sequence[Scored], mark: Callable[[Scored], str]) -> list[str]:
    """Of each seed whose runs have several marks, the first run of each: "A seed=0 and B seed=0"."""
    found: dict[int, dict[str, Trial]] = {}
    for run in runs:
        if mark(run):
            found.setdefault(run.trial.seed, {}).setdefault(mark(run), run.trial)
    return [" and ".join(map(str, marks.values())) for marks in found.values() if len(marks) > 1]


def unlike(study: Study, runs: Sequence[Scored]) -> list[str]:
    """What runs differ in that nobody asked for: the precision; of a claim's sides, how much of a test part is left.

    And the commit or the machine, where the sides of a claim have none in common: what changed with it is then not told
    from what is compared. And the knobs that were fixed, where they are not those of the study as it is asked now.
    """
    sizes: dict[str, set[str]] = {}
    for run in runs:
        if run.part and not run.problem:
            sizes.setdefault(run.trial.of, set()).add(run.part)
    names = study.names()
    told, kinds = [], {run.precision: str(run.trial) for run in runs if run.precision and not run.problem}
    if len(kinds) > 1 and not any(knob == "fit.precision" for knob in (*study.compare, *study.tune)):
        told.append(f"in different precisions: {', '.join(f'{trial} in {kind}' for kind, trial in kinds.items())}")
    for claim in study.expect:
        left, right = (sizes.get(of, set()) for of in (claim.left, claim.right))
        if len(left) == len(right) == 1 and left != right:
            (one, n), (other, m) = (next(iter(part)).rpartition("-")[::2] for part in (left, right))
            if one == other:
                told.append(
                    f"{claim.text}: {n} and {m} examples of one test part: they differ by what was left out, too"
                )
    for what, mark in (("commits", "commit"), ("machines", "machine")):
        marks = {
            name: {getattr(run, mark) for run in runs if run.trial.of == name and not run.problem} for name in names
        }
        apart_in = [claim.text for claim in study.expect if parted(marks[claim.left], marks[claim.right])]
        if apart_in:
            which = ", ".join(apart_in) if len(apart_in) <= FEW else f"{len(apart_in)} of {len(study.expect)} claims"
            told.append(f"{which}: the two sides were run on different {what}, which may count, too")
    asked = fixed_of(study)
    for fixed in sorted({run.fixed for run in runs if run.fixed} - {asked}):
        ran, has = (" ".join(x for x in a.split() if x not in b.split()) for a, b in ((fixed, asked), (asked, fixed)))
        told.append(f"run with {ran or 'less fixed'}, where the study has {has or 'the default'}")
    return told


def parted(left: set[str], right: set[str]) -> bool:
    """Whether two sets of marks have none in common; an empty mark is not known."""
    return bool(left and right and not left & right and "" not in left | right)


def what_is_missing(study: Study, runs: Sequence[Scored]) -> tuple[list[str], list[str]]:
    """Why the study is not complete; and what has to be known of its search, where that a point fails is an answer."""
    failed: dict[tuple[str, bool], list[Scored]] = {}
    for run in runs:
        if run.problem and run.problem != "not run":
            failed.setdefault((run.trial.group, run.trial.tuning), []).append(run)
    told: dict[bool, list[str]] = {False: [], True: []}
    for (_, tuning), (first, *others) in failed.items():
        told[tuning].append(f"{first.trial}: {first.problem}{and_seeds(others)}")
    problems, notes = told[False], [f"{line}; this point cannot win" for line in told[True]]
    missing = [str(run.trial) for run in runs if run.problem == "not run"]
    if missing:
        problems.append(f"{len(missing)} of {len(runs)} runs are missing: {some(missing)}")
    for of in study.names() if study.search else ():
        tried = {run.trial.group for run in runs if run.trial.of == of and run.trial.tuning}
        if len(tried) < study.points:
            problems.append(f"{of}: {len(tried)} of the {study.points} points of its search are there")
        if tried and not leader(study, [run for run in runs if run.trial.of == of]):
            problems.append(f"{of}: no point of its search has a score")
    return problems, notes


def some(names: Sequence[str]) -> str:
    """So many that they can be read, and how many others there are."""
    if len(names) <= SHOWN + 1:
        return ", ".join(names)
    return f"{', '.join(names[:SHOWN])} and {len(names) - SHOWN:,} others"


def and_seeds(runs: Sequence[Scored]) -> str:
    """What is said of the other runs of a setting that do not count, after what the first one's problem is."""
    if len(runs) < 2:
        return "".join(f"; nor does seed {run.trial.seed} count, as results.csv says" for run in runs)
    return f"; neither do seeds {some([str(run.trial.seed) for run in runs])} count, as results.csv says"


def at_the_edge(study: Study, row: Row, runs: Sequence[Scored]) -> list[str]:
    """The tuned knobs whose best value is the least or the most that was tried, or within EDGE of a range's end."""
    shorts, edges = short_names([*study.compare, *study.tune]), []
    for knob, value in row.tuned.items():
        space, best = study.tune[knob], number(value)
        every = space if isinstance(space, list) else [run.trial.tuned[knob] for run in runs]
        tried = [x for x in map(number, every) if x is not None]
        if best is None or len(tried) < len(every) or len(set(tried)) < 2:
            continue
        if isinstance(space, Range):
            if best in (min(tried), max(tried)) or not EDGE < space.place(best) < 1 - EDGE:
                edges.append(f"{shorts[knob]}={label(value)} is at the edge of its range, {space} ({row.of}): widen it")
        elif best in (min(tried), max(tried)):
            edges.append(f"{shorts[knob]}={label(value)} is the edge of its range ({row.of}): widen it")
    return edges


# --------------------------------------------------------------------------------------------------------- results.csv

FACTS: dict[str, Callable[[str], Any]] = {  # a column for each, and how it is read
    "best_epoch": lambda text: int(text) if text else None,
    "seconds": lambda text: float(text) if text else None,
    "parameters": lambda text: int(text) if text else None,
    "machine": str,
    "commit": str,
    "problem": str,
    "part": str,
    "blocks": lambda text: tuple(map(float, text.split())),
}
LATER: dict[str, Callable[[str], Any]] = {  # columns that older files lack
    "precision": str,
    "learnt": lambda text: tuple(text.split()),
    "fixed": str,
}


def lines_of(outcome: Outcome) -> list[list[str]]:
    """Header and a line for each run: all that `conclude` needs, so that a study can be judged again from this alone.

    The compared and tuned knobs, the seed, every score ("valid_loss", "test_accuracy"), FACTS and LATER; `part` is the
    test part, `blocks` the pseudo-values of the study's metric there, see `etude.study.judge`; `learnt` what it was
    trained and chosen on; `fixed` what was the same for all. What is not known is empty.
    """
    names = list(dict.fromkeys(name for run in outcome.runs for name in run.scores))
    lines = [[*outcome.study.compare, *outcome.study.tune, "seed", *names, *FACTS, *LATER]]
    for run in outcome.runs:
        facts = {name: getattr(run, name) for name in (*FACTS, *LATER)}
        facts |= {"blocks": " ".join(map(repr, run.blocks)), "learnt": " ".join(run.learnt)}
        cells = [*map(run.scores.get, names), *facts.values()]
        lines.append([*key(run.trial), *("" if x is None else str(x) for x in cells)])
    return lines


def key(trial: Trial) -> tuple[str, ...]:
    """The first cells of its line."""
    return (*map(label, [*trial.setting.values(), *trial.tuned.values()]), str(trial.seed))


def kept(study: Study, file: Path) -> list[Scored]:
    """The runs of a study that a file like results.csv tells of, for `conclude`; those it does not are "not run".

    Of a search the file says, too, which runs there are.
    """
    try:
        with file.open(newline="", encoding="utf-8") as f:
            lines = list(csv.DictReader(f, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise UserError(f"{file}: cannot be read as CSV ({e}); it has to be the results.csv of a study") from e
    knobs = [*study.compare, *study.tune, "seed"]
    found: dict[tuple[str, ...], Scored] = {}
    trials = {} if study.search else {key(trial): trial for trial in study.trials()}
    for n, line in enumerate(lines, 2):
        try:
            which = tuple(line[knob] for knob in knobs)
            trial = trial_of(study, which) if study.search else trials.get(which)
            if trial is None:
                raise ValueError(f"the study has no run {' '.join(which)}")
            if which in found:
                raise ValueError(f"the run {' '.join(which)} stands here twice")
            found[which] = scored_of(study, trial, line)
        except (KeyError, ValueError, TypeError, AttributeError) as e:
            raise UserError(f"{file}, line {n}: {e}; it has to be the results.csv of this study") from e
    if study.search:
        searched = {which: run for which, run in found.items() if run.trial.tuning}
        trials = {which: run.trial for which, run in searched.items()}
        trials |= {key(trial): trial for trial in fresh(study, list(searched.values()))}
        if other := next((which for which in found if which not in trials), None):
            raise UserError(f"{file}: {' '.join(other)} is no run of the best point on validation; make it anew")
    return [found.get(which, Scored(trial, "not run")) for which, trial in trials.items()]


def trial_of(study: Study, which: Sequence[str]) -> Trial | None:
    """The run of a search that the first cells of a line name; None if the study can have no such run."""
    *cells, seed = which
    compared, words = cells[: len(study.compare)], cells[len(study.compare) :]
    setting = next((s for s in study.settings() if [*map(label, s.values())] == compared), None)
    tuned = {knob: value_of(study, knob, word) for knob, word in zip(study.tune, words, strict=True)}
    here = seed.isdecimal() and (int(seed) < study.seeds or 0 <= int(seed) - TUNING < study.tuning_seeds)
    known = here and None not in tuned.values()
    return study.trial(setting, tuned, int(seed)) if known and setting is not None else None


def value_of(study: Study, knob: str, word: str) -> Any:
    """The value of a tuned knob that a cell has; None if it is none of those that are searched."""
    space = study.tune[knob]
    if isinstance(space, list):
        return next((value for value in space if label(value) == word), None)
    x = number(word)
    return word if x is not None and space.low <= x <= space.high else None


def scored_of(study: Study, trial: Trial, line: Mapping[str, str]) -> Scored:
    """A line of results.csv. Raises KeyError or ValueError for what is none."""
    scores = {name: float(x) for name, x in line.items() if name.startswith(("valid_", "test_")) and x}
    valid, test = (scores.get(f"{part}_{study.metric}") for part in ("valid", "test"))
    if valid is None and not line["problem"]:
        raise ValueError(f"there is no valid_{study.metric}")
    facts = {name: read(line[name]) for name, read in FACTS.items()}
    facts |= {name: read(line.get(name) or "") for name, read in LATER.items()}
    return Scored(trial, valid=valid, test=test, scores=scores, **facts)
