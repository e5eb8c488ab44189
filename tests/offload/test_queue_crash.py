"""The power fails at every moment of every scenario: nothing acknowledged is lost, nothing is corrupt.

The same harness with `synchronous=OFF` must find losses: the control that it can see them.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from offload.queue import Backoff, Limits, Queue, Retention
from offload.store import Store
from offload.store.migrations import NAMES, migrate
from tests.offload.crash_disk import Connection, Disk, Recorded, rebuild
from tests.offload.queue_support import KEY, Clocks, keys, open_store, query, reply

Check = Callable[[sqlite3.Connection], bool]


def exists(job: str) -> Check:
    return lambda c: c.execute("SELECT 1 FROM job WHERE id = ?", (job,)).fetchone() is not None


def is_in(job: str, *states: str) -> Check:
    return lambda c: c.execute("SELECT state FROM job WHERE id = ?", (job,)).fetchone()[0] in states


def is_answered(job: str) -> Check:
    sql = "SELECT content FROM job JOIN answer USING (seq) WHERE id = ? AND state = 'done'"
    return lambda c: c.execute(sql, (job,)).fetchone() is not None


class Scene:
    """A queue on a recorded disk."""

    def __init__(self, folder: Path, settings: dict[str, str] | None = None, **limits: int) -> None:
        self.recorded, self.folder, self.clocks = Recorded(), folder, Clocks()
        self._name = f"crash-{id(self)}"
        self._disk = Disk(self._name, self.recorded)
        self._settings = settings or {}
        self.store = self.open()
        self.queue = Queue(self.store, Limits(**limits), Backoff(1.0, 1.0), Retention(10.0))

    def open(self) -> Store:
        def connect(path: Path) -> Connection:
            return Connection(path, self._name, self._settings)

        return Store(self.folder / "store.db", keys(KEY), times=self.clocks, connect=connect, window_s=0.02)

    def put(self, count: int, size: int = 700, **fields: object) -> list[str]:
        futures = [self.queue.submit(query("x" * size, **fields)) for _ in range(count)]
        jobs = [future.result().id for future in futures]
        for job in jobs:
            self.recorded.promise(exists(job))
        return jobs


def put(scene: Scene) -> None:
    for _ in range(10):
        scene.put(1)


def group_commit(scene: Scene) -> None:
    for _ in range(4):
        scene.put(8)


def lease_and_complete(scene: Scene) -> None:
    scene.put(6)
    for lease in scene.queue.lease(6):
        scene.queue.sent(lease)
        scene.recorded.promise(is_in(lease.id, "sent", "done"))
        scene.queue.complete(lease, reply("y" * 1200))
        scene.recorded.promise(is_answered(lease.id))


def fail_and_cancel(scene: Scene) -> None:
    jobs = scene.put(6)
    for lease in scene.queue.lease(3):
        scene.queue.sent(lease)
        scene.queue.retry(lease, "reset")
    for job in jobs[3:]:
        scene.queue.cancel(job)
        scene.recorded.promise(is_in(job, "cancelled"))


def checkpoint(scene: Scene) -> None:
    for _ in range(3):
        scene.put(4)
        scene.store.read(lambda c: c.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())
    scene.put(2)


def purge(scene: Scene) -> None:
    scene.put(4)
    for lease in scene.queue.lease(4):
        scene.queue.complete(lease, reply())
    kept = scene.put(2)
    scene.recorded.entries[:] = [
        entry for entry in scene.recorded.entries if entry[0] != "promise"
    ]  # the purge takes back what was promised about the four
    for job in kept:
        scene.recorded.promise(exists(job))
    scene.clocks.pass_s(20.0)
    assert scene.queue.purge() == 4
    scene.put(2)


def restart(scene: Scene) -> None:
    scene.put(3)
    for lease in scene.queue.lease(2):
        scene.queue.sent(lease)
    scene.store.close()
    scene.store = scene.open()
    scene.queue = Queue(scene.store)
    scene.put(2)


SCENARIOS = (put, group_commit, lease_and_complete, fail_and_cancel, checkpoint, purge, restart)


def crash(
    tmp_path: Path, scenario: Callable[[Scene], None], every: int, settings: dict[str, str] | None = None
) -> tuple[int, int, int]:
    """Rebuild the disk at every `every`-th moment; gives states, states with losses, corrupt states."""
    scene = Scene(tmp_path / "run", settings)
    scenario(scene)
    scene.store.close()
    states = lost = corrupt = 0
    for upto in range(1, len(scene.recorded.entries) + 1, every):
        folder = tmp_path / "disk"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        promises = rebuild(scene.recorded, upto, random.Random(upto), folder)
        states += 1
        with closing(sqlite3.connect(folder / "store.db")) as connection:
            whole = is_whole(connection)
            corrupt += not whole
            lost += whole and not all(holds(check, connection) for check in promises)
        if settings is None and upto % 7 == 0:
            see_that_the_store_opens(folder)
    return states, lost, corrupt


def is_whole(connection: sqlite3.Connection) -> bool:
    try:
        return connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    except sqlite3.Error:
        return False


def holds(check: Check, connection: sqlite3.Connection) -> bool:
    try:
        return check(connection)
    except (sqlite3.OperationalError, TypeError):  # the table, or the row that the check looks into, is gone
        return False


def see_that_the_store_opens(folder: Path) -> None:
    """The store itself goes on from such a disk: no salvage, and every job that waits can be leased."""
    with open_store(folder) as store:
        assert store.salvaged is None
        queue = Queue(store, Limits(max_rows=10_000))
        store.clock._base += 100.0  # past every backoff
        waiting = [job.id for job in queue.jobs("ready")]
        assert sorted(lease.id for lease in queue.lease(1000)) == sorted(waiting)
        queue.put(query())
        assert store.check() == []


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.__name__)
def test_power_loss_loses_nothing_that_was_acknowledged(
    scenario: Callable[[Scene], None], tmp_path: Path
) -> None:
    states, lost, corrupt = crash(tmp_path, scenario, every=5)
    assert states > 5
    assert (lost, corrupt) == (0, 0)


@pytest.mark.heavy
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.__name__)
def test_power_loss_at_every_moment(scenario: Callable[[Scene], None], tmp_path: Path) -> None:
    def longer(scene: Scene) -> None:
        for _ in range(1 if scenario in (purge, restart) else 3):
            scenario(scene)

    _, lost, corrupt = crash(tmp_path, longer, every=1)
    assert (lost, corrupt) == (0, 0)


def test_the_harness_sees_losses_when_nothing_is_synced(tmp_path: Path) -> None:
    states, lost, corrupt = crash(tmp_path, put, every=3, settings={"synchronous": "OFF"})
    assert lost + corrupt > states / 4


def test_the_harness_sees_what_normal_takes_back(tmp_path: Path) -> None:
    states, lost, corrupt = crash(tmp_path, put, every=3, settings={"synchronous": "NORMAL"})
    assert lost > states / 4
    assert corrupt == 0


def test_power_loss_during_an_upgrade_leaves_one_version_or_the_other(tmp_path: Path) -> None:
    recorded = Recorded()
    disk = Disk("crash-migrate", recorded)
    (tmp_path / "run").mkdir()
    connection = Connection(tmp_path / "run" / "store.db", "crash-migrate")
    for setting in ("page_size=1024", "locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=FULL"):
        connection.execute(f"PRAGMA {setting}")
    migrate(connection, "x", stop_before=NAMES[1])
    connection.execute("INSERT INTO meta VALUES ('kept', 'yes')")
    begun = len(recorded.entries)
    migrate(connection, "x")
    connection.close()
    assert len(recorded.entries) > begun
    versions = set()
    for upto in range(begun, len(recorded.entries) + 1):
        folder = tmp_path / "disk"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        rebuild(recorded, upto, random.Random(upto), folder)
        plain = sqlite3.connect(folder / "store.db")
        tables = {row[0] for row in plain.execute("SELECT name FROM sqlite_schema").fetchall()}
        versions.add("job" in tables)
        assert ("job" in tables) == ("request" in tables) == ("job_ready" in tables)
        plain.close()
        with open_store(folder) as store:
            assert store.salvaged is None
            kept = store.read(lambda c: c.execute("SELECT value FROM meta WHERE name = 'kept'").fetchone())
            assert kept == ("yes",)
            Queue(store).put(query())
    assert versions == {False, True}
    del disk


WORKER = """
import sys
sys.path.insert(0, ".")
from pathlib import Path
from offload.queue import Queue
from tests.offload.queue_support import open_store, query, reply
with open_store(Path(sys.argv[1]), window_s=0.001) as store:
    queue = Queue(store)
    print("open", flush=True)
    while True:
        for future in [queue.submit(query("x" * 500)) for _ in range(4)]:
            print("put", future.result().id, flush=True)
        for lease in queue.lease(3):
            queue.sent(lease)
            if queue.complete(lease, reply()):
                print("done", lease.id, flush=True)
"""


def kill_rounds(folder: Path, rounds: int, source: random.Random) -> int:
    """Kill a working process at random moments; gives the number of jobs that it had acknowledged."""
    acknowledged: dict[str, str] = {}
    for _ in range(rounds):
        with subprocess.Popen(
            [sys.executable, "-c", WORKER, str(folder)], stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "open\n"
            for _ in range(source.randrange(1, 60)):
                kind, job = child.stdout.readline().split()
                acknowledged[job] = kind
            os.kill(child.pid, signal.SIGKILL)
            for line in child.stdout:  # what it had said before it died; the last line may be cut
                if line.endswith("\n"):
                    kind, job = line.split()
                    acknowledged[job] = kind
        with open_store(folder) as store:
            queue = Queue(store)
            assert (store.salvaged, store.check()) == (None, [])
            states = {job.id: job.state for job in queue.jobs()}
            assert acknowledged.keys() <= states.keys()
            assert all(states[job] == "done" for job, kind in acknowledged.items() if kind == "done")
            assert not {"sent", "leased"} & set(states.values())
    return len(acknowledged)


def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    assert kill_rounds(tmp_path, 3, random.Random(1)) > 3


@pytest.mark.heavy
def test_kill_9_in_many_rounds(tmp_path: Path) -> None:
    assert kill_rounds(tmp_path, 100, random.Random(2)) > 100
