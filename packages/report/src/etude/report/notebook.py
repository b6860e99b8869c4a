"""The report as a notebook: the same content as running code, executed from top to bottom.

Its cells are in notebook.md, beside this file, in parts between lines `---`: the first stands once; for each run or
study the second, what there is of it, and the last. They call the package and `etude` as a reader would. What they
print depends on the code, the stored runs and the seed alone, no times and no names of temporary folders, so running it
again gives the same.
"""

import os
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata, resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jinja2

from etude.markdown import block, code, literal
from etude.package import Package
from etude.report.read import Section


def cells(
    package: Package,
    sections: Sequence[Section],
    folder: Path,
    language: str = "en",
    repository: str = "",
    note: str = "",
) -> list[tuple[str, str]]:
    """("markdown" or "code", its text) of every cell; the notebook will lie in `folder`.

    `language`: en or ru. `repository`: what the first cell installs the package from, as pip has it. `note`: on top.
    """
    source = (resources.files("etude.report") / "notebook.md").read_text(encoding="utf-8")
    once, each, of_file, of_folder, last = source.split("\n---\n")
    say: dict[str, Any] = {"package": package, "t": lambda english, russian: russian if language == "ru" else english}
    about = {"repository": repository, "folders": folders(package), "note": note}
    found = filled(once, **say, **about, small=repr(shlex.split(package.small)), sections=sections)
    for section in sections:
        place, filed = Path(os.path.relpath(section.place, folder)).as_posix(), section.place.suffix == ".csv"
        for part in (each, of_file if filed else of_folder, last):
            found += filled(part, **say, section=section, place=repr(place), filed=filed)
    return found


def folders(package: Package) -> dict[str, str]:
    """The distributions that are installed for a package, and in which folder of the repository each is."""
    needs: list[str] = []
    with suppress(metadata.PackageNotFoundError):  # as in a test
        needs = metadata.requires(package.name) or []
    asked = [re.match(r"[\w-]+", line) for line in needs]
    shared = [name[0] for name in asked if name and name[0].startswith("etude-")]
    return {name: f"packages/{name.removeprefix('etude-')}" for name in [*dict.fromkeys(shared), package.name]}


def filled(source: str, **values: Any) -> list[tuple[str, str]]:
    """The cells that a part of notebook.md makes; it is divided first, so that no value can begin a cell."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"literal": literal, "code": code, "block": block}
    texts = [environment.from_string(part.strip()) for part in re.split("^```(?:python)?$", source, flags=re.MULTILINE)]
    made = [text.render(values).strip() for text in texts]
    return [(("markdown", "code")[n % 2], text) for n, text in enumerate(made) if text]


@contextmanager
def some_home(folder: str) -> Iterator[None]:
    """Jupyter wants a home folder: for a user without one, as in a container, it is `folder` for as long as this."""
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = folder
        try:
            yield
        finally:
            del os.environ["HOME"]
    else:
        yield


def build(package: Package, sections: Sequence[Section], folder: Path, *how: str) -> str:
    """The executed notebook as the text of an .ipynb file, to lie in `folder`; `how` as `cells` has it.

    Raises CellExecutionError, with the cell and its traceback, if one of its cells fails.
    """
    import nbformat
    from nbclient import NotebookClient

    v4: Any = nbformat.v4
    kinds = {"markdown": v4.new_markdown_cell, "code": v4.new_code_cell}
    made = [kinds[kind](text, id=f"cell-{n}") for n, (kind, text) in enumerate(cells(package, sections, folder, *how))]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    book = v4.new_notebook(cells=made, metadata={"kernelspec": kernel})
    # By sockets in a folder of ours, not by TCP ports that anybody on this machine can reach. And no times of the
    # cells: a notebook that is made again should be the same file.
    where = {"metadata": {"path": str(folder)}}
    with TemporaryDirectory() as sockets, some_home(sockets):
        client = NotebookClient(book, timeout=None, record_timing=False, resources=where)
        manager = client.create_kernel_manager()
        if os.name != "nt":
            manager.transport, manager.connection_file = "ipc", str(Path(sockets) / "kernel.json")
        client.execute()
    nbformat.validate(book)
    text: str = nbformat.writes(book)
    return text
