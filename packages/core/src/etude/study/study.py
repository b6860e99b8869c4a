"""A written question put to many runs: compared knobs, tuned knobs, seeds, expectations, verdicts.

The vocabulary is that of Google's tuning playbook (Godbole et al. 2023): *scientific* knobs are compared, *nuisance*
knobs are tuned separately for every compared setting, on validation, and the rest is *fixed*. Every trial is a command
line in a process of its own, so it can be repeated by hand, and a crash takes nothing else with it.

    OUT/study.yaml  results.md  results.csv
    OUT/kernel=3,lr=0.003/           the curves averaged over the seeds, for TensorBoard
    OUT/kernel=3,lr=0.003/seed=0/    one run folder, and log.txt: what the run said

Runs that differ in nothing but seed, learning rate and the like (`config.stackable`) are trained by one process, as one
stacked program (`etude.stacked`), unless the study says `together: off`; what cannot be stacked runs by itself.
Whatever a run folder says is held against what is asked: its config.yaml against the configuration of the trial, its
test.json against the checkpoint (`etude.tested`).

What the scores say of the expectations is judged by `judge`: Student's t on differences paired by seed, with the
error of a small test part, and Holm over all expectations, so that at most 5 % of studies have a false verdict
(`benchmarks/verdicts.py`). Few seeds then say little: with 3 only differences of several standard deviations are found,
and the others stay unclear.
"""

import csv
import difflib
import hashlib
import importlib.resources
import io
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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote_plus

import yaml
from tqdm import tqdm

from etude import files, tested
from etude.config import Scores, differences, flatten, take, to_flags, to_word
from etude.config import full as full_name
from etude.config import knobs as all_knobs
from etude.config import parse as parse_config
from etude.config import read as read_word
from etude.config import stackable as may_differ
from etude.errors import UserError
from etude.markdown import block, literal
from etude.study.judge import BLOCKS, Claim, Score, Verdict, estimate, judge

Values = dict[str, Any]  # knob -> value: a word as it is written, True, False, None, or a list of those
Interval = tuple[float, float] | None  # None: not available

KEYS = ("question", "compare", "tune", "fixed", "seeds", "metric", "together", "expect")
MOST = 32  # runs that are trained together
CLAIM = '{claim: "A > B", because: "..."}, or {claim: "A = B", margin: 0.01, because: "..."}'
LONGEST = 120  # letters in the name of a folder, but for a hash


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
    """higher or lower; the task says which"""
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
    """That with the tuned values, "kernel=3,lr=0.003"; its seeds share the folder of this name (see `on_disk`)."""

    def folder(self, out: Path) -> Path:
        return out / on_disk(self.group) / f"seed={self.seed}"

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
    """The value that a word of a study file or command line stands for; \\null is the text.

    All but these three stay as written: YAML would read `off` as false and 1e-3 as a text, but it is the typed parser
    of `train` that knows what the knob takes.
    """
    return {"true": True, "false": False, "null": None}.get(text, read_word(text, str))


def label(value: Any) -> str:
    """A value as a study file writes it: 3, 1e-3, true, null; a list as its words."""
    if isinstance(value, list):
        return " ".join(map(label, value))
    return to_word(value)


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


def short_names(knobs: Sequence[str], among: Iterable[str] = ()) -> dict[str, str]:
    """Knob -> the last part of its dotted name, or all of it where others of these, or `among` those, end alike."""
    times = Counter(knob.rpartition(".")[2] for knob in {*knobs, *among})
    return {knob: last if times[last := knob.rpartition(".")[2]] == 1 else knob for knob in knobs}


def folder_name(values: Values, names: Mapping[str, str]) -> str:
    """Values as one word, "kernel=3,lr=0.003": other values make another one."""
    return ",".join(f"{names[knob]}={quote_plus(label(value))}" for knob, value in values.items())


def on_disk(name: str) -> str:
    """A name of `folder_name` as that of a folder, which on any file system is another for every other name.

    Mostly it stays as it is. Where it has capitals (some file systems do not tell them from small letters), ends in a
    dot (Windows leaves it out) or is too long, digits of its hash are added: behind an @, which no value has.
    """
    if re.match(r"(con|prn|aux|nul|com\d|lpt\d)\.", name):
        name = name.replace(".", "%2E", 1)  # `aux.` followed by anything is a device of Windows
    odd = re.search("[A-Z]", re.sub("%[0-9A-F]{2}", "", name)) or name.endswith(".")
    if not odd and len(name) <= LONGEST:
        return name
    return f"{name[:LONGEST]}@{hashlib.blake2b(name.encode(), digest_size=6).hexdigest()}"


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


def load(name_or_path: str, module: str, scores: Scores) -> Study:
    """A study file, by path or by its name among the studies of the package `module`, which gives these `scores`."""
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
    return parse(raw_of(source, where), where, name, name_or_path, scores)


def raw_of(source: Path | Traversable, where: str) -> Any:
    """What YAML reads in a study file; `where` is the file, for the errors."""
    try:
        text = source.read_text(encoding="utf-8-sig")
    except OSError as e:
        raise UserError(f"{where}: cannot be read ({e.strerror}); it has to be a study file") from e
    except UnicodeDecodeError as e:
        raise UserError(f"{where}: is no text in UTF-8; it has to be a study file") from e
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        raise UserError(f"{where}: cannot be read as YAML{line}: {getattr(e, 'problem', None) or 'unreadable'}") from e


def hint(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, 1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def parse(raw: Any, where: str, name: str, given: str, scores: Scores) -> Study:
    """What YAML read -> a Study; `where` is the file, for the errors."""
    if not isinstance(raw, dict) or not raw:
        raise UserError(f"{where}: is no study; it needs the keys question, compare and metric")
    if "better" in raw:
        raise UserError(f"{where}: better: the task knows which way each of its scores is better; delete this line")
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
    metric = raw["metric"]
    if metric not in scores:
        has = ", ".join(f"{score} ({way} is better)" for score, way in scores.items()) or "none"
        raise UserError(f"{where}: metric: there is no score {metric!r}{hint(metric, list(scores))}; there are: {has}")
    together = raw.get("together", "auto")
    if together not in ("auto", "off"):
        raise UserError(f"{where}: together: has to be auto or off, not {together!r}")
    expect = raw.get("expect") or []
    if not isinstance(expect, list):
        raise UserError(f"{where}: expect: has to be a list of {CLAIM}")
    claims = [
        parse_claim(entry, f"{where}: expect[{i}]", compare, short_names([*compare, *tune]))
        for i, entry in enumerate(expect)
    ]
    question = raw["question"].strip()
    return Study(name, given, question, compare, tune, fixed, int(seeds), metric, scores[metric], claims, together)


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
        or raw.keys() - {"margin"} != {"claim", "because"}
        or not all(isinstance(text, str) and text.strip() for text in raw.values())
    ):
        raise UserError(f"{where}: has to be {CLAIM}, not {raw!r}")
    text = raw["claim"].strip()
    sides = re.fullmatch(r"([^<>]+)([<>])([^<>]+)", text) or re.fullmatch(r"((?:(?! = ).)+) (=) ((?:(?! = ).)+)", text)
    if not sides:
        raise UserError(
            f'{where}: claim: {text!r} has to be "A > B" (A is better), "A < B" (A is worse) or "A = B" (with a margin)'
        )
    left, relation, right = sides.groups()
    margin = number(raw.get("margin", "0"))
    if relation == "=" and not (margin and margin > 0):
        raise UserError(
            f"{where}: margin: {text!r} needs the difference up to which both are as good, above 0, like margin: 0.01"
        )
    if relation != "=" and "margin" in raw:
        raise UserError(f'{where}: margin: belongs to a claim "A = B", not to {text!r}; delete it')
    left, right = (find_setting(side.strip(), f"{where}: claim", compare, shorts) for side in (left, right))
    if left == right:
        raise UserError(f"{where}: claim: {text!r} holds a setting against itself")
    return Claim(text, raw["because"].strip(), left, right, cast(Any, relation), margin or 0.0)


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
    raw["expect"] = [
        {"claim": c.text, **({"margin": c.margin} if c.relation == "=" else {}), "because": c.because}
        for c in study.expect
    ]
    return yaml.safe_dump(raw, sort_keys=False, allow_unicode=True, width=120)


def mean(values: Mapping[int, float]) -> float | None:
    return math.fsum(values.values()) / len(values) if values else None


# ------------------------------------------------------------------------------------------------- what the runs leave


def read(path: Path) -> dict[str, Any] | None:
    """A JSON object of a run folder; None if it is not there yet."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as e:
        raise UserError(
            f"{path}: cannot be read as JSON ({files.reason(e)}); delete it and start the study again"
        ) from e
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
    result, test = read(folder / "result.json"), read(folder / "test.json")
    if result is None:
        log = folder / "log.txt"
        return Scored(trial, f"not finished; its last words: {last_line(log)}" if log.exists() else "not run")
    valid = metric_in(result.get("valid"), study.metric, folder / "result.json")
    untested = "" if test is None else tested.problem(folder, result, test)
    score = None if test is None or untested else metric_in(test, study.metric, folder / "test.json")
    problem = "" if math.isfinite(valid) else f"left out: valid {study.metric} is {valid}"
    if score is not None and not math.isfinite(score):
        problem = problem or f"left out: test {study.metric} is {score}"
    facts: dict[str, Any] = {key: result.get(key) for key in ("best_epoch", "seconds", "parameters")}
    for key, fact in facts.items():
        if not isinstance(fact, int | float | None):
            raise UserError(
                f"{folder / 'result.json'}: {key} is {fact!r}, no number; delete it and start the study again"
            )
    test = None if untested else test
    scores = {
        f"{part}_{name}": float(value)
        for part, found in (("valid", result["valid"]), ("test", test or {}))
        for name, value in found.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    kept = read(folder / BLOCKS) or {}
    kept = kept if test is not None and kept.get("scores") == test else {}  # of other scores, which a kill left there
    blocks, part = tuple(kept.get("blocks", {}).get(study.metric, ())), str(kept.get("part", ""))
    starts = files.read_json(folder / "environment.json", list, "delete it and start the study again", {})
    start = starts[-1] if starts else {}
    machine, commit = str(start.get("device", "")), str(start.get("git") or "")
    known: dict[str, Any] = {"scores": scores, "part": part, "blocks": blocks, "machine": machine, "commit": commit}
    return Scored(trial, problem, valid, score, untested=untested, **known, **facts)


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
    return conclude(study, [measure(study, out, trial) for trial in study.trials()])


def conclude(study: Study, runs: list[Scored]) -> Outcome:
    """What the runs of a study say, one for each of its trials."""
    problems = [f"{run.trial}: {run.problem}" for run in runs if run.problem and run.problem != "not run"]
    missing = [str(run.trial) for run in runs if run.problem == "not run"]
    if missing:
        problems.append(f"{len(missing)} of {len(runs)} runs are missing: {', '.join(missing)}")
    shorts = short_names([*study.compare, *study.tune])
    rows: dict[str, Row] = {}
    tested: dict[str, dict[int, Score]] = {}
    edges = []
    for of in dict.fromkeys(run.trial.of for run in runs):
        best = choose(study, [run for run in runs if run.trial.of == of])
        setting, tuned = best[0].trial.setting, best[0].trial.tuned
        counted = [run for run in best if not run.problem]
        untested = [f"{run.trial}{f' ({run.untested})' if run.untested else ''}" for run in counted if run.test is None]
        if untested:
            problems.append(f"no test score yet: {', '.join(untested)}")
        tested[of] = {
            run.trial.seed: Score(run.test, run.part, run.blocks, tuple(run.scores.values()))
            for run in counted
            if run.test is not None
        }
        seconds = [run.seconds for run in counted if run.seconds is not None]
        found = estimate(tested[of])
        rows[of] = Row(
            setting,
            tuned,
            of,
            test={seed: score.value for seed, score in tested[of].items()},
            valid={run.trial.seed: run.valid for run in counted if run.valid is not None},
            parameters=counted[0].parameters if counted else None,
            seconds=math.fsum(seconds) / len(seconds) if seconds else None,
            interval=found.interval() if found else None,
        )
        for knob, value in tuned.items() if counted else ():
            tried = [x for x in map(number, study.tune[knob]) if x is not None]
            if len(tried) == len(study.tune[knob]) > 1 and number(value) in (min(tried), max(tried)):
                edges.append(f"{shorts[knob]}={label(value)} is the edge of its range ({of}): widen it")
    verdicts = judge(study.expect, tested, study.seeds, study.sign())
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
            + [cell(mean(row.test), ".4f"), bounds(row.interval, ".4f"), cell(mean(row.valid), ".4f")]
            + [cell(row.parameters, ","), cell(row.seconds, ".1f")]
            + [str(study.seeds) if len(row.valid) == study.seeds else f"{len(row.valid)} of {study.seeds}"]
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
    else:
        found.append(
            "Interval: Student's t over the seeds, with the error of the test examples where all seeds share a test "
            "part. It is of one number; what two settings differ by is judged seed by seed."
        )
    if study.expect:
        count = len(study.expect)
        over = f", Holm's procedure over all {count} expectations" if count > 1 else ""
        found.append(
            f"Verdicts: p at most 0.05{over}, so that at most 5 % of studies have a false one. "
            "Unclear means that the difference may be chance, not that there is none."
        )
    return found


def measured(verdict: Verdict) -> str:
    """The numbers behind a verdict, and why there is none."""
    if verdict.difference is None:
        return "no seed of both is there"
    found = f"difference {verdict.difference:+.4f}, "
    found += "no interval" if verdict.interval is None else f"95 % interval {bounds(verdict.interval, '+.4f')}"
    if verdict.claim.relation == "=":
        found += f", margin {verdict.claim.margin:g}"
    if verdict.p is not None:
        found += f", p {probability(verdict.p)}"
    found += f", {verdict.pairs} seed{'s' * (verdict.pairs != 1)}"
    return f"{found}; {verdict.reason}" if verdict.reason else found


def probability(p: float) -> str:
    return "below 0.0001" if p < 0.0001 else f"{p:.4f}" if p < 0.1 else f"{p:.2f}"


def verdict_line(verdict: Verdict, metric: str) -> str:
    told = measured(verdict).replace("difference", f"difference in {metric}", 1)
    return f"{verdict.claim.text}: {verdict.verdict} ({told}). Expected because {verdict.claim.because}"


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
    files.write(out / "results.md", files.encode(markdown(outcome, command)))
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(lines_of(outcome))
    files.write(out / "results.csv", files.encode(text.getvalue()))
    groups: dict[str, list[Path]] = {}
    for run in outcome.runs:
        if not run.problem:
            groups.setdefault(run.trial.group, []).append(run.trial.folder(out))
    for folders in groups.values():
        write_curves(folders[0].parent, mean_curves(folders))


# ---------------------------------------------------------------------------------------- the runs as one file to keep

FACTS = ("best_epoch", "seconds", "parameters", "machine", "commit", "problem", "part", "blocks")


def lines_of(outcome: Outcome) -> list[list[str]]:
    """Header and a line for each run: all that `conclude` needs, so that a study can be judged again from this alone.

    The compared and tuned knobs, the seed, every score ("valid_loss", "test_accuracy"), and FACTS; `part` is the test
    part, `blocks` the pseudo-values of the study's metric there, see `etude.study.judge`. What is not known is empty.
    """
    knobs = [*outcome.study.compare, *outcome.study.tune]
    names = list(dict.fromkeys(name for run in outcome.runs for name in run.scores))
    lines = [[*knobs, "seed", *names, *FACTS]]
    for run in outcome.runs:
        values = {**run.trial.setting, **run.trial.tuned}
        facts = {**{name: getattr(run, name) for name in FACTS}, "blocks": " ".join(map(repr, run.blocks))}
        cells = [run.trial.seed, *(run.scores.get(name) for name in names), *facts.values()]
        lines.append([label(values[knob]) for knob in knobs] + ["" if x is None else str(x) for x in cells])
    return lines


def kept(study: Study, file: Path) -> list[Scored]:
    """The runs of a study that a file like results.csv tells of, for `conclude`; those it does not are "not run"."""
    try:
        with file.open(newline="", encoding="utf-8") as f:
            lines = list(csv.DictReader(f, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise UserError(f"{file}: cannot be read as CSV ({e}); it has to be the results.csv of a study") from e
    knobs = [*study.compare, *study.tune]
    found: dict[tuple[str, ...], Scored] = {}
    trials = {(*(label({**t.setting, **t.tuned}[k]) for k in knobs), str(t.seed)): t for t in study.trials()}
    for n, line in enumerate(lines, 2):
        try:
            which = (*(line[knob] for knob in knobs), line["seed"])
            if which not in trials:
                raise ValueError(f"the study has no run {' '.join(which)}")
            if which in found:
                raise ValueError(f"the run {' '.join(which)} stands here twice")
            found[which] = scored_of(study, trials[which], line)
        except (KeyError, ValueError, TypeError, AttributeError) as e:
            raise UserError(f"{file}, line {n}: {e}; it has to be the results.csv of this study") from e
    return [found.get(which, Scored(trial, "not run")) for which, trial in trials.items()]


def scored_of(study: Study, trial: Trial, line: Mapping[str, str]) -> Scored:
    """A line of results.csv. Raises KeyError or ValueError for what is none."""
    scores = {name: float(x) for name, x in line.items() if name.startswith(("valid_", "test_")) and x}
    valid, test = (scores.get(f"{part}_{study.metric}") for part in ("valid", "test"))
    if valid is None and not line["problem"]:
        raise ValueError(f"there is no valid_{study.metric}")
    best, seconds, parameters = line["best_epoch"], line["seconds"], line["parameters"]
    return Scored(
        trial,
        line["problem"],
        valid,
        test,
        int(best) if best else None,
        float(seconds) if seconds else None,
        int(parameters) if parameters else None,
        scores,
        line["part"],
        tuple(map(float, line["blocks"].split())),
        line["machine"],
        line["commit"],
    )


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
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as e:
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
    from etude import events
    from etude.torch_private import Event, Summary

    now = time.time()
    written = [events.beginning(now)]
    for step, scores in curves:
        points = [Summary.Value(tag=f"{name}/valid", simple_value=x) for name, x in scores.items()]
        written.append(Event(wall_time=now, step=step, summary=Summary(value=points)))
    earlier, file = list(folder.glob("events.out.tfevents.*")), events.next_file(folder)
    files.write(file, events.records(written))
    for old in earlier:
        old.unlink()


# -------------------------------------------------------------------------------------------------------- running them


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """What fails in it is the writing to the folder of a study. Raises UserError."""
    try:
        yield
    except OSError as e:
        raise UserError(f"{e.filename or out}: {e.strerror}; a study needs a folder to write to (--out DIR)") from e


@contextmanager
def claimed(out: Path) -> Iterator[int]:
    """Hold the folder against a second study; yields the lock, which the trials inherit and hold while they live."""
    with writing(out):
        lock = (out / ".lock").open("w")
    with lock:
        try:
            files.lock(lock)
        except BlockingIOError:
            raise UserError(
                f"{out}: a study, or a run that a killed one left, is at work here; wait or stop it"
            ) from None
        except OSError as e:
            raise UserError(f"{out}: cannot be locked ({e.strerror}); give --out a folder where files can be") from e
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
    answer: Path | None
    """the file in which a process for several says what became of them"""


def answered(file: Path) -> dict[str, Any] | None:
    """What a process for several trials answered: {left: {folder: why}, failed: [folder]}; None if it did not."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(found, dict) and isinstance(found.get("left"), dict) and isinstance(found.get("failed"), list)
    return found if whole else None


def flags_of(study: Study, trial: Trial) -> list[str]:
    return to_flags({**study.fixed, **trial.setting, **trial.tuned, "fit.seed": trial.seed})


def start(
    study: Study, module: str, out: Path, trials: Sequence[Trial], verb: str, number: int, threads: int, lock: int
) -> Job:
    """Starts a process for a trial, or one for several; `number` is that of the process."""
    commands = []
    alone = len(trials) == 1
    answer = None if alone else out / f".together-{number}.json"
    with writing(out):
        for trial in trials:
            folder = trial.folder(out)
            words = ["evaluate", str(folder)]
            if verb == "train":
                words = ["train", *flags_of(study, trial), "--run", str(folder)]
            commands.append([sys.executable, "-m", module, *words])
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / "log.txt").open("ab") as log:
                log.write(f"$ {shlex.join(commands[-1])}\n".encode())
        if answer is not None:
            answer.unlink(missing_ok=True)  # of an earlier start
        said = trials[0].folder(out) / "log.txt" if alone else out / f"together-{number}.log"
        log = said.open("ab" if alone else "wb")
    with log:
        try:
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
        except OSError as e:
            why = f"no process can be started for {trials[0]} ({e.strerror})"
            raise UserError(f"{why}; end others, or use fewer --jobs, and start the study again") from e
    if process.stdin is not None:
        runs = [
            {"folder": str(trial.folder(out)), "flags": flags_of(study, trial), "command": command}
            for trial, command in zip(trials, commands, strict=True)
        ]
        with suppress(BrokenPipeError), process.stdin as stdin:  # if it has ended already, its exit code says so
            stdin.write(json.dumps({"verb": verb, "runs": runs, "answer": str(answer)}).encode())
    return Job(list(trials), verb, process, said, answer)


def stackable(study: Study, trials: Sequence[Trial], asked: Mapping[str, Any], jobs: int) -> list[list[Trial]]:
    """The trials in groups that may be trained together: alike but for the knobs of `config.stackable`.

    `asked` are their configurations. Whether they can be, only their models can tell: see `etude.stacked`. With several
    jobs there are as many groups.
    """
    if not asked or study.together == "off":
        return [[trial] for trial in trials]
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        values = flatten(asked[str(trial)])
        alike = {knob: value for knob, value in values.items() if not may_differ(knob, value)}
        groups.setdefault(repr(alike), []).append(trial)
    size = min(MOST, -(-len(trials) // jobs))
    return [group[at : at + size] for group in groups.values() for at in range(0, len(group), size)]


def apart(asked: Mapping[str, Any]) -> list[str]:
    """The knobs that the study varies and in which runs of one stack may not differ."""
    flat = [flatten(config) for config in asked.values()]
    names = dict.fromkeys(knob for values in flat for knob in values)
    return [k for k in names if any(v[k] != flat[0][k] for v in flat) and not all(may_differ(k, v[k]) for v in flat)]


def work(
    study: Study, module: str, out: Path, jobs: int, lock: int, signals: Sequence[int], asked: Mapping[str, Any]
) -> None:
    """Train and evaluate what is not done yet, `jobs` at once, until a signal is noted in `signals`.

    `asked` are the trials' configurations (none: nothing is trained together).
    """
    trials = study.trials()
    threads = max(1, cores() // jobs)
    to_train = [t for t in trials if not (t.folder(out) / "result.json").is_file()]
    queue = [(group, "train") for group in stackable(study, to_train, asked, jobs)]
    done, started = len(trials) - len(to_train), 0
    running: list[Job] = []
    alone: set[str] = set()  # trials that a process for several has left
    tried: set[str] = set()  # trials whose evaluation was tried: if it failed, once is enough

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
        due = [r.trial for r in best if not r.problem and not (r.test is not None and r.part)]
        due = [trial for trial in due if str(trial) not in tried]  # what has no evidence is scored again
        tried.update(map(str, due))
        return [([trial], "evaluate") for trial in due]

    def finish(trial: Trial, verb: str, why: str) -> None:
        """`why` it failed, empty if it did not."""
        nonlocal done
        done += verb == "train"
        if not why and not (trial.folder(out) / "result.json").is_file():
            why = "no result.json"
        if not why:
            run = measure(study, out, trial)
            words = f"{study.metric} {cell(run.valid, '.4f')} (valid)  {cell(run.seconds, '.0f')} s"
            why = (run.untested or "no test.json") if verb == "evaluate" and run.test is None else ""
        if why:
            words = f"{verb} failed ({why}): {last_line(trial.folder(out) / 'log.txt')}"
        if why or verb == "train":
            say(f"[{done:{len(str(len(trials)))}}/{len(trials)}] {trial}  {words}")
        if verb == "train":
            bar.update()

    def end_of(job: Job) -> None:
        code = job.process.returncode
        why = f"exit code {code}" if code > 0 else f"signal {-code}" if code else ""
        if job.answer is None:
            finish(job.trials[0], job.verb, why)
        else:
            told = None if code else answered(job.answer)
            job.answer.unlink(missing_ok=True)
            if told is None:
                why = why or "it did not say what became of them"
                say(f"the process of {len(job.trials)} runs failed ({why}): {last_line(job.log)}; they go on alone")
                told = {"left": {str(trial.folder(out)): why for trial in job.trials}, "failed": []}
            else:
                for line in job.log.read_text(encoding="utf-8", errors="replace").splitlines():
                    say(line)
            for trial in job.trials:
                folder = trial.folder(out)
                there = (folder / "result.json").is_file() and (
                    job.verb == "train" or measure(study, out, trial).test is not None
                )
                if not there and str(folder) in told["left"]:
                    queue.append(([trial], job.verb))
                    alone.add(str(trial))
                else:
                    finish(trial, job.verb, "error" if str(folder) in told["failed"] else "")
        if job.verb == "train":
            for of in dict.fromkeys(t.of for t in job.trials):
                queue[:0] = to_score(of)

    def next_up() -> tuple[list[Trial], str]:
        """What comes next; evaluations that are due share a process."""
        trials, verb = queue.pop(0)
        if verb == "evaluate" and asked and study.together != "off" and str(trials[0]) not in alone:
            due = [group for group, other in queue if other == "evaluate" and str(group[0]) not in alone]
            some = due[: -(-len(due) // jobs)]
            trials = [*trials, *itertools.chain.from_iterable(some)]
            queue[:] = [item for item in queue if item[0] not in some]
        return trials, verb

    with tqdm(total=len(trials), initial=done, unit="run", file=sys.stdout, disable=not sys.stdout.isatty()) as bar:
        if done:
            say(f"{done} of {len(trials)} runs are there already")
        for group, _ in queue:
            if len(group) > 1:
                say(f"{len(group)} runs may be trained as one program and are tried so: {group[0]} ...")
        if study.together != "off" and queue and (knobs := apart(asked)):
            say(f"runs that differ in {', '.join(knobs)} are not trained as one program")
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


def configurations(study: Study, config: type | None) -> dict[str, Any]:
    """The configuration that the study asks for, of every trial, by its name. Raises UserError for one not to be read.

    Nor may two be the same: they would be one run under two names.
    """
    asked: dict[str, Any] = {}
    seen: dict[str, str] = {}
    if config is None:
        return {}
    for trial in study.trials():
        asked[str(trial)] = parse_config(config, flags_of(study, trial))
        other = seen.setdefault(repr(asked[str(trial)]), str(trial))
        if other != str(trial):
            raise UserError(f"{study.given}: {other} and {trial} are the same run; name every value once")
    return asked


def with_whole_paths(study: Study, asked: Mapping[str, Any]) -> Study:
    """The study with the paths among its fixed flags as its runs keep them: they mean the same wherever one stands."""
    kept = flatten(next(iter(asked.values()))) if asked else {}
    paths = {knob: kept.get(full_name(knob, kept)) for knob in study.fixed}
    whole = {knob: path for knob, path in paths.items() if isinstance(path, str) and os.path.isabs(path)}
    return replace(study, fixed={**study.fixed, **whole})


def refuse_other_configurations(study: Study, out: Path, asked: Mapping[str, Any]) -> None:
    """What a run answers, its config.yaml says: it may be of another study, or older than a default of today's."""
    differ = []
    for trial in study.trials() if asked else ():
        folder, now = trial.folder(out), asked[str(trial)]
        if (folder / "config.yaml").exists():
            try:
                changed = "; ".join(differences(parse_config(type(now), [str(folder / "config.yaml")]), now))
            except UserError as e:
                changed = str(e)
        else:
            changed = "it has no config.yaml" if (folder / "result.json").exists() else ""
        if changed:
            differ.append((folder, changed))
    if differ:
        folder, changed = differ[0]
        more = f"; so do {len(differ) - 1} more" if len(differ) > 1 else ""
        raise UserError(
            f"{folder} holds a run with another configuration than the study asks for now ({changed}){more}: "
            "remove it, or give another --out"
        )


def refuse_other_runs(study: Study, out: Path) -> None:
    """Runs made with other fixed flags must not be taken for runs of this study."""
    if not (out / "study.yaml").is_file():
        return
    raw = raw_of(out / "study.yaml", str(out / "study.yaml"))
    old = knobs((raw if isinstance(raw, dict) else {}).get("fixed") or {}, f"{out / 'study.yaml'}: fixed")
    old = {knob: flag_value(value, f"{out / 'study.yaml'}: fixed: {knob}") for knob, value in old.items()}
    differ = [
        f"{knob} ({label(old[knob]) if knob in old else 'not set'} there, "
        f"{label(study.fixed[knob]) if knob in study.fixed else 'not set'} now)"
        for knob in dict.fromkeys([*old, *study.fixed])
        if (knob in old) != (knob in study.fixed) or not same(old[knob], study.fixed[knob])
    ]
    if differ:
        raise UserError(f"{out}: holds runs with other flags: {', '.join(differ)}; remove it, or give another --out")


def default_out(task: str, study: Study, extra: Sequence[str], config: type | None) -> Path:
    """runs/<task>/<study>[,key=value for each override]."""
    values = overrides(extra)
    names = short_names(list(values), [*study.compare, *study.tune, *(all_knobs(config) if config else ())])
    return Path("runs") / task / ",".join(filter(None, [study.name, on_disk(folder_name(values, names))]))


def command(
    task: str, study: Study, out: Path, extra: Sequence[str], config: type | None, call: Sequence[str] | None = None
) -> str:
    """The command line that makes, or goes on with, the study in `out`."""
    place = [] if out == default_out(task, study, extra, config) else ["--out", str(out)]
    return shlex.join([*(call or [task]), "study", study.given, *extra, *place])


def run(study: Study, module: str, out: Path, extra: Sequence[str], jobs: int, config: type | None = None) -> Outcome:
    """Do the runs of a study that `out` does not hold yet, then write and return what they say.

    `extra` are flags for all runs; with their `config`, runs can be trained together. Raises `Stopped` after SIGINT or
    SIGTERM, when the runs have saved and the results so far are written; the same call goes on.
    """
    task = module.replace("_", "-")
    full = with_overrides(study, extra)
    asked = configurations(full, config)
    full = with_whole_paths(full, asked)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    with claimed(out) as lock, noted_signals() as signals:
        refuse_other_runs(full, out)
        refuse_other_configurations(full, out, asked)
        with writing(out):
            files.write(out / "study.yaml", files.encode(dump(full)))
        work(full, module, out, jobs, lock, signals, asked)
        outcome = summarise(full, out)
        with writing(out):
            save(outcome, out, command(task, study, out, extra, config))
    if signals:
        raise Stopped(signals[0])
    return outcome


# --------------------------------------------------------------------------------------------------------- the command


def usage(module: str, task: str, scores: Scores) -> str:
    known = {name: load(name, module, scores).question for name in available(module)}
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
    module: str,
    task: str,
    argv: Sequence[str],
    scores: Scores,
    config: type | None = None,
    call: Sequence[str] | None = None,
) -> int:
    """`PACKAGE study ...`, `argv` being what follows. Returns 0: done, 1: some runs failed, 130/143: stopped.

    `scores`: those of the task, and which way each is better. Every run's flags are tried on `config` before the first
    run starts; `call` is how the command was called.
    """
    words = list(argv)
    if "--help" in words or "-h" in words:
        print(usage(module, task, scores))
        return 0
    jobs, place, together = take(words, "--jobs"), take(words, "--out"), take(words, "--together")
    if together not in (None, "auto", "off"):
        raise UserError(f"--together has to be auto or off, not {together!r}")
    if jobs is not None and not (jobs.isdecimal() and int(jobs) > 0):
        raise UserError(f"--jobs has to be a whole number from 1 up, not {jobs!r}")
    if not words or words[0].startswith("-"):
        known = f"one of {', '.join(available(module))}, or " if available(module) else ""
        raise UserError(f"which study? give {known}a .yaml file first: {task} study NAME [--jobs N] [--flag value ...]")
    study, extra = load(words[0], module, scores), words[1:]
    study = replace(study, together=together or study.together)
    out = files.given(place) if place is not None else default_out(task, study, extra, config)
    try:
        outcome = run(study, module, out, extra, int(jobs or 1), config)
    except Stopped as e:
        again = command(task, study, out, extra, config, call) + (f" --jobs {jobs}" if jobs else "")
        print(f"stopped by {e}; the results so far are in {out / 'results.md'}. Go on with:\n  {again}", flush=True)
        return 128 + e.signum
    quoted = shlex.quote(str(out))
    print(f"\n{render(outcome)}\n\nresults: {out / 'results.md'}\ncurves:  tensorboard --logdir {quoted}", flush=True)
    return 1 if outcome.problems else 0
