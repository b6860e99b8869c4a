"""The command gauss-vae."""

import sys

from etude import cli
from etude.package import Package
from gauss_vae.config import SCORES, Config

PACKAGE = Package("gauss-vae", Config, next_step="--data.dimension 8", scores=SCORES, number=4)


def main(argv: list[str] | None = None) -> int:
    return cli.main(PACKAGE, argv)


if __name__ == "__main__":
    sys.exit(main())
