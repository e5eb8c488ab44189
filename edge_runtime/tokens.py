"""The lowest layer of generation: a prompt of tokens goes in, tokens with their evidence come out.

Knows: feeding, choosing, grammars, drafts, the end of the context, cancellation. Does not know: text beyond
what each token adds, stop strings, or speed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from typing import Literal

from edge_runtime.detokenize import Detokenizer
from edge_runtime.engines.base import EngineInfo, Scores, SequenceState
from edge_runtime.errors import ContextOverflowError, EngineError, GenerationCancelled
from edge_runtime.grammar import Constraint
from edge_runtime.sampling import Sampler, SamplingParams
from edge_runtime.speculative import Drafter, ScorerStats, TokenScorer
from offload.types import FinishReason, Token

__all__ = ["Overflow", "TokenStream", "generate_tokens"]

Overflow = Literal["error", "slide"]


def generate_tokens(
    sequence: SequenceState,
    prompt: Sequence[int],
    params: SamplingParams,
    *,
    info: EngineInfo,
    eos_ids: Collection[int] = (),
    detokenizer: Detokenizer | None = None,
    constraint: Constraint | None = None,
    drafter: Drafter | None = None,
    overflow: Overflow = "error",
    keep: int = 0,
    cancelled: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.perf_counter,
) -> TokenStream:
    """Generate tokens after `prompt`.

    Args:
        sequence: KV state; what it shares with the prompt is not computed again. Afterwards it holds the
            prompt and all of the text but its last token.
        eos_ids: tokens that end the text. The one that does is the last token of the stream, with evidence.
        detokenizer: fills `Token.text` with the characters that the token completed.
        constraint: a grammar; tokens it forces come out with `forced=True` and without evidence.
        drafter: guesses tokens to save forward passes; changes nothing else.
        overflow: `error`, or `slide`: when the context is full, keep the first `keep` tokens, drop the older
            half of the rest and go on.
        cancelled: asked before every forward pass.

    Raises (while iterating, the first ones before any work):
        ContextOverflowError: prompt and `max_tokens` exceed the context; names the numbers.
        GenerationCancelled: `cancelled()` said so.
        GrammarError, EngineError: from below.
    """
    prompt = list(prompt)
    if not prompt:
        raise EngineError("the prompt has no tokens: give at least one (a start token will do)")
    if overflow == "error":
        _check_room(info, len(prompt), params.max_tokens)
    elif keep >= info.context_length - 1:
        raise ContextOverflowError(
            f"overflow='slide' keeps the first {keep} tokens, but the context of model '{info.model_id}' is "
            f"{info.context_length} tokens: shorten the system prompt"
        )
    return TokenStream(
        sequence,
        prompt,
        params,
        info,
        frozenset(eos_ids),
        detokenizer,
        constraint,
        drafter,
        overflow,
        keep,
        cancelled,
        clock,
    )


def _check_room(info: EngineInfo, prompt: int, max_tokens: int | None) -> None:
    wanted = 1 if max_tokens is None else max_tokens
    if prompt + wanted > info.context_length:
        ask = f"{prompt} tokens of prompt and {wanted} to generate make {prompt + wanted}"
        raise ContextOverflowError(
            f"{ask}, but the context of model '{info.model_id}' is {info.context_length} tokens: shorten "
            "the prompt, lower max_tokens, or ask for overflow='slide'"
        )


class TokenStream(Iterator[Token]):
    """The tokens of one generation, made while they are read.

    `finish_reason` is set when the stream ends; `prefill_s` once the prompt has been fed; `stats` counts
    passes.
    """

    def __init__(
        self,
        sequence: SequenceState,
        prompt: list[int],
        params: SamplingParams,
        info: EngineInfo,
        eos_ids: frozenset[int],
        detokenizer: Detokenizer | None,
        constraint: Constraint | None,
        drafter: Drafter | None,
        overflow: Overflow,
        keep: int,
        cancelled: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        self._params, self._info, self._eos = params, info, eos_ids
        self._detokenizer, self._constraint = detokenizer, constraint
        self._overflow, self._keep, self._cancelled, self._clock = overflow, keep, cancelled, clock
        self._sampler = Sampler(params, prompt)
        self._scorer = TokenScorer(
            sequence,
            want_logits=self._sampler.wants_row(info.topk, masked=constraint is not None),
            drafter=drafter,
            check=self._check,
        )
        self._prompt = prompt
        self.prompt_tokens = len(prompt)
        self.cached_tokens = min(_common(sequence.tokens, prompt), len(prompt) - 1)
        self.finish_reason: FinishReason | None = None
        self.prefill_s: float | None = None
        self._steps = self._generate()

    @property
    def stats(self) -> ScorerStats:
        """Counts of forward passes and drafts."""
        return self._scorer.stats

    def __next__(self) -> Token:
        return next(self._steps)

    def close(self) -> None:
        """Stop here; the sequence stays usable."""
        self._steps.close()

    def _check(self) -> None:
        if self._cancelled():
            self.finish_reason = "cancelled"
            raise GenerationCancelled(f"cancelled after {len(self._scorer.tokens)} tokens of prompt and text")

    def _generate(self) -> Generator[Token, None, None]:
        scorer, constraint, limit = self._scorer, self._constraint, self._params.max_tokens
        scorer.commit(self._prompt)
        made = 0
        try:
            while True:
                # 1 what the grammar forces needs no forward pass
                for token_id in constraint.forced() if constraint is not None else ():
                    self._take(token_id)
                    made += 1
                    yield Token(token_id, self._text(token_id), forced=True)
                    if limit is not None and made >= limit:
                        self.finish_reason = "length"
                        return
                if constraint is not None and constraint.finished:
                    self.finish_reason = "stop"
                    return
                # 2 room for one more
                if len(scorer.tokens) >= self._info.context_length:
                    if self._overflow == "error":
                        self.finish_reason = "length"
                        return
                    self._slide()
                # 3 scores, and a choice
                scores, row = self._score(None if limit is None else limit - made)
                mask = constraint.mask() if constraint is not None else None
                token_id = self._sampler.choose(scores, row, mask)
                ends = token_id in self._eos and (not self._params.ignore_eos or constraint is not None)
                evidence = _evidence(scores, row, token_id)
                if ends:
                    self.finish_reason = "stop"
                    yield Token(token_id, "", *evidence)
                    return
                if constraint is not None:
                    constraint.consume(token_id)
                self._take(token_id)
                made += 1
                yield Token(token_id, self._text(token_id), *evidence)
                if limit is not None and made >= limit:
                    self.finish_reason = "length"
                    return
        finally:
            scorer.settle()

    def _score(self, wanted: int | None) -> tuple[Scores, int]:
        room = self._info.context_length - len(self._scorer.tokens)
        started = self._clock() if self.prefill_s is None else 0.0
        result = self._scorer.next(room=room if wanted is None else min(room, wanted))
        if self.prefill_s is None:
            self.prefill_s = self._clock() - started
        return result

    def _take(self, token_id: int) -> None:
        self._scorer.commit((token_id,))
        self._sampler.commit(token_id)

    def _text(self, token_id: int) -> str:
        return self._detokenizer.push(token_id) if self._detokenizer is not None else ""

    def _slide(self) -> None:
        kept = self._scorer.tokens
        room = self._info.context_length - self._keep
        self._scorer.restart([*kept[: self._keep], *kept[len(kept) - room // 2 :]])


def _evidence(scores: Scores, row: int, token_id: int) -> tuple[float, float, float]:
    """(logprob, entropy, margin) of the raw distribution, in nats."""
    ids, logits = scores.topk_ids[row], scores.topk_logits[row]
    for at, known in enumerate(ids.tolist()):
        if known == token_id:
            logit = float(logits[at])
            break
    else:
        if scores.logits is None:
            raise EngineError(f"no score is at hand for token {token_id}: the engine returned no whole row")
        logit = float(scores.logits[row, token_id])
    # A logit may exceed the log-sum-exp by a rounding error; a probability may not exceed 1.
    logprob = min(0.0, logit - float(scores.lse[row]))
    return logprob, max(0.0, float(scores.entropy[row])), max(0.0, float(logits[0]) - float(logits[1]))


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    length = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        length += 1
    return length
