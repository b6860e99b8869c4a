"""A study on a Ray cluster against `--jobs 2` on this machine: overhead per trial, speed-up; and all of it killed.

    python benchmarks/ray_study.py [--rounds 3] [--trials 8] [--task gauss-vae | stepper]
    python benchmarks/ray_study.py --kill 30 [--trials 24] [--task toy]

The first runs the same study both ways in turns, the cluster being one node of 2 CPUs here. `stepper` is a task of the
tests whose trials wait for a second and compute nothing, so that what is left is the price of the machinery. Told are
medians, and what a trial costs more there, times the 2 that run at once.

The second kills a node of three with SIGKILL each time when that many checkpoints, or epochs, have been written in
total, starts another, and kills the driver half-way; then it compares every score with those of runs on this machine
that nobody kills, to the bit: each trial is a process of its own with one thread, on both sides. In one stacked
program, or with more threads, sums round in another way, and a bias before batch norm, whose gradient is nothing but
rounding, then goes its own way by AdamW.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

ROOT = Path(__file__).parents[1]
TESTS = [str(ROOT / f"packages/{part}/tests") for part in ("study", "core")]
STUDIES = {
    "stepper": ("compare: {factor: [2, 3]}", "fixed: {steps: 20}", "accuracy"),
    "toy": ("compare: {norm: [true, false]}", "fixed: {fit.epochs: 40}", "accuracy"),
    "gauss-vae": (
        "compare: {objective.samples: [1, 8]}",
        "fixed: {data.train: 10000, data.test: 4000, importance: 200}",
        "gap",
    ),
}


class Machines:
    """A cluster of `count` nodes of 2 CPUs in a process of its own; see packages/study/tests/machines.py."""

    def __init__(self, count: int) -> None:
        command = [sys.executable, f"{TESTS[0]}/machines.py", str(count)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.address = self.line()

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def do(self, word: str) -> None:
        print(word, file=self.process.stdin, flush=True)
        assert self.line() == word

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def start(task: str, out: str, *words: str, log: IO[bytes] | None = None) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", task.replace("-", "_"), "study", "s.yaml", "--out", out, *words]
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT if log else None)


def scores(out: str) -> dict[str, Any]:
    """Every score of every run, without what says when and where it was."""
    found = {}
    for file in sorted(Path(out).rglob("test.json")) + sorted(Path(out).rglob("result.json")):
        told = json.loads(file.read_text())
        for name in ("seconds", "checkpoint", "weights", "device", "memory_mb"):
            told.pop(name, None)
        found[str(file.relative_to(out))] = told
    return found


def compare(task: str, rounds: int, trials: int) -> None:
    machines = Machines(1)
    took: dict[str, list[float]] = {"--jobs 2": [], "--ray": []}
    for number in range(rounds):
        for how, words in (("--jobs 2", ("--jobs", "2")), ("--ray", ("--ray", machines.address))):
            begun = time.perf_counter()
            with Path("log").open("ab") as log:
                assert start(task, f"{how.strip('-')} {number}", *words, log=log).wait() == 0, Path("log").read_text()
            took[how].append(time.perf_counter() - begun)
            print(f"round {number + 1}  {how:8}  {took[how][-1]:6.1f} s", flush=True)
    machines.close()
    assert scores("jobs 2 0") == scores("ray 0"), "the results differ"
    here, there = (statistics.median(times) for times in took.values())
    ratio, more = here / there, (there - here) * 2 / trials
    print(f"{task}, {trials} trials: --jobs 2 {here:.1f} s, --ray {there:.1f} s (ratio {ratio:.2f}, equal results);")
    print(f"a trial costs {more:+.2f} s there, of which the start of the driver is a part")


def kill(task: str, every: int, trials: int) -> None:
    machines, log = Machines(3), Path("log").open("ab")  # noqa: SIM115, it is open for as long as the driver lives
    words = ("--together", "off", "--ray", machines.address)
    driver, killed, begun = start(task, "far", *words, log=log), 0, time.monotonic()
    while driver.poll() is None:
        time.sleep(0.1)
        files = [file for name in ("steps.txt", "metrics.jsonl") for file in Path("far").rglob(name)]
        lines = sum(len(file.read_bytes().splitlines()) for file in files)
        if lines > every * (killed + 1):
            killed += 1
            what = "driver" if killed == 3 else "node"
            print(f"{time.monotonic() - begun:5.0f} s  after {lines} lines a {what} is killed", flush=True)
            if killed == 3:
                driver.kill()
                driver.wait()
                driver = start(task, "far", *words, log=log)
            else:
                machines.do("kill")
                machines.do("add")
    machines.close()
    log.close()
    assert driver.returncode == 0, Path("log").read_text()
    assert start(task, "near", "--together", "off", "--jobs", str(os.cpu_count())).wait() == 0
    there, here = scores("far"), scores("near")
    assert len(there) == 2 * trials
    differ = [(name, there[name], here[name]) for name in here if there[name] != here[name]]
    assert not differ, f"the results differ: {differ}"
    resumed = sum(bool(re.search("resum|goes on", file.read_text())) for file in Path("far").rglob("log.txt"))
    print(f"{task}: {trials} trials, {killed} kills, {resumed} runs resumed, every score equal to those of no kill")


def main() -> None:
    takes = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    takes.add_argument("--rounds", type=int, default=3)
    takes.add_argument("--trials", type=int, default=8)
    takes.add_argument("--task", choices=STUDIES, default="stepper")
    takes.add_argument("--kill", type=int, metavar="LINES")
    given = takes.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join(TESTS)
    with TemporaryDirectory() as folder:
        os.chdir(folder)
        asked, fixed, metric = STUDIES[given.task]
        study = f"question: q\n{asked}\n{fixed}\nseeds: {given.trials // 2}\nmetric: {metric}\ntogether: off\n"
        Path("s.yaml").write_text(study)
        if given.kill:
            kill(given.task, given.kill, given.trials)
        else:
            compare(given.task, given.rounds, given.trials)
        os.chdir(ROOT)


if __name__ == "__main__":
    main()
