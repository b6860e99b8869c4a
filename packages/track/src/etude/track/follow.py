"""What a run folder says that was not read before: the curves from its event files, its samples, its end."""

import hashlib
import json
import math
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from etude import files, tested, torch_private
from etude.errors import UserError
from etude.package import Package, task_of

AGAIN = "delete it and start the run again"


class Point(NamedTuple):
    tag: str
    step: int
    value: float
    time: float
    """seconds since 1970, when it was written"""


class Sample(NamedTuple):
    file: Path
    """a picture (.png) or a text in Markdown (.md)"""
    step: int

    @property
    def key(self) -> str:
        return f"samples/{self.file.stem}"


@dataclass
class Followed:
    """A run folder that is read on as it grows."""

    folder: Path
    package: str
    name: str
    group: str = ""
    """the setting, of a run of a study"""
    study: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    """every knob, "fit.lr": 0.003"""
    start: dict[str, Any] = field(default_factory=dict)
    """the first entry of environment.json"""
    loaders: dict[Path, Any] = field(default_factory=dict)
    values: dict[tuple[str, int], float] = field(default_factory=dict)
    """all points that were read"""
    changed: int = 0
    """points that a resumed run has done again with another outcome"""
    samples: dict[Path, int] = field(default_factory=dict)
    """when each was written, in nanoseconds"""
    latest: float = 0.0
    """when the last that was read of the event files was written, in seconds since 1970"""

    def __post_init__(self) -> None:
        """Raises UserError if it is no run folder, or of another task."""
        task = task_of(self.folder, AGAIN)
        if task not in (None, self.package):
            raise UserError(f"{self.folder} is of {task}, not of {self.package}: say {task} track")
        file = self.folder / "config.yaml"
        try:
            self.config = flat(yaml.safe_load(file.read_text("utf-8")) or {})
        except (OSError, ValueError, AttributeError, yaml.YAMLError) as error:
            raise UserError(f"{file} cannot be read ({files.reason(error)}): put a copy of it there") from None
        starts = files.read_json(self.folder / "environment.json", list, AGAIN, {}) or [{}]
        self.start = starts[0]

    @property
    def id(self) -> str:
        """16 hex digits, of all that is noted of its first start; a folder that is moved keeps it."""
        first = json.dumps([self.package, self.start, self.config], sort_keys=True, default=str)
        return hashlib.blake2b(first.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()

    def began(self) -> float:
        """When it was started first, in seconds since 1970."""
        try:
            return datetime.strptime(str(self.start.get("started")), "%Y-%m-%dT%H:%M:%S%z").timestamp()
        except ValueError:  # it does not say
            return (self.folder / "config.yaml").stat().st_mtime

    def ended(self) -> float:
        """When the last of its `points` was written, in seconds since 1970, which a copy of the folder says, too."""
        names = ("result.json", "metrics.jsonl", "config.yaml")
        there = (file for name in names if (file := self.folder / name).exists())
        return self.latest or next(there).stat().st_mtime

    def points(self) -> list[Point]:
        """What the event files have beyond the last time, in the order of writing, of all that is a finite number.

        What a start that goes on from a checkpoint takes back, and does again, is there once, as it was done last.
        """
        found: dict[tuple[str, int], Point] = {}
        for file in sorted((self.folder / "tb").glob("events.out.tfevents.*")):
            if file not in self.loaders:
                self.loaders[file] = torch_private.EventLoader(str(file))
            for event in self.loaders[file].Load():
                self.latest = max(self.latest, event.wall_time)
                if event.HasField("session_log") and event.session_log.status == torch_private.SessionLog.START:
                    found = {key: point for key, point in found.items() if point.step < event.step}
                for value in event.summary.value:
                    if value.HasField("simple_value") and math.isfinite(value.simple_value):
                        point = Point(value.tag, event.step, value.simple_value, event.wall_time)
                        found[point.tag, point.step] = point
        for key, point in found.items():
            self.changed += key in self.values and self.values[key] != point.value and "items_per_s" not in point.tag
            self.values[key] = point.value
        return list(found.values())

    def new_samples(self) -> list[Sample]:
        """What the task has shown, or shown anew, since the last time; that of an epoch once the epoch has its row."""
        new = []
        for file in sorted((self.folder / "samples").glob("[!.]*")):
            if file.suffix in (".png", ".md") and self.samples.get(file) != file.stat().st_mtime_ns:
                new.append(file)
        rows, ended = (self.rows(), self.result() is not None) if new else ({}, False)
        found = []
        for file in new:
            step = step_of(file.stem, rows, ended)
            if step is not None:
                self.samples[file] = file.stat().st_mtime_ns
                found.append(Sample(file, step))
        return found

    def rows(self) -> dict[int, int]:
        """Epoch -> the step that it ended with."""
        file = self.folder / "metrics.jsonl"
        try:
            rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
            return {row["epoch"]: row["step"] for row in rows}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file} cannot be read ({files.reason(error)}): {AGAIN}") from None

    def result(self) -> dict[str, Any] | None:
        """How the run ended; None before it has."""
        found: dict[str, Any] | None = files.read_json(self.folder / "result.json", dict, AGAIN, {"valid": dict})
        return found

    def test(self) -> dict[str, float]:
        """The test scores; none if there are none of the checkpoint that the run has kept."""
        found = files.read_json(self.folder / "test.json", dict, "delete it and evaluate the run again", {})
        if found is None or tested.problem(self.folder, self.result(), found):
            return {}
        return numbers(found)


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = prefix + str(key)
        found |= flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return found


def numbers(scores: dict[str, Any]) -> dict[str, float]:
    kept = {name: x for name, x in scores.items() if isinstance(x, int | float) and not isinstance(x, bool)}
    return {name: float(x) for name, x in kept.items() if math.isfinite(x)}


def step_of(stem: str, rows: dict[int, int], ended: bool) -> int | None:
    """The step of a sample by its name (see `etude.train.run.sample_name`); None: it is not known yet.

    Of the end, and of what is written over and over, that of the last epoch.
    """
    name, _, epoch = stem.rpartition("-epoch-")
    last = max(rows.values(), default=0)
    if not name or not epoch.isdigit():
        return last
    return rows.get(int(epoch), 0 if int(epoch) == 0 else last if ended else None)


def runs(package: Package, place: Path, known: Container[Path] = ()) -> Iterator[Followed]:
    """The run that a folder is, or those of a study, as far as they have begun, but for those `known` already.

    Raises UserError if it is neither.
    """
    if not (place / "study.yaml").is_file():
        if not (place / "config.yaml").is_file():
            raise UserError(f"{place} is the folder of no run or study: it has no config.yaml and no study.yaml")
        if place not in known:
            yield Followed(place, package.name, place.resolve().name)
        return
    from etude.study.file import load_of
    from etude.study.search import found

    asked = found(load_of(package, str(place / "study.yaml")), place)
    for trial in asked.trials():
        folder = trial.folder(place)
        # environment.json comes after config.yaml, and by it a run is known.
        if folder not in known and (folder / "config.yaml").is_file() and (folder / "environment.json").is_file():
            yield Followed(folder, package.name, str(trial), trial.group, place.resolve().name)
