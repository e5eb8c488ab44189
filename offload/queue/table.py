"""The jobs of a queue as they stand on the disk: looking at them, ending them, cleaning up."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

from offload.queue.codec import decode_answer, decode_query
from offload.queue.errors import JobNotFoundError, JobStateError
from offload.queue.jobs import FINISHED, Job, JobState, Lease, Limits, Retention
from offload.queue.room import Room
from offload.store import Store
from offload.store.connection import Connection
from offload.types import Answer, Query

__all__ = ["JobTable"]

_COLUMNS = (
    "seq, id, state, priority, attempts, created_at, idempotency_key, conversation, user, labels, reason, "
    "not_before, deadline, taken, size"
)
_PAGE = 256


class JobTable:
    """What can be done with jobs without sending them. Use it through `offload.queue.Queue`."""

    def __init__(self, store: Store, limits: Limits, retention: Retention) -> None:
        self.limits = limits
        self._store, self._retention = store, retention
        self._room = Room(store, limits)
        self._leases: dict[int, Lease] = {}

    # 1. Asking about jobs

    def get(self, job: str) -> Job:
        """What is known about a job.

        Raises:
            JobNotFoundError: there is none with this id.
        """
        row = self._store.read(
            lambda c: c.execute(f"SELECT {_COLUMNS} FROM job WHERE id = ?", (job,)).fetchone()
        )
        if row is None:
            raise _not_found(job)
        return self._job(row)

    def jobs(self, state: JobState | None = None) -> Iterator[Job]:
        """All jobs, or those in one state, in the order in which they were put."""
        last = 0
        while True:
            rows = self._store.read(partial(_page, after=last))
            for row in rows:
                found = self._job(row)
                if state in (None, found.state):
                    yield found
            if len(rows) < _PAGE:
                return
            last = rows[-1][0]

    def answer(self, job: str) -> Answer | None:
        """The answer of a job; `None` when there is none (yet).

        Raises:
            JobNotFoundError: there is no such job.
            KeyLostError, SealError: it cannot be opened.
        """
        content = self._content("answer", job)
        return None if content is None else decode_answer(content)

    def query(self, job: str) -> Query | None:
        """The query of a job; `None` when it was erased, as after an answer. Raises what `answer` does."""
        content = self._content("request", job)
        return None if content is None else decode_query(content)

    def unreadable(self) -> int:
        """Jobs that wait for a key that is not at hand."""
        keys = self._store.keys.ids
        marks = ", ".join("?" * len(keys))
        sql = f"SELECT count(*) FROM job WHERE state IN ('ready', 'sent') AND seal_key NOT IN ({marks})"
        return int(self._store.read(lambda c: c.execute(sql, keys).fetchone()[0]))

    def used(self) -> tuple[int, int]:
        """Jobs that wait or are under way, and bytes of all sealed contents."""
        return self._store.write(self._room.used)

    def next_due_s(self) -> float | None:
        """Seconds until a waiting job is due, 0 when one is; `None` when none waits."""
        sql = "SELECT min(not_before) FROM job WHERE state = 'ready'"
        row = self._store.read(lambda c: c.execute(sql).fetchone())
        return None if row[0] is None else max(row[0] - self._store.clock.now(), 0.0)

    # 2. Ending and cleaning up

    def cancel(self, job: str) -> JobState:
        """Cancel a job and erase its content; gives the state that it was in.

        A job that was `sent` may be answered all the same; the answer is then dropped.

        Raises:
            JobNotFoundError: there is no such job.
            JobStateError: it is finished.
        """
        return self._finish(job, "cancelled", None, ("ready", "sent"), strict=True).result()

    def revive(self, job: str) -> None:
        """Make a dead or expired job ready again, with all its attempts and no deadline.

        Raises:
            JobNotFoundError: there is no such job.
            JobStateError: it is neither dead nor expired, or its content is gone.
        """

        def change(c: Connection) -> None:
            row = c.execute(
                "SELECT seq, state, EXISTS (SELECT 1 FROM request r WHERE r.seq = job.seq) "
                "FROM job WHERE id = ?",
                (job,),
            ).fetchone()
            if row is None:
                raise _not_found(job)
            if row[1] not in ("dead", "expired"):
                raise JobStateError(
                    f"the job {job} is {row[1]}: only a dead or expired one can be tried again"
                )
            if not row[2]:
                raise JobStateError(f"the job {job} cannot be tried again: its content was erased. Ask anew")
            self._room.used(c)
            c.execute(
                "UPDATE job SET state = 'ready', attempts = 0, not_before = ?, deadline = NULL, "
                "finished = NULL, reason = NULL WHERE seq = ?",
                (self._store.clock.now(), row[0]),
            )
            self._room.add(1, 0)

        self._store.write(change)

    def taken(self, job: str) -> None:
        """The application has the answer: it may go when room is needed.

        Raises:
            JobNotFoundError: there is no such job.
        """

        def change(c: Connection) -> None:
            if not c.execute(
                "UPDATE job SET taken = 1 WHERE id = ? AND finished IS NOT NULL", (job,)
            ).rowcount:
                raise _not_found(job)

        self._store.write(change)

    def expire(self) -> int:
        """Mark the waiting jobs whose deadline has passed; gives how many. A job under way is left to end."""
        now = self._store.clock.now()
        late = (
            "SELECT seq FROM job INDEXED BY job_deadline "
            "WHERE state = 'ready' AND deadline IS NOT NULL AND deadline <= ?"
        )
        if self._store.read(lambda c: c.execute(f"{late} LIMIT 1", (now,)).fetchone()) is None:
            return 0

        def change(c: Connection) -> int:
            rows = c.execute(late, (now,)).fetchall()
            for (seq,) in rows:
                self._end(c, seq, "expired", "its deadline passed before it could be sent")
            return len(rows)

        return self._store.write(change)

    def purge(self) -> int:
        """Delete what was kept long enough; gives the number of jobs."""
        self.expire()
        now = self._store.clock.now()

        def change(c: Connection) -> int:
            self._room.used(c)
            rows = c.execute(
                "SELECT seq, finished, queued, labels, size FROM job WHERE finished IS NOT NULL"
            ).fetchall()
            gone = []
            for seq, finished, queued, labels, size in rows:
                limit = self._retention.of(json.loads(labels))
                if now - finished >= self._retention.finished_s or (
                    limit is not None and now - queued >= limit
                ):
                    gone.append((seq, size))
            for seq, _ in gone:
                c.execute("DELETE FROM job WHERE seq = ?", (seq,))
            self._room.add(0, -sum(size for _, size in gone))
            return len(gone)

        return self._store.write(change)

    def forget(self, user: str) -> int:
        """Erase every job of a user, whatever its state; gives the number."""

        def change(c: Connection) -> int:
            self._room.used(c)
            rows = c.execute("SELECT seq, state, size FROM job WHERE user = ?", (user,)).fetchall()
            c.execute("DELETE FROM job WHERE user = ?", (user,))
            live = sum(state in ("ready", "sent") for _, state, _ in rows)
            self._room.add(-live, -sum(size for _, _, size in rows))
            return len(rows)

        return self._store.write(change)

    # 3. Inside

    def _finish(
        self, job: str, state: JobState, reason: str | None, allowed: tuple[str, ...], strict: bool = False
    ) -> Future[JobState]:
        def change(c: Connection) -> JobState:
            row = c.execute("SELECT seq, state FROM job WHERE id = ?", (job,)).fetchone()
            if row is None:
                raise _not_found(job)
            before: JobState = row[1]
            if before not in allowed:
                if strict:
                    raise JobStateError(f"the job {job} is {before} already")
                return before
            self._end(c, row[0], state, reason)
            return before

        return self._store.submit(change)

    def _end(self, c: Connection, seq: int, state: JobState, reason: str | None) -> None:
        """A waiting or sent job ends without an answer. What may be tried again keeps its content."""
        self._room.used(c)
        size = c.execute("SELECT size FROM job WHERE seq = ?", (seq,)).fetchone()[0]
        erased = state == "cancelled"
        if erased:
            c.execute("DELETE FROM request WHERE seq = ?", (seq,))
        c.execute(
            "UPDATE job SET state = ?, reason = ?, finished = ?, size = ? WHERE seq = ?",
            (state, reason, self._store.clock.now(), 0 if erased else size, seq),
        )
        self._room.add(-1, -size if erased else 0)

    def _content(self, table: str, job: str) -> bytes | None:
        sql = f"SELECT content FROM job LEFT JOIN {table} USING (seq) WHERE id = ?"
        row = self._store.read(lambda c: c.execute(sql, (job,)).fetchone())
        if row is None:
            raise _not_found(job)
        return None if row[0] is None else self._store.keys.open(row[0], f"{table}/{job}")

    def _job(self, row: Sequence[Any]) -> Job:
        (seq, job, state, priority, attempts, created, key, conversation, user, labels, reason, not_before,
         deadline, taken, size) = row  # fmt: skip
        now = self._store.clock.now()
        return Job(
            id=job,
            state="leased" if state == "ready" and seq in self._leases else state,
            priority=priority,
            attempts=attempts,
            created_at=created,
            idempotency_key=key or job,
            conversation_id=conversation,
            user=user,
            labels=tuple(json.loads(labels)),
            reason=reason,
            ready_in_s=max(not_before - now, 0.0) if state == "ready" else 0.0,
            expires_in_s=None if deadline is None or state in FINISHED else max(deadline - now, 0.0),
            taken=bool(taken),
            size=size,
        )


def _not_found(job: str) -> JobNotFoundError:
    return JobNotFoundError(f"there is no job '{job}' (finished jobs are deleted after their retention)")


def _page(c: Connection, after: int) -> list[Any]:
    sql = f"SELECT {_COLUMNS} FROM job WHERE seq > ? ORDER BY seq LIMIT {_PAGE}"
    return c.execute(sql, (after,)).fetchall()
