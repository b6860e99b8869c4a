"""What a run says while it trains: the progress bar, one line per epoch, and TensorBoard's curves."""

import math
import sys
import time
from collections import deque
from typing import Any

from torch import Tensor
from torch.amp import GradScaler
from tqdm import tqdm

from etude.config import Fit
from etude.errors import UserError
from etude.train.device import Device
from etude.train.progress import Progress
from etude.train.run import Run
from etude.train.watch import Watch


class Reporter:
    """Tells people and TensorBoard how the training goes, without making a step wait.

    A step only appends tensors to a list; once a second they are turned into numbers and written together. On a CPU the
    numbers cost nothing, so a loss that is no number is found before its gradient is used; on a GPU, where asking for a
    number waits for the device, it is found at most a second later, and before anything is saved.
    """

    def __init__(
        self,
        run: Run,
        cfg: Fit,
        device: Device,
        progress: Progress,
        scaler: GradScaler,
        pause: float = 1.0,
        watch: Watch | None = None,
    ) -> None:
        """`pause`: seconds between two writings, which take a millisecond."""
        self.run, self.cfg, self.device, self.progress, self.pause = run, cfg, device, progress, pause
        self.scaler, self.watch = scaler, watch
        self.waiting: list[tuple[int, Tensor, float, Tensor, float]] = []
        self.recent: deque[float] = deque(maxlen=500)
        self.last_step = self.last_flush = self.epoch_began = time.perf_counter()
        self.items, self.trained = 0, self.last_step
        self.steps = 0  # of the whole run, as far as is known
        self.bar: Any = None

    def __enter__(self) -> "Reporter":
        if self.device.leads and sys.stderr.isatty():
            self.bar = tqdm(total=None, unit="step", dynamic_ncols=True, smoothing=0.05, initial=self.progress.step)
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def start_epoch(self, batches: int) -> None:
        """`batches`: how many this epoch has, done or not."""
        left = batches - self.progress.batch + (self.cfg.epochs - self.progress.epoch) * batches
        self.steps = self.progress.step + left
        self.items = 0
        self.last_step = self.epoch_began = time.perf_counter()

    def step(self, loss: Tensor, lr: float, norm: Tensor, items: int) -> None:
        """Notes one optimiser step. Raises UserError, naming the step, if its loss or gradient is no number."""
        now = time.perf_counter()
        self.waiting.append((self.progress.step + 1, loss, lr, norm, items / (now - self.last_step)))
        self.last_step = now
        self.items += items
        self.trained = now
        if self.device.where.type == "cpu" and not (math.isfinite(loss) and math.isfinite(norm)):
            self.flush()
        if now - self.last_flush > self.pause:
            self.flush()

    def flush(self) -> None:
        waiting, self.waiting = self.waiting, []
        skipped = 0
        for step, loss, lr, norm, rate in waiting:
            value, length = float(loss), float(norm)
            if not math.isfinite(value):
                raise self.diverged(f"the loss became {value} at step {step}")
            if not math.isfinite(length):
                if not self.scaler.is_enabled():
                    raise self.diverged(f"the gradient became {length} at step {step}")
                skipped = step  # by the scaler, which from now on scales less
                self.progress.skipped += 1
            self.recent.append(value)
            scalars = {"loss": value, "lr": lr, "gradient_norm": length, "items_per_s": rate}
            self.run.scalars({f"step/{name}": number for name, number in scalars.items()}, step)
        if skipped and self.scaler.get_scale() < 1:  # so it is not by being scaled up that the gradient overflows
            raise self.useless(f"the gradient is no number in fp16, though not scaled up any more, at step {skipped}")
        if self.bar is not None and waiting:
            self.bar.total = self.steps
            self.bar.set_description(f"epoch {self.progress.epoch}/{self.cfg.epochs}", refresh=False)
            self.bar.set_postfix_str(f"loss {sum(self.recent) / len(self.recent):.4f}", refresh=False)
            self.bar.update(waiting[-1][0] - self.bar.n)
        if self.watch:
            self.watch.tell(self.run)
        self.run.flush()
        self.last_flush = time.perf_counter()

    def check_scores(self, scores: dict[str, float]) -> None:
        """Raises UserError if a validation score is no number: an epoch's last step has no next loss to show it."""
        for name, score in scores.items():
            if not math.isfinite(score):
                raise self.diverged(f"the validation {name} became {score} after step {self.progress.step}")

    def check_steps(self) -> None:
        """Raises UserError, at the end of a run, if fp16 could not take most of its steps."""
        skipped, steps = self.progress.skipped, self.progress.step
        if skipped > steps / 2:
            raise self.useless(f"the gradient was no number in fp16 at {skipped} of {steps} steps")

    def useless(self, what: str) -> UserError:
        return UserError(
            f"{what}: such steps are skipped, so the model does not learn ({self.progress.skipped} were, up to epoch "
            f"{min(self.progress.epoch, self.cfg.epochs)}): start a new run with --fit.precision bf16 or fp32"
        )

    def diverged(self, what: str) -> UserError:
        return UserError(
            f"{what} (epoch {self.progress.epoch}): training stopped; the last good checkpoint is "
            f"{self.run.path}/checkpoints/last.pt; try a lower --fit.lr or --fit.clip 1"
        )

    def epoch(self, row: dict[str, Any], improved: bool) -> None:
        """One line and one set of scalars per finished epoch; `row` as in metrics.jsonl."""
        self.flush()
        now = time.perf_counter()
        rate = self.items / max(self.trained - self.epoch_began, 1e-9)
        told = [f"epoch {row['epoch']:>3}/{self.cfg.epochs}"]
        for split in ("train", "valid"):
            self.run.scalars({f"{name}/{split}": value for name, value in row[split].items()}, row["step"])
            told.append(f"{split} " + "  ".join(f"{name} {value:.4f}" for name, value in row[split].items()))
        self.run.scalars({"epoch": row["epoch"]}, row["step"])
        if not self.device.leads:
            return
        told.append(f"{rate:,.0f} items/s  {now - self.epoch_began:.0f} s")
        line = "  |  ".join(told) + "  *best" * improved
        if self.bar is not None:
            self.bar.write(line, file=sys.stdout)
        else:
            print(line, flush=True)
        self.last_step = time.perf_counter()
