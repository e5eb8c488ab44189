"""Errors of `quantize`; one base class.

QuantizeError
├── CheckpointError               the source cannot be read: missing file or tensor, truncated, wrong shape
├── UnsupportedArchitectureError  no description for this architecture
├── SchemeError                   a quantization setting that cannot be carried out
└── ExporterError                 an exporter (ours or optimum) failed or would damage the model
"""

__all__ = [
    "CheckpointError",
    "ExporterError",
    "QuantizeError",
    "SchemeError",
    "UnsupportedArchitectureError",
]


class QuantizeError(Exception):
    """Base of every error that `quantize` raises on purpose."""


class CheckpointError(QuantizeError):
    """The source checkpoint cannot be read."""


class UnsupportedArchitectureError(QuantizeError):
    """No description for this architecture."""


class SchemeError(QuantizeError):
    """A quantization setting that cannot be carried out."""


class ExporterError(QuantizeError):
    """An exporter failed or would damage the model."""
