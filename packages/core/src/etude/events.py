"""TensorBoard's event files: read in the order of writing, whatever the clock says, and whole on a full disk."""

import io
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from etude.torch_private import Event, RecordWriter, SessionLog


def next_file(folder: Path) -> Path:
    """The name of a new event file: TensorBoard reads them in this order, so it has to sort behind all that are there.

    The number in it is the time, or later: the clock may have been set back since the last start.
    """
    there = [int(file.name.split(".")[3]) for file in folder.glob("events.out.tfevents.[0-9]*.*")]
    number = max([int(time.time()), *(number + 1 for number in there)])
    return folder / f"events.out.tfevents.{number:010d}.{socket.gethostname()}.{os.getpid()}.etude"


def records(events: Any) -> bytes:
    """Events as the content of an event file, without what begins one."""
    out = io.BytesIO()
    writer = RecordWriter(out)
    for event in events:
        writer.write(event.SerializeToString())
    return out.getvalue()


def beginning(wall_time: float) -> Any:
    """What an event file begins with."""
    return Event(wall_time=wall_time, file_version="brain.Event:2")


class EventFile:
    """An event file that is written by the thread that flushes it.

    The thread of TensorBoard's own dies of a full disk with a traceback that nobody can catch. Here `flush` raises
    OSError; the file then ends with the last whole event, and what waited is dropped: a run that goes on writes it.
    """

    def __init__(self, folder: Path, step: int) -> None:
        """What earlier files of the folder have from `step` on is taken back. Raises OSError."""
        self.path, now = next_file(folder), time.time()
        self.file = self.path.open("xb", buffering=0)
        self.size = 0  # of its whole events
        start = SessionLog(status=SessionLog.START)
        self.waiting: list[Any] = [beginning(now), Event(wall_time=now, step=step, session_log=start)]

    def add(self, step: int, **content: Any) -> None:
        """Notes an event, such as `summary=...`, for the next flush."""
        self.waiting.append(Event(wall_time=time.time(), step=step, **content))

    def flush(self) -> None:
        data, self.waiting = records(self.waiting), []
        try:
            while data:
                data = data[self.file.write(data) :]
        except OSError:
            with suppress(OSError):
                self.file.truncate(self.size)
                self.file.seek(self.size)
            raise
        self.size = self.file.tell()

    def close(self) -> None:
        try:
            self.flush()
        finally:
            self.file.close()
