"""Scores of the next token, with as few forward passes as possible.

`TokenScorer` keeps the tokens of the text and those in the KV cache in step. When a drafter guesses what
comes next (prompt lookup: repeat what followed the same few tokens earlier; Saxena 2023, "Prompt Lookup
Decoding"; also Leviathan et al., arXiv 2211.17192), the guesses ride along in the forward pass that is due
anyway, and each right guess saves a pass. A guess is never trusted: a token is chosen from the model's scores
exactly as without drafting, and wrong guesses are rewound.

A guess is not free: one more token makes a pass longer by about a fifth (`DRAFT_COST`). So the scorer keeps
an estimate of how often a guess is right, from guesses it made and from those it only noted, and feeds as
many as pay off in expectation; where guesses are mostly wrong, none. A pass over several tokens also rounds
differently than one over a single token, so close calls (`CLOSE_CALL`) are asked again without guesses. That
makes greedy text equal on float32 graphs. On int4 and int8 graphs the rounding can reach further than a close
call, and closeness is judged before biases and masks: there a long text may part from the plain one at a near
tie.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from edge_runtime.engines.base import Scores, SequenceState

__all__ = ["Drafter", "PromptLookup", "ScorerStats", "TokenScorer"]

DRAFT_COST = 0.2
"""Time of one more token in a forward pass, in passes of one token (int4, SmolLM2-135M's shape, 1 to 16
tokens: 0.16 to 0.23 measured)."""

CLOSE_CALL = 0.05
"""Nats between the two best tokens below which a pass with guesses is not taken at its word. int4 graphs
round activations to 8 bits, and differently so for one token than for several: 0.02 was seen."""

PROMPT_PIECE = 512
"""Prompt tokens between two checks for cancellation."""


class Drafter(Protocol):
    """Guesses the tokens that follow."""

    def draft(self, tokens: Sequence[int]) -> list[int]:
        """Guesses for what follows `tokens`; empty when there is nothing to go by."""
        ...


class PromptLookup:
    """Repeats what followed the last few tokens where they stood before.

    Args:
        max_ngram, min_ngram: lengths of the tail that is looked for, longest first.
        max_draft: most tokens to guess.
    """

    def __init__(self, *, max_ngram: int = 3, min_ngram: int = 1, max_draft: int = 8) -> None:
        if not 1 <= min_ngram <= max_ngram or max_draft < 1:
            raise ValueError(
                f"min_ngram={min_ngram}, max_ngram={max_ngram}, max_draft={max_draft}: need 1 <= min <= max "
                "and a draft of 1 or more"
            )
        self._sizes = tuple(range(max_ngram, min_ngram - 1, -1))
        self._max_draft = max_draft
        self._index: dict[tuple[int, ...], int] = {}
        self._indexed: list[int] = []

    def draft(self, tokens: Sequence[int]) -> list[int]:
        """Guesses for what follows `tokens`; calls with a growing sequence are cheap."""
        if list(tokens[: len(self._indexed)]) != self._indexed:
            self._index, self._indexed = {}, []
        # Index every n-gram that already has a successor; the latest place wins.
        for end in range(len(self._indexed), len(tokens)):
            for size in self._sizes:
                if end >= size:
                    self._index[tuple(tokens[end - size : end])] = end
        self._indexed = list(tokens)
        for size in self._sizes:
            if len(tokens) < size:
                continue
            at = self._index.get(tuple(tokens[-size:]))
            if at is not None:
                return list(tokens[at : at + self._max_draft])
        return []


@dataclass(slots=True)
class ScorerStats:
    """Counts of one generation: forward passes, tokens drafted and drafts that were right."""

    passes: int = 0
    drafted: int = 0
    accepted: int = 0


class TokenScorer:
    """Feeds a sequence and hands out the scores after its last token.

    Args:
        sequence: may already hold a prefix of what will be committed.
        want_logits: ask for whole rows.
        drafter: guesses tokens; `None` for one pass per token.
        check: called between the pieces of a long prompt; may raise to stop.
    """

    def __init__(
        self,
        sequence: SequenceState,
        *,
        want_logits: bool = False,
        drafter: Drafter | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._sequence, self._want_logits, self._drafter, self._check = sequence, want_logits, drafter, check
        self._cached = sequence.tokens
        self._tokens: list[int] = []
        self._scores: Scores | None = None
        self._first_row = 0
        """Number of tokens before the position that row 0 of `_scores` scores."""
        self._agreed = 0
        """Leading tokens of the text that are known to equal the cached ones."""
        self._noted: tuple[int, list[int]] = (0, [])
        """The drafter's latest guesses, fed or not, and the length of the text they follow."""
        self._hit_rate = 0.6
        self.stats = ScorerStats()

    @property
    def tokens(self) -> Sequence[int]:
        """Prompt and text so far. Not to be changed by the caller."""
        return self._tokens

    def commit(self, tokens: Sequence[int]) -> None:
        """Append tokens to the text; nothing is computed yet."""
        self._tokens.extend(tokens)

    def next(self, *, room: int | None = None) -> tuple[Scores, int]:
        """Scores of the token that follows the text, as (scores, row).

        `room` limits how many tokens may be drafted (tokens that are still wanted).

        Raises:
            ContextOverflowError, EngineError: from the engine.
        """
        length = len(self._tokens)
        self._compare()
        if self._agreed == length and self._scores is not None:
            row = length - self._first_row
            if 0 <= row < len(self._scores.lse):
                if self._is_close(self._scores, row):
                    return self._ask_again()
                self.stats.accepted += row > 0
                return self._scores, row
        # The last token has to be fed for its scores, even when it is cached from an earlier use.
        keep = min(self._agreed, length - 1)
        if keep < len(self._cached):
            self._sequence.rewind(keep)
            del self._cached[keep:]
        self._agreed = keep
        pending = self._tokens[keep:]
        while len(pending) > PROMPT_PIECE:
            self._check()
            self._feed(pending[:PROMPT_PIECE], 1, False)
            pending = pending[PROMPT_PIECE:]
        # Before the first scores there is a prompt to feed, and a guess would be the least informed.
        guesses = self._guess() if self._scores is not None else []
        if room is not None:
            guesses = guesses[: max(0, room - 1)]
        self._check()
        self._scores = self._feed(pending + guesses, len(guesses) + 1, self._want_logits)
        self._first_row = length
        self._agreed = length
        self.stats.drafted += len(guesses)
        return self._ask_again() if self._is_close(self._scores, 0) else (self._scores, 0)

    def settle(self) -> None:
        """Rewind what was drafted but not confirmed, so that the cache holds text alone."""
        self._compare()
        if self._agreed < len(self._cached):
            self._sequence.rewind(self._agreed)
            del self._cached[self._agreed :]

    def restart(self, tokens: Sequence[int]) -> None:
        """Go on with another text (a window that slid); what the cache still agrees with is kept."""
        self._tokens = list(tokens)
        self._agreed, self._scores = 0, None

    @staticmethod
    def _is_close(scores: Scores, row: int) -> bool:
        """Whether rounding could decide between the two best tokens of a pass that carried guesses."""
        return len(scores.lse) > 1 and bool(
            scores.topk_logits[row, 0] - scores.topk_logits[row, 1] < CLOSE_CALL
        )

    def _ask_again(self) -> tuple[Scores, int]:
        """Score the text's last token in a pass of its own, as it would have been without guesses."""
        length = len(self._tokens)
        self._hit_rate *= 0.85  # the guesses of that pass were for nothing, right or wrong
        self._sequence.rewind(length - 1)
        del self._cached[length - 1 :]
        self._scores = self._feed(self._tokens[-1:], 1, self._want_logits)
        self._first_row = self._agreed = length
        return self._scores, 0

    def _guess(self) -> list[int]:
        """As many of the drafter's guesses as pay off: the k-th is right with probability `hit_rate ** k`."""
        if self._drafter is None:
            return []
        start, noted = self._noted
        for guess, token in zip(noted, self._tokens[start:], strict=False):
            self._hit_rate += 0.15 * ((guess == token) - self._hit_rate)
            if guess != token:
                break
        guesses = self._drafter.draft(self._tokens)
        self._noted = (len(self._tokens), guesses)
        rate = min(max(self._hit_rate, 1e-6), 0.999)
        return guesses[: int(math.log(DRAFT_COST) / math.log(rate))]

    def _compare(self) -> None:
        limit = min(len(self._tokens), len(self._cached))
        while self._agreed < limit and self._tokens[self._agreed] == self._cached[self._agreed]:
            self._agreed += 1

    def _feed(self, tokens: list[int], num_logits: int, want_logits: bool) -> Scores:
        scores = self._sequence.forward(tokens, num_logits=num_logits, want_logits=want_logits)
        self._cached.extend(tokens)
        self.stats.passes += 1
        return scores
