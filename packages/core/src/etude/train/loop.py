"""The one training loop. Tasks contain no loop, this file contains no task.

Three rules carry it: a step returns sums and counts, never means, as averages of averages are not exact; randomness is
a function of (seed, epoch, batch or example), so no generator's state is saved and a killed run resumes bitwise equal;
and `Task.show` may look, never steer: what it draws changes no later step.
"""

from collections.abc import Generator
from contextlib import closing
from typing import Any

import torch
from torch import nn

from etude import tested
from etude.config import Fit
from etude.errors import UserError
from etude.fingerprint import fingerprint
from etude.signals import Stopped, watch_signals
from etude.train import checkpoint, optim
from etude.train.device import Device
from etude.train.progress import Progress
from etude.train.reporter import Reporter
from etude.train.run import Run, compare_data
from etude.train.step import Learner, Request, Step
from etude.train.task import Task, parameters, summary


def fit(task: Task, cfg: Fit, run: Run, device: Device) -> dict[str, Any]:
    """Trains `task` to the end and returns the result, which is also written to the run folder.

    Goes on from its last checkpoint. Raises Stopped after a signal, UserError as for a loss that is no number.
    """
    learner = Learner(task, cfg, device)
    answer = None
    with watch_signals() as asked, closing(course(learner, run, asked)) as requests:
        while True:
            try:
                request = requests.send(answer)
            except StopIteration as end:
                return dict(end.value)
            answer = learner.do(request)


def course(learner: Learner, run: Run, asked: list[int]) -> Generator[Request, Any, dict[str, Any]]:
    """The course of a run: asks for what is to be computed next, and decides, saves and reports what came of it.

    It is sent the answers, by `learner` alone or by a program for many runs (`etude.stacked`). `asked`: the signals so
    far. The result and what is raised are those of `fit`.
    """
    task, cfg, device, progress = learner.task, learner.cfg, learner.device, begin(learner, run)
    pause, watch = min(10.0, 1 / learner.time_share), learner.watch
    with Reporter(run, cfg, device, progress, learner.scaler, pause, watch) as reporter:
        if progress.step == 0:
            save(learner, run, progress)
            look(task, run, device, "before", 0)
        while progress.epoch <= cfg.epochs and not 0 < cfg.patience <= len(progress.rows) - progress.best_epoch:
            epoch, plan = progress.epoch, task.plan("train", progress.epoch, cfg.batch_size)
            task.model.train()
            progress.start_clock()
            reporter.start_epoch(len(plan))
            for batch in range(progress.batch, len(plan)):
                lr = optim.learning_rate(cfg, (epoch - 1 + (batch + 0.5) / len(plan)) / cfg.epochs)
                totals, norm = yield Step(epoch, batch, plan[batch], lr)
                reporter.step(totals.mean("loss"), lr, norm, len(plan[batch]))
                progress.end_step(totals)
                stop = agreed(asked, device)
                if stop or progress.elapsed > 60 * cfg.save_every:
                    reporter.flush()
                    save(learner, run, progress)
                    if stop:
                        raise Stopped(stop)
            reporter.flush()
            check_equal(task.model, progress, device)

            valid = task.scores((yield "valid"))
            reporter.check_scores(valid)
            improved = is_better(task, valid, progress.rows)
            progress.end_epoch(task.scores(progress.seen), valid)
            reporter.epoch(progress.rows[-1], improved)
            if improved or cfg.keep == "last":
                progress.best_epoch = epoch
            look(task, run, device, f"epoch {epoch}", progress.step)
            if watch:
                watch.show(run, f"epoch {epoch}", progress.step, task)
            reporter.flush()
            save(learner, run, progress)  # after all else of this epoch: what a kill cuts off is done again, not twice
            if progress.best_epoch == epoch:
                save_best(task, run, progress)  # not before: an epoch that is done again may come out otherwise
            run.write_rows(progress.rows)
            if (stop := agreed(asked, device)) and progress.epoch <= cfg.epochs:
                raise Stopped(stop)
        reporter.check_steps()
        if watch:
            watch.show(run, "after", progress.step, task)
        return finish(task, run, device, progress)


def begin(learner: Learner, run: Run) -> Progress:
    """Where the run's last checkpoint left it, with the learner as it was then; or the start.

    Raises UserError if the checkpoint is of other data, or none that one can go on from.
    """
    task, device, progress, fingerprints = learner.task, learner.device, Progress(), dict(learner.task.fingerprints)
    if state := checkpoint.newest(run.path, tell=device.leads):
        compare_data(run.path, state.get("fingerprints"), fingerprints)
        try:
            learner.restore(state, run.path)
            progress = Progress.restore(state, device)
        except (KeyError, ValueError, TypeError) as error:
            reason = f"{run.path}/checkpoints/last.pt is no checkpoint to go on from ({error!r})"
            raise UserError(f"{reason}: put a copy of it there, or give --run another folder") from None
        if progress.batch == 0 and 0 < progress.best_epoch == len(progress.rows) and not has_best(run, progress):
            save_best(task, run, progress)  # what a kill came before
    run.write_rows(progress.rows)
    words = {"task": type(run.config).__module__.partition(".")[0], "data": task.data, "model": summary(task)}
    words |= {"architecture": str(task.model), "metric": task.metric, "better": task.better[task.metric]}
    run.write_result("about.json", words | {"fingerprints": fingerprints})
    run.open_tensorboard(progress.step + 1 if progress.step else 0, f"best/{task.metric}")
    check_equal(task.model, progress, device)
    progress.start_clock()
    return progress


def save(learner: Learner, run: Run, progress: Progress) -> None:
    """All that it takes to go on from here: checkpoints/last.pt."""
    progress.seconds += progress.elapsed * learner.time_share
    progress.start_clock()
    fingerprints = {"fingerprints": dict(learner.task.fingerprints)}
    run.save("last", learner.state() | progress.state() | fingerprints, keep=True)


def save_best(task: Task, run: Run, progress: Progress) -> None:
    """All that it takes to predict, of the epoch that has just ended: checkpoints/best.pt."""
    valid = progress.rows[-1]["valid"]
    state = {"model": task.model.state_dict(), "epoch": progress.best_epoch, "valid": valid, "assets": task.assets()}
    run.save("best", state | {"fingerprints": dict(task.fingerprints)})


def has_best(run: Run, progress: Progress) -> bool:
    """Whether checkpoints/best.pt is of the best epoch."""
    try:
        return checkpoint.read(run.path).get("epoch") == progress.best_epoch
    except UserError:
        return False


def is_better(task: Task, valid: dict[str, float], rows: list[dict[str, Any]]) -> bool:
    """Whether the validation score is better than in all epochs before."""
    sign = 1 if task.better[task.metric] == "higher" else -1
    return all(sign * valid[task.metric] > sign * row["valid"][task.metric] for row in rows)


def agreed(asked: list[int], device: Device) -> int:
    """The signal to stop for, or 0; the same in all processes, whichever was asked, so that all stop at one step."""
    (stop,) = device.highest([max(asked, default=0)])
    return stop


def check_equal(model: nn.Module, progress: Progress, device: Device) -> None:
    """Raises UserError, in all processes, if they are not at the same step, or their weights differ in a bit."""
    if device.world == 1:
        return
    marks: dict[str, Any] = {"its step": progress.step}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        marks[name] = fingerprint(tensor)
    for rank, other in enumerate(device.gather(marks)):
        apart = [name for name, mark in marks.items() if other.get(name) != mark]
        if apart:
            told = f"{apart[0]} differs between {device.rank} and {rank} (with {len(apart) - 1} more)"
            remedy = "start a new run with one process, or find what the task does otherwise in one of them"
            raise UserError(f"the processes have come apart by step {progress.step}: {told}; {remedy}")


def finish(task: Task, run: Run, device: Device, progress: Progress) -> dict[str, Any]:
    """Shows and writes down how the run ended, with the best weights."""
    model = task.model
    if device.leads:
        best = checkpoint.read(run.path)
        if best.get("epoch") != progress.best_epoch:
            other = f"{run.path}/checkpoints/best.pt is of epoch {best.get('epoch')}"
            raise UserError(f"{other}, but the best is epoch {progress.best_epoch}: train again in another folder")
        checkpoint.fill(model, best, run.path)  # what is shown last is what will be evaluated
        look(task, run, device, "after", progress.step)
    run.note("model", f"{summary(task)}\n\n```\n{model}\n```", progress.step)
    chosen = progress.rows[progress.best_epoch - 1]
    run.scalars({f"best/{name}": value for name, value in chosen["valid"].items()}, progress.step)
    run.flush()
    result = {
        "epochs": len(progress.rows),
        "best_epoch": progress.best_epoch,
        "valid": chosen["valid"],
        "train": chosen["train"],
        "parameters": parameters(model),
        "seconds": round(progress.seconds, 1),
        "device": str(device),
        "memory_mb": round(device.peak_memory() / 2**20),
        "weights": tested.digest(run.path / "checkpoints" / "best.pt") if device.leads else None,
    }
    run.write_result("result.json", result)
    return result


@torch.no_grad()
def look(task: Task, run: Run, device: Device, when: str, step: int) -> None:
    """Lets the task show itself. It may look, never steer: in evaluation mode batch norm does not learn from it."""
    if device.leads:
        task.model.eval()
        task.show(run, when, step)
