"""The keys that seal what people said, and where they come from: a file, a systemd credential, a command.

All three give the same text, one key per line and the newest last; `#` begins a comment::

    edge-store-key BASE64-OF-32-BYTES

The newest key seals; every key of the list opens. A sealed content is::

    1 byte    version, 1
    4 bytes   key id: the first bytes of SHA-256("edge-runtime store key" || key)
    12 bytes  nonce, random
    rest      ChaCha20-Poly1305 (RFC 8439) of the content, with its 16-byte tag

The tag also covers the header and the place (table, row) that the content belongs to, so that content cannot
be moved to another row. ChaCha20 because a Raspberry Pi before the 5 has no AES instructions. A nonce is
drawn at random for each content: after 2³² of them under one key the chance that two are equal is 2⁻³³; a
device that seals one content a second gets there in 136 years.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import shlex
import stat
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from offload.store.errors import KeyLostError, SealError, StoreKeyError

__all__ = [
    "OVERHEAD",
    "KeySource",
    "Keyring",
    "add_key",
    "drop_old_keys",
    "from_command",
    "from_credential",
    "from_file",
    "new_key_line",
]

KeySource = Callable[[], "Keyring"]
"""Gives the keys each time it is called.

Raises:
    StoreKeyError: there are none to be had.
"""

OVERHEAD = 1 + 4 + 12 + 16
"""Bytes that sealing adds."""

_VERSION = b"\x01"
_PREFIX = "edge-store-key"
_KEY_BYTES = 32
_MAX_BYTES = 64 * 1024
_COMMAND_TIMEOUT_S = 30.0


class Keyring:
    """Keys in their order of age; the last one seals.

    Raises:
        StoreKeyError: there is none, one has another length than 32 bytes, or two are equal.
    """

    def __init__(self, keys: Sequence[bytes], random: Callable[[int], bytes] = os.urandom) -> None:
        if not keys:
            raise StoreKeyError("a store needs at least one key")
        if any(len(key) != _KEY_BYTES for key in keys):
            raise StoreKeyError(f"a key of a store has {_KEY_BYTES} bytes")
        self._ciphers = {key_id(key): ChaCha20Poly1305(key) for key in keys}
        if len(self._ciphers) != len(keys):
            raise StoreKeyError("a key stands twice in the list")
        self._current = key_id(keys[-1])
        self._random = random

    @property
    def current(self) -> str:
        """The id of the key that seals, 8 hexadecimal digits."""
        return self._current.hex()

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of all keys, the oldest first."""
        return tuple(name.hex() for name in self._ciphers)

    def seal(self, content: bytes, place: str) -> bytes:
        """Seal `content` for `place`, a table and row such as `request/01J…`."""
        header = _VERSION + self._current + self._random(12)
        return header + self._ciphers[self._current].encrypt(header[5:], content, header + place.encode())

    def open(self, sealed: bytes, place: str) -> bytes:
        """The content that was sealed for `place`.

        Raises:
            KeyLostError: it was sealed under a key that is not in this list; names the key's id.
            SealError: it was altered or damaged, or was sealed for another place.
        """
        if len(sealed) < OVERHEAD or sealed[:1] != _VERSION:
            raise SealError(f"{place}: is not a sealed content of version 1")
        cipher = self._ciphers.get(sealed[1:5])
        if cipher is None:
            raise KeyLostError(
                f"{place}: was sealed under the key {sealed[1:5].hex()}, which is not among the keys at hand "
                f"({', '.join(self.ids)}). Put that key back to read it"
            )
        try:
            return cipher.decrypt(sealed[5:17], sealed[17:], sealed[:17] + place.encode())
        except InvalidTag as error:
            raise SealError(f"{place}: was altered or damaged, or belongs to another place") from error


def key_id(key: bytes) -> bytes:
    """Four bytes that tell keys apart and say nothing about them."""
    return hashlib.sha256(b"edge-runtime store key" + key).digest()[:4]


def new_key_line(random: Callable[[int], bytes] = os.urandom) -> str:
    """A fresh key as a line of a key file."""
    return f"{_PREFIX} {base64.b64encode(random(_KEY_BYTES)).decode()}\n"


def from_file(path: Path, *, create: bool = True, random: Callable[[int], bytes] = os.urandom) -> KeySource:
    """Keys from a file that nobody but its owner can read; made with a fresh key when there is none.

    The file is on the disk, and its folder too, before its key seals anything.
    """

    def read() -> Keyring:
        if create and not os.path.lexists(path):
            _write(path, new_key_line(random).encode(), new=True)
        return _parsed(_read_private(path), str(path), random)

    return read


def from_credential(
    name: str, environ: Mapping[str, str] = os.environ, *, random: Callable[[int], bytes] = os.urandom
) -> KeySource:
    """Keys from a systemd credential (`LoadCredentialEncrypted=NAME:…`, systemd.exec(5))."""

    def read() -> Keyring:
        folder = environ.get("CREDENTIALS_DIRECTORY")
        if not folder:
            raise StoreKeyError(
                f"the credential '{name}' cannot be read: CREDENTIALS_DIRECTORY is not set. Start the "
                f"service under systemd with LoadCredentialEncrypted={name}:FILE"
            )
        path = Path(folder) / name
        try:
            content = path.read_bytes()
        except OSError as error:
            raise StoreKeyError(f"{path}: cannot be read: {error.strerror or error}") from error
        return _parsed(content, str(path), random)

    return read


def from_command(
    command: Sequence[str],
    *,
    timeout_s: float = _COMMAND_TIMEOUT_S,
    random: Callable[[int], bytes] = os.urandom,
) -> KeySource:
    """Keys from what a command writes to its standard output; it is started without a shell."""

    def read() -> Keyring:
        shown = shlex.join(command)
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise StoreKeyError(f"the key command did not end within {timeout_s:g} s: {shown}") from error
        except OSError as error:
            raise StoreKeyError(
                f"the key command cannot be started: {shown}: {error.strerror or error}"
            ) from error
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise StoreKeyError(
                f"the key command failed with status {done.returncode}: {shown}"
                + (f": {said[-1][:200]}" if said else "")
            )
        return _parsed(done.stdout, f"the output of {shown}", random)

    return read


def add_key(path: Path, random: Callable[[int], bytes] = os.urandom) -> None:
    """Put a fresh key at the end of a key file: what is sealed from now on is sealed under it.

    Raises:
        StoreKeyError: the file cannot be read or written, or is none.
    """
    content = _read_private(path)
    _parsed(content, str(path), random)
    _write(path, content.rstrip(b"\n") + b"\n" + new_key_line(random).encode())


def drop_old_keys(path: Path) -> None:
    """Leave the newest key alone in a key file. What an older one sealed cannot be opened afterwards.

    Raises:
        StoreKeyError: the file cannot be read or written, or is none.
    """
    content = _read_private(path)
    _parsed(content, str(path), os.urandom)
    lines = [line for line in content.decode().splitlines() if line.strip().startswith(_PREFIX)]
    _write(path, f"{lines[-1].strip()}\n".encode())


def _parsed(content: bytes, where: str, random: Callable[[int], bytes]) -> Keyring:
    keys = []
    for number, line in enumerate(content.decode(errors="replace").splitlines(), 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        kind, _, encoded = text.partition(" ")
        try:
            key = base64.b64decode(encoded.strip(), validate=True)
        except binascii.Error:
            key = b""
        if kind != _PREFIX or len(key) != _KEY_BYTES:  # the line itself is never shown: it may be a secret
            raise StoreKeyError(
                f"{where}, line {number}: is not '{_PREFIX} BASE64-OF-{_KEY_BYTES}-BYTES'. "
                f"A deleted key file is made anew, but what the lost key sealed stays closed"
            )
        keys.append(key)
    try:
        return Keyring(keys, random)
    except StoreKeyError as error:
        raise StoreKeyError(f"{where}: {error}") from error


def _read_private(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise StoreKeyError(f"{path}: is no regular file")
            if stat.S_IMODE(found.st_mode) & 0o077:
                raise StoreKeyError(
                    f"{path}: a key that others can read (mode {stat.S_IMODE(found.st_mode):04o}) is not "
                    f"used. Make it yours alone: chmod 600 {shlex.quote(str(path))}"
                )
            if found.st_uid not in (os.geteuid(), 0):
                raise StoreKeyError(
                    f"{path}: belongs to user {found.st_uid}, who knows the key; it is not used"
                )
            return file.read(_MAX_BYTES)
    except OSError as error:
        raise StoreKeyError(f"{path}: cannot be read: {error.strerror or error}") from error


def _write(path: Path, content: bytes, *, new: bool = False) -> None:
    """Write a key file whole or not at all, and durably. With `new`, a file that is there stays as it is."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if new:
                try:
                    os.link(partial, path)  # fails when another process made one meanwhile: that one counts
                except FileExistsError:
                    return
            else:
                partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise StoreKeyError(f"{path}: cannot be written: {error.strerror or error}") from error
