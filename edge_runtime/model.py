"""A model package, opened: engine, tokenizer, chat template and grammars of one model, ready to generate."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from edge_runtime.chat_template import ChatTemplate, missing
from edge_runtime.engines.base import Engine
from edge_runtime.engines.tuning import SessionTuning
from edge_runtime.errors import ContextOverflowError, EngineError
from edge_runtime.generate import Chunk, Completion, collect, stream
from edge_runtime.grammar import Constraint, Grammar, GrammarCompiler
from edge_runtime.prefix_cache import PrefixCache, prefix_cache_budget
from edge_runtime.sampling import SamplingParams
from edge_runtime.speculative import Drafter, PromptLookup
from edge_runtime.tokenizer import Tokenizer
from edge_runtime.tokens import Overflow
from model_zoo import Lease, Manifest, Package, SignaturePolicy, SignatureState, open_package
from offload.types import Message

__all__ = ["LoadedModel", "open_engine"]

TOKENIZER_FILE = "tokenizer.json"
TEMPLATE_FILE = "chat_template.jinja"
GRAPH_FILE = "model.onnx"

_log = logging.getLogger(__name__)


class LoadedModel:
    """What generation needs of one model. Several threads may generate at once; each has its own KV state."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        *,
        chat_template: ChatTemplate | None = None,
        manifest: Manifest | None = None,
        path: Path | None = None,
        manifest_sha256: str | None = None,
        signature: SignatureState | None = None,
        lease: Lease | None = None,
        prefix_cache_bytes: int | None = None,
        load_s: float = 0.0,
    ) -> None:
        self.engine, self.tokenizer, self.chat_template = engine, tokenizer, chat_template
        self.manifest, self.path, self.manifest_sha256, self.load_s = manifest, path, manifest_sha256, load_s
        self.signature, self._lease = signature, lease
        kept = prefix_cache_budget() if prefix_cache_bytes is None else prefix_cache_bytes
        self.prefix_cache = PrefixCache(engine, max_bytes=kept)
        self._grammar_lock = threading.Lock()

    @classmethod
    def open(
        cls,
        package: Path | str | Package,
        *,
        threads: int | None = None,
        engine_options: Mapping[str, object] | None = None,
        prefix_cache_bytes: int | None = None,
        signatures: SignaturePolicy | None = None,
        warn: Callable[[str], None] = _log.warning,
        environ: Mapping[str, str] | None = None,
        now: Callable[[], datetime] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> LoadedModel:
        """Open a package by name, path or as `model_zoo.Package`; it is verified before anything of it is
        used.

        Args:
            threads: operator threads; `None` for this machine's default.
            engine_options: further fields of `SessionTuning`.
            prefix_cache_bytes: KV memory kept between queries; `None` for a sixteenth of the memory there is,
                at most 256 MiB.
            signatures: whose signature the package needs; by default anything but a bad one will do. A
                `model_zoo.Package` was judged by whoever opened it.
            warn: told what that policy has to say about a package that it lets pass.
            environ: where `EDGE_ENGINE_*` is read from; the process's environment by default.
            now: the clock that chat templates see.

        Raises:
            model_zoo.ModelZooError: no such package, it is damaged, or its signature will not do.
            TokenizerError, ChatTemplateError, EngineError: a part of it cannot be used.
        """
        started = clock()
        if isinstance(package, Package):
            opened = package
        else:
            policy = signatures if signatures is not None else SignaturePolicy()
            opened = open_package(package, policy=policy, in_use=True)
            warning = policy.warning(opened.signature, opened.manifest.id)
            if warning is not None:
                warn(warning)
        manifest = opened.manifest
        tuning = SessionTuning.choose(
            {"threads": threads, **(engine_options or {})}, environ=os.environ if environ is None else environ
        )
        generation = manifest.generation
        tokenizer = Tokenizer.from_file(
            opened.path / TOKENIZER_FILE,
            eos_ids=generation.eos_token_ids,
            bos_id=generation.bos_token_id,
            pad_id=generation.pad_token_id,
            vocab_size=manifest.vocab_size,
        )
        template = None
        if opened.has(TEMPLATE_FILE):
            ids = {
                "bos_token": generation.bos_token_id,
                "eos_token": next(iter(generation.eos_token_ids), None),
                "pad_token": generation.pad_token_id,
            }
            tokens = {name: token for name, i in ids.items() if (token := tokenizer.token(i)) is not None}
            clocks = {"now": now} if now is not None else {}
            template = ChatTemplate.from_file(opened.path / TEMPLATE_FILE, special_tokens=tokens, **clocks)
        engine = open_engine(opened, tuning)
        return cls(
            engine,
            tokenizer,
            chat_template=template,
            manifest=manifest,
            path=opened.path,
            manifest_sha256=opened.manifest_sha256,
            signature=opened.signature,
            lease=opened.lease,
            prefix_cache_bytes=prefix_cache_bytes,
            load_s=clock() - started,
        )

    @property
    def id(self) -> str:
        """The model's id."""
        return self.engine.info.model_id

    def sampling_defaults(self) -> dict[str, Any]:
        """The publisher's recommended sampling parameters, as far as this release knows them."""
        known = SamplingParams.__dataclass_fields__
        defaults = self.manifest.generation.defaults if self.manifest is not None else {}
        return {name: value for name, value in defaults.items() if name in known}

    def prompt(self, messages: Sequence[Message | Mapping[str, Any]], **variables: Any) -> list[int]:
        """Tokens of a conversation, through the chat template.

        Raises:
            ChatTemplateError: there is no template, or it refuses the messages.
        """
        if self.chat_template is None:
            raise missing(str(self.path or self.id))
        return self.tokenizer.encode(self.chat_template.render(messages, **variables))

    def fit(
        self, messages: Sequence[Message | Mapping[str, Any]], max_tokens: int | None = None, **variables: Any
    ) -> tuple[list[int], int]:
        """Like `prompt`, but leaves out the oldest turns until prompt and `max_tokens` fit (system messages
        stay).

        Returns:
            The tokens, and how many messages were left out.

        Raises:
            ContextOverflowError: not even the last message fits; names the numbers.
            ChatTemplateError: see `prompt`.
        """
        turns, dropped = list(messages), 0
        room = self.engine.info.context_length - (max_tokens or 1)
        while True:
            tokens = self.prompt(turns, **variables)
            if len(tokens) <= room:
                return tokens, dropped
            # A whole exchange at a time: up to the next user message, so that the roles still alternate.
            rest = [i for i, turn in enumerate(turns) if _role(turn) != "system"]
            users = [i for i in rest[1:] if _role(turns[i]) == "user"]
            if not users:
                raise ContextOverflowError(
                    f"the last message makes a prompt of {len(tokens)} tokens and {max_tokens or 1} are to "
                    f"be generated, but the context of model '{self.id}' is "
                    f"{self.engine.info.context_length} tokens: "
                    "shorten the message"
                )
            gone = [i for i in rest if i < users[0]]
            dropped += len(gone)
            turns = [turn for i, turn in enumerate(turns) if i not in gone]

    @cached_property
    def _grammars(self) -> GrammarCompiler:
        return GrammarCompiler(self.tokenizer)

    def constrain(self, grammar: Grammar | None) -> Constraint | None:
        """Compile a grammar for this model's tokens.

        Raises:
            GrammarError: it cannot be compiled.
        """
        if grammar is None:
            return None
        with self._grammar_lock:
            return self._grammars.compile(grammar)

    def stream(
        self,
        prompt: str | Sequence[int],
        params: SamplingParams | None = None,
        *,
        grammar: Grammar | None = None,
        speculative: bool | Drafter = False,
        overflow: Overflow = "error",
        keep: int = 0,
        cancelled: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> Iterator[Chunk]:
        """Text chunks after a raw prompt (text or tokens); see `edge_runtime.generate.stream`.

        What the prompt shares with earlier ones is taken from the prefix cache. `speculative` drafts tokens
        by prompt lookup, or with the given drafter.

        Raises:
            ContextOverflowError, GrammarError, EngineError: see `generate_tokens`.
        """
        tokens = (
            self.tokenizer.encode(prompt, add_special_tokens=True)
            if isinstance(prompt, str)
            else list(prompt)
        )
        if not tokens and self.tokenizer.bos_id is not None:
            tokens = [self.tokenizer.bos_id]
        drafter = PromptLookup() if speculative is True else speculative or None
        constraint = self.constrain(grammar)
        with self.prefix_cache.lease(tokens) as sequence:
            yield from stream(
                self.engine,
                self.tokenizer,
                tokens,
                params if params is not None else SamplingParams(**self.sampling_defaults()),
                sequence=sequence,
                constraint=constraint,
                drafter=drafter,
                overflow=overflow,
                keep=keep,
                cancelled=cancelled,
                clock=clock,
            )

    def generate(
        self, prompt: str | Sequence[int], params: SamplingParams | None = None, **options: Any
    ) -> Completion:
        """The whole text after a raw prompt; `options` are those of `stream`.

        Raises:
            ContextOverflowError, GrammarError, EngineError: see `generate_tokens`.
        """
        return collect(self.stream(prompt, params, **options))

    def close(self) -> None:
        """Give all memory back."""
        self.prefix_cache.clear()
        self.engine.close()
        if self._lease is not None:
            self._lease.close()

    def __enter__(self) -> LoadedModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_engine(package: Package, tuning: SessionTuning) -> Engine:
    """The engine that the package's manifest names.

    Raises:
        EngineError: this release has no such engine, or the model cannot be loaded.
    """
    manifest = package.manifest
    if manifest.engine != "onnx":
        raise EngineError(
            f"the model '{manifest.id}' needs the engine '{manifest.engine}', which this release does not "
            "have; it has: onnx"
        )
    facts: dict[str, Any] = {
        "model_id": manifest.id,
        "vocab_size": manifest.vocab_size,
        "context_length": manifest.context_length,
        "options": manifest.engine_options,
        "tuning": tuning,
    }
    kind = manifest.engine_options.get("graph")
    path = package.path / GRAPH_FILE
    if kind == "fused":
        from edge_runtime.engines.onnx import OnnxEngine

        return OnnxEngine.open(path, **facts)
    if kind == "generic":
        from edge_runtime.engines.onnx_generic import GenericOnnxEngine

        return GenericOnnxEngine.open(path, **facts)
    raise EngineError(
        f"the model '{manifest.id}' has a graph of kind {kind!r}; this release runs 'fused' and 'generic'"
    )


def _role(message: Message | Mapping[str, Any]) -> object:
    return message.role if isinstance(message, Message) else message.get("role")
