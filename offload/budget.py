"""Budgets over rolling windows: never exceeded in any window, and spent on the hardest queries.

Two halves:

- the **limit**: a ledger of what was spent (`offload.rolling`). An amount is allowed when it fits beside
  everything spent in the window that ends now; since the fullest window ends at a spending, none ever holds
  more. Windows of time (money, bytes, joules) and of queries ("at most 20 % of any 100 queries in a row").
- the **pacing**: which gain an escalation must promise to be worth spending on now. It is the quantile of the
  recent queries' gains at the share of queries that the budget can pay for, raised as the window fills up:
  what is left then goes to the hardest queries only, so they are not starved late in a window. Until a first
  window is over, the limit is released in proportion to it: how many queries are still to come is not known.

Knows: amounts, times, gains. Does not know: what is bought (`offload.router` decides, the caller reserves).
Times are seconds of a clock that outlives the process (Unix time); one that is set back counts as standing
still.
"""

from __future__ import annotations

import math
import sys
import threading
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from offload.errors import PolicyError
from offload.policy import Remaining, Target, Unit
from offload.rolling import RollingAmount, RollingShare

__all__ = ["Budgets", "Limit", "Pacer", "Reservation", "released"]

RECENT = 256
"""Queries that the pacing looks back on."""

FIRST = 20
"""Queries before which the pacing has nothing to look back on and lets the prior decide."""

FULL = 1.6
"""An unspent window lets this many times the sustainable share through."""

RESERVE = 1.8
"""Pacing tightens when the queries left are fewer than FULL/RESERVE times the root of the limit.

More spends more of the budget, less keeps more for the hardest queries: see the table in `docs/router.md`.
"""

HISTORY = 8
"""Windows that the mean number of queries looks back on; after a silence as long, all begins anew."""

EARLY = 1 / 24
"""Share of the first window that has to be over before the rate of its queries is taken as it is."""


def released(left: float, limit: float, seen: float) -> float:
    """What of a limit the pacing counts on, in queries: all that is left, once a whole window is over.

    Before, what the window's part that is over (`seen`, 0 to 1) stands for, less what is spent already. The
    amount to begin with, √limit / RESERVE, is the one at which `Pacer.least_gain` lets the sustainable share
    through: neither more than later, nor nothing.
    """
    spent = limit - left
    return min(left, limit * min(1.0, seen) + math.sqrt(limit) / RESERVE - spent)


class Pacer:
    """The gain that is worth spending on, from the gains of recent queries.

    Args:
        prior: gains to begin with, such as those of the calibration rows.
    """

    def __init__(self, prior: Sequence[float] = (), recent: int = RECENT) -> None:
        self._recent: deque[float] = deque(maxlen=recent)
        self._sorted: list[float] = []
        for gain in prior:
            self.observe(gain)

    def observe(self, gain: float) -> None:
        """Count a query: what escalating it would have gained (q − p). NaN is not counted."""
        if not math.isfinite(gain):
            return
        if len(self._recent) == self._recent.maxlen:
            del self._sorted[bisect_left(self._sorted, self._recent[0])]
        self._recent.append(gain)
        insort(self._sorted, gain)

    def least_gain(self, share: float, left: float, limit: float) -> float:
        """The gain that about `share` of the recent queries reach, tightened as the window fills up.

        Args:
            share: of the queries that the budget can pay for in the long run; 1 or more: no pacing.
            left, limit: queries that the window still has room for, and that it has room for at all.
        """
        if left <= 0 or limit <= 0:
            return math.inf
        # Queries that deserve the budget come unevenly: about √limit more or fewer in a window.
        let_through = share * min(FULL, RESERVE * left / math.sqrt(limit))
        if let_through >= 1:
            return -math.inf
        if len(self._sorted) < FIRST:
            return 1.0 - let_through  # as if gains were spread evenly from 0 to 1
        n = math.floor(let_through * len(self._sorted) + 1e-9)
        return self._sorted[max(0, len(self._sorted) - max(1, n))]

    def recent(self) -> list[float]:
        """The gains that it looks back on, oldest first."""
        return list(self._recent)

    def __len__(self) -> int:
        return len(self._sorted)


@dataclass(frozen=True, slots=True)
class Limit:
    """One budget of the configuration: `limit` of `unit` per window of seconds.

    For the unit `queries`, `limit` is the escalated share and `window` a number of queries.
    """

    name: str
    unit: Unit
    limit: float
    window: float


@dataclass(frozen=True, slots=True)
class Reservation:
    """What was taken from each budget at the time `at`, or the budget that `refused`."""

    at: float
    amounts: Mapping[str, float]
    refused: str | None


class Budgets:
    """All budgets of a device. Several threads may use it.

    The way of one query: `remaining` → `decide` → `reserve` or `passed`. Another thread may have spent what
    was left meanwhile: `reserve` takes from all budgets or from none and says which one refused, and then the
    decision has to be made again.
    """

    def __init__(self, limits: Sequence[Limit], *, prior_gains: Sequence[float] = ()) -> None:
        self.limits = tuple(limits)
        names = [limit.name for limit in self.limits]
        if len(set(names)) != len(names):
            raise PolicyError(f"two budgets have the same name: {', '.join(names)}")
        self._shares = {x.name: RollingShare(x.limit, int(x.window)) for x in limits if x.unit == "queries"}
        self._amounts = {x.name: RollingAmount(x.limit, x.window) for x in limits if x.unit != "queries"}
        self._pacer = Pacer(prior_gains)
        self._asked = {name: _Asked(amount.window_s) for name, amount in self._amounts.items()}
        self._demand: dict[str, float] = {}
        self._lock = threading.Lock()

    def remaining(self, now: float) -> tuple[Remaining, ...]:
        """What each budget allows now, with its pacing."""
        with self._lock:
            return tuple(self._remaining(limit, now) for limit in self.limits)

    def observe(self, now: float, gain: float, demands: Mapping[Unit, float] | None = None) -> None:
        """Count a query for the pacing, whatever is decided about it.

        Args:
            gain: q − p of escalating it.
            demands: what escalating it would take of each unit.
        """
        with self._lock:
            self._pacer.observe(gain)
            for asked in self._asked.values():
                asked.observe(now)
            for limit in self.limits:
                demand = (demands or {}).get(limit.unit)
                if demand is not None and limit.unit != "queries":
                    old = self._demand.get(limit.name, demand)
                    self._demand[limit.name] = old + 0.05 * (demand - old)

    def passed(self) -> None:
        """Count a query that is not escalated."""
        with self._lock:
            for share in self._shares.values():
                share.record(False)

    def reserve(self, now: float, target: Target) -> Reservation:
        """Count a query that is escalated, and take what it takes from all budgets, or from none."""
        with self._lock:
            cloud = target.place == "cloud"
            needs = {
                limit.name: _needs(limit.unit, target)
                for limit in self.limits
                if limit.unit != "queries" and (cloud or limit.unit == "joules")
            }
            full = [name for name, share in self._shares.items() if cloud and share.left() < 1]
            full += [name for name, need in needs.items() if not self._amounts[name].fits(now, need)]
            if full:
                return Reservation(now, {}, full[0])
            for name, need in needs.items():
                self._amounts[name].spend(now, need)
            for share in self._shares.values():
                share.record(cloud)
            return Reservation(now, needs, None)

    def settle(self, reservation: Reservation, actual: Mapping[Unit, float]) -> None:
        """Correct a reservation by what was really taken of each unit; units that are not given stay."""
        with self._lock:
            for limit in self.limits:
                if limit.name in reservation.amounts and limit.unit in actual:
                    ledger, reserved = self._amounts[limit.name], reservation.amounts[limit.name]
                    ledger.settle(reservation.at, reserved, actual[limit.unit])

    def check(self, targets: Sequence[Target]) -> None:
        """Refuse budgets that no target fits into.

        Raises:
            PolicyError: names the budget and the cheapest target.
        """
        for limit in self.limits:
            if limit.unit == "queries" or not targets:
                continue
            cheapest = min(targets, key=lambda t: _needs(limit.unit, t))
            need = _needs(limit.unit, cheapest)
            if need > limit.limit:
                raise PolicyError(
                    f"budget '{limit.name}' of {limit.limit:g} is less than the {need:g} that one query to "
                    f"'{cheapest.name}', the cheapest endpoint, can take: raise it, or lower max_tokens"
                )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data: what a restart must not forget."""
        with self._lock:
            return {
                "shares": {name: share.to_dict() for name, share in self._shares.items()},
                "amounts": {name: amount.to_dict() for name, amount in self._amounts.items()},
                "asked": {name: asked.to_dict() for name, asked in self._asked.items()},
                "demand": dict(self._demand),
                "gains": self._pacer.recent(),
            }

    def restore(self, data: Mapping[str, Any]) -> None:
        """Take up what `to_dict` wrote; budgets that it does not have begin anew.

        Raises:
            PolicyError: a record is damaged.
        """
        with self._lock:
            parts: dict[str, Mapping[str, RollingShare | RollingAmount | _Asked]] = {
                "shares": {**self._shares},
                "amounts": {**self._amounts},
                "asked": {**self._asked},
            }
            for name in (*parts, "demand"):
                if not isinstance(data.get(name, {}), Mapping):
                    raise PolicyError(f"the record of the budgets is damaged: '{name}' is no object")
            for name, part in parts.items():
                for key, budget in part.items():
                    if key in data.get(name, {}):
                        budget.restore(data[name][key])
            try:
                gains = [float(gain) for gain in data.get("gains", [])]
                demand = {name: float(x) for name, x in data.get("demand", {}).items()}
            except (TypeError, ValueError) as error:
                raise PolicyError(f"the record of the budgets is damaged: {error}") from error
            if not all(0 <= x < math.inf for x in demand.values()):
                raise PolicyError("the record of the budgets is damaged: a demand makes no sense")
            self._demand = {name: x for name, x in demand.items() if name in self._amounts}
            for gain in gains:
                self._pacer.observe(gain)

    def _remaining(self, limit: Limit, now: float) -> Remaining:
        if limit.unit == "queries":
            counted = self._shares[limit.name]
            count, most = float(counted.left()), float(counted.limit)
            if counted.limit >= counted.window:  # every query may be escalated
                return Remaining(limit.name, "queries", count, most)
            room = released(count, most, (counted.seen + 1) / counted.window)
            return Remaining(
                limit.name, "queries", count, most, self._pacer.least_gain(counted.share, room, most)
            )
        left, demand = self._amounts[limit.name].left(now), self._demand.get(limit.name, 0.0)
        if demand <= 0:  # nothing is known of what escalating takes
            return Remaining(limit.name, limit.unit, left, limit.limit)
        asked, pays_for = self._asked[limit.name], limit.limit / demand
        room = released(left / demand, pays_for, asked.seen(now))
        least = self._pacer.least_gain(pays_for / asked.per_window(now), room, pays_for)
        return Remaining(limit.name, limit.unit, left, limit.limit, least)


class _Asked:
    """How many queries come in a window of time, whatever is decided about them."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._last = RollingAmount(sys.float_info.max, window_s)
        self._all = RollingAmount(sys.float_info.max, HISTORY * window_s)
        self._begun = math.inf

    def observe(self, now: float) -> None:
        """Count a query."""
        silent = self._all.spent(now) == 0
        self._begun = now if silent else min(self._begun, now)
        self._last.spend(now, 1.0)
        self._all.spend(now, 1.0)

    def seen(self, now: float) -> float:
        """The time that was looked at, in windows."""
        return max(0.0, now - self._begun) / self._window_s

    def per_window(self, now: float) -> float:
        """Queries expected in a window: those of the last one, or the mean of all seen where that is more.

        The last window alone would take a pause for the end of all queries. In the first one the mean is the
        rate so far, with at least `EARLY` of a window for it.
        """
        mean = self._all.spent(now) / min(max(self.seen(now), EARLY), HISTORY)
        return max(self._last.spent(now), mean, 1.0)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        begun = None if math.isinf(self._begun) else self._begun
        return {"begun": begun, "last": self._last.to_dict(), "all": self._all.to_dict()}

    def restore(self, data: Mapping[str, Any]) -> None:
        """Take up what `to_dict` wrote.

        Raises:
            PolicyError: the record is damaged.
        """
        try:
            begun = math.inf if data["begun"] is None else float(data["begun"])
            self._last.restore(data["last"])
            self._all.restore(data["all"])
        except (KeyError, TypeError, ValueError) as error:
            raise PolicyError(f"the record of a budget's queries is damaged: {error!r}") from error
        if math.isnan(begun):
            raise PolicyError("the record of a budget's queries is damaged: 'begun' is no time")
        self._begun = begun


def _needs(unit: Unit, target: Target) -> float:
    return {"queries": 1.0, "cost": target.cost, "bytes": target.sent_bytes, "joules": target.energy_j}[unit]
