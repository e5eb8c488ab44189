"""Phi-3, Phi-3.5 and Phi-4-mini: fused tensors, longrope, partial rotation, a window."""

from collections.abc import Mapping
from typing import Any

from quantize.architectures.base import Block, Config, HasTensor, ModelDescription, decoder

NAMES = ("Phi3ForCausalLM",)


def describe(values: Mapping[str, Any], has_tensor: HasTensor) -> ModelDescription:
    """Every layer has the window, which for most of these checkpoints is as long as the context."""
    config = Config({"rms_norm_eps": 1e-5, **values})
    windows = config.windows([True] * int(config["num_hidden_layers"]))
    return decoder(config, Block(fused=True, activation=config.activation, windows=windows), tied=False)
