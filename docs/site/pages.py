"""Which pages the site has, and how a file of the repository becomes one: its links, its comments, its anchors."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from markdown_it import MarkdownIt

Language = Literal["en", "ru"]
MADE = re.compile(r"^<!-- (?:made: [^\n]*?|end) -->\n|<!-- (?:made: [^\n]*?|end) -->", re.MULTILINE)
REPORT: dict[Language, tuple[str, str]] = {
    "en": ("Report", "chart, verdicts, every run"),
    "ru": ("Отчёт по-английски", "почему ожидали именно этого, все запуски, выводы подробнее"),
}
STUDY = re.compile(r"^<!-- made: study (\S+) -->$", re.MULTILINE)


class BrokenLink(ValueError):
    """A file links to what is not there."""


@dataclass
class Site:
    """The repository `root`, and which of its files are pages: by path from the root, where the page is."""

    root: Path
    pages: dict[str, str]
    """such as {"packages/cifar-vae/README.md": "etudes/cifar-vae", "README.ru.md": "ru/index"}"""
    address: str = ""
    """of the repository's files, without a slash at its end; empty if none is known"""
    pictures: set[str] = field(default_factory=set)
    """the pictures that a page shows, by path from the root"""

    def page_of(self, path: str) -> str | None:
        """The page that a file is, or a folder by its README.md."""
        return self.pages.get(path) or self.pages.get(f"{path}/README.md".removeprefix("./"))


def language_of(page: str) -> Language:
    return "ru" if page.startswith("ru/") else "en"


def from_page(page: str, target: str) -> str:
    """A relative address, as it stands in a page of the site."""
    return os.path.relpath(target, os.path.dirname(page) or ".").replace(os.sep, "/")


def links(text: str) -> Iterator[tuple[str, bool]]:
    """Every address that a Markdown text links to, and whether it is that of a picture; what is code is none."""
    for block in MarkdownIt("commonmark").enable("table").parse(text):
        for token in block.children or ():
            if token.type == "link_open":
                yield str(token.attrGet("href")), False
            elif token.type == "image":
                yield str(token.attrGet("src")), True


def put(site: Site, file: str, text: str, page: str) -> str:
    """The text of a file of the repository, or a part of it, as it stands in a page of the site. Raises BrokenLink."""
    for address, is_picture in dict.fromkeys(links(text)):
        parts = urlsplit(address)
        if parts.scheme or (not parts.path and site.pages.get(file) == page):  # elsewhere, or here: Sphinx sees to it
            continue
        there = os.path.join(os.path.dirname(file), unquote(parts.path)) if parts.path else file
        path = os.path.normpath(there).replace(os.sep, "/")
        if path.startswith("../") or not (site.root / path).exists():
            raise BrokenLink(f"{file} links to {address}, which is not there")
        new = picture(site, page, path) if is_picture else linked(site, page, path, parts.fragment)
        if new is None:  # neither a page nor to be had elsewhere: the words stay
            text = re.sub(rf"(?<!!)\[([^\[\]]*)\]\({re.escape(address)}\)", r"\1", text)
        else:
            text = text.replace(f"]({address})", f"]({new})")
    return MADE.sub("", anchored(text, page))


def picture(site: Site, page: str, path: str) -> str:
    site.pictures.add(path)
    return from_page(page, f"{'ru/' * (language_of(page) == 'ru')}pictures/{path}")


def linked(site: Site, page: str, path: str, fragment: str) -> str | None:
    """What a link to a file of the repository is in a page of the site."""
    end, to = f"#{fragment}" * bool(fragment), site.page_of(path)
    if to and language_of(to) == language_of(page):
        return f"{from_page(page, to)}.md{end}"
    if to:  # another book for Sphinx; the check of the finished site sees to it
        return f"site:{from_page(page, to)}.html{end}"
    return f"{site.address}/{path}{end}" if site.address else None


def anchored(text: str, page: str) -> str:
    """With an anchor `study-PACKAGE-NAME` at the heading of each section on a study, and a link to its report."""
    package, (link, holds) = page.rpartition("/")[2], REPORT[language_of(page)]
    for study in reversed([*STUDY.finditer(text)]):
        report = f"[{link}](site:{from_page(page, f'studies/{package}/{study[1]}')}.html): {holds}.\n\n"
        text = f"{text[: study.start()]}{report}{text[study.start() :]}"
        heading = max((found.start() for found in re.finditer("^#+ ", text[: study.start()], re.M)), default=None)
        if heading is not None:
            text = f"{text[:heading]}(study-{package}-{study[1]})=\n{text[heading:]}"
    return text
