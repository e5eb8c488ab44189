"""Chat templates: the jinja2 text that a checkpoint ships, rendered in a sandbox.

The conventions are those of Hugging Face ("Templates for chat models"): the variables `messages`, `tools`,
`documents`, `add_generation_prompt` and the special tokens; the functions `raise_exception` and
`strftime_now`; the filter `tojson` without HTML escaping; `{% generation %}` blocks; `break` and `continue`
in loops; blocks trimmed. A template is someone else's program: it runs in jinja2's immutable sandbox and sees
nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from edge_runtime.errors import ChatTemplateError
from offload.types import Message

__all__ = ["ChatTemplate"]

MAX_TEMPLATE_BYTES = 1 << 20


def _now() -> datetime:
    return datetime.now().astimezone()


class ChatTemplate:
    """A compiled chat template.

    Args:
        source: the jinja2 text.
        special_tokens: variables such as `bos_token` and `eos_token`.
        now: the clock behind `strftime_now`.

    Raises:
        ChatTemplateError: the text is not a template.
    """

    def __init__(
        self,
        source: str,
        *,
        special_tokens: Mapping[str, str] | None = None,
        now: Callable[[], datetime] = _now,
        origin: str = "chat_template.jinja",
    ) -> None:
        import jinja2

        self.source, self._origin = source, origin
        self._special = dict(special_tokens or {})
        environment = _environment()
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda pattern: now().strftime(pattern)
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise ChatTemplateError(f"{origin} is not a valid template: {error}") from error

    @classmethod
    def from_file(cls, path: Path, **fields: Any) -> ChatTemplate:
        """Read a template.

        Raises:
            ChatTemplateError: the file is missing, unreadable, too long or not a template; says what to do.
        """
        try:
            if path.stat().st_size > MAX_TEMPLATE_BYTES:
                raise ChatTemplateError(
                    f"{path} has {path.stat().st_size} bytes; a chat template may have {MAX_TEMPLATE_BYTES}"
                )
            source = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise missing(str(path.parent)) from None
        except (OSError, UnicodeDecodeError) as error:
            raise ChatTemplateError(f"{path} cannot be read: {error}") from error
        return cls(source, origin=str(path), **fields)

    def render(
        self,
        messages: Sequence[Message | Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> str:
        """The prompt as text, special tokens written out (encode it without adding any).

        Raises:
            ChatTemplateError: the template refuses the messages, or fails on them.
        """
        import jinja2

        turns = [_turn(message) for message in messages]
        if not turns:
            raise ChatTemplateError("there are no messages: give at least one with the role 'user'")
        try:
            text: str = self._template.render(
                messages=turns,
                add_generation_prompt=add_generation_prompt,
                tools=tools,
                documents=documents,
                **{**self._special, **variables},
            )
        except _RefusalError as error:
            raise ChatTemplateError(f"{self._origin} refuses these messages: {error}") from error
        except jinja2.TemplateError as error:
            raise ChatTemplateError(f"{self._origin} fails on these messages: {error}") from error
        except (
            TypeError,
            ValueError,
            KeyError,
            AttributeError,
            IndexError,
            OverflowError,
            RecursionError,
        ) as error:
            # Whatever a template's own expressions raise on unexpected messages.
            raise ChatTemplateError(
                f"{self._origin} fails on these messages: {type(error).__name__}: {error}"
            ) from error
        return text


def missing(where: str) -> ChatTemplateError:
    """The error of a package without a chat template."""
    return ChatTemplateError(
        f"the model package {where} has no chat_template.jinja, so messages cannot be turned into a prompt: "
        "give a raw prompt instead, or add chat_template.jinja to the checkpoint and quantize it again"
    )


class _RefusalError(Exception):
    """`raise_exception` was called by the template."""


def _refuse(message: object = "no reason given") -> str:
    raise _RefusalError(str(message))


def _turn(message: Message | Mapping[str, Any]) -> dict[str, Any]:
    turn = (
        {"role": message.role, "content": message.content} if isinstance(message, Message) else dict(message)
    )
    if "role" not in turn:
        raise ChatTemplateError(f"a message has no role: {sorted(turn)}; it needs 'role' and 'content'")
    return turn


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """jinja2's own `tojson` escapes for HTML, which no model was trained on."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _environment() -> Any:
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks what the assistant said, for training; here it is plain text."""

        tags = {"generation"}  # noqa: RUF012 - jinja2 wants a class attribute of this type

        def parse(self, parser: Parser) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    return environment
