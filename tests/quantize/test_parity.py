"""fp32 exports against transformers on small random checkpoints: prefill, 32 decode steps, a rewind, chunks.

The naive forward pass of `reference.py` shares our reading of the descriptions; transformers does not.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graph_runner import GraphRunner
from reference import dequantized_matrices

from quantize import Checkpoint, Scheme, describe, quantize_checkpoint

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("default")]

torch = pytest.importorskip("torch", reason="parity with transformers needs torch, which is not installed")
transformers = pytest.importorskip("transformers", reason="parity needs transformers, which is not installed")

BASE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 8.0, "original_max_position_embeddings": 32}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7],
    "long_factor": [2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0],
    "original_max_position_embeddings": 24,
}
GEMMA = {
    **BASE,
    "num_hidden_layers": 7,
    "head_dim": 32,
    "query_pre_attn_scalar": 24,
    "sliding_window": 10,
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", BASE),
    "llama-multi-head": ("Llama", {**BASE, "num_key_value_heads": 4}),
    "llama-multi-query": ("Llama", {**BASE, "num_key_value_heads": 1}),
    "llama-3": ("Llama", {**BASE, "rope_parameters": LLAMA3, "tie_word_embeddings": True}),
    "llama-biases-yarn": (
        "Llama",
        {**BASE, "rope_parameters": YARN, "attention_bias": True, "mlp_bias": True, "head_dim": 32},
    ),
    "qwen2-tied": ("Qwen2", {**BASE, "tie_word_embeddings": True}),
    "qwen2-windows": (
        "Qwen2",
        {**BASE, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    ),
    "qwen3": ("Qwen3", {**BASE, "head_dim": 32}),
    "mistral-window": ("Mistral", {**BASE, "sliding_window": 12, "head_dim": 16}),
    "mistral-full": ("Mistral", {**BASE, "sliding_window": None, "head_dim": 16}),
    "phi3": ("Phi3", {**BASE, "original_max_position_embeddings": 256}),
    "phi3-partial-rotation": (
        "Phi3",
        {
            **BASE,
            "hidden_size": 128,
            "sliding_window": 11,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
        },
    ),
    "phi3-longrope": ("Phi3", {**BASE, "original_max_position_embeddings": 24, "rope_parameters": LONGROPE}),
    "gemma3": ("Gemma3", GEMMA),
    "gemma3-scaled-softcapped": (
        "Gemma3",
        {
            **GEMMA,
            "final_logit_softcapping": 4.0,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
    ),
}
TOKENS = np.random.default_rng(3).integers(3, 300, 64).tolist()
PROMPT = 32

Logits = Callable[[list[int]], np.ndarray]


def quietly(work: Callable[[], Any]) -> Any:
    """Without the library's progress bars."""
    with contextlib.redirect_stderr(io.StringIO()):
        return work()


def randomized(family: str, config: dict[str, Any]) -> Any:
    """A model whose every parameter is random, norms and biases too."""
    torch.manual_seed(0)
    kind = "Gemma3TextConfig" if family == "Gemma3" else f"{family}Config"
    model = getattr(transformers, f"{family}ForCausalLM")(getattr(transformers, kind)(**config))
    return _randomize(model.float().eval(), centre=0.0 if family == "Gemma3" else 1.0)


def _randomize(model: Any, centre: float) -> Any:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            spread = 0.3 if parameter.dim() == 1 else 0.15
            parameter.copy_(torch.randn_like(parameter) * spread + (centre if "norm" in name else 0.0))
    return model


def logits_of(model: Any) -> Logits:
    def run(tokens: list[int]) -> np.ndarray:
        with torch.no_grad():
            return np.asarray(model(torch.tensor([tokens])).logits[0].float())

    return run


def saved(model: Any, folder: Path, **more: Any) -> Path:
    quietly(lambda: model.save_pretrained(folder, **more))
    (folder / "tokenizer.json").write_text("{}")
    return folder


def feeds(case: str, total: int) -> dict[str, np.ndarray]:
    return {"rope_length": np.array(total, np.int64)} if "longrope" in case else {}


def check(package: Path, reference: Logits, case: str = "") -> None:
    """Prefill, 32 decode steps, and a rewind with chunks: logits within 1e-4."""
    runner = GraphRunner(package, capacity=len(TOKENS))
    wanted = reference(TOKENS)
    assert np.abs(wanted).max() > 1
    more = feeds(case, len(TOKENS))
    np.testing.assert_allclose(runner.feed(TOKENS[:PROMPT], **more)["logits"], wanted[:PROMPT], atol=1e-4)
    for place in range(PROMPT, len(TOKENS)):
        found = runner.feed([TOKENS[place]], **more)["logits"][0]
        np.testing.assert_allclose(found, wanted[place], atol=1e-4)
    runner.rewind(10)
    again = TOKENS[:10] + TOKENS[40:64]
    more = feeds(case, len(TOKENS))
    found = np.concatenate(
        [runner.feed(again[a:b], **more)["logits"] for a, b in ((10, 17), (17, 18), (18, 34))]
    )
    if "longrope" in case:
        again += TOKENS[:30]  # causal: later tokens change nothing but which frequencies apply
    np.testing.assert_allclose(found, reference(again)[10:34], atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_fp32_export_agrees_with_transformers(tmp_path: Path, case: str) -> None:
    family, config = CASES[case]
    model = randomized(family, config)
    source = saved(model, tmp_path / "hf")
    quantize_checkpoint(source, tmp_path / "package", scheme=Scheme.named("fp32"), context_length=256)
    check(tmp_path / "package", logits_of(model), case)


def test_longrope_agrees_on_both_sides_of_the_switch(tmp_path: Path) -> None:
    model = randomized(*CASES["phi3-longrope"])
    source = saved(model, tmp_path / "hf")
    quantize_checkpoint(source, tmp_path / "package", scheme=Scheme.named("fp32"), context_length=256)
    reference, runner = logits_of(model), GraphRunner(tmp_path / "package", capacity=64)
    for length in (23, 24, 25, 40):
        runner.rewind(0)
        found = runner.feed(TOKENS[:length], **feeds("longrope", length))["logits"]
        np.testing.assert_allclose(found, reference(TOKENS[:length]), atol=1e-4)


def test_sharded_checkpoint_agrees(tmp_path: Path) -> None:
    model = randomized("Qwen2", BASE)
    source = saved(model, tmp_path / "hf", max_shard_size="100KB")
    assert len(list(source.glob("*.safetensors"))) > 2
    quantize_checkpoint(source, tmp_path / "package", scheme=Scheme.named("fp32"))
    check(tmp_path / "package", logits_of(model))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_checkpoints_are_widened_exactly(tmp_path: Path, dtype: str) -> None:
    model = randomized("Llama", BASE).to(getattr(torch, dtype))
    source = saved(model, tmp_path / "hf")
    quantize_checkpoint(source, tmp_path / "package", scheme=Scheme.named("fp32"))
    # Read again: conversion of a whole model also rounds its rotary frequencies, which no file holds.
    again = quietly(lambda: transformers.LlamaForCausalLM.from_pretrained(source, dtype=torch.float32))
    check(tmp_path / "package", logits_of(again.eval()))


def test_text_part_of_a_multimodal_gemma_agrees(tmp_path: Path) -> None:
    text = transformers.Gemma3TextConfig(**GEMMA)
    vision = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    config = transformers.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    torch.manual_seed(0)
    model = _randomize(transformers.Gemma3ForConditionalGeneration(config).float().eval(), centre=0.0)
    source = saved(model, tmp_path / "hf")
    quantize_checkpoint(source, tmp_path / "package", scheme=Scheme.named("fp32"))
    check(tmp_path / "package", logits_of(model))


def test_older_config_files_are_understood(tmp_path: Path) -> None:
    """Before transformers 5 rotary settings stood in `rope_theta` and `rope_scaling`."""
    model = randomized("Llama", {**BASE, "rope_parameters": LLAMA3})
    source = saved(model, tmp_path / "hf")
    config = json.loads((source / "config.json").read_text())
    spec = config.pop("rope_parameters")
    config |= {"rope_theta": spec.pop("rope_theta"), "rope_scaling": spec}
    (source / "config.json").write_text(json.dumps(config))
    quantize_checkpoint(source, tmp_path / "package", scheme=Scheme.named("fp32"))
    check(tmp_path / "package", logits_of(model))


@pytest.mark.parametrize("name", ["int4", "int8"])
@pytest.mark.parametrize("case", ["llama-3", "qwen2-tied", "qwen3", "phi3", "gemma3"])
def test_quantized_export_agrees_with_transformers_on_its_dequantized_weights(
    tmp_path: Path, case: str, name: str
) -> None:
    """Float arithmetic on both sides: what is left is the order of additions."""
    scheme = Scheme.named(name, block_size=32, head_block_size=32, accuracy_level=1)
    model = randomized(*CASES[case])
    source = saved(model, tmp_path / "hf")
    quantize_checkpoint(source, tmp_path / "package", scheme=scheme)
    with Checkpoint.open(source) as checkpoint:
        description = describe(checkpoint.config, checkpoint.__contains__)
        matrix = dequantized_matrices(checkpoint, scheme)
        parameters = dict(model.named_parameters())
        with torch.no_grad():
            for linear in description.linears():
                whole, at = torch.from_numpy(matrix(linear, False).copy()), 0
                for part in linear.parts:
                    parameters[part.tensor][part.start : part.stop] = whole[at : at + part.count]
                    at += part.count
            for tensor in filter(None, (description.embedding, description.head)):
                linear = description.whole(tensor)
                parameters[tensor].copy_(torch.from_numpy(matrix(linear, True).copy()))
    check(tmp_path / "package", logits_of(model))
