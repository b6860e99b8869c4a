"""Training on a machine that others use too: an epoch beside 0, 2, 4 and 6 busy neighbours, as it is and as it was.

    uv run --all-packages python benchmarks/busy.py [--rounds 2] [--task gauss-vae] [--limit 120]

A neighbour is a process that computes without end. "ours" is the command as it is: threads that wait sleep, and
training steps are on one thread where that is as fast and changes no bit. "theirs" is the command as it was: all
threads, which wait by spinning (GOMP_SPINCOUNT at libgomp's default). "one" is OMP_NUM_THREADS=1, which has to be asked
for where it rounds in another way, as it does in convolutions. They run in turns; what took more than three times the
fair share is not run again.

The fair share: a process that uses c of the machine's C cores when it is alone gets at most its part of them beside n
neighbours, so an epoch may take max(1, (c + n) / C) times as long. c is measured, as the CPU time of training alone
over its time. The script wants a machine that is quiet but for its own neighbours, and says how busy it is.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

NEIGHBOURS = (0, 2, 4, 6)
TASKS = {"gauss-vae": [], "cnn-emnist": ["--model.channels", "16"]}
WAYS = {"ours": {}, "theirs": {"GOMP_SPINCOUNT": "300000"}, "one": {"OMP_NUM_THREADS": "1"}}
# The command, but for `threads.choose` where it is to be as it was; tells the seconds and CPU seconds of the epoch.
COMMAND = """
import importlib, json, resource, sys, time
package, way, folder, *flags = sys.argv[1:]
main = importlib.import_module(f"{package}.__main__").main
from etude import cli
cli.yield_when_waiting()
from etude.train import loop, threads
if way == "theirs":
    threads.choose = lambda task, cfg, device, begun: (device, "")
fit = loop.fit
def timed(*args):
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    result = fit(*args)
    took, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    worked = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"took": took, "worked": worked}))
    return result
loop.fit = timed
sys.exit(main(["train", *flags, "--fit.epochs", "1", "--run", folder]))
"""


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """So many processes that compute until this ends; should it be killed, they end by themselves."""
    endless = "import os, sys\nparent = int(sys.argv[1])\nwhile os.getppid() == parent:\n    sum(range(10**6))"
    started = []
    try:
        for _ in range(count):
            started.append(subprocess.Popen([sys.executable, "-c", endless, str(os.getpid())]))
        yield
    finally:
        for one in started:
            one.kill()
        for one in started:
            one.wait()


def epoch(task: str, way: str, limit: float) -> tuple[float, float, str] | None:
    """Seconds and CPU seconds of an epoch, and what was said of threads; None if it takes longer than `limit`."""
    given = {"OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"}
    environment = {name: value for name, value in os.environ.items() if name not in given} | WAYS[way]
    with TemporaryDirectory() as folder:
        words = [task.replace("-", "_"), way, str(Path(folder) / "run"), *TASKS[task]]
        command = [sys.executable, "-c", COMMAND, *words]
        try:
            said = subprocess.run(
                command, env=environment, check=True, stdout=subprocess.PIPE, text=True, timeout=limit
            ).stdout.splitlines()
        except subprocess.TimeoutExpired:
            return None
    found = next(json.loads(line) for line in said if line.startswith("{"))
    return found["took"], found["worked"], next((line for line in said if line.startswith("threads")), "")


def busy(seconds: float = 2.0) -> float:
    """How many cores others keep busy just now."""
    import psutil

    return psutil.cpu_percent(seconds) / 100 * (psutil.cpu_count() or 1)


def compare(task: str, rounds: int, limit: float, ways: Collection[str] = WAYS.keys()) -> dict[int, float]:
    """Neighbours -> how many times the fair share of time an epoch takes; infinite if more than `limit`."""
    cores, alone, used, shares = os.cpu_count() or 1, 0.0, 0.0, {}
    heads = "".join(f"  {way + ' (of fair)':>20}" for way in ways) + ("  theirs / ours" if "theirs" in ways else "")
    print(f"\n{task} {' '.join(TASKS[task])}\n{'neighbours':>10}  {'fair share':>10}{heads}")
    for count in NEIGHBOURS:
        times: dict[str, list[float]] = {way: [] for way in ways}
        fair = alone * max(1.0, (used + count) / cores)
        works, notes = [], set()
        with neighbours(count):
            time.sleep(1)  # until they are at work
            for _ in range(rounds):
                for way, taken in times.items():
                    if fair and taken and taken[-1] > 3 * fair:
                        continue
                    found = epoch(task, way, limit)
                    taken.append(found[0] if found else limit)
                    if found and way == "ours":
                        works.append(found[1])
                        notes.add(found[2])
        if not works:
            print(f"{count:>10}  ours took longer than {limit:g} s: give a higher --limit")
            shares[count] = math.inf
            if not alone:
                break  # there is nothing to hold the others against
            continue
        middle = {way: statistics.median(taken) for way, taken in times.items()}
        if count == 0:
            alone = middle["ours"]
            used = min(cores, max(1.0, statistics.median(works) / alone))
            fair = alone
        shares[count] = middle["ours"] / fair
        cells = "".join(
            f"  {('> ' if seconds >= limit else '') + f'{seconds:.1f} s ({seconds / fair:.2f})':>20}"
            for seconds in middle.values()
        )
        ratio = f"  {middle['theirs'] / middle['ours']:.2f}" if "theirs" in middle else ""
        print(f"{count:>10}  {fair:>8.1f} s{cells}{ratio}", flush=True)
        for note in sorted(notes - {""}):
            print(f"{'':>12}{note}")
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--task", choices=TASKS, action="append", help="all, if none is given")
    parser.add_argument("--limit", type=float, default=120, help="seconds after which a run is given up")
    asked = parser.parse_args()
    others = busy()
    print(f"{os.cpu_count()} cores, of which others keep {others:.1f} busy; medians of {asked.rounds} rounds")
    if others > 0.2:
        print("this machine is not quiet: the times below are no measure of anything but each other")
    for task in asked.task or TASKS:
        compare(task, asked.rounds, asked.limit)


if __name__ == "__main__":
    main()
