"""Lengths that say less: messages padded to buckets, streamed text coalesced and padded to steps.

Who watches an encrypted stream sees sizes and times. On many models those suffice to guess what a
conversation is about (Whisper Leak, arXiv 2511.03675); padding and coalescing make that harder and do not
end it: the number of chunks and the time between them still say something.
"""

from __future__ import annotations

from collections.abc import Sequence

from offload.channel.errors import LimitError

__all__ = ["BUCKETS", "STEP_BYTES", "Coalescer", "bucket", "pad_line", "pad_message"]

BUCKETS = tuple(1 << power for power in range(9, 23))
"""512 bytes to 4 MiB, each twice the one before: a length tells one of 14 sizes."""

STEP_BYTES = 128
"""Streamed lines are padded to multiples of this."""


def bucket(length: int, buckets: Sequence[int] = BUCKETS) -> int:
    """The smallest bucket that holds `length` bytes.

    Args:
        length: bytes.
        buckets: ascending sizes.

    Raises:
        LimitError: none is large enough.
    """
    for size in buckets:
        if length <= size:
            return size
    raise LimitError(f"a message of {length} bytes is larger than the largest bucket ({buckets[-1]} bytes)")


def pad_message(message: bytes, buckets: Sequence[int] = BUCKETS) -> bytes:
    """A binary HTTP message with zero bytes after it up to its bucket (RFC 9292, section 3.8).

    Raises:
        LimitError: it is larger than the largest bucket.
    """
    return message.ljust(bucket(len(message), buckets), b"\x00")


def pad_line(line: bytes, step: int = STEP_BYTES) -> bytes:
    """A line of JSON with spaces before its line end, so that its length is a multiple of `step`.

    Spaces after a JSON value mean nothing, so a reader needs to know nothing of padding.

    Raises:
        ValueError: `line` is not one line with its end.
    """
    if not line.endswith(b"\n") or b"\n" in line[:-1]:
        raise ValueError(f"{line[:40]!r} is not one line with its end")
    return line[:-1].ljust(-(-len(line) // step) * step - 1, b" ") + b"\n"


class Coalescer:
    """Gathers streamed pieces and lets them go at most once per interval.

    Pure: the caller says what time it is, and waits until `due`.

    Args:
        interval_s: seconds between what is let go; 50 to 100 ms hide the pace of tokens and are hardly seen.
    """

    def __init__(self, interval_s: float = 0.075) -> None:
        if not interval_s >= 0:
            raise ValueError(f"interval_s must be 0 or more, but it is {interval_s}")
        self._interval = interval_s
        self._pieces: list[bytes] = []
        self._next: float | None = None

    @property
    def due(self) -> float | None:
        """When what was gathered may go, on the caller's clock; `None` while nothing waits."""
        return self._next if self._pieces else None

    def add(self, piece: bytes, now_s: float) -> bytes:
        """Gather a piece; what may go now, usually nothing. The first piece of all goes at once."""
        self._pieces.append(piece)
        if self._next is None or now_s >= self._next:
            return self.flush(now_s)
        return b""

    def flush(self, now_s: float) -> bytes:
        """Everything that was gathered; the interval begins anew."""
        gathered = b"".join(self._pieces)
        self._pieces.clear()
        self._next = now_s + self._interval
        return gathered
