"""The report as a notebook: the same content as running code, executed from top to bottom.

The cells call the package and `etude` as a reader would. What they print depends on the code, the stored runs and the
seed alone, no times and no names of temporary folders, so running it again gives the same.
"""

import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from etude.markdown import block, code, literal
from etude.package import Package
from etude.report.read import Section

IMPORTS = """\
%matplotlib inline
%config InlineBackend.figure_formats = ["png"]
import contextlib, html, io, tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from IPython.display import HTML, Image, Markdown, display

from {module}.__main__ import PACKAGE
from etude import config, markdown
from etude.report import page, read as report
from etude.study import study
from etude.train import device, loop, run
from etude.train.step import evaluate
from etude.train.task import summary"""

MAKE = """\
SMALL = {small!r}  # a small run, before your eyes
cfg = config.parse(PACKAGE.config, SMALL, package=PACKAGE.module)
where = device.choose(cfg.fit)
torch.manual_seed(cfg.fit.seed)
task = PACKAGE.task.make(cfg, where.where)
print(task.data)
print(summary(task))
print(task.model)"""

TRAIN = """\
folder = Path(tempfile.mkdtemp()) / "run"  # a run folder, as `train` makes it
one = run.Run(folder, cfg, where)
with contextlib.redirect_stdout(io.StringIO()):
    loop.fit(task, cfg.fit, one, where)
one.close()
small = report.record(folder)
for row in small.rows:
    shown = [(part, name) for part in ("train", "valid") for name in ("loss", task.metric) if name in row[part]]
    print(f"epoch {row['epoch']}:", ", ".join(f"{part} {name} {row[part][name]:.4f}" for part, name in shown))"""

SHOW = """\
def show(when):
    for series in report.samples(folder).values():
        for sample in series:
            if sample.when == when:
                display(HTML(f"<b>{html.escape(sample.name)}, {when}</b>"))
                picture = sample.file.suffix == ".png"
                display(Image(sample.file) if picture else HTML(page.markdown(sample.file.read_text())))

show(report.BEFORE)"""

TEST = """\
text, scores = PACKAGE.task.describe(task, evaluate(task, "test", where, cfg.fit.batch_size))
print(text)"""

STUDY = """\
place = Path({place!r})
found = report.section(PACKAGE, place, PACKAGE.name)
Markdown(study.markdown(found.outcome, found.command))"""

RUN = """\
place = Path({place!r})
found = report.section(PACKAGE, place, PACKAGE.name)
stored = report.record(place)
print(stored.about.get("data", "")); print(stored.about.get("model", ""))
print("validation:", stored.result and stored.result["valid"])
print("test:      ", stored.test and {name: x for name, x in stored.test.items() if isinstance(x, int | float)})"""

CURVES = """\
def draw(axes, part, metric):
    \"\"\"Mean over the seeds, and a band from the lowest to the highest.\"\"\"
    for setting in found.settings:
        points = report.curve(setting, part, metric).points
        if points:
            colour, marker = page.COLOURS[setting.number % 7], "os^DvPX"[setting.number % 7]
            epochs, few = [p.x for p in points], 0.2 if len(points) > 9 else None
            axes.plot(epochs, [p.y for p in points], color=colour, marker=marker, markevery=few, label=setting.name)
            axes.fill_between(epochs, [p.low for p in points], [p.high for p in points], color=colour, alpha=0.15, lw=0)
    axes.set(xlabel="epoch", ylabel=f"{metric} ({'validation' if part == 'valid' else 'training'} part)")
    axes.grid(alpha=0.3)

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
draw(left, "valid", found.metric)
draw(right, "train", "loss")
if len(left.get_lines()):
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2)
plt.show()"""

CONCLUSIONS = 'Markdown("\\n".join(f"- {markdown.literal(line)}" for line in report.conclusions(found)))'


def cells(package: Package, sections: Sequence[Section], folder: Path) -> list[tuple[str, str]]:
    """("markdown" or "code", its text) of every cell; the notebook will lie in `folder`."""
    first = sections[0]
    small = shlex.split(package.small)
    found = [
        ("markdown", opening(package, first)),
        ("code", IMPORTS.replace("{module}", package.module)),
        ("markdown", "## Data and model\n\nThe package makes its data and its model from a configuration."),
        ("code", MAKE.replace("{small!r}", repr(small))),
        (
            "markdown",
            "## A small run\n\nOne loop for all tasks (`etude.train.loop.fit`) trains the model; the task shows itself "
            "before training, after each epoch, and at the end with the best weights.",
        ),
        ("code", TRAIN),
        ("markdown", "### Before training"),
        ("code", SHOW),
        ("markdown", "### After training"),
        ("code", "show(report.AFTER)"),
        ("markdown", "### On the test part, which neither training nor choosing has seen"),
        ("code", TEST),
    ]
    for section in sections:
        place = os.path.relpath(section.place, folder)
        what = "study" if section.outcome else "run"
        found.append(("markdown", f"## The stored {what} {code(section.place.name)}\n\n{expectations(section)}"))
        found.append(("code", (STUDY if section.outcome else RUN).replace("{place!r}", repr(place))))
        found += [
            ("markdown", "### Curves\n\nLine: mean over the seeds. Band: from the lowest seed to the highest."),
            ("code", CURVES),
            ("markdown", f"## Conclusions of {code(section.place.name)}"),
            ("code", CONCLUSIONS),
        ]
    return found


def opening(package: Package, first: Section) -> str:
    return (
        f"# {literal(first.title)}\n\nThe package `{package.name}` of etude: its data and model, a small run from "
        "start to end, and what the stored runs say.\n\nThis notebook runs from top to bottom in the workspace "
        f"(`uv sync --all-packages`); the stored runs are made by\n\n{block(first.command)}"
    )


def expectations(section: Section) -> str:
    if section.outcome is None:
        return ""
    asked = section.outcome.study
    lines = [f"**{literal(asked.question)}**"]
    if asked.expect:
        lines += [
            "",
            "Written down before the runs (A > B: A is better; A = B: as good, within the margin):",
            "",
        ]
        margins = [f" (margin {claim.margin:g})" if claim.relation == "=" else "" for claim in asked.expect]
        told = zip(asked.expect, margins, strict=True)
        lines += [f"- {code(c.text)}{m}, because {literal(c.because)}" for c, m in told]
    return "\n".join(lines)


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


def build(package: Package, sections: Sequence[Section], folder: Path) -> str:
    """The executed notebook as the text of an .ipynb file, to lie in `folder`.

    Raises CellExecutionError, with the cell and its traceback, if one of its cells fails.
    """
    import nbformat
    from nbclient import NotebookClient

    v4: Any = nbformat.v4
    kinds = {"markdown": v4.new_markdown_cell, "code": v4.new_code_cell}
    made = [kinds[kind](text, id=f"cell-{n}") for n, (kind, text) in enumerate(cells(package, sections, folder))]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    book = v4.new_notebook(cells=made, metadata={"kernelspec": kernel})
    # By sockets in a folder of ours, not by TCP ports that anybody on this machine can reach. And no times of the
    # cells: a notebook that is made again should be the same file.
    where = {"metadata": {"path": str(folder)}}
    with TemporaryDirectory() as sockets, some_home(sockets):
        client = NotebookClient(book, timeout=None, record_timing=False, resources=where)
        manager = client.create_kernel_manager()
        manager.transport, manager.connection_file = "ipc", str(Path(sockets) / "kernel.json")
        client.execute()
    nbformat.validate(book)
    text: str = nbformat.writes(book)
    return text
