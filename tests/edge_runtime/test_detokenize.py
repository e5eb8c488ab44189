"""Streaming text: whole characters only, and no part of a stop string."""

import codecs
import itertools

from hypothesis import example, given
from hypothesis import strategies as st
from support import byte_tokenizer

from edge_runtime.detokenize import Detokenizer, StopStrings, TokenBytes
from edge_runtime.tokenizer import Tokenizer

TOKENIZER = Tokenizer(byte_tokenizer().to_str(), eos_ids=(0,), bos_id=1, pad_id=2)


def as_tokens(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data` cut into pieces at arbitrary places, as a vocabulary may."""
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def stream(pieces: list[bytes]) -> list[str]:
    detokenizer = Detokenizer(lambda i: pieces[i])
    return [*(detokenizer.push(i) for i in range(len(pieces))), detokenizer.finish()]


@given(st.text(), st.lists(st.integers(0, 400)))
def test_text_cut_anywhere_arrives_whole(text: str, cuts: list[int]) -> None:
    assert "".join(stream(as_tokens(text.encode(), cuts))) == text


@given(st.binary(max_size=60), st.lists(st.integers(0, 60)))
@example(b"\xf0\x9f\x99", [1, 2])
@example(b"a\xffb", [1, 2])
def test_broken_bytes_never_show_as_replacement_characters(data: bytes, cuts: list[int]) -> None:
    shown = stream(as_tokens(data, cuts))
    assert "".join(shown) == data.decode("utf-8", "ignore")
    if b"\xef\xbf\xbd" not in data:
        assert "�" not in "".join(shown)


@given(st.text(min_size=1))
def test_every_piece_is_shown_as_soon_as_it_is_whole(text: str) -> None:
    data = text.encode()
    decoder = codecs.getincrementaldecoder("utf-8")()
    shown = stream([bytes([byte]) for byte in data])[:-1]
    assert shown == [decoder.decode(bytes([byte])) for byte in data]


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_the_tokenizer_gives_back_what_it_was_given(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == TOKENIZER._inner.decode(TOKENIZER.encode(text))


def test_special_tokens_are_not_shown() -> None:
    ids = TOKENIZER.encode("<|start|>user\nhi<|end|>")
    assert ids[0] == 1
    assert ids[-1] == 0
    assert TOKENIZER.decode(ids) == "user\nhi"


def sentencepiece(strip: bool) -> Detokenizer:
    words = {
        0: "▁Hello",
        1: "▁world",
        2: "<0xF0>",
        3: "<0x9F>",
        4: "<0x99>",
        5: "<0x82>",
        6: "</s>",
        7: "<user>",
    }
    steps = [{"type": "Replace"}, {"type": "ByteFallback"}, {"type": "Fuse"}]
    if strip:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    description = {
        "decoder": {"type": "Sequence", "decoders": steps},
        "added_tokens": [{"id": 7, "special": False}],
    }
    return Detokenizer(TokenBytes.from_description(description, words.get, hidden=[6]))


def test_sentencepiece_spaces_and_byte_tokens() -> None:
    for strip, first in ((True, "Hello"), (False, " Hello")):
        detokenizer = sentencepiece(strip)
        assert [detokenizer.push(i) for i in (0, 1, 2, 3, 4, 5, 6, 7)] == [
            first,
            " world",
            "",
            "",
            "",
            "🙂",
            "",
            "<user>",
        ]


def test_a_leading_space_is_dropped_once_and_at_the_start_only() -> None:
    detokenizer = sentencepiece(True)
    assert [detokenizer.push(i) for i in (1, 1, 99)] == ["world", " world", ""]


# --- stop strings -------------------------------------------------------------------------------------------


def cut_naively(text: str, stops: list[str]) -> str:
    """Reads character by character and stops at the first moment when a stop string is complete."""
    for end in range(len(text) + 1):
        hits = [stop for stop in stops if text[:end].endswith(stop)]
        if hits:
            return text[: end - max(map(len, hits))]
    return text


@given(
    st.text("ab\n", max_size=30),
    st.lists(st.text("ab\n", min_size=1, max_size=4), min_size=1, max_size=3),
    st.lists(st.integers(0, 30)),
)
@example("aab", ["ab"], [1, 2])
@example("abc", ["abc", "b"], [])
def test_stop_strings_cut_alike_however_the_text_arrives(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    edges = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    stopper, shown = StopStrings(stops), ""
    for a, b in itertools.pairwise(edges):
        shown += stopper.push(text[a:b])
        assert cut_naively(text, stops).startswith(shown), "part of a stop string was shown"
    shown += stopper.finish()
    assert shown == cut_naively(text, stops)
    assert (stopper.matched is not None) == any(stop in text for stop in stops)


def test_text_that_cannot_begin_a_stop_string_is_not_held_back() -> None:
    stopper = StopStrings(["END"])
    assert [stopper.push(part) for part in ("hello ", "E", "x", "EN", "D more")] == [
        "hello ",
        "",
        "Ex",
        "",
        "",
    ]
    assert stopper.matched == "END"
    assert stopper.push("later") == ""
