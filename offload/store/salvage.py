"""A damaged store: set aside whole, then what can still be read is carried over into a fresh one.

Only the tables themselves are read, never an index. A job whose content cannot be read any more stays, marked
dead with the reason: somebody may be waiting for it.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offload.store.connection import Connect, Connection
from offload.store.errors import KeyLostError, SealError
from offload.store.keys import Keyring

__all__ = ["Salvage", "salvage", "set_aside"]

_SUFFIXES = ("", "-wal", "-journal", "-shm")
_LIVE = ("ready", "sent")
_CHUNK = 100_000
"""Rows that are looked for one by one after the last readable one, when nothing says how many there were."""


@dataclass(frozen=True, slots=True)
class Salvage:
    """What became of a damaged store."""

    aside: Path
    cause: str
    jobs: int
    """Jobs carried over, the dead among them."""
    contents_lost: int
    """Jobs among them whose question or answer could not be read, now dead."""
    jobs_lost: int | None
    """Jobs that are gone without a trace, by the gaps in the numbering; `None` when nothing could be read."""

    def describe(self) -> str:
        """One sentence for a person."""
        lost = "how many are gone cannot be told" if self.jobs_lost is None else f"{self.jobs_lost} are gone"
        return (
            f"the store was damaged ({self.cause}) and is set aside as {self.aside}: {self.jobs} jobs were "
            f"carried over, {self.contents_lost} of them without their content, and {lost}"
        )


def set_aside(path: Path, wall: float) -> Path:
    """Rename a store and what belongs to it; gives the new name, `PATH.damaged-TIME`."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(wall))
    number = 0
    while True:
        aside = path.with_name(f"{path.name}.damaged-{stamp}" + (f"-{number}" if number else ""))
        if not aside.exists():
            break
        number += 1
    for suffix in _SUFFIXES:
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    return aside


def salvage(aside: Path, cause: str, fresh: Connection, keys: Keyring, connect: Connect) -> Salvage:
    """Carry over what can be read from `aside` into `fresh`, a new store of the newest version.

    A content that does not open for damage is left behind; one whose key is not at hand is carried over.
    """
    jobs: set[int] = set()
    lost = 0
    upper: int | None = None
    try:
        old = connect(aside)
    except sqlite3.Error:
        return Salvage(aside, cause, 0, 0, None)
    try:
        columns = _shared_columns(old, fresh, "job")
        fresh.execute("BEGIN IMMEDIATE")
        try:
            for name in ("meta", "seal_key"):
                _copy_small(old, fresh, name)
            upper = _upper(old)
            for row in _rows(old, "job", columns, upper):
                values = dict(zip(columns, row, strict=True))
                if _carry(old, fresh, values, keys) is None:
                    lost += 1
                jobs.add(values["seq"])
            fresh.execute("COMMIT")
        except BaseException:
            if fresh.in_transaction:
                fresh.execute("ROLLBACK")
            raise
    except _UnreadableError:
        return Salvage(aside, cause, 0, 0, None)
    finally:
        old.close()
    gone = None if upper is None or not jobs else max(upper - min(jobs) + 1 - len(jobs), 0)
    return Salvage(aside, cause, len(jobs), lost, gone)


class _UnreadableError(Exception):
    """Not even the list of tables can be read."""


def _shared_columns(old: Connection, fresh: Connection, table: str) -> tuple[str, ...]:
    try:
        found = {row[1] for row in old.execute(f"PRAGMA table_info({table})").fetchall()}
    except sqlite3.Error as error:
        raise _UnreadableError from error
    if not found:
        raise _UnreadableError
    return tuple(row[1] for row in fresh.execute(f"PRAGMA table_info({table})").fetchall() if row[1] in found)


def _copy_small(old: Connection, fresh: Connection, table: str) -> None:
    columns = _shared_columns(old, fresh, table)
    try:
        rows = old.execute(f"SELECT {', '.join(columns)} FROM {table}").fetchall()
    except sqlite3.Error:
        return  # the fresh store has its own values already
    marks = ", ".join("?" * len(columns))
    fresh.executemany(f"INSERT OR REPLACE INTO {table} ({', '.join(columns)}) VALUES ({marks})", rows)


def _upper(old: Connection) -> int | None:
    """The highest number that was given to a job, as far as it can be read."""
    for sql in ("SELECT seq FROM sqlite_sequence WHERE name = 'job'", "SELECT max(seq) FROM job"):
        try:
            row = old.execute(sql).fetchone()
        except sqlite3.Error:
            continue
        if row is not None and row[0] is not None:
            return int(row[0])
    return None


def _rows(
    old: Connection, table: str, columns: Sequence[str], upper: int | None
) -> Iterator[tuple[Any, ...]]:
    """Every row that can be read: in order up to the damage, then one number after the other."""
    select = f"SELECT {', '.join(columns)} FROM {table} WHERE seq"
    at = columns.index("seq")
    last = None
    while True:
        try:
            sql = f"{select} > ? ORDER BY seq LIMIT 1"
            row = old.execute(sql, (-1 if last is None else last,)).fetchone()
        except sqlite3.Error:
            break
        if row is None:
            return
        last = row[at]
        yield tuple(row)
    start = last + 1 if last is not None else 1
    for seq in range(start, (start + _CHUNK if upper is None else upper) + 1):
        try:
            row = old.execute(f"{select} = ?", (seq,)).fetchone()
        except sqlite3.Error:
            continue
        if row is not None:
            yield tuple(row)


def _carry(old: Connection, fresh: Connection, job: dict[str, Any], keys: Keyring) -> bool | None:
    """Put one job into the fresh store; `None` when its content is lost."""
    needed = "request" if job["state"] in _LIVE else "answer" if job["state"] == "done" else None
    if job["state"] == "done" and job["taken"]:
        needed = None  # the application has it
    contents = {
        table: content
        for table in ("request", "answer")
        if (content := _content(old, table, job, keys)) is not None
    }
    whole = needed is None or needed in contents
    if not whole:
        what = "question" if needed == "request" else "answer"
        job = {**job, "state": "dead", "reason": f"its {what} was lost when the store was damaged"}
    columns = ", ".join(job)
    fresh.execute(f"INSERT INTO job ({columns}) VALUES ({', '.join('?' * len(job))})", tuple(job.values()))
    for table, content in contents.items():
        fresh.execute(f"INSERT INTO {table} (seq, content) VALUES (?, ?)", (job["seq"], content))
    return True if whole else None


def _content(old: Connection, table: str, job: dict[str, Any], keys: Keyring) -> bytes | None:
    try:
        row = old.execute(f"SELECT content FROM {table} WHERE seq = ?", (job["seq"],)).fetchone()
        if row is None:
            return None
        keys.open(row[0], f"{table}/{job['id']}")
    except (sqlite3.Error, SealError, TypeError):
        return None
    except KeyLostError:
        return bytes(row[0])
    return bytes(row[0])
