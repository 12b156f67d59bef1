"""Errors: the one exception that a user is meant to read."""


class UserError(Exception):
    """What the user gave cannot be used; the message is one line that says what to do.

    `ddjax.main` prints the message without a traceback and exits with code 1.
    """
