"""How far a run is."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Progress:
    """How far a run is: with model and optimiser, all that a checkpoint holds."""

    epoch: int = 1
    """the epoch under way, from 1"""
    batch: int = 0
    """how many of its batches are done"""
    step: int = 0
    """optimiser steps since the start"""
    seconds: float = 0.0
    """time spent training, over all starts"""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """one per finished epoch"""
    best_epoch: int = 0
    skipped: int = 0
    """of the steps, those whose gradient fp16 could not hold"""
