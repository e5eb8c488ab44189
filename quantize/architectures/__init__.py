"""Descriptions of model architectures, one short file each, free of any output format.

`describe(config, has_tensor)` turns a checkpoint's config.json into a `ModelDescription`: which tensors make
which layer, and with which numbers. Adding an architecture is a file with `NAMES` and `describe`, and a line
in `_MODULES`.
This package knows shapes and tensor names; it does not know files, ONNX or quantization.
"""

from collections.abc import Callable, Mapping
from typing import Any

from quantize.architectures import gemma3, llama, mistral, phi3, qwen2, qwen3
from quantize.architectures.base import ModelDescription
from quantize.errors import CheckpointError, UnsupportedArchitectureError

__all__ = ["ModelDescription", "describe", "supported_architectures"]

_MODULES = (llama, qwen2, qwen3, mistral, phi3, gemma3)


def supported_architectures() -> tuple[str, ...]:
    """The class names, as in config.json's `architectures`, that have a description."""
    return tuple(name for module in _MODULES for name in module.NAMES)


def describe(config: Mapping[str, Any], has_tensor: Callable[[str], bool]) -> ModelDescription:
    """The description of the model that a checkpoint's config.json speaks of.

    Raises:
        UnsupportedArchitectureError: no description fits; lists those there are and the way through optimum.
        CheckpointError: config.json lacks a field.
    """
    named = config.get("architectures") or []
    if not named:
        raise CheckpointError(
            "config.json names no architecture (the field 'architectures' is missing or empty)"
        )
    for module in _MODULES:
        if named[0] in module.NAMES:
            description: ModelDescription = module.describe(config, has_tensor)
            return description
    raise UnsupportedArchitectureError(
        f"no description for the architecture {named[0]}; supported: {', '.join(supported_architectures())}. "
        "Others may work through optimum: edge-runtime quantize --exporter optimum"
    )
