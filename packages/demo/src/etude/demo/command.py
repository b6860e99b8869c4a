"""The verb `demo`: a page where the model of a run answers while one plays."""

import json
import os
import signal
import sys
import threading
import webbrowser
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from etude import cli, files
from etude.arguments import Parser
from etude.errors import UserError
from etude.package import Package
from etude.signals import watch_signals

HELP = """\
Opens a page in the browser where the best checkpoint of a run answers while one plays. Without RUN it takes the newest
finished run below runs/{name} that has a page, and trains one on the sample if there is none. The page is served on
this machine alone; its address contains a secret, and is of no use without it. Ctrl-C ends it."""

SAMPLE = "the sample that comes with it, which is small and says little of other data"


def main(package: Package, words: list[str], _call: str) -> int:
    """Open a page where the model answers while one plays."""
    takes = Parser(f"{package.name} demo", HELP.format(name=package.name))
    takes.add_argument("run", metavar="RUN", nargs="?", help="the run folder, or an exported model")
    takes.add_argument(
        "--host", default="127.0.0.1", help="who can reach it: 0.0.0.0 is everybody on the network (default 127.0.0.1)"
    )
    takes.add_argument("--port", type=int, default=0, help="of the page (default 0: any that is free)")
    takes.add_argument("--no-browser", action="store_true", help="only print the address")
    given = takes.parse_args(words)
    if not 0 <= given.port < 1 << 16:
        raise UserError(f"--port {given.port} is no port: give a number from 0 to 65535")
    if find_spec(f"{package.module}.demo") is None:
        raise UserError(f"{package.name} has no demo: see what its `predict` does")
    if given.run is not None:
        folder = cli.run_folder(package, given.run)
        shown = page(package, folder)
    elif found := newest(package):
        folder, shown = found
    else:
        from etude.train import run

        folder = run.new_folder(package.name)
        none = f"there is no finished run in runs/{package.name} that has a page"
        print(f"demo     {none}: training one on the sample", flush=True)
        if code := cli.train(package, ["--run", str(folder)]):
            return code
        shown = page(package, folder)
    return serve(package, folder, shown, given.host, given.port, not given.no_browser)


def page(package: Package, folder: Path) -> Any:
    """The `Demo` of a run. Raises UserError if it has none, as that of a language model."""
    return import_module(f"{package.module}.demo").demo(cli.restored(package, folder))


def newest(package: Package) -> tuple[Path, Any] | None:
    """The run below runs/PACKAGE that ended last of those that have a page, and that; says which have none.

    None if there is none.
    """
    for folder in finished(package):
        try:
            return folder, page(package, folder)
        except UserError as error:
            print(f"demo     not of {folder}: {error}", flush=True)
    return None


def finished(package: Package) -> list[Path]:
    """The runs below runs/PACKAGE that have ended, those of studies included, the last first."""
    ended = []
    for file in Path("runs", package.name).rglob("result.json"):
        with suppress(OSError):  # it is being deleted, or not ours
            if (file.parent / "checkpoints/best.pt").is_file() and (file.parent / "config.yaml").is_file():
                ended.append((file.stat().st_mtime, file.parent))
    return [folder for _, folder in sorted(ended, reverse=True)]


def serve(package: Package, folder: Path, demo: Any, host: str, port: int, browser: bool) -> int:
    """Serves the page until Ctrl-C."""
    from etude.demo.server import Server

    try:
        server = Server(demo, told(package, folder), host, port)
    except OSError as error:
        remedy = "give another --port, or none" if port else "give another --host"
        raise UserError(f"{host}:{port} cannot be had ({files.why(error)}): {remedy}") from None
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts it in the background has it ignored
    try:
        for panel in demo.panels:  # the first answer is slow, so it is not a person's
            with suppress(UserError):
                server.model.submit(panel.answer, **{one.name: one.value for one in panel.inputs}).result()
        with watch_signals() as signals:  # what is interrupted while it is written is written twice
            print(f"run      {folder}")
            print(f"open     {server.address}   (Ctrl-C ends it)", flush=True)
        if signals:
            raise KeyboardInterrupt
        if browser and can_show():
            threading.Thread(target=show, args=(server.address,), daemon=True).start()
        server.serve_forever(poll_interval=0.1)
    except KeyboardInterrupt:
        pass
    finally:
        server.end()
    return 0


def can_show() -> bool:
    """Whether there is a screen for a browser: in a terminal alone it would be one of text, in its place."""
    return sys.platform in ("win32", "darwin") or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))


def show(address: str) -> None:
    with suppress(Exception):  # whatever a browser does not like: the address stands in the terminal
        webbrowser.open(address)


def told(package: Package, folder: Path) -> dict[str, Any]:
    """What the page says of the run: names and numbers, and no path, which is nobody's matter."""
    from etude.train import run

    config: Any = run.read_config(folder, package.config)
    data = str(getattr(config.data, "name", config.data))
    result: dict[str, Any] = {}
    with suppress(OSError, ValueError):  # an exported model has none
        result = json.loads((folder / "result.json").read_text("utf-8"))
    valid = result.get("valid", {})
    scores = [[name, valid[name]] for name in package.scores if isinstance(valid.get(name), int | float)]
    return {
        "name": package.name,
        "run": run_name(folder.resolve()),
        "data": SAMPLE if data == "sample" else data.replace("\\", "/").rstrip("/").rpartition("/")[2],
        "scores": [[name, round(value, 4), package.meanings.get(name, "")] for name, value in scores],
    }


def run_name(folder: Path) -> str:
    """What a run is called: one of a study by its seed, its setting and the study, as `seed=1` alone says little."""
    setting, study = folder.parent, folder.parent.parent
    in_study = (study / "study.yaml").is_file()
    return f"{folder.name} of {setting.name} in the study {study.name}" if in_study else folder.name
