"""A trained run as a Hugging Face checkpoint (`LlamaForCausalLM`), and the check that it is the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .config import ModelConfig
from .loop import load, progress
from .model import Decoder
from .vocabulary import BOS, EOS, PAD

TEMPLATE = Path(__file__).with_name("chat_template.jinja")


def tensors_of(model: Decoder) -> dict[str, Tensor]:
    """Weights by transformers' names; fused projections are taken apart."""
    c = model.c
    head = c.hidden // c.heads
    named = {"model.embed_tokens.weight": model.embed, "model.norm.weight": model.norm}
    for i, block in enumerate(model.blocks):
        q, k, v = block.qkv.split((c.heads * head, c.kv_heads * head, c.kv_heads * head))
        gate, up = block.gate_up.chunk(2)
        parts = {
            "self_attn.q_proj": q, "self_attn.k_proj": k, "self_attn.v_proj": v, "self_attn.o_proj":
            block.out, "mlp.gate_proj": gate, "mlp.up_proj": up, "mlp.down_proj": block.down,
            "input_layernorm": block.norm1, "post_attention_layernorm": block.norm2,
        }  # fmt: skip
        named |= {f"model.layers.{i}.{name}.weight": part for name, part in parts.items()}
    return {name: tensor.detach().float().contiguous().clone() for name, tensor in named.items()}


def config_of(c: ModelConfig, ids: dict[str, int]) -> dict[str, Any]:
    """config.json, readable by transformers 4 (`rope_theta`) and 5 (`rope_parameters`)."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": c.vocab_size,
        "hidden_size": c.hidden,
        "intermediate_size": c.ffn,
        "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads,
        "num_key_value_heads": c.kv_heads,
        "head_dim": c.hidden // c.heads,
        "hidden_act": "silu",
        "max_position_embeddings": c.context,
        "rms_norm_eps": c.norm_eps,
        "rope_theta": c.rope_theta,
        "rope_parameters": {"rope_theta": c.rope_theta, "rope_type": "default"},
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        **ids,
    }


def export(run: Path, out: Path) -> None:
    """Write the averaged weights of `run` as a checkpoint folder."""
    from safetensors.torch import save_file

    model, tokenizer = load(run)
    out.mkdir(parents=True, exist_ok=True)
    ids = {f"{k}_token_id": tokenizer.token_to_id(t) for k, t in (("bos", BOS), ("eos", EOS), ("pad", PAD))}
    save_file(tensors_of(model), out / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(str(out / "tokenizer.json"))
    template = TEMPLATE.read_text(encoding="utf-8")
    (out / "chat_template.jinja").write_text(template, encoding="utf-8")
    files = {
        "config.json": config_of(model.c, ids),
        "generation_config.json": {**ids, "do_sample": False, "max_new_tokens": 128},
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": BOS,
            "eos_token": EOS,
            "pad_token": PAD,
            "model_max_length": model.c.context,
            "clean_up_tokenization_spaces": False,
            "chat_template": template,
        },
    }
    for name, content in files.items():
        (out / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    summary = {"parameters": model.parameters_count(), "vocabulary": model.c.vocab_size, **progress(run)}
    (run / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def difference(run: Path, checkpoint: Path) -> float:
    """Largest absolute logit difference between our model and transformers' on random tokens."""
    from transformers import LlamaForCausalLM

    model, _ = load(run)
    other = LlamaForCausalLM.from_pretrained(checkpoint).eval()
    tokens = torch.randint(0, model.c.vocab_size, (4, 48), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return float((model.logits(model(tokens)) - other(tokens).logits).abs().max())
