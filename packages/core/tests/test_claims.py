"""Claims on a folder: one holder at a time, and one that is told when it no longer is."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from toy.config import PACKAGE

from etude import claims, cli
from etude.errors import UserError
from etude.train.device import choose
from etude.train.run import Run

HERE = Path()


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Signs of life come and are missed after less time, here; not in the processes that a test starts."""
    monkeypatch.setattr(claims, "BEAT", 0.1)
    monkeypatch.setattr(claims, "STALE", 1.0)


def elsewhere(monkeypatch):
    """From here on this process is on another machine than those before: it cannot see whether they have ended."""
    monkeypatch.setattr(claims, "machine", lambda: "another")


def falls_silent(claim):
    """Its beats end, and it does not say so."""
    _, _, (_, over), _ = claim.close.peek()
    over.set()


def test_one_holder_at_a_time():
    held = claims.claim(HERE)
    with pytest.raises(BlockingIOError, match=rf"^process {os.getpid()} on "):
        claims.claim(HERE)
    held.close()
    assert claims.holder(HERE) == ""
    claims.claim(HERE).close()
    assert claims.latest(HERE) == 2


def test_a_claim_that_is_forgotten_is_none():
    claims.claim(HERE)
    assert claims.holder(HERE) == ""


def test_of_many_at_once_one_gets_it(monkeypatch):
    """Also where all of them find a stale claim at the same time."""
    old = claims.claim(HERE)
    falls_silent(old)
    elsewhere(monkeypatch)

    def attempt(_):
        try:
            return claims.claim(HERE)
        except BlockingIOError:
            return None

    with ThreadPoolExecutor(8) as several:
        got = [one for one in several.map(attempt, range(8)) if one]
    assert len(got) == 1
    with pytest.raises(UserError, match="was taken over by another process"):
        old.check()
    got[0].check()


def test_who_follows_while_another_still_judges_is_not_taken_over(monkeypatch):
    """Between the judgement that a claim is void and the next claim another may have been faster."""
    claims.claim(HERE).close()
    judged, faster = claims.watched, []

    def slowly(folder):
        found = judged(folder)
        if not faster:
            faster.append(claims.Claim(folder / f".claim-{found[0] + 1}"))
        return found

    monkeypatch.setattr(claims, "watched", slowly)
    with pytest.raises(BlockingIOError):
        claims.claim(HERE)
    faster[0].check()


def test_a_process_that_was_cut_off_writes_nothing_more(monkeypatch, tmp_path):
    """Its folder is had by another, as nothing was heard of it; then it wakes up."""
    monkeypatch.setenv(claims.WORKER, "1")
    config, where = PACKAGE.config(), choose(PACKAGE.config().fit)
    lost = Run(tmp_path / "run", config, where)
    lost.write("a", b"of the first")
    falls_silent(lost._claim)
    elsewhere(monkeypatch)
    found = Run(tmp_path / "run", config, where)
    for attempt in (lambda: lost.write("a", b"late"), lambda: lost.save("last", {}), lambda: lost.write_rows([])):
        with pytest.raises(UserError, match="run was taken over by another process, as this one, cut off or asleep"):
            attempt()
    assert (tmp_path / "run" / "a").read_bytes() == b"of the first"
    found.write("a", b"of the second")
    lost.close()
    found.close()


def test_a_run_on_this_machine_respects_a_claim(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    held = claims.claim(folder)
    with pytest.raises(UserError, match=r"run is in use by another process \(process \d+ on "):
        Run(folder, PACKAGE.config(), choose(PACKAGE.config().fit))
    held.close()
    assert cli.main(PACKAGE, ["train", "--run", str(folder), "--fit.epochs", "1"]) == 0
    assert claims.latest(folder) == 1  # and leaves none of its own


WAITS = """
import time
from pathlib import Path
from etude.claims import claim

held = claim(Path())
print("held", flush=True)
time.sleep(600)
"""


def test_of_a_process_on_this_machine_it_is_known_at_once_that_it_was_killed(monkeypatch):
    monkeypatch.setattr(claims, "STALE", 600.0)
    with subprocess.Popen([sys.executable, "-c", WAITS], stdout=subprocess.PIPE) as other:
        assert other.stdout.readline()
        assert claims.holder(HERE).startswith(f"process {other.pid} on ")
        other.kill()
        assert claims.holder(HERE) == ""  # it may still be a zombie


def test_a_process_ends_with_the_worker_that_it_is_for(tmp_path):
    """And says so with SIGTERM, so that a run saves."""
    child = (
        "import os, signal, time; from pathlib import Path; from etude.signals import end_with, watch_signals\n"
        "with watch_signals() as asked:\n"
        "    end_with(os.getppid()); Path('ready').touch()\n"
        "    while not asked: time.sleep(0.05)\n"
        "    Path('saving').write_text(str(asked[0])); Path('saving').rename('saved')\n"
    )
    worker = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with subprocess.Popen([sys.executable, "-c", worker]) as process:
        wait_for(Path("ready"))
        process.kill()
    wait_for(Path("saved"))
    assert Path("saved").read_text() == str(int(signal.SIGTERM))


def wait_for(file):
    end = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < end
        time.sleep(0.02)
