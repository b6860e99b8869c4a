"""The model card of an exported model: Markdown whose front matter is what a hub reads.

Source: Mitchell et al. 2019, Model Cards for Model Reporting; front matter as the hub documents it.
"""

import dataclasses
import math
import re
import shlex
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata, resources
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import yaml

from etude import config as configs
from etude import files, tested
from etude.package import Package
from etude.study.judge import LEVEL, Estimate, of_mean
from etude.train import run
from etude.train.checkpoint import State

AGAIN = "delete it and start the run again"
SAMPLES = 20  # pictures and texts at most, those of the end of training
LARGEST = 1 << 21  # bytes of a sample


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a run folder says of itself."""

    folder: Path
    config: Any
    """of the package"""
    knobs: dict[str, Any]
    """the configuration as plain data, without the folders of this machine"""
    start: dict[str, Any]
    """of environment.json, the first start"""
    about: dict[str, Any]
    result: dict[str, Any] | None
    test: dict[str, Any] | None
    blocks: dict[str, list[float]]
    """score -> pseudo-values, by which its interval is known"""
    untested: str
    """why there are no test scores"""
    samples: dict[str, bytes]


def gather(package: Package, folder: Path, shown: bool) -> Facts:
    """With its samples if `shown`. Raises UserError if it is no run folder, or of another task."""
    config: Any = run.read_config(folder, package.config)
    about = files.read_json(folder / "about.json", dict, AGAIN, {}) or {}
    result = files.read_json(folder / "result.json", dict, AGAIN, {"valid": dict})
    test = files.read_json(folder / "test.json", dict, "delete it and evaluate the run again", {})
    untested = "it was never evaluated" if test is None else tested.problem(folder, result, test)
    kept = files.read_json(folder / tested.BLOCKS, dict, AGAIN, {}) or {}
    known = test is not None and not untested and kept.get("scores") == test
    return Facts(
        folder,
        config,
        without_folders(dataclasses.asdict(config)),
        run.first_start(folder),
        about,
        result,
        None if untested else test,
        kept.get("blocks", {}) if known else {},
        untested,
        samples(folder) if shown or is_ours(package, config) else {},
    )


def without_folders(value: Any) -> Any:
    """Plain data in which paths, which would tell of this machine and its user, are cut to their last part: ./names."""
    if isinstance(value, dict):
        return {key: without_folders(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(item) for item in value]
    for kind in (PurePosixPath, PureWindowsPath):
        if isinstance(value, str) and kind(value).is_absolute():
            return f"./{kind(value).name}"
    return value


def in_words(told: str, config: Any) -> str:
    """What a run says of its data, the paths of its configuration cut as in `without_folders`."""
    for value in configs.flatten(config).values():
        if isinstance(value, str) and value != (cut := without_folders(value)):
            told = told.replace(value, cut)
    return told


def command(package: Package, words: Sequence[Any]) -> str:
    """The command that made a run, by how it was called; empty if that does not say."""
    said = [str(word) for word in words]
    at = next((n for n, word in enumerate(said) if re.split(r"[\\/]", word)[-1] in ("train", "train.exe")), None)
    if at is None:
        return ""
    flags = said[at + 1 :]
    kept = [word for n, word in enumerate(flags) if not word.startswith("--run") and flags[max(0, n - 1)] != "--run"]
    parts = [re.fullmatch(r"(--[^=]+=)?(.*)", word, re.DOTALL) for word in kept]
    hidden = [(part[1] or "") + without_folders(part[2]) for part in parts if part]
    return shlex.join([package.name, "train", *hidden])


def samples(folder: Path) -> dict[str, bytes]:
    """What the task showed at the end of training, by the name of its file in the exported model."""
    found: dict[str, bytes] = {}
    for file in sorted((folder / "samples").glob("[!.]*")):
        early = re.search(r"-epoch-\d+\.(png|md)$", file.name)
        if not early and file.suffix in (".png", ".md") and file.stat().st_size <= LARGEST and len(found) < SAMPLES:
            found[f"samples/{file.name}"] = file.read_bytes()
    return found


def data_name(config: Any) -> str:
    """What --data says; a path stands for the user's own data and is not told."""
    data = getattr(config, "data", "")
    name = getattr(data, "name", data)
    return name if isinstance(name, str) and re.fullmatch(r"[\w.-]+", name) else ""


def data_sheet(package: Package) -> tuple[str, dict[str, str]]:
    """What the package's DATA.md says of all its data, and of each of them by name; nothing if there is none."""
    file = resources.files(package.module) / "DATA.md"
    first, *sections = re.split(r"(?m)^## ", file.read_text("utf-8")) if file.is_file() else [""]
    bodies = {heading.strip().strip("`"): body.strip() for heading, _, body in (s.partition("\n") for s in sections)}
    return first.partition("\n")[2].strip(), bodies


def data_card(package: Package, name: str) -> str:
    """What the package's DATA.md says of all its data, and of this data set; of a path what it says of one's own."""
    first, bodies = data_sheet(package)
    return "\n\n".join(part for part in (first, bodies.get(name) or bodies.get("your own", "")) if part)


def is_ours(package: Package, config: Any) -> bool:
    """Whether a run's data are the package's own sample, under its licence; a sample can be other people's, too."""
    told = data_sheet(package)[1].get("sample", "") if data_name(config) == "sample" else ""
    return re.search(r"^- \*\*Licence:\*\* MIT\b", told, flags=re.M) is not None


def classes(task: Any, facts: Facts) -> tuple[str, ...]:
    """The names of the classes, in the order of the network's outputs; none where neither task nor scores have them."""
    scored = (facts.test or {}).get("per_class")
    return tuple(getattr(task, "classes", None) or (scored if isinstance(scored, dict) else ()))


def interval(values: list[float], mean: float) -> str:
    """Half of a 95 % interval of one score, by the sampling of its test part: " ± 0.0042"; empty if not known."""
    if len(values) < 2:
        return ""
    half = Estimate(mean, (of_mean(values),)).half(LEVEL)
    return f" ± {half:.4f}" if math.isfinite(half) else ""


def numbers(scores: dict[str, Any]) -> dict[str, float]:
    return {k: float(v) for k, v in scores.items() if isinstance(v, int | float) and not isinstance(v, bool)}


def front(package: Package, facts: Facts, onnx: bool) -> dict[str, Any]:
    name = data_name(facts.config) or "own"
    other = {"license": "other", "license_name": "see-the-data"}
    licence = {"license": "mit"} if is_ours(package, facts.config) else other
    found: dict[str, Any] = {**licence, "library_name": "etude", "tags": ["etude", package.name]}
    if onnx:
        found["tags"].append("onnx")
    if facts.test is not None:
        scores = numbers({key: facts.test.get(key) for key in package.scores})
        results = {
            "task": {"type": "other", "name": package.name},
            "dataset": {"type": name, "name": name, "split": "test"},
            "metrics": [{"type": key, "name": key, "value": value} for key, value in scores.items()],
        }
        found |= {"metrics": list(scores), "model-index": [{"name": package.name, "results": [results]}]}
    return found


def text(package: Package, facts: Facts, state: State, arrays: Sequence[str]) -> str:
    """The whole card, of a run and its best checkpoint. What these do not say stands there as not known.

    `arrays` are lines on what model.onnx takes and gives; there are none if there is no such file.
    """
    name = data_name(facts.config)
    summary = package.name  # of a task that is not installed, as when it is being written
    with suppress(metadata.PackageNotFoundError):
        summary = metadata.metadata(package.name)["Summary"]
    start, about = facts.start, facts.about
    made = command(package, start.get("command", []))
    data = in_words(about.get("data", "not known"), facts.config)
    lines = ["---", yaml.safe_dump(front(package, facts, bool(arrays)), sort_keys=False).strip(), "---", ""]
    lines += [f"# {package.name}", "", f"{summary}.", ""]
    lines += [f"- **Model:** {about.get('model', 'not known')}", f"- **Data:** {data}"]
    lines += [f"- **Epoch:** {state.get('epoch', 'not known')}"]
    lines += [
        f"- **Made by:** {f'`{made}`' if made else 'not known'}",
        f"- **Commit:** {start.get('git') or 'not known'}",
    ]
    versions = ", ".join(f"{key} {value}" for key, value in start.get("versions", {}).items())
    lines += [f"- **Versions:** {versions or 'not known'}"]
    lines += [
        f"- **Machine:** {start.get('device', 'not known')}, {start.get('precision', '')}, seed {start.get('seed')}"
    ]
    if facts.result is None:
        lines += [
            "- **Not finished:** the run was still at work when this was written; what is here is its best epoch so far"
        ]
    lines += [
        "",
        "## Use",
        "",
        f"Install {package.name} as etude's README says; then, where DIR is this folder or hf://user/name:",
        "",
    ]
    lines += ["```bash", f"{package.name} predict DIR INPUT ...", f"{package.name} evaluate DIR", "```", ""]
    lines += [
        "`model.safetensors` holds the weights, `config.json` every setting, `assets.json` what was learnt from the"
    ]
    lines += ["training part beside the weights. None of them can run code.", ""]
    if arrays:
        lines += [
            "`model.onnx` is the network alone, for onnxruntime and others, of any number of examples:",
            "",
            *arrays,
            "",
        ]
    lines += ["## Scores", ""]
    lines += scores(facts, package, numbers(state.get("valid") or {}))
    lines += [
        "",
        "## Data",
        "",
        data_card(package, name) or "Not a data set that the package describes: ask who made the model.",
    ]
    lines += ["", "## Limits", ""]
    lines += [
        "The scores are of this data's test part. They say nothing of inputs of another kind; the known faults of the"
    ]
    lines += [
        "data above are the model's, too. The interval is that of the test part's sampling, for this one run: another"
    ]
    lines += ["seed gives another model, whose spread it does not hold."]
    lines += ["", "## Settings", "", "```yaml", yaml.safe_dump(facts.knobs, sort_keys=False).strip(), "```", ""]
    shown = [file for file in facts.samples if file.endswith(".png")]
    if shown:
        lines += ["## Samples", "", *(f"![{Path(file).stem}]({file})" for file in shown), ""]
    return "\n".join(lines)


def scores(facts: Facts, package: Package, valid: dict[str, float]) -> list[str]:
    test = numbers(facts.test or {})
    keys = [key for key in package.scores if key in valid or key in test]
    lines = ["| score | better | validation | test, with 95 % interval |", "|---|---|---:|---:|"]
    for key in keys:
        blocks = facts.blocks.get(key, [])
        told = f"{test[key]:.4f}{interval(blocks, test[key])}" if key in test else "–"
        lines.append(f"| {key} | {package.scores[key]} | {f'{valid[key]:.4f}' if key in valid else '–'} | {told} |")
    if facts.untested:
        lines += ["", f"There are no test scores: {facts.untested}."]
    return lines
