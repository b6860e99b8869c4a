"""The command qa-category."""

from etude.cli import command
from qa_category.config import PACKAGE

main = command(PACKAGE, __name__)
