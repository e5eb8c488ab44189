"""The engine runs longrope graphs across their switch, where cached keys stop fitting."""

from pathlib import Path

import numpy as np
import pytest
from test_graph import CASES, TOKENS, build, expected

from edge_runtime.engines.onnx import OnnxEngine, OnnxSequence
from edge_runtime.engines.tuning import SessionTuning
from edge_runtime.errors import EngineError
from model_zoo import open_package
from quantize.schemes import Scheme

SWITCH = 20
Opened = tuple[Path, OnnxEngine]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    folder = tmp_path_factory.mktemp("longrope")
    source, package = build(folder, CASES["phi3-longrope"], Scheme.named("fp32"))
    manifest = open_package(package).manifest
    assert manifest.engine_options["rope_switch"] == SWITCH
    engine = OnnxEngine.open(
        package / "model.onnx",
        model_id=manifest.id,
        vocab_size=manifest.vocab_size,
        context_length=manifest.context_length,
        options=manifest.engine_options,
        tuning=SessionTuning(threads=1, spin=False, prefill_chunk=8, kv_step=16),
    )
    return source, engine


def last_row(sequence: OnnxSequence, tokens: list[int]) -> np.ndarray:
    logits = sequence.forward(tokens, want_logits=True).logits
    assert logits is not None
    return logits[-1].copy()


def test_every_step_across_the_switch_agrees_with_the_naive_forward_pass(opened: Opened) -> None:
    source, engine = opened
    sequence = engine.new_sequence()
    found = [last_row(sequence, TOKENS[:17])]
    found += [last_row(sequence, [token]) for token in TOKENS[17:24]]
    assert sequence.tokens == TOKENS[:24]
    for length, row in zip(range(17, 25), found, strict=True):
        np.testing.assert_allclose(row, expected(source, TOKENS[:length])[-1], atol=1e-4)
    # The two sets of frequencies differ by more than the tolerance, or nothing would have been shown.
    other = expected(source, TOKENS[:24], rope_length=SWITCH)[-1]
    assert np.abs(found[-1] - other).max() > 1e-3


def test_a_prompt_in_chunks_uses_the_frequencies_of_its_whole_length(opened: Opened) -> None:
    source, engine = opened
    np.testing.assert_allclose(
        last_row(engine.new_sequence(), TOKENS), expected(source, TOKENS)[-1], atol=1e-4
    )


def test_rewinding_and_forking_across_the_switch_computes_the_kept_tokens_again(opened: Opened) -> None:
    source, engine = opened
    sequence = engine.new_sequence()
    sequence.forward(TOKENS[:30])
    fork = sequence.fork(10)
    sequence.rewind(12)
    np.testing.assert_allclose(
        last_row(sequence, TOKENS[12:15]), expected(source, TOKENS[:15])[-1], atol=1e-4
    )
    np.testing.assert_allclose(last_row(fork, TOKENS[10:14]), expected(source, TOKENS[:14])[-1], atol=1e-4)


def test_a_package_that_promises_a_switch_its_graph_lacks_is_refused(opened: Opened, tmp_path: Path) -> None:
    _, package = build(tmp_path, CASES["llama-tied"], Scheme.named("fp32"))
    manifest = open_package(package).manifest
    with pytest.raises(EngineError, match="lacks rope_length: quantize the model again"):
        OnnxEngine.open(
            package / "model.onnx",
            model_id=manifest.id,
            vocab_size=manifest.vocab_size,
            context_length=manifest.context_length,
            options={**manifest.engine_options, "rope_switch": SWITCH},
            tuning=SessionTuning(threads=1),
        )
