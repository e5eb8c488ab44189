"""Exporting through optimum: nothing is misread in silence, and what comes out computes what the checkpoint
does.

The export itself needs an environment of its own (torch and optimum-onnx 0.1.0 with transformers before
4.58), whose Python `EDGE_TEST_OPTIMUM_PYTHON` names."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.errors import MissingExtraError
from edge_runtime.model import LoadedModel
from model_zoo import open_package
from quantize import Scheme, quantize_checkpoint
from quantize.errors import ExporterError
from quantize.optimum_config import check_loaded, is_transformers_5, translate
from quantize.optimum_export import export_with_optimum
from tests.support import make_checkpoint, write_safetensors

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


# --- config.json ---


@pytest.mark.parametrize(
    ("config", "tokenizer", "expected"),
    [
        ({"rope_theta": 1e6, "transformers_version": "4.57.6"}, None, False),
        ({"transformers_version": "5.0.0"}, None, True),
        ({"rope_parameters": {}}, None, True),
        ({}, {"tokenizer_class": "TokenizersBackend"}, True),
        ({"transformers_version": "4.57.6"}, {"tokenizer_class": "LlamaTokenizer"}, False),
        ({}, None, False),
    ],
)
def test_a_checkpoint_of_transformers_5_is_recognised(config, tokenizer, expected):
    assert is_transformers_5(config, tokenizer) is expected


def test_rotary_settings_are_said_in_the_old_words():
    plain = {
        "model_type": "qwen2",
        "dtype": "bfloat16",
        "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"},
    }
    assert translate(plain, "x") == {"model_type": "qwen2", "torch_dtype": "bfloat16", "rope_theta": 1e6}
    scaled = translate({"rope_parameters": LLAMA3}, "x")
    assert scaled["rope_theta"] == 500000.0
    assert scaled["rope_scaling"] == {key: value for key, value in LLAMA3.items() if key != "rope_theta"}
    partial = {"rope_theta": 1e4, "rope_type": "default", "partial_rotary_factor": 0.25}
    assert translate({"rope_parameters": partial}, "x") == {"rope_theta": 1e4, "partial_rotary_factor": 0.25}
    long = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0], "long_factor": [2.0]}
    found = translate({"rope_parameters": long | {"original_max_position_embeddings": 4096}}, "x")
    assert found["original_max_position_embeddings"] == 4096
    assert found["rope_scaling"]["long_factor"] == [2.0]


def test_settings_by_kind_of_layer_are_translated_where_the_old_release_has_words():
    rope = {
        "full_attention": {"rope_theta": 1e6, "rope_type": "linear", "factor": 8.0},
        "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"},
    }
    assert translate({"model_type": "gemma3_text", "rope_parameters": rope}, "x") == {
        "model_type": "gemma3_text",
        "rope_local_base_freq": 1e4,
        "rope_theta": 1e6,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    }
    inner = {"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", "rope_parameters": rope}}
    assert translate(inner, "x")["text_config"]["rope_local_base_freq"] == 1e4
    with pytest.raises(
        ExporterError, match=r"x: rope_parameters of model type 'olmo9' differ by kind of layer"
    ):
        translate({"model_type": "olmo9", "rope_parameters": rope}, "x")


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        ({"rope_type": "spiral", "rope_theta": 1.0}, "rope_type 'spiral' is unknown to transformers 4"),
        ({"rope_type": "default", "rope_theta": 1.0, "twist": 3}, "rope_parameters has twist"),
        ([1, 2], r"rope_parameters is \[1, 2\], not an object"),
    ],
)
def test_what_cannot_be_translated_is_refused(rope, message):
    with pytest.raises(ExporterError, match=message):
        translate({"rope_parameters": rope}, "x")


def test_a_setting_that_got_lost_on_the_way_is_named():
    config = {"rope_theta": 1e6, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}
    check_loaded(
        config, {"rope_theta": 1e6, "rope_scaling": {"rope_type": "linear", "factor": 2.0, "more": 1}}, "x"
    )
    with pytest.raises(
        ExporterError, match=r"rope_theta=10000.0 where the checkpoint says 1000000.0.*damaged"
    ):
        check_loaded(config, {"rope_theta": 1e4, "rope_scaling": config["rope_scaling"]}, "x")
    with pytest.raises(ExporterError, match=r"rope_scaling=None"):
        check_loaded(config, {"rope_theta": 1e6, "rope_scaling": None}, "x")


@pytest.mark.parametrize("module", ["torch", "optimum.exporters.onnx"])
def test_a_missing_optimum_names_the_extra(monkeypatch, tmp_path, module):
    for name in ("torch", "transformers", "optimum.exporters.onnx"):
        monkeypatch.setitem(sys.modules, name, np)  # anything that can be imported
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r"--exporter optimum .*edge-runtime\[optimum\]"):
        export_with_optimum(tmp_path, tmp_path / "out", scheme=Scheme.named("fp32"))


# --- the real thing ---


@pytest.fixture
def export():
    """Run the verb in optimum's environment; gives the finished process."""
    python = os.environ.get("EDGE_TEST_OPTIMUM_PYTHON")
    if not python:
        pytest.skip(
            "EDGE_TEST_OPTIMUM_PYTHON is not set: it names the Python of an environment with optimum "
            "(`make test-all` makes one)"
        )
    root = Path(__file__).resolve().parent.parent.parent

    def run(source, out, scheme="fp32"):
        command = [python, str(root / "tools" / "quantize.py"), str(source), str(out)]
        options = ["--exporter", "optimum", "--scheme", scheme, "--json"]
        return subprocess.run([*command, *options], capture_output=True, text=True, check=False)

    return run


def new_words(source, rope):
    """Rewrite config.json and tokenizer_config.json as transformers 5 saves them."""
    path = source / "config.json"
    config = json.loads(path.read_text())
    config.pop("rope_theta")
    config["dtype"] = config.pop("torch_dtype")
    config |= {"rope_parameters": rope, "transformers_version": "5.23.0"}
    path.write_text(json.dumps(config))
    (source / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "TokenizersBackend", "backend": "tokenizers"}'
    )


def logits_of(package, ids, pieces):
    """All logits [S, V], the ids fed in pieces; with a rewind in between."""
    state = LoadedModel.open(package).engine.new_sequence()
    found = []
    for start, stop in zip([0, *pieces], [*pieces, len(ids)], strict=True):
        part = ids[start:stop]
        state.forward(part)
        state.rewind(start)
        found.append(state.forward(part, num_logits=len(part), want_logits=True).logits.copy())
    return np.concatenate(found)


@pytest.mark.heavy
@pytest.mark.parametrize(
    "rope", [{"rope_type": "default", "rope_theta": 1e6}, LLAMA3], ids=["default", "llama3"]
)
def test_a_checkpoint_of_transformers_5_comes_out_undamaged(export, tmp_path, rope):
    source = make_checkpoint(tmp_path / "checkpoint")
    new_words(source, rope)
    done = export(source, tmp_path / "generic")
    assert done.returncode == 0, done.stderr
    manifest = open_package(tmp_path / "generic").manifest
    assert manifest.engine_options["graph"] == "generic"
    assert manifest.source.exporter == "optimum"
    assert (tmp_path / "generic" / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "generic"]
    # Our own exporter reads both ways of saying it, and is checked against transformers elsewhere.
    quantize_checkpoint(source, tmp_path / "native", scheme=Scheme.named("fp32"))
    ids = np.random.default_rng(0).integers(0, manifest.vocab_size, 120).tolist()
    ours, theirs = (logits_of(tmp_path / name, ids, [90, 91, 95]) for name in ("native", "generic"))
    np.testing.assert_allclose(theirs, ours, atol=1e-4 * np.abs(ours).max())


@pytest.mark.heavy
def test_a_generic_graph_is_quantized_like_ours(export, tmp_path):
    source = make_checkpoint(tmp_path / "checkpoint")
    done = export(source, tmp_path / "generic", "int8")
    assert done.returncode == 0, done.stderr
    manifest = open_package(tmp_path / "generic").manifest
    assert (manifest.quantization.scheme, manifest.quantization.bits) == ("int8", 8)
    for scheme in ("int8", "fp32"):
        quantize_checkpoint(source, tmp_path / scheme, scheme=Scheme.named(scheme))
    assert manifest.size_bytes < 1.5 * open_package(tmp_path / "int8").manifest.size_bytes
    ids = np.random.default_rng(0).integers(0, manifest.vocab_size, 100).tolist()
    exact, ours, theirs = (logits_of(tmp_path / name, ids, [60, 61]) for name in ("fp32", "int8", "generic"))
    assert np.abs(theirs - exact).mean() < 1.5 * np.abs(ours - exact).mean()


@pytest.mark.heavy
def test_an_architecture_without_a_description_runs(export, tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'edge-runtime[parity]'")
    transformers = pytest.importorskip(
        "transformers",
        minversion="5.0",
        reason="transformers 5 is not installed: pip install 'edge-runtime[parity]'",
    )
    torch.manual_seed(0)
    source = make_checkpoint(tmp_path / "checkpoint")
    vocabulary = json.loads((source / "config.json").read_text())["vocab_size"]
    config = transformers.Olmo2Config(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=0,
        pad_token_id=2,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
    )
    model = transformers.Olmo2ForCausalLM(config).eval()
    model.save_pretrained(source)
    done = export(source, tmp_path / "generic")
    assert done.returncode == 0, done.stderr
    ids = np.random.default_rng(0).integers(0, vocabulary, 60).tolist()
    with torch.no_grad():
        wanted = model(torch.tensor([ids])).logits[0].numpy()
    np.testing.assert_allclose(logits_of(tmp_path / "generic", ids, [40, 41, 42]), wanted, atol=1e-4)


@pytest.mark.heavy
def test_a_checkpoint_that_would_come_out_damaged_is_refused(export, tmp_path):
    source = make_checkpoint(tmp_path / "checkpoint")
    new_words(source, {"rope_type": "spiral", "rope_theta": 1e4})
    done = export(source, tmp_path / "out")
    assert done.returncode == 6
    assert "rope_type 'spiral' is unknown to transformers 4" in done.stderr
    new_words_again = json.loads((source / "config.json").read_text())
    new_words_again["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e4}
    (source / "config.json").write_text(json.dumps(new_words_again))
    tensors = {"model.embed_tokens.weight": np.zeros((new_words_again["vocab_size"], 64), "<f4")}
    write_safetensors(source / "model.safetensors", tensors)
    done = export(source, tmp_path / "out")
    assert done.returncode == 6
    assert "the exported model would be damaged: it has no model." in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


@pytest.mark.heavy
def test_an_architecture_that_optimum_lacks_too_is_said_so(export, tmp_path):
    source = make_checkpoint(tmp_path / "checkpoint")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"model_type": "unheard"}))
    done = export(source, tmp_path / "out")
    assert done.returncode == 6
    assert "cannot export model type 'unheard' either" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
