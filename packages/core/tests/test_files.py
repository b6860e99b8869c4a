"""What is written where people say: files, links, pipes and devices, on file systems that offer little or are full."""

import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toy.__main__ import PACKAGE
from toy.config import Config

from etude import cli, events, files
from etude.errors import UserError
from etude.testing import CPU
from etude.train import run


def toy(*words):
    return cli.main(PACKAGE, [*words])


def said(capsys):
    """The one line of a refusal."""
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("toy: ")
    return line


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "r"
    assert toy("train", "--run", str(folder), "--fit.epochs", "1") == 0
    return folder


def predict(trained, out):
    return toy("predict", str(trained), "123", "--out", str(out))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# -------------------------------------------------------------------------------------------- what a path may stand for


def test_a_pipe_is_written_through(trained, tmp_path):
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    assert predict(trained, pipe) == 0
    reader.join()
    assert read[0].startswith("123\t") and stat.S_ISFIFO(pipe.stat().st_mode)
    assert names(tmp_path) == ["pipe"]


def test_a_device_is_written_through(trained):
    master, slave = os.openpty()
    try:
        assert predict(trained, os.ttyname(slave)) == 0
        assert os.read(master, 100).startswith(b"123\t")
    finally:
        os.close(master)
        os.close(slave)


def test_a_link_to_a_device_stays(trained, tmp_path, capsys):
    """Not the device itself: who may make it a file, as this test on code that does, would break the machine."""
    (tmp_path / "null").symlink_to("/dev/null")
    (tmp_path / "full").symlink_to("/dev/full")
    assert predict(trained, tmp_path / "null") == 0
    assert capsys.readouterr().err == ""
    assert predict(trained, tmp_path / "full") == 2
    assert "No space left on device" in said(capsys)
    assert all(stat.S_ISCHR((tmp_path / name).stat().st_mode) for name in ("null", "full"))
    assert names(tmp_path) == ["full", "null"]


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_its_target_is_written(trained, tmp_path, there):
    (tmp_path / "sub").mkdir()
    target, link = tmp_path / "sub" / "target", tmp_path / "link"
    if there:
        target.write_text("old")
        target.chmod(0o640)
    link.symlink_to("sub/target")
    assert predict(trained, link) == 0
    assert link.is_symlink() and target.read_text().startswith("123\t")
    assert stat.S_IMODE(target.stat().st_mode) == (0o640 if there else 0o644)
    assert names(tmp_path / "sub") == ["target"]


@pytest.mark.parametrize("out", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_standard_output_is_a_file_too(trained, tmp_path, out):
    """What stood in the file that it goes to is added to, as by the shell's >>."""
    log = tmp_path / "log"
    log.write_text("earlier\n")
    with log.open("ab") as stream:
        subprocess.run(
            [sys.executable, "-m", "toy", "predict", trained, "123", "--out", out], stdout=stream, check=True
        )
    first, second = log.read_text().splitlines()
    assert first == "earlier" and second.startswith("123\t")


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o664, 0o755])
def test_permissions_stay(trained, tmp_path, mode):
    out = tmp_path / "out"
    out.write_text("old")
    out.chmod(mode)
    os.chown(out, 12, 34)
    before = out.stat().st_ino
    assert predict(trained, out) == 0
    now = out.stat()
    assert (stat.S_IMODE(now.st_mode), now.st_uid, now.st_gid) == (mode, 12, 34)
    assert now.st_ino != before  # replaced by renaming


def test_a_new_file_is_as_the_umask_says(trained, tmp_path):
    before = os.umask(0o027)
    try:
        assert predict(trained, tmp_path / "out") == 0
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o640


def test_a_name_may_be_as_long_as_names_can_be(trained, tmp_path):
    assert predict(trained, tmp_path / ("x" * 255)) == 0


@pytest.mark.parametrize(
    ("out", "why"),
    [
        ("", "'' is not a path"),
        (" ", "' ' is not a path"),
        ("x" * 256, "it is too long"),
        ("a\0b", "no name can contain one of its characters"),
        ("nowhere/out", "there is no such folder"),
        ("file/out", "what should be its folder is a file"),
        ("folder", "it is a folder"),
        ("circle", "its links go in a circle"),
        ("/proc/out", "there is no such folder"),
    ],
)
def test_what_cannot_be_written_is_one_line(trained, tmp_path, capsys, out, why):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "circle").symlink_to("circle")
    assert toy("predict", str(trained), "123", f"--out={out}" if out else "--out", *([] if out else [""])) == 2
    assert why in said(capsys)
    assert names(tmp_path) == ["circle", "file", "folder"] and (tmp_path / "file").read_text() == "mine"


def test_threads_may_write_the_same_file(tmp_path):
    contents = [bytes([n]) * 100_000 for n in range(8)]
    threads = [threading.Thread(target=files.write, args=(tmp_path / "out", content)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "out").read_bytes() in contents and names(tmp_path) == ["out"]


# ------------------------------------------------------------------------------------- what a file system may not offer


@pytest.fixture
def failing(monkeypatch):
    """Lets a function of `os` fail with an error for the files that it is asked about."""

    def fail(name, number, when=lambda *_: True):
        real = getattr(os, name)

        def maybe(*args, **kwargs):
            if when(*args):
                raise OSError(number, os.strerror(number))
            return real(*args, **kwargs)

        monkeypatch.setattr(os, name, maybe)

    return fail


def is_folder(number):
    return stat.S_ISDIR(os.fstat(number).st_mode)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EPERM])
@pytest.mark.parametrize("folders_only", [True, False])
def test_without_fsync(failing, tmp_path, number, folders_only):
    """As on the shared folders of virtual machines, old CIFS, some FUSE: a run starts, goes on and ends."""
    failing("fsync", number, is_folder if folders_only else lambda *_: True)
    assert toy("train", "--run", "r", "--fit.epochs", "1") == 0
    assert toy("evaluate", "r") == 0
    assert toy("predict", "r", "1", "--out", "out") == 0


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_where_folders_cannot_be_opened(failing, tmp_path, number):
    failing("open", number, lambda path, *_: os.path.isdir(path))
    files.write(tmp_path / "out", b"new")
    assert (tmp_path / "out").read_bytes() == b"new"


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("folder", [True, False])
def test_a_failure_is_no_lack(failing, tmp_path, number, folder):
    failing("fsync", number, lambda handle: is_folder(handle) == folder)
    with pytest.raises(OSError, match=os.strerror(number)):
        files.write(tmp_path / "out", b"new")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_without_locks(monkeypatch, number, capsys):
    import fcntl

    def lock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", lock)
    assert toy("train", "--run", "r", "--fit.epochs", "1") == 0
    assert "there are no locks here" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------------------- full disks


@pytest.fixture
def full(monkeypatch):
    """Makes the disk full for the files of these names, and not for others, until the function is called anew."""
    what = []

    def check(file):
        if any(Path(file).match(pattern) for pattern in what):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    class Half:
        """A file on a disk that takes half of what it gets."""

        def __init__(self, file, path):
            self.file, self.path = file, path

        def write(self, data):
            try:
                check(self.path)
            except OSError:
                self.file.write(data[: len(data) // 2])
                raise
            return self.file.write(data)

        def __getattr__(self, name):
            return getattr(self.file, name)

    write, begin = files.write, events.EventFile.flush

    def full_write(file, data, before=None):
        check(file)
        write(file, data, before)

    def full_flush(one):
        if not isinstance(one.file, Half):
            one.file = Half(one.file, one.path)
        begin(one)

    monkeypatch.setattr(files, "write", full_write)
    monkeypatch.setattr(events.EventFile, "flush", full_flush)
    return lambda *patterns: what.__setitem__(slice(None), patterns)


@pytest.mark.parametrize(
    "name",
    [
        *("config.yaml", "environment.json", "about.json", "metrics.jsonl", "result.json"),
        *("checkpoints/last.pt", "checkpoints/best.pt", "samples/*-000.md", "samples/*-end.md", "tb/events*"),
    ],
)
def test_a_full_disk_is_one_line_whichever_file_it_meets(full, capsys, name):
    full(name)
    assert toy("train", "--run", "r", "--fit.epochs", "2") == 2
    line = said(capsys)
    assert "No space left on device" in line
    opening = "cannot write the run folder r: " in line
    remedy = "; what was saved before is intact: free some space, or see that it can be written, then go on with: "
    assert opening or remedy in line
    full()
    assert toy("train", "--run", "r", "--fit.epochs", "2") == 0
    assert toy("train", "--run", "whole", "--fit.epochs", "2") == 0
    assert Path("r/metrics.jsonl").read_text() == Path("whole/metrics.jsonl").read_text()


def test_events_are_whole_after_a_full_disk(full, tmp_path):
    one = run.Run(tmp_path / "r", Config(), CPU)
    one.open_tensorboard(0, "best/loss")
    one.scalars({"x": 1.0}, 1)
    one.flush()
    full("events*")
    one.scalars({"x": 2.0}, 2)
    with pytest.raises(UserError, match="cannot save .*events.*: No space left on device; what was saved before"):
        one.flush()
    full()
    one.scalars({"x": 3.0}, 3)
    one.close()
    assert [(point.step, point.value) for point in scalars(tmp_path / "r", "x")] == [(1, 1.0), (3, 3.0)]


def test_points_on_a_full_disk_are_one_line(full, tmp_path):
    import torch

    one = run.Run(tmp_path / "r", Config(), CPU)
    one.open_tensorboard(0, "best/loss")
    full("tensors.tsv")
    with pytest.raises(UserError, match=r"cannot save .*tensors\.tsv: No space left on device"):
        one.embedding("latents", torch.zeros(2, 3), {"text": ["a", "b"]}, 0)
    one.close()


# ------------------------------------------------------------------------------------------------------------ the clock


def scalars(folder, tag):
    """What TensorBoard itself reads."""
    accumulator = EventAccumulator(str(folder / "tb"))
    accumulator.Reload()
    return accumulator.Scalars(tag)


@pytest.mark.parametrize("hours", [(0, -2), (0, 10, -3), (0, 0), (0, -2, -4, 5), (5, 0)])
def test_tensorboard_shows_every_epoch_whatever_the_clock_says(tmp_path, monkeypatch, hours):
    """The clock jumps back or forward between starts of one run; two of them may be in the same second."""
    import time

    real, now = time.time, time.time()
    for start, shift in enumerate(hours):
        monkeypatch.setattr(time, "time", lambda shift=shift: (now if hours == (0, 0) else real()) + 3600 * shift)
        one = run.Run(tmp_path / "r", Config(), CPU)
        one.open_tensorboard(2 * start + 1 if start else 0, "best/loss")
        for step in (1, 2, 3):  # the third is what a kill cut off: it comes again
            one.scalars({"x": 100.0 * start + step}, 2 * start + step)
        one.close()
    steps = [(point.step, point.value) for point in scalars(tmp_path / "r", "x")]
    expected = [(2 * start + step, 100.0 * start + step) for start in range(len(hours)) for step in (1, 2)]
    assert steps == [*expected, (2 * len(hours) + 1, 100.0 * (len(hours) - 1) + 3)]
    (tmp_path / "r" / "result.json").unlink(missing_ok=True)
    for file in (tmp_path / "r" / "tb").glob("events*"):  # as after copying them in any order
        os.utime(file, (-int(file.name.split(".")[3]), -int(file.name.split(".")[3])))
    assert toy("report", "r", "--only", "tensorboard") == 0
    import zipfile

    with zipfile.ZipFile(tmp_path / "r" / "tensorboard0.zip") as archive:
        archive.extractall(tmp_path / "unpacked")
    (packed,) = (tmp_path / "unpacked").rglob("events*")
    accumulator = EventAccumulator(str(packed))
    accumulator.Reload()
    assert [(point.step, point.value) for point in accumulator.Scalars("x")] == steps
