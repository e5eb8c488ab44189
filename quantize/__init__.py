"""HF checkpoint (safetensors) → model package.

Knows architectures, schemes and the ONNX graph that the engine runs. Does not know serving or the network,
and needs neither torch nor transformers: numpy and onnx alone.

Importing this package is quick, since the command line does it for its help: the names below are loaded when
they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quantize.architectures import describe, supported_architectures
    from quantize.checkpoint import Checkpoint
    from quantize.errors import (
        CheckpointError,
        ExporterError,
        QuantizeError,
        SchemeError,
        UnsupportedArchitectureError,
    )
    from quantize.export import quantize_checkpoint
    from quantize.graph import GraphOptions
    from quantize.schemes import SCHEMES, Scheme, dequantize, quantize_block

__all__ = [
    "SCHEMES",
    "Checkpoint",
    "CheckpointError",
    "ExporterError",
    "GraphOptions",
    "QuantizeError",
    "Scheme",
    "SchemeError",
    "UnsupportedArchitectureError",
    "dequantize",
    "describe",
    "quantize_block",
    "quantize_checkpoint",
    "supported_architectures",
]

_HOMES = {
    "SCHEMES": "quantize.schemes",
    "Checkpoint": "quantize.checkpoint",
    "CheckpointError": "quantize.errors",
    "ExporterError": "quantize.errors",
    "GraphOptions": "quantize.graph",
    "QuantizeError": "quantize.errors",
    "Scheme": "quantize.schemes",
    "SchemeError": "quantize.errors",
    "UnsupportedArchitectureError": "quantize.errors",
    "dequantize": "quantize.schemes",
    "describe": "quantize.architectures",
    "quantize_block": "quantize.schemes",
    "quantize_checkpoint": "quantize.export",
    "supported_architectures": "quantize.architectures",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'quantize' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
