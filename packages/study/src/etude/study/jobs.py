"""Doing the runs of a study: which are trained together, in which order, and each process at work.

Every trial is a command line in a process of its own, so it can be repeated by hand, and a crash takes nothing else
with it. Runs that differ in nothing but seed, learning rate and the like (`config.stackable`) are trained by one
process, as one stacked program (`etude.stacked`), unless the study says `together: off`; what cannot be stacked, or is
faster alone (but with `together: on`), is trained alone.
"""

import itertools
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from etude import claims, files
from etude.claims import Claim
from etude.config import MAX_REPLICAS, flatten, stackable
from etude.errors import UserError
from etude.signals import OWN, STOP
from etude.study.outcome import choose, last_line, measure
from etude.study.question import Study, Trial, flags_of
from etude.study.table import cell

# Of a process for several trials: folder -> why it is to be done alone; folders.
ANSWER = {"left": dict, "failed": list}


@contextmanager
def claimed(out: Path, shared: bool = False) -> Iterator[tuple[Claim | None, int]]:
    """Holds the folder against a second study; yields the lock, which the trials inherit and hold while they live.

    Where they cannot inherit it, on Windows, a run that a killed study left holds its own folder only. Machines that
    have the folder in common, as `shared` says, may not see each other's locks, so that it gets a claim, too.
    """
    reported = f"{out} cannot be locked", "give --out a folder where files can be"
    with files.reported(*reported):
        lock = (out / ".lock").open("w", encoding="utf-8")
    with lock:
        with files.reported(*reported):
            try:
                files.lock(lock)
                claims.none(out)
                claim = claims.claim(out) if shared else None
            except BlockingIOError as error:
                who = f" ({error})" if error.errno is None else ""
                at_work = f"{out}: a study, or a run that a killed one left, is at work here{who}"
                raise UserError(f"{at_work}; wait or stop it") from None
        try:
            yield claim, lock.fileno()
        finally:
            if claim:
                claim.close()


class Place(Protocol):
    """Where the processes of a study are: on this machine (`Local`), or on many (`etude.study.cluster`)."""

    @property
    def jobs(self) -> int:
        """How many at once; the trials are shared out among so many processes."""
        ...

    @property
    def room(self) -> int:
        """How many may be at work there, or wait for their turn."""
        ...

    def start(self, command: list[str], given: bytes, log: Path, folders: list[Path], /) -> Any:
        """Starts a process that does trials in these folders: `given` is its input, what it says is added to `log`."""
        ...

    def ended(self, processes: Sequence[Any]) -> dict[Any, str]:
        """Those of some processes that have ended, after a moment, and how each has failed; empty if it has not."""
        ...

    def stop(self, processes: Sequence[Any], at_once: bool = False) -> None:
        """Asks processes to save and end, or ends them."""
        ...


def failure(code: int) -> str:
    """What is said of the exit code of a process."""
    return f"exit code {code}" if code > 0 else f"signal {-code}" if code else ""


@dataclass
class Local:
    """Processes on this machine, which share its cores."""

    jobs: int
    lock: int
    """what they inherit; see `claimed`"""

    @property
    def room(self) -> int:
        return self.jobs

    def start(self, command: list[str], given: bytes, log: Path, _: list[Path]) -> subprocess.Popen[bytes]:
        return popen(command, given, log, max(1, cores() // self.jobs), {}, [self.lock])

    def ended(self, processes: Sequence[subprocess.Popen[bytes]]) -> dict[Any, str]:
        # Asked now and then: a signal handler that touched the list of children would race with this loop.
        time.sleep(0.02)
        return {process: failure(process.returncode) for process in processes if process.poll() is not None}

    def stop(self, processes: Sequence[subprocess.Popen[bytes]], at_once: bool = False) -> None:
        for process in processes:
            process.kill() if at_once else process.send_signal(STOP)


def popen(
    command: list[str], given: bytes, log: Path, threads: int, more: Mapping[str, str], inherited: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    """A process in a group of its own: Ctrl-C in the terminal reaches the study alone, which asks each to stop."""
    own = OWN if sys.platform == "win32" else {**OWN, "pass_fds": inherited}
    # Unbuffered, so that the last line of the log is the last thing that happened.
    env = {**os.environ, **more, "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    with log.open("ab") as out:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=subprocess.STDOUT, env=env, **own)
    assert process.stdin is not None
    with suppress(OSError), process.stdin as stdin:  # if it has ended already, its exit code says so
        stdin.write(given)
    return process


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def groups_of(study: Study, trials: Sequence[Trial], asked: Mapping[str, Any], jobs: int) -> list[list[Trial]]:
    """The trials in groups that may be trained together: alike but for the knobs of `config.stackable`.

    `asked` are their configurations. Whether they can be, only their models can tell: see `etude.stacked`. With several
    jobs there are as many groups.
    """
    if not asked or study.together == "off":
        return [[trial] for trial in trials]
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        values = flatten(asked[str(trial)])
        alike = {knob: value for knob, value in values.items() if not stackable(knob, value)}
        groups.setdefault(repr(alike), []).append(trial)
    size = min(MAX_REPLICAS, -(-len(trials) // jobs))
    return [group[at : at + size] for group in groups.values() for at in range(0, len(group), size)]


def apart(asked: Mapping[str, Any]) -> list[str]:
    """The knobs that the study varies and in which runs of one stack may not differ."""
    flat = [flatten(config) for config in asked.values()]
    names = dict.fromkeys(knob for values in flat for knob in values)
    return [k for k in names if any(v[k] != flat[0][k] for v in flat) and not all(stackable(k, v[k]) for v in flat)]


@dataclass
class Job:
    """Trials at work in a process of their own; alone, it is the command that a person would give."""

    trials: list[Trial]
    verb: str  # train | evaluate
    process: Any
    """as its `Place` knows it"""
    log: Path
    answer: Path | None
    """the file in which a process for several says what became of them"""
    problem: str = ""
    """how the process has failed, empty if it has not"""


@dataclass
class Work:
    """The runs of a study that are not done yet, and those at work."""

    study: Study
    module: str
    out: Path
    place: Place
    asked: Mapping[str, Any]
    """the configurations of the trials; none: nothing is trained together"""
    bar: Any
    done: int
    """trials that are trained"""
    queue: list[tuple[list[Trial], str]] = field(default_factory=list)
    running: list[Job] = field(default_factory=list)
    started: int = 0
    alone: set[Trial] = field(default_factory=set)
    """trials that a process for several has left"""
    tried: set[Trial] = field(default_factory=set)
    """trials whose evaluation was tried: if it failed, once is enough"""

    def say(self, line: str) -> None:
        self.bar.write(line)
        sys.stdout.flush()  # in a pipe or a file, too, a line is there when it is said

    def begin(self, to_train: Sequence[Trial]) -> None:
        """Fills the queue, and says what will be trained together."""
        trials = self.study.trials()
        groups = groups_of(self.study, to_train, self.asked, self.place.jobs)
        self.queue = [(group, "train") for group in groups]
        if self.done:
            self.say(f"{self.done} of {len(trials)} runs are there already")
        for group in groups:
            if len(group) > 1:
                self.say(f"{len(group)} runs may be trained as one program and are tried so: {group[0]} ...")
        if self.study.together != "off" and self.queue and (knobs := apart(self.asked)):
            self.say(f"runs that differ in {', '.join(knobs)} are not trained as one program")
        for of in dict.fromkeys(trial.of for trial in trials):
            self.queue += self.to_score(of)

    def to_score(self, of: str) -> list[tuple[list[Trial], str]]:
        """The runs of a setting whose test score is due; where values are tuned, the best ones', once all are there.

        While there is a search, that is none.
        """
        if self.study.search:
            return []
        groups = [job.trials for job in self.running] + [group for group, verb in self.queue if verb == "train"]
        at_work = {trial for group in groups for trial in group}
        every = [trial for trial in self.study.trials() if trial.of == of]
        over = [trial for trial in every if trial not in at_work]  # what others have written may be half a file
        if not over or (self.study.tune and len(over) < len(every)):
            return []
        best = choose(self.study, [measure(self.study, self.out, trial) for trial in over])
        due = [run.trial for run in best if not run.problem and (run.test is None or not run.part)]
        due = [trial for trial in due if trial not in self.tried]  # what has no evidence is scored again
        self.tried.update(due)
        return [([trial], "evaluate") for trial in due]

    def next_up(self) -> tuple[list[Trial], str]:
        """What comes next; evaluations that are due share a process."""
        trials, verb = self.queue.pop(0)
        if verb == "evaluate" and self.asked and self.study.together != "off" and trials[0] not in self.alone:
            due = [group for group, other in self.queue if other == "evaluate" and group[0] not in self.alone]
            some = due[: -(-len(due) // self.place.jobs)]
            trials = [*trials, *itertools.chain.from_iterable(some)]
            self.queue[:] = [item for item in self.queue if item[0] not in some]
        return trials, verb

    def prepared(self, trial: Trial, verb: str) -> list[str]:
        """The command that does a trial, which is noted in its log; its folder is there then."""
        folder = trial.folder(self.out)
        train = ["train", *flags_of(self.study, trial), "--run", str(folder)]
        command = [sys.executable, "-m", self.module, *(train if verb == "train" else ["evaluate", str(folder)])]
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "log.txt").open("ab") as log:
            log.write(f"$ {shlex.join(command)}\n".encode())
        return command

    def start(self, trials: list[Trial], verb: str) -> None:
        """Starts a process for a trial, or one for several."""
        self.started += 1
        alone, out = len(trials) == 1, self.out
        answer = None if alone else out / f".together-{self.started}.json"
        with files.reported(f"cannot write to {out}", "a study needs a folder to write to (--out DIR)"):
            commands = [self.prepared(trial, verb) for trial in trials]
            if answer is not None:
                answer.unlink(missing_ok=True)  # of an earlier start
            log = trials[0].folder(out) / "log.txt" if alone else out / f"together-{self.started}.log"
            if not alone:
                log.write_bytes(b"")
        runs = [
            {"folder": str(trial.folder(out)), "flags": flags_of(self.study, trial), "command": command}
            for trial, command in zip(trials, commands, strict=True)
        ]
        faster = self.study.together == "auto"
        told = {"verb": verb, "runs": runs, "answer": str(answer), "faster": faster}
        asked = b"" if alone else json.dumps(told).encode()
        command = commands[0] if alone else [sys.executable, "-m", self.module, "together"]
        try:
            process = self.place.start(command, asked, log, [trial.folder(out) for trial in trials])
        except OSError as error:
            why = f"no process can be started for {trials[0]} ({error.strerror})"
            raise UserError(f"{why}; end others, or use fewer --jobs, and start the study again") from error
        self.running.append(Job(trials, verb, process, log, answer))

    def stop(self, at_once: bool) -> None:
        """Asks what is at work to save and end, or ends it."""
        self.say("stopping at once" if at_once else "stopping: the runs save and end")
        self.place.stop([job.process for job in self.running], at_once)

    def ended(self) -> list[Job]:
        """The jobs that have ended, after a moment; they are no longer at work."""
        found = self.place.ended([job.process for job in self.running])
        ended = [job for job in self.running if job.process in found]
        self.running = [job for job in self.running if job.process not in found]
        for job in ended:
            job.problem = found[job.process]
        return ended

    def end_of(self, job: Job) -> None:
        """Takes down what became of the trials of a job that has ended, and queues what is due then."""
        told, why = (self.answer_of(job), "") if job.answer else ({"left": {}, "failed": []}, job.problem)
        for trial in job.trials:
            folder = str(trial.folder(self.out))
            if folder in told["left"] and not self.is_there(trial, job.verb):
                self.queue.append(([trial], job.verb))
                self.alone.add(trial)
            else:
                self.end_of_trial(trial, job.verb, "error" if folder in told["failed"] else why)
        if job.verb == "train":
            for of in dict.fromkeys(trial.of for trial in job.trials):
                self.queue += self.to_score(of)  # after all training: many evaluations share a process

    def answer_of(self, job: Job) -> dict[str, Any]:
        """What a process for several trials answered, as ANSWER has it; without an answer all are left."""
        assert job.answer is not None
        told, why = None, job.problem
        if not why:
            with suppress(UserError):
                told = files.read_json(job.answer, dict, "", ANSWER)
        job.answer.unlink(missing_ok=True)
        if told is None:
            why = why or "it did not say what became of them"
            self.say(f"the process of {len(job.trials)} runs failed ({why}): {last_line(job.log)}; they go on alone")
            return {"left": {str(trial.folder(self.out)): why for trial in job.trials}, "failed": []}
        for line in job.log.read_text(encoding="utf-8", errors="replace").splitlines():
            self.say(line)
        return dict(told)

    def is_there(self, trial: Trial, verb: str) -> bool:
        if not (trial.folder(self.out) / "result.json").is_file():
            return False
        return verb == "train" or measure(self.study, self.out, trial).test is not None

    def end_of_trial(self, trial: Trial, verb: str, why: str) -> None:
        """Says what came of a trial; `why` it failed, empty if it did not."""
        total, words = len(self.study.trials()), ""
        self.done += verb == "train"
        if not why and not (trial.folder(self.out) / "result.json").is_file():
            why = "no result.json"
        if not why:
            run = measure(self.study, self.out, trial)
            words = f"{self.study.metric} {cell(run.valid, '.4f')} (valid)  {cell(run.seconds, '.0f')} s"
            why = (run.untested or "no test.json") if verb == "evaluate" and run.test is None else ""
        if why:
            words = f"{verb} failed ({why}): {last_line(trial.folder(self.out) / 'log.txt')}"
        if why or verb == "train":
            self.say(f"[{self.done:{len(str(total))}}/{total}] {trial}  {words}")
        if verb == "train":
            self.bar.update()


def work(study: Study, module: str, out: Path, place: Place, signals: Sequence[int], asked: Mapping[str, Any]) -> None:
    """Trains and evaluates what is not done yet, until a signal is noted in `signals`.

    `asked` are the trials' configurations (none: nothing is trained together).
    """
    trials = study.trials()
    to_train = [trial for trial in trials if not (trial.folder(out) / "result.json").is_file()]
    done = len(trials) - len(to_train)
    hidden = not sys.stdout.isatty()
    with tqdm(total=len(trials), initial=done, unit="run", file=sys.stdout, disable=hidden) as bar:
        at = Work(study, module, out, place, asked, bar, done)
        at.begin(to_train)
        heard = 0
        try:
            while (at.queue and not signals) or at.running:
                while at.queue and len(at.running) < place.room and not signals:
                    at.start(*at.next_up())
                if len(signals) > heard:
                    heard += 1
                    at.stop(at_once=heard > 1)
                ended = at.ended()
                for job in ended if not signals else ():
                    at.end_of(job)
        finally:
            if at.running:
                place.stop([job.process for job in at.running])
            while at.running:
                at.ended()
