"""The verbs that every task has: train, evaluate, predict, study, report. No torch is imported before a verb needs it.

PACKAGE train [CONFIG.yaml] [--flags] [--run DIR]
PACKAGE evaluate RUN [--data X] [--out FILE]     --out where a task writes results
PACKAGE predict RUN INPUT ... [--out FILE] [-- INPUT ...]
PACKAGE embed RUN INPUT ... --out FILE.npy       where a task makes vectors
PACKAGE study NAME|FILE.yaml
PACKAGE report RUN|STUDY ... [--out DIR]
"""

import importlib
import io
import json
import os
import shlex
import sys
import typing
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from etude import config as configs
from etude.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from torch import device as TorchDevice

    from etude.loop import Task, Totals


class TaskModule(Protocol):
    """What the module `task` of a package defines; imported only when a verb needs it."""

    def make(self, config: Any, where: "TorchDevice") -> "Task":
        """The task with its data, which may be kept on the device `where`; the model freshly initialised."""
        ...

    def restore(self, config: Any, assets: dict[str, Any], where: "TorchDevice | None" = None) -> "Task":
        """The task of a checkpoint, from what it kept (`Task.assets`): what was learnt, learns nothing anew.

        With `where`, to be scored: with the data that `config` names, of which the part "test" is asked for, and which
        may be kept there. Without, to predict: no data, and no `data` and `summary` either.
        Raises UserError if assets and data do not fit.
        """
        ...

    def describe(self, task: "Task", totals: "Totals") -> tuple[str, dict[str, Any]]:
        """What `evaluate` says of a part of the data: a text for people, and the JSON object of the last line.

        The object has the scores of `Task.scores` under the same names: a study reads its metric there.
        """
        ...

    def results(self, task: "Task", totals: "Totals") -> Any:
        """What was answered for each example, as JSON, for `evaluate` to write; where the package has `results`."""
        ...

    def predict(self, task: "Task", inputs: list[str], **options: Any) -> list[str]:
        """The lines of the output; the model is on its device, in evaluation mode, without gradients.

        `options` are the fields of the package's `options`.
        """
        ...

    def embed(self, task: "Task", inputs: list[str]) -> "np.ndarray":
        """A vector for each input, float32 [N, D], in order; only where the package `embeds`."""
        ...


@dataclass(frozen=True)
class Package:
    """A task package, as its __main__.py describes it."""

    name: str
    """of the distribution and the command, such as cnn-emnist"""
    config: type
    """its configuration: a dataclass with a field `fit: Fit`"""
    next_step: str
    """the flags that `train` suggests to try after it, such as --data emnist-letters"""
    number: int = 0
    """its place among the tasks that are handed in: `report` writes taskN.ipynb"""
    small: str = "--fit.epochs 2"
    """the flags of the small run that the notebook of `report` trains before its reader's eyes"""
    options: type | None = None
    """what `predict` can be told: a dataclass, each field a flag"""
    embeds: bool = False
    """whether it has the verb `embed`"""
    results: bool = False
    """whether `evaluate` writes what was answered for each example"""

    @property
    def module(self) -> str:
        return self.name.replace("-", "_")

    @property
    def task(self) -> TaskModule:
        return cast(TaskModule, importlib.import_module(f"{self.module}.task"))


def main(package: Package, argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 0, 2 for a mistake of the user, 130 or 143 after a signal."""
    yield_when_waiting()
    words = sys.argv[1:] if argv is None else argv
    verbs = {"train": train, "evaluate": evaluate, "predict": predict, "study": study, "report": report}
    if package.embeds:
        verbs["embed"] = embed
    if words == ["together"]:  # what a study starts: no verb for people, as it reads what to do from stdin
        return together(package)
    try:
        if not words or words[0] in ("-h", "--help"):
            print(usage(package))
            return 0 if words else 2
        if words[0] not in verbs:
            raise UserError(f"there is no {words[0]!r} in {package.name}: {configs.similar(words[0], verbs)}")
        return verbs[words[0]](package, list(words[1:]))
    except UserError as error:
        print(f"{package.name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output, such as `head`, has gone
        sys.stderr.close()
        return 141


def yield_when_waiting() -> None:
    """Lets threads that wait for each other sleep, where the user has not said how they wait.

    By default they spin, for milliseconds: libgomp 300,000 times, libomp 200 ms. Where other processes want the cores,
    the time slice that should bring the awaited thread forward is spent on waiting for it: six busy neighbours on two
    cores made training four times as slow as the fair share (benchmarks/busy.py). OpenMP reads this as torch is loaded.
    """
    if "torch" not in sys.modules and not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & os.environ.keys():
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def invocation(package: Package) -> str:
    """How the command was called, to be called again."""
    if "UV_RUN_RECURSION_DEPTH" in os.environ:  # below `uv run` the command is not on the PATH
        return f"uv run --package {package.name} {package.name}"
    return f"python -m {package.module}" if sys.argv[0].endswith("__main__.py") else package.name


def usage(package: Package) -> str:
    name = package.name
    vectors = f"       {name} embed RUN INPUT ... --out FILE.npy           what it makes of them, as vectors"
    return "\n".join(
        [
            f"usage: {name} train [CONFIG.yaml] [--flags] [--run DIR]     train a model; --help lists the flags",
            f"       {name} evaluate RUN [--data X] [--checkpoint last]  score the best (or last) one on the test part",
            f"       {name} predict RUN INPUT ... [--out FILE]           apply it",
            *([vectors] if package.embeds else []),
            f"       {name} study NAME|FILE.yaml [--jobs N]              a question to many runs; --help lists them",
            f"       {name} report RUN|STUDY ... [--out DIR]             a page, a notebook and the logs, to show",
        ]
    )


def train(package: Package, words: list[str]) -> int:
    """Trains a model in a run folder; goes on where an earlier start of the same run stopped."""
    folder = configs.take(words, "--run")
    path = Path(folder) if folder else None
    if path and (path / "config.yaml").is_file():
        words = [str(path / "config.yaml"), *words]
    presets = sorted(p.stem for p in Path(str(resources.files(package.module))).glob("configs/*.yaml"))
    description = (
        f"Train {package.name}. Before the flags may come CONFIG.yaml: a file of flags, or one of the presets "
        f"{', '.join(presets)}. --run DIR names the run's folder; an existing one goes on where it stopped."
    )
    config: Any = configs.parse(
        package.config, words, package=package.module, prog=f"{package.name} train", description=description
    )

    import torch

    from etude import device, loop, run, threads

    begun = run.first_start(path) if path else {}
    where = device.choose(config.fit, begun.get("precision", ""))
    torch.manual_seed(config.fit.seed)
    task = package.task.make(config, where.where)
    where, shared = threads.choose(task, config.fit, where, begun)
    path = where.agree(path or run.new_folder(package.name))
    call = invocation(package)
    one = run.Run(path, config, where, again=f"go on with: {call} train --run {shlex.quote(str(path))}")
    where.wait()  # until the folder is there

    def say(line: str) -> None:
        if where.leads:
            print(line, flush=True)

    say(f"run      {one.path}\ndata     {task.data}\nmodel    {task.summary}\ndevice   {where.told}")
    if shared:
        say(f"threads  {shared}")
    try:
        done = one.finished()
        result = done or loop.fit(task, config.fit, one, where)
    except loop.Stopped as stopped:
        say(f"stopped by {stopped}; {one.again}")
        return stopped.code
    finally:
        one.close()
        where.leave()
    score = result["valid"][task.metric]
    how = "already finished" if done else f"took {result['seconds']:.0f} s"
    say(f"done     validation {task.metric} {score:.4f}, epoch {result['best_epoch']} of {result['epochs']}; {how}")
    board = "tensorboard" if call == package.name else f"{call.rpartition(' ')[0]} tensorboard"
    say(f"watch    {board} --logdir {shlex.quote(str(one.path.parent))}")
    say(f"test     {call} evaluate {shlex.quote(str(one.path))}")
    say(f"next     {call} train {package.next_step}")
    return 0


def together(package: Package) -> int:
    """Does for a study what it asks for on stdin, {verb: train | evaluate, runs: [{folder, flags}]}, in one process.

    Every run says what it says in its own log.txt. The last line of the output is one JSON object: which runs were
    `left`, to be trained alone, and why, and which `failed`.
    """
    from etude import loop, many

    asked = json.load(sys.stdin)
    outcome = many.Outcome()
    if asked["verb"] == "evaluate":
        for one in asked["runs"]:
            log = (Path(one["folder"]) / "log.txt").open("a", encoding="utf-8")
            with log, redirect_stdout(log), redirect_stderr(log):
                if main(package, ["evaluate", one["folder"]]) != 0:
                    outcome.failed.append(one["folder"])
    else:
        call = invocation(package)
        wishes = [
            many.Wish(
                configs.parse(package.config, one["flags"], package=package.module),
                Path(one["folder"]),
                f"go on with: {call} train --run {shlex.quote(one['folder'])}",
            )
            for one in asked["runs"]
        ]
        try:
            outcome = many.train(wishes, package.task.make, lambda line: print(line, flush=True))
        except loop.Stopped as stopped:
            return stopped.code
    print(json.dumps({"left": outcome.left, "failed": outcome.failed}), flush=True)
    return 0


def evaluate(package: Package, words: list[str]) -> int:
    """Scores a checkpoint of a run on the test part; the last line of the output is one JSON object.

    The scores of the best checkpoint on the run's own data are also kept, in the run's test.json; what was answered for
    each example, where a package has that, in its results.json or the file `--out`.
    """
    usage = f"usage: {package.name} evaluate RUN [--data X] [--checkpoint best|last]"
    usage += " [--out FILE.json]" if package.results else ""
    if any(word in ("-h", "--help") for word in words):
        print(usage)
        return 0
    chosen = configs.take(words, "--checkpoint")
    out = configs.take(words, "--out") if package.results else None
    if not words or words[0].startswith("-") or chosen not in (None, "best", "last"):
        raise UserError(usage)

    from etude import device, loop, run

    folder, flags = Path(words[0]), words[1:]
    config: Any = run.read_config(folder, package.config, flags)
    state = run.checkpoint(folder, chosen or "best")
    where = device.choose(config.fit)
    task = package.task.restore(config, state["assets"], where.where)
    run.fill(task.model, state, folder)
    where.place(task.model)
    totals = loop.evaluate(task, "test", where, config.fit.batch_size)
    if where.leads:
        text, scores = package.task.describe(task, totals)
        print(f"run      {folder}, {chosen or 'best'} checkpoint")
        print(f"data     {task.data}, test part\ndevice   {where.told}\n{text}")
        if not flags and not chosen:
            keep(folder / "test.json", scores)
        if package.results:
            results = package.task.results(task, totals)
            if out:
                put(out, json.dumps(results).encode())
            if out or keep(folder / "results.json", results):
                print(f"results  {out or folder / 'results.json'}")
        print(json.dumps(scores), flush=True)
    where.leave()
    return 0


def predict(package: Package, words: list[str]) -> int:
    """Applies the best checkpoint of a run to inputs; needs nothing but the run folder.

    What stands after `--` is input, even if it begins with dashes.
    """
    end = words.index("--") if "--" in words else len(words)
    words, inputs = words[:end], words[end + 1 :]
    out = configs.take(words, "--out")
    known = configs.knobs(package.options) if package.options else {}
    usage = f"{package.name} predict RUN INPUT ... [--out FILE]"
    for name, kind in known.items():
        choices = typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ("X",)
        usage += f" [--{name} {'|'.join(map(str, choices))}]"
    if any(word in ("-h", "--help") for word in words):
        print(f"usage: {usage}")
        return 0
    given = {name: value for name in known if (value := configs.take(words, f"--{name}")) is not None}
    options: Any = configs.parse(package.options, configs.to_flags(given)) if package.options else None
    if odd := next((word for word in words if word.startswith("--")), None):
        raise UserError(f"unknown flag {odd} (an input that begins so comes after --): {usage}")
    inputs = words[1:] + inputs
    if not words or not inputs:
        raise UserError(f"give the run folder and what to predict: {usage}")

    import torch

    task = restored(package, Path(words[0]))
    with torch.inference_mode():
        text = "".join(line + "\n" for line in package.task.predict(task, inputs, **(vars(options) if options else {})))
    if out is None:
        sys.stdout.write(text)
    else:
        put(out, text.encode())
    return 0


def embed(package: Package, words: list[str]) -> int:
    """Writes what the best checkpoint of a run makes of inputs as a NumPy array, float32 [N, D]."""
    usage = f"{package.name} embed RUN INPUT ... --out FILE.npy"
    if any(word in ("-h", "--help") for word in words):
        print(f"usage: {usage}")
        return 0
    out = configs.take(words, "--out")
    if odd := next((word for word in words if word.startswith("--")), None):
        raise UserError(f"unknown flag {odd}: {usage}")
    if out is None or len(words) < 2:
        raise UserError(f"give the run folder, what to embed, and a file for the vectors: {usage}")

    import numpy as np
    import torch

    task = restored(package, Path(words[0]))
    with torch.inference_mode():
        vectors = package.task.embed(task, words[1:])
    content = io.BytesIO()
    np.save(content, vectors, allow_pickle=False)
    put(out, content.getvalue())
    print(f"{out}: {vectors.shape[0]:,} vectors of {vectors.shape[1]} numbers, {vectors.dtype}", file=sys.stderr)
    return 0


def restored(package: Package, folder: Path) -> "Task":
    """The task of a run's best checkpoint, without data, in evaluation mode."""
    from etude import device, run

    config: Any = run.read_config(folder, package.config)
    state = run.checkpoint(folder)
    task = package.task.restore(config, state["assets"])
    run.fill(task.model, state, folder)
    # Where it was trained does not matter here: a model from a GPU predicts on a laptop.
    device.choose(replace(config.fit, device="auto", precision="auto")).place(task.model)
    task.model.eval()
    return task


def keep(file: Path, content: Any) -> bool:
    """Writes JSON to a run folder; if that cannot be, says so, and that it was not."""
    from etude import run

    try:
        run.write(file, (json.dumps(content) + "\n").encode())
    except OSError as error:
        print(f"{file} is not written: {error.strerror}", file=sys.stderr)
        return False
    return True


def put(out: str, content: bytes) -> None:
    from etude import run

    try:
        run.write(Path(out), content)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot write {out!r} ({error}): give --out a file in a folder that is there") from None


def study(package: Package, words: list[str]) -> int:
    from etude import study

    return study.main(package.module, package.name, words, package.config, invocation(package).split())


def report(package: Package, words: list[str]) -> int:
    from etude import report

    return report.main(package, words, invocation(package))
