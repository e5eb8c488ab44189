"""The exported graph against a naive forward pass in numpy: every architecture, every scheme, every way to
feed it."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graph_runner import GraphRunner
from reference import dequantized_matrices, forward

from quantize import Checkpoint, GraphOptions, Scheme, SchemeError, describe, quantize_checkpoint
from quantize.architectures import supported_architectures
from quantize.graph_tail import chunk_size
from tools.make_checkpoint import make_checkpoint

BASE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 384,
    "max_position_embeddings": 128,
}
LLAMA = {**BASE, "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": True}
LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.05, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6],
    "long_factor": [2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0],
    "original_max_position_embeddings": 20,
}
CASES: dict[str, dict[str, Any]] = {
    "llama-tied": LLAMA,
    "llama-untied-biases-llama3-rope": {
        **LLAMA,
        "tie_word_embeddings": False,
        "attention_bias": True,
        "mlp_bias": True,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    },
    "llama-every-head-its-own-kv": {**LLAMA, "num_key_value_heads": 4},
    "llama-one-kv-head": {**LLAMA, "num_key_value_heads": 1},
    "llama-yarn": {
        **LLAMA,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    },
    "qwen2": {**BASE, "architectures": ["Qwen2ForCausalLM"]},
    "qwen2-upper-windows": {
        **BASE,
        "architectures": ["Qwen2ForCausalLM"],
        "use_sliding_window": True,
        "sliding_window": 7,
        "max_window_layers": 1,
    },
    "qwen3": {**BASE, "architectures": ["Qwen3ForCausalLM"], "head_dim": 32},
    "mistral-window": {**BASE, "architectures": ["MistralForCausalLM"], "sliding_window": 9},
    "phi3": {**BASE, "architectures": ["Phi3ForCausalLM"], "sliding_window": 2047},
    "phi3-partial-rotation": {
        **BASE,
        "architectures": ["Phi3ForCausalLM"],
        "hidden_size": 128,
        "partial_rotary_factor": 0.5,
    },
    "phi3-longrope": {**BASE, "architectures": ["Phi3ForCausalLM"], "rope_parameters": LONGROPE},
    "gemma3": {
        **BASE,
        "architectures": ["Gemma3ForCausalLM"],
        "num_hidden_layers": 4,
        "head_dim": 32,
        "query_pre_attn_scalar": 24,
        "sliding_window": 8,
        "sliding_window_pattern": 3,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "final_logit_softcapping": 3.0,
        "attn_logit_softcapping": 2.0,
    },
}
TOKENS = np.random.default_rng(7).integers(2, 380, 40).tolist()


def build(
    tmp_path: Path, config: dict[str, Any], scheme: Scheme, *, std: float = 0.15, **more: Any
) -> tuple[Path, Path]:
    source = make_checkpoint(tmp_path / "hf", config, std=std, norm_std=0.3)
    more.setdefault("context_length", config["max_position_embeddings"])
    quantize_checkpoint(source, tmp_path / "package", scheme=scheme, **more)
    return source, tmp_path / "package"


def expected(source: Path, tokens: list[int], scheme: Scheme | None = None, **more: Any) -> np.ndarray:
    with Checkpoint.open(source) as checkpoint:
        model = describe(checkpoint.config, checkpoint.__contains__)
        matrix = dequantized_matrices(checkpoint, scheme) if scheme else None
        return forward(model, checkpoint, tokens, matrix, **more)


def feeds(case: str, total: int) -> dict[str, np.ndarray]:
    return {"rope_length": np.array(total, np.int64)} if "longrope" in case else {}


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def test_every_supported_architecture_has_a_case() -> None:
    covered = {config["architectures"][0] for config in CASES.values()}
    assert covered | {"Gemma3ForConditionalGeneration"} == set(supported_architectures())


@pytest.mark.parametrize("case", CASES)
def test_fp32_graph_equals_the_naive_forward_pass_however_it_is_fed(tmp_path: Path, case: str) -> None:
    source, package = build(tmp_path, CASES[case], Scheme.named("fp32"))
    wanted = expected(source, TOKENS)
    assert np.abs(wanted).max() > 0.5  # logits that are all near 0 would agree with anything
    runner, more = GraphRunner(package, capacity=64), feeds(case, len(TOKENS))
    # 1. the whole prompt at once
    np.testing.assert_allclose(runner.feed(TOKENS, **more)["logits"], wanted, atol=1e-4)
    # 2. after a rewind: chunks of uneven length, then one token at a time
    runner.rewind(5)
    parts = [
        runner.feed(TOKENS[start:stop], **more)["logits"] for start, stop in ((5, 12), (12, 13), (13, 30))
    ]
    parts += [runner.feed([token], **more)["logits"] for token in TOKENS[30:]]
    np.testing.assert_allclose(np.concatenate(parts), wanted[5:], atol=1e-4)
    # 3. rewound to the middle, another continuation
    runner.rewind(20)
    other = TOKENS[:20] + TOKENS[3:9]
    np.testing.assert_allclose(
        runner.feed(TOKENS[3:9], **more)["logits"],
        expected(source, other, rope_length=len(TOKENS))[20:],
        atol=1e-4,
    )


def test_longrope_uses_short_frequencies_up_to_the_switch_and_long_ones_beyond(tmp_path: Path) -> None:
    source, package = build(tmp_path, CASES["phi3-longrope"], Scheme.named("fp32"))
    runner = GraphRunner(package, capacity=64)
    for length in (20, 21):
        runner.rewind(0)
        found = runner.feed(TOKENS[:length], **feeds("longrope", length))["logits"]
        np.testing.assert_allclose(found, expected(source, TOKENS[:length]), atol=1e-4)
    short, long = expected(source, TOKENS[:20]), expected(source, TOKENS[:20], rope_length=21)
    assert np.abs(short - long).max() > 0.01  # the two sets differ enough for the test to tell


def test_longrope_is_exported_for_its_short_factors_unless_more_is_asked_for(tmp_path: Path) -> None:
    source, package = build(tmp_path, CASES["phi3-longrope"], Scheme.named("fp32"), context_length=None)
    options = json.loads((package / "manifest.json").read_text())
    assert options["context_length"] == 20
    assert "rope_switch" not in options["engine_options"]
    found = GraphRunner(package, capacity=32).feed(TOKENS[:20])["logits"]
    np.testing.assert_allclose(found, expected(source, TOKENS[:20]), atol=1e-4)


@pytest.mark.parametrize("head_bits", [4, 8, 16, 32])
@pytest.mark.parametrize("name", ["int4", "int8"])
@pytest.mark.parametrize("tied", [True, False])
def test_quantized_graph_in_float_arithmetic_equals_its_dequantized_weights(
    tmp_path: Path, name: str, head_bits: int, tied: bool
) -> None:
    scheme = Scheme.named(name, block_size=32, head_bits=head_bits, head_block_size=32, accuracy_level=1)
    source, package = build(tmp_path, {**LLAMA, "tie_word_embeddings": tied}, scheme)
    found = GraphRunner(package).feed(TOKENS)["logits"]
    assert relative(found, expected(source, TOKENS, scheme)) < 1e-4


@pytest.mark.parametrize("name", ["int4", "int8"])
def test_quantized_graph_in_int8_arithmetic_stays_within_the_rounding_of_activations(
    tmp_path: Path, name: str
) -> None:
    """Accuracy level 4 rounds activations to 8 bits block by block.

    The largest of 32 normal numbers is about 2.1 σ, so a step is 2.1 σ / 127 and its rounding noise 1 / √12
    of that: 0.5 % of every product. Seven products lie on the longest way through two layers and the head:
    0.5 % · √7 ≈ 1.3 %; three times that leaves room for kernels that round whole rows.
    """
    scheme = Scheme.named(name, block_size=32, head_block_size=32, accuracy_level=4)
    source, package = build(tmp_path, LLAMA, scheme)
    found = GraphRunner(package).feed(TOKENS)["logits"]
    error = relative(found, expected(source, TOKENS, scheme))
    assert 1e-6 < error < 0.04


@pytest.mark.parametrize("name", ["int4", "int8"])
def test_sizes_that_no_block_divides_are_padded(tmp_path: Path, name: str) -> None:
    config = {**LLAMA, "hidden_size": 88, "intermediate_size": 200, "head_dim": 16, "vocab_size": 523}
    scheme = Scheme.named(name, block_size=32, head_block_size=64, accuracy_level=1)
    source, package = build(tmp_path, config, scheme)
    found = GraphRunner(package).feed(TOKENS)["logits"]
    assert relative(found, expected(source, TOKENS, scheme)) < 1e-4


@pytest.mark.parametrize("method", ["rtn", "search"])
def test_rows_can_be_padded_to_whole_blocks(tmp_path: Path, method: str) -> None:
    config = {**LLAMA, "hidden_size": 288, "intermediate_size": 480, "head_dim": 16}
    scheme = Scheme.named("int4", block_size=64, accuracy_level=1, method=method, pad_blocks=True)
    source, package = build(tmp_path, config, scheme)
    graph = onnx.load(package / "model.onnx", load_external_data=False).graph
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    assert shapes["layers.0.attention.qkv.scales"][1] == 5  # 288 = 4.5 blocks of 64
    assert shapes["layers.0.mlp.down.scales"][1] == 8
    found = GraphRunner(package).feed(TOKENS)["logits"]
    assert relative(found, expected(source, TOKENS, scheme)) < 1e-4


def test_fp16_weights_are_computed_in_float32(tmp_path: Path) -> None:
    scheme = Scheme.named("fp16")
    source, package = build(tmp_path, {**LLAMA, "tie_word_embeddings": False}, scheme)
    found = GraphRunner(package).feed(TOKENS)["logits"]
    np.testing.assert_allclose(found, expected(source, TOKENS, scheme), atol=1e-4)


@pytest.mark.parametrize("vocab_size", [384, 261, 1000, 4096])
@pytest.mark.parametrize("topk", [1, 8, 20])
def test_evidence_equals_that_of_the_whole_rows(tmp_path: Path, vocab_size: int, topk: int) -> None:
    config = {**LLAMA, "vocab_size": vocab_size}
    _, package = build(tmp_path, config, Scheme.named("fp32"), topk=topk)
    out = GraphRunner(package).feed([token % vocab_size for token in TOKENS])
    rows = out["logits"].astype(np.float64)
    order = np.argsort(-rows, axis=-1, kind="stable")[:, :topk]
    np.testing.assert_array_equal(out["topk_ids"], order)
    np.testing.assert_array_equal(out["topk_logits"], np.take_along_axis(out["logits"], order, -1))
    lse = np.log(np.exp(rows - rows.max(-1, keepdims=True)).sum(-1)) + rows.max(-1)
    logprobs = rows - lse[:, None]
    np.testing.assert_allclose(out["lse"][:, 0], lse, atol=1e-5)
    np.testing.assert_allclose(out["entropy"][:, 0], -(np.exp(logprobs) * logprobs).sum(-1), atol=1e-5)


def test_both_ways_to_the_top_k_are_covered() -> None:
    assert chunk_size(4096, 8) == 64
    assert chunk_size(1000, 1) == 40
    assert chunk_size(261, 1) is None
    assert chunk_size(384, 20) is None  # dividing, but nearly every chunk would be taken
    assert chunk_size(151936, 8) == 64


def test_entropy_of_a_near_certain_row_is_near_zero_and_not_negative_noise(tmp_path: Path) -> None:
    _, package = build(tmp_path, LLAMA, Scheme.named("fp32"), std=2.0)
    out = GraphRunner(package).feed(TOKENS)
    assert out["entropy"].min() < 1e-3
    assert out["entropy"].min() > -1e-6


@pytest.mark.parametrize("prune", [True, False])
def test_only_the_last_positions_are_scored(tmp_path: Path, prune: bool) -> None:
    source, package = build(
        tmp_path, LLAMA, Scheme.named("fp32"), options=GraphOptions(prune_last_layer=prune)
    )
    wanted, runner = expected(source, TOKENS), GraphRunner(package)
    for count in (1, 3, len(TOKENS)):
        runner.rewind(0)
        out = runner.feed(TOKENS, num_logits=count)
        assert out["logits"].shape == (count, 384)
        assert out["topk_ids"].shape == (count, 8)
        np.testing.assert_allclose(out["logits"], wanted[-count:], atol=1e-4)


@pytest.mark.parametrize(
    "options", [GraphOptions(fuse_gate_up=True), GraphOptions(fuse_silu=False)], ids=["gate_up", "sigmoid"]
)
def test_options_of_speed_leave_the_result_alone(tmp_path: Path, options: GraphOptions) -> None:
    source, package = build(tmp_path, LLAMA, Scheme.named("fp32"), options=options)
    np.testing.assert_allclose(
        GraphRunner(package).feed(TOKENS)["logits"], expected(source, TOKENS), atol=1e-4
    )


def test_what_lies_behind_the_sequence_is_never_read(tmp_path: Path) -> None:
    _, package = build(tmp_path, LLAMA, Scheme.named("int8"))
    clean, dirty = GraphRunner(package, fill=0.0), GraphRunner(package, fill=float("nan"))
    for tokens in (TOKENS[:9], TOKENS[9:10], TOKENS[10:]):
        np.testing.assert_array_equal(clean.feed(tokens)["logits"], dirty.feed(tokens)["logits"])


def test_tied_head_and_embedding_share_their_bytes_and_weights_are_aligned(tmp_path: Path) -> None:
    _, package = build(tmp_path, LLAMA, Scheme.named("int4"))
    graph = onnx.load(package / "model.onnx", load_external_data=False).graph
    places = {
        tensor.name: {entry.key: entry.value for entry in tensor.external_data}
        for tensor in graph.initializer
        if tensor.external_data
    }
    assert places["embedding.table"] == places["embedding.codes"]
    assert all(int(p["offset"]) % 4096 == 0 for p in places.values() if int(p["length"]) >= 4096)
    ends = sorted((int(p["offset"]), int(p["offset"]) + int(p["length"])) for p in places.values())
    unique = sorted(set(ends))
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(unique))
    assert unique[-1][1] == (package / "model.onnx.data").stat().st_size


def test_a_layer_costs_ten_nodes_or_fewer(tmp_path: Path) -> None:
    """Norm, qkv, attention, out, norm, gate, up, SiLU, product, down: nothing else per layer."""

    def count(layers: int) -> int:
        _, package = build(
            tmp_path / str(layers), {**LLAMA, "num_hidden_layers": layers}, Scheme.named("int4")
        )
        return len(onnx.load(package / "model.onnx", load_external_data=False).graph.node)

    assert count(3) - count(2) == 10


def test_a_nonsensical_topk_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        SchemeError, match=r"topk is 385; it must be from 1 to the size of the vocabulary, 384"
    ):
        build(tmp_path, LLAMA, Scheme.named("int4"), topk=385)
