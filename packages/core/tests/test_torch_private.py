"""What torch and TensorBoard do not document stands in `etude.torch_private`, and nowhere else."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from etude import torch_private

PACKAGES = Path(__file__).parents[2]
SOURCES = [p for p in sorted(PACKAGES.glob("*/src/**/*.py")) if p.name != "torch_private.py"]
OTHERS = {"_replace", "_fields", "_asdict"} | {"_score", "_extract_corpus_statistics", "_aggregate_and_compute"}
"""private in name only, in named tuples; private in pycocoevalcap and sacrebleu, which text and caption scores call"""
PUBLIC = {"torch.utils.tensorboard", "tensorboard.plugins.projector"}
UNDOCUMENTED = ("tensorboard.", "torch.utils.tensorboard.", "torch.optim.")


def private(tree: ast.AST) -> set[str]:
    """The private names in a file: imports, attributes of what is not the file's own, and names in strings."""
    found = set()
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if re.match(r"torch(\.\w+)*\._", node.value):
                found.add(node.value)
        elif isinstance(node, ast.Attribute):
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            if re.match(r"_[^_]", node.attr) and not own and node.attr not in OTHERS:
                found.add(node.attr)
            if ast.unparse(node).startswith("torch.ops."):
                found.add(ast.unparse(node))
        for name in names:
            if name.startswith(("torch.", "tensorboard.")):
                module = name.rpartition(".")[0]
                hidden = any(part.startswith("_") for part in name.split("."))
                if hidden or (name.startswith(UNDOCUMENTED) and module not in PUBLIC):
                    found.add(name)
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGES)))
def test_private_names_of_torch_stand_in_one_file(path):
    assert private(ast.parse(path.read_text("utf-8"))) == set()


@pytest.mark.parametrize(
    "line",
    [
        "from torch._C import _functorch",
        "import torch._dynamo",
        "torch._foreach_mul_(a, b)",
        "model._compiled_call_impl = None",
        "f = torch.ops.aten.sigmoid_backward.grad_input",
        "from tensorboard.compat.proto.event_pb2 import Event",
        "from torch.optim import rmsprop",
        "x = 'torch._inductor'",
    ],
)
def test_a_private_name_is_found(line):
    assert private(ast.parse(line))


@pytest.mark.parametrize("name", torch_private.NAMES)
def test_every_name_is_there(name):
    assert getattr(torch_private, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="anything"):
        torch_private.anything  # noqa: B018


def test_it_imports_torch_only_when_asked():
    code = "import sys, etude.torch_private, etude.events; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_optimiser_imports_no_compiler():
    code = """
import sys, torch
from etude.config import Fit
from etude.train.optim import optimizer
for name in ("adamw", "sgd", "rmsprop"):
    model = torch.nn.Linear(3, 3)
    found = optimizer(Fit(optimizer=name), model)
    model(torch.ones(2, 3)).sum().backward()
    found.step()
    found.zero_grad()
    found.load_state_dict(found.state_dict())
sys.exit("torch._dynamo" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
