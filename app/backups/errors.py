"""What can be wrong with a backup."""


class BackupError(Exception):
    """The message says what is wrong and what to do; the command prints it."""
