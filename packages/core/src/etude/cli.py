"""The verbs that every task has: train, evaluate, predict, study, report. No torch is imported before a verb needs it.

PACKAGE train [CONFIG.yaml] [--flags] [--run DIR]
PACKAGE evaluate RUN [--data X] [--out FILE]     --out where a task writes results
PACKAGE predict RUN INPUT ... [--out FILE] [-- INPUT ...]
PACKAGE embed RUN INPUT ... --out FILE.npy       where a task makes vectors
PACKAGE study NAME|FILE.yaml
PACKAGE report RUN|STUDY ... [--out DIR]
"""

import io
import json
import os
import shlex
import sys
import typing
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import replace
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

from etude import config as configs
from etude import files
from etude.errors import UserError
from etude.package import Package
from etude.signals import Stopped
from etude.study.judge import BLOCKS


def main(package: Package, argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 0, 2 for a mistake of the user, 130 or 143 after a signal."""
    yield_when_waiting()
    words = sys.argv[1:] if argv is None else argv
    verbs = {"train": train, "evaluate": evaluate, "predict": predict, "study": study, "report": report}
    if package.embeds:
        verbs["embed"] = embed
    files.mend_streams()
    try:
        try:
            if words == ["together"]:  # what a study starts: no verb for people, as it reads what to do from stdin
                return together(package)
            if not words or words[0] in ("-h", "--help"):
                print(usage(package))
                return 0 if words else 2
            if words[0] not in verbs:
                raise UserError(f"there is no {words[0]!r} in {package.name}: {configs.similar(words[0], verbs)}")
            return verbs[words[0]](package, list(words[1:]))
        finally:
            sys.stdout.flush()  # here, where it can be told that it fails
    except UserError as error:
        say_error(package, str(error))
        return 2
    except KeyboardInterrupt:
        return 130
    except files.Unsaid as error:
        if not error.gone:
            say_error(package, f"its output cannot be written ({error}): give it another place")
        return 141 if error.gone else 2  # gone: the reader of our output, such as `head`
    finally:
        files.give_up_what_is_unsaid()


def say_error(package: Package, line: str) -> None:
    with suppress(files.Unsaid):
        print(f"{package.name}: {line}", file=sys.stderr, flush=True)


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
    path = None if folder is None else files.given(folder)
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

    from etude.train import device, loop, run, threads

    begun = run.first_start(path) if path and (path / "config.yaml").is_file() else {}
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
        if done:
            one.compare_data(run.trained_on(path), task.fingerprints)
        result = done or loop.fit(task, config.fit, one, where)
    except Stopped as stopped:
        say(f"stopped by {stopped}; {one.again}")
        return stopped.code
    finally:
        one.close()
    score = result["valid"].get(task.metric)
    if not isinstance(score, int | float):
        raise UserError(
            f"{path}/result.json cannot be read (it has no {task.metric}): delete it and start the run again"
        )
    how = "already finished" if done else f"took {result['seconds']:.0f} s"
    say(f"done     validation {task.metric} {score:.4f}, epoch {result['best_epoch']} of {result['epochs']}; {how}")
    board = "tensorboard" if call == package.name else f"{call.rpartition(' ')[0]} tensorboard"
    say(f"watch    {board} --logdir {shlex.quote(str(one.path.parent))}")
    say(f"test     {call} evaluate {shlex.quote(str(one.path))}")
    say(f"next     {call} train {package.next_step}")
    return 0


def together(package: Package) -> int:
    """Does for a study what it asks for on stdin, in one process: {verb: train | evaluate, answer, runs}.

    A run is {folder, flags, command}, the last being that which does the same for this run alone. Every run says what
    it says in its own log.txt. To the file `answer` goes one JSON object: which runs were `left`, to be trained alone,
    and why, and which `failed`.
    """
    from etude.stacked import runs as stacked

    asked = json.load(sys.stdin)
    unfinished = stacked.Unfinished(lambda line: print(line, flush=True))
    if asked["verb"] == "evaluate":
        for one in asked["runs"]:
            log = files.open_log(Path(one["folder"]) / "log.txt")
            with log, redirect_stdout(log), redirect_stderr(log):
                if main(package, ["evaluate", one["folder"]]) != 0:
                    unfinished.failed.append(one["folder"])
    else:
        call = invocation(package)
        wanted = [
            stacked.Wanted(
                configs.parse(package.config, one["flags"], package=package.module),
                Path(one["folder"]),
                f"go on with: {call} train --run {shlex.quote(one['folder'])}",
                one["command"],
            )
            for one in asked["runs"]
        ]
        try:
            unfinished = stacked.train(wanted, package.task.make, unfinished.say)
        except Stopped as stopped:
            return stopped.code
    files.write(Path(asked["answer"]), json.dumps({"left": unfinished.left, "failed": unfinished.failed}).encode())
    return 0


def evaluate(package: Package, words: list[str]) -> int:
    """Scores a checkpoint of a run on the test part; the last line of the output is one JSON object.

    The scores of the best checkpoint on the run's own data are also kept, in the run's test.json, and the evidence by
    which a study judges them in test-blocks.json; what was answered for each example, where a package has that, in its
    results.json. What was answered otherwise, only `--out` keeps.
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

    from etude import tested
    from etude.train import device, evidence, run, step

    folder, flags, name = files.given(words[0]), words[1:], chosen or "best"
    config: Any = run.read_config(folder, package.config, flags)
    mark = tested.mark(
        folder, name
    )  # before it is read: if the run saves a better one meanwhile, the scores are not of it
    state = run.checkpoint(folder, name)
    where = device.choose(config.fit)
    task = package.task.restore(config, state["assets"], where.where)
    run.fill(task.model, state, folder)
    compare_data(package, folder, state, task, flags)
    where.place(task.model)
    totals = step.evaluate(task, "test", where, config.fit.batch_size)
    if where.leads:
        text, scores = package.task.describe(task, totals)
        epoch = state.get("epoch") if name == "best" else len(state["progress"]["rows"])
        scores = {**scores, tested.MARK: {"epoch": epoch, **mark}}
        print(f"run      {folder}, {name} checkpoint, epoch {epoch}")
        print(f"data     {task.data}, test part\ndevice   {where.told}\n{text}")
        own = not flags and not chosen
        if own:
            with suppress(OSError):  # what stands there may be of another checkpoint: not to stand beside new results
                (folder / "test.json").unlink()
            without = partial(package.task.without, task, totals) if package.without else None
            keep(folder / BLOCKS, evidence.of(task, where, config.fit.batch_size, scores, without))
        if package.results:
            results = package.task.results(task, totals)
            if out:
                files.put(out, json.dumps(results).encode())
            if out or (own and keep(folder / "results.json", results)):
                print(f"results  {out or folder / 'results.json'}")
        if own:
            keep(folder / "test.json", scores)
        print(json.dumps(scores), flush=True)
    return 0


def compare_data(package: Package, folder: Path, state: dict[str, Any], task: Any, flags: list[str]) -> None:
    """Raises UserError if what is to be scored bears the name of the run's data, but is not what it was trained on.

    Flags that say which data, or how they are divided, ask for others. Without any all parts have to be the same, as
    what `describe` compares with may be learnt from the training part.
    """
    from etude.train import run

    given = [name for name in configs.named(package.config, flags) if not name.startswith("fit.") or name == "fit.seed"]
    if any(name == "fit.seed" or name.split(".")[0] == "data" for name in given):
        return
    kept, found = state.get("fingerprints"), dict(task.fingerprints)
    if not kept:
        print(f"{folder} does not say what it was trained on: whether {run.UNKNOWN}", file=sys.stderr)
    elif parts := run.changed(kept, {"test": found["test"]} if given else found):
        raise UserError(
            f"the data under this name have changed since {folder} was trained on them (part {', '.join(parts)}): "
            "put them back as they were, or give --data ... to score other data"
        )


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
    given = [f"--{name}={value}" for name in known if (value := configs.take(words, f"--{name}")) is not None]
    options: Any = configs.parse(package.options, given) if package.options else None
    if odd := next((word for word in words if word.startswith("--")), None):
        raise UserError(f"unknown flag {odd} (an input that begins so comes after --): {usage}")
    inputs = words[1:] + inputs
    if not words or not inputs:
        raise UserError(f"give the run folder and what to predict: {usage}")
    if out is None and files.is_closed(sys.stdout):
        raise UserError("there is no standard output to write to: give --out FILE")

    import torch

    task = restored(package, files.given(words[0]))
    with torch.inference_mode():
        text = "".join(line + "\n" for line in package.task.predict(task, inputs, **(vars(options) if options else {})))
    if out is None:
        sys.stdout.write(text)
    else:
        files.put(out, files.encode(text))
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

    task = restored(package, files.given(words[0]))
    with torch.inference_mode():
        vectors = package.task.embed(task, words[1:])
    content = io.BytesIO()
    np.save(content, vectors, allow_pickle=False)
    files.put(out, content.getvalue())
    print(f"{out}: {vectors.shape[0]:,} vectors of {vectors.shape[1]} numbers, {vectors.dtype}", file=sys.stderr)
    return 0


def restored(package: Package, folder: Path) -> Any:
    """The task of a run's best checkpoint, without data, in evaluation mode."""
    from etude.train import device, run

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
    try:
        files.write(file, (json.dumps(content) + "\n").encode())
    except OSError as error:
        print(f"{file} is not written: {files.why(error)}", file=sys.stderr)
        return False
    return True


def study(package: Package, words: list[str]) -> int:
    from etude.study import study

    return study.main(package.module, package.name, words, package.scores, package.config, invocation(package).split())


def report(package: Package, words: list[str]) -> int:
    from etude.report import read as report

    return report.main(package, words, invocation(package))
