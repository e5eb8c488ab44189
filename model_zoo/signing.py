"""Signatures over packages and registries: who vouches for them, and what a policy makes of that.

`manifest.sig` is a detached Ed25519 signature over the exact bytes of `manifest.json`; since the manifest
holds the SHA-256 of every other file, it covers the whole package. A registry `FILE.toml` has its own in
`FILE.toml.sig`. Both are the same small JSON file::

    {
      "algorithm": "ed25519",
      "format": 1,
      "key_id": "SHA-256 of the public key, 64 hexadecimal digits",
      "public_key": "base64 of 32 bytes",
      "signature": "base64 of 64 bytes"
    }

It has one spelling (sorted keys, two spaces, one newline at the end), so that a change of any byte is
noticed. The public key inside shows that nothing was damaged; only a key that the user trusts shows who
signed.

Knows: signatures and policies. Does not know: where trusted keys or the policy come from (the caller says).
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from model_zoo import files as fs
from model_zoo.errors import SignatureError
from model_zoo.keys import PrivateKey, PublicKey
from model_zoo.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, SIGNATURE_NAME, read_exact

__all__ = [
    "LEVELS",
    "MAX_SIGNATURE_BYTES",
    "Level",
    "SignaturePolicy",
    "SignatureState",
    "Status",
    "check_package",
    "check_registry",
    "make_signature",
    "read_signature",
    "sign_file",
    "sign_package",
    "signature_path",
    "signature_state",
]

Level = Literal["any", "warn", "required"]
Status = Literal["trusted", "unknown", "unsigned", "shipped", "bad"]

LEVELS: tuple[Level, ...] = get_args(Level)

MAX_SIGNATURE_BYTES = 4096
"""A longer signature file is bad without being parsed, bytes."""

_FORMAT = 1
_ALGORITHM = "ed25519"
_SIGNATURE_BYTES = 64


@dataclass(frozen=True, slots=True)
class SignatureState:
    """What is known of a signature.

    `trusted`: signed by the key of `signer`, which the user trusts. `unknown`: rightly signed by a key that
    the user does not trust. `unsigned`: there is none. `shipped`: there is none, and the package is part of
    the installation. `bad`: damaged, or not over these bytes (`problem` says which).
    """

    status: Status
    key_id: str | None = None
    signer: str | None = None
    public_key: PublicKey | None = None
    problem: str | None = None

    @property
    def text(self) -> str:
        """A phrase for a person."""
        return {
            "trusted": f"signed by {self.signer} (key {(self.key_id or '')[:16]})",
            "unknown": f"signed by a key that is not trusted ({self.key_id})",
            "unsigned": "not signed",
            "shipped": "part of the installation, not signed by itself",
            "bad": f"bad signature: {self.problem}",
        }[self.status]

    def to_json(self) -> dict[str, str | None]:
        """`{status, key_id, signer, problem}`."""
        return {
            "status": self.status,
            "key_id": self.key_id,
            "signer": self.signer,
            "problem": self.problem,
        }


@dataclass(frozen=True, slots=True)
class SignaturePolicy:
    """What may be used: `any` package, any with a word about it (`warn`), or only what a trusted key signed.

    A bad signature is refused whatever the level: something was changed after it was signed.
    """

    level: Level = "any"
    trusted: Mapping[str, PublicKey] = field(default_factory=dict)
    """The keys that the user trusts, by id."""

    def warning(self, state: SignatureState, where: str) -> str | None:
        """What to tell about something that may be used; `None` when there is nothing to tell."""
        if self.level != "warn" or state.status not in ("unsigned", "unknown"):
            return None
        return f"{where}: {state.text}; {_who(state)}"

    def refusal(self, state: SignatureState, where: str) -> str | None:
        """Why something may not be used, with the way out; `None` when it may."""
        if state.status == "bad":
            return (
                f"{where}: its signature is bad: {state.problem}. Something was changed after it was signed: "
                "fetch it again from its maker"
            )
        if self.level != "required" or state.status in ("trusted", "shipped"):
            return None
        if state.public_key is not None:
            way = (
                "When its owner confirms that id to you, trust it: edge-runtime models trust "
                f"'{state.public_key.line} NAME'"
            )
        else:
            way = "Have its maker sign it, or sign it yourself: edge-runtime models sign NAME --key FILE"
        return (
            f'{where}: {state.text}, and signatures = "required" allows only what a trusted key signed. {way}'
        )


def signature_state(
    message: bytes, signature: bytes | None, trusted: Mapping[str, PublicKey]
) -> SignatureState:
    """Look at the content of a signature file that belongs to `message`; raises nothing.

    Args:
        message: the exact bytes that were signed.
        signature: the bytes of the signature file, `None` when there is none.
        trusted: public keys by id.
    """
    if signature is None:
        return SignatureState("unsigned")
    try:
        key, value = _parse(signature)
    except ValueError as error:
        return SignatureState("bad", problem=str(error))
    if not key.verify(value, message):
        return SignatureState("bad", key.id, problem="it does not fit what was signed", public_key=key)
    known = trusted.get(key.id)
    if known is None:
        return SignatureState("unknown", key.id, public_key=key)
    return SignatureState("trusted", key.id, known.name or key.id[:16], known)


def check_package(
    manifest: bytes, signature: bytes | None, policy: SignaturePolicy, where: str = MANIFEST_NAME
) -> SignatureState:
    """What is known of a package's signature, when the policy allows the package.

    Args:
        manifest: the exact bytes of `manifest.json`.
        signature: those of `manifest.sig`, `None` when there is none.
        where: begins the error message: the package's name or path.

    Raises:
        SignatureError: the signature is bad, or the policy wants another one.
    """
    state = signature_state(manifest, signature, policy.trusted)
    refusal = policy.refusal(state, where)
    if refusal is not None:
        raise SignatureError(refusal)
    return state


def check_registry(
    content: bytes, signature: bytes | None, policy: SignaturePolicy, where: str
) -> SignatureState:
    """The same for a registry file and its `.sig`.

    Raises:
        SignatureError: see `check_package`.
    """
    return check_package(content, signature, policy, where)


def make_signature(message: bytes, key: PrivateKey) -> bytes:
    """The content of a signature file over exactly `message`."""
    return _render(key.public, key.sign(message))


def sign_package(folder: Path, key: PrivateKey) -> SignatureState:
    """Write `manifest.sig` into a package folder. The caller has verified the package before.

    The signature lands in the very folder whose manifest was read, even when another process swaps the
    package for a new one meanwhile.

    Raises:
        ManifestError: the manifest cannot be used.
        StoreError: the folder cannot be written.
    """
    try:
        with _folder(folder) as descriptor:
            raw = _read_at(descriptor, MANIFEST_NAME)
            read_exact(raw, str(folder / MANIFEST_NAME))
            # Written beside the folder: a package never holds a file that its manifest does not know.
            partial = fs.partial_path(folder)
            try:
                _write(partial, make_signature(raw, key))
                os.rename(partial, SIGNATURE_NAME, dst_dir_fd=descriptor)
            finally:
                partial.unlink(missing_ok=True)
            os.fsync(descriptor)
    except OSError as error:
        raise fs.store_error(error, folder / SIGNATURE_NAME) from error
    return SignatureState("trusted", key.public.id, key.public.name or key.public.id[:16], key.public)


def sign_file(path: Path, key: PrivateKey) -> Path:
    """Write `PATH.sig` over the exact bytes of a registry file; returns its path.

    Raises:
        StoreError: the file cannot be read, or the signature not be written.
    """
    target = signature_path(path)
    partial = fs.partial_path(target)
    try:
        content = path.read_bytes()
        try:
            _write(partial, make_signature(content, key))
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
        fs.fsync_folder(target.parent)
    except OSError as error:
        raise fs.store_error(error, target) from error
    return target


def signature_path(path: Path) -> Path:
    """Where the signature of a file is: `registry.toml` → `registry.toml.sig`."""
    return path.with_name(path.name + ".sig")


def read_signature(path: Path) -> bytes | None:
    """The bytes of a signature file, at most one more than allowed; `None` when there is no such file.

    Raises:
        SignatureError: it is there and cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(MAX_SIGNATURE_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SignatureError(f"{path}: cannot be read: {error.strerror}; check its permissions") from error


# --- the format ---------------------------------------------------------------------------------------------


def _render(key: PublicKey, value: bytes) -> bytes:
    fields = {
        "algorithm": _ALGORITHM,
        "format": _FORMAT,
        "key_id": key.id,
        "public_key": base64.b64encode(key.raw).decode(),
        "signature": base64.b64encode(value).decode(),
    }
    return (json.dumps(fields, indent=2, sort_keys=True) + "\n").encode()


def _parse(content: bytes) -> tuple[PublicKey, bytes]:
    """The key and the signature of a signature file.

    Raises:
        ValueError: what is wrong with it, as the end of a sentence.
    """
    if len(content) > MAX_SIGNATURE_BYTES:
        raise ValueError(f"the signature file has more than {MAX_SIGNATURE_BYTES} bytes")
    try:
        fields: Any = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError("the signature file is not JSON") from error
    if not isinstance(fields, dict):
        raise ValueError("the signature file is not a table of values")  # noqa: TRY004 - the file is wrong
    if (fields.get("format"), fields.get("algorithm")) != (_FORMAT, _ALGORITHM):
        raise ValueError(
            f"the signature file is of format {fields.get('format')!r} and algorithm "
            f"{fields.get('algorithm')!r}; this release knows {_FORMAT} and {_ALGORITHM!r}"
        )
    raw, value = (_decoded(fields, name) for name in ("public_key", "signature"))
    if (len(raw), len(value)) != (32, _SIGNATURE_BYTES):
        raise ValueError("the key or the signature in it has the wrong length")
    key = PublicKey(raw)
    if fields.get("key_id") != key.id:
        raise ValueError("its key id is not that of its key")
    if _render(key, value) != content:
        raise ValueError("the signature file is not spelled as it is written")
    return key, value


def _decoded(fields: Mapping[str, Any], name: str) -> bytes:
    try:
        return base64.b64decode(fields[name], validate=True)
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise ValueError(f"{name} in the signature file is missing or not base64") from error


def _who(state: SignatureState) -> str:
    if state.status == "unsigned":
        return "who made it cannot be told"
    return "trust it with `edge-runtime models trust` when its owner confirms that id to you"


# --- the file system ----------------------------------------------------------------------------------------


@contextmanager
def _folder(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _read_at(folder: int, name: str) -> bytes:
    with os.fdopen(os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder), "rb") as file:
        return file.read(MAX_MANIFEST_BYTES + 1)


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
