"""One SQLite connection with settings that promises rest on: each is set and then read back.

`synchronous=FULL` because a commit is a promise: at `NORMAL` a power loss takes back commits in WAL mode.
Pages of 1 KiB because a small change then costs less of an SD card's life. `locking_mode=EXCLUSIVE` because
one process owns the store; the WAL index then lies in memory, without a shared-memory file.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from offload.store.errors import (
    StoreBusyError,
    StoreError,
    StoreFullError,
    StoreReadOnlyError,
    StoreSettingsError,
)

__all__ = ["PAGE_BYTES", "Connect", "Connection", "connect", "is_corrupt", "prepare", "translate"]

PAGE_BYTES = 1024

_MINIMUM = (3, 37, 0)  # STRICT tables

_CHECKPOINT_PAGES = 4096
"""Pages in the WAL before it is carried over into the file: 4 MiB, so that a page that changes often is
carried over once."""

_SETTINGS: tuple[tuple[str, object, object], ...] = (
    ("page_size", PAGE_BYTES, PAGE_BYTES),
    ("locking_mode", "EXCLUSIVE", "exclusive"),
    ("journal_mode", "WAL", "wal"),
    ("synchronous", "FULL", 2),
    ("wal_autocheckpoint", _CHECKPOINT_PAGES, _CHECKPOINT_PAGES),
    ("foreign_keys", "ON", 1),
    ("trusted_schema", "OFF", 0),
    ("temp_store", "MEMORY", 2),
)
"""Name, what is set, what must be read back; in an order that SQLite needs."""


class Rows(Protocol):
    """What a statement gives."""

    @property
    def rowcount(self) -> int:
        """Rows that a change touched."""

    def fetchone(self) -> Any:
        """The next row, or `None`."""

    def fetchall(self) -> list[Any]:
        """All rows that are left."""


class Connection(Protocol):
    """The part of `sqlite3.Connection` that is used; a transaction is opened by hand alone."""

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""

    def execute(self, sql: str, parameters: Sequence[Any] = ..., /) -> Rows:
        """Run one statement."""

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]], /) -> object:
        """Run one statement for each row of parameters."""

    def close(self) -> None:
        """Close it."""


Connect = Callable[[Path], Connection]
"""Opens a file, made when there is none, without any setting."""


def connect(path: Path) -> Connection:
    """A connection of the standard library, for any thread (one at a time), without implicit `BEGIN`."""
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)


def prepare(connection: Connection, where: str) -> None:
    """Set the settings and see that SQLite took them.

    Raises:
        StoreSettingsError: it did not take one; names it.
    """
    if sqlite3.sqlite_version_info < _MINIMUM:
        raise StoreSettingsError(
            f"SQLite {sqlite3.sqlite_version} is too old: the store needs "
            f"{'.'.join(map(str, _MINIMUM))}. Use a newer Python"
        )
    for name, value, expected in _SETTINGS:
        connection.execute(f"PRAGMA {name}={value}").fetchall()
        row = connection.execute(f"PRAGMA {name}").fetchone()
        if row is None or row[0] != expected:
            raise StoreSettingsError(
                f"{where}: SQLite has {name}={row[0] if row else None} where the store needs {expected}. "
                f"The file was not made by this program, or its disk cannot do that"
            )


_CODES = {
    "SQLITE_FULL": StoreFullError,
    "SQLITE_READONLY": StoreReadOnlyError,
    "SQLITE_CANTOPEN": StoreReadOnlyError,
    "SQLITE_PERM": StoreReadOnlyError,
    "SQLITE_BUSY": StoreBusyError,
}
_TEXTS = {
    "database or disk is full": StoreFullError,
    "readonly database": StoreReadOnlyError,
    "unable to open database": StoreReadOnlyError,
    "database is locked": StoreBusyError,
}
"""Python 3.10 gives no error codes."""

_WAYS_OUT = {
    StoreFullError: "the disk is full. Free some space, or lower the bounds of the queue",
    StoreReadOnlyError: "cannot be written. See that the disk is mounted writable and the folder is yours",
    StoreBusyError: "is open elsewhere. Close the program that inspects it",
}


def translate(error: sqlite3.Error, where: str) -> StoreError:
    """SQLite's error as one of ours, with a way out."""
    code = str(getattr(error, "sqlite_errorname", ""))
    kind = next((k for name, k in _CODES.items() if code.startswith(name)), None)
    kind = kind or next((k for text, k in _TEXTS.items() if text in str(error)), StoreError)
    if kind is StoreError:
        return StoreError(f"{where}: SQLite says: {error}")
    return kind(f"{where}: {_WAYS_OUT[kind]} (SQLite: {error})")


def is_corrupt(error: BaseException) -> bool:
    """Whether SQLite found the file damaged."""
    code = str(getattr(error, "sqlite_errorname", ""))
    if code:
        return code.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB"))
    return isinstance(error, sqlite3.DatabaseError) and any(
        text in str(error) for text in ("malformed", "not a database", "malformed database schema")
    )
