"""The run folder: what one training run leaves behind, readable by people and enough to go on or to predict.

config.yaml  environment.json  about.json  metrics.jsonl  result.json  log.txt  watch.npz  samples/  tb/
checkpoints/{last,last.prev,best}.pt
"""

import copy
import io
import json
import os
import secrets
import subprocess
import sys
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, unquote

import torch
from PIL import Image

from etude import claims, files, pictures, torch_private
from etude import config as configs
from etude.errors import UserError
from etude.markdown import block
from etude.package import task_of
from etude.train import checkpoint
from etude.train.checkpoint import State
from etude.train.device import DTYPES, Device

C = TypeVar("C")


def new_folder(package: str) -> Path:
    """runs/PACKAGE/2026-11-22_10-15-03_a3f: sorts by time, and two runs started in one second do not meet."""
    return Path("runs") / package / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{secrets.token_hex(2)[:3]}"


def read_config(folder: Path, config: type[C], flags: list[str] | None = None) -> C:
    """The configuration of the run in `folder`, with `flags` on top.

    Raises UserError if it is no run folder, or one of another task.
    """
    file = folder / "config.yaml"
    if not file.is_file():
        raise UserError(f"{folder} is no run folder: it has no config.yaml")
    name = task_of(folder, "put a copy of it there, or delete it")
    if name not in (None, config.__module__.partition(".")[0].replace("_", "-")):
        raise UserError(
            f"{folder} is a run of {name}: say {name}, in the workspace `uv run --package {name} {name} ...`"
        )
    if not file.read_bytes().endswith(b"\n"):  # what is missing would be taken for left at its default
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

        `again` is the command that goes on with it, `command` the one that trains it alone, if it is in a stack here.
        Raises UserError if the folder cannot be written, holds something else or another configuration, or is in use.
        """
        self.path, self.config, self.device, self.again = path, config, device, again
        self._tb: Any = None
        self._claim: claims.Claim | None = None
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
                    if claims.WORKER in os.environ:  # machines may not see each other's locks
                        self._claim = claims.claim(path)
                    else:
                        files.lock(self._lock)
                        claims.none(path)
                except BlockingIOError as error:
                    where = f"{path} is in use by another process{f' ({error})' * (error.errno is None)}"
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
                for left in path.rglob(".*.tmp"):  # by a kill in the middle of a write
                    left.unlink()
                files.write(path / "environment.json", json.dumps(starts, indent=1).encode())
        except BaseException:
            self._leave()
            raise

    def _leave(self) -> None:
        if self._claim:
            self._claim.close()
        self._lock.close()

    def _writing(self, file: Path) -> AbstractContextManager[None]:
        """Makes a file that cannot be written the user's matter, in one line."""
        if self._claim:
            self._claim.check()
        remedy = f"free some space, or see that it can be written, then {self.again}"
        return files.reported(f"cannot save {file}", f"what was saved before is intact: {remedy}")

    def write(self, name: str, data: bytes) -> None:
        """Writes a file of the run folder, whole or not at all. Raises UserError if it cannot be."""
        if self.device.leads:
            with self._writing(self.path / name):
                files.write(self.path / name, data)

    def save(self, name: str, state: State, keep: bool = False) -> None:
        """Writes checkpoints/NAME.pt whole or not at all; with `keep` the one before stays as NAME.prev.pt."""
        if not self.device.leads:
            return
        file, buffer = self.path / "checkpoints" / f"{name}.pt", io.BytesIO()
        torch.save(checkpoint.compact(state), buffer)
        with self._writing(file):
            files.write(file, buffer.getbuffer(), before=file.with_suffix(".prev.pt") if keep else None)

    def finished(self) -> State | None:
        """The result, if the run has come to its end."""
        needs = {"valid": dict, "epochs": int, "best_epoch": int}
        return files.read_json(self.path / "result.json", dict, "delete it and start the run again", needs)

    def write_rows(self, rows: list[dict[str, Any]]) -> None:
        """metrics.jsonl, one row per epoch; written as a whole, so that no epoch ever stands in it twice."""
        self.write("metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())

    def write_result(self, name: str, result: dict[str, Any]) -> None:
        self.write(name, (json.dumps(result, indent=1) + "\n").encode())

    # -- TensorBoard

    def open_tensorboard(self, step: int, metric: str) -> None:
        """Starts the event file; what an interrupted start wrote from `step` on is taken back.

        The hyperparameters stand in this directory too, so that the HParams tab and the curves are the same run.
        """
        if not self.device.leads:
            return
        from etude.events import EventFile

        with self._writing(self.path / "tb"):
            self._tb = EventFile(self.path / "tb", step)
        flat = configs.flatten(self.config).items()
        plain = {key: value if isinstance(value, bool | int | float | str) else str(value) for key, value in flat}
        for summary in torch_private.hparams(plain, {metric: None}):
            self._show(0, summary=summary)
        if step == 0:
            self.note("config", block(configs.dump(self.config), "yaml"), 0)
        self.flush()

    def _show(self, step: int, **event: Any) -> None:
        if self._tb is not None:
            self._tb.add(step, **event)

    def scalars(self, values: dict[str, float], step: int) -> None:
        """One event for all `values`: a step's scalars cost one record, not one each."""
        points = [{"tag": tag, "simple_value": value} for tag, value in values.items()]
        self._show(step, summary=torch_private.Summary(value=points))

    def picture(self, tag: str, picture: Image.Image, step: int, when: str | None = None) -> None:
        """Shows a picture in TensorBoard and keeps it as samples/NAME.png; for NAME see `sample_name`."""
        png, (width, height) = pictures.png(picture), picture.size  # encoded once for both
        image = {"width": width, "height": height, "colorspace": 3, "encoded_image_string": png}
        self._show(step, summary=torch_private.Summary(value=[{"tag": tag, "image": image}]))
        self.write(f"samples/{sample_name(tag, when)}.png", png)

    def text(self, tag: str, text: str, step: int, when: str | None = None) -> None:
        """Shows Markdown in TensorBoard and keeps it as samples/NAME.md; for NAME see `sample_name`."""
        self.note(tag, text, step)
        self.write(f"samples/{sample_name(tag, when)}.md", files.encode(text + "\n"))

    def note(self, tag: str, text: str, step: int) -> None:
        """Shows Markdown in TensorBoard only."""
        self._show(step, summary=torch_private.text(tag, text))

    def embedding(
        self,
        tag: str,
        points: torch.Tensor,
        columns: dict[str, list[str]],
        step: int,
        thumbnails: torch.Tensor | None = None,
    ) -> None:
        """Shows points, float [N, D], in TensorBoard's projector; each is labelled by its entry of every column.

        With `thumbnails`, uint8 [N, 3, H, W], each is shown as its picture; see `etude.pictures.sprite` for how many.
        """
        if self._tb is None:
            return
        from google.protobuf.text_format import MessageToString
        from tensorboard.plugins.projector import ProjectorConfig

        rows = points.tolist()
        labels = [label for _, label in zip(rows, zip(*columns.values(), strict=True), strict=True)]
        # The projector reads names of columns only where there are several.
        content = {
            "tensors.tsv": table(rows),
            "metadata.tsv": table([columns, *labels] if len(columns) > 1 else labels),
        }
        if thumbnails is not None:
            count, _, height, width = thumbnails.shape
            if count != len(rows):
                raise ValueError(f"there are {count:,} thumbnails of {len(rows):,} points")
            content[f"sprite-{width}x{height}.png"] = pictures.png(pictures.sprite(thumbnails))
        place = f"tb/{step:05d}/{quote(tag, safe='')}"
        with self._writing(self.path / place):
            (self.path / place).mkdir(parents=True, exist_ok=True)
        for name, data in content.items():
            self.write(f"{place}/{name}", data)
        shown = ProjectorConfig()
        for file in sorted((self.path / "tb").glob("*/*/tensors.tsv")):  # those of earlier starts, too
            at, what = file.parts[-3:-1]
            paths = {"tensor_path": f"{at}/{what}/tensors.tsv", "metadata_path": f"{at}/{what}/metadata.tsv"}
            one = shown.embeddings.add(tensor_name=f"{unquote(what)}:{at}", **paths)
            for sheet in file.parent.glob("sprite-*.png"):
                one.sprite.image_path = f"{at}/{what}/{sheet.name}"
                one.sprite.single_image_dim[:] = map(int, sheet.stem.removeprefix("sprite-").split("x"))
        self.write("tb/projector_config.pbtxt", MessageToString(shown).encode())

    def graph(self, model: torch.nn.Module, example: torch.Tensor) -> None:
        """Shows what the model computes for an example batch."""
        plain = copy.deepcopy(model)
        torch_private.uncompiled(plain)
        with warnings.catch_warnings():  # it is made by torch.jit.trace, deprecated with no successor for this
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            graph, _ = torch_private.graph(plain, example)
        self._show(0, graph_def=graph.SerializeToString())

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
            self._leave()


def now_and_then(when: str) -> bool:
    """Whether to show what takes long: before training, after epochs 1, 2, 4, 8, ..., and at the end."""
    return not when.startswith("epoch ") or int(when.removeprefix("epoch ")).bit_count() == 1


def sample_name(tag: str, when: str | None) -> str:
    """The name of a file in samples/, by which a report knows when it was shown (`etude.report.read.samples`).

    ("worst mistakes", None), ("board", "before"), ("board", "epoch 3"), ("board", "after") ->
    worst-mistakes, board-epoch-000, board-epoch-003, board-end
    """
    ends = {None: "", "before": "-epoch-000", "after": "-end"}
    end = ends[when] if when is None or when in ends else f"-epoch-{int(when.removeprefix('epoch ')):03d}"
    return tag.replace(" ", "-") + end


def table(rows: Iterable[Iterable[Any]]) -> bytes:
    """Lines of cells with tabs between them; a cell itself has neither."""
    return files.encode("".join("\t".join(" ".join(str(cell).split()) for cell in row) + "\n" for row in rows))


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


def refuse_unfinished(folder: Path) -> None:
    """Raises UserError for a run that is still trained, or was stopped: what starts from it would start half-way."""
    if not (folder / "result.json").is_file():
        raise UserError(f"{folder} has not finished its training; go on with it, train --run {folder}, and start then")


def compare_data(folder: Path, kept: Any, found: Mapping[str, str], remedy: str = "give --run another folder") -> None:
    """Raises UserError unless the data are those of which the run in `folder` `kept` the fingerprints."""
    if not kept:  # in a run of before there were any
        unknown = "whether the data have changed since cannot be checked"
        print(f"{folder} does not say what it was trained on: {unknown}", file=sys.stderr)
    elif parts := [part for part, fingerprint in found.items() if kept.get(part) != fingerprint]:
        told = f"{folder} was trained on other data, which have changed since under the same name"
        raise UserError(f"{told} (part {', '.join(parts)}): put them back as they were, or {remedy}")


def git_commit() -> str | None:
    """The commit of the repository around the code that runs, "+" if changed since; None outside one."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--exclude=*", "--abbrev=12", "--dirty=+"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
