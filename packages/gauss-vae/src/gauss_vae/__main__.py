"""The command gauss-vae."""

from etude.cli import command
from gauss_vae.config import PACKAGE

main = command(PACKAGE, __name__)
