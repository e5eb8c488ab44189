"""HTTP messages as bytes (RFC 9292): what an encapsulated message holds.

Two forms: of known length, and of indeterminate length for what is generated piece by piece. `encode_request`
and `encode_response` write whole messages, `encode_head`, `encode_content` and `encode_end` one of
indeterminate length as it grows; `offload.channel.bhttp_decoder` reads all of them.

Names of fields are lower-case ASCII; values are texts of the characters U+0000 to U+00FF, one per byte, as
WSGI has them. Connection fields (RFC 9110, section 7.6.1) are left out on the way, as RFC 9292 wants.

Does not know: encryption, and what the fields mean.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from offload.channel import varint
from offload.channel.errors import MessageError

__all__ = [
    "CONNECTION_FIELDS",
    "CONTENT_TYPE",
    "Fields",
    "Framing",
    "Request",
    "RequestHead",
    "Response",
    "ResponseHead",
    "check_fields",
    "check_request_head",
    "encode_content",
    "encode_end",
    "encode_head",
    "encode_request",
    "encode_response",
    "field_value",
]

CONTENT_TYPE = "message/bhttp"

Fields = tuple[tuple[str, str], ...]
"""Field lines in order: (name, value)."""

CONNECTION_FIELDS = frozenset(
    {"connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade"}
)
"""Fields about one connection; they mean nothing in a message that is carried as bytes."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, section 5.6.2
_VALUE = re.compile(r"(?![ \t])[\t -~\x80-\xff]*(?<![ \t])")  # RFC 9110, section 5.5
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")  # RFC 3986, section 3.1
_AUTHORITY = re.compile(r"[!$&'()*+,;=:%._~\[\]0-9A-Za-z-]*")  # RFC 3986, section 3.2, without userinfo
_PATH = re.compile(r"/[!-\"$-~]*")  # visible ASCII without the mark of a fragment


class Framing:
    """The first integer of a message (RFC 9292, section 3.3)."""

    KNOWN_REQUEST = 0
    KNOWN_RESPONSE = 1
    INDETERMINATE_REQUEST = 2
    INDETERMINATE_RESPONSE = 3


@dataclass(frozen=True, slots=True)
class RequestHead:
    """Control data and header fields of a request. `authority` may be empty, as with a `host` field."""

    method: str
    scheme: str
    authority: str
    path: str
    fields: Fields = ()


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """Status code (100 to 599) and header fields of a response."""

    status: int
    fields: Fields = ()


@dataclass(frozen=True, slots=True)
class Request:
    """A whole request."""

    head: RequestHead
    content: bytes = b""
    trailers: Fields = ()


@dataclass(frozen=True, slots=True)
class Response:
    """A whole response; `informational` are the 1xx ones that came before it."""

    head: ResponseHead
    content: bytes = b""
    trailers: Fields = ()
    informational: tuple[ResponseHead, ...] = field(default=())


def field_value(fields: Fields, name: str) -> str | None:
    """The value of the only field with that (lower-case) name; `None` when there is none.

    Raises:
        MessageError: there are several; which one would hold is not for a reader to guess.
    """
    values = [value for key, value in fields if key == name]
    if len(values) > 1:
        raise MessageError(f"the field '{name}' stands {len(values)} times in a message, once is allowed")
    return values[0] if values else None


def encode_request(request: Request, *, indeterminate: bool = False, trim: bool = False) -> bytes:
    """A request as bytes.

    Args:
        request: what is to be written.
        indeterminate: the form of indeterminate length instead of the one of known length.
        trim: leave out empty sections at the end (RFC 9292, section 3.8).

    Raises:
        MessageError: a part is not valid in HTTP; names it.
    """
    control = _request_control(request.head)
    return _encode(control, request.head.fields, request.content, request.trailers, 0, indeterminate, trim)


def encode_response(response: Response, *, indeterminate: bool = False, trim: bool = False) -> bytes:
    """A response as bytes; see `encode_request`."""
    control = b""
    for head in response.informational:
        if not 100 <= head.status < 200:
            raise MessageError(f"an informational response has a status from 100 to 199, not {head.status}")
        control += varint.encode(head.status) + _section(head.fields, indeterminate)
    control += _final_status(response.head)
    return _encode(control, response.head.fields, response.content, response.trailers, 1, indeterminate, trim)


def encode_head(head: RequestHead | ResponseHead) -> bytes:
    """The beginning of a message of indeterminate length; `encode_content` and `encode_end` go on.

    Raises:
        MessageError: a part is not valid in HTTP; names it.
    """
    if isinstance(head, RequestHead):
        framing, control = Framing.INDETERMINATE_REQUEST, _request_control(head)
    else:
        framing, control = Framing.INDETERMINATE_RESPONSE, _final_status(head)
    return varint.encode(framing) + control + _section(head.fields, indeterminate=True)


def encode_content(data: bytes) -> bytes:
    """A piece of content of indeterminate length; nothing for an empty piece, which would be the end."""
    return varint.encode(len(data)) + data if data else b""


def encode_end(trailers: Fields = (), padding: int = 0) -> bytes:
    """The end of a message of indeterminate length: trailers and `padding` zero bytes."""
    return varint.encode(0) + _section(trailers, indeterminate=True) + bytes(padding)


def check_request_head(head: RequestHead) -> None:
    """Nothing, when method and target follow HTTP/2's rules (RFC 9113, section 8.3.1).

    CONNECT and userinfo are refused: the first makes no sense here, the second is deprecated.

    Raises:
        MessageError: names the part and its value.
    """
    for what, pattern, value in (
        ("method", _TOKEN, head.method),
        ("scheme", _SCHEME, head.scheme),
        ("authority", _AUTHORITY, head.authority),
    ):
        if not pattern.fullmatch(value):
            raise MessageError(f"the {what} {value[:80]!r} of a request is not valid")
    if not _PATH.fullmatch(head.path) and not (head.path == "*" and head.method == "OPTIONS"):
        raise MessageError(
            f"the path {head.path[:80]!r} of a request must begin with '/' and be visible ASCII"
        )


def check_fields(fields: Fields) -> Fields:
    """The fields with lower-case names, when they are valid (RFC 9110, section 5; RFC 9113, section 8.2.1).

    Pseudo-fields are none: RFC 9292 has control data in their place.

    Raises:
        MessageError: names the field; a value may be secret and is not shown.
    """
    for name, value in fields:
        if not _TOKEN.fullmatch(name):
            raise MessageError(f"{name[:80]!r} is not the name of a field")
        if not _VALUE.fullmatch(value):
            raise MessageError(
                f"the value of the field '{name[:80]}' holds a control character, or a space at an end"
            )
    return tuple((name.lower(), value) for name, value in fields)


def _request_control(head: RequestHead) -> bytes:
    check_request_head(head)
    parts = (head.method, head.scheme, head.authority, head.path)
    return b"".join(varint.encode(len(part)) + part.encode("ascii") for part in parts)


def _final_status(head: ResponseHead) -> bytes:
    if not 200 <= head.status <= 599:
        raise MessageError(f"a response has a status from 200 to 599, not {head.status}")
    return varint.encode(head.status)


def _section(fields: Fields, indeterminate: bool) -> bytes:
    lines = b"".join(
        varint.encode(len(name)) + name.encode("ascii") + varint.encode(len(value)) + value.encode("latin-1")
        for name, value in check_fields(fields)
        if name not in CONNECTION_FIELDS
    )
    return lines + varint.encode(0) if indeterminate else varint.encode(len(lines)) + lines


def _encode(
    control: bytes,
    fields: Fields,
    content: bytes,
    trailers: Fields,
    kind: int,
    indeterminate: bool,
    trim: bool,
) -> bytes:
    sections = [_section(fields, indeterminate), b"", _section(trailers, indeterminate)]
    if indeterminate:
        sections[1] = encode_content(content) + varint.encode(0)
    else:
        sections[1] = varint.encode(len(content)) + content
    while trim and sections and sections[-1] == b"\x00":  # an empty section has the same form either way
        sections.pop()
    return varint.encode(kind + 2 * indeterminate) + control + b"".join(sections)
