"""User error: the exception for what a user can mend, one line for people."""


class UserError(Exception):
    """What the user gave cannot be used; the message is one line that says what to do.

    Commands (`ddjax.cli`) print the message without a traceback and exit with code 1.
    """
