"""TensorBoard's writer for a run."""

import time
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from etude import torch_private
from etude.events import EventFile
from etude.torch_private import Event, SessionLog


def board(folder: Path, step: int) -> SummaryWriter:
    """torch's SummaryWriter on an `EventFile` in `folder`; what was written there from `step` on is taken back."""
    events = EventFile(folder)
    start = SessionLog(status=SessionLog.START)
    events.add_event(Event(wall_time=time.time(), step=step, file_version="brain.Event:2"))
    events.add_event(Event(wall_time=time.time(), step=step, session_log=start))
    return torch_private.summary_writer(str(folder), events)
