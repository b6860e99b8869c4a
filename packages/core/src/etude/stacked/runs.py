"""The courses of many runs side by side, whose steps are computed as one; and the runs that a study asks for."""

import ctypes
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any, TextIO

import psutil
import torch

from etude import draw, files
from etude.config import MAX_REPLICAS, Fit
from etude.errors import UserError
from etude.signals import Stopped, watch_signals
from etude.stacked import Unstackable
from etude.stacked.batch import stack_batches
from etude.stacked.proof import Proof
from etude.stacked.stack import Stack, Training, normalise_rows, structure
from etude.train.device import Device, choose
from etude.train.loop import course
from etude.train.run import Run, first_start
from etude.train.step import Learner, Request, Step, Taken
from etude.train.task import Split, Task, summary
from etude.train.totals import Totals

Make = Callable[[Any, torch.device], Task]


class StackedLearner:
    """Computes what the courses of several runs ask for: as `Learner`, for many."""

    def __init__(self, learners: Sequence[Learner], faster: bool = False) -> None:
        """With `faster` the first step raises Unstackable if the steps of all, one by one, take less time."""
        self.stack = Stack(learners)
        self.device = self.stack.device
        self.proof = Proof(self.device, faster)
        self.scored_alone = ""  # why the runs are scored one after the other

    def do(self, learners: Sequence[Learner], requests: Mapping[Learner, Request]) -> Mapping[Learner, Taken | Totals]:
        """Takes a step of all runs that go on, which are `learners`, or scores some of them. Raises Unstackable."""
        if len(learners) != len(self.stack.learners):
            self.stack = Stack(learners)
        steps = [request for request in requests.values() if isinstance(request, Step)]
        if steps:
            return dict(zip(requests, self.train(steps), strict=True))
        if not self.scored_alone:
            try:
                [split] = {request for request in requests.values() if not isinstance(request, Step)}
                return dict(zip(requests, self.score(list(requests), split), strict=True))
            except Exception as error:  # alone it comes again, if it is no matter of stacking
                self.scored_alone = reason(error)
        return {learner: learner.do(request) for learner, request in requests.items()}

    def train(self, steps: Sequence[Step]) -> list[Taken]:
        """Takes an optimiser step of every run."""
        stack, device = self.stack, self.device
        batches, states = {}, []
        for r, (learner, step) in enumerate(zip(stack.learners, steps, strict=True)):
            self.proof.enter(learner, step.epoch)
            device.seed(draw.key(learner.cfg.seed, step.epoch, step.batch, 0))
            batches[r] = learner.task.load("train", step.ids, step.epoch)
            states.append(device.generator().get_state())
        sizes = torch.tensor([float(len(step.ids)) for step in steps], device=device.where, dtype=stack.weights.dtype)
        found = self.compute("train", batches, Training(states, sizes))
        totals = [found[r] for r in batches]
        counts = torch.stack([total.counts["loss"] for total in totals])
        stack.measure()
        norms = normalise_rows(stack.gradient(), sizes, counts, [learner.cfg.clip for learner in stack.learners])
        stack.update([step.lr for step in steps])
        for r, (learner, step) in enumerate(zip(stack.learners, steps, strict=True)):
            if learner.watch:
                learner.watch.end(len(step.ids) / counts[r].clamp(min=1), len(step.ids), stack.units[r])
        return [Taken(total, norm) for total, norm in zip(totals, norms.unbind(), strict=True)]

    @torch.no_grad()
    def score(self, learners: Sequence[Learner], split: Split) -> list[Totals]:
        """The totals of a part of the data for some of the runs."""
        plans = {self.stack.learners.index(x): x.task.plan(split, 0, x.cfg.batch_size) for x in learners}
        if len({len(plan) for plan in plans.values()}) > 1:
            raise Unstackable("its parts have another number of batches in each run")
        totals = {r: Totals() for r in plans}
        for n in range(len(next(iter(plans.values())))):
            batches = {r: self.stack.learners[r].task.load(split, plan[n], 0) for r, plan in plans.items()}
            found = self.compute(split, batches, None)
            for r, total in totals.items():
                total.merge(found[r])
        return list(totals.values())

    def compute(self, split: Split, batches: Mapping[int, Any], training: Training | None) -> dict[int, Totals]:
        """What the steps on these batches return, by the row of the replica; proved where that is due."""
        parts = stack_batches(batches, self.stack.taken, self.device)
        for part in parts:
            self.proof.prove(self.stack, part, split, batches, training)
        found: dict[int, Totals] = {}
        for part in parts:
            found |= self.stack.compute(part, self.device, training)
        return found


def reason(error: Exception) -> str:
    """An error in one line."""
    if isinstance(error, Unstackable):
        return str(error)
    return f"its step cannot be stacked ({type(error).__name__}: {files.reason(error)})"


@dataclass
class Replica:
    """One of the runs that are trained together."""

    learner: Learner
    run: Run
    log: TextIO  # where it says what it says
    result: dict[str, Any] | None = None
    error: UserError | None = None
    requests: Generator[Request, Any, dict[str, Any]] | None = None
    request: Request | None = None
    answer: Taken | Totals | None = None

    def advance(self) -> None:
        """To the next thing that it needs computed; with `result` or `error` it has ended. Raises Stopped."""
        assert self.requests is not None
        self.request = None
        with redirect_stdout(self.log), redirect_stderr(self.log):
            try:
                self.request = self.requests.send(self.answer)
            except StopIteration as end:
                self.result = end.value
            except UserError as error:
                self.error = error
                with suppress(files.Unsaid):  # by a log on the full disk that ended the run
                    print(error, file=self.log)
            except files.Unsaid as error:
                self.error = UserError(f"{self.run.path}/log.txt cannot be written ({error})")


def fit(replicas: Sequence[Replica], faster: bool = False) -> str:
    """Trains runs together until each has its `result` or `error`; one that fails does not stop the others.

    Returns why they are scored one after the other, if they are. Raises Unstackable if they cannot go on together or,
    with `faster`, would be faster one by one: each then goes on alone from its last checkpoint, as after a kill. Raises
    Stopped after a signal, when all have saved.
    """
    keep_memory()
    active = due = list(replicas)
    stacked: StackedLearner | None = None
    stopped: Stopped | None = None
    with watch_signals() as asked, ExitStack() as stack:
        for one in active:
            one.requests = course(one.learner, one.run, asked)
            stack.callback(one.requests.close)
        while active:
            for one in active:
                one.learner.time_share = 1 / len(active)
            for one in due:
                try:
                    one.advance()
                except Stopped as signal:
                    stopped = signal
            active = [one for one in active if one.request is not None]
            due = [one for one in active if not isinstance(one.request, Step)] or active  # then all step
            try:
                if active:
                    stacked = stacked or StackedLearner([one.learner for one in active], faster)
                    requests = {one.learner: one.request for one in due if one.request is not None}
                    answers = stacked.do([one.learner for one in active], requests)
            except Exception as error:  # alone it comes again, if it is no matter of stacking
                raise Unstackable(reason(error)) from error
            for one in due:
                one.answer = answers[one.learner]
        if stopped:
            raise stopped
    return stacked.scored_alone if stacked else ""


def keep_memory() -> None:
    """Tells glibc to keep what is freed: stacked tensors are so large that each would be mapped, and cleared, anew."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # where the C library is another one
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(-3, 2**30)  # M_MMAP_THRESHOLD
            mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


@dataclass(frozen=True)
class Wanted:
    """A run that is to be trained with others."""

    config: Any
    folder: Path
    again: str  # the command that goes on with it alone
    command: Sequence[str] = ()  # that which trains it alone


@dataclass
class Unfinished:
    """What came of the runs that were not trained to their end."""

    say: Callable[[str], None]  # takes lines for people
    left: dict[str, str] = field(default_factory=dict)  # folder -> why it was not trained to its end; alone it can be
    failed: list[str] = field(default_factory=list)  # folders of the runs that ended with an error, told in their logs

    def leave(self, folders: Sequence[Path], why: str) -> None:
        if folders:
            self.say(f"alone    {f'{len(folders)} runs' if len(folders) > 1 else folders[0]}: {why}")
        self.left.update((str(folder), why) for folder in folders)

    def fail(self, folder: Path, error: Exception) -> None:
        self.say(f"failed   {folder}: {error}")
        self.failed.append(str(folder))


def train(wanted: Sequence[Wanted], make: Make, say: Callable[[str], None], faster: bool = False) -> Unfinished:
    """Trains runs together, in groups that fit into memory; each has its folder and, in it, log.txt.

    With `faster` those are left that would take less time one by one. `say` gets lines for people. Raises Stopped after
    a signal, when all runs at work have saved.
    """
    unfinished = Unfinished(say)
    devices = [choose(one.config.fit, first_start(one.folder).get("precision", "")) for one in wanted]
    device = devices[0]
    others = [one for one, its in zip(wanted, devices, strict=True) if its.precision != device.precision]
    unfinished.leave([one.folder for one in others], "begun in another precision")
    wanted = [one for one in wanted if one not in others]
    try:
        if why := obstacle(wanted[0].config.fit, device):
            raise Unstackable(why)
        size = room(wanted[:2], make, device)
    except Exception as error:  # alone it comes again, if it is no matter of stacking
        unfinished.leave([one.folder for one in wanted], reason(error))
        return unfinished
    for start in range(0, len(wanted), size):
        with ExitStack() as stack:
            groups: dict[str, list[Replica]] = {}
            for one in wanted[start : start + size]:
                if replica := begun(one, make, device, stack, unfinished):
                    groups.setdefault(str(structure(replica.learner)), []).append(replica)
            for replicas in groups.values():
                train_group(replicas, unfinished, faster)
    return unfinished


def obstacle(cfg: Fit, device: Device) -> str | None:
    """What in a configuration keeps a run from being stacked."""
    reasons = {
        "fit.accumulate is above 1": cfg.accumulate > 1,
        "fit.compile is on": cfg.compile,
        "it has several processes": device.world > 1,
        "fp16 scales each loss by itself": device.precision == "fp16",
        f"fit.device is {device.where.type}, where nothing is stacked": device.where.type not in ("cpu", "cuda"),
    }
    return next((why for why, so in reasons.items() if so), None)


def room(wanted: Sequence[Wanted], make: Make, device: Device) -> int:
    """How many runs fit into half of the memory that is free, at most MAX_REPLICAS; tried with a step of the first two.

    Raises Unstackable if that step cannot be stacked, or there is no memory for two.
    """
    began = device.peak_memory()
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        learners = [learner_of(one, make, device) for one in wanted]
    steps = [Step(1, 0, learner.task.plan("train", 1, learner.cfg.batch_size)[0], 0.0) for learner in learners]
    StackedLearner(learners).train(steps)
    cuda = device.where.type == "cuda"
    free = torch.cuda.mem_get_info(device.where)[0] if cuda else psutil.virtual_memory().available
    size = min(MAX_REPLICAS, int(free / 2 / max(1, (device.peak_memory() - began) / len(learners))))
    if size < 2:
        raise Unstackable("there is no memory for two of them")
    return size


def learner_of(wanted: Wanted, make: Make, device: Device) -> Learner:
    torch.manual_seed(wanted.config.fit.seed)
    return Learner(make(wanted.config, device.where), wanted.config.fit, device)


def begun(wanted: Wanted, make: Make, device: Device, stack: ExitStack, unfinished: Unfinished) -> Replica | None:
    """A run whose folder and log are open, until `stack` closes them; None if it fails at that."""
    log = stack.enter_context(files.open_log(wanted.folder / "log.txt"))
    try:
        with redirect_stdout(log), redirect_stderr(log):
            learner = learner_of(wanted, make, device)
            run = Run(wanted.folder, wanted.config, device, wanted.again, wanted.command)
            stack.callback(run.close)
            print(f"run      {run.path}\ndata     {learner.task.data}")
            print(f"model    {summary(learner.task)}\ndevice   {device.told}")
            return Replica(learner, run, log)
    except (UserError, files.Unsaid) as error:
        unfinished.fail(wanted.folder, error)
        with suppress(files.Unsaid):  # by a log on a full disk
            print(error, file=log)
        return None


def train_group(replicas: Sequence[Replica], unfinished: Unfinished, faster: bool) -> None:
    """Trains runs whose models have the same shapes."""
    try:
        if len(replicas) == 1:
            raise Unstackable("no other run has a model of its shapes")
        unfinished.say(f"together {len(replicas)} runs as one stacked program: {replicas[0].run.path} ...")
        if scored_alone := fit(replicas, faster):
            unfinished.say(f"         their validation part is scored one after the other: {scored_alone}")
    except Unstackable as error:
        unfinished.leave([one.run.path for one in replicas if not one.result and not one.error], str(error))
    for one in replicas:
        if one.error:
            unfinished.fail(one.run.path, one.error)
        elif result := one.result:
            metric, ended = one.learner.task.metric, f"epoch {result['best_epoch']} of {result['epochs']}"
            with suppress(files.Unsaid):
                print(f"done     validation {metric} {result['valid'][metric]:.4f}, {ended}", file=one.log)
