"""KV states are reused by token prefix, and never hold more memory than allowed."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import ScriptedEngine, ScriptedSequence, hashed_row

from edge_runtime.prefix_cache import MIN_SHARED, PrefixCache, prefix_cache_budget

SYSTEM = list(range(30))


def used(cache: PrefixCache, tokens: list[int]) -> tuple[int, ScriptedSequence]:
    """Run a prompt through the cache; returns how much of it was there already."""
    state = cache.take(tokens)
    there = state.length
    assert state.tokens == tokens[:there]
    state.forward(tokens[there:] or tokens[-1:])
    cache.put(state)
    return there, state  # type: ignore[return-value]


def make(**limits: int) -> PrefixCache:
    return PrefixCache(ScriptedEngine(hashed_row(60), 60, context_length=500), **limits)


def test_the_next_turn_goes_on_where_the_last_one_ended() -> None:
    cache = make()
    first = [*SYSTEM, 40, 41]
    used(cache, first)
    there, _ = used(cache, [*first, 50, 51])
    assert there == len(first)


def test_queries_with_one_system_prompt_share_it_and_keep_their_own_states() -> None:
    cache = make()
    _, one = used(cache, [*SYSTEM, *[40] * 20])
    there, two = used(cache, [*SYSTEM, *[50] * 20])
    assert there == len(SYSTEM)
    assert two is not one
    assert used(cache, [*SYSTEM, *[40] * 20, 9])[0] == len(SYSTEM) + 20


def test_a_short_common_prefix_is_not_worth_it() -> None:
    cache = make()
    used(cache, [1] * 40)
    assert used(cache, [*[1] * (MIN_SHARED - 1), *[2] * 30])[0] == 0


def test_the_least_recently_used_state_leaves_first() -> None:
    cache = make(max_sequences=2)
    prompts = [[i] * 40 for i in range(3)]
    states = [used(cache, prompts[0])[1], used(cache, prompts[1])[1]]
    used(cache, [*prompts[0], 9])
    used(cache, prompts[2])
    assert states[0].tokens[:40] == prompts[0]
    assert states[1].tokens == prompts[2]


def test_a_full_cache_lends_out_the_buffers_of_the_oldest_state() -> None:
    cache = make(max_sequences=1)
    _, first = used(cache, [1] * 40)
    there, second = used(cache, [2] * 40)
    assert there == 0
    assert second is first


def test_memory_is_bounded_in_bytes() -> None:
    cache = make(max_bytes=100 * 100, max_sequences=50)
    for i in range(6):
        used(cache, [i] * 40)
        assert cache.nbytes <= 100 * 100
    _, large = used(cache, [7] * 150)
    assert large.closed


def test_a_small_machine_keeps_less() -> None:
    assert prefix_cache_budget(512 << 20) == 32 << 20
    assert prefix_cache_budget(64 << 30) == 256 << 20
    assert 0 < prefix_cache_budget() <= 256 << 20


def test_without_room_nothing_is_kept() -> None:
    cache = make(max_bytes=0)
    _, state = used(cache, [1] * 40)
    assert state.closed


def test_clearing_gives_everything_back() -> None:
    cache = make()
    states = [used(cache, [i] * 40)[1] for i in range(3)]
    cache.clear()
    assert cache.nbytes == 0
    assert all(state.closed for state in states)


def test_a_state_that_failed_is_not_kept() -> None:
    cache, kept = make(), []

    def fail() -> None:
        with cache.lease([1] * 40) as state:
            kept.append(state)
            state.forward([1] * 40)
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError):
        fail()
    assert kept[0].closed
    assert used(cache, [1] * 40)[0] == 0


def test_a_reader_that_leaves_a_stream_leaves_its_state_behind() -> None:
    cache = make()

    def read() -> Iterator[int]:
        with cache.lease([1] * 40) as state:
            state.forward([1] * 40)
            yield state.length

    reader = read()
    next(reader)
    reader.close()
    assert used(cache, [*[1] * 40, 2])[0] == 40


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=60), min_size=1, max_size=12))
def test_whatever_came_before_a_state_holds_a_prefix_of_its_prompt(prompts: list[list[int]]) -> None:
    cache = make(max_sequences=3)
    for prompt in prompts:
        used(cache, [*([0] * 20), *prompt])
