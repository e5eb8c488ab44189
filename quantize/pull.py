"""What `edge-runtime models pull` needs of quantizing: a `model_zoo.converters.Converter`, an entry point."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from model_zoo.converters import ConvertProgress, Needs
from model_zoo.manifest import Manifest
from quantize.export import plan_package, quantize_checkpoint
from quantize.hub import ALLOWED
from quantize.schemes import Scheme

__all__ = ["CONVERTER", "OnnxConverter"]

_WORKING_BYTES = 160 << 20
"""Peak memory of quantizing, about twice what was measured for 494 M parameters (79 MiB,
`docs/quantization.md`); it hardly depends on the model, which is read in slices."""


@dataclasses.dataclass(frozen=True)
class OnnxConverter:
    """Checkpoint folder → ONNX package, by the schemes' own methods."""

    patterns: Sequence[str] = ALLOWED
    schemes: Sequence[str] = ("int4", "int8", "fp16", "fp32")

    def needs(self, config: Mapping[str, Any], scheme: str, context_length: int | None) -> Needs:
        """See `model_zoo.converters.Converter`.

        Raises:
            UnsupportedArchitectureError, CheckpointError, SchemeError: it cannot be quantized.
        """
        size, memory = plan_package(config, Scheme.named(scheme), context_length)
        return Needs(size, memory, _WORKING_BYTES)

    def convert(
        self,
        checkpoint: Path,
        target: Path,
        *,
        scheme: str,
        model_id: str,
        repository: str,
        revision: str,
        context_length: int | None,
        overwrite: bool,
        progress: ConvertProgress | None,
    ) -> Manifest:
        """See `model_zoo.converters.Converter` and `quantize_checkpoint`."""
        return quantize_checkpoint(
            checkpoint,
            target,
            scheme=Scheme.named(scheme),
            name=model_id,
            context_length=context_length,
            progress=progress,
            overwrite=overwrite,
            repository=repository,
            revision=revision,
        )


CONVERTER = OnnxConverter()
