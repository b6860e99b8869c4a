"""The verb `track`: reads run folders and sends what they say to a tracker, once or as they grow."""

import argparse
import gc
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from etude import claims, files
from etude.arguments import Parser
from etude.errors import UserError
from etude.package import Package
from etude.signals import watch_signals
from etude.track import shares, trackers
from etude.track.follow import Followed, numbers, runs
from etude.track.trackers import Entry, Tracker

HELP = """\
Sends configuration, every curve, samples, results and verdicts of folders of runs and studies to a tracker. It reads
the folders from outside: it may be started beside a run (--follow), or a year later, or twice; what is there already
is not sent again. What `evaluate` finds out after a run has ended comes with the next `track`. MLflow is found by
--uri, W&B and Trackio by their own environment variables (WANDB_MODE=offline). Many runs go to MLflow by up to four
processes."""

PAUSE = 2.0  # seconds between two looks
STILL = 5  # looks in a row that found nothing new, before it is asked whether a process is still at work


def main(package: Package, words: list[str], _call: str) -> int:
    """Send runs and studies to MLflow, Weights & Biases or Trackio."""
    takes = Parser(f"{package.name} track", HELP)
    takes.add_argument("folders", nargs="+", metavar="RUN|STUDY")
    takes.add_argument("--to", choices=("mlflow", "wandb", "trackio"), required=True)
    takes.add_argument("--project", help=f"its name there (default: {package.name})")
    takes.add_argument("--uri", help="MLflow's server or database, such as http://host:5000 or sqlite:///mlflow.db")
    takes.add_argument("--follow", action="store_true", help="go on until nothing is at work in the folders")
    takes.add_argument("--share", type=Path, help=argparse.SUPPRESS)  # of `shares.send`: what is taken already
    given = takes.parse_intermixed_args(words)
    if given.uri is not None and given.to != "mlflow":
        raise UserError("--uri is MLflow's: W&B has WANDB_BASE_URL, Trackio TRACKIO_DIR")
    if given.share and claims.WORKER not in os.environ:
        raise UserError("--share is what track itself says to its processes: leave it out")
    places = [files.given(word) for word in given.folders]
    for place in places:
        list(runs(package, place))  # that they are what they should be, before anything is sent
    project = given.project or package.name
    tracker = trackers.open_one(given.to, project, given.uri)
    if given.share:
        return share(package, places, tracker, shares.Free(given.share))
    return send(package, places, tracker, given.follow)


def send(package: Package, places: list[Path], tracker: Tracker, follow: bool) -> int:
    """Sends what the places say, as it is or, with `follow`, as it grows; returns the exit code.

    Raises UserError if the tracker fails on the way: what it has got it has, and the next time the rest is sent.
    """
    with using(tracker):
        signal = (rounds if follow else once)(package, places, tracker)
        for place in places:
            if (place / "study.yaml").is_file():
                tracker.study(study_id(package, place), place)
    return 128 + signal if signal else 0


@contextmanager
def using(tracker: Tracker) -> Iterator[None]:
    """In it its failures are UserErrors."""
    gc.freeze()  # what was imported is not looked through again and again: a tenth of the time of sending to MLflow
    try:
        yield
    except tracker.failures as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"the tracker failed ({why}): what it has it keeps; {shares.AGAIN}") from None


def once(package: Package, places: list[Path], tracker: Tracker) -> int:
    """Sends the runs as they are, one after the other: not hundreds are open at a time. Returns a signal, or 0.

    Many runs are shared out among processes, if what they write to is one and the same.
    """
    ids = {run.folder: run.id for place in places for run in runs(package, place)} if tracker.again else {}
    workers = shares.workers(len(set(ids.values())), ids)
    with watch_signals() as signals:
        if workers > 1:
            words = ["track", *tracker.again, *(str(place.absolute()) for place in places)]
            command = [sys.executable, "-m", package.module, *words]
            count, sent = shares.send(command, workers, signals, partial(one_by_one, package, places, tracker))
        else:
            count, sent = one_by_one(package, places, tracker, None, lambda: bool(signals))
    print(f"sent     {count} runs, {sent:,} new points")
    return signals[0] if signals else 0


def share(package: Package, places: list[Path], tracker: Tracker, free: shares.Free) -> int:
    """Sends what is free, and prints how many runs that were, and how many new points; for `shares.send`."""
    with using(tracker), watch_signals() as signals:
        print(json.dumps(one_by_one(package, places, tracker, free, lambda: bool(signals))))
    return 128 + signals[0] if signals else 0


def one_by_one(
    package: Package, places: list[Path], tracker: Tracker, ids: Container[str] | None, over: Callable[[], bool]
) -> shares.Sent:
    """Sends those of these ids, or all, until it is over; returns the number of folders and of new points."""
    count = sent = 0
    for run in (run for place in places for run in runs(package, place)):
        if over():
            break
        if ids is None or run.id in ids:
            sent += finish(run, tracker.begin(run))
            count += 1
    return count, sent


def rounds(package: Package, places: list[Path], tracker: Tracker) -> int:
    """Looks at all runs in turns, until none is at work any more and none has begun since. Returns a signal, or 0."""
    at_work: dict[Path, tuple[Followed, Entry, Path]] = {}
    ended: set[Path] = set()
    sent = still = changed = 0
    with watch_signals() as signals:
        while True:
            for place in places:
                for run in runs(package, place, at_work.keys() | ended):
                    at_work[run.folder] = run, tracker.begin(run), place
            # The runs of a study that is at work wait for their test scores.
            waiting = {place for place in places if (place / "study.yaml").is_file() and not signals and busy(place)}
            new = 0
            for folder, (run, entry, place) in list(at_work.items()):
                new += look(run, entry)
                over = signals or run.result() is not None or (still >= STILL and not busy(folder))
                if over and place not in waiting:
                    new += finish(run, entry)  # which looks again, as the end may have come after the look
                    ended.add(folder)
                    changed += run.changed
                    del at_work[folder]
            sent, still = sent + new, 0 if new else still + 1
            if not at_work and (signals or (still >= STILL and not any(map(busy, places)))):
                break
            time.sleep(PAUSE)
    print(f"sent     {len(ended)} runs, {sent:,} new points")
    if changed:
        otherwise = f"{changed:,} points came out otherwise when a run was resumed"
        print(f"note     {otherwise}; what was sent before stays as it was")
    return signals[0] if signals else 0


def study_id(package: Package, place: Path) -> str:
    """16 hex digits: of the run that was started first; of what is asked where there is none.

    Where there is, not of study.yaml, in which a reason may be reworded: it stays the same study.
    """
    _, first = min(((str(run.start.get("started", "")), run.id) for run in runs(package, place)), default=("", ""))
    mark = f"study of {first}".encode() if first else (place / "study.yaml").read_bytes()
    return hashlib.blake2b(mark, digest_size=8).hexdigest()


def finish(run: Followed, entry: Entry) -> int:
    """Sends the last of a run, and how it ended; returns how many points were new."""
    new = look(run, entry)
    result = run.result()
    scores: dict[str, Any] = {f"{name}/test": x for name, x in run.test().items()}
    if result is not None:
        scores |= numbers({name: result.get(name) for name in ("best_epoch", "seconds", "parameters")})
    entry.end(scores, "finished" if result is not None else "running" if busy(run.folder) else "stopped")
    return new


def look(run: Followed, entry: Entry) -> int:
    """Sends what is new of a run; returns how many points that were."""
    points = [point for point in run.points() if point.step > entry.marks.get(point.tag, -1)]
    entry.points(points)
    for point in points:  # what a resumed run did again is equal to the bit, and not sent again
        entry.marks[point.tag] = max(point.step, entry.marks.get(point.tag, -1))
    for sample in run.new_samples():
        if sample.step > entry.marks.get(sample.key, -1):
            entry.sample(sample)
            entry.marks[sample.key] = sample.step
    return len(points)


def busy(place: Path) -> bool:
    """Whether a process holds the folder of a run or study, as far as one can tell.

    It is held for the moment of asking, which takes a while if its process was lost on another machine: ask seldom.
    """
    try:
        with (place / ".lock").open("rb+") as stream:
            files.lock(stream)
    except FileNotFoundError:
        return False
    except OSError:  # it is held, or not ours
        return True
    return bool(claims.holder(place))
