"""Binary HTTP: what comes back, what is refused, and that pieces give the same as the whole."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offload.channel import (
    Content,
    Decoder,
    End,
    LimitError,
    Limits,
    MessageError,
    Request,
    RequestHead,
    Response,
    ResponseHead,
    StreamStateError,
    TruncatedError,
    decode_request,
    decode_response,
    encode_content,
    encode_end,
    encode_head,
    encode_request,
    encode_response,
    pad_message,
    varint,
)
from offload.channel.bhttp import field_value
from offload.channel.bhttp_decoder import decode

HEAD = RequestHead("POST", "https", "gateway.example", "/v1/chat", (("content-type", "application/json"),))
REQUEST = Request(HEAD, b'{"q": 1}', (("checksum", "abc"),))

tokens = st.text("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=12)
values = st.text([chr(c) for c in (*range(0x21, 0x7F), *range(0x80, 0x100), 0x20, 0x09)], max_size=20).map(
    lambda text: text.strip(" \t")
)
fields = st.lists(st.tuples(tokens.filter(lambda name: name not in CONNECTION), values), max_size=5).map(
    tuple
)
CONNECTION = {"connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade"}
paths = st.text([chr(c) for c in range(0x21, 0x7F) if chr(c) != "#"], max_size=20).map(
    lambda text: "/" + text
)
requests = st.builds(
    Request,
    st.builds(
        RequestHead, tokens, st.just("https"), st.sampled_from(["", "a.example:8443", "[::1]"]), paths, fields
    ),
    st.binary(max_size=300),
    fields,
)
responses = st.builds(
    Response,
    st.builds(ResponseHead, st.integers(200, 599), fields),
    st.binary(max_size=300),
    fields,
    st.lists(st.builds(ResponseHead, st.integers(100, 199), fields), max_size=3).map(tuple),
)


def encode(message: Request | Response, **form: bool) -> bytes:
    return (
        encode_request(message, **form) if isinstance(message, Request) else encode_response(message, **form)
    )


@given(
    message=st.one_of(requests, responses),
    indeterminate=st.booleans(),
    trim=st.booleans(),
    padding=st.integers(0, 40),
    data=st.data(),
)
@settings(deadline=None)
def test_every_message_comes_back_in_every_form_whole_and_in_pieces(
    message: Request | Response, indeterminate: bool, trim: bool, padding: int, data: st.DataObject
) -> None:
    encoded = encode(message, indeterminate=indeterminate, trim=trim) + bytes(padding)
    assert decode(encoded) == message
    cuts = sorted(data.draw(st.lists(st.integers(0, len(encoded)), max_size=6)))
    decoder = Decoder()
    events = [
        event
        for start, stop in zip([0, *cuts], [*cuts, len(encoded)], strict=True)
        for event in decoder.feed(encoded[start:stop])
    ]
    events += decoder.finish()
    heads = [event for event in events if isinstance(event, RequestHead | ResponseHead)]
    assert heads[-1] == message.head
    assert b"".join(event.data for event in events if isinstance(event, Content)) == message.content
    assert [event for event in events if isinstance(event, End)] == [End(message.trailers)]


@given(message=st.one_of(requests, responses), indeterminate=st.booleans())
@settings(deadline=None)
def test_a_message_cut_off_gives_a_prefix_or_an_error_and_never_more(
    message: Request | Response, indeterminate: bool
) -> None:
    encoded = encode(message, indeterminate=indeterminate)
    for stop in range(0, len(encoded), 1 + len(encoded) // 100):
        try:
            read = decode(encoded[:stop])
        except TruncatedError:
            continue
        # RFC 9292, section 3.8: a cut before the length of a section reads as if it were empty.
        assert read.head in (message.head, type(message.head)(*_control(message.head)))
        assert read.content in (b"", message.content)
        assert read.trailers in ((), message.trailers)


def _control(head: Any) -> tuple[Any, ...]:
    if isinstance(head, RequestHead):
        return (head.method, head.scheme, head.authority, head.path)
    return (head.status,)


def test_a_growing_message_is_read_as_it_grows() -> None:
    decoder = Decoder()
    assert decoder.feed(encode_head(ResponseHead(200, (("content-type", "text/plain"),)))) == [
        ResponseHead(200, (("content-type", "text/plain"),))
    ]
    assert decoder.feed(encode_content(b"turn")) == [Content(b"turn")]
    assert encode_content(b"") == b""  # an empty piece would read as the end
    assert decoder.feed(encode_content(b"ed on")) == [Content(b"ed on")]
    assert decoder.feed(encode_end((("tokens", "2"),), padding=30)) == [End((("tokens", "2"),))]
    assert decoder.finish() == []
    with pytest.raises(StreamStateError):
        decoder.feed(b"")


def test_padding_to_a_bucket_changes_nothing_but_the_length() -> None:
    for trim in (False, True):
        padded = pad_message(encode_request(Request(HEAD), trim=trim))
        assert len(padded) == 512
        assert decode_request(padded) == Request(HEAD)


def test_padding_that_is_not_zero_is_refused() -> None:
    with pytest.raises(MessageError, match="padding after the message is not zero"):
        decode(encode_request(REQUEST) + b"\x00\x01")


def test_a_request_is_no_response_and_the_other_way_round() -> None:
    with pytest.raises(MessageError, match="a response where a request is due"):
        decode_request(encode_response(Response(ResponseHead(200))))
    with pytest.raises(MessageError, match="a request where a response is due"):
        decode_response(encode_request(REQUEST))


def test_connection_fields_are_left_out() -> None:
    head = RequestHead(
        "GET", "https", "", "/", (("Connection", "close"), ("te", "trailers"), ("Accept", "*/*"))
    )
    assert decode_request(encode_request(Request(head))).head.fields == (("accept", "*/*"),)


@pytest.mark.parametrize(
    ("head", "error"),
    [
        (RequestHead("", "https", "", "/"), "the method '' of a request is not valid"),
        (RequestHead("GE T", "https", "", "/"), "the method 'GE T'"),
        (RequestHead("GET", "ht/tp", "", "/"), "the scheme 'ht/tp'"),
        (RequestHead("GET", "https", "user:pass@host", "/"), "the authority 'user:pass@host'"),
        (RequestHead("GET", "https", "a b", "/"), "the authority 'a b'"),
        (RequestHead("GET", "https", "", "hello"), "the path 'hello' of a request must begin with '/'"),
        (RequestHead("GET", "https", "", "/a b"), "the path '/a b'"),
        (RequestHead("GET", "https", "", "/a#b"), "the path '/a#b'"),
        (RequestHead("GET", "https", "", "*"), "the path"),
        (RequestHead("GET", "https", "", ""), "the path ''"),
        (RequestHead("GET", "https", "", "/", ((":method", "GET"),)), "':method' is not the name of a field"),
        (RequestHead("GET", "https", "", "/", (("", "x"),)), "'' is not the name of a field"),
        (RequestHead("GET", "https", "", "/", (("a b", "x"),)), "'a b' is not the name"),
        (
            RequestHead("GET", "https", "", "/", (("a", "x\r\nb: y"),)),
            "the value of the field 'a' holds a control",
        ),
        (RequestHead("GET", "https", "", "/", (("a", "x\x00"),)), "the value of the field 'a'"),
        (RequestHead("GET", "https", "", "/", (("a", " x"),)), "a space at an end"),
        (RequestHead("GET", "https", "", "/", (("a", "x\t"),)), "a space at an end"),
        (RequestHead("GET", "https", "", "/", (("a", "日本"),)), "the value of the field 'a'"),
    ],
    ids=range(18),
)
def test_what_http_forbids_is_neither_written_nor_read(head: RequestHead, error: str) -> None:
    with pytest.raises(MessageError, match=error.replace("*", r"\*").replace("?", r"\?")):
        encode_request(Request(head))
    if any(ord(c) > 255 for _, value in head.fields for c in value):
        return  # no bytes say this
    control = b"".join(varint.encode(len(part)) + part.encode() for part in _control(head))
    lines = b"".join(
        varint.encode(len(text)) + text.encode("latin-1") for line in head.fields for text in line
    )
    forms = [b"\x00" + control + varint.encode(len(lines)) + lines]
    if not lines.startswith(b"\x00"):  # which ends the section in this form
        forms.append(b"\x02" + control + lines + b"\x00")
    for raw in forms:
        with pytest.raises(MessageError):
            decode(raw)


def test_a_value_that_is_refused_is_not_shown() -> None:
    with pytest.raises(MessageError) as caught:
        encode_request(Request(RequestHead("GET", "https", "", "/", (("authorization", "secret\n"),))))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (b"\x04", "4 is no framing indicator"),
        (b"\x01\x40\x63", "99 is no status code"),
        (b"\x01\x42\x58", "600 is no status code"),
        (b"\x01\x40\xc8\x03\x01a\x05", "reaches beyond the end of the header"),
        (b"\x01\x40\xc8\x01\x40", "reaches beyond the end of the header"),
        (b"\x00\x03G\xc3\xa9", "not ASCII"),
        (b"", "ends within its framing indicator"),
        (b"\x01", "ends within its status code"),
        (b"\x03\x40\x66", "ends within its status code"),
        (b"\x03\x40\xc8\x01a\x01b", "ends within its length of a name in the header"),
        (b"\x03\x40\xc8\x00\x05abc", "ends within its content"),
        (b"\x03\x40\xc8\x00\x03abc", "ends within its length of a piece of content"),
        (b"\x01\x40\xc8\x00\x05abc", "ends within its content"),
    ],
)
def test_what_is_no_message_is_told_by_its_place(raw: bytes, error: str) -> None:
    with pytest.raises(MessageError, match=error):
        decode(raw)


def test_framing_in_a_longer_form_than_needed_is_read() -> None:
    assert decode(b"\x40\x01\x80\x00\x00\xc8") == Response(ResponseHead(200))


def test_names_of_fields_are_given_in_lower_case() -> None:
    assert decode(b"\x01\x40\xc8\x05\x01A\x02Bc").head.fields == (("a", "Bc"),)  # type: ignore[union-attr]


SMALL = Limits(control=20, section=40, fields=2, informational=1, content=50, padding=8)


OK = ResponseHead(200)
LONG = (("a", 60 * "b"),)
TOO_LARGE: dict[str, tuple[Request | Response, int, str]] = {
    "path": (
        Request(RequestHead("GET", "https", "", "/" + 20 * "a")),
        0,
        "the path of a message has 21 bytes",
    ),
    "section": (Response(ResponseHead(200, LONG)), 0, "the header of a message has .* but 40 are allowed"),
    "lines": (Response(ResponseHead(200, 3 * (("a", "b"),))), 0, "has 3 lines, but 2 are allowed"),
    "trailers": (Response(OK, b"", LONG), 0, "the trailers of a message"),
    "content": (Response(OK, 51 * b"a"), 0, "the content of a message has 51 bytes, but 50"),
    "padding": (Response(OK), 9, "the padding of a message has 9 bytes, but 8"),
    "informational": (Response(OK, informational=2 * (ResponseHead(100),)), 0, "more than 1 informational"),
}


@pytest.mark.parametrize("part", TOO_LARGE)
@pytest.mark.parametrize("indeterminate", [False, True])
def test_a_part_larger_than_allowed_is_refused(part: str, indeterminate: bool) -> None:
    message, padding, error = TOO_LARGE[part]
    encoded = encode(message, indeterminate=indeterminate) + bytes(padding)
    decode(encoded)
    with pytest.raises(LimitError, match=error):
        decode(encoded, SMALL)


def test_an_announced_length_beyond_the_limit_is_refused_before_it_is_received() -> None:
    decoder = Decoder(SMALL)
    with pytest.raises(LimitError):
        decoder.feed(b"\x01\x40\xc8\x00" + varint.encode(varint.MAX))
    with pytest.raises(StreamStateError, match="finished, or has failed"):
        decoder.feed(b"a")


def test_content_in_many_small_pieces_counts_as_a_whole() -> None:
    with pytest.raises(LimitError, match="the content of a message has 51 bytes"):
        decode(encode_head(ResponseHead(200)) + 51 * encode_content(b"a"), SMALL)


def test_a_field_that_may_stand_once_is_not_guessed_at() -> None:
    assert field_value((("a", "1"), ("b", "2")), "b") == "2"
    assert field_value((), "b") is None
    with pytest.raises(MessageError, match="'b' stands 2 times"):
        field_value((("b", "1"), ("b", "2")), "b")


@pytest.mark.parametrize("status", [99, 199, 600])
def test_a_response_has_a_final_status(status: int) -> None:
    with pytest.raises(MessageError, match="from 200 to 599"):
        encode_response(Response(ResponseHead(status)))
    with pytest.raises(MessageError, match="from 200 to 599"):
        encode_head(ResponseHead(status))
    with pytest.raises(MessageError, match="from 100 to 199"):
        encode_response(Response(ResponseHead(200), informational=(ResponseHead(200),)))
