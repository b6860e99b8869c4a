"""Sending many runs by several processes: nearly all of the time is the tracker's own work, on one processor each."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Container, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from etude import claims
from etude.errors import UserError
from etude.signals import OWN, STOP

ENOUGH = 1_000_000  # bytes of event files for each process: two seconds of ten are MLflow's import
MOST = 4  # processes, which wait for each other where the tracker writes
Sent = tuple[int, int]  # how many runs, and how many new points
AGAIN = "send the rest with the same command"


class Free(Container[str]):
    """The ids that no other process has taken; to ask whether one is among them takes it, also for the next time."""

    def __init__(self, taken: Path) -> None:
        """`taken` is a folder that all of them know, empty at first."""
        self.taken = taken
        self.own: set[object] = set()

    def __contains__(self, id: object) -> bool:
        if id not in self.own:
            try:
                (self.taken / str(id)).touch(exist_ok=False)
            except FileExistsError:
                return False
            self.own.add(id)
        return True


def workers(ids: int, folders: Iterable[Path]) -> int:
    """How many processes, with this one, are worth while for so many different runs, in these folders.

    On Windows one: there the Python of an environment is started by another process, so that a child could not tell
    whether the one that it works for is still there (`signals.end_with`).
    """
    size = sum(file.stat().st_size for folder in folders for file in (folder / "tb").glob("events.out.tfevents.*"))
    return 1 if sys.platform == "win32" else max(1, min(MOST, os.cpu_count() or 1, ids, size // ENOUGH))


def send(
    command: Sequence[str], count: int, signals: Sequence[int], own: Callable[[Free, Callable[[], bool]], Sent]
) -> Sent:
    """Has runs sent by `count` processes at once, of which this is one; returns how many were, and how many new points.

    The others are of a command, to which `--share FOLDER` is added: it sends what is `Free` by that folder, and prints
    both numbers as JSON, also after SIGTERM. That it gets once there is something in `signals`, or another process has
    failed. `own` sends what is free from here, and stops when what it is given says so. The others end with this one,
    whatever happens to it.

    Raises UserError with what the first said that failed; what has been sent is there.
    """
    assert count > 1
    with TemporaryDirectory() as name:
        taken = Path(name, "taken")
        taken.mkdir()
        files = [[Path(name, f"{at}.{kind}") for kind in ("out", "err")] for at in range(count - 1)]
        environment = os.environ | {claims.WORKER: str(os.getpid())}
        processes: list[subprocess.Popen[bytes]] = []

        def over() -> bool:
            return any(process.poll() for process in processes) or bool(signals)

        try:
            for out, error in files:
                with out.open("wb") as to, error.open("wb") as errors:
                    words = [*command, "--share", str(taken)]
                    one = subprocess.Popen(
                        words, stdin=subprocess.DEVNULL, stdout=to, stderr=errors, env=environment, **OWN
                    )
                    processes.append(one)
            sent = [own(Free(taken), over)]
            while not over() and None in [process.returncode for process in processes]:  # as `over` has found them
                time.sleep(0.05)
        finally:
            asked = [process for process in processes if process.poll() is None]
            for process in asked:
                process.send_signal(STOP)
            for process in processes:
                process.wait()
        for process, (out, error) in zip(processes, files, strict=True):
            code, told = process.returncode, out.read_text("utf-8").splitlines()
            if code == 2 or (process not in asked and (code or not told)):
                raise UserError(reason(code, error.read_text("utf-8", "replace")))
            if told:  # else it was asked before it listened
                sent.append(tuple(json.loads(told[-1])))
    return sum(runs for runs, _ in sent), sum(points for _, points in sent)


def reason(code: int, said: str) -> str:
    """Why a process failed, by its exit code and stderr; what is no mistake of the user is shown whole."""
    lines = [line for line in said.splitlines() if ": " in line]
    if code == 2 and lines:
        return lines[-1].partition(": ")[2]
    sys.stderr.write(said)
    return f"a process that was sending ended ({code}): {AGAIN}"
