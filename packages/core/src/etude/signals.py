"""SIGINT and SIGTERM, noted so that what is under way can be finished and saved."""

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import psutil

ASKING = [signal.SIGINT, signal.SIGTERM]
# OWN starts a process (`subprocess.Popen`) in a group of its own, which Ctrl-C in the terminal does not reach; STOP
# asks it to save and end.
OWN: dict[str, Any]
if sys.platform == "win32":
    ASKING.append(signal.SIGBREAK)  # the only one that a process there can send to another: SIGTERM ends it at once
    STOP, OWN = signal.CTRL_BREAK_EVENT, {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
else:
    STOP, OWN = signal.SIGTERM, {"process_group": 0}


class Stopped(Exception):
    """A signal asked the run to stop; it has been saved."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.code = 128 + signum


def end_with(worker: int) -> None:
    """Asks this process to save and end, as SIGTERM does, as soon as the one that started it is no more."""

    def watch() -> None:
        while os.getppid() == worker and psutil.pid_exists(worker):
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def watch_signals(every: bool = False) -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM in the list it gives, so that what is under way can be finished and saved.

    A second one acts at once, as it would without us, or is collected, too, with `every`; but not within a second of
    the first, since Ctrl-C under `uv run` and `timeout` may deliver one twice. Only the main thread gets any.
    """
    asked: list[int] = []
    first = math.inf

    def note(signum: int, _: FrameType | None) -> None:
        nonlocal first
        if not asked:
            first = time.monotonic()
            asked.append(signum)
        elif time.monotonic() - first > 1:
            if every:
                asked.append(signum)
            else:
                signal.signal(signum, before[signum])
                signal.raise_signal(signum)

    main = threading.current_thread() is threading.main_thread()
    before: dict[int, Any] = {signum: signal.signal(signum, note) for signum in ASKING if main}
    try:
        yield asked
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
