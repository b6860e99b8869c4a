"""The search of one compared setting by Optuna: TPE (Bergstra et al. 2011), and the journal that it is kept in."""

import math
import os
import warnings
from pathlib import Path
from typing import Any

from etude import files
from etude.errors import UserError
from etude.study.outcome import measure
from etude.study.question import Range, Study, Values, label, on_disk
from etude.study.space import FRUITLESS, seeds_of, sobol, words

BEGIN, ROUND = 8, 4  # points that are asked for at once: the first ones, and then each time
RESTART = "remove it, and search.json beside it, and start the study again"


def installed() -> Any:
    """Optuna. Raises UserError if it is not installed."""
    try:
        import optuna
    except ImportError:
        remedy = "uv sync --all-packages --all-extras, or pip install optuna"
        raise UserError(f"search: bayes needs Optuna, which is not installed: {remedy}") from None
    return optuna


class Unlocked:
    """The journal needs no lock: the study holds its folder, and a lock that a kill has left would be waited for."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


class Asking:
    """What is asked of Optuna, and told to it. Its *trial* is a point here, not a run."""

    def __init__(self, study: Study, setting: Values, out: Path) -> None:
        """Raises UserError if Optuna is not installed, or the journal cannot be used, or is of another search."""
        optuna = self.optuna = installed()
        self.state = optuna.trial.TrialState
        self.asked, self.setting, self.out = study, setting, out
        self.space = {knob: self.distribution(tried) for knob, tried in study.tune.items()}
        self.first = sobol(study, min(BEGIN, study.points))
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        of = study.trial(setting, {}, 0).of
        self.file = out / f"{on_disk(of)}.journal"
        with files.reported(f"{self.file} cannot be written", "give --out a folder where files can be"):
            cut_last_line(self.file)
            self.file.touch()
        try:
            lock: Any = Unlocked()
            storage = optuna.storages.JournalStorage(
                optuna.storages.journal.JournalFileBackend(str(self.file), lock_obj=lock)
            )
            direction = "maximize" if study.sign() > 0 else "minimize"
            self.study = optuna.create_study(
                storage=storage,
                study_name=f"{study.metric}, {of}",
                direction=direction,
                load_if_exists=True,
                sampler=self.sampler(0),
            )
            every = self.every()
        except Exception as error:  # whatever a line that is broken, or another file, raises in Optuna
            raise UserError(f"{self.file} cannot be read ({files.reason(error)}): {RESTART}") from None
        if any(self.space.get(knob) != of for trial in every for knob, of in trial.distributions.items()):
            raise UserError(f"{self.file} is of another search: {RESTART}")

    def distribution(self, tried: "list[Any] | Range") -> Any:
        of = self.optuna.distributions
        if not isinstance(tried, Range):
            return of.CategoricalDistribution([label(value) for value in tried])
        if tried.whole:
            return of.IntDistribution(int(tried.low), int(tried.high), log=tried.log)
        return of.FloatDistribution(tried.low, tried.high, log=tried.log)

    def sampler(self, number: int) -> Any:
        """What draws the point of this number: made anew each time, so that nothing of it has to outlive a kill."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", self.optuna.exceptions.ExperimentalWarning)
            return self.optuna.samplers.TPESampler(
                n_startup_trials=BEGIN, multivariate=True, constant_liar=True, seed=number
            )

    def every(self) -> list[Any]:
        return list(self.study.get_trials(deepcopy=False))

    def whole(self) -> list[Any]:
        """Optuna's trials, but for those that a kill has left without all their values."""
        return [trial for trial in self.every() if set(trial.params) == set(self.space)]

    def trials(self) -> list[Any]:
        """The points: what Optuna draws twice, where few values differ, is one."""
        once: dict[tuple[str, ...], Any] = {}
        for trial in self.whole():
            once.setdefault(words(self.point(trial)), trial)
        return list(once.values())[: self.asked.points]

    def open(self) -> list[Any]:
        """The points that have no score yet."""
        return [trial for trial in self.trials() if not trial.state.is_finished()]

    def point(self, trial: Any) -> Values:
        """What is tried, as it is written: within `question.NEAR` of what Optuna drew."""
        found = {}
        for knob, tried in self.asked.tune.items():
            value = trial.params[knob]
            if isinstance(tried, Range):
                found[knob] = tried.at(tried.place(value))
            else:
                found[knob] = next(one for one in tried if label(one) == value)
        return found

    def ask(self) -> None:
        """Asks for what the round lacks, which is the same however often and wherever it was broken off."""
        told = len(self.trials()) - len(self.open())
        end = min(self.asked.points, BEGIN if told < BEGIN else told + ROUND - (told - BEGIN) % ROUND)
        drawn = 0
        while True:
            points = self.trials()
            for trial in self.every():
                if trial.state == self.state.RUNNING and trial.number not in [one.number for one in points]:
                    self.study.tell(trial.number, state=self.state.FAIL)  # half asked for, or drawn twice
            if len(points) >= end:
                return
            if drawn == FRUITLESS:
                raise UserError(f"{self.file}: Optuna finds no {len(points) + 1} points that differ: lower trials")
            waiting = any(trial.state == self.state.WAITING for trial in self.every())
            if len(points) < len(self.first) and not waiting:
                point = self.first[len(points)]
                self.study.enqueue_trial({knob: self.inner(knob, value) for knob, value in point.items()})
            self.study.sampler = self.sampler(len(self.whole()))
            self.study.ask(self.space)
            drawn += 1

    def inner(self, knob: str, value: Any) -> Any:
        """A value as Optuna has it."""
        tried = self.asked.tune[knob]
        if not isinstance(tried, Range):
            return label(value)
        return int(value) if tried.whole else float(value)

    def tell(self) -> None:
        """Tells the scores of what was tried. A point that failed is as bad as the worst so far, if there is one."""
        for trial in self.open():
            runs = [measure(self.asked, self.out, one) for one in self.runs(trial)]
            scores = [run.valid for run in runs if not run.problem and run.valid is not None]
            known = [one.value for one in self.every() if one.state == self.state.COMPLETE]
            if len(scores) == len(runs):
                self.study.tell(trial.number, math.fsum(scores) / len(scores))
            elif known:
                self.study.tell(trial.number, min(known, key=lambda value: self.asked.sign() * value))
            else:
                self.study.tell(trial.number, state=self.state.FAIL)

    def runs(self, trial: Any) -> list[Any]:
        return list(seeds_of(self.asked, self.setting, self.point(trial)))


def cut_last_line(file: Path) -> None:
    """Leaves out what a kill or a full disk has left of a last line: with another behind it, it could not be read."""
    if file.exists() and (content := file.read_bytes()) and not content.endswith(b"\n"):
        os.truncate(file, content.rfind(b"\n") + 1)
