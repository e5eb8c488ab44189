"""Sizes from the architecture alone are those that the exporter plans and that the shipped packages have."""

from pathlib import Path
from typing import Any, cast

import pytest

from model_zoo.footprint import SCHEMES, Architecture, footprint, parameters
from model_zoo.manifest import read_manifest
from model_zoo.registry import RegistryEntry, shipped_registry
from model_zoo.store import shipped_dir
from quantize.architectures import describe
from quantize.checkpoint import Checkpoint
from quantize.export import _context_length, _memory, quantize_checkpoint
from quantize.graph import build_graph
from quantize.schemes import SCHEMES as EXPORTER_SCHEMES
from quantize.schemes import Codes, Floats
from quantize.weights import WeightPlan
from tools.make_checkpoint import PRESETS, make_checkpoint

ENTRIES = shipped_registry().entries()
ON_THE_HUB = [entry for entry in ENTRIES if entry.repository is not None]
SHIPPED = [entry for entry in ENTRIES if entry.shipped is not None]

ODD = Architecture("LlamaForCausalLM", 2969, 250, 3, 6, 3, 32, 700, tied=False)
"""Rows that no block divides, and a head of its own."""

EXTRA = {
    "Gemma3ForCausalLM": {"query_pre_attn_scalar": 256, "sliding_window": 512},
    "Phi3ForCausalLM": {
        "partial_rotary_factor": 0.75,
        "original_max_position_embeddings": 4096,
        "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 48, "long_factor": [1.0] * 48},
    },
}


def config(arch: Architecture, trained: int) -> dict[str, Any]:
    """A config.json of this architecture."""
    return {
        "architectures": [arch.name],
        "hidden_size": arch.hidden,
        "intermediate_size": arch.ffn,
        "num_hidden_layers": arch.layers,
        "num_attention_heads": arch.heads,
        "num_key_value_heads": arch.kv_heads,
        "head_dim": arch.head_dim,
        "vocab_size": arch.vocab,
        "max_position_embeddings": trained,
        "tie_word_embeddings": arch.tied,
        "rope_theta": 10000.0,
        **EXTRA.get(arch.name, {}),
    }


def never(tensor: str, weights: Floats, bits: int, block: int) -> tuple[Codes, Floats]:
    raise AssertionError("nothing is quantized while a plan is made")


def check(
    arch: Architecture, trained: int, scheme: str, tokenizer_bytes: int, wanted: int | None = None
) -> None:
    model = describe(config(arch, trained), lambda name: True)
    plan = WeightPlan(cast(Checkpoint, None), never)
    length = _context_length(model, wanted)
    graph = build_graph(model, plan, EXPORTER_SCHEMES[scheme], context_length=length, topk=8)
    mine = footprint(arch, scheme, wanted or arch.context(trained), tokenizer_bytes)
    assert parameters(arch) == model.parameters()
    assert length == wanted or arch.context(trained) == length
    assert mine.memory == _memory(model, plan)
    exact = plan.size + len(graph.SerializeToString()) + tokenizer_bytes
    assert exact < mine.package_bytes < exact + 100_000  # the rest: licence, template, manifest


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("entry", ON_THE_HUB, ids=lambda entry: entry.id)
def test_size_and_memory_are_those_of_the_exporters_own_plan(entry: RegistryEntry, scheme: str) -> None:
    assert entry.architecture is not None
    check(entry.architecture, entry.context, scheme, entry.tokenizer_bytes)


@pytest.mark.parametrize("wanted", [512, 4097, 65536])
@pytest.mark.parametrize("name", ["llama3.2:1b", "phi4-mini"])
def test_so_they_are_for_other_contexts(name: str, wanted: int) -> None:
    entry = shipped_registry().resolve(name)
    assert entry.architecture is not None
    check(entry.architecture, entry.context, "int4", entry.tokenizer_bytes, wanted)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_so_they_are_for_rows_that_no_block_divides(scheme: str) -> None:
    check(ODD, 512, scheme, 1000)


def test_the_schemes_are_the_exporters() -> None:
    assert list(SCHEMES) == list(EXPORTER_SCHEMES)
    for name, layout in SCHEMES.items():
        theirs = EXPORTER_SCHEMES[name]
        assert (layout.bits, layout.block) == (theirs.bits, theirs.block_size)
        assert (layout.head_bits, layout.head_block) == (theirs.head_bits, theirs.head_block_size)


@pytest.mark.parametrize("entry", ON_THE_HUB, ids=lambda entry: entry.id)
def test_the_stored_figures_are_the_computed_ones(entry: RegistryEntry) -> None:
    assert entry.architecture is not None
    assert parameters(entry.architecture) == entry.parameters
    for name in SCHEMES:
        computed = footprint(entry.architecture, name, entry.package_context, entry.tokenizer_bytes)
        assert entry.schemes[name] == computed


@pytest.mark.parametrize(
    ("name", "preset"),
    [
        ("smollm2:135m", "smollm2-135m"),
        ("smollm2:360m", "smollm2-360m"),
        ("qwen2.5:0.5b", "qwen2.5-0.5b"),
        ("qwen2.5:1.5b", "qwen2.5-1.5b"),
        ("qwen3:0.6b", "qwen3-0.6b"),
        ("llama3.2:1b", "llama3.2-1b"),
    ],
)
def test_the_architectures_are_those_that_random_checkpoints_are_made_with(name: str, preset: str) -> None:
    entry = shipped_registry().resolve(name)
    assert entry.architecture is not None
    known = PRESETS[preset]
    mine = config(entry.architecture, entry.context)
    assert {key: mine[key] for key in mine if key in known and key != "rope_theta"} == {
        key: known[key] for key in mine if key in known and key != "rope_theta"
    }


@pytest.mark.parametrize("entry", SHIPPED, ids=lambda entry: entry.id)
def test_a_shipped_package_has_the_size_and_memory_of_its_entry_and_of_the_sums(entry: RegistryEntry) -> None:
    assert entry.shipped is not None
    assert entry.architecture is not None
    manifest, _ = read_manifest(shipped_dir() / entry.shipped)
    scheme = manifest.quantization.scheme
    assert entry.schemes[scheme].package_bytes == manifest.size_bytes
    assert entry.schemes[scheme].memory == manifest.memory
    assert (entry.parameters, entry.context) == (manifest.parameters, manifest.context_length)
    assert entry.licence == manifest.licence.id
    computed = footprint(entry.architecture, scheme, manifest.context_length, entry.tokenizer_bytes)
    assert computed.memory == manifest.memory
    assert computed.package_bytes == pytest.approx(manifest.size_bytes, rel=0.02)
    assert parameters(entry.architecture) == manifest.parameters


@pytest.mark.parametrize("scheme", ["int4", "int8", "fp16"])
def test_a_package_that_is_made_has_the_size_that_was_foretold(tmp_path: Path, scheme: str) -> None:
    values = PRESETS["tiny"]
    make_checkpoint(tmp_path / "checkpoint", values)
    manifest = quantize_checkpoint(
        tmp_path / "checkpoint", tmp_path / "package", scheme=EXPORTER_SCHEMES[scheme]
    )
    arch = Architecture(
        name="LlamaForCausalLM",
        vocab=values["vocab_size"],
        hidden=values["hidden_size"],
        layers=values["num_hidden_layers"],
        heads=values["num_attention_heads"],
        kv_heads=values["num_key_value_heads"],
        head_dim=values["hidden_size"] // values["num_attention_heads"],
        ffn=values["intermediate_size"],
        tied=values["tie_word_embeddings"],
    )
    tokenizer = manifest.files["tokenizer.json"].size
    foretold = footprint(arch, scheme, manifest.context_length, tokenizer)
    assert foretold.memory == manifest.memory
    assert 0 < foretold.package_bytes - manifest.size_bytes < 50_000
