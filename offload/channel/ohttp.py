"""Oblivious HTTP (RFC 9458): a message sealed to a gateway's key, and its answer, for the sender alone.

This module has messages in one piece, and what they share with those in chunks (`offload.channel.chunked`):
the header, and the key of the answer. Sealing is fresh for every attempt; nothing sealed is stored or sent
twice, because the gateway takes each encapsulated key once (section 6.5).

Does not know: sockets, HTTP, what the messages say.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from offload.channel.errors import MessageError, OpenError, SuiteError, TruncatedError, UnknownKeyError
from offload.channel.hpke import (
    NONCE_BYTES,
    TAG_BYTES,
    AeadId,
    Recipient,
    Sender,
    Suite,
    aead_cipher,
    setup_recipient,
    setup_sender,
)
from offload.channel.kem import PrivateKey, expand, extract, kem_of
from offload.channel.keyconfig import GatewayKey, KeyConfig

__all__ = [
    "HEADER_BYTES",
    "PLAIN",
    "REQUEST_TYPE",
    "RESPONSE_TYPE",
    "Header",
    "Labels",
    "OpenedRequest",
    "ReplyKey",
    "open_request",
    "open_response",
    "replay_id",
    "seal_request",
    "seal_response",
    "setup_client",
    "setup_gateway",
]

REQUEST_TYPE = "message/ohttp-req"
RESPONSE_TYPE = "message/ohttp-res"

HEADER_BYTES = 7
"""Number of the key and of the three algorithms."""


@dataclass(frozen=True, slots=True)
class Labels:
    """What keeps messages of different kinds apart: both sides must mean the same."""

    request: bytes
    response: bytes


PLAIN = Labels(b"message/bhttp request", b"message/bhttp response")
"""A binary HTTP message in one piece (sections 4.3 and 4.4)."""


@dataclass(frozen=True, slots=True)
class Header:
    """The beginning of an encapsulated request: which key, which algorithms."""

    key_id: int
    suite: Suite

    def encode(self) -> bytes:
        """Its 7 bytes."""
        return self.key_id.to_bytes(1, "big") + self.suite.encode()

    @classmethod
    def decode(cls, data: bytes) -> Header:
        """Read 7 bytes.

        Raises:
            TruncatedError: they are fewer.
            SuiteError: an algorithm is none of ours.
        """
        if len(data) < HEADER_BYTES:
            raise TruncatedError(f"an encapsulated request begins with {HEADER_BYTES} bytes, not {len(data)}")
        kem, kdf, aead = (int.from_bytes(data[at : at + 2], "big") for at in (1, 3, 5))
        return cls(data[0], Suite.of(kem, kdf, aead))

    def info(self, label: bytes) -> bytes:
        """What HPKE binds a request to: a changed header is noticed (section 4.3)."""
        return label + b"\x00" + self.encode()


@dataclass(frozen=True, slots=True, repr=False)
class ReplyKey:
    """What seals and opens the answer to one request: the exported secret and the encapsulated key.

    The client may keep it to open an answer that comes late, after a restart even (`encode`, encrypted where
    it lies: who has it can read the answer). It says nothing about the request.
    """

    aead: AeadId
    secret: bytes
    enc: bytes

    def __repr__(self) -> str:
        return f"ReplyKey({self.aead.name}, request {replay_id(self.enc).hex()[:16]})"

    @property
    def nonce_bytes(self) -> int:
        """Length of the nonce before an answer: max(Nn, Nk)."""
        return max(NONCE_BYTES, self.aead.key_bytes)

    def derive(self, nonce: bytes) -> tuple[AESGCM | ChaCha20Poly1305, bytes]:
        """The answer's cipher and its (base) nonce (section 4.4)."""
        secret = extract(self.enc + nonce, self.secret)
        key = expand(secret, b"key", self.aead.key_bytes)
        return aead_cipher(self.aead, key), expand(secret, b"nonce", NONCE_BYTES)

    def encode(self) -> bytes:
        """As bytes: format (1), number of the AEAD, secret, encapsulated key."""
        return b"\x01" + self.aead.to_bytes(2, "big") + self.secret + self.enc

    @classmethod
    def decode(cls, data: bytes) -> ReplyKey:
        """Read what `encode` wrote.

        Raises:
            MessageError: it is something else.
        """
        aead = AeadId.known(int.from_bytes(data[1:3], "big")) if data[:1] == b"\x01" else None
        if aead is None:
            raise MessageError("these bytes are no kept key of an answer")
        size = max(NONCE_BYTES, aead.key_bytes)
        if len(data) <= 3 + size:
            raise TruncatedError("a kept key of an answer that was cut off")
        return cls(aead, data[3 : 3 + size], data[3 + size :])


@dataclass(frozen=True, slots=True)
class OpenedRequest:
    """What a gateway reads from a request."""

    message: bytes
    reply: ReplyKey
    key_id: int

    @property
    def replay_id(self) -> bytes:
        """32 bytes that no other request has; see `replay_id`."""
        return replay_id(self.reply.enc)


def replay_id(enc: bytes) -> bytes:
    """SHA-256 of the encapsulated key, which is fresh for every sealing: 32 bytes.

    A gateway remembers it for as long as it has the private key, and refuses it when it comes again. That
    needs no clock (RFC 9458, section 6.5).
    """
    return hashlib.sha256(enc).digest()


def setup_client(
    config: KeyConfig, suite: Suite, labels: Labels, *, unsafe_ephemeral: PrivateKey | None = None
) -> tuple[bytes, Sender, ReplyKey]:
    """Begin a request: its first bytes, what seals it, and the key of its answer.

    Raises:
        SuiteError: the configuration does not offer the suite, or this installation does not have it.
    """
    if not config.takes(suite):
        raise SuiteError(f"key {config.key_id} does not offer {suite.kem.name} with {suite.aead.name}")
    header = Header(config.key_id, suite)
    enc, sender = setup_sender(
        suite, config.public, header.info(labels.request), unsafe_ephemeral=unsafe_ephemeral
    )
    return header.encode() + enc, sender, _reply_key(sender, enc, labels)


def setup_gateway(
    keys: Mapping[int, GatewayKey], header: bytes, enc: bytes, labels: Labels
) -> tuple[Header, Recipient, ReplyKey]:
    """Meet a request: its header, what opens it, and the key of its answer.

    Raises:
        TruncatedError: the header or the encapsulated key is too short.
        SuiteError: the key does not offer these algorithms (nothing weaker is ever agreed on).
        UnknownKeyError: there is no key of that number.
        OpenError: `enc` is no encapsulated key.
    """
    read = Header.decode(header)
    key = keys.get(read.key_id)
    if key is None:
        raise UnknownKeyError(
            f"no key has the number {read.key_id}; it may have been retired. "
            "The sender needs the current key configuration"
        )
    if not key.config.takes(read.suite):
        raise SuiteError(
            f"key {read.key_id} does not offer {read.suite.kem.name} with {read.suite.aead.name}"
        )
    recipient = setup_recipient(read.suite, enc, key.private, read.info(labels.request))
    return read, recipient, _reply_key(recipient, enc, labels)


def seal_request(
    config: KeyConfig,
    message: bytes,
    *,
    suite: Suite | None = None,
    unsafe_ephemeral: PrivateKey | None = None,
) -> tuple[bytes, ReplyKey]:
    """An encapsulated request in one piece, and the key of its answer (section 4.3).

    Args:
        config: the gateway's key.
        message: a binary HTTP request.
        suite: the algorithms; `None` for those of `KeyConfig.suite`.
        unsafe_ephemeral: see `Kem.encapsulate`; for published examples alone.

    Raises:
        SuiteError: the configuration does not offer the suite, or this installation does not have it.
    """
    head, sender, reply = setup_client(
        config, suite or config.suite(), PLAIN, unsafe_ephemeral=unsafe_ephemeral
    )
    return head + sender.seal(message), reply


def open_request(keys: Mapping[int, GatewayKey], data: bytes) -> OpenedRequest:
    """A request in one piece, for the gateway.

    Args:
        keys: the gateway's keys by number.
        data: the body of a request of type `REQUEST_TYPE`.

    Raises:
        TruncatedError, SuiteError, UnknownKeyError, OpenError: see `setup_gateway`; the message was changed
            or sealed to another key.
    """
    stop = HEADER_BYTES + kem_of(Header.decode(data).suite.kem).enc_bytes
    if len(data) < stop + TAG_BYTES:
        raise TruncatedError(f"an encapsulated request of {len(data)} bytes was cut off")
    header, recipient, reply = setup_gateway(keys, data[:HEADER_BYTES], data[HEADER_BYTES:stop], PLAIN)
    return OpenedRequest(recipient.open(data[stop:]), reply, header.key_id)


def seal_response(reply: ReplyKey, message: bytes, *, random: Callable[[int], bytes] = os.urandom) -> bytes:
    """An encapsulated answer in one piece (section 4.4). `random` gives the nonce."""
    nonce = random(reply.nonce_bytes)
    cipher, base = reply.derive(nonce)
    return nonce + cipher.encrypt(base, message, b"")


def open_response(reply: ReplyKey, data: bytes) -> bytes:
    """The answer to the request that `reply` belongs to.

    Raises:
        TruncatedError: it was cut off before its content.
        OpenError: it was changed, cut off, or answers another request.
    """
    if len(data) < reply.nonce_bytes + TAG_BYTES:
        raise TruncatedError(f"an encapsulated answer of {len(data)} bytes was cut off")
    cipher, base = reply.derive(data[: reply.nonce_bytes])
    try:
        return cipher.decrypt(base, data[reply.nonce_bytes :], b"")
    except InvalidTag as error:
        raise OpenError("the answer was damaged, or answers another request") from error


def _reply_key(context: Sender | Recipient, enc: bytes, labels: Labels) -> ReplyKey:
    aead = context.suite.aead
    return ReplyKey(aead, context.export(labels.response, max(NONCE_BYTES, aead.key_bytes)), enc)
