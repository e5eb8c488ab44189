"""A disk that loses power: SQLite's writes and syncs are recorded, and any moment's disk is rebuilt.

apsw lets Python stand between SQLite and the file system. apsw has a SQLite of its own, so the store's code
runs on an apsw connection here; the rebuilt disks are opened by the standard library's.
"""

from __future__ import annotations

import random
import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw

SECTOR = 512


@dataclass
class Recorded:
    """What happened on the disk, in order, with what was promised in between.

    An entry is `(kind, file name, offset, data)`; of kind `write`, `truncate`, `sync`, `delete` or `promise`;
    a promise's data is a check that must hold on every disk from then on.
    """

    entries: list[tuple[str, str, int, Any]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, kind: str, name: str, offset: int = 0, data: Any = None) -> None:
        with self.lock:
            self.entries.append((kind, Path(name).name, offset, data))

    def promise(self, check: Callable[[sqlite3.Connection], bool]) -> None:
        self.add("promise", "", 0, check)


class _File(apsw.VFSFile):
    def __init__(self, recorded: Recorded, name: Any, flags: list[int]) -> None:
        self._recorded = recorded
        self._name = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        super().__init__("", name, flags)

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802 - apsw's name
        self._recorded.add("write", self._name, offset, bytes(data))
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802 - apsw's name
        self._recorded.add("truncate", self._name, newsize)
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802 - apsw's name
        super().xSync(flags)
        self._recorded.add("sync", self._name)


class Disk(apsw.VFS):
    """Registered under `name` as long as it lives."""

    def __init__(self, name: str, recorded: Recorded) -> None:
        self._recorded = recorded
        super().__init__(name, "")

    def xOpen(self, name: Any, flags: list[int]) -> _File:  # noqa: N802 - apsw's name
        return _File(self._recorded, name, flags)

    def xDelete(self, name: str, syncdir: bool) -> None:  # noqa: N802 - apsw's name
        super().xDelete(name, syncdir)
        self._recorded.add("delete", name)


class Rows:
    def __init__(self, rows: list[Any], rowcount: int, lastrowid: int, description: Any = ()) -> None:
        self._rows, self.rowcount, self.lastrowid = rows, rowcount, lastrowid
        self.description = description

    def fetchone(self) -> Any:
        return self._rows.pop(0) if self._rows else None

    def fetchall(self) -> list[Any]:
        rows, self._rows = self._rows, []
        return rows

    def __iter__(self) -> Any:
        return iter(self.fetchall())


class Connection:
    """An apsw connection as the standard library's would be. Statements run at once, not row by row."""

    isolation_level = None

    def __init__(self, path: Path, vfs: str, settings: dict[str, str] | None = None) -> None:
        self._connection = apsw.Connection(str(path), vfs=vfs)
        self._settings = settings or {}

    @property
    def in_transaction(self) -> bool:
        return self._connection.in_transaction

    def execute(self, sql: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> Rows:
        for setting, value in self._settings.items():
            if sql == f"PRAGMA {setting}":  # the store asks what it has set: it is lied to
                return Rows([(2,)], 0, 0)
            if sql.startswith(f"PRAGMA {setting}="):
                sql = f"PRAGMA {setting}={value}"
        cursor = self._connection.execute(sql, parameters)
        try:
            description = cursor.get_description()
        except apsw.ExecutionCompleteError:  # it gave no rows
            description = ()
        rows = [tuple(row) for row in cursor.fetchall()]
        return Rows(rows, self._connection.changes(), self._connection.last_insert_rowid(), description)

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]]) -> None:
        for row in parameters:
            self.execute(sql, row)

    def close(self) -> None:
        self._connection.close()


def rebuild(recorded: Recorded, upto: int, source: random.Random, folder: Path) -> list[Any]:
    """Write the files as they may lie on the disk when the power fails after `upto` entries.

    What was synced is there. Of the rest every write is there, not there, or torn at a sector. Gives the
    promises made until then.
    """
    files: dict[str, bytearray] = {}
    waiting: dict[str, list[tuple[str, str, int, Any]]] = {}
    promises = []

    def apply(kind: str, name: str, offset: int, data: Any) -> None:
        content = files.setdefault(name, bytearray())
        if kind == "truncate":
            del content[offset:]
            return
        content.extend(bytes(max(offset + len(data) - len(content), 0)))
        content[offset : offset + len(data)] = data

    for entry in recorded.entries[:upto]:
        kind, name, _, data = entry
        if kind == "promise":
            promises.append(data)
        elif kind == "sync":
            for before in waiting.pop(name, []):
                apply(*before)
            files.setdefault(name, bytearray())
        elif kind == "delete":
            files.pop(name, None)
            waiting.pop(name, None)
        else:
            waiting.setdefault(name, []).append(entry)
    for entries in waiting.values():
        for kind, name, offset, data in entries:
            fate = source.random()
            if fate < 0.4:
                apply(kind, name, offset, data)
            elif fate < 0.6 and kind == "write":
                apply(kind, name, offset, data[: source.randrange(len(data) // SECTOR + 1) * SECTOR])
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return promises
