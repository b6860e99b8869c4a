"""What a verb takes, declared once: argparse reads the words and writes the help."""

import argparse
from typing import NoReturn

from etude.errors import UserError


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line for the user, and which takes no abbreviated flags."""

    def __init__(self, prog: str, description: str = "", epilog: str = "", add_help: bool = True) -> None:
        raw = argparse.RawDescriptionHelpFormatter
        super().__init__(
            prog, description=description, epilog=epilog, formatter_class=raw, add_help=add_help, allow_abbrev=False
        )
        self.color = False  # which Python 3.14 would put into our one line

    def also(self, more: str) -> None:
        """Ends the usage with what is read elsewhere, such as the flags of `train`."""
        self.usage = f"{self.format_usage().removeprefix('usage: ').rstrip()} {more}"

    def error(self, message: str) -> NoReturn:
        """Raises UserError."""
        raise UserError(f"{message}; {' '.join(self.format_usage().split())}")
