"""The registries of models that this user has: the installation's own and those of the configuration."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edge_runtime.errors import ConfigError
from edge_runtime.trust import signature_policy

if TYPE_CHECKING:
    from model_zoo.registry import Registry

__all__ = ["VARIABLE", "configured_registries", "registry_locations"]

VARIABLE = "EDGE_MODELS_REGISTRIES"
"""Paths and addresses, separated by spaces and quoted as in a shell; wins over `[model] registries`."""


class _Settings(Protocol):
    @property
    def path(self) -> Path | None: ...

    def get(self, section: str, key: str) -> Any: ...


def registry_locations(settings: _Settings, environment: Mapping[str, str] = os.environ) -> list[str]:
    """Where the user's registries are. A relative path of the file is one beside the file.

    Raises:
        ConfigError: the variable has a quote without its partner.
    """
    given = environment.get(VARIABLE)
    if given:
        try:
            return shlex.split(given)
        except ValueError as error:
            raise ConfigError(f"{VARIABLE} cannot be read: {error}; it is {given!r}") from error
    found: list[str] = settings.get("model", "registries")
    if settings.path is None:
        return list(found)
    folder = settings.path.parent
    return [place if "://" in place else str(folder / Path(place).expanduser()) for place in found]


def configured_registries(settings: _Settings, environment: Mapping[str, str] = os.environ) -> Registry:
    """The installation's registry and the user's, checked by the user's policy about signatures.

    Raises:
        ConfigError: see `registry_locations`.
        model_zoo.RegistryError: a registry cannot be read or breaks the format.
        model_zoo.SignatureError, model_zoo.KeyFileError: a signature is bad or refused, a key cannot be read.
    """
    from model_zoo.registry import load_registries

    locations = registry_locations(settings, environment)
    return load_registries(locations, policy=signature_policy(settings, environment))
