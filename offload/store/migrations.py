"""The schema, as numbered migrations. A released migration is never changed; a change is a new one.

`tests/vectors/store/` keeps a store of each version, and each is brought to the newest in a test.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, cast

from offload.store.errors import StoreVersionError

if TYPE_CHECKING:
    from sqlite_utils import Database, Migrations

    from offload.store.connection import Connection

__all__ = ["NAMES", "SEALED", "migrate", "migrations"]

SEALED = (("request", "content"), ("answer", "content"))
"""Tables and columns whose content is sealed. The place of a content is `TABLE/JOB-ID`."""

_SET = "edge-runtime"


def m001_store(db: Database) -> None:
    """What the store keeps about itself: the clock, and which keys have sealed something."""
    db.execute("CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID")
    db.execute("CREATE TABLE seal_key (id TEXT PRIMARY KEY, first_used REAL NOT NULL) STRICT, WITHOUT ROWID")


def m002_queue(db: Database) -> None:
    """The queue. Contents stand apart from what is known about a job, so that a change of state is small.

    Times are seconds of the device's own clock (`offload.store.clock`), except `created_at`: Unix seconds.
    The indexes are partial: finished jobs cost nothing but their row.
    """
    db.execute(
        """
        CREATE TABLE job (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            id TEXT NOT NULL UNIQUE,
            state TEXT NOT NULL
                CHECK (state IN ('ready', 'sent', 'done', 'dead', 'expired', 'cancelled')),
            priority INTEGER NOT NULL,
            attempts INTEGER NOT NULL DEFAULT 0,
            not_before REAL NOT NULL,
            deadline REAL,
            queued REAL NOT NULL,
            finished REAL,
            taken INTEGER NOT NULL DEFAULT 0,
            size INTEGER NOT NULL,
            seal_key TEXT NOT NULL,
            created_at REAL NOT NULL,
            conversation TEXT,
            user TEXT,
            labels TEXT NOT NULL DEFAULT '[]',
            idempotency_key TEXT,
            reason TEXT
        ) STRICT
        """
    )
    db.execute(
        "CREATE TABLE request (seq INTEGER PRIMARY KEY REFERENCES job(seq) ON DELETE CASCADE, "
        "content BLOB NOT NULL) STRICT"
    )
    db.execute(
        "CREATE TABLE answer (seq INTEGER PRIMARY KEY REFERENCES job(seq) ON DELETE CASCADE, "
        "content BLOB NOT NULL) STRICT"
    )
    db.execute("CREATE INDEX job_ready ON job (priority DESC, seq, not_before) WHERE state = 'ready'")
    db.execute("CREATE INDEX job_sent ON job (seq) WHERE state = 'sent'")
    db.execute("CREATE INDEX job_deadline ON job (deadline) WHERE state = 'ready' AND deadline IS NOT NULL")
    db.execute(
        "CREATE INDEX job_conversation ON job (conversation, seq) "
        "WHERE conversation IS NOT NULL AND state IN ('ready', 'sent')"
    )
    db.execute(
        "CREATE UNIQUE INDEX job_idempotency_key ON job (idempotency_key, coalesce(user, '')) "
        "WHERE idempotency_key IS NOT NULL"
    )


_ALL = (m001_store, m002_queue)

NAMES = tuple(function.__name__ for function in _ALL)
"""Every version's name, the oldest first."""


def migrations() -> Migrations:
    """The migrations as sqlite-utils takes them."""
    from sqlite_utils import Migrations

    found = Migrations(_SET)
    for function in _ALL:
        found(name=function.__name__)(function)
    return found


def migrate(connection: Connection, where: str, *, stop_before: str | None = None) -> tuple[str, ...]:
    """Bring a store to the newest version, each step whole or not at all; gives the steps that were taken.

    Raises:
        StoreVersionError: a newer release wrote the store; begins with `where`.
    """
    from sqlite_utils import Database

    if applied(connection) == NAMES:  # the usual case, without importing sqlite-utils
        return ()
    db = Database(cast("sqlite3.Connection", connection), execute_plugins=False)
    steps = migrations()
    before = [step.name for step in steps.applied(db)]
    if unknown := [name for name in before if name not in NAMES]:
        raise StoreVersionError(
            f"{where}: was written by a newer release (it has the step '{unknown[-1]}', and this release "
            f"ends with '{NAMES[-1]}'). Install that release, or name another file"
        )
    steps.apply(db, stop_before=stop_before)
    return tuple(step.name for step in steps.applied(db) if step.name not in before)


def applied(connection: Connection) -> tuple[str, ...]:
    """The steps that a store has behind it, the oldest first."""
    exists = "SELECT 1 FROM sqlite_schema WHERE name = '_sqlite_migrations'"
    if connection.execute(exists).fetchone() is None:
        return ()
    rows = connection.execute(
        "SELECT name FROM _sqlite_migrations WHERE migration_set = ? ORDER BY rowid", (_SET,)
    )
    return tuple(row[0] for row in rows.fetchall())
