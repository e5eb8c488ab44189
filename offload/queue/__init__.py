"""The queue: queries that wait for a network, and their answers, in the store of the device.

Knows: jobs and their states, bounds, order, attempts, waits, retention. Does not know: who is asked, how, or
whether there is a network (the loop that drains it), nor what may leave (residency).
"""

from offload.queue.errors import (
    IdempotencyError,
    JobNotFoundError,
    JobStateError,
    QueueError,
    QueueFullError,
    QueueSettingsError,
)
from offload.queue.jobs import Backoff, Job, JobState, Lease, Limits, Receipt, Retention
from offload.queue.queue import Queue

__all__ = [
    "Backoff",
    "IdempotencyError",
    "Job",
    "JobNotFoundError",
    "JobState",
    "JobStateError",
    "Lease",
    "Limits",
    "Queue",
    "QueueError",
    "QueueFullError",
    "QueueSettingsError",
    "Receipt",
    "Retention",
]
