"""The peers' files: names, rotary layout, and a GGUF read back against a block quantized by hand."""

import importlib.util
import json
import struct

import numpy as np
import pytest

from tools.bench import gguf_export
from tools.bench.gguf_export import as_float32, gguf_name, read_tensors, rotate_rows, unrotate_rows

needs_gguf = pytest.mark.skipif(
    importlib.util.find_spec("gguf") is None,
    reason="the package gguf is not installed: pip install 'edge-runtime[test]'",
)


def checkpoint(folder, tensors, **config):
    """A checkpoint folder from {name: float32 array}, stored as F32."""
    folder.mkdir()
    header, offset = {}, 0
    for name, w in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(w.shape), "data_offsets": [offset, offset + w.nbytes]}
        offset += w.nbytes
    text = json.dumps(header).encode()
    data = b"".join(w.tobytes() for w in tensors.values())
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_names_follow_gguf():
    assert gguf_name("model.layers.12.self_attn.q_proj.bias") == "blk.12.attn_q.bias"
    assert gguf_name("model.embed_tokens.weight") == "token_embd.weight"
    with pytest.raises(KeyError):
        gguf_name("model.layers.0.self_attn.rotary_emb.inv_freq")


def test_rotated_rows_pair_the_halves_of_a_head_and_come_back():
    w = np.arange(2 * 8 * 3, dtype=np.float32).reshape(16, 3)
    turned = rotate_rows(w, heads=2)
    np.testing.assert_array_equal(turned[0], w[0])
    np.testing.assert_array_equal(turned[1], w[4])  # the first row of head 0's second half
    np.testing.assert_array_equal(turned[8 + 3], w[8 + 4 + 1])
    np.testing.assert_array_equal(unrotate_rows(turned, heads=2), w)


def test_bfloat16_is_the_upper_half_of_a_float():
    bits = np.array([0x3F80, 0xC000], np.uint16)
    np.testing.assert_array_equal(as_float32("BF16", bits), np.array([1.0, -2.0], np.float32))


def test_tensors_are_read_with_their_shapes(tmp_path):
    w = np.arange(6, dtype=np.float32).reshape(2, 3)
    found = read_tensors(checkpoint(tmp_path / "c", {"a.weight": w, "b.weight": w[0]}))
    np.testing.assert_array_equal(found["a.weight"][1], w)
    assert found["b.weight"][1].shape == (3,)


def test_another_architecture_is_refused_with_its_name(tmp_path):
    folder = checkpoint(tmp_path / "c", {}, model_type="mamba")
    with pytest.raises(ValueError, match="model type 'mamba' has no GGUF form here; supported: llama, qwen2"):
        gguf_export.export(folder, tmp_path / "out.gguf")


@needs_gguf
def test_a_q4_0_block_reads_back_as_its_definition_says(tmp_path):
    """32 weights share one float16 d; weight = d · (code − 8); element i in the low half-byte of byte i,
    element i + 16 in the high one (ggml-common.h)."""
    import gguf

    rng = np.random.default_rng(1)
    hidden, heads = 64, 2
    codes = rng.integers(0, 16, (hidden, hidden // 32, 32), dtype=np.uint8)
    scales = rng.uniform(0.01, 0.1, (hidden, hidden // 32)).astype(np.float16)
    blocks = np.concatenate(
        [scales[..., None].view(np.uint8), codes[..., :16] | (codes[..., 16:] << 4)], axis=-1
    ).reshape(hidden, -1)
    expected = ((codes.astype(np.float32) - 8) * scales.astype(np.float32)[..., None]).reshape(hidden, hidden)

    name = "model.layers.0.self_attn.q_proj.weight"
    source = checkpoint(
        tmp_path / "source",
        {name: expected},
        model_type="llama",
        num_attention_heads=heads,
        num_key_value_heads=heads,
    )
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_tensor(gguf_name(name), blocks, raw_dtype=gguf.GGMLQuantizationType.Q4_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    gguf_export.dequantize(path, source, tmp_path / "back")
    dtype, found = read_tensors(tmp_path / "back")[name]
    assert dtype == "F32"
    np.testing.assert_allclose(found, unrotate_rows(expected, heads), rtol=1e-6)
    assert json.loads((tmp_path / "back" / "config.json").read_text())["model_type"] == "llama"
    assert gguf_export.bytes_per_token(path) == {"bytes_per_token": blocks.nbytes, "types": {"Q4_0": 1}}
