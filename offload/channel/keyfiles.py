"""Private keys as files: a root's and a gateway's, encrypted under a passphrase, for their owner alone.

A file is JSON::

    {
      "cipher": {"kdf": "scrypt", "n": 32768, "nonce": "…", "p": 1, "r": 8, "salt": "…"} or null,
      "format": 1,
      "kind": "root" or "gateway",
      "name": "whose it is",
      "public": "base64: a root's public keys, or a gateway's key configuration of RFC 9458",
      "secret": "base64: 64 or 32 bytes, sealed with ChaCha20-Poly1305 when there is a cipher"
    }

The passphrase becomes a key by scrypt (RFC 7914). All but `secret` is authenticated with it, and the public
half is computed again from the secret: a file in which somebody changed something does not open.

Beside a key file stands what is given away, one line: `edge-root FINGERPRINT NAME` or `edge-gateway BASE64`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from offload.channel.errors import ChannelError, KeyFileError
from offload.channel.kem import KEMS
from offload.channel.keyconfig import GatewayKey, KeyConfig
from offload.channel.regional import RootKey, fingerprint

__all__ = [
    "SCRYPT_N",
    "KeyFile",
    "decode_key",
    "encode_key",
    "parse_gateway_line",
    "public_line",
    "public_path",
    "read_key",
    "read_key_file",
    "replace_file",
    "write_key",
]

SCRYPT_N = 1 << 15
"""Work of a guess at the passphrase: 32 MiB of memory and about a tenth of a second on a desktop."""

_MAX_N = 1 << 18
_R, _P = 8, 1
_MAX_FILE_BYTES = 64 * 1024
_NAMES = {"cipher", "format", "kind", "name", "public", "secret"}
_MAX_NAME = 100

Kind = Literal["root", "gateway"]


@dataclass(frozen=True, slots=True)
class KeyFile:
    """What can be seen of a key file without its passphrase; its truth shows only when it is opened."""

    kind: Kind
    name: str
    public: bytes
    cipher: Mapping[str, Any] | None
    sealed: bytes

    @property
    def is_encrypted(self) -> bool:
        """Whether a passphrase is needed."""
        return self.cipher is not None

    @property
    def config(self) -> KeyConfig:
        """A gateway's key configuration.

        Raises:
            ChannelError: the file holds a root's key, or the configuration is damaged.
        """
        if self.kind != "gateway":
            raise KeyFileError("this is the key of a root, where the key of a gateway is due")
        return KeyConfig.decode(self.public)


def encode_key(
    key: RootKey | GatewayKey,
    passphrase: bytes | None,
    name: str = "",
    *,
    scrypt_n: int = SCRYPT_N,
    random: Callable[[int], bytes] = os.urandom,
) -> bytes:
    """The content of a key file.

    Args:
        key: the key.
        passphrase: encrypts it; `None` leaves it as it is, protected by the file's mode alone.
        name: whose it is, one line of text.
        scrypt_n: work of a guess, a power of two.
        random: gives salt and nonce.

    Raises:
        KeyFileError: the name cannot be one, or the passphrase is empty.
    """
    if len(name) > _MAX_NAME or not name.isprintable() or name != name.strip():
        raise KeyFileError(f"{name[:40]!r}: a key's name is one line of {_MAX_NAME} characters at most")
    if passphrase is not None and not passphrase:
        raise KeyFileError("the passphrase is empty")
    if isinstance(key, RootKey):
        kind, public, secret = "root", key.public, key.secret_bytes()
    else:
        kind, public, secret = "gateway", key.config.encode(), key.private.secret_bytes()
    fields: dict[str, Any] = {
        "cipher": None,
        "format": 1,
        "kind": kind,
        "name": name,
        "public": _base64(public),
    }
    if passphrase is not None:
        salt, nonce = random(16), random(12)
        fields["cipher"] = {
            "kdf": "scrypt", "n": scrypt_n, "nonce": _base64(nonce), "p": _P, "r": _R, "salt": _base64(salt)
        }  # fmt: skip
        cipher = ChaCha20Poly1305(_scrypt(passphrase, salt, scrypt_n))
        secret = cipher.encrypt(nonce, secret, _bound(fields))
    return (json.dumps({**fields, "secret": _base64(secret)}, indent=2, sort_keys=True) + "\n").encode()


def read_key_file(content: bytes, where: str) -> KeyFile:
    """What a key file shows without its passphrase.

    Raises:
        KeyFileError: it is none; begins with `where`.
    """
    try:
        return _parsed(json.loads(content))
    except (ValueError, TypeError, RecursionError) as error:
        raise KeyFileError(
            f"{where}: is no key file: {error}. Make one with: edge-runtime keys new"
        ) from error


def decode_key(content: bytes, passphrase: bytes | None, where: str) -> RootKey | GatewayKey:
    """The key of a key file.

    Raises:
        KeyFileError: it is none, the passphrase is missing, needless or wrong, or the file was changed.
        SuiteError: the installed library does not have its algorithm.
    """
    file = read_key_file(content, where)
    secret = file.sealed
    if file.cipher is None and passphrase is not None:
        raise KeyFileError(f"{where}: is not encrypted: leave the passphrase out")
    if file.cipher is not None:
        if passphrase is None:
            raise KeyFileError(f"{where}: is encrypted: give its passphrase (--passphrase-file FILE)")
        bound = {"cipher": file.cipher, "format": 1, "kind": file.kind, "name": file.name}
        key = _scrypt(passphrase, _unbase64(file.cipher["salt"]), file.cipher["n"])
        try:
            secret = ChaCha20Poly1305(key).decrypt(
                _unbase64(file.cipher["nonce"]), secret, _bound({**bound, "public": _base64(file.public)})
            )
        except InvalidTag as error:
            raise KeyFileError(
                f"{where}: cannot be decrypted: the passphrase is wrong, or the file was changed"
            ) from error
    try:
        return _loaded(file, secret)
    except (ValueError, ChannelError) as error:
        raise KeyFileError(f"{where}: holds no sound key: {error}") from error


def write_key(
    path: Path,
    key: RootKey | GatewayKey,
    passphrase: bytes | None,
    name: str = "",
    *,
    scrypt_n: int = SCRYPT_N,
) -> Path:
    """Write a key file (mode 0600) and its public line beside it (`PATH.pub`); returns the latter's path.

    Raises:
        KeyFileError: one of them is there already (a key is never overwritten), or cannot be written.
    """
    public = public_path(path)
    for file in (path, public):
        if os.path.lexists(file):
            raise KeyFileError(f"{file}: exists already; a key is never overwritten. Choose another name")
    content = encode_key(key, passphrase, name, scrypt_n=scrypt_n)
    try:
        _write_new(path, content, 0o600)
        _write_new(public, f"{public_line(key, name)}\n".encode(), 0o644)
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be written: {error.strerror or error}") from error
    return public


def read_key(path: Path) -> bytes:
    """The bytes of a key file, when nobody but its owner can read it.

    Raises:
        KeyFileError: there is none, it is no file, too long, others can read it, or it is somebody else's.
    """
    try:
        # Without waiting: a pipe that somebody put there would otherwise hold us until he writes.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            _check_secret(os.fstat(descriptor), path)
            content = os.read(descriptor, _MAX_FILE_BYTES + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(content) > _MAX_FILE_BYTES:
        raise KeyFileError(f"{path}: is longer than any key file")
    return content


def replace_file(path: Path, content: bytes) -> None:
    """Write a public file whole or not at all, in place of what is there (mode 0644).

    Raises:
        KeyFileError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        try:
            _write_new(partial, content, 0o644)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        _fsync_folder(path.parent)
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be written: {error.strerror or error}") from error


def public_path(path: Path) -> Path:
    """Where the public line of a key file stands."""
    return path.with_name(f"{path.name}.pub")


def public_line(key: RootKey | GatewayKey, name: str = "") -> str:
    """What is given away of a key, as one line."""
    if isinstance(key, RootKey):
        return f"edge-root {key.fingerprint} {name}".rstrip()
    return f"edge-gateway {_base64(key.config.encode())}"


def parse_gateway_line(line: str, where: str) -> KeyConfig:
    """The key configuration of a gateway's public line.

    Raises:
        KeyFileError: it is none; begins with `where`.
    """
    kind, _, encoded = line.strip().partition(" ")
    if kind != "edge-gateway":
        shown = "a private key" if line.lstrip().startswith("{") else repr(line[:40])
        raise KeyFileError(f"{where}: a gateway's public key is one line 'edge-gateway BASE64', not {shown}")
    try:
        return KeyConfig.decode(_unbase64(encoded))
    except (ValueError, ChannelError) as error:
        raise KeyFileError(f"{where}: holds no key of a gateway: {error}") from error


def _check_secret(found: os.stat_result, path: Path) -> None:
    """Nothing, when it is a file that nobody but its owner, who is us or root, can read or change."""
    if not stat.S_ISREG(found.st_mode):
        raise KeyFileError(f"{path}: is no regular file")
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        raise KeyFileError(
            f"{path}: a private key that others can read (mode {mode:04o}) is not used. "
            f"Make it yours alone: chmod 600 {path}"
        )
    if found.st_uid not in (os.geteuid(), 0):
        raise KeyFileError(f"{path}: belongs to user {found.st_uid}, who could change it; it is not used")


def _parsed(fields: object) -> KeyFile:
    if not isinstance(fields, dict) or fields.keys() != _NAMES or fields["format"] != 1:
        raise ValueError(f"a key file has {', '.join(sorted(_NAMES))} and format 1")
    kind, name, cipher = fields["kind"], fields["name"], fields["cipher"]
    if kind not in ("root", "gateway") or not isinstance(name, str):
        raise ValueError("kind must be root or gateway, and name a text")
    if cipher is not None:
        _check_cipher(cipher)
    return KeyFile(kind, name, _unbase64(fields["public"]), cipher, _unbase64(fields["secret"]))


def _loaded(file: KeyFile, secret: bytes) -> RootKey | GatewayKey:
    if file.kind == "root":
        root = RootKey(secret)
        if root.public != file.public:
            raise ValueError(
                f"its public half is {fingerprint(file.public)[:16]}, not {root.fingerprint[:16]}"
            )
        return root
    config = file.config
    private = KEMS[config.kem].load(secret)
    if private.public != config.public:
        raise ValueError("its public half is another key's")
    return GatewayKey(config, private)


def _check_cipher(cipher: object) -> None:
    if not isinstance(cipher, dict) or cipher.keys() != {"kdf", "n", "nonce", "p", "r", "salt"}:
        raise ValueError("its cipher is not known here")
    n = cipher["n"]
    if isinstance(n, bool) or not isinstance(n, int) or not 2 <= n <= _MAX_N or n & (n - 1):
        raise ValueError(f"scrypt's n must be a power of two up to {_MAX_N}")  # more would exhaust a board
    if (cipher["kdf"], cipher["r"], cipher["p"]) != ("scrypt", _R, _P):
        raise ValueError(f"the passphrase's function must be scrypt with r={_R} and p={_P}")
    if len(_unbase64(cipher["nonce"])) != 12 or len(_unbase64(cipher["salt"])) != 16:
        raise ValueError("the nonce must have 12 bytes and the salt 16")


def _scrypt(passphrase: bytes, salt: bytes, n: int) -> bytes:
    return hashlib.scrypt(passphrase, salt=salt, n=n, r=_R, p=_P, maxmem=256 * n * _R + (1 << 20), dklen=32)


def _bound(fields: Mapping[str, Any]) -> bytes:
    """What a sealed secret is bound to: all that the file says beside it."""
    return b"edge-runtime key file v1\x00" + json.dumps(fields, sort_keys=True).encode()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _unbase64(text: object) -> bytes:
    if not isinstance(text, str):
        raise TypeError(f"{str(text)[:40]!r} is not base64")
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"{text[:40]!r} is not base64: {error}") from error


def _write_new(path: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)  # whatever the umask is
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    _fsync_folder(path.parent)


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
