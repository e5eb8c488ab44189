"""The store: one SQLite file, one process that owns it, one thread that writes.

Changes that arrive within a few milliseconds of each other share one transaction and one sync to the disk
(group commit); each of them is whole or not at all, and is durable when its future is done.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar

from offload.store.clock import DeviceClock, Mark, Times, read_times
from offload.store.connection import Connect, Connection, connect, is_corrupt, prepare, translate
from offload.store.errors import (
    StoreBusyError,
    StoreClosedError,
    StoreError,
    StoreFullError,
    StoreReadOnlyError,
)
from offload.store.keys import Keyring, KeySource
from offload.store.migrations import SEALED, migrate
from offload.store.salvage import Salvage, salvage, set_aside

__all__ = ["Store"]

T = TypeVar("T")

_LOG = logging.getLogger(__name__)
_RESEAL_ROWS = 64


@dataclass(slots=True)
class _Change(Generic[T]):
    operation: Callable[[Connection], T]
    future: Future[T]


class Store:
    """A device's store, opened and owned by this process until `close`.

    Args:
        path: the SQLite file; made, with its folder, when there is none. Beside it stands `PATH.lock`.
        keys: where the sealing keys come from.
        times: the machine's clocks.
        connect: opens a SQLite file.
        window_s: how long a change waits for company.
        max_batch: changes that share a transaction at most.

    Raises:
        StoreBusyError: another process owns it.
        StoreKeyError: there is no key to be had.
        StoreReadOnlyError, StoreFullError: the disk cannot be written, or is full.
        StoreVersionError: a newer release wrote it.
        StoreError: anything else that SQLite says. A damaged file is no error: it is set aside (`salvaged`).
    """

    def __init__(
        self,
        path: Path,
        keys: KeySource,
        *,
        times: Callable[[], Times] = read_times,
        connect: Connect = connect,
        window_s: float = 0.005,
        max_batch: int = 64,
    ) -> None:
        self.path = path
        self.salvaged: Salvage | None = None
        """What became of a damaged file, when there was one."""
        self.generation = 0
        """Rises when a transaction was rolled back or the file was replaced: what was counted from it may be
        stale."""
        self._connect, self._window_s, self._max_batch = connect, window_s, max_batch
        self._times, self._key_source = times, keys
        self._lock = threading.RLock()
        self._inbox: queue.SimpleQueue[_Change[Any] | None] = queue.SimpleQueue()
        self._gate = threading.Lock()
        self._closed = False
        self._lock_file = _own(path)
        try:
            self.keys: Keyring = keys()
            self._connection = self._open()
            self.clock = self._started_clock()
        except BaseException:
            os.close(self._lock_file)
            raise
        self._thread = threading.Thread(target=self._run, name=f"store {path.name}", daemon=True)
        self._thread.start()

    def __enter__(self) -> Store:
        """The store itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def submit(self, operation: Callable[[Connection], T]) -> Future[T]:
        """Run a change in the next transaction; the future is done when it is on the disk.

        `operation` gets the connection inside a savepoint. When it raises, its change alone is undone and the
        future has the error. It may run twice (after a salvage), so it must change nothing but the store
        before its last statement that can fail.
        """
        change = _Change(operation, Future[T]())
        with self._gate:
            if self._closed:
                raise StoreClosedError(f"{self.path}: the store is closed")
            self._inbox.put(change)
        return change.future

    def write(self, operation: Callable[[Connection], T]) -> T:
        """`submit`, and wait until it is on the disk."""
        return self.submit(operation).result()

    def read(self, operation: Callable[[Connection], T]) -> T:
        """Run a reading operation in the caller's thread, between two transactions.

        Raises:
            StoreError: SQLite cannot read. A damaged file is set aside; the operation runs on the new one.
        """
        with self._lock:
            if self._closed:
                raise StoreClosedError(f"{self.path}: the store is closed")
            try:
                return operation(self._connection)
            except sqlite3.Error as error:
                if not is_corrupt(error):
                    raise translate(error, str(self.path)) from error
                self._recover(error)
                return operation(self._connection)

    @property
    def lost_keys(self) -> tuple[str, ...]:
        """Ids of keys that have sealed something here and are not at hand now; empty when all is well."""
        rows = self.read(lambda c: c.execute("SELECT id FROM seal_key ORDER BY first_used").fetchall())
        return tuple(row[0] for row in rows if row[0] not in self.keys.ids)

    def reload_keys(self) -> None:
        """Read the keys again, after one was added (`keys.add_key`) or put back."""
        keys = self._key_source()

        def change(connection: Connection) -> None:
            _register(connection, keys.current, self.clock.now())
            self.keys = keys  # here: what is sealed after this change is sealed under the new key

        self.write(change)

    def reseal(self) -> int:
        """Seal everything under the newest key; gives the number of contents that were under an older one.

        Works in small steps, each durable: it can be stopped and begun again. Afterwards `keys.drop_old_keys`
        may forget the older keys. What a lost key has sealed stays as it is.
        """
        count = 0
        for table, column in SEALED:
            last = 0
            while True:
                start = last  # bound below: the operation runs in another thread

                def step(c: Connection, table: str = table, column: str = column, start: int = start) -> Any:
                    return _reseal_step(c, self.keys, table, column, start)

                last, done = self.write(step)
                count += done
                if not last:
                    break
        self.write(lambda c: _forget_unused_keys(c, self.keys))
        return count

    def check(self) -> list[str]:
        """SQLite's own full check (`integrity_check`); reads the whole file. Empty when all is well."""
        rows = self.read(lambda c: c.execute("PRAGMA integrity_check").fetchall())
        return [str(row[0]) for row in rows if row[0] != "ok"]

    def close(self) -> None:
        """Finish what was submitted, carry the WAL over into the file and give the store up."""
        with self._gate:
            if self._closed:
                return
            self._inbox.put(None)
            self._closed = True
        self._thread.join()
        with self._lock:
            self._connection.close()
            os.ftruncate(self._lock_file, 0)
            os.close(self._lock_file)

    def _open(self) -> Connection:
        try:
            return self._opened()
        except sqlite3.Error as error:
            if not is_corrupt(error):
                raise translate(error, str(self.path)) from error
            return self._replaced(error)

    def _opened(self) -> Connection:
        connection = self._connect(self.path)
        try:
            prepare(connection, str(self.path))
            migrate(connection, str(self.path))
            _register(connection, self.keys.current, 0.0)
        except BaseException:
            connection.close()
            raise
        _sync_folder(self.path.parent)  # the file's own name must outlive a power loss too
        return connection

    def _recover(self, error: sqlite3.Error) -> None:
        """The file turned out to be damaged while it was in use."""
        with suppress(sqlite3.Error):  # closing it may complain once more; it is let go either way
            self._connection.close()
        self.generation += 1
        try:
            self._connection = self._replaced(error)
        except sqlite3.Error as another:
            raise translate(another, str(self.path)) from another

    def _replaced(self, error: sqlite3.Error) -> Connection:
        aside = set_aside(self.path, self._times().wall)
        connection = self._opened()
        self.salvaged = salvage(aside, str(error), connection, self.keys, self._connect)
        _LOG.error("%s: %s", self.path, self.salvaged.describe())
        return connection

    def _started_clock(self) -> DeviceClock:
        row = self.read(lambda c: c.execute("SELECT value FROM meta WHERE name = 'clock'").fetchone())
        return DeviceClock(self._times, None if row is None else Mark.from_json(row[0]))

    def _run(self) -> None:
        ended = False
        while not ended:
            first = self._inbox.get()
            if first is None:
                return
            batch, until = [first], time.monotonic() + self._window_s
            while len(batch) < self._max_batch:
                try:
                    change = self._inbox.get(timeout=max(until - time.monotonic(), 0.0))
                except queue.Empty:
                    break
                if change is None:
                    ended = True
                    break
                batch.append(change)
            self._commit([change for change in batch if change.future.set_running_or_notify_cancel()])

    def _commit(self, batch: list[_Change[Any]]) -> None:
        """One transaction for all; afterwards every future is done."""
        if not batch:
            return
        with self._lock:
            try:
                try:
                    outcomes = self._transaction(batch)
                except sqlite3.Error as error:
                    self._undo()
                    if not is_corrupt(error):
                        raise
                    self._recover(error)
                    outcomes = self._transaction(batch)
            except (sqlite3.Error, OSError, StoreError) as error:
                self._undo()
                if len(batch) > 1:  # one that is too large for the disk must not take the others with it
                    for change in batch:
                        self._commit([change])
                    return
                batch[0].future.set_exception(_shown(error, self.path))
                return
        for change, (result, failure) in zip(batch, outcomes, strict=True):
            if failure is None:
                change.future.set_result(result)
            else:
                change.future.set_exception(failure)

    def _transaction(self, batch: list[_Change[Any]]) -> list[tuple[Any, Exception | None]]:
        connection = self._connection
        outcomes: list[tuple[Any, Exception | None]] = []
        connection.execute("BEGIN IMMEDIATE")
        for change in batch:
            connection.execute("SAVEPOINT change")
            try:
                outcomes.append((change.operation(connection), None))
            except sqlite3.Error:
                raise
            except Exception as error:  # noqa: BLE001 - belongs to whoever submitted it, not to this thread
                connection.execute("ROLLBACK TO change")
                outcomes.append((None, error))
            connection.execute("RELEASE change")
        mark = self.clock.due()
        if mark is not None:
            connection.execute(
                "INSERT INTO meta VALUES ('clock', ?) "
                "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                (mark.to_json(),),
            )
        connection.execute("COMMIT")
        if mark is not None:
            self.clock.kept(mark)
        return outcomes

    def _undo(self) -> None:
        self.generation += 1
        with suppress(sqlite3.Error):  # SQLite may have rolled back by itself, or the file is gone
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")


def _own(path: Path) -> int:
    """Hold the lock file beside the store; gives its descriptor."""
    lock = path.with_name(f"{path.name}.lock")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise StoreFullError(f"{path}: the disk is full. Free some space") from error
        raise StoreReadOnlyError(
            f"{path}: the store cannot be opened: {lock}: {error.strerror or error}. See that the disk is "
            f"mounted writable and the folder is yours"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise StoreBusyError(
            f"{path}: belongs to the process {owner} as long as it runs. Ask it, or stop it first"
        ) from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor


def _shown(error: sqlite3.Error | OSError | StoreError, path: Path) -> StoreError:
    if isinstance(error, StoreError):
        return error
    if isinstance(error, sqlite3.Error):
        return translate(error, str(path))
    return StoreError(f"{path}: {error.strerror or error}")


def _register(connection: Connection, key: str, now: float) -> None:
    """Note that `key` seals here, so that its loss can be told later."""
    if connection.execute("SELECT 1 FROM seal_key WHERE id = ?", (key,)).fetchone() is None:
        connection.execute("INSERT INTO seal_key VALUES (?, ?)", (key, now))


def _reseal_step(
    connection: Connection, keys: Keyring, table: str, column: str, after: int
) -> tuple[int, int]:
    """Seal the next few contents of a table anew; gives the last row's number (0 at the end) and how many."""
    rows = connection.execute(
        f"SELECT t.seq, j.id, t.{column} FROM {table} t JOIN job j USING (seq) "
        f"WHERE t.seq > ? AND hex(substr(t.{column}, 2, 4)) <> ? ORDER BY t.seq LIMIT ?",
        (after, keys.current.upper(), _RESEAL_ROWS),
    ).fetchall()
    done = 0
    for seq, job, sealed in rows:
        if sealed[1:5].hex() not in keys.ids:
            continue
        place = f"{table}/{job}"
        content = keys.seal(keys.open(sealed, place), place)
        connection.execute(f"UPDATE {table} SET {column} = ? WHERE seq = ?", (content, seq))
        connection.execute("UPDATE job SET seal_key = ? WHERE seq = ?", (keys.current, seq))
        done += 1
    return (rows[-1][0] if rows else 0), done


def _forget_unused_keys(connection: Connection, keys: Keyring) -> None:
    """Strike the keys at hand that seal nothing here any more; a lost one stays on the list."""
    for key in keys.ids:
        if key != keys.current:
            connection.execute("DELETE FROM seal_key WHERE id = ?", (key,))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
