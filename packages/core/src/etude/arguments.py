"""What a verb takes, declared once: argparse reads the words and writes the help."""

import argparse
from typing import NoReturn

from etude.errors import UserError


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line for the user, and which takes no abbreviated flags."""

    def __init__(self, prog: str, description: str = "", epilog: str = "") -> None:
        plain = argparse.RawDescriptionHelpFormatter
        super().__init__(prog, description=description, epilog=epilog, formatter_class=plain, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raises UserError."""
        raise UserError(f"{message}; {' '.join(self.format_usage().split())}")
