"""A written question put to many runs: compared knobs, tuned knobs, seeds, expectations, verdicts.

The vocabulary is that of Google's tuning playbook (Godbole et al. 2023): *scientific* knobs are compared, *nuisance*
knobs are tuned separately for every compared setting, on validation, and the rest is *fixed*. Every trial is a command
line in a process of its own, so it can be repeated by hand, and a crash takes nothing else with it.

    OUT/study.yaml  results.md  results.csv
    OUT/kernel=3,lr=0.003/           the curves averaged over the seeds, for TensorBoard
    OUT/kernel=3,lr=0.003/seed=0/    one run folder, and log.txt: what the run said

Runs that differ in seed and in numbers such as the learning rate only are trained by one process, as one stacked
program (`etude.many`), unless the study says `together: off`; what cannot be stacked gets processes of its own.

The intervals are percentile bootstrap intervals over the seeds (Efron 1979), nominally of 95 %. Few seeds cannot keep
that promise: with 3 the interval is just the range of the seeds, and covers the true mean only about 3 times in 4
(simulated on normal scores: 2 seeds 51 %, 3 seeds 75 %, 4 seeds 80 %, 5 seeds 83 %, 10 seeds 89 %). A verdict leans on
it, so "as expected" after 3 seeds is a hint, no proof.
"""

import csv
import difflib
import fcntl
import importlib.resources
import itertools
import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import numpy as np
import yaml
from tqdm import tqdm

from etude.config import flatten, take, to_flags
from etude.config import parse as parse_config
from etude.errors import UserError
from etude.markdown import block, literal

Values = dict[str, Any]  # knob -> value: a word as it is written, True, False, None, or a list of those
Interval = tuple[float, float] | None  # None: not available

KEYS = ("question", "compare", "tune", "fixed", "seeds", "metric", "better", "together", "expect")
MOST = 32  # runs that are trained together
RESAMPLES = 10_000  # of the bootstrap, where enumerating all of them would be too many


@dataclass(frozen=True)
class Claim:
    """An expectation, written down before the runs: setting `left` is better (or worse) than setting `right`."""

    text: str
    because: str
    left: str  # settings are named as their folders are: "kernel=3"
    right: str
    left_wins: bool


@dataclass(frozen=True)
class Study:
    """One study file."""

    name: str
    given: str
    """The name or path by which the user asked for it."""
    question: str
    compare: dict[str, list[Any]]
    tune: dict[str, list[Any]]
    fixed: Values
    seeds: int
    metric: str
    better: str
    expect: list[Claim]
    together: str = "auto"
    """auto: runs that can be are trained together; off: each by itself"""

    def settings(self) -> list[Values]:
        """Everything that is compared: the product of the compared knobs."""
        return product(self.compare)

    def trials(self) -> "list[Trial]":
        """Every run of the study; the first seed of all settings comes first, so half a study already compares them."""
        shorts = short_names([*self.compare, *self.tune])
        return [
            Trial(setting, tuned, seed, folder_name(setting, shorts), folder_name({**setting, **tuned}, shorts))
            for seed in range(self.seeds)
            for setting in self.settings()
            for tuned in product(self.tune)
        ]

    def sign(self) -> int:
        """+1 if a larger metric is better, else -1."""
        return 1 if self.better == "higher" else -1


@dataclass(frozen=True)
class Trial:
    """One run of a study."""

    setting: Values
    tuned: Values
    seed: int
    of: str
    """The compared setting it belongs to, "kernel=3"."""
    group: str
    """That with the tuned values, "kernel=3,lr=0.003": the folder that its seeds share."""

    def folder(self, out: Path) -> Path:
        return out / self.group / f"seed={self.seed}"

    def __str__(self) -> str:
        return f"{self.group.replace(',', ' ')} seed={self.seed}"


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


@dataclass(frozen=True)
class Verdict:
    """An expectation held against the outcome; `difference` is the mean of left - right over their common seeds."""

    claim: Claim
    verdict: str  # as expected | not expected | unclear
    difference: float | None
    interval: Interval
    pairs: int


@dataclass(frozen=True)
class Outcome:
    """What a study says, as far as its runs are there."""

    study: Study
    rows: list[Row]
    verdicts: list[Verdict]
    edges: list[str]
    problems: list[str]
    """Runs that are missing, failed or left out, and why; empty if the study is complete."""
    runs: list[Scored]


class Stopped(Exception):
    """SIGINT or SIGTERM ended the study early; its trials have saved and can go on."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


# ---------------------------------------------------------------------------------------------- values and their names


def product(knobs: Mapping[str, Sequence[Any]]) -> list[Values]:
    """Every combination of the knobs' values; of no knobs, the one empty combination."""
    return [dict(zip(knobs, values, strict=True)) for values in itertools.product(*knobs.values())]


def word(text: str) -> Any:
    """The value that a word of a study file or command line stands for.

    All but these three stay as written: YAML would read `off` as false and 1e-3 as a text, but it is the typed parser
    of `train` that knows what the knob takes.
    """
    return {"true": True, "false": False, "null": None}.get(text, text)


def label(value: Any) -> str:
    """A value as a study file writes it: 3, 1e-3, true, null; a list as its words."""
    if isinstance(value, list):
        return " ".join(map(label, value))
    return {True: "true", False: "false", None: "null"}[value] if value is None or isinstance(value, bool) else value


def number(value: Any) -> float | None:
    """The number that a value is, if any."""
    try:
        x = float(label(value))
    except ValueError:
        return None
    return x if math.isfinite(x) else None


def same(a: Any, b: Any) -> bool:
    """Whether two values set a knob alike: 1e-3 and 0.001 do, 1 and true do not."""
    return label(a) == label(b) or (number(a) is not None and number(a) == number(b))


def short_names(knobs: Sequence[str]) -> dict[str, str]:
    """Knob -> the last part of its dotted name, or all of it where the last part alone is ambiguous."""
    last = [knob.rpartition(".")[2] for knob in knobs]
    times = Counter(last)
    return {knob: short if times[short] == 1 else knob for knob, short in zip(knobs, last, strict=True)}


def folder_name(values: Values, names: Mapping[str, str]) -> str:
    """Values as the name of a folder, "kernel=3,lr=0.003"; different values have different names on any file system."""
    return ",".join(f"{names[knob]}={quote_plus(label(value))}" for knob, value in values.items())


def overrides(extra: Sequence[str]) -> Values:
    """Flags of the command line as values: ["--fit.epochs", "2", "--no-x"] -> {"fit.epochs": "2", "x": False}."""
    words: dict[str, list[str]] = {}
    knob = None
    for text in extra:
        if text.startswith("--"):
            knob, given, value = text[2:].partition("=")
            knob = knob.replace("_", "-")
            words[knob] = [value] if given else []
        elif knob is None:
            raise UserError(f"unexpected argument {text!r}: after the study come only flags, like --fit.epochs 2")
        else:
            words[knob].append(text)
    values: Values = {}
    for knob, given_words in words.items():
        group, dot, last = knob.rpartition(".")
        if not given_words and last.startswith("no-"):
            values[f"{group}{dot}{last[3:]}"] = False
        elif not given_words:
            values[knob] = True
        else:
            values[knob] = word(given_words[0]) if len(given_words) == 1 else [word(text) for text in given_words]
    return values


# ------------------------------------------------------------------------------------------------------ the study file


class Loader(yaml.BaseLoader):
    """Reads every scalar as it is written, and refuses a key that is given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = True) -> dict[Any, Any]:
        found: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key.value, str):
                raise yaml.MarkedYAMLError(problem="a key has to be a word", problem_mark=key.start_mark)
            if key.value in found:
                raise yaml.MarkedYAMLError(problem=f"{key.value} is given twice", problem_mark=key.start_mark)
            found.add(key.value)
        return super().construct_mapping(node, deep)


def folder_of(module: str) -> Traversable:
    return importlib.resources.files(module) / "studies"


def available(module: str) -> list[str]:
    """The studies that install with a package."""
    folder = folder_of(module)
    return sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".yaml")) if folder.is_dir() else []


def load(name_or_path: str, module: str) -> Study:
    """A study file, by path or by its name among the studies of the package `module`."""
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        source: Path | Traversable = path
        where, name = name_or_path, path.stem
    elif name_or_path in (known := available(module)):
        name = name_or_path
        source = folder_of(module) / f"{name}.yaml"
        where = str(source)
    else:
        has = f"it has: {', '.join(known)}" if known else "it has none; give the path of a .yaml file"
        raise UserError(f"{module} has no study {name_or_path!r}{hint(name_or_path, known)}; {has}")
    try:
        text = source.read_text(encoding="utf-8")
    except OSError as e:
        raise UserError(f"{where}: cannot be read ({e.strerror}); it has to be a study file") from e
    except UnicodeDecodeError as e:
        raise UserError(f"{where}: is no text in UTF-8; it has to be a study file") from e
    try:
        raw = yaml.load(text, Loader)
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        raise UserError(f"{where}: cannot be read as YAML{line}: {getattr(e, 'problem', None) or 'unreadable'}") from e
    return parse(raw, where, name, name_or_path)


def hint(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, 1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def parse(raw: Any, where: str, name: str, given: str) -> Study:
    """What YAML read -> a Study; `where` is the file, for the errors."""
    if not isinstance(raw, dict) or not raw:
        raise UserError(f"{where}: is no study; it needs the keys question, compare and metric")
    for key in raw:
        if key not in KEYS:
            raise UserError(f"{where}: unknown key {key!r}{hint(str(key), KEYS)}; a study has {', '.join(KEYS)}")
    for key in ("question", "metric"):
        if not isinstance(raw.get(key), str) or not raw[key].strip():
            raise UserError(f"{where}: {key}: has to be a text, not {raw.get(key)!r}")
    compare, tune = ranges(raw.get("compare"), f"{where}: compare"), ranges(raw.get("tune") or {}, f"{where}: tune")
    if not compare:
        raise UserError(f"{where}: compare: names no knob; give one with its values, like model.kernel: [1, 3]")
    fixed = knobs(raw.get("fixed") or {}, f"{where}: fixed")
    fixed = {knob: flag_value(value, f"{where}: fixed: {knob}") for knob, value in fixed.items()}
    once = Counter([*compare, *tune, *fixed])
    for knob, times in once.items():
        if times > 1:
            raise UserError(f"{where}: {knob} stands in more than one of compare, tune and fixed; keep one")
        if knob in ("fit.seed", "run"):
            raise UserError(f"{where}: {knob} cannot be set here: a study sets it for every run (see `seeds`)")
    seeds = raw.get("seeds", "3")
    if not isinstance(seeds, str) or not seeds.isdecimal() or int(seeds) < 1:
        raise UserError(f"{where}: seeds: has to be a whole number from 1 up, not {seeds!r}")
    better = raw.get("better", "higher")
    if better not in ("higher", "lower"):
        raise UserError(f"{where}: better: has to be higher or lower, not {better!r}")
    together = raw.get("together", "auto")
    if together not in ("auto", "off"):
        raise UserError(f"{where}: together: has to be auto or off, not {together!r}")
    expect = raw.get("expect") or []
    if not isinstance(expect, list):
        raise UserError(f'{where}: expect: has to be a list of {{claim: "A > B", because: "..."}}')
    claims = [
        parse_claim(entry, f"{where}: expect[{i}]", compare, short_names([*compare, *tune]))
        for i, entry in enumerate(expect)
    ]
    question, metric = raw["question"].strip(), raw["metric"]
    return Study(name, given, question, compare, tune, fixed, int(seeds), metric, better, claims, together)


def knobs(raw: Any, where: str) -> Values:
    """A mapping with knobs as keys; model.batch_norm and model.batch-norm are the same knob."""
    if not isinstance(raw, dict) or not all(isinstance(knob, str) for knob in raw):
        raise UserError(f"{where}: has to map knobs to values, like model.kernel: [1, 3]; it is {raw!r}")
    return {knob.replace("_", "-"): value for knob, value in raw.items()}


def flag_value(raw: Any, where: str) -> Any:
    """A value as YAML gives it -> as a flag can take it: one word, or a list of words."""
    if isinstance(raw, str):
        return word(raw)
    if isinstance(raw, list) and raw and all(isinstance(text, str) for text in raw):
        return [word(text) for text in raw]
    raise UserError(f"{where}: {raw!r} is no value that a flag can take; give one value or a list of them")


def ranges(raw: Any, where: str) -> dict[str, list[Any]]:
    """Knobs with the values they take; a value may itself be a list, for a knob that has several."""
    found = {}
    for knob, given in knobs(raw, where).items():
        if not isinstance(given, list) or not given:
            raise UserError(f"{where}: {knob} needs a list of values, like [1, 3], not {given!r}")
        found[knob] = [flag_value(value, f"{where}: {knob}") for value in given]
        for a, b in itertools.combinations(found[knob], 2):
            if same(a, b):
                raise UserError(f"{where}: {knob} has {label(a)} twice; name every value once")
    return found


def parse_claim(raw: Any, where: str, compare: Mapping[str, list[Any]], shorts: Mapping[str, str]) -> Claim:
    """{"claim": "3 > 1", "because": "..."} -> Claim. ">" means "is better than", whichever way the metric runs."""
    if (
        not isinstance(raw, dict)
        or raw.keys() != {"claim", "because"}
        or not all(isinstance(text, str) and text.strip() for text in raw.values())
    ):
        raise UserError(f'{where}: has to be {{claim: "A > B", because: "the reason"}}, not {raw!r}')
    sides = re.fullmatch(r"([^<>]+)([<>])([^<>]+)", raw["claim"])
    if not sides:
        raise UserError(f'{where}: claim: {raw["claim"]!r} has to be "A > B" (A is better) or "A < B" (A is worse)')
    left, right = (find_setting(side.strip(), f"{where}: claim", compare, shorts) for side in sides.group(1, 3))
    if left == right:
        raise UserError(f"{where}: claim: {raw['claim']!r} holds a setting against itself")
    return Claim(raw["claim"].strip(), raw["because"].strip(), left, right, sides[2] == ">")


def find_setting(text: str, where: str, compare: Mapping[str, list[Any]], shorts: Mapping[str, str]) -> str:
    """The compared setting that one side of a claim names: "3", "kernel=3" or "model.kernel=3, model.layers=2"."""
    if len(compare) == 1 and "=" not in text:
        parts = {next(iter(compare)): text}
    else:
        pairs = (part.partition("=") for part in re.split(r",\s*(?=[\w.-]+\s*=)", text))
        full = {shorts[knob]: knob for knob in compare} | {knob: knob for knob in compare}
        parts = {full.get(k.strip().replace("_", "-"), k.strip()): v.strip() for k, _, v in pairs}
    if parts.keys() == compare.keys():
        for setting in product(compare):
            if all(same(claimed_value(parts[knob]), value) for knob, value in setting.items()):
                return folder_name(setting, shorts)
    values = "; ".join(f"{knob} {', '.join(map(label, values))}" for knob, values in compare.items())
    raise UserError(f"{where}: {text!r} is not compared; compared are {values}")


def claimed_value(text: str) -> Any:
    """A value in a claim: a word, or a list as in `compare`, [16, 32]."""
    return [word(part.strip()) for part in text[1:-1].split(",")] if text.startswith("[") else word(text)


def dump(study: Study) -> str:
    """A study as the YAML text that `load` reads back equal (but for its name)."""

    def plain(value: Any) -> Any:
        """Numbers as numbers, where YAML writes them alike: else every 3 would stand in quotes."""
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [plain(inner) for inner in value]
        number = yaml.safe_load(value) if isinstance(value, str) and re.fullmatch("[-+.0-9]+", value) else None
        return number if str(number) == value else value

    raw = {key: getattr(study, key) for key in KEYS if key != "expect" and getattr(study, key) != {}}
    raw |= {key: plain(raw[key]) for key in ("compare", "tune", "fixed") if key in raw}
    raw["expect"] = [{"claim": c.text, "because": c.because} for c in study.expect]
    return yaml.safe_dump(raw, sort_keys=False, allow_unicode=True, width=120)


# ---------------------------------------------------------------------------------------------------------- statistics


def mean(values: Mapping[int, float]) -> float | None:
    return math.fsum(values.values()) / len(values) if values else None


def bootstrap(values: Sequence[float]) -> Interval:
    """Percentile bootstrap interval of the mean, nominally 95 % (Efron 1979); None for fewer than two values.

    Up to 5 values all n^n resamples are enumerated, so the interval is exact; beyond, 10,000 are drawn from a fixed
    seed.
    It is symmetric: that of the negated values is the negated interval.
    """
    n = len(values)
    if n < 2:
        return None
    if n <= 5:
        picks = np.array(list(itertools.product(range(n), repeat=n)))
    else:
        picks = np.random.default_rng(0).integers(n, size=(RESAMPLES, n))
    means = np.sort(np.asarray(values, np.float64)[picks].mean(axis=1))
    cut = math.ceil(0.025 * len(means)) - 1  # the smallest mean that at least 2.5 % of the resamples do not exceed
    return float(means[cut]), float(means[-1 - cut])


def judge(claim: Claim, rows: Mapping[str, Row], sign: int) -> Verdict:
    """Hold a claim against the test scores, paired by seed: the same seed means the same split and initialisation."""
    left, right = rows[claim.left].test, rows[claim.right].test
    pairs = {seed: left[seed] - right[seed] for seed in left if seed in right}
    interval = bootstrap(list(pairs.values()))
    verdict = "unclear"
    if interval is not None:
        zero = 1e-9 * max(map(abs, pairs.values()))  # 0.3 - 0.2 - 0.1 is no difference
        side = sign * (1 if claim.left_wins else -1)
        low, high = sorted(side * end for end in interval)
        verdict = "as expected" if low > zero else "not expected" if high < -zero else "unclear"
    return Verdict(claim, verdict, mean(pairs), interval, len(pairs))


# ------------------------------------------------------------------------------------------------- what the runs leave


def read(path: Path) -> dict[str, Any] | None:
    """A JSON object of a run folder; None if it is not there yet."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as e:
        raise UserError(f"{path}: cannot be read as JSON ({e}); delete it and start the study again") from e
    if not isinstance(found, dict):
        raise UserError(f"{path}: holds no JSON object; delete it and start the study again")
    return found


def metric_in(scores: Any, metric: str, path: Path) -> float:
    if not isinstance(scores, dict) or not isinstance(scores.get(metric), int | float):
        has = sorted(k for k, v in scores.items() if isinstance(v, int | float)) if isinstance(scores, dict) else []
        raise UserError(f"the study's metric {metric!r} is not in {path}; there are: {', '.join(has) or 'none'}")
    return float(scores[metric])


def last_line(log: Path) -> str:
    """The last thing a trial said: the error, if it failed."""
    with log.open("rb") as f:
        f.seek(max(0, log.stat().st_size - 10_000))
        lines = [line.strip() for line in f.read().decode(errors="replace").splitlines()]
    last = next((line for line in reversed(lines) if line), "$")
    return "it said nothing" if last.startswith("$") else last  # a line with $ is the command that `start` writes


def measure(study: Study, out: Path, trial: Trial) -> Scored:
    """What the folder of a trial tells."""
    folder = trial.folder(out)
    result, test = read(folder / "result.json"), read(folder / "test.json")
    if result is None:
        log = folder / "log.txt"
        return Scored(trial, f"not finished; its last words: {last_line(log)}" if log.is_file() else "not run")
    valid = metric_in(result.get("valid"), study.metric, folder / "result.json")
    score = None if test is None else metric_in(test, study.metric, folder / "test.json")
    problem = "" if math.isfinite(valid) else f"left out: valid {study.metric} is {valid}"
    if score is not None and not math.isfinite(score):
        problem = problem or f"left out: test {study.metric} is {score}"
    facts = {key: result.get(key) for key in ("best_epoch", "seconds", "parameters")}
    return Scored(trial, problem, valid, score, **facts)


def choose(study: Study, runs: Sequence[Scored]) -> list[Scored]:
    """Of all runs of one compared setting, those of the best tuned values: best on VALIDATION, mean over the seeds.

    Values that failed for some seeds cannot win on the rest: only those with the most runs that count are held
    together.
    """
    groups: dict[str, list[Scored]] = {}
    for run in runs:
        groups.setdefault(run.trial.group, []).append(run)

    def merit(group: list[Scored]) -> tuple[int, float]:
        valid = [run.valid for run in group if not run.problem and run.valid is not None]
        return len(valid), study.sign() * math.fsum(valid) / max(1, len(valid))

    return max(groups.values(), key=merit)  # the first as written, among equals


def summarise(study: Study, out: Path) -> Outcome:
    """Read whatever runs of the study are in `out`, and judge; nothing is written."""
    runs = [measure(study, out, trial) for trial in study.trials()]
    problems = [f"{run.trial}: {run.problem}" for run in runs if run.problem and run.problem != "not run"]
    missing = [str(run.trial) for run in runs if run.problem == "not run"]
    if missing:
        problems.append(f"{len(missing)} of {len(runs)} runs are missing: {', '.join(missing)}")
    shorts = short_names([*study.compare, *study.tune])
    rows: dict[str, Row] = {}
    edges = []
    for of in dict.fromkeys(run.trial.of for run in runs):
        best = choose(study, [run for run in runs if run.trial.of == of])
        setting, tuned = best[0].trial.setting, best[0].trial.tuned
        counted = [run for run in best if not run.problem]
        untested = [str(run.trial) for run in counted if run.test is None]
        if untested:
            problems.append(f"no test score yet: {', '.join(untested)}")
        seconds = [run.seconds for run in counted if run.seconds is not None]
        rows[of] = Row(
            setting,
            tuned,
            of,
            test={run.trial.seed: run.test for run in counted if run.test is not None},
            valid={run.trial.seed: run.valid for run in counted if run.valid is not None},
            parameters=counted[0].parameters if counted else None,
            seconds=math.fsum(seconds) / len(seconds) if seconds else None,
        )
        for knob, value in tuned.items() if counted else ():
            tried = [x for x in map(number, study.tune[knob]) if x is not None]
            if len(tried) == len(study.tune[knob]) > 1 and number(value) in (min(tried), max(tried)):
                edges.append(f"{shorts[knob]}={label(value)} is the edge of its range ({of}): widen it")
    verdicts = [judge(c, rows, study.sign()) for c in study.expect]
    return Outcome(study, list(rows.values()), verdicts, edges, problems, runs)


# ------------------------------------------------------------------------------------------------- what a reader gets


def cell(x: float | None, form: str) -> str:
    return "-" if x is None else format(x, form)


def bounds(interval: Interval, form: str) -> str:
    return "-" if interval is None else f"[{interval[0]:{form}}, {interval[1]:{form}}]"


def table(outcome: Outcome) -> list[list[str]]:
    """Header and rows."""
    study = outcome.study
    shorts = short_names([*study.compare, *study.tune])
    head = [shorts[knob] for knob in study.compare] + [f"{shorts[knob]} (tuned)" for knob in study.tune]
    head += [f"test {study.metric}", "95 % interval", f"valid {study.metric}", "parameters", "s per run", "seeds"]
    lines = [head]
    for row in outcome.rows:
        lines.append(
            [label(value) for value in row.setting.values()]
            + [label(value) if row.valid else "-" for value in row.tuned.values()]
            + [cell(mean(row.test), ".4f"), bounds(bootstrap(list(row.test.values())), ".4f")]
            + [cell(mean(row.valid), ".4f"), cell(row.parameters, ","), cell(row.seconds, ".1f"), str(len(row.valid))]
        )
    return lines


def notes(outcome: Outcome) -> list[str]:
    """What has to be known to read the table."""
    study = outcome.study
    found = [
        f"Test {study.metric} ({study.better} is better) of the checkpoint chosen on validation, mean over the seeds."
        + (" Tuned values are those best on validation." if study.tune else "")
    ]
    if study.seeds == 1:
        found.append("One seed: there is no interval, and every verdict is unclear.")
    elif study.seeds <= 3:
        times = {2: "1 time in 2", 3: "3 times in 4"}[study.seeds]
        found.append(
            f"Interval: percentile bootstrap over the seeds (Efron 1979), nominally 95 %. With {study.seeds} seeds it "
            f"is just the range of the seeds, and covers the true mean only about {times}."
        )
    else:
        found.append(
            "Interval: percentile bootstrap over the seeds (Efron 1979), nominally 95 %; few seeds make it too narrow "
            "(on normal scores it covers the true mean 83 times in 100 with 5 seeds, 89 with 10)."
        )
    return found


def verdict_line(verdict: Verdict, metric: str) -> str:
    measured = "no seed of both is there"
    if verdict.difference is not None:
        seeds = "1 seed" if verdict.pairs == 1 else f"{verdict.pairs} seeds"
        interval = "no interval" if verdict.interval is None else f"interval {bounds(verdict.interval, '+.4f')}"
        measured = f"difference in {metric} {verdict.difference:+.4f}, {interval}, {seeds}"
    return f"{verdict.claim.text}: {verdict.verdict} ({measured}). Expected because {verdict.claim.because}"


def sections(outcome: Outcome) -> list[tuple[str, list[str]]]:
    """Heading and items of everything below the table, empty ones left out."""
    found = [
        ("Expectations", [verdict_line(v, outcome.study.metric) for v in outcome.verdicts]),
        ("Tuning", outcome.edges),
        ("Incomplete", outcome.problems),
    ]
    return [(heading, items) for heading, items in found if items]


def render(outcome: Outcome) -> str:
    """The outcome as text for a terminal."""
    lines = table(outcome)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = ["  ".join(c.rjust(w) for c, w in zip(line, widths, strict=True)) for line in lines]
    blocks = [outcome.study.question, "\n".join(aligned), "\n".join(notes(outcome))]
    blocks += ["\n".join([f"{heading}:", *(f"  {item}" for item in items)]) for heading, items in sections(outcome)]
    return "\n\n".join(blocks)


def markdown(outcome: Outcome, command: str) -> str:
    """The outcome as results.md, with the command that gives it."""
    lines = [[literal(c) for c in line] for line in table(outcome)]
    lines.insert(1, ["---:"] * len(lines[0]))
    rows = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    blocks = [f"# {literal(outcome.study.question)}", rows, *map(literal, notes(outcome))]
    for heading, items in sections(outcome):
        blocks += [f"## {heading}", "\n".join(f"- {literal(item)}" for item in items)]
    blocks += ["## How to reproduce", block(command)]
    return "\n\n".join(blocks) + "\n"


def save(outcome: Outcome, out: Path, command: str) -> None:
    """Write results.md, results.csv and the curves of every setting."""
    (out / "results.md").write_text(markdown(outcome, command), encoding="utf-8")
    columns = [*outcome.study.compare, *outcome.study.tune]
    with (out / "results.csv").open("w", newline="", encoding="utf-8") as f:
        writer = csv.writer(f)
        writer.writerow([*columns, "seed", "valid", "test", "best_epoch", "seconds", "parameters"])
        for run in outcome.runs:
            values = {**run.trial.setting, **run.trial.tuned}
            writer.writerow(
                [
                    *(label(values[knob]) for knob in columns),
                    *(run.trial.seed, run.valid, run.test, run.best_epoch, run.seconds, run.parameters),
                ]
            )
    groups: dict[str, list[Path]] = {}
    for run in outcome.runs:
        if not run.problem:
            groups.setdefault(run.trial.group, []).append(run.trial.folder(out))
    for group, folders in groups.items():
        write_curves(out / group, mean_curves(folders))


def mean_curves(folders: Sequence[Path]) -> list[tuple[int, dict[str, float]]]:
    """The validation metrics of finished runs, averaged over them: (step, metric -> mean) for every epoch all reached.

    Runs that stopped early end the curve: a mean over the rest would jump where one of them leaves.
    """
    runs = []
    for folder in folders:
        path = folder / "metrics.jsonl"
        try:
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            runs.append({row["step"]: row["valid"] for row in rows})
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise UserError(f"{path}: cannot be read ({e!r}); delete {folder} and start the study again") from e
    steps = sorted(set.intersection(*(set(run) for run in runs)))
    curves = []
    for step in steps:
        seen = [run[step] for run in runs]
        metrics = [name for name in seen[0] if all(name in scores for scores in seen)]
        curves.append((step, {name: math.fsum(s[name] for s in seen) / len(seen) for name in metrics}))
    return curves


def write_curves(folder: Path, curves: Sequence[tuple[int, Mapping[str, float]]]) -> None:
    """Write the curves as the one TensorBoard event file of `folder`, under the tags the runs use: <metric>/valid."""
    # TensorBoard's own writer: torch's would make a study import torch for a few hundred bytes.
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    for old in folder.glob("events.out.tfevents.*"):
        old.unlink()
    now = time.time()
    with (folder / f"events.out.tfevents.{int(now)}.study").open("wb") as f:
        writer = RecordWriter(f)
        writer.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
        for step, scores in curves:
            points = [Summary.Value(tag=f"{name}/valid", simple_value=x) for name, x in scores.items()]
            writer.write(Event(wall_time=now, step=step, summary=Summary(value=points)).SerializeToString())


# -------------------------------------------------------------------------------------------------------- running them


@contextmanager
def claimed(out: Path) -> Iterator[int]:
    """Hold the folder against a second study; yields the lock, which the trials inherit and hold while they live."""
    with (out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{out}: a study, or a run that a killed one left, is at work here; wait or stop it"
            ) from None
        yield lock.fileno()


@contextmanager
def noted_signals() -> Iterator[list[int]]:
    """Catch SIGINT and SIGTERM; yields the list that they are added to."""
    seen: list[int] = []
    kinds = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(kind, lambda signum, _: seen.append(signum)) for kind in kinds]
    try:
        yield seen
    finally:
        for kind, handler in zip(kinds, before, strict=True):
            signal.signal(kind, handler)


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass
class Job:
    """Trials at work in a process of their own; alone, it is the command that a person would give."""

    trials: list[Trial]
    verb: str  # train | evaluate
    process: subprocess.Popen[bytes]
    log: Path


def flags_of(study: Study, trial: Trial) -> list[str]:
    return to_flags({**study.fixed, **trial.setting, **trial.tuned, "fit.seed": trial.seed})


def start(
    study: Study, module: str, out: Path, trials: Sequence[Trial], verb: str, number: int, threads: int, lock: int
) -> Job:
    """Starts a process for a trial, or one for several; `number` is that of the process."""
    commands = []
    for trial in trials:
        folder = trial.folder(out)
        words = ["evaluate", str(folder)]
        if verb == "train":
            words = ["train", *flags_of(study, trial), "--run", str(folder)]
        commands.append([sys.executable, "-m", module, *words])
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "log.txt").open("ab") as log:
            log.write(f"$ {shlex.join(commands[-1])}\n".encode())
    alone = len(trials) == 1
    said = trials[0].folder(out) / "log.txt" if alone else out / f"together-{number}.log"
    with said.open("ab" if alone else "wb") as log:
        process = subprocess.Popen(
            commands[0] if alone else [sys.executable, "-m", module, "together"],
            stdin=subprocess.DEVNULL if alone else subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            # unbuffered, so that the last line of the log is the last thing that happened
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"},
            pass_fds=[lock],
            process_group=0,  # a Ctrl-C in the terminal reaches the study alone, which asks each trial once to stop
        )
    if process.stdin is not None:
        runs = [{"folder": str(trial.folder(out)), "flags": flags_of(study, trial)} for trial in trials]
        with process.stdin as stdin:
            stdin.write(json.dumps({"verb": verb, "runs": runs}).encode())
    return Job(list(trials), verb, process, said)


def stackable(study: Study, trials: Sequence[Trial], config: type | None, jobs: int) -> list[list[Trial]]:
    """The trials in groups that may be trained together: configurations that differ in seed and in floats only.

    Whether they can be, only their models can tell: see `etude.many`. With several jobs there are as many groups.
    """
    if config is None or study.together == "off":
        return [[trial] for trial in trials]
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        values = flatten(parse_config(config, flags_of(study, trial)))
        alike = {k: v for k, v in values.items() if not isinstance(v, float) and k not in ("fit.seed", "fit.patience")}
        groups.setdefault(repr(alike), []).append(trial)
    size = min(MOST, -(-len(trials) // jobs))
    return [group[at : at + size] for group in groups.values() for at in range(0, len(group), size)]


def work(
    study: Study, module: str, out: Path, jobs: int, lock: int, signals: Sequence[int], config: type | None = None
) -> None:
    """Train and evaluate what is not done yet, `jobs` at once, until a signal is noted in `signals`."""
    trials = study.trials()
    threads = max(1, cores() // jobs)
    to_train = [t for t in trials if not (t.folder(out) / "result.json").is_file()]
    queue = [(group, "train") for group in stackable(study, to_train, config, jobs)]
    done, started = len(trials) - len(to_train), 0
    running: list[Job] = []
    asked: set[str] = set()  # trials whose evaluation was tried: if it failed, once is enough

    def say(line: str) -> None:
        bar.write(line)
        sys.stdout.flush()  # in a pipe or a file, too, a line is there when it is said

    def end(signum: int) -> None:
        for job in running:
            job.process.send_signal(signum)

    def to_score(of: str) -> list[tuple[list[Trial], str]]:
        """The runs of a setting whose test score is due; where values are tuned, the best ones', once all are there."""
        at_work = {str(t) for job in running for t in job.trials}
        at_work |= {str(t) for group, verb in queue if verb == "train" for t in group}
        over = [
            t for t in trials if t.of == of and str(t) not in at_work
        ]  # what others have written may be half a file
        if not over or (study.tune and len(over) < sum(t.of == of for t in trials)):
            return []
        best = choose(study, [measure(study, out, t) for t in over])
        due = [run.trial for run in best if not run.problem and run.test is None and str(run.trial) not in asked]
        asked.update(map(str, due))
        return [([trial], "evaluate") for trial in due]

    def finish(trial: Trial, verb: str, why: str) -> None:
        """`why` it failed, empty if it did not."""
        nonlocal done
        left = trial.folder(out) / ("result.json" if verb == "train" else "test.json")
        done += verb == "train"
        if not why and not left.is_file():
            why = f"no {left.name}"
        if why:
            words = f"{verb} failed ({why}): {last_line(left.with_name('log.txt'))}"
        else:
            run = measure(study, out, trial)
            words = f"{study.metric} {cell(run.valid, '.4f')} (valid)  {cell(run.seconds, '.0f')} s"
        if why or verb == "train":
            say(f"[{done:{len(str(len(trials)))}}/{len(trials)}] {trial}  {words}")
        if verb == "train":
            bar.update()

    def end_of(job: Job) -> None:
        code = job.process.returncode
        why = f"exit code {code}" if code > 0 else f"signal {-code}" if code else ""
        if len(job.trials) == 1 and job.log.name == "log.txt":
            finish(job.trials[0], job.verb, why)
        else:
            *lines, last = [*job.log.read_text(encoding="utf-8", errors="replace").splitlines(), ""][:-1] or [""]
            told = json.loads(last) if code == 0 else {"left": {}, "failed": []}
            if code:
                say(f"the process of {len(job.trials)} runs failed ({why}): {last_line(job.log)}; they go on alone")
            for line in lines if code == 0 else ():
                say(line)
            for trial in job.trials:
                folder = trial.folder(out)
                if (
                    job.verb == "train"
                    and not (folder / "result.json").is_file()
                    and (code or str(folder) in told["left"])
                ):
                    queue.append(([trial], "train"))
                else:
                    finish(trial, job.verb, "error" if str(folder) in told["failed"] else "")
        if job.verb == "train":
            for of in dict.fromkeys(t.of for t in job.trials):
                queue[:0] = to_score(of)

    def next_up() -> tuple[list[Trial], str]:
        """What comes next; evaluations that are due share a process."""
        trials, verb = queue.pop(0)
        if verb == "evaluate" and config is not None and study.together != "off":
            due = [group for group, other in queue if other == "evaluate"]
            some = due[: -(-len(due) // jobs)]
            trials = [*trials, *itertools.chain.from_iterable(some)]
            queue[:] = [item for item in queue if item[0] not in some]
        return trials, verb

    with tqdm(total=len(trials), initial=done, unit="run", file=sys.stdout, disable=not sys.stdout.isatty()) as bar:
        if done:
            say(f"{done} of {len(trials)} runs are there already")
        for group, _ in queue:
            if len(group) > 1:
                say(f"{len(group)} runs differ in seed and numbers only and are tried as one program: {group[0]} ...")
        for of in dict.fromkeys(t.of for t in trials):
            queue += to_score(of)
        heard, asked_at = 0, 0.0
        try:
            while (queue and not signals) or running:
                while queue and not signals and len(running) < jobs:
                    started += 1
                    running.append(start(study, module, out, *next_up(), started, threads, lock))
                # Asked now and then: a signal handler that touched the list of children would race with this loop.
                time.sleep(0.02)
                if len(signals) > heard:
                    heard += 1
                    if heard == 1:
                        asked_at = time.monotonic()
                        say("stopping: the runs save and end")
                        end(signal.SIGTERM)
                    elif time.monotonic() - asked_at > 1:  # sooner, it may be the same Ctrl-C, passed on by `uv run`
                        say("stopping at once")
                        end(signal.SIGKILL)
                for job in [job for job in running if job.process.poll() is not None]:
                    running.remove(job)
                    if not signals:
                        end_of(job)
        finally:
            end(signal.SIGTERM)
            for job in running:
                job.process.wait()


def with_overrides(study: Study, extra: Sequence[str]) -> Study:
    """The study with the flags of the command line among its fixed ones."""
    values = overrides(extra)
    for knob in values:
        for part, members in (("compared", study.compare), ("tuned", study.tune)):
            if knob in members:
                raise UserError(
                    f"--{knob} is {part} by the study {study.name}; leave it out, or change the study's file"
                )
        if knob in ("fit.seed", "run"):
            raise UserError(f"--{knob} is set by the study for every run (see `seeds` in its file); leave it out")
    return replace(study, fixed={**study.fixed, **values})


def refuse_other_runs(study: Study, out: Path) -> None:
    """Runs made with other fixed flags must not be taken for runs of this study."""
    if not (out / "study.yaml").is_file():
        return
    old = load(str(out / "study.yaml"), "").fixed
    differ = [
        f"{knob} ({label(old[knob]) if knob in old else 'not set'} there, "
        f"{label(study.fixed[knob]) if knob in study.fixed else 'not set'} now)"
        for knob in dict.fromkeys([*old, *study.fixed])
        if (knob in old) != (knob in study.fixed) or not same(old[knob], study.fixed[knob])
    ]
    if differ:
        raise UserError(f"{out}: holds runs with other flags: {', '.join(differ)}; remove it, or give another --out")


def default_out(task: str, study: Study, extra: Sequence[str]) -> Path:
    """runs/<task>/<study>[,key=value for each override]."""
    values = overrides(extra)
    return Path("runs") / task / ",".join(filter(None, [study.name, folder_name(values, short_names(list(values)))]))


def command(task: str, study: Study, out: Path, extra: Sequence[str], call: Sequence[str] | None = None) -> str:
    """The command line that makes, or goes on with, the study in `out`."""
    place = [] if out == default_out(task, study, extra) else ["--out", str(out)]
    return shlex.join([*(call or [task]), "study", study.given, *extra, *place])


def run(study: Study, module: str, out: Path, extra: Sequence[str], jobs: int, config: type | None = None) -> Outcome:
    """Do the runs of a study that `out` does not hold yet, then write and return what they say.

    `extra` are flags for all runs; with their `config`, runs can be trained together. Raises `Stopped` after SIGINT or
    SIGTERM, when the runs have saved and the results so far are written; the same call goes on.
    """
    task = module.replace("_", "-")
    full = with_overrides(study, extra)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with claimed(out) as lock, noted_signals() as signals:
            refuse_other_runs(full, out)
            (out / "study.yaml").write_text(dump(full), encoding="utf-8")
            work(full, module, out, jobs, lock, signals, config)
            outcome = summarise(full, out)
            save(outcome, out, command(task, study, out, extra))
    except OSError as e:
        raise UserError(f"{e.filename or out}: {e.strerror}; a study needs a folder to write to (--out DIR)") from e
    if signals:
        raise Stopped(signals[0])
    return outcome


# --------------------------------------------------------------------------------------------------------- the command


def usage(module: str, task: str) -> str:
    known = {name: load(name, module).question for name in available(module)}
    width = max(map(len, known), default=0)
    lines = [
        f"usage: {task} study NAME|FILE.yaml [--jobs N] [--out DIR] [--together off] [--flag value ...]",
        "",
        "Put a written question to many runs, and hold the outcome against what was expected. Runs that are done",
        "already are skipped, so a stopped study goes on when it is started again.",
        "",
        "  --jobs N        so many runs at once, the cores shared out among them (default 1)",
        f"  --out DIR       where the runs and results go (default runs/{task}/NAME)",
        "  --together off  each run in a process of its own, even where runs could be trained as one program",
        "  --flag value    any flag of `train`, for all runs, like --fit.epochs 2",
        "",
        f"studies of {task}:" if known else f"{task} has no studies of its own; give a file.",
        *(f"  {name:{width}}  {question}" for name, question in known.items()),
    ]
    return "\n".join(lines)


def main(
    module: str, task: str, argv: Sequence[str], config: type | None = None, call: Sequence[str] | None = None
) -> int:
    """`PACKAGE study ...`, `argv` being what follows. Returns 0: done, 1: some runs failed, 130/143: stopped.

    Every run's flags are tried on `config` before the first run starts; `call` is how the command was called.
    """
    words = list(argv)
    if "--help" in words or "-h" in words:
        print(usage(module, task))
        return 0
    jobs, place, together = take(words, "--jobs"), take(words, "--out"), take(words, "--together")
    if together not in (None, "auto", "off"):
        raise UserError(f"--together has to be auto or off, not {together!r}")
    if jobs is not None and not (jobs.isdecimal() and int(jobs) > 0):
        raise UserError(f"--jobs has to be a whole number from 1 up, not {jobs!r}")
    if not words or words[0].startswith("-"):
        known = f"one of {', '.join(available(module))}, or " if available(module) else ""
        raise UserError(f"which study? give {known}a .yaml file first: {task} study NAME [--jobs N] [--flag value ...]")
    study, extra = load(words[0], module), words[1:]
    study = replace(study, together=together or study.together)
    out = Path(place) if place is not None else default_out(task, study, extra)
    if config is not None:
        full = with_overrides(study, extra)
        for trial in full.trials():
            parse_config(config, to_flags({**full.fixed, **trial.setting, **trial.tuned}))
    try:
        outcome = run(study, module, out, extra, int(jobs or 1), config)
    except Stopped as e:
        again = command(task, study, out, extra, call) + (f" --jobs {jobs}" if jobs else "")
        print(f"stopped by {e}; the results so far are in {out / 'results.md'}. Go on with:\n  {again}", flush=True)
        return 128 + e.signum
    quoted = shlex.quote(str(out))
    print(f"\n{render(outcome)}\n\nresults: {out / 'results.md'}\ncurves:  tensorboard --logdir {quoted}", flush=True)
    return 1 if outcome.problems else 0
