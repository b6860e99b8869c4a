"""The gallery: each study whose results are committed, with its question, its chart, its verdicts and a link."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup, escape
from pages import Language, from_page, language_of

from etude.package import Package
from etude.report import page as report
from etude.report.read import Section, of_results
from etude.study.file import available

# One word for a verdict, and a sign, as a colour never stands alone; what judge.py calls it gives the class of CSS.
VERDICTS = {
    "as expected": ("✓", {"en": "expected", "ru": "сбылось"}),
    "not expected": ("✗", {"en": "unexpected", "ru": "опровергнуто"}),
    "unclear": ("?", {"en": "unclear", "ru": "неясно"}),
}
WORDS = {
    "incomplete": {"en": "incomplete", "ru": "не закончено"},
    "none": {"en": "nothing was expected", "ru": "ничего не ожидалось"},
    "results": {"en": "Results", "ru": "Результаты"},
}


@dataclass(frozen=True)
class Shown:
    """A study with its results."""

    package: Package
    name: str
    found: Section


def studies(packages: Path, package: Package) -> Iterator[Shown]:
    """Those of a package whose results are committed, in the order of their names."""
    there = {file.stem: file for file in (packages / package.name / "results").glob("*.csv")}
    for name in available(package.module):
        if name in there:
            yield Shown(package, name, of_results(package, there[name]))


def card(shown: Shown, page: str) -> Markup:
    """What the gallery on a page says of one study, as HTML; the chart is that of its report."""
    language, outcome = language_of(page), shown.found.outcome
    assert outcome is not None, shown.name
    address = from_page(page, f"etudes/{shown.package.name}.html") + f"#study-{shown.package.name}-{shown.name}"
    verdicts = [verdict(each.claim.text, each.verdict, language) for each in outcome.verdicts]
    verdicts = verdicts or [Markup("<li>{}</li>").format(WORDS["none"][language])]
    if outcome.problems:
        verdicts.append(Markup('<li class="unclear"><b>! {}</b></li>').format(WORDS["incomplete"][language]))
    question = Markup('<p class="question" lang="en"><a href="{}">{}</a></p>').format(address, shown.found.title)
    return Markup(
        '<article class="card">\n<p class="kicker">{}</p>\n{}\n{}\n<ul class="verdicts">{}</ul>\n</article>'
    ).format(shown.package.name, question, thumbnail(shown), Markup("").join(verdicts))


def thumbnail(shown: Shown) -> Markup:
    """The scores of the settings with their intervals, drawn of the result file, in the colours that the report has."""
    drawn = report.scores(shown.found)
    assert drawn is not None, shown.name
    return Markup(re.sub(r"\n+", "\n", drawn))  # an empty line would end the HTML within Markdown


def verdict(claim: str, found: str, language: Language) -> Markup:
    sign, words = VERDICTS[found]
    kind = found.replace(" ", "-")
    return Markup('<li class="{}"><b>{} {}</b> <span lang="en">{}</span></li>').format(
        kind, sign, words[language], escape(claim)
    )


def gallery(shown: list[Shown], page: str) -> str:
    """All cards, as HTML that may stand in Markdown."""
    cards = Markup("\n").join(card(each, page) for each in shown)
    return f'<div class="gallery">\n{cards}\n</div>\n'


def chart_colours(html: str) -> str:
    """The style sheet of the charts: the colours and lines of the report's own page, for Furo's two ways to be dark."""
    light, dark = (re.findall(r":root \{(.*?)\n? *\}", html, re.DOTALL)[number] for number in (0, 1))
    light = light.replace("color-scheme: light dark;", "")
    rules = re.findall(r"(\.(?:chart|grid|axis|line|band|mark|dot|c\d)\b[^{}\n]*\{[^}\n]*\})", html)
    rules = [rule if rule.startswith(".chart") else f".chart {rule}" for rule in rules]
    return "\n".join(
        [
            f"body {{{light}}}",
            f'body[data-theme="dark"] {{{dark}}}',
            f'@media (prefers-color-scheme: dark) {{ body:not([data-theme="light"]) {{{dark}}} }}',
            *rules,
        ]
    )
