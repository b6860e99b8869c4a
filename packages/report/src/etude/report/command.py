"""The verb `report`: a page, a notebook to hand in, and the TensorBoard logs as one archive, made of run folders.

OUT/report.html  OUT/taskN.ipynb  OUT/tensorboardN.zip
"""

import shlex
from importlib.util import find_spec
from pathlib import Path

from etude import files
from etude.arguments import Parser
from etude.errors import not_installed
from etude.package import Package
from etude.report.read import section

KINDS = ("page", "notebook", "tensorboard")
LANGUAGES = ("en", "ru")
NEEDED = ("nbformat", "nbclient", "ipykernel")  # by the notebook alone

HELP = """\
Reports on folders of runs and studies, including those still in progress, and on a study of this package by the file of
its results alone, which is named STUDY.csv; what is concluded from it may stand in STUDY.md beside it:

  report.html             page: one file that needs no network
  task{number}.ipynb             notebook: the same as running code, executed; it needs nbformat, nbclient and ipykernel
  tensorboard{number}.zip        tensorboard: the logs, thinned so that they can be mailed"""


def main(package: Package, words: list[str], call: str) -> int:
    """Show runs and studies as a page, a notebook and an archive.

    `call` is how the command was called, to be called again.
    """
    parser = Parser(f"{package.name} report", HELP.format(number=package.number))
    parser.add_argument("folders", nargs="+", metavar="RUN|STUDY|STUDY.csv")
    parser.add_argument("--out", metavar="DIR", help="where to write (default: the folder itself, if it is only one)")
    parser.add_argument("--only", choices=KINDS, help="make only this")
    parser.add_argument("--language", choices=LANGUAGES, default="en", help="of the notebook (default en)")
    parser.add_argument("--repository", metavar="URL", default="", help="what the notebook installs the package from")
    parser.add_argument("--note", metavar="TEXT", default="", help="is shown first, in all three")
    given = parser.parse_intermixed_args(words)
    places = [files.given(word) for word in given.folders]
    alone = places[0].parent if places[0].suffix == ".csv" else places[0]
    folder = alone if len(places) == 1 else Path("runs") / package.name / "report"
    folder = files.given(given.out) if given.out is not None else folder
    kinds = [given.only] if given.only else list(KINDS)
    missing = [name for name in NEEDED if find_spec(name) is None]
    without = not_installed("the notebook", *missing)
    if missing and given.only == "notebook":
        raise without
    sections = [section(package, place, call) for place in places]
    again = f"{call} report {shlex.join([*given.folders, *(['--out', given.out] if given.out else [])])}"

    from etude.report import archive, notebook, page

    with files.reported(f"cannot write to {folder}", "give --out another folder"):
        folder.mkdir(parents=True, exist_ok=True)
    if "page" in kinds:
        with files.reported("the page cannot be made", "leave it out with --only"):
            text = page.render(package, sections, again, given.note)
        print(f"page      {put(folder / 'report.html', text.encode(errors='replace'))}")
    if "tensorboard" in kinds:
        with files.reported("the archive of the logs cannot be made", "leave it out with --only"):
            logs, left_out = archive.build(sections, again, given.note)
        file = put(folder / f"tensorboard{package.number}.zip", logs)
        print(f"logs      {file}, {len(logs) / 1e6:.1f} MB: {left_out}")
    if "notebook" in kinds and not missing:
        with files.reported("the notebook cannot be made", "leave it out with --only"):
            book = notebook.build(package, sections, folder, given.language, given.repository, given.note)
        print(f"notebook  {put(folder / f'task{package.number}.ipynb', book.encode(errors='replace'))}")
    if missing:
        print(f"notebook  left out: {without}")
    for found in sections:
        if found.problems:
            print(f"note      {found.place} is not complete: {len(found.problems)} notes are in the report")
    return 0


def put(file: Path, content: bytes) -> Path:
    files.put(file, content, "give --out another folder")
    return file
