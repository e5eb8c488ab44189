"""Sealed messages under attack: bits flipped, chunks moved, streams cut off, suites weakened."""

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import mlkem

from offload.channel import (
    AeadId,
    ChannelError,
    ChunkLimits,
    GatewayKey,
    KemId,
    KeyConfig,
    LimitError,
    MessageError,
    OpenError,
    ReplyKey,
    RequestOpener,
    RequestSealer,
    ResponseOpener,
    ResponseSealer,
    StreamStateError,
    Suite,
    SuiteError,
    TruncatedError,
    UnknownKeyError,
    choose,
    decode_keys,
    encode_keys,
    kem,
    open_request,
    open_response,
    seal_request,
    seal_response,
    varint,
)
from offload.channel.chunked import CHUNK_BYTES
from offload.channel.hpke import TAG_BYTES, setup_recipient, setup_sender
from offload.channel.kem import KEMS

KEY = GatewayKey.generate(1, KemId.X25519)
PQ_KEY = GatewayKey.generate(2)
KEYS = {1: KEY, 2: PQ_KEY}
PIECES = [b"turn on ", b"the kitchen", b" light"]
ALL_KEYS = pytest.mark.parametrize(
    "key", [KEY, PQ_KEY, GatewayKey.generate(3, KemId.P256)], ids=lambda k: k.config.kem.name
)


def flipped(data: bytes, position: int) -> bytes:
    changed = bytearray(data)
    changed[position] ^= 1 << position % 8
    return bytes(changed)


def sealed_chunks(pieces: list[bytes] = PIECES, key: GatewayKey = KEY) -> tuple[bytes, list[bytes], ReplyKey]:
    """The header of a request and its framed chunks, the last one final."""
    sealer = RequestSealer(key.config)
    head = len(sealer._head)
    first = sealer.seal(pieces[0])
    rest = [sealer.seal(piece, final=piece is pieces[-1]) for piece in pieces[1:]]
    return first[:head], [first[head:], *rest], sealer.reply


def opened(data: bytes, keys: dict[int, GatewayKey] | None = None) -> bytes:
    opener = RequestOpener(KEYS if keys is None else keys)
    return b"".join(opener.feed(data)) + opener.finish()


def answer_chunks(reply: ReplyKey, pieces: list[bytes] = PIECES) -> tuple[bytes, list[bytes]]:
    sealer = ResponseSealer(reply)
    first = sealer.seal(pieces[0])
    rest = [sealer.seal(piece, final=piece is pieces[-1]) for piece in pieces[1:]]
    return first[: reply.nonce_bytes], [first[reply.nonce_bytes :], *rest]


def read_answer(reply: ReplyKey, data: bytes) -> bytes:
    opener = ResponseOpener(reply)
    return b"".join(opener.feed(data)) + opener.finish()


# What must work


@ALL_KEYS
@pytest.mark.parametrize("aead", AeadId)
def test_a_request_and_its_answer_arrive(key: GatewayKey, aead: AeadId) -> None:
    suite = Suite(key.config.kem, aead)
    sealed, reply = seal_request(key.config, b"question", suite=suite)
    request = open_request({key.config.key_id: key}, sealed)
    assert request.message == b"question"
    assert open_response(reply, seal_response(request.reply, b"answer")) == b"answer"

    sealer = RequestSealer(key.config, suite)
    opener = RequestOpener({key.config.key_id: key})
    assert opener.feed(sealer.seal(b"ques") + sealer.seal(b"tion", final=True)) == [b"ques"]
    assert not opener.complete
    assert opener.finish() == b"tion"
    assert opener.complete
    assert opener.reply == sealer.reply


@ALL_KEYS
def test_chunks_arrive_whatever_pieces_the_network_makes_of_them(key: GatewayKey) -> None:
    head, chunks, reply = sealed_chunks(key=key)
    data = head + b"".join(chunks)
    opener = RequestOpener({key.config.key_id: key})
    texts = [text for at in range(len(data)) for text in opener.feed(data[at : at + 1])]
    assert [*texts, opener.finish()] == PIECES
    nonce, chunks = answer_chunks(reply)
    reader = ResponseOpener(reply)
    texts = [text for byte in nonce + b"".join(chunks) for text in reader.feed(bytes([byte]))]
    assert [*texts, reader.finish()] == PIECES


def test_a_long_text_is_cut_into_chunks_that_every_receiver_takes() -> None:
    text = bytes(range(256)) * 200
    sealer = RequestSealer(KEY.config)
    opener = RequestOpener(KEYS)
    texts = [*opener.feed(sealer.seal(text, final=True)), opener.finish()]
    assert b"".join(texts) == text
    assert [len(piece) for piece in texts] == [CHUNK_BYTES] * 3 + [len(text) - 3 * CHUNK_BYTES]


def test_an_answer_opens_after_a_restart_with_the_kept_key() -> None:
    sealed, reply = seal_request(PQ_KEY.config, b"question")
    kept = reply.encode()
    answer = seal_response(open_request(KEYS, sealed).reply, b"late answer")
    assert open_response(ReplyKey.decode(kept), answer) == b"late answer"
    assert reply.secret.hex() not in repr(reply)
    for stop in range(3 + reply.nonce_bytes + 1):
        with pytest.raises(MessageError):
            ReplyKey.decode(kept[:stop])


def test_every_sealing_is_fresh_and_its_replay_id_the_gateways() -> None:
    ids = set()
    for _ in range(20):
        sealed, _ = seal_request(KEY.config, b"the same question")
        assert open_request(KEYS, sealed).replay_id == open_request(KEYS, sealed).replay_id  # a replay shows
        ids.add(open_request(KEYS, sealed).replay_id)
        opener = RequestOpener(KEYS)
        assert opener.replay_id is None
        opener.feed(RequestSealer(KEY.config).seal(b"the same question"))
        ids.add(opener.replay_id)
    assert len(ids) == 40


# Changed bytes


def test_a_flipped_bit_at_any_byte_of_a_request_in_one_piece_is_refused() -> None:
    for key in (KEY, PQ_KEY):
        sealed, _ = seal_request(key.config, b"turn on the light")
        for position in range(len(sealed)):
            with pytest.raises((OpenError, UnknownKeyError, SuiteError, TruncatedError)):
                open_request(KEYS, flipped(sealed, position))


def test_a_flipped_bit_at_any_byte_of_a_request_in_chunks_is_refused() -> None:
    head, chunks, _ = sealed_chunks()
    data = head + b"".join(chunks)
    for position in range(len(data)):
        with pytest.raises((OpenError, UnknownKeyError, SuiteError, TruncatedError, LimitError)):
            opened(flipped(data, position))


def test_a_flipped_bit_at_any_byte_of_an_answer_is_refused() -> None:
    _, reply = seal_request(KEY.config, b"")
    whole = seal_response(reply, b"the light is on")
    for position in range(len(whole)):
        with pytest.raises(OpenError):
            open_response(reply, flipped(whole, position))
    nonce, chunks = answer_chunks(reply)
    data = nonce + b"".join(chunks)
    for position in range(len(data)):
        with pytest.raises((OpenError, TruncatedError, LimitError)):
            read_answer(reply, flipped(data, position))


# Cut-off streams


def test_a_request_cut_off_at_any_byte_is_never_taken_for_complete() -> None:
    head, chunks, _ = sealed_chunks()
    data = head + b"".join(chunks)
    for stop in range(len(data)):
        opener = RequestOpener(KEYS)
        texts = opener.feed(data[:stop])
        assert b"".join(PIECES).startswith(b"".join(texts))  # what was read is right, as far as it goes
        with pytest.raises((TruncatedError, OpenError)):
            opener.finish()
        assert not opener.complete
    sealed, _ = seal_request(KEY.config, b"turn on the light")
    for stop in range(len(sealed)):
        with pytest.raises((TruncatedError, OpenError)):
            open_request(KEYS, sealed[:stop])


def test_an_answer_cut_off_at_any_byte_is_never_taken_for_complete() -> None:
    _, _, reply = sealed_chunks()
    nonce, chunks = answer_chunks(reply)
    data = nonce + b"".join(chunks)
    for stop in range(len(data)):
        reader = ResponseOpener(reply)
        reader.feed(data[:stop])
        with pytest.raises((TruncatedError, OpenError)):
            reader.finish()
        assert not reader.complete
    whole = seal_response(reply, b"the light is on")
    for stop in range(len(whole)):
        with pytest.raises((TruncatedError, OpenError)):
            open_response(reply, whole[:stop])


def test_a_cut_between_chunks_cannot_be_dressed_up_as_the_end() -> None:
    head, chunks, _ = sealed_chunks()
    sealed = chunks[1][1:]  # without its length
    with pytest.raises(OpenError):
        opened(head + chunks[0] + varint.encode(0) + sealed)
    with pytest.raises(TruncatedError):
        opened(head + chunks[0] + varint.encode(0))


def test_the_final_chunk_cannot_be_passed_off_as_one_of_many() -> None:
    head, chunks, _ = sealed_chunks()
    final = chunks[2][1:]
    with pytest.raises(OpenError):
        opened(head + chunks[0] + chunks[1] + varint.encode(len(final)) + final + varint.encode(0) + final)


# Moved chunks and swapped answers


@pytest.mark.parametrize(
    "order",
    [(1, 0, 2), (0, 0, 1, 2), (0, 2), (1, 2), (0, 1, 1, 2), (2,)],
    ids=lambda order: "".join(map(str, order)),
)
def test_chunks_that_are_reordered_repeated_or_left_out_are_refused(order: tuple[int, ...]) -> None:
    head, chunks, reply = sealed_chunks()
    with pytest.raises(OpenError):
        opened(head + b"".join(chunks[number] for number in order))
    nonce, chunks = answer_chunks(reply)
    with pytest.raises(OpenError):
        read_answer(reply, nonce + b"".join(chunks[number] for number in order))


def test_a_chunk_of_another_message_is_refused() -> None:
    head, chunks, reply = sealed_chunks()
    _, others, _ = sealed_chunks()
    with pytest.raises(OpenError):
        opened(head + others[0] + chunks[1] + chunks[2])
    nonce, ours = answer_chunks(reply)
    _, theirs = answer_chunks(reply)  # even of another answer to the same request
    with pytest.raises(OpenError):
        read_answer(reply, nonce + theirs[0] + ours[1] + ours[2])


def test_answers_swapped_between_two_requests_are_refused() -> None:
    _, first = seal_request(KEY.config, b"one")
    _, second = seal_request(KEY.config, b"two")
    with pytest.raises(OpenError):
        open_response(first, seal_response(second, b"answer to two"))
    nonce, chunks = answer_chunks(second)
    with pytest.raises(OpenError):
        read_answer(first, nonce + b"".join(chunks))


def test_a_message_in_chunks_is_none_in_one_piece_and_the_other_way_round() -> None:
    sealer = RequestSealer(KEY.config)
    data = sealer.seal(b"text", final=True)
    with pytest.raises(OpenError):
        open_request(KEYS, data[:39] + data[40:])  # without the final chunk's zero
    sealed, _ = seal_request(KEY.config, b"text")
    with pytest.raises(OpenError):
        opened(sealed[:39] + varint.encode(0) + sealed[39:])


def test_after_an_error_nothing_more_is_read() -> None:
    head, chunks, reply = sealed_chunks()
    opener = RequestOpener(KEYS)
    opener.feed(head)
    with pytest.raises(OpenError):
        opener.feed(chunks[1])
    for step in (lambda: opener.feed(chunks[0]), opener.finish):
        with pytest.raises(StreamStateError, match="has failed"):
            step()
    sealer = ResponseSealer(reply)
    reader = ResponseOpener(reply)
    reader.feed(sealer.seal(b"", final=True))
    assert reader.finish() == b""
    for action in (lambda: reader.feed(b"more"), reader.finish, lambda: sealer.seal(b"more")):
        with pytest.raises(StreamStateError):
            action()


# Suites and keys


def test_a_suite_that_the_key_does_not_offer_is_refused_on_both_sides() -> None:
    private = KEMS[KemId.X25519].generate()
    strict = GatewayKey(KeyConfig(7, KemId.X25519, private.public, (AeadId.CHACHA20_POLY1305,)), private)
    generous = KeyConfig(7, KemId.X25519, private.public)  # as a relay might rewrite it
    weaker = Suite(KemId.X25519, AeadId.AES_128_GCM)
    with pytest.raises(SuiteError, match="key 7 does not offer X25519 with AES_128_GCM"):
        RequestSealer(strict.config, weaker)
    with pytest.raises(SuiteError, match="key 7 does not offer"):
        opened(RequestSealer(generous, weaker).seal(b"text", final=True), {7: strict})
    sealed, _ = seal_request(generous, b"text", suite=weaker)
    with pytest.raises(SuiteError):
        open_request({7: strict}, sealed)


def test_a_weaker_kem_than_the_keys_is_refused() -> None:
    other = GatewayKey.generate(2, KemId.X25519)  # the number of a key of X-Wing
    with pytest.raises(SuiteError, match="key 2 does not offer X25519"):
        opened(RequestSealer(other.config).seal(b"text", final=True), {2: PQ_KEY})
    with pytest.raises(SuiteError, match="for a key of P-256, but the key is of X25519"):
        setup_recipient(Suite(KemId.P256, AeadId.AES_128_GCM), bytes(65), KEY.private, b"")


@pytest.mark.parametrize(
    ("header", "error"),
    [
        ("01ffff00010001", "KEM 0xffff is not known here; known are 0x647a X-Wing"),
        ("01002000020001", "KDF 0x0002 is not known here"),
        ("0100200001ffff", "AEAD 0xffff is not known here"),
    ],
)
def test_unknown_algorithms_are_told_by_number(header: str, error: str) -> None:
    with pytest.raises(SuiteError, match=error):
        RequestOpener(KEYS).feed(bytes.fromhex(header))


def test_a_retired_key_is_told_apart_so_that_the_sender_fetches_the_new_one() -> None:
    sealed, _ = seal_request(KEY.config, b"queued for days")
    with pytest.raises(UnknownKeyError, match="no key has the number 1; it may have been retired"):
        open_request({2: PQ_KEY}, sealed)


def test_another_key_of_the_same_number_opens_nothing() -> None:
    sealed, _ = seal_request(KEY.config, b"text")
    with pytest.raises(OpenError):
        open_request({1: GatewayKey.generate(1, KemId.X25519)}, sealed)


def test_the_first_aead_is_chacha_unless_the_processor_has_aes() -> None:
    assert KEY.config.suite().aead is AeadId.CHACHA20_POLY1305
    assert KEY.config.suite(prefer_aes=True).aead is AeadId.AES_256_GCM


def test_the_post_quantum_key_is_chosen_wherever_it_is_installed() -> None:
    configs = (KEY.config, PQ_KEY.config)
    assert choose(configs) is PQ_KEY.config
    assert choose(configs, [KemId.X25519]) is KEY.config
    with pytest.raises(SuiteError, match=r"offers X25519, X-Wing .*, but this installation may use P-256"):
        choose(configs, [KemId.P256])


def test_a_list_of_keys_comes_back_without_those_that_are_of_no_use_here() -> None:
    configs = (KEY.config, PQ_KEY.config)
    assert decode_keys(encode_keys(configs)) == configs
    unknown = bytes.fromhex("0009 05 0011 00 0004 00010001 ff".replace(" ", ""))
    assert decode_keys(unknown[:2] + unknown[2:11] + encode_keys(configs)) == configs
    with pytest.raises(SuiteError, match="no key that can be used here: it is empty"):
        decode_keys(b"")
    with pytest.raises(MessageError, match="two keys have one number"):
        decode_keys(encode_keys((KEY.config, GatewayKey.generate(1).config)))


@pytest.mark.parametrize("key", [KEY, PQ_KEY], ids=["x25519", "x-wing"])
def test_a_key_configuration_cut_off_anywhere_is_refused(key: GatewayKey) -> None:
    data = key.config.encode()
    for stop in range(len(data)):
        with pytest.raises((MessageError, SuiteError)):
            KeyConfig.decode(data[:stop])
    with pytest.raises(MessageError):
        KeyConfig.decode(data + b"\x00")


@pytest.mark.parametrize("bad", [bytes(32), b"\x01" + bytes(31)], ids=["zero", "one"])
def test_a_point_of_small_order_is_no_key_and_no_encapsulated_key(bad: bytes) -> None:
    with pytest.raises(MessageError, match="none of X25519"):
        KeyConfig.decode(KeyConfig(1, KemId.X25519, bad).encode())
    with pytest.raises(MessageError):
        setup_sender(Suite(KemId.X25519, AeadId.AES_128_GCM), bad, b"")
    with pytest.raises(OpenError):
        setup_recipient(Suite(KemId.X25519, AeadId.AES_128_GCM), bad, KEY.private, b"")


def test_a_point_off_the_curve_or_compressed_is_no_key() -> None:
    good = KEMS[KemId.P256].generate().public
    for bad in (flipped(good, 40), b"\x02" + good[1:33], good[:-1], bytes(65)):
        with pytest.raises(MessageError):
            setup_sender(Suite(KemId.P256, AeadId.AES_128_GCM), bad, b"")


# Limits


def test_a_chunk_larger_than_allowed_is_refused_before_it_is_received() -> None:
    head, _, _ = sealed_chunks()
    opener = RequestOpener(KEYS)
    with pytest.raises(LimitError, match=r"a chunk holds 16385 bytes, but 16384 are allowed"):
        opener.feed(head + varint.encode(CHUNK_BYTES + TAG_BYTES + 1))
    opener = RequestOpener(KEYS)
    opener.feed(head + varint.encode(0) + bytes(CHUNK_BYTES + TAG_BYTES))
    with pytest.raises(LimitError):
        opener.feed(b"\x00")
    with pytest.raises(ValueError, match="16384 or more"):
        ChunkLimits(chunk=1000)


def test_a_message_larger_than_allowed_is_refused() -> None:
    sealer = RequestSealer(KEY.config)
    opener = RequestOpener(KEYS, ChunkLimits(total=100))
    opener.feed(sealer.seal(bytes(60)))
    with pytest.raises(LimitError, match="more than 100 bytes"):
        opener.feed(sealer.seal(bytes(60)))
    sealer = RequestSealer(KEY.config)
    opener = RequestOpener(KEYS, ChunkLimits(chunks=3))
    with pytest.raises(LimitError, match="more than 3 chunks"):
        opener.feed(b"".join(sealer.seal(b"") for _ in range(4)))


def test_a_chunk_too_short_to_be_sealed_is_refused() -> None:
    head, _, _ = sealed_chunks()
    with pytest.raises(OpenError, match="a chunk of 15 bytes is too short"):
        RequestOpener(KEYS).feed(head + varint.encode(15))


def test_a_key_seals_no_more_than_its_counter_counts() -> None:
    _, sender = setup_sender(Suite(KemId.X25519, AeadId.AES_128_GCM), KEY.config.public, b"")
    sender._sequence = (1 << 96) - 1
    with pytest.raises(LimitError, match="2\\*\\*96"):
        sender.seal(b"")


def test_every_error_of_the_channel_is_an_offload_error() -> None:
    from offload.channel import errors
    from offload.errors import OffloadError

    for name in errors.__all__:
        assert issubclass(getattr(errors, name), ChannelError)
        assert issubclass(getattr(errors, name), OffloadError)


@pytest.mark.parametrize(
    "value", [0, 37, 63, 64, 15293, 16383, 16384, 494878333, (1 << 30), 151288809941952652]
)
def test_a_variable_length_integer_comes_back_and_has_quics_form(value: int) -> None:
    encoded = varint.encode(value)
    assert varint.decode(encoded) == value
    assert len(encoded) == varint.size(encoded[0])


def test_quics_published_integers_decode() -> None:
    # RFC 9000, appendix A.1
    for data, value in (
        ("c2197c5eff14e88c", 151288809941952652),
        ("9d7f3e7d", 494878333),
        ("7bbd", 15293),
        ("25", 37),
        ("4025", 37),
    ):
        assert varint.decode(bytes.fromhex(data)) == value
    for bad in ("", "40", "2500", "c2197c5eff14e8"):
        with pytest.raises(MessageError):
            varint.decode(bytes.fromhex(bad))
    for number in (-1, varint.MAX + 1):
        with pytest.raises(ValueError, match="is not from 0 to"):
            varint.encode(number)


def test_a_library_without_ml_kem_is_told_and_falls_back_to_x25519(monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise UnsupportedAlgorithm("ML-KEM-768 is not supported by this backend.")

    monkeypatch.setattr(mlkem.MLKEM768PrivateKey, "from_seed_bytes", unsupported)
    monkeypatch.setattr(mlkem.MLKEM768PublicKey, "from_public_bytes", unsupported)
    kem.is_available.cache_clear()
    try:
        assert choose((PQ_KEY.config, KEY.config)) is KEY.config
        with pytest.raises(SuiteError, match=r"offers X-Wing .* may use X25519, P-256"):
            choose((PQ_KEY.config,))
    finally:
        kem.is_available.cache_clear()
    way_out = r"needs ML-KEM, .* \(pip install --upgrade 'cryptography>=48'\), or use a key of X25519"
    for action in (lambda: GatewayKey.generate(1), lambda: seal_request(PQ_KEY.config, b"")):
        with pytest.raises(SuiteError, match=way_out):
            action()
    # Among others the key is skipped; nothing else of the list is lost.
    assert decode_keys(encode_keys((PQ_KEY.config, KEY.config))) == (KEY.config,)


def test_a_source_of_random_numbers_that_gives_no_key_ends() -> None:
    with pytest.raises(MessageError, match="no P-256 private key"):
        KEMS[KemId.P256].generate(bytes)  # zeros: no scalar
    with pytest.raises(MessageError):
        KEMS[KemId.X25519].generate(lambda length: b"short")
