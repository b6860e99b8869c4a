"""The report as one page of HTML: no script, no network, every word of the data escaped.

The layout is in page.html, beside this file, filled in by Jinja with autoescape on. What may stand in it unescaped is
made here: the charts, and Markdown of the samples, whose HTML, links and pictures stay text.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markdown_it import MarkdownIt
from markupsafe import Markup

from etude import files
from etude.errors import UserError
from etude.package import Package
from etude.report import chart
from etude.report import read as report
from etude.report.read import Section, Setting
from etude.study import study

ROWS = 12  # of a table among the samples are shown
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b5568f", "#d38f00", "#3d9bd1", "#1c1e21")  # as c0 to c6 in page.html
KINDS = ("as expected", "not expected", "unclear")


@dataclass(frozen=True)
class Figure:
    """A chart with its title."""

    title: str
    drawing: Markup


@cache
def reader() -> MarkdownIt:
    """Reads Markdown with tables; HTML, links and pictures in it stay text, so nothing is run or loaded."""
    return MarkdownIt("commonmark", {"html": False}).enable("table").disable(["link", "image", "autolink"])


def markdown(text: str) -> Markup:
    """Markdown as HTML that is safe to show, whatever the text; right-to-left words keep to their cell.

    Of a long table the first rows are shown, and it is said how many there are.
    """
    tokens = reader().parse(text)
    kept, row, left_out = [], 0, 0
    for token in tokens:
        if token.type in ("td_open", "th_open", "paragraph_open"):
            token.attrSet("dir", "auto")
        if token.type == "tbody_open":
            row = left_out = 0
        row += token.type == "tr_open"
        if row > ROWS and token.type.startswith(("tr", "td", "inline")):
            left_out += token.type == "tr_open"
            continue
        if token.type in ("tbody_close", "table_close"):
            row = 0
        kept.append(token)
        if token.type == "table_close" and left_out:
            note = reader().parse(f"... and {left_out} more rows")
            note[0].attrSet("class", "note")
            kept += note
            left_out = 0
    html = reader().renderer.render(kept, reader().options, {})
    return Markup(html.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>"))


def picture(file: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(content(file)).decode()


def content(file: Path) -> bytes:
    """What stands in a file of samples. Raises UserError if it is none that a run wrote."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file} cannot be read ({files.why(error)}): delete it") from None
    if file.suffix == ".png" and not data.startswith(b"\x89PNG"):
        raise UserError(f"{file} cannot be read (it is no picture): delete it")
    return data


def shown(sample: report.Sample) -> Markup:
    """A sample as HTML."""
    if sample.file.suffix == ".png":
        return Markup('<img src="{}" alt="{}, {}">').format(picture(sample.file), sample.name, sample.when)
    return markdown(content(sample.file).decode("utf-8", errors="replace"))


def figures(found: Section) -> tuple[list[Figure], list[Figure]]:
    """The curves to see first, and the others: the study's metric and the loss, then whatever else was measured."""
    names = {part: report.metrics(found.settings, part) for part in ("valid", "train")}
    wanted = [(part, name) for name in dict.fromkeys((found.metric, "loss")) for part in ("valid", "train")]
    first = [(part, name) for part, name in wanted if name in names[part]]
    rest = [(part, name) for part in names for name in names[part] if (part, name) not in first]
    words = {"valid": "validation", "train": "training"}

    def draw(part: str, name: str) -> Figure:
        curves = [report.curve(setting, part, name) for setting in found.settings if setting.records]
        return Figure(f"{name}, {words[part]} part", chart.lines(curves, "epoch", f"{name} ({words[part]} part)"))

    return [draw(*pair) for pair in first], [draw(*pair) for pair in rest]


def legend(found: Section) -> list[dict[str, Any]]:
    """A line for every curve: its swatch, its name, and how many runs stand behind it."""
    seeds = found.outcome.study.seeds if found.outcome else 1
    return [
        {"swatch": chart.swatch(setting.number), "name": setting.name, "note": runs_behind(setting, seeds)}
        for setting in found.settings
    ]


def runs_behind(setting: Setting, seeds: int) -> str:
    count = len(setting.records)
    if not count:
        return "no run yet"
    if not setting.finished:
        return f"{count} unfinished" if seeds > 1 else "unfinished"
    return f"{count} of {seeds} seeds" if count < seeds else ""


def scores(found: Section) -> Markup | None:
    """The test scores with their intervals, drawn."""
    if found.outcome is None:
        return None
    rows = []
    for setting, row in zip(found.settings, found.outcome.rows, strict=True):
        values = list(row.test.values())
        if (middle := study.mean(row.test)) is not None:
            rows.append(chart.Span(setting.name, setting.number, middle, row.interval, values))
    return chart.spans(rows, f"test {found.metric} ({found.better} is better)")


def verdicts(found: Section) -> list[dict[str, Any]]:
    """The three headings, each with its expectations."""
    if found.outcome is None or not found.outcome.verdicts:
        return []
    means = {row.of: study.mean(row.test) for row in found.outcome.rows}
    groups = []
    for kind in KINDS:
        items = []
        for verdict in found.outcome.verdicts:
            if verdict.verdict != kind:
                continue
            claim = verdict.claim
            sides = [f"{report.in_words(of)}: {study.cell(means[of], '.4f')}" for of in (claim.left, claim.right)]
            numbers = study.measured(verdict)
            items.append({"claim": claim.text, "because": claim.because, "sides": sides, "numbers": numbers})
        groups.append({"kind": kind, "id": kind.replace(" ", "-"), "items": items})
    return groups


def single(found: Section) -> list[list[str]]:
    """The scores of a single run as a table."""
    one = found.settings[0].records[0]
    parts = {"train": (one.result or {}).get("train"), "validation": (one.result or {}).get("valid"), "test": one.test}
    scored = {part: {k: v for k, v in (of or {}).items() if isinstance(v, int | float)} for part, of in parts.items()}
    names = list(dict.fromkeys(name for of in scored.values() for name in of))
    if not names:
        return []
    form = [["", *(part for part in scored if scored[part])]]
    return form + [[name, *(number(of.get(name)) for of in scored.values() if of)] for name in names]


def number(x: Any) -> str:
    if not isinstance(x, int | float):
        return "-"
    return f"{x:,}" if isinstance(x, int) else f"{x:.4f}" if abs(x) < 1000 else f"{x:,.0f}"


def models(found: Section) -> list[tuple[str, str]]:
    """The model in words, its number of parameters among them, of every setting of which it is known."""
    rows = []
    for setting in found.settings:
        about = next((one.about for one in setting.records if one.about), {})
        if about:
            rows.append((setting.name, about["model"]))
    return rows


def architecture(found: Section) -> str:
    records = found.best.records if found.best else []
    return next((one.about["architecture"] for one in records if "architecture" in one.about), "")


def data(found: Section) -> list[str]:
    """The data in words; more than one line where a study compares data."""
    said = [one.about["data"] for setting in found.settings for one in setting.records if "data" in one.about]
    return list(dict.fromkeys(said))


def cost(found: Section) -> tuple[list[list[str]], list[str]]:
    """A table of time and memory by setting, and what it ran on."""
    table = [["", "runs", "time per run", "peak memory"]]
    total = 0.0
    for setting in found.settings:
        results = [one.result for one in setting.records if one.result]
        seconds = [r["seconds"] for r in results if isinstance(r.get("seconds"), int | float)]
        memory = [r["memory_mb"] for r in results if isinstance(r.get("memory_mb"), int | float)]
        total += sum(seconds)
        table.append(
            [
                setting.name,
                str(len(results)),
                duration(sum(seconds) / len(seconds)) if seconds else "-",
                f"{max(memory):,} MB" if memory else "-",
            ]
        )
    if len(table) > 2:
        table.append(["all of these", str(sum(int(row[1]) for row in table[1:])), f"{duration(total)} in all", ""])
    starts = [start for setting in found.settings for one in setting.records for start in one.starts]
    places = dict.fromkeys(f"{s.get('device')}, {s.get('precision')}" for s in starts)
    versions = dict.fromkeys(
        ", ".join(f"{name} {version}" for name, version in (s.get("versions") or {}).items()) for s in starts
    )
    commits = dict.fromkeys(str(s.get("git")) for s in starts if s.get("git"))
    said = [f"Ran on: {'; '.join(places)}"] if places else []
    said += [f"Versions: {'; '.join(versions)}"] if versions else []
    if commits:
        changed = " (+: with changes that were not committed)" if any("+" in commit for commit in commits) else ""
        said.append(f"Commit: {', '.join(commits)}{changed}")
    return table, said


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def every_run(found: Section) -> list[list[str]]:
    """One line for each run of a study, those that failed or are missing too."""
    if found.outcome is None:
        return []
    metric = found.metric
    table = [["run", f"valid {metric}", f"test {metric}", "best epoch", "state"]]
    for run in found.outcome.runs:
        table.append(
            [
                f"{report.in_words(run.trial.group)}, seed {run.trial.seed}",
                number(run.valid),
                number(run.test),
                "-" if run.best_epoch is None else str(run.best_epoch),
                run.problem or ("finished" if run.test is not None else "finished, no test score"),
            ]
        )
    return table


def examples(found: Section) -> tuple[str, list[dict[str, Any]]]:
    """Of which run, and what it showed before, during and after training."""
    one = next((one for one in found.best.records if (one.folder / "samples").is_dir()), None) if found.best else None
    if one is None or found.best is None:
        return "", []
    seed = f", {one.folder.name.replace('=', ' ')}" if found.outcome else ""
    series = []
    for name, some in report.samples(one.folder).items():
        chosen = report.before_during_after(some)
        pictures = all(sample.file.suffix == ".png" for sample in chosen)
        series.append(
            {
                "name": name,
                "pictures": pictures,
                "items": [{"when": sample.when, "html": shown(sample)} for sample in chosen],
            }
        )
    return found.best.name + seed, series


def render(package: Package, sections: Sequence[Section], again: str) -> str:
    """The page; `again` is the command that makes it."""
    filled = []
    for n, found in enumerate(sections):
        first, rest = figures(found)
        table, ran_on = cost(found)
        of, series = examples(found)
        filled.append(
            {
                "id": f"s{n}",
                "section": found,
                "results": study.table(found.outcome) if found.outcome else single(found),
                "notes": study.notes(found.outcome) + found.outcome.edges if found.outcome else [],
                "conclusions": report.conclusions(found),
                "verdicts": verdicts(found),
                "legend": legend(found) if found.outcome else [],
                "scores": scores(found),
                "figures": first,
                "more": rest,
                "banded": found.outcome is not None and found.outcome.study.seeds > 1,
                "data": data(found),
                "models": models(found),
                "architecture": architecture(found),
                "examples_of": of,
                "examples": series,
                "cost": table,
                "ran_on": ran_on,
                "runs": every_run(found),
                "config": found.best.records[0].config if found.best and found.best.records else "",
            }
        )
    source = (resources.files("etude.report") / "page.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(source).render(package=package, sections=filled, again=again)
