"""The command cifar-vae."""

from cifar_vae.config import PACKAGE
from etude.cli import command

main = command(PACKAGE, __name__)
