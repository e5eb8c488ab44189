"""Structured output: JSON schema, regular expression or Lark grammar, followed token by token (llguidance).

The grammar says which tokens may come next and which *must*: those are appended without asking the model
(`forced`). llguidance tokenises forced text the way the model's own tokenizer would, so that the model never
sees a spelling it was not trained on.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from edge_runtime.errors import GrammarError
from edge_runtime.sampling import Mask
from edge_runtime.tokenizer import Tokenizer

__all__ = ["Constraint", "Grammar", "GrammarCompiler"]

KEPT_GRAMMARS = 16
"""Compiled grammars that a compiler keeps: compiling takes milliseconds, copying microseconds."""

Kind = Literal["json_schema", "regex", "lark"]


@dataclass(frozen=True, slots=True)
class Grammar:
    """What the output must look like; checked when it is compiled for a model."""

    kind: Kind
    source: str
    compact: bool = True

    @classmethod
    def json_schema(cls, schema: Mapping[str, Any] | str, *, compact: bool = True) -> Grammar:
        """JSON that satisfies `schema`; `compact` allows no whitespace between tokens.

        Raises:
            GrammarError: the text is not JSON.
        """
        text = schema if isinstance(schema, str) else json.dumps(schema)
        try:
            parsed = json.loads(text)
        except ValueError as error:
            raise GrammarError(f"the JSON schema is not JSON: {error}") from error
        if not isinstance(parsed, (dict, bool)):
            raise GrammarError(f"the JSON schema must be an object or a boolean, not {type(parsed).__name__}")
        return cls("json_schema", text, compact)

    @classmethod
    def regex(cls, pattern: str) -> Grammar:
        """Text that matches `pattern` as a whole (Rust regex syntax, no look-around)."""
        return cls("regex", pattern)

    @classmethod
    def lark(cls, source: str) -> Grammar:
        """Text of llguidance's Lark dialect; `start` is the start rule."""
        return cls("lark", source)

    @classmethod
    def json_object(cls) -> Grammar:
        """Any JSON object."""
        return cls.json_schema({"type": "object"})


class GrammarCompiler:
    """Compiles grammars for one tokenizer; making one costs some ten milliseconds for large vocabularies."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        import llguidance

        eos = list(tokenizer.eos_ids)
        if not eos:
            raise GrammarError(
                "structured output needs an end token, and the model's manifest names none "
                "(generation.eos_token_ids)"
            )
        try:
            self._tokenizer = llguidance.LLTokenizer(
                tokenizer.serialized, n_vocab=tokenizer.vocab_size, eos_token=eos
            )
        except ValueError as error:
            raise GrammarError(f"the tokenizer cannot be used for structured output: {error}") from error
        self._eos = frozenset(eos)
        self._compiled: OrderedDict[Grammar, Any] = OrderedDict()

    def compile(self, grammar: Grammar) -> Constraint:
        """Start a generation under `grammar`; the latest grammars stay compiled.

        Raises:
            GrammarError: the grammar cannot be compiled; carries the compiler's message.
        """
        compiled = self._compiled.pop(grammar, None) or self._compile(grammar)
        self._compiled[grammar] = compiled
        if len(self._compiled) > KEPT_GRAMMARS:
            self._compiled.popitem(last=False)
        return Constraint(compiled.deep_copy(), self._tokenizer.vocab_size, self._eos)

    def _compile(self, grammar: Grammar) -> Any:
        import llguidance

        matcher = llguidance.LLMatcher
        try:
            if grammar.kind == "json_schema":
                options: Any = {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"}
                source = matcher.grammar_from_json_schema(
                    grammar.source, overrides=options if grammar.compact else None
                )
            elif grammar.kind == "regex":
                source = matcher.grammar_from_regex(grammar.source)
            elif grammar.kind == "lark":
                source = matcher.grammar_from_lark(grammar.source)
            else:
                raise GrammarError(
                    f"unknown kind of grammar {grammar.kind!r}: use json_schema, regex or lark"
                )
        except ValueError as error:
            raise GrammarError(f"the {_NAMES[grammar.kind]} cannot be compiled: {error}") from error
        compiled = matcher(self._tokenizer, source, log_level=0)
        if compiled.is_error():
            raise GrammarError(
                f"the {_NAMES[grammar.kind]} cannot be compiled: {_message(compiled.get_error())}"
            )
        return compiled


class Constraint:
    """The state of one generation under a grammar."""

    def __init__(self, matcher: Any, vocab_size: int, eos: frozenset[int]) -> None:
        self._matcher, self._eos = matcher, eos
        self._words = np.zeros((vocab_size + 31) // 32, np.int32)

    def forced(self) -> list[int]:
        """Tokens that the grammar leaves no choice about; they count as consumed."""
        tokens = [int(token) for token in self._matcher.compute_ff_tokens()]
        # An end token is no text; the generation ends by `finished` instead.
        while tokens and tokens[-1] in self._eos:
            tokens.pop()
        if tokens and not self._matcher.consume_tokens(tokens):
            raise self._error()
        return tokens

    def mask(self) -> Mask:
        """The tokens that may come next; valid until the next call.

        Raises:
            GrammarError: the grammar became too complex to follow.
        """
        self._matcher.unsafe_compute_mask_ptr(self._words.ctypes.data, self._words.nbytes)
        if self._matcher.is_error():
            raise self._error()
        return Mask(self._words)

    def consume(self, token_id: int) -> None:
        """Take a chosen token.

        Raises:
            GrammarError: the grammar does not allow it.
        """
        if not self._matcher.consume_token(token_id):
            raise self._error()

    @property
    def finished(self) -> bool:
        """Whether nothing can follow."""
        return bool(self._matcher.is_stopped())

    @property
    def complete(self) -> bool:
        """Whether the text so far satisfies the grammar (more may still be allowed)."""
        return bool(self._matcher.is_accepting())

    def _error(self) -> GrammarError:
        return GrammarError(
            f"the grammar cannot be followed any further: {_message(self._matcher.get_error())}"
        )


_NAMES = {"json_schema": "JSON schema", "regex": "regular expression", "lark": "Lark grammar"}


def _message(text: str) -> str:
    return " ".join(text.split())[:400]
