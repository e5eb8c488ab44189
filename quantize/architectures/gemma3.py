"""Gemma 3, text: of a text-only checkpoint or the text part of a multimodal one."""

from collections.abc import Mapping
from typing import Any

from quantize.architectures.base import Block, Config, HasTensor, ModelDescription, decoder
from quantize.rope import rope_from_config

NAMES = ("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration")

_PREFIXES = ("model.", "model.language_model.", "language_model.model.")
"""Text-only; multimodal as saved by transformers 5; multimodal as saved before."""

_DEFAULTS = {
    "hidden_size": 2304,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "intermediate_size": 9216,
    "vocab_size": 262208,
    "max_position_embeddings": 131072,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "rope_theta": 1_000_000.0,
    "hidden_activation": "gelu_pytorch_tanh",
}
"""What the config class assumes: the multimodal checkpoints list only what differs from it."""


def describe(values: Mapping[str, Any], has_tensor: HasTensor) -> ModelDescription:
    """Five windowed layers (or what `layer_types` says) for each full one, each kind with a rotary base of
    its own."""
    text = values.get("text_config", values)
    config = Config({**_DEFAULTS, **text, "architectures": values.get("architectures")})
    prefix = next((p for p in _PREFIXES if has_tensor(p + "embed_tokens.weight")), _PREFIXES[0])
    pattern = int(config.get("sliding_window_pattern", config.get("_sliding_window_pattern", 6)))
    windows = config.windows(
        [(index + 1) % pattern != 0 for index in range(int(config["num_hidden_layers"]))]
    )
    # Before transformers 5 the windowed layers' base stood in a field of its own, and scaling never touched
    # them.
    local = {"rope_theta": config.get("rope_local_base_freq", 10_000.0)}
    if "rope_parameters" in text:
        local = text
    bias = bool(config.get("attention_bias", False))
    block = Block(
        prefix=prefix,
        qkv_bias=bias,
        out_bias=bias,
        qk_norm=True,
        four_norms=True,
        norm_plus_one=True,
        activation=config.activation,
        scale=float(config["query_pre_attn_scalar"]) ** -0.5,
        softcap=config.get("attn_logit_softcapping"),
        windows=windows,
        rope_of_layer=["full" if window is None else "sliding" for window in windows],
        ropes={
            "full": rope_from_config(config, config.head_dim, "full_attention"),
            "sliding": rope_from_config(local, config.head_dim, "sliding_attention"),
        },
    )
    return decoder(
        config,
        block,
        tied=True,
        embedding_scale=float(config["hidden_size"]) ** 0.5,
        logit_softcap=config.get("final_logit_softcapping"),
    )
