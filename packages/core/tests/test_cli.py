import dataclasses
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from toy.__main__ import PACKAGE

from etude import cli
from etude.signals import Stopped
from etude.study import command as study_of_runs
from etude.train import loop


def toy(*words):
    return cli.main(PACKAGE, [*words])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("trian", "there is no 'trian' in toy: did you mean 'train'?"),
        ("train --fit.lrr 1", "unknown flag --fit.lrr: did you mean 'fit.lr'?"),
        ("train --run", "argument --run: expected one argument; usage: toy train [--run DIR]"),
        ("evaluate r --checkpoint first", "invalid choice: 'first' (choose from "),
        ("evaluate --data x r", "RUN comes before --data; usage: toy evaluate [-h]"),
        ("train nowhere.yaml", "there is no configuration 'nowhere.yaml'"),
        ("train --fit.device cuda", "fit.device is cuda, but PyTorch finds no such device here: use --fit.device auto"),
        ("train --fit.precision fp16", "fit.precision fp16 is for GPUs"),
        (
            "evaluate",
            "the following arguments are required: RUN; usage: toy evaluate [-h] [--checkpoint {best,last}] RUN",
        ),
        ("predict r", "give the run folder and at least one input; usage: toy predict [-h] [--out FILE]"),
        ("predict -- r", "the following arguments are required: RUN"),
        ("predict r --uot x 1", "unrecognized arguments: --uot"),
        ("predict r --out=x 1 --fromat=csv", "unrecognized arguments: --fromat=csv; usage: toy predict"),
        ("predict nowhere 1", "nowhere is no run folder"),
        ("study nowhere", "nowhere"),
        ("study study.yaml", "study.yaml: there is no knob nrm: did you mean 'norm'?"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(words, message, capsys, tmp_path):
    if "study.yaml" in words:
        (tmp_path / "study.yaml").write_text("{question: q, metric: accuracy, compare: {nrm: [true, false]}}")
    if "cuda" in words:
        import torch

        assert not torch.cuda.is_available()
    assert toy(*words.split()) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert [p.name for p in tmp_path.iterdir() if p.name != "study.yaml"] == []


def test_a_run_of_another_task_is_told_as_that(capsys, tmp_path):
    assert toy("train", "--run", "r", "--fit.epochs", "1") == 0
    about = json.loads((tmp_path / "r" / "about.json").read_text())
    (tmp_path / "r" / "about.json").write_text(json.dumps(about | {"task": "cnn_emnist"}))
    capsys.readouterr()
    for words in (["evaluate", "r"], ["predict", "r", "1"]):
        assert toy(*words) == 2
        captured = capsys.readouterr()
        assert "r is a run of cnn-emnist: say cnn-emnist, in the workspace `uv run --package cnn-emnist" in captured.err
        assert (captured.out, captured.err.count("\n")) == ("", 1)


def test_evaluate_keeps_a_picture_of_the_checkpoint_that_it_scores(monkeypatch, capsys, tmp_path):
    import torch
    from PIL import Image
    from toy import task

    def illustrate(one, totals):
        assert not one.model.training and torch.is_inference_mode_enabled() and totals.means()["accuracy"] >= 0
        return {"what is wrong": Image.new("RGB", (4, 3), "red")}

    monkeypatch.setattr(task, "illustrate", illustrate, raising=False)
    package = dataclasses.replace(PACKAGE, illustrates=True)
    assert cli.main(package, ["train", "--run", "r", "--fit.epochs", "2"]) == 0
    before = sorted(Path("r/samples").iterdir())
    capsys.readouterr()
    for flags in (["--checkpoint", "last"], ["--fit.batch-size", "7"]):
        assert cli.main(package, ["evaluate", "r", *flags]) == 0
    assert "picture" not in capsys.readouterr().out and sorted(Path("r/samples").iterdir()) == before
    assert cli.main(package, ["evaluate", "r"]) == 0
    *_, line, scores = capsys.readouterr().out.splitlines()
    file = Path(f"r/samples/what-is-wrong-epoch-{json.loads(scores)['checkpoint']['epoch']:03}.png")
    assert line == f"picture  {file}"
    with Image.open(file) as picture:
        assert picture.size == (4, 3)
    shutil.rmtree("r/samples")
    Path("r/samples").write_text("in the way")
    assert cli.main(package, ["evaluate", "r"]) == 0
    told = capsys.readouterr()
    assert "picture" not in told.out and f"{file} is not written" in told.err


def test_train_evaluate_predict(capsys, tmp_path):
    assert toy("train", "--fit.epochs", "2", "--run", "r") == 0
    out = capsys.readouterr().out
    for word in ("validation accuracy", "tensorboard --logdir", "toy evaluate r", "toy train --no-norm"):
        assert word in out
    assert toy("evaluate", "r") == 0
    *_, last = capsys.readouterr().out.splitlines()
    assert json.loads(last) == json.loads((tmp_path / "r" / "test.json").read_text())
    assert toy("predict", "r", "123", "9") == 0
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) == 2
    assert toy("predict", "r", "123", "9", "--out", "out.txt") == 0
    assert (tmp_path / "out.txt").read_text() == printed
    assert capsys.readouterr().out == ""
    assert toy("predict", "r", "1", "--out", "nowhere/out.txt") == 2
    capsys.readouterr()
    assert toy("predict", "r", "123", "--", "9") == 0
    assert capsys.readouterr().out == printed
    assert toy("predict", "r", "--", "--help") == 2
    assert "'--help' is no row of digits" in capsys.readouterr().err


@pytest.fixture
def on_the_path(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    file = tmp_path / "bin" / "toy"
    file.touch(0o755)
    monkeypatch.setenv("PATH", str(file.parent), prepend=os.pathsep)
    monkeypatch.setattr("sys.argv", [str(file)])


@pytest.mark.usefixtures("on_the_path")
def test_commands_are_printed_as_they_can_be_called(capsys, monkeypatch):
    assert toy("train", "--fit.epochs", "1", "--run", "a") == 0
    assert "watch    tensorboard --logdir .\ntest     toy evaluate a\n" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["/of/uvx/bin/toy"])
    monkeypatch.setenv("PATH", "/nowhere")
    assert toy("train", "--fit.epochs", "1", "--run", "c") == 0
    again = f"{sys.executable} -m"
    told = f"watch    {again} tensorboard.main --logdir .\ntest     {again} toy evaluate c\n"
    assert told in capsys.readouterr().out
    monkeypatch.setenv("UV_RUN_RECURSION_DEPTH", "1")
    assert toy("train", "--fit.epochs", "1", "--run", "b") == 0
    out = capsys.readouterr().out
    assert "watch    uv run --package toy tensorboard --logdir .\ntest     uv run --package toy toy evaluate b\n" in out


@pytest.mark.usefixtures("on_the_path")
def test_what_was_just_done_is_not_what_comes_next(capsys):
    given = PACKAGE.next_step.split()
    assert toy("train", "--fit.epochs", "1", "--run", "a") == 0
    assert capsys.readouterr().out.endswith(f"next     toy train {PACKAGE.next_step}\n")
    assert toy("train", "--fit.epochs", "1", *given, "--run", "b") == 0
    assert capsys.readouterr().out.endswith("next     toy study --help\n")


@pytest.mark.usefixtures("on_the_path")
def test_commands_can_be_pasted_whatever_a_folder_is_called(capsys, monkeypatch, tmp_path):
    name = "my runs/it's $HOME `a` b"

    def said(start):
        """The words of the shell in the line of the output that begins so."""
        (line,) = [line for line in out.splitlines() if line.startswith(start)]
        return shlex.split(line)[1:]

    short = ["--fit.epochs", "1", "--fit.device", "cpu"]
    assert toy("train", *short, "--run", name) == 0
    out = capsys.readouterr().out
    assert said("watch ") == ["tensorboard", "--logdir", "my runs"]
    assert said("test ") == ["toy", "evaluate", name]
    monkeypatch.setattr(loop, "fit", stopped)
    assert toy("train", *short, "--run", f"{name} 2") == 143
    out = capsys.readouterr().out
    assert said("stopped by SIGTERM; go on with: ")[-4:] == ["toy", "train", "--run", f"{name} 2"]

    Path("my study.yaml").write_text("{question: q, metric: accuracy, compare: {norm: [true, false]}, seeds: 1}")
    monkeypatch.setattr(study_of_runs, "work", lambda *_: None)
    assert toy("study", "my study.yaml", "--out", name) == 1
    out = capsys.readouterr().out
    assert said("curves: ") == ["tensorboard", "--logdir", name]
    *_, command, _ = (tmp_path / name / "results.md").read_text().splitlines()
    assert shlex.split(command) == ["toy", "study", "my study.yaml", "--out", name]
    about = tmp_path / name / "norm=true" / "seed=0"
    about.mkdir(parents=True)
    (about / "config.yaml").touch()
    words = dict.fromkeys(("data", "model", "architecture", "metric"), "")
    (about / "about.json").write_text(json.dumps({**words, "task": "other"}))
    assert toy("report", str(about)) == 2
    assert shlex.split(capsys.readouterr().err.partition("say ")[2]) == ["other", "report", str(about)]


def stopped(*_):
    raise Stopped(signal.SIGTERM)


def test_a_run_without_a_name_gets_a_folder_of_its_own(capsys, tmp_path):
    for _ in range(2):
        assert toy("train", "--fit.epochs", "1") == 0
    assert len(list((tmp_path / "runs" / "toy").iterdir())) == 2


def test_help_of_every_verb(capsys):
    assert toy("--help") == 0
    assert toy("evaluate", "--help") == 0
    assert toy("predict", "--help") == 0
    assert toy() == 2
    assert toy("train", "--help") == 0
    assert "--fit.batch-size" in capsys.readouterr().out


def test_help_imports_no_torch():
    """Nor does that of the verbs that other distributions add."""
    ask = (
        "import sys\nfrom etude import cli\nfrom toy.config import PACKAGE\n"
        "for verb in ('', 'train', 'evaluate', 'predict', 'study', 'report', 'export', 'track'):\n"
        "    assert cli.main(PACKAGE, [*verb.split(), '--help']) == 0, verb\n"
        "    assert 'torch' not in sys.modules, verb\n"
    )
    assert subprocess.run([sys.executable, "-c", ask]).returncode == 0


def test_bash_completes_verbs_flags_and_their_words(capsys, tmp_path):
    """In a real bash, by what `--tyro-print-completion bash` prints; it imports no torch."""
    done = subprocess.run(
        [sys.executable, "-c", "import sys\nfrom etude import cli\nfrom toy.config import PACKAGE\n"
         "print(cli.main(PACKAGE, ['--tyro-print-completion', 'bash']), 'torch' in sys.modules, file=sys.stderr)"],
        capture_output=True, text=True, encoding="utf-8",
    )  # fmt: skip
    assert done.stderr.split() == ["0", "False"]
    (tmp_path / "toy.bash").write_text(done.stdout, "utf-8")
    (function,) = re.findall(r"^complete .*-F (\w+) toy$", done.stdout, flags=re.M)

    def offered(*words):
        """What bash offers for the last word."""
        typed = " ".join(f"'{word}'" for word in words)
        ask = (
            f'source toy.bash; COMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}; {function}; echo "${{COMPREPLY[@]}}"'
        )
        told = subprocess.run(["bash", "-c", ask], cwd=tmp_path, capture_output=True, text=True, encoding="utf-8")
        assert told.stderr == ""
        return told.stdout.split()

    assert {"train", "evaluate", "predict", "study", "report", "export", "track"} <= {*offered("toy", "")}
    assert offered("toy", "tr") == ["track", "train"]
    assert offered("toy", "train", "--fit.batch") == ["--fit.batch-size"]
    assert offered("toy", "train", "--ru") == ["--run"]
    assert offered("toy", "train", "--fit.optimizer", "") == ["adamw", "sgd", "rmsprop"]
    for shell in ("zsh", "fish"):
        assert toy("--tyro-print-completion", shell) == 0
        assert "train" in capsys.readouterr().out
    for words in ([], ["tcsh"], ["bash", "zsh"]):
        assert toy("--tyro-print-completion", *words) == 2
        assert capsys.readouterr().err == "toy: --tyro-print-completion takes the shell: bash, zsh, fish\n"


@pytest.fixture
def vectors(monkeypatch):
    """The toy with the verb `embed`: a vector is the first digit of a row, its length, and half its number."""

    def embed(task, inputs):
        assert not task.model.training
        return np.array([[int(text[0]), len(text), n / 2] for n, text in enumerate(inputs)], np.float32)

    monkeypatch.setattr("toy.task.embed", embed, raising=False)
    package = dataclasses.replace(PACKAGE, embeds=True)
    return lambda *words: cli.main(package, [*words])


def test_embed_writes_a_vector_for_each_input(vectors, capsys, tmp_path):
    assert vectors("train", "--fit.epochs", "1", "--run", "r") == 0
    capsys.readouterr()
    for words in (["r", "71", "9", "--out", "v.npy"], ["--out=w.npy", "r", "71", "9"]):
        assert vectors("embed", *words) == 0
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.endswith("2 vectors of 3 numbers, float32\n")
    for name in ("v.npy", "w.npy"):
        found = np.load(tmp_path / name, allow_pickle=False)
        assert found.dtype == np.float32
        assert found.tolist() == [[7, 2, 0], [9, 1, 0.5]]
    kept = (tmp_path / "v.npy").read_bytes()
    assert vectors("embed", "r", "1", "--out", "nowhere/v.npy") == 2
    assert "cannot write 'nowhere/v.npy'" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r", "v.npy", "w.npy"]
    assert (tmp_path / "v.npy").read_bytes() == kept


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "embed",
            "arguments are required: --out; usage: toy embed [-h] --out FILE.npy RUN [INPUT ...] [-- INPUT ...]",
        ),
        ("embed r 1", "the following arguments are required: --out"),
        ("embed r --out v.npy", "give the run folder and at least one input"),
        ("embed r 1 --out", "argument --out: expected one argument"),
        ("embed r 1 --out v.npy --format x", "unrecognized arguments: --format"),
        ("embed nowhere 1 --out v.npy", "nowhere is no run folder"),
        ("embde", "there is no 'embde' in toy: did you mean 'embed'?"),
    ],
)
def test_a_mistake_with_embed_is_one_line_and_writes_nothing(words, message, vectors, capsys, tmp_path):
    assert vectors(*words.split()) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert not list(tmp_path.iterdir())


def test_only_a_package_that_embeds_has_the_verb(vectors, capsys):
    assert vectors("--help") == 0
    assert "\n  embed " in capsys.readouterr().out
    assert vectors("embed", "--help") == 0
    assert capsys.readouterr().out.startswith("usage: toy embed [-h] --out FILE.npy RUN [INPUT ...] [-- INPUT ...]\n")
    assert toy("--help") == 0
    assert "embed" not in capsys.readouterr().out
    assert toy("embed", "r", "1", "--out", "v.npy") == 2
    assert "there is no 'embed' in toy" in capsys.readouterr().err
