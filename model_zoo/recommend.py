"""Which models fit a device, at which scheme, with the sums laid open.

Memory needed = weights + KV cache of the wanted context + runtime (`manifest.Memory`). A token cannot be made
faster than its weights and its KV cache are read from memory once, so peak bandwidth / bytes bounds the speed
with a full context; what is reached is less.

Knows: arithmetic over registry entries. Does not know: where the figures of a device come from.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from model_zoo.boards import BOARDS, usual_memory
from model_zoo.footprint import SCHEMES, Footprint, footprint
from model_zoo.registry_file import RegistryEntry

__all__ = [
    "DEFAULT_CONTEXT",
    "MIN_SPEED",
    "Candidate",
    "Resources",
    "Verdict",
    "longest_context",
    "recommend",
    "suited_boards",
]

DEFAULT_CONTEXT = 2048
"""Tokens of context that are reckoned with unless others are asked for."""

MIN_SPEED = 10.0
"""A model whose bound is below this many tokens per second is not recommended. People read about 250 words a
minute, some 5 tokens a second, and a processor is taken to reach half of the peak bandwidth at best."""

TIGHT = 0.1
"""A model that leaves less than this share of the memory is told as tight and not recommended: the sum is an
estimate (measured peaks are within a tenth of it, `docs/zoo.md`), and so is what else will run."""

_ROOMY = 2
"""An 8-bit package is preferred where it needs no more than one part in so many of the memory."""

Verdict = Literal["fits", "tight", "memory", "disk", "context", "slow"]


@dataclass(frozen=True, slots=True)
class Resources:
    """What a device offers: bytes of memory and disk, peak memory bandwidth in bytes/s; `None`: not known."""

    memory: int
    disk: int | None = None
    bandwidth: float | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """One model at one scheme on one device.

    `verdict`: `fits`, `tight` (just so), or what is in the way: `memory`, `disk`, `context` (it has less than
    was asked for), `slow` (bound below `MIN_SPEED`). `spare_memory` and `spare_disk` are negative
    when that many bytes are missing. `download`: bytes that a pull fetches; `disk`: bytes it needs at its
    peak. `max_speed`: tokens per second that the memory's bandwidth allows at most.
    """

    entry: RegistryEntry
    scheme: str
    context: int
    footprint: Footprint
    weights: int
    kv: int
    runtime: int
    spare_memory: int
    download: int
    disk: int
    spare_disk: int | None
    max_speed: float | None
    verdict: Verdict

    @property
    def memory(self) -> int:
        """Bytes of memory needed."""
        return self.weights + self.kv + self.runtime

    @property
    def longer(self) -> bool:
        """Whether the package has to be made for a longer context than usual."""
        return self.context > self.entry.package_context

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; sizes in bytes."""
        return {
            "id": self.entry.id,
            "registry": self.entry.registry,
            "scheme": self.scheme,
            "verdict": self.verdict,
            "parameters": self.entry.parameters,
            "licence": self.entry.licence,
            "gated": self.entry.gated,
            "tasks": list(self.entry.tasks),
            "context": self.context,
            "weights_bytes": self.weights,
            "kv_bytes": self.kv,
            "runtime_bytes": self.runtime,
            "memory_bytes": self.memory,
            "spare_memory_bytes": self.spare_memory,
            "package_bytes": self.footprint.package_bytes,
            "download_bytes": self.download,
            "disk_bytes": self.disk,
            "spare_disk_bytes": self.spare_disk,
            "max_tokens_per_s": None if self.max_speed is None else round(self.max_speed, 1),
        }


def recommend(
    entries: Iterable[RegistryEntry],
    resources: Resources,
    *,
    context: int | None = None,
    scheme: str | None = None,
    min_speed: float = MIN_SPEED,
) -> list[Candidate]:
    """Every model at its best scheme, the recommended ones first.

    The scheme of a model is the 8-bit one where that leaves half of the memory free and is fast enough
    (quantizing to 8 bits changes a model's answers least), otherwise the smallest there is; or the one asked
    for. Models that fit come first, ungated before gated ones and larger before smaller ones; then those
    that do so just, and those that do not, the smallest first.

    Args:
        context: tokens of KV cache in the sums; by default `DEFAULT_CONTEXT`, or all that a model has.
        scheme: the only scheme to look at; models without it are left out.
        min_speed: tokens per second that a model must be able to reach in theory.
    """
    found = []
    for entry in entries:
        names = [name for name in entry.schemes if scheme is None or name == scheme]
        tokens = min(DEFAULT_CONTEXT, entry.package_context) if context is None else context
        tried = [_judge(entry, name, resources, tokens, min_speed) for name in names]
        if tried:
            found.append(_best(tried, resources))
    return sorted(found, key=_rank)


def suited_boards(entry: RegistryEntry) -> tuple[str, ...]:
    """The boards on which an entry fits and is fast enough, at its smallest scheme and `DEFAULT_CONTEXT`
    tokens (or all it has), where nothing else runs."""
    found = []
    for board in BOARDS.values():
        for size, name in zip(board.memory_gib, board.variants, strict=True):
            resources = Resources(usual_memory(size), bandwidth=board.bandwidth)
            if recommend([entry], resources)[0].verdict == "fits":
                found.append(name)
    return tuple(found)


def longest_context(entry: RegistryEntry) -> int:
    """Tokens of context that a package of this entry can have; one that is made here can have all of them."""
    made_here = entry.repository is not None and entry.architecture is not None
    return entry.context if made_here else entry.package_context


def _judge(
    entry: RegistryEntry, scheme: str, resources: Resources, context: int, min_speed: float
) -> Candidate:
    size = _size(entry, scheme, context)
    kv = size.memory.kv_bytes_per_token * context
    needed = size.memory.total(context)
    if entry.shipped is not None:
        download = disk = 0
    elif entry.repository is not None:
        # The checkpoint stays in the hub's cache while the package is written beside it.
        download, disk = entry.checkpoint_bytes, entry.checkpoint_bytes + size.package_bytes
    else:
        download = disk = size.package_bytes
    spare_disk = None if resources.disk is None else resources.disk - disk
    read = size.memory.weights_bytes + kv
    speed = None if resources.bandwidth is None else resources.bandwidth / read
    verdict: Verdict = "fits"
    if context > longest_context(entry):
        verdict = "context"
    elif needed > resources.memory:
        verdict = "memory"
    elif spare_disk is not None and spare_disk < 0:
        verdict = "disk"
    elif speed is not None and speed < min_speed:
        verdict = "slow"
    elif resources.memory - needed < TIGHT * resources.memory:
        verdict = "tight"
    return Candidate(
        entry=entry,
        scheme=scheme,
        context=context,
        footprint=size,
        weights=size.memory.weights_bytes,
        kv=kv,
        runtime=size.memory.runtime_bytes,
        spare_memory=resources.memory - needed,
        download=download,
        disk=disk,
        spare_disk=spare_disk,
        max_speed=speed,
        verdict=verdict,
    )


def _size(entry: RegistryEntry, scheme: str, context: int) -> Footprint:
    """The registry's figures; a package for a longer context than usual has longer rotary tables."""
    longer = entry.package_context < context <= longest_context(entry)
    if longer and entry.architecture is not None and scheme in SCHEMES:
        return footprint(entry.architecture, scheme, context, entry.tokenizer_bytes)
    return entry.schemes[scheme]


def _best(tried: list[Candidate], resources: Resources) -> Candidate:
    """The scheme to take for one model."""
    smallest = min(tried, key=lambda c: c.memory)
    roomy = [
        c
        for c in tried
        if c.scheme == "int8" and c.verdict == "fits" and c.memory * _ROOMY <= resources.memory
    ]
    return roomy[0] if roomy else smallest


def _rank(candidate: Candidate) -> tuple[int, bool, int, str]:
    entry = candidate.entry
    if candidate.verdict == "fits":
        return (0, entry.gated, -entry.parameters, entry.id)
    return (1 if candidate.verdict == "tight" else 2, False, entry.parameters, entry.id)
