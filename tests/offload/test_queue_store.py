"""The store: settings, versions, keys, the clock, one owner, and what becomes of a damaged file."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from offload.queue import JobStateError, Queue
from offload.store import (
    DeviceClock,
    KeyLostError,
    Keyring,
    SealError,
    Store,
    StoreBusyError,
    StoreClosedError,
    StoreError,
    StoreKeyError,
    StoreReadOnlyError,
    StoreSettingsError,
    StoreVersionError,
    add_key,
    drop_old_keys,
    from_command,
    from_credential,
    from_file,
)
from offload.store import migrations as store_migrations
from offload.store.clock import MAX_OFF_S, Mark
from offload.store.connection import connect, prepare
from offload.store.migrations import NAMES, applied, migrate
from tests.offload.queue_support import (
    KEY,
    START,
    Clocks,
    key_line,
    keys,
    open_store,
    query,
    reply,
)

FIXTURES = Path(__file__).parent.parent / "vectors" / "store"


def schema(connection: Any) -> list[tuple[str, str]]:
    rows = connection.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name")
    return [(name, " ".join(sql.split())) for name, sql in rows.fetchall()]


# Settings and versions


def test_every_setting_that_a_promise_rests_on_is_what_it_must_be(tmp_path: Path) -> None:
    wanted = {
        "page_size": 1024, "journal_mode": "wal", "synchronous": 2, "locking_mode": "exclusive",
        "foreign_keys": 1, "trusted_schema": 0,
    }  # fmt: skip
    with open_store(tmp_path) as store:
        found = {
            name: store.read(lambda c, n=name: c.execute(f"PRAGMA {n}").fetchone()[0]) for name in wanted
        }
    assert found == wanted


def test_a_setting_that_sqlite_does_not_take_is_named(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "store.db") as other:
        other.execute("PRAGMA page_size=4096")
        other.execute("CREATE TABLE t (x)")
    other.close()
    with pytest.raises(StoreSettingsError, match="SQLite has page_size=4096 where the store needs 1024"):
        open_store(tmp_path)
    memory = sqlite3.connect(":memory:")
    with pytest.raises(StoreSettingsError, match="journal_mode=memory where the store needs wal"):
        prepare(memory, "x")
    memory.close()


def test_a_store_of_every_version_is_kept_as_a_fixture() -> None:
    assert [path.stem for path in sorted(FIXTURES.glob("*.sql"))] == list(NAMES)


@pytest.mark.parametrize("version", NAMES)
def test_a_store_of_an_earlier_version_becomes_one_of_the_newest(version: str, tmp_path: Path) -> None:
    old = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    old.execute("PRAGMA page_size=1024")
    old.executescript((FIXTURES / f"{version}.sql").read_text(encoding="utf-8"))
    assert applied(old) == NAMES[: NAMES.index(version) + 1]
    tables = [row[0] for row in old.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()]
    content = {
        table: old.execute(f"SELECT * FROM {table}").fetchall() for table in tables if table[0] not in "_s"
    }
    assert any(content.values())
    old.close()
    with open_store(tmp_path) as store, open_store(tmp_path / "fresh") as fresh:
        assert store.salvaged is None
        assert store.read(schema) == fresh.read(schema)
        assert store.read(applied) == NAMES
        for table, rows in content.items():
            assert store.read(lambda c, t=table: c.execute(f"SELECT * FROM {t}").fetchall()) == rows
        if "job" in content:
            assert [
                queued.messages[0].content for queued in map(Queue(store).query, _ids(store)) if queued
            ] == ["from an earlier version"]


def _ids(store: Store) -> list[str]:
    return [row[0] for row in store.read(lambda c: c.execute("SELECT id FROM job ORDER BY seq").fetchall())]


def test_a_migration_that_fails_leaves_the_version_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = connect(tmp_path / "store.db")
    migrate(connection, "x", stop_before=NAMES[1])
    before = schema(connection)

    def broken(db: Any) -> None:
        db.execute("CREATE TABLE half (x)")
        raise RuntimeError("power")

    monkeypatch.setattr(store_migrations, "_ALL", (store_migrations.m001_store, broken))
    monkeypatch.setattr(store_migrations, "NAMES", ("m001_store", "broken"))
    with pytest.raises(RuntimeError):
        migrate(connection, "x")
    assert schema(connection) == before
    connection.close()


def test_a_store_of_a_newer_release_is_left_alone(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        sql = "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES (?, 'm999', '')"
        store.write(lambda c: c.execute(sql, ("edge-runtime",)).rowcount)
    with pytest.raises(StoreVersionError, match=r"newer release .*'m999'.* Install that release"):
        open_store(tmp_path)


# One owner, one thread


def test_a_second_process_is_told_who_owns_the_store(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, '.')\n"
        "from pathlib import Path\n"
        "from tests.offload.queue_support import open_store\n"
        "store = open_store(Path(sys.argv[1])); print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"open\n"
        with pytest.raises(StoreBusyError, match=f"belongs to the process {child.pid} as long as it runs"):
            open_store(tmp_path)
        child.send_signal(signal.SIGKILL)
    open_store(tmp_path).close()


def test_changes_that_come_together_share_a_transaction(tmp_path: Path) -> None:
    with open_store(tmp_path, window_s=0.2) as store:
        begun: list[str] = []
        store.read(lambda c: c.set_trace_callback(lambda sql: begun.append(sql)))
        futures = [store.submit(lambda c: c.execute("SELECT 1").fetchone()) for _ in range(20)]
        assert [future.result() for future in futures] == [(1,)] * 20
        assert begun.count("COMMIT") == 1


def test_a_change_that_fails_is_undone_alone(tmp_path: Path) -> None:
    def bad(c: Any) -> None:
        c.execute("INSERT INTO meta VALUES ('bad', '')")
        raise ValueError("no")

    with open_store(tmp_path, window_s=0.1) as store:
        good = store.submit(lambda c: c.execute("INSERT INTO meta VALUES ('good', '')").rowcount)
        wrong, late = (
            store.submit(bad),
            store.submit(lambda c: c.execute("INSERT INTO meta VALUES ('late', '')")),
        )
        assert good.result() == 1
        with pytest.raises(ValueError, match="no"):
            wrong.result()
        late.result()
        names = store.read(lambda c: c.execute("SELECT name FROM meta ORDER BY name").fetchall())
    assert names == [("clock",), ("good",), ("late",)]


def test_what_was_submitted_before_closing_is_done_and_nothing_after(tmp_path: Path) -> None:
    store = open_store(tmp_path, window_s=0.5)
    future = store.submit(lambda c: 7)
    store.close()
    store.close()
    assert future.result(timeout=0) == 7
    for use in (store.submit, store.read):
        with pytest.raises(StoreClosedError, match="the store is closed"):
            use(lambda c: 1)


def test_threads_can_put_at_the_same_time(tmp_path: Path) -> None:
    with open_store(tmp_path, window_s=0.002) as store:
        queue = Queue(store)

        def work(name: int) -> None:
            for number in range(10):
                queue.put(query(f"{name}-{number}"))

        threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        texts = {lease.query.messages[0].content for lease in queue.lease(100)}
        assert texts == {f"{name}-{number}" for name in range(8) for number in range(10)}


def test_a_file_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.read(lambda c: c.execute("PRAGMA query_only=1").fetchall())
        with pytest.raises(
            StoreReadOnlyError, match=r"cannot be written\. See that the disk is mounted writable"
        ):
            Queue(store)
        store.read(lambda c: c.execute("PRAGMA query_only=0").fetchall())
        Queue(store).put(query())
    with pytest.raises(StoreReadOnlyError, match="See that the disk is mounted writable"):
        Store(Path("/proc/nothing/store.db"), keys())


# Damage


def fill(folder: Path, count: int = 60) -> list[str]:
    with open_store(folder) as store:
        queue = Queue(store)
        futures = [queue.submit(query(f"{number} " + "x" * 900)) for number in range(count)]
        jobs = [future.result().id for future in futures]
        (lease,) = queue.lease()
        queue.complete(lease, reply("kept"))
    return jobs


@pytest.mark.parametrize("damage", ["a page", "the index", "the head", "all", "half is missing"])
def test_a_damaged_store_is_set_aside_salvaged_and_said_so(damage: str, tmp_path: Path) -> None:
    jobs = fill(tmp_path)
    path = tmp_path / "store.db"
    content = bytearray(path.read_bytes())
    table, index = _pages(path)
    if damage == "a page":
        content[table * 1024 : table * 1024 + 1024] = os.urandom(1024)
    elif damage == "the index":
        content[index * 1024 : index * 1024 + 1024] = os.urandom(1024)
    elif damage == "the head":
        content[:1024] = os.urandom(1024)
    elif damage == "all":
        content[:] = os.urandom(len(content))
    else:
        del content[len(content) // 2 :]
    path.write_bytes(content)
    with open_store(tmp_path) as store:
        queue = Queue(store)
        found = {job.id: job for job in queue.jobs()}
        queue.lease(100)
        queue.cancel(queue.put(query()).id)
        assert store.salvaged is not None
        assert store.check() == []
        assert store.salvaged.aside.exists()
        assert "is set aside as" in store.salvaged.describe()
        found = {job.id: job for job in queue.jobs()}
        kept = [job for job in jobs if job in found]
        if damage == "the index":
            assert kept == jobs
        if damage == "a page":
            assert 40 <= len(kept) < 60
            assert store.salvaged.jobs_lost == 60 - len(kept)
        for job in kept:
            if found[job].state in ("leased", "ready"):
                asked = queue.query(job)
                assert asked is not None
                assert asked.messages[0].content.endswith("xxx")
        if jobs[0] in found and found[jobs[0]].state == "done":
            answer = queue.answer(jobs[0])
            assert answer is not None
            assert answer.text == "kept"
        assert queue.used()[0] == sum(job.state in ("ready", "leased", "sent") for job in found.values())


def _pages(path: Path) -> tuple[int, int]:
    """Numbers, from 0, of a leaf page in the middle of the table of jobs and of the root of an index."""
    connection = sqlite3.connect(path)
    roots = dict(connection.execute("SELECT name, rootpage FROM sqlite_schema").fetchall())
    connection.close()
    data = path.read_bytes()
    root = (roots["job"] - 1) * 1024
    children = [
        int.from_bytes(data[root + at : root + at + 4], "big")
        for at in (int.from_bytes(data[root + 12 + 2 * n : root + 14 + 2 * n], "big") for n in range(3))
    ]
    return children[1] - 1, roots["job_ready"] - 1


def test_a_job_whose_question_was_lost_is_dead_and_not_forgotten(tmp_path: Path) -> None:
    jobs = fill(tmp_path, 3)
    with open_store(tmp_path) as store:
        store.write(lambda c: c.execute("UPDATE request SET content = zeroblob(64) WHERE seq = 2").rowcount)
        store._recover(
            sqlite3.DatabaseError("database disk image is malformed")
        )  # what damage met in use does
        queue = Queue(store)
        assert [queue.get(job).state for job in jobs] == ["done", "dead", "ready"]
        assert queue.get(jobs[1]).reason == "its question was lost when the store was damaged"
        assert store.salvaged is not None
        assert (store.salvaged.jobs, store.salvaged.contents_lost, store.salvaged.jobs_lost) == (3, 1, 0)


def test_a_lease_from_before_the_damage_never_touches_a_job_that_got_its_number(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        queue = Queue(store)
        queue.put(query("lost"))
        (lease,) = queue.lease()
        store.write(lambda c: c.execute("DELETE FROM job").rowcount)
        store.write(lambda c: c.execute("DELETE FROM sqlite_sequence").rowcount)
        store._recover(sqlite3.DatabaseError("database disk image is malformed"))
        new = queue.put(query("new")).id
        with pytest.raises(JobStateError, match="may not be sent any more"):
            queue.sent(lease)
        assert not queue.complete(lease, reply("for the lost one"))
        assert queue.get(new).state == "ready"
        assert queue.used()[0] == 1


# Keys


def test_a_key_file_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "store.key"
    first, second = from_file(path)(), from_file(path)()
    assert first.ids == second.ids
    assert path.stat().st_mode & 0o777 == 0o600
    assert second.open(first.seal(b"x", "request/1"), "request/1") == b"x"


def test_a_key_file_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "store.key"
    from_file(path)()
    path.chmod(0o640)
    with pytest.raises(StoreKeyError, match=r"others can read \(mode 0640\) is not used.*chmod 600"):
        from_file(path)()


@pytest.mark.parametrize("content", ["", "# none\n", "edge-store-key AAAA\n", "secret\n", key_line(KEY) * 2])
def test_a_wrong_key_file_is_named_and_its_content_never_shown(content: str, tmp_path: Path) -> None:
    path = tmp_path / "store.key"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(StoreKeyError, match=r"store\.key") as caught:
        from_file(path)()
    assert not any(word in str(caught.value) for word in ("AAAA", "secret", key_line(KEY).split()[1]))


def test_a_key_comes_from_a_credential_or_a_command(tmp_path: Path) -> None:
    (tmp_path / "edge").write_text(key_line(KEY))
    expected = Keyring([KEY]).ids
    assert from_credential("edge", {"CREDENTIALS_DIRECTORY": str(tmp_path)})().ids == expected
    assert from_command(["cat", str(tmp_path / "edge")])().ids == expected
    with pytest.raises(
        StoreKeyError, match=r"CREDENTIALS_DIRECTORY is not set\. Start the service under systemd"
    ):
        from_credential("edge", {})()
    with pytest.raises(StoreKeyError, match="/other: cannot be read"):
        from_credential("other", {"CREDENTIALS_DIRECTORY": str(tmp_path)})()
    with pytest.raises(StoreKeyError, match=r"failed with status 3: .*: locked"):
        from_command(["sh", "-c", "echo locked >&2; exit 3"])()
    with pytest.raises(StoreKeyError, match=r"did not end within 0\.05 s"):
        from_command(["sleep", "5"], timeout_s=0.05)()
    with pytest.raises(StoreKeyError, match="cannot be started: /no/such: No such file"):
        from_command(["/no/such"])()


def test_a_changed_byte_anywhere_or_another_place_does_not_open() -> None:
    ring = Keyring([KEY])
    sealed = ring.seal(b"what was said", "request/1")
    for at in range(len(sealed)):
        changed = bytearray(sealed)
        changed[at] ^= 1
        with pytest.raises((SealError, KeyLostError)):
            ring.open(bytes(changed), "request/1")
        with pytest.raises(SealError):
            ring.open(sealed[:at], "request/1")
    with pytest.raises(SealError, match="request/2: was altered or damaged, or belongs to another place"):
        ring.open(sealed, "request/2")


def test_what_was_said_is_not_on_the_disk_in_clear(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        queue = Queue(store)
        queue.put(query("the secret question"))
        (lease,) = queue.lease()
        written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
        queue.complete(lease, reply("the secret answer"))
    written += b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert lease.id.encode() in written
    assert b"the secret" not in written


def test_after_a_rotation_the_old_key_can_be_thrown_away(tmp_path: Path) -> None:
    path = tmp_path / "store.key"
    with Store(tmp_path / "store.db", from_file(path), times=Clocks()) as store:
        queue = Queue(store)
        jobs = [queue.put(query(f"{number}")).id for number in range(150)]
        (lease,) = queue.lease()
        queue.complete(lease, reply("old answer"))
        add_key(path)
        store.reload_keys()
        assert store.reseal() == 150
        assert store.reseal() == 0
        drop_old_keys(path)
        store.reload_keys()
        assert store.lost_keys == ()
        assert len(store.keys.ids) == 1
    with Store(tmp_path / "store.db", from_file(path), times=Clocks()) as store:
        queue = Queue(store)
        answer, asked = queue.answer(jobs[0]), queue.query(jobs[149])
        assert answer is not None
        assert answer.text == "old answer"
        assert asked is not None
        assert asked.messages[0].content == "149"
        assert queue.unreadable() == 0


# The clock


def test_device_seconds_go_on_through_a_restart_of_the_process() -> None:
    clocks = Clocks()
    clock = DeviceClock(clocks)
    clocks.pass_s(50.0)
    mark = clock.due()
    assert mark is not None
    clocks.pass_s(25.0)
    clocks.set_wall(0.0)  # within a boot the wall clock does not matter
    assert DeviceClock(clocks, mark).now() == 75.0


@pytest.mark.parametrize(
    ("wall", "off"),
    [
        (START.wall + 500.0, 500.0),
        (START.wall - 500.0, 0.0),  # went backwards
        (0.0, 0.0),  # never set
        (START.wall + MAX_OFF_S + 1, 0.0),  # a century by mistake
    ],
)
def test_across_a_reboot_only_a_wall_clock_that_can_be_believed_counts(wall: float, off: float) -> None:
    mark = Mark(1000.0, START.wall, START.boottime, START.boot_id)
    clocks = Clocks()
    clocks.reboot("boot-2", wall)
    assert DeviceClock(clocks, mark).now() == 1000.0 + off


def test_a_board_that_woke_up_in_1970_and_was_told_the_time_since_counts_as_off_for_no_time() -> None:
    mark = Mark(1000.0, 30.0, 30.0, "boot-1")
    assert DeviceClock(Clocks(replace(START, boot_id="boot-2")), mark).now() == 1000.0


def test_a_mark_is_due_each_minute_and_when_the_wall_clock_was_set() -> None:
    clocks = Clocks()
    clock = DeviceClock(clocks)
    mark = clock.due()
    assert mark is not None
    clock.kept(mark)
    clocks.pass_s(59.0)
    assert clock.due() is None
    clocks.set_wall(clocks.times.wall + 3.0)
    assert clock.due() is not None
    clocks.set_wall(clocks.times.wall - 3.0)
    clocks.pass_s(1.0)
    assert clock.due() is not None


def test_an_error_of_sqlite_is_one_of_ours(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        with pytest.raises(StoreError, match="SQLite says: no such table: missing"):
            store.read(lambda c: c.execute("SELECT * FROM missing"))
        with pytest.raises(StoreError, match="SQLite says: no such table: missing"):
            store.write(lambda c: c.execute("SELECT * FROM missing"))
        assert Queue(store).used() == (0, 0)
