"""How far a run is."""

import time
from dataclasses import dataclass, field, fields
from typing import Any

from etude.train.device import Device
from etude.train.totals import Totals


@dataclass
class Progress:
    """How far a run is: with model and optimiser, all that a checkpoint holds."""

    epoch: int = 1  # the epoch under way, from 1
    batch: int = 0  # how many of its batches are done
    step: int = 0  # optimiser steps since the start
    seconds: float = 0.0  # time spent training, over all starts
    rows: list[dict[str, Any]] = field(default_factory=list)  # one per finished epoch
    best_epoch: int = 0
    skipped: int = 0  # of the steps, those whose gradient fp16 could not hold
    seen: Totals = field(default_factory=Totals)  # of the training part in this epoch, so far

    def __post_init__(self) -> None:
        self.start_clock()

    def state(self) -> dict[str, Any]:
        kept = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "seen"}
        return {"progress": kept, "seen": self.seen.state()}

    @classmethod
    def restore(cls, state: dict[str, Any], device: Device) -> "Progress":
        """Raises KeyError, ValueError or TypeError for the state of something else."""
        return cls(**state["progress"], seen=Totals.restore(state["seen"], device))

    def start_clock(self) -> None:
        self.began = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since the clock was started."""
        return time.monotonic() - self.began

    def end_step(self, totals: Totals) -> None:
        self.step, self.batch = self.step + 1, self.batch + 1
        self.seen.merge(totals)

    def end_epoch(self, train: dict[str, float], valid: dict[str, float]) -> None:
        self.rows.append({"epoch": self.epoch, "step": self.step, "train": train, "valid": valid})
        self.epoch, self.batch, self.seen = self.epoch + 1, 0, Totals()
