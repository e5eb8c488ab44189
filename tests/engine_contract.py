"""What every engine keeps, whatever computes it. A test class per engine inherits `EngineContract`.

The subclass gives a fixture `engine` (vocabulary of 100 tokens or more, context of 64 tokens or more) and may
widen `tolerance`, the difference in nats that the engine's arithmetic allows between two ways to one score.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from edge_runtime.engines.base import Engine, Scores
from edge_runtime.engines.onnx_generic import score_rows
from edge_runtime.errors import ContextOverflowError, EngineError
from edge_runtime.sampling import Mask, SamplingParams
from edge_runtime.speculative import PromptLookup
from edge_runtime.tokens import generate_tokens
from offload.types import Evidence


class OddOnly:
    """A grammar over bare token ids: after `forced_after` chosen tokens 90 and 91 must follow; else odd ids
    only.
    """

    finished = False

    def __init__(self, vocab_size: int, forced_after: int) -> None:
        odd = np.zeros(-(-vocab_size // 32) * 32, np.uint8)
        odd[1:vocab_size:2] = 1
        self._mask = Mask(np.packbits(odd, bitorder="little").view(np.int32))
        self._forced_after, self.chosen = forced_after, 0

    def forced(self) -> list[int]:
        if self.chosen != self._forced_after:
            return []
        self._forced_after = -1
        return [90, 91]

    def mask(self) -> Mask:
        return self._mask

    def consume(self, token_id: int) -> None:
        assert token_id % 2
        self.chosen += 1


PROMPT = [5, 17, 33, 17, 5, 60, 61, 62, 63, 5, 17, 33]


class EngineContract:
    tolerance = 1e-4

    def close_to(self, left: Scores, right: Scores, row: int = -1) -> None:
        np.testing.assert_allclose(left.lse[row], right.lse[row], atol=self.tolerance)
        np.testing.assert_allclose(left.entropy[row], right.entropy[row], atol=self.tolerance)
        np.testing.assert_allclose(left.topk_logits[row], right.topk_logits[row], atol=self.tolerance)

    # --- scores ---------------------------------------------------------------------------------------------

    def test_evidence_is_that_of_the_whole_raw_row(self, engine: Engine) -> None:
        scores = engine.new_sequence().forward(PROMPT, num_logits=4, want_logits=True)
        assert scores.logits is not None
        assert scores.logits.shape == (4, engine.info.vocab_size)
        expected = score_rows(scores.logits.astype(np.float64), engine.info.topk)
        np.testing.assert_allclose(scores.lse, expected.lse, atol=1e-4)
        np.testing.assert_allclose(scores.entropy, expected.entropy, atol=1e-3)
        np.testing.assert_allclose(scores.topk_logits, expected.topk_logits, atol=1e-5)
        rows = np.arange(4)[:, None]
        np.testing.assert_array_equal(scores.logits[rows, scores.topk_ids], scores.topk_logits)
        assert np.all(np.diff(scores.topk_logits) <= 0)

    def test_the_whole_row_comes_only_when_asked_for(self, engine: Engine) -> None:
        sequence = engine.new_sequence()
        assert sequence.forward(PROMPT).logits is None
        assert sequence.forward([3], want_logits=True).logits is not None

    def test_token_by_token_equals_all_at_once(self, engine: Engine) -> None:
        at_once, stepwise = engine.new_sequence(), engine.new_sequence()
        scores = at_once.forward(PROMPT, num_logits=len(PROMPT))
        for row, token in enumerate(PROMPT):
            step = stepwise.forward([token])
            np.testing.assert_allclose(step.lse[0], scores.lse[row], atol=self.tolerance)
            np.testing.assert_allclose(step.topk_logits[0], scores.topk_logits[row], atol=self.tolerance)
        assert at_once.tokens == stepwise.tokens == PROMPT

    def test_a_long_prompt_in_chunks_equals_short_ones(self, engine: Engine) -> None:
        prompt = list(itertools.islice(itertools.cycle(PROMPT), 50))
        whole, parts = engine.new_sequence(), engine.new_sequence()
        for at in range(0, 50, 7):
            last = parts.forward(prompt[at : at + 7])
        self.close_to(whole.forward(prompt), last)

    # --- state ----------------------------------------------------------------------------------------------

    def test_rewind_forgets(self, engine: Engine) -> None:
        straight, wandering = engine.new_sequence(), engine.new_sequence()
        expected = straight.forward([*PROMPT, 70, 71])
        wandering.forward([*PROMPT, 90, 91, 92, 93])
        wandering.rewind(len(PROMPT))
        assert wandering.tokens == PROMPT
        assert wandering.length == len(PROMPT)
        self.close_to(wandering.forward([70, 71]), expected)

    def test_rewind_beyond_the_cache_is_an_error(self, engine: Engine) -> None:
        sequence = engine.new_sequence()
        sequence.forward(PROMPT)
        with pytest.raises(EngineError, match=f"{len(PROMPT) + 1} tokens: the sequence holds {len(PROMPT)}"):
            sequence.rewind(len(PROMPT) + 1)
        with pytest.raises(EngineError):
            sequence.rewind(-1)

    def test_a_fork_goes_its_own_way(self, engine: Engine) -> None:
        trunk = engine.new_sequence()
        trunk.forward([*PROMPT, 80])
        branch = trunk.fork(len(PROMPT))
        fresh = engine.new_sequence()
        expected = fresh.forward([*PROMPT, 70, 71])
        self.close_to(branch.forward([70, 71]), expected)
        fresh.rewind(0)
        self.close_to(trunk.forward([81]), fresh.forward([*PROMPT, 80, 81]))
        assert branch.tokens == [*PROMPT, 70, 71]

    def test_interleaved_sequences_do_not_disturb_each_other(self, engine: Engine) -> None:
        texts = ([7, 8, 9, 10, 11], [50, 40, 30, 20, 10])
        alone = []
        for text in texts:
            sequence = engine.new_sequence()
            alone.append([sequence.forward([token]) for token in text])
        sequences = [engine.new_sequence() for _ in texts]
        for step in range(5):
            for text, sequence, expected in zip(texts, sequences, alone, strict=True):
                self.close_to(sequence.forward([text[step]]), expected[step])

    def test_a_closed_sequence_gives_its_memory_back(self, engine: Engine) -> None:
        sequence = engine.new_sequence()
        sequence.forward(PROMPT)
        assert sequence.nbytes > 0
        sequence.close()
        assert sequence.nbytes == 0
        assert sequence.length == 0

    # --- errors ---------------------------------------------------------------------------------------------

    def test_overflow_names_both_numbers_and_changes_nothing(self, engine: Engine) -> None:
        sequence, context = engine.new_sequence(), engine.info.context_length
        sequence.forward([5] * (context - 1))
        with pytest.raises(ContextOverflowError, match=rf"{context + 1} tokens .* {context} tokens"):
            sequence.forward([5, 5])
        assert sequence.length == context - 1
        sequence.forward([5])

    def test_a_token_outside_the_vocabulary_is_refused(self, engine: Engine) -> None:
        vocab = engine.info.vocab_size
        for token in (-1, vocab):
            with pytest.raises(EngineError, match=f"token {token} is not in the vocabulary of {vocab}"):
                engine.new_sequence().forward([5, token])

    def test_more_scores_than_tokens_is_an_error(self, engine: Engine) -> None:
        with pytest.raises(EngineError, match="num_logits=3 must be between 1 and the number of tokens"):
            engine.new_sequence().forward([5, 6], num_logits=3)

    # --- tokens over the engine ----------------------------------------------------------------------------

    @pytest.mark.parametrize(
        "params",
        [
            SamplingParams(max_tokens=12),
            SamplingParams(max_tokens=12, temperature=1.7, top_k=30, seed=4),
            SamplingParams(max_tokens=12, repetition_penalty=1.8, presence_penalty=1.5, logit_bias={9: 20.0}),
        ],
        ids=["greedy", "sampled", "reshaped"],
    )
    def test_evidence_of_tokens_ignores_temperature_penalties_and_bias(
        self, engine: Engine, params: SamplingParams
    ) -> None:
        tokens = list(generate_tokens(engine.new_sequence(), PROMPT, params, info=engine.info))
        assert len(tokens) == 12
        check = engine.new_sequence()
        scores = check.forward(PROMPT, want_logits=True)
        for token in tokens:
            assert scores.logits is not None
            row = scores.logits[0].astype(np.float64)
            shares = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
            ordered = np.sort(row)
            assert token.logprob is not None
            assert token.entropy is not None
            assert token.margin is not None
            assert math.isclose(token.logprob, math.log(shares[token.id]), abs_tol=self.tolerance)
            assert math.isclose(
                token.entropy, -float((shares * np.log(shares)).sum()), abs_tol=1e-3 + self.tolerance
            )
            assert math.isclose(token.margin, ordered[-1] - ordered[-2], abs_tol=self.tolerance)
            scores = check.forward([token.id], want_logits=True)

    @pytest.mark.parametrize("drafter", [None, PromptLookup()], ids=["plain", "drafted"])
    def test_evidence_ignores_the_mask_and_forced_tokens_have_none(
        self, engine: Engine, drafter: PromptLookup | None
    ) -> None:
        constraint = OddOnly(engine.info.vocab_size, forced_after=3)
        source = generate_tokens(
            engine.new_sequence(),
            PROMPT,
            SamplingParams(max_tokens=10),
            info=engine.info,
            constraint=constraint,  # type: ignore[arg-type]
            drafter=drafter,
        )
        tokens = list(source)
        assert [token.forced for token in tokens] == [False] * 3 + [True] * 2 + [False] * 5
        assert [token.id for token in tokens[3:5]] == [90, 91]
        evidence = Evidence.fold(tokens)
        assert (evidence.n, evidence.n_scored) == (10, 8)
        check = engine.new_sequence()
        scores = check.forward(PROMPT, want_logits=True)
        for token in tokens:
            assert scores.logits is not None
            if token.forced:
                assert (token.logprob, token.entropy, token.margin) == (None, None, None)
            else:
                assert token.id % 2
                expected = scores.logits[0, token.id] - scores.lse[0]
                np.testing.assert_allclose(token.logprob, expected, atol=self.tolerance)
                np.testing.assert_allclose(token.entropy, scores.entropy[0], atol=self.tolerance)
            scores = check.forward([token.id], want_logits=True)
        if drafter is None:
            assert source.stats.passes == 8

    def test_drafting_changes_neither_tokens_nor_evidence(self, engine: Engine) -> None:
        params = SamplingParams(max_tokens=40, logit_bias={5: 3.0, 17: 3.0})
        plain = list(generate_tokens(engine.new_sequence(), PROMPT, params, info=engine.info))
        stream = generate_tokens(
            engine.new_sequence(), PROMPT, params, info=engine.info, drafter=PromptLookup()
        )
        drafted = list(stream)
        assert [token.id for token in drafted] == [token.id for token in plain]
        assert stream.stats.drafted > 0
        for left, right in zip(drafted, plain, strict=True):
            assert left.logprob is not None
            assert right.logprob is not None
            assert math.isclose(left.logprob, right.logprob, abs_tol=self.tolerance)
        assert math.isclose(
            Evidence.fold(drafted).mean_entropy or 0,
            Evidence.fold(plain).mean_entropy or 1,
            abs_tol=self.tolerance,
        )
