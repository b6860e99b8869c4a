"""An exported model: written from a run folder, and made one again.

DIR/README.md  config.json  model.safetensors  assets.json  test.json  samples/  model.onnx
"""

import hashlib
import io
import json
import math
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
from etude.train.device import DTYPES

CONFIG, WEIGHTS, ASSETS = FILES = "config.json", "model.safetensors", "assets.json"
FORMAT = 1
KEPT = ("model", "assets", "epoch", "valid", "fingerprints")  # of a checkpoint
AGAIN = "export the run again"


def contents(package: Package, folder: Path, state: State, config: Any) -> dict[str, bytes]:
    """The files of the exported model that `opened` reads, by name: of a run, its best checkpoint and configuration.

    Raises UserError if the checkpoint holds what has no such form.
    """
    tensors: dict[str, Tensor] = {}
    weights: dict[str, Tensor] = {}
    assets = to_plain(state["assets"], tensors, "assets")
    model = to_plain(dict(state["model"]), weights, "model")
    if any(value != {"$tensor": f"model.{name}"} for name, value in model.items()):
        raise UserError(f"the model in {folder} holds more than tensors, which has no form in {WEIGHTS}")
    told = {
        "library_name": "etude",
        "format": FORMAT,
        "package": package.name,
        "versions": run.versions(package.config.__module__),
        "epoch": state.get("epoch"),
        "valid": state.get("valid"),
        "fingerprints": state.get("fingerprints"),
        "precision": run.first_start(folder).get("precision"),
        "config": finite(config),
    }
    whole = {name: tensor.contiguous().clone() for name, tensor in {**weights, **tensors}.items()}  # none shares memory
    made = {CONFIG: as_json(told), ASSETS: as_json(assets), WEIGHTS: save(whole, {"format": "pt"})}
    if not same(parsed(package, folder, made)[1], {key: state.get(key) for key in KEPT}):
        raise UserError(f"the checkpoint of {folder} does not come back as it was: nothing is written")
    return made


def finite(value: Any) -> Any:
    """A configuration as JSON, which knows no infinity: it becomes the word that `--fit.clip inf` is."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def same(a: Any, b: Any) -> bool:
    """Whether two states are equal to the bit, and of the same types."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        bits = (x.reshape(-1).view(torch.uint8) for x in (a.contiguous(), b.contiguous()))
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*bits)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return bool(a == b or (a != a and b != b))


def as_json(value: Any) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()


def opened(package: Package, given: str) -> Path:
    """The run folder that an exported model is, in the user's cache; `given` is its folder or address.

    It is made of the files every time that these have changed. Raises UserError if they cannot be had or read.
    """
    content: dict[str, bytes] = address.fetched(given, FILES) if files.is_address(given) else {}
    for name in () if content else FILES:
        file = files.given(given) / name
        try:
            content[name] = file.read_bytes()
        except OSError as error:
            raise UserError(f"{file} cannot be read ({files.why(error)}): {AGAIN}") from None
    config, state, precision = parsed(package, given, content)
    digest = hashlib.blake2b(b"".join(content.values()), digest_size=8).hexdigest()
    name = re.sub(r"[^\w.-]", "_", given.rstrip("/\\").replace("\\", "/").rpartition("/")[2])  # for people
    place = cache() / "models" / f"{name}-{digest}"
    if not (place / "config.yaml").is_file() or not (place / "checkpoints/best.pt").is_file():
        with files.reported(f"{place} cannot be written", "free the user's cache folder, or make it writable"):
            make(place, config, state, precision)
    return place


def parsed(package: Package, given: str | Path, content: dict[str, bytes]) -> tuple[Any, State, str | None]:
    """Of an exported model the configuration, as plain data, the checkpoint, and the precision it was trained in.

    The last is None where that is not known. Raises UserError if it is no such model.
    """
    name = CONFIG
    try:
        told = json.loads(content[CONFIG])
        if not isinstance(told, dict) or not isinstance(told.get("config"), dict):
            raise ValueError("it is not what `export` writes")
        if told.get("package") != package.name:
            raise UserError(
                f"{given} is a model of {told.get('package')}, not of {package.name}: use {told.get('package')}"
            )
        if told.get("format") != FORMAT:
            other = f"{given} has format {told.get('format')}, this version reads {FORMAT}"
            raise UserError(f"{other}: install the one that it was made by")
        precision = told.get("precision")
        if precision is not None and precision not in DTYPES:
            raise ValueError(f"{precision!r} is no precision")
        name = WEIGHTS
        tensors = load(content[WEIGHTS])
        name = ASSETS
        state = {key: told.get(key) for key in KEPT}
        state["assets"] = from_plain(json.loads(content[ASSETS]), tensors)
        state["model"] = {key.removeprefix("model."): x for key, x in tensors.items() if key.startswith("model.")}
    except (SafetensorError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{given}: {name} cannot be read ({files.reason(error)}): {AGAIN}") from None
    return told["config"], state, precision


def make(place: Path, config: Any, state: State, precision: str | None) -> None:
    """Writes a run folder, whole or not at all; `precision`, if known, as that of its first start."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    place.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".model-", dir=place.parent))
    try:
        (work / "checkpoints").mkdir()
        files.write(work / "checkpoints/best.pt", buffer.getbuffer())
        files.write(work / "config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode())
        if precision is not None:
            files.write(work / "environment.json", as_json([{"precision": precision}]))
        try:
            shutil.rmtree(place, ignore_errors=True)  # what somebody has left of it
            work.rename(place)
        except OSError:
            if not (place / "checkpoints/best.pt").is_file():  # else another process was faster, with the same files
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
