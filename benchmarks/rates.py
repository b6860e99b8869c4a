"""What is known exactly of CIFAR-10, and error against bits of any number of runs in one picture.

    uv run --package cifar-vae python benchmarks/rates.py [RUN ...] [--data cifar10] [--out rates.png] [--csv runs.csv]

Prints PCA's errors and the Gaussian rate-distortion curve of the training part; draws them with image files and the
test scores of the runs, which `cifar-vae evaluate` has left in their test.json. Bars are 95 % intervals over pictures.
`--csv` puts the scores into a table, those of classifiers, too; `--yardsticks` what is known exactly, of the training
part, and of training and validation part together, which are all 50,000 of CIFAR-10.
"""

import argparse
import csv
import json
import re
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from cifar_vae import data, show, yardsticks
from cifar_vae.config import VALUES, Config, Data
from etude import config
from etude.train import run

COLUMNS: tuple[str, ...] = (
    "mse",
    "mse_se",
    "mse_image",
    "logcosh_image",
    "psnr",
    "mse_sample",
    "kl_bits",
    "bits",
    "bits_entropy",
)
COLUMNS += ("perplexity", "used", "accuracy", "macro_f1", "loss")


def scores(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "test.json").read_text("utf-8"))
    return found


def write(file: Path, folders: list[Path]) -> None:
    """A line for each run: how it was configured, and its test scores."""
    with file.open("w", encoding="utf-8", newline="") as out:
        table = csv.writer(out, lineterminator="\n")
        table.writerow(["run", "seed", "epochs", *COLUMNS])
        for folder in folders:
            found, fit = scores(folder), run.read_config(folder, Config).fit
            table.writerow([folder.name, fit.seed, fit.epochs, *(found.get(name, "") for name in COLUMNS)])


def write_yardsticks(file: Path, of: data.Dataset, known: dict[str, Any]) -> None:
    """A line for each yardstick: on how many pictures it was fitted, what was set, bits, error per value."""
    whole = np.concatenate([of.train.pictures, of.valid.pictures])
    spectrum = yardsticks.spectrum(whole)
    mean_apart, median_apart = yardsticks.apart(of.test.pictures)
    fitted = {
        len(of.train): (np.array(known["variances"]), np.array(known["pca"])),
        len(whole): (spectrum.values, yardsticks.pca(spectrum, of.test.pictures)),
    }
    with file.open("w", encoding="utf-8", newline="") as out:
        table = csv.writer(out, lineterminator="\n")
        table.writerow(["fitted_on", "kind", "setting", "bits", "mse"])
        for count, (variances, pca) in fitted.items():
            table.writerows([count, "PCA", k, "", pca[k]] for k in NUMBERS)
            table.writerows([count, "Gaussian", "", b, yardsticks.distortion(variances, b)] for b in BITS)
        for point in known["files"]:
            setting = point["step"] if point["format"] == yardsticks.TRANSFORM else point["quality"]
            table.writerow([len(of.train), point["format"], setting, point["bits"], point["mse"]])
        table.writerow([len(of.train), "nearest", "", "", known["nearest"]])
        table.writerow(["", "apart, mean", "", "", mean_apart])
        table.writerow(["", "apart, median", "", "", median_apart])


def exact(found: list[dict[str, str]]) -> list[str]:
    """The README's table of PCA and of the Gaussian curve, both of the whole training part."""
    lines = ["| numbers | PCA, mse per value in [0, 1] | sum per picture in [-1, 1] | | bits | Gaussian curve |"]
    lines.append("|---:|---:|---:|---|---:|---:|")
    most = max(int(row["fitted_on"] or 0) for row in found)
    of_all = [row for row in found if row["fitted_on"] == str(most)]
    pca = [row for row in of_all if row["kind"] == "PCA"]
    curve = [row for row in of_all if row["kind"] == "Gaussian"]
    for k, b in zip(pca, curve, strict=True):
        error = float(k["mse"])
        left = f"| {k['setting']} | {error:.5f} | {4 * VALUES * error:.1f} | "
        lines.append(f"{left}| {int(b['bits']):,} | {float(b['mse']):.5f} |")
    return lines


def codes(found: list[dict[str, str]]) -> list[str]:
    """The README's table of the transform code and of image files, which are fitted to the training part."""
    lines = ["| code | step or quality | bits per picture | mse per value |", "|---|---:|---:|---:|"]
    for row in found:
        if row["kind"] in SHOWN and row["setting"] in SHOWN[row["kind"]]:
            lines.append(f"| {row['kind']} | {row['setting']} | {float(row['bits']):,.0f} | {float(row['mse']):.5f} |")
    return lines


NUMBERS, BITS = (16, 32, 64, 128, 256, 512), (128, 206, 256, 576, 1024, 2048)
SHOWN = {
    yardsticks.TRANSFORM: ("1.1", "0.6", "0.45", "0.3"),
    "WEBP": ("0", "5", "10", "20"),
    "JPEG": ("1", "10"),
}
PRESETS = {"ae64": "64", "ae128": "128", "vae64": "64"}  # and how many numbers each has


def of(found: list[dict[str, str]], name: str, column: str) -> list[float]:
    """A score of all seeds of a preset."""
    return [float(row[column]) for row in found if re.fullmatch(rf"{name}-seed\d+", row["run"])]


def told(values: list[float], form: str) -> str:
    """The mean over seeds, and the least and the most of them where there are several."""
    if len(values) == 1:
        return format(values[0], form)
    return f"{format(mean(values), form)} ({format(min(values), form)} to {format(max(values), form)})"


def trained_on(known: list[dict[str, str]], kind: str) -> list[dict[str, str]]:
    """The yardsticks of a kind that were fitted to the training part, without validation."""
    part = min(int(row["fitted_on"]) for row in known if row["fitted_on"])
    return [row for row in known if row["kind"] == kind and row["fitted_on"] == str(part)]


def per_picture(known: list[dict[str, str]], numbers: str) -> str:
    """PCA's error with so many numbers, per picture in [-1, 1], for a text."""
    [error] = [float(row["mse"]) for row in trained_on(known, "PCA") if row["setting"] == numbers]
    return f"{4 * VALUES * error:.1f}"


def coded(known: list[dict[str, str]], bits: str) -> str:
    """The transform code's error per value at so many bits, between its points, for a text."""
    kind = yardsticks.TRANSFORM
    points = [{"format": kind, "bits": float(p["bits"]), "mse": float(p["mse"])} for p in trained_on(known, kind)]
    return f"{yardsticks.at_bits(points, kind, float(bits)):.5f}"


def presets(found: list[dict[str, str]], known: list[dict[str, str]]) -> list[str]:
    """The lines of the README's table of autoencoders; `known`: the yardsticks."""
    lines = ["| `cifar-vae train ...` | seeds | error | per value in [0, 1] | PCA with as many | KL, bits |"]
    lines.append("|---|---:|---:|---:|---:|---:|")
    for name, numbers in PRESETS.items():
        image, value = of(found, name, "mse_image"), of(found, name, "mse")
        if not image:
            continue
        peer = per_picture(known, numbers)
        bits = told(of(found, name, "kl_bits"), ".1f") if name.startswith("vae") else ""
        lines.append(f"| `{name}` | {len(image)} | {told(image, '.1f')} | {told(value, '.5f')} | {peer} | {bits} |")
    return lines


def classifiers(found: list[dict[str, str]]) -> list[str]:
    """The lines of the README's table of classifiers on frozen latents."""
    lines = ["| on the latents of | seeds | accuracy | macro-F1 |", "|---|---:|---:|---:|"]
    names = {name: f"`{name}`" for name in ("ae64", "ae128", "denoise128")} | {
        "pca64": "PCA, 64 numbers",
        "pca128": "PCA, 128 numbers",
        "ae128-one-epoch": "`ae128`, one epoch from PCA; probe with mirror images, not whitened",
    }
    for name, what in names.items():
        accuracy, f1 = (of(found, f"classify-{name}", column) for column in ("accuracy", "macro_f1"))
        lines.append(f"| {what} | {len(accuracy)} | {told(accuracy, '.3f')} | {told(f1, '.3f')} |")
    return lines


def points(folder: Path) -> list[tuple[str, float, float, float]]:
    """Name, bits, error and its standard error of what a run scored; of an ae as it is rounded."""
    found = scores(folder)
    if "accuracy" in found:
        return []
    if "rounded" in found:
        return [(f"{folder.name}, rounded", p["bits"], p["mse"], p["mse_se"]) for p in found["rounded"]]
    return [(folder.name, found["bits"], found.get("mse_sample", found["mse"]), found["mse_se"])]


def main() -> None:
    takes = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    takes.add_argument("runs", metavar="RUN", nargs="*", type=Path)
    takes.add_argument("--data", default="cifar10")
    takes.add_argument("--out", default="rates.png")
    takes.add_argument("--csv", type=Path)
    takes.add_argument("--yardsticks", type=Path, metavar="CSV")
    given = takes.parse_args()
    if given.csv:
        write(given.csv, given.runs)
    of = data.load(config.build(Data, {"name": given.data}))
    known = yardsticks.known(of.train.pictures, of.test.pictures)
    if given.yardsticks:
        write_yardsticks(given.yardsticks, of, known)
    print(f"{of.name}: {len(of.train):,} training and {len(of.test):,} test pictures {of.note}")
    for k in NUMBERS:
        error = known["pca"][min(k, len(known["pca"]) - 1)]
        print(f"PCA, {k:>4} numbers   mse {error:.5f} per value   {4 * VALUES * error:7.1f} per picture in [-1, 1]")
    for bits in BITS:
        error = yardsticks.distortion(np.array(known["variances"]), bits)
        print(f"Gaussian, {bits:>5} bits   mse {error:.5f} per value in [0, 1]")
    for point in known["files"]:
        if point["format"] == yardsticks.TRANSFORM:
            print(
                f"{point['format']}, step {point['step']}: {point['bits']:.0f} bits   mse {point['mse']:.5f} per value"
            )
    show.rates(known, [point for folder in given.runs for point in points(folder)]).save(given.out)
    print(f"drawn in {given.out}")


if __name__ == "__main__":
    main()
