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
from model_zoo import KeyFileError, PublicKey, SignaturePolicy, files, read_public_keys
from model_zoo.keys import KIND, name_problem
from model_zoo.signing import Level

__all__ = [
    "add_trusted_key",
    "read_key",
    "remove_trusted_key",
    "signature_policy",
    "trusted_keys",
    "trusted_keys_folder",
]


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


def read_key(text: str, name: str | None = None) -> PublicKey:
    """The key that a person names: a `.pub` file, or the key's line itself.

    Args:
        text: the path or the line.
        name: what to call the owner, instead of the name in the key.

    Raises:
        model_zoo.KeyFileError: it is neither, or nobody gives a name.
    """
    where = "KEY"
    if not text.strip().startswith(KIND):
        where = text
        try:
            text = Path(text).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise KeyFileError(
                f"{where}: is neither a line '{KIND} BASE64 NAME' nor a file that can be read: {error}"
            ) from error
    key = PublicKey.parse(text, where)
    key = key if name is None else PublicKey(key.raw, name)
    problem = name_problem(key.name) if key.name else "the key has no name; say whose it is with --name"
    if problem is not None:
        raise KeyFileError(f"{where}: {problem}")
    return key


def add_trusted_key(key: PublicKey, folder: Path, known: Mapping[str, PublicKey]) -> PublicKey:
    """Trust a key from now on. The same key again only changes its name.

    Raises:
        model_zoo.KeyFileError: another key has that name: one of the two could be taken for the other.
        model_zoo.StoreError: the folder cannot be written.
    """
    for other in known.values():
        if other.name == key.name and other.id != key.id:
            raise KeyFileError(
                f"{key.name}: another key of that name is trusted already ({other.id[:16]}, this one is "
                f"{key.id[:16]}). Give this one another name (--name), or remove the other (--remove)"
            )
    path = folder / f"{key.id}.pub"
    partial = files.partial_path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in _files_of(key, folder):
            file.unlink(missing_ok=True)
        partial.write_text(f"{key.line}\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise files.store_error(error, path) from error
    return key


def remove_trusted_key(text: str, folder: Path) -> PublicKey:
    """Trust a key no longer.

    Args:
        text: its owner's name, its id or 8 digits or more of its beginning, its line, or its file.

    Raises:
        model_zoo.KeyFileError: no key in the folder is meant, or several are.
        model_zoo.StoreError: the folder cannot be written.
    """
    known = read_public_keys(folder)
    found = [
        key
        for key in known.values()
        if key.name == text or (len(text) >= 8 and key.id.startswith(text.lower()))
    ]
    if not found and (text.startswith(KIND) or Path(text).is_file()):
        wanted = read_key(text, "any").id
        found = [key for key in known.values() if key.id == wanted]
    if len(found) != 1:
        has = ", ".join(f"{key.name} ({key.id[:16]})" for key in known.values()) or "none"
        what = "several keys are" if found else "no key is"
        raise KeyFileError(
            f"{text}: {what} meant by that; trusted in {folder}: {has}. "
            "A key of [model] trusted_keys is removed in the configuration file"
        )
    try:
        for file in _files_of(found[0], folder):
            file.unlink()
    except OSError as error:
        raise files.store_error(error, folder / found[0].name, "remove") from error
    return found[0]


def _files_of(key: PublicKey, folder: Path) -> list[Path]:
    """The files that hold a key, whatever their names: a person may have put them there."""
    return [
        path
        for path in sorted(folder.glob("*.pub"))
        if PublicKey.parse(path.read_text(encoding="utf-8"), str(path)).id == key.id
    ]


def signature_policy(settings: _Settings, environment: Mapping[str, str] = os.environ) -> SignaturePolicy:
    """What `[model] signatures` and the trusted keys say about packages and registries.

    Raises:
        model_zoo.KeyFileError: see `trusted_keys`.
    """
    level = cast("Level", settings.get("model", "signatures"))
    return SignaturePolicy(level, trusted_keys(settings, environment))
