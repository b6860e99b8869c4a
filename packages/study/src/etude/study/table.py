"""What a reader gets of a study: the table, the verdicts, results.md, results.csv, and curves for TensorBoard."""

import csv
import io
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from etude import files
from etude.errors import UserError
from etude.markdown import block, literal
from etude.study.judge import CONFIDENCE, LEVEL, Verdict
from etude.study.outcome import Interval, Outcome, lines_of, mean
from etude.study.question import TUNING, label, short_names


def cell(x: float | None, form: str) -> str:
    return "-" if x is None else format(x, form)


def bounds(interval: Interval, form: str) -> str:
    return "-" if interval is None else f"[{interval[0]:{form}}, {interval[1]:{form}}]"


def table(outcome: Outcome) -> list[list[str]]:
    """Header and rows."""
    study = outcome.study
    shorts = short_names([*study.compare, *study.tune])
    head = [shorts[knob] for knob in study.compare] + [f"{shorts[knob]} (tuned)" for knob in study.tune]
    head += [
        f"test {study.metric}",
        f"{CONFIDENCE} interval",
        f"valid {study.metric}",
        "parameters",
        "s per run",
        "seeds",
    ]
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
    if study.search:
        seeds = f"seed {TUNING}" if study.tuning_seeds == 1 else f"seeds {TUNING} to {TUNING + study.tuning_seeds - 1}"
        each = f"{study.points} points of each setting" if len(study.settings()) > 1 else f"{study.points} points"
        found.append(f"They were found among {each} ({study.search}) with {seeds}; all scores here are of other seeds.")
    if study.seeds == 1:
        found.append("One seed: there is no interval, and every verdict is unclear.")
    else:
        found.append(
            "Interval: Student's t over the seeds, with the error of the test examples where all seeds share a test "
            "part"
            + (", and with what the parts that the seeds draw of the same data have in common" if study.redrawn else "")
            + ". It is of one number; what two settings differ by is judged seed by seed."
        )
    if study.changed:
        found.append(f"Not all of it was written down before the runs: {study.changed}.")
    if study.expect:
        count = len(study.expect)
        over = f", Holm's procedure over all {count} expectations" if count > 1 else ""
        found.append(
            f"Verdicts: p at most {LEVEL}{over}, so that at most {100 * LEVEL:g} % of studies have a false one. "
            "Unclear means that the difference may be chance, not that there is none."
        )
    return found


def measured(verdict: Verdict) -> str:
    """The numbers behind a verdict, and why there is none."""
    if verdict.difference is None:
        return "no seed of both is there"
    found = f"difference {verdict.difference:+.4f}, "
    found += "no interval" if verdict.interval is None else f"{CONFIDENCE} interval {bounds(verdict.interval, '+.4f')}"
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
        ("Notes", outcome.edges),
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
    from etude import events  # which takes longer to import than `--help` should
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


def save(outcome: Outcome, out: Path, command: str) -> None:
    """Write results.md, results.csv and the curves of every setting."""
    files.write(out / "results.md", files.encode(markdown(outcome, command)))
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(lines_of(outcome))
    files.write(out / "results.csv", files.encode(text.getvalue()))
    groups: dict[tuple[str, bool], list[Path]] = {}
    for run in outcome.runs:  # of a search's best point, the runs that are reported come last
        if not run.problem:
            groups.setdefault((run.trial.group, run.trial.tuning), []).append(run.trial.folder(out))
    for folders in groups.values():
        write_curves(folders[0].parent, mean_curves(folders))
