"""Oblivious HTTP in chunks (draft-ietf-ohai-chunked-ohttp-08): requests and answers that stream.

Every chunk is sealed by itself, its place in the order is in its nonce, and the last one is sealed with the
associated data `final`. An opener's message is complete when `finish` has returned, and never before: the end
of a connection proves nothing.

Does not know: sockets, HTTP, what the messages say.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag

from offload.channel import varint
from offload.channel.errors import LimitError, OpenError, StreamStateError, TruncatedError
from offload.channel.hpke import TAG_BYTES, Recipient, Suite, chunk_nonce
from offload.channel.kem import PrivateKey, kem_of
from offload.channel.keyconfig import GatewayKey, KeyConfig
from offload.channel.ohttp import (
    HEADER_BYTES,
    Header,
    Labels,
    ReplyKey,
    replay_id,
    setup_client,
    setup_gateway,
)

__all__ = [
    "CHUNKED",
    "CHUNK_BYTES",
    "REQUEST_TYPE",
    "RESPONSE_TYPE",
    "ChunkLimits",
    "RequestOpener",
    "RequestSealer",
    "ResponseOpener",
    "ResponseSealer",
]

REQUEST_TYPE = "message/ohttp-chunked-req"
RESPONSE_TYPE = "message/ohttp-chunked-res"

CHUNKED = Labels(b"message/bhttp chunked request", b"message/bhttp chunked response")

CHUNK_BYTES = 1 << 14
"""Bytes of text in a chunk that every receiver takes (section 3); our sealers make no larger ones."""

_FINAL = b"final"


@dataclass(frozen=True, slots=True)
class ChunkLimits:
    """What an opener accepts at most."""

    chunk: int = CHUNK_BYTES
    """Bytes of text in one chunk; never less than `CHUNK_BYTES`, which everybody must take."""
    chunks: int = 1 << 20
    """Chunks of a message."""
    total: int = 8 * 1024 * 1024
    """Bytes of text of a message."""

    def __post_init__(self) -> None:
        if self.chunk < CHUNK_BYTES:
            raise ValueError(f"chunk must be {CHUNK_BYTES} or more, but it is {self.chunk}")


class _Sealer:
    """Frames sealed chunks; the subclass seals them."""

    def __init__(self, head: bytes) -> None:
        self._head = head
        self._ended = False

    def seal(self, data: bytes, *, final: bool = False) -> bytes:
        """The next bytes of the message, which hold `data`; the first call's begin with the header.

        An empty `data` that is not final seals an empty chunk, which keeps a connection awake.

        Raises:
            StreamStateError: the final chunk was sealed before.
        """
        if self._ended:
            raise StreamStateError("the final chunk of this message was sealed; begin a new message")
        self._ended = final
        pieces = [self._head]
        self._head = b""
        *whole, last = [data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES)] or [b""]
        for piece in whole:
            pieces += self._framed(piece)
        pieces += self._framed(last, final)
        return b"".join(pieces)

    def _framed(self, piece: bytes, final: bool = False) -> tuple[bytes, bytes]:
        sealed = self._seal(piece, _FINAL if final else b"")
        return varint.encode(0 if final else len(sealed)), sealed

    def _seal(self, piece: bytes, aad: bytes) -> bytes:
        raise NotImplementedError


class RequestSealer(_Sealer):
    """Seals one request to a gateway's key, in chunks; `reply` opens its answer.

    Args:
        config: the gateway's key.
        suite: the algorithms; `None` for those of `KeyConfig.suite`.
        unsafe_ephemeral: see `Kem.encapsulate`; for published examples alone.

    Raises:
        SuiteError: the configuration does not offer the suite, or this installation does not have it.
    """

    def __init__(
        self, config: KeyConfig, suite: Suite | None = None, *, unsafe_ephemeral: PrivateKey | None = None
    ) -> None:
        head, self._sender, self.reply = setup_client(
            config, suite or config.suite(), CHUNKED, unsafe_ephemeral=unsafe_ephemeral
        )
        super().__init__(head)

    def _seal(self, piece: bytes, aad: bytes) -> bytes:
        return self._sender.seal(piece, aad)


class ResponseSealer(_Sealer):
    """Seals the answer to one request, in chunks. `random` gives the nonce, fresh for every answer."""

    def __init__(self, reply: ReplyKey, *, random: Callable[[int], bytes] = os.urandom) -> None:
        nonce = random(reply.nonce_bytes)
        self._cipher, self._base = reply.derive(nonce)
        self._counter = 0
        super().__init__(nonce)

    def _seal(self, piece: bytes, aad: bytes) -> bytes:
        sealed = self._cipher.encrypt(chunk_nonce(self._base, self._counter), piece, aad)
        self._counter += 1
        return sealed


class _Opener:
    """Takes framing apart; the subclass reads the header and opens chunks.

    `complete` is true after `finish` has returned. An error ends an opener: what follows cannot be trusted.
    """

    def __init__(self, limits: ChunkLimits | None) -> None:
        self._limits = limits or ChunkLimits()
        self._buffer = bytearray()
        self._began = False
        self._in_final = False
        self._failed = False
        self._chunks = 0
        self._total = 0
        self.complete = False

    def feed(self, data: bytes) -> list[bytes]:
        """The texts of the chunks that are whole with these bytes. The last chunk's comes from `finish`.

        Raises:
            OpenError: a chunk was damaged, left out, repeated or moved, or is of another message.
            LimitError: a chunk or the message is larger than allowed.
            StreamStateError: the message was finished, or has failed before.
        """
        with self._only_while_sound():
            self._buffer += data
            return list(self._whole_chunks())

    def finish(self) -> bytes:
        """The text of the last chunk, when the bytes have ended; with it the message is complete.

        Raises:
            TruncatedError: the last chunk has not come: the message was cut off, whatever was read of it.
            OpenError: the last chunk was damaged or cut off, or is not the last one.
            StreamStateError: the message was finished, or has failed before.
        """
        with self._only_while_sound():
            if not self._in_final:
                raise TruncatedError("the message was cut off: its final chunk has not come")
            if len(self._buffer) < TAG_BYTES:
                raise TruncatedError("the message was cut off within its final chunk")
            opened = self._count(self._open(bytes(self._buffer), _FINAL))
            self.complete = True
            return opened

    def _whole_chunks(self) -> Iterator[bytes]:
        if not self._began:
            self._began = self._read_head()
        while self._began and not self._in_final and self._buffer:
            width = varint.size(self._buffer[0])
            if len(self._buffer) < width:
                return
            length = varint.decode(bytes(self._buffer[:width]))
            if length == 0:
                del self._buffer[:width]
                self._in_final = True
                break
            self._check_length(length)
            if len(self._buffer) < width + length:
                return
            sealed = bytes(self._buffer[width : width + length])
            del self._buffer[: width + length]
            yield self._count(self._open(sealed, b""))
        if self._in_final:
            self._check_length(max(len(self._buffer), TAG_BYTES))

    def _check_length(self, length: int) -> None:
        if length < TAG_BYTES:
            raise OpenError(f"a chunk of {length} bytes is too short to be a sealed one")
        if length > self._limits.chunk + TAG_BYTES:
            raise LimitError(
                f"a chunk holds {length - TAG_BYTES} bytes, but {self._limits.chunk} are allowed"
            )

    def _count(self, opened: bytes) -> bytes:
        self._chunks += 1
        self._total += len(opened)
        if self._chunks > self._limits.chunks:
            raise LimitError(f"the message has more than {self._limits.chunks} chunks")
        if self._total > self._limits.total:
            raise LimitError(f"the message has more than {self._limits.total} bytes")
        return opened

    @contextmanager
    def _only_while_sound(self) -> Iterator[None]:
        if self._failed or self.complete:
            raise StreamStateError("this message was finished, or has failed; nothing more can be read of it")
        self._failed = True  # until the step has gone well
        yield
        self._failed = False

    def _take(self, length: int) -> bytes:
        taken = bytes(self._buffer[:length])
        del self._buffer[:length]
        return taken

    def _read_head(self) -> bool:
        """Read the header when it is whole; whether it was."""
        raise NotImplementedError

    def _open(self, sealed: bytes, aad: bytes) -> bytes:
        raise NotImplementedError


class RequestOpener(_Opener):
    """Opens a request in chunks, for the gateway.

    Once the header is there, `reply` seals the answer and `replay_id` says whether the request came before:
    look at it before acting on anything that was read.

    Args:
        keys: the gateway's keys by number.
        limits: what is accepted at most.

    Beside what its methods name, `feed` raises SuiteError, UnknownKeyError and OpenError for a header that no
    key of this gateway fits.
    """

    def __init__(self, keys: Mapping[int, GatewayKey], limits: ChunkLimits | None = None) -> None:
        super().__init__(limits)
        self._keys = keys
        self._recipient: Recipient | None = None
        self.header: Header | None = None
        self.reply: ReplyKey | None = None

    @property
    def replay_id(self) -> bytes | None:
        """See `ohttp.replay_id`; `None` before the header is there."""
        return None if self.reply is None else replay_id(self.reply.enc)

    def _read_head(self) -> bool:
        if len(self._buffer) < HEADER_BYTES:
            return False
        # A header that fits no key is refused before its encapsulated key is waited for.
        enc_bytes = kem_of(Header.decode(bytes(self._buffer[:HEADER_BYTES])).suite.kem).enc_bytes
        if len(self._buffer) < HEADER_BYTES + enc_bytes:
            return False
        header, enc = self._take(HEADER_BYTES), self._take(enc_bytes)
        self.header, self._recipient, self.reply = setup_gateway(self._keys, header, enc, CHUNKED)
        return True

    def _open(self, sealed: bytes, aad: bytes) -> bytes:
        if self._recipient is None:
            raise StreamStateError("a chunk cannot be opened before the header is there")
        return self._recipient.open(sealed, aad)


class ResponseOpener(_Opener):
    """Opens the answer to the request that `reply` belongs to, in chunks, for the client."""

    def __init__(self, reply: ReplyKey, limits: ChunkLimits | None = None) -> None:
        super().__init__(limits)
        self._reply = reply
        self._counter = 0

    def _read_head(self) -> bool:
        if len(self._buffer) < self._reply.nonce_bytes:
            return False
        self._cipher, self._base = self._reply.derive(self._take(self._reply.nonce_bytes))
        return True

    def _open(self, sealed: bytes, aad: bytes) -> bytes:
        try:
            opened = self._cipher.decrypt(chunk_nonce(self._base, self._counter), sealed, aad)
        except InvalidTag as error:
            raise OpenError(
                "a chunk of the answer was damaged, left out, repeated or moved, or answers another request"
            ) from error
        self._counter += 1
        return opened
