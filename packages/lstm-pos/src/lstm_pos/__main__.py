"""The command lstm-pos."""

import sys

from etude import cli
from etude.package import Package
from lstm_pos.config import SCORES, Config, Predict

PACKAGE = Package(
    "lstm-pos", Config, next_step="--data nerus --data.documents 10000", scores=SCORES, number=2, options=Predict
)


def main(argv: list[str] | None = None) -> int:
    return cli.main(PACKAGE, argv)


if __name__ == "__main__":
    sys.exit(main())
