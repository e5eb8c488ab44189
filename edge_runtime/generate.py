"""Generation in three layers: tokens (`generate_tokens`), text chunks (`stream`), a string (`generate`).

Each is a few lines over the one below. Every chunk carries its tokens, the evidence so far, tokens per
second, peak memory and, at the end, the reason why it ended.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from edge_runtime.detokenize import StopStrings
from edge_runtime.engines.base import Engine, SequenceState
from edge_runtime.errors import GenerationCancelled
from edge_runtime.grammar import Constraint
from edge_runtime.memory import peak_rss_mib
from edge_runtime.sampling import SamplingParams
from edge_runtime.speculative import Drafter
from edge_runtime.tokenizer import Tokenizer
from edge_runtime.tokens import Overflow, TokenStream, generate_tokens
from offload.checks import with_checks
from offload.spans import decisive_spans
from offload.types import Evidence, FinishReason, Token

__all__ = [
    "Chunk",
    "Completion",
    "RunningEvidence",
    "collect",
    "generate",
    "generate_tokens",
    "stream",
]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of text as it arrives.

    `evidence` covers everything so far (quantiles, the decisive spans of `offload.spans` and the checks of
    `offload.checks` only in the last chunk, which has a `finish_reason`).
    Speeds are tokens per second: prompt tokens that had to be computed over prefill time, generated ones over
    decode time. `peak_memory_mib` is the process's peak resident set, read at the first chunk and the last.
    """

    text: str
    tokens: tuple[Token, ...]
    evidence: Evidence
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    prefill_s: float
    decode_s: float
    prompt_tokens_per_s: float
    tokens_per_s: float
    peak_memory_mib: float
    finish_reason: FinishReason | None = None
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole generated text. `usage` counts tokens, `timings` are seconds (and tokens per second, MiB)."""

    text: str
    tokens: tuple[Token, ...]
    evidence: Evidence
    finish_reason: FinishReason
    usage: Mapping[str, int]
    timings: Mapping[str, float]


class RunningEvidence:
    """`Evidence` while tokens arrive, in constant time per token; `quantiles` wait for the end."""

    def __init__(self) -> None:
        self.tokens: list[Token] = []
        self._scored = 0
        self._logprob = self._entropy = self._margin = 0.0
        self._least, self._most = math.inf, -math.inf

    def add(self, token: Token) -> None:
        """Count one token."""
        self.tokens.append(token)
        if token.logprob is None or token.entropy is None or token.margin is None:
            return
        self._scored += 1
        self._logprob += token.logprob
        self._entropy += token.entropy
        self._margin += token.margin
        self._least, self._most = min(self._least, token.logprob), max(self._most, token.entropy)

    def evidence(self) -> Evidence:
        """The evidence so far."""
        n = self._scored
        if not n or not math.isfinite(self._logprob + self._entropy + self._margin):
            return Evidence.fold(self.tokens)
        return Evidence(
            n=len(self.tokens),
            n_scored=n,
            sum_logprob=self._logprob,
            mean_logprob=self._logprob / n,
            min_logprob=self._least,
            mean_entropy=self._entropy / n,
            max_entropy=self._most,
            mean_margin=self._margin / n,
        )


def stream(
    engine: Engine,
    tokenizer: Tokenizer,
    prompt: Sequence[int],
    params: SamplingParams,
    *,
    sequence: SequenceState | None = None,
    constraint: Constraint | None = None,
    drafter: Drafter | None = None,
    overflow: Overflow = "error",
    keep: int = 0,
    cancelled: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.perf_counter,
    peak_memory: Callable[[], float] | None = None,
) -> Iterator[Chunk]:
    """Text chunks after `prompt`, one per token; the last one has a `finish_reason`.

    A cancelled generation ends with the reason `cancelled`; closing the iterator ends it without a last
    chunk. `sequence` stays with the caller; without one, a fresh one is used and closed. The other arguments
    are those of `generate_tokens`.

    Raises:
        ContextOverflowError, GrammarError, EngineError: see `generate_tokens`.
    """
    probe = peak_memory or peak_rss_mib
    own = engine.new_sequence() if sequence is None else None
    detokenizer, stops, running = tokenizer.detokenizer(), StopStrings(params.stop), RunningEvidence()
    started, peak = clock(), None
    try:
        source = generate_tokens(
            own or sequence,  # type: ignore[arg-type]  # one of the two is there
            prompt,
            params,
            info=engine.info,
            eos_ids=tokenizer.eos_ids,
            detokenizer=detokenizer,
            constraint=constraint,
            drafter=drafter,
            overflow=overflow,
            keep=keep,
            cancelled=cancelled,
            clock=clock,
        )

        def chunk(text: str, tokens: tuple[Token, ...], reason: FinishReason | None = None) -> Chunk:
            nonlocal peak
            if peak is None or reason is not None:  # asking the system costs as much as a small model's step
                peak = probe()
            evidence = running.evidence()
            if reason is not None:
                evidence = _whole(running.tokens, reason, lambda: _question(tokenizer, prompt))
            return _chunk(
                source, text, tokens, evidence, len(running.tokens), clock() - started, peak, reason
            )

        reason: FinishReason = "stop"
        try:
            for token in source:
                running.add(token)
                text = stops.push(token.text)
                if stops.matched is not None:
                    yield chunk(text, (token,), "stop")
                    return
                yield chunk(text, (token,))
            reason = source.finish_reason or "stop"
        except GenerationCancelled:
            reason = "cancelled"
        finally:
            source.close()
        yield chunk(stops.push(detokenizer.finish()) + stops.finish(), (), reason)
    finally:
        if own is not None:
            own.close()


def generate(
    engine: Engine, tokenizer: Tokenizer, prompt: Sequence[int], params: SamplingParams, **options: object
) -> Completion:
    """The whole text after `prompt`; `options` are those of `stream`.

    Raises:
        ContextOverflowError, GrammarError, EngineError: see `generate_tokens`.
    """
    return collect(stream(engine, tokenizer, prompt, params, **options))  # type: ignore[arg-type]


def collect(chunks: Iterator[Chunk]) -> Completion:
    """Read a stream to its end."""
    text: list[str] = []
    tokens: list[Token] = []
    last: Chunk | None = None
    for last in chunks:
        text.append(last.text)
        tokens.extend(last.tokens)
    if last is None or last.finish_reason is None:
        raise ValueError("the stream of chunks ended without a finish reason: it was closed or read before")
    return Completion(
        "".join(text), tuple(tokens), last.evidence, last.finish_reason, usage_of(last), timings_of(last)
    )


def usage_of(last: Chunk) -> dict[str, int]:
    """Token counts of a finished stream, from its last chunk."""
    return {
        "prompt_tokens": last.prompt_tokens,
        "cached_tokens": last.cached_tokens,
        "completion_tokens": last.generated_tokens,
        "forced_tokens": last.evidence.n - last.evidence.n_scored,
        "total_tokens": last.prompt_tokens + last.generated_tokens,
        **last.counts,
    }


def timings_of(last: Chunk) -> dict[str, float]:
    """Times and speeds of a finished stream, from its last chunk."""
    return {
        "prefill_s": last.prefill_s,
        "decode_s": last.decode_s,
        "prompt_tokens_per_s": last.prompt_tokens_per_s,
        "tokens_per_s": last.tokens_per_s,
        "peak_rss_mib": last.peak_memory_mib,
    }


def _whole(tokens: Sequence[Token], reason: FinishReason, question: Callable[[], str]) -> Evidence:
    """The evidence of a finished text: its decisive spans apart, and checked against the prompt."""
    spans = decisive_spans(tokens)
    evidence = Evidence.fold(tokens, reason, spans)
    if not spans:  # plain text has no checks: spare long prompts the decoding
        return evidence
    return with_checks(evidence, question(), "".join(token.text for token in tokens))


def _question(tokenizer: Tokenizer, prompt: Sequence[int]) -> str:
    """The prompt's text, a line for each stretch between special tokens."""
    special = tokenizer.special_ids
    parts = groupby(prompt, key=lambda token: token in special)
    return "\n".join(tokenizer.decode(list(part)) for is_special, part in parts if not is_special)


def _chunk(
    source: TokenStream,
    text: str,
    tokens: tuple[Token, ...],
    evidence: Evidence,
    generated: int,
    elapsed: float,
    peak: float,
    reason: FinishReason | None,
) -> Chunk:
    prefill = source.prefill_s or 0.0
    decode = max(0.0, elapsed - prefill)
    computed = source.prompt_tokens - source.cached_tokens
    stats = source.stats
    return Chunk(
        text=text,
        tokens=tokens,
        evidence=evidence,
        prompt_tokens=source.prompt_tokens,
        cached_tokens=source.cached_tokens,
        generated_tokens=generated,
        prefill_s=prefill,
        decode_s=decode,
        prompt_tokens_per_s=computed / prefill if prefill > 0 else 0.0,
        # The first token comes out of the prefill.
        tokens_per_s=(generated - 1) / decode if generated > 1 and decode > 0 else 0.0,
        peak_memory_mib=peak,
        finish_reason=reason,
        counts={}
        if reason is None
        else {
            "forward_passes": stats.passes,
            "drafted_tokens": stats.drafted,
            "accepted_drafts": stats.accepted,
        },
    )
