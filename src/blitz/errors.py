"""Exceptions whose message is written for the user."""


def reason(error: BaseException) -> str:
    """Return the message of an exception in one line, without the C++ stack that torch appends to some."""
    text = str(error).partition("Exception raised from ")[0]
    return " ".join(text.split()) or type(error).__name__


class UserError(ValueError):
    """A mistake that the user can correct; the message is one line with the bad value and the valid choices.

    The command line prints the message alone. Every other exception is reported with its type and location. Raise it
    from code of your own to get the same treatment.
    """


class RunExistsError(UserError):
    """The directory of a new run already holds a run. Runs are never overwritten."""


class DivergenceError(UserError, FloatingPointError):
    """A loss that is not finite; the message holds the step and the learning rate."""


class RankError(UserError):
    """A rank of a run failed; the message is the rank's own, and the cause holds its traceback."""


class PrunedError(Exception):
    """A run of a study was stopped because its metrics are worse than those of other runs at the same epoch."""
