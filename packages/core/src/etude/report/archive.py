"""The TensorBoard logs of runs and studies as one archive that can be mailed.

Every run's event files become one, in a folder named as the run's is, so that TensorBoard shows the same runs. What is
left out is what makes event files large: most points of long curves, pictures and texts between the first and the last
of each, pictures of all seeds but the first, and the graph. Scalars and hyperparameters of no run are missing.
"""

import io
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etude.report.read import Section

POINTS = 300  # of a curve are kept
OLDEST = (1980, 1, 1, 0, 0, 0)  # the time of every entry: the same logs give the same archive

ABOUT = """\
TensorBoard logs of {names}, made by

    {command}

To look at them: unpack this archive and run `tensorboard --logdir` on the folder.

{thinned}
"""


@dataclass(frozen=True)
class Archive:
    """A zip file, and what was left out of it."""

    content: bytes
    thinned: str


def build(sections: Sequence[Section], again: str) -> Archive:
    """The logs of all runs of `sections`, those that are unfinished or failed too; `again` is the command for it."""
    out = io.BytesIO()
    left_out = dict.fromkeys(("scalars", "pictures", "texts", "graphs"), 0)
    tops = names([found.place for found in sections])
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as packed:
        for found, top in zip(sections, tops, strict=True):
            for folder in log_folders(found):
                events = list(read(folder))
                inside = folder.relative_to(found.place)
                run = inside.parent if inside.name == "tb" else inside
                first = found.outcome is None or not run.name.startswith("seed=") or run.name == "seed=0"
                kept = thin(events, first, left_out)
                if kept:
                    entry(packed, "/".join([top, *run.parts, "events.out.tfevents.0.etude"]), written(kept))
        counts = [f"{count:,} {what}" for what, count in left_out.items() if count]
        thinned = (
            f"left out were {', '.join(counts)} (kept: {POINTS} points of a curve, of pictures and texts the first and "
            "the last, pictures of the first seed only)"
            if counts
            else "nothing was left out"
        )
        about = ABOUT.format(names=", ".join(tops), command=again, thinned=thinned.capitalize() + ".")
        entry(packed, "README.txt", about.encode())
    return Archive(out.getvalue(), thinned)


def names(places: Sequence[Path]) -> list[str]:
    """A folder of its own for each place, named as it is, but for what no system's unpacker must take for a path."""
    found: list[str] = []
    for place in places:
        name = re.sub(r'[\x00-\x1f\x7f\\/:*?"<>|]', "_", place.resolve().name) or "runs"
        same = sum(name == taken.rpartition("-")[0] or name == taken for taken in found)
        found.append(f"{name}-{same + 1}" if same else name)
    return found


def entry(packed: zipfile.ZipFile, name: str, content: bytes) -> None:
    packed.writestr(zipfile.ZipInfo(name, OLDEST), content, zipfile.ZIP_DEFLATED)


def log_folders(found: Section) -> list[Path]:
    """The folders of a run or study that hold event files; those of a study's means among them."""
    if found.outcome is None:
        return [found.place / "tb"] if list((found.place / "tb").glob("events.out.tfevents.*")) else []
    groups = dict.fromkeys(run.trial.folder(found.place).parent for run in found.outcome.runs)
    runs = [run.trial.folder(found.place) / "tb" for run in found.outcome.runs]
    return [folder for folder in (*groups, *runs) if list(folder.glob("events.out.tfevents.*"))]


def read(folder: Path) -> Iterator[Any]:
    """The events of a run in order. What a start wrote after the point from which the next one went on is not there.

    The end of a file that is being written, or was cut off, is left out.
    """
    from etude.torch_private import EventLoader, SessionLog

    events: list[Any] = []
    for file in sorted(folder.glob("events.out.tfevents.*")):  # the order in which they were begun: see `etude.events`
        for event in EventLoader(str(file)).Load():
            if event.HasField("session_log") and event.session_log.status == SessionLog.START:
                events = [earlier for earlier in events if earlier.step < event.step or not earlier.HasField("summary")]
            events.append(event)
    yield from events


def thin(events: Sequence[Any], first: bool, left_out: dict[str, int]) -> list[Any]:
    """The events to keep, counting in `left_out` what is not; `first`: of this run pictures are kept."""
    from etude.torch_private import Event, Summary

    steps: dict[str, list[int]] = {}
    for event in events:
        for value in event.summary.value:
            steps.setdefault(value.tag, []).append(event.step)
    keep = {tag: set(evenly(sorted(set(found)), POINTS)) for tag, found in steps.items()}
    ends = {tag: {min(found), max(found)} for tag, found in steps.items()}
    kept = []
    for event in events:
        left_out["graphs"] += event.HasField("graph_def")
        values = []
        for value in event.summary.value:
            kind = kind_of(value)
            wanted = {"scalars": keep, "pictures": ends if first else {}, "texts": ends}
            if kind in wanted and event.step not in wanted[kind].get(value.tag, ()):
                left_out[kind] += 1
            else:
                values.append(value)
        if values:
            kept.append(Event(wall_time=event.wall_time, step=event.step, summary=Summary(value=values)))
    return kept


def kind_of(value: Any) -> str:
    """scalars, pictures, texts, or other: hyperparameters and what else a task may write."""
    if value.HasField("simple_value"):
        return "scalars"
    if value.HasField("image"):
        return "pictures"
    return "texts" if value.metadata.plugin_data.plugin_name == "text" else "other"


def evenly(steps: Sequence[int], most: int) -> list[int]:
    """At most `most` of the steps, evenly apart, the first and the last among them."""
    if len(steps) <= most:
        return list(steps)
    return [steps[round(n * (len(steps) - 1) / (most - 1))] for n in range(most)]


def written(events: Sequence[Any]) -> bytes:
    """The events as the content of an event file."""
    from etude.events import beginning, records

    return records([beginning(events[0].wall_time), *events])
