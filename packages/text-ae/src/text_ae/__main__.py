"""The command text-ae."""

import sys

from etude import cli
from etude.package import Package
from text_ae.config import SCORES, Config

PACKAGE = Package("text-ae", Config, next_step="--data twitter", scores=SCORES, number=3, embeds=True)


def main(argv: list[str] | None = None) -> int:
    return cli.main(PACKAGE, argv)


if __name__ == "__main__":
    sys.exit(main())
