"""Opens pages of the built site with axe-core in the machine's Chromium: `uv run nox -s axe`.

A page of each kind, on a light desktop and on a dark phone, in about a minute of a core; `-- all`: every page, in the
light and in the dark, at both widths, which takes twenty. One line for each fault; none may be there, nor a request
that leaves the folder, nor a word in the browser's console, nor a page that is wider than the window.
"""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SIZES = {"desktop": (1280, 900), "phone": (360, 800)}
WAYS = [("desktop", "light"), ("phone", "dark"), ("desktop", "dark"), ("phone", "light")]
OF_EACH_KIND = (
    "index.html",
    "built.html",
    "glossary.html",
    "search.html",
    "etudes/cnn-emnist.html",
    "studies/lstm-pos/hidden-search.html",
    "data/cnn-emnist.html",
    "ru/index.html",
    "ru/etudes/cnn-emnist.html",
)


def faults(page: Page, address: str) -> Iterator[str]:
    """What is wrong with one page, in words."""
    heard: list[str] = []
    page.on("request", lambda request: heard.append(f"asks for {request.url}") if outside(request.url) else None)
    page.on("console", lambda message: heard.append(f"says {message.text}") if message.type != "log" else None)
    page.on("pageerror", lambda error: heard.append(f"fails with {error}"))
    page.goto(address)
    yield from heard
    if (over := page.evaluate("document.documentElement.scrollWidth - window.innerWidth")) > 0:
        yield f"is {over} pixels wider than the window"
    for found in Axe().run(page).response["violations"]:
        for node in found["nodes"]:
            yield f"{found['id']} ({found['impact']}): {' '.join(map(str, node['target']))}: {node['html'][:160]}"


def outside(address: str) -> bool:
    return not address.startswith(("file:", "data:"))


def main() -> int:
    site = Path(sys.argv[1]).resolve()
    given, ways = sys.argv[2:], WAYS
    if given == ["all"]:
        given = [file.relative_to(site).as_posix() for file in sorted(site.rglob("*.html"))]
    elif not given:
        given, ways = [*OF_EACH_KIND], WAYS[:2]
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        print(f"none of {', '.join(BROWSERS)} is there: apt-get install chromium", file=sys.stderr)
        return 2
    wrong = 0
    with sync_playwright() as play, play.chromium.launch(executable_path=program, args=["--no-sandbox"]) as browser:
        for size, scheme in ways:
            width, height = SIZES[size]
            with browser.new_context(viewport={"width": width, "height": height}) as context:
                context.set_default_timeout(300_000)  # the machine may have other work
                for name in given:
                    with context.new_page() as page:
                        page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
                        for fault in faults(page, (site / name).as_uri()):
                            print(f"{name}, {size}, {scheme}: {fault}")
                            wrong += 1
    print(f"{len(given)} pages, {len(ways)} ways each: {wrong} faults")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
