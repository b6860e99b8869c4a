"""What the folders of runs and studies tell, those too that are still at work: all that a report knows."""

import json
import math
import re
import shlex
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

from etude import files, tested
from etude.config import to_flags
from etude.errors import UserError
from etude.package import Package
from etude.report.chart import Curve, Point
from etude.study import table
from etude.study.command import command, configurations, refuse_other_configurations
from etude.study.file import available, load_of
from etude.study.outcome import Outcome, Row, conclude, kept, last_line, mean, summarise
from etude.study.question import Study, folder_name, short_names
from etude.study.search import found

BEFORE, AFTER = "before training", "at the end"


@dataclass(frozen=True)
class Record:
    """What a run folder tells, whether its run is finished, at work or broken off."""

    folder: Path
    config: str
    """config.yaml as it stands"""
    starts: list[dict[str, Any]]
    """environment.json: one entry per start"""
    about: dict[str, Any]
    """about.json: the data and the model in words"""
    rows: list[dict[str, Any]]
    """metrics.jsonl: one row per finished epoch"""
    result: dict[str, Any] | None
    test: dict[str, Any] | None
    """test.json, if its scores are of the checkpoint that the finished run has kept"""
    untested: str = ""
    """why it is not shown, if it is there"""


@dataclass(frozen=True)
class Sample:
    """Something that the task showed: a text (Markdown) or a picture."""

    name: str
    when: str
    """before training, after epoch 3, at the end"""
    file: Path


@dataclass(frozen=True)
class Group:
    """The runs that differ in their seed only; `number` is that of its curve."""

    name: str
    number: int
    records: list[Record]
    """the finished ones; where none is, those that have begun"""
    finished: bool


@dataclass(frozen=True)
class Section:
    """One RUN or STUDY that was asked for."""

    place: Path
    title: str
    command: str
    """what makes it, or goes on with it"""
    metric: str
    better: str
    groups: list[Group]
    outcome: Outcome | None
    """None for a single run"""
    problems: list[str]
    best: Group | None
    """the setting with the best score, on validation, of those that were begun"""
    prose: str = ""
    """what a person concluded, Markdown"""


# ------------------------------------------------------------------------------------------------ what the folders tell


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl; none before the first epoch is over."""
    try:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        for number, row in enumerate(rows, 1):
            parts = [row.get(key) for key in ("epoch", "train", "valid")] if isinstance(row, dict) else []
            if [type(part) for part in parts] != [int, dict, dict]:
                raise ValueError(f"line {number} is no row of an epoch")
    except FileNotFoundError:
        return []
    except (OSError, ValueError, RecursionError) as error:
        remedy = f"delete {file.parent} and start the run again"
        raise UserError(f"{file} cannot be read ({files.reason(error)}): {remedy}") from None
    return rows


def record(folder: Path) -> Record:
    """Reads a run folder, in whatever state it is."""
    config, again = folder / "config.yaml", "delete it and start the run again"
    try:
        text = config.read_text(encoding="utf-8")
    except FileNotFoundError:
        text = ""
    except (OSError, ValueError) as error:
        raise UserError(f"{config} cannot be read ({files.reason(error)}): put a copy of it there") from None
    words = dict.fromkeys(("data", "model", "architecture", "metric"), str)
    about = files.read_json(folder / "about.json", dict, again, words) or {}
    result = files.read_json(folder / "result.json", dict, again, {"valid": dict, "epochs": int, "best_epoch": int})
    test = files.read_json(folder / "test.json", dict, "delete it and evaluate the run again", {})
    for scores, name in ((result and result["valid"], "result.json"), (test, "test.json")):
        if scores and "metric" in about and not isinstance(scores.get(about["metric"]), int | float):
            raise UserError(f"{folder / name} cannot be read (its {about['metric']} is no number): {again}")
    untested = "" if test is None else tested.problem(folder, result, test)
    starts = files.read_json(folder / "environment.json", list, again, {}) or []
    rows = read_lines(folder / "metrics.jsonl")
    return Record(folder, text, starts, about, rows, result, None if untested else test, untested)


def samples(folder: Path) -> dict[str, list[Sample]]:
    """What a run showed, by name, in the order of training: files NAME-epoch-003.md, NAME-end.png, NAME.png.

    What shows the way comes first, and of that what the task wrote first.
    """
    found: dict[str, list[tuple[float, Sample]]] = {}
    for file in sorted((folder / "samples").glob("[!.]*"), key=lambda file: (file.lstat().st_mtime_ns, file.name)):
        if match := re.fullmatch(r"(.+?)(?:-(?:epoch-)?(\d+|end))?\.(?:png|md)", file.name):
            epoch = math.inf if match[2] in (None, "end") else int(match[2])
            when = AFTER if epoch == math.inf else f"after epoch {epoch}" if epoch else BEFORE
            name = match[1].replace("-", " ")
            found.setdefault(name, []).append((epoch, Sample(name, when, file)))
    series = [(name, [sample for _, sample in sorted(some, key=lambda x: x[0])]) for name, some in found.items()]
    return dict(sorted(series, key=lambda item: len(item[1]) == 1))


def before_during_after(series: Sequence[Sample]) -> list[Sample]:
    """The first, the middle and the last of a series; of two, both."""
    return [series[n] for n in sorted({0, (len(series) - 1) // 2, len(series) - 1})]


def curve(group: Group, part: str, metric: str) -> Curve:
    """A metric of "train" or "valid" by epoch: mean and range over the runs, as far as all of them have come.

    Where some have stopped, a mean over the rest would jump.
    """
    runs = []
    for one in group.records:
        scores = {row["epoch"]: row[part].get(metric) for row in one.rows}
        runs.append({epoch: x for epoch, x in scores.items() if isinstance(x, int | float) and math.isfinite(x)})
    points = []
    for epoch in sorted(set.intersection(*map(set, runs))) if runs else []:
        values = [run[epoch] for run in runs]
        points.append(Point(epoch, math.fsum(values) / len(values), min(values), max(values)))
    return Curve(group.name, group.number, points)


def metrics(groups: Iterable[Group], part: str) -> list[str]:
    """The names of the metrics that the runs have in "train" or "valid", in the order of the task."""
    rows = [row for group in groups for one in group.records for row in one.rows[:1]]
    return list(dict.fromkeys(name for row in rows for name in row[part]))


# ----------------------------------------------------------------------------------------------------- runs and studies


def section(package: Package, place: Path, call: str) -> Section:
    """A RUN or STUDY folder. Raises UserError if it is neither, or another task's."""
    if place.suffix == ".csv":
        found = of_results(package, place)
    elif (place / "study.yaml").is_file():
        found = of_study(package, place, call)
    elif (place / "config.yaml").is_file():
        found = of_run(package, place, call)
    else:
        has = "there is no such folder" if not place.is_dir() else "it has neither config.yaml nor study.yaml"
        raise UserError(f"{place} is not the folder of a run or study: {has}")
    for one in (one for group in found.groups for one in group.records):
        task = str(one.about.get("task", package.module)).replace("_", "-")
        if task != package.name:
            other = f"{task} report {shlex.quote(str(place))}"
            raise UserError(f"{place} is of {task}, not of {package.name}: say {other}")
    return found


def of_run(package: Package, place: Path, call: str) -> Section:
    one, title, problems = record(place), package.name, []
    with suppress(metadata.PackageNotFoundError, KeyError):
        title = metadata.metadata(package.name)["Summary"] or title
    if one.result is None:
        epochs = "1 epoch is finished" if len(one.rows) == 1 else f"{len(one.rows) or 'no'} epochs are finished"
        log = place / "log.txt"
        said = f"; its last words: {last_line(log)}" if log.is_file() else ""
        problems.append(f"The run is not finished: {epochs}{said}.")
    if one.test is None:
        why = f" ({one.untested})" if one.untested else ""
        problems.append(f"No test score yet{why}: {call} evaluate {shlex.quote(str(place))}")
    group = Group(place.name, 0, [one], one.result is not None)
    again = f"{call} train {shlex.quote(str(place / 'config.yaml'))}"
    metric, better = one.about.get("metric", "loss"), one.about.get("better", "lower")
    return Section(place, title, again, metric, better, [group], None, problems, group)


def of_study(package: Package, place: Path, call: str) -> Section:
    asked = found(replace(load_of(package, str(place / "study.yaml")), name=place.name), place)
    refuse_other_configurations(asked, place, configurations(asked, package.config))
    outcome = summarise(asked, place)
    groups = []
    for number, row in enumerate(outcome.rows):
        best = folder_name({**row.setting, **row.tuned}, short_names([*asked.compare, *asked.tune]))
        of = [run for run in outcome.runs if run.trial.group == best and not run.trial.tuning]
        ended = [record(run.trial.folder(place)) for run in of if not run.problem]
        begun = [record(run.trial.folder(place)) for run in of if run.problem and run.valid is None]
        begun = [one for one in begun if one.rows]
        groups.append(Group(in_words(best), number, ended or begun, bool(ended)))
    problems = list(outcome.problems)
    for run in outcome.runs:
        if run.valid is None and (rows := read_lines(run.trial.folder(place) / "metrics.jsonl")):
            problems.append(f"{run.trial}: {len(rows)} of its epochs are finished")
    scored = [(mean(row.valid), group) for row, group in zip(outcome.rows, groups, strict=True)]
    ranked = [(asked.sign() * score, group) for score, group in scored if score is not None]
    begun_ones = [group for group in groups if group.records]
    best_one = max(ranked, key=lambda pair: pair[0])[1] if ranked else next(iter(begun_ones), None)
    again = study_command(package, asked, place, call)
    return Section(place, asked.question, again, asked.metric, asked.better, groups, outcome, problems, best_one)


def of_results(package: Package, file: Path) -> Section:
    """A study of the package by STUDY.csv alone: there are no curves and no examples.

    STUDY.md beside it may have the command that made it, as a block of code, and then what was concluded from it.
    """
    asked = load_of(package, file.stem)
    outcome = conclude(asked, kept(asked, file))
    groups = [Group(in_words(row.of), number, [], False) for number, row in enumerate(outcome.rows)]
    notes = file.with_suffix(".md")
    with files.reported(f"{notes} cannot be read", "put a copy of it there"):
        text = notes.read_text(encoding="utf-8") if notes.is_file() else ""
    made = re.match(r"```bash\n(.+)\n```\n", text)
    again = made[1] if made else f"study {file.stem} of {package.name}, with flags that {file.name} does not tell"
    prose = text[made.end() if made else 0 :].strip()
    about = (asked.question, again, asked.metric, asked.better)
    return Section(file, *about, groups, outcome, outcome.problems, None, prose)


def in_words(folder: str) -> str:
    """The name of a setting's folder for people: "kernel=3,lr=0.003" -> "kernel 3, lr 0.003"."""
    return ", ".join(unquote_plus(part).replace("=", " ", 1) for part in folder.split(","))


def study_command(package: Package, asked: Study, place: Path, call: str) -> str:
    """The command line that gives this study anew: by the name it has in the package, if it is that one."""
    for name in available(package.module):
        ours = load_of(package, name)
        extra = {knob: value for knob, value in asked.fixed.items() if ours.fixed.get(knob) != value}
        if replace(ours, fixed={**ours.fixed, **extra}, name="", given="") == replace(asked, name="", given=""):
            return command(package.name, ours, place, to_flags(extra), package.config, call)
    return f"{call} {shlex.join(['study', str(place / 'study.yaml'), '--out', str(place)])}"


def conclusions(found: Section) -> list[str]:
    """What the numbers say, in sentences."""
    return of_one_run(found) if found.outcome is None else of_settings(found, found.outcome)


def of_one_run(found: Section) -> list[str]:
    one, said = found.groups[0].records[0], []
    if one.result is not None:
        kept = f"Epoch {one.result['best_epoch']} of {one.result['epochs']} was kept"
        score = table.cell(one.result["valid"].get(found.metric), ".4f")
        said.append(f"{kept}: {found.metric} {score} on the validation part.")
    if one.test is not None:
        said.append(f"On the test part: {found.metric} {table.cell(one.test.get(found.metric), '.4f')}.")
    return said or ["The run is not finished; there is nothing to conclude yet."]


def of_settings(found: Section, outcome: Outcome) -> list[str]:
    def scored(row: Row) -> str:
        valid, test = (table.cell(mean(of), ".4f") for of in (row.valid, row.test))
        interval = f" {table.bounds(row.interval, '.4f')}" if row.interval else ""
        few = f", {len(row.valid)} of {seeds} seeds" if len(row.valid) < seeds else ""
        return f"{in_words(row.of)}: {found.metric} {valid} there, {test}{interval} on the test part{few}"

    sign, seeds, verdicts = outcome.study.sign(), outcome.study.seeds, outcome.verdicts
    rows = [row for row in outcome.rows if row.valid]
    if not rows:
        return ["No run is finished yet; there is nothing to conclude."]
    rows.sort(key=lambda row: (-len(row.valid), -sign * (mean(row.valid) or 0)))  # few seeds cannot win
    said = [f"Best on the validation part is {scored(rows[0])}."]
    if len(rows) > 1:
        said.append(f"Next is {scored(rows[1])}. Whether two settings differ is judged for expectations only.")
    if verdicts:
        counts = {kind: sum(v.verdict == kind for v in verdicts) for kind in ("as expected", "not expected", "unclear")}
        told = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        said.append(f"Of {len(verdicts)} expectation{'s' * (len(verdicts) > 1)}: {told}.")
    return [*said, "The study is not complete; this may change."] if found.problems else said
