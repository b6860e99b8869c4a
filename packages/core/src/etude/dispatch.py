"""`train`: finds out which task `uv run --package TASK train` meant, and runs that one.

All members of a workspace share one environment. Of a `train` script in every member, `uv run --package A train` would
run the one that was installed last, and might train B. So there is one `train`, here, and tasks announce themselves as
entry points of the group `etude.tasks` (name: the distribution; object: `main(argv) -> exit code`). uv does not tell
its child about `--package`, hence the look at the command line of the `uv run` process above this one.
"""

import os
import re
import sys
import tomllib
from contextlib import suppress
from importlib.metadata import entry_points
from pathlib import Path

import psutil

from etude.errors import UserError

# The options of `uv run` (0.13) that take a value, hidden ones and aliases included: without them the command word
# cannot be told from a value. With the option of a newer uv, `uv_run_options` refuses rather than misses a --package.
VALUED = frozenset(
    """
    --allow-insecure-host --cache-dir --color --config-file --config-setting --config-settings
    --config-settings-package --default-index --directory --env-file --exclude-newer --exclude-newer-package --extra
    --extra-index-url --find-links --fork-strategy --group --index --index-strategy --index-url --keyring-provider
    --link-mode --max-recursion-depth --no-binary-package --no-build-isolation-package --no-build-package
    --no-editable-package --no-extra --no-group --no-sources-package --only-group --package --prerelease
    --prerelease-package --preview-features --project --python --python-fetch --python-platform --python-preference
    --refresh-package --reinstall-package --resolution --trusted-host --upgrade-group --upgrade-package --with
    --with-editable --with-requirements
    -C -P -f -i -p -w
    """.split()
)


def main() -> int:
    """Runs the task that was meant; its exit code, or 2 with one line on stderr when that cannot be known."""
    tasks = {normal(entry.name): entry for entry in entry_points(group="etude.tasks")}
    try:
        name = meant(set(tasks))
        try:
            task = tasks[name].load()
        except ModuleNotFoundError as error:
            if error.name != tasks[name].module.partition(".")[0]:
                raise
            raise UserError(gone(name, set(tasks))) from error  # the entry is there, its module not yet or no more
    except UserError as error:
        print(f"train: {error}", file=sys.stderr)
        return 2
    return int(task(["train", *sys.argv[1:]]))


def meant(tasks: set[str]) -> str:
    """The one of the installed `tasks` that this process was started for.

    In this order: `--package` of the nearest `uv run` above; the project of the nearest pyproject.toml, seen from its
    `--project`, from here, and from where it was started; the only task there is. Raises UserError when what was asked
    for is not installed, and when nothing says which task.
    """
    options, start = nearest_uv_run()
    project = options.get("--project") or os.environ.get("UV_PROJECT")
    folders = [*([start / project] if project else []), Path.cwd(), start]
    name = options.get("--package") or next(filter(None, map(project_name, folders)), None)
    if name is None and len(tasks) == 1:
        return next(iter(tasks))
    if name is None:
        raise UserError(f"train what? nothing here says which task; say {commands(tasks)}")
    if normal(name) not in tasks:
        raise UserError(gone(normal(name), tasks))
    return normal(name)


def nearest_uv_run() -> tuple[dict[str, str], Path]:
    """Options and folder of the closest `uv run` among this process's ancestors; without one, none and this folder."""
    for process in psutil.Process().parents():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            options = uv_run_options(process.cmdline())
            if options is not None:
                with suppress(psutil.Error):  # gone, or a system that shows a process's command line but no folder
                    return options, Path(process.cwd())
                return options, Path.cwd()
    if "UV_RUN_RECURSION_DEPTH" in os.environ:  # `uv run` sets it, so there was one, and perhaps it had a --package
        raise UserError("the `uv run` that started this has ended, and only it knew which task; say `TASK train`")
    return {}, Path.cwd()


def uv_run_options(line: list[str]) -> dict[str, str] | None:
    """The valued options of `uv run`, {option: value}, out of a process's command line; None for any other command.

    Nothing after the command word is read: it belongs to the command. Raises UserError where an option this does not
    know may have hidden a `--package`.
    """
    if not line or Path(line[0]).stem.lower() not in ("uv", "uvw"):  # its twin without a console on Windows
        return None
    found: dict[str, str] = {}
    words, running = iter(line[1:]), False
    for word in words:
        if word.startswith("--") and word != "--":
            option, equals, value = word.partition("=")
            if option in VALUED:
                found[option] = value if equals else next(words, "")
        elif word.startswith("-") and word not in ("-", "--"):  # short options, perhaps several in one word
            for i, letter in enumerate(word[1:], 2):
                if f"-{letter}" in VALUED:  # it takes what is left of the word, or the next one
                    found[f"-{letter}"] = word[i:] or next(words, "")
                    break
        elif word == "run" and not running:
            running = True
        else:  # the command, unless it is the value of an option newer than VALUED
            later = [rest for rest in words if rest.partition("=")[0] == "--package"]
            if running and later and word != "--" and Path(word).stem != "train" and "--package" not in found:
                raise UserError(f"is {later[0]} meant for uv or for {word}? say `TASK train`")
            break
    return found if running else None


def project_name(folder: Path) -> str | None:
    """The name in the nearest pyproject.toml at or above `folder`; None without one, or when it names no project."""
    folder = folder.resolve()
    path = next((p for parent in (folder, *folder.parents) if (p := parent / "pyproject.toml").is_file()), None)
    if path is None:
        return None
    try:
        return str(tomllib.loads(path.read_text("utf-8"))["project"]["name"])
    except KeyError:
        return None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: {error}") from error


def normal(name: str) -> str:
    """A distribution's name as PEP 503 compares it: lower case, runs of `-_.` are one `-`."""
    return re.sub(r"[-_.]+", "-", name).lower()


def gone(name: str, tasks: set[str]) -> str:
    """Says that `name` cannot be trained here."""
    why = "if another `uv run --exact` has just removed it, run one after the other"
    return f"{name} is not installed as a task; {why}; there is {commands(tasks - {name})}"


def commands(tasks: set[str]) -> str:
    """The commands that leave no doubt, for an error message."""
    told = ", ".join(f"`{name} train`" for name in sorted(tasks))
    return f"{told}; or `uv run --package X train`" if told else "no task installed: `uv sync --all-packages`"
