"""The verbs that every task has; `PACKAGE --help` lists them. No torch is imported before a verb needs it."""

import io
import json
import os
import re
import shlex
import shutil
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import replace
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

from etude import claims, files
from etude import config as configs
from etude.arguments import Parser
from etude.errors import UserError
from etude.package import Package
from etude.signals import Stopped, end_with

VERBS = {
    "train": "Train a model.",
    "evaluate": "Score a checkpoint of a run on the test part of the data.",
    "predict": "Apply the best checkpoint of a run to inputs.",
    "embed": "Write what the best checkpoint of a run makes of inputs, as vectors.",
}
COMPLETION = "--tyro-print-completion"  # the name that tyro's users know
SHELLS = ("bash", "zsh", "fish")
TRACKERS = ("mlflow", "wandb", "trackio")


def command(package: Package, called: str) -> Callable[..., int]:
    """The command of a package, for its __main__.py, which gives its own name: `python -m PACKAGE` runs it at once."""
    if called == "__main__":
        sys.exit(main(package))
    return partial(main, package)


def main(package: Package, argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 0, 2 for a mistake of the user, 130 or 143 after a signal."""
    yield_when_waiting()
    if worker := os.environ.get(claims.WORKER):
        end_with(int(worker))
    words = sys.argv[1:] if argv is None else argv
    verbs = {"train": train, "evaluate": evaluate, "predict": predict, "embed": embed}
    if not package.embeds:
        del verbs["embed"]
    files.mend_streams()
    try:
        try:
            if words == ["together"]:  # what a study starts: no verb for people, as it reads what to do from stdin
                return together(package)
            more = {} if words and words[0] in verbs else added(package)
            if not words or words[0] in ("-h", "--help"):
                told = [f"  {name:10}{about}" for name, about in abouts(verbs, more).items()]
                end = f"VERB --help tells more; {COMPLETION} SHELL prints what completes all this."
                print(f"usage: {package.name} VERB ...", "", *told, "", end, sep="\n")
                return 0 if words else 2
            if words[0] == COMPLETION:
                return completion(package, abouts(verbs, more), words[1:])
            if words[0] in more:
                return int(more[words[0]].load()(package, list(words[1:]), invocation(package)))
            if words[0] not in verbs:
                known = [*verbs, *more]
                raise UserError(f"there is no {words[0]!r} in {package.name}: {configs.similar(words[0], known)}")
            return verbs[words[0]](package, list(words[1:]))
        finally:
            sys.stdout.flush()  # here, where it can be told that it fails
    except UserError as error:
        say_error(package, str(error))
        return 2
    except SystemExit as end:  # of --help
        return int(end.code or 0)
    except KeyboardInterrupt:
        return 130
    except files.Unsaid as error:
        if not error.gone:
            say_error(package, f"its output cannot be written ({error}): give it another place")
        return 141 if error.gone else 2  # gone: the reader of our output, such as `head`
    finally:
        files.give_up_what_is_unsaid()


def added(package: Package) -> dict[str, EntryPoint]:
    """The verbs that other distributions add, as entry points of the group `etude.verbs`: etude-study adds `study`.

    Those of one task alone are in the group `etude.verbs.MODULE`, as `neighbours` in etude.verbs.qa_category. Each is a
    function of the package, its words, and how the command was called; its docstring begins with its help.
    """
    groups = (entry_points(group=group) for group in ("etude.verbs", f"etude.verbs.{package.module}"))
    return {entry.name: entry for group in groups for entry in sorted(group, key=attrgetter("name"))}


def abouts(verbs: Iterable[str], more: Mapping[str, EntryPoint]) -> dict[str, str]:
    """What each verb does, in a sentence."""
    told = VERBS | {name: str(verb.load().__doc__).partition("\n")[0] for name, verb in more.items()}
    return {name: told[name] for name in [*verbs, *more]}


def completion(package: Package, verbs: Mapping[str, str], words: Sequence[str]) -> int:
    """Prints what completes verbs, the flags of `train` and `evaluate` and their words in a shell; tyro writes it.

    Of the other verbs no flag is known before they run: there, and wherever else nothing is, files are completed.
    """
    if len(words) != 1 or words[0] not in SHELLS:
        raise UserError(f"{COMPLETION} takes the shell: {', '.join(SHELLS)}")
    import tyro

    def other() -> None:
        pass

    takes: dict[str, Any] = dict.fromkeys(verbs, other)
    beside = {
        "run": (Path, "the run's folder"),
        "track": (Literal[TRACKERS], "a tracker that is sent what it says"),
    }
    takes |= {"train": configs.listed(package.config, **beside), "evaluate": configs.listed(package.config)}
    script = io.StringIO()
    with redirect_stdout(script), suppress(SystemExit):  # as after --help
        given = ["--tyro-print-completion", words[0]]
        tyro.extras.subcommand_cli_from_dict(takes, prog=package.name, args=given)
    print(with_files(script.getvalue()), end="")
    return 0


def with_files(script: str) -> str:
    """What tyro writes to complete words in a shell, mended: where it offers nothing, the shell offers files.

    So it does for all words of the verbs whose flags are not known, and for RUN, the first word of `evaluate`. Bash
    does that itself, as what tyro asks of it joins the words that stand before the one to complete.
    """
    offered = "get_completions(words, current_index, COMPLETION_SPEC)"
    known = "(current_index < 2 or words[1] == 'train' or words[1] == 'evaluate' and current_index > 2)"
    script = script.replace(offered, f"({known} and {offered}) or ['__TYRO_COMPLETE_FILES__']")
    script = script.replace('COMPREPLY=($(compgen -f -- "$cur"))', "COMPREPLY=()")
    return re.sub("^( *complete) -F", r"\1 -o default -F", script, flags=re.M)


def say_error(package: Package, line: str) -> None:
    with suppress(files.Unsaid):
        print(f"{package.name}: {line}", file=sys.stderr, flush=True)


def yield_when_waiting() -> None:
    """Lets threads that wait for each other sleep, unless the user has said how they wait.

    By default they spin, which takes time from the very threads they wait for where other processes want the cores:
    six busy neighbours on two cores made training four times as slow as the fair share (benchmarks/busy.py).
    """
    if "torch" not in sys.modules and not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & os.environ.keys():
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # OpenMP reads it as torch is loaded


def invocation(package: Package) -> str:
    """How the command was called, to be called again."""
    if "UV_RUN_RECURSION_DEPTH" in os.environ:  # below `uv run` the command is not on the PATH
        return f"uv run --package {package.name} {package.name}"
    if sys.argv[0].endswith("__main__.py"):
        return f"python -m {package.module}"
    if Path(sys.argv[0]).name == package.name and not shutil.which(package.name):  # as below uvx
        return f"{shlex.quote(sys.executable)} -m {package.module}"
    return package.name


def train(package: Package, words: list[str]) -> int:
    """Trains a model in a run folder; goes on where an earlier start of the same run stopped."""
    takes = Parser(f"{package.name} train", VERBS["train"], add_help=False)  # the help lists the flags: it is tyro's
    takes.add_argument("--run", metavar="DIR", type=files.given)
    takes.add_argument("--track", choices=TRACKERS)
    takes.also("[CONFIG ...] [--flag value ...]")
    given, flags = takes.parse_known_args(words)
    path: Path | None = given.run
    follow = next((entry.load() for entry in entry_points(group="etude.beside")), None) if given.track else None
    if given.track and follow is None:
        raise UserError("--track needs etude-track, which is not installed: uv sync --all-packages")
    beside = follow(package.module, given.track) if follow else None
    if path and (path / "config.yaml").is_file():
        flags = [str(path / "config.yaml"), *flags]
    presets = ", ".join(configs.presets(package.module)) or "there is none"
    about = (
        f"{takes.description} A CONFIG is a YAML file of flags or a preset ({presets}). "
        "--run DIR names the run's folder; a run that is there goes on. --track TO: a tracker is sent what it says.\n\n"
        "Most used: --data, --fit.epochs, --fit.lr, --fit.batch-size, --fit.seed. For example\n"
        f"    {takes.prog} --fit.epochs 5 --run runs/short\n    {takes.prog} {package.next_step}"
    )
    usage = f"{takes.prog} [CONFIG ...] [--run DIR] [--track TO]"
    config: Any = configs.parse(package.config, flags, package=package.module, prog=usage, description=about)

    import torch

    from etude.train import device, loop, run, threads
    from etude.train.task import summary

    begun = run.first_start(path) if path and (path / "config.yaml").is_file() else {}
    where = device.choose(config.fit, begun.get("precision", ""))
    torch.manual_seed(config.fit.seed)
    try:
        task = package.task.make(config, where.where)
    except UserError as error:  # such as what it started from, which is gone
        raise UserError(f"{path} cannot go on: {error}" if begun else str(error)) from None
    where, shared = threads.choose(task, config.fit, where, begun)
    path = where.agree(path or run.new_folder(package.name))
    call = invocation(package)
    one = run.Run(path, config, where, again=f"go on with: {call} train --run {shlex.quote(str(path))}")
    where.agree(None)  # that the folder is there

    def say(line: str) -> None:
        if where.leads:
            print(line, flush=True)

    say(f"run      {one.path}\ndata     {task.data}\nmodel    {summary(task)}\ndevice   {where.told}")
    if shared:
        say(f"threads  {shared}")
    if beside and where.leads:
        say(f"track    {beside.start(one.path)}")
    try:
        done = one.finished()
        if done:
            run.compare_data(path, run.trained_on(path), task.fingerprints)
        result = done or loop.fit(task, config.fit, one, where)
    except Stopped as stopped:
        say(f"stopped by {stopped}; {one.again}")
        return stopped.code
    finally:
        one.close()
        if beside and where.leads:
            say(f"track    {beside.end()}")
    score = result["valid"].get(task.metric)
    if not isinstance(score, int | float):
        raise UserError(f"{path}/result.json has no {task.metric}: delete it and start the run again")
    how = "already finished" if done else f"took {result['seconds']:.0f} s"
    say(f"done     validation {task.metric} {score:.4f}, epoch {result['best_epoch']} of {result['epochs']}; {how}")
    before = call.rpartition(" ")[0]
    board = f"{before} tensorboard{'.main' * before.endswith('-m')}".strip()
    say(f"watch    {board} --logdir {shlex.quote(str(one.path.parent))}")
    say(f"test     {call} evaluate {shlex.quote(str(one.path))}")
    done_that = set(package.next_step.split()) <= set(words)
    say(f"next     {call} {'study --help' if done_that else f'train {package.next_step}'}")
    return 0


def together(package: Package) -> int:
    """Does for a study what it asks for on stdin, in one process: {verb: train | evaluate, answer, runs, faster}.

    A run is {folder, flags, command}, the last being that which does the same for this run alone. Every run says what
    it says in its own log.txt. To the file `answer` goes one JSON object: which runs were `left`, to be trained alone,
    and why, and which `failed`.
    """
    from etude.stacked import runs as stacked

    asked = json.load(sys.stdin)
    unfinished = stacked.Unfinished(lambda line: print(line, flush=True))
    if asked["verb"] == "evaluate":
        for folder in (one["folder"] for one in asked["runs"]):
            with files.open_log(Path(folder) / "log.txt") as log, redirect_stdout(log), redirect_stderr(log):
                if main(package, ["evaluate", folder]) != 0:
                    unfinished.failed.append(folder)
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
            unfinished = stacked.train(wanted, package.task.make, unfinished.say, asked.get("faster", False))
        except Stopped as stopped:
            return stopped.code
    files.write(Path(asked["answer"]), json.dumps({"left": unfinished.left, "failed": unfinished.failed}).encode())
    return 0


def evaluate(package: Package, words: list[str]) -> int:
    """Scores a checkpoint of a run on the test part; the last line of the output is one JSON object.

    The scores of the best checkpoint on the run's own data are also kept, in the run's test.json, and the evidence by
    which a study judges them in test-blocks.json; what was answered for each example, where a package has that, in its
    results.json, and pictures in its samples. What was answered otherwise, only `--out` keeps.
    """
    other = "The flags are those of `train`, such as --data X to score other data."
    takes = Parser(f"{package.name} evaluate", VERBS["evaluate"], other)
    takes.add_argument("run", metavar="RUN", help="the run folder, or an exported model")
    takes.add_argument("--checkpoint", choices=("best", "last"), help="which of the run's two; best if not given")
    if package.results:
        takes.add_argument("--out", metavar="FILE", help="where the answers go, as JSON")
    takes.also("[--flag value ...]")
    given, flags = takes.parse_known_args(words)
    if flags and words.index(flags[0]) < words.index(given.run):  # what argparse takes for RUN is the value of a flag
        takes.error(f"RUN comes before {flags[0]}")

    import torch

    from etude import pictures, tested
    from etude.train import checkpoint, device, evidence, run, step

    folder, name, own = run_folder(package, given.run), given.checkpoint or "best", not flags and not given.checkpoint
    config: Any = run.read_config(folder, package.config, flags)
    refuse_other_model(folder, run.read_config(folder, package.config), config)
    mark = tested.mark(folder, name)  # before it is read: if the run saves a better one meanwhile, that is not scored
    state = checkpoint.read(folder, name)
    where = device.choose(config.fit, run.first_start(folder).get("precision", ""))  # as it was trained and validated
    task = package.task.restore(config, state["assets"], where.where)
    checkpoint.fill(task.model, state, folder)
    compare_data(package, folder, state, task, flags)
    where.place(task.model)
    totals = step.evaluate(task, "test", where, config.fit.batch_size)
    if where.leads:
        text, scores = package.task.describe(task, totals)
        epoch = state.get("epoch") if name == "best" else len(state["progress"]["rows"])
        scores = {**scores, tested.MARK: {"epoch": epoch, **mark}}
        print(f"run      {folder}, {name} checkpoint, epoch {epoch}")
        print(f"data     {task.data}, test part\ndevice   {where.told}\n{text}")
        if own:
            with suppress(OSError):  # what stands there may be of another checkpoint: not to stand beside new results
                (folder / "test.json").unlink()
            without = partial(package.task.without, task, totals) if package.without else None
            keep(folder / tested.BLOCKS, evidence.of(task, where, config.fit.batch_size, scores, without))
        if package.results:
            results = package.task.results(task, totals)
            if given.out:
                files.put(given.out, json.dumps(results).encode())
            kept = own and keep(folder / "results.json", results)
            if given.out or kept:
                print(f"results  {given.out or folder / 'results.json'}")
        if package.illustrates and own:
            task.model.eval()
            with torch.inference_mode(), where.autocast():
                found = package.task.illustrate(task, totals)
            when = None if epoch is None else f"epoch {epoch}"  # a run that goes on may keep a better one
            for tag, picture in found.items():
                file = folder / "samples" / f"{run.sample_name(tag, when)}.png"
                if keep(file, pictures.png(picture)):
                    print(f"picture  {file}")
        if own:
            keep(folder / "test.json", scores)
        print(json.dumps(scores), flush=True)
    return 0


def refuse_other_model(folder: Path, trained: Any, asked: Any) -> None:
    """Raises UserError if flags ask for another model or tokenizer than the run's, which comes from its checkpoint."""
    kept = ("model.", "text.tokenizer", "text.vocabulary", "text.pretrained")
    other = [line for line in configs.differences(trained, asked) if line.startswith(kept)]
    if other:
        leave = ", ".join(f"--{line.partition(':')[0]}" for line in other)
        what = "model" if other[0].startswith("model.") else "tokenizer"
        raise UserError(f"{folder} was trained with another {what} ({'; '.join(other)}): leave {leave} out")


def compare_data(package: Package, folder: Path, state: dict[str, Any], task: Any, flags: list[str]) -> None:
    """Raises UserError if what is to be scored bears the name of the run's data, but is not what it was trained on.

    Flags that say which data, or how they are divided, ask for others. With flags of the task otherwise the test part
    has to be the same; else all parts, as what `describe` compares with may be learnt from the training part.
    """
    from etude.train import run

    given = {setting.name for setting in configs.settings(flags, configs.knobs(package.config))}
    if any(name == "fit.seed" or name.split(".")[0] == "data" for name in given):
        return
    found = dict(task.fingerprints)
    if any(not name.startswith("fit.") for name in given):
        found = {"test": found["test"]}
    run.compare_data(folder, state.get("fingerprints"), found, "give --data ... to score other data")


def run_folder(package: Package, given: str) -> Path:
    """The run folder that is meant: itself or, of an exported model or the address of one, what etude-export makes."""
    folder = files.given(given)
    if not files.is_address(given) and ((folder / "config.yaml").exists() or not (folder / "config.json").exists()):
        return folder
    for entry in entry_points(group="etude.models"):
        return Path(entry.load()(package, given))
    raise UserError(f"{given} is an exported model; what reads it is not installed: uv sync --all-packages")


def inputs_of(takes: Parser, words: list[str]) -> Namespace:
    """What a verb takes: RUN, INPUT ..., and what was declared before. What stands after `--` is all input."""
    takes.add_argument("run", metavar="RUN", help="the run folder, or an exported model")
    takes.add_argument("inputs", metavar="INPUT", nargs="*", help="one that begins with dashes comes after --")
    takes.also("[-- INPUT ...]")
    end = words.index("--") if "--" in words else len(words)  # by hand: argparse does it otherwise in every version
    given = takes.parse_intermixed_args(words[:end])
    given.inputs += words[end + 1 :]
    if not given.inputs:
        takes.error("give the run folder and at least one input")
    return given


def predict(package: Package, words: list[str]) -> int:
    """Applies the best checkpoint of a run to inputs; needs nothing but the run folder."""
    takes = Parser(f"{package.name} predict", VERBS["predict"])
    takes.add_argument("--out", metavar="FILE", help="where the output goes, instead of to the screen")
    known = configs.knobs(package.options) if package.options else {}
    for name, kind in known.items():
        takes.add_argument(f"--{name}", dest=name, metavar="X", help=configs.describe(kind))
    given = inputs_of(takes, words)
    flags = [f"--{name}={value}" for name in known if (value := getattr(given, name)) is not None]
    options = dict(vars(configs.parse(package.options, flags))) if package.options else {}
    if given.out is None and files.is_closed(sys.stdout):
        raise UserError("there is no standard output to write to: give --out FILE")

    import torch

    task = restored(package, run_folder(package, given.run))
    with torch.inference_mode():
        lines = package.task.predict(task, given.inputs, **options)
    text = "".join(line + "\n" for line in lines)
    if given.out is None:
        sys.stdout.write(text)
    else:
        files.put(given.out, files.encode(text))
    return 0


def embed(package: Package, words: list[str]) -> int:
    """Writes what the best checkpoint of a run makes of inputs as a NumPy array, float32 [N, D]."""
    takes = Parser(f"{package.name} embed", VERBS["embed"])
    takes.add_argument("--out", metavar="FILE.npy", required=True, help="where the vectors go, one for each input")
    given = inputs_of(takes, words)

    import numpy as np
    import torch

    task = restored(package, run_folder(package, given.run))
    with torch.inference_mode():
        vectors = package.task.embed(task, given.inputs)
    content = io.BytesIO()
    np.save(content, vectors, allow_pickle=False)
    files.put(given.out, content.getvalue())
    print(f"{given.out}: {vectors.shape[0]:,} vectors of {vectors.shape[1]} numbers, {vectors.dtype}", file=sys.stderr)
    return 0


def restored(package: Package, folder: Path) -> Any:
    """The task of a run's best checkpoint, without data, in evaluation mode."""
    from etude.train import checkpoint, device, run

    config: Any = run.read_config(folder, package.config)
    state = checkpoint.read(folder)
    task = package.task.restore(config, state["assets"])
    checkpoint.fill(task.model, state, folder)
    # Where it was trained does not matter here: a model from a GPU predicts on a laptop.
    device.choose(replace(config.fit, device="auto", precision="auto")).place(task.model)
    task.model.eval()
    return task


def keep(file: Path, content: Any) -> bool:
    """Writes bytes, or else JSON, to a run folder; if that cannot be, says so, and that it was not."""
    data = content if isinstance(content, bytes) else (json.dumps(content) + "\n").encode()
    try:
        file.parent.mkdir(exist_ok=True)
        files.write(file, data)
    except OSError as error:
        print(f"{file} is not written: {files.why(error)}", file=sys.stderr)
        return False
    return True
