"""`Runtime`: a query goes in, an answer with evidence comes out.

The way of a query is laid out for what surrounds the device (residency, cache, confidence, router, courier);
here nobody else can be asked yet, so the router (`offload.router`) keeps every answer, and says of an unsure
one that it should have gone elsewhere; a policy that keeps no such answer has it refused, and no text is
given out. The confidence is a probability of being right where the model has a calibration; otherwise it has
a raw signal and the reason why there is no probability.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from edge_runtime.calibration import find_calibration
from edge_runtime.errors import ChatTemplateError, SamplingError
from edge_runtime.generate import Chunk, timings_of, usage_of
from edge_runtime.grammar import Grammar
from edge_runtime.model import LoadedModel
from edge_runtime.probing import ModelProber
from edge_runtime.routing import Routing, routing_of
from edge_runtime.sampling import SamplingParams
from edge_runtime.tokens import Overflow
from edge_runtime.trust import signature_policy
from model_zoo import Package
from offload.calibration import Calibration
from offload.confidence import not_whole, score
from offload.policy import State
from offload.probes import with_probes
from offload.router import decide
from offload.types import Answer, Message, Query

__all__ = ["AnswerStream", "Asked", "Runtime"]

Asked = Query | str | Sequence[Message | Mapping[str, Any]]
"""A query, the text of one user message, or a conversation."""

PROBE_TOKENS = 64
"""Tokens that an answer which is asked for again may have at least."""

_SAMPLING = tuple(f.name for f in fields(SamplingParams))
_GRAMMARS = ("json_schema", "regex", "lark")
_OTHER = ("grammar", "raw", "overflow", "speculative", *_GRAMMARS)


class _Settings(Protocol):
    @property
    def path(self) -> Path | None: ...

    def get(self, section: str, key: str) -> Any: ...

    def engine_options(self) -> dict[str, Any]: ...


def _new_id() -> str:
    return uuid.uuid4().hex


class Runtime:
    """One model that answers queries. Several threads may ask at once.

    Args:
        model: an opened model; the runtime closes it.
        config: settings (`edge_runtime.config.Config`); `None` for the defaults.
        wall_clock: Unix seconds, for `Answer.created_at`.
        clock: monotonic seconds, for timings.
        new_id: makes ids of answers and queries.
        calibration: what the model's evidence is worth (`edge_runtime.calibration.find_calibration`).
        routing: when an answer is kept (`edge_runtime.routing.routing_of`).
    """

    def __init__(
        self,
        model: LoadedModel,
        *,
        config: _Settings | None = None,
        wall_clock: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.perf_counter,
        new_id: Callable[[], str] = _new_id,
        calibration: Calibration | None = None,
        routing: Routing | None = None,
    ) -> None:
        self.model, self.calibration, self.routing = model, calibration, routing or Routing()
        self._config, self._wall_clock, self._clock, self._new_id = config, wall_clock, clock, new_id

    @classmethod
    def open(
        cls,
        model: str | Path | Package | None = None,
        *,
        config: _Settings | None = None,
        prefix_cache_bytes: int | None = None,
        wall_clock: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.perf_counter,
        new_id: Callable[[], str] = _new_id,
        **engine_options: Any,
    ) -> Runtime:
        """Open a model package: by argument, else the configured one, else the shipped one.

        Args:
            prefix_cache_bytes: KV memory kept between queries; see `LoadedModel.open`.
            engine_options: fields of `SessionTuning`, such as `threads`; `None` leaves one to the machine.

        Raises:
            model_zoo.ModelZooError: no such package, it is damaged, or its signature will not do.
            EdgeRuntimeError: a part of it cannot be used.
            offload.errors.CalibrationError: its calibration cannot be read or belongs to another model.
        """
        if config is None:
            from edge_runtime.config import defaults

            config = defaults()
        routing = routing_of(config)
        loaded = LoadedModel.open(
            model if model is not None else config.get("model", "name"),
            engine_options={**config.engine_options(), **engine_options},
            prefix_cache_bytes=prefix_cache_bytes,
            signatures=signature_policy(config),
            clock=clock,
        )
        calibration = find_calibration(loaded)
        return cls(
            loaded,
            config=config,
            wall_clock=wall_clock,
            clock=clock,
            new_id=new_id,
            calibration=calibration,
            routing=routing,
        )

    def answer(self, asked: Asked, **params: Any) -> Answer:
        """Answer a query.

        Args:
            params: fields of `SamplingParams`, and `grammar` (a `Grammar`) or one of `json_schema`, `regex`,
                `lark`; `raw=True` feeds a text as it is, without the chat template; `overflow` (`error` or
                `slide`); `speculative`; `cancelled` (a function that is asked between tokens). They win over
                the query's own.

        Raises:
            EdgeRuntimeError: a parameter, the template, the grammar, the context or the engine.
        """
        return self.stream(asked, **params).finish()

    def stream(
        self, asked: Asked, *, cancelled: Callable[[], bool] = lambda: False, **params: Any
    ) -> AnswerStream:
        """Like `answer`, but the text arrives in chunks; the answer is there when they have been read.

        Parameters are checked here; the work is done while the chunks are read.
        """
        query = self._query(asked)
        plan = self._plan(query, {**query.params, **params})
        chunks = self.model.stream(
            plan.prompt,
            plan.sampling,
            grammar=plan.grammar,
            speculative=plan.speculative,
            overflow=plan.overflow,
            keep=plan.keep,
            cancelled=cancelled,
            clock=self._clock,
        )
        return AnswerStream(self, query, chunks)

    def close(self) -> None:
        """Give all memory back."""
        self.model.close()

    def __enter__(self) -> Runtime:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _setting(self, section: str, key: str) -> Any:
        return None if self._config is None else self._config.get(section, key)

    def _query(self, asked: Asked) -> Query:
        if isinstance(asked, Query):
            return asked
        if isinstance(asked, str):
            return Query(id=self._new_id(), messages=(Message("user", asked),))
        messages = []
        for message in asked:
            if isinstance(message, Message):
                messages.append(message)
                continue
            missing = [name for name in ("role", "content") if name not in message]
            if missing:
                raise ChatTemplateError(
                    f"a message has no {missing[0]}: it has {sorted(message)} and needs role and content"
                )
            messages.append(Message(str(message["role"]), str(message["content"])))
        return Query(id=self._new_id(), messages=tuple(messages))

    def _plan(self, query: Query, params: dict[str, Any]) -> _Plan:
        for name in params:
            if name not in _SAMPLING and name not in _OTHER:
                raise SamplingError(
                    f"unknown parameter '{name}'; known ones: {', '.join(sorted((*_SAMPLING, *_OTHER)))}"
                )
        model, wanted = self.model, params.get("overflow") or "error"
        if wanted not in ("error", "slide"):
            raise SamplingError(f"overflow={wanted!r} is unknown: use 'error' or 'slide'")
        overflow: Overflow = "slide" if wanted == "slide" else "error"
        asked = {name: params[name] for name in _SAMPLING if params.get(name) is not None}
        configured = {
            name: value
            for name in ("max_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty")
            if (value := self._setting("model", name)) is not None
        }
        sampling = SamplingParams.from_mapping({**model.sampling_defaults(), **configured, **asked})
        messages, keep = self._messages(query), 0
        if params.get("raw"):
            text = "\n".join(message.content for message in query.messages)
            prompt = model.tokenizer.encode(text, add_special_tokens=True)
        elif overflow == "slide":
            prompt, _ = model.fit(messages, sampling.max_tokens if "max_tokens" in asked else None)
            keep = self._kept(messages, prompt)
        else:
            prompt = model.prompt(messages)
        if sampling.max_tokens is not None and "max_tokens" not in asked:
            # A limit that nobody asked for in this query gives way to the context.
            room = max(1, model.engine.info.context_length - len(prompt))
            changed = {name: getattr(sampling, name) for name in _SAMPLING} | {
                "max_tokens": min(room, sampling.max_tokens)
            }
            sampling = SamplingParams(**changed)
        return _Plan(prompt, sampling, _grammar(params), params.get("speculative") or False, overflow, keep)

    def _messages(self, query: Query) -> list[Message]:
        """The conversation, with the configured system message where it has none of its own."""
        messages = list(query.messages)
        system = self._setting("model", "system")
        if system and all(message.role != "system" for message in messages):
            messages.insert(0, Message("system", system))
        return messages

    def _kept(self, messages: Sequence[Message], prompt: Sequence[int]) -> int:
        """Tokens of the system messages at the head of the prompt, which a sliding window keeps."""
        system = [message for message in messages if message.role == "system"]
        if not system:
            return 0
        try:
            head = self.model.prompt(system, add_generation_prompt=False)
        except ChatTemplateError:
            return 0  # the template wants a user message: nothing can be told apart, so nothing is kept
        shared = 0
        while shared < min(len(head), len(prompt)) and head[shared] == prompt[shared]:
            shared += 1
        return shared

    def _finished(self, query: Query, text: str, last: Chunk, ttft_s: float, total_s: float) -> Answer:
        evidence = last.evidence
        if self.calibration is not None and self.calibration.probes and not_whole(evidence) is None:
            again = ModelProber(self.model, max(PROBE_TOKENS, 2 * evidence.n))
            turns = [{"role": turn.role, "content": turn.content} for turn in self._messages(query)]
            evidence = with_probes(evidence, self.calibration.probes, again, turns, text)
        confidence = score(evidence, self.calibration, text=text)
        world = State(self.routing.policy, confidence=confidence, preference=self.routing.prefer, text=text)
        decision = decide(query, evidence, world)
        refused = decision.action == "refuse"
        return Answer(
            id=query.id,
            text="" if refused else text,
            source="refused" if refused else "device",
            model_id=self.model.id,
            confidence=confidence,
            evidence=evidence,
            decision=decision,
            fallback=decision.fallback,
            usage=usage_of(last),
            timings={"load_s": self.model.load_s, "ttft_s": ttft_s, **timings_of(last), "total_s": total_s},
            created_at=self._wall_clock(),
        )


class AnswerStream(Iterator[Chunk]):
    """Chunks of one answer; `answer` is set once they have been read.

    Under a policy that refuses unsure answers the text comes with the last chunk: before it, nobody knows
    whether it may be given out.
    """

    def __init__(self, runtime: Runtime, query: Query, chunks: Iterator[Chunk]) -> None:
        self._runtime, self.query, self._chunks = runtime, query, chunks
        self._started = runtime._clock()
        self._first: float | None = None
        self._text: list[str] = []
        self.answer: Answer | None = None

    def __next__(self) -> Chunk:
        chunk = next(self._chunks)
        now = self._runtime._clock() - self._started
        if self._first is None:
            self._first = now
        self._text.append(chunk.text)
        if chunk.finish_reason is not None:
            self.answer = self._runtime._finished(self.query, "".join(self._text), chunk, self._first, now)
        if self._runtime.routing.policy.fallback == "refuse":
            return replace(chunk, text="" if self.answer is None else self.answer.text)
        return chunk

    def finish(self) -> Answer:
        """Read what is left, and return the answer."""
        for _ in self:
            pass
        if self.answer is None:
            raise ValueError("the stream was closed before its end: there is no answer")
        return self.answer

    def close(self) -> None:
        """Stop here: no further token is computed."""
        close = getattr(self._chunks, "close", None)
        if close is not None:
            close()


@dataclass(frozen=True, slots=True)
class _Plan:
    prompt: list[int]
    sampling: SamplingParams
    grammar: Grammar | None
    speculative: bool
    overflow: Overflow
    keep: int


def _grammar(params: Mapping[str, Any]) -> Grammar | None:
    given = [name for name in ("grammar", *_GRAMMARS) if params.get(name) is not None]
    if not given:
        return None
    if len(given) > 1:
        raise SamplingError(
            f"{' and '.join(given)} were given together: the output can follow one grammar only"
        )
    value = params[given[0]]
    if isinstance(value, Grammar):
        return value
    makers: dict[str, Callable[[Any], Grammar]] = {
        "json_schema": Grammar.json_schema,
        "regex": Grammar.regex,
        "lark": Grammar.lark,
    }
    if given[0] not in makers:
        raise SamplingError(f"grammar={value!r} is not a Grammar: give one, or json_schema, regex or lark")
    return makers[given[0]](value)
