"""All checks: `uv run nox`. The tests of one package: `uv run nox -s "test(cnn-emnist)"`.

To hand in: `uv run nox -s handin`.

`lint` and `tests` work in the environment that `uv run nox` makes, with every package in it. That none borrows what it
did not declare is seen to by `tests/test_workspace.py` (every import is declared) and by `smoke` (wheels, each in an
empty environment).
"""

import os
import sys
import tomllib
from pathlib import Path
from tempfile import TemporaryDirectory

import nox

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "uv"
nox.options.reuse_venv = "yes"  # `uv sync --exact` sees to what is in it
nox.options.sessions = ["lint", "tests", "smoke"]

ROOT = Path(__file__).parent
FOLDERS = {
    tomllib.loads(path.read_text("utf-8"))["project"]["name"]: path.parent
    for path in sorted(ROOT.glob("packages/*/pyproject.toml"))
}
TASKS = [name for name, folder in FOLDERS.items() if name == folder.name]  # the others are etude-core, in core, ...
TESTED = [name for name, folder in FOLDERS.items() if (folder / "tests").is_dir()]

# What `handin` asks of a task: a study, and its flags for the sample, to be done in minutes, and for the real data.
# A task that is not named here gets the first of its studies, with two epochs.
STUDIES = {
    "cifar-vae": ("model-numbers", "--data sample --fit.epochs 2", "--data cifar10"),
    "cnn-emnist": ("kernel-size", "--fit.epochs 2 --model.channels 8", "--data emnist-letters"),
    "coco-caption": ("beam", "--fit.epochs 2", ""),
    "gauss-vae": ("objective", "--fit.epochs 2 --data.train 10000 --importance 500", ""),
    "grad-flow": ("depth-sigmoid", "--fit.epochs 2", "--data mnist --fit.epochs 2"),
    "imdb-rnn": ("models", "--fit.epochs 2", "--data aclimdb"),
    "lstm-pos": ("direction", "--fit.epochs 2", "--data nerus"),
    "names-rnn": ("drawing", "--fit.epochs 2", "--data names"),
    "qa-category": ("model", "--fit.epochs 2", "--data trec"),
    "text-ae": ("batch-norm", "--fit.epochs 2", "--data twitter"),
}


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


@nox.session(venv_backend="none")
@nox.parametrize("package", TASKS, ids=TASKS)
def smoke(session: nox.Session, package: str) -> None:
    """The package as somebody else gets it: wheels, in an empty environment outside the workspace, by uv and by pip."""
    # Beside the clone and not in /tmp, which may be another file system (no hard links) or even memory.
    with TemporaryDirectory(prefix="etude-smoke-", dir=ROOT.parent) as name:
        folder = Path(name)
        locked = folder / "locked.txt"
        for member in ("etude-core", "etude-report", "etude-text", package):
            session.run("uv", "build", "--quiet", "--no-sources", "--package", member, "--out-dir", f"{folder}/dist")
        session.run(
            *("uv", "export", "--quiet", "--locked", "--package", package, "--no-dev", "--no-emit-workspace"),
            *("--no-hashes", "--output-file", str(locked)),
        )
        dist = str(folder / "dist")
        with session.chdir(folder):
            for installer, seed in (("uv", ()), ("pip", ("--seed",))):
                python = f"{folder}/{installer}/bin/python"
                session.run("uv", "venv", "--quiet", *seed, "--python", sys.executable, installer)
                install = ("uv", "pip", "install", "--quiet", "--python", python)
                if installer == "uv":
                    session.run(*install, "--constraint", str(locked), "--find-links", dist, package)
                else:  # pip would download torch anew; so torch is there before it, and pip checks what the wheels ask
                    session.run(*install, "--requirements", str(locked))
                    plain = {"PIP_CONFIG_FILE": os.devnull}  # a machine's own constraints for pip are not our matter
                    pip = (python, "-m", "pip")
                    session.run(*pip, "install", "--no-index", "--find-links", "dist", package, env=plain)
                    session.run(*pip, "check", env=plain)
                command = (f"{installer}/bin/{package}", "train", "--fit.epochs", "1")
                session.run(*command, "--run", f"run-{installer}", env={"UV_RUN_RECURSION_DEPTH": None})
                if not Path(f"run-{installer}/metrics.jsonl").is_file():
                    session.error(f"{package} train wrote no run-{installer}/metrics.jsonl")


@nox.session
def latest(session: nox.Session) -> None:
    """Core's tests with the newest versions there are, without the lock and without the cap on torch.

    Says the versions. What then breaks is mostly a name in `etude/torch_private.py`. `-- --dry-run` only resolves.
    """
    overrides = Path(session.create_tmp()) / "overrides.txt"
    overrides.write_text("torch\n", "utf-8")  # in place of what the packages ask
    install = ("uv", "pip", "install", "--upgrade", "--overrides", str(overrides), "--group", "dev")
    dry = "--dry-run" in session.posargs
    members = [word for name in ("core", "report", "text", "testing") for word in ("--editable", f"packages/{name}")]
    session.run_install(*install, *(["--dry-run"] if dry else []), *members, external=True)
    if not dry:
        session.run("uv", "pip", "list", external=True)
        pytest(session, FOLDERS["etude-core"] / "tests", FOLDERS["etude-text"] / "tests")


@nox.session
def handin(session: nox.Session) -> None:
    """Into handin/: taskN.ipynb, tensorboardN.zip and a page for every task, or for those named after `--`.

    From the samples, in minutes; with ETUDE_DATA from the real data, in hours. Runs that are there are not run again.
    """
    sync(session, "--all-packages", "--group", "dev")
    data, out = "real" if os.environ.get("ETUDE_DATA") else "sample", Path("handin")  # relative: a page says them
    for task in session.posargs or TASKS:
        first = sorted((FOLDERS[task] / "src").glob("*/studies/*.yaml"))[0].stem
        name, small, large = STUDIES.get(task, (first, "--fit.epochs 2", ""))
        place = Path("runs", "handin", data, task, name)
        flags = small if data == "sample" else large
        session.run(task, "study", name, "--jobs", "2", "--out", str(place), *flags.split())
        session.run(task, "report", str(place), "--out", str(out))
        (out / "report.html").replace(out / f"report-{task}.html")
