"""Every file of a run, damaged in every way, met by every verb: one line that names the file and the remedy."""

import os
import shutil
from pathlib import Path

import pytest
from toy.__main__ import PACKAGE

from etude import cli
from etude.testing import CPU

STUDY = "{question: q, metric: accuracy, compare: {norm: [true]}, fixed: {fit.epochs: 1}, seeds: 1}"
RUN = "study/norm=true/seed=0"
VERBS = {
    "train": ["train", "--run", RUN],
    "evaluate": ["evaluate", RUN],
    "predict": ["predict", RUN, "1"],
    "report": ["report", RUN, "--out", "out"],
    "report of a study": ["report", "study", "--out", "out"],
    "study": ["study", "s.yaml", "--out", "study"],
}
FILES = (
    *("config.yaml", "about.json", "environment.json", "metrics.jsonl", "result.json", "test.json"),
    *("checkpoints/best.pt", "checkpoints/last.pt", "checkpoints", "samples/shown-epoch-000.md", "tb", "log.txt"),
)
DAMAGES = {
    "empty": b"",
    "cut": None,
    "text": b"Dear sir,\n",
    "binary": bytes(range(256)),
    "list": b"[]\n",
    "numbers": b"[1, 2]\n",
    "object": b"{}\n",
    "null": b"null\n",
    "other types": b'{"valid": 1, "epochs": "a", "best_epoch": [], "accuracy": "x", "train": 0, "epoch": {}}\n',
    "deep": b"[" * 100_000,
    "folder": None,
    "dangling link": None,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    place = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        (place / "s.yaml").write_text(STUDY)
        assert cli.main(PACKAGE, ["train", "--norm", "--fit.epochs", "1", "--fit.seed", "0", "--run", RUN]) == 0
        assert cli.main(PACKAGE, ["evaluate", RUN]) == 0
        assert cli.main(PACKAGE, ["study", "s.yaml", "--out", "study"]) == 0
    return place


@pytest.fixture(autouse=True)
def no_notebook(monkeypatch):
    """Whose making takes seconds, and which reads what the page reads."""
    monkeypatch.setattr("etude.report.command.NEEDED", ("no_such_module",))


def damage(file, how):
    content = file.read_bytes() if file.is_file() else b""
    if file.is_dir():
        shutil.rmtree(file)
    elif file.exists():
        file.unlink()
    if how == "folder":
        file.mkdir()
    elif how == "dangling link":
        file.symlink_to("nowhere")
    else:
        file.write_bytes(content[: len(content) * 2 // 3] if how == "cut" else DAMAGES[how])


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_no_traceback(whole, tmp_path, monkeypatch, capsys, name):
    """And if a verb refuses, it names a file in one line; what is not read may be damaged."""
    monkeypatch.setattr("etude.train.device.choose", lambda *_: CPU)
    seen = {}
    for how in DAMAGES:
        for verb, words in VERBS.items():
            if verb == "study" and name in ("result.json", "test.json") and how in ("folder", "dangling link"):
                continue  # it would train, or score, anew, in processes
            place = tmp_path / f"{how}, {verb}"
            shutil.copytree(whole, place)
            monkeypatch.chdir(place)
            damage(place / RUN / name, how)
            code = cli.main(PACKAGE, words)
            error = capsys.readouterr().err
            assert code in (0, 1, 2), (how, verb, error)
            if code == 2:
                assert error.startswith("toy: ") and error.count("\n") == 1, (how, verb, error)
                assert name.rpartition("/")[2] in error or RUN in error, (how, verb, error)
            seen[how, verb] = code
    needs = {
        "config.yaml": ("evaluate", "predict"),
        "environment.json": ("report",),
        "about.json": ("report",),
        "metrics.jsonl": ("report",),
        "result.json": ("train", "report", "study"),
        "test.json": ("report",),
        "checkpoints/best.pt": ("evaluate", "predict"),
    }
    for verb in needs.get(name, ()):
        for how in ("text", "binary", "cut"):
            assert seen[how, verb] == 2, (how, verb)


@pytest.mark.parametrize("name", ["about.json", "environment.json", "metrics.jsonl", "checkpoints/last.pt", "samples"])
def test_a_run_that_goes_on_with_a_damaged_file(whole, tmp_path, monkeypatch, capsys, name):
    """Either it ends, and the file is whole again, or one line names it."""
    monkeypatch.setattr("etude.train.device.choose", lambda *_: CPU)
    for how in DAMAGES:
        place = tmp_path / how
        shutil.copytree(whole, place)
        monkeypatch.chdir(place)
        (place / RUN / "result.json").unlink()
        damage(place / RUN / name, how)
        code = cli.main(PACKAGE, VERBS["train"])
        error = capsys.readouterr().err
        if code == 2:
            last = error.splitlines()[-1]  # that of two checkpoints the newer is damaged, has been said before
            assert error.count("\n") <= 2 and last.startswith("toy: ") and RUN in last, (how, error)
        else:
            assert code == 0 and cli.main(PACKAGE, VERBS["report"]) == 0, how
            capsys.readouterr()


@pytest.mark.parametrize(
    ("run", "why"),
    [
        ("", "'' is not a path"),
        (" ", "' ' is not a path"),
        ("x" * 256, "it is too long"),
        ("/".join(["x" * 200] * 25), "it is too long"),
        ("a\0b", "no name can contain one of its characters"),
        ("file", "cannot write the run folder file: it is not a folder"),
        ("file/run", "cannot write the run folder file/run: what should be its folder is a file"),
        ("link", "cannot write the run folder link: it is not a folder"),
        ("circle", "cannot write the run folder circle: "),
        ("pipe", "cannot write the run folder pipe: it is not a folder"),
        ("/dev/null", "cannot write the run folder /dev/null: it is not a folder"),
        ("/proc/run", "cannot write the run folder /proc/run: "),
    ],
)
def test_a_run_that_can_be_no_folder(tmp_path, capsys, run, why):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "circle").symlink_to("circle")
    os.mkfifo(tmp_path / "pipe")
    before = sorted(path.name for path in tmp_path.iterdir())
    assert cli.main(PACKAGE, ["train", "--fit.epochs", "1", "--run", run]) == 2
    error = capsys.readouterr().err
    assert why in error and error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    for words in (["evaluate", run], ["predict", run, "1"], ["report", run], ["study", "s.yaml", "--out", run]):
        Path("s.yaml").write_text(STUDY)
        assert cli.main(PACKAGE, words) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1, (words, error)


def test_a_link_to_a_folder_is_a_folder(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    assert cli.main(PACKAGE, ["train", "--fit.epochs", "1", "--run", "link"]) == 0
    assert (tmp_path / "there" / "result.json").is_file()
