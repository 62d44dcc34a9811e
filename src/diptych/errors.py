"""Errors that a user can act on.

Commands print the message of a `DiptychError` on one line and leave with its `exit_status`; anything else
is a defect of Diptych and keeps its traceback. A message names path, value, expectation and fix.
"""


class DiptychError(Exception):
    """A failure that the user can act on (exit status 1)."""

    exit_status = 1


class UsageError(DiptychError):
    """Wrong arguments or configuration; nothing was started (exit status 2)."""

    exit_status = 2


class ConfigError(UsageError):
    """A wrong key, type or value in a recipe or on the command line."""


class DataError(DiptychError):
    """A dataset, shard or sample that cannot be read or does not hold what it promises."""


class RemoteError(DataError):
    """A file of a remote dataset that cannot be fetched; no fault of a sample, so it ends a run."""


class CheckpointError(DiptychError):
    """A checkpoint or export that is missing, incomplete or does not fit the model."""


class RunError(DiptychError):
    """A training or evaluation run that cannot start or go on."""
