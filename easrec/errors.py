"""Errors that callers catch apart from the others."""


class InputError(ValueError):
    """Something the user can put right: a file, a column, an option.

    The message is one sentence that names the value, the place and the remedy. Command-line programs
    print it and exit with status 2; they let every other exception pass as the bug that it is.
    """


class DiskFullError(OSError):
    """A file could not be written for want of room; nothing of it is left, and an older one is as it was."""
