"""The verb `track`, against the real trackers: what they have is what the folder says, once, however often sent."""

import json
import math
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import suppress
from datetime import datetime

import psutil
import pytest

import names_rnn.config
from etude import cli, torch_private
from etude.errors import UserError
from etude.events import EventFile
from etude.track import shares, trackers
from etude.track.command import study_id
from etude.track.follow import Followed

NAMES = names_rnn.config.PACKAGE
SMALL = ["--fit.epochs", "2", "--model.hidden", "8", "--fit.device", "cpu"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Nothing of the user's, neither folders nor accounts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert cli.main(NAMES, ["train", *SMALL, "--run", str(folder)]) == 0
    assert cli.main(NAMES, ["evaluate", str(folder)]) == 0
    return folder


def curves(folder):
    """Tag -> step -> value, by the event files; of what was written twice the last."""
    found = {}
    for file in sorted((folder / "tb").glob("events.out.tfevents.*")):
        for event in torch_private.EventLoader(str(file)).Load():
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found


def track(*words):
    """As a user does: in a process of its own, as the trackers keep threads and settings in theirs."""
    command = [sys.executable, "-m", "names_rnn", "track", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def in_mlflow(tmp_path):
    """Name of each run -> (its MLflow run, tag -> [(step, value)])."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("names-rnn")
    entries = client.search_runs([experiment.experiment_id])
    return client, {one.info.run_name: (one, curves_of(client, one)) for one in entries}


def curves_of(client, one):
    """Tag -> [(step, value)] of an entry."""
    tags = one.data.metrics
    return {tag: [(p.step, p.value) for p in client.get_metric_history(one.info.run_id, tag)] for tag in tags}


def times(run):
    """When a run began and ended by its own files, as MLflow has it, in milliseconds."""
    (start,) = json.loads((run / "environment.json").read_text())
    files = sorted((run / "tb").glob("events.out.tfevents.*"))
    last = max(event.wall_time for file in files for event in torch_private.EventLoader(str(file)).Load())
    return 1000 * int(datetime.fromisoformat(start["started"]).timestamp()), int(1000 * last)


def of_curves(history):
    """Without the numbers of the end."""
    ends = ("best_epoch", "seconds", "parameters")
    return {tag: sorted(x) for tag, x in history.items() if not tag.endswith("/test") and tag not in ends}


@pytest.mark.filterwarnings("ignore")
def test_mlflow(run, tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    first = track(run, "--to", "mlflow", "--uri", uri)
    assert first.returncode == 0, first.stderr
    for _ in range(2):  # before and after it is sent again
        client, found = in_mlflow(tmp_path)
        one, history = found["run"]
        assert len(found) == 1
        assert of_curves(history) == {tag: sorted(points.items()) for tag, points in curves(run).items()}
        assert one.data.params["model.hidden"] == "8"
        test = json.loads((run / "test.json").read_text())
        assert history["accuracy/test"] == [(max(curves(run)["step/loss"]), test["accuracy"])]
        assert one.info.status == "FINISHED"
        assert (one.info.start_time, one.info.end_time) == times(run)  # of the run, not of the sending
        shown = {file.path for file in client.list_artifacts(one.info.run_id, "samples")}
        assert "samples/confusion.png" in shown
        again = track(run, "--to", "mlflow", "--uri", uri)
        assert again.stdout.splitlines()[-1] == "sent     1 runs, 0 new points"


@pytest.mark.filterwarnings("ignore")
def test_a_killed_and_resumed_run_is_there_once(tmp_path):
    folder, uri = tmp_path / "killed", f"sqlite:///{tmp_path}/mlflow.db"
    command = [sys.executable, "-m", "names_rnn", "train", *SMALL[2:], "--fit.epochs", "40", "--run", str(folder)]
    command += ["--fit.save-every", "0.01"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as training:
        deadline = time.monotonic() + 120
        while not (folder / "metrics.jsonl").is_file() and time.monotonic() < deadline:
            time.sleep(0.05)
        training.kill()
    assert not (folder / "result.json").exists()
    sent = track(folder, "--to", "mlflow", "--uri", uri)
    assert sent.returncode == 0, sent.stderr
    assert in_mlflow(tmp_path)[1]["killed"][0].info.status == "KILLED"
    assert subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0
    assert track(folder, "--to", "mlflow", "--uri", uri).returncode == 0
    one, history = in_mlflow(tmp_path)[1]["killed"]
    assert one.info.status == "FINISHED"
    expected = {tag: sorted(points) for tag, points in curves(folder).items() if tag != "step/items_per_s"}
    assert {tag: sorted(step for step, _ in history[tag]) for tag in expected} == expected


@pytest.mark.filterwarnings("ignore")
def test_follow_ends_with_the_run(tmp_path):
    folder, uri = tmp_path / "followed", f"sqlite:///{tmp_path}/mlflow.db"
    command = [sys.executable, "-m", "names_rnn", "train", *SMALL, "--run", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as training:
        while not (folder / "config.yaml").is_file() and training.poll() is None:
            time.sleep(0.05)
        followed = track(folder, "--to", "mlflow", "--uri", uri, "--follow")
    assert followed.returncode == 0, followed.stderr
    _, history = in_mlflow(tmp_path)[1]["followed"]
    assert of_curves(history) == {tag: sorted(points.items()) for tag, points in curves(folder).items()}


def test_follow_stops_when_asked(run, tmp_path):
    """Of a run that is not finished, and held by a process that does nothing."""
    folder = tmp_path / "held"
    folder.mkdir()
    for name in ("config.yaml", "environment.json", "about.json"):
        (folder / name).write_bytes((run / name).read_bytes())
    hold = "import sys, time; from etude import files; f = open(sys.argv[1], 'ab'); files.lock(f); print(1, flush=True)"
    held = [sys.executable, "-c", f"{hold}; time.sleep(600)", str(folder / ".lock")]
    command = [sys.executable, "-m", "names_rnn", "track", str(folder), "--to", "mlflow", "--follow"]
    command += ["--uri", f"sqlite:///{tmp_path}/mlflow.db"]
    with subprocess.Popen(held, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"1\n"
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as following:
            with pytest.raises(subprocess.TimeoutExpired):
                following.wait(40)
            following.send_signal(signal.SIGINT)
            assert following.wait(60) == 130
        holder.kill()


def wandb_records(data):
    """The records of a .wandb file, which is a LevelDB log: blocks of 32 KiB, each piece with CRC, length and kind."""
    assert data[:4] == b":W&B"
    at, whole = 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # what is left of a block is empty
            at += 32768 - at % 32768
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last piece
            yield whole
            whole = b""


def in_wandb(folder):
    """What the files of offline runs hold: [(step, {key: value})] of history, {key: value} of the summary."""
    from wandb.proto import wandb_internal_pb2

    history, summary = [], {}
    for file in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        for data in wandb_records(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            values = {(i.key or "/".join(i.nested_key)): json.loads(i.value_json) for i in record.history.item}
            if values:
                history.append((record.history.step.num, values))
            for item in record.summary.update:
                summary[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
    return history, summary


@pytest.mark.filterwarnings("ignore")
def test_wandb_offline(run, tmp_path):
    for _ in range(2):
        sent = track(run, "--to", "wandb")
        assert sent.returncode == 0, sent.stderr
        history, summary = in_wandb(tmp_path)
        found = {}
        for step, values in history:
            for tag, value in values.items():
                if isinstance(value, int | float) and not tag.startswith("_"):
                    assert step not in found.setdefault(tag, {})
                    found[tag][step] = value
        for tag, points in curves(run).items():
            assert found[tag] == pytest.approx(points, rel=1e-6)
        assert summary["accuracy/test"] == json.loads((run / "test.json").read_text())["accuracy"]
    assert sum("samples/confusion/path" in values for _, values in history) == 1


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("error", "told"),
    [("UsageError", "set WANDB_API_KEY, or set"), ("CommError", "see that there is a network, or set")],
)
def test_wandb_says_what_is_missing(run, monkeypatch, error, told):
    """A key that is set is not advised, where only the network is not there."""
    import wandb

    def refuse(**_):
        raise getattr(wandb.errors, error)("no such\nthing")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(UserError, match=rf"^W&B cannot be used \(no such thing\): {told} WANDB_MODE=offline$"):
        trackers.Wandb("names-rnn").begin(Followed(run, "names-rnn", "run"))


@pytest.mark.filterwarnings("ignore")
def test_trackio(run, tmp_path):
    read = "import json, sys; from trackio.sqlite_storage import SQLiteStorage as S\n"
    read += "print(json.dumps({name: S.get_logs('names-rnn', name) for name in S.get_runs('names-rnn')}, default=str))"
    for _ in range(2):
        sent = track(run, "--to", "trackio")
        assert sent.returncode == 0, sent.stderr
        told = subprocess.run([sys.executable, "-c", read], capture_output=True, text=True, check=True)
        (logs,) = json.loads(told.stdout).values()
        found = {}
        for row in logs:
            for tag, value in row.items():
                if isinstance(value, int | float) and tag != "step":
                    assert row["step"] not in found.setdefault(tag, {})
                    found[tag][row["step"]] = value
        for tag, points in curves(run).items():
            assert found[tag] == pytest.approx(points, rel=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_a_study(tmp_path):
    """Every run under its setting, and the verdicts as an entry of their own."""
    place, uri = tmp_path / "study", f"sqlite:///{tmp_path}/mlflow.db"
    text = "question: which\ncompare: {model.hidden: [4, 8]}\nfixed: {fit.epochs: 1}\nseeds: 2\nmetric: accuracy\n"
    text += "expect:\n  - {claim: hidden=8 > hidden=4, because: it is larger}\n"
    (tmp_path / "size.yaml").write_text(text)
    assert cli.main(NAMES, ["study", str(tmp_path / "size.yaml"), "--out", str(place)]) == 0
    sent = track(place, "--to", "mlflow", "--uri", uri)
    assert sent.returncode == 0, sent.stderr
    client, found = in_mlflow(tmp_path)
    assert {one.data.tags.get("etude.setting") for one, _ in found.values()} == {"hidden=4", "hidden=8", None}
    assert len(found) == 5
    verdicts = found["study study"][0]
    assert verdicts.info.start_time == int(1000 * (place / "study.yaml").stat().st_mtime) <= verdicts.info.end_time
    assert verdicts.info.end_time <= 1000 * (place / "results.csv").stat().st_mtime + 1000
    assert "hidden=8 > hidden=4" in verdicts.data.tags["mlflow.note.content"]
    assert {file.path for file in client.list_artifacts(verdicts.info.run_id)} >= {"results.csv", "results.md"}
    asked = (place / "study.yaml").read_text()
    (place / "study.yaml").write_text(asked.replace("it is larger", "it has more units"))
    assert track(place, "--to", "mlflow", "--uri", uri).returncode == 0
    experiment = client.get_experiment_by_name("names-rnn").experiment_id
    assert len(client.search_runs([experiment])) == 5, "a reason reworded makes no other study"


def test_studies_without_a_run_are_not_one(tmp_path):
    for question in ("which", "how many"):
        (tmp_path / question).mkdir()
        text = f"question: {question}\ncompare: {{model.hidden: [4, 8]}}\nseeds: 2\nmetric: accuracy\n"
        (tmp_path / question / "study.yaml").write_text(text)
    assert len({study_id(NAMES, place) for place in tmp_path.iterdir()}) == 2


@pytest.mark.filterwarnings("ignore")
def test_many_runs_are_shared_among_processes(run, tmp_path):
    """And are there as one process sends them: each once, whole, also a copy of one, and after a stop on the way."""
    uri, folders = f"sqlite:///{tmp_path}/mlflow.db", [tmp_path / f"run{at}" for at in range(12)]
    start = json.loads((run / "environment.json").read_text())
    for at, folder in enumerate(folders):
        shutil.copytree(run, folder)
        started = f"2026-11-30T12:00:{at % 11:02d}+0000"
        (folder / "environment.json").write_text(json.dumps([start[0] | {"started": started}]))
    program = (
        "import sys\nfrom etude import cli\nfrom etude.track import shares\nfrom names_rnn.config import PACKAGE\n"
    )
    program += "shares.ENOUGH = 1\nshares.os.cpu_count = lambda: 3\nsys.exit(cli.main(PACKAGE, sys.argv[1:]))"
    command = [sys.executable, "-c", program, "track", *map(str, folders), "--to", "mlflow", "--uri", uri]
    most, there = 0, 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as sending:
        while sending.poll() is None and not there:
            with suppress(psutil.NoSuchProcess):  # it has just ended
                most = max(most, len(psutil.Process(sending.pid).children()))
            with suppress(sqlite3.OperationalError), sqlite3.connect(tmp_path / "mlflow.db") as database:
                ((there,),) = database.execute("select count(*) from runs")
        sending.terminate()
        said, wrong = sending.communicate(timeout=120)
    assert sending.returncode == 128 + signal.SIGTERM, wrong
    assert most == 2  # and the one that was begun
    stopped = int(said.split()[1])
    assert 0 < stopped < 12
    again = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith("sent     12 runs")
    client = in_mlflow(tmp_path)[0]
    experiment = client.get_experiment_by_name("names-rnn")
    entries = client.search_runs([experiment.experiment_id])
    assert len(entries) == len({entry.data.tags["etude.id"] for entry in entries}) == 11
    for entry in entries:
        assert entry.info.status == "FINISHED"
        assert of_curves(curves_of(client, entry)) == {
            tag: sorted(points.items()) for tag, points in curves(run).items()
        }


SENDER = """
import json, os, signal, sys, time
from pathlib import Path
from etude.signals import watch_signals
from etude.track.shares import Free
how, mark, share, taken = sys.argv[1:]
assert share == "--share"
if how == "deaf":  # it has not begun to listen
    open(mark, "w").close()
    time.sleep(600)
free = Free(Path(taken))
while "b" not in free:  # the test's own process takes a first, and waits for this one to have b
    time.sleep(0.01)
open(mark, "w").close()
if how == "fails":
    print("names-rnn: it is full", file=sys.stderr)
    sys.exit(2)
if how == "crashes":
    raise ValueError("a bug")
if how in ("killed", "ended"):
    os.kill(os.getpid(), signal.SIGKILL if how == "killed" else signal.SIGTERM)
if how == "silent":
    sys.exit(0)
with watch_signals() as signals:
    if how == "stopped":
        os.kill(os.getpid(), signal.SIGTERM)
    while how != "sends" and not signals:
        time.sleep(0.01)
    print(json.dumps([1, 10]))
sys.exit(128 + signals[0] if signals else 0)
"""
ENDS = {
    "fails": "it is full",
    "silent": r"\(0\)",
    "crashes": r"\(1\)",
    "killed": r"\(-9\)",
    "ended": r"\(-15\)",
    "stopped": r"\(143\)",
}


@pytest.mark.parametrize("how", ["sends", *ENDS, "deaf", "listens", "own"])
def test_shares(how, tmp_path, capsys):
    """What several processes have sent is added up; none waits for one that fails, is killed, or is asked to stop."""
    mark, before = tmp_path / "mark", set(psutil.Process().children())  # other tests may have some
    signals = []

    def own(free, over):
        assert "a" in free and "a" in free
        while not mark.exists():
            time.sleep(0.01)
        if how == "own":
            raise UserError("the tracker failed")
        assert how == "deaf" or "b" not in free
        while how in ENDS and how != "silent" and not over():  # it looks between two runs, and there is always one more
            time.sleep(0.01)
        if how in ("deaf", "listens"):
            signals.append(signal.SIGTERM)
        return 2, 20

    command = [sys.executable, "-c", SENDER, how, str(mark)]
    if told := ENDS.get(how) or (how == "own" and "the tracker failed"):
        with pytest.raises(UserError, match=told):
            shares.send(command, 2, signals, own)
        assert ("ValueError: a bug" in capsys.readouterr().err) == (how == "crashes")
    else:
        assert shares.send(command, 2, signals, own) == ((2, 20) if how == "deaf" else (3, 30))
    assert set(psutil.Process().children()) <= before


def test_there_are_never_more_processes_than_runs(run, tmp_path, monkeypatch):
    """However large a run is, and however often it is copied."""
    monkeypatch.setattr(shares, "ENOUGH", 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert [shares.workers(ids, [run, run]) for ids in (0, 1, 2, 9)] == [1, 1, 2, 3]
    monkeypatch.setattr(shares, "ENOUGH", 10**9)
    assert shares.workers(9, [run]) == 1
    told = track("--share", tmp_path, run, "--to", "mlflow", "--uri", f"sqlite:///{tmp_path}/mlflow.db")
    assert (told.returncode, told.stderr.count("\n")) == (2, 1) and "leave it out" in told.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nowhere", "--to", "mlflow"], "it has no config.yaml"),
        (["RUN", "--to", "trackio", "--uri", "x"], "--uri is MLflow's"),
        (["RUN", "--to", "mlflow", "--uri", "http://127.0.0.1:9"], "cannot be used"),
        (["RUN", "--to", "mlflow", "--uri", "nonsense://x"], "cannot be used"),
        (["RUN", "--to", "paper"], "invalid choice"),
    ],
)
def test_mistakes(words, told, run):
    found = track(*(run if word == "RUN" else word for word in words))
    assert found.returncode == 2
    assert len(found.stderr.splitlines()) == 1, found.stderr
    assert told in found.stderr


@pytest.mark.filterwarnings("ignore")
def test_train_with_a_tracker_beside_it(run, tmp_path, monkeypatch):
    """The same run to the bit, times aside, and all of it arrives."""
    folder, uri = tmp_path / "tracked", f"sqlite:///{tmp_path}/mlflow.db"
    environment = os.environ | {"MLFLOW_TRACKING_URI": uri}
    command = [sys.executable, "-m", "names_rnn", "train", *SMALL, "--run", str(folder), "--track", "mlflow"]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert "track    sent     1 runs" in done.stdout
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    others = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(row["train"], row["valid"]) for row in rows] == [(row["train"], row["valid"]) for row in others]
    history = in_mlflow(tmp_path)[1]["tracked"][1]
    assert of_curves(history) == {tag: sorted(points.items()) for tag, points in curves(folder).items()}


def written(folder, *starts):
    """A run folder whose event files are those of `starts`: (the step that it goes on from, tag -> step -> value)."""
    (folder / "tb").mkdir(parents=True)
    (folder / "config.yaml").write_text("fit:\n  seed: 0\n")
    (folder / "environment.json").write_text('[{"started": "today"}]')
    for first, values in starts:
        events = EventFile(folder / "tb", first)
        for tag, points in values.items():
            for step, value in points.items():
                events.add(step, summary=torch_private.Summary(value=[{"tag": tag, "simple_value": value}]))
        events.close()
    return Followed(folder, "names-rnn", "run")


def test_what_a_resumed_run_took_back_is_not_sent(tmp_path):
    """Nor what is no number; and what was read before, and came out otherwise, is counted."""
    first, second = {1: 1.0, 2: 2.0, 3: math.nan, 4: 4.0}, {3: 33.0, 4: 44.0}
    run = written(tmp_path / "run", (0, {"loss": first}), (3, {"loss": second}))
    assert [(p.step, p.value) for p in run.points()] == [(1, 1.0), (2, 2.0), (3, 33.0), (4, 44.0)]
    assert run.points() == [] and run.changed == 0
    again = written(tmp_path / "again", (0, {"loss": first}))
    again.points()
    events = EventFile(tmp_path / "again/tb", 3)
    for step, value in second.items():
        events.add(step, summary=torch_private.Summary(value=[{"tag": "loss", "simple_value": value}]))
    events.close()
    assert len(again.points()) == 2 and again.changed == 1


def test_a_sample_waits_for_its_epoch(tmp_path):
    run = written(tmp_path / "run", (0, {}))
    (tmp_path / "run/samples").mkdir()
    (tmp_path / "run/samples/board-epoch-003.png").write_bytes(b"")
    assert run.new_samples() == []
    (tmp_path / "run/metrics.jsonl").write_text('{"epoch": 3, "step": 30}\n')
    assert [sample.step for sample in run.new_samples()] == [30]
    assert run.new_samples() == []


def test_two_runs_are_not_one(tmp_path):
    """Of one configuration, started in one second."""
    runs = [written(tmp_path / name, (0, {})) for name in ("a", "b")]
    for name in ("a", "b"):
        (tmp_path / name / "environment.json").write_text(f'[{{"started": "today", "command": ["train", "{name}"]}}]')
    assert len({Followed(run.folder, "names-rnn", "run").id for run in runs}) == 2


def test_another_task(run, tmp_path, capsys):
    import cnn_emnist.config

    assert cli.main(cnn_emnist.config.PACKAGE, ["track", str(run), "--to", "mlflow"]) == 2
    assert "is of names-rnn, not of cnn-emnist" in capsys.readouterr().err
    assert not os.path.exists(tmp_path / "mlflow.db")
