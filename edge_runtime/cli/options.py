"""Options that the verbs which run a model share, and what they are turned into.

Knows: flags of models, sampling and structured output. Does not know: how a token is picked.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from edge_runtime.cli.output import current_config, status
from edge_runtime.errors import GrammarError
from edge_runtime.trust import signature_policy

if TYPE_CHECKING:
    from edge_runtime.grammar import Grammar
    from edge_runtime.model import LoadedModel
    from edge_runtime.runtime import Runtime

__all__ = [
    "SAMPLING",
    "constraint_options",
    "context_option",
    "from_file",
    "grammar_of",
    "messages_of",
    "model_options",
    "open_model",
    "open_runtime",
    "prompt_options",
    "sampling_of",
    "sampling_options",
]

F = TypeVar("F", bound=Callable[..., Any])

SAMPLING = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "max_tokens",
    "stop",
)
"""Parameters of `sampling_options`: the fields of `SamplingParams` that have a flag."""


def _all(*options: Callable[[F], F]) -> Callable[[F], F]:
    def add(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def _complete_model(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of packages for the shell; a path is completed as a file."""
    from model_zoo import list_packages

    names = [entry.name for entry in list_packages() if entry.name.startswith(incomplete)]
    return [CompletionItem(name) for name in names] or [CompletionItem(incomplete, type="file")]


def model_options(command: F) -> F:
    """`--model` and `--threads`."""
    return _all(
        click.option(
            "-m",
            "--model",
            default="pocket",
            metavar="NAME|PATH",
            shell_complete=_complete_model,
            help="Model package: a name of `edge-runtime models list`, a folder, or an .edge file.",
        ),
        click.option(
            "--threads",
            type=click.IntRange(1),
            help="Threads that compute. [default: as measured for this machine]",
        ),
    )(command)


def sampling_options(command: F) -> F:
    """How tokens are picked; an option that is not given is left to the package's own defaults."""
    return _all(
        click.option("--max-tokens", type=click.IntRange(1), help="Tokens generated at most."),
        click.option("--temperature", type=click.FloatRange(0), help="0 always takes the most likely token."),
        click.option(
            "--top-k", type=click.IntRange(0), help="Draw among the k most likely tokens; 0: no limit."
        ),
        click.option(
            "--top-p",
            type=click.FloatRange(0, 1, min_open=True),
            help="Draw among tokens that reach this probability.",
        ),
        click.option(
            "--min-p",
            type=click.FloatRange(0, 1),
            help="Draw among tokens this many times as likely as the likeliest.",
        ),
        click.option(
            "--repetition-penalty",
            type=click.FloatRange(0, 10, min_open=True),
            help="Above 1: tokens of the context become less likely.",
        ),
        click.option(
            "--presence-penalty",
            type=click.FloatRange(-2, 2),
            help="Taken from the logit of each generated token.",
        ),
        click.option(
            "--frequency-penalty",
            type=click.FloatRange(-2, 2),
            help="As above, times how often it was generated.",
        ),
        click.option("--seed", type=click.IntRange(0), help="Same seed, same text."),
        click.option(
            "--stop", multiple=True, metavar="TEXT", help="End before this text. May be given repeatedly."
        ),
    )(command)


def constraint_options(command: F) -> F:
    """`--schema`, `--regex` and `--grammar`: at most one of them."""
    file = click.Path(exists=True, dir_okay=False, path_type=Path)
    return _all(
        click.option("--schema", type=file, help="JSON schema that the answer must fit."),
        click.option("--regex", metavar="PATTERN", help="Regular expression that the answer must match."),
        click.option("--grammar", type=file, help="Lark grammar that the answer must follow."),
    )(command)


def context_option(command: F) -> F:
    """`--context KEY=VALUE`, passed as a mapping."""

    def parse(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
        pairs = [value.partition("=") for value in values]
        for key, sign, _ in pairs:
            if not sign or not key:
                raise click.BadParameter(
                    f"write KEY=VALUE, such as area=kitchen, not '{key}{sign}'", ctx, param
                )
        return {key: value for key, _, value in pairs}

    return click.option(
        "--context",
        multiple=True,
        callback=parse,
        metavar="KEY=VALUE",
        help="What the model is told of the situation, such as area=kitchen. May be given repeatedly.",
    )(command)


def prompt_options(command: F) -> F:
    """How the prompt is fed: `--overflow`, `--raw`, `--speculative`."""
    return _all(
        click.option(
            "--overflow",
            type=click.Choice(["error", "slide"]),
            default="error",
            help="When the context is full: end with an error, or drop the oldest tokens and go on.",
        ),
        click.option(
            "--raw", is_flag=True, help="Feed the prompt as it is, without the model's chat template."
        ),
        click.option(
            "--speculative",
            is_flag=True,
            help="Guess tokens from the prompt and verify several at once. The text is the same but for near "
            "ties that quantized arithmetic rounds differently.",
        ),
    )(command)


def messages_of(prompt: str, system: str | None, context: Mapping[str, str]) -> list[dict[str, str]]:
    """The conversation of one prompt. The context goes into a system message, a line `key: value` each."""
    lines = [*([system] if system else []), *(f"{key}: {value}" for key, value in context.items())]
    turns = [{"role": "system", "content": "\n".join(lines)}] if lines else []
    return [*turns, {"role": "user", "content": prompt}]


def sampling_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """The sampling parameters that the command line or its environment gives, by their field names.

    Those of the configuration file are left out: the runtime has them, and they give way to the context.
    """
    return {
        name: values[name] for name in SAMPLING if values.get(name) not in (None, ()) and not from_file(name)
    }


def from_file(parameter: str) -> bool:
    """Whether the running command's parameter has its value from the configuration file."""
    ctx = click.get_current_context(silent=True)
    return ctx is not None and ctx.get_parameter_source(parameter) is ParameterSource.DEFAULT_MAP


def grammar_of(schema: Path | None, regex: str | None, grammar: Path | None) -> Grammar | None:
    """The one constraint that was asked for.

    Raises:
        click.UsageError: more than one.
        GrammarError: a file cannot be read as text.
    """
    if sum(given is not None for given in (schema, regex, grammar)) > 1:
        raise click.UsageError("--schema, --regex and --grammar exclude one another: give one of them")
    from edge_runtime.grammar import Grammar

    if schema is not None:
        return Grammar.json_schema(_read(schema))
    if grammar is not None:
        return Grammar.lark(_read(grammar))
    return None if regex is None else Grammar.regex(regex)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise GrammarError(f"{path} is not UTF-8 text: byte {error.start} cannot be decoded") from error


def open_runtime(model: str, threads: int | None, environment: Mapping[str, str] = os.environ) -> Runtime:
    """Load a model, ready to answer with the settings of the configuration file; `threads` wins."""
    from edge_runtime.calibration import find_calibration
    from edge_runtime.routing import routing_of
    from edge_runtime.runtime import Runtime

    settings = current_config()
    routing = routing_of(settings)
    loaded = open_model(model, threads, environment)
    return Runtime(loaded, config=settings, calibration=find_calibration(loaded), routing=routing)


def open_model(model: str, threads: int | None, environment: Mapping[str, str] = os.environ) -> LoadedModel:
    """Load a model with the engine options of the configuration file; `threads` wins over them."""
    from edge_runtime.model import LoadedModel

    settings = current_config()
    options = settings.engine_options(environment)
    options.pop("threads", None)
    return LoadedModel.open(
        model,
        threads=threads,
        engine_options=options,
        signatures=signature_policy(settings, environment),
        warn=status,
        environ=environment,
    )
