"""Hybrid public key encryption in base mode, with Export (RFC 9180), over the primitives of `cryptography`.

`cryptography` has HPKE of its own, for one message at a time; Oblivious HTTP needs a context that seals many
and exports secrets, so the key schedule is here. A test holds the two against each other.

Knows: suites, the key schedule, sequence numbers. Does not know: what is sealed, or where keys come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from offload.channel.errors import LimitError, MessageError, OpenError, SuiteError
from offload.channel.kem import (
    Kem,
    KemId,
    PrivateKey,
    kem_of,
    labeled_expand,
    labeled_extract,
)

__all__ = [
    "HKDF_SHA256",
    "NONCE_BYTES",
    "TAG_BYTES",
    "AeadId",
    "Recipient",
    "Sender",
    "Suite",
    "aead_cipher",
    "chunk_nonce",
    "setup_recipient",
    "setup_sender",
]

HKDF_SHA256 = 0x0001
"""HPKE's number of the one key derivation that we use."""

TAG_BYTES = 16
"""By how much every AEAD of ours lengthens a text."""

NONCE_BYTES = 12
"""Nn of RFC 9180, the same for every AEAD of ours."""

_MAX_SEQUENCE = (1 << 8 * NONCE_BYTES) - 1


class AeadId(IntEnum):
    """HPKE's numbers of the AEADs that we have (RFC 9180, section 7.3)."""

    AES_128_GCM = 0x0001
    AES_256_GCM = 0x0002
    CHACHA20_POLY1305 = 0x0003

    @property
    def key_bytes(self) -> int:
        """Nk of RFC 9180."""
        return 16 if self is AeadId.AES_128_GCM else 32

    @classmethod
    def known(cls, number: int) -> AeadId | None:
        """The AEAD with that number; `None` when it is none of ours."""
        return next((aead for aead in cls if aead == number), None)


@dataclass(frozen=True, slots=True)
class Suite:
    """A KEM and an AEAD; the key derivation is HKDF-SHA256."""

    kem: KemId
    aead: AeadId

    def encode(self) -> bytes:
        """The numbers of KEM, KDF and AEAD, two bytes each."""
        return b"".join(number.to_bytes(2, "big") for number in (self.kem, HKDF_SHA256, self.aead))

    @classmethod
    def of(cls, kem: int, kdf: int, aead: int) -> Suite:
        """The suite with these numbers.

        Raises:
            SuiteError: one of them is none of ours.
        """
        known = kem_of(kem)
        if kdf != HKDF_SHA256:
            raise SuiteError(f"KDF 0x{kdf:04x} is not known here; known is 0x0001 HKDF-SHA256")
        cipher = AeadId.known(aead)
        if cipher is None:
            ours = ", ".join(f"0x{number:04x} {number.name}" for number in AeadId)
            raise SuiteError(f"AEAD 0x{aead:04x} is not known here; known are {ours}")
        return cls(known.id, cipher)


def aead_cipher(aead: AeadId, key: bytes) -> AESGCM | ChaCha20Poly1305:
    """The cipher with `key` (`aead.key_bytes` long)."""
    return ChaCha20Poly1305(key) if aead is AeadId.CHACHA20_POLY1305 else AESGCM(key)


def chunk_nonce(base: bytes, sequence: int) -> bytes:
    """`base` XOR the big-endian counter: HPKE's `ComputeNonce` (RFC 9180, section 5.2).

    Raises:
        LimitError: the counter would repeat.
    """
    if not 0 <= sequence < _MAX_SEQUENCE:
        raise LimitError("as many messages as a key may seal have been sealed (2**96 - 1)")
    return (int.from_bytes(base, "big") ^ sequence).to_bytes(NONCE_BYTES, "big")


class _Context:
    """The key schedule of base mode (RFC 9180, section 5.1)."""

    def __init__(self, suite: Suite, shared_secret: bytes, info: bytes) -> None:
        self.suite = suite
        self._suite_id = suite_id = b"HPKE" + suite.encode()
        schedule = (
            b"\x00"  # base mode
            + labeled_extract(suite_id, b"", b"psk_id_hash", b"")
            + labeled_extract(suite_id, b"", b"info_hash", info)
        )
        secret = labeled_extract(suite_id, shared_secret, b"secret", b"")
        key = labeled_expand(suite_id, secret, b"key", schedule, suite.aead.key_bytes)
        self._cipher = aead_cipher(suite.aead, key)
        self._base_nonce = labeled_expand(suite_id, secret, b"base_nonce", schedule, NONCE_BYTES)
        self._exporter_secret = labeled_expand(suite_id, secret, b"exp", schedule, 32)
        self._sequence = 0

    def export(self, context: bytes, length: int) -> bytes:
        """A secret of `length` bytes that both sides can derive (RFC 9180, section 5.3)."""
        return labeled_expand(self._suite_id, self._exporter_secret, b"sec", context, length)


class Sender(_Context):
    """Seals messages in order."""

    def seal(self, plaintext: bytes, aad: bytes = b"") -> bytes:
        """The next message, `TAG_BYTES` longer than `plaintext`.

        Raises:
            LimitError: 2**96 - 1 messages were sealed.
        """
        sealed = self._cipher.encrypt(chunk_nonce(self._base_nonce, self._sequence), plaintext, aad)
        self._sequence += 1
        return sealed


class Recipient(_Context):
    """Opens the messages of a sender in the same order."""

    def open(self, sealed: bytes, aad: bytes = b"") -> bytes:
        """The next message's text.

        Raises:
            OpenError: it is damaged, not the next one, of another `aad`, or sealed to another key. The
                message that was expected can still be opened.
            LimitError: 2**96 - 1 messages were opened.
        """
        try:
            opened = self._cipher.decrypt(chunk_nonce(self._base_nonce, self._sequence), sealed, aad)
        except InvalidTag as error:
            raise OpenError(
                "this cannot be decrypted: it was damaged, is out of order, or was sealed to another key"
            ) from error
        self._sequence += 1
        return opened


def setup_sender(
    suite: Suite, public: bytes, info: bytes, *, unsafe_ephemeral: PrivateKey | None = None
) -> tuple[bytes, Sender]:
    """A fresh context to the owner of `public`, and the encapsulated key that he needs (`SetupBaseS`).

    Args:
        suite: the algorithms.
        public: the receiver's public key, of the suite's KEM.
        info: what both sides must agree on.
        unsafe_ephemeral: see `Kem.encapsulate`; for published examples alone.

    Raises:
        MessageError: `public` is no public key of that KEM.
        SuiteError: the installed library does not have that KEM.
    """
    shared, enc = kem_of(suite.kem).encapsulate(public, unsafe_ephemeral=unsafe_ephemeral)
    return enc, Sender(suite, shared, info)


def setup_recipient(suite: Suite, enc: bytes, private: PrivateKey, info: bytes) -> Recipient:
    """The context of the message whose encapsulated key is `enc` (`SetupBaseR`).

    Raises:
        MessageError: `enc` is of the wrong length.
        OpenError: `enc` is no encapsulated key of the suite's KEM.
        SuiteError: the private key is one of another KEM.
    """
    kem: Kem = kem_of(suite.kem)
    if private.kem.id != suite.kem:
        raise SuiteError(f"the message is for a key of {kem.title}, but the key is of {private.kem.title}")
    if len(enc) != kem.enc_bytes:
        raise MessageError(f"an encapsulated key of {kem.title} has {kem.enc_bytes} bytes, not {len(enc)}")
    return Recipient(suite, kem.decapsulate(enc, private), info)
