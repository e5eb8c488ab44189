"""Qwen 2 and 2.5: Llama's block with biases on q, k, v, and windows on the upper layers when asked for."""

from collections.abc import Mapping
from typing import Any

from quantize.architectures.base import Block, Config, HasTensor, ModelDescription, decoder

NAMES = ("Qwen2ForCausalLM",)


def upper_layer_windows(config: Config) -> list[int | None]:
    """With `use_sliding_window`, layers from `max_window_layers` on are windowed."""
    count = int(config["num_hidden_layers"])
    if not config.get("use_sliding_window", False):
        return [None] * count
    first = int(config.get("max_window_layers", 28))
    return config.windows([index >= first for index in range(count)])


def describe(values: Mapping[str, Any], has_tensor: HasTensor) -> ModelDescription:
    """The biases are not configurable."""
    config = Config(values)
    block = Block(qkv_bias=True, activation=config.activation, windows=upper_layer_windows(config))
    return decoder(config, block, tied=False)
