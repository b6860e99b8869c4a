"""Where runs are sent to, each by its own client; none is imported before it is asked for.

What is already there is asked of the tracker, so that sending twice adds nothing, whoever sent the first time.
"""

import json
import os
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from etude.errors import UserError
from etude.track.follow import Followed, Point, Sample

Failures = tuple[type[Exception], ...]
Marks = dict[str, int]  # tag -> the last step that is there


class Entry(Protocol):
    """A run as the tracker has it, open for what is new; several may be open at a time."""

    marks: Marks
    """how far its curves are there"""

    def points(self, found: Sequence[Point]) -> None: ...

    def sample(self, sample: Sample) -> None: ...

    def end(self, scores: Mapping[str, float], how: str) -> None:
        """How the run ended: "finished", "stopped", or "running" still.

        `scores` stand beside the curves: "accuracy/test", "best_epoch", "seconds", "parameters".
        """
        ...


class Tracker(Protocol):
    """One connection."""

    failures: Failures
    """what it raises when it fails on the way"""
    again: Sequence[str]
    """by what words of `track` another process opens it; empty if only one may at a time, or would gain nothing"""

    def begin(self, run: Followed) -> Entry:
        """Opens the entry of a run, or makes it."""
        ...

    def study(self, id: str, place: Path) -> None:
        """The tables and verdicts of a study, as an entry of their own."""
        ...


def missing(name: str) -> UserError:
    return UserError(f"the tracker {name} is not installed: uv sync --all-packages, or pip install {name}")


def about(run: Followed) -> dict[str, str]:
    """What else is known of a run, in words."""
    start = run.start
    told = {"etude.id": run.id, "etude.package": run.package, "etude.folder": str(run.folder.resolve())}
    told |= {"etude.setting": run.group, "etude.study": run.study} if run.study else {}
    told |= {f"etude.{key}": str(start[key]) for key in ("device", "precision", "git", "python") if start.get(key)}
    return told | {"etude.command": " ".join(map(str, start.get("command", [])))}


def study_files(place: Path) -> list[Path]:
    return [place / name for name in ("study.yaml", "results.md", "results.csv") if (place / name).is_file()]


def verdicts(place: Path) -> str:
    """The tables and verdicts of a study, Markdown."""
    file = place / "results.md"
    return file.read_text("utf-8") if file.is_file() else "The study is not finished."


class Mlflow:
    """MLflow's tracking server or database; an experiment is a project."""

    def __init__(self, project: str, uri: str | None) -> None:
        """Raises UserError if it cannot be reached."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        try:
            from mlflow import MlflowClient
            from mlflow.exceptions import MlflowException
        except ImportError:
            raise missing("mlflow") from None
        self.failures: Failures = (MlflowException, OSError)
        self.again: Sequence[str] = ["--to=mlflow", f"--project={project}", *([f"--uri={uri}"] if uri else [])]
        try:
            self.client = MlflowClient(uri)
            found = self.client.get_experiment_by_name(project)
            self.experiment = found.experiment_id if found else self.client.create_experiment(project)
        except Exception as error:  # of its database driver, of requests, its own
            why = " ".join(str(error).split())[:200]
            raise UserError(f"MLflow at {uri or 'its default'} cannot be used ({why}): give --uri another") from None

    def find(self, id: str) -> Any:
        found = self.client.search_runs([self.experiment], f"tags.`etude.id` = '{id}'", max_results=1)
        return found[0] if found else None

    def begin(self, run: Followed) -> "MlflowEntry":
        from mlflow.entities import Param

        there = self.find(run.id)
        if there is None:
            tags = {tag: value[:5000] for tag, value in about(run).items()}
            began = int(1000 * run.began())
            there = self.client.create_run(self.experiment, start_time=began, run_name=run.name, tags=tags)
        elif there.info.status != "RUNNING":
            self.client.update_run(there.info.run_id, status="RUNNING")
        knobs = [Param(name, str(x)[:6000]) for name, x in run.config.items() if name not in there.data.params]
        self.client.log_batch(there.info.run_id, params=knobs)
        latest = there.data.to_proto().metrics  # of each curve the point of the highest step
        return MlflowEntry(self.client, there.info.run_id, run, {point.key: point.step for point in latest})

    def study(self, id: str, place: Path) -> None:
        there, name = self.find(id), place.resolve().name
        run = there.info.run_id if there else None
        written = [int(1000 * file.stat().st_mtime) for file in study_files(place)]
        if run is None:
            tags = {"etude.id": id, "etude.study": name}
            made = self.client.create_run(self.experiment, min(written), tags, f"study {name}")
            run = made.info.run_id
        for file in study_files(place):
            self.client.log_artifact(run, str(file))
        self.client.set_tag(run, "mlflow.note.content", verdicts(place)[:5000])
        self.client.set_terminated(run, "FINISHED", max(written))


@dataclass
class MlflowEntry:
    client: Any
    run: str
    folder: Followed
    marks: Marks

    def points(self, found: Sequence[Point]) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(tag, value, int(1000 * time), step) for tag, step, value, time in found]
        for at in range(0, len(metrics), 1000):
            # The newest first: MLflow brings the latest of each curve up to date point by point.
            self.client.log_batch(self.run, metrics=metrics[at : at + 1000][::-1])

    def sample(self, sample: Sample) -> None:
        self.client.log_artifact(self.run, str(sample.file), "samples")

    def end(self, scores: Mapping[str, float], how: str) -> None:
        from mlflow.entities import Metric

        there = self.client.get_run(self.run).data.metrics
        step, now = max(self.marks.values(), default=0), int(1000 * time.time())
        new = [Metric(name, value, now, step) for name, value in scores.items() if there.get(name) != value]
        self.client.log_batch(self.run, metrics=new)
        if how != "running":
            ended = max(int(1000 * self.folder.ended()), int(1000 * self.folder.began()))
            self.client.set_terminated(self.run, "FINISHED" if how == "finished" else "KILLED", ended)


class Wandb:
    """Weights & Biases, also offline (WANDB_MODE=offline): what went offline is noted beside it."""

    def __init__(self, project: str) -> None:
        try:
            import wandb
        except ImportError:
            raise missing("wandb") from None
        self.wandb, self.project = wandb, project
        self.again: Sequence[str] = ()
        self.failures: Failures = (wandb.Error, OSError)
        self.settings = wandb.Settings(silent=True, console="off", x_disable_stats=True, disable_git=True)

    def open(self, id: str, name: str, **more: Any) -> Any:
        try:
            return self.wandb.init(
                project=self.project,
                id=id,
                name=name,
                resume="allow",
                reinit="create_new",
                settings=self.settings,
                **more,
            )
        except Exception as error:  # of its service, of the network, its own
            why = " ".join(str(error).split())[:200]
            who = isinstance(error, self.wandb.errors.UsageError | self.wandb.errors.AuthenticationError)
            remedy = "set WANDB_API_KEY" if who else "see that there is a network"
            raise UserError(f"W&B cannot be used ({why}): {remedy}, or set WANDB_MODE=offline") from None

    def begin(self, run: Followed) -> "WandbEntry":
        """W&B itself leaves out what comes before the last step that it has; offline it cannot, and a note does."""
        more = {"group": run.group or None, "job_type": run.study or None, "config": run.config | about(run)}
        opened = self.open(run.id, run.name, **more)
        if not opened.offline:
            return WandbEntry(self.wandb, opened, None, {})
        here = Path(opened.dir).parents[1]
        note = here / f"etude-{self.project}-{run.id}.json"
        marks: Marks = {}
        with suppress(OSError, ValueError):
            told = json.loads(note.read_text("utf-8"))
            marks = told["marks"] if (here / told["folder"]).is_dir() else {}  # else what it is of has been deleted
        return WandbEntry(self.wandb, opened, note, marks)

    def study(self, id: str, place: Path) -> None:
        run = self.open(id, f"study {place.resolve().name}", job_type="study")
        for file in study_files(place):
            run.save(str(file), base_path=str(place), policy="now")
        run.summary["verdicts"] = verdicts(place)[:20_000]
        run.finish()


@dataclass
class WandbEntry:
    wandb: Any
    run: Any
    note: Path | None
    """of what went offline"""
    marks: Marks

    def points(self, found: Sequence[Point]) -> None:
        for step, values in by_step(found).items():
            self.run.log(values, step=step)

    def sample(self, sample: Sample) -> None:
        if sample.file.suffix == ".md":
            self.run.summary[sample.key] = sample.file.read_text("utf-8")[:20_000]
        elif not self.run.resumed or sample.step >= self.run.starting_step:  # else it is there
            picture = self.wandb.Image(str(sample.file))
            self.run.log({sample.key: picture}, step=max(sample.step, self.run.step))  # its steps never go back

    def end(self, scores: Mapping[str, float], how: str) -> None:
        self.run.summary.update(dict(scores) | {"ended": how})
        folder = Path(self.run.dir).parent.name
        self.run.finish()
        if self.note is not None:
            self.note.write_text(json.dumps({"folder": folder, "marks": self.marks}), "utf-8")


class Trackio:
    """Trackio's database on this machine."""

    def __init__(self, project: str) -> None:
        try:
            import trackio
            from trackio.sqlite_storage import SQLiteStorage
        except ImportError:
            raise missing("trackio") from None
        self.trackio, self.storage, self.project = trackio, SQLiteStorage, project
        self.again: Sequence[str] = ()
        self.failures: Failures = (OSError, RuntimeError)

    def begin(self, run: Followed) -> "TrackioEntry":
        name = f"{run.name} {run.id[:6]}"  # its runs are known by name
        there = self.storage.get_logs(self.project, name) if name in self.storage.get_runs(self.project) else []
        config = {key.replace("_", "-"): str(value) for key, value in (run.config | about(run)).items()}
        opened = self.trackio.init(
            self.project, name, group=run.group or None, config=config, resume="allow", embed=False,
            auto_log_gpu=False, auto_log_cpu=False,
        )  # fmt: skip
        marks: Marks = {}
        last: dict[str, Any] = {}
        for row in there:
            marks |= {tag: max(row["step"], marks.get(tag, -1)) for tag in row if tag not in ("step", "timestamp")}
            last |= row
        return TrackioEntry(self.trackio, opened, marks, last)

    def study(self, id: str, place: Path) -> None:
        name = f"study {place.resolve().name} {id[:6]}"
        run = self.trackio.init(self.project, name, resume="allow", embed=False, auto_log_gpu=False)
        run.log({"verdicts": self.trackio.Markdown(verdicts(place))}, step=0)
        run.finish()


@dataclass
class TrackioEntry:
    trackio: Any
    run: Any
    marks: Marks
    last: dict[str, Any]
    """the last value of everything that is there"""

    def points(self, found: Sequence[Point]) -> None:
        for step, values in by_step(found).items():
            self.run.log(values, step=step)

    def sample(self, sample: Sample) -> None:
        shown = self.trackio.Image(str(sample.file)) if sample.file.suffix == ".png" else None
        shown = shown or self.trackio.Markdown(sample.file.read_text("utf-8"))
        self.run.log({sample.key: shown}, step=sample.step)

    def end(self, scores: Mapping[str, float], how: str) -> None:
        new = {name: value for name, value in scores.items() if self.last.get(name) != value}
        if new or self.last.get("ended") != how:
            self.run.log(new | {"ended": how}, step=max(self.marks.values(), default=0))
        self.run.finish()


def by_step(found: Sequence[Point]) -> dict[int, dict[str, float]]:
    """Points of one step together, the steps in order."""
    steps: defaultdict[int, dict[str, float]] = defaultdict(dict)
    for point in found:
        steps[point.step][point.tag] = point.value
    return dict(sorted(steps.items()))


def open_one(kind: str, project: str, uri: str | None) -> Tracker:
    """The tracker of this name. Raises UserError if it is not installed, or cannot be reached."""
    if kind == "mlflow":
        return Mlflow(project, uri)
    if kind == "wandb":
        return Wandb(project)
    return Trackio(project)
