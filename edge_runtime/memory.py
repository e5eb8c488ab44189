"""How much memory this process takes, as the system tells it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Memory", "peak_rss_mib", "read_memory"]

_STATUS = Path("/proc/self/status")


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory of this process in MiB (Linux; `None` where the system does not tell).

    `peak` is the highest total so far; `anonymous` and `file` split what is resident now. The kernel can drop
    file-backed pages and read them again.
    """

    peak: float | None
    anonymous: float | None
    file: float | None


def read_memory(status: Path = _STATUS) -> Memory:
    """The `VmHWM`, `RssAnon` and `RssFile` lines of a Linux status file (proc_pid_status(5))."""
    found: dict[str, float] = {}
    try:
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            name, _, rest = line.partition(":")
            if name in ("VmHWM", "RssAnon", "RssFile"):
                found[name] = int(rest.split()[0]) / 1024
    except (OSError, ValueError, IndexError):
        return Memory(None, None, None)
    return Memory(found.get("VmHWM"), found.get("RssAnon"), found.get("RssFile"))


def peak_rss_mib(status: Path = _STATUS) -> float:
    """Peak resident set of this process in MiB; 0 where the system does not tell (Windows)."""
    # Linux' getrusage also counts what the parent held when it forked; the high-water mark does not.
    if (peak := read_memory(status).peak) is not None:
        return peak
    try:
        import resource
    except ImportError:
        return 0.0
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / 2**20 if sys.platform == "darwin" else used / 2**10
