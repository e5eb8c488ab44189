"""Lengths that say less: buckets, padded lines, and text that is let go at a pace of its own."""

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offload.channel import Coalescer, LimitError, pad_line, pad_message
from offload.channel.padding import BUCKETS, STEP_BYTES, bucket


@given(st.integers(0, BUCKETS[-1]))
@settings(deadline=None)
def test_a_bucket_is_the_smallest_that_holds_it(length: int) -> None:
    size = bucket(length)
    assert size in BUCKETS
    assert length <= size
    assert not any(length <= smaller < size for smaller in BUCKETS)
    assert size <= max(2 * length, BUCKETS[0])


def test_what_fits_no_bucket_is_refused() -> None:
    with pytest.raises(
        LimitError, match=r"4194305 bytes is larger than the largest bucket \(4194304 bytes\)"
    ):
        bucket(BUCKETS[-1] + 1)
    assert len(pad_message(b"abc", (4, 8))) == 4
    assert pad_message(b"abcd", (4, 8)) == b"abcd"
    with pytest.raises(LimitError):
        pad_message(bytes(9), (4, 8))


@given(text=st.text(max_size=300), step=st.integers(1, 200))
@settings(deadline=None)
def test_a_padded_line_says_the_same_in_a_multiple_of_the_step(text: str, step: int) -> None:
    line = json.dumps({"text": text}).encode() + b"\n"
    padded = pad_line(line, step)
    assert len(padded) % step == 0
    assert len(line) <= len(padded) < len(line) + step
    assert padded.endswith(b"\n")
    assert padded.count(b"\n") == 1
    assert json.loads(padded) == {"text": text}


@pytest.mark.parametrize("line", [b"", b"no end", b"two\nlines\n"])
def test_what_is_not_one_line_is_not_padded(line: bytes) -> None:
    with pytest.raises(ValueError, match="is not one line with its end"):
        pad_line(line)


def test_text_goes_at_most_once_per_interval_and_none_of_it_is_lost() -> None:
    clock, sent = Coalescer(0.075), []
    for number in range(100):  # a token every 10 ms
        now = number * 0.010
        piece = clock.add(f"{number},".encode(), now)
        if piece:
            sent.append((now, piece))
    sent.append((1.0, clock.flush(1.0)))
    times = [now for now, _ in sent]
    assert all(later - earlier >= 0.075 - 1e-9 for earlier, later in pairwise(times[:-1]))
    assert len(sent) <= 1.0 / 0.075 + 2
    assert b"".join(piece for _, piece in sent) == b"".join(f"{number},".encode() for number in range(100))


def test_what_waits_is_due_at_the_end_of_the_interval() -> None:
    clock = Coalescer(0.1)
    assert clock.due is None
    assert clock.add(b"first", 5.0) == b"first"
    assert clock.due is None  # nothing waits
    assert clock.add(b"second", 5.02) == b""
    assert clock.due == pytest.approx(5.1)
    assert clock.flush(5.1) == b"second"
    assert clock.due is None
    assert clock.flush(5.2) == b""
    for wrong in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="interval_s must be 0 or more"):
            Coalescer(wrong)


def test_streamed_lines_of_different_tokens_have_one_length() -> None:
    lines = [json.dumps({"text": token}).encode() + b"\n" for token in ("a", "kitchen", " the light is on")]
    assert {len(pad_line(line)) for line in lines} == {STEP_BYTES}
