"""HF checkpoint (Llama, Qwen2) → GGUF and its quantized forms, for the llama.cpp peers.

Runs in the bench-only environment: needs numpy, `gguf` and, to quantize, `llama_cpp`. The vocabulary is
left out (`tokenizer.ggml.model = "none"`): the benchmark feeds token ids. Format: ggml-org/ggml,
docs/gguf.md.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
FTYPES = {"Q4_0": 2, "Q8_0": 7, "Q4_K_M": 15}
"""`enum llama_ftype` of llama.h."""


def gguf_name(name: str) -> str:
    """`model.layers.3.mlp.up_proj.weight` → `blk.3.ffn_up.weight`.

    Raises KeyError for a tensor GGUF has no place for.
    """
    stem, _, kind = name.rpartition(".")
    if stem in TOP:
        return f"{TOP[stem]}.{kind}"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{NAMES[part]}.{kind}"


def rotate_rows(w: Any, heads: int) -> Any:
    """Reorder the rows of a q or k projection from HF's rotary layout to llama.cpp's.

    HF rotates the first half of a head against the second, llama.cpp's Llama adjacent pairs; row i of the
    first half and row i of the second become rows 2i and 2i+1.
    """
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def unrotate_rows(w: Any, heads: int) -> Any:
    """The inverse of `rotate_rows`."""
    return w.reshape(heads, w.shape[0] // heads // 2, 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def read_tensors(folder: Path) -> dict[str, tuple[str, Any]]:
    """All tensors as (dtype name, array); BF16 as its uint16 bits. Memory-mapped."""
    out = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as f:
            size = struct.unpack("<Q", f.read(8))[0]
            header = json.loads(f.read(size))
        data = np.memmap(path, np.uint8, "r", offset=8 + size)
        for name, entry in header.items():
            if name != "__metadata__":
                kind = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32}[entry["dtype"]]
                start, end = entry["data_offsets"]
                out[name] = (entry["dtype"], data[start:end].view(kind).reshape(entry["shape"]))
    return out


def as_float32(dtype: str, array: Any) -> Any:
    """Widen to float32; BF16 bits are the upper half of a float32."""
    return (array.astype(np.uint32) << 16).view(np.float32) if dtype == "BF16" else array.astype(np.float32)


def export(source: Path, out: Path) -> None:
    """Write `out` as GGUF: matrices in the checkpoint's own type, vectors in float32.

    Raises:
        ValueError: the model type is neither llama nor qwen2.
    """
    config = json.loads((source / "config.json").read_text())
    kind = config["model_type"]
    if kind not in ("llama", "qwen2"):
        raise ValueError(f"{source}: model type {kind!r} has no GGUF form here; supported: llama, qwen2")
    import gguf

    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads", heads)
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    theta = config.get("rope_theta") or (config.get("rope_parameters") or {}).get("rope_theta", 10000.0)

    writer = gguf.GGUFWriter(str(out), kind)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(float(theta))
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")

    tied = config.get("tie_word_embeddings", False)
    for name, (dtype, array) in read_tensors(source).items():
        if name == "lm_head.weight" and tied:
            continue
        if kind == "llama" and ".q_proj." in name:
            array = rotate_rows(array, heads)
        elif kind == "llama" and ".k_proj." in name:
            array = rotate_rows(array, kv_heads)
        if array.ndim == 1:
            writer.add_tensor(gguf_name(name), np.ascontiguousarray(as_float32(dtype, array)))
        elif dtype == "BF16":
            raw = np.ascontiguousarray(array).view(np.uint8)
            writer.add_tensor(gguf_name(name), raw, raw_dtype=gguf.GGMLQuantizationType.BF16)
        else:
            writer.add_tensor(gguf_name(name), np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantize(source: Path, out: Path, ftype: str, threads: int) -> None:
    """llama.cpp's own quantizer, through llama-cpp-python.

    Raises:
        RuntimeError: it reports a failure.
    """
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.nthread = threads
    params.ftype = FTYPES[ftype]
    status = llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(params))
    if status != 0:
        raise RuntimeError(f"llama_model_quantize({source}, {ftype}) returned {status}")


def bytes_per_token(path: Path) -> dict[str, Any]:
    """Weight bytes that a decode step reads and how many tensors have which type.

    An embedding counts only when it is also the head: a step reads one row of it otherwise.
    """
    import gguf

    reader = gguf.GGUFReader(str(path))
    sizes = {t.name: int(t.n_bytes) for t in reader.tensors}
    types: dict[str, int] = {}
    for tensor in reader.tensors:
        types[tensor.tensor_type.name] = types.get(tensor.tensor_type.name, 0) + 1
    unread = sizes.get("token_embd.weight", 0) if "output.weight" in sizes else 0
    return {"bytes_per_token": sum(sizes.values()) - unread, "types": types}


def dequantize(path: Path, source: Path, out: Path) -> None:
    """Write the weights that a GGUF stands for as a float32 checkpoint in HF's layout; the rest is copied.

    The checkpoint's export in float32 then shows what the scheme's weights alone cost, whatever engine runs
    them (`quality.py`).
    """
    import gguf

    config = json.loads((source / "config.json").read_text())
    heads = config["num_attention_heads"]
    turned = {"q_proj": heads, "k_proj": config.get("num_key_value_heads", heads)}
    names = {gguf_name(name): name for name in read_tensors(source)}
    header: dict[str, Any] = {}
    arrays = []
    offset = 0
    for tensor in gguf.GGUFReader(str(path)).tensors:
        name = names[tensor.name]
        w = np.ascontiguousarray(gguf.quants.dequantize(tensor.data, tensor.tensor_type), np.float32)
        part = name.split(".")[-2]
        if config["model_type"] == "llama" and part in turned:
            w = np.ascontiguousarray(unrotate_rows(w, turned[part]))
        header[name] = {"dtype": "F32", "shape": list(w.shape), "data_offsets": [offset, offset + w.nbytes]}
        offset += w.nbytes
        arrays.append(w)
    out.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        if file.suffix in (".json", ".jinja") and not file.name.startswith("model.safetensors"):
            shutil.copy(file, out)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (out / "model.safetensors").open("wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for w in arrays:
            f.write(w.tobytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path, help="folder for model-TYPE.gguf")
    parser.add_argument("--types", nargs="+", default=["Q4_0", "Q4_K_M"], choices=sorted(FTYPES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--dequantize", action="store_true", help="also write TYPE/: a float32 checkpoint of it"
    )
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    plain = args.out / "model-plain.gguf"
    export(args.source, plain)
    facts = {}
    for name in args.types:
        path = args.out / f"model-{name}.gguf"
        quantize(plain, path, name, args.threads)
        facts[name] = {"file_bytes": path.stat().st_size, **bytes_per_token(path)}
        if args.dequantize:
            dequantize(path, args.source, args.out / name)
    (args.out / "facts.json").write_text(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
