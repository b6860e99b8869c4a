"""The command imdb-rnn."""

import sys

from etude import cli
from etude.package import Package
from imdb_rnn.config import SCORES, Config

PACKAGE = Package("imdb-rnn", Config, next_step="--data aclimdb", scores=SCORES, number=6)


def main(argv: list[str] | None = None) -> int:
    return cli.main(PACKAGE, argv)


if __name__ == "__main__":
    sys.exit(main())
