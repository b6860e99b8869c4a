"""An exported model: written from a run folder, and made one again.

DIR/README.md  config.json  model.safetensors  assets.json  test.json  samples/  model.onnx
"""

import dataclasses
import hashlib
import io
import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from etude import files
from etude.download import cache
from etude.errors import UserError
from etude.export import address
from etude.export.plain import from_plain, to_plain
from etude.package import Package
from etude.train import run
from etude.train.checkpoint import State

CONFIG, WEIGHTS, ASSETS = FILES = "config.json", "model.safetensors", "assets.json"
FORMAT = 1
AGAIN = "export the run again"


def contents(package: Package, folder: Path, state: State) -> dict[str, bytes]:
    """The files of the exported model that `opened` reads, by name, of a run and its best checkpoint.

    Raises UserError if the checkpoint holds what has no such form.
    """
    tensors: dict[str, Tensor] = {}
    weights: dict[str, Tensor] = {}
    assets = to_plain(state["assets"], tensors, "assets")
    model = to_plain(dict(state["model"]), weights, "model")
    if any(value != {"$tensor": f"model.{name}"} for name, value in model.items()):
        raise UserError(f"the model in {folder} holds more than tensors, which has no form in {WEIGHTS}")
    config = {
        "library_name": "etude",
        "format": FORMAT,
        "package": package.name,
        "versions": run.versions(package.config.__module__),
        "epoch": state.get("epoch"),
        "valid": state.get("valid"),
        "fingerprints": state.get("fingerprints"),
        "config": dataclasses.asdict(run.read_config(folder, package.config)),
    }
    whole = {name: tensor.contiguous().clone() for name, tensor in {**weights, **tensors}.items()}  # none shares memory
    return {
        CONFIG: as_json(config),
        ASSETS: as_json(assets),
        WEIGHTS: save(whole, {"format": "pt"}),
    }


def as_json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")


def opened(package: Package, given: str) -> Path:
    """The run folder that an exported model is, in the user's cache; `given` is its folder or address.

    It is made of the files every time that these have changed. Raises UserError if they cannot be had or read.
    """
    source = address.fetched(given, FILES) if address.is_one(given) else files.given(given)
    content = {}
    for name in FILES:
        try:
            content[name] = (source / name).read_bytes()
        except OSError as error:
            raise UserError(f"{source / name} cannot be read ({files.why(error)}): {AGAIN}") from None
    digest = hashlib.blake2b(b"".join(content.values()), digest_size=8).hexdigest()
    name = re.sub(r"[^\w.-]", "_", given.rstrip("/").rpartition("/")[2])  # for people; the digest says which it is
    place = cache() / "models" / f"{name}-{digest}"
    if not (place / "config.yaml").is_file():
        config, state = read(package, source, content[WEIGHTS])
        with files.reported(f"{place} cannot be written", "free the user's cache folder, or make it writable"):
            make(place, config, state)
    return place


def read(package: Package, source: Path, weights: bytes) -> tuple[Any, State]:
    """The configuration, as plain data, and the checkpoint of an exported model. Raises UserError if it is none."""
    told = files.read_json(source / CONFIG, dict, AGAIN, {"package": str, "format": int, "config": dict})
    if told["package"] != package.name:
        raise UserError(f"{source} is a model of {told['package']}, not of {package.name}: use {told['package']}")
    if told["format"] != FORMAT:
        format = f"{source} has format {told['format']}, this version reads {FORMAT}"
        raise UserError(f"{format}: install the one it was made by")
    assets = files.read_json(source / ASSETS, dict, AGAIN, {})
    try:
        tensors = load(weights)
        state = {name: told.get(name) for name in ("epoch", "valid", "fingerprints")}
        state["assets"] = from_plain(assets, tensors)
        state["model"] = {name.removeprefix("model."): x for name, x in tensors.items() if name.startswith("model.")}
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise UserError(f"{source / WEIGHTS} cannot be read ({files.reason(error)}): {AGAIN}") from None
    return told["config"], state


def make(place: Path, config: Any, state: State) -> None:
    """Writes a run folder, whole or not at all."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    place.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".model-", dir=place.parent))
    try:
        (work / "checkpoints").mkdir()
        files.write(work / "checkpoints/best.pt", buffer.getbuffer())
        files.write(work / "config.yaml", (yaml.safe_dump(config, sort_keys=False, allow_unicode=True)).encode())
        try:
            work.rename(place)
        except OSError:
            if not (place / "config.yaml").is_file():  # else another process was faster, with the same files
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
