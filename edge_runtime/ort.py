"""The one place that imports onnxruntime.

Official builds since 1.29 upload usage data unless `ORT_DISABLE_TELEMETRY=1` stands in the environment
*before* the import (it is latched at initialisation; `disable_telemetry_events()` comes too late). Everything
in this project takes onnxruntime from here, so that an answer leaves HOME and the network alone.
"""

import os
from types import ModuleType

from edge_runtime.errors import EngineError, RuntimeVersionError

__all__ = ["MINIMUM", "REFUSED", "check_version", "load"]

MINIMUM = (1, 23, 0)
"""Older releases cannot gather 4- and 8-bit embeddings, nor multiply 8-bit weights in float arithmetic."""

REFUSED = {(1, 21, 0): "it crashes with an illegal instruction on Cortex-A72 (Raspberry Pi 4)"}
"""Releases that are known to fail, with the reason that the user is told."""


def _parse(version: str) -> tuple[int, int, int]:
    """`1.22.0`, `1.23.0rc1` or `1.23.0+cu12` → (1, 23, 0)."""
    parts = version.split("+")[0].split(".")[:3]
    numbers = [int("".join(c for c in part if c.isdigit()) or 0) for part in parts]
    major, minor, patch = (*numbers, 0, 0, 0)[:3]
    return major, minor, patch


def check_version(version: str) -> None:
    """Refuse onnxruntime releases that are known to fail.

    Raises:
        RuntimeVersionError: naming the version, the reason and what to install.
    """
    parsed = _parse(version)
    wanted = ".".join(map(str, MINIMUM))
    if parsed in REFUSED:
        raise RuntimeVersionError(
            f"onnxruntime {version} is refused: {REFUSED[parsed]}. "
            f"Install another: pip install 'onnxruntime>={wanted}'"
        )
    if parsed < MINIMUM:
        raise RuntimeVersionError(
            f"onnxruntime {version} is too old: this release needs {wanted} or newer. "
            f"Install it with: pip install 'onnxruntime>={wanted}'"
        )


def load() -> ModuleType:
    """Import onnxruntime with its usage upload switched off and its version checked.

    Raises:
        EngineError: onnxruntime cannot be imported.
        RuntimeVersionError: the release is known to fail.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineError(
            f"onnxruntime cannot be imported ({error}). Install it with: pip install onnxruntime"
        ) from error
    check_version(onnxruntime.__version__)
    module: ModuleType = onnxruntime
    return module
