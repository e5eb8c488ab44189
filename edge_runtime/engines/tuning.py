"""How an ONNX Runtime session is set up on this machine: threads, spinning, arena, chunk sizes.

The defaults were measured with `tools/bench_engines.py`; every field can be overridden by argument, by
configuration or by an environment variable `EDGE_ENGINE_<FIELD>`.
"""

from __future__ import annotations

import os
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

from edge_runtime.errors import EngineError

__all__ = ["Machine", "SessionTuning"]

ENV_PREFIX = "EDGE_ENGINE_"


@dataclass(frozen=True, slots=True)
class Machine:
    """The processor as far as threads are concerned.

    `cores` counts physical cores (the fast ones alone where the kernel tells cores of different capacity
    apart), `logical` the hardware threads this process may run on, `quota` the CPU limit of its control
    group.
    """

    cores: int
    logical: int
    quota: float | None = None

    @classmethod
    def probe(cls, sys_root: Path = Path("/sys"), allowed: set[int] | None = None) -> Machine:
        """Read the topology from `/sys` (Linux and Android); elsewhere every logical CPU counts as a core."""
        if allowed is None:
            affinity = getattr(os, "sched_getaffinity", None)
            allowed = set(affinity(0)) if affinity else set(range(os.cpu_count() or 1))
        capacities = {cpu: _number(sys_root / f"devices/system/cpu/cpu{cpu}/cpu_capacity") for cpu in allowed}
        best = max((value for value in capacities.values() if value), default=None)
        # A thread on a small core makes the big ones wait at the end of every operator.
        fast = {cpu for cpu in allowed if best is None or (capacities[cpu] or 0) >= 0.8 * best}
        siblings = set()
        for cpu in fast:
            path = sys_root / f"devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
            siblings.add(_text(path) or str(cpu))
        return cls(
            cores=max(1, len(siblings)),
            logical=max(1, len(allowed)),
            quota=_quota(sys_root / "fs/cgroup/cpu.max"),
        )


@dataclass(frozen=True, slots=True)
class SessionTuning:
    """Settings of one session.

    `threads`: operator threads. `spin`: idle threads wait in a loop (faster steps, busy cores). `spin_us`:
    how long they do before they sleep; 50 µs cost nothing on a quiet machine, and on a busy one a step takes
    0.7 of the time that it takes with onnxruntime's own long wait, which `None` stands for. `arena`: keep
    freed activations for the next step. `dynamic_block`: onnxruntime's `dynamic_block_base`, 0 for off.
    `prefill_chunk`: prompt tokens per forward pass; bounds the memory of activations (of 32 to 1,024 tokens,
    128 and 256 were quickest: the attention scores stay in the processor's caches). `kv_step`: tokens of KV
    room that a sequence starts with; the room then doubles up to the context length.
    """

    threads: int = 1
    spin: bool = True
    spin_us: int | None = 50
    arena: bool = True
    dynamic_block: int = 0
    prefill_chunk: int = 256
    kv_step: int = 512

    def __post_init__(self) -> None:
        for name, low in (("threads", 1), ("dynamic_block", 0), ("prefill_chunk", 1), ("kv_step", 16)):
            if getattr(self, name) < low:
                raise EngineError(
                    f"engine option {name}={getattr(self, name)} is out of range: it must be {low} or more"
                )
        if self.spin_us is not None and self.spin_us < 0:
            raise EngineError(f"engine option spin_us={self.spin_us} is out of range: it must be 0 or more")

    @classmethod
    def for_machine(cls, machine: Machine) -> SessionTuning:
        """The measured defaults for this class of machine: one thread per physical (fast) core, within the
        quota.
        """
        threads = machine.cores
        if threads == 1 and machine.logical > 1:
            threads = (
                2  # two hyper-threads of one core still overlap memory and arithmetic: 1.2-1.4x measured
            )
        if machine.quota is not None:
            threads = max(1, min(threads, round(machine.quota)))
        # With one operator thread nobody waits, so nothing need spin.
        return cls(threads=threads, spin=threads > 1)

    @classmethod
    def choose(
        cls,
        overrides: Mapping[str, object] | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        machine: Machine | None = None,
    ) -> SessionTuning:
        """Defaults of this machine, then `EDGE_ENGINE_*` of the environment, then `overrides` (`None` values
        skipped).

        Raises:
            EngineError: an unknown option, or a value that does not parse or is out of range; names it.
        """
        known = {f.name for f in fields(cls)}
        chosen: dict[str, object] = {}
        for name in known:
            value = (environ if environ is not None else os.environ).get(ENV_PREFIX + name.upper())
            if value not in (None, ""):
                chosen[name] = value
        for name, given in (overrides or {}).items():
            if name not in known:
                raise EngineError(f"unknown engine option '{name}'; known ones: {', '.join(sorted(known))}")
            if given is not None:
                chosen[name] = given
        return replace(
            cls.for_machine(machine or Machine.probe()), **{k: _parse(k, v) for k, v in chosen.items()}
        )


_BOOLEANS = {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}


def _parse(name: str, value: object) -> typing.Any:
    text = str(value).strip().lower()
    if name in ("spin", "arena"):
        if text in _BOOLEANS:
            return _BOOLEANS[text]
        raise EngineError(f"engine option {name}={value!r} is not a truth value: write true or false")
    try:
        return int(text)
    except ValueError:
        raise EngineError(f"engine option {name}={value!r} is not a whole number") from None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text and text.isdigit() else None


def _quota(path: Path) -> float | None:
    """CPU quota of the control group (cgroup v2 `cpu.max`: `max 100000` or `150000 100000`)."""
    parts = (_text(path) or "max").split()
    if len(parts) != 2 or not parts[0].isdigit() or not parts[1].isdigit() or int(parts[1]) == 0:
        return None
    return int(parts[0]) / int(parts[1])
