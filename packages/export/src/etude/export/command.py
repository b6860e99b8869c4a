"""The verb `export`: a trained model as a folder that others can read without etude, and `predict` with it."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from etude import files
from etude.arguments import Parser
from etude.errors import UserError
from etude.package import Package

HELP = """\
Writes the best checkpoint of a run as a folder that others can read: README.md, a model card; config.json,
model.safetensors and assets.json, which hold no code; the test scores; of generated data also the samples.
`predict`, `embed` and `evaluate` take such a folder for RUN, or its address: hf://user/name on the hub, or one that
fsspec knows, such as s3://bucket/folder, which DIR may be, too."""


def main(package: Package, words: list[str], _call: str) -> int:
    """Write a trained model as a folder for others: a model card, safetensors, and ONNX if asked."""
    takes = Parser(f"{package.name} export", HELP)
    takes.add_argument("run", metavar="RUN", type=files.given)
    takes.add_argument("out", metavar="DIR", help="a new or empty folder")
    takes.add_argument(
        "--onnx", action="store_true", help="also the network as model.onnx, where it is a function of arrays"
    )
    takes.add_argument(
        "--samples", action="store_true", help="also what the run showed of its data, which may not be yours to publish"
    )
    given = takes.parse_args(words)

    from etude.export import address, card, folder  # only now, as they import torch
    from etude.train import checkpoint

    there = files.is_address(given.out)
    out = Path(given.out) if there else files.given(given.out)
    if not there and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not an empty folder: give another one")
    run: Path = given.run
    facts = card.gather(package, run, given.samples)
    state = checkpoint.read(run)
    content = folder.contents(package, run, state, facts.knobs)
    arrays: list[str] = []
    if given.onnx:
        from etude.export import onnx

        task = package.task.restore(facts.config, state["assets"])
        checkpoint.fill(task.model, state, run)
        content["model.onnx"] = onnx.contents(package.name, task, task.model)
        arrays = onnx.described(content["model.onnx"], task, card.classes(task, facts))
    content |= facts.samples
    if facts.test is not None:
        content["test.json"] = folder.as_json(facts.test)
    content["README.md"] = card.text(package, facts, state, arrays).encode()
    if there:
        address.put(given.out, content)
    else:
        with files.reported(f"{out} cannot be written", "give another DIR"):
            write(out, content)
    size = sum(map(len, content.values()))
    print(f"model    {given.out}, {size / 1e6:.1f} MB in {len(content)} files")
    if facts.untested:
        print(f"note     without test scores: {facts.untested}")
    print(f"read     {given.out.rstrip('/')}/README.md before you publish it")
    return 0


def write(out: Path, content: Mapping[str, bytes]) -> None:
    """Writes a folder, whole or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".export-", dir=out.parent))
    try:
        for name, data in content.items():
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            files.write(work / name, data)
        if out.exists():
            out.rmdir()  # it is empty
        work.rename(out)
        out.chmod(0o755)  # not for its owner alone, as a temporary folder is
    finally:
        shutil.rmtree(work, ignore_errors=True)
