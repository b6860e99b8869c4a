"""Studies, with a task that trains in milliseconds: what is run, what is skipped, what is concluded."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from fake import PACKAGE, SCORES, Config
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from etude import config as configs
from etude import tested
from etude.config import Fit
from etude.errors import UserError
from etude.study import jobs as jobs_module
from etude.study.command import configurations, default_out, main, refuse_other_configurations, run
from etude.study.file import dump, load, with_flags
from etude.study.judge import Claim
from etude.study.outcome import Outcome, conclude, kept, lines_of, on_other_data, summarise
from etude.study.question import Study, Trial, flags_of, folder_name, on_disk
from etude.study.table import markdown, render

TASK = """
import json, os, signal, sys, time, zipfile
from pathlib import Path

from etude import tested

# by kernel, then seed; the test score is 0.01 less
ACCURACY = {"1": [0.50, 0.52, 0.51], "3": [0.60, 0.63, 0.61], "5": [0.61, 0.62, 0.60], "9": [0.7, float("nan"), 0.9]}


def wait(condition):
    until = time.monotonic() + 20
    while not condition():
        if time.monotonic() > until:
            raise SystemExit("nobody came")
        time.sleep(0.01)


def train(words):
    flags = dict(word[2:].partition("=")[::2] for word in words[:-2])
    folder = Path(words[-1])
    kernel, seed, lr = flags.get("model.kernel", "3"), int(flags["fit.seed"]), float(flags.get("fit.lr", "0.003"))
    me = f"{kernel} {seed}"
    assert not (folder / "result.json").exists(), "trained twice"
    resumed = (folder / "config.yaml").exists()
    (folder / "config.yaml").write_text(json.dumps(flags))
    (folder / "environment.json").write_text(json.dumps([{"device": "an abacus", "git": "0123456789ab"}]))
    (folder / "flags.txt").write_text(" ".join(words[:-2]))
    (folder / "threads.txt").write_text(os.environ["OMP_NUM_THREADS"])
    if os.environ.get("FAKE_CRASH") == me:
        raise RuntimeError("the loss is a fish")
    if os.environ.get("FAKE_STOP") == me and not resumed:
        def stop(signum, frame):
            if "FAKE_STUBBORN" in os.environ:
                return
            (folder / "saved").touch()
            raise SystemExit(128 + signum)
        signal.signal(signal.SIGTERM, stop)
        (folder / "waiting").touch()
        time.sleep(60)
        raise SystemExit("nobody stopped me")
    if "FAKE_MEET" in os.environ:  # go on only when another run is at work at the same time
        meeting = Path(os.environ["FAKE_MEET"])
        (meeting / me).touch()
        wait(lambda: len(list(meeting.iterdir())) > 1)
    if "FAKE_HALF" in os.environ:  # seed 1 is in the middle of its result when seed 0 ends
        other = folder.with_name(f"seed={1 - seed}")
        if seed == 0:
            wait(lambda: (other / "result.json").exists())
        else:
            (folder / "result.json").write_text("{")
            wait(lambda: (other / "test.json").exists())
    accuracy = ACCURACY[kernel][seed] - 10 * abs(lr - (0.002 if kernel == "3" else 0.004))
    epochs = int(flags.get("fit.epochs", 2)) + seed  # as if some stopped early
    with (folder / "metrics.jsonl").open("w") as f:
        for epoch in range(1, epochs + 1):
            scores = {"accuracy": accuracy * epoch / epochs, "loss": seed + epoch}
            f.write(json.dumps({"epoch": epoch, "step": 7 * epoch, "train": {}, "valid": scores}) + "\\n")
    (folder / "checkpoints").mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / "checkpoints" / "best.pt", "w") as weights:
        weights.writestr("weights", str(accuracy))
    result = {"epochs": epochs, "best_epoch": epochs, "valid": {"accuracy": accuracy, "loss": 1 - accuracy}}
    (folder / "result.json").write_text(json.dumps(result | {"seconds": 2.0 + seed, "parameters": 1000 * int(kernel)}))


def evaluate(folder):
    accuracy = json.loads((folder / "result.json").read_text())["valid"]["accuracy"] - 0.01
    scores = {"accuracy": accuracy, "loss": 1 - accuracy, "classes": ["A"]}
    scores["checkpoint"] = tested.mark(folder, "best")
    kept = {"part": "a part of " + folder.name, "scores": scores, "blocks": {"accuracy": [accuracy] * 3}}
    if "FAKE_NO_EVIDENCE" not in os.environ:
        (folder / "test-blocks.json").write_text(json.dumps(kept))
    (folder / "test.json").write_text(json.dumps(scores))


def together():
    asked = json.load(sys.stdin)
    for one in asked["runs"]:
        if asked["verb"] == "train":
            train([*one["flags"], "--run", one["folder"]])
        else:
            evaluate(Path(one["folder"]))
    how = os.environ["FAKE_ANSWER"]
    answer = json.dumps({"left": {}, "failed": []})
    if "answer" not in asked or how == "none":  # as it was once: the last line
        print(answer, flush=True)
    else:
        Path(asked["answer"]).write_text("{" if how == "broken" else answer)
    print("UserWarning: a thread was still at work", file=sys.stderr)


verb, *words = sys.argv[1:]
if verb == "together":
    together()
else:
    train(words) if verb == "train" else evaluate(Path(words[0]))
"""

APART = "together: off\n"
KERNEL = """
question: Does a larger kernel read letters better?
compare: {model.kernel: [1, 3, 5]}
fixed: {fit.lr: 0.003}
metric: accuracy
expect:
  - {claim: "3 > 1", because: "a 1x1 kernel sees no shape"}
  - {claim: "1 > 3", because: "of a slip of the pen"}
  - {claim: "5 > 3", because: "a letter is a large shape"}
"""

WAYS = """
question: Which of three that are no grid?
compare:
  - {model.kernel: 1, model.norm: false}
  - {model.norm: true, model.kernel: 3}
  - {model.kernel: 5, model.norm: true}
seeds: 2
metric: accuracy
expect:
  - {claim: "kernel=5, norm=true > kernel=1, norm=false", because: "a letter is a large shape"}
"""

# What every stopped, resumed or parallel way to the kernel study has to come to. lr 0.003 costs every kernel 0.01 and
# the test another 0.01.
KERNEL_TEST = {"1": [0.48, 0.50, 0.49], "3": [0.58, 0.61, 0.59], "5": [0.59, 0.60, 0.58]}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package")
    (folder / "fake_task" / "studies").mkdir(parents=True)
    (folder / "fake_task" / "__init__.py").touch()
    (folder / "fake_task" / "__main__.py").write_text(TASK)
    (folder / "fake_task" / "studies" / "kernel.yaml").write_text(KERNEL + APART)
    return folder


@pytest.fixture(autouse=True)
def place(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory in which `fake_task` can be imported, here and by the trials."""
    monkeypatch.syspath_prepend(str(package))
    monkeypatch.setenv("PYTHONPATH", str(package), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(text: str, name: str = "mine.yaml") -> Study:
    Path(name).write_text(text, encoding="utf-8")
    return load(name, "fake_task", SCORES)


def carried_out(text: str, *extra: str, out: str = "out", jobs: int = 2) -> Outcome:
    return run(written(text), "fake_task", Path(out), extra, jobs)


def scores_of(outcome: Outcome) -> dict[str, list[float]]:
    return {" ".join(row.setting.values()): [round(x, 9) for x in row.test.values()] for row in outcome.rows}


def runs_with(path: str, out: str = "out") -> set[str]:
    return {str(found.parent.relative_to(out)) for found in Path(out).rglob(path)}


# ------------------------------------------------------------------------------------------------------------- running


def test_a_study_trains_evaluates_and_judges(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(PACKAGE, ["kernel", "--jobs", "2"], "fake-task") == 0
    out = Path("runs/fake-task/kernel")
    printed = capsys.readouterr().out
    assert (
        len(re.findall(r"^\[[ 0-9]\d?/9\] kernel=\d seed=\d  accuracy 0\.\d{4} \(valid\)  \d s$", printed, re.M)) == 9
    )
    assert "[9/9]" in printed
    assert (out / "kernel=3/seed=1/flags.txt").read_text() == "--fit.lr=0.003 --model.kernel=3 --fit.seed=1"

    text = (out / "results.md").read_text()
    assert "# Does a larger kernel read letters better?" in text
    assert "| 3 | 0.5933 | [0.5554, 0.6313] | 0.6033 | 3,000 | 3.0 | 3 |" in text
    assert re.search(r"^ +3 +0\.5933 +\[0\.5554, 0\.6313\] +0\.6033 +3,000 +3\.0 +3$", printed, re.M)
    # paired differences 3 - 1: 0.10, 0.11, 0.10; 5 - 3: 0.01, -0.01, -0.01
    for line in (
        "3 > 1: as expected (difference in accuracy +0.1033, 95 % interval [+0.0890, +0.1177], p 0.0031, 3 seeds). "
        "Expected because a 1x1 kernel sees no shape",
        "1 > 3: not expected (difference in accuracy -0.1033, 95 % interval [-0.1177, -0.0890], p 0.0031, 3 seeds). "
        "Expected because of a slip of the pen",
        "5 > 3: unclear (difference in accuracy -0.0033, 95 % interval [-0.0320, +0.0254], p 0.67, 3 seeds). "
        "Expected because a letter is a large shape",
        "Holm's procedure over all 3 expectations, so that at most 5 % of studies have a false one",
    ):
        assert line in text
        assert line in printed
    assert "```\nfake-task study kernel\n```" in text

    with (out / "results.csv").open(newline="") as f:
        rows = list(csv.DictReader(f))
    assert len(rows) == 9
    row = next(r for r in rows if (r["model.kernel"], r["seed"]) == ("5", "2"))
    numbers = {
        "model.kernel": 5, "seed": 2, "valid_accuracy": 0.59, "valid_loss": 0.41, "test_accuracy": 0.58,
        "test_loss": 0.42, "best_epoch": 4, "seconds": 4, "parameters": 5000,
    }  # fmt: skip
    assert {k: float(v) for k, v in row.items() if k in numbers} == pytest.approx(numbers)
    words = {"machine": "an abacus", "commit": "0123456789ab", "problem": "", "part": "a part of seed=2"}
    words |= {"precision": "", "learnt": "", "fixed": "fit.lr=0.003"}
    assert {k: v for k, v in row.items() if k not in numbers and k != "blocks"} == words


def test_done_runs_are_skipped_and_only_the_missing_are_run(capsys: pytest.CaptureFixture[str]) -> None:
    first = carried_out(KERNEL)
    stamps = {p: p.stat().st_mtime_ns for p in Path("out").rglob("*.json")}
    Path("out/kernel=3/seed=1/result.json").unlink()
    Path("out/kernel=5/seed=0/test.json").unlink()
    capsys.readouterr()
    again = carried_out(KERNEL)
    printed = capsys.readouterr().out
    assert "8 of 9 runs are there already" in printed
    assert re.findall(r"kernel=\d seed=\d", printed) == ["kernel=3 seed=1"]
    assert again == first
    fresh = {str(p.relative_to("out")) for p, stamp in stamps.items() if p.stat().st_mtime_ns != stamp}
    fresh -= {"kernel=3/seed=1/environment.json", "kernel=5/seed=0/test-blocks.json"}
    assert fresh == {"kernel=3/seed=1/result.json", "kernel=5/seed=0/test.json"}  # its old test.json still stands


def test_test_scores_of_another_checkpoint_are_made_anew() -> None:
    """As when the run was evaluated before it was finished, or by a version that did not say of what its scores are."""
    first = carried_out(KERNEL)
    folders = [Path(f"out/kernel=3/seed={seed}") for seed in range(3)]
    for folder in folders:
        wrong = json.loads((folder / "test.json").read_text()) | {"accuracy": 0.9}
        (folder / "test.json").write_text(json.dumps(wrong))
    with zipfile.ZipFile(folders[0] / "checkpoints" / "best.pt", "w") as weights:
        weights.writestr("weights", "those of a later epoch")
    unmarked = {"accuracy": 0.9, "loss": 0.1}
    (folders[1] / "test.json").write_text(json.dumps(unmarked))
    (folders[2] / "config.yaml").write_text("{}")  # it was made with other flags than the run has
    half = summarise(written(KERNEL), Path("out"))
    assert scores_of(half)["3"] == []
    assert "kernel=3 seed=0 (test.json is of another checkpoint" in half.problems[0]
    assert "kernel=3 seed=1 (test.json does not say of which checkpoint it is)" in half.problems[0]
    assert "kernel=3 seed=2 (test.json was made with another config.yaml)" in half.problems[0]
    assert carried_out(KERNEL) == first


@pytest.mark.parametrize(
    ("failed", "told"),
    [
        ([0], ""),
        ([0, 2], "; nor does seed 2 count, as results.csv says"),
        ([0, 1, 2], "; neither do seeds 1, 2 count, as results.csv says"),
    ],
)
def test_runs_of_a_setting_that_failed_are_told_in_one_line(failed: list[int], told: str) -> None:
    first = carried_out(KERNEL)
    runs = [
        replace(run, problem=f"left out: {run.trial.seed}")
        if run.trial.setting == {"model.kernel": "3"} and run.trial.seed in failed
        else run
        for run in first.runs
    ]
    assert conclude(first.study, runs).problems == [f"kernel=3 seed=0: left out: 0{told}"]


def test_of_many_runs_with_one_problem_a_few_are_named() -> None:
    (told,) = summarise(written(KERNEL + "seeds: 30\n"), Path("out")).problems
    assert told.startswith("90 of 90 runs are missing: kernel=1 seed=0, ")
    assert told.endswith(" and 80 others")
    assert told.count("seed=") == 10


def test_a_best_checkpoint_that_is_not_the_runs_is_not_scored_as_the_runs() -> None:
    carried_out(KERNEL)
    folder = Path("out/kernel=3/seed=0")
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps(result | {"weights": "0123456789abcdef"}))
    outcome = carried_out(KERNEL)
    why = "checkpoints/best.pt is not the one that the run ended with"
    assert outcome.problems == [f"no test score yet: kernel=3 seed=0 ({why})"]


@dataclass(frozen=True)
class Later(Config):
    """The same after a default has changed."""

    fit: Fit = field(default_factory=lambda: Fit(weight_decay=0.2))


LAYERS = "question: q\ncompare: {encoder.layers: [1, 2]}\nseeds: 1\nmetric: accuracy\n" + APART


def left(trial: Trial, asked: Study, out: str, config: type = Config) -> Path:
    """The folder of a finished run, as `train` and `evaluate` leave it."""
    folder = trial.folder(Path(out))
    (folder / "checkpoints").mkdir(parents=True)
    configs.save(configs.parse(config, flags_of(asked, trial)), folder / "config.yaml")
    with zipfile.ZipFile(folder / "checkpoints" / "best.pt", "w") as weights:
        weights.writestr("weights", str(trial))
    scores = {"accuracy": 0.9}
    (folder / "metrics.jsonl").write_text(json.dumps({"epoch": 1, "step": 1, "train": {}, "valid": scores}) + "\n")
    (folder / "result.json").write_text(json.dumps({"valid": scores, "best_epoch": 1, "epochs": 1}))
    (folder / "test.json").write_text(json.dumps({**scores, "checkpoint": tested.mark(folder, "best")}))
    return folder


def all_left(text: str, out: str = "out") -> Study:
    asked = written(text)
    for trial in asked.trials():
        left(trial, asked, out)
    return asked


def test_a_study_of_a_path_is_the_same_study_from_another_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = all_left(KERNEL.replace("fixed: {", "fixed: {data: ./mine.csv, ") + APART)
    out = Path("out").absolute()
    for _ in range(2):  # and anew from the first one
        assert not run(asked, "fake_task", out, [], 1, Config).problems
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    again = load(str(out / "study.yaml"), "fake_task", SCORES)
    refuse_other_configurations(again, out, configurations(again, Config))
    with pytest.raises(UserError, match=r"other flags: data \(.*mine.csv there, .*elsewhere/mine.csv now\)"):
        run(asked, "fake_task", out, [], 1, Config)


def test_runs_of_another_default_do_not_answer_the_new_question() -> None:
    asked = all_left(KERNEL + APART)
    assert not run(asked, "fake_task", Path("out"), [], 1, Config).problems
    before = {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()}
    with pytest.raises(UserError) as e:
        run(asked, "fake_task", Path("out"), [], 1, Later)
    assert str(e.value) == (
        "out/kernel=1/seed=0 holds a run with another configuration than the study asks for now "
        "(fit.weight-decay: 0.05 -> 0.2); so do 8 more: remove it, or give another --out"
    )
    assert {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()} == before


def test_a_run_without_its_configuration_or_with_knobs_that_are_no_more_is_refused() -> None:
    asked = all_left(KERNEL + APART)
    Path("out/kernel=1/seed=0/config.yaml").unlink()
    with pytest.raises(UserError, match=r"seed=0 holds a run .* \(it has no config.yaml\): remove it"):
        run(asked, "fake_task", Path("out"), [], 1, Config)
    Path("out/kernel=1/seed=0/config.yaml").write_text("colour: blue\n")
    with pytest.raises(UserError, match=r"\(out/kernel=1/seed=0/config.yaml, line 1: unknown key colour"):
        run(asked, "fake_task", Path("out"), [], 1, Config)


def test_knobs_of_the_same_last_name_do_not_share_their_runs() -> None:
    """Encoder and decoder both have layers: one study's folder layers=2 is no answer to the other's question."""
    asked = all_left(LAYERS)
    assert not run(asked, "fake_task", Path("out"), [], 1, Config).problems
    other = written(LAYERS.replace("encoder", "decoder"))
    with pytest.raises(UserError, match=r"out/layers=2/seed=0 .* \(encoder.layers: 2 -> 1; decoder.layers: 1 -> 2\)"):
        run(other, "fake_task", Path("out"), [], 1, Config)
    both = written(LAYERS.replace("{encoder.layers: [1, 2]}", "{encoder.layers: [1, 2], decoder.layers: [1, 2]}"))
    assert len({trial.folder(Path("out")) for trial in both.trials()}) == 4
    one, two = (default_out("fake", asked, [f"--{knob}", "2"], Config) for knob in ("decoder.layers", "data"))
    assert (one.name, two.name) == ("mine,decoder.layers=2", "mine,data=2")


@dataclass(frozen=True)
class Named:
    name: str = "sample"


@dataclass(frozen=True)
class WithGroup(Config):
    data: Named = field(default_factory=Named)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        pass


@pytest.mark.parametrize("flag", ["--data", "--data.name"])
def test_a_flag_is_that_of_the_study_under_either_name_of_its_knob(flag: str) -> None:
    """Else the study's own value would win, and the flag be forgotten."""
    compared = written("question: q\ncompare: {data.name: [a, b]}\nmetric: accuracy\n")
    with pytest.raises(UserError, match=r"^--data\.name is compared by the study"):
        with_flags(compared, [flag, "c"], WithGroup)
    for knob in ("data", "data.name"):
        fixed = written(f"question: q\ncompare: {{model.kernel: [1, 3]}}\nfixed: {{{knob}: a}}\nmetric: accuracy\n")
        assert with_flags(fixed, [flag, "c"], WithGroup).fixed == {knob: "c"}


def test_a_run_under_two_names_is_refused() -> None:
    text = "question: q\ncompare: {model.norm: [true, yes]}\nmetric: accuracy\n"
    with pytest.raises(UserError, match="norm=true seed=0 and norm=yes seed=0 are the same run; name every value once"):
        run(written(text), "fake_task", Path("out"), [], 1, Config)
    assert not Path("out").exists()


@pytest.mark.parametrize("name", ["kernel=3,lr=1e-3", "model.pool=a%2Fb%2C+c%3Dd,head.pool=16+32", "x=-.5"])
def test_the_names_of_folders_are_mostly_as_they_are_written(name: str) -> None:
    assert on_disk(name) == name


def test_other_values_have_other_folders_on_any_file_system() -> None:
    """Some do not tell capitals from small letters; Windows leaves out dots at the end, and knows names of devices."""
    values = ["max", "Max", "MAX", "1.", "1", "1. ", "1..", "a:b", "a?b", "a*b", "a<b", "a|b", 'a"b', "a b", "a\\b"]
    values += ["x" * 300, "x" * 301, "ü", "ÜBER", "über", ["1", "2"], "1 2 ", "max@0", "..", ".", ""]
    names = [on_disk(folder_name({"aux.pool": value}, {"aux.pool": "aux.pool"})) for value in values]
    assert len({name.lower().rstrip(". ") for name in names}) == len(values)
    for name in names:
        assert len(name) < 160
        assert re.fullmatch(r"[\w%+=.,@~-]+", name, re.ASCII)
        assert name[-1] not in ". "
        assert name.partition(".")[0] != "aux"


def test_a_folder_with_a_long_name_of_an_earlier_version_is_found() -> None:
    """Names are shorter now, as Windows has no more than 260 characters for a whole path."""
    asked = written(f"question: q\ncompare: {{model.kernel: [1, {'3' * 80}]}}\nmetric: accuracy\n")
    long = asked.trials()[1]
    now = long.folder(Path("out"))
    assert len(now.parent.name) < 80
    before = Path("out") / f"kernel={'3' * 80}" / "seed=0"
    before.mkdir(parents=True)
    assert long.folder(Path("out")) == before


@pytest.mark.parametrize("how", ["warning", "none", "broken"])
def test_what_a_process_for_several_runs_says_besides_does_no_harm(
    how: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A warning after its last line; no answer; half an answer."""
    monkeypatch.setenv("FAKE_ANSWER", how)
    text = KERNEL.replace("[1, 3, 5]", "[1, 3]").replace("5 > 3", "3 > 1")
    outcome = run(written(text), "fake_task", Path("out"), [], 1, Config)
    assert scores_of(outcome) == {kernel: KERNEL_TEST[kernel] for kernel in ("1", "3")}
    assert not outcome.problems
    said = capsys.readouterr().out
    assert len(re.findall(r"^\[\d/6\] kernel=\d seed=\d  accuracy", said, re.M)) == 6
    assert ("it did not say what became of them" in said) == (how != "warning")
    assert "runs that differ in model.kernel are not trained as one program" in said
    assert not list(Path("out").glob(".together-*.json"))


def test_a_process_that_cannot_be_started_is_not_blamed_on_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(jobs_module.subprocess, "Popen", none_left)
    with pytest.raises(UserError, match=r"no process can be started for kernel=1 seed=0 \(Resource temporarily"):
        carried_out(KERNEL)


def test_jobs_run_at_once_and_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_module, "cores", lambda: 7)
    Path("meeting").mkdir()
    monkeypatch.setenv("FAKE_MEET", "meeting")
    text = KERNEL.replace("[1, 3, 5]", "[1, 3]").replace("5 > 3", "3 > 1")
    assert not carried_out(text, jobs=2).problems
    assert {p.read_text() for p in Path("out").rglob("threads.txt")} == {"3"}
    assert not carried_out(text, out="many", jobs=9).problems
    assert {p.read_text() for p in Path("many").rglob("threads.txt")} == {"1"}


def test_a_run_at_work_is_not_read_before_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_HALF", "")
    outcome = carried_out("question: One?\ncompare: {model.kernel: [1]}\nseeds: 2\nmetric: accuracy\n", jobs=2)
    assert scores_of(outcome) == {"1": [0.48, 0.50]}
    assert not outcome.problems


def test_a_failed_run_is_reported_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_CRASH", "3 1")
    assert main(PACKAGE, ["kernel", "--out", "out"], "fake-task") == 1
    printed = capsys.readouterr().out
    assert re.search(
        r"^\[5/9\] kernel=3 seed=1  train failed \(exit code 1\): RuntimeError: the loss is a fish$", printed, re.M
    )
    text = Path("out/results.md").read_text()
    assert "- kernel=3 seed=1: not finished; its last words: RuntimeError: the loss is a fish" in text
    assert "| 3 | 0.5850 | [0.5215, 0.6485] | 0.5950 | 3,000 | 3.0 | 2 of 3 |" in text
    told = "no interval, 2 seeds; not judged before all 3 seeds of both are there"
    assert f"3 > 1: unclear (difference in accuracy +0.1000, {told})" in text
    assert len(runs_with("test.json")) == 8

    monkeypatch.delenv("FAKE_CRASH")
    assert main(PACKAGE, ["kernel", "--out", "out"], "fake-task") == 0
    assert "fish" not in Path("out/results.md").read_text()


def test_a_score_that_is_no_number_is_left_out_and_named() -> None:
    outcome = carried_out(KERNEL.replace("5", "9"))
    assert outcome.problems == ["kernel=9 seed=1: left out: valid accuracy is nan"]
    assert scores_of(outcome)["9"] == [0.68, 0.88]


def started(package: Path, *words: str, **env: str) -> "subprocess.Popen[str]":
    """A real `study` command in a process of its own."""
    code = (
        "import sys; from etude.study import command; from fake import PACKAGE; "
        "sys.exit(command.main(PACKAGE, sys.argv[1:], 'fake-task'))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, *words],
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(path: Path, process: "subprocess.Popen[str]") -> None:
    until = time.monotonic() + 30
    while not path.exists():
        assert process.poll() is None and time.monotonic() < until, f"{path} never came"
        time.sleep(0.01)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_study_lets_its_runs_save_and_goes_on(package: Path, signum: int, code: int) -> None:
    words = ["kernel", "--out", "out", "--fit.epochs", "4"]
    process = started(package, *words, FAKE_STOP="1 1")
    wait_for(Path("out/kernel=1/seed=1/waiting"), process)
    process.send_signal(signum)
    printed, _ = process.communicate(timeout=30)
    assert process.returncode == code, printed
    assert Path("out/kernel=1/seed=1/saved").exists()
    assert "fake-task study kernel --fit.epochs 4 --out out" in printed
    assert "failed" not in printed
    assert runs_with("test.json") == set()  # the test part comes when all are trained
    assert "6 of 9 runs" not in Path("out/results.md").read_text()  # one of the six has begun
    assert "5 of 9 runs are missing" in Path("out/results.md").read_text()

    process = started(package, *words)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 0, printed
    assert "3 of 9 runs are there already" in printed
    outcome = summarise(load("out/study.yaml", "fake_task", SCORES), Path("out"))
    assert scores_of(outcome) == KERNEL_TEST
    assert not outcome.problems


def test_a_run_that_does_not_stop_ends_at_the_second_signal(package: Path) -> None:
    process = started(package, "kernel", "--out", "out", FAKE_STOP="1 0", FAKE_STUBBORN="")
    wait_for(Path("out/kernel=1/seed=0/waiting"), process)
    process.terminate()
    assert process.stdout is not None
    while "stopping: the runs save and end" not in (line := process.stdout.readline()):
        assert line, "the study ended at the first signal"
    process.terminate()  # at once, as when a Ctrl-C arrives twice: does not count
    time.sleep(1.1)
    process.terminate()
    printed, _ = process.communicate(timeout=30)
    assert "stopping at once" in printed
    assert process.returncode == 143
    assert not Path("out/kernel=1/seed=0/saved").exists()


def test_two_studies_do_not_work_in_one_folder(package: Path) -> None:
    process = started(package, "kernel", "--out", "out", FAKE_STOP="1 0")
    wait_for(Path("out/kernel=1/seed=0/waiting"), process)
    with pytest.raises(UserError, match="out: a study, or a run that a killed one left, is at work here"):
        main(PACKAGE, ["kernel", "--out", "out"], "fake-task")
    process.terminate()
    process.communicate(timeout=30)
    assert main(PACKAGE, ["kernel", "--out", "out"], "fake-task") == 0


def test_flags_of_the_command_line_hold_for_all_runs_and_name_the_folder() -> None:
    assert main(PACKAGE, ["kernel", "--fit.epochs=3", "--model.no-norm", "--fit.lr", "0.004"], "fake-task") == 0
    out = Path("runs/fake-task/kernel,epochs=3,norm=false,lr=0.004")
    flags = (out / "kernel=1/seed=0/flags.txt").read_text()
    assert flags == "--fit.lr=0.004 --fit.epochs=3 --model.no-norm --model.kernel=1 --fit.seed=0"


def test_runs_made_with_other_flags_are_not_taken_for_ones_own() -> None:
    carried_out(KERNEL)
    with pytest.raises(UserError, match=r"out: holds runs with other flags: fit.epochs \(not set there, 3 now\)"):
        run(written(KERNEL + APART), "fake_task", Path("out"), ["--fit.epochs", "3"], 2, Config)
    with pytest.raises(UserError, match=r"fit.lr \(0.003 there, 0.001 now\)"):
        carried_out(KERNEL.replace("0.003", "0.001"))
    more = carried_out(KERNEL.replace("fit.lr: 0.003", "fit.lr: 3e-3") + "seeds: 2\n")  # the same flags, another table
    assert scores_of(more) == {kernel: scores[:2] for kernel, scores in KERNEL_TEST.items()}


# -------------------------------------------------------------------------------------------------------------- tuning


TUNED = """
question: Which kernel, each with its own learning rate?
compare: {model.kernel: [1, 3]}
tune: {fit.lr: [1e-3, 0.002, 0.003]}
seeds: 2
metric: accuracy
expect: [{claim: "3 > 1", because: "it sees more"}]
"""


def test_tuned_values_are_chosen_on_validation_for_every_setting() -> None:
    outcome = carried_out(TUNED)
    assert [row.tuned for row in outcome.rows] == [{"fit.lr": "0.003"}, {"fit.lr": "0.002"}]
    assert scores_of(outcome) == {"1": [0.48, 0.50], "3": [0.59, 0.62]}
    # only the chosen have seen the test part
    assert runs_with("test.json") == {f"kernel={k},lr=0.00{r}/seed={s}" for k, r in ((1, 3), (3, 2)) for s in (0, 1)}
    assert len(runs_with("result.json")) == 12
    assert outcome.edges == ["lr=0.003 is the edge of its range (kernel=1): widen it"]
    assert outcome.edges[0] in Path("out/results.md").read_text()
    assert "| 3 | 0.002 | 0.6050 |" in Path("out/results.md").read_text()
    assert len(Path("out/results.csv").read_text().splitlines()) == 1 + 12


def test_which_way_a_score_is_better_the_task_says() -> None:
    outcome = carried_out(TUNED.replace("accuracy", "loss"))
    assert [row.tuned for row in outcome.rows] == [{"fit.lr": "0.003"}, {"fit.lr": "0.002"}]
    assert outcome.verdicts[0].verdict == "as expected"
    assert outcome.verdicts[0].difference == pytest.approx(-0.115)


def test_values_that_fail_for_a_seed_do_not_win_on_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    text = TUNED.replace("model.kernel: [1, 3]", "model.layers: [1, 2]").replace(
        "fit.lr: [1e-3, 0.002, 0.003]", "model.kernel: [3, 9]"
    )
    outcome = carried_out(text.replace("3 > 1", "1 > 2"))  # kernel 9 is better for seed 0, and NaN for seed 1
    assert [row.tuned for row in outcome.rows] == [{"model.kernel": "3"}] * 2
    assert outcome.problems == [f"layers={n} kernel=9 seed=1: left out: valid accuracy is nan" for n in (1, 2)]
    assert outcome.verdicts[0].reason == "identical runs: nothing was compared"


# ---------------------------------------------------------------------------------------------------------- statistics


def test_one_seed_gives_no_interval_and_no_verdict() -> None:
    outcome = carried_out(KERNEL + "seeds: 1\n")
    assert {v.verdict for v in outcome.verdicts} == {"unclear"}
    text = render(outcome)
    assert "One seed: there is no interval" in text
    assert "3 > 1: unclear (difference in accuracy +0.1000, no interval, 1 seed; one seed shows no spread)" in text


def test_scores_without_evidence_are_scored_again_and_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_NO_EVIDENCE", "")
    outcome = carried_out(KERNEL)
    assert scores_of(outcome) == KERNEL_TEST
    assert {v.verdict for v in outcome.verdicts} == {"unclear"}
    assert "the error of its test part is not known: score the runs again" in render(outcome)
    monkeypatch.delenv("FAKE_NO_EVIDENCE")
    assert carried_out(KERNEL).verdicts[0].verdict == "as expected"
    of_others = Path("out/kernel=3/seed=1/test-blocks.json")
    of_others.write_text(of_others.read_text().replace("0.61", "0.62"))
    assert summarise(written(KERNEL), Path("out")).verdicts[0].verdict == "unclear"


def test_a_setting_of_which_a_run_diverged_is_not_judged_by_the_others() -> None:
    outcome = carried_out(KERNEL.replace("5", "9"))
    assert outcome.verdicts[2].verdict == "unclear"
    assert outcome.verdicts[2].reason == "not judged before all 3 seeds of both are there"


@pytest.mark.parametrize(("margin", "told"), [("0.02", "unclear"), ("0.06", "as expected")])
def test_a_claim_of_equality_is_within_its_margin(margin: str, told: str) -> None:
    outcome = carried_out(KERNEL.replace('claim: "5 > 3"', f'claim: "5 = 3", margin: {margin}'))
    assert outcome.verdicts[2].verdict == told
    assert f"5 = 3: {told} (difference in accuracy -0.0033" in render(outcome)
    assert f"margin {float(margin):g}, p " in render(outcome)


@pytest.mark.parametrize("text", [KERNEL, TUNED, KERNEL.replace("5", "9")])
def test_the_table_is_made_again_from_the_file_that_is_kept(text: str) -> None:
    outcome = carried_out(text)
    again = conclude(outcome.study, kept(outcome.study, Path("out/results.csv")))
    assert markdown(again, "x") == markdown(outcome, "x")
    assert again.verdicts == outcome.verdicts
    lines = Path("out/results.csv").read_text().splitlines(keepends=True)
    Path("half.csv").write_text("".join(lines[:-1]))
    half = conclude(outcome.study, kept(outcome.study, Path("half.csv")))
    assert half.problems[-1].startswith(f"1 of {len(lines) - 1} runs are missing: ")


def changed(outcome: Outcome, **cells: str) -> Outcome:
    """The study again, from its results.csv with the cells of the last line changed."""
    rows = list(csv.DictReader(Path("out/results.csv").read_text().splitlines()))
    rows[-1] |= cells
    with Path("changed.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    return conclude(outcome.study, kept(outcome.study, Path("changed.csv")))


def test_runs_that_were_scored_on_different_data_are_not_judged() -> None:
    outcome = carried_out(KERNEL)
    assert outcome.verdicts[0].verdict == "as expected" and outcome.runs[-1].part
    again = changed(outcome, part="0123456789abcdef-100")
    assert {verdict.verdict for verdict in again.verdicts} == {"unclear"}
    [problem] = again.problems
    assert problem.startswith("kernel=1 seed=2 and kernel=5 seed=2 were scored on different data, so that nothing is")
    hash, _, count = outcome.runs[-1].part.partition("-")
    fewer = changed(outcome, part=f"{hash}-{int(count or 0) + 1}")  # of the same, as where long texts are left out
    assert not fewer.problems


def test_runs_that_learnt_from_different_data_are_not_judged() -> None:
    """The file has more rows now, all of them to train on: the test part is the same."""
    outcome = carried_out(KERNEL)
    for scored in outcome.runs:
        marks = {"train": "more" if scored.trial.of == "kernel=5" else "as it was", "valid": "v", "test": "t"}
        (scored.trial.folder(Path("out")) / "about.json").write_text(json.dumps({"fingerprints": marks}))
    again = summarise(outcome.study, Path("out"))
    assert {verdict.verdict for verdict in again.verdicts} == {"unclear"}
    first = "kernel=1 seed=0 and kernel=5 seed=0 were trained on different data, so that nothing is judged"
    assert len(again.problems) == 3 and again.problems[0].startswith(first)
    fixed = replace(outcome.study, compare={"model.start": ["1", "3", "5"]})
    assert not on_other_data(fixed, again.runs)  # which says, too, what is learnt from


def test_what_keeps_runs_from_being_judged_is_kept_in_the_file() -> None:
    """Judged from results.csv alone, as README and notebook do, a study says no more than from its folders."""
    study, every = (outcome := carried_out(KERNEL)).study, outcome.runs
    for change, told in (
        ({"learnt": ("other", "v")}, "were trained on different data"),
        ({"precision": "bf16"}, "in different precisions"),
    ):
        as_one = {name: value if name == "precision" else ("as", "v") for name, value in change.items()}
        as_one |= {"precision": "fp32"} if "precision" in change else {}
        runs = [replace(run, **(change if run.trial.of == "kernel=5" else as_one)) for run in every]
        found = conclude(study, runs)
        with Path("kept.csv").open("w", newline="") as file:
            csv.writer(file).writerows(lines_of(found))
        again = conclude(study, kept(study, Path("kept.csv")))
        assert (again.problems, again.edges, again.verdicts) == (found.problems, found.edges, found.verdicts)
        assert any(told in line for line in [*again.problems, *again.edges])


def test_runs_of_another_study_of_that_name_say_what_was_fixed() -> None:
    outcome = carried_out(KERNEL)
    asked = replace(outcome.study, fixed=outcome.study.fixed | {"data": "/home/anna/real", "fit.epochs": 50})
    [told] = [line for line in conclude(asked, kept(asked, Path("out/results.csv"))).edges if "run with" in line]
    assert told.endswith("where the study has data=real fit.epochs=50") and "anna" not in told
    assert not conclude(outcome.study, kept(outcome.study, Path("out/results.csv"))).edges
    older = [line.rsplit(",", 3)[0] for line in Path("out/results.csv").read_text().splitlines()]
    Path("older.csv").write_text("\n".join(older))
    assert not conclude(asked, kept(asked, Path("older.csv"))).edges, "an older file does not say"


@pytest.mark.parametrize("mark", ["commit", "machine"])
def test_a_claim_whose_sides_were_run_on_different_commits_or_machines_says_so(mark: str) -> None:
    study, every = (outcome := carried_out(KERNEL)).study, outcome.runs
    of = {"kernel=1": "a", "kernel=3": "b", "kernel=5": "b"}
    found = conclude(study, [replace(run, **{mark: of[run.trial.of]}) for run in every])
    [told] = found.edges
    assert f"the two sides were run on different {mark}s, which may count, too" in told
    mixed = [replace(run, **{mark: "ab"[(run.trial.seed + (run.trial.of == "kernel=1")) % 2]}) for run in every]
    assert not conclude(study, mixed).edges, "both sides have runs of either"
    assert not conclude(study, [replace(run, **{mark: ""}) for run in every]).edges


def test_seeds_that_were_scored_before_and_after_the_data_changed_are_not_judged() -> None:
    study, every = (outcome := carried_out(KERNEL)).study, outcome.runs
    parts = {0: "old-10", 1: "old-10", 2: "new-12"}
    mixed = conclude(study, [replace(run, part=parts[run.trial.seed]) for run in every])
    assert {verdict.verdict for verdict in mixed.verdicts} == {"unclear"}
    assert len(mixed.problems) == 3
    assert mixed.problems[0].startswith(
        "kernel=1: seeds 2 and the others, some of which share a test part, were scored"
    )
    for alike in (lambda run: "same-10", lambda run: f"of seed {run.trial.seed}-10"):
        assert not conclude(study, [replace(run, part=alike(run)) for run in every]).problems


def test_a_claim_about_unlike_parts_of_a_test_part_says_so() -> None:
    study, every = (outcome := carried_out(KERNEL)).study, outcome.runs
    counts = {"kernel=1": 25, "kernel=3": 150, "kernel=5": 150}
    found = conclude(study, [replace(run, part=f"abc-{counts[run.trial.of]}") for run in every])
    told = "examples of one test part: they differ by what was left out, too"
    assert found.edges == [f"3 > 1: 150 and 25 {told}", f"1 > 3: 25 and 150 {told}"]
    kinds = [replace(run, precision="bf16" if run.trial.seed == 2 else "fp32") for run in every]
    assert conclude(study, kinds).edges == ["in different precisions: kernel=5 seed=1 in fp32, kernel=5 seed=2 in bf16"]


def test_expectations_that_were_changed_after_the_runs_are_said_to_be() -> None:
    carried_out(KERNEL)
    assert "written down" not in Path("out/results.md").read_text()
    carried_out(KERNEL.replace("a letter is a large shape", "letters are large"))
    assert "written down" not in Path("out/results.md").read_text()
    carried_out(KERNEL.replace("5 > 3", "3 > 5"))
    line = "Not all of it was written down before the runs: expectations changed when 9 runs were there"
    assert f"{line}." in Path("out/results.md").read_text()
    carried_out(KERNEL.replace("5 > 3", "3 > 5"))  # it is not forgotten
    assert f"{line}." in Path("out/results.md").read_text()
    carried_out(KERNEL.replace("5 > 3", "3 > 5") + "seeds: 2\n")
    assert f"{line}; seeds changed when 9 runs were there." in Path("out/results.md").read_text()


def test_what_is_tuned_is_not_chosen_by_what_the_test_part_says_of_it() -> None:
    outcome = carried_out(TUNED)
    last = outcome.runs[-1].trial
    assert last.tuned == {"fit.lr": "0.003"} != outcome.rows[1].tuned
    out = Path("out/results.csv").read_text().splitlines()
    best = next(n for n, line in enumerate(out) if line.startswith("3,0.002,1,"))
    Path("out/results.csv").write_text("\n".join([*out[:best], *out[best + 1 :], out[best]]) + "\n")
    again = changed(outcome, test_accuracy="nan", problem="left out: test accuracy is nan")
    assert [row.tuned for row in again.rows] == [{"fit.lr": "0.003"}, {"fit.lr": "0.002"}]
    assert again.problems == ["kernel=3 lr=0.002 seed=1: left out: test accuracy is nan"]
    assert list(again.rows[1].test) == [0]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda text: text.replace("\n5,", "\n7,", 1), "results.csv, line 4: the study has no run 7 0"),
        (lambda text: text + text.splitlines()[-1], "line 11: the run 5 2 stands here twice"),
        (lambda text: text.replace("0.59,", "much,", 1), "line 2: "),
        (lambda text: text.replace("valid_accuracy", "accuracy"), "line 2: there is no valid_accuracy"),
    ],
)
def test_a_damaged_file_of_runs_is_one_line_with_its_place(change: Callable[[str], str], error: str) -> None:
    outcome = carried_out(KERNEL)
    file = Path("out/results.csv")
    file.write_text(change(file.read_text().replace("0.49,", "0.59,", 1)))
    with pytest.raises(UserError) as e:
        kept(outcome.study, file)
    assert error in str(e.value)
    assert "\n" not in str(e.value)


# --------------------------------------------------------------------------------------------------------- half a study


def test_what_is_there_is_summarised_and_what_is_missing_said() -> None:
    plan = written(KERNEL)
    empty = summarise(plan, Path("nowhere"))
    assert empty.problems[0].startswith("9 of 9 runs are missing: kernel=1 seed=0, ")
    assert "3 > 1: unclear (no seed of both is there)" in render(empty)
    assert not Path("nowhere").exists()

    carried_out(KERNEL)
    for seed in (1, 2):
        shutil.rmtree(f"out/kernel=5/seed={seed}")
    half = summarise(plan, Path("out"))
    assert half.problems == ["2 of 9 runs are missing: kernel=5 seed=1, kernel=5 seed=2"]
    assert scores_of(half) == KERNEL_TEST | {"5": [0.59]}
    assert half.verdicts[2].interval is None


# --------------------------------------------------------------------------------------------------------- tensorboard


def curves(folder: str) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(folder)
    events.Reload()
    return {tag: [(e.step, round(e.value, 6)) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_shows_one_mean_curve_per_setting_however_often_it_is_written() -> None:
    for _ in range(2):
        carried_out(KERNEL)
        # 2, 3 and 4 epochs by seed: the mean ends where the first run does
        accuracy = [
            sum(a * epoch / n for a, n in zip((0.59, 0.62, 0.60), (2, 3, 4), strict=True)) / 3 for epoch in (1, 2)
        ]
        assert curves("out/kernel=3") == {
            "accuracy/valid": [(7, round(accuracy[0], 6)), (14, round(accuracy[1], 6))],
            "loss/valid": [(7, 2.0), (14, 3.0)],
        }
        files = list(Path("out").rglob("events.out.tfevents.*"))
        assert len(files) == 3
        for file in files:  # as if written long ago
            file.rename(file.with_name("events.out.tfevents.1000000000.study"))


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "mine.yaml: is no study; it needs the keys question, compare and metric"),
        ("- 3", "mine.yaml: is no study"),
        ("a: [1", "mine.yaml, line 1: cannot be read as YAML: "),
        (KERNEL + "metric: loss", "mine.yaml, line 10: cannot be read as YAML: metric is given twice"),
        (KERNEL + "sedes: 3", "mine.yaml: unknown key 'sedes': did you mean 'seeds'?"),
        (KERNEL.replace("metric", "unit"), "mine.yaml: unknown key 'unit'"),
        (KERNEL.replace("metric: accuracy", ""), "mine.yaml: metric: has to be a text"),
        (KERNEL.replace("{model.kernel: [1, 3, 5]}", "{}"), "mine.yaml: compare: names no knob"),
        (KERNEL.replace("{model.kernel: [1, 3, 5]}", "model.kernel"), "mine.yaml: compare: has to map knobs to values"),
        (KERNEL.replace("[1, 3, 5]", "[]"), "mine.yaml: compare: model.kernel needs a list of values"),
        (KERNEL.replace("[1, 3, 5]", "3"), "mine.yaml: compare: model.kernel needs a list of values"),
        (KERNEL.replace("[1, 3, 5]", "[1, {a: 3}]"), "mine.yaml: compare: model.kernel: {'a': '3'} is no value"),
        (KERNEL.replace("[1, 3, 5]", "[1, 3, 5, 3.0]"), "mine.yaml: compare: model.kernel has 3 twice"),
        (KERNEL.replace("fit.lr", "model.kernel"), "mine.yaml: model.kernel stands in more than one of"),
        (
            WAYS.replace("{model.kernel: 5, ", "{"),
            "mine.yaml: compare[2]: all settings have to name the same knobs, and",
        ),
        (
            WAYS.replace("kernel: 5, model.norm: true", "kernel: 3.0, model.norm: true"),
            "compare: has {model.kernel: 3,",
        ),
        (WAYS.replace("{model.kernel: 5, model.norm: true}", "5"), "mine.yaml: compare[2]: has to map knobs to values"),
        (
            WAYS.replace("norm=true > ", "norm=false > "),
            "norm=false' is not compared; compared are model.kernel 1, 3, 5;",
        ),
        (KERNEL.replace("fit.lr", "fit.seed"), "mine.yaml: fit.seed cannot be set here"),
        (KERNEL + "tune: {fit.clip: []}", "mine.yaml: tune: fit.clip needs a list of values"),
        (KERNEL + "seeds: 0", "mine.yaml: seeds: has to be a whole number from 1 up, not '0'"),
        (KERNEL + "seeds: many", "mine.yaml: seeds: has to be a whole number from 1 up, not 'many'"),
        (KERNEL + "better: lower", "mine.yaml: better: the task knows which way each of its scores is better; delete"),
        (
            KERNEL.replace("accuracy", "acuracy"),
            "mine.yaml: metric: there is no score 'acuracy'; there are: accuracy (higher is",
        ),
        (KERNEL.replace("5 > 3", "5 = 3"), "mine.yaml: expect[2]: margin: '5 = 3' needs the difference up to which"),
        (
            KERNEL.replace('claim: "5 > 3"', 'claim: "5 > 3", margin: 0.1'),
            "expect[2]: margin: belongs to a claim \"A = B\", not to '5 > 3'; delete it",
        ),
        (KERNEL.replace('claim: "5 > 3"', 'claim: "5 = 3", margin: 0'), "margin: '5 = 3' needs the difference"),
        (KERNEL.replace('claim: "5 > 3"', 'claim: "5 = 3", margin: some'), "margin: '5 = 3' needs the difference"),
        (
            KERNEL.replace("3 > 1", "9 > 1"),
            "mine.yaml: expect[0]: claim: '9' is not compared; compared are model.kernel 1,",
        ),
        (KERNEL.replace("3 > 1", "layers=3 > 1"), "mine.yaml: expect[0]: claim: 'layers=3' is not compared"),
        (KERNEL.replace("5 > 3", "5 beats 3"), "mine.yaml: expect[2]: claim: '5 beats 3' has to be"),
        (KERNEL.replace("5 > 3", "5 > 5"), "mine.yaml: expect[2]: claim: '5 > 5' holds a setting against itself"),
        (KERNEL.replace(', because: "a letter is a large shape"', ""), "mine.yaml: expect[2]: has to be {claim:"),
    ],
)
def test_a_bad_study_file_is_one_line_with_file_and_key(text: str, error: str) -> None:
    with pytest.raises(UserError) as e:
        written(text)
    assert error in str(e.value)
    assert "\n" not in str(e.value)


def test_settings_that_are_no_grid_are_compared_as_they_are_listed() -> None:
    asked = written(WAYS)
    assert asked.names() == ["kernel=1,norm=false", "kernel=3,norm=true", "kernel=5,norm=true"]
    assert [flags_of(asked, trial) for trial in asked.trials()][1] == [
        "--model.kernel=3",
        "--model.norm",
        "--fit.seed=0",
    ]
    again = written(dump(asked))
    assert again == asked
    outcome = carried_out(WAYS)
    assert [row.setting for row in outcome.rows] == list(asked.ways) and not outcome.problems
    assert [verdict.claim.left for verdict in outcome.verdicts] == ["kernel=5,norm=true"]


def test_an_unknown_study_lists_what_there_is() -> None:
    with pytest.raises(UserError) as e:
        load("kernl", "fake_task", SCORES)
    assert str(e.value) == "fake_task has no study 'kernl': did you mean 'kernel'?"
    with pytest.raises(UserError, match=r"gone.yaml: cannot be read \(No such file or directory\)"):
        load("gone.yaml", "fake_task", SCORES)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ([], "which study? give one of kernel, or a .yaml file first"),
        (["--jobs", "2"], "which study?"),
        (["kernel", "--jobs", "none"], "--jobs has to be a whole number from 1 up, not 'none'"),
        (["kernel", "--jobs=0"], "--jobs has to be a whole number from 1 up, not '0'"),
        (["kernel", "--out"], "argument --out: expected one argument"),
        (["kernel", "more"], "'more' belongs to no flag"),
        (["kernel", "--model.kernel", "3"], "--model.kernel is compared by the study kernel"),
        (["kernel", "--fit.seed", "3"], "--fit.seed is set by the study for every run"),
        (["kernel", "--run", "x"], "--run is set by the study for every run"),
    ],
)
def test_a_bad_command_line_is_one_line(words: list[str], error: str) -> None:
    with pytest.raises(UserError) as e:
        main(PACKAGE, words, "fake-task")
    assert error in str(e.value)
    assert "\n" not in str(e.value)
    assert not Path("runs").exists()


def test_a_folder_that_cannot_be_written_is_one_line() -> None:
    Path("file").touch()
    with pytest.raises(
        UserError, match="cannot write to file/out: what should be its folder is a file; a study needs a folder"
    ):
        carried_out(KERNEL, out="file/out")


def test_what_runs_start_from_has_to_be_there_before_the_first() -> None:
    asked = KERNEL.replace("0.003}", "0.003, data: begun}") + "needs: {begun: fake-task train --run begun}\n"
    missing = r"^mine starts from begun, which is not there yet; make it: fake-task train --run begun$"
    with pytest.raises(UserError, match=missing):
        carried_out(asked)
    assert not Path("out").exists()
    Path("begun").mkdir()
    scores = scores_of(carried_out(asked))
    Path("begun").rmdir()
    assert scores_of(carried_out(asked)) == scores  # nothing is left to be done
    assert load("out/study.yaml", "fake_task", SCORES).needs == {"begun": "fake-task train --run begun"}
    with pytest.raises(UserError, match=r"mine.yaml: needs: has to map paths to the commands that make them"):
        written(KERNEL + "needs: [begun]\n")


def test_an_unknown_metric_is_refused_before_the_first_run() -> None:
    with pytest.raises(UserError, match="there is no score 'f1'; there are: accuracy .higher is better., loss"):
        main(PACKAGE, [str(file_with(KERNEL.replace("accuracy", "f1")))], "fake-task")
    assert not Path("runs").exists()


def test_a_metric_that_these_runs_do_not_have_stops_at_the_first_run() -> None:
    plan = load(str(file_with(KERNEL.replace("accuracy", "f1"))), "fake_task", {"f1": "higher"})
    with pytest.raises(
        UserError, match=r"metric 'f1' is not in out/kernel=1/seed=0/result.json; there are: accuracy, loss"
    ):
        run(plan, "fake_task", Path("out"), [], 1)
    assert runs_with("result.json") == {"kernel=1/seed=0"}


def file_with(text: str) -> Path:
    Path("mine.yaml").write_text(text, encoding="utf-8")
    return Path("mine.yaml")


def test_a_damaged_result_is_named() -> None:
    carried_out(KERNEL)
    Path("out/kernel=1/seed=0/result.json").write_text('{"valid": ')
    with pytest.raises(UserError, match=r"out/kernel=1/seed=0/result.json cannot be read .*: delete it"):
        carried_out(KERNEL)


# -------------------------------------------------------------------------------------------------------------- reading


MANY = """
question: Several knobs
compare:
  model.pool: [max, off, "a/b, c=d"]
  model.batch_norm: [true, false]
tune: {fit.lr: [1e-3, 0.10], head.pool: [null, [16, 32]]}
fixed: {fit.epochs: 5}
metric: accuracy
expect:
  - {claim: "model.pool=off, batch_norm=true < batch-norm=false, model.pool=max", because: "x"}
"""


def test_values_reach_the_runs_as_they_are_written() -> None:
    plan = written(MANY)
    trial = plan.trials()[-1]
    assert trial.setting == {"model.pool": "a/b, c=d", "model.batch-norm": False}
    assert trial.tuned == {"fit.lr": "0.10", "head.pool": ["16", "32"]}
    assert len(plan.trials()) == 3 * 2 * 2 * 2 * 3
    folders = {str(t.folder(Path("out"))) for t in plan.trials()}
    assert len(folders) == len(plan.trials())
    assert all(len(Path(folder).parts) == 3 for folder in folders)  # out/setting/seed: no value adds a folder
    assert f"{trial.group}/seed=2" == (
        "model.pool=a%2Fb%2C+c%3Dd,batch-norm=false,lr=0.10,head.pool=16+32/seed=2"  # which pool has to be said
    )
    found = plan.expect[0]
    assert (found.left, found.right) == ("model.pool=off,batch-norm=true", "model.pool=max,batch-norm=false")
    assert found.relation == "<"


EQUAL = KERNEL.replace('claim: "5 > 3"', 'claim: "5 = 3", margin: 1e-2')


@pytest.mark.parametrize("text", [KERNEL, TUNED, MANY, EQUAL])
def test_the_copy_in_the_study_folder_is_the_same_study(text: str) -> None:
    plan = written(text)
    assert written(dump(plan), "copy.yaml") == replace(plan, name="copy", given="copy.yaml")


@pytest.mark.parametrize(
    ("values", "text", "relation"),
    [
        ("[max, none]", "max > none", ">"),
        ("[true, false]", "true < false", "<"),
        ("[1e-3, 0.01]", "0.001 > 1e-2", ">"),
        ("[[16, 32], [8, 16]]", "[16, 32] > 8 16", ">"),
        ("[a, b]", "x=a > model.x=b", ">"),
        ("[a, b]", "x=a = model.x=b", "="),
        ("[1, 3]", "1 = 3", "="),
    ],
)
def test_claims_name_settings_as_they_are_written(values: str, text: str, relation: str) -> None:
    plan = written(
        f"question: q\ncompare: {{model.x: {values}}}\nmetric: loss\n"
        f'expect: [{{claim: "{text}", because: "so"{", margin: 0.5" * (relation == "=")}}}]\n'
    )
    first, second = dict.fromkeys(t.of for t in plan.trials())
    assert plan.expect == [Claim(text, "so", first, second, relation, 0.5 * (relation == "="))]


def test_help_lists_the_studies_with_their_questions_without_torch(package: Path) -> None:
    code = (
        "import sys; from etude.study import command; from fake import PACKAGE\n"
        "try: command.main(PACKAGE, ['--help'], 'fake-task')\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'tensorboard', 'numpy', 'scipy'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: fake-task study [-h] [--jobs N] [--ray ADDRESS]")
    assert re.search(r"^  kernel  Does a larger kernel read letters better\?$", done.stdout, re.M)
