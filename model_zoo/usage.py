"""When a package was last used, and whether a running process uses it now.

The last use is the modification time of an empty file: in the folder `.used` beside the package, so that all
who share a models folder see the same; for shipped packages in the XDG state folder, since the installation
is not ours to write, and only where that folder is there already, so that an answer leaves a HOME empty. A
package in use carries a shared lock on its folder, which the kernel drops when the process ends, however it
ends. Nothing here ever keeps a package from being opened: on a read-only disk the last use stays unknown, and
where folders cannot be locked (such as NFS) nothing is seen to be in use.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import weakref
from collections.abc import Callable
from pathlib import Path

from model_zoo import store

__all__ = ["Lease", "last_used", "lease", "mark_used"]

_TRIES = 20
_WAIT_S = 0.005
"""A lock that is in the way is that of a process which looks whether the package may go: it is brief."""


class Lease:
    """A sign that a package is in use, until `close` or the end of the process."""

    def __init__(self, descriptor: int) -> None:
        self.close = weakref.finalize(self, os.close, descriptor)
        """Give the package free; a second call does nothing."""


def lease(folder: Path) -> Lease | None:
    """Hold a package's folder as in use; `None` where that cannot be done, or when it is being removed."""
    for _ in range(_TRIES):
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return None  # gone meanwhile or not ours to read: whoever reads the package next says so
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), folder.stat()):
                return Lease(descriptor)
        except (BlockingIOError, FileNotFoundError):
            time.sleep(_WAIT_S)
        except OSError:
            os.close(descriptor)
            return None  # this file system cannot lock folders
        os.close(descriptor)  # another one has that name now, or somebody looks whether this one may go
    return None


def mark_used(folder: Path, clock: Callable[[], float] = time.time) -> None:
    """Remember that a package is used now; `clock` gives seconds since the epoch."""
    marker, now = _marker(folder), clock()
    if marker is None:
        return
    if folder.parent == store.shipped_dir() and not marker.parent.parent.is_dir():
        return
    with contextlib.suppress(OSError):  # read-only or full: the last use stays unknown, and the model runs
        marker.parent.mkdir(parents=marker.parent.name != store.USED, exist_ok=True)
        marker.touch()
        os.utime(marker, (now, now))


def last_used(folder: Path) -> float | None:
    """When a package was last opened to be used, seconds since the epoch; `None` when that is not known."""
    marker = _marker(folder)
    try:
        return None if marker is None else marker.stat().st_mtime
    except OSError:
        return None


def _marker(folder: Path) -> Path | None:
    """Where the last use of a package is noted; `None` for a package outside of our own folders."""
    if folder.parent in (store.models_dir(), store.cache_dir()):
        return folder.parent / store.USED / folder.name
    if folder.parent == store.shipped_dir():
        import platformdirs

        state = Path(platformdirs.user_state_path("edge-runtime", appauthor=False))
        return state / "used-shipped" / folder.name
    return None
