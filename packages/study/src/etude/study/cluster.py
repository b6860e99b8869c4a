"""The processes of a study on a Ray cluster: a Ray task for each process that `--jobs` would start on this machine.

The task starts the command that a person would give, with the Python that the worker itself runs in. All that matters
is in the folder, on storage that all machines see; Ray is asked for machines, and to try again where one was lost.
Whoever works in a folder holds a claim on it (`etude.claims`): the study on OUT; the worker on the folder of each
trial, until the process that it starts takes that over. So a worker that was given up but lives on, and its successor,
are never at work in one folder, and the successor goes on from the checkpoint.
"""

import logging
import math
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from etude import claims, files
from etude.claims import Claim
from etude.errors import UserError
from etude.signals import STOP
from etude.study.jobs import failure, popen

RETRIES = 10  # times that a task is tried again after its machine was lost
PATIENCE = 60.0  # seconds in which a node has to say what it sees
LOOK = 0.5  # seconds between two looks of a worker: has its process ended, is it to stop


@dataclass(frozen=True)
class Order:
    """What a worker is told: a command, and where its study is at work."""

    command: list[str]
    given: bytes
    log: Path
    folders: list[Path]
    threads: int
    driver: Path
    """the claim of the study on OUT"""
    token: str
    """how that file begins"""
    folder: Path
    """where the study was started: flags may name files from there"""
    environment: Mapping[str, str]


def stop_file(driver: Path) -> Path:
    """It is there if the runs of that study shall save and end."""
    return driver.with_name(driver.name.replace("claim", "stop"))


def sees(driver: Path, token: str) -> bool:
    """Whether OUT is seen, and is that of the study at work."""
    try:
        return driver.read_text("utf-8").startswith(token)
    except OSError:
        return False


def is_over(driver: Path) -> bool:
    """Whether the study has been asked to stop, or another has followed it; not known: it goes on."""
    with suppress(OSError):
        return stop_file(driver).exists() or driver.read_bytes().endswith(claims.TAKEN.encode())
    return False


def fill(order: Order) -> int:
    """On a worker: does what is ordered, and returns the exit code. Raises UserError if it does not see OUT."""
    if not sees(order.driver, order.token):
        raise UserError(unseen(order.driver.parent))
    if is_over(order.driver):
        return 0
    with ExitStack() as held:
        for folder in order.folders:
            held.callback(waited(folder).close)
        os.chdir(order.folder if order.folder.is_dir() else order.driver.parent)
        more = {**order.environment, claims.WORKER: str(os.getpid())}
        process = popen([sys.executable, *order.command[1:]], order.given, order.log, order.threads, more)
        asked = False
        try:
            while process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(LOOK)
                if not asked and is_over(order.driver):
                    asked = True
                    process.send_signal(STOP)
        finally:
            if process.poll() is None:
                process.send_signal(STOP)
                process.wait()
        return process.returncode


def waited(folder: Path) -> Claim:
    """The claim on a folder, as soon as whoever works there, on a machine that was given up, is gone."""
    while True:
        try:
            return claims.claim(folder)
        except BlockingIOError:
            time.sleep(LOOK)


def look(driver: Path, token: str, module: str) -> str:
    """On a worker: what is missing there; empty if nothing is."""
    if not sees(driver, token):
        return unseen(driver.parent)
    return "" if find_spec(module) else f"{module} is not installed there for {sys.executable}"


def say(told: Mapping[str, Any], **_: Any) -> None:
    """What Ray itself has to say, such as that a machine is lost, in a line."""
    for text in told["lines"]:
        print(f"ray: {files.shortened(str(text).strip().partition(chr(10))[0])}", flush=True)


def unseen(out: Path) -> str:
    return f"it does not see {out}, which has to be on storage that all machines share: give such an --out"


@dataclass
class Cluster:
    """The machines of a Ray cluster, as the place where a study's processes are."""

    address: str
    cpus: int = 1
    gpus: float = 0
    """of each process"""
    claim: Claim | None = None
    token: str = ""
    _counted: tuple[float, int] = field(default=(-math.inf, 0))

    def connect(self) -> None:
        """Raises UserError if Ray is not installed, or if there is no cluster, or none with such machines."""
        if self.address != "auto" and not re.fullmatch(r"[^\s:/]+:\d+|\[\S+\]:\d+", self.address):
            raise UserError(f"--ray {self.address}: give auto or HOST:PORT, on a machine of the cluster")
        # Else a driver below `uv run` has Ray start every worker by `uv run`, which resolves the environment anew.
        os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
        try:
            import ray
        except ModuleNotFoundError as error:
            raise UserError("--ray needs Ray, which is missing: uv sync --all-packages, or pip install ray") from error
        try:
            if self.address != "auto":  # Ray would try for a minute, and say so in many lines
                host, _, port = self.address.rpartition(":")
                socket.create_connection((host.strip("[]"), int(port)), 10).close()
            ray.init(address=self.address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
        except Exception as error:  # of many kinds, which Ray does not document
            remedy = "start one with `ray start --head`, or give the address that it says"
            wrong = f"no Ray cluster can be reached at {self.address} ({files.reason(error)})"
            raise UserError(f"{wrong}: {remedy}") from None
        # Ray has no switch for this: of each machine that is lost it prints the last 20 lines that were logged there.
        import_module("ray._private.worker").__dict__["print_to_stdstream"] = say
        if not self.slots():
            what = f"{self.cpus} CPUs" + f" and {self.gpus:g} GPUs" * bool(self.gpus)
            raise UserError(f"no machine of the Ray cluster has {what}: ask for fewer with --cpus and --gpus")

    def nodes(self) -> dict[str, int]:
        """How many processes each machine that is up can do at once, if any."""
        import ray

        found = {}
        for node in ray.nodes():
            has = node["Resources"]
            count = int(has.get("CPU", 0) // self.cpus)
            if self.gpus:
                count = min(count, int(has.get("GPU", 0) / self.gpus + 1e-9))
            if node["Alive"] and count:
                found[node["NodeID"]] = count
        return found

    def slots(self) -> int:
        when, count = self._counted
        if time.monotonic() - when > 5:
            count = sum(self.nodes().values())
            self._counted = time.monotonic(), count
        return count

    @property
    def driver(self) -> Path:
        """The file of the claim on OUT, as workers find it."""
        assert self.claim is not None
        return self.claim.file.absolute()

    @property
    def jobs(self) -> int:
        return max(1, self.slots())

    @property
    def room(self) -> int:
        """So many that no machine waits for this one, and that a cluster which can grow sees what for."""
        return 2 * self.jobs

    def use(self, claim: Claim, module: str) -> None:
        """Begins work for the study that has this claim. Raises UserError if a machine does not see it."""
        self.claim = claim
        self.token = "".join(claim.file.read_text("utf-8").splitlines(keepends=True)[:3])  # without the beats
        for left in self.driver.parent.glob(".stop-*"):  # their studies are over, and their numbers do not come again
            left.unlink()
        self.probe(module)

    def probe(self, module: str) -> None:
        """Raises UserError if a machine does not see the claim, or has no such module."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as Only

        asked = {}
        for node in self.nodes():
            options: Any = {"num_cpus": 0, "max_retries": 1, "scheduling_strategy": Only(node, soft=False)}
            asked[ray.remote(look).options(**options).remote(self.driver, self.token, module)] = node
        answered, silent = ray.wait([*asked], num_returns=len(asked), timeout=PATIENCE)
        names = {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes()}
        for ref in answered:
            try:
                problem = ray.get(ref)
            except (ray.exceptions.TaskUnschedulableError, ray.exceptions.NodeDiedError):
                continue  # that machine was lost before Ray noticed; each that joins later looks before it works
            except ray.exceptions.RayError as error:
                problem = files.reason(error)
            if problem:
                raise UserError(f"{names[asked[ref]]}: {problem}")
        if silent:
            raise UserError(f"{names[asked[silent[0]]]}: it does not answer within {PATIENCE:.0f} s: see `ray status`")

    def start(self, command: list[str], given: bytes, log: Path, folders: list[Path]) -> Any:
        import ray

        own = {key: value for key, value in os.environ.items() if key.startswith("ETUDE_")}
        order = Order(command, given, log, folders, self.cpus, self.driver, self.token, Path.cwd(), own)
        name = f"{command[3]} {folders[0].parent.name} {folders[0].name}"
        options: Any = {"num_cpus": self.cpus, "num_gpus": self.gpus, "max_retries": RETRIES, "name": name}
        return ray.remote(fill).options(**options).remote(order)

    def ended(self, processes: Sequence[Any]) -> dict[Any, str]:
        import ray

        assert self.claim is not None
        self.claim.check()
        over, _ = ray.wait([*processes], num_returns=len(processes), timeout=0.1) if processes else ([], [])
        found = {}
        for process in over:
            try:
                found[process] = failure(ray.get(process))
            except ray.exceptions.RayTaskError as error:
                found[process] = files.reason(error.cause if isinstance(error.cause, UserError) else error)
            except ray.exceptions.RayError as error:
                found[process] = f"Ray gave it up after {RETRIES} tries more ({files.reason(error)})"
        return found

    def stop(self, processes: Sequence[Any], at_once: bool = False) -> None:
        import ray

        stop_file(self.driver).touch()
        for process in processes if at_once else ():
            ray.cancel(process, force=True)
