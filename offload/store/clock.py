"""The device's own clock: seconds that never jump, across restarts too.

Deadlines and waits are durations. A board without a battery for its clock wakes up in 1970 or in the year of
its image, and jumps when the network tells it the time; nothing may expire or wait for decades by that. So
the store counts seconds of its own. While the device runs they follow `CLOCK_BOOTTIME`, which only counts, in
sleep too. Across a reboot the wall clock says how long the device was off, if it can be believed: when it
went backwards, or either end lies before this software existed, the device counts as off for no time at all:
an answer that comes late beats a query that is thrown away by mistake.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["DeviceClock", "Mark", "Times", "read_times"]

EPOCH = 1_767_225_600.0
"""2026-01-01 in Unix seconds. A wall clock that shows less was never set."""

MAX_OFF_S = 366 * 86_400.0
"""Who seems to have been off for longer counts as off for no time: more likely the clock was wrong."""

_KEEP_EVERY_S = 60.0
_DRIFT_S = 2.0


@dataclass(frozen=True, slots=True)
class Times:
    """One look at the machine's clocks: Unix seconds, seconds since boot, and which boot."""

    wall: float
    boottime: float
    boot_id: str


@dataclass(frozen=True, slots=True)
class Mark:
    """What the store keeps: device seconds at a look at the machine's clocks."""

    device: float
    wall: float
    boottime: float
    boot_id: str

    def to_json(self) -> str:
        """As it stands in the store."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Mark:
        """The inverse of `to_json`."""
        return cls(**json.loads(text))


def read_times() -> Times:
    """The machine's clocks. Without `CLOCK_BOOTTIME` or a boot id (not Linux), the monotonic clock serves."""
    source = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return Times(time.time(), time.clock_gettime(source), _boot_id())


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


class DeviceClock:
    """Device seconds. Begins at `mark`, what the last process kept, or at 0."""

    def __init__(self, times: Callable[[], Times], mark: Mark | None = None) -> None:
        self._times = times
        now = times()
        self._boot = now.boottime
        self._base = 0.0 if mark is None else mark.device + _elapsed(mark, now)
        self._kept: Mark | None = None

    def now(self) -> float:
        """Device seconds; never less than before."""
        return self._base + max(self._times().boottime - self._boot, 0.0)

    def wall(self) -> float:
        """Unix seconds, as the machine has them."""
        return self._times().wall

    def due(self) -> Mark | None:
        """A mark that the store should keep with its next change, or `None`.

        One is due a minute after the last, and when the wall clock was set meanwhile.
        """
        now = self._times()
        mark = Mark(self._base + max(now.boottime - self._boot, 0.0), now.wall, now.boottime, now.boot_id)
        if self._kept is None:
            return mark
        passed = mark.device - self._kept.device
        jumped = abs((mark.wall - self._kept.wall) - passed) > _DRIFT_S
        return mark if jumped or passed >= _KEEP_EVERY_S else None

    def kept(self, mark: Mark) -> None:
        """The store has kept `mark`."""
        self._kept = mark


def _elapsed(mark: Mark, now: Times) -> float:
    """Seconds from `mark` to `now`, as far as they can be known."""
    if mark.boot_id and mark.boot_id == now.boot_id:
        return max(now.boottime - mark.boottime, 0.0)
    off = now.wall - mark.wall
    if mark.wall < EPOCH or now.wall < EPOCH or not 0 <= off <= MAX_OFF_S:
        return 0.0
    return off
