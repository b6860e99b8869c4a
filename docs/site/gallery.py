"""The gallery: each study whose results are committed, with its question, its chart, its verdicts and its report."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path

import yaml
from markupsafe import Markup, escape
from pages import Language, from_page, language_of
from studies import RUSSIAN as IN_RUSSIAN

from etude.package import Package
from etude.report import page as report
from etude.report.read import Section, of_results
from etude.study.file import available
from etude.study.judge import Verdict

# One word for a verdict, and a sign, as a colour never stands alone; what judge.py calls it gives the class of CSS.
VERDICTS = {
    "as expected": ("✓", {"en": "expected", "ru": IN_RUSSIAN["as expected"]}),
    "not expected": ("✗", {"en": "unexpected", "ru": IN_RUSSIAN["not expected"]}),
    "unclear": ("?", {"en": "unclear", "ru": IN_RUSSIAN["unclear"]}),
}
WORDS = {
    "incomplete": {"en": "incomplete", "ru": "не закончено"},
    "none": {"en": "nothing was expected", "ru": "ничего не ожидалось"},
}
OPEN = 3  # of the études, so many show their cards at once; the others unfold
RUSSIAN = Path(__file__).parent / "questions.ru.yaml"


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


@cache
def russian() -> dict[str, str]:
    """The questions of studies in Russian, by what they are in English."""
    return dict(yaml.safe_load(RUSSIAN.read_text("utf-8")))


def question(shown: Shown, language: Language) -> str:
    """Raises ValueError if a question has no Russian."""
    asked = shown.found.title
    if language == "ru" and asked not in russian():
        raise ValueError(f"{RUSSIAN.name} has no Russian for {asked!r}, which {shown.package.name} {shown.name} asks")
    return russian()[asked] if language == "ru" else asked


def card(shown: Shown, page: str) -> Markup:
    """What the gallery on a page says of one study, as HTML, with the chart of its report.

    It leads to the report, or in Russian to the section of README.ru.md, which says the same in short.
    """
    language, package = language_of(page), shown.package.name
    leads = {
        "en": f"studies/{package}/{shown.name}.html",
        "ru": f"ru/etudes/{package}.html#study-{package}-{shown.name}",
    }
    address = from_page(page, leads[language])
    said = [verdict(each.claim.text, each.verdict, language) for each in verdicts(shown)]
    said = said or [Markup("<li>{}</li>").format(WORDS["none"][language])]
    if shown.found.problems:
        said.append(Markup('<li class="unclear"><b>! {}</b></li>').format(WORDS["incomplete"][language]))
    asked = Markup('<p class="question"><a href="{}">{}</a></p>').format(address, question(shown, language))
    return Markup('<article class="card">\n{}\n{}\n<ul class="verdicts">{}</ul>\n</article>').format(
        asked, thumbnail(shown), Markup("").join(said)
    )


def verdicts(shown: Shown) -> list[Verdict]:
    assert shown.found.outcome is not None, shown.name
    return shown.found.outcome.verdicts


def thumbnail(shown: Shown) -> Markup:
    """The scores of the settings with their intervals, drawn of the result file, in the colours that the report has."""
    drawn = report.scores(shown.found)
    assert drawn is not None, shown.name
    return Markup(re.sub(r"\n+", "\n", drawn))  # an empty line would end the HTML within Markdown


def chart(shown: Shown) -> Markup:
    """A card with nothing but the chart, as HTML that may stand in Markdown."""
    card = Markup('<div class="gallery" lang="en">\n<article class="card">\n{}\n</article>\n</div>\n')
    return card.format(thumbnail(shown))


def verdict(claim: str, found: str, language: Language) -> Markup:
    sign, words = VERDICTS[found]
    kind = found.replace(" ", "-")
    return Markup('<li class="{}"><b>{} {}</b> <span lang="en">{}</span></li>').format(
        kind, sign, words[language], escape(claim)
    )


def cards(shown: Iterable[Shown], page: str) -> Markup:
    """The cards of studies, as HTML that may stand in Markdown."""
    return Markup('<div class="gallery">\n{}\n</div>\n').format(Markup("\n").join(card(each, page) for each in shown))


def gallery(shown: Iterable[Shown], page: str) -> str:
    """All cards by étude, with how many verdicts of each kind it has; those of the first études are seen at once."""
    text, language = Markup(""), language_of(page)
    for number, (name, of) in enumerate(groupby(shown, key=lambda each: each.package.name)):
        studies = list(of)
        found = Counter[str](each.verdict for one in studies for each in verdicts(one))
        span = Markup('<span class="{}">{} {}: {}</span>')
        counts = Markup(" ").join(
            span.format(kind.replace(" ", "-"), sign, words[language], found[kind])
            for kind, (sign, words) in VERDICTS.items()
        )
        text += Markup('<details class="etude"{}>\n<summary><b>{}</b> {}</summary>\n{}</details>\n').format(
            Markup(" open") if number < OPEN else "", name, counts, cards(studies, page)
        )
    return text


def styles(html: str) -> str:
    """The style sheet of charts and reports: that of the report's own page, for Furo's two ways to be dark.

    A chart has its colours and lines anywhere; in an element `report` everything looks as in the report.
    """
    sheet = re.sub(r"@page \{.*?\}", "", html.partition("<style>")[2].partition("</style>")[0])
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
            f".report {{{sheet}}}",
        ]
    )
