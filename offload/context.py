"""What of a conversation is sent along when its last query is escalated, under a limit of traffic.

A follow-up ("and in the kitchen?") must make sense to whoever answers it, and every byte sent costs traffic
and leaves the device. Three choices: everything, the last turns, or a summary that the device writes and the
last query. A turn is a message of the user with what followed it; turns are sent whole or not at all, and the
system messages always.

Knows: messages, bytes, and which of them may leave. Does not know: who decides that (residency), how a
summary is written (the caller's function), or how bytes are sent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from offload.types import Message

__all__ = ["Context", "Strategy", "choose_context", "leans_on_context", "message_bytes", "turns_of"]

Strategy = Literal["auto", "all", "last", "summary"]
Kind = Literal["all", "last", "summary", "query"]

SUMMARY_TITLE = "What was said before, in short:"

_LEANING = re.compile(
    r"\A\W*(?:and|but|or|so|also|then|what about|how about|same|again|why|more|no|yes|okay|ok)\b"
    r"|\b(?:it|its|this|that|these|those|he|she|him|her|they|them|their|there|then|one|ones|too|"
    r"else|instead|previous|last one|above|earlier|before that|same)\b",
    re.IGNORECASE,
)
SHORT = 4
"""A query of fewer words than this is taken as one that leans on what was said before."""


@dataclass(frozen=True, slots=True)
class Context:
    """The messages to send.

    `kind` is what they are; `size` their bytes; `turns` how many of the `turns_before` earlier turns are in
    them whole. `complete` says whether the query can be understood from them: nothing it may lean on is left
    out, or a summary stands for it. `reason` is for a person.
    """

    messages: tuple[Message, ...]
    kind: Kind
    size: int
    turns: int
    turns_before: int
    complete: bool
    reason: str


def message_bytes(message: Message) -> int:
    """Bytes of a message in the JSON of a request, UTF-8 and the comma between messages included."""
    row = {"role": message.role, "content": message.content}
    return len(json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode(errors="surrogatepass")) + 1


def turns_of(messages: Sequence[Message]) -> list[list[Message]]:
    """The conversation in turns, without system messages; each begins with a message of the user."""
    turns: list[list[Message]] = []
    for message in messages:
        if message.role == "system":
            continue
        if message.role == "user" or not turns:
            turns.append([])
        turns[-1].append(message)
    return turns


def leans_on_context(text: str) -> bool:
    """Whether a query may need what was said before: it is short, or has a word that points back.

    Cautious and of English words only: a query that stands alone may be taken as leaning, which costs bytes;
    in other languages the length alone decides.
    """
    return len(text.split()) < SHORT or _LEANING.search(text) is not None


def choose_context(
    messages: Sequence[Message],
    limit: float,
    *,
    strategy: Strategy = "auto",
    last: int = 4,
    summarise: Callable[[Sequence[Message], int], str | None] | None = None,
    may_leave: Callable[[Message], bool] = lambda message: True,
) -> Context | None:
    """What to send of `messages`, whose last one is the query.

    Args:
        limit: bytes at most.
        strategy: `all` or nothing; `last`: up to `last` earlier turns, as many as fit; `summary` of all
            earlier turns; `auto`: nothing more for a query that stands alone, else everything if it fits,
            else the last turns with a summary of those before them, whatever of that fits.
        summarise: writes a summary of messages in at most so many bytes, or gives `None`.
        may_leave: the residency verdict on a message; a turn with one that may not leave is not sent and not
            summarised.

    Returns:
        `None` when not even the query with the system messages fits, or the query may not leave.
    """
    if not messages:
        return None
    system = [m for m in messages if m.role == "system" and may_leave(m)]
    turns = turns_of(messages)
    if not turns or not all(map(may_leave, turns[-1])):
        return None
    query, before = turns[-1], turns[:-1]
    sendable = [turn for turn in before if all(map(may_leave, turn))]
    withheld = len(before) - len(sendable)
    base = sum(map(message_bytes, [*system, *query]))
    if base > limit:
        return None
    leaning = bool(before) and leans_on_context(query[0].content)

    def made(
        kind: Literal["all", "last", "summary", "query"],
        kept: Sequence[Sequence[Message]],
        note: str | None,
        why: str,
    ) -> Context:
        head = [*system, *([Message("system", f"{SUMMARY_TITLE} {note}")] if note else [])]
        chosen = (*head, *(m for turn in kept for m in turn), *query)
        whole = len(kept) == len(before) or (note is not None and withheld == 0) or not leaning
        hidden = f"; {withheld} earlier turns may not leave the device" if withheld else ""
        return Context(
            chosen, kind, sum(map(message_bytes, chosen)), len(kept), len(before), whole, f"{why}{hidden}"
        )

    if not before:
        return made("all", [], None, "there is nothing before the query")
    if strategy == "auto" and not leaning:
        return made("query", [], None, "the query stands alone")
    size = base + sum(message_bytes(m) for turn in sendable for m in turn)
    if strategy in ("auto", "all") and size <= limit:
        return made("all", sendable, None, f"all {size} bytes fit into {limit:g}")
    if strategy == "all":
        return None
    kept = [] if strategy == "summary" else _latest(sendable, limit - base, last)
    fitting = f"the last {len(kept)} of {len(before)} turns fit into {limit:g} bytes"
    if strategy == "last" or (len(kept) == len(sendable) and strategy == "auto"):
        return made(
            "last", kept, None, f"the last {len(kept)} of {len(before)} turns fit into {limit:g} bytes"
        )
    note = None
    if summarise is not None and sendable:
        older = sendable[: len(sendable) - len(kept)]
        note = _summary(older, limit - base - _size(kept), summarise)
        if note is None and strategy == "auto":  # make room: the summary of everything matters more
            note = _summary(sendable, limit - base, summarise)
            kept = kept if note is None else []
    if note is not None:
        return made("summary", kept, note, f"a summary and the last {len(kept)} of {len(before)} turns")
    if not kept:
        return made("query", [], None, f"no earlier turn fits into {limit:g} bytes, and there is no summary")
    return made("last", kept, None, fitting)


def _latest(turns: Sequence[Sequence[Message]], room: float, most: int) -> list[Sequence[Message]]:
    """The latest turns without a gap that fit, in their order."""
    kept: list[Sequence[Message]] = []
    for turn in reversed(turns[max(0, len(turns) - most) :]):
        room -= sum(map(message_bytes, turn))
        if room < 0:
            break
        kept.insert(0, turn)
    return kept


def _size(turns: Sequence[Sequence[Message]]) -> int:
    return sum(message_bytes(m) for turn in turns for m in turn)


def _summary(
    turns: Sequence[Sequence[Message]], room: float, summarise: Callable[[Sequence[Message], int], str | None]
) -> str | None:
    """A summary that fits with its frame, or `None`; the function's own word on its length is not trusted."""
    frame = message_bytes(Message("system", f"{SUMMARY_TITLE} "))
    most = int(min(room - frame, 1e9))
    if most < 1:
        return None
    text = summarise([m for turn in turns for m in turn], most)
    if not text or message_bytes(Message("system", f"{SUMMARY_TITLE} {text}")) > room:
        return None
    return text
