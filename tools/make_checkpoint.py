"""Make a random checkpoint of a real model's shape, with numpy alone.

    python tools/make_checkpoint.py smollm2-135m OUT

Weights are normal with standard deviation 0.02, norms are 1, written as bfloat16 a few MiB at a time. The
tokenizer knows single bytes and fillers, so that any text can be encoded and any token decoded. Such
checkpoints measure speed, memory and file sizes; they say nothing about quality.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from quantize.architectures import describe

_LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
}
_QWEN2 = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
}
_QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
}


def _sizes(hidden: int, inner: int, layers: int, heads: int, kv_heads: int, vocab: int) -> dict[str, int]:
    return {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
    }


PRESETS: dict[str, dict[str, Any]] = {
    "smollm2-135m": {
        **_LLAMA,
        **_sizes(576, 1536, 30, 9, 3, 49152),
        "max_position_embeddings": 8192,
        "rope_theta": 100000.0,
        "tie_word_embeddings": True,
    },
    "smollm2-360m": {
        **_LLAMA,
        **_sizes(960, 2560, 32, 15, 5, 49152),
        "max_position_embeddings": 8192,
        "rope_theta": 100000.0,
        "tie_word_embeddings": True,
    },
    "tinyllama-1.1b": {
        **_LLAMA,
        **_sizes(2048, 5632, 22, 32, 4, 32000),
        "max_position_embeddings": 2048,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    },
    "llama3.2-1b": {
        **_LLAMA,
        **_sizes(2048, 8192, 16, 32, 8, 128256),
        "max_position_embeddings": 131072,
        "rope_theta": 500000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        "tie_word_embeddings": True,
    },
    "qwen2.5-0.5b": {
        **_QWEN2,
        **_sizes(896, 4864, 24, 14, 2, 151936),
        "max_position_embeddings": 32768,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": True,
    },
    "qwen2.5-1.5b": {
        **_QWEN2,
        **_sizes(1536, 8960, 28, 12, 2, 151936),
        "max_position_embeddings": 32768,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": True,
    },
    "qwen3-0.6b": {
        **_QWEN3,
        **_sizes(1024, 3072, 28, 16, 8, 151936),
        "head_dim": 128,
        "max_position_embeddings": 40960,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": True,
    },
    "tiny": {
        **_LLAMA,
        **_sizes(64, 192, 2, 4, 2, 512),
        "max_position_embeddings": 512,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
    },
}
"""Shapes as published in the models' config.json."""

_CHUNK = 1 << 21
_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_checkpoint(
    folder: Path,
    config: dict[str, Any],
    *,
    seed: int = 0,
    dtype: str = "BF16",
    std: float = 0.02,
    norm_std: float = 0.0,
    shards: int = 1,
) -> Path:
    """Write config.json, safetensors, tokenizer.json and the rest into `folder`; returns it.

    `dtype` is BF16, F16 or F32. `std` is the standard deviation of weights and biases, `norm_std` that of
    norms around 1. More than one shard come with an index.
    """
    folder.mkdir(parents=True, exist_ok=True)
    special = {"eos_token_id": 0, "bos_token_id": 1}
    (folder / "config.json").write_text(
        json.dumps({**special, "torch_dtype": "bfloat16", **config}, indent=2)
    )
    shapes = describe(config, lambda name: name.startswith("model.")).tensors()
    names = list(shapes)
    step = -(-len(names) // shards)
    parts = [names[start : start + step] for start in range(0, len(names), step)]
    files = ["model.safetensors"]
    if len(parts) > 1:
        files = [f"model-{place + 1:05}-of-{len(parts):05}.safetensors" for place in range(len(parts))]
        index = {name: file for file, part in zip(files, parts, strict=True) for name in part}
        (folder / "model.safetensors.index.json").write_text(
            json.dumps({"metadata": {}, "weight_map": index})
        )
    rng = np.random.default_rng(seed)
    for file, part in zip(files, parts, strict=True):
        _write_shard(folder / file, {name: shapes[name] for name in part}, dtype, rng, std, norm_std)
    (folder / "tokenizer.json").write_text(
        json.dumps(_tokenizer(int(config["vocab_size"])), ensure_ascii=False)
    )
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": _TEMPLATE, "eos_token": "<|im_end|>"})
    )
    (folder / "generation_config.json").write_text(json.dumps(special))
    return folder


def _write_shard(
    path: Path,
    shapes: dict[str, tuple[int, ...]],
    dtype: str,
    rng: np.random.Generator,
    std: float,
    norm_std: float,
) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        stop = offset + math.prod(shape) * {"BF16": 2, "F16": 2, "F32": 4}[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, stop]}
        offset = stop
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for name, shape in shapes.items():
            mean, spread = (1.0, norm_std) if name.endswith("norm.weight") else (0.0, std)
            for start in range(0, math.prod(shape), _CHUNK):
                count = min(_CHUNK, math.prod(shape) - start)
                values = rng.standard_normal(count, dtype=np.float32)
                values *= np.float32(spread)
                values += np.float32(mean)
                file.write(_narrow(values, dtype).tobytes())


def _narrow(values: np.ndarray, dtype: str) -> np.ndarray:
    """float32 as stored; bfloat16 keeps the upper half, rounded to nearest even."""
    if dtype == "F32":
        return values
    if dtype == "F16":
        return values.astype(np.float16)
    bits = values.view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(
        np.uint16
    )


def _tokenizer(vocab_size: int) -> dict[str, Any]:
    """A byte-level BPE without merges, in the format of the `tokenizers` library."""
    special = ["<|im_end|>", "<|im_start|>"]
    # GPT-2's printable stand-ins for the 256 bytes.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = [chr(byte) for byte in printable] + [chr(256 + place) for place in range(len(others))]
    if vocab_size < len(special) + len(alphabet):
        raise ValueError(
            f"a vocabulary of {vocab_size} cannot hold the {len(special) + len(alphabet)} basic tokens"
        )
    fillers = [f"w{place}" for place in range(vocab_size - len(special) - len(alphabet))]
    vocab = {token: place for place, token in enumerate([*special, *alphabet, *fillers])}
    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": vocab[token], "content": token, **added} for token in special],
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": None,
        "decoder": level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocab,
            "merges": [],
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("preset", choices=sorted(PRESETS))
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=["BF16", "F16", "F32"], default="BF16")
    parser.add_argument("--layers", type=int, help="instead of the preset's number of layers")
    given = parser.parse_args()
    config = dict(PRESETS[given.preset])
    if given.layers is not None:
        config["num_hidden_layers"] = given.layers
    make_checkpoint(given.out, config, seed=given.seed, dtype=given.dtype)
    size = (given.out / "model.safetensors").stat().st_size
    print(f"{given.out}: {given.preset}, {size / 2**20:.0f} MiB of weights")


if __name__ == "__main__":
    main()
