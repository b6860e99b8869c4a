"""What torch writes for TensorBoard, on an event file of ours."""

import time
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from torch.utils.tensorboard.writer import FileWriter, SummaryWriter

from etude.events import EventFile


class Writer(FileWriter):
    """torch's FileWriter, which makes its event file itself, with one that is given."""

    def __init__(self, events: EventFile) -> None:
        self.event_writer = events


class Board(SummaryWriter):
    """torch's SummaryWriter on an `EventFile` in `folder`; what was written there from `step` on is taken back."""

    def __init__(self, folder: Path, step: int) -> None:
        events = EventFile(folder)
        for event in (
            Event(wall_time=time.time(), step=step, file_version="brain.Event:2"),
            Event(wall_time=time.time(), step=step, session_log=SessionLog(status=SessionLog.START)),
        ):
            events.add_event(event)
        self.path, self.events = events.path, Writer(events)
        super().__init__(str(folder))

    def _get_file_writer(self) -> FileWriter:  # the one place where torch's makes its files
        vars(self).update(file_writer=self.events, all_writers={self.log_dir: self.events})
        return self.events
