"""Sending many runs by several processes: nearly all of the time is the tracker's own work, on one processor each."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from etude import claims
from etude.errors import UserError
from etude.signals import OWN, STOP

ENOUGH = 1_000_000  # bytes of event files for each process: two seconds of ten are MLflow's import
MOST = 4  # processes, which wait for each other where the tracker writes
AGAIN = "send the rest with the same command"


def workers(ids: int, folders: Iterable[Path]) -> int:
    """How many processes are worth while for so many different runs, in these folders.

    On Windows one: there the Python of an environment is started by another process, so that a child could not tell
    whether the one that it works for is still there (`signals.end_with`).
    """
    size = sum(file.stat().st_size for folder in folders for file in (folder / "tb").glob("events.out.tfevents.*"))
    return 1 if sys.platform == "win32" else max(1, min(MOST, os.cpu_count() or 1, ids, size // ENOUGH))


def send(command: Sequence[str], ids: Sequence[str], count: int, signals: Sequence[int]) -> tuple[int, int]:
    """Has runs sent by `count` processes of a command, each its own; returns how many were, and how many new points.

    The command reads a JSON list of ids and prints both numbers as JSON, also after SIGTERM, which it gets once there
    is something in `signals`, or one of the others has failed. A process ends with this one, whatever happens to it.

    Raises UserError with what the first said that failed; what has been sent is there.
    """
    assert 0 < count <= len(set(ids)) == len(ids)
    with TemporaryDirectory() as name:
        files = [[Path(name, f"{at}.{kind}") for kind in ("in", "out", "err")] for at in range(count)]
        environment = os.environ | {claims.WORKER: str(os.getpid())}
        processes: list[subprocess.Popen[bytes]] = []
        try:
            for at, (given, out, error) in enumerate(files):
                given.write_text(json.dumps(ids[at::count]), "utf-8")
                with given.open("rb") as source, out.open("wb") as to, error.open("wb") as errors:
                    one = subprocess.Popen(command, stdin=source, stdout=to, stderr=errors, env=environment, **OWN)
                    processes.append(one)
            # Every one is polled each time, as it is what tells that a process has ended.
            while not signals and None in (codes := [process.poll() for process in processes]) and not any(codes):
                time.sleep(0.05)
        finally:
            asked = [process for process in processes if process.poll() is None]
            for process in asked:
                process.send_signal(STOP)
            for process in processes:
                process.wait()
        sent = []
        for process, (_, out, error) in zip(processes, files, strict=True):
            code, told = process.returncode, out.read_text("utf-8").splitlines()
            if code == 2 or (code and process not in asked):
                raise UserError(reason(code, error.read_text("utf-8", "replace")))
            if told:  # else it was asked before it listened
                sent.append(json.loads(told[-1]))
    return sum(runs for runs, _ in sent), sum(points for _, points in sent)


def reason(code: int, said: str) -> str:
    """Why a process failed, by its exit code and stderr; what is no mistake of the user is shown whole."""
    lines = [line for line in said.splitlines() if ": " in line]
    if code == 2 and lines:
        return lines[-1].partition(": ")[2]
    sys.stderr.write(said)
    return f"a process that was sending ended ({code}): {AGAIN}"
