"""A file that is still arriving: its bytes, the note beside it, and the lock of the process that writes it.

A partial is never trusted further than its note goes: the note is written before the first byte that it
speaks of, and bytes without a note are thrown away.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import TracebackType

from model_zoo.errors import StoreError
from model_zoo.files import CHUNK, fsync_folder, human_size

__all__ = ["NOTE_SUFFIX", "PARTIAL_SUFFIX", "PartialFile", "try_lock"]

PARTIAL_SUFFIX = ".edge-runtime-partial"
NOTE_SUFFIX = PARTIAL_SUFFIX + ".json"

_POLL_S = 0.2
"""Seconds between looks at a lock that another process holds."""


class PartialFile:
    """The partial of one target, held by this process alone; a context manager that keeps what arrived.

    `size`: bytes that are here. `validator` and `total`: what the server said of the file when it was begun;
    `validator` is `None` when it must begin anew.
    """

    def __init__(self, target: Path, url: str, descriptor: int) -> None:
        self.target, self.path = target, _beside(target, PARTIAL_SUFFIX)
        self._note = _beside(target, NOTE_SUFFIX)
        self._source = hashlib.sha256(url.encode()).hexdigest()  # addresses may hold secrets
        self._descriptor = descriptor
        self.size = os.fstat(descriptor).st_size
        self.validator: str | None = None
        self.total: int | None = None
        self._read_note()
        os.lseek(descriptor, 0, os.SEEK_END)

    @classmethod
    async def open(
        cls, target: Path, url: str, sleep: Callable[[float], Awaitable[None]]
    ) -> PartialFile | None:
        """The partial of `target`, made if need be; `None` when the target is there.

        Waits while another process downloads the same target.

        Raises:
            StoreError: the folder cannot be written.
        """
        path = _beside(target, PARTIAL_SUFFIX)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            while not target.exists():
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
                if try_lock(descriptor) and _still_at(path, descriptor) and not target.exists():
                    return cls(target, url, descriptor)
                os.close(descriptor)  # held by another process, or renamed by it a moment ago
                await sleep(_POLL_S)
            _beside(target, NOTE_SUFFIX).unlink(missing_ok=True)  # its process died just after the rename
        except OSError as error:
            raise _disk_error(error, target) from error
        return None

    def restart(self, validator: str | None = None, total: int | None = None) -> None:
        """Throw away what is here and note what the next bytes will be of."""
        with self._disk_errors():
            os.ftruncate(self._descriptor, 0)
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            self.size, self.validator, self.total = 0, validator, total
            if validator is None:
                self._note.unlink(missing_ok=True)
                return
            fresh = self._note.with_name(self._note.name + ".new")
            fresh.write_text(
                json.dumps({"source": self._source, "validator": validator, "total": total}), "utf-8"
            )
            fresh.replace(self._note)

    def write(self, data: bytes) -> None:
        """Append bytes; they outlive this process as soon as this returns."""
        view = memoryview(data)
        with self._disk_errors():
            while view:
                count = os.write(self._descriptor, view)
                self.size += count
                view = view[count:]

    def digest(self, hasher: hashlib._Hash) -> str:
        """Feed all bytes that are here to `hasher`; its hexadecimal digest."""
        position = 0
        while chunk := os.pread(self._descriptor, CHUNK, position):
            hasher.update(chunk)
            position += len(chunk)
        return hasher.hexdigest()

    def publish(self) -> None:
        """Make the file durable and give it its final name."""
        with self._disk_errors():
            os.fsync(self._descriptor)
            self.path.replace(self.target)
            fsync_folder(self.target.parent)
            self._note.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove the partial and its note."""
        with self._disk_errors():
            self.path.unlink(missing_ok=True)
            self._note.unlink(missing_ok=True)

    def __enter__(self) -> PartialFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.size == 0 and kind is not None:
            with contextlib.suppress(OSError):  # nothing worth keeping; the first error is the one to tell
                self.discard()
        os.close(self._descriptor)

    def _read_note(self) -> None:
        try:
            note = json.loads(self._note.read_text("utf-8"))
            source, validator, total = note["source"], note["validator"], note["total"]
        except (OSError, ValueError, KeyError, TypeError):
            return  # no note that can be relied on: begin anew
        if source == self._source and isinstance(validator, str) and isinstance(total, int | None):
            self.validator, self.total = validator, total

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise _disk_error(error, self.target) from error


def _beside(target: Path, suffix: str) -> Path:
    return target.with_name(target.name + suffix)


def try_lock(descriptor: int) -> bool:
    """Lock an open file or folder against other processes; false when one of them holds it.

    The kernel drops the lock when the descriptor is closed, however its process ends.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        # Some network file systems have no locks: then two processes must not fetch one file at once.
        return error.errno in (errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)
    return True


def _still_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _disk_error(error: OSError, target: Path) -> StoreError:
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = human_size(shutil.disk_usage(target.parent).free)
        return StoreError(
            f"{target}: cannot be written: {reason}; {free} are free there. What has arrived is kept: free "
            "some space and run the same command again"
        )
    return StoreError(
        f"{target}: cannot be written: {reason}. Check the folder and your right to write there"
    )
