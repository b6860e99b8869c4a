"""The one exception that is meant for the person at the keyboard."""


class UserError(Exception):
    """A mistake the user can mend. Its message is one line: what is wrong, where, and the remedy.

    `etude.cli` prints it without a traceback and exits with code 2; anything else is a bug and keeps its traceback.
    """


def not_installed(what: str, *names: str) -> UserError:
    """Of what needs distributions that come with an extra: etude's own are on no index, so these are asked for."""
    remedy = f"uv sync --all-packages, or pip install {' '.join(names)}"
    return UserError(f"{what} needs {', '.join(names)}, which is not installed: {remedy}")
