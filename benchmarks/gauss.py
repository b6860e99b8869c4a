"""Tables of gauss-vae's README: gaps beside those of simpler models, and errors beside what can be restored.

    python benchmarks/gauss.py # from packages/gauss-vae/results/runs.csv and reconstruction.csv

`python benchmarks/finished.py --command COMMAND RUN ...` adds runs to runs.csv.
"""

from math import floor
from pathlib import Path
from statistics import fmean

from rows import Row, rows

RESULTS = Path(__file__).parents[1] / "packages/gauss-vae/results"
SHOWN = {
    "test_reconstruction": "VAE",
    "test_reconstruction_pca": "PCA",
    "test_reconstruction_linear": "linear there, the best way back",
    "test_reconstruction_cluster": "the cluster, and linear within it",
    "test_gap": "gap of the VAE's log p(x), nats",
}


def restoring(runs: list[Row]) -> list[str]:
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


def gaps(runs: list[Row]) -> list[str]:
    """A line for each command, of the test part: each seed is a mixture of its own."""
    lines = [
        "| command | mean gap | gap by seed | largest error | EM's largest gap | PCA's smallest | one Gaussian's |"
    ]
    lines.append("|---|---:|---|---:|---:|---:|---:|")
    for command in dict.fromkeys(run["command"] for run in runs):
        some = sorted((run for run in runs if run["command"] == command), key=lambda run: int(run["seed"]))
        gap = [float(run["test_gap"]) for run in some]
        em, pca, one = (
            [float(run[f"test_{peer}"]) - float(run["test_entropy"]) for run in some]
            for peer in ("gmm", "ppca", "gaussian")
        )
        seeds = ", ".join(f"{value:.3f}" for value in gap)
        error = max(float(run["test_gap_se"]) for run in some)
        peers = f"{error:.3f} | {max(em):.3f} | {min(pca):.2f} | {min(one):.2f}"
        lines.append(f"| `{command}` | **{fmean(gap):.3f}** | {seeds} | {peers} |")
    return lines


def smallest_pca(runs: list[Row]) -> str:
    """The smallest gap that PCA has to the best likelihood, rounded down, for a text."""
    return f"{floor(100 * min(float(run['test_ppca']) - float(run['test_entropy']) for run in runs)) / 100:.2f}"


if __name__ == "__main__":
    print(*gaps(rows(RESULTS / "runs.csv")), "", *restoring(rows(RESULTS / "reconstruction.csv")), sep="\n")
