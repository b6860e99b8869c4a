"""The report as one HTML page: no script, no network, every word of the data escaped.

The layout is in page.html, beside this file, filled in by Jinja with autoescape on. What may stand in it unescaped is
made here: the charts, and Markdown of the samples, whose HTML, links and pictures stay text.
"""

import base64
import math
import re
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any

import jinja2
from markdown_it import MarkdownIt
from markupsafe import Markup

from etude import files
from etude.errors import UserError
from etude.package import Package
from etude.report import archive, chart
from etude.report import read as report
from etude.report.chart import Point
from etude.report.read import Group, Section
from etude.study import search, table
from etude.study.judge import CONFIDENCE, LEVEL
from etude.study.outcome import Scored, mean
from etude.study.question import label

LOSS, STEPS = "step/loss", 150  # the loss of a step in the event files; points of its curve
ROWS = 12  # of a table among the samples are shown
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b5568f", "#d38f00", "#3d9bd1", "#1c1e21")  # as c0 to c6 in page.html


@cache
def reader() -> MarkdownIt:
    """Reads Markdown with tables; HTML, links and pictures in it stay text, so nothing is run or loaded."""
    return MarkdownIt("commonmark", {"html": False}).enable("table").disable(["link", "image", "autolink"])


def markdown(text: str) -> Markup:
    """Markdown as HTML that is safe to show, whatever the text; right-to-left words keep to their cell.

    Of a long table the first rows are shown, and it is said how many there are.
    """
    kept, rows = [], 0
    for token in reader().parse(text):
        if token.type in ("td_open", "th_open", "paragraph_open"):
            token.attrSet("dir", "auto")
        rows = 0 if token.type == "tbody_open" else rows + (token.type == "tr_open")
        if rows <= ROWS or token.type in ("tbody_close", "table_close"):
            kept.append(token)
        if token.type == "table_close":
            if rows > ROWS:
                note = reader().parse(f"... and {rows - ROWS} more rows")
                note[0].attrSet("class", "note")
                kept += note
            rows = 0
    html = reader().renderer.render(kept, reader().options, {})
    return Markup(html.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>"))


def shown(sample: report.Sample) -> Markup:
    """A sample as HTML. Raises UserError if its file is not one that a run wrote."""
    with files.reported(f"{sample.file} cannot be read", "delete it"):
        content = sample.file.read_bytes()
    if sample.file.suffix != ".png":
        return markdown(content.decode("utf-8", errors="replace"))
    if not content.startswith(b"\x89PNG"):
        raise UserError(f"{sample.file} cannot be read: it is not a picture; delete it")
    image = '<img src="data:image/png;base64,{}" alt="{}, {}">'
    return Markup(image).format(base64.b64encode(content).decode(), sample.name, sample.when)


def steps(group: Group) -> chart.Curve:
    """The training loss of single steps of the first run that has any, from its event files.

    Of more than STEPS steps the mean, the least and the greatest of as many next to each other as make that STEPS.
    """
    for one in group.records:
        losses = {e.step: v.simple_value for e in archive.read(one.folder) for v in e.summary.value if v.tag == LOSS}
        known = [(step, loss) for step, loss in sorted(losses.items()) if math.isfinite(loss)]
        size, points = max(1, math.ceil(len(known) / STEPS)), []
        for at in range(0, len(known), size):
            some = [loss for _, loss in known[at : at + size]]
            middle = known[at + (len(some) - 1) // 2][0]
            points.append(chart.Point(middle, math.fsum(some) / len(some), min(some), max(some)))
        if points:
            return chart.Curve(group.name, group.number, points)
    return chart.Curve(group.name, group.number, [])


def figures(found: Section) -> tuple[list[tuple[str, Markup]], list[tuple[str, Markup]]]:
    """Titles and charts: those to see first, of the study's metric and the loss, then whatever else was measured."""
    words = {"valid": "validation", "train": "training"}
    every = [(part, name) for part in words for name in report.metrics(found.groups, part)]
    wanted = [(part, name) for name in dict.fromkeys((found.metric, "loss")) for part in words]

    def draw(part: str, name: str) -> tuple[str, Markup]:
        curves = [report.curve(group, part, name) for group in found.groups if group.records]
        return f"{name}, {words[part]} part", chart.lines(curves, "epoch", f"{name} ({words[part]} part)")

    first, rest = [pair for pair in wanted if pair in every], [pair for pair in every if pair not in wanted]
    shown = [draw(*pair) for pair in first]
    curves = [curve for group in found.groups if (curve := steps(group)).points]
    if curves:
        name = "loss of single steps, training part"
        seeds = " (of each setting its first seed)" if found.outcome and found.outcome.study.seeds > 1 else ""
        shown.append((name + seeds, chart.lines(curves, "optimiser step", "loss (training part)")))
    return shown, [draw(*pair) for pair in rest]


def runs_behind(found: Section, group: Group) -> str:
    """How many runs stand behind a curve, if it is not all of them."""
    count, seeds = len(group.records), found.outcome.study.seeds if found.outcome else 1
    if not count:
        return "no run yet"
    if not group.finished:
        return f"{count} unfinished" if seeds > 1 else "unfinished"
    return f"{count} of {seeds} seeds" if count < seeds else ""


def scores(found: Section) -> Markup | None:
    """The test scores with their intervals, drawn."""
    if found.outcome is None:
        return None
    rows = []
    for group, row in zip(found.groups, found.outcome.rows, strict=True):
        if (middle := mean(row.test)) is not None:
            values = list(row.test.values())
            rows.append(chart.Span(group.name, group.number, middle, row.interval, values))
    return chart.spans(rows, f"test {found.metric} ({found.better} is better)")


def tried(found: Section) -> dict[str, list[Scored]]:
    """Of a search the runs that it chose by, by setting."""
    if found.outcome is None or not found.outcome.study.search:
        return {}
    runs = found.outcome.runs
    return {of: [run for run in runs if run.trial.tuning and run.trial.of == of] for of in found.outcome.study.names()}


def searched(found: Section) -> list[tuple[str, Markup]]:
    """Titles and charts of a search: the score against each knob, and what a search of another length would find."""
    runs = tried(found)
    if not runs or found.outcome is None:
        return []
    study, up = found.outcome.study, f"{found.metric} (validation part)"
    scores = {of: search.scores_of_points(study, some) for of, some in runs.items()}
    drawn = []
    for knob, space in study.tune.items():
        words = [label(value) for value in space] if isinstance(space, list) else None
        curves = []
        for number, (of, points) in enumerate(scores.items()):
            places = [
                words.index(label(p[knob])) if words else float(label(p[knob])) for p, y in points if y is not None
            ]
            values = [y for _, y in points if y is not None]
            at = [Point(float(x), y, y, y) for x, y in zip(places, values, strict=True)]
            curves.append(chart.Curve(report.in_words(of), number, at))
        log = not isinstance(space, list) and space.log
        drawn.append((f"{up} by {knob}", chart.dots(curves, knob, up, log=log, names=words)))
    curves = []
    for number, (of, points) in enumerate(scores.items()):
        best = search.best_of_each_length(study, [y for _, y in points])
        line = [Point(n, y, y, y) for n, y in enumerate(best, 1)]
        curves.append(chart.Curve(report.in_words(of), number, line))
    title = "Expected best of n points" if study.search == "quasi" else "Best of the first n points"
    return [*drawn, (title, chart.lines(curves, "points", f"best {up}"))]


def about_search(found: Section) -> str:
    """What the last chart of a search shows."""
    if found.outcome is None or found.outcome.study.search != "quasi":
        return "Each point of such a search follows from those before it, so there is one order only."
    return (
        "The expected best of n points, drawn with replacement from those that were tried, is the sum over scores "
        "v of v (P(V ≤ v)ⁿ - P(V < v)ⁿ), where lower is better with ≥ and > instead (Dodge et al. 2019, “Show your "
        "work”). Points that failed count as the worst score there is. The points of the sequence lie more evenly than "
        "drawn ones, so that n of them find rather more. Where the curve still rises at its end, more points would pay."
    )


def sides(found: Section, verdict: Any) -> list[str]:
    """The two settings of a claim with their means."""
    means = {row.of: mean(row.test) for row in found.outcome.rows} if found.outcome else {}
    both = (verdict.claim.left, verdict.claim.right)
    return [f"{report.in_words(of)}: {table.cell(means[of], '.4f')}" for of in both]


def results(found: Section) -> list[list[str]]:
    """The scores as a table: of a study by setting, of a single run by part."""
    if found.outcome:
        return table.table(found.outcome)
    one = found.groups[0].records[0]
    parts = {"train": (one.result or {}).get("train"), "validation": (one.result or {}).get("valid"), "test": one.test}
    scored = {part: {k: v for k, v in (of or {}).items() if isinstance(v, int | float)} for part, of in parts.items()}
    scored = {part: of for part, of in scored.items() if of}
    names = dict.fromkeys(name for of in scored.values() for name in of)
    lines = [[name, *(number(of.get(name)) for of in scored.values())] for name in names]
    return [["", *scored], *lines] if lines else []


def meanings(package: Package, found: Section) -> dict[str, str]:
    """Name -> definition of every score that the page shows of a section, as far as the package has one."""
    names = [found.metric, *(name for part in ("valid", "train") for name in report.metrics(found.groups, part))]
    if not found.outcome:
        names += [row[0] for row in results(found)[1:]]
    return {name: package.meanings[name] for name in dict.fromkeys(names) if name in package.meanings}


def number(x: Any) -> str:
    if not isinstance(x, int | float):
        return "-"
    return f"{x:,}" if isinstance(x, int) else f"{x:.4f}" if abs(x) < 1000 else f"{x:,.0f}"


def about(groups: Sequence[Group], key: str) -> list[str]:
    """What the runs say of their data, model or architecture; more than one line where a study compares such."""
    return list(dict.fromkeys(one.about[key] for each in groups for one in each.records if key in one.about))


def cost(found: Section) -> list[list[str]]:
    """A table of time and memory by setting."""
    table, total, runs = [["", "runs", "time per run", "peak memory"]], 0.0, 0
    for group in found.groups:
        results = [one.result for one in group.records if one.result]
        seconds, memory = (
            [result[key] for result in results if isinstance(result.get(key), int | float)]
            for key in ("seconds", "memory_mb")
        )
        total, runs = total + sum(seconds), runs + len(results)
        each = duration(sum(seconds) / len(seconds)) if seconds else "-"
        table.append([group.name, str(len(results)), each, f"{max(memory):,} MB" if memory else "-"])
    return [*table, ["all of these", str(runs), f"{duration(total)} in all", ""]] if len(table) > 2 else table


def ran_on(found: Section) -> list[str]:
    """On which machines, with which versions and from which commits the runs ran."""
    starts = [start for group in found.groups for one in group.records for start in one.starts]
    versions = [", ".join(f"{name} {version}" for name, version in (s.get("versions") or {}).items()) for s in starts]
    places = [f"{s.get('device')}, {s.get('precision')}" for s in starts]
    commits = [str(s["git"]) for s in starts if s.get("git")]
    said = [f"Ran on: {'; '.join(dict.fromkeys(places))}"] if places else []
    said += [f"Versions: {'; '.join(dict.fromkeys(versions))}"] if versions else []
    changed = " (+: with changes that were not committed)" if any("+" in commit for commit in commits) else ""
    return said + ([f"Commit: {', '.join(dict.fromkeys(commits))}{changed}"] if commits else [])


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def every_run(found: Section) -> list[list[str]]:
    """One line for each run of a study, those that failed or are missing too."""
    if found.outcome is None:
        return []
    table = [["run", f"valid {found.metric}", f"test {found.metric}", "best epoch", "state"]]
    for run in found.outcome.runs:
        state = run.problem or ("finished" if run.test is not None else "finished, no test score")
        name, best = f"{report.in_words(run.trial.group)}, seed {run.trial.seed}", run.best_epoch
        table.append([name, number(run.valid), number(run.test), "-" if best is None else str(best), state])
    return table


def examples(found: Section) -> tuple[str, dict[str, list[report.Sample]]]:
    """Of which run, and what it showed before, during and after training, by name."""
    records = found.best.records if found.best else []
    one = next((one for one in records if (one.folder / "samples").is_dir()), None)
    if one is None or found.best is None:
        return "", {}
    seed = f", {one.folder.name.replace('=', ' ')}" if found.outcome else ""
    series = report.samples(one.folder)
    return found.best.name + seed, {name: report.before_during_after(some) for name, some in series.items()}


def reason(found: Section, verdict: Any) -> str:
    """Why it was expected. The page sorts claims by verdict: "the same" says of which claim, that before it."""
    because = verdict.claim.because
    verdicts = found.outcome.verdicts if found.outcome else []
    at = verdicts.index(verdict)
    if not at or not re.match(r"the same(?=[,;:]|$)", because):
        return because
    return f"the same as for {verdicts[at - 1].claim.text}{because.removeprefix('the same')}"


def render(package: Package, sections: Sequence[Section], again: str, note: str = "") -> str:
    """The page; `again` is the command that makes it, `note` stands at the top."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    of_study = (every_run, meanings, reason, results, scores, searched, about_search, sides)
    for function in (*of_study, about, cost, examples, figures, markdown, ran_on, runs_behind, shown):
        environment.globals[function.__name__] = function
    environment.globals |= {"conclusions": report.conclusions, "swatch": chart.swatch, "in_words": report.in_words}
    environment.globals |= {"level": LEVEL, "confidence": CONFIDENCE}
    environment.globals |= {"notes": table.notes, "measured": table.measured}
    source = (resources.files("etude.report") / "page.html").read_text(encoding="utf-8")
    return environment.from_string(source).render(package=package, sections=sections, again=again, note=note)
