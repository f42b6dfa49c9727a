"""The one exception that carries a sentence for the user."""


class UserError(Exception):
    """What was wrong, where, and what to do; the command line prints it and exits with 1."""
