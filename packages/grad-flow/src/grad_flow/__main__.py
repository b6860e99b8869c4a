"""The command grad-flow."""

from etude.cli import command
from grad_flow.config import PACKAGE

main = command(PACKAGE, __name__)
