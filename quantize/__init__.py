"""HF checkpoint (safetensors) → model package.

Knows architectures, schemes and the ONNX graph that the engine runs. Does not know serving or the network,
and needs neither torch nor transformers: numpy and onnx alone.
"""

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
