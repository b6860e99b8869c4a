"""A study as it is asked: compared, tuned and fixed knobs, seeds, expectations; and its trials, with their names.

The vocabulary is that of Google's tuning playbook (Godbole et al. 2023): *scientific* knobs are compared, *nuisance*
knobs are tuned separately for every compared setting, on validation, and the rest is *fixed*. Knobs are tuned on a grid
or by a search of ranges (`etude.study.search`).
"""

import hashlib
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

from etude.config import to_flags, to_word
from etude.study.judge import Claim

Values = dict[str, Any]  # knob -> value: a word as it is written, True, False, None, or a list of those
LONGEST = 60  # letters in the name of a folder, but for a hash: on Windows a whole path may have 260
LONGER = 120  # what it was: folders of that time are found
TOGETHER = ("auto", "on", "off")
TUNING = 1000  # the first seed of a search; what is reported has seeds below it
NEAR = 1e-4  # so much of a range, at most, is a point off for being written with few digits


@dataclass(frozen=True)
class Range:
    """The values between two numbers, both included, that a search takes points from."""

    low: float
    high: float
    log: bool = False
    """even in the logarithm: as many points from 1e-4 to 1e-3 as from 1e-3 to 1e-2"""
    whole: bool = field(default=False, compare=False)
    """whole numbers only; the type of the knob says so, not the file"""

    def ends(self) -> tuple[float, float]:
        """Where the range starts and ends, on its scale; a whole number has the space of one around it."""
        low, high = (self.low - 0.5, self.high + 0.5) if self.whole else (self.low, self.high)
        return (math.log(low), math.log(high)) if self.log else (low, high)

    def place(self, value: float) -> float:
        """Where a value lies in the range, on its scale: 0 at its start, 1 at its end."""
        low, high = self.ends()
        return ((math.log(value) if self.log else value) - low) / (high - low)

    def at(self, place: float) -> str:
        """The value at a place, as it is written: with as few digits as bring it within NEAR of there."""
        low, high = self.ends()
        x = low + place * (high - low)
        x = min(max(math.exp(x) if self.log else x, self.low), self.high)
        if self.whole:
            return str(round(x))
        words = (f"{x:.{digits}g}" for digits in range(1, 17))
        fit = (w for w in words if self.low <= float(w) <= self.high and abs(self.place(float(w)) - place) <= NEAR)
        return next(fit, repr(x))

    def __str__(self) -> str:
        return f"from {self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Study:
    """One study file."""

    name: str
    given: str
    """the name or path by which the user asked for it"""
    question: str
    compare: dict[str, list[Any]]
    tune: dict[str, list[Any] | Range]
    fixed: Values
    seeds: int
    metric: str
    better: str
    """higher or lower; the task says which"""
    expect: list[Claim]
    together: str = "auto"
    """on: runs that can be are trained together; auto: if they are faster so; off: each by itself"""
    search: str = ""
    """quasi or bayes: how the points of a search are found; empty: the tuned values are a grid"""
    points: int = 0
    """of a search, for each compared setting: `trials` in the file"""
    tuning_seeds: int = 1
    """of each point of a search: TUNING, TUNING + 1, ..."""
    changed: str = ""
    """when expectations, metric or seeds were changed, if runs were there already"""
    needs: dict[str, str] = field(default_factory=dict)
    """what runs start from: its path, as a knob has it, and the command that makes it"""
    ways: tuple[Values, ...] = ()
    """the compared settings, where the file lists them; else they are all combinations of `compare`"""
    listed: "tuple[Trial, ...] | None" = field(default=None, compare=False)
    """the trials of a search as far as they are known, which `etude.study.search` finds out"""
    redrawn: float = field(default=0.0, compare=False)
    """how large a test part that each seed draws of the same data is to its training part, see `etude.study.judge`"""

    def settings(self) -> list[Values]:
        """Everything that is compared."""
        return list(self.ways) or product(self.compare)

    def names(self) -> list[str]:
        """The settings, as their folders are named."""
        return [self.trial(setting, {}, 0).of for setting in self.settings()]

    def trials(self) -> "list[Trial]":
        """Every run of the study; the first seed of all settings comes first, so half a study already compares them."""
        if self.listed is not None:
            return list(self.listed)
        if self.search:
            raise ValueError("what a search tries is known from its folder only: see etude.study.search.found")
        grid = product({knob: values for knob, values in self.tune.items() if isinstance(values, list)})
        return [self.trial(s, tuned, seed) for seed in range(self.seeds) for s in self.settings() for tuned in grid]

    def trial(self, setting: Values, tuned: Values, seed: int) -> "Trial":
        shorts = short_names([*self.compare, *self.tune])
        of, group = folder_name(setting, shorts), folder_name({**setting, **tuned}, shorts)
        return Trial(setting, tuned, seed, of, group, bool(self.search) and seed >= TUNING)

    def sign(self) -> int:
        """+1 if a larger metric is better, else -1."""
        return 1 if self.better == "higher" else -1


@dataclass(frozen=True)
class Trial:
    """One run of a study."""

    setting: Values = field(hash=False)
    tuned: Values = field(hash=False)
    seed: int
    of: str
    """The compared setting it belongs to, "kernel=3"."""
    group: str
    """That with the tuned values, "kernel=3,lr=0.003"; its seeds share the folder of this name (see `on_disk`)."""
    tuning: bool = False
    """It is there to choose the tuned values by, and is not scored on the test part."""

    def folder(self, out: Path) -> Path:
        return inside(out, self.group) / f"seed={self.seed}"

    def __str__(self) -> str:
        return f"{self.group.replace(',', ' ')} seed={self.seed}"


def product(knobs: Mapping[str, Sequence[Any]]) -> list[Values]:
    """Every combination of the knobs' values; of no knobs, the one empty combination."""
    return [dict(zip(knobs, values, strict=True)) for values in itertools.product(*knobs.values())]


def label(value: Any) -> str:
    """A value as a study file writes it: 3, 1e-3, true, null; a list as its words."""
    if isinstance(value, list):
        return " ".join(map(label, value))
    return to_word(value)


def number(value: Any) -> float | None:
    """The number that a value is, if any."""
    try:
        x = float(label(value))
    except ValueError:
        return None
    return x if math.isfinite(x) else None


def same(a: Any, b: Any) -> bool:
    """Whether two values set a knob alike: 1e-3 and 0.001 do, 1 and true do not."""
    return label(a) == label(b) or (number(a) is not None and number(a) == number(b))


def short_names(knobs: Sequence[str], among: Iterable[str] = ()) -> dict[str, str]:
    """Knob -> the last part of its dotted name, or all of it where others of these, or `among` those, end alike."""
    times = Counter(knob.rpartition(".")[2] for knob in {*knobs, *among})
    return {knob: last if times[last := knob.rpartition(".")[2]] == 1 else knob for knob in knobs}


def folder_name(values: Values, names: Mapping[str, str]) -> str:
    """Values as one word, "kernel=3,lr=0.003": other values make another one."""
    return ",".join(f"{names[knob]}={quote_plus(label(value))}" for knob, value in values.items())


def on_disk(name: str, longest: int = LONGEST) -> str:
    """A name of `folder_name` as that of a folder, which on any file system is another for every other name.

    Mostly it stays as it is. Where it has capitals (some file systems do not tell them from small letters), ends in a
    dot (Windows leaves it out) or is too long, digits of its hash are added: behind an @, which no value has.
    """
    if re.match(r"(con|prn|aux|nul|com\d|lpt\d)\.", name):
        name = name.replace(".", "%2E", 1)  # `aux.` followed by anything is a device of Windows
    odd = re.search("[A-Z]", re.sub("%[0-9A-F]{2}", "", name)) or name.endswith(".")
    if not odd and len(name) <= longest:
        return name
    return f"{name[:longest]}@{hashlib.blake2b(name.encode(), digest_size=6).hexdigest()}"


def inside(folder: Path, name: str, prefix: str = "") -> Path:
    """The folder of this name, as `folder_name` has it, in another one: as it was called once, if it is there so."""
    before, now = (folder / f"{prefix}{on_disk(name, longest)}" for longest in (LONGER, LONGEST))
    return before if before.is_dir() else now


def flags_of(study: Study, trial: Trial) -> list[str]:
    """The flags of `train` that ask for a trial."""
    return to_flags({**study.fixed, **trial.setting, **trial.tuned, "fit.seed": trial.seed})
