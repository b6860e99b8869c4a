"""Reports: what a page says of whole, half and broken studies; what a browser, TensorBoard and Jupyter make of them."""

import contextlib
import html as html_of_python
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pytest
import torch
from markdown_it import MarkdownIt
from playwright.sync_api import sync_playwright
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toy.__main__ import PACKAGE
from toy.config import Config

from etude import cli, config, markdown, tested
from etude.config import Fit
from etude.report import archive, chart, command, notebook, page
from etude.report import read as report
from etude.study import table
from etude.study.file import dump, parse
from etude.study.outcome import summarise
from etude.study.question import flags_of
from etude.testing import CPU
from etude.train import run

STUDY = """
question: Does batch norm <script>document.title = "owned"</script> help a net that adds digits?
compare: {norm: [true, false]}
fixed: {fit.epochs: 3}
seeds: 2
metric: accuracy
expect:
  - {claim: "true > false", because: "normalised layers bear a higher <b>learning rate</b> 🙂"}
  - {claim: "false > true", because: "שלום is written from right to left"}
"""
HOSTILE = """\
| text | restored |
|---|---|
| <script>document.title = "owned"</script> | **wrong** \\| <img src=x onerror="document.title = 'owned'"> |
| مرحبا بالعالم | ![picture](http://127.0.0.1:9/x.png) [link](javascript:alert(1)) <http://127.0.0.1:9> |
| 🙂 & < | fine |
"""


def write_weights(folder, text):
    (folder / "checkpoints").mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / "checkpoints" / "best.pt", "w") as weights:
        weights.writestr("weights", text)


def write_run(folder, epochs=3, score=0.5, finished=True, evaluated=True, samples=None, norm=True, seed=0):
    """A run folder as the loop leaves it, without training: loss 1/epoch, accuracy score * epoch / epochs."""
    (folder / "samples").mkdir(parents=True)
    config.save(Config(norm=norm, fit=Fit(batch_size=20, epochs=3, seed=seed)), folder / "config.yaml")
    write_weights(folder, f"weights of {folder.name}, {score}")
    start = {"device": "a machine", "precision": "fp32", "git": "0123456789ab", "versions": {"torch": "2"}, "seed": 0}
    (folder / "environment.json").write_text(json.dumps([start]))
    words = {"task": "toy", "data": "digits, 110 / 40 / 40 rows", "model": "307 parameters", "architecture": "Net()"}
    (folder / "about.json").write_text(json.dumps(words | {"metric": "accuracy", "better": "higher"}))
    rows = [
        {
            "epoch": e,
            "step": 6 * e,
            "train": {"loss": 1 / e, "accuracy": 0.9},
            "valid": {"loss": 1.1 / e, "accuracy": score * e / 3},
        }
        for e in range(1, epochs + 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = {"epochs": 3, "best_epoch": 3, "valid": {"accuracy": score, "loss": 0.4}, "train": {}, "parameters": 307}
    if finished:
        (folder / "result.json").write_text(json.dumps(result | {"seconds": 75.0, "memory_mb": 1234}))
    if evaluated:
        scores = {"accuracy": score - 0.01, "loss": 0.5, "per_class": {}}
        scores["checkpoint"] = {"epoch": epochs, **tested.mark(folder, "best")}
        kept = {"part": f"of {folder.name}", "scores": scores, "blocks": {}}  # each seed has a test part of its own
        (folder / "test-blocks.json").write_text(json.dumps(kept))
        (folder / "test.json").write_text(json.dumps(scores))
    for name, text in (samples or {}).items():
        (folder / "samples" / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def place(tmp_path):
    """A complete study of two settings with two seeds."""
    folder = tmp_path / "norms"
    folder.mkdir()
    (folder / "study.yaml").write_text(STUDY, encoding="utf-8")
    shown = {"shown-epoch-000.md": HOSTILE, "shown-epoch-001.md": "one", "shown-end.md": "the end"}
    for name, scores in {"true": (0.6, 0.62), "false": (0.496, 0.514)}.items():
        for seed, score in enumerate(scores):
            of = {"norm": name == "true", "seed": seed}
            write_run(folder / f"norm={name}" / f"seed={seed}", score=score, samples=shown, **of)
    return folder


def html(folder, *words):
    assert cli.main(PACKAGE, ["report", str(folder), "--only", "page", *words]) == 0
    return (folder / "report.html").read_text(encoding="utf-8")


def refused(words, capsys):
    """The one line with which a report is refused."""
    assert cli.main(PACKAGE, ["report", *map(str, words)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    return said.err


# --------------------------------------------------------------------------------------------------------------- charts


@pytest.mark.parametrize(
    ("low", "high", "written"),
    [
        (0, 1, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (0.87, 0.91, ["0.87", "0.88", "0.89", "0.90", "0.91"]),
        (0, 1200, ["0", "250", "500", "750", "1,000", "1,250"]),
        (-1, 1, ["-1.0", "-0.5", "0.0", "0.5", "1.0"]),
        (0.2076, 0.2076, [f"0.207{n}" for n in range(3, 10)]),
        (0, 0, ["-1.0", "-0.5", "0.0", "0.5", "1.0"]),
        (0.1, 0.1002, ["0.1", "0.10005", "0.1001", "0.10015", "0.1002"]),
        (0, 1e-6, ["0", "2e-07", "4e-07", "6e-07", "8e-07", "1e-06"]),
    ],
)
def test_ticks(low, high, written):
    marks = chart.ticks(low, high, 5)
    assert [chart.written(tick, marks) for tick in marks] == written


def test_a_flat_curve_has_a_scale():
    curve = chart.Curve("flat", 0, [chart.Point(1, 0.5, 0.5, 0.5)])
    assert ElementTree.fromstring(chart.lines([curve], "epoch", "accuracy")).tag == "svg"


def drawn_points(svg, kind):
    """The numbers of the paths of a class, in order."""
    root = ElementTree.fromstring(svg)
    paths = [path.get("d") for path in root.iter("path") if path.get("class").startswith(kind)]
    return [[tuple(map(float, pair.split())) for pair in path.strip("Mz").split("L")] for path in paths]


def test_a_line_is_drawn_to_scale_with_its_band():
    points = [chart.Point(1, 0.2, 0.1, 0.3), chart.Point(2, 0.4, 0.3, 0.5), chart.Point(3, 0.6, 0.6, 0.6)]
    svg = chart.lines([chart.Curve("a", 0, points)], "epoch", "accuracy (part)")
    (line,), (band,) = drawn_points(svg, "line"), drawn_points(svg, "band")
    (x1, y1), (x2, y2), (x3, y3) = line
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2)
    assert y2 - y1 == pytest.approx(y3 - y2, abs=0.2)
    assert y3 < y1, "larger is higher up"
    assert band[0][1] == pytest.approx((y1 + y2) / 2, abs=0.2), "0.3 lies half-way between 0.2 and 0.4"
    assert band[-1][1] == pytest.approx(y1 + (y1 - y2) / 2, abs=0.2)
    texts = [text.text for text in ElementTree.fromstring(svg).iter("text")]
    assert {"epoch", "accuracy (part)", "1", "2", "3", "0.1", "0.6"} <= set(texts)


def test_what_is_no_number_is_not_drawn():
    nan = chart.Point(2, math.nan, math.nan, math.nan)
    curve = chart.Curve("a", 0, [chart.Point(1, 0.2, 0.2, 0.2), nan, chart.Point(3, 0.6, 0.6, 0.6)])
    svg = chart.lines([curve, chart.Curve("b", 1, [nan])], "epoch", "loss")
    assert "nan" not in svg
    ((first, last),) = drawn_points(svg, "line")
    assert first != last
    assert "no points" in chart.lines([chart.Curve("b", 1, [nan])], "epoch", "loss")


def test_fourteen_curves_look_different():
    looks = {(chart.colour(n), chart.dash(n)) for n in range(14)}
    assert len(looks) == 14
    assert len({chart.marker(n, 0, 0) for n in range(7)}) == 7, "a colour never stands alone"


def test_names_in_charts_are_escaped():
    name = '<script>"&'
    curve = chart.Curve(name, 0, [chart.Point(1, 0.2, 0.2, 0.2)])
    for svg in (chart.lines([curve], name, name), chart.spans([chart.Span(name, 0, 0.5, (0.4, 0.6), [0.4])], name)):
        root = ElementTree.fromstring(svg)
        assert name in [text.text for text in root.iter("text")]
        assert not list(root.iter("script"))


# -------------------------------------------------------------------------------------------------------------- reading


def test_a_curve_ends_where_the_first_run_ends(tmp_path):
    runs = [write_run(tmp_path / name, epochs=e, score=s) for name, e, s in (("a", 3, 0.6), ("b", 2, 0.3))]
    group = report.Group("x", 0, [report.record(folder) for folder in runs], True)
    points = report.curve(group, "valid", "accuracy").points
    assert [p.x for p in points] == [1, 2]
    assert (points[1].low, points[1].y, points[1].high) == pytest.approx((0.2, 0.3, 0.4))


def test_samples_are_in_the_order_of_training(tmp_path):
    names = ("b-end.md", "b-epoch-010.md", "b-epoch-002.md", "b-epoch-000.md", "a.png", "c-007.md", ".x.md.1.tmp")
    write_run(tmp_path / "run", samples=dict.fromkeys(names, ""))
    found = report.samples(tmp_path / "run")
    when = ["before training", "after epoch 2", "after epoch 10", "at the end"]
    assert [sample.when for sample in found["b"]] == when
    assert [sample.when for sample in found["c"]] == ["after epoch 7"]
    assert next(iter(found)) == "b", "what shows the way comes first"
    assert [s.when for s in report.before_during_after(found["b"])] == [when[0], when[1], when[3]]
    assert len(report.before_during_after(found["a"])) == 1


def test_the_command_of_a_study_is_that_which_made_it(place):
    found = report.section(PACKAGE, place, "toy")
    assert found.command == f"toy study {place}/study.yaml --out {place}"


# ------------------------------------------------------------------------------------------------------------- the page


def test_a_whole_study(place):
    text = html(place)
    for words in (
        "Best on the validation part is norm true: accuracy 0.6100 there, 0.6000 [0.4729, 0.7271] on the test part.",
        "Next is norm false: accuracy 0.5050 there, 0.4950 [0.3806, 0.6094] on the test part. Whether two settings",
        "Of 2 expectations: 1 as expected, 1 not expected, 0 unclear.",
        "digits, 110 / 40 / 40 rows",
        "307 parameters",
        "Net()",
        "1,234 MB",
        "1.2 min",
        "a machine, fp32",
        "difference +0.1050, 95 % interval [+0.0923, +0.1177], p 0.0121, 2 seeds",
        "<dt>accuracy</dt><dd>the part of the rows with the right residue</dd>",
    ):
        assert words in text, words
    assert "not complete" not in text


def test_texts_of_the_data_are_escaped(place):
    text = html(place)
    for words in ("<script", "<img src=x", "<b>learning", "<a ", 'http://127.0.0.1:9/x.png"'):
        assert words not in text, words
    for words in (
        "&lt;script&gt;",
        "&lt;b&gt;learning rate&lt;/b&gt; 🙂",
        "שלום",
        "🙂 &amp; &lt;",
        "<strong>wrong</strong> |",
    ):
        assert words in text, words
    assert '<td dir="auto">مرحبا بالعالم</td>' in text


NASTY = "<img src=x onerror=alert(1)> `b` ](javascript:alert(1)) \n\n# <b>'\"|"


def cell(section, words):
    """The code of the notebook in which these words are."""
    made = notebook.cells(PACKAGE, [section], Path())
    return next(text for kind, text in made if kind == "code" and words in text)


def shown_as_html(markdown):
    """As Jupyter and GitHub show it, to which HTML is no text."""
    return MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown)


def test_names_and_texts_stay_text_in_notebook_results_and_archive(tmp_path):
    place = tmp_path / ("..\\" + NASTY.replace("/", ""))
    place.mkdir()
    claims = [{"claim": "true > false", "because": NASTY}]
    asked = {"question": NASTY, "compare": {"norm": ["true", "false"]}, "seeds": "1", "expect": claims}
    asked = parse(asked | {"metric": "accuracy"}, "here", "nasty", "nasty", PACKAGE.scores)
    (place / "study.yaml").write_text(dump(asked), encoding="utf-8")
    write_run(place / "norm=true" / "seed=0")
    failed = write_run(place / "norm=false" / "seed=0", finished=False, norm=False)
    (failed / "log.txt").write_text(NASTY.replace("\n", " "))
    found = report.section(PACKAGE, place, f"toy {NASTY}")
    texts = [text for kind, text in notebook.cells(PACKAGE, [found], tmp_path) if kind == "markdown"]
    texts[0] = texts[0].partition("\n")[2]  # the badge above is a link
    texts += [table.markdown(found.outcome, found.command)]
    names = {"found": found, "report": report, "markdown": markdown, "Markdown": str}
    texts += [eval(cell(found, "conclusions"), names)]
    for text in texts:
        assert not re.search("<img|<b>|<a |<h1>.*<b>|href", shown_as_html(text)), text
    with zipfile.ZipFile(io.BytesIO(archive.build([found], "toy report")[0])) as packed:
        for name in packed.namelist():
            assert not re.search(r'[\\:*?"<>|\n]', name), name


def test_a_reason_that_is_the_same_says_of_which_claim(tmp_path):
    """The page puts claims that came true apart from the others, so that the one before it is not that of the file."""
    claims = [
        ("true > false", "it helps"),
        ("false > true", "the same, turned round"),
        ("false > true", "the sameness"),
    ]
    expect = [{"claim": claim, "because": because} for claim, because in claims]
    asked = {"question": "Does it?", "compare": {"norm": ["true", "false"]}, "seeds": "1", "expect": expect}
    asked = parse(asked | {"metric": "accuracy"}, "here", "same", "same", PACKAGE.scores)
    (tmp_path / "study.yaml").write_text(dump(asked), encoding="utf-8")
    for norm in (True, False):
        write_run(tmp_path / f"norm={str(norm).lower()}" / "seed=0", norm=norm)
    html = page.render(PACKAGE, [report.section(PACKAGE, tmp_path, "toy")], "toy report")
    found = [" ".join(reason.split()) for reason in re.findall("<p>because (.*?)</p>", html, re.S)]
    assert sorted(found) == ["it helps", "the same as for true &gt; false, turned round", "the sameness"]


def test_the_notebook_shows_names_of_samples_as_text(tmp_path):
    name = NASTY.replace("/", "").replace("\n", "")
    folder = write_run(tmp_path / "run", samples={f"{name}-epoch-000.md": HOSTILE})
    shown = []
    names = {"folder": folder, "report": report, "page": page, "html": html_of_python, "HTML": str}
    found = report.section(PACKAGE, folder, "toy")
    exec(cell(found, "def show"), names | {"display": shown.append})
    assert len(shown) == 2
    assert not re.search("<img|<script|<b>(?!<|[^<]*, before training</b>$)", "".join(shown[0]))
    assert "&lt;img src=x" in shown[0]
    assert "<img" not in html(folder).partition("</style>")[2]


def test_a_long_table_is_cut_and_says_so():
    lines = "\n".join(f"| row {n} | x |" for n in range(40))
    text = page.markdown(f"| a | b |\n|---|---|\n{lines}\n\nafter")
    assert text.count("<tr>") == 1 + page.ROWS
    assert f"and {40 - page.ROWS} more rows" in text
    assert "more rows" not in page.markdown("| a | b |\n|---|---|\n" + "\n".join(["| 1 | 2 |"] * page.ROWS))
    assert "<p" in text and "after" in text


def test_failed_missing_and_nan_runs_are_named(place):
    nan = {"accuracy": math.nan, "loss": math.nan}
    result = json.loads((place / "norm=true/seed=0/result.json").read_text())
    (place / "norm=true/seed=0/result.json").write_text(json.dumps(result | {"valid": nan}))
    shutil.rmtree(place / "norm=true/seed=1")
    failed = place / "norm=false/seed=0"
    for name in ("result.json", "test.json"):
        (failed / name).unlink()
    (failed / "log.txt").write_text("$ train\nRuntimeError: the loss is a <fish>\n")
    (place / "norm=false/seed=1/test.json").unlink()
    text = html(place)
    for words in (
        "This study is not complete.",
        "norm=true seed=0: left out: valid accuracy is nan",
        "1 of 4 runs are missing: norm=true seed=1",
        "norm=false seed=0: not finished; its last words: RuntimeError: the loss is a &lt;fish&gt;",
        "norm=false seed=0: 3 of its epochs are finished",
        "no test score yet: norm=false seed=1",
        "Best on the validation part is norm false: accuracy 0.5140 there, - on the test part, 1 of 2 seeds.",
        "no seed of both is there",
        "(no run yet)",
    ):
        assert words in text, words
    assert ">nan<" not in text.replace("<td>nan</td>", "")


def test_a_study_that_has_only_begun(place):
    for name in ("true", "false"):
        for seed in (0, 1):
            if (name, seed) != ("true", 0):
                shutil.rmtree(place / f"norm={name}/seed={seed}")
    for name in ("result.json", "test.json"):
        (place / "norm=true/seed=0" / name).unlink()
    (place / "norm=true/seed=0/log.txt").write_text("$ train\nepoch 3/3\n")
    text = html(place)
    assert "3 of 4 runs are missing" in text
    assert "(1 unfinished)" in text
    assert "the end" in text, "the samples of the run at work are shown"
    assert len(ElementTree.fromstring(svg_of(text)).findall("path")) > 3, "its curve is drawn"
    shutil.rmtree(place / "norm=true")
    assert "4 of 4 runs are missing" in html(place)


def svg_of(text):
    start = text.index('<svg class="chart"')
    return text[start : text.index("</svg>", start) + 6]


def test_a_single_run(tmp_path):
    folder = write_run(tmp_path / "one", samples={"shown-end.md": "the end"})
    text = html(folder)
    for words in ("Epoch 3 of 3 was kept: accuracy 0.5000", "On the test part: accuracy 0.4900.", "the end", "Net()"):
        assert words in text, words
    for name, meaning in PACKAGE.meanings.items():
        assert f"<dt>{name}</dt><dd>{meaning}</dd>" in text
    half = write_run(tmp_path / "half", epochs=1, finished=False)
    text = html(half)
    assert "The run is not finished: 1 epoch is finished" in text
    assert "No test score yet (test.json is of epoch 1 of a run that is not finished): " in text
    assert "0.4900" not in text


def unmarked(folder):
    test = json.loads((folder / "test.json").read_text())
    del test["checkpoint"]
    (folder / "test.json").write_text(json.dumps(test))


def edited(folder):
    (folder / "config.yaml").write_text((folder / "config.yaml").read_text().replace("dropout: 0.1", "dropout: 0.3"))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (unmarked, "test.json does not say of which checkpoint it is"),
        (lambda folder: write_weights(folder, "better ones"), "test.json is of another checkpoint (epoch 3)"),
        (edited, "test.json was made with another config.yaml"),
    ],
)
def test_scores_of_another_checkpoint_are_not_shown(change, why, tmp_path):
    folder = write_run(tmp_path / "one")
    change(folder)
    text = html(folder)
    assert why in text
    assert "0.4900" not in text and "On the test part" not in text


def test_a_study_whose_runs_have_another_configuration_is_refused(place, capsys):
    """Such as runs that are older than a default."""
    edited(place / "norm=false/seed=1")
    assert "norm=false/seed=1 holds a run with another configuration than the study asks for now " in (
        said := refused([place], capsys)
    )
    assert "(dropout: 0.3 -> 0.1)" in said
    assert not (place / "report.html").exists()


def test_a_sample_that_cannot_be_read_is_named_and_not_the_folder(tmp_path, capsys):
    folder = write_run(tmp_path / "one")
    (folder / "samples" / "shown-end.md").mkdir()
    said = refused([folder, "--only", "page"], capsys)
    assert "shown-end.md cannot be read" in said and "--out" not in said


def test_several_on_one_page(place, tmp_path, monkeypatch):
    one = write_run(tmp_path / "one")
    assert cli.main(PACKAGE, ["report", str(place), str(one), "--only", "page", "--out", "both"]) == 0
    text = Path("both/report.html").read_text(encoding="utf-8")
    assert text.count("<section") == 2
    assert 'href="#s1"' in text


def test_a_study_by_its_results_alone(place, tmp_path, monkeypatch, capsys):
    """The same table and verdicts as its folder gives, with what was concluded; and a note on top."""
    asked = parse(config.plain(config.compose(STUDY, "here")), "here", "norms", "norms", PACKAGE.scores)
    monkeypatch.setattr(report, "load_of", lambda *_: asked)
    table.save(summarise(asked, place), place, "toy study norms")
    file = shutil.copy(place / "results.csv", tmp_path / "sizes.csv")
    bare = report.section(PACKAGE, file, "toy")
    assert "flags that sizes.csv does not tell" in bare.command and bare.prose == ""
    file.with_suffix(".md").write_text("```bash\ntoy study norms --x\n```\n\nIt *helps* <script>a()</script>.\n")
    found = report.section(PACKAGE, file, "toy")
    assert found.command == "toy study norms --x"
    assert found.outcome.rows == summarise(asked, place).rows and found.problems == []
    assert page.results(found) == page.results(report.section(PACKAGE, place, "toy"))
    assert cli.main(PACKAGE, ["report", str(file), "--only", "page", "--note", "Only <b>small</b>."]) == 0
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert ">It <em>helps</em> &lt;script&gt;a()&lt;/script&gt;.</p>" in text
    assert "Only &lt;b&gt;small&lt;/b&gt;." in text and "no curves or examples" in text
    assert archive.build([found], "again")[1] == "nothing was left out"
    for folders in (["first-2", "first"], ["a-3", "a", "a"], ["x", "x", "x-2"]):
        inside = [tmp_path / str(n) / folder for n, folder in enumerate(folders)]
        assert len(set(archive.names(inside))) == len(folders), folders
    made = notebook.cells(PACKAGE, [found], tmp_path, "ru", "git+https://github.com/me/etude.git@abc", "Only small.")
    words = "\n".join(text for _, text in made)
    assert "](https://colab.research.google.com/)" in words and "Выводы" in words
    assert '"git+https://github.com/me/etude.git@abc"' in words
    assert "place = Path('sizes.csv')" in words and "Only small." in made[0][1]
    file.write_text(file.read_text().replace("true,0,", "true,7,"))
    capsys.readouterr()
    assert "the study has no run true 7" in refused([file], capsys)


# ---------------------------------------------------------------------------------------------------------- mistakes


def test_mistakes_are_refused_in_one_line(place, tmp_path, capsys):
    assert "nowhere is not the folder of a run or study: there is no such folder" in refused(["nowhere"], capsys)
    (tmp_path / "empty").mkdir()
    assert "it has neither config.yaml nor study.yaml" in refused([tmp_path / "empty"], capsys)
    assert "unrecognized arguments: --x" in refused([place, "--x"], capsys)
    assert "argument --only: invalid choice: 'pdf'" in refused([place, "--only", "pdf"], capsys)
    assert "required: RUN|STUDY" in refused([], capsys)
    (tmp_path / "file").touch()
    assert "give --out another folder" in refused([place, "--only", "page", "--out", tmp_path / "file"], capsys)
    about = place / "norm=true/seed=0/about.json"
    about.write_text(about.read_text().replace('"toy"', '"other_task"'))
    assert f"{place} is of other-task, not of toy: say other-task report" in refused([place], capsys)
    assert not list(place.glob("*.html"))


def test_without_jupyter_the_rest_is_made_and_one_line_says_what_to_install(place, monkeypatch, capsys):
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == "nbclient" else name)
    assert cli.main(PACKAGE, ["report", str(place)]) == 0
    assert (
        "the notebook needs nbclient, which is not installed: uv sync --all-packages, or pip install nbclient"
        in capsys.readouterr().out
    )
    assert {p.name for p in place.iterdir() if p.is_file()} == {"study.yaml", "report.html", "tensorboard0.zip"}
    assert "the notebook needs nbclient" in refused([place, "--only", "notebook"], capsys)


# ------------------------------------------------------------------------------------------------------------ a browser


@pytest.fixture(scope="module")
def browser():
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    assert program, f"the page is tested in a browser, none of {', '.join(names)} is there: apt-get install chromium"
    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.mark.parametrize(
    ("width", "scheme", "media"), [(1280, "light", "screen"), (390, "dark", "screen"), (794, "light", "print")]
)
def test_a_browser_shows_curves_table_and_verdicts_and_asks_the_network_for_nothing(
    place, browser, width, scheme, media
):
    html(place)
    said, asked = [], []
    window = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    window.emulate_media(media=media, color_scheme=scheme)
    window.on("console", lambda message: said.append(message.text))
    window.on("pageerror", lambda error: said.append(str(error)))
    window.on("request", lambda request: asked.append(request.url))
    url = (place / "report.html").as_uri()
    window.goto(url)
    assert [a for a in asked if not a.startswith("data:")] == [url]
    assert said == []
    assert window.title() == "toy: report", "no script of the data has run"
    assert window.evaluate("document.documentElement.scrollWidth") <= width, "the page itself never scrolls sideways"
    assert window.locator("figure .chart .line").count() >= 4 * 2
    for curve in window.locator("figure .chart").all()[:4]:
        box = curve.bounding_box()
        assert box["width"] > 200 and box["height"] > 100
        size = curve.locator("text").first.evaluate("t => t.getBoundingClientRect().height")
        assert size > 9, "letters of a chart can be read"
    headings = window.locator(".verdicts h3").all_inner_texts()
    assert [" ".join(h.split()) for h in headings] == ["✓ As expected 1", "✗ Not expected 1", "? Unclear 0"]
    assert window.locator(".as-expected .claim b").inner_text() == "true > false"
    cells = window.locator("table.numbers").first.locator("td").all_inner_texts()
    assert cells[:3] == ["true", "0.6000", "[0.4729, 0.7271]"]
    colour, paper = (
        window.evaluate(f"getComputedStyle(document.body).{which}") for which in ("color", "backgroundColor")
    )
    dark = scheme == "dark"
    assert (sum(numbers(colour)) > sum(numbers(paper))) == dark
    if media == "print":
        assert window.locator("details pre").first.is_visible(), "what is folded away is printed"
    window.close()


def numbers(colour):
    """rgb(1, 2, 3) -> [1, 2, 3]."""
    return list(map(int, colour.partition("(")[2].rstrip(")").split(",")[:3]))


# ---------------------------------------------------------------------------------- real runs: TensorBoard and Jupyter


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A study of real runs, in this process: importing torch anew for each would take most of the time."""
    place = tmp_path_factory.mktemp("trained") / "norms"
    place.mkdir()
    asked = parse(config.plain(config.compose(STUDY, "here")), "here", "norms", "norms", PACKAGE.scores)
    (place / "study.yaml").write_text(dump(asked), encoding="utf-8")
    for trial in asked.trials():
        flags = flags_of(asked, trial)
        assert cli.main(PACKAGE, ["train", *flags, "--run", str(trial.folder(place))]) == 0
        assert cli.main(PACKAGE, ["evaluate", str(trial.folder(place))]) == 0
    outcome = summarise(asked, place)
    assert outcome.problems == []
    table.save(outcome, place, "toy study norms")
    return place


def unpacked(content, folder):
    with zipfile.ZipFile(io.BytesIO(content)) as packed:
        packed.extractall(folder)
    return folder


def reader(folder):
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    found.Reload()
    return found


def test_the_losses_of_single_steps_are_drawn(trained, monkeypatch):
    group = report.section(PACKAGE, trained, "toy").groups[0]
    every = EventAccumulator(str(group.records[0].folder / "tb")).Reload().Scalars("step/loss")
    assert [(p.x, p.y, p.low, p.high) for p in page.steps(group).points] == [(e.step, *[e.value] * 3) for e in every]
    monkeypatch.setattr(page, "STEPS", 4)
    size = -(-len(every) // 4)
    few = page.steps(group).points
    parts = [[e.value for e in every[at : at + size]] for at in range(0, len(every), size)]
    assert 1 < len(few) <= 4
    for point, part in zip(few, parts, strict=True):
        assert point.y == pytest.approx(sum(part) / len(part)) and (point.low, point.high) == (min(part), max(part))
    assert "loss of single steps, training part" in html(trained)


def test_tensorboard_reads_the_archive(trained, tmp_path):
    content, left_out = archive.build([report.section(PACKAGE, trained, "toy")], "toy report norms")
    logs = unpacked(content, tmp_path)
    runs = sorted(str(file.parent.relative_to(logs)) for file in logs.rglob("events*"))
    groups = [f"norms/norm={name}" for name in ("false", "true")]
    assert runs == sorted([*groups, *(f"{group}/seed={seed}" for group in groups for seed in (0, 1))])
    for folder in sorted(logs.glob("norms/norm=*/seed=*")):
        original = trained / folder.relative_to(logs / "norms") / "tb"
        before, after = reader(original), reader(folder)
        assert after.Tags()["scalars"] == before.Tags()["scalars"]
        for tag in ("accuracy/valid", "loss/train", "step/loss"):
            points = [[(e.step, e.value) for e in each.Scalars(tag)] for each in (before, after)]
            assert points[0] == points[1] != []
        assert "_hparams_/experiment" in after.summary_metadata
        shown = [[e.step for e in each.Tensors("shown/text_summary")] for each in (before, after)]
        assert shown[0] == shown[1] and len(shown[0]) > 2, "the texts of every epoch"
        assert after.Tags()["graph"] == before.Tags()["graph"]
        points = [
            {p.name: p.read_bytes() for p in of.rglob("*") if p.suffix in (".tsv", ".pbtxt")}
            for of in (original, folder)
        ]
        assert points[0] == points[1]
    said = (logs / "README.txt").read_text()
    assert "toy report norms" in said
    assert f"{left_out.capitalize()}." in said
    assert archive.build([report.section(PACKAGE, trained, "toy")], "toy report norms")[0] == content


def test_long_curves_and_many_pictures_are_thinned_and_what_was_taken_back_stays_so(tmp_path, monkeypatch):
    from PIL import Image
    from torch.utils.tensorboard import SummaryWriter

    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "study.yaml").write_text(STUDY, encoding="utf-8")
    for seed in (0, 1):
        folder = write_run(tmp_path / "s" / "norm=true" / f"seed={seed}", seed=seed) / "tb"
        with SummaryWriter(str(folder), filename_suffix=".first") as out:
            for step in range(1500):
                out.add_scalar("step/loss", float(step), step)
                if step % 100 == 0:
                    out.add_image("board", page_picture(Image), step, dataformats="HWC")
        with SummaryWriter(str(folder), purge_step=1000, filename_suffix=".second") as out:
            for step in range(1000, 1200):
                out.add_scalar("step/loss", -1.0, step)
        last = next(folder.glob("*.second"))
        last.write_bytes(last.read_bytes()[:-7])  # the writer is in the middle of a record
    monkeypatch.setattr(archive, "SHOWN", (100, 3, 2))
    whole, _ = archive.build([report.section(PACKAGE, tmp_path / "s", "toy")], "again")
    for seed in (0, 1):
        pictures = reader(unpacked(whole, tmp_path / "whole") / f"s/norm=true/seed={seed}").images.Items("board")
        assert [e.step for e in pictures] == list(range(0, 1000, 100)), "of every seed"
    monkeypatch.setattr(archive, "LIMIT", len(whole) - 1)
    content, left_out = archive.build([report.section(PACKAGE, tmp_path / "s", "toy")], "again", "A note.")
    assert len(content) < len(whole) and "even so" not in left_out
    logs = unpacked(content, tmp_path / "out")
    assert "A note." in (logs / "README.txt").read_text()
    points = [(e.step, e.value) for e in reader(logs / "s/norm=true/seed=0").Scalars("step/loss")]
    assert len(points) == archive.POINTS
    assert points[0] == (0, 0.0)
    assert points[-1] == (1198, -1.0), "step 1199 was cut off, those from 1200 on were taken back"
    assert all((value == -1) == (step >= 1000) for step, value in points)
    images = [[e.step for e in reader(logs / f"s/norm=true/seed={s}").images.Items("board")] for s in (0, 1)]
    assert images == [[0, 400, 900]] * 2, "as many as fit, the first and the last among them"
    assert "scalars" in left_out and "pictures" in left_out
    monkeypatch.setattr(archive, "LIMIT", 1)
    assert "even so it has more than" in archive.build([report.section(PACKAGE, tmp_path / "s", "toy")], "again")[1]


def test_thumbnails_of_points_are_in_the_archive_unless_it_would_be_too_large(tmp_path, monkeypatch):
    torch.manual_seed(0)
    place = write_run(tmp_path / "r")
    with contextlib.closing(run.Run(place, run.read_config(place, Config), CPU)) as one:
        one.open_tensorboard(0, "accuracy")
        thumbnails = torch.randint(256, (9, 3, 32, 32), dtype=torch.uint8)
        one.embedding("latents", torch.zeros(9, 2), {"class": list("abcdefghi")}, 3, thumbnails)
    before = {file.relative_to(place / "tb"): file.read_bytes() for file in (place / "tb").rglob("*.*")}
    points = {name for name in before if name.suffix in (".pbtxt", ".tsv", ".png")}
    assert sorted(name.name for name in points) == [
        "metadata.tsv",
        "projector_config.pbtxt",
        "sprite-32x32.png",
        "tensors.tsv",
    ]
    whole, said = archive.build([report.section(PACKAGE, place, "toy")], "again")
    found = unpacked(whole, tmp_path / "whole") / "r"
    assert said == "nothing was left out" and all((found / name).read_bytes() == before[name] for name in points)
    monkeypatch.setattr(archive, "LIMIT", len(whole) - 1)
    small, said = archive.build([report.section(PACKAGE, place, "toy")], "again")
    found = unpacked(small, tmp_path / "small") / "r"
    assert len(small) < len(whole) - 20_000 and said.startswith("left out: 1 sheets of thumbnails (")
    assert not list(found.rglob("*.png")), "what is left out is not asked for either"
    kept = (found / "projector_config.pbtxt").read_text()
    assert "sprite" not in kept and "03/latents/tensors.tsv" in kept and kept.count("{") == kept.count("}") == 1


def page_picture(image):
    import numpy as np

    return np.asarray(image.new("RGB", (8, 8), "red"))


def test_jupyter_has_a_home_where_the_user_has_none(monkeypatch, tmp_path):
    """As in a container that runs under any user's number."""
    if "HOME" in os.environ:
        with notebook.some_home("elsewhere"):
            assert os.environ["HOME"] != "elsewhere"
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path.replace("~", os.environ.get("HOME", "~")))
    with notebook.some_home(str(tmp_path)):
        assert Path.home() == tmp_path
    assert "HOME" not in os.environ


def test_the_notebook_runs_and_running_it_again_gives_the_same(trained):
    command = [sys.executable, "-m", "toy", "report", str(trained), "--only", "notebook"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    book = nbformat.read(trained / "task0.ipynb", as_version=4)
    nbformat.validate(book)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    written = nbformat.writes(book)
    for words in ("BatchNorm1d", "epoch 2: train loss", report.BEFORE, report.AFTER, "true > false: ", "Conclusions"):
        assert words in written, words
    assert "image/png" in code[-2].outputs[0].data, "the curves of the stored study"
    [small] = [cell for cell in code if "def learnt" in cell.source]
    assert "image/png" in small.outputs[0].data, "the curves of the small run"
    assert "expectations: " in code[-1].outputs[0].data["text/markdown"]
    again = nbformat.from_dict(json.loads(written))
    for cell in again.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    script = (
        "import nbclient, nbformat, sys\n"
        "book = nbformat.read('again.ipynb', as_version=4)\n"
        "nbclient.NotebookClient(book, timeout=None, record_timing=False).execute()\n"
        "nbformat.write(book, 'again.ipynb')\n"
    )
    nbformat.write(again, trained / "again.ipynb")
    done = subprocess.run([sys.executable, "-c", script], cwd=trained, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    repeated = nbformat.read(trained / "again.ipynb", as_version=4)
    for one, other in zip(book.cells, repeated.cells, strict=True):
        assert one.get("outputs") == other.get("outputs"), one.source
