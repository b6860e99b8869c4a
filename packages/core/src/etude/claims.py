"""Who is at work in a folder, told by files in it: several machines may share the folder, and no lock is needed.

FOLDER/.claim-1, .claim-2, ...: the last is that of whoever works there, or did

Whoever is first to create the next number has the folder, as creating a file that is not there is one step on file
systems, NFS included. Nothing is removed, so that no number is ever had twice. The holder rewrites its file every few
seconds. It has gone if it says so, if its process has ended on this very machine, or if its file stays as it is for
STALE seconds by the watch of who looks: clocks of different machines are not compared. A claim is marked before the
next one follows it; its holder, which may only have been cut off for a while, looks for the mark before it writes
anything (a lease: Gray and Cheriton 1989). A process that works for another, on a cluster, follows that one's claim.
"""

import os
import socket
import sys
import threading
import time
import uuid
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil

from etude import files
from etude.errors import UserError

BEAT = 2.0  # seconds between two signs of life
STALE = 30.0  # seconds without one, after which a claim is void
WIDTH = 12  # digits of a beat
OVER, TAKEN = "released".ljust(WIDTH), "taken\n"
WORKER = "ETUDE_WORKER"  # the process id of the worker of a cluster that this process works for; see `etude.signals`


def machine() -> str:
    """This machine since it was started, and which process ids count: containers of one machine have their own."""
    with suppress(OSError):
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    return f"{uuid.getnode():x}"


class Claim:
    """A folder that is this process's alone, from the call of `claim` until it is closed or forgotten."""

    def __init__(self, file: Path) -> None:
        """Creates the file. Raises FileExistsError if it is there; OSError."""
        self.file = file
        head = f"process {os.getpid()} on {socket.gethostname()}\n{machine()}\n{os.getpid()}\n".encode()
        with file.open("xb") as out:
            out.write(head + f"{0:0{WIDTH}}\n".encode())
            files.sync(out)
        sign, over = partial(_sign, file, len(head), threading.RLock()), threading.Event()
        self.close = weakref.finalize(self, _end, sign, over)
        threading.Thread(target=_beat, args=(sign, over), daemon=True).start()

    def check(self) -> None:
        """Raises UserError if another process has taken the folder over, since this one showed no sign of life."""
        try:
            taken = self.file.read_bytes().endswith(TAKEN.encode())
        except OSError:  # storage that does not answer; what is to be written will say so
            return
        if taken:
            why = f"this one, cut off or asleep, had shown no sign of life for {STALE:.0f} s"
            raise UserError(f"{self.file.parent} was taken over by another process, as {why}: leave it to that one")


def _sign(file: Path, at: int, alone: threading.RLock, over: threading.Event, text: str) -> None:
    """Writes into its place; the file is opened anew each time, as others see over a network what was closed."""
    with alone, suppress(OSError):  # a later beat may come through again
        if text == OVER or not over.is_set():
            with file.open("r+b") as out:
                out.seek(at)
                out.write(text.encode())


def _beat(sign: Callable[[threading.Event, str], None], over: threading.Event) -> None:
    count = 0
    while not over.wait(BEAT):
        count += 1
        sign(over, f"{count:0{WIDTH}}")


def _end(sign: Callable[[threading.Event, str], None], over: threading.Event) -> None:
    over.set()
    sign(over, OVER)


def none(folder: Path) -> None:
    """Raises BlockingIOError if another process has a claim on a folder, and is at work."""
    if who := holder(folder):
        raise BlockingIOError(who)


def claim(folder: Path) -> Claim:
    """Has a folder, which is there, for this process alone. Raises BlockingIOError if another is at work; OSError."""
    while True:
        last, who = watched(folder)
        if who:
            raise BlockingIOError(who)
        if last:  # that very claim is void: if another has followed it since, the next number is had already
            with suppress(OSError), (folder / f".claim-{last}").open("ab") as out:
                out.write(TAKEN.encode())
        try:
            return Claim(folder / f".claim-{last + 1}")
        except FileExistsError:  # another was faster: see whether it is still there
            time.sleep(BEAT / 4)


def latest(folder: Path) -> int:
    """The number of the last claim; 0 if there is none."""
    found = (file.name.removeprefix(".claim-") for file in folder.glob(".claim-*"))
    return max((int(number) for number in found if number.isdecimal()), default=0)


def holder(folder: Path) -> str:
    """Which process is at work in a folder, "process 7 on host"; empty if none is. It may have to watch for a while."""
    return watched(folder)[1]


def watched(folder: Path) -> tuple[int, str]:
    """The number of the last claim, 0 if there is none, and what `holder` says of it."""
    seen, since, told = None, time.monotonic(), False
    while True:
        number = latest(folder)
        try:
            now = number, (folder / f".claim-{number}").read_text("utf-8")
        except FileNotFoundError:
            return number, ""
        lines = now[1].splitlines()
        who = lines[0] if lines else "a process"
        if OVER in lines or TAKEN.strip() in lines or (len(lines) > 2 and has_ended(lines[1], lines[2])):
            return number, ""
        if seen not in (None, now):
            return number, who
        if (still := time.monotonic() - since) > STALE:
            return number, ""
        if still > 2 * BEAT and not told:
            told = True
            print(f"{folder}: waiting up to {STALE:.0f} s for a sign of life of {who}", file=sys.stderr, flush=True)
        seen = now
        time.sleep(BEAT / 4)


def has_ended(where: str, pid: str) -> bool:
    """Whether it is known that this process is no more: only of one on this machine, and while its id is not reused."""
    if where != machine() or not pid.isdecimal():
        return False
    if pid == os.environ.get(WORKER):
        return True  # for us: it has the folder so that we can take it
    try:
        return psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False
