"""The one exception that is meant for the person at the keyboard."""


class UserError(Exception):
    """A mistake the user can mend. Its message is one line: what is wrong, where, and the remedy.

    `etude.cli` prints it without a traceback and exits with code 2; anything else is a bug and keeps its traceback.
    """
