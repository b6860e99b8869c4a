from etude.cli import command
from toy.config import PACKAGE

main = command(PACKAGE, __name__)
