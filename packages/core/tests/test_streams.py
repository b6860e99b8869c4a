"""Streams that are closed, full, or cannot say what is to be said: one line or none, and never a traceback."""

import json
import os
import subprocess
import sys

import pytest
from toy.__main__ import PACKAGE

from etude import cli

STUDY = "{question: q, metric: accuracy, compare: {norm: [true]}, fixed: {fit.epochs: 1}, seeds: 1}"

# Every case as a process of its own, streams, end and all; but torch, which takes seconds, is imported once.
CASES = """
import json, os, sys, traceback
import etude.report.archive, etude.report.page, etude.report.read
import etude.stacked.runs, etude.study.command, etude.train.loop, etude.train.run
import torch.utils.tensorboard
from toy import task
from toy.__main__ import main


def gone():
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def begin(number, kind, name):
    if kind == "closed":
        os.close(number)
        return None
    file = os.open(name, os.O_RDWR | os.O_CREAT) if kind in ("open", "ascii") else None
    file = os.open("/dev/full", os.O_WRONLY) if kind == "full" else gone() if kind == "gone" else file
    os.dup2(file, number)
    os.close(file)
    return open(number, "r" if number == 0 else "w", encoding="ascii" if kind == "ascii" else "utf-8", closefd=False)


for case in json.load(open("cases.json")):
    if child := os.fork():
        _, status = os.waitpid(child, 0)
        print(json.dumps([case["name"], os.waitstatus_to_exitcode(status)]), flush=True)
        continue
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        setattr(sys, name, begin(number, case.get(name, "open"), f"{case['name']}.{name}"))
    try:
        code = main(case["words"])
    except SystemExit as end:
        code = end.code
    except BaseException:
        code = traceback.print_exc() or 1
    for stream in (sys.stdout, sys.stderr):  # as Python does at its end, which takes torch a second
        try:
            stream and stream.flush()
        except Exception:
            code = traceback.print_exc() or 120
    os._exit(code)
"""

VERBS = {
    "train": ["train", "--run", "RUN", "--fit.epochs", "1"],
    "evaluate": ["evaluate", "r"],
    "predict": ["predict", "r", "١٢٣"],
    "report": ["report", "r", "--only", "page", "--out", "RUN"],
    "study": ["study", "s.yaml", "--out", "study"],
    "help": ["train", "--help"],
    "mistake": ["trian"],
}
STREAMS = {
    "stdout closed": {"stdout": "closed"},
    "stderr closed": {"stderr": "closed"},
    "stdin closed": {"stdin": "closed"},
    "all closed": {"stdin": "closed", "stdout": "closed", "stderr": "closed"},
    "reader gone": {"stdout": "gone"},
    "reader of errors gone": {"stderr": "gone"},
    "both readers gone": {"stdout": "gone", "stderr": "gone"},
    "full": {"stdout": "full"},
    "both full": {"stdout": "full", "stderr": "full"},
    "ascii": {"stdout": "ascii", "stderr": "ascii"},
}
CHOSEN = [
    *(("predict", streams) for streams in STREAMS),
    *((verb, streams) for verb in VERBS if verb != "predict" for streams in ("all closed", "reader gone", "full")),
    *(("mistake", streams) for streams in ("reader of errors gone", "both full", "ascii")),
    ("train", "stdout closed"),
    ("report", "reader of errors gone"),
]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Exit code, stdout and stderr of each case."""
    place = tmp_path_factory.mktemp("streams")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        (place / "s.yaml").write_text(STUDY)
        (place / "cases.py").write_text(CASES)
        one = ["--norm", "--fit.epochs", "1", "--fit.seed", "0", "--run"]
        for folder in ("r", "study/norm=true/seed=0"):  # the study's is done, so that it starts no process
            assert cli.main(PACKAGE, ["train", *one, folder]) == 0
            assert cli.main(PACKAGE, ["evaluate", folder]) == 0
        cases = [
            {"name": f"{verb}, {streams}", "words": [word.replace("RUN", verb + streams) for word in VERBS[verb]]}
            | STREAMS[streams]
            for verb, streams in CHOSEN
        ]
        (place / "cases.json").write_text(json.dumps(cases))
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        ended = subprocess.run(
            [sys.executable, "cases.py"], env=environment, capture_output=True, text=True, check=True
        )
        found = {}
        for line in ended.stdout.splitlines():
            name, code = json.loads(line)
            said = [place / f"{name}.{stream}" for stream in ("stdout", "stderr")]
            found[name] = (code, *(file.read_text("utf-8") if file.exists() else "" for file in said))
        assert len(found) == len(cases)
        yield found


@pytest.mark.parametrize(("verb", "streams"), CHOSEN)
def test_no_stream_makes_a_traceback(outcomes, verb, streams):
    code, out, error = outcomes[f"{verb}, {streams}"]
    if verb == "mistake" or "full" in streams:
        expected = 2
    elif streams in ("reader gone", "both readers gone"):
        expected = 141
    else:
        expected = 2 if verb == "predict" and streams in ("stdout closed", "all closed") else 0
    lines = int(expected == 2 and STREAMS[streams].get("stderr", "ascii") == "ascii")
    assert (code, error.count("\n")) == (expected, lines), error
    if streams == "full" and verb != "mistake":
        assert error == "toy: its output cannot be written (No space left on device): give it another place\n"
    if verb == "predict" and streams == "ascii":
        assert out.startswith("\\u0661\\u0662\\u0663\t")
    elif verb == "predict" and "stdout" not in STREAMS[streams]:
        assert out.startswith("١٢٣\t")
