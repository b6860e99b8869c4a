"""Studies on a Ray cluster of this machine: nodes and drivers are killed, and nothing is lost or counted twice."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from etude import claims
from etude.study import cluster

STUDY = """
question: Which factor leads highest?
compare: {factor: [2, 3, 5, 7]}
seeds: 6
metric: accuracy
together: off
expect: [{claim: "2 > 3", because: "of no reason"}]
"""
PATIENCE = 240  # seconds, on a machine that does other things, too


class Machines:
    """The cluster, in a process of its own (`machines.py`)."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("machines.py")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen([sys.executable, str(script), "3"], **pipes)
        self.address = self.line()

    def line(self) -> str:
        line = self.process.stdout.readline().strip()
        assert line, "the cluster has ended"
        return line

    def do(self, word: str) -> None:
        print(word, file=self.process.stdin, flush=True)
        assert self.line() == word


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    found = Machines()
    yield found
    found.process.communicate(timeout=PATIENCE)


@contextmanager
def study(*words: str, module: str = "stepper") -> Iterator[subprocess.Popen[bytes]]:
    """A study at work; what it says is added to the file `said`."""
    command = [sys.executable, "-m", module, "study", "s.yaml", *words]
    with Path("said").open("ab") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def said(*words: str, module: str = "stepper") -> tuple[int, str]:
    """The exit code of a study, and what it said."""
    before = Path("said").stat().st_size if Path("said").exists() else 0
    with study(*words, module=module) as process:
        code = process.wait(PATIENCE)
    return code, Path("said").read_bytes()[before:].decode()


def until(true: Callable[[], object], process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "nothing happens"
        assert process.poll() is None, "the study has ended"
        time.sleep(0.05)


def steps(out: str) -> int:
    return sum(len(file.read_text().splitlines()) for file in Path(out).rglob("steps.txt"))


def contents(out: str) -> dict[str, bytes]:
    names = ("results.csv", "result.json", "test.json", "test-blocks.json", "config.yaml")
    return {str(file.relative_to(out)): file.read_bytes() for name in names for file in Path(out).rglob(name)}


def test_nodes_and_a_driver_are_killed_and_the_results_are_those_of_one_process(machines: Machines) -> None:
    Path("s.yaml").write_text(STUDY)
    there = ("--ray", machines.address, "--out", "far")
    with study(*there) as driver:
        for number in (1, 2):
            until(lambda n=number: steps("far") > 80 * n, driver)
            machines.do("kill")
            machines.do("add")
        until(lambda: steps("far") > 240, driver)
    Path("said").unlink()
    with study(*there) as driver:
        for number in (4, 5):
            until(lambda n=number: steps("far") > 80 * n, driver)
            machines.do("kill")
            machines.do("add")
        assert driver.wait(PATIENCE) == 0, Path("said").read_text()
    text = re.sub(r"^ray: .*\n", "", Path("said").read_text(), flags=re.M)  # of lost machines, whenever Ray sees it
    code, told = said("--jobs", "1", "--out", "near")
    assert code == 0, told
    assert contents("far") == contents("near")
    assert len(list(Path("far").rglob("ends.txt"))) == 24  # one that was killed at its very end has come to it twice
    done = int(re.search(r"^(\d+) of 24 runs are there already\n", text, re.M)[1])
    assert len(re.findall(r"^\[ ?\d+/24\] .+  accuracy 0.\d{4} \(valid\)  1 s\n", text, re.M)) == 24 - done
    assert text.partition("\n\n")[2].replace("far", "near") == told.partition("\n\n")[2]
    resumed = 0
    for file in Path("far").rglob("steps.txt"):
        by_whom, taken, _ = zip(*(map(int, line.split()) for line in file.read_text().splitlines()), strict=True)
        assert list(by_whom) == sorted(by_whom), "two were at work in one folder"
        resumed += by_whom[0] != by_whom[-1] and taken.count(1) == 1
    assert resumed > 0, "no run went on from a checkpoint"


def test_stacks_of_a_real_task(machines: Machines) -> None:
    """Up to rounding: how many runs are in a stack depends on the number of machines."""
    asked = "{question: q, metric: accuracy, compare: {dropout: [0, 0.1]}, seeds: 3, fixed: {fit.epochs: 2}}"
    asked = asked[:-1] + ", together: on}"  # auto would ask the clock
    Path("s.yaml").write_text(asked)
    for place in (("--ray", machines.address, "--cpus", "2"), ("--jobs", "1")):
        code, text = said(*place, "--out", place[0].strip("-"), module="toy")
        assert code == 0, text
        assert "runs may be trained as one program" in text
    for file in Path("jobs").rglob("test.json"):
        one, other = (json.loads(path.read_text()) for path in (file, Path("ray", *file.parts[1:])))
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-3)
    starts = [json.loads(file.read_text()) for file in Path("ray").rglob("environment.json")]
    assert all(start[0]["stacked"] and start[0]["command"][0] == sys.executable for start in starts)


def test_a_second_study_is_refused_and_the_first_stops_in_order(machines: Machines) -> None:
    Path("s.yaml").write_text(STUDY.replace("seeds: 6", "seeds: 6\nfixed: {steps: 100000}"))
    with study("--ray", machines.address, "--out", "out") as driver:
        until(lambda: steps("out") > 3, driver)
        for place in (("--ray", machines.address), ("--jobs", "1")):
            code, text = said(*place, "--out", "out")
            assert code == 2
            assert re.fullmatch(r"stepper: out: a study, .* is at work here.*; wait or stop it\n", text)
        driver.send_signal(signal.SIGINT)
        assert driver.wait(PATIENCE) == 130
    text = Path("said").read_text()
    assert "stopping: the runs save and end" in text
    assert text.endswith(f"stepper study s.yaml --out out --ray {machines.address}\n")
    assert not [folder for folder in (Path("out"), *Path("out").rglob("seed=*")) if claims.holder(folder)]


ASK = """
import sys
from pathlib import Path
from etude.claims import claim
from etude.study.cluster import Cluster

there = Cluster(sys.argv[1])
there.connect()
there.claim = claim(Path("."))
there.token = sys.argv[3]
there.probe(sys.argv[2])
"""


@pytest.mark.parametrize(
    ("module", "token", "problem"),
    [
        ("toy", "another", r"it does not see \S+, which has to be on storage that all machines share: .*"),
        ("no_such", "", "no_such is not installed there for .*"),
    ],
)
def test_a_machine_that_lacks_something(machines: Machines, module: str, token: str, problem: str) -> None:
    """A file that is not the one that the study has written is as good as none."""
    ask = [sys.executable, "-c", ASK, machines.address, module, token]
    done = subprocess.run(ask, capture_output=True, text=True)
    assert re.fullmatch(rf"etude.errors.UserError: \S+: {problem}", done.stderr.splitlines()[-1])


def test_machines_that_are_too_small(machines: Machines) -> None:
    Path("s.yaml").write_text(STUDY)
    code, text = said("--ray", machines.address, "--cpus", "3", "--gpus", "0.5")
    assert (code, text) == (
        2,
        "stepper: no machine of the Ray cluster has 3 CPUs and 0.5 GPUs: ask for fewer with --cpus and --gpus\n",
    )
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--ray 127.0.0.1:1", "no Ray cluster can be reached at 127.0.0.1:1 .*: start one with `ray start --head`.*"),
        ("--ray ray://here:1", "--ray ray://here:1: give auto or HOST:PORT.*"),
        ("--ray nonsense", "--ray nonsense: give auto or HOST:PORT.*"),
        ("--ray auto --jobs 2", "--jobs is for this machine.*"),
        ("--cpus 2", "--cpus and --gpus are for --ray.*"),
        ("--ray auto --cpus 0", "--cpus has to be a whole number from 1 up, not '0'"),
        ("--ray auto --gpus 1.5", "--gpus has to be a whole number from 0 up, or a part of 1, not '1.5'"),
    ],
)
def test_what_is_no_cluster_is_one_line(words: str, line: str) -> None:
    Path("s.yaml").write_text(STUDY)
    code, text = said(*words.split())
    assert code == 2
    assert re.fullmatch(f"stepper: {line}\n", text)
    assert not Path("runs").exists()


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(cluster.UserError, match=r"--ray needs Ray, .*: uv sync --all-packages, or pip install ray"):
        cluster.Cluster("auto").connect()
