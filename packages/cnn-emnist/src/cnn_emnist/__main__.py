"""The command cnn-emnist."""

from cnn_emnist.config import PACKAGE
from etude.cli import command

main = command(PACKAGE, __name__)
