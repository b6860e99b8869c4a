"""The command coco-caption."""

from coco_caption.config import PACKAGE
from etude.cli import command

main = command(PACKAGE, __name__)
