"""The table of gauss-vae's study `reconstruction`: its errors beside what as many numbers can restore.

python benchmarks/restoring.py # from packages/gauss-vae/results/reconstruction.csv
"""

from pathlib import Path
from statistics import fmean

from rows import Row, rows

FILE = Path(__file__).parents[1] / "packages/gauss-vae/results/reconstruction.csv"
SHOWN = {
    "test_reconstruction": "VAE",
    "test_reconstruction_pca": "PCA",
    "test_reconstruction_linear": "linear there, the best way back",
    "test_reconstruction_cluster": "the cluster, and linear within it",
}


def table(runs: list[Row]) -> list[str]:
    """A line for each setting, in the order of the ratio of latent numbers to those of an example."""
    settings = {(int(run["data.dimension"]), int(run["model.latent"])) for run in runs}
    lines = [
        f"| latent / numbers | ratio | {' | '.join(SHOWN.values())} | seeds |",
        "|---|" + "---:|" * (len(SHOWN) + 2),
    ]
    for dimension, latent in sorted(settings, key=lambda one: (one[1] / one[0], one)):
        some = [run for run in runs if (run["data.dimension"], run["model.latent"]) == (str(dimension), str(latent))]
        errors = " | ".join(f"{fmean(float(run[name]) for run in some):.3f}" for name in SHOWN)
        lines.append(f"| {latent} / {dimension} | {latent / dimension:g} | {errors} | {len(some)} |")
    return lines


if __name__ == "__main__":
    print(*table(rows(FILE)), sep="\n")
