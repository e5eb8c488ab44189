"""Ed25519 keys as files: what signs packages and registries, and what they are checked against.

A private key is PKCS #8 in PEM (RFC 5958, RFC 8410), encrypted or not, as openssl's `genpkey -algorithm
ed25519` writes it; a file that others can read is refused. A public key is one line of kind, the 32 bytes of
RFC 8032, and whose it is: `edge-ed25519 BASE64 NAME`. A key's id is the SHA-256 of those 32 bytes.

Does not know: what is signed (`model_zoo.signing`), nor which keys a user trusts.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from model_zoo import files as fs
from model_zoo.errors import KeyFileError, StoreError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = ["KIND", "PrivateKey", "PublicKey", "name_problem", "read_public_keys"]

KIND = "edge-ed25519"
"""First word of a public key's line."""

_RAW_BYTES = 32
_MAX_FILE_BYTES = 64 * 1024
_MAX_NAME = 100


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key: its 32 bytes, and the name of its owner (empty when nobody gave one)."""

    raw: bytes
    name: str = ""

    @property
    def id(self) -> str:
        """SHA-256 of the 32 bytes, 64 lower-case hexadecimal digits."""
        return hashlib.sha256(self.raw).hexdigest()

    @property
    def line(self) -> str:
        """The key as one line of text, without a line end."""
        return f"{KIND} {base64.b64encode(self.raw).decode()} {self.name}".rstrip()

    @classmethod
    def parse(cls, line: str, where: str = "public key") -> PublicKey:
        """Read a line as `line` writes it.

        Raises:
            KeyFileError: it is none; says what is wrong, beginning with `where`.
        """
        kind, _, rest = line.strip().partition(" ")
        encoded, _, name = rest.strip().partition(" ")
        name = name.strip()
        if kind != KIND:
            shown = "a private key, which must stay secret" if "PRIVATE KEY" in line else repr(line[:40])
            raise KeyFileError(f"{where}: a public key is one line '{KIND} BASE64 NAME', but this is {shown}")
        try:
            raw = base64.b64decode(encoded, validate=True)
        except binascii.Error as error:
            raise KeyFileError(f"{where}: {encoded[:60]!r} is not base64: {error}") from error
        if len(raw) != _RAW_BYTES:
            raise KeyFileError(f"{where}: the key has {len(raw)} bytes but an Ed25519 key has {_RAW_BYTES}")
        problem = name_problem(name)
        if problem is not None:
            raise KeyFileError(f"{where}: {problem}")
        return cls(raw, name)

    def verify(self, signature: bytes, message: bytes) -> bool:
        """Whether `signature` (64 bytes) is this key's over exactly `message` (RFC 8032, PureEdDSA)."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except (InvalidSignature, ValueError):  # ValueError: not the encoding of a point
            return False
        return True


class PrivateKey:
    """A key that signs."""

    def __init__(self, key: Ed25519PrivateKey, name: str = "") -> None:
        self._key = key
        self.public = PublicKey(key.public_key().public_bytes_raw(), name)

    def __repr__(self) -> str:
        return f"PrivateKey({self.public.id[:16]})"

    @classmethod
    def generate(cls, name: str = "") -> PrivateKey:
        """A fresh key from the operating system's random numbers."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return cls(Ed25519PrivateKey.generate(), name)

    @classmethod
    def load(cls, path: Path, passphrase: bytes | None = None) -> PrivateKey:
        """Read a PEM file; the name is that in `PATH.pub`, when it is there and is this key's.

        Raises:
            KeyFileError: no such file, readable by others, no Ed25519 key, or a missing or wrong passphrase.
        """
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        content = _read_secret(path)
        try:
            key = load_pem_private_key(content, passphrase)
        except TypeError as error:  # a passphrase is missing, or given for a key that has none
            problem = (
                "is encrypted: give its passphrase (--passphrase-file FILE)"
                if passphrase is None
                else "is not encrypted: leave the passphrase out"
            )
            raise KeyFileError(f"{path}: {problem}") from error
        except (ValueError, UnsupportedAlgorithm) as error:
            problem = "holds no private key in PEM"
            if b"ENCRYPTED" in content and passphrase is not None:
                problem = "cannot be decrypted with this passphrase"
            raise KeyFileError(f"{path}: {problem}") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise KeyFileError(f"{path}: holds a key of another kind; packages are signed with Ed25519")
        loaded = cls(key)
        with contextlib.suppress(OSError, UnicodeDecodeError, KeyFileError):  # the name is a convenience
            beside = PublicKey.parse(_public_path(path).read_text("utf-8"))
            if beside.raw == loaded.public.raw:
                loaded.public = beside
        return loaded

    @staticmethod
    def is_encrypted(path: Path) -> bool:
        """Whether the file is an encrypted key, which needs a passphrase.

        Raises:
            KeyFileError: as `load`.
        """
        return b"ENCRYPTED PRIVATE KEY" in _read_secret(path)

    def save(self, path: Path, passphrase: bytes | None = None) -> Path:
        """Write the key to `path` (mode 0600) and the public line to `PATH.pub`; returns the latter's path.

        Raises:
            StoreError: one of the two is there already (a key is never overwritten), or cannot be written.
        """
        from cryptography.hazmat.primitives import serialization

        cipher: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if passphrase:
            cipher = serialization.BestAvailableEncryption(passphrase)
        pem = self._key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, cipher)
        public = _public_path(path)
        for file in (path, public):
            if os.path.lexists(file):
                raise StoreError(f"{file}: exists already; a key is never overwritten. Choose another name")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_new(path, pem, 0o600)
            _write_new(public, f"{self.public.line}\n".encode(), 0o644)
            fs.fsync_folder(path.parent)
        except OSError as error:
            raise fs.store_error(error, path) from error
        return public

    def sign(self, message: bytes) -> bytes:
        """The signature over exactly `message`, 64 bytes."""
        return self._key.sign(message)


def name_problem(name: str) -> str | None:
    """Why `name` cannot be that of a key's owner; `None` when it can."""
    if len(name) <= _MAX_NAME and name.isprintable() and name == name.strip():
        return None
    return f"the name of a key's owner is one line of printable text, {_MAX_NAME} characters at most"


def read_public_keys(folder: Path) -> dict[str, PublicKey]:
    """The public keys of a folder's `.pub` files by id; a key without a name gets that of its file.

    Raises:
        KeyFileError: a file is unreadable or holds something else; names it.
    """
    keys: dict[str, PublicKey] = {}
    for path in sorted(folder.glob("*.pub")):
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise KeyFileError(f"{path}: cannot be read as a public key: {error}") from error
        key = PublicKey.parse(text, str(path))
        keys[key.id] = key if key.name else PublicKey(key.raw, path.stem)
    return keys


def _public_path(path: Path) -> Path:
    return path.with_name(path.name + ".pub")


def _read_secret(path: Path) -> bytes:
    """The bytes of a key file that nobody but its owner can read."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise KeyFileError(
                    f"{path}: a private key that others can read (mode {mode:04o}) is not used. "
                    f"Make it yours alone: chmod 600 {path}"
                )
            return file.read(_MAX_FILE_BYTES)
    except OSError as error:
        raise KeyFileError(
            f"{path}: cannot be read: {error.strerror}. Make a key with: "
            "edge-runtime models sign NAME --key FILE --new-key"
        ) from error


def _write_new(path: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)  # whatever the umask is
        file.write(content)
        file.flush()
        os.fsync(descriptor)
