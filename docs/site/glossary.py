"""The glossary of scores: every `Package.meanings` of every task, by the name of the score. Nothing is written here."""

from collections import defaultdict
from collections.abc import Iterable

from pages import from_page, language_of

from etude.markdown import literal
from etude.package import Package

WORDS = {
    "title": {"en": "Glossary of scores", "ru": "Словарь оценок"},
    "about": {
        "en": "What each score is, with its formula and its unit, as the tasks themselves say it: `Package.meanings` "
        "in each `config.py`. Where tasks define a score differently, each definition is here. The scores by which "
        "settings can be compared say which way is better.",
        "ru": "Что такое каждая оценка, с формулой и единицей, словами самих задач (`Package.meanings` в их "
        "`config.py`, по-английски). Если задачи определяют оценку по-разному, приведены все определения. "
        "У оценок, по которым сравниваются настройки, сказано, какие значения лучше.",
    },
    "higher": {"en": "higher is better", "ru": "больше — лучше"},
    "lower": {"en": "lower is better", "ru": "меньше — лучше"},
}


def glossary(packages: Iterable[Package], page: str) -> str:
    """The page as Markdown."""
    language = language_of(page)
    found: dict[str, dict[tuple[str, str], list[str]]] = defaultdict(lambda: defaultdict(list))
    for package in packages:
        for score, meaning in package.meanings.items():
            better = str(package.scores.get(score, ""))
            found[score][meaning, better].append(package.name)
    lines = [f"# {WORDS['title'][language]}", "", WORDS["about"][language], ""]
    for score in sorted(found):
        ways = {WORDS[better][language] if better else "" for _, better in found[score]}
        lines += [f"## {literal(score)}", "", f"*{ways.copy().pop()}*\n" if len(ways) == 1 and all(ways) else ""]
        for (meaning, better), names in found[score].items():
            of = ", ".join(f"[{name}](site:{from_page(page, f'etudes/{name}')}.html)" for name in names)
            said = literal(meaning)
            said = said if language == "en" else f'<span lang="en">{said}</span>'
            way = f" *({WORDS[better][language]})*" if better and len(ways) > 1 else ""
            lines.append(f"- {of}: {said}{way}")
        lines.append("")
    return "\n".join(lines)
