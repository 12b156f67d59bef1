"""User-facing exception."""


class UserError(Exception):
    """What the user gave cannot be used; the message is one line that says what to do.

    Commands (`ddjax.cli`) print the message without a traceback and exit with code 1.
    """
