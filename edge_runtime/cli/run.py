"""`edge-runtime run`: one prompt, one answer."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_runtime.cli import options
from edge_runtime.cli.output import ExitCode, echo_text, emit_json, json_option, status, stderr_is_terminal
from edge_runtime.cli.show import print_tokens, refusal, status_line

if TYPE_CHECKING:
    from offload.types import Answer, Token

__all__ = ["command"]


@click.command("run")
@click.argument("prompt", required=False)
@options.model_options
@click.option("--system", metavar="TEXT", help="System message.")
@options.context_option
@options.constraint_options
@options.sampling_options
@options.prompt_options
@click.option("--tokens", is_flag=True, help="Show every token with its log-probability, entropy and margin.")
@click.option(
    "-v", "--verbose", is_flag=True, help="Print the status line on stderr even when nobody is watching."
)
@json_option
def command(
    prompt: str | None,
    model: str,
    threads: int | None,
    system: str | None,
    context: dict[str, str],
    schema: Path | None,
    regex: str | None,
    grammar: Path | None,
    overflow: str,
    raw: bool,
    speculative: bool,
    tokens: bool,
    verbose: bool,
    as_json: bool,
    **sampling: Any,
) -> None:
    """Answer PROMPT on this device; without one, or with `-`, read it from standard input.

    The text is streamed to stdout. A status line on stderr says where the answer came from, how sure the
    model was of its tokens, and how fast it was. --json prints one JSON object: the fields of the answer.
    """
    messages = options.messages_of(
        read_prompt(prompt), None if options.from_file("system") else system, context
    )
    constraint = options.grammar_of(schema, regex, grammar)
    params = options.sampling_of(sampling)
    with options.open_runtime(model, threads) as runtime:
        stream = runtime.stream(
            messages, grammar=constraint, overflow=overflow, raw=raw, speculative=speculative, **params
        )
        seen: list[Token] = []
        for chunk in stream:
            seen.extend(chunk.tokens)
            if chunk.text and not as_json:
                echo_text(chunk.text)
        answer = stream.finish()
    if as_json:
        emit_json(_as_dict(answer, seen if tokens else None))
        return
    click.echo()
    if tokens:
        print_tokens(seen)
    if verbose or stderr_is_terminal():
        status(status_line(answer))
    if answer.source == "refused":
        status(refusal(answer))
        click.get_current_context().exit(ExitCode.FAILED)


def read_prompt(argument: str | None) -> str:
    """The prompt: the argument, or standard input without it or for `-`.

    Raises:
        click.UsageError: nothing was given, it is empty, or it is not UTF-8.
    """
    if argument is not None and argument != "-":
        text = argument
    else:
        if argument is None and sys.stdin.isatty():
            raise click.UsageError('no prompt: write edge-runtime run "…", or pipe a text into it')
        try:
            text = sys.stdin.buffer.read().decode("utf-8")
        except UnicodeDecodeError as error:
            raise click.UsageError(
                f"standard input is not UTF-8 text: byte {error.start} cannot be decoded"
            ) from None
    text = text.rstrip("\r\n")
    if not text.strip():
        raise click.UsageError("the prompt is empty")
    return text


def _as_dict(answer: Answer, tokens: list[Token] | None) -> dict[str, Any]:
    fields = answer.to_dict()
    return fields if tokens is None else {**fields, "tokens": [asdict(token) for token in tokens]}
