"""Sending many runs by several processes: nearly all of the time is the tracker's own work, on one processor each."""

import json
import os
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from etude import claims
from etude.errors import UserError
from etude.signals import OWN, STOP

ENOUGH = (
    1_000_000  # bytes of curves for each process, some 40,000 points: to import MLflow takes as long as to send half
)
MOST = 4  # processes, which wait for each other where the tracker writes


def workers(folders: Iterable[Path]) -> int:
    """How many processes are worth while for these runs."""
    size = sum(file.stat().st_size for folder in folders for file in (folder / "tb").glob("events.out.tfevents.*"))
    return max(1, min(MOST, os.cpu_count() or 1, size // ENOUGH))


def send(command: Sequence[str], ids: Sequence[str], count: int, signals: Sequence[int]) -> tuple[int, int]:
    """Has runs sent by `count` processes of a command, each its own; returns how many were, and how many new points.

    The command takes `--ids A,B` and prints both numbers as JSON, also after SIGTERM, which it gets once there is
    something in `signals`, or one of the others has failed. A process ends with this one, whatever happens to it.

    Raises UserError with what the first said that failed; what has been sent is there.
    """
    with TemporaryDirectory() as name:
        said = [(Path(name, f"{at}.out"), Path(name, f"{at}.err")) for at in range(count)]
        own = OWN | {"stdin": subprocess.DEVNULL, "env": os.environ | {claims.WORKER: str(os.getpid())}}
        processes: list[subprocess.Popen[bytes]] = []
        asked = []
        try:
            for at, (out, error) in enumerate(said):
                with out.open("wb") as to, error.open("wb") as errors:
                    words = [*command, "--ids", ",".join(ids[at::count])]
                    processes.append(subprocess.Popen(words, stdout=to, stderr=errors, **own))
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
        for process, (out, error) in zip(processes, said, strict=True):
            if process.returncode == 2:
                raise UserError(error.read_text("utf-8", "replace").splitlines()[-1].partition(": ")[2])
            told = out.read_text("utf-8").splitlines()
            if told:
                sent.append(json.loads(told[-1]))
            elif process not in asked:  # else it was asked before it listened
                code = process.returncode
                raise UserError(f"a process that was sending ended ({code}): send the rest with the same command")
    return sum(runs for runs, _ in sent), sum(points for _, points in sent)
