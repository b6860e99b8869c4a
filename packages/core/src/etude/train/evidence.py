"""What is kept of the scores of a test part, so that a study knows how far they depend on these very examples.

The part is cut into at most 50 blocks that are alike. Of every score its value without each block is computed from sums
and counts as the score itself is, and the pseudo-values of the jackknife are kept (see `etude.study`). More would say
hardly more: Student's t of 49 degrees of freedom is 2.01, that of 199 1.97.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from etude import draw
from etude.train.device import Device
from etude.train.step import even_batches, totals_of
from etude.train.task import Task
from etude.train.totals import Totals

BLOCKS = 50
DIGITS = 6  # that are kept of a pseudo-value
Without = dict[str, list[float]]  # score -> its value for the whole part, then without each of the blocks


def blocks(ids: np.ndarray) -> list[np.ndarray]:
    """The ids of a part, in any order, in blocks whose sizes differ by at most one."""
    ids = np.sort(ids)
    return np.array_split(ids[draw.shuffled(len(ids), 0)], min(len(ids), BLOCKS))


def stepped(task: Task, device: Device, batch_size: int, parts: Sequence[np.ndarray]) -> Without:
    """Every score of the test part whole and without each block, by this process; nothing if a rest has no data."""
    order = np.concatenate(task.plan("test", 0, batch_size))
    places = np.argsort(order)  # of each id in the plan, which may be by length
    totals, whole = [], Totals()
    for part in parts:
        planned = part[np.argsort(places[np.searchsorted(order, part, sorter=places)])]
        totals.append(totals_of(task, "test", device, even_batches(planned, batch_size)))
        whole.merge(totals[-1])
    try:
        found = [task.scores(some) for some in (whole, *(less(whole, of) for of in totals))]
    except ValueError:
        return {}
    return {name: [scores[name] for scores in found] for name in found[0] if all(name in scores for scores in found)}


def less(whole: Totals, part: Totals) -> Totals:
    sums = {name: value - part.sums.get(name, 0) for name, value in whole.sums.items()}
    return Totals(sums, {name: count - part.counts.get(name, 0) for name, count in whole.counts.items()})


def pseudo_values(whole: float, without: Sequence[float]) -> list[float]:
    """Of a score of a whole part, and of it without each of B blocks: B values, about independent (Tukey 1958)."""
    count = len(without)
    return [float(f"{count * whole - (count - 1) * x:.{DIGITS}g}") for x in without]


def of(
    task: Task,
    device: Device,
    batch_size: int,
    scores: Mapping[str, Any],
    own: Callable[[list[np.ndarray]], Without] | None = None,
) -> dict[str, Any]:
    """The content of test-blocks.json, for the `scores` that `evaluate` reports of the whole test part.

    `own`: the task's own way to say what each score is without a block. A score that `evaluate` computes otherwise than
    the blocks has no evidence.
    """
    ids = np.concatenate(task.plan("test", 0, batch_size))
    parts, found, kept = blocks(ids), {}, {}
    if len(parts) > 1:
        found = own(parts) if own else stepped(task, device, batch_size, parts)
    for name, (whole, *without) in found.items():
        values = pseudo_values(whole, without)
        if all(map(math.isfinite, values)) and isinstance(scores.get(name), float):
            error = statistics.stdev(values) / math.sqrt(len(values))
            if abs(whole - scores[name]) <= error / 10 + 1e-9 * abs(whole):
                kept[name] = values
    return {"part": f"{task.fingerprints['test']}-{len(ids)}", "scores": dict(scores), "blocks": kept}
