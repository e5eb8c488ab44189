"""What a job is, and the settings of a queue: plain data."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from offload.queue.errors import QueueSettingsError
from offload.types import Query

__all__ = ["FINISHED", "Backoff", "Job", "JobState", "Lease", "Limits", "Receipt", "Retention", "WhenFull"]

JobState = Literal["ready", "leased", "sent", "done", "dead", "expired", "cancelled"]
"""`leased` lives in the owner's memory alone: on the disk such a job is `ready`."""

FINISHED: tuple[JobState, ...] = ("done", "dead", "expired", "cancelled")

WhenFull = Literal["refuse", "drop-lowest", "drop-oldest"]


@dataclass(frozen=True, slots=True)
class Job:
    """What is known about a job without opening its contents.

    `created_at` is Unix seconds; `ready_in_s` and `expires_in_s` are seconds from now on the device's clock;
    `size` is bytes of sealed content.
    """

    id: str
    state: JobState
    priority: int
    attempts: int
    created_at: float
    idempotency_key: str
    conversation_id: str | None
    user: str | None
    labels: tuple[str, ...]
    reason: str | None
    ready_in_s: float
    expires_in_s: float | None
    taken: bool
    size: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """What `put` gives: the job's id, and whether the same query was there already under its key."""

    id: str
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to send one job, until `until` (device seconds) or a restart."""

    seq: int
    id: str
    idempotency_key: str
    query: Query
    attempts: int
    """How often it was sent before."""
    until: float
    token: int


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a queue.

    `max_rows` bounds the jobs that wait or are under way, `max_bytes` all sealed contents, answers that
    nobody has fetched yet too. When a job does not fit, answers that were fetched go first, then `when_full`
    says what is done: refuse the newcomer; drop jobs of a lower priority than the newcomer's, the newest of
    the lowest first; or drop the oldest, whatever its priority. A job that is leased or sent is never
    dropped, and a dropped one stays in the list as dead, with the reason.
    """

    max_rows: int = 1000
    max_bytes: int = 64 * 1024 * 1024
    when_full: WhenFull = "refuse"
    max_attempts: int = 8
    lease_s: float = 600.0

    def __post_init__(self) -> None:
        for name in ("max_rows", "max_bytes", "max_attempts"):
            if getattr(self, name) < 1:
                raise QueueSettingsError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if not (math.isfinite(self.lease_s) and self.lease_s > 0):
            raise QueueSettingsError(f"lease_s is {self.lease_s}: it must be a number of seconds above 0")
        if self.when_full not in ("refuse", "drop-lowest", "drop-oldest"):
            raise QueueSettingsError(
                f"when_full is '{self.when_full}': choose refuse, drop-lowest or drop-oldest"
            )


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits between attempts: full jitter, uniform from 0 to `base_s`·2^(attempts−1), at most `cap_s`.

    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """

    base_s: float = 10.0
    cap_s: float = 3600.0

    def __post_init__(self) -> None:
        if not 0 < self.base_s <= self.cap_s < math.inf:
            raise QueueSettingsError(
                f"base_s is {self.base_s} and cap_s {self.cap_s}: 0 < base_s <= cap_s must hold"
            )

    def wait_s(self, attempts: int, source: random.Random) -> float:
        """Seconds to wait after the `attempts`-th attempt (from 1 on) failed."""
        exponent = min(max(attempts, 1) - 1, 62)  # beyond that the cap holds anyway
        return source.uniform(0.0, min(self.base_s * 2.0**exponent, self.cap_s))


@dataclass(frozen=True, slots=True)
class Retention:
    """How long contents stay on the disk, in seconds.

    `finished_s` counts from the end of a job. `by_label` counts from the moment it was queued, whatever its
    state: a job that still waits then expires. Of several labels the shortest time holds.
    """

    finished_s: float = 7 * 86_400.0
    by_label: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in (("finished_s", self.finished_s), *self.by_label.items()):
            if math.isnan(value) or value < 0:
                raise QueueSettingsError(f"the retention '{name}' is {value}: it must be seconds from 0 on")

    def of(self, labels: Sequence[str]) -> float | None:
        """The time that labels set, or `None`."""
        return min((self.by_label[label] for label in labels if label in self.by_label), default=None)
