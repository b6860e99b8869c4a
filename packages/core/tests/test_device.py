import json
import subprocess
import sys
from typing import NamedTuple

import pytest
import torch

from etude import device, run
from etude.config import Fit
from etude.testing import CPU


def test_auto_takes_what_the_processor_multiplies_natively(monkeypatch):
    for capabilities, precision in [
        ({"amx_bf16": True}, "bf16"),
        ({"avx512_bf16": True}, "bf16"),
        ({"avx512_f": True}, "fp32"),
        ({}, "fp32"),
    ]:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found)
        assert device.choose(Fit(device="cpu")).precision == precision
    assert device.choose(Fit(device="cpu", precision="bf16")).precision == "bf16"
    cuda = torch.device("cuda")
    for capability, precision in [((9, 0), "bf16"), ((8, 0), "bf16"), ((7, 5), "fp16")]:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, found=capability: found)
        assert device.best_precision(cuda) == precision


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
    one, two = (run.load(tmp_path / name / "checkpoints" / "last.pt") for name in ("one", "two"))
    for name, tensor in one["model"].items():
        torch.testing.assert_close(two["model"][name], tensor, rtol=1e-4, atol=1e-5, msg=name)
    rows = [[json.loads(x) for x in (tmp_path / n / "metrics.jsonl").read_text().splitlines()] for n in ("one", "two")]
    for a, b in zip(*rows, strict=True):
        assert a["train"] == pytest.approx(b["train"], rel=1e-4)
        assert a["valid"] == pytest.approx(b["valid"], rel=1e-4)
    assert len(list((tmp_path / "two" / "tb").iterdir())) == 1  # and only it writes
    assert json.loads((tmp_path / "two" / "environment.json").read_text())[0]["processes"] == 2
