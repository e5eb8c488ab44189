"""What of a conversation is sent: never more than allowed, and whether the query can still be understood."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offload.context import choose_context, leans_on_context, message_bytes, turns_of
from offload.types import Message

SYSTEM = Message("system", "You are short.")
TURNS = [
    Message("user", "Turn on the lamp in the hall, please."),
    Message("assistant", "Done: the hall lamp is on."),
    Message("user", "My knee hurts since Tuesday."),
    Message("assistant", "Sorry to hear that."),
    Message("user", "How long do eggs have to boil?"),
    Message("assistant", "Nine minutes."),
]
FOLLOW_UP = Message("user", "And how long in the mountains?")
ALONE = Message("user", "What is the capital city of Portugal?")
TALK = [SYSTEM, *TURNS, FOLLOW_UP]
EVERYTHING = sum(map(message_bytes, TALK))


def brief(messages, most):
    return f"{len(messages)} messages"[:most]


def test_everything_is_sent_where_it_fits():
    found = choose_context(TALK, EVERYTHING)
    assert found is not None
    assert (found.messages, found.kind, found.turns, found.complete) == (tuple(TALK), "all", 3, True)
    assert found.size == EVERYTHING


def test_a_query_that_stands_alone_takes_nothing_along():
    found = choose_context([SYSTEM, *TURNS, ALONE], 10_000)
    assert found is not None
    assert (found.messages, found.kind, found.complete) == ((SYSTEM, ALONE), "query", True)
    all_of_it = choose_context([SYSTEM, *TURNS, ALONE], 10_000, strategy="all")
    assert all_of_it is not None
    assert all_of_it.kind == "all"


def test_the_last_turns_are_sent_whole_and_without_a_gap():
    limit = EVERYTHING - message_bytes(TURNS[0])
    found = choose_context(TALK, limit, strategy="last", last=5)
    assert found is not None
    assert found.messages == (SYSTEM, *TURNS[2:], FOLLOW_UP)
    assert (found.turns, found.turns_before, found.complete) == (2, 3, False)
    one = choose_context(TALK, 10_000, strategy="last", last=1)
    assert one is not None
    assert one.messages == (SYSTEM, *TURNS[4:], FOLLOW_UP)


def test_a_summary_stands_for_the_turns_that_do_not_fit():
    limit = EVERYTHING - 40
    found = choose_context(TALK, limit, summarise=brief)
    assert found is not None
    assert (found.kind, found.turns, found.complete) == ("summary", 2, True)
    assert found.messages[1] == Message("system", "What was said before, in short: 2 messages")
    assert found.size <= limit
    only = choose_context(TALK, 10_000, strategy="summary", summarise=brief)
    assert only is not None
    assert [m.role for m in only.messages] == ["system", "system", "user"]
    assert "6 messages" in only.messages[1].content


def test_a_summary_that_is_too_long_or_missing_is_not_sent():
    limit = EVERYTHING - 60

    def endless(messages, most):
        return "x" * (most + 1)

    for summarise in (None, endless, lambda messages, most: None):
        found = choose_context(TALK, limit, summarise=summarise)
        assert found is not None
        assert (found.kind, found.complete) == ("last", False)
        assert found.size <= limit


def test_a_query_that_does_not_fit_is_not_sent():
    least = message_bytes(SYSTEM) + message_bytes(FOLLOW_UP)
    assert choose_context(TALK, least - 1) is None
    found = choose_context(TALK, least)
    assert found is not None
    assert (found.kind, found.complete) == ("query", False)
    assert choose_context(TALK, least, strategy="all") is None
    assert choose_context([], 100) is None
    assert choose_context([SYSTEM], 100) is None


def test_what_may_not_leave_is_neither_sent_nor_summarised():
    seen = []

    def summarise(messages, most):
        seen.extend(messages)
        return "short"

    def may_leave(message):
        return "knee" not in message.content

    for strategy in ("auto", "all", "last", "summary"):
        found = choose_context(
            TALK, EVERYTHING - 90, strategy=strategy, summarise=summarise, may_leave=may_leave
        )
        assert found is None or not any("knee" in m.content or "Sorry" in m.content for m in found.messages)
        assert found is None or not found.complete
        assert found is None or "1 earlier turns may not leave the device" in found.reason
    assert not any("knee" in m.content or "Sorry" in m.content for m in seen)
    assert choose_context(TALK, 10_000, may_leave=lambda m: m is not FOLLOW_UP) is None


def test_a_first_query_is_complete_by_itself():
    found = choose_context([FOLLOW_UP], 1000)
    assert found is not None
    assert (found.kind, found.complete, found.turns_before) == ("all", True, 0)


@pytest.mark.parametrize(
    ("text", "leaning"),
    [
        ("And in the kitchen?", True),
        ("Set it to twenty degrees please", True),
        ("Why?", True),
        ("What is the capital city of Portugal?", False),
        ("Tom has 24 apples and buys 18 more. How many apples does Tom have?", False),
        ("turn off the lamp in the living room", False),
    ],
)
def test_queries_that_point_back_are_recognised(text, leaning):
    assert leans_on_context(text) is leaning


def test_turns_begin_with_the_user():
    assert turns_of(TALK) == [TURNS[0:2], TURNS[2:4], TURNS[4:6], [FOLLOW_UP]]
    assert turns_of([TURNS[1], TURNS[2]]) == [[TURNS[1]], [TURNS[2]]]


MESSAGES = st.lists(
    st.builds(Message, st.sampled_from(["user", "assistant", "system", "tool"]), st.text(max_size=40)),
    max_size=8,
)


@given(
    MESSAGES,
    st.text(max_size=40),
    st.integers(0, 600),
    st.sampled_from(["auto", "all", "last", "summary"]),
    st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_no_choice_exceeds_the_limit_or_loses_the_query(messages, query, limit, strategy, summarised):
    talk = [*messages, Message("user", query)]
    found = choose_context(talk, limit, strategy=strategy, summarise=brief if summarised else None)
    if found is None:
        return
    sent = json.dumps(
        [{"role": m.role, "content": m.content} for m in found.messages],
        ensure_ascii=False,
        separators=(",", ":"),
    )
    assert len(sent.encode()) - 1 <= found.size <= limit
    assert found.messages[-1] == talk[-1]
    original = [m for m in found.messages if not m.content.startswith("What was said before")]
    rest = iter([m for m in talk if m.role != "system"])
    assert all(m in rest for m in original if m.role != "system")  # in their order
    assert found.turns <= found.turns_before
