"""etude against a plain PyTorch loop, Lightning, Accelerate, Keras 3 on torch, fastai and skorch, in turns.

    ETUDE_DATA=... uv run --all-packages python benchmarks/peers.py [--workload cnn-emnist] [--peer lightning] [--quick]

All train the same network on the same examples, in batches of the same size, for as many steps, in fp32, with AdamW and
one learning rate, on as many threads as each takes by itself; all score the same number of validation examples after
each epoch. The peers' scripts, benchmarks/peers/NAME_WORKLOAD.py, are written as their own documentation writes them,
and leave loaders, logs, progress bars and checkpoints at their defaults; etude's side is its command, which logs every
step, writes checkpoints and shows pictures by default. Each has an environment of its own, of the same torch, made by
uv in etude's cache folder, and runs before a terminal of its own, so that progress bars are drawn.

Measured is, by benchmarks/peers/probe.py,

- whole_s: from the start of the process to its end;
- start_s: from the start of the process to the end of its first optimiser step;
- step_ms: the median time from the end of a step to the end of the next, after the first WARM: loading, forward,
  backward, step, and what is logged of it;
- peak_mb: the largest resident memory of the process (none of them starts others);
- lines: those of the script and of the network beside it, without blank lines, comments and docstrings; of etude the
  command. What that command stands for was written by somebody, too: package_lines are those of the task's package.

A peer that takes another number of steps, or whose network has another number of parameters, ends the comparison; one
whose validation accuracy is further from etude's than chance explains has no ratio. packages/core/results/peers.csv is
written when all peers of a workload were measured; `--quick` only tries whether all of them run.
"""

import argparse
import ast
import fcntl
import gzip
import io
import json
import os
import platform
import pty
import re
import shutil
import statistics
import struct
import subprocess
import sys
import termios
import time
import tokenize
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from busy import busy
from rows import rows, write

from etude.download import cache, root

ROOT = Path(__file__).parents[1]
SCRIPTS = Path(__file__).parent / "peers"
RESULTS = ROOT / "packages" / "core" / "results" / "peers.csv"
WARM = 20  # steps before those that are timed
FEWER = {("keras", "imdb-rnn"): 768}  # parameters: its LSTM has one bias, torch's two, of 4 * 96 in two directions
PEERS = {  # what each is called, and the distribution that is installed for it beside torch and torchvision
    "etude": ("etude", "etude-core"),
    "pytorch": ("PyTorch loop", "torch"),
    "lightning": ("Lightning", "lightning"),
    "accelerate": ("Accelerate", "accelerate"),
    "keras": ("Keras on torch", "keras"),
    "fastai": ("fastai", "fastai"),
    "skorch": ("skorch", "skorch"),
}


@dataclass(frozen=True)
class Workload:
    """What all sides train."""

    suffix: str  # of the scripts of the peers
    flags: str  # of `train`: the default network, and what the peers do; {data} is the data root
    data: Callable[[Path, int], None]  # writes so many examples into a data root
    sizes: tuple[int, int]  # how many examples, and how many for --quick
    near: float  # by how much validation accuracies may differ by chance


def fashion(folder: Path, count: int) -> None:
    """The first images of Fashion-MNIST's training part, and a few of its test part, in its own file format."""
    here, there = (at / "FashionMNIST" / "raw" for at in (root(), folder))
    there.mkdir(parents=True)
    for part, images in (("train", count), ("t10k", count // 12)):
        for kind, head, size in (("images-idx3", 16, 28 * 28), ("labels-idx1", 8, 1)):
            content = (here / f"{part}-{kind}-ubyte").read_bytes()
            short = content[:4] + struct.pack(">i", images) + content[8 : head + images * size]
            (there / f"{part}-{kind}-ubyte").write_bytes(short)


def reviews(folder: Path, count: int) -> None:
    """The first IMDb reviews that stand in no part twice, half of them praise, one a line without quotes."""
    from imdb_rnn.data import CLASSES, identity, read_lines

    tested = {identity(text) for kind in CLASSES for text in read_lines(root() / "imdb" / "test" / kind)}
    for part, size in (("train", count // 2), ("test", count // 20)):
        (folder / "imdb" / part).mkdir(parents=True)
        for kind in CLASSES:
            texts = {identity(text): " ".join(text.split()) for text in read_lines(root() / "imdb" / part / kind)}
            kept = [text for text in texts.values() if '"' not in (text[0], text[-1])]
            if part == "train":
                kept = [text for text in kept if identity(text) not in tested]
            (folder / "imdb" / part / kind).write_text("\n".join(kept[:size]) + "\n", "utf-8")


def sentences(folder: Path, count: int) -> None:
    """The first sentences of OpenCorpora, each a document of its own, as CoNLL-U without comments."""
    file = root() / "ud" / "ru_opencorpora-morphorueval2017.conllu.gz"
    with gzip.open(file, "rt", encoding="utf-8") as source:
        plain = "".join(line for line in source if not line.startswith("#"))
    kept = [text for text in plain.split("\n\n") if text.strip()][:count]
    (folder / "sentences.conllu").write_text("".join(f"{text.strip()}\n\n" for text in kept), "utf-8")


PLAIN = "--fit.epochs 1 --fit.schedule constant --fit.warmup 0 --fit.weight-decay 0.01 --fit.precision fp32"
WORKLOADS = {
    "cnn-emnist": Workload(
        "cnn",
        f"--data fashion-mnist --no-augment --label-smoothing 0 --fit.lr 1e-3 {PLAIN}",
        fashion,
        (24_000, 4_800),
        0.03,
    ),
    "imdb-rnn": Workload("imdb", f"--data imdb --fit.lr 3e-3 --fit.clip 0 {PLAIN}", reviews, (9_000, 4_000), 0.05),
    # Without Keras, whose masks users have to put into loss and accuracy themselves where there is a label a word, and
    # without skorch, which scores predictions as one array, while those of sentences have no common length.
    "lstm-pos": Workload(
        "pos",
        "--data {data}/sentences.conllu --text.vocabulary 8000 --model.word-dropout 0 --fit.lr 3e-3 --fit.clip 0 "
        f"{PLAIN} --fit.epochs 3",
        sentences,
        (10_000, 2_400),
        0.03,
    ),
}


# ------------------------------------------------------------------------------------------------------ environments


def environment(peer: str) -> Path:
    """The Python of a peer's environment, which is made, or brought up to date, with the torch of this one."""
    folder = cache() / "peers" / peer
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run(["uv", "venv", "--quiet", "--python", sys.executable, str(folder)], check=True)
    wanted = [f"{name}=={version(name).partition('+')[0]}" for name in ("torch", "torchvision")]
    if peer == "etude":
        wanted += [word for task in WORKLOADS for word in ("--editable", str(ROOT / "packages" / task))]
    elif peer != "pytorch":
        wanted.append(PEERS[peer][1])
    subprocess.run(["uv", "pip", "install", "--quiet", "--python", str(python), *wanted], check=True)
    return python


def versions(python: Path, *names: str) -> list[str]:
    """The versions of distributions in an environment."""
    ask = "import sys\nfrom importlib.metadata import version\nprint(*map(version, sys.argv[1:]))"
    done = subprocess.run([str(python), "-c", ask, *names], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.split()


def script(peer: str, workload: str) -> Path:
    """What a peer runs; there is none where a workload makes no sense for it."""
    return SCRIPTS / f"{peer}_{WORKLOADS[workload].suffix}.py"


# ------------------------------------------------------------------------------------------------------- measurement


def lines(source: str) -> int:
    """How many lines of Python are neither blank nor a comment nor a docstring."""
    blank = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    used: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in blank:
            used.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            used.difference_update(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return len(used)


def written(script: Path) -> int:
    """The lines of a script, and of the modules beside it that it imports."""
    source = script.read_text("utf-8")
    found = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom))
    beside = {script.with_name(f"{node.module}.py") for node in found}
    return lines(source) + sum(lines(file.read_text("utf-8")) for file in sorted(beside) if file.is_file())


def run(command: list[str], folder: Path, data: Path) -> tuple[float, float, float, str]:
    """Runs a command in a folder, before a terminal of its own: when it began and ended, its peak in MB, what it said.

    Both times are of the monotonic clock, which all processes of a machine share. Variables of this environment that
    say how Python, uv and threads behave are not handed on. A command that fails ends the comparison.
    """
    ours = ("OMP_", "MKL_", "GOMP_", "KMP_", "PYTHON", "UV_", "VIRTUAL_ENV", "KERAS_", "ETUDE_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    kept |= {"ETUDE_DATA": str(data), "CUDA_VISIBLE_DEVICES": "", "TERM": "xterm"}
    here, there = pty.openpty()
    fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    began = time.monotonic()
    process = subprocess.Popen(command, cwd=folder, env=kept, stdin=there, stdout=there, stderr=there)
    os.close(there)
    said = b""
    try:
        while part := os.read(here, 1 << 16):
            said += part
    except OSError:  # what Linux says once nobody writes there any more
        pass
    os.close(here)
    _, status, used = os.wait4(process.pid, 0)
    ended = time.monotonic()
    text = said.decode(errors="replace")
    if code := os.waitstatus_to_exitcode(status):
        sys.exit(f"{' '.join(command)} ended with {code}:\n{text[-3000:]}")
    return began, ended, used.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10), text


def measure(peer: str, workload: str, python: Path, data: Path) -> dict[str, Any]:
    """One training: the numbers of a line of the results."""
    of = WORKLOADS[workload]
    with TemporaryDirectory() as name:
        folder, probe = Path(name), [str(python), str(SCRIPTS / "probe.py"), f"{name}/found.json"]
        if peer == "etude":
            words = [
                "-m",
                workload.replace("-", "_"),
                "train",
                *of.flags.format(data=data).split(),
                "--run",
                f"{name}/run",
            ]
        else:
            words = [str(script(peer, workload))]
        began, ended, peak, said = run([*probe, *words], folder, data)
        found = json.loads((folder / "found.json").read_text("utf-8"))
    stamps = found["stamps"]
    apart = [b - a for a, b in pairwise(stamps)]
    told = re.findall(r"validation accuracy (\d\.\d+)", said)
    if not told or len(apart) < 2:
        sys.exit(f"{peer} says no validation accuracy, or takes no steps:\n{said[-3000:]}")
    source = ROOT / "packages" / workload / "src" / workload.replace("-", "_")
    return {
        "whole_s": round(ended - began, 2),
        "start_s": round(stamps[0] - began, 2),
        "step_ms": round(1e3 * statistics.median(apart[min(WARM, len(apart) // 2) :]), 2),
        "peak_mb": round(peak),
        "lines": 1 if peer == "etude" else written(script(peer, workload)),
        "package_lines": sum(lines(file.read_text("utf-8")) for file in source.glob("*.py")) if peer == "etude" else "",
        "parameters": found["parameters"],
        "accuracy": float(told[-1]),
        "steps": len(stamps),
        "machine": f"{found['cpu']}, {found['cores']} cores, {platform.system()}",
        "threads": found["threads"],
    }


def compared(workload: str, peers: list[str], rounds: int, quick: bool) -> Iterator[dict[str, Any]]:
    """The lines of a workload, round by round."""
    from etude.train.run import git_commit  # with torch, which tables are made without

    of = WORKLOADS[workload]
    pythons = {peer: environment(peer) for peer in peers}
    known = {peer: versions(python, PEERS[peer][1], "torch") for peer, python in pythons.items()}
    with TemporaryDirectory() as name:
        data = Path(name)
        of.data(data, of.sizes[quick])
        for number in range(1, rounds + 1):
            alike = None
            for peer in peers:
                found = measure(peer, workload, pythons[peer], data)
                told = {"workload": workload, "peer": peer, "version": known[peer][0], "round": number, **found}
                say = "whole {whole_s} s, first step after {start_s} s, a step {step_ms} ms, {peak_mb} MB, accuracy "
                print(f"round {number}: {peer:10} {(say + '{accuracy}').format(**found)}", flush=True)
                size = found["parameters"] + FEWER.get((peer, workload), 0)
                alike = alike or (found["steps"], size)
                if (found["steps"], size) != alike:
                    both = f"{found['steps']} steps and {size:,} parameters"
                    sys.exit(f"{peer} is not comparable: {both}, etude {alike[0]} and {alike[1]:,}")
                yield told | {"torch": known[peer][1], "commit": git_commit()}


# ------------------------------------------------------------------------------------------------------------ tables


def table(found: Iterable[Mapping[str, Any]], workload: str) -> list[str]:
    """The Markdown table of a workload: medians over the rounds, before each of a peer its ratio to etude's."""
    every = [line for line in found if line["workload"] == workload]
    told = {peer: medians(line for line in every if line["peer"] == peer) for peer in PEERS}
    ours = told["etude"]
    lines = [
        "| | whole process | to the first step | a step | peak memory | lines | accuracy |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    forms = {"whole_s": "{:.1f} s", "start_s": "{:.1f} s", "step_ms": "{:.0f} ms", "peak_mb": "{:,.0f} MB"}
    for peer, theirs in told.items():
        if not theirs:
            continue
        name = f"{PEERS[peer][0]} {next(line['version'] for line in every if line['peer'] == peer)}"
        cells = [form.format(theirs[column]) for column, form in forms.items()]
        if peer != "etude":
            ratios = [f"{theirs[column] / ours[column]:.2f}" for column in forms]
            if abs(theirs["accuracy"] - ours["accuracy"]) > WORKLOADS[workload].near:
                ratios = ["not comparable"] * len(cells)
            cells = [f"{ratio} ({cell})" for ratio, cell in zip(ratios, cells, strict=True)]
        lines.append(f"| {name} | {' | '.join(cells)} | {theirs['lines']:.0f} | {theirs['accuracy']:.1%} |")
    return [line.replace("%", " %") for line in lines]


def told(found: Iterable[Mapping[str, Any]], workload: str) -> str:
    """What has to be known of a workload's table, in sentences: how it is read, the machine, what was trained."""
    every = [line for line in found if line["workload"] == workload]
    ours = next(line for line in every if line["peer"] == "etude")
    counts, rounds = sorted({str(line["threads"]) for line in every}), len({line["round"] for line in every})
    threads = f"{' or '.join(counts)} thread{'s' * (counts != ['1'])}"
    return (
        f"Medians of {rounds} round{'s' * (rounds > 1)}, in turns. In front stands the ratio to etude: "
        f"above 1 the peer is slower or larger. {ours['machine'].replace(' 1 cores', ' 1 core')}, {threads}, torch "
        f"{ours['torch']}, fp32; {int(ours['steps']):,} steps, {int(ours['parameters']):,} parameters. The line of "
        f"etude is its command; the package behind it has {int(ours['package_lines']):,}."
    )


def medians(found: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Of each measured column; empty without a line."""
    every = list(found)
    columns = ("whole_s", "start_s", "step_ms", "peak_mb", "lines", "accuracy")
    return {name: statistics.median(float(line[name]) for line in every) for name in columns} if every else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", choices=WORKLOADS, action="append", help="all, if none is given")
    parser.add_argument("--peer", choices=[*PEERS][1:], action="append", help="all, if none is given; etude always")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round of a few steps; nothing is written")
    asked = parser.parse_args()
    if not shutil.which("uv"):
        sys.exit("the environments of the peers are made by uv, which is not on the PATH: see docs.astral.sh/uv")
    if (others := busy()) > 0.2:
        print(f"others keep {others:.1f} cores busy: what is measured now is no measure of anything but each other")
    for workload in asked.workload or WORKLOADS:
        peers = [peer for peer in PEERS if peer == "etude" or not asked.peer or peer in asked.peer]
        peers = [peer for peer in peers if peer == "etude" or script(peer, workload).is_file()]
        found = list(compared(workload, peers, 1 if asked.quick else asked.rounds, asked.quick))
        print(*table(found, workload), "", told(found, workload), sep="\n")
        if not (asked.quick or asked.peer):
            kept = [line for line in rows(RESULTS) if line["workload"] != workload] if RESULTS.is_file() else []
            RESULTS.parent.mkdir(exist_ok=True)
            write(RESULTS, [*kept, *found])


if __name__ == "__main__":
    main()
