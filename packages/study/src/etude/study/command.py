"""The verb `study`: a written question put to many runs, in a folder of its own.

OUT/study.yaml  results.md  results.csv; of a search also what `etude.study.search` says
OUT/kernel=3,lr=0.003/           the curves averaged over the seeds, for TensorBoard
OUT/kernel=3,lr=0.003/seed=0/    one run folder, and log.txt: what the run said
"""

import os
import shlex
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from etude import config as configs
from etude import files
from etude.arguments import Parser
from etude.errors import UserError
from etude.package import Package
from etude.signals import Stopped, watch_signals
from etude.study import table
from etude.study.cluster import Cluster
from etude.study.file import available, dump, fixed_flags, flags_as_values, load_of, read_raw, with_flags
from etude.study.jobs import Local, claimed, work
from etude.study.outcome import Outcome, summarise
from etude.study.question import TOGETHER, Study, flags_of, folder_name, inside, label, number, same, short_names
from etude.study.search import found, read, ready, stages
from etude.study.space import corners


def configurations(study: Study, config: type | None) -> dict[str, Any]:
    """The configuration that the study asks for, of every trial, by its name. Raises UserError for one not to be read.

    Nor may two be the same: they would be one run under two names.
    """
    asked: dict[str, Any] = {}
    seen: dict[str, str] = {}
    if config is None:
        return {}
    known = configs.knobs(config)
    for knob in (*study.compare, *study.tune, *study.fixed):
        if configs.full(knob, known) not in known:
            raise UserError(f"{study.given}: there is no knob {knob}: {configs.similar(knob, known)}")
    for trial in study.trials():
        asked[str(trial)] = configs.parse(config, flags_of(study, trial))
        other = seen.setdefault(repr(asked[str(trial)]), str(trial))
        if other != str(trial):
            raise UserError(f"{study.given}: {other} and {trial} are the same run; name every value once")
    return asked


def with_whole_paths(study: Study, asked: Mapping[str, Any]) -> Study:
    """The study with the paths among its fixed flags as its runs keep them: they mean the same wherever one stands."""
    kept = configs.flatten(next(iter(asked.values()))) if asked else {}
    paths = {knob: kept.get(configs.full(knob, kept)) for knob in study.fixed}
    whole = {knob: path for knob, path in paths.items() if isinstance(path, str) and os.path.isabs(path)}
    return replace(study, fixed={**study.fixed, **whole})


def refuse_missing(study: Study, out: Path) -> None:
    """Raises UserError if runs that are still to be done start from something that nobody has made yet."""
    for trial in study.listed or (() if study.search else study.trials()):
        for path in map(label, {**study.fixed, **trial.setting}.values()):
            if path in study.needs and not Path(path).exists() and not (trial.folder(out) / "result.json").exists():
                first = study.needs[path]
                raise UserError(f"{study.name} starts from {path}, which is not there yet; make it: {first}")


def refuse_other_configurations(study: Study, out: Path, asked: Mapping[str, Any]) -> None:
    """What a run answers, its config.yaml says: it may be of another study, or older than a default of today's."""
    differ = []
    for trial in study.trials() if asked else ():
        folder, now = trial.folder(out), asked[str(trial)]
        if (folder / "config.yaml").exists():
            try:
                changed = "; ".join(configs.differences(configs.parse(type(now), [str(folder / "config.yaml")]), now))
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
    raw = read_raw(out / "study.yaml", str(out / "study.yaml"))
    old, now = fixed_flags(raw if isinstance(raw, dict) else {}, str(out / "study.yaml")), study.fixed
    told = {knob: [label(of[knob]) if knob in of else "not set" for of in (old, now)] for knob in {**old, **now}}
    differ = [
        f"{knob} ({there} there, {here} now)"
        for knob, (there, here) in told.items()
        if (knob in old) != (knob in now) or not same(old[knob], now[knob])
    ]
    if differ:
        raise UserError(f"{out}: holds runs with other flags: {', '.join(differ)}; remove it, or give another --out")


def with_changes(study: Study, out: Path) -> Study:
    """The study with what was changed of it when runs of it were there already, now or before: who reads it is told."""
    done = len(list(out.glob("*/seed=*/result.json")))
    old = read_raw(out / "study.yaml", str(out / "study.yaml")) if done and (out / "study.yaml").is_file() else None
    if not isinstance(old, dict):
        return study
    before, now = promised(old), promised(configs.plain(configs.compose(dump(study), study.given)))
    differ = [what for what in now if now[what] != before[what]]
    told = f"{' and '.join(differ)} changed when {done} runs were there" if differ else ""
    return replace(study, changed="; ".join(filter(None, [str(old.get("changed") or ""), told])))


def promised(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Of a study, as YAML has it, what is written down before the runs, in whichever order; reasons may be reworded."""
    expect = raw.get("expect")
    claims = [one | {"because": ""} if isinstance(one, dict) else one for one in expect or []]
    return {"expectations": sorted(claims, key=str), "metric": raw.get("metric"), "seeds": raw.get("seeds")}


def default_out(task: str, study: Study, extra: Sequence[str], config: type | None) -> Path:
    """runs/<task>/<study>[,key=value for each override]."""
    values = flags_as_values(extra, config)
    names = short_names(list(values), [*study.compare, *study.tune, *(configs.knobs(config) if config else ())])
    name = folder_name(values, names)
    return inside(Path("runs") / task, name, f"{study.name}," if name else study.name)


def command(task: str, study: Study, out: Path, extra: Sequence[str], config: type | None, call: str = "") -> str:
    """The command line that makes, or goes on with, the study in `out`."""
    place = [] if out == default_out(task, study, extra, config) else ["--out", str(out)]
    return f"{call or task} {shlex.join(['study', study.given, *extra, *place])}"


def parts(
    study: Study, out: Path, config: type | None, asked: dict[str, Any]
) -> Iterator[tuple[Study, dict[str, Any]]]:
    """What is run one after the other, with its configurations: of a grid, those `asked`. Says which part it is.

    Raises UserError for a folder that holds a run with another configuration.
    """
    for said, part in stages(study, out):
        if part is study:
            yield study, asked
        else:
            configured = configurations(part, config)
            refuse_other_configurations(part, out, configured)
            print(said, flush=True)
            yield part, configured


def asked_for(
    study: Study, out: Path, extra: Sequence[str] = (), config: type | None = None
) -> tuple[Study, dict[str, Any]]:
    """The study with flags for all its runs, and their configurations; nothing is written before.

    Raises UserError for what no run can be asked for, or starts from what is not there.
    """
    full = ready(with_flags(study, extra, config), config)
    asked = configurations(corners(full), config)
    refuse_missing(full, out)
    return with_whole_paths(full, asked), asked


def run(
    study: Study,
    module: str,
    out: Path,
    extra: Sequence[str],
    jobs: int,
    config: type | None = None,
    cluster: Cluster | None = None,
) -> Outcome:
    """Does the runs of a study that `out` does not hold yet, then writes and returns what they say.

    `extra` are flags for all runs; with their `config`, runs can be trained together. Raises `Stopped` after SIGINT or
    SIGTERM, when the runs have saved and the results so far are written; the same call goes on. `jobs`: how many
    processes at once on this machine, if it is not for a `cluster`.
    """
    task = module.replace("_", "-")
    full, asked = asked_for(study, out, extra, config)
    if cluster:
        cluster.connect()  # before signals are watched: it watches them, too
    writing = (f"cannot write to {out}", "a study needs a folder to write to (--out DIR)")
    with files.reported(*writing):
        out.mkdir(parents=True, exist_ok=True)
    with claimed(out, cluster is not None) as (claim, lock), watch_signals(every=True) as signals:
        refuse_other_runs(full, out)
        full = with_changes(full, out)
        refuse_other_configurations(corners(full), out, asked)
        read(full, out)  # refuses another search
        with files.reported(*writing):
            files.write(out / "study.yaml", files.encode(dump(full)))
        if cluster and claim:
            cluster.use(claim, module)
        for part, configured in parts(full, out, config, asked):
            work(part, module, out.absolute() if cluster else out, cluster or Local(jobs, lock), signals, configured)
            if signals:
                break
        outcome = summarise(found(full, out), out)
        with files.reported(*writing):
            table.save(outcome, out, command(task, study, out, extra, config))
    if signals:
        raise Stopped(signals[0])
    return outcome


HELP = """\
Put a written question to many runs, and hold the outcome against what was expected. Runs that are done already are
skipped, so a stopped study goes on when it is started again. Any flag of `train` may follow, for all runs, such as
--fit.epochs 2."""


def parser(package: Package) -> Parser:
    known = {name: load_of(package, name).question for name in available(package.module)}
    width = max(map(len, known), default=0)
    studies = [f"studies of {package.name}:", *(f"  {name:{width}}  {asked}" for name, asked in known.items())]
    none = [f"{package.name} has no studies of its own; give a file."]
    takes = Parser(f"{package.name} study", HELP, "\n".join(studies if known else none))
    takes.add_argument("study", metavar="NAME|FILE.yaml", nargs="?", help="one of the studies below, or a file")
    takes.add_argument("--jobs", metavar="N", help="so many runs at once; they share the cores (default 1)")
    takes.add_argument("--ray", metavar="ADDRESS", help="on the machines of a Ray cluster: auto, or HOST:PORT")
    takes.add_argument("--cpus", metavar="N", help="of each run there (default 1)")
    takes.add_argument("--gpus", metavar="N", help="of each run there, or a part of one, such as 0.5 (default 0)")
    takes.add_argument("--out", metavar="DIR", help=f"where runs and results go (default runs/{package.name}/NAME)")
    how = "runs as one program: auto: where they can be, and are faster so; on: where they can be; off: nowhere"
    takes.add_argument("--together", choices=TOGETHER, help=how)
    takes.also("[--flag value ...]")
    return takes


@dataclass(frozen=True)
class Where:
    """Where the runs are done, as the flags say, which are `words`."""

    jobs: int
    cluster: Cluster | None
    words: str


def where_to_run(given: Namespace) -> Where:
    """Raises UserError for what does not go together, or is no number."""
    asked = {name: value for name in ("jobs", "ray", "cpus", "gpus") if (value := getattr(given, name)) is not None}
    if given.ray is None and (given.cpus or given.gpus) is not None:
        raise UserError("--cpus and --gpus are for --ray: on this machine runs share what there is, --jobs at once")
    if given.ray is not None and given.jobs is not None:
        raise UserError("--jobs is for this machine: with --ray as many run as the cluster has --cpus and --gpus for")
    for name in ("jobs", "cpus"):
        if not (asked.get(name, "1").isdecimal() and int(asked.get(name, "1")) > 0):
            raise UserError(f"--{name} has to be a whole number from 1 up, not {asked[name]!r}")
    gpus = number(asked.get("gpus", "0"))
    if gpus is None or gpus < 0 or (gpus > 1 and gpus % 1):
        raise UserError(f"--gpus has to be a whole number from 0 up, or a part of 1, not {given.gpus!r}")
    cluster = None if given.ray is None else Cluster(given.ray, int(asked.get("cpus", "1")), gpus)
    told = {name: value for name, value in asked.items() if (name, value) != ("jobs", "1")}
    return Where(int(asked.get("jobs", "1")), cluster, "".join(f" --{k} {shlex.quote(v)}" for k, v in told.items()))


def main(package: Package, words: list[str], call: str) -> int:
    """Put a written question to many runs.

    It is called as `call`. Returns 0: done, 1: some runs failed, 130 or 143: stopped.
    """
    takes = parser(package)
    given, extra = takes.parse_known_args(words)
    if given.study is None:
        known = f"one of {', '.join(available(package.module))}, or " if available(package.module) else ""
        takes.error(f"which study? give {known}a .yaml file first")
    if extra and words.index(extra[0]) < words.index(given.study):  # what is taken for NAME is the value of a flag
        takes.error(f"the study comes before {extra[0]}")
    where = where_to_run(given)
    study = load_of(package, given.study)
    study = replace(study, together=given.together or study.together)
    place, config = given.out, package.config
    out = files.given(place) if place is not None else default_out(package.name, study, extra, config)
    try:
        outcome = run(study, package.module, out, extra, where.jobs, config, where.cluster)
    except Stopped as stopped:
        again = command(package.name, study, out, extra, config, call) + where.words
        results = f"the results so far are in {out / 'results.md'}"
        print(f"stopped by {stopped}; {results}. Go on with:\n  {again}", flush=True)
        return stopped.code
    curves = f"curves:  tensorboard --logdir {shlex.quote(str(out))}"
    print(f"\n{table.render(outcome)}\n\nresults: {out / 'results.md'}\n{curves}", flush=True)
    return 1 if outcome.problems else 0
