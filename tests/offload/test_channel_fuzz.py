"""Whatever bytes come, the parsers raise nothing but the channel's errors, and open only what was sealed.

Three kinds of bytes: random ones, sound messages that were cut, spliced and changed, and messages put
together from the grammar with values that nobody would choose.
"""

import json
import os
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offload.channel import (
    ChannelError,
    ChunkLimits,
    Decoder,
    Expected,
    GatewayKey,
    KemId,
    KeyConfig,
    KeyFileError,
    Limits,
    Pin,
    RegionalKeys,
    ReplyKey,
    Request,
    RequestHead,
    RequestOpener,
    RequestSealer,
    Response,
    ResponseHead,
    ResponseOpener,
    ResponseSealer,
    RootKey,
    decode_keys,
    encode_keys,
    encode_request,
    encode_response,
    open_request,
    open_response,
    seal_request,
    seal_response,
    sign,
    varint,
    verify,
)
from offload.channel.bhttp_decoder import decode
from offload.channel.keyfiles import decode_key, encode_key, parse_gateway_line, public_line
from offload.channel.regional import read_unverified

KEY = GatewayKey.generate(1, KemId.X25519)
PQ_KEY = GatewayKey.generate(2)
KEYS = {1: KEY, 2: PQ_KEY}
ROOT = RootKey.generate(os.urandom)
NOW = 1_795_000_000
SIGNED = sign(RegionalKeys("gw", "eu", "DE", 3, NOW, NOW + 86400, (KEY.config, PQ_KEY.config)), [ROOT])
SMALL = Limits(control=64, section=128, fields=4, informational=2, content=256, padding=32)

FIELDS = (("a", "b"), ("c", "d e"))
REQUEST = Request(RequestHead("POST", "https", "h", "/p", FIELDS), b"content", FIELDS)
RESPONSE = Response(ResponseHead(200, FIELDS), b"content", FIELDS, (ResponseHead(103, FIELDS),))
MESSAGES = [
    encode(message, indeterminate=form)
    for encode, message in ((encode_request, REQUEST), (encode_response, RESPONSE))
    for form in (False, True)
]
SEALED, REPLY = seal_request(KEY.config, MESSAGES[0])
CHUNKED = RequestSealer(KEY.config).seal(bytes(100), final=True)
ANSWER = seal_response(REPLY, MESSAGES[2])
ANSWER_CHUNKS = ResponseSealer(REPLY).seal(bytes(40)) + b"\x10" + bytes(16)


@st.composite
def spoiled(draw: st.DrawFn, sound: list[bytes]) -> bytes:
    """A sound message with up to four changes: bytes set, taken out, put in, moved from another."""
    data = bytearray(draw(st.sampled_from(sound)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        match draw(st.integers(0, 3)):
            case 0:
                data[at : at + 1] = draw(st.binary(min_size=1, max_size=2))
            case 1:
                del data[at : at + draw(st.integers(1, 40))]
            case 2:
                data[at:at] = draw(st.one_of(st.binary(max_size=20), st.just(varint.encode(varint.MAX))))
            case _:
                other = draw(st.sampled_from(sound))
                data[at:] = other[draw(st.integers(0, len(other))) :]
    return bytes(data)


def any_bytes(*sound: bytes) -> st.SearchStrategy[bytes]:
    return st.one_of(st.binary(max_size=200), spoiled(list(sound)), spoiled(list(sound)))


numbers = st.one_of(st.integers(0, 300), st.integers(0, varint.MAX), st.just(0))
grammar = st.lists(st.one_of(numbers.map(varint.encode), st.binary(max_size=6)), max_size=20).map(b"".join)


def refusal(parse: Callable[[], object], kind: type[ChannelError] = ChannelError) -> str | None:
    """How it was refused, `None` when it was read. Any other error goes through and fails the test."""
    try:
        parse()
    except kind as error:
        return str(error)
    return None


def is_read(parse: Callable[[], object]) -> bool:
    said = refusal(parse)
    assert said != ""
    return said is None


@given(data=st.one_of(any_bytes(*MESSAGES), grammar))
@settings(max_examples=400, deadline=None)
def test_binary_http(data: bytes) -> None:
    is_read(lambda: decode(data))
    if is_read(lambda: decode(data, SMALL)):
        # What is read can be written, and reads the same again.
        message = decode(data, SMALL)
        again = encode_request(message) if isinstance(message, Request) else encode_response(message)
        assert decode(again).content == message.content


@given(data=st.one_of(any_bytes(*MESSAGES), grammar), cuts=st.lists(st.integers(0, 200), max_size=5))
@settings(deadline=None)
def test_binary_http_in_pieces_is_read_or_refused_like_the_whole(data: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    decoder = Decoder(SMALL)

    def in_pieces() -> None:
        for start, stop in pairwise(places):
            decoder.feed(data[start:stop])
        decoder.finish()

    assert is_read(in_pieces) == is_read(lambda: decode(data, SMALL))


@given(data=any_bytes(SEALED, CHUNKED), cut=st.integers(0, 300))
@settings(deadline=None)
def test_encapsulated_requests(data: bytes, cut: int) -> None:
    if is_read(lambda: open_request(KEYS, data)):
        assert data == SEALED
    opener = RequestOpener(KEYS, ChunkLimits(total=1000, chunks=10))

    def read() -> bytes:
        return b"".join([*opener.feed(data[:cut]), *opener.feed(data[cut:]), opener.finish()])

    if is_read(read):
        # Only a length may be written in another form: it is not authenticated, and holds nothing.
        assert opener.complete
        assert data[:39] == CHUNKED[:39]
        assert data.endswith(CHUNKED[40:])


@given(data=any_bytes(ANSWER, ANSWER_CHUNKS))
@settings(deadline=None)
def test_encapsulated_answers(data: bytes) -> None:
    if is_read(lambda: open_response(REPLY, data)):
        assert data == ANSWER
    reader = ResponseOpener(REPLY)
    assert not is_read(lambda: (reader.feed(data), reader.finish()))
    assert not reader.complete


@given(data=any_bytes(REPLY.encode()))
@settings(deadline=None)
def test_kept_keys_of_answers(data: bytes) -> None:
    if is_read(lambda: ReplyKey.decode(data)):
        assert ReplyKey.decode(data).encode() == data


@given(data=any_bytes(KEY.config.encode(), PQ_KEY.config.encode(), encode_keys((KEY.config, PQ_KEY.config))))
@settings(max_examples=200, deadline=None)
def test_key_configurations(data: bytes) -> None:
    is_read(lambda: decode_keys(data))
    if is_read(lambda: KeyConfig.decode(data)):
        config = KeyConfig.decode(data)
        assert KeyConfig.decode(config.encode()) == config


json_values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


def rendered(value: object) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


@st.composite
def odd_files(draw: st.DrawFn, sound: bytes) -> bytes:
    """A JSON file of our spelling in which one value is something else."""
    value = json.loads(sound)
    name = draw(st.sampled_from(sorted(value)))
    inner = value[name]
    if isinstance(inner, list) and inner and isinstance(inner[0], dict) and draw(st.booleans()):
        inner[0][draw(st.sampled_from(sorted(inner[0])))] = draw(json_values)
    else:
        value[name] = draw(json_values)
    return rendered(value)


@given(data=st.one_of(any_bytes(SIGNED), odd_files(SIGNED)))
@settings(max_examples=200, deadline=None)
def test_signed_key_configurations(data: bytes) -> None:
    is_read(lambda: read_unverified(data))
    if is_read(lambda: verify(data, [ROOT.fingerprint], Expected("gw", "eu"), now_s=NOW, pin=Pin(1, "", 0))):
        assert data == SIGNED


DOCUMENT = RegionalKeys("gw", "eu", "DE", 3, NOW, NOW + 86400, (KEY.config,)).encode()


@given(data=st.one_of(any_bytes(DOCUMENT), odd_files(DOCUMENT)))
@settings(max_examples=200, deadline=None)
def test_documents(data: bytes) -> None:
    if is_read(lambda: RegionalKeys.decode(data)):
        assert RegionalKeys.decode(RegionalKeys.decode(data).encode()) == RegionalKeys.decode(data)


ENCRYPTED = encode_key(ROOT, b"passphrase", "root", scrypt_n=2)
PLAIN = encode_key(KEY, None)


@given(data=st.one_of(any_bytes(ENCRYPTED, PLAIN), odd_files(ENCRYPTED), odd_files(PLAIN)))
@settings(max_examples=200, deadline=None)
def test_key_files(data: bytes) -> None:
    for passphrase in (None, b"passphrase"):
        said = refusal(lambda given=passphrase: decode_key(data, given, "FILE"), KeyFileError)
        assert said is None or said.startswith("FILE: ")


@given(
    line=st.one_of(
        st.text(max_size=60), st.just(public_line(KEY)), st.text(max_size=40).map("edge-gateway ".__add__)
    )
)
@settings(deadline=None)
def test_public_lines(line: str) -> None:
    said = refusal(lambda: parse_gateway_line(line, "LINE"), KeyFileError)
    if said is None:
        assert parse_gateway_line(line, "LINE") == KEY.config
    else:
        assert said.startswith("LINE: ")


@pytest.mark.parametrize("sound", [SIGNED, DOCUMENT, ENCRYPTED])
def test_the_sound_files_are_read(sound: bytes) -> None:
    assert json.loads(sound)["format"] == 1
    if sound is SIGNED:
        verify(sound, [ROOT.fingerprint], Expected("gw", "eu"), now_s=NOW)
    elif sound is DOCUMENT:
        RegionalKeys.decode(sound)
    else:
        decode_key(sound, b"passphrase", "FILE")
