"""How a command ends when it cannot do what was asked."""


class UsageError(Exception):
    """A setting is wrong: one message for the user, exit code 2."""


class Failed(Exception):
    """A run broke: one message for the user, exit code 1; the traceback is in the log file."""
