"""How much a queue holds, and making room in it."""

from __future__ import annotations

from collections.abc import Container, Iterator

from offload.queue.errors import QueueFullError
from offload.queue.jobs import Limits
from offload.store import Store
from offload.store.connection import Connection

__all__ = ["DROPPED", "Room"]

DROPPED = "dropped: the queue was full"


class Room:
    """Counts rows and bytes; used inside the store's transactions alone.

    The counts are kept in memory and taken anew when the store says that they may be stale.
    """

    def __init__(self, store: Store, limits: Limits) -> None:
        self._store, self._limits = store, limits
        self._generation: int | None = None
        self._rows = self._bytes = 0

    def used(self, connection: Connection) -> tuple[int, int]:
        """Jobs that wait or are under way, and bytes of all sealed contents."""
        if self._generation != self._store.generation:
            row = connection.execute(
                "SELECT coalesce(sum(state IN ('ready', 'sent')), 0), coalesce(sum(size), 0) FROM job"
            ).fetchone()
            self._rows, self._bytes = row
            self._generation = self._store.generation
        return self._rows, self._bytes

    def add(self, rows: int, size: int) -> None:
        """Count a change, after the last statement of it that can fail."""
        self._rows += rows
        self._bytes += size

    def make(
        self, connection: Connection, size: int, priority: int, held: Container[int], now: float
    ) -> tuple[int, int]:
        """Let go what must go for a newcomer of `size` bytes; gives rows and bytes that it freed.

        Nothing has changed when it raises. The caller counts what was freed, together with its own change.

        Raises:
            QueueFullError: the newcomer does not fit.
        """
        limits = self._limits
        if size > limits.max_bytes:
            raise QueueFullError(
                f"the query takes {size} bytes and the whole queue may hold {limits.max_bytes}: "
                f"send less of the conversation, or raise max_bytes"
            )
        rows, used = self.used(connection)
        more_rows, more_bytes = rows + 1 - limits.max_rows, used + size - limits.max_bytes
        if more_rows <= 0 and more_bytes <= 0:
            return 0, 0
        fetched, freed = [], 0
        if more_bytes > 0:
            for seq, taken in self._fetched(connection):
                fetched.append(seq)
                freed += taken
                if freed >= more_bytes:
                    break
        dropped: list[int] = []
        for seq, waiting in self._candidates(connection, priority):
            if len(dropped) >= more_rows and freed >= more_bytes:
                break
            if seq not in held:
                dropped.append(seq)
                freed += waiting
        if len(dropped) < more_rows or freed < more_bytes:
            raise QueueFullError(self._full(rows, used, size))
        for seq in fetched:
            connection.execute("DELETE FROM job WHERE seq = ?", (seq,))
        for seq in dropped:
            connection.execute("DELETE FROM request WHERE seq = ?", (seq,))
            connection.execute(
                "UPDATE job SET state = 'dead', reason = ?, finished = ?, size = 0 WHERE seq = ?",
                (DROPPED, now, seq),
            )
        return len(dropped), freed

    def _fetched(self, connection: Connection) -> Iterator[tuple[int, int]]:
        rows = connection.execute(
            "SELECT seq, size FROM job WHERE taken = 1 AND size > 0 ORDER BY seq"
        ).fetchall()
        yield from rows

    def _candidates(self, connection: Connection, priority: int) -> Iterator[tuple[int, int]]:
        if self._limits.when_full == "refuse":
            return
        order = "seq" if self._limits.when_full == "drop-oldest" else "priority ASC, seq DESC"
        where = "" if self._limits.when_full == "drop-oldest" else f"AND priority < {int(priority)}"
        last = 0
        while True:
            rows = connection.execute(
                f"SELECT seq, size FROM job WHERE state = 'ready' {where} ORDER BY {order} "
                f"LIMIT 64 OFFSET {last}"
            ).fetchall()
            yield from rows
            last += len(rows)
            if len(rows) < 64:
                return

    def _full(self, rows: int, used: int, size: int) -> str:
        limits = self._limits
        ways = {
            "refuse": "Wait until some are sent, cancel some, or choose another when_full",
            "drop-lowest": "No job with a lower priority waits. Raise the priority, or cancel some",
            "drop-oldest": "The others are being sent. Try again soon",
        }
        return (
            f"the queue is full: {rows} of {limits.max_rows} jobs and {used} of {limits.max_bytes} bytes, "
            f"and this query takes {size}. {ways[limits.when_full]}"
        )
