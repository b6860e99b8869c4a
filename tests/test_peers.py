"""What `benchmarks/peers.py` counts, notes and compares; the frameworks themselves are not installed here."""

import ast
import gzip
import json
import struct
import subprocess
import sys

import peers
import pytest

PROBE = [sys.executable, str(peers.SCRIPTS / "probe.py")]
TRAINING = '''"""A docstring
of two lines."""
import torch

# a comment
model = torch.nn.Linear(3, 2)  # 8 parameters


def train(steps):
    """Another."""
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=0.1,
    )
    for _ in range(steps):
        optimizer.step()


train(3)
train(5)
'''


def probed(folder, source):
    (folder / "script.py").write_text(source)
    done = subprocess.run(
        [*PROBE, str(folder / "found.json"), str(folder / "script.py")], capture_output=True, text=True
    )
    return done, json.loads((folder / "found.json").read_text())


def test_lines_are_those_that_somebody_wrote():
    assert peers.lines(TRAINING) == 11
    assert peers.lines("") == 0
    network, cnn = peers.SCRIPTS / "cnn_network.py", peers.SCRIPTS / "pytorch_cnn.py"
    assert peers.written(cnn) == peers.lines(network.read_text()) + peers.lines(cnn.read_text())


def test_the_steps_are_those_of_the_optimiser_that_stepped_last(tmp_path):
    done, found = probed(tmp_path, TRAINING)
    assert done.returncode == 0, done.stderr
    assert (len(found["stamps"]), found["parameters"]) == (5, 8)
    assert found["stamps"] == sorted(found["stamps"])


def test_optimisers_that_are_not_torchs_are_watched(tmp_path):
    """Modules that are named and shaped as fastai's and Keras's are."""
    (tmp_path / "fastai").mkdir()
    (tmp_path / "fastai/__init__.py").touch()
    (tmp_path / "fastai/optimizer.py").write_text(
        "class Optimizer:\n    def __init__(self, p): self.p = p\n    def step(self): pass\n"
        "    def all_params(self): return [(p, {}, {}, {}) for p in self.p]\n"
    )
    source = (
        f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\nimport torch\nfrom fastai.optimizer import Optimizer\n"
    )
    source += "made = Optimizer([torch.zeros(2, 3), torch.zeros(4)])\nfor _ in range(4): made.step()\n"
    done, found = probed(tmp_path, source + "raise ValueError('too late')\n")
    assert done.returncode == 1 and "too late" in done.stderr
    assert (len(found["stamps"]), found["parameters"]) == (4, 10)
    folder = tmp_path / "keras/src/optimizers"
    folder.mkdir(parents=True)
    for package in (folder, folder.parent, folder.parent.parent):
        (package / "__init__.py").touch()
    (folder / "base_optimizer.py").write_text(
        "class BaseOptimizer:\n    def apply(self, grads, variables=None): pass\n"
    )
    source = f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\nimport torch\n"
    source += "from keras.src.optimizers.base_optimizer import BaseOptimizer\nclass AdamW(BaseOptimizer): pass\n"
    source += "made = AdamW()\nfor _ in range(6): made.apply([torch.zeros(2, 3)], None)\n"
    done, found = probed(tmp_path, source)
    assert done.returncode == 0, done.stderr
    assert (len(found["stamps"]), found["parameters"]) == (6, 6)


def line(peer, number, whole, accuracy=0.9):
    told = {"workload": "cnn-emnist", "peer": peer, "version": "1.2", "round": number, "whole_s": whole, "lines": 40}
    told |= {"start_s": 5, "step_ms": 50, "peak_mb": 1000, "parameters": 289130, "accuracy": accuracy, "steps": 215}
    told |= {"package_lines": 700, "machine": "EPYC, 2 cores, Linux", "threads": 2, "torch": "2.15.0"}
    return {name: str(value) for name, value in told.items()}


def test_a_table_has_the_ratios_of_medians_to_etude():
    rounds = {"etude": (20, 30, 90), "keras": (60, 10, 45), "skorch": (15, 15, 15)}
    found = [line(peer, n, whole) for peer, wholes in rounds.items() for n, whole in enumerate(wholes, 1)]
    _, _, etude, keras, skorch = peers.table(found, "cnn-emnist")
    assert etude.startswith("| etude 1.2 | 30.0 s | 5.0 s | 50 ms | 1,000 MB | 40 |")
    assert keras.startswith("| Keras on torch 1.2 | 1.50 (45.0 s) | 1.00 (5.0 s) |")
    assert skorch.startswith("| skorch 1.2 | 0.50 (15.0 s) |") and skorch.endswith("| 90.0 % |")
    said = peers.told(found, "cnn-emnist")
    assert "3 rounds" in said and "EPYC, 2 cores, Linux, 2 threads" in said and "289,130 parameters" in said


def test_what_learns_otherwise_has_no_ratio():
    found = [line("etude", 1, 20), line("fastai", 1, 40, 0.9 - peers.WORKLOADS["cnn-emnist"].near - 0.001)]
    assert peers.table(found, "cnn-emnist")[-1].startswith("| fastai 1.2 | not comparable (40.0 s) | not comparable (")


@pytest.mark.parametrize("workload", peers.WORKLOADS)
def test_every_script_can_be_read_and_says_its_accuracy(workload):
    there = [peer for peer in peers.PEERS if peers.script(peer, workload).is_file()]
    assert {"pytorch", "lightning", "accelerate", "fastai"} <= {*there}
    for peer in there:
        source = peers.script(peer, workload).read_text("utf-8")
        assert ast.get_docstring(ast.parse(source)) and "validation accuracy {" in source


def test_data_are_cut_to_as_many_examples(tmp_path, monkeypatch):
    monkeypatch.setenv("ETUDE_DATA", str(tmp_path / "whole"))
    raw = tmp_path / "whole/FashionMNIST/raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 0x803, 50, 28, 28) + bytes(50 * 784))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(
            struct.pack(">2i", 0x801, 50) + bytes(i % 10 for i in range(50))
        )
    (tmp_path / "whole/ud").mkdir()
    text = "# newdoc\n1\tДом\t_\tNOUN{rest}\n\n1\tОн\t_\tPRON{rest}\n2\tспит\t_\tVERB{rest}\n\n"
    with gzip.open(tmp_path / "whole/ud/ru_opencorpora-morphorueval2017.conllu.gz", "wt", encoding="utf-8") as file:
        file.write(text.format(rest="\t_" * 6) * 5)
    for part in ("train", "test"):
        (tmp_path / "whole/imdb" / part).mkdir(parents=True)
        for kind in ("positive", "negative"):
            texts = [f"{part} {kind} {n}<br />" for n in range(30)] + ['"quoted"', f"{part}  {kind} 7"]
            (tmp_path / "whole/imdb" / part / kind).write_text("\n".join(texts))
    short = tmp_path / "short"
    short.mkdir()
    peers.fashion(short, 24)
    peers.reviews(short, 40)
    peers.sentences(short, 3)
    monkeypatch.setenv("ETUDE_DATA", str(short))

    from cnn_emnist.data import load as letters
    from imdb_rnn.data import load as imdb
    from lstm_pos.data import read

    found = letters("fashion-mnist", 0)
    assert [len(part.labels) for part in (found.train, found.valid, found.test)] == [22, 2, 2]
    assert (len(imdb("imdb", 0).train.texts), len(imdb("imdb", 0).valid.texts)) == (36, 4)
    corpus = read(str(short / "sentences.conllu"))
    assert (len(corpus.sentences) - 1, len(corpus.documents) - 1, len(corpus.word_ids)) == (3, 3, 4)
