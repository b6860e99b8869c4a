"""The command cnn-emnist."""

import sys

from cnn_emnist.config import SCORES, Config
from etude import cli
from etude.package import Package

PACKAGE = Package(
    "cnn-emnist",
    Config,
    next_step="--data emnist-letters",
    scores=SCORES,
    number=1,
    small="--fit.epochs 2 --model.layers 3 --model.channels 16",
)


def main(argv: list[str] | None = None) -> int:
    return cli.main(PACKAGE, argv)


if __name__ == "__main__":
    sys.exit(main())
