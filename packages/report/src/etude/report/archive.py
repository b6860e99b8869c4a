"""The TensorBoard logs of runs and studies as one archive that can be mailed.

Every run's event files become one, in a folder named as the run's is, and its points for the projector lie beside it.
They are thinned in steps, not in kinds: of long curves points are left out, of what was shown often some of the times;
as many are kept as fit into LIMIT. The last that goes is thumbnails of points.
"""

import io
import re
import zipfile
from collections.abc import Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any

from etude import torch_private as tensorboard
from etude.events import beginning, records
from etude.report.read import Section

POINTS = 300  # of a curve are kept
SHOWN = (100, 50, 20, 10, 5, 3)  # times that a picture or a text is kept: the first of these with which all fits
LIMIT = 20e6  # bytes, for mail
OLDEST = (1980, 1, 1, 0, 0, 0)  # the time of every entry: the same logs give the same archive

ABOUT = """\
TensorBoard logs of {names}, made by

    {command}

To view them, unpack this archive and run `tensorboard --logdir` on the folder.

{thinned}
{note}"""


def build(sections: Sequence[Section], again: str, note: str = "") -> tuple[bytes, str]:
    """A zip file with the logs of all runs, those that failed too, and what was left out; `again` makes it again."""
    logs: dict[str, Path] = {}
    for found, top in zip(sections, names([found.place for found in sections]), strict=True):
        logs |= {"/".join([top, *run.relative_to(found.place).parts]): run for run in runs(found)}
    events = {name: read(run) for name, run in logs.items()}
    tops = ", ".join(dict.fromkeys(name.partition("/")[0] for name in logs)) or "no run"
    for shown, thumbnails in [*((times, True) for times in SHOWN), (SHOWN[-1], False)]:
        out, left_out = io.BytesIO(), dict.fromkeys(("scalars", "pictures", "texts", "sheets of thumbnails"), 0)
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as packed:
            for name, run in logs.items():
                if kept := thin(events[name], shown, left_out):
                    content = records([beginning(kept[0].wall_time), *kept])
                    entry(packed, f"{name}/events.out.tfevents.0.etude", content)
                points = projector_files(run)
                if not thumbnails:
                    left_out["sheets of thumbnails"] += sum(file.endswith(".png") for file in points)
                    points = without_thumbnails(points)
                for file, content in points.items():
                    entry(packed, f"{name}/{file}", content)
            counts = ", ".join(f"{count:,} {what}" for what, count in left_out.items() if count)
            kept_are = f"kept: {POINTS} points of each curve, pictures and texts of {shown} times"
            thinned = f"left out: {counts} ({kept_are})" if counts else "nothing was left out"
            told = {"names": tops, "command": again, "note": f"\n{note}\n" * bool(note)}
            entry(packed, "README.txt", ABOUT.format(**told, thinned=thinned.capitalize() + ".").encode())
        if out.tell() <= LIMIT:
            return out.getvalue(), thinned
    return out.getvalue(), f"{thinned}; even so it has more than the {LIMIT / 1e6:g} MB that mail takes"


def projector_files(run: Path) -> dict[str, bytes]:
    """The points that a run shows in the projector, as `Run.embedding` writes them: no events."""
    found = (file for kind in ("*.pbtxt", "*/*/*.tsv", "*/*/*.png") for file in (run / "tb").glob(kind))
    return {file.relative_to(run / "tb").as_posix(): file.read_bytes() for file in sorted(found)}


def without_thumbnails(points: Mapping[str, bytes]) -> dict[str, bytes]:
    """Files of the projector, where neither a picture is nor a word of one."""
    sprite = rb"  sprite \{\n(?:    .*\n)*  \}\n"
    return {name: re.sub(sprite, b"", data) for name, data in points.items() if not name.endswith(".png")}


def names(places: Sequence[Path]) -> list[str]:
    """A folder of its own for each place, named as it is, but for what no system's unpacker must take for a path."""
    found: list[str] = []
    for place in places:
        name = re.sub(r'[\x00-\x1f\x7f\\/:*?"<>|]', "_", place.resolve().name) or "runs"
        numbered = (f"{name}-{n}" for n in count(2))
        found.append(next(free for free in chain([name], numbered) if free not in found))
    return found


def entry(packed: zipfile.ZipFile, name: str, content: bytes) -> None:
    packed.writestr(zipfile.ZipInfo(name, OLDEST), content, zipfile.ZIP_DEFLATED)


def runs(found: Section) -> list[Path]:
    """The folders of runs that have event files, those of a study's means among them."""
    folders = [found.place] if found.place.is_dir() else []
    if found.outcome and folders:
        trials = [run.trial.folder(found.place) for run in found.outcome.runs]
        folders = [*dict.fromkeys(folder.parent for folder in trials), *trials]
    return [folder for folder in folders if event_files(folder)]


def event_files(run: Path) -> list[Path]:
    """In the order in which they were begun (see `etude.events`); those of means lie in the folder itself."""
    return sorted(file for place in (run, run / "tb") for file in place.glob("events.out.tfevents.*"))


def read(run: Path) -> list[Any]:
    """The events of a run in order. What a start wrote after the point from which the next one went on is not there.

    The end of a file that is being written, or was cut off, is left out.
    """
    events: list[Any] = []
    for file in event_files(run):
        for event in tensorboard.EventLoader(str(file)).Load():
            if event.HasField("session_log") and event.session_log.status == tensorboard.SessionLog.START:
                events = [earlier for earlier in events if earlier.step < event.step or not earlier.HasField("summary")]
            events.append(event)
    return events


def thin(events: Sequence[Any], shown: int, left_out: dict[str, int]) -> list[Any]:
    """The events to keep, counting in `left_out` what is not; `shown`: times that a picture or a text is kept."""
    most = {"scalars": POINTS, "pictures": shown, "texts": shown}
    steps: dict[tuple[str, str], set[int]] = {}
    for event in events:
        for value in event.summary.value:
            steps.setdefault((kind_of(value), value.tag), set()).add(event.step)
    keep = {(kind, tag): evenly(sorted(found), most.get(kind, 0)) for (kind, tag), found in steps.items()}
    kept = []
    for event in events:
        if event.HasField("graph_def"):
            kept.append(event)
        values = []
        for value in event.summary.value:
            kind = kind_of(value)
            if kind in most and event.step not in keep[kind, value.tag]:
                left_out[kind] += 1
            else:
                values.append(value)
        if values:
            kept.append(
                tensorboard.Event(wall_time=event.wall_time, step=event.step, summary=tensorboard.Summary(value=values))
            )
    return kept


def kind_of(value: Any) -> str:
    """scalars, pictures, texts, or other: hyperparameters and what else a task may write."""
    if value.HasField("simple_value"):
        return "scalars"
    if value.HasField("image"):
        return "pictures"
    return "texts" if value.metadata.plugin_data.plugin_name == "text" else "other"


def evenly(steps: Sequence[int], most: int) -> set[int]:
    """At most `most` of the steps, evenly apart, the first and the last among them."""
    if len(steps) <= most or not most:
        return set(steps[:most])
    return {steps[round(n * (len(steps) - 1) / (most - 1))] for n in range(most)}
