"""How fast and at what power a device answers: profiles from measurements that name their source.

Decoding one token reads every weight once, so its time is taken to be linear in the bytes of the weights;
reading a prompt is bound by arithmetic, so its time per token is taken to be proportional to the number of
parameters. Both lines go through figures that somebody measured on the board. Peak FLOPS are never used: a
decoded token is bound by memory, which they say nothing about (`docs/simulation.md` compares the two).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offload.errors import SimulationError

__all__ = ["PROFILES", "DeviceProfile", "Measurement", "ModelSize", "read_profile"]

GB = 1e9


@dataclass(frozen=True, slots=True)
class ModelSize:
    """What speed depends on: number of parameters, and bytes of weights read for one token."""

    parameters: float
    weight_bytes: float


@dataclass(frozen=True, slots=True)
class Measurement:
    """One measured speed: `decode` and `prefill` in tokens per second at batch 1, None where not measured."""

    model: str
    size: ModelSize
    decode: float | None
    prefill: float | None
    source: str


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """A board: its measured speeds, and the power (watts) it draws while it computes and while it waits.

    `power_source` says whether the power was measured or is nominal.
    """

    name: str
    title: str
    measurements: tuple[Measurement, ...]
    active_watts: float
    idle_watts: float
    power_source: str

    def decode_seconds(self, size: ModelSize) -> float:
        """Seconds per generated token: the line a + b·bytes (a, b ≥ 0) of least relative squared error."""
        points = [(m.size.weight_bytes, 1 / m.decode) for m in self.measurements if m.decode]
        a, b = _line(points)
        return a + b * size.weight_bytes

    def prefill_seconds(self, size: ModelSize) -> float:
        """Seconds per prompt token: proportional to parameters, the mean of the measured ratios.

        Never slower than decoding: where nothing was measured, prompts are read at the rate of decoding.
        """
        ratios = [1 / m.prefill / m.size.parameters for m in self.measurements if m.prefill]
        slowest = self.decode_seconds(size)
        return min(slowest, sum(ratios) / len(ratios) * size.parameters) if ratios else slowest

    def to_json(self) -> dict[str, Any]:
        """A plain object that `read_profile` reads."""
        return {
            "name": self.name,
            "title": self.title,
            "active_watts": self.active_watts,
            "idle_watts": self.idle_watts,
            "power_source": self.power_source,
            "measurements": [
                {
                    "model": m.model,
                    "parameters": m.size.parameters,
                    "weight_bytes": m.size.weight_bytes,
                    "decode": m.decode,
                    "prefill": m.prefill,
                    "source": m.source,
                }
                for m in self.measurements
            ],
        }


def _line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """a, b ≥ 0 that minimise Σ ((a + b·x − y) / y)² over points (x, y).

    One point gives the line through the origin: a token's time is then taken to be all memory traffic.
    """
    # Rows (1/y, x/y) against 1, by the normal equations of two unknowns; at the edge one of them is 0.
    saa = sum(1 / y**2 for _, y in points)
    sab = sum(x / y**2 for x, y in points)
    sbb = sum((x / y) ** 2 for x, y in points)
    ta, tb = sum(1 / y for _, y in points), sum(x / y for x, y in points)
    candidates = [(0.0, tb / sbb)]
    if len(points) > 1:
        candidates.append((ta / saa, 0.0))
    if (det := saa * sbb - sab * sab) > 1e-12 * saa * sbb:
        candidates.append(((sbb * ta - sab * tb) / det, (saa * tb - sab * ta) / det))
    return min(
        ((a, b) for a, b in candidates if a >= 0 and b >= 0),
        key=lambda line: sum(((line[0] + line[1] * x - y) / y) ** 2 for x, y in points),
    )


def read_profile(path: Path) -> DeviceProfile:
    """A profile of your own board from JSON (`to_json` shows the keys).

    Raises:
        SimulationError: the file is missing, no JSON, or a key is missing or wrong (named).
    """
    try:
        raw: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SimulationError(f"{path}: cannot read the device profile: {error}") from error
    try:
        rows: list[Mapping[str, Any]] = raw["measurements"]
        profile = DeviceProfile(
            name=str(raw["name"]),
            title=str(raw.get("title", raw["name"])),
            active_watts=_positive(raw["active_watts"], "active_watts"),
            idle_watts=_positive(raw["idle_watts"], "idle_watts"),
            power_source=str(raw["power_source"]),
            measurements=tuple(
                Measurement(
                    model=str(row["model"]),
                    size=ModelSize(
                        _positive(row["parameters"], "parameters"),
                        _positive(row["weight_bytes"], "weight_bytes"),
                    ),
                    decode=None if row.get("decode") is None else _positive(row["decode"], "decode"),
                    prefill=None if row.get("prefill") is None else _positive(row["prefill"], "prefill"),
                    source=str(row["source"]),
                )
                for row in rows
            ),
        )
    except KeyError as error:
        raise SimulationError(
            f"{path}: a device profile needs the key {error.args[0]!r}; "
            "`DeviceProfile.to_json` shows all of them"
        ) from error
    except (TypeError, ValueError) as error:
        raise SimulationError(f"{path}: not a device profile: {error}") from error
    if not any(m.decode for m in profile.measurements):
        raise SimulationError(f"{path}: a device profile needs at least one measurement with 'decode'")
    return profile


def _positive(value: object, key: str) -> float:
    number = float(value) if isinstance(value, int | float) else -1.0
    if not 0 < number < float("inf"):
        raise ValueError(f"'{key}' must be a positive number, not {value!r}")
    return number


_OLLAMA_PI = "ollama, dambergn/ollama-benchmarks; sizes of ollama's default 4-bit files"
_LLAMAFILE = "llamafile 0.7, J. Tunney, LLaMA Now Goes Faster on CPUs (2024)"
_MLC_ORIN = "MLC int4, NVIDIA, Jetson Orin Nano gets a Super boost; sizes at 4.5 bits per parameter"
_EXECUTORCH = "ExecuTorch, OnePlus 12, prompt of 64 tokens, pytorch/executorch examples/models/llama"


def _measured(
    model: str, parameters: float, gigabytes: float, decode: float | None, prefill: float | None, source: str
) -> Measurement:
    return Measurement(model, ModelSize(parameters * 1e9, gigabytes * GB), decode, prefill, source)


PROFILES: Mapping[str, DeviceProfile] = {
    profile.name: profile
    for profile in (
        DeviceProfile(
            "pi4",
            "Raspberry Pi 4 (8 GB), CPU",
            (
                _measured("qwen2.5:0.5b Q4_K_M", 0.49, 0.398, 7.92, None, _OLLAMA_PI),
                _measured("qwen2.5:1.5b Q4_K_M", 1.54, 0.986, 3.54, None, _OLLAMA_PI),
                _measured("qwen2.5:3b Q4_K_M", 3.09, 1.9, 1.74, None, _OLLAMA_PI),
                _measured("qwen2.5:7b Q4_K_M", 7.62, 4.7, 0.78, None, _OLLAMA_PI),
                _measured("TinyLlama 1.1B q8_0", 1.1, 1.17, None, 10, _LLAMAFILE),
            ),
            active_watts=8.0,
            idle_watts=2.7,
            power_source="nominal: TMO's devices.py (active), Raspberry Pi Dramble wiki (idle)",
        ),
        DeviceProfile(
            "pi5",
            "Raspberry Pi 5 (8 GB), CPU",
            (
                _measured("qwen2.5:0.5b Q4_K_M", 0.49, 0.398, 20.35, None, _OLLAMA_PI),
                _measured("qwen2.5:1.5b Q4_K_M", 1.54, 0.986, 7.49, None, _OLLAMA_PI),
                _measured("qwen2.5:3b Q4_K_M", 3.09, 1.9, 3.59, None, _OLLAMA_PI),
                _measured("qwen2.5:7b Q4_K_M", 7.62, 4.7, 1.61, None, _OLLAMA_PI),
                _measured("TinyLlama 1.1B q8_0", 1.1, 1.17, None, 45, _LLAMAFILE),
            ),
            active_watts=11.9,
            idle_watts=3.3,
            power_source="with llama3.2:3b, geerlingguy/ai-benchmarks issue 7 (active); nominal (idle)",
        ),
        DeviceProfile(
            "orin-nano",
            "Jetson Orin Nano Super (8 GB), GPU",
            (
                _measured("SmolLM2 1.7B", 1.71, 0.962, 64.5, None, _MLC_ORIN),
                _measured("Llama 3.2 3B", 3.21, 1.806, 43.07, None, _MLC_ORIN),
                _measured("Llama 3.1 8B", 8.03, 4.517, 19.14, None, _MLC_ORIN),
                _measured(
                    "Nemotron 3 Nano 4B Q4_K_M",
                    3.97,
                    2.82,
                    None,
                    581.6,
                    "llama.cpp v0.5.0, MAXN_SUPER, a rover project's public verification notes (2026)",
                ),
            ),
            active_watts=25.0,
            idle_watts=5.0,
            power_source="nominal: the 25 W mode's cap (active); nominal (idle)",
        ),
        DeviceProfile(
            "phone",
            "Phone with Snapdragon 8 Gen 3, CPU",
            (
                _measured("Llama 3.2 1B SpinQuant", 1.24, 1.136, 50.2, 260.5, _EXECUTORCH),
                _measured("Llama 3.2 3B SpinQuant", 3.21, 2.553, 19.7, 89.7, _EXECUTORCH),
            ),
            active_watts=15.0,
            idle_watts=1.0,
            power_source="nominal: TMO's devices.py for another phone of that class (active); nominal (idle)",
        ),
    )
}
"""Boards whose speeds were published; none of these figures was measured by this project."""
