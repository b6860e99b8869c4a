import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from toy import task as toy
from toy.__main__ import PACKAGE

from etude import cli
from etude.config import Fit
from etude.errors import UserError
from etude.testing import CPU, Cut, cut_off
from etude.train import checkpoint, device


def test_auto_takes_what_is_fastest_and_says_why(monkeypatch):
    for capabilities, precision, why in [
        ({"amx_bf16": True, "avx512_bf16": True}, "bf16", "bf16 (auto: this CPU multiplies it in AMX)"),
        ({"avx512_bf16": True}, "fp32", "fp32 (auto: this CPU has no AMX, in which bf16 would be faster)"),
        ({"avx512_f": True}, "fp32", "fp32 (auto: this CPU has no AMX"),
        ({}, "fp32", "fp32 (auto: this CPU has no AMX"),
    ]:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found)
        chosen = device.choose(Fit(device="cpu"))
        assert chosen.precision == precision
        assert why in chosen.told
    assert device.choose(Fit(device="cpu", precision="bf16")).precision == "bf16"
    cuda = torch.device("cuda")
    for capability, precision in [((9, 0), "bf16"), ((8, 0), "bf16"), ((7, 5), "fp16")]:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, found=capability: found)
        assert device.best_precision(cuda) == precision


def test_an_apple_gpu_is_taken_in_fp32_and_what_it_cannot_do_is_refused_in_one_line(monkeypatch):
    """As far as it can be seen without one: totals in float64 are added up on the CPU."""
    with pytest.raises(UserError, match=r"^fit\.device is mps, but PyTorch finds no such device here: use"):
        device.choose(Fit(device="mps"))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    for chosen in (device.choose(Fit()), device.choose(Fit(device="mps")), device.choose(Fit(), "bf16")):
        assert (chosen.where.type, chosen.precision, chosen.exact.type) == ("mps", "fp32", "cpu")
        assert chosen.told.startswith("mps: Apple GPU, fp32 (")
    assert device.choose(Fit(device="cpu")).where.type == "cpu"
    for precision in ("bf16", "fp16"):
        with pytest.raises(UserError, match=rf"^fit\.precision {precision} is not offered on Apple GPUs: use fp32 or"):
            device.choose(Fit(precision=precision))
    for name, value in {"WORLD_SIZE": 2, "RANK": 0, "MASTER_ADDR": "localhost", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(UserError, match="^several processes cannot share an Apple GPU: give"):
        device.choose(Fit())


def test_a_resumed_run_keeps_the_precision_that_auto_took_when_it_began(monkeypatch):
    for began, capabilities, precision, why in [
        ("bf16", {}, "bf16", "as the run began; fp32 would be auto here"),
        ("fp32", {"amx_bf16": True}, "fp32", "as the run began; bf16 would be auto here"),
        ("bf16", {"amx_bf16": True}, "bf16", "auto: this CPU multiplies it in AMX"),
        ("fp16", {}, "fp32", "the run began in fp16, which is not offered here; auto: this CPU has no AMX"),
    ]:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found)
        chosen = device.choose(Fit(device="cpu"), began)
        assert chosen.precision == precision
        assert chosen.why.startswith(why)
        assert device.choose(Fit(device="cpu", precision="fp32"), began).precision == "fp32"


def test_a_run_goes_on_in_its_precision_on_another_machine(monkeypatch, capsys, tmp_path):
    words = ["train", "--fit.device", "cpu", "--fit.epochs", "2", "--run", "r"]
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    monkeypatch.setattr(toy, "make", cut_short)
    with pytest.raises(Cut):
        cli.main(PACKAGE, words)
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    monkeypatch.setattr(toy, "make", lambda cfg, _: toy.Toy(cfg))
    capsys.readouterr()
    assert cli.main(PACKAGE, words) == 0
    assert "bf16 (as the run began; fp32 would be auto here)\n" in capsys.readouterr().out
    assert cli.main(PACKAGE, ["evaluate", "r"]) == 0
    assert "bf16 (as the run began; fp32 would be auto here)\n" in capsys.readouterr().out
    file = tmp_path / "r" / "environment.json"
    assert [start["precision"] for start in json.loads(file.read_text())] == ["bf16", "bf16"]
    for broken in ("{}", "[1]", '[{"precision": "much"}]'):
        file.write_text(broken)
        assert cli.main(PACKAGE, words) == 2
        said = capsys.readouterr().err
        assert f"{Path('r', 'environment.json')} cannot be read" in said and "delete it" in said


def cut_short(cfg, where):
    task = toy.Toy(cfg)
    cut_off(task, "train", 8)
    return task


class Pair(NamedTuple):
    left: torch.Tensor
    right: int


def test_move_keeps_the_shape_of_a_batch():
    assert CPU.move(Pair(torch.ones(1), 2)) == Pair(torch.ones(1), 2)
    batch = {"a": [torch.ones(2), (torch.zeros(1), "text")], "b": 3}
    moved = CPU.move(batch)
    assert moved["a"][1][1] == "text"
    assert torch.equal(moved["a"][0], torch.ones(2))


def torchrun(processes, *words):
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
    command = [sys.executable, *start, "-m", *(["--"] if start else []), "toy", *words]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "Warning" not in ended.stderr
    return ended.stdout


@pytest.mark.parametrize("flags", [["--norm"], ["--no-norm", "--fit.accumulate", "2"]])
def test_two_processes_give_what_one_gives(flags, tmp_path):
    """Batch norm counts over both, augmentation follows the examples; dropout, drawn by each for itself, is off."""
    words = ["train", *flags, "--dropout", "0", "--fit.device", "cpu", "--fit.precision", "fp32", "--fit.epochs", "2"]
    words += ["--fit.optimizer", "sgd", "--fit.lr", "0.05"]
    torchrun(1, *words, "--run", "one")
    said = torchrun(2, *words, "--run", "two")
    assert said.count("done     validation") == 1  # only the first process speaks
    one, two = (checkpoint.load(tmp_path / name / "checkpoints" / "last.pt") for name in ("one", "two"))
    for name, tensor in one["model"].items():
        torch.testing.assert_close(two["model"][name], tensor, rtol=1e-4, atol=1e-5, msg=name)
    rows = [[json.loads(x) for x in (tmp_path / n / "metrics.jsonl").read_text().splitlines()] for n in ("one", "two")]
    for a, b in zip(*rows, strict=True):
        assert a["train"] == pytest.approx(b["train"], rel=1e-4)
        assert a["valid"] == pytest.approx(b["valid"], rel=1e-4)
    assert len(list((tmp_path / "two" / "tb").iterdir())) == 1  # and only it writes
    assert json.loads((tmp_path / "two" / "environment.json").read_text())[0]["processes"] == 2
