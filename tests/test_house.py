"""The shape of core, read from its source: which way imports run, and how long things are."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CORE = ROOT / "packages/core/src/etude"
# `etude` is a namespace: `text` has the folders text/, layers/ and language/, `testing` the battery; others their own.
OTHERS = ("demo", "export", "report", "study", "testing", "text", "track")
PARTS = [CORE, *(ROOT / f"packages/{name}/src/etude" for name in OTHERS)]
SOURCES = sorted(path for part in PARTS for path in part.rglob("*.py"))

# What may be imported from where. A leaf is a module that lies in no folder; leaves import only leaves.
MAY = {
    "leaf": {"leaf"},
    "text": {"leaf", "text"},
    "layers": {"leaf", "layers"},
    "train": {"leaf", "train"},
    "language": {"leaf", "text", "layers", "train", "language"},
    "stacked": {"leaf", "train", "stacked"},
    "study": {"leaf", "study"},
    "report": {"leaf", "study", "report"},
    "export": {"leaf", "study", "train", "export"},
    "track": {"leaf", "study", "track"},
    "demo": {"leaf", "train", "demo", "top"},  # it trains where there is no run, and restores as `predict` does
    "top": {
        "leaf",
        "text",
        "layers",
        "language",
        "train",
        "stacked",
        "study",
        "report",
        "export",
        "track",
        "demo",
        "top",
    },
}
TOP = {"etude.cli", "etude.dispatch", "etude.testing"}  # what everything comes together in


def name_of(path):
    parts = path.with_suffix("").parts
    parts = parts[len(parts) - parts[::-1].index("etude") - 1 :]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): ast.parse(path.read_text("utf-8")) for path in SOURCES}


def part_of(module):
    folders = module.split(".")[1:]
    return "top" if module in TOP else folders[0] if len(folders) > 1 or folders[:1] in ([f] for f in MAY) else "leaf"


def imports(module, tree):
    """The modules of etude that a module imports, anywhere in it, and the lines where it does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}, line {node.lineno}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else str(node.module) for name in names]
        else:
            continue
        for name in names:
            if name in MODULES:
                yield name, node.lineno


def test_imports_run_one_way():
    wrong = [
        f"{module}, line {line}: imports {name}"
        for module, tree in MODULES.items()
        for name, line in imports(module, tree)
        if part_of(name) not in MAY[part_of(module)]
    ]
    assert not wrong, "\n".join(wrong)


def test_core_imports_no_other_distribution():
    ours = {name_of(path) for path in CORE.rglob("*.py")}
    wrong = [
        f"{module}, line {n}: {name}"
        for module in ours
        for name, n in imports(module, MODULES[module])
        if name not in ours
    ]
    assert not wrong, "\n".join(wrong)


def test_there_is_no_circle():
    knows = defaultdict(set)
    for module, tree in MODULES.items():
        knows[module].update(name for name, _ in imports(module, tree))
    left = set(MODULES)
    while ends := {module for module in left if not knows[module] & left}:
        left -= ends
    assert not left, f"circles among {', '.join(sorted(left))}"


def test_no_import_of_ours_is_for_the_type_checker_only():
    for module, tree in MODULES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                hidden = [name for name, _ in imports(module, ast.Module(node.body, []))]
                assert not hidden, f"{module}, line {node.lineno}: {', '.join(hidden)}"


def test_no_distribution_takes_the_namespace_for_itself():
    """An `etude/__init__.py` in one of them would hide the others."""
    assert not [part for part in PARTS if (part / "__init__.py").exists()]
    assert all("etude." in name for name in MODULES)


def test_the_picture_in_contributing_shows_every_module():
    picture = (ROOT / "CONTRIBUTING.md").read_text("utf-8").partition("```text\n")[2].partition("```")[0]
    shown = set(re.findall(r"\w+", picture))
    # text/, layers/ and language/ are shown by what they hold.
    told = ("text", "layers", "language")
    missing = [path.stem for path in SOURCES if path.parent.name not in told and path.stem not in shown]
    assert [name for name in missing if name != "__init__"] == []


def test_core_does_not_grow():
    """What one can do without, such as another verb, comes as a distribution of its own (`etude.verbs`)."""
    lines = sum(len(path.read_text("utf-8").splitlines()) for path in CORE.rglob("*.py"))
    assert lines < 7_000, f"core has {lines:,} lines"


@pytest.mark.parametrize(("part", "most"), [("study", 50), ("stacked", 50), ("train", 60), ("report", 60)])
def test_functions_are_short(part, most):
    long = [
        f"{module}.{node.name}: {length} lines"
        for module, tree in MODULES.items()
        if part_of(module) == part
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := node.end_lineno - node.lineno + 1) >= most
    ]
    assert not long, "\n".join(long)


PRIVATE = (
    r"torch\._(?!_version__)\w+|from torch\.[\w.]*_\w+ import|from torch\.?[\w.]* import .*\b_\w+"  # torch._C, ...
    r"|\baten\.|torch\.ops\.aten|_compiled_call_impl|_get_file_writer"
    r"|tensorboard\.backend|tensorboard\.compat|tensorboard\.summary|torch\.utils\.tensorboard\.\w+"
)


def test_private_names_of_torch_stand_in_one_file():
    wrong = []
    for path in sorted(ROOT.glob("packages/*/src/**/*.py")):
        if path.name != "torch_private.py":
            for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
                code = line.partition("#")[0]
                if found := re.search(PRIVATE, code):
                    wrong.append(f"{path.relative_to(ROOT)}, line {number}: {found[0]}")
    assert not wrong, "\n".join(wrong)
