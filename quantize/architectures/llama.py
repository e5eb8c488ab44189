"""Llama 1 to 3.3 and what shares their shape: SmolLM, SmolLM2, TinyLlama."""

from collections.abc import Mapping
from typing import Any

from quantize.architectures.base import Block, Config, HasTensor, ModelDescription, decoder

NAMES = ("LlamaForCausalLM",)


def describe(values: Mapping[str, Any], has_tensor: HasTensor) -> ModelDescription:
    """Plain block; `attention_bias` puts biases on all four attention matrices."""
    config = Config(values)
    bias = bool(config.get("attention_bias", False))
    block = Block(
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=bool(config.get("mlp_bias", False)),
        activation=config.activation,
    )
    return decoder(config, block, tied=False)
