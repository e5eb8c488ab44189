"""Whose signatures this user trusts, and what is done without one: the configuration as a policy.

Trusted keys are the `.pub` files of the folder `trusted-keys` beside the configuration file's default place,
and the lines of `[model] trusted_keys`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

from edge_runtime import config as configuration
from model_zoo import PublicKey, SignaturePolicy, read_public_keys
from model_zoo.signing import Level

__all__ = ["signature_policy", "trusted_keys", "trusted_keys_folder"]


class _Settings(Protocol):
    def get(self, section: str, key: str) -> Any: ...


def trusted_keys_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """`edge-runtime/trusted-keys` in the XDG configuration folder (not created)."""
    return configuration.default_path(environment).parent / "trusted-keys"


def trusted_keys(settings: _Settings, environment: Mapping[str, str] = os.environ) -> dict[str, PublicKey]:
    """The keys that the user trusts, by id.

    Raises:
        model_zoo.KeyFileError: a file of the folder, or a line of the configuration, is no public key.
    """
    keys = read_public_keys(trusted_keys_folder(environment))
    for number, line in enumerate(settings.get("model", "trusted_keys"), 1):
        key = PublicKey.parse(line, f"[model] trusted_keys, number {number}")
        keys.setdefault(key.id, key)
    return keys


def signature_policy(settings: _Settings, environment: Mapping[str, str] = os.environ) -> SignaturePolicy:
    """What `[model] signatures` and the trusted keys say about packages and registries.

    Raises:
        model_zoo.KeyFileError: see `trusted_keys`.
    """
    level = cast("Level", settings.get("model", "signatures"))
    return SignaturePolicy(level, trusted_keys(settings, environment))
