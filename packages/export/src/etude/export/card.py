"""The model card of an exported model: Markdown whose front matter is what a hub reads.

Source: Mitchell et al. 2019, Model Cards for Model Reporting; front matter as the hub documents it.
"""

import math
import re
import shlex
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import yaml

from etude import files, tested
from etude.package import Package
from etude.study.judge import BLOCKS, LEVEL, Estimate, of_mean
from etude.train import run

AGAIN = "delete it and start the run again"
SAMPLES = 20  # pictures and texts at most, those of the end of training
LARGEST = 1 << 21  # bytes of a sample


@dataclass(frozen=True)
class Facts:
    """What a run folder says of itself."""

    folder: Path
    config: Any
    """of the package"""
    text: str
    """config.yaml as it stands"""
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
    kept = files.read_json(folder / BLOCKS, dict, AGAIN, {}) or {}
    known = test is not None and not untested and kept.get("scores") == test
    return Facts(
        folder,
        config,
        (folder / "config.yaml").read_text("utf-8"),
        run.first_start(folder),
        about,
        result,
        None if untested else test,
        kept.get("blocks", {}) if known else {},
        untested,
        samples(folder) if shown or data_name(config) == "sample" else {},
    )


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


def data_card(package: Package, name: str) -> str:
    """What the package's DATA.md says of all its data, and of this data set; of a path what it says of one's own."""
    file = resources.files(package.module) / "DATA.md"
    first, *sections = re.split(r"(?m)^## ", file.read_text("utf-8")) if file.is_file() else [""]
    bodies = {heading.strip().strip("`"): body.strip() for heading, _, body in (s.partition("\n") for s in sections)}
    found = bodies.get(name) or bodies.get("your own", "")
    return "\n\n".join(part for part in (first.partition("\n")[2].strip(), found) if part)


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
    own = {"license": "mit"} if name == "sample" else {"license": "other", "license_name": "see-the-data"}
    found: dict[str, Any] = {**own, "library_name": "etude", "tags": ["etude", package.name]}
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


def text(package: Package, facts: Facts, onnx: bool) -> str:
    """The whole card. What the run does not say stands there as not known."""
    name = data_name(facts.config)
    summary = package.name  # of a task that is not installed, as when it is being written
    with suppress(metadata.PackageNotFoundError):
        summary = metadata.metadata(package.name)["Summary"]
    start, about = facts.start, facts.about
    command = shlex.join([package.name, *map(str, start.get("command", ["train"])[1:])])
    lines = ["---", yaml.safe_dump(front(package, facts, onnx), sort_keys=False).strip(), "---", ""]
    lines += [f"# {package.name}", "", f"{summary}.", ""]
    lines += [f"- **Model:** {about.get('model', 'not known')}", f"- **Data:** {about.get('data', 'not known')}"]
    lines += [f"- **Made by:** `{command}`", f"- **Commit:** {start.get('git') or 'not known'}"]
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
    lines += ["training part beside the weights. None of them can run code.", "", "## Scores", ""]
    lines += scores(facts, package)
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
    lines += ["", "## Settings", "", "```yaml", facts.text.strip(), "```", ""]
    shown = [file for file in facts.samples if file.endswith(".png")]
    if shown:
        lines += ["## Samples", "", *(f"![{Path(file).stem}]({file})" for file in shown), ""]
    return "\n".join(lines)


def scores(facts: Facts, package: Package) -> list[str]:
    valid = numbers((facts.result or {}).get("valid", {}))
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
