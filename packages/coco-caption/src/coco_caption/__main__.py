"""The command coco-caption."""

import sys

from coco_caption.config import SCORES, Config, Telling
from etude import cli
from etude.package import Package

PACKAGE = Package(
    "coco-caption",
    Config,
    next_step="--data coco",
    scores=SCORES,
    number=5,
    options=Telling,
    results=True,
    without=True,
)


def main(argv: list[str] | None = None) -> int:
    return cli.main(PACKAGE, argv)


if __name__ == "__main__":
    sys.exit(main())
