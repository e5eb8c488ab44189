"""The queue: what must be asked later, and is not lost until it is answered.

    ready → leased → sent → done | dead | expired | cancelled

`put` returns when the job is on the disk. A lease lives in the owner's memory; `sent` is written before the
bytes leave. After a restart, what was sent is ready again: the idempotency key, which never changes, lets the
gateway see that it is the same question. The first answer counts, later ones are dropped.
"""

from __future__ import annotations

import json
import os
import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

from offload.queue.codec import decode_query, encode_answer, encode_query
from offload.queue.errors import IdempotencyError, JobStateError
from offload.queue.jobs import FINISHED, Backoff, JobState, Lease, Limits, Receipt, Retention
from offload.queue.table import JobTable
from offload.store import KeyLostError, SealError, Store
from offload.store.connection import Connection
from offload.store.keys import OVERHEAD
from offload.types import Answer, Query

__all__ = ["Queue"]


class Queue(JobTable):
    """The queue of a store. There is one per store; its methods may be called from any thread.

    Args:
        store: where it lives.
        limits: bounds, attempts and the length of a lease.
        backoff: waits between attempts.
        retention: how long contents stay.
        random_bytes: gives job ids.
        jitter: gives the backoff its jitter.
    """

    def __init__(
        self,
        store: Store,
        limits: Limits | None = None,
        backoff: Backoff | None = None,
        retention: Retention | None = None,
        *,
        random_bytes: Callable[[int], bytes] = os.urandom,
        jitter: random.Random | None = None,
    ) -> None:
        limits = limits or Limits()
        super().__init__(store, limits, retention or Retention())
        self._backoff, self._random_bytes = backoff or Backoff(), random_bytes
        self._jitter = jitter or random.Random()
        self._mutex = threading.Lock()
        self._token = 0
        store.write(self._restart)

    # 1. Putting in

    def submit(self, query: Query) -> Future[Receipt]:
        """Queue a query; the future is done when it is on the disk. See `put` for what it raises."""
        content, clock = encode_query(query), self._store.clock
        job = f"{int(clock.wall() * 1000):012x}{self._random_bytes(10).hex()}"
        size = len(content) + OVERHEAD

        def change(c: Connection) -> Receipt:
            if (found := self._same(c, query, content)) is not None:
                return Receipt(found, repeated=True)
            now = clock.now()
            rows, freed = self._room.make(c, size, query.priority, self._leases, now)
            ends = [query.deadline_s, self._retention.of(query.labels)]
            deadline = min((now + s for s in ends if s is not None), default=None)
            keys = self._store.keys
            c.execute(
                "INSERT INTO job (id, state, priority, not_before, deadline, queued, size, seal_key, "
                "created_at, conversation, user, labels, idempotency_key) "
                "VALUES (?, 'ready', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    job, query.priority, now + (query.not_before_s or 0.0), deadline, now, size, keys.current,
                    clock.wall(), query.conversation_id, query.user, json.dumps(query.labels),
                    query.idempotency_key,
                ),
            )  # fmt: skip
            c.execute(
                "INSERT INTO request (seq, content) VALUES (last_insert_rowid(), ?)",
                (keys.seal(content, f"request/{job}"),),
            )
            self._room.add(1 - rows, size - freed)
            return Receipt(job)

        return self._store.submit(change)

    def put(self, query: Query) -> Receipt:
        """Queue a query; returns when it is on the disk.

        `deadline_s` and `not_before_s` count from now. A query whose user has queued the same one under the
        same idempotency key before is not queued again: the receipt names the first.

        Raises:
            QueueFullError: a bound is reached; nothing was queued.
            IdempotencyError: the key was used for another query.
            QueueError: the query cannot be stored.
            StoreFullError, StoreReadOnlyError, StoreError: the disk; nothing was queued.
        """
        return self.submit(query).result()

    # 2. Sending

    def lease(self, count: int = 1) -> list[Lease]:
        """Take up to `count` jobs that are due, the highest priority first, then the oldest.

        Of a conversation one job is out at a time, in the order in which they were put. A job whose key is
        lost stays where it is; one whose content was damaged becomes dead.
        """
        with self._mutex:
            now = self._store.clock.now()
            self._lapse(now)
            self.expire()
            taken: list[Lease] = []
            for row in self._store.read(lambda c: self._due(c, now, count)):
                if len(taken) == count:
                    break
                seq, job, attempts, key, sealed = row
                if seq in self._leases:
                    continue
                try:
                    query = decode_query(self._store.keys.open(sealed, f"request/{job}"))
                except KeyLostError:
                    continue
                except SealError as error:
                    self._finish(job, "dead", f"its content cannot be opened: {error}", ("ready",)).result()
                    continue
                self._token += 1
                lease = Lease(seq, job, key or job, query, attempts, now + self.limits.lease_s, self._token)
                self._leases[seq] = lease
                taken.append(lease)
            return taken

    def sent(self, lease: Lease) -> None:
        """Note, durably, that the job is about to leave. Send nothing before this returns.

        Raises:
            JobStateError: it may not be sent any more: it was cancelled, has expired, or is somebody else's.
        """
        self._check_held(lease)

        def change(c: Connection) -> None:
            updated = c.execute(
                "UPDATE job SET state = 'sent', attempts = attempts + 1 "
                "WHERE seq = ? AND id = ? AND state IN ('ready', 'sent') "
                "AND (deadline IS NULL OR deadline > ?)",
                (lease.seq, lease.id, self._store.clock.now()),
            )
            if not updated.rowcount:
                raise JobStateError(
                    f"the job {lease.id} may not be sent any more: it was cancelled or is late"
                )

        try:
            self._store.write(change)
        except JobStateError:
            self._drop(lease)
            raise

    def complete(self, lease: Lease, answer: Answer) -> bool:
        """Keep the answer, durably; `False` when the job is finished already and the answer is dropped.

        Also after the lease has lapsed: an answer that was paid for is not thrown away.
        """
        content, clock = encode_answer(answer), self._store.clock

        def change(c: Connection) -> bool:
            row = c.execute(
                "SELECT state, size FROM job WHERE seq = ? AND id = ?", (lease.seq, lease.id)
            ).fetchone()
            if row is None or row[0] in FINISHED:
                return False
            keys, size = self._store.keys, len(content) + OVERHEAD
            self._room.used(c)
            sealed = keys.seal(content, f"answer/{lease.id}")
            c.execute("DELETE FROM request WHERE seq = ?", (lease.seq,))
            c.execute("INSERT INTO answer (seq, content) VALUES (?, ?)", (lease.seq, sealed))
            c.execute(
                "UPDATE job SET state = 'done', finished = ?, size = ?, seal_key = ?, reason = NULL "
                "WHERE seq = ?",
                (clock.now(), size, keys.current, lease.seq),
            )
            self._room.add(-1, size - row[1])
            return True

        kept = self._store.write(change)
        self._drop(lease)
        return kept

    def retry(self, lease: Lease, reason: str, after_s: float = 0.0) -> JobState:
        """Put a job back after a failure that may pass: it is `ready`, or `dead` after the last try.

        It waits by the backoff, and at least `after_s` (what the other side asked for). `reason` is kept in
        clear: it must not hold content. A finished job stays as it is.
        """
        now = self._store.clock.now()

        def change(c: Connection) -> JobState:
            row = c.execute(
                "SELECT state, attempts FROM job WHERE seq = ? AND id = ?", (lease.seq, lease.id)
            ).fetchone()
            if row is None or row[0] in FINISHED or not self._is_held(lease):
                return "cancelled" if row is None else row[0]
            if row[1] >= self.limits.max_attempts:
                self._end(c, lease.seq, "dead", f"{reason} (after {row[1]} attempts)")
                return "dead"
            wait = max(self._backoff.wait_s(row[1], self._jitter), after_s)
            c.execute(
                "UPDATE job SET state = 'ready', not_before = ?, reason = ? WHERE seq = ?",
                (now + wait, reason, lease.seq),
            )
            return "ready"

        state = self._store.write(change)
        self._drop(lease)
        return state

    def fail(self, lease: Lease, reason: str) -> None:
        """Give a job up for good: it is dead, with a reason that must not hold content."""
        if self._is_held(lease):
            self._finish(lease.id, "dead", reason, ("ready", "sent")).result()
            self._drop(lease)

    def release(self, lease: Lease) -> None:
        """Give a lease back, as if it had not been taken: no attempt failed, no wait begins."""
        if self._is_held(lease):
            self._store.write(lambda c: _back(c, lease.seq, lease.id))
            self._drop(lease)

    # 3. Inside

    def _restart(self, c: Connection) -> None:
        """What was sent when the last owner ended is ready again, or dead after its last attempt."""
        rows = c.execute("SELECT seq, id, attempts FROM job WHERE state = 'sent'").fetchall()
        for seq, job, attempts in rows:
            if attempts >= self.limits.max_attempts:
                self._end(c, seq, "dead", f"the device stopped during its attempt {attempts}, the last")
            else:
                _back(c, seq, job)

    def _same(self, c: Connection, query: Query, content: bytes) -> str | None:
        if query.idempotency_key is None:
            return None
        row = c.execute(
            "SELECT job.id, content FROM job LEFT JOIN request USING (seq) "
            "WHERE idempotency_key = ? AND coalesce(user, '') = ?",
            (query.idempotency_key, query.user or ""),
        ).fetchone()
        if row is None:
            return None
        job = str(row[0])
        if row[1] is not None:
            before = decode_query(self._store.keys.open(row[1], f"request/{job}"))
            if (before.messages, before.params) != (query.messages, decode_query(content).params):
                raise IdempotencyError(
                    f"the idempotency key '{query.idempotency_key}' was used for another query (job {job}). "
                    f"A new query needs a new key"
                )
        return job

    def _due(self, c: Connection, now: float, count: int) -> list[Any]:
        keys: Sequence[str] = self._store.keys.ids
        return c.execute(
            f"""
            SELECT j.seq, j.id, j.attempts, j.idempotency_key, r.content FROM job j JOIN request r USING (seq)
            WHERE j.state = 'ready' AND j.not_before <= ? AND (j.deadline IS NULL OR j.deadline > ?)
              AND j.seal_key IN ({", ".join("?" * len(keys))})
              AND (j.conversation IS NULL OR NOT EXISTS (
                SELECT 1 FROM job k WHERE k.conversation = j.conversation AND k.state IN ('ready', 'sent')
                  AND k.seq < j.seq AND k.user IS j.user))
            ORDER BY j.priority DESC, j.seq LIMIT ?
            """,
            (now, now, *keys, count + len(self._leases)),
        ).fetchall()

    def _lapse(self, now: float) -> None:
        """Leases that were held for too long are over; what was sent under them is ready again."""
        for lease in [lease for lease in self._leases.values() if lease.until <= now]:
            self._store.write(partial(_back, seq=lease.seq, job=lease.id))
            self._leases.pop(lease.seq, None)

    def _is_held(self, lease: Lease) -> bool:
        held = self._leases.get(lease.seq)
        return held is not None and held.token == lease.token

    def _check_held(self, lease: Lease) -> None:
        if not self._is_held(lease):
            raise JobStateError(f"the lease of the job {lease.id} is over: lease it again")

    def _drop(self, lease: Lease) -> None:
        if self._is_held(lease):
            self._leases.pop(lease.seq, None)


def _back(c: Connection, seq: int, job: str) -> None:
    c.execute("UPDATE job SET state = 'ready' WHERE seq = ? AND id = ? AND state = 'sent'", (seq, job))
