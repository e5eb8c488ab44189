"""Key encapsulation: X25519 and P-256 (RFC 9180, section 4.1) and X-Wing (draft-connolly-cfrg-xwing-kem).

X-Wing is ML-KEM-768 and X25519 together, HPKE's KEM 0x647a (draft-ietf-hpke-pq): it holds as long as one of
the two does, so what is recorded today stays closed to a quantum computer of tomorrow.

Knows: key pairs as bytes, `encapsulate`, `decapsulate`. Does not know: what the shared secret is used for.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import IntEnum
from functools import cache
from types import MappingProxyType
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, mlkem, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from offload.channel.errors import MessageError, OpenError, SuiteError

__all__ = [
    "KEMS",
    "SECRET_BYTES",
    "Kem",
    "KemId",
    "PrivateKey",
    "expand",
    "extract",
    "is_available",
    "kem_of",
    "labeled_expand",
    "labeled_extract",
]

SECRET_BYTES = 32
"""A private key is 32 bytes with every KEM of ours: a scalar, or X-Wing's seed."""

_VERSION = b"HPKE-v1"
_HASH_BYTES = 32


class KemId(IntEnum):
    """HPKE's numbers of the KEMs that we have (IANA registry "HPKE KEM Identifiers")."""

    P256 = 0x0010
    X25519 = 0x0020
    XWING = 0x647A


def extract(salt: bytes, key_material: bytes) -> bytes:
    """HKDF-Extract with SHA-256 (RFC 5869, section 2.2), 32 bytes."""
    return hmac.digest(salt or bytes(_HASH_BYTES), key_material, "sha256")


def labeled_extract(suite_id: bytes, salt: bytes, label: bytes, key_material: bytes) -> bytes:
    """HPKE's `LabeledExtract` (RFC 9180, section 4)."""
    return extract(salt, _VERSION + suite_id + label + key_material)


def labeled_expand(suite_id: bytes, secret: bytes, label: bytes, info: bytes, length: int) -> bytes:
    """HPKE's `LabeledExpand` (RFC 9180, section 4), `length` bytes."""
    return expand(secret, length.to_bytes(2, "big") + _VERSION + suite_id + label + info, length)


def expand(secret: bytes, info: bytes, length: int) -> bytes:
    """HKDF-Expand with SHA-256 (RFC 5869, section 2.3), `length` bytes, 255 * 32 at most.

    Raises:
        ValueError: `length` is more than that.
    """
    if length > 255 * _HASH_BYTES:
        raise ValueError(f"HKDF-SHA256 gives {255 * _HASH_BYTES} bytes at most, not {length}")
    block, output = b"", b""
    for counter in range(1, -(-length // _HASH_BYTES) + 1):
        block = hmac.digest(secret, block + info + bytes([counter]), "sha256")
        output += block
    return output[:length]


class PrivateKey:
    """A private key of one KEM, with its public key. Its representation shows no secret."""

    __slots__ = ("_secret", "kem", "loaded", "public")

    def __init__(self, kem: Kem, secret: bytes, public: bytes, loaded: Any) -> None:
        self.kem = kem
        self.public = public
        self.loaded = loaded
        self._secret = secret

    def __repr__(self) -> str:
        return f"PrivateKey({self.kem.id.name}, public {hashlib.sha256(self.public).hexdigest()[:16]})"

    def secret_bytes(self) -> bytes:
        """The 32 secret bytes; they belong into an encrypted key file and nowhere else."""
        return self._secret


class Kem(ABC):
    """One way to agree on a secret with the owner of a public key."""

    id: KemId
    title: str
    public_bytes: int
    enc_bytes: int

    def generate(self, random: Callable[[int], bytes] = os.urandom) -> PrivateKey:
        """A fresh key pair; `random` gives as many random bytes as it is asked for.

        Raises:
            MessageError: `random` gives no key in a hundred tries.
            SuiteError: the installed library does not have this KEM.
        """
        for _ in range(99):
            try:
                return self.load(random(SECRET_BYTES))
            except MessageError:  # P-256: one in 2**32 texts of 32 bytes is no scalar
                continue
        return self.load(random(SECRET_BYTES))

    @abstractmethod
    def load(self, secret: bytes) -> PrivateKey:
        """The key pair of 32 secret bytes.

        Raises:
            MessageError: they are no private key.
            SuiteError: the installed library does not have this KEM.
        """

    @abstractmethod
    def check_public(self, public: bytes) -> None:
        """Nothing, when `public` is a public key of this KEM.

        Raises:
            MessageError: it is none.
            SuiteError: the installed library does not have this KEM.
        """

    @abstractmethod
    def encapsulate(
        self, public: bytes, *, unsafe_ephemeral: PrivateKey | None = None
    ) -> tuple[bytes, bytes]:
        """A fresh shared secret (32 bytes) and what its owner needs to find it (`enc`, `enc_bytes` long).

        Args:
            public: the receiver's public key.
            unsafe_ephemeral: instead of a fresh key pair, to repeat published examples; the same one twice
                gives the same secret twice. X-Wing has none.

        Raises:
            MessageError: `public` is no public key.
            SuiteError: the installed library does not have this KEM.
        """

    @abstractmethod
    def decapsulate(self, enc: bytes, private: PrivateKey) -> bytes:
        """The shared secret of `enc`, 32 bytes.

        Raises:
            OpenError: `enc` is none of this KEM's. ML-KEM gives a wrong secret for a damaged one instead,
                which the first decryption notices.
        """


class _DhKem(Kem):
    """DHKEM (RFC 9180, section 4.1) over a Diffie-Hellman group, with HKDF-SHA256."""

    def encapsulate(
        self, public: bytes, *, unsafe_ephemeral: PrivateKey | None = None
    ) -> tuple[bytes, bytes]:
        ephemeral = unsafe_ephemeral or self.generate()
        try:
            shared = self._exchange(ephemeral.loaded, public)
        except ValueError as error:
            raise MessageError(f"the public key is none of {self.title}: {error}") from error
        return self._derive(shared, ephemeral.public, public), ephemeral.public

    def decapsulate(self, enc: bytes, private: PrivateKey) -> bytes:
        try:
            shared = self._exchange(private.loaded, enc)
        except ValueError as error:
            raise OpenError(f"the encapsulated key is none of {self.title}: {error}") from error
        return self._derive(shared, enc, private.public)

    def check_public(self, public: bytes) -> None:
        try:
            # Also refuses the points of small order, which give the same secret to everybody.
            self._exchange(self.generate().loaded, public)
        except ValueError as error:
            raise MessageError(f"the public key is none of {self.title}: {error}") from error

    def _derive(self, shared: bytes, enc: bytes, public: bytes) -> bytes:
        suite_id = b"KEM" + self.id.to_bytes(2, "big")
        secret = labeled_extract(suite_id, b"", b"eae_prk", shared)
        return labeled_expand(suite_id, secret, b"shared_secret", enc + public, _HASH_BYTES)

    @abstractmethod
    def _exchange(self, private: Any, public: bytes) -> bytes:
        """The Diffie-Hellman value; `ValueError` when `public` is no public key."""


class _X25519(_DhKem):
    id, title, public_bytes, enc_bytes = KemId.X25519, "X25519", 32, 32

    def load(self, secret: bytes) -> PrivateKey:
        try:
            key = x25519.X25519PrivateKey.from_private_bytes(secret)
        except ValueError as error:
            raise MessageError(f"no X25519 private key: {error}") from error
        return PrivateKey(self, bytes(secret), key.public_key().public_bytes_raw(), key)

    def _exchange(self, private: Any, public: bytes) -> bytes:
        shared: bytes = private.exchange(x25519.X25519PublicKey.from_public_bytes(public))
        return shared


class _P256(_DhKem):
    id, title, public_bytes, enc_bytes = KemId.P256, "P-256", 65, 65
    _curve = ec.SECP256R1()

    def load(self, secret: bytes) -> PrivateKey:
        if len(secret) != SECRET_BYTES:
            raise MessageError(f"a P-256 private key has 32 bytes, not {len(secret)}")
        try:
            key = ec.derive_private_key(int.from_bytes(secret, "big"), self._curve)
        except ValueError as error:
            raise MessageError(f"no P-256 private key: {error}") from error
        public = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        return PrivateKey(self, bytes(secret), public, key)

    def _exchange(self, private: Any, public: bytes) -> bytes:
        if len(public) != self.public_bytes:  # RFC 9180, section 7.1.1: uncompressed points alone
            raise ValueError(f"a point has {self.public_bytes} bytes, not {len(public)}")
        point = ec.EllipticCurvePublicKey.from_encoded_point(self._curve, public)
        shared: bytes = private.exchange(ec.ECDH(), point)
        return shared


_MLKEM_PUBLIC, _MLKEM_CIPHERTEXT = 1184, 1088
_XWING_LABEL = bytes.fromhex("5c2e2f2f5e5c")


class _XWing(Kem):
    id, title = KemId.XWING, "X-Wing (ML-KEM-768 and X25519)"
    public_bytes, enc_bytes = _MLKEM_PUBLIC + 32, _MLKEM_CIPHERTEXT + 32

    def load(self, secret: bytes) -> PrivateKey:
        if len(secret) != SECRET_BYTES:
            raise MessageError(f"an X-Wing private key is a seed of 32 bytes, not {len(secret)}")
        seed = hashlib.shake_256(secret).digest(96)
        with _ml_kem():
            lattice = mlkem.MLKEM768PrivateKey.from_seed_bytes(seed[:64])
        curve = x25519.X25519PrivateKey.from_private_bytes(seed[64:])
        public = lattice.public_key().public_bytes_raw() + curve.public_key().public_bytes_raw()
        return PrivateKey(self, bytes(secret), public, (lattice, curve))

    def check_public(self, public: bytes) -> None:
        self.encapsulate(public)

    def encapsulate(
        self, public: bytes, *, unsafe_ephemeral: PrivateKey | None = None
    ) -> tuple[bytes, bytes]:
        if unsafe_ephemeral is not None:
            raise SuiteError("X-Wing's encapsulation cannot be repeated: ML-KEM draws its own random numbers")
        if len(public) != self.public_bytes:
            raise MessageError(f"an X-Wing public key has {self.public_bytes} bytes, not {len(public)}")
        ephemeral = x25519.X25519PrivateKey.generate()
        theirs = public[_MLKEM_PUBLIC:]
        try:
            with _ml_kem():
                lattice = mlkem.MLKEM768PublicKey.from_public_bytes(public[:_MLKEM_PUBLIC])
            first, ciphertext = lattice.encapsulate()
            second = ephemeral.exchange(x25519.X25519PublicKey.from_public_bytes(theirs))
        except ValueError as error:
            raise MessageError(f"the public key is none of {self.title}: {error}") from error
        ours = ephemeral.public_key().public_bytes_raw()
        return self._combine(first, second, ours, theirs), ciphertext + ours

    def decapsulate(self, enc: bytes, private: PrivateKey) -> bytes:
        lattice, curve = private.loaded
        ciphertext, theirs = enc[:_MLKEM_CIPHERTEXT], enc[_MLKEM_CIPHERTEXT:]
        try:
            first = lattice.decapsulate(ciphertext)
            second = curve.exchange(x25519.X25519PublicKey.from_public_bytes(theirs))
        except ValueError as error:
            raise OpenError(f"the encapsulated key is none of {self.title}: {error}") from error
        return self._combine(first, second, theirs, private.public[_MLKEM_PUBLIC:])

    @staticmethod
    def _combine(first: bytes, second: bytes, ciphertext: bytes, public: bytes) -> bytes:
        """draft-connolly-cfrg-xwing-kem, section 5.3; ML-KEM's own ciphertext needs no binding there."""
        return hashlib.sha3_256(first + second + ciphertext + public + _XWING_LABEL).digest()


@contextmanager
def _ml_kem() -> Iterator[None]:
    """In this context a library without ML-KEM is told with the way out."""
    try:
        yield
    except UnsupportedAlgorithm as error:
        raise SuiteError(
            "X-Wing needs ML-KEM, which the installed package 'cryptography' was built without. "
            "Install its own wheel (pip install --upgrade 'cryptography>=48'), or use a key of X25519"
        ) from error


KEMS: Mapping[KemId, Kem] = MappingProxyType({kem.id: kem for kem in (_XWing(), _X25519(), _P256())})
"""Every KEM that we have, the preferred one first."""


def kem_of(number: int) -> Kem:
    """The KEM with HPKE's number.

    Raises:
        SuiteError: it is none of ours.
    """
    if number not in KEMS:
        ours = ", ".join(f"0x{kem.id:04x} {kem.title}" for kem in KEMS.values())
        raise SuiteError(f"KEM 0x{number:04x} is not known here; known are {ours}")
    return KEMS[KemId(number)]


@cache
def is_available(number: KemId) -> bool:
    """Whether the installed library has that KEM."""
    try:
        KEMS[number].generate()
    except SuiteError:
        return False
    return True
