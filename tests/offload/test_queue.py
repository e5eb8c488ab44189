"""The queue: order, states, bounds, waits, and what a restart does to them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from offload.queue import (
    Backoff,
    IdempotencyError,
    JobNotFoundError,
    JobStateError,
    Limits,
    Queue,
    QueueError,
    QueueFullError,
    QueueSettingsError,
    Retention,
)
from offload.queue.codec import decode_answer, decode_query, encode_answer, encode_query
from offload.store import KeyLostError, Store, StoreFullError
from offload.types import Answer, Confidence, Decision, Evidence, Message, Query, Token
from tests.offload.queue_support import KEY, OTHER_KEY, Clocks, open_store, query, reply


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def store(tmp_path: Path, clocks: Clocks) -> Iterator[Store]:
    with open_store(tmp_path, clocks) as store:
        yield store


def texts(leases: list[Any]) -> list[str]:
    return [lease.query.messages[0].content for lease in leases]


def finish(queue: Queue, text: str = "there") -> str:
    (lease,) = queue.lease()
    queue.sent(lease)
    assert queue.complete(lease, reply(text))
    return lease.id


# What goes in


def test_what_was_put_comes_out_whole(store: Store) -> None:
    queue = Queue(store)
    asked = Query(
        "q1", (Message("system", "s"), Message("user", "wie spät ist es? 🙂")), conversation_id="c",
        params={"max_tokens": 5}, model="m", user="u", labels=("home", "child"), purpose="help", consent=True,
        priority=3, deadline_s=50.0, max_cost=0.5, idempotency_key="k",
    )  # fmt: skip
    receipt = queue.put(asked)
    (lease,) = queue.lease()
    assert lease.query == asked
    assert (lease.id, lease.idempotency_key, lease.attempts) == (receipt.id, "k", 0)
    job = queue.get(receipt.id)
    assert (job.state, job.priority, job.user, job.labels) == ("leased", 3, "u", ("home", "child"))
    assert job.expires_in_s == 50.0


def test_every_field_of_an_answer_survives(store: Store) -> None:
    evidence = Evidence.fold([Token(1, "a", -0.5, 0.2, 1.0)], "stop", {"answer": [Token(1, "a", -0.5)]})
    answer = Answer(
        "a", "text", "cloud", "m", "e", "eu", Confidence(0.9, "s", "c", 0.1), evidence,
        Decision("escalate", "r", "why", numbers={"x": 1.0}), {"tokens": 3}, {"total": 0.2}, 1.0,
        queue_id="q",
    )  # fmt: skip
    assert decode_answer(encode_answer(answer)) == answer


def test_fields_of_a_newer_release_are_left_out() -> None:
    content = encode_query(query()).replace(b'{"consent"', b'{"added_later":1,"consent"', 1)
    assert b"added_later" in content
    assert decode_query(content) == query()


def test_params_that_are_not_json_are_refused_before_anything_is_written(store: Store) -> None:
    queue = Queue(store)
    with pytest.raises(QueueError, match="its params are not JSON"):
        queue.put(query(params={"stop": object()}))
    assert queue.used() == (0, 0)


def test_the_same_query_under_the_same_key_is_queued_once(store: Store) -> None:
    queue = Queue(store)
    first = queue.put(query(idempotency_key="k", user="u"))
    again = queue.put(query(idempotency_key="k", user="u"))
    assert (again.id, again.repeated) == (first.id, True)
    assert len(list(queue.jobs())) == 1
    assert not queue.put(query(idempotency_key="k", user="somebody else")).repeated


def test_a_key_that_was_used_for_another_query_is_refused(store: Store) -> None:
    queue = Queue(store)
    first = queue.put(query("one", idempotency_key="k"))
    with pytest.raises(IdempotencyError, match=f"key 'k' was used for another query \\(job {first.id}\\)"):
        queue.put(query("two", idempotency_key="k"))


# The order in which jobs leave


def test_the_highest_priority_leaves_first_then_the_oldest(store: Store) -> None:
    queue = Queue(store)
    for text, priority in (("a", 0), ("b", 5), ("c", 0), ("d", 5)):
        queue.put(query(text, priority=priority))
    assert texts(queue.lease(10)) == ["b", "d", "a", "c"]
    assert queue.lease(10) == []


def test_a_conversation_goes_out_one_by_one_in_its_order(store: Store) -> None:
    queue = Queue(store)
    queue.put(query("first", conversation_id="c"))
    queue.put(query("second, though urgent", conversation_id="c", priority=9))
    queue.put(query("somebody else's", conversation_id="c", user="other"))
    queue.put(query("alone"))
    out = queue.lease(10)
    assert texts(out) == ["first", "somebody else's", "alone"]
    queue.sent(out[0])
    assert queue.lease(10) == []
    queue.complete(out[0], reply())
    assert texts(queue.lease(10)) == ["second, though urgent"]


def test_a_failed_turn_holds_its_conversation_until_it_is_given_up(store: Store, clocks: Clocks) -> None:
    queue = Queue(store, Limits(max_attempts=1), Backoff(1.0, 1.0))
    queue.put(query("first", conversation_id="c"))
    queue.put(query("second", conversation_id="c"))
    (lease,) = queue.lease(2)
    assert queue.retry(lease, "no network") == "ready"  # it was never sent: no attempt is used up
    clocks.pass_s(1.0)
    (lease,) = queue.lease(2)
    assert texts([lease]) == ["first"]
    queue.sent(lease)
    assert queue.retry(lease, "connection reset") == "dead"
    assert texts(queue.lease(2)) == ["second"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                ["put", "lease", "sent", "complete", "retry", "cancel", "release", "wait", "restart"]
            ),
            st.integers(0, 3),
        ),
        max_size=40,
    )
)
def test_no_job_is_lost_or_out_twice_whatever_happens(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    folder, clocks = tmp_path_factory.mktemp("q"), Clocks()
    store = open_store(folder, clocks)
    queue = Queue(store, Limits(max_attempts=3, lease_s=50.0), Backoff(1.0, 4.0))
    put: list[str] = []
    leases: list[Any] = []
    answered: Counter[str] = Counter()
    try:
        for action, pick in steps:
            if action == "put":
                conversation = f"c{pick}" if pick else None
                put.append(queue.put(query(f"{len(put)}", conversation_id=conversation, priority=pick)).id)
            elif action == "lease":
                held = {lease.id for lease in leases if queue.get(lease.id).state in ("leased", "sent")}
                new = queue.lease(pick)
                assert not held & {lease.id for lease in new}
                talks = [lease.query.conversation_id for lease in new if lease.query.conversation_id]
                assert len(talks) == len(set(talks))
                leases += new
            elif action == "wait":
                clocks.pass_s(pick * 10.0)  # shorter than a lease when leases are held
                leases = [lease for lease in leases if lease.until > store.clock.now()]
            elif action == "restart":
                store.close()
                store, leases = open_store(folder, clocks), []
                queue = Queue(store, Limits(max_attempts=3, lease_s=50.0), Backoff(1.0, 4.0))
                assert all(job.state not in ("leased", "sent") for job in queue.jobs())
            elif action == "cancel" and put:
                job = put[pick % len(put)]
                if queue.get(job).state in ("ready", "leased", "sent"):
                    queue.cancel(job)
            elif leases:
                lease = leases[pick % len(leases)]
                if action == "sent" and queue.get(lease.id).state == "leased":
                    queue.sent(lease)
                elif action == "complete":
                    answered[lease.id] += queue.complete(lease, reply())
                elif action == "retry":
                    queue.retry(lease, "test")
                    leases.remove(lease)
                elif action == "release":
                    queue.release(lease)
                    leases.remove(lease)
        jobs = {job.id: job for job in queue.jobs()}
        assert sorted(jobs) == sorted(put)
        assert all(count <= 1 for count in answered.values())
        assert {job for job, count in answered.items() if count} == {
            job.id for job in jobs.values() if job.state == "done"
        }
        rows = sum(job.state in ("ready", "leased", "sent") for job in jobs.values())
        assert queue.used() == (rows, sum(job.size for job in jobs.values()))
        assert store.check() == []
    finally:
        store.close()


# Time


def test_a_job_waits_for_its_time_and_expires_after_its_deadline(store: Store, clocks: Clocks) -> None:
    queue = Queue(store)
    job = queue.put(query(not_before_s=10.0, deadline_s=20.0)).id
    assert queue.lease() == []
    assert queue.next_due_s() == 10.0
    clocks.pass_s(10.0)
    (lease,) = queue.lease()
    queue.release(lease)
    clocks.pass_s(10.0)
    assert queue.lease() == []
    assert (queue.get(job).state, queue.get(job).reason) == (
        "expired", "its deadline passed before it could be sent"
    )  # fmt: skip


@pytest.mark.parametrize("years", [-56, -1, 1, 56])
def test_a_wall_clock_that_jumps_neither_expires_nor_delays_a_job(
    store: Store, clocks: Clocks, years: int
) -> None:
    queue = Queue(store)
    queue.put(query("now", deadline_s=60.0))
    queue.put(query("later", not_before_s=30.0))
    clocks.set_wall(clocks.times.wall + years * 365.25 * 86_400)
    assert texts(queue.lease(5)) == ["now"]
    clocks.pass_s(30.0)
    assert texts(queue.lease(5)) == ["later"]


def test_a_lease_that_lapsed_is_given_to_somebody_else_and_the_first_answer_counts(
    store: Store, clocks: Clocks
) -> None:
    queue = Queue(store, Limits(lease_s=5.0))
    queue.put(query())
    (slow,) = queue.lease()
    queue.sent(slow)
    clocks.pass_s(5.0)
    (second,) = queue.lease()
    assert (second.id, second.attempts) == (slow.id, 1)
    with pytest.raises(JobStateError, match=r"the lease of the job .* is over: lease it again"):
        queue.sent(slow)
    queue.fail(slow, "too late to say so")
    assert queue.complete(slow, reply("from the slow one"))
    assert not queue.complete(second, reply("from the second"))
    found = queue.answer(slow.id)
    assert found is not None
    assert found.text == "from the slow one"


def test_the_backoff_is_full_jitter_under_a_doubling_cap() -> None:
    backoff, source = Backoff(10.0, 60.0), random.Random(1)
    for attempts, cap in ((1, 10), (2, 20), (3, 40), (4, 60), (5000, 60)):
        waits = [backoff.wait_s(attempts, source) for _ in range(2000)]
        assert 0 <= min(waits) < 0.02 * cap
        assert 0.98 * cap < max(waits) <= cap
        assert sum(waits) / len(waits) == pytest.approx(cap / 2, rel=0.1)


def test_who_asks_to_be_left_alone_is_left_alone_for_so_long(store: Store, clocks: Clocks) -> None:
    queue = Queue(store, backoff=Backoff(1.0, 1.0))
    job = queue.put(query()).id
    (lease,) = queue.lease()
    queue.sent(lease)
    queue.retry(lease, "429", after_s=120.0)
    assert queue.get(job).ready_in_s == 120.0
    assert (queue.get(job).attempts, queue.get(job).reason) == (1, "429")


# Ending


def test_what_was_sent_is_ready_again_after_a_restart_under_the_same_key(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        queue = Queue(store)
        job = queue.put(query()).id
        (lease,) = queue.lease()
        queue.sent(lease)
    with open_store(tmp_path) as store:
        queue = Queue(store)
        assert queue.get(job).state == "ready"
        (again,) = queue.lease()
        assert (again.id, again.idempotency_key, again.attempts) == (job, job, 1)


def test_a_job_that_takes_the_device_down_each_time_is_given_up(tmp_path: Path) -> None:
    for attempt in range(3):
        with open_store(tmp_path) as store:
            queue = Queue(store, Limits(max_attempts=2))
            if attempt == 0:
                queue.put(query())
            leases = queue.lease()
            assert len(leases) == (attempt < 2)
            for lease in leases:
                queue.sent(lease)
            (job,) = queue.jobs()
    assert (job.state, job.reason) == ("dead", "the device stopped during its attempt 2, the last")


def test_a_job_that_was_cancelled_in_time_is_never_sent(store: Store) -> None:
    queue = Queue(store)
    queue.put(query())
    (lease,) = queue.lease()
    assert queue.cancel(lease.id) == "ready"
    with pytest.raises(JobStateError, match="may not be sent any more: it was cancelled or is late"):
        queue.sent(lease)
    assert queue.query(lease.id) is None
    with pytest.raises(JobStateError, match="is cancelled already"):
        queue.cancel(lease.id)


def test_the_answer_to_a_job_that_was_cancelled_after_it_was_sent_is_dropped(store: Store) -> None:
    queue = Queue(store)
    queue.put(query())
    (lease,) = queue.lease()
    queue.sent(lease)
    assert queue.cancel(lease.id) == "sent"
    assert not queue.complete(lease, reply())
    assert queue.answer(lease.id) is None


def test_a_dead_job_keeps_its_question_and_can_be_tried_again(store: Store) -> None:
    queue = Queue(store)
    job = queue.put(query("again")).id
    (lease,) = queue.lease()
    queue.fail(lease, "401: the credential was refused")
    assert (queue.get(job).state, queue.get(job).reason) == ("dead", "401: the credential was refused")
    queue.revive(job)
    assert texts(queue.lease()) == ["again"]
    queue.put(query())
    done = finish(queue)
    with pytest.raises(JobStateError, match="only a dead or expired one can be tried again"):
        queue.revive(done)


def test_a_job_that_is_not_there_is_named(store: Store) -> None:
    queue = Queue(store)
    for ask in (queue.get, queue.answer, queue.query, queue.cancel, queue.revive, queue.taken):
        with pytest.raises(JobNotFoundError, match="there is no job 'nothing'"):
            ask("nothing")


# Bounds


def test_a_full_queue_refuses_and_says_how_full_it_is(store: Store) -> None:
    queue = Queue(store, Limits(max_rows=2))
    queue.put(query())
    queue.put(query())
    with pytest.raises(QueueFullError, match=r"the queue is full: 2 of 2 jobs and \d+ of \d+ bytes"):
        queue.put(query())
    finish(queue)
    queue.put(query())


def test_a_query_larger_than_the_whole_queue_is_refused(store: Store) -> None:
    queue = Queue(store, Limits(max_bytes=1000))
    with pytest.raises(QueueFullError, match="the whole queue may hold 1000: send less"):
        queue.put(query("x" * 1000))


def test_drop_lowest_lets_go_the_newest_of_the_lowest_and_never_an_equal(store: Store) -> None:
    queue = Queue(store, Limits(max_rows=3, when_full="drop-lowest"))
    a, b, c = (queue.put(query(priority=p)).id for p in (1, 1, 2))
    queue.put(query(priority=2))
    assert [queue.get(job).state for job in (a, b, c)] == ["ready", "dead", "ready"]
    assert queue.get(b).reason == "dropped: the queue was full"
    with pytest.raises(QueueFullError, match="No job with a lower priority waits"):
        queue.put(query(priority=1))


def test_drop_oldest_lets_go_what_waits_longest_but_nothing_under_way(store: Store) -> None:
    queue = Queue(store, Limits(max_rows=2, when_full="drop-oldest"))
    first = queue.put(query(priority=9)).id
    second = queue.put(query()).id
    (lease,) = queue.lease()
    assert lease.id == first
    queue.put(query())
    assert [queue.get(job).state for job in (first, second)] == ["leased", "dead"]
    queue.lease()
    with pytest.raises(QueueFullError, match="The others are being sent"):
        queue.put(query())


def test_answers_that_were_fetched_go_before_anybody_is_refused(store: Store) -> None:
    queue = Queue(store, Limits(max_bytes=2000))
    queue.put(query())
    job = finish(queue, "y" * 1000)
    with pytest.raises(QueueFullError):
        queue.put(query("x" * 600))
    queue.taken(job)
    queue.put(query("x" * 600))
    with pytest.raises(JobNotFoundError):
        queue.get(job)
    rows, size = queue.used()
    assert (rows, size) == (1, sum(found.size for found in queue.jobs()))


def test_a_full_disk_refuses_what_does_not_fit_and_keeps_the_rest(store: Store) -> None:
    queue = Queue(store)
    kept = [queue.put(query("x" * 500)).id for _ in range(3)]
    pages = store.read(lambda c: c.execute("PRAGMA page_count").fetchone()[0])
    store.read(lambda c: c.execute(f"PRAGMA max_page_count={pages + 4}").fetchall())
    futures = [queue.submit(query("y" * size)) for size in (200_000, 100)]
    with pytest.raises(StoreFullError, match=r"the disk is full\. Free some space"):
        futures[0].result()
    kept.append(futures[1].result().id)
    store.read(lambda c: c.execute("PRAGMA max_page_count=1000000").fetchall())
    queue.put(query("z" * 200_000))
    assert [job.id for job in queue.jobs()][:4] == kept
    assert queue.used() == (5, sum(job.size for job in queue.jobs()))


# Keeping and erasing


def test_finished_jobs_are_deleted_after_their_retention(store: Store, clocks: Clocks) -> None:
    queue = Queue(store, retention=Retention(100.0))
    queue.put(query())
    finish(queue)
    waiting = queue.put(query()).id
    clocks.pass_s(99.0)
    assert queue.purge() == 0
    clocks.pass_s(1.0)
    assert queue.purge() == 1
    assert [job.id for job in queue.jobs()] == [waiting]


def test_a_label_bounds_how_long_a_question_stays_even_while_it_waits(store: Store, clocks: Clocks) -> None:
    queue = Queue(store, retention=Retention(1e6, {"health": 60.0, "home": 600.0}))
    job = queue.put(query(labels=("home", "health"), deadline_s=1e9)).id
    clocks.pass_s(60.0)
    assert queue.purge() == 1
    with pytest.raises(JobNotFoundError):
        queue.get(job)
    assert store.read(lambda c: c.execute("SELECT count(*) FROM request").fetchone()) == (0,)


def test_a_forgotten_user_leaves_nothing_behind(store: Store) -> None:
    queue = Queue(store)
    queue.put(query(user="ann"))
    queue.put(query(user="bob"))
    finish(queue)
    queue.put(query(user="ann"))
    assert queue.forget("ann") == 2
    assert [job.user for job in queue.jobs()] == ["bob"]
    assert queue.used() == (1, sum(job.size for job in queue.jobs()))


def test_jobs_can_be_listed_by_state(store: Store) -> None:
    queue = Queue(store)
    for _ in range(3):
        queue.put(query())
    queue.lease()
    assert [len(list(queue.jobs(state))) for state in ("ready", "leased", "sent")] == [2, 1, 0]


# Keys


def test_jobs_of_a_lost_key_wait_for_it_and_others_go_on(tmp_path: Path) -> None:
    with open_store(tmp_path, None, KEY) as store:
        old = Queue(store).put(query("sealed under the lost key")).id
    with open_store(tmp_path, None, OTHER_KEY) as store:
        queue = Queue(store)
        queue.put(query("new"))
        assert texts(queue.lease(5)) == ["new"]
        assert (queue.unreadable(), queue.get(old).state, len(store.lost_keys)) == (1, "ready", 1)
        with pytest.raises(KeyLostError, match="Put that key back to read it"):
            queue.query(old)
    with open_store(tmp_path, None, KEY, OTHER_KEY) as store:
        queue = Queue(store)
        assert texts(queue.lease(5)) == ["sealed under the lost key", "new"]
        assert store.lost_keys == ()


def test_a_question_that_was_altered_on_the_disk_is_dead_with_the_reason(store: Store) -> None:
    queue = Queue(store)
    bad, good = queue.put(query("bad")).id, queue.put(query("good")).id
    store.write(lambda c: c.execute("UPDATE request SET content = zeroblob(80) WHERE seq = 1").rowcount)
    assert texts(queue.lease(2)) == ["good"]
    assert queue.get(bad).state == "dead"
    assert "is not a sealed content" in str(queue.get(bad).reason)
    assert queue.get(good).state == "leased"


def test_contents_cannot_be_moved_from_one_job_to_another(store: Store) -> None:
    queue = Queue(store)
    for text in "ab":
        queue.put(query(text))
    swap = "UPDATE request SET content = (SELECT content FROM request WHERE seq = 2) WHERE seq = 1"
    store.write(lambda c: c.execute(swap).rowcount)
    assert texts(queue.lease(2)) == ["b"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Limits(max_rows=0), "max_rows is 0: it must be at least 1"),
        (lambda: Limits(lease_s=float("nan")), "lease_s is nan: it must be a number of seconds above 0"),
        (lambda: Limits(when_full="drop"), "when_full is 'drop': choose refuse, drop-lowest or drop-oldest"),
        (lambda: Backoff(5.0, 1.0), "base_s is 5.0 and cap_s 1.0"),
        (lambda: Retention(-1.0), "the retention 'finished_s' is -1.0"),
        (lambda: Retention(1.0, {"health": float("nan")}), "the retention 'health' is nan"),
    ],
)
def test_settings_that_cannot_be_are_named(make: Any, message: str) -> None:
    with pytest.raises(QueueSettingsError, match=message):
        make()
