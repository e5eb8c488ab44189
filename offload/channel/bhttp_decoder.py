"""Reading HTTP messages of RFC 9292, whole or as they arrive, within limits.

One parser reads both forms: a generator that asks for bytes and stops where they are missing, so that a
message cut into pieces anywhere gives the same events as the whole one.

Strict where the RFC leaves room: no pseudo-fields, padding must be zero, and a message may be cut only
before the length of a section (section 3.8). Names of fields are read in any case and given in lower case.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from offload.channel import varint
from offload.channel.bhttp import (
    Fields,
    Framing,
    Request,
    RequestHead,
    Response,
    ResponseHead,
    check_fields,
    check_request_head,
)
from offload.channel.errors import LimitError, MessageError, StreamStateError, TruncatedError

__all__ = ["Content", "Decoder", "End", "Event", "Limits", "decode", "decode_request", "decode_response"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a reader accepts at most: bytes, or numbers of lines."""

    control: int = 8192
    """Bytes of the method, scheme, authority and path, each."""
    section: int = 32 * 1024
    """Bytes of a section of fields."""
    fields: int = 128
    """Lines of a section of fields."""
    informational: int = 16
    """Informational (1xx) responses."""
    content: int = 4 * 1024 * 1024
    """Bytes of content."""
    padding: int = 1024 * 1024
    """Bytes of padding."""


@dataclass(frozen=True, slots=True)
class Content:
    """A piece of content. Where pieces are cut means nothing."""

    data: bytes


@dataclass(frozen=True, slots=True)
class End:
    """Content and trailers are complete. Padding may follow; only `Decoder.finish` ends a message."""

    trailers: Fields = ()


Event = RequestHead | ResponseHead | Content | End
_Steps = Generator[None, None, int]
_Bytes = Generator[None, None, bytes]


class Decoder:
    """Reads one message as it arrives: head (after informational ones), pieces of content, end.

    A message is complete when `finish` has returned, never before: the bytes may come from a stream that was
    cut off. After an error the decoder is of no more use.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._buffer = bytearray()
        self._ended = False
        self._failed = False
        self._events: list[Event] = []
        self._parser = self._parse()
        next(self._parser)

    def feed(self, data: bytes) -> list[Event]:
        """What became known with these bytes.

        Raises:
            MessageError: the message is not valid.
            LimitError: a part of it is larger than allowed.
            StreamStateError: it was finished, or has failed before.
        """
        self._buffer += data
        return self._step()

    def finish(self) -> list[Event]:
        """What becomes known with the end of the bytes; the message is complete when this returns.

        Raises:
            TruncatedError: the bytes end where a message cannot.
            StreamStateError: it was finished, or has failed before.
        """
        return self._step(ended=True)

    def _step(self, ended: bool = False) -> list[Event]:
        if self._failed or self._ended:
            raise StreamStateError(
                "this decoder was finished, or has failed; take a new one for each message"
            )
        self._ended = ended
        self._failed = True  # until the step has gone well
        next(self._parser)
        self._failed = False
        events, self._events = self._events, []
        return events

    # The parser: each `yield` waits for more bytes or the end of them.

    def _parse(self) -> Generator[None, None, None]:
        yield
        framing = yield from self._varint("framing indicator")
        if framing not in range(4):
            raise MessageError(f"{framing} is no framing indicator of RFC 9292 (0 to 3)")
        known = framing in (Framing.KNOWN_REQUEST, Framing.KNOWN_RESPONSE)
        if framing in (Framing.KNOWN_REQUEST, Framing.INDETERMINATE_REQUEST):
            yield from self._request_head(known)
        else:
            yield from self._response_heads(known)
        if known:
            yield from self._known_content()
        else:
            yield from self._indeterminate_content()
        trailers = yield from self._section(known, "trailers")
        self._events.append(End(trailers))
        yield from self._padding()

    def _request_head(self, known: bool) -> Generator[None, None, None]:
        parts = []
        for what in ("method", "scheme", "authority", "path"):
            length = yield from self._varint(f"length of the {what}")
            self._check(length, self._limits.control, f"the {what}", "bytes")
            raw = yield from self._take(length, what)
            try:
                parts.append(raw.decode("ascii"))
            except UnicodeDecodeError as error:
                raise MessageError(f"the {what} of a request is not ASCII") from error
        fields = yield from self._section(known, "header")
        head = RequestHead(parts[0], parts[1], parts[2], parts[3], fields)
        check_request_head(head)
        self._events.append(head)

    def _response_heads(self, known: bool) -> Generator[None, None, None]:
        for _ in range(self._limits.informational + 1):
            status = yield from self._varint("status code")
            if not 100 <= status <= 599:
                raise MessageError(f"{status} is no status code (100 to 599)")
            fields = yield from self._section(known, "header")
            self._events.append(ResponseHead(status, fields))
            if status >= 200:
                return
        raise LimitError(f"more than {self._limits.informational} informational responses")

    def _section(self, known: bool, what: str) -> Generator[None, None, Fields]:
        if (yield from self._at_end()):
            return ()
        lines: list[tuple[str, str]] = []
        if known:
            length = yield from self._varint(f"length of the {what}")
            self._check(length, self._limits.section, f"the {what}", "bytes")
            raw = yield from self._take(length, what)
            position = 0
            while position < length:
                name, position = _prefixed(raw, position, what)
                value, position = _prefixed(raw, position, what)
                self._line(lines, name, value, what)
            return check_fields(tuple(lines))
        size = 0
        while length := (yield from self._varint(f"length of a name in the {what}")):
            self._check(size := size + length, self._limits.section, f"the {what}", "bytes")
            name = yield from self._take(length, what)
            length = yield from self._varint(f"length of a value in the {what}")
            self._check(size := size + length, self._limits.section, f"the {what}", "bytes")
            value = yield from self._take(length, what)
            self._line(lines, name, value, what)
        return check_fields(tuple(lines))

    def _line(self, lines: list[tuple[str, str]], name: bytes, value: bytes, what: str) -> None:
        self._check(len(lines) + 1, self._limits.fields, f"the {what}", "lines")
        lines.append((name.decode("latin-1"), value.decode("latin-1")))

    def _known_content(self) -> Generator[None, None, None]:
        if (yield from self._at_end()):
            return
        left = yield from self._varint("length of the content")
        self._check(left, self._limits.content, "the content", "bytes")
        while left:
            left -= yield from self._some_content(left)

    def _indeterminate_content(self) -> Generator[None, None, None]:
        if (yield from self._at_end()):
            return
        size = 0
        while left := (yield from self._varint("length of a piece of content")):
            self._check(size := size + left, self._limits.content, "the content", "bytes")
            while left:
                left -= yield from self._some_content(left)

    def _some_content(self, most: int) -> _Steps:
        while not self._buffer:
            if self._ended:
                raise TruncatedError("the message ends within its content")
            yield
        data = bytes(self._buffer[:most])
        del self._buffer[: len(data)]
        self._events.append(Content(data))
        return len(data)

    def _padding(self) -> Generator[None, None, None]:
        size = 0
        while True:
            self._check(size := size + len(self._buffer), self._limits.padding, "the padding", "bytes")
            if self._buffer.count(0) != len(self._buffer):
                raise MessageError("the padding after the message is not zero")
            self._buffer.clear()
            yield

    def _at_end(self) -> Generator[None, None, bool]:
        while not self._buffer:
            if self._ended:
                return True
            yield
        return False

    def _varint(self, what: str) -> _Steps:
        first = yield from self._take(1, what)
        rest = yield from self._take(varint.size(first[0]) - 1, what)
        return varint.decode(first + rest)

    def _take(self, length: int, what: str) -> _Bytes:
        while len(self._buffer) < length:
            if self._ended:
                raise TruncatedError(f"the message ends within its {what}")
            yield
        data = bytes(self._buffer[:length])
        del self._buffer[:length]
        return data

    @staticmethod
    def _check(value: int, limit: int, what: str, unit: str) -> None:
        if value > limit:
            raise LimitError(f"{what} of a message has {value} {unit}, but {limit} are allowed")


def _prefixed(raw: bytes, position: int, what: str) -> tuple[bytes, int]:
    """A text with its length before it; both must lie within `raw`."""
    if position < len(raw):
        start = position + varint.size(raw[position])
        if start <= len(raw):
            stop = start + varint.decode(raw[position:start])
            if stop <= len(raw):
                return raw[start:stop], stop
    raise MessageError(f"a field reaches beyond the end of the {what}")


def decode(data: bytes, limits: Limits | None = None) -> Request | Response:
    """A whole message.

    Raises:
        MessageError: it is not valid, or cut off.
        LimitError: a part of it is larger than allowed.
    """
    decoder = Decoder(limits)
    events = [*decoder.feed(data), *decoder.finish()]
    content = b"".join(event.data for event in events if isinstance(event, Content))
    trailers = next(event.trailers for event in events if isinstance(event, End))
    heads = [event for event in events if isinstance(event, RequestHead | ResponseHead)]
    head = heads.pop()
    if isinstance(head, RequestHead):
        return Request(head, content, trailers)
    return Response(head, content, trailers, tuple(head for head in heads if isinstance(head, ResponseHead)))


def decode_request(data: bytes, limits: Limits | None = None) -> Request:
    """A whole request; as `decode`, and a response is a `MessageError`."""
    message = decode(data, limits)
    if not isinstance(message, Request):
        raise MessageError("the message is a response where a request is due")
    return message


def decode_response(data: bytes, limits: Limits | None = None) -> Response:
    """A whole response; as `decode`, and a request is a `MessageError`."""
    message = decode(data, limits)
    if not isinstance(message, Response):
        raise MessageError("the message is a request where a response is due")
    return message
