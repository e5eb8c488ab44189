"""File-system building blocks of the package store: hashing, durability, atomic swaps, clear errors.

A folder that is being written or thrown away stands beside its final name under a *partial* name,
`.NAME.partial-PID-RANDOM`, and its writer holds a lock on it for as long as it lives. Whoever writes next
removes the partial folders whose writer is dead.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from model_zoo.errors import StoreError

__all__ = [
    "CHUNK",
    "PARTIAL",
    "Progress",
    "exchange",
    "fsync_folder",
    "hash_file",
    "human_size",
    "lock_folder",
    "locked",
    "partial_path",
    "remove_stale",
    "remove_stale_partials",
    "rename_new",
    "stale_partials",
    "store_error",
]

CHUNK = 1 << 20
"""Bytes read at a time."""

PARTIAL = re.compile(r"^\.(?P<name>.+)\.partial-(?P<pid>\d+)-[0-9a-f]{8}$")
"""The name of a folder or file that is not finished."""

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in total."""

_NO_LOCKS = (errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)
_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_RENAME_EXCHANGE = 2


def hash_file(path: Path, advance: Callable[[int], None] | None = None) -> tuple[int, str]:
    """Size in bytes and SHA-256 (hexadecimal) of a file; `advance` gets the bytes of each chunk read."""
    digest = hashlib.sha256()
    size = 0
    buffer = memoryview(bytearray(CHUNK))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
            size += count
            if advance is not None:
                advance(count)
    return size, digest.hexdigest()


def fsync_folder(path: Path) -> None:
    """Make the entries of a folder durable; file systems that cannot are left as they are."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EROFS):
            raise
    finally:
        os.close(descriptor)


def human_size(count: int) -> str:
    """`1536` → `1.5 KiB`."""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def store_error(error: OSError, target: Path, doing: str = "write") -> StoreError:
    """An operating-system error while writing `target` as one sentence with the way out."""
    folder = target.parent
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        try:
            free = f"; {human_size(shutil.disk_usage(folder).free)} are free there"
        except OSError:
            free = ""
        return StoreError(
            f"{target}: cannot {doing} it: {reason}{free}. Free some space or choose a folder on another "
            "disk; nothing half-written was left behind"
        )
    if error.errno == errno.EROFS:
        return StoreError(
            f"{target}: cannot {doing} it: the file system is read-only. "
            "Choose another folder, or remount it for writing"
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return StoreError(
            f"{target}: cannot {doing} it: no permission for the folder {folder}. "
            "Choose another folder, or give yourself the right to write there"
        )
    return StoreError(f"{target}: cannot {doing} it: {reason}")


def partial_path(target: Path) -> Path:
    """A fresh partial name beside `target` (nothing is created)."""
    return target.with_name(f".{target.name}.partial-{os.getpid()}-{secrets.token_hex(4)}")


def lock_folder(path: Path) -> int | None:
    """An exclusive lock on a file or folder as a descriptor to close; `None` when another process holds it.

    The kernel drops the lock when the holder dies, however it dies. File systems that cannot lock a folder
    (such as NFS) give `None` too: a writer there goes without, and what it leaves when it is killed is left
    for a person.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError) or error.errno in _NO_LOCKS:
            return None
        raise
    return descriptor


@contextlib.contextmanager
def locked(lock_file: Path) -> Iterator[None]:
    """Hold the exclusive lock of `lock_file` (created if need be) against other processes; waits for it.

    File systems that cannot lock go without: renames are atomic there as well, so that a package is still
    seen whole or not at all.
    """
    descriptor = os.open(lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        yield
    finally:
        os.close(descriptor)


def stale_partials(folder: Path, name: str | None = None) -> list[Path]:
    """What dead writers left in `folder` (of the package `name` alone, when given).

    A partial is stale when its process is gone *and* nobody holds its lock: the process id may be that of
    another container, and the lock is not yet held in the instant after a writer made its folder.
    """
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        match = PARTIAL.match(path.name)
        if match is None or (name is not None and match["name"] != name) or _alive(int(match["pid"])):
            continue
        try:
            descriptor = lock_folder(path)
        except OSError:
            continue  # gone meanwhile, or not ours to touch
        if descriptor is not None:
            os.close(descriptor)
            found.append(path)
    return found


def remove_stale(path: Path) -> bool:
    """Remove one of `stale_partials`; whether it is gone now and this process removed it."""
    try:
        descriptor = lock_folder(path)
    except OSError:
        return False  # another process was quicker
    if descriptor is None:
        return False
    try:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)
    return not path.exists()


def remove_stale_partials(folder: Path, name: str | None = None) -> list[Path]:
    """Remove `stale_partials`; returns what went."""
    return [path for path in stale_partials(folder, name) if remove_stale(path)]


def rename_new(source: Path, target: Path) -> None:
    """Rename a folder or file to a name that must be free.

    Raises:
        FileExistsError: the name is taken.
    """
    if _rename2(source, target, _RENAME_NOREPLACE):
        return
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    source.rename(target)


def exchange(source: Path, target: Path) -> None:
    """Let two folders swap their names in one step, so that a reader of `target` always finds a whole one.

    File systems that cannot (such as some network ones) get two renames: for that instant `target` is absent.
    """
    if _rename2(source, target, _RENAME_EXCHANGE):
        return
    aside = partial_path(target)
    target.rename(aside)
    try:
        source.rename(target)
    except OSError:
        aside.rename(target)
        raise
    aside.rename(source)


def _rename2(source: Path, target: Path, flags: int) -> bool:
    """Linux's renameat2(2); False when the system or file system does not have it."""
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is None:
        return False
    if function(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flags) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(source), None, str(target))


def _alive(pid: int) -> bool:
    """Whether a process of that id exists here."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
