"""Mistral: Llama's block with one sliding window for all layers."""

from collections.abc import Mapping
from typing import Any

from quantize.architectures.base import Block, Config, HasTensor, ModelDescription, decoder

NAMES = ("MistralForCausalLM",)


def describe(values: Mapping[str, Any], has_tensor: HasTensor) -> ModelDescription:
    """`sliding_window: null` (from v0.2 on) is full attention."""
    config = Config(values)
    windows = config.windows([True] * int(config["num_hidden_layers"]))
    return decoder(config, Block(activation=config.activation, windows=windows), tied=False)
