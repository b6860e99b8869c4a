"""The run folder: what one training run leaves behind, readable by people and enough to go on or to predict.

config.yaml  environment.json  about.json  metrics.jsonl  result.json  log.txt  watch.npz  samples/  tb/
checkpoints/{last,last.prev,best}.pt
"""

import copy
import io
import json
import secrets
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image

from etude import config as configs
from etude import files, torch_private
from etude.errors import UserError
from etude.markdown import block
from etude.train import checkpoint
from etude.train.checkpoint import State
from etude.train.device import DTYPES, Device

C = TypeVar("C")
UNKNOWN = "the data have changed since cannot be checked"


def new_folder(package: str) -> Path:
    """runs/PACKAGE/2026-11-22_10-15-03_a3f: sorts by time, and two runs started in one second do not meet."""
    return Path("runs") / package / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{secrets.token_hex(2)[:3]}"


def read_config(folder: Path, config: type[C], flags: list[str] | None = None) -> C:
    """The configuration of the run in `folder`, with `flags` on top. Raises UserError if it is no run folder."""
    file = folder / "config.yaml"
    if not file.is_file():
        raise UserError(f"{folder} is no run folder: it has no config.yaml")
    with file.open("rb") as content:
        if content.read()[-1:] != b"\n":  # what is missing would be taken for left at its default
            raise UserError(f"{file} is cut short: put a copy of it there, or train again in another folder")
    return configs.parse(config, [str(file), *(flags or [])])


def read_starts(folder: Path) -> list[State]:
    """What environment.json tells of every start of a run; none before the first. Raises UserError if it is broken."""
    file, remedy = folder / "environment.json", "delete it and start the run again"
    starts: list[State] = files.read_json(file, list, remedy, {"precision": str}) or []
    if odd := next((start["precision"] for start in starts if start["precision"] not in DTYPES), None):
        raise UserError(f"{file} cannot be read ({odd!r} is no precision): {remedy}")
    return starts


def first_start(folder: Path) -> State:
    """What environment.json tells of the first start of a run: as it began, so it goes on. Empty before it."""
    return next(iter(read_starts(folder)), {})


class Run:
    """One run folder, open for writing; on every process but the first (`device.leads`) nothing is written."""

    def __init__(
        self, path: Path, config: Any, device: Device, again: str = "start it again", command: Sequence[str] = ()
    ) -> None:
        """Creates the folder, or opens the one an earlier start of the same run left.

        `again` is the command that goes on with this run, `command` the one that trains it alone, where this process
        trains it in a stack with others. Raises UserError if the folder cannot be written, holds something else or
        another configuration, or is in use.
        """
        self.path, self.config, self.device, self.again = path, config, device, again
        self._tb: Any = None
        if not device.leads:
            return
        opening = f"cannot write the run folder {path}", "give --run another folder"
        with files.reported(*opening):
            path.mkdir(parents=True, exist_ok=True)
            is_run = (path / "config.yaml").is_file()
            if not is_run and any(p.name != "log.txt" and not p.name.startswith(".") for p in path.iterdir()):
                raise UserError(f"{path} is not empty and no run folder: give --run another folder")
            self._lock = (path / ".lock").open("ab")
        try:
            with files.reported(f"{path} cannot be locked", "give --run a folder on a file system with locks"):
                try:
                    files.lock(self._lock)
                except BlockingIOError:
                    where = f"{path} is in use by another process"
                    raise UserError(f"{where}: wait for it or give --run another folder") from None
            if is_run and (other := configs.differences(read_config(path, type(config)), config)):
                told = f"{path} holds a run with another configuration ({'; '.join(other)})"
                raise UserError(f"{told}: give --run another folder")
            # A resumed run adds an entry, so that a change of machine can be seen.
            starts = [*read_starts(path), environment(config, device, command)]
            with files.reported(*opening):
                if not is_run:
                    files.write(path / "config.yaml", configs.dump(config).encode())
                for name in ("checkpoints", "samples", "tb"):
                    (path / name).mkdir(exist_ok=True)
                for folder in (path, path / "checkpoints", path / "samples"):
                    for left in folder.glob(".*.tmp"):  # by a kill in the middle of a write
                        left.unlink()
                files.write(path / "environment.json", json.dumps(starts, indent=1).encode())
        except BaseException:
            self._lock.close()
            raise

    @contextmanager
    def _writing(self, file: Path) -> Iterator[None]:
        """Makes a file that cannot be written the user's matter, in one line."""
        try:
            yield
        except OSError as error:
            remedy = "free some space" if error.errno in files.FULL else "see that it can be written"
            raise UserError(
                f"cannot save {error.filename or file}: {files.why(error)}; the checkpoint before it is intact: "
                f"{remedy}, then {self.again}"
            ) from None

    def write(self, name: str, data: bytes) -> None:
        """Writes a file of the run folder, whole or not at all. Raises UserError if it cannot be."""
        if self.device.leads:
            with self._writing(self.path / name):
                files.write(self.path / name, data)

    # -- checkpoints

    def save(self, name: str, state: State, keep: bool = False) -> None:
        """Writes checkpoints/NAME.pt whole or not at all; with `keep` the one before stays as NAME.prev.pt."""
        if not self.device.leads:
            return
        file = self.path / "checkpoints" / f"{name}.pt"
        with self._writing(file), checkpoint.encode(state) as view:
            files.write(file, view, before=file.with_suffix(".prev.pt") if keep else None)

    def last(self) -> State | None:
        """The newest readable checkpoint of this run, None before the first; see `checkpoint.newest`."""
        return checkpoint.newest(self.path, tell=self.device.leads)

    def compare_data(self, kept: Any, found: Mapping[str, str]) -> None:
        """Raises UserError unless the data are those of which this run `kept` the fingerprints.

        Says so where that cannot be known, as a run of before there were any has kept none.
        """
        if not kept:
            if self.device.leads:
                print(f"{self.path} does not say what it was trained on: whether {UNKNOWN}", file=sys.stderr)
        elif parts := changed(kept, found):
            raise UserError(
                f"{self.path} was trained on other data, which have changed since under the same name (part "
                f"{', '.join(parts)}): put them back as they were, or give --run another folder"
            )

    def finished(self) -> State | None:
        """The result, if the run has come to its end."""
        needs = {"valid": dict, "epochs": int, "best_epoch": int}
        return files.read_json(self.path / "result.json", dict, "delete it and start the run again", needs)

    # -- what people read

    def write_rows(self, rows: list[dict[str, Any]]) -> None:
        """metrics.jsonl, one row per epoch; written as a whole, so that no epoch ever stands in it twice."""
        self.write("metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())

    def about(
        self, data: str, model: str, architecture: str, metric: str, better: str, fingerprints: dict[str, str]
    ) -> None:
        """about.json: what is trained on what, in words, for whoever reads the folder later (`etude.report.read`)."""
        task = type(self.config).__module__.partition(".")[0]
        words = {"task": task, "data": data, "model": model, "architecture": architecture}
        self.write_result("about.json", words | {"metric": metric, "better": better, "fingerprints": fingerprints})

    def write_result(self, name: str, result: dict[str, Any]) -> None:
        self.write(name, (json.dumps(result, indent=1) + "\n").encode())

    # -- TensorBoard

    def open_tensorboard(self, step: int, metric: str) -> None:
        """Starts the event file; what an interrupted start wrote from `step` on is taken back (purge_step).

        The hyperparameters stand in this directory too, so that the HParams tab and the curves are the same run.
        """
        if not self.device.leads:
            return
        from etude.torch_private import hparams
        from etude.train.board import board

        with self._writing(self.path / "tb"):
            self._tb = board(self.path / "tb", step)
        flat = configs.flatten(self.config)
        plain = {
            key: value if isinstance(value, bool | int | float | str) else str(value) for key, value in flat.items()
        }
        for summary in hparams(plain, {metric: None}):
            self._tb.file_writer.add_summary(summary)
        if step == 0:
            self._tb.add_text("config", block(configs.dump(self.config), "yaml"), 0)

    def scalars(self, values: dict[str, float], step: int) -> None:
        """One event for all `values`: a step's scalars cost one record, not one each."""
        if self._tb is None:
            return
        from etude.torch_private import Event, Summary

        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
        event = Event(wall_time=time.time(), step=step, summary=summary)
        torch_private.add_event(self._tb, event)

    def picture(self, tag: str, picture: Image.Image, step: int, when: str | None = None) -> None:
        """Shows a picture in TensorBoard and keeps it as samples/NAME.png; for NAME see `sample_name`."""
        if self._tb is None:
            return
        from etude.torch_private import Summary

        buffer = io.BytesIO()
        picture.convert("RGB").save(buffer, "PNG")
        png, (width, height) = buffer.getvalue(), picture.size  # encoded once for both
        image = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=png)
        self._tb.file_writer.add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)
        self.write(f"samples/{sample_name(tag, when)}.png", png)

    def text(self, tag: str, text: str, step: int, when: str | None = None) -> None:
        """Shows Markdown in TensorBoard and keeps it as samples/NAME.md; for NAME see `sample_name`."""
        if self._tb is not None:
            self.note(tag, text, step)
            self.write(f"samples/{sample_name(tag, when)}.md", files.encode(text + "\n"))

    def note(self, tag: str, text: str, step: int) -> None:
        """Shows Markdown in TensorBoard only."""
        if self._tb is not None:
            self._tb.add_text(tag, text, step)

    def embedding(self, tag: str, points: torch.Tensor, columns: dict[str, list[str]], step: int) -> None:
        """Shows points, float [N, D], in TensorBoard's projector; each is labelled by its entry of every column."""
        if self._tb is None:
            return
        # A label ends at a line or a tab.
        plain = [[" ".join(value.split()) for value in column] for column in columns.values()]
        from google.protobuf import text_format
        from tensorboard.plugins.projector import ProjectorConfig

        config = self.path / "tb" / "projector_config.pbtxt"  # of which torch's writer knows only what it wrote itself
        try:
            known = text_format.Parse(config.read_text("utf-8") if config.exists() else "", ProjectorConfig())
        except (OSError, ValueError, text_format.ParseError) as error:
            raise UserError(f"{config} cannot be read ({files.reason(error)}): delete it, then {self.again}") from None
        with self._writing(config.parent):
            self._tb.add_embedding(points, list(zip(*plain, strict=True)), None, step, tag, list(columns))
        written = text_format.Parse(config.read_text("utf-8"), ProjectorConfig())
        new = {info.tensor_name for info in written.embeddings}
        earlier = [info for info in known.embeddings if info.tensor_name not in new]
        together = text_format.MessageToString(ProjectorConfig(embeddings=[*earlier, *written.embeddings]))
        self.write("tb/projector_config.pbtxt", together.encode())

    def graph(self, model: torch.nn.Module, example: torch.Tensor) -> None:
        """Shows what the model computes for an example batch."""
        if self._tb is None:
            return
        plain = copy.deepcopy(model)
        torch_private.uncompiled(plain)
        with warnings.catch_warnings():  # add_graph uses torch.jit.trace, deprecated with no successor for this
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            self._tb.add_graph(plain, example)

    def flush(self) -> None:
        if self._tb is not None:
            with self._writing(self._tb.path):
                self._tb.flush()

    def close(self) -> None:
        if self._tb is not None:
            with suppress(OSError):  # a run that ends well has flushed; what ends another is told, and not this
                self._tb.close()
            self._tb = None
        if self.device.leads:
            self._lock.close()


def sample_name(tag: str, when: str | None) -> str:
    """The name of a file in samples/, by which a report knows when it was shown (`etude.report.read.samples`).

    ("worst mistakes", None), ("board", "before"), ("board", "epoch 3"), ("board", "after") ->
    worst-mistakes, board-epoch-000, board-epoch-003, board-end
    """
    name = tag.replace(" ", "-")
    if when is None:
        return name
    if when == "after":
        return f"{name}-end"
    epoch = 0 if when == "before" else int(when.removeprefix("epoch "))
    return f"{name}-epoch-{epoch:03d}"


def environment(config: Any, device: Device, command: Sequence[str]) -> State:
    """What a run starts on; `command` trains it alone, where this process trains it in a stack."""
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": list(command) or sys.argv,
        "stacked": bool(command),
        "device": device.name(),
        "precision": device.precision,
        "processes": device.world,
        "threads": torch.get_num_threads(),
        "step_threads": device.threads or torch.get_num_threads(),
        "seed": config.fit.seed,
        "git": git_commit(),
        "python": sys.version.split()[0],
        "versions": versions(type(config).__module__),
    }


def versions(module: str) -> dict[str, str]:
    """The versions of the packages that matter; `module` is one of the task's."""
    names = ("etude-core", module.partition(".")[0].replace("_", "-"), "torch", "torchvision", "numpy", "tensorboard")
    found = {}
    for name in names:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def trained_on(folder: Path) -> Any:
    """The fingerprints of the data of a run, from its about.json; None where it does not say."""
    about = files.read_json(folder / "about.json", dict, "delete it and start the run again", {})
    return about.get("fingerprints") if about else None


def changed(kept: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """The parts of the data whose content is not what a run kept the fingerprint of, of those that are loaded."""
    return [part for part, fingerprint in found.items() if kept.get(part) != fingerprint]


def git_commit() -> str | None:
    """The commit of the repository around the code that runs, "+" if changed since; None outside one."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--exclude=*", "--abbrev=12", "--dirty=+"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
