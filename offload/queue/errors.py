"""Errors of the queue; those of the disk under it are in `offload.store.errors`.

OffloadError
└── QueueError
    ├── QueueFullError       a bound is reached and the policy lets nothing go
    ├── JobNotFoundError     there is no job with this id
    ├── JobStateError        the job is not in a state in which that can be done
    ├── IdempotencyError     the key was used for another query
    └── QueueSettingsError   a bound, wait or retention that cannot be; names it
"""

from offload.errors import OffloadError

__all__ = [
    "IdempotencyError",
    "JobNotFoundError",
    "JobStateError",
    "QueueError",
    "QueueFullError",
    "QueueSettingsError",
]


class QueueError(OffloadError):
    """Base of what the queue refuses."""


class QueueFullError(QueueError):
    """A bound is reached and the policy lets nothing go; names the bound. Nothing was queued."""


class JobNotFoundError(QueueError):
    """There is no job with this id."""


class JobStateError(QueueError):
    """The job is not in a state in which that can be done; names the state."""


class IdempotencyError(QueueError):
    """The idempotency key was used for another query."""


class QueueSettingsError(QueueError):
    """A bound, wait or retention that cannot be; names it and its value."""
