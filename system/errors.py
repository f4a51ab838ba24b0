"""Every error that Nightminer raises on purpose.

    NightminerError
    ├── ConfigError     a value that the user gave is wrong: which, what was expected, what to do
    ├── DataError       a log, picture or table does not hold what its format promises
    │   └── FormatError no reader recognises a path, or the one asked for does not fit
    ├── StoreError      the store cannot be read or written
    │   ├── LeaseError  another writer holds the store
    │   ├── DamagedError a file beside the tables does not hold what it should
    │   └── SchemaError the store was written by another schema or with another model
    ├── ModelError      weights are missing, damaged or of the wrong shape
    │   └── GuardError  an upgrade would move, or has moved, another head's answer
    ├── ReconcileError  scenes found != committed + already there + quarantined
    └── StoppedError    the job was asked to end before it had anything whole to leave

A job turns any of them into one line on stderr and `exit_code`; anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import sys


class NightminerError(Exception):
    """Root of the tree. `exit_code` is what a job returns to its shell."""

    exit_code = 1


class ConfigError(NightminerError):
    """A value given by the user is out of range, unknown or missing."""

    exit_code = 2


class DataError(NightminerError):
    """Input does not hold what its format promises.

    Args:
        code: short stable name of the fault, e.g. `truncated_image`; what quarantine rows are counted by.
        message: what failed, on which file or id, expected, actual.
    """

    exit_code = 3

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def __reduce__(self):
        return (type(self), (self.code, self.message))

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class FormatError(DataError):
    """No reader recognises a path, or the reader asked for does not fit it."""


class StoreError(NightminerError):
    """The store cannot be read or written."""

    exit_code = 4


class LeaseError(StoreError):
    """Another writer holds the store."""


class DamagedError(StoreError):
    """A file beside the store's tables does not hold what it should; others may be whole."""


class ConflictError(StoreError):
    """Another commit, of maintenance for instance, came between reading and committing; reading again may do."""


class SchemaError(StoreError):
    """The store was written by another schema version or with another model."""


class ModelError(NightminerError):
    """Weights are missing, damaged or of the wrong shape."""

    exit_code = 5


class GuardError(ModelError):
    """An upgrade of one head would move, or has moved, another head's answer."""

    exit_code = 7


class ReconcileError(NightminerError):
    """The counts of a run do not add up, or too many scenes were bad."""

    exit_code = 6


class StoppedError(NightminerError):
    """The job was asked to end (SIGTERM) before it had anything whole to leave. 128 and the signal, as shells count."""

    exit_code = 143


# Codes of a `DataError` that say no more than that the storage did not answer just now; the file may be there.
OUTAGE_CODES = ("unreadable_file", "unreachable")
# That of a scene or log for which the storage did not answer on so many days. Days and not runs: a night that fails is
# started again at once, and so twice within one short outage.
LASTING_OUTAGE, OUTAGE_DAYS = "lasting_outage", 3


def storage_errors() -> tuple[type[Exception], ...]:
    """What a file system raises when it cannot be reached or read. botocore's count where it is in use."""
    botocore = sys.modules.get("botocore.exceptions")
    return (OSError, botocore.BotoCoreError, botocore.ClientError) if botocore else (OSError,)


def reason_of(error: Exception) -> str:
    """What a storage error says, and what to look at where an object store hides why it refused."""
    text = " ".join(str(error).split())
    # The answer to a HEAD request has no room for a reason.
    is_refused = isinstance(error, PermissionError) or any(word in text for word in ("Bad Request", "Forbidden"))
    return f"{text} (are the credentials there, still valid, and allowed to?)" if is_refused else text
