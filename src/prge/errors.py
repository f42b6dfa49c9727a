"""The one exception that carries a sentence for the user."""


class UserError(Exception):
    """One sentence: what was wrong, where, and what to do. The command line prints it and exits with 1."""
