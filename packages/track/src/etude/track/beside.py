"""`train --track`: a process beside the run that follows its folder."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from etude.errors import UserError
from etude.signals import OWN

LONGEST = 60.0  # seconds that a run waits for its follower at the end


class Beside:
    """A follower of one run; what it says is in the run's track.txt."""

    def __init__(self, module: str, to: str) -> None:
        """`module`: of the task. Raises UserError if the tracker is not installed."""
        if find_spec(to) is None:
            raise UserError(f"--track {to}: the tracker is not installed: uv sync --all-packages, or pip install {to}")
        self.command = [sys.executable, "-m", module, "track", "--to", to, "--follow"]
        self.process: subprocess.Popen[bytes] | None = None
        self.said = Path()

    def start(self, run: Path) -> str:
        """Starts it; returns what is said of that."""
        self.said = run / "track.txt"
        try:
            with self.said.open("ab") as out:
                # OWN: Ctrl-C stops the run alone, whose end is sent, too.
                streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": out}
                self.process = subprocess.Popen([*self.command, str(run)], **streams, **OWN)
        except OSError as error:
            return f"it could not be started ({error.strerror}); later: {' '.join(self.command[2:4])} {run}"
        return f"what it says is in {self.said}"

    def end(self) -> str:
        """Waits until the rest is sent; returns how that went."""
        if self.process is None:
            return "nothing was sent"
        try:
            code = self.process.wait(LONGEST)
        except subprocess.TimeoutExpired:
            return f"it is still sending; see {self.said}"
        lines = self.said.read_text("utf-8", "replace").splitlines()
        return f"{'FAILED: ' if code else ''}{lines[-1] if lines else f'exit code {code}'}"
