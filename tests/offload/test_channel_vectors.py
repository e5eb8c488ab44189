"""The published examples, both ways: HPKE, its post-quantum KEM, binary HTTP, OHTTP and chunked OHTTP.

HPKE's vectors come with the package `cryptography-vectors`; those of the RFCs and drafts are in
tests/vectors/channel, each with its source.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hpke as theirs
from cryptography.hazmat.primitives.asymmetric import ec, mlkem, x25519

from offload.channel import (
    AeadId,
    GatewayKey,
    KemId,
    KeyConfig,
    RequestOpener,
    RequestSealer,
    ResponseOpener,
    ResponseSealer,
    Suite,
    encode_request,
    encode_response,
    hpke,
    kem,
    open_request,
    open_response,
    seal_request,
    seal_response,
)
from offload.channel.bhttp import Request, RequestHead, Response, ResponseHead
from offload.channel.bhttp_decoder import decode
from offload.channel.hpke import setup_recipient, setup_sender

FOLDER = Path(__file__).resolve().parent.parent / "vectors" / "channel"
SUITES = [Suite(kem_id, aead) for kem_id in KemId for aead in AeadId]


def load(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text("utf-8"))


def bytes_of(vectors: dict[str, Any], name: str) -> bytes:
    return bytes.fromhex(vectors[name])


def gateway_key(vectors: dict[str, Any]) -> GatewayKey:
    config = KeyConfig.decode(bytes_of(vectors, "key_config"))
    return GatewayKey(config, kem.KEMS[config.kem].load(bytes_of(vectors, "secret_key")))


def fixed(value: bytes) -> Any:
    """A source of random numbers that gives `value` and nothing else."""

    def give(length: int) -> bytes:
        assert length == len(value)
        return value

    return give


# HPKE


def hpke_vectors() -> Iterator[dict[str, Any]]:
    """Base mode with the suites that we have."""
    package = pytest.importorskip(
        "cryptography_vectors", reason="HPKE's vectors are in the package cryptography-vectors (extra 'test')"
    )
    for file in ("test-vectors.json", "hpke-pq-test-vectors.json"):
        for vector in json.loads((Path(package.__file__).parent / "HPKE" / file).read_text("utf-8")):
            ours = vector["kem_id"] in kem.KEMS and vector["kdf_id"] == hpke.HKDF_SHA256
            if vector["mode"] == 0 and ours and AeadId.known(vector["aead_id"]):
                yield vector


def test_hpke_opens_and_seals_every_published_example_of_our_suites() -> None:
    seen = set()
    for vector in hpke_vectors():
        suite = Suite.of(vector["kem_id"], vector["kdf_id"], vector["aead_id"])
        private = kem.KEMS[suite.kem].load(bytes_of(vector, "skRm"))
        assert private.public == bytes_of(vector, "pkRm")
        contexts: list[Any] = [
            setup_recipient(suite, bytes_of(vector, "enc"), private, bytes_of(vector, "info"))
        ]
        assert kem.KEMS[suite.kem].decapsulate(bytes_of(vector, "enc"), private) == bytes_of(
            vector, "shared_secret"
        )
        sender = hpke.Sender(suite, bytes_of(vector, "shared_secret"), bytes_of(vector, "info"))
        if suite.kem != KemId.XWING:  # its encapsulation draws random numbers that nobody can set
            ephemeral = kem.KEMS[suite.kem].load(bytes_of(vector, "skEm"))
            enc, sender = setup_sender(
                suite, private.public, bytes_of(vector, "info"), unsafe_ephemeral=ephemeral
            )
            assert enc == bytes_of(vector, "enc")
        contexts.append(sender)
        for number, example in enumerate(vector["encryptions"]):
            text, aad, sealed = (bytes_of(example, name) for name in ("pt", "aad", "ct"))
            contexts[0]._sequence = contexts[1]._sequence = int(example.get("seq", number))
            assert contexts[0].open(sealed, aad) == text
            assert contexts[1].seal(text, aad) == sealed
        for context in contexts:
            for example in vector["exports"]:
                exported = context.export(bytes_of(example, "exporter_context"), example["L"])
                assert exported == bytes_of(example, "exported_value")
        seen.add((suite.kem, suite.aead))
    both = {(kem_id, aead) for kem_id in (KemId.X25519, KemId.P256) for aead in AeadId}
    assert seen == {*both, (KemId.XWING, AeadId.CHACHA20_POLY1305)}


def their_suite(suite: Suite) -> theirs.Suite:
    names = {KemId.X25519: "X25519", KemId.P256: "P256", KemId.XWING: "MLKEM768_X25519"}
    return theirs.Suite(
        getattr(theirs.KEM, names[suite.kem]), theirs.KDF.HKDF_SHA256, getattr(theirs.AEAD, suite.aead.name)
    )


def their_keys(key: kem.PrivateKey) -> tuple[Any, Any]:
    if key.kem.id is not KemId.XWING:
        return key.loaded, key.loaded.public_key()
    lattice, curve = key.loaded
    assert isinstance(lattice, mlkem.MLKEM768PrivateKey)
    assert isinstance(curve, x25519.X25519PrivateKey)
    private = theirs.MLKEM768X25519PrivateKey(lattice, curve)
    return private, private.public_key()


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: f"{suite.kem.name}-{suite.aead.name}")
def test_cryptographys_own_hpke_reads_ours_and_we_read_its(suite: Suite) -> None:
    key = kem.KEMS[suite.kem].generate()
    private, public = their_keys(key)
    enc, sender = setup_sender(suite, key.public, b"info")
    assert their_suite(suite).decrypt(enc + sender.seal(b"from us"), private, info=b"info") == b"from us"
    sealed = their_suite(suite).encrypt(b"from them", public, info=b"info")
    size = key.kem.enc_bytes
    assert setup_recipient(suite, sealed[:size], key, b"info").open(sealed[size:]) == b"from them"


def test_a_p256_key_is_the_scalar_that_cryptography_has() -> None:
    key = kem.KEMS[KemId.P256].generate()
    assert isinstance(key.loaded, ec.EllipticCurvePrivateKey)
    assert key.loaded.private_numbers().private_value == int.from_bytes(key.secret_bytes(), "big")


# Binary HTTP


REQUEST = Request(
    RequestHead(
        "GET",
        "https",
        "",
        "/hello.txt",
        (
            ("user-agent", "curl/7.16.3 libcurl/7.16.3 OpenSSL/0.9.7l zlib/1.2.3"),
            ("host", "www.example.com"),
            ("accept-language", "en, mi"),
        ),
    )
)
RESPONSE = Response(
    ResponseHead(
        200,
        (
            ("date", "Mon, 27 Jul 2009 12:28:53 GMT"),
            ("server", "Apache"),
            ("last-modified", "Wed, 22 Jul 2009 19:15:56 GMT"),
            ("etag", '"34aa387-d-1568eb00"'),
            ("accept-ranges", "bytes"),
            ("content-length", "51"),
            ("vary", "Accept-Encoding"),
            ("content-type", "text/plain"),
        ),
    ),
    b"Hello World! My content includes a trailing CRLF.\r\n",
    informational=(
        ResponseHead(102, (("running", '"sleep 15"'),)),
        ResponseHead(
            103,
            (
                ("link", "</style.css>; rel=preload; as=style"),
                ("link", "</script.js>; rel=preload; as=script"),
            ),
        ),
    ),
)


def test_rfc_9292_request_of_known_length() -> None:
    example = bytes_of(load("rfc9292"), "request_known")
    assert decode(example) == REQUEST
    assert encode_request(REQUEST) == example
    assert decode(example[:-1]) == decode(example[:-2]) == REQUEST  # the RFC says that both can be left out
    assert encode_request(REQUEST, trim=True) == example[:-2]


def test_rfc_9292_request_of_indeterminate_length_with_padding() -> None:
    vectors = load("rfc9292")
    example, padding = bytes_of(vectors, "request_indeterminate"), vectors["request_padding"]
    assert decode(example) == REQUEST
    assert encode_request(REQUEST, indeterminate=True) + bytes(padding) == example
    for left_out in range(padding + 2 + 1):
        assert decode(example[: len(example) - left_out]) == REQUEST


def test_rfc_9292_response_with_informational_responses() -> None:
    example = bytes_of(load("rfc9292"), "response_indeterminate")
    assert decode(example) == RESPONSE
    assert encode_response(RESPONSE, indeterminate=True) == example


def test_rfc_9292_response_of_known_length_with_trailers() -> None:
    example = bytes_of(load("rfc9292"), "response_known")
    response = Response(ResponseHead(200), b"This content contains CRLF.\r\n", (("trailer", "text"),))
    assert decode(example) == response
    assert encode_response(response) == example


# Oblivious HTTP


def test_rfc_9458_appendix_a_both_ways() -> None:
    vectors = load("rfc9458")
    key = gateway_key(vectors)
    assert key.private.public == key.config.public
    assert key.config.encode() == bytes_of(vectors, "key_config")
    suite = Suite(KemId.X25519, AeadId.AES_128_GCM)
    ephemeral = kem.KEMS[KemId.X25519].load(bytes_of(vectors, "ephemeral_secret_key"))
    request = bytes_of(vectors, "request")

    sealed, ours = seal_request(key.config, request, suite=suite, unsafe_ephemeral=ephemeral)
    assert sealed == bytes_of(vectors, "encapsulated_request")
    assert ours.enc == bytes_of(vectors, "enc")
    assert ours.secret == bytes_of(vectors, "exported_secret")
    opened = open_request({1: key}, sealed)
    assert opened.message == request
    assert opened.reply == ours
    assert decode(request) == Request(RequestHead("GET", "https", "example.com", "/"))

    nonce = bytes_of(vectors, "response_nonce")
    prk = kem.extract(ours.enc + nonce, ours.secret)
    assert prk == bytes_of(vectors, "prk")
    assert kem.expand(prk, b"key", 16) == bytes_of(vectors, "key")
    assert ours.derive(nonce)[1] == bytes_of(vectors, "nonce")
    response = bytes_of(vectors, "response")
    answer = seal_response(opened.reply, response, random=fixed(nonce))
    assert answer == bytes_of(vectors, "encapsulated_response")
    assert open_response(ours, answer) == response
    assert decode(response) == Response(ResponseHead(200))


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces = []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
    assert not data
    return pieces


def test_the_chunked_drafts_example_both_ways() -> None:
    vectors = load("chunked-ohttp")
    key = gateway_key(vectors)
    ephemeral = kem.KEMS[KemId.X25519].load(bytes_of(vectors, "ephemeral_secret_key"))
    sealer = RequestSealer(key.config, Suite(KemId.X25519, AeadId.AES_128_GCM), unsafe_ephemeral=ephemeral)
    pieces = cut(bytes_of(vectors, "request"), vectors["request_chunk_sizes"])
    sealed = b"".join(sealer.seal(piece, final=piece is pieces[-1]) for piece in pieces)
    assert sealed == bytes_of(vectors, "encapsulated_request")
    assert sealer.reply.secret == bytes_of(vectors, "exported_secret")

    opener = RequestOpener({1: key})
    assert [*opener.feed(sealed), opener.finish()] == pieces
    assert opener.reply == sealer.reply

    nonce = bytes_of(vectors, "response_nonce")
    assert kem.extract(sealer.reply.enc + nonce, sealer.reply.secret) == bytes_of(vectors, "prk")
    base = sealer.reply.derive(nonce)[1]
    assert base == bytes_of(vectors, "nonce")
    nonces = [hpke.chunk_nonce(base, number).hex() for number in range(3)]
    assert nonces == vectors["chunk_nonces"]
    answers = ResponseSealer(opener.reply, random=fixed(nonce))
    pieces = cut(bytes_of(vectors, "response"), vectors["response_chunk_sizes"])
    answer = b"".join(answers.seal(piece, final=piece is pieces[-1]) for piece in pieces)
    assert answer == bytes_of(vectors, "encapsulated_response")
    reader = ResponseOpener(sealer.reply)
    assert [*reader.feed(answer), reader.finish()] == pieces
