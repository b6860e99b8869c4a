"""Whether a study of 1,000 runs stays usable: how long planning, judging, reporting and TensorBoard's reading take.

    uv run --all-packages python benchmarks/scale.py [--seeds 100]

Ten learning rates of names-rnn on its sample, one epoch each, as many seeds as asked, all of them really trained and
evaluated, which takes an hour of a core. Then `study` runs once more and finds that all is done (it plans, judges and
writes its tables), `report` makes its page, and TensorBoard's own reader loads every event file there is.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

STUDY = """\
question: Which learning rate does one epoch need?
compare: {{fit.lr: [1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1]}}
fixed: {{fit.epochs: 1, model.hidden: 4}}
seeds: {seeds}
metric: accuracy
expect:
  - {{claim: 1e-2 > 1e-4, because: 39 steps are too few at a small rate}}
"""


def seconds(*command: str, within: Path) -> tuple[float, str]:
    """How long a command takes, and what it says; what it fails with ends this."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, *command], cwd=within, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}: {done.stdout[-2000:]}")
    return time.perf_counter() - began, done.stdout


READ = """
import sys
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
many = EventMultiplexer().AddRunsFromDirectory(sys.argv[1])
many.Reload()
print(len(many.Runs()))
"""


def measure(seeds: int) -> dict[str, float]:
    """Seconds of "training", "study", "report" and "tensorboard", of ten times `seeds` runs."""
    with TemporaryDirectory() as name:
        place = Path(name)
        (place / "rate.yaml").write_text(STUDY.format(seeds=seeds), "utf-8")
        study = ["-m", "names_rnn", "study", "rate.yaml", "--out", "out"]
        took = {}
        took["training"], _ = seconds(*study, within=place)
        took["study"], said = seconds(*study, within=place)
        if "not complete" in said:
            sys.exit(f"something is missing:\n{said[-2000:]}")
        took["report"], _ = seconds(*"-m names_rnn report out --only page --out page".split(), within=place)
        took["tensorboard"], told = seconds("-c", READ, "out", within=place)
        size = (place / "page" / "report.html").stat().st_size / 1e6
        again, page, read = took["study"], took["report"], took["tensorboard"]
        whole = f"{took['training']:,.0f} s to train and evaluate"
        print(f"{10 * seeds:,} runs: {whole}; then `study` again {again:.1f} s")
        print(f"report {page:.1f} s, {size:.1f} MB; TensorBoard reads {int(told):,} folders in {read:.1f} s")
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=100)
    measure(parser.parse_args().seeds)


if __name__ == "__main__":
    main()
