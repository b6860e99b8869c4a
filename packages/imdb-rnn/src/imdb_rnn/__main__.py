"""The command imdb-rnn."""

from etude.cli import command
from imdb_rnn.config import PACKAGE

main = command(PACKAGE, __name__)
