"""The errors that a user is meant to read."""


class ScratchError(Exception):
    """One line: what went wrong, where, the likely cause, and what to do."""


class UsageError(ScratchError):
    """What was asked for cannot be done, whatever the files and the machine: a value out of range, a name
    that is not known, two wishes that exclude each other. The caller can put it right."""


class MemoryShortage(ScratchError):
    """What was asked for needs more memory than there is: found out before it is tried."""


class NotFinite(ScratchError):
    """Numbers of a run became NaN or infinite. `lever` is what to change: "dtype", "guidance" or nothing."""

    def __init__(self, message: str, lever: str = "") -> None:
        super().__init__(message)
        self.lever = lever
