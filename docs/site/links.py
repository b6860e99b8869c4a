"""The check of a finished site: every link leads somewhere, and no page loads anything from elsewhere."""

import os
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADS = {"src", "srcset", "data", "poster"}  # attributes by which a page loads something, whatever the element


class Reader(HTMLParser):
    """What a page can be jumped to, what it links to, and what it loads."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.to: list[str] = []
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" or (tag, name) == ("a", "name"):
                self.ids.add(value or "")
            elif name == "href" and tag in ("a", "use"):
                self.to.append(value or "")
            elif name in LOADS or (name, tag) == ("href", "link"):
                self.loaded.append(value or "")


def read(page: Path) -> Reader:
    reader = Reader()
    reader.feed(page.read_text("utf-8"))
    return reader


def problems(site: Path) -> Iterator[str]:
    """One line for each link that leads nowhere, and for each thing that a page or a style sheet has from elsewhere."""
    pages = {page: read(page) for page in sorted(site.rglob("*.html"))}
    if not pages:
        yield f"{site} has no page"
    for page, reader in pages.items():
        name = page.relative_to(site).as_posix()
        for address in dict.fromkeys([*reader.to, *reader.loaded]):
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                if address in reader.loaded and parts.scheme != "data":
                    yield f"{name} loads {address}"
                continue
            target = Path(os.path.normpath(page.parent / unquote(parts.path))) if parts.path else page
            if not target.is_file():
                yield f"{name} links to {address}, which is not there"
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids:
                yield f"{name} links to {address}, and there is no such place in {target.relative_to(site).as_posix()}"
    for sheet in sorted(site.rglob("*.css")):
        text = sheet.read_text("utf-8")
        if "@import" in text or any(f"url({quote}{to}" in text for quote in ("", "'", '"') for to in ("http", "//")):
            yield f"{sheet.relative_to(site).as_posix()} loads something from elsewhere"
