"""Text to tokens and back, through the `tokenizers` library and a package's `tokenizer.json` alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from edge_runtime.detokenize import Detokenizer, TokenBytes
from edge_runtime.errors import TokenizerError

__all__ = ["Tokenizer"]


class Tokenizer:
    """A tokenizer and the special tokens of one model.

    Args:
        serialized: the text of `tokenizer.json`.
        eos_ids, bos_id, pad_id: generation ids of the manifest.
        vocab_size: rows of the model's head; may exceed the tokenizer's vocabulary (padding).
    """

    def __init__(
        self,
        serialized: str,
        *,
        eos_ids: Sequence[int] = (),
        bos_id: int | None = None,
        pad_id: int | None = None,
        vocab_size: int | None = None,
        origin: str = "tokenizer.json",
    ) -> None:
        import tokenizers

        try:
            self._inner = tokenizers.Tokenizer.from_str(serialized)
            self._description: dict[str, Any] = json.loads(serialized)
        except Exception as error:
            raise TokenizerError(
                f"{origin} cannot be read as a tokenizer ({error}): quantize the checkpoint again"
            ) from error
        # Truncation and padding settings left in the file would silently cut prompts.
        self._inner.no_truncation()
        self._inner.no_padding()
        self.eos_ids, self.bos_id, self.pad_id = tuple(eos_ids), bos_id, pad_id
        known = self._inner.get_vocab_size(with_added_tokens=True)
        self.vocab_size = vocab_size if vocab_size is not None else known
        for name, value in [("eos", i) for i in eos_ids] + [("bos", bos_id), ("pad", pad_id)]:
            if value is not None and not 0 <= value < self.vocab_size:
                raise TokenizerError(
                    f"the {name} token id {value} is not in the vocabulary of {self.vocab_size} tokens "
                    f"({origin})"
                )

    @classmethod
    def from_file(cls, path: Path, **fields: Any) -> Tokenizer:
        """Read `tokenizer.json`.

        Raises:
            TokenizerError: the file is missing or unreadable; names it.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise TokenizerError(
                f"{path} is missing: a model package needs the checkpoint's tokenizer.json; quantize it "
                "again with the file in place"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise TokenizerError(f"{path} cannot be read: {error}") from error
        return cls(text, origin=str(path), **fields)

    @property
    def serialized(self) -> str:
        """The JSON text that `tokenizers` and llguidance read, without truncation and padding."""
        return str(self._inner.to_str())

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Token ids of `text`; special tokens written out in the text become their ids.

        `add_special_tokens` lets the tokenizer's own template add e.g. the start token; chat templates write
        theirs out, so it is off by default.
        """
        return list(self._inner.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The whole text of `ids` without special tokens; bytes that are not UTF-8 are left out."""
        detokenizer = self.detokenizer()
        return "".join([*(detokenizer.push(i) for i in ids), detokenizer.finish()])

    def detokenizer(self) -> Detokenizer:
        """A streaming detokenizer for one generated text."""
        return Detokenizer(self.token_bytes)

    @cached_property
    def token_bytes(self) -> TokenBytes:
        """Bytes of every token, for streaming."""
        return TokenBytes.from_description(self._description, self._inner.id_to_token, self.special_ids)

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids of special tokens, which are not shown as text."""
        added: Iterable[dict[str, Any]] = self._description.get("added_tokens") or ()
        ids = {int(token["id"]) for token in added if token.get("special")}
        return frozenset(ids | set(self.eos_ids) | {i for i in (self.bos_id, self.pad_id) if i is not None})

    def token(self, token_id: int | None) -> str | None:
        """The token's own spelling (`<|im_end|>`), or `None` for an id without one."""
        return None if token_id is None else self._inner.id_to_token(token_id)

    def id_of(self, token: str) -> int | None:
        """The id of a token's spelling, or `None`."""
        return self._inner.token_to_id(token)
