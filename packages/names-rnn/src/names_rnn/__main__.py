"""The command names-rnn."""

from etude.cli import command
from names_rnn.config import PACKAGE

main = command(PACKAGE, __name__)
