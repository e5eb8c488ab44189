"""Tokens, chunks, text: evidence, stopping, cancellation, the end of the context."""

import itertools
import math
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from support import ScriptedEngine, byte_tokenizer, hashed_row, spelled_row

from edge_runtime.errors import ContextOverflowError, EngineError, GenerationCancelled
from edge_runtime.generate import Chunk, RunningEvidence, collect, generate, stream
from edge_runtime.grammar import Grammar, GrammarCompiler
from edge_runtime.sampling import SamplingParams
from edge_runtime.tokenizer import Tokenizer
from edge_runtime.tokens import generate_tokens
from offload.types import Evidence, Token

TOKENIZER = Tokenizer(byte_tokenizer().to_str(), eos_ids=(0,), bos_id=1, pad_id=2)
VOCAB = TOKENIZER.vocab_size
PROMPT = [1, 40, 41, 42]
END = 0


def speaks(text: str, *, end: bool = True, context: int = 256) -> ScriptedEngine:
    """An engine that says `text` after `PROMPT`."""
    tokens = TOKENIZER.encode(text) + ([END] if end else [50])
    return ScriptedEngine(spelled_row(VOCAB, tokens, len(PROMPT)), VOCAB, context_length=context)


def ticking(step: float = 1.0) -> Iterator[float]:
    return itertools.count(0.0, step)


# --- tokens -------------------------------------------------------------------------------------------------


def test_tokens_carry_the_text_they_complete() -> None:
    engine = speaks("naïve 🙂 café")
    tokens = list(
        generate_tokens(
            engine.new_sequence(),
            PROMPT,
            SamplingParams(),
            info=engine.info,
            eos_ids=(END,),
            detokenizer=TOKENIZER.detokenizer(),
        )
    )
    assert "".join(token.text for token in tokens) == "naïve 🙂 café"
    assert all("�" not in token.text for token in tokens)


def test_the_end_token_is_the_last_one_and_has_evidence() -> None:
    engine = speaks("hi")
    tokens = generate_tokens(
        engine.new_sequence(), PROMPT, SamplingParams(), info=engine.info, eos_ids=(END,)
    )
    made = list(tokens)
    assert made[-1].id == END
    assert made[-1].text == ""
    assert made[-1].logprob is not None
    assert tokens.finish_reason == "stop"


def test_evidence_of_a_token_is_that_of_its_row() -> None:
    engine = ScriptedEngine(hashed_row(60), 60)
    seen = list(PROMPT)
    for token in generate_tokens(
        engine.new_sequence(), PROMPT, SamplingParams(max_tokens=20), info=engine.info
    ):
        row = engine.row(seen).astype(np.float64)
        shares = np.exp(row) / np.exp(row).sum()
        top = np.sort(row)[::-1]
        assert token.logprob == pytest.approx(math.log(shares[token.id]), abs=1e-5)
        assert token.entropy == pytest.approx(-(shares * np.log(shares)).sum(), abs=1e-4)
        assert token.margin == pytest.approx(top[0] - top[1], abs=1e-5)
        seen.append(token.id)


def test_a_step_feeds_one_token_and_the_prompt_is_fed_once() -> None:
    engine = ScriptedEngine(hashed_row(60), 60)
    list(generate_tokens(engine.new_sequence(), PROMPT, SamplingParams(max_tokens=5), info=engine.info))
    assert engine.passes == [len(PROMPT), 1, 1, 1, 1]


def test_what_is_cached_already_is_not_fed_again() -> None:
    engine = ScriptedEngine(hashed_row(60), 60)
    sequence = engine.new_sequence()
    sequence.forward([*PROMPT[:3], 59, 58])
    tokens = generate_tokens(sequence, PROMPT, SamplingParams(max_tokens=2), info=engine.info)
    fresh = generate_tokens(engine.new_sequence(), PROMPT, SamplingParams(max_tokens=2), info=engine.info)
    assert [t.id for t in tokens] == [t.id for t in fresh]
    assert tokens.cached_tokens == 3
    assert engine.passes[1] == 1


def test_a_prompt_that_is_cached_whole_is_fed_its_last_token_again() -> None:
    engine = ScriptedEngine(hashed_row(60), 60)
    sequence = engine.new_sequence()
    sequence.forward(PROMPT)
    tokens = generate_tokens(sequence, PROMPT, SamplingParams(max_tokens=2), info=engine.info)
    fresh = generate_tokens(engine.new_sequence(), PROMPT, SamplingParams(max_tokens=2), info=engine.info)
    assert [t.id for t in tokens] == [t.id for t in fresh]
    assert engine.passes[1] == 1


def test_afterwards_the_cache_holds_prompt_and_text() -> None:
    engine = ScriptedEngine(hashed_row(60), 60)
    sequence = engine.new_sequence()
    made = [t.id for t in generate_tokens(sequence, PROMPT, SamplingParams(max_tokens=6), info=engine.info)]
    assert sequence.tokens == PROMPT + made[:-1]


def test_an_empty_prompt_is_an_error() -> None:
    engine = ScriptedEngine(hashed_row(60), 60)
    with pytest.raises(EngineError, match="the prompt has no tokens"):
        generate_tokens(engine.new_sequence(), [], SamplingParams(), info=engine.info)


def test_ignoring_the_end_token_goes_on() -> None:
    engine = speaks("hi")
    params = SamplingParams(max_tokens=12, ignore_eos=True)
    made = list(generate_tokens(engine.new_sequence(), PROMPT, params, info=engine.info, eos_ids=(END,)))
    assert len(made) == 12


def test_two_interleaved_generations_say_what_each_says_alone() -> None:
    engine = ScriptedEngine(hashed_row(80), 80)
    prompts = ([3, 4, 5], [9, 8, 7, 6])
    params = SamplingParams(max_tokens=25, temperature=0.9, top_k=20, seed=11)

    def start(prompt: list[int]) -> Iterator[Token]:
        return generate_tokens(engine.new_sequence(), prompt, params, info=engine.info)

    alone = [[t.id for t in start(prompt)] for prompt in prompts]
    left, right = start(prompts[0]), start(prompts[1])
    together = list(zip(left, right, strict=True))
    assert [[a.id for a, _ in together], [b.id for _, b in together]] == alone


# --- cancellation -------------------------------------------------------------------------------------------


def test_cancelling_stops_between_two_tokens() -> None:
    engine, wish = speaks("a long story that is never told to its end"), threading.Event()
    tokens = generate_tokens(
        engine.new_sequence(), PROMPT, SamplingParams(), info=engine.info, cancelled=wish.is_set
    )
    next(tokens)
    next(tokens)
    passes = len(engine.passes)
    wish.set()
    with pytest.raises(GenerationCancelled, match="cancelled after 6 tokens"):
        next(tokens)
    assert len(engine.passes) == passes
    assert tokens.finish_reason == "cancelled"


def test_a_long_prompt_can_be_cancelled_half_way() -> None:
    engine = ScriptedEngine(hashed_row(60), 60, context_length=5000)
    checks = iter([False, False, True])
    tokens = generate_tokens(
        engine.new_sequence(), [3] * 4000, SamplingParams(), info=engine.info, cancelled=lambda: next(checks)
    )
    with pytest.raises(GenerationCancelled):
        next(tokens)
    assert engine.passes == [512, 512]


def test_a_cancelled_stream_ends_with_that_reason_and_its_evidence() -> None:
    engine, said = speaks("a long story"), []
    for chunk in stream(engine, TOKENIZER, PROMPT, SamplingParams(), cancelled=lambda: len(said) >= 3):
        said.append(chunk)
    assert [chunk.finish_reason for chunk in said] == [None, None, None, "cancelled"]
    assert said[-1].evidence.n == 3
    assert said[-1].evidence.finish_reason == "cancelled"


def test_leaving_a_stream_early_keeps_the_sequence_usable() -> None:
    engine = ScriptedEngine(hashed_row(60, order=1), 60)

    class Wrong:
        def draft(self, tokens: object) -> list[int]:
            return [59, 58, 57]

    for count in range(1, 9):
        sequence = engine.new_sequence()
        tokens = generate_tokens(
            sequence, PROMPT, SamplingParams(max_tokens=50), info=engine.info, drafter=Wrong()
        )
        seen = [next(tokens).id for _ in range(count)]
        tokens.close()
        assert sequence.tokens == (PROMPT + seen)[: sequence.length]
        again = generate_tokens(sequence, PROMPT, SamplingParams(max_tokens=count), info=engine.info)
        assert [t.id for t in again] == seen


# --- the end of the context ---------------------------------------------------------------------------------


def test_a_prompt_that_does_not_fit_is_refused_with_both_numbers() -> None:
    engine = ScriptedEngine(hashed_row(60), 60, context_length=16)
    with pytest.raises(
        ContextOverflowError, match=r"20 tokens of prompt and 1 to generate make 21, .* is 16 tokens"
    ):
        generate_tokens(engine.new_sequence(), [3] * 20, SamplingParams(), info=engine.info)
    with pytest.raises(
        ContextOverflowError, match=r"10 tokens of prompt and 7 to generate make 17, .* is 16 tokens"
    ):
        generate_tokens(engine.new_sequence(), [3] * 10, SamplingParams(max_tokens=7), info=engine.info)
    assert engine.passes == []


def test_without_a_limit_the_text_ends_with_the_context() -> None:
    engine = ScriptedEngine(hashed_row(60), 60, context_length=16)
    tokens = generate_tokens(engine.new_sequence(), [3] * 10, SamplingParams(), info=engine.info)
    assert len(list(tokens)) == 6
    assert tokens.finish_reason == "length"


def test_a_sliding_window_keeps_its_head_and_its_newest_tokens() -> None:
    fed: list[list[int]] = []

    def row(tokens: list[int]) -> object:
        fed.append(list(tokens))
        return np.eye(60, dtype=np.float32)[(tokens[-1] + 1) % 60] * 9

    engine = ScriptedEngine(row, 60, context_length=16)
    tokens = generate_tokens(
        engine.new_sequence(),
        [50, 51, 3],
        SamplingParams(max_tokens=40),
        info=engine.info,
        overflow="slide",
        keep=2,
    )
    made = [token.id for token in tokens]
    assert made == [(4 + i) % 60 for i in range(40)]
    assert all(len(context) <= 16 and context[:2] == [50, 51] for context in fed)


def test_a_prompt_longer_than_the_window_slides_too() -> None:
    engine = ScriptedEngine(hashed_row(60), 60, context_length=16)
    prompt = [50, 51, *range(40)]
    made = list(
        generate_tokens(
            engine.new_sequence(),
            prompt,
            SamplingParams(max_tokens=3),
            info=engine.info,
            overflow="slide",
            keep=2,
        )
    )
    shorter = generate_tokens(
        engine.new_sequence(), [50, 51, *range(33, 40)], SamplingParams(max_tokens=3), info=engine.info
    )
    assert made == list(shorter)


def test_a_head_that_fills_the_context_cannot_slide() -> None:
    engine = ScriptedEngine(hashed_row(60), 60, context_length=16)
    with pytest.raises(
        ContextOverflowError, match=r"keeps the first 15 tokens, but the context .* is 16 tokens"
    ):
        generate_tokens(
            engine.new_sequence(), [3] * 20, SamplingParams(), info=engine.info, overflow="slide", keep=15
        )


# --- text chunks --------------------------------------------------------------------------------------------


def test_chunks_add_up_to_the_completion() -> None:
    engine = speaks("turn off the lights")
    chunks = list(stream(engine, TOKENIZER, PROMPT, SamplingParams()))
    done = collect(iter(chunks))
    assert done.text == "turn off the lights" == "".join(chunk.text for chunk in chunks)
    assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert done.finish_reason == "stop"
    assert done.evidence == Evidence.fold(done.tokens, "stop")
    assert done.usage["completion_tokens"] == len(done.tokens)
    assert done.usage["total_tokens"] == len(PROMPT) + len(done.tokens)


def test_evidence_so_far_is_the_fold_of_the_tokens_so_far() -> None:
    engine = ScriptedEngine(hashed_row(VOCAB), VOCAB)
    tokens: list[Token] = []
    for chunk in stream(engine, TOKENIZER, PROMPT, SamplingParams(max_tokens=15, temperature=1.0, seed=0)):
        tokens.extend(chunk.tokens)
        fold, now = Evidence.fold(tokens), chunk.evidence
        assert (now.n, now.n_scored, now.min_logprob, now.max_entropy) == (
            fold.n, fold.n_scored, fold.min_logprob, fold.max_entropy,
        )  # fmt: skip
        assert now.mean_logprob == pytest.approx(fold.mean_logprob)
        assert now.mean_margin == pytest.approx(fold.mean_margin)


def test_evidence_that_is_not_a_number_never_reads_as_sure() -> None:
    running = RunningEvidence()
    running.add(Token(3, "a", -1.0, 0.5, 0.1))
    running.add(Token(4, "b", math.nan, 0.5, 0.1))
    assert running.evidence() == Evidence.fold(running.tokens)
    assert running.evidence().n_scored == 1


def test_speeds_times_and_memory_come_with_every_chunk() -> None:
    engine, clock = speaks("hello there"), ticking()
    chunks = list(
        stream(
            engine, TOKENIZER, PROMPT, SamplingParams(), clock=lambda: next(clock), peak_memory=lambda: 123.0
        )
    )
    last = chunks[-1]
    assert last.prefill_s == 1.0  # one tick between start and end of the prefill
    assert last.prompt_tokens_per_s == len(PROMPT)
    assert last.tokens_per_s == pytest.approx((last.generated_tokens - 1) / last.decode_s)
    assert last.peak_memory_mib == 123.0
    assert last.counts["forward_passes"] == len(engine.passes)


@pytest.mark.parametrize("stop", ["off", "the li", "s"])
def test_a_stop_string_ends_the_text_before_it(stop: str) -> None:
    engine = speaks("turn off the lights")
    chunks = list(stream(engine, TOKENIZER, PROMPT, SamplingParams(stop=(stop,))))
    assert "".join(chunk.text for chunk in chunks) == "turn off the lights".partition(stop)[0]
    assert chunks[-1].finish_reason == "stop"
    assert len(engine.passes) <= len(TOKENIZER.encode("turn off the lights"))


def test_what_only_looked_like_a_stop_string_is_shown_in_the_end() -> None:
    done = generate(speaks("lights o"), TOKENIZER, PROMPT, SamplingParams(stop=("off",)))
    assert done.text == "lights o"


def test_the_token_limit_is_the_finish_reason_length() -> None:
    done = generate(speaks("turn off the lights"), TOKENIZER, PROMPT, SamplingParams(max_tokens=3))
    assert done.finish_reason == "length"
    assert len(done.tokens) == 3


def test_half_a_character_at_the_limit_is_not_shown() -> None:
    pieces = len(TOKENIZER.encode("\U00012345"))
    assert pieces > 1
    done = generate(speaks("a\U00012345"), TOKENIZER, PROMPT, SamplingParams(max_tokens=pieces))
    assert done.text == "a"
    assert len(done.tokens) == pieces


def test_a_stream_that_was_read_before_is_no_completion() -> None:
    chunks: list[Chunk] = list(stream(speaks("hi"), TOKENIZER, PROMPT, SamplingParams()))
    with pytest.raises(ValueError, match="without a finish reason"):
        collect(iter(chunks[:-1]))


def test_same_seed_same_text() -> None:
    engine = ScriptedEngine(hashed_row(VOCAB), VOCAB)

    def say(seed: int) -> str:
        return generate(
            engine, TOKENIZER, PROMPT, SamplingParams(max_tokens=20, temperature=1.3, seed=seed)
        ).text

    assert say(1) == say(1)
    assert say(1) != say(2)


def test_forced_tokens_are_marked_and_left_out_of_the_sums() -> None:
    engine = ScriptedEngine(hashed_row(VOCAB), VOCAB)
    grammar = Grammar.json_schema(
        {"type": "object", "properties": {"intent": {"enum": ["HassLightSet", "HassTurnOff"]}},
         "required": ["intent"], "additionalProperties": False}
    )  # fmt: skip
    constraint = GrammarCompiler(TOKENIZER).compile(grammar)
    done = generate(engine, TOKENIZER, PROMPT, SamplingParams(), constraint=constraint)
    forced = [token for token in done.tokens if token.forced]
    assert forced
    assert all((t.logprob, t.entropy, t.margin) == (None, None, None) for t in forced)
    assert done.evidence.n_scored == len(done.tokens) - len(forced) == done.usage["forward_passes"]
    assert done.usage["forced_tokens"] == len(forced)
    assert done.evidence.sum_logprob == pytest.approx(
        sum(t.logprob for t in done.tokens if t.logprob is not None)
    )
