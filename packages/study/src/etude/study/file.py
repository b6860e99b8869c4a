"""The study file, and the flags behind it, read into a `Study`; and back."""

import importlib.resources
import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, cast

import yaml

from etude import config as configs
from etude.config import Scores, similar
from etude.errors import UserError
from etude.package import Package
from etude.study.judge import Claim
from etude.study.question import (
    TOGETHER,
    TUNING,
    Range,
    Study,
    Values,
    folder_name,
    label,
    number,
    product,
    same,
    short_names,
)

SEARCH = ("search", "trials", "tuning_seeds")
KEYS = ("question", "needs", "compare", "tune", *SEARCH, "fixed", "seeds", "metric", "together", "changed", "expect")
CLAIM = '{claim: "A > B", because: "..."}, or {claim: "A = B", margin: 0.01, because: "..."}'


def folder_of(module: str) -> Traversable:
    return importlib.resources.files(module) / "studies"


def available(module: str) -> list[str]:
    """The studies that install with a package."""
    folder = folder_of(module)
    return sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".yaml")) if folder.is_dir() else []


def load_of(package: Package, given: str) -> Study:
    """A study file, by path or by its name among the studies of a package."""
    return replace(load(given, package.module, package.scores), redrawn=package.redrawn)


def load(given: str, module: str, scores: Scores) -> Study:
    """The same of the package `module`, which gives these `scores`, if its seeds share a test part."""
    source: Path | Traversable = Path(given)
    name, where, known = Path(given).stem, given, available(module)
    if Path(given).suffix not in (".yaml", ".yml") and not source.is_file():
        if given not in known:
            has = similar(given, known) if known else "it has none; give the path of a .yaml file"
            raise UserError(f"{module} has no study {given!r}: {has}")
        source = folder_of(module) / f"{given}.yaml"
        name, where = given, str(source)
    return parse(read_raw(source, where), where, name, given, scores)


def read_raw(source: Path | Traversable, where: str) -> Any:
    """What YAML reads in a study file; `where` is the file, for the errors."""
    try:
        text = source.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{where}: cannot be read ({error.strerror}); it has to be a study file") from None
    except UnicodeDecodeError:
        raise UserError(f"{where}: is not text in UTF-8; it has to be a study file") from None
    return configs.plain(configs.compose(text, where))


def parse(raw: Any, where: str, name: str, given: str, scores: Scores) -> Study:
    """What YAML read -> a Study; `where` is the file, for the errors."""
    if not isinstance(raw, dict) or not raw:
        raise UserError(f"{where}: is no study; it needs the keys question, compare and metric")
    if "better" in raw:
        raise UserError(f"{where}: better: the task knows which way each of its scores is better; delete this line")
    for key in raw:
        if key not in KEYS:
            raise UserError(f"{where}: unknown key {key!r}: {similar(key, KEYS)}")
    for key in ("question", "metric"):
        if not isinstance(raw.get(key), str) or not raw[key].strip():
            raise UserError(f"{where}: {key}: has to be a text, not {raw.get(key)!r}")
    ways = ways_of(raw["compare"], f"{where}: compare") if isinstance(raw.get("compare"), list) else ()
    compare = values_of(ways) if ways else lists_of(raw.get("compare"), f"{where}: compare")
    tune = tuned(raw.get("tune") or {}, f"{where}: tune")
    if not compare:
        raise UserError(f"{where}: compare: names no knob; give one with its values, like model.kernel: [1, 3]")
    fixed = fixed_flags(raw, where)
    for knob, times in Counter([*compare, *tune, *fixed]).items():
        if times > 1:
            raise UserError(f"{where}: {knob} stands in more than one of compare, tune and fixed; keep one")
        if knob in ("fit.seed", "run"):
            raise UserError(f"{where}: {knob} cannot be set here: a study sets it for every run (see `seeds`)")
    seeds, search = count(raw, "seeds", where, "3"), search_of(raw, tune, where)
    metric = raw["metric"]
    if metric not in scores:
        has = ", ".join(f"{score} ({way} is better)" for score, way in scores.items()) or "none"
        raise UserError(f"{where}: metric: there is no score {metric!r}; there are: {has}")
    together = raw.get("together", "auto")
    if together not in TOGETHER:
        raise UserError(f"{where}: together: has to be {', '.join(TOGETHER[:-1])} or {TOGETHER[-1]}, not {together!r}")
    expect = raw.get("expect") or []
    if not isinstance(expect, list):
        raise UserError(f"{where}: expect: has to be a list of {CLAIM}")
    shorts = short_names([*compare, *tune])
    settings = ways or product(compare)
    claims = [parse_claim(entry, f"{where}: expect[{i}]", compare, settings, shorts) for i, entry in enumerate(expect)]
    question = raw["question"].strip()
    needs, changed = needed(raw.get("needs") or {}, f"{where}: needs"), str(raw.get("changed") or "")
    way = scores[metric]
    asked = Study(
        name, given, question, compare, tune, fixed, seeds, metric, way, claims, together, *search, changed, needs, ways
    )
    if asked.search and seeds > TUNING:
        raise UserError(f"{where}: seeds: has to be at most {TUNING:,}, as the search has those from {TUNING:,} up")
    return asked


def needed(raw: Any, where: str) -> dict[str, str]:
    """Paths that the runs start from, each with the command that makes it."""
    if not isinstance(raw, dict) or not all(isinstance(word, str) for pair in raw.items() for word in pair):
        raise UserError(f"{where}: has to map paths to the commands that make them, not {raw!r}")
    return raw


def knobs(raw: Any, where: str) -> Values:
    """A mapping with knobs as keys; model.batch_norm and model.batch-norm are the same knob."""
    if not isinstance(raw, dict) or not all(isinstance(knob, str) for knob in raw):
        raise UserError(f"{where}: has to map knobs to values, like model.kernel: [1, 3]; it is {raw!r}")
    return {knob.replace("_", "-"): value for knob, value in raw.items()}


def word(text: str | None) -> Any:
    """The value that a word of a file or of the command line stands for: None for null, as `config.read` has it.

    All but three stay as written: YAML would read `off` as false and 1e-3 as a text, but it is the typed parser of
    `train` that knows what the knob takes.
    """
    named = {"true": True, "false": False, "null": None, None: None}
    return named[text] if text in named else configs.read(text, str)


def flag_value(raw: Any, where: str) -> Any:
    """A value as YAML gives it -> as a flag can take it: one word, or a list of words."""
    if raw is None or isinstance(raw, str):
        return word(raw)
    if isinstance(raw, list) and raw and not any(isinstance(inner, list | dict) for inner in raw):
        return [word(text) for text in raw]
    raise UserError(f"{where}: {raw!r} is no value that a flag can take; give one value or a list of them")


def fixed_flags(raw: Mapping[str, Any], where: str) -> Values:
    """The knobs that a study file `where` sets for all its runs."""
    fixed = knobs(raw.get("fixed") or {}, f"{where}: fixed")
    return {knob: flag_value(value, f"{where}: fixed: {knob}") for knob, value in fixed.items()}


def count(raw: Mapping[str, Any], key: str, where: str, default: str) -> int:
    """A whole number from 1 up."""
    found = raw.get(key, default)
    if not isinstance(found, str) or not found.isdecimal() or int(found) < 1:
        raise UserError(f"{where}: {key}: has to be a whole number from 1 up, not {found!r}")
    return int(found)


def search_of(raw: Mapping[str, Any], tune: Mapping[str, Any], where: str) -> tuple[str, int, int]:
    """How ranges are searched, at how many points, with how many seeds each; nothing of that for a grid."""
    if not any(isinstance(tried, Range) for tried in tune.values()):
        if odd := next((key for key in SEARCH if key in raw), None):
            needs = "needs a range in tune to search, like fit.lr: {from: 1e-4, to: 3e-2, scale: log}"
            raise UserError(f"{where}: {odd}: {needs}")
        return "", 0, 1
    search = raw.get("search", "quasi")
    if search not in ("quasi", "bayes"):
        raise UserError(f"{where}: search: has to be quasi or bayes, not {search!r}")
    if "trials" not in raw:
        raise UserError(f"{where}: trials: is missing; say how many points of the range are tried, like trials: 16")
    return search, count(raw, "trials", where, ""), count(raw, "tuning_seeds", where, "1")


def tuned(raw: Any, where: str) -> dict[str, list[Any] | Range]:
    """Knobs with the values they are tuned over, a list or a range."""
    found = knobs(raw, where)
    lists = lists_of({knob: given for knob, given in found.items() if not isinstance(given, dict)}, where)
    spaces = {knob: range_of(given, f"{where}: {knob}") for knob, given in found.items() if isinstance(given, dict)}
    return {knob: lists[knob] if knob in lists else spaces[knob] for knob in found}


def range_of(raw: Mapping[str, Any], where: str) -> Range:
    """{from: 1e-4, to: 3e-2, scale: log}; without a scale it is linear."""
    form = "{from: 1e-4, to: 3e-2, scale: log}"
    if odd := next((key for key in raw if key not in ("from", "to", "scale")), None):
        raise UserError(f"{where}: unknown key {odd!r} in a range; it has to be like {form}")
    ends = [number(raw[key]) if isinstance(raw.get(key), str) else None for key in ("from", "to")]
    low, high = ends
    if low is None or high is None:
        key = "from" if low is None else "to"
        raise UserError(f"{where}: {key}: has to be a number, not {raw.get(key)!r}, in a range like {form}")
    scale = raw.get("scale", "linear")
    if scale not in ("linear", "log"):
        raise UserError(f"{where}: scale: has to be linear or log, not {scale!r}")
    if not low < high:
        raise UserError(f"{where}: from: has to be below to, and {low:g} is not below {high:g}")
    if scale == "log" and low <= 0:
        raise UserError(f"{where}: from: has to be above 0 where the scale is log, not {low:g}")
    return Range(low, high, scale == "log")


def lists_of(raw: Any, where: str) -> dict[str, list[Any]]:
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


def ways_of(raw: list[Any], where: str) -> tuple[Values, ...]:
    """Settings that are listed one by one, each with a value of every knob: not all combinations make sense."""
    found: list[Values] = []
    for n, given in enumerate(raw):
        at = f"{where}[{n}]"
        way = {knob: flag_value(value, f"{at}: {knob}") for knob, value in knobs(given, at).items()}
        first = found[0] if found else way
        if odd := sorted(way.keys() ^ first.keys()):
            raise UserError(f"{at}: all settings have to name the same knobs, and {odd[0]} is not in each of them")
        found.append({knob: way[knob] for knob in first})
    for a, b in itertools.combinations(found, 2):
        if all(same(a[knob], b[knob]) for knob in a):
            told = ", ".join(f"{knob}: {label(value)}" for knob, value in a.items())
            raise UserError(f"{where}: has {{{told}}} twice; name every setting once")
    return tuple(found)


def values_of(ways: Sequence[Values]) -> dict[str, list[Any]]:
    """Each knob of these settings with its values, in their order."""
    found: dict[str, list[Any]] = {knob: [] for knob in ways[0]}
    for knob, values in found.items():
        for way in ways:
            if not any(same(way[knob], value) for value in values):
                values.append(way[knob])
    return found


def parse_claim(
    raw: Any, where: str, compare: Mapping[str, list[Any]], settings: Sequence[Values], shorts: Mapping[str, str]
) -> Claim:
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
    left, right = (find_setting(side.strip(), f"{where}: claim", compare, settings, shorts) for side in (left, right))
    if left == right:
        raise UserError(f"{where}: claim: {text!r} holds a setting against itself")
    return Claim(text, raw["because"].strip(), left, right, cast(Any, relation), margin or 0.0)


def find_setting(
    text: str, where: str, compare: Mapping[str, list[Any]], settings: Sequence[Values], shorts: Mapping[str, str]
) -> str:
    """The compared setting that one side of a claim names: "3", "kernel=3" or "model.kernel=3, model.layers=2"."""
    if len(compare) == 1 and "=" not in text:
        parts = {next(iter(compare)): text}
    else:
        pairs = (part.partition("=") for part in re.split(r",\s*(?=[\w.-]+\s*=)", text))
        full = {shorts[knob]: knob for knob in compare} | {knob: knob for knob in compare}
        parts = {full.get(k.strip().replace("_", "-"), k.strip()): v.strip() for k, _, v in pairs}
    if parts.keys() == compare.keys():
        for setting in settings:
            if all(same(claimed_value(parts[knob]), value) for knob, value in setting.items()):
                return folder_name(setting, shorts)
    values = "; ".join(f"{knob} {', '.join(map(label, values))}" for knob, values in compare.items())
    values += f", in {len(settings)} settings" if len(settings) < len(product(compare)) else ""
    raise UserError(f"{where}: {text!r} is not compared; compared are {values}")


def claimed_value(text: str) -> Any:
    """A value in a claim: a word, or a list as in `compare`, [16, 32]."""
    return [word(part.strip()) for part in text[1:-1].split(",")] if text.startswith("[") else word(text)


def dump(study: Study) -> str:
    """A study as the YAML text that `load` reads back equal (but for its name)."""

    def plain(value: Any) -> Any:
        """Numbers as numbers, where YAML writes them alike: else every 3 would stand in quotes."""
        if isinstance(value, Range):
            return {"from": value.low, "to": value.high, "scale": "log" if value.log else "linear"}
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [plain(inner) for inner in value]
        number = yaml.safe_load(value) if isinstance(value, str) and re.fullmatch("[-+.0-9]+", value) else None
        return number if str(number) == value else value

    left_out = ("expect", *(() if study.search else SEARCH))
    raw = {key: getattr(study, "points" if key == "trials" else key) for key in KEYS if key not in left_out}
    raw = {key: value for key, value in raw.items() if value not in ({}, "")}
    raw["compare"] = list(study.ways) or study.compare
    raw |= {key: plain(raw[key]) for key in ("compare", "tune", "fixed") if key in raw}
    raw["expect"] = [
        {"claim": c.text, **({"margin": c.margin} if c.relation == "=" else {}), "because": c.because}
        for c in study.expect
    ]
    return yaml.safe_dump(raw, sort_keys=False, allow_unicode=True, width=120)


def flags_as_values(flags: Sequence[str], config: type | None) -> Values:
    """Flags of the command line as values: ["--fit.epochs", "2", "--no-x"] -> {"fit.epochs": "2", "x": False}."""
    values: Values = {}
    known = {**(configs.knobs(config) if config else {}), "run": str}  # which `with_flags` refuses
    for setting in configs.read_flags(flags, known):
        found = [word(text) for text in setting.words]
        values[setting.name.removesuffix(".name")] = found[0] if len(found) == 1 else found
    return values


def with_flags(study: Study, flags: Sequence[str], config: type | None) -> Study:
    """The study with the flags of the command line among its fixed ones."""
    # By the name that the study has for it, which may be data.name or data: else a flag would be overruled unseen.
    named = {knob.removesuffix(".name"): knob for knob in (*study.compare, *study.tune, *study.fixed)}
    values = {named.get(knob, knob): value for knob, value in flags_as_values(flags, config).items()}
    for knob in values:
        for part, members in (("compared", study.compare), ("tuned", study.tune)):
            if knob in members:
                raise UserError(
                    f"--{knob} is {part} by the study {study.name}; leave it out, or change the study's file"
                )
        if knob in ("fit.seed", "run"):
            raise UserError(f"--{knob} is set by the study for every run (see `seeds` in its file); leave it out")
    return replace(study, fixed={**study.fixed, **values})
