"""All checks: `uv run nox`. The tests of one package: `uv run nox -s "test(cnn-emnist)"`.

To hand in: `uv run nox -s handin`.

`lint` and `tests` work in the environment that `uv run nox` makes, with every package in it. That none borrows what it
did not declare is seen to by `tests/test_workspace.py` (every import is declared) and by `smoke` (wheels, each in an
empty environment).
"""

import argparse
import atexit
import os
import shlex
import shutil
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from hashlib import sha256
from pathlib import Path
from subprocess import PIPE, STDOUT
from tempfile import TemporaryDirectory

import nox

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "uv"
nox.options.reuse_venv = "yes"  # `uv sync --exact` sees to what is in it
nox.options.sessions = ["lint", "tests", "smoke", "wheels", "site", "axe"]

ROOT = Path(__file__).parent
FOLDERS = {
    tomllib.loads(path.read_text("utf-8"))["project"]["name"]: path.parent
    for path in sorted(ROOT.glob("packages/*/pyproject.toml"))
}
TASKS = [name for name, folder in FOLDERS.items() if name == folder.name]  # the others are etude-core, in core, ...
TESTED = [name for name, folder in FOLDERS.items() if (folder / "tests").is_dir()]

# What `handin` trains of a task on the real data, whole; and the study, with its flags, that the small version runs of
# a task whose results are not committed.
HANDIN = {
    "cifar-vae": ("vq576", "model-numbers --data sample --fit.epochs 1 --data.images 600 --model.width 8"),
    "cnn-emnist": ("--data fashion-mnist", "dropout --data sample --fit.epochs 1 --model.channels 8"),
    "coco-caption": ("--data coco", "beam --fit.epochs 2"),
    "gauss-vae": ("", "objective --fit.epochs 2 --data.train 10000 --importance 500"),
    "grad-flow": ("--data mnist", "depth-sigmoid --fit.epochs 2"),
    "imdb-rnn": ("--data aclimdb", "joining --data sample --fit.epochs 1"),
    "lstm-pos": ("--data nerus --data.documents 10000", "direction --data sample --fit.epochs 1"),
    "names-rnn": ("best", "drawing --data sample --fit.epochs 2"),
    "qa-category": ("--data trec", "normalisation --data sample --fit.epochs 1"),
    "text-ae": ("--data twitter", "batch-norm --data sample --fit.epochs 1"),
}
# The flags with which a task's studies are run on real data, where the studies themselves do not say it.
REAL = {
    "coco-caption": "--data coco --data.images 10000 --encoder.backbone mobilenet_v2",
}
# Of a task, the preset that answers for a file of the data folder, one answer a line, and that file.
ANSWERS = {"imdb-rnn": ("out-of-domain", "yelp/reviews.txt")}
SMALL = (
    "This is the small version, made in minutes: what is trained in it is trained on a sample, for a few epochs. "
    "Results that the README has, too, are whole."
)


def sync(session: nox.Session, *what: str) -> None:
    """Brings the session's environment to exactly what the lock says of `what`."""
    environment = {"UV_PROJECT_ENVIRONMENT": session.virtualenv.location}
    session.run_install("uv", "sync", "--quiet", "--locked", "--exact", *what, env=environment, external=True)


def pytest(session: nox.Session, *folders: Path) -> None:
    """Runs the tests in these folders, a process a core; those that need the real data only where these are.

    The tests of a file stay in one process, since they share what its fixtures have trained.
    """
    choice = [] if os.environ.get("ETUDE_DATA") else ["-m", "not real_data"]
    workers = os.cpu_count() or 1
    choice += ["--durations", "10", "--durations-min", "1"]
    if workers > 1:
        choice += ["--numprocesses", str(workers), "--dist", "loadfile"]
    session.run("pytest", *choice, *map(str, folders), *session.posargs, env={"OMP_NUM_THREADS": "1"})


@nox.session(venv_backend="none")
def lint(session: nox.Session) -> None:
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy", ".")


@nox.session(venv_backend="none")
def tests(session: nox.Session) -> None:
    """The tests of the workspace and of every package."""
    pytest(session, ROOT / "tests", *(FOLDERS[package] / "tests" for package in TESTED))


@nox.session(venv_backend="none")
def tables(session: nox.Session) -> None:
    """Makes every table, verdict and number of the READMEs anew that has a result file; CI fails if one differs."""
    session.run("python", "benchmarks/tables.py", *session.posargs)


@nox.session
@nox.parametrize("package", TESTED, ids=TESTED)
def test(session: nox.Session, package: str) -> None:
    """The tests of one package, with nothing but its own dependencies."""
    sync(session, "--package", package, "--group", "dev")
    pytest(session, FOLDERS[package] / "tests")


@cache
def built() -> Path:
    """A folder with the distributions of all packages, sdist and wheel, made once for all sessions of this call."""
    # Beside the clone and not in /tmp, which may be another file system (no hard links) or even memory.
    made = TemporaryDirectory(prefix="etude-dist-", dir=ROOT.parent)
    atexit.register(made.cleanup)
    subprocess.run(
        ["uv", "build", "--quiet", "--no-sources", "--all-packages", "--out-dir", made.name], cwd=ROOT, check=True
    )
    return Path(made.name)


@nox.session(venv_backend="none")
@nox.parametrize("package", TASKS, ids=TASKS)
def smoke(session: nox.Session, package: str) -> None:
    """The package as somebody else gets it: wheels, in an empty environment outside the workspace, by uv and by pip."""
    with TemporaryDirectory(prefix="etude-smoke-", dir=ROOT.parent) as name:
        folder = Path(name)
        locked = folder / "locked.txt"
        session.run(
            *("uv", "export", "--quiet", "--locked", "--package", package, "--no-dev", "--no-emit-workspace"),
            *("--no-hashes", "--output-file", str(locked)),
        )
        dist = built()
        with ThreadPoolExecutor() as both:  # most of either is one process after the other that reads modules
            for said in both.map(lambda installer: installed(installer, package, folder, dist), ("uv", "pip")):
                print(said)
        for installer in ("uv", "pip"):
            if not (folder / f"run-{installer}/metrics.jsonl").is_file():
                session.error(f"{package}, installed by {installer}: train wrote no metrics.jsonl")


def installed(installer: str, package: str, folder: Path, dist: Path) -> str:
    """Installs a package by uv or pip in `folder` and trains it for an epoch; returns what was run, and what it said.

    Raises RuntimeError with that where something fails.
    """
    python, links = f"{folder}/{installer}/bin/python", ["--find-links", str(dist)]
    seed = ["--seed"] if installer == "pip" else []
    install = ["uv", "pip", "install", "--quiet", "--python", python]
    commands = [["uv", "venv", "--quiet", *seed, "--python", sys.executable, installer]]
    if installer == "uv":
        commands.append([*install, "--constraint", f"{folder}/locked.txt", *links, package])
    else:  # pip would download torch anew; so torch is there before it, and pip checks what the wheels ask
        commands.append([*install, "--requirements", f"{folder}/locked.txt"])
        commands.append([python, "-m", "pip", "install", "--no-index", *links, package])
        commands.append([python, "-m", "pip", "check"])
    commands.append([f"{installer}/bin/{package}", "train", "--fit.epochs", "1", "--run", f"run-{installer}"])
    env = {name: value for name, value in os.environ.items() if name != "UV_RUN_RECURSION_DEPTH"}
    env["OMP_NUM_THREADS"] = "1"  # two share the cores
    env["PIP_CONFIG_FILE"] = os.devnull  # a machine's own constraints for pip are not our matter
    said = ""
    for command in commands:
        done = subprocess.run(command, cwd=folder, env=env, stdout=PIPE, stderr=STDOUT, text=True)
        said += f"{package}, {installer} > {shlex.join(command)}\n{done.stdout}"
        if done.returncode:
            raise RuntimeError(f"{said}exit code {done.returncode}")
    return said


@nox.session(venv_backend="none")
def wheels(session: nox.Session) -> None:
    """Builds the wheels of all packages twice, from two copies of their files; they have to be the same to the byte."""
    env = {"SOURCE_DATE_EPOCH": "1700000000"}  # any will do: hatchling writes it for the time of every file
    built: list[dict[str, str]] = []
    with TemporaryDirectory(prefix="etude-wheels-", dir=ROOT.parent) as name:
        one_and_two = [Path(name, copy, "etude") for copy in ("one", "two")]
        for folder in one_and_two:  # both before anything is built, as somebody may be at work here
            shutil.copytree(ROOT / "packages", folder / "packages", ignore=shutil.ignore_patterns("__pycache__"))
            for file in ("pyproject.toml", "uv.lock"):
                shutil.copyfile(ROOT / file, folder / file)
        for folder in one_and_two:
            dist = folder.parent / "dist"
            whole = ("uv", "build", "--quiet", "--wheel", "--no-sources", "--all-packages", "--out-dir", str(dist))
            session.run(*whole, "--project", str(folder), str(folder), env=env, external=True)
            built.append({file.name: sha256(file.read_bytes()).hexdigest() for file in sorted(dist.glob("*.whl"))})
    one, two = built
    if len(one) != len(FOLDERS):
        session.error(f"{len(FOLDERS)} packages gave {len(one)} wheels")
    if different := [wheel for wheel in one if one[wheel] != two.get(wheel)]:
        session.error(f"built twice, and not the same: {', '.join(different)}")
    print(*(f"{digest}  {wheel}" for wheel, digest in one.items()), sep="\n")


@nox.session
def site(session: nox.Session) -> None:
    """The site of all that can be read here, into site/; fails on a warning, or a link that leads nowhere."""
    sync(session, "--all-packages", "--no-dev", "--group", "site")
    prose = {"PYTHONPATH": str(ROOT / "benchmarks")}
    session.run("python", "docs/site/make_site.py", str(ROOT / "site"), env=prose)


@nox.session
def axe(session: nox.Session) -> None:
    """Opens a page of each kind of the site, built before, in Chromium: accessibility, requests, errors.

    `-- all` for every page, which takes long; `-- index.html` for some.
    """
    sync(session, "--only-group", "axe")
    session.run("python", "docs/site/axe.py", str(ROOT / "site"), *session.posargs)


@nox.session
def latest(session: nox.Session) -> None:
    """Core's tests with the newest versions there are, without the lock and without the cap on torch.

    Says the versions. What then breaks is mostly a name in `etude/torch_private.py`. `-- --dry-run` only resolves.
    """
    overrides = Path(session.create_tmp()) / "overrides.txt"
    overrides.write_text("torch\n", "utf-8")  # in place of what the packages ask
    install = ("uv", "pip", "install", "--upgrade", "--overrides", str(overrides), "--group", "dev")
    dry = "--dry-run" in session.posargs
    shared = ("core", "export", "report", "study", "text", "testing")
    members = [word for name in shared for word in ("--editable", f"packages/{name}")]
    session.run_install(*install, *(["--dry-run"] if dry else []), *members, external=True)
    if not dry:
        session.run("uv", "pip", "list", external=True)
        pytest(session, *(FOLDERS[f"etude-{name}"] / "tests" for name in ("core", "study", "text")))


@nox.session
def handin(session: nox.Session) -> None:
    """Into handin/: taskN.ipynb, tensorboardN.zip, a page, and results/, which the notebook reads; of every task.

    Beside the results lie the package's README, which answers the control questions and says what was concluded, and
    tried.csv, what was tried and what it gave, where a task has one.

    Of imdb-rnn also predictions-imdb-rnn.txt, one 0 or 1 a line, if the data folder has yelp/reviews.txt.

    All studies of a task: those whose results are committed by these, the others run first, on the real data, which
    takes hours. What is there is not run again. `-- --quick`: one run of each task, or one small study if no results of
    it are committed. `--russian`: the notebooks in Russian. `--repository URL`: what they install the package from;
    otherwise the remote of this clone. Then the names of tasks, if not all.
    """
    takes = argparse.ArgumentParser(prog="nox -s handin --")
    takes.add_argument("--quick", action="store_true")
    takes.add_argument("--russian", action="store_true")
    takes.add_argument("--repository", default=remote(session))
    takes.add_argument("tasks", nargs="*", metavar="TASK", default=TASKS)
    given = takes.parse_args(session.posargs)
    if unknown := set(given.tasks) - set(TASKS):
        session.error(f"there is no task {', '.join(sorted(unknown))}: there are {', '.join(TASKS)}")
    sync(session, "--all-packages", "--group", "dev")
    for task in given.tasks:
        hand_in(session, task, given)


def remote(session: nox.Session) -> str:
    """This commit of the remote of this clone, as pip installs from it; empty if there is none."""
    ask = ("git", "config", "--get", "remote.origin.url")
    url = str(session.run(*ask, external=True, silent=True, success_codes=[0, 1]) or "").strip()
    commit = str(session.run("git", "rev-parse", "HEAD", external=True, silent=True) or "").strip()
    return f"git+{url}@{commit}" if url.startswith("https://") else ""


def needed(session: nox.Session, task: str, study: str) -> list[str]:
    """The commands that make what the runs of a study start from."""
    code = "import sys, yaml; print(*yaml.safe_load(open(sys.argv[1])).get('needs', {}).values(), sep='\\n')"
    file = next((FOLDERS[task] / "src").glob(f"*/studies/{study}.yaml"))
    said = str(session.run("python", "-c", code, str(file), silent=True) or "")
    return [line for line in said.splitlines() if line.strip()]


def hand_in(session: nox.Session, task: str, given: argparse.Namespace) -> None:
    """What is handed in of one task."""
    out, runs = Path("handin"), Path("runs", "handin", "small" if given.quick else "whole", task)  # a page says them
    committed = FOLDERS[task] / "results"
    studies = sorted(file.stem for file in (FOLDERS[task] / "src").glob("*/studies/*.yaml"))
    kept = [study for study in studies if (committed / f"{study}.csv").is_file()]
    flags, small = HANDIN.get(task, ("", f"{studies[0]} --fit.epochs 1"))
    asked = {study: REAL.get(task, "") for study in studies if study not in kept}
    if given.quick:
        name, _, its_flags = small.partition(" ")
        asked, flags = {} if kept else {name: its_flags}, "--fit.epochs 2"
    results, shown, note = out / "results" / task, [], SMALL * given.quick
    shutil.rmtree(results, ignore_errors=True)
    results.mkdir(parents=True)
    for file in (FOLDERS[task] / "README.md", committed / "tried.csv"):
        if file.is_file():
            shutil.copy(file, results / file.name)
    for study in kept:
        session.run("python", "benchmarks/prose.py", task, study, str(results))
    for study, of_study in list(asked.items()):
        made = ("study", study, *of_study.split())
        for first in () if given.quick else needed(session, task, study):
            session.run(*shlex.split(first))
        session.run(task, *made, "--jobs", "2", "--out", str(runs / study), success_codes=[0, 1])  # 1: some runs failed
        if not (runs / study / "results.csv").is_file():
            session.warn(f"{task} study {study} has no results, and is not handed in")
            del asked[study]
            continue
        told = ("--results", str(runs / study / "results.csv"), "--command", " ".join([task, *made]))
        session.run("python", "benchmarks/prose.py", task, study, str(results), *told)
        shown.append(str(runs / study))
    if left_out := [study for study in studies if study not in (*kept, *asked)]:
        note += f" Not run for it, and without committed results: {', '.join(left_out)}."
    if not shown:
        session.run(task, "train", *flags.split(), "--run", str(runs / "run"))
        session.run(task, "evaluate", str(runs / "run"))
        shown.append(str(runs / "run"))
    files = [str(results / f"{study}.csv") for study in (*kept, *asked)]
    how = ["--out", str(out), "--repository", given.repository, "--note", note]
    page = [*shown, *(str(results / f"{study}.csv") for study in kept)]
    session.run(task, "report", *page, *how, "--only", "page")
    session.run(task, "report", *shown, *how, "--only", "tensorboard")
    session.run(task, "report", *files, *how, "--only", "notebook", "--language", "ru" if given.russian else "en")
    (out / "report.html").replace(out / f"report-{task}.html")
    preset, name = ANSWERS.get(task, ("", ""))
    asked_for = Path(os.environ.get("ETUDE_DATA", ""), name)
    if preset and asked_for.is_file():
        session.run(task, "train", preset, "--run", str(runs / preset))
        session.run(task, "predict", str(runs / preset), str(asked_for), "--out", str(out / f"predictions-{task}.txt"))
