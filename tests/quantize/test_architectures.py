"""Descriptions: which tensors make which layer, and rotary tables from every generation of config.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantize import CheckpointError, UnsupportedArchitectureError, describe
from quantize.rope import rope_from_config
from tools.make_checkpoint import PRESETS

TINY = PRESETS["tiny"]


def anything(_: str) -> bool:
    return True


@pytest.mark.parametrize(
    ("preset", "millions"),
    [("smollm2-135m", 134.5), ("qwen2.5-0.5b", 494.0), ("llama3.2-1b", 1235.8), ("qwen3-0.6b", 596.0)],
)
def test_published_shapes_have_the_published_number_of_parameters(preset: str, millions: float) -> None:
    assert describe(PRESETS[preset], anything).parameters() / 1e6 == pytest.approx(millions, abs=0.1)


def test_an_unknown_architecture_lists_the_known_ones_and_the_way_through_optimum() -> None:
    with pytest.raises(UnsupportedArchitectureError) as error:
        describe({**TINY, "architectures": ["MambaForCausalLM"]}, anything)
    text = str(error.value)
    assert "no description for the architecture MambaForCausalLM" in text
    for name in ("LlamaForCausalLM", "Qwen3ForCausalLM", "Gemma3ForCausalLM", "Phi3ForCausalLM"):
        assert name in text
    assert "edge-runtime quantize --exporter optimum" in text


@pytest.mark.parametrize("named", [None, []])
def test_a_config_without_architecture_is_refused(named: Any) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json names no architecture"):
        describe({**TINY, "architectures": named}, anything)


def test_a_missing_number_is_named() -> None:
    config = {key: value for key, value in TINY.items() if key != "intermediate_size"}
    with pytest.raises(CheckpointError, match="has no 'intermediate_size', which LlamaForCausalLM needs"):
        describe(config, anything)


def test_an_unknown_activation_is_refused() -> None:
    with pytest.raises(
        UnsupportedArchitectureError, match="activation 'relu2' of LlamaForCausalLM is not supported"
    ):
        describe({**TINY, "hidden_act": "relu2"}, anything)


def test_phi_splits_its_fused_tensors_by_rows() -> None:
    config = {**TINY, "architectures": ["Phi3ForCausalLM"]}
    layer = describe(config, anything).layers[0]
    assert [(part.start, part.stop, part.of) for part in layer.mlp.gate.parts + layer.mlp.up.parts] == [
        (0, 192, 384),
        (192, 384, 384),
    ]
    assert layer.attention.qkv.out_features == 64 + 2 * 32


@pytest.mark.parametrize("prefix", ["model.", "model.language_model.", "language_model.model."])
def test_gemma_text_is_found_in_text_only_and_multimodal_checkpoints(prefix: str) -> None:
    text = {key: value for key, value in TINY.items() if key not in ("architectures", "tie_word_embeddings")}
    multimodal = {"architectures": ["Gemma3ForConditionalGeneration"], "text_config": text}
    model = describe(multimodal, lambda name: name == prefix + "embed_tokens.weight")
    assert model.embedding == prefix + "embed_tokens.weight"
    assert model.layers[1].mlp.down.parts[0].tensor == prefix + "layers.1.mlp.down_proj.weight"
    assert model.head is None  # tied unless the config says otherwise


def test_gemma_alternates_windows_and_rotary_bases() -> None:
    config = {**TINY, "architectures": ["Gemma3ForCausalLM"], "num_hidden_layers": 7, "sliding_window": 32}
    model = describe(config, anything)
    assert [layer.attention.window for layer in model.layers] == [32, 32, 32, 32, 32, None, 32]
    assert [layer.attention.rope for layer in model.layers][4:6] == ["sliding", "full"]


def test_mistral_and_qwen_windows_follow_their_own_rules() -> None:
    mistral = {**TINY, "architectures": ["MistralForCausalLM"], "sliding_window": None}
    assert describe(mistral, anything).layers[0].attention.window is None
    qwen = {**TINY, "architectures": ["Qwen2ForCausalLM"], "sliding_window": 64, "max_window_layers": 1}
    assert [layer.attention.window for layer in describe(qwen, anything).layers] == [None, None]
    qwen["use_sliding_window"] = True
    assert [layer.attention.window for layer in describe(qwen, anything).layers] == [None, 64]


# --- rotary ---


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"rope_theta": 5e5}, {"rope_type": "default", "rope_theta": 5e5}),
        (
            {"rope_theta": 1e6, "rope_scaling": {"type": "linear", "factor": 4.0}},
            {"rope_type": "linear", "rope_theta": 1e6, "factor": 4.0},
        ),
        (
            {
                "rope_theta": 1e4,
                "partial_rotary_factor": 0.5,
                "max_position_embeddings": 4096,
                "original_max_position_embeddings": 128,
                "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 16, "long_factor": [3.0] * 16},
            },
            {
                "rope_type": "longrope",
                "rope_theta": 1e4,
                "partial_rotary_factor": 0.5,
                "original_max_position_embeddings": 128,
                "factor": 32.0,
                "short_factor": [1.0] * 16,
                "long_factor": [3.0] * 16,
            },
        ),
    ],
)
def test_old_and_new_spellings_mean_the_same(old: dict[str, Any], new: dict[str, Any]) -> None:
    first, second = rope_from_config(old, 64), rope_from_config({"rope_parameters": new}, 64)
    np.testing.assert_array_equal(first.frequencies, second.frequencies)
    assert (first.factor, first.switch) == (second.factor, second.switch)
    if first.long_frequencies is not None:
        assert second.long_frequencies is not None
        np.testing.assert_array_equal(first.long_frequencies, second.long_frequencies)


def test_llama3_keeps_short_waves_and_stretches_long_ones() -> None:
    spec = {
        "rope_type": "llama3",
        "rope_theta": 5e5,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    plain = rope_from_config({"rope_theta": 5e5}, 128).frequencies
    scaled = rope_from_config({"rope_parameters": spec}, 128).frequencies
    waves = 2 * np.pi / plain
    np.testing.assert_array_equal(scaled[waves < 8192 / 4], plain[waves < 8192 / 4])
    np.testing.assert_allclose(scaled[waves > 8192], plain[waves > 8192] / 8)
    assert (np.diff(scaled) < 0).all()


def test_tables_of_a_switching_rope_hold_the_short_rows_first() -> None:
    config = {
        "max_position_embeddings": 64,
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 1e4,
            "original_max_position_embeddings": 10,
            "short_factor": [1.0] * 8,
            "long_factor": [2.0] * 8,
        },
    }
    rope = rope_from_config(config, 16)
    cosines = np.concatenate([cos for cos, _ in rope.tables(24, step=7)])
    assert cosines.shape == (rope.rows(24), 8) == (34, 8)
    scale = np.sqrt(1 + np.log(6.4) / np.log(10))
    np.testing.assert_allclose(cosines[9], np.cos(9 * rope.frequencies) * scale, atol=1e-6)
    np.testing.assert_allclose(cosines[10 + 9], np.cos(9 * rope.frequencies / 2) * scale, atol=1e-6)
    assert rope.rows(10) == 10


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        (
            {"rope_type": "dynamic"},
            UnsupportedArchitectureError,
            "rotary scaling 'dynamic' is not supported; supported",
        ),
        ({"rope_type": "linear"}, CheckpointError, "rotary scaling 'linear' needs the field 'factor'"),
        (
            {
                "rope_type": "longrope",
                "short_factor": [1.0],
                "long_factor": [1.0] * 8,
                "original_max_position_embeddings": 4,
            },
            CheckpointError,
            "short_factor has 1 and long_factor 8 entries, but 8 rotary frequencies need one each",
        ),
    ],
)
def test_rotary_settings_that_cannot_be_carried_out_are_refused(
    spec: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        rope_from_config({"rope_parameters": spec, "max_position_embeddings": 8}, 16)


def test_descriptions_import_no_graph_library(repository: Path) -> None:
    """Another backend can use them without onnx."""
    files = [*(repository / "quantize" / "architectures").glob("*.py"), repository / "quantize" / "rope.py"]
    assert len(files) > 7
    for path in files:
        assert "import onnx" not in path.read_text(encoding="utf-8")
        assert "from onnx" not in path.read_text(encoding="utf-8")
