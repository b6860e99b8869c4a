"""Builds the site: `uv run nox -s site`, which gives the environment.

    PYTHONPATH=benchmarks python docs/site/make_site.py OUT    # benchmarks/prose.py reads what a README concludes

Every page is made of what the repository has already; only `docs/` is written for people who read. OUT is replaced when
all is built and every link in it leads somewhere; otherwise it stays as it was, and what is wrong is said, a line each.
"""

import importlib
import re
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

import links
import pages
import yaml
from beside import beside
from gallery import Shown, chart, gallery, question, studies, styles
from glossary import glossary
from pages import BrokenLink, Language, Site
from reported import reported

from etude.package import Package

ROOT = Path(__file__).parents[2]
LOOP = "packages/core/src/etude/train/loop.py"
# The pages beside those of the tasks: by file, where they are.
PAGES = {
    "README.md": "index",
    "docs/tour.md": "tour",
    "docs/loop.md": "built",
    "CONTRIBUTING.md": "contributing",
    "CHANGELOG.md": "changelog",
    "LOG.md": "log",
    "SECURITY.md": "security",
    "README.ru.md": "ru/index",
    "docs/tour.ru.md": "ru/tour",
    "docs/loop.ru.md": "ru/built",
}
LITERAL = {"CITATION.cff": ("citation", "yaml", "How to cite"), "LICENSE": ("licence", "text", "Licence")}
ORDER = ("tour", "built", "glossary", "contributing", "log", "changelog")  # of the pages, then the others by name
HEADINGS = {
    "gallery": {"en": "What was asked, and what came out", "ru": "О чём спрашивали и что вышло"},
    "about": {
        "en": "Every study whose results are in the repository: the question, each setting's score with its "
        "interval, and whether what was expected beforehand came true. *A > B* says that A is better, whichever way "
        "the score goes; *unclear*, that the difference may be chance. A card leads to the report: table, reasons, "
        "every run, and what was concluded.",
        "ru": "Все исследования, результаты которых есть в репозитории: вопрос, оценка каждой настройки с "
        "интервалом и сбылось ли то, что ожидали заранее. *A > B* значит, что A лучше, растёт при этом оценка или "
        "падает; *неясно* — что разница может быть случайной. Карточка ведёт к странице этюда: таблица, выводы и "
        "ссылка на отчёт со всеми запусками.",
    },
    "etudes": {"en": "Études", "ru": "Этюды"},
    "data": {"en": "Data", "ru": "Данные"},
    "project": {"en": "Project", "ru": "Проект"},
}
ROW = ("Ответ", "Число и с чем его сравнить")  # the cells of a row of README.ru.md, after the question


def tasks(root: Path) -> list[Package]:
    """What the tasks of the workspace say of themselves, in the order of their names."""
    found = [file.parents[1] for file in sorted(root.glob("packages/*/src/*/task.py"))]
    names = [folder.parent.name for folder in found]
    return [importlib.import_module(f"{name.replace('-', '_')}.config").PACKAGE for name in names]


def repository(root: Path) -> str:
    """Where the files of the repository can be read, as CITATION.cff or pyproject.toml says; empty if neither does."""
    cited = yaml.safe_load((root / "CITATION.cff").read_text("utf-8")).get("repository-code", "")
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8")).get("project", {})
    address = str(cited or project.get("urls", {}).get("Repository", "")).rstrip("/")
    return f"{address}/blob/main" if address else ""


def plan(root: Path, packages: Iterable[Package]) -> Site:
    """All pages that are made of a file."""
    found = {file: page for file, page in PAGES.items() if (root / file).is_file()}
    for file in sorted((root / "docs").glob("*.md")):
        found.setdefault(f"docs/{file.name}", file.stem)
    for package in packages:
        found[f"packages/{package.name}/README.md"] = f"etudes/{package.name}"
        found[f"packages/{package.name}/README.ru.md"] = f"ru/etudes/{package.name}"
        found[f"packages/{package.name}/src/{package.module}/DATA.md"] = f"data/{package.name}"
    found |= {file: page for file, (page, _, _) in LITERAL.items() if (root / file).is_file()}
    return Site(root, found, repository(root))


def sources(site: Site, packages: list[Package]) -> dict[str, str]:
    """The Markdown of every page, by page. Raises BrokenLink, ValueError."""
    written = {}
    for file, page in site.pages.items():
        if page.startswith("ru/etudes/"):
            continue
        text = (site.root / file).read_text("utf-8")
        if file in LITERAL:
            _, language, title = LITERAL[file]
            written[page] = f"# {title}\n\n```{language}\n{text.rstrip()}\n```\n"
            continue
        text = pages.put(site, file, text, page)
        if page.endswith("built"):
            code = (site.root / LOOP).read_text("utf-8")
            text = "---\nhide-toc: true\n---\n" + beside(text, code, LOOP)
        written[page] = text
    shown = [study for package in packages for study in studies(site.root / "packages", package)]
    for study in shown:
        page = f"studies/{study.package.name}/{study.name}"
        written[page] = reported(site, study, page)
    for package in packages:
        of = [study for study in shown if study.package == package]
        written[f"etudes/{package.name}"] += tree([f"{s.name} </studies/{package.name}/{s.name}>" for s in of])
        written[f"ru/etudes/{package.name}"] = in_russian(site, package, of)
    for page in ("index", "ru/index"):
        written[page] = home(written[page], gallery(shown, page), pages.language_of(page))
    for page in ("glossary", "ru/glossary"):
        written[page] = glossary(packages, page)
    for home_page in ("index", "ru/index"):
        language = pages.language_of(home_page)
        written[home_page] += contents([page for page in written if pages.language_of(page) == language], language)
    return written


def home(readme: str, cards: str, language: Language) -> str:
    """The README with the gallery before its first heading of the second level."""
    first = re.search(r"^## ", readme, re.MULTILINE)
    at = first.start() if first else len(readme)
    heading, about = HEADINGS["gallery"][language], HEADINGS["about"][language]
    return f"---\nhide-toc: true\n---\n{readme[:at]}\n## {heading}\n\n{about}\n\n{cards}\n{readme[at:]}"


def in_russian(site: Site, package: Package, shown: list[Shown]) -> str:
    """The Russian page of an étude: its README.ru.md, with the answer that the repository's has, and the charts.

    Raises BrokenLink, and ValueError if it does not ask what it is asked there, or a study with results is left out.
    """
    name, page, all_of_them = package.name, f"ru/etudes/{package.name}", "README.ru.md"
    file = f"packages/{name}/README.ru.md"
    row = re.search(
        rf"^\| \[{name}\]\(.*?\) \| (.*?) (\|.*\|)$", (site.root / all_of_them).read_text("utf-8"), re.MULTILINE
    )
    if row is None:
        raise ValueError(f"{all_of_them} has no row of {name} in its table")
    if not (site.root / file).is_file():
        raise ValueError(f"{file} is not there, which is the page of {name} in Russian")
    text = (site.root / file).read_text("utf-8")
    title = f"# {name}. {row[1]}\n"
    if not text.startswith(title):
        raise ValueError(f"{file} has to begin with {title.strip()!r}, as {all_of_them} asks")
    for study in shown:
        heading, made = f"\n### {question(study, 'ru')} (`{study.name}`)\n", f"<!-- made: study {study.name} -->\n"
        if heading not in text or made not in text:
            raise ValueError(f"{file} has no section {heading.strip()!r} with {made.strip()!r} and what was concluded")
        text = text.replace(made, f"{chart(study)}\n{made}")
    said = pages.put(site, all_of_them, row[2], page).strip("|").split("|")
    answer = "\n\n".join(f"**{what}.** {words.strip()}" for what, words in zip(ROW, said, strict=True))
    return pages.put(site, file, text, page).replace(title, f"{title}\n{answer}\n", 1)


def tree(entries: Iterable[str], caption: str = "") -> str:
    """Pages for the side of the site, which are not shown where this stands."""
    listed, above = "\n".join(entries), f":caption: {caption}\n" if caption else ""
    return f"\n```{{toctree}}\n:hidden:\n{above}\n{listed}\n```\n" if listed else ""


def contents(of: list[str], language: Language) -> str:
    """The trees of pages for the side of the site, which stand on the home page and are not shown there."""
    trees: dict[str, list[str]] = {"": [], "etudes": [], "data": [], "project": []}
    for page in sorted(of, key=lambda page: (ORDER.index(page) if page in ORDER else len(ORDER), page)):
        name = page.removeprefix("ru/")
        folder = name.partition("/")[0] if "/" in name else "" if name in ("tour", "built", "glossary") else "project"
        if name != "index" and folder in trees:  # a study is under its étude
            trees[folder].append(f"{name.rpartition('/')[2]} <{name}>" if "/" in name else name)
    return "".join(tree(names, HEADINGS[folder][language] if folder else "") for folder, names in trees.items())


def stage(site: Site, written: dict[str, str], folder: Path, language: Language) -> Path:
    """The folder that Sphinx reads for one language."""
    here = Path(__file__).parent
    source = folder / f"source-{language}"
    for page, text in written.items():
        if pages.language_of(page) == language:
            file = source / f"{page.removeprefix('ru/')}.md"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, "utf-8")
    for picture in site.pictures:
        (source / "pictures" / picture).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(site.root / picture, source / "pictures" / picture)
    shutil.copy(here / "conf.py", source)
    shutil.copytree(here / "templates", source / "_templates")
    shutil.copytree(here / "static", source / "_static")
    html = (resources.files("etude.report") / "page.html").read_text("utf-8")
    (source / "_static" / "charts.css").write_text(styles(html), "utf-8")
    return source


def sphinx(source: Path, out: Path, language: Language, in_both: list[str]) -> int:
    """Builds one language; every warning is an error."""
    from sphinx.cmd.build import main as build

    other = "en" if language == "ru" else "ru"
    settings = ["-D", f"language={language}", "-A", f"other={other}", "-A", f"in_both={' '.join(in_both)}"]
    return int(build(["-b", "html", "-q", "-W", "--keep-going", "-E", *settings, str(source), str(out)]))


def mend(out: Path) -> None:
    """What Sphinx and Furo leave out for people who do not see or do not point.

    Tables and code that are wider than a phone can be scrolled by the keyboard, headings of the tree of pages have a
    level, and its place and that of a page's contents have names that differ. A head of a table that says nothing is
    none, and the page of the search has a heading.
    """
    heading = ("Search", "Поиск")
    named = {"sidebar-drawer": ("Pages", "Страницы"), "toc-drawer": ("On this page", "На этой странице")}
    for page in out.rglob("*.html"):
        text = page.read_text("utf-8")
        text = text.replace('<div class="table-wrapper', '<div tabindex="0" class="table-wrapper')
        text = text.replace('<div class="wide">', '<div tabindex="0" class="wide">')
        text = text.replace("<pre>", '<pre tabindex="0">')
        text = text.replace('class="caption" role="heading"', 'class="caption" role="heading" aria-level="2"')
        text = text.replace('<th class="head"><p></p></th>', "<td></td>")
        if page.name == "search.html":
            title = heading[page.is_relative_to(out / "ru")]
            main = '<article role="main" id="furo-main-content">'
            text = text.replace(main, f"{main}<h1>{title}</h1>")
        for place, names in named.items():
            name = names[page.is_relative_to(out / "ru")]
            text = text.replace(f'<aside class="{place}', f'<aside aria-label="{name}" class="{place}')
        page.write_text(text, "utf-8")


def make(root: Path, out: Path) -> list[str]:
    """Builds the site of the repository `root` into `out`; what is wrong, a line each, and then `out` is as it was."""
    packages = tasks(root)
    site = plan(root, packages)
    try:
        written = sources(site, packages)
    except (BrokenLink, ValueError) as error:
        return [str(error)]
    in_both = sorted(page for page in written if f"ru/{page}" in written)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".site-", dir=out.parent) as name:
        folder = Path(name)
        made = folder / "site"
        languages: tuple[Language, ...] = ("en", "ru")
        for language in languages:
            target = made if language == "en" else made / "ru"
            if sphinx(stage(site, written, folder, language), target, language, in_both):
                return ["Sphinx has found the faults above"]
        for left_over in [*made.rglob(".doctrees"), *made.rglob(".buildinfo"), *made.rglob("objects.inv")]:
            shutil.rmtree(left_over) if left_over.is_dir() else left_over.unlink()
        mend(made)
        found = list(links.problems(made))
        if not found:
            shutil.rmtree(out, ignore_errors=True)
            made.replace(out)
        return found


def main() -> int:
    out = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "site").resolve()
    wrong = make(ROOT, out)
    print(*wrong, sep="\n", end="\n" * bool(wrong), file=sys.stderr)
    if not wrong:
        print(f"{len(list(out.rglob('*.html')))} pages, every link leads somewhere: {out}/index.html")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
