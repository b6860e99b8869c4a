"""Everything that is claimed of a GPU, measured and checked on one. Meant for ten minutes; no GPU has run it yet.

    python benchmarks/gpu.py [--out FOLDER] # on a machine with a GPU
    python benchmarks/gpu.py --device cpu --short # the same script, tried where there is none

All of it is on samples, which need no download. Checked: that a run in a process group of one (nccl; gloo on a CPU),
and runs that are trained together, are the runs alone. Measured: a training in each precision, compiled and not, with
what it held of memory; and what the other scripts here measure of a device. FOLDER/gpu.csv has the runs,
FOLDER/gpu.txt all that was said. Ends with 1 if anything failed, or was not equal; what follows is done all the same.
"""

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rows import Row, put

HERE = Path(__file__).parent
NEAR = 2e-3  # relative: sums on a GPU are added up in an order of their own
LIMIT = 150  # seconds for each command
STUDY = """
question: Is a run trained with others the run alone?
compare: {fit.lr: [1e-3, 3e-3]}
fixed: {fit.epochs: 1, fit.precision: fp32}
seeds: 4
metric: elbo
"""


class Failed(Exception):
    """A part that went wrong, and how."""


class Gpu:
    """The parts, what they are done with, and what they have said."""

    def __init__(self, device: str, short: bool, out: Path) -> None:
        self.device, self.short, self.out, self.said = device, short, out, ""

    def say(self, text: str) -> None:
        print(text, flush=True)
        self.said += f"{text}\n"

    def run(self, *words: str, module: str = "") -> str:
        """What a command printed. Raises Failed with its last line if it failed, or took too long."""
        command = [sys.executable, *(["-m", module] if module else []), *words]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, cwd=self.out, check=False)
        except subprocess.TimeoutExpired:
            raise Failed(f"{' '.join(words)}: took more than {LIMIT} s") from None
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
            raise Failed(f"{' '.join(words)}: {last}")
        return done.stdout

    def trained(self, name: str, module: str, *flags: str, group: bool = False) -> dict[str, float]:
        """The scores, seconds and megabytes of a run of a package."""
        words = ["train", f"--fit.device={self.device}", f"--run={self.out / name}", *flags]
        launcher = ["--standalone", "--nproc-per-node=1", "-m", "--", module] if group else []
        self.run(*launcher, *words, module="torch.distributed.run" if group else module)
        result = json.loads((self.out / name / "result.json").read_text("utf-8"))
        return result["valid"] | {key: float(result[key]) for key in ("seconds", "memory_mb")}

    # -- the parts

    def precisions(self) -> None:
        """A convolutional and a recurrent network in each precision, and compiled."""
        epochs = f"--fit.epochs={1 if self.short else 4}"
        kinds = ["fp32"] if self.short else ["fp32", "bf16", "fp16"]
        found: list[Row] = []
        for module, metric in (("cnn_emnist", "accuracy"), ("imdb_rnn", "accuracy")):
            ways = [(kind, [f"--fit.precision={kind}"]) for kind in kinds]
            ways += [] if self.short else [("bf16 compiled", ["--fit.precision=bf16", "--fit.compile"])]
            for way, flags in ways:
                name = f"{module} {way}"
                try:
                    scores = self.trained(name.replace(" ", "-"), module, epochs, *flags)
                except Failed as error:
                    self.say(f"FAILED   {error}")
                    found.append({"run": name, "problem": str(error)})
                    continue
                told = f"{metric} {scores[metric]:.4f}, {scores['seconds']:.1f} s, {scores['memory_mb']:,.0f} MB"
                self.say(f"{name}: {told}")
                found.append({"run": name, **{key: repr(value) for key, value in scores.items()}})
        put(self.out / "gpu.csv", found, "run")
        if any("problem" in row for row in found):
            raise Failed("see above")

    def group_of_one(self) -> None:
        flags = ["--fit.epochs=1", "--fit.precision=fp32"]
        alone = self.trained("alone", "cnn_emnist", *flags)
        grouped = self.trained("grouped", "cnn_emnist", *flags, group=True)
        self.equal("a process group of one", {"loss": alone["loss"]}, {"loss": grouped["loss"]})

    def together(self) -> None:
        (self.out / "study.yaml").write_text(STUDY, "utf-8")
        scores = {}
        for way in ("auto", "off"):
            flags = ["--together", way, "--out", f"together-{way}", f"--fit.device={self.device}", "--data.train=20000"]
            said = self.run("study", "study.yaml", *flags, module="gauss_vae")
            if way == "auto" and "as one stacked program" not in said + "".join(
                log.read_text("utf-8") for log in (self.out / "together-auto").glob("together-*.log")
            ):
                raise Failed("the runs were not trained together")
            results = sorted((self.out / f"together-{way}").glob("*/seed=*/result.json"))
            scores[way] = {
                "/".join(file.parts[-3:-1]): json.loads(file.read_text("utf-8"))["valid"]["elbo"] for file in results
            }
        self.equal("runs trained together", scores["off"], scores["auto"])

    def equal(self, what: str, one: dict[str, float], other: dict[str, float]) -> None:
        far = {key: (one[key], other.get(key, math.nan)) for key in one}
        apart = max((abs(a - b) / abs(a) for a, b in far.values()), default=math.nan)
        self.say(f"{what}: {len(one)} scores, at most {apart:.1e} apart, relative")
        if not apart <= NEAR or one.keys() != other.keys():
            raise Failed(f"{what}: more than {NEAR:g} apart")

    def script(self, name: str, *flags: str) -> Callable[[], None]:
        return lambda: self.say(self.run(str(HERE / name), *flags).rstrip())

    def parts(self) -> dict[str, Callable[[], None]]:
        device, few = f"--fit.device={self.device}", self.short
        return {
            "precisions, compiled, memory": self.precisions,
            "a process group of one": self.group_of_one,
            "many at once, held against alone": self.together,
            "fit beside the same training by hand": self.script("fit.py", "--data", "sample", device),
            "own recurrent layers beside torch's": self.script(
                "recurrent.py",
                "--device",
                self.device,
                "--rounds",
                "3" if few else "15",
                "--cases",
                "1" if few else "6",
            ),
            "many at once, time": self.script("stacked.py", "4" if few else "64", "lstm"),
            "cifar-vae beside a tutorial's loop": self.script("cifar.py", device),
        }


def main() -> int:
    takes = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    takes.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    takes.add_argument("--short", action="store_true", help="one case of each, to try the script")
    takes.add_argument("--out", type=Path, default=Path("runs/gpu"))
    given = takes.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        takes.error("there is no GPU here: --device cpu --short tries the script without one")
    if given.out.exists():  # a run that is there already is not trained again: its seconds would be those of then
        takes.error(f"{given.out} is there already: give another --out")
    given.out.mkdir(parents=True)
    gpu, failed = Gpu(given.device, given.short, given.out.resolve()), 0
    name = torch.cuda.get_device_name() if given.device == "cuda" else "CPU"
    gpu.say(f"{name}, torch {torch.__version__}")
    for title, part in gpu.parts().items():
        began = time.monotonic()
        gpu.say(f"\n## {title}")
        try:
            part()
        except Failed as error:
            failed += 1
            gpu.say(f"FAILED   {error}")
        gpu.say(f"({time.monotonic() - began:.0f} s)")
    (given.out / "gpu.txt").write_text(gpu.said, "utf-8")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
