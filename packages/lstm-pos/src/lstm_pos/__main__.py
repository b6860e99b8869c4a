"""The command lstm-pos."""

from etude.cli import command
from lstm_pos.config import PACKAGE

main = command(PACKAGE, __name__)
