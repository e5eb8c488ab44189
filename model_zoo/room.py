"""Is there room? Disk and memory are compared with what is needed before anything is downloaded.

Knows: sums and sentences. Does not know: where the figures of a device come from.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from model_zoo.errors import PullError
from model_zoo.files import human_size
from model_zoo.manifest import Memory

__all__ = ["CHECKED_CONTEXT", "MARGIN", "Device", "Part", "check_disk", "check_memory", "free_bytes"]

CHECKED_CONTEXT = 2048
"""Tokens of KV cache that running a model is reckoned with (or all it has), as in `models recommend`."""

MARGIN = 16 << 20
"""Bytes of disk that stay free."""


def free_bytes(folder: Path) -> int:
    """Bytes that may be written below a folder that need not exist yet."""
    return shutil.disk_usage(_existing(folder)).free


@dataclass(frozen=True, slots=True)
class Device:
    """What this device offers: bytes of memory that can still be had (`None`: not known, not checked), and
    free disk below a folder."""

    memory_available: int | None = None
    free: Callable[[Path], int] = free_bytes


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes that are going to be written below a folder."""

    what: str
    size: int
    folder: Path


def check_disk(name: str, parts: Sequence[Part], device: Device) -> None:
    """Refuse what does not fit; parts on one file system are added up.

    Raises:
        PullError: with every number of the sum, what is free and what is missing.
    """
    by_disk: dict[int, list[Part]] = {}
    for part in parts:
        by_disk.setdefault(_existing(part.folder).stat().st_dev, []).append(part)
    for together in by_disk.values():
        needed = sum(part.size for part in together) + MARGIN
        folder = together[0].folder
        free = device.free(folder)
        if needed > free:
            terms = " + ".join(f"{part.what} {human_size(part.size)}" for part in together if part.size)
            raise PullError(
                f"{name}: too little disk: {terms} + {human_size(MARGIN)} to spare = {human_size(needed)} "
                f"are needed, and {human_size(free)} are free at {_existing(folder)}. "
                f"Free {human_size(needed - free)} (edge-runtime models prune), or let EDGE_MODELS_DIR name "
                "a folder on another disk. Nothing was downloaded"
            )


def check_memory(
    name: str, memory: Memory, context: int, device: Device, *, working_bytes: int = 0, way_out: str = ""
) -> None:
    """Refuse a model that cannot run here, or not be made here.

    Args:
        context: tokens of KV cache to reckon with.
        working_bytes: memory for making the package, bytes.
        way_out: what to do about it, beside ignoring it.

    Raises:
        PullError: with every number of the sum and what is available.
    """
    available = device.memory_available
    if available is None:
        return
    kv = memory.kv_bytes_per_token * context
    total = memory.total(context)
    ignore = "To fetch it nevertheless: --ignore-memory. Nothing was downloaded"
    if total > available:
        raise PullError(
            f"{name}: too little memory to run it: weights {human_size(memory.weights_bytes)} + KV cache of "
            f"{context:,} tokens {human_size(kv)} + runtime {human_size(memory.runtime_bytes)} = "
            f"{human_size(total)} are needed, and {human_size(available)} are available. {way_out}{ignore}"
        )
    if working_bytes > available:
        raise PullError(
            f"{name}: too little memory to quantize it: {human_size(working_bytes)} are needed, and "
            f"{human_size(available)} are available. {ignore}"
        )


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder
