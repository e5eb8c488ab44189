"""Rotary position embeddings: from a config's words to angles, with numpy alone.

Frequencies follow RoFormer (arXiv 2104.09864); `linear` divides the positions (arXiv 2306.15595); `llama3`
is the piecewise scaling of Llama 3.1; `yarn` is arXiv 2309.00071; `longrope` (arXiv 2402.13753) has one set
of factors for sequences up to the pre-training length and another beyond it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantize.errors import CheckpointError, UnsupportedArchitectureError

__all__ = ["Rope", "rope_from_config"]

Frequencies = NDArray[np.float64]


@dataclass(frozen=True)
class Rope:
    """One rotary embedding.

    `frequencies` float64 [rotary_dim / 2], radians per position. `factor` multiplies cosine and sine.
    `switch`, with `long_frequencies`: sequences longer than `switch` tokens use the long ones for all
    positions.
    """

    frequencies: Frequencies
    factor: float = 1.0
    long_frequencies: Frequencies | None = None
    switch: int | None = None

    @property
    def half_dim(self) -> int:
        """Half the number of rotated channels: the width of a cosine or sine row."""
        return int(self.frequencies.shape[0])

    def switches_within(self, context_length: int) -> bool:
        """Whether a context of this many tokens can cross from the short to the long frequencies."""
        return self.long_frequencies is not None and self.switch is not None and context_length > self.switch

    def rows(self, context_length: int) -> int:
        """Rows of the cosine and sine tables: the context, plus `switch` short rows before it when it
        switches."""
        return context_length + (self.switch or 0 if self.switches_within(context_length) else 0)

    def tables(
        self, context_length: int, step: int = 4096
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Cosine and sine float32 [≤ step, half_dim], piece by piece over `rows(context_length)`.

        With a switch the first `switch` rows are the short frequencies' positions 0…switch-1 and the rest
        the long ones' positions 0…context_length-1.
        """
        parts = [(self.frequencies, context_length)]
        if self.switches_within(context_length):
            assert self.long_frequencies is not None
            assert self.switch is not None
            parts = [(self.frequencies, self.switch), (self.long_frequencies, context_length)]
        for frequencies, count in parts:
            # float32 as in the reference implementation: at position 100,000 an angle's last bit is 0.008
            # rad, and # the model was trained with that rounding.
            narrow = frequencies.astype(np.float32)
            for start in range(0, count, step):
                positions = np.arange(start, min(start + step, count), dtype=np.float32)
                angles = positions[:, None] * narrow[None, :]
                yield np.cos(angles) * np.float32(self.factor), np.sin(angles) * np.float32(self.factor)


def rope_from_config(config: Mapping[str, Any], head_dim: int, layer_type: str | None = None) -> Rope:
    """Understand `rope_parameters` (transformers 5) as well as `rope_theta` + `rope_scaling` (older).

    `layer_type` picks one of several (`full_attention`, `sliding_attention`) where the config distinguishes
    them.

    Raises:
        CheckpointError: a field that the kind needs is missing.
        UnsupportedArchitectureError: a kind of scaling without a description.
    """
    spec = _merged(config, layer_type)
    kind = spec.get("rope_type", "default")
    theta = float(spec["rope_theta"])
    dim = int(head_dim * float(spec.get("partial_rotary_factor") or 1.0))
    base = theta ** -(np.arange(0, dim, 2, dtype=np.float64) / dim)
    try:
        if kind == "default":
            return Rope(base)
        if kind == "linear":
            return Rope(base / float(spec["factor"]))
        if kind == "llama3":
            return Rope(_llama3(base, spec))
        if kind == "yarn":
            return _yarn(base, theta, dim, spec)
        if kind in ("longrope", "su"):
            return _longrope(base, spec, config)
    except KeyError as error:
        raise CheckpointError(f"config.json: rotary scaling '{kind}' needs the field {error}") from None
    raise UnsupportedArchitectureError(
        f"rotary scaling '{kind}' is not supported; supported: default, linear, llama3, yarn, longrope"
    )


def _merged(config: Mapping[str, Any], layer_type: str | None) -> dict[str, Any]:
    """One flat set of rotary parameters, whichever generation of config.json they come from."""
    spec = config.get("rope_parameters")
    if isinstance(spec, dict) and layer_type is not None and isinstance(spec.get(layer_type), dict):
        spec = spec[layer_type]
    if not isinstance(spec, dict):
        spec = config.get("rope_scaling") or {}
    merged = {key: value for key, value in spec.items() if value is not None}
    merged.setdefault("rope_type", merged.get("type", "default"))
    for key, default in (
        ("rope_theta", 10000.0),
        ("partial_rotary_factor", 1.0),
        ("original_max_position_embeddings", None),
    ):
        if key not in merged and config.get(key, default) is not None:
            merged[key] = config.get(key, default)
    return merged


def _llama3(base: Frequencies, spec: Mapping[str, Any]) -> Frequencies:
    """Long wavelengths are stretched by `factor`, short ones kept, those between blended."""
    factor, original = float(spec["factor"]), float(spec["original_max_position_embeddings"])
    low, high = float(spec["low_freq_factor"]), float(spec["high_freq_factor"])
    turns = original * base / (2 * math.pi)
    blend = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return (1 - blend) * base / factor + blend * base


def _yarn(base: Frequencies, theta: float, dim: int, spec: Mapping[str, Any]) -> Rope:
    """Interpolates dimensions that turn less than `beta_slow` times, keeps those above `beta_fast`; section
    3.2."""
    factor, original = float(spec["factor"]), float(spec["original_max_position_embeddings"])

    def dimension(turns: float) -> float:
        return dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = dimension(float(spec.get("beta_fast") or 32)), dimension(float(spec.get("beta_slow") or 1))
    if spec.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    ramp = np.clip((np.arange(dim // 2) - low) / max(high - low, 0.001), 0.0, 1.0)
    attention = spec.get("attention_factor")
    if attention is None:
        mscale, mscale_all = spec.get("mscale"), spec.get("mscale_all_dim")
        attention = (
            _yarn_scale(factor, float(mscale)) / _yarn_scale(factor, float(mscale_all))
            if mscale and mscale_all
            else _yarn_scale(factor, 1.0)
        )
    return Rope(base / factor * ramp + base * (1 - ramp), factor=float(attention))


def _yarn_scale(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def _longrope(base: Frequencies, spec: Mapping[str, Any], config: Mapping[str, Any]) -> Rope:
    """Per-channel divisors for short and long sequences; cosine and sine grow by sqrt(1 + ln s / ln
    original)."""
    short, long = (np.asarray(spec[key], dtype=np.float64) for key in ("short_factor", "long_factor"))
    original = int(spec["original_max_position_embeddings"])
    if short.shape != base.shape or long.shape != base.shape:
        raise CheckpointError(
            f"config.json: short_factor has {short.size} and long_factor {long.size} entries, "
            f"but {base.size} rotary frequencies need one each"
        )
    attention = spec.get("attention_factor")
    if attention is None:
        stretch = float(spec.get("factor") or float(config["max_position_embeddings"]) / original)
        attention = 1.0 if stretch <= 1 else math.sqrt(1 + math.log(stretch) / math.log(original))
    return Rope(base / short, float(attention), base / long, original)
