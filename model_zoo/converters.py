"""The seam between fetching a checkpoint and making a package of it: who can convert, and what that takes.

A converter is found through the entry points `edge_runtime.converters`, so that this package need not know
how a checkpoint is quantized.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from model_zoo.errors import PullError
from model_zoo.manifest import Manifest, Memory

__all__ = ["CONVERTER_GROUP", "ConvertProgress", "Converter", "Needs", "find_converter"]

CONVERTER_GROUP = "edge_runtime.converters"


class ConvertProgress(Protocol):
    """Called after each piece of work."""

    def __call__(self, done: int, total: int, step: str) -> None:
        """`done` of `total` bytes of the package's weights are written; `step` is being worked on."""
        ...


@dataclass(frozen=True, slots=True)
class Needs:
    """What a package of a checkpoint takes, bytes: on disk, in memory to run, in memory to be made."""

    package_bytes: int
    memory: Memory
    working_bytes: int


class Converter(Protocol):
    """Makes packages for one engine."""

    @property
    def patterns(self) -> Sequence[str]:
        """Files of a repository that are needed, as shell patterns of names at its top."""

    @property
    def schemes(self) -> Sequence[str]:
        """Names of the schemes, the default one first."""

    def needs(self, config: Mapping[str, Any], scheme: str, context_length: int | None) -> Needs:
        """What the model of this config.json will take, tokenizer and licence left out.

        Raises the converter's own error when it cannot be converted."""

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
        """Write the package `target`, whole or not at all."""


def find_converter(engine: str = "onnx") -> Converter:
    """The installed converter of an engine.

    Raises:
        PullError: there is none, or it cannot be loaded.
    """
    found = [entry for entry in metadata.entry_points(group=CONVERTER_GROUP) if entry.name == engine]
    if not found:
        raise PullError(
            f"nothing is installed that makes packages for the engine '{engine}'. "
            "Install the program again: pip install --force-reinstall edge-runtime"
        )
    try:
        converter: Converter = found[0].load()
    except (ImportError, AttributeError) as error:
        raise PullError(
            f"the converter {found[0].value} cannot be loaded ({error}). "
            "Install the program again: pip install --force-reinstall edge-runtime"
        ) from error
    return converter
