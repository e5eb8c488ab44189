"""Qwen 3 (dense): no q, k, v biases, but an RMS norm on each query and key head before the rotation."""

from collections.abc import Mapping
from typing import Any

from quantize.architectures.base import Block, Config, HasTensor, ModelDescription, decoder
from quantize.architectures.qwen2 import upper_layer_windows

NAMES = ("Qwen3ForCausalLM",)


def describe(values: Mapping[str, Any], has_tensor: HasTensor) -> ModelDescription:
    """`head_dim` does not follow from the hidden size here; the config class assumes 128."""
    config = Config({"head_dim": 128, **values})
    bias = bool(config.get("attention_bias", False))
    block = Block(
        qkv_bias=bias,
        out_bias=bias,
        qk_norm=True,
        activation=config.activation,
        windows=upper_layer_windows(config),
    )
    return decoder(config, block, tied=False)
