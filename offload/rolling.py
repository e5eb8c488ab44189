"""Ledgers that no window exceeds: amounts over windows of time, a share over windows of queries.

Knows: amounts and times, in seconds of a clock that outlives the process (Unix time); one that is set back
counts as standing still. Does not know: what is bought, or when it is worth it (`offload.budget`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from offload.errors import PolicyError

__all__ = ["RollingAmount", "RollingShare"]

BUCKETS = 256
"""Entries that a ledger holds: spendings of the same 1/256 of a window share one."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """Spendings of one bucket of time: they leave the window with the latest of them, so never too early."""

    bucket: int
    latest: float
    amount: float


class RollingAmount:
    """At most `limit` within any `window_s` seconds: exact for every half-open window (t − window, t]."""

    def __init__(self, limit: float, window_s: float) -> None:
        if not 0 <= limit < math.inf or not 0 < window_s < math.inf:
            raise PolicyError(
                f"a budget of {limit!r} per {window_s!r} s: both are finite, the window above 0"
            )
        self.limit, self.window_s = limit, window_s
        self._entries: deque[_Entry] = deque()
        self._now = -math.inf

    def spent(self, now: float) -> float:
        """What was spent within the window that ends now."""
        self._now = now = max(now, self._now)
        while self._entries and self._entries[0].latest <= now - self.window_s:
            self._entries.popleft()
        return math.fsum(entry.amount for entry in self._entries)

    def left(self, now: float) -> float:
        """What may still be spent now."""
        return max(0.0, self.limit - self.spent(now))

    def fits(self, now: float, amount: float) -> bool:
        """Whether an amount may be spent now.

        The window's sum is compared, not what is left of it: no rounding lets an excess through.
        """
        spent = self.spent(now)
        return not amount or math.fsum([spent, amount]) <= self.limit

    def spend(self, now: float, amount: float) -> bool:
        """Spend, if it fits; says whether it did.

        Raises:
            PolicyError: the amount is not a number from 0 on.
        """
        if not 0 <= amount < math.inf:
            raise PolicyError(f"an amount of {amount!r} cannot be spent: it is a finite number from 0 on")
        if not self.fits(now, amount):
            return False
        if amount:
            bucket = self._bucket(self._now)
            if self._entries and self._entries[-1].bucket == bucket:
                amount = math.fsum([self._entries.pop().amount, amount])
            self._entries.append(_Entry(bucket, self._now, amount))
        return True

    def settle(self, at: float, reserved: float, actual: float) -> None:
        """What was spent as `reserved` at the time `at` turned out to be `actual`.

        Less is given back; more is counted, although it may exceed the limit: it is spent. A caller who
        reserves the most that a query can take never exceeds it.
        """
        for i, entry in enumerate(self._entries):
            if entry.bucket == self._bucket(at):
                amount = max(0.0, math.fsum([entry.amount, actual, -reserved]))
                self._entries[i] = _Entry(entry.bucket, entry.latest, amount)
                return

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data: what a restart must not forget."""
        entries = [[entry.latest, entry.amount] for entry in self._entries]
        return {"now": None if math.isinf(self._now) else self._now, "entries": entries}

    def restore(self, data: Mapping[str, Any]) -> None:
        """Take up what `to_dict` wrote; a damaged record is refused, since forgetting would overspend.

        Raises:
            PolicyError: the record is damaged.
        """
        try:
            entries = [(float(at), float(amount)) for at, amount in data["entries"]]
            now = -math.inf if data["now"] is None else float(data["now"])
        except (KeyError, TypeError, ValueError) as error:
            raise PolicyError(f"the record of a budget's spendings is damaged: {error!r}") from error
        times = [at for at, _ in entries]
        sensible = all(math.isfinite(at) and 0 <= amount < math.inf for at, amount in entries)
        if not sensible or times != sorted(times) or math.isnan(now):
            raise PolicyError("the record of a budget's spendings is damaged: times or amounts make no sense")
        self._entries = deque(_Entry(self._bucket(at), at, amount) for at, amount in entries)
        self._now = max([now, *times])

    def _bucket(self, at: float) -> int:
        return math.floor(at / self.window_s * BUCKETS)


class RollingShare:
    """At most ⌊share · window⌋ escalations among any `window` queries in a row."""

    def __init__(self, share: float, window: int) -> None:
        if not 0 <= share <= 1 or window < 1:
            raise PolicyError(
                f"a share of {share!r} of any {window!r} queries: it is from 0 to 1, of 1 query or more"
            )
        self.limit = math.floor(share * window + 1e-9)
        if share > 0 and self.limit == 0:
            raise PolicyError(
                f"escalated_share {share:g} of {window} queries is less than one query: nothing could ever "
                f"be escalated. Widen the window to {math.ceil(1 / share - 1e-9)} queries or more"
            )
        self.share, self.window = share, window
        self._last: deque[bool] = deque(maxlen=max(1, window - 1))
        self._count = 0

    def left(self) -> int:
        """Escalations that the window which ends with the next query still has room for."""
        return self.limit - (self._count if self.window > 1 else 0)

    @property
    def seen(self) -> int:
        """Queries of the window that are known, the next one left out."""
        return len(self._last)

    def record(self, escalated: bool) -> None:
        """Count one query. An escalation that does not fit is refused.

        Raises:
            PolicyError: it does not fit; `left` said so.
        """
        if escalated and self.left() < 1:
            raise PolicyError(
                f"{self.limit} of the last {self.window} queries were escalated: no more may be"
            )
        if len(self._last) == self._last.maxlen:
            self._count -= self._last[0]
        self._last.append(escalated)
        self._count += escalated

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {"last": [int(x) for x in self._last]}

    def restore(self, data: Mapping[str, Any]) -> None:
        """Take up what `to_dict` wrote.

        Raises:
            PolicyError: the record is damaged.
        """
        last = data.get("last")
        if not isinstance(last, list) or any(x not in (0, 1) for x in last):
            raise PolicyError("the record of a budget's escalations is damaged")
        self._last.clear()
        self._last.extend(bool(x) for x in last[-(self._last.maxlen or 1) :])
        self._count = sum(self._last)
