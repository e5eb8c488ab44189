"""KV states of earlier prompts, kept for the next one that begins the same way.

The next turn of a conversation goes on where the last one ended; a query that only shares a system prompt
starts from a copy of that part. What is kept is bounded in bytes, the least recently used state leaves first.

A prompt computed in other pieces rounds differently in its last bits; the texts are equal but for near ties.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from edge_runtime.engines.base import Engine, SequenceState

__all__ = ["PrefixCache", "prefix_cache_budget"]

MIN_SHARED = 16
"""A shorter common prefix is quicker to compute again than to look after."""


def prefix_cache_budget(memory: int | None = None) -> int:
    """Bytes of idle KV memory that suit a machine with `memory` bytes (by default this one)."""
    if memory is None:
        try:
            memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (AttributeError, ValueError, OSError):
            memory = 2**30  # the system does not tell: as on a small board
    return min(256 << 20, memory // 16)


class PrefixCache:
    """Hands out sequences of one engine, with as much of the prompt already in them as there is.

    Args:
        engine: makes new sequences.
        max_bytes: KV memory of idle sequences; 0 keeps none.
        max_sequences: number of idle sequences.
    """

    def __init__(self, engine: Engine, *, max_bytes: int = 256 << 20, max_sequences: int = 4) -> None:
        self._engine = engine
        self._max_bytes, self._max_sequences = max_bytes, max_sequences
        self._idle: list[tuple[SequenceState, list[int]]] = []
        """States and their tokens, least recently used first."""
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """KV memory of the idle sequences, bytes."""
        with self._lock:
            return sum(state.nbytes for state, _ in self._idle)

    @contextmanager
    def lease(self, tokens: Sequence[int]) -> Iterator[SequenceState]:
        """A sequence for a prompt of `tokens`, holding a prefix of it or nothing; kept afterwards."""
        state = self.take(tokens)
        try:
            yield state
        except GeneratorExit:
            self.put(state)  # the reader of a stream left between two tokens: the state is whole
            raise
        except BaseException:
            # Interrupted in the middle of a forward pass, perhaps: its content is not worth a doubt.
            state.close()
            raise
        self.put(state)

    def take(self, tokens: Sequence[int]) -> SequenceState:
        """A sequence that is the caller's until `put`; holds a prefix of `tokens`."""
        tokens = list(tokens)
        with self._lock:
            at, shared = self._best(tokens)
            if at is None:
                if len(self._idle) < self._max_sequences:
                    return self._engine.new_sequence()
                # One state has to leave anyhow: its buffers are there already.
                state, _ = self._idle.pop(0)
                state.rewind(0)
                return state
            state, held = self._idle[at]
            if shared >= len(held) - 1:
                # The prompt goes on where this one ended (the last token may differ: it is fed again anyhow).
                del self._idle[at]
                state.rewind(shared)
                return state
            self._idle.append(self._idle.pop(at))
            return state.fork(shared)

    def put(self, state: SequenceState) -> None:
        """Keep a sequence for later prompts, if there is room."""
        with self._lock:
            if state.length >= MIN_SHARED and self._max_sequences > 0 and state.nbytes <= self._max_bytes:
                tokens = state.tokens
                # A state whose text is the beginning of this one has nothing more to give.
                for other in [entry for entry in self._idle if entry[1] == tokens[: len(entry[1])]]:
                    self._idle.remove(other)
                    other[0].close()
                self._idle.append((state, tokens))
            else:
                state.close()
            while self._idle and (
                len(self._idle) > self._max_sequences
                or sum(s.nbytes for s, _ in self._idle) > self._max_bytes
            ):
                self._idle.pop(0)[0].close()

    def clear(self) -> None:
        """Give all idle memory back."""
        with self._lock:
            for state, _ in self._idle:
                state.close()
            self._idle.clear()

    def _best(self, tokens: list[int]) -> tuple[int | None, int]:
        best, most = None, MIN_SHARED - 1
        for at, (_, held) in enumerate(self._idle):
            shared = _common(held, tokens)
            if shared > most:
                best, most = at, shared
        return best, most


def _common(left: list[int], right: list[int]) -> int:
    """Length of the common prefix; equal slices are compared at C speed."""
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
