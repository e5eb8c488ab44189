"""Tiny real models for fast tests: a random checkpoint made with numpy, and the package made from it."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.engines.base import Scores
from edge_runtime.engines.onnx_generic import score_rows

SPECIAL = ("<|end|>", "<|start|>", "<|pad|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|start|>{{ message.role }}\n{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
CORPUS = (
    '{"intent":"HassLightSet","slots":{"area":"kitchen","brightness":50}}',
    '{"intent":"HassTurnOff","slots":{"area":"bedroom","name":"lamp"}}',
    "turn off the lights in the kitchen",
    "set the bedroom lamp to fifty percent",
    "naïve café, 東京, 🙂",
)


def byte_tokenizer(merges: int = 96) -> Any:
    """A byte-level BPE tokenizer: `SPECIAL`, the 256 bytes and about `merges` merges. Ids of `SPECIAL` are
    0, 1, 2.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=len(SPECIAL) + 256 + merges,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 8, trainer)
    return tokenizer


def make_checkpoint(
    folder: Path,
    *,
    seed: int = 0,
    layers: int = 2,
    hidden: int = 64,
    context: int = 256,
    template: str | None = CHAT_TEMPLATE,
) -> Path:
    """A random Llama checkpoint in the Hugging Face layout (float32, tied embedding)."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = byte_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    vocab, heads, kv_heads, inner = tokenizer.get_vocab_size(), 4, 2, 2 * hidden
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden,
        "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "head_dim": hidden // heads,
        "vocab_size": vocab, "max_position_embeddings": context, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "hidden_act": "silu", "tie_word_embeddings": True, "torch_dtype": "float32",
        "bos_token_id": 1, "eos_token_id": 0, "pad_token_id": 2,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    random = np.random.default_rng(seed)
    kv = kv_heads * hidden // heads
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocab, hidden),
        "model.norm.weight": (hidden,),
    }
    for layer in range(layers):
        name = f"model.layers.{layer}."
        shapes |= {
            f"{name}input_layernorm.weight": (hidden,),
            f"{name}post_attention_layernorm.weight": (hidden,),
        }
        shapes |= {f"{name}self_attn.{p}_proj.weight": (kv if p in "kv" else hidden, hidden) for p in "qkvo"}
        shapes |= {f"{name}mlp.{p}_proj.weight": (inner, hidden) for p in ("gate", "up")}
        shapes[f"{name}mlp.down_proj.weight"] = (hidden, inner)
    tensors = {
        name: (
            np.ones(shape) if len(shape) == 1 else random.normal(0, 0.2 if "embed" in name else 0.15, shape)
        ).astype("<f4")
        for name, shape in shapes.items()
    }
    write_safetensors(folder / "model.safetensors", tensors)
    return folder


def write_safetensors(path: Path, tensors: dict[str, Any]) -> None:
    """float32 arrays in the safetensors layout: header length, JSON header, data."""
    header, offset = {}, 0
    for name, array in tensors.items():
        header[name] = {
            "dtype": "F32",
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    raw = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        for array in tensors.values():
            file.write(array.tobytes())


def make_package(folder: Path, *, scheme: str = "fp32", **checkpoint: Any) -> Path:
    """A model package of a random checkpoint, made by `quantize`."""
    from quantize import Scheme, quantize_checkpoint

    source = make_checkpoint(folder.with_name(folder.name + "-checkpoint"), **checkpoint)
    quantize_checkpoint(source, folder, scheme=Scheme.named(scheme), name="tiny", overwrite=True)
    return folder


def random_scores(
    random: np.random.Generator, vocab: int, topk: int = 8, rows: int = 1, spread: float = 3.0
) -> Scores:
    """Scores of random logits, whole rows included."""
    return score_rows(random.normal(0, spread, (rows, vocab)).astype(np.float32), topk)
