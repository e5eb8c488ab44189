"""Runs quantized language models on the device, with evidence for every token.

Knows: engines (ONNX Runtime), sampling, structured output, chat templates, token evidence, configuration, the
command line, and `Runtime.answer`, which puts them together.

Does not know: wire formats and SQL (`offload`), how packages are stored and verified (`model_zoo`), or how
one is made from a checkpoint (`quantize`).

Importing this package is quick: the names below are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_runtime.errors import EdgeRuntimeError
    from edge_runtime.grammar import Grammar
    from edge_runtime.model import LoadedModel
    from edge_runtime.runtime import Runtime
    from edge_runtime.sampling import SamplingParams
    from offload.types import Answer, Evidence, Message, Query, Token

__all__ = [
    "Answer",
    "EdgeRuntimeError",
    "Evidence",
    "Grammar",
    "LoadedModel",
    "Message",
    "Query",
    "Runtime",
    "SamplingParams",
    "Token",
]

_HOMES = {
    "Answer": "offload.types",
    "EdgeRuntimeError": "edge_runtime.errors",
    "Evidence": "offload.types",
    "Grammar": "edge_runtime.grammar",
    "LoadedModel": "edge_runtime.model",
    "Message": "offload.types",
    "Query": "offload.types",
    "Runtime": "edge_runtime.runtime",
    "SamplingParams": "edge_runtime.sampling",
    "Token": "offload.types",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'edge_runtime' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
