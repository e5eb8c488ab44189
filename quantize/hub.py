"""Checkpoints from a hub: which files quantizing needs, brought into the hub's own cache.

This module knows names; the hub, its cache and resuming are `model_zoo.hub`'s.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from model_zoo.download import Progress
from model_zoo.errors import HubError
from model_zoo.http import Transport
from model_zoo.hub import Hub, HubId, HubSettings, HubUnreachableError, parse_id, select
from quantize.errors import CheckpointError

__all__ = ["ALLOWED", "HubId", "fetch", "parse_id"]

ALLOWED = (
    "config.json",
    "generation_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "LICEN[CS]E*",
    "NOTICE*",
    "README.md",
)
"""Patterns of the files that quantizing needs, at the top of the repository; nothing else is fetched."""

TRANSPORT = Transport()


def fetch(
    source: str,
    *,
    cache_dir: Path | None = None,
    endpoint: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Download what quantizing needs of a hub repository and return the folder it lies in.

    Args:
        source: `owner/name` or `owner/name@revision`.
        cache_dir: the hub cache; default: where HF_HUB_CACHE or HF_HOME say.
        endpoint: the hub's URL; default: HF_ENDPOINT or the public hub.
        progress: called while files arrive.

    Raises:
        CheckpointError: not an id, not found, gated, out of reach and not in the cache,
            without safetensors, or cut off; says what to do.
        model_zoo.StoreError: the cache cannot be written.
    """
    name = parse_id(source)
    if name is None:
        raise CheckpointError(
            f"{source!r} is neither a folder nor a hub id. Give the path of a checkpoint folder, or "
            "'owner/name'"
        )
    settings = HubSettings.from_environment()
    settings = dataclasses.replace(
        settings, cache_dir=cache_dir or settings.cache_dir, endpoint=endpoint or settings.endpoint
    )
    hub = Hub(settings, TRANSPORT)
    try:
        info = hub.info(name)
        files = select(info.files, ALLOWED)
        if not any(file.name.endswith(".safetensors") for file in files):
            raise CheckpointError(
                f"{name.repository} has no weights in safetensors format (model*.safetensors). Convert it "
                "first, or choose a repository that has them"
            )
        return hub.fetch(info, files, progress=progress)
    except HubUnreachableError as error:
        return _from_cache(hub, name, error)
    except HubError as error:
        raise CheckpointError(str(error)) from error


def _from_cache(hub: Hub, name: HubId, reason: HubUnreachableError) -> Path:
    """The cached folder, for when the hub is out of reach or HF_HUB_OFFLINE is set."""
    way = "unset HF_HUB_OFFLINE" if hub.settings.offline else "connect to the network"
    folder, cache = hub.cached(name), hub.settings.cache_dir
    if folder is None:
        raise CheckpointError(
            f"{reason}, and {name.repository}@{name.revision} is not (wholly) in the cache {cache}. To fetch "
            f"it, {way}; or give the path of a checkpoint folder"
        ) from reason
    if not _whole(folder):
        raise CheckpointError(
            f"{reason}, and the cache {cache} holds only a part of {name.repository}@{name.revision}. To "
            f"fetch the rest, {way}"
        ) from reason
    return folder


def _whole(folder: Path) -> bool:
    """Whether the configuration and all weights are there (what else there was, the hub alone knows)."""
    index = folder / "model.safetensors.index.json"
    if not (folder / "config.json").is_file():
        return False
    if not index.is_file():
        return any(folder.glob("model*.safetensors"))
    try:
        shards = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return False
    return all((folder / str(shard)).is_file() for shard in shards)
