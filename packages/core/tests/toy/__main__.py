import sys

from etude import cli
from etude.package import Package
from toy.config import SCORES, Config

PACKAGE = Package("toy", Config, next_step="--no-norm", scores=SCORES)


def main(argv: list[str] | None = None) -> int:
    return cli.main(PACKAGE, argv)


if __name__ == "__main__":
    sys.exit(main())
