"""Tokens to text while they arrive: never half a UTF-8 character, never part of a stop string.

A token is a few bytes, and characters may be spread over several. `Detokenizer` collects bytes and lets whole
characters through; bytes that cannot become a character are left out, so a replacement character appears only
when the model itself wrote one.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Sequence
from typing import Any

__all__ = ["Detokenizer", "StopStrings", "TokenBytes"]


def _byte_alphabet() -> dict[str, int]:
    """The printable stand-ins of GPT-2's byte-level BPE (openai/gpt-2, `encoder.py`, `bytes_to_unicode`)."""
    kept = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [byte for byte in range(256) if byte not in kept]
    return {chr(byte): byte for byte in kept} | {chr(256 + i): byte for i, byte in enumerate(moved)}


_BYTES = _byte_alphabet()


class TokenBytes:
    """The bytes of each token of one vocabulary.

    Two families cover today's models: byte-level BPE (the decoder is `ByteLevel`) and SentencePiece-like
    (`▁` for a space, `<0x0A>` for a byte, one leading space dropped).
    """

    def __init__(
        self,
        spelling: Callable[[int], str | None],
        *,
        byte_level: bool,
        hidden: Iterable[int] = (),
        literal: Iterable[int] = (),
        strip_leading_space: bool = False,
    ) -> None:
        self._spelling, self._byte_level = spelling, byte_level
        self._hidden, self._literal = frozenset(hidden), frozenset(literal)
        self.strip_leading_space = strip_leading_space
        self._cache: dict[int, bytes] = {}

    @classmethod
    def from_description(
        cls, description: dict[str, Any], spelling: Callable[[int], str | None], hidden: Iterable[int] = ()
    ) -> TokenBytes:
        """Read the decoder part of `tokenizer.json`; `hidden` are special tokens, which have no text."""
        decoder = description.get("decoder") or {}
        steps = [decoder, *(decoder.get("decoders") or ())]
        kinds = {step.get("type") for step in steps}
        strips = any(
            (step.get("type") == "Strip" and step.get("content") == " " and step.get("start"))
            or (
                step.get("type") == "Metaspace"
                and (step.get("prepend_scheme", "always") != "never" and step.get("add_prefix_space", True))
            )
            for step in steps
        )
        literal = [int(token["id"]) for token in description.get("added_tokens") or ()]
        return cls(
            spelling,
            byte_level="ByteLevel" in kinds,
            hidden=hidden,
            literal=literal,
            strip_leading_space=strips,
        )

    def __call__(self, token_id: int) -> bytes:
        """The bytes that the token adds to the text (empty for hidden and unknown ones)."""
        found = self._cache.get(token_id)
        if found is None:
            found = self._cache[token_id] = self._bytes(token_id)
        return found

    def _bytes(self, token_id: int) -> bytes:
        if token_id in self._hidden:
            return b""
        text = self._spelling(token_id)
        if text is None:
            return b""
        if token_id in self._literal:
            return text.encode("utf-8")
        if self._byte_level:
            if all(character in _BYTES for character in text):
                return bytes(_BYTES[character] for character in text)
            return text.encode("utf-8")
        if len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
            try:
                return bytes([int(text[3:5], 16)])
            except ValueError:
                return text.encode("utf-8")
        return text.replace("▁", " ").encode("utf-8")


class Detokenizer:
    """Streams one text. `push` returns the characters that became whole, `finish` what may still be shown."""

    def __init__(self, token_bytes: Callable[[int], bytes]) -> None:
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="ignore")
        self._strip = bool(getattr(token_bytes, "strip_leading_space", False))

    def push(self, token_id: int) -> str:
        """Add a token; returns text, possibly empty."""
        return self._shown(self._decoder.decode(self._token_bytes(token_id)))

    def finish(self) -> str:
        """End the text; an unfinished character is left out."""
        return self._shown(self._decoder.decode(b"", final=True))

    def _shown(self, text: str) -> str:
        if self._strip and text:
            self._strip = False
            return text[1:] if text.startswith(" ") else text
        return text


class StopStrings:
    """Cuts a streamed text before the first stop string and holds back what may turn out to begin one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.matched: str | None = None

    def push(self, text: str) -> str:
        """Add text; returns what can be shown. After a match (`matched` is set) nothing more is shown."""
        if self.matched is not None:
            return ""
        if not self._stops:
            return text
        self._held += text
        hits = [(at, stop) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if hits:
            # The match that is complete first wins, so that the cut does not depend on how the text was
            # chunked.
            at, self.matched = min(hits, key=lambda hit: (hit[0] + len(hit[1]), hit[0]))
            shown, self._held = self._held[:at], ""
            return shown
        keep = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        shown, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return shown

    def finish(self) -> str:
        """End the text: what was held back began no stop string after all."""
        shown, self._held = self._held, ""
        return shown


def _overlap(text: str, stop: str) -> int:
    """Length of the longest proper prefix of `stop` that `text` ends with."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
