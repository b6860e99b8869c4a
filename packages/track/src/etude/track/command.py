"""The verb `track`: reads run folders and sends what they say to a tracker, once or as they grow."""

import time
from pathlib import Path
from typing import Any

from etude import files
from etude.arguments import Parser
from etude.errors import UserError
from etude.package import Package
from etude.signals import watch_signals
from etude.track import trackers
from etude.track.follow import Followed, runs
from etude.track.trackers import Entry, Tracker

HELP = """\
Sends configuration, every curve, samples, results and verdicts of folders of runs and studies to a tracker. It reads
the folders from outside: it may be started beside a run (--follow), or a year later, or twice; what is there already
is not sent again. MLflow is found by --uri, W&B and Trackio by their own environment variables (WANDB_MODE=offline)."""

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
    given = takes.parse_intermixed_args(words)
    if given.uri is not None and given.to != "mlflow":
        raise UserError("--uri is MLflow's: W&B has WANDB_BASE_URL, Trackio TRACKIO_DIR")
    places = [files.given(word) for word in given.folders]
    for place in places:
        list(runs(package, place))  # that they are what they should be, before anything is sent
    project = given.project or package.name
    return send(package, places, trackers.open_one(given.to, project, given.uri), given.follow)


def send(package: Package, places: list[Path], tracker: Tracker, follow: bool) -> int:
    """Looks at all runs in turns, with `follow` until none is at work any more and none has begun since."""
    at_work: dict[Path, tuple[Followed, Entry]] = {}
    ended: set[Path] = set()
    sent, still = 0, 0
    with watch_signals() as signals:
        while True:
            for run in (run for place in places for run in runs(package, place)):
                if run.folder not in at_work and run.folder not in ended:
                    at_work[run.folder] = run, tracker.begin(run)
            new = 0
            for folder, (run, entry) in list(at_work.items()):
                new += look(run, entry)
                if not follow or signals or run.result() is not None or (still >= STILL and not busy(folder)):
                    new += look(run, entry)  # what came before its end was written
                    end(run, entry)
                    ended.add(folder)
                    del at_work[folder]
            sent, still = sent + new, 0 if new else still + 1
            waiting = follow and not signals and (still < STILL or any(map(busy, places)))
            if not at_work and not waiting:
                break
            if follow and not signals:
                time.sleep(PAUSE)
        for place in places:
            if (place / "study.yaml").is_file():
                tracker.study(place.resolve().name, place)
    print(f"sent     {len(ended)} runs, {sent:,} new points")
    return 128 + signals[0] if signals else 0


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


def end(run: Followed, entry: Entry) -> None:
    result = run.result()
    scores: dict[str, Any] = {f"{name}/test": x for name, x in run.test().items()}
    if result is not None:
        scores |= {name: result[name] for name in ("best_epoch", "seconds", "parameters") if name in result}
    entry.end(scores, result is not None)


def busy(place: Path) -> bool:
    """Whether a process holds the folder of a run or study. It is held for the moment of asking: ask seldom."""
    try:
        with (place / ".lock").open("rb+") as stream:
            files.lock(stream)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False
