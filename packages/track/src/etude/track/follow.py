"""What a run folder says that was not read before: the curves from its event files, its samples, its end."""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from etude import files, tested, torch_private
from etude.errors import UserError
from etude.package import Package

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
    samples: dict[Path, int] = field(default_factory=dict)
    """when each was written, in nanoseconds"""

    def __post_init__(self) -> None:
        """Raises UserError if it is no run folder, or of another task."""
        file = self.folder / "config.yaml"
        if not file.is_file():
            raise UserError(f"{self.folder} is no run folder: it has no config.yaml")
        about = files.read_json(self.folder / "about.json", dict, AGAIN, {}) or {}
        task = str(about.get("task", self.package)).replace("_", "-")
        if task != self.package:
            raise UserError(f"{self.folder} is of {task}, not of {self.package}: say {task} track")
        self.config = flat(yaml.safe_load(file.read_text("utf-8")) or {})
        starts = files.read_json(self.folder / "environment.json", list, AGAIN, {}) or [{}]
        self.start = starts[0]

    @property
    def id(self) -> str:
        """16 hex digits: of what was asked, and of when it was first started; a folder that is moved keeps it."""
        asked = (self.folder / "config.yaml").read_bytes() + str(self.start.get("started")).encode()
        return hashlib.blake2b(self.package.encode() + asked, digest_size=8).hexdigest()

    def points(self) -> list[Point]:
        """What the event files have beyond the last time, in the order of writing."""
        found = []
        for file in sorted((self.folder / "tb").glob("events.out.tfevents.*")):
            if file not in self.loaders:
                self.loaders[file] = torch_private.EventLoader(str(file))
            for event in self.loaders[file].Load():
                for value in event.summary.value:
                    if value.HasField("simple_value"):
                        found.append(Point(value.tag, event.step, value.simple_value, event.wall_time))
        return found

    def new_samples(self) -> list[Sample]:
        """What the task has shown, or shown anew, since the last time."""
        rows = self.rows()
        found = []
        for file in sorted((self.folder / "samples").glob("[!.]*")):
            written = file.stat().st_mtime_ns
            if file.suffix in (".png", ".md") and self.samples.get(file) != written:
                self.samples[file] = written
                found.append(Sample(file, step_of(file.stem, rows)))
        return found

    def rows(self) -> dict[int, int]:
        """Epoch -> the step that it ended with."""
        try:
            lines = (self.folder / "metrics.jsonl").read_text("utf-8").splitlines()
        except FileNotFoundError:
            return {}
        rows = [yaml.safe_load(line) for line in lines]
        return {row["epoch"]: row["step"] for row in rows}

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


def step_of(stem: str, rows: dict[int, int]) -> int:
    """The step of a sample by its name (see `etude.train.run.sample_name`): of the end, that of the last epoch."""
    epoch = stem.rpartition("-epoch-")[2]
    last = max(rows.values(), default=0)
    return rows.get(int(epoch), 0 if int(epoch) == 0 else last) if epoch.isdigit() and epoch != stem else last


def runs(package: Package, place: Path) -> Iterator[Followed]:
    """The run that a folder is, or those of a study, as far as they have begun. Raises UserError if it is neither."""
    if not (place / "study.yaml").is_file():
        yield Followed(place, package.name, place.resolve().name)
        return
    from etude.study.file import load

    asked = load(str(place / "study.yaml"), package.module, package.scores)
    for trial in asked.trials():
        folder = trial.folder(place)
        if (folder / "config.yaml").is_file():
            yield Followed(folder, package.name, str(trial), trial.group, place.resolve().name)
