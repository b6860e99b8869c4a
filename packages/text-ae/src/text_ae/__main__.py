"""The command text-ae."""

from etude.cli import command
from text_ae.config import PACKAGE

main = command(PACKAGE, __name__)
