"""config.json of transformers 5 → what transformers 4 understands, or a refusal.

optimum-onnx 0.1.0 needs transformers before 4.58. That release reads a checkpoint saved by transformers 5
without a word of complaint and gets it wrong: it ignores `rope_parameters`, so that the model runs with
rotary frequencies of base 10,000 (cosine .96 against the truth on a Qwen2 shape). What can be said in the
old words is said here; what cannot is refused. Formats: the `PretrainedConfig` of transformers 4.57 and 5.

This module knows config.json; it imports neither transformers nor optimum.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from quantize.errors import ExporterError

__all__ = ["check_loaded", "is_transformers_5", "translate"]

_ROPE_TYPES = frozenset({"default", "linear", "dynamic", "yarn", "longrope", "llama3"})
"""Kinds of rotary scaling that transformers 4.57 computes."""

_LOCAL_BASE = {"gemma3_text": "rope_local_base_freq", "gemma3": "rope_local_base_freq"}
"""Model types with one rotary base per kind of layer, and what transformers 4 calls the base of sliding
layers."""


def is_transformers_5(config: Mapping[str, Any], tokenizer_config: Mapping[str, Any] | None = None) -> bool:
    """Whether a checkpoint speaks the newer language: by its config, its tokenizer or the version it
    names."""
    version = str(config.get("transformers_version", ""))
    major = re.match(r"(\d+)\.", version)
    return (
        "rope_parameters" in config
        or (major is not None and int(major[1]) >= 5)
        or (tokenizer_config or {}).get("tokenizer_class") == "TokenizersBackend"
    )


def translate(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The same model in the words of transformers 4; `where` begins error messages.

    Raises:
        ExporterError: a rotary setting that transformers 4 has no words for.
    """
    old = {key: value for key, value in config.items() if key not in ("rope_parameters", "dtype")}
    if config.get("dtype") is not None:
        old["torch_dtype"] = config["dtype"]
    if isinstance(config.get("text_config"), Mapping):
        old["text_config"] = translate(config["text_config"], where)
    rope = config.get("rope_parameters")
    if rope is None:
        return old
    if not isinstance(rope, Mapping):
        raise ExporterError(f"{where}: rope_parameters is {rope!r}, not an object; optimum would ignore it")
    if any(isinstance(value, Mapping) for value in rope.values()):
        rope = _per_layer(config, rope, old, where)
    _flat(dict(rope), old, where)
    return old


def check_loaded(config: Mapping[str, Any], loaded: Mapping[str, Any], where: str) -> None:
    """Whether transformers 4 took over what the translated `config` says about positions.

    Args:
        config: as `translate` returned it.
        loaded: the attributes of the loaded model's configuration.

    Raises:
        ExporterError: a value got lost; names it.
    """
    for key in ("rope_theta", "rope_scaling", "partial_rotary_factor", "rope_local_base_freq", "head_dim"):
        if config.get(key) is None:
            continue
        found = loaded.get(key)
        if key == "rope_scaling" and isinstance(found, Mapping):
            found = {name: found.get(name) for name in config[key]}
        if found != config[key]:
            raise ExporterError(
                f"{where}: transformers would run the model with {key}={found!r} where the checkpoint says "
                f"{config[key]!r}: the exported model would be damaged. Nothing was written"
            )


def _per_layer(
    config: Mapping[str, Any], rope: Mapping[str, Any], old: dict[str, Any], where: str
) -> Mapping[str, Any]:
    """Settings per kind of layer: the full-attention ones are returned, the sliding ones go into `old`."""
    key = _LOCAL_BASE.get(str(config.get("model_type")))
    local = dict(rope.get("sliding_attention") or {})
    if (
        key is None
        or set(rope) != {"full_attention", "sliding_attention"}
        or local.get("rope_type", "default") != "default"
        or set(local) - {"rope_theta", "rope_type"}
    ):
        raise ExporterError(
            f"{where}: rope_parameters of model type '{config.get('model_type')}' differ by kind of layer "
            f"({', '.join(map(str, rope))}), which transformers 4 cannot express. Nothing was written"
        )
    old[key] = local.get("rope_theta", 10000.0)
    full: Mapping[str, Any] = rope["full_attention"]
    return full


def _flat(rope: dict[str, Any], old: dict[str, Any], where: str) -> None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in _ROPE_TYPES:
        raise ExporterError(
            f"{where}: rope_type '{kind}' is unknown to transformers 4, which optimum runs on; it knows "
            f"{', '.join(sorted(_ROPE_TYPES))}. Nothing was written"
        )
    if "rope_theta" in rope:
        old["rope_theta"] = rope.pop("rope_theta")
    if "partial_rotary_factor" in rope:
        old["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
    rope.pop("type", None)
    if kind == "default":
        extra = set(rope) - {"rope_type"}
        if extra:
            raise ExporterError(
                f"{where}: rope_parameters has {', '.join(sorted(extra))}, which default rotary embeddings "
                "do not "
                "use: this checkpoint is not understood. Nothing was written"
            )
        return
    if kind == "longrope" and "original_max_position_embeddings" in rope:
        # transformers 4 looks for it beside the other sizes.
        old.setdefault("original_max_position_embeddings", rope["original_max_position_embeddings"])
    old["rope_scaling"] = {**rope, "rope_type": kind}
