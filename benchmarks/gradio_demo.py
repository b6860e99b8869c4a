"""What a page of Gradio weighs and how long it takes to start, beside the own page of etude-demo.

    uv venv GRADIO && VIRTUAL_ENV=GRADIO uv pip install gradio
    uv run --all-packages python benchmarks/gradio_demo.py GRADIO/bin/python [--pictures FOLDER]

Both have a text field that is answered by a bar for each of three words, and no model. Each is started three times in
a process of its own, in turns, and asked until its page comes: seconds of a clock, medians. A browser then opens each
and counts what it is sent. Writes packages/core/results/gradio.csv; with --pictures also how both look, at 390 px.
"""

import argparse
import re
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from rows import Row, write

FILE = Path(__file__).parents[1] / "packages" / "core" / "results" / "gradio.csv"
ROUNDS = 3
THEIRS = """
import gradio
def answer(name):
    return {"a": 0.5, "b": 0.3, "c": 0.2}
page = gradio.Interface(answer, gradio.Textbox(label="A surname"), gradio.Label(label="The likeliest"), live=True)
page.launch(server_name="127.0.0.1", quiet=False)
"""
OURS = """
from etude.demo.page import Answer, Bars, Demo, Panel, Text
from etude.demo.server import Server
def answer(name):
    return Answer("a", [Bars("The likeliest", [("a", 0.5), ("b", 0.3), ("c", 0.2)])], "")
demo = Demo("Which?", "Type a surname.", [Panel("Name", [Text("name", "A surname")], answer)], "")
told = {"name": "toy", "run": "r", "data": "sample", "scores": []}
server = Server(demo, told, "127.0.0.1", 0)
print(server.address, flush=True)
server.serve_forever()
"""


ALL = """
from importlib.metadata import distributions
files = [file.locate() for one in distributions() for file in one.files or ()]
print(sum(file.stat().st_size for file in files if file.is_file()), len(list(distributions())))
"""
OF_OURS = """
import etude.demo
from pathlib import Path
files = [file for place in etude.demo.__path__ for file in Path(place).rglob("*") if "__pycache__" not in file.parts]
print(sum(file.stat().st_size for file in files if file.is_file()), 1)
"""


def started(python: str, code: str) -> tuple[subprocess.Popen[str], str, float]:
    """The process that serves, its address, and how long it took until the page came."""
    began = time.perf_counter()
    process = subprocess.Popen([python, "-u", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout
    for line in process.stdout:
        if found := re.search(r"http://\S+", line):
            with urllib.request.urlopen(found[0]) as page:
                page.read()
            return process, found[0], time.perf_counter() - began
    raise SystemExit(f"{python} served nothing")


def weight(address: str, picture: Path | None) -> tuple[int, int]:
    """Bytes that the page's machine sends a browser until nothing more comes, and in how many answers."""
    from playwright.sync_api import sync_playwright

    sizes = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 800})
        page.on("requestfinished", lambda request: sizes.append(request.sizes()["responseBodySize"]))
        page.goto(address)
        page.wait_for_timeout(5000)
        if picture:
            page.screenshot(path=picture)
        browser.close()
    return sum(sizes), len(sizes)


def table(found: list[Row]) -> list[str]:
    """The table of packages/demo/README.md."""
    of = {row["side"]: row for row in found}
    sides = [of["gradio"], of["own"]]
    lines = ["| | Gradio | own page |", "|---|---:|---:|"]
    for what, told in {
        "installed": lambda row: f"{int(row['installed_bytes']) / 1e6:.2f} MB, packages: {row['packages']}",
        "from the command until the page comes": lambda row: f"{float(row['seconds']):.1f} s",
        "sent to the browser": lambda row: f"{int(row['page_bytes']) / 1e3:.0f} kB, answers: {row['page_requests']}",
    }.items():
        lines.append(f"| {what} | {' | '.join(map(told, sides))} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gradio", help="a Python that has Gradio")
    parser.add_argument("--pictures", type=Path)
    given = parser.parse_args()
    sides = {"gradio": (given.gradio, THEIRS), "own": (sys.executable, OURS)}
    took: dict[str, list[float]] = {name: [] for name in sides}
    sent: dict[str, tuple[int, int]] = {}
    for _ in range(ROUNDS):
        for name, side in sides.items():
            process, address, seconds = started(*side)
            took[name].append(seconds)
            if name not in sent:
                sent[name] = weight(address, given.pictures / f"{name}.png" if given.pictures else None)
            process.kill()
            process.wait()
    found = []
    for name in sides:
        size, answers = sent[name]
        code = OF_OURS if name == "own" else ALL
        told = subprocess.run([sides[name][0], "-c", code], check=True, capture_output=True, text=True).stdout.split()
        found.append(
            {
                "side": name,
                "seconds": f"{statistics.median(took[name]):.2f}",
                "page_bytes": size,
                "page_requests": answers,
                "installed_bytes": told[0],
                "packages": told[1],
            }
        )
        print(found[-1])
    FILE.parent.mkdir(exist_ok=True)
    write(FILE, found)


if __name__ == "__main__":
    main()
