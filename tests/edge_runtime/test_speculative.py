"""Drafts save forward passes and change nothing else."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import ScriptedEngine, ScriptedSequence, byte_tokenizer, hashed_row, spelled_row

from edge_runtime.engines.base import Scores
from edge_runtime.engines.onnx_generic import score_rows
from edge_runtime.grammar import Grammar, GrammarCompiler
from edge_runtime.sampling import SamplingParams
from edge_runtime.speculative import PromptLookup, TokenScorer
from edge_runtime.tokenizer import Tokenizer
from edge_runtime.tokens import TokenStream, generate_tokens
from offload.types import Token

TOKENIZER = Tokenizer(byte_tokenizer().to_str(), eos_ids=(0,), bos_id=1, pad_id=2)
FRAME = '{"intent":"HassTurnOff","slots":{"area":"bedroom","name":"bedroom lamp"}}'
SCHEMA = {
    "type": "object",
    "properties": {
        "intent": {"enum": ["HassTurnOn", "HassTurnOff", "HassLightSet"]},
        "slots": {
            "type": "object",
            "properties": {"area": {"type": "string"}, "name": {"type": "string"}},
            "additionalProperties": False,
        },
    },
    "required": ["intent", "slots"],
    "additionalProperties": False,
}


class WildGuesser:
    """Guesses anything at all: mostly wrong."""

    def __init__(self, vocab: int) -> None:
        self._vocab = vocab

    def draft(self, tokens: list[int]) -> list[int]:
        return [(sum(tokens) * 7 + i * len(tokens)) % self._vocab for i in range(len(tokens) % 5)]


def counting(tokens: list[int]) -> object:
    """1, 2, … 59, 1, 2, …: never 0, which ends a text."""
    return np.eye(60, dtype=np.float32)[tokens[-1] % 59 + 1] * 9


def run(
    engine: ScriptedEngine,
    prompt: list[int],
    params: SamplingParams,
    drafter: object,
    grammar: Grammar | None = None,
) -> tuple[list[Token], TokenStream]:
    constraint = GrammarCompiler(TOKENIZER).compile(grammar) if grammar is not None else None
    source = generate_tokens(
        engine.new_sequence(),
        prompt,
        params,
        info=engine.info,
        eos_ids=(0,),
        constraint=constraint,
        drafter=drafter,  # type: ignore[arg-type]
    )
    return list(source), source


@settings(max_examples=60, deadline=None)
@given(
    order=st.integers(1, 3),
    vocab=st.sampled_from([12, 40]),
    prompt=st.lists(st.integers(0, 11), min_size=1, max_size=20),
    limit=st.integers(1, 40),
    temperature=st.sampled_from([0.0, 0.8]),
    penalty=st.sampled_from([1.0, 1.2]),
    wild=st.booleans(),
)
def test_drafted_text_is_the_plain_text_token_by_token(
    order: int, vocab: int, prompt: list[int], limit: int, temperature: float, penalty: float, wild: bool
) -> None:
    params = SamplingParams(max_tokens=limit, temperature=temperature, repetition_penalty=penalty, seed=5)
    engine = ScriptedEngine(hashed_row(vocab, order), vocab, context_length=64)
    plain, _ = run(engine, prompt, params, None)
    drafted, source = run(engine, prompt, params, WildGuesser(vocab) if wild else PromptLookup())
    assert drafted == plain
    assert source.stats.passes <= 2 * len(plain)  # a close call costs a pass


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 100), wild=st.booleans())
def test_drafts_and_grammars_together_change_neither_text_nor_what_is_forced(seed: int, wild: bool) -> None:
    prompt = [*TOKENIZER.encode(FRAME), 1, seed]
    engine = ScriptedEngine(hashed_row(TOKENIZER.vocab_size, 2), TOKENIZER.vocab_size, context_length=300)
    params, grammar = SamplingParams(max_tokens=60), Grammar.json_schema(SCHEMA)
    plain, _ = run(engine, prompt, params, None, grammar)
    drafted, _ = run(
        engine, prompt, params, WildGuesser(TOKENIZER.vocab_size) if wild else PromptLookup(), grammar
    )
    assert drafted == plain


def test_repeating_what_was_said_before_saves_passes() -> None:
    said = TOKENIZER.encode(FRAME)
    prompt = [*said, 1, 40, 41]
    engine = ScriptedEngine(spelled_row(TOKENIZER.vocab_size, [*said, 0], len(prompt)), TOKENIZER.vocab_size)
    plain, without = run(engine, prompt, SamplingParams(), None)
    drafted, with_drafts = run(engine, prompt, SamplingParams(), PromptLookup())
    assert drafted == plain
    assert without.stats.passes == len(said) + 1
    assert with_drafts.stats.passes < without.stats.passes / 2
    grammar = Grammar.json_schema(SCHEMA)
    _, with_grammar = run(engine, prompt, SamplingParams(), None, grammar)
    forced, with_both = run(engine, prompt, SamplingParams(), PromptLookup(), grammar)
    assert [token.id for token in forced][: len(said)] == said
    assert with_both.stats.passes < with_grammar.stats.passes < without.stats.passes


def test_a_drafter_that_is_mostly_wrong_soon_costs_nothing() -> None:
    class Wrong:
        def draft(self, tokens: list[int]) -> list[int]:
            return [(tokens[-1] + 7) % 60] * 6

    engine = ScriptedEngine(counting, 60)
    _, source = run(engine, [3], SamplingParams(max_tokens=100), Wrong())
    assert source.stats.passes == 100
    assert source.stats.drafted < 15


def test_a_drafter_that_becomes_right_is_fed_again() -> None:
    class Late:
        def draft(self, tokens: list[int]) -> list[int]:
            step = 1 if len(tokens) > 50 else 7
            return [(tokens[-1] + step * i - 1) % 59 + 1 for i in range(1, 9)]

    engine = ScriptedEngine(counting, 60)
    _, source = run(engine, [3], SamplingParams(max_tokens=150), Late())
    assert source.stats.passes < 90


def test_a_close_call_is_asked_again_without_guesses() -> None:
    """The fake rounds as int4 graphs do: a pass over several tokens is off by up to 0.02."""

    class Rounding(ScriptedSequence):
        def forward(self, tokens: Sequence[int], *, num_logits: int = 1, want_logits: bool = False) -> Scores:
            scores = super().forward(tokens, num_logits=num_logits, want_logits=want_logits)
            if num_logits == 1:
                return scores
            rows = np.stack(
                [
                    engine.row(self.tokens[:end])
                    for end in range(self.length - num_logits + 1, self.length + 1)
                ]
            )
            return score_rows(rows + np.random.default_rng(0).uniform(-0.02, 0.02, rows.shape), 8)

    engine = ScriptedEngine(hashed_row(12, 1, spread=0.1), 12)
    engine.new_sequence = lambda: Rounding(engine, [])  # type: ignore[method-assign]
    params = SamplingParams(max_tokens=100, ignore_eos=True)
    plain, _ = run(engine, [1, 2, 3], params, None)
    drafted, source = run(engine, [1, 2, 3], params, PromptLookup())
    assert [token.id for token in drafted] == [token.id for token in plain]
    assert source.stats.drafted > 0


def test_drafts_never_reach_beyond_the_context_or_the_limit() -> None:
    engine = ScriptedEngine(hashed_row(12, 1), 12, context_length=32)
    made, _ = run(engine, [1, 2, 3], SamplingParams(), PromptLookup(max_draft=8))
    assert len(made) == 29  # the fake raises when it is fed more than its context
    engine.passes.clear()
    run(engine, [1, 2, 3] * 3, SamplingParams(max_tokens=1), PromptLookup(max_draft=8))
    assert engine.passes == [9]


def test_the_latest_and_longest_match_is_repeated() -> None:
    lookup = PromptLookup(max_ngram=2, max_draft=2)
    assert lookup.draft([1, 2, 3, 4, 1, 2]) == [3, 4]
    assert lookup.draft([1, 2, 3, 4, 1, 2, 9, 1, 2]) == [9, 1]
    assert lookup.draft([7, 8]) == []
    assert lookup.draft([5, 6, 5, 7, 5]) == [7, 5]
    assert lookup.draft([]) == []


def test_a_lookup_must_be_given_possible_sizes() -> None:
    with pytest.raises(ValueError, match="min_ngram=3, max_ngram=2"):
        PromptLookup(min_ngram=3, max_ngram=2)


def test_settling_leaves_no_unconfirmed_guess_in_the_cache() -> None:
    engine = ScriptedEngine(hashed_row(12, 1), 12)
    sequence = engine.new_sequence()
    scorer = TokenScorer(sequence, drafter=WildGuesser(12))  # type: ignore[arg-type]
    scorer.commit([1, 2, 3, 4])
    for token in (5, 6, 7):
        scorer.next()
        scorer.commit([token])
    scorer.next()
    scorer.settle()
    assert sequence.tokens == [1, 2, 3, 4, 5, 6, 7]
