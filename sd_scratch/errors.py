"""The one error that a user is meant to read."""


class ScratchError(Exception):
    """One line: what went wrong, where, the likely cause, and what to do.

    `exit_code` is what the command line ends with: 1 when a run failed, 2 for bad usage.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code
