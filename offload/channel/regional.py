"""Key configurations that a pinned root vouches for: which gateway, in which region, until when.

The region belongs to the key: its private half never leaves the region, so a redirect, a changed DNS entry or
a relay that sends elsewhere yields bytes that nobody there can read. A device pins roots by fingerprint and
seals to nothing that they have not signed, with Ed25519 and ML-DSA-65 (FIPS 204) both: a forger would have to
break the two.

The signed file is JSON in one spelling (sorted keys, two spaces, one newline at the end), so that a change of
any byte is noticed::

    {
      "format": 1,
      "payload": "base64 of the document",
      "signers": [
        {
          "ed25519": "base64 of 64 bytes",
          "ml-dsa-65": "base64 of 3309 bytes",
          "public": "base64 of the root's public keys: 32 bytes Ed25519, 1952 bytes ML-DSA-65"
        }
      ]
    }

Both signatures are over the text `edge-runtime regional keys v1`, a zero byte and the document, which is JSON
in the same spelling with the keys of `RegionalKeys`. A root's fingerprint is the SHA-256 of its public keys.

Knows: documents and signatures. Does not know: which roots a device trusts and which document it takes
(`offload.channel.pinning`), files, where documents come from.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey, MLDSA65PublicKey

from offload.channel.errors import (
    MessageError,
    SuiteError,
)
from offload.channel.keyconfig import KeyConfig, decode_keys, encode_keys

__all__ = [
    "MAX_LIFETIME_S",
    "RegionalKeys",
    "RootKey",
    "Signer",
    "fingerprint",
    "open_signed",
    "read_unverified",
    "sign",
    "signers_of",
    "time_text",
]

MAX_LIFETIME_S = 92 * 86400
"""A document is valid for three months at most: a key that is out of use must not live on in a drawer."""

_MAX_BYTES = 128 * 1024
_MAX_SIGNERS = 4
_DOMAIN = b"edge-runtime regional keys v1\x00"
_ED25519_BYTES, _MLDSA_BYTES = 32, 1952
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_MAX_EPOCH = (1 << 53) - 1  # what a JSON reader that has doubles alone still tells apart


@dataclass(frozen=True, slots=True)
class RegionalKeys:
    """What a root signs. Times are whole seconds since 1970 (UTC).

    `epoch` counts a gateway's documents: a device takes none that is lower than one it has taken.
    """

    gateway: str
    region: str
    jurisdiction: str
    epoch: int
    issued_at: int
    not_after: int
    configs: tuple[KeyConfig, ...]

    def encode(self) -> bytes:
        """The bytes that are signed.

        Raises:
            MessageError: a field is not valid; names it.
        """
        for what in ("gateway", "region", "jurisdiction"):
            value = getattr(self, what)
            if not _NAME.fullmatch(value):
                raise MessageError(
                    f"the {what} {value[:80]!r} is not valid: 1 to 63 letters, digits, '.', '_' and '-'"
                )
        if not 1 <= self.epoch <= _MAX_EPOCH:
            raise MessageError(f"the epoch must be from 1 to 2**53 - 1, but it is {self.epoch}")
        if not 0 < self.not_after - self.issued_at <= MAX_LIFETIME_S:
            raise MessageError(
                f"keys are valid for more than 0 and at most {MAX_LIFETIME_S // 86400} days, but these would "
                f"be for {(self.not_after - self.issued_at) / 86400:.1f}"
            )
        return _render(
            {
                "epoch": self.epoch,
                "format": 1,
                "gateway": self.gateway,
                "issued_at": time_text(self.issued_at),
                "jurisdiction": self.jurisdiction,
                "keys": _base64(encode_keys(self.configs)),
                "not_after": time_text(self.not_after),
                "region": self.region,
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> RegionalKeys:
        """Read what `encode` wrote.

        Raises:
            MessageError: it is something else, or in another spelling.
            SuiteError: none of its keys can be used here.
        """
        fields = _parse(data, "document", {"epoch", "format", "gateway", "issued_at", "jurisdiction", "keys",
                                           "not_after", "region"})  # fmt: skip
        texts = {name: _text(fields, name) for name in fields.keys() - {"epoch", "format"}}
        epoch = fields["epoch"]
        if isinstance(epoch, bool) or not isinstance(epoch, int):
            raise MessageError("the epoch of a signed key configuration is not a whole number")
        document = cls(
            texts["gateway"],
            texts["region"],
            texts["jurisdiction"],
            epoch,
            _time(texts["issued_at"]),
            _time(texts["not_after"]),
            decode_keys(_unbase64(texts["keys"], "keys")),
        )
        # What cannot be used here is left out of `configs`, so the keys are no part of this comparison.
        if json.loads(document.encode()) | {"keys": texts["keys"]} != fields:
            raise MessageError("a signed key configuration with a field in another spelling than ours")
        return document


class RootKey:
    """What signs: an Ed25519 and an ML-DSA-65 key, from 32 secret bytes each."""

    SECRET_BYTES = 64

    def __init__(self, secret: bytes) -> None:
        if len(secret) != self.SECRET_BYTES:
            raise MessageError(f"a root key has {self.SECRET_BYTES} secret bytes, not {len(secret)}")
        self._secret = secret
        self._ed25519 = Ed25519PrivateKey.from_private_bytes(secret[:32])
        try:
            self._mldsa = MLDSA65PrivateKey.from_seed_bytes(secret[32:])
        except UnsupportedAlgorithm as error:
            raise _without_mldsa() from error
        self.public = (
            self._ed25519.public_key().public_bytes_raw() + self._mldsa.public_key().public_bytes_raw()
        )

    def __repr__(self) -> str:
        return f"RootKey({self.fingerprint[:16]})"

    @classmethod
    def generate(cls, random: Callable[[int], bytes]) -> RootKey:
        """A fresh key; `random` is `os.urandom`."""
        return cls(random(cls.SECRET_BYTES))

    @property
    def fingerprint(self) -> str:
        """What devices pin: 64 hexadecimal digits."""
        return fingerprint(self.public)

    def secret_bytes(self) -> bytes:
        """The 64 secret bytes; they belong into an encrypted key file and nowhere else."""
        return self._secret

    def sign(self, payload: bytes) -> dict[str, str]:
        """An entry of `signers` over `payload`."""
        return {
            "ed25519": _base64(self._ed25519.sign(_DOMAIN + payload)),
            "ml-dsa-65": _base64(self._mldsa.sign(_DOMAIN + payload)),
            "public": _base64(self.public),
        }


@dataclass(frozen=True, slots=True)
class Signer:
    """An entry of a file's `signers`: public keys, and signatures that may hold or not."""

    public: bytes
    ed25519: bytes
    mldsa: bytes

    @property
    def fingerprint(self) -> str:
        """That of the root whose public keys these are."""
        return fingerprint(self.public)

    def holds(self, payload: bytes) -> bool:
        """Whether both signatures are these keys', over exactly `payload`.

        Raises:
            SuiteError: the installed library does not have ML-DSA.
        """
        if len(self.public) != _ED25519_BYTES + _MLDSA_BYTES:
            return False
        first, second = self.public[:_ED25519_BYTES], self.public[_ED25519_BYTES:]
        try:
            Ed25519PublicKey.from_public_bytes(first).verify(self.ed25519, _DOMAIN + payload)
            MLDSA65PublicKey.from_public_bytes(second).verify(self.mldsa, _DOMAIN + payload)
        except UnsupportedAlgorithm as error:
            raise _without_mldsa() from error
        except (InvalidSignature, ValueError):  # ValueError: not the encoding of a key
            return False
        return True


def fingerprint(public: bytes) -> str:
    """SHA-256 of a root's public keys, 64 lower-case hexadecimal digits."""
    return hashlib.sha256(public).hexdigest()


def sign(document: RegionalKeys, roots: Sequence[RootKey]) -> bytes:
    """The signed file. Several roots sign while devices move from one to the next.

    Raises:
        MessageError: a field of the document is not valid, or there are no or too many roots.
    """
    if not 1 <= len(roots) <= _MAX_SIGNERS:
        raise MessageError(f"a key configuration is signed by 1 to {_MAX_SIGNERS} roots, not {len(roots)}")
    payload = document.encode()
    signers = [root.sign(payload) for root in roots]
    return _render({"format": 1, "payload": _base64(payload), "signers": signers})


def read_unverified(data: bytes) -> RegionalKeys:
    """The document of a signed file, whoever signed it: to show it, never to seal to its keys.

    Raises:
        MessageError, SuiteError: as `verify`.
    """
    return RegionalKeys.decode(open_signed(data)[0])


def signers_of(data: bytes) -> list[str]:
    """Fingerprints of the roots whose signatures on the file hold.

    Raises:
        MessageError: the file is damaged.
    """
    payload, signers = open_signed(data)
    return [signer.fingerprint for signer in signers if signer.holds(payload)]


def open_signed(data: bytes) -> tuple[bytes, list[Signer]]:
    """The document's bytes, and who says to have signed them.

    Raises:
        MessageError: the file is damaged.
    """
    fields = _parse(data, "file", {"format", "payload", "signers"})
    entries = fields["signers"]
    if not isinstance(entries, list) or not 1 <= len(entries) <= _MAX_SIGNERS:
        raise MessageError(f"a signed key configuration has 1 to {_MAX_SIGNERS} signers in a list")
    signers: list[Signer] = []
    for entry in entries:
        if not isinstance(entry, dict) or entry.keys() != {"ed25519", "ml-dsa-65", "public"}:
            raise MessageError("a signer has ed25519, ml-dsa-65 and public, and nothing else")
        public, first, second = (
            _unbase64(_text(entry, name), name) for name in ("public", "ed25519", "ml-dsa-65")
        )
        signers.append(Signer(public, first, second))
    return _unbase64(_text(fields, "payload"), "payload"), signers


def _without_mldsa() -> SuiteError:
    return SuiteError(
        "signed key configurations need ML-DSA, which the installed package 'cryptography' was built "
        "without. Install its own wheel: pip install --upgrade 'cryptography>=48'"
    )


def _render(value: object) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


def _parse(data: bytes, what: str, names: set[str]) -> dict[str, Any]:
    """An object of our one spelling with exactly these keys and format 1."""
    if len(data) > _MAX_BYTES:
        raise MessageError(f"a signed key configuration has {_MAX_BYTES} bytes at most, not {len(data)}")
    try:
        value = json.loads(data)
        same = _render(value) == data
    except (ValueError, RecursionError) as error:
        raise MessageError(f"the {what} of a signed key configuration is not JSON: {error}") from error
    if not isinstance(value, dict) or value.keys() != names:
        raise MessageError(f"the {what} of a signed key configuration has {', '.join(sorted(names))} alone")
    if value["format"] != 1 or isinstance(value["format"], bool):
        raise MessageError(
            f"format {str(value['format'])[:20]} of a signed key configuration is not known here"
        )
    if not same:
        raise MessageError(f"the {what} of a signed key configuration is in another spelling than ours")
    return value


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields[name]
    if not isinstance(value, str):
        raise MessageError(f"'{name}' of a signed key configuration is not a text")
    return value


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _unbase64(text: str, what: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MessageError(f"'{what}' of a signed key configuration is not base64: {error}") from error
    if _base64(data) != text:  # unused bits at the end that are not zero
        raise MessageError(f"'{what}' of a signed key configuration is not base64 in its one spelling")
    return data


def time_text(seconds: float) -> str:
    """A time as documents have it, such as `2026-11-24T12:00:00Z`."""
    try:
        return datetime.fromtimestamp(int(seconds), tz=timezone.utc).strftime(_TIME)
    except (ValueError, OverflowError, OSError):
        return f"{seconds:.0f} s after 1970"


def _time(text: str) -> int:
    try:
        return int(datetime.strptime(text, _TIME).replace(tzinfo=timezone.utc).timestamp())
    except ValueError as error:
        raise MessageError(f"{text[:40]!r} is not a time like 2026-11-24T12:00:00Z") from error
