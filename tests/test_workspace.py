"""The workspace itself: `uv run --package X train` runs X, and every member has the shape that the others have.

The commands are tried in a throw-away workspace: the real dispatcher and the real pyproject files, with small tasks
that print their name in place of training, and without torch, so that uv makes the environment in seconds.
"""

import ast
import importlib
import importlib.util
import itertools
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
import typing
from importlib.metadata import packages_distributions
from pathlib import Path

import prose
import pytest
import yaml

from etude.config import knobs, parse
from etude.study.command import default_out
from etude.study.command import parser as study_parser
from etude.study.file import load

ROOT = Path(__file__).parents[1]
PACKAGES = sorted(path.parent for path in ROOT.glob("packages/*/pyproject.toml"))
SHARED = {
    name: f"etude-{name}" for name in ("core", "demo", "export", "report", "study", "text", "track", "testing")
}  # folder -> distribution
TASKS = [path for path in PACKAGES if path.name not in SHARED]
VERBS = {
    "train",
    "evaluate",
    "predict",
    "embed",
    "demo",
    "study",
    "report",
    "export",
    "track",
    "neighbours",
    "skipgram",
}
TOYS = ("toy-one", "toy-two", "toy-three")

TOY = """
import json, sys

def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    print(json.dumps({"task": "NAME", "argv": argv}))
    return 7 if "--fail" in argv else 0
"""

# ----------------------------------------------------------------------------------------------- the right task, always


def asking_for(pyproject: str, key: str, *needs: str) -> str:
    """The text of a pyproject.toml with these requirements alone in the list `key`."""
    text, count = re.subn(rf"^{key} = \[.*?\]$", f"{key} = {json.dumps(needs)}", pyproject, flags=re.M | re.S)
    assert count == 1
    return text


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A folder with the root's and core's real files, and toy tasks whose pyproject.toml is that of cnn-emnist."""
    root = tmp_path_factory.mktemp("workspace")
    shutil.copy(ROOT / "uv.lock", root)
    (root / "pyproject.toml").write_text(asking_for(asking_for((ROOT / "pyproject.toml").read_text(), "dev"), "site"))
    core = root / "packages/core/src/etude"
    core.mkdir(parents=True)
    for name in ("errors.py", "dispatch.py"):
        shutil.copy(ROOT / "packages/core/src/etude" / name, core / name)
    text = (ROOT / "packages/core/pyproject.toml").read_text()
    (root / "packages/core/pyproject.toml").write_text(asking_for(text, "dependencies", "psutil"))
    text = asking_for((ROOT / "packages/cnn-emnist/pyproject.toml").read_text(), "dependencies", "etude-core")
    for toy in TOYS:
        module = toy.replace("-", "_")
        source = root / "packages" / toy / "src" / module
        source.mkdir(parents=True)
        (source / "__init__.py").touch()
        (source / "__main__.py").write_text(TOY.replace("NAME", toy))
        ours = text.replace("cnn-emnist", toy).replace("cnn_emnist", module)
        (root / "packages" / toy / "pyproject.toml").write_text(ours)
    done = sh(root, "uv lock")
    assert done.returncode == 0, done.stderr
    return root


def start(folder, command, **env):
    """Starts a shell command in `folder`, for somebody who sees nothing of the environment that these tests run in."""
    ours = ("VIRTUAL_ENV", "UV_PROJECT", "UV_PROJECT_ENVIRONMENT", "UV_WORKING_DIR", "UV_RUN_RECURSION_DEPTH")
    clean = {key: value for key, value in os.environ.items() if key not in ours} | env
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=clean, shell=True, text=True, stdout=pipe, stderr=pipe)


def finish(process):
    stdout, stderr = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def sh(folder, command, **env):
    return finish(start(folder, command, **env))


def trained(done):
    """(task, its arguments) of a command that must have succeeded."""
    assert done.returncode == 0, f"{done.args}\n{done.stdout}{done.stderr}"
    said = json.loads(done.stdout)
    assert said["argv"][0] == "train"
    return said["task"], said["argv"][1:]


def refusal(done):
    """The one line with which a command stopped before any task ran."""
    assert done.returncode == 2, f"{done.args}\n{done.stdout}{done.stderr}"
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if line.startswith("train: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


@pytest.mark.parametrize("exact", ["", "--exact"])
def test_in_sequence(workspace, exact):
    for toy in ("toy-one", "toy-two", "toy-one", "toy-three", "toy-two"):
        assert trained(sh(workspace, f"uv run {exact} --package {toy} train --x 1")) == (toy, ["--x", "1"])


def test_ten_at_once(workspace):
    toys = [TOYS[i % 3] for i in range(10)]
    processes = [start(workspace, f"uv run --package {toy} train {i}") for i, toy in enumerate(toys)]
    assert [trained(finish(each)) for each in processes] == [(toy, [str(i)]) for i, toy in enumerate(toys)]


def test_ten_at_once_exact(workspace):
    """Each takes the others' packages away, so some may have to stop; none may train what it was not asked for."""
    toys = [TOYS[i % 3] for i in range(10)]
    processes = [start(workspace, f"uv run --exact --package {toy} train {i}") for i, toy in enumerate(toys)]
    outcomes = [finish(each) for each in processes]
    right = 0
    for i, (toy, done) in enumerate(zip(toys, outcomes, strict=True)):
        if done.returncode == 0:
            assert trained(done) == (toy, [str(i)])
            right += 1
        else:
            assert done.stdout == "", done.stdout
    assert right >= 1, "whoever came last has lost nothing\n" + "\n".join(done.stderr for done in outcomes)


@pytest.mark.parametrize(
    ("folder", "command", "expected"),
    [
        (".", "uv run --package=toy-two train", ("toy-two", [])),
        (".", "uv run --package Toy_Two train", ("toy-two", [])),
        (
            ".",
            "uv -q run --color never --env-file x.env --package toy-two -- train --package",
            ("toy-two", ["--package"]),
        ),
        (".", "uv run --package toy-one train --package toy-two", ("toy-one", ["--package", "toy-two"])),
        (".", "uv run -qw psutil --package toy-two train", ("toy-two", [])),
        ("packages/toy-two", "uv run --package toy-one train", ("toy-one", [])),
        # no --package: the project that uv took
        ("packages/toy-two", "uv run train --package toy-one", ("toy-two", ["--package", "toy-one"])),
        ("packages/toy-two/src/toy_two", "uv run train", ("toy-two", [])),
        (".", "uv run --directory packages/toy-three train", ("toy-three", [])),
        (".", "uv run --project packages/toy-three train", ("toy-three", [])),
        (".", "uv --directory packages run --project toy-three train", ("toy-three", [])),
        (".", "UV_PROJECT=packages/toy-three uv run train", ("toy-three", [])),
        # something between uv and train
        (".", "uv run --package toy-two bash -c 'cd packages/toy-one && train; exit $?'", ("toy-two", [])),
        (".", "uv run --package toy-two python -c 'import os; os.system(\"train 5\")'", ("toy-two", ["5"])),
        (".", "uv run --package toy-one bash -c 'uv run --package toy-two train; exit $?'", ("toy-two", [])),
        ("packages/toy-two", "uv run bash -c 'cd / && train'", ("toy-two", [])),
    ],
)
def test_which_task(workspace, folder, command, expected):
    (workspace / "x.env").touch()
    done = sh(workspace, "uv sync --all-packages")
    assert done.returncode == 0, done.stderr
    assert trained(sh(workspace / folder, command)) == expected


def test_exit_code(workspace):
    assert sh(workspace, "uv run --package toy-one train --fail").returncode == 7


def test_nothing_says_which(workspace):
    line = refusal(sh(workspace, "uv run train"))
    assert all(f"`{toy} train`" in line for toy in TOYS)


def test_core_is_no_task(workspace):
    assert "etude-core is not installed as a task" in refusal(sh(workspace, "uv run --package etude-core train"))
    assert "etude-core is not installed as a task" in refusal(sh(workspace / "packages/core", "uv run train"))


def test_the_only_task(workspace):
    """From outside the packages, one installed task is the answer; but never for a question about another one."""
    assert sh(workspace, "uv run --exact --package toy-two true").returncode == 0
    assert trained(sh(workspace, "uv run --no-sync train")) == ("toy-two", [])
    for folder, command in [(".", "--package toy-one train"), ("packages/toy-one", "train")]:
        line = refusal(sh(workspace / folder, f"uv run --no-sync {command}"))
        assert "toy-one is not installed as a task" in line
        assert "`toy-two train`" in line


def test_uv_has_ended(workspace):
    """A `train` that outlives its `uv run` cannot ask it any more, and does not guess."""
    orphan = (
        "import os, subprocess, time\n"
        "above = os.getpid()\n"
        "if os.fork() == 0:\n"
        "    while os.getppid() == above: time.sleep(0.01)\n"
        "    code = subprocess.call(['train'])\n"
        "    print(code)\n"
    )
    (workspace / "orphan.py").write_text(orphan)
    done = sh(workspace, "uv run --exact --package toy-one python orphan.py")
    assert done.stdout == "2\n"
    assert "has ended" in done.stderr


def test_a_newer_uv(workspace):
    """An option that the dispatcher does not know may take a value; then a --package behind it is not overlooked."""
    ask = (
        "from etude.dispatch import UserError, uv_run_options as f\n"
        "assert f(['/bin/uv', 'run', '--new', '--package', 'a', 'train']) == {'--package': 'a'}\n"
        "try: f(['uv', 'run', '--new', 'value', '--package', 'a', 'train'])\n"
        "except UserError: print('refused')\n"
    )
    (workspace / "ask.py").write_text(ask)
    done = sh(workspace, "uv run --package toy-one python ask.py")
    assert done.stdout == "refused\n", done.stderr


# -------------------------------------------------------------------------------------- one task, from somewhere else


def test_one_line_installs_a_task_from_the_repository(tmp_path):
    """As the README says it, but from a local repository, which holds the files as they are here."""
    here = tmp_path / "etude"
    files = sh(ROOT, "git ls-files --cached --others --exclude-standard").stdout.splitlines()
    for name in files:
        if (ROOT / name).is_file():  # one that is deleted is listed until that is committed
            (here / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, here / name)
    done = sh(here, "git init -q && git add . && git -c user.name=x -c user.email=x@x commit -qm x")
    assert done.returncode == 0, done.stderr
    env = {"UV_TOOL_DIR": f"{tmp_path}/tools", "UV_TOOL_BIN_DIR": f"{tmp_path}/bin"}
    (line,) = re.findall(r"^uv tool install (.+)$", (ROOT / "docs/tour.md").read_text("utf-8"), flags=re.M)
    local = re.sub(r"git\+https://[^#]+", f"git+file://{here}", line)
    assert local != line
    done = sh(tmp_path, f"uv tool install {local}", **env)
    assert done.returncode == 0, done.stderr
    done = sh(tmp_path, "bin/lstm-pos train --fit.epochs 1 --run one")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "one/result.json").is_file()


# ------------------------------------------------------------------------------------------------ one shape for members


def read(package):
    return tomllib.loads((package / "pyproject.toml").read_text("utf-8"))


def by_name(package):
    return package.name


@pytest.mark.parametrize("package", PACKAGES, ids=by_name)
def test_member(package):
    about = read(package)
    assert about["project"]["requires-python"] == ">=3.11"
    assert about["project"]["license"] == "MIT"
    # Tools are set up once, in the root: a member's own table would drop the root's. uv has no other place for sources.
    tables = {f"{tool}.{table}" for tool, tables in about.get("tool", {}).items() for table in tables}
    assert tables <= {"uv.sources", "hatch.build"}


@pytest.mark.parametrize("package", TASKS, ids=by_name)
def test_task(package):
    about, name, module = read(package), package.name, package.name.replace("-", "_")
    main = {name: f"{module}.__main__:main"}
    assert about["project"]["name"] == name
    assert about["project"]["scripts"] == main
    points = dict(about["project"]["entry-points"])
    own = points.pop(f"etude.verbs.{module}", {})  # verbs that no other task has
    assert points == {"etude.tasks": main} and own.keys() <= VERBS
    ours = {*SHARED.values()}.intersection(about["project"]["dependencies"])
    every = {"etude-core", "etude-demo", "etude-export", "etude-report", "etude-study"}  # their verbs are every task's
    assert ours - {"etude-text"} == every
    assert about["tool"] == {"uv": {"sources": {one: {"workspace": True} for one in ours}}}
    assert [path.name for path in (package / "src").iterdir() if path.suffix != ".egg-info"] == [module]
    for file in ("__init__.py", "__main__.py", "config.py", "data.py", "model.py", "task.py"):
        assert (package / "src" / module / file).is_file(), file
    assert list((package / "src" / module / "studies").glob("*.yaml"))
    assert (package / "README.md").is_file()
    assert (package / "tests" / f"test_{module}.py").is_file()


def module(package):
    return package.name.replace("-", "_")


def owner_of(module):
    """The distribution that has this part of the namespace `etude`."""
    part = module.split(".")[1]
    (folder,) = (
        name for name in SHARED for path in (ROOT / f"packages/{name}/src/etude").glob(f"{part}*") if path.stem == part
    )
    return SHARED[folder]


def imported(folder):
    """The top-level modules that the Python files below `folder` import, in functions too; of `etude` the parts."""
    found = set()
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names = {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = {f"{node.module}.{alias.name}" for alias in node.names}
            else:
                continue
            found |= {".".join(name.split(".")[: 2 if name.startswith("etude.") else 1]) for name in names}
    return found


@pytest.mark.parametrize("package", PACKAGES, ids=by_name)
def test_every_import_is_declared(package):
    """Nothing is borrowed from what a neighbour, or a dependency, happens to bring along."""
    about = read(package)["project"]
    asked = [*about["dependencies"], *itertools.chain(*about.get("optional-dependencies", {}).values())]
    declared = {re.match(r"[\w.-]+", line)[0].lower().replace("_", "-") for line in asked} | {about["name"]}
    # An editable install does not say which modules it holds.
    modules = imported(package / "src") - set(sys.stdlib_module_names)
    owners = packages_distributions() | {module(path): [path.name] for path in TASKS}
    owners |= {name: [owner_of(name)] for name in modules if name.startswith("etude.")}
    borrowed = {
        name: owners[name]
        for name in modules
        if not {owner.lower().replace("_", "-") for owner in owners[name]} & declared
    }
    assert not borrowed


def test_no_script_has_two_owners():
    owned = [script for package in PACKAGES for script in read(package)["project"].get("scripts", {})]
    assert sorted(owned) == sorted(["train", *(task.name for task in TASKS)])


def test_what_is_handed_in_has_a_number_of_its_own_and_a_study():
    """taskN.ipynb of two tasks would be one file; and `nox -s handin` asks for studies that are there."""
    configs = [task / "src" / module(task) / "config.py" for task in TASKS]
    numbers = [re.findall(r"\bnumber=(\d+)", config.read_text("utf-8")) for config in configs]
    assert all(len(found) == 1 for found in numbers), "Package.number is missing"
    assert len({found[0] for found in numbers}) == len(TASKS)
    for task, (_, small) in runpy.run_path(str(ROOT / "noxfile.py"))["HANDIN"].items():
        study = small.partition(" ")[0]
        assert (ROOT / "packages" / task / "src" / task.replace("-", "_") / "studies" / f"{study}.yaml").is_file()


# ------------------------------------------------------------------------------------------------ the cards of the data

CARD = ("Source", "Licence", "Size", "Hash", "Splits", "Known faults")


def data_names(package):
    """What `--data` knows by name: the words of a Literal, or those that `keep_path` does not take for a path."""
    config = package / "src" / module(package) / "config.py"
    values = runpy.run_path(str(config))
    for node in ast.walk(ast.parse(config.read_text("utf-8"))):
        text = ast.unparse(node)
        if isinstance(node, ast.AnnAssign) and text.startswith("data: Literal"):
            return typing.get_args(eval(ast.unparse(node.annotation), values))
        if isinstance(node, ast.Call) and text.startswith("keep_path(self, 'name'"):
            return eval(ast.unparse(node.keywords[0].value), values)
    raise AssertionError(f"{config} has no knob of data")


def sections(card):
    """Heading -> text of the sections of a data card, after its title and one paragraph."""
    title, *rest = re.split(r"^## ", card, flags=re.M)
    assert re.fullmatch(r"# Data of [\w-]+\n\n(?:.+\n)+\n", title)
    return {heading: body for heading, _, body in (part.partition("\n") for part in rest)}


@pytest.mark.parametrize("package", TASKS, ids=by_name)
def test_every_data_set_has_a_card(package):
    """Beside the code, so that the wheel has it and a model card can take the section of a run's data from it."""
    file = package / "src" / module(package) / "DATA.md"
    card = file.read_text("utf-8")
    assert card.startswith(f"# Data of {package.name}\n")
    assert max(map(len, card.splitlines())) <= 120
    found = sections(card)
    first, *others, last = found
    assert (first, last) == ("sample", "your own")
    assert {first, *others} == {*data_names(package)}
    for name, text in found.items():
        bullets = re.findall(r"^- \*\*(.+?):\*\* \S", text, flags=re.M)
        assert tuple(bullets) == CARD, name
        assert re.sub(r"^(- .*|  \S.*|)\n", "", text, flags=re.M) == "", f"{name}: something beside the six"
    assert f"[DATA.md]({file.relative_to(package).as_posix()})" in (package / "README.md").read_text("utf-8")


@pytest.mark.parametrize("package", TASKS, ids=by_name)
def test_a_card_has_the_addresses_and_md5s_of_the_code(package):
    """And no md5 that neither the package nor torchvision, which downloads some sets, compares with."""
    folder = package / "src" / module(package)
    card = " ".join((folder / "DATA.md").read_text("utf-8").split())
    ours = [file.read_text("utf-8") for file in folder.glob("*.py")]
    torchvision = Path(importlib.util.find_spec("torchvision").origin).with_name("datasets")
    theirs = [file.read_text("utf-8") for file in torchvision.glob("*.py")]
    told, needed, known = ({*re.findall(r"\b[0-9a-f]{32}\b", " ".join(of))} for of in ([card], ours, ours + theirs))
    assert needed <= told <= known
    texts = [node.value for file in ours for node in ast.walk(ast.parse(file)) if isinstance(node, ast.Constant)]
    for address in (text for text in texts if isinstance(text, str) and re.fullmatch(r"https?://\S+", text)):
        assert all(part in card for part in address.split("{}")), address


# ---------------------------------------------------------------------------------------- what a shell completes


def script(task):
    """What completes a task's words in bash."""
    words = [sys.executable, "-m", task.replace("-", "_"), "--tyro-print-completion", "bash"]
    return subprocess.run(words, capture_output=True, text=True, encoding="utf-8", check=True).stdout


def completed(folder, task, *lines):
    """The words that a bash makes of each line in which TAB is typed: a real one, which runs no task but says them."""
    (folder / "script.bash").write_text(script(task), "utf-8")
    typed = ["PS1=", f"{task}() {{ printf '%s\\0' \"$@\"; echo; }}", "source ./script.bash", *lines]
    done = subprocess.run(
        ["bash", "--norc", "--noprofile", "-i"],
        input="".join(f"{line}\n" for line in typed),
        cwd=folder,
        env=os.environ | {"TERM": "dumb", "HISTFILE": "", "INPUTRC": os.devnull, "PS1": ""},
        capture_output=True,
        text=True,
    )
    return [line.split("\0")[:-1] for line in done.stdout.splitlines()]


def test_bash_completes_the_words_of_a_task(tmp_path):
    """Flags, short ones too, their words, and files wherever it knows nothing."""
    for folder in ("runs/first/samples", "runs/second run"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "flags.yaml").touch()
    expected = {
        "predict ru\tfi\tsa\t": ["predict", "runs/first/samples/"],
        "demo runs/se\t": ["demo", "runs/second run/"],
        "evaluate ru\tfi\t --fit.ep\t": ["evaluate", "runs/first/", "--fit.epochs"],
        "train fl\t--mod\tcel\tls\t": ["train", "flags.yaml", "--model.cell", "lstm"],
        "train --trac\tml\t": ["train", "--track", "mlflow"],
        "train --ru\trun\tfi\t": ["train", "--run", "runs/first/"],
        "train --da\t x": ["train", "--data", "x"],
        "stu\tlab": ["study", "lab"],
    }
    assert completed(tmp_path, "names-rnn", *(f"names-rnn {line}" for line in expected)) == list(expected.values())


@pytest.mark.parametrize("task", TASKS, ids=by_name)
def test_bash_offers_flags_and_no_words_of_their_help(task, tmp_path):
    ask = f"COMP_WORDS=({task.name} train ''); COMP_CWORD=2; _tyro_{module(task)}; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    ask = f"{script(task.name)}\n{ask}"
    offered = subprocess.run(["bash"], input=ask, capture_output=True, text=True, encoding="utf-8", cwd=tmp_path)
    assert offered.stderr == ""
    flags = {flag for flag in offered.stdout.splitlines() if not re.match(r"--([\w-]+\.)*no-", flag)}
    known = knobs(importlib.import_module(f"{module(task)}.config").PACKAGE.config)
    assert flags == {"-h", "--help", "--run", "--track", "--data", *(f"--{knob}" for knob in known)}


# ---------------------------------------------------------------------------------------------- what a README promises


def fenced(path):
    """The lines of the code blocks of a Markdown file, without the prompt."""
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", path.read_text("utf-8"), flags=re.M | re.S)
    return [line.removeprefix("$ ").strip() for block in blocks for line in block.splitlines()]


@pytest.mark.parametrize("package", [ROOT, *TASKS], ids=by_name)
def test_readme(package):
    """Every command that a README shows names a package that is there, and something that it can do."""
    names = {task.name for task in TASKS}
    shown = 0
    first = (package / "README.md").read_text("utf-8").split("```")[1]
    assert package == ROOT or all(f"\n{package.name} {verb} " in first for verb in ("demo", "export", "track"))
    lines = fenced(package / "README.md") + (fenced(ROOT / "docs/tour.md") if package == ROOT else [])
    for words in map(str.split, lines):
        if words[:2] == ["uv", "run"] and "--package" in words:
            words = words[words.index("--package") + 1 :]
        elif not (names.intersection(words[:1]) or VERBS.intersection(words[1:2])):
            continue
        assert words[0] in names, words
        about = {"--help", "--tyro-print-completion"}
        assert words[1] in VERBS | about | {"tensorboard", "python", words[0]}, words
        assert words[1] != words[0] or words[2] in VERBS | about, words
        shown += 1
    assert shown, "no command is shown"


def typed(line):
    """The words of a command that is shown, from the name of the task on; none if it names none."""
    words = shlex.split(line, comments=True)
    at = next((n for n, word in enumerate(words) if word in {task.name for task in TASKS} and n + 1 < len(words)), None)
    return [] if at is None else words[at + (words[at + 1] == words[at]) :]


SHOWING = [*sorted(ROOT.glob("docs/tour*.md")), *(file for task in TASKS for file in sorted(task.glob("README*.md")))]


@pytest.mark.parametrize("page", SHOWING, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_a_report_is_of_the_folder_of_the_study_before_it(page):
    """Where `study NAME flags` puts its runs is where the next `report FOLDER` reads."""
    commands = [words for words in map(typed, fenced(page)) if words[1:2] in (["study"], ["report"])]
    pairs = [(a, b) for a, b in itertools.pairwise(commands) if (a[1], b[1]) == ("study", "report")]
    for (name, _, *words), reported in pairs:
        package = importlib.import_module(f"{module(Path(name))}.config").PACKAGE
        given, extra = study_parser(package).parse_known_args(words)
        study = load(given.study, package.module, package.scores)
        out = given.out or default_out(name, study, extra, package.config)
        assert Path(reported[2]) == Path(out), (words, reported)
    assert pairs or page.parent.name != "docs"


@pytest.mark.parametrize("task", TASKS, ids=by_name)
def test_what_the_help_of_train_advises_can_be_typed(task):
    """Its examples, and the flags that it calls most used, with which its list of them all begins."""
    package = importlib.import_module(f"{module(task)}.config").PACKAGE
    out = subprocess.run(
        [sys.executable, "-m", module(task), "train", "--help"], capture_output=True, text=True, encoding="utf-8"
    ).stdout
    examples = [line.split()[2:] for line in re.findall(rf"^ +{task.name} train .+$", out, flags=re.M)]
    assert examples[0][-2] == "--run" and len(examples) == 2
    (most_used,) = re.findall(r"^Most used: (.+)\. For example$", out, flags=re.M)
    values = {"--data": "sample", "--fit.epochs": "3", "--fit.lr": "1e-3", "--fit.batch-size": "8", "--fit.seed": "1"}
    assert most_used.split(", ") == list(values)
    shown = re.findall(r"^│ (--[\w.-]+)", out, flags=re.M)
    assert shown[: len(values)] == list(values), "the help begins with them"
    assert {"--data", *shown} >= {f"--{knob}" for knob in knobs(package.config) if knob != "data.name"}
    assert len(shown) == len(knobs(package.config))
    fit = parse(package.config, []).fit
    for said, value in (("epochs", fit.epochs), ("batch-size", fit.batch_size), ("lr", fit.lr)):
        assert re.search(rf"--fit\.{said} [^-]*\(default:[│\s]+{value}\)", out), said
    for words in (examples[0][:-2], examples[1], [word for flag in values.items() for word in flag]):
        assert parse(package.config, words, package=package.module) != parse(package.config, [])


def numbers(text):
    return re.findall(r"\d+(?:[.,]\d+)*", text.replace("%", " "))


def test_both_readmes_say_the_same():
    """The same commands, and the same numbers in the table of results; so do both tours."""
    english, russian = ROOT / "README.md", ROOT / "README.ru.md"
    for pair in ((english, russian), (ROOT / "docs/tour.md", ROOT / "docs/tour.ru.md")):
        commands = [[line.partition("#")[0].strip() for line in fenced(readme)] for readme in pair]
        assert commands[0] and commands[0] == commands[1]
    tables = [re.findall(r"^\| \[.*$", readme.read_text("utf-8"), flags=re.M) for readme in (english, russian)]
    assert [numbers(line) for line in tables[0]] == [numbers(line.replace(",", ".")) for line in tables[1]]
    assert {task.name for task in TASKS} == {line[3:].partition("]")[0] for line in tables[0]}


TABLES = [sys.executable, str(ROOT / "benchmarks/tables.py"), "--check"]


def test_every_table_is_that_of_its_results():
    """As `nox -s tables` makes them from the files that are committed; and what has no file says so."""
    done = subprocess.run(TABLES, capture_output=True, text=True, encoding="utf-8")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_study_that_is_shown_ends_in_prose_which_can_be_handed_in():
    shown = 0
    for package in TASKS:
        text = (package / "README.md").read_text("utf-8")
        for study in re.findall(r"^<!-- made: study (.+) -->$", text, flags=re.M):
            assert len(prose.prose(text, study)) > 100, (package.name, study)
            made = prose.command(text, package.name, study)
            assert made.startswith(f"{package.name} study {study}")
            # Run as it stands, it asks what the README tells of, and not the package's sample.
            file = package / "src" / module(package) / "studies" / f"{study}.yaml"
            fixed = yaml.safe_load(file.read_text("utf-8")).get("fixed", {})
            assert package.name in ("gauss-vae", "grad-flow") or "data" in fixed or " --data " in made, made
            shown += 1
    assert shown >= 10


def test_a_table_that_differs_from_its_results_is_found(tmp_path):
    """A digit in a result file, one in a table, a table that nobody made, a study that is not shown."""
    (tmp_path / "packages").mkdir()
    shutil.copytree(ROOT / "benchmarks", tmp_path / "benchmarks")
    names = tmp_path / "packages" / "names-rnn"
    shutil.copytree(ROOT / "packages" / "names-rnn" / "results", names / "results")
    (tmp_path / "docs").mkdir()
    for file in ("CONTRIBUTING.md", "docs/speed.md", "packages/names-rnn/README.md"):
        shutil.copy(ROOT / file, tmp_path / file)
    for package in ("core", "study"):
        shutil.copytree(ROOT / f"packages/{package}/results", tmp_path / f"packages/{package}/results")
    check = [sys.executable, str(tmp_path / "benchmarks/tables.py"), "--check"]

    def said():
        return subprocess.run(check, capture_output=True, text=True, encoding="utf-8").stderr

    assert said() == ""
    file, readme = names / "results" / "cell.csv", names / "README.md"
    right, text = file.read_text("utf-8"), readme.read_text("utf-8")
    file.write_text(right.replace("0.7", "0.6", 1), "utf-8")
    assert said() == "packages/names-rnn/README.md differs from its result files: `uv run nox -s tables`\n"
    file.write_text(right, "utf-8")
    for old, new, words in (
        ("0.7598", "0.7599", "differs from its result files"),
        ("## Data\n", "## Data\n\n| a | b |\n|---|---|\n| c | 1.5 |\n", "no result file behind | a | b |"),
        ("<!-- made: study cell -->\n", "", "has no `end`, or the other way round"),
        ("<!-- made: study cell -->\n", "<!-- made: study order -->\n", "does not show results/cell.csv"),
        ("<!-- made: study cell -->\n", "<!-- made: study nothing -->\n", "'study nothing' cannot be made"),
    ):
        assert text.count(old) >= 1
        readme.write_text(text.replace(old, new, 1), "utf-8")
        assert words in said()


def test_the_log_is_in_order_of_time():
    dates = re.findall(r"^## (\d{4}-\d\d-\d\d) ", (ROOT / "LOG.md").read_text("utf-8"), flags=re.M)
    assert dates == sorted(dates, reverse=True) and len(dates) == (ROOT / "LOG.md").read_text("utf-8").count("\n## ")
